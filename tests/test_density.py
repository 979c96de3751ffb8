"""The density coder: known bytes, twins, sizes beside the entropy, and decoding of damaged and random streams."""

from __future__ import annotations

import hashlib
from types import ModuleType

import array_api_strict
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factorq.errors import ArgumentError, ArgumentTypeError, ArtifactError
from factorq.kernels import density as door
from factorq.kernels import rans
from factorq.kernels.density import numba_twin, reference, tables
from factorq.kernels.splitmix64 import splitmix64

shapes = st.tuples(st.integers(0, 24), st.integers(0, 12), st.sampled_from([0, 0, 2, 3, 9]))


def uniform(m: int, n: int, seed: int = 0) -> np.ndarray:
    """Numbers (m, n) in [0, 1) that every machine draws alike."""
    return (splitmix64(m * n, seed) >> np.uint64(11)).astype(np.float64).reshape(m, n) * 2.0**-53


def draw(shape: tuple[int, int, int], share: float, spread: float, seed: int) -> tuple[np.ndarray, int]:
    """A mask whose rows, columns and kernels differ by factors, and its group."""
    m, n, group = shape[0], shape[1] * max(shape[2], 1), shape[2]
    rows, columns = uniform(m, 1, seed + 1) ** spread, uniform(1, n, seed + 2) ** spread
    kernels = np.repeat(uniform(m, shape[1], seed + 3) ** spread, max(group, 1), axis=1)
    return uniform(m, n, seed) < share * rows * columns * kernels, group


def planted(m: int, n: int, level: float, row: float, column: float, group: int = 0, kernel: float = 0) -> np.ndarray:
    """A mask whose logits are a sum of terms of these deviations (twelve uniform numbers make a normal one)."""

    def normal(p: int, q: int, seed: int) -> np.ndarray:
        return uniform(p * q, 12, seed).sum(axis=1).reshape(p, q) - 6

    x = level + row * normal(m, 1, 11) + column * normal(1, n, 12)
    if group:
        x = x + kernel * np.repeat(normal(m, n // group, 13), group, axis=1)
    return uniform(m, n, 14) < 1 / (1 + np.exp(-x))


def entropy(mask: np.ndarray) -> float:
    """Bits of independent entries of the density of the mask."""
    p = float(mask.mean())
    return 0.0 if p in (0, 1) else mask.size * float(-p * np.log2(p) - (1 - p) * np.log2(1 - p))


def unpacked(stream: np.ndarray) -> tuple[np.ndarray, tables.Settings]:
    """The words and the settings of a stream."""
    body = stream[3:].tobytes()
    words = np.frombuffer(body + bytes(-len(body) % 4), ">u4").astype(np.uint32)
    return words, tables.Settings(int(stream[0]), int(stream[1]) >> 4, int(stream[1]) & 15, int(stream[2]))


def check(mask: np.ndarray, group: int) -> np.ndarray:
    """Both twins write and read the same."""
    stream = door.encode(mask, group)
    assert door.holds(stream, mask.size)
    words, chosen = unpacked(stream)
    flat = mask.reshape(-1).view(np.uint8)
    fast, plain = (twin.encode(flat, mask.shape, group, chosen) for twin in (numba_twin, reference))
    np.testing.assert_array_equal(fast[0], plain[0])
    assert fast[1:] == plain[1:]
    back, used = reference.decode(words, mask.shape, group, chosen)
    np.testing.assert_array_equal(back, flat)
    assert used == len(fast[0]) + 2
    found = door.decode(stream, mask.shape, group)
    assert found.dtype == np.bool_
    np.testing.assert_array_equal(found, mask)
    return stream


@pytest.mark.parametrize(
    ("mask", "stream"),
    [  # level, rows and columns, kernels; then the shortest number in the interval
        (np.zeros((0, 5), bool), [0, 0, 0]),
        (np.zeros((5, 0), bool), [0, 0, 0]),
        (np.ones((1, 1), bool), [255, 0, 0]),
        (np.zeros((1, 1), bool), [1, 0, 0, 128]),
        (np.array([[False, True]]), [128, 0, 0, 160]),
        (np.array([[True, False]]), [128, 0, 0, 128]),
    ],
)
def test_known_bytes(mask: np.ndarray, stream: list[int]) -> None:
    assert check(mask, 0).tolist() == stream


def test_first_probability_is_the_nearest_level() -> None:
    """A single entry is coded by the level alone."""
    for share, level in ((0.5, 128), (0.1, 105), (0.95, 159)):
        mask = uniform(1, 4000) < share
        assert abs(int(door.encode(mask)[0]) - level) <= 1
        assert abs((level - 128) * tables.LEVELS / 65536 - np.log(share / (1 - share))) < 0.1


def test_golden() -> None:
    """The format is frozen: tables, settings and streams of three masks."""
    made = tables.tables()
    digest = hashlib.sha256(made.squash.astype("<i4").tobytes() + made.reciprocal.astype("<i4").tobytes())
    for mask, group in (
        (uniform(100, 90) < 0.1, 0),
        (planted(100, 90, -1.5, 0.7, 0.9), 0),
        (planted(60, 90, -1.5, 0.5, 0.5, 9, 1.0), 9),
    ):
        digest.update(door.encode(mask, group).tobytes())
    assert digest.hexdigest() == "bfbdbee71d1230ba6caa7004ba09da41f059cbd89789446b76bed4b8593f7d2d"


def test_tables_lie_far_from_ties() -> None:
    """The last digits of the platform's exponential cannot change an entry."""
    x = (np.arange(tables.tables().squash.size) + 0.5) / 128 - 12
    exact = 65536 / (1 + np.exp(-x.astype(np.longdouble)))
    assert np.abs(exact - np.floor(exact) - 0.5).min() > 1e-6
    np.testing.assert_array_equal(tables.tables().squash, np.clip(np.rint(exact), 1, 65535))


@settings(deadline=None, max_examples=60)
@given(shape=shapes, share=st.floats(0, 1), spread=st.sampled_from([0.0, 1.0, 4.0]), seed=st.integers(0, 2**32))
def test_twins(shape: tuple[int, int, int], share: float, spread: float, seed: int) -> None:
    check(*draw(shape, share, spread, seed))


@pytest.mark.parametrize("shape", [(1, 3000), (3000, 1), (1, 1), (2, 1500), (3, 1024)])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.9, 1.0])
def test_one_row_and_one_column(shape: tuple[int, int], share: float) -> None:
    check(uniform(*shape) < share, 0)


def test_constant_masks_take_almost_nothing() -> None:
    for mask in (np.zeros((1000, 1000), bool), np.ones((1000, 1000), bool)):
        stream = door.encode(mask)
        assert stream.size < 25
        np.testing.assert_array_equal(door.decode(stream, mask.shape), mask)
    mask = np.zeros((1000, 1000), bool)
    mask[-1, -1] = True
    np.testing.assert_array_equal(door.decode(door.encode(mask), mask.shape), mask)


def test_carries_go_back_through_words_of_ones() -> None:
    """The mask whose interval ends just above a number with zeros at its end, and its neighbour on the other side."""
    boundary, chosen = np.array([0x12345679], np.uint32), tables.Settings(128, 0, 0, 0)
    below, _ = reference.decode(boundary, (1, 200), 0, chosen)
    words = reference.encode(below, (1, 200), 0, chosen)[0]
    assert words.tolist()[:5] == [0x12345678, *[0xFFFFFFFF] * 4]
    above = below.copy()
    last = int(np.flatnonzero(above)[-1])
    above[last] = 0
    for length in range(last, 201):
        for mask in (below[:length], above[:length]):
            fast, plain = (twin.encode(mask, (1, length), 0, chosen) for twin in (numba_twin, reference))
            np.testing.assert_array_equal(fast[0], plain[0])
            assert fast[1:] == plain[1:]
    assert fast[0].tolist()[:5] == [0x12345679, 0, 0, 0, 0]


@pytest.mark.parametrize("share", [0.3, 0.2, 0.1, 0.05])
def test_independent_entries_take_the_entropy(share: float) -> None:
    for shape, group, most in (((1000, 1000), 0, 1.003), ((400, 500), 0, 1.01), ((256, 1152), 9, 1.01)):
        mask = uniform(*shape) < share
        assert 0.999 < 8 * door.encode(mask, group).size / entropy(mask) < most


def test_rows_columns_and_kernels_that_differ_take_less() -> None:
    """Below the entropy of the density, and below frequency tables for classes of rows or columns."""
    for mask, group, most in (
        (planted(500, 600, -2.5, 1.0, 0.0), 0, 0.90),
        (planted(500, 600, -2.5, 0.0, 1.0), 0, 0.90),
        (planted(500, 600, -2.5, 0.9, 0.9), 0, 0.86),
        (planted(256, 1152, -2.5, 0.3, 0.3, 9, 1.5), 9, 0.92),
    ):
        coded = door.encode(mask, group).size
        assert 8 * coded < most * entropy(mask)
        assert coded < rans.pack(mask.reshape(-1).view(np.uint8), 1, (mask.shape[1], *((group,) if group else ()))).size


def test_neighbours_that_agree_take_less() -> None:
    blocks = np.kron(uniform(64, 64) < 0.1, np.ones((4, 4), bool))
    assert 8 * door.encode(blocks).size < 0.45 * entropy(blocks)


def test_settings_tell_the_variances() -> None:
    """Deviations of 0.5 and 1 make starts worth 4 and 1, settings 5 and 3; beside others they seem smaller."""
    for deviation, setting in ((0.25, 7), (0.5, 5), (1.0, 3)):
        assert tables.settings(planted(800, 700, -1.0, deviation, 0.0), 0)[1:] in ((setting, 0, 0), (setting + 1, 0, 0))
        assert tables.settings(planted(700, 800, -1.0, 0.0, deviation), 0)[1:] in ((0, setting, 0), (0, setting + 1, 0))
        found = tables.settings(planted(300, 900, -1.0, 0.0, 0.0, 9, deviation), 9)
        assert found.kernels in (setting, setting + 1)
    assert tables.settings(uniform(600, 900) < 0.2, 9)[1:] == (0, 0, 0)


def test_read_only_strided_and_foreign_inputs() -> None:
    mask = uniform(70, 33) < 0.2
    stream = door.encode(mask)
    mask.flags.writeable = False
    for same in (mask, np.asfortranarray(mask), np.repeat(mask, 2, 1)[:, ::2], array_api_strict.asarray(mask.copy())):
        np.testing.assert_array_equal(door.encode(same), stream)
    shifted = np.concatenate([np.zeros(1, np.uint8), stream])[1:]
    shifted.flags.writeable = False
    np.testing.assert_array_equal(door.decode(shifted, (70, 33)), mask)


def outcome(twin: ModuleType, stream: np.ndarray, shape: tuple[int, int], group: int) -> bytes | None:
    """The decoded mask as bytes, None if the door refused the stream; by the twin alone."""
    try:
        mask = door.decode(stream, shape, group)
    except ArtifactError:
        return None
    assert mask.shape == shape
    words, chosen = unpacked(stream)
    found, _ = twin.decode(words, shape, group, chosen)
    assert found.max(initial=0) <= 1
    return found.tobytes()


@settings(deadline=None, max_examples=150)
@given(
    stream=st.binary(min_size=1, max_size=60),
    m=st.integers(0, 12),
    n=st.integers(0, 12),
    group=st.sampled_from([0, 2, 3]),
)
def test_random_bytes_give_a_mask_or_an_artifact_error(stream: bytes, m: int, n: int, group: int) -> None:
    array, shape = np.frombuffer(stream, np.uint8), (m, n * max(group, 1))
    assert outcome(numba_twin, array, shape, group) == outcome(reference, array, shape, group)


@settings(deadline=None, max_examples=100)
@given(
    words=st.lists(st.sampled_from([0, 1, 2**31, 2**32 - 1, 0xAAAAAAAA]), max_size=30),
    chosen=st.tuples(st.integers(0, 255), st.integers(0, 10), st.integers(0, 10), st.integers(0, 10)),
    m=st.integers(1, 20),
    n=st.integers(1, 6),
)
def test_twins_agree_on_extreme_words(words: list[int], chosen: tuple[int, int, int, int], m: int, n: int) -> None:
    """Terms that grow far beyond what an encoder makes of them."""
    array, settings = np.array(words, np.uint32), tables.Settings(*chosen)
    fast, plain = (twin.decode(array, (m, 3 * n), 3, settings) for twin in (numba_twin, reference))
    np.testing.assert_array_equal(fast[0], plain[0])
    assert fast[1] == plain[1]


@settings(deadline=None, max_examples=100)
@given(shape=shapes, share=st.floats(0, 1), seed=st.integers(0, 2**32), flip=st.integers(0, 10**6))
def test_damage_gives_a_mask_or_an_artifact_error(
    shape: tuple[int, int, int], share: float, seed: int, flip: int
) -> None:
    mask, group = draw(shape, share, 1.0, seed)
    stream = door.encode(mask, group)
    wrong = stream.copy()
    wrong[flip % stream.size] ^= np.uint8(1 << flip % 8)
    for damaged in (wrong, stream[: flip % (stream.size + 1)], np.append(stream, np.uint8(flip % 256))):
        found = outcome(numba_twin, damaged, mask.shape, group)
        assert found == outcome(reference, damaged, mask.shape, group)


def test_truncated_and_longer_streams_are_refused() -> None:
    mask = uniform(100, 100) < 0.2
    stream = door.encode(mask)
    for size in range(stream.size - 8):
        with pytest.raises(ArtifactError, match="density stream"):
            door.decode(stream[:size], mask.shape)
    with pytest.raises(ArtifactError, match="bytes, the mask ends after"):
        door.decode(np.append(stream, np.full(9, 7, np.uint8)), mask.shape)
    with pytest.raises(ArtifactError, match="bytes, the mask ends after"):
        door.decode(np.append(stream, np.uint8(0)), mask.shape)


@pytest.mark.parametrize(
    ("stream", "shape", "group", "message"),
    [
        ([], (1, 1), 0, "0 bytes cannot hold"),
        ([128, 0], (0, 0), 0, "2 bytes cannot hold"),
        ([128, 0, 0], (1 << 24, 1), 0, "3 bytes cannot hold"),
        ([128, 0, 0], (1 << 47, 1 << 47), 0, "3 bytes cannot hold"),
        ([128, 0xB0, 0, 128], (2, 2), 0, "rows=11"),
        ([128, 0x0F, 0, 128], (2, 2), 0, "columns=15"),
        ([128, 0, 11, 128], (2, 2), 2, "kernels=11"),
        ([128, 0, 1, 128], (2, 2), 0, "kernels=1"),
    ],
)
def test_refused_streams(stream: list[int], shape: tuple[int, int], group: int, message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        door.decode(np.array(stream, np.uint8), shape, group)


def test_wrong_arguments() -> None:
    mask, stream = np.zeros((4, 6), bool), np.zeros(3, np.uint8)
    with pytest.raises(ArgumentTypeError, match="mask: found dtype uint8"):
        door.encode(mask.view(np.uint8))
    with pytest.raises(ArgumentTypeError, match="mask: found list"):
        door.encode([[True]])
    with pytest.raises(ArgumentError, match="2-D"):
        door.encode(mask[0])
    with pytest.raises(ArgumentTypeError, match="stream: found dtype int8"):
        door.decode(stream.view(np.int8), (1, 1))
    for shape in ((4,), [4, 6], (4, 6.0), (-1, 6), (True, 6)):
        with pytest.raises(ArgumentTypeError, match="shape: found"):
            door.decode(stream, shape)  # type: ignore[arg-type]
    for group in (1, 4, 65, -2):
        with pytest.raises(ArgumentError, match="group: found"):
            door.encode(mask, group)
    with pytest.raises(ArgumentTypeError, match=r"group: found 2\.0"):
        door.decode(stream, (4, 6), 2.0)  # type: ignore[arg-type]
