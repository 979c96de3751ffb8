"""The leading left subspace of a matrix by randomized block Krylov iteration.

With ``Q`` (d, m) an orthonormal basis (rows) of the Krylov space of ``W W^T`` started at ``W Omega``, the images
``Z = Q W`` (d, n) are products that the iteration has formed anyway: ``W Z^T`` is where the next block comes from, and
``T = Z Z^T = Q W W^T Q^T`` is the Rayleigh-Ritz problem. With ``E`` its top eigenvectors, ``U = Q^T E`` and
``U^T W = E^T Z``: no further pass over W. A pass is one GEMM with thin *rows* (row form ran 79 GFLOP/s at width 32 and
93 at width 64, where columns gave 70 and 84).

Blocks have about half the rank's width: thin blocks have a polynomial of higher degree per product, wide ones faster
GEMM and less orthogonalisation per row. 4096 x 4096 Gaussian, rank 256, excess error and seconds of the iteration:
width 64 0.33 % 0.73 s, 136 0.21 % 0.74 s, 192 0.34 % 0.74 s, 260 0.31 % 0.81 s. A singular value of higher multiplicity
than the width is found only as often as the width; the Ritz values show it, and the search then starts again with
blocks wider than the rank.

Source: Musco and Musco, Randomized block Krylov methods (2015), algorithm 2.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...arrays import Array, beside, namespace
from .orthonormal import orthonormal
from .ritz import Subspace, excess_error, precision, top
from .scaling import kind_of, small, times

_LOOSE = 0.005  # estimated excess from which the default takes up to twice its blocks: a plateau just above a slow tail
_TIGHT = 2e-3  # as many Ritz values as the block is wide within this share of each other: a multiple singular value


def plan(rank: int) -> tuple[int, int]:
    """Rows of a block and number of blocks: the cheapest that beat ``n_iter=7`` on a 4096 x 4096 Gaussian matrix.

    Excess error in % against the peer's, at ranks 8, 64, 128, 256, 320 and 512: 0.01 0.11 0.20 0.24 0.32 0.28 against
    0.02 0.14 0.22 0.30 0.33 0.38. A multiple of 4 suits the GEMM.
    """
    half = 4 * -(-rank // 8)
    if rank <= 16:
        return half + 8, 6
    return (half + 8, 7) if rank <= 64 else (half + 4, 7) if rank <= 256 else (half + 24, 6)


def krylov_subspace(
    A: Array,
    scale: float,
    energy: float,
    rank: int,
    width: int,
    tol: float | None,
    rng: np.random.Generator,
    blocks: int,
) -> Subspace:
    """Rayleigh-Ritz on the rows of the block Krylov space, at most ``blocks`` blocks of ``width`` rows.

    Of an A on a GPU, no more than matrices of the basis' size and the random start pass between it and the host.
    """
    m, n = A.shape
    kind = kind_of(A)
    usual, eps = plan(rank)[1], precision(kind)
    few = -(-rank // width)
    blocks = max(blocks, few)
    room = min(m, blocks * width)  # rows that the basis may grow to
    target = max(_LOOSE if tol is None else tol / 2, eps)  # half: the estimate errs by a factor of 1.5
    basis = _Basis(min(room, usual * width), room, A)
    Y = (beside(rng.standard_normal((width, n), dtype=kind.type), A) * scale) @ A.T
    check = few if tol is not None else min(blocks, usual)
    while True:
        size = basis.ends[-1]
        basis.add(orthonormal(Y[: min(Y.shape[0], room - size), :], basis.Q[:size, :], rng), scale, A)
        size, step = basis.ends[-1], len(basis.ends) - 1
        if step >= check or size == room:
            T = basis.T[:size, :size]
            values, E = top(T, rank, energy, kind)
            excess, ratio = excess_error(T, values, E, basis.ends, energy, eps)
            if size == m:
                excess = 0.0
            if size == room or excess <= target:
                break
            check = step + _steps_to(target, excess, ratio, step)
        Y = (basis.Z[basis.ends[-2] : size, :] * scale) @ A.T
    left, images = times(E.T, basis.Q[:size, :]), times(E.T, basis.Z[:size, :])
    status = _advice(step, width, excess, tol, kind)
    return Subspace(left, images, step, excess, status, _multiple(values, width, eps))


class _Basis:
    """Orthonormal rows ``Q`` (d, m), images ``Z = Q W`` (d, n) and ``T = Z Z^T``, in arrays with rows to spare.

    ``T`` is on the host.
    """

    def __init__(self, rows: int, room: int, A: Array) -> None:
        xp, (m, n) = namespace(A), A.shape
        self.Q, self.Z = xp.empty((rows, m), dtype=A.dtype), xp.empty((rows, n), dtype=A.dtype)
        self.T: NDArray[np.float64] = np.zeros((rows, rows))
        self.room = room
        self.ends = [0]  # where each block ends

    def add(self, new: Array, scale: float, A: Array) -> None:
        """Append the rows ``new`` (b, m); W is ``scale * A``."""
        low = self.ends[-1]
        count, held = new.shape[0], self.Q.shape[0]
        high = low + count
        if high > held:
            rows = min(self.room, held + held // 2 + count)
            self.Q = _grown(self.Q, rows, self.Q.shape[1])
            self.Z = _grown(self.Z, rows, self.Z.shape[1])
            self.T = _grown(self.T, rows, rows)
        Q, Z, T = self.Q, self.Z, self.T
        Q[low:high, :] = new
        Z[low:high, :] = (new * scale) @ A
        T[low:high, :high] = small(Z[low:high, :] @ Z[:high, :].T)
        T[:low, low:high] = T[low:high, :low].T
        self.ends.append(high)


def _grown(X: Array, rows: int, columns: int) -> Array:
    """``X`` in the corner of a larger array of zeros."""
    larger = namespace(X).zeros((rows, columns), dtype=X.dtype)
    larger[: X.shape[0], : X.shape[1]] = X
    return larger


def _multiple(values: NDArray[Any], width: int, eps: float) -> bool:
    """Whether as many Ritz values as the block is wide agree: the rank may cut through a multiple singular value."""
    first, last = values[: max(0, len(values) - width + 1)], values[width - 1 :]
    return bool(np.any(last > np.maximum((1 - _TIGHT) * first, eps * values[0])))


def _steps_to(target: float, excess: float, ratio: float, step: int) -> int:
    """Blocks until the next look at the excess: two thirds of what the present rate asks for, up to ``step / 4``."""
    if not (0 < ratio < 1 and excess > 0):
        return 1
    wanted = int(math.log(target / excess) / math.log(ratio) * 2 / 3)
    return max(1, min(wanted, step // 4))  # the rate improves as the space grows


def _advice(steps: int, width: int, excess: float, tol: float | None, kind: np.dtype[Any]) -> str:
    text = f"randomized block Krylov, {steps} block{'s' if steps > 1 else ''} of {width}: "
    if math.isnan(excess):
        return text + "too few blocks to estimate the excess error; raise max_blocks"
    if excess <= precision(kind):
        return text + "exact to the precision of the dtype"
    text += f"estimated excess error {100 * excess:.2g} %"
    if tol is None:
        return text + "; a smaller one is to be had (accuracy= of SVD)"
    return text if excess <= tol else text + f", above tol={tol:g}; raise max_blocks"
