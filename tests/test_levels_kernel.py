"""Scalar codebooks: twins, nearest codes, known levels, and that projecting twice is projecting once."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from factorq.errors import ArgumentError, ArgumentTypeError
from factorq.kernels import levels as door
from factorq.kernels.levels import NF4, decode, encode, fit_encode, lloyd_max, lloyd_max_grouped, numba_twin, reference

FLOATS = [np.float32, np.float64]
TABLES = {
    "two": np.array([-1.0, 1.0]),
    "positive": np.array([0.25, 1.0, 1.5]),
    "skew": np.array([-0.81, -0.19, 0.34, 1.0]),
    "duplicates": np.array([-1.0, -1.0, 0.0, 0.5, 0.5]),
    "zero": np.zeros(4),
    "nf4": NF4,
    "close": 1 + np.arange(5) * 2.0**-23,
    "many": np.linspace(-1, 1, 200) ** 3,
    "more": np.linspace(-1, 1, 260),
}


def draw(shape: tuple[int, ...], dtype: Any = np.float32, seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def share(x: Any, q: Any) -> float:
    return float(np.sum((x.astype(np.float64) - q) ** 2) / np.sum(x.astype(np.float64) ** 2))


def brute_distance(x: Any, table: Any, scales: Any, group: int) -> Any:
    wide = np.repeat(scales.astype(np.float64), group, axis=1)[:, : x.shape[1]]
    return np.min(np.abs(x.astype(np.float64)[:, :, None] - wide[:, :, None] * table.astype(np.float64)), axis=2)


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("dtype", FLOATS)
def test_encode_is_nearest_and_twins_agree(name: str, dtype: Any) -> None:
    table = TABLES[name].astype(dtype)
    x = draw((6, 29), dtype)
    scales = np.array([[1, -0.5, 0.0], [2, 1e-7, -3]] * 3, np.float16)
    codes = encode(x, table, scales, 12)
    assert codes.dtype == (np.uint8 if table.size <= 256 else np.uint16)
    plain = np.empty_like(codes)
    reference.encode(x, table, scales.astype(dtype), 12, plain)
    np.testing.assert_array_equal(codes, plain)
    found = np.abs(x.astype(np.float64) - decode(codes, table, scales, 12, dtype))
    np.testing.assert_allclose(found, brute_distance(x, table, scales, 12), atol=2e-7 if dtype == np.float32 else 1e-15)


def test_ties_go_to_the_lower_code_and_zero_scales_to_the_level_nearest_zero() -> None:
    x = np.array([[0.5, -0.5, 1.5, 9, -9]])
    np.testing.assert_array_equal(encode(x, np.array([-1.0, 0.0, 1.0, 2.0]), None, None), [[1, 0, 2, 3, 0]])
    minus = np.full((1, 1), -1, np.float16)
    np.testing.assert_array_equal(encode(x, np.array([-1.0, 0.0, 1.0, 2.0]), minus, 5), [[0, 1, 0, 0, 3]])
    zero = np.zeros((1, 1), np.float16)
    np.testing.assert_array_equal(encode(x, np.array([-3.0, 0.5, 1.0]), zero, 5), [[1] * 5])


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("group", [7, 32, 64])
def test_fit_twins_agree_bit_for_bit(name: str, dtype: Any, group: int) -> None:
    x = draw((6, 52), dtype) * np.geomspace(1e-6, 3e3, 6)[:, None].astype(dtype)
    x[3] = 0
    table = TABLES[name].astype(dtype)
    codes, scales = fit_encode(x, table, group)
    plain_codes, plain_scales = np.zeros_like(codes), np.zeros(scales.shape, dtype)
    coarse, fine = (np.asarray(door.COARSE) / door._spread(table)).astype(dtype), door._fine(table)
    mirror = not np.array_equal(table, -table[::-1])
    reference.fit_encode(x, table, group, coarse, fine, mirror, plain_codes, plain_scales)
    np.testing.assert_array_equal(scales, plain_scales)
    np.testing.assert_array_equal(codes, plain_codes)
    assert np.all(scales[3] == 0)
    assert np.all(np.isfinite(scales))


def test_decode_twins_agree() -> None:
    codes = np.random.default_rng(0).integers(0, 16, (5, 33)).astype(np.uint8)
    scales = draw((5, 4), np.float16)
    table = NF4.astype(np.float32)
    out = np.empty(codes.shape, np.float32)
    for run in (reference.decode, numba_twin.decode):
        run(codes, table, scales.astype(np.float32), 10, out)
        expected = np.repeat(scales.astype(np.float32), 10, axis=1)[:, :33] * table[codes]
        np.testing.assert_array_equal(out, expected)
    np.testing.assert_array_equal(decode(codes, table, None, None, np.float64), table.astype(np.float64)[codes])


@given(st.floats(-7e4, 7e4) | st.floats(-1e-4, 1e-4))
def test_rounding_is_float16(value: float) -> None:
    with np.errstate(over="ignore"):
        expected = np.clip(np.float16(value), np.float16(-65504), np.float16(65504))
    plain = reference.round_float16(np.array([value]))[0]
    assert plain == numba_twin._round_float16(value) == np.float16(plain)
    assert abs(plain - value) <= abs(float(expected) - value)


tables = hnp.arrays(np.float64, st.integers(2, 20), elements=st.floats(-4, 4, width=16)).map(np.sort)


@settings(max_examples=60, deadline=None)
@given(tables, st.integers(1, 40), st.integers(1, 20), st.sampled_from(FLOATS), st.integers(0, 2**32 - 1))
def test_projecting_twice_is_projecting_once(table: Any, n: int, group: int, dtype: Any, seed: int) -> None:
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, table.size, (3, n)).astype(np.uint8)
    scales = rng.standard_normal((3, -(-n // group))).astype(np.float16)
    planted = decode(codes, table, scales, group, dtype)
    again, found = fit_encode(planted, table, group)
    np.testing.assert_array_equal(decode(again, table, found, group, dtype), planted)
    np.testing.assert_array_equal(decode(encode(planted, table, scales, group), table, scales, group, dtype), planted)
    x = rng.standard_normal((3, n)).astype(dtype)
    once = decode(*[(f := fit_encode(x, table, group))[0], table, f[1]], group, dtype)
    twice = decode(*[(f := fit_encode(once, table, group))[0], table, f[1]], group, dtype)
    np.testing.assert_array_equal(twice, once)


@given(tables, hnp.arrays(np.float32, (2, 11), elements=st.floats(-(2.0**15), 2.0**15, width=32)))
@settings(max_examples=60, deadline=None)
def test_fit_never_does_worse_than_zero(table: Any, x: Any) -> None:
    codes, scales = fit_encode(x, table, 5)
    error = np.sum((x.astype(np.float64) - decode(codes, table, scales, 5, np.float32)) ** 2)
    assert error <= np.sum(x.astype(np.float64) ** 2) * (1 + 1e-6)


def test_fit_is_close_to_a_dense_scan_of_scales() -> None:
    x = draw((40, 64))
    codes, scales = fit_encode(x, NF4, 64)
    found = np.sum((x - decode(codes, NF4, scales, 64, np.float32)) ** 2, axis=1)
    best = np.full(40, np.inf)
    for trial in np.concatenate([np.linspace(0.5, 4, 400), -np.linspace(0.5, 4, 400)]):
        best = np.minimum(best, np.sum(brute_distance(x, NF4, np.full((40, 1), trial), 64) ** 2, axis=1))
    assert found.sum() <= 1.04 * best.sum()


def test_groups_are_independent() -> None:
    x = draw((4, 256))
    whole_codes, whole = fit_encode(x, TABLES["skew"], 64)
    part_codes, part = fit_encode(np.ascontiguousarray(x[1:3, 64:128]), TABLES["skew"], 64)
    np.testing.assert_array_equal(whole[1:3, 1:2], part)
    np.testing.assert_array_equal(whole_codes[1:3, 64:128], part_codes)


@pytest.mark.parametrize(("bits", "limit"), [(2, 0.1125), (3, 0.0307), (4, 0.0077), (8, 3.7e-5)])
def test_gaussian_error(bits: int, limit: float) -> None:
    x = draw((256, 1024), seed=1)
    table = lloyd_max_grouped(x, 2**bits, 128)
    codes, scales = fit_encode(x, table, 128)
    error = share(x, decode(codes, table, scales, 128, np.float32))
    assert 2 ** (-2 * (bits + 0.125)) < error <= limit
    assert np.max(np.abs(table)) == 1
    assert np.all(np.diff(table) >= 0)
    np.testing.assert_array_equal(table, lloyd_max_grouped(x, 2**bits, 128))


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (0, 4), (2, 0)])
def test_grouped_levels_of_little_data(shape: tuple[int, int]) -> None:
    for x in (np.zeros(shape), draw(shape)):
        table = lloyd_max_grouped(x, 4, 128)
        assert table.shape == (4,)
        assert np.isfinite(table).all()
        assert np.all(np.diff(table) >= 0)
        codes, scales = fit_encode(x, table, 128)
        assert codes.shape == shape
        assert scales.shape == (shape[0], -(-shape[1] // 128))


def test_grouped_levels_ignore_the_scale_of_each_group() -> None:
    x = np.random.default_rng(0).laplace(size=(64, 512)) * 2.0 ** np.arange(-8, 8).repeat(4)[:, None]
    table = lloyd_max_grouped(x, 8, 64)
    codes, scales = fit_encode(x, table, 64)
    assert share(x, decode(codes, table, scales, 64, np.float64)) < 0.04


@pytest.mark.parametrize(
    ("count", "published"), [(2, [0.7979]), (4, [0.4528, 1.5104]), (8, [0.2451, 0.7560, 1.3439, 2.1520])]
)
def test_lloyd_max_of_a_gaussian(count: int, published: list[float]) -> None:
    expected = np.array([*(-p for p in reversed(published)), *published])
    quantiles = norm.ppf((np.arange(200_000) + 0.5) / 200_000)
    np.testing.assert_allclose(lloyd_max(quantiles, count), expected, atol=2e-4)
    # a sample of 2**20, which goes through runs of the sorted data; noise moves the levels of 8 together by about 0.01
    np.testing.assert_allclose(lloyd_max(draw((2**20,), seed=3), count), expected, atol=0.003 * count)


@pytest.mark.parametrize("count", [2, 16, 256])
def test_lloyd_max_of_uniform_data(count: int) -> None:
    x = (np.arange(50_000) + 0.5) / 50_000
    np.testing.assert_allclose(
        lloyd_max(x, count, 5000, 1e-12), (np.arange(count) + 0.5) / count, atol=2 / 50_000 * count**0.5
    )


@pytest.mark.parametrize("size", [300, 600_000])
def test_lloyd_max_is_a_fixed_point_and_beats_the_published_error(size: int) -> None:
    x = draw((size,), np.float64)
    table = lloyd_max(x, 16, 5000, 1e-12)
    codes = encode(x[None], table, None, None)[0]
    centroids = np.bincount(codes, x, 16) / np.bincount(codes, minlength=16)
    np.testing.assert_allclose(table, centroids, atol=2e-3 if size > 300 else 1e-12)
    assert share(x, table[codes]) < 0.00965


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("size", [5, 400_000])
def test_few_distinct_values_are_the_levels(dtype: Any, size: int) -> None:
    values = np.array([-1.1, 0.3, 0.30001, 7.7], dtype)
    x = values[np.arange(size) % 4]
    np.testing.assert_array_equal(lloyd_max(x, 4), values)
    np.testing.assert_array_equal(lloyd_max(x, 7), [*values, values[-1], values[-1], values[-1]])
    np.testing.assert_array_equal(lloyd_max(np.full(size, 0.7, dtype), 3), [dtype(0.7)] * 3)
    table = lloyd_max(x, 7)
    np.testing.assert_array_equal(decode(encode(x[None], table, None, None), table, None, None, dtype)[0], x)


def test_heavy_tails_leave_no_cell_empty() -> None:
    x = np.random.default_rng(0).standard_cauchy(100_000)
    table = lloyd_max(x, 64)
    assert np.unique(table).size == 64
    assert (
        np.bincount(encode(np.clip(x, -3e4, 3e4)[None], np.clip(table, -3e4, 3e4), None, None)[0], minlength=64).min()
        > 0
    )
    atoms = np.concatenate([np.zeros(10_000), np.arange(1.0, 40)])
    assert np.unique(lloyd_max(atoms, 32)).size == 32


@given(hnp.arrays(np.float64, st.integers(1, 60), elements=st.floats(-100, 100, width=16)), st.integers(1, 20))
@settings(max_examples=100, deadline=None)
def test_lloyd_max_levels_are_sorted_inside_the_data(x: Any, count: int) -> None:
    table = lloyd_max(x, count)
    assert table.shape == (count,)
    assert np.all(np.diff(table) >= 0)
    assert table[0] >= x.min() - 1e-9
    assert table[-1] <= x.max() + 1e-9


def test_nf4_is_the_formula() -> None:
    offset = (1 - 1 / 32 + 1 - 1 / 30) / 2
    positive = norm.ppf(np.linspace(offset, 0.5, 9)[:-1])
    negative = -norm.ppf(np.linspace(offset, 0.5, 8)[:-1])
    levels = np.sort(np.concatenate([positive, [0], negative])) / positive[0]
    np.testing.assert_allclose(NF4, levels, atol=1e-14)
    assert NF4[7] == 0
    assert NF4[0] == -1
    assert NF4[-1] == 1
    np.testing.assert_allclose(NF4[[1, 8, 14]], [-0.6961928, 0.0795803, 0.7229568], atol=1e-6)


def test_inputs_are_refused_with_their_name() -> None:
    x, table = draw((2, 8)), NF4
    scales = np.ones((2, 2), np.float16)
    for bad in (x.astype(np.float16), x[0], x[:, ::2], np.asfortranarray(x)):
        with pytest.raises(ArgumentTypeError, match=r"^x: "):
            fit_encode(bad, table, 4)
    for bad in (x * 1e6, x * np.float32(np.nan)):
        with pytest.raises(ArgumentError, match=r"^x: "):
            encode(bad, table, None, None)
    for bad in (table[::-1], table[:1], table[None], table * np.nan, table * 1e9):
        with pytest.raises(ArgumentError, match=r"^levels: "):
            fit_encode(x, bad, 4)
    for bad in (scales[:, :1], scales.astype(np.float32), scales * np.float16(np.inf)):
        with pytest.raises(ArgumentError, match=r"^scales: "):
            encode(x, table, bad, 4)
    for group in (0, True, 2.0, None):
        with pytest.raises(ArgumentError, match=r"^group: "):
            encode(x, table, scales, group)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match=r"^codes: "):
        decode(np.full((2, 8), 16, np.uint8), table, None, None, np.float32)
    with pytest.raises(ArgumentTypeError, match=r"^codes: "):
        decode(np.zeros((2, 8), np.int64), table, None, None, np.float32)
    with pytest.raises(ArgumentTypeError, match=r"^dtype: "):
        decode(np.zeros((2, 8), np.uint8), table, None, None, np.float16)
    with pytest.raises(ArgumentError, match=r"^count: "):
        lloyd_max_grouped(x, 1, 4)
    for bad, count in ((x, 4), (x[0, :0], 4), (x[0] * np.float32(np.inf), 4), (x[0], 0)):
        with pytest.raises(ArgumentError, match=r"^(x|count): "):
            lloyd_max(bad, count)


def test_inputs_are_not_changed() -> None:
    x, table = draw((3, 40)), NF4.copy()
    kept = x.copy()
    x.flags.writeable = table.flags.writeable = False
    codes, scales = fit_encode(x, table, 16)
    for made in (codes, scales):
        made.flags.writeable = False
    decode(encode(x, table, scales, 16), table, scales, 16, np.float32)
    lloyd_max(x.ravel(), 4)
    np.testing.assert_array_equal(x, kept)


def test_the_door_does_not_load_numba() -> None:
    code = "import sys, factorq.kernels.levels; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
