"""``W ~ C Z`` with few nonzeros in Z: at its ends the truncated SVD, k-means, sparse PCA, pruning, transform coding.

Kuzmin et al. 2022 (arXiv 2207.11048) name the corners. Each is stated here as an equality with the named method.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import factorq as fq
from factorq.kernels.pursuit import REAL, Alphabet, pursue
from factorq.solvers import lloyd
from factorq.solvers.dictionary import Budget, Dictionary, Target, learn, polish, quantize


def draw(m: int, n: int, seed: int = 0, *, decay: float = 0.0) -> Any:
    rng = np.random.default_rng(seed)
    turned = np.linalg.qr(rng.standard_normal((m, m)))[0]
    return np.ascontiguousarray(turned @ (rng.standard_normal((m, n)) * np.arange(1, m + 1)[:, None] ** -decay))


def codes(
    target: Target,
    C: Any,
    alphabet: Alphabet = REAL,
    *,
    count: int | None = None,
    price: float = 0.0,
    start: Any = None,
) -> Any:
    """Z (n, r) by pursuit with nothing spared."""
    n, r = target.W.shape[1], C.shape[1]
    Z = np.zeros((n, r), target.W.dtype) if start is None else start.copy()
    counts = np.full(n, r if count is None else count, np.int64)
    pursue(*target.products(C), Z, np.full(n, price), np.ones(r), counts, np.zeros(n), alphabet)
    return Z


# Nothing quantized, nothing zero: the truncated SVD.


@pytest.mark.parametrize("shape", [(12, 200), (200, 12), (20, 20)])
@pytest.mark.parametrize("rank", [1, 5, 12])
def test_no_zeros_and_no_grid_is_the_truncated_svd(shape: tuple[int, int], rank: int) -> None:
    W = draw(*shape, decay=0.7)
    F = fq.decompose(W, method=fq.QuantizedSparse(rank=rank, bits=None, sparsity=0.0))
    svd = fq.decompose(W, method=fq.SVD(rank))
    assert F.relative_error == pytest.approx(svd.relative_error, rel=1e-6, abs=1e-7)
    s = np.linalg.svd(W, compute_uv=False)
    assert F.relative_error == pytest.approx(np.sqrt(np.sum(s[rank:] ** 2) / np.sum(s**2)), rel=1e-6, abs=1e-7)


def test_alternating_least_squares_comes_to_the_svd_from_any_atoms() -> None:
    target = Target(draw(12, 300, decay=1.5))
    start = np.linalg.qr(draw(12, 4, 5))[0]
    found = Dictionary(start, codes(target, start), 0.0)
    ended = polish(target, found, Budget(1.0), max_iter=100, tol=0.0)
    s = np.linalg.svd(target.W, compute_uv=False)
    assert min(ended.history) ** 2 == pytest.approx(np.sum(s[4:] ** 2) / np.sum(s**2), rel=1e-6)


# One unit nonzero per column: k-means.


def lifted(W: Any, height: float) -> Any:
    """W over a constant row. Distances between columns stay, inner products become positive.

    So of the codes +-1 only +1 can be nearest, and never 0: one nonzero of +-1 is a choice of one column of C.
    """
    return np.vstack([W, np.full((1, W.shape[1]), height)])


@pytest.mark.parametrize(("m", "n", "k"), [(2, 500, 5), (8, 3000, 16), (1, 300, 4), (4, 50, 1)])
def test_one_unit_nonzero_per_column_is_lloyds_algorithm(m: int, n: int, k: int) -> None:
    """Assignments and means, round after round, from the same centroids."""
    W = draw(m, n, 1)
    height = 4 * float(np.abs(W).max()) * np.sqrt(m)
    target = Target(lifted(W, height))
    centroids, C, Z = W[:, :k].T.copy(), lifted(W[:, :k], height), None
    for _ in range(6):
        Z = codes(target, C, Alphabet(1), count=1, start=Z)
        distance = ((W.T[:, None] - centroids) ** 2).sum(axis=2)
        nearest = distance.argmin(axis=1)
        np.testing.assert_array_equal(Z, np.eye(k)[nearest])  # one +1 in each row
        assert target.squared_error(C, target.moments(Z), Z) == pytest.approx(distance.min(axis=1).sum(), rel=1e-9)
        C = target.moments(Z).dictionary()
        centroids = np.stack([W.T[nearest == j].mean(axis=0) for j in range(k)])
        np.testing.assert_allclose(C, lifted(centroids.T, height), rtol=1e-9, atol=1e-9)


def test_and_agrees_with_the_vector_quantization_solver() -> None:
    x = draw(4, 2000, 3).T.astype(np.float32)
    found = lloyd.kmeans(x, 12, np.random.default_rng(0))
    height = 4 * float(np.abs(x).max())
    target = Target(lifted(x.T.astype(float), height))
    Z = codes(target, lifted(found.centroids.T.astype(float), height), Alphabet(1), count=1)
    distance = ((x[:, None].astype(float) - found.centroids) ** 2).sum(axis=2)
    chosen = distance[np.arange(len(x)), Z.argmax(axis=1)]
    np.testing.assert_allclose(chosen, distance[np.arange(len(x)), found.codes], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        target.moments(Z).dictionary()[:-1].T,
        lloyd.means(x, Z.argmax(axis=1).astype(found.codes.dtype), found.centroids), atol=1e-5,
    )  # fmt: skip


@pytest.mark.parametrize("r", [3, 20])
def test_one_real_nonzero_per_column_is_gain_shape_vector_quantization(r: int) -> None:
    W, C = draw(6, 800), draw(6, r, 2) if r <= 6 else np.random.default_rng(2).standard_normal((6, r))
    C = np.ascontiguousarray(C[:, :r] * np.geomspace(0.1, 10, r))
    Z = codes(Target(W), C, count=1)
    inner, norm2 = W.T @ C, np.sum(C**2, axis=0)
    shape = (inner**2 / norm2).argmax(axis=1)
    want = np.zeros_like(Z)
    want[np.arange(800), shape] = (inner / norm2)[np.arange(800), shape]
    np.testing.assert_allclose(Z, want, rtol=1e-12)


def test_one_signed_unit_nonzero_is_a_symmetric_codebook_with_zero() -> None:
    W, C = draw(4, 800), draw(4, 4, 2) @ np.diag([0.5, 1, 2, 3])
    Z = codes(Target(W), C, Alphabet(1), count=1)
    book = np.hstack([C, -C, np.zeros((4, 1))])
    distance = ((W.T[:, None] - book.T) ** 2).sum(axis=2)
    np.testing.assert_allclose(C @ Z.T, book[:, distance.argmin(axis=1)])


# Nothing quantized: sparse PCA.


@pytest.mark.parametrize("sparsity", [0.5, 0.8])
def test_no_grid_is_sparse_pca(sparsity: float) -> None:
    """Both find local optima of one problem: as much variance explained at the same number of zeros."""
    W = draw(16, 400, decay=1.0)
    F = fq.decompose(W, method=fq.QuantizedSparse(rank=8, bits=None, sparsity=sparsity))
    spca = fq.decompose(W, method=fq.SparsePCA(8, sparsity))
    assert 1 - F.relative_error**2 == pytest.approx(1 - spca.relative_error**2, abs=0.02)


# The identity for C: pruning and rounding entry by entry.


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_identity_atoms_are_scalar_quantization(bits: int) -> None:
    """With the scales that ``Scalar`` chose, one per row, pursuit finds its codes."""
    W = draw(6, 2000) * np.geomspace(0.1, 10, 6)[:, None]
    method = fq.Scalar(bits=bits, group=None, levels="uniform", grid="midrise")
    stored = fq.decompose(W, method=method).to_dense()
    scale = 2 * np.abs(stored).min(axis=1)
    C = np.diag(scale)
    of_z = Alphabet(1 << (bits - 1), -0.5, zero=False)
    Z = codes(Target(W), C, of_z, start=np.full((2000, 6), 0.5))
    np.testing.assert_allclose(C @ Z.T, stored, rtol=1e-12)


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("sparsity", [0.3, 0.8])
def test_identity_atoms_at_a_price_are_pruning_with_quantization(bits: int, sparsity: float) -> None:
    """One scale: what gains least is what is smallest, so a price per nonzero keeps the same entries."""
    W = draw(6, 2000)
    method = fq.Scalar(bits=bits, group=None, sparsity=sparsity, levels="uniform", grid="midrise")
    stored = fq.decompose(W, method=method).to_dense()
    points = method.constraint("float64", W.size).encode(W).points()
    scale, of_z = float(np.max(points.scale)), Alphabet(1 << (bits - 1), -0.5)
    value = of_z.nearest(W / scale) * scale
    gain = np.sort((value * (2 * W - value)).ravel())[::-1]
    kept = np.count_nonzero(stored)
    price = (gain[kept - 1] + gain[kept]) / 2
    C = scale * np.eye(6)
    np.testing.assert_allclose(C @ codes(Target(W), C, of_z, price=price).T, stored, rtol=1e-9)


def test_identity_atoms_that_are_real_are_pruning_by_magnitude() -> None:
    W = draw(6, 500)
    stored = fq.decompose(W, method=fq.Scalar(sparsity=0.7)).to_dense()
    target, budget = Target(W), Budget(0.3)
    Z = codes(target, np.eye(6))
    budget.trim(*target.products(np.eye(6)), Z)
    np.testing.assert_allclose(Z.T, stored, rtol=1e-12)


# Orthonormal atoms: transform coding.


@pytest.mark.parametrize("alphabet", [REAL, Alphabet(1), Alphabet(2, 0.25), Alphabet(8, 0.5)])
def test_orthonormal_atoms_are_transform_coding(alphabet: Alphabet) -> None:
    """Codes are the exact projection of ``C^T W``, coordinate by coordinate, and errors add up."""
    W, C, price = draw(8, 600), np.linalg.qr(draw(8, 8, 3))[0], 0.6
    transformed = W.T @ C
    value = alphabet.nearest(transformed)
    want = np.where(transformed**2 - (transformed - value) ** 2 > price, value, 0)
    target = Target(W)
    Z = codes(target, C, alphabet, price=price)
    np.testing.assert_allclose(Z, want, rtol=1e-12)
    error = target.squared_error(C, target.moments(Z), Z)
    assert error == pytest.approx(np.sum((transformed - want) ** 2), rel=1e-9)
    restarted = want[::-1].copy()  # codes of other columns
    pursue(*target.products(C), restarted, np.full(600, price), np.ones(8), np.full(600, 8), np.zeros(600), alphabet)
    np.testing.assert_allclose(restarted, want, rtol=1e-9)


def test_the_price_is_the_dead_zone() -> None:
    """Orthonormal real codes at price p: what is below ``sqrt(p)`` becomes 0, hard thresholding."""
    W, C = draw(8, 600), np.linalg.qr(draw(8, 8, 3))[0]
    transformed = W.T @ C
    want = np.where(np.abs(transformed) > 1.1, transformed, 0)
    np.testing.assert_allclose(codes(Target(W), C, price=1.1**2), want, rtol=1e-12)


# The general problem is never worse than its corners.


def test_learned_atoms_do_better_than_each_corner_at_equal_zeros_and_bits() -> None:
    W = draw(16, 2000, decay=0.8)
    target, budget, bits = Target(W), Budget(0.3), (8, 3)
    found = learn(target, 16, budget, np.random.default_rng(0), rounds=20)
    ended = quantize(target, found, budget, bits, np.random.default_rng(0), max_iter=12, tol=0.0)
    pruned = fq.decompose(W, method=fq.Scalar(bits=3, sparsity=0.7)).relative_error
    U = np.linalg.svd(W, full_matrices=False)[0]
    transformed = U.T @ W
    cut = np.sort(np.abs(transformed).ravel())[::-1][budget.count((2000, 16))]
    transform = np.linalg.norm(np.where(np.abs(transformed) > cut, 0, transformed)) / np.linalg.norm(W)
    assert min(ended.history) < pruned
    assert min(polish(target, found, budget, max_iter=3, tol=0.0).history) < transform
