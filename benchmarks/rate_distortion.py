"""Bits against error for every method that stores bits, on random and real weights, beside what is used elsewhere.

``python benchmarks/rate_distortion.py [--data DIR] [--json OUT] [--only WORD ...] [--quick]``. A source is a matrix of
independent numbers or a network: all its tensors of two or more dimensions, coded one by one. Where the setting is a
step, it is the same multiple of every tensor's standard deviation, searched until the network takes the wanted size.
The gap is what is stored, every table counted, less log2(variance / error) / 2, both summed over the network: zero is
Shannon's bound for independent Gaussian weights. ``saved_bits`` is what a method stores more than the trellis of 8
states would at the same error. Speeds are process CPU time of one thread: the median of the repeats on random weights,
one pass on networks. For factorq they are those of ``decompose``, which decodes again and measures the error.

Four files are written: ``rate_distortion.json`` with a row for each source, method and size; ``.._large.json`` with the
entropy-coded trellis alone on 16 million Gaussian weights (the speed of its codec and that of the search for a size);
``.._gaps.json`` with the gaps and ``.._saved.json`` with the bits saved at equal error, a column for each source.
"""

from __future__ import annotations

import argparse
import gc
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from common import RESULTS, table, write
from peers import Coder, Floats, Stored, Tensors, each, peers, spread
from threadpoolctl import threadpool_limits

Row = dict[str, Any]
ROOT = Path(__file__).resolve().parents[1]
NETWORKS = (
    *("resnet20_cifar10", "resnet56_cifar10", "vgg16_imagenet_layers", "stories260K", "g2p_gru", "charlstm_bronte"),
    *("lenet5_mnist", "lenet300_mnist", "resnet20_cifar10jpeg"),
)
DRAWS: dict[str, Callable[[np.random.Generator, tuple[int, int]], Floats]] = {
    "gaussian": lambda rng, shape: rng.standard_normal(shape, np.float32),
    "laplace": lambda rng, shape: rng.laplace(size=shape).astype(np.float32),
}
REFERENCE = "factorq trellis, 8 states"
CURVE = (0.5, 1, 2, 3, 4)  # stored bits at which the reference is measured, so that every peer's error lies between two
AIMS = (2, 3, 4)
CLOSE = 0.02  # bits by which a searched size may miss its aim; the gap is that of the size met
PATIENCE = 4.0  # seconds of encoding after which nothing is repeated
COLUMNS = (
    *("source", "method", "nominal_bits", "bits_per_weight", "relative_squared_error", "gap_bits", "saved_bits"),
    *("encode_mw_s", "decode_mw_s", "note"),
)
LARGE_COLUMNS = (
    *("weights", "states", "bits", "bits_per_weight", "gap_bits"),
    *("encode_mw_s", "decode_mw_s", "decompose_mw_s", "model", "note"),
)


# --- factorq --------------------------------------------------------------------------------------------------------


def front(method: Callable[[Any, float], Any], **settings: Any) -> Callable[..., Stored]:
    """``decompose`` of each tensor with ``method(fq, setting)``."""
    import factorq as fq

    def encode(W: Floats, setting: float) -> tuple[float, Callable[[], Any]]:
        F = fq.decompose(W, method=method(fq, setting), rng=0, **settings)
        return F.nbytes, F.to_dense

    return each(encode)


def in_steps(before: Callable[[Any, Floats], Any] | None = None, **settings: Any) -> Callable[..., Stored]:
    """The trellis at a step relative to each tensor's deviation, perhaps after another method."""
    import factorq as fq

    def encode(W: Floats, relative: float) -> tuple[float, Callable[[], Any]]:
        method = fq.Trellis(step=relative * spread(W), **settings)
        F = fq.decompose(W, method=method if before is None else before(fq, W) + method, rng=0)
        return F.nbytes, F.to_dense

    return each(encode)


def vectors(fq: Any, bits: float) -> Any:
    """One codebook of at most 256 words."""
    dim, codewords = {2: (4, 256), 3: (2, 64), 4: (2, 256)}[int(bits)]
    return fq.VectorQuantization(dim=dim, codewords=codewords)


def ours() -> list[Coder]:
    """factorq's methods; the first is the one that the others are held against."""
    some = (2, 3, 4)
    return [
        Coder(REFERENCE, in_steps(states=8), CURVE, by_step=True),
        *(Coder(f"factorq trellis, {n} states", in_steps(states=n), some, by_step=True) for n in (1, 64)),
        Coder("factorq trellis, 256 states", in_steps(states=256), (3,), by_step=True),
        Coder(f"{REFERENCE}, static model", in_steps(states=8, model="static"), some, by_step=True),
        Coder(
            "factorq SVD of rank 4, 8 bits, + trellis",
            in_steps(lambda fq, W: fq.SVD(min(4, len(W), W[0].size), bits=8)), (3,), by_step=True,
        ),
        Coder("factorq trellis, fixed rate, 4096 states, rotated", front(
            lambda fq, bits: fq.Trellis(int(bits), 4096, fixed_rate=True, rotate=True)), some),
        Coder("factorq scalar", front(lambda fq, bits: fq.Scalar(int(bits))), (2, 3, 4, 5)),
        Coder("factorq scalar, Lloyd", front(lambda fq, bits: fq.Scalar(int(bits), levels="lloyd")), (2, 3, 4, 5)),
        Coder("factorq scalar, NF4", front(lambda fq, bits: fq.Scalar(int(bits), levels="nf4")), (4,)),
        Coder("factorq scalar, entropy store", front(
            lambda fq, bits: fq.Scalar(int(bits)), store="entropy"), (2, 3, 4, 5)),
        Coder("factorq vector quantization", front(vectors), some),
        Coder("factorq residual vectors of 8, 256 words", front(
            lambda fq, bits: fq.VectorQuantization(dim=8, codewords=256, stages=int(bits))), (2,),
            random_only=True),  # on resnet20 its codebooks take 4 of 6.5 bits per weight
    ]  # fmt: skip


# --- one measurement ------------------------------------------------------------------------------------------------


def measured(tensors: Tensors, coder: Coder, setting: float, repeats: int) -> Row:
    """Size, error, gap and speeds of one coder at one setting."""
    from factorq.measure import squared_distance

    encoding, decoding = [], []
    for _ in range(repeats):
        start = time.process_time()
        stored = coder.encode(tensors, setting)
        middle = time.process_time()
        back = stored.decode()
        encoding.append(middle - start)
        decoding.append(time.process_time() - middle)
        if sum(encoding) > PATIENCE:
            break
    weights = sum(W.size for W in tensors.values())
    variance = sum(W.size * float(W.var(dtype=np.float64)) for W in tensors.values())
    error = sum(squared_distance(W, np.asarray(back[name])) for name, W in tensors.items()) / variance
    bits = 8 * stored.nbytes / weights
    return {
        "bits_per_weight": bits,
        "relative_squared_error": error,
        "gap_bits": bits - (math.log2(1 / error) / 2 if error > 0 else math.inf),
        "encode_mw_s": weights / 1e6 / max(median(encoding), 1e-9),
        "decode_mw_s": weights / 1e6 / max(median(decoding), 1e-9),
    }


def searched(
    tensors: Tensors, coder: Coder, aims: Iterable[float], repeats: int, hints: Mapping[float, float]
) -> Iterable[tuple[float, Row]]:
    """A row for each stored size aimed at: the relative step by secants over its logarithm.

    ``hints`` are the logarithms at which another coder met some aims: this one differs by about the same everywhere.
    """
    tried: dict[float, Row] = {}
    met: dict[float, float] = {}
    for aim in aims:
        at = proposed(tried, aim)
        if aim in hints:
            offsets = {abs(other - aim): found - hints[other] for other, found in met.items() if other in hints}
            at = hints[aim] + (offsets[min(offsets)] if offsets else 0.0)
        for _ in range(8):
            if at not in tried:
                tried[at] = measured(tensors, coder, 2.0**at, 1)
            if abs(tried[at]["bits_per_weight"] - aim) <= CLOSE:
                break
            at = proposed(tried, aim)
        best = min(tried, key=lambda x: abs(tried[x]["bits_per_weight"] - aim))
        met[aim] = best
        row = measured(tensors, coder, 2.0**best, repeats) if repeats > 1 else tried[best]
        yield aim, {"relative_step": 2.0**best} | row


def proposed(tried: Mapping[float, Row], aim: float) -> float:
    """The next logarithm of the step: where the chord through the two nearest sizes meets the aim."""
    if not tried:
        return 1.5 - aim
    sizes = {at: row["bits_per_weight"] for at, row in tried.items()}
    first, *others = sorted(sizes, key=lambda at: abs(sizes[at] - aim))
    slope = -1.0  # one bit for each halving of the step
    if others:
        slope = min(max((sizes[others[0]] - sizes[first]) / (others[0] - first), -1.2), -0.1)
    return first + (aim - sizes[first]) / slope


def rows_of(
    source: str, tensors: Tensors, coder: Coder, only: Sequence[float], repeats: int, before: Iterable[Row] = ()
) -> Iterable[Row]:
    """The rows of one coder on one source at the settings ``only``, or all where it has none of these.

    If it cannot be used, one row says why. Steps are searched from those of the rows ``before``.
    """
    head: Row = {"source": source, "weights": sum(W.size for W in tensors.values()), "method": coder.name}
    settings = coder.settings or AIMS
    settings = [setting for setting in settings if setting in only] or list(settings)
    hints = {row["nominal_bits"]: math.log2(row["relative_step"]) for row in before if "relative_step" in row}
    try:
        if coder.by_step:
            for aim, row in searched(tensors, coder, settings, repeats, hints):
                yield head | {"nominal_bits": aim} | row
        else:
            for setting in settings:
                yield head | {"nominal_bits": setting} | measured(tensors, coder, setting, repeats)
    except Exception as error:  # a method that is missing or refuses is a finding, and the others go on
        yield head | {"note": f"absent: {type(error).__name__}: {error}".partition("\n")[0][:160]}


def with_saved(rows: list[Row]) -> list[Row]:
    """Rows of one source with the bits that each takes more than the reference at its error, by interpolation."""
    curve = sorted(
        (math.log2(1 / row["relative_squared_error"]), row["bits_per_weight"])
        for row in rows
        if row["method"] == REFERENCE and "gap_bits" in row
    )
    for row in rows:
        if not curve or "gap_bits" not in row or not row["relative_squared_error"]:
            continue
        quality = math.log2(1 / row["relative_squared_error"])
        if row["method"] != REFERENCE and curve[0][0] <= quality <= curve[-1][0]:
            row["saved_bits"] = row["bits_per_weight"] - float(np.interp(quality, *zip(*curve, strict=True)))
    return rows


def check_bound(rows: Iterable[Row]) -> None:
    """Stop if anything lies under the bound on Gaussian weights: then something stored was not counted."""
    for row in rows:
        if row.get("source", "gaussian") == "gaussian" and row.get("gap_bits", 0.0) < 0:
            raise SystemExit(f"{row.get('method', 'trellis')}: {row['gap_bits']:.4f} bit under Shannon's bound")


def across(rows: Iterable[Row], what: str, *, peers_only: bool = False) -> list[Row]:
    """``what`` in a row for each method and nominal size, a column for each source."""
    found: dict[tuple[str, float], Row] = {}
    for row in rows:
        if what in row and not (peers_only and row["method"].startswith("factorq")):
            key = row["method"], row["nominal_bits"]
            found.setdefault(key, {"method": key[0], "nominal_bits": key[1]})[row["source"]] = row[what]
    return list(found.values())


# --- the trellis alone on many weights ------------------------------------------------------------------------------


def large(size: int, states: Sequence[int], rates: Sequence[float], repeats: int) -> Iterable[Row]:
    """``Trellis(bits, states)`` on Gaussian weights: the gap, and the speeds of its codec and of the search for a size.

    The codec's speed is that of one pass at the step found, tables and streams included.
    """
    import factorq as fq
    from factorq.codecs import Path as Code

    W = DRAWS["gaussian"](np.random.default_rng(0), (size // 4096, 4096))
    for n in states:
        for bits in rates:
            row: Row = {"weights": W.size, "states": n, "bits": bits}
            try:
                start = time.process_time()
                F = fq.decompose(W, method=fq.Trellis(bits, states=n))
                whole = time.process_time() - start
                (code,) = F.encoded.values()
                if not isinstance(code, Code):
                    raise TypeError(f"coded as {type(code).__name__}")
                again = partial(Code.encode, W, step=code.step, states=n, layout=code.layout, model=code.model)
                row |= {
                    "bits_per_weight": F.bits_per_weight,
                    "gap_bits": F.bits_per_weight - math.log2(float(W.var(dtype=np.float64) / mean_error(W, F))) / 2,
                    "encode_mw_s": W.size / 1e6 / seconds(again, repeats),
                    "decode_mw_s": W.size / 1e6 / seconds(F.to_dense, repeats),
                    "decompose_mw_s": W.size / 1e6 / whole,
                    "model": code.model,
                }
            except Exception as error:  # as above
                row["note"] = f"absent: {type(error).__name__}: {error}".partition("\n")[0][:160]
            yield row


def mean_error(W: Floats, F: Any) -> float:
    """The mean squared error of what is stored."""
    from factorq.measure import squared_distance

    return squared_distance(W, F.to_dense()) / W.size


def seconds(call: Callable[[], object], repeats: int) -> float:
    """Process CPU seconds of one call: the median."""
    taken = []
    for _ in range(repeats):
        gc.collect()
        start = time.process_time()
        call()
        taken.append(time.process_time() - start)
    return max(median(taken), 1e-9)


# --- all of it ------------------------------------------------------------------------------------------------------


def sources(folder: Path, size: int, networks: Iterable[str]) -> Iterable[tuple[str, Tensors, bool]]:
    """Name, tensors, and whether the numbers are random."""
    from safetensors.numpy import load_file

    for name, draw in DRAWS.items():
        yield name, {"W": draw(np.random.default_rng(0), (size, size))}, True
    for name in networks:
        path = folder / f"{name}.safetensors"
        if not path.exists():
            print(f"{name}: not in {folder.name}/, left out; name its folder with --data", file=sys.stderr)
            continue
        found = load_file(path)
        yield name, {k: np.ascontiguousarray(W, np.float32) for k, W in found.items() if W.ndim >= 2}, False


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder of the checkpoints")
    parser.add_argument("--json", type=Path, help="where to write (default: results/rate_distortion.json)")
    parser.add_argument("--only", nargs="+", metavar="WORD", help="only methods with one of these words in their name")
    parser.add_argument("--quick", action="store_true", help="fewer weights, networks and sizes; no file by default")
    options = parser.parse_args()
    start, quick = time.process_time(), options.quick
    with threadpool_limits(1):
        coders = [*ours(), *peers()]
        if options.only:
            coders = [c for c in coders if c.name == REFERENCE or any(word in c.name for word in options.only)]
        small: Tensors = {"W": DRAWS["gaussian"](np.random.default_rng(1), (128, 256))}
        for coder in coders:  # compiles
            list(rows_of("warm-up", small, coder, (3,), 1))
        rows: list[Row] = []
        names = ("resnet20_cifar10", "charlstm_bronte") if quick else NETWORKS
        for source, tensors, random in sources(options.data, 512 if quick else 1024, names):
            found: list[Row] = []
            for coder in (c for c in coders if random or not c.random_only):
                only = () if not quick else (1, 3, 4) if coder.name == REFERENCE else (3,)
                known = found[: len(CURVE)]  # the reference comes first
                found += rows_of(source, tensors, coder, only, 3 if random and not quick else 1, known)
            check_bound(found)
            rows += with_saved(found)
            print(f"{source}: {time.process_time() - start:.0f} s", flush=True)
        many: list[Row] = []
        if not options.only:
            size, rates, repeats = (1 << 21, (2, 3), 1) if quick else (1 << 24, (1.5, 2, 3, 4), 3)
            many += large(size, (1, 8, 64, 256), rates, repeats)
        check_bound(many)
    gaps, gains = across(rows, "gap_bits"), across(rows, "saved_bits", peers_only=True)
    columns = ("method", "nominal_bits", *dict.fromkeys(row["source"] for row in rows))
    table(rows, COLUMNS)
    print("\ngap to Shannon's bound, bits")
    table(gaps, columns)
    print(f"\nbits saved at equal error by {REFERENCE}")
    table(gains, columns)
    print("\nthe trellis on many Gaussian weights")
    table(many, LARGE_COLUMNS)
    print(f"\n{time.process_time() - start:.0f} CPU seconds in all")
    if options.json or not (quick or options.only):
        target = options.json or RESULTS / "rate_distortion.json"
        print("written to", write("rate_distortion", rows, target))
        for part, lines in (("large", many), ("gaps", gaps), ("saved", gains)):
            print("written to", write(f"rate_distortion_{part}", lines, target.with_stem(f"{target.stem}_{part}")))


if __name__ == "__main__":
    os.environ.setdefault("NUMBA_NUM_THREADS", "1")  # read when Numba is imported, which the first kernel does
    main()
