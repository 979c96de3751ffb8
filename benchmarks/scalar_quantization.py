"""Scalar quantization of i.i.d. weights at 2, 3, 4 and 8 bits: size, error and speed, beside what is used elsewhere.

``python benchmarks/scalar_quantization.py [--json OUT] [--size N] [--repeats N] [--quick]``. The weights are an N x N
float32 matrix from N(0, 1) or a Laplace distribution. factorq stands twice: ``decompose`` checks its input, encodes,
packs, decodes again and measures the error; the codec alone encodes and packs. The peers are NumPy from their papers;
their codes are neither packed nor unpacked in the time taken, and those that search work on some of the rows. Times are
process CPU time of one thread, medians with the fastest and the slowest repeat, compilation left out.
"""

from __future__ import annotations

import argparse
import gc
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from common import Timing, measure, table, write
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

Floats = NDArray[np.float32]
BITS = (2, 3, 4, 8)
GROUP, PEER_GROUP = 128, 64
SEARCHED_ROWS = 8  # one row in so many is given to the peers that search: their errors are the same to three digits
DRAWS: dict[str, Callable[[np.random.Generator, tuple[int, int]], Floats]] = {
    "gaussian": lambda rng, shape: rng.standard_normal(shape, np.float32),
    "laplace": lambda rng, shape: rng.laplace(size=shape).astype(np.float32),
}
COLUMNS = (
    *("distribution", "bits", "method", "group", "bits_per_weight", "relative_squared_error", "gap_bits"),
    *("encode_mw_s", "decode_mw_s", "encode_ms", "encode_low_ms", "encode_high_ms", "decode_ms"),
)


@dataclass(frozen=True)
class Contestant:
    """How a method encodes its weights, what it then stores, and how it decodes."""

    name: str
    weights: Floats
    group: int | None
    encode: Callable[[], Any]
    decode: Callable[[Any], NDArray[Any]]
    nbytes: Callable[[Any], float]


# --- peers: NumPy, from the literature ------------------------------------------------------------------------------


def blockwise(solve: Callable[[Floats], tuple[NDArray[Any], ...]], W: Floats, group: int) -> tuple[NDArray[Any], ...]:
    """``solve`` on some rows at a time, so that the passes over a block find it in the cache."""
    step = max(1, (1 << 17) // W.shape[1])
    parts = [solve(W[start : start + step].reshape(-1, group)) for start in range(0, len(W), step)]
    return tuple(np.concatenate(part) for part in zip(*parts, strict=True))


def min_max(x: Floats, bits: int) -> tuple[NDArray[Any], ...]:
    """Round to nearest on a grid from the least to the largest weight of each group (groups, n), 0 on it."""
    top = np.float32(2**bits - 1)
    low = x.min(axis=1, keepdims=True)
    scale = ((x.max(axis=1, keepdims=True) - low) / top).astype(np.float16)
    inverse = 1 / scale.astype(np.float32)
    zero = np.clip(np.rint(-low * inverse), 0, top)
    return np.clip(np.rint(x * inverse) + zero, 0, top).astype(np.uint8), scale, -zero * scale


def clipped_grid(x: Floats, bits: int, trials: int = 40) -> tuple[NDArray[Any], ...]:
    """A symmetric grid for each group (groups, n), clipped where that lowers the squared error most: a scan."""
    zero = np.float32((2**bits - 1) / 2)
    peak = np.abs(x).max(axis=1, keepdims=True) / zero
    best = np.full(len(x), np.inf, np.float32)
    kept = np.ones_like(peak, np.float16)
    for share in np.linspace(0.35, 1, trials, dtype=np.float32):
        scale = (peak * share).astype(np.float16)
        off = x - (np.clip(np.rint(x / scale + zero), 0, 2 * zero) - zero) * scale
        error = np.einsum("ij,ij->i", off, off)
        better = error < best
        best[better], kept[better] = error[better], scale[better]
    codes = np.clip(np.rint(x / kept + zero), 0, 2 * zero).astype(np.uint8)
    return codes, kept, (-zero * kept).astype(np.float16)


def half_quadratic(x: Floats, bits: int, steps: int = 20, p: float = 0.7, beta: float = 10.0) -> tuple[Any, ...]:
    """HQQ (Badri and Shaji 2023): x ~ (codes - zero) / s; zero from ``min |x - x~|_p^p``, half-quadratic splitting."""
    top = np.float32(2**bits - 1)
    low = x.min(axis=1, keepdims=True)
    s = np.minimum(top / np.maximum(x.max(axis=1, keepdims=True) - low, 1e-8), 2e4).astype(np.float32)
    zero = -low * s if bits != 4 else np.rint(-low * s)  # its default rounds the first zero at 4 bits
    best, chosen = np.inf, zero
    for _ in range(steps):
        codes = np.clip(np.rint(x * s + zero), 0, top)
        rest = x - (codes - zero) / s
        size = np.abs(rest)
        error = float(size.mean())
        if error >= best:
            break
        best, chosen = error, zero
        shrunk = np.sign(rest) * np.maximum(size - np.maximum(size, 1e-8) ** np.float32(p - 1) / np.float32(beta), 0)
        zero = (codes - (x - shrunk) * s).mean(axis=1, keepdims=True)
        beta *= 1.01
    codes = np.clip(np.rint(x * s + chosen), 0, top).astype(np.uint8)
    scale, chosen = (1 / s).astype(np.float16), chosen.astype(np.float16)
    return codes, scale, -chosen.astype(np.float32) * scale


def affine(stored: tuple[NDArray[Any], ...], shape: tuple[int, ...]) -> Floats:
    """``scale * code + low`` of (groups, n) codes."""
    codes, scale, low = stored
    return np.asarray(codes * scale.astype(np.float32) + low.astype(np.float32)).reshape(shape)


def nearest(x: Floats, levels: Floats) -> NDArray[np.uint8]:
    """The index of the nearest of ascending levels."""
    return np.searchsorted((levels[1:] + levels[:-1]) / 2, x).astype(np.uint8)


def normal_float(x: Floats, levels: Floats) -> tuple[NDArray[Any], ...]:
    """NF4 (Dettmers et al. 2023): quantiles of a normal distribution times the largest magnitude of the group."""
    peak = np.abs(x).max(axis=1, keepdims=True).astype(np.float16)
    return nearest(x * (1 / peak.astype(np.float32)), levels), peak


def k_means(W: Floats, bits: int, sample: int = 1 << 20, steps: int = 50) -> tuple[NDArray[Any], ...]:
    """Levels for the whole matrix: Lloyd's iteration on a sorted sample, whose cells are then sums of a range.

    It starts from levels as dense as the cube root of the weights' density (Panter and Dite 1951): from quantiles it is
    far from its end after these steps where levels are many.
    """
    picked = np.sort(W.reshape(-1)[:: max(1, W.size // sample)]).astype(np.float64)
    sums = np.concatenate(([0.0], np.cumsum(picked)))
    counts, edges = np.histogram(picked, 4096)
    dense = np.concatenate(([0.0], np.cumsum(np.cbrt(counts))))
    levels = np.interp((np.arange(2**bits) + 0.5) / 2**bits * dense[-1], dense, edges)
    for _ in range(steps):
        ends = np.concatenate(([0], np.searchsorted(picked, (levels[1:] + levels[:-1]) / 2), [picked.size]))
        counts = np.diff(ends)
        levels = np.where(counts > 0, np.diff(sums[ends]) / np.maximum(counts, 1), levels)
    return nearest(W, levels.astype(np.float32)), levels.astype(np.float32)


def peers(W: Floats, bits: int) -> list[Contestant]:
    """The peers at ``bits``; a scale takes 16 bits, a zero ``bits`` if it is an integer and else 16."""
    from factorq.kernels.levels import NF4

    some = np.ascontiguousarray(W[: max(1, len(W) // SEARCHED_ROWS)])

    def grouped(name: str, x: Floats, group: int, solve: Callable[[Floats], tuple[Any, ...]], side: int) -> Contestant:
        size = (x.size * bits + x.size // group * side) / 8
        return Contestant(
            name, x, group, partial(blockwise, solve, x, group), partial(affine, shape=x.shape), lambda _: size
        )

    rivals = [
        grouped("round to nearest, min-max", W, PEER_GROUP, partial(min_max, bits=bits), 16 + bits),
        grouped("clipped grid, scan of 40", some, GROUP, partial(clipped_grid, bits=bits), 16),
        grouped("HQQ", some, PEER_GROUP, partial(half_quadratic, bits=bits), 32),
        Contestant(
            "k-means of scalars", W, None, partial(k_means, W, bits), lambda stored: stored[1][stored[0]],
            lambda _: W.size * bits / 8 + 4 * 2**bits,
        ),
    ]  # fmt: skip
    if bits == 4:
        levels = np.asarray(NF4, np.float32)
        rivals.append(
            Contestant(
                "NF4, largest magnitude", W, PEER_GROUP,
                partial(blockwise, partial(normal_float, levels=levels), W, PEER_GROUP),
                lambda stored: (levels[stored[0]] * stored[1].astype(np.float32)).reshape(W.shape),
                lambda _: W.size / 2 + W.size // PEER_GROUP * 2,
            )
        )  # fmt: skip
    return rivals


# --- factorq --------------------------------------------------------------------------------------------------------


def ours(W: Floats, bits: int) -> list[Contestant]:
    """factorq's versions at ``bits``, each through the front door and as the codec alone."""
    import factorq as fq

    kinds: dict[str, dict[str, Any]] = {
        "uniform": {"levels": "uniform"},
        "lloyd": {"levels": "lloyd"},
        "asymmetric": {"levels": "uniform", "grid": "asymmetric"},
    }
    if bits == 4:
        kinds["nf4"] = {"levels": "nf4"}
    rows = []
    for kind, settings in kinds.items():
        method = fq.Scalar(bits, group=GROUP, **settings)
        front = partial(fq.decompose, W, method=method)
        codec = partial(method.constraint("float32", W.size).encode, W)
        rows.append(Contestant(f"factorq {kind}", W, GROUP, front, lambda F: F.to_dense(), lambda F: F.nbytes))
        rows.append(Contestant(f"factorq {kind}, codec", W, GROUP, codec, lambda e: e.decode(), lambda e: e.nbytes))
    return rows


# --- the comparison -------------------------------------------------------------------------------------------------


def compare(name: str, W: Floats, bits: int, repeats: int) -> list[dict[str, Any]]:
    """One row for each contestant on the same weights."""
    from factorq.measure import gap_bits, squared_distance, squared_norm

    contestants = ours(W, bits) + peers(W, bits)
    encoding = measure({c.name: c.encode for c in contestants}, repeats)
    rows = []
    for c in contestants:
        stored = c.encode()
        error = squared_distance(c.weights, c.decode(stored)) / squared_norm(c.weights)
        decoding = measure({c.name: partial(c.decode, stored)}, repeats)[c.name]
        stored_bits = 8 * c.nbytes(stored) / c.weights.size
        rows.append(
            {
                "distribution": name,
                "bits": bits,
                "method": c.name,
                "group": c.group,
                "bits_per_weight": stored_bits,
                "relative_squared_error": error,
                "gap_bits": gap_bits(stored_bits, error),
                **timed("encode", encoding[c.name], c.weights.size),
                **timed("decode", decoding, c.weights.size),
                "weights": c.weights.size,
            }
        )
        del stored
        gc.collect()
    return rows


def timed(what: str, timing: Timing, size: int) -> dict[str, float]:
    """Million weights per second, and milliseconds for ``size`` weights: median, fastest, slowest."""
    milliseconds = {
        f"{what}_ms": timing.median,
        f"{what}_low_ms": timing.low,
        f"{what}_high_ms": timing.high,
    }
    return {f"{what}_mw_s": size / 1e6 / timing.median, **{key: 1e3 * value for key, value in milliseconds.items()}}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", default=None, help="where to write (default: results/scalar_quantization.json)")
    parser.add_argument("--size", type=int, default=4096, help="rows and columns, a multiple of 128")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="512 rows and columns, 2 and 4 bits, two repeats, no file")
    options = parser.parse_args()
    if options.size < GROUP or options.size % GROUP:
        parser.error(f"--size: found {options.size}, allowed is a multiple of {GROUP}: the peers have no ragged groups")
    size, repeats, widths = (512, 2, (2, 4)) if options.quick else (options.size, options.repeats, BITS)
    start = time.perf_counter()
    rows = []
    with threadpool_limits(1):
        for name, draw in DRAWS.items():
            W = draw(np.random.default_rng(0), (size, size))
            for bits in widths:
                rows += compare(name, W, bits, repeats)
    table(rows, COLUMNS)
    print(f"\n{size} x {size} weights, {repeats} repeats, {time.perf_counter() - start:.0f} s in all")
    if not options.quick or options.json:
        print("written to", write("scalar_quantization", rows, options.json))


if __name__ == "__main__":
    os.environ.setdefault("NUMBA_NUM_THREADS", "1")  # read when Numba is imported, which the first kernel does
    main()
