"""The laws, each stated once: functions of a row of ``cases.py`` and an input that assert what must always hold."""

from __future__ import annotations

import json
import math
import struct
import tempfile
from html import escape
from itertools import pairwise
from pathlib import Path

import numpy as np
from cases import ConstraintCase, MethodCase

import factorq as fq
from factorq import constraints, methods
from factorq.codecs import Encoded
from factorq.codecs.base import decode_config
from factorq.measure import binary_entropy, empirical_entropy, gaussian_floor
from factorq.named import build

SMALLEST = {"float16": 2.0**-24, "bfloat16": 2.0**-133, "float32": 2.0**-149, "float64": 5e-324}
UNIT = {"float16": 2.0**-11, "bfloat16": 2.0**-8, "float32": 2.0**-24, "float64": 2.0**-53}
"""Relative size of a rounding in each dtype."""


def bits_of(x: np.ndarray) -> tuple[str, tuple[int, ...], bytes]:
    """All there is to an array: equal if and only if the arrays are equal bit for bit."""
    return x.dtype.name, x.shape, np.ascontiguousarray(x).tobytes()


def stored(F: fq.Factorization) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """The bits of all buffers of a factorization."""
    return {name: bits_of(array) for name, array in F.buffers().items()}


def decompose(case: MethodCase, W: np.ndarray, **options: object) -> fq.Factorization:
    """``W`` by the row's method."""
    return fq.decompose(W, method=case.on(W.shape), **options)


# Constraints and codecs ----------------------------------------------------------------------------------------------


def projection_is_decoded_encoding(case: ConstraintCase, x: np.ndarray) -> None:
    """project(x) = encode(x).decode(), of x's shape and dtype, finite, and x is not changed."""
    before = bits_of(x)
    encoded = case.constraint.encode(x)
    projected = case.constraint.project(x)
    assert bits_of(projected) == bits_of(encoded.decode())
    assert (projected.shape, projected.dtype) == (x.shape, x.dtype)
    assert np.isfinite(projected).all()
    assert bits_of(x) == before


def projecting_twice_is_projecting_once(case: ConstraintCase, x: np.ndarray) -> None:
    """Wherever the row of the table promises it: not where each projection fits new levels."""
    once = case.constraint.project(x)
    twice = case.constraint.project(once)
    if not case.settles:
        return
    np.testing.assert_array_equal(twice, once)


def predicted_size_is_stored_size(case: ConstraintCase, x: np.ndarray) -> None:
    """nbytes of the constraint = nbytes of what it stores = the sum over buffers; an upper bound under a mask."""
    encoded = case.constraint.encode(x)
    predicted = case.constraint.nbytes(x.shape, str(x.dtype))
    assert encoded.nbytes == sum(array.nbytes for array in encoded.buffers().values())
    assert encoded.nbytes == predicted if case.exact else encoded.nbytes <= predicted


def codec_survives_its_description(case: ConstraintCase, x: np.ndarray) -> None:
    """config -> JSON -> config -> equal Encoded: same description, same buffers, same array."""
    encoded = case.constraint.encode(x)
    again = decode_config(json.loads(json.dumps(encoded.config(), allow_nan=False)), encoded.buffers())
    assert again.config() == encoded.config()
    assert {k: bits_of(v) for k, v in again.buffers().items()} == {k: bits_of(v) for k, v in encoded.buffers().items()}
    assert bits_of(again.decode()) == bits_of(encoded.decode())
    assert repr(again) == repr(encoded)


def rounding_to_given_points(case: ConstraintCase, x: np.ndarray) -> None:
    """nearest() of what is stored changes nothing; of x it has the same size; all stored values lie on points()."""
    encoded = case.constraint.encode(x)
    decoded = encoded.decode()
    np.testing.assert_array_equal(encoded.nearest(decoded).decode(), decoded)
    assert encoded.nearest(x).nbytes == encoded.nbytes
    if x.ndim != 2:
        return
    points, values = encoded.points(), decoded.astype(np.float64)
    if points.keep is not None:
        assert not values[~points.keep].any()
    if points.levels is not None and points.levels.size * x.size < 1 << 22:  # all distances at once
        scale = np.ones(x.shape) if points.scale is None else points.scale
        allowed = scale[..., None] * points.levels + (0.0 if points.offset is None else points.offset[..., None])
        keep = np.ones(x.shape, bool) if points.keep is None else points.keep
        distance = np.abs(allowed - values[..., None]).min(axis=-1)[keep]
        assert (distance <= 4 * UNIT[str(x.dtype)] * np.abs(allowed).max(axis=-1)[keep]).all()


def constraint_scales(case: ConstraintCase, x: np.ndarray, exponent: int) -> None:
    """project(2^k x) = 2^k project(x), bit for bit."""
    factor = x.dtype.type(2.0**exponent)
    np.testing.assert_array_equal(case.constraint.project(x * factor), case.constraint.project(x) * factor)


def constraint_survives_json(constraint: constraints.Constraint) -> None:
    config = json.loads(json.dumps(constraint.config(), allow_nan=False))
    again = build("constraints", config)
    assert again == constraint
    assert type(again) is type(constraint)
    assert eval(repr(constraint), vars(constraints)) == constraint


# Methods -------------------------------------------------------------------------------------------------------------


def method_survives_json_and_repr(method: fq.Method) -> None:
    config = json.loads(json.dumps(method.config(), allow_nan=False))
    assert build("methods", config) == method
    assert hash(build("methods", config)) == hash(method)
    assert eval(repr(method), vars(methods)) == method


def result_stands_for_the_array(case: MethodCase, W: np.ndarray) -> None:
    """Shape, dtype and the method are W's and the given one; W is not changed; reported error = measured error."""
    before = bits_of(W)
    F = decompose(case, W)
    dense = F.to_dense()
    assert bits_of(W) == before
    assert (F.shape, F.dtype, F.ndim, F.size) == (W.shape, W.dtype, W.ndim, W.size)
    assert (dense.shape, dense.dtype) == (W.shape, W.dtype)
    assert dense.flags.c_contiguous
    assert F.method == case.on(W.shape)
    assert F.status
    assert F.history
    assert all(math.isfinite(error) and error >= 0 for error in F.history)
    scale = np.abs(W.astype(np.float64)).max() or 1.0
    exact, lost = W.astype(np.float64) / scale, (W.astype(np.float64) - dense.astype(np.float64)) / scale
    norm = np.linalg.norm(exact)
    if norm > 0:
        assert math.isclose(F.relative_error, np.linalg.norm(lost) / norm, rel_tol=1e-9, abs_tol=1e-15)
        assert F.relative_error <= 1.0 + 1e-6  # zeros would be no worse
    else:
        assert F.relative_error == 0.0
        assert not dense.any()


def layout_does_not_matter(case: MethodCase, W: np.ndarray) -> None:
    """Strides, order and writability do not change a bit."""
    assert stored(decompose(case, W)) == stored(decompose(case, np.array(W, order="C")))


def size_is_honest(case: MethodCase, W: np.ndarray) -> None:
    """Predicted size = stored size = the sum over buffers = the data of the saved file."""
    F = decompose(case, W)
    predicted = case.on(W.shape).nbytes(W.shape, W.dtype.name)
    assert F.nbytes == sum(array.nbytes for array in F.buffers().values())
    assert F.nbytes == predicted if case.exact else F.nbytes <= predicted
    assert F.bits_per_weight == 8 * F.nbytes / W.size
    assert fq.explain(W, method=case.on(W.shape)).nbytes == predicted
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "one.safetensors")
        fq.save(path, {"W": F})
        data = path.read_bytes()
    (header,) = struct.unpack("<Q", data[:8])
    assert len(data) - 8 - header == F.nbytes


def file_keeps_every_bit(case: MethodCase, W: np.ndarray) -> None:
    """save -> load -> the same; saved twice, also after loading: the same bytes."""
    F = decompose(case, W)
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, f"{k}.safetensors") for k in range(3)]
        bias = np.arange(3.0)
        fq.save(paths[0], {"fc.weight": F, "bias": bias})
        fq.save(paths[1], {"fc.weight": F, "bias": bias})
        loaded = fq.load(paths[0])
        fq.save(paths[2], loaded)
        assert paths[0].read_bytes() == paths[1].read_bytes() == paths[2].read_bytes()
    G = loaded["fc.weight"]
    assert isinstance(G, fq.Factorization)
    assert bits_of(loaded["bias"]) == bits_of(bias)
    assert stored(G) == stored(F)
    assert bits_of(G.to_dense()) == bits_of(F.to_dense())
    assert (G.method, G.record(), repr(G)) == (F.method, F.record(), repr(F))


def products_are_those_of_the_dense_array(case: MethodCase, W: np.ndarray, width: int) -> None:
    """F @ x = to_dense() @ x and x @ F = x @ to_dense() up to rounding, for vectors and matrices, width 0 included."""
    F = decompose(case, W)
    rng = np.random.default_rng(0)
    right, left = rng.standard_normal((W.shape[1], width)), rng.standard_normal((width, W.shape[0]))
    small = 2.0**-12 if np.abs(W).max() > 1e3 and W.dtype == np.float16 else 1.0  # keeps products in range
    right, left = (small * right).astype(W.dtype), (small * left).astype(W.dtype)
    wide = F.form.dense().astype(np.float64)  # before it is rounded to a half precision
    compute = np.finfo(np.float64 if W.dtype == np.float64 else np.float32).eps
    norms = [np.linalg.norm(factor.decode().astype(np.float64)) for factor in F.encoded.values()]
    magnitude = sum(a * b for a, b in pairwise(norms))  # of the products of neighbours in chains
    for product, x, y in ((F @ right, wide, right), (left @ F, left, wide)):
        want = x.astype(np.float64) @ y.astype(np.float64)
        assert (product.shape, product.dtype) == (want.shape, W.dtype)
        size = max(np.linalg.norm(wide), magnitude) * np.linalg.norm((y if x is wide else x).astype(np.float64))
        room = {"rtol": 2 * UNIT[W.dtype.name], "atol": 64 * compute * size + SMALLEST[W.dtype.name]}
        np.testing.assert_allclose(product.astype(np.float64), want, **room)
    if width:
        vector, column = F @ right[:, 0], wide @ right[:, 0].astype(np.float64)
        room["atol"] = (
            64 * compute * max(np.linalg.norm(wide), magnitude) * np.linalg.norm(right[:, 0].astype(np.float64))
        )
        room["atol"] += SMALLEST[W.dtype.name]
        np.testing.assert_allclose(vector.astype(np.float64), column, **room)
        assert (F @ right[:, 0]).shape == (W.shape[0],)
        assert (left[0] @ F).shape == (W.shape[1],)


def same_seed_same_bytes(case: MethodCase, W: np.ndarray, seed: int) -> None:
    """Equal calls give equal bytes; the generator's state is what counts, not how it was made."""
    first = decompose(case, W, rng=seed)
    assert stored(first) == stored(decompose(case, W, rng=np.random.default_rng(seed)))
    assert first.record() == decompose(case, W, rng=seed).record()
    assert stored(decompose(case, W)) == stored(decompose(case, W, rng=0))


def method_scales(case: MethodCase, W: np.ndarray, exponent: int) -> None:
    """decompose(2^k W) = 2^k decompose(W), bit for bit, with the same relative error."""
    factor = W.dtype.type(2.0**exponent)
    F, G = decompose(case, W), decompose(case, W * factor)
    assert bits_of(G.to_dense()) == bits_of(F.to_dense() * factor)
    assert (G.relative_error, G.nbytes) == (F.relative_error, F.nbytes)


def result_shows_itself(case: MethodCase, W: np.ndarray) -> None:
    """repr and HTML have the key figures; HTML escapes what it shows."""
    F = decompose(case, W)
    for text in (repr(F), F._repr_html_()):
        for figure in (f"{F.bits_per_weight:.4g}", f"{F.nbytes:,}", f"{F.relative_error:.4g}", type(F.method).__name__):
            assert figure in text or (figure == "Stacked" and " + " in text)
    hostile = fq.Factorization(F.form, F.home, {"id": "<script>"}, F.relative_error, status="<b>&\"'")
    html = hostile._repr_html_()
    assert "<script>" not in html
    assert "<b>" not in html
    assert escape("<b>&\"'") in html


# Honesty -------------------------------------------------------------------------------------------------------------


def no_error_under_shannons_line(case: MethodCase, W: np.ndarray) -> None:
    """For i.i.d. Gaussian W the relative squared error is at least 2^(-2 bits per weight)."""
    F = decompose(case, W)
    assert F.relative_error**2 >= gaussian_floor(F.bits_per_weight)


def no_payload_under_its_entropy(encoded: Encoded) -> None:
    """A mask of random positions and its values need at least the entropy of both."""
    mask = encoded.mask()
    inner = encoded.inner
    floor = mask.size * binary_entropy(float(mask.mean()))
    values = inner.size * empirical_entropy(np.unique(inner.decode(), return_inverse=True)[1])
    assert 8 * encoded.nbytes >= 0.995 * (floor + values)  # 0.5 %: the sampled density is known to the decoder
