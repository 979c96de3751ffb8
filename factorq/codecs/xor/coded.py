"""Numbers under a mask, bit-plane by bit-plane, as a stream: ``encode`` and what it returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...arrays import is_array, to_host
from ...errors import refuse, refuse_type, within
from .codes import Banded, Code
from .contents import CONTINUED, DTYPES, ENTROPY, Contents
from .order import order
from .parts import Reader

Bytes = NDArray[np.uint8]

_WORTH = 1.01  # shuffled positions, which cannot be read in parts, are worth so much
_UNEVEN = 3, 2  # a ratio: so many times the variance of a random mask


@dataclass(frozen=True, eq=False, repr=False)
class Coded:
    """Numbers at the positions of a mask as the stream of an XOR code: what :func:`encode` returns.

    Parameters
    ----------
    data : NDArray of uint8, (nbytes,)
        The stream. It does not hold the mask, which is stored once for everything that it masks (codec ``Mask``).
    care : NDArray of bool, any shape
        The mask: True where a number matters. It must be the one of :func:`encode`: another of the same size and number
        of positions gives other numbers.

    Raises
    ------
    ArtifactError
        If the stream is truncated or corrupted, or belongs to a mask of another size or number of positions.
    """

    data: Bytes
    care: NDArray[np.bool_]

    def __post_init__(self) -> None:
        data, care = self.data, self.care
        if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 1:
            found = f"{data.dtype} of shape {data.shape}" if isinstance(data, np.ndarray) else type(data).__name__
            remedy = "numpy.frombuffer(data, numpy.uint8) makes one of bytes"
            raise refuse_type("data", found=found, allowed="a 1-D NumPy array of uint8", remedy=remedy)
        kept = {"data": np.array(data, order="C"), "care": np.array(_mask(care), order="C")}
        for name, own in kept.items():  # the caller's may change
            own.flags.writeable = False
            object.__setattr__(self, name, own)
        object.__setattr__(self, "_contents", Contents.read(Reader(self.data), self.care))

    def __reduce__(self) -> tuple[type[Coded], tuple[Bytes, NDArray[np.bool_]]]:
        return Coded, (self.data, self.care)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the numbers."""
        return self._read.dtype

    @property
    def nbytes(self) -> int:
        """Stored bytes of the numbers: stream, patches, everything but the mask."""
        return self.data.nbytes

    @property
    def bits(self) -> int:
        """Bits of a number, each a plane."""
        return len(self._read.tags)

    @property
    def efficiency(self) -> float:
        """Share of the bits that matter, in XOR planes, that need no patch; 1 if there are none."""
        total = self._read.count * len(self._read.patches)
        return 1.0 - sum(ranks.size for ranks in self._read.patches) / total if total else 1.0

    @property
    def patches(self) -> NDArray[np.int64]:
        """Positions with a patch in any plane, as indices into the flattened mask, ascending: (k,)."""
        ranks = np.unique(np.concatenate([np.zeros(0, np.int64), *self._read.patches]))
        coded = np.flatnonzero(self._read.placed)
        return np.sort(self._read.order[coded[ranks]] if self._read.order is not None else coded[ranks])

    @property
    def entropy_coded(self) -> tuple[int, ...]:
        """The planes that are entropy-coded, 0 for the lowest bit."""
        return tuple(j for j, tag in enumerate(self._read.tags) if tag in (ENTROPY, CONTINUED))

    def decode(self) -> NDArray[Any]:
        """The numbers, 0 where they do not matter: the shape of the mask, the dtype that was encoded."""
        return self._read.everywhere().view(self._read.dtype).reshape(self.care.shape)

    def kept(self) -> NDArray[Any]:
        """The numbers that matter, in C order: (count,)."""
        return self._read.kept().view(self._read.dtype)

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Numbers ``start`` to ``stop`` of the flattened array, (stop - start,), without decoding the rest.

        What is decoded are the whole steps of the range, of ``Slices`` the whole tiles, 512 ``n_out`` positions each;
        and the mask is counted up to ``start``, for patches and entropy-coded planes.

        Raises
        ------
        ArgumentError
            If that is no range of positions, or the positions are permuted.
        """
        size = self.care.size
        whole = all(isinstance(i, int | np.integer) and not isinstance(i, bool) for i in (start, stop))
        if not (whole and 0 <= start <= stop <= size):
            raise refuse("start, stop", found=f"{start}, {stop}", allowed=f"a range of the {size} positions")
        if self._read.order is not None:
            raise refuse(
                "start, stop", found="permuted positions", allowed="encode(..., permute=False) for reading parts"
            )
        return self._read.part(int(start), int(stop)).view(self._read.dtype)

    def to_bytes(self) -> bytes:
        """The stream as bytes; ``Coded(numpy.frombuffer(.., "uint8"), care)`` is the same object again."""
        return self.data.tobytes()

    @property
    def _read(self) -> Contents:
        return self._contents  # type: ignore[attr-defined, no-any-return]

    def __repr__(self) -> str:
        read = self._read
        planes = f"{len(read.patches)} of {len(read.tags)} planes"
        patched = sum(ranks.size for ranks in read.patches)
        numbers = f"{read.count:,} of {read.size:,} numbers"
        return f"Coded({planes} by XOR, {numbers}, {patched:,} patches, {self.nbytes:,} bytes)"


def encode(
    values: Any,
    care: Any,
    *,
    bits: int | None = None,
    code: Code | None = None,
    seed: int = 0,
    permute: bool | None = None,
) -> Coded:
    """Code the numbers where ``care`` is True, without loss; those elsewhere do not matter and come back as 0.

    Each of ``bits`` bit-planes becomes the input of an XOR network whose output agrees with the plane at the positions
    that matter; where it does not, a patch is stored. All planes share one network and one elimination. Planes
    with more ones than zeros are complemented. Planes that are far from fair coins, and the exponents of floating
    numbers, which no linear code can shorten, are entropy-coded instead where that is smaller.

    Parameters
    ----------
    values : array of any shape; integers, booleans or floating numbers
        Non-negative integers are coded as they are, others in two's complement, floating numbers as their bits.
    care : array of bool, of the shape of ``values``
        Where a number matters.
    bits : int or None
        Planes; None for as many as the numbers take. Floating numbers take all of theirs.
    code : Slices, Sequential or Banded, optional
        The network; ``Banded()``, the smallest, if None.
    seed : int
        Of the network and the permutation, 0 to 2**64 - 1.
    permute : bool or None
        Whether positions are shuffled first, pseudo-randomly: where numbers that matter come in clusters, slices
        are then as even as those of a random mask. Costs no bits, but parts cannot be read alone. None tries it for
        masks with clusters, and does it where that is at least 1 % smaller.

    Returns
    -------
    Coded
        Its ``nbytes`` is never much below one bit per plane and number that matters, unless planes are far from fair.

    Raises
    ------
    ArgumentError, ArgumentTypeError
        If an argument is outside the above, or a number takes more than ``bits`` bits.

    Examples
    --------
    >>> import factorq as fq
    >>> values = np.array([[3, 0, 1], [0, 2, 3]], np.uint8)
    >>> coded = fq.xor.encode(values, values > 0, bits=2)
    >>> coded.decode(), coded.efficiency
    (array([[3, 0, 1],
           [0, 2, 3]], dtype=uint8), 1.0)
    """
    numbers, mask = _numbers(values), _mask(care)
    if numbers.shape != mask.shape:
        raise refuse("care", found=f"shape {mask.shape}", allowed=f"that of values, {numbers.shape}")
    code = Banded() if code is None else code
    if not isinstance(code, Code):
        raise refuse_type("code", found=repr(code), allowed="Slices(...), Sequential(...), Banded(...) or None")
    if type(seed) is not int or not 0 <= seed < 1 << 64:
        raise refuse("seed", found=repr(seed), allowed="an integer, 0 to 2**64 - 1")
    if permute is not None and not isinstance(permute, bool | np.bool_):
        raise refuse_type("permute", found=repr(permute), allowed="True, False or None")
    flat = np.ascontiguousarray(mask).reshape(-1)
    kept = np.ascontiguousarray(numbers).reshape(-1)[np.flatnonzero(flat)]  # half the time of a mask as index
    return of_kept(kept, mask, bits=bits, code=code, seed=seed, permute=permute)


def of_kept(
    kept: NDArray[Any],
    mask: NDArray[np.bool_],
    *,
    bits: int | None,
    code: Code,
    seed: int = 0,
    permute: bool | None = None,
) -> Coded:
    """:func:`encode` of the numbers that matter alone, (count,) in C order."""
    flat = np.ascontiguousarray(mask).reshape(-1)
    planes, signed = _planes(kept, bits)
    words = _bits_of(kept).astype(np.uint64) & np.uint64((1 << planes) - 1)

    def written(shuffled: bool) -> Bytes:
        contents = Contents(flat, kept.dtype, signed, order(flat.size, seed) if shuffled else None)
        return contents.written(words, planes, code, seed)

    data = written(bool(permute))
    if permute is None and _clustered(*code.crowds(flat)):
        other = written(True)
        data = other if _WORTH * other.nbytes < data.nbytes else data
    return Coded(data, mask)


def _clustered(counts: NDArray[np.int64], size: int) -> bool:
    """Whether counts among ``size`` positions each vary far more than those of a random mask would.

    In integers, since it decides what is written: the variance is over that of the binomial distribution.
    """
    total, squares = int(counts.sum()), int((counts * counts).sum())
    spread, expected = counts.size * squares - total * total, total * (counts.size * size - total)
    return _UNEVEN[1] * size * spread > _UNEVEN[0] * expected


def _numbers(values: Any) -> NDArray[Any]:
    if not is_array(values):
        raise refuse_type(
            "values", found=type(values).__name__, allowed="an array", remedy="wrap it with numpy.asarray"
        )
    with within("values"):
        host = to_host(values)
    native = host.dtype.newbyteorder("=")
    if native not in DTYPES:
        raise refuse_type("values", found=f"dtype {host.dtype}", allowed=", ".join(map(str, DTYPES)))
    return host.astype(native, copy=False)


def _mask(care: Any) -> NDArray[np.bool_]:
    with within("care"):
        host = to_host(care) if is_array(care) else None
    if host is None or host.dtype != np.bool_:
        found = type(care).__name__ if host is None else f"dtype {host.dtype}"
        raise refuse_type("care", found=found, allowed="an array of bool", remedy="pass values != 0, for example")
    return host


def _planes(kept: NDArray[Any], bits: int | None) -> tuple[int, bool]:
    """Number of planes, and whether the highest is a sign."""
    full = 1 if kept.dtype == np.bool_ else 8 * kept.dtype.itemsize
    if bits is not None and (type(bits) is not int or not 1 <= bits <= full):
        raise refuse(
            "bits", found=repr(bits), allowed=f"an integer from 1 to {full}, the bits of {kept.dtype}, or None"
        )
    if kept.dtype.kind not in "biu":
        if bits not in (None, full):
            raise refuse("bits", found=bits, allowed=f"{full}, all bits of {kept.dtype}, or None")
        return full, False
    least, most = (int(kept.min()), int(kept.max())) if kept.size else (0, 0)
    signed = least < 0
    needed = max(max(most, 0).bit_length(), (least + 1).bit_length() if signed else 0) + signed
    if bits is not None and needed > bits:
        what = f"values from {least} to {most}"
        raise refuse("bits", found=f"{bits} with {what}", allowed=f"at least {needed}, or None")
    return (bits or max(needed, 1)), signed


def _bits_of(x: NDArray[Any]) -> NDArray[Any]:
    return x.view(f"uint{8 * x.dtype.itemsize}")
