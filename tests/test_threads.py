"""The pool that kernels run on: order, errors, contexts, and what BLAS may do meanwhile."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from threadpoolctl import ThreadpoolController, threadpool_limits

from factorq.kernels import threads


@pytest.fixture(autouse=True)
def three(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "workers", lambda: 3)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 50])
def test_results_are_in_order(count: int) -> None:
    assert threads.each(lambda i: i * i, range(count)) == [i * i for i in range(count)]


@pytest.mark.parametrize("bad", [0, 1, 2])
@pytest.mark.parametrize("count", [3, 40])
def test_an_error_is_raised_and_nothing_goes_on(bad: int, count: int) -> None:
    begun: list[int] = []

    def work(i: int) -> None:
        begun.append(i)
        if i == bad:
            raise KeyError(i)
        time.sleep(0.005)

    with pytest.raises(KeyError):
        threads.each(work, range(count))
    seen = len(begun)
    time.sleep(0.05)
    assert len(begun) == seen < max(count, 4)


def test_nested_calls_run_in_turn() -> None:
    def outer(i: int) -> list[int]:
        return threads.each(lambda j: 10 * i + j, range(4))

    assert threads.each(outer, range(5)) == [[10 * i + j for j in range(4)] for i in range(5)]


def test_the_state_of_numpy_is_that_of_the_caller() -> None:
    with np.errstate(over="raise"):
        assert threads.each(lambda _: np.geterr()["over"], range(9)) == ["raise"] * 9


@pytest.mark.parametrize(("asked", "count"), [("1", 1), ("1,4", 1), ("0", 1), ("none", 2), ("", 2), ("900", 2)])
def test_the_environment_says_how_many(monkeypatch: pytest.MonkeyPatch, asked: str, count: int) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(threads.os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    monkeypatch.delenv("NUMBA_NUM_THREADS", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    assert threads.workers() == count


def test_ranges_cover_all() -> None:
    for count in (0, 1, 7, 64, 65):
        for parts in (1, 2, 5):
            found = threads.ranges(count, parts, 8)
            assert [i for part in found for i in range(part.start, part.stop)] == list(range(count))
            assert all(part.start % 8 == 0 for part in found)
            assert len(found) <= max(parts, 1)


def blas() -> set[int]:
    return {library.num_threads for library in ThreadpoolController().select(user_api="blas").lib_controllers}


def test_blas_has_one_thread_and_then_as_many_as_before() -> None:
    with threadpool_limits(2, user_api="blas"):
        before = blas()
        with threads.one_thread_each() as count:
            assert blas() == {1}
            assert count == min(3, *before)
        assert blas() == before
        with pytest.raises(KeyError), threads.one_thread():
            raise KeyError
        assert blas() == before


def test_in_a_thread_of_the_callers_blas_is_the_callers() -> None:
    found = []

    def work() -> None:
        with threads.one_thread_each() as count:
            found.append((count, blas()))

    for limit in (1, 2):
        with threadpool_limits(limit, user_api="blas"):
            before = blas()
            thread = threading.Thread(target=work)
            thread.start()
            thread.join()
            count, inside = found.pop()
            assert inside == before
            assert count == 1  # of ours, where BLAS has several; where it has one, as many as BLAS would have
