"""``compress``: a checkpoint's matrices and tensors as stored factors, all else bit for bit."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import numpy as np

from ..arrays import FLOATS, generator
from ..artifact import DTYPES, Entry, PathLike
from ..errors import ArgumentError, refuse, refuse_type, within
from .allocation import common_step, corrected, sensitivities
from .report import Report, Row, describe
from .shards import Sink, Source, Tensor
from .workers import started, threads_suffice

if TYPE_CHECKING:
    from ..methods.base import Method
    from .pool import Outcome, Recipe

Callback = Callable[[Row, int, int], None]
_FLOATING = {name for name, dtype in DTYPES.items() if dtype in FLOATS.values()}
_MOST = 1 << 20  # a side that every rank fits
_ROUNDS = 3  # for a total: one met it on lenet5, resnet20 and stories260K at 0.3 to 16 bits


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
    store: str | None = None,
    exclude: Sequence[str] = (),
    jobs: int = 1,
    scheduler: str | None = None,
    rng: int | np.random.Generator | None = None,
    sensitivity: Mapping[str, float] | None = None,
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
    rank, bits, sparsity
        As for :func:`factorq.decompose`, for each tensor.
    bits_per_weight : float
        Stored bits per weight. Alone, or with the trellis as method, of all factored tensors together, met within
        0.5 %: one step for all of them gives each what lowers the total error most. With another method, of each.
    method : Method or str, optional
        A method, its id, or text such as ``"svd(rank=16) + scalar(bits=3)"``.
    group : int, optional
        Entries that share a scale, instead of the method's own choice.
    store : "packed", "entropy" or "xor", optional
        How codes are written, as for :func:`factorq.decompose`.
    exclude : sequence of str
        Patterns (``*``, ``?``, ``[...]``) of names that stay as they are.
    jobs : int
        Processes; 1 works in this one.
    scheduler : str, optional
        The address of a Dask cluster whose workers can read ``source`` under its name; ``jobs`` is then ignored.
    rng : int or Generator, optional
        The seed; each tensor has its own generator, derived from the seed and its name.
    sensitivity : mapping from str to float, optional
        By name or pattern, how much the squared error of a tensor counts against that of others, 1 if none matches:
        for example the mean diagonal of its Gram or Fisher matrix. With a total ``bits_per_weight`` only.
    callback : callable, optional
        Called with the row, the number of tensors done and their total after each tensor; from the start again if a
        total was missed.

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
        recipe = _recipe(rank, bits, sparsity, method, bits_per_weight, group, store, rng)
        total = _total(recipe, sensitivity)
        with Source(source) as origin:
            job = _Job(origin, _notes(origin, recipe, exclude), jobs, scheduler, callback, loaded)
            report = _written(job, target, recipe, total, sensitivity)
    return replace(report, seconds=time.perf_counter() - began)


@dataclass(frozen=True)
class _Job:
    """A checkpoint that is being compressed: why tensors stay as they are, and who works on the others."""

    origin: Source
    notes: Mapping[str, str]
    jobs: int
    scheduler: str | None
    callback: Callback | None
    loaded: Callable[[], object]

    @property
    def chosen(self) -> list[Tensor]:
        """The tensors that are factored."""
        return [tensor for name, tensor in self.origin.tensors.items() if not self.notes[name]]


def _written(
    job: _Job, target: PathLike, recipe: Recipe, total: float | None, sensitivity: Mapping[str, float] | None
) -> Report:
    """The checkpoint at ``target``, written again with a corrected step while it misses the total."""
    rounds = _ROUNDS
    while True:
        rounds -= 1
        with Sink(target, job.origin) as sink:
            if total is not None and recipe.bits_per_weight is not None:
                recipe = _allocated(job, recipe, total, sensitivity)
            rows, records = _run(job, sink, recipe)
            following = corrected(recipe, rows, total) if total is not None and rounds else recipe
            if following is recipe:
                return Report(sink.path, tuple(rows), sink.commit(records), job.origin.file_nbytes)
        recipe = following


def _run(job: _Job, sink: Sink, recipe: Recipe) -> tuple[list[Row], dict[str, Mapping[str, Any]]]:
    """The rows and records of all tensors, written to ``sink``."""
    rows: list[Row] = []
    records: dict[str, Mapping[str, Any]] = {}
    with closing(_outcomes(job, recipe)) as outcomes:
        for (name, tensor), outcome in zip(job.origin.tensors.items(), outcomes, strict=True):
            rows.append(_write(sink, tensor, job.notes[name], outcome, records))
            if job.callback is not None:
                job.callback(rows[-1], len(rows), len(job.notes))
    if not any(row.method or row.note.startswith("its factors") for row in rows):
        raise _nothing(rows)
    return rows, records


def _total(recipe: Recipe, sensitivity: Mapping[str, float] | None) -> float | None:
    """The bits per weight that all tensors are to take together; None if each is on its own."""
    from ..methods import Trellis

    others = recipe.rank, recipe.bits, recipe.sparsity
    method = recipe.method
    plain = method in (None, Trellis.id) or (
        isinstance(method, Trellis) and not method.fixed_rate and not method.rotate
    )
    if recipe.bits_per_weight is not None and plain and all(value is None for value in others):
        return recipe.bits_per_weight
    if sensitivity:
        found = "it with something else than a total size"
        raise refuse("sensitivity", found=found, allowed="bits_per_weight, alone or with the method trellis")
    return None


def _allocated(job: _Job, recipe: Recipe, total: float, sensitivity: Mapping[str, float] | None) -> Recipe:
    """The recipe with one step for all tensors, at which they take the total."""
    chosen = job.chosen
    weighted = replace(recipe, sensitivity=sensitivities(sensitivity, [tensor.name for tensor in chosen]))

    def drafts(recipe: Recipe) -> list[float]:
        with closing(_results(job, recipe)) as results:
            return [outcome.number for outcome in results]

    return common_step(weighted, chosen, total, drafts)


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
    store: str | None,
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
    recipe = Recipe(rank, bits, sparsity, method, bits_per_weight, group, seed, store)
    _fits_large(recipe)
    return recipe


def _notes(source: Source, recipe: Recipe, exclude: Sequence[str]) -> dict[str, str]:
    """Why each tensor stays as it is; empty for those that are factored."""
    if source.factored:
        found = f"{source.path}, a factorq file"
        raise refuse("source", found=found, allowed="a plain one", remedy="decompress it first")
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
        _fits_large(recipe)
        return error.message
    return ""


def _fits_large(recipe: Recipe) -> None:
    """Raise unless the recipe fits a large matrix or a large convolution; whether a fold does is a matter of each."""
    refused: list[ArgumentError] = []
    for shape in ((_MOST, _MOST), (_MOST, _MOST, 3, 3)):
        try:
            recipe.plan(shape)
            return
        except ArgumentError as error:
            refused.append(error)
    if not any(error.message.startswith("fold: ") for error in refused):
        raise refused[0]


def _nothing(rows: Sequence[Row]) -> ArgumentError:
    reasons = [row for row in rows if row.note]
    # A refused size says more than a bias that was never meant.
    best = max(reasons, key=lambda row: (":" in row.note, row.size), default=None)
    found = f"no tensor to factor (the first of {len(rows)}: {best.name}: {best.note})" if best else "no tensors"
    return refuse("source", found=found, allowed="a checkpoint with a tensor that the arguments fit")


def _outcomes(job: _Job, recipe: Recipe) -> Generator[Outcome | None, None, None]:
    """For every tensor in order what a worker made of it, or None for those that stay as they are."""
    with closing(_results(job, recipe)) as results:
        for name in job.origin.tensors:
            yield None if job.notes[name] else next(results)


def _results(job: _Job, recipe: Recipe) -> Generator[Outcome, None, None]:
    """What workers make of the chosen tensors, in order."""
    from .pool import forget_readers, in_order, stamp

    job.loaded()
    paths = {reader.path: os.path.abspath(reader.path) for reader in job.origin.readers}
    stamps = {path: stamp(name) for path, name in paths.items()}
    tasks = [(paths[t.reader.path], stamps[t.reader.path], t.name) for t in job.chosen]
    results = in_order(tasks, recipe, job.jobs, job.scheduler)
    try:
        yield from results
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
