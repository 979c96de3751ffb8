"""What to solve: one method per file; ``base`` holds Method, Solution and the one driver."""

from .base import Method, Problem, Solution, Stacked
from .quantized_sparse import QuantizedSparse
from .scalar import Scalar
from .svd import SVD

__all__ = ["SVD", "Method", "Problem", "QuantizedSparse", "Scalar", "Solution", "Stacked"]
