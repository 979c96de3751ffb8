"""The number of kept entries that was asked for: by the price, then line by line."""

from __future__ import annotations

import numpy as np

from .moves import Bools, Floats, batches, choose, covered, words

_WIDEN, _MOST = 1.01, 64  # first step of the price in search of a bracket, squared each time, and most steps
_HALVINGS = 10
_PASSES = 16


def met(tiles: Floats, price: float, A: Bools, B: Bools, count: int) -> tuple[Bools, Bools]:
    """Factors that keep at most ``count`` entries: A moved, with B fixed, at a price where that is so, then filled up.

    Parameters
    ----------
    tiles, A, B : NDArray, (t, m, n) float32, (t, m, k) bool and (t, n, k) bool
        Not changed.
    price : float
        Where the search begins.
    """

    def at(log_price: float) -> tuple[Bools, int]:
        moved, kept = A.copy(), 0
        for batch in batches(tiles):
            V = tiles[batch] - np.float32(np.exp(log_price))
            choose(V, np.ascontiguousarray(V.transpose(0, 2, 1)), moved[batch], B[batch])
            kept += int(np.count_nonzero(covered(words(moved[batch]), words(B[batch]))))
        return moved, kept

    low = high = float(np.log(price))
    best, kept = at(high)
    step = float(np.log(_WIDEN))
    if kept > count:
        while kept > count and high < low + _MOST:
            low, high, step = high, high + step, 2 * step
            best, kept = at(high)
    else:
        while low > high - _MOST:
            low, step = low - step, 2 * step
            found = at(low)
            if found[1] > count:
                break
            best, kept, high = *found, low
    if kept > count:
        best, kept = np.zeros_like(A), 0
    for _ in range(_HALVINGS):
        if kept == count:
            break
        middle = (low + high) / 2
        found = at(middle)
        if found[1] > count:
            low = middle
        else:
            high = middle
            best, kept = found if found[1] >= kept else (best, kept)
    B = B.copy()
    room = fill(tiles, best, B, count - kept)
    fill(tiles.transpose(0, 2, 1), B, best, room)
    return best, B


def fill(tiles: Floats, A: Bools, B: Bools, room: int) -> int:
    """Switch on bits of A, in place, that gain most per entry, until none fits into ``room`` more entries.

    One factor of a row is switched on at a time: it adds what no other factor of the row covers. Returns the room left.
    """
    for _ in range(_PASSES):
        if room <= 0:
            break
        entries = np.zeros(A.shape[:2], np.int64)  # what the best factor of each row would add, and gain per entry
        ratio, which = np.zeros(A.shape[:2]), np.zeros(A.shape[:2], np.int64)
        for batch in batches(tiles):
            bare = (~covered(words(A[batch]), words(B[batch]))).astype(np.float32)
            columns = B[batch].astype(np.float32)
            size, gain = bare @ columns, (tiles[batch] * bare) @ columns
            fits = (size > 0) & (size <= room) & (gain > 0)
            each = np.where(fits, gain / np.maximum(size, 1), 0)
            which[batch] = each.argmax(axis=-1)
            ratio[batch] = np.take_along_axis(each, which[batch][..., None], -1)[..., 0]
            entries[batch] = np.take_along_axis(size, which[batch][..., None], -1)[..., 0]
        order = np.argsort(-ratio, axis=None, kind="stable")
        order = order[: np.count_nonzero(ratio)]
        total = np.cumsum(entries.reshape(-1)[order])
        order = order[: np.searchsorted(total, room, side="right")]
        if not order.size:
            break
        A.reshape(-1, A.shape[2])[order, which.reshape(-1)[order]] = True
        room -= int(total[len(order) - 1])
    return room
