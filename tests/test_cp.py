"""CP factorisation through the front door: readings, what is stored, exact answers, equivariance, sizes, refusals."""

from __future__ import annotations

import json
import math
import re
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import ml_dtypes
import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import bits_of, stored
from threadpoolctl import threadpool_limits

import factorq as fq
from factorq.codecs import Dense, Integers
from factorq.errors import ArgumentError, ArgumentTypeError
from factorq.measure import gaussian_floor
from factorq.methods import CP
from factorq.methods.cp import budget
from factorq.methods.cp.reading import sizes
from factorq.named import build
from factorq.solvers.cp import admm
from factorq.solvers.loop import Progress

DTYPES = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16, "float32": np.float32, "float64": np.float64}
SOLVERS = ("coordinate", "admm", "als")


def draw(shape: Sequence[int], seed: int = 0, dtype: Any = np.float32) -> Any:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def dense(factors: Sequence[Any], weights: Any = None) -> Any:
    letters = ascii_lowercase[: len(factors)]
    w = np.ones(factors[0].shape[1]) if weights is None else weights
    return np.einsum("z," + ",".join(f"{k}z" for k in letters) + "->" + letters, w, *factors)


def planted(shape: Sequence[int], r: int, seed: int = 0, noise: float = 0.1, dtype: Any = np.float32) -> Any:
    rng = np.random.default_rng(seed)
    X = dense([rng.standard_normal((n, r)) for n in shape])
    return (X + noise * np.sqrt(np.mean(X**2)) * rng.standard_normal(shape)).astype(dtype)


def whole(shape: Sequence[int], r: int, most: int, seed: int = 0) -> tuple[Any, list[Any], Any]:
    """An array of integer factors with distinct weights, each column with its largest level; weights, factors."""
    rng = np.random.default_rng(seed)
    factors = [rng.integers(-most, most + 1, (n, r)).astype(float) for n in shape]
    for F in factors:
        F[rng.integers(0, len(F), r), np.arange(r)] = most
    weights = 1.5 ** np.arange(r) / 7
    return dense(factors, weights), factors, weights


def error(F: fq.Factorization, W: Any) -> float:
    lost = np.float64(W) - np.float64(F.to_dense())
    return float(np.linalg.norm(lost) / np.linalg.norm(np.float64(W)))


def codes(F: fq.Factorization) -> list[Any]:
    """The factors without the weights, decoded: (.., r) each."""
    return [leaf.decode().astype(np.float64) for name, leaf in F.encoded.items() if name != "weights"]


P, N = planted((14, 13, 9), 10), draw((12, 10, 9))
KERNEL = planted((8, 6, 9), 5).reshape(8, 6, 3, 3)
CHEAP: dict[str, Any] = {"anneal": 16, "max_iter": 12}


# How an array is read.

READINGS = {
    (64, 32, 3, 3): ("64|32|3,3", "64|32|3,3", "64|32|3|3"),
    (64, 32, 1, 1): ("64|32,1,1", "64|32,1,1", "64|32,1,1"),
    (32, 1, 3, 3): ("32,1|3,3", "32,1|3,3", "32,1|3|3"),
    (1, 8, 3, 3): ("1,8|3,3", "1,8|3,3", "1,8|3|3"),
    (6, 5, 4, 3): ("6|5|4|3", "6|5|4,3", "6|5|4|3"),
    (8, 7, 6): ("8|7|6",) * 3,
    (5, 4): ("5|4",) * 3,
    (4, 3, 3, 3, 3): ("4|3|3,3,3", "4|3|3,3,3", "4|3|3|3|3"),
    (1, 1, 1): ("1,1|1",) * 3,
    (2, 1): ("2|1",) * 3,
    (1, 1): ("1|1",) * 3,
    (1, 1, 1, 1): ("1,1|1,1", "1,1|1,1", "1,1,1|1"),
    (8, 4, 1, 7): ("8|4|1,7", "8|4|1,7", "8|4,1|7"),
    (8, 4, 7, 1): ("8|4|7,1", "8|4|7,1", "8|4|7,1"),
    (4, 3, 17, 17): ("4|3|17|17", "4|3|17,17", "4|3|17|17"),
    (4, 3, 2, 2, 2, 2): ("4|3|2|2|2|2", "4|3|2,2,2,2", "4|3|2|2|2|2"),
    (7, 1, 6): ("7,1|6",) * 3,
}


@pytest.mark.parametrize(("shape", "readings"), READINGS.items(), ids=map(str, READINGS))
def test_readings(shape: tuple[int, ...], readings: tuple[str, ...]) -> None:
    for modes, text in zip(("auto", "kernel", "all"), readings, strict=True):
        want = tuple(tuple(map(int, group.split(","))) for group in text.split("|"))
        method = CP(2, modes=modes)  # type: ignore[arg-type]
        axes = method.axes(shape)
        assert axes == want
        assert sum(axes, ()) == shape  # every axis once, in order
        assert len(axes) >= 2
        assert sizes(axes) == tuple(map(math.prod, want))


@pytest.mark.parametrize("modes", ["auto", "kernel", "all"])
@pytest.mark.parametrize("shape", [s for s in READINGS if math.prod(s) < 1000], ids=str)
def test_every_reading_is_solved(shape: tuple[int, ...], modes: Any) -> None:
    W = draw(shape) + 1
    for bits in (None, 4) if modes == "auto" else (4,):
        F = fq.decompose(W, method=CP(2, bits, modes=modes, anneal=8, max_iter=4))
        axes = F.method.axes(shape)
        assert F.shape == F.to_dense().shape == shape
        assert [Z.shape for Z in codes(F)] == [(*group, 2) for group in axes]
        assert f"read as {'x'.join(map(str, sizes(axes)))}" in F.status
        assert F.relative_error == pytest.approx(error(F, W), rel=1e-6, abs=1e-9)
        assert F.relative_error < 1


@pytest.mark.parametrize("shape", READINGS, ids=str)
@pytest.mark.parametrize("rate", [0.5, 1, 1.7, 2.0, 50])
def test_reduction_is_a_share_of_the_parameters(shape: tuple[int, ...], rate: float) -> None:
    for modes in ("auto", "kernel", "all"):
        method = CP(reduction=rate, modes=modes)  # type: ignore[arg-type]
        n = sizes(method.axes(shape))
        assert method.terms(shape) == max(1, math.floor(math.prod(n) / sum(n) / rate))
    assert CP(7).terms(shape) == 7


def test_reduction_of_a_layer_as_published() -> None:
    """ResNet-18 at rate 2: 134, 278, 566, 1141 terms."""
    found = [CP(reduction=2).terms((n, n, 3, 3)) for n in (64, 128, 256, 512)]
    assert found == [134, 278, 566, 1141]
    F = fq.decompose(KERNEL, method=CP(reduction=2.0, bits=4, **CHEAP))
    assert codes(F)[0].shape[-1] == math.floor(8 * 6 * 9 / (8 + 6 + 9) / 2)
    assert F.method == CP(reduction=2.0, bits=4, **CHEAP)


# What is stored.


@pytest.mark.parametrize("grid", ["auto", "integer", "half"])
@pytest.mark.parametrize("bits", [1, 2, 5, 8, 16, (4, 3, 8), (1, 9, 2)], ids=str)
def test_factors_are_whole_numbers_within_their_bits(bits: Any, grid: Any) -> None:
    F = fq.decompose(P, method=CP(6, bits, grid=grid, anneal=8, max_iter=4))
    widths = bits if isinstance(bits, tuple) else (bits,) * 3
    assert F.method.widths(P.shape) == widths
    assert list(F.encoded) == ["weights", "factor0", "factor1", "factor2"]
    for Z, b, encoded in zip(codes(F), widths, list(F.encoded.values())[1:], strict=True):
        assert isinstance(encoded, Integers)
        assert encoded.bits == b
        np.testing.assert_array_equal(Z, np.rint(Z))
        odd = bool((Z % 2 == 1).all()) and b > 0 and (grid != "integer" or b == 1)
        assert np.abs(Z).max() <= (2**b - 1 if odd else 2 ** (b - 1) - 1)
        if grid == "half" or b == 1:
            assert odd
    weights = F.encoded["weights"].decode()
    assert weights.shape == (1, 6)
    assert np.all(weights >= 0)
    np.testing.assert_allclose(
        F.to_dense(), dense(codes(F), np.float64(weights[0])), atol=1e-4 * float(np.abs(P).max())
    )
    if grid != "auto":
        assert ("odd integers" in F.status) == (grid == "half" or 1 in widths)


@pytest.mark.parametrize("dtype", DTYPES)
def test_factors_as_users_see_them_are_whole(dtype: str) -> None:
    F = fq.decompose(P.astype(DTYPES[dtype]), method=CP(6, 4, **CHEAP))
    weights, *factors = F.factors
    for Z in factors:
        Z = np.asarray(Z, np.float64)
        np.testing.assert_array_equal(Z, np.rint(Z))
        assert np.abs(Z).max() <= 15
    assert F.dtype == np.asarray(weights).dtype == DTYPES[dtype]


def test_terms_come_largest_first_with_positive_weights_and_peaks() -> None:
    for bits in (None, 4):
        F = fq.decompose(P, method=CP(6, bits, **CHEAP))
        weights, factors = np.float64(F.encoded["weights"].decode()[0]), codes(F)
        norms = weights * np.prod([np.linalg.norm(Z, axis=0) for Z in factors], axis=0)
        assert np.all(weights >= 0)
        assert np.all(norms[1:] <= norms[:-1] * (1 + 1e-3))
        for Z in factors[:-1]:
            assert np.all(Z[np.abs(Z).argmax(axis=0), np.arange(6)] > 0)


@pytest.mark.parametrize("bits", [None, 1, 3, 4, (4, 3, 8), 16], ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_size_is_the_formula(dtype: str, bits: Any) -> None:
    """Packed integers, a float16 for each weight of a noisy array; everything in W's dtype without bits."""
    r, method = 6, CP(6, bits, anneal=8, max_iter=4)
    F = fq.decompose(P.astype(DTYPES[dtype]), method=method)
    if bits is None:
        want = np.dtype(DTYPES[dtype]).itemsize * r * (sum(P.shape) + 1)
        assert {array.dtype for array in F.buffers().values()} == {np.dtype(DTYPES[dtype])}
    else:
        widths = bits if isinstance(bits, tuple) else (bits,) * 3
        want = sum(math.ceil(n * r * b / 8) for n, b in zip(P.shape, widths, strict=True)) + 2 * r
        assert F.encoded["weights"].buffers()["values"].dtype == np.float16
        assert method.expected(P.shape, dtype) == want
        assert method.nbytes(P.shape, dtype) == want + r * (max(2, np.dtype(DTYPES[dtype]).itemsize) - 2)
    assert F.nbytes == sum(array.nbytes for array in F.buffers().values()) == want
    assert F.nbytes <= method.nbytes(P.shape, dtype)
    assert F.bits_per_weight == 8 * F.nbytes / P.size


def test_weights_are_as_wide_as_exactness_needs() -> None:
    X = whole((8, 7, 6), 3, 7)[0]
    for dtype, bar in ((np.float32, 1e-6), (np.float64, 1e-12)):
        F = fq.decompose(X.astype(dtype), method=CP(3, 4))
        assert F.relative_error < bar
        assert F.encoded["weights"].buffers()["values"].dtype == dtype
        noisy = fq.decompose((X + 0.05 * np.abs(X).max() * draw(X.shape)).astype(dtype), method=CP(3, 4))
        assert noisy.encoded["weights"].buffers()["values"].dtype == np.float16
    for half in ("float16", "bfloat16"):
        F = fq.decompose(X.astype(DTYPES[half]), method=CP(3, 4))
        assert isinstance(F.encoded["weights"], Dense)
        assert F.encoded["weights"].buffers()["values"].dtype == np.float16
        assert F.relative_error < 0.01


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("bits", [1, 4, 16])
def test_what_is_stored_is_what_was_solved(bits: int, solver: Any) -> None:
    """Narrow weights, order and signs raise the error by a thousandth at most."""
    for seed, noise in ((0, 0.5), (1, 0.003)):
        W = planted((9, 8, 7), 4, seed, noise, np.float64)
        F = fq.decompose(W, method=CP(4, bits, solver, anneal=16, max_iter=6))
        assert F.relative_error == pytest.approx(error(F, W), rel=1e-9)
        assert F.relative_error <= min(F.history) * (1 + 1.2e-3)


def test_entropy_coding_changes_no_bit() -> None:
    method = CP(10, 4, **CHEAP)
    packed, coded = fq.decompose(P, method=method), fq.decompose(P, method=method, store="entropy")
    assert bits_of(packed.to_dense()) == bits_of(coded.to_dense())
    assert coded.nbytes <= packed.nbytes


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_gaussians_keep_above_shannons_line(bits: int) -> None:
    for W in (N, draw((40, 30), 1), draw((12, 8, 3, 3), 2)):
        for rank in (2, 8, 20):
            F = fq.decompose(W, method=CP(rank, bits, **CHEAP))
            assert F.relative_error**2 >= gaussian_floor(F.bits_per_weight)


# Exact answers.


@pytest.mark.parametrize(("dtype", "bar"), [(np.float32, 1e-6), (np.float64, 1e-12)])
@pytest.mark.parametrize(
    ("shape", "bits", "most"), [((8, 7, 6), 4, 7), ((9, 8), 3, 3), ((6, 5, 4, 5), 4, 7), ((8, 7, 6), 8, 127)]
)
def test_planted_integers_come_back(shape: tuple[int, ...], bits: int, most: int, dtype: Any, bar: float) -> None:
    """From the truth and from a perturbed start: the same columns, up to order and signs in pairs."""
    X, factors, weights = whole(shape, 3, most)
    W = X.astype(dtype)
    rng = np.random.default_rng(1)
    perturbed = [F + 0.02 * rng.standard_normal(F.shape) for F in factors]
    for start in (factors, perturbed):
        F = fq.decompose(W, method=CP(3, bits, init=(weights, start), grid="integer", anneal=0))
        assert F.relative_error < bar
        order = np.argsort(-weights * np.prod([np.linalg.norm(A, axis=0) for A in factors], axis=0))
        for Z, A in zip(codes(F), factors, strict=True):
            np.testing.assert_array_equal(np.abs(Z), np.abs(A[:, order]))
        np.testing.assert_allclose(
            dense(codes(F), np.float64(F.encoded["weights"].decode()[0])), X, atol=1e-5 * np.abs(X).max()
        )


@pytest.mark.parametrize("rank", [1, 3, 8])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_real_factors_of_a_matrix_are_its_singular_value_decomposition(rank: int, dtype: Any) -> None:
    W = draw((20, 14), 1, dtype)
    F = fq.decompose(W, method=CP(rank))
    values = np.linalg.svd(W.astype(float), compute_uv=False)
    want = math.sqrt(np.sum(values[rank:] ** 2) / np.sum(values**2))
    assert F.relative_error == pytest.approx(want, rel=1e-5)
    assert F.relative_error == pytest.approx(fq.decompose(W, method=fq.SVD(rank)).relative_error, rel=1e-5)
    np.testing.assert_allclose(np.float64(F.encoded["weights"].decode()[0]), values[:rank], rtol=1e-4)


def test_matrices_in_few_bits() -> None:
    W = planted((24, 20), 5, 1)
    best = fq.decompose(W, method=CP(5)).relative_error
    errors = [fq.decompose(W, method=CP(5, bits)).relative_error for bits in (2, 4, 6, 10)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1.01 * best
    assert fq.decompose(W, method=CP(30, 4)).relative_error < best  # more terms than rows and columns
    x = draw((20,), 5)
    F = fq.decompose(W, method=CP(5, 4))
    np.testing.assert_allclose(F @ x, F.to_dense() @ x, atol=1e-4)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("init", ["random", "svd"])
def test_exact_low_rank_is_recovered(init: Any, seed: int) -> None:
    W = planted((9, 8, 7), 3, seed, 0.0, np.float64)
    F = fq.decompose(W, method=CP(3, init=init, max_iter=600, tol=0.0), rng=seed)
    assert F.relative_error < 1e-10


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("bits", [None, 4])
def test_more_terms_than_any_axis(bits: Any, solver: Any) -> None:
    if bits is None and solver == "admm":
        solver = "als"
    W = draw((6, 5, 4), 3)
    F = fq.decompose(W, method=CP(40, bits, solver, **CHEAP))
    assert codes(F)[0].shape == (6, 40)
    assert np.isfinite(F.to_dense()).all()
    assert F.relative_error < (1e-2 if bits is None else 0.7)


def test_collinear_terms() -> None:
    rng = np.random.default_rng(0)
    factors = [rng.standard_normal((n, 1)) + 0.1 * rng.standard_normal((n, 4)) for n in (12, 11, 10)]
    W = dense(factors).astype(np.float32)
    for correction in (0.0, 0.05):
        F = fq.decompose(W, method=CP(4, correction=correction))
        assert F.relative_error < 0.01
        G = fq.decompose(W, method=CP(4, 6, correction=correction))
        assert G.relative_error < 0.05


DEGENERATE = {
    "zero": np.zeros((5, 4, 3)),
    "zero kernel": np.zeros((4, 3, 3, 3)),
    "constant": np.full((5, 4, 3), 0.7),
    "minus one": -np.ones((4, 4)),
    "one entry": np.eye(5, 20).reshape(5, 4, 5) * np.eye(5)[0],
    "tiny": 1e-300 * draw((4, 4, 4)).astype(float),
    "huge": 1e300 * draw((4, 4, 4)).astype(float),
    "1x1x1": np.full((1, 1, 1), 3.0),
    "2x1": np.array([[1.0], [-2.0]]),
    "one row": draw((1, 9, 5)),
    "float16": np.full((3, 3, 3), 65504, np.float16),
}


@pytest.mark.parametrize("W", DEGENERATE.values(), ids=list(DEGENERATE))
@pytest.mark.parametrize("bits", [None, 1, 4])
@pytest.mark.parametrize("solver", SOLVERS)
def test_degenerate_arrays(W: Any, bits: Any, solver: Any) -> None:
    if bits is None and solver != "coordinate":
        pytest.skip("real factors have one solver")
    before = bits_of(W)
    method = CP(3, bits, solver, anneal=8, max_iter=4)
    F = fq.decompose(W, method=method)
    D = np.float64(F.to_dense())
    assert bits_of(W) == before
    assert np.isfinite(D).all()
    assert F.relative_error <= 1 + 1e-6
    assert F.nbytes <= method.nbytes(W.shape, W.dtype.name)
    assert F.history
    if not W.any():
        assert F.relative_error == 0
        assert not D.any()
        assert "zero" in F.status
    elif np.ptp(W) == 0:
        assert F.relative_error < 6 * 2.0**-11  # one term of any grid, in float16 at the least


# Better and worse.


@pytest.mark.parametrize("bits", [4, 3, 2])
@pytest.mark.parametrize("W", [P, N], ids=["planted", "gaussian"])
def test_the_order_of_the_solvers(W: Any, bits: int) -> None:
    """Rounding, the alternating direction method, annealed coordinate moves: each is no worse than the one before."""
    by = {s: fq.decompose(W, method=CP(12, bits, s)).relative_error for s in SOLVERS}
    assert by["admm"] <= by["als"]
    assert by["coordinate"] <= by["admm"]


def test_more_bits_less_error_and_many_bits_the_error_of_real_factors() -> None:
    real = fq.decompose(P, method=CP(10)).relative_error
    errors = [fq.decompose(P, method=CP(10, bits)).relative_error for bits in (1, 2, 3, 4, 6, 8, 12, 16)]
    for more, fewer in zip(errors[1:], errors, strict=False):
        assert more <= 1.005 * fewer
    assert errors[3] < 0.5 * errors[1]
    assert errors[-1] == pytest.approx(real, rel=1e-3)


def test_the_best_of_several_starts() -> None:
    """The first of them is the one there would be alone."""
    gains = []
    for bits in (None, 2, 4):
        ends = [fq.decompose(P, method=CP(8, bits, starts=k, **CHEAP)).history[-1] for k in (1, 2, 4)]
        assert ends[0] >= ends[1] >= ends[2]
        gains.append(ends[0] - ends[2])
    assert max(gains) > 0


def test_correction_makes_terms_smaller() -> None:
    W = draw((16, 14, 9))
    norms = []
    for correction in (0.0, 0.1):
        F = fq.decompose(W, method=CP(12, correction=correction, anneal=0, max_iter=60))
        weights = np.float64(F.encoded["weights"].decode()[0])
        norms.append(np.sum(weights**2))
        assert ("terms made smaller" in F.status) == bool(correction)
        assert F.relative_error <= min(F.history) * (1 + correction) * 1.001
    assert norms[1] < 0.3 * norms[0]


def test_budgets_of_sweeps() -> None:
    assert budget.sweeps((12, 10, 9), 8) == 160
    assert budget.sweeps((2048, 2048, 9), 2000) == 24
    for anneal in (None, 24):
        assert f"annealed in {anneal or 160} sweeps" in fq.decompose(N, method=CP(12, 2, anneal=anneal)).status
    assert "annealed" not in fq.decompose(N, method=CP(12, 2, anneal=0)).status


@pytest.mark.parametrize(
    ("shape", "rank", "bits"), [((64, 64, 9), 200, 4), ((64, 64, 9), 200, None), ((96, 80), 60, 3)]
)
def test_peak_memory_is_below_the_estimate(shape: tuple[int, ...], rank: int, bits: Any) -> None:
    """Without what compiled kernels take, which the estimate counts on top."""
    W = draw(shape)
    fq.decompose(W[:4], method=CP(2, bits, anneal=1, max_iter=1))
    tracemalloc.start()
    fq.decompose(W, method=CP(rank, bits, anneal=8, max_iter=2))
    used = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert used < budget.peak(shape, rank, 4)
    assert budget.peak(shape, rank, 4) < 32 * 2**20 + 5 * used


# Symmetries.


@pytest.mark.parametrize("exponent", [-100, 20])
@pytest.mark.parametrize("bits", [None, 1, 4, 8])
def test_powers_of_two_scale_the_result_bit_for_bit(bits: Any, exponent: int) -> None:
    for dtype, solver in (("float32", "coordinate"), ("float64", "als")):
        W, factor = N.astype(dtype), np.dtype(dtype).type(2.0**exponent)
        method = CP(6, bits, solver, anneal=8, max_iter=6)  # type: ignore[arg-type]
        F, G = fq.decompose(W, method=method), fq.decompose(W * factor, method=method)
        assert bits_of(G.to_dense()) == bits_of(F.to_dense() * factor)
        assert (G.relative_error, G.nbytes, G.status) == (F.relative_error, F.nbytes, F.status)
        for name in list(F.encoded)[1:] if bits else ():
            assert F.encoded[name].codes.tobytes() == G.encoded[name].codes.tobytes()


@pytest.mark.parametrize("grid", ["integer", "half"])
@pytest.mark.parametrize("bits", [None, 2, 4])
def test_negated_arrays_from_a_negated_start(bits: Any, grid: Any) -> None:
    W = P.astype(np.float64)
    start = [draw((n, 6), k, np.float64) for k, n in enumerate(W.shape)]
    F = fq.decompose(W, method=CP(6, bits, init=(None, start), grid=grid, anneal=0))
    G = fq.decompose(-W, method=CP(6, bits, init=(None, [-start[0], *start[1:]]), grid=grid, anneal=0))
    np.testing.assert_allclose(G.to_dense(), -F.to_dense(), atol=1e-12 * np.abs(W).max())
    assert G.relative_error == pytest.approx(F.relative_error, rel=1e-12)


@settings(max_examples=6)
@given(st.integers(0, 2**31), st.sampled_from([None, 3, 5]))
def test_permuted_slices_from_a_permuted_start(seed: int, bits: Any) -> None:
    rng = np.random.default_rng(seed)
    W = P.astype(np.float64)
    start = [rng.standard_normal((n, 5)) for n in W.shape]
    orders = [rng.permutation(n) for n in W.shape]
    F = fq.decompose(W, method=CP(5, bits, init=(None, start), anneal=0, max_iter=5, tol=0.0))
    moved = [A[order] for A, order in zip(start, orders, strict=True)]
    G = fq.decompose(W[np.ix_(*orders)], method=CP(5, bits, init=(None, moved), anneal=0, max_iter=5, tol=0.0))
    assert G.relative_error == pytest.approx(F.relative_error, rel=1e-6)
    np.testing.assert_allclose(G.to_dense(), F.to_dense()[np.ix_(*orders)], atol=1e-6 * np.abs(W).max())


def test_same_seed_same_bytes_other_seed_others() -> None:
    for bits in (None, 4):
        method = CP(6, bits, starts=2, **CHEAP)
        runs = [fq.decompose(N, method=method, rng=seed) for seed in (None, 0, 0, 1)]
        assert stored(runs[0]) == stored(runs[1]) == stored(runs[2])
        assert runs[1].record() == runs[2].record()
        assert stored(runs[3]) != stored(runs[1])
        given_ = fq.decompose(N, method=method, rng=np.random.default_rng(0))
        assert stored(given_) == stored(runs[1])
        told = fq.decompose(N, method=method, rng=0, callback=lambda progress: None)
        assert stored(told) == stored(runs[1])


@pytest.mark.parametrize("bits", [None, 4])
def test_threads_change_nothing(bits: Any) -> None:
    W = planted((48, 40, 9), 12)
    before = numba.get_num_threads()
    results = []
    try:
        for threads in (1, 2):
            numba.set_num_threads(min(threads, before))
            with threadpool_limits(limits=threads, user_api="blas"):
                results.append(stored(fq.decompose(W, method=CP(24, bits, **CHEAP))))
    finally:
        numba.set_num_threads(before)
    assert results[0] == results[1]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bits", [None, 4])
def test_every_dtype(dtype: str, bits: Any) -> None:
    W = P.astype(DTYPES[dtype])
    F = fq.decompose(W, method=CP(8, bits, **CHEAP))
    assert F.dtype == F.to_dense().dtype == DTYPES[dtype]
    want = fq.decompose(P, method=CP(8, bits, **CHEAP)).relative_error
    assert F.relative_error == pytest.approx(want, rel=0.1)
    assert F.relative_error == pytest.approx(error(F, W), rel=1e-9)


# Given starts.


def test_nothing_that_is_given_changes() -> None:
    W, weights = P.copy(), np.arange(1.0, 6.0)
    factors = [draw((n, 5), k) for k, n in enumerate(W.shape)]
    before = [bits_of(x) for x in (W, weights, *factors)]
    for x in (W, weights, *factors):
        x.flags.writeable = False
    for bits, solver in ((None, "als"), (3, "coordinate"), (3, "admm"), (3, "als")):
        fq.decompose(W, method=CP(5, bits, solver, init=(weights, factors), correction=0.05, **CHEAP))
    assert [bits_of(x) for x in (W, weights, *factors)] == before


def test_a_start_is_copied_when_the_method_is_made() -> None:
    factors = [draw((n, 5), k, np.float64) for k, n in enumerate(P.shape)]
    method = CP(5, 3, init=(None, factors), **CHEAP)
    want = stored(fq.decompose(P, method=method))
    for F in factors:
        F[:] = np.nan
    assert stored(fq.decompose(P, method=method)) == want


def test_cp_tensors_of_tensorly_are_starts() -> None:
    cp_tensor = pytest.importorskip("tensorly.cp_tensor", reason="TensorLy is not installed")
    weights = np.array([1.0, -2.0, 0.5])
    factors = [draw((n, 3), k, np.float64) for k, n in enumerate(P.shape)]
    start = cp_tensor.CPTensor((weights, factors))
    before = [bits_of(x) for x in (start.weights, *start.factors)]
    for bits in (None, 4):
        F = fq.decompose(P, method=CP(3, bits, init=start, **CHEAP))
        pair = fq.decompose(P, method=CP(3, bits, init=(weights, factors), **CHEAP))
        merged = fq.decompose(P, method=CP(3, bits, init=(None, [factors[0] * weights, *factors[1:]]), **CHEAP))
        assert stored(F) == stored(pair) == stored(merged)
    assert [bits_of(x) for x in (start.weights, *start.factors)] == before


def test_a_start_is_of_the_array_as_it_is() -> None:
    """Real factors of an exact tensor of a size far from 1 stay what they are, and of kernels read as one mode."""
    for scale in (1e-12, 1.0, 1e9):
        factors = [draw((n, 3), k, np.float64) for k, n in enumerate((8, 6, 9))]
        W = scale * dense(factors).reshape(8, 6, 3, 3)
        F = fq.decompose(W, method=CP(3, init=(np.full(3, scale), factors), anneal=0, max_iter=1))
        assert F.history[0] < 1e-12
        assert F.relative_error < 1e-12


# Files, plans, interchange.

METHODS = [
    CP(4), CP(4, 4), CP(4, (4, 3, 8)), CP(reduction=2.0, bits=3), CP(4, 2, "admm", paper=True), CP(4, solver="als"),
    CP(4, 3, grid="half", modes="all", init="svd", starts=3, anneal=0, correction=0.1, max_iter=7, tol=0.0),
    CP(np.int64(4), np.int64(3)), CP(2, init=(None, [np.ones((5, 2)), np.ones((4, 2))])),
]  # fmt: skip


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_methods_survive_json(method: CP) -> None:
    again = build("methods", json.loads(json.dumps(method.config(), allow_nan=False)))
    assert (again, hash(again), repr(again), type(again)) == (method, hash(method), repr(method), CP)
    assert "given" not in method.config()
    assert again != CP(5)


@pytest.mark.parametrize("bits", [None, 4, (4, 1, 9)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_files_keep_every_bit(dtype: str, bits: Any, tmp_path: Path) -> None:
    W = KERNEL.astype(DTYPES[dtype])
    F = fq.decompose(W, method=CP(5, bits, **CHEAP))
    fq.save(tmp_path / "w.safetensors", {"conv": F})
    G = fq.load(tmp_path / "w.safetensors")["conv"]
    assert isinstance(G, fq.Factorization)
    assert stored(G) == stored(F)
    assert bits_of(G.to_dense()) == bits_of(F.to_dense())
    assert (G.method, G.record(), G.shape) == (F.method, F.record(), (8, 6, 3, 3))


def test_a_method_with_given_factors_comes_back_from_a_file_without_them(tmp_path: Path) -> None:
    factors = [draw((n, 3), k, np.float64) for k, n in enumerate(P.shape)]
    F = fq.decompose(P, method=CP(3, 4, init=(None, factors), **CHEAP))
    fq.save(tmp_path / "w.safetensors", {"w": F})
    G = fq.load(tmp_path / "w.safetensors")["w"]
    assert isinstance(G, fq.Factorization)
    method = G.method
    assert isinstance(method, CP)
    assert method == F.method
    assert method.init == "given"
    assert method.nbytes(P.shape, "float32") == F.method.nbytes(P.shape, "float32")
    for again in (method, CP(3, init="given")):
        with pytest.raises(ArgumentError, match=r"^init: .*from a file.*CPTensor"):
            fq.decompose(P, method=again)


@pytest.mark.parametrize("bits", [None, 4])
@pytest.mark.parametrize("W", [P, KERNEL, planted((9, 7), 3), planted((5, 4, 3, 6), 3)], ids=["3", "kernel", "2", "4"])
def test_tensorly_reads_the_result(W: Any, bits: Any) -> None:
    tensorly = pytest.importorskip("tensorly", reason="TensorLy is not installed")
    F = fq.decompose(W, method=CP(3, bits, **CHEAP))
    found = F.to_tensorly()
    assert found.rank == 3
    assert found.shape == sizes(F.method.axes(W.shape))
    np.testing.assert_allclose(
        tensorly.cp_to_tensor(found).reshape(W.shape), F.to_dense(), atol=1e-5 * float(np.abs(W).max())
    )
    again = fq.decompose(W, method=CP(3, bits, init=found, anneal=0))  # and back
    assert again.relative_error <= F.relative_error * 1.01


def test_plans_say_how_it_is_read_what_it_takes_and_what_else_there_is() -> None:
    plan = fq.explain(P, rank=5, bits=4)
    assert plan.method == CP(5, 4)
    assert "read as 14x13x9, 5 terms" in plan.reason
    peak = re.search(r"a peak of about (\d+) MiB beside W", plan.reason)
    assert peak is not None
    assert int(peak[1]) == round(budget.peak((14, 13, 9), 5, 4) / 2**20)
    assert "Trellis" in plan.reason
    assert "read as 8x6x9" in fq.explain(KERNEL, rank=5).reason
    assert "read as 8x6x9, 5 terms" in fq.explain(KERNEL.shape, rank=5).reason


def test_plans_know_where_the_method_is_the_better_way_to_store() -> None:
    """A tensor of rank 2, and one of noise."""
    low = fq.explain(planted((20, 20, 20), 2, 0, 1e-3), method=CP(2, 8))
    assert "CP may be the better way" in low.reason
    noise = fq.explain(draw((20, 20, 20)), method=CP(2, 8))
    assert re.search(r"prefer bits=[\d.]+ alone", noise.reason)
    for W in (np.zeros((4, 4, 4)), np.ones((4, 4, 4)), np.broadcast_to(np.float32(2.0), (4, 4, 4))):
        assert "read as 4x4x4" in fq.explain(W, method=CP(2, 8)).reason


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bits", [None, 4])
def test_plans_compare_at_the_bits_that_are_stored(dtype: str, bits: Any) -> None:
    """Those of the array's own dtype."""
    W = N.astype(DTYPES[dtype])
    F = fq.decompose(W, method=CP(5, bits, **CHEAP))
    plan = fq.explain(W, method=CP(5, bits, **CHEAP))
    found = re.search(r"at its ([\d.]+) bits per weight", plan.reason)
    assert found is not None
    assert float(found[1]) == pytest.approx(F.bits_per_weight, rel=0.01)
    assert plan.nbytes == CP(5, bits, **CHEAP).nbytes(W.shape, dtype)


# The front door.


def test_keywords_choose_it() -> None:
    assert fq.explain(P.shape, rank=5).method == CP(5)
    assert fq.explain(P.shape, rank=5, bits=4).method == CP(5, 4)
    assert fq.explain((9, 8), rank=5, method="cp").method == CP(5)
    F = fq.decompose(P, rank=5, bits=4)
    assert F.method == CP(5, 4)
    assert stored(F) == stored(fq.decompose(P, method=CP(5, 4)))


@pytest.mark.parametrize("method", [None, "cp"])
def test_bits_of_each_mode_by_keyword(method: Any) -> None:
    """One number for each factor, as many as there are modes."""
    F = fq.decompose(P, rank=5, bits=(4, 3, 8), method=method)
    assert F.method == CP(5, (4, 3, 8))
    assert [encoded.bits for encoded in F.encoded.values() if isinstance(encoded, Integers)] == [4, 3, 8]


@pytest.mark.parametrize("target", [0.9, 2.0])
def test_sizes_are_met(target: float) -> None:
    """Within 2 % under the target, with the rank free, and the bits where none are given."""
    W = planted((32, 32, 9), 40, 0, 0.3)
    F = fq.decompose(W, method="cp", bits_per_weight=target)
    assert 0.98 * target <= F.bits_per_weight <= target
    assert isinstance(F.method, CP)
    assert F.method.bits in (2, 3, 4, 5, 6, 8)
    assert F.relative_error < 0.6
    plan = fq.explain(W, method="cp", bits_per_weight=target)
    assert isinstance(plan.method, CP)
    assert f"{target:g} stored bits" in plan.reason


@pytest.mark.parametrize(
    ("method", "target"),
    [(CP(10, 4, anneal=8), 2.0), (CP(3, anneal=8), 6.0), (CP(reduction=2.0, bits=(4, 3, 8), anneal=8), 1.5)],
)
def test_sizes_leave_the_bits_of_a_method_as_they_are(method: CP, target: float) -> None:
    W = planted((32, 32, 9), 40, 0, 0.3)
    F = fq.decompose(W, method=method, bits_per_weight=target)
    assert isinstance(F.method, CP)
    assert F.method.bits == method.bits
    room = (sum(W.shape) + 1) * (32 if method.bits is None else 8) / W.size  # one more term
    assert target - room <= F.bits_per_weight <= target


def test_sizes_out_of_reach_are_refused() -> None:
    with pytest.raises(ArgumentError, match=r"^bits_per_weight: "):
        fq.decompose(draw((6, 5, 4)), method="cp", bits_per_weight=0.1)


def test_a_quick_version_takes_no_longer() -> None:
    for method in (CP(4, 3), CP(4, 3, anneal=500), CP(4, 3, anneal=8, max_iter=3), CP(4, 3, anneal=0), CP(4, starts=5)):
        quick = method.cheaper()
        assert isinstance(quick, CP)
        assert quick.starts == 1
        assert quick.max_iter <= method.max_iter
        assert quick.anneal is not None
        assert quick.anneal <= (160 if method.anneal is None else method.anneal)
        assert quick.nbytes(P.shape, "float32") == method.nbytes(P.shape, "float32")


@pytest.mark.parametrize(
    ("method", "words"),
    [
        (CP(4, max_iter=2, tol=0.0, anneal=0), "stopped at max_iter=2"),
        (CP(4, 4, max_iter=60), "converged after"),
        (CP(4, 4, "als", **CHEAP), "rounded"),
        (CP(4, 4, "admm", **CHEAP), "ADMM to"),
        (CP(4, 4, grid="half", **CHEAP), "odd integers"),
    ],
    ids=str,
)
def test_status_and_progress(method: CP, words: str) -> None:
    told: list[Progress] = []
    F = fq.decompose(P, method=method, callback=told.append)
    assert F.status.startswith("read as 14x13x9; ")
    assert words in F.status
    assert told
    assert all(1 <= p.step <= p.steps and math.isfinite(p.objective) and p.objective >= 0 for p in told)
    assert F.history == tuple(float(e) for e in F.history)
    errors, n = [p.objective for p in told], len(F.history)
    if method.solver != "als":  # the history is that of the last stage, on the grid that was kept
        assert list(F.history) in [errors[k : k + n] for k in range(len(errors))]
    assert len(F.history) <= method.max_iter
    if method.solver == "coordinate":
        assert all(after <= before * (1 + 1e-6) for before, after in zip(F.history, F.history[1:], strict=False))


@pytest.mark.parametrize("max_iter", [1, 2, 5])
def test_at_most_so_many_sweeps(max_iter: int) -> None:
    for bits, solver in ((None, "als"), (3, "coordinate"), (3, "admm")):
        F = fq.decompose(N, method=CP(6, bits, solver, anneal=0, max_iter=max_iter, tol=0.0))
        assert 1 <= len(F.history) <= max_iter


# As published.


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_as_published_the_last_iterate_is_what_is_stored(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admm, "_PAPER_INNER", 3)
    for seed, rank in ((0, 4), (1, 6)):
        W = planted((7, 6, 5), 3, seed, 0.3, np.float64)
        F = fq.decompose(W, method=CP(rank, bits, "admm", paper=True, anneal=8, max_iter=3))
        assert 1 <= len(F.history) <= 3
        assert "last iterate kept" in F.status
        assert F.relative_error == pytest.approx(F.history[-1], rel=2e-3)
        for Z in codes(F):
            np.testing.assert_array_equal(Z, np.rint(Z))
            assert Z.min() >= -(2 ** (bits - 1))
            assert Z.max() <= 2 ** (bits - 1) - 1


def test_as_published_with_999_inner_iterations() -> None:
    W = planted((3, 3, 2), 1, 0, 0.2, np.float64)
    F = fq.decompose(W, method=CP(1, 4, "admm", paper=True, anneal=8, max_iter=1))
    assert len(F.history) == 1
    assert F.relative_error < 0.5


# What is refused.

FACTORS = [np.ones((n, 2)) for n in P.shape]
BAD: dict[str, tuple[str, dict[str, Any]]] = {
    "no rank": ("rank", {}),
    "rank and reduction": ("rank", {"rank": 2, "reduction": 2.0}),
    "rank 0": ("rank", {"rank": 0}),
    "rank -1": ("rank", {"rank": -1}),
    "rank True": ("rank", {"rank": True}),
    "rank 2.5": ("rank", {"rank": 2.5}),
    "rank text": ("rank", {"rank": "2"}),
    "0 bits": ("bits", {"rank": 2, "bits": 0}),
    "17 bits": ("bits", {"rank": 2, "bits": 17}),
    "2.5 bits": ("bits", {"rank": 2, "bits": 2.5}),
    "bits True": ("bits", {"rank": 2, "bits": True}),
    "bits text": ("bits", {"rank": 2, "bits": "4"}),
    "a mode without bits": ("bits", {"rank": 2, "bits": (4, None, 4)}),
    "a mode of 0 bits": ("bits", {"rank": 2, "bits": (4, 0, 4)}),
    "two modes": ("bits", {"rank": 2, "bits": (4, 4)}),
    "four modes": ("bits", {"rank": 2, "bits": (4,) * 4}),
    "no modes": ("bits", {"rank": 2, "bits": ()}),
    "solver": ("solver", {"rank": 2, "solver": "sgd"}),
    "admm of real factors": ("solver", {"rank": 2, "solver": "admm"}),
    "reduction 0": ("reduction", {"reduction": 0}),
    "reduction -1": ("reduction", {"reduction": -1.0}),
    "reduction nan": ("reduction", {"reduction": math.nan}),
    "reduction inf": ("reduction", {"reduction": math.inf}),
    "reduction True": ("reduction", {"reduction": True}),
    "reduction text": ("reduction", {"reduction": "2"}),
    "grid": ("grid", {"rank": 2, "grid": "nf4"}),
    "modes": ("modes", {"rank": 2, "modes": "rows"}),
    "modes 3": ("modes", {"rank": 2, "modes": 3}),
    "init": ("init", {"rank": 2, "init": "pca"}),
    "init 5": ("init", {"rank": 2, "init": 5}),
    "init None": ("init", {"rank": 2, "init": None}),
    "init of one": ("init", {"rank": 2, "init": (None,)}),
    "init of words": ("init", {"rank": 2, "init": (None, ["a", "b", "c"])}),
    "init of other sizes": ("init", {"rank": 2, "init": (None, FACTORS[::-1])}),
    "init of other ranks": ("init", {"rank": 3, "init": (None, FACTORS)}),
    "init of two modes": ("init", {"rank": 2, "init": (None, FACTORS[:2])}),
    "init of no modes": ("init", {"rank": 2, "init": (None, [])}),
    "init of other weights": ("init", {"rank": 2, "init": (np.ones(3), FACTORS)}),
    "init not finite": ("init", {"rank": 2, "init": (None, [FACTORS[0] * np.nan, *FACTORS[1:]])}),
    "init of infinite weights": ("init", {"rank": 2, "init": (np.array([1.0, np.inf]), FACTORS)}),
    "starts 0": ("starts", {"rank": 2, "starts": 0}),
    "starts 65": ("starts", {"rank": 2, "starts": 65}),
    "starts 1.5": ("starts", {"rank": 2, "starts": 1.5}),
    "starts True": ("starts", {"rank": 2, "starts": True}),
    "anneal -1": ("anneal", {"rank": 2, "anneal": -1}),
    "anneal 1.5": ("anneal", {"rank": 2, "anneal": 1.5}),
    "anneal True": ("anneal", {"rank": 2, "anneal": True}),
    "correction -0.1": ("correction", {"rank": 2, "correction": -0.1}),
    "correction 1": ("correction", {"rank": 2, "correction": 1.0}),
    "correction nan": ("correction", {"rank": 2, "correction": math.nan}),
    "correction True": ("correction", {"rank": 2, "correction": True}),
    "correction text": ("correction", {"rank": 2, "correction": "0.1"}),
    "correction None": ("correction", {"rank": 2, "correction": None}),
    "paper without admm": ("paper", {"rank": 2, "bits": 4, "paper": True}),
    "paper without bits": ("paper", {"rank": 2, "solver": "admm", "paper": True}),
    "paper 1": ("paper", {"rank": 2, "bits": 4, "solver": "admm", "paper": 1}),
    "max_iter 0": ("max_iter", {"rank": 2, "max_iter": 0}),
    "max_iter 1.5": ("max_iter", {"rank": 2, "max_iter": 1.5}),
    "tol -1": ("tol", {"rank": 2, "tol": -1.0}),
    "tol 1": ("tol", {"rank": 2, "tol": 1.0}),
    "tol nan": ("tol", {"rank": 2, "tol": math.nan}),
    "too many terms": ("rank", {"rank": 999}),
    "too little reduced": ("rank|reduction", {"reduction": 0.001}),
}


@pytest.mark.parametrize(("name", "arguments"), BAD.values(), ids=list(BAD))
def test_wrong_arguments_are_refused_by_name(name: str, arguments: dict[str, Any]) -> None:
    """What was found and what is allowed; by the method itself, or when it meets an array."""
    with pytest.raises((ArgumentError, ArgumentTypeError), match=rf"^({name}): found .*allowed is "):
        CP(**arguments).check(P.shape)


def test_a_gram_is_refused_by_name() -> None:
    with pytest.raises(ArgumentError, match=r"^gram: found .*cp.*allowed .*; .*svd"):
        fq.decompose(P, method=CP(2), gram=np.eye(13 * 9))
    with pytest.raises(ArgumentError, match=r"^gram: "):
        fq.decompose(np.zeros((4, 3, 2)), method=CP(2, 4), gram=np.eye(6))


def test_rank_within_reason() -> None:
    for shape, most in (((6, 5, 4), 64), ((32, 32, 9), 504)):
        fq.explain(shape, method=CP(most))
        with pytest.raises(ArgumentError, match=rf"^rank: found {most + 1} .*1 to {most}"):
            fq.explain(shape, method=CP(most + 1))
