"""Error-feedback rounding: twins agree, identity means plain rounding, the gram metric gains, damping always copes."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factorq.codecs import Grid
from factorq.errors import ArgumentError, ArgumentTypeError
from factorq.kernels.feedback import numba_twin, reference, round_columns
from factorq.solvers.damping import damped_cholesky
from factorq.solvers.feedback import Metric
from factorq.solvers.feedback import round_columns as round_in_metric


def _correlated(n: int, seed: int, decay: float = 0.9) -> Any:
    """Second moment of inputs whose neighbours correlate, from a finite sample."""
    rng = np.random.default_rng(seed)
    covariance = decay ** np.abs(np.subtract.outer(np.arange(n), np.arange(n)))
    inputs = rng.standard_normal((4 * n, n)) @ np.linalg.cholesky(covariance).T
    return inputs.T @ inputs / (4 * n)


def _loss(W: Any, Q: Any, gram: Any) -> float:
    return float(np.einsum("ij,jk,ik->", W - Q, gram, W - Q))


def _rounded(W: Any, gram: Any, start: Grid) -> Any:
    points = start.points()
    return round_in_metric(W, Metric.of(gram), points.levels, points.scale, points.offset, points.keep)[0]


def _start(W: Any, bits: int, group: int) -> Grid:
    return Grid.encode(W, bits=bits, group=group, axis=1, zero=(2**bits - 1) / 2)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 5), st.integers(1, 12), st.integers(0, 9), st.booleans(), st.integers(0, 99))
def test_twins_agree(m: int, b: int, count: int, masked: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    W = rng.standard_normal((m, b))
    U = np.triu(rng.standard_normal((b, b)), 1) * 0.3 + np.diag(rng.uniform(0.5, 2.0, b))
    levels = np.sort(rng.standard_normal(count)) if count else np.zeros(0)
    scale, offset = rng.choice([0.0, 0.25, 0.3], (m, b)), rng.choice([0.0, 0.1], (m, b))
    keep = rng.random((m, b)) < (0.5 if masked else 2.0)
    results = []
    for kernel in (reference.round_columns, numba_twin.round_columns):
        work, Q, error = W.copy(), np.empty((m, b)), np.empty((m, b))
        kernel(work, U, levels, (levels[1:] + levels[:-1]) / 2, scale, offset, keep, Q, error)
        results.append((work, Q, error))
    for plain, compiled in zip(*results, strict=True):
        np.testing.assert_allclose(plain, compiled, rtol=1e-10, atol=1e-10)


def test_a_block_by_hand() -> None:
    W, U = np.array([[0.4, 0.4]]), np.array([[2.0, 1.0], [0.0, 1.0]])
    Q, error, ones = np.empty((1, 2)), np.empty((1, 2)), np.ones((1, 2))
    round_columns(W, U, np.array([0.0, 1.0]), ones, 0 * ones, ones > 0, Q, error)
    # 0.4 -> 0 leaves an error of 0.4 / 2; the next column becomes 0.4 - 0.2 * 1 = 0.2 -> 0.
    np.testing.assert_allclose([Q, error, W], [[[0, 0]], [[0.2, 0.2]], [[0.4, 0.2]]])


@pytest.mark.parametrize("scale", [1.0, 1e-20, 1e20])
def test_identity_is_plain_rounding(scale: float) -> None:
    W = np.random.default_rng(0).standard_normal((7, 33))
    start = _start(W, 3, 11)
    np.testing.assert_allclose(_rounded(W, scale * np.eye(33), start), start.decode(), rtol=1e-12)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("spread", [0.0, 1.0])
def test_gains_over_plain_rounding_with_the_same_scales(seed: int, spread: float) -> None:
    rng = np.random.default_rng(seed)
    size = np.exp(spread * rng.standard_normal(200))
    W, gram = rng.standard_normal((16, 200)), _correlated(200, seed) * np.outer(size, size)
    start = _start(W, 3, 64)
    assert _loss(W, _rounded(W, gram, start), gram) < 0.5 * _loss(W, start.decode(), gram)


def test_the_order_follows_the_sizes_of_the_inputs() -> None:
    size = np.exp(2 * np.random.default_rng(0).standard_normal(64))
    spread = Metric.of(_correlated(64, 0) * np.outer(size, size))
    assert list(spread.order) == list(np.argsort(-(size**2 * _correlated(64, 0).diagonal()), kind="stable"))
    even = Metric.of(0.9 ** np.abs(np.subtract.outer(np.arange(64), np.arange(64))))
    assert list(even.order) == list(range(64))


def test_close_to_brute_force_on_tiny_cases() -> None:
    """The best of all 4**5 code words is no more than a little better, and plain rounding is worse, on average."""
    ours = best = plain = 0.0
    words = np.array(list(itertools.product(range(4), repeat=5)))
    for seed in range(40):
        W, gram = np.random.default_rng(seed).standard_normal((1, 5)), _correlated(5, seed)
        start = _start(W, 2, 5)
        points = start.points()
        best += min(_loss(W, points.scale * points.levels[word][None], gram) for word in words)
        ours += _loss(W, _rounded(W, gram, start), gram)
        plain += _loss(W, start.decode(), gram)
    assert best <= ours < 1.6 * best
    assert ours < 0.8 * plain


def test_pruned_entries_stay_zero_and_the_others_make_up_for_them() -> None:
    W, gram = np.random.default_rng(5).standard_normal((8, 60)), _correlated(60, 5)
    metric = Metric.of(gram)
    saliency = metric.saliency(W)
    keep = saliency >= np.median(saliency)
    Q, met = round_in_metric(W, metric, None, None, None, keep)
    np.testing.assert_array_equal(Q[keep], met[keep])
    assert not Q[~keep].any()
    assert _loss(W, Q, gram) < 0.6 * _loss(W, W * keep, gram)


@pytest.mark.parametrize(("m", "n"), [(1, 1), (1, 9), (5, 1), (3, 130)])
def test_edge_shapes(m: int, n: int) -> None:
    W = np.random.default_rng(n).standard_normal((m, n)).astype(np.float32)
    kept = W.copy()
    Q = _rounded(W, _correlated(n, 2), _start(W, 4, 128))
    assert (Q.shape, Q.dtype) == (W.shape, W.dtype)
    np.testing.assert_array_equal(W, kept)


def test_dead_inputs_are_rounded_plainly() -> None:
    W = np.random.default_rng(3).standard_normal((4, 20))
    gram = _correlated(20, 3)
    gram[[2, 11]] = 0.0
    gram[:, [2, 11]] = 0.0
    start = _start(W, 3, 10)
    np.testing.assert_allclose(_rounded(W, gram, start)[:, [2, 11]], start.decode()[:, [2, 11]])
    assert Metric.of(gram).damping == 0.0
    np.testing.assert_allclose(_rounded(W, gram * 0.0, start), start.decode())


def test_rank_deficient_gram_still_gains() -> None:
    rng = np.random.default_rng(4)
    W, inputs = rng.standard_normal((16, 96)), rng.standard_normal((24, 96))
    gram = inputs.T @ inputs
    start = _start(W, 3, 32)
    assert 0.0 < Metric.of(gram).damping <= 1e-6 * gram.trace() / 96
    assert _loss(W, _rounded(W, gram, start), gram) < 0.5 * _loss(W, start.decode(), gram)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 24), st.integers(0, 24), st.integers(0, 99), st.sampled_from([1e-150, 1e-6, 1.0, 1e8]))
def test_damped_cholesky_factors_what_it_says(n: int, rank: int, seed: int, unit: float) -> None:
    inputs = np.random.default_rng(seed).standard_normal((rank, n)) * unit
    gram = inputs.T @ inputs
    L, damping = damped_cholesky(gram)
    target = gram + damping * np.eye(n)
    np.testing.assert_allclose(L @ L.T, target, atol=1e-12 * np.abs(target).max())
    np.testing.assert_array_equal(np.triu(L, 1), 0.0)
    if rank == 0:
        assert damping == 1.0
    if 0 < rank < n:
        assert damping > 0.0


def test_damping_is_zero_where_none_is_needed_whatever_the_units() -> None:
    units = np.logspace(-6, 6, 30)
    L, damping = damped_cholesky(_correlated(30, 0) * np.outer(units, units))
    assert damping == 0.0
    assert L.diagonal().min() > 0.0


def test_refusals() -> None:
    W, U = np.zeros((2, 3)), np.eye(3)
    with pytest.raises(ArgumentError, match="negative or non-finite"):
        damped_cholesky(-U)
    with pytest.raises(ArgumentError, match="gram: found shape"):
        damped_cholesky(np.ones((2, 3)))
    arrays = [np.ones((2, 3)), np.zeros((2, 3)), np.ones((2, 3), bool), np.empty((2, 3)), np.empty((2, 3))]
    with pytest.raises(ArgumentError, match="scale: found shape"):
        round_columns(W, U, np.zeros(2), np.ones((2, 2)), *arrays[1:])
    with pytest.raises(ArgumentTypeError, match="keep"):
        round_columns(W, U, np.zeros(2), *arrays[:2], np.ones((2, 3)), *arrays[3:])
