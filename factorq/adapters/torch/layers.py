"""Layers whose weight is a factorization, and the numbers behind it that train."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import reduce
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ...errors import refuse, refuse_type
from ...factorization import Factorization, Trainable
from ...factorization.layers import Conv, source

KINDS = (nn.Linear, nn.Embedding, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_CAST = ("cpu", "cuda")  # devices known to cast automatically, others are asked
_CONVS = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}


class _Host(torch.autograd.Function):  # type: ignore[misc]
    """A function of NumPy arrays, with its adjoint as gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, function: Any, adjoint: Any) -> Tensor:
        ctx.function, ctx.adjoint = function, adjoint
        return torch.from_numpy(np.ascontiguousarray(function(x.detach().cpu().numpy()))).to(x.device, x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, None, None]:
        return None if ctx.adjoint is None else _Host.apply(gradients[0], ctx.adjoint, ctx.function), None, None


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

    They stay in float32 (float64 for a float64 W) when the model is cast: only devices are followed. In evaluation mode
    what they contract to is kept until gradients are recorded or the mode is set, so that a change through ``.data`` is
    seen after the next ``eval()``. ``origin``, a buffer, tells one factorization from another in a checkpoint.

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
        start = None if start is None else start.detach()
        self.behind = Trainable(F, start=start, reselect=reselect, frozen=frozen)
        self._made: dict[Any, Any] = {}
        self._settings: dict[Any, Conv] = {}
        # A module's names cannot have dots.
        parameters, constants = self.behind.parameters(), self.behind.constants()
        self._names = {name: name.replace(".", "__") for name in parameters}
        self._fixed = {name: f"fixed__{name.replace('.', '__')}" for name in constants}
        for name, x in parameters.items():
            self.register_parameter(self._names[name], nn.Parameter(torch.tensor(x)))
        for name, x in constants.items():
            self.register_buffer(self._fixed[name], torch.tensor(x), persistent=False)
        self.register_buffer("origin", torch.tensor(list(_digest(F)), dtype=torch.uint8))

    def steps(self, layer: Conv, factored: bool | None, dtype: torch.dtype | None) -> tuple[tuple[Conv, ...], ...]:
        """The layers in place of ``layer``, made anew where gradients are recorded or in training mode, else once."""
        numbers = list(self._parameters.values())
        if torch.compiler.is_compiling() or len(numbers) != len(self._names):  # wrappers keep them elsewhere
            return self._make(layer, factored, dtype)
        if torch.is_grad_enabled() and any(x.requires_grad for x in numbers):
            self._made.clear()  # an optimizer may change the numbers without a trace
            return self._make(layer, factored, dtype)
        if self.training:
            with torch.no_grad():
                return self._make(layer, factored, dtype)
        # Called between products that fill the caches, each line here takes ten times what it takes in a loop.
        key = layer, factored, dtype
        try:
            seen = numbers or list(self._buffers.values())
            state = [(id(x), x.data_ptr(), x._version) for x in seen]
        except RuntimeError:  # tensors without storage of their own, as under vmap, or without a version
            return self._make(layer, factored, dtype)
        kept = self._made.get(key)
        if kept is None or kept[0] != state:
            with torch.inference_mode(False), torch.no_grad():  # what is kept may serve under autograd later
                made = self._make(layer, factored, dtype)
                made = tuple(tuple(replace(c, weight=c.weight.contiguous()) for c in sequence) for sequence in made)
            kept = self._made[key] = state, made, [(x, x.detach()) for x in seen]  # so that nothing takes their place
        return kept[1]

    def settings(self, layer: Conv) -> Conv:
        """The one object for settings of equal values, which layers with tied weights share."""
        key = layer.stride, layer.padding, layer.dilation, layer.groups
        return self._settings.setdefault(key, layer)

    def _make(self, layer: Conv, factored: bool | None, dtype: torch.dtype | None) -> tuple[tuple[Conv, ...], ...]:
        numbers = {name: getattr(self, key) for name, key in self._names.items()}
        constants = {name: getattr(self, key) for name, key in self._fixed.items()}
        wanted = None if dtype is None else name_of(dtype)
        with torch.autocast(self.origin.device.type, enabled=False) if autocast(self.origin) else nullcontext():
            return self.behind.steps(_Ops, numbers, constants, layer, factored, wanted)

    def factorization(self) -> Factorization:
        """What would be stored: the factorization as it was made if nothing was trained."""
        numbers = {name: getattr(self, key).detach().cpu().numpy() for name, key in self._names.items()}
        return self.behind.factorization(numbers)

    def train(self, mode: bool = True) -> Factors:
        self._made.clear()
        super().train(mode)
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Factors:
        self._made.clear()

        def moved(x: Tensor) -> Tensor:
            y = fn(x)
            return y if y.dtype == x.dtype else x.to(y.device)

        super()._apply(moved, recurse)
        return self

    def _load_from_state_dict(self, state: Any, prefix: str, *rest: Any) -> None:
        other, errors = state.get(f"{prefix}origin"), rest[-1]
        if other is not None and not torch.equal(other.cpu(), self.origin.cpu()):
            errors.append(f"{prefix}origin: numbers behind another factorization; use from_state_dict")
        super()._load_from_state_dict(state, prefix, *rest)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_made": {}}


class Layer(nn.Module):  # type: ignore[misc]
    """A linear, embedding or convolutional layer whose weight is a factorization; made by :func:`to_module`.

    Attributes
    ----------
    factors : Factors
    bias : Parameter or None
    weight : Tensor
        The weight that the factors contract to, with gradients, in the dtype of W or that to which the model was cast.
    """

    def __init__(self, factors: Factors, like: nn.Module | None, bias: Tensor | None, factored: bool | None) -> None:
        super().__init__()
        self.factors, self.factored = factors, factored
        self.register_parameter("bias", bias if bias is None or isinstance(bias, nn.Parameter) else nn.Parameter(bias))
        self._looks_up = isinstance(like, nn.Embedding) or bool(getattr(like, "_looks_up", False))
        self._padding_idx = getattr(like, "padding_idx", getattr(like, "_padding_idx", None))
        self._pad: tuple[Any, str] | None = getattr(like, "_pad", None)
        self._layer = factors.settings(_settings(factors.behind.before.shape, like))
        dtype = getattr(torch, factors.behind.before.home.dtype)  # and where the model is cast, that
        self.register_buffer("_kind", torch.empty(0, dtype=dtype), persistent=False)
        if like is not None and getattr(like, "padding_mode", "zeros") != "zeros":
            self._pad = like._reversed_padding_repeated_twice, like.padding_mode

    @property
    def weight(self) -> Tensor:
        ((conv,),) = self.factors.steps(self._layer, False, self._kind.dtype)
        return conv.weight

    def forward(self, x: Tensor) -> Tensor:
        if self._looks_up:
            return self._rows(x)
        if not x.is_floating_point():
            raise refuse_type("x", found=f"a tensor of {x.dtype}", allowed="a floating one")
        if self._pad is not None:
            x = functional.pad(x, self._pad[0], mode=self._pad[1])
        dtype, bias = None if autocast(x) else x.dtype, self.bias
        if dtype is not None and bias is not None:
            bias = bias.to(dtype)
        first, *others = self.factors.steps(self._layer, self.factored, dtype)
        return sum((_in_turn(sequence, x, None) for sequence in others), _in_turn(first, x, bias))

    def _rows(self, index: Tensor) -> Tensor:
        """The rows of the weight at ``index``: those of the last factor, times the ones before it."""
        first, *others = (
            reduce(lambda rows, conv: rows @ conv.weight, reversed(sequence[:-1]), self._looked_up(index, sequence[-1]))
            for sequence in self.factors.steps(self._layer, self.factored, self._kind.dtype)
        )
        return sum(others, first)

    def _looked_up(self, index: Tensor, last: Conv) -> Tensor:
        return functional.embedding(index, last.weight, self._padding_idx)

    def extra_repr(self) -> str:
        F = self.factors.behind.before
        return f"{'x'.join(map(str, F.shape))}, {F.method_config.get('id')}, {F.bits_per_weight:.3g} bits per weight"


def replaceable(layer: Any) -> bool:
    """Whether a module does what one of PyTorch's layers does, with its weight."""
    return isinstance(layer, KINDS) and type(layer).forward in {kind.forward for kind in KINDS}


def autocast(x: Tensor) -> bool:
    """Whether products of such a tensor are cast automatically."""
    kind = x.device.type
    return bool((kind in _CAST or torch.amp.is_autocast_available(kind)) and torch.is_autocast_enabled(kind))


def name_of(dtype: torch.dtype) -> str:
    """The name of a dtype as NumPy has it."""
    return str(dtype).removeprefix("torch.")


def _digest(F: Factorization) -> bytes:
    found = blake2b(digest_size=8)
    for name, x in F.buffers().items():
        found.update(name.encode() + x.tobytes())
    return found.digest()


def shape_of(layer: Any) -> tuple[int, ...]:
    """The shape of the weight of a layer."""
    return layer.factors.behind.before.shape if isinstance(layer, Layer) else tuple(layer.weight.shape)


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
    F : Factorization or Factors
        Factors are those of another layer, to share its parameters (tied weights); the last two arguments do not count.
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
    if like is not None and not (replaceable(like) or isinstance(like, Layer)):
        allowed = "Linear, Embedding, Conv1d, Conv2d or Conv3d, with the forward that it has there"
        raise refuse_type("like", found=type(like).__name__, allowed=allowed)
    for option in ("max_norm", "scale_grad_by_freq", "sparse"):
        if getattr(like, option, None):
            raise refuse("like", found=f"an Embedding with {option}", allowed="one without")
    shape = F.behind.before.shape if isinstance(F, Factors) else tuple(getattr(F, "shape", ()))
    wanted = shape if like is None else shape_of(like)
    if wanted != shape:
        raise refuse("F", found=f"shape {shape}", allowed=f"that of the layer's weight, {wanted}")
    start = like.weight if isinstance(like, KINDS) else None
    factors = F if isinstance(F, Factors) else Factors(F, start=start, reselect=reselect, frozen=frozen)
    if start is not None and not start.requires_grad:
        factors.requires_grad_(False)
    layer = Layer(factors, like, bias if bias is not None else getattr(like, "bias", None), factored)
    return layer if like is None else layer.to(next(like.parameters()).device).train(like.training)
