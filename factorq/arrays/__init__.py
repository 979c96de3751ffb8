"""The door for arrays: which library owns them, how they reach kernels and the host, where results go back; randomness.

The only room of the package that names array libraries. Everything above it works on plain array code. Two kinds of
arrays are computed with: NumPy arrays in the memory of the host, and CuPy arrays in that of a GPU; those of all other
libraries are read as one of them, without a copy where the library shares its memory (:func:`native`).
"""

from .checks import MAX_AXES, check_finite, check_weight, generator
from .home import HOST, Home
from .libraries import FLOATS, NUMPY, Array, contiguous, dtype_name, is_array, is_cupy, is_host, library, namespace
from .transfer import Transfers, beside, constant, native, needs_gradient, on_device, to_host, transfers

__all__ = [
    "FLOATS",
    "HOST",
    "MAX_AXES",
    "NUMPY",
    "Array",
    "Home",
    "Transfers",
    "beside",
    "check_finite",
    "check_weight",
    "constant",
    "contiguous",
    "dtype_name",
    "generator",
    "is_array",
    "is_cupy",
    "is_host",
    "library",
    "namespace",
    "native",
    "needs_gradient",
    "on_device",
    "to_host",
    "transfers",
]
