"""The record in the metadata: one JSON string, sealed with a checksum per buffer and one of its own."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..errors import ArtifactError, refuse
from .header import Entry
from .jsontext import canonical, dump
from .words import damaged, quote

FORMAT_VERSION: Final = 1
KEY: Final = "factorq"
RESERVED: Final = frozenset({"format_version", "buffers", "crc32"})

Bytes = bytes | bytearray | memoryview | NDArray[Any]


def crc(data: Bytes) -> int:
    """CRC-32 (zlib) of ``data``, an integer in [0, 2**32)."""
    return zlib.crc32(flat(data))


def flat(data: Bytes) -> memoryview:
    """The bytes of ``data``, in C order, without a copy where they lie so already."""
    if isinstance(data, np.ndarray):
        return np.ascontiguousarray(data).reshape(-1).view(np.uint8).data
    view = memoryview(data)
    return view.cast("B") if view.nbytes else memoryview(b"")  # a shape with a zero cannot be cast


def seal(record: Mapping[str, Any], entries: dict[str, dict[str, Any]], checksums: dict[str, int]) -> str:
    """The JSON string of ``record`` with its version, its buffers' checksums and its own checksum."""
    taken = RESERVED & record.keys()
    if taken:
        raise refuse(
            "record", found=f"the keys {sorted(taken)}", allowed="other keys", remedy="they are the container's own"
        )
    buffers = {
        name: {"dtype": item["dtype"], "shape": item["shape"], "crc32": checksums[name]}
        for name, item in entries.items()
    }
    sealed = {**record, "format_version": FORMAT_VERSION, "buffers": buffers}
    sealed["crc32"] = crc(dump("record", sealed).encode())
    return canonical(sealed).decode()


def unseal(sealed: dict[str, Any], entries: dict[str, Entry]) -> tuple[int, dict[str, Any], dict[str, int]]:
    """Version, the caller's record and the checksum per buffer, after all were checked against ``entries``."""
    version = sealed.get("format_version")
    if type(version) is not int or version < 1:
        raise damaged(f"its record has the format version {quote(version)}")
    if version > FORMAT_VERSION:
        found = f"written by format version {version}; this factorq reads up to {FORMAT_VERSION}"
        raise ArtifactError(f"{found}; upgrade factorq")
    checksum = sealed.pop("crc32", None)
    if type(checksum) is not int or checksum != crc(canonical(sealed)):
        raise damaged("its record does not match the record's checksum")
    buffers = sealed.pop("buffers", None)
    if not isinstance(buffers, dict) or buffers.keys() != entries.keys():
        raise damaged("its record does not list exactly the file's tensors")
    checksums = {name: _checksum(name, buffers[name], entry) for name, entry in entries.items()}
    return version, {key: value for key, value in sealed.items() if key != "format_version"}, checksums


def _checksum(name: str, item: object, entry: Entry) -> int:
    if isinstance(item, dict) and item.get("dtype") == entry.dtype and item.get("shape") == list(entry.shape):
        checksum = item.get("crc32")
        if type(checksum) is int:
            return checksum
    raise damaged(f"tensor {quote(name)} has another dtype or shape than its record says, or no checksum")


def resembles_record(text: str) -> bool:
    """Whether ``text`` looks like a sealed record, though it may be damaged."""
    return sum(f'"{key}":' in text for key in RESERVED) > 1  # two of three: one may be what was damaged
