"""Transform coding: an orthonormal basis along some axes of W, where it saves more bits than it takes.

A Karhunen-Loeve transform (KLT) decorrelates the vectors along an axis: its basis is that of the eigenvectors of their
second moment. With one step for all coefficients the quantizer then does reverse water-filling: one of variance l
costs ``log2(max(l / theta, 1)) / 2`` bits at the distortion theta (Cover and Thomas, Elements of Information Theory,
section 10.3.3; Goyal 2001 on transform coding). The basis is stored as quantized angles and exactly orthonormal, so
that errors of the core are errors of W. Stages compose: after the kernel positions the channels of the core may pay.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...arrays import check_finite
from ...errors import refuse
from ...kernels.threads import one_thread
from ...measure import binary_exponent, scaled, squared_norm
from .candidates import plain
from .search import search
from .transform import Stage, Transform

__all__ = ["Stage", "Transform", "choose", "step_for"]

_LEAST = 256  # arrays with fewer numbers are left alone
_FINEST = 1e-7  # of the largest number: finer steps would only tell the noise of float32 apart


def step_for(W: NDArray[Any], distortion: float) -> float:
    """The step whose uniform quantizer has the relative squared error ``distortion`` at high rate: rms sqrt(12 D)."""
    exponent = binary_exponent(W)
    with one_thread():
        energy = squared_norm(W, exponent)
    return math.ldexp(math.sqrt(12.0 * distortion * energy / W.size), exponent)


def choose(W: NDArray[Any], *, distortion: float | None = None, step: float | None = None) -> Transform:
    """The transform of W whose estimated saving, ``bits(W) - bits(core) - 8 * bytes(bases)``, is largest; often none.

    Bits are estimated at equal slope of rate and distortion for a uniform quantizer of one step and an adaptive coder
    with classes of planes, rows or columns. Peak memory is about three times that of W.

    Parameters
    ----------
    W : NDArray, any shape of 2 or more axes, real floating
        The array; axes of a conv kernel are (out, in, positions ...).
    distortion : float, above 0
        Relative squared error aimed at; about ``2**(-2 * bits)``.
    step : float, above 0
        The quantizer's step, instead of ``distortion``.

    Returns
    -------
    Transform
        With no stages where none is clearly worth its bytes.

    Raises
    ------
    ArgumentError
        If not exactly one of ``distortion`` and ``step`` is given and positive, or W is not finite or not N-D.
    """
    if (distortion is None) == (step is None):
        raise refuse("distortion", found=f"{distortion} and step {step}", allowed="exactly one of the two")
    if not 0.0 < (aim := distortion or step or 0.0) < math.inf:
        raise refuse("distortion or step", found=aim, allowed="a finite number above 0")
    if W.ndim < 2:
        raise refuse("W", found=f"shape {W.shape}", allowed="2 or more axes")
    none = Transform(W.shape, (), plain(W.shape).layout)
    if W.size < _LEAST:
        return none
    check_finite(W, "W")
    exponent = binary_exponent(W)
    X = scaled(W.astype("float64" if W.dtype == np.float64 else "float32", copy=False), -exponent)
    aim = step_for(X, aim) if step is None else math.ldexp(aim, -exponent)
    if not 0.0 < aim < 2.0:  # zeros, or all numbers are nearest to 0
        return none
    with one_thread():
        return search(X, max(aim, _FINEST))
