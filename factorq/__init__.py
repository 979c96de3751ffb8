"""factorq: weight matrices and tensors as small, quantized, sparse factors.

``decompose`` turns an array into a :class:`Factorization`; ``save`` and ``load`` keep it in safetensors files.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .calibration import ChannelMoments, SecondMoment
    from .codecs import xor
    from .decompose import Plan, decompose, explain
    from .errors import ArgumentError, ArgumentTypeError, ArtifactError, FactorqError, FileAccessError
    from .factorization import Factorization, Trainable, load, save
    from .methods import (
        CP,
        SVD,
        BooleanPruning,
        FleXOR,
        Method,
        QuantizedSparse,
        Rotated,
        Scalar,
        SparsePCA,
        VectorQuantization,
    )
    from .solvers.loop import Progress

_HOME = {
    "calibration": ("ChannelMoments", "SecondMoment"),
    "codecs": ("xor",),
    "decompose": ("decompose", "explain", "Plan"),
    "errors": ("ArgumentError", "ArgumentTypeError", "ArtifactError", "FactorqError", "FileAccessError"),
    "factorization": ("Factorization", "Trainable", "load", "save"),
    "methods": (
        "BooleanPruning",
        "CP",
        "FleXOR",
        "Method",
        "QuantizedSparse",
        "Rotated",
        "SVD",
        "Scalar",
        "SparsePCA",
        "Trellis",
        "VectorQuantization",
    ),
    "solvers.loop": ("Progress",),
}
_ROOMS = {name: room for room, names in _HOME.items() for name in names}

__all__ = [
    "CP",
    "SVD",
    "ArgumentError",
    "ArgumentTypeError",
    "ArtifactError",
    "BooleanPruning",
    "ChannelMoments",
    "Factorization",
    "FactorqError",
    "FileAccessError",
    "FleXOR",
    "Method",
    "Plan",
    "Progress",
    "QuantizedSparse",
    "Rotated",
    "Scalar",
    "SecondMoment",
    "SparsePCA",
    "Trainable",
    "Trellis",
    "VectorQuantization",
    "__version__",
    "decompose",
    "explain",
    "load",
    "save",
    "xor",
]


def __getattr__(name: str) -> Any:
    """Load a public name's room on first use (PEP 562)."""
    if name == "__version__":
        return import_module("importlib.metadata").version("factorq")
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_ROOMS[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


class _Face(ModuleType):
    """The type of this module: when the room ``decompose`` is imported, its name here stays that of the function."""

    def __setattr__(self, name: str, value: object) -> None:
        super().__setattr__(name, getattr(value, name, value) if isinstance(value, ModuleType) else value)


sys.modules[__name__].__class__ = _Face
