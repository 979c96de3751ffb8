"""The fixed-rate trellis: twins alike, near brute force on tiny circles, at the measured distortions, safe."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factorq.codecs.base import decode_config
from factorq.codecs.bitshift import BLOCK, BitShift
from factorq.errors import ArgumentError, ArgumentTypeError, ArtifactError
from factorq.kernels import bitshift as kernel
from factorq.kernels.bitshift import numba_twin, reference


def gaussian(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@settings(max_examples=40)
@given(st.data())
def test_twins_agree_on_every_bit(data: st.DataObject) -> None:
    bits = data.draw(st.integers(1, 8))
    states = 1 << data.draw(st.integers(max(2, bits), max(9, bits)))
    length = data.draw(st.integers(1, 40))
    period = kernel.period(length, bits, states)
    window = data.draw(st.sampled_from((0, 3, 64)))
    x = gaussian(3, period, seed=data.draw(st.integers(0, 99)))
    a, b = (np.zeros((3, period * bits // 8), np.uint8) for _ in range(2))
    table = kernel.table(bits, states)
    numba_twin.encode(x, table, bits, length, window, a)
    reference.encode(x, table, bits, length, window, b)
    np.testing.assert_array_equal(a, b)
    for dtype in (np.float32, np.float64):
        p, q = (np.empty((3, length), dtype) for _ in range(2))
        scales = np.array([1.5, -0.25, 0.0], dtype)
        numba_twin.decode(a, table, bits, scales, p)
        reference.decode(a, table, bits, scales, q)
        np.testing.assert_array_equal(p, q)


@pytest.mark.parametrize(("bits", "states", "length"), [(1, 4, 8), (1, 16, 16), (2, 16, 8), (4, 16, 4)])
def test_short_circles_are_searched_nearly_as_well_as_by_brute_force(bits: int, states: int, length: int) -> None:
    x = gaussian(20, length)
    every = np.array(list(itertools.product(range(256), repeat=length * bits // 8)), np.uint8)
    points = kernel.decode(every, bits, states, np.ones(len(every), np.float32), length)
    best = np.array([np.square(points - row).sum(axis=1).min() for row in x])
    found = kernel.decode(kernel.encode(x, bits, states), bits, states, np.ones(20, np.float32), length)
    cost = np.square(found - x).sum(axis=1)
    assert (cost >= best * (1 - 1e-5)).all()
    assert np.mean(cost <= best * (1 + 1e-5)) > 0.5  # the seam is found by a search with free ends
    assert cost.sum() < 1.15 * best.sum()


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("states", [256, 4096])
def test_tables_are_symmetric_and_gaussian(bits: int, states: int) -> None:
    table = kernel.table(bits, states)
    assert len(set(table.tolist())) == states
    np.testing.assert_array_equal(np.sort(table), -np.sort(table)[::-1])
    assert 0.9 < table.astype(float).var() < 1.0
    shares = np.argsort(np.argsort(table)) * (1 << bits) // states
    for run in (shares.reshape(-1, 1 << bits), shares.reshape(1 << bits, -1).T):  # branches that part, that meet
        assert (np.sort(run, axis=1) == np.arange(1 << bits)).all()


@pytest.mark.parametrize(("bits", "most"), [(2, 0.074), (3, 0.0195), (4, 0.0053)])
def test_distortion_of_gaussian_weights(bits: int, most: float) -> None:
    x = gaussian(48, 1024)
    stored = BitShift.encode(x, bits=bits, states=4096, group=256)
    share = np.square(stored.decode() - x).mean() / np.square(x).mean()
    assert share < most
    assert share >= 2.0 ** (-16 * stored.nbytes / x.size)


@settings(max_examples=40)
@given(st.data())
def test_any_shape(data: st.DataObject) -> None:
    """Predicted size, scale equivariance, blocks on their own, description and buffers, nearest to what is stored."""
    shape = data.draw(st.sampled_from(((1, 1), (3, 5), (2, 255), (2, 256), (2, 257), (3, 600), (2, 3, 4, 5), (0, 4))))
    settings_of = {
        "bits": data.draw(st.integers(1, 6)),
        "states": data.draw(st.sampled_from((64, 128))),
        "group": data.draw(st.sampled_from((None, 256, 512))),
        "axis": data.draw(st.sampled_from((None, 1))),
    }
    x = gaussian(*shape, seed=data.draw(st.integers(0, 9))).astype(data.draw(st.sampled_from(("float32", "float64"))))
    stored = BitShift.encode(x, **settings_of)
    decoded = stored.decode()
    assert (decoded.shape, decoded.dtype) == (x.shape, x.dtype)
    assert stored.nbytes == BitShift.predict(shape, **settings_of)
    assert np.square(x - decoded).sum() <= np.square(x).sum() * (1 + 1e-6)
    exponent = data.draw(st.sampled_from((-60, 3, 60)))
    np.testing.assert_array_equal(BitShift.encode(x * 2.0**exponent, **settings_of).decode(), decoded * 2.0**exponent)
    np.testing.assert_array_equal(stored.nearest(decoded).decode(), decoded)
    again = decode_config(json.loads(json.dumps(stored.config())), stored.buffers())
    np.testing.assert_array_equal(again.decode(), decoded)
    if x.size:
        rows = decoded.reshape(1 if stored.axis is None else shape[0], -1)
        index = data.draw(st.integers(0, (rows.shape[1] - 1) // BLOCK))
        np.testing.assert_array_equal(
            stored.block(-1 % len(rows), index), rows[-1, index * BLOCK : (index + 1) * BLOCK]
        )
        scale = stored.points().scale
        distance = np.abs(scale[..., None] * stored.points().levels - decoded[..., None]).min(axis=-1)
        assert distance.max() <= 1e-6 * np.abs(decoded).max()


def test_zeros_constants_and_spikes() -> None:
    spike = np.zeros((2, 300), np.float32)
    spike[0, 7] = 1e30
    for x in (np.zeros((2, 300), np.float32), np.full((2, 300), 0.7, np.float32), spike):
        decoded = BitShift.encode(x, bits=2, states=256, group=256).decode()
        assert np.isfinite(decoded).all()
        assert np.linalg.norm(np.float64(x) - decoded) <= np.linalg.norm(np.float64(x)) * (1 + 1e-6)
    assert not BitShift.encode(np.zeros((2, 300), np.float32), bits=2, states=256).decode().any()


def test_bad_streams_are_refused() -> None:
    stored = BitShift.encode(gaussian(2, 300), bits=3, states=64)
    scales = stored.scales.copy()
    scales[0, 0] = np.inf
    for change in (
        {"codes": stored.codes[:-1]}, {"codes": stored.codes.view(np.int8)}, {"scales": scales}, {"bits": 9},
        {"bits": 4}, {"bits": True}, {"states": 63}, {"states": 1 << 17}, {"states": 4}, {"group": 100}, {"axis": 0},
        {"exponent": 1e9}, {"shape": (2, 1 << 40)},
    ):  # fmt: skip
        with pytest.raises(ArtifactError):
            replace(stored, **change)
    noise = replace(stored, codes=np.random.default_rng(0).integers(0, 256, stored.codes.size).astype(np.uint8))
    assert np.isfinite(noise.decode()).all()
    with pytest.raises(ArgumentError, match=r"^block: found"):
        stored.block(0, 3)


def test_bad_arguments_are_refused() -> None:
    x = gaussian(2, 8)
    for bits, states in ((0, 64), (9, 512), (2, 65), (2, 2), (4, 8), (2, 1 << 17)):
        with pytest.raises(ArgumentError, match=r"^(bits|states): found"):
            BitShift.encode(x, bits=bits, states=states)
    for group, axis in ((100, None), (0, None), (None, 0)):
        with pytest.raises(ArgumentError, match=r"^(group|axis): found"):
            BitShift.encode(x, bits=2, states=64, group=group, axis=axis)
    for bits, states in ((2.0, 64), (True, 64), (2, "64")):
        with pytest.raises(ArgumentTypeError, match=r"^(bits|states): found"):
            BitShift.encode(x, bits=bits, states=states)
    with pytest.raises(ArgumentTypeError, match=r"^x: found"):
        kernel.encode(x.astype(np.float64), 2, 64)
    with pytest.raises(ArgumentError, match=r"^x: found"):
        kernel.encode(gaussian(2, 7), 2, 64)
    with pytest.raises(ArgumentError, match=r"^length: found"):
        kernel.encode(x, 2, 64, 9)
    with pytest.raises(ArtifactError, match="codes do not hold"):
        kernel.decode(np.zeros((1, 2), np.uint8), 2, 64, np.ones(1, np.float32), 9)
