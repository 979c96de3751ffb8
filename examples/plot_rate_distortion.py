r"""
Bits and error: how far from the bound?
=======================================

How many bits does a weight need? For a large matrix of independent Gaussian numbers there is a law: no method
whatever can store it with :math:`R` bits per weight and a relative error below :math:`2^{-R}` (Shannon's
rate-distortion bound). Here methods are held against that law. Scales, levels, tables and masks are counted, so the
points are to be compared at equal stored bits and not at equal code width.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from safetensors.numpy import load_file

import factorq as fq

W = np.random.default_rng(0).standard_normal((384, 512)).astype(np.float32)

# %%
# Ways to round a weight
# ----------------------
# A grid of integers and a set of Lloyd-Max levels, each with a scale for every 128 weights; NF4, whose 16 levels are
# fixed; a mask that prunes weights, with the kept ones on a 3-bit grid; and the entropy-coded trellis, which takes a
# size of any number of bits. Each is an object that says what to do, and :func:`factorq.decompose` does it.

methods = {
    "integer grid": [fq.Scalar(bits) for bits in (1, 2, 3, 4, 5, 6)],
    "Lloyd-Max levels": [fq.Scalar(bits, levels="lloyd") for bits in (1, 2, 3, 4, 5, 6)],
    "NF4": [fq.Scalar(4, levels="nf4")],
    "pruned, 3-bit grid": [fq.Scalar(3, sparsity=share) for share in (0.5, 0.7, 0.85, 0.93)],
    "entropy-coded trellis": [fq.Trellis(bits, model="static") for bits in (0.5, 1, 2, 3, 4, 5, 6)],
}
points = {}
for family, members in methods.items():
    results = [fq.decompose(W, method=method) for method in members]
    points[family] = np.array([(F.bits_per_weight, F.relative_error) for F in results]).T

# %%
# The picture
# -----------
# Every point lies above the bound, as it must. One more bit halves the error, so the curves run parallel to the bound.
# A grid wastes half a bit to a whole one, and ends at one bit; pruning goes on below that. The trellis stays within a
# tenth of a bit of what is possible.

colours = {
    "integer grid": "#0072B2",
    "Lloyd-Max levels": "#56B4E9",
    "NF4": "#D55E00",
    "pruned, 3-bit grid": "#E69F00",
    "entropy-coded trellis": "#009E73",
}
figure, axes = plt.subplots(figsize=(7.5, 4.6), layout="constrained")
rate = np.linspace(0, 6.5)
axes.fill_between(rate, 2.0**-rate, 2.0**-8, color="0.95")
axes.plot(rate, 2.0**-rate, "--", color="0.4", linewidth=1)
axes.text(1.1, 2.0**-4.5, "below Shannon's bound:\nno method can be here", color="0.4")
for (family, (bits, error)), marker in zip(points.items(), "osvD^", strict=True):
    axes.plot(bits, error, marker=marker, color=colours[family], label=family, markeredgecolor="white", markersize=8)
axes.set_yscale("log", base=2)
axes.yaxis.set_major_formatter(lambda y, _: f"1/{1 / y:.0f}" if y < 1 else "1")
axes.set(xlim=(0, 6.5), ylim=(2.0**-6.6, 1), xlabel="stored bits per weight", ylabel="relative error")
axes.set_title("A Gaussian matrix, 384 x 512", loc="left")
axes.spines[["top", "right"]].set_visible(False)
axes.legend(frameon=False)
plt.show()

# %%
# The gap, source by source
# -------------------------
# Seen closer: the gap is what is stored less what a Gaussian source of the same variance would need for the same error.
# Weights of other distributions can be stored in less, but a grid does not profit from it: its codes take their bits
# whether they are frequent or rare, and long tails stretch it. An entropy coder does profit, and more so where weights
# depend on each other, as they do in trained networks. Checkpoints are read from a folder ``shared/data`` beside the
# checkout where it is there.

rng = np.random.default_rng(1)
sources = {
    "Gaussian": rng.standard_normal((128, 512)).astype(np.float32),
    "Laplace": rng.laplace(size=(128, 512)).astype(np.float32),
    "Student, 3 degrees of freedom": rng.standard_t(3, size=(128, 512)).astype(np.float32),
}
root = next((path for path in (Path.cwd(), *Path.cwd().parents) if (path / "shared" / "data").is_dir()), None)
layers = {
    "resnet56_cifar10": ("layer3.0.conv2.weight", "a convolution of resnet56"),
    "g2p_gru": ("enc_w_hh", "a GRU"),
}
for name, (layer, title) in layers.items():
    if root is not None and (root / "shared" / "data" / f"{name}.safetensors").exists():
        tensors = load_file(root / "shared" / "data" / f"{name}.safetensors")
        sources[title] = tensors[layer][:128]

contestants = {
    "integer grid": [fq.Scalar(bits) for bits in (2, 3, 4)],
    "Lloyd-Max levels": [fq.Scalar(bits, levels="lloyd") for bits in (2, 3, 4)],
    "uniform step, entropy coded": [fq.Trellis(bits, states=1, transform=False, model="static") for bits in (2, 3, 4)],
    "entropy-coded trellis": [fq.Trellis(bits) for bits in (2, 3, 4)],
}
colours["uniform step, entropy coded"] = "#CC79A7"
figure, panels = plt.subplots(1, len(sources), figsize=(2.4 * len(sources), 3.6), sharey=True, layout="constrained")
for axes, (title, weights) in zip(panels, sources.items(), strict=True):
    for family, members in contestants.items():
        stored = [fq.decompose(weights, method=method) for method in members]
        gap = [F.bits_per_weight + np.log2(np.sum((weights - F.to_dense()) ** 2) / weights.size / weights.var()) / 2
               for F in stored]  # fmt: skip
        axes.plot([F.bits_per_weight for F in stored], gap, "o-", color=colours[family], label=family)
    axes.axhline(0, color="0.4", linewidth=1, linestyle="--")
    axes.set_title(title, fontsize="small")
    axes.set(xlim=(1.7, 4.4), xlabel="stored bits")
    axes.spines[["top", "right"]].set_visible(False)
panels[0].set_ylabel("gap to the Gaussian bound, bits")
figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
plt.show()
