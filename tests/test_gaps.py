"""The gap code: known bytes, twins, the exact size, and decoding of damaged and random streams."""

from __future__ import annotations

from types import ModuleType

import array_api_strict
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factorq.errors import ArgumentError, ArgumentTypeError, ArtifactError
from factorq.kernels import gaps as door
from factorq.kernels.gaps import numba_twin, reference

SIZES = (0, 1, 2, 63, 64, 65, 127, 128, 129, 1000)


def draw(size: int, share: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, size]).random(size) < share


def entropy(share: float) -> float:
    """Bits per position."""
    return float(-share * np.log2(share) - (1 - share) * np.log2(1 - share))


def check(mask: np.ndarray) -> tuple[np.ndarray, int]:
    """Both twins write the same, plan tells its size, both read it back."""
    stream, parameter = door.encode(mask)
    plain, plain_parameter = reference.encode(mask)
    assert parameter == plain_parameter
    np.testing.assert_array_equal(stream, plain)
    assert door.plan(mask) == reference.plan(mask) == (parameter, stream.size)
    count = int(mask.sum())
    for twin in (door, reference):
        back = twin.decode(stream, parameter, mask.size, count)
        assert back.dtype == np.bool_
        np.testing.assert_array_equal(back, mask)
    return stream, parameter


@pytest.mark.parametrize(
    ("mask", "stream", "parameter"),
    [
        ("", [], 2),
        ("0", [], 2),
        ("1", [], 3),
        ("0001", [0b110], 4),
        ("1000", [0b1], 2),
        ("1110", [0b110], 5),
        ("0101", [0b1010], 2),
    ],
)
def test_known_bytes(mask: str, stream: list[int], parameter: int) -> None:
    found, found_parameter = check(np.array([c == "1" for c in mask], bool))
    assert (found.tolist(), found_parameter) == (stream, parameter)


@pytest.mark.parametrize(
    ("modulus", "gaps", "digits"),
    [  # digits of the stream in the order of its bits; quotient, remainder
        (1, (3, 0), "0001 1"),
        (2, (3, 0), "01,1 1,0"),
        (3, (4, 3, 0), "01,10 01,0 1,0"),
        (4, (6, 0), "01,10 1,00"),
        (5, (9, 2), "01,111 1,01"),
        (6, (2, 0, 5), "1,01,0 1,00 1,11,1"),
        (64, (64,), "01,000000"),
    ],
)
@pytest.mark.parametrize("twin", [numba_twin, reference])
def test_known_codes(modulus: int, gaps: tuple[int, ...], digits: str, twin: ModuleType) -> None:
    bits = [int(c) for c in digits if c in "01"]
    stream = np.packbits(np.array(bits, np.uint8), bitorder="little")
    positions = np.cumsum(np.array(gaps) + 1) - 1
    expected = np.zeros(100, bool)
    expected[positions] = True
    for inverted in (0, 1):
        mask = twin.decode(stream, 2 * modulus + inverted, 100, 100 - len(gaps) if inverted else len(gaps))
        np.testing.assert_array_equal(mask, expected != bool(inverted))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("share", [0.0, 0.01, 0.2, 0.5, 0.7, 0.99, 1.0])
def test_edges_of_words(size: int, share: float) -> None:
    check(draw(size, share))


@settings(deadline=None, max_examples=150)
@given(mask=st.lists(st.booleans(), max_size=300))
def test_round_trip_of_any_mask(mask: list[bool]) -> None:
    check(np.array(mask, bool))


@settings(deadline=None, max_examples=60)
@given(size=st.integers(0, 3000), share=st.floats(0, 1), seed=st.integers(0, 2**32))
def test_round_trip_of_random_masks(size: int, share: float, seed: int) -> None:
    check(draw(size, share, seed))


def test_long_gaps_and_far_quotients() -> None:
    for ones in (
        [99_999],
        [0, 99_999],
        [*range(5000), 99_999],
        [*range(0, 40_000, 5000), 50_001],
        [4095, 8191, 12_288],
    ):
        mask = np.zeros(100_000, bool)
        mask[ones] = True
        check(mask)
        check(~mask)


@pytest.mark.parametrize("share", [0.01, 0.05, 0.1, 0.2, 0.3, 0.5])
def test_size_near_entropy(share: float) -> None:
    mask = draw(400_000, share)
    _, nbytes = door.plan(mask)
    bound = entropy(float(mask.mean())) * mask.size
    assert 0.995 * bound < 8 * nbytes < (1.035 if share <= 0.3 else 1.001) * bound


def test_plan_is_the_smallest_of_all_moduli_considered() -> None:
    mask = draw(5000, 0.13)
    gaps = np.diff(np.flatnonzero(mask), prepend=-1) - 1
    sizes = {}
    for modulus in range(1, 40):
        width, short = reference.remainder_width(modulus)
        sizes[modulus] = sum(int(g) // modulus + 1 + width - (int(g) % modulus < short) for g in gaps)
    parameter, nbytes = door.plan(mask)
    considered = {m: sizes[m] for m in (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32)}
    assert parameter // 2 == min(considered, key=lambda m: considered[m])
    assert nbytes == (min(considered.values()) + 7) // 8


def test_read_only_strided_and_misaligned_inputs() -> None:
    mask = draw(700, 0.1)
    stream, parameter = door.encode(mask)
    moved = np.concatenate([[False], mask])
    moved.flags.writeable = False
    for same in (moved[1:], np.repeat(mask, 2)[::2], array_api_strict.asarray(mask)):
        np.testing.assert_array_equal(door.encode(same)[0], stream)
    shifted = np.concatenate([np.zeros(1, np.uint8), stream])[1:]
    shifted.flags.writeable = False
    np.testing.assert_array_equal(door.decode(shifted, parameter, 700, int(mask.sum())), mask)


def outcome(twin: ModuleType, stream: np.ndarray, parameter: int, size: int, count: int) -> bytes | None:
    """The decoded mask as bytes, None if refused; anything else is a failure."""
    try:
        mask = twin.decode(stream, parameter, size, count)
    except ArtifactError:
        return None
    assert mask.shape == (size,)
    assert int(mask.sum()) == count
    return bytes(np.packbits(mask))


@settings(deadline=None, max_examples=500)
@given(
    stream=st.binary(max_size=40),
    parameter=st.integers(2, 600),
    size=st.integers(300, 600),
    count=st.integers(0, 600),
)
def test_random_bytes_give_a_mask_or_an_artifact_error(stream: bytes, parameter: int, size: int, count: int) -> None:
    array = np.frombuffer(stream, np.uint8)
    count = min(count, size)
    assert outcome(door, array, parameter, size, count) == outcome(reference, array, parameter, size, count)


@settings(deadline=None, max_examples=300)
@given(
    size=st.integers(1, 400),
    share=st.floats(0, 1),
    seed=st.integers(0, 2**32),
    flip=st.integers(0, 10**6),
    step=st.sampled_from([-2, -1, 1, 2]),
)
def test_damage_gives_a_mask_or_an_artifact_error(size: int, share: float, seed: int, flip: int, step: int) -> None:
    mask = draw(size, share, seed)
    stream, parameter = door.encode(mask)
    count = int(mask.sum())
    wrong = stream.copy()
    if stream.size:
        wrong[flip % stream.size] ^= np.uint8(1 << flip % 8)
    for damaged in (wrong, stream[: flip % (stream.size + 1)], np.append(stream, np.uint8(flip % 256))):
        assert outcome(door, damaged, parameter, size, count) == outcome(reference, damaged, parameter, size, count)
    if 0 <= count + step <= size:
        shifted = outcome(door, stream, parameter, size, count + step)
        assert shifted == outcome(reference, stream, parameter, size, count + step)


@pytest.mark.parametrize(
    ("stream", "parameter", "size", "count", "message"),
    [
        ([], 2, 5, 1, "end in the middle"),
        ([0], 2, 5, 1, "end in the middle|reaches"),
        ([0] * 100, 2, 10_000, 1, "end in the middle"),
        ([0] * 100, 2, 50, 1, "reaches"),
        ([255], 2, 5, 6, "count: found 6 ones in a mask of 5"),
        ([255], 2, 7, 7, "not zero"),
        ([1, 0], 2, 8, 1, "found 2 bytes, the code ends after 1"),
        ([1, 1], 2, 8, 1, "found 2 bytes, the code ends after 1"),
        ([0], 2, 5, 0, "found 1 bytes, the code ends after 0"),
        ([0b11], 2, 8, 1, "not zero"),
        ([0b10000], 2, 4, 1, "reaches"),
        ([1], 0, 5, 1, "parameter: found 0"),
        ([1], 1, 5, 1, "parameter: found 1"),
        ([1], -2, 5, 1, "parameter: found -2"),
        ([1], 12, 5, 1, "parameter: found 12, allowed is 2..11"),
        ([1], 2**80, 5, 1, "parameter: found"),
        ([1], 2, -1, 0, "size: found -1"),
        ([1], 2, 2**60, 0, "size: found"),
        ([1], 2, 5, -1, "count: found -1"),
    ],
)
def test_refused_streams(stream: list[int], parameter: int, size: int, count: int, message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        door.decode(np.array(stream, np.uint8), parameter, size, count)


def test_wrong_arguments() -> None:
    stream = np.zeros(1, np.uint8)
    with pytest.raises(ArgumentTypeError, match="mask: found dtype uint8"):
        door.encode(stream)
    with pytest.raises(ArgumentTypeError, match="mask: found list"):
        door.plan([True])
    with pytest.raises(ArgumentError, match="1-D"):
        door.encode(np.zeros((2, 2), bool))
    with pytest.raises(ArgumentTypeError, match="stream: found dtype int8"):
        door.decode(stream.view(np.int8), 2, 4, 1)
    with pytest.raises(ArgumentTypeError, match=r"count: found 1\.0"):
        door.decode(stream, 2, 4, 1.0)  # type: ignore[arg-type]
