r"""
One problem, five corners
=========================

Columns of a matrix are points, and :math:`W \approx C Z` says: each point is a sum of few columns of :math:`C`, the
*atoms*. How many may be used, and with which factors, makes truncated SVD, k-means, sparse PCA, pruning and transform
coding out of the same formula. Here all of them look at the same points in the plane, so that what each can store is
to be seen.
"""

import matplotlib.pyplot as plt
import numpy as np

import factorq as fq

# %%
# Pairs of weights
# ----------------
# Two weights are a point. These lie along three directions, with long tails and some noise; a row of W is a point.

rng = np.random.default_rng(0)
directions = np.array([[1.0, 0.3], [-0.5, 1.0], [0.9, -0.6]])
W = directions[rng.integers(0, 3, 2000)] * rng.laplace(size=(2000, 1)) + 0.08 * rng.standard_normal((2000, 2))
W = W.astype(np.float32)

# %%
# What each corner can store
# --------------------------
# Grey are the points, coloured what is stored for them; the arrows are the directions of the atoms.
#
# One real atom is a line, the truncated SVD. One coefficient of plus or minus one for each point is a codebook: eight
# atoms and their negatives. One real coefficient on one of three atoms gives three lines: sparse, but not quantized,
# as in sparse PCA. If the atoms are the axes, what remains is to prune and to round each weight; if they are learned
# and as many as the axes, that is done in turned coordinates, which is transform coding. The last panel asks for all
# of it at once: more atoms than axes, few coefficients, each an integer.

corners = {
    "truncated SVD": fq.QuantizedSparse(1),
    "codebook": fq.QuantizedSparse(8, bits=(8, 1), sparsity=7 / 8, support="column", starts=8),
    "sparse, real": fq.QuantizedSparse(3, sparsity=2 / 3, support="column"),
    "pruned and rounded": fq.Scalar(2, group=None, sparsity=0.5),
    "transform coding": fq.QuantizedSparse(2, bits=(8, 2.5), codes="trellis"),
    "quantized and sparse": fq.QuantizedSparse(3, bits=(8, 3), sparsity=2 / 3, starts=8),
}
colours = dict(zip(corners, ("#CC79A7", "#D55E00", "#56B4E9", "#0072B2", "#009E73", "#E69F00"), strict=True))
found = {title: fq.decompose(W, method=method) for title, method in corners.items()}

figure, panels = plt.subplots(2, 3, figsize=(9.5, 6.8), sharex=True, sharey=True, layout="constrained")
for axes, (title, F) in zip(panels.flat, found.items(), strict=True):
    axes.plot(*W.T, ".", color="0.75", markersize=1.5)
    axes.plot(*np.unique(F.to_dense(), axis=0).T, ".", color=colours[title], markersize=5 if F.method.bits else 2)
    for atom in F.factors[0].T if title not in ("codebook", "pruned and rounded") else ():
        axes.annotate("", 1.6 * atom / np.linalg.norm(atom), (0, 0), arrowprops={"arrowstyle": "->", "linewidth": 1.4})
    text = f"{title}\n{F.bits_per_weight:.1f} bits, error {F.relative_error:.2f}"
    axes.set_title(text, loc="left", fontsize=10)
    axes.set(xlim=(-4, 4), ylim=(-4, 4), aspect="equal")
    axes.spines[["top", "right"]].set_visible(False)
plt.show()

# %%
# Equalities, not likenesses
# --------------------------
# With nothing quantized and no zeros, the solver ends at the error of the truncated SVD. With one coefficient of +1
# for each point it is k-means: a third coordinate that is the same large number for all points leaves their distances
# as they are, and makes +1 better than -1 or 0 for every atom.

lifted = np.hstack([W, np.full((len(W), 1), 8 * np.abs(W).max())]).astype(np.float64)
one_of_eight = fq.QuantizedSparse(8, bits=(16, 1), sparsity=7 / 8, support="column", starts=64)
F = fq.decompose(lifted, method=one_of_eight)
print("coefficients:", np.unique(F.factors[1]))
kmeans = fq.decompose(W, method=fq.VectorQuantization(dim=2, codewords=8))
error = np.linalg.norm(F.to_dense()[:, :2] - W) / np.linalg.norm(W)
print(f"relative error {error:.3f} as a factorisation, {kmeans.relative_error:.3f} by k-means")
print(f"{found['truncated SVD'].relative_error:.6f} {fq.decompose(W, rank=1).relative_error:.6f} by the truncated SVD")

# %%
# Error against stored bits
# -------------------------
# The corners at other sizes. Where real numbers are stored, the size is that of the numbers: 16 bits and more for each
# weight, far to the right of this plot. Three atoms on a grid store less than a codebook or pruning for the same error:
# the points do lie on three lines. Two atoms with codes on an entropy-coded trellis store less still. What the codes
# cost counts as much as what they can say, and a coder that learns how large and how frequent they are saves more
# than a third atom does.

families = {
    "codebook": [fq.QuantizedSparse(k, bits=(8, 1), sparsity=1 - 1 / k, support="column", starts=8)
                 for k in (2, 4, 8, 16)],
    "k-means": [fq.VectorQuantization(2, k) for k in (4, 8, 16, 32)],
    "pruned and rounded": [fq.Scalar(b, group=None, sparsity=s) for b, s in ((1, 0.8), (2, 0.7), (2, 0.5), (3, 0.5))],
    "transform coding": [fq.QuantizedSparse(2, bits=(8, b), codes="trellis") for b in (0.5, 1.0, 1.5, 2.0, 2.5, 3.0)],
    "quantized and sparse": [fq.QuantizedSparse(3, bits=(8, b), sparsity=s, starts=8)
                             for b, s in ((1, 0.8), (2, 0.75), (2, 2 / 3), (3, 2 / 3))],
}  # fmt: skip
colours["k-means"] = "#8B6F47"
figure, axes = plt.subplots(figsize=(7.5, 4.2), layout="constrained")
for (family, members), marker in zip(families.items(), "sPov^", strict=True):
    results = [fq.decompose(W, method=method, store="entropy") for method in members]
    points = np.array([(F.bits_per_weight, F.relative_error) for F in results]).T
    axes.plot(*points, marker=marker, color=colours[family], label=family, markeredgecolor="white", markersize=8)
axes.set_yscale("log", base=2)
axes.yaxis.set_major_formatter(lambda y, _: f"{y:.3g}")
axes.set(xlabel="stored bits per weight", ylabel="relative error")
axes.spines[["top", "right"]].set_visible(False)
axes.legend(frameon=False)
plt.show()
