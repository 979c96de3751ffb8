"""CP factorisation, ``X[i, j, ..] ~ sum_r w[r] A[i, r] B[j, r] ..``: real factors, and factors on a grid of integers.

``products`` holds the array and a model of it, and visits all modes with two matrix products; ``start`` makes first
factors; ``real`` solves them by annealed alternating least squares, ``integers`` by annealed coordinate moves,
``admm`` by the published alternating direction method.
"""

from .integers import Rounded
from .products import Model, Unfolded

__all__ = ["Model", "Rounded", "Unfolded"]
