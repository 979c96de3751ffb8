"""A checkpoint as one thing, whether it is one safetensors file or several with an index."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from ..artifact import Entry, PathLike, Reader, Writer, check_writable, write_json_atomically
from ..errors import ArtifactError, FileAccessError, refuse, within
from ..factorization import contents

_INDEX = ".safetensors.index.json"
_INDEX_LIMIT = 100_000_000  # bytes


@dataclass(frozen=True)
class Tensor:
    """A logical tensor of a checkpoint: its name, the shard that holds it, its stored entries."""

    name: str
    reader: Reader
    entries: tuple[str, ...]

    @property
    def entry(self) -> Entry:
        """The entry of a tensor that is stored as it is."""
        return self.reader.entries[self.name]

    @property
    def record(self) -> Mapping[str, Any] | None:
        """What the file says of a factored tensor; None if it is stored as it is."""
        records: Mapping[str, Any] = (self.reader.record or {}).get("tensors", {})
        return records.get(self.name)

    @property
    def nbytes(self) -> int:
        """Stored bytes."""
        return sum(self.reader.entries[name].nbytes for name in self.entries)


class Source:
    """The tensors of a checkpoint, shard by shard in the order of the shards' names, each in the order of its bytes.

    Parameters
    ----------
    path : str or path
        A safetensors file, an index (``model.safetensors.index.json``), or the folder of one.

    Raises
    ------
    ArtifactError, FileAccessError
        If a file is missing or damaged, or index and shards do not fit together.
    """

    def __init__(self, path: PathLike) -> None:
        self.path = Path(path)
        self.index = _index_of(self.path)
        self.metadata: dict[str, Any] = {}
        self._stack = ExitStack()
        try:
            self._open()
        except BaseException:
            self._stack.close()
            raise

    def _open(self) -> None:
        paths, owners = [self.path], None
        if self.index is not None:
            owners, self.metadata = _read_index(self.index)
            paths = [self.index.parent / name for name in sorted(set(owners.values()))]
        self.readers = [self._stack.enter_context(Reader(path)) for path in paths]
        self.tensors: dict[str, Tensor] = {}
        for reader in self.readers:
            for name, entries in contents(reader).items():
                if name in self.tensors:
                    raise ArtifactError(
                        f"{reader.path}: tensor {name!r} is in {self.tensors[name].reader.path.name} too"
                    )
                self.tensors[name] = Tensor(name, reader, tuple(entries))
        if owners is not None:
            stored = {entry: reader.path.name for reader in self.readers for entry in reader.entries}
            wrong = sorted(set(stored.items()) ^ set(owners.items()))
            if wrong:
                raise ArtifactError(f"{self.index}: index and shards disagree about tensor {wrong[0][0]!r}")

    @property
    def factored(self) -> bool:
        """Whether factorq wrote it."""
        return any(reader.record is not None for reader in self.readers)

    @property
    def file_nbytes(self) -> int:
        """Bytes of all files."""
        index = self.index.stat().st_size if self.index is not None else 0
        return index + sum(reader.file_nbytes for reader in self.readers)

    def __enter__(self) -> Source:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._stack.close()


class Sink:
    """The files of a checkpoint that is being written with the shards of ``source``: all of them appear, or none.

    Parameters
    ----------
    path : str or path
        A file; for a sharded source also the name of an index (``*.json``) or a folder. A file with the suffix
        ``.safetensors`` takes all shards in one.
    source : Source
        What is read meanwhile; none of its files may be written.

    Raises
    ------
    FileAccessError, ArgumentError
        If a file cannot be put there, or it is one of the source's.
    """

    def __init__(self, path: PathLike, source: Source) -> None:
        self.source = source
        self.index, shards = _layout(Path(path), source)
        self.path = self.index or next(iter(shards.values()))
        self._made: Path | None = None
        folder = self.path.parent
        if self.index is not None and not folder.exists():
            check_writable(folder)
            self._made = folder
            folder.mkdir()
        self._writers: dict[Path, Writer] = {}
        self._metadata: dict[Path, dict[str, str]] = {}
        self._stored: dict[Path, list[str]] = {}
        try:
            self._open(shards)
        except BaseException:
            self._close()
            raise

    def _open(self, shards: Mapping[Path, Path]) -> None:
        inputs = [reader.path for reader in self.source.readers] + ([self.source.index] if self.source.index else [])
        for target in (*shards.values(), *((self.index,) if self.index else ())):
            check_writable(target)
            if target.exists() and any(os.path.samefile(target, path) for path in inputs):
                raise refuse("output", found=f"{target}, which is the input", allowed="another file")
        self._shard = dict(shards)
        for reader in self.source.readers:
            target = shards[reader.path]
            if target not in self._writers:
                self._writers[target] = Writer(target)
            self._metadata.setdefault(target, {}).update(reader.metadata)

    def writer(self, tensor: Tensor) -> Writer:
        """The open file that takes what becomes of ``tensor``."""
        return self._writers[self._shard[tensor.reader.path]]

    def commit(self, records: Mapping[str, Mapping[str, Any]] | None) -> int:
        """Publish all files, the index last; their bytes. ``records`` by tensor, None for plain safetensors."""
        for target, writer in self._writers.items():
            writer.prepare(None if records is None else self._record(target, records), self._metadata[target])
        with _Undo() as undo:
            for target, writer in self._writers.items():
                undo.remember(target)
                writer.publish()
            size = sum(target.stat().st_size for target in self._writers)
            if self.index is not None:
                undo.remember(self.index)
                write_json_atomically(self.index, self._index_content())
                size += self.index.stat().st_size
            undo.forget()
        self._made = None
        return size

    def _record(self, target: Path, records: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        here = {n for n, tensor in self.source.tensors.items() if self._shard[tensor.reader.path] == target}
        return {"tensors": {name: record for name, record in records.items() if name in here}}

    def _index_content(self) -> dict[str, Any]:
        owners: dict[str, str] = {}
        total = 0
        for target in self._writers:
            with Reader(target) as reader:
                owners |= dict.fromkeys(reader.entries, target.name)
                total += reader.nbytes
        return {"metadata": {**self.source.metadata, "total_size": total}, "weight_map": owners}

    def _close(self) -> None:
        for writer in self._writers.values():
            writer.close()
        if self._made is not None:
            with suppress(OSError):
                self._made.rmdir()

    def __enter__(self) -> Sink:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._close()


class _Undo:
    """Files that get their old content back, or vanish, unless all of them were published."""

    def __init__(self) -> None:
        self._old: list[tuple[Path, Path | None]] = []

    def remember(self, path: Path) -> None:
        """Keep what stands under ``path`` now, as a second name of the same file."""
        kept = None
        if path.exists():
            kept = path.with_name(f".factorq-{secrets.token_hex(8)}.tmp")
            os.link(os.path.realpath(path), kept)
        self._old.append((path, kept))

    def forget(self) -> None:
        """All files are there: only the old ones are left to remove."""
        old, self._old = self._old, []
        for kept in filter(None, (kept for _, kept in old)):
            with suppress(OSError):
                kept.unlink()

    def __enter__(self) -> _Undo:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for path, kept in self._old:
            with suppress(OSError):
                if kept is None:
                    path.unlink()
                else:
                    os.replace(kept, os.path.realpath(path))
                    kept.unlink(missing_ok=True)  # renaming to another name of the same file leaves both


def _index_of(path: Path) -> Path | None:
    """The index that ``path`` means, if it means a sharded checkpoint."""
    if path.is_dir():
        found = sorted(path.glob(f"*{_INDEX}"))
        if len(found) != 1:
            raise FileAccessError(f"{path}: is a folder with {len(found)} files *{_INDEX}; name a file")
        return found[0]
    return path if path.suffix == ".json" else None


def _read_index(path: Path) -> tuple[dict[str, str], dict[str, Any]]:
    """The shard of each stored tensor, and the metadata of the index ``path``."""
    with within(str(path)):
        try:
            if path.stat().st_size > _INDEX_LIMIT:
                raise ArtifactError(f"is larger than {_INDEX_LIMIT} bytes, too large for an index")
            content = json.loads(path.read_bytes())
        except OSError as error:
            raise FileAccessError(f"{error.strerror}; check the path") from error
        except (ValueError, RecursionError):
            raise ArtifactError("is not valid JSON; get a new copy of it") from None
        owners = content.get("weight_map") if isinstance(content, dict) else None
        if not isinstance(owners, dict) or not owners or not all(map(_is_file_name, owners.values())):
            raise ArtifactError("has no weight_map from tensors to file names beside it; name a checkpoint's index")
        metadata = content.get("metadata")
    return owners, metadata if isinstance(metadata, dict) else {}


def _is_file_name(name: object) -> bool:
    return isinstance(name, str) and name not in ("", ".", "..") and Path(name).name == name


def _layout(target: Path, source: Source) -> tuple[Path | None, dict[Path, Path]]:
    """The index to write, if any, and the file to write for each of the source's."""
    inputs: Iterator[Path] = (reader.path for reader in source.readers)
    if source.index is None or target.suffix == ".safetensors":
        return None, dict.fromkeys(inputs, target)
    index = target if target.suffix == ".json" else target / source.index.name
    return index, {path: index.parent / path.name for path in inputs}
