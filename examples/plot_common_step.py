r"""
Bits where they count
=====================

How many bits should each tensor of a network get? The entropy-coded trellis takes any number, so the question has an
answer: those for which one byte more lowers the error by the same amount in every tensor. That is one common step. And
before it, within a tensor: a transform along the kernel positions puts the bits where the energy is.
"""

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from safetensors.numpy import save_file

import factorq as fq
from factorq import checkpoint

# %%
# A convolution
# -------------
# Kernels of 3 x 3 whose neighbouring positions are alike, with output channels of unequal size: that is how trained
# convolutions look.

rng = np.random.default_rng(0)
place = np.stack(np.meshgrid(range(3), range(3)), axis=-1).reshape(9, 2)
alike = 0.7 ** np.abs(place[:, None] - place).sum(axis=-1)


def convolution(outputs, inputs, scale):
    """Kernels (outputs, inputs, 3, 3) of about this size."""
    channels = scale * np.exp(0.4 * rng.standard_normal((outputs, 1, 1)))
    kernels = channels * rng.laplace(size=(outputs, inputs, 9)) @ np.linalg.cholesky(alike).T
    return kernels.reshape(outputs, inputs, 3, 3).astype(np.float32)


W = convolution(96, 64, 0.05)
print(fq.explain(W, bits=3))

# %%
# Error against bits
# ------------------
# The plain grid; a uniform step and the trellis, both entropy coded, without a transform; and the trellis as
# ``bits=`` gives it. One more bit halves the error, so the curves are parallel, and how far apart they are is what a
# method saves: about one and a half bits for each weight, from the grid to the trellis with its transform.

families = {
    "grid, groups of 128": ("#0072B2", "o", [fq.Scalar(b) for b in (1, 2, 3, 4, 5)]),
    "uniform step, entropy coded": (
        "#CC79A7", "s", [fq.Trellis(b, states=1, transform=False) for b in (0.5, 1, 2, 3, 4, 5)]
    ),
    "trellis": ("#56B4E9", "D", [fq.Trellis(b, transform=False) for b in (0.5, 1, 2, 3, 4, 5)]),
    "trellis with transform": ("#009E73", "^", [fq.Trellis(b) for b in (0.5, 1, 2, 3, 4, 5)]),
}  # fmt: skip
figure, axes = plt.subplots(figsize=(7.5, 4.6), layout="constrained")
for family, (colour, marker, methods) in families.items():
    stored = [fq.decompose(W, method=method) for method in methods]
    points = np.array([(F.bits_per_weight, F.relative_error) for F in stored]).T
    axes.plot(*points, marker=marker, color=colour, label=family, markeredgecolor="white", markersize=8)
rate = np.linspace(0, 5.5)
axes.plot(rate, 2.0**-rate, "--", color="0.4", linewidth=1, label="bound for independent Gaussian weights")
axes.set_yscale("log", base=2)
axes.yaxis.set_major_formatter(lambda y, _: f"1/{1 / y:.0f}" if y < 1 else "1")
axes.set(xlim=(0, 5.5), ylim=(2.0**-6.6, 1), xlabel="stored bits per weight", ylabel="relative error")
axes.set_title("A convolution, 96 x 64 x 3 x 3", loc="left")
axes.spines[["top", "right"]].set_visible(False)
axes.legend(frameon=False, loc="lower left", fontsize=9)
plt.show()

# %%
# A network
# ---------
# Five tensors whose weights are of unequal size, as a checkpoint. ``bits_per_weight`` alone is a total over all of
# them; ``fq.Trellis(2.5)`` gives each of them 2.5 bits.

network = {
    "conv1": convolution(32, 16, 0.15),
    "conv2": convolution(32, 32, 0.08),
    "conv3": convolution(64, 32, 0.05),
    "conv4": convolution(64, 64, 0.02),
    "head": rng.normal(0, 0.12, (10, 576)).astype(np.float32),
}
with tempfile.TemporaryDirectory() as folder:
    source, target = Path(folder) / "model.safetensors", Path(folder) / "small.safetensors"
    save_file(network, source)
    reports = {
        "2.5 bits for each": checkpoint.compress(source, target, method=fq.Trellis(2.5)),
        "2.5 bits in all, one step": checkpoint.compress(source, target, bits_per_weight=2.5),
    }
for title, report in reports.items():
    print(f"{title}: {report.bits_per_weight:.3f} bits per weight, relative error {report.relative_error:.3f}")

# %%
# The common step gives the large weights more bits and takes them from conv4, which has half of all weights, and small
# ones. Right, the squared error of each tensor as a share of all that was lost with equal bits: the sum is what counts.

colours = dict(zip(reports, ("#B8C4CE", "#009E73"), strict=True))
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
x = np.arange(len(network))
lost = {title: np.array([(row.relative_error * row.norm) ** 2 for row in r.rows]) for title, r in reports.items()}
whole = lost["2.5 bits for each"].sum()
for shift, (title, report) in zip((-0.2, 0.2), reports.items(), strict=True):
    left.bar(x + shift, [row.bits_per_weight for row in report.rows], 0.38, color=colours[title], label=title)
    label = f"{title}: {lost[title].sum() / whole:.0%} in all"
    right.bar(x + shift, lost[title] / whole, 0.38, color=colours[title], label=label)
left.set_title("stored bits per weight", loc="left", fontsize=11)
right.set_title("squared error, share of the error with equal bits", loc="left", fontsize=11)
right.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
for axes in (left, right):
    axes.set_xticks(x, [f"{name}\n{array.size:,}" for name, array in network.items()], fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9)
plt.show()
