"""The CUDA kernels of solvers: equal to the reference bit for bit, on the host and on a GPU.

Only nearest codewords, whose scores have another order of summation, are compared within the bound of their rounding,
and bit for bit where sums are exact.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import pytest
from cuda_host import place, same
from hypothesis import given, settings
from hypothesis import strategies as st

from factorq.kernels.coordinate import cuda_twin as coordinate_cuda
from factorq.kernels.coordinate import reference as coordinate_reference
from factorq.kernels.lloyd import cuda_twin as lloyd_cuda
from factorq.kernels.lloyd import reference as lloyd_reference
from factorq.kernels.pursuit import cuda_twin as pursuit_cuda
from factorq.kernels.pursuit import reference as pursuit_reference
from factorq.kernels.trellis import cuda_twin as trellis_cuda
from factorq.kernels.trellis import machine
from factorq.kernels.trellis import reference as trellis_reference

SEEDS = st.integers(0, 2**32 - 1)
Device = Callable[[], AbstractContextManager[Any]]


@pytest.fixture(scope="module", params=["host", "gpu"])
def device(request: pytest.FixtureRequest) -> Device:
    return place(request.param)


# --- codebooks --------------------------------------------------------------------------------------------------------


def tiled(centroids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What the door makes of codewords (K, D): tiles (K / 16, D, 16) and bias (K / 16, 16)."""
    count, dims = centroids.shape
    groups = -(-count // 16)
    wide = np.zeros((dims, groups * 16), np.float32)
    wide[:, :count] = -centroids.T
    bias = np.full(groups * 16, np.inf, np.float32)
    bias[:count] = 0.5 * (centroids**2).sum(axis=1)
    return np.ascontiguousarray(wide.reshape(dims, groups, 16).transpose(1, 0, 2)), bias.reshape(groups, 16)


def check_nearest(cupy: Any, n: int, dims: int, count: int, seed: int) -> None:
    """Equal where sums are exact, ties included; else a score that is the least one up to its rounding."""
    rng = np.random.default_rng(seed)
    for whole in (True, False):
        if whole:
            y, c = (rng.integers(-2, 3, (k, dims)).astype(np.float32) for k in (n, count))
        else:
            y, c = (rng.standard_normal((k, dims)).astype(np.float32) for k in (n, count))
        tiles, bias = tiled(c)
        codes = cupy.asarray(np.full(n, -1, np.int32))
        lloyd_cuda.nearest(cupy.asarray(y), cupy.asarray(tiles), cupy.asarray(bias), codes)
        if whole:
            expected = np.empty(n, np.int32)
            lloyd_reference.nearest(y, tiles, bias, expected)
            same(codes, expected)
        elif n:
            scores = bias.reshape(-1)[:count].astype(float) - y.astype(float) @ c.T.astype(float)
            size = np.abs(bias.reshape(-1)[:count]) + np.abs(y) @ np.abs(c.T)
            lost = scores[np.arange(n), codes.get()] - scores.min(axis=1)
            assert (lost <= 2 * (dims + 1) * 2.0**-24 * size.max(axis=1)).all()


def check_accumulate(cupy: Any, n: int, dims: int, count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    y = (rng.standard_normal((n, dims)) * 2.0 ** rng.integers(-20, 20, (n, dims))).astype(np.float32)
    codes = rng.integers(0, max(1, count - 1), n).astype(np.int32)
    sums, counts = rng.standard_normal((count, dims)), rng.integers(0, 9, count)
    made = cupy.asarray(sums), cupy.asarray(counts)
    lloyd_cuda.accumulate(cupy.asarray(y), cupy.asarray(codes), *made)
    lloyd_reference.accumulate(y, codes, sums, counts)
    same(made[0], sums)
    same(made[1], counts)


def check_seed(cupy: Any, n: int, dims: int, count: int, seed: int) -> None:
    """On small integers, whose distances and sums are exact."""
    rng = np.random.default_rng(seed)
    columns = rng.integers(-4, 5, (dims, n)).astype(np.float32)
    uniform, expected = rng.random(count), np.full(count, -1, np.int64)
    chosen = cupy.asarray(expected)
    lloyd_cuda.seed(cupy.asarray(columns), cupy.asarray(uniform), chosen)
    lloyd_reference.seed(columns, uniform, expected)
    same(chosen, expected)


def check_joint(cupy: Any, n: int, dims: int, books: int, count: int, seed: int) -> None:
    """On small integers, whose scores are exact."""
    rng = np.random.default_rng(seed)
    x, codewords = (rng.integers(-3, 4, shape).astype(np.float32) for shape in ((n, dims), (books, count, dims)))
    wide = -(-count // 64) * 64
    padded = np.zeros((books, wide, dims), np.float32)
    padded[:, :count] = codewords
    bias = np.full((books, wide), np.inf, np.float32)
    bias[:, :count] = 0.5 * (codewords**2).sum(axis=2)
    flat = padded.reshape(books * wide, dims)
    cross = np.ascontiguousarray((flat @ flat.T).reshape(books, wide, books, wide))
    table = np.ascontiguousarray(-padded.transpose(0, 2, 1))
    codes = rng.integers(0, count, (n, books)).astype(np.int32)
    made = cupy.asarray(codes)
    lloyd_cuda.joint(*map(cupy.asarray, (x, table, bias, cross)), 2, made)
    lloyd_reference.joint(x, table, bias, cross, 2, codes)
    same(made, codes)


LLOYD = {
    "nearest": [
        (1100, 1, 5, 0), (1025, 8, 300, 1), (513, 16, 100, 2), (600, 12, 17, 3), (530, 17, 40, 4), (70, 50, 65, 5),
        (2, 3, 1, 6), (0, 4, 4, 7), (300, 8, 1000, 8), (300, 16, 500, 9),
        *((40, dims, 33, dims) for dims in range(1, 17)),
    ],
    "accumulate": [
        (3000, 8, 40, 0), (5000, 40, 3, 1), (10, 1, 300, 2), (0, 3, 5, 3), (2100, 1, 2, 4), (400, 33, 7, 5),
    ],
    "seed": [(1000, 2, 40, 0), (5, 1, 9, 1), (66_000, 1, 3, 2), (256, 3, 20, 3), (1, 1, 3, 4)],
    "joint": [(30, 4, 2, 70, 0), (9, 2, 3, 9, 1), (5, 3, 4, 130, 2)],
}  # fmt: skip


def test_codebooks(device: Device) -> None:
    with device() as cupy:
        for name, cases in LLOYD.items():
            for case in cases:
                globals()[f"check_{name}"](cupy, *case)


# --- descent ----------------------------------------------------------------------------------------------------------


def check_sweep(cupy: Any, n: int, r: int, dtype: Any, most: float, noisy: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    C = rng.standard_normal((r + 2, r))
    C[:, rng.random(r) < 0.1] = 0
    G = (C.T @ C).astype(dtype)
    Z = np.clip(np.rint(rng.standard_normal((n, r)) * most - most % 1) + most % 1, -most, most).astype(dtype)
    g = (3 * rng.standard_normal((n, r))).astype(dtype)
    noise = rng.standard_normal((n, r)).astype(dtype) if noisy else None
    made = cupy.asarray(g), cupy.asarray(Z)
    coordinate_cuda.sweep(cupy.asarray(G), cupy.asarray(noise) if noisy else None, most, most % 1, *made)
    coordinate_reference.sweep(G, noise, most, most % 1, g, Z)
    for found, expected in zip(made, (g, Z), strict=True):
        same(found + 0, expected + 0)  # a step of 0 may or may not turn -0 into 0


def check_pursue(cupy: Any, n: int, r: int, dtype: Any, alphabet: int, restart: bool, seed: int) -> None:
    most, shift, zero = ((0.0, 0.0, True), (1.0, 0.0, True), (2.0, 0.25, True), (4.0, -0.5, False))[alphabet]
    rng = np.random.default_rng(seed)
    C = rng.standard_normal((max(2, r // 2), r))
    C = np.sign(C) if seed % 2 else C  # many moves that gain the same
    C[:, rng.random(r) < 0.1] = 0
    W = 3 * rng.standard_normal((n, len(C)))
    G, B = C.T @ C, ((np.rint(W) if seed % 2 else W) @ C).astype(dtype)
    t = np.clip(np.floor(np.abs(rng.standard_normal((n, r))) * 2), 1, most or 9) + shift
    Z = (np.copysign(t, rng.standard_normal((n, r))) * (rng.random((n, r)) < (0.3 if zero else 1))).astype(dtype)
    count = np.clip(np.count_nonzero(Z, axis=1) + rng.integers(-2, 3, n), 0, r) if zero else np.full(n, r)
    price, least = rng.choice([0.0, 0.3], n), rng.choice([0.0, 1e-9, 0.05], n)
    shared = G, B, price, rng.choice([0.25, 1.0], r), count.astype(np.int64), least
    fixed = most, shift, zero, restart and zero, min(64 + 8 * r, 200)
    made = cupy.asarray(Z)
    pursuit_cuda.pursue(*map(cupy.asarray, shared), *fixed, made)
    pursuit_reference.pursue(*shared, *fixed, Z)
    same(made, Z)


DTYPES = st.sampled_from([np.float32, np.float64])
SWEEPS: list[Any] = [
    (17, 128, np.float32, 7.0, False, 0),
    (3, 129, np.float64, 1.5, True, 1),
    (9, 33, np.float32, 2.0, True, 2),
]
PURSUITS: list[Any] = [
    (20, 33, np.float32, 0, True, 0),
    (2, 800, np.float64, 1, True, 1),
    (9, 200, np.float64, 3, False, 2),
]


@settings(max_examples=40)
@given(st.tuples(st.integers(0, 9), st.integers(0, 70), DTYPES, st.sampled_from([1.0, 3.0, 1.5]), st.booleans(), SEEDS))
def test_sweep(device: Device, case: Any) -> None:
    with device() as cupy:
        check_sweep(cupy, *case)


@settings(max_examples=40)
@given(st.tuples(st.integers(0, 9), st.integers(0, 40), DTYPES, st.integers(0, 3), st.booleans(), SEEDS))
def test_pursue(device: Device, case: Any) -> None:
    with device() as cupy:
        check_pursue(cupy, *case)


def test_long_rows(device: Device) -> None:
    """More than stay in registers, and more than fit into shared memory."""
    with device() as cupy:
        for case in SWEEPS:
            check_sweep(cupy, *case)
        for case in PURSUITS:
            check_pursue(cupy, *case)


# --- trellises --------------------------------------------------------------------------------------------------------


def check_search(cupy: Any, lanes: int, length: int, states: int, most: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = (2 * rng.standard_normal((lanes, length))).astype(np.float32)
    x[rng.random(x.shape) < 0.05] *= 1000
    x[rng.random(x.shape) < 0.2] = 0.5
    classes = rng.integers(0, 3, x.shape).astype(np.uint8)
    rate = (rng.random((3, 2 * most + 1)) * 3).astype(np.float32)
    if seed % 2:  # many paths of the same cost
        x, rate = np.rint(2 * x) / 2, np.rint(rate)
    k = np.empty(x.shape, np.int32)
    made = cupy.asarray(np.full_like(k, 1 << 30))
    given = tuple(map(cupy.asarray, (x, classes, rate)))
    if states == 1:
        trellis_reference.deadzone(x, classes, rate, k)
        trellis_cuda.deadzone(*given, made)
    else:
        trellis = machine(states)
        state = rng.integers(0, states, lanes)
        last = cupy.asarray(state)
        trellis_reference.search(x, classes, rate, trellis.predecessor, trellis.subset, state, k)
        trellis_cuda.search(*given, trellis.predecessor, trellis.subset, last, made)
        same(last, state)
    same(made, k)


SEARCHES = [
    (3, 1100, 4, 5, 0),
    (65, 40, 4, 2, 1),
    (5, 600, 64, 9, 2),
    (2, 513, 256, 3, 3),
    (33, 33, 8, 0, 4),
    (1, 512, 128, 1, 5),
]


@settings(max_examples=30)
@given(
    st.tuples(st.integers(0, 9), st.integers(0, 70), st.sampled_from([1, 4, 8, 16, 32, 64]), st.integers(0, 4), SEEDS)
)
def test_search(device: Device, case: Any) -> None:
    with device() as cupy:
        check_search(cupy, *case)


def test_several_windows_and_blocks(device: Device) -> None:
    with device() as cupy:
        for case in SEARCHES:
            check_search(cupy, *case)
