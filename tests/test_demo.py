"""The demonstration: its files, its table, its figures against an independent reading; its refusals."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

import factorq as fq

pytest.importorskip("sklearn", reason="scikit-learn is not installed")
pytest.importorskip("matplotlib", reason="matplotlib is not installed")

from factorq import demo


class Run:
    """One quick run in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lines: list[str] = []
        self.summary = demo.run(folder, self.lines.append, quick=True)

    @property
    def rows(self) -> list[dict[str, Any]]:
        return self.summary["rows"]

    def file(self, row: dict[str, Any]) -> Path:
        wanted = [s for s in demo._settings(quick=True) if s.label == row["method"]]
        return self.folder / wanted[0].file


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run(tmp_path_factory.mktemp("demo") / "new" / "folder with a space")


def test_files(run: Run) -> None:
    names = {path.name for path in run.folder.iterdir()}
    compressed = {run.file(row).name for row in run.rows}
    assert names == compressed | {
        "model.safetensors", "results.json", "error-against-bits.png", "error-against-bits.svg",
    }  # fmt: skip
    assert (run.folder / "error-against-bits.png").read_bytes().startswith(b"\x89PNG\r\n")
    assert b"<svg" in (run.folder / "error-against-bits.svg").read_bytes()
    assert json.loads((run.folder / "results.json").read_text()) == run.summary


def test_table(run: Run) -> None:
    text = "\n".join(run.lines)
    for word in ("method", "bits per", "file", "relative", "accuracy", "before", "after", "seconds"):
        assert word in text
    assert len(run.rows) == 3
    for row in run.rows:
        line = next(line for line in text.splitlines() if line.strip().startswith(row["method"] + "  "))
        assert line.split()[-6:-1] == [
            f"{row['bits_per_weight']:.3f}",
            f"{row['file_bytes']:,}",
            f"{row['relative_error']:.4f}",
            f"{row['accuracy_before']:.1%}",
            f"{row['accuracy_after']:.1%}",
        ]
    assert "\x1b" not in text, "colours belong on terminals"
    assert "test images" in text


def test_figures_are_those_of_the_files(run: Run) -> None:
    model = load_file(run.folder / "model.safetensors")
    weights = [name for name, x in model.items() if x.ndim == 2]
    for row in run.rows:
        stored = fq.load(run.file(row))
        dense = {name: x.to_dense() if isinstance(x, fq.Factorization) else x for name, x in stored.items()}
        assert set(dense) == set(model)
        size = sum(model[name].size for name in weights)
        lost = sum(float(((model[name] - dense[name]) ** 2).sum()) for name in weights)
        whole = sum(float((model[name] ** 2).sum()) for name in weights)
        assert row["bits_per_weight"] == pytest.approx(8 * sum(stored[name].nbytes for name in weights) / size)
        assert row["relative_error"] == pytest.approx((lost / whole) ** 0.5, rel=1e-5)
        assert row["file_bytes"] == run.file(row).stat().st_size
        assert all(np.array_equal(model[name], dense[name]) for name in model if name not in weights)


def test_the_network_has_learnt(run: Run) -> None:
    """Ten digits: a tenth is chance. Four bits keep what was learnt."""
    before = run.summary["network"]["accuracy"]
    assert before > 0.7
    assert run.rows[0]["method"] == "trellis, 4 bits"
    assert run.rows[0]["accuracy_after"] > before - 0.1


def test_commands_can_be_repeated(run: Run) -> None:
    """What the output shows gives, run by hand, the same bytes."""
    from click.testing import CliRunner

    from factorq.cli import main

    shown = [shlex.split(line.removeprefix("$ ")) for line in run.lines if line.startswith("$ ")]
    commands = [row["command"] for row in run.rows if row["command"].startswith("factorq compress")]
    assert shown == [shlex.split(command) for command in commands]
    for command in shown:
        target = Path(command[command.index("-o") + 1])
        before = target.read_bytes()
        target.unlink()
        assert CliRunner().invoke(main, command[1:]).exit_code == 0
        assert target.read_bytes() == before


def test_the_python_call_can_be_repeated(run: Run) -> None:
    row = next(row for row in run.rows if row["method"] == "trellis, 2 bits, gram")
    assert row["command"] == "factorq.decompose(W, bits=2, gram=gram)"
    network = demo.train((32, 16), 20)
    stored = fq.load(run.file(row))
    for name, gram in network.grams().items():
        F = fq.decompose(network.tensors[name], bits=2, gram=gram)
        assert np.array_equal(F.to_dense(), stored[name].to_dense())


def test_settings_have_files_of_their_own() -> None:
    for quick in (False, True):
        files = [setting.file for setting in demo._settings(quick)]
        assert len(set(files)) == len(files)
        assert all(re.fullmatch(r"[a-z0-9.-]+\.safetensors", file) for file in files)
    assert {setting.family for setting in demo._settings(False)} == set(demo.STYLES)


def test_the_plot_depends_on_the_results_alone(run: Run, tmp_path: Path) -> None:
    results = [demo.Result(**row) for row in run.rows]
    files = [tmp_path / name for name in run.summary["plots"]]
    demo.plot(results, run.summary["network"]["accuracy"], files)
    for file in files:
        assert file.read_bytes() == (run.folder / file.name).read_bytes()


def test_output_is_a_file(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"precious")
    for output in (file, file / "folder"):
        with pytest.raises(fq.FileAccessError, match=r"file.*is not a folder.*--output"):
            demo.run(output, print, quick=True)
    assert file.read_bytes() == b"precious"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_output_is_read_only(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    for output in (tmp_path, tmp_path / "folder"):
        with pytest.raises(fq.FileAccessError, match=r"writable|[Pp]ermission"):
            demo.run(output, print, quick=True)


@contextmanager
def without(monkeypatch: pytest.MonkeyPatch, module: str) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, module, None)
        yield


@pytest.mark.parametrize(("module", "name"), [("sklearn", "scikit-learn"), ("matplotlib", "matplotlib")])
def test_missing_library(module: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        without(monkeypatch, module),
        pytest.raises(fq.ArgumentError, match=rf"no {name}.*pip install 'factorq\[demo\]'"),
    ):
        demo.run(tmp_path / "folder", print)
    assert not (tmp_path / "folder").exists()


def test_a_failing_command_is_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    network = demo.train((4,), 1)
    setting = demo.Setting("grid", "grid, 17 bits", {"bits": 17})
    with pytest.raises(fq.FileAccessError, match=r"^factorq compress .* --bits 17: bits: found 17") as caught:
        demo._measure(network, setting, run.folder, print)
    assert "\n" not in str(caught.value)


def test_command_line(tmp_path: Path) -> None:
    """``python -m factorq demo``: a usage error is one line and status 1 or 2, never a traceback."""
    (tmp_path / "file").touch()
    done = subprocess.run(
        [sys.executable, "-m", "factorq", "demo", "--output", str(tmp_path / "file")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("factorq: error: ")
    assert done.stderr.count("\n") == 1
