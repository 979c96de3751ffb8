"""CP factorisation beside TensorLy's parafac, the published ADMM and plain quantization: sweeps, memory, stored error.

``python benchmarks/cp.py [--only PART ...] [--tensors SOURCE ...] [--data DIR] [--json OUT] [--quick]``. The parts:

- ``sweeps`` (``cp_sweeps.json``): seconds of one sweep of alternating least squares in float32, from the difference of
  two numbers of sweeps; then the mean error after 50 sweeps from the same normal random starts: factorq with 25 that
  anneal and 25 that do not, with 50 that do not, and parafac; ``lower`` counts the starts from which the first is below
  parafac. parafac computes no errors on the way (``tol=0``).
- ``memory`` (``cp_memory.json``): peak resident memory beyond what the process held before the call, the array
  included; ``memory_ratio`` is over that of parafac at the same rank.
- ``quantized`` and ``published`` (``cp.json``): relative errors of quantized factors; the published method takes about
  as long as all else, and runs beside it. A run of some parts or tensors leaves the other rows of the file as they are.

The tensors: ``planted``, 4 times as many terms as the rank, weights ``i**-0.5``, and 10 % of noise; ``random``,
Gaussian; ``integers``, 33 terms whose factors are integers -7 .. 7, no noise; ``collinear``, terms whose columns are a
tenth off one vector; and convolutions of trained networks at a reduction of 2. Methods:

- ``CP``: the default, integers found by annealed coordinate moves;
- ``CP, als``: factorq's real factors, rounded column by column;
- ``CP, admm``: five inner iterations a mode, finished by coordinate moves;
- ``ADMM as published``: up to 999 inner iterations and as many sweeps as its settings say (half a minute each at
  64x64x9), the last iterate, from factorq's real factors, once from those of parafac; ``history`` has all errors;
- ``parafac, rounded``: one scale per factor, of the largest magnitude or the best of 200 by squared error, columns of
  norm 1 and float16 weights; ``real_error`` is that before rounding;
- ``svd``, ``trellis``, ``scalar``: other methods at or under the stored size of ``CP``, the array read as (O, I k).

``error_ratio`` and ``time_ratio`` are a row's over those of ADMM as published on the same tensor at the same bits.
Seconds are process CPU time of one thread, compilation left out: medians of the repeats that fit in some seconds, with
the fastest and the slowest. The rows of one tensor and method share a process; ``peak_mib`` is the peak of its resident
memory in that call, ``before_mib`` what it held when the call began.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any

import cp_peers as peers
import numpy as np
from common import RESULTS, table, write
from cp_cost import MEMORY_COLUMNS, SWEEP_COLUMNS, decomposed, memory_rows, sweep_rows, warm_up
from numpy.typing import NDArray
from processes import Row, attempted, figures, isolated, memory_mib, timed
from threadpoolctl import threadpool_limits

Floats = NDArray[Any]
Shape = tuple[int, ...]
Settings = Mapping[str, Any]  # keywords of CP, or of decompose
ROOT = Path(__file__).resolve().parents[1]
PARTS = ("sweeps", "memory", "quantized", "published")
OURS, PUBLISHED = "CP", "ADMM as published"
VARIANTS: dict[str, Settings] = {OURS: {}, "CP, als": {"solver": "als"}, "CP, admm": {"solver": "admm"}}
PLAIN = ("svd", "trellis", "scalar")
ROUNDED = ("parafac, rounded, max scale", "parafac, rounded, MSE scale")
METHODS = (*VARIANTS, PUBLISHED, f"{PUBLISHED}, from parafac", *ROUNDED, *PLAIN)
ALL, FEW = (8, 6, 4, 3, 2), (4, 2)  # bits
PATIENCE = 5400.0  # wall seconds of the published method on one tensor
COLUMNS = (
    *("source", "shape", "rank", "bits", "method", "bits_per_weight", "relative_error", "error_ratio"),
    *("seconds", "low", "high", "wall_s", "time_ratio", "before_mib", "peak_mib", "note"),
)


@dataclass(frozen=True)
class Case:
    """A tensor, its rank, the bits of the factors; of the published method (bits, sweeps), or (.., of parafac)."""

    source: str  # a tensor of cp_peers, or "checkpoint:layer"
    shape: Shape
    rank: int
    bits: tuple[int, ...] = FEW
    published: tuple[tuple[int, ...], ...] = ()
    iterations: int = 50  # of parafac

    @property
    def head(self) -> Row:
        return {"source": self.source, "shape": peers.as_text(self.shape), "rank": self.rank}

    def array(self, folder: Path) -> Floats:
        if ":" in self.source:
            checkpoint, _, layer = self.source.partition(":")
            return peers.kernel(folder / f"{checkpoint}.safetensors", layer)
        made = {"planted": peers.planted, "random": peers.gaussian, "integers": peers.integers}
        return made.get(self.source, peers.collinear)(self.shape, self.rank)


def conv(source: str, channels: int, bits: tuple[int, ...] = FEW, **rest: Any) -> Case:
    """A convolution (n, n, 3, 3) at a reduction of 2."""
    n = channels
    return Case(source, (n, n, 3, 3), int(9 * n * n / (2 * n + 9) / 2), bits, **rest)


CONV, CUBE = (64, 64, 9), (256, 256, 256)
SHORT = ((4, 3), (2, 3))
CASES = (
    Case("planted", CONV, 134, ALL, (*((b, 6) for b in (4, 2, 3, 6, 8)), (4, 3, 200)), 200),
    Case("random", CONV, 134, ALL, SHORT, 200),
    Case("integers", CONV, 134, ALL, iterations=200),
    Case("integers", CONV, 33, (4,), iterations=200),
    Case("collinear", CONV, 134, ALL, SHORT, 200),
    conv("resnet20_cifar10:layer2.1.conv2.weight", 32, ALL, published=((4, 6), (2, 6)), iterations=200),
    conv("resnet56_cifar10:layer3.4.conv1.weight", 64, ALL, published=SHORT, iterations=200),
    conv("vgg16_imagenet_layers:block2_conv2.kernel", 128),
    conv("vgg16_imagenet_layers:block3_conv2.kernel", 256),
    Case("random", (128, 128, 9), 278),
    Case("planted", (128, 128, 9), 278, published=((4, 1),)),
    Case("planted", (256, 256, 9), 566),
    Case("planted", (512, 512, 9), 1141, (4,)),
    Case("planted", CUBE, 16),
    Case("planted", CUBE, 64, (4,)),
    Case("planted", CUBE, 256, (4,)),
)
QUICK = (
    Case("planted", (16, 16, 9), 20, (4,), published=((4, 1),)),
    Case("integers", (16, 16, 9), 8, (4,)),
    conv("resnet20_cifar10:layer2.1.conv2.weight", 32, (4,)),
)


# --- quantized ------------------------------------------------------------------------------------------------------


def solved(path: Path, named: Sequence[tuple[Row, Settings]], repeats: int) -> Row:
    """For each head and settings of CP a row, all in this process, under "rows"."""
    with threadpool_limits(1):
        W = np.load(path)
        warm_up(W.dtype)
        return {"rows": [head | attempted(partial(solved_one, W, chosen, repeats)) for head, chosen in named]}


def solved_one(W: Floats, chosen: Settings, repeats: int) -> Row:
    row = peers.memory_before()
    chosen, iterations = dict(chosen), chosen.get("from_parafac")
    if chosen.pop("from_parafac", 0):
        chosen |= {"init": peers.parafac(peers.as_modes(W), chosen["rank"], iterations), "anneal": 0}
    F, seconds = timed(partial(decomposed, chosen, W), repeats)
    row |= figures(F) | seconds | {"peak_mib": memory_mib("VmHWM"), "status": F.status}
    if chosen.get("paper"):
        row["history"] = [float(f"{error:.5g}") for error in F.history]
    return row


def plain(path: Path, sizes: Mapping[int, float]) -> Row:
    """Other methods of factorq at stored bits per weight ``sizes`` for each number of bits, under "rows"."""
    rows = []
    with threadpool_limits(1):
        W = np.load(path)
        W = W.reshape(len(W), -1)
        small = np.random.default_rng(0).standard_normal((32, 256)).astype(W.dtype)
        for method in PLAIN:
            attempted(partial(stored_as, small, method, 2.0))
            for bits, size in sizes.items():
                head: Row = {"method": method, "bits": bits}
                rows.append(head | attempted(partial(stored_as, W, method, size)))
    return {"rows": rows}


def stored_as(W: Floats, method: str, size: float) -> Row:
    import factorq as fq

    row = peers.memory_before()
    F, seconds = timed(partial(fq.decompose, W, method=method, bits_per_weight=size, rng=0), 1)
    return row | figures(F) | seconds | {"peak_mib": memory_mib("VmHWM")}


def published_rows(case: Case, path: Path, bits: int, sweeps: int, start: int = 0) -> list[Row]:
    """The published method at ``bits``, from factorq's real factors or from those of so many iterations of parafac."""
    head: Row = {"method": f"{PUBLISHED}, from parafac" if start else PUBLISHED, "bits": bits}
    settings = {"rank": case.rank, "bits": bits, "solver": "admm", "paper": True, "max_iter": sweeps}
    answer = isolated(partial(solved, path, [(head, settings | {"from_parafac": start})], 1), PATIENCE)
    return listed(case, answer if "rows" in answer else head | answer, PUBLISHED)


def other_rows(case: Case, path: Path, repeats: int) -> Iterator[list[Row]]:
    """All but the published method, a process for each kind."""
    sizes: dict[int, float] = {}
    for name, variant in VARIANTS.items():
        named = [({"method": name, "bits": b}, {"rank": case.rank, "bits": b, **variant}) for b in case.bits]
        rows = listed(case, isolated(partial(solved, path, named, repeats)), name)
        if name == OURS:
            sizes = {row["bits"]: row["bits_per_weight"] for row in rows if "bits_per_weight" in row}
        yield rows
    rounded = partial(peers.parafac_rows, path, case.rank, case.iterations, case.bits)
    yield listed(case, isolated(rounded), "parafac")
    if sizes:
        yield listed(case, isolated(partial(plain, path, sizes)), ", ".join(PLAIN))


def listed(case: Case, answer: Row, method: str) -> list[Row]:
    """The rows of a process, or one with its note."""
    rows: list[Row] = answer.get("rows", [{"method": method} | answer])
    dropped = ("relative_squared_error",)
    return [peers.short({k: v for k, v in (case.head | row).items() if k not in dropped}) for row in rows]


def quantized_rows(
    cases: Sequence[Case], parts: Collection[str], folder: Path, quick: bool, save: Callable[[list[Row]], object]
) -> None:
    """The rows of the cases, saved as they come: the published method in a thread beside the others."""
    with tempfile.TemporaryDirectory() as temporary, ThreadPoolExecutor(1) as beside:
        paths, late = {}, list[Future[list[Row]]]()
        for case in cases:
            paths[case] = Path(temporary) / f"{len(paths)}.npy"
            row = attempted(partial(kept, case, folder, paths[case]))
            if row:
                save([case.head | {"method": OURS} | row])
                paths.pop(case)
            elif "published" in parts:
                for bits, sweeps, *start in case.published:
                    task = partial(published_rows, case, paths[case], bits, sweeps, *start)
                    late.append(beside.submit(saved, save, task))
        for case, path in paths.items() if "quantized" in parts else ():
            for rows in other_rows(case, path, 3 if case.rank <= 134 and not quick else 1):
                save(rows)
            print(case.head, f"{time.perf_counter() - BEGUN:.0f} s", flush=True)
        for done in late:
            done.result()


def kept(case: Case, folder: Path, path: Path) -> Row:
    np.save(path, case.array(folder))
    return {}


def saved(save: Callable[[list[Row]], object], task: Callable[[], list[Row]]) -> None:
    save(task())


def in_order(rows: Iterable[Row]) -> list[Row]:
    """By tensor, bits and method, with errors and seconds over those of the published method."""
    rows = sorted(rows, key=place)
    keys = ("source", "shape", "rank", "bits")
    reference = {tuple(row.get(k) for k in keys): row for row in rows if row["method"] == PUBLISHED}
    pairs = {"error_ratio": "relative_error", "time_ratio": "seconds"}
    found = []
    for row in rows:
        of = reference.get(tuple(row.get(k) for k in keys), {})
        found.append(row | peers.short({k: row[v] / of[v] for k, v in pairs.items() if row.get(v) and of.get(v)}))
    return found


def place(row: Row) -> tuple[int, int, int]:
    heads, methods = [case.head for case in (*CASES, *QUICK)], list(METHODS)
    head = {k: row.get(k) for k in ("source", "shape", "rank")}
    known = heads.index(head) if head in heads else len(heads)
    return known, -row.get("bits", 99), methods.index(row["method"]) if row["method"] in methods else len(methods)


def redone(row: Row, cases: Sequence[Case], parts: Collection[str]) -> bool:
    """Whether this run makes the row anew."""
    part = "published" if row["method"].startswith(PUBLISHED) else "quantized"
    return part in parts and any(case.head.items() <= row.items() for case in cases)


# --- all of it ------------------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder of the checkpoints")
    parser.add_argument("--json", type=Path, help="where to write (default: results/cp.json, cp_sweeps.json, ..)")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART")
    parser.add_argument("--tensors", nargs="+", metavar="SOURCE", help="only these; the file keeps its other rows")
    parser.add_argument("--quick", action="store_true", help="small tensors, no file by default")
    options = parser.parse_args()
    quick, target = options.quick, options.json or (None if options.quick else RESULTS / "cp.json")
    for part, columns, run in (("sweeps", SWEEP_COLUMNS, sweep_rows), ("memory", MEMORY_COLUMNS, memory_rows)):
        if part in options.only:
            rows = list(run(quick))
            table(rows, columns)
            if target is not None:
                write(f"cp_{part}", rows, target.with_stem(f"{target.stem}_{part}"))
    if {"quantized", "published"}.isdisjoint(options.only):
        return
    cases = [case for case in (QUICK if quick else CASES) if case.source in (options.tensors or [case.source])]
    before = json.loads(target.read_text(encoding="utf-8"))["rows"] if target is not None and target.exists() else []
    rows = [row for row in before if not redone(row, cases, options.only)]
    lock = Lock()

    def save(more: list[Row]) -> None:
        with lock:
            rows.extend(more)
            if target is not None:
                write("cp", in_order(rows), target)

    quantized_rows(cases, options.only, options.data, quick, save)
    table(in_order(rows), COLUMNS)


BEGUN = time.perf_counter()

if __name__ == "__main__":
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ.setdefault(name, "1")  # of the processes in which everything is measured
    main()
