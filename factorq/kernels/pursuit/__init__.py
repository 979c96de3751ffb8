"""Sparse codes by greedy coordinate descent: every move is the one that lowers the objective most.

For each row z (r,) of Z, with b that of B and one Gram matrix G (r, r), in place:

    minimise  z^T G z - 2 b^T z + price * sum_j cost[j] [z_j != 0]    over z in the alphabet, ||z||_0 <= count.

With ``G = C^T C`` and ``B = W^T C`` this is ``||w - C z||^2`` up to a constant. At fixed other coordinates the best z_j
is known exactly, with ``u = g_j + G_jj z_j`` and ``g = b - G z``: the value nearest to ``u / G_jj``, or 0 where that
gains less than its price. Among coordinates the largest gain goes first: from zero this is matching pursuit whose
earlier choices stay open. 32x2048 Gaussian weights, 64 atoms, a fifth of Z kept: squared error .054 by the best moves
from the codes of the round before, .041 with a fresh pursuit in every fifth round, .080 by moves in cyclic order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import refuse
from .. import twin

__all__ = ["REAL", "Alphabet", "pursue"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Alphabet:
    """The numbers ``+-(t + shift)``, t = 1 .. most, and 0 if ``zero``; all real numbers if ``most`` is 0."""

    most: int
    shift: float = 0.0
    zero: bool = True

    def nearest(self, x: NDArray[Any]) -> NDArray[Any]:
        """The nonzero member nearest to each number of x; x itself for real numbers, a positive one for 0."""
        if self.most == 0:
            return x
        t = np.clip(np.floor(np.abs(x) - self.shift + 0.5), 1, self.most)
        return np.asarray(np.where(x < 0, -(t + self.shift), t + self.shift), x.dtype)


REAL = Alphabet(0)


def pursue(
    G: Floats,
    B: NDArray[Any],
    Z: NDArray[Any],
    price: Floats,
    cost: Floats,
    count: NDArray[np.int64],
    least: Floats,
    alphabet: Alphabet = REAL,
    *,
    restart: bool = False,
) -> None:
    """Lower ``z^T G z - 2 b^T z + price * cost . [z != 0]`` for every row z of Z, ``||z||_0 <= count``, in place.

    Parameters
    ----------
    G : NDArray, (r, r) float64
        Symmetric, positive semidefinite. Coordinates whose diagonal entry is 0 do not move, or to 0 if a restart wins.
    B, Z : NDArray, (n, r), C-contiguous and of one dtype, float32 or float64
        Z holds numbers of the alphabet. Where more than ``count`` of a row are not 0, those that gain least go first.
    price, least : NDArray, (n,) float64
        Price per row, and the gain below which a move is not worth making.
    cost : NDArray, (r,) float64
        Of a nonzero at each coordinate, in prices.
    count : NDArray, (n,) int64
        Most nonzeros of each row. A full row also tries to exchange its least useful nonzero.
    alphabet : Alphabet
        What the entries may be.
    restart : bool
        Also descend from z = 0, and keep the better one. Needs an alphabet with 0.

    Raises
    ------
    ArgumentError
        If shapes or dtypes are other than these.
    """
    if Z.ndim != 2:
        raise refuse("Z", found=f"shape {Z.shape}", allowed="a matrix (n, r)")
    n, r = Z.shape
    shapes = {"G": (G, (r, r)), "B": (B, (n, r)), "price": (price, (n,)), "cost": (cost, (r,))}
    for name, (x, shape) in {**shapes, "count": (count, (n,)), "least": (least, (n,))}.items():
        if x.shape != shape:
            raise refuse(name, found=f"shape {x.shape}", allowed=f"{shape} for Z {Z.shape}")
        dtype = Z.dtype if name == "B" else np.dtype(np.int64 if name == "count" else np.float64)
        if x.dtype != dtype or not x.flags.c_contiguous:
            raise refuse(name, found=f"{x.dtype}", allowed=f"contiguous {dtype}")
    if Z.dtype not in (np.float32, np.float64) or not Z.flags.c_contiguous:
        raise refuse("Z", found=f"{Z.dtype}", allowed="contiguous float32 or float64")
    if restart and not alphabet.zero:
        raise refuse("restart", found="an alphabet without 0", allowed="one with 0")
    steps = 64 + 8 * r  # a descent that is longer than this gains little more: it goes on in the next call
    fixed = float(alphabet.most), float(alphabet.shift), alphabet.zero, restart, steps
    twin(__name__, Z).pursue(G, B, price, cost, count, least, *fixed, Z)
