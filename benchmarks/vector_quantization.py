"""k-means and residual vector quantization of i.i.d. Gaussian vectors: time at equal inertia, and error, beside faiss.

``python benchmarks/vector_quantization.py [--json OUT] [--repeats N] [--quick]``. k-means: seeding plus iterations,
the final assignment of factorq included; faiss runs 20 iterations on all points, factorq what reaches its inertia: 20
on an eighth of the points and 5 on all at 256 codewords, 12 on all at 4096 (the column ``inertia_ratio`` is factorq's
over the peer's). Residual codes: 2 stages of 8 bits in 8 dimensions, the time from the data to the codes. Times are
process CPU seconds of one thread, medians with the fastest and the slowest repeat, compilation left out and told on
its own. A peer that is not installed is named as absent.
"""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from common import measure, table, write
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

Floats = NDArray[np.float32]
KMEANS = ((1 << 20, 4, 256, 20), (1 << 20, 8, 256, 20), (1 << 18, 4, 4096, 12), (1 << 18, 8, 4096, 12))
PEER_ITERATIONS = 20
RESIDUAL = ((1 << 17, 8, 256, 2), (1 << 20, 8, 256, 2))
COLUMNS = (
    *("problem", "points", "dim", "codewords", "method", "iterations", "seconds", "low", "high", "compile_seconds"),
    *("inertia_ratio", "time_ratio", "relative_squared_error", "note"),
)
Row = dict[str, Any]


def faiss_module() -> Any | None:
    try:
        import faiss
    except ImportError:
        return None
    faiss.omp_set_num_threads(1)
    return faiss


def inertia(x: Floats, centroids: Floats) -> float:
    from factorq.solvers.lloyd import search

    return float(np.sum((x - centroids[search(x, centroids)]).astype(np.float64) ** 2))


def kmeans_rows(x: Floats, count: int, iterations: int, repeats: int, faiss: Any | None) -> list[Row]:
    """factorq and the peers on one set of points."""
    from factorq.solvers.lloyd import kmeans

    n, d = x.shape
    centroids: dict[str, Floats] = {}
    steps = {"factorq": iterations}

    def ours() -> None:
        found = kmeans(x, count, np.random.default_rng(0), max_iter=iterations, tol=0.0)
        centroids["factorq"] = found.centroids

    calls: dict[str, Callable[[], object]] = {"factorq": ours}
    if faiss is not None:

        def peer() -> None:
            found = faiss.Kmeans(d, count, niter=PEER_ITERATIONS, max_points_per_centroid=10**9, seed=1)
            found.train(x)
            centroids["faiss"] = found.centroids

        calls["faiss"], steps["faiss"] = peer, PEER_ITERATIONS
    start = time.process_time()
    ours()
    first = time.process_time() - start
    taken = measure(calls, repeats)
    shared = {"problem": "kmeans", "points": n, "dim": d, "codewords": count}
    rows = [
        shared
        | {"method": name, "iterations": steps[name], "inertia": inertia(x, centroids[name])}
        | {"seconds": t.median, "low": t.low, "high": t.high}
        for name, t in taken.items()
    ]
    rows[0]["compile_seconds"] = max(first - taken["factorq"].median, 0.0)
    if faiss is None:
        return [*rows, shared | {"method": "faiss", "note": "absent: faiss-cpu is not installed"}]
    rows[0] |= {
        "inertia_ratio": rows[0]["inertia"] / rows[1]["inertia"],
        "time_ratio": rows[0]["seconds"] / rows[1]["seconds"],
    }
    return rows


def scikit_row(x: Floats, count: int) -> Row:
    """One run of scikit-learn, several times slower than the others; on an eighth of the points."""
    shared: Row = {"problem": "kmeans", "points": len(x), "dim": x.shape[1], "codewords": count}
    shared["method"] = "scikit-learn"
    try:
        from sklearn.cluster import KMeans
    except ImportError:
        return shared | {"note": "absent: scikit-learn is not installed"}
    start = time.process_time()
    KMeans(count, n_init=1, max_iter=PEER_ITERATIONS, tol=0.0, random_state=0, init="random").fit(x)
    return shared | {"iterations": PEER_ITERATIONS, "seconds": time.process_time() - start, "note": "one run"}


def residual_rows(x: Floats, count: int, stages: int, faiss: Any | None) -> list[Row]:
    """Books fitted to the data and codes for it, once each: the peer takes long."""
    import factorq as fq
    from factorq.solvers.lloyd import residual

    n, d = x.shape
    energy = float(np.sum(x.astype(np.float64) ** 2))
    rows: list[Row] = []

    def add(method: str, call: Callable[[], Floats], note: str = "") -> None:
        start = time.process_time()
        approximation = call()
        seconds = time.process_time() - start
        error = float(np.sum((x - approximation).astype(np.float64) ** 2)) / energy
        row = {"problem": "residual", "points": n, "dim": d, "codewords": count, "method": method}
        rows.append(row | {"seconds": seconds, "relative_squared_error": error, "note": note})

    def fitted(rounds: int) -> Floats:
        books, _ = residual.fit(x, count, stages, np.random.default_rng(0), rounds=rounds)
        return residual.reconstruct(books, residual.encode(x, books))

    def whole() -> Floats:
        W = x.reshape(-1, 128 * d)
        found = fq.decompose(W, method=fq.VectorQuantization(dim=d, codewords=count, stages=stages))
        return np.asarray(found.to_dense()).reshape(x.shape)

    small = x[:20000]
    residual.encode(small, residual.fit(small, 16, stages, np.random.default_rng(0))[0])  # compiles
    add("factorq, books one by one, codes jointly", lambda: fitted(0))
    add("factorq, one joint round", lambda: fitted(1))
    add("factorq, VectorQuantization", whole, "float16 books, checks, packing and measuring included")
    if faiss is None:
        rows.append({"problem": "residual", "method": "faiss", "note": "absent: faiss-cpu is not installed"})
        return rows
    bits = (count - 1).bit_length()

    def quantizer(make: Callable[..., Any], *sizes: int) -> Floats:
        peer = make(*sizes)
        peer.train(x)
        return np.asarray(peer.decode(peer.compute_codes(x)))

    add("faiss ResidualQuantizer", lambda: quantizer(faiss.ResidualQuantizer, d, stages, bits))
    add("faiss ProductQuantizer", lambda: quantizer(faiss.ProductQuantizer, d, stages, bits))
    for row in rows[:-2]:
        row["time_ratio"] = row["seconds"] / rows[-2]["seconds"]
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", help="file to write; results/vector_quantization.json by default")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="a sixteenth of the points, no file")
    options = parser.parse_args()
    share = 16 if options.quick else 1
    rng = np.random.default_rng(0)
    faiss = faiss_module()
    rows: list[Row] = []
    with threadpool_limits(1):
        for n, d, count, iterations in KMEANS:
            x = rng.standard_normal((max(n // share, 2 * count), d), np.float32)
            rows += kmeans_rows(x, count, iterations, options.repeats, faiss)
            gc.collect()
        rows.append(scikit_row(rng.standard_normal((KMEANS[0][0] // 8 // share, 4), np.float32), 256))
        for n, d, count, stages in RESIDUAL:
            rows += residual_rows(rng.standard_normal((n // share, d), np.float32), count, stages, faiss)
    table(rows, COLUMNS)
    if not options.quick or options.json:
        print("written to", write("vector_quantization", rows, options.json).name)


if __name__ == "__main__":
    main()
