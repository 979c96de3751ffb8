"""How numbers are written: one ``Encoded`` class per file."""

from .base import Encoded
from .bitshift import BitShift
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

__all__ = [
    "BitShift",
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
]
