"""Truncated SVD: error above the optimum, CPU seconds and peak memory, against scikit-learn and PROPACK in one run.

The power-law matrix ``U diag(i^-0.7) V^T`` and the Gaussian one are generated here; the optimum is the float64 spectrum
of the float32 matrix's Gram matrix, computed once per matrix. One BLAS thread.

    python benchmarks/truncated_svd.py [--quick] [--repeats 5]
"""

from __future__ import annotations

import argparse
import math
import tracemalloc
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from common import measure, table, write
from scipy import linalg
from scipy.sparse.linalg import svds
from sklearn.utils.extmath import randomized_svd
from threadpoolctl import threadpool_limits

from factorq.solvers.svd import truncated_svd

COLUMNS = ["matrix", "rank", "method", "relative_error", "excess_percent", "seconds", "ratio", "peak_mib"]
Factors = tuple[np.ndarray, np.ndarray, np.ndarray]


def gaussian(m: int, n: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((m, n), dtype=np.float32)


def power_law(m: int, n: int) -> np.ndarray:
    """Singular values ``i ** -0.7`` with random singular vectors, ``m <= n``."""
    rng = np.random.default_rng(2)
    U = np.linalg.qr(rng.standard_normal((m, m), dtype=np.float32))[0]
    V = np.linalg.qr(rng.standard_normal((n, m), dtype=np.float32))[0]
    return (U * np.arange(1, m + 1, dtype=np.float32) ** -0.7) @ V.T


def energies(W: np.ndarray) -> np.ndarray:
    """Squared singular values of ``W`` (m, n), m <= n, descending, from the float64 Gram matrix."""
    G = np.zeros((len(W), len(W)))
    for start in range(0, W.shape[1], 2048):
        B = W[:, start : start + 2048].astype(np.float64)
        G += B @ B.T
    return np.maximum(linalg.eigvalsh(G)[::-1], 0)


def squared_error(W: np.ndarray, factors: Factors) -> float:
    """``||W - (U * s) @ Vt||^2`` in float64, 256 rows at a time."""
    U, s, Vt = (np.asarray(x, np.float64) for x in factors)
    return sum(float(np.sum((W[k : k + 256] - (U[k : k + 256] * s) @ Vt) ** 2)) for k in range(0, len(W), 256))


def ours(W: np.ndarray, rank: int, tol: float | None) -> Factors:
    F = truncated_svd(W, rank, tol=tol, rng=np.random.default_rng(0))
    return F.U, F.s, F.Vt


def peer(W: np.ndarray, rank: int, n_iter: int) -> Factors:
    return randomized_svd(W, rank, n_iter=n_iter, random_state=0)


def propack(W: np.ndarray, rank: int) -> Factors:
    return svds(W, rank, solver="propack", rng=np.random.default_rng(0))


def peak_mib(call: Callable[[], object]) -> float:
    """Peak memory that NumPy took during one call, result included, in MiB (what LAPACK wrappers take is not seen)."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1] / 2**20
    finally:
        tracemalloc.stop()


def compare(
    name: str, W: np.ndarray, rank: int, spectrum: np.ndarray, repeats: int, exact: bool
) -> list[dict[str, Any]]:
    calls: dict[str, Callable[[], Factors]] = {
        "scikit-learn n_iter=4": partial(peer, W, rank, 4),
        "scikit-learn n_iter=7": partial(peer, W, rank, 7),
        "factorq": partial(ours, W, rank, None),
        "factorq tol=1e-3": partial(ours, W, rank, 1e-3),
    }
    if exact:
        calls["PROPACK (exact)"] = partial(propack, W, rank)
        calls["factorq tol=0"] = partial(ours, W, rank, 0.0)
    taken = measure(calls, repeats)
    optimum = float(spectrum[rank:].sum())
    rows = []
    for method, call in calls.items():
        error = squared_error(W, call())
        rows.append(
            {
                "matrix": f"{name} {W.shape[0]}x{W.shape[1]}",
                "rank": rank,
                "method": method,
                "relative_error": math.sqrt(error / float(spectrum.sum())),
                "excess_percent": 100 * (math.sqrt(error / optimum) - 1),
                "seconds": taken[method].median,
                "seconds_low": taken[method].low,
                "seconds_high": taken[method].high,
                "ratio": taken[method].median / taken["scikit-learn n_iter=7"].median,
                "peak_mib": peak_mib(call),
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small matrices, for a check that everything runs")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", help="where the JSON goes instead of results/truncated_svd.json")
    options = parser.parse_args()
    shapes = [(768, 768), (768, 2048)] if options.quick else [(4096, 4096), (4096, 11008)]
    ranks = (16, 48) if options.quick else (64, 256)
    rows = []
    with threadpool_limits(1):
        for m, n in shapes:
            for name, make in (("gaussian", gaussian), ("power law", power_law)):
                W = make(m, n)
                spectrum = energies(W)
                for rank in ranks:
                    rows += compare(name, W, rank, spectrum, options.repeats, exact=m == n and rank == ranks[0])
        table(rows, COLUMNS)
        write("truncated_svd_quick" if options.quick else "truncated_svd", rows, options.output)


if __name__ == "__main__":
    main()
