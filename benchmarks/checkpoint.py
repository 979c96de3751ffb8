"""A float32 checkpoint end to end: ``factorq compress`` beside a copy and a plain NumPy quantizer, and start-up times.

Every row is a fresh process. ``million_weights_per_second`` is over CPU seconds (user and system, children included);
``peak_mib`` is the largest resident set of any of its processes.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from common import table, write

SIDE = 4096
GROUP = 128

# Peers, as the programs of fresh processes: IN and OUT are sys.argv[1] and [2].
COPY = """
import sys
from safetensors.numpy import load_file, save_file
save_file(load_file(sys.argv[1]), sys.argv[2])
"""
PLAIN = f"""
import sys, numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file
out = {{}}
with safe_open(sys.argv[1], "numpy") as file:
    for name in file.keys():
        W = file.get_tensor(name)
        groups = W.reshape(-1, {GROUP})
        scale = np.abs(groups).max(1, keepdims=True) / 7
        codes = np.clip(np.rint(groups / scale), -8, 7).astype(np.int8) + 8
        out[name + ".codes"] = (codes[:, ::2] | codes[:, 1::2] << 4).astype(np.uint8)
        out[name + ".scales"] = scale.astype(np.float16)
        lost = codes.astype(np.float32) - 8
        lost = lost * scale - groups
        print(name, float(np.sqrt((lost ** 2).sum() / (groups ** 2).sum())))
save_file(out, sys.argv[2])
"""
FIRST = """
import numpy as np, factorq as fq
fq.decompose(np.random.default_rng(0).standard_normal((256, 256), dtype=np.float32), bits=4)
"""


def make(path: Path, mib: int) -> int:
    """Write Gaussian matrices of SIDE x SIDE to ``path``; the number of weights."""
    from factorq.artifact import Writer

    count = max(1, mib * 2**20 // (4 * SIDE * SIDE))
    rng = np.random.default_rng(0)
    with Writer(path) as writer:
        for k in range(count):
            writer.add(f"layers.{k}.weight", rng.standard_normal((SIDE, SIDE), dtype=np.float32))
        writer.commit(None)
    return count * SIDE * SIDE


def spent(arguments: list[str], env: dict[str, str]) -> dict[str, float]:
    """Seconds and peak memory of a process and its children."""
    began = time.perf_counter()
    pid = os.posix_spawn(
        arguments[0], arguments, env, file_actions=[(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
    )
    _, status, usage = os.wait4(pid, 0)
    if status:
        raise SystemExit(f"{' '.join(arguments[:3])} failed with status {os.waitstatus_to_exitcode(status)}")
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return {
        "wall_s": time.perf_counter() - began,
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "peak_mib": usage.ru_maxrss / unit,
    }


def repeated(arguments: list[str], env: dict[str, str], repeats: int) -> dict[str, float]:
    """The medians of some runs after a first one that warms the file cache and the compile cache."""
    spent(arguments, env)
    runs = [spent(arguments, env) for _ in range(repeats)]
    return {key: median(run[key] for run in runs) for key in runs[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size-mib", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where the large temporary files go")
    parser.add_argument("--output", type=Path, help="JSON file; default results/checkpoint.json")
    options = parser.parse_args()
    one = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")}
    env = os.environ | one | {"PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    python = sys.executable
    command = [python, "-c", "from factorq.cli import main; main()"]
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        source, target = str(Path(folder, "in.safetensors")), str(Path(folder, "out.safetensors"))
        weights = make(Path(source), options.size_mib)
        compress = [*command, "compress", source, "-o", target, "--bits", "4"]
        grid = [*compress, "--method", "scalar"]
        jobs = {
            "factorq compress --bits 4": compress,
            "factorq compress --bits 4 --method scalar": grid,
            "factorq compress --bits 4 --method scalar --jobs 2": [*grid, "--jobs", "2"],
            "safetensors load and save (peer)": [python, "-c", COPY, source, target],
            "NumPy round to nearest, 4 bits (peer)": [python, "-c", PLAIN, source, target],
        }
        for name, arguments in jobs.items():
            taken = repeated(arguments, env, options.repeats)
            size = Path(target).stat().st_size
            rows.append({
                "what": name, **taken, "million_weights_per_second": weights / taken["cpu_s"] / 1e6,
                "input_mib": Path(source).stat().st_size / 2**20, "output_mib": size / 2**20,
            })  # fmt: skip
        spent(compress, env)
        starts = {
            "factorq info": [*command, "info", target],
            "import factorq": [python, "-c", "import factorq"],
            "import numpy (peer)": [python, "-c", "import numpy"],
            "first decompose of 256x256": [python, "-c", FIRST],
        }
        rows += [{"what": name, **repeated(arguments, env, 5)} for name, arguments in starts.items()]
    table(rows, ["what", "cpu_s", "wall_s", "million_weights_per_second", "peak_mib", "output_mib"])
    print(write("checkpoint", rows, options.output))


if __name__ == "__main__":
    main()
