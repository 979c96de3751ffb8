"""The command line: compress | info | verify | decompress | demo. Parse, call, print."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .errors import ArtifactError, FactorqError

if TYPE_CHECKING:
    from .checkpoint.report import Report, Row

FAILED, USAGE, INTERRUPTED = 1, 2, 130
Tell = Callable[["Row", int, int], None]


class _Group(click.Group):
    """A group of commands whose every failure is one line on standard error and an exit status."""

    def main(self, *args: Any, **keywords: Any) -> Any:
        keywords["standalone_mode"] = False
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, _interrupt)  # so that temporary files go, as they do on Ctrl-C
        try:
            status = super().main(*args, **keywords)
            sys.stdout.flush()
        except click.exceptions.NoArgsIsHelpError as error:
            click.echo(error.format_message(), err=True)
            status = USAGE
        except click.ClickException as error:
            status = _fail(error.format_message(), USAGE)
        except (click.Abort, KeyboardInterrupt):
            click.echo("factorq: interrupted", err=True)
            status = INTERRUPTED
        except BrokenPipeError:  # the reader of our output left, as `head` does
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            status = FAILED
        except FactorqError as error:
            status = _fail(error.message, FAILED if isinstance(error, ArtifactError) else USAGE)
        except MemoryError as error:
            status = _fail(f"not enough memory ({error}); try fewer --jobs", FAILED)
        except OSError as error:
            status = _fail(str(error), FAILED)
        except Exception as error:
            if os.environ.get("FACTORQ_TRACEBACK"):
                raise
            text = (
                f"internal error ({type(error).__name__}: {error}); FACTORQ_TRACEBACK=1 shows where, please report it"
            )
            status = _fail(text, FAILED)
        raise SystemExit(status if isinstance(status, int) else 0)


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _fail(message: str, status: int) -> int:
    click.echo(f"factorq: error: {' '.join(message.split())}", err=True)
    return status


class _Bits(click.ParamType):  # type: ignore[type-arg,unused-ignore]  # generic since click 8.4
    """A number, or numbers with commas between them: one for each factor."""

    name = "bits"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            numbers = tuple(int(part) if part.strip().isdigit() else float(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"found {value}, allowed is a number such as 4 or 2.5, or one per factor: 4,6", param, ctx)
        return numbers if len(numbers) > 1 else numbers[0]


class _Weight(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """A pattern of names and a number."""

    name = "weight"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        pattern, _, weight = str(value).rpartition("=")
        try:
            if not pattern:
                raise ValueError
            return pattern, float(weight)
        except ValueError:
            self.fail(f"found {value}, allowed is a name or pattern with a number, such as 'layer1*=4'", param, ctx)


def _version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        from importlib.metadata import version

        click.echo(f"factorq {version('factorq')}")
        ctx.exit()


def _input(ctx: click.Context, param: click.Parameter, value: Path) -> Path:
    if not value.exists():
        raise click.BadParameter(f"{value}: no such file; check the path", ctx, param)
    return value


def _output(ctx: click.Context, param: click.Parameter, value: Path) -> Path:
    from .artifact import check_writable

    try:
        if not value.is_dir():  # a folder is right for a sharded checkpoint, and refused later for others
            check_writable(value)
    except ArtifactError as error:
        raise click.BadParameter(error.message, ctx, param) from None
    return value


_PATH = click.Path(path_type=Path)
_source = click.argument("source", metavar="IN", type=_PATH, callback=_input)
_target = click.option(
    "-o", "--output", "target", metavar="OUT", type=_PATH, required=True, callback=_output,
    help="The file to write (for shards also a folder or an index); replaced when complete.",
)  # fmt: skip
_as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON document and nothing else.")


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Print the version."
)
def main() -> None:
    """Compress weights by factorisation: small, quantized, sparse factors in safetensors files.

    Exit status: 0; 1 if a check or the run failed; 2 for wrong usage; 130 if interrupted.
    """


@main.command()
@_source
@_target
@click.option(
    "--method", metavar="METHOD", help="An id, or settings and sums: 'svd(rank=16, bits=8) + trellis(bits=3)'."
)
@click.option("--rank", type=int, help="Inner dimension of the factors, at least 1.")
@click.option(
    "--bits", type=_Bits(), help="Stored bits per weight: 2.5. With a rank or sparsity, bits per value: 4, or 4,6."
)
@click.option("--sparsity", type=float, help="Share of zeros in the sparse factor, 0 <= share < 1.")
@click.option("--bits-per-weight", type=float,
    help="Target for the stored size of all factored tensors together; with another method than the trellis, of each.",
)  # fmt: skip
@click.option(
    "--sensitivity", metavar="PATTERN=WEIGHT", type=_Weight(), multiple=True,
    help="How much errors of these tensors count against others', with --bits-per-weight; repeatable.",
)  # fmt: skip
@click.option("--group", type=int, help="Entries that share a scale; with --bits, those of a grid.")
@click.option("--store", type=click.Choice(["packed", "entropy", "xor"]), help="How codes are written, without loss.")
@click.option(
    "--exclude", metavar="PATTERN", multiple=True, help="Names that stay as they are, a shell pattern; repeatable."
)
@click.option("--jobs", type=int, default=1, show_default=True, help="Processes; the output does not depend on it.")
@click.option("--scheduler", metavar="ADDRESS", help="Run on the Dask cluster at this address.")
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the randomized methods."
)
@_as_json
def compress(source: Path, target: Path, seed: int, as_json: bool, **options: Any) -> None:
    """Write the checkpoint IN with every floating tensor of 2 or more axes as factors.

    IN is a safetensors file, a model.safetensors.index.json, or its folder. All other tensors pass through bit for bit.
    """
    from .checkpoint import compress

    if all(options[name] is None for name in ("method", "rank", "bits", "sparsity", "bits_per_weight")):
        raise click.UsageError("say how to compress, for example --bits 4, --rank 64 --bits 6 or --bits-per-weight 3.2")
    options["sensitivity"] = dict(options["sensitivity"])
    with _progress(as_json, _line) as tell:
        report = compress(source, target, rng=seed, callback=tell, **options)
    _show(report, as_json, listed=not _terminal())


@main.command()
@click.argument("file", metavar="FILE", type=_PATH, callback=_input)
@_as_json
def info(file: Path, as_json: bool) -> None:
    """Print what FILE holds, from its header alone."""
    from .checkpoint import info

    _show(info(file), as_json)


@main.command()
@click.argument("file", metavar="FILE", type=_PATH, callback=_input)
@click.option("--against", "original", metavar="IN", type=_PATH, required=True, callback=_input, help="The original.")
@click.option("--max-error", type=click.FloatRange(min=0), help="Relative error that no tensor may exceed.")
@_as_json
def verify(file: Path, original: Path, max_error: float | None, as_json: bool) -> int:
    """Measure FILE's errors against IN again, check all checksums; exit status 1 if anything is wrong."""
    from .checkpoint import verify

    with _progress(as_json, _line) as tell:
        report = verify(file, original, max_error, callback=tell)
    _show(report, as_json, listed=not _terminal())
    if not report.failures:
        return 0
    first = report.failures[0]
    more = f" (and {len(report.failures) - 1} more)" if len(report.failures) > 1 else ""
    return _fail(f"tensor {first.name!r}: {first.failure}{more}", FAILED)


@main.command()
@click.argument("file", metavar="FILE", type=_PATH, callback=_input)
@_target
@_as_json
def decompress(file: Path, target: Path, as_json: bool) -> None:
    """Write FILE as plain safetensors with the original names, shapes, dtypes and order."""
    from .checkpoint import decompress

    with _progress(as_json, None) as tell:
        report = decompress(file, target, callback=tell)
    if as_json:
        click.echo(json.dumps(report.to_json(), indent=1))
    else:
        size = f"{report.file_nbytes:,} -> {report.original_nbytes:,} bytes"
        click.echo(f"{target}: {len(report.rows)} tensors, {size}")


@main.command()
@click.option(
    "--output", "-o", type=_PATH, default=Path("demo-output"), show_default=True, help="Folder for the results."
)
@_as_json
def demo(output: Path, as_json: bool) -> None:
    """Train a small network, compress it at several settings, print a table, draw error against bits."""
    from .demo import run

    result = run(output, (lambda line: None) if as_json else click.echo)
    if as_json:
        click.echo(json.dumps(result, indent=1))


# --- what is printed ------------------------------------------------------------------------------------------------


def _terminal() -> bool:
    return sys.stdout.isatty()


@contextmanager
def _progress(as_json: bool, line: Callable[[Row, int, int], str] | None) -> Iterator[Tell]:
    """A bar on a terminal; elsewhere one line per tensor as it is done, none of them among JSON."""
    if sys.stderr.isatty() and (as_json or _terminal()):
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.description}", markup=False),
        )
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("", total=None)
            yield lambda row, done, total: bar.update(task, description=row.name, completed=done, total=total)
    elif as_json or line is None:
        yield lambda row, done, total: None
    else:
        yield lambda row, done, total: click.echo(line(row, done, total))


def _line(row: Row, done: int, total: int) -> str:
    name, shape, *rest = _cells(row)
    return f"{done}/{total} {name} {shape} {', '.join(filter(None, rest))}"


def _cells(row: Row) -> list[str]:
    """Name, shape, method or note, bits per weight, relative error, seconds; empty where there is none."""
    bits = row.bits_per_weight
    return [
        _printable(row.name),
        "x".join(map(str, row.shape)) or "scalar",
        row.failure or row.method or _as_it_is(row.note),
        "" if bits is None else f"{bits:.3f} bits",
        "" if row.relative_error is None else f"error {row.relative_error:.4g}",
        "" if row.seconds is None else f"{row.seconds:.2f} s",
    ]


def _printable(name: str) -> str:
    """``name`` without what a terminal would obey."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)


def _as_it_is(note: str) -> str:
    return f"as it is: {note}" if note else "as it is"


def _show(report: Report, as_json: bool, listed: bool = False) -> None:
    """The report as JSON, as a table, or, where the tensors were listed already, as its last line."""
    if as_json:
        click.echo(json.dumps(report.to_json(), indent=1))
    elif listed:
        click.echo(_total(report))
    elif _terminal():
        _table(report)
    else:
        for done, row in enumerate(report.rows, 1):
            click.echo(_line(row, done, len(report.rows)))
        click.echo(_total(report))


def _table(report: Report) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    timed = any(row.seconds is not None for row in report.rows)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("tensor", overflow="fold")
    table.add_column("shape", no_wrap=True)
    table.add_column("method", overflow="fold")
    for title in ("bits/weight", "error", "seconds")[: 3 if timed else 2]:
        table.add_column(title, justify="right", no_wrap=True)
    alike = Counter(row.note for row in report.rows if not row.method and not row.failure)
    for row in report.rows:
        if row.failure or row.method or alike[row.note] == 1:
            cells = [cell.removeprefix("error ").removesuffix(" bits").removesuffix(" s") for cell in _cells(row)]
            style = "red" if row.failure else "" if row.method else "dim"
            table.add_row(*map(Text, cells[: 6 if timed else 5]), style=style)
    for note, count in alike.items():
        if count > 1:
            table.add_row(f"{count} tensors", "", Text(_as_it_is(note)), style="dim")
    console = Console()
    console.print(table)
    console.print(Text(_total(report), style="bold"))


def _total(report: Report) -> str:
    """Bytes before and after, bits per weight over all, the error of the factored tensors together, seconds."""
    factored = sum(bool(row.method) for row in report.rows)
    parts = [f"{factored} of {len(report.rows)} tensors factored"]
    if report.original_nbytes:
        ratio = report.original_nbytes / max(report.file_nbytes, 1)
        parts.append(f"{report.original_nbytes:,} -> {report.file_nbytes:,} bytes ({ratio:.2f} times smaller)")
    else:
        parts.append(f"{report.file_nbytes:,} bytes")
    if report.bits_per_weight is not None:
        parts.append(f"{report.bits_per_weight:.3f} bits per weight")
        if report.factored_bits_per_weight is not None and factored < len(report.rows):
            parts[-1] += f" ({report.factored_bits_per_weight:.3f} in the factored ones)"
    if report.relative_error is not None:
        parts.append(f"relative error {report.relative_error:.4g}")
    if report.seconds is not None:
        parts.append(f"{report.seconds:.1f} s")
    return f"{report.path}: {', '.join(parts)}"
