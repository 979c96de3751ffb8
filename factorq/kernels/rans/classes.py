"""Classes of the rows or columns of a matrix of symbols, each class with a frequency table of its own.

Rows are put in the class whose table codes them in the fewest bits, tables are made from the rows of their class, and
so on as in k-means, from quantiles of the bits that a row takes with one table for all. All sums are of integers: the
result does not depend on the order of summation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import twin
from .tables import Counts

NONE, ROWS, COLUMNS = 0, 1, 2
_NUMBERS = (2, 4, 8, 16)
_STEPS = 6
_LEAST = 16  # symbols in a row below which its class cannot pay
_MOST_COUNTS = 1 << 22


@dataclass(frozen=True, eq=False)
class Classes:
    """A class for each row or column.

    Parameters
    ----------
    kind : int
        NONE, ROWS or COLUMNS.
    option : int
        Which of the offered numbers of columns.
    columns : int
        That number.
    labels : NDArray, (rows,) or (columns,) int64
        Classes from 0; (0,) for NONE.
    counts : NDArray, (C, K) int64
        The symbols of each class.
    """

    kind: int
    option: int
    columns: int
    labels: NDArray[np.int64]
    counts: Counts

    @property
    def nbits(self) -> int:
        """Bits that the labels take."""
        return self.labels.size * width_of(len(self.counts))

    @property
    def guess(self) -> float:
        """Bits of the symbols and of the labels, and 3 for each frequency."""
        return _entropy(self.counts) + self.nbits + 3 * self.counts.size

    def contexts(self, size: int) -> NDArray[np.uint8]:
        """The class of each of ``size`` symbols; (0,) for NONE."""
        return expanded(self.kind, self.columns, self.labels, 0, size)


def width_of(classes: int) -> int:
    """Bits of a label."""
    return (classes - 1).bit_length()


def expanded(kind: int, columns: int, labels: NDArray[np.int64], first: int, stop: int) -> NDArray[np.uint8]:
    """The labels of symbols ``first`` to ``stop`` in a matrix of ``columns`` columns."""
    small = labels.astype(np.uint8)
    if kind == NONE:
        return small
    top = first // columns
    rows = -(-stop // columns) - top
    wide = np.repeat(small[top : top + rows], columns) if kind == ROWS else np.tile(small, rows)
    return wide[first - top * columns : stop - top * columns]


def alike(counts: Counts) -> Classes:
    """One class for all, from counts (1, K)."""
    return Classes(NONE, 0, 0, np.empty(0, np.int64), counts)


def parted(symbols: NDArray[Any], width: int, columns: tuple[int, ...]) -> list[Classes]:
    """The classes of rows and of columns that may pay, for symbols (n,) below ``2**width``."""
    found = []
    for option, number in enumerate(columns):
        for kind, rows in ((ROWS, symbols.size // number), (COLUMNS, number)):
            if rows < 2 or symbols.size < _LEAST * rows or rows << width > _MOST_COUNTS:
                continue
            counts = np.zeros((rows, 1 << width), np.int64)
            twin(__package__, symbols).histogram(symbols, number, kind == ROWS, counts)
            if _differ(counts):
                for labels in _clusters(counts):
                    merged = np.zeros((int(labels.max()) + 1, counts.shape[1]), np.int64)
                    np.add.at(merged, labels, counts)
                    found.append(Classes(kind, option, number, labels, merged))
    return found


def _differ(counts: Counts) -> bool:
    """Whether rows save more with tables of their own than samples of one distribution would by chance.

    Chance gives 0.72 bit per row and free frequency; classes get a part of what rows get.
    """
    pooled = counts.sum(axis=0, keepdims=True)
    gain = _entropy(pooled) - _entropy(counts)
    chance = 0.72 * (len(counts) - 1) * (np.count_nonzero(pooled) - 1)
    return bool(gain > 1.1 * chance + len(counts) + 32)


def _entropy(counts: Counts) -> float:
    """Bits of all symbols, each row by its own frequencies."""
    total = counts.sum(axis=1)
    return float((total * np.log2(np.maximum(total, 1))).sum() - (counts * np.log2(np.maximum(counts, 1))).sum())


def _clusters(counts: Counts) -> list[NDArray[np.int64]]:
    """Labels (rows,) for each number of classes that rows can fill."""
    pooled = counts.sum(axis=0, keepdims=True)
    ranks = np.empty(len(counts), np.int64)
    ranks[np.argsort((counts @ _lengths(pooled, pooled).T)[:, 0], kind="stable")] = np.arange(len(counts))
    found = []
    for number in _NUMBERS:
        if number > len(counts):
            break
        labels = ranks * number // len(counts)
        for _ in range(_STEPS):
            merged = np.zeros((number, counts.shape[1]), np.int64)
            np.add.at(merged, labels, counts)
            again = np.argmin(counts @ _lengths(merged, pooled).T, axis=1)
            if np.array_equal(again, labels):
                break
            labels = again
        used, labels = np.unique(labels, return_inverse=True)
        if len(used) > 1:
            found.append(labels.astype(np.int64))
    return found


def _lengths(counts: Counts, pooled: Counts) -> NDArray[np.int64]:
    """Code lengths (C, K) in 1/256 bit, the tables mixed with 16 symbols of the pooled one."""
    share = (pooled + 1 / pooled.size) / (pooled.sum() + 1)
    mixed = counts + 16 * share
    return np.asarray(np.rint(-256 * np.log2(mixed / mixed.sum(axis=1, keepdims=True))), np.int64)
