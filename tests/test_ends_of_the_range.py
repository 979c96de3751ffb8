"""Numbers at the ends of their range, sizes that files may claim, totals out of reach: an answer or a clear refusal."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

import factorq as fq
from factorq.arrays import HOST
from factorq.checkpoint import compress
from factorq.checkpoint.allocation import corrected
from factorq.checkpoint.pool import Recipe
from factorq.checkpoint.report import Row
from factorq.codecs import BitShift, Dense, OneHot, Vectors
from factorq.codecs.base import decode_config
from factorq.codecs.entropy import Entropy
from factorq.codecs.path.search import in_steps
from factorq.errors import ArgumentError, ArgumentTypeError, ArtifactError
from factorq.factorization import Factorization
from factorq.forms import Leaf
from factorq.kernels import rans
from factorq.measure import relative_error
from factorq.solvers.step import meet


def gauss(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


# Numbers -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("exponent", [-140, -110, 110, 127])
@pytest.mark.parametrize("method", [fq.Trellis(3), fq.Trellis(3, rotate=True), fq.Rotated(fq.Scalar(4))])
def test_float32_near_its_ends(exponent: int, method: Any) -> None:
    W = np.ldexp(np.clip(gauss(32, 6, 3, 3), -1.9, 1.9), exponent)
    F = fq.decompose(W, method=method)
    # Numbers of 2**-140 have 9 bits at most: their own rounding is an error, too.
    assert F.relative_error < 0.3
    assert np.isfinite(F.to_dense()).all()


@pytest.mark.parametrize("scale", [1e-310, 1e307])
def test_float64_near_its_ends(scale: float) -> None:
    W = np.clip(gauss(40, 40), -10, 10).astype(np.float64) * scale
    assert fq.decompose(W, method=fq.Trellis(3)).relative_error < 0.2
    with pytest.raises(ArgumentError, match=r"W: found float64 values .* scale it first"):
        fq.decompose(W, method=fq.Trellis(3, rotate=True))


@pytest.mark.parametrize("method", [fq.VectorQuantization(3, 7, stages=2), fq.Scalar(3) + fq.Trellis(1.5)])
def test_sums_that_overflow_are_refused_without_a_warning(method: Any) -> None:
    W = np.copysign(np.float32(np.finfo(np.float32).max), gauss(64, 64))
    with pytest.raises(ArgumentError, match=r"beyond which sums of factors overflow"):
        fq.decompose(W, method=method)


def test_differences_beyond_the_range_have_an_error() -> None:
    W = np.full((2, 2), 1.7e308)
    assert relative_error(W, -W) == 2.0


@pytest.mark.parametrize("step", [1e-300, 1e-37, 1e37, 1e300, 5e-324])
@pytest.mark.parametrize("scale", [1e-44, 1.0, 1e38])
def test_any_step_goes_with_any_scale(step: float, scale: float) -> None:
    W = (np.clip(gauss(8, 8), -3, 3) * scale).astype(np.float32)
    F = fq.decompose(W, method=fq.Trellis(step=step))
    if step < scale * 1e-30:  # no code is that fine: the numbers are kept
        assert np.array_equal(F.to_dense(), W)
    elif step > scale * 1e4:
        assert not F.to_dense().any()


def test_steps_far_below_the_numbers_make_outliers_not_zeros() -> None:
    core, outliers = in_steps(np.ones((1, 2, 2), np.float32), 2.0**-500)
    assert not core.any()
    assert outliers is not None
    assert np.array_equal(outliers, [[0, 1, 2, 3], [1, 1, 1, 1]])


# Sizes ---------------------------------------------------------------------------------------------------------------


class Coded:
    def __init__(self, step: float, nbytes: int) -> None:
        self.step, self.nbytes = step, nbytes


def test_where_sizes_say_nothing_the_finest_step_is_taken() -> None:
    met = meet(lambda step: Coded(step, 25 if step > 1e-3 else 900), 5000, 190.0, 1.0, 1e-6)
    assert met.nbytes == 25
    assert met.step < 2e-3


def test_a_constant_is_coded_well_in_few_bytes() -> None:
    F = fq.decompose(np.full((5, 1031), 0.1, np.float32), method=fq.Trellis(0.3))
    assert F.relative_error < 0.1


# Arguments -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (fq.Trellis, {"step": 10**400}),
        (fq.Trellis, {"bits": 2, "states": np.array([8, 16])}),
        (fq.Trellis, {"bits": 2, "states": 8.0}),
        (fq.Trellis, {"bits": 2, "model": np.array(["static", "mixing"])}),
        *((fq.Trellis, {"bits": bits, "fixed_rate": True}) for bits in (None, math.nan, math.inf, "x", [2], 2.5, 9)),
        (fq.Rotated, {"method": fq.Scalar(2), "axes": np.array(["input", "both"])}),
    ],
)
def test_settings_of_the_wrong_kind(kind: Any, settings: dict[str, Any]) -> None:
    with pytest.raises((ArgumentError, ArgumentTypeError)):
        kind(**settings)


def test_targets_and_stores_of_the_wrong_kind() -> None:
    for options in ({"bits_per_weight": 10**400}, {"bits": 2, "store": np.array(["packed", "entropy"])}):
        with pytest.raises(ArgumentError):
            fq.decompose(gauss(8, 8), **options)


@pytest.mark.parametrize("place", [("a", 0), (0.5, 0), (2, 0), (-1, 0), (0, 2), (0, 2**70)])
def test_blocks_that_are_not_there(place: Any) -> None:
    stored = BitShift.encode(gauss(2, 300), bits=2, states=16, axis=1)
    with pytest.raises(ArgumentError, match="block: found"):
        stored.block(*place)


# Files ---------------------------------------------------------------------------------------------------------------


def test_a_short_stream_cannot_claim_many_codes() -> None:
    stream = rans.pack(np.zeros(5000, np.uint8), 4)
    with pytest.raises(ArtifactError, match="do not hold"):
        rans.unpack(stream, 4, 1 << 40)
    stored = Entropy.encode(OneHot.encode(np.zeros(5000, np.int64), 2))
    config = stored.config()
    (name, dtype, _, bits, _, _) = config["coded"][0]
    claimed = 1 << 36
    config |= {"shape": [claimed, 2], "inner": {**config["inner"], "shape": [claimed, 2]}}
    config["coded"] = [[name, dtype, [claimed * bits // 8], bits, claimed, []]]
    with pytest.raises(ArtifactError, match="codes in the stream"):
        decode_config(config, stored.buffers())


@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (0, 0)])
def test_vectors_of_nothing(shape: tuple[int, ...]) -> None:
    book = Dense.encode(np.ones((2, 2), np.float32))
    empty = OneHot.encode(np.zeros(0, np.int64), 2)
    assert Vectors(shape=shape, dtype="float32", groups=1, index=empty, codebook=book).decode().shape == shape


def test_a_small_file_of_a_vast_array_is_an_artifact_error() -> None:
    count, width = 1 << 24, 1 << 20
    index = OneHot(shape=(count, 2), dtype="float32", indices=np.zeros(count // 8, np.uint8))
    book = Dense(shape=(2, width), dtype="float32", stored="float16", values=np.zeros((2, width), np.float16))
    vast = Vectors(shape=(count, width), dtype="float32", groups=1, index=index, codebook=book)
    F = Factorization(Leaf(vast), HOST, {"id": "elsewhere"}, 0.0)
    for use in (F.to_dense, lambda: F.factors):
        with pytest.raises(ArtifactError, match="more memory than there is"):
            use()
    product = F @ np.ones(width, np.float32)  # needs none of it
    assert product.shape == (count,)
    assert not product.any()


# Checkpoints ---------------------------------------------------------------------------------------------------------


def compressed(folder: Path, tensors: dict[str, Any], **options: Any) -> Any:
    save_file(tensors, folder / "in.safetensors")
    return compress(folder / "in.safetensors", folder / "out.safetensors", **options)


def test_totals_out_of_reach_are_refused(tmp_path: Path) -> None:
    for tensors, target in (({"a": gauss(2, 3), "b": gauss(3, 2)}, 2), ({"a": gauss(64, 64)}, 1e-9)):
        with pytest.raises(ArgumentError, match=r"bits_per_weight: found .* at least"):
            compressed(tmp_path, tensors, bits_per_weight=target)
    with pytest.raises(ArgumentError, match="add up beyond float64"):
        compressed(tmp_path, {"a": gauss(64, 64).astype(np.float64) * 4e307}, bits_per_weight=2)
    assert [path.name for path in tmp_path.iterdir()] == ["in.safetensors"]


def test_constant_tensors_stay_under_the_total(tmp_path: Path) -> None:
    tensors = {"a": np.full((64, 64), 0.3, np.float32), "b": np.full((9, 64), -1.0, np.float32)}
    report = compressed(tmp_path, tensors, bits_per_weight=2)
    assert 8 * sum(row.nbytes for row in report.rows) <= 2 * sum(row.size for row in report.rows)
    assert all(row.relative_error < 0.1 for row in report.rows)


def test_a_total_that_jumps_is_not_corrected() -> None:
    recipe = Recipe(method=fq.Trellis(step=0.1))
    row = Row("w", (64, 64), "F32", 20, "trellis")
    assert corrected(recipe, [row], 2.0) is recipe


@pytest.mark.parametrize("weights", ["a", 5, [("a", 2)], {1: 2}, {"a": 10**400}, {"a": 1e300}])
def test_sensitivities_out_of_range(weights: Any, tmp_path: Path) -> None:
    with pytest.raises((ArgumentError, ArgumentTypeError)):
        compressed(tmp_path, {"a": gauss(64, 64), "b": gauss(64, 64)}, bits_per_weight=2, sensitivity=weights)
