"""Threads: kernels that hold no lock run on a pool of our own, and BLAS keeps to one thread meanwhile.

Two pools that wait for work by spinning take the cores from each other. The one here sleeps while it waits, is made
once, and is not entered twice: what runs on it runs its own parts in turn.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from contextvars import copy_context
from functools import cache
from typing import Any, TypeVar

T = TypeVar("T")
U = TypeVar("U")

_NAME = "factorq"


def workers() -> int:
    """Threads that kernels may use: what NUMBA_NUM_THREADS or OMP_NUM_THREADS says, at most the cores given to us."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    asked = os.environ.get("NUMBA_NUM_THREADS") or os.environ.get("OMP_NUM_THREADS") or ""
    asked = asked.partition(",")[0].strip()  # OpenMP has a number for each level
    return max(1, min(cores, int(asked))) if asked.isdecimal() else cores


def product_workers() -> int:
    """Threads of a product: as many as BLAS would use for it at this moment, if that is fewer."""
    if workers() == 1:
        return 1
    return min(workers(), _blas_threads())


def _blas_threads() -> int:
    return min([int(library.num_threads or 1) for library in _blas()] or [1])


def _blas() -> list[Any]:
    return [library for library in _libraries().lib_controllers if library.user_api == "blas"]


def each(function: Callable[[T], U], items: Sequence[T], threads: int | None = None) -> list[U]:
    """``function`` of every item in order, on ``threads`` threads (:func:`workers` if None)."""
    count = min(workers() if threads is None else threads, len(items))
    if count < 2 or threading.current_thread().name.startswith(_NAME):
        return list(map(function, items))
    if count == len(items):  # the caller is one of the threads
        futures = [_pool(workers()).submit(copy_context().run, function, item) for item in items[1:]]
        try:
            first = function(items[0])
        except BaseException:
            for future in futures:
                future.cancel()
            raise
        finally:
            wait(futures)  # nothing goes on when this has ended, however it ends
        return [first, *(future.result() for future in futures)]
    return _shared(function, items, count)


def ranges(count: int, threads: int, multiple: int = 1) -> list[slice]:
    """``count`` things in at most ``threads`` ranges of about one size, which begin at multiples of ``multiple``."""
    step = -(-count // max(threads, 1))
    step = max(multiple, -(-step // multiple) * multiple)
    return [slice(start, min(start + step, count)) for start in range(0, count, step)]


@contextmanager
def one_thread_each() -> Iterator[int]:
    """The number of threads for :func:`each` whose functions call BLAS, which has one thread in this context.

    In a thread of the caller's BLAS is the caller's: where it may have several threads, there is one of ours.
    """
    count = product_workers()
    if threading.current_thread() is not threading.main_thread() and _blas_threads() > 1:
        count = 1
    with one_thread():
        yield count


@contextmanager
def one_thread() -> Iterator[None]:
    """A context with one BLAS thread; where the caller runs threads of its own, the setting is the caller's.

    A matrix product on two threads rounds otherwise, and an angle or a code at a tie would change with it.
    """
    libraries = _blas() if threading.current_thread() is threading.main_thread() else []
    before = [library.num_threads for library in libraries]
    try:  # not by threadpoolctl's own context, which an interrupt can leave with one thread for good
        for library in libraries:
            library.set_num_threads(1)
        yield
    finally:
        for library, count in zip(libraries, before, strict=True):
            library.set_num_threads(count)


def _shared(function: Callable[[T], U], items: Sequence[T], count: int) -> list[U]:
    """Threads take the next item when they are done with one."""
    results: list[Any] = [None] * len(items)
    turn = iter(range(len(items)))
    lock = threading.Lock()
    failed = False

    def work(_: int) -> None:
        nonlocal failed
        while True:
            with lock:
                i = None if failed else next(turn, None)
            if i is None:
                return
            try:
                results[i] = function(items[i])
            except BaseException:
                failed = True
                raise

    each(work, range(count), count)
    return results


@cache
def _pool(size: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(size, thread_name_prefix=_NAME)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # threads do not survive a fork


@cache
def _libraries() -> Any:
    from threadpoolctl import ThreadpoolController  # finding the libraries takes a millisecond: once is enough

    return ThreadpoolController()
