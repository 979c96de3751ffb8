"""What is stored and what was lost: bits per weight, relative error, and the floors that no method can pass."""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from .arrays import is_host

_BLOCK = 1 << 16  # elements; a float64 pair of this size stays in the second-level cache
_GAP_CODE = 1.01  # bytes of coded gaps over the entropy of a random mask


def bits_per_weight(nbytes: int, size: int) -> float:
    """``8 * nbytes / size``: stored bits for each of ``size`` weights."""
    return 8 * nbytes / size


def binary_exponent(x: NDArray[Any]) -> int:
    """The integer e with ``2**(e-1) <= max|x| < 2**e``; 0 for an empty or all-zero array.

    Scaling by ``2**-e`` is exact, so whatever is computed after it is equivariant under powers of two.
    """
    peak = max(float(x.max()), -float(x.min())) if x.size else 0.0
    return math.frexp(peak)[1] if peak else 0


def scaled(x: NDArray[Any], exponent: int) -> NDArray[Any]:
    """``x * 2**exponent`` in the dtype of ``x``, without the intermediate overflow of ``2**exponent``.

    What would pass the range of the dtype becomes its largest number: an approximation of a finite array is finite.
    """
    if exponent == 0:
        return x
    range_of = np.finfo(x.dtype)
    if exponent > range_of.maxexp - 32:  # only then can codes and factors, which are below 2**32, overflow
        limit = np.ldexp(range_of.max, -exponent)
        limit = np.nextafter(limit, 0) if limit <= range_of.tiny else limit  # a subnormal may have been rounded up
        x = np.clip(x, -limit, limit)
    if -126 <= exponent <= 127:
        result: NDArray[Any] = x * x.dtype.type(2.0**exponent)
        return result
    wide: NDArray[Any] = np.ldexp(x, exponent)
    return wide.astype(x.dtype, copy=False)


def narrowed(x: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """``x`` (float32 or float64) rounded to ``dtype``; what would pass its range becomes its largest number."""
    if dtype.itemsize >= x.dtype.itemsize:
        return x.astype(dtype, copy=False)
    limit = float(ml_dtypes.finfo(dtype).max)  # type: ignore[no-untyped-call]
    kept: NDArray[Any] = np.clip(x, -limit, limit)
    return kept.astype(dtype, copy=False)


def squared_norm(x: NDArray[Any], exponent: int = 0) -> float:
    """``sum((x * 2**-exponent)**2)`` in float64, block by block in a fixed order."""
    flat, step = x.reshape(-1), _step(x)
    total = 0.0
    for start in range(0, flat.size, step):
        block = scaled(flat[start : start + step].astype(np.float64), -exponent)
        total += float(block @ block)
    return total


def norm(x: NDArray[Any]) -> float:
    """``||x||_F``; infinite only beyond float64's range."""
    exponent = binary_exponent(x)
    try:
        return math.ldexp(math.sqrt(squared_norm(x, exponent)), exponent)
    except OverflowError:
        return math.inf


def squared_distance(x: NDArray[Any], y: NDArray[Any], exponent: int = 0) -> float:
    """``sum(((x - y) * 2**-exponent)**2)`` in float64, block by block in a fixed order."""
    a, b, step = x.reshape(-1), y.reshape(-1), _step(x)
    total = 0.0
    for start in range(0, a.size, step):
        block = scaled(a[start : start + step].astype(np.float64), -exponent)  # first: differences may overflow
        block -= scaled(b[start : start + step].astype(np.float64, copy=False), -exponent)
        total += float(block @ block)
    return total


def _step(x: NDArray[Any]) -> int:
    """Elements at a time; on a GPU so many that waiting for their sum does not matter."""
    return _BLOCK if is_host(x) else _BLOCK << 8


def relative_error(W: NDArray[Any], approximation: NDArray[Any]) -> float:
    """``||W - approximation||_F / ||W||_F``; 0 if both are zero, infinite if only W is.

    Parameters
    ----------
    W, approximation : NDArray, any shape, floating
        The array and what is stored in its place.

    Examples
    --------
    >>> relative_error(np.array([[3.0, 4.0]]), np.array([[3.0, 3.0]]))
    0.2
    """
    exponent = binary_exponent(W) if W.dtype == np.float64 else 0  # float64 holds the squares of all narrower dtypes
    reference = squared_norm(W, exponent)
    distance = squared_distance(W, approximation, exponent)
    if reference == 0.0:
        return 0.0 if distance == 0.0 else math.inf
    return math.sqrt(distance / reference)


def gram_error(W: NDArray[Any], approximation: NDArray[Any], gram: NDArray[Any]) -> float:
    """``sqrt(trace(D gram D^T) / trace(W gram W^T))`` with ``D = W - approximation``, all as (m, n) matrices.

    The relative error of the layer's outputs when ``gram`` (n, n) is the second moment of its inputs.
    """
    exponent = binary_exponent(W)
    matrix = scaled(W.reshape(W.shape[0], -1).astype(np.float64), -exponent)
    lost = matrix - scaled(approximation.reshape(matrix.shape).astype(np.float64), -exponent)
    reference = float(np.einsum("ij,ij->", matrix @ gram, matrix))
    distance = max(float(np.einsum("ij,ij->", lost @ gram, lost)), 0.0)
    if reference <= 0.0:
        return 0.0 if distance == 0.0 else math.inf
    return math.sqrt(distance / reference)


def gaussian_floor(bits: float) -> float:
    """``2**(-2 * bits)``: the least relative squared error of i.i.d. Gaussian weights at ``bits`` each (Shannon)."""
    return math.pow(2.0, -2.0 * bits)


def gap_bits(bits: float, relative_squared_error: float) -> float:
    """Stored bits per weight above the Gaussian rate-distortion function: ``bits - log2(1 / D) / 2``."""
    return bits + 0.5 * math.log2(relative_squared_error)


def binary_entropy(p: float) -> float:
    """``H(p)`` in bits: the least that one entry of a random mask of density ``p`` costs."""
    if p <= 0.0 or p >= 1.0:
        return 0.0
    return -p * math.log2(p) - (1.0 - p) * math.log2(1.0 - p)


def empirical_entropy(symbols: NDArray[Any]) -> float:
    """The zeroth-order entropy of ``symbols`` (n,) of integers, in bits per symbol."""
    counts = np.unique(symbols, return_counts=True)[1]
    share = counts / counts.sum()
    return float(-(share * np.log2(share)).sum())


def density_cost(p: float) -> float:
    """Bits per entry of a random mask of density ``p`` as it is stored: coded gaps, or a bitmap."""
    return min(1.0, binary_entropy(p) * _GAP_CODE)


def density_for(bits_per_entry: float, value_bits: float) -> float:
    """The share p of kept entries at which mask and values, ``H(p) + p * value_bits``, cost ``bits_per_entry``."""
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        if density_cost(middle) + middle * value_bits < bits_per_entry:
            low = middle
        else:
            high = middle
    return low
