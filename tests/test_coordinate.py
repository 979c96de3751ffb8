"""Coordinate moves on a grid: twins, blocks, exact moves, brute force on tiny cases, sampling at a temperature."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factorq.errors import ArgumentError
from factorq.kernels import coordinate
from factorq.kernels.coordinate import BLOCK, Levels, descend, numba_twin, reference, sample

FLOATS = [np.float32, np.float64]
LEVELS = [Levels(0.5), Levels(1.0), Levels(1.5), Levels(3.0), Levels(7.5), Levels(127.0), Levels(2.0**15 - 0.5)]


@dataclass
class Case:
    """The arguments of ``descend``, and the problem as the docstring writes it."""

    G: Any
    M: Any
    Z: Any
    noise: Any
    levels: Levels

    def descended(self, passes: int = 3) -> Any:
        Z = self.Z.copy()
        descend(self.G, self.M, Z, self.levels, passes)
        return Z

    def sampled(self, spread: float = 1.0) -> Any:
        Z = self.Z.copy()
        sample(self.G, self.M, Z, self.noise * self.Z.dtype.type(spread), self.levels)
        return Z

    def objectives(self, Z: Any) -> Any:
        """Of every row, in float64."""
        G, M, Z = (x.astype(np.float64) for x in (self.G, self.M, Z))
        return np.einsum("ij,jk,ik->i", Z, G, Z) - 2 * np.einsum("ij,ij->i", M, Z)

    @property
    def slack(self) -> float:
        """Rounding of objectives and of g, in the dtype."""
        size = np.abs(self.G).max(initial=0.0) * float(np.abs(self.Z).max(initial=0.0) + self.levels.most) ** 2
        size += np.abs(self.M).max(initial=0.0) * self.levels.most
        return float(8 * (1 + self.G.shape[0]) ** 2 * size * np.finfo(self.Z.dtype).eps)


def members(levels: Levels) -> Any:
    return np.arange(-levels.most, levels.most + 0.5)


def case(
    seed: int, n: int, r: int, levels: Levels, dtype: Any = np.float64, *, whole: bool = False, dead: bool = True
) -> Case:
    """A Gram matrix with some coordinates of norm 0; ``whole`` numbers make products exact and ties common."""
    rng = np.random.default_rng(seed)
    C = rng.standard_normal((r + 3, r)) * rng.choice([0.5, 1.0, 2.0], r)
    top = min(levels.most, 20.0)
    X = rng.uniform(-1.5 * top, 1.5 * top, (n, r))
    if whole:
        C, X = np.rint(2 * C), np.rint(X)
    if dead:
        C[:, rng.random(r) < 0.1] = 0
    G, M = C.T @ C, X @ (C.T @ C)
    if whole:
        M += rng.integers(-3, 4, M.shape)
    else:
        M += rng.standard_normal(M.shape)
    Z = levels.nearest(rng.uniform(-top - 1, top + 1, (n, r)))
    noise = rng.standard_normal((n, r)) * top
    G, M, Z, noise = (np.ascontiguousarray(x, dtype) for x in (G, M, Z, noise))
    return Case(G, M, Z, noise, levels)


shapes = st.tuples(st.integers(0, 2**31), st.integers(1, 40), st.integers(1, 20))
any_levels, any_float = st.sampled_from(LEVELS), st.sampled_from(FLOATS)


def both(found: Case, monkeypatch: pytest.MonkeyPatch, run: Callable[[Case], Any]) -> tuple[Any, Any]:
    """The result through the Numba twin and through the reference."""
    compiled = run(found)
    with monkeypatch.context() as patch:
        patch.setattr(coordinate, "twin", lambda *_: reference)
        return compiled, run(found)


# Twins and blocks.


@settings(max_examples=40)
@given(shapes, any_levels, any_float, st.booleans(), st.booleans())
def test_twins_agree_bit_for_bit(
    shape: tuple[int, int, int], levels: Levels, dtype: Any, noisy: bool, whole: bool
) -> None:
    """In what moves, Z, and in what tells the next coordinate, g."""
    found = case(*shape, levels, dtype, whole=whole)
    noise = found.noise if noisy else None
    results = []
    for twin in (reference, numba_twin):
        Z, g = found.Z.copy(), found.M - found.Z @ found.G
        twin.sweep(found.G, noise, levels.most, levels.shift, g, Z)
        results.append((Z, g))
    (Z, g), (other_Z, other_g) = results
    np.testing.assert_array_equal(Z.view(np.uint8), other_Z.view(np.uint8))
    np.testing.assert_array_equal(g, other_g)  # 0 and -0 are the same here: one twin subtracts zeros


RANKS = [1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 44]


@pytest.mark.parametrize("noisy", [False, True])
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("r", RANKS)
def test_twins_agree_at_the_door(r: int, dtype: Any, noisy: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed, levels in enumerate((Levels(7.0), Levels(1.5))):
        found = case(seed, 37, r, levels, dtype)
        run = Case.sampled if noisy else Case.descended
        compiled, plain = both(found, monkeypatch, run)
        np.testing.assert_array_equal(compiled.view(np.uint8), plain.view(np.uint8))
        assert not np.array_equal(compiled, found.Z)


@pytest.mark.parametrize("block", [1, 5, 64, 10_000])
@pytest.mark.parametrize("r", [7, BLOCK + 1])
def test_blocks_change_nothing(r: int, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Products of whole numbers are exact: then the moves are the same ones, however many come between products."""
    for seed, levels in enumerate(LEVELS[:5]):  # halves of whole numbers are exact too
        found = case(seed, 19, r, levels, whole=True)
        want = found.descended(), found.sampled()
        with monkeypatch.context() as patch:
            patch.setattr(coordinate, "BLOCK", block)
            np.testing.assert_array_equal(found.descended(), want[0])
            np.testing.assert_array_equal(found.sampled(), want[1])


def test_one_pass_is_coordinate_after_coordinate() -> None:
    """The contract, written as a loop over rows and coordinates with g computed anew at each."""
    levels = Levels(3.0)
    found = case(3, 11, BLOCK + 9, levels, dead=False)
    for noise in (np.zeros_like(found.noise), found.noise):
        Z = found.Z.copy()
        for z, m, e in zip(Z, found.M, noise, strict=True):
            for j in range(z.size):
                t = z[j] + (m - found.G @ z)[j] / found.G[j, j] + e[j] / np.sqrt(found.G[j, j])
                z[j] = levels.nearest(np.array([t]))[0]
        got = found.Z.copy()
        sample(found.G, found.M, got, noise, levels)
        assert np.mean(got != Z) < 1e-3  # what rounding of g decides differently is rare


# Exact moves.


@settings(max_examples=40)
@given(shapes, any_levels, any_float, st.booleans(), st.integers(1, 5))
def test_the_objective_never_rises_and_entries_stay_on_the_grid(
    shape: tuple[int, int, int], levels: Levels, dtype: Any, whole: bool, passes: int
) -> None:
    found = case(*shape, levels, dtype, whole=whole)
    Z, before = found.descended(passes), found.objectives(found.Z)
    assert np.all(found.objectives(Z) <= before + found.slack)
    np.testing.assert_array_equal(levels.nearest(Z), Z)
    assert np.abs(Z).max() <= levels.most
    assert Z.dtype == dtype


@settings(max_examples=40)
@given(shapes, st.sampled_from(LEVELS[:5]), any_float)
def test_more_passes_never_raise_it_and_where_nothing_moves_it_ends(
    shape: tuple[int, int, int], levels: Levels, dtype: Any
) -> None:
    found = case(*shape, levels, dtype)
    errors = [found.objectives(found.descended(passes)) for passes in (0, 1, 2, 4, 200, 400)]
    for more, fewer in itertools.pairwise(errors[::-1]):
        assert np.all(more <= fewer + found.slack)
    np.testing.assert_array_equal(found.descended(0), found.Z)
    np.testing.assert_array_equal(found.descended(200), found.descended(400))


@settings(max_examples=40)
@given(st.tuples(st.integers(0, 2**31), st.just(5), st.integers(1, 8)), st.sampled_from(LEVELS[:5]), any_float)
def test_every_entry_is_the_best_given_the_others(shape: tuple[int, int, int], levels: Levels, dtype: Any) -> None:
    """Not only no step of 1, no other level at all lowers the objective of a row."""
    found = case(*shape, levels, dtype)
    Z = found.descended(200)
    now = found.objectives(Z)
    for j, value in itertools.product(np.flatnonzero(found.G.diagonal() > 0), members(levels)):
        moved = Z.copy()
        moved[:, j] = value
        assert np.all(found.objectives(moved) >= now - found.slack)


@pytest.mark.parametrize("dtype", FLOATS)
def test_coordinates_without_weight_do_not_move(dtype: Any) -> None:
    levels = Levels(7.0)
    found = case(0, 30, 2 * BLOCK, levels, dtype, dead=False)
    still = np.arange(2 * BLOCK) % 3 == 0
    found.G[still], found.G[:, still] = 0, 0  # their m is not 0, as rounding leaves it
    for Z in (found.descended(), found.sampled()):
        np.testing.assert_array_equal(Z[:, still], found.Z[:, still])
        assert np.mean(Z[:, ~still] != found.Z[:, ~still]) > 0.5


@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_a_diagonal_metric_rounds(levels: Levels, dtype: Any) -> None:
    rng = np.random.default_rng(0)
    d = rng.choice([0.25, 1.0, 4.0, 16.0], 9)
    X = (rng.uniform(-1.2, 1.2, (50, 9)) * levels.most).astype(dtype)
    Z = np.full((50, 9), levels.most, dtype)
    descend(np.diag(d).astype(dtype), X * d.astype(dtype), Z, levels, 1)
    lost = np.abs(Z - X)
    best = np.abs(levels.nearest(X) - X)
    np.testing.assert_allclose(lost, best, atol=4 * np.finfo(dtype).eps * levels.most)  # X is off by g's rounding


@settings(max_examples=40)
@given(st.integers(0, 2**31), st.integers(1, 3), st.sampled_from([Levels(1.0), Levels(1.5), Levels(0.5)]))
def test_from_all_starts_the_best_is_that_of_brute_force(seed: int, r: int, levels: Levels) -> None:
    """No start ends below the best of all codes, the best one stays where it is, and every end is a local minimum."""
    found = case(seed, 1, r, levels, dead=False)
    everything = np.array(list(itertools.product(members(levels), repeat=r)))
    values = Case(found.G, np.repeat(found.M, len(everything), axis=0), everything, None, levels).objectives(everything)
    Z = everything.copy()
    descend(found.G, np.repeat(found.M, len(Z), axis=0), Z, levels, 50)
    ends = np.einsum("ij,jk,ik->i", Z, found.G, Z) - 2 * Z @ found.M[0]
    assert ends.min() == pytest.approx(values.min(), abs=found.slack)
    assert np.all(ends <= values + found.slack)
    best = int(values.argmin())
    if np.sum(values < values[best] + found.slack) == 1:
        np.testing.assert_array_equal(Z[best], everything[best])


@pytest.mark.parametrize("levels", [Levels(1.0), Levels(1.5)])
def test_a_few_random_starts_find_what_brute_force_finds(levels: Levels) -> None:
    """Three coordinates, 2 bits: of 12 random starts the best is the best of all codes in nearly every problem."""
    rng = np.random.default_rng(1)
    everything = np.array(list(itertools.product(members(levels), repeat=3)))
    hits = 0
    for seed in range(100):
        found = case(seed, 1, 3, levels, dead=False)
        values = np.einsum("ij,jk,ik->i", everything, found.G, everything) - 2 * everything @ found.M[0]
        Z = levels.nearest(rng.uniform(-2, 2, (12, 3)))
        descend(found.G, np.repeat(found.M, 12, axis=0), Z, levels, 50)
        ends = np.einsum("ij,jk,ik->i", Z, found.G, Z) - 2 * Z @ found.M[0]
        assert ends.min() >= values.min() - found.slack
        hits += ends.min() <= values.min() + found.slack
    assert hits >= 95


# Sampling.


@settings(max_examples=40)
@given(shapes, any_levels, any_float, st.booleans())
def test_without_noise_a_sample_is_one_pass_of_descent(
    shape: tuple[int, int, int], levels: Levels, dtype: Any, whole: bool
) -> None:
    found = case(*shape, levels, dtype, whole=whole)
    np.testing.assert_array_equal(found.sampled(0.0), found.descended(1))


def test_without_noise_a_sample_of_several_blocks_is_one_pass_of_descent() -> None:
    found = case(5, 23, 2 * BLOCK + 3, Levels(7.5), whole=True)
    np.testing.assert_array_equal(found.sampled(0.0), found.descended(1))
    assert not np.array_equal(found.sampled(1.0), found.descended(1))


def test_samples_have_the_mean_and_the_covariance_of_their_temperature() -> None:
    """Where the grid is fine, exp(-(z^T G z - 2 m^T z) / T) is normal: mean G^-1 m, covariance T / 2 G^-1."""
    rng = np.random.default_rng(0)
    n, r, temperature, levels = 8000, 4, 600.0, Levels(1000.0)
    C = rng.standard_normal((6, r))
    G, mean = C.T @ C, rng.uniform(-20, 20, r)
    Z = np.zeros((n, r))
    for _ in range(60):
        sample(G, np.tile(G @ mean, (n, 1)), Z, rng.standard_normal((n, r)) * np.sqrt(temperature / 2), levels)
    want = temperature / 2 * np.linalg.inv(G)
    deviation = np.sqrt(want.diagonal())
    assert deviation.min() > 3  # the grid is fine
    np.testing.assert_allclose((Z.mean(axis=0) - mean) / deviation, 0, atol=0.05)
    correlations = np.cov(Z.T) / np.outer(deviation, deviation)
    np.testing.assert_allclose(correlations, want / np.outer(deviation, deviation), atol=0.06)


def test_cooled_samples_leave_minima_that_descent_does_not() -> None:
    """Of 400 rows in a local minimum, none leaves it by descent, and most end in the best of all after 40 samples."""
    levels = Levels(1.5)
    rng = np.random.default_rng(2)
    everything = np.array(list(itertools.product(members(levels), repeat=4)))
    C = rng.standard_normal((6, 4))
    G, m = C.T @ C, C.T @ (C @ np.array([0.4, -1.1, 0.9, 0.2]))
    values = np.einsum("ij,jk,ik->i", everything, G, everything) - 2 * everything @ m
    ends = everything.copy()
    descend(G, np.tile(m, (len(ends), 1)), ends, levels, 50)
    at_end = np.einsum("ij,jk,ik->i", ends, G, ends) - 2 * ends @ m
    trapped = ends[at_end.argmax()]
    assert at_end.max() > values.min() + 0.1
    M, Z = np.tile(m, (400, 1)), np.tile(trapped, (400, 1))
    descend(G, M, Z, levels, 50)
    np.testing.assert_array_equal(Z, np.tile(trapped, (400, 1)))
    for k in range(40):
        spread = np.sqrt(4.0 * (1 - k / 40) / 2)
        sample(G, M, Z, spread * rng.standard_normal(Z.shape), levels)
    descend(G, M, Z, levels, 50)
    found = np.einsum("ij,jk,ik->i", Z, G, Z) - 2 * Z @ m
    assert np.mean(found <= values.min() + 1e-9) > 0.7


# Levels.


@pytest.mark.parametrize("levels", LEVELS[:6])
def test_nearest_is_brute_force(levels: Levels) -> None:
    x = np.random.default_rng(0).standard_normal(400) * levels.most
    x = np.concatenate([x, [0.0, -0.0, 1e9, -1e9, np.inf, -np.inf]])
    found = levels.nearest(x)
    assert np.isin(found, members(levels)).all()
    finite = np.isfinite(x)
    best = np.abs(x[finite, None] - members(levels)).min(axis=1)
    np.testing.assert_allclose(np.abs(found - x)[finite], best, atol=1e-12)
    np.testing.assert_array_equal(found[-2:], [levels.most, -levels.most])
    np.testing.assert_array_equal(levels.nearest(found), found)
    np.testing.assert_array_equal(levels.nearest(members(levels)), members(levels))
    assert levels.nearest(np.zeros(2, np.float32)).dtype == np.float32


def test_ties_go_to_even_integers_and_to_halves_above_even_ones() -> None:
    x = np.array([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5])
    np.testing.assert_array_equal(Levels(7.0).nearest(x), [-2, -2, 0, 0, 2, 2])
    np.testing.assert_array_equal(Levels(7.5).nearest(x - 0.5), [-3.5, -1.5, -1.5, 0.5, 0.5, 2.5])
    assert [Levels(most).shift for most in (0.5, 1.0, 7.5, 127.0)] == [0.5, 0.0, 0.5, 0.0]


# What is refused, and what stays.


def good(n: int = 3, r: int = 2) -> dict[str, Any]:
    return {"G": np.eye(r), "M": np.ones((n, r)), "Z": np.zeros((n, r)), "noise": np.zeros((n, r))}


BAD = {
    "G": [np.eye(3), np.eye(2, dtype=np.float32), np.ones(2), np.ones((2, 3)), np.ones((1, 2, 2))],
    "M": [np.ones((2, 2)), np.ones((3, 2), np.float32), np.ones((2, 3)).T[:2], np.ones(3), np.ones((3, 2), np.int64)],
    "Z": [
        np.zeros((3, 2), np.int64), np.zeros((3, 2), np.float16), np.zeros(3), np.zeros((3, 2, 1)), np.zeros((2, 3)).T,
        np.zeros((3, 4))[:, ::2], np.zeros((3, 2), np.complex128),
    ],
    "noise": [np.zeros((2, 2)), np.zeros((3, 2), np.float32), np.zeros((3, 1)), np.zeros(2), np.zeros(())],
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_wrong_arguments_are_refused_by_name(name: str) -> None:
    def call(G: Any, M: Any, Z: Any, noise: Any) -> None:
        if name != "noise":
            descend(G, M, Z, Levels(3.0))
        sample(G, M, Z, noise, Levels(3.0))

    call(**good())
    for bad in BAD[name]:
        with pytest.raises(ArgumentError, match=rf"^{name}: found .*allowed is"):
            call(**good() | {name: bad})


def test_empty_shapes_and_other_arguments_stay_as_they_are() -> None:
    for n, r in ((0, 2), (3, 0)):
        arrays = good(n, r)
        descend(arrays["G"], arrays["M"], arrays["Z"], Levels(3.0))
        sample(*arrays.values(), Levels(3.0))
        assert arrays["Z"].shape == (n, r)
    arrays = good()
    before = {name: x.copy() for name, x in arrays.items()}
    for name, x in arrays.items():
        x.flags.writeable = name == "Z"
    descend(arrays["G"], arrays["M"], arrays["Z"], Levels(3.0))
    sample(*arrays.values(), Levels(3.0))
    for name in before.keys() - {"Z"}:
        np.testing.assert_array_equal(arrays[name], before[name])
    np.testing.assert_array_equal(arrays["Z"], 1)


def test_gram_and_products_need_not_be_contiguous() -> None:
    found = case(1, 9, 12, Levels(7.0), dead=False)
    Z = found.Z.copy()
    descend(np.asfortranarray(found.G), np.asfortranarray(found.M), Z, found.levels)
    np.testing.assert_array_equal(Z, found.descended())
