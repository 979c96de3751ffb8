"""Static interleaved rANS: symbols (n,) in ``sum -log2(freq / 2**precision)`` bits and 2 or 16 bytes per block.

A state x in [2**16, 2**32) codes a symbol of frequency f that owns the slots s .. s + f - 1 of 2**precision by
``x -> (x // f) << precision | s + x % f``, after a 16-bit word of it went to the stream if the result would not fit.
Decoding runs backwards: encoders start at the last symbol, so that decoders start at the first one and find the words
in order. Symbol i of a block is coded by state ``i % lanes``; blocks stand alone. A decoder that does not end at the
end of its words in the state where the encoder began has read a corrupted block.

A block is the final states, two words each, high word first, then the words in the order of decoding. With one lane
the encoder begins with the state 1, which saves 2 bytes, and the decoder stops to refill at the end of the words; with
more, where that would be ambiguous, with 2**16.

Duda, "Asymmetric numeral systems", arXiv 1311.2540 (2013); interleaving: Giesen, arXiv 1402.3392 (2014).

Beside the ANS coder of ``constriction`` 0.5.0 with one table of 16 letters per tensor, counted at 32 bytes; codes of a
4-bit grid in groups of 128; bytes and million symbols/s of :func:`pack` and :func:`unpack`, which choose classes, build
tables and split blocks (CPU time, medians of 3, one core, same run). The coder alone encodes 430 and decodes 410.

================  ===========  =============================  =============================
codes             entropy      here                           constriction
================  ===========  =============================  =============================
resnet20          121,567      120,528, encode 5, decode 75   122,300, encode 190, decode 70
VGG layers        736,303      730,775, encode 24, 241        736,560, encode 192, decode 68
stories260K       119,721      117,153, encode 7, decode 59   121,024, encode 189, decode 71
Gauss, 16 Mi      7,673,633    7,678,159, encode 198, 343     7,673,668, encode 195, decode 60
================  ===========  =============================  =============================

Entropy is of each tensor with one table, in bytes. Small tensors spend their time on the choice of classes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import ArtifactError, refuse, refuse_type
from .. import twin
from .reading import Stream, holds, unpack
from .stream import pack

__all__ = ["BLOCK", "Stream", "decode", "encode", "holds", "pack", "unpack"]

BLOCK = 1 << 16
"""Symbols of a block: 16 bytes of states and 4 of the directory are 0.06 % of 4-bit codes."""

MOST_TABLES = 256


def encode(
    symbols: NDArray[Any],
    freqs: NDArray[np.int64],
    precision: int,
    contexts: NDArray[np.uint8] | None = None,
    lanes: int = 4,
    block: int = BLOCK,
) -> tuple[NDArray[np.uint16], NDArray[np.int64]]:
    """Code symbols (n,) by the tables freqs[contexts]: (words, words of each block).

    Parameters
    ----------
    symbols : (n,) array of uint8 or uint16
        Below K, with a frequency above 0 in their context.
    freqs : (C, K) array of int64
        Every row sums to ``2**precision``.
    precision : int
        Bits of a frequency, 8 to 15.
    contexts : (n,) array of uint8, or None
        The table of each symbol, below C; None for the first table throughout.
    lanes : int
        1 or 4 interleaved states: 4 are 2.5 times as fast and cost 11 bytes more per block.
    block : int
        Symbols per block, at least 1.

    Returns
    -------
    words : (k,) array of uint16
    sizes : (ceil(n / block),) array of int64

    Raises
    ------
    ArgumentError, ArgumentTypeError
        If an argument is outside the above.

    Examples
    --------
    >>> import numpy as np
    >>> symbols = (np.arange(4096) % 8 == 0).astype(np.uint8)
    >>> words, sizes = encode(symbols, np.array([[3584, 512]]), 12, lanes=1)
    >>> words.nbytes, sizes.tolist()  # 4096 * H(1/8) / 8 = 278.3
    (280, [140])
    """
    _check(freqs, precision, lanes, block)
    if not isinstance(symbols, np.ndarray) or symbols.dtype not in (np.uint8, np.uint16) or symbols.ndim != 1:
        raise refuse_type("symbols", found=_kind(symbols), allowed="a 1-D array of uint8 or uint16")
    chosen = _contexts(contexts, symbols.size, len(freqs))
    symbols = np.ascontiguousarray(symbols)
    if symbols.size:
        if int(symbols.max()) >= freqs.shape[1]:
            raise refuse("symbols", found=int(symbols.max()), allowed=f"symbols below {freqs.shape[1]}")
        missing = freqs == 0
        if missing.any() and missing[chosen if chosen.size else 0, symbols].any():
            raise refuse("freqs", found="0 for a symbol that occurs", allowed="a frequency of at least 1")
    coded: tuple[NDArray[np.uint16], NDArray[np.int64]]
    coded = twin(__name__, symbols).encode(symbols, chosen, freqs, precision, lanes, block)
    return coded


def decode(
    words: NDArray[np.uint16],
    sizes: NDArray[np.int64],
    size: int,
    freqs: NDArray[np.int64],
    precision: int,
    contexts: NDArray[np.uint8] | None = None,
    lanes: int = 4,
    block: int = BLOCK,
    blocks: tuple[int, int] | None = None,
) -> NDArray[Any]:
    """Read symbols (size,), or those of some blocks: the inverse of :func:`encode`, safe on any words.

    Parameters
    ----------
    words, sizes, freqs, precision, contexts, lanes, block
        As for :func:`encode`; all words and contexts, whatever ``blocks`` is.
    size : int
        Number of symbols in all blocks.
    blocks : (first, stop), optional
        Decode only these blocks, in time proportional to their number.

    Returns
    -------
    (size,) array of uint8 (K <= 256) or uint16
        With ``blocks``, the symbols ``first * block`` to ``stop * block``.

    Raises
    ------
    ArtifactError
        If sizes do not fit, or a block is corrupted.
    ArgumentError, ArgumentTypeError
        If an argument is outside the above.
    """
    _check(freqs, precision, lanes, block)
    chosen = _contexts(contexts, size, len(freqs))
    count = -(-size // block)
    if words.dtype != np.uint16 or words.ndim != 1 or sizes.shape != (count,):
        raise ArtifactError(f"rans: found {sizes.shape} blocks of {_kind(words)}, expected ({count},) of 1-D uint16")
    outside = bool(((sizes < 2 * lanes) | (sizes > block + 2 * lanes)).any())  # before the sum, which could wrap
    if outside or int(sizes.sum()) != words.size:
        raise ArtifactError(f"rans: the sizes of {count} blocks do not add up to {words.size} words")
    first, stop = blocks or (0, count)
    if not 0 <= first <= stop <= count:
        raise refuse("blocks", found=blocks, allowed=f"a range of the {count} blocks")
    part = slice(first * block, min(stop * block, size))
    begin, end = int(sizes[:first].sum()), int(sizes[:stop].sum())
    out = np.empty(max(part.stop - part.start, 0), np.uint8 if freqs.shape[1] <= 256 else np.uint16)
    piece = np.ascontiguousarray(words[begin:end])
    twin(__name__, words).decode(piece, sizes[first:stop], chosen[part], freqs, precision, lanes, block, out)
    return out


def _check(freqs: NDArray[np.int64], precision: int, lanes: int, block: int) -> None:
    if not 8 <= precision <= 15:
        raise refuse("precision", found=precision, allowed="8 to 15 bits")
    if not isinstance(freqs, np.ndarray) or freqs.dtype != np.int64 or freqs.ndim != 2:
        raise refuse_type("freqs", found=_kind(freqs), allowed="a 2-D array of int64")
    if not 1 <= len(freqs) <= MOST_TABLES or not 1 <= freqs.shape[1] <= 1 << 16:
        raise refuse("freqs", found=f"shape {freqs.shape}", allowed=f"1 to {MOST_TABLES} tables of 1 to 65536 symbols")
    if int(freqs.min()) < 0 or (freqs.sum(axis=1) != 1 << precision).any():
        raise refuse("freqs", found="other sums", allowed=f"rows of numbers >= 0 that sum to {1 << precision}")
    if lanes not in (1, 4):
        raise refuse("lanes", found=lanes, allowed="1 or 4")
    if block < 1:
        raise refuse("block", found=block, allowed="at least 1 symbol")


def _contexts(contexts: NDArray[np.uint8] | None, size: int, tables: int) -> NDArray[np.uint8]:
    if contexts is None:
        return np.empty(0, np.uint8)
    if contexts.dtype != np.uint8 or contexts.shape != (size,):
        raise refuse("contexts", found=_kind(contexts), allowed=f"uint8 of shape ({size},)")
    if contexts.size and int(contexts.max()) >= tables:
        raise refuse("contexts", found=int(contexts.max()), allowed=f"numbers below the {tables} tables")
    return np.ascontiguousarray(contexts)


def _kind(x: Any) -> str:
    return f"{x.dtype} of shape {x.shape}" if isinstance(x, np.ndarray) else type(x).__name__
