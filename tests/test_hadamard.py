"""The rotation of any length: orthonormal, incoherent, undone exactly, the same from both twins."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factorq.errors import ArgumentError, ArgumentTypeError
from factorq.kernels import hadamard
from factorq.kernels.hadamard import numba_twin, plans, reference
from factorq.kernels.splitmix64 import splitmix64

SIZES = (1, 2, 3, 16, 27, 64, 144, 172, 576, 1000, 1009, 2999)


def test_splitmix64_is_the_published_generator() -> None:
    assert [int(z) for z in splitmix64(3, 1234567)] == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@pytest.mark.parametrize("n", SIZES)
def test_orthonormal_and_undone(n: int) -> None:
    T = hadamard.rotate(np.eye(n), 5).T
    np.testing.assert_allclose(T.T @ T, np.eye(n), atol=1e-13)
    x = np.random.default_rng(n).standard_normal((19, n))
    np.testing.assert_allclose(hadamard.rotate(x, 5), x @ T.T, atol=1e-12)
    np.testing.assert_allclose(hadamard.unrotate(hadamard.rotate(x, 5), 5), x, atol=1e-13)
    single = x.astype(np.float32)
    np.testing.assert_allclose(hadamard.unrotate(hadamard.rotate(single, 5), 5), single, atol=2e-6)


def test_a_power_of_two_is_hadamards_matrix() -> None:
    signs = plans.plan(4, 3).signs[0]
    want = np.array([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]) / 2 * signs
    np.testing.assert_array_equal(hadamard.rotate(np.eye(4), 3).T, want)


@pytest.mark.parametrize("n", [27, 64, 144, 172, 576, 1000, 1009, 2999])
def test_incoherent(n: int) -> None:
    """Heavy tails come out Gaussian (kurtosis 3), and no unit vector stays in few places."""
    x = np.random.default_rng(0).standard_t(2, (200, n))
    y = hadamard.rotate(x, 7)
    y /= np.sqrt(np.mean(y**2, axis=1, keepdims=True))
    assert 2.4 < np.mean(y**4) < 3.2
    assert np.abs(hadamard.rotate(np.eye(n), 7)).max() * np.sqrt(n) < 6
    step = np.array([[1.0] * (n // 3) + [0.0] * (n - n // 3)])  # smooth rows, as filters are
    smooth = np.concatenate([hadamard.rotate(step, seed) for seed in range(50)])
    assert np.mean(smooth**4) < 3.6 * np.mean(smooth**2) ** 2


@settings(max_examples=30)
@given(
    n=st.sampled_from((*range(1, 40), 300, 514, 1009)),
    rows=st.integers(0, 35),
    seed=st.integers(0, 2**63 - 1),
    dtype=st.sampled_from(("float32", "float64")),
    inverse=st.booleans(),
)
def test_twins_agree_on_every_bit(n: int, rows: int, seed: int, dtype: str, inverse: bool) -> None:
    x = np.random.default_rng(rows).standard_normal((rows, n)).astype(dtype)
    plan = plans.plan(n, seed)
    args = (plan.order, plan.signs.astype(dtype), plan.span, plan.starts, plan.odd.astype(dtype), inverse)
    a, b = np.empty_like(x), np.empty_like(x)
    numba_twin.rotate(x, *args, a)
    reference.rotate(x, *args, b)
    np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal((hadamard.unrotate if inverse else hadamard.rotate)(np.asfortranarray(x), seed), a)


def test_seeds_differ() -> None:
    x = np.ones((1, 64))
    assert (hadamard.rotate(x, 0) != hadamard.rotate(x, 1)).any()


def test_bad_arguments_are_refused() -> None:
    for bad in (np.ones(4), np.ones((2, 2), int), [[1.0]]):
        with pytest.raises(ArgumentTypeError, match=r"^x: found"):
            hadamard.rotate(bad, 0)
    for seed in (-1, 2**63):
        with pytest.raises(ArgumentError, match=r"^seed: found"):
            hadamard.rotate(np.ones((1, 2)), seed)
    with pytest.raises(ArgumentTypeError, match=r"^seed: found"):
        hadamard.unrotate(np.ones((1, 2)), 0.5)
