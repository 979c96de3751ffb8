"""One BLAS thread: a matrix product on two rounds otherwise, and an angle or a code at a tie would change with it."""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any


@cache
def _libraries() -> Any:
    from threadpoolctl import ThreadpoolController  # finding the libraries takes a millisecond: once is enough

    return ThreadpoolController()


def one_thread() -> AbstractContextManager[Any]:
    """A context with one BLAS thread; where the caller runs threads of its own, the setting is the caller's."""
    if threading.current_thread() is not threading.main_thread():
        return nullcontext()
    context: AbstractContextManager[Any] = _libraries().limit(limits=1, user_api="blas")
    return context
