"""What calibration inputs tell, batch by batch: moments of each channel, second moments of a layer's inputs."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .arrays import FLOATS, Array, check_finite, dtype_name, is_array, to_host
from .errors import FactorqError, refuse, refuse_type

_BLOCK = 1 << 17  # numbers taken at a time: 1 MiB in float64, whatever the size of the batch


class ChannelMoments:
    """``mean[c]``, ``variance[c]`` over all inputs x (N, C, ...) so far: what batch norm needs after layers changed.

    Counts, means and sums of squared deviations are merged in float64 by the pairwise update of Chan, Golub and LeVeque
    (1979, Updating formulae and a pairwise algorithm for computing sample variances, Stanford STAN-CS-79-773). However
    the inputs are cut into batches, the result is that of all of them at once, to rounding; no input is kept.

    A batch norm layer normalises with the running statistics of its own inputs. Once the layers before it were replaced
    these have moved, and are estimated again from some thousand inputs, without labels or gradients (Cherniuk et al.
    2023, arXiv 2308.04595, use 2048 or 4096 images). PyTorch's ``running_var`` is the unbiased variance, ``ddof=1``;
    Flax's has ``ddof=0``. PyTorch's own estimate, training mode with ``momentum=None``, is the average of the variances
    *within* batches, without that *between* the means of batches. Here both count: the variance of all inputs, by
    which a layer in evaluation mode should divide, whatever the batches.

    Parameters
    ----------
    axis : int
        The axis of the channels: 1 for PyTorch's (N, C, ...), -1 for (N, ..., C) as in JAX.

    Examples
    --------
    >>> moments = ChannelMoments()
    >>> moments.update(np.array([[1.0, 10.0], [2.0, 20.0]]))
    >>> moments.update(np.array([[6.0, 60.0]]))
    >>> moments.mean, moments.variance(ddof=1), moments.count
    (array([ 3., 30.]), array([  7., 700.]), 3)
    """

    def __init__(self, axis: int = 1) -> None:
        if isinstance(axis, bool) or not isinstance(axis, int | np.integer):
            raise refuse_type("axis", found=repr(axis), allowed="an integer")
        self._axis = int(axis)
        self._count = 0
        self._mean: NDArray[np.float64] = np.zeros(0)
        self._squares: NDArray[np.float64] = np.zeros(0)  # sums of squared deviations from the mean

    def update(self, x: Array) -> None:
        """Take in the batch ``x``; a batch without elements changes nothing.

        Parameters
        ----------
        x : array, (N, C, ...)
            float16, bfloat16, float32 or float64, of any array library. N and the sizes after C may differ between
            batches.

        Raises
        ------
        ArgumentTypeError
            If ``x`` is no array of these dtypes.
        ArgumentError
            If it has no axis of channels, or another number of them than before, or holds a NaN, an infinity, or
            numbers whose squares pass float64's range. What was gathered before it stays.
        """
        _check_numbers(x)
        shape = tuple(x.shape)
        if len(shape) < 2 or not -len(shape) <= self._axis < len(shape):
            found = f"shape {shape} with channels on axis {self._axis}"
            raise refuse("x", found=found, allowed="two or more axes, one of them that of the channels")
        channels = shape[self._axis]
        if self._count and channels != len(self._mean):
            found = f"{channels} channels in shape {shape}"
            raise refuse("x", found=found, allowed=f"{len(self._mean)} on axis {self._axis}, as before")
        if not math.prod(shape):
            return
        host = to_host(x)
        by_channel = np.moveaxis(host, self._axis, 0)
        step = max(1, _BLOCK // (math.prod(shape) // by_channel.shape[1]))
        count, mean, squares = self._count, self._mean, self._squares
        for start in range(0, by_channel.shape[1], step):
            n, block_mean, block_squares = _moments(by_channel[:, start : start + step])
            if count:
                total = count + n
                with np.errstate(over="ignore", invalid="ignore"):
                    difference = block_mean - mean
                    block_mean = mean + difference * (n / total)
                    block_squares = squares + block_squares + difference**2 * (count / total * n)
            if not np.isfinite(block_squares).all():
                raise _too_large(host)
            count, mean, squares = count + n, block_mean, block_squares
        self._count, self._mean, self._squares = count, mean, squares

    @property
    def count(self) -> int:
        """Numbers per channel so far."""
        return self._count

    @property
    def mean(self) -> NDArray[np.float64]:
        """Mean of each channel, (C,) float64.

        Raises
        ------
        ArgumentError
            Before the first input.
        """
        self._check_count("mean", 1)
        return self._mean.copy()

    def variance(self, ddof: int = 0) -> NDArray[np.float64]:
        """Variance of each channel, (C,) float64: squared deviations over ``count - ddof``.

        Parameters
        ----------
        ddof : int
            0 for the variance of the inputs; 1 for the unbiased estimate, which PyTorch's ``running_var`` is.

        Raises
        ------
        ArgumentError
            Unless more than ``ddof`` numbers per channel were seen.
        """
        if isinstance(ddof, bool) or not isinstance(ddof, int | np.integer):
            raise refuse_type("ddof", found=repr(ddof), allowed="an integer")
        if ddof < 0:
            raise refuse("ddof", found=ddof, allowed="an integer of at least 0")
        self._check_count("variance", int(ddof) + 1)
        return self._squares / (self._count - int(ddof))

    def _check_count(self, what: str, least: int) -> None:
        if self._count < least:
            found, allowed = f"{self._count} inputs so far", f"{least} or more per channel"
            raise refuse(what, found=found, allowed=allowed, remedy="call update first")

    def __repr__(self) -> str:
        return f"ChannelMoments(axis={self._axis}): {len(self._mean)} channels, {self._count:,} numbers each"


class SecondMoment:
    """``gram = mean of x x^T`` over all inputs x (n,) of a layer so far: what the methods take as ``gram=``.

    Sums are in float64, so that how the inputs are cut into batches does not matter beyond rounding; no input is kept.
    Of a convolution an input is a patch, in the order of ``weight.reshape(O, -1)``.

    Examples
    --------
    >>> moment = SecondMoment()
    >>> moment.update(np.array([[1.0, 2.0], [3.0, 0.0]]))
    >>> moment.update(np.array([1.0, 1.0]))
    >>> moment.count, 3 * moment.gram
    (3, array([[11.,  3.],
           [ 3.,  5.]]))
    """

    def __init__(self) -> None:
        self._count = 0
        self._sum: NDArray[np.float64] = np.zeros((0, 0))

    def update(self, x: Array) -> None:
        """Take in some inputs; none change nothing.

        Parameters
        ----------
        x : array, (..., n)
            float16, bfloat16, float32 or float64, of any array library.

        Raises
        ------
        ArgumentTypeError
            If ``x`` is no array of these dtypes.
        ArgumentError
            If it has no axis, or another last one than before, or is not finite. What was gathered before it stays.
        """
        _check_numbers(x)
        shape = tuple(x.shape)
        if shape and not math.prod(shape):
            return
        if not shape or (self._count and shape[-1] != len(self._sum)):
            allowed = f"inputs (..., {len(self._sum)}), as before" if self._count else "inputs (..., n)"
            raise refuse("x", found=f"shape {shape}", allowed=allowed)
        rows = to_host(x).reshape(-1, shape[-1])
        total = np.zeros((shape[-1], shape[-1])) if not self._count else self._sum.copy()
        step = max(shape[-1], _BLOCK // shape[-1])  # of fewer rows the sum itself would take longer than their products
        with np.errstate(over="ignore", invalid="ignore"):
            for start in range(0, len(rows), step):
                block = rows[start : start + step].astype(np.float64)
                total += block.T @ block
        if not np.isfinite(total).all():
            raise _too_large(rows)
        self._count, self._sum = self._count + len(rows), total

    @property
    def count(self) -> int:
        """Inputs so far."""
        return self._count

    @property
    def gram(self) -> NDArray[np.float64]:
        """The mean of ``x x^T``, (n, n) float64.

        Raises
        ------
        ArgumentError
            Before the first input.
        """
        if not self._count:
            raise refuse("gram", found="no inputs so far", allowed="one or more", remedy="call update first")
        return self._sum / self._count

    def __repr__(self) -> str:
        return f"SecondMoment(): {self._count:,} inputs of {len(self._sum)} numbers"


def _check_numbers(x: Array) -> None:
    if not is_array(x):
        raise refuse_type("x", found=type(x).__name__, allowed="an array", remedy="wrap it with numpy.asarray")
    if dtype_name(x) not in FLOATS:
        remedy = "cast it first, for example x.astype('float32')"
        raise refuse_type("x", found=f"dtype {dtype_name(x)}", allowed=", ".join(FLOATS), remedy=remedy)


def _too_large(x: NDArray[Any]) -> FactorqError:
    """Why sums over finite numbers were not finite; raises at once if the numbers are not."""
    check_finite(x, "x")
    found = f"magnitudes up to {np.abs(x).max():.3g}"
    return refuse("x", found=found, allowed="numbers whose squares add up in float64", remedy="scale them")


def _moments(block: NDArray[Any]) -> tuple[int, NDArray[np.float64], NDArray[np.float64]]:
    """Count, means and sums of squared deviations along the other axes of ``block`` (C, ...)."""
    values = block.astype(np.float64).reshape(len(block), -1)
    with np.errstate(over="ignore", invalid="ignore"):
        mean = values.mean(axis=1)
        values -= mean[:, None]  # first: the difference of two sums of squares would cancel
        return values.shape[1], mean, np.einsum("cn,cn->c", values, values)
