"""Trained networks at 1 to 4 stored bits per weight: accuracy by weights alone, with data, after a short training.

``python benchmarks/accuracy.py [--data DIR] [--networks NAME ...] [--stages STAGE ...] [--json OUT] [--quick]``; data
are those of ``networks.py``, and torch is required. All tensors of two or more axes are stored, the first and the last
layer too; the others, biases and batch norms, stay float32 and count: ``ratio`` is the bytes of the dense network over
all that are stored, ``file_ratio`` that of the files, whose headers say how to decode each tensor. ``target`` is bits
per weight of the matrices; that of rows with an ``aimed_ratio`` follows from one of the literature on vector
quantization, 29 and 43 for ResNets of ImageNet. A row is of one stage:

- ``weights``: no data. Of the grids of others, whose sizes have gaps, it is the setting of least squared error that
  takes at most 7 % above the target; ``bits_per_weight`` says what it takes. All else is at or under it.
- ``batch norm``: its moments estimated anew from 512 training images, without labels, beside the dense network.
- ``calibrated``: with the second moment of each layer's inputs; ``calibrated, batch norm``: both. Of the trellis at the
  bits that one step for all layers gives each, or one step over the mean gradients (``allotted by gradients``).
- ``fine-tuned``: some passes over the training data that is here, distilled from the dense network: the same steps,
  batches and learning rate for all methods, from the solution with or without calibration that is nearer to the dense
  network on the inputs to calibrate with, batch norms estimated anew before and after. Stored sizes do not grow.

Where a network is scored by the only data there is, it is scored by the first part and calibrated by the rest. A layer
too small for a method at the size is stored by ``Trellis``; ``other_share`` says how many of the weights are. Rows are
written as they come, in place of those of the same networks, stages and sizes; seconds are CPU time of one thread.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from types import ModuleType
from typing import Any

from accuracy_data import TUNED, Data, as_state
from accuracy_methods import (
    ALLOTTED,
    LARGER,
    OURS,
    TWICE,
    VECTORS,
    Found,
    Size,
    bits_of,
    by_layer,
    methods,
    together,
    within,
)
from common import RESULTS, table, write
from cp_networks import NETWORKS as IMAGES
from cp_networks import short
from networks import NETWORKS, ROOT, Checkpoint, Row, load, models_of
from networks import relative_error as error_of
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

SIZES = (1.0, 1.5, 2.0, 3.0, 4.0)
RATIOS = (29.0, 43.0)
STAGES = ("weights", "batch norm", "calibrated", "calibrated, batch norm", "fine-tuned")
PEERS = ("round to nearest", "clipped grid", "HQQ", "uniform, one step, ideal entropy")
TRAINED = ("Scalar", "VectorQuantization", "QuantizedSparse", "SVD, quantized")


# --- a network ------------------------------------------------------------------------------------------------------


@dataclass
class Study:
    """A network with its data, and the rows about it."""

    network: Checkpoint
    models: ModuleType
    data: Data

    @property
    def name(self) -> str:
        return self.network.path.stem

    @cached_property
    def passed(self) -> int:
        """Bytes of what stays as it is."""
        return sum(x.nbytes for x in self.network.tensors.values() if x.ndim < 2)

    @cached_property
    def dense_bytes(self) -> int:
        return sum(x.nbytes for x in self.network.tensors.values())

    def sizes(self, bits: Iterable[float], ratios: Iterable[float]) -> list[Size]:
        asked = [Size(b) for b in bits]
        if self.name in ("resnet20_cifar10", "resnet56_cifar10"):
            left = ((r, self.dense_bytes / r - self.passed) for r in ratios)
            asked += [Size(8 * nbytes / self.network.weights, r) for r, nbytes in left]
        return asked

    def row(
        self,
        size: Size,
        method: str,
        stage: str,
        found: Found,
        state: Mapping[str, NDArray[Any]] | None = None,
        **of: Any,
    ) -> Row:
        """The row for what was found, with ``state`` in place of the tensors if they changed since."""
        restored = {**self.network.tensors, **found.restored} if state is None else state
        scored = self.data.score(restored)
        stored = found.nbytes + self.passed
        line: Row = {
            "network": self.name, "target": size.bits, "aimed_ratio": size.ratio, "method": method, "stage": stage,
            "bits_per_weight": 8 * found.nbytes / self.network.weights, "ratio": self.dense_bytes / stored,
            "stored_bytes": float(stored), "dense_bytes": self.dense_bytes, "file_bytes": found.file_bytes,
            "other_share": found.other_share or None, "measure": scored.pop("measure"), "dense": scored.pop("before"),
            "score": scored.pop("after"), **scored, "relative_error": error_of(self.network, restored), **of,
        }  # fmt: skip
        if found.file_bytes is not None:
            line["file_ratio"] = self.network.path.stat().st_size / found.file_bytes
        return {key: short(value) for key, value in ({"seconds": found.seconds} | line).items() if value is not None}

    def renewed(self, found: Found) -> Mapping[str, NDArray[Any]]:
        """All tensors, with batch norms estimated anew beside the dense network."""
        from factorq.adapters.torch import reestimate_batch_norm

        network = copy.deepcopy(self.data.dense)
        network.load_state_dict(as_state({**self.network.tensors, **found.restored}), strict=False)
        state = reestimate_batch_norm(network, self.data.inputs, self.data.dense).state_dict()
        return {name: state[name].numpy() for name in self.network.tensors}

    def both(
        self, size: Size, method: str, stages: tuple[str, str], found: Found, asked: Iterable[str]
    ) -> Iterator[Row]:
        """The rows before and after batch norm was estimated anew."""
        if stages[0] in asked:
            yield self.row(size, method, stages[0], found)
        if stages[1] in asked and self.name in IMAGES:
            yield self.row(size, method, stages[1], found, self.renewed(found))

    def calibrated(self, size: Size, plain: Found) -> dict[str, Callable[[], Found]]:
        """Methods with the second moments of the layers' inputs; the trellis at the bits that one step gave."""
        grams, turned = self.data.grams, self.data.turned

        def trellis(like: Callable[[], Found]) -> Found:
            first = like()
            found = within(by_layer("trellis", grams, turned), self.network, bits_of(first), size.bits)
            return replace(found, seconds=found.seconds + first.seconds)

        def layered(method: str) -> Callable[[], Found]:
            return partial(by_layer(method, grams, turned), self.network, size.bits)

        found = {OURS: partial(trellis, lambda: plain)}
        if size.ratio is not None:
            return found | {VECTORS: layered("vector_quantization")}
        found["Scalar"] = layered("scalar")
        if self.data.sensitivity:
            found[ALLOTTED] = partial(trellis, partial(together, self.network, size.bits, self.data.sensitivity))
        if size.bits == 2.0 and self.name not in TWICE:
            found |= {VECTORS: layered("vector_quantization"), "QuantizedSparse": layered("quantized_sparse")}
            found["SVD, quantized"] = layered("svd")
        return found

    def divergence(self, found: Found) -> float:
        """Mean divergence (nats) of the outputs for ``found`` from the dense ones, on the inputs to calibrate with."""
        import torch
        from torch.nn.functional import kl_div

        tensors = self.renewed(found) if self.name in IMAGES else {**self.network.tensors, **found.restored}
        network = copy.deepcopy(self.data.dense)
        network.load_state_dict(as_state(tensors), strict=False)
        with torch.no_grad():
            p, q = (net(self.data.inputs[0]).flatten(0, -2).log_softmax(-1) for net in (self.data.dense, network))
        return float(kl_div(q, p, reduction="batchmean", log_target=True))

    def tuned(self, size: Size, method: str, found: Found, steps: int | None = None) -> Row:
        """The network after some steps of training, its batch norms estimated anew."""
        from factorq.adapters import torch as adapter

        model, start = copy.deepcopy(self.data.dense), time.process_time()
        layers = trainable(model, found)
        setting = TUNED[self.name]
        lr = setting.coarse if size.bits <= 1 else setting.fine
        count = steps or setting.passes * self.data.batches_per_pass
        if self.name in IMAGES:
            adapter.reestimate_batch_norm(model, self.data.inputs, self.data.dense)
        adapter.finetune(model, self.data.batches(), steps=count, lr=lr, teacher=self.data.dense)
        if self.name in IMAGES:
            adapter.reestimate_batch_norm(model, self.data.inputs, self.data.dense)
        factored = {name: layer.factors.factorization() for name, layer in layers.items()}
        seconds = time.process_time() - start
        after = Found.of(factored, seconds, other_share=found.other_share).turning(found.turned)
        if after.nbytes > found.nbytes:
            raise SystemExit(f"{self.name}: {method} takes {after.nbytes} bytes after training, {found.nbytes} before")
        tensors = model.state_dict()
        state = {k: after.restored[k] if k in factored else tensors[k].numpy() for k in self.network.tensors}
        return self.row(size, method, STAGES[4], after, state, steps=count, batch=setting.batch, lr=lr)


def trainable(model: Any, found: Found) -> dict[str, Any]:
    """Layers of what was found, by the name of the weight, in the place of layers or behind other parameters."""
    import torch

    from factorq.adapters import torch as adapter

    class Weight(torch.nn.Module):  # type: ignore[misc]
        def __init__(self, layer: Any, turned: bool) -> None:
            super().__init__()
            self.layer, self.turned = layer, turned

        def forward(self, _: Any) -> Any:
            return self.layer.weight.T if self.turned else self.layer.weight

    if all(name.endswith(".weight") for name in found.factored):
        names = {name: name.removesuffix(".weight") for name in found.factored}
        adapter.compress(model, {names[name]: F for name, F in found.factored.items()})
        return {name: model.get_submodule(layer) for name, layer in names.items()}
    layers = {name: adapter.to_module(F) for name, F in found.factored.items()}
    for name, layer in layers.items():
        torch.nn.utils.parametrize.register_parametrization(model, name, Weight(layer, name in found.turned))
    return layers


def trains(name: str, size: Size, method: str) -> bool:
    """Whether a method is trained at a size: all at one size of a network, the trellis at more."""
    if name not in TUNED or method not in (OURS, *TRAINED):
        return False
    if name == "resnet20_cifar10":
        return size.bits == 2.0 or (method == OURS and (size.ratio is not None or size.bits == 1.0))
    if name == "resnet20_cifar10jpeg":
        return method == OURS and size.bits in (1.0, 2.0)
    return size.ratio is None and size.bits == (2.0 if name == "stories260K" else 1.0)


def is_calibrated(name: str, size: Size) -> bool:
    """Whether a network is calibrated at a size."""
    return size.ratio is not None or size.bits in ((2.0,) if name in ("resnet56_cifar10", "g2p_gru") else (1.0, 2.0))


def rows_of(study: Study, sizes: Iterable[Size], stages: Iterable[str], quick: bool) -> Iterator[Row]:
    """All rows of a network, those of training last: from weights alone or calibrated, what is nearer on its inputs."""
    asked = set(stages)
    training = STAGES[4] in asked
    starts: dict[tuple[Size, str], list[Found]] = {}

    def needed(size: Size, method: str, *of: str) -> bool:
        return bool(asked & set(of)) or (training and trains(study.name, size, method))

    for size in sizes:
        for title, method in methods(study.name, size).items():
            if needed(size, title, *STAGES[:2]) and not (quick and title not in ("HQQ", OURS)):
                found = method(study.network, size.bits)
                yield from study.both(size, title, (STAGES[0], STAGES[1]), found, asked)
                starts[size, title] = [found]
        if not is_calibrated(study.name, size) or not asked & set(STAGES[2:]):
            continue
        (plain,) = starts.get((size, OURS)) or [together(study.network, size.bits)]
        for title, solve in study.calibrated(size, plain).items():
            if needed(size, title, *STAGES[2:4]) and not (quick and title != OURS):
                found = solve()
                yield from study.both(size, title, (STAGES[2], STAGES[3]), found, asked)
                starts.setdefault((size, title), []).append(found)
    order = sorted(starts, key=lambda start: start[1] != OURS)
    for size, title in order if training else ():
        if trains(study.name, size, title) or (quick and title == OURS):
            yield study.tuned(size, title, min(starts[size, title], key=study.divergence), 2 if quick else None)


def table_of(rows: Iterable[Row]) -> list[Row]:
    """A row for each network, size and stage, a column for each method: score and stored bits per weight."""
    lines: dict[tuple[Any, ...], Row] = {}
    for row in rows:
        head = {name: row.get(name) for name in ("network", "measure", "target", "aimed_ratio", "stage", "dense")}
        line = lines.setdefault(tuple(head.values()), {k: v for k, v in head.items() if v is not None})
        line[row["method"]] = f"{row['score']:.4g} ({row['bits_per_weight']:.2f})"
    return list(lines.values())


def scores_of(rows: Iterable[Row]) -> list[Row]:
    """At 2 bits per weight a row for each network: the best known coders, and what data add to the trellis.

    Where there are batch norms, all but the dense network are scored with them estimated anew.
    """
    best = {(row["network"], row["method"], row["stage"]): row["score"] for row in rows if row["target"] == 2.0}
    lines: dict[str, Row] = {}
    for row in rows:
        name = row["network"]
        lines.setdefault(name, {"network": name, "measure": row["measure"], "dense": row["dense"]})
    for name, line in lines.items():
        plain, calibrated = (STAGES[1], STAGES[3]) if name in IMAGES else (STAGES[0], STAGES[2])
        for title, method, stage in (
            *((peer, peer, plain) for peer in PEERS),
            ("factorq, weights alone", LARGER, plain),
            ("with inputs", ALLOTTED, calibrated),
            ("with inputs", OURS, calibrated),
            ("trained", OURS, STAGES[4]),
        ):
            if (name, method, stage) in best:
                line.setdefault(title, best[name, method, stage])
    return list(lines.values())


def save(rows: list[Row], target: Path) -> Path:
    """Write the rows, and beside them their scores in short."""
    write(f"{target.stem}_scores", scores_of(rows), target.with_stem(f"{target.stem}_scores"))
    return write("accuracy", rows, target)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder of the checkpoints")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS), metavar="NAME")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES), metavar="STAGE")
    parser.add_argument("--sizes", nargs="+", type=float, default=list(SIZES), metavar="BITS")
    parser.add_argument("--json", type=Path, help="where to write (default: results/accuracy.json)")
    parser.add_argument("--quick", action="store_true", help="lenet300_mnist at 2 bits alone; no file by default")
    options = parser.parse_args()
    named = ["lenet300_mnist"] if options.quick else options.networks
    present = [name for name in named if (options.data / f"{name}.safetensors").exists()]
    models = models_of(options.data) if present else None
    if models is None:
        print("accuracy: no checkpoints (name their folder with --data), or no torch. Nothing measured or written.")
        return
    target = options.json or (None if options.quick else RESULTS / "accuracy.json")
    sizes, ratios = ((2.0,), ()) if options.quick else (options.sizes, RATIOS)
    rows: list[Row] = earlier(target, present, options.stages, sizes)
    fresh: list[Row] = []
    with threadpool_limits(1):
        for network in map(partial(load, options.data), present):
            study = Study(network, models, Data(network, models, options.data))
            for row in rows_of(study, study.sizes(sizes, ratios), options.stages, options.quick):
                fresh.append(row)
                told = ("network", "target", "method", "stage", "bits_per_weight", "score", "seconds")
                print(f"{time.process_time():.0f} s:", *(f"{row[key]}," for key in told), flush=True)
                if target is not None:
                    save(rows + fresh, target)
    wide = table_of(fresh)
    table(wide, list(dict.fromkeys(name for line in wide for name in line)))
    if target is not None:
        print("written to", save(rows + fresh, target))


def earlier(target: Path | None, networks: Iterable[str], stages: Iterable[str], sizes: Iterable[float]) -> list[Row]:
    """The rows of a file but those that are measured again."""
    if target is None or not target.exists():
        return []
    again = set(networks), set(stages), set(sizes)
    rows: list[Row] = json.loads(target.read_text(encoding="utf-8"))["rows"]

    def stays(row: Row) -> bool:
        size = "aimed_ratio" in row or row["target"] in again[2]
        return not (row["network"] in again[0] and row["stage"] in again[1] and size)

    return [row for row in rows if stays(row)]


if __name__ == "__main__":
    os.environ.setdefault("NUMBA_NUM_THREADS", "1")  # read when Numba is imported, which the first kernel does
    main()
