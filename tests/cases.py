"""The one table of members: each constraint and each method with what the laws need to know about it.

A new method or codec adds a row here; ``test_laws.py`` runs every law over every row.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace

import ml_dtypes
import numpy as np
from hypothesis import strategies as st

from factorq.constraints import Clustered, Constraint, OneHotRows, Quantized, Real, Sparse
from factorq.methods import (
    CP,
    SVD,
    BooleanPruning,
    FleXOR,
    Method,
    QuantizedSparse,
    Rotated,
    Scalar,
    SparsePCA,
    Stacked,
    Trellis,
    VectorQuantization,
)

DTYPES = {name: np.dtype(getattr(np, name, None) or ml_dtypes.bfloat16) for name in
          ("float16", "bfloat16", "float32", "float64")}  # fmt: skip


# The table -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ConstraintCase:
    """A constraint.

    ``exact``: the predicted size is the stored size, not a bound. ``settles``: projecting twice is
    projecting once; not where levels and scales are fitted by turns, to a local optimum.
    """

    constraint: Constraint
    exact: bool = True
    settles: bool = True
    matrices_only: bool = False


@dataclass(frozen=True)
class MethodCase:
    """A method; ``exact`` as above; ``gram``: it takes a Gram matrix; ranks are cut to the shape at hand."""

    method: Method
    exact: bool = True
    gram: bool = True

    def on(self, shape: tuple[int, ...]) -> Method:
        """The method with ranks that ``shape`` allows."""
        return _fit(self.method, shape)


def _fit(method: Method, shape: tuple[int, ...]) -> Method:
    if isinstance(method, Stacked):
        return Stacked(tuple(_fit(m, shape) for m in method.methods))
    if isinstance(method, QuantizedSparse) and method.codes == "trellis":  # by any fold, that of a gram included
        sides = (*method.folded(shape).matrix_shape, *method.folded(shape, gram=True).matrix_shape)
        return replace(method, rank=min(method.rank, *sides))
    if isinstance(method, SVD | SparsePCA):
        return replace(method, rank=min(method.rank, shape[0], math.prod(shape[1:])))
    return method


CONSTRAINTS: dict[str, ConstraintCase] = {
    "real": ConstraintCase(Real()),
    "real float16": ConstraintCase(Real("float16")),
    "real bfloat16": ConstraintCase(Real("bfloat16")),
    "real float32": ConstraintCase(Real("float32")),
    "real float64": ConstraintCase(Real("float64")),
    "sparse half": ConstraintCase(Sparse(0.5), exact=False),
    "sparse none": ConstraintCase(Sparse(0.0), exact=False),
    "sparse 97%": ConstraintCase(Sparse(0.97), exact=False),
    "quantized 1": ConstraintCase(Quantized(1, group=5)),
    "quantized 2 row": ConstraintCase(Quantized(2, group=None)),
    "quantized 3 down": ConstraintCase(Quantized(3, group=4, axis=0)),
    "quantized 4 flat": ConstraintCase(Quantized(4, group=None, axis=None)),
    "quantized 4": ConstraintCase(Quantized(4)),
    "quantized 8": ConstraintCase(Quantized(8, group=7)),
    "quantized 16": ConstraintCase(Quantized(16, group=7)),
    "midrise 3": ConstraintCase(Quantized(3, group=6, grid="midrise")),
    "midtread 3": ConstraintCase(Quantized(3, group=6, grid="midtread")),
    "asymmetric 3": ConstraintCase(Quantized(3, group=6, grid="asymmetric")),
    "asymmetric 8": ConstraintCase(Quantized(8, group=None, grid="asymmetric")),
    "clustered 1": ConstraintCase(Clustered(1, group=None)),
    "clustered 2": ConstraintCase(Clustered(2, group=None)),
    "clustered 4": ConstraintCase(Clustered(4, group=None)),
    # Levels fitted to what was projected are new levels: only a fixed set of levels is promised to stay.
    "clustered 3 groups": ConstraintCase(Clustered(3, group=9), settles=False),
    "nf4": ConstraintCase(Clustered(4, group=16, levels="nf4")),
    "one-hot": ConstraintCase(OneHotRows(), matrices_only=True),
    "sparse & float16": ConstraintCase(Sparse(0.6) & Real("float16"), exact=False),
    "sparse & quantized 3": ConstraintCase(Sparse(0.6) & Quantized(3, group=None, axis=None), exact=False),
    "sparse & quantized 4 groups": ConstraintCase(Sparse(0.6) & Quantized(4, group=16, axis=None), exact=False),
    "sparse & clustered 2": ConstraintCase(Sparse(0.8) & Clustered(2, group=None, axis=None), exact=False),
}

METHODS: dict[str, MethodCase] = {
    "rotated scalar 3": MethodCase(Rotated(Scalar(bits=3))),
    "rotated both + scalar": MethodCase(Rotated(Scalar(bits=2, group=32), axes="both") + Scalar(bits=2)),
    "scalar 1": MethodCase(Scalar(bits=1)),
    "scalar 2": MethodCase(Scalar(bits=2, group=32)),
    "scalar 3 midtread": MethodCase(Scalar(bits=3, group=None, grid="midtread")),
    "scalar 4": MethodCase(Scalar(bits=4)),
    "scalar 5 ragged": MethodCase(Scalar(bits=5, group=7)),
    "scalar 8": MethodCase(Scalar(bits=8)),
    "scalar 16": MethodCase(Scalar(bits=16)),
    "scalar asymmetric": MethodCase(Scalar(bits=3, group=24, grid="asymmetric")),
    "scalar lloyd": MethodCase(Scalar(bits=3, group=24, levels="lloyd")),
    "scalar lloyd plain": MethodCase(Scalar(bits=2, group=None, levels="lloyd")),
    "scalar nf4": MethodCase(Scalar(bits=4, group=64, levels="nf4")),
    "scalar masked": MethodCase(Scalar(bits=4, sparsity=0.5), exact=False),
    "pruned": MethodCase(Scalar(sparsity=0.9), exact=False),
    "boolean pruned": MethodCase(
        BooleanPruning(0.8, rank=2, tile=(6, 9), anneal=3, max_iter=4), exact=False, gram=False
    ),
    "boolean 1 bit": MethodCase(BooleanPruning(0.6, bits=1, group=50, anneal=2, max_iter=4), exact=False, gram=False),
    "boolean 3 bits, one tile": MethodCase(
        BooleanPruning(0.4, rank=11, bits=3, tile=4096, anneal=2, max_iter=3), exact=False, gram=False
    ),
    "flexor": MethodCase(FleXOR(5, 8), gram=False),
    "flexor planes": MethodCase(FleXOR(3, 4, planes=2, seed=7, max_iter=3), gram=False),
    "svd": MethodCase(SVD(rank=3)),
    "svd 4 bits": MethodCase(SVD(rank=3, bits=4, max_iter=3)),
    "svd 3 and 6 bits, groups": MethodCase(SVD(rank=2, bits=(3, 6), group=8, max_iter=2)),
    "svd trellis": MethodCase(SVD(rank=3, bits=2.5, codes="trellis", max_iter=2), exact=False),
    "svd trellis pair": MethodCase(SVD(rank=2, bits=(4.5, 1.2), codes="trellis", max_iter=2), exact=False),
    "svd + scalar": MethodCase(SVD(rank=2) + Scalar(bits=3)),
    "scalar + scalar": MethodCase(Scalar(bits=2) + Scalar(bits=2)),
    "svd 4 bits + pruned": MethodCase(SVD(rank=2, bits=4, max_iter=2) + Scalar(sparsity=0.95), exact=False),
    "cp": MethodCase(CP(rank=3, anneal=8, max_iter=6), gram=False),
    "cp of many terms": MethodCase(CP(rank=12, anneal=8, max_iter=6, init="svd", correction=0.01), gram=False),
    "cp 4 bits": MethodCase(CP(rank=4, bits=4, anneal=12, max_iter=6), exact=False, gram=False),
    "cp 1 bit, all axes": MethodCase(CP(5, 1, modes="all", anneal=12, max_iter=6), exact=False, gram=False),
    "cp 9 bits, rounded": MethodCase(CP(3, 9, "als", grid="integer", anneal=8, max_iter=6), exact=False, gram=False),
    "cp admm": MethodCase(CP(3, 3, "admm", starts=2, anneal=8, max_iter=6), exact=False, gram=False),
    "cp + scalar": MethodCase(CP(reduction=2, bits=3, anneal=8, max_iter=4) + Scalar(bits=2), exact=False, gram=False),
    "quantized-sparse": MethodCase(QuantizedSparse(rank=4, bits=4, sparsity=0.5, max_iter=4), exact=False),
    "quantized-sparse real": MethodCase(QuantizedSparse(rank=3, bits=None, sparsity=0.3, max_iter=4), exact=False),
    "quantized-sparse wide": MethodCase(QuantizedSparse(rank=20, bits=(6, 3), sparsity=0.7, max_iter=3), exact=False),
    "quantized-sparse dense": MethodCase(QuantizedSparse(rank=4, bits=(4, 2), sparsity=0.0, max_iter=3), exact=False),
    "quantized-sparse coded": MethodCase(QuantizedSparse(rank=3, bits=(6, 2.5), codes="trellis"), exact=False),
    "quantized-sparse column": MethodCase(
        QuantizedSparse(rank=5, bits=(4, 2), sparsity=0.6, support="column", max_iter=4), exact=False
    ),
    "quantized-sparse rated, starts": MethodCase(
        QuantizedSparse(rank=20, bits=(4, 2), sparsity=0.8, support="rated", starts=2, max_iter=4), exact=False
    ),
    "quantized-sparse pgd": MethodCase(QuantizedSparse(4, 4, 0.5, solver="pgd", max_iter=6), exact=False),
    "sparse pca": MethodCase(SparsePCA(rank=3, sparsity=0.7, max_iter=6), exact=False),
    "sparse pca, each": MethodCase(SparsePCA(rank=4, sparsity=0.5, per_component=True, max_iter=5), exact=False),
    "sparse pca, dense": MethodCase(SparsePCA(rank=2, sparsity=0.0), exact=False),
    "trellis 3": MethodCase(Trellis(bits=3), exact=False),
    "trellis 1.5 static": MethodCase(Trellis(bits=1.5, states=64, model="static"), exact=False),
    "trellis 4.2 one state": MethodCase(Trellis(bits=4.2, states=1, transform=False), exact=False),
    "trellis fixed rate": MethodCase(Trellis(bits=2, states=64, fixed_rate=True), exact=False),
    "trellis fixed rate, rotated": MethodCase(Trellis(bits=3, states=64, fixed_rate=True, rotate=True), exact=False),
    "vector quantization": MethodCase(VectorQuantization(dim=4, codewords=16)),
    "vector quantization ragged": MethodCase(VectorQuantization(dim=3, codewords=7, groups=2)),
    "vector quantization residual": MethodCase(VectorQuantization(dim=2, codewords=8, stages=2)),
}


# Sample inputs -------------------------------------------------------------------------------------------------------

MATRICES = ((1, 1), (1, 9), (9, 1), (2, 2), (5, 7), (8, 130), (33, 20))
TENSORS = ((4, 3, 3, 3), (6, 5, 1, 1), (3, 4, 5), (1, 1, 1))


def _spiky(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    x = np.zeros(shape)
    x.flat[int(rng.integers(x.size))] = -3.0
    return x


KINDS: dict[str, Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]] = {
    "gaussian": lambda rng, shape: rng.standard_normal(shape),
    "heavy tails": lambda rng, shape: rng.standard_t(1.5, shape),
    "shifted": lambda rng, shape: 5 + rng.standard_normal(shape),
    "constant": lambda rng, shape: np.full(shape, 0.7),
    "zero": lambda rng, shape: np.zeros(shape),
    "one spike": _spiky,
    "small integers": lambda rng, shape: rng.integers(-2, 3, shape).astype(np.float64),
    "rows of many sizes": lambda rng, shape: (rng.standard_normal(shape).T * 10.0 ** rng.uniform(-6, 3, shape[0])).T,
    "huge": lambda rng, shape: rng.standard_normal(shape) * 1e30,
    "tiny": lambda rng, shape: rng.standard_normal(shape) * 1e-30,
}

_HALF = {"huge": 1e-26, "tiny": 1e26}  # brings 1e30 and 1e-30 into the range of float16


def sample(kind: str, shape: tuple[int, ...], dtype: str, seed: int) -> np.ndarray:
    """A finite array of ``shape`` and ``dtype``."""
    x = KINDS[kind](np.random.default_rng(seed), shape)
    if dtype == "float16":
        x = np.clip(x * _HALF.get(kind, 1.0), -6e4, 6e4)
    return x.astype(DTYPES[dtype])


def _strided(x: np.ndarray) -> np.ndarray:
    wide = np.zeros((*x.shape[:-1], 2 * x.shape[-1]), x.dtype)
    wide[..., ::2] = x
    return wide[..., ::2]


def _read_only(x: np.ndarray) -> np.ndarray:
    x = x.copy()
    x.setflags(write=False)
    return x


def _mapped(x: np.ndarray) -> np.ndarray:
    with tempfile.TemporaryFile() as file:
        file.write(x.tobytes())
        file.flush()
        return np.memmap(file, x.dtype, "r", shape=x.shape)


LAYOUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "C": np.ascontiguousarray,
    "F": np.asfortranarray,
    "strided": _strided,
    "reversed": lambda x: np.ascontiguousarray(x[::-1])[::-1],
    "read-only": _read_only,
    "memory-mapped": _mapped,
    "bytes": lambda x: np.frombuffer(x.tobytes(), x.dtype).reshape(x.shape),
}


@st.composite
def weights(draw: st.DrawFn, matrices_only: bool = False, dtypes: tuple[str, ...] = tuple(DTYPES)) -> np.ndarray:
    """Arrays of all shapes, dtypes, contents and layouts that factorq takes."""
    shape = draw(st.sampled_from(MATRICES if matrices_only else MATRICES + TENSORS))
    kind, dtype = draw(st.sampled_from(tuple(KINDS))), draw(st.sampled_from(dtypes))
    layout = draw(st.sampled_from(tuple(LAYOUTS)))
    return LAYOUTS[layout](sample(kind, shape, dtype, draw(st.integers(0, 99))))


def gram_of(n: int, seed: int = 0, rank: int | None = None) -> np.ndarray:
    """A second moment (n, n) float64 of inputs of many sizes, each like its neighbours; of ``rank`` (full if None)."""
    rng = np.random.default_rng(seed)
    distance = np.abs(np.subtract.outer(np.arange(n), np.arange(n)))
    root = np.linalg.cholesky(0.95**distance) * np.exp(0.5 * rng.standard_normal((n, 1)))
    inputs = root if rank is None else root @ rng.standard_normal((n, rank))
    return inputs @ inputs.T
