"""Paths as they are stored: the coder and the codec give back what went in, and damaged streams do no harm."""

from __future__ import annotations

import itertools
import json
import math
import os
import struct
import subprocess
import sys
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from cases import sample
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import bits_of

from factorq.codecs import Path
from factorq.codecs.base import decode_config
from factorq.codecs.path import mixed, rounded, static, strips
from factorq.codecs.path.blocks import blocks, extent
from factorq.errors import ArgumentError, ArtifactError
from factorq.kernels import path as kernel
from factorq.kernels.path import numba_twin, reference, tables
from factorq.kernels.trellis import STATES, machine

WHOLE = 1 << tables.PRECISION
MODELS = ("static", "mixing")
every_model = pytest.mark.parametrize("model", MODELS)


def walked(k: np.ndarray, states: int) -> np.ndarray:
    """``k`` with each entry moved to the parity that its state allows."""
    trellis, state = machine(states), 0
    out = k.astype(np.int64).reshape(-1)
    for i in range(out.size if states > 1 else 0):
        out[i] += (int(out[i]) & 1) != trellis.parity[state]
        state = trellis.successor[state, (out[i] >> 1) & 1]
    return np.clip(out, -(2**31), 2**31 - 1).astype(np.int32).reshape(k.shape)


def follows(k: np.ndarray, states: int) -> bool:
    """Whether the trellis allows k, from state 0."""
    return bool(np.array_equal(walked(k, states), k))


# The coder -----------------------------------------------------------------------------------------------------------


@st.composite
def coded(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, int, kernel.Coder, int]:
    """Integers, classes and run, a coder that can write them, and the states of their trellis."""
    states, count = draw(st.sampled_from((1, 4, 8, 256))), draw(st.integers(0, 60))
    run, classes = draw(st.integers(1, 70)), draw(st.integers(1, 3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    scale = draw(st.sampled_from((0.0, 0.3, 2.0, 30.0, 1e4, 1e6)))
    k = np.rint(rng.standard_t(1.5, count) * scale).clip(-(2**31), 2**31 - 2)
    if count and draw(st.booleans()):
        k[rng.integers(count)] = rng.choice((-(2**31), 2**31 - 2))
    k = walked(k, states)
    labels = rng.integers(0, classes, -(-max(count, 1) // run), dtype=np.uint8)
    if draw(st.booleans()):
        labels[0] = classes - 1
        return k, labels, run, kernel.Coder.fit(k, labels, run, machine(states)), states
    union, symbols = int(states > 1), draw(st.sampled_from((1, 2, 20, 256)))
    entries = rng.integers(0, 256, (classes << union, symbols), dtype=np.uint8)
    entries[rng.random(entries.shape) < draw(st.sampled_from((0.0, 0.5, 0.9)))] = 0
    entries[:, -1] = np.maximum(entries[:, -1], 1)  # a coder that was not fitted needs its escapes
    drop = union + draw(st.integers(0, kernel.MOST_LOW))
    return k, labels, run, kernel.Coder(union, drop, draw(st.integers(-300, 100)), entries), states


def by_both(words: np.ndarray, case: tuple, count: int | None = None) -> np.ndarray | None:
    """What both twins read, which has to be the same; None where they refuse."""
    k, labels, run, coder, states = case
    found = []
    for twin in (numba_twin, reference):
        out = np.zeros(k.size if count is None else count, np.int32)
        args = words, 0, labels, run, coder.union, coder.drop, coder.least, coder.frequency, coder.start, coder.slots
        sound = twin.decode(*args, machine(states).parity, machine(states).successor, out)
        found.append(out if sound else None)
    assert (found[0] is None) == (found[1] is None)
    if found[0] is not None:
        np.testing.assert_array_equal(found[0], found[1])
    return found[0]


@settings(max_examples=80)
@given(coded())
def test_decode_inverts_encode(case: tuple) -> None:
    k, labels, run, coder, states = case
    words = kernel.encode(k, labels, run, coder)
    np.testing.assert_array_equal(kernel.decode(words, labels, run, coder, machine(states), k.size), k)
    np.testing.assert_array_equal(by_both(words, case), k)


@settings(max_examples=60)
@given(coded())
def test_twins_write_the_same_words_and_count_the_same(case: tuple) -> None:
    k, labels, run, coder, _ = case
    found = []
    for twin in (numba_twin, reference):
        words = np.zeros(4 * k.size + 4, np.uint16)
        at = twin.encode(k, 0, labels, run, coder.union, coder.drop, coder.least, coder.frequency, coder.start, words)
        counts = np.zeros(coder.entries.shape, np.int64)
        twin.histogram(k, 0, labels, run, coder.union, coder.drop, coder.least, counts)
        found.append((words[at:], counts))
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)
    assert found[0][1].sum() == k.size


@settings(max_examples=80)
@given(coded(), st.sampled_from(("flip", "cut", "extend", "noise", "fewer", "more")), st.integers(0, 2**32))
def test_damaged_words_are_refused_or_read_as_integers(case: tuple, harm: str, seed: int) -> None:
    k, labels, run, coder, states = case
    rng = np.random.default_rng(seed)
    words = kernel.encode(k, labels, run, coder)
    count = k.size
    if harm == "flip":
        words[rng.integers(words.size)] ^= 1 << int(rng.integers(16))
    elif harm == "cut":
        words = words[: rng.integers(words.size)]
    elif harm == "extend":
        words = np.append(words, rng.integers(0, 1 << 16, rng.integers(1, 4), dtype=np.uint16))
    elif harm == "noise":
        words = rng.integers(0, 1 << 16, rng.integers(0, 30), dtype=np.uint16)
    else:
        count = int(min(max(count + rng.integers(1, 5) * (1 if harm == "more" else -1), 0), labels.size * run))
    if by_both(words, case, count) is None:
        with pytest.raises(ArtifactError, match="damaged"):
            kernel.decode(words, labels, run, coder, machine(states), count)
    else:
        assert harm not in ("cut", "extend")
        assert kernel.decode(words, labels, run, coder, machine(states), count).shape == (count,)


def test_a_known_stream() -> None:
    """Frozen: every file that holds a path depends on it."""
    k = walked(np.array([0, 3, -2, 1, 0, 0, -1, 9, 100000, -5, 2, 2]), 8)
    assert k.tolist() == [0, 4, -2, 2, 1, 0, 0, 9, 100001, -5, 2, 2]
    coder = kernel.Coder(1, 2, -2, np.array([[90, 160, 220, 140, 1], [100, 200, 190, 100, 1]], np.uint8))
    words = kernel.encode(k, np.zeros(1, np.uint8), 12, coder)
    assert words.astype("<u2").tobytes().hex() == "c2f78601043fa4c1ff3f000004002dc050c3d636"
    np.testing.assert_array_equal(kernel.decode(words, np.zeros(1, np.uint8), 12, coder, machine(8), 12), k)


@settings(max_examples=60)
@given(st.data())
def test_frequencies_of_any_entries_sum_to_the_whole(data: st.DataObject) -> None:
    shape = data.draw(st.integers(1, 4)), data.draw(st.sampled_from((1, 2, 3, 50, 256)))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    low, high = sorted(data.draw(st.tuples(st.integers(0, 255), st.integers(0, 255))))
    entries = rng.integers(low, high + 1, shape, dtype=np.uint8)
    entries[rng.random(shape) < data.draw(st.sampled_from((0.0, 0.5, 1.0)))] = 0
    kept = entries.copy()
    found = tables.frequencies(entries)
    np.testing.assert_array_equal(entries, kept)
    np.testing.assert_array_equal(found.sum(axis=1), WHOLE)
    some = entries.any(axis=1)
    np.testing.assert_array_equal((found > 0)[some], (entries > 0)[some])
    assert (found[~some, 0] == WHOLE).all()


def test_tables_lose_next_to_nothing() -> None:
    """Against the entropy of the counts: 0.0001 bits per symbol by the rounding of entries."""
    counts = np.rint(1e6 * np.exp(-np.abs(np.arange(-20, 21)) / 3)).astype(np.int64)[None]
    share = counts / counts.sum()
    coded_with = tables.frequencies(tables.quantize(counts)) / WHOLE
    assert 0 <= np.sum(share * np.log2(share / coded_with)) < 3e-4


@pytest.mark.parametrize("states", [1, 8])
@pytest.mark.parametrize("scale", [0.4, 3.0, 1e3, 1e6])
def test_size_is_the_entropy_that_the_tables_promise(states: int, scale: float) -> None:
    k = walked(np.rint(np.random.default_rng(0).standard_normal(20_000) * scale), states)
    labels = np.zeros(1, np.uint8)
    coder = kernel.Coder.fit(k, labels, k.size, machine(states))
    most = int(np.abs(k).max())
    if most < 1 << 16:
        promised = coder.bits(most)[0, k + most].sum(dtype=np.float64)
        assert 16 * kernel.encode(k, labels, k.size, coder).size == pytest.approx(promised, abs=80)
    inside = k >> 1 if states > 1 else k  # the parity is told by the trellis
    spread = np.log2(np.sqrt(2 * np.pi * np.e) * np.std(inside))
    assert 16 * kernel.encode(k, labels, k.size, coder).size / k.size < max(spread, 1.0) + 0.08


def test_rare_integers_are_escaped_and_a_fit_forgets_unused_symbols() -> None:
    k = np.append(np.zeros(50_000, np.int32), np.int32(777))
    coder = kernel.Coder.fit(k, np.zeros(1, np.uint8), k.size, machine(1))
    assert coder.entries.shape == (1, 2)
    assert coder.frequency[0, -1] >= 1
    assert kernel.encode(k, np.zeros(1, np.uint8), k.size, coder).size < 20


@pytest.mark.parametrize("classes", [1, 16])
def test_long_tails_are_escaped_where_tables_would_cost_more(classes: int) -> None:
    rng = np.random.default_rng(0)
    k = np.rint(rng.standard_t(1.5, 3000)).clip(-(10**6), 10**6).astype(np.int32)
    labels = rng.integers(0, classes, 60, dtype=np.uint8)
    labels[0] = classes - 1
    coder = kernel.Coder.fit(k, labels, 50, machine(1))
    assert (
        16 * kernel.encode(k, labels, 50, coder).size + 8 * coder.entries.size < (3.5 if classes == 1 else 4.8) * k.size
    )


# The codec -----------------------------------------------------------------------------------------------------------


SHAPES = ((1, 1), (1, 9), (9, 1), (5, 7), (40, 33), (3, 3, 3, 3), (200, 3), (2, 300))


@cache
def gaussian(model: str, states: int = 8) -> Path:
    x = sample("gaussian", (48, 64), "float32", 0)
    return Path.encode(x, step=0.3, states=states, layout=(2, 24, 64), model=model)


@every_model
@settings(max_examples=40)
@given(data=st.data())
def test_what_is_stored_is_a_path_times_the_step(model: str, data: st.DataObject) -> None:
    shape, states = data.draw(st.sampled_from(SHAPES)), data.draw(st.sampled_from(STATES))
    kind = data.draw(st.sampled_from(("gaussian", "heavy tails", "shifted", "zero", "one spike", "huge", "tiny")))
    dtype, seed = data.draw(st.sampled_from(("float32", "float64"))), data.draw(st.integers(0, 9))
    x = sample(kind, shape, dtype, seed)
    scale = float(np.sqrt(np.mean(np.square(x / (np.abs(x).max() or 1))))) * float(np.abs(x).max())
    step = (scale or 1.0) * data.draw(st.sampled_from((1e-5, 1e-2, 0.5, 2.0, 30.0)))
    before = bits_of(x)
    stored = Path.encode(x, step=step, states=states, model=model)
    decoded = stored.decode()
    assert bits_of(x) == before
    assert bits_of(decoded)[:2] == before[:2]
    assert stored.model == model
    assert stored.step == pytest.approx(step, rel=2.0**-16)
    k = np.concatenate([stored.integers(b) for b in range(stored.blocks)])
    assert all(follows(stored.integers(b), states) for b in range(stored.blocks))
    expected = k.astype(np.float64) * stored.step
    if stored.outliers is not None:
        places = stored.outliers[0].astype(int)
        np.testing.assert_array_equal(decoded.reshape(-1)[places], x.reshape(-1)[places])
        expected[places] = x.reshape(-1)[places]
    np.testing.assert_allclose(decoded.reshape(-1), expected, rtol=1e-6)
    again = decode_config(json.loads(json.dumps(stored.config())), stored.buffers())
    assert (again.config(), repr(again), bits_of(again.decode())) == (
        stored.config(), repr(stored), bits_of(decoded)
    )  # fmt: skip
    assert stored.nbytes == sum(a.nbytes for a in stored.buffers().values())


@every_model
@pytest.mark.parametrize("layout", [(1, 40, 90), (9, 40, 10), (40, 1, 90), (90, 40, 1), (1, 1, 3600)])
def test_every_block_is_read_without_the_others(
    model: str, layout: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr({"static": static, "mixing": mixed}[model], "WEIGHTS", 512)
    x = sample("rows of many sizes", layout, "float32", 1)
    stored = Path.encode(x, step=0.01, states=8, layout=layout, model=model)
    assert stored.blocks > 4
    grid = blocks(layout, 512)
    seen, k = np.zeros(layout, int), np.rint(stored.decode() / stored.step)
    for index in np.random.default_rng(0).permutation(stored.blocks):
        fresh = replace(stored)
        rows, columns = grid[index]
        seen[:, rows, columns] += 1
        part = fresh.integers(int(index))
        np.testing.assert_array_equal(part, k[:, rows, columns].reshape(-1))
        assert follows(part, 8)
    assert (seen == 1).all()
    damaged = stored.stream.copy()
    damaged[-1] ^= 0x40
    other = replace(stored, stream=damaged)
    np.testing.assert_array_equal(other.integers(0), stored.integers(0))


@settings(max_examples=60)
@given(
    layout=st.tuples(st.integers(1, 40), st.integers(1, 40), st.integers(1, 40)),
    weights=st.sampled_from((1, 7, 64, 1000, 10**6)),
)
def test_blocks_part_the_array_into_pieces_of_about_a_size(layout: tuple[int, int, int], weights: int) -> None:
    grid = blocks(layout, weights)
    seen = np.zeros(layout[1:], int)
    for rows, columns in grid:
        seen[rows, columns] += 1
        assert seen[rows, columns].size * layout[0] <= max(2 * weights, layout[0])
    assert (seen == 1).all()
    assert sum(np.prod(extent(layout, block)) for block in grid) == np.prod(layout)


@settings(max_examples=30)
@given(
    layout=st.tuples(st.integers(1, 9), st.integers(1, 300), st.integers(1, 300)), weights=st.sampled_from((500, 5000))
)
def test_strips_are_evenly_spaced_rows_or_columns(layout: tuple[int, int, int], weights: int) -> None:
    x = np.arange(np.prod(layout)).reshape(layout)
    part = strips(x, weights)
    assert len(np.unique(part)) == part.size
    assert part.shape[0] == layout[0]
    if x.size <= 2 * weights:
        assert part is x
    else:
        assert part.size <= max(2 * weights, 8 * layout[0] * max(layout[1:]))
        assert part[0, 0, 0] == 0
        assert part.reshape(-1)[-1] == x.size - 1


@pytest.mark.parametrize("states", [1, 8])
@every_model
@settings(max_examples=15)
@given(exponent=st.integers(-90, 90), kind=st.sampled_from(("gaussian", "heavy tails", "zero")))
def test_powers_of_two_change_the_step_alone(model: str, states: int, exponent: int, kind: str) -> None:
    x = sample(kind, (20, 30), "float32", 3)
    one = Path.encode(x, step=0.37, states=states, model=model)
    other = Path.encode(x * np.float32(2.0**exponent), step=0.37 * 2.0**exponent, states=states, model=model)
    assert other.stream[4:].tobytes() == one.stream[4:].tobytes()
    np.testing.assert_array_equal(other.decode(), one.decode() * np.float32(2.0**exponent))


def test_a_stored_step_is_stored_again_as_it_is() -> None:
    """Also by way of its logarithm, in which steps are searched."""
    for mantissa in range(1 << 15, 1 << 16, 97):
        for exponent in (-40, -3, 0, 17):
            step = math.ldexp(mantissa, exponent)
            assert rounded(step) == rounded(2.0 ** math.log2(step)) == step
    assert rounded(math.ldexp(65535.9, 3)) == math.ldexp(65535, 3)


@every_model
def test_the_mean_error_is_that_of_the_step(model: str) -> None:
    """A union of spacing 2 steps, 8 states: 1.09 dB under the uniform quantizer's, and a little more by the rate."""
    x = sample("gaussian", (200, 300), "float64", 5)
    stored = Path.encode(x, step=0.05, states=8, model=model)
    error = np.mean((x - stored.decode()) ** 2) / 0.05**2
    assert 10 ** (-0.109) / 3 * 0.98 < error < 10 ** (-0.109) / 3 * 1.15


def test_the_smaller_model_is_kept() -> None:
    x = sample("rows of many sizes", (64, 96), "float32", 2)
    sizes = {m: Path.encode(x, step=0.05, states=8, model=m).nbytes for m in (*MODELS, "auto")}
    assert sizes["auto"] == min(sizes["static"], sizes["mixing"])
    assert sizes["mixing"] < sizes["static"]


def test_entries_out_of_range_are_kept_exactly() -> None:
    x = sample("gaussian", (10, 12), "float64", 0)
    x[3, 4], x[9, 11] = 1e12, -3e9 / 7
    stored = Path.encode(x, step=1e-4, states=8)
    np.testing.assert_array_equal(stored.outliers, [[40, 119], [1e12, -3e9 / 7]])
    decoded = stored.decode()
    assert decoded[3, 4] == 1e12
    assert decoded[9, 11] == -3e9 / 7
    assert np.abs(decoded - x).max() < 4e-4


def test_planes_of_their_own_scale_have_their_own_tables() -> None:
    x = sample("gaussian", (4, 100, 100), "float32", 0) * np.float32([[[1]], [[4]], [[16]], [[64]]])
    apart = Path.encode(x, step=0.5, states=8, layout=(4, 100, 100), model="static")
    mixed_up = Path.encode(x.transpose(1, 2, 0).reshape(1, -1), step=0.5, states=8, model="static")
    assert apart.nbytes < 0.92 * mixed_up.nbytes


def test_rows_of_many_scales_share_tables_by_classes() -> None:
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((256, 256)) * np.exp(rng.normal(0, 1.2, (256, 1)))).astype(np.float32)
    stored = Path.encode(x, step=0.2, states=8, model="static")
    shuffled = Path.encode(rng.permutation(x.reshape(-1)).reshape(x.shape), step=0.2, states=8, model="static")
    assert stored.nbytes < 0.93 * shuffled.nbytes


@pytest.mark.parametrize(
    ("model", "states", "values", "frozen"),
    [
        ("static", 8, [0, 2, -2, 3, 0, 1, 0, 2, 3, -4, 1, 12],
         "0080ffff0101feff050000b1b1cac1b10000d1d1007b527f020434b40f06000000"),
        ("static", 1, [0, 1, -2, 3, 0, 0, -1, 1, 2, -5, 0, 12],
         "0080ffff0000feff070000a8a8c8b8a8a8b8fd125eaf6722cdd5fbff66350c000000"),
        ("mixing", 8, [0, 2, -2, 3, 0, 1, 0, 2, 3, -4, 1, 12], "0080ffff83d3c1e99ba9"),
    ],
)  # fmt: skip
def test_known_streams(model: str, states: int, values: list[int], frozen: str) -> None:
    """Frozen: files of this version must stay readable, and the same integers give the same bytes."""
    config = {
        "id": "path", "shape": [3, 4], "dtype": "float32", "states": states, "layout": [1, 3, 4], "model": model
    }  # fmt: skip
    stored = decode_config(config, {"stream": np.frombuffer(bytes.fromhex(frozen), np.uint8)})
    assert stored.step == 0.25
    assert (stored.decode() / 0.25).reshape(-1).tolist() == values
    k = np.array(values, np.int32).reshape(3, 4)
    again = Path.of_integers(k, step=0.25, states=states, model=model, dtype="float32")
    assert again.stream.tobytes().hex() == frozen


# Damage --------------------------------------------------------------------------------------------------------------


def read(config: dict, stream: np.ndarray, outliers: np.ndarray | None = None) -> np.ndarray | None:
    """The decoded array, or None where that is refused as it should be."""
    buffers = {"stream": stream} | ({} if outliers is None else {"outliers": outliers})
    try:
        return decode_config(config, buffers).decode()
    except ArtifactError:
        return None


@every_model
@pytest.mark.parametrize("states", [1, 8])
@settings(max_examples=120)
@given(data=st.data())
def test_damaged_streams_are_refused_or_read_as_arrays(model: str, states: int, data: st.DataObject) -> None:
    stored = gaussian(model, states)
    stream, config = stored.stream.copy(), stored.config()
    harm = data.draw(st.sampled_from(("flip", "head", "cut", "extend", "noise")))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    if harm == "flip":
        stream[rng.integers(stream.size)] ^= 1 << int(rng.integers(8))
    elif harm == "head":
        stream[4 + rng.integers(30)] = rng.integers(256)
    elif harm == "cut":
        stream = stream[: rng.integers(stream.size)]
    elif harm == "extend":
        stream = np.append(stream, rng.integers(0, 256, rng.integers(1, 9), dtype=np.uint8))
    else:
        stream[rng.integers(4, 40) :] = rng.integers(0, 256, 1, dtype=np.uint8)
    found = read(config, stream)
    assert found is None or (found.shape, found.dtype) == ((48, 64), np.float32)
    if harm in ("cut", "extend"):
        assert found is None


@every_model
@pytest.mark.parametrize(
    "change",
    [
        {"states": 2}, {"states": 0}, {"states": -8}, {"states": 512}, {"states": "8"}, {"states": None},
        {"states": True}, {"states": 8.0}, {"states": [8]},
        {"layout": [1, 48, 65]}, {"layout": [-1, -48, 64]}, {"layout": [0, 48, 64]}, {"layout": [48, 64]},
        {"layout": [2, 24, 64, 1]}, {"layout": [2.0, 24, 64]}, {"layout": "abc"}, {"layout": None},
        {"layout": [True, 48, 64]}, {"layout": 3072}, {"layout": [[2], 24, 64]},
        {"model": "other"}, {"model": None}, {"model": ["static"]}, {"model": {}},
        {"shape": [48, 65]}, {"shape": [-48, -64]}, {"shape": [1 << 40, 64], "layout": [1 << 40, 1, 64]},
        {"shape": [1 << 40, 64], "layout": [1, 1 << 40, 64]}, {"shape": [1 << 20, 1 << 26],
         "layout": [1, 1 << 20, 1 << 26]}, {"shape": [1, 1 << 46], "layout": [1 << 23, 1, 1 << 23]},
        {"dtype": "float16"}, {"dtype": "object"}, {"dtype": 4},
    ],
)  # fmt: skip
def test_hostile_descriptions_are_refused(model: str, change: dict) -> None:
    stored = gaussian(model)
    assert read(stored.config(), stored.stream) is not None
    assert read(stored.config() | change, stored.stream) is None


@every_model
@pytest.mark.parametrize(
    "stream",
    [np.zeros(0, np.uint8), np.zeros(3, np.uint8), np.zeros(4, np.uint8), np.zeros(400, np.int8),
     np.zeros((4, 100), np.uint8), np.zeros(400, np.uint16), np.zeros(800, np.uint8)[::2]],
)  # fmt: skip
def test_hostile_buffers_are_refused(model: str, stream: np.ndarray) -> None:
    assert read(gaussian(model).config(), stream) is None


@pytest.mark.parametrize(
    "outliers",
    [np.zeros(4), np.zeros((3, 2)), np.zeros((2, 1), np.float32), np.array([[-1.0], [1.0]]), np.array([[3072.0], [1]]),
     np.array([[0.5], [1.0]]), np.array([[np.nan], [1.0]]), np.array([[1.0], [np.inf]]), np.array([[1e300], [1.0]])],
)  # fmt: skip
def test_hostile_outliers_are_refused(outliers: np.ndarray) -> None:
    stored = gaussian("static")
    assert read(stored.config(), stored.stream, np.array([[5.0], [2.5]])).reshape(-1)[5] == 2.5
    assert read(stored.config(), stored.stream, outliers) is None


@every_model
@pytest.mark.parametrize(("mantissa", "exponent"), [(32768, 32767), (65535, 1100), (0, 0), (1, -32768)])
def test_hostile_steps_are_refused(model: str, mantissa: int, exponent: int) -> None:
    stored = gaussian(model)
    stream = stored.stream.copy()
    stream[:4] = np.frombuffer(struct.pack("<Hh", mantissa, exponent), np.uint8)
    assert read(stored.config(), stream) is None


HEAD = struct.Struct("<BbhHB")


@pytest.mark.parametrize(
    ("field", "value"),
    [(0, 0), (0, 2), (0, 255), (1, 0), (1, -1), (1, 18), (1, 31), (1, 127), (1, -128), (3, 0), (3, 257), (3, 65535),
     (4, 17), (4, 255), (4, 16)],
)  # fmt: skip
def test_hostile_heads_are_refused(field: int, value: int) -> None:
    stored = gaussian("static")
    stream = stored.stream.tobytes()
    head = list(HEAD.unpack_from(stream, 4))
    head[field] = value
    hostile = stream[:4] + HEAD.pack(*head) + stream[4 + HEAD.size :]
    assert read(stored.config(), np.frombuffer(hostile, np.uint8)) is None


@pytest.mark.parametrize("least", [-32768, 32767])
@pytest.mark.parametrize("drop", [1, 17])
def test_extreme_symbols_stay_in_their_type(least: int, drop: int) -> None:
    """Both twins read the same numbers from symbols that no encoder writes."""
    entries = np.full((2, 5), 100, np.uint8)
    coder = kernel.Coder(1, drop, least, entries)
    rng = np.random.default_rng(0)
    case = np.zeros(20, np.int32), np.zeros(1, np.uint8), 20, coder, 8
    for _ in range(200):
        by_both(rng.integers(0, 1 << 16, 40, dtype=np.uint16), case, int(rng.integers(20)))


def test_classes_out_of_range_are_refused() -> None:
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((256, 256)) * np.exp(rng.normal(0, 0.4, (256, 1)))).astype(np.float32)
    stored = Path.encode(x, step=0.2, states=8, model="static")
    stream = stored.stream.tobytes()
    _, _, _, symbols, count = HEAD.unpack_from(stream, 4)
    assert 1 < count < 16
    at = 4 + HEAD.size + 2 * count * symbols
    hostile = np.frombuffer(stream[:at] + b"\xff" + stream[at + 1 :], np.uint8)
    assert read(stored.config(), hostile) is None


@every_model
def test_hostile_directories_are_refused(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr({"static": static, "mixing": mixed}[model], "WEIGHTS", 512)
    stored = Path.encode(sample("gaussian", (48, 64), "float32", 0), step=0.3, states=8, model=model)
    stream = stored.stream.tobytes()
    at = (
        5
        if model == "mixing"
        else 4 + HEAD.size + int(np.prod(static.parse(stored.stream[4:], (1, 48, 64), 8).coder.entries.shape))
    )
    first, second = struct.unpack_from("<II", stream, at)
    for pair in itertools.chain([(first + 1, second), (2**32 - 1, second), (0, 0)], [(first + second, 0)]):
        hostile = stream[:at] + struct.pack("<II", *pair) + stream[at + 8 :]
        assert read(stored.config(), np.frombuffer(hostile, np.uint8)) is None


def test_plain_twins_read_damaged_streams_within_bounds() -> None:
    """The same damage without compiled code, where every index is checked."""
    code = "import sys; sys.path.insert(0, sys.argv[1]); import test_path as t; t.damage_everything()"
    environment = os.environ | {"NUMBA_DISABLE_JIT": "1"}
    subprocess.run([sys.executable, "-c", code, os.path.dirname(__file__)], check=True, env=environment, timeout=120)


def damage_everything() -> None:
    """Random damage to small streams of all kinds; anything but an array or an ArtifactError raises."""
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((6, 64)) * np.exp(rng.normal(0, 2, (6, 1)))).astype(np.float32)
    for model, states in itertools.product(MODELS, (1, 8)):
        stored = Path.encode(x, step=0.2, states=states, layout=(2, 3, 64), model=model)
        np.testing.assert_array_equal(read(stored.config(), stored.stream), stored.decode())
        for _ in range(60):
            stream = stored.stream.copy()
            for place in rng.integers(4, stream.size, rng.integers(1, 4)):
                stream[place] = rng.integers(256)
            found = read(stored.config(), stream)
            assert found is None or found.shape == (6, 64)


@every_model
@pytest.mark.parametrize("block", [-1, 1])
def test_a_block_that_is_not_there_is_named(model: str, block: int) -> None:
    stored = Path.encode(sample("gaussian", (8, 16), "float32", 0), step=0.5, states=8, model=model)
    with pytest.raises(ArgumentError, match="block: found"):
        stored.integers(block)


def test_rows_of_a_class_that_the_sample_does_not_have() -> None:
    """Classes of scale are those of all rows, tables are tried on some of them: one large row is in none."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, 4096, 256)).astype(np.float32)
    x[:, np.arange(4096) % 8 < 4] *= 4
    sample = static._sampled_rows(x)
    outside = next(row for row in range(4096) if row not in set(np.arange(4096)[sample]))
    x[:, outside] *= 300
    rows, rates = static._classes(x, 4)
    assert rows.max() > rows[:, sample].max()
    assert len(rates) == rows.max() + 1
    path = Path.encode(x[0], step=0.7, states=4, model="static")
    assert float(np.abs(x[0] - path.decode()).max()) < 3.0
