"""Versions that aim at a stored size: codes on a trellis to the last byte; else rank, bits and density."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from ...arrays import FLOATS
from ...codecs import Grid
from ...constraints.checks import FEWEST_BITS, MOST_BITS
from ...errors import ArgumentError
from ...measure import density_for
from .folds import basis_bits

if TYPE_CHECKING:
    from . import QuantizedSparse

_WIDTHS = ((4, 2), (5, 3), (6, 4), (8, 6))  # bits of C and Z
_RANKS = (0.25, 0.5, 1.0, 2.0)  # of the rows, or of what the codebook may take
_SPARSEST, _DENSEST = 0.02, 0.95
_CODEBOOK = 0.375  # share of the bytes that the codebook of the middle rank takes at most
_NEAREST = 6
_TURNS, _GAIN = 3, 2e-3  # of coded factors: after the first turn 0.1 to 0.5 % on kernels, a tenth with C in 3 bits
Free = frozenset[str]


def versions(
    method: QuantizedSparse, shape: tuple[int, ...], dtype: str, bits_per_weight: float, free: Free
) -> Iterator[QuantizedSparse]:
    """Versions whose ``free`` settings (of rank, bits, sparsity and codes) aim at a size, the most promising first."""
    if method.codes == "trellis" or free >= {"bits", "sparsity", "codes"}:
        coded = list(_coded(method, shape, bits_per_weight, free))
        if coded or method.codes == "trellis":
            yield from coded
            return
    found = (_thinned if "sparsity" in free else _nearest)(method, shape, dtype, bits_per_weight, free)
    yield from (version for version in found if _sound(version, shape))


def _sound(method: QuantizedSparse, shape: tuple[int, ...]) -> bool:
    try:
        method.check(shape)
    except ArgumentError:  # too few kept for one in each column, or too many atoms
        return False
    return True


def _coded(
    method: QuantizedSparse, shape: tuple[int, ...], bits_per_weight: float, free: Free
) -> Iterator[QuantizedSparse]:
    """Codes on a trellis that fill the bytes which the codebook leaves."""
    m, n = method.folded(shape).matrix_shape
    rank = min(m, n) if "rank" in free and method.fold == "auto" else method.rank
    if rank > min(m, n):
        return
    c = basis_bits(rank / n, bits_per_weight)
    if method.codes == "trellis" and "bits" not in free and isinstance(method.bits, tuple):
        c = method.bits[0]
    budget = bits_per_weight * m * n / 8 - Grid.predict((m, rank), c, None, 0)
    for spare in (0, 1, 16, 32):  # few codes get bytes that their bits do not tell
        z = 8 * (budget - spare) / (rank * n)
        if z < FEWEST_BITS:
            continue
        found = replace(method, rank=rank, bits=(c, min(z, MOST_BITS)), sparsity=0.0, codes="trellis")
        if method.codes != "trellis":
            found = replace(found, max_iter=min(method.max_iter, _TURNS), tol=max(method.tol, _GAIN))
        if found.nbytes(shape, "float32") <= bits_per_weight * m * n / 8:
            yield found
            return


def _thinned(
    method: QuantizedSparse, shape: tuple[int, ...], dtype: str, bits_per_weight: float, free: Free
) -> Iterator[QuantizedSparse]:
    """Ranks and bits with the density that fills the bytes."""
    m, n = method.folded(shape).matrix_shape
    full = 8 * FLOATS[dtype].itemsize
    for rank in _ranks(method, m, n, full, bits_per_weight) if "rank" in free else (method.rank,):
        for bits in _WIDTHS if "bits" in free else (method.bits,):
            c, z = (full, full) if bits is None else bits if isinstance(bits, tuple) else (bits, bits)
            left = (bits_per_weight * m * n - m * rank * c - 16 * (rank + 1)) / (rank * n)  # bits per entry of Z
            density = density_for(left, z)
            if _SPARSEST < density < _DENSEST:
                yield replace(method, rank=rank, bits=bits, sparsity=round(1 - density, 6))


def _ranks(method: QuantizedSparse, m: int, n: int, full: int, bits_per_weight: float) -> list[int]:
    """Ranks to try: up to 2 m, and none whose codebook takes more than three quarters of the bytes."""
    width = full if method.bits is None else min(c for c, _ in _WIDTHS)
    middle = min(m, _CODEBOOK * bits_per_weight * n / width)
    estimated = () if method.fold == "auto" else (method.rank,)
    return list(dict.fromkeys((*(max(1, int(share * middle)) for share in _RANKS), *estimated)))


def _nearest(
    method: QuantizedSparse, shape: tuple[int, ...], dtype: str, bits_per_weight: float, free: Free
) -> Iterator[QuantizedSparse]:
    """Bits and the highest rank whose predicted size fits, at the given sparsity; the fullest first."""
    budget = bits_per_weight * math.prod(shape) / 8
    most = 2 * method.folded(shape).matrix_shape[0]

    def fits(found: QuantizedSparse) -> bool:
        return found.nbytes(shape, dtype) <= budget

    pairs = [(c, z) for z in range(1, 9) for c in range(2, 13)] if "bits" in free else [method.bits]
    tried = []
    for bits in pairs:
        found = replace(method, bits=bits)
        if "rank" in free:
            low, high = 1, most
            while low < high:
                middle = (low + high + 1) // 2
                low, high = (middle, high) if fits(replace(found, rank=middle)) else (low, middle - 1)
            found = replace(found, rank=low)
        tried.append(found)
    under = sorted(filter(fits, tried), key=lambda found: -found.nbytes(shape, dtype))
    if "rank" in free:  # the fullest of each width of Z: cheap runs tell which of them is best
        fullest: dict[object, QuantizedSparse] = {}
        for found in under:
            fullest.setdefault(found.bits[1] if isinstance(found.bits, tuple) else found.bits, found)
        under = list(fullest.values())
    yield from under[:_NEAREST]
