"""The sequential XOR code: twins, the decoder from its definition, optimality by brute force, segments, refusals."""

from __future__ import annotations

import hashlib
from itertools import product
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factorq.errors import ArgumentError, ArgumentTypeError, ArtifactError
from factorq.kernels import sequential as door
from factorq.kernels.sequential import numba_twin, reference
from factorq.kernels.sequential.network import OVERLAP, segment_steps
from factorq.kernels.splitmix64 import splitmix64

Array = np.ndarray
LONG = 10**9


def draw(n: int, sparsity: float, planes: int, seed: int = 0) -> tuple[Array, Array]:
    rng = np.random.default_rng([seed, n, planes])
    care = rng.random(n) >= sparsity
    return care, rng.integers(0, 1 << planes, int(care.sum()), dtype=np.uint64)


def bits_of(bitmaps: Array, n: int) -> Array:
    """Bits (planes, n); the ones that pad the last byte must be zero."""
    bits = np.unpackbits(bitmaps, axis=1, bitorder="little")
    assert bits.shape[1] == -(-n // 8) * 8
    assert not bits[:, n:].any()
    return bits[:, :n]


def missed(stream: Array, care: Array, values: Array, *network: int) -> Array:
    """Whether the output at a position matters and is wrong: (planes, n)."""
    bits = bits_of(door.outputs(stream, care.size, *network), care.size).astype(bool)
    wanted = np.zeros_like(bits)
    wanted[:, care] = values >> np.arange(len(stream), dtype=np.uint64)[:, None] & np.uint64(1)
    return (bits ^ wanted) & care


def check(
    care: Array,
    values: Array,
    planes: int,
    n_in: int,
    n_out: int,
    registers: int,
    seed: int,
    segment: int = LONG,
    overlap: int = OVERLAP,
) -> Array:
    """Both twins write the same stream and make the same outputs of it."""
    arguments = care, values, planes, n_in, n_out, registers, seed, segment, overlap
    stream: Array = numba_twin.solve(*arguments)
    assert stream.shape == (planes, door.stream_size(care.size, n_in, n_out))
    np.testing.assert_array_equal(stream, reference.solve(*arguments))
    if segment == LONG:
        np.testing.assert_array_equal(door.solve(*arguments[:-2]), stream)
    network = care.size, n_in, n_out, registers, seed
    found = door.outputs(stream, *network)
    np.testing.assert_array_equal(found, reference.outputs(stream, *network, 0, -(-care.size // n_out)))
    return stream


@settings(deadline=None, max_examples=100)
@given(
    steps=st.floats(0, 30),
    sparsity=st.floats(0, 1),
    planes=st.integers(1, 4),
    n_in=st.integers(1, 4),
    n_out=st.integers(1, 50),
    registers=st.integers(0, 2),
    seed=st.integers(0, 2**64 - 1),
)
def test_twins(steps: float, sparsity: float, planes: int, n_in: int, n_out: int, registers: int, seed: int) -> None:
    check(*draw(int(steps * n_out), sparsity, planes), planes, n_in, n_out, registers, seed)


@settings(deadline=None, max_examples=50)
@given(
    n=st.integers(0, 600),
    sparsity=st.floats(0, 1),
    n_in=st.integers(1, 3),
    n_out=st.integers(1, 20),
    registers=st.integers(1, 2),
    segment=st.integers(3, 40),
    data=st.data(),
)
def test_twins_in_segments(
    n: int, sparsity: float, n_in: int, n_out: int, registers: int, segment: int, data: st.DataObject
) -> None:
    overlap = data.draw(st.integers(1, segment - 1))
    check(*draw(n, sparsity, 1), 1, n_in, n_out, registers, 7, segment, overlap)


@pytest.mark.parametrize(
    ("n", "sparsity", "planes", "n_in", "n_out", "registers"),
    [
        (700, 0.6, 2, 8, 20, 0),
        (700, 0.6, 2, 8, 20, 1),
        (300, 0.0, 1, 8, 30, 1),  # more outputs matter than relaxation takes
        (200, 0.6, 1, 6, 14, 2),  # two vectors of states
        (9, 0.3, 1, 7, 3, 2),
        (90, 0.0, 1, 3, 14, 2),  # the most that relaxation takes
        (90, 0.0, 1, 3, 15, 2),
        (190, 0.0, 1, 6, 20, 2),  # distances from three tables
        (200, 0.0, 1, 3, 40, 2),  # and from more
        (1400, 0.0, 1, 3, 200, 2),  # costs of two bytes
        (3000, 0.0, 64, 2, 1024, 2),
        (3000, 0.2, 2, 2, 1000, 1),
        (3000, 0.2, 2, 2, 1000, 0),
        (500, 1.0, 2, 5, 9, 2),
    ],
)
def test_twins_at_edges(n: int, sparsity: float, planes: int, n_in: int, n_out: int, registers: int) -> None:
    check(*draw(n, sparsity, planes), planes, n_in, n_out, registers, 5)


def test_known_bytes() -> None:
    """With one input and no register every output is x: it takes the majority, or 0 in a tie."""
    wanted = "111 110 100 000 10"
    values = np.array([int(c) for c in wanted if c != " "], np.uint64)
    assert check(np.ones(14, bool), values, 1, 1, 3, 0, 3).tolist() == [[0b00011]]
    assert check(np.zeros(14, bool), values[:0], 2, 1, 3, 0, 3).tolist() == [[0], [0]]


def matrices(n_in: int, n_out: int, registers: int, seed: int) -> list[list[int]]:
    """Rows of M_0, M_1, .. as integers, as the door describes them."""
    source = [int(word) % 2**n_in for word in splitmix64((registers + 1) * n_out, seed)]
    rows = [source[r * n_out : (r + 1) * n_out] for r in range(registers + 1)]
    rows[0] = [row or 1 << i % n_in for i, row in enumerate(rows[0])]
    return rows


@pytest.mark.parametrize("registers", [0, 1, 2])
@pytest.mark.parametrize(("n_in", "n_out", "n"), [(1, 1, 9), (2, 70, 1000), (3, 8, 100), (5, 13, 400), (8, 80, 801)])
def test_outputs_follow_the_definition(n_in: int, n_out: int, registers: int, n: int) -> None:
    rows = matrices(n_in, n_out, registers, 8)
    stream = np.random.default_rng(n).integers(0, 256, (2, door.stream_size(n, n_in, n_out)), np.uint8)
    for plane, found in zip(stream, bits_of(door.outputs(stream, n, n_in, n_out, registers, 8), n), strict=True):
        number = int.from_bytes(plane.tobytes(), "little")
        for i in range(n):
            t, k = divmod(i, n_out)
            x = [(number >> (t - r) * n_in) % 2**n_in if t >= r else 0 for r in range(registers + 1)]
            assert found[i] == sum((rows[r][k] & x[r]).bit_count() for r in range(registers + 1)) % 2


@pytest.mark.parametrize("registers", [0, 1, 2])
@pytest.mark.parametrize(("n_in", "steps", "n_out"), [(1, 9, 3), (2, 5, 5), (3, 3, 8), (4, 3, 7), (5, 2, 12)])
def test_no_stream_has_fewer_mismatches(n_in: int, steps: int, n_out: int, registers: int) -> None:
    for seed in range(5):
        n = steps * n_out - seed % 2
        care, values = draw(n, 0.2, 1, seed)
        network = n_in, n_out, registers, seed
        found = int(missed(door.solve(care, values, 1, *network), care, values, *network).sum())
        everything = np.array(list(product((0, 1), repeat=n_in * steps)), np.uint8)
        streams = np.packbits(everything, axis=1, bitorder="little")
        bits = np.unpackbits(door.outputs(streams, n, *network), axis=1, bitorder="little", count=n)
        assert found == (bits[:, care] != values).sum(axis=1).min()


@pytest.mark.parametrize("sparsity", [0.0, 0.3])  # 16 outputs of a step matter, or about 11
def test_three_steps_of_the_largest_network(sparsity: float) -> None:
    rows = np.array(matrices(8, 16, 2, 0))
    entries = np.bitwise_count(rows[:, None] & np.arange(256)[:, None]) & 1  # (registers + 1, inputs, outputs)
    tables = (entries.astype(np.uint16) << np.arange(16, dtype=np.uint16)).sum(axis=2, dtype=np.uint16)
    care, values = draw(48, sparsity, 1)
    wanted = np.zeros(48, np.uint8)
    wanted[care] = values
    kept, value = (np.packbits(x, bitorder="little").view("<u2") for x in (care, wanted))
    first = np.bitwise_count((tables[0] ^ value[0]) & kept[0])
    second = np.bitwise_count((tables[0] ^ tables[1][:, None] ^ value[1]) & kept[1])
    outputs = tables[0] ^ tables[1][:, None] ^ tables[2][:, None, None]  # x_0, x_1, x_2
    costs = np.bitwise_count((outputs ^ value[2]) & kept[2]) + second[:, :, None] + first[:, None, None]
    found = missed(door.solve(care, values, 1, 8, 16, 2, 0), care, values, 8, 16, 2, 0).sum()
    assert found == costs.min()


@pytest.mark.parametrize(("registers", "low", "high"), [(0, 92.9, 93.9), (1, 98.4, 98.95), (2, 99.3, 99.7)])
def test_efficiency(registers: int, low: float, high: float) -> None:
    """93.45, 98.69 and 99.49 % of the bits that matter are matched (xor.md, section 3.3), here of some thousands."""
    care, values = draw(80_000 if registers == 2 else 160_000, 0.9, 1)
    stream = door.solve(care, values, 1, 8, 80, registers, 0)
    share = 100 * (1 - missed(stream, care, values, 8, 80, registers, 0).sum() / care.sum())
    assert low < share < high


@pytest.mark.parametrize(("n_in", "registers"), [(3, 2), (5, 1)])
def test_segments_lose_nothing_that_can_be_measured(n_in: int, registers: int) -> None:
    n_out = 10 * n_in
    care, values = draw(4000 * n_out, 0.9, 1)
    whole, cut, blind = (
        int(missed(stream, care, values, n_in, n_out, registers, 1).sum())
        for stream in (
            numba_twin.solve(care, values, 1, n_in, n_out, registers, 1, segment, overlap)
            for segment, overlap in ((LONG, OVERLAP), (200, OVERLAP), (200, 1))
        )
    )
    assert whole <= cut <= 1.001 * whole
    assert blind > cut  # the overlap is what it owes that to
    assert segment_steps(8, 2) == 1024


@pytest.mark.parametrize("registers", [0, 1, 2])
def test_consistent_values_have_no_mismatch(registers: int) -> None:
    network = 4, 9, registers, 2
    stream = np.random.default_rng(1).integers(0, 256, (2, door.stream_size(2000, 4, 9)), np.uint8)
    bits = bits_of(door.outputs(stream, 2000, *network), 2000).astype(np.uint64)
    everywhere, values = np.ones(2000, bool), bits[0] + 2 * bits[1]
    found = door.solve(everywhere, values, 2, *network)
    assert not missed(found, everywhere, values, *network).any()


def test_more_registers_are_better() -> None:
    care, values = draw(100_000, 0.9, 1)
    wrong = [missed(door.solve(care, values, 1, 5, 50, r, 0), care, values, 5, 50, r, 0).sum() for r in range(3)]
    assert wrong[0] > 2 * wrong[1] > 2.5 * wrong[2] > 0


@pytest.mark.parametrize("registers", [0, 1, 2])
def test_linearity(registers: int) -> None:
    network = 4097, 7, 33, registers, 1
    a, b = np.random.default_rng(2).integers(0, 256, (2, 1, door.stream_size(*network[:3])), np.uint8)
    ya, yb, yab = (door.outputs(x, *network) for x in (a, b, a ^ b))
    assert ya.any()
    assert not (ya ^ yb ^ yab).any()


@pytest.mark.parametrize("registers", [0, 1, 2])
def test_planes_together_or_one_by_one(registers: int) -> None:
    care, values = draw(1500, 0.5, 5)
    together = door.solve(care, values, 5, 4, 9, registers, 8)
    for j in range(5):
        np.testing.assert_array_equal(together[[j]], door.solve(care, values >> np.uint64(j), 1, 4, 9, registers, 8))
    assert len({plane.tobytes() for plane in together}) == 5


@settings(deadline=None, max_examples=80)
@given(
    n=st.integers(0, 800),
    n_in=st.integers(1, 8),
    n_out=st.sampled_from([1, 3, 8, 29, 70]),
    registers=st.integers(0, 2),
    data=st.data(),
)
def test_steps_are_a_part_of_the_whole(n: int, n_in: int, n_out: int, registers: int, data: st.DataObject) -> None:
    steps = -(-n // n_out)
    first = data.draw(st.integers(0, steps))
    stop = data.draw(st.integers(first, steps))
    stream = np.random.default_rng(n).integers(0, 256, (2, door.stream_size(n, n_in, n_out)), np.uint8)
    whole = bits_of(door.outputs(stream, n, n_in, n_out, registers, 6), n)
    start, end = min(first * n_out, n), min(stop * n_out, n)
    for part in (
        door.outputs(stream, n, n_in, n_out, registers, 6, (first, stop)),
        reference.outputs(stream, n, n_in, n_out, registers, 6, first, stop),
    ):
        np.testing.assert_array_equal(bits_of(part, end - start), whole[:, start:end])


def test_sizes() -> None:
    assert [door.stream_size(n, 3, 10) for n in (0, 1, 20, 21, 80, 81)] == [0, 1, 1, 2, 3, 4]
    assert door.stream_size(2**48, 8, 1) == 2**48


def test_strided_read_only_and_misaligned_inputs() -> None:
    care, values = draw(500, 0.5, 3)
    room = np.zeros(8 * values.size + 1, np.uint8)
    shifted = room[1:].view(np.uint64)
    shifted[:] = values
    frozen = values.copy()
    frozen.flags.writeable = care.flags.writeable = False
    for registers in range(3):
        network = 4, 10, registers, 0
        stream = door.solve(care, values, 3, *network)
        for same in (frozen, shifted, np.repeat(values, 2)[::2], values | np.uint64(1 << 40)):
            np.testing.assert_array_equal(door.solve(care, same, 3, *network), stream)
        moved = np.repeat(np.concatenate([np.zeros((3, 1), np.uint8), stream], axis=1), 2, axis=1)[:, 2::2]
        moved.flags.writeable = False
        np.testing.assert_array_equal(door.outputs(moved, 500, *network), door.outputs(stream, 500, *network))


def test_golden_bytes() -> None:
    digest = hashlib.sha256()
    for n_in, n_out, registers, n in ((8, 40, 0, 20_001), (8, 40, 1, 20_001), (4, 20, 2, 20_001), (8, 40, 2, 2001)):
        care = np.arange(n) * 2_654_435_761 % 1000 < 200
        values = splitmix64(int(care.sum()), 1) & np.uint64(3)
        stream = door.solve(care, values, 2, n_in, n_out, registers, 42)
        digest.update(stream.tobytes())
        digest.update(door.outputs(stream, n, n_in, n_out, registers, 42).tobytes())
    assert digest.hexdigest() == "8444141193b3888427a02c795fe50a5953937163aa96762b49b318b0e29943f1"


@pytest.mark.parametrize("change", [-1, 1, 50])
def test_wrong_sizes_of_streams(change: int) -> None:
    stream = np.zeros((1, door.stream_size(800, 8, 80) + change), np.uint8)
    with pytest.raises(ArtifactError, match=f"found {stream.shape[1]} bytes per plane, 800 positions take 10"):
        door.outputs(stream, 800, 8, 80, 1, 0)
    with pytest.raises(ArtifactError):
        door.outputs(stream[:, :0], 2**48, 8, 80, 1, 0)  # refused before any memory is taken


GOOD: dict[str, Any] = {"care": np.ones(9, bool), "values": np.ones(9, np.uint64), "planes": 1, "n_in": 8, "n_out": 4}


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"care": np.ones(9, np.uint8)}, ArgumentTypeError, "care: found uint8 of shape"),
        ({"care": np.ones((3, 3), bool)}, ArgumentTypeError, "care: found bool of shape"),
        ({"values": np.ones(9, np.int64)}, ArgumentTypeError, "values: found int64"),
        ({"values": np.ones(8, np.uint64)}, ArgumentError, "values: found 8 codes, allowed is 9"),
        ({"planes": 65}, ArgumentError, "planes: found 65"),
        ({"n_in": 0}, ArgumentError, r"n_in: found 0, allowed is an integer in 1\.\.8"),
        ({"n_in": 9}, ArgumentError, "n_in: found 9"),
        ({"n_out": 0}, ArgumentError, "n_out: found 0"),
        ({"n_out": 1025}, ArgumentError, "n_out: found 1025"),
        ({"n_out": 2.0}, ArgumentTypeError, r"n_out: found 2\.0"),
        ({"registers": 3}, ArgumentError, "registers: found 3"),
        ({"registers": -1}, ArgumentError, "registers: found -1"),
        ({"registers": True}, ArgumentTypeError, "registers: found True"),
        ({"seed": 2**64}, ArgumentError, "seed: found"),
    ],
)
def test_refused_arguments(change: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        door.solve(**(GOOD | {"registers": 1, "seed": 0} | change))


@pytest.mark.parametrize(
    ("steps", "kind"),
    [((0, 4), ArgumentError), ((2, 1), ArgumentError), ((-1, 1), ArgumentError), ([0, 1], ArgumentTypeError)],
)
def test_refused_reads(steps: Any, kind: type[Exception]) -> None:
    stream = np.zeros((1, 3), np.uint8)
    with pytest.raises(kind, match="steps"):
        door.outputs(stream, 9, 8, 4, 1, 0, steps)
    with pytest.raises(ArgumentTypeError, match="stream: found uint8 of shape"):
        door.outputs(stream[0], 9, 8, 4, 1, 0)
    with pytest.raises(ArgumentError, match="size: found -1"):
        door.outputs(stream, -1, 8, 4, 1, 0)


@pytest.mark.parametrize("twin", [numba_twin, reference])
@pytest.mark.parametrize("registers", [0, 1, 2])
def test_no_positions(registers: int, twin: ModuleType) -> None:
    nothing = twin.solve(np.zeros(0, bool), np.zeros(0, np.uint64), 3, 8, 80, registers, 0, 1024, OVERLAP)
    assert nothing.shape == (3, 0)
    assert twin.outputs(nothing, 0, 8, 80, registers, 0, 0, 0).shape == (3, 0)
