"""The bit stream: known bytes, both twins against each other and against np.packbits, refusals."""

from __future__ import annotations

import array_api_strict
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factorq.errors import ArgumentError, ArgumentTypeError, ArtifactError
from factorq.kernels import bits as door
from factorq.kernels.bits import numba_twin, reference

EDGES = (0, 1, 2, 3, 7, 8, 9, 31, 32, 33, 63, 64, 65, 127, 128, 129, 1000)
WIDTHS = range(1, 17)


def draw(size: int, bits: int, seed: int = 0) -> np.ndarray:
    """Codes whose bits above ``bits`` are set at random too."""
    dtype = np.uint8 if bits <= 8 else np.uint16
    return np.random.default_rng([seed, bits, size]).integers(0, np.iinfo(dtype).max, size, dtype, endpoint=True)


def oracle(codes: np.ndarray, bits: int) -> np.ndarray:
    """The stream by np.packbits alone."""
    octets = codes.astype("<u2").view(np.uint8).reshape(-1, 2)
    digits = np.unpackbits(octets, axis=1, bitorder="little")[:, :bits]
    return np.packbits(digits.reshape(-1), bitorder="little")


@pytest.mark.parametrize(
    ("codes", "bits", "stream"),
    [
        ([1, 0, 0, 0, 0, 0, 0, 1, 1], 1, [0x81, 0x01]),
        ([1, 2, 3], 4, [0x21, 0x03]),
        ([5, 2, 7], 3, [0b11010101, 0b1]),
        ([0x1FF, 0, 1], 9, [0xFF, 0x01, 0x04, 0x00]),
        ([0xABC, 0xDEF], 12, [0xBC, 0xFA, 0xDE]),
        ([0x1234], 16, [0x34, 0x12]),
        ([255, 1], 2, [0b0111]),
        ([], 5, []),
    ],
)
def test_known_bytes(codes: list[int], bits: int, stream: list[int]) -> None:
    array = np.array(codes, np.uint8 if bits <= 8 else np.uint16)
    for twin in (door, numba_twin, reference):
        packed = twin.pack(array, bits)
        assert packed.tolist() == stream
        assert packed.dtype == np.uint8
        assert twin.unpack(packed, bits, len(codes)).tolist() == [code % 2**bits for code in codes]


@pytest.mark.parametrize("bits", WIDTHS)
def test_edges_of_blocks(bits: int) -> None:
    for size in EDGES:
        codes = draw(size, bits)
        packed = door.pack(codes, bits)
        assert packed.size == door.packed_size(size, bits)
        np.testing.assert_array_equal(packed, oracle(codes, bits))
        np.testing.assert_array_equal(packed, reference.pack(codes, bits))
        back = door.unpack(packed, bits, size)
        assert back.dtype == codes.dtype
        np.testing.assert_array_equal(back, codes & (2**bits - 1))
        np.testing.assert_array_equal(back, reference.unpack(packed, bits, size))


@settings(deadline=None, max_examples=200)
@given(bits=st.integers(1, 16), size=st.integers(0, 400), seed=st.integers(0, 2**32))
def test_round_trip(bits: int, size: int, seed: int) -> None:
    codes = draw(size, bits, seed)
    packed = door.pack(codes, bits)
    np.testing.assert_array_equal(packed, oracle(codes, bits))
    np.testing.assert_array_equal(door.unpack(packed, bits, size), codes & (2**bits - 1))


@settings(deadline=None, max_examples=100)
@given(bits=st.integers(1, 16), size=st.integers(0, 300), seed=st.integers(0, 2**32))
def test_twins_read_any_bytes_alike(bits: int, size: int, seed: int) -> None:
    stream = np.random.default_rng(seed).integers(0, 256, door.packed_size(size, bits), dtype=np.uint8)
    np.testing.assert_array_equal(door.unpack(stream, bits, size), reference.unpack(stream, bits, size))


@pytest.mark.parametrize("bits", [1, 3, 8, 11, 16])
def test_read_only_strided_and_misaligned_inputs(bits: int) -> None:
    codes = draw(501, bits)
    expected = oracle(codes[1:], bits)
    codes.flags.writeable = False
    np.testing.assert_array_equal(door.pack(codes[1:], bits), expected)
    np.testing.assert_array_equal(door.pack(np.repeat(codes[1:], 2)[::2], bits), expected)
    shifted = np.concatenate([np.zeros(3, np.uint8), expected])[3:]
    shifted.flags.writeable = False
    np.testing.assert_array_equal(door.unpack(shifted, bits, 500), codes[1:] & (2**bits - 1))


@pytest.mark.parametrize("bits", [1, 5, 8, 12, 16])
@pytest.mark.parametrize("size", [0, 1, 65])
def test_other_namespaces_take_the_reference(bits: int, size: int) -> None:
    codes = draw(size, bits)
    packed = door.pack(array_api_strict.asarray(codes), bits)
    assert isinstance(packed, type(array_api_strict.asarray(codes)))
    np.testing.assert_array_equal(np.from_dlpack(packed), oracle(codes, bits))
    back = door.unpack(packed, bits, size)
    np.testing.assert_array_equal(np.from_dlpack(back), codes & (2**bits - 1))


def test_wrong_length_names_both_numbers() -> None:
    packed = door.pack(draw(65, 3), 3)
    for size in (0, 62, 67, 2**40):
        with pytest.raises(ArtifactError, match=rf"found 25 bytes, {size} codes of 3 bits take"):
            door.unpack(packed, 3, size)
    with pytest.raises(ArtifactError, match="found 24 bytes, 65 codes of 3 bits take 25 bytes"):
        door.unpack(packed[:-1], 3, 65)


def test_refusals() -> None:
    codes = draw(4, 4)
    for bits in (0, 17, -1):
        with pytest.raises(ArgumentError, match="bits: found"):
            door.pack(codes, bits)
    for odd in (True, 2.0, "2", None):
        with pytest.raises(ArgumentTypeError, match="bits: found"):
            door.packed_size(3, odd)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="size: found -1"):
        door.packed_size(-1, 3)
    with pytest.raises(ArgumentTypeError, match="native uint16"):
        door.pack(codes, 9)
    with pytest.raises(ArgumentTypeError, match="native uint16"):
        door.pack(draw(4, 9).astype(">u2"), 9)
    with pytest.raises(ArgumentTypeError, match="native uint8"):
        door.pack(codes.astype(np.int64), 4)
    with pytest.raises(ArgumentError, match="1-D"):
        door.pack(codes.reshape(2, 2), 4)
    with pytest.raises(ArgumentTypeError, match="codes: found list"):
        door.pack([1, 2], 4)
    with pytest.raises(ArgumentTypeError, match="packed: found dtype int8"):
        door.unpack(np.zeros(2, np.int8), 4, 4)


def test_sizes() -> None:
    assert [door.packed_size(n, 3) for n in (0, 1, 2, 3, 8, 9)] == [0, 1, 1, 2, 3, 4]
    assert door.packed_size(2**40, 16) == 2**41
    assert door.packed_size(np.int32(2**31 - 1), np.uint8(16)) == 2**32 - 2
