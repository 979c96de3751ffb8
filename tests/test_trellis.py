"""The trellis as a method: sizes are met, errors are near Shannon's bound, equal calls give equal bytes."""

from __future__ import annotations

import hashlib
import math
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from cases import DTYPES, KINDS, sample
from hypothesis import example, given, settings
from hypothesis import strategies as st
from laws import stored

import factorq as fq
from factorq.methods import Trellis
from factorq.solvers.step import meet

SHAPES = ((1, 1), (1, 7), (7, 1), (3, 3, 3, 3), (1, 600), (600, 1), (20, 30), (8, 4, 3, 3), (2, 3, 50))
LARGE = ((1, 20_000), (20_000, 1), (160, 128), (128, 160), (64, 36, 3, 3), (3, 7000), (24, 31, 30))


def gaussian(*shape: int, seed: int = 0, dtype: str = "float32") -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(DTYPES[dtype])


def correlated(channels: int, seed: int = 0) -> np.ndarray:
    """Kernels (channels, channels, 3, 3) whose taps are alike, as those of trained networks are."""
    rng = np.random.default_rng(seed)
    place = np.stack(np.meshgrid(range(3), range(3)), axis=-1).reshape(9, 2)
    distance = np.abs(place[:, None] - place).sum(axis=-1)
    root = np.linalg.cholesky(0.9**distance)
    return (rng.standard_normal((channels, channels, 9)) @ root.T).reshape(channels, channels, 3, 3).astype(np.float32)


def gap(F: fq.Factorization) -> float:
    """Bits per weight above the Shannon bound of a Gaussian source at the error of F."""
    return F.bits_per_weight + math.log2(F.relative_error)


# Sizes ---------------------------------------------------------------------------------------------------------------


@settings(max_examples=14)
@given(
    shape=st.sampled_from(LARGE),
    bits=st.one_of(st.floats(0.3, 12), st.sampled_from((0.3, 1, 2, 4, 12))),
    states=st.sampled_from((1, 8)),
    kind=st.sampled_from(("gaussian", "heavy tails", "shifted", "rows of many sizes", "huge", "tiny")),
    dtype=st.sampled_from(("float16", "bfloat16", "float32", "float64")),
)
def test_the_size_is_met(shape: tuple[int, ...], bits: float, states: int, kind: str, dtype: str) -> None:
    """Within 0.5 % under the target, everything counted, or stored as it is where that is smaller."""
    if dtype in ("float16", "bfloat16"):
        bits = min(bits, 5.0)  # beyond that nothing may be left to code
    W = sample(kind, shape, dtype, 0)
    F = fq.decompose(W, method=Trellis(bits=bits, states=states, model="static"))
    assert F.nbytes == sum(array.nbytes for array in F.buffers().values())
    assert F.bits_per_weight <= bits
    room = max(0.005, 80 / (bits * W.size))  # at the lowest rates sizes jump by some bytes from one step to the next
    assert F.bits_per_weight >= (1 - room) * bits or F.relative_error < UNIT[dtype]


UNIT = {"float16": 1e-3, "bfloat16": 8e-3, "float32": 2e-6, "float64": 2e-6}
"""Errors at which finer steps would store what the dtype does not hold."""


@settings(max_examples=30)
@given(
    shape=st.sampled_from(SHAPES),
    bits=st.floats(0.3, 16),
    states=st.sampled_from((1, 4, 8, 64)),
    kind=st.sampled_from(tuple(KINDS)),
    dtype=st.sampled_from(tuple(DTYPES)),
    seed=st.integers(0, 9),
)
@example(shape=(1, 1), bits=0.3, states=8, kind="gaussian", dtype="float16", seed=0)
@example(shape=(3, 3, 3, 3), bits=16.0, states=8, kind="heavy tails", dtype="float64", seed=0)
def test_any_array(shape: tuple[int, ...], bits: float, states: int, kind: str, dtype: str, seed: int) -> None:
    """Never larger than the array itself, never worse than zeros, and of W's shape and dtype."""
    W = sample(kind, shape, dtype, seed)
    method = Trellis(bits=bits, states=states)
    F = fq.decompose(W, method=method)
    assert F.nbytes <= W.nbytes
    assert F.nbytes <= method.nbytes(shape, dtype)
    dense = F.to_dense()
    assert (dense.shape, dense.dtype) == (W.shape, W.dtype)
    assert np.isfinite(dense.astype(np.float64)).all()
    assert F.relative_error <= 1.0 + 1e-6


@pytest.mark.parametrize("shape", [(64, 64), (512, 1), (8, 8, 8, 8)])
@pytest.mark.parametrize("value", [0.0, 0.7, -1e30])
def test_constants_take_next_to_nothing(shape: tuple[int, ...], value: float) -> None:
    F = fq.decompose(np.full(shape, value, np.float32), bits=4)
    assert F.nbytes <= math.prod(shape) / 2
    assert F.relative_error < 0.02
    if value == 0.0:
        assert F.nbytes < 64
        assert not F.to_dense().any()


@pytest.mark.parametrize(
    ("dtype", "size"),
    [("float16", 65504), ("bfloat16", 3.38e38), ("float32", 3.4028234e38), ("float64", 1.7e308), ("float16", 3e-6),
     ("bfloat16", 5e-39), ("float32", 1e-42), ("float64", 1e-310)],
)  # fmt: skip
def test_the_ends_of_the_range_stay_finite(dtype: str, size: float) -> None:
    W = (np.clip(gaussian(60, 50), -1, 1).astype(np.float64) * size).astype(DTYPES[dtype])
    F = fq.decompose(W, bits=4)
    assert np.isfinite(F.to_dense().astype(np.float64)).all()
    assert F.relative_error < 0.06


def test_duplicates_and_sparse_arrays_are_coded_by_their_entropy() -> None:
    rng = np.random.default_rng(0)
    few = rng.choice(np.float32([-2, 0, 1]), (200, 200), p=[0.1, 0.8, 0.1])
    F = fq.decompose(few, method=Trellis(step=0.5, states=1))
    assert F.relative_error < 1e-6
    assert F.bits_per_weight < 0.922 * 1.03  # the entropy, and tables


def test_a_mixture_of_sizes_is_met_at_two_lengths_of_the_array() -> None:
    """Beyond 2**19 weights the step is first searched on strips of the array."""
    rng = np.random.default_rng(0)
    W = (rng.standard_normal((800, 700)) * np.exp(rng.normal(0, 1, (800, 1)))).astype(np.float32)
    F = fq.decompose(W, method=Trellis(bits=3.1, model="static"))
    assert 0.995 * 3.1 <= F.bits_per_weight <= 3.1


# Errors --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def million() -> np.ndarray:
    return gaussian(1000, 1000)


@pytest.mark.parametrize("bits", [1.5, 2.0, 3.0, 4.0])
def test_errors_are_near_shannons_bound(million: np.ndarray, bits: float) -> None:
    gaps = {
        s: gap(fq.decompose(million, method=Trellis(bits=bits, states=s, model="static", transform=False)))
        for s in ((1, 8, 64) if bits == 2.0 else (1, 8))
    }
    assert 0 < gaps[8] < 0.09
    assert 0 < gaps.get(64, 0.01) < gaps[8] - 0.01
    assert gaps[8] + 0.1 < gaps[1] < 0.27


@pytest.mark.parametrize("bits", [0.3, 1.0])
def test_low_rates_are_near_shannons_bound_too(million: np.ndarray, bits: float) -> None:
    """The union of a state leaves out zero half of the time: better than nothing, yet not all of it below 1 bit."""
    trellis, scalar = (
        gap(fq.decompose(million, method=Trellis(bits=bits, states=s, model="static", transform=False))) for s in (8, 1)
    )
    assert 0 < trellis < 0.13
    assert 0 < scalar < 0.27


@pytest.mark.parametrize("states", [1, 8])
@pytest.mark.parametrize("kind", ["gaussian", "heavy tails", "rows of many sizes"])
def test_more_bits_less_error(states: int, kind: str) -> None:
    W = sample(kind, (60, 50), "float32", 0)
    rates = (0.4, 0.8, 1.2, 1.7, 2.3, 3, 4, 5, 6.5, 8, 10, 12)
    errors = [fq.decompose(W, method=Trellis(bits=b, states=states)).relative_error for b in rates]
    assert all(b < a for a, b in pairwise(errors))


def test_the_model_of_least_size_has_the_least_error() -> None:
    rng = np.random.default_rng(3)
    W = (rng.standard_normal((160, 128)) * np.exp(rng.normal(0, 0.7, (1, 128)))).astype(np.float32)
    errors = {m: fq.decompose(W, method=Trellis(3.0, model=m)).relative_error for m in ("static", "mixing", "auto")}
    assert errors["mixing"] < errors["static"]
    assert errors["auto"] == pytest.approx(errors["mixing"], rel=2e-3)


def test_real_weights_are_smaller_than_gaussian_ones() -> None:
    """Laplacian numbers have less entropy: the coder takes the difference, a fixed-rate code could not."""
    rng = np.random.default_rng(0)
    W = rng.laplace(size=(300, 300)).astype(np.float32)
    assert gap(fq.decompose(W, method=Trellis(3.0))) < 0.09 - 0.09  # h(Gaussian) - h(Laplace) = 0.104 bit


# A given step --------------------------------------------------------------------------------------------------------


def test_a_step_is_kept_for_tensors_of_any_size() -> None:
    """One step, one error per weight: that of the step, whatever the tensor."""
    step, errors = 0.02, []
    for W in (gaussian(90, 100), 0.3 * gaussian(50, 40, seed=1), correlated(20)):
        F = fq.decompose(W, method=Trellis(step=step))
        errors.append((F.relative_error * np.linalg.norm(W)) ** 2 / W.size / step**2)
        assert F.method.step == step
    assert max(errors) < 1.1 * min(errors)
    assert 0.25 < min(errors) < 0.33  # 1/3 of a uniform quantizer of spacing 2 steps, less the gain of the trellis


def test_correlated_kernels_are_smaller_after_a_transform() -> None:
    W = correlated(40)
    with_it, without = (fq.decompose(W, method=Trellis(step=0.05, transform=t)) for t in (True, False))
    assert with_it.nbytes < 0.9 * without.nbytes
    assert with_it.relative_error == pytest.approx(without.relative_error, rel=0.02)
    assert "transform" in repr(with_it.form).lower() or len(with_it.encoded) > 1
    smaller = fq.decompose(W, method=Trellis(3.0))
    assert smaller.relative_error < 0.8 * fq.decompose(W, method=Trellis(3.0, transform=False)).relative_error
    assert smaller.bits_per_weight <= 3.0


def test_estimates_are_the_size() -> None:
    for W in (gaussian(100, 80), correlated(20), gaussian(800, 700)):
        method = Trellis(step=0.1, model="static")
        assert method.estimate(W) == pytest.approx(fq.decompose(W, method=method).nbytes, rel=0.004)


# Equal calls ---------------------------------------------------------------------------------------------------------


def digest() -> str:
    """The bytes of a few stored arrays."""
    found = hashlib.sha256()
    for W, method in (
        (gaussian(80, 70), Trellis(2.5)),
        (correlated(12), Trellis(3.3, states=64)),
        (gaussian(60, 50, dtype="bfloat16"), Trellis(step=0.2, states=1)),
    ):
        for name, content in stored(fq.decompose(W, method=method)).items():
            found.update(repr((name, content)).encode())
    return found.hexdigest()


def test_the_same_bytes_whatever_the_threads() -> None:
    here = digest()
    assert digest() == here
    code = "import sys; sys.path.insert(0, sys.argv[1]); import test_trellis; print(test_trellis.digest())"
    names = ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    run = subprocess.run(
        [sys.executable, "-c", code, os.path.dirname(__file__)], check=True, capture_output=True, text=True,
        env=os.environ | dict.fromkeys(names, "1" if os.environ.get(names[1]) == "2" else "2"), timeout=120,
    )  # fmt: skip
    assert run.stdout.strip() == here


def test_the_generator_does_not_matter() -> None:
    W = gaussian(40, 50)
    assert stored(fq.decompose(W, bits=3, rng=1)) == stored(fq.decompose(W, bits=3, rng=2))


# The door ------------------------------------------------------------------------------------------------------------


def test_bits_or_a_size_alone_choose_the_trellis() -> None:
    W = gaussian(200, 120)
    for F in (
        fq.decompose(W, bits=2.7),
        fq.decompose(W, bits_per_weight=2.7),
        fq.decompose(W, bits=2.7, method="trellis"),
    ):
        assert isinstance(F.method, Trellis)
        assert 0.98 * 2.7 <= F.bits_per_weight <= 2.7
    assert fq.explain(gaussian(8, 4, 3, 3), bits=4).method == Trellis(bits=4)
    states = fq.decompose(W, method=Trellis(2.0, states=64), bits_per_weight=3.0)
    assert states.method.states == 64
    assert 0.98 * 3 <= states.bits_per_weight <= 3.0


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"bits": 2, "step": 0.1}, "Trellis"), ({"bits": 0.2}, "bits"), ({"bits": 17}, "bits"),
        ({"bits": math.nan}, "bits"), ({"bits": "4"}, "bits"), ({"bits": True}, "bits"), ({"bits": (2, 3)}, "bits"),
        ({"step": 0.0}, "step"), ({"step": -1.0}, "step"), ({"step": math.inf}, "step"), ({"step": math.nan}, "step"),
        ({"step": "1"}, "step"), ({"bits": 2, "states": 2}, "states"), ({"bits": 2, "states": 512}, "states"),
        ({"bits": 2, "states": True}, "states"), ({"bits": 2, "states": 8.0}, "states"),
        ({"bits": 2, "states": 64, "fixed_rate": True, "model": "static"}, "model"),
        ({"bits": 2, "states": "8"}, "states"), ({"bits": 2, "transform": 1}, "transform"),
        ({"bits": 2, "model": "best"}, "model"), ({"bits": 2, "model": None}, "model"),
    ],
)  # fmt: skip
def test_wrong_settings_are_named(change: dict, name: str) -> None:
    with pytest.raises((fq.ArgumentError, fq.ArgumentTypeError), match=f"^{name}"):
        Trellis(**change)


# The search for the step ---------------------------------------------------------------------------------------------


class Code:
    def __init__(self, step: float, nbytes: float) -> None:
        self.step, self.nbytes = step, int(nbytes)


@settings(max_examples=100)
@given(
    size=st.sampled_from((20_000, 10**6, 10**9)),
    bits=st.floats(0.3, 16),
    off=st.floats(-8, 8),
    bend=st.floats(0.3, 1.6),
    offset=st.floats(0, 0.2),
)
def test_a_step_that_meets_the_budget_is_found(size: int, bits: float, off: float, bend: float, offset: float) -> None:
    """On smooth curves that start elsewhere and fall otherwise than expected."""

    def encode(step: float) -> Code:
        return Code(step, size / 8 * (offset + np.log1p(np.exp(2 - bend * math.log2(step)))))

    budget = size * (bits + offset) / 8
    found = meet(encode, size, budget, 2.0**off, 2.0**-60)
    assert min(0.998 * budget, budget - 12) <= found.nbytes <= budget  # or a few bytes under: sizes jump


def test_a_budget_that_nothing_meets_gives_the_smallest() -> None:
    tried: list[float] = []

    def encode(step: float) -> Code:
        tried.append(step)
        return Code(step, 100 + 10 / step)

    assert meet(encode, 50, 60.0, 1.0, 1e-9).nbytes == 100 + int(10 / max(tried))
    assert len(tried) < 20


def test_the_finest_step_is_taken_where_the_budget_allows_it() -> None:
    tried: list[float] = []

    def encode(step: float) -> Code:
        tried.append(step)
        return Code(step, 100 - math.log2(step))

    assert meet(encode, 50, 1e6, 1.0, 2.0**-7).step == 2.0**-7
    assert min(tried) == 2.0**-7


# Files ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_damaged_files_are_refused_or_read_as_arrays(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    W = correlated(10)
    path = tmp_path / "w.safetensors"
    fq.save(path, {"W": fq.decompose(W, method=Trellis(2.0, model=("static", "mixing", "auto")[seed]))})
    whole = path.read_bytes()
    for k in range(60):
        damaged = bytearray(whole[: rng.integers(len(whole))] if k % 4 == 0 else whole)
        for place in rng.integers(0, max(len(damaged), 1), rng.integers(1, 4)) if damaged else ():
            damaged[place] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            loaded = fq.load(path)["W"]
            dense = loaded if isinstance(loaded, np.ndarray) else loaded.to_dense()
        except fq.ArtifactError:
            continue
        except KeyError:
            continue  # the name itself was damaged
        assert dense.shape == W.shape


def test_neither_bits_nor_step_needs_a_size() -> None:
    W = gaussian(64, 64)
    with pytest.raises(fq.ArgumentError, match="neither bits nor step"):
        fq.decompose(W, method=Trellis(states=4))
    F = fq.decompose(W, method=Trellis(states=4), bits_per_weight=2.0)
    assert F.method == Trellis(2.0, states=4)
    assert 1.99 <= F.bits_per_weight <= 2.0
