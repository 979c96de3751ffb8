"""Boolean pruning: the codec, the moves of its solver, masks with a known answer, what it costs, targets of size."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise, product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import factorq as fq
from factorq.checkpoint.expression import parse
from factorq.codecs import Boolean, Dense
from factorq.codecs.base import decode_config
from factorq.codecs.boolean import boolean_product, factor_shapes
from factorq.constraints import Sparse
from factorq.errors import ArtifactError
from factorq.measure import binary_entropy
from factorq.solvers.boolean import factorise
from factorq.solvers.boolean.meet import fill, met
from factorq.solvers.boolean.moves import Noise, choose, covered, measured, sweep, words
from factorq.solvers.boolean.start import nonnegative, revive, thresholded, upper
from factorq.solvers.boolean.tiles import cut, joined

rng = np.random.default_rng


def bits(shape: tuple[int, ...], density: float, seed: int) -> np.ndarray:
    return rng(seed).random(shape) < density


def naive(left: np.ndarray, right: np.ndarray, tile: tuple[int, int]) -> np.ndarray:
    """The mask, entry by entry."""
    m, n = left.shape[1], right.shape[1]
    mask = np.zeros((m, n), bool)
    for i, j in product(range(m), range(n)):
        mask[i, j] = any(a and b for a, b in zip(left[j // tile[1], i], right[i // tile[0], j], strict=True))
    return mask


def coded(shape: tuple[int, ...], rank: int, tile: tuple[int, int], density: float = 0.4) -> Boolean:
    left, right = (bits(s, density, seed) for seed, s in enumerate(factor_shapes(shape, rank, tile)))
    count = int(boolean_product(left, right, tile).sum())
    return Boolean.encode(left, right, tile, shape, Dense.encode(rng(3).standard_normal(count).astype(np.float32)))


# The codec -----------------------------------------------------------------------------------------------------------

SHAPES = [((1, 1), 1, (1, 1)), ((5, 7), 2, (5, 7)), ((13, 9), 3, (4, 5)), ((1, 40), 9, (1, 7)), ((40, 1), 17, (6, 1)),
          ((8, 3, 2, 2), 5, (3, 5)), ((10, 11), 70, (4, 4)), ((6,), 2, (4, 1))]  # fmt: skip


@pytest.mark.parametrize(("shape", "rank", "tile"), SHAPES, ids=str)
def test_the_mask_is_the_boolean_product(shape: tuple[int, ...], rank: int, tile: tuple[int, int]) -> None:
    x = coded(shape, rank, tile)
    left, right = x.factors()
    np.testing.assert_array_equal(x.mask(), naive(left, right, tile).reshape(shape))
    want = np.zeros(shape, np.float32)
    want[x.mask()] = x.inner.decode()
    np.testing.assert_array_equal(x.decode(), want)
    assert x.nbytes == Boolean.predict(shape, rank, tile) + x.inner.nbytes
    assert 8 * Boolean.predict(shape, rank, tile) <= left.size + right.size + 14
    again = decode_config(json.loads(json.dumps(x.config())), x.buffers())
    assert (again.config(), again.decode().tobytes()) == (x.config(), x.decode().tobytes())
    shrunk = fq.codecs.entropy.shrunk(x)
    np.testing.assert_array_equal(shrunk.decode(), x.decode())


def test_bits_lie_as_the_docstring_says() -> None:
    x = coded((13, 9), 3, (4, 5))
    left, right = x.factors()
    stored = {name: int.from_bytes(getattr(x, name).tobytes(), "little") for name in ("left", "right")}
    for c, i, f in product(range(2), range(13), range(3)):
        assert stored["left"] >> ((c * 13 + i) * 3 + f) & 1 == left[c, i, f]
    for r, j, f in product(range(4), range(9), range(3)):
        assert stored["right"] >> ((r * 9 + j) * 3 + f) & 1 == right[r, j, f]


def test_sparse_factors_take_fewer_bytes_entropy_coded() -> None:
    x = coded((256, 256), 24, (256, 256), density=0.05)
    parts = fq.codecs.entropy.shrunk(x).buffers()
    index = parts["left"].nbytes + parts["right"].nbytes
    assert index < 0.4 * Boolean.predict((256, 256), 24, (256, 256))
    assert 8 * index > 0.95 * 2 * 256 * 24 * binary_entropy(0.05)


def test_a_tile_larger_than_the_array() -> None:
    left, right = bits((1, 5, 2), 0.5, 0), bits((1, 7, 2), 0.5, 1)
    np.testing.assert_array_equal(boolean_product(left, right, (1 << 40, 1 << 40)), naive(left, right, (5, 7)))


HOSTILE: dict[str, Callable[[dict[str, Any], dict[str, np.ndarray]], object]] = {
    "rank 0": lambda c, b: c.update(rank=0),
    "rank below": lambda c, b: c.update(rank=2),
    "rank above": lambda c, b: c.update(rank=4),
    "rank true": lambda c, b: c.update(rank=True),
    "rank text": lambda c, b: c.update(rank="3"),
    "rank huge": lambda c, b: c.update(rank=1 << 40),
    "tile 0": lambda c, b: c.update(tile=[0, 5]),
    "tile -4": lambda c, b: c.update(tile=[-4, 5]),
    "tile of one": lambda c, b: c.update(tile=[4]),
    "tile of three": lambda c, b: c.update(tile=[4, 5, 6]),
    "tile a number": lambda c, b: c.update(tile=4),
    "tile of text": lambda c, b: c.update(tile=["4", 5]),
    "tile of fractions": lambda c, b: c.update(tile=[4.0, 5.0]),
    "smaller tiles": lambda c, b: c.update(tile=[2, 5]),
    "larger tiles": lambda c, b: c.update(tile=[13, 9]),
    "no tile": lambda c, b: c.pop("tile"),
    "another shape": lambda c, b: c.update(shape=[13, 10]),
    "no axes": lambda c, b: c.update(shape=[]),
    "no entries": lambda c, b: c.update(shape=[13, 0]),
    "no rows": lambda c, b: c.update(shape=[0, 1 << 40]),
    "huge": lambda c, b: c.update(shape=[1 << 47, 1 << 47]),
    "unknown setting": lambda c, b: c.update(seed=1),
    "left too short": lambda c, b: b.update(left=b["left"][:-1]),
    "left too long": lambda c, b: b.update(left=np.append(b["left"], np.uint8(0))),
    "right of words": lambda c, b: b.update(right=b["right"].astype(np.uint16)),
    "right a matrix": lambda c, b: b.update(right=b["right"][None]),
    "no right": lambda c, b: b.pop("right"),
    "all bits set": lambda c, b: b.update(left=np.full_like(b["left"], 255)),
    "no bits set": lambda c, b: b.update(right=np.zeros_like(b["right"])),
    "fewer values": lambda c, b: c["inner"].update(shape=[c["inner"]["shape"][0] - 1]),
    "values of another dtype": lambda c, b: c.update(dtype="float64"),
    "inner is text": lambda c, b: c.update(inner="dense"),
}


@pytest.mark.parametrize("change", HOSTILE.values(), ids=list(HOSTILE))
def test_hostile_files(change: Callable[[dict[str, Any], dict[str, np.ndarray]], object]) -> None:
    x = coded((13, 9), 3, (4, 5))
    config, buffers = json.loads(json.dumps(x.config())), dict(x.buffers())
    change(config, buffers)
    with pytest.raises(ArtifactError):
        decode_config(config, buffers).decode()


def test_any_flipped_bit_is_seen_or_decodes() -> None:
    x = coded((13, 9), 3, (4, 5))
    outcomes = set()
    for name in ("left", "right"):
        for bit in range(8 * getattr(x, name).size):
            buffers = dict(x.buffers())
            buffers[name] = buffers[name].copy()
            buffers[name][bit // 8] ^= 1 << (bit % 8)
            try:
                outcomes.add(decode_config(x.config(), buffers).decode().shape)
            except ArtifactError:
                outcomes.add(())
    assert outcomes == {(13, 9), ()}


# The moves -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 3, 8, 9, 17, 33, 64, 65, 130])
def test_words_meet_where_bits_do(k: int) -> None:
    a, b = bits((2, 5, k), 1.5 / k**0.5, 0), bits((2, 6, k), 0.5 / k**0.5, 1)
    np.testing.assert_array_equal(covered(words(a), words(b)), np.einsum("tmk,tnk->tmn", a * 1, b * 1) > 0)


def whole(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Integers as float32, whose sums are exact in any order."""
    return rng(seed).integers(-9, 10, shape).astype(np.float32)


def worth(V: np.ndarray, A: np.ndarray, B: np.ndarray) -> float:
    return float((V * covered(words(A), words(B))).sum(dtype=np.float64))


@pytest.mark.parametrize("tiles", [1, 3])
def test_up_to_four_factors_move_to_the_best_setting_of_all(tiles: int) -> None:
    V, A, B = whole((tiles, 6, 9), 0), bits((tiles, 6, 3), 0.5, 1), bits((tiles, 9, 3), 0.4, 2)
    choose(V, np.ascontiguousarray(V.transpose(0, 2, 1)), A, B)
    for t, i in product(range(tiles), range(6)):
        row = [V[t, i][B[t][:, list(on)].any(axis=1)].sum() for on in map(np.flatnonzero, product((0, 1), repeat=3))]
        assert V[t, i][B[t][:, A[t, i]].any(axis=1)].sum() == max(row)


@pytest.mark.parametrize("k", [2, 7, 20, 70])
def test_tiles_side_by_side_move_as_alone(k: int) -> None:
    V, A, B = whole((5, 12, 14), 3), bits((5, 12, k), 0.2, 4), bits((5, 14, k), 0.2, 5)
    across, alone = np.ascontiguousarray(V.transpose(0, 2, 1)), A.copy()
    choose(V, across, A, B)
    for t in range(5):
        choose(V[t : t + 1], across[t : t + 1], alone[t : t + 1], B[t : t + 1])
    np.testing.assert_array_equal(A, alone)


@settings(max_examples=40)
@given(k=st.integers(1, 12), tiles=st.sampled_from((1, 4)), seed=st.integers(0, 99), price=st.floats(0.1, 4))
def test_what_a_mask_is_worth_never_falls(k: int, tiles: int, seed: int, price: float) -> None:
    squares = (rng(seed).standard_normal((tiles, 15, 11)) ** 2).astype(np.float32)
    A, B = bits((tiles, 15, k), 0.4, seed), bits((tiles, 11, k), 0.4, seed + 1)
    V = squares - np.float32(price)
    values = [worth(V, A, B)]
    for _ in range(6):
        revive(squares, price, A, B)
        values.append(worth(V, A, B))
        kept, held = sweep(squares, price, A, B)
        values.append(worth(V, A, B))
        assert (kept, held) == measured(squares, A, B)
    assert values[-1] == pytest.approx(held - price * kept, rel=1e-4, abs=1e-3)
    assert all(b >= a - 1e-5 * (1 + abs(a)) for a, b in pairwise(values))


def test_draws_have_the_odds_of_their_temperature() -> None:
    V = np.ones((20000, 1, 1), np.float32)
    A, B = np.zeros((20000, 1, 1), bool), np.ones((20000, 1, 1), bool)
    for temperature in (0.5, 2.0):
        choose(V, V, A, B, Noise(rng(0), temperature))
        assert A.mean() == pytest.approx(1 / (1 + np.exp(-1 / temperature)), abs=0.01)


def test_empty_factors_start_in_the_best_rows() -> None:
    squares = np.array([[[1, 9, 1], [8, 8, 1], [1, 1, 7], [1, 1, 1]]], np.float32)
    A, B = np.zeros((1, 4, 3), bool), np.zeros((1, 3, 3), bool)
    A[0, 0, 1], B[0, 1, 1] = True, True  # one that is not empty
    revive(squares, 5.0, A, B)
    np.testing.assert_array_equal(covered(words(A), words(B))[0], squares[0] > 5)
    assert A[0].sum() == 3


def test_filling_takes_what_gains_most_per_entry() -> None:
    squares = np.array([[[4, 4, 1, 1], [3, 3, 9, 0], [2, 2, 2, 2]]], np.float32)
    B = np.array([[[1, 0], [1, 0], [0, 1], [0, 1]]], bool)
    A = np.zeros((1, 3, 2), bool)
    assert fill(squares, A, B, 5) == 1  # 4.5 and 4 per entry; then no pair fits
    np.testing.assert_array_equal(A[0], [[1, 0], [0, 1], [0, 0]])


@pytest.mark.parametrize("count", [0, 1, 40, 399, 1000])
@pytest.mark.parametrize("price", [1e-6, 1.0, 1e6])
def test_the_count_is_met_from_any_price(count: int, price: float) -> None:
    squares = (rng(1).standard_normal((4, 20, 25)) ** 2).astype(np.float32)
    A, B = thresholded(squares, 1.0, 6, 0.3, rng(0))
    before = A.copy(), B.copy()
    a, b = met(squares, price, A, B, count)
    assert count * 0.9 - 8 <= measured(squares, a, b)[0] <= count
    np.testing.assert_array_equal(A, before[0])
    np.testing.assert_array_equal(B, before[1])


def test_nonnegative_factors_approximate() -> None:
    x = (rng(0).random((2, 20, 3)) @ rng(1).random((2, 3, 16))).astype(np.float32)
    G, H = nonnegative(x, 3, rng(2), rounds=300)
    assert (G >= 0).all()
    assert (H >= 0).all()
    assert np.linalg.norm(x - G @ H.transpose(0, 2, 1)) < 0.02 * np.linalg.norm(x)
    np.testing.assert_allclose(G.max(axis=1), H.max(axis=1), rtol=1e-4)
    assert not nonnegative(np.zeros((1, 4, 5), np.float32), 2, rng(0))[0][0].any()


@pytest.mark.parametrize("tile", [(4, 5), (13, 9), (1, 9), (7, 1)])
def test_tiles_are_cut_and_joined(tile: tuple[int, int]) -> None:
    x = rng(0).standard_normal((13, 9)).astype(np.float32)
    tiles = cut(x, tile)
    A, B = bits((*tiles.shape[:2], 2), 0.5, 1), bits((len(tiles), tile[1], 2), 0.5, 2)
    left, right = joined(A, B, (13, 9))
    kept = tiles * covered(words(A), words(B))
    np.testing.assert_array_equal(cut(x * boolean_product(left, right, tile), tile), kept)


# The method ----------------------------------------------------------------------------------------------------------


def gaussian(*shape: int, seed: int = 0) -> np.ndarray:
    return rng(seed).standard_normal(shape).astype(np.float32)


def kept(F: fq.Factorization) -> float:
    """The share of the squared norm under the mask, where values are stored as they are."""
    return 1 - F.relative_error**2


@pytest.mark.parametrize(("shape", "tile", "rank"), [((64, 48), 64, 3), ((50, 70), (25, 35), 2), ((33, 40), 16, 1)])
def test_a_planted_mask_is_found_again(shape: tuple[int, int], tile: Any, rank: int) -> None:
    tiles = fq.BooleanPruning(0.5, rank, tile=tile).tiles(shape)
    planted = boolean_product(*(bits(s, 0.4, k) for k, s in enumerate(factor_shapes(shape, rank, tiles))), tiles)
    W = np.where(planted, 1 + 0.5 * np.abs(gaussian(*shape)), 0.1) * np.sign(gaussian(*shape, seed=1))
    F = fq.decompose(W, method=fq.BooleanPruning(1 - planted.sum() / planted.size, rank, tile=tile))
    np.testing.assert_array_equal(F.form.factor.mask(), planted)
    np.testing.assert_array_equal(F.to_dense()[planted], W[planted])


def published(W: np.ndarray, rank: int, share: float) -> float:
    """The squared norm that non-negative factors of |W|, with a threshold each, keep: the best of several shares."""
    G, H = (x[0] for x in nonnegative(np.abs(W)[None], rank, rng(0), rounds=300))
    best = 0.0, 0.0
    for of_left in (0.02, 0.04, 0.08, 0.15, 0.3):
        low, high = 0.0, 1.0
        for _ in range(12):
            middle = (low + high) / 2
            mask = boolean_product(upper(G[None], of_left), upper(H[None], middle), W.shape)
            low, high = (middle, high) if mask.mean() <= share else (low, middle)
        mask = boolean_product(upper(G[None], of_left), upper(H[None], low), W.shape)
        best = max(best, (float(np.abs(W)[mask].sum()), float(np.square(W)[mask].sum())))
    return best[1] / float(np.square(W).sum())


def test_more_is_kept_than_by_thresholds_and_less_than_by_magnitude() -> None:
    W = gaussian(256, 256)
    large = fq.decompose(W, method=fq.BooleanPruning(0.91, rank=24, tile=256))
    small = fq.decompose(W, method=fq.BooleanPruning(0.91))
    largest = fq.decompose(W, method=fq.Scalar(sparsity=0.91))
    assert 0.09 < published(W, 24, 0.09) < 0.9 * kept(large)
    assert kept(large) < 0.85 * kept(small)
    assert kept(small) < 0.7 * kept(largest)
    assert f"{kept(small):.1%}" in small.status
    assert f"{kept(largest):.1%}" in small.status


def test_annealing_pays() -> None:
    W = gaussian(320, 320)
    plain, annealed = (kept(fq.decompose(W, method=fq.BooleanPruning(0.91, 3, anneal=n))) for n in (0, 24))
    assert 0.25 < plain < annealed - 0.001


def test_the_size_of_the_published_case() -> None:
    """S = .91, 1 bit, rank 48 in 512x512, scales included: under the .5265 of any mask, but with another mask."""
    W = gaussian(512, 512)
    F = fq.decompose(W, method=fq.BooleanPruning(0.91, rank=48, bits=1, tile=512, anneal=2, max_iter=2))
    assert F.bits_per_weight <= 0.28
    assert 8 * Boolean.predict(W.shape, 48, (512, 512)) == 0.1875 * W.size
    assert F.bits_per_weight < binary_entropy(0.91) + 0.09
    G = fq.decompose(W, method=fq.BooleanPruning(0.91, bits=1, anneal=2, max_iter=2))
    assert G.bits_per_weight <= 0.28
    assert G.relative_error < F.relative_error


@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.5, 0.91, 0.99])
@pytest.mark.parametrize("shape", [(60, 70), (1, 300), (300, 1), (8, 5, 3, 3), (41, 97)], ids=str)
def test_the_sparsity_is_met(shape: tuple[int, ...], sparsity: float) -> None:
    W = gaussian(*shape)
    count = Sparse(sparsity).count(W.size)
    for rank, tile in ((1, None), (5, (9, 20)), (30, 10)):
        method = fq.BooleanPruning(sparsity, rank, tile=tile, anneal=6)
        F = fq.decompose(W, method=method)
        found = int(np.count_nonzero(F.to_dense()))
        assert found == F.form.factor.inner.size
        assert count - max(1, *method.tiles(shape)) < found <= count


def test_dense_tiles_keep_more() -> None:
    W = gaussian(64, 128)
    W[:, 64:] *= 0.3
    mask = fq.decompose(W, method=fq.BooleanPruning(0.8, rank=4, tile=32)).form.factor.mask()
    assert mask[:, :64].mean() > 4 * mask[:, 64:].mean()


@pytest.mark.parametrize("kind", ["constant", "zero", "one", "two rows"])
def test_degenerate_arrays(kind: str) -> None:
    W = np.zeros((30, 44), np.float32)
    W[:] = 0.7 if kind == "constant" else 0
    if kind == "one":
        W[3, 5] = -2
    if kind == "two rows":
        W[[4, 20]] = gaussian(2, 44)
    F = fq.decompose(W, method=fq.BooleanPruning(0.9, rank=2, tile=(15, 22)))
    mask = F.form.factor.mask()
    match kind:
        case "constant":
            assert 132 - 22 < mask.sum() <= 132
        case "zero":
            assert not mask.any()
            assert F.status == "W is zero"
        case _:
            np.testing.assert_array_equal(F.to_dense(), W)
            assert mask.sum() == np.count_nonzero(W)
    assert not fq.decompose(W, method=fq.BooleanPruning(0.9999)).to_dense().any()


def test_a_rank_as_high_as_the_tile_takes_any_mask() -> None:
    W = gaussian(24, 40)
    best = fq.decompose(W, method=fq.Scalar(sparsity=0.8))
    F = fq.decompose(W, method=fq.BooleanPruning(0.8, rank=8, tile=(8, 10)))
    assert kept(F) > 0.98 * kept(best)
    assert kept(fq.decompose(W, method=fq.BooleanPruning(0.8, rank=40, tile=(8, 10)))) > 0.98 * kept(best)


def test_a_convolution_is_pruned_as_its_matrix() -> None:
    W = gaussian(16, 8, 3, 3)
    method = fq.BooleanPruning(0.7, rank=2, bits=3)
    F, G = fq.decompose(W, method=method), fq.decompose(W.reshape(16, -1), method=method)
    np.testing.assert_array_equal(F.to_dense().reshape(16, -1), G.to_dense())
    assert F.nbytes == G.nbytes


def test_saved_and_loaded(tmp_path) -> None:
    F = fq.decompose(gaussian(40, 50), method=fq.BooleanPruning(0.8, rank=2, bits=2, tile=(20, 17)))
    fq.save(tmp_path / "w.safetensors", {"w": F})
    G = fq.load(tmp_path / "w.safetensors")["w"]
    np.testing.assert_array_equal(G.to_dense(), F.to_dense())
    assert G.method == F.method
    assert isinstance(G.form.factor, Boolean)


@pytest.mark.parametrize("bits_per_value", [1, 2, 5])
def test_values_are_quantized_under_the_mask(bits_per_value: int) -> None:
    W = gaussian(64, 64)
    plain = fq.decompose(W, method=fq.BooleanPruning(0.6, rank=2))
    F = fq.decompose(W, method=fq.BooleanPruning(0.6, rank=2, bits=bits_per_value, group=128))
    np.testing.assert_array_equal(F.form.factor.mask(), plain.form.factor.mask())
    values = F.form.factor.inner
    assert values.group <= 128
    assert len(np.unique(np.abs(values.decode()[:100]))) <= max(1, 2**bits_per_value)
    assert F.relative_error > plain.relative_error


def test_the_callback_is_told_both_stages() -> None:
    told: list[fq.Progress] = []
    F = fq.decompose(gaussian(40, 40), method=fq.BooleanPruning(0.8, anneal=3, max_iter=4), callback=told.append)
    assert [p.step for p in told] == list(range(1, len(told) + 1))
    assert {p.steps for p in told} == {7}
    assert len(told) > 3
    assert [p.objective for p in told] == list(F.history[:-1])
    assert F.history[-1] == pytest.approx(F.relative_error, rel=1e-5)


def test_the_same_whatever_the_blocks_of_work(monkeypatch) -> None:
    W = gaussian(64, 64)
    method = fq.BooleanPruning(0.8, rank=2, tile=16, anneal=0)
    whole = fq.decompose(W, method=method)
    assert fq.decompose(W, method=method, rng=1).buffers().keys() == whole.buffers().keys()
    monkeypatch.setattr("factorq.solvers.boolean.moves._ENTRIES", 1 << 20)
    np.testing.assert_array_equal(fq.decompose(W, method=method).to_dense(), whole.to_dense())


def test_the_solver_alone() -> None:
    W = gaussian(30, 30)
    found = factorise(W / 8, 2, (16, 16), 90, anneal=2, max_iter=3, tol=0.0, rng=rng(0))
    left, right = found.best.left, found.best.right
    assert (left.shape, right.shape) == ((2, 30, 2), (2, 30, 2))
    mask = boolean_product(left, right, (16, 16))
    assert 74 < mask.sum() <= 90
    assert found.history[-1] == pytest.approx(np.linalg.norm(W[~mask]) / np.linalg.norm(W), rel=1e-5)


# Settings, sizes and words -------------------------------------------------------------------------------------------

BAD = {
    "sparsity 1": lambda: fq.BooleanPruning(1.0),
    "rank 0": lambda: fq.BooleanPruning(0.9, rank=0),
    "rank 65537": lambda: fq.BooleanPruning(0.9, rank=65537),
    "bits 17": lambda: fq.BooleanPruning(0.9, bits=17),
    "bits text": lambda: fq.BooleanPruning(0.9, bits="1"),
    "tile 0": lambda: fq.BooleanPruning(0.9, tile=0),
    "tile true": lambda: fq.BooleanPruning(0.9, tile=True),
    "tile of three": lambda: fq.BooleanPruning(0.9, tile=(2, 3, 4)),
    "tile of a fraction": lambda: fq.BooleanPruning(0.9, tile=(2.5, 3)),
    "tile negative": lambda: fq.BooleanPruning(0.9, tile=(8, -8)),
    "group 0": lambda: fq.BooleanPruning(0.9, group=0),
    "anneal -1": lambda: fq.BooleanPruning(0.9, anneal=-1),
    "anneal text": lambda: fq.BooleanPruning(0.9, anneal="all"),
    "max_iter 0": lambda: fq.BooleanPruning(0.9, max_iter=0),
    "tol 1": lambda: fq.BooleanPruning(0.9, tol=1),
    "gram": lambda: fq.decompose(gaussian(8, 8), method=fq.BooleanPruning(0.9), gram=np.eye(8)),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_settings_are_refused_by_name(name: str) -> None:
    with pytest.raises((fq.ArgumentError, fq.ArgumentTypeError), match=rf"^{name.split()[0]}: found .*allowed is"):
        BAD[name]()


def test_the_default_tile_keeps_the_rate_of_the_index() -> None:
    sides = [fq.BooleanPruning(0.9, rank).tiles((4096, 4096))[0] for rank in (1, 3, 6, 48)]
    assert sides == [11, 32, 64, 512]
    assert fq.BooleanPruning(0.9, 48).tiles((500, 300)) == (500, 300)
    assert fq.BooleanPruning(0.9, 48, tile=(512, 400)).tiles((800, 10, 50)) == (400, 250)


@pytest.mark.parametrize("target", [0.25, 0.28, 0.5, 1.1])
def test_a_size_decides_the_sparsity(target: float) -> None:
    F = fq.decompose(
        gaussian(128, 160), method=fq.BooleanPruning(0.5, bits=1, anneal=2, max_iter=3), bits_per_weight=target
    )
    assert 0.98 * target <= F.bits_per_weight <= target


@pytest.mark.parametrize("target", [0.1, 1.5])
def test_a_size_out_of_reach(target: float) -> None:
    """Under that of the index, or over that of all weights kept."""
    with pytest.raises(fq.ArgumentError, match=r"^bits_per_weight: found .* by boolean_pruning"):
        fq.decompose(gaussian(64, 64), method=fq.BooleanPruning(0.5, bits=1), bits_per_weight=target)


def test_a_size_by_the_id() -> None:
    W = gaussian(128, 160)
    F = fq.decompose(W, method="boolean_pruning", bits_per_weight=0.5)
    assert 0.49 <= F.bits_per_weight <= 0.5
    by_tile = fq.decompose(W, sparsity=0.9, method="boolean_pruning", bits_per_weight=0.45)
    assert by_tile.method.sparsity == 0.9
    assert 0.4 < by_tile.bits_per_weight <= 0.45
    with pytest.raises(fq.ArgumentError, match="bits_per_weight"):
        fq.decompose(W, sparsity=0.5, method="boolean_pruning", bits_per_weight=0.3)
    F = fq.decompose(W, rank=2, bits=1, sparsity=0.8, method="boolean_pruning")
    assert F.method == fq.BooleanPruning(0.8, 2, 1)


def test_a_rank_that_fills_a_size() -> None:
    draft = fq.BooleanPruning(0.9, bits=1, tile=32)
    (sized,) = draft.resized((256, 256), "float32", 0.5, frozenset({"rank"}))
    assert 0.9 * 0.5 < 8 * sized.nbytes((256, 256), "float32") / 256**2 <= 0.5
    assert list(draft.resized((256, 256), "float32", 0.05, frozenset({"rank"}))) == []


def test_explained_and_written_as_text() -> None:
    plan = fq.explain((4096, 4096), method=fq.BooleanPruning(0.91, bits=1))
    assert "0.182 bits per weight" in plan.reason
    assert "0.436" in plan.reason
    assert "retraining" in plan.reason
    method = fq.BooleanPruning(0.91, 48, 1, (512, 256))
    assert parse("boolean_pruning(sparsity=0.91, rank=48, bits=1, tile=(512, 256))") == method
