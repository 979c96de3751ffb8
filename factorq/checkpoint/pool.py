"""One tensor at a time: in this process, in a joblib pool, or on a Dask cluster; the results come in order."""

from __future__ import annotations

import math
import os
import threading
import time
import zlib
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import BrokenExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from ..arrays import check_finite
from ..artifact import Reader
from ..decompose import Plan, decompose, explain
from ..errors import ArgumentError, ArtifactError, refuse
from ..measure import norm
from ..methods import Method, Trellis
from ..named import settings
from .workers import deaf, quiet, threads_suffice

_AHEAD = 2  # tensors given to each worker ahead of time: one that runs, one that waits


@dataclass(frozen=True)
class Recipe:
    """What to do with each tensor: the arguments of :func:`factorq.decompose`, a group size, a seed.

    ``sensitivity`` divides the step of a tensor by its root. A ``draft`` asks for a number instead of the factors: the
    norm of the tensor, or the bytes that it will take, estimated on a sample if it is large.
    """

    rank: int | None = None
    bits: int | tuple[int, ...] | None = None
    sparsity: float | None = None
    method: Method | str | None = None
    bits_per_weight: float | None = None
    group: int | None = None
    seed: int = 0
    store: str | None = None
    sensitivity: Mapping[str, float] = field(default_factory=dict)
    draft: Literal["", "norm", "nbytes"] = ""

    @property
    def options(self) -> dict[str, Any]:
        """The arguments of the front door."""
        names = ("rank", "bits", "sparsity", "method", "bits_per_weight", "store")
        given = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        # Groups are those of a grid: the trellis, which bits alone would choose, has none.
        return {"method": "scalar"} | given if self.group is not None and self.rank is None else given

    def plan(self, W: Any) -> Plan:
        """What is done with an array, or with one of a shape, as :func:`factorq.explain` says it."""
        plan = explain(W, **self.options)
        if self.group is None:
            return plan
        if "group" not in [field.name for field in settings(type(plan.method))]:
            remedy = "set it in --method, for example 'scalar(bits=4, group=64)'"
            raise refuse("group", found=f"it with {plan.method.id}", allowed="a method that has groups", remedy=remedy)
        if self.bits_per_weight is not None:
            raise refuse("group", found="it together with bits_per_weight, which chooses it", allowed="one of the two")
        return replace(plan, method=_with_group(plan.method, self.group))

    def at_step(self, step: float) -> Recipe:
        """The same with one step of the trellis for all tensors."""
        chosen = self.method if isinstance(self.method, Trellis) else Trellis(**Trellis.drafts)
        return replace(self, method=replace(chosen, bits=None, step=step), bits_per_weight=None)

    def for_tensor(self, name: str) -> Recipe:
        """The recipe for the tensor ``name``, whose errors may count more or less than others'."""
        weight = self.sensitivity.get(name, 1.0)
        if weight == 1.0 or not isinstance(self.method, Trellis) or self.method.step is None:
            return self
        return replace(self, method=replace(self.method, step=self.method.step / math.sqrt(weight)))

    def run(self, W: NDArray[Any], name: str) -> Any:
        """The factorization of the tensor ``name``: its randomness depends on the seed and the name alone."""
        rng = np.random.default_rng(np.random.SeedSequence([self.seed, zlib.crc32(name.encode())]))
        if self.group is None:
            return decompose(W, rng=rng, **self.options)
        return decompose(W, method=self.plan(W).method, rng=rng, store=self.store)


def _with_group(method: Any, group: int) -> Method:
    changed: Method = replace(method, group=group)
    return changed


@dataclass(frozen=True)
class Outcome:
    """What a worker sends back: the record and the buffers of the stored factors, why there are none, or a number."""

    seconds: float
    record: Mapping[str, Any] | None = None
    buffers: Mapping[str, NDArray[Any]] | None = None
    norm: float | None = None
    reason: str = ""
    number: float = 0.0


def work(path: str, stamp: tuple[int, int], name: str, recipe: Recipe) -> Outcome:
    """Read the tensor ``name`` of the file ``path`` and factor it, with one BLAS thread."""
    # One BLAS thread everywhere, not only in pools: the last bits of a product depend on the number of threads. The
    # limit is the process's, so that threads of a pool have it from where they were started.
    with threadpool_limits(1) if threading.current_thread() is threading.main_thread() else nullcontext():
        start = time.perf_counter()
        W = _reader(path, stamp).read(name)
        _check(W, path, name)
        recipe = recipe.for_tensor(name)
        if recipe.draft:
            return Outcome(time.perf_counter() - start, number=_number(W, recipe))
        try:
            F = recipe.run(W, name)
        except ArgumentError as error:  # the arguments were checked before: what is left is that they do not fit
            return Outcome(time.perf_counter() - start, reason=error.message)
        if F.nbytes >= W.nbytes:
            reason = f"its factors would take {F.nbytes:,} bytes, not less than its own {W.nbytes:,}"
            return Outcome(time.perf_counter() - start, reason=reason)
        return Outcome(time.perf_counter() - start, F.record(), F.buffers(), norm(W))


def _number(W: NDArray[Any], recipe: Recipe) -> float:
    if recipe.draft == "norm":
        return norm(W)
    if not isinstance(recipe.method, Trellis):
        raise refuse("method", found=repr(recipe.method), allowed="a trellis, whose size can be drafted")
    return min(recipe.method.estimate(W), W.nbytes)


def _check(W: NDArray[Any], path: str, name: str) -> None:
    try:
        check_finite(W, f"{path}: tensor {name!r}")
    except ArgumentError as error:
        raise ArtifactError(error.message) from None


_kept: dict[tuple[str, tuple[int, int]], Reader] = {}
_keeping = threading.Lock()


def _reader(path: str, stamp: tuple[int, int]) -> Reader:
    """The open file ``path``: parsing its header for each of 10,000 tensors would outlast the tensors."""
    with _keeping:
        if (path, stamp) not in _kept:
            _kept[path, stamp] = Reader(path)
        return _kept[path, stamp]


def forget_readers() -> None:
    """Close the files that :func:`work` left open in this process."""
    with _keeping:
        while _kept:
            _kept.popitem()[1].close()


def stamp(path: str) -> tuple[int, int]:
    """What changes when a file does: its size and the time of its last change."""
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns


def in_order(
    tasks: Sequence[tuple[str, tuple[int, int], str]], recipe: Recipe, jobs: int, scheduler: str | None
) -> Generator[Outcome, None, None]:
    """``work`` of each task, in the order of ``tasks`` whoever does it."""
    if scheduler is None and jobs == 1:
        return (work(*task, recipe) for task in tasks)
    return _parallel(tasks, recipe, jobs, scheduler)


def _parallel(
    tasks: Sequence[tuple[str, tuple[int, int], str]], recipe: Recipe, jobs: int, scheduler: str | None
) -> Generator[Outcome, None, None]:
    from joblib import Parallel, delayed

    threads = scheduler is None and threads_suffice(recipe.method, recipe.rank)
    with _backend(jobs, scheduler) as workers, threadpool_limits(1) if threads else nullcontext():
        # batch_size: tensors differ too much in size for joblib's guesses from the first few.
        parallel = Parallel(
            n_jobs=workers, return_as="generator", pre_dispatch=_AHEAD * workers, batch_size=1, max_nbytes=None,
            backend="threading" if threads else None,
        )  # fmt: skip
        with nullcontext() if threads else deaf():
            results = parallel(delayed(work)(*task, recipe) for task in tasks)
        try:
            for outcome in results:  # noqa: UP028 - `yield from` would close joblib's generator, warnings and all
                yield outcome
        except BrokenExecutor:
            raise ArtifactError("a worker process was killed, perhaps for want of memory; try fewer jobs") from None
        finally:
            with quiet():
                results.close()


def _backend(jobs: int, scheduler: str | None) -> AbstractContextManager[int]:
    return nullcontext(jobs) if scheduler is None else _Cluster(scheduler)


class _Cluster(AbstractContextManager[int]):
    """joblib's Dask backend on the cluster at an address, while the block lasts."""

    def __init__(self, address: str) -> None:
        try:
            from dask.distributed import Client
        except ImportError:
            remedy = "pip install 'factorq[distributed]'"
            raise refuse(
                "scheduler", found="no Dask here", allowed="an address where dask is installed", remedy=remedy
            ) from None
        from joblib import parallel_config

        if ":" not in address:  # Dask would try for long, and then print a traceback
            raise refuse("scheduler", found=repr(address), allowed="an address such as tcp://host:8786")
        try:
            self._client: Any = Client(address, timeout=10, set_as_default=False)
        except (OSError, ValueError, TypeError, ImportError) as error:
            found = f"{address!r} ({type(error).__name__})"
            allowed = "the address of a running Dask scheduler, such as tcp://host:8786"
            raise refuse("scheduler", found=found, allowed=allowed) from None
        self._config: Callable[[], Any] = lambda: parallel_config("dask", client=self._client)

    def __enter__(self) -> int:
        self._active = self._config()
        self._active.__enter__()
        return max(1, sum(int(cores) for cores in self._client.ncores().values()))

    def __exit__(self, *stop: Any) -> None:
        self._active.__exit__(*stop)
        self._client.close()
