"""Forms against einsum: dense arrays, products, skeletons, folds."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from factorq.codecs import Dense
from factorq.errors import ArgumentError, ArtifactError
from factorq.forms import CP, Chain, Fold, Folded, Form, Leaf, Sum, Tucker, from_skeleton

RNG = np.random.default_rng(0)


def array(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape)


def leaf(x: np.ndarray) -> Leaf:
    return Leaf(Dense.encode(x))


A, B, C, D = array(5, 3), array(3, 7), array(5, 7), array(7, 5)
U, V, S, weights = array(4, 3), array(5, 3), array(6, 3), array(1, 3)
core = array(2, 3, 4)
modes = array(5, 2), array(6, 3), array(7, 4)
E, G = array(7, 2), array(2, 5)
kernel = Fold.positions((4, 3, 2, 2))
K1, K2 = array(4, 2), array(2, 12)
cut = Fold((4, 6), (4, 2, 3), (0, 2))
M = array(12, 2)

FORMS: dict[str, tuple[Form, np.ndarray]] = {
    "leaf": (leaf(C), C),
    "chain": (Chain(leaf(A), leaf(B)), np.einsum("ir,rj->ij", A, B)),
    "chain of chains": (Chain(Chain(leaf(A), leaf(B)), leaf(E)), np.einsum("ir,rj,jk->ik", A, B, E)),
    "cp of a matrix": (CP(leaf(weights), (leaf(U), leaf(V))), np.einsum("r,ir,jr->ij", weights[0], U, V)),
    "cp": (CP(leaf(weights), (leaf(U), leaf(V), leaf(S))), np.einsum("r,ir,jr,kr->ijk", weights[0], U, V, S)),
    "cp of 4 axes": (
        CP(leaf(weights), (leaf(U), leaf(V), leaf(S), leaf(U))),
        np.einsum("r,ir,jr,kr,lr->ijkl", weights[0], U, V, S, U),
    ),
    "cp of a kernel": (
        CP(leaf(weights), (leaf(U), leaf(V), leaf(S.reshape(2, 3, 3)))),
        np.einsum("r,ir,jr,kr->ijk", weights[0], U, V, S).reshape(4, 5, 2, 3),
    ),
    "cp of a line": (
        CP(leaf(weights), (leaf(U), leaf(V.reshape(5, 1, 3)))),
        np.einsum("r,ir,jr->ij", weights[0], U, V).reshape(4, 5, 1),
    ),
    "tucker": (Tucker(leaf(core), tuple(map(leaf, modes))), np.einsum("abc,ia,jb,kc->ijk", core, *modes)),
    "tucker of a matrix": (Tucker(leaf(G), (leaf(E), leaf(D))), np.einsum("ab,ia,jb->ij", G, E, D)),
    "sum": (Sum((leaf(C), Chain(leaf(A), leaf(B)))), C + A @ B),
    "folded kernel": (Folded(Chain(leaf(K1), leaf(K2)), kernel), (K1 @ K2).T.reshape(4, 3, 2, 2)),
    "transposed": (Folded(Chain(leaf(E), leaf(G)), Fold.transposed((5, 7))), (E @ G).T),
    "cut columns": (Folded(leaf(M), cut), M.reshape(4, 3, 2).transpose(0, 2, 1).reshape(4, 6)),
    "sum of folded": (Sum((leaf(C), Folded(leaf(D), Fold.transposed((5, 7))))), C + D.T),
}  # fmt: skip
every_form = pytest.mark.parametrize(("form", "want"), FORMS.values(), ids=list(FORMS))


@every_form
def test_dense_is_the_contraction(form: Form, want: np.ndarray) -> None:
    assert form.shape == want.shape
    np.testing.assert_allclose(form.dense(), want, rtol=1e-12, atol=1e-12)


@every_form
def test_products(form: Form, want: np.ndarray) -> None:
    if want.ndim == 2:
        for width in (0, 1, 4):
            x, y = array(want.shape[1], width), array(width, want.shape[0])
            np.testing.assert_allclose(form.matmul(x), want @ x, rtol=1e-12, atol=1e-12)
            np.testing.assert_allclose(form.rmatmul(y), y @ want, rtol=1e-12, atol=1e-12)


@every_form
def test_skeleton_and_back(form: Form, want: np.ndarray) -> None:
    skeleton = json.loads(json.dumps(form.skeleton()))
    leaves = form.leaves()
    assert all(isinstance(f, Leaf) for f in leaves.values())
    again = from_skeleton(skeleton, {name: f.factor for name, f in leaves.items()})
    assert type(again) is type(form)
    assert again.skeleton() == form.skeleton()
    assert again.leaves().keys() == leaves.keys()
    np.testing.assert_array_equal(again.dense(), form.dense())
    assert str(again) == str(form)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Chain(leaf(A), leaf(C)),
        lambda: Chain(leaf(core), leaf(B)),
        lambda: CP(leaf(array(3)), (leaf(U), leaf(V))),
        lambda: CP(leaf(weights), (leaf(U),)),
        lambda: CP(leaf(weights), (leaf(U), leaf(E))),
        lambda: Tucker(leaf(core), (leaf(modes[0]), leaf(modes[1]))),
        lambda: Tucker(leaf(core), (leaf(modes[1]), leaf(modes[0]), leaf(modes[2]))),
        lambda: Sum(()),
        lambda: Sum((leaf(A), leaf(B))),
        lambda: Folded(leaf(A), Fold.matrix((3, 5))),
        lambda: Fold((4, 6), (4, 5), (0,)),
        lambda: Fold((4, 6), (4, 6), (0, 0)),
        lambda: Fold((4, 6), (4, 6), (2,)),
        lambda: Fold((0, 6), (0, 6), (0,)),
    ],
)
def test_misfits_are_refused(make) -> None:
    with pytest.raises(ArgumentError):
        make()


@pytest.mark.parametrize(
    "skeleton",
    [
        None, 3, [], {}, {"form": "leaf"}, {"form": "leaf", "leaf": "gone"}, {"form": "spiral", "parts": []},
        {"form": "chain", "parts": []}, {"form": "chain", "parts": [{"form": "leaf", "leaf": "A"}]},
        {"form": "chain", "parts": [{"form": "leaf", "leaf": "A"}] * 2}, {"form": "sum", "parts": []},
        {"form": "cp", "parts": []}, {"form": "tucker", "parts": 7}, {"form": "folded", "parts": []},
        {"form": "folded", "parts": [{"form": "leaf", "leaf": "A"}], "shape": [5, 3], "split": [15], "rows": [9]},
        {"form": "folded", "parts": [{"form": "leaf", "leaf": "A"}], "shape": [5, 3], "split": ["x"], "rows": [0]},
    ],
)  # fmt: skip
def test_malformed_skeletons(skeleton: object) -> None:
    with pytest.raises(ArtifactError, match=r"^form: "):
        from_skeleton(skeleton, {"A": Dense.encode(A)})


def test_deep_skeletons() -> None:
    skeleton: dict[str, object] = {"form": "leaf", "leaf": "A"}
    for _ in range(30):
        skeleton = {"form": "sum", "parts": [skeleton]}
    with pytest.raises(ArtifactError, match="deep"):
        from_skeleton(skeleton, {"A": Dense.encode(A)})


@given(st.data())
def test_folds_are_invertible(data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(st.integers(1, 4), min_size=2, max_size=5)))
    split = tuple(f for n in shape for f in ((2, 2) if n == 4 and data.draw(st.booleans()) else (n,)))
    axes = data.draw(st.permutations(range(len(split))))
    fold = Fold(shape, split, tuple(axes[: data.draw(st.integers(0, len(split)))]))
    W = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    matrix = fold.apply(W)
    assert matrix.shape == fold.matrix_shape
    np.testing.assert_array_equal(fold.undo(matrix), W)


@pytest.mark.parametrize(
    ("fold", "shape"),
    [
        (Fold.matrix((8, 4, 3, 3)), (8, 36)),
        (Fold.positions((8, 4, 3, 3)), (9, 32)),
        (Fold.positions((8, 4, 3)), (3, 32)),
        (Fold.transposed((10, 4)), (4, 10)),
        (Fold.matrix((10, 4)), (10, 4)),
    ],
    ids=str,
)
def test_declared_folds(fold: Fold, shape: tuple[int, int]) -> None:
    assert fold.matrix_shape == shape
    W = array(*fold.shape)
    np.testing.assert_array_equal(fold.undo(fold.apply(W)), W)
    if fold == Fold.positions((8, 4, 3, 3)):
        np.testing.assert_array_equal(fold.apply(W), np.einsum("oiyx->yxoi", W).reshape(9, 32))
