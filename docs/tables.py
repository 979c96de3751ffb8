"""Turn benchmarks/results/*.json into Markdown, so that no measured figure is typed by hand.

Each file holds ``{"subject": str, "machine": {...}, "rows": [{column: value}, ...]}``. Written are one page per subject
and ``index.md`` in docs/generated/, pieces of other pages (``parts.py``) in docs/generated/parts/, and the blocks of
README.md between ``<!-- results: SUBJECT [column, ...] where COLUMN=NUMBER -->`` and ``<!-- end of results -->``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import parts

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
GENERATED = ROOT / "docs" / "generated"
README = ROOT / "README.md"
BLOCK = re.compile(
    r"(<!-- results: (\S+)(?: \[(.*?)\])?(?: where (\w+)=(\S+))? -->\n).*?(<!-- end of results -->)", re.DOTALL
)
FORMS = {"rate_distortion_gaps": ".2f", "rate_distortion_saved": ".2f"}  # of floats; elsewhere four digits

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
    parts.write(reports, GENERATED / "parts", lambda name, rows: table(rows, form=FORMS.get(name, "")))
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
    rows = table(report["rows"], form=FORMS.get(report["subject"], ""))
    return f"# {title[:1].upper()}{title[1:]}\n\n{rows}\nMachine: {machine(report['machine'])}.\n"


def table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] = (), form: str = "") -> str:
    """``rows`` as a Markdown table of ``columns`` (if none is named, all in order of appearance)."""
    names = list(columns) or list(dict.fromkeys(name for row in rows for name in row))
    numeric = [all(isinstance(row.get(name), int | float | None) for row in rows) for name in names]
    lines = [
        "| " + " | ".join(name.replace("_", " ") for name in names) + " |",
        "|" + "|".join("---:" if right else "---" for right in numeric) + "|",
        *("| " + " | ".join(cell(row.get(name), form) for name in names) + " |" for row in rows),
    ]
    return "\n".join(lines) + "\n"


def cell(value: object, form: str = "") -> str:
    """``value`` for people: four significant digits, thousands apart, a dash where there is none."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float) and form:
        return f"{value:{form}}"
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
    """``text`` with every block of results replaced by the table of its subject; one without results stays as it is."""

    def block(match: re.Match[str]) -> str:
        opening, subject, columns, column, value, closing = match.groups()
        if subject not in reports:
            print(f"README.md: no results of {subject!r}, its table stays as it is")
            return match.group()
        names = [name.strip() for name in columns.split(",")] if columns else []
        rows = [row for row in reports[subject]["rows"] if not column or row.get(column) == float(value)]
        return f"{opening}\n{table(rows, names, FORMS.get(subject, ''))}\n{closing}"

    return BLOCK.sub(block, text)


if __name__ == "__main__":
    main()
