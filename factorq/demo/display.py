"""How the results are shown: one table, one plot."""

from __future__ import annotations

import math
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

STYLES = {  # colour (Okabe and Ito's palette and a purple) and marker of each family, in the legend's order
    "trellis": ("#000000", "p"),
    "grid": ("#0072B2", "o"),
    "Lloyd-Max levels": ("#56B4E9", "s"),
    "pruned + grid": ("#E69F00", "D"),
    "with a gram": ("#009E73", "^"),
    "low rank": ("#D55E00", "v"),
    "low rank + grid": ("#CC79A7", "P"),
    "quantized sparse": ("#5E3C99", "X"),
}
CALIBRATED = "with a gram"
_NOTES = (
    "Bits per weight and error are of the weight matrices; file bytes count everything, header and biases too.",
    "The gram is the second moment of a layer's inputs over the training images, plus 1% of its mean diagonal.",
    "Seconds are of the work, without Python's start; the first use of a kernel on a machine compiles it.",
)


@dataclass(frozen=True)
class Result:
    """One row of the table; bits, error and accuracy are of the stored file as read back.

    Attributes
    ----------
    bits_per_weight, relative_error : float
        Of the weight matrices.
    file_bytes : int
        The whole file, with header and biases.
    accuracy_before, accuracy_after : float
        Share of the test images that are classified right.
    seconds : float or None
        Of the work, without Python's start.
    """

    family: str
    method: str
    command: str
    bits_per_weight: float
    file_bytes: int
    relative_error: float
    accuracy_before: float
    accuracy_after: float
    seconds: float | None


def table(results: Sequence[Result], title: str) -> str:
    """The table for the terminal's width, in colour only on a terminal."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    shown = Table(title=Text(title, style="bold"), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    shown.collapse_padding = True
    shown.add_column("\nmethod", min_width=14)
    headings = "bits per\nweight", "file\nbytes", "relative\nerror", "accuracy\nbefore", "\nafter", "\nseconds"
    for heading in headings:
        shown.add_column(heading, justify="right", no_wrap=True)
    for result in results:
        numbers = (
            f"{result.bits_per_weight:.3f}",
            f"{result.file_bytes:,}",
            f"{result.relative_error:.4f}",
            f"{result.accuracy_before:.1%}",
            f"{result.accuracy_after:.1%}",
            "" if result.seconds is None else f"{result.seconds:.2f}",
        )
        colour = STYLES[result.family][0] if result.family else "bold"
        shown.add_row(Text(result.method, style=colour), *numbers)
    terminal = sys.stdout.isatty()
    width = max(shutil.get_terminal_size().columns, 72) if terminal else 120  # below that, numbers would be cut
    text = StringIO()
    console = Console(file=text, force_terminal=terminal, width=width, legacy_windows=False)
    console.print(shown)
    for note in _NOTES:
        console.print(Text(note, style="dim"))
    return "\n" + "\n".join(line.rstrip() for line in text.getvalue().splitlines()) + "\n"


def plot(results: Sequence[Result], before: float, files: Sequence[Path]) -> None:
    """Error and accuracy against bits, beside each other; the same bytes for the same results."""
    import matplotlib
    from matplotlib.figure import Figure

    look = {"font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "factorq"}
    most = max(result.bits_per_weight for result in results) + 0.4
    with matplotlib.rc_context(look):
        figure = Figure(figsize=(11, 5.6), layout="constrained")
        error, accuracy = figure.subplots(1, 2)
        handles = _draw(error, results, "relative_error")
        _draw(accuracy, results, "accuracy_after")
        for axes in (error, accuracy):
            axes.set_xlim(0, most)
            axes.set_xlabel("stored bits per weight")
            axes.grid(color="0.92")
        _dress_error(error, most)
        _dress_accuracy(accuracy, before, most)
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, columnspacing=1.4)
        for file in files:
            figure.savefig(file, dpi=160, metadata={"Date": None} if file.suffix == ".svg" else None)


def _draw(axes: Any, results: Sequence[Result], value: str) -> list[Any]:
    """One line for each family, the first in front; an arrow from each result to the one that has a gram as well."""
    handles = []
    for rank, (family, (colour, marker)) in enumerate(STYLES.items()):
        rows = sorted((r for r in results if r.family == family), key=lambda r: r.bits_per_weight)
        if rows:
            x, y = [r.bits_per_weight for r in rows], [getattr(r, value) for r in rows]
            if family != CALIBRATED:
                axes.plot(x, y, color=colour, linewidth=1.2, alpha=0.6, zorder=2)
            mark = {
                "marker": marker,
                "markersize": 8.5 if rank else 6.5,
                "markeredgecolor": "white",
                "linestyle": "none",
            }
            handles += axes.plot(x, y, color=colour, label=family, zorder=10 - rank, **mark)
    placed = {r.method: (r.bits_per_weight, getattr(r, value)) for r in results}
    for method, end in placed.items():
        start = placed.get(method.removesuffix(", gram"), end)
        if start != end:
            arrow = {"arrowstyle": "->", "color": STYLES[CALIBRATED][0], "linewidth": 1.2, "shrinkA": 5, "shrinkB": 5}
            axes.annotate("", end, xytext=start, arrowprops=arrow, zorder=2)
    return handles


def _dress_error(axes: Any, most: float) -> None:
    """The left panel's bound, scale and labels."""
    axes.set_yscale("log", base=2)
    axes.plot([0, most], [1, 2**-most], color="0.4", linestyle="--", linewidth=1)
    x = 0.72 * most  # right of the trellis, which may lie below the bound
    y = 0.88 * 2**-x
    slope = math.degrees(math.atan(-math.log(2) * y))  # in data coordinates, parallel to the bound
    axes.text(
        x, y, r"Shannon's bound for i.i.d. Gaussian weights: $2^{-\mathrm{bits}}$", ha="center", va="top",
        color="0.35", fontsize=9, rotation=slope, rotation_mode="anchor", transform_rotates_text=True,
    )  # fmt: skip
    axes.yaxis.set_major_formatter(lambda y, _: f"1/{1 / y:.0f}" if y < 1 else f"{y:.0f}")
    axes.set_ylabel(r"relative error  $\Vert W - F \Vert \,/\, \Vert W \Vert$")
    axes.set_title("Error of the weights", loc="left", fontweight="bold", fontsize=11)


def _dress_accuracy(axes: Any, before: float, most: float) -> None:
    """The right panel's reference and labels."""
    from matplotlib.ticker import MaxNLocator

    axes.axhline(before, color="0.4", linestyle="--", linewidth=1)
    axes.annotate(
        f"before: {before:.1%}", (most, before), xytext=(0, 4), textcoords="offset points", ha="right", va="bottom",
        color="0.35", fontsize=9,
    )  # fmt: skip
    axes.yaxis.set_major_locator(MaxNLocator(steps=[1, 2, 5], min_n_ticks=3))
    axes.yaxis.set_major_formatter(lambda y, _: f"{round(100 * y, 1):g}%")
    axes.set_ylabel("accuracy on the test images")
    axes.set_title("Accuracy of the network", loc="left", fontweight="bold", fontsize=11)
