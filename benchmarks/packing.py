"""Packing of 1..16-bit codes against a memory copy and against np.packbits; the gap code of masks against the entropy.

``python benchmarks/packing.py [--json OUT] [--size VALUES] [--repeats N]``. Times are process CPU time of one thread,
medians with the fastest and the slowest repeat, without compilation, which is reported on its own: the kernels are
compiled into an empty cache.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from typing import Any

import numpy as np
from common import Timing, machine, measure, table, write
from numpy.typing import NDArray

WIDTHS = (1, 2, 3, 4, 5, 6, 7, 8, 12, 16)
SHARES = (0.01, 0.05, 0.1, 0.2, 0.3, 0.5)
MEBI = 1 << 20


def peer_pack(codes: NDArray[Any], bits: int) -> NDArray[np.uint8]:
    """Pack with NumPy alone: spread every code to one byte a bit, then np.packbits."""
    octets = codes.view(np.uint8).reshape(codes.size, -1)
    return np.packbits(np.unpackbits(octets, axis=1, count=bits, bitorder="little").reshape(-1), bitorder="little")


def peer_unpack(packed: NDArray[np.uint8], bits: int, size: int) -> NDArray[Any]:
    """Unpack with NumPy alone."""
    digits = np.unpackbits(packed, count=size * bits, bitorder="little").reshape(size, bits)
    octets = np.packbits(digits, axis=1, bitorder="little")
    return octets.reshape(-1).view(np.uint8 if bits <= 8 else np.uint16)


def packing(bits: int, size: int, repeats: int) -> dict[str, Any]:
    """One row: pack and unpack ``size`` codes of ``bits`` bits."""
    from factorq.kernels.bits import pack, unpack

    dtype = np.uint8 if bits <= 8 else np.uint16
    codes = np.random.default_rng(bits).integers(0, 2**bits, size, dtype)
    start = time.process_time()
    packed = pack(codes[:100], bits)
    unpack(packed, bits, 100)
    compiling = time.process_time() - start

    packed, target = pack(codes, bits), np.empty_like(codes)
    if not (np.array_equal(packed, peer_pack(codes, bits)) and np.array_equal(unpack(packed, bits, size), codes)):
        raise SystemExit(f"packing: {bits} bits: wrong bytes, nothing to time")
    timings = measure(
        {
            "copy": lambda: np.copyto(target, codes),
            "pack": lambda: pack(codes, bits),
            "unpack": lambda: unpack(packed, bits, size),
            "numpy_pack": lambda: peer_pack(codes, bits),
            "numpy_unpack": lambda: peer_unpack(packed, bits, size),
        },
        repeats,
    )
    copy = timings["copy"].median
    return {
        "kernel": "bits",
        "bits": bits,
        "values": size,
        **milliseconds(timings),
        "pack_per_copy": copy / timings["pack"].median,
        "unpack_per_copy": copy / timings["unpack"].median,
        "pack_speedup": timings["numpy_pack"].median / timings["pack"].median,
        "unpack_speedup": timings["numpy_unpack"].median / timings["unpack"].median,
        "compile_s": compiling,
    }


def gap_coding(share: float, size: int, repeats: int) -> dict[str, Any]:
    """One row: code an i.i.d. mask with this share of ones."""
    from factorq.kernels.gaps import decode, encode

    mask = np.random.default_rng(0).random(size) < share
    start = time.process_time()
    encode(mask[:100])
    compiling = time.process_time() - start

    stream, parameter = encode(mask)
    count = int(np.count_nonzero(mask))
    if not np.array_equal(decode(stream, parameter, size, count), mask):
        raise SystemExit(f"packing: gaps at {share}: wrong mask, nothing to time")
    found = count / size
    entropy = -found * np.log2(found) - (1 - found) * np.log2(1 - found)
    timings = measure(
        {
            "packbits": lambda: np.packbits(mask, bitorder="little"),
            "encode": lambda: encode(mask),
            "decode": lambda: decode(stream, parameter, size, count),
        },
        repeats,
    )
    return {
        "kernel": "gaps",
        "share": share,
        "positions": size,
        "modulus": parameter // 2,
        "bits_per_position": 8 * stream.size / size,
        "size_per_entropy": 8 * stream.size / size / float(entropy),
        **milliseconds(timings),
        "encode_mpos_s": size / 1e6 / timings["encode"].median,
        "decode_mpos_s": size / 1e6 / timings["decode"].median,
        "compile_s": compiling,
    }


def milliseconds(timings: dict[str, Timing]) -> dict[str, float]:
    """Median, fastest and slowest of every callable in milliseconds."""
    row: dict[str, float] = {}
    for name, timing in timings.items():
        row |= {f"{name}_ms": 1e3 * timing.median, f"{name}_low_ms": 1e3 * timing.low}
        row |= {f"{name}_high_ms": 1e3 * timing.high}
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", default=None, help="where to write (default: results/packing.json beside this file)")
    parser.add_argument("--size", type=int, default=16 * MEBI, help="codes and mask positions")
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as cache:
        os.environ["NUMBA_CACHE_DIR"] = cache  # read when Numba is imported, which the first kernel does
        import numba  # noqa: F401  # so that its own import is not counted as compilation

        bit_rows = [packing(bits, options.size, options.repeats) for bits in WIDTHS]
        gap_rows = [gap_coding(share, options.size, options.repeats) for share in SHARES]

    print(machine())
    print(f"\n{options.size} codes; _per_copy is the speed as a share of np.copyto's of the unpacked bytes")
    times = [f"{name}{part}_ms" for name in ("copy", "pack", "unpack") for part in ("", "_low", "_high")]
    ratios = ["pack_per_copy", "unpack_per_copy", "pack_speedup", "unpack_speedup", "compile_s"]
    table(bit_rows, ["bits", *times])
    print()
    table(bit_rows, ["bits", "numpy_pack_ms", "numpy_unpack_ms", *ratios])
    print(f"\n{options.size} positions of an i.i.d. mask")
    sizes = ["share", "modulus", "bits_per_position", "size_per_entropy"]
    table(gap_rows, [*sizes, "packbits_ms", "encode_ms", "decode_ms", "encode_mpos_s", "decode_mpos_s", "compile_s"])
    print("\nwritten to", write("packing", bit_rows + gap_rows, options.json))


if __name__ == "__main__":
    main()
