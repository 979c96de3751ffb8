"""Sparse principal components: explained variance and time at equal share of zeros, beside scikit-learn's.

``python benchmarks/sparse_pca.py [--data DIR] [--json OUT] [--repeats N] [--quick]``. The data, all float32, columns
centred and all brought to mean square 1 before anything is timed: ``planted``, sparse factors (two for each component
sought, a tenth of their entries nonzero, sizes i**-0.5) with half as much of a dense spectrum i**-0.7 and 0.4 times as
much white noise; ``spectrum``, Gaussian of spectrum i**-0.7 alone; and one weight matrix, where the data folder has it.
Explained variance is, for all, ``1 - ||X - X V^+ V||^2 / ||X||^2`` with V the sparse components: scores by least
squares. ``pca`` is that of as many dense components, which none can pass.

scikit-learn asks for a penalty, not for a share of zeros. Its penalty is found by bisection, roughly, which is not
timed; then each peer runs once, and factorq runs at the very share of zeros that the peer ended with. So each
row has its own ``ours``; ``gain`` is the difference in explained variance and ``time_ratio`` factorq's time over the
peer's. scikit-learn runs 50 iterations, and by its own defaults (1000) where that is said. PCA with thresholding keeps
the largest entries of the components; "refitted" then solves scores and kept entries by least squares once more.
Seconds are process CPU time of one thread: medians of factorq's repeats with the fastest and the slowest, compilation
left out, and one run of the others.
"""

from __future__ import annotations

import argparse
import math
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from common import measure, table, write
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

Floats = NDArray[Any]
Row = dict[str, Any]
ROOT = Path(__file__).resolve().parents[1]
NETWORK, TENSOR = "g2p_gru", "dec_w_hh"
ITERATIONS, TUNING_ITERATIONS, TUNING_STEPS = 50, 6, 7
COLUMNS = (
    *("data", "shape", "rank", "method", "zeros", "explained", "ours", "gain", "pca"),
    *("seconds", "ours_s", "low", "high", "time_ratio", "note"),
)


@dataclass(frozen=True)
class Cell:
    """One matrix, a number of components and the shares of zeros, with the ``slow`` peers at one of them or without."""

    data: str
    shape: tuple[int, int]
    rank: int
    shares: tuple[float, ...]
    slow: bool = False


CELLS = (
    *(Cell(d, (1000, 500), 32, (0.7, 0.85, 0.9, 0.95), slow=True) for d in ("planted", "spectrum")),
    *(Cell(d, (1000, 500), 64, (0.7, 0.85, 0.9, 0.95)) for d in ("planted", "spectrum")),
    *(Cell(d, (2000, 1024), 32, (0.85, 0.95)) for d in ("planted", "spectrum")),
    *(Cell(d, (2000, 1024), 64, (0.85,)) for d in ("planted", "spectrum")),
    Cell("weights", (768, 256), 32, (0.7, 0.9)),
)
QUICK = (Cell("planted", (200, 100), 8, (0.7, 0.9), slow=True), Cell("spectrum", (200, 100), 8, (0.85,)))


def matrix(cell: Cell, folder: Path) -> Floats | None:
    """The data of a cell, columns centred; None where there is no such file."""
    (m, n), rng = cell.shape, np.random.default_rng(cell.shape[0] + cell.rank)
    if cell.data == "weights":
        path = folder / f"{NETWORK}.safetensors"
        if not path.exists():
            return None
        from safetensors.numpy import load_file

        X = load_file(path)[TENSOR].astype(np.float64)
    else:
        decay = (rng.standard_normal((m, n)) * np.arange(1, n + 1) ** -0.7) @ orthogonal(rng, n)
        X = decay / np.linalg.norm(decay)
        if cell.data == "planted":
            count = 2 * cell.rank
            V = rng.standard_normal((count, n)) * (rng.random((count, n)).argsort(axis=1) < n // 10)
            sizes = np.arange(1, count + 1) ** -0.5
            factors = (rng.standard_normal((m, count)) * sizes) @ (V / np.linalg.norm(V, axis=1)[:, None])
            noise = rng.standard_normal((m, n))
            X = factors / np.linalg.norm(factors) + 0.5 * X + 0.4 * noise / np.linalg.norm(noise)
    X = X - X.mean(axis=0)
    return np.ascontiguousarray(X * (math.sqrt(X.size) / np.linalg.norm(X)), np.float32)


def orthogonal(rng: np.random.Generator, n: int) -> Floats:
    return np.linalg.qr(rng.standard_normal((n, n)))[0]


def explained(X: Floats, V: Floats) -> float:
    """``1 - ||X - X V^+ V||^2 / ||X||^2`` for components V (r, n)."""
    X, basis = X.astype(np.float64), np.linalg.svd(V.astype(np.float64).T, full_matrices=False)
    kept = basis[0][:, basis[1] > 1e-10 * max(basis[1][0], 1e-300)]
    return float(np.sum((X @ kept) ** 2) / np.sum(X**2))


def scikit(name: str, X: Floats, rank: int, alpha: float, **options: Any) -> Floats:
    """Components (r, n) of one of scikit-learn's sparse PCAs."""
    from sklearn import decomposition

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about convergence
        found = getattr(decomposition, name)(rank, alpha=alpha, random_state=0, **options).fit(X)
    return np.asarray(found.components_)


def tuned(X: Floats, rank: int, share: float) -> float:
    """About the penalty for a share of zeros, by bisection of its logarithm, each fit going on from the one before."""
    low, high = 0.1, 40.0
    start: dict[str, Floats] = {}
    for _ in range(TUNING_STEPS):
        alpha = math.sqrt(low * high)
        V = scikit("SparsePCA", X, rank, alpha, method="cd", max_iter=TUNING_ITERATIONS, **start)
        low, high = (alpha, high) if np.mean(V == 0) < share else (low, alpha)
        if np.count_nonzero(V) > V.size // 50:  # from almost nothing, components would not come back
            U = X @ np.linalg.pinv(V)
            length = np.maximum(np.linalg.norm(U, axis=0), 1e-12)
            start = {"U_init": (U / length).astype(X.dtype), "V_init": (V * length[:, None]).astype(X.dtype)}
    return math.sqrt(low * high)


def pca(X: Floats, rank: int) -> Floats:
    from sklearn.decomposition import PCA

    return np.asarray(PCA(rank, random_state=0).fit(X).components_)


def thresholded(X: Floats, rank: int, share: float, refit: bool = False) -> Floats:
    """The largest entries of the principal components; with ``refit``, these solved once more by least squares."""
    V = pca(X, rank)
    keep = np.zeros(V.size, np.bool_)
    keep[np.argsort(-np.abs(V), axis=None)[: round((1 - share) * V.size)]] = True
    keep = keep.reshape(V.shape)
    V = V * keep
    if refit:
        U = X @ np.linalg.pinv(V)
        for j in range(X.shape[1]):
            V[keep[:, j], j] = np.linalg.lstsq(U[:, keep[:, j]], X[:, j], rcond=None)[0]
    return V


def peers(X: Floats, cell: Cell, share: float) -> Iterator[tuple[str, Callable[[], Floats]]]:
    """The peers of a cell at about a share of zeros."""
    rank = cell.rank
    yield "PCA, thresholded", lambda: thresholded(X, rank, share)
    yield "PCA, thresholded, refitted", lambda: thresholded(X, rank, share, refit=True)
    alpha = tuned(X, rank, share)
    yield (
        f"SparsePCA, cd, {ITERATIONS} iterations",
        lambda: scikit("SparsePCA", X, rank, alpha, method="cd", max_iter=ITERATIONS),
    )
    if cell.slow and share == (0.85 if 0.85 in cell.shares else cell.shares[0]):
        yield "SparsePCA, cd", lambda: scikit("SparsePCA", X, rank, alpha, method="cd")
        yield "MiniBatchSparsePCA, cd", lambda: scikit("MiniBatchSparsePCA", X, rank, alpha, method="cd")
        if cell.data == "planted":
            call = f"SparsePCA, lars, {ITERATIONS} iterations"
            yield call, lambda: scikit("SparsePCA", X, rank, alpha, max_iter=ITERATIONS)


def rows_of(cell: Cell, folder: Path, repeats: int) -> Iterator[Row]:
    """A row for each share of zeros and peer."""
    head: Row = {"data": cell.data, "shape": "x".join(map(str, cell.shape)), "rank": cell.rank}
    X = matrix(cell, folder)
    if X is None:
        yield head | {"note": "absent: no such file"}
        return
    head["shape"] = "x".join(map(str, X.shape))
    head["pca"] = float(np.sum(np.linalg.svd(X, compute_uv=False)[: cell.rank] ** 2) / np.sum(X**2))
    for share in cell.shares:
        for name, call in peers(X, cell, share):
            start = time.process_time()
            V = call()
            seconds = time.process_time() - start
            row = head | {"method": name, "zeros": float(np.mean(V == 0)), "explained": explained(X, V)}
            yield row | {"seconds": seconds} | beside(X, cell.rank, V, row["explained"], seconds, repeats)


def beside(X: Floats, rank: int, V: Floats, reached: float, seconds: float, repeats: int) -> Row:
    """What factorq makes of as many nonzeros as V has."""
    import factorq as fq

    method = fq.SparsePCA(rank, 1 - np.count_nonzero(V) / V.size)
    found: list[Any] = []
    taken = measure({"ours": lambda: found.append(fq.decompose(X, method=method))}, repeats)["ours"]
    Z = np.asarray(found[-1].factors[1])
    if np.count_nonzero(Z) > np.count_nonzero(V):
        raise SystemExit(f"{method}: more nonzeros than the peer has")
    ours = explained(X, Z)
    timing = {"ours_s": taken.median, "low": taken.low, "high": taken.high, "time_ratio": taken.median / seconds}
    return {"ours": ours, "gain": ours - reached} | timing


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder of the checkpoints")
    parser.add_argument("--json", help="file to write; results/sparse_pca.json by default")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="small matrices, no file by default")
    options = parser.parse_args()
    with threadpool_limits(1):
        pca(np.eye(8, 4), 2)  # imports are not timed
        cells = QUICK if options.quick else CELLS
        rows = [row for cell in cells for row in rows_of(cell, options.data, options.repeats)]
    table(rows, COLUMNS)
    if not options.quick or options.json:
        print("written to", write("sparse_pca", rows, options.json).name)


if __name__ == "__main__":
    main()
