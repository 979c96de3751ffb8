"""The banded network in 64-bit words that stay where they are: no row is ever shifted.

A row with pivot p covers bits p .. p + 127 of the stream: word A = p // 64 from bit p % 64 up, all of word A + 1, and
word A + 2 below bit p % 64. The first and the last share one stored word. Rows whose pivot the reduction meets are
XORed on in that place, with masks instead of shifts, and the next pivot is the lowest bit that is left.

Decoding XORs, for every four bits of a window, one of 16 rows of all outputs of a step. 40 such rows of 256 bits, at
S = .9, are 20 KiB: they stay in the first-level cache, and are loaded as vectors.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numpy.typing import NDArray

from ..words.numba_twin import inline, kernel, popcount, trailing_zeros
from . import DRIFT, LOSS, MARGIN, SPARE, WISHES, Network

Words = NDArray[np.uint64]
Function = Callable[..., Any]

_WORDS, _PLANES = types.Array(types.uint64, 1, "C"), types.Array(types.uint64, 2, "C")
_INDICES, _TABLES = types.Array(types.int64, 1, "C"), types.Array(types.uint64, 4, "C")
_PAIR: Any = types.UniTuple(types.int64, 2)  # type: ignore[no-untyped-call]


def solve(
    network: Network,
    care: NDArray[np.bool_],
    values: Words,
    planes: int,
    starts: NDArray[np.int64],
    slots: int,
) -> NDArray[np.uint8]:
    bits = np.zeros(care.size // 64 + 1, np.uint64)
    bits.view(np.uint8)[: -(-care.size // 8)] = np.packbits(care, bitorder="little")
    low, high, right = (np.zeros(slots, np.uint64) for _ in range(3))
    _eliminate(bits, values, starts, slots, network.rows, network.offsets, low, high, right)
    x = np.zeros((planes, slots // 64 + 3), np.uint64)
    _substitute(low, high, right, x)
    return np.ascontiguousarray(x.view(np.uint8)[:, : -(-slots // 8)])


def outputs(
    network: Network, stream: NDArray[np.uint8], size: int, starts: NDArray[np.int64], slots: int
) -> NDArray[np.uint8]:
    words = np.zeros((len(stream), slots // 64 + 6), np.uint64)  # windows look past the end
    words.view(np.uint8)[:, : stream.shape[1]] = stream
    if slots % 64:
        words[:, slots // 64] &= np.uint64((1 << slots % 64) - 1)
    wide = min(network.step // 64, 4)
    tables = _tables(network, wide)
    out = np.zeros((len(stream), len(starts) * network.step // 64), np.uint64)
    look_up = {1: _look_up_1, 2: _look_up_2, 4: _look_up_4}[wide]
    for plane, made in zip(words, out, strict=True):
        look_up(plane, starts, tables, made, (0,) * (tables.shape[1] // 8))
    if size % 8:
        out.view(np.uint8)[:, size // 8] &= np.uint8((1 << size % 8) - 1)
    return np.ascontiguousarray(out.view(np.uint8)[:, : -(-size // 8)])


def waiting(counts: NDArray[np.int64], starts: NDArray[np.int64], window: int) -> tuple[int, int]:
    lost, left = _waiting(counts, starts, window)
    return lost, left


def follow(
    counts: NDArray[np.int64], runs: int, segment: int, window: int, lead: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], float]:
    blocks = -(-counts.size // runs)
    moves, slots = np.zeros(blocks, np.int64), np.zeros(-(-blocks // segment), np.int64)
    lost = _follow(counts, runs, segment, window, lead, np.array(WISHES), moves, slots)
    return moves, slots, lost


# --- elimination ------------------------------------------------------------------------------------------------------


@kernel(types.void(_WORDS, _WORDS, _INDICES, types.int64, _PLANES, _INDICES, _WORDS, _WORDS, _WORDS))
def _eliminate(
    care: Words,
    values: Words,
    starts: NDArray[np.int64],
    slots: int,
    rows: Words,
    offsets: NDArray[np.int64],
    low: Words,
    high: Words,
    right: Words,
) -> None:
    """Rows by pivot: ``low`` has the first and the last word of each, ``high`` the one between; 0 where none is."""
    full = ~np.uint64(0)
    step = rows.shape[0]
    k = 0
    for word in range(care.size):
        left = care[word]
        t = 64 * word // step
        while left != np.uint64(0):
            j = 64 * word - t * step + trailing_zeros(left)
            left &= left - np.uint64(1)
            begin, b = starts[t] + offsets[j], values[k]
            k += 1
            first, second = rows[j, 0], rows[j, 1]
            if begin + 128 > slots:  # bits beyond the end are no unknowns
                rest = np.uint64(max(slots - begin, 0))
                if rest < np.uint64(64):
                    first &= ~(full << rest)
                    second = np.uint64(0)
                elif rest < np.uint64(128):
                    second &= ~(full << (rest - np.uint64(64)))
            z = np.uint64(begin & 63)
            base = np.uint64(begin) - z
            a = first << z
            c = ((first >> np.uint64(1)) >> (np.uint64(63) - z)) | (second << z)
            e = (second >> np.uint64(1)) >> (np.uint64(63) - z)
            while a | c | e != np.uint64(0):
                stored = False
                while a != np.uint64(0):
                    zeros = np.uint64(trailing_zeros(a))
                    p = base + zeros
                    row = low[p]
                    if row == np.uint64(0):
                        low[p], high[p], right[p] = a | e, c, b
                        stored = True
                        break
                    upper = full << zeros
                    a ^= row & upper
                    e ^= row & ~upper
                    c ^= high[p]
                    b ^= right[p]
                if stored:
                    break
                a, c, e = c, e, np.uint64(0)
                base += np.uint64(64)


@kernel(types.void(_WORDS, _WORDS, _WORDS, _PLANES))
def _substitute(low: Words, high: Words, right: Words, x: Words) -> None:
    """The bits of all planes from the last pivot to the first; free ones are 0."""
    full = ~np.uint64(0)
    for p in range(low.size - 1, -1, -1):
        row = low[p]
        if row == np.uint64(0):
            continue
        z, at = np.uint64(p & 63), p >> 6
        upper = full << z
        for plane in range(x.shape[0]):
            known = (row & upper & x[plane, at]) ^ (high[p] & x[plane, at + 1]) ^ (row & ~upper & x[plane, at + 2])
            bit = ((right[p] >> np.uint64(plane)) ^ np.uint64(popcount(known))) & np.uint64(1)
            x[plane, at] |= bit << z


@kernel(_PAIR(_INDICES, _INDICES, types.int64))
def _waiting(counts: NDArray[np.int64], starts: NDArray[np.int64], window: int) -> tuple[int, int]:
    lost, queue, begin = 0, 0, 0
    for t in range(counts.size):
        queue = max(queue - (starts[t] - begin), 0) + counts[t]
        lost += max(queue - window, 0)
        queue, begin = min(queue, window), starts[t]
    return lost, queue


@kernel(types.float64(_INDICES, *(types.int64,) * 4, _INDICES, _INDICES, _INDICES))
def _follow(
    counts: NDArray[np.int64],
    runs: int,
    segment: int,
    window: int,
    lead: int,
    wishes: NDArray[np.int64],
    moves: NDArray[np.int64],
    slots: NDArray[np.int64],
) -> float:
    """As vectors of the reference, a block took 80 us in NumPy, 2 us here."""
    lost, queue, reached = 0.0, float(lead), -float(lead)
    for b in range(moves.size):
        first, stop = b * runs, min((b + 1) * runs, counts.size)
        part = (stop - first) / runs
        total = 0
        for i in range(first, stop):
            total += counts[i]
        aim = max(queue + total - lead, 0.0)
        least, best, end, most = np.inf, 0.0, 0.0, 0.0
        for k in range(wishes.size):
            move = max(np.rint((aim + wishes[k] * window / 128) / part), 0.0)
            low, high, path, arrived = np.inf, -np.inf, 0.0, 0
            for i in range(first, stop):
                arrived += counts[i]
                path = queue + arrived - move * ((i - first + 1) / runs)
                low, high = min(low, path), max(high, path)
            wasted = max(-low, 0.0)
            over = max(high + wasted - (window - MARGIN), 0.0)
            last = path + wasted - over
            cost = wasted + LOSS * over + DRIFT / window * (last - lead) ** 2
            if cost < least:
                least, best, end, most = cost, move, last, over
        moves[b], queue, lost = int(best), end, lost + most
        reached += best * part
        if (b + 1) % segment == 0 or b + 1 == moves.size:
            slots[b // segment] = int(np.ceil(max(reached, 0.0))) + int(np.rint(max(queue, 0.0))) + SPARE
            queue, reached = float(lead), -float(lead)
    return lost


# --- decoding ---------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=8)
def _tables(network: Network, wide: int) -> Words:
    """tables[c, g, v]: words c * wide .. of a step's outputs, were bits 4 g .. of the window v and all others 0.

    They begin at a multiple of 64 bytes: rows that lie in two cache lines take a third of the speed. All segments of a
    stream share them; to build them takes a quarter of the time of decoding one.
    """
    groups = 8 * -(-(network.window + network.advance) // 32)
    size = network.step // 64 * groups * 16
    raw = np.zeros(size + 8, np.uint64)
    skip = -raw.ctypes.data // 8 % 8
    tables = raw[skip : skip + size].reshape(-1, groups, 16, wide)
    _fill(network.rows, network.offsets, tables)
    return tables


@kernel(types.void(_PLANES, _INDICES, _TABLES))
def _fill(rows: Words, offsets: NDArray[np.int64], tables: Words) -> None:
    wide = tables.shape[3]
    for j in range(rows.shape[0]):
        word, place, offset = j >> 6, np.uint64(j & 63), offsets[j]
        for half in range(2):
            left = rows[j, half]
            while left != np.uint64(0):
                at = offset + 64 * half + trailing_zeros(left)
                left &= left - np.uint64(1)
                tables[word // wide, at >> 2, 1 << (at & 3), word % wide] |= np.uint64(1) << place
    for c in range(tables.shape[0]):
        for g in range(tables.shape[1]):
            for v in range(3, 16):
                lowest = v & -v
                if lowest != v:
                    for k in range(wide):
                        tables[c, g, v, k] = tables[c, g, v - lowest, k] ^ tables[c, g, lowest, k]


@inline
def _look_up_step(typing: Any, tables: Any, chunk: Any, words: Any, start: Any, out: Any, at: Any, halves: Any) -> Any:
    """``out[at], .. = `` XOR over g of ``tables[chunk, g, bits start + 4 g ..]``: all of it vectors, without a loop.

    Two lengths are part of types, so that all is unrolled: ``halves`` has a number for each 32 bits of the window, and
    ``at``, the place and then zeros, one for each word of a row.
    """
    wide, count = at.count, halves.count

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        table, part, source, first, target, places, _ = arguments
        int64, vector = ir.IntType(64), ir.VectorType(ir.IntType(64), wide)
        row_bits = (8 * wide).bit_length() - 1

        def number(value: int) -> Any:
            return ir.Constant(int64, value)

        def data(k: int, array: Any) -> Any:
            return context.make_array(signature.args[k])(context, builder, array).data

        base = builder.ptrtoint(data(0, table), int64)
        base = builder.add(base, builder.mul(part, number(8 * count * 16 * 8 * wide)))
        word, z = builder.lshr(first, number(6)), builder.and_(first, number(63))
        back, stream = builder.xor(z, number(63)), data(2, source)
        raw = [builder.load(builder.gep(stream, [builder.add(word, number(k))])) for k in range(count // 2 + 2)]
        totals = [ir.Constant(vector, [0] * wide)] * 2  # two sums: half the latency
        for g in range(8 * count):
            k, shift = divmod(4 * g, 64)
            if shift == 0:
                above = builder.shl(builder.shl(raw[k + 1], number(1)), back)
                window = builder.or_(builder.lshr(raw[k], z), above)
            moved = (
                builder.lshr(window, number(shift - row_bits))
                if shift >= row_bits
                else builder.shl(window, number(row_bits - shift))
            )
            row = builder.add(builder.and_(moved, number(15 << row_bits)), number(g * 16 << row_bits))
            place = builder.inttoptr(builder.add(base, row), vector.as_pointer())
            totals[g % 2] = builder.xor(totals[g % 2], builder.load(place, align=8 * wide))
        goal = builder.gep(data(4, target), [builder.extract_value(places, 0)])
        builder.store(builder.xor(*totals), builder.bitcast(goal, vector.as_pointer()), align=8)
        return context.get_dummy_value()

    return types.void(tables, types.int64, words, types.int64, out, at, halves), generate


@kernel()
def _look_up_1(words: Words, starts: NDArray[np.int64], tables: Words, out: Words, halves: tuple[int, ...]) -> None:
    for t in range(starts.size):
        _look_up_step(tables, 0, words, starts[t], out, (t,), halves)


@kernel()
def _look_up_2(words: Words, starts: NDArray[np.int64], tables: Words, out: Words, halves: tuple[int, ...]) -> None:
    for t in range(starts.size):
        _look_up_step(tables, 0, words, starts[t], out, (2 * t, 0), halves)


@kernel()
def _look_up_4(words: Words, starts: NDArray[np.int64], tables: Words, out: Words, halves: tuple[int, ...]) -> None:
    """At S = .9, 15 Gbit/s; a loop over the halves that adds to ``out`` takes three times as long."""
    chunks = tables.shape[0]
    for t in range(starts.size):
        for chunk in range(chunks):
            _look_up_step(tables, chunk, words, starts[t], out, (4 * (t * chunks + chunk), 0, 0, 0), halves)
