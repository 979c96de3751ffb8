"""Mask codes beside the entropy, and layers of AlexNet's size, for ``xor.py``."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from common import measure
from numpy.typing import NDArray
from processes import timed
from xor_data import Bools, Row, gaussian, mask_entropy, networks, pruned, rates

SPARSITIES = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
FC = {"FC5, 4096x9216": (4096, 9216), "FC6, 4096x4096": (4096, 4096)}
ALEXNET, BITS_OF_INDEX = 0.91, 0.19  # sparsity; the index of the paper, 0.28 bits per weight less the values
SIDE = 512  # of the tiles of the paper's low-rank index
STORES = ("xor", "packed", "entropy")
GROUP = 1024  # kept weights with a scale of their own
COLUMNS = (
    *("source", "threshold", "sparsity", "entropy", "bitmap", "gaps", "classes", "densities", "smallest"),
    *("smallest_of_entropy",),
)
SPEED_COLUMNS = (
    *("code", "sparsity", "weights", "bits_per_weight", "of_entropy", "encode_mw_s", "encode_mw_s_low"),
    *("encode_mw_s_high", "decode_mw_s", "decode_mw_s_low", "decode_mw_s_high"),
)
ALEXNET_COLUMNS = (
    *("layer", "method", "store", "kept", "value_bits", "mask_bits", "scale_bits", "bits_per_weight", "joint_floor"),
    *("relative_error", "norm_kept", "seconds"),
)
Coded = tuple[int, Callable[[], NDArray[Any]]]  # bytes, and how the mask comes back


# --- codes of masks -------------------------------------------------------------------------------------------------


def bitmap(mask: Bools) -> Coded:
    stream = np.packbits(mask.reshape(-1), bitorder="little")
    return stream.nbytes, lambda: np.unpackbits(stream, count=mask.size, bitorder="little")


def coded_gaps(mask: Bools) -> Coded:
    from factorq.kernels import gaps

    stream, parameter = gaps.encode(mask.reshape(-1))
    return stream.nbytes, lambda: gaps.decode(stream, parameter, mask.size, int(np.count_nonzero(mask)))


def classes(mask: Bools) -> Coded:
    """Entropy-coded with frequency tables for classes of rows or columns, as ``store="entropy"`` does."""
    from factorq.codecs.base import widths
    from factorq.kernels import rans

    columns = widths(mask.shape)
    stream = rans.pack(mask.reshape(-1).view(np.uint8), 1, columns)
    return stream.nbytes, lambda: rans.unpack(stream, 1, mask.size, columns)


def densities(mask: Bools) -> Coded:
    """An arithmetic code whose densities of rows, columns and kernels are learnt on the way."""
    from factorq.kernels import density

    kernel = int(np.prod(mask.shape[2:])) if mask.ndim > 2 else 0
    group = kernel if 2 <= kernel <= density.GROUP else 0
    matrix = mask.reshape(mask.shape[0], -1)
    stream = density.encode(matrix, group)
    return stream.nbytes, lambda: density.decode(stream, matrix.shape, group).reshape(-1)


CODES = {"bitmap": bitmap, "gaps": coded_gaps, "classes": classes, "densities": densities}


def rows(folder: Path, side: int, quick: bool) -> Iterator[Row]:
    """Bits per weight of each code and of the smallest for each mask, i.i.d. ones and those of networks."""
    sparsities = (0.9,) if quick else SPARSITIES
    W = gaussian((side, side))
    sources = {f"Gaussian, {side}x{side}": [W]} | networks(folder, quick)
    for source, layers in sources.items():
        for sparsity in sparsities:
            for threshold in ("layer", "network") if len(layers) > 1 else ("layer",):
                masks = pruned(layers, sparsity, threshold)
                yield {"source": source, "threshold": threshold, "sparsity": sparsity} | sizes(masks)
        print(f"masks of {source}: done", flush=True)


def sizes(masks: Sequence[Bools]) -> Row:
    """Bits per weight of all masks, the smallest code chosen for each."""
    found = {name: [8 * checked(name, mask)[0] for mask in masks] for name in CODES}
    size, entropy = sum(mask.size for mask in masks), mask_entropy(masks)
    least = sum(map(min, zip(*found.values(), strict=True)))
    row = {"entropy": entropy / size} | {name: sum(bits) / size for name, bits in found.items()}
    return row | {"smallest": least / size, "smallest_of_entropy": least / entropy}


def checked(name: str, mask: Bools) -> Coded:
    coded = CODES[name](mask)
    if not np.array_equal(coded[1]().astype(np.bool_), mask.reshape(-1)):
        raise SystemExit(f"xor: {name}: a mask came back changed")
    return coded


def speed_rows(side: int, repeats: int, quick: bool) -> Iterator[Row]:
    """Size and speed of each code on i.i.d. masks."""
    W = gaussian((side, side))
    for sparsity in (0.9,) if quick else SPARSITIES:
        (mask,) = pruned([W], sparsity, "layer")
        entropy = mask_entropy([mask])
        for name, encode in CODES.items():
            nbytes, decode = checked(name, mask)
            found = measure({"encode": partial(encode, mask), "decode": decode}, repeats)
            row: Row = {"code": name, "sparsity": sparsity, "weights": mask.size}
            row |= {"bits_per_weight": 8 * nbytes / mask.size, "of_entropy": 8 * nbytes / entropy}
            for what, timing in found.items():
                row |= rates(f"{what}_mw_s", mask.size, timing)
            yield row


# --- AlexNet --------------------------------------------------------------------------------------------------------


def alexnet_rows(quick: bool) -> Iterator[Row]:
    """Fully connected layers of AlexNet's size, i.i.d. Gaussian: the largest weights, and masks of low rank."""
    import factorq as fq
    from factorq.measure import density_for

    layers = {"256x256": (256, 256)} if quick else FC
    of_size = 1 - density_for(BITS_OF_INDEX + 1 - ALEXNET, 1 + 16 / GROUP)
    for layer, shape in layers.items():
        W = gaussian(shape)
        rank, tile = low_rank(shape)
        small = fq.BooleanPruning(ALEXNET, bits=1, group=GROUP)
        methods = {
            "the largest": fq.Scalar(1, group=GROUP, sparsity=ALEXNET),
            "the largest, default scales": fq.Scalar(1, sparsity=ALEXNET),
            f"boolean, rank {rank} in {tile[0]}x{tile[1]}": fq.BooleanPruning(ALEXNET, rank, 1, tile, group=GROUP),
            f"boolean, rank 1 in {small.tiles(shape)[0]}x{small.tiles(shape)[1]}": small,
            "fewer of the largest": fq.Scalar(1, group=GROUP, sparsity=of_size),
        }
        for name, method in methods.items():
            stores = STORES if isinstance(method, fq.Scalar) else STORES[:1]
            for store in stores:  # compiles
                fq.decompose(gaussian((64, 64)), method=method, store=store)
            rows = [stored(W, method, store) for store in stores]
            if len({row.pop("digest") for row in rows}) > 1:
                raise SystemExit(f"xor: {name}: the stores hold other weights")
            yield from ({"layer": layer, "method": name} | row for row in rows)
        print(f"{layer}: done", flush=True)


def low_rank(shape: tuple[int, int]) -> tuple[int, tuple[int, int]]:
    """The largest rank whose index takes no more than the paper's, in tiles of about the same side."""
    rows, columns = (n // max(round(n / SIDE), 1) for n in shape)
    return int(BITS_OF_INDEX * rows * columns / (rows + columns)), (rows, columns)


def stored(W: NDArray[np.float32], method: Any, store: str) -> Row:
    """Bits per weight of the values, the mask and the scales; the error and how much of W the mask keeps."""
    import factorq as fq
    from factorq.measure import binary_entropy, squared_norm

    F, seconds = timed(lambda: fq.decompose(W, method=method, store=store, rng=0), 1)
    parts = {"value_bits": 0, "mask_bits": 0, "scale_bits": 0}
    for codec in F.encoded.values():
        for buffer, array in codec.buffers().items():
            parts[part_of(buffer)] += array.nbytes
    back = F.to_dense()
    kept = np.count_nonzero(back) / W.size
    return {
        **{"store": store, "kept": kept},
        **{part: 8 * nbytes / W.size for part, nbytes in parts.items()},
        "bits_per_weight": F.bits_per_weight,
        "joint_floor": binary_entropy(kept) + kept,
        "relative_error": F.relative_error,
        "norm_kept": squared_norm(W[back != 0]) / squared_norm(W),
        "seconds": seconds["seconds"],
        "digest": hashlib.sha256(back.tobytes()).digest(),
    }


def part_of(buffer: str) -> str:
    """Where a buffer of a sparse codec counts."""
    if buffer in ("positions", "left", "right"):
        return "mask_bits"
    return "value_bits" if buffer == "inner.codes" else "scale_bits"
