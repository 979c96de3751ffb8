"""What plain quantization would leave at the bytes of a CP factorisation: for ``factorq.explain``."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...kernels.threads import one_thread
from ...measure import binary_exponent, scaled
from ...solvers.cp import real
from ...solvers.cp.products import Unfolded
from ...solvers.cp.start import random_factors
from . import budget
from .reading import sizes

if TYPE_CHECKING:
    from . import CP

_SWEEPS, _MOST_FLOPS = 16, 6e10  # of real factors, about a second
_CODED, _GRID = 1.06, 1.35  # error over the Gaussian bound 2^-bits of the trellis, and of a clipped grid at 2 to 4 bits


def advice(method: CP, W: NDArray[Any], dtype: str) -> str:
    """The error of real factors after a few sweeps beside that of plain quantization at equal bytes."""
    modes, r = sizes(method.axes(W.shape)), method.terms(W.shape)
    bits = 8 * method.expected(W.shape, dtype) / W.size
    plain = f"at its {bits:.3g} bits per weight Trellis leaves an error of about {_CODED * 2.0**-bits:.2g}"
    plain += f", a plain grid {_GRID * 2.0**-bits:.2g}"
    if not W.any():
        return "W is zero"
    if budget.flops(modes, r) * _SWEEPS > _MOST_FLOPS:
        return f"{plain} for Gaussian weights; solve both, and compare"
    X = Unfolded(np.ascontiguousarray(scaled(W, -binary_exponent(W))).reshape(modes))
    rng = np.random.default_rng(0)
    with one_thread():
        factors = real.anneal(X, random_factors(X, r, rng), _SWEEPS, rng, None)
        error = math.sqrt(X.residual2(factors, np.ones(r)) / X.norm2)
    found = f"real factors leave about {error:.2g} after {_SWEEPS} sweeps; {plain}"
    if error <= _CODED * 2.0**-bits:
        return f"{found}: CP may be the better way to store it, compare the two"
    return f"{found}: to store W, prefer bits={min(max(bits, 0.3), 16):.3g} alone; CP saves multiplications"
