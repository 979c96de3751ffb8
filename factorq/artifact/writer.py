"""Writing: tensor by tensor into a hidden file, which gets its name when it is whole."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from ..arrays import Array, is_array, to_host
from ..errors import ArtifactError, FileAccessError, refuse, refuse_type
from .files import PathLike, Replacement, naming, pieces, shift, write
from .header import BITS, DTYPES
from .reader import Reader
from .record import KEY, Bytes, flat, seal
from .words import quote

_NAMES = {dtype: name for name, dtype in DTYPES.items()}


class Writer:
    """A safetensors file written tensor by tensor: nothing appears under ``path`` before :meth:`commit`.

    Buffers go at once to a hidden temporary file in the same folder. Leaving the context without a commit, by an
    exception or an interrupt, removes it and leaves an older file as it was. Equal calls give equal bytes.

    Parameters
    ----------
    path : str or path
        The file; a symbolic link is followed.
    overwrite : bool
        Whether a file may stand there already.

    Raises
    ------
    FileAccessError
        As :func:`check_writable`, from the constructor; disk full and the like, from every method.
    """

    def __init__(self, path: PathLike, overwrite: bool = True) -> None:
        self.path = Path(path)
        self._target = Replacement(self.path, overwrite)
        self._entries: dict[str, dict[str, Any]] = {}
        self._checksums: dict[str, int] = {}
        self._nbytes = 0
        self._open, self._prepared = True, False

    def add(self, name: str, array: Array, dtype: str | None = None, shape: Sequence[int] | None = None) -> None:
        """Append ``array`` as tensor ``name``, in C order and little-endian, whatever its own layout.

        Parameters
        ----------
        name : str
            A name not yet used.
        array : array
            Any array of a dtype in :data:`.DTYPES`.
        dtype, shape : str, sequence of int
            What to record instead of the array's own, for bytes that stand for another type, such as packed "F4".
        """
        if not is_array(array):
            remedy = "wrap it with numpy.asarray"
            raise refuse_type("array", found=type(array).__name__, allowed="an array", remedy=remedy)
        host = to_host(array)
        own = _NAMES.get(host.dtype.newbyteorder("<"))
        if own is None:
            remedy = "cast it first, for example with astype('float32')"
            raise refuse_type("array", found=f"dtype {host.dtype}", allowed=", ".join(map(str, _NAMES)), remedy=remedy)
        flat = np.ascontiguousarray(host, DTYPES[own])
        self.add_raw(name, dtype or own, host.shape if shape is None else shape, flat)

    def add_raw(self, name: str, dtype: str, shape: Sequence[int], data: Bytes) -> None:
        """Append the bytes ``data`` as tensor ``name`` of the safetensors dtype ``dtype`` and of ``shape``."""
        view = flat(data)
        sizes = [int(size) for size in shape]
        self._check(name, dtype, sizes, view.nbytes)
        start, self._nbytes = self._nbytes, self._nbytes + view.nbytes
        try:
            with naming(self.path):
                file, checksum = self._target.file, 0
                for piece in pieces(view):
                    checksum = zlib.crc32(piece, checksum)
                    write(file, piece)
        except BaseException:
            self.close()  # a part of the bytes may be in the file: nothing may be committed any more
            raise
        self._entries[name] = {"dtype": dtype, "shape": sizes, "data_offsets": [start, self._nbytes]}
        self._checksums[name] = checksum

    def _check(self, name: str, dtype: str, shape: list[int], nbytes: int) -> None:
        self._check_open()
        if not isinstance(name, str) or name == "__metadata__" or name in self._entries or not _is_unicode(name):
            raise refuse("name", found=quote(name), allowed="a Unicode string not yet used, not '__metadata__'")
        if dtype not in BITS:
            raise refuse("dtype", found=quote(dtype), allowed=", ".join(BITS))
        if any(size < 0 for size in shape) or math.prod(shape) * BITS[dtype] != 8 * nbytes:
            allowed = f"sizes whose product times {BITS[dtype]} bits ({dtype}) is {nbytes} bytes"
            raise refuse("shape", found=shape, allowed=allowed)

    def _check_open(self) -> None:
        if not self._open:
            remedy = "open a new Writer"
            raise refuse("Writer", found="one that failed, was committed or left", allowed="an open one", remedy=remedy)

    def commit(self, record: Mapping[str, Any] | None, metadata: Mapping[str, str] | None = None) -> None:
        """Publish the file with ``record`` (JSON values; None writes plain safetensors) and ``metadata`` (strings).

        The finished file is opened by :class:`Reader` before it gets its name, so none is published that it refuses.

        Raises
        ------
        ArgumentError, ArgumentTypeError
            If the record or the metadata uses a reserved key or holds what JSON cannot.
        FileAccessError
            If the disk is full or the file cannot be renamed; the older file is then unchanged.
        """
        self.prepare(record, metadata)
        self.publish()

    def prepare(self, record: Mapping[str, Any] | None, metadata: Mapping[str, str] | None = None) -> None:
        """Complete the file under its temporary name, as :meth:`commit` but for the renaming.

        With several files that belong together, whatever can fail then fails before the first of them appears.
        """
        self._check_open()
        header = self._header(record, dict(metadata or {}))
        try:
            with naming(self.path):
                file = self._target.file
                shift(file, self._nbytes, len(header))
                file.seek(0)
                write(file, memoryview(header))
                self._target.complete(check=_open_once)
        except BaseException:
            self.close()
            raise
        self._open, self._prepared = False, True

    def publish(self) -> None:
        """Give the file that :meth:`prepare` completed its name."""
        if not self._prepared:
            raise refuse("Writer", found="one that was not prepared", allowed="publish after prepare, once")
        try:
            with naming(self.path):
                self._target.publish()
        finally:
            self.close()

    def _header(self, record: Mapping[str, Any] | None, metadata: dict[str, str]) -> bytes:
        if KEY in metadata or not all(isinstance(text, str) for item in metadata.items() for text in item):
            raise refuse("metadata", found=quote(metadata), allowed=f"strings under strings other than {KEY!r}")
        if record is not None:
            metadata[KEY] = seal(record, self._entries, self._checksums)
        table = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
        text = json.dumps(table | self._entries, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)  # data begins at a multiple of 8
        return len(text).to_bytes(8, "little") + text

    def close(self) -> None:
        """Give up what was not committed and remove the temporary file."""
        self._open = self._prepared = False
        self._target.discard()

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


def _open_once(path: Path) -> None:
    """Refuse to publish what could not be read back, naming the output instead of the temporary file."""
    try:
        Reader(path).close()
    except FileAccessError:
        raise
    except ArtifactError as error:
        raise refuse(
            "record", found=error.message.removeprefix(f"{path}: "), allowed="what Reader reads back"
        ) from None


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
