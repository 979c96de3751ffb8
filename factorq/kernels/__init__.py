"""Hot loops. Each subject is a folder: a door (contract, checks, one dispatch), the reference, the twins of it."""

from __future__ import annotations

import os
import sys
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from ..arrays import is_cupy, is_host, library
from ..errors import refuse_type


def twin(door: str, *arrays: Any) -> ModuleType:
    """The twin of the kernel folder ``door`` that serves ``arrays``: Numba's for NumPy arrays, CUDA's for CuPy arrays.

    The reference, which is array code, serves all others; also CuPy arrays where a folder has no CUDA twin, and NumPy
    arrays where Numba's compiler is switched off, and on big-endian hosts: the twins read bytes as little-endian words.

    Loaded on first use, so that importing the package loads neither Numba nor CuPy.

    Raises
    ------
    ArgumentTypeError
        If the arrays are of different libraries.
    """
    if all(map(is_host, arrays)):
        able = os.environ.get("NUMBA_DISABLE_JIT", "0") == "0" and sys.byteorder == "little"
        return import_module(f"{door}.{'numba_twin' if able else 'reference'}")
    if len(names := sorted(set(map(library, arrays)))) > 1:
        remedy = "move them to one side first"
        raise refuse_type("arrays", found=" and ".join(names), allowed="arrays of one library", remedy=remedy)
    return import_module(f"{door}.{'cuda_twin' if is_cupy(arrays[0]) and _has_cuda(door) else 'reference'}")


@cache
def _has_cuda(door: str) -> bool:
    return find_spec(f"{door}.cuda_twin") is not None
