"""Products with stored factors, ``F @ x`` and ``x @ F``, beside those of NumPy and of torch's packed kernels.

CPU seconds of one thread, medians of calls that take turns with the dense product of the same batch, so that no codes
are in the caches; ``speedup`` is dense over stored, and ``repeated`` the same where each is called again and again, so
that codes stay in the third level of the cache if they fit. ``memory_share`` is the peak of what a product allocates
beside its result, over the bytes of W.
The last table has the wall time of two threads beside that of one.
"""

from __future__ import annotations

import argparse
import os
import time
import tracemalloc
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

import numpy as np
from common import measure, table, write

import factorq as fq

SHAPES = ((4096, 4096), (4096, 11008))
BATCHES = (1, 2, 4, 8, 16, 32, 64)
FEW = (1, 16)
LARGE = 1 << 25
THREADS = ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS")
COLUMNS = (
    "case", "shape", "side", "batch", "dense_ms", "ms", "low_ms", "high_ms", "speedup", "repeated",
    "memory_share", "bits_per_weight",
)  # fmt: skip
Call = Callable[[], Any]

CASES: dict[str, tuple[fq.Method, tuple[int, ...]]] = {
    "2 bits, groups of 128": (fq.Scalar(2, group=128), BATCHES),
    "3 bits, groups of 128": (fq.Scalar(3, group=128), BATCHES),
    "4 bits, groups of 128": (fq.Scalar(4, group=128), BATCHES),
    "8 bits, groups of 128": (fq.Scalar(8, group=128), BATCHES),
    "4 bits, NF4 levels": (fq.Scalar(4, group=128, levels="nf4"), FEW),
    "4 bits, asymmetric": (fq.Scalar(4, group=128, grid="asymmetric"), FEW),
    "vectors of 8, 256 codewords": (fq.VectorQuantization(8, 256, max_iter=2), BATCHES),
    "vectors of 8, 4096 codewords": (fq.VectorQuantization(8, 4096, max_iter=2), FEW),
    "rank 512": (fq.SVD(512), BATCHES),
    "rank 512, 8 bits": (fq.SVD(512, bits=8), FEW),
    "quantized sparse, rank 32": (fq.QuantizedSparse(32, bits=4, sparsity=0.7, fold="inputs/32", max_iter=3), FEW),
    "4 bits, half of them zero": (fq.Scalar(4, group=128, sparsity=0.5), FEW),
    "trellis, 2 bits": (fq.Trellis(2), FEW),
    "trellis, fixed rate, 2 bits, rotated": (fq.Trellis(2, fixed_rate=True, rotate=True), FEW),
}


def weights(shape: tuple[int, int]) -> np.ndarray:
    """Gaussian weights with a scale for each input, as layers have them."""
    rng = np.random.default_rng(0)
    return rng.standard_normal(shape, dtype=np.float32) * rng.lognormal(0, 0.3, shape[1]).astype(np.float32)


def products(F: Any, W: np.ndarray, batch: int, side: str) -> tuple[Call, Call]:
    """The product with the factors and that with the dense matrix, of one random batch."""
    rng = np.random.default_rng(batch)
    length = W.shape[1] if side == "F @ x" else W.shape[0]
    x = rng.standard_normal((length, batch) if side == "F @ x" else (batch, length), dtype=np.float32)
    if batch == 1:
        x = x.reshape(-1)
    return (lambda: F @ x, lambda: W @ x) if side == "F @ x" else (lambda: x @ F, lambda: x @ W)


def memory_share(call: Call, W: np.ndarray) -> float:
    """Peak bytes of what ``call`` allocates beside its result, over those of W."""
    call()
    tracemalloc.start()
    result = call()
    peak = tracemalloc.get_traced_memory()[1] - result.nbytes
    tracemalloc.stop()
    return peak / W.nbytes


def row(case: str, W: np.ndarray, batch: int, side: str, calls: tuple[Call, Call], repeats: int) -> dict[str, Any]:
    """One comparison, in milliseconds."""
    times = measure({"stored": calls[0], "dense": calls[1]}, repeats)
    stored, dense = times["stored"], times["dense"]
    again = [measure({"call": call}, repeats)["call"].median for call in calls]
    return {
        "case": case, "shape": "x".join(map(str, W.shape)), "side": side, "batch": batch,
        "dense_ms": 1e3 * dense.median, "ms": 1e3 * stored.median, "low_ms": 1e3 * stored.low,
        "high_ms": 1e3 * stored.high, "speedup": dense.median / stored.median,
        "repeated": again[1] / again[0],
    }  # fmt: skip


def factorq_rows(F: Any, W: np.ndarray, case: str, batches: tuple[int, ...], repeats: int) -> Iterator[dict[str, Any]]:
    """All batches, both sides."""
    for batch in batches:
        for side in ("F @ x", "x @ F"):
            calls = products(F, W, batch, side)
            found = row(case, W, batch, side, calls, repeats)
            yield found | {"memory_share": memory_share(calls[0], W), "bits_per_weight": F.bits_per_weight}


def peer_rows(W: np.ndarray, repeats: int) -> Iterator[dict[str, Any]]:
    """torch's kernels for packed weights, beside NumPy's dense product as all others."""
    try:
        import torch
    except ImportError:
        return
    torch.set_num_threads(1)
    m, n = W.shape
    codes = np.random.default_rng(0).integers(0, 16, (m, n), dtype=np.uint8)
    halves = torch.from_numpy(codes)
    packed4 = torch.ops.aten._convert_weight_to_int4pack_for_cpu(halves.to(torch.int32), 1)
    groups = torch.ones((n // 128, m, 2), dtype=torch.bfloat16)
    packed8 = halves.to(torch.int8)
    scales8 = torch.ones(m, dtype=torch.bfloat16)
    for batch in BATCHES:
        x = torch.ones((batch, n), dtype=torch.bfloat16)
        dense = products(None, W, batch, "F @ x")[1]
        kernels: dict[str, Call] = {
            "torch int4": lambda x=x: torch.ops.aten._weight_int4pack_mm_for_cpu(x, packed4, 128, groups),
            "torch int8": lambda x=x: torch.ops.aten._weight_int8pack_mm(x, packed8, scales8),
        }  # fmt: skip
        for name, call in kernels.items():
            yield row(f"{name} (peer)", W, batch, "F @ x", (call, dense), repeats)


def wall(call: Call, threads: int, repeats: int) -> float:
    """Median wall seconds of ``call`` on so many threads."""
    before = {name: os.environ.get(name) for name in THREADS}
    os.environ.update(dict.fromkeys(THREADS, str(threads)))
    try:
        from threadpoolctl import threadpool_limits

        with threadpool_limits(threads, user_api="blas"):
            call()
            seconds = []
            for _ in range(repeats):
                start = time.perf_counter()
                call()
                seconds.append(time.perf_counter() - start)
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
    return median(seconds)


def thread_row(F: Any, W: np.ndarray, case: str, batch: int, repeats: int) -> dict[str, Any]:
    """One and two threads, by the clock on the wall."""
    call, _ = products(F, W, batch, "F @ x")
    one, two = wall(call, 1, repeats), wall(call, 2, repeats)
    return {
        "case": case, "shape": "x".join(map(str, W.shape)), "batch": batch, "one_thread_ms": 1e3 * one,
        "two_threads_ms": 1e3 * two, "speedup": one / two,
    }  # fmt: skip


def main() -> None:
    """Run all comparisons and write them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--only", nargs="*", help="cases whose names contain one of these words")
    parser.add_argument("--shapes", nargs="*", default=["x".join(map(str, shape)) for shape in SHAPES])
    parser.add_argument("--output", help="where to write the JSON; benchmarks/results if left out and nothing else is")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    threads: list[dict[str, Any]] = []
    wanted = [c for c in CASES if not options.only or any(word in c for word in options.only)]
    for shape in options.shapes:
        m, n = map(int, shape.split("x"))
        W = weights((m, n))
        for case in wanted:
            method, batches = CASES[case]
            if m * n > LARGE and batches is FEW:
                continue  # the main cases alone: others take minutes to make
            F = fq.decompose(W, method=method)
            rows += factorq_rows(F, W, case, batches, options.repeats)
            threads += [thread_row(F, W, case, batch, options.repeats) for batch in FEW]
            table(rows[-2 * len(batches) :], COLUMNS)
            table(threads[-len(FEW) :], list(threads[-1]))
        if not options.only:
            rows += peer_rows(W, options.repeats)
    table(rows, COLUMNS)
    table(threads, list(threads[0]))
    if not options.only or options.output:
        print("written to", write("products", rows, options.output))
        if not options.output:
            print("written to", write("products_threads", threads))


if __name__ == "__main__":
    main()
