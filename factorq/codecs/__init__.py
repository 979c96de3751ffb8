"""How numbers are written: one ``Encoded`` class per file."""

from .base import Encoded
from .codebook import Codebook
from .dense import Dense
from .grid import Grid
from .mask import Mask
from .onehot import OneHot

__all__ = ["Codebook", "Dense", "Encoded", "Grid", "Mask", "OneHot"]
