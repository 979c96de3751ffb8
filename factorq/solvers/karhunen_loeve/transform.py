"""What a transform is: orthonormal bases along axes of an array, one after the other, and the form that undoes them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...forms import Chain, Factor, Fold, Folded, Form, Leaf
from ...kernels import givens
from ...kernels.threads import one_thread

Layout = tuple[int, int, int]


@dataclass(frozen=True)
class Reading:
    """How an array, cut as ``split``, is read as planes of rows and columns: each of the three a group of its axes.

    Parameters
    ----------
    shape : tuple of int
        The array's shape.
    split : tuple of int
        A finer shape of the same size.
    axes : tuple of int
        Axes of ``split`` along which a basis is to be applied; none for a mere reading.
    planes, rows, columns : tuple of int
        All axes of ``split``. Those of ``rows`` come before those of ``columns`` in the order ``axes``, then the rest.
    name : str
        The axes in words.
    """

    shape: tuple[int, ...]
    split: tuple[int, ...]
    axes: tuple[int, ...]
    planes: tuple[int, ...]
    rows: tuple[int, ...]
    columns: tuple[int, ...]
    name: str

    @property
    def fold(self) -> Fold:
        """From the array to the matrix (p, n) on which the basis acts."""
        return Fold(self.shape, self.split, self.axes)

    @property
    def arrange(self) -> Fold:
        """From the matrix (p, n) to the matrix (P, R * C) of the planes."""
        order = self.fold.order
        sizes = tuple(self.split[a] for a in order)
        return Fold(self.fold.matrix_shape, sizes, tuple(order.index(a) for a in self.planes))

    @property
    def layout(self) -> Layout:
        """Planes, rows, columns."""
        planes, rows, columns = (self.count(group) for group in (self.planes, self.rows, self.columns))
        return planes, rows, columns

    def count(self, axes: Sequence[int]) -> int:
        """Product of the sizes of ``axes`` of ``split``."""
        return math.prod(self.split[a] for a in axes)


@dataclass(frozen=True, eq=False)
class Stage:
    """One step: fold, multiply by the basis if there is one, read as planes.

    Parameters
    ----------
    reading : Reading
        The axes.
    codes : NDArray, (angles,) uint16, or None
        The angles of the basis as :mod:`factorq.kernels.givens` writes them; None: the array is only read anew.
    bits, leading : int
        Bits per angle; basis vectors that are free.
    """

    reading: Reading
    codes: NDArray[np.uint16] | None = None
    bits: int = 0
    leading: int = 0

    @property
    def fold(self) -> Fold:
        """From the array to the matrix (p, n)."""
        return self.reading.fold

    @property
    def order(self) -> int:
        """p, the number of rows of the matrix on which the basis acts."""
        return self.fold.matrix_shape[0]

    @property
    def basis(self) -> NDArray[np.float64]:
        """The stored basis (p, p): rows are the basis vectors, of descending energy as far as they are free."""
        if self.codes is None:
            return np.eye(self.order)
        return np.ascontiguousarray(givens.decode(self.codes, self.order, self.leading, self.bits).T)

    @property
    def cost(self) -> int:
        """Stored bytes of the basis."""
        return 0 if self.codes is None else -(-self.codes.size * self.bits // 8)

    def apply(self, X: NDArray[Any]) -> NDArray[Any]:
        """The planes (P, R * C) of X: ``basis @ fold(X)``, in the dtype of X."""
        matrix = self.fold.apply(X)
        if self.codes is not None:
            matrix = self.basis.astype(X.dtype) @ matrix
        return np.ascontiguousarray(self.reading.arrange.apply(matrix))

    def undo(self, core: Form, basis: Factor | None) -> Form:
        """The form of the array, given that of its planes and the stored ``basis.T`` (None where there is no basis)."""
        inner = _folded(core, self.reading.arrange)
        if basis is not None:
            inner = Chain(Leaf(basis), inner)
        return _folded(inner, self.fold)


@dataclass(frozen=True, eq=False)
class Transform:
    """``core = transform.apply(W)``, orthonormal: ``||core - Q|| = ||W - form of Q||``.

    Parameters
    ----------
    shape : tuple of int
        The shape of W.
    stages : tuple of Stage
        Applied in order; none at all means that W is best as it is.
    layout : (int, int, int)
        P planes of R rows and C columns: how the entropy coder reads the core (P, R * C). Planes are in order of
        descending energy as far as their basis is free, and so are rows where a basis acted along them.
    saving : float
        Estimated bits saved over coding W as it is, after the bytes of the bases are paid.
    """

    shape: tuple[int, ...]
    stages: tuple[Stage, ...]
    layout: Layout
    saving: float = 0.0

    @property
    def cost(self) -> int:
        """Stored bytes of all bases."""
        return sum(stage.cost for stage in self.stages)

    @property
    def bases(self) -> tuple[Stage, ...]:
        """The stages that have a basis, in order: each needs a stored factor in :meth:`form`."""
        return tuple(stage for stage in self.stages if stage.codes is not None)

    def apply(self, W: NDArray[Any]) -> NDArray[Any]:
        """The core of W: (P, R * C), C-contiguous, in the dtype of W."""
        X = W
        with one_thread():
            for stage in self.stages:
                X = stage.apply(X)
        return np.ascontiguousarray(X.reshape(self.layout[0], -1))

    def form(self, core: Factor, bases: Sequence[Factor]) -> Form:
        """The form of W from the stored core (P, R * C) and a stored ``basis.T`` (p, p) for each of :attr:`bases`.

        For one stage this is ``Folded(Chain(Leaf(basis.T), Leaf(core)))``; each further stage replaces the leaf of the
        core by such a form.
        """
        left = list(bases)
        form: Form = Leaf(core)
        for stage in reversed(self.stages):
            form = stage.undo(form, None if stage.codes is None else left.pop())
        return form if self.stages else _folded(form, Fold(self.shape, self.shape, ()))

    def explain(self) -> str:
        """One line for people: ``KLT over kernel positions (9), about 0.31 bit per weight saved for 36 bytes``."""
        if not self.stages:
            return "no transform: none pays for its basis"
        names = " and ".join(_words(stage) for stage in self.bases) or f"read by {self.stages[-1].reading.name}"
        gain = self.saving / math.prod(self.shape)
        return f"{names}, about {gain:.2f} bit per weight saved for {self.cost} bytes"


def _words(stage: Stage) -> str:
    part = f"{stage.leading} of {stage.order}" if stage.leading < stage.order - 1 else f"{stage.order}"
    return f"KLT over {stage.reading.name} ({part})"


def _folded(form: Form, fold: Fold) -> Form:
    """``form`` behind ``fold``, or itself where the fold changes nothing."""
    plain = fold.shape == fold.matrix_shape and fold.order == tuple(range(len(fold.split)))
    return form if plain else Folded(form, fold)
