"""What training moves behind a stored array: float parameters, and how the stored values follow from them.

A :class:`Shadow` has parameters, which a framework's gradients change, and constants, which they do not: masks and
indices. Its :meth:`~Shadow.value` is the array that :meth:`~Shadow.stored` would store, in array code of any framework.
Rounding has the gradient of the identity (the straight-through estimator of Bengio, Leonard and Courville 2013, arXiv
1308.3432). Numbers beyond the outermost level of a grid or codebook are clipped, and pass none.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ...arrays import dtype_name
from ...measure import scaled

if TYPE_CHECKING:
    from ..dense import Dense
    from .encoded import Encoded

Tensor = Any
"""An array of the framework that trains."""
Tensors = Mapping[str, Tensor]
Arrays = dict[str, NDArray[Any]]
Function = Callable[[NDArray[Any]], NDArray[Any]]

FLOAT16_MAX = 65504.0
_ROUNDS = 8
_INSIDE = 0.999  # of the way to the array: what lies in the middle of two levels is rounded one way or the other
_ROOM = 4  # powers of two by which a factor may grow before the float16 that stands for it would overflow


class Ops(Protocol):
    """What a framework brings: its namespace, and what frameworks call by different names or differentiate.

    ``xp`` has ``argsort``, ``broadcast_to``, ``clip``, ``ones_like``, ``round``, ``searchsorted``, ``tanh`` and
    ``where`` under NumPy's names; for float16 layers also ``abs``, ``exp2`` and ``log2``.
    """

    xp: Any

    def through(self, value: Tensor, x: Tensor) -> Tensor:
        """``value``, with the gradient of ``x``."""

    def stopped(self, x: Tensor) -> Tensor:
        """``x``, without a gradient."""

    def cast(self, x: Tensor, dtype: str) -> Tensor:
        """``x`` as ``dtype``."""

    def host(self, function: Function, x: Tensor, adjoint: Function | None = None) -> Tensor:
        """``function(x)`` by NumPy, of the shape and dtype of ``x``; its gradient by ``adjoint``, without that none."""


class Shadow(ABC):
    """The numbers behind ``encoded``."""

    def __init__(self, encoded: Encoded) -> None:
        self.encoded = encoded

    @abstractmethod
    def parameters(self, start: NDArray[Any] | None = None) -> Arrays:
        """What training moves, by name, in the dtype of the array; at first :meth:`value` is what is stored.

        Of all numbers that are rounded to what is stored these are those of the array ``start``, if there is one: from
        the middle of its cell a number would have the longest way to the next one.
        """

    def constants(self) -> Arrays:
        """What else :meth:`value` needs, by name."""
        return {}

    @abstractmethod
    def value(self, ops: Ops, parameters: Tensors, constants: Tensors) -> Tensor:
        """The array that :meth:`stored` decodes to, of its shape."""

    def near(self, start: NDArray[Any] | None) -> NDArray[Any]:
        """The stored array, with entries of ``start`` wherever these are rounded to what is stored.

        Where entries depend on each other and no such mixture is found in some rounds, the stored array.
        """
        stored = self.encoded.decode()
        if start is None:
            return stored
        values: NDArray[Any] = stored + stored.dtype.type(_INSIDE) * (start.astype(stored.dtype) - stored)
        for _ in range(_ROUNDS):  # entries that depend on each other may change with those that were replaced
            wrong = self.rounded(values) != stored
            if not wrong.any():
                return values
            values = np.where(wrong, stored, values)
        return stored

    def rounded(self, values: NDArray[Any]) -> NDArray[Any]:
        """What is stored for ``values``, all else being as it is."""
        return self.encoded.nearest(values).decode()

    remark = ""
    """What :meth:`stored` has to tell about what it did."""

    @abstractmethod
    def stored(self, parameters: Mapping[str, NDArray[Any]]) -> Encoded:
        """The parameters as they are stored: by the same codec, in as many bytes where codes have a fixed width."""


class Frozen(Shadow):
    """An array that training leaves alone: indices, rotations, factors that are only used."""

    def parameters(self, start: NDArray[Any] | None = None) -> Arrays:
        return {}

    def constants(self) -> Arrays:
        return {"value": self.encoded.decode()}

    def value(self, ops: Ops, parameters: Tensors, constants: Tensors) -> Tensor:
        return constants["value"]

    def stored(self, parameters: Mapping[str, NDArray[Any]]) -> Encoded:
        return self.encoded


class Numbers(Shadow):
    """``value = values``, rounded to the dtype in which they are stored."""

    encoded: Dense

    def parameters(self, start: NDArray[Any] | None = None) -> Arrays:
        return {"values": self.near(start)}

    def value(self, ops: Ops, parameters: Tensors, constants: Tensors) -> Tensor:
        values, stored = parameters["values"], self.encoded.stored
        if stored == "float16":
            return in_half(ops, values, self._exponent)
        own = dtype_name(values)
        return ops.through(ops.cast(ops.cast(values, stored), own), values) if stored == "bfloat16" else values

    def stored(self, parameters: Mapping[str, NDArray[Any]]) -> Encoded:
        if self.encoded.stored != "float16":
            return self.encoded.nearest(parameters["values"])
        narrow = halves(scaled(parameters["values"], -self._exponent))
        return replace(self.encoded, exponent=self._exponent, values=narrow)

    @property
    def _exponent(self) -> int:
        return self.encoded.exponent + _ROOM


class Projected(Shadow):
    """``value = nearest(values)``: codes that depend on each other, found anew on the host; gradients go through."""

    def parameters(self, start: NDArray[Any] | None = None) -> Arrays:
        return {"values": self.near(start)}

    def value(self, ops: Ops, parameters: Tensors, constants: Tensors) -> Tensor:
        values = parameters["values"]
        return ops.through(ops.host(self.rounded, values), values)

    def stored(self, parameters: Mapping[str, NDArray[Any]]) -> Encoded:
        return self.encoded.nearest(parameters["values"])

    def rounded(self, values: NDArray[Any]) -> NDArray[Any]:
        return self.stored({"values": values}).decode()


class Rewrapped(Shadow):
    """The shadow of what another codec wraps; ``wrap`` stores it in the same way again."""

    def __init__(self, encoded: Encoded, inner: Shadow, wrap: Callable[[Encoded], Encoded]) -> None:
        super().__init__(encoded)
        self.inner, self.wrap = inner, wrap

    def parameters(self, start: NDArray[Any] | None = None) -> Arrays:
        return self.inner.parameters(start)

    def constants(self) -> Arrays:
        return self.inner.constants()

    def value(self, ops: Ops, parameters: Tensors, constants: Tensors) -> Tensor:
        return self.inner.value(ops, parameters, constants)

    def stored(self, parameters: Mapping[str, NDArray[Any]]) -> Encoded:
        return self.wrap(self.inner.stored(parameters))


def halves(x: NDArray[Any]) -> NDArray[np.float16]:
    """``x`` in float16, what is beyond its range as its largest number."""
    return np.asarray(np.clip(x, -FLOAT16_MAX, FLOAT16_MAX), np.float16)


def relative_scale(ops: Ops, factor: Tensor, first: Tensor, exponent: int, count: int) -> Tensor:
    """``factor * first`` as it is stored: scales that learn relative to the first ones, each of ``count`` numbers.

    Gradients are divided by ``sqrt(count)``, ``count`` the weights times the outermost level, as LSQ does (Esser et al.
    2020, arXiv 1902.08153, sec. 2.2); relative scales suit one learning rate whatever the size of the weights.
    """
    slow = ops.through(factor, factor * max(count, 1) ** -0.5)
    return in_half(ops, slow * first, exponent)


def in_half(ops: Ops, x: Tensor, exponent: int) -> Tensor:
    """``x`` rounded to ``2**exponent`` times a float16, as scales are stored; gradients go through."""
    unit = 2.0**exponent
    narrow = ops.xp.clip(ops.stopped(x) / unit, -FLOAT16_MAX, FLOAT16_MAX)
    wide = ops.cast(ops.cast(narrow, "float16"), dtype_name(x))
    return ops.through(wide * unit, x)
