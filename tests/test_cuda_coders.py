"""The CUDA kernels of coders, masks and look-ups: equal to the reference, on the host and on a GPU.

Products, whose sums have another order, are compared within the doors' bounds, and bit for bit where sums are exact.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import numpy as np
import pytest
from cuda_host import place, same
from hypothesis import given, settings
from hypothesis import strategies as st
from test_path import coded

from factorq.errors import ArtifactError
from factorq.kernels.deposit import cuda_twin as deposit_cuda
from factorq.kernels.deposit import reference as deposit_reference
from factorq.kernels.lookup import cuda_twin as lookup_cuda
from factorq.kernels.path import Coder as PathCoder
from factorq.kernels.path import cuda_twin as path_cuda
from factorq.kernels.path import reference as path_reference
from factorq.kernels.rans import cuda_twin as rans_cuda
from factorq.kernels.rans import reference as rans_reference
from factorq.kernels.trellis import machine

SEEDS = st.integers(0, 2**32 - 1)
Device = Callable[[], AbstractContextManager[Any]]


@pytest.fixture(scope="module", params=["host", "gpu"])
def device(request: pytest.FixtureRequest) -> Device:
    return place(request.param)


# --- products ---------------------------------------------------------------------------------------------------------


def check_lookup(
    cupy: Any, rows: int, places: int, groups: int, count: int, dim: int, cut: int, columns: int, dtype: Any, seed: int
) -> None:
    """Exact where numbers are whole; else within the doors' bounds. The last ``cut`` columns do not exist."""
    rng = np.random.default_rng(seed)
    n = max(places * dim - cut, 0)
    codes = rng.integers(0, count, (rows, places + 1)).astype(dtype)
    group = np.arange(places) * groups // max(places, 1)
    for whole in (True, False):
        draw = partial(rng.integers, -3, 4) if whole else lambda size: rng.standard_normal(size)
        book = draw(size=(groups, count, dim)).astype(np.float32)
        W = book[group, codes[:, :places]].reshape(rows, places * dim)[:, :n].astype(np.float64)
        x, y = draw(size=(columns, n)).astype(np.float32).T, draw(size=(rows, columns)).astype(np.float32).T
        there = cupy.asarray(codes)[:, :places], cupy.asarray(book)
        out = [np.zeros(shape, np.float32) + whole for shape in ((rows, columns), (columns, n))]
        made = [cupy.asarray(out[0]), cupy.asarray(out[1].T).T]
        lookup_cuda.matmul(*there, cupy.asarray(x.T).T, made[0])
        lookup_cuda.rmatmul(*there, cupy.asarray(y.T).T, made[1])
        if whole:
            same(made[0], (out[0] + W @ x).astype(np.float32))
            same(made[1], (out[1] + y @ W).astype(np.float32))
        else:
            u = 2.0**-24
            assert (np.abs(made[0].get() - W @ x) <= (places + dim + 16) * u * (np.abs(W) @ np.abs(x))).all()
            assert (np.abs(made[1].get() - y @ W) <= (rows + count + 16) * u * (np.abs(y) @ np.abs(W))).all()


LOOKUPS = [
    (1100, 70, 1, 256, 8, 5, 1, np.uint8, 0),
    (300, 130, 3, 100, 4, 0, 3, np.uint8, 1),
    (40, 70, 2, 300, 9, 8, 5, np.uint16, 2),
    (9, 33, 1, 5, 17, 0, 2, np.uint16, 3),
    (0, 3, 1, 2, 2, 0, 1, np.uint8, 4),
    (3, 2, 1, 2, 2, 4, 2, np.uint8, 5),
    (40, 5, 5, 16, 3, 2, 0, np.uint8, 6),
    (600, 9, 1, 2, 3000, 7, 1, np.uint8, 7),
    (2200, 400, 1, 16, 2, 1, 2, np.uint8, 8),
    (16_769, 1, 1, 4, 2, 0, 1, np.uint8, 9),  # of 131 chunks the last would begin past the end
]


@settings(max_examples=30)
@given(
    st.tuples(
        st.integers(0, 60),
        st.integers(4, 40),
        st.integers(1, 4),
        st.integers(1, 30),
        st.integers(1, 9),
        st.integers(0, 8),
        st.integers(0, 5),
        st.sampled_from([np.uint8, np.uint16]),
        SEEDS,
    )
)
def test_lookup(device: Device, case: Any) -> None:
    with device() as cupy:
        check_lookup(cupy, *case)


def test_large_lookups(device: Device) -> None:
    """Several blocks, stretches and chunks; codewords of many numbers; nothing at all."""
    with device() as cupy:
        for case in LOOKUPS:
            check_lookup(cupy, *case)


# --- coders -----------------------------------------------------------------------------------------------------------


def check_path(cupy: Any, k: np.ndarray, classes: np.ndarray, run: int, coder: Any, states: int, first: int) -> None:
    """One block with its histogram; streams cut or changed are read, or refused, as the reference does."""
    trellis = machine(states)
    k = k[first:]
    head = first, classes, run, coder.union, coder.drop, coder.least
    there = first, cupy.asarray(classes), *head[2:]
    symbols = 1 + k.size % 7
    counts = np.zeros((int(classes.max()) + 1 << coder.union, symbols), np.int64)
    made = cupy.asarray(counts)
    path_reference.histogram(k, *head, counts)
    path_cuda.histogram(cupy.asarray(k), *there, made)
    same(made, counts)
    room = np.zeros(4 * k.size + 4, np.uint16)
    made = cupy.asarray(room)
    at = path_reference.encode(k, *head, coder.frequency, coder.start, room)
    assert path_cuda.encode(cupy.asarray(k), *there, coder.frequency, coder.start, made) == at
    same(made, room)
    words = room[at:]
    changed = words.copy()
    changed[len(words) // 2] ^= 1 + first
    for stream in (words, words[:-1], words[:2], changed, np.append(words, np.uint16(7))):
        decoded = np.zeros(k.size, np.int32)
        made = cupy.asarray(decoded)
        tables = coder.frequency, coder.start, coder.slots, trellis.parity, trellis.successor
        sound = path_reference.decode(stream, *head, *tables, decoded)
        assert path_cuda.decode(cupy.asarray(stream), *there, *tables, made) == sound
        same(made, decoded)


def check_path_blocks(cupy: Any, blocks: int, seed: int) -> None:
    """Blocks of many extents, one after the other, with the layout on the host."""
    rng = np.random.default_rng(seed)
    trellis, sizes = machine(8), rng.integers(0, 40, blocks)
    runs, firsts = rng.integers(1, 9, blocks), rng.integers(0, 5, blocks)
    parts, state = [], 0
    for size in sizes:
        part, state = np.rint(9 * rng.standard_normal(size)).astype(np.int32), 0
        for i, value in enumerate(part):
            part[i] += (value & 1) != trellis.parity[state]
            state = int(trellis.successor[state, (part[i] >> 1) & 1])
        parts.append(part)
    used = -(-(firsts + sizes) // runs)
    classes = rng.integers(0, 2, int(used.sum()) + 1).astype(np.uint8)
    starts = np.cumsum(used) - used
    k, places = np.concatenate([*parts, np.empty(0, np.int32)]), np.append(0, np.cumsum(sizes))
    coder = PathCoder(1, 2, -5, rng.integers(100, 256, (4, 12), dtype=np.uint8))
    rows = np.stack([starts, runs, firsts])
    head = cupy.asarray(classes), rows, coder.union, coder.drop, coder.least, coder.frequency, coder.start
    words, lengths = path_cuda.encode_blocks(cupy.asarray(k), places, *head)
    expected = []
    for b in range(blocks):
        room = np.empty(4 * sizes[b] + 4, np.uint16)
        shape = int(firsts[b]), classes[starts[b] :], int(runs[b]), coder.union, coder.drop, coder.least
        expected.append(room[path_reference.encode(parts[b], *shape, coder.frequency, coder.start, room) :])
    assert [len(part) for part in expected] == lengths.tolist()
    same(words, np.concatenate([*expected, np.empty(0, np.uint16)]))
    found = cupy.asarray(np.zeros_like(k))
    offsets = np.append(0, np.cumsum(lengths))
    tables = coder.slots, trellis.parity, trellis.successor
    sound = path_cuda.decode_blocks(words, offsets, places, *head, *tables, found)
    same(sound, np.ones(blocks, np.uint8))
    same(found, k)


@settings(max_examples=80)
@given(coded(), st.integers(0, 3))
def test_path(device: Device, case: Any, first: int) -> None:
    with device() as cupy:
        check_path(cupy, *case, min(first, case[0].size))


def test_paths_of_many_blocks(device: Device) -> None:
    """So many that threads of a warp share them."""
    with device() as cupy:
        for blocks, seed in ((0, 0), (1, 1), (40, 2), (1500, 3)):
            check_path_blocks(cupy, blocks, seed)


def check_rans(
    cupy: Any, size: int, symbols: int, precision: int, lanes: int, block: int, tables: int, seed: int
) -> None:
    """Streams as they are, and changed in one word: the same symbols, or the same refusal."""
    rng = np.random.default_rng(seed)
    freqs = np.zeros((tables, symbols), np.int64)
    for row in freqs:
        used = np.unique(rng.integers(0, symbols, min(symbols, 40)))
        row[used] = 1
        np.add.at(row, rng.choice(used, (1 << precision) - used.size, p=rng.dirichlet(np.ones(used.size))), 1)
    contexts = rng.integers(0, tables, size).astype(np.uint8) if tables > 1 else np.empty(0, np.uint8)
    dtype = np.uint8 if symbols <= 256 else np.uint16
    data = np.empty(size, dtype)
    for c in range(tables):
        here = contexts == c if tables > 1 else np.ones(size, bool)
        data[here] = rng.choice(symbols, int(here.sum()), p=freqs[c] / (1 << precision))
    words, sizes = rans_reference.encode(data, contexts, freqs, precision, lanes, block)
    changed = words.copy()
    changed[rng.integers(0, words.size, min(words.size, 1))] ^= 5
    for stream in (words, changed):
        out, made = np.empty(size, dtype), cupy.empty((size,), dtype)
        there = cupy.asarray(stream), sizes, cupy.asarray(contexts), freqs, precision, lanes, block, made
        try:
            rans_reference.decode(stream, sizes, contexts, freqs, precision, lanes, block, out)
        except ArtifactError as error:
            with pytest.raises(ArtifactError, match=str(error)):
                rans_cuda.decode(*there)
        else:
            rans_cuda.decode(*there)
            same(made, out)


@settings(max_examples=40)
@given(
    st.tuples(
        st.integers(0, 300),
        st.sampled_from([1, 7, 256, 300, 5000]),
        st.integers(8, 15),
        st.sampled_from([1, 4]),
        st.integers(1, 90),
        st.integers(1, 3),
        SEEDS,
    )
)
def test_rans(device: Device, case: Any) -> None:
    with device() as cupy:
        check_rans(cupy, *case)


RANS = (6000, 200, 12, 4, 5, 2, 0)
"""So many blocks that threads of a warp share them."""


def check_deposit(cupy: Any, size: int, share: float, planes: int, every: int, offset: int, seed: int) -> None:
    """All of the kernel, with arrays that begin anywhere in a larger one."""
    rng = np.random.default_rng(seed)
    mask = np.packbits(rng.random(size) < share, bitorder="little")
    ones = int(np.unpackbits(mask).sum())
    packed = rng.integers(0, 256, (planes, -(-ones // 8)), dtype=np.uint8)
    bits = rng.integers(0, 256, (planes, mask.size), dtype=np.uint8)
    there = cupy.asarray(np.concatenate([np.full(offset, 255, np.uint8), mask]))[offset:]
    assert deposit_cuda.count(there) == deposit_reference.count(mask) == ones
    out, made = np.empty_like(bits), cupy.empty(bits.shape, np.uint8)
    deposit_reference.deposit(packed, mask, out)
    assert deposit_cuda.deposit(cupy.asarray(packed), there, made) == ones
    same(made, out)
    out, made = np.empty_like(packed), cupy.empty(packed.shape, np.uint8)
    deposit_reference.extract(bits, mask, out)
    deposit_cuda.extract(cupy.asarray(bits), there, made)
    same(made, out)
    directory = np.empty(-(-size // every) + 1, np.int64)
    made = cupy.empty(directory.shape, np.int64)
    deposit_reference.ranks(mask, every, directory)
    deposit_cuda.ranks(there, every, made)
    same(made, directory)
    for name, wanted in (("rank", rng.integers(0, 8 * mask.size + 1, 9)), ("select", rng.integers(0, max(ones, 1), 9))):
        wanted = wanted if ones else wanted[:0]
        if -(-8 * mask.size // every) == len(directory) - 1:
            found, expected = cupy.empty(wanted.shape, np.int64), np.empty(wanted.shape, np.int64)
            getattr(deposit_reference, name)(mask, directory, wanted, every, expected)
            getattr(deposit_cuda, name)(there, made, cupy.asarray(wanted), every, found)
            same(found, expected)


DEPOSITS = [(16384 * 2 + 77, 0.3, 2, 512, 1, 0), (64 * 5000, 0.02, 1, 64, 0, 1), (16384, 1.0, 1, 1024, 8, 2)]


@settings(max_examples=40)
@given(
    st.tuples(
        st.integers(0, 900),
        st.sampled_from([0.0, 0.1, 0.5, 1.0]),
        st.integers(1, 3),
        st.sampled_from([64, 192]),
        st.integers(0, 9),
        SEEDS,
    )
)
def test_deposit(device: Device, case: Any) -> None:
    with device() as cupy:
        check_deposit(cupy, *case)


def test_many_blocks(device: Device) -> None:
    with device() as cupy:
        check_rans(cupy, *RANS)
        for case in DEPOSITS:
            check_deposit(cupy, *case)
