"""The trellis search: the machines are the codes of the literature, the path found is the best one, the twins agree."""

from __future__ import annotations

import heapq
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factorq.errors import ArgumentError
from factorq.kernels import trellis as kernel
from factorq.kernels.trellis import numba_twin, reference

# Parity polynomials and squared free distance over squared spacing (Ungerboeck 1982, table I).
UNGERBOECK = {
    4: (0o5, 0o2, 9), 8: (0o13, 0o4, 10), 16: (0o23, 0o4, 11), 32: (0o45, 0o10, 13), 64: (0o103, 0o24, 14),
    128: (0o235, 0o126, 16), 256: (0o515, 0o362, 16),
}  # fmt: skip
trellises = pytest.mark.parametrize("states", UNGERBOECK)


def walk(trellis: kernel.Machine, free: np.ndarray, state: int = 0) -> tuple[np.ndarray, list[int]]:
    """The path k that free bits lead along, and the states that it visits."""
    visited, k = [state], []
    for bit in free.tolist():
        k.append(2 * bit + int(trellis.parity[state]))
        state = int(trellis.successor[state, bit])
        visited.append(state)
    return np.array(k), visited


def follows(trellis: kernel.Machine, k: np.ndarray, state: int = 0) -> int | None:
    """The state after k, or None where the trellis forbids an integer of it."""
    for value in k.tolist():
        if trellis.states > 1 and value & 1 != trellis.parity[state]:
            return None
        state = int(trellis.successor[state, (value >> 1) & 1])
    return state


def rates(rng: np.random.Generator, classes: int, most: int, steep: float) -> np.ndarray:
    """Costs (classes, 2 most + 1) that grow with the magnitude, differently in each class."""
    half = np.cumsum(rng.uniform(0, steep, (classes, most + 1)), axis=1)
    return np.concatenate([half[:, :0:-1], half], axis=1).astype(np.float32)


def cost(x: np.ndarray, k: np.ndarray, classes: np.ndarray, rate: np.ndarray) -> np.ndarray:
    """``sum((x - k)**2 + rate[class, k])`` over the last axis."""
    most = (rate.shape[1] - 1) // 2
    return np.sum((x.astype(np.float64) - k) ** 2 + rate[classes, np.clip(k, -most, most) + most], axis=-1)


def cheapest(x: np.ndarray, classes: np.ndarray, rate: np.ndarray, trellis: kernel.Machine, state: int) -> float:
    """The least cost of x (T,) over all paths from ``state``: every sequence of bits, every point of each subset."""
    points = np.arange(-40, 41)
    every = cost(x[:, None, None], points[:, None], classes[:, None, None], rate)
    best = np.array([every[:, points % 4 == d].min(axis=1) for d in range(4)])
    paths = (walk(trellis, np.array(free), state)[0] for free in itertools.product((0, 1), repeat=x.size))
    return min(float(best[k, np.arange(x.size)].sum()) for k in paths)


@trellises
def test_paths_are_words_of_the_code_of_the_literature(states: int) -> None:
    """``h0(D) z0(D) + h1(D) z1(D) = 0`` over GF(2), z0 and z1 being the low bits of the integers."""
    h0, h1, _ = UNGERBOECK[states]
    k, visited = walk(kernel.machine(states), np.random.default_rng(states).integers(0, 2, 8000))
    taps = [np.array([h >> i & 1 for i in range(states.bit_length())]) for h in (h0, h1)]
    checks = np.convolve(k & 1, taps[0])[:8000] + np.convolve(k >> 1 & 1, taps[1])[:8000]
    assert not (checks % 2).any()
    assert set(visited) == set(range(states))


@trellises
def test_free_distance_is_that_of_the_literature(states: int) -> None:
    """Least squared distance of two paths that part and meet again; the code is linear, so one may be the zero path."""
    trellis = kernel.machine(states)
    distance, best = {}, 16  # two points of one subset
    queue = [(4, int(trellis.successor[0, 1]))]
    while queue:
        spent, state = heapq.heappop(queue)
        if state == 0:
            best = min(best, spent)
            break
        if distance.setdefault(state, spent) < spent:
            continue
        for bit in (0, 1):
            step = (0, 1, 4, 1)[2 * bit + int(trellis.parity[state])]
            heapq.heappush(queue, (spent + step, int(trellis.successor[state, bit])))
    assert best == UNGERBOECK[states][2]


@trellises
def test_branches_backwards_are_those_forwards(states: int) -> None:
    trellis = kernel.machine(states)
    forwards = {
        (s, int(trellis.successor[s, bit]), 2 * bit + int(trellis.parity[s])) for s in range(states) for bit in (0, 1)
    }
    backwards = {
        (int(s), t, int(d))
        for t in range(states)
        for s, d in zip(trellis.predecessor[t], trellis.subset[t], strict=True)
    }
    assert forwards == backwards
    assert len(forwards) == 2 * states
    assert trellis.states == states
    assert kernel.machine(states) is trellis


@settings(max_examples=60)
@given(
    states=st.sampled_from((4, 8, 64)),
    length=st.integers(1, 7),
    scale=st.sampled_from((0.3, 1.0, 6.0)),
    steep=st.sampled_from((0.0, 1.0, 5.0)),
    most=st.sampled_from((0, 1, 3, 30)),
    seed=st.integers(0, 99),
)
def test_no_path_is_cheaper(states: int, length: int, scale: float, steep: float, most: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    trellis = kernel.machine(states)
    x = (scale * rng.standard_normal((3, length))).astype(np.float32)
    classes = rng.integers(0, 2, x.shape, dtype=np.uint8)
    rate = rates(rng, 2, most, steep)
    begin = rng.integers(0, states, 3)
    end = begin.copy()
    k = kernel.search(x, classes, rate, trellis, end)
    for lane in range(3):
        assert follows(trellis, k[lane], int(begin[lane])) == end[lane]
        least = cheapest(x[lane], classes[lane], rate, trellis, int(begin[lane]))
        assert cost(x[lane], k[lane], classes[lane], rate) == pytest.approx(least, rel=1e-5, abs=1e-5)


@settings(max_examples=50)
@given(
    scale=st.sampled_from((0.2, 1.0, 20.0)),
    steep=st.sampled_from((0.0, 0.3, 1.4)),
    most=st.sampled_from((0, 2, 40)),
    seed=st.integers(0, 99),
)
def test_without_a_trellis_no_integer_is_cheaper(scale: float, steep: float, most: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = (scale * rng.standard_normal((2, 50))).astype(np.float32)
    classes = rng.integers(0, 3, x.shape, dtype=np.uint8)
    rate = rates(rng, 3, most, steep)
    k = kernel.search(x, classes, rate, kernel.machine(1), np.zeros(2, np.int64))
    points = np.arange(-90, 91)
    every = cost(x[..., None, None], points[:, None], classes[..., None, None], rate)
    np.testing.assert_allclose(cost(x[..., None], k[..., None], classes[..., None], rate), every.min(axis=-1), 1e-5)


@settings(max_examples=40)
@given(
    states=st.sampled_from(kernel.STATES),
    lanes=st.integers(1, 5),
    length=st.sampled_from((0, 1, 2, 37, 511, 512, 513, 1100)),
    kind=st.sampled_from(("gaussian", "grid", "zero", "far")),
    seed=st.integers(0, 99),
)
def test_twins_agree_exactly(states: int, lanes: int, length: int, kind: str, seed: int) -> None:
    """Also on ties, which halves and zeros are full of, and beyond the table of rates."""
    rng = np.random.default_rng(seed)
    trellis = kernel.machine(states)
    x = {
        "gaussian": 3 * rng.standard_normal((lanes, length)),
        "grid": rng.integers(-9, 10, (lanes, length)) / 2,
        "zero": np.zeros((lanes, length)),
        "far": rng.uniform(-1, 1, (lanes, length)) * kernel.LARGEST,
    }[kind].astype(np.float32)
    classes = rng.integers(0, 3, x.shape, dtype=np.uint8)
    rate = rng.integers(0, 6, (3, 13)).astype(np.float32) if kind == "grid" else rates(rng, 3, 6, 0.8)
    found = []
    for twin in (numba_twin, reference):
        k, state = np.empty(x.shape, np.int32), np.full(lanes, states // 2)
        if states == 1:
            twin.deadzone(x, classes, rate, k)
        else:
            twin.search(x, classes, rate, trellis.predecessor, trellis.subset, state, k)
        found.append((k, state))
    np.testing.assert_array_equal(found[0][0], found[1][0])
    np.testing.assert_array_equal(found[0][1], found[1][1])
    if states > 1:
        assert [follows(trellis, row, states // 2) for row in found[0][0]] == found[0][1].tolist()


@pytest.mark.parametrize("states", [4, 64])
def test_a_path_is_decided_every_512_samples(states: int) -> None:
    rng = np.random.default_rng(0)
    x, classes = (2 * rng.standard_normal((2, 1200))).astype(np.float32), np.zeros((2, 1200), np.uint8)
    rate, trellis = rates(rng, 1, 9, 0.5), kernel.machine(states)
    state, whole_state = np.zeros(2, np.int64), np.zeros(2, np.int64)
    whole = kernel.search(x, classes, rate, trellis, whole_state)
    parts = [kernel.search(x[:, a : a + 512], classes[:, a : a + 512], rate, trellis, state) for a in (0, 512, 1024)]
    np.testing.assert_array_equal(whole, np.concatenate(parts, axis=1))
    np.testing.assert_array_equal(state, whole_state)


def test_rows_do_not_see_each_other() -> None:
    rng = np.random.default_rng(1)
    x, classes = (2 * rng.standard_normal((7, 90))).astype(np.float32), rng.integers(0, 2, (7, 90), dtype=np.uint8)
    rate, trellis = rates(rng, 2, 9, 0.5), kernel.machine(8)
    together = kernel.search(x, classes, rate, trellis, np.zeros(7, np.int64))
    for row in range(7):
        alone = kernel.search(x[[row]], classes[[row]], rate, trellis, np.zeros(1, np.int64))
        np.testing.assert_array_equal(alone[0], together[row])


def test_more_states_less_error() -> None:
    """At rate 0, the gain of the trellis over a uniform quantizer of as many points."""
    x = np.random.default_rng(2).uniform(-50, 50, (64, 2000)).astype(np.float32)
    classes, rate = np.zeros(x.shape, np.uint8), np.zeros((1, 1), np.float32)
    errors = [
        float(np.mean((x - kernel.search(x, classes, rate, kernel.machine(s), np.zeros(64, np.int64))) ** 2))
        for s in kernel.STATES[1:]
    ]
    assert all(b < a for a, b in itertools.pairwise(errors))
    gains = [10 * np.log10(4 / 12 / e) for e in errors]  # dB; as many points are 2 apart
    assert gains[0] == pytest.approx(0.99, abs=0.03)  # Marcellin and Fischer 1990, table I
    assert 1.28 < gains[-1] < 1.34  # 1.33 there; windows of 512 samples lose .03 of it


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"x": np.zeros(6, np.float32)}, "x"),
        ({"classes": np.zeros((2, 4), np.uint8)}, "x"),
        ({"state": np.zeros(3, np.int64)}, "x"),
        ({"classes": np.full((2, 3), 1, np.uint8)}, "rate"),
        ({"rate": np.zeros((1, 4), np.float32)}, "rate"),
        ({"rate": np.zeros(5, np.float32)}, "rate"),
        ({"state": np.array([0, 8])}, "state"),
        ({"state": np.array([-1, 0])}, "state"),
    ],
)
def test_wrong_arguments_are_named(change: dict, name: str) -> None:
    good = {
        "x": np.zeros((2, 3), np.float32), "classes": np.zeros((2, 3), np.uint8), "rate": np.zeros((1, 5), np.float32),
        "trellis": kernel.machine(8), "state": np.zeros(2, np.int64),
    }  # fmt: skip
    kernel.search(**good)
    with pytest.raises(ArgumentError, match=f"^{name}:"):
        kernel.search(**(good | change))


@pytest.mark.parametrize("states", [0, 2, 3, 512, -8, "8"])
def test_other_numbers_of_states_are_refused(states: object) -> None:
    with pytest.raises(ArgumentError, match=r"^states: .*1, 4, 8, 16, 32, 64, 128, 256"):
        kernel.machine(states)
