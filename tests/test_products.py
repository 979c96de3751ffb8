"""Products with what is stored: equal to those of the dense array within what sums round, in little memory."""

from __future__ import annotations

import math
import pickle
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from functools import cache, lru_cache

import numpy as np
import pytest
from cases import DTYPES, METHODS
from hypothesis import given
from hypothesis import strategies as st
from laws import UNIT

import factorq as fq
from factorq.codecs import BitShift, Boolean, Codebook, Dense, Encoded, Grid, Integers, Mask, Rotation
from factorq.codecs.boolean import boolean_product, factor_shapes
from factorq.codecs.entropy import Entropy, shrunk
from factorq.forms import CP, Chain, Fold, Folded, Form, Leaf, Rotated, Sum, Tucker
from factorq.forms.axes import Axis, boxes, parted
from factorq.kernels import threads
from factorq.methods import BooleanPruning, QuantizedSparse, Scalar, SparsePCA, Trellis, VectorQuantization

Array = np.ndarray


# What a product may be off by ----------------------------------------------------------------------------------------


def absolute(form: Form) -> Array:
    """The array that the form would stand for if no term of any sum were negative: float64."""
    match form:
        case Leaf():
            return np.abs(form.factor.decode().astype(np.float64))
        case Chain():
            return absolute(form.A) @ absolute(form.B)
        case Folded():
            return form.fold.undo(absolute(form.inner))
        case Sum():
            return np.sum([absolute(term) for term in form.terms], axis=0)
        case CP():
            A, B = form.factors
            return absolute(A) * absolute(form.weights) @ absolute(B).T
        case Tucker():
            left, right = form.factors
            return absolute(left) @ absolute(form.core) @ absolute(right).T
        case Rotated():  # every entry of a rotated matrix is below its norm
            inner = absolute(form.inner)
            return np.full(inner.shape, np.linalg.norm(inner))
    raise NotImplementedError(form)


def lengths(form: Form) -> int:
    """Terms in the sums of a form, one after the other: every one may be rounded once by each of them."""
    return sum(max(leaf.factor.shape, default=1) for leaf in form.leaves().values())


@lru_cache(maxsize=4)
def facts(form: Form) -> tuple[Array, Array, float]:
    """The dense array, that of absolute values, and by how much the dtype of the factors, and of the first, rounds."""
    eps = max(UNIT[leaf.factor.dtype] for leaf in form.leaves().values())
    return form.dense().astype(np.float64), absolute(form), eps


def check(y: Array, form: Form, x: Array, left: bool, unit: float) -> None:
    """``|y - W x| <= (n + r + ..) eps (|A| |B| |x|)``, eps of the dtype of the factors; ``unit`` of that of y."""
    W, size, eps = facts(form)
    x = x.astype(np.float64)
    want, most = (x @ W, np.abs(x) @ size) if left else (W @ x, size @ np.abs(x))
    assert y.shape == want.shape
    room = 4 * (lengths(form) + 16) * eps * most + 2 * unit * np.abs(want) + 1e-30
    assert (np.abs(y.astype(np.float64) - want) <= room).all()


def same_matrix(encoded: Encoded, widths: tuple[int, ...] = (0, 1, 3, 17)) -> None:
    """Products with a codec from both sides are those of its array."""
    rng, form = np.random.default_rng(0), Leaf(encoded)
    m, n = encoded.matrix
    for b in widths:
        right, left = rng.standard_normal((n, b)).astype(np.float32), rng.standard_normal((b, m))
        check(encoded.matmul(right), form, right, False, 0)
        check(encoded.rmatmul(left), form, left, True, 0)


# Every method --------------------------------------------------------------------------------------------------------

LAYOUTS: dict[str, Callable[[Array], Array]] = {
    "C": np.ascontiguousarray,
    "F": np.asfortranarray,
    "strided": lambda x: np.repeat(x, 2, axis=-1)[..., ::2],
    "backwards": lambda x: np.ascontiguousarray(x[::-1])[::-1],
}


@cache
def stored(name: str, shape: tuple[int, int], store: str | None = None) -> fq.Factorization:
    W = np.random.default_rng(len(name)).standard_normal(shape).astype(np.float32)
    return fq.decompose(W, method=METHODS[name].on(shape), store=store)


@pytest.mark.parametrize("shape", [(1, 9), (33, 70)], ids=str)
@pytest.mark.parametrize("name", METHODS)
def test_every_method(name: str, shape: tuple[int, int]) -> None:
    F, rng = stored(name, shape), np.random.default_rng(1)
    for b in (0, 1, 3, 17):
        for dtype in DTYPES:
            x = rng.standard_normal((shape[1], b)).astype(DTYPES[dtype])
            z = rng.standard_normal((b, shape[0])).astype(DTYPES[dtype])
            for layout in LAYOUTS.values() if b == 3 else [LAYOUTS["C"]]:
                unit = UNIT[dtype] if dtype in ("float16", "bfloat16") else 0.0
                check(F @ layout(x), F.form, x, False, unit)
                check(layout(z) @ F, F.form, z, True, unit)
                check((F.T @ layout(z).T).T, F.form, z, True, unit)
                check((layout(x).T @ F.T).T, F.form, x, False, unit)
    x, z = rng.standard_normal(shape[1]), rng.standard_normal(shape[0])
    check((F @ x)[:, None], F.form, x[:, None], False, 0)
    check((z @ F)[None], F.form, z[None], True, 0)


@pytest.mark.parametrize("store", ["entropy", "xor"])
@pytest.mark.parametrize("name", METHODS)
def test_every_method_in_other_stores(name: str, store: str) -> None:
    F, rng = stored(name, (40, 70), store), np.random.default_rng(2)
    for b in (0, 1, 5):
        x, z = rng.standard_normal((70, b)), rng.standard_normal((b, 40)).astype(np.float32)
        check(F @ x, F.form, x, False, 0)
        check(z @ F, F.form, z, True, 0)


# Folds ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fold", ["rows", "columns", "flat", "inputs/8", "inputs/2", "outputs/4"])
@pytest.mark.parametrize("codes", ["scaled", "trellis"])
def test_folds_of_sparse_chains(fold: str, codes: str) -> None:
    W = np.random.default_rng(0).standard_normal((32, 48)).astype(np.float32)
    method = QuantizedSparse(rank=1 if fold == "flat" else 2, bits=4, sparsity=0.5, fold=fold, max_iter=2)
    if codes == "trellis":
        method = QuantizedSparse(rank=1 if fold == "flat" else 2, bits=(6, 2.5), codes="trellis", fold=fold)
    F = fq.decompose(W, method=method)
    for G in (F, F.T):
        x = np.random.default_rng(1).standard_normal((G.shape[1], 5)).astype(np.float32)
        check(G @ x, G.form, x, False, 0)
        check(x.T @ G.T, G.T.form, x.T, True, 0)


def smooth(shape: tuple[int, int], axis: int, seed: int = 0) -> Array:
    """Neighbours that are alike, so that a transform is worth its angles."""
    x = np.random.default_rng(seed).standard_normal(shape)
    return np.cumsum(x, axis=axis).astype(np.float32) if axis < 2 else x.astype(np.float32)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("shape", [(64, 256), (300, 48)], ids=str)
def test_transforms(axis: int, shape: tuple[int, int]) -> None:
    F = fq.decompose(smooth(shape, axis), bits=3)
    assert isinstance(F.form, Folded | Chain)
    rng = np.random.default_rng(1)
    for b in (0, 1, 7):
        x, z = rng.standard_normal((shape[1], b)), rng.standard_normal((b, shape[0])).astype(np.float32)
        check(F @ x, F.form, x, False, 0)
        check(z @ F, F.form, z, True, 0)
        check(F.T @ z.T, F.T.form, z.T, False, 0)


@st.composite
def folded(draw: st.DrawFn) -> Form:
    """A form of a matrix behind a fold whose axes may be those of the matrix, cut finer, or lie across them."""
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    split = tuple(draw(st.lists(st.sampled_from((1, 2, 3, 4, 5)), min_size=1, max_size=5)))
    rows = tuple(draw(st.permutations(range(len(split))))[: draw(st.integers(0, len(split)))])
    size = math.prod(split)
    cuts = draw(st.sampled_from(sorted({math.prod(split[:k]) for k in range(len(split) + 1)} | {_divisor(size)})))
    fold = Fold((cuts, size // cuts), split, rows)
    p, q = fold.matrix_shape
    return Folded(_form(draw, rng, p, q, depth=2), fold)


def _divisor(n: int) -> int:
    return max(d for d in range(1, n + 1) if n % d == 0 and d * d <= n)


def _form(draw: st.DrawFn, rng: np.random.Generator, p: int, q: int, depth: int) -> Form:
    def leaf(*shape: int) -> Leaf:
        x = rng.standard_normal(shape).astype(np.float32)
        kind = draw(st.sampled_from(("dense", "grid", "mask", "bitshift")))
        if kind == "dense":
            return Leaf(Dense.encode(x))
        if kind == "grid":
            return Leaf(Grid.encode(x, bits=3, group=4, axis=draw(st.sampled_from((0, 1, None))), zero=3.5))
        if kind == "mask":
            return Leaf(Mask.encode(x > 0, Dense.encode(x[x > 0])))
        return Leaf(BitShift.encode(x, bits=2, states=16))

    r = draw(st.integers(1, 4))
    kind = draw(st.sampled_from(("leaf", "chain", "sum", "cp", "tucker", "folded") if depth else ("leaf",)))
    if kind == "chain":
        return Chain(_form(draw, rng, p, r, depth - 1), _form(draw, rng, r, q, depth - 1))
    if kind == "sum":
        return Sum((_form(draw, rng, p, q, depth - 1), leaf(p, q)))
    if kind == "cp":
        return CP(leaf(1, r), (leaf(p, r), leaf(q, r)))
    if kind == "tucker":
        return Tucker(leaf(r, 2), (leaf(p, r), leaf(q, 2)))
    if kind == "folded":
        return Folded(_form(draw, rng, q, p, depth - 1), Fold((p, q), (p, q), (1,)))
    return leaf(p, q)


@given(folded(), st.integers(0, 4))
def test_any_fold(form: Form, width: int) -> None:
    rng = np.random.default_rng(width)
    m, n = form.shape
    x, z = rng.standard_normal((n, width)).astype(np.float32), rng.standard_normal((width, m))
    check(form.matmul(x), form, x, False, 0)
    check(form.rmatmul(z), form, z, True, 0)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.data())
def test_boxes_cover_a_range_once(sizes: list[int], data: st.DataObject) -> None:
    size = math.prod(sizes)
    start = data.draw(st.integers(0, size))
    stop = data.draw(st.integers(start, size))
    numbers = np.arange(size).reshape(sizes)
    found = [(at, numbers[box].reshape(-1)) for at, box in boxes(start, stop, sizes)]
    assert [i for _, part in found for i in part.tolist()] == list(range(start, stop))
    assert all((part == np.arange(at.start, at.stop)).all() for at, part in found)
    assert len(found) <= 2 * len(sizes)


def test_axes_that_do_not_fit() -> None:
    assert parted((Axis(4, True), Axis(6, False)), (3, 8)) is None
    assert parted((Axis(4, True), Axis(6, False)), (2, 12)) == [(Axis(2, True),), (Axis(2, True), Axis(6, False))]


# Codecs --------------------------------------------------------------------------------------------------------------

SHAPES = [(1, 9), (7, 1), (33, 20), (300, 700), (3, 200_001), (90_001, 2)]
"""The last ones are cut: into rows, into parts of a row, into many short rows."""


def inners(values: Array) -> list[Encoded]:
    return [
        Dense.encode(values),
        Dense.encode(values, "float16"),
        Codebook.encode(values, bits=3, group=None, axis=None, levels="nonzero"),
        Codebook.encode(values, bits=4, group=64, axis=None, levels="nf4"),
        Grid.encode(values, bits=5, group=7, axis=None, zero=None),
    ]


@pytest.mark.parametrize("density", [0.0, 0.02, 0.3, 0.6, 1.0])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_masks(shape: tuple[int, int], density: float) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal(shape).astype(np.float32)
    mask = rng.random(shape) < density
    inner = inners(x[mask])[int(10 * density) % 5]
    encoded = Mask.encode(mask, inner)
    for way in (encoded, *encoded.versions()) if math.prod(shape) < 1 << 18 else (encoded,):
        same_matrix(way)


@pytest.mark.parametrize("which", range(5))
def test_what_is_kept_under_a_mask(which: int) -> None:
    rng = np.random.default_rng(which)
    x = rng.standard_normal((500, 400)).astype(np.float32)
    mask = rng.random(x.shape) < 0.4
    same_matrix(Mask.encode(mask, inners(x[mask])[which]))
    same_matrix(shrunk(Mask.encode(mask, inners(np.rint(x[mask]))[which])), (1, 5))


def test_a_mask_of_another_size() -> None:
    x = np.arange(1, 1001, dtype=np.float32).reshape(10, 100)
    mask = Mask.encode(x % 2 == 0, Dense.encode(x[x % 2 == 0]))
    wrong = replace(mask, inner=Dense.encode(np.ones(499, np.float32)))
    with pytest.raises(fq.ArtifactError, match=r"500 .* 499"):
        wrong.matmul(np.ones((100, 1), np.float32))


@pytest.mark.parametrize(
    ("rank", "tile"), [(3, (6, 9)), (11, (4096, 4096)), (8, (100, 1100)), (16, (7, 2000))], ids=str
)
@pytest.mark.parametrize("shape", [(33, 20), (300, 1500)], ids=str)
def test_boolean_masks(shape: tuple[int, int], rank: int, tile: tuple[int, int]) -> None:
    rng = np.random.default_rng(rank)
    left, right = (rng.random(s) < 0.3 for s in factor_shapes(shape, rank, tile))
    mask = boolean_product(left, right, tile)
    kept = rng.standard_normal(int(mask.sum())).astype(np.float32)
    encoded = Boolean.encode(left, right, tile, shape, Dense.encode(kept))
    assert np.array_equal(encoded.bitmap(), np.packbits(mask, bitorder="little"))
    same_matrix(encoded)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("axis", "group"), [(None, None), (1, None), (1, 256), (None, 512)])
def test_bit_shift(shape: tuple[int, int], axis: int | None, group: int | None) -> None:
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    encoded = BitShift.encode(x, bits=2, states=16, axis=axis, group=group)
    blocks = np.zeros(encoded.matrix, np.float32)
    for rows, columns in encoded.cuts():
        blocks[rows, columns] = encoded.cut(rows, columns)
    assert np.array_equal(blocks, encoded.decode())
    same_matrix(encoded, (0, 1, 3))


@pytest.mark.parametrize("leading", [1, 20, 39])
def test_rotations(leading: int) -> None:
    A = np.linalg.qr(np.random.default_rng(0).standard_normal((40, 40)))[0].astype(np.float32)
    same_matrix(Rotation.encode(A, 8, leading), (0, 1, 40, 41))


def integers(shape: tuple[int, ...]) -> list[Encoded]:
    """Codecs of groups whose codes are far from fair, so that entropy coding pays."""
    x = np.random.default_rng(0).standard_t(2, shape).astype(np.float32)
    return [
        *(Grid.encode(x, bits=4, group=g, axis=a, zero=7.5) for g, a in ((None, 0), (16, 0), (None, 1), (24, 1))),
        *(Grid.encode(x, bits=5, group=g, axis=None, zero=None) for g in (None, 100)),
        Codebook.encode(x, bits=3, group=32, axis=1, levels="nonzero"),
        Integers.encode(x, bits=3, zero=3.5),
        Dense.encode(np.rint(x), "float32"),
    ]


@pytest.mark.parametrize("which", range(9))
@pytest.mark.parametrize("shape", [(200, 300), (37, 4099), (3, 150_001)], ids=str)
def test_entropy_coded(shape: tuple[int, int], which: int) -> None:
    encoded = Entropy.encode(integers(shape)[which])
    assert encoded.coded
    rows, columns = encoded.cuts()[-1]
    assert np.array_equal(encoded.cut(rows, columns), encoded.decode()[rows, columns])
    same_matrix(encoded, (0, 1, 3))
    again = pickle.loads(pickle.dumps(encoded))
    assert set(vars(again)) == {"shape", "dtype", "inner", "coded", "parts"}  # blanks and blocks at hand stay behind


@given(st.sampled_from([(1000,), (33, 20), (7, 64), (1, 999), (5, 2000)]), st.integers(0, 8), st.data())
def test_parts_of_codecs(shape: tuple[int, ...], which: int, data: st.DataObject) -> None:
    if len(shape) == 1 and which in (0, 1):
        return
    encoded = integers(shape)[which]
    start = data.draw(st.integers(0, encoded.size))
    stop = data.draw(st.integers(start, encoded.size))
    whole = encoded.decode().reshape(encoded.matrix)
    flat = (whole.T if encoded.transposed else whole).reshape(-1)
    assert np.array_equal(encoded.part(start, stop), flat[start:stop])
    coded = Entropy.encode(encoded)
    assert np.array_equal(coded.part(start, stop), flat[start:stop])


# Threads and memory --------------------------------------------------------------------------------------------------

W = np.random.default_rng(0).standard_normal((512, 600)).astype(np.float32)
LARGE: dict[str, Callable[[Array], fq.Factorization]] = {
    "masked": lambda W: fq.decompose(W, bits=4, sparsity=0.9),
    "masked, half": lambda W: fq.decompose(W, bits=4, sparsity=0.5),
    "pruned": lambda W: fq.decompose(W, sparsity=0.8),
    "masked, entropy": lambda W: fq.decompose(W, bits=4, sparsity=0.9, store="entropy"),
    "scalar, entropy": lambda W: fq.decompose(W, method=Scalar(bits=4), store="entropy"),
    "boolean": lambda W: fq.decompose(W, method=BooleanPruning(0.8, bits=2, rank=8, anneal=1, max_iter=1)),
    "trellis": lambda W: fq.decompose(W, bits=3),
    "trellis, transform": lambda W: fq.decompose(
        np.cumsum(W, axis=1), method=Trellis(bits=3, states=4, model="static")
    ),
    "fixed rate": lambda W: fq.decompose(W, method=Trellis(bits=2, states=16, fixed_rate=True, rotate=True)),
    "sparse chain": lambda W: fq.decompose(W, method=QuantizedSparse(32, (4, 3), 0.7, max_iter=1)),
    "sparse chain, inputs": lambda W: fq.decompose(W, method=QuantizedSparse(4, 4, 0.5, max_iter=1, fold="inputs/8")),
    "sparse chain, outputs": lambda W: fq.decompose(W, method=QuantizedSparse(4, 4, 0.5, max_iter=1, fold="outputs/4")),
    "sparse pca": lambda W: fq.decompose(W, method=SparsePCA(16, 0.7, max_iter=1)),
    "masked, xor": lambda W: fq.decompose(W, bits=4, sparsity=0.9, store="xor"),
    "vectors, entropy": lambda W: fq.decompose(
        np.rint(W), method=VectorQuantization(dim=4, codewords=64, max_iter=1), store="entropy"
    ),
}
WHOLE = {
    "masked, xor": "an XOR stream is read with its whole mask at one byte per entry",
    "vectors, entropy": "their indices, a small part of the array, are decoded as a whole",
}
"""What is restored as a whole for the first product, and why."""


@pytest.mark.parametrize("name", LARGE)
def test_threads_do_not_change_a_bit(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    F = LARGE[name](W)
    x, z = np.random.default_rng(1).standard_normal((2, 600, 5)).astype(np.float32)
    found = []
    for count in (1, 2, 3):
        monkeypatch.setattr(threads, "product_workers", lambda count=count: count)
        found.append((F @ x, z[:512].T @ F, F @ x[:, 0]))
    for one, other in zip(found[0] * 2, (*found[1], *found[2]), strict=True):
        assert np.array_equal(one, other)


@pytest.mark.parametrize("name", LARGE)
def test_memory_of_a_product(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """At most 5 % of the dense array beside x and y, the first product included, in which masks are made bitmaps.

    On one thread: each has about half a megabyte at hand.
    """
    monkeypatch.setattr(threads, "product_workers", lambda: 1)
    rng = np.random.default_rng(0)
    W = rng.standard_normal((2048, 4096), np.float32)
    F, (x, z) = LARGE[name](W), (rng.standard_normal(n, np.float32) for n in (4096, 2048))
    F @ x, z @ F  # compiles
    F = pickle.loads(pickle.dumps(F))  # without what products keep at hand
    for product in (lambda: F @ x, lambda: z @ F, lambda: F @ x):
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        product()
        peak = tracemalloc.get_traced_memory()[1] - before
        tracemalloc.stop()
        if name not in WHOLE:
            assert peak <= 0.05 * W.nbytes
    assert name in WHOLE or peak <= 0.05 * W.nbytes
