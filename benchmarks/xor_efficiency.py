"""How many bits the XOR codes get right and what the rest costs, for ``xor.py``: i.i.d. masks and real ones."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom
from xor_data import Bools, Row, fair, middle, networks, pruned

SPARSITIES = (0.6, 0.7, 0.8, 0.9, 0.91, 0.95)
TILE = 512  # slices
EXHAUSTIVE = 12  # inputs up to which all of them are tried
INPUTS = (8, 20, 64, 256, 512)
CARE = {0: 1 << 21, 1: 1 << 20, 2: 1 << 19}  # bits that matter, by registers: Viterbi takes its time
COLUMNS = (
    *("code", "n_in", "n_out", "sparsity", "weights", "efficiency", "expected_efficiency", "note_efficiency", "total"),
    *("total_low", "total_high", "note_total", "patches", "published", "published_blocks", "note_published"),
    *("note_published_blocks", "reduction", "note_reduction"),
)
REAL_COLUMNS = (
    *("network", "threshold", "sparsity", "code", "efficiency", "efficiency_permuted", "efficiency_chosen"),
    *("efficiency_iid", "total", "total_permuted", "total_chosen", "total_iid"),
)

# What the methods note re-measured, for comparison: efficiency in percent, and reduction or stored bits.
# Sequential(8, r) at n_out = floor(8 / (1 - S)), section 3.3: efficiency and reduction by sparsity and registers.
NOTE_SEQUENTIAL = {
    (0.6, 0): (93.86, 35.4), (0.6, 1): (98.99, 56.0), (0.6, 2): (99.67, 58.7),
    (0.7, 0): (94.25, 52.0), (0.7, 1): (99.13, 66.6), (0.7, 2): (99.77, 68.5),
    (0.8, 0): (93.76, 67.5), (0.8, 1): (98.79, 77.6), (0.8, 2): (99.63, 79.3),
    (0.9, 0): (93.45, 83.5), (0.9, 1): (98.69, 88.7), (0.9, 2): (99.49, 89.5),
}  # fmt: skip
# Slices by sparsity and n_in, section 1.3: the best n_out, efficiency, bits per weight of the published format with one
# width for the numbers of patches and with one per 8 slices, and with entropy-coded patches (at an n_out of its own).
NOTE_SLICES = {
    (0.7, 20): (60, 97.5, 0.428, 0.414, 0.376), (0.7, 64): (203, 98.8, 0.364, 0.358, 0.344),
    (0.7, 256): (811, 99.7, 0.330, 0.328, 0.324), (0.9, 8): (80, 91.7, 0.196, 0.189, 0.137),
    (0.9, 20): (180, 97.4, 0.149, 0.144, 0.127), (0.9, 64): (608, 98.8, 0.124, 0.122, 0.115),
    (0.9, 256): (2432, 99.8, 0.109, 0.109, 0.107), (0.9, 512): (4864, 99.9, 0.108, 0.107, 0.106),
    (0.91, 20): (183, 98.2, 0.138, 0.132, 0.114), (0.91, 256): (2702, 99.8, 0.098, 0.097, 0.096),
}  # fmt: skip
# Banded by sparsity, window and whether there is slack, section 4.1: efficiency, and total over the value floor.
NOTE_BANDED = {
    (0.9, 64, False): (99.63, 1.035), (0.9, 64, True): (99.927, 1.029),
    (0.9, 128, False): (99.82, 1.019), (0.9, 128, True): (99.964, 1.0147),
    (0.7, 64, True): (99.956, 1.025), (0.7, 128, True): (99.979, 1.0121),
    (0.6, 128, False): (99.85, 1.015), (0.8, 128, False): (99.82, 1.018),
}  # fmt: skip


@dataclass(frozen=True)
class Trial:
    """A code, how many weights it is tried on, what the note says of it, and bits of its stream per weight."""

    name: str
    code: Any
    size: int
    note: Row
    rate: float | None = None


def whole_tiles(size: int, n_out: int) -> int:
    """About ``size`` weights in tiles without a ragged end, so that slices can be counted one by one."""
    return max(round(size / (TILE * n_out)), 1) * TILE * n_out


def usual_outputs(n_in: int, sparsity: float) -> int:
    """What ``Slices(n_in)`` takes for ``n_out`` if its mask has this sparsity."""
    return int((1.4 if n_in <= EXHAUSTIVE else 0.97) * n_in / (1 - sparsity))


def trials(sparsity: float, size: int, quick: bool) -> Iterator[Trial]:
    """All codes at one sparsity."""
    import factorq as fq

    for registers in (0, 1, 2):
        n_out = int(8 / (1 - sparsity) + 1e-9)
        found = NOTE_SEQUENTIAL.get((sparsity, registers))
        note = {"note_efficiency": found[0], "note_reduction": found[1]} if found else {}
        weights = int((CARE[registers] >> (10 if quick else 0)) / (1 - sparsity))
        code = fq.xor.Sequential(8, registers, n_out)
        yield Trial(f"Sequential(8, {registers})", code, min(weights, size), note, 8 / n_out)
    for n_in in INPUTS[:3] if quick else INPUTS:
        part = size >> 2 if n_in > 64 else size  # a slice takes the square of its inputs
        usual, known = usual_outputs(n_in, sparsity), NOTE_SLICES.get((sparsity, n_in))
        note = {}
        if known:
            n_out, efficiency, *bits = known
            one, blocks, total = (found / (1 - sparsity) for found in bits)
            note = {"note_total": total}
            best = {"note_efficiency": efficiency, "note_published": one, "note_published_blocks": blocks}
            code = fq.xor.Slices(n_in, n_out)
            yield Trial(f"Slices({n_in}), n_out of the note", code, whole_tiles(part, n_out), best)
        yield Trial(f"Slices({n_in})", fq.xor.Slices(n_in, usual), whole_tiles(part, usual), note)
    for window in (64, 128):
        settings = {"no slack": (0.0, False), "best slack": (None, False), "paced": (None, True)}
        for how, (slack, paced) in settings.items():
            found = None if paced else NOTE_BANDED.get((sparsity, window, slack is None))
            note = dict(zip(("note_efficiency", "note_total"), found, strict=True)) if found else {}
            rate = 1 - sparsity if slack == 0 else None
            yield Trial(f"Banded({window}), {how}", fq.xor.Banded(window, slack, paced), size, note, rate)


def coded(trial: Trial, sparsity: float, seed: int) -> Row:
    """What became of one plane of fair bits."""
    import factorq as fq

    values, care = fair(trial.size, sparsity, seed)
    count = int(np.count_nonzero(care))
    found = fq.xor.encode(values, care, bits=1, code=trial.code, seed=seed, permute=False)
    patches = found.patches
    if not np.array_equal(found.decode()[care], values[care]):
        raise SystemExit(f"xor: {trial.name} at {sparsity} came back changed")
    row = {
        "efficiency": 100 * found.efficiency,
        "total": 8 * found.nbytes / count,
        "patches": patches.size,
    }
    if isinstance(trial.code, fq.xor.Slices):
        row["expected_efficiency"] = expected_efficiency(trial.code.n_in, trial.code.n_out or 1, 1 - sparsity)
        of_slice = per_slice(patches, trial.size, trial.code.n_out or 1)
        for name, block in (("published", None), ("published_blocks", 8)):
            row[name] = trial.code.published_bits(of_slice, trial.size, block) / count
    if trial.rate is not None:
        row["reduction"] = 100 * (1 - trial.rate - 10 * patches.size / trial.size)
    return row


def expected_efficiency(n_in: int, n_out: int, density: float) -> float | None:
    """In percent, by theory: of k random equations those beyond their rank fail half of the time.

    k is binomial; a further row is independent of r others with probability ``1 - 2 ** (r - n_in)``. None where all
    inputs are tried instead.
    """
    if n_in <= EXHAUSTIVE:
        return None
    mean, deviation = n_out * density, math.sqrt(n_out * density * (1 - density))
    rank, lost = np.zeros(n_in + 1), 0.0
    rank[0], dependent = 1.0, 0.5 ** np.arange(n_in, -1, -1.0)
    for k in range(min(n_out, int(mean + 9 * deviation)) + 1):
        lost += binom.pmf(k, n_out, density) * (k - rank @ np.arange(n_in + 1)) / 2
        rank = rank * dependent + np.concatenate([[0.0], (rank * (1 - dependent))[:-1]])
    return 100 * (1 - float(lost) / mean)


def per_slice(patches: NDArray[np.int64], size: int, n_out: int) -> NDArray[np.int64]:
    """How many patches each slice has: output i of slice s of a tile stands at ``512 i + s``."""
    whole = TILE * n_out
    slices = patches // whole * TILE + patches % whole % TILE
    return np.bincount(slices, minlength=size // n_out)


def rows(size: int, seeds: int, quick: bool) -> Iterator[Row]:
    """A row for each sparsity and code: medians over seeds."""
    for sparsity in (0.9,) if quick else SPARSITIES:
        for trial in trials(sparsity, size, quick):
            found = [coded(trial, sparsity, seed) for seed in range(seeds)]
            sizes = {"n_in": getattr(trial.code, "n_in", None), "n_out": getattr(trial.code, "n_out", None)}
            head = {"code": trial.name, **sizes, "sparsity": sparsity, "weights": trial.size}
            yield head | middle(found, ("efficiency", "total")) | trial.note
        print(f"efficiency at {sparsity}: done", flush=True)


# --- real masks -----------------------------------------------------------------------------------------------------


def real_rows(folder: Path, quick: bool) -> Iterator[Row]:
    """Fair bits under each network's masks, in order and shuffled, and under i.i.d. masks as dense, layer by layer."""
    import factorq as fq

    codes = {
        "Banded(128), paced": fq.xor.Banded(128),
        "Banded(128), best slack": fq.xor.Banded(128, paced=False),
        "Slices(20)": fq.xor.Slices(20),
        "Sequential(8, 1)": fq.xor.Sequential(8, 1),
    }
    for network, layers in networks(folder, quick).items():
        for sparsity in (0.9,) if quick else (0.5, 0.7, 0.9, 0.95):
            for threshold in ("layer", "network"):
                masks, rng = pruned(layers, sparsity, threshold), np.random.default_rng(0)
                iid = [rng.permutation(mask.reshape(-1)).reshape(mask.shape) for mask in masks]
                for name, code in codes.items():
                    row: Row = {"network": network, "threshold": threshold, "sparsity": sparsity, "code": name}
                    ways = {"": False, "_permuted": True, "_chosen": None}
                    for what, permute in ways.items():
                        row |= {f"{key}{what}": value for key, value in of_layers(masks, code, permute).items()}
                    row |= {f"{key}_iid": value for key, value in of_layers(iid, code, False).items()}
                    yield row
        print(f"real masks of {network}: done", flush=True)


def of_layers(masks: Sequence[Bools], code: Any, permute: bool | None) -> Row:
    """Percentage of the bits that need no patch, and stored bits per bit that matters."""
    import factorq as fq

    count, nbytes, patches, rng = 0, 0, 0, np.random.default_rng(1)
    for mask in masks:
        values = rng.integers(0, 2, mask.shape, np.uint8)
        found = fq.xor.encode(values, mask, bits=1, code=code, permute=permute)
        nbytes += found.nbytes
        patches += found.patches.size
        count += int(np.count_nonzero(mask))
    return {"efficiency": 100 * (1 - patches / count), "total": 8 * nbytes / count}
