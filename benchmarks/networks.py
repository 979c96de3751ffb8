"""Trained networks through ``factorq compress``, ``verify`` and ``decompress``: size, error, accuracy before and after.

``python benchmarks/networks.py [--data DIR] [--networks NAME ...] [--settings NAME ...] [--json OUT]``. The data folder
holds the checkpoints as safetensors and a ``models.py`` whose ``evaluate_*`` functions score a state dict; without
torch the accuracies are left out. Everything goes through the command line, as a user would do it. Two files are
written: ``networks.json`` with a row for each network and setting, and ``networks_layers.json`` beside it with the
relative errors layer by layer. Seconds are CPU time of the whole command, its start included.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from common import RESULTS, table, write

ROOT = Path(__file__).resolve().parents[1]
SETTINGS: dict[str, tuple[str, ...]] = {
    "2 bits": ("--bits", "2"),
    "3 bits": ("--bits", "3"),
    "4 bits": ("--bits", "4"),
    "8 bits": ("--bits", "8"),
    "svd + 3 bits": ("--method", "svd(rank=4) + scalar(bits=3)"),
    "8-bit svd + 3 bits": ("--method", "svd(rank=4, bits=8) + scalar(bits=3)"),
    "sparse": ("--rank", "{rank}", "--bits", "4", "--sparsity", "0.5"),
    "sparse, 3 bits in all": ("--method", "quantized_sparse", "--bits-per-weight", "3"),
}
COLUMNS = (
    *("network", "setting", "file_bits_per_weight", "bits_per_weight", "relative_error"),
    *("measure", "before", "after", "agreement", "compress_s"),
)
State = Mapping[str, Any]
Score = Callable[[ModuleType, State, State], dict[str, float]]


@dataclass(frozen=True)
class Network:
    """How a network is scored, and the rank at which quantized-sparse factors take 2 to 3 bits per weight."""

    measure: str | None
    score: Score | None
    rank: int


def images(data: str) -> Score:
    """Top-1 on CIFAR-10 images and the share of images with the original's prediction, both in percent."""

    def score(models: ModuleType, state: State, original: State) -> dict[str, float]:
        found = models.compare_cifar10(state, original, data)
        return {"after": found["top1"], "agreement": found["agreement"]}

    return score


def single(name: str) -> Score:
    """The figure of one ``evaluate_*`` function, or the first of several."""

    def score(models: ModuleType, state: State, original: State) -> dict[str, float]:
        found = getattr(models, name)(state)
        return {"after": float(found[0] if isinstance(found, tuple) else found)}

    return score


NETWORKS: dict[str, Network] = {
    "resnet20_cifar10": Network("top-1 %", images("cifar10_test_lossless.npz"), 9),
    "resnet56_cifar10": Network("top-1 %", images("cifar10_test_lossless.npz"), 9),
    "resnet20_cifar10jpeg": Network("top-1 %", images("cifar10_test_jpeg.npz"), 9),
    "lenet5_mnist": Network("top-1 %", single("evaluate_mnist"), 100),
    "lenet300_mnist": Network("top-1 %", single("evaluate_mnist"), 100),
    "stories260K": Network("nats per token", single("evaluate_stories"), 32),
    "charlstm_bronte": Network("bits per character", single("evaluate_charlstm"), 128),
    "g2p_gru": Network("words right %", single("evaluate_g2p"), 128),
    "vgg16_imagenet_layers": Network(None, None, 9),
}


def factorq(*arguments: str | Path) -> tuple[dict[str, Any], float]:
    """Run the command line; what it printed as JSON, and its CPU seconds."""
    paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    before = os.times()
    done = subprocess.run(
        [sys.executable, "-m", "factorq", *map(str, arguments), "--json"],
        capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": paths},
    )  # fmt: skip
    after = os.times()
    if done.returncode:
        raise SystemExit(f"factorq {' '.join(map(str, arguments))}: exit status {done.returncode}: {done.stderr}")
    return json.loads(done.stdout), after[2] + after[3] - before[2] - before[3]


def round_trip(
    source: Path, folder: Path, options: Sequence[str]
) -> tuple[dict[str, float], dict[str, float], list[dict[str, Any]], Path]:
    """Compress, verify and decompress: size and error, CPU seconds, rows of the factored tensors, the restored file."""
    packed, restored = folder / "packed.safetensors", folder / "restored.safetensors"
    made, compress_s = factorq("compress", source, "-o", packed, *options)
    found, verify_s = factorq("verify", packed, "--against", source)
    _, decompress_s = factorq("decompress", packed, "-o", restored)
    factored = [row for row in found["tensors"] if row.get("method")]
    check_same_rest(source, restored, {row["name"] for row in factored})
    summary = {
        "file_bits_per_weight": 8 * packed.stat().st_size / weights(found["tensors"]),
        "bits_per_weight": 8 * sum(row["nbytes"] for row in factored) / weights(factored),
        "relative_error": float(found["relative_error"]),
    }
    seconds = {"compress_s": compress_s, "verify_s": verify_s, "decompress_s": decompress_s}
    if not math.isclose(summary["relative_error"], float(made["relative_error"]), rel_tol=1e-6, abs_tol=1e-9):
        raise SystemExit(f"{source.name}: compress and verify report different errors")
    return summary, seconds, factored, restored


def weights(rows: Sequence[Mapping[str, Any]]) -> int:
    """Weights in all of some tensors."""
    return sum(math.prod(row["shape"]) for row in rows)


def check_same_rest(source: Path, restored: Path, factored: set[str]) -> None:
    """Stop unless names, shapes and dtypes came back, and all tensors that are not factored bit for bit."""
    from safetensors.numpy import load_file

    old, new = load_file(source), load_file(restored)
    if list(old) != list(new):
        raise SystemExit(f"{source.name}: other tensors came back")
    for name, array in old.items():
        same = name in factored or np.array_equal(array, new[name])
        if not same or (array.shape, array.dtype) != (new[name].shape, new[name].dtype):
            raise SystemExit(f"{source.name}: tensor {name} came back changed")


def models_of(folder: Path) -> ModuleType | None:
    """``models.py`` of the data folder, or None where torch or the file is missing."""
    path = folder / "models.py"
    if importlib.util.find_spec("torch") is None or not path.exists():
        return None
    import torch

    torch.set_num_threads(1)
    spec = importlib.util.spec_from_file_location("models", path)
    if spec is None or spec.loader is None:
        return None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def evaluate(
    name: str, folder: Path, chosen: Sequence[str], models: ModuleType | None
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The rows of one network: one for each setting, and one for each factored layer."""
    network, source = NETWORKS[name], folder / f"{name}.safetensors"
    score = network.score if models is not None else None
    original = models.load(str(source)) if models is not None else {}
    before = None if score is None or models is None else score(models, original, original)["after"]
    rows: list[dict[str, Any]] = []
    layers: dict[str, dict[str, Any]] = {}
    for setting in chosen:
        options = [option.format(rank=network.rank) for option in SETTINGS[setting]]
        with tempfile.TemporaryDirectory() as work:
            summary, seconds, factored, restored = round_trip(source, Path(work), options)
            row = {"network": name, "setting": setting, **summary}
            if score is not None and models is not None:
                row |= {"measure": network.measure, "before": before}
                row |= score(models, models.load(str(restored)), original)
        rows.append(row | seconds | {"options": f"`{' '.join(options)}`"})  # as code: the table is Markdown
        for tensor in factored:
            layer = {"network": name, "layer": tensor["name"], "shape": tensor["shape"]}
            layers.setdefault(tensor["name"], layer)[setting] = tensor["relative_error"]
    return rows, list(layers.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder of the checkpoints")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS), metavar="NAME")
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS), metavar="NAME")
    parser.add_argument(
        "--json", type=Path, help="where to write (default: results/networks.json, if nothing is left out)"
    )
    options = parser.parse_args()
    present = [name for name in options.networks if (options.data / f"{name}.safetensors").exists()]
    if not present:
        print("networks: no checkpoints found; name their folder with --data. Nothing measured, nothing written.")
        return
    models = models_of(options.data)
    if models is None:
        print("networks: accuracies are left out: torch or the data folder's models.py is missing")
    start = time.perf_counter()
    rows: list[dict[str, Any]] = []
    layers: list[dict[str, Any]] = []
    for name in present:
        of_network, of_layers = evaluate(name, options.data, options.settings, models)
        rows += of_network
        layers += of_layers
        print(f"{name}: {time.perf_counter() - start:.0f} s")
    table(rows, COLUMNS)
    whole = present == list(NETWORKS) and options.settings == list(SETTINGS) and models is not None
    if whole or options.json:
        target = options.json or RESULTS / "networks.json"
        print("written to", write("networks", rows, target))
        print("written to", write("networks_layers", layers, target.with_stem(f"{target.stem}_layers")))
    else:
        print("a part of it all: written only with --json OUT")


if __name__ == "__main__":
    main()
