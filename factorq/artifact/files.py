"""Files that appear whole or not at all, bytes moved in pieces, and the system's errors in the house's words."""

from __future__ import annotations

import errno
import io
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from ..errors import ArtifactError, FileAccessError, within
from .jsontext import dump
from .words import line

PathLike = str | os.PathLike[str]

_PIECE = 4 << 20  # bytes per file call: large enough to be free, small enough that Ctrl-C answers
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


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Name ``path`` in every artifact error, and turn the system's errors into :class:`FileAccessError`."""
    with within(str(path)):
        try:
            yield
        except ArtifactError:
            raise
        except OSError as error:
            reason = _REASONS.get(error.errno or 0, f"{line(error.strerror or error)}; check the disk and the path")
            raise FileAccessError(reason) from error


def check_writable(path: PathLike) -> Path:
    """The real path behind ``path``, after checks that a file can be put there: failures before the hours of work.

    Raises
    ------
    FileAccessError
        If ``path`` is a directory or a device, or its folder is missing or not writable.
    """
    final = Path(os.path.realpath(path))
    with naming(Path(path)):
        if final.is_dir():
            raise FileAccessError("is a directory; name a file inside it")
        if final.exists() and not final.is_file():
            raise FileAccessError("is a device or a pipe; name a regular file")
        if not final.parent.is_dir():
            raise FileAccessError(f"its folder {final.parent} does not exist; create it first")
        if not os.access(final.parent, os.W_OK | os.X_OK):
            raise FileAccessError(f"its folder {final.parent} is not writable; choose another folder")
    return final


@contextmanager
def atomic_text(path: PathLike) -> Iterator[TextIO]:
    r"""A UTF-8 text stream, newline ``\n``: its content appears under ``path`` when the block ends without error.

    Raises
    ------
    FileAccessError
        If ``path`` cannot be written or the disk is full; an older file is then unchanged.
    """
    target = Replacement(Path(path), overwrite=True)
    stream = io.StringIO(newline="")
    try:
        yield stream
        with naming(Path(path)):
            write(target.file, memoryview(stream.getvalue().encode()))
            target.complete()
            target.publish()
    finally:
        target.discard()


def write_json_atomically(path: PathLike, obj: object) -> None:
    """Write ``obj`` as indented JSON with sorted keys: all of it or nothing, as :func:`atomic_text`."""
    text = dump("obj", obj, indent=2) + "\n"
    with atomic_text(path) as stream:
        stream.write(text)


class Replacement:
    """A hidden file beside ``path`` that takes its place whole, or vanishes."""

    def __init__(self, path: Path, overwrite: bool) -> None:
        self._final = check_writable(path)
        self._overwrite = overwrite
        with naming(path):
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
        """Flush the content to the disk and let ``check`` judge it."""
        os.fsync(self.file.fileno())
        check(self._hidden)

    def publish(self) -> None:
        """Give the file its name."""
        with suppress(FileNotFoundError):  # keep the rights of the file that is replaced
            os.chmod(self._hidden, stat.S_IMODE(os.stat(self._final).st_mode))
        self.file.close()
        self._check_free()
        os.replace(self._hidden, self._final)
        with suppress(OSError):  # some file systems, and Windows, cannot sync a folder; the file itself is safe
            _sync_folder(self._final.parent)

    def discard(self) -> None:
        """Remove the hidden file where it still is."""
        with suppress(OSError):
            if self._file is not None:
                self._file.close()
        with suppress(OSError):
            self._hidden.unlink()


def _sync_folder(folder: Path) -> None:
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def pieces(view: memoryview) -> Iterator[memoryview]:
    """``view`` in parts of one file call each."""
    return (view[start : start + _PIECE] for start in range(0, view.nbytes, _PIECE))


def write(file: io.FileIO, view: memoryview) -> None:
    """Write all of ``view`` at the file's position."""
    while view.nbytes:  # one call may write less than asked, as when the disk fills up
        view = view[file.write(view) :]


def fill(file: io.FileIO, view: memoryview) -> bool:
    """Read from the file's position until ``view`` is full; False where the file ends before."""
    done = 0
    while done < len(view):
        count = file.readinto(view[done : done + _PIECE])
        if not count:
            return False
        done += count
    return True


def shift(file: io.FileIO, length: int, by: int) -> None:
    """Move the first ``length`` bytes up by ``by``, last piece first: no second copy on disk, one piece in memory."""
    buffer = memoryview(bytearray(min(length, _PIECE)))
    for stop in range(length, 0, -_PIECE):
        start = max(0, stop - _PIECE)
        piece = buffer[: stop - start]
        file.seek(start)
        if not fill(file, piece):
            raise FileAccessError("its temporary file was changed by another process; write it again")
        file.seek(start + by)
        write(file, piece)
