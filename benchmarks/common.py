"""What every benchmark shares: timing in alternation, a description of the machine, JSON and table output.

Times are process CPU seconds, so that other work on the same machine disturbs them little; the callables of one
comparison take turns, so that a drift of the clock meets all of them alike.
"""

from __future__ import annotations

import gc
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a checkout runs its own factorq, installed or not
RESULTS = Path(__file__).resolve().parent / "results"
PACKAGES = ("numpy", "scipy", "numba", "llvmlite")


@dataclass(frozen=True)
class Timing:
    """Process CPU seconds of one call: the median of the repeats, the fastest and the slowest."""

    median: float
    low: float
    high: float


def measure(callables: Mapping[str, Callable[[], object]], repeats: int = 7) -> dict[str, Timing]:
    """Process CPU seconds of each callable: one warm-up call each, then ``repeats`` rounds in which all take turns."""
    for call in callables.values():
        call()
    seconds: dict[str, list[float]] = {name: [] for name in callables}
    collecting = gc.isenabled()
    gc.disable()
    try:
        for turn in range(repeats):
            names = list(callables)
            for name in names if turn % 2 == 0 else reversed(names):
                call = callables[name]
                start = time.process_time()
                call()
                seconds[name].append(time.process_time() - start)
    finally:
        if collecting:
            gc.enable()
    return {name: Timing(median(taken), min(taken), max(taken)) for name, taken in seconds.items()}


def machine() -> dict[str, Any]:
    """Describe this machine: CPU model, usable cores, interpreter and library versions, thread limits in force."""
    limits = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
    return {
        "cpu": _cpu_model(),
        "cores": _usable_cores(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
        "threads": {name: os.environ[name] for name in limits if name in os.environ} | {"blas": _blas_threads()},
    }


def write(subject: str, rows: Sequence[Mapping[str, Any]], path: str | Path | None = None) -> Path:
    """Write ``{"subject", "machine", "rows"}`` as JSON to ``path`` (default ``results/<subject>.json``)."""
    target = RESULTS / f"{subject}.json" if path is None else Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    report = {"subject": subject, "machine": machine(), "rows": [dict(row) for row in rows]}
    target.write_text(json.dumps(report, indent=1, default=_plain) + "\n", encoding="utf-8")
    return target


def table(rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Print ``rows`` as an aligned text table with the given columns; a missing entry prints as a dash."""
    cells = [list(columns), *([_cell(row.get(name)) for name in columns] for row in rows)]
    widths = [max(len(line[k]) for line in cells) for k in range(len(columns))]
    for line in cells:
        print("  ".join(text.rjust(width) for text, width in zip(line, widths, strict=True)))


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _plain(value: object) -> object:
    """NumPy scalars and arrays as JSON numbers and lists; anything else as text."""
    to_list = getattr(value, "tolist", None)
    return str(value) if to_list is None else to_list()


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _blas_threads() -> int | None:
    try:
        from threadpoolctl import threadpool_info
    except ImportError:
        return None
    return max((pool["num_threads"] for pool in threadpool_info()), default=None)
