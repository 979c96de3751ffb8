"""The Lloyd kernels against their reference and brute force, and k-means and residual books built on them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import factorq as fq
from factorq.kernels import lloyd as kernel
from factorq.kernels.lloyd import reference
from factorq.solvers.lloyd import kmeans, means, residual, search


def table_of(c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.ascontiguousarray(-c.T), (0.5 * (c.astype(np.float64) ** 2).sum(axis=1)).astype(np.float32)


def draw(seed: int, n: int, d: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, d)).astype(np.float32)


def inertia(x: np.ndarray, c: np.ndarray, codes: np.ndarray) -> float:
    return float(((x.astype(np.float64) - c[codes]) ** 2).sum())


@pytest.mark.parametrize("d", [1, 2, 4, 8, 16, 20])
@pytest.mark.parametrize("count", [1, 2, 15, 16, 17, 100])
def test_nearest_is_brute_force(d: int, count: int) -> None:
    """By distance, not by index: float32 scores of codewords as near as each other may fall either way."""
    x, c = draw(0, 1000, d), draw(1, count, d)
    codes = kernel.nearest(x, *table_of(c))
    distance = ((x[:, None].astype(np.float64) - c[None]) ** 2).sum(axis=2)
    assert codes.dtype == np.int32
    np.testing.assert_allclose(distance[np.arange(1000), codes], distance.min(axis=1), rtol=1e-5, atol=1e-5)
    assert (codes == distance.argmin(axis=1)).mean() > 0.999


@settings(max_examples=30)
@given(n=st.integers(1, 600), d=st.sampled_from((1, 2, 3)), count=st.integers(1, 40), seed=st.integers(0, 99))
def test_ties_go_to_the_lower_codeword(n: int, d: int, count: int, seed: int) -> None:
    """Small integers: all scores are exact, so that both twins agree bit for bit."""
    rng = np.random.default_rng(seed)
    x, c = (rng.integers(-3, 4, (k, d)).astype(np.float32) for k in (n, count))
    table, bias = table_of(c)
    want = np.argmin(bias + x @ table, axis=1)
    np.testing.assert_array_equal(kernel.nearest(x, table, bias), want)


def test_sums_by_codeword() -> None:
    x = draw(0, 500, 3)
    codes = np.random.default_rng(1).integers(0, 7, 500).astype(np.int32)
    codes[codes == 4] = 5
    sums, counts = kernel.accumulate(x, codes, 7)
    want, seen = np.zeros((7, 3)), np.zeros(7, np.int64)
    reference.accumulate(x, codes, want, seen)
    np.testing.assert_array_equal(sums, want)
    np.testing.assert_array_equal(counts, seen)
    assert counts[4] == 0


@settings(max_examples=20)
@given(n=st.integers(1, 700), count=st.integers(1, 30), seed=st.integers(0, 99))
def test_seeds_agree_with_the_reference(n: int, count: int, seed: int) -> None:
    """On small integers, whose distances and sums are exact."""
    rng = np.random.default_rng(seed)
    x = rng.integers(-4, 5, (n, 2)).astype(np.float32)
    uniform = rng.random(count)
    want = np.full(count, -1, np.int64)
    reference.seed(np.ascontiguousarray(x.T), uniform, want)
    chosen = kernel.seed(x, uniform)
    np.testing.assert_array_equal(chosen, want[want >= 0])
    assert len(np.unique(x[chosen], axis=0)) == len(chosen) == min(count, len(np.unique(x, axis=0)))


@pytest.mark.parametrize(("m", "count"), [(2, 5), (2, 70), (3, 9)])
def test_joint_codes(m: int, count: int) -> None:
    """Exact for two books; never worse than the codes given, and as good as the reference, for more."""
    x, books = draw(0, 60, 4), np.stack([draw(k + 1, count, 4) / (k + 1) for k in range(m)])
    start = np.random.default_rng(9).integers(0, count, (60, m)).astype(np.int32)
    before = start.copy()
    codes = kernel.joint(x, books, start)
    error = ((x - residual.reconstruct(books, codes)) ** 2).sum(axis=1)
    np.testing.assert_array_equal(start, before)
    assert (error <= ((x - residual.reconstruct(books, start)) ** 2).sum(axis=1) + 1e-5).all()
    if m == 2:
        pairs = (books[0][:, None] + books[1][None]).reshape(-1, 4)
        least = ((x[:, None] - pairs[None]) ** 2).sum(axis=2).min(axis=1)
        np.testing.assert_allclose(error, least, rtol=1e-4, atol=1e-5)


def test_planted_clusters_are_found() -> None:
    """Well separated centres come back as means of their own points, whatever the order of the points."""
    rng = np.random.default_rng(3)
    centres = np.stack(np.meshgrid(*[np.arange(3) * 10.0] * 2), axis=-1).reshape(-1, 2)
    owner = rng.integers(0, 9, 4000)
    x = (centres[owner] + 0.1 * rng.standard_normal((4000, 2))).astype(np.float32)
    found = kmeans(x, 9, np.random.default_rng(0), max_iter=50)
    nearest = ((found.centroids[:, None] - centres[None]) ** 2).sum(axis=2)
    assert (np.sort(nearest.argmin(axis=1)) == np.arange(9)).all()
    assert nearest.min(axis=1).max() < 0.01
    assert found.inertia[-1] == pytest.approx(inertia(x, found.centroids, found.codes), rel=1e-3)


def test_kmeans_is_as_good_as_an_independent_one() -> None:
    cluster = pytest.importorskip("sklearn.cluster")
    x = draw(0, 6000, 4)
    found = kmeans(x, 64, np.random.default_rng(0), max_iter=20, tol=0.0)
    peer = cluster.KMeans(64, n_init=1, max_iter=20, tol=0.0, random_state=0, algorithm="lloyd").fit(x)
    assert inertia(x, found.centroids, found.codes) < 1.01 * peer.inertia_


def test_a_part_of_the_points_first() -> None:
    """Many points per centroid: most iterations run on an eighth, and the result is that of all."""
    x = draw(0, 16384, 2)
    found = kmeans(x, 8, np.random.default_rng(0))
    whole = kmeans(x[:4000], 8, np.random.default_rng(0), max_iter=100, tol=0.0)
    assert inertia(x, found.centroids, found.codes) < 1.02 * inertia(x, whole.centroids, search(x, whole.centroids))


@pytest.mark.parametrize("count", [1, 3, 8, 50])
def test_few_distinct_points(count: int) -> None:
    """Fewer distinct points than centroids: no error at all; constants, duplicates and single points work."""
    x = np.repeat(np.array([[0.0, 1.0], [2.0, -3.0], [0.5, 0.25]], np.float32), 7, axis=0)
    found = kmeans(x, count, np.random.default_rng(0))
    assert np.isfinite(found.centroids).all()
    if count >= 3:
        np.testing.assert_allclose(found.centroids[found.codes], x, atol=1e-6)
    constant = np.full((10, 3), 0.7, np.float32)
    np.testing.assert_array_equal(kmeans(constant, count, np.random.default_rng(0)).centroids[0], constant[0])
    one = kmeans(constant[:1], count, np.random.default_rng(0))
    np.testing.assert_array_equal(one.centroids[one.codes], constant[:1])


def test_empty_clusters_are_filled() -> None:
    """Seeds cannot all survive here: far outliers first, then the bulk takes the rest; no centroid stays unused."""
    x = np.concatenate([draw(0, 3000, 2), 1e3 * draw(1, 20, 2)])
    found = kmeans(x, 60, np.random.default_rng(0), max_iter=40, tol=0.0)
    assert np.bincount(found.codes, minlength=60).min() > 0


def test_weights_count() -> None:
    """An entry of weight 0 is not looked at; weights that are all one number change nothing but rounding."""
    x = draw(0, 2000, 3)
    weight = np.ones_like(x)
    weight[:, 2] = 0
    found = kmeans(x, 4, np.random.default_rng(0), weight=weight, max_iter=50)
    noisy = x.copy()
    noisy[:, 2] *= 1000
    again = kmeans(noisy, 4, np.random.default_rng(0), weight=weight, max_iter=50)
    plain = ((x[:, None, :2] - found.centroids[None, :, :2]) ** 2).sum(axis=2).argmin(axis=1)
    assert (found.codes == plain).mean() > 0.999
    assert again.centroids.shape == found.centroids.shape
    masses = np.where(np.arange(4)[:, None] > 0, weight[0], weight[0])
    np.testing.assert_allclose(
        means(x, found.codes, found.centroids, weight) * masses, found.centroids * masses, atol=0.05
    )


def test_residual_books_are_fitted_jointly() -> None:
    """Two books of 16 reach below the same books fitted one after the other; refitting never raises the error."""
    x = draw(0, 4000, 4)
    books, history = residual.fit(x, 16, 2, np.random.default_rng(0))
    first = kmeans(x, 16, np.random.default_rng(0))
    rest = x - first.centroids[first.codes]
    second = kmeans(rest, 16, np.random.default_rng(1))
    greedy = inertia(rest, second.centroids, second.codes)
    codes = residual.encode(x, books)
    joint = float(((x - residual.reconstruct(books, codes)) ** 2).sum())
    assert joint < 0.97 * greedy
    assert history[-1] < history[0]
    better = residual.refit(x, codes, books)
    assert float(((x - residual.reconstruct(better, codes)) ** 2).sum()) <= joint * (1 + 1e-6)


def test_same_seed_same_clusters() -> None:
    x = draw(0, 3000, 5)
    one, two = (kmeans(x, 33, np.random.default_rng(7)) for _ in range(2))
    assert one.centroids.tobytes() == two.centroids.tobytes()
    assert one.codes.tobytes() == two.codes.tobytes()


def test_doors_name_what_is_wrong() -> None:
    x, c = draw(0, 10, 3), draw(1, 4, 3)
    table, bias = table_of(c)
    with pytest.raises(fq.ArgumentTypeError, match=r"^y: found float64"):
        kernel.nearest(x.astype(np.float64), table, bias)
    with pytest.raises(fq.ArgumentError, match=r"^table: found"):
        kernel.nearest(x, table[:2], bias)
    with pytest.raises(fq.ArgumentError, match=r"^codes: found 0 to 9"):
        kernel.accumulate(x, np.arange(10, dtype=np.int32), 4)
    with pytest.raises(fq.ArgumentError, match=r"^codewords: found 0"):
        kmeans(x, 0, np.random.default_rng(0))
    with pytest.raises(fq.ArgumentTypeError, match=r"^books: found"):
        kernel.joint(x, draw(0, 4, 3)[None].astype(np.float64), np.zeros((10, 1), np.int32))
    with pytest.raises(fq.ArgumentError, match=r"^x: found 0 points"):
        kernel.seed(x[:0], np.zeros(2))
