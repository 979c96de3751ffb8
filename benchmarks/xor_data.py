"""Masks and what they keep, for ``xor.py``: i.i.d. ones and those of networks pruned by magnitude; their entropies."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import median, median_low
from typing import Any

import numpy as np
from common import Timing
from numpy.typing import NDArray

Row = dict[str, Any]
Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]
Bytes = NDArray[np.uint8]
ROOT = Path(__file__).resolve().parents[1]
LEAST_WEIGHTS = 4096
QUICK = ("lenet300_mnist",)
SCALE = 2  # bytes of the scale of a layer, which every format stores beside mask and codes


# --- masks ----------------------------------------------------------------------------------------------------------


def fair(size: int, sparsity: float, seed: int) -> tuple[Bytes, Bools]:
    """Bits of a fair coin, and an i.i.d. mask of where they matter."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 2, size, np.uint8), rng.random(size) >= sparsity


def gaussian(shape: tuple[int, ...], seed: int = 0) -> Floats:
    """Of i.i.d. weights, the largest ones are at random places, and their signs are fair."""
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def networks(folder: Path, quick: bool) -> dict[str, list[Floats]]:
    """The tensors of two or more axes and ``LEAST_WEIGHTS`` or more weights of each checkpoint in ``folder``."""
    from safetensors.numpy import load_file

    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        if quick and path.stem not in QUICK:
            continue
        large = [W for W in load_file(path).values() if W.ndim >= 2 and W.size >= LEAST_WEIGHTS]
        found[path.stem] = [np.ascontiguousarray(W, np.float32) for W in large]
    return found


def pruned(layers: Sequence[Floats], sparsity: float, threshold: str) -> list[Bools]:
    """Which weights stay if the smallest go: as many in each "layer", or as many of the whole "network"."""
    from factorq.constraints import Sparse

    limit = Sparse(sparsity)
    if threshold == "layer":
        return [limit.mask(np.abs(W)) for W in layers]
    every = limit.mask(np.abs(np.concatenate([W.reshape(-1) for W in layers])))
    ends = np.cumsum([W.size for W in layers])
    return [part.reshape(W.shape) for part, W in zip(np.split(every, ends[:-1]), layers, strict=True)]


# --- what is stored -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Layer:
    """A sparse layer: its mask, and codes of ``bits`` bits for the kept weights, on a grid with one scale."""

    mask: Bools
    inner: Any
    codes: Bytes
    bits: int

    @classmethod
    def of(cls, W: Floats, mask: Bools, bits: int) -> Layer:
        from factorq.codecs import Grid
        from factorq.kernels.bits import unpack

        inner = Grid.encode(W[mask], bits=bits, group=None, axis=None, zero=2 ** (bits - 1) - 0.5)
        return cls(mask, inner, unpack(inner.codes, bits, inner.size), bits)

    @property
    def size(self) -> int:
        return self.mask.size

    @property
    def count(self) -> int:
        return self.codes.size

    @cached_property
    def symbols(self) -> Bytes:
        """0 for a pruned weight, 1 + code for a kept one: (size,)."""
        found = np.zeros(self.size, np.uint8)
        found[np.flatnonzero(self.mask)] = self.codes + 1
        return found

    @cached_property
    def levels(self) -> Floats:
        """The weight that each symbol stands for."""
        found = np.zeros(2**self.bits + 1, np.float32)
        found[1 + self.codes] = self.inner.decode()
        return found

    @cached_property
    def weights(self) -> Floats:
        """The layer that every format has to give back, bit for bit."""
        return np.asarray(self.levels[self.symbols]).reshape(self.mask.shape)


def mask_entropy(masks: Iterable[Bools]) -> float:
    """Bits of all masks if each were i.i.d. with its own share of ones."""
    from factorq.measure import binary_entropy

    return sum(mask.size * binary_entropy(np.count_nonzero(mask) / mask.size) for mask in masks)


def floors(layers: Sequence[Layer]) -> Row:
    """Bits per weight that i.i.d. masks and codes take: values of full width, of their entropy, mask, all."""
    from factorq.measure import empirical_entropy

    size, count = sum(x.size for x in layers), sum(x.count for x in layers)
    mask = mask_entropy(x.mask for x in layers) / size
    entropy = sum(x.count * empirical_entropy(x.codes) for x in layers if x.count) / size
    return {
        "kept": count / size,
        "value_floor": layers[0].bits * count / size,
        "value_entropy": entropy,
        "mask_entropy": mask,
        "joint_floor": mask + entropy,
    }


# --- figures --------------------------------------------------------------------------------------------------------


def rates(name: str, weights: float, timing: Timing, unit: float = 1e6) -> Row:
    """Weights per second in millions or another unit: median, slowest and fastest."""
    seconds = {name: timing.median, f"{name}_low": timing.high, f"{name}_high": timing.low}
    return {key: weights / unit / max(taken, 1e-9) for key, taken in seconds.items()}


def middle(rows: Sequence[Mapping[str, Any]], spread: Iterable[str]) -> Row:
    """The medians of the figures of some runs; of ``spread`` the least and the largest too."""
    found: Row = {}
    for name, first in rows[0].items():
        values = [row[name] for row in rows]
        found[name] = first if first is None else median_low(values) if isinstance(first, int) else median(values)
    for name in spread:
        values = [row[name] for row in rows]
        found |= {f"{name}_low": min(values), f"{name}_high": max(values)}
    return found
