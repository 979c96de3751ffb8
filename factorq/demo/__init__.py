"""``factorq demo``: train a small network on bundled images, compress it at several settings, show what it costs."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save as plain

from ..artifact import check_writable
from ..decompose import decompose
from ..errors import FileAccessError, refuse
from ..factorization import Factorization, load, save
from .display import STYLES, Result, plot, table
from .network import Network, train

Echo = Callable[[str], None]


@dataclass(frozen=True)
class Setting:
    """One way to compress: the options of ``factorq compress``, or if ``calibrated`` the keywords of ``decompose``."""

    family: str
    label: str
    options: Mapping[str, Any]
    calibrated: bool = False

    @property
    def file(self) -> str:
        """The name of the compressed file."""
        return "-".join(re.findall(r"[a-z0-9.]+", self.label.lower())) + ".safetensors"


def run(output: Path, echo: Echo, quick: bool = False) -> dict[str, Any]:
    """Files in ``output``: the network, its compressed versions, the table as JSON, the plot as PNG and SVG.

    Parameters
    ----------
    output : Path
        Folder for the results, made if it is missing; files of the same names are replaced.
    echo : callable
        Takes the lines to show, one or several at a time.
    quick : bool
        A smaller network and one setting of each kind.

    Returns
    -------
    dict
        What ``results.json`` holds: the network, one row per setting, the names of the files.

    Raises
    ------
    ArgumentError
        If scikit-learn or matplotlib is missing.
    FileAccessError
        If ``output`` cannot be written.
    """
    _check_installed()
    with _writing(output):
        output.mkdir(parents=True, exist_ok=True)
    model = output / "model.safetensors"
    check_writable(model)
    network = train((32, 16), 20) if quick else train((256, 128), 60)
    with _writing(output):
        model.write_bytes(plain(dict(network.tensors)))
    size = sum(network.tensors[name].size for name in network.weights)
    before = network.accuracy(network.tensors)
    echo(f"trained a {network.widths} network on scikit-learn's digits: {size:,} weights, {model}")
    results = [_measure(network, setting, output, echo) for setting in _settings(quick)]
    origin = Result("", "float32, as trained", "", 32.0, model.stat().st_size, 0.0, before, before, None)
    images = len(network.test_labels)
    echo(table([origin, *results], f"{network.widths} network, {size:,} weights, {images} test images"))
    plots = [output / f"error-against-bits.{kind}" for kind in ("png", "svg")]
    summary = {
        "network": {"layers": network.widths, "weights": size, "test_images": images, "accuracy": before}
        | {"file": model.name, "file_bytes": origin.file_bytes},
        "rows": [asdict(result) for result in results],
        "plots": [plot.name for plot in plots],
    }
    with _writing(output):
        plot(results, before, plots)
        (output / "results.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    example = output / _settings(quick)[0].file
    echo(f"wrote {plots[0]}, {plots[1].name} and results.json")
    echo(f"try next: {shlex.join(['factorq', 'verify', str(example), '--against', str(model)])}")
    return summary


def _settings(quick: bool) -> list[Setting]:
    trellis, grid, lloyd, pruned, gram, low, stack, sparse = STYLES
    if quick:
        return [
            Setting(trellis, "trellis, 4 bits", {"bits_per_weight": 4}),
            Setting(gram, "trellis, 2 bits, gram", {"bits": 2}, calibrated=True),
            Setting(stack, "rank 4 + grid, 3 bits", {"method": "svd(rank=4, bits=8) + scalar(bits=3)"}),
        ]
    half = {"bits": 4, "sparsity": 0.5}
    return [
        *(Setting(trellis, f"trellis, {b} bit{'s' * (b > 1)}", {"bits_per_weight": b}) for b in (1, 2, 3, 4)),
        *(Setting(grid, f"grid, {bits} bits", {"method": "scalar", "bits": bits}) for bits in (2, 3, 4, 8)),
        *(Setting(lloyd, f"Lloyd-Max, {b} bits", {"method": f"scalar(bits={b}, levels=lloyd)"}) for b in (2, 3)),
        Setting(pruned, "pruned to 2 bits/weight", {"method": "scalar", "bits_per_weight": 2}),
        Setting(pruned, "50% pruned, 4 bits", half),
        Setting(gram, "50% pruned, 4 bits, gram", half, calibrated=True),
        Setting(gram, "trellis, 2 bits, gram", {"bits": 2}, calibrated=True),
        *(Setting(low, f"rank 10, {bits} bits", {"rank": 10, "bits": bits}) for bits in (4, 8)),
        *(
            Setting(stack, f"rank 4 + grid, {b} bits", {"method": f"svd(rank=4, bits=8) + scalar(bits={b})"})
            for b in (2, 3)
        ),
        *(
            Setting(sparse, f"sparse factor, {z:.0%} zeros", {"rank": 64, "bits": 4, "sparsity": z})
            for z in (0.75, 0.5)
        ),
    ]


# --- one setting ----------------------------------------------------------------------------------------------------


def _measure(network: Network, setting: Setting, output: Path, echo: Echo) -> Result:
    file = output / setting.file
    command, seconds = (_decompose if setting.calibrated else _compress)(network, setting, file, echo)
    stored = load(file)
    dense = {name: x.to_dense() if isinstance(x, Factorization) else x for name, x in stored.items()}
    lost = [np.linalg.norm(network.tensors[name] - dense[name]) for name in network.weights]
    whole = [np.linalg.norm(network.tensors[name]) for name in network.weights]
    size = sum(network.tensors[name].size for name in network.weights)
    return Result(
        setting.family,
        setting.label,
        command,
        8 * sum(stored[name].nbytes for name in network.weights) / size,
        file.stat().st_size,
        float(np.linalg.norm(lost) / np.linalg.norm(whole)),
        network.accuracy(network.tensors),
        network.accuracy(dense),
        seconds,
    )


def _compress(network: Network, setting: Setting, file: Path, echo: Echo) -> tuple[str, float]:
    """Run the command as a user would; it and the seconds that it reports."""
    options = [part for name, value in setting.options.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    arguments = ["compress", str(file.with_name("model.safetensors")), "-o", str(file), *options]
    command = shlex.join(["factorq", *arguments])
    echo(f"$ {command}")
    # The child imports what this process imports, wherever it was started from.
    paths = os.pathsep.join(os.path.abspath(path) for path in sys.path)
    done = subprocess.run(
        [sys.executable, "-P", "-m", "factorq", *arguments, "--json"],
        env={**os.environ, "PYTHONPATH": paths, "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    if done.returncode:
        said = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise FileAccessError(f"{command}: {said.removeprefix('factorq: error: ')}")
    return command, float(json.loads(done.stdout)["seconds"])


def _decompose(network: Network, setting: Setting, file: Path, echo: Echo) -> tuple[str, float]:
    """Use the library with each layer's gram, which the command has no option for; the call and its seconds."""
    keywords = ", ".join(f"{name}={value}" for name, value in setting.options.items())
    command = f"factorq.decompose(W, {keywords}, gram=gram)"
    echo(f">>> {command}  # for each layer -> {file}")
    grams = network.grams()
    start = time.perf_counter()
    factored = {name: decompose(network.tensors[name], **setting.options, gram=grams[name]) for name in network.weights}
    save(file, {**network.tensors, **factored})
    return command, time.perf_counter() - start


# --- house-keeping --------------------------------------------------------------------------------------------------


def _check_installed() -> None:
    missing = [name for module, name in (("sklearn", "scikit-learn"), ("matplotlib", "matplotlib")) if not _has(module)]
    if missing:
        allowed = "an environment with scikit-learn and matplotlib"
        raise refuse(
            "demo", found=f"no {' and no '.join(missing)}", allowed=allowed, remedy="pip install 'factorq[demo]'"
        )


def _has(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ValueError:  # blocked, with None in sys.modules
        return False


@contextmanager
def _writing(output: Path) -> Iterator[None]:
    """Name the folder when it cannot be made or written."""
    try:
        yield
    except OSError as error:
        if isinstance(error, FileAccessError):
            raise
        found = (
            "is not a folder" if isinstance(error, FileExistsError | NotADirectoryError) else error.strerror or error
        )
        raise FileAccessError(f"{output}: {found}; choose another folder with --output") from None
