"""Hot loops. Each subject is a folder: a door (contract, checks, one dispatch), the reference, the Numba twin."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from types import ModuleType
from typing import Any

from ..arrays import is_host


def twin(door: str, *arrays: Any) -> ModuleType:
    """The twin of the kernel folder ``door`` that serves ``arrays``: Numba for NumPy arrays, else the reference.

    The reference also stands in where Numba's compiler is switched off, and on big-endian hosts: the twins read bytes
    as little-endian words.

    Loaded on first use, so that importing the package never loads Numba.
    """
    able = os.environ.get("NUMBA_DISABLE_JIT", "0") == "0" and sys.byteorder == "little"
    compiled = able and all(is_host(x) for x in arrays)
    name = "numba_twin" if compiled else "reference"
    return import_module(f"{door}.{name}")
