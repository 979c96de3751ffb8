"""Known answers: optima in closed form, planted factors, brute force on tiny cases, the residual of stacking."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from cases import gram_of

import factorq as fq
from factorq.constraints import Quantized, Sparse
from factorq.measure import gram_error, relative_error

RNG = np.random.default_rng(5)


def gaussian(m: int, n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((m, n))


def in_metric(W: np.ndarray, Q: np.ndarray, gram: np.ndarray) -> float:
    lost = W - Q
    return float(np.trace(lost @ gram @ lost.T))


# SVD -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(30, 50), (50, 30), (64, 64), (1, 9), (6, 5, 3, 3)], ids=str)
@pytest.mark.parametrize("rank", [1, 4])
def test_svd_is_the_best_of_its_rank(shape: tuple[int, ...], rank: int) -> None:
    """Eckart and Young: the error is that of the singular values that are left out."""
    W = np.random.default_rng(1).standard_normal(shape)
    rank = min(rank, shape[0])
    s = np.linalg.svd(W.reshape(shape[0], -1), compute_uv=False)
    F = fq.decompose(W, method=fq.SVD(rank=rank, accuracy=0))
    assert F.relative_error == pytest.approx(np.linalg.norm(s[rank:]) / np.linalg.norm(s), rel=1e-9, abs=1e-12)
    assert fq.decompose(W, method=fq.SVD(rank=rank)).relative_error <= 1.02 * F.relative_error + 1e-12


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_svd_finds_a_planted_rank(dtype: str) -> None:
    W = (gaussian(60, 5) @ gaussian(5, 90, 1)).astype(dtype)
    assert fq.decompose(W, rank=5).relative_error < (1e-6 if dtype == "float32" else 1e-12)
    assert fq.decompose(W, rank=4).relative_error > 0.05


def test_quantized_svd_comes_near_the_real_one() -> None:
    W = gaussian(60, 5) @ gaussian(5, 90, 1)
    errors = [fq.decompose(W, rank=5, bits=b).relative_error for b in (2, 4, 8, 12)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-3


def test_svd_in_the_gram_metric_has_the_closed_form_error() -> None:
    """min over rank r of ||(W - F) L|| with gram = L L^T is the tail of the singular values of W L."""
    W, gram = gaussian(24, 40), gram_of(40)
    s = np.linalg.svd(W @ np.linalg.cholesky(gram), compute_uv=False)
    F = fq.decompose(W, method=fq.SVD(rank=6, accuracy=0), gram=gram)
    assert F.gram_error == pytest.approx(np.linalg.norm(s[6:]) / np.linalg.norm(s), rel=1e-6)
    plain = fq.decompose(W, method=fq.SVD(rank=6, accuracy=0))
    assert F.gram_error < gram_error(W, np.asarray(plain), gram)
    assert F.relative_error > plain.relative_error
    assert "undamped" in F.status


@pytest.mark.parametrize("method", [fq.SVD(rank=4), fq.SVD(rank=4, bits=6), fq.Scalar(bits=4)], ids=str)
@pytest.mark.parametrize("rank", [0, 1, 10])
def test_a_rank_deficient_gram_is_damped_and_it_says_so(method: fq.Method, rank: int) -> None:
    W = gaussian(24, 40)
    gram = gram_of(40, rank=rank) if rank else np.zeros((40, 40))
    F = fq.decompose(W, method=method, gram=gram)
    assert np.isfinite(np.asarray(F)).all()
    if rank or isinstance(method, fq.SVD):  # inputs that never fire need no damping: their columns are rounded plainly
        assert "damped by" in F.status
        assert "undamped" not in F.status
    if rank > 4:
        assert F.gram_error <= gram_error(W, np.asarray(fq.decompose(W, method=method)), gram) * (1 + 1e-9)


# Scalar --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize("levels", ["uniform", "lloyd"])
def test_error_feedback_beats_plain_rounding(bits: int, levels: str) -> None:
    W, gram = gaussian(32, 96), gram_of(96)
    method = fq.Scalar(bits=bits, group=32, levels=levels)
    plain = np.asarray(fq.decompose(W, method=method))
    F = fq.decompose(W, method=method, gram=gram)
    assert F.gram_error < 0.9 * gram_error(W, plain, gram)


def test_error_feedback_with_a_mask_beats_plain_pruning() -> None:
    W, gram = gaussian(32, 96), gram_of(96)
    method = fq.Scalar(bits=4, sparsity=0.5)
    plain = np.asarray(fq.decompose(W, method=method))
    F = fq.decompose(W, method=method, gram=gram)
    assert F.gram_error < 0.9 * gram_error(W, plain, gram)
    assert np.count_nonzero(np.asarray(F)) <= W.size // 2


@pytest.mark.parametrize(
    ("method", "shape"), [(fq.Scalar(bits=2, sparsity=0.9), (10, 200)), (fq.Scalar(sparsity=0.8), (4, 60))], ids=str
)
def test_few_weights_of_few_outputs_lose_no_more_under_a_gram_than_without(
    method: fq.Method, shape: tuple[int, int]
) -> None:
    """The mask of a gram is chosen entry by entry, and of few weights feedback cannot take up what all of them lose."""
    said = []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        x = np.maximum(rng.standard_normal((500, 3)) @ rng.standard_normal((3, shape[1])), 0)
        W, gram = rng.standard_normal(shape).astype(np.float32), x.T @ x
        plain, F = np.asarray(fq.decompose(W, method=method)), fq.decompose(W, method=method, gram=gram)
        assert F.gram_error <= gram_error(W, plain, gram) * (1 + 1e-6)
        said.append("the largest weights as without the gram" in F.status)
    assert any(said)
    assert not all(said)


@pytest.mark.parametrize("method", [fq.Scalar(bits=3, group=32), fq.SVD(rank=5, accuracy=0)], ids=str)
def test_a_gram_of_the_identity_is_no_gram(method: fq.Method) -> None:
    W = gaussian(16, 64)
    F, G = fq.decompose(W, method=method), fq.decompose(W, method=method, gram=2.0 * np.eye(64))
    assert G.relative_error == pytest.approx(F.relative_error, rel=1e-9)
    assert G.gram_error == pytest.approx(G.relative_error, rel=1e-6)


def test_pruning_keeps_the_largest() -> None:
    W = gaussian(20, 30)
    kept = np.asarray(fq.decompose(W, sparsity=0.75))
    threshold = np.sort(np.abs(W).reshape(-1))[-150]
    np.testing.assert_array_equal(kept, np.where(np.abs(W) >= threshold, W, 0))


def test_values_on_a_grid_are_kept() -> None:
    """Planted: an array that lies on a 3-bit grid per group comes back exactly."""
    codes = RNG.integers(-4, 4, (16, 64))
    codes[:, ::32] = -4  # pins the scale of each group of 32
    W = (codes.reshape(16, 2, 32) * 2.0 ** RNG.integers(-9, 9, (16, 2, 1))).reshape(16, 64)
    assert fq.decompose(W, method=fq.Scalar(bits=3, group=32)).relative_error == 0.0


def test_one_bit_is_the_sign_times_the_mean() -> None:
    W = gaussian(8, 64)
    F = fq.decompose(W, method=fq.Scalar(bits=1, group=None))
    want = np.sign(W) * np.abs(W).mean(axis=1, keepdims=True)
    np.testing.assert_allclose(np.asarray(F), want, rtol=2.0**-11)


@pytest.mark.parametrize(("bits", "distortion"), [(1, 0.3634), (2, 0.1175), (3, 0.03454), (4, 0.009497)])
def test_lloyd_max_on_gaussian_values(bits: int, distortion: float) -> None:
    """Max 1960, table I: least mean squared error of 2^bits levels for N(0, 1)."""
    W = gaussian(64, 2048)
    F = fq.decompose(W, method=fq.Scalar(bits=bits, group=None, levels="lloyd"))
    assert F.relative_error**2 == pytest.approx(distortion, rel=0.02)


# The joint projection onto sparse arrays on a grid -------------------------------------------------------------------


@pytest.mark.parametrize("bits", [1, 2, 3])
@pytest.mark.parametrize("grid", ["midrise", "midtread"])
@pytest.mark.parametrize("seed", range(4))
def test_joint_projection_is_exact_at_its_scale(bits: int, grid: str, seed: int) -> None:
    """At the scale that it chose, no support of the same size and no codes have a lower error (all are tried)."""
    x = np.random.default_rng(seed).standard_normal((2, 3)).astype(np.float32)
    joint = Sparse(0.5) & Quantized(bits, group=None, axis=None, grid=grid)
    encoded = joint.encode(x)
    inner = encoded.inner
    levels = inner.table_levels() * math.ldexp(float(inner.scales[0, 0]), inner.exponent)
    found = float(np.sum((np.float64(x) - encoded.decode()) ** 2))
    flat = x.astype(np.float64).reshape(-1)
    least = math.inf
    for support in itertools.combinations(range(6), inner.size):
        q = np.zeros(6)
        best = np.abs(flat[list(support), None] - levels).argmin(axis=1)
        q[list(support)] = levels[best]
        least = min(least, float(np.sum((flat - q) ** 2)))
    assert found <= least * (1 + 1e-6)
    assert inner.size <= 3


# Stacking ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (fq.SVD(rank=3), fq.Scalar(bits=3)),
        (fq.SVD(rank=3, bits=5), fq.Scalar(sparsity=0.9)),
        (fq.Scalar(bits=2), fq.SVD(rank=2, bits=4)),
        (fq.Scalar(bits=2), fq.Scalar(bits=2)),
    ],
    ids=str,
)
def test_the_second_works_on_what_the_stored_first_left(a: fq.Method, b: fq.Method) -> None:
    W = gaussian(24, 40)
    first, second = np.random.default_rng(9).spawn(2)
    A = fq.decompose(W, method=a, rng=first)
    B = fq.decompose(W - np.asarray(A), method=b, rng=second)
    F = fq.decompose(W, method=a + b, rng=9)
    np.testing.assert_array_equal(np.asarray(F), np.asarray(A) + np.asarray(B))
    assert F.nbytes == A.nbytes + B.nbytes
    assert F.relative_error < A.relative_error
    assert (a + b).methods == (a, b)
    assert ((a + b) + a).methods == (a + (b + a)).methods == (a, b, a)


def test_the_method_is_kept(tmp_path) -> None:
    W = gaussian(24, 40)
    for method in (
        fq.Scalar(bits=3),
        fq.SVD(rank=3, bits=(4, 5)),
        fq.SVD(rank=2) + fq.Scalar(bits=2),
        fq.QuantizedSparse(rank=4, bits=None, sparsity=0.25, max_iter=3),
    ):
        F = fq.decompose(W, method=method)
        fq.save(tmp_path / "f", {"f": F})
        assert F.method == method == fq.load(tmp_path / "f")["f"].method


# Quantized sparse ----------------------------------------------------------------------------------------------------


def test_without_bits_and_zeros_it_is_the_truncated_svd() -> None:
    W = gaussian(20, 60)
    F = fq.decompose(W, method=fq.QuantizedSparse(rank=6, bits=None, sparsity=0.0))
    s = np.linalg.svd(W, compute_uv=False)
    assert F.relative_error == pytest.approx(np.linalg.norm(s[6:]) / np.linalg.norm(s), rel=5e-3)


@pytest.mark.parametrize("bits", [4, None])
def test_the_best_iterate_is_returned(bits: int | None) -> None:
    W = gaussian(16, 64)
    steps: list[fq.Progress] = []
    F = fq.decompose(W, method=fq.QuantizedSparse(rank=16, bits=bits, sparsity=0.5), callback=steps.append)
    assert F.relative_error == pytest.approx(min(p.objective for p in steps), rel=1e-5)
    assert F.relative_error == relative_error(W, np.asarray(F))
    assert steps[-1].step == len(steps)


def test_planted_sparse_factors_are_approached() -> None:
    """C orthonormal, Z half zeros: the planted pair has no error, so the solver must beat pruning W itself."""
    C = np.linalg.qr(gaussian(16, 16))[0]
    Z = gaussian(16, 400, 1) * (np.random.default_rng(2).random((16, 400)) < 0.2)
    F = fq.decompose(C @ Z, method=fq.QuantizedSparse(rank=16, bits=8, sparsity=0.75, max_iter=300, tol=1e-6))
    naive = np.asarray(fq.decompose(C @ Z, sparsity=0.75))
    assert F.relative_error < 0.8 * relative_error(C @ Z, naive)
    assert np.count_nonzero(F.factors[1]) <= 0.25 * Z.size


@pytest.mark.parametrize("shape", [(16, 8, 3, 3), (16, 8, 5), (16, 8, 1, 1), (40, 12), (12, 40)], ids=str)
def test_folds_for_layers(shape: tuple[int, ...]) -> None:
    """Few rows, many columns; the kernel positions are the rows of a convolution."""
    W = np.random.default_rng(0).standard_normal(shape)
    F = fq.decompose(W, method=fq.QuantizedSparse(rank=4, bits=6, sparsity=0.3, max_iter=5))
    codebook, latent = F.factors
    rows = math.prod(shape[2:]) if math.prod(shape[2:]) > 1 else min(shape[0], math.prod(shape[1:]))
    assert codebook.shape == (rows, 4)
    assert latent.shape == (4, W.size // rows)
