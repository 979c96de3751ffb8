"""The Numba twin: blocks of points against tiles of 16 codewords, all loops over lanes of a whole vector register."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from . import reference

Floats = NDArray[Any]
Codes = NDArray[np.int32]
LANES = 16
TILE = 64  # codewords of the second book of a pair that are looked at together
BLOCK = 256
UNROLLED = 16  # most dimensions whose loops are unrolled; each number of dimensions is compiled on its own
INFINITE = np.float32(np.inf)
# No reassociation: sums have one order, whatever the width of a register.
options: dict[str, Any] = {
    "cache": True,
    "nogil": True,
    "error_model": "numpy",
    "fastmath": {"contract", "nnan", "nsz"},
}
jit: Any = numba.njit(**options)
inner: Any = numba.njit(forceinline=True, **options)


@inner  # type: ignore[untyped-decorator]
def _aligned(count: int) -> Floats:
    """Scratch (count,) float32 at a multiple of 64 bytes: no vector load crosses a cache line."""
    raw = np.empty(count + LANES, np.float32)
    shift = (64 - raw.ctypes.data % 64) % 64 // 4
    return raw[shift : shift + count]


def nearest(y: Floats, tiles: Floats, bias: Floats, codes: Codes) -> None:
    """codes[i] = argmin_k bias[k] + y[i] . table[:, k]; tiles (K / 16, D, 16), bias (K / 16, 16)."""
    search = _searcher(y.shape[1]) if y.shape[1] <= UNROLLED else reference.nearest  # a matrix product leads there
    search(y, tiles, bias, codes)


@lru_cache
def _searcher(dims: int) -> Any:
    """The search in ``dims`` dimensions, a constant of the compiled code."""

    def search(y: Floats, tiles: Floats, bias: Floats, codes: Codes) -> None:
        # 2**20 points, 256 codewords, one Zen 5 core: 0.037 s with 4 dimensions, 0.036 s with 8 (faiss 0.076, 0.078).
        # Only the least score of each tile is kept here, one operation per codeword; which of the 16 it was is found
        # once per point. Updating the index beside every score took 0.055 s and 0.099 s.
        points, least, best = _aligned(dims * BLOCK), _aligned(BLOCK), _aligned(BLOCK)
        tile = np.empty(BLOCK, np.uint32)
        for start in range(0, y.shape[0], BLOCK):
            size = min(BLOCK, y.shape[0] - start)
            for j in range(size):
                for i in range(dims):
                    points[i * BLOCK + j] = y[start + j, i]
            for j in range(BLOCK):
                best[j] = INFINITE
                tile[j] = 0
            for g in range(tiles.shape[0]):
                table = tiles[g]
                shift = bias[g]
                for j in range(BLOCK):
                    least[j] = INFINITE
                for q in range(0, LANES, 2):
                    start_one, start_two = shift[q], shift[q + 1]
                    for j in range(BLOCK):
                        a, b = start_one, start_two
                        for i in range(dims):
                            v = points[i * BLOCK + j]
                            a += table[i, q] * v
                            b += table[i, q + 1] * v
                        a = a if a < b else b
                        least[j] = a if a < least[j] else least[j]
                for j in range(BLOCK):
                    better = least[j] < best[j]
                    tile[j] = np.uint32(g) if better else tile[j]
                    best[j] = least[j] if better else best[j]
            for j in range(size):
                table, shift = tiles[tile[j]], bias[tile[j]]
                at = np.int32(LANES)
                for k in range(LANES):
                    a = shift[k]
                    for i in range(dims):
                        a += table[i, k] * y[start + j, i]
                    at = min(at, np.int32(k) if a == best[j] else np.int32(LANES))
                if at == LANES:  # only where a compiler rounds the same sum in two ways; a call here would cost 20 ns
                    last = INFINITE
                    for k in range(LANES):
                        a = shift[k]
                        for i in range(dims):
                            a += table[i, k] * y[start + j, i]
                        at = np.int32(k) if a < last else at
                        last = min(a, last)
                codes[start + j] = tile[j] * LANES + at

    return jit(search)


@jit  # type: ignore[untyped-decorator]
def accumulate(y: Floats, codes: Codes, sums: Floats, counts: NDArray[Any]) -> None:
    """sums[codes[i]] += y[i], counts[codes[i]] += 1."""
    for j in range(y.shape[0]):
        k = np.uint32(codes[j])
        counts[k] += 1
        for i in range(y.shape[1]):
            sums[k, i] += y[j, i]


@jit  # type: ignore[untyped-decorator]
def seed(columns: Floats, uniform: Floats, chosen: NDArray[Any]) -> None:
    """chosen[t] = the first i at which the running sum of squared distances passes uniform[t] of their total."""
    dims, n = columns.shape
    blocks = -(-n // BLOCK)
    distance = np.full(blocks * BLOCK, INFINITE, np.float32)
    distance[n:] = 0
    new, sums, lanes = _aligned(BLOCK), np.empty(blocks), np.empty(LANES)
    chosen[0] = min(int(uniform[0] * n), n - 1)
    for t in range(1, uniform.size):
        total = 0.0
        for block in range(blocks):
            start = block * BLOCK
            size = min(BLOCK, n - start)
            new[:] = 0
            for i in range(dims):
                at = columns[i, chosen[t - 1]]
                for j in range(size):
                    gap = columns[i, start + j] - at
                    new[j] += gap * gap
            own = distance[start : start + BLOCK]
            lanes[:] = 0
            for j in range(0, BLOCK, LANES):
                for k in range(LANES):
                    own[j + k] = min(own[j + k], new[j + k])
                    lanes[k] += own[j + k]
            sums[block] = lanes.sum()
            total += sums[block]
        if not total > 0:
            return
        chosen[t] = _pick(distance, sums, uniform[t] * total)


@jit  # type: ignore[untyped-decorator]
def _pick(distance: Floats, sums: Floats, target: float) -> int:
    """The first point at which the running sum passes ``target``; the farthest of all if rounding leaves none."""
    run = 0.0
    for block in range(sums.size):
        if run + sums[block] > target:
            for j in range(block * BLOCK, (block + 1) * BLOCK):
                run += distance[j]
                if run > target and distance[j] > 0:
                    return j
            break
        run += sums[block]
    return int(np.argmax(distance))


def joint(x: Floats, table: Floats, bias: Floats, cross: Floats, sweeps: int, codes: Codes) -> None:
    """Search over the codes (n, M) of two books at a time, the others fixed."""
    _joint(x, table, bias, cross.reshape(-1, TILE), sweeps, codes)


@jit  # type: ignore[untyped-decorator]
def _joint(x: Floats, table: Floats, bias: Floats, cross: Floats, sweeps: int, codes: Codes) -> None:
    """Rows of ``cross`` hold inner products of a codeword with a tile of another book, as :func:`_at` finds them."""
    m, wide = bias.shape
    scores, left, right = np.empty((m, wide), np.float32), _aligned(wide), _aligned(wide)
    best = _aligned(TILE)
    code, near = np.empty(m, np.int32), np.empty(wide, np.int32)
    reach = _longest(cross, m, wide)
    for p in range(x.shape[0]):
        energy = np.float32(0)
        for i in range(x.shape[1]):
            energy += x[p, i] * x[p, i]
        for book in range(m):
            code[book] = codes[p, book]
            for k in range(wide):
                scores[book, k] = bias[book, k]
            for i in range(x.shape[1]):
                v = x[p, i]
                for k in range(wide):
                    scores[book, k] += table[book, i, k] * v
        for _ in range(sweeps):
            changed = False
            for a in range(m - 1):
                b = a + 1
                rest = energy + 2 * _fix(code, a, b, scores, cross, left, right)
                now = left[code[a]] + right[code[b]] + _product(cross, m, wide, a, code[a], b, code[b])
                error = np.sqrt(max(rest + 2 * now, np.float32(0)))
                i, j = _pair(a, b, rest, error, reach[b], cross, m, left, right, best, near)
                if left[i] + right[j] + _product(cross, m, wide, a, i, b, j) < now:
                    changed = True
                    code[a], code[b] = i, j
            if not changed or m == 2:
                break
        for book in range(m):
            codes[p, book] = code[book]


@inner  # type: ignore[untyped-decorator]
def _at(m: int, wide: int, book: int, code: int, other: int) -> int:
    """The row of ``cross`` (M * K * M * K / 64, 64) where the products of a codeword with those of ``other`` begin."""
    return ((book * wide + code) * m + other) * (wide // TILE)


@inner  # type: ignore[untyped-decorator]
def _product(cross: Floats, m: int, wide: int, book: int, code: int, other: int, partner: int) -> float:
    return cross[_at(m, wide, book, code, other) + partner // TILE, partner % TILE]  # type: ignore[no-any-return]


@jit  # type: ignore[untyped-decorator]
def _longest(cross: Floats, m: int, wide: int) -> Floats:
    """The length of the longest codeword in each tile of each book, (m, K / 64)."""
    reach = np.zeros((m, wide // TILE), np.float32)
    for book in range(m):
        for k in range(wide):
            reach[book, k // TILE] = max(reach[book, k // TILE], _product(cross, m, wide, book, k, book, k))
    return np.sqrt(reach) * np.float32(1.0001)


@jit  # type: ignore[untyped-decorator]
def _fix(code: Codes, a: int, b: int, scores: Floats, cross: Floats, left: Floats, right: Floats) -> float:
    """Scores of the codewords of books a and b beside the codes of the others; the score of those alone."""
    m, wide = scores.shape
    for k in range(wide):
        left[k] = scores[a, k]
        right[k] = scores[b, k]
    alone = np.float32(0)
    for other in range(m):
        if other in (a, b):
            continue
        row_a, row_b = _at(m, wide, other, code[other], a), _at(m, wide, other, code[other], b)
        for tile in range(wide // TILE):
            for k in range(TILE):
                left[tile * TILE + k] += cross[row_a + tile, k]
                right[tile * TILE + k] += cross[row_b + tile, k]
        alone += scores[other, code[other]]
        for earlier in range(other):
            if earlier != a and earlier != b:
                alone += _product(cross, m, wide, other, code[other], earlier, code[earlier])
    return float(alone)


@inner  # type: ignore[untyped-decorator]
def _pair(
    a: int,
    b: int,
    rest: float,
    error: float,
    reach: Floats,
    cross: Floats,
    m: int,
    left: Floats,
    right: Floats,
    best: Floats,
    near: Codes,
) -> tuple[int, int]:
    """The pair i, j of least left[i] + right[j] + inner product, exactly.

    ``|x - c_i| > error + max |c_j|`` rules c_i out beside all c_j of a tile: the books are sorted by length, so that
    each tile leaves fewer i than the one after it, and most leave few.
    """
    wide = right.size
    at, least, chosen = 0, INFINITE, 0
    count = wide
    for k in range(wide):
        near[k] = k
    for tile in range(wide // TILE - 1, -1, -1):
        start = tile * TILE
        limit = np.float32(((error + reach[tile]) ** 2 - rest) / 2)
        for k in range(TILE):
            best[k] = INFINITE
        kept = 0
        for k in range(count):  # without a branch: mispredicted ones took half of the time
            near[kept] = near[k]
            kept += int(left[near[k]] <= limit)
        count = kept
        for c in range(count):
            i = near[c]
            value, row = left[i], _at(m, wide, a, i, b) + tile
            for k in range(TILE):  # the least is looked for once per tile and not for each i
                v = value + cross[row, k]
                best[k] = v if v < best[k] else best[k]
        found = -1
        for k in range(TILE):
            if best[k] + right[start + k] < least:
                found, least = k, best[k] + right[start + k]
        if found >= 0:
            at = start + found
            for c in range(count):
                i = near[c]
                if left[i] + cross[_at(m, wide, a, i, b) + tile, found] == best[found]:
                    chosen = i
                    break
    return chosen, at
