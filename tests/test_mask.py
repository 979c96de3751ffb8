"""Masks as bitmaps, gaps and densities: one mask in every way, the smallest found, hostile descriptions refused."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factorq.codecs import Dense, Entropy, Grid, Mask
from factorq.codecs.base import decode_config
from factorq.codecs.entropy import shrunk
from factorq.errors import ArtifactError
from factorq.kernels import density, deposit, gaps

SHAPES = ((), (0,), (1,), (200,), (0, 3), (3, 0), (1, 50), (50, 1), (20, 30), (8, 4, 3, 3), (6, 5, 0), (4, 3, 9, 9))


def draw(shape: tuple[int, ...], share: float = 0.2, spread: float = 0.0) -> np.ndarray:
    """A mask whose first and second axes differ by factors."""
    rng = np.random.default_rng([len(shape), *shape])
    keep = np.full(shape, share)
    for axis in range(min(len(shape), 2)):
        factor = np.expand_dims(rng.random(shape[axis]) ** spread, [k for k in range(len(shape)) if k != axis])
        keep = keep * factor
    return np.asarray(rng.random(shape) < keep)


def around(keep: np.ndarray) -> Mask:
    """``keep`` around values that count up."""
    return Mask.encode(keep, Dense.encode(np.arange(1, 1 + np.count_nonzero(keep), dtype=np.float32)))


def ways(keep: np.ndarray) -> list[Mask]:
    """Bitmap, gaps and densities."""
    first = around(keep)
    stream, parameter = gaps.encode(keep.reshape(-1))
    found = [replace(first, parameter=parameter, positions=stream), *first.versions()]
    if first.parameter is None:
        found.append(first)
    return [way for way in found if isinstance(way, Mask)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_every_way_is_the_same_mask(shape: tuple[int, ...], share: float) -> None:
    keep = draw(shape, share)
    found = ways(keep)
    kinds = ["bitmap" if w.parameter is None else "gaps" if w.parameter > 0 else "densities" for w in found]
    assert sorted(kinds) == ["bitmap", "densities", "gaps"]
    expected = around(keep).decode()
    small = around(keep).smallest()
    for way, kind in zip(found, kinds, strict=True):
        np.testing.assert_array_equal(way.mask(), keep)
        np.testing.assert_array_equal(way.decode(), expected)
        np.testing.assert_array_equal(way.bitmap(), np.packbits(keep.reshape(-1), bitorder="little"))
        assert f"({kind})" in repr(way)
        assert small.positions.nbytes <= way.positions.nbytes
        assert way.smallest().positions.nbytes == small.positions.nbytes
        again = decode_config(json.loads(json.dumps(way.config(), allow_nan=False)), way.buffers())
        assert (again.config(), repr(again)) == (way.config(), repr(way))
        np.testing.assert_array_equal(again.decode(), expected)
        others = {w.parameter for w in way.versions() if isinstance(w, Mask)}
        assert way.parameter not in others
        assert len(others) == (2 if kind == "gaps" else 1)
    np.testing.assert_array_equal(small.decode(), expected)


@settings(deadline=None, max_examples=60)
@given(
    shape=st.lists(st.integers(0, 9), max_size=4),
    share=st.floats(0, 1),
    spread=st.sampled_from([0.0, 2.0]),
)
def test_any_mask(shape: list[int], share: float, spread: float) -> None:
    keep = draw(tuple(shape), share, spread)
    for way in (*ways(keep), around(keep).smallest()):
        np.testing.assert_array_equal(way.mask(), keep)


def test_the_description_of_bitmaps_and_gaps_is_frozen() -> None:
    keep = np.zeros(300, bool)
    keep[[3, 7]] = True
    for mask, shape, parameter, stream in (
        (around(keep), [300], 4, [0b110110]),
        (around(keep[:8].reshape(2, 4)), [2, 4], None, [0b10001000]),
    ):
        config = json.loads(json.dumps(mask.config()))
        inner = config.pop("inner")
        assert inner["id"] == "dense"
        assert config == {"id": "mask", "dtype": "float32", "shape": shape, "parameter": parameter}
        assert mask.positions.tolist() == stream


def test_kernels_of_convolutions_are_told() -> None:
    for shape, group in (((8, 4, 3, 3), 9), ((8, 4, 5), 5), ((8, 4, 9, 9), 0), ((8, 4), 0), ((8, 4, 1, 1), 0)):
        modelled = next(way for way in ways(draw(shape)) if way.parameter is not None and way.parameter <= 0)
        assert modelled.parameter == -group
        columns = math.prod(shape[1:])
        np.testing.assert_array_equal(modelled.positions, density.encode(draw(shape).reshape(shape[0], columns), group))


@pytest.mark.parametrize(("shape", "other"), [((8, 4, 3, 3), (8, 36)), ((8, 36), (8, 4, 3, 3)), ((90,), (90, 1, 1))])
def test_another_shape_with_the_same_first_axis(shape: tuple[int, ...], other: tuple[int, ...]) -> None:
    keep = draw(shape)
    for way in ways(keep):
        there = way.reshaped(other)
        np.testing.assert_array_equal(there.mask(), keep.reshape(other))
        np.testing.assert_array_equal(there.smallest().mask(), keep.reshape(other))
        for version in there.versions():
            np.testing.assert_array_equal(version.decode(), way.decode().reshape(other))


def test_nearest_and_points_keep_the_mask() -> None:
    keep = draw((20, 30))
    x = np.arange(1.0, 601.0).reshape(20, 30).astype(np.float32)
    for way in ways(keep):
        np.testing.assert_array_equal(way.nearest(x).decode(), np.where(keep, x, 0))
        assert way.nearest(x).parameter == way.parameter
        np.testing.assert_array_equal(way.points().keep, keep)


def test_structure_is_found() -> None:
    """Rows and columns that differ: the densities take the least, alone and in the entropy store."""
    keep = draw((400, 300), 0.6, 2.0)
    mask = around(keep)
    small = mask.smallest()
    assert small.parameter == 0
    p = float(keep.mean())
    independent = keep.size * (-p * np.log2(p) - (1 - p) * np.log2(1 - p)) / 8
    assert small.positions.nbytes < 0.82 * independent < 0.82 * mask.positions.nbytes
    x = np.where(keep, np.random.default_rng(0).standard_normal(keep.shape), 0).astype(np.float32)
    coded = Mask.encode(keep, Grid.encode(x[keep], bits=4, group=None, axis=None, zero=7.5))
    stored = shrunk(coded)
    assert isinstance(stored, Entropy)
    assert stored.buffers()["positions"].nbytes == small.positions.nbytes
    np.testing.assert_array_equal(stored.decode(), coded.decode())


def test_independent_entries_take_the_entropy_and_gaps_stay_fast() -> None:
    """The choice of encode is between bitmap and gaps, whatever the densities would save."""
    for share in (0.05, 0.3, 0.5):
        keep = draw((400, 500), share)
        assert around(keep).parameter is None or around(keep).parameter >= 2
        p = float(keep.mean())
        entropy = keep.size * (-p * np.log2(p) - (1 - p) * np.log2(1 - p)) / 8
        assert around(keep).smallest().positions.nbytes < 1.01 * entropy


def test_directory() -> None:
    keep = draw((30, 100))
    kept = np.flatnonzero(keep)
    for way in ways(keep):
        bitmap, directory = way.directory()
        np.testing.assert_array_equal(deposit.select(bitmap, directory, np.arange(kept.size)), kept)
        np.testing.assert_array_equal(deposit.rank(bitmap, directory, kept), np.arange(kept.size))


# Damage --------------------------------------------------------------------------------------------------------------


def described(config: dict[str, Any], positions: np.ndarray, inner: Dense) -> Mask:
    found = decode_config(
        {"id": "mask", "dtype": "float32", "inner": json.loads(json.dumps(inner.config())), **config},
        {"positions": positions, **{f"inner.{name}": array for name, array in inner.buffers().items()}},
    )
    assert isinstance(found, Mask)
    return found


@pytest.mark.parametrize(
    ("parameter", "shape", "message"),
    [
        (1, (20, 30), "belongs to no code"),
        (-1, (20, 30), "belongs to no code"),
        (-65, (20, 65), "belongs to no code"),
        (1 << 50, (20, 30), "belongs to no code"),
        (True, (20, 30), "belongs to no code"),
        (False, (20, 30), "belongs to no code"),
        (0.0, (20, 30), "belongs to no code"),
        ("0", (20, 30), "belongs to no code"),
        ([0], (20, 30), "belongs to no code"),
        (-7, (20, 30), "kernels of 7 in rows of 30"),
        (0, (1 << 20, 1 << 20), "cannot hold"),
        (-2, (1 << 47, 2), "cannot hold"),
        (None, (20, 30), "shape"),
    ],
)
def test_refused_descriptions(parameter: Any, shape: tuple[int, ...], message: str) -> None:
    keep = draw((20, 30))
    small = next(way for way in ways(keep) if way.parameter == 0)
    assert isinstance(small.inner, Dense)
    with pytest.raises(ArtifactError, match=message):
        described({"parameter": parameter, "shape": shape}, small.positions, small.inner)


def test_short_streams_are_refused_before_anything_is_allocated() -> None:
    inner = Dense.encode(np.zeros(0, np.float32))
    for stream in ([], [128], [128, 0]):
        with pytest.raises(ArtifactError, match="cannot hold"):
            described({"parameter": 0, "shape": (4, 4)}, np.array(stream, np.uint8), inner)
    for wrong in (np.zeros(3, np.int8), np.zeros((1, 3), np.uint8)):
        with pytest.raises(ArtifactError, match="buffer positions"):
            described({"parameter": 0, "shape": (4, 4)}, wrong, inner)


def test_a_wrong_number_of_ones_is_refused() -> None:
    keep = draw((20, 30))
    for way in ways(keep):
        fewer = replace(way, inner=Dense.encode(np.zeros(np.count_nonzero(keep) - 1, np.float32)))
        with pytest.raises(ArtifactError):
            fewer.mask()


@settings(deadline=None, max_examples=150)
@given(
    which=st.integers(0, 2),
    parameter=st.sampled_from([None, 0, -2, -3, -6, 2, 5, 64]),
    flips=st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 255)), max_size=3),
    cut=st.integers(0, 20),
)
def test_damage_gives_a_mask_or_an_artifact_error(
    which: int, parameter: int | None, flips: list[tuple[int, int]], cut: int
) -> None:
    keep = draw((20, 30))
    way = ways(keep)[which]
    positions = way.positions.copy()
    for at, change in flips:
        positions[at % positions.size] ^= np.uint8(change)
    try:
        found = replace(way, parameter=parameter, positions=positions[: positions.size - cut]).mask()
    except ArtifactError:
        return
    assert (found.shape, found.dtype, int(found.sum())) == ((20, 30), np.bool_, int(keep.sum()))
