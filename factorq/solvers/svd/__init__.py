"""Truncated singular value decomposition of dense matrices: randomized block Krylov iteration, or LAPACK if faster.

This file is the door and the chooser. ``krylov`` and ``lapack`` each find a leading left subspace, with Rayleigh-Ritz
problems read in ``ritz``; ``orthonormal`` keeps rows orthonormal and turns a subspace into factors; ``scaling`` keeps
squares clear of over- and underflow and measures what is left.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...arrays import Array, beside, dtype_name, is_array, is_host, namespace, on_device, to_host
from ...errors import refuse, refuse_type
from .krylov import krylov_subspace, plan
from .lapack import lapack_subspace
from .orthonormal import factors
from .ritz import Subspace, precision
from .scaling import kind_of, normalise, residual, unscale

__all__ = ["SVDResult", "truncated_svd"]


@dataclass(frozen=True)
class SVDResult:
    """``W ~ (U * s) @ Vt``, the best approximation of that rank up to ``excess``.

    Attributes
    ----------
    U : (m, r) orthonormal columns, the entry of largest magnitude in each positive.
    s : (r,) singular values, descending.
    Vt : (r, n) orthonormal rows.
    steps : int
        Krylov blocks used, 0 if LAPACK did the work.
    residual : float
        ``||W - (U * s) @ Vt|| / ||W||``, Frobenius, 0 for a zero W.
    excess : float
        Estimated share by which the residual is above the smallest one of this rank (NaN if too few blocks to tell).
    status : str
        What was done and what to change, for a person.
    """

    U: NDArray[Any]
    s: NDArray[Any]
    Vt: NDArray[Any]
    steps: int
    residual: float
    excess: float
    status: str


def truncated_svd(
    W: Array,
    rank: int,
    *,
    tol: float | None = None,
    rng: np.random.Generator,
    max_blocks: int | None = None,
) -> SVDResult:
    """``W (m, n) ~ U (m, r) diag(s) Vt (r, n)``: the truncated SVD by randomized block Krylov iteration, or LAPACK.

    Parameters
    ----------
    W : (m, n) array of float32 or float64
        Never changed; copied only if it is neither C- nor F-contiguous. A CuPy array is decomposed on its GPU, and so
        is any other where it is; small eigenproblems, of the size of the basis, are solved on the host.
    rank : int
        From 1 to min(m, n).
    tol : float, optional
        Continue until ``||W - W_r||`` is estimated to be within a share ``tol`` of the smallest possible; 0 means to
        the precision of the dtype. By default 6 or 7 blocks, and more where the estimate is above
        0.5 %: an error at or below that of a power iteration with n_iter=7.
    rng : numpy.random.Generator
        Start block. The same state gives the same result, bit for bit, on one machine.
    max_blocks : int, optional
        Limit on the Krylov blocks of about ``rank / 2 + 8`` rows; by default 14 without ``tol``, else as many as
        pay; never fewer than hold the rank.

    Returns
    -------
    SVDResult
        In W's dtype, library and memory.

    Raises
    ------
    ArgumentError
        If ``rank``, ``tol`` or ``max_blocks`` is out of range, or if a singular value is too large for W's dtype.
    ArgumentTypeError
        If ``W`` is not a float32 or float64 matrix of an array library, or ``rng`` no generator.

    Notes
    -----
    Extra memory: about ``(m + n) * blocks * (rank / 2 + 8)`` numbers of W's dtype, up to 2.5 times that while it grows.
    No float64 copy of a float32 W: LAPACK takes ``min(m, n) ** 2`` float64 numbers, and a copy of W in W's dtype if
    ``tol`` asks for full precision.

    Examples
    --------
    >>> W = np.outer([3.0, 0.0, 4.0], [0.0, 1.0])
    >>> truncated_svd(W, 1, rng=np.random.default_rng(0)).s
    array([5.])
    """
    W = _check(W, rank, tol, rng, max_blocks)
    with on_device(W):
        return _decomposed(W, rank, tol, rng, max_blocks)


def _decomposed(W: Array, rank: int, tol: float | None, rng: np.random.Generator, max_blocks: int | None) -> SVDResult:
    wide = W.shape[0] <= W.shape[1]
    A = W if wide else W.T  # the basis lies on the smaller side: orthogonalisation costs its length
    scale, energy = normalise(A)
    if energy == 0:
        return _zero(W, rank)
    # A stream of its own: if W was drawn from the same seed, a start block of W's own numbers would not be random.
    rng = np.random.default_rng(rng.integers(1 << 63, size=2))
    found = _search(A, scale, energy, rank, tol, rng, max_blocks)
    U, s, Vt = factors(found.left, found.images, rng)
    rest = residual(A, scale, energy, U, s, Vt)
    left, right = (U, Vt) if wide else (Vt, U)
    xp, kind = namespace(W), kind_of(W)
    largest = xp.argmax(xp.abs(left), axis=1) + left.shape[1] * xp.arange(rank)
    peak = to_host(xp.take(xp.reshape(left, (-1,)), largest))
    sign = beside(np.where(peak < 0, -1, 1).astype(kind), W)[:, None]
    s = beside(unscale(s, scale, kind), W)
    return SVDResult((left * sign).T, s, right * sign, found.steps, rest, found.excess, found.status)


def _check(W: Array, rank: int, tol: float | None, rng: np.random.Generator, max_blocks: int | None) -> Array:
    """``W`` in a layout that BLAS takes, after the checks of the arguments."""
    if not is_array(W) or len(W.shape) != 2 or dtype_name(W) not in ("float32", "float64"):
        found = f"{getattr(W, 'dtype', type(W).__name__)} of shape {getattr(W, 'shape', None)}"
        raise refuse_type("W", found=found, allowed="a float32 or float64 matrix", remedy="cast or fold it first")
    if not isinstance(rng, np.random.Generator):
        raise refuse_type("rng", found=type(rng).__name__, allowed="a numpy.random.Generator")
    if not 1 <= rank <= min(W.shape):
        raise refuse("rank", found=rank, allowed=f"an integer from 1 to min(m, n) = {min(W.shape)}")
    if tol is not None and not 0 <= tol < math.inf:
        raise refuse("tol", found=tol, allowed="None or a number of at least 0")
    if max_blocks is not None and max_blocks < 1:
        raise refuse("max_blocks", found=max_blocks, allowed="None or an integer of at least 1")
    if not is_host(W) or W.flags.c_contiguous or W.flags.f_contiguous:
        return W
    return np.ascontiguousarray(W)


def _search(
    A: Array,
    scale: float,
    energy: float,
    rank: int,
    tol: float | None,
    rng: np.random.Generator,
    max_blocks: int | None,
) -> Subspace:
    """The leading left subspace of ``A`` (m, n), m <= n, by whichever way is faster."""
    m, n = A.shape
    width, usual = plan(rank)
    # Seconds by the rates measured on one core: GEMM 9e10 flop/s in float32, half in float64; eigh 0.18e-9 m^3.
    iterating = 4 * usual * width * m * n / 9e10 + 2e-10 * (usual * width) ** 3
    factoring = m * m * n / 2.5e10 + 1.8e-10 * m**3
    if usual * width >= m or (max_blocks is None and factoring < iterating):
        return lapack_subspace(A, scale, rank, exact=tol is not None and tol < 1e-6)
    # A basis beyond half of the whole space costs more than LAPACK.
    worth = min(2 * usual, m // width) if tol is None else max(usual, m // (2 * width))
    found = krylov_subspace(A, scale, energy, rank, width, tol, rng, max_blocks or worth)
    if found.multiple and (rank + 4) * usual > m:
        return lapack_subspace(A, scale, rank, exact=tol is not None and tol < 1e-6)
    if found.multiple:
        found = krylov_subspace(A, scale, energy, rank, rank + 4, tol, rng, max_blocks or worth)
    if tol is None or max_blocks is not None or found.excess <= max(tol, precision(kind_of(A))):
        return found
    return lapack_subspace(A, scale, rank, exact=tol < 1e-6)


def _zero(W: Array, rank: int) -> SVDResult:
    xp, (m, n), dtype = namespace(W), W.shape, W.dtype
    return SVDResult(
        xp.eye(m, rank, dtype=dtype),
        xp.zeros(rank, dtype=dtype),
        xp.eye(rank, n, dtype=dtype),
        0,
        0.0,
        0.0,
        "exact: W is zero",
    )
