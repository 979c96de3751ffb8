"""A factorization as numbers that a framework trains, and back: what the adapters share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arrays import Array, to_host
from ..codecs import Rotation
from ..codecs.base import Encoded, Frozen, Ops, Shadow
from ..codecs.base.shadow import Arrays, Tensor, Tensors
from ..errors import refuse, refuse_type
from ..forms import Chain, Folded, Form, Leaf, Rotated, Sum
from ..forms.axes import Axes, contracted
from ..forms.mapped import rebuilt
from ..forms.rotated import turned, unturned
from ..measure import relative_error
from . import layers
from .layers import Conv
from .result import Factorization

_TRAINED = "trained"


class Trainable:
    """``W = form(value(parameters))``: F as float parameters, of which what is stored is a function with gradients.

    Values are rounded on the way forward and gradients pass through the rounding (:mod:`factorq.codecs.base.shadow`).
    Everything is plain arrays: a framework turns :meth:`parameters` and :meth:`constants` into its own tensors, brings
    its :class:`Ops`, and gives the trained numbers back to :meth:`factorization`.

    Parameters
    ----------
    F : Factorization
    start : array, optional
        The W that F stands for: training starts from it wherever its entries are rounded to what is stored, and not
        from the middle of all that is rounded to the same. Where F is a product of factors it says nothing.
    reselect : bool
        Whether masks may change: as many entries as before are kept, always the largest. False freezes them.
    frozen : bool
        Whether nothing is to be trained: all factors are constants.

    Raises
    ------
    ArgumentTypeError, ArgumentError
        If ``F`` is no factorization, or ``start`` has another shape or is not finite.

    Examples
    --------
    >>> import factorq as fq
    >>> F = fq.decompose(np.eye(4, 8, dtype=np.float32), method=fq.Scalar(2, group=8))
    >>> behind = fq.Trainable(F)
    >>> {name: array.shape for name, array in behind.parameters().items()}
    {'W.values': (4, 8), 'W.scales': (4, 1)}
    >>> G = behind.factorization({name: 2 * array for name, array in behind.parameters().items()})
    >>> bool((G.to_dense() == 2 * F.to_dense()).all()), G.nbytes == F.nbytes
    (True, True)
    """

    def __init__(
        self, F: Factorization, *, start: Array | None = None, reselect: bool = False, frozen: bool = False
    ) -> None:
        if not isinstance(F, Factorization):
            raise refuse_type("F", found=type(F).__name__, allowed="a Factorization")
        self.before = F
        self._shadows: dict[str, Shadow] = {
            name: Frozen(factor) if frozen else factor.shadow(reselect) for name, factor in F.encoded.items()
        }
        starts = _starts(F.form, None if start is None else _start(start, F))
        self._first = {
            name: shadow.parameters(of_leaf)
            for (name, shadow), of_leaf in zip(self._shadows.items(), starts, strict=True)
        }

    def parameters(self) -> Arrays:
        """The numbers to train, ``<factor>.<name>``: NumPy arrays, float32 or, for a float64 W, float64."""
        return {f"{name}.{key}": x.copy() for name, own in self._first.items() for key, x in own.items()}

    def constants(self) -> Arrays:
        """Other arrays that :meth:`form` needs, ``<factor>.<name>``: floating numbers, or int64 indices."""
        return {f"{name}.{key}": x for name, own in self._shadows.items() for key, x in own.constants().items()}

    def form(self, ops: Ops, parameters: Tensors, constants: Tensors) -> Form:
        """The form of F over tensors: its ``dense()`` and its products carry gradients to ``parameters``.

        Parameters
        ----------
        ops : Ops
            What the framework brings.
        parameters, constants : mapping from str to tensor
            Those of the methods of these names.

        Returns
        -------
        Form
        """
        leaves = []
        for name, shadow in self._shadows.items():
            value = shadow.value(ops, _of(name, parameters), _of(name, constants))
            leaves.append(Leaf(Traced(value, shadow.encoded.shape)))
        order = iter(leaves)

        def change(part: Form) -> Form | None:
            if isinstance(part, Rotated):
                return _Turned(rebuilt(part.inner, change), part.right, part.left, ops)
            return next(order) if isinstance(part, Leaf) else None

        return rebuilt(self.before.form, change)

    def steps(
        self,
        ops: Ops,
        parameters: Tensors,
        constants: Tensors,
        layer: Conv,
        factored: bool | None = None,
        dtype: str | None = None,
    ) -> tuple[tuple[Conv, ...], ...]:
        """Sequences of layers whose outputs add up to that of ``layer``, which has the weight W, over tensors.

        Parameters
        ----------
        ops, parameters, constants
            As for :meth:`form`.
        layer : Conv
            The settings, as :func:`factorq.factorization.layers.source` gives them; its weight is not read.
        factored : bool, optional
            Whether to apply the factors in turn, where they allow it, or to build W; by default what takes fewer
            multiplications.
        dtype : str, optional
            That of the weights: they are made in the dtype of the parameters, then rounded.

        Returns
        -------
        tuple of tuple of Conv
        """
        made = layers.steps(self.form(ops, parameters, constants), layer, factored)
        if dtype is None:
            return made
        return tuple(_rounded(ops, sequence, dtype) for sequence in made)

    def factorization(self, parameters: Mapping[str, NDArray[Any]]) -> Factorization:
        """F with the trained parameters stored in the place of its own: the same codecs, bits, masks and scales.

        Codes of fixed width take exactly as many bytes as before. Factors whose parameters did not change stay as they
        are, bit for bit.

        Parameters
        ----------
        parameters : mapping from str to NDArray
            As :meth:`parameters` gives them.

        Returns
        -------
        Factorization
            Its ``relative_error``, against a W that nobody has seen, is NaN unless nothing changed; ``status`` says by
            how much the array moved, and where codes were found again to keep their size.

        Raises
        ------
        ArgumentError
            If a parameter is missing, has another shape, or is not finite.
        """
        changed: dict[str, Encoded] = {}
        for name, shadow in self._shadows.items():
            first = self._first[name]
            own = {key: _checked(f"{name}.{key}", parameters, x) for key, x in first.items()}
            if any(not np.array_equal(own[key], x) for key, x in first.items()):
                changed[name] = shadow.stored(own)
        if not changed:
            return self.before
        return self._with(changed)

    def _with(self, changed: Mapping[str, Encoded]) -> Factorization:
        F, names = self.before, iter(self._shadows)

        def change(part: Form) -> Form | None:
            if not isinstance(part, Leaf):
                return None
            name = next(names)
            return Leaf(changed[name]) if name in changed else part

        trained = replace(
            F, form=rebuilt(F.form, change), relative_error=float("nan"), gram_error=None, history=(), status=_TRAINED
        )
        was = F.status.removeprefix(f"{_TRAINED}; ")
        moved = relative_error(np.asarray(F), np.asarray(trained))
        remarks = [f"{name}: {shadow.remark}; " for name, shadow in self._shadows.items() if shadow.remark]
        how = f"{_TRAINED}; moved by {moved:.3g} of its norm; {''.join(remarks)}"
        return replace(trained, status=f"{how}before that, at relative error {F.relative_error:.3g}: {was}")


@dataclass(frozen=True, eq=False)
class Traced:
    """A factor as a tensor of a framework, for the forms; nothing of it is stored."""

    value: Tensor
    shape: tuple[int, ...]
    nbytes: int = 0

    def decode(self) -> Tensor:
        """The tensor."""
        return self.value

    def matmul(self, x: Tensor) -> Tensor:
        """``self @ x``."""
        return self.value @ x

    def rmatmul(self, x: Tensor) -> Tensor:
        """``x @ self``."""
        return x @ self.value

    def contract(self, x: Tensor, axes: Axes) -> Tensor:
        """As :meth:`Form.contract`."""
        return contracted(self.value, x, axes)


@dataclass(frozen=True, eq=False)
class _Turned(Form):
    """``W = L^T inner R`` where the rotations run on the host, and turn gradients back."""

    inner: Form
    right: int | None
    left: int | None
    ops: Ops

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return self.inner.shape

    def parts(self) -> tuple[tuple[str, Form], ...]:
        return (("", self.inner),)

    def dense(self) -> Tensor:
        matrix = self.inner.dense().reshape(self.shape[0], -1)
        seeds = self.right, self.left
        return self.ops.host(
            lambda x: unturned(x, *seeds), matrix, adjoint=lambda gradient: turned(gradient, *seeds)
        ).reshape(self.shape)


def _rounded(ops: Ops, sequence: tuple[Conv, ...], dtype: str) -> tuple[Conv, ...]:
    """The layers with weights of ``dtype``; in float16 of about one size, since factors may be integers and 1e-9."""
    weights = [conv.weight for conv in sequence]
    if dtype == "float16" and len(weights) > 1:
        xp = ops.xp
        sizes = [ops.stopped(xp.abs(W).max()) for W in weights]
        whole = [xp.round(xp.log2(xp.where(size > 0, size, xp.ones_like(size)))) for size in sizes]
        shifts = [xp.round(sum(whole[1:], whole[0]) / len(whole)) - k for k in whole[:-1]]
        shifts.append(-sum(shifts[1:], shifts[0]))
        weights = [W * xp.exp2(shift) for W, shift in zip(weights, shifts, strict=True)]
    cast = [ops.cast(W, dtype) for W in weights]
    return tuple(c if W is c.weight else replace(c, weight=W) for c, W in zip(sequence, cast, strict=True))


def _start(start: Array, F: Factorization) -> NDArray[Any]:
    return _sound("start", to_host(start).astype(np.float64 if F.home.dtype == "float64" else np.float32), F.shape)


def _starts(form: Form, W: NDArray[Any] | None) -> list[NDArray[Any] | None]:
    """What each leaf would be if ``form`` stood for W exactly; None where that is not one array."""
    if W is None:
        return [None] * len(form.leaves())
    if isinstance(form, Leaf):
        return [W]
    if isinstance(form, Folded):
        return _starts(form.inner, form.fold.apply(W))
    if isinstance(form, Rotated):
        matrix = np.ascontiguousarray(W.reshape(W.shape[0], -1))
        return _starts(form.inner, turned(matrix, form.right, form.left).reshape(W.shape))
    if isinstance(form, Chain) and _is_basis(form.A):  # a transform: what it is applied to
        return [None, *_starts(form.B, form.A.dense().T @ W)]
    if isinstance(form, Chain) and _is_basis(form.B):
        return [*_starts(form.A, W @ form.B.dense().T), None]
    if isinstance(form, Sum):  # the last term was made from what the others left over
        *others, last = form.terms
        left = W - sum(term.dense() for term in others)
        return [*(None for term in others for _ in term.leaves()), *_starts(last, left)]
    return [None] * len(form.leaves())


def _is_basis(form: Form) -> bool:
    return isinstance(form, Leaf) and isinstance(form.factor, Rotation)


def _of(name: str, tensors: Tensors) -> Tensors:
    start = f"{name}."
    return {key.removeprefix(start): x for key, x in tensors.items() if key.startswith(start)}


def _checked(name: str, parameters: Mapping[str, NDArray[Any]], first: NDArray[Any]) -> NDArray[Any]:
    if name not in parameters:
        raise refuse("parameters", found=f"no {name!r}", allowed="all that parameters() has")
    return _sound(f"parameters: {name}", np.asarray(parameters[name], first.dtype), first.shape)


def _sound(name: str, x: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    if x.shape != shape or not np.isfinite(x).all():
        found = f"shape {x.shape}" if x.shape != shape else "numbers that are not finite"
        raise refuse(name, found=found, allowed=f"finite numbers of shape {shape}")
    return x
