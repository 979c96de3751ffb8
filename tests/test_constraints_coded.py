"""The trellis as a constraint, and as the code of the factors of an SVD."""

from __future__ import annotations

import laws
import numpy as np
import pytest
from cases import ConstraintCase, gram_of, sample, weights
from hypothesis import given, settings
from hypothesis import strategies as st

import factorq as fq
from factorq.codecs import Path
from factorq.constraints import Coded
from factorq.constraints.coded import budget, water_filled
from factorq.forms import CP
from factorq.methods import SVD

ROWS = [Coded(0.3), Coded(2.5), Coded(3.2, states=1), Coded(16, states=64)]
LAWS = (laws.projection_is_decoded_encoding, laws.predicted_size_is_stored_size, laws.codec_survives_its_description)


# The constraint ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("constraint", ROWS, ids=repr)
@settings(max_examples=8)
@given(x=weights(dtypes=("float32", "float64")))
def test_laws_of_constraints(constraint: Coded, x: np.ndarray) -> None:
    for law in LAWS:
        law(ConstraintCase(constraint, exact=False, settles=False), x)


@pytest.mark.parametrize("constraint", ROWS[:3], ids=repr)
@pytest.mark.parametrize("exponent", [-60, -1, 7, 40])
def test_a_power_of_two_changes_nothing(constraint: Coded, exponent: int) -> None:
    for kind in ("gaussian", "heavy tails", "small integers", "zero"):
        laws.constraint_scales(ConstraintCase(constraint), sample(kind, (7, 20), "float32", 1), exponent)


def test_json_and_repr() -> None:
    for constraint in ROWS:
        laws.constraint_survives_json(constraint)


@settings(max_examples=10)
@given(bits=st.floats(0.5, 10), shape=st.sampled_from([(40, 50), (500,), (8, 4, 3, 9)]))
def test_bytes_are_met(bits: float, shape: tuple[int, ...]) -> None:
    x = sample("gaussian", shape, "float32", 3)
    encoded = Coded(bits).encode(x)
    assert isinstance(encoded, Path)
    assert budget(bits, x.size) * 0.96 - 12 <= encoded.nbytes <= budget(bits, x.size)
    assert encoded.layout == ((1, 1, *shape) if len(shape) == 1 else (1, shape[0], x.size // shape[0]))


def test_error_is_that_of_a_trellis() -> None:
    """Within 0.15 bit of the Gaussian bound on 20,000 entries, and better with more states."""
    x = sample("gaussian", (100, 200), "float64", 0)
    errors = [float(np.mean((x - Coded(3.0, states).project(x)) ** 2)) for states in (1, 4, 64)]
    assert errors == sorted(errors, reverse=True)
    assert 4.0**-3 < errors[1] / float(np.mean(x**2)) < 4.0**-2.85


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ((0.29,), fq.ArgumentError, "bits: found 0.29"),
        ((17,), fq.ArgumentError, "bits: found 17"),
        (("3",), fq.ArgumentTypeError, "bits: found '3'"),
        ((True,), fq.ArgumentTypeError, "bits: found True"),
        ((float("nan"),), fq.ArgumentError, "bits: found nan"),
        ((3, 5), fq.ArgumentError, "states: found 5"),
    ],
)
def test_bad_settings(given: tuple[object, ...], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Coded(*given)


def test_coded_does_not_meet_sparse() -> None:
    with pytest.raises(fq.ArgumentError, match="Coded"):
        Coded(3.0) & Coded(2.0)


# Reverse water-filling -----------------------------------------------------------------------------------------------


def test_equal_variances_share_by_count() -> None:
    np.testing.assert_allclose(water_filled([np.ones(3), np.ones(3)], [10, 30], 120.0), [0.25, 0.75])


def test_large_ones_get_half_a_bit_per_octave_of_variance() -> None:
    """16 to 1: two bits more, so at three bits in all (2.5, 0.5)."""
    np.testing.assert_allclose(water_filled([np.full(1, 16.0), np.ones(1)], [1, 1], 3.0), [2.5 / 3, 0.5 / 3])


def test_what_is_under_water_gets_nothing() -> None:
    assert water_filled([np.ones(2), np.array([1e-6, 0.0])], [5, 5], 10.0) == [1.0, 0.0]


# Factors -------------------------------------------------------------------------------------------------------------


def falling(m: int = 48, n: int = 120) -> np.ndarray:
    """A matrix with singular values that fall by about 100."""
    rng = np.random.default_rng(5)
    U, V = (np.linalg.qr(rng.standard_normal((k, m)))[0] for k in (m, n))
    return ((U * np.geomspace(1, 0.01, m)) @ V.T).astype(np.float32)


def test_smaller_error_than_grids_in_fewer_bytes() -> None:
    W = falling()
    grid = fq.decompose(W, method=SVD(rank=16, bits=3))
    coded = fq.decompose(W, method=SVD(rank=16, bits=3.1, codes="trellis", max_iter=4))
    assert isinstance(coded.form, CP)
    assert coded.nbytes <= grid.nbytes
    assert coded.relative_error < 0.92 * grid.relative_error
    assert min(coded.history) == pytest.approx(coded.relative_error, rel=1e-4)


def test_pair_of_bits_is_met() -> None:
    W = falling()
    weights, a, b = fq.decompose(W, method=SVD(rank=16, bits=(4.2, 2.1), codes="trellis", max_iter=2)).encoded.values()
    assert weights.nbytes == 18
    assert 0.97 * 4.2 * 48 * 2 <= a.nbytes <= 4.2 * 48 * 2
    assert 0.97 * 2.1 * 120 * 2 <= b.nbytes <= 2.1 * 120 * 2


def test_bits_of_one_number_are_divided_at_one_step() -> None:
    """The shorter factor has the larger entries, and so more bits, at about the same step."""
    _, a, b = fq.decompose(falling(), method=SVD(rank=16, bits=3.0, codes="trellis", max_iter=1)).encoded.values()
    assert isinstance(a, Path)
    assert isinstance(b, Path)
    assert a.nbytes / a.size > 1.2 * b.nbytes / b.size
    assert 0.7 < a.step / b.step < 1.4


def test_components_under_the_step_cost_little() -> None:
    """More than twice the components, most of them under the step, at the same bytes: 1.44 times the error without
    the ridge of the least squares."""
    W = falling()
    few, many = (
        fq.decompose(W, method=SVD(rank=r, bits=b, codes="trellis", max_iter=4)) for r, b in ((16, 3.1), (40, 1.22))
    )
    assert many.nbytes <= 1.01 * few.nbytes
    assert many.relative_error < 1.17 * few.relative_error


def test_gram_is_used() -> None:
    W, gram = falling(), gram_of(120)
    plain, better = (
        fq.decompose(W, method=SVD(rank=12, bits=3.0, codes="trellis", max_iter=2), gram=g) for g in (None, gram)
    )
    lost = [np.asarray(F.to_dense() - W, np.float64) for F in (plain, better)]
    errors = [float(np.vdot(x @ gram, x)) for x in lost]
    assert errors[1] < 0.9 * errors[0]


@pytest.mark.parametrize("target", [0.7, 1.3, 2.9])
def test_target_size_is_filled(target: float) -> None:
    W = falling()
    F = fq.decompose(W, method=SVD(rank=1, bits=2.0, codes="trellis", max_iter=2), bits_per_weight=target)
    assert 0.98 * target <= F.bits_per_weight <= target
    both = list(SVD(rank=1, bits=2.0, codes="trellis").resized(W.shape, "float32", target, frozenset({"rank", "bits"})))
    assert both
    assert all(0.99 * target <= 8 * m.nbytes(W.shape, "float32") / W.size <= target for m in both)
    fixed = list(SVD(rank=10, bits=2.0, codes="trellis").resized(W.shape, "float32", target, frozenset({"bits"})))
    assert [m.rank for m in fixed] == [10]


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"bits": 2.5}, fq.ArgumentTypeError, "bits: found 2.5"),
        ({"codes": "trellis"}, fq.ArgumentTypeError, "bits: found None"),
        ({"codes": "trellis", "bits": (2.0, 3.0, 4.0)}, fq.ArgumentError, "one for each"),
        ({"codes": "trellis", "bits": (2.0, 0.1)}, fq.ArgumentError, "bits: found 0.1"),
        ({"codes": "trellis", "bits": 2.0, "group": 8}, fq.ArgumentError, "group"),
        ({"codes": "huffman", "bits": 2}, fq.ArgumentError, "codes: found 'huffman'"),
    ],
)
def test_bad_codes(settings: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        SVD(rank=2, **settings)
