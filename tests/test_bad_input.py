"""Bad input: errors of the promised classes whose one line names the argument, what was found and what is allowed."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import factorq as fq
from factorq.constraints import Clustered, Quantized, Real, Sparse

W = np.random.default_rng(0).standard_normal((8, 12)).astype(np.float32)
W.setflags(write=False)
KERNEL = np.ones((4, 3, 3, 3), np.float32)
GRAM = np.eye(12)


def with_entry(value: float) -> np.ndarray:
    bad = W.copy()
    bad[3, 5] = value
    return bad


def skewed() -> np.ndarray:
    gram = np.eye(12)
    gram[0, 1] = 0.5
    return gram


def diagonal(value: float) -> np.ndarray:
    gram = np.eye(12)
    gram[2, 2] = value
    return gram


class Foreign:
    """An array of no library."""

    shape = (8, 12)
    dtype = np.dtype(np.float32)


Call = Callable[[], Any]
V, T = fq.ArgumentError, fq.ArgumentTypeError
BAD: dict[str, tuple[type[Exception], str, Call]] = {
    # W
    "1-D": (V, r"^W: found shape \(12,\)", lambda: fq.decompose(W[0], bits=4)),
    "0-D": (V, r"^W: found shape \(\)", lambda: fq.decompose(np.float32(1) + np.zeros(()), bits=4)),
    "empty": (V, r"^W: found shape \(0, 12\)", lambda: fq.decompose(W[:0], bits=4)),
    "integers": (T, r"^W: found dtype int64.*cast", lambda: fq.decompose(np.ones((3, 3), np.int64), bits=4)),
    "booleans": (T, r"^W: found dtype bool", lambda: fq.decompose(np.ones((3, 3), bool), bits=4)),
    "complex": (T, r"^W: found dtype complex64", lambda: fq.decompose(W.astype(np.complex64), bits=4)),
    "objects": (T, r"^W: found dtype object", lambda: fq.decompose(W.astype(object), bits=4)),
    "float8": (T, r"^W: found dtype float8_e4m3fn", lambda: fq.decompose(W.astype(ml_dtypes.float8_e4m3fn), bits=4)),
    "long double": (T, r"^W: found dtype (longdouble|float128)", lambda: fq.decompose(W.astype(np.longdouble), bits=4)),
    "list": (T, r"^W: found list.*numpy\.asarray", lambda: fq.decompose(W.tolist(), bits=4)),
    "None": (T, r"^W: found NoneType", lambda: fq.decompose(None, bits=4)),
    "foreign array": (T, r"^W: found Foreign", lambda: fq.decompose(Foreign(), bits=4)),
    "NaN": (V, r"^W: found 1 non-finite.*\(3, 5\)", lambda: fq.decompose(with_entry(np.nan), bits=4)),
    "inf": (V, r"^W: found 1 non-finite.*\(3, 5\)", lambda: fq.decompose(with_entry(np.inf), rank=2)),
    "-inf": (V, r"^W: found 1 non-finite", lambda: fq.decompose(with_entry(-np.inf), sparsity=0.5)),
    # rank
    "rank 0": (V, r"^rank: found 0", lambda: fq.decompose(W, rank=0)),
    "rank -1": (V, r"^rank: found -1", lambda: fq.decompose(W, rank=-1)),
    "rank 9 of 8": (V, r"^rank: found 9.*1 to 8", lambda: fq.decompose(W, rank=9)),
    "rank 2.5": (T, r"^rank: found 2\.5", lambda: fq.decompose(W, rank=2.5)),
    "rank True": (T, r"^rank: found True", lambda: fq.decompose(W, rank=True)),
    "rank text": (T, r"^rank: found '2'", lambda: fq.decompose(W, rank="2")),
    # bits
    "bits 0": (V, r"^bits: found 0", lambda: fq.decompose(W, bits=0)),
    "bits -4": (V, r"^bits: found -4", lambda: fq.decompose(W, bits=-4)),
    "bits 17": (V, r"^bits: found 17", lambda: fq.decompose(W, bits=17)),
    "bits 2.5": (T, r"^bits: found 2\.5", lambda: fq.decompose(W, bits=2.5, method="scalar")),
    "bits True": (T, r"^bits: found True", lambda: fq.decompose(W, bits=True)),
    "bits for factors that are not there": (V, r"^bits: found \(4, 4\)", lambda: fq.decompose(W, bits=(4, 4))),
    "bits of three factors": (V, r"^bits: found \(4, 4, 4\)", lambda: fq.decompose(W, rank=2, bits=(4, 4, 4))),
    "bits 0 of a factor": (V, r"^bits: found 0", lambda: fq.decompose(W, rank=2, bits=(4, 0))),
    # sparsity
    "sparsity 1": (V, r"^sparsity: found 1\.0", lambda: fq.decompose(W, sparsity=1.0)),
    "sparsity -0.1": (V, r"^sparsity: found -0\.1", lambda: fq.decompose(W, sparsity=-0.1)),
    "sparsity NaN": (V, r"^sparsity: found nan", lambda: fq.decompose(W, sparsity=float("nan"))),
    "sparsity text": (T, r"^sparsity: found 'half'", lambda: fq.decompose(W, bits=4, sparsity="half")),
    # gram
    "gram size": (V, r"^gram: found shape \(8, 8\).*\(12, 12\)", lambda: fq.decompose(W, bits=4, gram=np.eye(8))),
    "gram of a kernel": (V, r"^gram: .*\(27, 27\)", lambda: fq.decompose(KERNEL, bits=4, gram=np.eye(3))),
    "gram not square": (V, r"^gram: found shape", lambda: fq.decompose(W, bits=4, gram=np.ones((12, 11)))),
    "gram not symmetric": (V, r"^gram: .*symmetric", lambda: fq.decompose(W, bits=4, gram=skewed())),
    "gram negative": (V, r"^gram: .*-1", lambda: fq.decompose(W, rank=2, gram=diagonal(-1.0))),
    "gram NaN": (V, r"^gram: .*non-finite", lambda: fq.decompose(W, bits=4, gram=diagonal(np.nan))),
    "gram integers": (T, r"^gram: found dtype int64", lambda: fq.decompose(W, bits=4, gram=np.eye(12, dtype=int))),
    "gram list": (T, r"^gram: found list", lambda: fq.decompose(W, bits=4, gram=GRAM.tolist())),
    "gram of mixed positions": (
        V, r"^gram: .*quantized_sparse.*positions.*auto",
        lambda: fq.decompose(KERNEL, method=fq.QuantizedSparse(2, 4, 0.5, fold="positions"), gram=np.eye(27)),
    ),
    # method and the other keywords
    "nothing": (T, r"rank=64", lambda: fq.decompose(W)),
    "unknown id": (V, r"^method: .*'scaler'.*'scalar'", lambda: fq.decompose(W, bits=4, method="scaler")),
    "strange id": (V, r"^method: .*available are", lambda: fq.decompose(W, bits=4, method="zzzzzz")),
    "method of a wrong type": (T, r"^method: found int", lambda: fq.decompose(W, method=3)),
    "a method's class": (T, r"^method: found", lambda: fq.decompose(W, method=fq.Scalar)),
    "method and keywords": (V, r"^method: .*bits", lambda: fq.decompose(W, bits=4, method=fq.Scalar(bits=4))),
    "id without its settings": (T, r"^method 'svd'", lambda: fq.decompose(W, bits=4, method="svd")),
    "id with a foreign setting": (T, r"^method 'scalar'", lambda: fq.decompose(W, rank=4, bits=4, method="scalar")),
    "id alone": (V, r"^Scalar: ", lambda: fq.decompose(W, method="scalar")),
    "CP with a gram": (V, r"^gram: .*cp.*svd", lambda: fq.decompose(KERNEL, rank=2, gram=np.eye(27))),
    "CP of too many terms": (V, r"^rank: found 999 .*1 to 64", lambda: fq.decompose(KERNEL, rank=999)),
    "sparse PCA of too many": (V, r"^rank: found 9 .*QuantizedSparse", lambda: fq.decompose(W, rank=9, sparsity=0.5)),
    "CP of no rank": (V, r"^rank: found neither.*reduction", lambda: fq.decompose(W, bits=4, method="cp")),
    "store": (V, r"^store: found 'zip'.*'packed'.*'entropy'.*'xor'", lambda: fq.decompose(W, bits=4, store="zip")),
    "store 3": (V, r"^store: found 3", lambda: fq.decompose(W, bits=4, store=3)),
    "size and bits": (V, r"^bits_per_weight: .*bits", lambda: fq.decompose(W, bits=4, bits_per_weight=4.2)),
    "size 0": (V, r"^bits_per_weight: found 0", lambda: fq.decompose(W, bits_per_weight=0)),
    "size NaN": (V, r"^bits_per_weight: found nan", lambda: fq.decompose(W, bits_per_weight=float("nan"))),
    "size text": (T, r"^bits_per_weight: found '4'", lambda: fq.decompose(W, bits_per_weight="4")),
    "size out of reach": (V, r"^bits_per_weight: found 0\.01", lambda: fq.decompose(W, rank=2, bits_per_weight=0.01)),
    "rng text": (T, r"^rng: found str", lambda: fq.decompose(W, bits=4, rng="0")),
    "rng negative": (V, r"^rng: ", lambda: fq.decompose(W, bits=4, rng=-1)),
    "rng legacy": (T, r"^rng: found RandomState", lambda: fq.decompose(W, bits=4, rng=np.random.RandomState(0))),
    # settings of methods and constraints
    "Scalar of nothing": (V, r"^Scalar: ", lambda: fq.Scalar()),
    "group 0": (V, r"^group: found 0", lambda: fq.Scalar(bits=4, group=0)),
    "group 1.5": (T, r"^group: found 1\.5", lambda: fq.Scalar(bits=4, group=1.5)),
    "levels": (V, r"^levels: found 'log'", lambda: fq.Scalar(bits=4, levels="log")),
    "grid": (V, r"^grid: found 'round'", lambda: fq.Scalar(bits=4, grid="round")),
    "nf4 of 3 bits": (V, r"^levels: .*nf4", lambda: fq.Scalar(bits=3, levels="nf4")),
    "max_iter 0": (V, r"^max_iter: found 0", lambda: fq.SVD(rank=2, max_iter=0)),
    "tol -1": (V, r"^tol: found -1", lambda: fq.SVD(rank=2, tol=-1)),
    "fold": (
        V, r"^fold: found 'cols'.*'columns'",
        lambda: fq.decompose(W, method=fq.QuantizedSparse(2, 4, 0.5, fold="cols")),
    ),
    "fold that does not divide": (
        V, r"^fold: found 'inputs/5'.*divisor of 12",
        lambda: fq.decompose(W, method=fq.QuantizedSparse(2, 4, 0.5, fold="inputs/5")),
    ),
    "positions of a matrix": (
        V, r"^fold: found 'positions'.*'rows'",
        lambda: fq.decompose(W, method=fq.QuantizedSparse(2, 4, 0.5, fold="positions")),
    ),
    "fold of a wrong type": (T, r"^fold: found 3", lambda: fq.QuantizedSparse(2, 4, 0.5, fold=3)),
    "starts": (V, r"^starts: found 0.*1 to 64", lambda: fq.QuantizedSparse(2, 4, 0.5, starts=0)),
    "support": (V, r"^support: found 'rows'", lambda: fq.QuantizedSparse(2, 4, 0.5, support="rows")),
    "too sparse for a nonzero in each column": (
        V, r"^sparsity: found 0\.9.*at most 0\.5 .*column",
        lambda: fq.decompose(W, method=fq.QuantizedSparse(2, 4, 0.9, support="column")),
    ),
    "coded without a pair": (V, r"^bits: found 4 .*pair", lambda: fq.QuantizedSparse(2, 4, codes="trellis")),
    "coded and sparse": (
        V, r"^sparsity: found 0\.5 .*stored bits", lambda: fq.QuantizedSparse(2, (6, 2.0), 0.5, codes="trellis")
    ),
    "coded and overcomplete": (
        V, r"^rank: found 70.*1 to", lambda: fq.decompose(W, method=fq.QuantizedSparse(70, (6, 2.0), codes="trellis"))
    ),
    "the baseline with a newer setting": (
        V, r"^solver: .*coordinate", lambda: fq.QuantizedSparse(2, 4, solver="pgd", starts=2)
    ),
    "solver": (V, r"^solver: found 'magic'", lambda: fq.QuantizedSparse(2, 4, 0.5, solver="magic")),
    "quantized 17": (V, r"^bits: found 17", lambda: Quantized(17)),
    "axis 2": (V, r"^axis: found 2", lambda: Quantized(4, axis=2)),
    "real int8": (V, r"^dtype: found 'int8'", lambda: Real("int8")),
    "two grids": (V, r"^constraint: found Quantized & Clustered", lambda: Quantized(2) & Clustered(2)),
    "two masks": (V, r"^constraint: found Sparse & Sparse", lambda: Sparse(0.1) & Sparse(0.2)),
    # files
    "save no mapping": (T, r"^tensors: found list", lambda: fq.save("nowhere.safetensors", [W])),
}  # fmt: skip


@pytest.mark.parametrize(("kind", "message", "call"), BAD.values(), ids=list(BAD))
def test_bad_input(kind: type[Exception], message: str, call: Call) -> None:
    with pytest.raises(kind, match=message) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text
    assert isinstance(caught.value, fq.FactorqError)
    assert isinstance(caught.value, TypeError if kind is T else ValueError)
    assert len(text) < 500


def test_stacking_needs_methods() -> None:
    with pytest.raises(TypeError):
        fq.Scalar(bits=2) + 3


def test_a_rank_is_checked_in_every_term() -> None:
    with pytest.raises(fq.ArgumentError, match=r"^rank: found 9"):
        fq.decompose(W, method=fq.Scalar(bits=2) + fq.SVD(rank=9))


def test_libraries_do_not_mix() -> None:
    other = pytest.importorskip("array_api_strict", reason="array-api-strict is not installed")
    F = fq.decompose(W, bits=4)
    with pytest.raises(fq.ArgumentTypeError, match="one library"):
        F @ other.ones((12, 2), dtype=other.float32)


def test_nothing_is_changed_by_a_refusal() -> None:
    bad = with_entry(np.nan)
    before = bad.tobytes()
    with pytest.raises(fq.ArgumentError):
        fq.decompose(bad, bits=4)
    assert bad.tobytes() == before


def files(folder: Path) -> dict[str, Path]:
    good = folder / "good.safetensors"
    fq.save(good, {"w": fq.decompose(W, bits=4)})
    contents = {
        "truncated": good.read_bytes()[:-3],
        "empty": b"",
        "pickled": pickle.dumps({"w": W}),
        "text": b"hello, this is not a tensor file at all",
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return {"missing": folder / "missing", "directory": folder, **{name: folder / name for name in contents}}


def test_bad_files(tmp_path: Path) -> None:
    for name, path in files(tmp_path).items():
        with pytest.raises(fq.ArtifactError) as caught:
            fq.load(path)
        assert str(path) in str(caught.value), name
        assert "\n" not in str(caught.value)
        assert isinstance(caught.value, fq.FileAccessError) == (name in ("missing", "directory"))


def test_bad_outputs_leave_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "w.safetensors"
    fq.save(target, {"w": W})
    old = target.read_bytes()
    for tensors in ({"w": W, "v": "text"}, {"w": W, 3: W}, {"w": np.array(["x"])}):
        with pytest.raises(fq.FactorqError):
            fq.save(target, tensors)
        assert target.read_bytes() == old
    with pytest.raises(fq.FileAccessError):
        fq.save(tmp_path, {"w": W})
    with pytest.raises(fq.FileAccessError):
        fq.save(tmp_path / "none" / "w.safetensors", {"w": W})
    assert [p.name for p in tmp_path.iterdir()] == ["w.safetensors"]


def test_names_that_collide_with_buffers(tmp_path: Path) -> None:
    """A name may contain dots and even look like a buffer of another tensor: each comes back, or it is refused."""
    F = fq.decompose(W, bits=4, method="scalar")
    fq.save(tmp_path / "w", {"a": F, "a.b": F, "a.W.extra": W, "": W})
    loaded = fq.load(tmp_path / "w")
    assert set(loaded) == {"a", "a.b", "a.W.extra", ""}
    for tensors in ({"a": F, "a.W.codes": W}, {"": F}):
        with pytest.raises(fq.FactorqError):
            fq.save(tmp_path / "v", tensors)


def test_callback_is_told_the_progress() -> None:
    told: list[fq.Progress] = []
    F = fq.decompose(W, method=fq.SVD(rank=2, bits=3, max_iter=4, tol=0.0), callback=told.append)
    assert [p.step for p in told] == list(range(1, len(told) + 1))
    assert {p.steps for p in told} == {4}
    assert min(p.objective for p in told) == pytest.approx(F.relative_error, rel=1e-3)


def test_an_error_in_the_callback_passes_through() -> None:
    class StopNowError(Exception):
        pass

    def stop(progress: fq.Progress) -> None:
        raise StopNowError

    with pytest.raises(StopNowError):
        fq.decompose(W, rank=2, bits=3, sparsity=0.5, callback=stop)
