"""Trained networks at 2, 3 and 4 bits per weight: accuracy, size and error of factorq beside other quantizers.

``python benchmarks/networks.py [--data DIR] [--networks NAME ...] [--json OUT] [--quick]``. The data folder holds the
checkpoints as safetensors and a ``models.py`` whose ``evaluate_*`` functions score a state dict; without torch the
scores are left out. All tensors of two or more axes are quantized, the first and the last layer too, without any data.
factorq stands thrice: ``checkpoint.compress(bits_per_weight=R)`` is what ``factorq compress --bits-per-weight R`` does,
one step for all tensors; the second gives each tensor the same multiple of its own deviation; the third is its grid of
R-bit codes. They go through compress, verify and decompress. Scales, zeros and tables are counted; of the uniform
quantizer the entropies of each tensor's codes alone, less than any static coder takes.

Three files are written: ``networks.json`` with a row for each network, size and method, ``networks_scores.json`` with
a row for each network and size and a column for each method ("score (bits per weight)"), and ``networks_layers.json``
with the bits and the relative error that the common step gives each tensor. Seconds are CPU time of one thread.
"""

from __future__ import annotations

import argparse
import glob
import importlib.util
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from common import RESULTS, table, write
from numpy.typing import NDArray
from peers import Coder, Floats, Stored, grouped, quantiles, spread
from scalar_quantization import half_quadratic
from threadpoolctl import threadpool_limits

Row = dict[str, Any]
State = Mapping[str, Any]
Score = Callable[[ModuleType, State, Any], dict[str, float]]
ROOT = Path(__file__).resolve().parents[1]
BITS = (2, 3, 4)
QUICK = ("resnet20_cifar10jpeg", "charlstm_bronte")
COMMON, EQUAL, GRID = "factorq", "factorq, equal relative steps", "factorq scalar"
CLOSE = 1e-3  # share by which the step of the uniform quantizer may be larger than that of the size aimed at
COLUMNS = (
    *("network", "bits", "method", "bits_per_weight", "file_bits_per_weight", "relative_error"),
    *("measure", "before", "after", "agreement", "kl", "compress_s"),
)


# --- networks and their scores --------------------------------------------------------------------------------------


def images(data: str) -> Score:
    """Top-1 on CIFAR-10 images, the share of the original's predictions kept (percent), and the divergence (nats)."""

    def score(models: ModuleType, state: State, original: Any) -> dict[str, float]:
        found = models.compare_cifar10(state, original, data)
        return {"after": found["top1"], "agreement": found["agreement"], "kl": found["kl"]}

    return score


def single(name: str) -> Score:
    """The figure of one ``evaluate_*`` function, or the first of several."""

    def score(models: ModuleType, state: State, original: Any) -> dict[str, float]:
        found = getattr(models, name)(state)
        return {"after": float(found[0] if isinstance(found, tuple) else found)}

    return score


NETWORKS: dict[str, tuple[str, Score]] = {
    "resnet20_cifar10": ("top-1 %", images("cifar10_test_lossless.npz")),
    "resnet56_cifar10": ("top-1 %", images("cifar10_test_lossless.npz")),
    "resnet20_cifar10jpeg": ("top-1 %", images("cifar10_test_jpeg.npz")),
    "lenet5_mnist": ("top-1 %", single("evaluate_mnist")),
    "lenet300_mnist": ("top-1 %", single("evaluate_mnist")),
    "stories260K": ("nats per token", single("evaluate_stories")),
    "charlstm_bronte": ("bits per character", single("evaluate_charlstm")),
    "g2p_gru": ("words right %", single("evaluate_g2p")),
}


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


def scorer(name: str, tensors: Mapping[str, NDArray[Any]], models: ModuleType | None) -> Callable[[State], Row]:
    """The scores of one network's state before and after, or nothing without ``models``."""
    if models is None:
        return lambda restored: {}
    import torch

    known: dict[bytes, Any] = {}

    class Remembered(torch.nn.Module):
        """The original network; it runs once on each batch, whatever the number of comparisons."""

        def __init__(self, network: Any) -> None:
            super().__init__()
            self.network = network

        def forward(self, x: Any) -> Any:
            key = x.numpy().tobytes()
            if key not in known:
                known[key] = self.network(x)
            return known[key]

    def state(arrays: Mapping[str, NDArray[Any]]) -> State:
        return {key: torch.from_numpy(np.array(array)) for key, array in arrays.items()}

    measure, score = NETWORKS[name]
    dense = state(tensors)
    original = Remembered(models.resnet_from_state(dense)) if "cifar" in name else None
    before = score(models, dense, original)["after"]
    return lambda restored: {"measure": measure, "before": before, **score(models, state(restored), original)}


# --- methods --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Checkpoint:
    """A file and its tensors; ``matrices`` are those of two or more axes."""

    path: Path
    tensors: Mapping[str, NDArray[Any]]

    @property
    def matrices(self) -> dict[str, Floats]:
        return {name: W for name, W in self.tensors.items() if W.ndim >= 2}

    @property
    def weights(self) -> int:
        return sum(W.size for W in self.matrices.values())


@dataclass(frozen=True)
class Made:
    """What a method made of a checkpoint: bytes of the matrices, all tensors restored, and what else is known."""

    nbytes: float
    restored: Mapping[str, NDArray[Any]]
    seconds: float | None = None  # of peers None: they write nothing
    file_nbytes: int | None = None
    layers: tuple[Any, ...] = ()


Method = Callable[[Checkpoint, int], Made]


def compressed(options: Callable[[Checkpoint, int], Mapping[str, Any]]) -> Method:
    """``checkpoint.compress`` with ``options``, verified and decompressed."""
    from safetensors.numpy import load_file

    from factorq import checkpoint

    def run(network: Checkpoint, bits: int) -> Made:
        settings = options(network, bits)
        with tempfile.TemporaryDirectory() as folder:
            packed, plain = Path(folder) / "packed.safetensors", Path(folder) / "plain.safetensors"
            start = time.process_time()
            report = checkpoint.compress(network.path, packed, rng=0, **settings)
            seconds = time.process_time() - start
            if checkpoint.verify(packed, network.path).failures or report.file_nbytes != packed.stat().st_size:
                raise SystemExit(f"{network.path.name}: what was stored is not what was reported")
            checkpoint.decompress(packed, plain)
            restored = load_file(plain)
        check_same_rest(network, restored, {row.name for row in report.rows if row.method})
        nbytes = sum(row.nbytes for row in report.rows if len(row.shape) >= 2)
        return Made(nbytes, restored, seconds, report.file_nbytes, report.rows)

    return run


def check_same_rest(network: Checkpoint, restored: Mapping[str, NDArray[Any]], factored: set[str]) -> None:
    """Stop unless names, shapes and dtypes came back, and all tensors that are not factored bit for bit."""
    if list(network.tensors) != list(restored):
        raise SystemExit(f"{network.path.name}: other tensors came back")
    for name, old in network.tensors.items():
        new = restored[name]
        if old.shape != new.shape or old.dtype != new.dtype or not (name in factored or np.array_equal(old, new)):
            raise SystemExit(f"{network.path.name}: tensor {name} came back changed")


def peer(coder: Coder) -> Method:
    """A quantizer of ``peers.py`` on all matrices; the other tensors stay as they are."""

    def run(network: Checkpoint, bits: int) -> Made:
        stored = coder.encode(network.matrices, bits)
        return Made(stored.nbytes, {**network.tensors, **stored.decode()})

    return run


def bracket(x: Floats, bits: int) -> tuple[NDArray[Any], ...]:
    """Round to nearest between the least and the largest weight of each group (groups, n), both ends float16."""
    top = np.float32(2**bits - 1)
    low = x.min(axis=1, keepdims=True).astype(np.float16)
    scale = ((x.max(axis=1, keepdims=True) - low) / top).astype(np.float16)
    steps = np.maximum(scale.astype(np.float32), np.finfo(np.float32).tiny)
    return np.clip(np.rint((x - low) / steps), 0, top).astype(np.uint8), scale, low


def one_step(tensors: Mapping[str, Floats], bits: float) -> Stored:
    """Multiples of one step in all tensors, of ``bits`` per weight by the entropies of each tensor's integers."""
    weights = sum(W.size for W in tensors.values())

    def codes(step: float) -> dict[str, Floats]:
        return {name: np.rint(W / np.float32(step)) for name, W in tensors.items()}

    def total(step: float) -> float:
        return sum(map(entropy, codes(step).values()))

    high = max(map(spread, tensors.values()))
    low = high * 2.0 ** -(bits + 12)
    while high > low * (1 + CLOSE):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if total(middle) > bits * weights else (low, middle)
    return Stored(total(high) / 8, lambda: {name: k * np.float32(high) for name, k in codes(high).items()})


def entropy(k: Floats) -> float:
    """Bits of all the integers ``k`` at the entropy of their histogram."""
    counts = np.bincount((k - k.min()).astype(np.int64).reshape(-1))
    counts = counts[counts > 0]
    return float(counts @ np.log2(k.size / counts))


def deviations(network: Checkpoint, bits: int) -> Mapping[str, Any]:
    """The same step over the same deviation: weights of ``1 / variance`` for the squared errors."""
    counts = {glob.escape(name): spread(W) ** -2 for name, W in network.matrices.items()}
    return {"bits_per_weight": bits, "sensitivity": counts}


def methods() -> dict[str, Method]:
    """All of them; a scale, a zero or an end of a range takes 16 bits."""
    import factorq as fq

    return {
        COMMON: compressed(lambda network, bits: {"bits_per_weight": bits}),
        EQUAL: compressed(deviations),
        GRID: compressed(lambda network, bits: {"method": fq.Scalar(bits)}),
        "uniform, one step, ideal entropy": peer(Coder("uniform", one_step)),
        "round to nearest, groups of 64": peer(Coder("round to nearest", grouped(bracket, 64, lambda _: 32))),
        "HQQ, groups of 64": peer(Coder("HQQ", grouped(half_quadratic, 64, lambda _: 32))),
        "NF4, groups of 64": peer(Coder("NF4", quantiles(64))),
    }


# --- rows -----------------------------------------------------------------------------------------------------------


def rows_of(
    network: Checkpoint, models: ModuleType | None, chosen: Mapping[str, Method]
) -> tuple[list[Row], list[Row]]:
    """A row for each size and method, and one for each tensor under the common step."""
    name = network.path.stem
    score = scorer(name, network.tensors, models)
    rows: list[Row] = []
    layers: dict[str, Row] = {}
    for bits in BITS:
        for title, method in chosen.items():
            if title.startswith("NF4") and bits != 4:
                continue
            made = method(network, bits)
            whole = None if made.file_nbytes is None else 8 * made.file_nbytes / network.weights
            rows.append({
                "network": name, "weights": network.weights, "bits": bits, "method": title,
                "bits_per_weight": 8 * made.nbytes / network.weights, "file_bits_per_weight": whole,
                "relative_error": relative_error(network, made.restored), **score(made.restored),
                "compress_s": made.seconds,
            })  # fmt: skip
            if title == COMMON:
                note(layers, name, bits, made.layers)
    return rows, list(layers.values())


def relative_error(network: Checkpoint, restored: Mapping[str, NDArray[Any]]) -> float:
    """``||W - F|| / ||W||`` over all matrices."""
    from factorq.measure import norm

    lost = math.hypot(*(norm(W - restored[name]) for name, W in network.matrices.items()))
    return lost / math.hypot(*map(norm, network.matrices.values()))


def note(layers: dict[str, Row], network: str, bits: int, found: Iterable[Any]) -> None:
    """Add what each tensor of two or more axes got at this size."""
    for row in found:
        if len(row.shape) >= 2:
            layer = layers.setdefault(row.name, {"network": network, "layer": row.name, "shape": row.shape})
            layer |= {f"bits_at_{bits}": row.bits_per_weight, f"error_at_{bits}": row.relative_error or 0.0}


def scores(rows: Sequence[Row]) -> list[Row]:
    """A row for each network and size, and a column for each method: its score and stored bits per weight."""
    lines: dict[tuple[str, int], Row] = {}
    for row in rows:
        if "after" in row:
            head = {name: row[name] for name in ("network", "measure", "bits")} | {"dense": row["before"]}
            line = lines.setdefault((row["network"], row["bits"]), head)
            line[row["method"]] = f"{row['after']:.4g} ({row['bits_per_weight']:.2f})"
    return list(lines.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder of the checkpoints")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS), metavar="NAME")
    parser.add_argument("--json", type=Path, help="where to write (default: results/networks.json, for all networks)")
    parser.add_argument("--quick", action="store_true", help=f"{' and '.join(QUICK)} alone; no file by default")
    options = parser.parse_args()
    named = QUICK if options.quick else options.networks
    present = [name for name in named if (options.data / f"{name}.safetensors").exists()]
    if not present:
        print("networks: no checkpoints found; name their folder with --data. Nothing measured, nothing written.")
        return
    models = models_of(options.data)
    if models is None:
        print("networks: scores are left out: torch or the data folder's models.py is missing")
    start = time.process_time()
    rows: list[Row] = []
    layers: list[Row] = []
    with threadpool_limits(1):
        chosen = methods()
        for network in map(partial(load, options.data), present):
            if not rows:  # compiles
                for title in (COMMON, GRID):
                    chosen[title](network, 4)
            for found, of_network in zip((rows, layers), rows_of(network, models, chosen), strict=True):
                found += of_network
            print(f"{network.path.stem}: {time.process_time() - start:.0f} s", flush=True)
    table(rows, COLUMNS)
    wide = scores(rows)
    print("\nscore (stored bits per weight)")
    table(wide, ("network", "measure", "bits", "dense", *chosen))
    if options.json or (present == list(NETWORKS) and models is not None):
        target = options.json or RESULTS / "networks.json"
        print("written to", write("networks", rows, target))
        for part, lines in (("scores", wide), ("layers", layers)):
            print("written to", write(f"networks_{part}", lines, target.with_stem(f"{target.stem}_{part}")))
    else:
        print("a part of it all: written only with --json OUT")


def load(folder: Path, name: str) -> Checkpoint:
    """A checkpoint of the data folder."""
    from safetensors.numpy import load_file

    path = folder / f"{name}.safetensors"
    return Checkpoint(path, load_file(path))


if __name__ == "__main__":
    os.environ.setdefault("NUMBA_NUM_THREADS", "1")  # read when Numba is imported, which the first kernel does
    main()
