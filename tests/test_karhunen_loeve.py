"""The choice of a transform: planted correlations are found, noise is left alone, the form gives W back."""

from __future__ import annotations

import math

import numpy as np
import pytest
from cases import KINDS, sample
from hypothesis import given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

from factorq.codecs import Dense, Rotation
from factorq.errors import ArgumentError
from factorq.forms import Form, from_skeleton
from factorq.solvers.karhunen_loeve import Transform, choose, step_for
from factorq.solvers.karhunen_loeve.length import gaussian_cost, quantized_cost, table_bits


def restored(transform: Transform, W: np.ndarray, dtype: str = "float64") -> Form:
    core = Dense.encode(np.ascontiguousarray(transform.apply(W), dtype))
    bases = [Rotation.from_codes(s.codes, s.order, s.bits, s.leading, dtype) for s in transform.bases]
    return transform.form(core, bases)


def smooth(shape: tuple[int, ...], axes: tuple[int, ...], correlation: float = 0.9, seed: int = 0) -> np.ndarray:
    """Gaussian, an autoregression along each of ``axes``."""
    W = np.random.default_rng(seed).standard_normal(shape)
    for axis in axes:
        n = shape[axis]
        distance = np.abs(np.subtract.outer(np.arange(n), np.arange(n)))
        W = np.moveaxis(np.tensordot(np.linalg.cholesky(correlation**distance), W, (1, axis)), 0, axis)
    return np.ascontiguousarray(W)


def entropy(core: np.ndarray, step: float) -> float:
    """Bits for all numbers of ``core``, with an ideal table per row."""
    total = 0.0
    for row in np.rint(core / step):
        counts = np.unique(row, return_counts=True)[1]
        total -= float((counts * np.log2(counts / row.size)).sum())
    return total


# Planted structure ---------------------------------------------------------------------------------------------------


def test_kernel_positions_are_found_and_save_what_is_claimed() -> None:
    W = smooth((64, 32, 3, 3), (2, 3))
    D = 1 / 64
    t = choose(W, distortion=D)
    assert t.stages[0].reading.name == "kernel positions"
    assert t.layout == (9, 64, 32)
    step = step_for(W, D)
    saved = entropy(W.reshape(1, -1), step) - entropy(t.apply(W), step) - 8 * t.cost
    assert saved > 0.9 * W.size
    assert t.saving == pytest.approx(saved, rel=0.15)
    assert "KLT over kernel positions (" in t.explain()
    assert f"for {t.cost} bytes" in t.explain()


def test_energies_descend_and_coefficients_are_uncorrelated() -> None:
    W = smooth((64, 32, 3, 3), (2, 3))
    core = choose(W, distortion=1e-3).apply(W)
    energy = np.mean(core**2, axis=1)
    assert np.all(np.diff(energy) < 0.02 * energy[:-1])
    correlation = np.corrcoef(core)
    assert np.abs(correlation - np.eye(9)).max() < 0.1


def test_the_core_costs_what_theory_says() -> None:
    """At high rate a uniform quantizer takes log2(pi e / 6) / 2 bits more than reverse water-filling."""
    W = smooth((4096, 64), (1,), 0.95)
    t = choose(W, distortion=2.0**-12)
    step = step_for(W, 2.0**-12)
    p = t.stages[0].order
    distance = np.abs(np.subtract.outer(np.arange(p), np.arange(p)))
    ideal = float(gaussian_cost(np.linalg.eigvalsh(0.95**distance), step).mean())
    spent = quantized_cost(t.apply(W), t.layout, step) / W.size
    assert spent == pytest.approx(ideal + 0.5 * math.log2(math.pi * math.e / 6), abs=0.03)


def test_one_kernel_axis() -> None:
    t = choose(smooth((12, 8, 5, 5), (3,), 0.97), distortion=1 / 64)
    assert t.stages[0].reading.axes in ((3,), (2, 3))
    assert t.saving > 0


@pytest.mark.parametrize("shape", [(8192, 16), (2048, 64)])
def test_columns_of_matrices(shape: tuple[int, int]) -> None:
    W = smooth(shape, (1,), 0.95)
    t = choose(W, distortion=1 / 64)
    assert "inputs" in t.explain()
    assert t.saving > 0.8 * W.size


def test_few_vectors_of_a_long_axis() -> None:
    """A planted subspace of 3 dimensions of 256: only these basis vectors are paid for."""
    rng = np.random.default_rng(0)
    W = 6 * rng.standard_normal((600, 3)) @ rng.standard_normal((3, 256)) / 3 + rng.standard_normal((600, 256))
    t = choose(W, distortion=1 / 64)
    (stage,) = t.bases
    assert stage.reading.name == "inputs"
    assert 2 <= stage.leading <= 8
    assert t.saving > 0.3 * W.size


def test_channels_after_positions() -> None:
    W = smooth((128, 24, 3, 3), (1, 2, 3), 0.95)
    t = choose(W, distortion=1 / 64)
    assert [s.reading.name for s in t.bases] == ["kernel positions", "inputs"]
    alone = Transform(t.shape, t.stages[:1], t.stages[0].reading.layout)
    step = step_for(W, 1 / 64)
    both, one = (8 * x.cost + quantized_cost(x.apply(W), x.layout, step) for x in (t, alone))
    assert both < one - 0.3 * W.size
    np.testing.assert_allclose(restored(t, W).dense(), W, atol=1e-12 * np.abs(W).max())


# Nothing to find -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(64, 64), (512, 256), (33, 20), (64, 32, 3, 3), (16, 3, 7, 7), (300, 40, 5)])
@pytest.mark.parametrize("bits", [1.0, 3.0, 6.0])
def test_noise_is_left_alone(shape: tuple[int, ...], bits: float) -> None:
    W = np.random.default_rng(1).standard_normal(shape)
    t = choose(W, distortion=4.0**-bits)
    assert t.stages == ()
    assert t.saving == 0
    assert t.apply(W).shape == (1, W.size)
    assert t.explain().startswith("no transform")


@pytest.mark.parametrize("W", [np.zeros((64, 64)), np.ones((1, 1)), np.zeros((8, 8, 3, 3)), np.ones((3, 4))])
def test_nothing_for_zeros_and_tiny(W: np.ndarray) -> None:
    assert choose(W, distortion=0.01).stages == ()
    assert choose(W, step=0.1).stages == ()


def test_nothing_where_all_rounds_to_zero() -> None:
    assert choose(smooth((64, 32, 3, 3), (2, 3)), step=1e4).stages == ()


# Laws ----------------------------------------------------------------------------------------------------------------

SHAPES = ((300, 4), (4, 300), (1, 400), (400, 1), (20, 20), (32, 4, 3, 3), (8, 64, 1, 1), (4, 3, 5, 7), (30, 4, 9),
          (6, 4, 3, 3, 3), (1, 1, 20, 20), (64, 8, 1, 3))  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(
    shape=st.sampled_from(SHAPES),
    kind=st.sampled_from(tuple(KINDS)),
    dtype=st.sampled_from(("float16", "bfloat16", "float32", "float64")),
    bits=st.floats(0.3, 12),
    seed=st.integers(0, 99),
    low_rank=st.booleans(),
)
def test_the_form_gives_w_back(
    shape: tuple[int, ...], kind: str, dtype: str, bits: float, seed: int, low_rank: bool
) -> None:
    W = sample(kind, shape, dtype, seed)
    if low_rank:  # rank-deficient moments, and something to find
        W = np.cumsum(W.astype(np.float64) * 0.1, axis=-1).astype(W.dtype)
    before = W.copy()
    t = choose(W, distortion=4.0**-bits)
    np.testing.assert_array_equal(W, before)
    X = W.astype(np.float64)
    scale = 1e-12 * np.abs(X).max()
    core = t.apply(X)
    assert core.shape == (t.layout[0], math.prod(t.layout[1:]))
    assert core.flags.c_contiguous
    form = restored(t, X)
    assert form.shape == shape
    np.testing.assert_allclose(form.dense(), X, rtol=0, atol=scale)
    assert np.linalg.norm(core / (scale or 1)) == pytest.approx(np.linalg.norm(X / (scale or 1)))
    assert sum(leaf.factor.nbytes for leaf in form.leaves().values()) == core.nbytes + t.cost
    again = from_skeleton(form.skeleton(), {name: leaf.factor for name, leaf in form.leaves().items()})
    np.testing.assert_array_equal(again.dense(), form.dense())
    assert (t.saving > 0) == bool(t.stages)


@pytest.mark.parametrize("scale", [2.0**100, 2.0**-100, 2.0**-3])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_scale_by_powers_of_two_changes_nothing(scale: float, dtype: str) -> None:
    W = smooth((32, 16, 3, 3), (2, 3)).astype(dtype)
    t, u = choose(W, distortion=0.01), choose((W * scale).astype(dtype), distortion=0.01)
    assert t.saving == u.saving
    for a, b in zip(t.stages, u.stages, strict=True):
        assert a.reading == b.reading
        np.testing.assert_array_equal(a.codes, b.codes)


def test_same_input_same_codes_whatever_the_memory_order() -> None:
    W = smooth((32, 16, 3, 3), (2, 3))
    t, u = choose(W, step=0.3), choose(np.asfortranarray(W), step=0.3)
    assert len(t.stages) == len(u.stages) >= 1
    for a, b in zip(t.bases, u.bases, strict=True):
        np.testing.assert_array_equal(a.codes, b.codes)


def test_the_number_of_blas_threads_changes_nothing() -> None:
    W = smooth((128, 24, 3, 3), (1, 2, 3), 0.95).astype(np.float32)
    found = []
    for threads in (1, 2):
        with threadpool_limits(threads):
            t = choose(W, distortion=1 / 64)
            found.append((t.saving, *(s.codes.tobytes() for s in t.bases), t.apply(W).tobytes()))
    assert found[0] == found[1]


def test_step_and_distortion_are_two_words_for_one_thing() -> None:
    W = smooth((32, 16, 3, 3), (2, 3))
    t, u = choose(W, distortion=0.01), choose(W, step=step_for(W, 0.01))
    assert t.saving == u.saving
    assert step_for(W, 0.01) == pytest.approx(math.sqrt(0.12 * np.mean(W**2)))


def test_more_vectors_take_finer_angles() -> None:
    few, many = (choose(smooth((n, n, 3, 3), (2, 3)), distortion=1 / 64).stages[0].bits for n in (16, 128))
    assert few < many


def test_outliers_do_not_grow_tables() -> None:
    W = np.random.default_rng(0).standard_cauchy((64, 16, 3, 3)) * 1e6
    choose(W, step=1.0)


# Estimates -----------------------------------------------------------------------------------------------------------


def test_table_bits_by_hand() -> None:
    """Two symbols 0, 1 with starts A p: the sequence's probability is a product of predictions."""
    a = np.array([[0, 1, 1, 0]])
    mean = 0.5
    q = mean / (math.sqrt(1 + mean * mean) + 1)
    p = np.array([1.0, 2 * q]) / (1 + 2 * q)
    counts, bits = np.zeros(2), 0.0
    for symbol in a[0]:
        bits -= math.log2((8 * p[symbol] + counts[symbol]) / (8 + counts.sum()))
        counts[symbol] += 1
    assert table_bits(a) == pytest.approx(bits + 12)


def test_quantized_cost_of_a_gaussian_is_its_entropy() -> None:
    x = np.random.default_rng(0).standard_normal((1, 100_000))
    step = 0.25
    expected = entropy(x, step) / x.size + 0.5 / math.log(2)
    assert quantized_cost(x, (1, 1000, 100), step) / x.size == pytest.approx(expected, abs=0.005)
    ideal = float(gaussian_cost(np.array([1.0]), step)[0])
    assert expected == pytest.approx(ideal + 0.5 * math.log2(math.pi * math.e / 6), abs=0.01)


def test_rows_of_many_sizes_are_cheaper_than_one_table() -> None:
    x = np.random.default_rng(0).standard_normal((64, 256)) * np.logspace(-1, 1, 64)[:, None]
    assert quantized_cost(x.reshape(1, -1), (1, 64, 256), 0.3) < 0.95 * quantized_cost(
        x.reshape(1, -1), (1, 1, x.size), 0.3
    )


@pytest.mark.parametrize(
    "arguments", [{}, {"step": 0.1, "distortion": 0.1}, {"step": 0.0}, {"distortion": -1.0}, {"step": math.nan},
                  {"distortion": math.inf}],
)  # fmt: skip
def test_refusals(arguments: dict[str, float]) -> None:
    with pytest.raises(ArgumentError):
        choose(np.ones((20, 20)), **arguments)


def test_refuses_vectors_and_nan() -> None:
    with pytest.raises(ArgumentError, match="W"):
        choose(np.ones(400), step=0.1)
    W = np.ones((20, 20))
    W[3, 4] = np.nan
    with pytest.raises(ArgumentError, match="non-finite"):
        choose(W, step=0.1)
