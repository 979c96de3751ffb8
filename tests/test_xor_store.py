"""The XOR store: lossless on every codec and method with a mask, bounded in size, safe to read; files, commands."""

from __future__ import annotations

import json
import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import METHODS, sample, weights
from click.testing import CliRunner
from fuzz_artifact import fuzz
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import bits_of, stored
from safetensors.numpy import save_file

import factorq as fq
from factorq.checkpoint import compress
from factorq.cli import main
from factorq.codecs import Codebook, Dense, Encoded, Grid, Mask, Xor
from factorq.codecs.base import decode_config
from factorq.codecs.entropy import shrunk
from factorq.codecs.xor import Coded
from factorq.codecs.xor.store import xored

GAUSSIAN = sample("gaussian", (128, 512), "float32", 0)
KEEP = np.random.default_rng(1).random(GAUSSIAN.shape) < 0.2
ROW_MASKS = np.repeat(np.random.default_rng(2).permutation(128) < 4, 512).reshape(128, 512)  # 4 of the rows are kept
MASKED = [name for name in METHODS if any(word in name for word in ("sparse", "masked", "pruned", "boolean"))]
every_method = pytest.mark.parametrize("name", [*MASKED, "scalar 4", "svd 4 bits", "cp + scalar"])


def grid(x: np.ndarray, bits: int = 4, group: int | None = 100, zero: float | None = 7.5) -> Grid:
    return Grid.encode(x, bits=bits, group=group, axis=None, zero=zero)


def samples() -> dict[str, Mask]:
    """Masks around one of each codec that they are used with."""
    kept, levels = GAUSSIAN[KEEP], np.sort(np.random.default_rng(2).standard_normal(32))
    cube, first = KEEP.reshape(16, 16, 256), (np.arange(KEEP.size) < 4096).reshape(KEEP.shape)
    return {
        "grid": Mask.encode(KEEP, grid(kept)),
        "grid, 1 bit": Mask.encode(KEEP, grid(kept, 1, None, 0.5)),
        "grid, 9 bits": Mask.encode(KEEP, grid(kept, 9, 64, 255.5)),
        "asymmetric grid": Mask.encode(KEEP, grid(kept, 3, 32, None)),
        "a scale for each": Mask.encode(KEEP, grid(kept, 4, 1)),
        "codebook": Mask.encode(KEEP, Codebook.encode(kept, bits=5, group=None, axis=None, levels=levels)),
        "as many levels": Mask.encode(first, Codebook.encode(
            GAUSSIAN[first], bits=12, group=None, axis=None, levels=np.linspace(-3, 3, 4096))),
        "codebook, groups": Mask.encode(KEEP, Codebook.encode(kept, bits=4, group=64, axis=None, levels="nf4")),
        "float32": Mask.encode(KEEP, Dense.encode(kept)),
        "float64": Mask.encode(KEEP, Dense.encode(kept.astype(np.float64))),
        "bfloat16": Mask.encode(KEEP, Dense.encode(kept, stored="bfloat16")),
        "float16": Mask.encode(KEEP, Dense.encode(kept, stored="float16")),
        "cube": Mask.encode(cube, grid(GAUSSIAN.reshape(cube.shape)[cube])),
        "rows": Mask.encode(ROW_MASKS, grid(GAUSSIAN[ROW_MASKS])),
        "all kept": Mask.encode(KEEP | True, grid(GAUSSIAN.reshape(-1))),
    }  # fmt: skip


SAMPLES = samples()
every_codec = pytest.mark.parametrize("encoded", SAMPLES.values(), ids=list(SAMPLES))


def contents(encoded: Encoded) -> dict[str, Any]:
    return {name: bits_of(array) for name, array in encoded.buffers().items()}


# Codecs ---------------------------------------------------------------------------------------------------------------


@every_codec
def test_the_same_array(encoded: Mask) -> None:
    small = xored(encoded)
    assert isinstance(small, Xor)
    assert bits_of(small.decode()) == bits_of(encoded.decode())
    assert (small.shape, small.dtype, small.size) == (encoded.shape, encoded.dtype, encoded.size)
    assert small.nbytes == sum(array.nbytes for array in small.buffers().values()) <= Xor.bound(encoded.nbytes)
    assert contents(xored(encoded)) == contents(small)
    assert bits_of(pickle.loads(pickle.dumps(small)).decode()) == bits_of(encoded.decode())
    assert xored(small) is small
    assert "XOR-coded" in repr(small)
    inside = small.restored()
    assert isinstance(inside, type(encoded.smallest()))
    assert contents(inside) == contents(encoded.smallest())


def test_few_codes_stay_packed() -> None:
    """Their stream would be larger by its header."""
    few = Mask.encode(np.arange(99) == 5, grid(np.ones(1, np.float32)))
    assert xored(few) is few


@every_codec
def test_only_codes_are_coded(encoded: Mask) -> None:
    """One buffer: the codes of the kept entries; masks, scales and levels stay as they are."""
    small = xored(encoded)
    assert isinstance(small, Xor)
    names = [name for name, _, _ in small.coded]
    assert names in (["inner.codes"], ["inner.values"], [])
    for name, array in encoded.smallest().buffers().items():
        if name not in names:
            assert bits_of(small.parts[name]) == bits_of(array)


@every_codec
def test_it_works_as_the_one_inside(encoded: Mask) -> None:
    small = xored(encoded)
    x = encoded.decode()[::-1].copy()
    assert bits_of(small.nearest(x).decode()) == bits_of(encoded.nearest(x).decode())
    assert isinstance(small.nearest(x), Xor)
    for a, b in zip(vars(small.points()).values(), vars(encoded.points()).values(), strict=True):
        assert (a is None) == (b is None)
        assert a is None or bits_of(a) == bits_of(b)
    shape = (encoded.shape[0], 1, encoded.size // encoded.shape[0])
    assert bits_of(small.reshaped(shape).decode()) == bits_of(encoded.decode().reshape(shape))


@every_codec
def test_it_survives_its_description(encoded: Mask) -> None:
    small = xored(encoded)
    again = decode_config(json.loads(json.dumps(small.config(), allow_nan=False)), small.buffers())
    assert isinstance(again, Xor)
    assert (again.config(), contents(again), repr(again)) == (small.config(), contents(small), repr(small))
    assert bits_of(again.decode()) == bits_of(encoded.decode())


def test_what_has_no_mask_stays() -> None:
    for plain in (grid(GAUSSIAN.reshape(-1)), Dense.encode(GAUSSIAN), shrunk(SAMPLES["grid"])):
        assert xored(plain) is plain
    empty = Mask.encode(KEEP & False, Dense.encode(np.zeros(0, np.float32)))
    assert xored(empty) is empty


def codes_nbytes(encoded: Encoded) -> int:
    return encoded.buffers()["inner.codes"].nbytes


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_sizes_of_codes(bits: int) -> None:
    """About one bit per bit where the mask is even; where it is not, positions are shuffled."""
    rng = np.random.default_rng(0)
    even, clustered = rng.random((300, 1000)) < 0.1, np.zeros((300, 1000), bool)
    clustered[rng.permutation(300)[:30]] = True
    for keep, most in ((even, 1.03), (clustered, 1.1)):
        codes = rng.integers(0, 1 << bits, int(keep.sum())).astype(np.float32)
        packed = Mask.encode(keep, grid(codes, bits, None, 0.0))
        small = xored(packed)
        assert codes_nbytes(packed) <= codes_nbytes(small) < most * codes_nbytes(packed)
        read = Coded(small.buffers()["inner.codes"], keep)
        assert read.efficiency > 0.998
        shuffled = keep is clustered
        if shuffled:
            with pytest.raises(fq.ArgumentError, match="permuted positions"):
                read.read(0, 10)
        else:
            assert read.read(0, 10).shape == (10,)


# The front door -------------------------------------------------------------------------------------------------------


def same(W: np.ndarray, method: fq.Method) -> fq.Factorization:
    """The XOR store's result, which is what the packed one stands for."""
    F, G = (fq.decompose(W, method=method, store=store) for store in ("packed", "xor"))
    assert bits_of(G.to_dense()) == bits_of(F.to_dense())
    assert (G.relative_error, G.history) == (F.relative_error, F.history)
    assert G.status.startswith(F.status)
    assert G.nbytes == sum(array.nbytes for array in G.buffers().values())
    assert G.nbytes <= fq.explain(W, method=method, store="xor").nbytes
    return G


@every_method
@settings(max_examples=2)
@given(W=weights())
def test_every_method(name: str, W: np.ndarray) -> None:
    case = METHODS[name]
    G = same(W, case.on(W.shape))
    if not any(isinstance(factor, Xor) for factor in G.encoded.values()):
        assert stored(G) == stored(fq.decompose(W, method=case.on(W.shape), store="packed"))


@pytest.mark.parametrize("bits", range(1, 9))
def test_every_number_of_bits(bits: int) -> None:
    for options in ({"group": 64}, {"group": None}, {"group": 1}, {"levels": "lloyd", "group": 64}):
        F = same(GAUSSIAN, fq.Scalar(bits=bits, sparsity=0.8, **options))
        (encoded,) = F.encoded.values()
        assert isinstance(encoded, Xor)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_pruned_floats(dtype: str) -> None:
    W = sample("gaussian", (80, 200), dtype, 2)
    F = same(W, fq.Scalar(sparsity=0.9))
    (encoded,) = F.encoded.values()
    assert isinstance(encoded, Xor)
    assert [part[1:] for part in encoded.coded] == [(dtype, 8 * W.dtype.itemsize)]
    assert F.nbytes < fq.decompose(W, sparsity=0.9, store="packed").nbytes  # exponents are entropy-coded


def test_other_methods() -> None:
    tensor = sample("gaussian", (48, 32, 3, 3), "float32", 3)
    masked, plain = fq.Scalar(bits=2, sparsity=0.7), fq.SVD(rank=2, bits=4, max_iter=2)
    for W, method in (
        (GAUSSIAN, fq.QuantizedSparse(rank=32, bits=6, sparsity=0.5, max_iter=3)),
        (GAUSSIAN, fq.SparsePCA(rank=24, sparsity=0.7, max_iter=3)),
        (GAUSSIAN, plain + masked),
        (GAUSSIAN, masked + masked + masked),
        (tensor, masked),
        (tensor, fq.QuantizedSparse(rank=24, bits=8, sparsity=0.3, max_iter=3)),
        (np.asfortranarray(GAUSSIAN)[::2], masked),
    ):
        assert any(isinstance(factor, Xor) for factor in same(W, method).encoded.values())
    assert stored(same(GAUSSIAN, plain)) == stored(fq.decompose(GAUSSIAN, method=plain))
    for shape in ((1, 1), (1, 7), (7, 1), (2, 2), (3, 5)):
        same(sample("gaussian", shape, "float32", 4), masked)
        same(np.zeros(shape, np.float32), masked)


def test_many_terms_stay_under_the_bound() -> None:
    """The head of a stream counts once for each of them."""
    term = fq.Scalar(bits=1, sparsity=0.9, group=None)
    method = term
    for _ in range(19):
        method = method + term
    same(sample("gaussian", (6, 11), "float32", 1), method)


def test_the_plan_says_so() -> None:
    plan = fq.explain(GAUSSIAN, bits=4, sparsity=0.9, store="xor")
    assert "XOR-coded" in plan.reason
    assert plan.nbytes > fq.explain(GAUSSIAN, bits=4, sparsity=0.9).nbytes
    assert "XOR" not in fq.explain(GAUSSIAN, bits=4, sparsity=0.9).reason


@pytest.mark.parametrize("target", [1.3, 1.9])
def test_target_size(target: float) -> None:
    W = sample("gaussian", (128, 512), "float32", 1)
    F = fq.decompose(W, method="scalar", sparsity=0.8, bits_per_weight=target, store="xor")
    assert F.bits_per_weight <= target
    assert F.relative_error < 0.9


def test_files(tmp_path: Path) -> None:
    F = fq.decompose(GAUSSIAN, rank=24, bits=5, sparsity=0.6, store="xor")
    P = fq.decompose(GAUSSIAN, sparsity=0.9, store="xor")
    assert any(isinstance(factor, Xor) for factor in F.encoded.values())
    fq.save(tmp_path / "w.safetensors", {"w": F, "p": P})
    for name, kept in (("w", F), ("p", P)):
        G = fq.load(tmp_path / "w.safetensors")[name]
        assert isinstance(G, fq.Factorization)
        assert stored(G) == stored(kept)
        assert bits_of(G.to_dense()) == bits_of(kept.to_dense())
        assert (G.nbytes, G.record(), repr(G)) == (kept.nbytes, kept.record(), repr(kept))
        x = np.ones(512, "float32")
        np.testing.assert_allclose(G @ x, kept.to_dense() @ x, rtol=1e-3, atol=1e-3)


def test_checkpoints_and_the_command_line(tmp_path: Path) -> None:
    source, rng = tmp_path / "in.safetensors", np.random.default_rng(0)
    save_file({"fc": rng.standard_normal((64, 256)).astype("f4"), "conv": rng.standard_normal((32, 16, 3, 3))}, source)
    compress(source, tmp_path / "packed.safetensors", bits=4, sparsity=0.8)
    coded = compress(source, tmp_path / "xor.safetensors", bits=4, sparsity=0.8, store="xor")
    for name, F in fq.load(tmp_path / "packed.safetensors").items():
        G = fq.load(tmp_path / "xor.safetensors")[name]
        assert bits_of(G.to_dense()) == bits_of(F.to_dense())
        assert any(isinstance(factor, Xor) for factor in G.encoded.values())
    assert coded.bits_per_weight < 1.8

    def call(*arguments: str) -> str:
        result = CliRunner().invoke(main, arguments, prog_name="factorq")
        assert result.exit_code == 0, result.output
        return result.stdout

    made, plain = str(tmp_path / "cli.safetensors"), str(tmp_path / "plain.safetensors")
    call("compress", str(source), "-o", made, "--bits", "4", "--sparsity", "0.8", "--store", "xor")
    assert Path(made).read_bytes() == (tmp_path / "xor.safetensors").read_bytes()
    assert "fc" in call("info", made)
    call("verify", made, "--against", str(source))
    call("decompress", made, "-o", plain)
    for name, F in fq.load(tmp_path / "packed.safetensors").items():
        assert bits_of(fq.load(plain)[name]) == bits_of(F.to_dense())
    refused = CliRunner().invoke(main, ["compress", str(source), "-o", made, "--bits", "4", "--store", "zip"])
    assert refused.exit_code == 2


# Damage ---------------------------------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(data=st.data(), name=st.sampled_from(["grid", "codebook", "float16", "cube", "rows"]))
def test_flipped_bytes(data: st.DataObject, name: str) -> None:
    small = xored(SAMPLES[name])
    buffers = {key: array.copy() for key, array in small.buffers().items()}
    chosen = data.draw(st.sampled_from(list(buffers)))
    flat = buffers[chosen].reshape(-1).view(np.uint8)
    flat[data.draw(st.integers(0, min(flat.size - 1, data.draw(st.sampled_from((9, 10**9))))))] ^= data.draw(
        st.integers(1, 255)
    )
    try:
        with np.errstate(all="ignore"):
            decoded = decode_config(small.config(), buffers).decode()
    except fq.ArtifactError:
        return
    assert chosen not in [part[0] for part in small.coded]  # their checksum tells
    assert (decoded.shape, decoded.dtype) == (small.shape, small.decode().dtype)


def changed(small: Xor, **change: Any) -> dict[str, Any]:
    config = json.loads(json.dumps(small.config()))
    part = dict(zip(("name", "dtype_of_codes", "bits"), config["coded"][0], strict=True))
    config["coded"][0] = list((part | {k: v for k, v in change.items() if k in part}).values())
    config["inner"]["inner"] |= {k.removeprefix("grid_"): v for k, v in change.items() if k.startswith("grid_")}
    config["inner"] |= {k.removeprefix("mask_"): v for k, v in change.items() if k.startswith("mask_")}
    return config | {k: v for k, v in change.items() if k in config}


PLAIN = grid(GAUSSIAN.reshape(-1)).config()
NESTED = json.loads(json.dumps(xored(SAMPLES["grid"]).config()))
HOSTILE: dict[str, dict[str, Any]] = {
    "no such buffer": {"name": "nothing"},
    "a name that is none": {"name": 7},
    "a name that is a list": {"name": ["inner.codes"]},
    "not a stream": {"name": "inner.scales"},
    "another stream": {"name": "positions"},
    "unknown dtype": {"dtype_of_codes": "int64"},
    "a dtype that is none": {"dtype_of_codes": None},
    "floats": {"dtype_of_codes": "float16", "bits": 16},
    "floats of few bits": {"dtype_of_codes": "float32", "bits": 4},
    "fewer bits": {"bits": 3},
    "more bits": {"bits": 5},
    "other bits throughout": {"bits": 5, "grid_bits": 5, "grid_zero": 15.5},
    "no bits": {"bits": 0},
    "17 bits": {"bits": 17},
    "bits that are none": {"bits": True},
    "bits that are a fraction": {"bits": 4.0},
    "nothing coded": {"coded": []},
    "coded is no list": {"coded": 3},
    "coded is a text": {"coded": "inner.codes"},
    "parts that are texts": {"coded": ["abc"]},
    "parts that are too short": {"coded": [["inner.codes"]]},
    "parts that are too long": {"coded": [["inner.codes", "uint8", 4, 0]]},
    "parts that are empty": {"coded": [[]]},
    "the same twice": {"coded": [["inner.codes", "uint8", 4], ["inner.codes", "uint8", 5]]},
    "no mask": {"inner": PLAIN},
    "no kept entries": {"inner": {"id": "mask", "shape": [128, 512], "dtype": "float32", "parameter": None}},
    "kept entries of a text": {"grid_shape": "abc"},
    "kept entries of two dimensions": {"grid_shape": [3, 4]},
    "kept entries of a number": {"grid_shape": 5},
    "fewer kept entries": {"grid_shape": [5]},
    "negative kept entries": {"grid_shape": [-1]},
    "more kept entries than entries": {"grid_shape": [1 << 40]},
    "kept entries that are true": {"grid_shape": [True]},
    "huge": {"grid_shape": [1 << 60], "mask_shape": [1 << 31, 1 << 31], "shape": [1 << 31, 1 << 31]},
    "too large for memory": {"grid_shape": [1 << 46], "mask_shape": [1 << 23, 1 << 23], "shape": [1 << 23, 1 << 23]},
    "inside itself": {"inner": {"id": "xor"}},
    "inside itself as a whole": {"inner": NESTED},
    "a mask around itself": {"mask_inner": NESTED},
    "a mask around nothing": {"mask_inner": None},
    "a mask around a mask": {"mask_inner": NESTED["inner"]},
    "entropy-coded inside": {"inner": {"id": "entropy", "inner": NESTED, "coded": []}},
    "nothing inside": {"inner": None},
    "a list inside": {"inner": [1, 2]},
    "unknown codec": {"inner": {"id": "nonsense", "inner": {"shape": [5]}}},
    "no id": {"inner": {"inner": {"shape": [5]}}},
    "another shape": {"shape": [128, 256]},
    "another array": {"shape": 5},
    "wrong dtype": {"dtype": "float64"},
}


@pytest.mark.parametrize("change", HOSTILE.values(), ids=list(HOSTILE))
def test_hostile_descriptions(change: dict[str, Any]) -> None:
    small = xored(SAMPLES["grid"])
    assert isinstance(small, Xor)
    with pytest.raises(fq.ArtifactError):
        decode_config(changed(small, **change), small.buffers()).decode()


def test_hostile_buffers() -> None:
    small = xored(SAMPLES["grid"])
    stream = small.buffers()["inner.codes"]
    decode_config(changed(small), small.buffers()).decode()  # type: ignore[arg-type]
    other = xored(SAMPLES["rows"]).buffers()["inner.codes"]
    for wrong in (stream[:0], stream[:-1], stream.view(np.int8), stream[None], stream.astype(np.uint16), other,
                  np.repeat(stream, 2)[::2], stream[::-1].copy()):  # fmt: skip
        with pytest.raises(fq.ArtifactError):
            decode_config(small.config(), small.buffers() | {"inner.codes": wrong}).decode()
    for missing in small.buffers():
        with pytest.raises(fq.ArtifactError):
            decode_config(small.config(), {k: v for k, v in small.buffers().items() if k != missing}).decode()
    with pytest.raises(fq.ArtifactError):
        decode_config(small.config(), small.buffers() | {"extra": stream}).decode()


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint8", "uint16", "int64", "float16", "float64"])
@pytest.mark.parametrize("name", ["grid", "float16"])
def test_sound_streams_of_other_numbers(name: str, dtype: str) -> None:
    """Refused, or read to an array: a stream of as many planes may be taken for the codes."""
    small = xored(SAMPLES[name])
    buffer = {"grid": "inner.codes", "float16": "inner.values"}[name]
    for bits in {1, 4, 5, 16, 64} if dtype[0] != "f" else {None}:
        if bits is not None and bits > (1 if dtype == "bool" else 8 * np.dtype(dtype).itemsize):
            continue
        wrong = fq.xor.encode(np.zeros(KEEP.shape, dtype), KEEP, bits=bits).data
        try:
            decoded = decode_config(small.config(), small.buffers() | {buffer: wrong}).decode()
        except fq.ArtifactError:
            continue
        assert Coded(wrong, KEEP).bits == small.coded[0][2]
        assert (decoded.shape, decoded.dtype) == (KEEP.shape, np.float32)


@pytest.mark.fuzz
@pytest.mark.parametrize("options", [{"bits": 3, "sparsity": 0.6}, {"sparsity": 0.8}], ids=["grid", "floats"])
def test_mutants_of_files(options: dict[str, Any], tmp_path: Path) -> None:
    F = fq.decompose(sample("heavy tails", (90, 120), "float32", 1), **options, store="xor")
    assert any(isinstance(factor, Xor) for factor in F.encoded.values())
    fq.save(tmp_path / "sound.safetensors", {"w": F})

    def everything(path: Path) -> dict[str, Any]:
        with np.errstate(all="ignore"):
            found = fq.load(path)
            return {k: bits_of(F.to_dense() if isinstance(F, fq.Factorization) else F) for k, F in found.items()}

    outcomes = fuzz((tmp_path / "sound.safetensors").read_bytes(), everything, lambda a, b: a == b, 700,
                    random.Random(0))  # fmt: skip
    assert sum(n for key, n in outcomes.items() if key.endswith("refused")) > 350
