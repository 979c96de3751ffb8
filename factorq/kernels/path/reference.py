"""The path coder in plain integers: the specification of the compiled twin."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from .tables import PRECISION

_LOW = 1 << 16


def histogram(
    k: NDArray[Any],
    first: int,
    classes: NDArray[Any],
    run: int,
    union: int,
    drop: int,
    least: int,
    counts: NDArray[Any],
) -> None:
    """Add one to ``counts[table, symbol]`` for every integer; symbols outside of the tables count as escapes."""
    width = counts.shape[1] - 1
    for i, value in enumerate(k.tolist()):
        table = (int(classes[(first + i) // run]) << union) + (value & union)
        symbol = (value >> drop) - least
        counts[table, symbol if 0 <= symbol < width else width] += 1


def encode(
    k: NDArray[Any],
    first: int,
    classes: NDArray[Any],
    run: int,
    union: int,
    drop: int,
    least: int,
    frequency: NDArray[Any],
    start: NDArray[Any],
    words: NDArray[Any],
) -> int:
    """Write k backwards from the end of ``words``; where the stream begins."""
    width, tail = frequency.shape[1] - 1, drop - union
    state, out = [_LOW, _LOW], []

    def put(x: int, begin: int, share: int, bits: int) -> int:
        if x >= share << (32 - bits):
            out.append(x & 0xFFFF)
            x >>= 16
        return (x // share << bits) + x % share + begin

    for i in range(len(k) - 1, -1, -1):
        x, value = state[i & 1], int(k[i])
        table = (int(classes[(first + i) // run]) << union) + (value & union)
        symbol = (value >> drop) - least
        if not 0 <= symbol < width or not frequency[table, symbol]:
            symbol = width
            raw = (value >> union) & 0xFFFFFFFF
            x = put(put(x, raw & 0xFFFF, 1, 16), raw >> 16, 1, 16)
        elif tail:
            x = put(x, (value >> union) & ((1 << tail) - 1), 1, tail)
        state[i & 1] = put(x, int(start[table, symbol]), int(frequency[table, symbol]), PRECISION)
    for lane in (1, 0):
        out += [state[lane] >> 16, state[lane] & 0xFFFF]
    at = len(words) - len(out)
    words[at:] = out[::-1]
    return at


def decode(
    words: NDArray[Any],
    first: int,
    classes: NDArray[Any],
    run: int,
    union: int,
    drop: int,
    least: int,
    frequency: NDArray[Any],
    start: NDArray[Any],
    slots: NDArray[Any],
    parity: NDArray[Any],
    successor: NDArray[Any],
    k: NDArray[Any],
) -> bool:
    """Read ``len(k)`` integers; whether the words are a stream of as many."""
    if len(words) < 4:
        return False
    width, tail = frequency.shape[1] - 1, drop - union
    stream = iter(words[4:].tolist())
    lanes = [int(words[0]) | int(words[1]) << 16, int(words[2]) | int(words[3]) << 16]
    state = 0

    def get(x: int, bits: int) -> tuple[int, int]:
        """The low bits of the state, and the state without them."""
        value, x = x & ((1 << bits) - 1), x >> bits
        return value, x if x >= _LOW else x << 16 | next(stream)

    try:
        for i in range(len(k)):
            p = int(parity[state])
            table = (int(classes[(first + i) // run]) << union) + p
            slot = lanes[i & 1] & ((1 << PRECISION) - 1)
            symbol = int(slots[table, slot])
            x = int(frequency[table, symbol]) * (lanes[i & 1] >> PRECISION) + slot - int(start[table, symbol])
            if x < _LOW:
                x = x << 16 | next(stream)
            if symbol == width:
                high, x = get(x, 16)
                low, x = get(x, 16)
                value = high << 16 | low
                value -= (value >> 31) << 32
            else:
                value = symbol + least
                if tail:
                    raw, x = get(x, tail)
                    value = value << tail | raw
            lanes[i & 1] = x
            k[i] = (((value << union) + p + (1 << 31)) & 0xFFFFFFFF) - (1 << 31)  # of damaged streams the low bits
            state = int(successor[state, value & 1])
    except StopIteration:
        return False
    return lanes == [_LOW, _LOW] and next(stream, None) is None
