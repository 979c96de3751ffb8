"""Truncated singular value decomposition of dense matrices by randomized block Krylov iteration.

With ``Q`` (d, m) an orthonormal basis (rows) of the Krylov space of ``W W^T`` started at ``W Omega``, the images
``Z = Q W`` (d, n) are products that the iteration has formed anyway: ``W Z^T`` is where the next block comes from, and
``T = Z Z^T = Q W W^T Q^T`` is the Rayleigh-Ritz problem. With ``E`` its top eigenvectors, ``U = Q^T E`` and
``U^T W = E^T Z``: no further pass over W. A pass is one GEMM with thin *rows* (row form ran 79 GFLOP/s at width 32 and
93 at width 64, where columns gave 70 and 84).

Blocks have about half the rank's width: thin blocks have a polynomial of higher degree per product, wide ones faster
GEMM and less orthogonalisation per row. 4096 x 4096 Gaussian, rank 256, excess error and seconds of the iteration:
width 64 0.33 % 0.73 s, 136 0.21 % 0.74 s, 192 0.34 % 0.74 s, 260 0.31 % 0.81 s. A singular value of higher multiplicity
than the width is found only as often as the width; the Ritz values show it, and the search then starts again with
blocks wider than the rank.

Sources: Musco and Musco, Randomized block Krylov methods (2015), algorithm 2; Stathopoulos and Wu, A block
orthogonalization procedure with constant synchronization requirements (2002).
"""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from ..errors import refuse, refuse_type

Array = NDArray[Any]

_LOOSE = 0.005  # estimated excess from which the default takes up to twice its blocks: a plateau just above a slow tail
_TIGHT = 2e-3  # as many Ritz values as the block is wide within this share of each other: a multiple singular value

_CHUNK = 1 << 20  # elements of W that are scaled or widened at a time


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

    U: Array
    s: Array
    Vt: Array
    steps: int
    residual: float
    excess: float
    status: str


@dataclass(frozen=True)
class _Subspace:
    """Left vectors (r, m) in rows, their images ``left @ (scale * W)`` (r, n), and how they were found."""

    left: Array
    images: Array
    steps: int
    excess: float
    status: str
    multiple: bool = False


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
        Never changed; copied only if it is neither C- nor F-contiguous.
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
        In W's dtype.

    Raises
    ------
    ArgumentError
        If ``rank``, ``tol`` or ``max_blocks`` is out of range, or if a singular value is too large for W's dtype.
    ArgumentTypeError
        If ``W`` is not a float32 or float64 matrix, or ``rng`` no generator.

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
    wide = W.shape[0] <= W.shape[1]
    A = W if wide else W.T  # the basis lies on the smaller side: orthogonalisation costs its length
    scale, energy = _scale(A)
    if energy == 0:
        return _zero(W, rank)
    # A stream of its own: if W was drawn from the same seed, a start block of W's own numbers would not be random.
    rng = np.random.default_rng(rng.integers(1 << 63, size=2))
    found = _search(A, scale, energy, rank, tol, rng, max_blocks)
    U, s, Vt = _factors(found.left, found.images, rng)
    residual = _residual(A, scale, energy, U, s, Vt)
    left, right = (U, Vt) if wide else (Vt, U)
    peak = left[np.arange(rank), np.abs(left).argmax(axis=1)]
    sign = np.where(peak < 0, -1, 1).astype(W.dtype)[:, None]
    return SVDResult(
        (left * sign).T, _unscale(s, scale, W.dtype), right * sign, found.steps, residual, found.excess, found.status
    )


def _check(W: Array, rank: int, tol: float | None, rng: np.random.Generator, max_blocks: int | None) -> Array:
    """``W`` in a layout that BLAS takes, after the checks of the arguments."""
    if not isinstance(W, np.ndarray) or W.ndim != 2 or W.dtype not in (np.float32, np.float64):
        found = f"{getattr(W, 'dtype', type(W).__name__)} of shape {getattr(W, 'shape', None)}"
        raise refuse_type("W", found=found, allowed="a float32 or float64 NumPy matrix", remedy="cast or fold it first")
    if not isinstance(rng, np.random.Generator):
        raise refuse_type("rng", found=type(rng).__name__, allowed="a numpy.random.Generator")
    if not 1 <= rank <= min(W.shape):
        raise refuse("rank", found=rank, allowed=f"an integer from 1 to min(m, n) = {min(W.shape)}")
    if tol is not None and not 0 <= tol < math.inf:
        raise refuse("tol", found=tol, allowed="None or a number of at least 0")
    if max_blocks is not None and max_blocks < 1:
        raise refuse("max_blocks", found=max_blocks, allowed="None or an integer of at least 1")
    return W if W.flags.c_contiguous or W.flags.f_contiguous else np.ascontiguousarray(W)


def _search(
    A: Array,
    scale: Array,
    energy: float,
    rank: int,
    tol: float | None,
    rng: np.random.Generator,
    max_blocks: int | None,
) -> _Subspace:
    """The leading left subspace of ``A`` (m, n), m <= n, by whichever way is faster."""
    m, n = A.shape
    width, usual = _plan(rank)
    # Seconds by the rates measured on one core: GEMM 9e10 flop/s in float32, half in float64; eigh 0.18e-9 m^3.
    krylov = 4 * usual * width * m * n / 9e10 + 2e-10 * (usual * width) ** 3
    direct = m * m * n / 2.5e10 + 1.8e-10 * m**3
    if usual * width >= m or (max_blocks is None and direct < krylov):
        return _direct(A, scale, rank, exact=tol is not None and tol < 1e-6)
    # A basis beyond half of the whole space costs more than LAPACK.
    worth = min(2 * usual, m // width) if tol is None else max(usual, m // (2 * width))
    found = _krylov(A, scale, energy, rank, width, tol, rng, max_blocks or worth)
    if found.multiple and (rank + 4) * usual > m:
        return _direct(A, scale, rank, exact=tol is not None and tol < 1e-6)
    if found.multiple:
        found = _krylov(A, scale, energy, rank, rank + 4, tol, rng, max_blocks or worth)
    if tol is None or max_blocks is not None or found.excess <= max(tol, _floor(A.dtype)):
        return found
    return _direct(A, scale, rank, exact=tol < 1e-6)


def _plan(rank: int) -> tuple[int, int]:
    """Rows of a block and number of blocks: the cheapest that beat ``n_iter=7`` on a 4096 x 4096 Gaussian matrix.

    Excess error in % against the peer's, at ranks 8, 64, 128, 256, 320 and 512: 0.01 0.11 0.20 0.24 0.32 0.28 against
    0.02 0.14 0.22 0.30 0.33 0.38. A multiple of 4 suits the GEMM.
    """
    half = 4 * -(-rank // 8)
    if rank <= 16:
        return half + 8, 6
    return (half + 8, 7) if rank <= 64 else (half + 4, 7) if rank <= 256 else (half + 24, 6)


def _krylov(
    A: Array,
    scale: Array,
    energy: float,
    rank: int,
    width: int,
    tol: float | None,
    rng: np.random.Generator,
    blocks: int,
) -> _Subspace:
    """Rayleigh-Ritz on the rows of the block Krylov space, at most ``blocks`` blocks of ``width`` rows."""
    m, n = A.shape
    few = -(-rank // width)
    blocks = max(blocks, few)
    room = min(m, blocks * width)
    target = max(_LOOSE if tol is None else tol / 2, _floor(A.dtype))  # half: the estimate errs by a factor of 1.5
    rows = min(room, _plan(rank)[1] * width)
    Q, Z, T = np.empty((rows, m), A.dtype), np.empty((rows, n), A.dtype), np.zeros((rows, rows))
    ends = [0]
    Y = (rng.standard_normal((width, n), dtype=A.dtype.type) * scale) @ A.T
    check, excess = few if tol is not None else min(blocks, _plan(rank)[1]), math.nan
    values, E = np.empty(0), np.empty((0, 0))
    while True:
        low = ends[-1]
        if low + min(width, room - low) > len(Q):
            rows = min(room, len(Q) + len(Q) // 2 + width)
            Q, Z, T = _grown(Q, rows, m), _grown(Z, rows, n), _grown(T, rows, rows)
        new = _orthonormal(Y[: room - low], Q[:low], rng)
        high = low + len(new)
        Q[low:high] = new
        np.matmul(new * scale, A, out=Z[low:high])
        T[low:high, :high] = Z[low:high] @ Z[:high].T
        T[:low, low:high] = T[low:high, :low].T
        ends.append(high)
        step = len(ends) - 1
        if step >= check or high == room:
            values, E = _top(T[:high, :high], rank, energy, A.dtype)
            excess, ratio = _excess(T[:high, :high], values, E, ends, energy, _floor(A.dtype))
            if high == m:
                excess = 0.0
            if high == room or excess <= target:
                break
            check = step + _steps_to(target, excess, ratio, step)
        Y = (Z[low:high] * scale) @ A.T
    high = len(E)
    lead = E.T.astype(A.dtype)
    steps = len(ends) - 1
    multiple = False
    if rank >= width:
        first, last = values[: rank - width + 1], values[width - 1 :]
        multiple = bool(np.any(last > np.maximum((1 - _TIGHT) * first, _floor(A.dtype) * values[0])))
    status = _advice(steps, width, excess, tol, A.dtype)
    return _Subspace(lead @ Q[:high], lead @ Z[:high], steps, excess, status, multiple)


def _grown(X: Array, rows: int, columns: int) -> Array:
    """``X`` in the corner of a larger array of zeros."""
    larger = np.zeros((rows, columns), X.dtype)
    larger[: X.shape[0], : X.shape[1]] = X
    return larger


def _top(T: Array, rank: int, energy: float, dtype: np.dtype[Any]) -> tuple[Array, Array]:
    """Top ``rank`` eigenvalues, descending, and eigenvectors (d, rank) of the symmetric ``T`` (d, d)."""
    # float32 takes half the time (1024: 0.08 s against 0.15 s); taken if its rounding is small
    # against what no row holds.
    rounding = rank * float(np.finfo(np.float32).eps) * float(np.linalg.norm(T))
    single = dtype == np.float32 and rounding < 1e-3 * (energy - float(np.trace(T)))
    values, E = _leading(T.astype(np.float32) if single else T, rank)
    return values.astype(np.float64), E.astype(np.float64)


def _leading(S: Array, rank: int) -> tuple[Array, Array]:
    """Top ``rank`` eigenvalues, descending, and eigenvectors (d, rank) of the symmetric ``S`` (d, d)."""
    d = len(S)
    if 4 * rank <= 3 * d:
        with suppress(np.linalg.LinAlgError):
            values, E = linalg.eigh(S, subset_by_index=(d - rank, d - 1), driver="evr", check_finite=False)
            if len(values) == rank:  # clusters of exactly equal values come back short or fail
                return values[::-1], E[:, ::-1]
    values, E = np.linalg.eigh(S)
    return values[: -rank - 1 : -1], E[:, : -rank - 1 : -1]


def _excess(T: Array, values: Array, E: Array, ends: list[int], energy: float, eps: float) -> tuple[float, float]:
    """Estimated share of excess error, and the factor by which a block reduces it.

    The energy that the last block and the last two blocks have won decays geometrically; the rest of the series is
    what is still missing.
    """
    if len(ends) < 4:
        return math.nan, math.nan
    one, two = (_won(T, values, E, ends[-1] - ends[-1 - k]) for k in (1, 2))
    ratio = min(one / max(two - one, one, 1e-300), 0.9)
    missing = one * ratio / (1 - ratio)
    residual = max(energy - float(values.sum()), 0.0)
    best = max(residual - missing, (64 * eps) ** 2 * energy)  # rounding keeps the residual above this
    return math.sqrt(1 + missing / best) - 1, ratio


def _won(T: Array, values: Array, E: Array, rows: int) -> float:
    """Energy that the ``r`` leading Ritz values owe to the last ``rows`` basis rows."""
    L = E[-rows:]
    if np.sum(L * L * values) > 1e-3 * np.sum(values):
        less = np.linalg.eigvalsh(T[:-rows, :-rows].astype(np.float32))  # two digits of the difference are enough
        return max(float(values.sum() - less[-len(values) :].sum(dtype=np.float64)), 0.0)
    # First order in L: tr(L diag(values) L^T) - tr(L^T T_22 L), free of cancellation between large energies.
    return max(float(np.sum(L * (L * values)) - np.sum(L * (T[-rows:, -rows:] @ L))), 0.0)


def _steps_to(target: float, excess: float, ratio: float, step: int) -> int:
    """Blocks until the next look at the excess: two thirds of what the present rate asks for, up to ``step / 4``."""
    if not (0 < ratio < 1 and excess > 0):
        return 1
    wanted = int(math.log(target / excess) / math.log(ratio) * 2 / 3)
    return max(1, min(wanted, step // 4))  # the rate improves as the space grows


def _floor(dtype: np.dtype[Any]) -> float:
    """The smallest excess worth working for: below it lies the rounding of the result itself."""
    return float(np.finfo(dtype).eps)


def _direct(A: Array, scale: Array, rank: int, *, exact: bool) -> _Subspace:
    """The leading left subspace of ``A`` by LAPACK: eigenvectors of the float64 Gram matrix, or a full SVD."""
    m, n = A.shape
    double = A.dtype == np.float64
    if not (double and exact):
        G = np.zeros((m, m))
        step = max(1, _CHUNK // m)
        for start in range(0, n, step):
            B = A[:, start : start + step].astype(np.float64) * scale
            G += B @ B.T
        values, E = _leading(G, rank)
        if not double or values[-1] > 1e-10 * values[0]:  # the Gram matrix has half the digits of the spectrum
            left = np.ascontiguousarray(E.T, dtype=A.dtype)
            return _Subspace(left, (left * scale) @ A, 0, 0.0, "exact: eigenvectors of the Gram matrix (LAPACK)")
    U, s, Vt = linalg.svd(A * scale, full_matrices=False, check_finite=False)
    left = np.ascontiguousarray(U[:, :rank].T)
    return _Subspace(left, s[:rank, None] * Vt[:rank], 0, 0.0, "exact: full singular value decomposition (LAPACK)")


def _orthonormal(Y: Array, Q: Array, rng: np.random.Generator, noise: float = 64.0) -> Array:
    """Orthonormal rows that span the part of ``Y`` (b, k) outside the rows of ``Q`` (d, k), filled up at random.

    Projection and Cholesky of the Gram matrix, repeated until well conditioned ("twice is enough"). Directions that
    cancel to below ``noise`` units of rounding become random ones: an exhausted Krylov space starts afresh, which also
    finds further copies of a multiple singular value. ``Y`` is used up.
    """
    eps = float(np.finfo(Y.dtype).eps)
    before = float(_norms(Y).max())
    for attempt in range(8):
        if len(Q):
            Y -= (Y @ Q.T) @ Q
        G = (Y @ Y.T).astype(np.float64)
        norms = np.sqrt(G.diagonal())
        floor = noise * eps * before if attempt == 0 else 64 * eps
        L = _cholesky(G / np.outer(norms, norms)) if norms.min() > floor else None
        if L is not None and L.diagonal().min() > 30 * math.sqrt(eps):
            X = linalg.solve_triangular(L, np.diag(1 / norms), lower=True, check_finite=False)
            Y = X.astype(Y.dtype) @ Y
            # One pass loses eps * before / norm against Q: a second one only where that is more than a digit.
            if L.diagonal().min() > (0.2 if len(Q) else 0.9) and (
                len(Q) == 0 or attempt > 0 or norms.min() > 0.05 * before
            ):
                return Y
            continue
        Y = (
            np.linalg.eigh(G)[1][:, ::-1].T.astype(Y.dtype) @ Y
        )  # principal directions: graded rows, mutually orthogonal
        norms = _norms(Y)
        weak = norms <= floor
        Y[weak] = rng.standard_normal((int(weak.sum()), Y.shape[1]), dtype=Y.dtype.type)
        Y /= _norms(Y)[:, None]
    return np.ascontiguousarray(linalg.qr(Y.T, mode="economic", check_finite=False)[0].T)


def _cholesky(G: Array) -> Array | None:
    """Lower Cholesky factor, or None if ``G`` is not numerically positive definite."""
    try:
        return np.linalg.cholesky(G)
    except np.linalg.LinAlgError:
        return None


def _norms(Y: Array) -> Array:
    return np.asarray(np.sqrt(np.vecdot(Y, Y)))


def _factors(left: Array, images: Array, rng: np.random.Generator) -> tuple[Array, Array, Array]:
    """``left^T images = U^T diag(s) V`` with orthonormal rows ``U`` (r, m), ``V`` (r, n), and float64 ``s`` (r,)."""
    eps = float(np.finfo(left.dtype).eps)
    G = (left @ left.T).astype(np.float64)
    if np.abs(G - np.eye(len(G))).max() > 4 * eps:  # the basis may have lost a digit; the projection must not
        X = linalg.solve_triangular(np.linalg.cholesky(G), np.eye(len(G)), lower=True, check_finite=False)
        left, images = X.astype(left.dtype) @ left, X.astype(left.dtype) @ images
    V = _orthonormal(images.copy(), images[:0], rng, noise=1.0)
    R = (images @ V.T).astype(np.float64)
    s = R.diagonal()
    if np.linalg.norm(R - np.diag(s)) > 8 * eps * np.linalg.norm(s) or np.any(s[1:] > s[:-1]) or s[-1] < 0:
        X, s, Yt = linalg.svd(R, check_finite=False)
        left, V = X.T.astype(left.dtype) @ left, Yt.astype(left.dtype) @ V
    return left, s, V


def _scale(A: Array) -> tuple[Array, float]:
    """A power of two that brings ``||A||`` near 1 (as a scalar of A's dtype), and the energy ``||scale * A||^2``."""
    B = A if A.flags.c_contiguous else A.T
    one = B.dtype.type(1)
    with np.errstate(over="ignore", under="ignore"):
        energy = float(np.vecdot(B, B).sum(dtype=np.float64))
    coarse = one
    if not 1e-20 < energy < 1e30:  # squares over- or underflow: bring the largest entry near 1 first
        peak = max(float(B.max()), -float(B.min()))
        if peak == 0:
            return one, 0.0
        coarse = _power(-math.frexp(peak)[1], B.dtype)
        rows = max(1, _CHUNK // B.shape[1])
        parts = [B[k : k + rows] * coarse for k in range(0, len(B), rows)]
        energy = float(np.concatenate([np.vecdot(part, part) for part in parts]).sum(dtype=np.float64))
    scale = _power(-math.frexp(math.sqrt(energy))[1] + math.frexp(float(coarse))[1] - 1, B.dtype)
    return scale, energy * (float(scale) / float(coarse)) ** 2


def _power(exponent: int, dtype: np.dtype[Any]) -> Any:
    """``2 ** exponent`` in ``dtype``, kept clear of over- and underflow."""
    limit = 120 if dtype == np.float32 else 1000
    return dtype.type(math.ldexp(1.0, max(-limit, min(limit, exponent))))


def _unscale(s: Array, scale: Array, dtype: np.dtype[Any]) -> Array:
    with np.errstate(over="ignore", under="ignore"):
        result = (s / float(scale)).astype(dtype)
    if not np.isfinite(result).all():
        remedy = "scale W down by a power of two first"
        raise refuse(
            "W",
            found="a singular value beyond the dtype",
            allowed=f"||W|| below {np.finfo(dtype).max:.2g}",
            remedy=remedy,
        )
    return np.asarray(result)


def _residual(A: Array, scale: Array, energy: float, U: Array, s: Array, V: Array) -> float:
    """``||A - U^T diag(s) V|| / ||A||``: from the energies, or entry by entry where those would cancel."""
    share = 1 - float(np.sum(s**2)) / energy
    if share > 1e-3:
        return math.sqrt(share)
    total = 0.0
    left = (U * s[:, None]).astype(A.dtype)
    rows = max(1, _CHUNK // A.shape[1])
    for start in range(0, len(A), rows):
        D = A[start : start + rows] * scale - left[:, start : start + rows].T @ V
        total += float(np.vecdot(D, D).sum(dtype=np.float64))
    return math.sqrt(total / energy)


def _zero(W: Array, rank: int) -> SVDResult:
    (m, n), dtype = W.shape, W.dtype
    return SVDResult(
        np.eye(m, rank, dtype=dtype),
        np.zeros(rank, dtype),
        np.eye(rank, n, dtype=dtype),
        0,
        0.0,
        0.0,
        "exact: W is zero",
    )


def _advice(steps: int, width: int, excess: float, tol: float | None, dtype: np.dtype[Any]) -> str:
    text = f"randomized block Krylov, {steps} block{'s' if steps > 1 else ''} of {width}: "
    if math.isnan(excess):
        return text + "too few blocks to estimate the excess error; raise max_blocks"
    if excess <= _floor(dtype):
        return text + "exact to the precision of the dtype"
    text += f"estimated excess error {100 * excess:.2g} %"
    if tol is None:
        return text + "; pass tol= for more"
    return text if excess <= tol else text + f", above tol={tol:g}; raise max_blocks"
