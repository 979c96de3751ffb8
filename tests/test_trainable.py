"""Factorizations as numbers to train: what is trained is what is stored."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import factorq as fq
from factorq.errors import ArgumentError, ArgumentTypeError


class HostOps:
    """NumPy as a framework without gradients."""

    xp = np

    @staticmethod
    def through(value: Any, x: Any) -> Any:
        return value

    @staticmethod
    def stopped(x: Any) -> Any:
        return x

    @staticmethod
    def cast(x: Any, dtype: str) -> Any:
        from factorq.arrays import FLOATS

        return x.astype(FLOATS[dtype])

    @staticmethod
    def host(function: Callable[[Any], Any], x: Any, adjoint: Any = None) -> Any:
        return function(x)


OPS = HostOps()

METHODS = {
    "grid": fq.Scalar(4, group=16),
    "asymmetric grid": fq.Scalar(3, group=16, grid="asymmetric"),
    "levels": fq.Scalar(3, levels="lloyd"),
    "nf4": fq.Scalar(4, group=32, levels="nf4"),
    "mask": fq.Scalar(3, group=16, sparsity=0.5),
    "pruned": fq.Scalar(None, sparsity=0.7),
    "vectors": fq.VectorQuantization(dim=4, codewords=8),
    "residual vectors": fq.VectorQuantization(dim=4, codewords=8, stages=2),
    "svd": fq.SVD(3),
    "svd, 4 bits": fq.SVD(3, bits=4),
    "sparse pca": fq.SparsePCA(3, sparsity=0.5),
    "quantized sparse": fq.QuantizedSparse(4, bits=3, sparsity=0.5),
    "cp": fq.CP(4),
    "cp of integers": fq.CP(4, bits=4),
    "trellis": fq.Trellis(2),
    "trellis of fixed rate": fq.Trellis(2, states=256, fixed_rate=True),
    "rotated": fq.Rotated(fq.Scalar(3, group=None)),
    "boolean": fq.BooleanPruning(0.5, bits=3),
    "stacked": fq.SVD(2, bits=4) + fq.Scalar(2, group=16),
}


@pytest.fixture(params=METHODS, scope="module")
def F(request: pytest.FixtureRequest) -> fq.Factorization:  # noqa: N802
    W = np.random.default_rng(0).standard_normal((24, 48)).astype(np.float32)
    return fq.decompose(W, method=METHODS[request.param])


def dense(behind: fq.Trainable, parameters: dict[str, Any]) -> Any:
    return behind.form(OPS, parameters, behind.constants()).dense()


def test_at_first_the_value_is_what_is_stored(F: fq.Factorization) -> None:
    behind = fq.Trainable(F)
    np.testing.assert_allclose(dense(behind, behind.parameters()), F.to_dense(), rtol=1e-5, atol=1e-5)
    assert behind.factorization(behind.parameters()) is F


@pytest.mark.parametrize("share", [1e-3, 0.3])
def test_what_is_trained_is_what_is_stored(F: fq.Factorization, share: float) -> None:
    behind, rng = fq.Trainable(F), np.random.default_rng(1)
    first = behind.parameters()
    if not first:
        pytest.skip("nothing to train")
    moved = {k: x + share * x.std() * rng.standard_normal(x.shape).astype(x.dtype) for k, x in first.items()}
    moved |= {k: np.float32(1 + share * rng.random(x.shape)) for k, x in first.items() if k.endswith("scales")}
    moved |= {k: np.sort(x) for k, x in moved.items() if k.endswith("levels")}
    G = behind.factorization(moved)
    assert np.isnan(G.relative_error) and "moved by" in G.status
    value, stored = dense(behind, moved), G.to_dense()
    off = np.abs(value - stored) > 1e-4 * np.abs(stored).max()  # an entry in the middle of two levels may go either way
    assert off.mean() < 0.002, off.mean()
    coded = any(codec.id in ("entropy", "path", "mask") for codec in F.encoded.values())
    assert G.nbytes <= F.nbytes * 1.02 if coded else G.nbytes == F.nbytes
