"""What the CUDA twins share: their kernels compiled once, launches through CuPy, tables on a device.

The kernels are CUDA C++ in a file beside each twin, compiled when first used. Not yet measured on a GPU.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

THREADS = 256
"""Threads of a block, in all kernels."""
SHARED = 48 << 10
"""Bytes of shared memory that a block gets on every GPU without asking for more."""


@cache
def _kernel(source: Path, name: str) -> Any:
    """The kernel ``name`` of a file; CuPy keeps its binary for each device and on disk."""
    import cupy

    return cupy.RawKernel(source.read_text(encoding="utf-8"), name, options=("--std=c++17",))


def launch(source: Path, name: str, grid: tuple[int, int, int], *arguments: Any, shared: int = 0) -> None:
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
    """
    if all(grid):
        _kernel(source, name)(grid, (THREADS, 1, 1), arguments, shared_mem=shared)


def placed(x: NDArray[Any]) -> Any:
    """``x`` on the current device, for streams of any kind: the copy has ended."""
    import cupy

    copy = cupy.asarray(x)
    cupy.cuda.get_current_stream().synchronize()
    return copy
