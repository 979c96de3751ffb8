"""What to solve: one method per file; ``base`` holds Method, Solution and the one driver."""

from .base import Method, Problem, Solution, Stacked
from .boolean_pruning import BooleanPruning
from .cp import CP
from .flexor import FleXOR
from .quantized_sparse import QuantizedSparse
from .rotated import Rotated
from .scalar import Scalar
from .sparse_pca import SparsePCA
from .svd import SVD
from .trellis import Trellis
from .vector_quantization import VectorQuantization

__all__ = [
    "CP",
    "SVD",
    "BooleanPruning",
    "FleXOR",
    "Method",
    "Problem",
    "QuantizedSparse",
    "Rotated",
    "Scalar",
    "Solution",
    "SparsePCA",
    "Stacked",
    "Trellis",
    "VectorQuantization",
]
