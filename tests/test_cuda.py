"""The CUDA sources: each twin has one, and nvcc compiles it for old and new GPUs without spilling registers."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from cuda_host import kernels

from factorq.kernels import cuda_twin

FOLDER = Path(cuda_twin.__file__).parent
SOURCES = sorted(FOLDER.glob("**/*.cu"))
WANTED = (70, 75, 80, 90)
OTHERS = {"REAL": "double", "CODE": "u16", "BITS": "3", "BATCH": "8", "X": "__half", "LEVELS": "1"}
"""What the names that a twin defines stand for, beside what the file itself says."""


def test_each_twin_has_its_source() -> None:
    twins = {path.parent for path in FOLDER.glob("*/**/cuda_twin.py")}
    assert {source.parent for source in SOURCES} == twins
    assert {folder / f"{folder.name}.cu" for folder in twins} <= set(SOURCES)
    names = [name for source in SOURCES for name in kernels(source)]
    assert all(kernels(source) for source in SOURCES)
    assert len(names) == len(set(names))


def test_included_files_are_put_in_their_place() -> None:
    for source in SOURCES:
        code = cuda_twin.text(source)
        assert not re.search('^ *# *include *"', code, re.MULTILINE)
        assert code.count("#ifndef FACTORQ_COMMON\n") <= 1


def settings(source: Path) -> list[dict[str, str]]:
    """What to compile a file with: as it stands, and with everything else in place of what it defines."""
    names = re.findall(r"^#ifndef (\w+)\n#define \1 \w", cuda_twin.text(source), re.MULTILINE)
    return [{}, {name: OTHERS[name] for name in names}] if names else [{}]


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_nvcc_compiles(source: Path, tmp_path: Path) -> None:
    """For the oldest and the newest GPUs named above that this compiler knows, and for one between them."""
    if not shutil.which("nvcc") or not shutil.which("g++"):
        pytest.skip("nvcc or g++ is not installed")
    known = subprocess.run(["nvcc", "--list-gpu-arch"], capture_output=True, text=True, timeout=60, check=True).stdout
    found = [k for k in WANTED if f"compute_{k}\n" in known]
    assert found
    made = tmp_path / "made.fatbin"
    for defines, targets in zip(settings(source), ({found[0], found[-1]}, {80} & set(found)), strict=False):
        command = ["nvcc", "--std=c++17", "--fmad=false", *(f"-D{key}={value}" for key, value in defines.items())]
        command += ["-Werror", "all-warnings", "-Xptxas", "-warn-spills,-warn-lmem-usage"]
        command += [f"-gencode=arch=compute_{k},code=sm_{k}" for k in sorted(targets or found[-1:])]
        command += ["-fatbin", str(source), "-o", str(made)]
        run = subprocess.run(command, capture_output=True, text=True, timeout=240)
        assert run.returncode == 0, run.stderr
        assert all(name.encode() in made.read_bytes() for name in kernels(source))
