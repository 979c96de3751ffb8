"""What training moves behind a stored array: float parameters, and how the stored values follow from them.

A :class:`Shadow` has parameters, which a framework's gradients change, and constants, which they do not: masks and
indices. Its :meth:`~Shadow.value` is the array that :meth:`~Shadow.stored` would store, in array code of any framework.
Rounding has the gradient of the identity (the straight-through estimator of Bengio, Leonard and Courville 2013, arXiv
1308.3432); numbers beyond the outermost level are clipped, and pass none.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ...arrays import dtype_name

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
_ROOM = 4  # powers of two by which a factor may grow before the float16 that stands for it would overflow


class Ops(Protocol):
    """What a framework brings: its namespace, and what frameworks call by different names or differentiate.

    ``xp`` has ``abs``, ``broadcast_to``, ``clip``, ``ones_like``, ``round``, ``searchsorted``, ``sign``, ``tanh`` and
    ``where`` under NumPy's names.
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

        Of all numbers that are rounded to what is stored these are those next to the array ``start``, if there is one:
        from the middle of its cell a number would have the longest way to the next one.
        """

    def constants(self) -> Arrays:
        """What else :meth:`value` needs, by name."""
        return {}

    @abstractmethod
    def value(self, ops: Ops, parameters: Tensors, constants: Tensors) -> Tensor:
        """The array that :meth:`stored` decodes to, of its shape."""

    def near(self, start: NDArray[Any] | None) -> NDArray[Any]:
        """The stored array, with entries of ``start`` wherever these are rounded to what is stored."""
        stored = self.encoded.decode()
        if start is None:
            return stored
        values = start.astype(stored.dtype)
        for _ in range(_ROUNDS):  # entries that depend on each other may change with those that were replaced
            wrong = self.rounded(values) != stored
            if not wrong.any():
                return values
            values = np.where(wrong, stored, values)
        return stored

    def rounded(self, values: NDArray[Any]) -> NDArray[Any]:
        """What is stored for ``values``, all else being as it is."""
        return self.encoded.nearest(values).decode()

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
            return in_half(ops, values, self.encoded.exponent + _ROOM)
        own = dtype_name(values)
        return ops.through(ops.cast(ops.cast(values, stored), own), values) if stored == "bfloat16" else values

    def stored(self, parameters: Mapping[str, NDArray[Any]]) -> Encoded:
        return self.encoded.nearest(parameters["values"])


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


def in_half(ops: Ops, x: Tensor, exponent: int) -> Tensor:
    """``x`` rounded to ``2**exponent`` times a float16, as scales are stored; gradients go through."""
    unit = 2.0**exponent
    narrow = ops.xp.clip(ops.stopped(x) / unit, -FLOAT16_MAX, FLOAT16_MAX)
    wide = ops.cast(ops.cast(narrow, "float16"), dtype_name(x))
    return ops.through(wide * unit, x)
