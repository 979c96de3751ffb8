"""Moments of channels: those of all inputs at once, however they are cut; PyTorch's batch norm as the other opinion."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import factorq as fq
from factorq import calibration

RNG = np.random.default_rng(5)


def gathered(batches: list[np.ndarray], axis: int = 1) -> fq.ChannelMoments:
    moments = fq.ChannelMoments(axis)
    for batch in batches:
        moments.update(batch)
    return moments


def check(moments: fq.ChannelMoments, x: np.ndarray, axis: int = 1) -> None:
    """The moments of all of ``x``, in float64."""
    flat = np.moveaxis(x.astype(np.float64), axis, 0).reshape(x.shape[axis], -1)
    assert moments.count == flat.shape[1]
    np.testing.assert_allclose(moments.mean, flat.mean(axis=1), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(moments.variance(), flat.var(axis=1), rtol=1e-11)
    np.testing.assert_allclose(moments.variance(ddof=1), flat.var(axis=1, ddof=1), rtol=1e-11)


@given(st.data())
def test_any_cut_gives_the_moments_of_the_whole(data: st.DataObject) -> None:
    rest = tuple(data.draw(st.lists(st.integers(1, 4), max_size=3)))
    n, channels = data.draw(st.integers(2, 20)), data.draw(st.integers(1, 5))
    axis = data.draw(st.sampled_from([1, -1]))
    shape = (n, channels, *rest) if axis == 1 else (n, *rest, channels)
    x = 100 + RNG.standard_normal(shape) * RNG.uniform(0.1, 10, channels).reshape(-1, *((1,) * len(rest) * (axis == 1)))
    cuts = sorted(data.draw(st.lists(st.integers(0, n), max_size=4)))  # batches may be empty
    check(gathered(np.split(x, cuts), axis), x, axis)


def test_blocks_within_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    x = RNG.standard_normal((7, 3, 5, 4)) * [[[2.0]], [[3.0]], [[5.0]]] + 1e4
    for block in (1, 60, 130, 1 << 20):
        monkeypatch.setattr(calibration, "_BLOCK", block)
        check(gathered([x]), x)
        check(gathered([np.moveaxis(x, 1, -1)], -1), x)
        check(gathered([x[::-1, :, ::2].swapaxes(2, 3)]), x[:, :, ::2])


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
def test_dtypes(dtype: type) -> None:
    x = (3 + RNG.standard_normal((50, 4, 6))).astype(dtype)
    check(gathered([x[:20], x[20:]]), x)


def test_libraries(xp) -> None:
    for dtype in xp.dtypes:
        x = (RNG.standard_normal((6, 3, 5)) - 2).astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
        moments = fq.ChannelMoments()
        moments.update(xp.asarray(x[:2]))
        moments.update(xp.asarray(x[2:]))
        check(moments, x)


def test_large_offsets_do_not_cancel() -> None:
    x = 1e8 + RNG.standard_normal((4000, 2))
    np.testing.assert_allclose(gathered(np.split(x, 40)).variance(), x.var(axis=0), rtol=1e-7)


def test_states() -> None:
    moments = fq.ChannelMoments()
    assert moments.count == 0
    for read in (lambda: moments.mean, moments.variance):
        with pytest.raises(fq.ArgumentError, match=r"found 0 inputs so far, allowed is 1 or more .* call update first"):
            read()
    moments.update(np.zeros((0, 7)))  # of other channels, but there is nothing in it
    moments.update(np.ones((1, 3)))
    assert np.array_equal(moments.variance(), np.zeros(3))
    with pytest.raises(fq.ArgumentError, match=r"variance: found 1 inputs so far, allowed is 2 or more"):
        moments.variance(ddof=1)
    moments.update(np.ones((5, 3, 0)))
    assert moments.count == 1
    moments.mean[:] = 7  # a copy
    assert np.array_equal(moments.mean, np.ones(3))
    assert repr(moments) == "ChannelMoments(axis=1): 3 channels, 1 numbers each"


@pytest.mark.parametrize(
    ("x", "message"),
    [
        ([[1.0]], "x: found list, allowed is an array"),
        (np.ones((2, 3), np.int64), r"x: found dtype int64, allowed is float16.*cast it first"),
        (np.ones(3), r"x: found shape \(3,\) with channels on axis 1"),
        (np.ones((2, 4)), r"x: found 4 channels in shape \(2, 4\), allowed is 3 on axis 1, as before"),
        (np.array([[1.0, np.nan, 1.0]]), r"x: found 1 non-finite values, the first at index \(0, 1\)"),
        (np.array([[1.0, 1.0, np.inf]], np.float16), r"x: found 1 non-finite values, the first at index \(0, 2\)"),
        (np.array([[1.0, 1.0, 1e200], [1.0, 1.0, -1e200]]), r"x: found magnitudes up to 1e\+200"),
    ],
)
def test_refused_inputs_change_nothing(x: object, message: str) -> None:
    moments = gathered([np.arange(12.0).reshape(4, 3)])
    before = moments.count, moments.mean, moments.variance()
    with pytest.raises(fq.FactorqError, match=message):
        moments.update(x)
    assert moments.count == before[0]
    np.testing.assert_array_equal(moments.mean, before[1])
    np.testing.assert_array_equal(moments.variance(), before[2])


def test_arguments() -> None:
    for axis in (None, True, 1.0):
        with pytest.raises(fq.ArgumentTypeError, match=r"axis: found .*, allowed is an integer"):
            fq.ChannelMoments(axis)  # type: ignore[arg-type]
    moments = gathered([np.ones((4, 3))])
    with pytest.raises(fq.ArgumentError, match="ddof: found -1"):
        moments.variance(-1)
    with pytest.raises(fq.ArgumentTypeError, match=r"ddof: found 0\.5"):
        moments.variance(0.5)  # type: ignore[arg-type]
    with pytest.raises(fq.ArgumentError, match=r"x: found shape \(2, 3\) with channels on axis 2"):
        fq.ChannelMoments(2).update(np.ones((2, 3)))


def test_batch_norm() -> None:
    """PyTorch averages unbiased variances within batches; with that between their means they are those of the whole."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    batches, size, channels = 6, 4, 3
    x = torch.randn(batches, size, channels, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    x += torch.arange(batches, dtype=torch.float64).reshape(-1, 1, 1, 1, 1)  # batches that differ
    norm = torch.nn.BatchNorm2d(channels, momentum=None, dtype=torch.float64).train()
    for batch in x:
        norm(batch)
    moments = gathered(list(x))
    n = size * 25
    within = norm.running_var.numpy() * (n - 1) / n
    between = x.mean(dim=(1, 3, 4)).var(dim=0, correction=0).numpy()
    np.testing.assert_allclose(moments.mean, norm.running_mean.numpy(), rtol=1e-12)
    np.testing.assert_allclose(moments.variance(), within + between, rtol=1e-12)

    again = torch.nn.BatchNorm2d(channels, momentum=None, dtype=torch.float64).train()
    again(x.flatten(0, 1))  # one batch of everything: nothing between
    np.testing.assert_allclose(moments.variance(ddof=1), again.running_var.numpy(), rtol=1e-12)
    again.eval()
    out = again(x.flatten(0, 1)).detach()
    np.testing.assert_allclose(out.mean(dim=(0, 2, 3)).numpy(), 0, atol=1e-12)
