"""Reading: one tensor at a time, every size checked before anything is allocated."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ArtifactError, FileAccessError, refuse
from .files import PathLike, fill, naming
from .header import DTYPES, header_length, judge, parse_entries, take_metadata
from .jsontext import afford, parse
from .record import KEY, crc, resembles_record, unseal
from .words import damaged, line, quote

_ALLOWANCE = 64 << 20  # bytes that opening may allocate beyond the file's size


class Reader:
    """Tensors of a safetensors or factorq file, one at a time; every size is checked before anything is allocated.

    Attributes
    ----------
    path : Path
        The file.
    entries : dict of str to Entry
        The tensors, in the order of their bytes in the file.
    metadata : dict of str to str
        The file's metadata without factorq's own.
    record : dict or None
        What was committed; None for a plain safetensors file.
    version : int or None
        The format version of the record.
    nbytes, file_nbytes : int
        Bytes of tensor data; bytes of the whole file.

    Raises
    ------
    FileAccessError
        If the file is missing, not a regular file or not permitted.
    ArtifactError
        If the file is not safetensors, or its header or record is damaged, hostile or of a newer version.
    """

    def __init__(self, path: PathLike) -> None:
        self.path = Path(path)
        self._lock = threading.Lock()
        with naming(self.path):
            if not stat.S_ISREG(os.stat(self.path).st_mode):  # before open, which would wait for a pipe's writer
                raise FileAccessError("is a directory or a device; name a file")
            self._file = open(self.path, "rb", buffering=0)  # noqa: SIM115 - closed by close()
            try:
                self._load()
            except BaseException:
                self._file.close()
                raise

    def _load(self) -> None:
        self.file_nbytes = os.fstat(self._file.fileno()).st_size
        length = header_length(self._file.read(32), self.file_nbytes)
        raw = self._bytes(8, 8 + length).tobytes()
        budget = afford(raw, self.file_nbytes + _ALLOWANCE)
        judge(self.path)
        header = parse(raw, "header")
        self.metadata: dict[str, str] = take_metadata(header)
        self.entries = parse_entries(header, 8 + length, self.file_nbytes)
        self.nbytes = self.file_nbytes - 8 - length
        self.record: dict[str, Any] | None = None
        self.version: int | None = None
        self._checksums: dict[str, int] | None = None
        text = self.metadata.pop(KEY, None)
        if text is not None:
            encoded = text.encode("utf-8", "surrogatepass")
            afford(encoded, budget)
            self.version, self.record, self._checksums = unseal(parse(encoded, "record"), self.entries)
        elif any(resembles_record(value) for value in self.metadata.values()):
            raise damaged(f"it holds a factorq record under another key than {KEY!r}")

    def read(self, name: str) -> NDArray[Any]:
        """The tensor ``name`` as a new array of its dtype and shape, after its checksum was checked.

        Raises
        ------
        ArtifactError
            If the bytes do not match the recorded checksum, the file was cut since it was opened, or NumPy has no such
            dtype (floats below 8 bits) or shape; :meth:`read_bytes` still gives those.
        """
        raw = self.read_bytes(name)
        entry = self.entries[name]
        with naming(self.path):
            if entry.dtype not in DTYPES:
                raise ArtifactError(f"tensor {quote(name)}: no array holds dtype {quote(entry.dtype)}; use read_bytes")
            if entry.dtype == "BOOL" and raw.size and raw.max() > 1:
                raise damaged(f"tensor {quote(name)} is BOOL but holds bytes other than 0 and 1")
            try:
                return raw.view(DTYPES[entry.dtype]).reshape(entry.shape)
            except (ValueError, OverflowError) as error:  # 65 dimensions, (0, 2**63): legal in the file, not in NumPy
                raise damaged(f"tensor {quote(name)} has a shape that NumPy refuses ({line(error)})") from None

    def read_bytes(self, name: str) -> NDArray[np.uint8]:
        """The stored bytes of the tensor ``name``, shape (nbytes,), after its checksum was checked; any dtype."""
        if name not in self.entries:
            raise refuse("name", found=quote(name), allowed=f"a tensor of {self.path}", remedy="see Reader.entries")
        entry = self.entries[name]
        with naming(self.path):
            if self._file.closed:
                raise FileAccessError("read after it was closed; read inside the with block")
            raw = self._bytes(entry.start, entry.stop)
            if self._checksums is not None and crc(raw) != self._checksums[name]:
                raise damaged(f"tensor {quote(name)} does not match its checksum")
        return raw

    def _bytes(self, start: int, stop: int) -> NDArray[np.uint8]:
        raw = np.empty(stop - start, np.uint8)
        with self._lock:  # one file position for all threads
            self._file.seek(start)
            if not fill(self._file, raw.data):
                raise damaged("truncated while it was read")
        return raw

    def close(self) -> None:
        """Close the file; what was parsed stays readable."""
        self._file.close()

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()
