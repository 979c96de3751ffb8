"""Many tensors: stream in, choose per tensor, run, write.

Files are safetensors, one or several with an index; memory holds one tensor at a time, here or in each worker.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .expression import parse
    from .reading import decompress, info, verify
    from .report import Report, Row
    from .writing import compress

_HOME = {
    "compress": "writing",
    "decompress": "reading",
    "info": "reading",
    "parse": "expression",
    "Report": "report",
    "Row": "report",
    "verify": "reading",
}

__all__ = ["Report", "Row", "compress", "decompress", "info", "parse", "verify"]


def __getattr__(name: str) -> Any:
    """Load a name's file on first use (PEP 562): ``info`` reads headers and needs no solver."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
