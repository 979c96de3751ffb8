"""The slices compiled: 512 of them side by side wherever that is possible."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..network import EXHAUSTIVE, WIDTH, network, tile_count, tile_width
from .decoding import decode
from .elimination import Words, eliminate
from .exhaustive import search

Bytes = NDArray[np.uint8]

_ROW = WIDTH // 8


def solve(care: NDArray[np.bool_], values: NDArray[np.uint64], planes: int, n_in: int, n_out: int, seed: int) -> Bytes:
    """Streams (planes, bytes) of the inputs of all slices."""
    tiles = tile_count(care.size, n_out)
    inputs = np.zeros((planes, tiles, n_in, _ROW), np.uint8)
    if not tiles:
        return inputs.reshape(planes, 0)
    last = tile_width(care.size, n_out, tiles - 1) // 8
    rows = network(n_in, n_out, seed).reshape(-1)
    solver = search if n_in <= EXHAUSTIVE else eliminate
    values = values.view()
    values.flags.writeable = False  # for one compiled version
    words = _tiled(np.packbits(care, bitorder="little"), tiles, n_out, last)
    solver(words, values, planes, rows, n_in, n_out, tiles, inputs.view(np.uint64).reshape(-1))
    parts = [inputs[:, :-1], inputs[:, -1:, :, :last]]
    return np.concatenate([part.reshape(planes, -1) for part in parts], axis=1)


def outputs(stream: Bytes, size: int, n_in: int, n_out: int, seed: int, first: int, stop: int) -> Bytes:
    """Bitmaps (planes, bytes) of the outputs of the tiles first..stop."""
    positions = max(min(stop * WIDTH * n_out, size) - first * WIDTH * n_out, 0)
    whole, rest = divmod(positions, WIDTH * n_out)  # tiles without missing outputs, positions of the last one
    nbytes, at, full = (positions + 7) // 8, whole * n_out * _ROW, n_in * _ROW
    bits = np.empty((len(stream), nbytes), np.uint8)
    for plane, out in zip(stream, bits, strict=True):
        if whole:
            decode(plane[first * full :], whole, n_in, n_out, seed, n_out, out)
        if rest:
            width = tile_width(size, n_out, stop - 1) // 8
            used = -(-rest // (8 * width))
            inputs, tile = np.zeros((n_in, _ROW), np.uint8), np.empty((n_out, _ROW), np.uint8)
            inputs[:, :width] = plane[(stop - 1) * full :].reshape(n_in, width)
            decode(inputs.reshape(-1), 1, n_in, n_out, seed, used, tile.reshape(-1))
            out[at:] = tile[:used, :width].reshape(-1)[: nbytes - at]
            if rest % 8:
                out[-1] &= np.uint8((1 << rest % 8) - 1)
    return bits


def _tiled(bitmap: Bytes, tiles: int, n_out: int, last: int) -> Words:
    """The words of ``tiles`` * ``n_out`` rows, those of the last tile filled up from ``last`` bytes with zeros."""
    rows = np.zeros((tiles, n_out, _ROW), np.uint8)
    full = (tiles - 1) * n_out * _ROW
    rows[:-1] = bitmap[:full].reshape(tiles - 1, n_out, _ROW)
    rest = np.zeros(n_out * last, np.uint8)
    rest[: bitmap.size - full] = bitmap[full:]
    rows[-1, :, :last] = rest.reshape(n_out, last)
    return rows.view(np.uint64).reshape(-1)
