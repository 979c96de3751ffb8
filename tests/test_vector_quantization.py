"""Vector quantization as a method and a codec: known answers, sizes, edge cases, the gram, corrupted codes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from cases import gram_of

import factorq as fq
from factorq.codecs import Vectors
from factorq.forms import Leaf, Sum
from factorq.measure import gram_error


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_planted_codewords_come_back_exactly() -> None:
    rng = np.random.default_rng(0)
    book = rng.integers(-8, 9, (8, 4)).astype(np.float32)
    W = book[rng.integers(0, 8, (64, 10))].reshape(64, 40)
    F = fq.decompose(W, method=fq.VectorQuantization(dim=4, codewords=8, max_iter=50, tol=0.0))
    np.testing.assert_array_equal(F.to_dense(), W)
    assert F.nbytes == 64 * 10 * 3 // 8 + 8 * 4 * 2


@pytest.mark.parametrize("n", [4, 5, 9, 15, 16])
@pytest.mark.parametrize("dim", [1, 3, 4, 64])
def test_dims_need_not_divide(n: int, dim: int) -> None:
    """Rows of one value per vector are exact whatever is padded; the size is that of codes and codebooks."""
    W = np.where(np.arange(600)[:, None] % 2 == 0, 1.0, -2.0) * np.ones((600, n), np.float32)
    F = fq.decompose(W.astype(np.float32), method=fq.VectorQuantization(dim=dim, codewords=4))
    np.testing.assert_array_equal(F.to_dense(), W)
    per_row, d = -(-n // min(dim, n)), min(dim, n)
    assert F.nbytes == 600 * per_row * 2 // 8 + 4 * d * 2


def test_padding_does_not_pull_the_means() -> None:
    """All vectors alike but for the padding of the last: one codeword serves all, and its tail is not drawn to 0."""
    W = np.tile(np.array([3.0, 5.0, 7.0], np.float32), (50, 3))[:, :8]
    F = fq.decompose(W, method=fq.VectorQuantization(dim=3, codewords=1))
    np.testing.assert_array_equal(F.to_dense(), W)


def test_product_codes_have_a_codebook_per_range() -> None:
    W = draw(256, 64)
    W[:, 32:] *= 20
    one = fq.decompose(W, method=fq.VectorQuantization(dim=2, codewords=16))
    two = fq.decompose(W, method=fq.VectorQuantization(dim=2, codewords=16, groups=2))
    assert two.nbytes - one.nbytes == 16 * 2 * 2
    lost = [np.linalg.norm((W - F.to_dense())[:, :32]) / np.linalg.norm(W[:, :32]) for F in (one, two)]
    assert lost[1] < 0.4 < 0.7 < lost[0]


def test_stages_add_up() -> None:
    W = draw(256, 128)
    errors = [
        fq.decompose(W, method=fq.VectorQuantization(dim=4, codewords=16, stages=s)).relative_error for s in (1, 2, 3)
    ]
    assert errors[0] > 1.5 * errors[1] > 2 * errors[2]
    F = fq.decompose(W, method=fq.VectorQuantization(dim=4, codewords=16, stages=2))
    assert isinstance(F.form, Sum)
    assert len(F.factors) == 2


def test_gaussian_error_is_that_of_the_literature() -> None:
    """2 bits in 4 dimensions: 0.0988 (faiss product quantizer), codebook not counted."""
    F = fq.decompose(draw(512, 512), method=fq.VectorQuantization(dim=4, codewords=256))
    assert 0.085 < F.relative_error**2 < 0.0988


def test_small_arrays_never_grow() -> None:
    for shape in ((1, 1), (1, 5), (2, 2)):
        W = draw(*shape)
        F = fq.decompose(W, method=fq.VectorQuantization(dim=4, codewords=256))
        np.testing.assert_allclose(F.to_dense(), W, rtol=1e-3)
        assert F.nbytes <= W.nbytes
    W = draw(2, 2)
    np.testing.assert_array_equal(
        fq.decompose(W, method=fq.VectorQuantization(dim=1, codewords=9, stages=2)).to_dense(), W
    )


@pytest.mark.parametrize("stages", [1, 2])
@pytest.mark.parametrize("n", [128, 126])
def test_the_gram_counts(stages: int, n: int) -> None:
    """Feedback at least halves the error in the metric here, and what is kept is never worse than without the gram."""
    W, gram = draw(256, n), gram_of(n)
    method = fq.VectorQuantization(dim=4, codewords=64, stages=stages)
    plain, aware = fq.decompose(W, method=method), fq.decompose(W, method=method, gram=gram)
    assert aware.gram_error is not None
    assert aware.gram_error < 0.5 * gram_error(W, plain.to_dense(), gram)
    assert aware.nbytes == plain.nbytes


def test_inputs_that_never_fire() -> None:
    gram = gram_of(64)
    gram[5, :] = gram[:, 5] = 0
    F = fq.decompose(draw(64, 64), method=fq.VectorQuantization(dim=4, codewords=16), gram=gram)
    assert np.isfinite(F.to_dense()).all()
    assert fq.decompose(draw(64, 64), method=F.method, gram=np.zeros((64, 64))).gram_error == 0


@pytest.mark.parametrize("target", [0.7, 1.5, 2.5, 3.6])
def test_target_sizes(target: float) -> None:
    W = draw(256, 512)
    F = fq.decompose(W, method="vector_quantization", bits_per_weight=target)
    assert 0.98 * target <= F.bits_per_weight <= target
    assert F.relative_error**2 < 2 ** (-2 * (target - 0.9))


def test_heavy_tails_and_extreme_rows() -> None:
    rng = np.random.default_rng(0)
    for W in (rng.standard_cauchy((64, 256)), draw(64, 256) * 10.0 ** rng.uniform(-20, 15, (64, 1))):
        F = fq.decompose(W.astype(np.float32), method=fq.VectorQuantization(dim=4, codewords=32))
        assert F.relative_error < 0.6


def test_settings_are_checked() -> None:
    for name, bad in (
        ("dim", 0),
        ("codewords", 70000),
        ("stages", 0),
        ("groups", 0),
        ("dim", 2.5),
        ("codewords", True),
    ):
        with pytest.raises(fq.ArgumentError, match=f"^{name}: found"):
            fq.VectorQuantization(**{"dim": 4, "codewords": 16, name: bad})  # type: ignore[arg-type]


def test_corrupted_vectors_are_refused() -> None:
    W = draw(64, 32)
    leaf = fq.decompose(W, method=fq.VectorQuantization(dim=4, codewords=12)).form
    assert isinstance(leaf, Leaf)
    good = leaf.factor
    assert isinstance(good, Vectors)
    for change in ({"groups": 0}, {"groups": 9}, {"shape": (64, 33)}, {"shape": (63, 32)}, {"dtype": "float64"}):
        with pytest.raises(fq.ArtifactError):
            replace(good, **change)
    with pytest.raises(fq.ArtifactError):
        replace(good, index=good.codebook)
    full = np.full_like(good.index.buffers()["indices"], 255)  # codes of 15 where there are 12 codewords
    with pytest.raises(fq.ArtifactError, match="index 15"):
        replace(good, index=replace(good.index, indices=full)).decode()  # type: ignore[call-arg]
