"""Decoding, products and decompositions on a GPU, beside a device copy, cuBLAS and the CPU.

Times are medians of CUDA events over calls that take turns. ``copy_share`` is the bandwidth of decoding, bytes read and
written, over that of a copy on the same device; ``speedup`` of a product is cuBLAS over stored, with x of the same
dtype; ``limit`` is what the stored bits allow, 16 / bits. Without a CUDA device nothing is measured or written.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Mapping
from statistics import median
from typing import Any

import numpy as np
from common import table, write

import factorq as fq

SHAPES = ((4096, 4096), (4096, 11008), (8192, 28672))
BATCHES = (1, 8, 64)
CASES: dict[str, fq.Method] = {
    "2 bits, groups of 128": fq.Scalar(2, group=128),
    "3 bits, groups of 128": fq.Scalar(3, group=128),
    "4 bits, groups of 128": fq.Scalar(4, group=128),
    "8 bits, groups of 128": fq.Scalar(8, group=128),
    "vectors of 8, 256 codewords": fq.VectorQuantization(8, 256, max_iter=2),
    "trellis, fixed rate, 2 bits": fq.Trellis(2, fixed_rate=True),
}
SOLVERS: dict[str, fq.Method] = {
    "k-means, vectors of 8, 256 codewords": fq.VectorQuantization(8, 256, max_iter=20, tol=0.0),
    "truncated SVD, rank 128": fq.SVD(128),
    "scalar, 4 bits": fq.Scalar(4),
}
HALF = ("float16", "bfloat16")
Call = Callable[[], Any]


def measure(cupy: Any, calls: Mapping[str, Call], repeats: int) -> dict[str, float]:
    """Median milliseconds of each call on the device; two warm-up calls, then all take turns."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    for call in (*calls.values(), *calls.values()):
        call()
    start, stop = cupy.cuda.Event(), cupy.cuda.Event()
    for _ in range(repeats):
        for name, call in calls.items():
            start.record()
            call()
            stop.record()
            stop.synchronize()
            found[name].append(cupy.cuda.get_elapsed_time(start, stop))
    return {name: median(times) for name, times in found.items()}


def in_half(cupy: Any, x: Any, dtype: str) -> Any:
    """``x`` in a half precision; CuPy has bfloat16 from ml_dtypes."""
    if dtype == "bfloat16":
        import ml_dtypes

        return x.astype(ml_dtypes.bfloat16)
    return x.astype(cupy.float16)


def device_rows(cupy: Any, shape: tuple[int, int], repeats: int) -> Iterator[dict[str, Any]]:
    """Decoding and products of every case for one shape."""
    W = cupy.asarray(np.random.default_rng(0).standard_normal(shape, dtype=np.float32))
    copied = cupy.empty_like(W)
    for case, method in CASES.items():
        F = fq.decompose(W, method=method)
        times = measure(cupy, {"decode": F.to_dense, "copy": lambda: cupy.copyto(copied, W)}, repeats)
        moved = F.nbytes + W.nbytes
        rate, copy_rate = moved / times["decode"], 2 * W.nbytes / times["copy"]
        bits = F.bits_per_weight
        head = {"case": case, "shape": "x".join(map(str, shape)), "bits_per_weight": bits}
        yield head | {
            "what": "decode", "ms": times["decode"], "gb_s": rate / 1e6, "copy_gb_s": copy_rate / 1e6,
            "copy_share": rate / copy_rate,
        }  # fmt: skip
        for dtype in HALF:
            dense = in_half(cupy, W, dtype)
            for batch in BATCHES:
                x = in_half(cupy, cupy.ones((shape[1], batch), cupy.float32), dtype)
                calls: dict[str, Call] = {"stored": lambda x=x, F=F: F @ x, "dense": lambda x=x, dense=dense: dense @ x}
                times = measure(cupy, calls, repeats)
                yield head | {
                    "what": f"F @ x, {dtype}", "batch": batch, "ms": times["stored"], "cublas_ms": times["dense"],
                    "speedup": times["dense"] / times["stored"], "limit": 16 / bits,
                }  # fmt: skip


def solver_rows(cupy: Any) -> Iterator[dict[str, Any]]:
    """Decompositions of a 4096 x 4096 matrix on the device and on the CPU, wall seconds with all its threads."""
    host = np.random.default_rng(0).standard_normal((4096, 4096), dtype=np.float32)
    W = cupy.asarray(host)
    for case, method in SOLVERS.items():
        seconds = {}
        for name, array in (("gpu", W), ("cpu", host)):
            fq.decompose(array[:256], method=method)  # compiles
            start = time.perf_counter()
            fq.decompose(array, method=method)
            cupy.cuda.get_current_stream().synchronize()
            seconds[name] = time.perf_counter() - start
        yield {
            "case": case,
            "gpu_s": seconds["gpu"],
            "cpu_s": seconds["cpu"],
            "speedup": seconds["cpu"] / seconds["gpu"],
        }


def main() -> None:
    """Measure what there is and write it, with the device's name in every row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=20)
    options = parser.parse_args()
    try:
        import cupy

        there = cupy.cuda.is_available()
    except ImportError:
        there = False
    if not there:
        print("no CUDA device, or CuPy is not installed: nothing was measured")
        return
    name = {"device": cupy.cuda.runtime.getDeviceProperties(0)["name"].decode()}
    rows = [name | row for shape in SHAPES for row in device_rows(cupy, shape, options.repeats)]
    solvers = [name | row for row in solver_rows(cupy)]
    columns = ("case", "shape", "what", "batch", "ms", "copy_share", "cublas_ms", "speedup", "limit")
    table(rows, columns)
    table(solvers, ("case", "gpu_s", "cpu_s", "speedup"))
    print("written to", write("gpu", rows))
    print("written to", write("gpu_solvers", solvers))


if __name__ == "__main__":
    main()
