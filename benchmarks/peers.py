"""Other ways to write weights, for ``rate_distortion.py``: what they store, counted to the last table, and how back.

Every coder takes all tensors of a source and one setting: bits per code, or a step relative to each tensor's standard
deviation. The grids, HQQ, NF4 and k-means are those of ``scalar_quantization.py``, here with groups along the flat
tensor, the last one filled up. NNCodec takes minutes to build, and its metadata asks for numpy<2, which its code does
not need: ``python -m pip install --no-deps nncodec==2.1.3``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.metadata import version
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scalar_quantization import affine, blockwise, clipped_grid, half_quadratic, k_means, min_max, normal_float

Floats = NDArray[np.float32]
Tensors = Mapping[str, Floats]
Aims = tuple[float, ...]  # stored bits per weight
WIDTHS = (2, 3, 4, 5)  # bits per code of the grids
TRADE = 0.75  # NNCodec's lambda_scale: of 0, 0.5, 0.75, 1 and 1.25 the least gap on resnet20 and the char LSTM
LARGE = 1 << 16  # weights beyond which a table of frequencies takes under a hundredth of a bit
DENSITY = 4  # its steps are then 1/16 of an octave apart


@dataclass(frozen=True)
class Stored:
    """What a coder made of some tensors: its bytes, and how to get the tensors back."""

    nbytes: float
    decode: Callable[[], Mapping[str, NDArray[Any]]]


@dataclass(frozen=True)
class Coder:
    """A method: its name, how it encodes tensors at a setting, and the settings to try.

    ``by_step`` says that the setting is a relative step, which is searched for the stored sizes ``aims``; otherwise
    ``settings`` are tried as they are. ``random_only``: not for networks.
    """

    name: str
    encode: Callable[[Tensors, Any], Stored]
    settings: tuple[Any, ...] = ()
    by_step: bool = False
    random_only: bool = False


def each(encode: Callable[[Floats, Any], tuple[float, Callable[[], NDArray[Any]]]]) -> Callable[..., Stored]:
    """The coder that writes tensor by tensor: ``encode`` gives the bytes of one and how it is decoded."""

    def all_of(tensors: Tensors, setting: Any) -> Stored:
        parts = {name: encode(W, setting) for name, W in tensors.items()}
        return Stored(
            sum(nbytes for nbytes, _ in parts.values()), lambda: {k: decode() for k, (_, decode) in parts.items()}
        )

    return all_of


# --- fixed width: scales, zeros and levels beside the codes ---------------------------------------------------------


def grouped(
    solve: Callable[..., tuple[NDArray[Any], ...]], group: int, side: Callable[[int], int]
) -> Callable[..., Stored]:
    """Codes of ``bits`` and ``side(bits)`` more bits for each ``group`` of weights."""

    def encode(W: Floats, bits: int) -> tuple[float, Callable[[], Floats]]:
        x = filled(W, group)
        stored = blockwise(partial(solve, bits=bits), x, group)
        nbytes = (W.size * bits + len(x) * side(bits)) / 8
        return nbytes, lambda: affine(stored, x.shape).reshape(-1)[: W.size].reshape(W.shape)

    return each(encode)


def quantiles(group: int) -> Callable[..., Stored]:
    """NF4 with a 16-bit largest magnitude for each group."""
    from factorq.kernels.levels import NF4

    levels = np.asarray(NF4, np.float32)

    def encode(W: Floats, bits: int) -> tuple[float, Callable[[], Floats]]:
        x = filled(W, group)
        codes, peak = blockwise(partial(normal_float, levels=levels), x, group)
        wide = peak.astype(np.float32)
        nbytes = W.size * bits / 8 + 2 * len(x)
        return nbytes, lambda: (levels[codes] * wide).reshape(-1)[: W.size].reshape(W.shape)

    return each(encode)


def cluster(W: Floats, bits: int) -> tuple[float, Callable[[], Floats]]:
    """k-means of scalars: 2**bits float16 levels for each tensor."""
    codes, levels = k_means(W, bits)
    half = levels.astype(np.float16).astype(np.float32)
    return W.size * bits / 8 + 2 * 2**bits, lambda: np.asarray(half[codes])


def filled(W: Floats, group: int) -> Floats:
    """The flat tensor as rows of ``group`` weights; the last weight is repeated to fill the last row."""
    flat = W.reshape(-1)
    return np.pad(flat, (0, -flat.size % group), mode="edge").reshape(-1, group)


# --- entropy coded --------------------------------------------------------------------------------------------------


def uniform(W: Floats, relative: float) -> tuple[float, Callable[[], Floats]]:
    """Multiples of a step through constriction's range coder, decoded to centroids ``a k + b sign(k)``.

    The model is a table of 16-bit frequencies, for small tensors a Gaussian or Laplace distribution if that is smaller;
    14 bytes say which, its parameters, a, b, and the least integer.
    """
    from constriction import stream

    k = np.rint(W.reshape(-1) * np.float32(1 / (relative * spread(W)))).astype(np.int32)
    low = int(k.min())
    shifted = k - low
    counts = np.bincount(shifted, minlength=2)
    table = np.maximum(np.rint(counts * (65535 / counts.max())), counts > 0).astype(np.float32)
    choices = [(2.0 * len(table), stream.model.Categorical(table / table.sum(), perfect=False))]
    if W.size < LARGE:
        top, mean = len(counts) - 1, float(shifted.mean())
        width = max(float(shifted.std()), 0.05)
        choices.append((0.0, stream.model.QuantizedGaussian(0, top, mean, width)))
        choices.append((0.0, stream.model.QuantizedLaplace(0, top, mean, width / 1.4142)))
    written = []
    for side, model in choices:
        coder = stream.queue.RangeEncoder()
        coder.encode(shifted, model)
        words = coder.get_compressed()
        written.append((side + words.nbytes, words, model))
    nbytes, words, model = min(written, key=lambda choice: choice[0])
    at = np.arange(low, low + len(counts))
    levels = np.array([at, np.sign(at)], np.float64)
    moments = np.bincount(shifted, W.reshape(-1), minlength=len(counts)) @ levels.T
    a, b = np.linalg.lstsq((levels * counts) @ levels.T, moments)[0].astype(np.float32)
    values = (a * at + b * np.sign(at)).astype(np.float32)

    def decode() -> Floats:
        return np.asarray(values[stream.queue.RangeDecoder(words).decode(model, W.size)]).reshape(W.shape)

    return nbytes + 14, decode


def neural_network_coding(tensors: Tensors, relative: float) -> Stored:
    """NNCodec (ISO/IEC 15938-17): dependent quantization with rate-distortion optimisation, all tensors in one file."""
    nnc, common = nncodec()
    short = {str(k): np.ascontiguousarray(W) for k, W in enumerate(tensors.values())}
    steps = {
        k: np.int32(np.round(common.get_qp_from_stepsize(relative * spread(W), DENSITY))) for k, W in short.items()
    }
    settings: dict[str, Any] = {"qp_density": DENSITY, "qp_per_tensor": steps, "lambda_scale": TRADE}
    stream = nnc.compress(short, bitstream_path=None, return_bitstream=True, use_dq=True, row_skipping=True, **settings)

    def decode() -> Mapping[str, NDArray[Any]]:
        found = nnc.decompress(stream)
        return {name: found[k] for k, name in zip(short, tensors, strict=True)}

    return Stored(len(stream), decode)


def nncodec() -> tuple[Any, Any]:
    """Its compression module and its common one, without the networks, data sets and image libraries it ships with."""
    name = "nncodec.framework"
    version("nncodec")  # raises where it is not installed, before anything is put in its place
    if name not in sys.modules:
        package = ModuleType(name)
        for part in ("tensorflow_model", "pytorch_model", "use_case_init"):
            setattr(package, part, ModuleType(f"{name}.{part}"))
            sys.modules[f"{name}.{part}"] = getattr(package, part)
        sys.modules[name] = package
    return import_module("nncodec.nnc"), import_module("nncodec.nnc_core.common")


def spread(W: Floats) -> float:
    """The standard deviation, or 1 for a constant tensor."""
    return float(W.std(dtype=np.float64)) or 1.0


def peers() -> list[Coder]:
    """All of them. A scale takes 16 bits; HQQ's zero, which is no integer, 16; that of the plain grid as a code."""
    return [
        Coder("round to nearest, groups of 64", grouped(min_max, 64, lambda bits: 16 + bits), WIDTHS),
        Coder("clipped grid, groups of 128", grouped(clipped_grid, 128, lambda _: 16), WIDTHS),
        Coder("HQQ, groups of 64", grouped(half_quadratic, 64, lambda _: 32), WIDTHS),
        Coder("NF4, groups of 64", quantiles(64), (4,)),
        Coder("NF4, groups of 128", quantiles(128), (4,)),
        Coder("k-means of scalars", each(cluster), WIDTHS),
        Coder("uniform step + constriction", each(uniform), by_step=True),
        Coder("NNCodec, best mode", neural_network_coding, by_step=True),
    ]
