"""A matrix as tiles side by side, and their factors as those of the whole matrix."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Tile = tuple[int, int]
Bools = NDArray[np.bool_]


def cut(x: NDArray[Any], tile: Tile) -> NDArray[Any]:
    """The tiles (R * C, m', n') of x (m, n), row after row of them, zeros where the last ones reach past the end."""
    rows, columns = tile
    grid = grid_of(x.shape, tile)
    padded = np.pad(x, [(0, -size % step) for size, step in zip(x.shape, tile, strict=True)])
    tiles = padded.reshape(grid[0], rows, grid[1], columns).transpose(0, 2, 1, 3)
    return np.ascontiguousarray(tiles).reshape(-1, rows, columns)


def grid_of(shape: tuple[int, ...], tile: Tile) -> tuple[int, int]:
    """Rows R and columns C of tiles."""
    return -(-shape[0] // tile[0]), -(-shape[1] // tile[1])


def joined(A: Bools, B: Bools, shape: tuple[int, int]) -> tuple[Bools, Bools]:
    """Factors (R * C, m', k) and (R * C, n', k) of the tiles as (C, m, k) and (R, n, k) of the matrix (m, n)."""
    R, C = grid_of(shape, (A.shape[1], B.shape[1]))
    left = A.reshape(R, C, *A.shape[1:]).transpose(1, 0, 2, 3).reshape(C, -1, A.shape[2])
    right = B.reshape(R, -1, B.shape[2])
    return np.ascontiguousarray(left[:, : shape[0]]), np.ascontiguousarray(right[:, : shape[1]])


def clear_padding(A: Bools, B: Bools, shape: tuple[int, int]) -> None:
    """Switch off what the factors of the last tiles say of rows and columns past the end of a matrix (m, n)."""
    R, C = grid_of(shape, (A.shape[1], B.shape[1]))
    A.reshape(R, C, *A.shape[1:])[-1, :, A.shape[1] - (-shape[0] % A.shape[1]) :] = False
    B.reshape(R, C, *B.shape[1:])[:, -1, B.shape[1] - (-shape[1] % B.shape[1]) :] = False
