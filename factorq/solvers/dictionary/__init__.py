"""Dictionary learning: ``W (m, n) ~ C (m, r) Z (r, n)`` with few nonzeros in Z, real or on grids.

One problem with known corners (arXiv 2207.11048): all entries kept and real, it is the truncated SVD; one nonzero 1 per
column, Lloyd's k-means; some kept and real, sparse PCA; C the identity and Z on a grid, pruning with quantization.

The solver alternates. Codes Z by greedy coordinate descent at a price per nonzero (:mod:`factorq.kernels.pursuit`)
while the share that is kept falls to its target; C by least squares, for which the two moments ``Z Z^T`` and ``W Z^T``
say everything. On grids the same descent works on integers, for C and Z alike. Atoms are learned on a sample of the
columns; all columns are then coded with them.
"""

from .budget import Budget
from .grids import Codes, fitted_scales, quantize, rounded_atoms
from .real import Dictionary, learn, polish
from .start import principal
from .target import Moments, Target

__all__ = [
    "Budget",
    "Codes",
    "Dictionary",
    "Moments",
    "Target",
    "fitted_scales",
    "learn",
    "polish",
    "principal",
    "quantize",
    "rounded_atoms",
]
