"""The safetensors header: its length, its judge, and the tensors that it places without overlap or hole."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import ml_dtypes
import numpy as np

from ..errors import ArtifactError
from .words import damaged, line, quote

DTYPES: Final[dict[str, np.dtype[Any]]] = {
    "BOOL": np.dtype(np.bool_),
    "U8": np.dtype(np.uint8),
    "I8": np.dtype(np.int8),
    "U16": np.dtype("<u2"),
    "I16": np.dtype("<i2"),
    "U32": np.dtype("<u4"),
    "I32": np.dtype("<i4"),
    "U64": np.dtype("<u8"),
    "I64": np.dtype("<i8"),
    "F16": np.dtype("<f2"),
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
    "C64": np.dtype("<c8"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "F8_E8M0": np.dtype(ml_dtypes.float8_e8m0fnu),
    "F8_E4M3FNUZ": np.dtype(ml_dtypes.float8_e4m3fnuz),
    "F8_E5M2FNUZ": np.dtype(ml_dtypes.float8_e5m2fnuz),
}
"""The array dtype of each safetensors dtype that fills whole bytes."""

BITS: Final = {name: 8 * dtype.itemsize for name, dtype in DTYPES.items()} | {"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6}
"""Bits per element of each safetensors dtype."""

_HEADER_LIMIT = 100_000_000  # bytes; safetensors' own
_FOREIGN = (
    (
        b"PK",
        "looks like a PyTorch pickle (or another zip archive); load it with torch and save it with safetensors",
    ),
    (b"\x80", "looks like a PyTorch pickle; load it with torch and save it with safetensors"),
    (b"version https://git-lfs", "is a Git LFS pointer, not the file itself; fetch it with `git lfs pull`"),
    (b"GGUF", "is a GGUF file; convert it to safetensors"),
    (b"\x89HDF", "is an HDF5 file; load it with h5py and save it with safetensors"),
    (b"\x93NUMPY", "is a .npy file; load it with numpy.load and save it with safetensors"),
)


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor of a file: its safetensors dtype, its shape, and its bytes ``start:stop`` from the file's start."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int

    @property
    def nbytes(self) -> int:
        """Stored bytes."""
        return self.stop - self.start


def header_length(start: bytes, size: int) -> int:
    """Bytes of the JSON header of a file of ``size`` bytes that begins with ``start``; foreign files are named."""
    length = int.from_bytes(start[:8], "little")
    if start[8:9] == b"{" and length <= min(size - 8, _HEADER_LIMIT):
        return length
    for magic, advice in _FOREIGN:  # only now: a sound file may begin with a length that reads like one of them
        if start.startswith(magic):
            raise ArtifactError(advice)
    if size < 10:
        raise damaged(f"it has {size} bytes, too few for a safetensors file")
    if start[8:9] != b"{":
        raise ArtifactError("not a safetensors file: found no JSON header; pass a .safetensors file")
    if length > size - 8:
        raise damaged(f"truncated: its header claims {length} bytes, the file has {size}")
    raise damaged(f"its header has {length} bytes, allowed are {_HEADER_LIMIT}")


def judge(path: Path) -> None:
    """Let safetensors' own validator judge the header: overlaps, holes, wrong sizes, duplicate fields."""
    from safetensors import SafetensorError, safe_open  # here: checks of paths and text files need no safetensors

    try:
        with safe_open(path, framework="numpy"):
            pass
    except SafetensorError as error:
        raise damaged(line(error)) from None


def take_metadata(header: dict[str, Any]) -> dict[str, str]:
    """Remove the file's metadata from ``header`` and return it."""
    metadata = header.pop("__metadata__", None)
    if metadata is None:  # absent, or null, which safetensors takes too
        return {}
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise damaged("its metadata is not a table of strings")
    return metadata


def parse_entries(header: dict[str, Any], data: int, size: int) -> dict[str, Entry]:
    """The tensors of ``header``, in the order of their bytes, which fill ``data:size`` without overlap or hole."""
    # The same checks as safetensors', on the bytes that we parsed: the file may have changed between the two looks.
    entries = {name: _entry(name, item, data) for name, item in header.items()}
    ordered = dict(sorted(entries.items(), key=lambda item: (item[1].start, item[1].stop)))
    end = data
    for name, entry in ordered.items():
        if entry.start != end or not end <= entry.stop <= size:
            raise damaged(f"tensor {quote(name)} lies at bytes {entry.start}:{entry.stop}, expected at {end}")
        if entry.dtype in BITS and math.prod(entry.shape) * BITS[entry.dtype] != 8 * entry.nbytes:
            raise damaged(f"tensor {quote(name)} has {entry.nbytes} bytes, other than its dtype and shape need")
        end = entry.stop
    if end != size:
        raise damaged(f"its tensors end at byte {end}, the file at {size}")
    return ordered


def _entry(name: str, item: object, data: int) -> Entry:
    fields = item if isinstance(item, dict) else {}
    dtype, shape, offsets = fields.get("dtype"), _sizes(fields.get("shape")), _sizes(fields.get("data_offsets"))
    if not isinstance(dtype, str) or shape is None or offsets is None or len(offsets) != 2:
        raise damaged(f"tensor {quote(name)} has no proper dtype, shape and data_offsets")
    return Entry(dtype, shape, data + offsets[0], data + offsets[1])


def _sizes(value: object) -> tuple[int, ...] | None:
    if isinstance(value, list) and all(type(size) is int and size >= 0 for size in value):
        return tuple(value)
    return None
