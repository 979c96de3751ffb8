"""What the numbers of a factor may be: precision, sparsity, grids, codebooks, and their intersections.

The primitive of a constraint is ``encode(x)``, the stored form of the nearest allowed array; ``project(x)`` is
``encode(x).decode()`` by definition, so that every solver projects onto exactly what will be stored. Constraints meet
with ``&``.
"""

from .base import Constraint
from .checks import DEFAULT_GROUP, Axis, check_axis, check_bits, check_group, check_rate, check_sparsity, even_group
from .clustered import Clustered
from .coded import Coded
from .intersection import Intersection, intersect
from .onehot import OneHotRows
from .quantized import Quantized
from .real import Real
from .sparse import Sparse, largest

__all__ = [
    "DEFAULT_GROUP",
    "Axis",
    "Clustered",
    "Coded",
    "Constraint",
    "Intersection",
    "OneHotRows",
    "Quantized",
    "Real",
    "Sparse",
    "check_axis",
    "check_bits",
    "check_group",
    "check_rate",
    "check_sparsity",
    "even_group",
    "intersect",
    "largest",
]
