"""How many nonzeros the codes may have, and the price per nonzero that leaves so many."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...kernels.pursuit import REAL, Alphabet, pursue

Matrix = NDArray[Any]
Floats = NDArray[np.float64]
_WORTH = 0.02  # prices that a move has to gain
_LEAST = 1e-4  # of the best atom's gain: the same where there is no price
_SHARP = 1e-9  # the same for values that are to be at rest
_FILLS = 8  # times that a price is lowered
_OVER = 1.005  # times the nonzeros asked for, from which their price rises; what is over is dropped
_RATES = 0.25, 4.0  # least and most of a nonzero's bits, over the mean
_ROUNDING = 1 + 2**-50  # a product that should be whole may be an ulp short


@dataclass(frozen=True)
class Budget:
    """At most ``floor(share * n * r)`` nonzeros among the codes of n columns, or ``floor(share * r)`` in each.

    Parameters
    ----------
    share : float
        Share of entries that may be nonzero, 0 to 1.
    per_column : bool
        The same number in every column, instead of where they gain most.
    rated : bool
        Nonzeros are priced by the bits that they take in an entropy-coded mask with a density per atom: rare atoms cost
        more than common ones.
    """

    share: float
    per_column: bool = False
    rated: bool = False

    def count(self, shape: tuple[int, ...]) -> int:
        """How many entries of the codes (n, r) may be nonzero."""
        n, r = shape
        return n * self.each(r) if self.per_column else math.floor(self.share * n * r * _ROUNDING)

    def each(self, r: int) -> int:
        """How many entries of one column may be nonzero where all have the same number."""
        return math.floor(self.share * r * _ROUNDING)

    @property
    def everything(self) -> bool:
        """Whether all entries may be nonzero."""
        return self.share >= 1.0

    def code(
        self, G: Floats, B: Matrix, Z: Matrix, price: float, alphabet: Alphabet = REAL, *, restart: bool = False
    ) -> float:
        """Code the columns anew at a price per nonzero; the price for the next time, nearer to the right number.

        The number is met within about a percent over some calls, not at each; :meth:`trim` enforces it.
        """
        r = Z.shape[1]
        if not alphabet.zero or self.everything:
            _pursue(G, B, Z, 0.0, r, alphabet, restart=restart)
            return 0.0
        if self.per_column:
            _pursue(G, B, Z, 0.0, self.each(r), alphabet, restart=restart)
            return 0.0
        _pursue(G, B, Z, price, r, alphabet, self._costs(Z), restart=restart)
        wanted, kept = self.count(Z.shape), int(np.count_nonzero(Z))
        if kept > _OVER * wanted:
            gained = gains(G, B, Z)
            return _reached(max(1.02 * price, nth_largest(gained, wanted)), gained)
        return price * max(kept / max(wanted, 1), 0.5) if kept < wanted else price

    def fill(self, G: Floats, B: Matrix, Z: Matrix, price: float) -> None:
        """Lower the price until no fewer nonzeros are kept than may be, or nothing more gains."""
        if self.everything or self.per_column:
            return
        wanted = self.count(Z.shape)
        for _ in range(_FILLS):
            kept = int(np.count_nonzero(Z))
            if kept >= wanted or price <= 0:
                break
            price *= max(kept / wanted, 0.5) * 0.95
            _pursue(G, B, Z, price, Z.shape[1], REAL, self._costs(Z))

    def trim(self, G: Floats, B: Matrix, Z: Matrix, alphabet: Alphabet = REAL, *, sharp: bool = False) -> None:
        """Drop the nonzeros that gain least until the number is met, and descend with what each column has left."""
        if not alphabet.zero or self.everything:
            return
        wanted, counts = self.count(Z.shape), np.count_nonzero(Z, axis=1)
        if self.per_column:
            most = self.each(Z.shape[1])
            if not sharp and counts.max(initial=0) <= most:
                return
            counts = np.full(len(Z), most)
        elif counts.sum() > wanted:
            gained = np.asarray(gains(G, B, Z) / self._costs(Z).astype(Z.dtype))
            keep = gained > nth_largest(gained, wanted)
            ties = np.flatnonzero((gained > 0) & ~keep)
            short = wanted - int(np.count_nonzero(keep))
            keep.reshape(-1)[ties[np.argsort(-gained.reshape(-1)[ties], kind="stable")[:short]]] = True
            Z *= keep
            counts = np.count_nonzero(Z, axis=1)
        elif not sharp:
            return
        _pursue(G, B, Z, 0.0, counts, alphabet, sharp=sharp)

    def prices(self, gained: Matrix) -> Matrix:
        """What the wanted number of entries (n, r) reach: one number, or one per column of W (n, 1)."""
        if self.per_column:
            kept = self.each(gained.shape[1])
            if kept == 0:
                return np.full((len(gained), 1), np.inf, gained.dtype)
            last = gained.shape[1] - kept
            return np.asarray(np.partition(gained, last, axis=1)[:, last, None])
        return np.asarray(nth_largest(gained, self.count(gained.shape)))

    def first_price(self, G: Floats, B: Matrix) -> float:
        """The price at which single atoms would be kept so often."""
        if self.everything or self.per_column:
            return 0.0
        single = B * (B / _lengths(G, B))
        return _reached(nth_largest(single, self.count(B.shape)), single)

    def _costs(self, Z: Matrix) -> Floats:
        """Bits of a nonzero of each atom, over their mean: ``2 + log2((1 - p) / p)`` at the density p."""
        r = Z.shape[1]
        if not self.rated:
            return np.ones(r)
        p = np.clip(np.count_nonzero(Z, axis=0) / len(Z), 1e-4, 0.75)  # from 0.8 on the bits would be negative
        bits = 2.0 + np.log2((1 - p) / p)
        return np.asarray(np.clip(bits / float((p @ bits) / p.sum()), *_RATES))


def gains(G: Floats, B: Matrix, Z: Matrix) -> Matrix:
    """What each nonzero z_j is worth, ``z_j (2 g_j + G_jj z_j)`` with ``g = b - G z``; at least 0."""
    found = B - Z @ G.astype(Z.dtype)
    found *= 2
    found += Z * G.diagonal().astype(Z.dtype)
    found *= Z
    return np.asarray(np.maximum(found, 0, out=found))


def nth_largest(x: Matrix, n: int) -> float:
    """The n-th largest number of x, at least 0; larger than all for n = 0."""
    flat = x.reshape(-1)
    if n >= flat.size:
        return 0.0
    if n == 0:
        return float(np.nextafter(flat.max(initial=0), np.inf, dtype=flat.dtype))
    return max(float(np.partition(flat, flat.size - n)[flat.size - n]), 0.0)


def _reached(price: float, gained: Matrix) -> float:
    """``price``, lowered until the largest gain is worth a move: of equal numbers all must not become 0 at once."""
    return min(price, float(gained.max(initial=0)) / (1.0 + 2.0 * _WORTH))


def _lengths(G: Floats, B: Matrix) -> Matrix:
    """Squared lengths of the atoms in the precision of B, where the least may vanish; infinite for those of zeros."""
    squared = G.diagonal().astype(B.dtype)
    return np.where(squared > 0, squared, np.asarray(np.inf, B.dtype))


def _pursue(
    G: Floats,
    B: Matrix,
    Z: Matrix,
    price: float,
    count: int | NDArray[np.int64],
    alphabet: Alphabet,
    cost: Floats | None = None,
    *,
    restart: bool = False,
    sharp: bool = False,
) -> None:
    """The descent of all rows, with what a move must gain set by the price, or by the best single atom of the row."""
    n, r = Z.shape
    if price > 0:
        least = np.full(n, _WORTH * price)
    else:
        single = B * (B / _lengths(G, B))
        least = (_SHARP if sharp else _LEAST) * single.max(axis=1, initial=0).astype(np.float64)
    counts = np.broadcast_to(np.asarray(count, np.int64), (n,)).copy()
    prices = np.full(n, price)
    pursue(G, B, Z, prices, np.ones(r) if cost is None else cost, counts, least, alphabet, restart=restart)
