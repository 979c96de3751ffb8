"""The specification of the products, in array-API code: the matrix is made, in float64."""

from __future__ import annotations

from ...arrays import Array, namespace
from ..bits import reference as bits_reference
from .layout import Matrix


def matmul(matrix: Matrix, x: Array) -> Array:
    xp = namespace(x)
    return xp.astype(dense(matrix) @ xp.astype(x, xp.float64), xp.float32)


def rmatmul(x: Array, matrix: Matrix) -> Array:
    xp = namespace(x)
    return xp.astype(xp.astype(x, xp.float64) @ dense(matrix), xp.float32)


def dense(matrix: Matrix) -> Array:
    """The matrix (rows, n), float64."""
    xp = namespace(matrix.codes)
    rows, n = matrix.shape
    codes = bits_reference.unpack(matrix.codes, matrix.bits, rows * n)
    if matrix.levels is None:
        values = xp.astype(codes, xp.float64) - matrix.zero
    else:
        values = xp.take(xp.astype(matrix.levels, xp.float64), xp.astype(codes, xp.int64))
    values = xp.reshape(values, (rows, n))
    if matrix.scales is not None:
        values = values * _spread(matrix, matrix.scales)
    if matrix.minima is not None:
        values = values + _spread(matrix, matrix.minima)
    return values


def _spread(matrix: Matrix, numbers: Array) -> Array:
    """A number per group for every entry: (rows or 1, n)."""
    xp = namespace(numbers)
    n = matrix.shape[1]
    return xp.repeat(xp.astype(numbers, xp.float64), matrix.group or max(n, 1), axis=1)[:, :n]
