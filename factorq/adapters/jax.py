"""JAX: factorizations as pytrees, with pure functions that apply and train them.

``apply(params, x)`` is ``x @ W.T``, or a convolution with W. What is trained are the numbers behind the factors
(:class:`factorq.Trainable`), the leaves of :class:`Params`: the functions here round them to what would be stored, and
gradients pass through the rounding. A :class:`factorq.Factorization` is a pytree, too, of the bytes that it stores.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from operator import add
from typing import Any

import numpy as np
from numpy.typing import NDArray

try:
    import jax
except ImportError as error:
    raise ImportError("factorq.adapters.jax needs JAX: pip install 'factorq[jax]'") from error
import jax.numpy as jnp

from ..arrays import FLOATS, Home, dtype_name, is_array
from ..errors import ArtifactError, refuse, refuse_type, within
from ..factorization import Factorization, Trainable
from ..factorization.layers import Conv, Padding, Sizes, source
from ..forms import Leaf

__all__ = ["OPS", "Params", "apply", "embed", "from_factorization", "through", "to_dense", "to_factorization"]

Array = Any  # or what stands for one while JAX traces a function

through = jax.custom_vjp(lambda value, x: value)
"""``value``, with the gradient of ``x``: the straight-through primitive, for arrays of one shape and dtype."""
through.defvjp(lambda value, x: (value, None), lambda _, gradient: (None, gradient))


class _Names:
    """``jax.numpy`` for the core; a number on a bound of ``clip`` is inside, where JAX would halve its gradient."""

    def __getattr__(self, name: str) -> Any:
        return getattr(jnp, name)

    @staticmethod
    def clip(x: Array, low: Any, high: Any) -> Array:
        return jnp.where(x < low, low, jnp.where(x > high, high, x))


class _Ops:
    """What :class:`factorq.Trainable` asks of a framework."""

    xp = _Names()
    through = staticmethod(through)
    stopped = staticmethod(jax.lax.stop_gradient)

    @staticmethod
    def cast(x: Array, dtype: str) -> Array:
        return x.astype(dtype)

    @staticmethod
    def host(function: Any, x: Array, adjoint: Any = None) -> Array:
        def called(which: Any, y: Array) -> Array:
            def run(host: Any) -> NDArray[Any]:
                return np.ascontiguousarray(which(np.array(host)), host.dtype)

            return jax.pure_callback(run, jax.ShapeDtypeStruct(y.shape, y.dtype), y, vmap_method="sequential")

        def back(_: None, gradient: Array) -> tuple[Array | None]:
            return (None if adjoint is None else called(adjoint, gradient),)

        primitive = jax.custom_vjp(lambda y: called(function, y))
        primitive.defvjp(lambda y: (called(function, y), None), back)
        return primitive(x)


OPS = _Ops()


@dataclass(frozen=True, eq=False)
class _Behind:
    """What of a :class:`Params` no gradient or optimizer may touch; equal to itself alone."""

    trainable: Trainable
    constants: Mapping[str, Array]


@dataclass(frozen=True, eq=False, repr=False)
class Params:
    """The trainable numbers behind a factorization: a pytree whose leaves are float arrays; the rest is static.

    Made by :func:`from_factorization`. All that stems from one of them, by gradients, optimizers or ``jax.jit``, has
    one structure; two that were made apart have two. Masks and indices become constants of compiled functions.

    Attributes
    ----------
    parameters : mapping from str to Array
        ``<factor>.<name>``: float32 or, for a float64 W, float64. Empty if frozen.
    """

    parameters: Mapping[str, Array]
    behind: _Behind

    @property
    def before(self) -> Factorization:
        """The factorization that they were made of."""
        return self.behind.trainable.before

    def __repr__(self) -> str:
        shape, names = "x".join(map(str, self.before.shape)), ", ".join(self.parameters) or "frozen"
        return f"Params({shape}, {self.before.method_config.get('id')}: {names})"


jax.tree_util.register_dataclass(Params, data_fields=["parameters"], meta_fields=["behind"])


def from_factorization(F: Any, *, start: Any = None, reselect: bool = False, frozen: bool = False) -> Any:
    """The numbers to train behind ``F``, or behind each of a tree, such as the dict that :func:`factorq.load` gives.

    Parameters
    ----------
    F : Factorization, or a tree of them and of arrays
    start : array, or a tree like F of arrays, optional
    reselect, frozen : bool
        As for :class:`factorq.Trainable`.

    Returns
    -------
    Params, or a tree of them
        In a tree floating arrays become JAX arrays; other arrays stay as they are.

    Raises
    ------
    ArgumentError, ArgumentTypeError
        If something is neither a factorization nor an array, or is float64 while JAX has no float64.

    Examples
    --------
    >>> import factorq as fq
    >>> F = fq.decompose(np.eye(4, 8, dtype=np.float32), method=fq.Scalar(2, group=8))
    >>> params = from_factorization(F)
    >>> params
    Params(4x8, scalar: W.values, W.scales)
    >>> apply(params, jnp.ones(8)).shape, to_factorization(params) is F
    ((4,), True)
    """

    def made(path: Any, x: Any, W: Any = None) -> Any:
        if is_array(x):
            return _array(jax.tree_util.keystr(path), x) if dtype_name(x) in FLOATS else x
        with within(f"F{jax.tree_util.keystr(path)}"), jax.ensure_compile_time_eval():
            trainable = Trainable(x, start=None if W is None else np.asarray(W), reselect=reselect, frozen=frozen)
            parameters, constants = (
                {name: _array(name, x) for name, x in arrays.items()}
                for arrays in (trainable.parameters(), trainable.constants())
            )
            return Params(parameters, _Behind(trainable, constants))

    trees = (F,) if start is None else (F, start)
    return jax.tree_util.tree_map_with_path(made, *trees, is_leaf=lambda x: isinstance(x, Factorization))


def to_factorization(params: Any) -> Any:
    """What would be stored: in as many bytes as before, and the very factorization as it was if nothing was trained.

    Parameters
    ----------
    params : Params, or a tree of them and of arrays
        Outside of ``jax.jit`` and the like.

    Returns
    -------
    Factorization, or a tree of them and of NumPy arrays
        A dict of these is for :func:`factorq.save`.

    Raises
    ------
    ArgumentError, ArgumentTypeError
        If something is neither ``Params`` nor an array, or a parameter is not finite or has another shape than before.
    """

    def stored(x: Any) -> Any:
        if isinstance(x, Params):
            return x.behind.trainable.factorization(jax.tree.map(np.asarray, dict(x.parameters)))
        if is_array(x):
            return np.asarray(x)
        raise refuse_type("params", found=type(x).__name__, allowed="Params and arrays")

    return jax.tree.map(stored, params, is_leaf=lambda x: isinstance(x, Params))


def apply(
    params: Params | Factorization,
    x: Array,
    bias: Array | None = None,
    *,
    stride: Sizes = 1,
    padding: Padding = 0,
    dilation: Sizes = 1,
    groups: int = 1,
    factored: bool | None = None,
) -> Array:
    """``y = x W^T + bias`` for a matrix W (m, n) and x (.., n); for W (O, I / g, kernel..) a convolution of x.

    Parameters
    ----------
    params : Params or Factorization
        A factorization is decoded, on the host: when the function is traced, or if it is an argument of that, each time
        that it runs.
    x : Array, (.., n) or (.., I, size..)
        Floating; factors are rounded as they are stored, then cast to its dtype.
    bias : Array, (m,) or (O,), optional
    stride, padding, dilation, groups
        As for :meth:`factorq.Factorization.to_conv`.
    factored : bool, optional
        Whether to apply the factors in turn, where they allow it, or to build W; by default what takes fewer
        multiplications.

    Returns
    -------
    Array, (.., m) or (.., O, size..)

    Raises
    ------
    ArgumentError, ArgumentTypeError
        If x is not as above, or a setting does not fit the shape of W.
    """
    x, shape = jnp.asarray(x), _shape(params)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise refuse_type("x", found=f"an array of {x.dtype}", allowed="a floating one")
    layer = source(shape, stride, padding, dilation, groups)
    axes, inputs = len(layer.kernel), shape[1] * layer.groups
    if x.ndim <= axes or x.shape[-1 - axes] != inputs:
        allowed = f"(.., {inputs}{', size' * axes}) for a weight {shape}"
        raise refuse("x", found=f"an array of shape {x.shape}", allowed=allowed)
    before = x.shape[: -1 - axes]
    flat = x.reshape(math.prod(before), *x.shape[-1 - axes :])
    y = reduce(add, (_applied(sequence, flat) for sequence in _steps(params, layer, factored, dtype_name(x))))
    if bias is not None:
        y = y + jnp.asarray(bias).astype(y.dtype).reshape(-1, *(1,) * axes)
    return y.reshape(*before, *y.shape[1:])


def embed(params: Params | Factorization, ids: Array) -> Array:
    """``W[ids]``: rows of a matrix W (m, n).

    Parameters
    ----------
    params : Params or Factorization
    ids : Array of integers, (..)

    Returns
    -------
    Array, (.., n)
        In the dtype of W.

    Raises
    ------
    ArgumentError
        If W is no matrix.
    """
    ids, shape = jnp.asarray(ids), _shape(params)
    if len(shape) != 2:
        raise refuse("params", found=f"a weight of shape {shape}", allowed="a matrix")

    def rows(sequence: Sequence[Conv]) -> Array:
        found = sequence[-1].weight[ids]
        for conv in reversed(sequence[:-1]):
            found = found @ conv.weight
        return found

    few = math.prod(ids.shape) < shape[0]  # else W takes less than each row on its own
    return reduce(add, map(rows, _steps(params, source(shape, 1, 0, 1, 1), few, _own(params))))


def to_dense(params: Params | Factorization) -> Array:
    """W itself, in its dtype; factors are contracted in float32 or, for a float64 W, float64.

    Parameters
    ----------
    params : Params or Factorization

    Returns
    -------
    Array
    """
    with jax.default_matmul_precision("highest"):
        ((conv,),) = _steps(params, source(_shape(params), 1, 0, 1, 1), False, _own(params))
    return conv.weight


def _applied(sequence: Sequence[Conv], x: Array) -> Array:
    for conv in sequence:
        if conv.kernel:
            padding = [(p, p) for p in conv.padding if conv.padding != "same"]
            if conv.padding == "same":  # as at stride 1, where lax would pad for the stride
                wide = [d * (k - 1) for d, k in zip(conv.dilation, conv.kernel, strict=True)]
                padding = [(n // 2, n - n // 2) for n in wide]
            settings = {"rhs_dilation": conv.dilation, "feature_group_count": conv.groups}
            x = jax.lax.conv_general_dilated(x, conv.weight, conv.stride, padding, **settings)
        else:
            x = x @ conv.weight.T
    return x


def _steps(params: Params | Factorization, layer: Conv, factored: bool | None, dtype: str) -> Sequence[Sequence[Conv]]:
    """The layers in place of ``layer``, their weights of ``dtype``; a factorization is one array."""
    if isinstance(params, Params):
        behind = params.behind
        return behind.trainable.steps(OPS, params.parameters, behind.constants, layer, factored, dtype)
    traced = isinstance(params.form, Leaf) and isinstance(params.form.factor, _Bytes)
    W = params.form.dense() if traced else jnp.asarray(np.asarray(params), _own(params))
    return ((replace(layer, weight=W.astype(dtype)),),)


def _shape(params: Params | Factorization) -> tuple[int, ...]:
    _own(params)
    return params.before.shape if isinstance(params, Params) else params.form.shape


def _own(params: Params | Factorization) -> str:
    """The dtype of W, as near as JAX has it."""
    F = params.before if isinstance(params, Params) else params
    if not isinstance(F, Factorization):
        raise refuse_type("params", found=type(params).__name__, allowed="Params or a Factorization")
    return str(jax.dtypes.canonicalize_dtype(FLOATS[F.home.dtype]).name)


def _array(name: str, x: Any) -> Array:
    """A copy of ``x`` with the numbers it has."""
    if dtype_name(x) == "float64" and jax.dtypes.canonicalize_dtype(np.float64) != np.float64:
        remedy = 'jax.config.update("jax_enable_x64", True), or decompose the array in float32'
        raise refuse(name, found="float64 numbers", allowed="float32 ones, since JAX has no others now", remedy=remedy)
    return jnp.array(x)


@dataclass(frozen=True)
class _Record:
    """All of F but its bytes; equal to that of another F with which a compiled function may be shared."""

    F: Factorization = field(compare=False)
    text: str
    home: Home
    layout: tuple[tuple[str, Any, tuple[int, ...]], ...]

    def rebuilt(self, leaves: Sequence[Any]) -> Factorization:
        """F with other bytes."""
        each = zip(self.layout, map(np.asarray, leaves), strict=True)
        buffers = {name: x.view(dtype).reshape(shape) for (name, dtype, shape), x in each if x.dtype == np.uint8}
        same = all(x.tobytes() == buffers[name].tobytes() for name, x in self.F.buffers().items())
        error = self.F.relative_error if same else float("nan")  # of other numbers nobody knows it
        return replace(self.F, form=Factorization.from_record(self.F.record(), buffers).form, relative_error=error)


@dataclass(frozen=True, eq=False)
class _Bytes:
    """W as bytes that JAX traces, or anything else in their place; decoded on the host when the program runs."""

    record: _Record
    leaves: tuple[Any, ...]
    nbytes: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        return self.record.F.shape

    def decode(self) -> Array:
        own = np.dtype(FLOATS[_own(self.record.F)])

        def run(*leaves: Any) -> NDArray[Any]:
            return np.asarray(self.record.rebuilt([np.array(x) for x in leaves])).astype(own)

        result = jax.ShapeDtypeStruct(self.shape, own)
        return jax.pure_callback(run, result, *self.leaves, vmap_method="sequential")


def _flattened(F: Factorization) -> tuple[tuple[Any, ...], _Record]:
    if isinstance(F.form, Leaf) and isinstance(F.form.factor, _Bytes):
        return F.form.factor.leaves, F.form.factor.record
    buffers = F.buffers()
    layout = tuple((name, x.dtype, x.shape) for name, x in buffers.items())
    record = _Record(F, json.dumps(F.record(), sort_keys=True), F.home, layout)
    return tuple(x.reshape(-1).view(np.uint8) for x in buffers.values()), record


def _unflattened(record: _Record, leaves: Sequence[Any]) -> Factorization:
    """A factorization if the leaves are bytes of one; within JAX they may be anything."""
    if all(isinstance(x, np.ndarray | jax.Array) and not isinstance(x, jax.core.Tracer) for x in leaves):
        try:
            return record.rebuilt(leaves)
        except (ArtifactError, ValueError, TypeError):  # such as zeros in their place, or several of them
            pass
    return replace(record.F, form=Leaf(_Bytes(record, tuple(leaves))))  # type: ignore[arg-type]


jax.tree_util.register_pytree_node(Factorization, _flattened, _unflattened)
