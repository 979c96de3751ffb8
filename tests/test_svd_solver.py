"""The truncated SVD against ``numpy.linalg.svd``: error, exactness, orthonormality, determinism, scale, edge cases."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

from factorq.errors import ArgumentError, ArgumentTypeError
from factorq.solvers.svd import SVDResult, truncated_svd
from factorq.solvers.svd.krylov import plan

DTYPES = (np.float32, np.float64)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """BLAS threads cost more than they bring on matrices this small."""
    with threadpool_limits(1):
        yield


def spectrum(kind: str, k: int, rank: int) -> np.ndarray:
    i = np.arange(1, k + 1)
    return {
        "power": i**-0.7,
        "steep": i**-2.0,
        "exponential": np.exp(-i / 8.0),
        "flat": np.ones(k),
        "linear": 1 - (i - 1) / k,
        "cluster": np.where(i <= rank, 1.0, 0.3 * np.exp(-i / k)),
        "near cluster": np.where(i <= rank, 1 - 1e-4 * i / rank, 0.3),
        "spread cluster": np.where(i <= rank, 1 - 2e-2 * i / rank, 0.3),
        "two clusters": np.where(i <= rank // 4, 5.0, np.where(i <= rank, 1.0, 0.2)),
        "planted": np.where(i <= rank, 1.0 / i, 0.0),
        "deficient": np.where(i <= max(1, rank // 2), 1.0, 0.0),
    }[kind]


@cache
def bases(m: int, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng, k = np.random.default_rng(seed), min(m, n)
    return np.linalg.qr(rng.standard_normal((m, k)))[0], np.linalg.qr(rng.standard_normal((n, k)))[0]


def matrix(kind: str, m: int, n: int, rank: int, dtype: type, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A matrix of known singular values (up to rounding to ``dtype``)."""
    U, V = bases(m, n, seed)
    s = spectrum(kind, min(m, n), rank)
    return ((U * s) @ V.T).astype(dtype), s


def error(W: np.ndarray, F: SVDResult) -> float:
    return float(np.linalg.norm(W.astype(np.float64) - (F.U.astype(np.float64) * F.s) @ F.Vt))


def check_form(W: np.ndarray, rank: int, F: SVDResult) -> None:
    """What holds for every result: shapes, dtypes, order, orthonormality to the dtype, signs."""
    eps = float(np.finfo(W.dtype).eps)
    assert F.U.shape == (W.shape[0], rank)
    assert F.s.shape == (rank,)
    assert F.Vt.shape == (rank, W.shape[1])
    assert F.U.dtype == F.s.dtype == F.Vt.dtype == W.dtype
    assert np.all(F.s >= 0)
    assert np.all(np.diff(F.s) <= 0)
    U, Vt = F.U.astype(np.float64), F.Vt.astype(np.float64)
    assert np.abs(U.T @ U - np.eye(rank)).max() < 30 * eps
    assert np.abs(Vt @ Vt.T - np.eye(rank)).max() < 30 * eps
    assert np.all(U[np.abs(U).argmax(axis=0), np.arange(rank)] > 0)
    assert isinstance(F.status, str)
    assert F.residual == pytest.approx(
        error(W, F) / max(np.linalg.norm(W.astype(np.float64)), 1e-300), rel=2e-2, abs=4 * eps
    )


KINDS = [
    "power",
    "steep",
    "exponential",
    "flat",
    "linear",
    "cluster",
    "near cluster",
    "spread cluster",
    "two clusters",
    "planted",
    "deficient",
]
SHAPES = [(600, 800, 10), (900, 600, 40), (700, 700, 3), (40, 3000, 5), (60, 50, 50), (200, 300, 100), (430, 500, 60)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("m", "n", "rank"), SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_default_error_is_close_to_the_optimum(kind: str, m: int, n: int, rank: int, dtype: type) -> None:
    W, s = matrix(kind, m, n, rank, dtype)
    F = truncated_svd(W, rank, rng=np.random.default_rng(1))
    check_form(W, rank, F)
    optimum = np.sqrt(np.sum(s[rank:] ** 2))
    assert error(W, F) <= 1.003 * optimum + 100 * np.finfo(dtype).eps * np.linalg.norm(s)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("m", "n", "rank"), [(600, 800, 10), (900, 600, 40), (60, 50, 50)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_tol_zero_is_exact_to_the_dtype(kind: str, m: int, n: int, rank: int, dtype: type) -> None:
    W, _ = matrix(kind, m, n, rank, dtype)
    F = truncated_svd(W, rank, tol=0, rng=np.random.default_rng(2))
    check_form(W, rank, F)
    s = np.linalg.svd(W.astype(np.float64), compute_uv=False)
    eps = np.finfo(dtype).eps
    np.testing.assert_allclose(F.s, s[:rank], rtol=0, atol=40 * eps * s[0])
    optimum = np.sqrt(np.sum(s[rank:] ** 2))
    assert error(W, F) <= optimum * (1 + 10 * eps) + 40 * eps * np.linalg.norm(s)


@pytest.mark.parametrize("tol", [1e-2, 1e-3, 1e-5])
@pytest.mark.parametrize("kind", ["power", "linear", "gaussian"])
def test_tol_bounds_the_excess(tol: float, kind: str) -> None:
    if kind == "gaussian":
        W = np.random.default_rng(3).standard_normal((1000, 1200), dtype=np.float32)
    else:
        W, _ = matrix(kind, 1000, 1200, 12, np.float32)
    s = np.linalg.svd(W, compute_uv=False).astype(np.float64)
    F = truncated_svd(W, 12, tol=tol, rng=np.random.default_rng(4))
    assert error(W, F) <= (1 + tol) * np.sqrt(np.sum(s[12:] ** 2))
    assert F.excess <= tol
    assert F.steps > 0, "meant to exercise the Krylov path"


def test_default_is_no_worse_than_seven_power_iterations() -> None:
    utils = pytest.importorskip("sklearn.utils.extmath")
    W = np.random.default_rng(5).standard_normal((1200, 1500), dtype=np.float32)
    for rank in (4, 24, 64):
        U, s, Vt = utils.randomized_svd(W, rank, n_iter=7, random_state=0)
        F = truncated_svd(W, rank, rng=np.random.default_rng(6))
        assert error(W, F) <= np.linalg.norm(W.astype(np.float64) - (U.astype(np.float64) * s) @ Vt)


def test_estimated_excess_is_near_the_true_one() -> None:
    W = np.random.default_rng(7).standard_normal((1000, 1200), dtype=np.float32)
    s = np.linalg.svd(W, compute_uv=False).astype(np.float64)
    F = truncated_svd(W, 20, rng=np.random.default_rng(8), max_blocks=6)
    true = error(W, F) / np.sqrt(np.sum(s[20:] ** 2)) - 1
    assert true / 3 < F.excess < 3 * true
    assert "estimated excess error" in F.status


def test_planted_low_rank_is_recovered() -> None:
    rng = np.random.default_rng(9)
    A, B = rng.standard_normal((900, 20)), rng.standard_normal((20, 1100))
    for dtype in DTYPES:
        W = (A @ B).astype(dtype)
        F = truncated_svd(W, 20, rng=rng)
        assert F.residual < 10 * np.finfo(dtype).eps
        np.testing.assert_allclose(F.s, np.linalg.svd(W, compute_uv=False)[:20], rtol=50 * np.finfo(dtype).eps)


def test_multiple_singular_value_beyond_the_block_is_found_whole() -> None:
    W, s = matrix("cluster", 900, 900, 48, np.float32)
    assert plan(48)[0] < 48
    F = truncated_svd(W, 48, rng=np.random.default_rng(10), max_blocks=7)
    np.testing.assert_allclose(F.s, s[:48], rtol=1e-3)


def test_w_drawn_from_the_same_seed_does_not_spoil_the_start() -> None:
    A = np.random.default_rng(11).standard_normal((1000, 1000), dtype=np.float32)
    V = np.linalg.qr(A.T)[0]
    W = (V * np.arange(1, 1001, dtype=np.float32) ** -0.7) @ V.T  # the first rows of A span the leading vectors only
    F = truncated_svd(W, 24, rng=np.random.default_rng(11))
    np.testing.assert_allclose(F.s, np.arange(1, 25) ** -0.7, rtol=1e-3)


@given(
    m=st.integers(1, 40),
    n=st.integers(1, 40),
    share=st.floats(0, 1),
    dtype=st.sampled_from(DTYPES),
    tol=st.sampled_from([None, 0.0, 1e-3]),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_small_matrices_match_lapack(m: int, n: int, share: float, dtype: type, tol: float | None, seed: int) -> None:
    W = np.random.default_rng(seed).standard_normal((m, n)).astype(dtype)
    rank = max(1, math.ceil(share * min(m, n)))
    F = truncated_svd(W, rank, tol=tol, rng=np.random.default_rng(seed))
    check_form(W, rank, F)
    s = np.linalg.svd(W, compute_uv=False)
    np.testing.assert_allclose(F.s, s[:rank], rtol=0, atol=30 * np.finfo(dtype).eps * s[0])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (50, 1), (700, 500), (500, 700)])
@pytest.mark.parametrize("value", [0.0, 1.0, -3.0])
def test_constant_and_zero(shape: tuple[int, int], value: float, dtype: type) -> None:
    W = np.full(shape, value, dtype)
    for rank in {1, min(8, *shape)}:
        for tol in (None, 0.0):
            F = truncated_svd(W, rank, tol=tol, rng=np.random.default_rng(0))
            check_form(W, rank, F)
            assert F.s[0] == pytest.approx(abs(value) * math.sqrt(W.size), rel=1e-5)
            assert np.all(F.s[1:] <= 1e-5 * F.s[0])


def test_identity_and_orthogonal_matrices_take_any_rank() -> None:
    for W in (np.eye(600, dtype=np.float32), np.linalg.qr(np.random.default_rng(0).standard_normal((600, 600)))[0]):
        for rank in (1, 24, 200, 600):
            F = truncated_svd(W, rank, rng=np.random.default_rng(1))
            check_form(W, rank, F)
            np.testing.assert_allclose(F.s, 1, rtol=1e-5)


@pytest.mark.parametrize(
    ("dtype", "exponent"),
    [(np.float32, -100), (np.float32, 100), (np.float64, -900), (np.float64, 900), (np.float32, 1)],
)
@pytest.mark.parametrize(("m", "n", "rank"), [(600, 800, 10), (30, 20, 5)])
def test_powers_of_two_scale_exactly(m: int, n: int, rank: int, dtype: type, exponent: int) -> None:
    W, _ = matrix("power", m, n, rank, dtype)
    for tol in (None, 1e-4):
        F = truncated_svd(W, rank, tol=tol, rng=np.random.default_rng(1))
        G = truncated_svd(np.ldexp(W, exponent), rank, tol=tol, rng=np.random.default_rng(1))
        np.testing.assert_array_equal(G.U, F.U)
        np.testing.assert_array_equal(G.Vt, F.Vt)
        np.testing.assert_array_equal(G.s, np.ldexp(F.s, exponent))
        assert G.residual == F.residual


@pytest.mark.parametrize("scale", [1e-42, 1e-30, 1e30, 1e34])
def test_extreme_scales_work(scale: float) -> None:
    W = (np.random.default_rng(0).standard_normal((500, 600)) * scale).astype(np.float32)
    F = truncated_svd(W, 8, rng=np.random.default_rng(1))
    s = np.linalg.svd(W.astype(np.float64), compute_uv=False)
    np.testing.assert_allclose(F.s.astype(np.float64), s[:8], rtol=2e-2)


def test_same_seed_same_bits_whatever_the_layout_and_w_is_untouched() -> None:
    W = np.random.default_rng(0).standard_normal((600, 700), dtype=np.float32)
    keep = W.copy()
    W.flags.writeable = False
    F, G = (truncated_svd(W, 12, rng=np.random.default_rng(5)) for _ in range(2))
    assert F.U.tobytes() == G.U.tobytes()
    assert F.s.tobytes() == G.s.tobytes()
    assert F.Vt.tobytes() == G.Vt.tobytes()
    np.testing.assert_array_equal(W, keep)
    other = truncated_svd(W, 12, rng=np.random.default_rng(6))
    assert F.U.tobytes() != other.U.tobytes(), "the start block should depend on rng"
    for layout in (np.asfortranarray(W), np.repeat(W, 2, axis=1)[:, ::2], W[::-1][::-1]):
        H = truncated_svd(layout, 12, rng=np.random.default_rng(5))
        np.testing.assert_allclose(H.s, F.s, rtol=1e-5)


def test_transpose_swaps_the_factors() -> None:
    W, _ = matrix("power", 500, 800, 6, np.float64)
    F = truncated_svd(W, 6, tol=0, rng=np.random.default_rng(0))
    G = truncated_svd(np.ascontiguousarray(W.T), 6, tol=0, rng=np.random.default_rng(0))
    np.testing.assert_allclose(F.s, G.s, rtol=1e-12)
    np.testing.assert_allclose(np.abs(np.sum(F.U * G.Vt.T, axis=0)), 1, rtol=1e-9)


@pytest.mark.parametrize("blocks", [1, 2, 3])
def test_few_blocks_say_so(blocks: int) -> None:
    W = np.random.default_rng(0).standard_normal((900, 900), dtype=np.float32)
    F = truncated_svd(W, 40, rng=np.random.default_rng(1), max_blocks=blocks)
    check_form(W, 40, F)
    assert "max_blocks" in F.status or "accuracy=" in F.status
    limited = truncated_svd(W, 10, tol=1e-6, rng=np.random.default_rng(1), max_blocks=4)
    assert "raise max_blocks" in limited.status


def test_arguments_are_refused_by_name() -> None:
    W, rng = np.ones((4, 5)), np.random.default_rng(0)
    for bad in (
        {"rank": 0},
        {"rank": 5},
        {"rank": 2, "tol": -1.0},
        {"rank": 2, "tol": math.nan},
        {"rank": 2, "max_blocks": 0},
    ):
        with pytest.raises(ArgumentError, match="found"):
            truncated_svd(W, rng=rng, **bad)
    for array in (np.ones((4, 5), np.float16), np.ones(4), [[1.0]]):
        with pytest.raises(ArgumentTypeError, match="W: found"):
            truncated_svd(array, 1, rng=rng)
    with pytest.raises(ArgumentTypeError, match="rng"):
        truncated_svd(W, 1, rng=0)
    with pytest.raises(ArgumentError, match="singular value beyond"):
        truncated_svd(np.full((40, 40), 3e38, np.float32), 1, rng=rng)
