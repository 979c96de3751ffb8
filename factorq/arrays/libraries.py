"""Which library owns an array: its name, its namespace, its dtypes."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import array_api_compat as compat
import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from ..errors import refuse_type

Array = Any
"""An array of any array-API namespace; NumPy arrays are spelled ``NDArray`` where only they are meant."""

FLOATS: dict[str, np.dtype[Any]] = {
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float32": np.dtype(np.float32),
    "float64": np.dtype(np.float64),
}
"""The real floating dtypes that factorq takes and gives back, by name."""

NUMPY: ModuleType = compat.array_namespace(np.empty(0))
"""The namespace of NumPy arrays."""


def is_host(x: object) -> bool:
    """Whether ``x`` is a NumPy array, which Numba kernels read directly."""
    return type(x) is np.ndarray or bool(compat.is_numpy_array(x))


def is_cupy(x: object) -> bool:
    """Whether ``x`` is a CuPy array, which CUDA kernels read directly."""
    cupy = sys.modules.get("cupy")  # asked at every call: compat keeps the answer of a time before the import
    return cupy is not None and isinstance(x, getattr(cupy, "ndarray", ()))


def is_array(x: object) -> bool:
    """Whether ``x`` belongs to a library that is known here."""
    return is_host(x) or is_cupy(x) or bool(compat.is_array_api_obj(x))


def namespace(*arrays: Array) -> ModuleType:
    """The namespace that all ``arrays`` share: that of the array API, and for CuPy arrays ``cupy`` itself.

    Raises
    ------
    ArgumentTypeError
        If an argument is no array, or if they belong to different libraries.
    """
    if all(map(is_host, arrays)) and arrays:
        return NUMPY
    if any(map(is_cupy, arrays)):
        if all(map(is_cupy, arrays)):
            return sys.modules["cupy"]
        raise _mixed(*arrays)
    try:
        return compat.array_namespace(*arrays)
    except TypeError:
        raise _mixed(*arrays) from None


def library(x: Any) -> str:
    """The library of an array or of a namespace as users spell it: ``"numpy"``, ``"torch"``, ``"jax"``, ``"cupy"``."""
    if is_cupy(x):
        return "cupy"
    module = x.__name__ if isinstance(x, ModuleType) else type(x).__module__
    name = module.removeprefix("array_api_compat.").split(".")[0]
    return "jax" if name == "jaxlib" else name


def contiguous(x: NDArray[Any]) -> NDArray[Any]:
    """``x``, a NumPy or CuPy array, in C order; one of another library as it is."""
    return x if not hasattr(x, "flags") or x.flags.c_contiguous else x.copy()


def dtype_name(x: Array) -> str:
    """The dtype of ``x`` as a bare name: ``"float32"``, ``"bfloat16"``, whatever the library calls it."""
    return str(x.dtype).rpartition(".")[2]


def _mixed(*arrays: Any) -> TypeError:
    names = sorted({library(x) if is_array(x) else type(x).__name__ for x in arrays})
    return refuse_type(
        "arrays", found=" and ".join(names), allowed="arrays of one library", remedy="convert them first"
    )
