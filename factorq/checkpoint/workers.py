"""The workers of a pool: threads where kernels do the work, else processes, started early and deaf to Ctrl-C."""

from __future__ import annotations

import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module


def threads_suffice(method: object, rank: object) -> bool:
    """Whether compiled kernels, which other threads do not wait for, do nearly all the work: scalars, trellises.

    Threads need no start and share what they make (scalars, 1 GiB at 4 bits: 2 threads 1.8 times as fast as one, 2
    processes 1.3 times; trellis at 3 bits, 2 threads and 2 processes: resnet20 2.5 and 8.5 s, resnet56 11.6 and
    14.2 s); solvers in Python would wait for each other.
    """
    name = method.strip() if isinstance(method, str) else getattr(method, "id", None)
    return rank is None and (name is None or ("+" not in name and name.partition("(")[0] in ("scalar", "trellis")))


@contextmanager
def started(jobs: int) -> Iterator[Callable[[], object]]:
    """Start ``jobs`` processes of the pool that joblib finds again later; the result waits until they have loaded.

    Loading the solvers here and there at the same time saves 0.3 s of a run (2 processes, 1 GiB: 4 s).
    """
    if jobs == 1:
        yield lambda: None
        return
    from joblib import Parallel, delayed

    with deaf():
        loaded = Parallel(n_jobs=jobs, return_as="generator")(delayed(_load)() for _ in range(jobs))
    try:
        yield lambda: list(loaded)
    finally:
        with quiet():
            loaded.close()


def _load() -> None:
    import_module("factorq.checkpoint.pool")


@contextmanager
def deaf() -> Iterator[None]:
    """Processes started in this block ignore Ctrl-C, which reaches them too: this one answers it and ends them."""
    if threading.current_thread() is not threading.main_thread():  # only there may signals be set
        yield
        return
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous or signal.SIG_DFL)


@contextmanager
def quiet() -> Iterator[None]:
    """Without joblib's warning about the tasks that an early end cancels."""
    with warnings.catch_warnings(action="ignore"):
        yield
