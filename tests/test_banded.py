"""The banded network: twins, dense elimination as oracle, laws of linear codes, the queue, refusals, frozen bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factorq.errors import ArgumentError, ArgumentTypeError, ArtifactError
from factorq.kernels import banded as door
from factorq.kernels.banded import Network, numba_twin, reference
from factorq.kernels.words.numba_twin import popcount, trailing_zeros

TWINS = pytest.mark.parametrize("twin", [numba_twin, reference], ids=["numba", "reference"])
ONES = (1 << 64) - 1


@dataclass(frozen=True)
class Case:
    """Arguments of the kernel."""

    network: Network
    care: np.ndarray
    values: np.ndarray
    planes: int
    starts: np.ndarray
    slots: int

    def solve(self, twin: ModuleType = door) -> np.ndarray:
        return twin.solve(self.network, self.care, self.values, self.planes, self.starts, self.slots)

    def outputs(self, stream: np.ndarray, twin: ModuleType = door, **options: Any) -> np.ndarray:
        return twin.outputs(self.network, stream, self.care.size, self.starts, self.slots, **options)

    def wanted(self) -> np.ndarray:
        """The bits (planes, count) that the outputs should have at the positions that matter."""
        return (self.values >> np.arange(self.planes, dtype=np.uint64)[:, None] & np.uint64(1)).astype(np.uint8)

    def wrong(self, stream: np.ndarray) -> np.ndarray:
        """Which of them they do not have: (planes, count)."""
        return bits(self.outputs(stream), self.care.size)[:, self.care] != self.wanted()


def bits(packed: np.ndarray, count: int) -> np.ndarray:
    return np.unpackbits(packed, axis=1, count=count, bitorder="little")


def made(size: int, density: float, network: Network, planes: int = 1, seed: int = 0, slots: int | None = None) -> Case:
    """Windows that move at the rate of the positions that matter; ``slots`` so that all of them are whole if None."""
    rng = np.random.default_rng([seed, size])
    care = rng.random(size) < density
    values = rng.integers(0, 1 << 64, int(care.sum()), np.uint64)
    starts = (np.arange(-(-size // network.step)) * network.step * density).astype(np.int64)
    end = int(starts[-1]) + network.window + network.advance if size else 0
    slots = end if slots is None else slots
    return Case(network, care, values, planes, np.minimum(starts, slots), slots)


networks = st.builds(
    Network,
    window=st.one_of(st.integers(1, 128), st.sampled_from((63, 64, 65, 127, 128))),
    step=st.sampled_from((64, 128, 256, 512, 1024)),
    advance=st.one_of(st.integers(0, 128), st.sampled_from((0, 127, 128))),
    seed=st.integers(0, ONES),
)


@st.composite
def cases(draw: st.DrawFn, most: int = 1500) -> Case:
    """Anything that the contract allows: windows that jump to and fro, streams that are too short or empty."""
    network, seed = draw(networks), draw(st.integers(0, 2**32))
    size = draw(st.one_of(st.integers(0, most), st.sampled_from((0, 1, 63, 64, 65, 128, 129))))
    planes = draw(st.one_of(st.integers(1, 3), st.integers(1, 64)))
    density = draw(st.one_of(st.sampled_from((0.0, 0.1, 1.0)), st.floats(0, 1)))
    slots = draw(st.one_of(st.sampled_from((0, 1, 63, 64, 65, 127, 128)), st.integers(0, 2 * size + 200)))
    case = made(size, density, network, planes, seed, slots)
    if draw(st.booleans()):
        jumps = np.random.default_rng(seed).integers(0, slots + 1, case.starts.size)
        case = Case(network, case.care, case.values, planes, jumps, slots)
    return case


# Twins ----------------------------------------------------------------------------------------------------------------


@settings(max_examples=100)
@given(case=cases(1000))
def test_twins_find_the_same_stream(case: Case) -> None:
    stream, plain = case.solve(), case.solve(reference)
    assert stream.shape == (case.planes, -(-case.slots // 8))
    assert stream.dtype == np.uint8
    np.testing.assert_array_equal(stream, plain)
    if case.slots % 8:
        assert not (stream[:, -1] >> case.slots % 8).any()  # pad bits
    np.testing.assert_array_equal(case.outputs(stream), case.outputs(plain, reference))


@settings(max_examples=120)
@given(case=cases(), data=st.data())
def test_twins_make_the_same_of_any_stream(case: Case, data: st.DataObject) -> None:
    """Also of bits after the end, which count as zeros; of ranges of steps, what they are of the whole."""
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    stream = rng.integers(0, 256, (data.draw(st.integers(0, 3)), -(-case.slots // 8)), np.uint8)
    whole = case.outputs(stream)
    assert whole.shape == (len(stream), -(-case.care.size // 8))
    np.testing.assert_array_equal(whole, case.outputs(stream, reference))
    first = data.draw(st.integers(0, case.starts.size))
    stop = data.draw(st.integers(first, case.starts.size))
    part, step = case.outputs(stream, steps=(first, stop)), case.network.step // 8
    np.testing.assert_array_equal(part, whole[:, first * step : stop * step])


def test_arrays_in_any_layout() -> None:
    case = made(1000, 0.3, Network(64, 128, 38, 5), 2)
    stream = case.solve()
    strided = Case(
        case.network,
        np.repeat(case.care, 2)[::2],
        np.repeat(case.values, 2)[::2],
        2,
        np.repeat(case.starts, 2)[::2],
        case.slots,
    )
    for array in (strided.care, strided.values, strided.starts):
        array.flags.writeable = False
    np.testing.assert_array_equal(strided.solve(), stream)
    wide = np.repeat(stream, 2, axis=1)
    wide.flags.writeable = False
    np.testing.assert_array_equal(case.outputs(wide[:, ::2]), case.outputs(stream))
    np.testing.assert_array_equal(case.outputs(np.asfortranarray(stream)), case.outputs(stream))


# Known answers --------------------------------------------------------------------------------------------------------


def splitmix(seed: int, count: int) -> list[int]:
    """The generator in plain integers, independent of the package's."""
    words = []
    for i in range(1, count + 1):
        z = (seed + i * 0x9E3779B97F4A7C15) & ONES
        z = ((z ^ z >> 30) * 0xBF58476D1CE4E5B9) & ONES
        z = ((z ^ z >> 27) * 0x94D049BB133111EB) & ONES
        words.append(z ^ z >> 31)
    return words


def matrix(network: Network, size: int, starts: np.ndarray, slots: int) -> np.ndarray:
    """The network as a matrix (size, slots) over GF(2), from the words of the contract."""
    words, window = splitmix(network.seed, 2 * network.step), network.window
    full = np.zeros((size, slots + 300), np.uint8)
    for i in range(size):
        t, j = divmod(i, network.step)
        row = (words[2 * j] | words[2 * j + 1] << 64) & ((1 << window) - 1) or 1 << j % window
        begin = int(starts[t]) + j * network.advance // network.step
        full[i, begin : begin + window] = [row >> k & 1 for k in range(window)]
    return full[:, :slots]


def reduced(a: np.ndarray) -> tuple[np.ndarray, list[int]]:
    """Reduced row echelon form over GF(2), and its pivots' columns."""
    a, pivots = a.copy(), []
    for column in range(a.shape[1]):
        rows = np.flatnonzero(a[len(pivots) :, column]) + len(pivots)
        if rows.size:
            a[[len(pivots), rows[0]]] = a[[rows[0], len(pivots)]]
            others = np.flatnonzero(a[:, column])
            a[others[others != len(pivots)]] ^= a[len(pivots)]
            pivots.append(column)
    return a, pivots


@st.composite
def small(draw: st.DrawFn) -> Case:
    network = draw(st.builds(Network, st.integers(1, 128), st.sampled_from((64, 128)), st.integers(0, 128),
                             st.integers(0, ONES)))  # fmt: skip
    size, density = draw(st.integers(1, 180)), draw(st.floats(0, 1))
    slots = draw(st.one_of(st.none(), st.integers(0, 100)))
    return made(size, density, network, draw(st.integers(1, 3)), draw(st.integers(0, 999)), slots)


@settings(max_examples=60)
@given(case=small(), data=st.data())
def test_against_dense_elimination(case: Case, data: st.DataObject) -> None:
    """The stream is the one solution of the first independent equations in which all free bits are 0."""
    rows = matrix(case.network, case.care.size, case.starts, case.slots)
    random = np.random.default_rng(data.draw(st.integers(0, 99))).integers(0, 2, case.slots, np.uint8)
    seen = bits(case.outputs(np.packbits(random[None], axis=1, bitorder="little")), case.care.size)[0]
    np.testing.assert_array_equal(seen, rows @ random.astype(np.int64) % 2)

    equations, wanted = rows[case.care], case.wanted()
    independent = reduced(equations.T)[1]
    system = np.concatenate([equations[independent], wanted[:, independent].T], axis=1)
    echelon, pivots = reduced(system)
    assert len(pivots) == len(independent)
    expected = np.zeros((case.planes, case.slots), np.uint8)
    expected[:, pivots] = echelon[: len(pivots), case.slots :].T
    stream = case.solve()
    np.testing.assert_array_equal(bits(stream, case.slots), expected)

    wrong = case.wrong(stream)
    assert not wrong[:, independent].any()
    for plane in range(case.planes):
        solvable = len(reduced(np.column_stack([equations, wanted[plane]]))[1]) == len(independent)
        assert solvable == (not wrong[plane].any())


@settings(max_examples=60)
@given(case=cases(600), seed=st.integers(0, 99))
def test_what_the_network_can_say_is_found(case: Case, seed: int) -> None:
    """However many equations there are: if one stream meets all of them, the stream that is found does."""
    stream = np.random.default_rng(seed).integers(0, 256, (case.planes, -(-case.slots // 8)), np.uint8)
    said = bits(case.outputs(stream), case.care.size)[:, case.care].astype(np.uint64)
    values = (said << np.arange(case.planes, dtype=np.uint64)[:, None]).sum(axis=0, dtype=np.uint64)
    again = Case(case.network, case.care, values, case.planes, case.starts, case.slots)
    assert not again.wrong(again.solve()).any()


def test_rows() -> None:
    rows = Network(100, 64, 0, 3).rows
    words = splitmix(3, 128)
    assert rows.tolist() == [[words[2 * j], words[2 * j + 1] & (1 << 36) - 1] for j in range(64)]
    tiny = Network(2, 1024, 0, 3).rows
    assert tiny.any(axis=1).all()
    empty = [j for j, word in enumerate(splitmix(3, 2048)[::2]) if not word & 3]
    assert [tiny[j, 0] for j in empty] == [1 << j % 2 for j in empty]
    assert len(empty) > 200
    assert Network(8, 64, 128, 0).offsets.tolist() == list(range(0, 128, 2))
    assert Network(8, 256, 3, 0).offsets.tolist() == [0] * 86 + [1] * 85 + [2] * 85


# Laws -----------------------------------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(case=cases(), seed=st.integers(0, 99))
def test_outputs_are_linear(case: Case, seed: int) -> None:
    a, b = np.random.default_rng(seed).integers(0, 256, (2, 2, -(-case.slots // 8)), np.uint8)
    np.testing.assert_array_equal(case.outputs(a ^ b), case.outputs(a) ^ case.outputs(b))
    assert not case.outputs(np.zeros_like(a)).any()


@settings(max_examples=40)
@given(case=cases())
def test_planes_together_are_planes_one_by_one(case: Case) -> None:
    together = case.solve()
    for plane in range(case.planes):
        values = case.values >> np.uint64(plane)
        alone = Case(case.network, case.care, values, 1, case.starts, case.slots).solve()
        np.testing.assert_array_equal(together[plane], alone[0])


@settings(max_examples=40)
@given(case=cases(), seed=st.integers(0, 99))
def test_planes_add(case: Case, seed: int) -> None:
    """Which equations are kept depends on the mask alone, so that solutions are linear in the values."""
    other = np.random.default_rng(seed).integers(0, 1 << 64, case.values.size, np.uint64)

    def stream(values: np.ndarray) -> np.ndarray:
        return Case(case.network, case.care, values, case.planes, case.starts, case.slots).solve()

    np.testing.assert_array_equal(stream(case.values ^ other), stream(case.values) ^ stream(other))


def test_no_equation_is_lost_with_spare_bits() -> None:
    case = made(1 << 16, 0.1, Network(128, 256, 28, 1), 5)
    roomy = Case(case.network, case.care, case.values, 5, case.starts * 11 // 10, case.slots * 11 // 10)
    assert not roomy.wrong(roomy.solve()).any()
    assert not roomy.solve()[:, -1:].any()  # what no equation reaches stays 0


# The queue ------------------------------------------------------------------------------------------------------------


@settings(max_examples=100)
@given(
    runs=st.lists(st.tuples(st.integers(0, 70), st.integers(0, 70)), max_size=60),
    window=st.integers(1, 128),
)
def test_waiting_is_a_queue(runs: list[tuple[int, int]], window: int) -> None:
    counts = np.array([count for count, _ in runs], np.int64)
    starts = np.cumsum(np.array([move for _, move in runs], np.int64))
    queue: list[int] = []
    lost = 0
    for count, move in runs:
        queue = queue[move:]
        for equation in range(count):
            if len(queue) < window:
                queue.append(equation)
            else:
                lost += 1
    for twin in (door, reference):
        assert twin.waiting(counts, starts, window) == (lost, len(queue))


@settings(max_examples=50)
@given(runs=st.lists(st.tuples(st.integers(0, 500), st.integers(0, 5000)), max_size=50), window=st.integers(1, 128))
def test_twins_wait_alike(runs: list[tuple[int, int]], window: int) -> None:
    counts, starts = np.array(runs, np.int64).reshape(-1, 2).T
    assert door.waiting(counts, starts, window) == reference.waiting(counts, starts, window)


@pytest.mark.parametrize(("density", "window"), [(0.1, 32), (0.1, 64), (0.2, 48), (0.3, 100)])
def test_waiting_tells_what_is_lost(density: float, window: int) -> None:
    """At the rate of the positions that matter; half of the equations that are lost hold by chance."""
    network = Network(window, 128, round(128 * density), 1)
    plain = made(1 << 18, density, network, 2)
    starts = (np.arange(plain.starts.size) * 128 * plain.care.mean()).astype(np.int64)
    case = Case(network, plain.care, plain.values, 2, starts, int(starts[-1]) + 256)
    begins = (starts[:, None] + network.offsets[::64]).reshape(-1)
    lost, _ = door.waiting(case.care.reshape(-1, 64).sum(axis=1), begins, window)
    found = case.wrong(case.solve()).mean(axis=0).sum()
    assert lost > 100
    assert 0.7 * lost / 2 < found < 1.4 * lost / 2


# Refusals -------------------------------------------------------------------------------------------------------------

NETWORK, CARE = Network(16, 64, 8, 0), np.arange(100) % 3 == 0
VALUES, STARTS = np.ones(34, np.uint64), np.array([0, 20])
STREAM = np.zeros((2, 8), np.uint8)


def solve(**change: Any) -> np.ndarray:
    plain = {"network": NETWORK, "care": CARE, "values": VALUES, "planes": 1, "starts": STARTS, "slots": 60}
    return door.solve(**plain | change)


def outputs(**change: Any) -> np.ndarray:
    return door.outputs(**{"network": NETWORK, "stream": STREAM, "size": 100, "starts": STARTS, "slots": 60} | change)


def test_what_is_refused_below_is_taken_without_the_change() -> None:
    assert solve().shape == (1, 8)
    assert outputs().shape == (2, 13)


BAD: dict[str, tuple[type[Exception], str, Callable[[], Any]]] = {
    "window 0": (ArgumentError, "^window: found 0", lambda: Network(0, 64, 0, 0)),
    "window 129": (ArgumentError, "^window: found 129", lambda: Network(129, 64, 0, 0)),
    "window of floats": (ArgumentError, r"^window: found 8\.0", lambda: Network(8.0, 64, 0, 0)),  # type: ignore[arg-type]
    "step 32": (ArgumentError, "^step: found 32", lambda: Network(8, 32, 0, 0)),
    "step 96": (ArgumentError, "^step: found 96.*power of two", lambda: Network(8, 96, 0, 0)),
    "step 2**15": (ArgumentError, "^step: found 32768", lambda: Network(8, 1 << 15, 0, 0)),
    "advance -1": (ArgumentError, "^advance: found -1", lambda: Network(8, 64, -1, 0)),
    "advance 129": (ArgumentError, "^advance: found 129", lambda: Network(8, 64, 129, 0)),
    "seed 2**64": (ArgumentError, "^seed: found 18446744073709551616", lambda: Network(8, 64, 0, 1 << 64)),
    "seed True": (ArgumentError, "^seed: found True", lambda: Network(8, 64, 0, True)),
    "care list": (ArgumentTypeError, "^care: found list", lambda: solve(care=CARE.tolist())),
    "care uint8": (ArgumentTypeError, "^care: found uint8", lambda: solve(care=CARE.view(np.uint8))),
    "care 2-D": (ArgumentTypeError, "^care: found bool of shape", lambda: solve(care=CARE[None])),
    "values int64": (ArgumentTypeError, "^values: found int64", lambda: solve(values=VALUES.astype(np.int64))),
    "values 2-D": (ArgumentTypeError, "^values: found uint64 of shape", lambda: solve(values=VALUES[None])),
    "values too many": (ArgumentError, "^values: found 35 .*34", lambda: solve(values=np.ones(35, np.uint64))),
    "planes 0": (ArgumentError, "^planes: found 0", lambda: solve(planes=0)),
    "planes 65": (ArgumentError, "^planes: found 65", lambda: solve(planes=65)),
    "starts short": (ArgumentError, "^starts: .*2 steps", lambda: solve(starts=STARTS[:1])),
    "starts int32": (ArgumentError, "^starts: .*int32", lambda: solve(starts=STARTS.astype(np.int32))),
    "starts list": (ArgumentError, "^starts: .*list", lambda: solve(starts=[0, 20])),
    "starts before 0": (ArgumentError, "^starts: .*-1 to 20", lambda: solve(starts=STARTS - [1, 0])),
    "starts after the end": (ArgumentError, "^starts: .*0 to 61", lambda: solve(starts=np.array([0, 61]))),
    "stream int8": (ArtifactError, "int8", lambda: outputs(stream=STREAM.view(np.int8))),
    "stream 1-D": (ArtifactError, r"shape \(8,\)", lambda: outputs(stream=STREAM[0])),
    "stream short": (ArtifactError, r"\(planes, 8\)", lambda: outputs(stream=STREAM[:, :7])),
    "stream long": (ArtifactError, r"\(planes, 9\)", lambda: outputs(slots=65)),
    "starts of another size": (ArtifactError, "3 steps", lambda: outputs(size=129)),
    "starts beyond": (ArtifactError, "0 to 61", lambda: outputs(starts=np.array([0, 61]))),
    "starts below": (ArtifactError, "-5 to 0", lambda: outputs(starts=np.array([0, -5]))),
    "steps too far": (ArgumentError, "^steps: ", lambda: outputs(steps=(0, 3))),
    "steps backwards": (ArgumentError, "^steps: ", lambda: outputs(steps=(2, 1))),
    "steps below 0": (ArgumentError, "^steps: ", lambda: outputs(steps=(-1, 1))),
    "counts of other runs": (ArgumentError, "^counts: ", lambda: door.waiting(STARTS, STARTS[:1], 8)),
    "counts 2-D": (ArgumentError, "^counts: ", lambda: door.waiting(STARTS[None], STARTS[None], 8)),
}


@pytest.mark.parametrize(("error", "message", "call"), BAD.values(), ids=list(BAD))
def test_refused(error: type[Exception], message: str, call: Callable[[], Any]) -> None:
    with pytest.raises(error, match=message):
        call()


# Words and frozen bytes -----------------------------------------------------------------------------------------------


@numba.njit("UniTuple(int64, 2)(uint64)")
def _counted(word: int) -> tuple[int, int]:
    return trailing_zeros(word), popcount(word)


@settings(max_examples=100)
@given(word=st.one_of(st.integers(1, ONES), st.integers(0, 63).map(lambda k: 1 << k), st.just(ONES)))
def test_counting_bits(word: int) -> None:
    assert _counted(np.uint64(word)) == ((word & -word).bit_length() - 1, word.bit_count())


@TWINS
def test_frozen_bytes(twin: ModuleType) -> None:
    """Files depend on the streams being these."""
    words = np.array(splitmix(5, 9000), np.uint64)
    care = words % np.uint64(10) == 0
    starts = np.arange(-(-9000 // 256)) * 24
    case = Case(Network(100, 256, 26, ONES - 1), care, words[care], 3, starts, int(starts[-1]) + 120)
    stream = case.solve(twin)
    assert 0 < case.wrong(stream).sum() < 0.1 * 3 * care.sum()
    assert (
        hashlib.sha256(stream.tobytes()).hexdigest()
        == "3ed09ad762469262064c6f6dcf0387270f665bfbabe3417baab7d62dc8f01936"
    )
    assert (
        hashlib.sha256(case.outputs(stream, twin).tobytes()).hexdigest()
        == "8f4a404edd2c761c8c649107cca0601572defc29ee5a28b5e892e76ece8179aa"
    )
