"""Rows of a benchmark that are measured in a process of their own, or that say why there is no measurement."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

Row = dict[str, Any]
PATIENCE, LIMIT = 20.0, 1800.0  # CPU seconds after which nothing is repeated; wall seconds of a row


def isolated(task: Callable[[], Row], limit: float = LIMIT) -> Row:
    """What ``task`` returns in a fresh process, or a note of what became of it."""
    context = get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=answer, args=(sender, task))
    process.start()
    sender.close()
    with receiver:
        try:
            row: Row = receiver.recv() if receiver.poll(limit) else {"note": f"stopped after {limit:g} s"}
        except EOFError:
            row = {"note": "absent: its process ended without an answer"}
    process.kill()
    process.join()
    return row


def answer(sender: Any, task: Callable[[], Row]) -> None:
    sender.send(attempted(task))


def attempted(task: Callable[[], Row]) -> Row:
    """The row, or why there is none: a method that is missing or refuses is a finding, and the others go on."""
    try:
        return task()
    except Exception as error:
        return {"note": f"absent: {type(error).__name__}: {error}".partition("\n")[0][:160]}


def memory_mib(key: str) -> float:
    """Resident memory of this process, now ("VmRSS") or at its peak ("VmHWM").

    Not from getrusage where Linux tells more: there, a new process starts with its parent's peak.
    """
    status = Path("/proc/self/status")
    if status.exists():
        (line,) = (line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith(key))
        return int(line.split()[1]) / 2**10
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def timed(call: Callable[[], Any], repeats: int) -> tuple[Any, Row]:
    """The result and the seconds of ``call``, repeated while it takes little."""
    taken: list[float] = []
    walls: list[float] = []
    while len(taken) < repeats and sum(taken) < PATIENCE:
        start, wall = time.process_time(), time.perf_counter()
        found = call()
        taken.append(time.process_time() - start)
        walls.append(time.perf_counter() - wall)
    spread = {"seconds": median(taken), "low": min(taken), "high": max(taken), "repeats": len(taken)}
    return found, spread | {"wall_s": median(walls)}


def figures(F: Any) -> Row:
    """Size and error of a factorization, and the settings behind it."""
    errors = {"relative_error": F.relative_error, "relative_squared_error": F.relative_error**2}
    return {"bits_per_weight": F.bits_per_weight, **errors, "settings": str(F.method)}
