"""What the CUDA twins share: their kernels compiled once, launches through CuPy, tables on a device.

The kernels are CUDA C++ in a file beside each twin, compiled when first used. Not yet measured on a GPU.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arrays.transfer import note_to_device

THREADS = 256
"""Threads of a block, where a kernel does not ask for another number."""
SHARED = 48 << 10
"""Bytes of shared memory that a block gets on every GPU without asking for more."""
MOST_BLOCKS = 65535
"""Along the second and third axis of a grid."""
RUN = 4
"""Neighbouring values of a thread, where values are many."""


@cache
def _kernel(source: Path, name: str, defines: tuple[str, ...] = ()) -> Any:
    """The kernel ``name`` of a file; CuPy keeps its binary for each device and on disk."""
    import cupy

    return cupy.RawKernel(text(source), name, options=("--std=c++17", "--fmad=false", *defines))


def text(source: Path) -> str:
    """A file with those that it includes by a path of its own: CuPy's caches know a kernel by its text."""
    code = source.read_text(encoding="utf-8")
    return re.sub(r'^#include "(.*)"$', lambda found: text(source.parent / found[1]), code, flags=re.MULTILINE)


def launch(
    source: Path,
    name: str,
    grid: tuple[int, int, int],
    *arguments: Any,
    shared: int = 0,
    threads: int = THREADS,
    **defines: object,
) -> None:
    """Run a kernel on the current device.

    Parameters
    ----------
    source : Path
        The file it stands in.
    name : str
    grid : (x, y, z)
        Blocks; nothing is run if there are none.
    *arguments
        CuPy arrays, and NumPy scalars of exactly the types in the kernel's signature.
    shared : int
        Bytes of shared memory of a block, at most :data:`SHARED`.
    threads : int
        Threads of a block.
    **defines
        What names in the file stand for: it is compiled once for each set.
    """
    if all(grid):
        options = tuple(f"-D{key}={value}" for key, value in defines.items())
        _kernel(source, name, options)(grid, (threads, 1, 1), arguments, shared_mem=shared)


def over_rows(rows: int, n: int) -> tuple[tuple[int, int, int], np.uint32]:
    """Blocks and ``wide`` for a thread per run of four values of a matrix: ``wide`` threads side by side in a row."""
    wide = min(THREADS, 1 << (-(-n // RUN) - 1).bit_length()) if n else 1
    return (-(-n // (RUN * wide)), min(-(-rows // (THREADS // wide)), MOST_BLOCKS), 1), np.uint32(wide)


def real(dtype: Any) -> str:
    """How CUDA calls a float dtype."""
    return "double" if "float64" in str(dtype) else "float"


def placed(x: NDArray[Any]) -> Any:
    """``x`` on the current device, for streams of any kind: the copy has ended."""
    import cupy

    copy = cupy.asarray(note_to_device(x))
    cupy.cuda.get_current_stream().synchronize()
    return copy
