"""Sparse products, masks as bitmaps, and streams read in parts: the twins agree with each other and with the whole."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import factorq as fq
from factorq.kernels import density, gaps, givens, rans, sparse
from factorq.kernels.gaps import numba_twin as gaps_twin
from factorq.kernels.gaps import reference as gaps_reference
from factorq.kernels.sparse import numba_twin, reference

Array = np.ndarray


def padded(mask: Array, first: int) -> Array:
    """The bits of a mask (m, n) from bit ``first`` on, with bits of others around."""
    bits = np.concatenate([np.ones(first, np.bool_), mask.reshape(-1), np.ones(77, np.bool_)])
    return np.packbits(bits, bitorder="little")


@given(st.integers(1, 9), st.integers(1, 200), st.integers(0, 4), st.integers(0, 70), st.floats(0, 1), st.booleans())
def test_twins_agree(m: int, n: int, b: int, first: int, share: float, wide: bool) -> None:
    rng = np.random.default_rng(n)
    dtype = np.float64 if wide else np.float32
    W = np.where(rng.random((m, n)) < share, rng.integers(1, 9, (m, n)), 0).astype(dtype)  # sums are exact
    values, bitmap = W[W != 0], padded(W != 0, first)
    right, left = rng.integers(-9, 9, (n, b)).astype(dtype), rng.integers(-9, 9, (m, b)).astype(dtype)
    y, z = np.ones((m, b), dtype), np.ones((n, b), dtype)
    sparse.matmul(bitmap, first, values, right, y)
    sparse.rmatmul(bitmap, first, values, left, z)
    assert np.array_equal(y, 1 + W @ right)
    assert np.array_equal(z, 1 + W.T @ left)
    assert np.array_equal(sparse.expand(bitmap, first, values, m * n), W.reshape(-1))
    words = np.frombuffer(bitmap[first // 8 :].tobytes() + bytes(8 - (bitmap.size - first // 8) % 8), np.uint64).copy()
    for name, x, shape in (("matmul", right, (m, b)), ("rmatmul", left, (n, b))):
        found = [np.zeros(shape, dtype) for _ in range(2)]
        pair = zip((reference, numba_twin), found, strict=True)
        used = [getattr(twin, name)(words, first % 8, values, x, out) for twin, out in pair]
        assert used == [values.size] * 2
        assert np.array_equal(*found)


def test_values_that_do_not_fit_their_mask() -> None:
    bitmap, x, out = np.array([0b101], np.uint8), np.ones((8, 1)), np.zeros((1, 1))
    for values in (np.ones(1), np.ones(3)):
        with pytest.raises(fq.ArtifactError, match="2 kept"):
            sparse.matmul(bitmap, 0, values, x, out)
        with pytest.raises(fq.ArtifactError, match="2 kept"):
            sparse.expand(bitmap, 0, values, 8)
    assert not out.any()
    with pytest.raises(fq.ArgumentError, match="first"):
        sparse.matmul(bitmap, 1, np.ones(2), x, out)
    with pytest.raises(fq.ArgumentTypeError, match="float64"):
        sparse.matmul(bitmap, 0, np.ones(2), x.astype(np.float32), out)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("size", [1, 63, 64, 65, 3001])
def test_bitmap_of_gaps(size: int, share: float) -> None:
    mask = np.random.default_rng(size).random(size) < share
    stream, parameter = gaps.encode(mask)
    want = np.packbits(mask, bitorder="little")
    assert np.array_equal(gaps.bitmap(stream, parameter, size, int(mask.sum())), want)
    assert np.array_equal(gaps_reference.bitmap(stream, parameter, size, int(mask.sum())), want)


@pytest.mark.parametrize("piece", [8, 16, 1000])
@pytest.mark.parametrize("modulus", [1, 3, 64])
def test_gaps_in_pieces(piece: int, modulus: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Codes that begin in one piece of the stream and end in another, or are longer than a piece."""
    monkeypatch.setattr(gaps_twin, "_PIECE", piece)
    monkeypatch.setattr(gaps_twin, "_MARGIN", 32)
    mask = np.random.default_rng(piece).random(20_000) < 0.01
    mask[:3000] = mask[-5000:] = False
    bits = []
    for gap in np.diff(np.flatnonzero(mask), prepend=-1) - 1:
        width, short = gaps_reference.remainder_width(modulus)
        quotient, rest = divmod(int(gap), modulus)
        high = rest + short
        code, length = (rest, width - 1) if rest < short else (high >> 1 | (high & 1) << max(width - 1, 0), width)
        bits += [0] * quotient + [1] + ([code >> k & 1 for k in range(length)] if width else [])
    stream = np.packbits(np.array(bits, np.uint8), bitorder="little")
    assert np.array_equal(gaps.decode(stream, 2 * modulus, mask.size, int(mask.sum())), mask)
    for cut in (stream[:-1], stream[: stream.size // 2], stream[:0]):
        with pytest.raises(fq.ArtifactError, match="end in the middle"):
            gaps.decode(cut, 2 * modulus, mask.size, int(mask.sum()))
    with pytest.raises(fq.ArtifactError, match="at or after the end"):
        gaps.decode(stream, 2 * modulus, mask.size - 10_000, int(mask.sum()))


@pytest.mark.parametrize(("shape", "group"), [((40, 27), 9), ((1, 5), 0), ((30, 64), 0)])
def test_bitmap_of_densities(shape: tuple[int, int], group: int) -> None:
    mask = np.random.default_rng(0).random(shape) < 0.2
    stream = density.encode(mask, group)
    assert np.array_equal(density.bitmap(stream, shape, group), np.packbits(mask, bitorder="little"))


@pytest.mark.parametrize("bits", [1, 4, 13, 16])
@pytest.mark.parametrize("columns", [(), (500,)])
def test_streams_in_parts(bits: int, columns: tuple[int, ...]) -> None:
    rng = np.random.default_rng(bits)
    rows = rng.uniform(0.2, 3, 800)[:, None] if bits < 16 else np.ones((800, 1))  # classes of rows
    codes = np.minimum(np.abs(rng.standard_normal((800, 500)) * rows * 2.0 ** (bits - 3)), 2**bits - 1)
    codes = codes.astype(np.uint8 if bits <= 8 else np.uint16).reshape(-1)
    packed = rans.pack(codes, bits, columns)
    stream = rans.Stream.opened(packed, bits, codes.size, columns)
    for first, stop in ((0, 0), (0, codes.size), (7, 90_000), (65_535, 65_537), (399_999, 400_000), (70_000, 380_000)):
        assert np.array_equal(stream.read(first, stop), codes[first:stop])
    damaged = packed.copy()
    damaged[-3] ^= 255
    stream = rans.Stream.opened(damaged, bits, codes.size, columns)
    assert np.array_equal(stream.read(5, 60_000), codes[5:60_000])  # blocks stand alone
    with pytest.raises(fq.ArtifactError, match="corrupted"):
        stream.read(399_990, 400_000)


@pytest.mark.parametrize("leading", [1, 7, 19])
def test_rotations_are_applied_without_their_matrix(leading: int) -> None:
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 64, givens.angle_count(20, leading)).astype(np.uint16)
    A, x = givens.decode(codes, 20, leading, 6), rng.standard_normal((20, 3))
    np.testing.assert_allclose(givens.apply(codes, x, leading, 6), A @ x, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(givens.apply(codes, x, leading, 6, transposed=True), A.T @ x, rtol=1e-12, atol=1e-13)
    with pytest.raises(fq.ArgumentTypeError, match="float64"):
        givens.apply(codes, x.astype(np.float32), leading, 6)
