"""Trees of factors from their descriptions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import ArtifactError, FactorqError
from .fold import Fold, Folded
from .rotated import Rotated
from .tree import CP, Chain, Factor, Form, Leaf, Sum, Tucker


def from_skeleton(skeleton: Any, leaves: Mapping[str, Factor], depth: int = 0) -> Form:
    """The form that :meth:`Form.skeleton` wrote, with its leaves looked up in ``leaves``.

    Raises
    ------
    ArtifactError
        If the skeleton is malformed or names a leaf that is not there.
    """
    if depth > 16:
        raise ArtifactError("form: nested more than 16 deep")
    try:
        tag = skeleton["form"]
        if tag == Leaf.tag:
            return Leaf(leaves[skeleton["leaf"]])
        parts = [from_skeleton(part, leaves, depth + 1) for part in skeleton["parts"]]
        if tag == Chain.tag:
            return Chain(*parts)
        if tag in (CP.tag, Tucker.tag):
            return (CP if tag == CP.tag else Tucker)(parts[0], tuple(parts[1:]))
        if tag == Sum.tag:
            return Sum(tuple(parts))
        if tag == Folded.tag:
            return Folded(parts[0], Fold(*(tuple(map(int, skeleton[key])) for key in ("shape", "split", "rows"))))
        if tag == Rotated.tag:
            right, left = skeleton["seeds"]
            return Rotated(parts[0], right, left)
    except ArtifactError:
        raise
    except (FactorqError, KeyError, IndexError, TypeError, ValueError, OverflowError) as error:
        raise ArtifactError(f"form: malformed description ({error})") from None
    raise ArtifactError(
        f"form: found {tag!r}, known are leaf, chain, cp, tucker, sum, folded, rotated; a newer factorq wrote this"
    )
