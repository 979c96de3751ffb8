"""Factorizations and arrays in one safetensors file, by name."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from ..arrays import Array, is_array, to_host
from ..artifact import Reader, Writer
from ..errors import ArtifactError, refuse, refuse_type, within
from .result import Factorization


def save(path: str | os.PathLike[str], tensors: Mapping[str, Factorization | Array]) -> None:
    """Write factorizations and arrays to one safetensors file, atomically.

    Parameters
    ----------
    path : str or path-like
        The file to write; an existing one is replaced only when the new one is complete.
    tensors : mapping from str to Factorization or array
        Arrays of any dtype that safetensors knows pass through unchanged.

    Raises
    ------
    FileAccessError
        If the file cannot be written.
    ArgumentTypeError
        If a value is neither a factorization nor an array.

    Examples
    --------
    >>> import numpy as np, factorq as fq
    >>> F = fq.decompose(np.eye(8, dtype=np.float32), bits=2)
    >>> fq.save("eye.safetensors", {"eye": F, "bias": np.zeros(8)})  # doctest: +SKIP
    """
    if not isinstance(tensors, Mapping):
        raise refuse_type(
            "tensors", found=type(tensors).__name__, allowed="a mapping from names to factorizations or arrays"
        )
    with Writer(path) as writer:
        records = {name: write_tensor(writer, name, value) for name, value in tensors.items()}
        writer.commit({"tensors": {name: record for name, record in records.items() if record is not None}})


def load(path: str | os.PathLike[str]) -> dict[str, Factorization | NDArray[Any]]:
    """Read what :func:`save` or the command line wrote; plain safetensors files give plain arrays.

    Parameters
    ----------
    path : str or path-like
        A safetensors file.

    Returns
    -------
    dict
        Factorizations and NumPy arrays by name, in the order of the file.

    Raises
    ------
    ArtifactError
        If the file is truncated, corrupted, or was written by a newer version; :class:`FileAccessError`, a kind of
        it, if it is missing or cannot be read.
    """
    with Reader(path) as reader:
        return {name: read_tensor(reader, name, entries) for name, entries in contents(reader).items()}


def write_tensor(writer: Writer, name: str, value: Factorization | Array) -> dict[str, Any] | None:
    """Append one tensor to an open file; the record of a factorization, or None for an array."""
    if not isinstance(name, str):
        raise refuse_type("tensors", found=f"the name {name!r}", allowed="strings as names")
    with within(f"tensor {name!r}"):
        if isinstance(value, Factorization):
            if not name:
                raise refuse("tensors", found="a factorization without a name", allowed="names of 1 or more characters")
            for buffer, array in value.buffers().items():
                writer.add(f"{name}.{buffer}", array)
            return value.record()
        if not is_array(value):
            raise refuse_type("tensors", found=type(value).__name__, allowed="a Factorization or an array")
        writer.add(name, to_host(value))
        return None


def contents(reader: Reader) -> dict[str, list[str]]:
    """The logical tensors of an open file and their entries: those of a factorization, or an array's own name."""
    records = _records(reader)
    found: dict[str, list[str]] = {}
    for entry in reader.entries:
        found.setdefault(_owner(entry, records), []).append(entry)
    missing = [name for name in records if name not in found]
    if missing:
        raise ArtifactError(f"{reader.path}: tensor {missing[0]!r} has no buffers")
    return found


def read_tensor(reader: Reader, name: str, entries: list[str]) -> Factorization | NDArray[Any]:
    """One logical tensor of an open file; ``entries`` as :func:`contents` gives them."""
    records = _records(reader)
    if name not in records:
        return reader.read(name)
    buffers = {entry.removeprefix(f"{name}."): reader.read(entry) for entry in entries}
    with within(f"{reader.path}: tensor {name!r}"):
        return Factorization.from_record(records[name], buffers)


def _records(reader: Reader) -> Mapping[str, Any]:
    records = (reader.record or {}).get("tensors", {})
    if not isinstance(records, Mapping):
        raise ArtifactError(f"{reader.path}: the record of tensors is no mapping")
    return records


def _owner(entry: str, records: Mapping[str, Any]) -> str:
    """The factorization whose record lists the buffer ``entry``, or ``entry`` itself: names may contain dots."""
    end = entry.rfind(".")
    while end > 0:
        record = records.get(entry[:end])
        listed = record.get("entries") if isinstance(record, Mapping) else None
        if isinstance(listed, list) and entry[end + 1 :] in listed:
            return entry[:end]
        end = entry.rfind(".", 0, end)
    return entry
