"""Turn benchmarks/results/*.json into Markdown, so that no measured figure is typed by hand.

Each file holds ``{"subject": str, "machine": {...}, "rows": [{column: value}, ...]}``. Written are one page per subject
and ``index.md`` in docs/generated/, and the blocks of README.md between ``<!-- results: SUBJECT [column, ...] -->`` and
``<!-- end of results -->``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
GENERATED = ROOT / "docs" / "generated"
README = ROOT / "README.md"
BLOCK = re.compile(r"(<!-- results: (\S+)(?: \[(.*?)\])? -->\n).*?(<!-- end of results -->)", re.DOTALL)

Report = Mapping[str, Any]


def main() -> None:
    """Write the pages and refresh the README's blocks."""
    files = sorted(RESULTS.glob("*.json"))
    reports = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in files}
    GENERATED.mkdir(parents=True, exist_ok=True)
    for stale in GENERATED.glob("*.md"):
        stale.unlink()
    for name, report in reports.items():
        (GENERATED / f"{name}.md").write_text(page(report), encoding="utf-8")
    (GENERATED / "index.md").write_text(index(list(reports)), encoding="utf-8")
    if README.exists():
        text = README.read_text(encoding="utf-8")
        filled = fill(text, reports)
        if filled != text:
            README.write_text(filled, encoding="utf-8")


def index(names: Sequence[str]) -> str:
    """The page above all results."""
    lines = ["# Benchmarks", "", "Written by `make bench`, each figure beside its peer's figure from the same run.", ""]
    if names:
        return "\n".join([*lines, "```{toctree}", ":maxdepth: 1", "", *names, "```", ""])
    return "\n".join([*lines, "This checkout holds no results.", ""])


def page(report: Report) -> str:
    """One subject: its table and the machine that ran it."""
    title = str(report["subject"]).replace("_", " ")
    return f"# {title[:1].upper()}{title[1:]}\n\n{table(report['rows'])}\nMachine: {machine(report['machine'])}.\n"


def table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] = ()) -> str:
    """``rows`` as a Markdown table of ``columns`` (if none is named, all in order of appearance)."""
    names = list(columns) or list(dict.fromkeys(name for row in rows for name in row))
    numeric = [all(isinstance(row.get(name), int | float | None) for row in rows) for name in names]
    lines = [
        "| " + " | ".join(name.replace("_", " ") for name in names) + " |",
        "|" + "|".join("---:" if right else "---" for right in numeric) + "|",
        *("| " + " | ".join(cell(row.get(name)) for name in names) + " |" for row in rows),
    ]
    return "\n".join(lines) + "\n"


def cell(value: object) -> str:
    """``value`` for people: four significant digits, thousands apart, a dash where there is none."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if 1e4 <= abs(value) < 1e15 else f"{value:.4g}"
    if isinstance(value, list | tuple):
        return " x ".join(map(str, value))
    return str(value).replace("|", "\\|").replace("\n", " ")


def machine(described: Mapping[str, Any] | str) -> str:
    """The machine in one line."""
    if isinstance(described, str):
        return described
    return ", ".join(f"{key} {_flat(value)}" for key, value in described.items() if value not in (None, {}, []))


def _flat(value: object) -> str:
    if isinstance(value, Mapping):
        return "(" + ", ".join(f"{key} {inner}" for key, inner in value.items() if inner is not None) + ")"
    return str(value)


def fill(text: str, reports: Mapping[str, Report]) -> str:
    """``text`` with every block of results replaced by the table of its subject; an unknown subject is an error."""

    def block(match: re.Match[str]) -> str:
        opening, subject, columns, closing = match.groups()
        if subject not in reports:
            raise SystemExit(f"README.md asks for the results of {subject!r}; there are {', '.join(reports) or 'none'}")
        names = [name.strip() for name in columns.split(",")] if columns else []
        return f"{opening}\n{table(reports[subject]['rows'], names)}\n{closing}"

    return BLOCK.sub(block, text)


if __name__ == "__main__":
    main()
