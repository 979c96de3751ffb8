"""The path coder on a GPU: a thread per block, equal to the reference bit for bit.

A block is decoded symbol by symbol, so that what counts is how many there are: :func:`decode_blocks` and
:func:`encode_blocks` take all of an array, the others one, as the other twins do. Not yet measured on a GPU.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...arrays import to_host
from ..cuda_twin import SHARED, THREADS, launch

_SOURCE = Path(__file__).with_name("path.cu")
_WARPS = 512
"""Blocks are spread over so many warps before two of them share one: those wait for each other's escapes."""
_BLOCKS = 512
Numbers = NDArray[np.int64]


def histogram(k: Any, first: int, classes: Any, run: int, union: int, drop: int, least: int, counts: Any) -> None:
    """Add one to ``counts[table, symbol]`` for every integer; symbols outside of the tables count as escapes."""
    fits = 4 * counts.size <= SHARED
    with k.device:
        launch(
            _SOURCE,
            "path_histogram",
            (min(-(-len(k) // THREADS), _BLOCKS), 1, 1),
            k,
            np.uint64(len(k)),
            np.uint64(first),
            classes,
            np.uint64(run),
            *_code(union, drop, least, counts.shape[1]),
            np.uint32(counts.size if fits else 0),
            counts,
            shared=4 * counts.size if fits else 0,
        )


def encode(
    k: Any,
    first: int,
    classes: Any,
    run: int,
    union: int,
    drop: int,
    least: int,
    frequency: Any,
    start: Any,
    words: Any,
) -> int:
    """Write k backwards from the end of ``words``; where the stream begins."""
    places, rows = np.array([0, len(k)]), np.array([[0], [run], [first]])
    found, _ = _encoded(k, places, rows, classes, union, drop, least, frequency, start)
    at = len(words) - len(found)
    words[at:] = found
    return at


def encode_blocks(
    k: Any,
    places: Numbers,
    classes: Any,
    rows: Numbers,
    union: int,
    drop: int,
    least: int,
    frequency: Any,
    start: Any,
) -> tuple[Any, Numbers]:
    """The words of all blocks one after the other, and how many each has, on the host.

    Parameters
    ----------
    k : (n,) int32
        Integers; those of block b are ``k[places[b] : places[b + 1]]``.
    places : NDArray, (blocks + 1,) int64
        On the host, like ``rows``: the layout.
    classes : (rows,) uint8
    rows : NDArray, (3, blocks) int64
        Where the classes of a block begin, the integers of a row, and how many the first row lacks.
    """
    return _encoded(k, places, rows, classes, union, drop, least, frequency, start)


def decode(
    words: Any,
    first: int,
    classes: Any,
    run: int,
    union: int,
    drop: int,
    least: int,
    frequency: Any,
    start: Any,
    slots: Any,
    parity: Any,
    successor: Any,
    k: Any,
) -> bool:
    """Read ``len(k)`` integers; whether the words are a stream of as many."""
    offsets, places, rows = np.array([0, len(words)]), np.array([0, len(k)]), np.array([[0], [run], [first]])
    code = union, drop, least, frequency, start, slots, parity, successor
    return bool(decode_blocks(words, offsets, places, classes, rows, *code, k).all())


def decode_blocks(
    words: Any,
    offsets: Any,
    places: Any,
    classes: Any,
    rows: Any,
    union: int,
    drop: int,
    least: int,
    frequency: Any,
    start: Any,
    slots: Any,
    parity: Any,
    successor: Any,
    k: Any,
) -> Any:
    """Read the integers of all blocks; whether the words of each are a stream of as many, (blocks,) uint8.

    Parameters
    ----------
    words : (n,) uint16
        Those of block b are ``words[offsets[b] : offsets[b + 1]]``.
    offsets, places, rows : array
        On the host or there; ``offsets`` (blocks + 1,) int64, the others as for :func:`encode_blocks`.
    k : (places[-1],) int32
    """
    import cupy

    blocks = len(offsets) - 1
    threads = min(max(blocks // _WARPS, 1), 32)
    with words.device:
        sound = cupy.empty((blocks,), np.uint8)
        launch(
            _SOURCE,
            "path_decode",
            (-(-blocks // threads), 1, 1),
            words,
            cupy.asarray(offsets),
            cupy.asarray(places),
            cupy.asarray(rows),
            np.uint64(blocks),
            classes,
            *_code(union, drop, least, frequency.shape[1]),
            *map(cupy.asarray, (frequency, start, slots, parity, successor)),
            np.uint32(len(parity)),
            k,
            sound,
            shared=4 * (2 * len(parity) + 1),
            threads=threads,
        )
        return sound


def _encoded(
    k: Any,
    places: Numbers,
    rows: Numbers,
    classes: Any,
    union: int,
    drop: int,
    least: int,
    frequency: Any,
    start: Any,
) -> tuple[Any, Numbers]:
    import cupy

    blocks = len(places) - 1
    threads = min(max(blocks // _WARPS, 1), 32)
    with k.device:
        room = cupy.empty((4 * (int(places[-1]) + blocks),), np.uint16)  # a symbol and two halves or low bits each
        begins = cupy.empty((blocks,), np.int64)
        launch(
            _SOURCE,
            "path_encode",
            (-(-blocks // threads), 1, 1),
            k,
            cupy.asarray(places),
            cupy.asarray(rows),
            np.uint64(blocks),
            classes,
            *_code(union, drop, least, frequency.shape[1]),
            *map(cupy.asarray, (frequency, start)),
            room,
            begins,
            threads=threads,
        )
        sizes = 4 * (places[1:] + np.arange(1, blocks + 1)) - to_host(begins)
        offsets = np.concatenate([[0], np.cumsum(sizes)])
        words = cupy.empty((int(offsets[-1]),), np.uint16)
        launch(_SOURCE, "path_gather", (blocks, 1, 1), room, begins, cupy.asarray(offsets), words)
        return words, sizes


def _code(union: int, drop: int, least: int, columns: int) -> tuple[Any, ...]:
    return np.uint32(union), np.uint32(drop), np.int32(least), np.uint32(columns - 1)
