"""The CUDA kernels of packed codes, grids, levels, trellises, rotations and products: the reference's bits on the host.

Products add in another order than the reference; they lie within the bound of their accumulation.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from cuda_host import host_cupy
from hypothesis import given, settings
from hypothesis import strategies as st

from factorq.kernels.bits import cuda_twin as bits_cuda
from factorq.kernels.bits import reference as bits_reference
from factorq.kernels.bitshift import cuda_twin as bitshift_cuda
from factorq.kernels.bitshift import period, table
from factorq.kernels.bitshift import reference as bitshift_reference
from factorq.kernels.grid import cuda_twin as grid_cuda
from factorq.kernels.grid import reference as grid_reference
from factorq.kernels.grid.asymmetric import cuda_twin as asymmetric_cuda
from factorq.kernels.grid.asymmetric import reference as asymmetric_reference
from factorq.kernels.grouped import cuda_twin as grouped_cuda
from factorq.kernels.grouped.layout import Matrix
from factorq.kernels.hadamard import cuda_twin as hadamard_cuda
from factorq.kernels.hadamard import reference as hadamard_reference
from factorq.kernels.hadamard.plans import plan
from factorq.kernels.levels import cuda_twin as levels_cuda
from factorq.kernels.levels import reference as levels_reference
from factorq.measure import narrowed, scaled

SEEDS = st.integers(0, 2**32 - 1)
FLOATS = (np.float32, np.float64)


@pytest.fixture(scope="module", params=["host", "gpu"])
def cupy(request: pytest.FixtureRequest) -> Iterator[Any]:
    """The stand-in on the host; the real one where there is a GPU."""
    if request.param == "host":
        with host_cupy() as module:
            yield module
    else:
        module = pytest.importorskip("cupy", reason="cupy is not installed")
        if not module.cuda.is_available():
            pytest.skip("no CUDA device")
        yield module


def same(made: Any, expected: np.ndarray) -> None:
    """Equal to the last bit, signs of zeros included."""
    assert made.dtype == expected.dtype
    assert made.shape == expected.shape
    found = made.get()
    np.testing.assert_array_equal(found, expected)
    assert np.ascontiguousarray(found).tobytes() == np.ascontiguousarray(expected).tobytes()


# --- bits -------------------------------------------------------------------------------------------------------------


def check_bits(cupy: Any, size: int, bits: int, offset: int, seed: int) -> None:
    """Both ways, from arrays that begin anywhere."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 256 if bits <= 8 else 65536, size + offset).astype(np.uint8 if bits <= 8 else np.uint16)
    packed = bits_reference.pack(codes[offset:], bits)
    same(bits_cuda.pack(cupy.asarray(codes)[offset:], bits), packed)
    room = cupy.asarray(np.concatenate([np.full(offset, 255, np.uint8), packed]))
    same(bits_cuda.unpack(room[offset:], bits, size), bits_reference.unpack(packed, bits, size))


@settings(max_examples=50)
@given(size=st.integers(0, 300), bits=st.integers(1, 16), offset=st.integers(0, 3), seed=SEEDS)
def test_bits(cupy: Any, size: int, bits: int, offset: int, seed: int) -> None:
    check_bits(cupy, size, bits, offset, seed)


@pytest.mark.parametrize("bits", [1, 3, 8, 13])
def test_bits_of_several_blocks(cupy: Any, bits: int) -> None:
    check_bits(cupy, 70_001, bits, 0, bits)


# --- grids ------------------------------------------------------------------------------------------------------------


def weights(rng: np.random.Generator, rows: int, n: int, dtype: Any) -> np.ndarray:
    """Rows of all kinds: Gaussian, tiny, constant, zero, on a grid, on a grid far from zero, with an outlier."""
    x = rng.standard_normal((rows, n))
    kind = rng.integers(0, 8, rows)[:, None]
    whole = rng.integers(-7, 8, (rows, n)) * 2.0 ** rng.integers(-6, 6)
    x = np.where(kind == 1, x * 2.0**-27, x)
    x = np.where(kind == 2, x[:, :1], x)
    x = np.where(kind == 3, 0.0, x)
    x = np.where(kind == 4, whole, x)
    x = np.where(kind == 5, 3 * whole + 2.0**-9, x)
    x = np.where(kind == 6, (2 * whole + 2.0**-6) * 1.25, x)
    x[:, :1] = np.where(kind == 7, 900.0, x[:, :1])
    return np.ascontiguousarray(x.astype(dtype))


GRIDS = st.tuples(
    st.integers(1, 6), st.integers(0, 80), st.integers(1, 16), st.integers(1, 70), st.booleans(),
    st.sampled_from(FLOATS), SEEDS,
)  # fmt: skip


def check_grid(cupy: Any, rows: int, n: int, bits: int, group: int, rise: bool, dtype: Any, seed: int) -> None:
    rng = np.random.default_rng(seed)
    zero = (2.0**bits - 1) / 2 if rise else 2.0 ** (bits - 1)
    x = weights(rng, rows, n, dtype)
    given = cupy.asarray(x)
    expected = grid_reference.fit_encode(x, bits, group, zero)
    for made, wanted in zip(grid_cuda.fit_encode(given, bits, group, zero), expected, strict=True):
        same(made, wanted)
    scales = expected[1] * rng.choice([1.0, 0.3, -1.1, 0.0], expected[1].shape)
    codes = grid_reference.encode(x, scales, bits, group, zero)
    same(grid_cuda.encode(given, cupy.asarray(scales), bits, group, zero), codes)
    values = grid_reference.decode(codes, scales, group, zero, dtype)
    same(grid_cuda.decode(cupy.asarray(codes), cupy.asarray(scales), group, zero, dtype), values)


@settings(max_examples=20)
@given(case=GRIDS)
def test_grid(cupy: Any, case: Any) -> None:
    check_grid(cupy, *case)


def check_asymmetric(cupy: Any, rows: int, n: int, bits: int, group: int, _: bool, dtype: Any, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = weights(rng, rows, n, dtype)
    given = cupy.asarray(x)
    expected = asymmetric_reference.fit_encode_asymmetric(x, bits, group)
    for made, wanted in zip(asymmetric_cuda.fit_encode_asymmetric(given, bits, group), expected, strict=True):
        same(made, wanted)
    scales = expected[1] * rng.choice([1.0, 0.3, 1.1, 0.0], expected[1].shape)
    minima = expected[2] + rng.choice([0.0, 0.01], expected[2].shape)
    pair = cupy.asarray(scales), cupy.asarray(minima)
    codes = asymmetric_reference.encode_asymmetric(x, scales, minima, bits, group)
    same(asymmetric_cuda.encode_asymmetric(given, *pair, bits, group), codes)
    values = asymmetric_reference.decode_asymmetric(codes, scales, minima, group, dtype)
    same(asymmetric_cuda.decode_asymmetric(cupy.asarray(codes), *pair, group, dtype), values)


@settings(max_examples=20)
@given(case=GRIDS)
def test_asymmetric_grid(cupy: Any, case: Any) -> None:
    check_asymmetric(cupy, *case)


@pytest.mark.parametrize("check", [check_grid, check_asymmetric])
def test_grids_of_several_blocks(cupy: Any, check: Any) -> None:
    check(cupy, 3, 1100, 4, 300, True, np.float32, 1)
    check(cupy, 600, 5, 3, 5, False, np.float32, 2)
    check(cupy, 2, 256, 9, 1 << 20, False, np.float64, 3)


# --- levels -----------------------------------------------------------------------------------------------------------


def check_levels(cupy: Any, rows: int, n: int, count: int, group: int, dtype: Any, seed: int) -> None:
    """Levels with repetitions, and with and without 0; scales of both signs and 0; values on levels and on middles."""
    rng = np.random.default_rng(seed)
    levels = np.sort(rng.choice(rng.integers(-40, 40, count) / 8.0, count)).astype(dtype)
    groups = -(-n // group)
    scales = rng.choice(np.array([1.0, 0.0, -1.5, 0.3, -0.007]), (rows, groups)).astype(dtype)
    near = rng.integers(0, count, (rows, n))
    spread = np.repeat(scales, group, axis=1)[:, :n]
    middle = 0.5 * spread * (levels[near] + levels[np.minimum(near + 1, count - 1)])
    kind = rng.integers(0, 3, (rows, n))
    x = np.select([kind == 0, kind == 1], [spread * levels[near], middle], rng.standard_normal((rows, n)))
    x = x.astype(dtype)
    codes = np.empty((rows, n), np.uint8 if count <= 256 else np.uint16)
    levels_reference.encode(x, levels, scales, group, codes)
    made = cupy.empty(codes.shape, codes.dtype)
    levels_cuda.encode(cupy.asarray(x), cupy.asarray(levels), cupy.asarray(scales), group, made)
    same(made, codes)
    values = np.empty(x.shape, dtype)
    levels_reference.decode(codes, levels, scales, group, values)
    out = cupy.empty(values.shape, values.dtype)
    levels_cuda.decode(cupy.asarray(codes), cupy.asarray(levels), cupy.asarray(scales), group, out)
    same(out, values)


@settings(max_examples=20)
@given(
    rows=st.integers(1, 9), n=st.integers(1, 140), count=st.integers(2, 40), group=st.integers(1, 70),
    dtype=st.sampled_from(FLOATS), seed=SEEDS,
)  # fmt: skip
def test_levels(cupy: Any, rows: int, n: int, count: int, group: int, dtype: Any, seed: int) -> None:
    check_levels(cupy, rows, n, count, group, dtype, seed)


@pytest.mark.parametrize("count", [256, 300, 5000])
def test_many_levels(cupy: Any, count: int) -> None:
    """Of both widths of codes, and too many for shared memory."""
    check_levels(cupy, 5, 70, count, 32, np.float32, count)
    check_levels(cupy, 2, 300, count, 300, np.float64, count)


# --- the bit-shift trellis --------------------------------------------------------------------------------------------


def check_bitshift(cupy: Any, blocks: int, length: int, bits: int, depth: int, window: int, seed: int) -> None:
    """Circles longer than their weights too, and coarse weights, so that costs are often equal."""
    rng = np.random.default_rng(seed)
    points, count = table(bits, 1 << depth), period(length, bits, 1 << depth)
    x = np.zeros((blocks, count), np.float32)
    x[:, :length] = np.round(2 * rng.standard_normal((blocks, length))) / 2
    codes = np.empty((blocks, count * bits // 8), np.uint8)
    bitshift_reference.encode(x, points, bits, length, window, codes)
    made = cupy.empty(codes.shape, codes.dtype)
    bitshift_cuda.encode(cupy.asarray(x), points, bits, length, window, made)
    same(made, codes)
    for dtype in FLOATS:
        scales = rng.standard_normal(blocks).astype(dtype)
        values = np.empty((blocks, length), dtype)
        bitshift_reference.decode(codes, points, bits, scales, values)
        out = cupy.empty(values.shape, values.dtype)
        bitshift_cuda.decode(made, cupy.asarray(points), bits, cupy.asarray(scales), out)
        same(out, values)


@settings(max_examples=20)
@given(
    blocks=st.integers(1, 5), length=st.integers(1, 40), bits=st.integers(1, 8), depth=st.integers(2, 9),
    window=st.integers(0, 12), seed=SEEDS,
)  # fmt: skip
def test_bitshift(cupy: Any, blocks: int, length: int, bits: int, depth: int, window: int, seed: int) -> None:
    check_bitshift(cupy, blocks, length, bits, max(depth, bits), window, seed)


@pytest.mark.parametrize(("bits", "depth"), [(1, 12), (2, 12), (1, 13), (1, 14), (8, 16)])
def test_large_trellises(cupy: Any, bits: int, depth: int) -> None:
    """Costs and table in shared memory, costs alone, none of them."""
    check_bitshift(cupy, 2, 20, bits, depth, 6, depth)


def test_searches_that_share_room(cupy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bitshift_cuda, "_BLOCKS", 2)
    check_bitshift(cupy, 5, 24, 2, 6, 5, 0)
    check_bitshift(cupy, 5, 8, 1, 14, 3, 0)


# --- rotations --------------------------------------------------------------------------------------------------------


def check_hadamard(cupy: Any, rows: int, n: int, dtype: Any, seed: int) -> None:
    x = np.random.default_rng(seed).standard_normal((rows, n)).astype(dtype)
    steps = plan(n, seed)
    signs, odd = steps.signs.astype(dtype), steps.odd.astype(dtype)
    parts = [cupy.asarray(part) for part in (steps.order, signs, steps.starts, odd)]
    for inverse in (False, True):
        expected, made = np.empty_like(x), cupy.empty(x.shape, x.dtype)
        hadamard_reference.rotate(x, steps.order, signs, steps.span, steps.starts, odd, inverse, expected)
        hadamard_cuda.rotate(cupy.asarray(x), parts[0], parts[1], steps.span, parts[2], parts[3], inverse, made)
        same(made, expected)


@settings(max_examples=25)
@given(rows=st.integers(1, 5), n=st.integers(1, 130), dtype=st.sampled_from(FLOATS), seed=SEEDS)
def test_rotations(cupy: Any, rows: int, n: int, dtype: Any, seed: int) -> None:
    check_hadamard(cupy, rows, n, dtype, seed)


@pytest.mark.parametrize("n", [1024, 259 * 2, 4096 * 3, 6145 * 2])
def test_long_rotations(cupy: Any, n: int) -> None:
    """In shared memory and beyond, with an odd part, and with butterflies that overlap."""
    check_hadamard(cupy, 2, n, np.float32, n)
    check_hadamard(cupy, 2, n, np.float64, n)


def test_rotations_that_share_room(cupy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hadamard_cuda, "_BLOCKS", 2)
    monkeypatch.setattr(hadamard_cuda, "_FAR_BLOCKS", 2)
    check_hadamard(cupy, 5, 96, np.float32, 1)
    check_hadamard(cupy, 5, 1 << 14, np.float32, 1)


# --- products ---------------------------------------------------------------------------------------------------------

KINDS = ("rise", "tread", "minima", "bare", "levels", "common")
TYPES = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16, "float32": np.float32, "float64": np.float64}


def matrix(rng: np.random.Generator, rows: int, n: int, bits: int, group: int | None, kind: str, whole: bool) -> Matrix:
    """Of every kind; with ``whole`` all numbers are small multiples of 1/4."""
    codes = rng.integers(0, 1 << bits, rows * n).astype(np.uint8 if bits <= 8 else np.uint16)
    shape = (1 if kind == "common" else rows, -(-n // (group or max(n, 1))))
    scales = rng.choice([0.5, 1.0, -2.0, 0.0], shape) if whole else rng.standard_normal(shape)
    minima = rng.choice([-1.5, 0.0, 3.0], shape) if whole else rng.standard_normal(shape)
    levels = rng.integers(-8, 9, 1 << bits) / 4 if whole else rng.standard_normal(1 << bits)
    zero = {"rise": (2.0**bits - 1) / 2, "tread": 2.0 ** (bits - 1), "common": 1.0}.get(kind, 0.0)
    return Matrix(
        bits_reference.pack(codes, bits), bits, (rows, n), None if kind == "bare" else scales.astype(np.float16), group,
        zero, minima.astype(np.float16) if kind == "minima" else None,
        levels.astype(np.float32) if kind == "levels" else None,
    )  # fmt: skip


def dense(m: Matrix, dtype: Any) -> tuple[np.ndarray, np.ndarray]:
    """M in the arithmetic of a dtype, and in float64 the sizes of what is added to make it."""
    codes = bits_reference.unpack(m.codes, m.bits, m.shape[0] * m.shape[1]).reshape(m.shape)

    def spread(x: Any, otherwise: float) -> np.ndarray:
        if x is None:
            return np.full(m.shape, otherwise, dtype)
        return np.repeat(x.astype(dtype), m.group or max(m.shape[1], 1), axis=1)[:, : m.shape[1]]

    scale, offset = spread(m.scales, 1), spread(m.minima, 0)
    value = codes.astype(dtype) - dtype(m.zero) if m.levels is None else m.levels.astype(dtype)[codes]
    size = codes + m.zero if m.levels is None else np.abs(m.levels.astype(float)[codes])
    return scale * value + offset, np.abs(scale).astype(float) * size + np.abs(offset)


def placed(cupy: Any, m: Matrix) -> Matrix:
    parts = {name: getattr(m, name) for name in ("codes", "scales", "minima", "levels")}
    return m._replace(**{name: cupy.asarray(x) for name, x in parts.items() if x is not None})


def check_products(
    cupy: Any, rows: int, n: int, bits: int, group: int | None, kind: str, batch: int, dtype: str, whole: bool,
    seed: int,
) -> None:  # fmt: skip
    """Exact where every sum is; else within the rounding of its additions, which are fewer than the terms."""
    rng = np.random.default_rng(seed)
    m = matrix(rng, rows, n, bits, group, kind, whole)
    given = placed(cupy, m)
    for kept, exponent in ((np.float16, 0), (np.float16, 14), (np.float32, -13), (np.float64, 3), (np.float32, 0)):
        values = dense(m, np.float64 if kept == np.float64 else np.float32)[0]
        expected = narrowed(scaled(values, exponent), np.dtype(kept))
        same(grouped_cuda.decode(given, kept, exponent), expected)
    oracle, sizes = dense(m, np.float64)
    for left in (False, True):
        shape = (batch, rows) if left else (n, batch)
        x = (rng.integers(-4, 5, shape) if whole else rng.standard_normal(shape)).astype(TYPES[dtype])
        wide = x.astype(float)
        made = grouped_cuda.rmatmul(cupy.asarray(x), given) if left else grouped_cuda.matmul(given, cupy.asarray(x))
        expected, size = (wide @ oracle, np.abs(wide) @ sizes) if left else (oracle @ wide, sizes @ np.abs(wide))
        assert made.dtype == (np.float64 if dtype == "float64" else np.float32)
        assert made.shape == expected.shape
        if whole:
            np.testing.assert_array_equal(made.get(), expected)
        else:
            assert (np.abs(made.get() - expected) <= (64 + rows // 8) * 2.0**-24 * size).all()


PRODUCTS = st.tuples(
    st.integers(0, 70), st.integers(0, 80), st.sampled_from([2, 3]), st.integers(1, 6), st.sampled_from(KINDS),
    st.sampled_from([0, 1, 2, 7, 9]), st.booleans(), st.booleans(), SEEDS,
)  # fmt: skip


@settings(max_examples=20)
@given(case=PRODUCTS)
def test_products(cupy: Any, case: Any) -> None:
    """Whole chunks and others."""
    rows, n, bits, group, kind, batch, chunks, whole, seed = case
    if chunks:
        n, group = 16 * n, 16 * group
    check_products(cupy, rows, n, bits, group if seed % 3 else None, kind, batch, "float32", whole, seed)


@pytest.mark.parametrize("bits", range(1, 17))
def test_products_of_all_widths(cupy: Any, bits: int) -> None:
    """Several tiles, and tiles and blocks that end within; vectors of all kinds, one to eight of them."""
    kind, dtype, batch = KINDS[bits % len(KINDS)], list(TYPES)[bits % len(TYPES)], 1 + bits % 8
    check_products(cupy, 37, 2208, bits, 32, kind, batch, dtype, bits % 2 == 0 and bits <= 8, bits)


def test_products_of_several_blocks(cupy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grouped_cuda, "_BLOCKS", 3)
    check_products(cupy, 300, 48, 4, 16, "rise", 2, "float32", True, 1)
    check_products(cupy, 300, 48, 2, None, "minima", 8, "float32", True, 1)
    with monkeypatch.context() as patch:  # rows that shared memory has no room for all at once
        patch.setattr(grouped_cuda, "SHARED", 1 << 11)
        patch.setattr(grouped_cuda, "_BLOCKS", 1)
        check_products(cupy, 300, 48, 3, 16, "rise", 8, "float32", True, 1)
    monkeypatch.setattr(grouped_cuda, "_ROOM", 64)
    check_products(cupy, 37, 21, 3, 5, "minima", 2, "float32", True, 2)
