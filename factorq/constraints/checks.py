"""What the arguments of constraints may be."""

from __future__ import annotations

from typing import Literal

import numpy as np

from ..errors import refuse, refuse_type

Axis = Literal[0, 1] | None
DEFAULT_GROUP = 128
FEWEST_BITS, MOST_BITS = 0.3, 16.0  # that a trellis can meet


def even_group(group: int | None, n: int) -> int | None:
    """The least group size that cuts ``n`` entries into as many groups as ``group`` does; None stays None."""
    return -(-n // -(-n // group)) if group and n else group


def check_bits(bits: object, name: str = "bits") -> None:
    """Raise unless ``bits`` is an integer from 1 to 16."""
    if isinstance(bits, bool) or not isinstance(bits, int | np.integer):
        raise refuse_type(name, found=repr(bits), allowed="an integer from 1 to 16")
    if not 1 <= bits <= 16:
        raise refuse(name, found=bits, allowed="an integer from 1 to 16")


def check_sparsity(sparsity: object, name: str = "sparsity") -> None:
    """Raise unless ``sparsity`` is a share of zeros in [0, 1)."""
    if isinstance(sparsity, bool) or not isinstance(sparsity, int | float | np.floating):
        raise refuse_type(name, found=repr(sparsity), allowed="a share of zeros, 0 <= sparsity < 1")
    if not 0 <= sparsity < 1:
        raise refuse(name, found=sparsity, allowed="a share of zeros, 0 <= sparsity < 1")


def check_group(group: object) -> None:
    """Raise unless ``group`` is a positive integer or None."""
    if group is None:
        return
    if isinstance(group, bool) or not isinstance(group, int | np.integer):
        raise refuse_type("group", found=repr(group), allowed="an integer of at least 1, or None")
    if group < 1:
        raise refuse("group", found=group, allowed="an integer of at least 1, or None")


def check_axis(axis: object) -> None:
    """Raise unless ``axis`` is 0, 1 or None."""
    if axis not in (None, 0, 1) or isinstance(axis, bool):
        raise refuse("axis", found=repr(axis), allowed="0, 1 or None")


def check_rate(bits: object, name: str = "bits") -> None:
    """Raise unless ``bits`` is a number of stored bits per entry that an entropy-coded trellis can meet."""
    allowed = f"a number of stored bits per weight, {FEWEST_BITS} to {MOST_BITS:g}"
    if isinstance(bits, bool) or not isinstance(bits, int | float | np.floating | np.integer):
        raise refuse_type(name, found=repr(bits), allowed=allowed)
    if not FEWEST_BITS <= bits <= MOST_BITS:
        raise refuse(name, found=bits, allowed=allowed)
