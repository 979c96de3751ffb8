"""stream = arithmetic code of mask (m, n), whose density is learnt by row, column, kernel and neighbourhood.

**Model.** The logit of an entry's probability to be one is a sum,

    x[i, j] = level + row[i] + column[j] + kernel[i, j // group] + near[j % group, left, above],

whose terms are learnt while coding, in C order: an entry b of probability p moves each of its terms by its score over
the information so far, ``(b - p) / (A + sum p (1 - p))``, a damped Newton step on the likelihood. A column learns from
the rows above; a row, and the ``group`` entries of a convolution kernel (0 for a matrix without kernels), from the
entries at the left; ``near`` has a term for every pattern of the entry above and three at the left. The level follows
the mean of the rows. A is 1 over the variance of the term from row to row (and so on), which the encoder estimates from
counts and tells in the first 3 bytes; where counts vary no more than those of independent entries, a term is left out.

**Coding.** A binary arithmetic coder with probabilities of 16 bits, an interval of 64 and big-endian words of 32, into
which carries go; after the words come the fewest bytes whose continuation by zeros lies in the last interval.

Bytes as a share of those of the entropy H(S) of each layer's density, of networks pruned by magnitude to the sparsity S
layer by layer, vectors left out ("gaps": the smaller of bitmap and :mod:`factorq.kernels.gaps`; "classes": frequency
tables for classes of rows or columns, :func:`factorq.kernels.rans.pack`; "here": everything that is stored):

============  =====  =======  =====  =====  =======  =====  =====  =======  =====
sparsity        0.7                    0.9                   0.95
------------  ---------------------  ---------------------  ---------------------
network        gaps  classes   here   gaps  classes   here   gaps  classes   here
============  =====  =======  =====  =====  =======  =====  =====  =======  =====
resnet20      1.013    0.983  0.928  0.995    0.988  0.913  0.993    0.994  0.910
resnet56      1.016    0.961  0.902  0.993    0.960  0.882  0.991    0.967  0.875
LeNet-5       1.009    1.002  0.997  1.006    0.982  0.961  1.002    0.936  0.895
LeNet-300     1.020    0.960  0.935  0.984    0.878  0.807  0.981    0.889  0.791
LSTM          1.012    0.903  0.886  1.003    0.878  0.853  1.001    0.891  0.858
GRU           1.009    0.990  0.980  1.007    0.977  0.963  1.005    0.974  0.955
stories260K   1.010    0.953  0.924  1.004    0.915  0.871  1.001    0.909  0.855
VGG layers    1.014    0.984  0.825  0.985    0.976  0.761  0.982    0.977  0.743
============  =====  =======  =====  =====  =======  =====  =====  =======  =====

With one threshold for a whole network: 0.725 to 0.996, classes 0.837 to 1.006. Independent entries take 1.0004 H(S) at
10**6 and 1.0009 at 2 * 10**5. On these masks, rows and columns alone give up to 3 % less than classes of them, as much
as a ridge-regularized fit of both in hindsight, its parameters paid for; kernels give 1 to 2 % more, 10 to 20 on VGG;
neighbours 1 %, 5 on pixels (LeNet-300). Learning how far to trust each term would give 0.1 %.

Damped Newton steps: as in the scale model of :mod:`factorq.kernels.mixing`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ...arrays import Array
from ...errors import ArtifactError, refuse, refuse_type
from .. import checks, twin
from .tables import GROUP, MOST_SETTING, Settings, settings

__all__ = ["GROUP", "bitmap", "decode", "encode", "holds"]

_HEADER = 3
_MOST = 1 << 48


def encode(mask: Array, group: int = 0) -> NDArray[np.uint8]:
    """Write mask (m, n) -> stream (k,).

    Parameters
    ----------
    mask : array (m, n), bool
    group : int
        Neighbours in a row that belong together, such as the kh * kw entries of a convolution kernel (out, in * kh *
        kw): 2 to GROUP (64), a divisor of n; or 0.

    Returns
    -------
    array (k,), uint8, on the host

    Raises
    ------
    ArgumentTypeError, ArgumentError
        If ``mask`` is no 2-D boolean array, or ``group`` is outside the above.

    Examples
    --------
    >>> import numpy as np
    >>> mask = np.arange(64)[:, None] * np.arange(64) % 101 < 3
    >>> stream = encode(mask)
    >>> stream.size < mask.size // 8, np.array_equal(decode(stream, mask.shape), mask)
    (True, True)
    """
    host = checks.host_array("mask", mask, "bool", 2)
    _check_group(group, host.shape[1])
    chosen = settings(host, int(group))
    words, low, width = twin(__name__, host).encode(host.reshape(-1).view(np.uint8), host.shape, int(group), chosen)
    header = bytes([chosen.level, 16 * chosen.rows + chosen.columns, chosen.kernels])
    return np.frombuffer(header + _written(words, low, width), np.uint8).copy()


def decode(stream: Array, shape: tuple[int, int], group: int = 0) -> NDArray[np.bool_]:
    """Read stream (k,) -> mask (m, n): the inverse of :func:`encode`, safe on any stream.

    A stream that is a few bytes off in length is refused; one with other bits gives another mask.

    Parameters
    ----------
    stream : array (k,), uint8
    shape : (m, n)
    group : int
        As for :func:`encode`.

    Returns
    -------
    array (m, n), bool, on the host

    Raises
    ------
    ArtifactError
        If the stream cannot hold that many entries, has settings that no encoder writes, or does not end
        with the mask.
    ArgumentTypeError, ArgumentError
        If ``stream`` is no uint8 vector, ``shape`` no pair of sizes, or ``group`` outside what is allowed.
    """
    bits = bitmap(stream, shape, group)
    return np.unpackbits(bits, count=shape[0] * shape[1], bitorder="little").view(np.bool_).reshape(shape)


def bitmap(stream: Array, shape: tuple[int, int], group: int = 0) -> NDArray[np.uint8]:
    """The same as :func:`decode` with one bit per entry in C order, lowest bit first: (ceil(m n / 8),)."""
    host = checks.host_array("stream", stream, "uint8", 1)
    sizes = isinstance(shape, tuple) and len(shape) == 2 and all(type(n) is int and 0 <= n < _MOST for n in shape)
    if not sizes:
        raise refuse_type("shape", found=repr(shape), allowed="a pair of integers of at least 0")
    _check_group(group, shape[1])
    m, n = shape
    if not holds(host, m * n):
        raise ArtifactError(f"density stream: {host.size} bytes cannot hold {m} x {n} entries")
    chosen = Settings(int(host[0]), int(host[1]) >> 4, int(host[1]) & 15, int(host[2]))
    if max(chosen.rows, chosen.columns, chosen.kernels) > MOST_SETTING or (chosen.kernels and not group):
        raise ArtifactError(f"density stream: found {chosen}, allowed are settings of factors up to {MOST_SETTING}")
    body = host[_HEADER:]
    found: tuple[NDArray[np.uint8], int] = twin(__name__, host).bitmap(body, (m, n), int(group), chosen)
    bits, used = found
    ending = len(body) - 4 * (used - 2)  # two words are read ahead
    if not 0 <= ending <= 8 or (ending and body[-1] == 0):
        raise ArtifactError(
            f"density stream: found {host.size} bytes, the mask ends after {4 * used - 5} to {4 * used + 3}"
        )
    return bits


def holds(stream: NDArray[np.uint8], size: int) -> bool:
    """Whether a stream of that length can hold ``size`` entries, each of which takes at least 2**-15.5 bit."""
    return stream.size >= _HEADER and 0 <= size <= (stream.size + 16) << 19


def _written(words: NDArray[np.uint32], low: int, width: int) -> bytes:
    """The words and at most 8 bytes more: of all numbers in the interval, the one with the most zeros at its end."""
    step = 1 << 64
    while -(-low // step) * step >= low + width:
        step >>= 1
    number = (int.from_bytes(words.astype(">u4").tobytes(), "big") << 64) + -(-low // step) * step
    written = number.to_bytes(4 * words.size + 8, "big")
    return written[:-8] + written[-8:].rstrip(b"\0")


def _check_group(group: int, n: int) -> None:
    if isinstance(group, bool) or not isinstance(group, int | np.integer):
        raise refuse_type("group", found=repr(group), allowed="an integer")
    if group != 0 and not (2 <= group <= GROUP and n % group == 0):
        raise refuse("group", found=group, allowed=f"0, or 2 to {GROUP} and a divisor of {n} columns")
