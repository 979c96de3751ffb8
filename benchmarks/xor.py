"""XOR codes of sparse bit-planes beside packed bits, other sparse formats, and the entropy.

``python benchmarks/xor.py [--only PART ...] [--data DIR] [--json OUT] [--quick]``. The parts, a file each, written as
soon as it is done:

- ``efficiency``: one plane of fair bits under i.i.d. masks. ``efficiency`` is the percentage of bits that need no
  patch; ``total`` all stored bits, patches included, the mask not, over the bits that matter, which are the floor.
  ``expected_efficiency`` is what the binomial number of bits and the rank of a random network leave of slices;
  ``published`` the total by the size formula of the paper on slices, ``published_blocks`` by the variant in which 8
  slices share the width of their numbers of patches; ``reduction`` the percentage saved over dense bits if a patch
  takes 10 bits. Medians of three seeds, with the least and the largest. ``note_..`` are figures of the methods note,
  which re-measured what was published.
- ``encode``, ``decode``, ``decode_large``: million weights and gigabits of weights per second, on one thread: the whole
  of ``fq.xor.encode`` and ``.decode()``, and the kernels alone. ``of_copy`` is the speed of decoding over that of a
  copy of the decoded bits, ``of_new_copy`` of one to new memory, which the decoder takes too: in a cache, and, where
  bits are many, in memory. "packed" is the baseline: the bits that matter, side by side. ``galois`` solves slices too.
- ``formats``, ``format_speeds``: whole layers, of which a share has been pruned by magnitude, with 1 or 4 bits per kept
  weight: Gaussian ones and those of real networks, pruned by a threshold per layer or for the network. Stored bits per
  weight, scales included, beside the entropies of i.i.d. masks and codes; every format gives the same weights back.
  Speeds are those of Gaussian layers.
- ``masks``, ``mask_speeds``: bits per weight of codes of masks, and of the smallest for each layer, beside the entropy
  of the layers' densities.
- ``alexnet``: layers of the size of AlexNet's at 91 % and 1 bit: values, mask and scales apart, where the mask is that
  of the largest weights, or is restricted to boolean products of the size that the paper's 0.28 bits per weight imply.
- ``real``: efficiency and total for fair bits under real masks, in order, permuted, and as ``encode`` chooses for each
  layer, beside i.i.d. masks as dense.

Speeds are medians of process CPU time with the slowest (``_low``) and the fastest (``_high``) repeat, without
compilation. Real masks come from the checkpoints of the data folder; without it, those rows are left out.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import xor_efficiency
import xor_formats
import xor_masks
import xor_speed
from common import RESULTS, table, write
from xor_data import ROOT, Row

Part = tuple[Callable[[], Iterable[Row]], tuple[str, ...]]


def parts(data: Path, quick: bool) -> dict[str, Part]:
    """How the rows of each part are made, and its columns."""
    size, repeats = (1 << 16, 1) if quick else (1 << 24, 7)
    side = 256 if quick else 2048
    sizes = (size,) if quick else (size, 1 << 20)
    return {
        "efficiency": (partial(xor_efficiency.rows, size, 1 if quick else 3, quick), xor_efficiency.COLUMNS),
        "encode": (partial(xor_speed.encode_rows, size, repeats), xor_speed.ENCODE_COLUMNS),
        "decode": (partial(xor_speed.decode_rows, sizes, 2 * repeats - 1), xor_speed.DECODE_COLUMNS),
        "decode_large": (partial(xor_speed.large_rows, 64 * size, repeats), xor_speed.DECODE_COLUMNS),
        "formats": (partial(xor_formats.rows, data, side, quick), xor_formats.COLUMNS),
        "format_speeds": (partial(xor_formats.speed_rows, side, min(repeats, 3), quick), xor_formats.SPEED_COLUMNS),
        "masks": (partial(xor_masks.rows, data, 2 * side, quick), xor_masks.COLUMNS),
        "mask_speeds": (partial(xor_masks.speed_rows, 2 * side, repeats, quick), xor_masks.SPEED_COLUMNS),
        "alexnet": (partial(xor_masks.alexnet_rows, quick), xor_masks.ALEXNET_COLUMNS),
        "real": (partial(xor_efficiency.real_rows, data, quick), xor_efficiency.REAL_COLUMNS),
    }


def main() -> None:
    names = list(parts(Path(), quick=True))
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder of the checkpoints")
    parser.add_argument("--json", type=Path, help="where to write (default: results/xor.json), with _PART in the name")
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="PART")
    parser.add_argument("--quick", action="store_true", help="a small share of each part; no file by default")
    options = parser.parse_args()
    if not any(options.data.glob("*.safetensors")):
        print(f"xor: no checkpoints in {options.data.name}/, real masks are left out; name their folder with --data")
    for name, (rows, columns) in parts(options.data, options.quick).items():
        if name not in options.only:
            continue
        found = list(rows())
        if not found:
            continue
        print(f"\n{name}")
        table(found, columns)
        if options.json or not options.quick:
            target = options.json or RESULTS / "xor.json"
            path = write(f"xor_{name}", found, target.with_stem(f"{target.stem}_{name}"))
            print("written to", path.name, flush=True)


if __name__ == "__main__":
    os.environ.setdefault("NUMBA_NUM_THREADS", "1")  # read when Numba is imported, which the first kernel does
    main()
