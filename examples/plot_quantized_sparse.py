r"""
A small dense factor times a large sparse one
=============================================

:class:`factorq.QuantizedSparse` stores :math:`W \approx C \, \mathrm{diag}(s) \, Z`: a small codebook C, quantized, and
a large Z of small integers, many of them zero. Here are the pieces: how the kernels of a convolution become a matrix
with few rows, what the atoms look like, what the solver does that plain projected gradient does not, and where the
result lies among other methods.
"""

from pathlib import Path
from time import process_time

import matplotlib.pyplot as plt
import numpy as np
from safetensors.numpy import load_file

import factorq as fq

# %%
# A layer
# -------
# A convolution of resnet56, from a folder ``shared/data`` beside the checkout where it is there. Elsewhere random
# kernels that are smooth, as trained ones are.


def layer():
    """The weights (outputs, inputs, 3, 3), and what to call them."""
    root = next((path for path in (Path.cwd(), *Path.cwd().parents) if (path / "shared" / "data").is_dir()), None)
    path = None if root is None else root / "shared" / "data" / "resnet56_cifar10.safetensors"
    if path is not None and path.exists():
        return load_file(path)["layer3.8.conv2.weight"], "resnet56, layer3.8.conv2"
    rng = np.random.default_rng(0)
    apart = np.abs(np.subtract.outer(np.arange(3), np.arange(3)))
    along = np.linalg.cholesky(0.6**apart)
    gains = rng.gamma(0.7, size=(64, 1, 1, 1)) * rng.gamma(2.0, size=(1, 64, 1, 1))
    return (gains * (along @ rng.standard_normal((64, 64, 3, 3)) @ along.T)).astype(np.float32), "smooth random kernels"


W, name = layer()
print(name, W.shape)

# %%
# The fold
# --------
# The codebook takes rows x rank x bits, so few rows are cheap; and they should predict each other. The positions of a
# kernel do: each kernel becomes a column of nine numbers. The fold is part of what is stored, and inverted on use.

figure, (left, middle, right) = plt.subplots(
    1, 3, figsize=(9.5, 3.6), width_ratios=(1, 0.25, 1.6), layout="constrained"
)
corner = W[:8, :8]
shades = {"cmap": "RdBu", "vmin": -np.abs(corner).max(), "vmax": np.abs(corner).max()}
left.imshow(corner.transpose(0, 2, 1, 3).reshape(24, 24), **shades)
left.set_xticks(np.arange(1, 24, 3), range(8))
left.set_yticks(np.arange(1, 24, 3), range(8))
left.set(xlabel="input", ylabel="output")
left.set_title(f"a corner of W, {'x'.join(map(str, W.shape))}", loc="left", fontsize=10)
for edge in np.arange(2.5, 23, 3):
    left.axhline(edge, color="0.4", linewidth=0.5)
    left.axvline(edge, color="0.4", linewidth=0.5)
middle.annotate("", (0.95, 0.5), (0.05, 0.5), xycoords="axes fraction", arrowprops={"arrowstyle": "->"})
middle.text(0.5, 0.54, "fold", ha="center", transform=middle.transAxes)
middle.axis("off")
right.imshow(corner[:3].reshape(24, 9).T, **shades)
right.set_xticks([3.5, 11.5, 19.5], [f"output {k},\ninputs 0 to 7" for k in range(3)])
right.set_ylabel("kernel position")
right.set_title(f"its upper three rows, of the matrix 9x{W.size // 9}", loc="left", fontsize=10)
for edge in (7.5, 15.5):
    right.axvline(edge, color="0.4", linewidth=0.5)
plt.show()

# %%
# With a rank, the fold has the fewest rows that hold it. For a size, an estimate of the bytes decides on the fold and
# the rank. :func:`factorq.explain` says what came of it.

print(fq.explain(W, rank=16, bits=4, sparsity=0.8))
print(fq.explain(W, method="quantized_sparse", bits_per_weight=1))

# %%
# The atoms
# ---------
# Sixteen atoms for nine positions, a fifth of the coefficients kept; over each atom the share of the kernels that use
# it.

F = fq.decompose(W, method=fq.QuantizedSparse(16, bits=(6, 3), sparsity=0.8, fold="positions"))
C, Z = F.factors
share = np.count_nonzero(Z, axis=1) / Z.shape[1]
figure, panels = plt.subplots(2, 8, figsize=(9.5, 2.9), layout="constrained")
for axes, j in zip(panels.flat, np.argsort(-share), strict=True):
    axes.imshow(C[:, j].reshape(W.shape[2:]), cmap="RdBu", vmin=-np.abs(C[:, j]).max(), vmax=np.abs(C[:, j]).max())
    axes.set_title(f"{share[j]:.0%}", fontsize=9)
    axes.axis("off")
figure.suptitle(f"{F.bits_per_weight:.2f} bits per weight, relative error {F.relative_error:.3f}", fontsize=10)
plt.show()

# %%
# Two solvers
# -----------
# Projected gradient takes a step, then rounds. On a grid most steps are shorter than half a cell, and rounding takes
# them back: after the phase with real numbers it nearly stands still. The default solver goes from integer to integer.
# Both here have 64 atoms of 32 entries, 4 bits for C, 2 for Z and a fifth of Z kept; the singular values of the matrix
# fall as :math:`i^{-0.7}`.

rng = np.random.default_rng(0)
U, V = (np.linalg.qr(rng.standard_normal((k, 32)))[0] for k in (32, 1024))
decaying = ((U * np.arange(1, 33) ** -0.7) @ V.T).astype(np.float32)
figure, axes = plt.subplots(figsize=(7.5, 3.8), layout="constrained")
for solver, colour in (("pgd", "#D55E00"), ("coordinate", "#0072B2")):
    method = fq.QuantizedSparse(64, bits=(4, 2), sparsity=0.8, solver=solver, max_iter=60, tol=0.0)
    fq.decompose(decaying[:, :256], method=method)  # compiles
    seen, start = [], process_time()

    def watch(progress, seen=seen):
        seen.append((process_time(), progress.objective))

    F = fq.decompose(decaying, method=method, callback=watch)
    moments, objective = np.array(seen).T
    moments = moments - start
    axes.plot(moments, objective, ".-", color=colour, label=f'solver="{solver}"')
    axes.plot([0, moments[0]], 2 * [objective[0]], ":", color=colour)
    print(f"{solver}: error {F.relative_error:.3f} at {F.bits_per_weight:.2f} bits; {F.status}")
axes.set(xlabel="CPU seconds (dotted: the phase with real numbers)", ylabel="relative error", ylim=(0, 0.4))
axes.spines[["top", "right"]].set_visible(False)
axes.legend(frameon=False, loc="lower right")
plt.show()

# %%
# The frontier
# ------------
# Error against stored bits for the layer, and for independent Gaussian numbers, in which there is nothing to find. On
# the layer two methods are far below the others: the fold with learned atoms, and the trellis, which changes the basis
# along kernel positions too, with orthonormal transforms that take fewer bytes. On the Gaussian numbers the codes of
# "quantized sparse" are a trellis as well, the codebook has a few atoms of a few entries, and neither is better.
# k-means and residual codes, the latter sums of two codewords, take whole kernels or rows of them as vectors; one
# look-up decodes nine weights, or three.

size = (0.5, 1.0, 2.0, 3.0)
families = {
    "quantized sparse": [{"method": "quantized_sparse", "bits_per_weight": b} for b in size],
    "SVD, rounded": [{"method": fq.SVD(rank, bits)} for rank, bits in ((16, 2), (32, 2), (32, 3), (56, 3))],
    "k-means": [{"method": fq.VectorQuantization(*v)} for v in ((9, 16), (9, 64), (3, 16), (3, 64))],
    "residual codes": [{"method": fq.VectorQuantization(*v, stages=2)} for v in ((9, 16), (9, 32), (3, 8), (3, 16))],
    "trellis": [{"method": "trellis", "bits_per_weight": b} for b in size],
}
styles = {
    "quantized sparse": ("#0072B2", "o"),
    "SVD, rounded": ("#CC79A7", "s"),
    "k-means": ("#8B6F47", "P"),
    "residual codes": ("#E69F00", "^"),
    "trellis": ("#009E73", "v"),
}
noise = np.random.default_rng(0).standard_normal((96, 192)).astype(np.float32)
figure, panels = plt.subplots(1, 2, figsize=(9.5, 4.4), sharey=True, layout="constrained")
for axes, weights, title in zip(panels, (W, noise), (name, "Gaussian, 96x192"), strict=True):
    for family, members in families.items():
        results = [fq.decompose(weights, **settings) for settings in members]
        colour, marker = styles[family]
        points = np.array([(F.bits_per_weight, F.relative_error) for F in results]).T
        axes.plot(
            *points, marker=marker, color=colour, label=family, markeredgecolor="white", markersize=9 - len(axes.lines)
        )
    axes.plot([0.3, 3.3], [2**-0.3, 2**-3.3], "--", color="0.4", linewidth=1)
    axes.set_title(title, loc="left", fontsize=10)
    axes.set(xlim=(0.3, 3.3), xlabel="stored bits per weight")
    axes.set_yscale("log", base=2)
    axes.yaxis.set_major_formatter(lambda y, _: f"{y:.3g}")
    axes.spines[["top", "right"]].set_visible(False)
panels[0].set_ylabel("relative error (dashed: Shannon's bound)")
panels[0].legend(frameon=False, loc="lower left")
plt.show()
