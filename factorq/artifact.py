"""The container: one safetensors file and, in its metadata, one JSON record with a checksum per buffer.

Layout: header length (8 bytes, little-endian), JSON header, tensor data without holes. ``__metadata__["factorq"]`` is
the record, a JSON string: the caller's keys and the reserved ``format_version``, ``buffers`` (name -> dtype, shape,
crc32) and ``crc32``, the CRC-32 of the record's canonical JSON without that key. Both directions stream: memory holds
one tensor. ``safetensors.save_file`` wants all tensors at once, and what ``safe_open`` maps stays resident, so here
safetensors only judges headers, and plain file calls move the bytes.
"""

from __future__ import annotations

import errno
import io
import json
import math
import os
import secrets
import stat
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NoReturn, TextIO

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from .arrays import Array, is_array, to_host
from .errors import ArtifactError, FileAccessError, refuse, refuse_type, within

FORMAT_VERSION: Final = 1
KEY: Final = "factorq"
RESERVED: Final = frozenset({"format_version", "buffers", "crc32"})

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

_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_PIECE = 4 << 20  # bytes per file call: large enough to be free, small enough that Ctrl-C answers
_HEADER_LIMIT = 100_000_000  # bytes; safetensors' own
_ALLOWANCE = 64 << 20  # bytes that opening may allocate beyond the file's size
_DEPTH = 64  # levels of JSON nesting in a record
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
_REASONS = {
    errno.ENOENT: "no such file or folder; check the path",
    errno.ENOTDIR: "a part of its path is not a folder; check the path",
    errno.EISDIR: "is a directory; name a file",
    errno.EACCES: "permission denied; check the rights on the file and its folder",
    errno.EPERM: "permission denied; check the rights on the file and its folder",
    errno.EROFS: "the file system is read-only; choose another folder",
    errno.ENOSPC: "disk full; free some space or choose another folder",
    errno.EDQUOT: "disk quota exceeded; free some space or choose another folder",
    errno.EFBIG: "file too large for the file system or the process's limit; choose another folder or raise the limit",
}

PathLike = str | os.PathLike[str]
Bytes = bytes | bytearray | memoryview | NDArray[Any]


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
        with _at(self.path):
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
        length = _header_length(self._file.read(32), self.file_nbytes)
        raw = self._bytes(8, 8 + length).tobytes()
        budget = _afford(raw, self.file_nbytes + _ALLOWANCE)
        _judge(self.path)
        header = _parse(raw, "header")
        self.metadata: dict[str, str] = _metadata(header)
        self.entries = _entries(header, 8 + length, self.file_nbytes)
        self.nbytes = self.file_nbytes - 8 - length
        self.record: dict[str, Any] | None = None
        self.version: int | None = None
        self._checksums: dict[str, int] | None = None
        text = self.metadata.pop(KEY, None)
        if text is not None:
            encoded = text.encode("utf-8", "surrogatepass")
            _afford(encoded, budget)
            self.version, self.record, self._checksums = _unseal(_parse(encoded, "record"), self.entries)
        elif any(_resembles_record(value) for value in self.metadata.values()):
            raise _damaged(f"it holds a factorq record under another key than {KEY!r}")

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
        with _at(self.path):
            if entry.dtype not in DTYPES:
                raise ArtifactError(
                    f"tensor {_quote(name)}: no array holds dtype {_quote(entry.dtype)}; use read_bytes"
                )
            if entry.dtype == "BOOL" and raw.size and raw.max() > 1:
                raise _damaged(f"tensor {_quote(name)} is BOOL but holds bytes other than 0 and 1")
            try:
                return raw.view(DTYPES[entry.dtype]).reshape(entry.shape)
            except (ValueError, OverflowError) as error:  # 65 dimensions, (0, 2**63): legal in the file, not in NumPy
                raise _damaged(f"tensor {_quote(name)} has a shape that NumPy refuses ({_line(error)})") from None

    def read_bytes(self, name: str) -> NDArray[np.uint8]:
        """The stored bytes of the tensor ``name``, shape (nbytes,), after its checksum was checked; any dtype."""
        if name not in self.entries:
            raise refuse("name", found=_quote(name), allowed=f"a tensor of {self.path}", remedy="see Reader.entries")
        entry = self.entries[name]
        with _at(self.path):
            if self._file.closed:
                raise FileAccessError("read after it was closed; read inside the with block")
            raw = self._bytes(entry.start, entry.stop)
            if self._checksums is not None and crc(raw) != self._checksums[name]:
                raise _damaged(f"tensor {_quote(name)} does not match its checksum")
        return raw

    def _bytes(self, start: int, stop: int) -> NDArray[np.uint8]:
        raw = np.empty(stop - start, np.uint8)
        view, done = raw.data, 0
        with self._lock:  # one file position for all threads
            self._file.seek(start)
            while done < len(view):
                count = self._file.readinto(view[done : done + _PIECE])
                if not count:
                    raise _damaged("truncated while it was read")
                done += count
        return raw

    def close(self) -> None:
        """Close the file; what was parsed stays readable."""
        self._file.close()

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


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
        self._target = _Replacement(self.path, overwrite)
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
            Any array of a dtype in :data:`DTYPES`.
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
        view = _flat(data)
        sizes = [int(size) for size in shape]
        self._check(name, dtype, sizes, view.nbytes)
        start, self._nbytes = self._nbytes, self._nbytes + view.nbytes
        try:
            with _at(self.path):
                file, checksum = self._target.file, 0
                for piece in _pieces(view):
                    checksum = zlib.crc32(piece, checksum)
                    _write(file, piece)
        except BaseException:
            self.close()  # a part of the bytes may be in the file: nothing may be committed any more
            raise
        self._entries[name] = {"dtype": dtype, "shape": sizes, "data_offsets": [start, self._nbytes]}
        self._checksums[name] = checksum

    def _check(self, name: str, dtype: str, shape: list[int], nbytes: int) -> None:
        self._check_open()
        if not isinstance(name, str) or name == "__metadata__" or name in self._entries or not _is_unicode(name):
            raise refuse("name", found=_quote(name), allowed="a Unicode string not yet used, not '__metadata__'")
        if dtype not in BITS:
            raise refuse("dtype", found=_quote(dtype), allowed=", ".join(BITS))
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
            with _at(self.path):
                file = self._target.file
                _shift(file, self._nbytes, len(header))
                file.seek(0)
                _write(file, memoryview(header))
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
            with _at(self.path):
                self._target.publish()
        finally:
            self.close()

    def _header(self, record: Mapping[str, Any] | None, metadata: dict[str, str]) -> bytes:
        if KEY in metadata or not all(isinstance(text, str) for item in metadata.items() for text in item):
            raise refuse("metadata", found=_quote(metadata), allowed=f"strings under strings other than {KEY!r}")
        if record is not None:
            metadata[KEY] = _seal(record, self._entries, self._checksums)
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


class _Replacement:
    """A hidden file beside ``path`` that takes its place whole, or vanishes."""

    def __init__(self, path: Path, overwrite: bool) -> None:
        self._final = check_writable(path)
        self._overwrite = overwrite
        with _at(path):
            self._check_free()
        self._hidden = self._final.with_name(f".factorq-{secrets.token_hex(8)}.tmp")
        self._file: io.FileIO | None = None

    def _check_free(self) -> None:
        if not self._overwrite and os.path.lexists(self._final):
            raise FileAccessError("exists already; choose another name or allow overwriting")

    @property
    def file(self) -> io.FileIO:
        if self._file is None:  # on first use: inside the caller's with block, so that an interrupt finds it removed
            self._file = io.FileIO(self._hidden, "x+")
        return self._file

    def complete(self, check: Callable[[Path], None] = lambda path: None) -> None:
        os.fsync(self.file.fileno())
        check(self._hidden)

    def publish(self) -> None:
        with suppress(FileNotFoundError):  # keep the rights of the file that is replaced
            os.chmod(self._hidden, stat.S_IMODE(os.stat(self._final).st_mode))
        self.file.close()
        self._check_free()
        os.replace(self._hidden, self._final)
        with suppress(OSError):  # some file systems, and Windows, cannot sync a folder; the file itself is safe
            _sync_folder(self._final.parent)

    def discard(self) -> None:
        with suppress(OSError):
            if self._file is not None:
                self._file.close()
        with suppress(OSError):
            self._hidden.unlink()


@contextmanager
def atomic_text(path: PathLike) -> Iterator[TextIO]:
    r"""A UTF-8 text stream, newline ``\n``: its content appears under ``path`` when the block ends without error.

    Raises
    ------
    FileAccessError
        If ``path`` cannot be written or the disk is full; an older file is then unchanged.
    """
    target = _Replacement(Path(path), overwrite=True)
    stream = io.StringIO(newline="")
    try:
        yield stream
        with _at(Path(path)):
            _write(target.file, memoryview(stream.getvalue().encode()))
            target.complete()
            target.publish()
    finally:
        target.discard()


def write_json_atomically(path: PathLike, obj: object) -> None:
    """Write ``obj`` as indented JSON with sorted keys: all of it or nothing, as :func:`atomic_text`."""
    text = _dump("obj", obj, indent=2) + "\n"
    with atomic_text(path) as stream:
        stream.write(text)


def check_writable(path: PathLike) -> Path:
    """The real path behind ``path``, after checks that a file can be put there: failures before the hours of work.

    Raises
    ------
    FileAccessError
        If ``path`` is a directory or a device, or its folder is missing or not writable.
    """
    final = Path(os.path.realpath(path))
    with _at(Path(path)):
        if final.is_dir():
            raise FileAccessError("is a directory; name a file inside it")
        if final.exists() and not final.is_file():
            raise FileAccessError("is a device or a pipe; name a regular file")
        if not final.parent.is_dir():
            raise FileAccessError(f"its folder {final.parent} does not exist; create it first")
        if not os.access(final.parent, os.W_OK | os.X_OK):
            raise FileAccessError(f"its folder {final.parent} is not writable; choose another folder")
    return final


def crc(data: Bytes) -> int:
    """CRC-32 (zlib) of ``data``, an integer in [0, 2**32)."""
    return zlib.crc32(_flat(data))


def canonical(obj: object) -> bytes:
    """The one JSON text of ``obj``: sorted keys, no spaces, ASCII, no NaN."""
    return json.dumps(obj, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _seal(record: Mapping[str, Any], entries: dict[str, dict[str, Any]], checksums: dict[str, int]) -> str:
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
    sealed["crc32"] = crc(_dump("record", sealed).encode())
    return canonical(sealed).decode()


def _unseal(sealed: dict[str, Any], entries: dict[str, Entry]) -> tuple[int, dict[str, Any], dict[str, int]]:
    version = sealed.get("format_version")
    if type(version) is not int or version < 1:
        raise _damaged(f"its record has the format version {_quote(version)}")
    if version > FORMAT_VERSION:
        found = f"written by format version {version}; this factorq reads up to {FORMAT_VERSION}"
        raise ArtifactError(f"{found}; upgrade factorq")
    checksum = sealed.pop("crc32", None)
    if type(checksum) is not int or checksum != crc(canonical(sealed)):
        raise _damaged("its record does not match the record's checksum")
    buffers = sealed.pop("buffers", None)
    if not isinstance(buffers, dict) or buffers.keys() != entries.keys():
        raise _damaged("its record does not list exactly the file's tensors")
    checksums = {name: _checksum(name, buffers[name], entry) for name, entry in entries.items()}
    return version, {key: value for key, value in sealed.items() if key != "format_version"}, checksums


def _checksum(name: str, item: object, entry: Entry) -> int:
    if isinstance(item, dict) and item.get("dtype") == entry.dtype and item.get("shape") == list(entry.shape):
        checksum = item.get("crc32")
        if type(checksum) is int:
            return checksum
    raise _damaged(f"tensor {_quote(name)} has another dtype or shape than its record says, or no checksum")


def _header_length(start: bytes, size: int) -> int:
    length = int.from_bytes(start[:8], "little")
    if start[8:9] == b"{" and length <= min(size - 8, _HEADER_LIMIT):
        return length
    for magic, advice in _FOREIGN:  # only now: a sound file may begin with a length that reads like one of them
        if start.startswith(magic):
            raise ArtifactError(advice)
    if size < 10:
        raise _damaged(f"it has {size} bytes, too few for a safetensors file")
    if start[8:9] != b"{":
        raise ArtifactError("not a safetensors file: found no JSON header; pass a .safetensors file")
    if length > size - 8:
        raise _damaged(f"truncated: its header claims {length} bytes, the file has {size}")
    raise _damaged(f"its header has {length} bytes, allowed are {_HEADER_LIMIT}")


def _afford(text: bytes, budget: int) -> int:
    """What is left of ``budget`` bytes after parsing ``text``, judged by an upper bound before anything is built."""
    # Worst bytes per token, measured with tracemalloc over hostile texts: see test_parse_cost_is_an_upper_bound.
    marks = 80 * text.count(b"[") + 96 * text.count(b"{") + 128 * text.count(b",") + 176 * text.count(b":")
    width = 4 if text.isascii() and b"\\u" not in text else 12  # a character may take 4 bytes, its escape 12
    left = budget - marks - width * len(text)
    if left < 0:
        raise _damaged(f"parsing its header of {len(text)} bytes could take {budget - left} bytes of memory")
    return left


def _judge(path: Path) -> None:
    """Let safetensors' own validator judge the header: overlaps, holes, wrong sizes, duplicate fields."""
    try:
        with safe_open(path, framework="numpy"):
            pass
    except SafetensorError as error:
        raise _damaged(_line(error)) from None


def _parse(raw: bytes, what: str) -> dict[str, Any]:
    try:
        value = json.loads(
            raw.decode(), object_pairs_hook=_table, parse_constant=_number, parse_float=_number, parse_int=_number
        )
        if not isinstance(value, dict):
            raise ValueError(f"a table is needed, not a {type(value).__name__}")
        _check_depth(value)
    except (ValueError, RecursionError) as error:
        raise _damaged(f"its {what} is not valid JSON ({_line(error)})") from None
    return value


def _table(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a key stands twice in one table")
    return table


def _number(text: str) -> int | float:
    number = int(text) if text.lstrip("-").isdigit() else float(text)
    if not abs(number) < 2**64 and (isinstance(number, int) or not math.isfinite(number)):
        raise ValueError("a number is not finite or beyond 64 bits")
    return number


def _check_depth(value: object) -> None:
    level = [value]
    for _ in range(_DEPTH):
        level = [child for node in level for child in _children(node)]
        if not level:
            return
    raise ValueError(f"nested deeper than {_DEPTH} levels")


def _children(node: object) -> Iterable[object]:
    if isinstance(node, dict):
        return node.values()
    return node if isinstance(node, list) else ()


def _metadata(header: dict[str, Any]) -> dict[str, str]:
    metadata = header.pop("__metadata__", None)
    if metadata is None:  # absent, or null, which safetensors takes too
        return {}
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise _damaged("its metadata is not a table of strings")
    return metadata


def _resembles_record(text: str) -> bool:
    return sum(f'"{key}":' in text for key in RESERVED) > 1  # two of three: one may be what was damaged


def _entries(header: dict[str, Any], data: int, size: int) -> dict[str, Entry]:
    # The same checks as safetensors', on the bytes that we parsed: the file may have changed between the two looks.
    entries = {name: _entry(name, item, data) for name, item in header.items()}
    ordered = dict(sorted(entries.items(), key=lambda item: (item[1].start, item[1].stop)))
    end = data
    for name, entry in ordered.items():
        if entry.start != end or not end <= entry.stop <= size:
            raise _damaged(f"tensor {_quote(name)} lies at bytes {entry.start}:{entry.stop}, expected at {end}")
        if entry.dtype in BITS and math.prod(entry.shape) * BITS[entry.dtype] != 8 * entry.nbytes:
            raise _damaged(f"tensor {_quote(name)} has {entry.nbytes} bytes, other than its dtype and shape need")
        end = entry.stop
    if end != size:
        raise _damaged(f"its tensors end at byte {end}, the file at {size}")
    return ordered


def _entry(name: str, item: object, data: int) -> Entry:
    fields = item if isinstance(item, dict) else {}
    dtype, shape, offsets = fields.get("dtype"), _sizes(fields.get("shape")), _sizes(fields.get("data_offsets"))
    if not isinstance(dtype, str) or shape is None or offsets is None or len(offsets) != 2:
        raise _damaged(f"tensor {_quote(name)} has no proper dtype, shape and data_offsets")
    return Entry(dtype, shape, data + offsets[0], data + offsets[1])


def _sizes(value: object) -> tuple[int, ...] | None:
    good = isinstance(value, list) and all(type(size) is int and size >= 0 for size in value)
    return tuple(value) if good and isinstance(value, list) else None


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


def _dump(argument: str, obj: object, indent: int | None = None) -> str:
    try:
        if indent is None:
            return canonical(obj).decode()
        return json.dumps(obj, sort_keys=True, allow_nan=False, indent=indent)
    except TypeError as error:
        raise refuse_type(argument, found=_line(error), allowed="JSON values under string keys") from None
    except (ValueError, RecursionError) as error:
        raise refuse(argument, found=_line(error), allowed="finite numbers, without cycles or deep nesting") from None


def _flat(data: Bytes) -> memoryview:
    if isinstance(data, np.ndarray):
        return np.ascontiguousarray(data).reshape(-1).view(np.uint8).data
    view = memoryview(data)
    return view.cast("B") if view.nbytes else memoryview(b"")  # a shape with a zero cannot be cast


def _pieces(view: memoryview) -> Iterator[memoryview]:
    return (view[start : start + _PIECE] for start in range(0, view.nbytes, _PIECE))


def _write(file: io.FileIO, view: memoryview) -> None:
    while view.nbytes:  # one call may write less than asked, as when the disk fills up
        view = view[file.write(view) :]


def _shift(file: io.FileIO, length: int, by: int) -> None:
    """Move the first ``length`` bytes up by ``by``, last piece first: no second copy on disk, one piece in memory."""
    buffer = memoryview(bytearray(min(length, _PIECE)))
    for stop in range(length, 0, -_PIECE):
        start = max(0, stop - _PIECE)
        piece, done = buffer[: stop - start], 0
        file.seek(start)
        while done < piece.nbytes:
            done += file.readinto(piece[done:]) or _short()
        file.seek(start + by)
        _write(file, piece)


def _short() -> NoReturn:
    raise FileAccessError("its temporary file was changed by another process; write it again")


def _sync_folder(folder: Path) -> None:
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


@contextmanager
def _at(path: Path) -> Iterator[None]:
    """Name ``path`` in every artifact error, and turn the system's errors into :class:`FileAccessError`."""
    with within(str(path)):
        try:
            yield
        except ArtifactError:
            raise
        except OSError as error:
            reason = _REASONS.get(error.errno or 0, f"{_line(error.strerror or error)}; check the disk and the path")
            raise FileAccessError(reason) from error


def _damaged(what: str) -> ArtifactError:
    return ArtifactError(f"damaged or not a safetensors file: {what}; get a new copy of it")


def _line(text: object) -> str:
    """``text`` on one line of at most 200 printable characters: messages may quote hostile files."""
    line = " ".join(str(text).split()) or type(text).__name__
    return "".join(c if c.isprintable() else "?" for c in line[:200])


def _quote(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
