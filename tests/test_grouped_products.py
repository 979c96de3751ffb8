"""Products with packed grouped codes equal those of the matrix they stand for, within the bounds that are promised."""

from __future__ import annotations

import ctypes
import mmap
import sys
import tracemalloc
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import factorq as fq
from factorq.codecs import Codebook, Grid, Integers
from factorq.codecs.base import Grouped
from factorq.errors import ArgumentError, ArgumentTypeError
from factorq.kernels import bits as bits_kernel
from factorq.kernels import grouped
from factorq.kernels.grouped import Matrix, numba_twin, reference
from factorq.kernels.grouped.numba_twin.blocks import Block, block_of

Floats = NDArray[Any]
U = 2.0**-24


@dataclass
class Case:
    """A matrix, what it stands for, and A of the bounds."""

    matrix: Matrix
    values: Floats
    sizes: Floats


def case(bits: int, rows: int, n: int, group: int | None, kind: str = "zero", seed: int = 0) -> Case:
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 2**bits, (rows, n))
    shape = rows, -(-n // (group or max(n, 1)))
    scales, minima = (rng.standard_normal(shape).astype(np.float16) for _ in range(2))
    scales.flat[:1] = 2.0**-24  # the smallest float16
    packed = bits_kernel.pack(codes.reshape(-1).astype(np.uint8 if bits <= 8 else np.uint16), bits)
    zero = 2.0 ** (bits - 1) - 0.5
    wide, low = (np.repeat(x.astype(np.float64), group or max(n, 1), axis=1)[:, :n] for x in (scales, minima))
    if kind == "minima":
        values, sizes = wide * codes + low, np.abs(wide) * codes + np.abs(low)
        return Case(Matrix(packed, bits, (rows, n), scales, group, 0.0, minima), values, sizes)
    if kind == "levels":
        levels = np.sort(rng.standard_normal(2**bits)).astype(np.float32)
        values = wide * levels.astype(np.float64)[codes]
        return Case(Matrix(packed, bits, (rows, n), scales, group, 0.0, None, levels), values, np.abs(values))
    if kind == "plain":
        return Case(Matrix(packed, bits, (rows, n), None, None, zero), codes - zero, codes + zero)
    return Case(
        Matrix(packed, bits, (rows, n), scales, group, zero), wide * (codes - zero), np.abs(wide) * (codes + zero)
    )


def dot_terms(matrix: Matrix) -> int:
    n = matrix.shape[1]
    group = 1024 if matrix.per_row < 2 else matrix.group or n
    return group // 8 + 3 * -(-n // group) + 12


def agree(c: Case, b: int, module: Any = grouped, seed: int = 1) -> None:
    """Both products are within their bounds, for x in both memory orders."""
    rng = np.random.default_rng(seed)
    rows, n = c.matrix.shape
    x = rng.standard_normal((n, b)).astype(np.float32)
    y = module.matmul(c.matrix, np.asfortranarray(x))
    assert (y.shape, y.dtype) == ((rows, b), np.float32)
    assert np.all(np.abs(y - c.values @ x) <= dot_terms(c.matrix) * U * (c.sizes @ np.abs(x)))
    z = rng.standard_normal((b, rows)).astype(np.float32)
    w = module.rmatmul(np.asfortranarray(z), c.matrix)
    assert (w.shape, w.dtype) == ((b, n), np.float32)
    assert np.all(np.abs(w - z @ c.values) <= (rows + 12) * U * (np.abs(z) @ c.sizes))


@pytest.mark.parametrize("bits", range(1, 17))
def test_every_number_of_bits(bits: int) -> None:
    c = case(bits, 7, 384, 128)
    x = np.random.default_rng(1).standard_normal((384, 1)).astype(np.float32)
    y = grouped.matmul(c.matrix, x)
    assert np.all(np.abs(y - c.values @ x) <= dot_terms(c.matrix) * U * (c.sizes @ np.abs(x)))


@pytest.mark.parametrize("bits", [1, 5, 7, 8, 11, 15, 16])
def test_both_sides_and_wide_panels(bits: int) -> None:
    agree(case(bits, 37, 192, 64), 5)


@settings(max_examples=60)
@given(
    st.just(3), st.integers(0, 70), st.integers(0, 40), st.sampled_from([8, 40, 64, None]),
    st.sampled_from(["zero", "minima", "levels", "plain"]), st.sampled_from([0, 1, 4, 7, 9]), st.integers(0, 9),
)  # fmt: skip
def test_any_geometry(bits: int, rows: int, eights: int, group: int | None, kind: str, b: int, seed: int) -> None:
    agree(case(bits, rows, 8 * eights, group, kind, seed), b)


def test_two_columns() -> None:
    agree(case(4, 9, 192, 64), 2)
    agree(case(4, 70, 192, 64), 6)


@pytest.mark.parametrize("kind", ["zero", "minima", "levels", "plain"])
def test_the_reference_is_within_the_bounds(kind: str) -> None:
    agree(case(3, 9, 72, 16, kind), 3, reference)


def test_rows_longer_than_a_segment() -> None:
    for group in (None, 2048, 4096):
        agree(case(4, 5, 4224, group), 6)


@pytest.mark.parametrize(("rows", "n", "group"), [(256, 4096, 128), (4096, 256, None), (70, 8192, 64)])
def test_threads_change_nothing(rows: int, n: int, group: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    c = case(4, rows, n, group)
    found = []
    for threads in (1, 2, 3):
        monkeypatch.setattr(numba_twin, "product_workers", lambda threads=threads: threads)
        for b in (1, 5):
            x, z = (np.random.default_rng(b).standard_normal(s).astype(np.float32) for s in ((n, b), (b, rows)))
            found.append((grouped.matmul(c.matrix, x), grouped.rmatmul(z, c.matrix)))
    for first, second in zip(found, found[2:], strict=False):
        assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the page behind the codes is guarded by mprotect")
@pytest.mark.parametrize(("bits", "n", "group"), [(1, 64, 64), (2, 64, 64), (3, 64, 64), (3, 24, 8), (4, 64, 64)])
def test_nothing_behind_the_codes_is_read(bits: int, n: int, group: int) -> None:
    c = case(bits, 5, n, group)
    codes = c.matrix.codes
    page = mmap.PAGESIZE
    area = mmap.mmap(-1, 2 * page)
    start = ctypes.addressof(ctypes.c_char.from_buffer(area))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.mprotect(ctypes.c_void_p(start + page), ctypes.c_size_t(page), 0) == 0
    last = np.frombuffer(area, np.uint8, codes.size, page - codes.size)
    last[:] = codes
    agree(replace(c, matrix=c.matrix._replace(codes=last)), 5)
    agree(replace(c, matrix=c.matrix._replace(codes=last)), 1)
    assert libc.mprotect(ctypes.c_void_p(start + page), ctypes.c_size_t(page), 3) == 0


@pytest.mark.parametrize("power", [-140, -120, -30, 50])
def test_the_size_of_x_does_not_matter(power: int) -> None:
    c = case(4, 8, 64, 16)
    x = np.random.default_rng(1).integers(-8, 9, (64, 2)).astype(np.float32)
    scaled = np.ldexp(x, power)
    assert np.array_equal(grouped.matmul(c.matrix, scaled), np.ldexp(grouped.matmul(c.matrix, x), power))
    assert np.array_equal(grouped.rmatmul(scaled[:8].T, c.matrix), np.ldexp(grouped.rmatmul(x[:8].T, c.matrix), power))


def test_zeros_give_zeros() -> None:
    c = case(5, 8, 64, 16, "minima")
    assert not grouped.matmul(c.matrix, np.zeros((64, 3), np.float32)).any()
    assert not grouped.rmatmul(np.zeros((3, 8), np.float32), c.matrix).any()


def test_codes_of_a_lane_lie_in_it() -> None:
    for bits in range(1, 17):
        for multiple in (8, 16, 32, 64, 128):
            block = block_of(bits, multiple)
            assert block.fits
            assert multiple % block.codes == 0
            for lane in range(8):
                byte, bit = block.first(lane)
                assert 8 * byte + bit == lane * block.run * bits
                assert all(block.place(lane, k) + bits < 32 for k in range(block.run))
    assert block_of(4, 128) == Block(4, 8)


def test_what_is_refused() -> None:
    c = case(4, 8, 64, 16)
    x = np.ones((64, 1), np.float32)
    for matrix in (
        c.matrix._replace(group=20, scales=np.ones((8, 4), np.float16)),
        c.matrix._replace(zero=1.0, minima=c.matrix.scales),
        c.matrix._replace(zero=0.0, minima=c.matrix.scales[:1]),
    ):
        with pytest.raises(ArgumentError):
            grouped.matmul(matrix, x)
    for matrix in (c.matrix._replace(codes=c.matrix.codes[1:]), c.matrix._replace(scales=np.ones((8, 4)))):
        with pytest.raises(ArgumentTypeError):
            grouped.matmul(matrix, x)
    for wrong in (x[1:], np.full((64, 1), np.nan, np.float32)):
        with pytest.raises(ArgumentError):
            grouped.matmul(c.matrix, wrong)
    with pytest.raises(ArgumentTypeError):
        grouped.rmatmul(x.astype(np.float64), c.matrix)


# --- codecs ---------------------------------------------------------------------------------------------------------


def stored(W: Floats, kind: str, group: int | None, axis: int | None, bits: int = 4) -> Grouped:
    if kind == "integers":
        return Integers.encode(np.rint(4 * W), bits=bits, zero=2.0 ** (bits - 1))
    if kind == "codebook":
        levels: Any = "nf4" if group and bits == 4 else np.linspace(-2, 2, 2**bits)
        return Codebook.encode(W, bits=bits, group=group, axis=axis, levels=levels)
    zero = {"midrise": 2.0 ** (bits - 1) - 0.5, "midtread": 2.0 ** (bits - 1), "asymmetric": None}[kind]
    return Grid.encode(W, bits=bits, group=group, axis=axis, zero=zero)


def check_codec(encoded: Grouped, b: int, x_type: Any = np.float32) -> None:
    """Products are those of the decoded matrix; the cuts are the matrix."""
    rng = np.random.default_rng(1)
    (m, n), W = encoded.matrix, encoded.decode().reshape(encoded.matrix).astype(np.float64)
    size = np.abs(W) + (np.abs(W).max() if W.size else 0.0)  # codes + zero are at most twice the largest code - zero
    x, z = rng.standard_normal((n, b)).astype(x_type), rng.standard_normal((b, m)).astype(x_type)
    y, w = encoded.matmul(np.asfortranarray(x)), encoded.rmatmul(z)
    assert y.dtype == w.dtype == np.result_type(x_type, encoded.dtype)
    assert np.all(np.abs(y - W @ x) <= (n + 20) * 4 * U * (size @ np.abs(x)))
    assert np.all(np.abs(w - z @ W) <= (m + 20) * 4 * U * (np.abs(z) @ size))
    whole = np.full((m, n), np.nan)
    for rows, columns in encoded.cuts():
        whole[rows, columns] = encoded.cut(rows, columns)
    assert np.array_equal(whole, W)


shapes = st.sampled_from([(16, 40), (40, 16), (8, 3, 8), (7, 40), (24, 13), (1, 64), (64, 1), (5, 8, 2, 2), (3, 3)])


@settings(max_examples=80)
@given(
    shapes, st.sampled_from(["midrise", "midtread", "asymmetric", "codebook", "integers"]),
    st.sampled_from([None, 8, 16, 20, 5]), st.sampled_from([0, 1, None]), st.sampled_from([0, 1, 3, 4]),
    st.sampled_from([-60, 0, 60, 100]), st.sampled_from([np.float32, np.float64]),
)  # fmt: skip
def test_codecs(
    shape: tuple[int, ...], kind: str, group: int | None, axis: int | None, b: int, power: int, x_type: Any
) -> None:
    W = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    if kind == "integers":
        power = 0
    check_codec(stored(np.ldexp(W, power), kind, group, axis), b, x_type)


@pytest.mark.parametrize("bits", [5, 9])
def test_codebooks_too_large_for_registers(bits: int) -> None:
    W = np.random.default_rng(0).standard_normal((16, 64)).astype(np.float32)
    check_codec(stored(W, "codebook", 16, 1, bits), 3)


@pytest.mark.parametrize("axis", [0, 1, None])
def test_codes_are_multiplied_as_they_are(axis: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    W = np.random.default_rng(0).standard_normal((16, 64)).astype(np.float32)
    encoded = stored(W, "midrise", 16, axis)
    monkeypatch.setattr(Grid, "decode_block", lambda *_: pytest.fail("decoded"))
    encoded.matmul(np.ones((64, 3), np.float32))
    encoded.rmatmul(np.ones((3, 16), np.float32))
    with pytest.raises(pytest.fail.Exception):
        encoded.matmul(np.ones((64, 1000), np.float32))


@pytest.mark.parametrize("value", [np.nan, np.inf, 3e38])
def test_numbers_out_of_range_are_left_to_the_decoded_matrix(value: float) -> None:
    W = np.random.default_rng(0).standard_normal((16, 64)).astype(np.float32)
    encoded = stored(W, "midrise", 16, 1)
    x = np.zeros((64, 2), np.float32)
    x[3, 0] = value
    with np.errstate(invalid="ignore", over="ignore"):
        expected = encoded.decode() @ x
        found = encoded.matmul(x)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_many_cuts() -> None:
    W = np.random.default_rng(0).standard_normal((300, 1000)).astype(np.float32)
    for axis in (0, 1, None):
        for group in (24, None):
            check_codec(stored(W, "midrise", group, axis), 2)
            check_codec(stored(W[:, :-3].copy(), "asymmetric", group, axis), 2)


def test_a_product_takes_little_memory() -> None:
    W = np.random.default_rng(0).standard_normal((2048, 2048)).astype(np.float32)
    for b in (1, 16):
        x, z = np.ones((2048, b), np.float32), np.ones((b, 2048), np.float32)
        F = fq.decompose(W, method=fq.Scalar(bits=4))
        F @ x, z @ F
        tracemalloc.start()
        y = F @ x
        peak = tracemalloc.get_traced_memory()[1] - y.nbytes
        tracemalloc.reset_peak()
        z @ F
        peak = max(peak, tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert peak < 0.05 * W.nbytes
