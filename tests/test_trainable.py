"""Factorizations as numbers to train: what is trained is what is stored."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import factorq as fq
from factorq.errors import ArgumentError, ArgumentTypeError


class HostOps:
    """NumPy as a framework without gradients."""

    xp = np

    @staticmethod
    def through(value: Any, x: Any) -> Any:
        return value

    @staticmethod
    def stopped(x: Any) -> Any:
        return x

    @staticmethod
    def cast(x: Any, dtype: str) -> Any:
        from factorq.arrays import FLOATS

        return x.astype(FLOATS[dtype])

    @staticmethod
    def host(function: Callable[[Any], Any], x: Any, adjoint: Any = None) -> Any:
        return function(x)


OPS = HostOps()

METHODS = {
    "grid": fq.Scalar(4, group=16),
    "asymmetric grid": fq.Scalar(3, group=16, grid="asymmetric"),
    "levels": fq.Scalar(3, levels="lloyd"),
    "nf4": fq.Scalar(4, group=32, levels="nf4"),
    "mask": fq.Scalar(3, group=16, sparsity=0.5),
    "pruned": fq.Scalar(None, sparsity=0.7),
    "vectors": fq.VectorQuantization(dim=4, codewords=8),
    "residual vectors": fq.VectorQuantization(dim=4, codewords=8, stages=2),
    "svd": fq.SVD(3),
    "svd, 4 bits": fq.SVD(3, bits=4),
    "sparse pca": fq.SparsePCA(3, sparsity=0.5),
    "quantized sparse": fq.QuantizedSparse(4, bits=3, sparsity=0.5),
    "cp": fq.CP(4),
    "cp of integers": fq.CP(4, bits=4),
    "trellis": fq.Trellis(2),
    "trellis of fixed rate": fq.Trellis(2, states=256, fixed_rate=True),
    "rotated": fq.Rotated(fq.Scalar(3, group=None)),
    "boolean": fq.BooleanPruning(0.5, bits=3),
    "flexor": fq.FleXOR(8, 10),
    "stacked": fq.SVD(2, bits=4) + fq.Scalar(2, group=16),
}


@pytest.fixture(params=METHODS, scope="module", name="F")
def factorization(request: pytest.FixtureRequest) -> fq.Factorization:
    W = np.random.default_rng(0).standard_normal((24, 48)).astype(np.float32)
    return fq.decompose(W, method=METHODS[request.param])


def dense(behind: fq.Trainable, parameters: dict[str, Any]) -> Any:
    return behind.form(OPS, parameters, behind.constants()).dense()


def test_at_first_the_value_is_what_is_stored(F: fq.Factorization) -> None:
    behind = fq.Trainable(F)
    np.testing.assert_allclose(dense(behind, behind.parameters()), F.to_dense(), rtol=1e-5, atol=1e-5)
    assert behind.factorization(behind.parameters()) is F


def test_training_starts_from_the_array_where_that_changes_nothing(F: fq.Factorization) -> None:
    W = np.random.default_rng(0).standard_normal((24, 48)).astype(np.float32)
    behind, plain = fq.Trainable(F, start=W), fq.Trainable(F)
    first = behind.parameters()
    np.testing.assert_allclose(dense(behind, first), F.to_dense(), rtol=1e-5, atol=1e-5)
    assert behind.factorization(first) is F
    moved = [k for k, x in plain.parameters().items() if not np.array_equal(first[k], x)]
    if F.method.id == "scalar" and len(first) > 1:  # one array of codes: most entries are next to their codes
        assert moved == ["W.values"]
        assert (first["W.values"] != plain.parameters()["W.values"]).mean() > 0.5


@pytest.mark.parametrize("share", [1e-3, 0.3])
def test_what_is_trained_is_what_is_stored(F: fq.Factorization, share: float) -> None:
    behind, rng = fq.Trainable(F), np.random.default_rng(1)
    first = behind.parameters()
    if not first:
        pytest.skip("nothing to train")
    moved = {k: x + share * x.std() * rng.standard_normal(x.shape).astype(x.dtype) for k, x in first.items()}
    moved |= {k: np.float32(1 + share * rng.random(x.shape)) for k, x in first.items() if k.endswith("scales")}
    G = behind.factorization(moved)
    assert np.isnan(G.relative_error)
    assert "moved by" in G.status
    value, stored = dense(behind, moved), G.to_dense()
    # An entry in the middle of two levels may go either way.
    off = np.abs(value - stored) > 1e-4 * np.abs(stored).max()
    assert off.mean() < 0.002, off.mean()
    kinds = {codec.id for codec in F.encoded.values()}
    if "path" in kinds:
        assert G.nbytes <= F.nbytes
    elif "entropy" in kinds:
        assert G.nbytes <= F.nbytes * 1.02
    else:
        assert G.nbytes == F.nbytes


def test_bad_parameters_are_refused() -> None:
    behind = fq.Trainable(fq.decompose(np.eye(4, 8, dtype=np.float32), method=fq.Scalar(2)))
    first = behind.parameters()
    for wrong, found in (
        ({}, "no 'W.values'"),
        ({**first, "W.values": np.zeros((2, 2), np.float32)}, r"shape \(2, 2\)"),
        ({**first, "W.values": np.full((4, 8), np.nan, np.float32)}, "not finite"),
    ):
        with pytest.raises(ArgumentError, match=found):
            behind.factorization(wrong)
    with pytest.raises(ArgumentTypeError, match="F: found ndarray"):
        fq.Trainable(np.eye(3))


def test_frozen_factors_have_nothing_to_train(F: fq.Factorization) -> None:
    behind = fq.Trainable(F, frozen=True)
    assert behind.parameters() == {}
    np.testing.assert_allclose(dense(behind, {}), F.to_dense(), rtol=1e-5, atol=1e-5)


def test_masks_are_selected_anew() -> None:
    W = np.random.default_rng(0).standard_normal((16, 32)).astype(np.float32)
    F = fq.decompose(W, bits=3, sparsity=0.75)
    behind = fq.Trainable(F, reselect=True)
    values = behind.parameters()["W.values"]
    place = np.unravel_index(np.flatnonzero(values == 0)[0], values.shape)
    values[place] = 2 * np.abs(values).max()
    G = behind.factorization({"W.values": values})
    assert G.to_dense()[place] != 0
    assert (G.to_dense() != 0).sum() == (F.to_dense() != 0).sum()
    np.testing.assert_allclose(dense(behind, {"W.values": values}), G.to_dense())


def test_transforms_start_from_the_array_too() -> None:
    rng = np.random.default_rng(0)
    mixing = rng.standard_normal((9, 9)) @ np.diag(0.5 ** np.arange(9))
    K = (rng.standard_normal((32, 32, 9)) @ mixing).astype(np.float32).reshape(32, 32, 3, 3)
    F = fq.decompose(K, method=fq.Trellis(2))
    assert any(codec.id == "rotation" for codec in F.encoded.values())
    plain, near = fq.Trainable(F).parameters(), fq.Trainable(F, start=K).parameters()
    shares = [float((near[name] != x).mean()) for name, x in plain.items()]
    assert max(shares) > 0.5
    behind = fq.Trainable(F, start=K)
    np.testing.assert_allclose(dense(behind, near), F.to_dense(), rtol=1e-4, atol=1e-4)


def test_sixteen_bits_have_no_level_beyond_the_last() -> None:
    W = np.random.default_rng(0).standard_normal((8, 16)).astype(np.float32)
    behind = fq.Trainable(fq.decompose(W, method=fq.Scalar(16)))
    moved = {k: 1.4 * x if k.endswith("values") else x for k, x in behind.parameters().items()}
    G = behind.factorization(moved)
    step = np.abs(G.to_dense()).max() / 2**15
    assert np.abs(dense(behind, moved) - G.to_dense()).max() < 0.5 * step


def test_half_precision_factors_grow_without_overflow() -> None:
    W = np.random.default_rng(0).standard_normal((8, 16)).astype(np.float16)
    F = fq.decompose(W, method=fq.SVD(3))
    behind = fq.Trainable(F)
    first = behind.parameters()
    moved = {"A.values": 14 * first["A.values"], "B.values": first["B.values"] / 32}
    G = behind.factorization(moved)
    assert G.nbytes == F.nbytes
    np.testing.assert_allclose(dense(behind, moved), np.asarray(G.form.dense()), rtol=1e-6, atol=1e-7)
