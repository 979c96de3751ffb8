"""Bits to the ones of a mask and back, and the rank directory: known answers, twins, both compiled versions."""

from __future__ import annotations

from types import ModuleType

import array_api_strict
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factorq.errors import ArgumentError, ArgumentTypeError, ArtifactError
from factorq.kernels import deposit as door
from factorq.kernels.deposit import numba_twin, reference
from factorq.kernels.deposit.numba_twin import portable

VERSIONS = [portable, *([numba_twin.version] if numba_twin.version is not portable else [])]
SIZES = (0, 1, 7, 8, 9, 63, 64, 65, 72, 511, 512, 513, 1000, 4099)


def draw(size: int, share: float, planes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mask, packed planes and whole planes, with random bits also where they are to be ignored."""
    rng = np.random.default_rng([seed, size])
    mask = np.packbits(rng.random(size) < share, bitorder="little")
    count = int(np.bitwise_count(mask).sum())
    packed = rng.integers(0, 256, (planes, (count + 7) // 8), dtype=np.uint8)
    return mask, packed, rng.integers(0, 256, (planes, (size + 7) // 8), dtype=np.uint8)


def cut(packed: np.ndarray, count: int) -> np.ndarray:
    """Rows of bits without what pads the last byte."""
    bits = np.unpackbits(packed, axis=-1, count=count, bitorder="little")
    return np.packbits(bits, axis=-1, bitorder="little")


def check(mask: np.ndarray, packed: np.ndarray, bits: np.ndarray, size: int) -> None:
    """All twins and versions agree, and the two directions undo each other."""
    spread, found = np.empty_like(bits), np.empty_like(packed)
    count = reference.deposit(packed, mask, spread)
    reference.extract(bits, mask, found)
    assert door.count(mask, size) == count == reference.count(mask)
    kept = numba_twin.version
    try:
        for version in VERSIONS:
            numba_twin.version = version
            np.testing.assert_array_equal(door.deposit(packed, mask, size), spread)
            np.testing.assert_array_equal(door.extract(bits, mask, size), found)
    finally:
        numba_twin.version = kept
    np.testing.assert_array_equal(door.extract(spread, mask, size), cut(packed, count))
    np.testing.assert_array_equal(door.deposit(found, mask, size), bits & mask)


@pytest.fixture(params=VERSIONS, ids=lambda version: version.__name__.rpartition(".")[2])
def version(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr(numba_twin, "version", request.param)
    return request.param


def test_the_fast_version_serves_this_processor() -> None:
    from llvmlite import binding

    fast = binding.get_host_cpu_features().get("bmi2", False) and binding.get_host_cpu_name() not in (
        "bdver4", "znver1", "znver2",
    )  # fmt: skip
    assert numba_twin.native() == fast
    assert numba_twin.version.__name__.endswith(".bmi2" if fast else ".portable")


@pytest.mark.parametrize(
    ("setting", "value", "native"),
    [("CPU_NAME", "generic", False), ("CPU_FEATURES", "+sse2,+bmi2", True), ("CPU_FEATURES", "-bmi2", False)],
)
def test_compiling_for_another_processor(
    setting: str, value: str, native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(numba_twin.config, setting, value)
    assert numba_twin.native() == native


@pytest.mark.parametrize(
    ("packed", "mask", "expected"),
    [
        ("", "0000", "0000"),
        ("1", "0010", "0010"),
        ("0", "0010", "0000"),
        ("101", "1110", "1010"),
        ("110", "01001001", "01001000"),
        ("0110 1001 1", "1111 0000 1111 0000 1", "0110 0000 1001 0000 1"),
        ("01" * 32 + "11", "1" * 64 + "011", "01" * 32 + "011"),
    ],
)
def test_known_bits(packed: str, mask: str, expected: str, version: ModuleType) -> None:
    source, positions, bits = (
        np.packbits([int(c) for c in text if c != " "], bitorder="little") if text else np.zeros(0, np.uint8)
        for text in (packed, mask, expected)
    )
    size = len(mask.replace(" ", ""))
    np.testing.assert_array_equal(door.deposit(source, positions, size), bits)
    np.testing.assert_array_equal(door.extract(bits, positions, size), source)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("share", [0.0, 0.05, 0.3, 0.7, 1.0])
def test_edges_of_words(size: int, share: float) -> None:
    check(*draw(size, share, 3), size)


@settings(deadline=None, max_examples=100)
@given(size=st.integers(0, 2000), share=st.floats(0, 1), planes=st.integers(0, 3), seed=st.integers(0, 2**32))
def test_twins(size: int, share: float, planes: int, seed: int) -> None:
    check(*draw(size, share, planes, seed), size)


@settings(deadline=None, max_examples=100)
@given(runs=st.lists(st.integers(1, 300), max_size=12), first=st.booleans(), seed=st.integers(0, 2**32))
def test_runs(runs: list[int], first: bool, seed: int) -> None:
    """Long runs of zeros after the last one leave many words when the packed bits are used up."""
    mask = np.repeat((np.arange(len(runs)) % 2 == 0) == first, runs)
    packed_mask = np.packbits(mask, bitorder="little")
    rng = np.random.default_rng(seed)
    packed = rng.integers(0, 256, (2, (int(mask.sum()) + 7) // 8), dtype=np.uint8)
    check(packed_mask, packed, rng.integers(0, 256, (2, packed_mask.size), dtype=np.uint8), mask.size)


def test_one_plane_and_strided_arrays(version: ModuleType) -> None:
    mask, packed, bits = draw(999, 0.3, 2)
    both = door.deposit(packed, mask, 999)
    np.testing.assert_array_equal(door.deposit(packed[1], mask, 999), both[1])
    np.testing.assert_array_equal(door.extract(bits[1], mask, 999), door.extract(bits, mask, 999)[1])
    for x in (mask, packed, bits):
        x.flags.writeable = False
    np.testing.assert_array_equal(door.deposit(np.repeat(packed, 2, 1)[:, ::2], mask, 999), both)
    np.testing.assert_array_equal(door.deposit(np.asfortranarray(packed), np.repeat(mask, 3)[::3], 999), both)
    strict = [array_api_strict.asarray(x) for x in (packed.copy(), mask.copy())]
    np.testing.assert_array_equal(door.deposit(*strict, 999), both)


@settings(deadline=None, max_examples=60)
@given(
    size=st.integers(0, 3000),
    share=st.floats(0, 1),
    every=st.sampled_from([64, 128, 512, 4096]),
    seed=st.integers(0, 2**32),
)
def test_rank_and_select(size: int, share: float, every: int, seed: int) -> None:
    mask = np.random.default_rng(seed).random(size) < share
    bits, ones = np.packbits(mask, bitorder="little"), np.flatnonzero(mask)
    directory = door.ranks(bits, size, every)
    plain = np.empty_like(directory)
    reference.ranks(bits, every, plain)
    np.testing.assert_array_equal(directory, plain)
    places = np.arange(size + 1)
    np.testing.assert_array_equal(door.rank(bits, directory, places, every), np.append(0, np.cumsum(mask)))
    np.testing.assert_array_equal(door.select(bits, directory, np.arange(ones.size), every), ones)
    out = np.empty(ones.size, np.int64)
    reference.select(bits, directory, np.arange(ones.size), every, out)
    np.testing.assert_array_equal(out, ones)
    out = np.empty(size + 1, np.int64)
    reference.rank(bits, directory, places, every, out)
    np.testing.assert_array_equal(out, np.append(0, np.cumsum(mask)))


def test_single_numbers_give_numbers() -> None:
    mask = np.packbits(np.arange(1000) % 3 == 0, bitorder="little")
    directory = door.ranks(mask, 1000)
    assert door.rank(mask, directory, np.uint8(9)) == 3
    assert isinstance(door.rank(mask, directory, 9), int)
    assert isinstance(door.select(mask, directory, 333), int)
    assert door.rank(mask, directory, 1000) == 334


@settings(deadline=None, max_examples=100)
@given(size=st.integers(1, 300), share=st.floats(0, 1), seed=st.integers(0, 2**32))
def test_a_false_directory_gives_false_numbers_and_no_more(size: int, share: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask = np.packbits(rng.random(size) < share, bitorder="little")
    directory = rng.integers(-(2**62), 2**62, -(-size // 64) + 1)
    door.rank(mask, directory, rng.integers(0, 8 * mask.size + 1, 50), 64)
    directory[-1] = abs(directory[-1]) + 1
    found = door.select(mask, directory, rng.integers(0, directory[-1], 50), 64)
    assert ((found >= 0) & (found <= 8 * mask.size + 64)).all()


def test_lengths_that_do_not_fit(version: ModuleType) -> None:
    mask, packed, bits = draw(1000, 0.3, 2)
    for wrong in (packed[:, :-1], packed[:, :0], np.hstack([packed, packed]), np.hstack([packed, packed[:, :1]])):
        with pytest.raises(ArtifactError, match=r"packed: found .* bytes per plane"):
            door.deposit(wrong, mask, 1000)
    with pytest.raises(ArtifactError, match="bits: found 124 bytes per plane, 1000 bits take 125"):
        door.extract(bits[:, 1:], mask, 1000)
    for size in (0, 992, 1001):
        with pytest.raises(ArtifactError, match="mask: found 125 bytes"):
            door.deposit(packed, mask, size)
    with pytest.raises(ArtifactError, match="not zero"):
        door.ranks(np.full(2, 255, np.uint8), 15)


def test_wrong_arguments() -> None:
    mask, packed, _ = draw(1000, 0.3, 2)
    directory = door.ranks(mask, 1000)
    count = int(directory[-1])
    with pytest.raises(ArgumentTypeError, match="packed: found dtype int8"):
        door.deposit(packed.view(np.int8), mask, 1000)
    with pytest.raises(ArgumentTypeError, match="mask: found list"):
        door.count([1], 8)
    with pytest.raises(ArgumentError, match="mask: found shape"):
        door.count(mask[None], 1000)
    with pytest.raises(ArgumentError, match="packed: found shape"):
        door.deposit(packed[None], mask, 1000)
    with pytest.raises(ArgumentTypeError, match=r"size: found 1\.0"):
        door.count(mask, 1.0)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="size: found -1"):
        door.count(mask, -1)
    for every in (0, -64, 32, 100):
        with pytest.raises(ArgumentError, match="every: found"):
            door.ranks(mask, 1000, every)
    with pytest.raises(ArgumentTypeError, match="every: found True"):
        door.ranks(mask, 1000, True)
    with pytest.raises(ArgumentError, match="directory: found shape"):
        door.rank(mask, directory[1:], 0)
    with pytest.raises(ArgumentTypeError, match="directory"):
        door.rank(mask, directory.astype(np.int32), 0)  # type: ignore[arg-type]
    for i in (-1, 1001):
        with pytest.raises(ArgumentError, match="i: found"):
            door.rank(mask, directory, i)
    for k in (-1, count):
        with pytest.raises(ArgumentError, match="k: found"):
            door.select(mask, directory, k)
    with pytest.raises(ArgumentTypeError, match=r"k: found 0\.5"):
        door.select(mask, directory, 0.5)
