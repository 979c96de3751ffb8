"""How factors contract to W: leaf, chain, outer products, core and matrices, sum, folded or rotated array.

A form is a small tree. Its leaves hold factors, objects with ``shape``, ``decode()`` and ``nbytes`` (the codecs'
``Encoded``); the form itself only multiplies. ``skeleton()`` writes the tree as JSON with the names of its leaves,
:func:`from_skeleton` reads it back.
"""

from .fold import Fold, Folded, transposed
from .rotated import Rotated
from .skeleton import from_skeleton
from .tree import CP, Chain, Factor, Form, Leaf, Matrix, Sum, Tucker, khatri_rao

__all__ = [
    "CP", "Chain", "Factor", "Fold", "Folded", "Form", "Leaf", "Matrix", "Rotated", "Sum", "Tucker", "from_skeleton",
    "khatri_rao", "transposed",
]  # fmt: skip
