"""Sparse principal components: shares of zeros, order, sign, known answers, bounds by PCA, limits, sizes, metrics."""

from __future__ import annotations

import math
from itertools import combinations, pairwise

import numpy as np
import pytest
from cases import DTYPES, gram_of
from hypothesis import given, settings
from hypothesis import strategies as st

import factorq as fq
from factorq.codecs import Dense, Mask
from factorq.solvers.dictionary.components import Kept, on_support
from factorq.solvers.dictionary.variance import added_variance


def decaying(m: int, n: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.standard_normal((n, n)))[0]
    return ((rng.standard_normal((m, n)) * np.arange(1, n + 1) ** -0.7) @ basis).astype(np.float32)


def components(F: fq.Factorization) -> np.ndarray:
    return np.asarray(F.factors[1])


def explained(W: np.ndarray, V: np.ndarray) -> float:
    W = np.float64(W)
    u, s, _ = np.linalg.svd(np.float64(V).T, full_matrices=False)
    return float(np.sum((W @ u[:, s > 1e-9]) ** 2) / np.sum(W**2))


def pca(W: np.ndarray, rank: int) -> float:
    s2 = np.linalg.svd(np.float64(W), compute_uv=False) ** 2
    return float(s2[:rank].sum() / s2.sum())


W = decaying(90, 70)
W.setflags(write=False)


# Shares of zeros, order, sign -----------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(
    shape=st.sampled_from(((12, 30), (30, 12), (9, 1), (1, 9), (20, 20))),
    rank=st.integers(1, 9),
    sparsity=st.floats(0.0, 0.99),
    each=st.booleans(),
)
def test_the_number_of_nonzeros_is_what_was_asked_for(
    shape: tuple[int, int], rank: int, sparsity: float, each: bool
) -> None:
    rank = min(rank, *shape)
    X = np.random.default_rng(1).standard_normal(shape)
    method = fq.SparsePCA(rank, sparsity, per_component=each, max_iter=4)
    F = fq.decompose(X, method=method)
    per = np.count_nonzero(components(F), axis=1)
    most = math.floor((1 - sparsity) * shape[1] * (1 + 1e-14))
    if each:
        assert per.max() <= most
    total = rank * most if each else math.floor((1 - sparsity) * rank * shape[1] * (1 + 1e-14))
    assert per.sum() <= total
    assert F.nbytes <= method.nbytes(shape, "float64")


@pytest.mark.parametrize("sparsity", [0.3, 0.7, 0.85, 0.97])
@pytest.mark.parametrize("each", [False, True])
def test_no_nonzero_is_left_unused(sparsity: float, each: bool) -> None:
    Z = components(fq.decompose(W, method=fq.SparsePCA(10, sparsity, per_component=each)))
    if each:
        assert (np.count_nonzero(Z, axis=1) == math.floor((1 - sparsity) * 70 + 1e-9)).all()
    else:
        assert np.count_nonzero(Z) == math.floor((1 - sparsity) * 700 + 1e-9)


def test_components_are_canonical() -> None:
    F = fq.decompose(W, rank=12, sparsity=0.8)
    C, Z = (np.float64(x) for x in F.factors)
    np.testing.assert_allclose(np.linalg.norm(Z, axis=1), 1.0, rtol=1e-6)
    assert (Z[np.arange(12), np.abs(Z).argmax(axis=1)] > 0).all()
    np.testing.assert_allclose(C, W @ np.linalg.pinv(Z), atol=1e-5)  # scores of least squares
    added = [explained(W, Z[: k + 1]) for k in range(12)]
    steps = np.diff([0.0, *added])
    assert (steps > 0).all()
    for k in range(12):  # none of those that follow would add more
        others = [explained(W, np.vstack([Z[:k], Z[j : j + 1]])) for j in range(k, 12)]
        assert max(others) <= added[k] + 1e-6
    assert f"explained variance {added[-1]:.1%}: {steps[0]:.1%}, {steps[1]:.1%}, {steps[2]:.1%}, ..." in F.status


def test_the_error_is_what_is_not_explained() -> None:
    F = fq.decompose(W, rank=9, sparsity=0.6)
    assert 1 - F.relative_error**2 == pytest.approx(explained(W, components(F)), abs=1e-5)
    assert F.method.id == "sparse_pca"
    c, z = (leaf.factor for leaf in F.form.leaves().values())
    assert isinstance(c, Dense)
    assert isinstance(z, Mask)


# Known answers --------------------------------------------------------------------------------------------------------


def planted(rng: np.random.Generator, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """Data of 5 components of 12 entries each, apart from each other, of sizes 5, 4, .. 1; and these."""
    V = np.zeros((5, 80))
    for row, where in zip(V, rng.permutation(80)[:60].reshape(5, 12), strict=True):
        row[where] = rng.standard_normal(12) + 2 * rng.choice((-1, 1), 12)
    V /= np.linalg.norm(V, axis=1)[:, None]
    U = np.linalg.qr(rng.standard_normal((200, 5)))[0] * np.arange(5, 0, -1)
    return U @ V + noise * rng.standard_normal((200, 80)) / math.sqrt(200 * 80), V


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("each", [False, True])
def test_planted_components_come_back_in_order(seed: int, each: bool) -> None:
    X, V = planted(np.random.default_rng(seed), noise=0.3)
    Z = components(fq.decompose(X, method=fq.SparsePCA(5, sparsity=0.85, per_component=each)))
    np.testing.assert_array_equal(Z != 0, V != 0)
    cosine = np.sum(Z * V, axis=1)
    np.testing.assert_allclose(np.abs(cosine), 1.0, atol=2e-3)


@pytest.mark.parametrize("seed", range(4))
def test_planted_components_without_noise_are_exact(seed: int) -> None:
    X, _ = planted(np.random.default_rng(seed), noise=0.0)
    assert fq.decompose(X, rank=5, sparsity=0.85).relative_error < 1e-6


@pytest.mark.parametrize("seed", range(6))
def test_one_component_beside_all_supports(seed: int) -> None:
    X = np.random.default_rng(seed).standard_normal((20, 9))
    energy = np.sum(X**2)
    best = max(np.linalg.norm(X[:, list(s)], 2) ** 2 for s in combinations(range(9), 3)) / energy
    found = 1 - fq.decompose(X, rank=1, sparsity=2 / 3).relative_error ** 2
    assert 0.9 * best <= found <= best * (1 + 1e-9)


@pytest.mark.parametrize("shape", [(40, 60), (60, 40), (5, 5), (1, 7), (7, 1)])
@pytest.mark.parametrize("gram", [False, True])
def test_without_zeros_it_is_the_truncated_svd(shape: tuple[int, int], gram: bool) -> None:
    X = np.random.default_rng(2).standard_normal(shape)
    rank = min(4, *shape)
    G = gram_of(shape[1]) if gram else None
    F = fq.decompose(X, rank=rank, sparsity=0.0, gram=G)
    S = fq.decompose(X, method=fq.SVD(rank), gram=G)
    ours, best = (F.gram_error, S.gram_error) if gram else (F.relative_error, S.relative_error)
    assert ours == pytest.approx(best, rel=1e-6, abs=1e-9)


# Bounds, monotony -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [decaying, lambda m, n: np.random.default_rng(5).standard_normal((m, n))])
def test_explained_variance_grows_up_to_that_of_pca(make) -> None:
    X = make(80, 64)
    table = np.array(
        [[1 - fq.decompose(X, rank=r, sparsity=s).relative_error ** 2 for s in (0.95, 0.8, 0.5, 0.0)]
         for r in (2, 6, 16)]
    )  # fmt: skip
    assert (np.diff(table, axis=0) > 0).all()
    assert (np.diff(table, axis=1) > 0).all()
    for rank, row in zip((2, 6, 16), table, strict=True):
        assert row.max() <= pca(X, rank) + 1e-6
        assert row[2] >= 0.8 * pca(X, rank)


def test_more_than_thresholded_principal_components() -> None:
    Vt = np.linalg.svd(W, full_matrices=False)[2][:12]
    for sparsity in (0.5, 0.7, 0.9):
        F = fq.decompose(W, rank=12, sparsity=sparsity)
        kept = np.count_nonzero(components(F))
        threshold = np.sort(np.abs(Vt), axis=None)[-kept]
        assert 1 - F.relative_error**2 > explained(W, np.where(np.abs(Vt) >= threshold, Vt, 0)) + 0.01


def test_rounds_on_the_whole_array_are_told() -> None:
    seen: list[float] = []
    F = fq.decompose(W, rank=6, sparsity=0.8, callback=lambda progress: seen.append(progress.objective))
    assert tuple(seen) == F.history
    assert min(seen) == pytest.approx(F.relative_error, rel=1e-4)


# A metric ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rank_of_gram", [None, 20])
@pytest.mark.parametrize("sparsity", [0.5, 0.9])
def test_a_gram_is_heeded(rank_of_gram: int | None, sparsity: float) -> None:
    gram = gram_of(70, rank=rank_of_gram)
    F = fq.decompose(W, rank=8, sparsity=sparsity, gram=gram)
    lost = W - np.float64(fq.decompose(W, rank=8, sparsity=sparsity).to_dense())
    plain = math.sqrt(np.trace(lost @ gram @ lost.T) / np.trace(W @ gram @ W.T))
    assert fq.decompose(W, method=fq.SVD(8), gram=gram).gram_error < F.gram_error < 0.9 * plain
    assert all(b <= a + 1e-12 for a, b in pairwise(F.history))
    assert f"explained variance {1 - F.gram_error**2:.1%}" in F.status


def test_inputs_that_never_occur_cost_nothing() -> None:
    gram = gram_of(70)
    gram[10:] = gram[:, 10:] = 0
    Z = components(fq.decompose(W, rank=4, sparsity=0.9, gram=gram))
    assert not Z[:, 10:].any()
    assert fq.decompose(W, rank=4, sparsity=0.9, gram=np.zeros((70, 70))).status.count("zero") == 1


def test_a_gram_that_is_none() -> None:
    gram = np.eye(70)
    gram[0, 1] = gram[1, 0] = 3
    with pytest.raises(fq.ArgumentError, match=r"gram.*positive semidefinite"):
        fq.decompose(W, rank=4, sparsity=0.5, gram=gram)


# Limits --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", list(DTYPES))
def test_every_precision(dtype: str) -> None:
    F = fq.decompose(W.astype(DTYPES[dtype]), rank=8, sparsity=0.75)
    assert F.relative_error == pytest.approx(fq.decompose(W, rank=8, sparsity=0.75).relative_error, rel=2e-2)
    assert all(factor.dtype == DTYPES[dtype] for factor in F.factors)


def test_zero_arrays_and_too_few_nonzeros() -> None:
    F = fq.decompose(np.zeros((6, 8)), rank=3, sparsity=0.5)
    assert F.relative_error == 0
    assert "W is zero" in F.status
    F = fq.decompose(W, rank=4, sparsity=0.9999)
    assert not components(F).any()
    assert "4 empty" in F.status
    assert "no entry may be nonzero" in F.status
    F = fq.decompose(W, rank=8, sparsity=1 - 3.01 / 560)
    assert np.count_nonzero(components(F)) == 3
    assert np.isfinite(F.to_dense()).all()
    assert " empty (a lower sparsity" in F.status


@pytest.mark.parametrize("each", [False, True])
def test_no_component_stays_empty_without_need(each: bool) -> None:
    Z = components(fq.decompose(W, method=fq.SparsePCA(10, 0.97, per_component=each)))
    assert Z.any(axis=1).all()


def test_an_array_of_lower_rank() -> None:
    X = np.outer(np.arange(1.0, 21.0), np.ones(30))
    F = fq.decompose(X, rank=5, sparsity=0.5)
    assert F.relative_error < 1e-6
    assert np.isfinite(F.factors[0]).all()


def test_more_axes_are_rows_by_the_rest() -> None:
    X = np.random.default_rng(0).standard_normal((12, 4, 3, 3)).astype(np.float32)
    F = fq.decompose(X, method=fq.SparsePCA(5, 0.6))
    G = fq.decompose(X.reshape(12, 36), rank=5, sparsity=0.6)
    np.testing.assert_array_equal(np.asarray(F.to_dense()).reshape(12, 36), G.to_dense())


def test_seeds_and_scales() -> None:
    X = decaying(150, 130)  # large enough for the randomized start
    first, again = (fq.decompose(X, rank=5, sparsity=0.8, rng=3) for _ in range(2))
    twice = fq.decompose(X * np.float32(2.0**40), rank=5, sparsity=0.8, rng=3)
    for a, b, c in zip(first.factors, again.factors, twice.factors, strict=True):
        assert a.tobytes() == b.tobytes()
        assert c.tobytes() in (a.tobytes(), (a * np.float32(2.0**40)).tobytes())
    assert first.status == twice.status


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fq.decompose(W, rank=71, sparsity=0.5), r"^rank: found 71 .*allowed is 1 to 70.*QuantizedSparse"),
        (lambda: fq.SparsePCA(0, 0.5), r"^rank: found 0"),
        (lambda: fq.SparsePCA(2, 1.0), r"^sparsity: found 1"),
        (lambda: fq.SparsePCA(2, -0.1), r"^sparsity: found -0.1"),
        (lambda: fq.SparsePCA(2, 0.5, max_iter=0), r"^max_iter: found 0"),
        (lambda: fq.SparsePCA(2, 0.5, tol=1.5), r"^tol: found 1.5"),
        (lambda: fq.SparsePCA(2, 0.5, per_component=1), r"^per_component: found 1"),
        (lambda: fq.decompose(W, rank=2, method="sparse_pca"), "sparsity"),
        (lambda: fq.decompose(W, rank=2, bits=4, sparsity=0.5, method="sparse_pca"), "bits"),
    ],
)
def test_bad_settings(call, message: str) -> None:
    with pytest.raises((fq.ArgumentError, fq.ArgumentTypeError), match=message):
        call()


# Sizes and the front door --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("target", [1.0, 2.0, 3.3])
def test_a_target_size_decides_rank_and_share(dtype: str, target: float) -> None:
    X = decaying(64, 400).astype(dtype)
    F = fq.decompose(X, method="sparse_pca", bits_per_weight=target)
    assert 0.98 * target <= F.bits_per_weight <= target


def test_a_target_size_keeps_what_was_given() -> None:
    X = decaying(64, 400)
    assert fq.decompose(X, rank=9, method="sparse_pca", bits_per_weight=6).method.rank == 9
    F = fq.decompose(X, sparsity=0.8, method="sparse_pca", bits_per_weight=6)
    assert F.method.sparsity == pytest.approx(0.8)
    assert 5 < F.bits_per_weight <= 6


def test_the_front_door_chooses_it() -> None:
    assert fq.explain(W, rank=4, sparsity=0.5).method == fq.SparsePCA(4, 0.5)
    assert fq.explain(W, rank=4, sparsity=0.5, method="sparse_pca").method == fq.SparsePCA(4, 0.5)
    assert fq.explain((4, 6, 3, 3), rank=4, sparsity=0.5).method.id == "quantized_sparse"
    assert fq.explain(W, rank=4, sparsity=0.5, bits_per_weight=3).method.id == "quantized_sparse"
    assert fq.SparsePCA(4, 0.5).cheaper().max_iter < fq.SparsePCA(4, 0.5).max_iter


# Parts of the solver -------------------------------------------------------------------------------------------------


def test_kept_entries() -> None:
    score = np.array([[3.0, 1.0], [2.0, 2.0], [0.0, 5.0]])
    np.testing.assert_array_equal(Kept(3).mask(score), [[1, 0], [1, 0], [0, 1]])  # of two equal ones the first
    np.testing.assert_array_equal(Kept(2, each=True).mask(score), [[1, 0], [1, 1], [0, 1]])
    assert np.count_nonzero(Kept(6).mask(score)) == 5  # 0 gains nothing
    assert not Kept(0).mask(score).any()
    np.testing.assert_array_equal(Kept(2).prices(score), [3, 3])
    np.testing.assert_array_equal(Kept(1, each=True).prices(score), [3, 5])
    assert Kept(2).eased((3, 2), 0.5) == Kept(4)
    assert Kept(5).for_each(2) == Kept(2, each=True)


@pytest.mark.parametrize("metric", [None, gram_of(20)])
def test_values_on_a_support_are_those_of_least_squares(metric: np.ndarray | None) -> None:
    rng = np.random.default_rng(4)
    X, C = rng.standard_normal((30, 20)), rng.standard_normal((30, 6))
    keep = rng.random((20, 6)) < 0.4
    M = np.eye(20) if metric is None else metric / metric.diagonal().max()
    target, gram = M @ X.T @ C, C.T @ C
    Z, errors = np.zeros((20, 6)), []
    for _ in range(200):
        Z = on_support(Z, keep, target, gram, None if metric is None else M)
        lost = X - C @ Z.T
        errors.append(np.trace(lost @ M @ lost.T))
    assert all(b <= a * (1 + 1e-12) for a, b in pairwise(errors))
    assert not Z[~keep].any()
    system = np.kron(M, gram)[np.ix_(keep.ravel(), keep.ravel())]
    np.testing.assert_allclose(Z[keep], np.linalg.solve(system, target[keep]), atol=1e-3)


def test_added_variance() -> None:
    rng = np.random.default_rng(6)
    X, V = rng.standard_normal((25, 12)), rng.standard_normal((5, 12))
    V[3] = V[0] + V[4]  # adds nothing once these are there
    V[2] = 0
    P = X @ V.T
    order, added = added_variance(V @ V.T, P.T @ P)
    assert sorted(order) == list(range(5))
    energy = np.sum(X**2)
    for k in range(1, 6):
        assert added[:k].sum() / energy == pytest.approx(explained(X, V[order[:k]]), abs=1e-9)
    assert added[3] == pytest.approx(0.0, abs=1e-9)
    assert all(a >= b - 1e-9 for a, b in pairwise(added[:2]))
