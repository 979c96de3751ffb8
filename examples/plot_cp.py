r"""
A convolution as a sum of outer products of integers
====================================================

:class:`factorq.CP` stores :math:`W \approx \sum_t w_t \, a_t \otimes b_t \otimes c_t` with integers in a, b and c. Here
are the factors of a layer, how the solver comes to them, and how it compares with rounding.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from safetensors.numpy import load_file

import factorq as fq

# %%
# A layer
# -------
# A convolution of resnet20, from a folder ``shared/data`` beside the checkout where it is there. Elsewhere kernels that
# are a sum of outer products, with noise.


def layer():
    """The weights (outputs, inputs, 3, 3), and what to call them."""
    root = next((path for path in (Path.cwd(), *Path.cwd().parents) if (path / "shared" / "data").is_dir()), None)
    path = None if root is None else root / "shared" / "data" / "resnet20_cifar10.safetensors"
    if path is not None and path.exists():
        return load_file(path)["layer2.1.conv2.weight"], "resnet20, layer2.1.conv2"
    rng = np.random.default_rng(0)
    A, B, C = (rng.standard_normal((n, 150)) for n in (32, 32, 9))
    W = np.einsum("t,it,jt,kt->ijk", np.arange(1, 151) ** -0.5, A, B, C)
    return (W + 0.1 * W.std() * rng.standard_normal(W.shape)).reshape(32, 32, 3, 3).astype(np.float32), "made up"


W, name = layer()
print(name, W.shape)
print(fq.explain(W, rank=63, bits=4))

# %%
# Factors of integers
# -------------------
# Half of the parameters are 63 terms. Each has a weight and three columns of 4-bit integers, found together: outputs,
# inputs, and the positions of a 3x3 kernel.

F = fq.decompose(W, method=fq.CP(reduction=2, bits=4))
weights, A, B, C = F.factors
print(F)

figure, panels = plt.subplots(1, 3, figsize=(9.5, 3.4), width_ratios=(1, 1, 0.9), layout="constrained")
for axes, factor, what in zip(panels, (A, B), ("outputs", "inputs"), strict=False):
    image = axes.imshow(factor, cmap="RdBu", vmin=-15, vmax=15, aspect="auto", interpolation="nearest")
    axes.set(xlabel="term", ylabel=what.removesuffix("s"))
    axes.set_title(f"{what}, {factor.shape[0]} x {factor.shape[1]}", loc="left", fontsize=10)
figure.colorbar(image, ax=panels[1], ticks=(-15, -7, 0, 7, 15))
tiles = C[:, :, :49].transpose(2, 0, 1).reshape(7, 7, 3, 3)
padded = np.full((7, 7, 4, 4), np.nan)
padded[:, :, :3, :3] = tiles
panels[2].imshow(padded.transpose(0, 2, 1, 3).reshape(28, 28), cmap="RdBu", vmin=-15, vmax=15)
panels[2].axis("off")
panels[2].set_title("kernels of the first 49 terms", loc="left", fontsize=10)
plt.show()

# %%
# The way there
# -------------
# The callback sees every sweep. Real factors cool first; then the integers are rounded with noise that falls to
# zero, and settle. Without that the moves end where they meet the first minimum, above.

paths = {}
for label, method in {
    "annealed": fq.CP(reduction=2, bits=4),
    "descent alone": fq.CP(reduction=2, bits=4, anneal=0),
    "ADMM, then descent": fq.CP(reduction=2, bits=4, solver="admm", grid="half"),
}.items():
    errors = []
    found = fq.decompose(W, method=method, callback=lambda progress, errors=errors: errors.append(progress.objective))
    paths[label] = errors, found.relative_error
rounded = fq.decompose(W, method=fq.CP(reduction=2, bits=4, solver="als")).relative_error

figure, axes = plt.subplots(figsize=(7.5, 3.8), layout="constrained")
for (label, (errors, last)), colour in zip(paths.items(), ("#009E73", "#0072B2", "#D55E00"), strict=True):
    axes.plot(np.arange(1, len(errors) + 1), errors, color=colour, label=f"{label}: {last:.3f}", linewidth=1.4)
axes.axhline(rounded, color="0.4", linestyle="--", linewidth=1, label=f"rounded after least squares: {rounded:.3f}")
axes.set(xlabel="sweep", ylabel="relative error", ylim=(0.8 * paths["annealed"][1], 1.7 * paths["annealed"][1]))
axes.spines[["top", "right"]].set_visible(False)
axes.legend(frameon=False, fontsize=9)
plt.show()

# %%
# Beside plain quantization
# -------------------------
# For a size, many terms of 2 or 3 bits are better than few of 4. At equal bytes the trellis leaves less error still: as
# a way to store this layer it is the better one. What CP saves are multiplications.
# :meth:`factorq.Factorization.to_conv` has the three convolutions.

rows = {"CP, half of the parameters": [], "CP, rounded": [], "CP, rank and bits for the size": [], "trellis": []}
for bits in (2, 3, 4, 6):
    found = fq.decompose(W, method=fq.CP(reduction=2, bits=bits))
    rows["CP, half of the parameters"].append((found.bits_per_weight, found.relative_error))
    plain = fq.decompose(W, method=fq.CP(reduction=2, bits=bits, solver="als"))
    rows["CP, rounded"].append((plain.bits_per_weight, plain.relative_error))
    sized = fq.decompose(W, method="cp", bits_per_weight=found.bits_per_weight)
    rows["CP, rank and bits for the size"].append((sized.bits_per_weight, sized.relative_error))
    coded = fq.decompose(W, bits=found.bits_per_weight)
    rows["trellis"].append((coded.bits_per_weight, coded.relative_error))

figure, axes = plt.subplots(figsize=(6.5, 3.8), layout="constrained")
for (label, points), colour in zip(rows.items(), ("#009E73", "#D55E00", "#0072B2", "0.3"), strict=True):
    axes.plot(*zip(*points, strict=True), "o-", color=colour, label=label, markersize=4, linewidth=1.2)
axes.set(xlabel="stored bits per weight", ylabel="relative error", yscale="log")
axes.spines[["top", "right"]].set_visible(False)
axes.legend(frameon=False, fontsize=9)
plt.show()

print(F.operations((16, 16), padding=1, activation_bits=8))
