"""XOR-coded slices: twins, known answers, independent linear algebra, layout, and what streams may be read."""

from __future__ import annotations

import hashlib
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factorq.errors import ArgumentError, ArgumentTypeError, ArtifactError
from factorq.kernels import slices as door
from factorq.kernels.slices import numba_twin, reference
from factorq.kernels.splitmix64 import splitmix64

Array = np.ndarray


def draw(n: int, sparsity: float, planes: int, seed: int = 0) -> tuple[Array, Array]:
    rng = np.random.default_rng([seed, n, planes])
    care = rng.random(n) >= sparsity
    values = rng.integers(0, 1 << 63, int(care.sum()), dtype=np.uint64) * np.uint64(2)
    return care, (values + rng.integers(0, 2, values.size, dtype=np.uint64)) >> np.uint64(64 - planes)


def tile_count(n: int, n_out: int) -> int:
    return -(-n // (512 * n_out))


def matrix(n_in: int, n_out: int, seed: int) -> Array:
    """M (n_out, n_in) of booleans, bit by bit as the door describes it."""
    words = -(-n_in // 64)
    source = [int(word) for word in splitmix64(n_out * words, seed)]
    rows = np.zeros((n_out, n_in), bool)
    for i in range(n_out):
        for q in range(n_in):
            rows[i, q] = source[i * words + q // 64] >> (q % 64) & 1
        if not rows[i].any():
            rows[i, i % n_in] = True
    return rows


def places(n: int, n_out: int) -> list[list[list[int]]]:
    """Positions of the outputs of each slice of each tile."""
    tiles, start = [], 0
    while start < n:
        rest = n - start
        width = 512 if rest >= 512 * n_out else ((rest + n_out - 1) // n_out + 7) // 8 * 8
        end = min(start + 512 * n_out, n)
        tiles.append([list(range(start + s, end, width)) for s in range(width)])
        start = end
    return tiles


def inputs(stream: Array, n: int, n_in: int, n_out: int) -> list[Array]:
    """Inputs (slices, n_in) of each tile of the stream of one plane."""
    found, at = [], 0
    for tile in places(n, n_out):
        width = len(tile)
        rows = stream[at : at + n_in * width // 8].reshape(n_in, width // 8)
        found.append(np.unpackbits(rows, axis=1, bitorder="little").T.astype(bool))
        at += rows.size
    assert at == stream.size
    return found


def bits_of(bitmaps: Array, n: int) -> Array:
    """Bits (planes, n); the ones that pad the last byte must be zero."""
    bits = np.unpackbits(bitmaps, axis=1, bitorder="little")
    assert bits.shape[1] == -(-n // 8) * 8
    assert not bits[:, n:].any()
    return bits[:, :n]


def missed(stream: Array, care: Array, values: Array, n_in: int, n_out: int, seed: int) -> Array:
    """Whether the output at a position matters and is wrong: (planes, n)."""
    bits = bits_of(door.outputs(stream, care.size, n_in, n_out, seed), care.size).astype(bool)
    wanted = np.zeros_like(bits)
    wanted[:, care] = values >> np.arange(len(stream), dtype=np.uint64)[:, None] & np.uint64(1)
    return (bits ^ wanted) & care


def check(care: Array, values: Array, planes: int, n_in: int, n_out: int, seed: int) -> Array:
    """Both twins write the same stream and make the same outputs of it."""
    stream = door.solve(care, values, planes, n_in, n_out, seed)
    assert stream.shape == (planes, door.stream_size(care.size, n_in, n_out))
    np.testing.assert_array_equal(stream, reference.solve(care, values, planes, n_in, n_out, seed))
    found = door.outputs(stream, care.size, n_in, n_out, seed)
    plain = reference.outputs(stream, care.size, n_in, n_out, seed, 0, tile_count(care.size, n_out))
    np.testing.assert_array_equal(found, plain)
    return stream


@settings(deadline=None, max_examples=60)
@given(
    n=st.integers(0, 2000),
    sparsity=st.floats(0, 1),
    planes=st.integers(1, 5),
    n_in=st.sampled_from([1, 2, 5, 9, 13, 20, 30]),  # a decoder is compiled for each
    n_out=st.sampled_from([1, 2, 10, 37]),
    seed=st.integers(0, 2**64 - 1),
)
def test_twins(n: int, sparsity: float, planes: int, n_in: int, n_out: int, seed: int) -> None:
    check(*draw(n, sparsity, planes), planes, n_in, n_out, seed)


@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.9, 1.0])
@pytest.mark.parametrize(
    ("n", "planes", "n_in", "n_out"),
    [
        (512 * 3 * 2, 2, 2, 3),  # whole tiles only
        (512 * 3 * 2 + 1, 1, 5, 3),
        (512 * 3 * 2 - 8, 1, 13, 3),
        (512 * 9 + 100, 64, 13, 9),
        (700, 1, 11, 20),
        (3000, 2, 63, 70),
        (3000, 2, 64, 70),
        (3000, 2, 65, 71),
        (5000, 1, 129, 300),
        (6000, 1, 512, 700),
        (512 * 150 + 77, 1, 100, 150),  # whole tiles in two runs of tables
    ],
)
def test_twins_at_edges(n: int, planes: int, n_in: int, n_out: int, sparsity: float) -> None:
    check(*draw(n, sparsity, planes), planes, n_in, n_out, 3)


def test_known_bytes() -> None:
    """With one input M is all ones: each of 8 slices takes the majority of its three values, or 0 in a tie."""
    care = np.ones(24, bool)
    rows = ["01010101", "00110011", "00001111"]
    values = np.array([int(c) for row in rows for c in row], np.uint64)
    majority = [int(sum(int(row[s]) for row in rows) >= 2) for s in range(8)]
    assert check(care, values, 1, 1, 3, 9).tolist() == [[sum(bit << s for s, bit in enumerate(majority))]]
    care[16:] = False  # two values each: a tie where they differ
    both = [int(rows[0][s]) & int(rows[1][s]) for s in range(8)]
    assert check(care, values[:16], 1, 1, 3, 9).tolist() == [[sum(bit << s for s, bit in enumerate(both))]]
    assert check(np.zeros(24, bool), values[:0], 2, 1, 3, 9).tolist() == [[0], [0]]


def test_sums_beyond_16_bits() -> None:
    values = np.repeat(np.arange(40_000) % 20 < 11, 8).reshape(-1, 8)
    values[:, 3] = True
    values[:, 5] = False
    stream = door.solve(np.ones(values.size, bool), values.reshape(-1).astype(np.uint64), 1, 1, 40_000, 0)
    assert stream.tolist() == [[0b11011111]]


@pytest.mark.parametrize(
    ("n_in", "n_out", "n"), [(1, 1, 9), (6, 7, 4000), (20, 31, 1000), (70, 90, 50_000), (200, 33, 999)]
)
def test_outputs_are_the_matrix_times_the_inputs(n_in: int, n_out: int, n: int) -> None:
    M = matrix(n_in, n_out, 11).astype(int)
    stream = np.random.default_rng(n).integers(0, 256, (2, door.stream_size(n, n_in, n_out)), np.uint8)
    bits = bits_of(door.outputs(stream, n, n_in, n_out, 11), n)
    for plane, found in zip(stream, bits, strict=True):
        expected = np.full(n, 2)
        for tile, x in zip(places(n, n_out), inputs(plane, n, n_in, n_out), strict=True):
            y = x.astype(int) @ M.T % 2
            for s, positions in enumerate(tile):
                expected[positions] = y[s, : len(positions)]
        np.testing.assert_array_equal(found, expected)


def reduced(A: Array) -> tuple[Array, list[int]]:
    """Row echelon form of A over GF(2) with nothing but a one in the columns of its pivots, and these columns."""
    A, pivots = A.copy(), []
    for q in range(A.shape[1]):
        below = np.flatnonzero(A[len(pivots) :, q]) + len(pivots)
        if below.size:
            A[[len(pivots), below[0]]] = A[[below[0], len(pivots)]]
            others = np.flatnonzero(A[:, q])
            A[others[others != len(pivots)]] ^= A[len(pivots)]
            pivots.append(q)
    return A, pivots


def rank(rows: Array) -> int:
    return len(reduced(rows)[1])


def solution(rows: Array, right: Array) -> Array:
    """The x, zero outside of the pivots, that solves those equations that are independent of the ones before them."""
    kept = reduced(rows.T)[1]  # where the rank grows
    system, pivots = reduced(np.concatenate([rows[kept], right[kept, None]], axis=1))
    assert len(pivots) == len(kept)
    x = np.zeros(rows.shape[1], bool)
    x[pivots] = system[:, -1]
    return x


@pytest.mark.parametrize(("n_in", "n_out", "sparsity"), [(13, 20, 0.3), (20, 60, 0.7), (70, 100, 0.32)])
def test_elimination_against_dense_linear_algebra(n_in: int, n_out: int, sparsity: float) -> None:
    n = 24 * n_out - 5
    care, values = draw(n, sparsity, 2)
    stream, M = door.solve(care, values, 2, n_in, n_out, 5), matrix(n_in, n_out, 5)
    codes = np.zeros(n, np.uint64)
    codes[care] = values
    wrong = missed(stream, care, values, n_in, n_out, 5)
    (tile,) = places(n, n_out)
    dropped = 0
    for j in range(2):
        (x,) = inputs(stream[j], n, n_in, n_out)
        for s, positions in enumerate(tile):
            kept = np.flatnonzero(care[positions])
            rows, right = M[kept], (codes[positions][kept] >> np.uint64(j) & np.uint64(1)).astype(bool)
            np.testing.assert_array_equal(x[s], solution(rows, right))
            spare = len(kept) - rank(rows)
            dropped += spare
            assert wrong[j, positions].sum() <= spare
    assert dropped > 0  # both kinds of slices were there
    assert any(not wrong[:, positions].any() for positions in tile)


@pytest.mark.parametrize(("n_in", "n_out"), [(8, 12), (20, 60), (100, 140)])
def test_consistent_slices_have_no_mismatch(n_in: int, n_out: int) -> None:
    """Values that are outputs of the network can be met at any number of positions."""
    n = 512 * n_out + 1000
    stream = np.random.default_rng(1).integers(0, 256, (3, door.stream_size(n, n_in, n_out)), np.uint8)
    bits = bits_of(door.outputs(stream, n, n_in, n_out, 2), n).astype(np.uint64)
    values = (bits << np.arange(3, dtype=np.uint64)[:, None]).sum(axis=0)
    found = door.solve(np.ones(n, bool), values, 3, n_in, n_out, 2)
    assert not missed(found, np.ones(n, bool), values, n_in, n_out, 2).any()


@pytest.mark.parametrize("n_in", [13, 20, 66])
def test_half_of_the_dependent_equations_fail(n_in: int) -> None:
    n_out = 10 * n_in
    n = 512 * n_out * (1 if n_in > 64 else 2)
    care, values = draw(n, 0.9, 1)
    M = matrix(n_in, n_out, 0)
    spare = 0
    for tile in places(n, n_out):
        for positions in tile[::8]:  # the ranks of every 8th slice
            kept = np.flatnonzero(care[positions])
            spare += len(kept) - rank(M[kept])
    wrong = missed(door.solve(care, values, 1, n_in, n_out, 0), care, values, n_in, n_out, 0)
    failed = sum(int(wrong[0, positions].sum()) for tile in places(n, n_out) for positions in tile[::8])
    assert spare > 50
    assert abs(failed - spare / 2) < 5 * (spare / 4) ** 0.5


@pytest.mark.parametrize(("n_in", "n_out"), [(3, 9), (5, 16), (12, 40)])
def test_exhaustive_search_against_all_inputs(n_in: int, n_out: int) -> None:
    """No input has fewer mismatches, and no smaller one as few."""
    n = 8 * n_out
    care, values = draw(n, 0.3, 1)
    M, everything = matrix(n_in, n_out, 1).astype(int), np.arange(1 << n_in)
    y = (everything[:, None] >> np.arange(n_in) & 1) @ M.T % 2
    codes = np.zeros(n, int)
    codes[care] = values.astype(int)
    stream = door.solve(care, values, 1, n_in, n_out, 1)
    (x,), (tile,) = inputs(stream[0], n, n_in, n_out), places(n, n_out)
    for s, positions in enumerate(tile):
        costs = ((y != codes[positions]) & care[positions]).sum(axis=1)
        assert int(x[s] @ (1 << np.arange(n_in))) == int(np.argmin(costs))


def test_exhaustive_search_beats_elimination() -> None:
    n = 512 * 80 * 4
    care, values = draw(n, 0.9, 1)
    best = missed(door.solve(care, values, 1, 8, 80, 0), care, values, 8, 80, 0)
    rows = [sum(int(b) << q for q, b in enumerate(row)) for row in matrix(8, 80, 0)]
    codes = np.zeros(n, int)
    codes[care] = values.astype(int)
    total = greedy = 0
    for positions in places(n, 80)[0]:
        pivots: dict[int, tuple[int, int]] = {}
        lost = 0
        for i in np.flatnonzero(care[positions]).tolist():
            row, bit = rows[i], int(codes[positions[i]])
            while row and (row & -row) in pivots:
                other = pivots[row & -row]
                row, bit = row ^ other[0], bit ^ other[1]
            if row:
                pivots[row & -row] = row, bit
            lost += bit if not row else 0
        found = int(best[0, positions].sum())
        assert found <= lost
        total, greedy = total + found, greedy + lost
    assert total < 0.9 * greedy
    assert 0.92 < 1 - best.sum() / care.sum() < 0.95  # 93.5 % (xor.md, section 1.1)


def test_zero_rows_are_replaced() -> None:
    M, bits = matrix(2, 50, 4), (splitmix64(50, 4) & np.uint64(3)).astype(int)
    assert (bits == 0).sum() > 3
    rows = door.network.network(2, 50, 4)[:, 0]
    np.testing.assert_array_equal(rows, M @ [1, 2])
    np.testing.assert_array_equal(rows[bits == 0], 1 << np.flatnonzero(bits == 0) % 2)


@pytest.mark.parametrize(("n_in", "n_out"), [(7, 30), (20, 180), (70, 90)])
def test_linearity(n_in: int, n_out: int) -> None:
    n = 512 * n_out + 1234
    a, b = np.random.default_rng(2).integers(0, 256, (2, 1, door.stream_size(n, n_in, n_out)), np.uint8)
    ya, yb, yab = (door.outputs(x, n, n_in, n_out, 1) for x in (a, b, a ^ b))
    assert ya.any()
    assert not (ya ^ yb ^ yab).any()


@pytest.mark.parametrize("n_in", [6, 20, 80])
def test_planes_together_or_one_by_one(n_in: int) -> None:
    care, values = draw(3 * 512 * 30, 0.5, 7)
    together = door.solve(care, values, 7, n_in, 30, 8)
    for j in range(7):
        np.testing.assert_array_equal(together[[j]], door.solve(care, values >> np.uint64(j), 1, n_in, 30, 8))
    assert len({plane.tobytes() for plane in together}) == 7


@settings(deadline=None, max_examples=40)
@given(n=st.integers(0, 512 * 5 * 4), n_in=st.sampled_from([4, 20, 90]), data=st.data())
def test_tiles_are_a_part_of_the_whole(n: int, n_in: int, data: st.DataObject) -> None:
    tiles = tile_count(n, 5)
    first = data.draw(st.integers(0, tiles))
    stop = data.draw(st.integers(first, tiles))
    stream = np.random.default_rng(n).integers(0, 256, (2, door.stream_size(n, n_in, 5)), np.uint8)
    whole = bits_of(door.outputs(stream, n, n_in, 5, 6), n)
    start, end = min(512 * 5 * first, n), min(512 * 5 * stop, n)
    for part in (
        door.outputs(stream, n, n_in, 5, 6, (first, stop)),
        reference.outputs(stream, n, n_in, 5, 6, first, stop),
    ):
        np.testing.assert_array_equal(bits_of(part, end - start), whole[:, start:end])


def test_sizes() -> None:
    assert [door.stream_size(n, 20, 180) for n in (0, 1, 8 * 180, 8 * 180 + 1, 512 * 180, 512 * 180 + 1)] == [
        0, 20, 20, 40, 1280, 1300,
    ]  # fmt: skip
    assert door.stream_size(2**48, 512, 1) == 2**54 // 2**3 * 8


def test_strided_read_only_and_misaligned_inputs() -> None:
    care, values = draw(2000, 0.5, 3)
    room = np.zeros(8 * values.size + 1, np.uint8)
    shifted = room[1:].view(np.uint64)
    shifted[:] = values
    for n_in in (6, 20):
        stream = door.solve(care, values, 3, n_in, 25, 0)
        frozen = values.copy()
        frozen.flags.writeable = care.flags.writeable = False
        for same in (frozen, shifted, np.repeat(values, 2)[::2], values | np.uint64(1 << 40)):
            np.testing.assert_array_equal(door.solve(care, same, 3, n_in, 25, 0), stream)
        wanted = door.outputs(stream, 2000, n_in, 25, 0)
        moved = np.repeat(np.concatenate([np.zeros((3, 1), np.uint8), stream], axis=1), 2, axis=1)[:, 2::2]
        moved.flags.writeable = False
        np.testing.assert_array_equal(door.outputs(moved, 2000, n_in, 25, 0), wanted)


def test_golden_bytes() -> None:
    digest = hashlib.sha256()
    for n_in, n_out in ((8, 40), (20, 90), (130, 500)):
        care = np.arange(70_001) * 2_654_435_761 % 1000 < 200
        values = splitmix64(int(care.sum()), 1) & np.uint64(7)
        stream = door.solve(care, values, 3, n_in, n_out, 42)
        digest.update(stream.tobytes())
        digest.update(door.outputs(stream, care.size, n_in, n_out, 42).tobytes())
    assert digest.hexdigest() == "66483e162826ea630f046e8403b4cc939943efc2ad51b6a9a88204d6bae79afe"


@pytest.mark.parametrize("change", [-1, 1, -20])
def test_wrong_sizes_of_streams(change: int) -> None:
    stream = np.zeros((1, door.stream_size(5000, 20, 180) + change), np.uint8)
    with pytest.raises(ArtifactError, match=f"found {stream.shape[1]} bytes per plane, 5000 positions take"):
        door.outputs(stream, 5000, 20, 180, 0)
    with pytest.raises(ArtifactError):
        door.outputs(stream[:, :0], 2**48, 20, 180, 0)  # refused before any memory is taken


GOOD: dict[str, Any] = {"care": np.ones(9, bool), "values": np.ones(9, np.uint64), "planes": 1, "n_in": 20, "n_out": 4}


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"care": np.ones(9, np.uint8)}, ArgumentTypeError, "care: found uint8 of shape"),
        ({"care": np.ones((3, 3), bool)}, ArgumentTypeError, "care: found bool of shape"),
        ({"care": [True]}, ArgumentTypeError, "care: found list"),
        ({"values": np.ones(9, np.int64)}, ArgumentTypeError, "values: found int64"),
        ({"values": np.ones(8, np.uint64)}, ArgumentError, "values: found 8 codes, allowed is 9"),
        ({"planes": 0}, ArgumentError, "planes: found 0"),
        ({"planes": 65}, ArgumentError, "planes: found 65"),
        ({"n_in": 0}, ArgumentError, r"n_in: found 0, allowed is an integer in 1\.\.512"),
        ({"n_in": 513}, ArgumentError, "n_in: found 513"),
        ({"n_in": 2.0}, ArgumentTypeError, r"n_in: found 2\.0"),
        ({"n_out": 0}, ArgumentError, "n_out: found 0"),
        ({"n_out": 2**16 + 1}, ArgumentError, "n_out: found 65537"),
        ({"n_out": True}, ArgumentTypeError, "n_out: found True"),
        ({"seed": -1}, ArgumentError, "seed: found -1"),
        ({"seed": 2**64}, ArgumentError, "seed: found"),
    ],
)
def test_refused_arguments(change: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        door.solve(**(GOOD | {"seed": 0} | change))


@pytest.mark.parametrize(
    ("tiles", "kind"),
    [((0, 3), ArgumentError), ((2, 1), ArgumentError), ((-1, 1), ArgumentError), ([0, 1], ArgumentTypeError)],
)
def test_refused_reads(tiles: Any, kind: type[Exception]) -> None:
    n = 512 * 4 + 5
    stream = np.zeros((1, door.stream_size(n, 20, 4)), np.uint8)
    with pytest.raises(kind, match="tiles"):
        door.outputs(stream, n, 20, 4, 0, tiles)
    with pytest.raises(ArgumentTypeError, match="stream: found uint8 of shape"):
        door.outputs(stream[0], n, 20, 4, 0)
    with pytest.raises(ArgumentError, match="size: found -1"):
        door.outputs(stream, -1, 20, 4, 0)


@pytest.mark.parametrize("twin", [numba_twin, reference])
def test_no_positions(twin: ModuleType) -> None:
    nothing = twin.solve(np.zeros(0, bool), np.zeros(0, np.uint64), 3, 20, 180, 0)
    assert nothing.shape == (3, 0)
    assert twin.outputs(nothing, 0, 20, 180, 0, 0, 0).shape == (3, 0)
