"""Products with vector codes, one-hot rows and dense factors equal those of the decoded matrix, which is not made."""

from __future__ import annotations

import tracemalloc
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import factorq as fq
from factorq.codecs import Dense, OneHot, Vectors
from factorq.errors import ArgumentError, ArgumentTypeError, ArtifactError
from factorq.kernels import lookup, narrow
from factorq.kernels.lookup import plan
from factorq.kernels.lookup import reference as lookup_reference
from factorq.kernels.narrow import reference as narrow_reference

U = 2.0**-24
Array = NDArray[Any]


def vectors(
    shape: tuple[int, ...], dim: int, count: int, groups: int = 1, seed: int = 0, stored: str = "float16"
) -> Vectors:
    """Random codes and codewords."""
    rng = np.random.default_rng(seed)
    places = -(-int(np.prod(shape[1:])) // dim)
    book = Dense.encode(rng.standard_normal((groups * count, dim), dtype=np.float32), stored)
    index = OneHot.encode(rng.integers(0, count, shape[0] * places), count)
    return Vectors(shape=shape, dtype="float32", groups=groups, index=index, codebook=book)


def within(found: Array, W: Array, x: Array, terms: int) -> bool:
    """Whether found is W @ x up to the rounding of so many sums in float32."""
    W, x = W.astype(np.float64), x.astype(np.float64)
    return found.shape == (W @ x).shape and bool(np.all(np.abs(found - W @ x) <= terms * U * (np.abs(W) @ np.abs(x))))


def agrees(V: Vectors, b: int, seed: int = 1) -> None:
    rng = np.random.default_rng(seed)
    (m, n), dim = V.matrix, V.codebook.shape[1]
    W, count = V.decode().reshape(m, n), V.index.shape[1]
    x, z = rng.standard_normal((n, b), dtype=np.float32), rng.standard_normal((b, m), dtype=np.float32)
    assert within(V.matmul(x), W, x, V.per_row + max(dim, plan.WIDEST) + 16)
    assert within(V.rmatmul(z).T, W.T, z.T, m + max(count, 256) + 16)


sizes = st.tuples(st.integers(1, 40), st.integers(1, 300))
dims = st.sampled_from([1, 2, 3, 4, 5, 8, 9, 16, 23, 64])
counts = st.sampled_from([1, 2, 3, 4, 16, 100, 200, 256, 257, 1000, 4096, 65536])
batches = st.sampled_from([0, 1, 2, 3, 4, 5, 8, 15, 16, 17, 33, 70])


@settings(max_examples=60)
@given(sizes, dims, counts, st.integers(1, 5), batches, st.integers(0, 9))
def test_products_of_vectors(size: tuple[int, int], dim: int, count: int, groups: int, b: int, seed: int) -> None:
    m, n = size
    agrees(vectors((m, n), dim, count, min(groups, -(-n // dim)), seed), b, seed)


@pytest.mark.parametrize("count", [2, 4, 16, 64, 200, 256, 300, 65536])
@pytest.mark.parametrize("b", [1, 16])
def test_many_rows(count: int, b: int) -> None:
    """Tables where they pay, blocks of rows where codes are unpacked, several codes in a byte."""
    agrees(vectors((3001, 130), 4, count, seed=count), b)


def test_blocks_of_rows_that_begin_within_a_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("factorq.codecs.vectors._LEAST", 1)
    monkeypatch.setattr("factorq.codecs.vectors._SHARE", 400)
    for count, groups in ((5, 1), (8, 3), (100, 2), (3000, 1)):
        V = vectors((70, 7 * 333 - 2), 7, count, groups)
        assert 0 < V._rows_at_once < 70
        for b in (1, 6):
            agrees(V, b)


def test_a_row_of_too_many_codes_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("factorq.codecs.vectors._LEAST", 1)
    monkeypatch.setattr("factorq.codecs.vectors._CUT", 50)
    V = vectors((3, 501), 2, 8)
    assert V._rows_at_once == 0
    assert max((rows.stop - rows.start) * (columns.stop - columns.start) for rows, columns in V.cuts()) <= 50
    agrees(V, 3)


@pytest.mark.parametrize("count", [5, 16, 256, 1000])
def test_cuts_are_the_matrix(count: int) -> None:
    V = vectors((130, 3, 333), 4, count, 3)
    W = V.decode()
    assert W.shape == (130, 3, 333)
    assert all(np.array_equal(V.cut(r, c), W.reshape(130, -1)[r, c]) for r, c in V.cuts())
    words = V.codebook.decode().reshape(3, count, 4)
    owner = np.arange(250) * 3 // 250
    expected = words[owner, V.indices().reshape(130, 250)].reshape(130, -1)[:, :999]
    assert np.array_equal(W.reshape(130, -1), expected)


def test_both_ways_and_the_reference_agree() -> None:
    rng = np.random.default_rng(0)
    for dtype, count, dim, groups in (
        (np.uint8, 9, 5, 1),
        (np.uint8, 250, 8, 3),
        (np.uint16, 300, 12, 2),
        (np.uint8, 4, 2, 1),
    ):
        codes = rng.integers(0, count, (41, 37)).astype(dtype)
        books = plan.split_book(rng.standard_normal((groups, count, dim), dtype=np.float32))
        bounds, twin = plan.bounds(37, groups), lookup.twin(lookup.__name__, codes)
        x, z = rng.standard_normal((37 * dim, 16), dtype=np.float32), rng.standard_normal((41, 16), dtype=np.float32)
        room = plan.table_room(books, 16)
        results: list[list[Array]] = []
        for kernel in (twin, lookup_reference):
            few, many = np.zeros((41, 7), np.float32), np.zeros((41, 16), np.float32)
            kernel.dots(codes, bounds, books, plan.split_rows(x[:, :7], 37, dim), 2, 41, few)
            kernel.gathers(codes, bounds, books, dim, x, room, 2, 41, many)
            back = np.zeros((7, books.shape[1], 37, books.shape[3]), np.float32)
            kernel.axpys(codes, bounds, books, np.ascontiguousarray(z[:, :7]), 1, 36, back)
            whole = np.zeros((37 * dim, 16), np.float32)
            kernel.scatters(codes, bounds, books, dim, z, room, 1, 36, whole)
            results.append([few, many, back, whole])
        for own, expected in zip(*results, strict=True):
            assert np.allclose(own, expected, rtol=1e-4, atol=1e-4)
        few, many, back, whole = results[0]
        assert np.allclose(few, many[:, :7], rtol=1e-4, atol=1e-4)
        assert not few[:2].any()
        assert not whole[:dim].any()


@pytest.mark.parametrize("b", [1, 2, 3, 7, 16, 40])
@pytest.mark.parametrize(("dim", "count"), [(8, 256), (4, 16), (5, 100), (8, 1000)])
def test_threads_change_no_bit(b: int, dim: int, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    V = vectors((1030, 411), dim, count, 2)
    x = np.random.default_rng(b).standard_normal((411, b), dtype=np.float32)
    z = np.random.default_rng(b).standard_normal((b, 1030), dtype=np.float32)
    found = []
    for threads in (1, 2, 3):
        monkeypatch.setattr(lookup, "product_workers", lambda threads=threads: threads)
        found.append((V.matmul(x), V.rmatmul(z)))
    for y, w in found[1:]:
        assert np.array_equal(y, found[0][0])
        assert np.array_equal(w, found[0][1])


def test_products_of_a_factorization() -> None:
    W = np.random.default_rng(0).standard_normal((96, 75)).astype(np.float32)
    F = fq.decompose(W, method=fq.VectorQuantization(4, 16, stages=2, max_iter=3), rng=0)
    dense = F.to_dense()
    wide = np.random.default_rng(1).standard_normal((75, 12)).astype(np.float32)
    for x in (wide, wide[:, ::3], wide.T.copy().T, wide[:, 0], wide[::-1, :5], wide[:, :0], wide.astype(np.float64)):
        assert (F @ x).shape == (dense @ x).shape
        assert np.allclose(F @ x, dense @ x, atol=1e-4)
        assert np.allclose(F.T @ (F @ x), dense.T @ (dense @ x), atol=1e-3)
    z = np.random.default_rng(1).standard_normal((7, 96)).astype(ml_dtypes.bfloat16)
    assert (z @ F).dtype == np.float32
    assert np.allclose(z @ F, z.astype(np.float32) @ dense, atol=1e-4)


@pytest.mark.parametrize(
    ("dim", "count", "stored"), [(8, 256, "float16"), (8, 4096, "float16"), (4, 16, "float16"), (6, 50, "float32")]
)
@pytest.mark.parametrize("b", [1, 16])
def test_little_memory(dim: int, count: int, stored: str, b: int) -> None:
    V = vectors((2048, 2048), dim, count, stored=stored)
    x = np.ones((2048, b), np.float32)
    for product in (lambda: V.matmul(x), lambda: V.rmatmul(x.T)):
        product()
        tracemalloc.start()
        product()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 0.05 * 4 * V.size


@pytest.mark.parametrize("count", [5, 200, 300, 40000])
def test_codes_beyond_the_book_are_refused(count: int) -> None:
    V = vectors((64, 40), 4, count)
    hostile = OneHot(shape=V.index.shape, dtype="float32", indices=np.full_like(V.index.buffers()["indices"], 255))
    V = Vectors(shape=(64, 40), dtype="float32", groups=1, index=hostile, codebook=V.codebook)
    x = np.ones((40, 3), np.float32)
    for call in (
        lambda: V.matmul(x),
        lambda: V.rmatmul(np.ones((3, 64), np.float32)),
        V.decode,
        lambda: hostile.matmul(np.ones((count, 1), np.float32)),
        lambda: hostile.rmatmul(np.ones((1, 640), np.float32)),
    ):
        with pytest.raises(ArtifactError):
            call()


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_numbers_that_are_not_finite() -> None:
    V = vectors((16, 10), 4, 8)
    book = V.codebook.decode()
    book[3, 1], book[5, 3] = np.inf, np.nan
    V = Vectors(shape=(16, 10), dtype="float32", groups=1, index=V.index, codebook=Dense.encode(book, "float32"))
    x = np.ones((10, 2), np.float32)
    assert np.array_equal(np.isfinite(V.matmul(x)), np.isfinite(V.decode() @ x))
    assert np.array_equal(
        np.isfinite(V.rmatmul(np.ones((2, 16), np.float32))), np.isfinite(np.ones((2, 16)) @ V.decode())
    )


def test_the_doors_of_look_ups() -> None:
    book = lookup.Codewords.of(np.ones((2, 3, 4), np.float32))
    codes, x, out = np.zeros((5, 6), np.uint8), np.ones((24, 2), np.float32), np.zeros((5, 2), np.float32)
    for wrong in (codes.astype(np.int64), codes[0], codes.tolist()):
        with pytest.raises(ArgumentTypeError):
            lookup.matmul(wrong, book, x, out)
    for bad in (x.astype(np.float64), x[0], None):
        with pytest.raises(ArgumentTypeError):
            lookup.matmul(codes, book, bad, out)
    with pytest.raises(ArgumentError):
        lookup.matmul(codes, book, np.ones((25, 2), np.float32), out)
    with pytest.raises(ArgumentError):
        lookup.rmatmul(codes, book, x, out)
    with pytest.raises(ArgumentError):
        lookup.matmul(codes[:, :1], book, x[:4], out)
    with pytest.raises(ArgumentTypeError):
        lookup.Codewords.of(np.ones((2, 3, 4)))
    with pytest.raises(ArtifactError):
        lookup.matmul(codes + 3, book, x, out)
    lookup.matmul(codes[:, ::-1], book, x, out)
    assert np.array_equal(out, np.full((5, 2), 24.0))


@settings(max_examples=30)
@given(st.integers(0, 60), st.sampled_from([1, 2, 3, 200, 256, 300]), batches)
def test_one_hot_rows_pick_and_add(rows: int, width: int, b: int) -> None:
    rng = np.random.default_rng(rows)
    A = OneHot.encode(rng.integers(0, width, rows), width)
    x, z = rng.standard_normal((width, b), dtype=np.float32), rng.standard_normal((b, rows), dtype=np.float32)
    dense = A.decode()
    assert np.array_equal(A.matmul(x), dense @ x)
    assert np.allclose(A.rmatmul(z), z @ dense, atol=1e-5)
    assert A.rmatmul(z).dtype == A.matmul(x).dtype == np.float32
    assert all(np.array_equal(A.cut(r, c), dense[r, c]) for r, c in A.cuts())


def test_one_hot_rows_are_never_dense() -> None:
    A = OneHot.encode(np.arange(30000) % 999, 999)
    x, z = np.ones((999, 2), np.float32), np.ones((2, 30000), np.float32)
    tracemalloc.start()
    A.matmul(x)
    A.rmatmul(z)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 0.05 * 4 * A.size


@settings(max_examples=60)
@given(sizes, st.sampled_from(["float32", "float16", "bfloat16", "float64"]), batches, st.integers(-140, 20))
def test_products_of_dense_factors(size: tuple[int, int], stored: str, b: int, power: int) -> None:
    rng = np.random.default_rng(b)
    m, n = size
    A = Dense.encode(np.ldexp(rng.standard_normal((m, n), dtype=np.float32), max(power, -90)), stored)
    x, z = rng.standard_normal((n, b), dtype=np.float32), rng.standard_normal((b, m), dtype=np.float32)
    W = A.decode()
    assert within(A.matmul(x), W, x, n + 8)
    assert within(A.rmatmul(z).T, W.T, z.T, m + 8)
    assert all(np.array_equal(A.cut(r, c), W[r, c]) for r, c in A.cuts())


def test_every_half_is_widened() -> None:
    bits = np.arange(1 << 16, dtype=np.uint16)
    halves = bits.view(np.float16)
    halves = halves[np.isfinite(halves)].reshape(-1, 31)
    for exponent in (-100, -20, 0, 15):
        assert np.array_equal(narrow.widen(halves, exponent), np.ldexp(halves.astype(np.float32), exponent))
    numbers = bits.view(ml_dtypes.bfloat16).reshape(256, 256)
    assert np.array_equal(narrow.widen(numbers).view(np.uint32), numbers.view(np.uint16).astype(np.uint32) << 16) or (
        np.array_equal(narrow.widen(numbers), numbers.astype(np.float32), equal_nan=True)
    )
    assert not narrow.readable(np.array([[np.inf]], np.float16))
    assert not narrow.readable(np.array([[1.0]], np.float16), 16)
    assert not narrow.readable(np.array([[1.0]]))


def test_the_reference_of_few_columns() -> None:
    rng = np.random.default_rng(0)
    for dtype in (np.float32, np.float16, ml_dtypes.bfloat16):
        A = rng.standard_normal((45, 2100), dtype=np.float32).astype(dtype)
        twin, bits, kind, scale = narrow._read(A, 0 if dtype is np.float32 else 3)
        x, z = rng.standard_normal((2100, 16), dtype=np.float32), rng.standard_normal((45, 16), dtype=np.float32)
        results: list[list[Array]] = []
        for kernel in (twin, narrow_reference):
            rows, columns = np.zeros((45, 7), np.float32), np.zeros((7, 2100), np.float32)
            kernel.dots(bits, kind, scale, np.ascontiguousarray(x[:, :7].T), 3, 44, rows)
            kernel.axpys(bits, kind, scale, np.ascontiguousarray(z[:, :7]), 64, 2099, columns)
            wide, turned = np.zeros((45, 16), np.float32), np.zeros((2100, 16), np.float32)
            kernel.lanes(bits, kind, scale, x, 3, 44, wide)
            kernel.turned_lanes(bits, kind, scale, z, 64, 2099, turned)
            results.append([rows, columns, wide, turned])
        for own, expected in zip(*results, strict=True):
            assert np.allclose(own, expected, rtol=1e-4, atol=2e-3)


@pytest.mark.parametrize("stored", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("b", [1, 2, 3, 9, 20])
def test_threads_change_no_bit_of_dense_factors(stored: str, b: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    A = rng.standard_normal((777, 1234), dtype=np.float32).astype(fq.arrays.FLOATS[stored])
    x, z = rng.standard_normal((1234, b), dtype=np.float32), rng.standard_normal((b, 777), dtype=np.float32)
    found = []
    for threads in (1, 2, 3):
        monkeypatch.setattr(narrow, "product_workers", lambda threads=threads: threads)
        y, w = np.zeros((777, b), np.float32), np.zeros((b, 1234), np.float32)
        narrow.matmul(A, 0, x, y)
        narrow.rmatmul(z, A, 0, w)
        found.append((y, w))
    for y, w in found[1:]:
        assert np.array_equal(y, found[0][0])
        assert np.array_equal(w, found[0][1])


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_low_rank_products_take_little_memory(dtype: str) -> None:
    rng = np.random.default_rng(0)
    W = (rng.standard_normal((1024, 32)) @ rng.standard_normal((32, 1024))).astype(fq.arrays.FLOATS[dtype])
    F = fq.decompose(W, method=fq.SVD(32))
    x = np.ones((1024, 4), np.float32)
    F @ x
    tracemalloc.start()
    y, z = F @ x, x.T @ F
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 0.05 * 4 * W.size
    dense = F.to_dense().astype(np.float32)
    assert np.allclose(y, dense @ x, atol=0.02 * np.abs(dense @ x).max())
    assert np.allclose(z, x.T @ dense, atol=0.02 * np.abs(x.T @ dense).max())


def test_the_doors_of_few_columns() -> None:
    A, x, out = np.ones((3, 4), np.float16), np.ones((4, 2), np.float32), np.zeros((3, 2), np.float32)
    narrow.matmul(A[:, ::-1], 1, x, out)
    assert np.array_equal(out, np.full((3, 2), 8.0))
    with pytest.raises(ArgumentTypeError):
        narrow.matmul(A.astype(np.float64), 0, x, out)
    with pytest.raises(ArgumentTypeError):
        narrow.matmul(A, 0, x.astype(np.float64), out)
    with pytest.raises(ArgumentError):
        narrow.matmul(A, 0, x[:3], out)
    with pytest.raises(ArgumentError):
        narrow.rmatmul(x, A, 0, out)
