"""The methods of ``accuracy.py``: what each makes of the matrices of a network at a size, and what that takes."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from networks import Checkpoint, Made, bracket, check_same_rest, one_step, peer
from numpy.typing import NDArray
from peers import Coder, Floats, Stored, Tensors, grouped
from scalar_quantization import clipped_grid, half_quadratic

OURS, VECTORS, ALLOTTED = "Trellis, one step", "VectorQuantization", "Trellis, allotted by gradients"
LARGER = "Trellis of 64 states, one step"
LEEWAY = 1.07  # of the target, for grids with gaps between their sizes
LEAST, MOST = 0.3, 8.0  # bits of a layer
GROUPS, WIDTHS = (16, 32, 64, 128, 256, 512), (1, 2, 3, 4)
TWICE = ("resnet20_cifar10jpeg", "resnet56_cifar10")  # as another network, or three times as large


@dataclass(frozen=True)
class Size:
    """Stored bits per weight of the matrices, and the ratio of the whole network that they were computed from."""

    bits: float
    ratio: float | None = None


@dataclass(frozen=True)
class Found:
    """What a method made of the matrices: factorizations by name, or arrays and the bytes that they take."""

    restored: Mapping[str, NDArray[Any]]
    nbytes: float
    seconds: float
    factored: Mapping[str, Any] = field(default_factory=dict)
    other_share: float = 0.0
    file_bytes: int | None = None
    turned: frozenset[str] = frozenset()
    """Names of matrices of which the transpose was factorised."""

    @classmethod
    def of(cls, factored: Mapping[str, Any], seconds: float, **about: Any) -> Found:
        restored = {name: np.asarray(F.to_dense(), np.float32) for name, F in factored.items()}
        return cls(restored, sum(F.nbytes for F in factored.values()), seconds, factored, **about)

    def turning(self, names: frozenset[str]) -> Found:
        """The same, found for the transposes of some matrices."""
        restored = {name: W.T if name in names else W for name, W in self.restored.items()}
        return replace(self, restored=restored, turned=names)


Method = Callable[[Checkpoint, Any], Found]  # the bits per weight of all layers, or by their names


# --- methods --------------------------------------------------------------------------------------------------------


def of_peer(coder: Coder) -> Method:
    def run(network: Checkpoint, bits: float) -> Found:
        start = time.process_time()
        made: Made = peer(coder)(network, bits)  # type: ignore[arg-type]
        return Found({name: made.restored[name] for name in network.matrices}, made.nbytes, time.process_time() - start)

    return run


def nearest_grid(solve: Callable[..., tuple[NDArray[Any], ...]], side: int) -> Callable[[Tensors, float], Stored]:
    """A grid at the bits and groups of least squared error that take little more than the size or less."""

    def encode(tensors: Tensors, bits: float) -> Stored:
        weights = sum(W.size for W in tensors.values())
        best, least = None, np.inf
        for width in WIDTHS:
            for group in GROUPS:
                if not 0.9 * bits <= width + side / group <= LEEWAY * bits:
                    continue
                stored = grouped(solve, group, lambda _: side)(tensors, width)
                if 8 * stored.nbytes > LEEWAY * bits * weights:
                    continue
                back = stored.decode()
                lost = sum(float(np.square(W - back[name]).sum()) for name, W in tensors.items())
                if lost < least:
                    best, least = stored, lost
        if best is None:
            raise SystemExit(f"no grid takes {bits} bits per weight")
        return best

    return encode


def together(
    network: Checkpoint, bits: float, sensitivity: Mapping[str, float] | None = None, states: int = 8
) -> Found:
    """``checkpoint.compress``: one step for all tensors, met by their total."""
    import factorq as fq
    from factorq import checkpoint

    start = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "packed.safetensors"
        options = {
            "bits_per_weight": bits,
            "rng": 0,
            "sensitivity": sensitivity,
            "method": fq.Trellis(3.0, states=states),
        }
        report = checkpoint.compress(network.path, path, **options)
        tensors = fq.load(path)
    seconds = time.process_time() - start
    factored = {name: x for name, x in tensors.items() if isinstance(x, fq.Factorization)}
    plain = {name: np.asarray(x) for name, x in tensors.items() if name not in factored}
    found = Found.of(factored, seconds, file_bytes=report.file_nbytes)
    check_same_rest(network, {name: found.restored.get(name, plain.get(name)) for name in tensors}, set(factored))
    kept = {name: plain[name] for name in network.matrices if name in plain}  # smaller as they are
    more = sum(x.nbytes for x in kept.values())
    return replace(found, restored={**found.restored, **kept}, nbytes=found.nbytes + more)


def by_layer(method: Any, grams: Mapping[str, Any] | None = None, turned: Iterable[str] = ()) -> Method:
    """``method``, its free settings searched for the size of each layer; with ``grams`` of those that have one."""
    import factorq as fq

    def solve(name: str, W: Floats, bits: float) -> tuple[Any, bool]:
        options = {"gram": grams[name]} if grams is not None and name in grams else {}
        try:
            return fq.decompose(W, method=method, bits_per_weight=bits, rng=0, **options), False
        except fq.ArgumentError:
            return fq.decompose(W, method=fq.Trellis(bits), rng=0, **options), True

    def run(network: Checkpoint, bits: float | Mapping[str, float]) -> Found:
        start = time.process_time()
        factored, others, flat = {}, 0, frozenset(turned)
        for name, W in network.matrices.items():
            size = bits.get(name, MOST) if isinstance(bits, Mapping) else bits
            factored[name], other = solve(name, np.ascontiguousarray(W.T) if name in flat else W, size)
            others += W.size * other
        seconds = time.process_time() - start
        return Found.of(factored, seconds, other_share=others / network.weights).turning(flat)

    return run


def low_rank(network: Checkpoint, bits: float) -> Found:
    """The truncated SVD with factors in half precision, of the largest rank that fits, at least 1."""
    import factorq as fq

    start = time.process_time()
    factored = {}
    for name, W in network.matrices.items():
        rank = max(1, int(bits * W.size / 16 / (len(W) + W[0].size)))
        factored[name] = fq.decompose(W.astype(np.float16), rank=min(rank, len(W), W[0].size), method="svd", rng=0)
    return Found.of(factored, time.process_time() - start)


def methods(name: str, size: Size) -> dict[str, Method]:
    """Those for a network at a size; the slow ones at some sizes alone."""
    larger = partial(together, states=64)
    if size.ratio is not None:
        return {OURS: together, LARGER: larger, VECTORS: by_layer("vector_quantization")}
    half = Coder("grid", nearest_grid(clipped_grid, 16))
    found: dict[str, Method] = {
        "round to nearest": of_peer(Coder("nearest", nearest_grid(bracket, 32))),
        "clipped grid": of_peer(half),
        "HQQ": of_peer(Coder("HQQ", nearest_grid(half_quadratic, 32))),
        "uniform, one step, ideal entropy": of_peer(Coder("uniform", one_step)),
        "truncated SVD, float16": low_rank,
        OURS: together,
        LARGER: larger,
        "Scalar": by_layer("scalar"),
    }
    if size.bits in (1.0, 2.0, 3.0) and (name not in TWICE or size.bits == 2.0):
        found |= {VECTORS: by_layer("vector_quantization"), "QuantizedSparse": by_layer("quantized_sparse")}
    if size.bits in (1.0, 2.0) and name not in TWICE:
        found["SVD, quantized"] = by_layer("svd")
    if size.bits == 2.0 and name not in TWICE:
        found["SparsePCA"] = by_layer("sparse_pca")
        if name == "resnet20_cifar10":
            found["CP, integers"] = by_layer("cp")
    return found


def bits_of(found: Found) -> dict[str, float]:
    return {name: F.bits_per_weight for name, F in found.factored.items()}


def within(method: Method, network: Checkpoint, bits: Mapping[str, float], total: float) -> Found:
    """``method`` at ``bits`` for each layer, less where all of them would take more than the total."""
    share = 1.0
    for _ in range(4):
        found = method(network, {name: max(share * b, LEAST) for name, b in bits.items()})
        excess = 8 * found.nbytes / (total * network.weights)
        if excess <= 1:
            return found
        share *= 0.998 / excess
    raise SystemExit(f"{network.path.stem}: no step takes {total} bits per weight with a gram")
