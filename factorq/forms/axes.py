"""Which axes of an array a product sums over, and which it keeps, when the array is read in another order or in parts.

A product of W with x is told as a list of axes whose sizes multiply to the size of W, in C order: ``F @ x`` is
``((m, kept), (n, summed))``. Axes may be cut finer, and then moved: that is all a fold does to a product.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from numpy.typing import NDArray


class Axis(NamedTuple):
    """A size, and whether the product sums over it."""

    size: int
    summed: bool


Axes = tuple[Axis, ...]
Box = tuple[slice, ...]


def of_product(shape: tuple[int, ...], left: bool) -> Axes:
    """The axes of ``x @ W`` for ``left``, else of ``W @ x``, of a matrix W of ``shape``."""
    m, n = shape
    return Axis(m, left), Axis(n, not left)


def count(axes: Sequence[Axis], summed: bool) -> int:
    """Entries along the axes that are summed over, or along those that are kept."""
    return math.prod(axis.size for axis in axes if axis.summed == summed)


def parted(axes: Axes, sizes: Sequence[int]) -> list[Axes] | None:
    """The axes that make up each of ``sizes``, cut where need be; None if a cut would not be even.

    Examples
    --------
    >>> parted((Axis(4, False), Axis(6, True)), (8, 3))
    [(Axis(size=4, summed=False), Axis(size=2, summed=True)), (Axis(size=3, summed=True),)]
    """
    left, found = [axis for axis in reversed(axes) if axis.size != 1], []
    for size in sizes:
        own = []
        while size > 1:
            axis = left.pop()
            part = math.gcd(size, axis.size)
            if part not in (size, axis.size):
                return None
            own.append(Axis(part, axis.summed))
            if part < axis.size:
                left.append(Axis(axis.size // part, axis.summed))
            size //= part
        found.append(tuple(own))
    return found


def permuted(x: Any, order: Sequence[int]) -> Any:
    """``x``, an array of any library, with its axes in ``order``."""
    return x.permute(*order) if hasattr(x, "permute") else x.transpose(*order)  # torch has its own name for it


def moved(x: NDArray[Any], axes: Sequence[Axis], order: Sequence[int], summed: bool) -> NDArray[Any]:
    """x (n, b), n the entries along the axes of one kind, with these axes put into ``order``.

    ``order`` is a permutation of all of ``axes``, of which only those of the kind take part.
    """
    mine = [i for i, axis in enumerate(axes) if axis.summed == summed]
    turn = [mine.index(i) for i in order if i in mine]
    if turn == list(range(len(turn))):
        return x
    wide = x.reshape(*(axes[i].size for i in mine), x.shape[1])
    turned: NDArray[Any] = permuted(wide, (*turn, len(turn))).reshape(x.shape)
    return turned


def contracted(array: Any, x: Any, axes: Axes) -> Any:
    """The sum over some axes of a dense array times x (entries summed over, b): (entries kept, b)."""
    kept, summed = ([i for i, axis in enumerate(axes) if axis.summed == s] for s in (False, True))
    wide = permuted(array.reshape([axis.size for axis in axes]), (*kept, *summed))
    return wide.reshape(count(axes, False), count(axes, True)) @ x


def boxes(start: int, stop: int, sizes: Sequence[int]) -> Iterator[tuple[slice, Box]]:
    """Positions ``start`` to ``stop`` of an array of ``sizes`` in C order, as boxes: (the positions, a slice per axis).

    At most two for each axis but the first.

    Examples
    --------
    >>> for at, (rows, columns) in boxes(3, 11, (3, 4)):
    ...     print(at, rows, columns)
    slice(3, 4, None) slice(0, 1, None) slice(3, 4, None)
    slice(4, 8, None) slice(1, 2, None) slice(0, 4, None)
    slice(8, 11, None) slice(2, 3, None) slice(0, 3, None)
    """
    if not sizes:
        if start < stop:
            yield slice(start, stop), ()
        return
    inner = math.prod(sizes[1:])
    at = start
    while at < stop:
        i, inside = divmod(at, max(inner, 1))
        whole = 0 if inside else (stop - at) // inner
        if whole:
            end = at + whole * inner
            yield slice(at, end), (slice(i, i + whole), *(slice(0, n) for n in sizes[1:]))
        else:
            end = min((i + 1) * inner, stop)
            for part, box in boxes(inside, inside + end - at, sizes[1:]):
                yield slice(part.start + i * inner, part.stop + i * inner), (slice(i, i + 1), *box)
        at = end
