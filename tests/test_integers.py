"""The codec of integers: round trips, nearest levels, sizes, powers of two, corrupted and hostile descriptions."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factorq.codecs import Integers
from factorq.codecs.base import decode_config
from factorq.codecs.entropy import shrunk
from factorq.errors import ArtifactError

SHAPES = [(1,), (1, 1), (7, 3), (3, 3, 5), (16, 16), (0, 4), (60, 51)]


def middle(bits: int, half: bool) -> float:
    """The code of 0."""
    return (2**bits - 1) / 2 if half else 2.0 ** (bits - 1)


def levels(bits: int, half: bool) -> Any:
    return np.arange(2.0**bits) - middle(bits, half)


def some(shape: tuple[int, ...], bits: int, half: bool, dtype: str = "float32", seed: int = 0) -> Any:
    """Levels at random, the first and the last among them."""
    codes = np.random.default_rng(seed).integers(0, 2**bits, shape)
    if codes.size > 1:
        codes.flat[:2] = 0, 2**bits - 1
    return (codes - middle(bits, half)).astype(dtype)


def encoded(shape: tuple[int, ...] = (7, 3), bits: int = 4, half: bool = False, dtype: str = "float32") -> Integers:
    return Integers.encode(some(shape, bits, half, dtype), bits=bits, zero=middle(bits, half))


any_bits, any_dtype = st.integers(1, 16), st.sampled_from(["float32", "float64"])


@settings(max_examples=100)
@given(st.sampled_from(SHAPES), any_bits, st.booleans(), any_dtype, st.integers(-300, 300))
def test_levels_come_back_as_they_are(shape: tuple[int, ...], bits: int, half: bool, dtype: str, exponent: int) -> None:
    x = some(shape, bits, half, dtype)
    before = x.tobytes()
    z = Integers.encode(x, bits=bits, zero=middle(bits, half))
    assert x.tobytes() == before
    assert (z.shape, z.dtype, z.decode().dtype) == (shape, dtype, np.dtype(dtype))
    np.testing.assert_array_equal(z.decode(), x)
    assert z.nbytes == Integers.predict(math.prod(shape), bits) == -(-math.prod(shape) * bits // 8)
    assert list(z.buffers()) == ["codes"]
    if dtype == "float64" or abs(exponent) < 100:
        larger = z.times(exponent)
        np.testing.assert_array_equal(larger.decode(), np.ldexp(x, exponent))
        assert larger.buffers()["codes"] is z.codes
        assert larger.times(-exponent).config() == z.config()
        np.testing.assert_array_equal(larger.nearest(np.ldexp(x, exponent)).decode(), np.ldexp(x, exponent))


@settings(max_examples=100)
@given(st.integers(0, 2**31), st.integers(1, 10), st.booleans(), any_dtype, st.integers(-20, 20))
def test_nearest_is_brute_force(seed: int, bits: int, half: bool, dtype: str, exponent: int) -> None:
    rng = np.random.default_rng(seed)
    table = levels(bits, half)
    x = (rng.uniform(-1.3, 1.3, (9, 4)) * np.abs(table).max()).astype(dtype)
    z = encoded((9, 4), bits, half, dtype).times(exponent)
    found = z.nearest(np.ldexp(x, exponent))
    assert isinstance(found, Integers)
    assert (found.bits, found.zero, found.exponent, found.nbytes) == (bits, z.zero, exponent, z.nbytes)
    values = np.ldexp(found.decode().astype(np.float64), -exponent)
    assert np.isin(values, table).all()
    lost, least = np.abs(values - x), np.abs(x[..., None] - table).min(axis=-1)
    np.testing.assert_allclose(lost, least, atol=1e-6 if dtype == "float32" else 1e-12)
    np.testing.assert_array_equal(Integers.encode(x, bits=bits, zero=z.zero).decode(), values)


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("bits", [1, 2, 5, 8, 9])
def test_points_are_all_values(bits: int, half: bool) -> None:
    z = encoded((40, 40), bits, half).times(3)
    points = z.points()
    np.testing.assert_array_equal(points.levels, 8 * levels(bits, half))
    assert (points.scale, points.offset, points.keep) == (None, None, None)
    assert np.isin(z.decode(), points.levels).all()
    assert np.all(np.diff(points.levels) > 0)


def test_known_answers() -> None:
    z = Integers.encode(np.array([[-8.0, 7.0, 0.0, -1.0]]), bits=4, zero=8.0)
    assert z.buffers()["codes"].tolist() == [0xF0, 0x78]  # codes 0, 15, 8, 7, the first in the low bits
    odd = Integers.encode(np.array([-1.5, -0.5, 0.5, 1.5]), bits=2, zero=1.5).times(1)
    np.testing.assert_array_equal(odd.decode(), [-3, -1, 1, 3])
    assert odd.nbytes == 1
    assert repr(odd) == "Integers(4, 2 bits, 1 bytes)"
    far = Integers.encode(np.array([1e30, -1e30, np.inf, -np.inf]), bits=3, zero=4.0)
    np.testing.assert_array_equal(far.decode(), [3, -4, 3, -4])


def test_other_shapes_of_the_same_entries() -> None:
    z = encoded((9, 5), 5)
    np.testing.assert_array_equal(z.reshaped((3, 3, 5)).decode(), z.decode().reshape(3, 3, 5))
    assert z.reshaped((3, 3, 5)).nbytes == z.nbytes


def test_sizes_out_of_range_of_the_dtype_stay_finite() -> None:
    for dtype in ("float32", "float64"):
        z = encoded(dtype=dtype)
        assert np.isfinite(z.times(1000).decode()).all()
        assert dtype == "float64" or not z.times(-1000).decode().any()


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("bits", [1, 4, 8, 13, 16])
def test_descriptions_survive_json(bits: int, half: bool) -> None:
    z = encoded((9, 5), bits, half).times(-7)
    again = decode_config(json.loads(json.dumps(z.config(), allow_nan=False)), z.buffers())
    assert isinstance(again, Integers)
    assert (again.config(), repr(again)) == (z.config(), repr(z))
    np.testing.assert_array_equal(again.decode(), z.decode())
    assert again.codes.tobytes() == z.codes.tobytes()


def test_entropy_coding_takes_less_where_levels_are_uneven() -> None:
    x = np.rint(np.random.default_rng(0).standard_normal((200, 40)) * 1.2)
    z = Integers.encode(np.clip(x, -8, 7), bits=4, zero=8.0)
    small = shrunk(z)
    assert small.nbytes < 0.8 * z.nbytes
    np.testing.assert_array_equal(small.decode(), z.decode())


# Damage.


HOSTILE: dict[str, dict[str, Any]] = {
    "no bits": {"bits": 0}, "17 bits": {"bits": 17}, "bits in words": {"bits": "4"}, "half a bit": {"bits": 4.5},
    "other bits": {"bits": 5}, "no number": {"zero": float("nan")}, "below 0": {"zero": -1.0},
    "infinite": {"zero": float("inf")}, "too large": {"zero": 65536.0}, "zero in words": {"zero": "8"},
    "no zero": {"zero": None}, "a list": {"zero": [8.0]}, "exponent": {"exponent": 10**9}, "half": {"exponent": 0.5},
    "exponent in words": {"exponent": "1"}, "larger": {"shape": [7, 4]}, "smaller": {"shape": [7, 2]},
    "negative": {"shape": [-7, -3]}, "huge": {"shape": [1 << 40, 1 << 40]}, "half a row": {"shape": [3.5, 6]},
    "no shape": {"shape": 21}, "dtype": {"dtype": "int8"}, "half precision": {"dtype": "float16"},
    "no dtype": {"dtype": None}, "group": {"group": 0}, "axis": {"axis": 7}, "more": {"levels": 3},
    "another codec": {"id": "grid"}, "no codec": {"id": "integer"}, "no id": {"id": None},
}  # fmt: skip


@pytest.mark.parametrize("change", HOSTILE.values(), ids=list(HOSTILE))
def test_hostile_descriptions(change: dict[str, Any]) -> None:
    z = encoded()
    with pytest.raises(ArtifactError):
        decode_config(z.config() | change, z.buffers())


@pytest.mark.parametrize("missing", ["bits", "zero", "shape", "dtype", "exponent", "id"])
def test_descriptions_without_a_setting(missing: str) -> None:
    z = encoded()
    with pytest.raises(ArtifactError):
        decode_config({name: value for name, value in z.config().items() if name != missing}, z.buffers())


def test_hostile_buffers() -> None:
    z = encoded()
    codes = z.codes
    bad: list[dict[str, Any]] = [
        {}, {"codes": codes[:-1]}, {"codes": np.append(codes, codes[:1])}, {"codes": codes.astype(np.int8)},
        {"codes": codes.astype(np.uint16)}, {"codes": codes[None]}, {"codes": np.repeat(codes, 2)[::2]},
        {"codes": codes.tolist()}, {"codes": codes, "scales": np.ones((1, 1), np.float16)},
        {"codes": codes, "other": codes}, {"scales": np.ones((1, 1), np.float16)},
    ]  # fmt: skip
    for buffers in bad:
        with pytest.raises(ArtifactError):
            decode_config(z.config(), buffers)


@settings(max_examples=60)
@given(st.binary(min_size=11, max_size=11), st.integers(-1000, 1000), st.floats(0, 65535), any_dtype)
def test_any_codes_are_levels(raw: bytes, exponent: int, zero: float, dtype: str) -> None:
    """Whatever bytes and settings a file may hold: finite numbers or an ArtifactError."""
    config = encoded(dtype=dtype).config() | {"exponent": exponent, "zero": zero}
    x = decode_config(config, {"codes": np.frombuffer(raw, np.uint8)}).decode()
    assert (x.shape, str(x.dtype)) == ((7, 3), dtype)
    assert np.isfinite(x).all()


def test_descriptions_with_groups_or_an_axis_are_read_as_they_were_written() -> None:
    """None is written: what a file has is refused, or nearest and decode agree on it."""
    x = some((7, 3), 4, False)
    for change in ({"axis": 0}, {"axis": 1}, {"axis": 1, "group": 2}, {"axis": 0, "group": 2}, {"group": 5}):
        try:
            z = decode_config(encoded().config() | change, encoded().buffers())
        except ArtifactError:
            continue
        np.testing.assert_array_equal(z.nearest(x).decode(), x)
