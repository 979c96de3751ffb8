"""The result, and the files that hold it.

A file outlives the method that made it: reading needs forms and codecs only.
"""

from .files import contents, load, read_tensor, save, write_tensor
from .result import Factorization, Unknown
from .trainable import Trainable

__all__ = ["Factorization", "Trainable", "Unknown", "contents", "load", "read_tensor", "save", "write_tensor"]
