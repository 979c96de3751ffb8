"""CP solvers: products against einsum, starts against the SVD, sweeps that never rise, ADMM step by step."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Sequence
from itertools import pairwise
from string import ascii_lowercase
from typing import Any

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st

from factorq.kernels.coordinate import Levels
from factorq.solvers.cp import Model, Rounded, Unfolded, admm, integers, real
from factorq.solvers.cp.products import hadamard, khatri_rao
from factorq.solvers.cp.start import balanced, fitted, random_factors, singular_factors
from factorq.solvers.loop import Progress

FLOATS = [np.float32, np.float64]
SHAPES = [(5, 4), (1, 7), (7, 1), (6, 5, 4), (3, 11, 2), (1, 5, 4), (4, 3, 5, 2), (2, 9, 1, 3), (3, 2, 4, 2, 3)]
EPS = {np.float32: 1e-6, np.float64: 1e-14}

ANY = Unfolded(np.ones((2, 2)))


def draw(shape: Sequence[int], seed: int = 0, dtype: Any = np.float64) -> Any:
    return np.ascontiguousarray(np.random.default_rng(seed).standard_normal(shape), dtype)


def drawn_factors(shape: Sequence[int], r: int, seed: int = 0) -> list[Any]:
    return [draw((n, r), 100 * seed + k) for k, n in enumerate(shape)]


def dense(factors: Sequence[Any], weights: Any = None) -> Any:
    """The sum of outer products, by einsum."""
    letters = ascii_lowercase[: len(factors)]
    r = factors[0].shape[1]
    terms = [np.ones(r) if weights is None else weights, *(np.asarray(F, np.float64) for F in factors)]
    return np.einsum("z," + ",".join(f"{k}z" for k in letters) + "->" + letters, *terms)


def product(X: Any, factors: Sequence[Any], but: int) -> Any:
    """X contracted with all factors but one, by einsum in float64: (n_k, r)."""
    letters = ascii_lowercase[: len(factors)]
    others = [k for k in range(len(factors)) if k != but]
    rule = letters + "," + ",".join(f"{letters[k]}z" for k in others) + f"->{letters[but]}z"
    return np.einsum(rule, X.astype(np.float64), *(factors[k] for k in others))


def planted(shape: Sequence[int], r: int, seed: int = 0, noise: float = 0.0) -> Any:
    X = dense(drawn_factors(shape, r, seed))
    return X + noise * np.sqrt(np.mean(X**2)) * draw(shape, seed + 1)


def collinear(shape: Sequence[int], r: int, seed: int = 0, noise: float = 0.02) -> Any:
    """Terms whose columns are nearly parallel in every mode."""
    alone = drawn_factors(shape, r)
    factors = [draw((len(F), 1), seed + k) + 0.3 * F for k, F in enumerate(alone)]
    X = dense(factors)
    return X + noise * np.sqrt(np.mean(X**2)) * draw(shape, seed + 9)


def degenerate() -> Any:
    """``a a b + a b a + b a a``: of rank 3, and as near as one likes to tensors of rank 2 whose terms grow."""
    bases = [np.linalg.qr(draw((n, 2), n))[0].T for n in (8, 7, 6)]
    picks = ((1, 0, 0), (0, 1, 0), (0, 0, 1))
    return sum(dense([basis[[k]].T for basis, k in zip(bases, pick, strict=True)]) for pick in picks)


TENSORS = {
    "gaussian": draw((9, 8, 7)),
    "planted": planted((9, 8, 7), 4, noise=0.1),
    "collinear": collinear((9, 8, 7), 4),
    "degenerate": degenerate(),
    "matrix": draw((12, 9), 3),
    "four modes": planted((6, 5, 4, 3), 3, noise=0.3),
    "one row": draw((1, 8, 7), 4),
    "constant": np.full((5, 4, 3), 0.7),
}
every_tensor = pytest.mark.parametrize("X", TENSORS.values(), ids=list(TENSORS))


def relative(X: Any, factors: Sequence[Any], weights: Any = None) -> float:
    """The relative error by the formula."""
    return float(np.linalg.norm(X - dense(factors, weights)) / np.linalg.norm(X))


def never_rises(history: Sequence[float], slack: float = 1e-12) -> bool:
    return all(after <= before * (1 + slack) + slack for before, after in pairwise(history))


def copies(factors: Sequence[Any]) -> list[bytes]:
    return [F.tobytes() for F in factors]


# Products.


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("r", [1, 6])
def test_a_sweep_gives_each_mode_the_product_with_the_newest_others(shape: tuple[int, ...], r: int, dtype: Any) -> None:
    X, factors, renewed = draw(shape, 1, dtype), drawn_factors(shape, r, 1), drawn_factors(shape, r, 2)
    now, seen = list(factors), []

    def update(mode: int, M: Any) -> Any:
        want = product(X, now, mode)
        np.testing.assert_allclose(M, want, atol=EPS[dtype] * 30 * np.linalg.norm(X) * r)
        assert (M.dtype, M.shape) == (np.float64, (shape[mode], r))
        seen.append(mode)
        now[mode] = renewed[mode]
        return renewed[mode]

    before = copies(factors)
    working = list(factors)
    M = Unfolded(X).sweep(working, update)
    assert seen == list(range(len(shape)))
    assert all(F is new for F, new in zip(working, renewed, strict=True))
    assert copies(factors) == before
    np.testing.assert_allclose(M, product(X, renewed, len(shape) - 1), atol=EPS[dtype] * 30 * np.linalg.norm(X) * r)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_model_gives_the_grams_of_the_newest_others(shape: tuple[int, ...]) -> None:
    model = Model(Unfolded(draw(shape)), drawn_factors(shape, 4, 1), np.ones(4))
    now, renewed = list(model.factors), drawn_factors(shape, 4, 2)

    def update(mode: int, M: Any, G: Any) -> Any:
        others = [F for k, F in enumerate(now) if k != mode]
        np.testing.assert_allclose(G, math.prod(F.T @ F for F in others), rtol=1e-12)
        now[mode] = renewed[mode]
        return renewed[mode]

    other = model.copy()
    kept = copies(other.factors)
    model.sweep(update)
    assert copies(model.factors) == copies(renewed)
    assert copies(other.factors) == kept
    for G, F in zip(model.grams, renewed, strict=True):
        np.testing.assert_array_equal(G, F.T @ F)


def test_the_split_is_the_one_of_least_work() -> None:
    for shape, cut in (((64, 64, 9), 1), ((9, 64, 64), 2), ((5, 4), 1), ((4, 4, 4, 4), 2), ((100, 2, 2, 2), 1)):
        X = Unfolded(np.zeros(shape))
        assert X.cut == cut
        assert X.matrix.shape == (math.prod(shape[:cut]), math.prod(shape[cut:]))
        assert np.shares_memory(X.matrix, X.X)
        assert X.modes == shape


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("size", [1.0, 1e-1, 1e-3, 1e-6])
def test_the_squared_error_is_that_of_the_residual(shape: tuple[int, ...], size: float, dtype: Any) -> None:
    """Also where the sums from Grams cancel, down to what the dtype of X holds."""
    r = 3
    factors, weights = drawn_factors(shape, r, 4), np.array([2.0, -0.5, 1e-3])
    P = dense(factors, weights)
    X = (P + size * np.linalg.norm(P) / math.sqrt(P.size) * draw(shape, 7)).astype(dtype)
    array = Unfolded(X)
    want = float(np.sum((X.astype(np.float64) - P) ** 2))
    last = len(shape) - 1
    M, gram = product(X, factors, last), hadamard([F.T @ F for F in factors])
    assert array.norm2 == pytest.approx(float(np.sum(X.astype(np.float64) ** 2)), rel=1e-12)
    assert array.squared_error(factors, weights, M, gram) == pytest.approx(want, rel=1e-6)
    assert array.residual2(factors, weights) == pytest.approx(want, rel=1e-9)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("size", [1.0, 1e-2, 2e-3, 1e-4, 0.0])
def test_the_squared_error_after_a_sweep_keeps_its_digits(size: float, dtype: Any) -> None:
    """With products in the dtype of X, on both sides of where they would leave few digits."""
    shape, r = (12, 11, 10), 3
    factors = drawn_factors(shape, r, 4)
    P = dense(factors)
    X = (P + size * np.linalg.norm(P) / math.sqrt(P.size) * draw(shape, 7)).astype(dtype)
    model = Model(Unfolded(X), list(factors), np.ones(r))
    model.sweep(lambda mode, M, G: factors[mode])
    want = float(np.sum((X.astype(np.float64) - P) ** 2))
    assert model.error2() == pytest.approx(want, rel=0.02 if dtype == np.float32 else 1e-6, abs=1e-25 * X.size)
    assert model.error2() >= 0


def test_residuals_are_taken_some_rows_at_a_time() -> None:
    shape, r = (5, 3, 300_000), 2
    factors, X = drawn_factors(shape, r, 1), draw(shape, 3, np.float32)
    want = float(np.sum((X - dense(factors, np.array([1.0, -2.0]))) ** 2))
    assert Unfolded(X).residual2(factors, np.array([1.0, -2.0])) == pytest.approx(want, rel=1e-9)


def test_khatri_rao_is_column_by_column_kronecker() -> None:
    A, B, C = drawn_factors((4, 3, 2), 5)
    np.testing.assert_array_equal(khatri_rao([A]), A)
    np.testing.assert_array_equal(khatri_rao([A, B]), scipy.linalg.khatri_rao(A, B))
    want = np.stack([np.kron(np.kron(A[:, k], B[:, k]), C[:, k]) for k in range(5)], axis=1)
    np.testing.assert_allclose(khatri_rao([A, B, C]), want, rtol=1e-15)


def test_conventions_are_those_of_tensorly() -> None:
    tensorly = pytest.importorskip("tensorly", reason="TensorLy is not installed")
    tenalg = pytest.importorskip("tensorly.tenalg")
    factors, X = drawn_factors((4, 3, 2), 5), draw((4, 3, 2))
    np.testing.assert_allclose(khatri_rao(factors), tenalg.khatri_rao(factors), rtol=1e-14)
    weights = np.ones(5)
    for mode in range(3):
        others = [F for k, F in enumerate(factors) if k != mode]
        want = tensorly.unfold(X, mode) @ khatri_rao(others)
        np.testing.assert_allclose(product(X, factors, mode), want, atol=1e-13)
        mttkrp = tenalg.unfolding_dot_khatri_rao(X, (weights, factors), mode)
        np.testing.assert_allclose(product(X, factors, mode), mttkrp, atol=1e-13)
    np.testing.assert_allclose(dense(factors), tensorly.cp_to_tensor((weights, factors)), atol=1e-13)


def test_hadamard_leaves_one_out() -> None:
    grams = drawn_factors((3, 3, 3), 3)
    np.testing.assert_array_equal(hadamard(grams), grams[0] * grams[1] * grams[2])
    np.testing.assert_array_equal(hadamard(grams, 1), grams[0] * grams[2])


def test_nothing_of_the_size_of_the_array_times_the_rank_is_made() -> None:
    shape, r = (48, 48, 9), 128
    X, factors = Unfolded(draw(shape, 0, np.float32)), drawn_factors(shape, r)
    tracemalloc.start()
    X.sweep(factors, lambda mode, M: factors[mode])
    X.residual2(factors, np.ones(r))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    halves = 48 + 48 * 9
    assert peak < 2.5 * 8 * halves * r < 0.2 * 4 * math.prod(shape) * r


# Starts.


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", [(6, 5, 4), (9, 3, 7), (5, 4), (4, 3, 5, 2)], ids=str)
def test_singular_factors_are_leading_singular_vectors(shape: tuple[int, ...], dtype: Any) -> None:
    X = draw(shape, 1, dtype)
    r = min(shape) - 1
    for mode, F in enumerate(singular_factors(Unfolded(X), r, np.random.default_rng(0))):
        matrix = np.moveaxis(X.astype(np.float64), mode, 0).reshape(shape[mode], -1)
        U = np.linalg.svd(matrix, full_matrices=False)[0][:, :r]
        unit = F / np.linalg.norm(F, axis=0)
        np.testing.assert_allclose(np.abs(np.sum(unit * U, axis=0)), 1, atol=1e-5 if dtype == np.float32 else 1e-10)


def test_singular_factors_of_long_unfoldings_come_block_by_block() -> None:
    X = draw((5, 4, 80_000), 1, np.float32)
    found = singular_factors(Unfolded(X), 3, np.random.default_rng(0))
    for mode in (0, 1):
        matrix = np.moveaxis(X, mode, 0).reshape(X.shape[mode], -1).astype(np.float64)
        values, vectors = np.linalg.eigh(matrix @ matrix.T)
        unit = found[mode] / np.linalg.norm(found[mode], axis=0)
        quotients = np.einsum("ir,ij,jr->r", unit, matrix @ matrix.T, unit)
        np.testing.assert_allclose(quotients, values[::-1][:3], rtol=1e-9)
        np.testing.assert_allclose(np.abs(np.sum(unit * vectors[:, ::-1][:, :3], axis=0)), 1, atol=1e-3)
    assert found[2].shape == (80_000, 3)  # too long: random ones
    assert np.isfinite(found[2]).all()


def test_ranks_above_a_mode_get_random_columns_beside_the_singular_ones() -> None:
    X = draw((9, 3, 2), 1)
    r = 7
    factors = singular_factors(Unfolded(X), r, np.random.default_rng(0))
    assert [F.shape for F in factors] == [(9, r), (3, r), (2, r)]
    for F in factors:
        assert np.isfinite(F).all()
        assert np.linalg.norm(F, axis=0).min() > 0
        assert np.linalg.matrix_rank(F) == min(F.shape)
    unit = factors[1] / np.linalg.norm(factors[1], axis=0)
    U = np.linalg.svd(X.transpose(1, 0, 2).reshape(3, -1))[0]
    np.testing.assert_allclose(np.abs(np.sum(unit[:, :3] * U, axis=0)), 1, atol=1e-10)
    again = singular_factors(Unfolded(X), r, np.random.default_rng(0))
    assert copies(again) == copies(factors)
    assert copies(singular_factors(Unfolded(X), r, np.random.default_rng(1))) != copies(factors)


@every_tensor
@pytest.mark.parametrize("made", [random_factors, singular_factors])
def test_starts_have_the_size_of_the_array_and_balanced_columns(X: Any, made: Any) -> None:
    factors = made(Unfolded(X), 5, np.random.default_rng(0))
    assert np.linalg.norm(dense(factors)) == pytest.approx(np.linalg.norm(X), rel=1e-9)
    lengths = np.array([np.linalg.norm(F, axis=0) for F in factors])
    np.testing.assert_allclose(lengths, np.broadcast_to(lengths[0], lengths.shape), rtol=1e-9)


@settings(max_examples=40)
@given(st.integers(0, 2**31), st.sampled_from(SHAPES), st.integers(1, 5))
def test_balancing_keeps_the_sum(seed: int, shape: tuple[int, ...], r: int) -> None:
    rng = np.random.default_rng(seed)
    factors = [rng.standard_normal((n, r)) * 10.0 ** rng.uniform(-6, 6, r) for n in shape]
    before = copies(factors)
    found = balanced(factors)
    assert copies(factors) == before
    P = dense(factors)
    size = np.prod([np.linalg.norm(F, axis=0) for F in factors], axis=0).sum()
    np.testing.assert_allclose(dense(found), P, atol=1e-12 * size)
    lengths = np.array([np.linalg.norm(F, axis=0) for F in found])
    np.testing.assert_allclose(lengths, np.broadcast_to(lengths[0], lengths.shape), rtol=1e-9)
    np.testing.assert_allclose(dense(balanced(found)), dense(found), atol=1e-12 * np.abs(dense(found)).max())


def test_balancing_terms_that_are_zero() -> None:
    A, B, C = drawn_factors((4, 3, 2), 3)
    A[:, 1] = 0
    found = balanced([A, B, C])
    np.testing.assert_allclose(dense(found), dense([A, B, C]), atol=1e-14)
    for F in found:
        np.testing.assert_array_equal(F[:, 1], 0)
        assert np.isfinite(F).all()


def test_fitting_scales_all_factors_alike() -> None:
    X, factors = Unfolded(draw((4, 3, 2))), drawn_factors((4, 3, 2), 3)
    P, Q = dense(factors), dense(fitted(X, factors))
    ratio = np.linalg.norm(X.X) / np.linalg.norm(P)
    np.testing.assert_allclose(Q, ratio * P, atol=1e-12)
    zeros = fitted(X, [0 * F for F in factors])
    assert all(not F.any() for F in zeros)


# Real factors.


@every_tensor
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("r", [1, 4, 20])
def test_alternating_least_squares_never_rises(X: Any, r: int, dtype: Any) -> None:
    X = X.astype(dtype)
    start = random_factors(Unfolded(X), r, np.random.default_rng(0))
    before = copies(start)
    found = real.alternate(Unfolded(X), start, max_iter=25, tol=0.0, callback=None)
    assert never_rises(found.history)
    assert copies(start) == before
    assert found.history[-1] == pytest.approx(relative(X.astype(float), found.best), rel=1e-3, abs=1e-7)
    first = relative(X.astype(float), balanced(start))
    assert found.history[0] <= first * (1 + 1e-6)
    assert found.history[-1] <= 1 + 1e-6


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("shape", "r"), [((8, 7, 6), 3), ((5, 4, 3, 4), 2), ((6, 9), 2), ((3, 4, 3, 2, 3), 2)])
def test_exact_low_rank_is_recovered(shape: tuple[int, ...], r: int, seed: int) -> None:
    X = planted(shape, r, seed)
    start = singular_factors(Unfolded(X), r, np.random.default_rng(seed))
    found = real.alternate(Unfolded(X), start, max_iter=600, tol=0.0, callback=None)
    assert found.history[-1] < 1e-10
    assert relative(X, found.best) < 1e-10


def test_one_sweep_is_least_squares_mode_after_mode() -> None:
    X, factors = draw((6, 5, 4)), balanced(drawn_factors((6, 5, 4), 3))
    found = real.alternate(Unfolded(X), factors, max_iter=1, tol=0.0, callback=None).best
    now = list(factors)
    for mode in range(3):
        others = khatri_rao([F for k, F in enumerate(now) if k != mode])
        now[mode] = np.linalg.lstsq(others, np.moveaxis(X, mode, 0).reshape(len(now[mode]), -1).T, rcond=None)[0].T
    for F, want in zip(found, now, strict=True):
        np.testing.assert_allclose(F, want, atol=1e-10)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", ["gaussian", "planted"])
def test_no_worse_than_tensorly_after_as_many_sweeps(kind: str, seed: int) -> None:
    """From the same start; and after one sweep the same tensor."""
    decomposition = pytest.importorskip("tensorly.decomposition", reason="TensorLy is not installed")
    cp_tensor = pytest.importorskip("tensorly.cp_tensor")
    shape, r = (20, 20, 9), 24
    X = draw(shape, seed) if kind == "gaussian" else planted(shape, r, seed, 0.1)
    start = random_factors(Unfolded(X), r, np.random.default_rng(seed))

    def peer(sweeps: int) -> Any:
        init = cp_tensor.CPTensor((np.ones(r), [F.copy() for F in start]))
        return cp_tensor.cp_to_tensor(decomposition.parafac(X, r, n_iter_max=sweeps, init=init, tol=0))

    ours = real.alternate(Unfolded(X), start, max_iter=50, tol=0.0, callback=None)
    assert len(ours.history) <= 50
    theirs = np.linalg.norm(X - peer(50)) / np.linalg.norm(X)
    assert relative(X, ours.best) <= theirs * (1 + 1e-9)
    once = real.alternate(Unfolded(X), start, max_iter=1, tol=0.0, callback=None).best
    np.testing.assert_allclose(dense(once), peer(1), atol=1e-9)


@pytest.mark.parametrize("dtype", FLOATS)
def test_annealing_repeats_for_a_seed(dtype: Any) -> None:
    X = TENSORS["planted"].astype(dtype)
    start = random_factors(Unfolded(X), 6, np.random.default_rng(0))
    before = copies(start)
    told: list[Progress] = []
    runs = [
        real.anneal(Unfolded(X), start, 12, np.random.default_rng(seed), call)
        for seed, call in ((1, None), (1, told.append), (2, None))
    ]
    assert copies(start) == before
    assert copies(runs[0]) == copies(runs[1]) != copies(runs[2])
    assert [(p.step, p.steps) for p in told] == [(k, 12) for k in range(1, 13)]
    assert told[-1].objective == pytest.approx(relative(X.astype(float), runs[1]), rel=1e-3)
    assert told[-1].objective < 0.2
    none = real.anneal(Unfolded(X), start, 0, np.random.default_rng(0), None)
    assert copies(none) == before


@every_tensor
def test_annealing_stays_finite(X: Any) -> None:
    for r in (1, 5, 30):
        start = random_factors(Unfolded(X), r, np.random.default_rng(0))
        found = real.anneal(Unfolded(X), start, 10, np.random.default_rng(0), None)
        assert all(np.isfinite(F).all() for F in found)
        assert relative(X, found) < 1.0


def test_annealing_leaves_swamps() -> None:
    """Collinear terms, more of them than any mode has rows: lower than plain alternation from the same start."""
    X = collinear((10, 9, 8), 5, noise=0.1)
    better = 0
    for seed in range(5):
        start = random_factors(Unfolded(X), 14, np.random.default_rng(seed))
        plain = real.alternate(Unfolded(X), start, max_iter=60, tol=0.0, callback=None).history[-1]
        warm = real.anneal(Unfolded(X), start, 60, np.random.default_rng(seed), None)
        better += relative(X, warm) < plain
    assert better >= 4


@settings(max_examples=40)
@given(st.integers(0, 2**31), st.integers(1, 8), st.integers(1, 6), st.sampled_from([0.0, 0.1, 10.0]))
def test_drawn_without_noise_is_ridge_least_squares(seed: int, n: int, r: int, ridge: float) -> None:
    rng = np.random.default_rng(seed)
    K, Y = rng.standard_normal((r + 5, r)), rng.standard_normal((r + 5, n))
    G, M = K.T @ K, Y.T @ K
    before = copies([G, M])
    tall = np.vstack([K, math.sqrt(ridge) * np.eye(r)])
    want = np.linalg.lstsq(tall, np.vstack([Y, np.zeros((r, n))]), rcond=None)[0].T
    found = real.drawn(ANY, M, G, ridge)
    np.testing.assert_allclose(found, want, atol=1e-7 * max(1.0, np.abs(want).max()))
    assert found.flags.c_contiguous
    assert copies([G, M]) == before


def test_drawn_noise_has_the_covariance_of_the_posterior() -> None:
    """Of noise I the rows are N with N^T N the inverse of G + ridge I; and noise adds to the least squares."""
    K = draw((9, 4))
    G, M = K.T @ K, draw((4, 4), 1)
    N = real.drawn(ANY, np.zeros((4, 4)), G, 0.3, np.eye(4))
    np.testing.assert_allclose(N.T @ N, np.linalg.inv(G + 0.3 * np.eye(4)), atol=1e-12)
    np.testing.assert_allclose(real.drawn(ANY, M, G, 0.3, np.eye(4)), real.drawn(ANY, M, G, 0.3) + N, atol=1e-12)


def test_drawn_of_dependent_or_zero_grams_is_finite() -> None:
    K = draw((9, 3))
    K = np.hstack([K, K[:, :1], np.zeros((9, 1))])
    Y = draw((9, 6), 1)
    found = real.drawn(ANY, Y.T @ K, K.T @ K, 0.0)
    best = np.linalg.lstsq(K, Y, rcond=None)[0]
    assert np.linalg.norm(Y - K @ found.T) == pytest.approx(np.linalg.norm(Y - K @ best), rel=1e-6)
    np.testing.assert_array_equal(real.drawn(ANY, np.zeros((6, 5)), np.zeros((5, 5)), 0.0), 0)


def terms2(factors: Sequence[Any]) -> float:
    """Sum of the squared norms of the terms."""
    return float(np.sum(np.prod([np.sum(F**2, axis=0) for F in factors], axis=0)))


@pytest.mark.parametrize("slack", [0.001, 0.1])
@pytest.mark.parametrize("rounds", [1, 8, 60])
@pytest.mark.parametrize(("name", "r"), [("degenerate", 2), ("collinear", 4), ("collinear", 12), ("gaussian", 15)])
def test_correction_keeps_the_error_within_its_slack_and_no_term_grows(
    name: str, r: int, rounds: int, slack: float
) -> None:
    """Whatever the real factors are that it begins with: those of few sweeps too."""
    X = TENSORS[name]
    for seed, sweeps in ((1, 40), (2, 10)):
        start = random_factors(Unfolded(X), r, np.random.default_rng(seed))
        found = real.alternate(Unfolded(X), start, max_iter=sweeps, tol=0.0, callback=None).best
        before = copies(found)
        smaller = real.corrected(Unfolded(X), found, slack, rounds)
        assert copies(found) == before
        assert relative(X, smaller) <= (1 + slack) * relative(X, found) * (1 + 1e-9)
        assert terms2(smaller) <= terms2(found) * (1 + 1e-9)


def test_correction_shrinks_terms_that_cancel() -> None:
    """12 terms for a tensor of noise, fitted until they grow against each other: a tenth of the energy is enough."""
    X = draw((16, 14, 9))
    start = random_factors(Unfolded(X), 12, np.random.default_rng(1))
    found = real.alternate(Unfolded(X), start, max_iter=60, tol=0.0, callback=None).best
    assert terms2(found) > 5 * np.sum(X**2)
    assert terms2(real.corrected(Unfolded(X), found, 0.1, 60)) < 0.1 * terms2(found)


# Integers.


GRIDS = {
    "integers": lambda bits: Levels(2.0 ** (bits - 1) - (1 if bits > 1 else 0.5)),
    "half-integers": lambda bits: Levels(2.0 ** (bits - 1) - 0.5),
}


def fine(X: Any, r: int, seed: int = 0, sweeps: int = 20) -> list[Any]:
    start = random_factors(Unfolded(X), r, np.random.default_rng(seed))
    return balanced(real.alternate(Unfolded(X), start, max_iter=sweeps, tol=0.0, callback=None).best)


def rounded(X: Any, r: int, levels: Sequence[Levels], seed: int = 0) -> Rounded:
    return integers.rounded(fine(X, r, seed), levels)


def on_grid(found: Rounded, levels: Sequence[Levels]) -> bool:
    return all(np.array_equal(of_mode.nearest(Z), Z) for Z, of_mode in zip(found.factors, levels, strict=True))


@every_tensor
@pytest.mark.parametrize("kind", GRIDS)
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_descent_never_rises(X: Any, bits: int, kind: str) -> None:
    levels = [GRIDS[kind](bits)] * X.ndim
    start = rounded(X, 6, levels)
    before = copies([*start.factors, start.weights])
    for dtype, slack in ((np.float64, 1e-9), (np.float32, 1e-5)):
        array = Unfolded(X.astype(dtype))
        found = integers.descent(array, start, levels, max_iter=8, tol=0.0, callback=None)
        assert copies([*start.factors, start.weights]) == before
        assert never_rises([relative(X, start.factors, start.weights), *found.history], slack)
        best = found.best
        assert on_grid(best, levels)
        assert min(found.history) == pytest.approx(relative(X, best.factors, best.weights), rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("bits", [5, 6, 7, (2, 3, 8), (8, 1, 4)])
def test_descent_never_rises_at_other_widths(bits: Any) -> None:
    X = TENSORS["planted"]
    for kind in GRIDS.values():
        levels = [kind(b) for b in (bits if isinstance(bits, tuple) else (bits,) * 3)]
        start = rounded(X, 6, levels)
        found = integers.descent(Unfolded(X), start, levels, max_iter=12, tol=0.0, callback=None)
        assert never_rises([relative(X, start.factors, start.weights), *found.history], 1e-9)
        assert on_grid(found.best, levels)


def test_where_descent_ends_no_entry_and_no_weight_is_better_elsewhere() -> None:
    """1-flip optimal in the error itself, and weights of least squares."""
    X, levels = TENSORS["planted"], [Levels(1.5)] * 3
    found = integers.descent(Unfolded(X), rounded(X, 3, levels), levels, max_iter=300, tol=0.0, callback=None).best
    error = relative(X, found.factors, found.weights)
    for mode, Z in enumerate(found.factors):
        for index in np.ndindex(Z.shape):
            for step in (-1, 1):
                moved = [F.copy() for F in found.factors]
                moved[mode][index] += step
                if abs(moved[mode][index]) <= 1.5:
                    assert relative(X, moved, found.weights) >= error * (1 - 1e-9)
    terms = khatri_rao(found.factors)
    want = np.linalg.lstsq(terms, X.reshape(-1), rcond=None)[0]
    np.testing.assert_allclose(found.weights, want, rtol=1e-6)


def planted_integers(shape: Sequence[int], r: int, most: int, seed: int = 0) -> tuple[Any, list[Any], Any]:
    rng = np.random.default_rng(seed)
    factors = [rng.integers(-most, most + 1, (n, r)).astype(float) for n in shape]
    for F in factors:
        F[rng.integers(0, len(F), r), np.arange(r)] = most  # every column has its largest level
    weights = 1.5 ** np.arange(r) / 7
    return dense(factors, weights), factors, weights


@pytest.mark.parametrize(("bits", "most"), [(2, 1), (3, 3), (4, 7), (8, 127)])
@pytest.mark.parametrize("shape", [(8, 7, 6), (5, 5, 4, 3), (9, 8)], ids=str)
def test_planted_integers_are_a_fixed_point(shape: tuple[int, ...], bits: int, most: int) -> None:
    X, factors, weights = planted_integers(shape, 3, most)
    levels = [Levels(float(most))] * len(shape)
    found = integers.descent(Unfolded(X), Rounded(factors, weights), levels, max_iter=3, tol=0.0, callback=None)
    assert copies(found.best.factors) == copies(factors)
    np.testing.assert_allclose(found.best.weights, weights, rtol=1e-9)
    assert found.history[-1] < 1e-12
    scaled = [F * (1.7 + k) for k, F in enumerate(factors)]
    again = integers.rounded([scaled[0] * weights, *scaled[1:]], levels)
    assert relative(X * math.prod(1.7 + k for k in range(len(shape))), again.factors, again.weights) < 1e-12


@settings(max_examples=60)
@given(st.integers(0, 2**31), st.sampled_from([1, 2, 3, 4, 6, 8]), st.integers(1, 30), st.sampled_from(list(GRIDS)))
def test_columns_on_the_grid_keep_their_scale(seed: int, bits: int, n: int, kind: str) -> None:
    """Of a column of levels times a scale the rounded one is the same, to rounding, whatever its largest level."""
    rng = np.random.default_rng(seed)
    levels = GRIDS[kind](bits)
    Z = levels.nearest(rng.uniform(-levels.most - 0.5, levels.most + 0.5, (n, 5)) * rng.uniform(0.1, 1, 5))
    scales = 10.0 ** rng.uniform(-8, 8, 5)
    Z[:, 4] = 0.0 if levels.shift == 0 else Z[:, 4]
    F = Z * scales
    found = integers.fitted_scales(F, levels)
    assert np.all(found > 0)
    np.testing.assert_allclose(levels.nearest(F / found) * found, F, rtol=1e-13, atol=0)
    full = np.abs(Z).max(axis=0) == levels.most
    np.testing.assert_allclose(found[full], scales[full], rtol=1e-13)


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
@pytest.mark.parametrize("kind", GRIDS)
def test_scales_are_near_the_best(bits: int, kind: str) -> None:
    """Against a dense scan of scales: over 300 columns within 1.5 % of its squared error, and no column far off."""
    levels = GRIDS[kind](bits)
    for n in (9, 60):
        F = draw((n, 300), n)
        scale = integers.fitted_scales(F, levels)
        lost = ((F - levels.nearest(F / scale) * scale) ** 2).sum(axis=0)
        least = np.full(300, np.inf)
        for share in np.linspace(0.1, 1.5, 300):
            Z = levels.nearest(F / (share * np.abs(F).max(axis=0) / levels.most))
            energy = (Z * Z).sum(axis=0)
            fit = np.where(energy > 0, (Z * F).sum(axis=0) / np.maximum(energy, 0.25), 0.0)
            least = np.minimum(least, ((F - Z * fit) ** 2).sum(axis=0))
        assert lost.sum() <= 1.015 * least.sum()
        assert np.all(lost <= 1.5 * least + 1e-12)


def test_rounded_multiplies_the_scales_of_the_modes() -> None:
    factors, levels = drawn_factors((6, 5, 4), 3), [Levels(7.0), Levels(1.5), Levels(127.0)]
    found = integers.rounded(factors, levels)
    scales = [integers.fitted_scales(F, of_mode) for F, of_mode in zip(factors, levels, strict=True)]
    np.testing.assert_allclose(found.weights, np.prod(scales, axis=0), rtol=1e-15)
    assert on_grid(found, levels)
    zeros = integers.rounded([np.zeros((6, 2)), np.ones((5, 2))], [Levels(7.0), Levels(0.5)])
    assert np.isfinite(zeros.weights).all()
    np.testing.assert_array_equal(dense(zeros.factors, zeros.weights), 0)


@pytest.mark.parametrize("name", ["gaussian", "planted", "collinear", "matrix", "four modes"])
@pytest.mark.parametrize("kind", GRIDS)
def test_more_bits_from_the_embedded_start_never_more_error(name: str, kind: str) -> None:
    """The levels of b bits are among those of b + 1 (of twice the half-integers plus the odd, among b + 2)."""
    X = TENSORS[name]
    step = 1 if kind == "integers" else 0
    best = rounded(X, 5, [GRIDS["integers"](2)] * X.ndim)
    last = math.inf
    for bits in range(2, 9):
        levels = [GRIDS["integers"](bits)] * X.ndim
        if not step and bits > 2:  # half-integers h of b - 1 bits are integers 2 h of b bits
            halves = [GRIDS[kind](bits - 1)] * X.ndim
            found = integers.descent(Unfolded(X), rounded(X, 5, halves), halves, max_iter=8, tol=0.0, callback=None)
            best = Rounded([2 * Z for Z in found.best.factors], found.best.weights / 2**X.ndim)
            last = found.history[-1]
        assert on_grid(best, levels)
        found = integers.descent(Unfolded(X), best, levels, max_iter=8, tol=0.0, callback=None)
        assert found.history[-1] <= last * (1 + 1e-9)
        best, last = found.best, found.history[-1]


@pytest.mark.parametrize("name", ["gaussian", "planted", "four modes"])
def test_many_bits_tend_to_real_factors(name: str) -> None:
    X = TENSORS[name]
    factors = fine(X, 5, sweeps=300)
    want = relative(X, factors)
    for kind in GRIDS.values():
        lost = []
        for bits in (8, 12, 16):
            found = integers.rounded(factors, [kind(bits)] * X.ndim)
            lost.append(relative(X, found.factors, found.weights) - want)
        assert lost[0] > lost[1] > lost[2] > -1e-9
        assert lost[2] < 1e-6


@pytest.mark.parametrize("dtype", FLOATS)
def test_annealed_integers_repeat_and_stay_on_their_grid(dtype: Any) -> None:
    X = TENSORS["planted"]
    array, levels = Unfolded(X.astype(dtype)), [Levels(3.0), Levels(1.5), Levels(7.0)]
    start = rounded(X, 6, levels)
    before = copies([*start.factors, start.weights])
    told: list[Progress] = []
    runs = [
        integers.anneal(array, start, levels, 15, 1.0, np.random.default_rng(seed), call)
        for seed, call in ((1, None), (1, told.append), (2, None))
    ]
    assert copies([*start.factors, start.weights]) == before
    assert copies(runs[0].factors) == copies(runs[1].factors) != copies(runs[2].factors)
    assert all(on_grid(run, levels) for run in runs)
    assert [(p.step, p.steps) for p in told] == [(k, 15) for k in range(1, 16)]
    assert told[-1].objective == pytest.approx(relative(X, runs[1].factors, runs[1].weights), rel=1e-3)


def test_without_heat_annealing_is_descent_of_one_pass() -> None:
    X, levels = TENSORS["gaussian"], [Levels(3.0)] * 3
    start = rounded(X, 5, levels)
    told: list[Progress] = []
    found = integers.anneal(Unfolded(X), start, levels, 6, 0.0, np.random.default_rng(0), told.append)
    assert never_rises([relative(X, start.factors, start.weights), *(p.objective for p in told)], 1e-9)
    other = integers.anneal(Unfolded(X), start, levels, 6, 0.0, np.random.default_rng(5), None)
    assert copies(found.factors) == copies(other.factors)


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_annealing_goes_below_descent(bits: int) -> None:
    """More terms than any mode has rows, 60 sweeps: in each of three runs, all starts alike."""
    X = planted((14, 13, 9), 20, 0, 0.1)
    levels = [GRIDS["half-integers"](bits)] * 3
    start = rounded(X, 20, levels)
    plain = integers.descent(Unfolded(X), start, levels, max_iter=60, tol=0.0, callback=None).history[-1]
    for seed in range(3):
        warm = integers.anneal(Unfolded(X), start, levels, 60, 1.0, np.random.default_rng(seed), None)
        cold = integers.descent(Unfolded(X), warm, levels, max_iter=60, tol=0.0, callback=None).history[-1]
        assert cold < 0.97 * plain


def test_the_better_start_and_grid_are_chosen() -> None:
    X = TENSORS["planted"]
    starts = [fine(X, 5, 0, 1), fine(X, 5, 0, 60)]
    grids = [tuple([kind(4)] * 3) for kind in GRIDS.values()]
    everything = {}
    for k, factors in enumerate(starts):
        for levels in grids:
            found = integers.descent(
                Unfolded(X), integers.rounded(factors, levels), levels, max_iter=2, tol=0.0, callback=None
            )
            everything[k, levels] = found.history[-1]
    chosen = integers.choose(Unfolded(X), starts, grids)
    error = relative(X, chosen.best.factors, chosen.best.weights)
    assert error == pytest.approx(min(everything.values()), rel=1e-9)
    assert chosen.levels == min(everything, key=lambda key: everything[key])[1]
    assert ("odd integers" in chosen.note) == bool(chosen.levels[0].shift)
    assert f"{error:.4g}" in chosen.note
    for levels in grids:
        assert integers.choose(Unfolded(X), starts, [levels]).levels == levels


def test_heat_falls_to_nothing_where_rounding_costs_nothing() -> None:
    X = TENSORS["planted"]
    heats = [
        integers.choose(Unfolded(X), [fine(X, 4, sweeps=100)], [tuple([Levels(2.0 ** (bits - 1) - 0.5)] * 3)]).heat
        for bits in (2, 5, 8, 14)
    ]
    assert heats == sorted(heats, reverse=True)
    assert heats[0] > 0.5
    assert heats[-1] == 0.0
    exact, factors, weights = planted_integers((6, 5, 4), 2, 3)
    assert integers.choose(Unfolded(exact), [[factors[0] * weights, *factors[1:]]], [(Levels(3.0),) * 3]).heat == 0.0


@every_tensor
def test_weights_of_least_squares_are_kept_where_they_are_better(X: Any) -> None:
    levels = [Levels(1.0)] * X.ndim
    start = rounded(X, 6, levels)
    start.factors[0][:, 2] = 0  # a term without use
    start.factors[1][:, 3], start.factors[0][:, 3] = start.factors[1][:, 4], start.factors[0][:, 4]  # alike but one
    model = Model(Unfolded(X), list(start.factors), np.zeros(6) + 1e-3)
    model.sweep(lambda mode, M, G: model.factors[mode])
    before = model.error2()
    after = integers.reweighted(model)
    assert after <= before
    assert after == pytest.approx(np.sum((X - dense(model.factors, model.weights)) ** 2), rel=1e-6, abs=1e-12)
    terms = khatri_rao(model.factors)
    want = np.linalg.lstsq(terms, X.reshape(-1), rcond=None)[0]
    best = np.sum((X - (terms @ want).reshape(X.shape)) ** 2)
    assert after <= best * (1 + 1e-5) + 1e-12


def test_weights_of_terms_that_are_all_zero_stay() -> None:
    X = TENSORS["gaussian"]
    model = Model(Unfolded(X), [np.zeros((n, 2)) for n in X.shape], np.array([1.0, 2.0]))
    model.sweep(lambda mode, M, G: model.factors[mode])
    assert integers.reweighted(model) == pytest.approx(np.sum(X**2))
    np.testing.assert_array_equal(model.weights, [1.0, 2.0])


# The alternating direction method.


@pytest.mark.parametrize("bits", range(1, 9))
def test_published_levels_are_twos_complement(bits: int) -> None:
    scheme, q = admm.Scheme.published(bits), 2 ** (bits - 1)
    assert (scheme.low, scheme.high, scheme.inner, scheme.paper) == (-q, q - 1, 999, True)
    np.testing.assert_array_equal(np.unique(scheme.levels(np.linspace(-2.0 * q, 2.0 * q, 4001), 1.0)), np.arange(-q, q))
    np.testing.assert_array_equal(scheme.levels(0.3 * np.arange(-q, q), 0.3), np.arange(-q, q))


def test_published_steps_are_the_best_of_200() -> None:
    x = draw((9, 5))
    for scheme in (admm.Scheme.published(4), admm.Scheme.published(2), admm.Scheme(-7.5, 7.5), admm.Scheme(-1.0, 1.0)):
        top = np.abs(x).max()
        steps = 2 * np.linspace(0.2, 1.2, 200) * top / (scheme.high - scheme.low)
        lost = [np.sum((x - s * scheme.levels(x, s)) ** 2) for s in steps]
        found = scheme.step(x)
        assert np.sum((x - found * scheme.levels(x, found)) ** 2) == pytest.approx(min(lost), rel=1e-9)
        assert steps[0] * (1 - 1e-12) <= found <= steps[-1] * (1 + 1e-12)
        assert scheme.step(np.zeros((2, 2))) > 0


def lagrangian(M: Any, G: Any, rho: float, free: Any, H: Any, U: Any) -> float:
    """``1/2 tr(F G F^T) - tr(M F^T) + rho/2 ||H - F + U||^2 - rho/2 ||U||^2``."""
    fit = 0.5 * np.sum((free @ G) * free) - np.sum(M * free)
    return float(fit + rho / 2 * (np.sum((H - free + U) ** 2) - np.sum(U**2)))


@settings(max_examples=15)
@given(st.integers(0, 2**31), st.integers(1, 8), st.integers(1, 6), st.integers(1, 5), st.booleans())
def test_steps_of_the_alternating_direction_method(seed: int, n: int, r: int, bits: int, half: bool) -> None:
    """The primal step minimises the augmented Lagrangian; the projection on a grid that stays lowers it; the dual step
    raises it by ``rho ||H - Ht||^2``. Overall it need not fall.
    """
    rng = np.random.default_rng(seed)
    K = rng.standard_normal((r + 2, r))
    G, M = K.T @ K, rng.standard_normal((n, r)) * 5
    most = GRIDS["half-integers" if half else "integers"](bits).most
    rho = float(np.trace(G)) / r
    one = admm.Scheme(-most, most, inner=1)
    H, U, step = admm._inner(np.zeros((n, r)), np.zeros((n, r)), M, G, rho, one)
    for _ in range(4):
        free = (M + rho * (H + U)) @ np.linalg.inv(G + rho * np.eye(r))
        before = lagrangian(M, G, rho, free + rng.standard_normal((n, r)) * 0.1, H, U)
        at_free = lagrangian(M, G, rho, free, H, U)
        assert at_free <= before
        same = step * one.levels(free - U, step)  # on the grid as it is
        projected = lagrangian(M, G, rho, free, same, U)
        assert projected <= at_free + 1e-9 * abs(at_free)
        dual = U + same - free
        raised = lagrangian(M, G, rho, free, same, dual)
        assert raised - projected == pytest.approx(rho * np.sum((same - free) ** 2), rel=1e-6, abs=1e-9)
        # And the code does this, with the step of its first inner iteration.
        new_H, new_U, new_step = admm._inner(H, U, M, G, rho, one)
        least = one.step(free - U)
        least = float(np.sum((free - U - least * one.levels(free - U, least)) ** 2))
        assert np.sum((free - U - new_H) ** 2) == pytest.approx(least, rel=1e-6, abs=1e-9)  # of equals either step
        np.testing.assert_allclose(one.levels(new_H, new_step) * new_step, new_H, atol=1e-9 * (1 + new_step))
        np.testing.assert_allclose(new_U, U + new_H - free, atol=1e-9 * (1 + np.abs(new_U).max()))
        H, U, step = new_H, new_U, new_step


def test_the_grid_stays_within_a_visit_and_is_searched_anew_where_published() -> None:
    rng = np.random.default_rng(3)
    K = rng.standard_normal((9, 4))
    G, M, rho = K.T @ K, rng.standard_normal((6, 4)) * 5, float(np.trace(K.T @ K)) / 4
    zeros = np.zeros((6, 4))
    first = admm._inner(zeros, zeros, M, G, rho, admm.Scheme(-3.0, 3.0, inner=1))
    five = admm._inner(zeros, zeros, M, G, rho, admm.Scheme(-3.0, 3.0, inner=5))
    assert five[2] == first[2]
    paper = [admm._inner(zeros, zeros, M, G, rho, admm.Scheme(-3.0, 3.0, inner=k, paper=True)) for k in (1, 5)]
    assert paper[0][2] == first[2]
    assert paper[1][2] != first[2]
    for H, _, step in (first, five, *paper):
        np.testing.assert_allclose(H / step, np.clip(np.rint(H / step), -3, 3), atol=1e-12)


@pytest.mark.parametrize("bits", [1, 3])
@pytest.mark.parametrize("name", ["planted", "collinear", "matrix", "four modes"])
def test_the_alternating_direction_method_keeps_its_best_iterate(name: str, bits: int) -> None:
    X = TENSORS[name]
    levels = [GRIDS["integers"](bits)] * X.ndim
    schemes = [admm.Scheme(-of_mode.most, of_mode.most) for of_mode in levels]
    start = fine(X, 5)
    before = copies(start)
    told: list[Progress] = []
    found = admm.solve(Unfolded(X), start, schemes, max_iter=9, tol=0.0, callback=told.append)
    assert copies(start) == before
    assert [p.objective for p in told] == list(found.history)
    assert len(found.history) <= 9
    assert on_grid(found.best, levels)
    assert relative(X, found.best.factors, found.best.weights) == pytest.approx(min(found.history), rel=1e-6)
    assert np.ptp(found.best.weights) == 0  # one scale per factor


@pytest.mark.parametrize("bits", [1, 3])
@pytest.mark.parametrize("most", [1, 2, 9])
def test_as_published_the_last_iterate_is_returned(bits: int, most: int) -> None:
    X, scheme = TENSORS["planted"], admm.Scheme(-(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1, 3, True)
    told: list[Progress] = []
    found = admm.solve(Unfolded(X), fine(X, 5), [scheme] * 3, max_iter=most, tol=0.5, callback=told.append)
    assert 1 <= len(found.history) <= most
    assert [(p.step, p.steps, p.objective) for p in told] == [(k + 1, most, e) for k, e in enumerate(found.history)]
    assert relative(X, found.best.factors, found.best.weights) == pytest.approx(found.history[-1], rel=1e-9)
    for Z in found.best.factors:
        np.testing.assert_array_equal(Z, np.clip(np.rint(Z), scheme.low, scheme.high))
    assert "last iterate" in found.status
    if len(found.history) < most:
        settled = abs(found.history[-1] - found.history[-2]) < 1e-5
        rose = len(found.history) > 4 and found.history[-1] - found.history[-5] > 1e-3
        assert settled or rose
        assert ("settled" in found.status) == settled
    else:
        assert "max_iter" in found.status or "settled" in found.status
