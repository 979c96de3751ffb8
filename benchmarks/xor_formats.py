"""Formats of sparse quantized layers, for ``xor.py``: what each stores, and how the layer comes back bit for bit.

All begin with a mask and the codes of the kept weights and end with the weights. The relative index is that of Han et
al. 2016 (arXiv 1510.00149): zeros to the next kept weight in a few bits; where they are more, an entry of value 0
stands in between, so that values take a bit more. A kinder variant gives such fillers no value and takes the best
width. The static models of ``constriction`` are tables of 16-bit frequencies, of every layer its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from common import measure
from numpy.typing import NDArray
from xor_data import SCALE, Floats, Layer, Row, floors, gaussian, networks, pruned, rates

SPARSITIES = (0.5, 0.7, 0.9, 0.95)
LEVEL = 19  # of zstd


@dataclass(frozen=True)
class Stored:
    """The bytes of a layer, and how its weights come back."""

    nbytes: int
    decode: Callable[[], Floats]


Format = Callable[[Layer], Stored]

# --- ours -----------------------------------------------------------------------------------------------------------


def packed(layer: Layer, how: str = "") -> Stored:
    """Codes of full width beside the mask: a bitmap, gaps, or in the fewest bytes of all ways."""
    from factorq.codecs import Mask
    from factorq.kernels import bits, gaps

    inner = replace(layer.inner, codes=bits.pack(layer.codes, layer.bits))
    if how == "bitmap":
        parameter, positions = None, np.packbits(layer.mask.reshape(-1), bitorder="little")
    else:
        positions, parameter = gaps.encode(layer.mask.reshape(-1))
    shape, dtype = layer.mask.shape, inner.dtype
    found = Mask(shape=shape, dtype=dtype, parameter=parameter, positions=positions, inner=inner)
    found = found.smallest() if how == "smallest" else found
    return Stored(found.nbytes, found.decode)


def wrapped(layer: Layer, store: str) -> Stored:
    """What ``decompose`` makes of it with this store."""
    from factorq.codecs import Mask
    from factorq.codecs.entropy import shrunk
    from factorq.codecs.xor.store import xored
    from factorq.kernels import bits

    inner = replace(layer.inner, codes=bits.pack(layer.codes, layer.bits))
    found = {"entropy": shrunk, "xor": xored}[store](Mask.encode(layer.mask, inner))
    return Stored(found.nbytes, found.decode)


# --- indices --------------------------------------------------------------------------------------------------------


def compressed_rows(layer: Layer, width: int) -> Stored:
    """CSR: where each row begins in 32 bits, the column of each kept weight in ``width``, packed codes."""
    from factorq.kernels import bits

    mask = layer.mask.reshape(layer.mask.shape[0], -1)
    if mask.shape[1] > 1 << width:
        raise ValueError(f"{mask.shape[1]} columns do not fit into {width} bits")
    places, columns = np.nonzero(mask)
    begins = np.concatenate([[0], np.cumsum(np.bincount(places, minlength=len(mask)))]).astype(np.int32)
    indices, codes = columns.astype(f"uint{width}"), bits.pack(layer.codes, layer.bits)

    def decode() -> Floats:
        symbols = np.zeros(mask.shape, np.uint8)
        rows = np.repeat(np.arange(len(mask)), np.diff(begins))
        symbols[rows, indices] = bits.unpack(codes, layer.bits, layer.count) + 1
        return restored(layer, symbols)

    return Stored(begins.nbytes + indices.nbytes + codes.nbytes + SCALE, decode)


def relative(layer: Layer, width: int) -> Stored:
    """Relative index: ``width`` bits of zeros before each entry, and its value or that of a filler."""
    from factorq.kernels import bits

    zeros = np.diff(np.flatnonzero(layer.mask), prepend=-1) - 1
    fillers = zeros >> width
    ends = np.cumsum(fillers + 1) - 1
    index = np.full(int(fillers.sum()) + layer.count, (1 << width) - 1, np.uint8)
    values = np.zeros(index.size, np.uint8)
    index[ends], values[ends] = zeros & ((1 << width) - 1), layer.codes + 1
    indices, codes = bits.pack(index, width), bits.pack(values, layer.bits + 1)

    def decode() -> Floats:
        places = np.cumsum(bits.unpack(indices, width, index.size).astype(np.int64) + 1) - 1
        found = bits.unpack(codes, layer.bits + 1, index.size)
        symbols = np.zeros(layer.size, np.uint8)
        symbols[places] = found
        return restored(layer, symbols)

    return Stored(indices.nbytes + codes.nbytes + SCALE, decode)


def relative_best(layer: Layer) -> Stored:
    """The same without values of fillers: the largest number of ``width`` bits says so many zeros and no entry."""
    from factorq.kernels import bits

    zeros = np.diff(np.flatnonzero(layer.mask), prepend=-1) - 1
    width = min(range(1, 9), key=lambda w: w * (layer.count + int((zeros // ((1 << w) - 1)).sum())))
    most = (1 << width) - 1
    fillers = zeros // most
    index = np.full(int(fillers.sum()) + layer.count, most, np.uint8)
    index[np.cumsum(fillers + 1) - 1] = zeros % most
    indices, codes = bits.pack(index, width), bits.pack(layer.codes, layer.bits)

    def decode() -> Floats:
        found = bits.unpack(indices, width, index.size).astype(np.int64)
        entries = found < most
        symbols = np.zeros(layer.size, np.uint8)
        symbols[(np.cumsum(found + entries) - 1)[entries]] = bits.unpack(codes, layer.bits, layer.count) + 1
        return restored(layer, symbols)

    return Stored(indices.nbytes + codes.nbytes + SCALE + 1, decode)


# --- general coders -------------------------------------------------------------------------------------------------


def zstd_packed(layer: Layer) -> Stored:
    """zstd of a bitmap and packed codes."""
    import zstandard

    from factorq.kernels import bits

    plain = np.packbits(layer.mask.reshape(-1), bitorder="little"), bits.pack(layer.codes, layer.bits)
    streams = [zstandard.ZstdCompressor(level=LEVEL).compress(part) for part in plain]

    def decode() -> Floats:
        bitmap, codes = (np.frombuffer(zstandard.ZstdDecompressor().decompress(part), np.uint8) for part in streams)
        symbols = np.unpackbits(bitmap, count=layer.size, bitorder="little")
        symbols[np.flatnonzero(symbols)] = bits.unpack(codes, layer.bits, layer.count) + 1
        return restored(layer, symbols)

    return Stored(sum(map(len, streams)) + SCALE, decode)


def zstd_dense(layer: Layer) -> Stored:
    """zstd of one byte per weight."""
    import zstandard

    stream = zstandard.ZstdCompressor(level=LEVEL).compress(layer.symbols)

    def decode() -> Floats:
        return restored(layer, np.frombuffer(zstandard.ZstdDecompressor().decompress(stream), np.uint8))

    return Stored(len(stream) + SCALE, decode)


def static(layer: Layer, coder: str) -> Stored:
    """constriction's range coder or ANS on all symbols, the pruned ones among them."""
    from constriction import stream

    counts = np.bincount(layer.symbols, minlength=2**layer.bits + 1)
    table = np.maximum(np.rint(counts * (65535 / counts.max())), counts > 0).astype(np.float32)
    model = stream.model.Categorical(table / table.sum(), perfect=False)
    wide = layer.symbols.astype(np.int32)
    if coder == "range":
        encoder = stream.queue.RangeEncoder()
        encoder.encode(wide, model)
        words = encoder.get_compressed()
    else:
        stack = stream.stack.AnsCoder()
        stack.encode_reverse(wide, model)
        words = stack.get_compressed()

    def decode() -> Floats:
        decoder = stream.queue.RangeDecoder(words) if coder == "range" else stream.stack.AnsCoder(words)
        return restored(layer, decoder.decode(model, layer.size))

    return Stored(words.nbytes + 2 * table.size + SCALE, decode)


def restored(layer: Layer, symbols: NDArray[Any]) -> Floats:
    return np.asarray(layer.levels[symbols.reshape(-1)]).reshape(layer.mask.shape)


FORMATS: dict[str, Format] = {
    "xor, smallest mask": partial(wrapped, store="xor"),
    "packed, smallest mask": partial(packed, how="smallest"),
    "packed, gaps": partial(packed, how="gaps"),
    "packed, bitmap": partial(packed, how="bitmap"),
    "entropy": partial(wrapped, store="entropy"),
    "constriction, ANS": partial(static, coder="ANS"),
    "constriction, range coder": partial(static, coder="range"),
    f"zstd {LEVEL} of bitmap and codes": zstd_packed,
    f"zstd {LEVEL} of bytes": zstd_dense,
    "relative index, best width, no values of fillers": relative_best,
    "relative index, 4 bits": partial(relative, width=4),
    "relative index, 5 bits": partial(relative, width=5),
    "CSR, 16-bit columns": partial(compressed_rows, width=16),
    "CSR, 32-bit columns": partial(compressed_rows, width=32),
}
COLUMNS = (
    *("source", "threshold", "sparsity", "bits", "kept", "value_floor", "value_entropy", "mask_entropy"),
    *("joint_floor", *FORMATS),
)
SPEED_COLUMNS = (
    *("format", "sparsity", "bits", "weights", "bits_per_weight", "encode_mw_s", "encode_mw_s_low"),
    *("encode_mw_s_high", "decode_mw_s", "decode_mw_s_low", "decode_mw_s_high"),
)


# --- rows -----------------------------------------------------------------------------------------------------------


def rows(folder: Path, side: int, quick: bool) -> Iterator[Row]:
    """A row for each source, sparsity and number of bits: bits per weight of each format beside the floors."""
    sources = {f"Gaussian, {side}x{side}": [gaussian((side, side))]} | networks(folder, quick)
    for source, layers in sources.items():
        for sparsity in (0.9,) if quick else SPARSITIES:
            for threshold in ("layer", "network") if len(layers) > 1 else ("layer",):
                masks = pruned(layers, sparsity, threshold)
                for bits in (1, 4):
                    sparse = [Layer.of(W, mask, bits) for W, mask in zip(layers, masks, strict=True)]
                    yield {"source": source, "threshold": threshold, "sparsity": sparsity, "bits": bits} | sizes(sparse)
        print(f"formats of {source}: done", flush=True)


def sizes(layers: Sequence[Layer]) -> Row:
    """Stored bits per weight of all layers, in each format."""
    found, size = floors(layers), sum(layer.size for layer in layers)
    for name, encode in FORMATS.items():
        nbytes = 0
        for layer in layers:
            stored = encode(layer)
            if not np.array_equal(stored.decode(), layer.weights):
                raise SystemExit(f"xor: {name}: a layer came back changed")
            nbytes += stored.nbytes
        found[name] = 8 * nbytes / size
    return found


def speed_rows(side: int, repeats: int, quick: bool) -> Iterator[Row]:
    """Million weights per second of each format, the codes being known."""
    W = gaussian((side, side))
    for sparsity in (0.9,) if quick else SPARSITIES:
        for bits in (1, 4):
            layer = Layer.of(W, pruned([W], sparsity, "layer")[0], bits)
            _ = layer.symbols, layer.levels
            for name, encode in FORMATS.items():
                stored = encode(layer)
                slow = name.startswith("zstd") and not quick
                found = measure({"encode": partial(encode, layer), "decode": stored.decode}, 1 if slow else repeats)
                row: Row = {"format": name, "sparsity": sparsity, "bits": bits, "weights": layer.size}
                row["bits_per_weight"] = 8 * stored.nbytes / layer.size
                for what, timing in found.items():
                    row |= rates(f"{what}_mw_s", layer.size, timing)
                yield row
        print(f"formats at {sparsity}: done", flush=True)
