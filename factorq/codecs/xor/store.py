"""What a codec with a mask stores, its codes XOR-coded: the same array, bit for bit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, cast

import numpy as np
from numpy.typing import NDArray

from ...arrays import FLOATS
from ...kernels import bits as bits_kernel
from ..base import BUFFER_DTYPES, Encoded, Masked, Shadow, Wrapped, untouched
from .coded import Coded, of_kept
from .codes import Banded
from .shadow import products

_WORTH = 17 / 16  # an XOR stream of more than this share of the packed bytes is not taken
_PREFIX = "inner."

Part = tuple[str, str, int]
"""A coded buffer: its name, its dtype, and the bits of its codes."""


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class Xor(Wrapped):
    """The array of a codec with a mask, the codes of the kept entries as streams of :mod:`factorq.codecs.xor`.

    The mask, scales and whatever else belongs to the kept entries stay as they are; :func:`xored` stores the mask in
    the fewest bytes of all ways, often one that is decoded bit after bit.

    Parameters
    ----------
    coded : tuple
        The coded buffers, each as ``(name, dtype, bits)``.
    inner, parts
        As in ``Wrapped``.

    Examples
    --------
    >>> from factorq.codecs import Grid, Mask
    >>> x = np.random.default_rng(0).standard_normal((200, 1000)).astype(np.float32)
    >>> keep = np.abs(x) > 1.65
    >>> m = Mask.encode(keep, Grid.encode(x[keep], bits=1, group=None, axis=None, zero=0.5))
    >>> y = xored(m)
    >>> bool((y.decode() == m.decode()).all()), m.inner.nbytes, y.buffers()["inner.codes"].nbytes
    (True, 2474, 2524)
    """

    id: ClassVar[str] = "xor"
    coded: tuple[Part, ...]

    @classmethod
    def encode(cls, encoded: Encoded) -> Xor:
        """What ``encoded``, a codec with a mask, stores."""
        masked = cast(Masked, encoded)
        care, parts, coded = masked.mask(), masked.buffers(), []
        for name, (codes, bits) in _codes(masked).items():
            stream = of_kept(codes, care, bits=bits, code=Banded()).data
            if stream.nbytes <= _WORTH * parts[name].nbytes:
                coded.append((name, str(parts[name].dtype), bits))
                parts[name] = stream
        return cls(shape=masked.shape, dtype=masked.dtype, inner=masked.config(), coded=tuple(coded), parts=parts)

    @staticmethod
    def bound(nbytes: int) -> int:
        """No codec of so many bytes becomes larger than this."""
        return int(_WORTH * nbytes)

    def blanks(self) -> dict[str, NDArray[Any]]:
        count = int(np.prod(self._inner_shape, dtype=object))
        made = {}
        for part in self.coded:
            self.require(_sound(part), f"coded buffer {part!r} is malformed")
            name, dtype, bits = part
            size = bits_kernel.packed_size(count, bits) if dtype == "uint8" else count
            made[name] = untouched((size,), BUFFER_DTYPES[dtype])
        return made

    @property
    def _inner_shape(self) -> tuple[int, ...]:
        inner = self.inner.get("inner")
        shape = tuple(inner.get("shape", ())) if isinstance(inner, dict) else ()
        self.require(len(shape) == 1 and type(shape[0]) is int and 0 <= shape[0] <= self.size, "no kept entries inside")
        return shape

    def restored(self) -> Encoded:
        return self._opened()[0]

    def decode(self) -> NDArray[Any]:
        whole, care = self._opened()  # the mask, which can take most of the time, is decoded once
        out = np.zeros(self.shape, self.dtype)
        out[care] = whole.inner.decode()
        return out

    def _opened(self) -> tuple[Masked, NDArray[np.bool_]]:
        blank = self.rebuilt(self.blanks())
        self.require(isinstance(blank, Masked), f"{blank.id} has no mask")
        care = cast(Masked, blank).mask()
        decoded = {}
        for name, dtype, bits in self.coded:
            read = Coded(self.parts[name], care)
            wanted = np.dtype(np.uint8 if bits <= 8 else np.uint16) if dtype == "uint8" else BUFFER_DTYPES[dtype]
            fits = read.bits == bits and read.dtype == wanted
            self.require(
                fits, f"{read.bits} planes of {read.dtype} in the stream of {name}, expected {bits} of {wanted}"
            )
            kept = read.kept()
            decoded[name] = bits_kernel.pack(kept, bits) if dtype == "uint8" else kept.view(BUFFER_DTYPES[dtype])
        return cast(Masked, self.rebuilt(decoded)), care

    def shadow(self, reselect: bool = False) -> Shadow:
        return products(self) or super().shadow(reselect)

    def summary(self) -> str:
        return f"{super().summary()}, {self.inner['id']}, XOR-coded {' and '.join(p[0] for p in self.coded)}"


def xored(encoded: Encoded) -> Encoded:
    """``encoded`` with XOR-coded codes if it has a mask; else, or where they are few, ``encoded`` itself.

    Parameters
    ----------
    encoded : Encoded
        Any codec.

    Returns
    -------
    Encoded
        Its array is bit for bit that of ``encoded``. Codes whose stream would take a sixteenth more than packed ones,
        as those of small arrays do for their header, stay packed, with the mask in the fewest bytes.

    Raises
    ------
    ArtifactError
        If the mask of ``encoded`` is corrupted.
    """
    if not isinstance(encoded, Masked) or not encoded.inner.size:
        return encoded
    smallest = encoded.smallest()
    found = Xor.encode(smallest)
    return found if found.coded else smallest


def _codes(masked: Masked) -> dict[str, tuple[NDArray[Any], int]]:
    """By buffer, the codes of all kept entries and their bits."""
    count, packed, found = masked.inner.size, masked.inner.packed(), {}
    for name, array in masked.inner.buffers().items():
        if name in packed and packed[name].size == count:
            layout = packed[name]
            found[_PREFIX + name] = bits_kernel.unpack(array, layout.bits, count), layout.bits
        elif not packed and str(array.dtype) in FLOATS and array.shape == (count,):
            found[_PREFIX + name] = array, 8 * array.dtype.itemsize
    return found


def _sound(part: Any) -> bool:
    match part:
        case (str(), "uint8", int(bits)):
            return 1 <= bits <= 16
        case (str(), str(dtype), int(bits)):
            return dtype in FLOATS and bits == 8 * FLOATS[dtype].itemsize
    return False
