"""Where a transform may act: kernel positions, blocks of neighbours along an axis, whole axes."""

from __future__ import annotations

import math
from collections.abc import Iterator

from .transform import Layout, Reading

BLOCKS = (2, 4, 8, 16, 32)
GROUPS = (2, 3, 4)  # gates of recurrent layers: 0.03 bit per weight on an LSTM's four
PLANES = 64
LARGEST = 512  # order of a basis: an eigenbasis of order 512 takes 0.05 s
SLENDER = 2  # vectors per dimension at least: with fewer no basis was measured to pay


def plain(shape: tuple[int, ...]) -> Reading:
    """W as it is: one plane, rows of the first axis."""
    rest = tuple(range(1, len(shape)))
    return Reading(shape, shape, (), (), (0,), rest, "rows")


def positions(shape: tuple[int, ...]) -> Iterator[Reading]:
    """The trailing axes of a kernel together, and each of them alone; nothing for matrices."""
    trailing = tuple(a for a in range(2, len(shape)) if shape[a] > 1)
    whole = tuple(range(2, len(shape)))
    if trailing and math.prod(shape[2:]) <= LARGEST:
        yield Reading(shape, shape, whole, whole, (0,), (1,), "kernel positions")
    if len(trailing) > 1:
        for a in trailing:
            rest = tuple(b for b in whole if b != a)
            yield Reading(shape, shape, (a,), (a,), (0,), (1, *rest), f"kernel axis {a}")


def channels(shape: tuple[int, ...], layout: Layout) -> Iterator[Reading]:
    """Rows and columns of the planes of an array of ``shape``: the whole axis, and blocks of neighbours along it."""
    planes, rows, columns = layout
    for name, axis, size in (("outputs", 1, rows), ("inputs", 2, columns)):
        if 1 < size <= LARGEST and math.prod(layout) >= SLENDER * size * size:
            moved, still = ((1,), (2,)) if axis == 1 else ((2,), (1,))
            yield Reading(shape, layout, (axis,), (0,), moved, still, name)
        for block in BLOCKS:
            if size % block == 0 and size > block and planes * block <= PLANES:
                yield _cut(shape, layout, axis, (size // block, block), 1, f"blocks of {block} {name}")
        for groups in GROUPS:
            if size % groups == 0 and size > groups * BLOCKS[-1] and planes * groups <= PLANES:
                yield _cut(shape, layout, axis, (groups, size // groups), 0, f"{groups} groups of {name}")


def _cut(shape: tuple[int, ...], layout: Layout, axis: int, sizes: tuple[int, int], moved: int, name: str) -> Reading:
    """Axis 1 or 2 of the layout cut into two, the one of them that ``moved`` names to be made planes."""
    split = (*layout[:axis], *sizes, *layout[axis + 1 :])
    basis, left = axis + moved, axis + 1 - moved
    rows, columns = ((left,), (3,)) if axis == 1 else ((1,), (left,))
    return Reading(shape, split, (basis,), (basis, 0), rows, columns, name)
