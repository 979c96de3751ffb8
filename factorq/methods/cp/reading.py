"""Which axes of an array are modes of their own: those of convolution kernels are read as one."""

from __future__ import annotations

import math
from typing import Literal

Modes = Literal["auto", "kernel", "all"]
Axes = tuple[tuple[int, ...], ...]

_LARGEST_KERNEL = 16


def read(shape: tuple[int, ...], modes: Modes) -> Axes:
    """The sizes of W's axes, grouped by mode: ((O,), (I,), (kh, kw)) for a convolution.

    Axes of length 1 go with a neighbour, so that a 1x1 convolution is a matrix, unless fewer than two modes would be
    left.

    Examples
    --------
    >>> read((64, 32, 3, 3), "auto"), read((64, 32, 1, 1), "auto"), read((6, 5, 4, 3), "auto")
    (((64,), (32,), (3, 3)), ((64,), (32, 1, 1)), ((6,), (5,), (4,), (3,)))
    """
    kernel = modes == "kernel" or (modes == "auto" and is_kernel(shape))
    groups: list[tuple[int, ...]] = (
        [shape[:1], shape[1:2], shape[2:]] if kernel and len(shape) > 3 else [(n,) for n in shape]
    )
    while len(groups) > 2:
        one = next((k for k, group in enumerate(groups) if math.prod(group) == 1), None)
        if one is None:
            break
        first = max(one - 1, 0)
        groups[first : first + 2] = [groups[first] + groups[first + 1]]
    return tuple(groups)


def is_kernel(shape: tuple[int, ...]) -> bool:
    """Whether an array looks like a convolution's weight (O, I, kh, kw): a square or a line, at most 16 wide."""
    lengths = {n for n in shape[2:] if n > 1}
    return len(shape) in (4, 5) and len(lengths) <= 1 and max(lengths, default=1) <= _LARGEST_KERNEL


def sizes(axes: Axes) -> tuple[int, ...]:
    """The size of each mode."""
    return tuple(map(math.prod, axes))
