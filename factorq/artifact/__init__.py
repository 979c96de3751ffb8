"""The container: one safetensors file and, in its metadata, one JSON record with a checksum per buffer.

Layout: header length (8 bytes, little-endian), JSON header, tensor data without holes. ``__metadata__["factorq"]`` is
the record, a JSON string: the caller's keys and the reserved ``format_version``, ``buffers`` (name -> dtype, shape,
crc32) and ``crc32``, the CRC-32 of the record's canonical JSON without that key. Both directions stream: memory holds
one tensor. ``safetensors.save_file`` wants all tensors at once, and what ``safe_open`` maps stays resident, so here
safetensors only judges headers, and plain file calls move the bytes.
"""

from __future__ import annotations

from .files import PathLike, atomic_text, check_writable, write_json_atomically
from .header import BITS, DTYPES, Entry
from .jsontext import canonical
from .reader import Reader
from .record import FORMAT_VERSION, KEY, RESERVED, Bytes, crc
from .writer import Writer

__all__ = [
    "BITS", "DTYPES", "FORMAT_VERSION", "KEY", "RESERVED", "Bytes", "Entry", "PathLike", "Reader", "Writer",
    "atomic_text", "canonical", "check_writable", "crc", "write_json_atomically",
]  # fmt: skip
