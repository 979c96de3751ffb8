"""XOR coding of arrays: lossless for every dtype and code, above the floors, safe on damaged and forged streams."""

from __future__ import annotations

import hashlib
import pickle
import subprocess
import sys
import tracemalloc
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import factorq as fq
from factorq.codecs.xor import Banded, Code, Coded, Sequential, Slices, encode
from factorq.codecs.xor.codes import CODES
from factorq.codecs.xor.order import order
from factorq.codecs.xor.parts import Reader, Writer
from factorq.errors import ArgumentError, ArgumentTypeError, ArtifactError
from factorq.kernels.splitmix64 import splitmix64

INTEGERS = ("bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64")
FLOATS = ("float16", "bfloat16", "float32", "float64")
DTYPES = {name: np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name) for name in INTEGERS + FLOATS}
EXPONENTS = {"float16": range(10, 15), "bfloat16": range(7, 15), "float32": range(23, 31), "float64": range(52, 63)}

KINDS: dict[str, Code] = {
    "banded": Banded(),
    "banded at one rate": Banded(paced=False),
    "banded of 64": Banded(64),
    "banded of 8": Banded(8, 0.1),
    "banded of 30 at one rate": Banded(30, 0.02, paced=False),
    "slices of 1": Slices(1, 1),
    "slices": Slices(),
    "slices of 8": Slices(8, 40),
    "slices of 64": Slices(64, 500),
    "sequential 0": Sequential(8, 0),
    "sequential 1": Sequential(4, 1),
    "sequential 2": Sequential(2, 2, 7),
}
every_code = pytest.mark.parametrize("code", KINDS.values(), ids=list(KINDS))


# Inputs and checks ----------------------------------------------------------------------------------------------------


def raw(x: np.ndarray) -> np.ndarray:
    """The bits of native numbers as unsigned integers."""
    x = np.ascontiguousarray(x).reshape(x.shape)
    return x.view(f"u{x.dtype.itemsize}")


def any_bits(shape: tuple[int, ...], dtype: str, seed: int = 0) -> np.ndarray:
    """Numbers of random bits: NaNs, infinities and both zeros among them."""
    rng = np.random.default_rng(seed)
    if dtype == "bool":
        return rng.random(shape) < 0.5
    wide = DTYPES[dtype].itemsize
    x = rng.integers(0, 1 << 8 * wide, shape, np.uint64).astype(f"u{wide}")
    return np.array(x).view(DTYPES[dtype])


def fair(size: int, density: float, planes: int = 1, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of ``planes`` fair bits and a mask."""
    rng = np.random.default_rng([seed, size, planes])
    return rng.integers(0, 1 << planes, size, np.uint64), rng.random(size) < density


class Parsed:
    """A stream taken apart, with what its networks say before any patch."""

    def __init__(self, coded: Coded) -> None:
        stream, care = coded.data, np.ascontiguousarray(coded.care).reshape(-1)
        reader = Reader(stream)
        numbers = [reader.number((1 << 64) - 1) for _ in range(7)]
        self.dtype, self.flags, planes, size, self.count, seed, kind = numbers
        self.tags = [reader.number(3) for _ in range(planes)]
        self.plain = [j for j, tag in enumerate(self.tags) if tag < 2]
        self.said = np.zeros((0, self.count), np.uint8)
        positions = order(size, seed) if self.flags & 2 else np.arange(size)
        self.positions = positions[care[positions]]
        if self.plain:
            layout = CODES[kind].read(reader, size, seed)
            streams = stream[stream.size - len(self.plain) * layout.nbytes :].reshape(len(self.plain), -1)
            bitmap, first = layout.outputs(streams, 0, size)
            assert first == 0
            bits = np.unpackbits(np.ascontiguousarray(bitmap), axis=1, count=size, bitorder="little")
            self.said = bits[:, care[positions]]


def check(values: np.ndarray, care: np.ndarray, **options: Any) -> Coded:
    """All that holds of any input: ``decode`` is the input where it matters, and what is reported is so."""
    before = values.tobytes(), care.tobytes()
    coded = encode(values, care, **options)
    assert (values.tobytes(), care.tobytes()) == before
    native = values.astype(values.dtype.newbyteorder("="), copy=False)
    decoded = coded.decode()
    assert (decoded.shape, decoded.dtype) == (values.shape, native.dtype)
    assert decoded.dtype.isnative
    np.testing.assert_array_equal(raw(decoded)[care], raw(native)[care])
    assert not raw(decoded)[~care].any()
    np.testing.assert_array_equal(raw(coded.kept()), raw(native)[care])

    assert coded.nbytes == coded.data.nbytes == len(coded.to_bytes())
    again = Coded(np.frombuffer(coded.to_bytes(), np.uint8), care)
    assert again.decode().tobytes() == decoded.tobytes()
    assert (again.efficiency, again.bits, again.entropy_coded, repr(again)) == (
        coded.efficiency, coded.bits, coded.entropy_coded, repr(coded),
    )  # fmt: skip
    assert encode(values, care, **options).to_bytes() == coded.to_bytes()

    parsed, numbers = Parsed(coded), raw(native).reshape(-1).astype(np.uint64)
    assert coded.bits == len(parsed.tags)
    assert coded.entropy_coded == tuple(j for j in range(coded.bits) if j not in parsed.plain)
    wrong = np.zeros((len(parsed.plain), parsed.count), bool)
    for k, j in enumerate(parsed.plain):
        plane = numbers[parsed.positions] >> np.uint64(j) & np.uint64(1)
        assert 2 * plane.sum() <= parsed.count or parsed.tags[j] == 1  # more ones than zeros are inverted
        wrong[k] = (parsed.said[k] ^ parsed.tags[j]) != plane
    assert coded.efficiency == (1 - wrong.sum() / wrong.size if wrong.size else 1.0)
    np.testing.assert_array_equal(coded.patches, np.sort(parsed.positions[wrong.any(axis=0)]))
    assert care.reshape(-1)[coded.patches].all()
    return coded


# Lossless -------------------------------------------------------------------------------------------------------------


@st.composite
def inputs(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Any array under any mask, with options that fit."""
    dtype, seed = draw(st.sampled_from(INTEGERS + FLOATS)), draw(st.integers(0, 2**32))
    sizes = st.one_of(st.integers(0, 700), st.sampled_from((0, 1, 7, 8, 64, 65, 512)))
    shape = draw(st.one_of(st.tuples(sizes), st.just(()), st.tuples(st.integers(0, 9), st.integers(1, 9), sizes)))
    density = draw(st.one_of(st.sampled_from((0.0, 0.1, 1.0)), st.floats(0, 1)))
    rng = np.random.default_rng(seed)
    care = np.array(rng.random(shape) < density)
    values = any_bits(shape, dtype, seed)
    bits = None
    if dtype in INTEGERS and draw(st.booleans()):
        planes = 1 if dtype == "bool" else draw(st.integers(1, 8 * DTYPES[dtype].itemsize))
        if dtype != "bool":
            low, shift = draw(st.booleans()) and dtype[0] == "i", 8 * DTYPES[dtype].itemsize - planes
            values = values >> shift if low or dtype[0] == "u" else np.abs(values >> shift) >> 1
        bits = planes
    elif dtype in FLOATS and draw(st.booleans()):
        values = np.array(rng.standard_normal(shape)).astype(DTYPES[dtype])
        bits = draw(st.sampled_from((None, 8 * DTYPES[dtype].itemsize)))
    seeds = st.one_of(st.integers(0, 2**64 - 1), st.sampled_from((0, 2**63, 2**64 - 1)))
    return values, care, {"bits": bits, "seed": draw(seeds), "permute": draw(st.booleans())}


@every_code
@settings(max_examples=20)
@given(drawn=inputs(), data=st.data())
def test_any_array(code: Code, drawn: tuple[np.ndarray, np.ndarray, dict[str, Any]], data: st.DataObject) -> None:
    values, care, options = drawn
    coded = check(values, care, code=code, **options)
    if options["bits"] is not None:
        assert coded.bits == options["bits"]
    if not options["permute"]:
        whole = coded.decode().reshape(-1)
        start = data.draw(st.integers(0, care.size))
        stop = data.draw(st.integers(start, care.size))
        for ends in ((start, stop), (0, care.size), (start, start)):
            part = coded.read(*ends)
            assert part.dtype == values.dtype
            assert part.tobytes() == whole[slice(*ends)].tobytes()


@pytest.mark.parametrize("dtype", INTEGERS + FLOATS)
@pytest.mark.parametrize("density", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("code", [Banded(), Banded(64, paced=False)], ids=["paced", "at one rate"])
def test_every_dtype(dtype: str, density: float, code: Code) -> None:
    values = any_bits((20, 300), dtype, 1)
    care = np.random.default_rng(2).random(values.shape) < density
    assert check(values, care, code=code).bits <= 8 * DTYPES[dtype].itemsize


@every_code
def test_long_arrays(code: Code) -> None:
    """More than a block, a tile or a table of each code, and parts of them."""
    size = 9_001 if isinstance(code, Sequential) else 200_003
    values, care = fair(size, 0.15, 3)
    values = values.astype(np.uint8)
    coded = check(values, care, bits=3, code=code, seed=3)
    whole, rng = coded.decode(), np.random.default_rng(0)
    for _ in range(20):
        start = int(rng.integers(0, size))
        stop = min(start + int(rng.integers(0, 5000)), size)
        np.testing.assert_array_equal(coded.read(start, stop), whole[start:stop])
    check(values, care, bits=3, code=code, seed=3, permute=True)


def test_segments() -> None:
    """Paced streams are solved in segments of 2**22 positions; parts that lie in two."""
    size = (1 << 22) + 70_000
    values, care = fair(size, 0.03)
    values = values.astype(np.uint8)
    coded = encode(values, care, bits=1)
    whole = coded.decode()
    np.testing.assert_array_equal(whole[care], values[care])
    for start, stop in (((1 << 22) - 300, (1 << 22) + 300), (1 << 22, size), (0, 1 << 22), (size - 1, size)):
        np.testing.assert_array_equal(coded.read(start, stop), whole[start:stop])


def test_special_numbers() -> None:
    for name in FLOATS:
        plain = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, -np.nan, 1.0, -2.5], DTYPES[name])
        values = np.concatenate([plain, any_bits((64,), name)])
        check(values, np.arange(values.size) % 3 > 0)
        check(values, np.ones(values.size, bool))
    for name in INTEGERS[1:]:
        info = np.iinfo(name)
        ends = np.array([info.min, info.max, 0, 1, info.min + 1], name)
        assert check(ends, np.ones(5, bool)).bits == 8 * ends.itemsize
        assert check(np.full(5, info.min, name), np.ones(5, bool)).bits == (8 * ends.itemsize if info.min else 1)


def test_bits_that_are_counted() -> None:
    care = np.array([True, True, True, False])
    for numbers, bits in (([0, 0, 0], 1), ([1, 0, 1], 1), ([2, 3, 0], 2), ([4, 0, 0], 3), ([-1, 0, 0], 1),
                          ([-1, 1, 0], 2), ([-2, 1, 0], 2), ([-3, 3, 0], 3), ([-4, 4, 0], 4),
                          ([-1, -1, -1], 1), ([-4, -3, -4], 3)):  # fmt: skip
        values = np.array([*numbers, 100], np.int16)  # what does not matter needs no bits
        assert check(values, care).bits == bits
        assert check(values, care, bits=bits + 2).bits == bits + 2
        if bits > 1:
            with pytest.raises(ArgumentError, match=rf"^bits: found {bits - 1} .*at least {bits}"):
                encode(values, care, bits=bits - 1)


@pytest.mark.parametrize("dtype", [">u2", ">i4", ">i8", ">f2", ">f4", ">f8"])
def test_big_endian(dtype: str) -> None:
    values = np.random.default_rng(0).integers(0, 200, (5, 60)).astype(dtype)
    care = values % 2 == 0
    coded = check(values, care)
    assert coded.to_bytes() == encode(values.astype(dtype.replace(">", "<")), care).to_bytes()


def test_any_layout() -> None:
    values = any_bits((40, 30), "int32").T
    care = np.random.default_rng(1).random((30, 80))[:, ::2] < 0.3
    plain = encode(np.ascontiguousarray(values), np.ascontiguousarray(care))
    assert check(values, care).to_bytes() == plain.to_bytes()
    values.flags.writeable = care.flags.writeable = False
    assert check(values, care).to_bytes() == plain.to_bytes()
    assert check(values[::-1], care[::-1]).to_bytes() != plain.to_bytes()
    shifted = np.frombuffer(b"\0" + np.ascontiguousarray(values).tobytes(), np.int32, offset=1 - 1, count=8)
    check(shifted, np.ones(8, bool))


def test_arrays_of_other_libraries(xp: Any) -> None:
    values, care = fair(1000, 0.3, 5)
    x = values.astype(np.float32)
    coded = encode(xp.asarray(x), xp.asarray(care))
    assert coded.to_bytes() == encode(x, care).to_bytes()


def test_a_mask_that_changes_later_changes_nothing() -> None:
    values, care = fair(1000, 0.5)
    coded = encode(values, care)
    before = coded.decode()
    care[:] = False
    np.testing.assert_array_equal(coded.decode(), before)


def test_a_coded_array_can_be_sent_to_another_process() -> None:
    values, care = fair(1000, 0.5, 2)
    coded = encode(values, care, permute=True)
    again = pickle.loads(pickle.dumps(coded))
    assert again.to_bytes() == coded.to_bytes()
    np.testing.assert_array_equal(again.decode(), coded.decode())


SLACKS = [(1 << 18, 1.0, 0.001), (1 << 18, 1.0, 0.005), (1 << 17, 0.1, 0.5), (1 << 20, 0.1, 1.0)]


@pytest.mark.parametrize(("size", "share", "slack"), SLACKS)
def test_slack_of_uneven_and_of_full_masks(size: int, share: float, slack: float) -> None:
    """A run of positions that all matter, then none."""
    values, care = fair(size, 0.0)
    care[: round(share * size)] = True
    coded = encode(values, care, bits=1, code=Banded(slack=slack))
    np.testing.assert_array_equal(coded.kept(), values[care])


@settings(max_examples=25)
@given(
    runs=st.lists(st.tuples(st.integers(1, 9000), st.floats(0, 1)), min_size=1, max_size=12),
    slack=st.one_of(st.none(), st.floats(0, 1)),
    window=st.integers(8, 128),
    paced=st.booleans(),
    seed=st.integers(0, 99),
)
def test_any_density_anywhere(
    runs: list[tuple[int, float]], slack: float | None, window: int, paced: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    care = np.concatenate([rng.random(length) < density for length, density in runs])
    values = rng.integers(0, 4, care.size, np.uint8)
    check(values, care, bits=2, code=Banded(window, slack, paced))


# What is stored -------------------------------------------------------------------------------------------------------


@every_code
@settings(max_examples=12)
@given(
    size=st.integers(0, 4000),
    density=st.floats(0, 1),
    planes=st.integers(1, 12),
    seed=st.integers(0, 2**32),
    permute=st.booleans(),
)
def test_never_under_the_floor(code: Code, size: int, density: float, planes: int, seed: int, permute: bool) -> None:
    """Fair bits take one bit each, whatever the code: less would be an error of the account."""
    values, care = fair(size, density, planes, seed)
    coded = encode(values, care, bits=planes, code=code, seed=seed, permute=permute)
    assert 8 * coded.nbytes >= planes * int(care.sum())


@pytest.mark.parametrize("density", [0.02, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("code", [Banded(), Banded(paced=False), Banded(64, 0.0)], ids=str)
def test_long_streams_near_the_floor(code: Code, density: float) -> None:
    values, care = fair(1 << 18, density, 4)
    coded = encode(values, care, bits=4, code=code)
    assert coded.entropy_coded == ()
    assert 1 <= 2 * coded.nbytes / care.sum() < 1.05


def test_overhead_of_banded_codes() -> None:
    """At S = .9; 4 patches of 1000 bits and no spare ones at one rate, 0.8 % in all where windows are paced."""
    values, care = fair(1 << 20, 0.1)
    values, count = values.astype(np.uint8), int(care.sum())

    def coded(code: Code) -> Coded:
        found = encode(values, care, bits=1, code=code)
        np.testing.assert_array_equal(found.kept(), values[care])
        return found

    assert 8 * coded(Banded()).nbytes <= 1.008 * count
    assert 8 * coded(Banded(paced=False)).nbytes <= 1.02 * count
    assert coded(Banded(128, 0, paced=False)).efficiency >= 0.9975
    assert coded(Banded(128, 0.05)).efficiency >= 0.9999
    narrow, wide = coded(Banded(32)), coded(Banded(128))
    assert narrow.nbytes > wide.nbytes
    assert narrow.efficiency < wide.efficiency


def test_efficiency_of_published_codes() -> None:
    values, care = fair(1 << 18, 0.1)
    assert 0.965 < encode(values, care, bits=1, code=Slices(20, 180)).efficiency < 0.985
    assert encode(values, care, bits=1, code=Slices(256, 2432)).efficiency > 0.995
    values, care = fair(1 << 14, 0.1)
    assert 0.92 < encode(values, care, bits=1, code=Sequential(8, 0)).efficiency < 0.95
    assert encode(values, care, bits=1, code=Sequential(8, 1)).efficiency > 0.98


def test_slices_of_rare_positions() -> None:
    """So few that a slice of the default length, or the longest one, would be of many thousands."""
    values, care = fair(300_000, 1e-4)
    for code in (Slices(), Slices(20, 1 << 16)):
        np.testing.assert_array_equal(encode(values, care, bits=1, code=code).kept(), values[care])


def test_skewed_planes_are_entropy_coded() -> None:
    rng = np.random.default_rng(0)
    care = rng.random(100_000) < 0.2
    count = int(care.sum())
    planes = [rng.random(care.size) < share for share in (0.5, 0.05, 0.5, 0.97)]
    values = sum(plane.astype(np.uint8) << j for j, plane in enumerate(planes))
    for permute in (False, True):
        coded = check(values, care, bits=6, permute=permute)
        assert coded.entropy_coded == (1, 3, 4, 5)
        assert 2.4 * count / 8 < coded.nbytes < 2.6 * count / 8  # 2 + H(.05) + H(.97) bits


@pytest.mark.parametrize("dtype", FLOATS)
def test_exponents_are_entropy_coded(dtype: str) -> None:
    rng = np.random.default_rng(0)
    values, care = rng.standard_normal(60_000).astype(DTYPES[dtype]), rng.random(60_000) < 0.3
    coded = check(values, care)
    assert set(EXPONENTS[dtype]) <= set(coded.entropy_coded) <= {*EXPONENTS[dtype], EXPONENTS[dtype].start - 1}
    mantissa = coded.bits - len(EXPONENTS[dtype])
    assert mantissa < 8 * coded.nbytes / care.sum() < 1.02 * mantissa + 3  # 2.6 bits of an exponent, and tables
    assert check(any_bits((20_000,), dtype), care[:20_000]).entropy_coded == ()


def test_planes_of_many_ones_are_inverted() -> None:
    rng = np.random.default_rng(0)
    care = rng.random(20_000) < 0.5
    values = (rng.random(care.size) < 0.53).astype(np.uint8) | (rng.random(care.size) < 0.47).astype(np.uint8) << 1
    for permute in (False, True):
        coded = check(values, care, permute=permute)
        assert coded.entropy_coded == ()
        assert Parsed(coded).tags == [1, 0]


def test_shuffling_evens_out_clusters() -> None:
    rng = np.random.default_rng(0)
    care = np.zeros((300, 1000), bool)
    care[rng.permutation(300)[:30]] = True
    values = rng.integers(0, 16, care.shape, np.uint8)
    plain, shuffled = (encode(values, care, bits=4, permute=permute) for permute in (False, True))
    assert shuffled.efficiency > 0.998
    assert 2 * shuffled.nbytes < 1.02 * care.sum()
    assert shuffled.nbytes < plain.nbytes


@settings(max_examples=40)
@given(size=st.integers(0, 3000), seed=st.integers(0, 2**64 - 1))
def test_order_is_a_permutation(size: int, seed: int) -> None:
    found = order(size, seed)
    assert found.dtype == np.int64
    np.testing.assert_array_equal(np.sort(found), np.arange(size))


def test_order_mixes() -> None:
    """Neighbours come to lie anywhere: of a run, each part of the order gets its share."""
    size = 100_000
    for seed in range(5):
        share = (order(size, seed) < size // 10).reshape(-1, 1000).mean(axis=1)
        assert share.min() > 0.03
        assert share.max() < 0.2


# The same bytes everywhere --------------------------------------------------------------------------------------------


def frozen(name: str) -> Coded:
    words = splitmix64(60_000, 1)
    care = words % np.uint64(10) == 0
    code, planes, permute, size = {
        "paced": (Banded(), 3, False, 60_000),
        "paced, slack": (Banded(64, 0.02), 2, False, 60_000),
        "at one rate": (Banded(128, paced=False), 3, False, 60_000),
        "permuted": (Banded(), 3, True, 60_000),
        "64 planes": (Banded(), 64, False, 6_000),
        "slices": (Slices(8, 60), 3, False, 60_000),
        "long slices": (Slices(100), 3, False, 60_000),
        "sequential": (Sequential(6, 1), 2, False, 6_000),
        "sequential 2": (Sequential(2, 2), 1, True, 6_000),
    }[name]
    return encode(words[:size] >> np.uint64(64 - planes), care[:size], bits=planes, code=code, seed=9, permute=permute)


FROZEN = {
    "paced": "c650e39175cdb392ad5b0089d20311f48c546b6e21c30d85c885d60b1de802fb",
    "paced, slack": "df02e88ae4289800173a78590879c63db5ce513a5d917d4ec7c96a91ea4c49d4",
    "at one rate": "6afa402e70f91ba6cd953040253d2c873713c27364fe000acff3d41a857f8066",
    "permuted": "f64f8684693c2960b72c9c9e402283ef9a7d3d6781eba228eb710bf3de191601",
    "64 planes": "b8ece0da3a1db558628ed2fde031b328fefb92b767f434a3abe29b2e0012b7af",
    "slices": "e8f7dd854cb1e97f761a546fd88078b48e0b76aeb70d960b9b2bb7a4120521a9",
    "long slices": "0f55d4a1993c8ab50f444db1464f118a0fd0ed67e19a55c1f291a0fb202083f0",
    "sequential": "6c073b6d7d67f2af0c641091a1009f4b1b9dd59faf92a66781d1ce954816eef4",
    "sequential 2": "92256587306477d34ffdd290288a8e49daa3ace6d51dc8b70122512a3b5ee46a",
}


@pytest.mark.parametrize("name", FROZEN)
def test_frozen_bytes(name: str) -> None:
    """Files depend on it: what a seed, a network and a pace stand for may never change."""
    assert hashlib.sha256(frozen(name).to_bytes()).hexdigest() == FROZEN[name]


def test_frozen_streams_stay_readable() -> None:
    """Of 30 numbers, every third of which matters: written once, read for ever."""
    stream = bytes.fromhex(
        "0e3115eb1d000400051e0a00030000000000800108550103c002013400010000000000"
        "0008060000000000300400000000001b0300000000003a110000000000b3070000000000"
    )
    care = np.arange(30) % 3 == 0
    coded = Coded(np.frombuffer(stream, np.uint8), care)
    np.testing.assert_array_equal(coded.decode(), np.where(care, np.arange(30), 0))
    assert coded.decode().dtype == np.int16


def test_threads_and_processes_write_the_same() -> None:
    names = ["paced", "at one rate", "permuted"] * 2
    with ThreadPoolExecutor(4) as pool:
        found = [coded.to_bytes() for coded in pool.map(frozen, names)]
    assert found == [frozen(name).to_bytes() for name in names]
    code = """
import hashlib, numpy as np, factorq as fq
from factorq.kernels.splitmix64 import splitmix64
words = splitmix64(60_000, 1)
coded = fq.xor.encode(words >> np.uint64(61), words % np.uint64(10) == 0, bits=3, seed=9)
print(hashlib.sha256(coded.to_bytes()).hexdigest())
"""
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=120)
    assert run.stdout.strip() == FROZEN["paced"]


def test_clusters_are_shuffled() -> None:
    """By default, where that is smaller: then parts cannot be read."""
    rng = np.random.default_rng(0)
    even, rows = rng.random((256, 1024)) < 0.1, np.zeros((256, 1024), bool)
    rows[40:66] = True
    bits = rng.integers(0, 2, even.shape, np.uint8)
    for care, shuffled in ((even, False), (rows, True)):
        coded, kept = encode(bits, care, bits=1), encode(bits, care, bits=1, permute=False)
        np.testing.assert_array_equal(coded.decode(), np.where(care, bits, 0))
        assert coded.nbytes <= kept.nbytes
        assert 8 * coded.nbytes < 1.03 * care.sum()
        assert (coded.to_bytes() == encode(bits, care, bits=1, permute=shuffled).to_bytes()) is True


def test_periods_of_slices_are_shuffled() -> None:
    """Slices take every 512th position: a mask of such a period fills some and leaves others empty."""
    rng = np.random.default_rng(0)
    bits, care = rng.integers(0, 2, 1 << 17, np.uint8), np.arange(1 << 17) % 2 == 0
    coded = encode(bits, care, bits=1, code=Slices(20))
    assert coded.nbytes < 0.8 * encode(bits, care, bits=1, code=Slices(20), permute=False).nbytes
    np.testing.assert_array_equal(coded.decode(), np.where(care, bits, 0))


# Damage and forgery ---------------------------------------------------------------------------------------------------


def samples() -> dict[str, Callable[[], Coded]]:
    """Small streams of every kind."""
    rng = np.random.default_rng(0)
    care = rng.random(900) < 0.3
    four, skewed = rng.integers(0, 16, 900, np.uint8), (rng.random(900) < 0.03).astype(np.int8)
    normal = rng.standard_normal(900).astype(np.float32)
    dense = np.ones(900, bool)
    return {
        "banded": lambda: encode(four, care, bits=4),
        "banded at one rate": lambda: encode(four, care, bits=4, code=Banded(32, 0, paced=False), seed=2**64 - 1),
        "banded with patches": lambda: encode(four, dense, bits=4, code=Banded(8, 0)),
        "banded and shuffled": lambda: encode(four, care, bits=4, permute=True),
        "banded of nothing": lambda: encode(four[:0], care[:0]),
        "entropy-coded": lambda: encode(skewed - 1, care),
        "banded floats": lambda: encode(normal, care),
        "slices": lambda: encode(four, care, bits=4, code=Slices(6, 20)),
        "long slices": lambda: encode(four, care, bits=4, code=Slices(40, 130), permute=True),
        "sequential": lambda: encode(four, care, bits=4, code=Sequential(4, 1)),
    }


SAMPLES = samples()
every_sample = pytest.mark.parametrize("sample", SAMPLES.values(), ids=list(SAMPLES))


def outcome(stream: bytes, care: np.ndarray) -> bool:
    """Whether the stream is read, to an array of the right shape; anything but ArtifactError is a failure."""
    try:
        coded = Coded(np.frombuffer(stream, np.uint8), care)
        decoded = coded.decode()
        try:
            assert coded.read(care.size // 3, care.size).shape == (care.size - care.size // 3,)
        except ArgumentError:
            assert Parsed(coded).flags & 2
    except ArtifactError:
        return False
    assert decoded.shape == care.shape
    assert decoded.dtype != bool or raw(decoded).max(initial=0) <= 1
    assert 0 <= coded.efficiency <= 1
    assert care.reshape(-1)[coded.patches].all()
    return True


@every_sample
def test_damage_is_noticed(sample: Callable[[], Coded]) -> None:
    coded = sample()
    sound = coded.to_bytes()
    assert outcome(sound, coded.care)
    for length in range(len(sound)):
        assert not outcome(sound[:length], coded.care)
    for extra in (b"\0", b"x", sound):
        assert not outcome(sound + extra, coded.care)
    for at in range(min(len(sound), 150)):
        for bit in range(8):
            wrong = bytearray(sound)
            wrong[at] ^= 1 << bit
            assert not outcome(bytes(wrong), coded.care)


def sealed(body: bytes) -> bytes:
    return zlib.crc32(body).to_bytes(4, "little") + body


def taken_apart(stream: bytes) -> tuple[list[int], bytes]:
    """The numbers of the header and the rest."""
    size = int.from_bytes(stream[4:6], "little")
    numbers, value, shift = [], 0, 0
    for byte in stream[6 : 6 + size]:
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            numbers.append(value)
            value = shift = 0
    return numbers, stream[6 + size :]


def put_together(numbers: list[int], rest: bytes) -> bytes:
    writer = Writer()
    writer.numbers(*numbers)
    writer.raw(np.frombuffer(rest, np.uint8))
    return writer.stream().tobytes()


def test_streams_can_be_taken_apart() -> None:
    for sample in list(SAMPLES.values())[:7]:
        sound = sample().to_bytes()
        assert put_together(*taken_apart(sound)) == sound
        assert sealed(sound[4:]) == sound


def mutant(sound: bytes, rng: np.random.Generator) -> bytes:
    """A forged stream whose checksum is right."""
    body, kind = bytearray(sound[4:]), int(rng.integers(5))
    if kind == 0:  # bytes of the header
        size = 2 + int.from_bytes(body[:2], "little")
        for _ in range(int(rng.integers(1, 4))):
            body[int(rng.integers(size))] = int(rng.choice([0, 1, 127, 128, 255, rng.integers(256)]))
    elif kind == 1:  # bytes anywhere
        for _ in range(int(rng.integers(1, 6))):
            body[int(rng.integers(len(body)))] ^= 1 << int(rng.integers(8))
    elif kind == 2:  # a piece that is missing, or there twice
        at, length = int(rng.integers(len(body))), int(rng.integers(1, 9))
        body[at : at + length] = body[at : at + length] * int(rng.choice([0, 2]))
    else:  # numbers of the header
        numbers, rest = taken_apart(sound)
        for _ in range(int(rng.integers(1, 3))):
            at = int(rng.integers(len(numbers)))
            old = numbers[at]
            near = [old + 1, max(old - 1, 0), 2 * old, old // 2, 0, 1, 2, 3, 7, 8, 16, 64, 128, 255]
            far = [1 << 14, 1 << 16, 1 << 20, (1 << 24) - 1, 1 << 24, 1 << 40, (1 << 48) - 1, 1 << 48, (1 << 64) - 1]
            numbers[at] = (near + far)[int(rng.integers(len(near) + len(far)))]
        return put_together(numbers, rest + bytes(int(rng.choice([0, 0, 1, 8, 400]))))
    return sealed(bytes(body))


@every_sample
def test_forged_streams(sample: Callable[[], Coded]) -> None:
    """Refused, or read to some array: never another error, never more memory than such an array could need."""
    coded = sample()
    sound, rng = coded.to_bytes(), np.random.default_rng(0)
    refused = read = 0
    tracemalloc.start()
    try:
        for _ in range(400):
            if outcome(mutant(sound, rng), coded.care):
                read += 1
            else:
                refused += 1
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()
    assert refused > 150
    assert read > 5


@settings(max_examples=300)
@given(body=st.binary(max_size=60))
def test_random_bytes_with_a_checksum(body: bytes) -> None:
    outcome(sealed(body), np.arange(20) % 2 == 0)
    outcome(sealed(len(body).to_bytes(2, "little") + body), np.arange(20) % 2 == 0)


def test_masks_of_another_array() -> None:
    coded = SAMPLES["banded"]()
    more = coded.care.copy()
    more[np.flatnonzero(~more)[0]] = True
    for other in (coded.care[:-1], np.append(coded.care, False), more, ~coded.care, np.zeros(900, bool)):
        with pytest.raises(ArtifactError, match=r"^xor: the stream is of "):
            Coded(coded.data, other)
    assert Coded(coded.data, coded.care.reshape(9, 100)).decode().shape == (9, 100)


# Refusals -------------------------------------------------------------------------------------------------------------

X, CARE = np.arange(8, dtype=np.uint8), np.arange(8) > 2
F = X.astype(np.float32)
V, T = ArgumentError, ArgumentTypeError

BAD: dict[str, tuple[type[Exception], str, Callable[[], Any]]] = {
    "values list": (T, "^values: found list", lambda: encode(X.tolist(), CARE)),
    "values None": (T, "^values: found NoneType", lambda: encode(None, CARE)),
    "values complex": (T, "^values: found dtype complex64", lambda: encode(X.astype(np.complex64), CARE)),
    "values str": (T, "^values: found dtype <U1", lambda: encode(np.array(list("abcdefgh")), CARE)),
    "values object": (T, "^values: found dtype object", lambda: encode(X.astype(object), CARE)),
    "values datetime": (T, "^values: found dtype datetime64", lambda: encode(X.astype("M8[s]"), CARE)),
    "values struct": (T, "^values: found dtype ", lambda: encode(X.view([("a", "u1")]), CARE)),
    "values float8": (T, "^values: found dtype float8", lambda: encode(X.astype(ml_dtypes.float8_e4m3), CARE)),
    "values masked": (T, "^values: ", lambda: encode(np.ma.masked_array(X, CARE), CARE)),
    "care int": (T, "^care: found dtype uint8", lambda: encode(X, CARE.view(np.uint8))),
    "care list": (T, "^care: found list", lambda: encode(X, CARE.tolist())),
    "care float": (T, "^care: found dtype float32", lambda: encode(X, F)),
    "care None": (T, "^care: found NoneType", lambda: encode(X, None)),
    "care short": (V, r"^care: found shape \(7,\).*\(8,\)", lambda: encode(X, CARE[:7])),
    "care that would broadcast": (V, r"^care: found shape \(8,\).*\(1, 8\)", lambda: encode(X[None], CARE)),
    "bits too few": (V, "^bits: found 2 with values from 3 to 7.*at least 3", lambda: encode(X, CARE, bits=2)),
    "bits of a negative": (V, "^bits: found 3 .*at least 4", lambda: encode(X.view("i1") - 5, CARE | True, bits=3)),
    "bits 0": (V, "^bits: found 0", lambda: encode(X, CARE, bits=0)),
    "bits 9 of uint8": (V, "^bits: found 9.*1 to 8", lambda: encode(X, CARE, bits=9)),
    "bits float": (V, r"^bits: found 3\.0", lambda: encode(X, CARE, bits=3.0)),  # type: ignore[arg-type]
    "bits True": (V, "^bits: found True", lambda: encode(X, CARE, bits=True)),
    "bits of float32": (V, "^bits: found 8.*32", lambda: encode(F, CARE, bits=8)),
    "code 3": (T, "^code: found 3", lambda: encode(X, CARE, code=3)),  # type: ignore[arg-type]
    "code class": (T, "^code: found <class", lambda: encode(X, CARE, code=Banded)),  # type: ignore[arg-type]
    "code name": (T, "^code: found 'banded'", lambda: encode(X, CARE, code="banded")),  # type: ignore[arg-type]
    "seed -1": (V, "^seed: found -1", lambda: encode(X, CARE, seed=-1)),
    "seed 2**64": (V, "^seed: found 18446744073709551616", lambda: encode(X, CARE, seed=1 << 64)),
    "seed True": (V, "^seed: found True", lambda: encode(X, CARE, seed=True)),
    "seed None": (V, "^seed: found None", lambda: encode(X, CARE, seed=None)),  # type: ignore[arg-type]
    "permute 2": (T, "^permute: found 2", lambda: encode(X, CARE, permute=2)),  # type: ignore[arg-type]
    "window 7": (V, "^window: found 7", lambda: Banded(7)),
    "window 129": (V, "^window: found 129", lambda: Banded(129)),
    "slack -1": (V, "^slack: found -1", lambda: Banded(slack=-1)),
    "slack 2": (V, "^slack: found 2", lambda: Banded(slack=2)),
    "slack nan": (V, "^slack: found nan", lambda: Banded(slack=float("nan"))),
    "slack text": (V, "^slack: found '1'", lambda: Banded(slack="1")),  # type: ignore[arg-type]
    "slack True": (V, "^slack: found True", lambda: Banded(slack=True)),
    "paced 1": (V, "^paced: found 1", lambda: Banded(paced=1)),  # type: ignore[arg-type]
    "n_in 0": (V, "^n_in: found 0", lambda: Slices(0)),
    "n_in 513": (V, "^n_in: found 513", lambda: Slices(513)),
    "n_out 0": (V, "^n_out: found 0", lambda: Slices(8, 0)),
    "n_in 9 of steps": (V, "^n_in: found 9", lambda: Sequential(9)),
    "registers 3": (V, "^registers: found 3", lambda: Sequential(8, 3)),
    "n_out 1025 of steps": (V, "^n_out: found 1025", lambda: Sequential(8, 1, 1025)),
    "read backwards": (V, "^start, stop: found 5, 4", lambda: encode(X, CARE).read(5, 4)),
    "read too far": (V, "^start, stop: found 0, 9", lambda: encode(X, CARE).read(0, 9)),
    "read below 0": (V, "^start, stop: found -1, 4", lambda: encode(X, CARE).read(-1, 4)),
    "read of shuffled": (V, "^start, stop: .*permute=False", lambda: encode(X, CARE, permute=True).read(0, 4)),
}


@pytest.mark.parametrize(("error", "message", "call"), BAD.values(), ids=list(BAD))
def test_refused(error: type[Exception], message: str, call: Callable[[], Any]) -> None:
    with pytest.raises(error, match=message) as caught:
        call()
    assert isinstance(caught.value, fq.FactorqError)
    assert "\n" not in str(caught.value)


def test_defaults() -> None:
    assert encode(X, CARE).to_bytes() == encode(X, CARE, bits=3, code=Banded(128), seed=0, permute=False).to_bytes()
    assert encode(X, CARE, seed=1).to_bytes() != encode(X, CARE).to_bytes()
    assert fq.xor.encode is encode
    assert repr(encode(X, CARE)).startswith("Coded(3 of 3 planes by XOR, 5 of 8 numbers, 0 patches, ")
