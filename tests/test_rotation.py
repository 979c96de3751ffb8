"""Orthonormal matrices as quantized angles: the kernel's twins, the codec, corrupted and hostile descriptions."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factorq.codecs import Rotation
from factorq.codecs.base import decode_config
from factorq.errors import ArgumentError, ArgumentTypeError, ArtifactError
from factorq.kernels import givens
from factorq.kernels.givens import numba_twin, reference


def orthonormal(m: int, seed: int = 0) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((m, m)))[0]


def alignment(A: np.ndarray, B: np.ndarray, leading: int) -> np.ndarray:
    return np.abs(np.sum(A[:, :leading] * B[:, :leading], axis=0))


@settings(max_examples=60, deadline=None)
@given(m=st.integers(2, 24), bits=st.integers(1, 16), share=st.floats(0, 1), seed=st.integers(0, 999))
def test_any_angles_are_orthonormal_and_twins_agree(m: int, bits: int, share: float, seed: int) -> None:
    leading = 1 + round(share * (m - 2))
    codes = np.random.default_rng(seed).integers(0, 2**bits, givens.angle_count(m, leading)).astype(np.uint16)
    A = givens.decode(codes, m, leading, bits)
    np.testing.assert_allclose(A.T @ A, np.eye(m), atol=1e-13)
    plain = np.eye(m)
    reference.decode(codes, leading, *givens._table(bits), plain)
    np.testing.assert_array_equal(A, plain)


@settings(max_examples=60, deadline=None)
@given(m=st.integers(2, 20), bits=st.integers(1, 16), seed=st.integers(0, 999), sparse=st.booleans())
def test_encoding_twins_agree(m: int, bits: int, seed: int, sparse: bool) -> None:
    A = np.eye(m)[np.random.default_rng(seed).permutation(m)] if sparse else orthonormal(m, seed)
    table = givens._table(bits)
    found = [np.zeros(givens.angle_count(m, m - 1), np.uint16) for _ in range(2)]
    for twin, codes in zip((reference, numba_twin), found, strict=True):
        twin.encode(A[:, : m - 1].copy(), *table, codes)
    np.testing.assert_array_equal(*found)
    assert int(found[0].max()) < 2**bits


@pytest.mark.parametrize("m", [2, 3, 9, 16, 64])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_fine_angles_give_the_basis_up_to_signs(m: int, dtype: str) -> None:
    A = orthonormal(m).astype(dtype)
    B = Rotation.encode(A, bits=16).decode()
    assert B.dtype == dtype
    assert np.abs(np.abs(A.T @ B) - np.eye(m)).max() < 1e-4 * m
    np.testing.assert_allclose(B.T @ B, np.eye(m), atol=1e-5 if dtype == "float32" else 1e-13)


def test_more_bits_lose_less_and_eight_lose_little() -> None:
    A = orthonormal(9, 1)
    lost = [1 - alignment(A, Rotation.encode(A, bits).decode(), 9).mean() for bits in (3, 5, 8, 11)]
    assert lost == sorted(lost, reverse=True)
    assert lost[2] < 1e-4


def test_later_angles_correct_earlier_ones() -> None:
    """Below the error of the exact angles, each rounded by itself."""
    A, m, bits = orthonormal(64, 2), 64, 6
    exact = givens.encode(np.ascontiguousarray(A[:, : m - 1]), 16).astype(np.int64) - 2**15
    rounded = (np.rint(exact / 2 ** (16 - bits)).astype(np.int64) + 2 ** (bits - 1)) % 2**bits
    alone = givens.decode(rounded.astype(np.uint16), m, m - 1, bits)
    together = Rotation.encode(A, bits).decode()
    assert 1 - alignment(A, together, m - 1).mean() < 0.3 * (1 - alignment(A, alone, m - 1).mean())


def test_leading_vectors_alone() -> None:
    A = orthonormal(20, 3)
    r = Rotation.encode(A, bits=12, leading=3)
    assert r.nbytes == Rotation.predict(20, 12, 3) == -(-givens.angle_count(20, 3) * 12 // 8)
    B = r.decode()
    assert alignment(A, B, 3).min() > 1 - 1e-4
    np.testing.assert_allclose(B.T @ B, np.eye(20), atol=1e-13)


def test_identity_costs_nothing_in_accuracy_and_signs_are_free() -> None:
    np.testing.assert_array_equal(Rotation.encode(np.eye(7), bits=4).decode(), np.eye(7))
    A = orthonormal(6, 4)
    flipped = A * np.array([1, -1, 1, -1, -1, 1])
    np.testing.assert_array_equal(Rotation.encode(A).codes, Rotation.encode(flipped).codes)


@pytest.mark.parametrize("bits", [6, 8, 11])
def test_encoding_what_was_decoded_changes_nothing(bits: int) -> None:
    r = Rotation.encode(orthonormal(12, 5), bits)
    again = r.nearest(r.decode())
    np.testing.assert_allclose(again.decode(), r.decode(), atol=1e-12)


def test_configuration_round_trip() -> None:
    r = Rotation.encode(orthonormal(9), bits=8)
    again = decode_config(json.loads(json.dumps(r.config())), r.buffers())
    np.testing.assert_array_equal(again.decode(), r.decode())
    assert again.nbytes == r.nbytes == 36
    assert "36 angles of 8 bits" in repr(r)


@pytest.mark.parametrize(
    "change",
    [{"bits": 0}, {"bits": 17}, {"bits": "8"}, {"leading": 0}, {"leading": 9}, {"leading": -1}, {"leading": 8.0},
     {"shape": [9, 8]}, {"shape": [9]}, {"shape": []}, {"shape": [1, 1]}, {"shape": [4096, 4096]}, {"leading": 7},
     {"dtype": "int8"}],
)  # fmt: skip
def test_hostile_descriptions(change: dict[str, object]) -> None:
    r = Rotation.encode(orthonormal(9), bits=8)
    with pytest.raises(ArtifactError):
        decode_config(r.config() | change, r.buffers())


def test_truncated_or_mistyped_codes() -> None:
    r = Rotation.encode(orthonormal(9), bits=8)
    for codes in (r.codes[:-1], r.codes.astype(np.int8), r.codes.reshape(6, 6), np.append(r.codes, np.uint8(0))):
        with pytest.raises(ArtifactError):
            decode_config(r.config(), {"codes": codes})


def test_refusals() -> None:
    with pytest.raises(ArgumentError, match="orthonormal"):
        Rotation.encode(np.ones((3, 3)))
    with pytest.raises(ArgumentError, match="orthonormal"):
        Rotation.encode(np.full((3, 3), np.nan))
    with pytest.raises(ArgumentError, match="leading"):
        Rotation.encode(np.eye(3), leading=3)
    with pytest.raises(ArgumentError, match="bits"):
        Rotation.encode(np.eye(3), bits=17)
    with pytest.raises(ArgumentError, match="codes"):
        givens.decode(np.full(3, 16, np.uint16), 3, 2, 4)
    with pytest.raises(ArgumentTypeError, match="codes"):
        givens.decode(np.zeros(2, np.uint16), 3, 2, 4)
    with pytest.raises(ArgumentTypeError, match="A"):
        givens.encode(np.eye(3, dtype=np.float32), 8)
