"""What the columns of W ask of ``C Z``, through Gram matrices and moments alone."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...measure import squared_distance
from ..damping import least_squares

Matrix = NDArray[Any]
_CHUNK = 1 << 14  # columns whose float32 products are added up in float64
_CANCELS = 1e-6  # share of the energy under which an error from moments has no digits left


@dataclass(frozen=True, eq=False)
class Target:
    """``||L^T (W - C Z)||^2`` for W (m, n): the error in the metric ``L L^T`` over the rows, plain without L.

    Codes are kept transposed, Z (n, r): a row per column of W.
    """

    W: Matrix
    L: Matrix | None = None

    @cached_property
    def seen(self) -> Matrix:
        """``L^T W`` (m, n)."""
        return self.through(self.W)

    @cached_property
    def energy(self) -> float:
        """``||L^T W||^2`` in float64."""
        return sum(float(np.vdot(x, x)) for x in (self.seen[:, c].astype(np.float64) for c in self._chunks))

    def through(self, C: Matrix) -> Matrix:
        """``L^T C``."""
        return C if self.L is None else np.asarray((self.L.T @ C).astype(C.dtype))

    def products(self, C: Matrix) -> tuple[NDArray[np.float64], Matrix]:
        """``G = D^T D`` (r, r) in float64 and ``B = (L^T W)^T D`` (n, r), with ``D = L^T C``."""
        D = self.through(C.astype(np.float64))
        return np.ascontiguousarray(D.T @ D), np.ascontiguousarray(self.seen.T @ D.astype(self.W.dtype))

    def moments(self, Z: Matrix) -> Moments:
        """The moments of codes Z (n, r)."""
        r = Z.shape[1]
        A, P = np.zeros((r, r)), np.zeros((len(self.W), r))
        for c in self._chunks:
            A += Z[c].T @ Z[c]
            P += self.W[:, c] @ Z[c]
        return Moments(A, P)

    def squared_error(self, C: Matrix, moments: Moments, Z: Matrix) -> float:
        """``||L^T (W - C Z)||^2``, from the moments of Z where they have the digits."""
        D, Q = self.through(C.astype(np.float64)), self.through(moments.P)
        found = self.energy - 2.0 * float(np.vdot(D, Q)) + float(np.vdot(D.T @ D, moments.A))
        if found > _CANCELS * self.energy:
            return found
        D = D.astype(self.W.dtype)
        return sum(squared_distance(self.seen[:, c], D @ Z[c].T) for c in self._chunks)

    def columns(self, index: NDArray[np.int64]) -> Target:
        """The same for some of the columns."""
        return Target(np.ascontiguousarray(self.W[:, index]), self.L)

    @property
    def _chunks(self) -> list[slice]:
        return [slice(start, start + _CHUNK) for start in range(0, self.W.shape[1], _CHUNK)]


@dataclass(frozen=True, eq=False)
class Moments:
    """``A = Z Z^T`` (r, r) and ``P = W Z^T`` (m, r) in float64: all that a least-squares C needs of the codes."""

    A: NDArray[np.float64]
    P: NDArray[np.float64]

    def dictionary(self) -> NDArray[np.float64]:
        """The C (m, r) of least error; columns of unused atoms are 0."""
        used = self.A.diagonal() > 0
        C = np.zeros_like(self.P)
        if used.any():
            C[:, used] = least_squares(self.A[np.ix_(used, used)], self.P[:, used].T)[0].T
        return C
