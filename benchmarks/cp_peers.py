"""Tensors for ``cp.py``, and what others make of them: TensorLy's parafac, as it is and rounded."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from processes import Row, attempted, memory_mib
from threadpoolctl import threadpool_limits

Floats = NDArray[Any]
SCALES = np.linspace(0.2, 1.2, 200)  # of the largest magnitude: the search of the published quantizer


# --- tensors --------------------------------------------------------------------------------------------------------


def planted(shape: Sequence[int], rank: int) -> Floats:
    """``4 rank`` unit-norm terms of weights ``i ** -0.5``, norm 1 in all, and Gaussian noise of norm 0.1."""
    rng = np.random.default_rng(0)
    factors = [rng.standard_normal((n, 4 * rank)) for n in shape]
    units = [F / np.linalg.norm(F, axis=0) for F in factors]
    X = outer(np.arange(1, 4 * rank + 1) ** -0.5, units)
    return np.asarray(X / np.linalg.norm(X) + noise(rng, shape, 0.1), np.float32)


def gaussian(shape: Sequence[int], rank: int) -> Floats:
    return np.random.default_rng(0).standard_normal(shape, np.float32)


def integers(shape: Sequence[int], rank: int) -> Floats:
    """At most 33 terms whose factors are integers -7 .. 7: what 4 bits hold exactly; float64."""
    rng, terms = np.random.default_rng(0), min(rank, 33)
    return outer(np.ones(terms), [rng.integers(-7, 8, (n, terms)).astype(np.float64) for n in shape])


def collinear(shape: Sequence[int], rank: int) -> Floats:
    """Columns that are one vector per mode and noise of a tenth of its norm; noise of 1 % on the sum."""
    rng = np.random.default_rng(0)
    factors = [rng.standard_normal((n, 1)) + 0.1 * rng.standard_normal((n, rank)) for n in shape]
    X = outer(np.ones(rank), factors)
    return np.asarray(X / np.linalg.norm(X) + noise(rng, shape, 0.01), np.float32)


def outer(weights: Floats, factors: Sequence[Floats]) -> Floats:
    """``X[i, j, k] = sum_r w[r] A[i, r] B[j, r] C[k, r]``."""
    A, B, C = (F.astype(np.float64) for F in factors)
    X = np.empty((len(A), len(B), len(C)))
    for k, row in enumerate(C):
        X[:, :, k] = (A * (weights * row)) @ B.T
    return X


def noise(rng: np.random.Generator, shape: Sequence[int], norm: float) -> Floats:
    N = rng.standard_normal(shape)
    return N * (norm / np.linalg.norm(N))


def kernel(path: Path, name: str) -> Floats:
    """A convolution's weight (O, I, kh, kw) of a checkpoint."""
    from safetensors.numpy import load_file

    return np.ascontiguousarray(load_file(path)[name], np.float32)


def as_modes(W: Floats) -> Floats:
    """A convolution's weight as (O, I, kh * kw)."""
    return W.reshape(*W.shape[:2], -1)


def relative_error(X: Floats, weights: Floats, factors: Sequence[Floats]) -> float:
    """``||X - P|| / ||X||``, slice by slice of the last axis, in float64."""
    A, B, C = (F.astype(np.float64) for F in factors)
    lost = sum(
        float(np.sum((X[:, :, k].astype(np.float64) - (A * (weights * row)) @ B.T) ** 2)) for k, row in enumerate(C)
    )
    return float(np.sqrt(lost / np.sum(np.square(X, dtype=np.float64))))


# --- TensorLy -------------------------------------------------------------------------------------------------------


def parafac(X: Floats, rank: int, iterations: int, init: Any = "random") -> tuple[Floats, list[Floats]]:
    """Weights and factors after so many iterations, none of them spent on the error."""
    from tensorly.decomposition import parafac

    options = {"n_iter_max": iterations, "tol": 0, "normalize_factors": False, "random_state": 0}
    found = parafac(X, rank, init=init, **options)
    return np.asarray(found.weights), [np.asarray(F) for F in found.factors]


def normalized(weights: Floats, factors: Sequence[Floats]) -> tuple[Floats, list[Floats]]:
    """Columns of norm 1, as parafac's ``normalize_factors`` has them: one scale per factor then serves all of them.

    With the factors as they are, rounding leaves up to twice the error: 0.62 instead of 0.54 at 4 bits, 64x64x9.
    """
    lengths = [np.linalg.norm(F.astype(np.float64), axis=0) for F in factors]
    units = [F / np.where(n > 0, n, 1.0) for F, n in zip(factors, lengths, strict=True)]
    return weights * np.prod(lengths, axis=0), units


def rounded(F: Floats, bits: int, search: bool) -> Floats:
    """F on a grid of ``2 ** bits`` levels whose scale is that of its largest magnitude, or of least squared error.

    Two's complement levels, as in the published quantizer.
    """
    q = 2.0 ** (bits - 1)
    top = 2.0 * float(np.abs(F).max(initial=0.0)) / (2.0**bits - 1.0) or 1.0
    tried = (np.clip(np.rint(F / s), -q, q - 1.0) * s for s in (SCALES * top if search else (top,)))
    return min(tried, key=lambda Q: float(np.sum((F - Q) ** 2)))


def parafac_rows(path: Path, rank: int, iterations: int, bits: Sequence[int]) -> Row:
    """parafac of the array in a file, rounded to each number of bits with both scales: rows under "rows".

    Seconds are those of parafac, which runs once, and of rounding; ``real_error`` is what it leaves before that.
    Stored: the integers, a float16 weight per term.
    """
    with threadpool_limits(1):
        X = as_modes(np.load(path))
        attempted(partial(first_call, X))
        memory = memory_before()
        start = time.process_time()
        weights, factors = normalized(*parafac(X, rank, iterations))
        spent = time.process_time() - start
        memory["peak_mib"] = memory_mib("VmHWM")
        memory["real_error"] = relative_error(X, weights, factors)
        rows: list[Row] = []
        for b in bits:
            for search in (False, True):
                start = time.process_time()
                Q = [rounded(F, b, search) for F in factors]
                seconds = spent + time.process_time() - start
                method = f"parafac, rounded, {'MSE' if search else 'max'} scale"
                row = {"method": method, "bits": b, "bits_per_weight": rank * (b * sum(X.shape) + 16) / X.size}
                row |= {"relative_error": relative_error(X, weights, Q), "seconds": seconds, "iterations": iterations}
                rows.append(row | memory)
    return {"rows": rows}


def first_call(X: Floats) -> Row:
    """Imports and first calls are not measured."""
    parafac(np.ascontiguousarray(X[:4, :4, :4]), 2, 1)
    return {}


# --- rows -----------------------------------------------------------------------------------------------------------


def as_text(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


def short(row: Row) -> Row:
    """Floats of five significant digits."""
    return {k: float(f"{v:.5g}") if isinstance(v, float) else v for k, v in row.items()}


def memory_before() -> Row:
    """What this process holds now; its peak counts from here, where Linux lets it."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return {"before_mib": memory_mib("VmRSS")}
