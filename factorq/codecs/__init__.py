"""How numbers are written: one ``Encoded`` class per file."""

from . import xor
from .base import Encoded
from .bitshift import BitShift
from .boolean import Boolean
from .codebook import Codebook
from .dense import Dense
from .entropy import Entropy
from .grid import Grid
from .integers import Integers
from .mask import Mask
from .onehot import OneHot
from .path import Path
from .rotation import Rotation
from .vectors import Vectors
from .xor.store import Xor

__all__ = [
    "BitShift",
    "Boolean",
    "Codebook",
    "Dense",
    "Encoded",
    "Entropy",
    "Grid",
    "Integers",
    "Mask",
    "OneHot",
    "Path",
    "Rotation",
    "Vectors",
    "Xor",
    "xor",
]
