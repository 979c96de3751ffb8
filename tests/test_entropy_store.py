"""The entropy store: lossless on every codec and method, never larger, safe to read, through files and commands."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import CONSTRAINTS, METHODS, ConstraintCase, MethodCase, sample, weights
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import bits_of, stored
from safetensors.numpy import save_file

import factorq as fq
from factorq.checkpoint import compress
from factorq.cli import main
from factorq.codecs import Codebook, Dense, Encoded, Entropy, Grid, Mask, OneHot
from factorq.codecs.base import decode_config
from factorq.codecs.entropy import shrunk
from factorq.forms import CP, Chain, Fold, Folded, Leaf, Sum, Tucker
from factorq.measure import binary_entropy, empirical_entropy
from factorq.methods.base import mapped

GAUSSIAN = sample("gaussian", (64, 256), "float32", 0)
every_constraint = pytest.mark.parametrize("case", CONSTRAINTS.values(), ids=list(CONSTRAINTS))
every_method = pytest.mark.parametrize("case", METHODS.values(), ids=list(METHODS))


def contents(encoded: Encoded) -> dict[str, Any]:
    return {name: bits_of(array) for name, array in encoded.buffers().items()}


def grid(x: np.ndarray = GAUSSIAN, bits: int = 4, group: int = 128) -> Grid:
    return Grid.encode(x, bits=bits, group=group, axis=1, zero=(2**bits - 1) / 2)


def samples() -> dict[str, Encoded]:
    """One of each codec, of arrays on which entropy coding pays."""
    keep = np.random.default_rng(1).random((64, 256)) < np.repeat([0.02, 0.4], 32)[:, None]
    levels = np.sort(np.random.default_rng(2).standard_normal(32))
    return {
        "grid": grid(),
        "grid, 9 bits": grid(bits=9, group=64),
        "asymmetric grid": Grid.encode(GAUSSIAN, bits=4, group=32, axis=0, zero=None),
        "codebook": Codebook.encode(GAUSSIAN, bits=5, group=None, axis=None, levels=levels),
        "codebook, groups": Codebook.encode(GAUSSIAN, bits=4, group=64, axis=1, levels="nf4"),
        "onehot": OneHot.encode(np.minimum(np.random.default_rng(3).geometric(0.05, 5000), 300) - 1, 300),
        "mask": Mask.encode(keep, Grid.encode(GAUSSIAN[keep], bits=4, group=100, axis=None, zero=7.5)),
        "float32": Dense.encode(GAUSSIAN),
        "float64": Dense.encode(GAUSSIAN.astype(np.float64)),
        "bfloat16": Dense.encode(GAUSSIAN, stored="bfloat16"),
        "float16": Dense.encode(GAUSSIAN, stored="float16"),
    }


SAMPLES = samples()
every_codec = pytest.mark.parametrize("encoded", SAMPLES.values(), ids=list(SAMPLES))


# Codecs --------------------------------------------------------------------------------------------------------------


@every_codec
def test_every_codec_gets_smaller(encoded: Encoded) -> None:
    small = shrunk(encoded)
    assert isinstance(small, Entropy)
    assert small.nbytes == sum(array.nbytes for array in small.buffers().values()) < encoded.nbytes
    assert bits_of(small.decode()) == bits_of(encoded.decode())
    assert shrunk(small) is small
    assert contents(shrunk(encoded)) == contents(small)
    assert bits_of(pickle.loads(pickle.dumps(small)).decode()) == bits_of(encoded.decode())
    assert "entropy-coded" in repr(small)


@every_codec
def test_it_works_as_the_one_inside(encoded: Encoded) -> None:
    small = shrunk(encoded)
    assert (small.shape, small.dtype, small.size) == (encoded.shape, encoded.dtype, encoded.size)
    inside = small.restored()
    if not isinstance(encoded, Mask):
        assert (inside.config(), contents(inside)) == (encoded.config(), contents(encoded))
    x = encoded.decode()[::-1].copy()
    assert bits_of(small.nearest(x).decode()) == bits_of(encoded.nearest(x).decode())
    for a, b in zip(vars(small.points()).values(), vars(encoded.points()).values(), strict=True):
        assert (a is None) == (b is None)
        assert a is None or bits_of(a) == bits_of(b)
    if isinstance(encoded, Grid | Dense):
        again = small.reshaped((64, 16, 16))
        assert bits_of(again.decode()) == bits_of(encoded.decode().reshape(64, 16, 16))


@every_codec
def test_it_survives_its_description(encoded: Encoded) -> None:
    small = shrunk(encoded)
    again = decode_config(json.loads(json.dumps(small.config(), allow_nan=False)), small.buffers())
    assert isinstance(again, Entropy)
    assert (again.config(), contents(again), repr(again)) == (small.config(), contents(small), repr(small))
    assert bits_of(again.decode()) == bits_of(encoded.decode())


@every_constraint
@settings(max_examples=12)
@given(data=st.data())
def test_any_array(case: ConstraintCase, data: st.DataObject) -> None:
    """Whatever a constraint stores: the same bits in no more bytes."""
    encoded = case.constraint.encode(data.draw(weights(case.matrices_only, ("float32", "float64"))))
    small = shrunk(encoded)
    assert small is encoded or small.nbytes < encoded.nbytes
    assert bits_of(small.decode()) == bits_of(encoded.decode())


def test_nothing_to_gain() -> None:
    noise = np.random.default_rng(0).integers(0, 256, 4096).astype(np.uint8)
    encoded = Grid(
        shape=(4096,), dtype="float32", bits=8, group=None, axis=None, exponent=0, zero=0.0, codes=noise,
        scales=np.ones((1, 1), np.float16),
    )  # fmt: skip
    assert shrunk(encoded) is encoded
    assert shrunk(Dense.encode(np.zeros((0, 3), np.float32))).nbytes == 0


def test_size_is_the_entropy_of_the_codes() -> None:
    """Codes within 0.5 % of their entropy; a mask whose rows differ near the entropy of its rows."""
    x = np.random.default_rng(0).standard_normal((256, 1024)).astype(np.float32)
    encoded = grid(x)
    codes = np.stack([encoded.codes & 15, encoded.codes >> 4], axis=1).reshape(-1)
    small = shrunk(encoded)
    assert isinstance(small, Entropy)
    assert small.parts["codes"].nbytes <= 1.005 * codes.size * empirical_entropy(codes) / 8
    assert small.parts["scales"].nbytes < 0.8 * encoded.scales.nbytes
    density = np.repeat([0.01, 0.3], 128)
    keep = np.random.default_rng(1).random((256, 1024)) < density[:, None]
    mask = Mask.encode(keep, Dense.encode(x[keep]))
    positions = shrunk(mask).buffers()["positions"].nbytes
    rows = sum(1024 * binary_entropy(p) / 8 for p in density)
    assert positions < 1.02 * rows
    assert positions < 0.85 * keep.size * binary_entropy(float(keep.mean())) / 8


# Damage --------------------------------------------------------------------------------------------------------------


@settings(max_examples=80)
@given(data=st.data(), name=st.sampled_from(list(SAMPLES)))
def test_flipped_bytes(data: st.DataObject, name: str) -> None:
    small = shrunk(SAMPLES[name])
    buffers = {key: array.copy() for key, array in small.buffers().items()}
    for _ in range(data.draw(st.integers(1, 3))):
        raw = buffers[data.draw(st.sampled_from(list(buffers)))].reshape(-1).view(np.uint8)
        raw[data.draw(st.integers(0, min(raw.size - 1, data.draw(st.sampled_from((9, 10**9))))))] ^= data.draw(
            st.integers(1, 255)
        )
    try:
        with np.errstate(all="ignore"):
            decoded = decode_config(small.config(), buffers).decode()
    except fq.ArtifactError:
        return
    assert (decoded.shape, decoded.dtype) == (small.shape, small.decode().dtype)


def changed(small: Entropy, **change: Any) -> dict[str, Any]:
    config = json.loads(json.dumps(small.config()))
    name, dtype, shape, bits, size, columns = config["coded"][0]
    part = {"name": name, "dtype": dtype, "shape": shape, "bits": bits, "size": size, "columns": columns}
    config["coded"][0] = list((part | {k: v for k, v in change.items() if k in part}).values())
    return config | {k: v for k, v in change.items() if k not in part}


HOSTILE: dict[str, dict[str, Any]] = {
    "no such buffer": {"name": "nothing"},
    "not a stream": {"name": "levels"},
    "unknown dtype": {"dtype": "int64"},
    "negative size": {"size": -1},
    "huge": {"size": 1 << 60, "shape": [1 << 59]},
    "too large for memory": {"size": 1 << 47, "shape": [1 << 46]},
    "size that does not fill": {"size": 16000},
    "no bits": {"bits": 0},
    "columns of 0": {"columns": [0]},
    "columns that do not divide": {"columns": [7]},
    "many columns": {"columns": [2, 4, 8, 16, 32]},
    "columns that are no numbers": {"columns": ["2"]},
    "another shape": {"shape": [64, 128]},
    "another array": {"shape": 5},
    "not coded": {"coded": []},
    "coded is no list": {"coded": 3},
    "inside itself": {"inner": {"id": "entropy"}},
    "nothing inside": {"inner": None},
    "unknown codec": {"inner": {"id": "nonsense"}},
    "wrong dtype": {"dtype_of_array": "float64"},
}


@pytest.mark.parametrize("change", HOSTILE.values(), ids=list(HOSTILE))
def test_hostile_descriptions(change: dict[str, Any]) -> None:
    small = shrunk(SAMPLES["grid"])
    assert isinstance(small, Entropy)
    config = changed(small, **change)
    if "dtype_of_array" in config:
        config["dtype"] = config.pop("dtype_of_array")
    with pytest.raises(fq.ArtifactError):
        decode_config(config, small.buffers()).decode()


# The front door ------------------------------------------------------------------------------------------------------


@every_method
@settings(max_examples=3)
@given(W=weights())
def test_every_method(case: MethodCase, W: np.ndarray) -> None:
    """The same array, error and status as the packed store, in at most its bytes; the plan's size is a bound."""
    method = case.on(W.shape)
    F, G = (fq.decompose(W, method=method, store=store) for store in ("packed", "entropy"))
    assert bits_of(G.to_dense()) == bits_of(F.to_dense())
    assert (G.relative_error, G.status, G.history) == (F.relative_error, F.status, F.history)
    assert G.nbytes == sum(array.nbytes for array in G.buffers().values()) <= F.nbytes
    assert G.nbytes <= fq.explain(W, method=method, store="entropy").nbytes
    assert stored(fq.decompose(W, method=method)) == stored({"packed": F, "entropy": G}[method.store])


def test_files(tmp_path: Path) -> None:
    F = fq.decompose(GAUSSIAN, rank=8, bits=5, sparsity=0.6, store="entropy")
    assert any(isinstance(factor, Entropy) for factor in F.encoded.values())
    fq.save(tmp_path / "w.safetensors", {"w": F})
    G = fq.load(tmp_path / "w.safetensors")["w"]
    assert isinstance(G, fq.Factorization)
    assert stored(G) == stored(F)
    assert bits_of(G.to_dense()) == bits_of(F.to_dense())
    assert (G.nbytes, G.record(), repr(G)) == (F.nbytes, F.record(), repr(F))
    np.testing.assert_allclose(
        F @ np.ones(256, "float32"), F.to_dense() @ np.ones(256, "float32"), rtol=1e-3, atol=1e-3
    )


@pytest.mark.parametrize("target", [2.0, 3.2, 4.3])
def test_target_size_is_met_by_what_is_coded(target: float) -> None:
    """What coding saves is spent: as near to the target as packed codes, with less error."""
    W = sample("gaussian", (128, 256), "float32", 1)
    F, G = (fq.decompose(W, method="scalar", bits_per_weight=target, store=s) for s in ("packed", "entropy"))
    assert 0.98 * target <= G.bits_per_weight <= target
    assert G.relative_error < F.relative_error


def test_the_plan_says_so() -> None:
    assert "entropy-coded" in fq.explain(GAUSSIAN, bits=4, store="entropy").reason
    assert "entropy-coded" not in fq.explain(GAUSSIAN, bits=4).reason
    with pytest.raises(fq.ArgumentError, match=r"^store: found 'zip'"):
        fq.explain(GAUSSIAN, bits=4, store="zip")


def test_every_form_is_mapped() -> None:
    leaf = Leaf(SAMPLES["grid"])
    small, row = Leaf(Dense.encode(np.ones((256, 3), np.float32))), Leaf(Dense.encode(np.ones((1, 3), np.float32)))
    tall = Leaf(Dense.encode(np.ones((64, 3), np.float32)))
    core = Leaf(Dense.encode(np.ones((3, 3), np.float32)))
    forms = (
        leaf, Chain(leaf, small), Sum((leaf, leaf)), CP(row, (tall, small)), Tucker(core, (tall, small)),
        Folded(leaf, Fold.transposed((256, 64))),
    )  # fmt: skip
    for form in forms:
        again = mapped(form, shrunk)
        assert again.skeleton() == form.skeleton()
        assert list(again.leaves()) == list(form.leaves())
        assert bits_of(again.dense()) == bits_of(form.dense())
        pairs = zip(again.leaves().values(), form.leaves().values(), strict=True)
        assert all(type(a.factor) is type(shrunk(b.factor)) for a, b in pairs)


def test_checkpoints(tmp_path: Path) -> None:
    source, rng = tmp_path / "in.safetensors", np.random.default_rng(0)
    save_file({"fc": rng.standard_normal((64, 256)).astype("f4"), "conv": rng.standard_normal((32, 16, 3, 3))}, source)
    packed = compress(source, tmp_path / "packed.safetensors", bits=4, method="scalar")
    small = compress(source, tmp_path / "small.safetensors", bits=4, method="scalar", store="entropy")
    grouped = compress(source, tmp_path / "grouped.safetensors", bits=4, method="scalar", group=64, store="entropy")
    assert small.file_nbytes < packed.file_nbytes
    assert small.bits_per_weight < packed.bits_per_weight - 0.2
    assert grouped.bits_per_weight < 4.25
    for name, F in fq.load(tmp_path / "packed.safetensors").items():
        assert bits_of(fq.load(tmp_path / "small.safetensors")[name].to_dense()) == bits_of(F.to_dense())
    with pytest.raises(fq.ArgumentError, match=r"^store: "):
        compress(source, tmp_path / "x.safetensors", bits=4, store="zip")
    arguments = ["compress", str(source), "-o", str(tmp_path / "cli.safetensors"), "--bits", "4", "--method", "scalar"]
    assert CliRunner().invoke(main, [*arguments, "--store", "entropy"]).exit_code == 0
    assert (tmp_path / "cli.safetensors").read_bytes() == (tmp_path / "small.safetensors").read_bytes()
