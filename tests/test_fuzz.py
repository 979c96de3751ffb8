"""Mutated and forged files through ``factorq.load`` and every factor's decoding: ArtifactError or the same arrays.

``FACTORQ_FUZZ=100000`` runs that many mutants instead of the suite's 10,000.
"""

from __future__ import annotations

import os
import random
import warnings
from pathlib import Path

import numpy as np
import pytest
from cases import METHODS, sample
from fuzz_artifact import fuzz

import factorq as fq
from factorq.arrays import HOST
from factorq.codecs import OneHot
from factorq.constraints import Clustered, Quantized, Real
from factorq.factorization import Factorization
from factorq.forms import CP, Chain, Fold, Folded, Leaf, Tucker

Content = dict[str, tuple[str, tuple[int, ...], bytes]]
MUTANTS = int(os.environ.get("FACTORQ_FUZZ", "10000"))
NAMES = ("scalar 3 midtread", "scalar asymmetric", "scalar lloyd", "scalar masked", "pruned", "svd 4 bits + pruned",
         "quantized-sparse", "scalar nf4", "trellis 3", "trellis 1.5 static", "trellis fixed rate, rotated",
         "rotated both + scalar", "vector quantization ragged")  # fmt: skip


def forms() -> dict[str, Factorization]:
    rng = np.random.default_rng(0)

    def leaf(*shape: int) -> Leaf:
        return Leaf(Quantized(3, group=3).encode(rng.standard_normal(shape)))

    trees = {
        "cp": CP(Leaf(Real("float16").encode(np.ones((1, 2)))), (leaf(3, 2), leaf(4, 2), leaf(2, 2))),
        "tucker": Tucker(leaf(2, 2, 2), (leaf(3, 2), leaf(4, 2), Leaf(Clustered(2, None).encode(np.eye(2))))),
        "vq": Folded(
            Chain(Leaf(OneHot.encode(np.arange(12) % 5, 5, "float64")), leaf(5, 2)), Fold((6, 4), (6, 2, 2), (0, 1))
        ),
    }
    return {name: Factorization(form, HOST, {"id": "elsewhere"}, 0.0) for name, form in trees.items()}


def original(which: str, path: Path) -> bytes:
    """A small sound file: one factorization by a method of the table beside a plain array, or the other forms."""
    if which == "forms":
        fq.save(path, forms())
    else:
        F = fq.decompose(sample("heavy tails", (6, 11), "float32", 1), method=METHODS[which].on((6, 11)))
        fq.save(path, {"layer.weight": F, "bias": np.arange(3, dtype=np.float32)})
    return path.read_bytes()


def everything(path: Path) -> Content:
    """All that can be asked of a file, as bits. What a forged file holds may overflow: then so would its maker's."""
    found: Content = {}
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        for name, tensor in fq.load(path).items():
            array = tensor
            if isinstance(tensor, fq.Factorization):
                repr(tensor), tensor._repr_html_(), tensor.method, tensor.nbytes
                for factor in tensor.factors:
                    factor.sum()
                if tensor.ndim == 2 and tensor.size < 1 << 20:
                    tensor @ np.ones(tensor.shape[1], np.float32)
                array = tensor.to_dense()
            found[name] = (array.dtype.name, array.shape, array.tobytes())
    return found


@pytest.mark.fuzz
@pytest.mark.parametrize("which", [*NAMES, "forms"])
def test_mutants(which: str, tmp_path: Path) -> None:
    count = MUTANTS // (len(NAMES) + 1) + 1
    sound = original(which, tmp_path / "sound.safetensors")
    outcomes = fuzz(sound, everything, lambda a, b: a == b, count, random.Random(which))
    refused = sum(n for outcome, n in outcomes.items() if outcome.endswith("refused"))
    assert refused > outcomes.total() // 2  # the mutators do harm
