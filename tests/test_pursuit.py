"""Sparse codes by pursuit: twins, optimality by brute force on tiny cases, exact projections, counts and refusals."""

from __future__ import annotations

import itertools
import subprocess
import sys
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factorq.errors import ArgumentError
from factorq.kernels.pursuit import REAL, Alphabet, pursue, reference

FLOATS = [np.float32, np.float64]
SPARSE = [REAL, Alphabet(1), Alphabet(2), Alphabet(2, 0.25), Alphabet(8, 0.5), Alphabet(1 << 15)]
DENSE = [Alphabet(1, -0.5, zero=False), Alphabet(4, -0.5, zero=False)]
ALPHABETS = SPARSE + DENSE


@dataclass
class Case:
    """The arguments of ``pursue``, Z last, and the problem as the docstring writes it."""

    G: Any
    B: Any
    price: Any
    cost: Any
    count: Any
    least: Any
    alphabet: Alphabet
    Z: Any

    def run(self, *, restart: bool = False) -> Any:
        Z = self.Z.copy()
        pursue(self.G, self.B, Z, self.price, self.cost, self.count, self.least, self.alphabet, restart=restart)
        return Z

    def plain(self, *, restart: bool = False) -> Any:
        Z, a = self.Z.copy(), self.alphabet
        fixed = float(a.most), float(a.shift), a.zero, restart, 64 + 8 * Z.shape[1]
        reference.pursue(self.G, self.B, self.price, self.cost, self.count, self.least, *fixed, Z)
        return Z

    def objective(self, i: int, z: Any) -> float:
        z = np.asarray(z, np.float64)
        return float(z @ self.G @ z - 2 * self.B[i].astype(float) @ z + self.price[i] * (self.cost @ (z != 0)))

    def objectives(self, Z: Any) -> Any:
        return np.array([self.objective(i, z) for i, z in enumerate(Z)])

    @property
    def slack(self) -> Any:
        """Rounding of objectives: of the codes to their dtype, and of sums."""
        b = np.abs(self.B).max(initial=0).astype(float)
        size = max(1.0, b, float(np.abs(self.Z).max(initial=0))) ** 2 * max(1.0, float(np.abs(self.G).max(initial=0)))
        return 200 * self.G.shape[0] ** 2 * size * float(np.finfo(self.B.dtype).eps)


def members(alphabet: Alphabet) -> Any:
    t = np.arange(1, alphabet.most + 1) + alphabet.shift
    return np.concatenate([-t[::-1], [0.0] if alphabet.zero else [], t])


def case(
    seed: int, n: int, r: int, alphabet: Alphabet, dtype: Any = np.float64, *, kept: float = 0.5, m: int | None = None
) -> Case:
    rng = np.random.default_rng(seed)
    C = rng.standard_normal((m or max(1, r), r)) * rng.choice([0.5, 1, 2], r)
    C[:, rng.random(r) < 0.1] = 0
    W = rng.standard_normal((len(C), n)) * 3
    W[:, rng.random(n) < 0.1] = 0
    top = 3 if alphabet.most == 0 else alphabet.most
    Z = alphabet.nearest(np.clip(rng.standard_normal((n, r)) * 2, -top - 1, top + 1))
    count = np.full(n, r, np.int64)
    if alphabet.zero:
        Z = np.where(rng.random((n, r)) < kept, Z, 0)
        count = np.minimum(np.count_nonzero(Z, axis=1) + rng.integers(0, 3, n), r).astype(np.int64)
    price = rng.choice([0.0, 0.3, 3.0], n)
    least = rng.choice([0.0, 1e-9, 0.05], n)
    G, B = C.T @ C, np.ascontiguousarray((W.T @ C).astype(dtype))
    return Case(G, B, price, rng.choice([0.25, 1.0, 2.0], r), count, least, alphabet, np.ascontiguousarray(Z, dtype))


shapes = st.tuples(st.integers(0, 2**31), st.integers(1, 6), st.integers(1, 12))


@settings(max_examples=150)
@given(shapes, st.sampled_from(ALPHABETS), st.sampled_from(FLOATS), st.booleans(), st.integers(1, 6))
def test_twins_agree_bit_for_bit(
    shape: tuple[int, int, int], alphabet: Alphabet, dtype: Any, restart: bool, m: int
) -> None:
    found = case(*shape, alphabet, dtype, m=m)
    restart = restart and alphabet.zero
    np.testing.assert_array_equal(
        found.run(restart=restart).view(np.uint8), found.plain(restart=restart).view(np.uint8)
    )


@settings(max_examples=150)
@given(shapes, st.sampled_from(ALPHABETS), st.sampled_from(FLOATS), st.booleans())
def test_the_objective_never_rises_and_codes_stay_allowed(
    shape: tuple[int, int, int], alphabet: Alphabet, dtype: Any, restart: bool
) -> None:
    found = case(*shape, alphabet, dtype)
    Z = found.run(restart=restart and alphabet.zero)
    assert np.all(found.objectives(Z) <= found.objectives(found.Z) + found.slack)
    assert np.all(np.count_nonzero(Z, axis=1) <= found.count)
    if alphabet.most:
        assert np.isin(Z, members(alphabet)).all()
    if alphabet.zero and restart:
        assert np.all(found.objectives(Z) <= found.objectives(found.run()) + found.slack)
    elif not restart:
        still = found.G.diagonal() == 0
        np.testing.assert_array_equal(Z[:, still], found.Z[:, still])


@settings(max_examples=100)
@given(shapes, st.sampled_from(SPARSE))
def test_rows_with_too_many_nonzeros_lose_them(shape: tuple[int, int, int], alphabet: Alphabet) -> None:
    """As in a solver whose budget falls from round to round: nothing else would ever drop them at price 0."""
    found = case(*shape, alphabet, kept=1.0)
    movable = found.G.diagonal() > 0
    found.Z[:, ~movable] = 0
    found.price[:] = 0
    for most in (2, 1, 0):
        found.count = np.full(len(found.Z), most, np.int64)
        Z = found.run()
        assert np.all(np.count_nonzero(Z, axis=1) <= most)
        np.testing.assert_array_equal(Z, found.plain())
    assert not Z.any()


tiny = st.tuples(st.integers(0, 2**31), st.just(3), st.integers(1, 4))
small = st.sampled_from([Alphabet(1), Alphabet(2, 0.25), Alphabet(2), *DENSE])


@settings(max_examples=60)
@given(tiny, small)
def test_no_single_move_gains_more_than_least(shape: tuple[int, int, int], alphabet: Alphabet) -> None:
    found = case(*shape, alphabet)
    for i, z in enumerate(found.run()):
        now = found.objective(i, z)
        for j, value in itertools.product(range(len(z)), members(alphabet)):
            moved = z.copy()
            moved[j] = value
            if found.G[j, j] > 0 and np.count_nonzero(moved) <= found.count[i]:
                assert found.objective(i, moved) >= now - found.least[i] - found.slack


@settings(max_examples=60)
@given(tiny)
def test_no_single_real_move_gains_more_than_least(shape: tuple[int, int, int]) -> None:
    """In as many calls as it takes: atoms that are nearly parallel take more steps than one call makes."""
    found = case(*shape, REAL, m=8)
    for _ in range(40):
        found.Z = found.run()
    for i, z in enumerate(found.Z):
        now = found.objective(i, z)
        for j in np.flatnonzero(found.G.diagonal() > 0):
            best = z[j] + (found.B[i] - found.G @ z)[j] / found.G[j, j]
            for value in (best, 0.0):
                moved = z.copy()
                moved[j] = value
                if np.count_nonzero(moved) <= found.count[i]:
                    assert found.objective(i, moved) >= now - found.least[i] - found.slack


def test_a_move_that_changes_nothing_is_no_move() -> None:
    """Differences of gains left 2e-16 for the value that is there, and the exchange of the last nonzero never came."""
    found = case(3098229, 3, 4, Alphabet(1), kept=0.4)
    assert found.objectives(found.run())[1] < -1.07


@settings(max_examples=60)
@given(tiny, st.sampled_from([Alphabet(1), Alphabet(2, 0.25), Alphabet(2)]))
def test_full_rows_gain_nothing_by_exchanging_what_they_miss_least(
    shape: tuple[int, int, int], alphabet: Alphabet
) -> None:
    found = case(*shape, alphabet, kept=0.4)
    for i, z in enumerate(found.run()):
        kept = [j for j in np.flatnonzero(z) if found.G[j, j] > 0]
        if np.count_nonzero(z) != found.count[i] or not kept:
            continue
        now = found.objective(i, z)
        without = [found.objective(i, np.where(np.arange(len(z)) == j, 0, z)) for j in kept]
        out = kept[int(np.argmin(without))]
        if np.sum(np.array(without) < min(without) + found.slack) > 1:
            continue  # as good as another: rounding decides which one goes
        for j, value in itertools.product(np.flatnonzero(z == 0), members(alphabet)):
            moved = z.copy()
            moved[out], moved[j] = 0, value
            assert found.objective(i, moved) >= now - found.least[i] - found.slack


def test_an_exchange_escapes_where_single_moves_cannot() -> None:
    """The first choice is the sum of two atoms; with one nonzero allowed, an earlier wrong one has to be exchanged."""
    G, B = np.array([[1.0, 0.9], [0.9, 1.0]]), np.array([[1.8, 2.0]])
    Z = np.array([[1.8, 0.0]])
    pursue(G, B, Z, np.zeros(1), np.ones(2), np.ones(1, np.int64), np.zeros(1))
    np.testing.assert_allclose(Z, [[0, 2]])


@pytest.mark.parametrize("alphabet", SPARSE)
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("r", [1, 5])
def test_orthogonal_atoms_give_the_exact_projection(alphabet: Alphabet, dtype: Any, r: int) -> None:
    """Each entry on its own: kept iff it gains more than its price, at the nearest value; of full rows the best."""
    rng = np.random.default_rng(r)
    d, n = rng.choice([0.25, 1.0, 4.0], r), 400
    price, cost = rng.choice([0.0, 0.5, 2.0], n), rng.choice([0.5, 1.0], r)
    X = rng.standard_normal((n, r)) * 3  # what the atoms would have without any limit
    found = Case(
        np.diag(d), (X * d).astype(dtype), price, cost, rng.integers(0, r + 1, n), np.zeros(n), alphabet,
        np.zeros((n, r), dtype),
    )  # fmt: skip
    X = found.B.astype(np.float64) / d
    value = alphabet.nearest(X)
    gain = d * (X * X - (X - value) ** 2) - price[:, None] * cost
    rank = np.argsort(np.argsort(-gain, axis=1), axis=1)
    want = np.where((gain > 0) & (rank < found.count[:, None]), value, 0)
    for restart in (False, True):
        np.testing.assert_allclose(found.run(restart=restart), want, rtol=4 * np.finfo(dtype).eps)
    if alphabet.most and alphabet.most <= 2 and r == 1:
        for i in range(n):
            allowed = members(alphabet) if found.count[i] else [0.0]
            best = min(found.objective(i, [v]) for v in allowed)
            assert found.objective(i, want[i]) == pytest.approx(best, abs=1e-12)


@pytest.mark.parametrize("alphabet", DENSE)
def test_orthogonal_atoms_without_zero_are_rounded(alphabet: Alphabet) -> None:
    X = np.random.default_rng(0).standard_normal((300, 4)) * 3
    d = np.array([0.25, 1, 4, 9])
    found = Case(
        np.diag(d), X * d, np.zeros(300), np.zeros(4), np.full(300, 4), np.zeros(300), alphabet, np.full((300, 4), 0.5)
    )
    values = members(alphabet)
    np.testing.assert_array_equal(found.run(), values[np.abs(X[..., None] - values).argmin(axis=-1)])


@pytest.mark.parametrize("alphabet", [Alphabet(1), Alphabet(2, 0.25)])
def test_restart_finds_the_best_of_all_where_atoms_are_nearly_orthogonal(alphabet: Alphabet) -> None:
    """Brute force over all codes of three atoms; the start is the worst of them."""
    rng = np.random.default_rng(3)
    C = np.linalg.qr(rng.standard_normal((8, 3)))[0] + 0.02 * rng.standard_normal((8, 3))
    W = rng.standard_normal((8, 60)) * 2
    everything = np.array(list(itertools.product(members(alphabet), repeat=3)))
    G, B = C.T @ C, W.T @ C
    values = np.einsum("kj,jl,kl->k", everything, G, everything)[None] - 2 * B @ everything.T
    values += 0.5 * np.count_nonzero(everything, axis=1)
    Z = everything[values.argmax(axis=1)]
    pursue(G, B, Z, np.full(60, 0.5), np.ones(3), np.full(60, 3), np.zeros(60), alphabet, restart=True)
    found = np.einsum("nj,jl,nl->n", Z, G, Z) - 2 * (B * Z).sum(axis=1) + 0.5 * np.count_nonzero(Z, axis=1)
    assert np.mean(found <= values.min(axis=1) + 1e-9) > 0.9  # one coordinate at a time is not exact, but nearly
    np.testing.assert_array_less(found, values.max(axis=1))


def test_nearest_is_brute_force() -> None:
    x = np.concatenate([np.random.default_rng(0).standard_normal(500) * 4, [0.0, -0.0, 1e9, -1e9, 0.5, -0.5]])
    for alphabet in [a for a in ALPHABETS if a.most < 100 and a.most]:
        values = members(replace(alphabet, zero=False))
        found = alphabet.nearest(x)
        assert np.isin(found, values).all()
        np.testing.assert_allclose(np.abs(found - x), np.abs(x[:, None] - values).min(axis=1))
        np.testing.assert_array_equal(alphabet.nearest(found), found)
    assert REAL.nearest(x) is x
    assert Alphabet(2).nearest(np.zeros(1, np.float32)).dtype == np.float32


def test_matching_pursuit_finds_planted_supports_of_incoherent_atoms() -> None:
    """Two atoms of 40 in 64 dimensions with coherence below 1/3: from zero, all supports and values."""
    rng = np.random.default_rng(1)
    C = np.linalg.qr(rng.standard_normal((64, 64)))[0][:, :40] + 0.02 * rng.standard_normal((64, 40))
    C /= np.linalg.norm(C, axis=0)
    assert np.abs(C.T @ C - np.eye(40)).max() < 1 / 3
    planted = np.zeros((200, 40))
    for z in planted:
        z[rng.choice(40, 2, replace=False)] = rng.choice([-1, 1], 2) * rng.uniform(0.5, 2, 2)
    Z = np.zeros_like(planted)
    W = C @ planted.T
    pursue(C.T @ C, W.T @ C, Z, np.zeros(200), np.ones(40), np.full(200, 2), np.zeros(200), REAL)
    np.testing.assert_allclose(Z, planted, atol=1e-6)


def good(n: int = 3, r: int = 2) -> dict[str, Any]:
    return {
        "G": np.eye(r), "B": np.ones((n, r)), "Z": np.zeros((n, r)), "price": np.zeros(n), "cost": np.ones(r),
        "count": np.full(n, r), "least": np.zeros(n),
    }  # fmt: skip


BAD = {
    "G": [np.eye(3), np.eye(2, dtype=np.float32), np.ones(2), np.eye(4)[::2, ::2]],
    "B": [np.ones((2, 2)), np.ones((3, 2), np.float32), np.ones((2, 3)).T, np.ones(3)],
    "Z": [np.zeros((3, 2), np.int64), np.zeros(3), np.zeros((3, 2, 1))],
    "price": [np.zeros(2), np.zeros(3, np.float32), np.zeros((3, 1)), np.zeros(6)[::2]],
    "cost": [np.ones(3), np.ones(2, np.int64)],
    "count": [np.ones(2, np.int64), np.ones(3, np.int32), np.ones(3)],
    "least": [np.zeros(2), np.zeros(3, np.float32)],
}


@pytest.mark.parametrize("name", BAD)
def test_wrong_arguments_are_refused_by_name(name: str) -> None:
    pursue(**good())
    for bad in BAD[name]:
        with pytest.raises(ArgumentError, match=rf"^{'[BZ]' if name == 'Z' else name}: "):
            pursue(**good() | {name: bad})


def test_codes_of_other_dtypes_or_orders_are_refused() -> None:
    for Z in (np.zeros((3, 2), np.float16), np.zeros((2, 3)).T, np.zeros((3, 4))[:, ::2]):
        with pytest.raises(ArgumentError, match=r"^Z: "):
            pursue(**good() | {"Z": Z, "B": np.ones((3, 2), Z.dtype)})
    with pytest.raises(ArgumentError, match=r"^restart: "):
        pursue(**good() | {"Z": np.full((3, 2), 0.5)}, alphabet=DENSE[0], restart=True)


def test_empty_shapes_and_other_arguments_stay_as_they_are() -> None:
    for n, r in ((0, 2), (3, 0)):
        given_ = good(n, r)
        pursue(**given_)
        assert given_["Z"].shape == (n, r)
    given_ = good()
    before = {name: x.copy() for name, x in given_.items()}
    for name, x in given_.items():
        x.flags.writeable = name == "Z"
    pursue(**given_)
    for name in before.keys() - {"Z"}:
        np.testing.assert_array_equal(given_[name], before[name])
    np.testing.assert_array_equal(given_["Z"], np.ones((3, 2)))


def test_the_door_does_not_load_numba() -> None:
    code = "import sys, factorq.kernels.pursuit; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
