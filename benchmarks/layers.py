"""Ways to store the layers of networks at or under a size, for ``quantized_sparse.py``: error, size and time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from numpy.typing import NDArray
from processes import Row, attempted, timed
from threadpoolctl import threadpool_limits

Floats = NDArray[np.float32]
OURS = "quantized_sparse"
TARGETS, LEAST_WEIGHTS = (1.0, 1.5, 2.0, 3.0), 4096
LOW, LOW_LAYERS = 0.5, tuple(f"layer3.{name}.weight" for name in ("8.conv2", "8.conv1", "4.conv1"))
DIMS = (1, 2, 3, 4, 6, 8, 9, 12, 16, 18)
COLUMNS = ("network", "layer", "target", "method", "bits_per_weight", "relative_error", "seconds", "note")
MEAN_COLUMNS = ("target", "method", "layers", "bits_per_weight", "relative_error", "ours", "ours_lower", "seconds")


def vectors(W: Floats, target: float, stages: int) -> Any:
    """Vector quantization whose size is next under the target, for the best of some dimensions."""
    import factorq as fq

    budget = target * W.size / 8
    words = sorted({round(2 ** (k / 8)) for k in range(8, 97)}, reverse=True)
    found = []
    for dim in DIMS:
        methods = (fq.VectorQuantization(dim=dim, codewords=count, stages=stages) for count in words)
        fits = next((method for method in methods if method.nbytes(W.shape, "float32") <= budget), None)
        if fits is not None:
            found.append(fq.decompose(W, method=fits, store="entropy"))
    return least_error(found, target)


def low_rank_and_grid(W: Floats, target: float) -> Any:
    """The largest 8-bit low-rank part that fits beside a grid, for the best of the bits and groups of the grid."""
    import factorq as fq

    m, n = W.shape[0], math.prod(W.shape[1:])
    budget = target * W.size / 8
    found = []
    for bits in range(1, math.ceil(target) + 1):
        for group in (64, None):
            grid = fq.Scalar(bits, group=group)
            left = budget - grid.nbytes(W.shape, "float32")
            ranks = (r for r in range(min(m, n), 0, -1) if fq.SVD(r, bits=8).nbytes(W.shape, "float32") <= left)
            rank = next(ranks, None)
            if rank is not None:
                found.append(fq.decompose(W, method=fq.SVD(rank, bits=8) + grid, store="entropy"))
    return least_error(found, target)


def least_error(found: list[Any], target: float) -> Any:
    """The best of some factorizations that keep the target."""
    under = [F for F in found if F.bits_per_weight <= target]
    if not under:
        raise ValueError(f"nothing it stores takes {target:g} bits per weight or less")
    return min(under, key=lambda F: F.relative_error)


def by_size(W: Floats, target: float, **settings: Any) -> Any:
    import factorq as fq

    return fq.decompose(W, bits_per_weight=target, **settings)


METHODS: dict[str, Callable[[Floats, float], Any]] = {
    OURS: partial(by_size, method="quantized_sparse", store="entropy"),
    "svd": partial(by_size, method="svd", store="entropy"),
    "k-means": partial(vectors, stages=1),
    "residual vectors, 2 stages": partial(vectors, stages=2),
    "low rank + grid": low_rank_and_grid,
    "trellis": partial(by_size, method="trellis"),
}


def rows(folder: Path, quick: bool) -> Iterable[Row]:
    """A row for each network, layer, size and method."""
    from safetensors.numpy import load_file

    with threadpool_limits(1):
        for shape in ((32, 256), (32, 32, 3, 3)):  # compiles
            W = np.random.default_rng(0).standard_normal(shape, np.float32)
            for method in METHODS.values():
                attempted(partial(layer_figures, method, W, 2.0))
        for path in sorted(folder.glob("resnet56*.safetensors" if quick else "*.safetensors")):
            for layer, tensor in load_file(path).items():
                if tensor.ndim < 2 or tensor.size < LEAST_WEIGHTS or (quick and layer != LOW_LAYERS[0]):
                    continue
                low = (LOW,) if path.stem.startswith("resnet56") and layer in LOW_LAYERS else ()
                W = np.ascontiguousarray(tensor, np.float32)
                for target in (*low, *TARGETS):
                    head: Row = {"network": path.stem, "layer": layer, "shape": W.shape, "target": target}
                    for name, method in METHODS.items():
                        yield head | {"method": name} | attempted(partial(layer_figures, method, W, target))
            print(f"{path.stem}: {time.process_time():.0f} s", flush=True)


def layer_figures(method: Callable[[Floats, float], Any], W: Floats, target: float) -> Row:
    F, seconds = timed(partial(method, W, target), 1)
    row = {"bits_per_weight": F.bits_per_weight, "relative_error": F.relative_error, "seconds": seconds["seconds"]}
    settings = {"settings": str(F.method)} if F.method.id == OURS else {}
    return {name: float(f"{value:.5g}") for name, value in row.items()} | settings


def means(measured: Iterable[Row]) -> list[Row]:
    """The mean over layers for each size and method, and that of quantized_sparse over the same layers."""
    found: dict[float, dict[str, dict[tuple[str, str], Row]]] = {}
    for row in measured:
        if "relative_error" in row:
            of_method = found.setdefault(row["target"], {}).setdefault(row["method"], {})
            of_method[row["network"], row["layer"]] = row
    return [
        {"target": target, "method": method, **summary(methods[method], methods.get(OURS, {}))}
        for target, methods in sorted(found.items())
        for method in METHODS
        if method in methods
    ]


def summary(rows: dict[tuple[str, str], Row], ours: dict[tuple[str, str], Row]) -> Row:
    """Means of the rows of one method, of ours on the same layers, and on how many of them ours has the lower error."""
    line: Row = {"layers": len(rows), "seconds": sum(row["seconds"] for row in rows.values())}
    for what in ("bits_per_weight", "relative_error"):
        line[what] = mean(row[what] for row in rows.values())
    if ours.keys() >= rows.keys():
        line["ours"] = mean(ours[layer]["relative_error"] for layer in rows)
        line["ours_lower"] = sum(ours[layer]["relative_error"] < row["relative_error"] for layer, row in rows.items())
    return line
