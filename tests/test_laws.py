"""Every law of ``laws.py`` over every row of ``cases.py``."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import laws
import ml_dtypes
import numpy as np
import pytest
from cases import CONSTRAINTS, DTYPES, METHODS, ConstraintCase, MethodCase, gram_of, sample, weights
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import factorq as fq
from factorq.constraints import Sparse

every_constraint = pytest.mark.parametrize("case", CONSTRAINTS.values(), ids=list(CONSTRAINTS))
every_method = pytest.mark.parametrize("case", METHODS.values(), ids=list(METHODS))
BY_GRAM = {name: case for name, case in METHODS.items() if case.gram}
with_a_gram = pytest.mark.parametrize("case", BY_GRAM.values(), ids=list(BY_GRAM))
COMPUTE = ("float32", "float64")
CONSTRAINT_LAWS = (
    laws.projection_is_decoded_encoding,
    laws.projecting_twice_is_projecting_once,
    laws.predicted_size_is_stored_size,
    laws.codec_survives_its_description,
    laws.rounding_to_given_points,
)
METHOD_LAWS = (
    laws.result_stands_for_the_array,
    laws.layout_does_not_matter,
    laws.size_is_honest,
    laws.file_keeps_every_bit,
    laws.result_shows_itself,
)


@every_constraint
@pytest.mark.parametrize("law", CONSTRAINT_LAWS, ids=lambda law: law.__name__)
@settings(max_examples=16)
@given(data=st.data())
def test_constraint(law, case: ConstraintCase, data: st.DataObject) -> None:
    law(case, data.draw(weights(case.matrices_only, COMPUTE)))


@every_constraint
@settings(max_examples=16)
@given(data=st.data())
def test_constraint_on_any_numbers(case: ConstraintCase, data: st.DataObject) -> None:
    """Arbitrary finite numbers, which hypothesis shrinks; float32 has its full range, subnormals included."""
    shapes = hnp.array_shapes(min_dims=2 if case.matrices_only else 1, max_dims=2, max_side=6)
    bounds = {"min_value": -(2.0**100), "max_value": 2.0**100, "width": 32}
    x = data.draw(hnp.arrays(np.float32, shapes, elements=st.floats(**bounds)))
    laws.projection_is_decoded_encoding(case, x)
    laws.predicted_size_is_stored_size(case, x)
    laws.codec_survives_its_description(case, x)


@every_constraint
@settings(max_examples=8)
@given(
    kind=st.sampled_from(("gaussian", "heavy tails", "small integers", "zero")),
    dtype=st.sampled_from(COMPUTE),
    exponent=st.integers(-60, 60),
)
def test_constraint_scales(case: ConstraintCase, kind: str, dtype: str, exponent: int) -> None:
    if case.constraint.id == "onehot":
        pytest.skip("a one-hot row has no scale")
    laws.constraint_scales(case, sample(kind, (7, 20), dtype, 1), exponent)


@every_constraint
def test_constraint_json(case: ConstraintCase) -> None:
    laws.constraint_survives_json(case.constraint)


@every_method
def test_method_json(case: MethodCase) -> None:
    laws.method_survives_json_and_repr(case.method)


@every_method
@pytest.mark.parametrize("law", METHOD_LAWS, ids=lambda law: law.__name__)
@settings(max_examples=8)
@given(W=weights())
def test_method(law, case: MethodCase, W: np.ndarray) -> None:
    law(case, W)


@every_method
def test_largest_numbers_stay_finite(case: MethodCase) -> None:
    """Rounding up at the end of the range must not give infinities."""
    for seed in range(5):
        signs = sample("gaussian", (6, 40), "float64", seed)
        W = np.clip(1e5 * signs, -65504, 65504).astype(np.float16)
        assert np.isfinite(laws.decompose(case, W).to_dense()).all()
        laws.result_stands_for_the_array(case, W)
        if isinstance(case.method, fq.Scalar):
            for dtype in ("bfloat16", "float32"):
                W = (np.clip(signs, -1, 1) * float(ml_dtypes.finfo(dtype).max)).astype(DTYPES[dtype])
                assert np.isfinite(laws.decompose(case, W).to_dense()).all()
                laws.result_stands_for_the_array(case, W)


@every_method
@settings(max_examples=6)
@given(W=weights(matrices_only=True), width=st.sampled_from((0, 1, 5)))
def test_products(case: MethodCase, W: np.ndarray, width: int) -> None:
    laws.products_are_those_of_the_dense_array(case, W, width)


@every_method
def test_products_check_their_shapes(case: MethodCase) -> None:
    F = laws.decompose(case, sample("gaussian", (5, 7), "float32", 0))
    for bad in (np.ones(5), np.ones((5, 2)), np.ones(()), np.ones((7, 2, 2))):
        with pytest.raises(fq.ArgumentError, match=r"^x: found shape"):
            F @ bad
    for bad in (np.ones(7), np.ones((2, 7)), np.ones((2, 2, 5))):
        with pytest.raises(fq.ArgumentError, match=r"^x: found shape"):
            bad @ F
    with pytest.raises(fq.ArgumentTypeError, match="dtype"):
        F @ np.ones(7, int)
    with pytest.raises(TypeError):
        F @ [1.0] * 7
    tensor = laws.decompose(case, sample("gaussian", (4, 3, 2, 2), "float32", 0))
    with pytest.raises(fq.ArgumentError, match="matrix"):
        tensor @ np.ones(3, np.float32)


@every_method
@settings(max_examples=4)
@given(W=weights(), seed=st.integers(0, 2**40))
def test_same_seed(case: MethodCase, W: np.ndarray, seed: int) -> None:
    laws.same_seed_same_bytes(case, W, seed)


@every_method
@settings(max_examples=6)
@given(
    kind=st.sampled_from(("gaussian", "heavy tails", "rows of many sizes", "zero")),
    shape=st.sampled_from(((8, 130), (33, 20), (4, 3, 3, 3))),
    dtype=st.sampled_from(("bfloat16", "float32", "float64")),
    exponent=st.integers(-60, 60),
)
def test_method_scales(case: MethodCase, kind: str, shape: tuple[int, ...], dtype: str, exponent: int) -> None:
    laws.method_scales(case, sample(kind, shape, dtype, 2), exponent)


@with_a_gram
def test_method_scales_under_a_gram(case: MethodCase) -> None:
    W, gram = sample("gaussian", (12, 40), "float32", 3), gram_of(40)
    F = laws.decompose(case, W, gram=gram)
    for exponent in (-30, 31):
        G = laws.decompose(case, W * np.float32(2.0**exponent), gram=gram)
        assert laws.bits_of(G.to_dense()) == laws.bits_of(F.to_dense() * np.float32(2.0**exponent))
        assert G.gram_error == F.gram_error


@every_method
def test_a_method_without_grams_says_so(case: MethodCase) -> None:
    if not case.gram:
        with pytest.raises(fq.ArgumentError, match=r"^gram: found .*leave it out"):
            laws.decompose(case, sample("gaussian", (12, 40), "float32", 3), gram=gram_of(40))


@with_a_gram
def test_gram_error_is_measured_on_what_is_stored(case: MethodCase) -> None:
    W, gram = sample("gaussian", (12, 40), "float32", 3), gram_of(40)
    F = laws.decompose(case, W, gram=gram)
    lost = np.float64(W) - F.to_dense()
    want = np.sqrt(np.trace(lost @ gram @ lost.T) / np.trace(np.float64(W) @ gram @ np.float64(W).T))
    assert F.gram_error == pytest.approx(want, rel=1e-6)
    assert F.relative_error == pytest.approx(np.linalg.norm(lost) / np.linalg.norm(W), rel=1e-6)


@every_method
@pytest.mark.parametrize("shape", [(24, 40), (4, 6, 3, 3)], ids=str)
def test_every_library(case: MethodCase, shape: tuple[int, ...], xp, same_library) -> None:
    """dtype, shape, namespace and device of the result are those of W, and the bits do not depend on the library."""
    for dtype in xp.dtypes:
        host = sample("gaussian", shape, dtype, 5)
        W = xp.asarray(host)
        F = laws.decompose(case, W)
        dense = F.to_dense()
        assert same_library(dense, W)
        assert all(same_library(factor, W) for factor in F.factors)
        assert dense.dtype == W.dtype == F.dtype
        assert tuple(dense.shape) == tuple(W.shape)
        np.testing.assert_array_equal(xp.host(W).astype(np.float64), host.astype(np.float64))
        expected = laws.decompose(case, host)
        if xp.name == "cupy" and case.method.runs_on_gpu(gram=False):  # its sums have an order of their own
            assert F.relative_error == pytest.approx(expected.relative_error, rel=1e-3, abs=1e-6)
        else:
            assert laws.stored(F) == laws.stored(expected)
        if len(shape) == 2:
            x = xp.asarray(sample("gaussian", (40, 3), dtype, 6))
            product = F @ x
            assert same_library(product, W)
            assert product.dtype == W.dtype
            if xp.name != "array_api_strict":  # whose @ raises instead of asking the other operand
                assert same_library(xp.asarray(sample("gaussian", (3, 24), dtype, 6)) @ F, W)


@every_method
def test_shannons_line(case: MethodCase) -> None:
    W = np.random.default_rng(11).standard_normal((512, 2048)).astype(np.float32)
    laws.no_error_under_shannons_line(case, W)


_PROBE = """
import hashlib, sys
sys.path.insert(0, {folder!r})
import laws
from cases import METHODS, sample
for name, case in METHODS.items():
    F = laws.decompose(case, sample("heavy tails", (40, 96), "float32", 8))
    print(name, hashlib.sha256(repr(sorted(laws.stored(F).items())).encode()).hexdigest(), sep=": ")
"""


def _digests(numba_threads: int) -> str:
    code = _PROBE.format(folder=str(Path(__file__).parent))
    environment = {**os.environ, "NUMBA_NUM_THREADS": str(numba_threads)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True, timeout=300
    )
    return done.stdout


def test_same_bytes_in_other_processes_and_threads() -> None:
    """Two processes with other numbers of Numba threads, and four threads at once in this one, agree on every bit."""

    def digest(name: str) -> str:
        F = laws.decompose(METHODS[name], sample("heavy tails", (40, 96), "float32", 8))
        return f"{name}: {hashlib.sha256(repr(sorted(laws.stored(F).items())).encode()).hexdigest()}"

    alone = "\n".join(map(digest, METHODS)) + "\n"
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(digest, [*METHODS] * 2))
    assert together == alone.splitlines() * 2
    assert _digests(1) == alone
    assert _digests(2) == alone


@pytest.mark.parametrize("group", [None, 64, 128])
@pytest.mark.parametrize("grid", ["auto", "midrise", "asymmetric"])
def test_more_bits_less_error(group: int | None, grid: str) -> None:
    W = np.random.default_rng(3).standard_normal((64, 512)).astype(np.float32)
    errors = [fq.decompose(W, method=fq.Scalar(bits=b, group=group, grid=grid)).relative_error for b in range(1, 13)]
    assert all(b < a for a, b in pairwise(errors))


def test_more_rank_less_error() -> None:
    W = np.random.default_rng(3).standard_normal((40, 64)).astype(np.float32)
    errors = [fq.decompose(W, method=fq.SVD(rank=r)).relative_error for r in range(1, 41)]
    assert all(b < a for a, b in pairwise(errors))
    assert errors[-1] < 1e-6


@pytest.mark.parametrize("density", [0.5, 0.2, 0.05, 0.005])
@pytest.mark.parametrize("name", ["sparse & quantized 3", "sparse & clustered 2"])
def test_no_payload_under_its_entropy(name: str, density: float) -> None:
    x = np.random.default_rng(1).standard_normal((256, 1024)).astype(np.float32)
    joint = replace(CONSTRAINTS[name].constraint, sparse=Sparse(1 - density))
    laws.no_payload_under_its_entropy(joint.encode(x))
