"""Rotation as a form and as a method: products without W, gram, files, text, and what it is for."""

from __future__ import annotations

import json

import numpy as np
import pytest
from cases import gram_of

import factorq as fq
from factorq.checkpoint.expression import parse
from factorq.codecs import Dense
from factorq.errors import ArtifactError
from factorq.forms import Leaf, Rotated, from_skeleton
from factorq.forms.rotated import turned, unturned
from factorq.methods import SVD, Scalar
from factorq.methods import Rotated as RotatedMethod
from factorq.named import build


def form(shape: tuple[int, ...], right: int | None, left: int | None) -> tuple[Rotated, np.ndarray]:
    W = np.random.default_rng(0).standard_normal(shape)
    inner = turned(W.reshape(shape[0], -1), right, left).reshape(shape)
    return Rotated(Leaf(Dense.encode(inner, "float64")), right, left), W


@pytest.mark.parametrize(("right", "left"), [(3, None), (None, 4), (3, 4), (None, None), (0, 2**63 - 1)])
@pytest.mark.parametrize("shape", [(5, 12), (1, 1), (9, 7), (6, 3, 2, 2)])
def test_the_form_folds_back(shape: tuple[int, ...], right: int | None, left: int | None) -> None:
    F, W = form(shape, right, left)
    np.testing.assert_allclose(F.dense(), W, atol=1e-12)
    again = from_skeleton(json.loads(json.dumps(F.skeleton())), {name: x.factor for name, x in F.leaves().items()})
    np.testing.assert_array_equal(again.dense(), F.dense())
    if len(shape) == 2:
        rng = np.random.default_rng(1)
        x, y = rng.standard_normal((shape[1], 3)), rng.standard_normal((2, shape[0]))
        np.testing.assert_allclose(F.matmul(x), W @ x, atol=1e-12)
        np.testing.assert_allclose(F.rmatmul(y), y @ W, atol=1e-12)


def test_products_do_not_build_w() -> None:
    class Once(Leaf):
        def dense(self) -> np.ndarray:
            raise AssertionError("built")

        def matmul(self, x: np.ndarray) -> np.ndarray:
            return self.factor.decode() @ x

    F, W = form((8, 12), 1, 2)
    lazy = Rotated(Once(F.inner.factor), 1, 2)
    np.testing.assert_allclose(lazy.matmul(np.eye(12)), W, atol=1e-12)


@pytest.mark.parametrize(
    "seeds", [[-1, None], [2**63, None], [1.5, None], ["1", None], [True, None], [1], 3, [1, 2, 3]]
)
def test_a_bad_skeleton_is_refused(seeds: object) -> None:
    F, _ = form((4, 4), 1, None)
    skeleton = {**F.skeleton(), "seeds": seeds}
    with pytest.raises(ArtifactError):
        from_skeleton(skeleton, {name: x.factor for name, x in F.leaves().items()})


def test_turning_keeps_norms_and_is_undone() -> None:
    W = np.random.default_rng(0).standard_normal((9, 20)).astype(np.float32)
    R = turned(W, 1, 2)
    assert np.linalg.norm(R) == pytest.approx(np.linalg.norm(W), rel=1e-6)
    np.testing.assert_allclose(unturned(R, 1, 2), W, atol=1e-6)


@pytest.mark.parametrize("axes", ["input", "both"])
def test_outliers_cost_less(axes: str) -> None:
    W = np.random.default_rng(0).standard_t(2, (64, 300)).astype(np.float32)
    plain, rotated = Scalar(bits=3), RotatedMethod(Scalar(bits=3), axes=axes)
    F, G = fq.decompose(W, method=plain), fq.decompose(W, method=rotated)
    assert G.relative_error < 0.75 * F.relative_error
    assert G.nbytes == F.nbytes
    x = np.random.default_rng(1).standard_normal(300).astype(np.float32)
    np.testing.assert_allclose(G @ x, G.to_dense() @ x, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("axes", ["input", "both"])
def test_gram_turns_with_the_inputs(axes: str) -> None:
    W = np.random.default_rng(0).standard_normal((24, 40)).astype(np.float32)
    gram = gram_of(40)
    blind = fq.decompose(W, method=RotatedMethod(Scalar(bits=3), axes=axes)).to_dense()
    lost = np.float64(W) - blind
    F = fq.decompose(W, method=RotatedMethod(Scalar(bits=3), axes=axes), gram=gram)
    want = np.sqrt(np.trace(lost @ gram @ lost.T) / np.trace(np.float64(W) @ gram @ np.float64(W).T))
    assert F.gram_error < 0.8 * want


def test_seeds_come_from_rng_and_are_stored(tmp_path) -> None:
    W = np.random.default_rng(0).standard_normal((6, 10)).astype(np.float32)
    method = RotatedMethod(Scalar(bits=4))
    F, G = (fq.decompose(W, method=method, rng=seed) for seed in (1, 2))
    assert F.form.settings() != G.form.settings()
    fq.save(tmp_path / "w.safetensors", {"w": F})
    H = fq.load(tmp_path / "w.safetensors")["w"]
    np.testing.assert_array_equal(H.to_dense(), F.to_dense())
    assert H.method == method


def test_text_and_json() -> None:
    want = RotatedMethod(Scalar(bits=3))
    assert parse("rotated(scalar(bits=3))") == parse("rotated(method=scalar(bits=3))") == want
    assert parse("rotated(svd(rank=2) + scalar(bits=3), axes=both)") == RotatedMethod(SVD(2) + Scalar(bits=3), "both")
    assert parse("svd(rank=2) + rotated(scalar(bits=3))") == SVD(2) + want
    assert build("methods", json.loads(json.dumps(want.config()))) == want


@pytest.mark.parametrize(
    "text",
    ["rotated", "rotated()", "rotated(3)", "rotated(scalar)", "rotated(scalar(bits=3), scalar(bits=3))",
     "rotated(scalar(bits=3), method=scalar(bits=3))", "rotated(scalar(bits=3), axes=rows)", "rotated(nothing(1))",
     "scalar(scalar(bits=3))", "scalar(bits=scalar(bits=2))", "rotated(" * 120 + "scalar(bits=3)" + ")" * 120],
)  # fmt: skip
def test_bad_text_is_refused(text: str) -> None:
    with pytest.raises((fq.ArgumentError, fq.ArgumentTypeError)):
        parse(text)


def test_the_range_of_float32_is_respected() -> None:
    W = np.full((8, 64), np.float32(3e38))
    F = fq.decompose(W, method=RotatedMethod(Scalar(bits=8)))
    assert np.isfinite(F.to_dense()).all()
    assert F.relative_error < 0.05
