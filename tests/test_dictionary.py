"""Dictionary learning: errors from moments, budgets, least squares, rounds that never do worse, and edge cases."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factorq.kernels.pursuit import REAL, Alphabet
from factorq.solvers.dictionary import Budget, Dictionary, Target, grids, learn, polish, quantize, real
from factorq.solvers.dictionary.budget import gains, nth_largest
from factorq.solvers.dictionary.real import unit

FLOATS = [np.float32, np.float64]


def draw(m: int, n: int, seed: int = 0, *, decay: float = 0.0, dtype: Any = np.float64) -> Any:
    """Gaussian rows whose sizes fall as a power, turned at random."""
    rng = np.random.default_rng(seed)
    W = rng.standard_normal((m, n)) * np.arange(1, m + 1)[:, None] ** -decay
    return np.ascontiguousarray((np.linalg.qr(rng.standard_normal((m, m)))[0] @ W).astype(dtype))


def sparse(n: int, r: int, seed: int = 0, share: float = 0.4) -> Any:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, r)) * (rng.random((n, r)) < share)


def metric(m: int, seed: int = 0) -> Any:
    return np.linalg.cholesky(np.cov(np.random.default_rng(seed).standard_normal((m, 3 * m))) + 0.1 * np.eye(m))


def lost(target: Target, C: Any, Z: Any) -> float:
    """The relative error by the formula, in float64."""
    rest = target.W.astype(np.float64) - C.astype(np.float64) @ Z.T.astype(np.float64)
    L = np.eye(len(target.W)) if target.L is None else target.L.astype(np.float64)
    energy = float(np.sum((L.T @ target.W) ** 2))
    return math.sqrt(float(np.sum((L.T @ rest) ** 2)) / energy) if energy else 0.0


def fitted(target: Target, rank: int, budget: Budget, *, rounds: int = 12, seed: int = 0, **more: Any) -> Dictionary:
    return learn(target, rank, budget, np.random.default_rng(seed), rounds=rounds, **more)


def rounded(target: Target, found: Dictionary, budget: Budget, bits: tuple[int, int] = (4, 2), **more: Any) -> Any:
    return quantize(target, found, budget, bits, np.random.default_rng(0), **{"max_iter": 8, "tol": 0.0} | more)


# What the columns ask.


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("n", [1, 300, (1 << 14) + 77])
def test_errors_from_moments_are_the_formula(dtype: Any, weighted: bool, n: int) -> None:
    W, C, Z = draw(6, n, dtype=dtype), draw(6, 6, 1)[:, :4], sparse(n, 4).astype(dtype)
    target = Target(W, metric(6).astype(dtype) if weighted else None)
    assert target.energy == pytest.approx(float(np.sum(target.seen.astype(float) ** 2)), rel=1e-12)
    want = lost(target, C, Z) ** 2 * target.energy
    assert target.squared_error(C, target.moments(Z), Z) == pytest.approx(
        want, rel=1e-5 if dtype == np.float32 else 1e-10
    )
    G, B = target.products(C)
    L = np.eye(6) if target.L is None else target.L
    np.testing.assert_allclose(G, C.T @ L @ L.T @ C, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(B, W.T @ L @ L.T @ C, rtol=1e-4, atol=1e-5)
    assert (G.dtype, B.dtype) == (np.float64, dtype)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("size", [1e-4, 2e-3, 1e-2])
def test_small_errors_keep_their_digits(dtype: Any, size: float) -> None:
    """On both sides of where the sums from moments cancel."""
    C, Z = draw(6, 6, 1)[:, :4], sparse(4000, 4, share=1.0).astype(dtype)
    W = C @ Z.T.astype(float)
    W = (W + size * draw(6, 4000, 2) * np.linalg.norm(W) / np.linalg.norm(draw(6, 4000, 2))).astype(dtype)
    target = Target(W)
    found = target.squared_error(C, target.moments(Z), Z)
    assert found == pytest.approx(lost(target, C, Z) ** 2 * target.energy, rel=0.05 if dtype == np.float32 else 1e-8)
    exact = Target((C @ Z.T.astype(float)).astype(dtype))
    assert 0 <= exact.squared_error(C, exact.moments(Z), Z) <= 1e-12 * exact.energy


def test_dictionaries_of_moments_are_least_squares() -> None:
    W, Z = draw(5, 200), sparse(200, 7)
    Z[:, [2, 6]] = 0
    C = Target(W).moments(Z).dictionary()
    want = np.linalg.lstsq(Z[:, [0, 1, 3, 4, 5]], W.T, rcond=None)[0].T
    np.testing.assert_allclose(C[:, [0, 1, 3, 4, 5]], want, atol=1e-12)
    np.testing.assert_array_equal(C[:, [2, 6]], 0)
    np.testing.assert_array_equal(Target(W).moments(np.zeros_like(Z)).dictionary(), 0)


def test_dictionaries_of_dependent_codes_are_finite_and_of_least_error() -> None:
    W, Z = draw(5, 200), sparse(200, 4)
    Z[:, 3] = Z[:, 0]
    target = Target(W)
    best = np.linalg.lstsq(Z, W.T, rcond=None)[0].T
    assert lost(target, target.moments(Z).dictionary(), Z) == pytest.approx(lost(target, best, Z), rel=1e-6)


def test_the_metric_does_not_move_real_atoms_and_some_columns_are_some_columns() -> None:
    W, Z, L = draw(5, 200), sparse(200, 4), metric(5)
    np.testing.assert_array_equal(Target(W, L).moments(Z).dictionary(), Target(W).moments(Z).dictionary())
    part = Target(W, L).columns(np.array([3, 5, 8]))
    np.testing.assert_array_equal(part.W, W[:, [3, 5, 8]])
    assert part.L is L


# Budgets.


@pytest.mark.parametrize(
    ("share", "shape", "whole", "columns"),
    [(1 - 0.9, (100, 10), 100, 100), (0.3, (10, 10), 30, 30), (0.25, (10, 10), 25, 20), (0.0, (9, 9), 0, 0),
     (1.0, (3, 7), 21, 21), (0.05, (1, 1), 0, 0), (1 - 0.7, (7, 10), 21, 21)],
)  # fmt: skip
def test_counts_are_exact(share: float, shape: tuple[int, int], whole: int, columns: int) -> None:
    assert Budget(share).count(shape) == whole
    assert Budget(share, per_column=True).count(shape) == columns


def test_nth_largest() -> None:
    x = np.array([[3.0, 1.0], [2.0, 2.0]])
    assert [nth_largest(x, n) for n in (1, 2, 3, 4, 5)] == [3, 2, 2, 0, 0]
    assert nth_largest(x, 0) > 3
    assert nth_largest(x.astype(np.float32), 0) > 3
    assert nth_largest(-x, 2) == 0


@settings(max_examples=60)
@given(
    st.integers(0, 2**31), st.integers(1, 12), st.integers(1, 6), st.floats(0, 1), st.booleans(), st.booleans(),
    st.sampled_from([REAL, Alphabet(2), Alphabet(2, 0.25)]),
)  # fmt: skip
def test_trimming_meets_the_budget(
    seed: int, n: int, r: int, share: float, per_column: bool, sharp: bool, alphabet: Alphabet
) -> None:
    target, C = Target(draw(4, n, seed)), unit(np.random.default_rng(seed).standard_normal((4, r)))[0]
    Z = np.where(sparse(n, r, seed, 0.9) != 0, alphabet.nearest(2 * sparse(n, r, seed + 1, 1.0)), 0.0)
    budget = Budget(share, per_column)
    G, B = target.products(C)
    before = target.squared_error(C, target.moments(Z), Z)
    within = np.count_nonzero(Z) <= budget.count(Z.shape) if not per_column else None
    budget.trim(G, B, Z, alphabet, sharp=sharp)
    assert np.count_nonzero(Z) <= budget.count(Z.shape)
    if per_column and not budget.everything:
        assert np.count_nonzero(Z, axis=1).max() <= math.floor(share * r * (1 + 2**-50))
    if within:
        assert target.squared_error(C, target.moments(Z), Z) <= before + 1e-9 * target.energy


def test_trimming_drops_what_gains_least_and_ties_from_the_end() -> None:
    """Orthonormal atoms: gains are squares. Of five equal entries the first ones stay."""
    Z = np.array([[2.0, -1.0, 1.0], [1.0, 3.0, 1.0], [0.0, 0.5, -1.0]])
    for share, kept in ((2 / 9, [0, 4]), (4 / 9, [0, 1, 2, 4]), (8 / 9, [0, 1, 2, 3, 4, 5, 7, 8]), (0.0, [])):
        trimmed = Z.copy()
        Budget(share).trim(np.eye(3), Z.copy(), trimmed)
        want = np.zeros(9)
        want[kept] = Z.ravel()[kept]
        np.testing.assert_array_equal(trimmed.ravel(), want)
    np.testing.assert_array_equal(gains(np.diag([1.0, 4, 9]), Z * [1, 4, 9], Z), Z**2 * [1, 4, 9])


def test_trimming_per_column_keeps_the_best_of_each() -> None:
    Z = np.array([[2.0, -1.0, 1.5], [1.0, 3.0, -4.0]])
    for sharp in (False, True):
        trimmed = Z.copy()
        Budget(2 / 3, per_column=True).trim(np.eye(3), Z.copy(), trimmed, sharp=sharp)
        np.testing.assert_array_equal(trimmed, [[2, 0, 1.5], [0, 3, -4]])


@pytest.mark.parametrize("share", [0.05, 0.2, 0.5, 0.9])
def test_prices_lead_to_the_number_asked_for(share: float) -> None:
    target, budget = Target(draw(8, 3000, decay=0.5)), Budget(share)
    C = np.linalg.qr(draw(8, 8, 3))[0]
    G, B = target.products(C)
    Z, price, kept = np.zeros((3000, 8)), budget.first_price(G, B), []
    for _ in range(16):
        price = budget.code(G, B, Z, price)
        kept.append(np.count_nonzero(Z))
    wanted = budget.count(Z.shape)
    assert 0.96 * wanted < min(kept[-8:])
    assert 0.985 * wanted <= max(kept[-8:]) < 1.03 * wanted
    assert np.mean(kept[-8:]) == pytest.approx(wanted, rel=0.015)


@pytest.mark.parametrize("densities", [[0.8, 0.8], [0.7, 0.95], [0.01, 0.9], [0.0, 0.0], [1.0, 1.0], [0.2, 0.1]])
def test_rated_nonzeros_cost_more_where_they_are_rare(densities: list[float]) -> None:
    """At every density: bits under a mean that passes through 0 once turned the order about, or gave NaN."""
    Z = np.arange(1000)[:, None] < 1000 * np.array(densities)
    cost = Budget(0.5, rated=True)._costs(Z.astype(float))
    assert np.isfinite(cost).all()
    assert (cost > 0).all()
    assert (cost[0] - cost[1]) * (densities[0] - densities[1]) <= 0
    np.testing.assert_array_equal(Budget(0.5)._costs(Z), 1)


# Real factors.


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("shape", [(8, 300), (30, 12), (9, 9)])
def test_everything_kept_is_the_truncated_svd(shape: tuple[int, int], weighted: bool) -> None:
    W = draw(*shape, decay=1.0)
    target = Target(W, metric(shape[0]) if weighted else None)
    s = np.linalg.svd(target.seen, compute_uv=False)
    for r in (1, 4, min(shape)):
        found = fitted(target, r, Budget(1.0))
        C, Z = polish(target, found, Budget(1.0), max_iter=3, tol=0.0).best
        tail = math.sqrt(max(float(np.sum(s[r:] ** 2)), 0.0) / float(np.sum(s**2)))
        assert lost(target, C, Z) == pytest.approx(tail, rel=1e-6, abs=1e-7)
        assert (C.shape, Z.shape) == ((shape[0], r), (shape[1], r))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("budget", [Budget(0.3), Budget(0.26, per_column=True), Budget(0.3, rated=True)])
@pytest.mark.parametrize("rank", [4, 8, 13])
def test_polish_never_raises_the_error_and_meets_the_budget(
    dtype: Any, weighted: bool, budget: Budget, rank: int
) -> None:
    target = Target(draw(8, 500, decay=0.5, dtype=dtype), metric(8).astype(dtype) if weighted else None)
    found = fitted(target, rank, budget)
    np.testing.assert_allclose(np.linalg.norm(found.C, axis=0), 1)
    for start in (found, replace(found, Z=found.Z * 0 + 1)):  # from any codes, far too many too
        ended = polish(target, start, budget, max_iter=6, tol=0.0)
        C, Z = ended.best
        slack = 1e-5 if dtype == np.float32 else 1e-9
        assert all(b <= a + slack for a, b in zip(ended.history, ended.history[1:], strict=False))
        assert min(ended.history) == pytest.approx(lost(target, C, Z), rel=1e-4 if dtype == np.float32 else 1e-9)
        assert np.count_nonzero(Z) <= budget.count(Z.shape)
        assert Z.dtype == dtype
        if budget.per_column:
            assert np.count_nonzero(Z, axis=1).max() <= math.floor(0.26 * rank)


@pytest.mark.parametrize("budget", [Budget(0.25), Budget(0.25, per_column=True)])
def test_falling_budgets_reach_their_end(budget: Budget) -> None:
    """Codes per column once kept all the nonzeros of the first rounds."""
    found = fitted(Target(draw(16, 800)), 16, budget, rounds=24)
    assert np.count_nonzero(found.Z) == pytest.approx(budget.count(found.Z.shape), rel=0.02)


def test_a_planted_orthonormal_dictionary_is_recovered() -> None:
    rng = np.random.default_rng(0)
    C = np.linalg.qr(rng.standard_normal((12, 12)))[0]
    Z = np.zeros((2000, 12))
    for z in Z:
        z[rng.choice(12, 2, replace=False)] = rng.standard_normal(2)
    target = Target(C @ Z.T)
    for budget, limit in ((Budget(2 / 12), 1e-4), (Budget(2 / 12, per_column=True), 1e-9)):
        start = unit(C + 0.1 * rng.standard_normal(C.shape) / math.sqrt(12))[0]
        found = polish(target, real._rounds(target, start, budget, 40), budget, max_iter=20, tol=0.0)
        assert min(found.history) ** 2 < limit
        near = np.abs(unit(found.best[0])[0].T @ C)
        np.testing.assert_allclose(near.max(axis=0), 1, atol=1e-5)
        assert len(set(near.argmax(axis=0))) == 12


def test_a_planted_overcomplete_dictionary_is_recovered_from_nearby() -> None:
    rng = np.random.default_rng(0)
    C = unit(rng.standard_normal((32, 48)))[0]
    Z = np.zeros((800, 48))
    for z in Z:
        z[rng.choice(48, 3, replace=False)] = rng.standard_normal(3)
    target, budget = Target(C @ Z.T), Budget(3 / 48, per_column=True)
    start = unit(C + 0.1 * rng.standard_normal(C.shape) / math.sqrt(32))[0]
    found = polish(target, real._rounds(target, start, budget, 12), budget, max_iter=5, tol=0.0)
    assert min(found.history) ** 2 < 5e-3


def test_more_starts_are_no_worse_after_their_trial_and_all_atoms_have_length_one() -> None:
    target, budget = Target(draw(8, 400, decay=1.0)), Budget(0.2)
    for rank in (6, 12):
        found = fitted(target, rank, budget, tries=3)
        np.testing.assert_allclose(np.linalg.norm(found.C, axis=0), 1)
        assert lost(target, found.C, found.Z) < 1


@pytest.mark.parametrize("rank", [6, 10])
def test_unused_atoms_come_back(rank: int) -> None:
    """Two atoms at right angles to all of W: no column can use them, and columns that fit badly take their places."""
    W = draw(6, 300)
    W[4:] = 0
    C = unit(draw(6, rank, 5))[0]
    C[4:] = 0
    C[:, :2] = np.eye(6)[:, 4:]
    target, budget = Target(W), Budget(0.3)
    Z = np.zeros((300, rank))
    budget.code(*target.products(C), Z, budget.first_price(*target.products(C)))
    assert not Z[:, :2].any()
    back = real._revived(target, target.moments(Z).dictionary(), C, Z)
    rest = W - target.moments(Z).dictionary() @ Z.T
    worst = np.argsort(-np.sum(rest**2, axis=0))[:2]
    np.testing.assert_allclose(back[:, :2], rest[:, worst])
    found = real._rounds(target, C, budget, 20)
    assert np.count_nonzero(found.Z, axis=0).min() > 0


# Integers.


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("bits", [(4, 2), (1, 1), (6, 3)])
@pytest.mark.parametrize("budget", [Budget(0.3), Budget(0.26, per_column=True), Budget(1.0), Budget(0.3, rated=True)])
def test_integers_are_what_they_say(dtype: Any, weighted: bool, bits: tuple[int, int], budget: Budget) -> None:
    target = Target(draw(8, 300, decay=0.5, dtype=dtype), metric(8).astype(dtype) if weighted else None)
    for rank in (5, 11):
        ended = rounded(target, fitted(target, rank, budget, rounds=8), budget, bits)
        codes = ended.best
        allowed = np.arange(1, 2 ** (bits[0] - 1) + 1) - 0.5
        assert np.isin(np.abs(codes.C), allowed).all()
        assert np.abs(codes.Z).max() <= 2 ** (bits[1] - 1)
        assert codes.Z.dtype == np.int32
        assert (codes.scale > 0).all()
        Z = codes.values(np.float64)
        np.testing.assert_array_equal(np.abs(Z), np.where(codes.Z != 0, np.abs(codes.Z) + codes.shift, 0))
        np.testing.assert_array_equal(codes.atoms, codes.C * codes.scale)
        if budget.everything:
            assert codes.shift == -0.5
            assert (codes.Z != 0).all()
        assert np.count_nonzero(codes.Z) <= budget.count(codes.Z.shape)
        if budget.per_column:
            assert np.count_nonzero(codes.Z, axis=1).max() <= math.floor(0.26 * rank)
        assert min(ended.history) == pytest.approx(
            lost(target, codes.atoms, Z), rel=1e-4 if dtype == np.float32 else 1e-9
        )
        assert min(ended.history) < 1


def test_fitted_scales_are_near_the_best_of_a_dense_scan() -> None:
    rng = np.random.default_rng(0)
    x = np.column_stack([rng.standard_normal(400), rng.laplace(size=400), np.zeros(400), np.full(400, 3.5)])
    for alphabet in (Alphabet(8, -0.5, zero=False), Alphabet(2), Alphabet(2, 0.25), Alphabet(1)):
        scale = grids.fitted_scales(x, alphabet)
        assert (scale > 0).all()
        assert scale[2] == 1

        def error(s: Any, alphabet: Alphabet = alphabet) -> Any:
            return np.sum((x - s * np.where(x != 0, alphabet.nearest(x / s), 0)) ** 2, axis=0)

        best = np.min([error(s) for s in np.geomspace(0.02, 8, 1500)], axis=0)
        np.testing.assert_array_less(error(scale), 1.05 * best + 1e-9)


@settings(max_examples=40)
@given(
    st.integers(0, 2**31), st.sampled_from([2, 5, 9]), st.sampled_from([Alphabet(2, 0.25), Alphabet(1), Alphabet(4)])
)
def test_no_move_raises_the_objective(seed: int, r: int, of_z: Alphabet) -> None:
    """At a price and on grids: codes, then scales, then atoms; twice around."""
    rng = np.random.default_rng(seed)
    target, budget, price = Target(draw(5, 60, seed, decay=0.5)), Budget(0.3), 0.1
    of_c = Alphabet(4, -0.5, zero=False)
    C = of_c.nearest(rng.standard_normal((5, r)) * 3)
    scale = np.full(r, 0.3)
    Z = np.where(rng.random((60, r)) < 0.4, of_z.nearest(rng.standard_normal((60, r)) * 2), 0)

    def objective() -> float:
        return lost(target, C * scale, Z) ** 2 * target.energy + price * np.count_nonzero(Z)

    before = objective()
    for turn in range(2):
        budget.code(*target.products(C * scale), Z, price, of_z, restart=turn == 1)
        after_codes = objective()
        scale = grids._scales(target, C, scale, target.moments(Z))
        after_scales = objective()
        C = grids.rounded_atoms(target.moments(Z), C, scale, of_c)
        after_atoms = objective()
        slack = 1e-7 * target.energy  # of damping where codes depend on each other
        assert after_codes <= before + slack
        assert after_scales <= after_codes + slack
        assert after_atoms <= after_scales + slack
        assert np.isin(np.abs(C), np.arange(1, 5) - 0.5).all()
        before = after_atoms


def test_scales_are_least_squares_in_the_metric() -> None:
    W, L = draw(6, 200), metric(6)
    C, Z = np.round(3 * draw(6, 6, 1)[:, :4]) + 0.5, np.round(sparse(200, 4) * 2)
    Z[:, 1] = 0
    target = Target(W, L)
    found = grids._scales(target, C, np.array([1.0, 7.0, 1.0, 1.0]), target.moments(Z))
    design = np.stack([(L.T @ np.outer(C[:, j], Z[:, j])).ravel() for j in (0, 2, 3)], axis=1)
    np.testing.assert_allclose(found[[0, 2, 3]], np.linalg.lstsq(design, (L.T @ W).ravel(), rcond=None)[0], rtol=1e-9)
    assert found[1] == 7


def test_negative_scales_turn_the_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Least squares may turn an atom about; what is stored is the same product with a positive scale."""
    target, budget = Target(draw(6, 200)), Budget(0.3)
    found, scales = fitted(target, 5, budget), grids._scales
    turn = np.array([1, -1, 1, -1, 1])
    monkeypatch.setattr(grids, "_scales", lambda *given: turn * scales(*given))
    ended = rounded(target, found, budget, max_iter=1)
    codes = ended.best
    assert (codes.scale > 0).all()
    assert ended.history[0] == pytest.approx(lost(target, codes.atoms, codes.values(float)), rel=1e-9)
    monkeypatch.undo()
    same = rounded(target, found, budget, max_iter=1).best
    if codes.shift == same.shift:
        np.testing.assert_array_equal(codes.Z, same.Z * turn)


@pytest.mark.parametrize("most", [1, 4])
def test_no_entry_of_rounded_atoms_can_do_better_alone(most: int) -> None:
    target, of_c = Target(draw(4, 80)), Alphabet(most, -0.5, zero=False)
    Z, scale = sparse(80, 3), np.array([0.3, 0.5, 1.0])
    C = grids.rounded_atoms(target.moments(Z), np.full((4, 3), 0.5), scale, of_c)
    best = lost(target, C * scale, Z)
    for i, j in np.ndindex(C.shape):
        for value in (*-(np.arange(most) + 0.5), *(np.arange(most) + 0.5)):
            moved = C.copy()
            moved[i, j] = value
            assert lost(target, moved * scale, Z) >= best - 1e-6


def test_more_rounds_are_no_worse_and_the_best_is_kept() -> None:
    target, budget = Target(draw(8, 400, decay=0.5)), Budget(0.3)
    found = fitted(target, 10, budget)
    short, long = rounded(target, found, budget, max_iter=3), rounded(target, found, budget, max_iter=12)
    assert short.history == long.history[:3]
    assert min(long.history) == pytest.approx(lost(target, long.best.atoms, long.best.values(float)), rel=1e-9)
    told: list[float] = []
    rounded(target, found, budget, max_iter=3, callback=lambda progress: told.append(progress.objective))
    assert tuple(told) == short.history


# Symmetries.


@pytest.mark.parametrize("rank", [5, 11])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("exponent", [-30, 7])
def test_powers_of_two_pass_through(rank: int, weighted: bool, exponent: int) -> None:
    W, budget, factor = draw(8, 300, decay=0.5), Budget(0.3, rated=True), 2.0**exponent
    L = metric(8) if weighted else None
    a, b = (fitted(Target(x, L), rank, budget, tries=2) for x in (W, W * factor))
    np.testing.assert_array_equal(a.C, b.C)
    np.testing.assert_array_equal(a.Z * factor, b.Z)
    q, p = rounded(Target(W, L), a, budget), rounded(Target(W * factor, L), b, budget)
    np.testing.assert_array_equal(q.best.Z, p.best.Z)
    np.testing.assert_array_equal(q.best.C, p.best.C)
    np.testing.assert_array_equal(q.best.scale * factor, p.best.scale)
    assert q.history == p.history


def test_permuted_columns_permute_the_codes() -> None:
    """Up to the rounding of sums in another order, after which whole codes may fall on the other side of a price."""
    W, budget = draw(8, 300, decay=1.0), Budget(0.4)
    order = np.random.default_rng(1).permutation(300)
    shuffled = np.ascontiguousarray(W[:, order])
    a, b = fitted(Target(W), 6, budget, rounds=3), fitted(Target(shuffled), 6, budget, rounds=3)
    sign = np.sign(np.sum(a.C * b.C, axis=0))
    np.testing.assert_allclose(b.C * sign, a.C, atol=1e-6)
    np.testing.assert_allclose(b.Z * sign, a.Z[order], atol=1e-6)
    same = replace(a, Z=np.ascontiguousarray(a.Z[order]))
    q = rounded(Target(W), a, budget, max_iter=3).best
    p = rounded(Target(shuffled), same, budget, max_iter=3).best
    np.testing.assert_array_equal(p.Z, q.Z[order])
    np.testing.assert_array_equal(p.C, q.C)


@pytest.mark.parametrize("budget", [Budget(0.3), Budget(0.4, per_column=True), Budget(1.0)])
def test_a_multiple_of_the_identity_is_no_metric(budget: Budget) -> None:
    W = draw(8, 300, decay=0.5)
    plain, scaled = Target(W), Target(W, 2 * np.eye(8))
    found = fitted(plain, 6, budget)
    same = replace(found, price=4 * found.price)
    q, p = rounded(plain, found, budget), rounded(scaled, same, budget)
    np.testing.assert_array_equal(q.best.Z, p.best.Z)
    np.testing.assert_array_equal(q.best.atoms, p.best.atoms)
    assert q.history == p.history
    learned = fitted(scaled, 6, budget)
    np.testing.assert_allclose(learned.C, found.C, atol=1e-12)
    assert learned.price == pytest.approx(4 * found.price)
    assert lost(plain, learned.C, learned.Z) == pytest.approx(lost(plain, found.C, found.Z), rel=0.04)


def test_a_metric_lowers_the_error_it_measures() -> None:
    W, L = draw(8, 500), np.diag([10.0, 5, 2, 1, 1, 0.5, 0.2, 0.1])
    budget, weighted = Budget(0.3), Target(W, L)
    with_metric = rounded(weighted, fitted(weighted, 8, budget), budget)
    without = rounded(Target(W), fitted(Target(W), 8, budget), budget).best
    assert min(with_metric.history) < 0.9 * lost(weighted, without.atoms, without.values(float))


def test_equal_calls_give_equal_bits() -> None:
    target, budget = Target(draw(8, 300, dtype=np.float32)), Budget(0.3, rated=True)
    a, b = (fitted(target, 12, budget, tries=3) for _ in range(2))
    np.testing.assert_array_equal(a.C, b.C)
    np.testing.assert_array_equal(a.Z, b.Z)
    p, q = rounded(target, a, budget).best, rounded(target, b, budget).best
    np.testing.assert_array_equal(p.Z, q.Z)
    np.testing.assert_array_equal(p.scale, q.scale)


# Ends of the range.

EDGES = {
    "zero": np.zeros((4, 50)),
    "one column": draw(5, 1),
    "one row": draw(1, 80),
    "one entry": np.full((1, 1), -2.5),
    "rank one": np.outer(draw(6, 1), draw(1, 70, 1)),
    "repeated column": np.repeat(draw(6, 1), 40, axis=1),
    "constant": np.full((6, 40), 0.1),
    "zero rows": np.vstack([draw(3, 40), np.zeros((3, 40))]),
    "wide range": draw(5, 60) * np.geomspace(1e-9, 1e9, 60),
    "tall": draw(40, 6),
}


@pytest.mark.parametrize("name", EDGES)
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(
    "budget",
    [Budget(0.3), Budget(0.5, per_column=True), Budget(1.0), Budget(0.01), Budget(0.0), Budget(0.6, rated=True)],
)
def test_edges(name: str, dtype: Any, budget: Budget) -> None:
    W = np.ascontiguousarray(EDGES[name].astype(dtype))
    target = Target(W)
    for rank in (1, 3, 9):
        found = fitted(target, rank, budget, rounds=6, tries=2)
        assert np.isfinite(found.C).all()
        assert np.isfinite(found.Z).all()
        C, Z = polish(target, found, budget, max_iter=2, tol=0.0).best
        assert lost(target, C, Z) <= 1 + 1e-5
        codes = rounded(target, found, budget, max_iter=3).best
        assert np.count_nonzero(codes.Z) <= budget.count(codes.Z.shape)
        assert np.isfinite(codes.scale).all()
        assert (codes.scale > 0).all()
        if not budget.everything:  # without zeros among the codes, what is forced on a column can be worse than nothing
            assert lost(target, codes.atoms, codes.values(float)) <= 1 + 1e-5


def test_a_metric_that_sees_only_one_direction_does_no_harm() -> None:
    L = np.zeros((6, 6))
    L[:, 0] = 1
    target, budget = Target(draw(6, 100), L), Budget(0.3)
    found = fitted(target, 4, budget)
    assert np.isfinite(found.C).all()
    assert min(polish(target, found, budget, max_iter=3, tol=0.0).history) < 0.2
    assert np.isfinite(rounded(target, found, budget).history).all()


@pytest.mark.parametrize("budget", [Budget(0.3), Budget(0.3, per_column=True), Budget(1.0)])
@pytest.mark.parametrize("weighted", [False, True])
def test_atoms_learned_on_a_sample_code_all_columns(
    monkeypatch: pytest.MonkeyPatch, budget: Budget, weighted: bool
) -> None:
    monkeypatch.setattr(real, "SAMPLE", 400)
    target = Target(draw(6, 1500, decay=1.0), metric(6) if weighted else None)
    assert real.sampled(target, 4, np.random.default_rng(0)).W.shape == (6, 400)
    assert real.sampled(target, 30, np.random.default_rng(0)) is target  # at least 64 columns for each atom
    found = fitted(target, 6, budget)
    codes = rounded(target, found, budget).best
    assert found.Z.shape == codes.Z.shape == (1500, 6)
    assert np.count_nonzero(codes.Z) <= budget.count(codes.Z.shape)
    monkeypatch.undo()
    whole = rounded(target, fitted(target, 6, budget), budget).best
    sampled_error = lost(target, codes.atoms, codes.values(float))
    assert sampled_error < (1.2 if budget.everything else 1.1) * lost(target, whole.atoms, whole.values(float))
