"""The rANS coder, its tables and streams: round trips, twins, sizes beside the entropy, streams that nobody wrote."""

from __future__ import annotations

import math
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factorq.errors import ArgumentError, ArgumentTypeError, ArtifactError
from factorq.kernels import rans
from factorq.kernels.rans import classes, numba_twin, reference, tables
from factorq.measure import empirical_entropy


def letters(n: int, width: int, seed: int = 0, spread: float = 6.0) -> np.ndarray:
    """n codes of ``width`` bits of a Gaussian grid."""
    x = np.random.default_rng(seed).standard_normal(n) * 2**width / spread + 2 ** (width - 1) - 0.5
    return np.clip(np.rint(x), 0, 2**width - 1).astype(np.uint8 if width <= 8 else np.uint16)


def freqs_of(counts: np.ndarray, precision: int) -> np.ndarray:
    return tables.normalise(np.atleast_2d(counts).astype(np.int64), precision)


@st.composite
def coded(draw: st.DrawFn) -> dict[str, Any]:
    """Symbols, contexts and tables in which they can be coded."""
    width, number, precision = draw(st.integers(0, 6)), draw(st.integers(1, 4)), draw(st.integers(8, 15))
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    weights = rng.integers(1, draw(st.sampled_from((2, 50, 100_000))), (number, 2**width))
    n = draw(st.integers(0, 700))
    return {
        "symbols": rng.integers(0, 2**width, n).astype(draw(st.sampled_from((np.uint8, np.uint16)))),
        "freqs": freqs_of(weights, precision),
        "precision": precision,
        "contexts": rng.integers(0, number, n).astype(np.uint8) if number > 1 else None,
        "lanes": draw(st.sampled_from((1, 4))),
        "block": draw(st.sampled_from((1, 3, 100, 1 << 16))),
    }


# The coder -----------------------------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(case=coded())
def test_decoding_gives_the_symbols(case: dict[str, Any]) -> None:
    symbols = case.pop("symbols")
    words, sizes = rans.encode(symbols, **case)
    again = rans.decode(words, sizes, symbols.size, **case)
    np.testing.assert_array_equal(again, symbols)
    assert sizes.sum() == words.size
    assert len(sizes) == -(-symbols.size // case["block"])


@settings(max_examples=40)
@given(case=coded())
def test_twins_agree(case: dict[str, Any]) -> None:
    symbols, contexts = case["symbols"], case["contexts"]
    contexts = np.empty(0, np.uint8) if contexts is None else contexts
    rest = contexts, case["freqs"], case["precision"], case["lanes"], case["block"]
    found = [twin.encode(symbols, *rest) for twin in (reference, numba_twin)]
    for a, b in zip(*found, strict=True):
        np.testing.assert_array_equal(a, b)
    for twin in (reference, numba_twin):
        out = np.empty_like(symbols)
        twin.decode(*found[0], *rest, out)
        np.testing.assert_array_equal(out, symbols)


def test_known_words() -> None:
    """By hand, from state 1, the last symbol first: x becomes x // 2048 * 4096 + start + x % 2048 where f = 2048."""
    freqs = np.array([[2048, 2048]])
    words, sizes = rans.encode(np.array([1, 0, 0, 1], np.uint8), freqs, 12, lanes=1)
    x = 1
    for symbol in (1, 0, 0, 1):
        x = (x // 2048) * 4096 + 2048 * symbol + x % 2048
    assert words.tolist() == [x >> 16, x & 0xFFFF]
    assert sizes.tolist() == [2]
    words, _ = rans.encode(np.zeros(5, np.uint8), np.array([[4096]]), 12)  # a certain symbol takes nothing
    assert words.tolist() == [1, 0] * 4


@pytest.mark.parametrize("blocks", [(0, 1), (3, 4), (1, 4), (4, 4), (0, 5), (4, 5)])
def test_any_block_can_be_read_alone(blocks: tuple[int, int]) -> None:
    symbols, contexts = letters(4500, 4), (np.arange(4500) % 2).astype(np.uint8)
    freqs = freqs_of([[1] * 16, range(1, 17)], 12)
    words, sizes = rans.encode(symbols, freqs, 12, contexts, block=1000)
    part = rans.decode(words, sizes, 4500, freqs, 12, contexts, block=1000, blocks=blocks)
    np.testing.assert_array_equal(part, symbols[1000 * blocks[0] : 1000 * blocks[1]])


@pytest.mark.parametrize("lanes", [1, 4])
def test_size_is_the_entropy(lanes: int) -> None:
    """Within 0.1 % of the entropy of 16 letters, states and directory included."""
    symbols = letters(1 << 19, 4)
    words, sizes = rans.encode(symbols, freqs_of(np.bincount(symbols, minlength=16), 12), 12, lanes=lanes)
    ideal = empirical_entropy(symbols) * symbols.size / 8
    assert ideal < words.nbytes + 4 * sizes.size < 1.001 * ideal


@settings(max_examples=60)
@given(data=st.data(), lanes=st.sampled_from((1, 4)))
def test_corrupted_words(data: st.DataObject, lanes: int) -> None:
    """Flipped, lost or added words: an error, or symbols of the alphabet; never a crash."""
    symbols = letters(500, 4)
    freqs = freqs_of(np.bincount(symbols, minlength=16), 12)
    words, sizes = rans.encode(symbols, freqs, 12, lanes=lanes, block=200)
    words[data.draw(st.integers(0, words.size - 1))] ^= data.draw(st.integers(1, 0xFFFF))
    cut = data.draw(st.integers(-3, 3))
    words = words[:cut] if cut < 0 else np.append(words, np.zeros(cut, np.uint16))
    sizes = sizes + np.array([0, 0, cut])
    with suppress(ArtifactError):
        assert rans.decode(words, sizes, 500, freqs, 12, lanes=lanes, block=200).max() < 16


def test_most_flips_are_seen() -> None:
    """The final states are a check of 16 bits or more."""
    symbols = letters(400, 4)
    freqs = freqs_of(np.bincount(symbols, minlength=16), 12)
    for lanes in (1, 4):
        words, sizes = rans.encode(symbols, freqs, 12, lanes=lanes)
        for k in range(words.size):
            wrong = words.copy()
            wrong[k] ^= 0x0101
            for twin in (numba_twin, reference):
                with pytest.raises(ArtifactError, match="corrupted"):
                    twin.decode(wrong, sizes, np.empty(0, np.uint8), freqs, 12, lanes, 1 << 16, np.empty(400, np.uint8))


SOUND = {"symbols": letters(9, 2), "freqs": freqs_of([1, 2, 3, 4], 12), "precision": 12}
REFUSED = {
    "precision": ({"precision": 16}, ArgumentError),
    "sums": ({"precision": 13}, ArgumentError),
    "dtype of freqs": ({"freqs": SOUND["freqs"].astype(float)}, ArgumentTypeError),
    "dtype of symbols": ({"symbols": np.zeros(3)}, ArgumentTypeError),
    "symbols": ({"symbols": np.full(3, 4, np.uint8)}, ArgumentError),
    "freq of 0": ({"freqs": freqs_of([1, 0, 0, 1], 12)}, ArgumentError),
    "contexts": ({"contexts": np.ones(9, np.uint8)}, ArgumentError),
    "shape of contexts": ({"contexts": np.zeros(8, np.uint8)}, ArgumentError),
    "lanes": ({"lanes": 2}, ArgumentError),
    "block": ({"block": 0}, ArgumentError),
}


@pytest.mark.parametrize(("change", "error"), REFUSED.values(), ids=list(REFUSED))
def test_refused(change: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        rans.encode(**(SOUND | change))


def test_sizes_that_do_not_fit() -> None:
    words, sizes = rans.encode(**SOUND, block=4)
    rest = {"size": 9, "freqs": SOUND["freqs"], "precision": 12, "block": 4}
    for wrong in (sizes[:2], sizes + 1, sizes[::-1] * 0, sizes - [2**62, -(2**62), 0]):
        with pytest.raises(ArtifactError):
            rans.decode(words, wrong, **rest)
    with pytest.raises(ArtifactError):
        rans.decode(words.astype(np.int32), sizes, **rest)


# Tables --------------------------------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(
    weights=st.lists(st.integers(0, 1 << 30), min_size=1, max_size=40).filter(any),
    precision=st.integers(8, 15),
)
def test_frequencies(weights: list[int], precision: int) -> None:
    freqs = freqs_of(np.array(weights), precision)[0]
    assert freqs.sum() == 1 << precision
    assert ((freqs > 0) == (np.array(weights) > 0)).all()
    share = np.array(weights) / sum(weights) * 2.0**precision
    assert np.abs(freqs - share).max() <= len(weights)
    order = np.argsort(weights, kind="stable")
    assert (np.diff(freqs[order]) >= -1).all()


@settings(max_examples=80)
@given(
    levels=st.lists(st.lists(st.integers(0, 241), min_size=5, max_size=5), min_size=1, max_size=4),
    order=st.integers(0, tables.ORDERS - 1),
    start=st.integers(0, 9),
)
def test_levels_come_back(levels: list[list[int]], order: int, start: int) -> None:
    table, found = np.array(levels), []
    for twin in (reference, numba_twin):
        bits = np.full(64 * table.size + 512, 9, np.uint8)
        used = twin.write_levels(table, order, bits[start:])
        found.append(bits[: start + used].tolist())
        again = np.empty_like(table)
        assert twin.read_levels(bits[: start + used], start, order, 241, again) == start + used
        np.testing.assert_array_equal(again, table)
        assert twin.read_levels(bits[: start + used - 1], start, order, 241, again) == -1
        assert twin.write_levels(table, order, bits[: used - 1]) == -1
    assert found[0] == found[1]


def test_tables_are_small() -> None:
    """The table of 16 letters of a Gaussian: 2,000 entries pay at most 11 bytes, its coarseness included."""
    for seed in range(5):
        symbols = letters(2000, 4, seed)
        counts = np.bincount(symbols, minlength=16)
        fitted = tables.fitted(counts[None, :].astype(np.int64), 12)
        assert fitted.cost / 8 < 2000 * empirical_entropy(symbols) / 8 + 11


def test_fine_tables_for_many_symbols() -> None:
    counts = np.array([[1, 10, 1000, 10**5, 10**7, 10**8, 12345678]])
    share = counts / counts.sum()
    ideal = -(counts * np.log2(share)).sum()
    assert tables.fitted(counts, 15).cost < 1.001 * ideal


# Streams -------------------------------------------------------------------------------------------------------------


@settings(max_examples=80)
@given(
    bits=st.integers(1, 16),
    rows=st.integers(1, 9),
    columns=st.integers(1, 60),
    kind=st.sampled_from(("gaussian", "uniform", "constant", "even", "ends", "rows")),
    seed=st.integers(0, 99),
)
def test_codes_come_back(bits: int, rows: int, columns: int, kind: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, top = rows * columns, 2**bits - 1
    codes = {
        "gaussian": lambda: letters(n, bits, seed),
        "uniform": lambda: rng.integers(0, top + 1, n),
        "constant": lambda: np.full(n, rng.integers(0, top + 1)),
        "even": lambda: rng.integers(0, top + 1, n) // 2 * 2,
        "ends": lambda: rng.integers(0, 2, n) * top,
        "rows": lambda: np.repeat(rng.integers(0, top + 1, rows), columns),
    }[kind]()
    codes = codes.astype(np.uint8 if bits <= 8 else np.uint16)
    stream = rans.pack(codes, bits, (columns,))
    again = rans.unpack(stream, bits, n, (columns,))
    assert again.dtype == codes.dtype
    np.testing.assert_array_equal(again, codes)
    np.testing.assert_array_equal(stream, rans.pack(codes, bits, (columns,)))


def test_codes_come_back_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both twins write the same stream."""
    codes = letters(1200, 5)
    stream = rans.pack(codes, 5, (60,))
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")
    np.testing.assert_array_equal(rans.pack(codes, 5, (60,)), stream)
    np.testing.assert_array_equal(rans.unpack(stream, 5, 1200, (60,)), codes)


@pytest.mark.parametrize("bits", [2, 4, 8, 12, 16])
@pytest.mark.parametrize("n", [2000, 200_000])
def test_stream_is_near_the_entropy(bits: int, n: int) -> None:
    """Of the Gaussian itself: the empirical entropy of few samples of many letters is no bound."""
    codes = letters(n, bits)
    edges = (np.arange(1, 2**bits) - 2 ** (bits - 1)) * 6 / 2**bits
    cumulated = [0.0, *(0.5 * math.erfc(-e / math.sqrt(2)) for e in edges), 1.0]
    ideal = -n * math.fsum(p * math.log2(p) for p in np.diff(cumulated)) / 8
    assert rans.pack(codes, bits, (n,)).size < 1.002 * ideal + (25 if n == 2000 else 100)


def test_several_blocks_with_low_bits_and_classes() -> None:
    rng = np.random.default_rng(0)
    scale = np.repeat([0.5, 8.0, 60.0], 100)[rng.permutation(300)]
    codes = np.rint(rng.standard_normal((300, 500)) * scale[:, None] + 512).clip(0, 1023).astype(np.uint16)
    for matrix, columns in ((codes, 500), (codes.T, 300)):
        flat = np.ascontiguousarray(matrix).reshape(-1)
        with_classes, without = rans.pack(flat, 10, (columns,)), rans.pack(flat, 10)
        ideal = sum(empirical_entropy(codes[scale == s]) * 50_000 / 8 for s in np.unique(scale))
        assert with_classes.size < 1.005 * ideal + 300
        assert without.size > 1.05 * with_classes.size
        np.testing.assert_array_equal(rans.unpack(with_classes, 10, flat.size, (columns,)), flat)


def test_classes_are_found() -> None:
    rng = np.random.default_rng(1)
    wide = rng.permutation(np.arange(40) % 2).astype(bool)
    symbols = np.where(
        wide[:, None], letters(40 * 200, 4, 2, 5).reshape(40, 200), letters(8000, 4, 3, 40).reshape(40, 200)
    )
    found = [c for c in classes.parted(symbols.reshape(-1), 4, (200,)) if len(c.counts) == 2]
    assert [c.kind for c in found] == [classes.ROWS]
    assert set(map(tuple, np.stack([wide, found[0].labels], axis=1).tolist())) in ({(0, 0), (1, 1)}, {(0, 1), (1, 0)})
    assert not classes.parted(letters(40 * 200, 4), 4, (200,))


@settings(max_examples=150)
@given(data=st.data())
def test_corrupted_streams(data: st.DataObject) -> None:
    bits, columns = data.draw(st.sampled_from(((1, 50), (4, 50), (10, 250))))
    codes = letters(4000, bits, 1) if bits > 1 else (np.arange(4000) % 9 == 0).astype(np.uint8)
    codes[:1000] >>= codes.dtype.type(bits // 2)
    stream = rans.pack(codes, bits, (columns,))
    for _ in range(data.draw(st.integers(0, 3))):
        where = data.draw(st.integers(0, min(stream.size - 1, data.draw(st.sampled_from((6, 60, 10**6))))))
        stream[where] ^= data.draw(st.integers(1, 255))
    stream = stream[: data.draw(st.integers(0, stream.size))] if data.draw(st.booleans()) else stream
    size, offered = data.draw(st.sampled_from((4000, 3999, 1, 0, 40_000))), data.draw(st.sampled_from(((columns,), ())))
    try:
        again = rans.unpack(stream, bits, size, offered)
        assert again.shape == (size,)
        assert not size or int(again.max()) < 2**bits
    except ArtifactError:
        pass


@pytest.mark.parametrize("seed", range(3))
def test_random_bytes(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(300):
        noise = rng.integers(0, 256, rng.integers(0, 200)).astype(np.uint8)
        noise[:2] &= rng.integers(0, 256, 2).astype(np.uint8)[: noise.size]
        try:
            assert rans.unpack(noise, 8, 100, (10,)).shape == (100,)
        except ArtifactError:
            continue
