"""The mixing coder: what goes in comes out, the twins agree, corrupted streams do no harm, and it compresses."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factorq.errors import ArgumentError, ArgumentTypeError, ArtifactError
from factorq.kernels import mixing
from factorq.kernels.mixing import numba_twin, reference
from factorq.kernels.mixing.tables import PROBABILITIES, tables

ONE = (np.zeros(1, np.uint8), np.zeros((1, 2), np.uint8))


def path(k, parity, successor, restart=0):
    """``k`` with each entry moved to the parity of its state."""
    out, state = k.copy().reshape(-1), 0
    if parity.size == 1:
        return k
    for i in range(out.size):
        if restart and i % restart == 0:
            state = 0
        out[i] += int((out[i] & 1) != parity[state]) * (-1 if out[i] > 0 else 1)
        state = successor[state, (out[i] >> 1) & 1]
    return out.reshape(k.shape)


def test_tables_are_those_of_the_format():
    """A platform whose exp, log and erfc lead to other integers could not read the streams of others."""
    assert zlib.crc32(b"".join(table.astype("<i8").tobytes() for table in tables())) == 0xC3E3417


@st.composite
def cases(draw, most=6):
    shape = tuple(draw(st.integers(1, n)) for n in (3, most, most))
    states = draw(st.sampled_from([1, 2, 5, 8, 256]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    machine = ONE
    if states > 1:
        machine = rng.integers(0, 2, states).astype(np.uint8), rng.integers(0, states, (states, 2)).astype(np.uint8)
    scale = draw(st.sampled_from([0.0, 0.1, 1.0, 4.0, 100.0, 1e6]))
    k = np.rint(rng.standard_t(2, shape) * scale).clip(-(2**24) + 2, 2**24 - 2).astype(np.int32)
    restart = draw(st.sampled_from([0, 1, 7]))
    return path(k, *machine, restart), machine, draw(st.integers(0, 255)), restart


@settings(max_examples=150, deadline=None)
@given(cases(most=12))
def test_decode_inverts_encode(case):
    k, machine, spread, restart = case
    stream = mixing.encode(k, *machine, spread, restart)
    np.testing.assert_array_equal(mixing.decode(stream, k.shape, *machine, spread, restart), k)
    bits = mixing.cost(k, *machine, spread, restart)
    assert abs(8 * stream.size - bits) <= 0.01 * bits + 16


@settings(max_examples=60, deadline=None)
@given(cases())
def test_twins_agree_exactly(case):
    k, machine, spread, restart = case
    arguments = (*machine, spread, restart)
    stream, status = reference.encode(k, *arguments, tables())
    assert status == 0
    np.testing.assert_array_equal(mixing.encode(k, *arguments), stream)
    assert mixing.cost(k, *arguments) == reference.cost(k, *arguments, tables())[0]
    labels, back = np.empty(k.shape, np.uint8), np.empty_like(k)
    assert reference.classes(k, *arguments, tables(), labels) == 0
    np.testing.assert_array_equal(mixing.classes(k, *arguments), labels)
    assert stream.size <= reference.decode(stream, *arguments, tables(), back)
    np.testing.assert_array_equal(back, k)


def test_twins_agree_after_much_learning():
    rng = np.random.default_rng(0)
    k = np.rint(rng.laplace(size=(3, 20, 30)) * np.exp(rng.normal(size=(1, 20, 1)))).astype(np.int32)
    stream, _ = reference.encode(k, *ONE, 130, 0, tables())
    np.testing.assert_array_equal(mixing.encode(k, *ONE, 130), stream)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=60), cases(), st.integers(0, 2**32))
def test_corrupted_streams_decode_or_raise(noise, case, seed):
    k, machine, spread, restart = case
    stream = mixing.encode(k, *machine, spread, restart)
    rng = np.random.default_rng(seed)
    flipped = stream.copy()
    if flipped.size:
        flipped[rng.integers(flipped.size)] ^= 1 << rng.integers(8)
    truncated = stream[: rng.integers(stream.size + 1)]
    for bad in (np.frombuffer(noise, np.uint8), flipped, truncated):
        found = np.empty_like(k)
        used = reference.decode(bad, *machine, spread, restart, tables(), found)
        if used < 0 or bad.size > used:
            with pytest.raises(ArtifactError):
                mixing.decode(bad, k.shape, *machine, spread, restart)
        else:
            np.testing.assert_array_equal(mixing.decode(bad, k.shape, *machine, spread, restart), found)


def test_a_full_stream_is_reported():
    """A corner that the first estimate of the size hardly ever meets; the door then starts over with more room."""
    k = np.full((1, 20, 20), 3, np.int32)
    nothing, full = numba_twin._run(0, k, *ONE, 128, 0, tables(), np.empty(100, np.uint8))
    assert (nothing, full) == (0, numba_twin._FULL)


def test_bytes_after_the_end_are_refused():
    k = np.arange(12, dtype=np.int32).reshape(1, 3, 4)
    stream = mixing.encode(k, *ONE, 140)
    with pytest.raises(ArtifactError, match="end after"):
        mixing.decode(np.append(stream, np.ones(3, np.uint8)), k.shape, *ONE, 140)


def test_known_streams():
    assert mixing.encode(np.zeros((1, 0, 3), np.int32), *ONE, 0).size == 0
    assert mixing.decode(np.empty(0, np.uint8), (2, 3, 0), *ONE, 0).shape == (2, 3, 0)
    k = np.array([[[0, 1, -1, 2], [5, 0, 0, -40]]], np.int32)
    assert mixing.encode(k, *ONE, 128).tobytes().hex() == "c3685cb657ef"
    zeros = np.zeros((1, 300, 300), np.int32)
    assert mixing.encode(zeros, *ONE, mixing.spread_of(zeros, 1)).size < 60


def test_the_extremes_are_coded():
    k = np.array([[[2**24, -(2**24), 0, 1]]], np.int32)
    for spread in (0, 128, 255):
        np.testing.assert_array_equal(mixing.decode(mixing.encode(k, *ONE, spread), k.shape, *ONE, spread), k)


def test_read_only_and_strided_arrays():
    k = np.arange(-12, 12, dtype=np.int32).reshape(2, 3, 4)
    stream = mixing.encode(k, *ONE, 128)
    turned = np.asfortranarray(k)
    for array in (k, turned, stream, *ONE):
        array.flags.writeable = False
    np.testing.assert_array_equal(mixing.encode(turned, *ONE, 128), stream)
    np.testing.assert_array_equal(mixing.decode(stream, k.shape, *ONE, 128), k)


def test_gaussian_costs_its_entropy():
    k = np.rint(np.random.default_rng(0).normal(size=(1, 300, 300)) * 2).astype(np.int32)
    counts = np.unique(k, return_counts=True)[1]
    entropy = -(counts * np.log2(counts / k.size)).sum()
    assert 0.99 * entropy < mixing.cost(k, *ONE, mixing.spread_of(k, 1)) < 1.006 * entropy


def test_structure_is_learnt():
    rng = np.random.default_rng(1)
    rows, columns = (np.exp(0.8 * rng.normal(size=shape)) for shape in ((1, 64, 1), (1, 1, 64)))
    mean = 1.5 * rng.normal(size=(1, 1, 64))
    k = np.rint(rows * columns * (rng.normal(size=(2, 64, 64)) + mean)).astype(np.int32)
    counts = np.unique(k, return_counts=True)[1]
    entropy = -(counts * np.log2(counts / k.size)).sum()
    assert mixing.cost(k, *ONE, mixing.spread_of(k, 1)) < 0.87 * entropy


def test_classes_follow_the_scale():
    k = np.zeros((1, 2, 4000), np.int32)
    k[0, 1] = 64
    labels = mixing.classes(k, *ONE, 128)
    assert labels[0, 0, -1] <= 2
    assert abs(int(labels[0, 1, -1]) - 28) <= 1  # 2 * log2(64) + 16
    assert labels.max() < mixing.LABELS


def test_tables_do_not_depend_on_last_digits():
    """exp, log and erfc differ in the last place between platforms: no entry may stand on the edge of a rounding."""
    x = [(i + 0.5) / (PROBABILITIES - 0.5 - i) for i in range(PROBABILITIES)]
    for exact in (np.log(x) * 2**12, 2**16 / (1 + np.exp(16 - (np.arange(PROBABILITIES) + 0.5) / 128))):
        assert np.abs(exact % 1 - 0.5).min() > 1e-9


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"k": np.zeros((2, 2), np.int32)}, ArgumentTypeError),
        ({"k": np.zeros((1, 2, 2))}, ArgumentTypeError),
        ({"k": np.full((1, 1, 1), 2**24 + 1, np.int32)}, ArgumentError),
        ({"parity": np.array([2], np.uint8)}, ArgumentError),
        ({"parity": np.zeros(1)}, ArgumentTypeError),
        ({"successor": np.array([[0, 1]], np.uint8)}, ArgumentError),
        ({"successor": np.zeros((2, 2), np.uint8)}, ArgumentError),
        ({"spread": 256}, ArgumentError),
        ({"spread": 1.5}, ArgumentError),
        ({"restart": -1}, ArgumentError),
    ],
)
def test_wrong_arguments_are_named(change, error):
    good = {"k": np.zeros((1, 2, 2), np.int32), "parity": ONE[0], "successor": ONE[1], "spread": 128}
    with pytest.raises(error, match=next(iter(change))):
        mixing.encode(**(good | change))


def test_a_wrong_parity_is_refused():
    machine = np.array([0, 1], np.uint8), np.array([[0, 1], [1, 0]], np.uint8)
    k = np.array([[[0, 2, 1, 4]]], np.int32)
    for door in (mixing.encode, mixing.cost, mixing.classes):
        with pytest.raises(ArgumentError, match="position 3"):
            door(k, *machine, 128)


@pytest.mark.parametrize(
    ("stream", "shape", "error"),
    [
        (np.zeros(3), (1, 1, 1), ArgumentTypeError),
        (np.zeros((1, 1), np.uint8), (1, 1, 1), ArgumentTypeError),
        (np.zeros(3, np.uint8), (1, 1), ArgumentError),
        (np.zeros(3, np.uint8), (1, 1, -1), ArgumentError),
    ],
)
def test_wrong_streams_are_named(stream, shape, error):
    with pytest.raises(error):
        mixing.decode(stream, shape, *ONE, 128)
