"""``info``, ``verify``, ``decompress``: what a compressed checkpoint says, whether it is true, and the way back."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from .. import measure
from ..arrays import to_host
from ..artifact import DTYPES, PathLike
from ..errors import ArtifactError, refuse, refuse_type
from ..factorization import Factorization, read_tensor
from .report import Report, Row, describe
from .shards import Sink, Source, Tensor

Callback = Callable[[Row, int, int], None]
_NAMES = {str(dtype): name for name, dtype in DTYPES.items()}


def info(path: PathLike) -> Report:
    """What the headers of a checkpoint say: shapes, methods, stored sizes, recorded errors. No tensor is read.

    Raises
    ------
    ArtifactError, FileAccessError
        If a file is missing or damaged.
    """
    with Source(path) as source:
        rows = tuple(_described(tensor) for tensor in source.tensors.values())
        return Report(source.index or source.path, rows, source.file_nbytes)


def verify(
    compressed: PathLike, original: PathLike, max_error: float | None = None, callback: Callback | None = None
) -> Report:
    """Measure again, from the stored factors, what ``compressed`` says about ``original``.

    Checked are names, shapes and dtypes, every buffer's checksum, that tensors stored as they are did not change by
    a bit, and that each recorded error is the measured one.

    Parameters
    ----------
    compressed, original : str or path
        Checkpoints, as for :func:`compress`.
    max_error : float, optional
        The relative error that no tensor may exceed.
    callback : callable, optional
        As for :func:`compress`.

    Returns
    -------
    Report
        Measured errors; ``failures`` are the tensors that did not pass.
    """
    if max_error is not None and (isinstance(max_error, bool) or not isinstance(max_error, int | float | np.floating)):
        raise refuse_type("max_error", found=repr(max_error), allowed="a number of at least 0")
    if max_error is not None and not max_error >= 0:
        raise refuse("max_error", found=max_error, allowed="a number of at least 0")
    with Source(compressed) as stored, Source(original) as origin:
        if origin.factored:
            raise refuse("original", found=f"{original}, a factorq file", allowed="the plain checkpoint it came from")
        names = list(origin.tensors) + [name for name in stored.tensors if name not in origin.tensors]
        rows: list[Row] = []
        for name in names:
            rows.append(_verified(stored.tensors.get(name), origin.tensors.get(name), max_error))
            if callback is not None:
                callback(rows[-1], len(rows), len(names))
        return Report(stored.index or stored.path, tuple(rows), stored.file_nbytes, origin.file_nbytes)


def decompress(path: PathLike, target: PathLike, callback: Callback | None = None) -> Report:
    """Write ``target`` as plain safetensors: the names, shapes, dtypes, metadata and order of the original checkpoint.

    Parameters
    ----------
    path : str or path
        What :func:`compress` or :func:`factorq.save` wrote.
    target : str or path
        As for :func:`compress`.
    callback : callable, optional
        As for :func:`compress`.
    """
    with Source(path) as source, Sink(target, source) as sink:
        if not source.factored:
            raise ArtifactError(f"{path}: is not a factorq file; there is nothing to decompress")
        rows: list[Row] = []
        for tensor in source.tensors.values():
            rows.append(_restore(sink, tensor))
            if callback is not None:
                callback(rows[-1], len(rows), len(source.tensors))
        original = sink.commit(None)
        return Report(source.index or source.path, tuple(rows), source.file_nbytes, original)


def _described(tensor: Tensor) -> Row:
    """A row from the header alone."""
    record = tensor.record
    if record is None:
        return Row(tensor.name, tensor.entry.shape, tensor.entry.dtype, tensor.nbytes)
    with _malformed(tensor):
        config: Mapping[str, Any] = dict(record["method"])
        shape = tuple(int(size) for size in record["shape"])
        dtype = _NAMES[record["dtype"]]
        error = float(record["relative_error"])
        return Row(tensor.name, shape, dtype, tensor.nbytes, describe(config), relative_error=error, config=config)


def _restore(sink: Sink, tensor: Tensor) -> Row:
    row = _described(tensor)
    if tensor.record is None:
        entry = tensor.entry
        sink.writer(tensor).add_raw(tensor.name, entry.dtype, entry.shape, tensor.reader.read_bytes(tensor.name))
    else:
        sink.writer(tensor).add(tensor.name, _factorization(tensor).to_dense())
    return row


def _verified(stored: Tensor | None, origin: Tensor | None, max_error: float | None) -> Row:
    if stored is None or origin is None:
        there = stored or origin
        where = "the compressed checkpoint" if stored is None else "the original"
        return _failed(_described(there), f"missing in {where}") if there is not None else Row("", (), "", 0)
    row = _described(stored)
    if row.shape != origin.entry.shape or row.dtype != origin.entry.dtype:
        shape = "x".join(map(str, origin.entry.shape))
        return _failed(row, f"the original is {shape} {origin.entry.dtype}")
    if stored.record is None:
        same = np.array_equal(stored.reader.read_bytes(stored.name), origin.reader.read_bytes(origin.name))
        return row if same else _failed(row, "stored as it is, but its bytes differ from the original's")
    F, W = _factorization(stored), origin.reader.read(origin.name)
    measured, norm = measure.relative_error(W, to_host(F.to_dense())), measure.norm(W)
    row = Row(row.name, row.shape, row.dtype, row.nbytes, row.method, "", measured, norm, config=row.config)
    if not math.isclose(measured, F.relative_error, rel_tol=1e-4, abs_tol=1e-6):  # BLAS rounds differently elsewhere
        return _failed(row, f"recorded error {F.relative_error:.4g}, measured {measured:.4g}")
    if max_error is not None and not measured <= max_error:
        return _failed(row, f"error {measured:.4g} above {max_error:g}")
    return row


def _factorization(tensor: Tensor) -> Factorization:
    value = read_tensor(tensor.reader, tensor.name, list(tensor.entries))
    if not isinstance(value, Factorization):
        raise ArtifactError(f"{tensor.reader.path}: tensor {tensor.name!r} has no record")
    return value


def _failed(row: Row, why: str) -> Row:
    return Row(
        row.name, row.shape, row.dtype, row.nbytes, row.method, row.note, row.relative_error, row.norm, failure=why
    )


@contextmanager
def _malformed(tensor: Tensor) -> Iterator[None]:
    """Read a record that may hold anything."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        text = f"malformed description ({type(error).__name__}: {error})"
        raise ArtifactError(f"{tensor.reader.path}: tensor {tensor.name!r}: {text}") from None
