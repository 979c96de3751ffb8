"""Residual networks whose convolutions are sums of outer products of integers: accuracy beside peers of equal bytes.

``python benchmarks/cp_networks.py [--data DIR] [--networks NAME ...] [--json OUT] [--quick]``; the data folder is that
of ``networks.py``, and torch is required. As in the paper (Cherniuk et al. 2023, arXiv 2308.04595) the 3x3 convolutions
of the residual blocks are factorised; the first convolution and the linear layer are stored by ``Scalar(8)``, batch
norm and biases as float32. There is no fine-tuning. Each network is scored twice: as it came back (``top1_before``),
and after its batch norms got the mean and the variance of their inputs anew, from 2,048 training images (1,000 of the
JPEG copy), each with all earlier ones done; ``top1``, ``agreement``, ``kl`` are those afterwards. The images have to be
like those by which the network got its moments: the published ones were trained on crops in a black border, and without
it ``dense`` itself loses up to 3 points. Its two rows tell what estimating costs with and without the border.

At each reduction of the number of weights, once with real factors, and for each width of the integers:

- ``CP integers``: found as integers; its bytes are those that the other methods may take of each tensor.
- ``CP rounded``: ``solver="als"``, real factors that are rounded; ``CP real, rounded``: those of ``CP real`` rounded.
- ``Trellis``: plain entropy-coded quantization of the weights; ``Scalar``: the most bits, then the smallest groups.

``bits_per_weight`` is of all tensors of two or more axes, ``total_bits_per_weight`` with what stays float32 too;
``relative_error`` is over the factorised layers alone, ``solve_s`` CPU seconds of one thread for them.
``cp_networks_scores.json`` has a row for each network, reduction and width, and a column for each method.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from common import RESULTS, table, write
from networks import ROOT, Checkpoint, Row, State, load, models_of, relative_error, scorer
from numpy.typing import NDArray
from peers import Floats
from threadpoolctl import threadpool_limits

Factorizations = dict[str, Any]
MOST_IMAGES = 2048
BORDER = 4  # pixels
NETWORKS = {  # the images from which batch norm is estimated, and whether they are to be cropped in a border
    "resnet20_cifar10": ("cifar10_train_lossless.npz", True),
    "resnet56_cifar10": ("cifar10_train_lossless.npz", True),
    "resnet20_cifar10jpeg": ("cifar10_train_jpeg.npz", False),
}
REDUCTIONS, BITS = (1.5, 2.0, 3.0), (8, 6, 4)
DENSE, OURS, REAL, PLAIN = "dense", "CP integers", "CP real", "Scalar(4)"
GROUPS = (32, 64, 128, None)  # weights that share a scale of a grid; None for a row
COLUMNS = (
    *("network", "reduction", "bits", "method", "code_bits", "bits_per_weight", "total_bits_per_weight"),
    *("relative_error", "top1_before", "top1", "agreement", "kl", "solve_s"),
)


# --- batch norm -----------------------------------------------------------------------------------------------------


def renew(network: Any, x: Any) -> None:
    """Give each batch norm of the torch module the moments of its inputs, when ``x`` (N, C, ...) runs as one batch.

    A hook sets them before the layer runs, in evaluation mode: all earlier layers have theirs by then.
    """
    import torch

    from factorq import ChannelMoments

    def estimate(layer: Any, inputs: Any) -> None:
        moments = ChannelMoments(axis=1)
        moments.update(inputs[0].numpy())
        layer.running_mean.copy_(torch.from_numpy(moments.mean))
        layer.running_var.copy_(torch.from_numpy(moments.variance(ddof=1)))

    layers = [layer for layer in network.eval().modules() if isinstance(layer, torch.nn.BatchNorm2d)]
    hooks = [layer.register_forward_pre_hook(estimate) for layer in layers]
    with torch.no_grad():
        network(x)
    for hook in hooks:
        hook.remove()


def renewed(models: ModuleType, x: Any, tensors: Mapping[str, NDArray[Any]]) -> State:
    """``tensors`` of a residual network with its batch norms estimated anew."""
    import torch

    network = models.resnet_from_state({name: torch.from_numpy(np.array(array)) for name, array in tensors.items()})
    renew(network, x)
    state = network.state_dict()
    return {name: state[name].numpy() for name in tensors}


def cropped(images: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """A crop of the same size of each of ``images`` (N, h, w, 3) in a black border, half of them mirrored."""
    h, w = images.shape[1:3]
    framed = np.pad(images, ((0, 0), (BORDER, BORDER), (BORDER, BORDER), (0, 0)))
    corners = rng.integers(0, 2 * BORDER + 1, (len(images), 2))
    crops = [image[i : i + h, j : j + w] for image, (i, j) in zip(framed, corners, strict=True)]
    sides = rng.choice([-1, 1], len(images))
    return np.stack([crop[:, ::side] for crop, side in zip(crops, sides, strict=True)])


# --- methods --------------------------------------------------------------------------------------------------------


def is_factorised(name: str, W: NDArray[Any]) -> bool:
    """Whether this is a 3x3 convolution of a residual block."""
    return name.startswith("layer") and W.shape[2:] == (3, 3)


@dataclass(frozen=True)
class Cell:
    """What one method made of the factorised layers, and the CPU seconds that it took."""

    method: str
    found: Factorizations
    seconds: float
    reduction: float | None = None
    bits: int | None = None
    code_bits: float | None = None  # of a grid, the mean over weights


def solved(layers: Mapping[str, Floats], chosen: Mapping[str, Any], **about: Any) -> Cell:
    """Factorise each layer by the method chosen for it."""
    import factorq as fq

    start = time.process_time()
    found = {name: fq.decompose(W, method=chosen[name], rng=0) for name, W in layers.items()}
    return Cell(found=found, seconds=time.process_time() - start, **about)


def cells(layers: Mapping[str, Floats], reductions: Iterable[float], widths: Sequence[int]) -> Iterable[Cell]:
    """All methods at all sizes, and a plain grid of four bits."""
    import factorq as fq

    yield solved(layers, dict.fromkeys(layers, fq.Scalar(4)), method=PLAIN, code_bits=4.0)
    for reduction in reductions:
        method = fq.CP(reduction=reduction)
        real = solved(layers, dict.fromkeys(layers, method), method=REAL, reduction=reduction)
        yield real
        for bits in widths:
            yield from at_equal_bytes(layers, real, replace(method, bits=bits))


def at_equal_bytes(layers: Mapping[str, Floats], real: Cell, method: Any) -> Iterable[Cell]:
    """``method``, which finds integers, and what takes no more bytes of any layer."""
    import factorq as fq

    about = {"reduction": method.reduction, "bits": method.bits}
    ours = solved(layers, dict.fromkeys(layers, method), method=OURS, **about)
    yield ours

    def of_real(F: Any) -> Any:
        weights, factors = F.to_tensorly()
        rank = len(factors[0].T)
        return fq.CP(rank, method.bits, solver="als", init=(weights, factors), anneal=0, max_iter=1)

    grids = {name: widest(W.shape, ours.found[name].nbytes) for name, W in layers.items()}
    peers: dict[str, Mapping[str, Any]] = {
        "CP rounded": dict.fromkeys(layers, replace(method, solver="als")),
        "CP real, rounded": {name: of_real(F) for name, F in real.found.items()},
        "Trellis": {name: fq.Trellis(F.bits_per_weight) for name, F in ours.found.items()},
        "Scalar": grids,
    }
    mean = sum(grids[name].bits * W.size for name, W in layers.items()) / sum(W.size for W in layers.values())
    for title, chosen in peers.items():
        peer = solved(layers, chosen, method=title, code_bits=mean if title == "Scalar" else None, **about)
        for name, F in peer.found.items():
            if F.nbytes > ours.found[name].nbytes:
                raise SystemExit(f"{name}: {title} takes {F.nbytes} bytes, above {ours.found[name].nbytes}")
        yield peer


def widest(shape: tuple[int, ...], nbytes: int) -> Any:
    """The grid of most bits, then of smallest groups, that takes ``nbytes`` or less."""
    import factorq as fq

    for bits in range(16, 0, -1):
        for group in GROUPS:
            grid = fq.Scalar(bits, group=group)
            if grid.nbytes(shape, "float32") <= nbytes:
                return grid
    raise SystemExit(f"no grid for a layer of shape {shape} takes {nbytes} bytes or less")


# --- rows -----------------------------------------------------------------------------------------------------------


def rows_of(network: Checkpoint, models: ModuleType, folder: Path, made: Callable[..., Iterable[Cell]]) -> list[Row]:
    """Rows for the network as it is, and one for each of the cells ``made`` of its layers."""
    import factorq as fq

    name, (file, border) = network.path.stem, NETWORKS[network.path.stem]
    with np.load(folder / file) as archive:
        images = archive["x"][:MOST_IMAGES]
    inputs = {True: models.cifar_normalise(cropped(images, np.random.default_rng(0)))}
    inputs[False] = models.cifar_normalise(images)
    score = scorer(name, network.tensors, models)
    layers = {key: W for key, W in network.matrices.items() if is_factorised(key, W)}
    others = {key: W for key, W in network.matrices.items() if key not in layers}
    stored = solved(others, dict.fromkeys(others, fq.Scalar(8)), method="others").found
    passed = sum(array.nbytes for array in network.tensors.values() if array.ndim < 2)

    def row(restored: Mapping[str, NDArray[Any]], nbytes: int, about: Row, border: bool = border) -> Row:
        before, after = score(restored), score(renewed(models, inputs[border], restored))
        line = {"network": name, **about, "bits_per_weight": 8 * nbytes / network.weights,
                "total_bits_per_weight": 8 * (nbytes + passed) / network.weights,
                "relative_error": relative_error(Checkpoint(network.path, layers), restored),
                "top1_before": before["after"], "top1": after["after"],
                "agreement": after["agreement"], "kl": after["kl"]}  # fmt: skip
        print(f"{time.process_time():.0f} s:", *(f"{key} {short(value)}," for key, value in line.items()), flush=True)
        return {key: short(value) for key, value in line.items()}

    whole = sum(W.nbytes for W in network.matrices.values())
    titles = {border: DENSE, not border: f"{DENSE}, {'without' if border else 'with'} a border"}
    rows = [row(network.tensors, whole, {"method": titles[which]}, which) for which in titles]
    for cell in made(layers):
        factorizations = stored | cell.found
        restored = {**network.tensors, **{key: F.to_dense() for key, F in factorizations.items()}}
        about = {"method": cell.method, "reduction": cell.reduction, "bits": cell.bits, "code_bits": cell.code_bits}
        line = row(restored, sum(F.nbytes for F in factorizations.values()), about)
        rows.append(line | {"solve_s": short(cell.seconds)})
    return [{key: line[key] for key in COLUMNS if line.get(key) is not None} for line in rows]


def short(value: object) -> object:
    """Five digits of a float; anything else as it is."""
    return float(f"{value:.5g}") if isinstance(value, float) else value


def scores(rows: Sequence[Row]) -> list[Row]:
    """A row for each network, reduction and width, a column for each method: top-1, in brackets the bits of a grid."""
    alone = {(row["network"], row["method"], row.get("reduction")): row for row in rows if "bits" not in row}
    lines: dict[tuple[Any, ...], Row] = {}
    for row in rows:
        if "bits" in row:
            head = {name: row[name] for name in ("network", "reduction", "bits")}
            line = lines.setdefault(tuple(head.values()), head)
            if row["method"] == OURS:
                line["bits_per_weight"] = row["bits_per_weight"]
                line[DENSE] = alone[row["network"], DENSE, None]["top1_before"]
                line[REAL] = alone[row["network"], REAL, row["reduction"]]["top1"]
            grid = f" ({row['code_bits']:.3g} bits)" if "code_bits" in row else ""
            line[row["method"]] = f"{row['top1']:.4g}{grid}" if grid else row["top1"]
    return list(lines.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder of the checkpoints")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS), metavar="NAME")
    parser.add_argument(
        "--json", type=Path, help="where to write (default: results/cp_networks.json, for all networks)"
    )
    parser.add_argument("--quick", action="store_true", help="resnet20_cifar10 at one size alone; no file by default")
    options = parser.parse_args()
    named = ["resnet20_cifar10"] if options.quick else options.networks
    present = [name for name in named if (options.data / f"{name}.safetensors").exists()]
    models = models_of(options.data) if present else None
    if models is None:
        print("cp_networks: no checkpoints (name their folder with --data), or no torch. Nothing measured or written.")
        return
    reductions, widths = ((2.0,), (4,)) if options.quick else (REDUCTIONS, BITS)
    made = partial(cells, reductions=reductions, widths=widths)
    rows: list[Row] = []
    with threadpool_limits(1):
        W = np.random.default_rng(0).standard_normal((16, 16, 3, 3), np.float32)
        for _ in cells({"W": W}, (2.0,), (4,)):  # compiles
            pass
        for network in map(partial(load, options.data), present):
            rows += rows_of(network, models, options.data, made)
    table(rows, COLUMNS)
    wide = scores(rows)
    print("\ntop-1 % after batch norm was estimated anew")
    table(wide, list(dict.fromkeys(name for line in wide for name in line)))
    if options.json or present == list(NETWORKS):
        target = options.json or RESULTS / "cp_networks.json"
        print("written to", write("cp_networks", rows, target))
        print("written to", write("cp_networks_scores", wide, target.with_stem(f"{target.stem}_scores")))
    else:
        print("a part of it all: written only with --json OUT")


if __name__ == "__main__":
    os.environ.setdefault("NUMBA_NUM_THREADS", "1")  # read when Numba is imported, which the first kernel does
    main()
