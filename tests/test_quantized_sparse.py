"""Quantized sparse decomposition: folds, what the factors hold, sizes, targets, grams, errors and edge cases."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from cases import gram_of
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import bits_of, stored
from threadpoolctl import threadpool_limits

import factorq as fq
from factorq.artifact import Writer
from factorq.cli import main
from factorq.codecs import Codebook, Encoded, Grid, Mask
from factorq.codecs import Path as Coded
from factorq.forms import Chain, Folded
from factorq.measure import binary_entropy, gaussian_floor
from factorq.methods import QuantizedSparse, Rotated, Scalar
from factorq.methods.quantized_sparse import folds


def draw(m: int, n: int, seed: int = 0, *, decay: float = 0.0) -> Any:
    """Gaussian rows whose sizes fall as a power, turned at random; float32."""
    rng = np.random.default_rng(seed)
    W = rng.standard_normal((m, n)) * np.arange(1, m + 1)[:, None] ** -decay
    return np.ascontiguousarray((np.linalg.qr(rng.standard_normal((m, m)))[0] @ W).astype(np.float32))


def kernel(outputs: int, inputs: int, seed: int = 0) -> Any:
    """A convolution kernel (outputs, inputs, 3, 3) whose positions predict each other."""
    positions = draw(9, outputs * inputs, seed, decay=1.0)
    return np.ascontiguousarray(positions.T.reshape(outputs, inputs, 3, 3))


def factors(F: fq.Factorization) -> tuple[Any, Any]:
    """C and Z as float64."""
    C, Z = F.factors
    return np.asarray(C, np.float64), np.asarray(Z, np.float64)


def codecs(F: fq.Factorization) -> tuple[Encoded, Encoded]:
    return F.encoded["A"], F.encoded["B"]


def error(F: fq.Factorization, W: Any) -> float:
    lost = np.float64(W) - np.float64(F.to_dense())
    return float(np.linalg.norm(lost) / np.linalg.norm(np.float64(W)))


# Folds.

SHAPES = [(6, 4), (4, 64), (64, 4), (1, 7), (7, 1), (8, 6, 5), (16, 8, 3, 3), (12, 4, 1, 1), (4, 4, 2, 3, 2), (1, 1)]


def names(shape: tuple[int, ...]) -> Iterator[str]:
    yield from ("rows", "columns", "flat")
    if len(shape) > 2:
        yield from (f"positions*{g}" for g in range(1, shape[1] + 1) if shape[1] % g == 0)
    yield from (f"inputs/{g}" for g in range(1, shape[1] + 1) if shape[1] % g == 0)
    yield from (f"outputs/{g}" for g in range(1, shape[0] + 1) if shape[0] % g == 0)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_fold_inverts(shape: tuple[int, ...]) -> None:
    W = np.arange(math.prod(shape), dtype=np.float64).reshape(shape)
    for name in {*names(shape), *folds.candidates(shape), folds.default(shape, 1)}:
        fold = folds.named(shape, name)
        matrix = fold.apply(W)
        assert matrix.shape == fold.matrix_shape
        np.testing.assert_array_equal(fold.undo(matrix), W)
        np.testing.assert_array_equal(np.sort(matrix, axis=None), W.reshape(-1))


def test_folds_are_what_their_names_say() -> None:
    o, i, h, w = shape = (6, 4, 3, 2)
    W = np.random.default_rng(0).standard_normal(shape)
    assert folds.named(shape, "positions") == folds.named(shape, "positions*1")
    by_hand = {
        "rows": W.reshape(o, -1),
        "columns": W.reshape(o, -1).T,
        "flat": W.reshape(1, -1),
        "positions": W.transpose(2, 3, 0, 1).reshape(h * w, o * i),
        "positions*2": np.stack([W[a, b : b + 2].reshape(-1) for a in range(o) for b in (0, 2)], 1),
        "inputs/2": np.hstack([W[a, b : b + 2].reshape(2, -1) for a in range(o) for b in (0, 2)]),
        "outputs/3": np.hstack([W[a : a + 3].reshape(3, -1) for a in (0, 3)]),
    }  # fmt: skip
    for name, matrix in by_hand.items():
        np.testing.assert_array_equal(folds.named(shape, name).apply(W), matrix, err_msg=name)


@pytest.mark.parametrize(
    "name",
    ["", "cols", "rows*2", "flat/3", "inputs", "outputs", "inputs/0", "inputs/-2", "inputs/x", "positions*", "*2"],
)
def test_no_such_fold(name: str) -> None:
    with pytest.raises(fq.ArgumentError, match=r"^fold: found .*'auto'"):
        folds.named((8, 8, 3, 3), name)


@pytest.mark.parametrize(
    ("shape", "name"), [((8, 6), "inputs/4"), ((9, 6), "outputs/2"), ((8, 6, 3, 3), "positions*5")]
)
def test_blocks_that_do_not_divide(shape: tuple[int, ...], name: str) -> None:
    with pytest.raises(fq.ArgumentError, match=r"^fold: .*divisor"):
        folds.named(shape, name)
    with pytest.raises(fq.ArgumentError, match=r"^fold: .*divisor"):
        fq.explain(shape, method=QuantizedSparse(1, 4, 0.5, fold=name))


@pytest.mark.parametrize(
    ("shape", "rank", "name"),
    [
        ((8, 30), 4, "rows"), ((30, 8), 4, "columns"), ((9, 9), 4, "rows"), ((16, 8, 3, 3), 9, "positions"),
        ((16, 8, 3, 3), 10, "positions*2"), ((16, 8, 3, 3), 64, "rows"), ((96, 9, 3, 3), 12, "columns"),
        ((16, 8, 1, 1), 4, "columns"), ((4, 2, 5, 5), 20, "rows"),
    ],
)  # fmt: skip
def test_default_fold(shape: tuple[int, ...], rank: int, name: str) -> None:
    """The fewest rows that hold the rank, kernel positions first; never more rows than columns for a kernel."""
    assert folds.default(shape, rank) == name


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_layout_holds_all_codes(shape: tuple[int, ...]) -> None:
    for name in names(shape):
        fold = folds.named(shape, name)
        for rank in (1, 5):
            planes = folds.layout(fold, rank)
            assert planes[0] == rank
            assert math.prod(planes) == rank * fold.matrix_shape[1]


@pytest.mark.parametrize(
    ("shape", "name", "planes"),
    [
        ((24, 16, 3, 3), "positions", (7, 24, 16)), ((24, 16, 3, 3), "positions*2", (7, 24, 8)),
        ((8, 60), "rows", (7, 1, 60)), ((60, 8), "columns", (7, 1, 60)), ((60, 8), "flat", (7, 60, 8)),
        ((60, 8), "inputs/4", (7, 60, 2)), ((60, 8), "outputs/4", (7, 15, 8)),
    ],
)  # fmt: skip
def test_layout_keeps_neighbours(shape: tuple[int, ...], name: str, planes: tuple[int, int, int]) -> None:
    """Outputs are rows, what is left of the inputs columns."""
    assert folds.layout(folds.named(shape, name), 7) == planes


def test_fold_that_decorrelates_is_chosen() -> None:
    assert folds.estimates(kernel(32, 16), 2.0)[0].fold == "positions"
    blocks = draw(8, 64 * 16, decay=1.5).reshape(8, 64, 16)
    W = np.ascontiguousarray(blocks.transpose(1, 2, 0).reshape(64, 128))  # blocks of 8 neighbouring inputs
    best = folds.estimates(W, 2.0)
    assert best[0].fold == "inputs/8"
    assert all(a.bits <= b.bits for a, b in pairwise(best))
    white = np.random.default_rng(2).standard_normal((64, 128)).astype(np.float32)
    assert folds.estimates(white, 2.0)[0].fold == "flat"  # nothing to gain from a basis


# What the factors hold.

BITS = [(1, 1), (1, 3), (3, 1), (4, 2), (8, 8), (9, 9), (16, 16)]


@pytest.mark.parametrize("sparsity", [0.0, 0.6])
@pytest.mark.parametrize("bits", BITS)
def test_factors_lie_on_their_grids(bits: tuple[int, int], sparsity: float) -> None:
    W = draw(12, 200, decay=0.5)
    F = fq.decompose(W, method=QuantizedSparse(10, bits, sparsity, max_iter=8), store="packed")
    C, Z = factors(F)
    c, z = codecs(F)
    assert isinstance(c, Grid)
    halves = C / (np.float64(c.scales).reshape(-1) * 2.0**c.exponent)
    np.testing.assert_allclose(np.abs(halves) % 1, 0.5, atol=2.0 ** (bits[0] - 22))  # products are float32
    assert np.abs(halves).max() < 2 ** (bits[0] - 1)
    kept = np.abs(Z[Z != 0])
    most = 2 ** (bits[1] - 1)
    if sparsity == 0:
        assert isinstance(z, Grid)
        assert kept.size == Z.size
        shift = -0.5
    else:
        assert isinstance(z, Mask)
        assert isinstance(z.inner, Codebook)
        np.testing.assert_array_equal(z.mask(), Z != 0)
        shift = {"nonzero": 0.0, "nonzero+1/4": 0.25, "nonzero+1/2": 0.5}[str(z.inner.table)]
    np.testing.assert_array_equal((kept - shift) % 1, 0)
    assert (kept - shift).min() >= 1
    assert (kept - shift).max() <= most
    assert F.relative_error == pytest.approx(error(F, W), rel=1e-6)
    np.testing.assert_allclose(F.to_dense(), C @ Z, atol=1e-5)


def test_sixteen_bits_beside_a_mask() -> None:
    """Levels end at 2**15: no offset is added to those of 16 bits."""
    for seed in range(3):
        F = fq.decompose(draw(16, 300, seed, decay=0.5), method=QuantizedSparse(16, 16, 0.5, max_iter=4))
        assert F.relative_error < 0.2


@pytest.mark.parametrize("support", ["global", "column", "rated"])
@pytest.mark.parametrize(("rank", "sparsity"), [(12, 0.5), (12, 0.75), (30, 0.9), (12, 0.4)])
def test_share_of_zeros(rank: int, sparsity: float, support: Any) -> None:
    """As many nonzeros as asked for with 3 bits (every one gains); never more, per column where that is asked."""
    W = draw(12, 400, decay=0.3)
    Z = factors(fq.decompose(W, method=QuantizedSparse(rank, (4, 3), sparsity, support=support)))[1]
    most = round((1 - sparsity) * Z.size, 6) // 1
    if support == "column":
        most = Z.shape[1] * (round((1 - sparsity) * rank, 6) // 1)
        assert np.count_nonzero(Z, axis=0).max() <= most / Z.shape[1]
    assert np.count_nonzero(Z) <= most
    assert np.count_nonzero(Z) >= (0.93 if support == "column" else 0.995) * most


@pytest.mark.parametrize("sparsity", [0.1, 0.3, 0.7, 0.9])
def test_share_that_is_not_a_binary_fraction(sparsity: float) -> None:
    """(1 - 0.9) * 1000 is 99.99999999999997: the number asked for is 100."""
    F = fq.decompose(draw(10, 100), method=QuantizedSparse(10, None, sparsity))
    assert np.count_nonzero(factors(F)[1]) <= round((1 - sparsity) * 1000)
    exact = fq.decompose(draw(10, 100), method=QuantizedSparse(10, (8, 6), sparsity))
    assert np.count_nonzero(factors(exact)[1]) >= (1 - sparsity) * 1000 - (0 if sparsity > 0.5 else 60) - 1e-9


def test_real_factors_are_kept_in_the_precision_of_the_array() -> None:
    for dtype in (np.float16, ml_dtypes.bfloat16, np.float32, np.float64):
        F = fq.decompose(draw(8, 60).astype(dtype), method=QuantizedSparse(6, None, 0.5))
        kept = int(np.count_nonzero(factors(F)[1]))
        assert [a.dtype for name, a in F.buffers().items() if "positions" not in name] == [np.dtype(dtype)] * 2
        assert F.nbytes <= np.dtype(dtype).itemsize * (8 * 6 + kept) + 60 * 6 / 8


# Sizes.


@pytest.mark.parametrize(("solver", "support"), [("coordinate", "global"), ("coordinate", "column"), ("pgd", "global")])
@pytest.mark.parametrize(
    ("rank", "bits", "sparsity"), [(8, (4, 2), 0.5), (8, (3, 5), 0.0), (20, (6, 3), 0.85), (5, None, 0.4)]
)
def test_predicted_size_is_an_upper_bound(rank: int, bits: Any, sparsity: float, support: Any, solver: Any) -> None:
    for shape in ((10, 120), (120, 10), (12, 8, 3, 3)):
        W = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
        method = QuantizedSparse(rank, bits, sparsity, support=support, solver=solver, max_iter=4)
        packed, coded = fq.decompose(W, method=method, store="packed"), fq.decompose(W, method=method, store="entropy")
        assert coded.nbytes <= packed.nbytes <= method.nbytes(shape, "float32")
        assert bits_of(coded.to_dense()) == bits_of(packed.to_dense())
        plain = fq.decompose(W, method=method)
        assert (
            plain.nbytes == (packed if bits is None else coded).nbytes
        )  # integers are coded unless that is not wanted


@pytest.mark.parametrize("bits", [(4, 2), (3, 3), (5, 1), (7, 9)])
@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.9])
def test_packed_size_is_the_formula(bits: tuple[int, int], sparsity: float) -> None:
    """Codes, a float16 scale per atom, the mask at one bit per entry or less, codes of what is kept."""
    m, n, r = 12, 300, 16
    F = fq.decompose(draw(m, n), method=QuantizedSparse(r, bits, sparsity, max_iter=6), store="packed")
    z = codecs(F)[1]
    kept = np.count_nonzero(factors(F)[1])
    whole = math.ceil(m * r * bits[0] / 8) + 2 * r + math.ceil(kept * bits[1] / 8)
    if sparsity == 0:
        assert F.nbytes == whole + 2  # a grid has a scale
        assert QuantizedSparse(r, bits, sparsity).nbytes((m, n), "float32") == F.nbytes
    else:
        assert isinstance(z, Mask)
        mask = np.asarray(z.positions).nbytes
        assert F.nbytes == whole + mask
        assert mask <= math.ceil(r * n / 8)
        assert 8 * mask >= 0.97 * r * n * binary_entropy(kept / (r * n))
    assert F.bits_per_weight == 8 * F.nbytes / (m * n)


def test_gaussians_keep_above_shannons_line_and_masks_above_their_entropy() -> None:
    W = np.random.default_rng(5).standard_normal((32, 1024)).astype(np.float32)
    methods = [QuantizedSparse(32, (4, z), s, max_iter=6) for z, s in ((1, 0.3), (4, 0.0), (3, 0.9))]
    methods += [QuantizedSparse(32, (6, z), codes="trellis") for z in (0.5, 2.0)]
    methods += [QuantizedSparse(64, (4, 2), 0.8, support="rated", max_iter=6)]
    for method in methods:
        F = fq.decompose(W, method=method)
        assert F.relative_error**2 >= gaussian_floor(F.bits_per_weight), method


# Codes on a trellis.


@pytest.mark.parametrize("bits", [(6, 0.5), (4, 1.5), (8, 3.25)])
@pytest.mark.parametrize("shape", [(16, 400), (400, 16), (24, 16, 3, 3)], ids=str)
def test_coded_factors_meet_the_bytes_of_their_pair(shape: tuple[int, ...], bits: tuple[int, float]) -> None:
    rank = 8
    W = (
        kernel(*shape[:2])
        if len(shape) > 2
        else np.ascontiguousarray(draw(16, 400, decay=0.7).reshape(shape, order="F"))
    )
    method = QuantizedSparse(rank, bits, codes="trellis")
    F = fq.decompose(W, method=method)
    c, z = codecs(F)
    fold = method.folded(shape)
    m, n = fold.matrix_shape
    assert isinstance(F.form, Folded if shape != (16, 400) else Chain)
    assert isinstance(z, Coded)
    assert z.shape == (rank, n)
    assert tuple(z.layout) == folds.layout(fold, rank)
    assert 0.97 * bits[1] * rank * n / 8 - 8 <= z.nbytes <= bits[1] * rank * n / 8
    assert c.nbytes <= Grid.predict((m, rank), bits[0], None, 0)
    assert F.nbytes <= method.nbytes(shape, "float32")
    assert F.relative_error == pytest.approx(error(F, W), rel=1e-6)
    # One step, and below two bits zeros without a mask.
    steps = factors(F)[1] / z.step
    np.testing.assert_allclose(steps, np.round(steps), atol=1e-3)
    if bits[1] < 2:
        assert np.count_nonzero(steps) < steps.size


def test_coded_beats_integers_and_mask_at_the_same_size() -> None:
    W = draw(16, 1024, decay=0.7)
    grid = fq.decompose(W, method=QuantizedSparse(16, (6, 2), 0.5))
    z = 8 * codecs(grid)[1].nbytes / (16 * 1024)
    coded = fq.decompose(W, method=QuantizedSparse(16, (6, z), codes="trellis"))
    assert coded.nbytes <= 1.01 * grid.nbytes
    assert coded.relative_error < grid.relative_error


def test_learned_atoms_are_no_worse_than_the_fixed_transform() -> None:
    """The best step is kept, and the first has the Karhunen-Loeve transform, rounded."""
    F = fq.decompose(kernel(24, 16), method=QuantizedSparse(9, (6, 1.5), codes="trellis"))
    assert min(F.history) <= F.history[0]
    assert F.relative_error == pytest.approx(min(F.history), rel=1e-3)


@pytest.mark.parametrize(
    ("shape", "fold", "rank"), [((24, 200), "columns", 25), ((24, 200), "rows", 25), ((8, 6), "flat", 2)]
)
def test_coded_factors_are_of_full_rank_at_most(shape: tuple[int, int], fold: str, rank: int) -> None:
    with pytest.raises(fq.ArgumentError, match=rf"^rank: found {rank} .*allowed is 1 to {rank - 1}"):
        fq.decompose(draw(*shape), method=QuantizedSparse(rank, (4, 2.0), codes="trellis", fold=fold))


# A size as the target.


def lands(F: fq.Factorization, target: float, window: float = 0.98) -> None:
    assert window * target <= F.bits_per_weight <= target, (F.bits_per_weight, F.method)
    assert "nearest size" not in F.status


@pytest.mark.parametrize("target", [0.5, 1.7, 4.0])
@pytest.mark.parametrize("name", ["conv", "16x512", "96x64"])
def test_lands_under_the_size(name: str, target: float) -> None:
    W = {"conv": kernel(24, 16), "16x512": draw(16, 512, decay=0.7), "96x64": draw(64, 96, 3, decay=0.7).T.copy()}[name]
    F = fq.decompose(W, method="quantized_sparse", bits_per_weight=target)
    lands(F, target)
    assert F.relative_error**2 >= 0.5 * 4.0**-8


@pytest.mark.parametrize(
    "options", [{"rank": 9}, {"sparsity": 0.6}, {"rank": 9, "sparsity": 0.5}, {"store": "packed"}], ids=str
)
def test_lands_with_settings_given(options: dict[str, Any]) -> None:
    W = kernel(24, 16)
    F = fq.decompose(W, method="quantized_sparse", bits_per_weight=1.75, **options)
    if "sparsity" in options:  # of the numbers of bits, whole ones, not every size can be made
        assert 0.95 * 1.75 <= F.bits_per_weight <= 1.75
    else:
        lands(F, 1.75)
    assert isinstance(F.method, QuantizedSparse)
    if "rank" in options:
        assert F.method.rank == options["rank"]
    if "sparsity" in options:
        assert F.method.sparsity == options["sparsity"]
        assert np.mean(factors(F)[1] == 0) >= options["sparsity"] - 1e-9
    if "store" in options:
        assert all(not str(codec).startswith("Entropy") for codec in codecs(F))
        assert F.method.codes == "grid"


@pytest.mark.parametrize(
    "method",
    [
        QuantizedSparse(4, (4, 2), 0.5), QuantizedSparse(4, (5, 2.0), codes="trellis"), QuantizedSparse(4, None, 0.5),
        QuantizedSparse(4, (4, 2), 0.5, support="rated", starts=2), QuantizedSparse(4, (4, 3), 0.5, fold="rows"),
        QuantizedSparse(4, (4, 2), 0.5, solver="pgd"),
    ],
    ids=str,
)  # fmt: skip
def test_lands_with_the_choices_of_a_method(method: QuantizedSparse) -> None:
    F = fq.decompose(kernel(16, 12), method=method, bits_per_weight=1.5)
    lands(F, 1.5)
    assert isinstance(F.method, QuantizedSparse)
    kept = ("solver", "codes", "support", "starts", "max_iter")
    assert [getattr(F.method, name) for name in kept] == [getattr(method, name) for name in kept]
    if method.codes == "grid":
        assert F.method.bits == method.bits
    if method.fold != "auto":
        assert F.method.fold == method.fold


@pytest.mark.parametrize("target", [0.2, 0.5])
def test_little_room_for_the_codebook(target: float) -> None:
    """A square matrix at low rates: few atoms, and codes that can still be written."""
    F = fq.decompose(draw(64, 96, 3, decay=0.7), method="quantized_sparse", bits_per_weight=target)
    assert 0.96 * target <= F.bits_per_weight <= target
    assert F.relative_error < 0.85


def test_more_bits_less_error() -> None:
    W = kernel(24, 16)
    errors = [fq.decompose(W, method="quantized_sparse", bits_per_weight=R).relative_error for R in (0.5, 1, 2, 4)]
    assert all(b < 0.8 * a for a, b in pairwise(errors))


def test_size_that_cannot_be_reached() -> None:
    for size in (0.01, 0.1):
        with pytest.raises(fq.ArgumentError, match=r"^bits_per_weight: found 0\.\d+ for a 16x16 array"):
            fq.decompose(draw(16, 16), method="quantized_sparse", bits_per_weight=size)


# Explain.


@pytest.mark.parametrize("target", [0.6, 2.0])
def test_explain_names_what_decompose_does(target: float) -> None:
    W = kernel(24, 16)
    plan, F = fq.explain(W, method="quantized_sparse", bits_per_weight=target), fq.decompose(
        W, method="quantized_sparse", bits_per_weight=target
    )  # fmt: skip
    assert isinstance(plan.method, QuantizedSparse)
    assert isinstance(F.method, QuantizedSparse)
    for name in ("rank", "fold", "codes"):
        assert getattr(plan.method, name) == getattr(F.method, name)
    assert plan.bits_per_weight <= target
    for text in (plan.reason, F.status):
        assert "folded to 9x384 (positions)" in text
        assert "by estimated bits per weight for equal error: positions " in text  # and the others beside it
    assert str(plan.method.fold) in str(plan)


def test_explain_names_the_fold_of_given_settings() -> None:
    for W, words in (
        (kernel(8, 4), "9x32 (positions), the fewest rows"),
        (draw(40, 8), "8x40 (columns), its shorter side"),
    ):
        plan = fq.explain(W, rank=4, bits=4, sparsity=0.5)
        assert words in plan.reason
        assert words[:10] in fq.decompose(W, rank=4, bits=4, sparsity=0.5).status
    asked = fq.explain(kernel(8, 4), method=QuantizedSparse(2, 4, 0.5, fold="inputs/2"))
    assert "folded to 2x144 (inputs/2);" in f"{asked.reason};"


@pytest.mark.parametrize("shape", [(24, 16, 3, 3), (64, 96), (1, 9), (4, 4, 4)], ids=str)
def test_explain_needs_the_shape_alone(shape: tuple[int, ...]) -> None:
    plan = fq.explain(shape, rank=1, bits=4, sparsity=0.5)
    assert plan.method == QuantizedSparse(1, 4, 0.5)
    sized = fq.explain(shape, method="quantized_sparse", bits_per_weight=2.0)
    assert isinstance(sized.method, QuantizedSparse)
    assert sized.nbytes > 0


# A gram.


def seen(F: fq.Factorization, W: Any, gram: Any) -> float:
    """The relative error in the metric, by its formula."""
    x = np.float64(W).reshape(len(W), -1)
    lost = x - np.float64(F.to_dense()).reshape(len(W), -1)
    return float(np.sqrt(np.trace(lost @ gram @ lost.T) / np.trace(x @ gram @ x.T)))


GRAMMED = [
    QuantizedSparse(10, (4, 3), 0.5), QuantizedSparse(10, (4, 3)), QuantizedSparse(10, (6, 2.5), codes="trellis"),
    QuantizedSparse(10, None, 0.5), QuantizedSparse(10, (4, 3), 0.6, support="column"),
    QuantizedSparse(10, (4, 3), 0.5, support="rated", starts=2),
]  # fmt: skip


@pytest.mark.parametrize("method", GRAMMED, ids=str)
@pytest.mark.parametrize("shape", [(80, 24), (24, 60), (40, 6, 3, 3)], ids=str)
def test_gram_lowers_the_error_that_it_measures(shape: tuple[int, ...], method: QuantizedSparse) -> None:
    W = np.random.default_rng(3).standard_normal(shape).astype(np.float32)
    n = math.prod(shape[1:])
    gram = gram_of(n)
    F, plain = fq.decompose(W, method=method, gram=gram), fq.decompose(W, method=method)
    assert F.gram_error == pytest.approx(seen(F, W, gram), rel=1e-5)
    assert F.gram_error < 0.7 * seen(plain, W, gram)
    assert plain.relative_error < 1.01 * F.relative_error
    assert plain.gram_error is None
    assert f"folded to {n}x{shape[0]} (columns), gram used undamped" in F.status
    assert F.nbytes <= fq.explain(W, method=method, gram=gram).nbytes
    assert f"{n}x{shape[0]} (columns)" in fq.explain(W, method=method, gram=gram).reason


def test_identity_as_gram_is_no_gram() -> None:
    W = draw(80, 24, decay=0.2)
    for method in GRAMMED[:3]:
        F, plain = fq.decompose(W, method=method, gram=np.eye(24)), fq.decompose(W, method=method)
        assert F.relative_error == pytest.approx(plain.relative_error, rel=0.01)
        assert F.gram_error == pytest.approx(F.relative_error, rel=1e-6)


def test_damped_gram_is_reported() -> None:
    W = draw(80, 24)
    gram = gram_of(24, rank=6)  # fewer inputs than columns
    F = fq.decompose(W, method=GRAMMED[0], gram=gram)
    assert "gram damped by " in F.status
    assert F.gram_error is not None
    assert F.gram_error < 0.3 * seen(fq.decompose(W, method=GRAMMED[0]), W, gram)


@pytest.mark.parametrize("options", [{}, {"rank": 8}, {"rank": 8, "sparsity": 0.5}, {"store": "packed"}], ids=str)
@pytest.mark.parametrize("shape", [(96, 16), (32, 48)], ids=str)
def test_size_under_a_gram(shape: tuple[int, int], options: dict[str, Any]) -> None:
    W, gram = np.random.default_rng(3).standard_normal(shape).astype(np.float32), gram_of(shape[1])
    F = fq.decompose(W, method="quantized_sparse", bits_per_weight=1.5, gram=gram, **options)
    if "sparsity" in options:  # rank, zeros and a number of bits below 13: not every size
        assert 0.9 * 1.5 <= F.bits_per_weight <= 1.5
    else:
        lands(F, 1.5)
    assert f"{shape[1]}x{shape[0]} (columns)" in F.status


@pytest.mark.parametrize(("shape", "even"), [((16, 16, 3, 3), True), ((16, 16, 3, 3), False), ((6, 96), True)])
def test_size_under_a_gram_is_never_worse_than_without(shape: tuple[int, ...], even: bool) -> None:
    """Where inputs are alike the codebook of all of them as rows is too dear, and another fold stands."""
    W, n = np.random.default_rng(3).standard_normal(shape).astype(np.float32), math.prod(shape[1:])
    gram = np.diag(np.linspace(1, 2, n)) if even else gram_of(n)
    F = fq.decompose(W, method="quantized_sparse", bits_per_weight=2.0, gram=gram)
    plain = fq.decompose(W, method="quantized_sparse", bits_per_weight=2.0)
    assert F.gram_error == pytest.approx(seen(F, W, gram), rel=1e-5)
    assert F.gram_error <= (1 + 1e-6) * seen(plain, W, gram)
    assert ("solved without the gram" in F.status) == bool((F.to_dense() == plain.to_dense()).all()) == even


def test_size_under_a_gram_that_one_fold_alone_can_reach() -> None:
    W = np.random.default_rng(0).standard_normal((64, 4, 3, 3)).astype(np.float32)
    size: dict[str, Any] = {"method": "quantized_sparse", "rank": 8, "sparsity": 0.5, "bits_per_weight": 1.2}
    with pytest.raises(fq.ArgumentError, match=r"from 1\.\d+ bits"):
        fq.decompose(W, **size)
    F = fq.decompose(W, **size, gram=np.eye(36))
    assert F.bits_per_weight <= 1.2
    assert "36x64 (columns)" in F.status
    with pytest.raises(fq.ArgumentError, match=r"^bits_per_weight: found 0\.2 .*can reach"):
        fq.decompose(W, **{**size, "bits_per_weight": 0.2}, gram=np.eye(36))


def test_size_under_a_gram_of_a_torch_array() -> None:
    torch = pytest.importorskip("torch")
    W, gram = np.random.default_rng(3).standard_normal((6, 96)).astype(np.float32), np.diag(np.linspace(1, 2, 96))
    options: dict[str, Any] = {"method": "quantized_sparse", "bits_per_weight": 2.0, "gram": gram}
    F = fq.decompose(torch.from_numpy(W), **options)
    assert F.gram_error == fq.decompose(W, **options).gram_error
    assert isinstance(F.to_dense(), torch.Tensor)


def test_a_gram_that_is_refused_is_refused_at_a_size_too() -> None:
    W, pgd = kernel(8, 4), QuantizedSparse(4, 4, 0.5, solver="pgd")
    for size in ({}, {"bits_per_weight": 1.5}):
        with pytest.raises(fq.ArgumentError, match=r"^gram: found"):
            fq.decompose(W, method=pgd, gram=np.eye(36), **size)
        with pytest.raises(fq.ArgumentError, match=r"^gram: found shape \(5, 5\)"):
            fq.decompose(W, method=QuantizedSparse(4, 4, 0.5), gram=np.eye(5), **size)


def test_explained_is_the_fold_of_the_gram() -> None:
    W, gram = np.random.default_rng(3).standard_normal((200, 24)).astype(np.float32), gram_of(24)
    plan = fq.explain(W, method="quantized_sparse", bits_per_weight=2.0, gram=gram)
    assert "24x200 (columns)" in plan.reason
    assert plan.method.fold == "columns"


@pytest.mark.parametrize("fold", ["rows", "inputs/2", "flat", "positions"])
def test_gram_needs_inputs_as_rows(fold: str) -> None:
    W = kernel(8, 4)
    with pytest.raises(fq.ArgumentError, match=rf"^gram: found quantized_sparse with fold='{fold}'.*auto"):
        fq.decompose(W, method=QuantizedSparse(2, 4, 0.5, fold=fold, max_iter=2), gram=np.eye(36))
    if fold == "positions":
        with pytest.raises(fq.ArgumentError, match=r"^gram: found quantized_sparse"):
            fq.decompose(W, method=QuantizedSparse(2, 4, 0.5, solver="pgd"), gram=np.eye(36))


def test_rank_is_checked_in_the_fold_of_the_gram() -> None:
    """9 atoms suit 9 positions x 64 pairs, not 144 inputs x 4 outputs."""
    W, method = kernel(4, 16), QuantizedSparse(9, (6, 2.0), codes="trellis")
    assert fq.decompose(W, method=method).relative_error < 1
    with pytest.raises(fq.ArgumentError, match=r"^rank: found 9 .*144x4.*1 to 4"):
        fq.decompose(W, method=method, gram=np.eye(144))


# The plain algorithm as the baseline.


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(
    ("rank", "bits", "sparsity", "bar"),
    [
        (16, (4, 2), 0.5, 0.95),
        (32, (4, 2), 0.8, 0.85),
        (8, (6, 4), 0.4, 1.0),
        (12, None, 0.7, 1.0),
        (32, (3, 3), 0.9, 0.85),
    ],
)
def test_coordinate_descent_beats_projected_gradient(
    seed: int, rank: int, bits: Any, sparsity: float, bar: float
) -> None:
    W = draw(16, 400, seed, decay=0.5)
    ours = fq.decompose(W, method=QuantizedSparse(rank, bits, sparsity), store="packed")
    plain = fq.decompose(W, method=QuantizedSparse(rank, bits, sparsity, solver="pgd"), store="packed")
    assert ours.relative_error <= bar * plain.relative_error
    assert np.count_nonzero(factors(ours)[1]) <= np.count_nonzero(factors(plain)[1]) + 2


# The table of issue 4: 32x2048, W of the spectrum i^-0.7 or white; at most this squared error and size.
TABLE = [(0.7, 32, 0.5, 0.063, 2.1), (0.7, 64, 0.8, 0.049, 2.4), (0.0, 32, 0.5, 0.105, 2.1), (0.0, 64, 0.8, 0.100, 2.4)]


@pytest.mark.parametrize(("decay", "rank", "sparsity", "squared", "bits"), TABLE)
def test_numbers_of_the_issue(decay: float, rank: int, sparsity: float, squared: float, bits: float) -> None:
    F = fq.decompose(draw(32, 2048, decay=decay), method=QuantizedSparse(rank, (4, 2), sparsity))
    assert F.relative_error**2 <= squared
    assert F.bits_per_weight <= bits


def test_more_starts_are_no_worse() -> None:
    """Compared by their beginnings, so only about."""
    for seed in range(3):
        W = draw(12, 300, seed)
        one, four = (fq.decompose(W, method=QuantizedSparse(24, (4, 2), 0.85, starts=k)) for k in (1, 4))
        assert four.relative_error <= 1.02 * one.relative_error
        assert stored(one) != stored(fq.decompose(W, method=QuantizedSparse(24, (4, 2), 0.85), rng=5))  # drawn columns


def test_planted_factors_are_found() -> None:
    """Orthonormal +-1/2 atoms, one code of +-1 or +-2 of four: the very factors are on the grid."""
    rng = np.random.default_rng(0)
    H = np.array([[1, 1], [1, -1]])
    C = np.kron(np.kron(H, H), H) / 2
    Z = rng.choice([-2, -1, 1, 2], (8, 500)) * (rng.random((8, 500)) < 0.25)
    F = fq.decompose(C @ Z, method=QuantizedSparse(8, (1, 2), 0.7))
    assert F.relative_error < 1e-3


# Determinism, precision, scale.

VARIETY = [
    QuantizedSparse(20, (4, 2), 0.8), QuantizedSparse(8, (4, 3)), QuantizedSparse(8, (6, 2.0), codes="trellis"),
    QuantizedSparse(20, (4, 2), 0.8, support="rated", starts=3), QuantizedSparse(8, 3, 0.5, support="column"),
    QuantizedSparse(8, None, 0.5), QuantizedSparse(8, (4, 2), 0.5, solver="pgd"),
]  # fmt: skip


@pytest.mark.parametrize("method", VARIETY, ids=str)
@settings(max_examples=3)
@given(exponent=st.integers(-60, 60), dtype=st.sampled_from(("bfloat16", "float32", "float64")))
def test_powers_of_two_change_no_code(method: QuantizedSparse, exponent: int, dtype: str) -> None:
    W = draw(10, 150, 2, decay=0.4).astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    F, G = fq.decompose(W, method=method), fq.decompose(W * W.dtype.type(2.0**exponent), method=method)
    assert G.relative_error == F.relative_error
    assert bits_of(G.to_dense()) == bits_of(F.to_dense() * W.dtype.type(2.0**exponent))
    assert bits_of(factors(G)[1]) == bits_of(factors(F)[1]) or method.bits is None or method.codes == "trellis"
    if method.bits is not None and method.codes == "grid":
        assert stored(G) == stored(F)


@pytest.mark.parametrize("method", VARIETY, ids=str)
def test_half_precision_costs_little(method: QuantizedSparse) -> None:
    W = draw(10, 150, 2, decay=0.4)
    wide = fq.decompose(W.astype(np.float64), method=method)
    for dtype, room in ((np.float16, 1.02), (ml_dtypes.bfloat16, 1.04), (np.float32, 1.02)):
        F = fq.decompose(W.astype(dtype), method=method)
        assert F.dtype == np.dtype(dtype)
        assert F.to_dense().dtype == np.dtype(dtype)
        assert wide.relative_error / room <= F.relative_error <= wide.relative_error * room


@pytest.mark.parametrize("method", VARIETY, ids=str)
def test_bytes_do_not_depend_on_the_threads_of_blas(method: QuantizedSparse) -> None:
    W = draw(64, 300, decay=0.3)
    found = []
    for threads in (1, 2):
        with threadpool_limits(threads):
            found.append(fq.decompose(W, method=method, rng=3))
    assert stored(found[0]) == stored(found[1])
    assert found[0].record() == found[1].record()


@pytest.mark.parametrize("method", VARIETY, ids=str)
def test_saved_and_loaded(method: QuantizedSparse, tmp_path: Path) -> None:
    for name, W in (("matrix", draw(60, 10, 2)), ("kernel", kernel(6, 4))):
        F = fq.decompose(W, method=method)
        fq.save(tmp_path / name, {"W": F})
        G = fq.load(tmp_path / name)["W"]
        assert isinstance(G, fq.Factorization)
        assert (G.method, G.status, G.relative_error, stored(G)) == (method, F.status, F.relative_error, stored(F))
        assert bits_of(G.to_dense()) == bits_of(F.to_dense())


@pytest.mark.parametrize("method", VARIETY, ids=str)
def test_products_with_a_folded_matrix(method: QuantizedSparse) -> None:
    W = draw(60, 10, 2)
    F = fq.decompose(W, method=method)
    x, y = np.ones((10, 2), np.float32), np.arange(60, dtype=np.float32)
    np.testing.assert_allclose(F @ x, F.to_dense() @ x, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(y @ F, y @ F.to_dense(), rtol=1e-4, atol=1e-2)


# Edge cases.


@pytest.mark.parametrize("method", VARIETY, ids=str)
@pytest.mark.parametrize(
    "W",
    [
        np.zeros((12, 40)), np.full((12, 40), 0.7), np.eye(12, 40), np.ones((12, 1)) @ np.eye(1, 40),
        np.ones((8, 8, 1, 1)), np.zeros((8, 8, 3, 3)), -np.ones((9, 9)), 1e-300 * np.float64(draw(12, 40)),
        1e300 * np.float64(draw(12, 40)),
    ],
    ids=["zero", "constant", "identity", "one column", "1x1 kernels", "zero kernels", "minus one", "tiny", "huge"],
)  # fmt: skip
def test_degenerate_arrays(W: Any, method: QuantizedSparse) -> None:
    F = fq.decompose(W, method=method)
    D = np.asarray(F.to_dense(), np.float64)
    assert np.isfinite(D).all()
    assert F.relative_error <= 1 + 1e-6
    assert F.nbytes <= method.nbytes(W.shape, "float64")
    if not W.any():
        assert F.relative_error == 0
        assert not D.any()
    elif np.linalg.matrix_rank(W.reshape(len(W), -1)) == 1 and method.solver != "pgd" and method.codes == "grid":
        assert F.relative_error < 0.01 or method.sparsity == 0 or method.support == "global"


@pytest.mark.parametrize("shape", [(1, 1), (1, 60), (60, 1), (2, 2), (1, 1, 1, 1), (1, 1, 3, 3), (5, 3, 1, 1)], ids=str)
def test_small_shapes(shape: tuple[int, ...]) -> None:
    W = 1 + np.random.default_rng(0).random(shape)
    for method in (
        QuantizedSparse(1, 4, 0.0), QuantizedSparse(1, (4, 3), 0.5), QuantizedSparse(1, (6, 4.0), codes="trellis"),
        QuantizedSparse(9, (4, 2), 0.8), QuantizedSparse(1, None),
        QuantizedSparse(3, 2, 0.5, support="column", starts=2), QuantizedSparse(2, (4, 2), 0.5, solver="pgd"),
    ):  # fmt: skip
        F = fq.decompose(W, method=method)
        assert F.shape == shape
        assert F.relative_error <= 1 + 1e-6
        assert F.relative_error == pytest.approx(error(F, W), abs=1e-9)
        assert F.nbytes <= method.nbytes(shape, "float64")
    assert fq.decompose(W, method=QuantizedSparse(1, (6, 4.0), codes="trellis")).relative_error < 0.35


@pytest.mark.parametrize(("m", "n", "rank"), [(6, 9, 20), (4, 30, 40), (9, 6, 30), (3, 3, 64)])
def test_more_atoms_than_rows_and_columns(m: int, n: int, rank: int) -> None:
    W = draw(m, n)
    for bits, bar in ((None, 1e-5), ((6, 4), 0.1)):
        for sparsity in (0.0, 0.5):
            F = fq.decompose(W, method=QuantizedSparse(rank, bits, sparsity))
            assert F.relative_error < bar
            assert factors(F)[0].shape[1] == rank


@pytest.mark.parametrize("bits", [(4, 2), None])
@pytest.mark.parametrize("sparsity", [0.99, 0.999, 0.99999])
def test_atoms_without_any_use(sparsity: float, bits: Any) -> None:
    """Fewer nonzeros than atoms, down to none at all."""
    W = draw(16, 60)
    F = fq.decompose(W, method=QuantizedSparse(40, bits, sparsity))
    Z = factors(F)[1]
    assert np.count_nonzero(Z) == math.floor(Z.size * (1 - sparsity) + 1e-6)
    assert not Z.any(axis=1).all()
    assert F.relative_error < 1 if Z.any() else F.relative_error == 1


def test_rank_within_reason() -> None:
    for shape, most in (((4, 30), 64), ((30, 20), 160)):
        fq.explain(shape, rank=most, bits=4, sparsity=0.5)
        with pytest.raises(fq.ArgumentError, match=rf"^rank: found {most + 1} .*1 to {most}"):
            fq.explain(shape, rank=most + 1, bits=4, sparsity=0.5)


# With the others.


def test_stacked() -> None:
    W = draw(24, 200, decay=0.3)
    first = QuantizedSparse(10, (4, 2), 0.5)
    F = fq.decompose(W, method=first + Scalar(bits=2))
    assert F.relative_error < 0.5 * fq.decompose(W, method=first).relative_error
    G = fq.decompose(W, method=fq.SVD(4, bits=4) + first)
    assert G.relative_error < fq.decompose(W, method=fq.SVD(4, bits=4)).relative_error
    assert {name.split(".")[0] for name in G.encoded} == {"term0", "term1"}
    sized = fq.decompose(
        W, method=fq.SVD(4, bits=4) + QuantizedSparse(4, (4, 2.0), codes="trellis"), bits_per_weight=3.0
    )
    lands(sized, 3.0)


def test_rotated() -> None:
    W = draw(24, 200, decay=0.3)
    method = Rotated(QuantizedSparse(24, (4, 2), 0.5))
    F = fq.decompose(W, method=method)
    assert F.relative_error == pytest.approx(error(F, W), rel=1e-6)
    assert F.relative_error < 0.5
    assert F.nbytes <= method.nbytes(W.shape, "float32")


def test_progress_is_told() -> None:
    for method in VARIETY:
        told: list[Any] = []
        F = fq.decompose(draw(10, 80), method=method, callback=told.append)
        assert [p.objective for p in told] == list(F.history)
        assert [p.step for p in told] == list(range(1, len(told) + 1))


@pytest.mark.parametrize("max_iter", [1, 2, 7])
def test_at_most_so_many_steps(max_iter: int) -> None:
    for method in (
        QuantizedSparse(8, (4, 2), 0.5, max_iter=max_iter),
        QuantizedSparse(8, None, 0.5, max_iter=max_iter),
    ):
        assert len(fq.decompose(draw(10, 80), method=method).history) <= max_iter


# The command line.


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    with Writer("in.safetensors") as writer:
        writer.add("fc.weight", draw(48, 64, decay=0.7))
        writer.add("conv.weight", kernel(16, 8))
        writer.add("fc.bias", np.zeros(48, np.float32))
        writer.commit(None)
    return tmp_path


@pytest.mark.parametrize(
    ("options", "rank", "most"),
    [
        (("--rank", "8", "--bits", "4,2", "--sparsity", "0.5"), 8, 2.2),
        (("--bits-per-weight", "2"), None, 2.0),
    ],
    ids=["settings", "size"],
)
def test_command_line(folder: Path, options: tuple[str, ...], rank: int | None, most: float) -> None:
    paths = ("in.safetensors", "-o", "out.safetensors")
    result = CliRunner().invoke(main, ("compress", *paths, "--method", "quantized_sparse", *options, "--json"))
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)
    loaded = fq.load("out.safetensors")
    for name in ("fc.weight", "conv.weight"):
        F = loaded[name]
        assert isinstance(F, fq.Factorization)
        assert isinstance(F.method, QuantizedSparse)
        assert F.method.rank == (rank or F.method.rank)
        assert F.bits_per_weight <= most
        assert F.relative_error < 0.65
    assert CliRunner().invoke(main, ("verify", "out.safetensors", "--against", "in.safetensors")).exit_code == 0


def test_a_fold_on_the_command_line_is_a_matter_of_each_tensor(folder: Path) -> None:
    method = "quantized_sparse(rank=4, bits=(6, 2.0), codes='trellis', fold='positions')"
    result = CliRunner().invoke(main, ("compress", "in.safetensors", "-o", "out.safetensors", "--method", method))
    assert result.exit_code == 0, result.output
    assert "fold=positions" in result.output
    assert "fold: found 'positions' for shape (48, 64)" in result.output
    loaded = fq.load("out.safetensors")
    assert isinstance(loaded["conv.weight"], fq.Factorization)
    assert not isinstance(loaded["fc.weight"], fq.Factorization)
