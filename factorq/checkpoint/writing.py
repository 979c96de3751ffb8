"""``compress``: a checkpoint's matrices and tensors as stored factors, all else bit for bit."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import numpy as np

from ..arrays import FLOATS, generator
from ..artifact import DTYPES, Entry, PathLike
from ..errors import ArgumentError, refuse, refuse_type, within
from .report import Report, Row, describe
from .shards import Sink, Source, Tensor
from .workers import started, threads_suffice

if TYPE_CHECKING:
    from ..methods.base import Method
    from .pool import Outcome, Recipe

Callback = Callable[[Row, int, int], None]
_FLOATING = {name for name, dtype in DTYPES.items() if dtype in FLOATS.values()}
_MOST = 1 << 20  # a side that every rank fits


def compress(
    source: PathLike,
    target: PathLike,
    rank: int | None = None,
    bits: int | tuple[int, ...] | None = None,
    sparsity: float | None = None,
    *,
    method: Method | str | None = None,
    bits_per_weight: float | None = None,
    group: int | None = None,
    exclude: Sequence[str] = (),
    jobs: int = 1,
    scheduler: str | None = None,
    rng: int | np.random.Generator | None = None,
    callback: Callback | None = None,
) -> Report:
    """Write the checkpoint ``target``: every floating tensor of 2 or more axes as factors, all else bit for bit.

    The same input, arguments and seed give the same bytes, whatever ``jobs`` and ``scheduler`` are. Peak memory is
    that of one tensor, in each process.

    Parameters
    ----------
    source : str or path
        A safetensors file, an index (``model.safetensors.index.json``) or its folder.
    target : str or path
        The file to write; for a sharded source an index, a folder, or a ``.safetensors`` file for all shards.
        Existing files are replaced when the new ones are complete.
    rank, bits, sparsity, bits_per_weight
        As for :func:`factorq.decompose`, for each tensor.
    method : Method or str, optional
        A method, its id, or text such as ``"svd(rank=16) + scalar(bits=3)"``.
    group : int, optional
        Entries that share a scale, instead of the method's own choice.
    exclude : sequence of str
        Patterns (``*``, ``?``, ``[...]``) of names that stay as they are.
    jobs : int
        Processes; 1 works in this one.
    scheduler : str, optional
        The address of a Dask cluster whose workers can read ``source`` under its name; ``jobs`` is then ignored.
    rng : int or Generator, optional
        The seed; each tensor has its own generator, derived from the seed and its name.
    callback : callable, optional
        Called with the row, the number of tensors done and their total after each tensor.

    Returns
    -------
    Report
        What was done to each tensor, sizes and errors.

    Raises
    ------
    ArgumentError, ArgumentTypeError
        If an argument is outside what it allows, or fits no tensor.
    ArtifactError, FileAccessError
        If the source is damaged or holds NaN or infinities, or a file cannot be read or written. The target is then
        as it was.
    """
    began = time.perf_counter()
    _check(exclude, jobs)
    processes = scheduler is None and not threads_suffice(method, rank)
    with started(jobs if processes else 1) as loaded:
        recipe = _recipe(rank, bits, sparsity, method, bits_per_weight, group, rng)
        with Source(source) as origin, Sink(target, origin) as sink:
            rows, size = _run(origin, sink, recipe, exclude, jobs, scheduler, callback, loaded)
            return Report(sink.path, tuple(rows), size, origin.file_nbytes, time.perf_counter() - began)


def _run(
    origin: Source,
    sink: Sink,
    recipe: Recipe,
    exclude: Sequence[str],
    jobs: int,
    scheduler: str | None,
    callback: Callback | None,
    loaded: Callable[[], object],
) -> tuple[list[Row], int]:
    """The rows of all tensors, and the bytes of the files that hold them now."""
    if origin.factored:
        found = f"{origin.path}, a factorq file"
        raise refuse("source", found=found, allowed="a plain one", remedy="decompress it first")
    notes = _notes(origin, recipe, exclude)
    loaded()
    rows: list[Row] = []
    records: dict[str, Mapping[str, Any]] = {}
    with closing(_outcomes(origin, notes, recipe, jobs, scheduler)) as outcomes:
        for tensor, outcome in outcomes:
            rows.append(_write(sink, tensor, notes[tensor.name], outcome, records))
            if callback is not None:
                callback(rows[-1], len(rows), len(notes))
    if not any(row.method or row.note.startswith("its factors") for row in rows):
        raise _nothing(rows)
    return rows, sink.commit(records)


def _check(exclude: Sequence[str], jobs: int) -> None:
    if isinstance(jobs, bool) or not isinstance(jobs, int | np.integer):
        raise refuse_type("jobs", found=repr(jobs), allowed="an integer of at least 1")
    if jobs < 1:
        raise refuse("jobs", found=jobs, allowed="an integer of at least 1")
    if isinstance(exclude, str) or not all(isinstance(pattern, str) for pattern in exclude):
        raise refuse_type("exclude", found=repr(exclude), allowed="a sequence of patterns, for example ['embed*']")


def _recipe(
    rank: int | None,
    bits: int | tuple[int, ...] | None,
    sparsity: float | None,
    method: Method | str | None,
    bits_per_weight: float | None,
    group: int | None,
    rng: int | np.random.Generator | None,
) -> Recipe:
    """The arguments, checked as far as they can be without a tensor."""
    from ..constraints import check_group  # here and below: scipy comes with the solvers, and readers need none
    from .expression import parse
    from .pool import Recipe

    check_group(group)
    if isinstance(method, str) and not method.strip().isidentifier():
        method = parse(method)
    drawn = generator(rng)
    seed = int(drawn.integers(2**63)) if not isinstance(rng, int | np.integer | None) else int(rng or 0)
    recipe = Recipe(rank, bits, sparsity, method, bits_per_weight, group, seed)
    recipe.plan((_MOST, _MOST))
    return recipe


def _notes(source: Source, recipe: Recipe, exclude: Sequence[str]) -> dict[str, str]:
    """Why each tensor stays as it is; empty for those that are factored."""
    notes: dict[str, str] = {}
    fits: dict[tuple[int, ...], str] = {}
    for name, tensor in source.tensors.items():
        notes[name] = _untouched(name, tensor.entry, exclude)
        shape = tensor.entry.shape
        if not notes[name] and shape not in fits:
            with within(f"tensor {name!r}"):
                fits[shape] = _misfit(recipe, shape)
        notes[name] = notes[name] or fits[shape]
    if not any(note == "" for note in notes.values()):
        raise _nothing([_row(tensor, notes[name]) for name, tensor in source.tensors.items()])
    return notes


def _untouched(name: str, entry: Entry, exclude: Sequence[str]) -> str:
    if entry.dtype not in _FLOATING:
        return f"dtype {entry.dtype}"
    if len(entry.shape) < 2:
        return f"{len(entry.shape)}-D"
    if 0 in entry.shape:
        return "empty"
    pattern = next((pattern for pattern in exclude if fnmatchcase(name, pattern)), None)
    return "" if pattern is None else f"excluded by {pattern!r}"


def _misfit(recipe: Recipe, shape: tuple[int, ...]) -> str:
    """Why an array of ``shape`` is too small for the recipe, if it is; one that would not fit a large array raises."""
    try:
        recipe.plan(shape)
    except ArgumentError as error:
        recipe.plan((_MOST, _MOST, *(1 for _ in shape[2:])))
        return error.message
    return ""


def _nothing(rows: Sequence[Row]) -> ArgumentError:
    reasons = [row for row in rows if row.note]
    # A refused size says more than a bias that was never meant.
    best = max(reasons, key=lambda row: (":" in row.note, row.size), default=None)
    found = f"no tensor to factor (the first of {len(rows)}: {best.name}: {best.note})" if best else "no tensors"
    return refuse("source", found=found, allowed="a checkpoint with a tensor that the arguments fit")


def _outcomes(
    source: Source, notes: Mapping[str, str], recipe: Recipe, jobs: int, scheduler: str | None
) -> Generator[tuple[Tensor, Outcome | None], None, None]:
    """Every tensor in order, with what a worker made of it, or None for those that stay as they are."""
    from .pool import forget_readers, in_order, stamp

    chosen = [tensor for name, tensor in source.tensors.items() if not notes[name]]
    paths = {reader.path: os.path.abspath(reader.path) for reader in source.readers}
    stamps = {path: stamp(name) for path, name in paths.items()}
    tasks = [(paths[t.reader.path], stamps[t.reader.path], t.name) for t in chosen]
    results = in_order(tasks, recipe, jobs, scheduler)
    try:
        for name, tensor in source.tensors.items():
            yield tensor, None if notes[name] else next(results)
    finally:
        results.close()
        forget_readers()


def _write(
    sink: Sink, tensor: Tensor, note: str, outcome: Outcome | None, records: dict[str, Mapping[str, Any]]
) -> Row:
    writer = sink.writer(tensor)
    if outcome is None or outcome.record is None or outcome.buffers is None:
        entry = tensor.entry
        writer.add_raw(tensor.name, entry.dtype, entry.shape, tensor.reader.read_bytes(tensor.name))
        return _row(tensor, note, outcome)
    for name, array in outcome.buffers.items():
        writer.add(f"{tensor.name}.{name}", array)
    records[tensor.name] = outcome.record
    return _row(tensor, note, outcome)


def _row(tensor: Tensor, note: str, outcome: Outcome | None = None) -> Row:
    entry = tensor.entry
    if outcome is None:
        return Row(tensor.name, entry.shape, entry.dtype, entry.nbytes, note=note)
    if outcome.record is None or outcome.buffers is None:
        return Row(tensor.name, entry.shape, entry.dtype, entry.nbytes, note=outcome.reason, seconds=outcome.seconds)
    return Row(
        tensor.name,
        entry.shape,
        entry.dtype,
        sum(array.nbytes for array in outcome.buffers.values()),
        method=describe(outcome.record["method"]),
        relative_error=float(outcome.record["relative_error"]),
        norm=outcome.norm,
        seconds=outcome.seconds,
        config=outcome.record["method"],
    )
