"""A factorization as layers: two or three convolutions, or two linear maps, that do in turn what W does at once.

``W[o, i, p] = sum_r w[r] A[o, r] B[i, r] C[p, r]``, with outputs o, inputs i and kernel positions p, is a 1x1
convolution with B^T, a depthwise one with w * C, and a 1x1 convolution with A (Lebedev, Ganin, Rakhuba, Oseledets and
Lempitsky 2015, arXiv 1412.6553). A product ``W = A B``, W read as (outputs, the rest), is a convolution with B and a
1x1 one with A.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..arrays import FLOATS, Array, Home
from ..codecs.base import Encoded
from ..errors import ArgumentError, affordable, refuse, refuse_type
from ..forms import CP, Chain, Fold, Folded, Form, Leaf, Matrix, Sum, khatri_rao
from ..measure import binary_exponent, narrowed, scaled

Sizes = int | Sequence[int]
"""One integer for all spatial axes, or one for each."""
Padding = Sizes | str
"""Such sizes, or one of the words "same" and "valid"."""

_ROLES = ("outputs", "inputs", "kernel positions")


@dataclass(frozen=True, eq=False, repr=False)
class Conv:
    """``y[o, q] = sum_(i, p) weight[o, i, p] x[i, stride * q + dilation * p - padding]``: one layer, as plain arrays.

    Parameters
    ----------
    weight : array, (outputs, inputs / groups, kernel..)
        As PyTorch has it; a linear map has no kernel axes, (outputs, inputs).
    stride, dilation : tuple of int
        One number per kernel axis; empty for a linear map.
    padding : tuple of int, or "same"
        Zeros on both sides of each axis; or as many as keep the size at stride 1.
    groups : int
        Output o reads the inputs of group ``o // (outputs / groups)`` alone.
    """

    weight: Array
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] | Literal["same"] = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1

    @property
    def kernel(self) -> tuple[int, ...]:
        """Sizes of the kernel; empty for a linear map."""
        return tuple(self.weight.shape[2:])

    def output_size(self, size: tuple[int, ...]) -> tuple[int, ...]:
        """The spatial size of y, rounded down, for an input of spatial ``size``.

        Raises
        ------
        ArgumentError
            If the kernel is larger than the padded input.
        """
        if self.padding == "same":
            return tuple(-(-n // s) for n, s in zip(size, self.stride, strict=True))
        spans = tuple(d * (k - 1) + 1 for k, d in zip(self.kernel, self.dilation, strict=True))
        padded = tuple(n + 2 * p for n, p in zip(size, self.padding, strict=True))
        if any(n < span for n, span in zip(padded, spans, strict=True)):
            found = f"{size}, {padded} with the padding"
            raise refuse("size", found=found, allowed=f"at least {spans}, what the kernel covers")
        return tuple((n - span) // s + 1 for n, span, s in zip(padded, spans, self.stride, strict=True))

    def macs(self, size: tuple[int, ...]) -> int:
        """Multiply-accumulates for an input of spatial ``size``: numbers in ``weight`` times output positions."""
        return math.prod((*self.weight.shape, *self.output_size(size)))

    def __repr__(self) -> str:
        shape = "x".join(map(str, self.weight.shape))
        if not self.kernel:
            return f"Conv({shape}, linear)"
        settings = f"stride={self.stride}, padding={self.padding!r}, dilation={self.dilation}, groups={self.groups}"
        return f"Conv({shape}, {settings})"


@dataclass(frozen=True)
class Operations:
    """What a layer costs for one input: dense (``before``), and as :meth:`Factorization.to_conv` has it (``after``).

    Parameters
    ----------
    macs_before, macs_after : int
        Multiply-accumulates.
    bops_before, bops_after : int
        Bit operations: multiply-accumulates times bits of a weight times bits of an activation.
    parameters_before, parameters_after : int
        Weights of W; stored numbers in all factors.
    bytes : int
        Stored bytes of the factorization.
    """

    macs_before: int
    macs_after: int
    bops_before: int
    bops_after: int
    parameters_before: int
    parameters_after: int
    bytes: int

    def __str__(self) -> str:
        rows = [
            ("MACs", self.macs_before, self.macs_after),
            ("BOPs", self.bops_before, self.bops_after),
            ("parameters", self.parameters_before, self.parameters_after),
        ]
        width = max(len(f"{n:,}") for _, *numbers in rows for n in numbers)
        lines = [f"{'':10}  {'before':>{width}}  {'after':>{width}}"]
        lines += [f"{name:10}  {a:>{width},}  {b:>{width},}  {b / a:8.2%}" for name, a, b in rows]
        return "\n".join([*lines, f"stored in {self.bytes:,} bytes"])


def source(shape: tuple[int, ...], stride: Sizes, padding: Padding, dilation: Sizes, groups: int) -> Conv:
    """The layer whose weight has ``shape`` (outputs, inputs / groups, kernel..); the weight itself is a placeholder.

    Raises
    ------
    ArgumentError, ArgumentTypeError
        If a setting is no integer or does not fit the axes; for a matrix, if one is not its default.
    """
    axes = len(shape) - 2
    _check_integer("groups", groups, 1)
    if shape[0] % groups or (groups > 1 and not axes):
        allowed = f"a divisor of the {shape[0]} outputs" if axes else "1, since a matrix has no groups"
        raise refuse("groups", found=groups, allowed=allowed)
    zeros: tuple[int, ...] | Literal["same"]
    if not isinstance(padding, str):
        zeros = per_axis("padding", padding, axes, least=0)
    elif axes and padding in ("same", "valid"):
        zeros = "same" if padding == "same" else (0,) * axes
    else:
        allowed = 'integers, "same" or "valid"' if axes else "0, since a matrix has no spatial axes"
        raise refuse("padding", found=repr(padding), allowed=allowed)
    strides, dilations = per_axis("stride", stride, axes, least=1), per_axis("dilation", dilation, axes, least=1)
    return Conv(np.broadcast_to(np.float32(0), shape), strides, zeros, dilations, int(groups))


def per_axis(name: str, value: Sizes, axes: int, least: int) -> tuple[int, ...]:
    """``value`` as one integer of at least ``least`` for each of ``axes`` axes."""
    values = (value,) if isinstance(value, int | np.integer) else value
    if not isinstance(values, Sequence) or isinstance(values, str):
        raise refuse_type(name, found=type(value).__name__, allowed=f"an integer or {axes} integers")
    for n in values:
        _check_integer(name, n, least)
    if isinstance(value, int | np.integer):
        if not axes and value != least:  # the defaults are the least that is allowed
            raise refuse(name, found=value, allowed=f"{least}, since a matrix has no spatial axes")
        return (int(value),) * axes
    if len(values) != axes:
        allowed = f"an integer or {axes}, one per spatial axis" if axes else "(), since a matrix has no spatial axes"
        raise refuse(name, found=f"{len(values)} integers", allowed=allowed)
    return tuple(int(n) for n in values)


def _check_integer(name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise refuse_type(name, found=repr(value), allowed="integers")
    if value < least:
        raise refuse(name, found=value, allowed=f"an integer of at least {least}")


def convolutions(form: Form, home: Home, layer: Conv) -> tuple[Conv, ...]:
    """The layers that stand for ``layer``, whose weight ``form`` contracts to; their weights in ``home``."""
    dtype = FLOATS[home.dtype]
    with affordable(f"the layers of an array of shape {form.shape}"):
        convs, _ = _sequence(form, layer, 8 * dtype.itemsize)
        weights = balanced([conv.weight for conv in convs], dtype)
        placed = [home.place(narrowed(weight, dtype)) for weight in weights]
    return tuple(replace(conv, weight=weight) for conv, weight in zip(convs, placed, strict=True))


def steps(form: Form, layer: Conv, factored: bool | None = None) -> tuple[tuple[Conv, ...], ...]:
    """Sequences of layers whose outputs add up to that of ``layer``, whose weight ``form`` contracts to.

    The leaves may be arrays of any library. ``factored`` says whether to apply the factors in turn, where they allow
    it, or to build the weight; None for what takes fewer multiplications.
    """
    if factored is not False:
        found = _in_turn(form, layer)
        if factored or sum(map(_macs, found)) < math.prod(form.shape):
            return found
    return ((replace(layer, weight=form.dense()),),)


def _in_turn(form: Form, layer: Conv) -> tuple[tuple[Conv, ...], ...]:
    if isinstance(form, Sum):
        return tuple(sequence for term in form.terms for sequence in _in_turn(term, layer))
    if isinstance(form, Chain | CP | Folded):
        try:
            return (_sequence(form, layer, 32)[0],)
        except ArgumentError:  # factors that do not contract like layers
            pass
    return ((replace(layer, weight=form.dense()),),)


def _macs(sequence: Sequence[Conv]) -> int:
    """Multiplications for one output position of the last of some layers."""
    total, positions = 0, 1
    for conv in reversed(sequence):
        total += positions * math.prod(conv.weight.shape)
        positions *= math.prod(conv.stride)
    return total


def operations(form: Form, home: Home, layer: Conv, size: Sizes, activation_bits: int) -> Operations:
    """What ``layer``, whose weight ``form`` contracts to, costs for an input of spatial ``size``."""
    _check_integer("activation_bits", activation_bits, 1)
    spatial = per_axis("size", size, len(form.shape) - 2, least=1)
    weight_bits = 8 * FLOATS[home.dtype].itemsize
    before, macs, bops = layer.macs(spatial), 0, 0
    with affordable(f"the layers of an array of shape {form.shape}"):
        convs, bits = _sequence(form, layer, weight_bits)
    for conv, conv_bits in zip(convs, bits, strict=True):
        macs += conv.macs(spatial)
        bops += conv.macs(spatial) * conv_bits * int(activation_bits)
        spatial = conv.output_size(spatial)
    factors = [leaf.factor for leaf in form.leaves().values()]
    stored = sum(math.prod(factor.shape) for factor in factors)
    nbytes = sum(factor.nbytes for factor in factors)
    return Operations(before, macs, before * weight_bits * 32, bops, math.prod(form.shape), stored, nbytes)


def _sequence(form: Form, layer: Conv, dense_bits: int) -> tuple[tuple[Conv, ...], tuple[int, ...]]:
    """The layers with weights in the factors' own precision on the host, and the bits of each one's numbers."""
    groups, kernel = layer.groups, layer.kernel
    if isinstance(form, CP) and len(form.shape) > 2:
        A, B, C, bits = _by_role(form, dense_bits)
        first, middle = _per_group(B.T, groups), _per_group(C.T, groups)
        if len(C) == 1:  # no kernel apart: what is left of it is a scale like the weights
            A, bits = A * C, (bits[0], bits[-1])
    else:
        (A, B), bits = pair(form, "to_conv", dense_bits)
        first = _per_group(B, groups)
    if len(bits) == 2:
        return (replace(layer, weight=first.reshape(-1, *form.shape[1:])), _pointwise(A, layer)), bits
    depthwise = replace(layer, weight=middle.reshape(-1, 1, *kernel), groups=len(middle))
    return (_pointwise(first, layer), depthwise, _pointwise(A, layer)), bits


def _per_group(components: Matrix, groups: int) -> Matrix:
    """All components (r, n) for every group, since its outputs see its inputs alone: (groups * r, n)."""
    if groups == 1:
        return components
    copied: Matrix = components[np.arange(groups * components.shape[0]) % components.shape[0]]
    return copied


def _pointwise(matrix: Matrix, layer: Conv) -> Conv:
    """The 1x1 layer of ``matrix`` (outputs, inputs / groups) beside ``layer``."""
    ones = (1,) * len(layer.kernel)
    return Conv(matrix.reshape(*matrix.shape, *ones), ones, (0,) * len(ones), ones, layer.groups)


def _by_role(form: CP, dense_bits: int) -> tuple[Matrix, Matrix, Matrix, tuple[int, ...]]:
    """A (outputs, r), B (inputs, r), w * C (kernel positions, r), and the bits of B, C and A.

    A factor belongs to the role of its axes that are longer than 1: those of length 1 add nothing to the order of the
    others. One that has none goes by its first axis.
    """
    roles: tuple[list[Form], ...] = ([], [], [])
    axis = 0
    for k, factor in enumerate(form.factors):
        axes = range(axis, axis + len(factor.shape) - 1)
        axis = axes.stop
        found = sorted({min(a, 2) for a in axes if form.shape[a] > 1}) or [min(axes[0], 2)]
        if len(found) > 1:
            what = " and ".join(_ROLES[role] for role in found)
            remedy = "decompose W with one factor for each of them, or use to_dense()"
            allowed = f"factors over {', '.join(_ROLES[:2])} or {_ROLES[2]}, not over several of them"
            raise refuse(f"to_conv: factor{k}", found=f"{factor.shape} over {what}", allowed=allowed, remedy=remedy)
        roles[found[0]].append(factor)
    matrices, bits = [], []
    for factors in roles:
        parts = [f.dense().reshape(-1, form.rank) for f in factors]
        matrices.append(khatri_rao(parts) if parts else form.weights.dense() ** 0)
        # The product of numbers of a and of b bits has a + b bits.
        bits.append(min(sum(_bits(factor, dense_bits) for factor in factors), dense_bits) or 1)
    A, B, C = matrices
    return A, B, C * form.weights.dense(), (bits[1], bits[2], bits[0])


def pair(form: Form, asked: str, dense_bits: int = 32) -> tuple[tuple[Matrix, Matrix], tuple[int, int]]:
    """A (m, r) and B (r, n) with ``W = A B``, W read as (shape[0], the rest), and the bits of B and of A.

    Raises
    ------
    ArgumentError
        If ``form`` is not such a product; ``asked`` is what wanted it.
    """
    inner, turned = form, False
    if isinstance(form, Folded) and form.fold in (Fold.matrix(form.shape), Fold.transposed(form.shape)):
        inner, turned = form.inner, form.fold.rows != (0,)
    if isinstance(inner, Chain):
        A, B, bits = inner.A.dense(), inner.B.dense(), (_bits(inner.B, dense_bits), _bits(inner.A, dense_bits))
    elif isinstance(inner, CP) and len(inner.shape) == 2:
        a, b = inner.factors
        A, B, bits = a.dense() * inner.weights.dense(), b.dense().T, (_bits(b, dense_bits), _bits(a, dense_bits))
    else:
        found = f"{'an array without factors' if isinstance(form, Leaf) else form} of shape {form.shape}"
        allowed = "CP, or a product A B of W read as (shape[0], the rest)"
        remedy = 'decompose with method="cp" or "svd", or use the array to_dense() as it is'
        raise refuse(asked, found=found, allowed=allowed, remedy=remedy)
    return ((B.T, A.T), bits[::-1]) if turned else ((A, B), bits)


def _bits(form: Form, dense_bits: int) -> int:
    """Bits of one number of ``form`` (a scale per column or group apart); ``dense_bits`` if it takes any value."""
    factor = form.factor if isinstance(form, Leaf) else None
    if not isinstance(factor, Encoded):
        return dense_bits
    levels = factor.points().levels
    if levels is not None:
        return max(1, (len(levels) - 1).bit_length())
    stored = getattr(factor, "stored", None)
    return 8 * FLOATS[stored].itemsize if stored in FLOATS else dense_bits


def balanced(weights: list[NDArray[Any]], dtype: np.dtype[Any]) -> list[NDArray[Any]]:
    """``weights`` with powers of two moved between them, to about one size, if ``dtype`` is float16.

    Only where something is out of its range: factors may be integers and the weights of their terms 1e-9.
    """
    if dtype != FLOATS["float16"] or not all(x.any() for x in weights) or all(map(_fits_float16, weights)):
        return weights
    exponents = [binary_exponent(x) for x in weights]
    each, over = divmod(sum(exponents), len(weights))
    aims = [each + (k < over) for k in range(len(weights))]
    return [scaled(x, aim - e) for x, aim, e in zip(weights, aims, exponents, strict=True)]


def _fits_float16(x: NDArray[Any]) -> bool:
    """Whether all numbers but 0 are normal ones of float16."""
    sizes = np.abs(x[x != 0])
    return bool(sizes.min() >= np.finfo(np.float16).tiny and sizes.max() <= np.finfo(np.float16).max)


def decoded(form: Form, leaves: Iterable[Form], dtype: np.dtype[Any]) -> list[NDArray[Any]]:
    """The factors of ``form``, its ``leaves`` in order, each rounded to ``dtype``; those of CP balanced for it."""
    factors = [leaf.dense() for leaf in leaves]
    return [narrowed(x, dtype) for x in (balanced(factors, dtype) if isinstance(form, CP) else factors)]
