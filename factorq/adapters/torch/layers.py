"""Layers whose weight is a factorization, and the numbers behind it that train."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ...errors import refuse, refuse_type
from ...factorization import Factorization, Trainable
from ...factorization.layers import Conv, source, steps

KINDS = (nn.Linear, nn.Embedding, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_CONVS = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}


class _Host(torch.autograd.Function):  # type: ignore[misc]
    """A function of NumPy arrays, with its adjoint as gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, function: Any, adjoint: Any) -> Tensor:
        ctx.adjoint = adjoint
        return torch.from_numpy(np.ascontiguousarray(function(x.detach().cpu().numpy()))).to(x.device, x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, None, None]:
        return None if ctx.adjoint is None else _Host.apply(gradients[0], ctx.adjoint, None), None, None


class _Ops:
    """What :class:`factorq.Trainable` asks of a framework."""

    xp = torch

    @staticmethod
    def through(value: Tensor, x: Tensor) -> Tensor:
        return value.detach() + (x - x.detach())  # the difference is an exact zero

    @staticmethod
    def stopped(x: Tensor) -> Tensor:
        return x.detach()

    @staticmethod
    def cast(x: Tensor, dtype: str) -> Tensor:
        return x.to(getattr(torch, dtype))

    @staticmethod
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def host(function: Any, x: Tensor, adjoint: Any = None) -> Tensor:
        return _Host.apply(x, function, adjoint)


class Factors(nn.Module):  # type: ignore[misc]
    """The trainable numbers behind a factorization; layers with tied weights share one.

    They stay in float32 (float64 for a float64 W) when the model is cast: only devices are followed.

    Parameters
    ----------
    F : Factorization
    start : Tensor, optional
    reselect, frozen : bool
        As for :class:`factorq.Trainable`.
    """

    def __init__(
        self, F: Factorization, *, start: Tensor | None = None, reselect: bool = False, frozen: bool = False
    ) -> None:
        super().__init__()
        W = None if start is None else start.detach().cpu().to(getattr(torch, _compute(F))).numpy()
        self.behind = Trainable(F, start=W, reselect=reselect, frozen=frozen)
        self._made: tuple[Any, Any] | None = None
        # A module's names cannot have dots.
        self._names = {name: name.replace(".", "__") for name in self.behind.parameters()}
        for name, x in self.behind.parameters().items():
            self.register_parameter(self._names[name], nn.Parameter(torch.tensor(x)))
        self._fixed = {name: f"fixed__{name.replace('.', '__')}" for name in self.behind.constants()}
        for name, x in self.behind.constants().items():
            self.register_buffer(self._fixed[name], torch.tensor(x), persistent=False)

    def steps(self, layer: Conv, factored: bool | None, dtype: str | None) -> tuple[tuple[Conv, ...], ...]:
        """The layers that stand for ``layer``, made anew where gradients are recorded, else once."""
        numbers = {name: getattr(self, key) for name, key in self._names.items()}
        constants = {name: getattr(self, key) for name, key in self._fixed.items()}
        records = torch.is_grad_enabled() and any(x.requires_grad for x in numbers.values())
        if records or torch.compiler.is_compiling():
            return steps(self.behind.form(_Ops, numbers, constants, dtype), layer, factored)
        state = (dtype, factored, layer.groups, *((id(x), x._version, x.device) for x in numbers.values()))
        if self._made is None or self._made[0] != state:
            with torch.no_grad():
                made = steps(self.behind.form(_Ops, numbers, constants, dtype), layer, factored)
            self._made = state, made
        return self._made[1]

    def factorization(self) -> Factorization:
        """What would be stored: the factorization as it was made if nothing was trained."""
        numbers = {name: getattr(self, key).detach().cpu().numpy() for name, key in self._names.items()}
        return self.behind.factorization(numbers)

    def train(self, mode: bool = True) -> Factors:
        self._made = None
        super().train(mode)
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Factors:
        self._made = None
        super()._apply(lambda x: x.to(fn(x.new_empty(0)).device), recurse)
        return self


class Layer(nn.Module):  # type: ignore[misc]
    """A linear, embedding or convolutional layer whose weight is a factorization; made by :func:`to_module`.

    Attributes
    ----------
    factors : Factors
    bias : Parameter or None
    weight : Tensor
        The weight that the factors contract to, with gradients, in the dtype of W.
    """

    def __init__(self, factors: Factors, like: nn.Module | None, bias: Tensor | None, factored: bool | None) -> None:
        super().__init__()
        self.factors, self.factored = factors, factored
        self.register_parameter("bias", bias if bias is None or isinstance(bias, nn.Parameter) else nn.Parameter(bias))
        self._looks_up = isinstance(like, nn.Embedding) or bool(getattr(like, "_looks_up", False))
        self._padding_idx = getattr(like, "padding_idx", getattr(like, "_padding_idx", None))
        self._pad: tuple[Any, str] | None = getattr(like, "_pad", None)
        self._dtype, self._layer = factors.behind.before.home.dtype, _settings(factors.behind.before.shape, like)
        if like is not None and getattr(like, "padding_mode", "zeros") != "zeros":
            self._pad = like._reversed_padding_repeated_twice, like.padding_mode

    @property
    def weight(self) -> Tensor:
        ((conv,),) = self.factors.steps(self._layer, False, self._dtype)
        return conv.weight

    def forward(self, x: Tensor) -> Tensor:
        if self._looks_up:
            return self._rows(x)
        if self._pad is not None:
            x = functional.pad(x, self._pad[0], mode=self._pad[1])
        dtype = None if torch.is_autocast_enabled(x.device.type) else str(x.dtype).rpartition(".")[2]
        bias = self.bias if dtype is None or self.bias is None else self.bias.to(x.dtype)
        first, *others = self.factors.steps(self._layer, self.factored, dtype)
        return sum((_in_turn(sequence, x, None) for sequence in others), _in_turn(first, x, bias))

    def _rows(self, index: Tensor) -> Tensor:
        """The rows of the weight at ``index``: those of the last factor, times the ones before it."""
        first, *others = (
            reduce(lambda rows, conv: rows @ conv.weight, reversed(sequence[:-1]), self._looked_up(index, sequence[-1]))
            for sequence in self.factors.steps(self._layer, self.factored, self._dtype)
        )
        return sum(others, first)

    def _looked_up(self, index: Tensor, last: Conv) -> Tensor:
        return functional.embedding(index, last.weight, self._padding_idx)

    def extra_repr(self) -> str:
        F = self.factors.behind.before
        return f"{'x'.join(map(str, F.shape))}, {F.method_config.get('id')}, {F.bits_per_weight:.3g} bits per weight"


def _compute(F: Factorization) -> str:
    return "float64" if F.home.dtype == "float64" else "float32"


def _settings(shape: tuple[int, ...], like: Any) -> Conv:
    """The layer as the core has it, for a weight of ``shape``."""
    if isinstance(like, Layer):
        return like._layer
    if not hasattr(like, "padding_mode"):
        return source(shape, 1, 0, 1, 1)
    padding = like.padding if like.padding_mode == "zeros" else 0
    return source(shape, like.stride, padding, like.dilation, like.groups)


def _in_turn(sequence: tuple[Conv, ...], x: Tensor, bias: Tensor | None) -> Tensor:
    for k, conv in enumerate(sequence, 1):
        own = bias if k == len(sequence) else None
        if conv.kernel:
            settings = conv.stride, conv.padding, conv.dilation, conv.groups
            x = _CONVS[len(conv.kernel)](x, conv.weight, own, *settings)
        else:
            x = functional.linear(x, conv.weight, own)
    return x


def to_module(
    F: Factorization | Factors,
    like: nn.Module | None = None,
    *,
    bias: Tensor | None = None,
    factored: bool | None = None,
    reselect: bool = False,
    frozen: bool = False,
) -> Layer:
    """A layer with the factors of F as trainable parameters; its forward is that of ``F.to_dense()``.

    Parameters
    ----------
    F : Factorization, or Factors of another layer to share its parameters (tied weights)
    like : Linear, Embedding, Conv1d, Conv2d, Conv3d or Layer, optional
        The layer whose place it takes: its settings, bias and device, and its weight as the start of training. By
        default linear, or a convolution of stride 1.
    bias : Tensor, optional
        In place of that of ``like``.
    factored : bool, optional
        Whether to apply products of factors in turn or to build the weight; None: what takes fewer multiplications.
    reselect, frozen : bool
        As for :class:`factorq.Trainable`.

    Returns
    -------
    Layer

    Raises
    ------
    ArgumentTypeError, ArgumentError
        If ``like`` is of another kind, or its weight of another shape.
    """
    if like is not None and not isinstance(like, (*KINDS, Layer)):
        allowed = "Linear, Embedding, Conv1d, Conv2d or Conv3d"
        raise refuse_type("like", found=type(like).__name__, allowed=allowed)
    shape = F.behind.before.shape if isinstance(F, Factors) else tuple(getattr(F, "shape", ()))
    if like is not None and tuple(like.weight.shape) != shape:
        raise refuse("F", found=f"shape {shape}", allowed=f"that of the layer's weight, {tuple(like.weight.shape)}")
    start = like.weight if isinstance(like, KINDS) else None
    factors = F if isinstance(F, Factors) else Factors(F, start=start, reselect=reselect, frozen=frozen)
    if getattr(like, "max_norm", None) is not None:
        raise refuse("like", found="an Embedding with max_norm", allowed="one that does not change its weight")
    layer = Layer(factors, like, bias if bias is not None else getattr(like, "bias", None), factored)
    return layer if like is None else layer.to(next(like.parameters()).device).train(like.training)
