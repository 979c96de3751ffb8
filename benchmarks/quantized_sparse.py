"""Quantized sparse factorisation beside PALM, truncated SVD, k-means, residual codes, low rank + grid, and the trellis.

``python benchmarks/quantized_sparse.py [--only PROBLEM ...] [--data DIR] [--json OUT] [--quick]``. The problems:

- ``note``: 32x2048, Gaussian and of spectrum ``i**-0.7``. The default solver and 150 iterations of plain projected
  gradient; the peers of free size store as much as the former or up to 2 % more.
- ``palm``: 512x512, spectrum ``i**-0.7``: two sparse factors by pyfaust's palm4MSA of several inner dimensions and
  numbers of iterations at 1.8 bits per weight, and the others at no more than the size of the best of them. Its values
  are real: a factor is counted as its nonzeros in float16, the ideal ``log2 binomial(entries, nonzeros)`` bits for
  where they are, and 16 bits for its scale; its error is that of the float16 values.
- ``layers``: all tensors of two or more axes and 4096 or more weights of the data folder, one by one, at or under 1,
  1.5, 2 and 3 stored bits, three of resnet56 at 0.5 too. A peer that cannot store so little is absent there; its mean
  stands beside that of quantized_sparse on the same layers.
- ``large``: 4096x4096, Gaussian plus as much of rank 32, at 2 bits, BLAS on all cores.
- ``iterations``: what one more ``max_iter`` costs on 32 rows and rank 32, as the number of columns grows.

Sizes are stored bits per weight, errors relative. Seconds are process CPU time of one thread but for ``large``:
medians of the repeats that fit in some seconds, with the fastest and the slowest, compilation left out, the search for
a size included; ``found_s`` is what the settings that it found take alone. ``time_ratio`` and ``error_ratio`` are a
row's over those of quantized_sparse at the same setting. Except for ``layers`` and ``iterations``, each row is a
process of its own: ``peak_mib`` is the peak of its resident memory, ``before_mib`` what it held when the call began,
interpreter, libraries and array. Four files are written: ``quantized_sparse.json`` (note, palm and large),
``.._layers.json``, ``.._means.json`` and ``.._iterations.json``.
"""

from __future__ import annotations

import argparse
import math
import os
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import layers
import numpy as np
from common import RESULTS, measure, table, write
from layers import OURS
from numpy.typing import NDArray
from processes import Row, figures, isolated, memory_mib, timed
from threadpoolctl import threadpool_limits

Floats = NDArray[np.float32]
Settings = Mapping[str, Any]  # keywords of decompose
ROOT = Path(__file__).resolve().parents[1]
PROBLEMS = ("note", "palm", "layers", "large", "iterations")
PLAIN = "quantized_sparse, plain projected gradient"
NOTE = ((32, 0.5), (64, 0.8), (64, 0.9375))  # rank and sparsity
PALM_BITS, PALM_RANKS, PALM_ITERATIONS = 1.8, (64, 128, 512), (30, 100, 300)
ROOM = 1.02  # a search for a size ends at most 2 % under its aim
COLUMNS = (
    *("problem", "source", "method", "rank", "sparsity", "iterations", "bits_per_weight", "relative_error"),
    *("relative_squared_error", "error_ratio", "seconds", "low", "high", "found_s", "wall_s", "time_ratio"),
    *("before_mib", "peak_mib", "note"),
)
ITERATION_COLUMNS = ("solver", "columns", "weights", "seconds_per_iteration", "ns_per_weight", "exponent")


# --- weights --------------------------------------------------------------------------------------------------------


def gaussian(m: int, n: int) -> Floats:
    return np.random.default_rng(0).standard_normal((m, n), np.float32)


def power_law(m: int, n: int) -> Floats:
    """Singular values ``i ** -0.7`` with random singular vectors, m <= n."""
    rng = np.random.default_rng(0)
    U, V = (np.linalg.qr(rng.standard_normal((k, m)))[0] for k in (m, n))
    return np.asarray((U * np.arange(1, m + 1) ** -0.7) @ V.T, np.float32)


def with_low_rank(m: int, n: int, rank: int = 32) -> Floats:
    """Gaussian weights and a product of Gaussian factors of the same variance."""
    rng = np.random.default_rng(1)
    left, right = rng.standard_normal((m, rank), np.float32), rng.standard_normal((rank, n), np.float32)
    return gaussian(m, n) + left @ right / np.float32(math.sqrt(rank))


def in_columns(make: Callable[[], Floats], length: int) -> Floats:
    """The weights as columns of ``length`` consecutive ones."""
    return np.ascontiguousarray(make().reshape(-1, length).T)


def warm_up(settings: Settings, shape: tuple[int, ...] = (32, 256)) -> None:
    """Compile what the settings need; one that does not fit so small an array says so when its turn comes."""
    import factorq as fq

    method: Any = settings.get("method")
    if hasattr(method, "max_iter"):
        settings = {**settings, "method": replace(method, max_iter=2)}
    with suppress(ValueError):
        fq.decompose(gaussian(shape[0], math.prod(shape[1:])).reshape(shape), **settings)


def solved(make: Callable[[], Floats], settings: Settings, repeats: int, threads: int = 1) -> Row:
    """Size, error, seconds and memory of ``decompose`` with some settings."""
    import factorq as fq

    with threadpool_limits(threads):
        W = make()
        warm_up(settings)
        before = memory_mib("VmRSS")
        F, seconds = timed(partial(fq.decompose, W, **settings), repeats)
        peak = memory_mib("VmHWM")
        if "bits_per_weight" in settings:
            found = {"method": F.method, "store": settings.get("store")}
            seconds["found_s"] = timed(partial(fq.decompose, W, **found), repeats)[1]["seconds"]
    return figures(F) | seconds | {"before_mib": before, "peak_mib": peak}


def with_ratios(rows: Iterable[Row], ours: Row) -> list[Row]:
    """The rows with their seconds and errors over those of ``ours``."""
    found = []
    for row in rows:
        pairs = {"time_ratio": "seconds", "error_ratio": "relative_error"}
        found.append(row | {k: row[v] / ours[v] for k, v in pairs.items() if row.get(v) and ours.get(v)})
    return found


# --- note -----------------------------------------------------------------------------------------------------------


def note_rows(quick: bool) -> Iterable[Row]:
    """The table of settings, and peers that store the same or more."""
    import factorq as fq

    n, steps, repeats = (256, 20, 1) if quick else (2048, 150, 3)
    words = {"method": fq.VectorQuantization(dim=4, codewords=32 if quick else 256)}
    for source, draw in (("gaussian", gaussian), ("power law", power_law)):
        task = partial(solved, partial(draw, 32, n))
        for rank, sparsity in NOTE[: 1 if quick else None]:
            head: Row = {"problem": "note", "source": source, "rank": rank, "sparsity": sparsity}
            method = fq.QuantizedSparse(rank, bits=(4, 2), sparsity=sparsity)
            plain = fq.QuantizedSparse(rank, bits=(4, 2), sparsity=sparsity, solver="pgd", max_iter=steps)
            ours = isolated(partial(task, {"method": method, "store": "entropy"}, repeats))
            calls: dict[str, Settings] = {PLAIN: {"method": plain, "store": "entropy"}, "k-means": words}
            if "bits_per_weight" in ours:
                size = {"bits_per_weight": ROOM * ours["bits_per_weight"]}
                calls |= {"svd": {"method": "svd", **size}, "trellis": {"method": "trellis", **size}}
            rows = [head | {"method": OURS} | ours]
            rows += [head | {"method": k} | isolated(partial(task, call, repeats)) for k, call in calls.items()]
            yield from with_ratios(rows, ours)


# --- PALM -----------------------------------------------------------------------------------------------------------


def real_bits(entries: int, nonzeros: int) -> float:
    """Bits of a sparse factor: its scale, float16 values, and the ideal code of where they are."""
    places = math.lgamma(entries + 1) - math.lgamma(nonzeros + 1) - math.lgamma(entries - nonzeros + 1)
    return 16 + 16 * nonzeros + places / math.log(2)


def nonzeros_for(entries: int, bits: float) -> int:
    """The most nonzeros of a factor in ``bits`` bits, which grow with each nonzero but perhaps the last few."""
    low, high = 0, entries
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if real_bits(entries, middle) <= bits else (low, middle - 1)
    return low


def palm(make: Callable[[], Floats], rank: int, iterations: int, bits_per_weight: float) -> Row:
    """palm4MSA with two factors of equally many nonzeros."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it tells what else it could use
        from pyfaust.fact import palm4msa
        from pyfaust.factparams import ParamsPalm4MSA, StoppingCriterion
        from pyfaust.proj import sp
    W = make().astype(np.float64)
    m, n = W.shape
    shapes = ((m, rank), (rank, n))
    counts = [nonzeros_for(math.prod(shape), bits_per_weight * W.size / 2) for shape in shapes]
    limits = [sp(shape, count, normalized=True) for shape, count in zip(shapes, counts, strict=True)]
    # From right to left: 0.490 instead of 0.492 with 512 inner dimensions and 100 iterations.
    settings = ParamsPalm4MSA(limits, StoppingCriterion(num_its=iterations), is_update_way_R2L=True)
    with threadpool_limits(1):
        before = memory_mib("VmRSS")
        found, seconds = timed(partial(palm4msa, W, settings), 1)
        peak = memory_mib("VmHWM")
    factors = [half(found.factors(k)) for k in range(2)]
    bits = sum(real_bits(x.size, int(np.count_nonzero(x))) for x in factors) / W.size
    error = float(np.linalg.norm(W - factors[0] @ factors[1]) / np.linalg.norm(W))
    row = {"bits_per_weight": bits, "relative_error": error, "relative_squared_error": error**2}
    return row | seconds | {"before_mib": before, "peak_mib": peak}


def half(factor: Any) -> NDArray[np.float64]:
    """A factor as it is stored: float16 values times its largest one."""
    x = np.asarray(factor.todense() if hasattr(factor, "todense") else factor, np.float64)
    scale = float(np.abs(x).max()) or 1.0
    return np.asarray((x / scale).astype(np.float16).astype(np.float64) * scale)


def palm_rows(quick: bool) -> Iterable[Row]:
    """PALM, and what stores no more than its best."""
    import factorq as fq

    m, repeats = (128, 1) if quick else (512, 3)
    make = partial(power_law, m, m)
    head: Row = {"problem": "palm", "source": "power law"}
    rows: list[Row] = []
    for rank in (32,) if quick else PALM_RANKS:
        for steps in (10,) if quick else PALM_ITERATIONS:
            found = isolated(partial(palm, make, rank, steps, PALM_BITS))
            rows.append(head | {"method": "PALM", "rank": rank, "iterations": steps} | found)
    best = min((row for row in rows if "relative_error" in row), key=lambda row: row["relative_error"], default=None)
    size = PALM_BITS if best is None else best["bits_per_weight"]
    calls: dict[str, Settings] = {
        OURS: {"method": "quantized_sparse", "store": "entropy"},
        "svd, 4 bits": {"method": fq.SVD(1, bits=4)},
        "trellis": {"method": "trellis"},
    }
    for name, call in calls.items():
        task = partial(solved, make, {**call, "bits_per_weight": size}, repeats)
        rows.append(head | {"method": name} | isolated(task))
    (ours,) = (row for row in rows if row["method"] == OURS)
    return with_ratios(rows, ours)


# --- large ----------------------------------------------------------------------------------------------------------


def large_rows(quick: bool) -> Iterable[Row]:
    """One large matrix at 2 bits."""
    import factorq as fq

    m = 512 if quick else 4096
    make = partial(with_low_rank, m, m)
    read = partial(in_columns, make, 32)
    of_columns = {"method": fq.QuantizedSparse(32, bits=(4, 2), sparsity=0.5), "store": "entropy"}
    calls: dict[str, tuple[Callable[[], Floats], Settings]] = {
        OURS: (make, {"method": "quantized_sparse", "bits_per_weight": 2, "store": "entropy"}),
        f"{OURS}, columns of 32 weights": (read, of_columns),
        "svd": (make, {"method": "svd", "bits_per_weight": 2}),
        "k-means": (make, {"method": fq.VectorQuantization(dim=4, codewords=128 if quick else 256)}),
        "trellis": (make, {"method": "trellis", "bits_per_weight": 2}),
    }
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    head: Row = {"problem": "large", "source": f"{m}x{m}, Gaussian + rank 32", "threads": threads}
    rows = [
        head | {"method": name} | isolated(partial(solved, draw, call, 1, threads))
        for name, (draw, call) in calls.items()
    ]
    return with_ratios(rows, rows[0])


def iteration_rows(quick: bool) -> Iterable[Row]:
    """Seconds of one more ``max_iter``, and the exponent of the growth from one number of columns to the next."""
    import factorq as fq

    few, many = (2, 6) if quick else (4, 12)
    sizes = range(10, 12) if quick else range(12, 16)
    solvers: dict[str, dict[str, Any]] = {"default": {}, "pgd": {"solver": "pgd"}}
    for solver, chosen in solvers.items():
        before: Row | None = None
        for n in (1 << k for k in sizes):
            W = gaussian(32, n)
            methods = {
                k: fq.QuantizedSparse(32, bits=(4, 2), sparsity=0.5, max_iter=k, tol=0.0, **chosen) for k in (few, many)
            }
            calls = {str(k): partial(fq.decompose, W, method=method) for k, method in methods.items()}
            with threadpool_limits(1):
                taken = measure(calls, 1 if quick else 3)
            seconds = (taken[str(many)].median - taken[str(few)].median) / (many - few)
            row: Row = {"solver": solver, "columns": n, "weights": W.size, "seconds_per_iteration": seconds}
            row |= {"ns_per_weight": 1e9 * seconds / W.size} | {f"seconds_at_{k}": t.median for k, t in taken.items()}
            if before is not None and seconds > 0 < before["seconds_per_iteration"]:
                growth = seconds / before["seconds_per_iteration"]
                row["exponent"] = math.log(growth) / math.log(n / before["columns"])
            yield row
            before = row


# --- all of it ------------------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder of the checkpoints")
    parser.add_argument("--json", type=Path, help="where to write (default: results/quantized_sparse.json)")
    parser.add_argument("--only", nargs="+", choices=PROBLEMS, default=list(PROBLEMS), metavar="PROBLEM")
    parser.add_argument("--quick", action="store_true", help="a small share of each problem; no file by default")
    options = parser.parse_args()
    quick = options.quick
    parts: dict[str, tuple[list[Row], tuple[str, ...]]] = {"": ([], COLUMNS)}
    for problem, rows in (("note", note_rows), ("palm", palm_rows), ("large", large_rows)):
        if problem in options.only:
            parts[""][0].extend(rows(quick))
            print(f"{problem}: done", flush=True)
    if "iterations" in options.only:
        parts["_iterations"] = (list(iteration_rows(quick)), ITERATION_COLUMNS)
    if "layers" in options.only:
        of_layers = list(layers.rows(options.data, quick))
        if not of_layers:
            print(f"layers: no checkpoints in {options.data.name}/, left out; name their folder with --data")
        parts |= {"_layers": (of_layers, layers.COLUMNS), "_means": (layers.means(of_layers), layers.MEAN_COLUMNS)}
    filled = {part: found for part, found in parts.items() if found[0]}
    for part, (found, columns) in filled.items():
        print(part.removeprefix("_"))
        table(found, columns)
    if options.json or not (quick or set(options.only) < set(PROBLEMS)):
        target = options.json or RESULTS / "quantized_sparse.json"
        for part, (found, _) in filled.items():
            print("written to", write(f"quantized_sparse{part}", found, target.with_stem(target.stem + part)).name)


if __name__ == "__main__":
    os.environ.setdefault("NUMBA_NUM_THREADS", "1")  # read when Numba is imported, which the first kernel does
    main()
