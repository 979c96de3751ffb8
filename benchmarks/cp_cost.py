"""Seconds of a sweep and peak memory of factorq's CP beside TensorLy's parafac, for ``cp.py``."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from statistics import mean, median
from typing import Any

import cp_peers as peers
import numpy as np
from numpy.typing import NDArray
from processes import Row, attempted, isolated, memory_mib, timed
from threadpoolctl import threadpool_limits

Floats = NDArray[Any]
Shape = tuple[int, ...]
Settings = Mapping[str, Any]  # keywords of CP
SWEEPS = 50
CUBE = (256, 256, 256)
SWEPT = (
    *(((256, 256, 9), 256, 5), ((512, 512, 9), 64, 5), ((512, 512, 9), 256, 5)),  # with the number of starts
    *((CUBE, 16, 5), (CUBE, 64, 5), (CUBE, 256, 2)),
)
SWEEP_COLUMNS = (
    *("shape", "rank", "sweep_s", "low", "high", "peer_sweep_s", "peer_low", "peer_high", "time_ratio", "starts"),
    *("relative_error", "plain_error", "peer_error", "lower", "seconds", "plain_s", "peer_s", "note"),
)
MEMORY_COLUMNS = ("shape", "rank", "method", "before_mib", "peak_mib", "beyond_mib", "memory_ratio", "note")


# --- sweeps ---------------------------------------------------------------------------------------------------------


def sweep_rows(quick: bool) -> Iterator[Row]:
    """One process for each shape and rank."""
    for shape, rank, starts in (((64, 64, 9), 64, 2),) if quick else SWEPT:
        head: Row = {"shape": peers.as_text(shape), "rank": rank}
        yield peers.short(head | isolated(partial(sweep_row, shape, rank, starts)))
        print(head, flush=True)


def sweep_row(shape: Shape, rank: int, starts: int) -> Row:
    """Seconds of a sweep, and errors after ``SWEEPS`` of them, of factorq and of parafac."""
    import factorq as fq
    from factorq.solvers.cp.products import Unfolded
    from factorq.solvers.cp.real import alternate

    W = peers.planted(shape, rank)
    X, first = Unfolded(W), start(shape, rank, 0)
    calls: dict[str, Callable[[int], int]] = {
        "": lambda n: len(alternate(X, list(first[1]), max_iter=n, tol=0.0, callback=None).history),
        "peer_": lambda n: len(peers.parafac(W, rank, n, single(first))[1]) and n,
    }
    row: Row = {}
    for prefix, (middle, low, high) in per_sweep(calls).items():
        row |= {f"{prefix}sweep_s": middle, f"{prefix}low": low, f"{prefix}high": high}
    row |= {"time_ratio": row["sweep_s"] / row["peer_sweep_s"], "starts": starts}

    half = SWEEPS // 2
    settings: dict[str, Settings] = {"": {"anneal": 4 * half, "max_iter": half}, "plain_": {"max_iter": SWEEPS}}
    found: dict[str, list[tuple[float, float]]] = {"": [], "plain_": [], "peer_": []}
    for seed in range(starts):
        init = start(shape, rank, seed)
        for prefix, chosen in settings.items():
            method = fq.CP(rank, init=init, tol=0.0, **{"anneal": 0, **chosen})
            F, seconds = timed(partial(fq.decompose, W, method=method, rng=seed), 1)
            found[prefix].append((F.relative_error, seconds["seconds"]))
        factors, seconds = timed(partial(peers.parafac, W, rank, SWEEPS, single(init)), 1)
        found["peer_"].append((peers.relative_error(W, *factors), seconds["seconds"]))
    for prefix, pairs in found.items():
        errors, taken = zip(*pairs, strict=True)
        row[f"{prefix}error" if prefix else "relative_error"] = mean(errors)
        row[f"{prefix}s" if prefix else "seconds"] = mean(taken)
    row["lower"] = sum(ours[0] < peer[0] for ours, peer in zip(found[""], found["peer_"], strict=True))
    return row


def start(shape: Shape, rank: int, seed: int) -> tuple[Floats, list[Floats]]:
    """Weights of 1 and normal columns, of the size of the array to be found, 1."""
    rng = np.random.default_rng([seed, rank])
    return np.ones(rank), [rng.standard_normal((n, rank)) / (n * rank ** (1 / len(shape))) ** 0.5 for n in shape]


def single(init: tuple[Floats, list[Floats]]) -> tuple[Floats, list[Floats]]:
    """A start in float32, in which parafac then works."""
    return init[0].astype(np.float32), [F.astype(np.float32) for F in init[1]]


def per_sweep(
    calls: Mapping[str, Callable[[int], int]], counts: tuple[int, int] = (2, 7), repeats: int = 5
) -> dict[str, tuple[float, float, float]]:
    """Median, least and most seconds of one more sweep: all take turns, and what is spent beside sweeps cancels."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(repeats + 1):
        for name, call in calls.items():
            times, done = [], []
            for count in counts:
                begun = time.process_time()
                done.append(call(count))
                times.append(time.process_time() - begun)
            if turn:  # the first one warms up
                taken[name].append((times[1] - times[0]) / (done[1] - done[0]))
    return {name: (median(of), min(of), max(of)) for name, of in taken.items()}


# --- memory ---------------------------------------------------------------------------------------------------------


def memory_rows(quick: bool) -> Iterator[Row]:
    """One process for each rank and method."""
    shape = (128, 128, 9) if quick else (512, 512, 9)
    few = {"anneal": 8, "max_iter": 2}
    for rank in (64,) if quick else (256, 1141):
        tasks: dict[str, Callable[[Floats], object]] = {
            "parafac": partial(peers.parafac, rank=rank, iterations=2),
            "CP, real": partial(decomposed, {"rank": rank, **few}),
            "CP, 4 bits": partial(decomposed, {"rank": rank, "bits": 4, **few}),
        }
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "W.npy"
            np.save(path, peers.planted(shape, rank))
            rows = {name: isolated(partial(remembered, path, task)) for name, task in tasks.items()}
        most = rows["parafac"].get("beyond_mib")
        for name, row in rows.items():
            ratio = {"memory_ratio": row["beyond_mib"] / most} if most and "beyond_mib" in row else {}
            yield peers.short({"shape": peers.as_text(shape), "rank": rank, "method": name} | row | ratio)


def remembered(path: Path, task: Callable[[Floats], object]) -> Row:
    with threadpool_limits(1):
        W = np.load(path)
        warm_up(W.dtype)
        attempted(partial(peers.first_call, W))
        row = peers.memory_before()
        task(W)
        peak = memory_mib("VmHWM")
    return row | {"peak_mib": peak, "beyond_mib": peak - row["before_mib"]}


def decomposed(settings: Settings, W: Floats) -> Any:
    import factorq as fq

    return fq.decompose(W, method=fq.CP(**settings), rng=0)


def warm_up(dtype: Any) -> None:
    """Load or compile the kernels of CP for arrays of ``dtype``."""
    W = np.random.default_rng(0).standard_normal((8, 8, 9)).astype(dtype)
    decomposed({"rank": 4, "bits": 4, "anneal": 4, "max_iter": 2}, W)
