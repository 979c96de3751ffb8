r"""
Bits and error of scalar quantization
=====================================

How many bits does a weight need? For a large matrix of independent Gaussian numbers there is a law: no method
whatever can store it with :math:`R` bits per weight and a relative error below :math:`2^{-R}` (Shannon's
rate-distortion bound). Here the scalar methods are held against that law. Scales, levels and masks are counted, so
the points are to be compared at equal stored bits and not at equal code width.
"""

import matplotlib.pyplot as plt
import numpy as np

import factorq as fq

W = np.random.default_rng(0).standard_normal((512, 1024)).astype(np.float32)

# %%
# Four ways to round a weight
# ---------------------------
# A grid of integers and a set of Lloyd-Max levels, each with a scale for every 128 weights; NF4, whose 16 levels are
# fixed; and a mask that prunes weights, with the kept ones on a 3-bit grid. Each is an object that says what to do,
# and :func:`factorq.decompose` does it.

methods = {
    "integer grid": [fq.Scalar(bits) for bits in (1, 2, 3, 4, 5, 6)],
    "Lloyd-Max levels": [fq.Scalar(bits, levels="lloyd") for bits in (1, 2, 3, 4, 5, 6)],
    "NF4": [fq.Scalar(4, levels="nf4")],
    "pruned, 3-bit grid": [fq.Scalar(3, sparsity=share) for share in (0.5, 0.7, 0.85, 0.93)],
}
points = {}
for family, members in methods.items():
    results = [fq.decompose(W, method=method) for method in members]
    points[family] = np.array([(F.bits_per_weight, F.relative_error) for F in results]).T

# %%
# The picture
# -----------
# Every point lies above the bound, as it must. One more bit halves the error, so the grid runs parallel to the bound,
# and Lloyd-Max levels, which lie where the weights are, come closer to it. A grid ends at one bit; pruning goes on
# below that.

colours = {
    "integer grid": "#0072B2",
    "Lloyd-Max levels": "#56B4E9",
    "NF4": "#D55E00",
    "pruned, 3-bit grid": "#E69F00",
}
figure, axes = plt.subplots(figsize=(7.5, 4.6), layout="constrained")
rate = np.linspace(0, 6.5)
axes.fill_between(rate, 2.0**-rate, 2.0**-8, color="0.95")
axes.plot(rate, 2.0**-rate, "--", color="0.4", linewidth=1)
axes.text(1.1, 2.0**-4.5, "below Shannon's bound:\nno method can be here", color="0.4")
for (family, (bits, error)), marker in zip(points.items(), "osvD", strict=True):
    axes.plot(bits, error, marker=marker, color=colours[family], label=family, markeredgecolor="white", markersize=8)
axes.set_yscale("log", base=2)
axes.yaxis.set_major_formatter(lambda y, _: f"1/{1 / y:.0f}" if y < 1 else "1")
axes.set(xlim=(0, 6.5), ylim=(2.0**-6.6, 1), xlabel="stored bits per weight", ylabel="relative error")
axes.set_title("A Gaussian matrix, 512 x 1024", loc="left")
axes.spines[["top", "right"]].set_visible(False)
axes.legend(frameon=False)
plt.show()
