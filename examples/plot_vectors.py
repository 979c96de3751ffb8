r"""
Codewords in the plane
======================

Two weights are a point in the plane. Quantizing each on its own puts the points that can be stored on a square lattice,
whether weights are there or not; a codebook puts them where the weights are. Here are 3 bits per weight, twice 64
points, for pairs of weights that are correlated and have long tails, as neighbours in trained networks are.
"""

import matplotlib.pyplot as plt
import numpy as np

import factorq as fq

# %%
# Pairs of weights
# ----------------
# Laplacian numbers, each pair mixed so that its members are alike. Vectors are cut from rows: with ``dim=2``, entries
# 0 and 1 of a row are the first vector, 2 and 3 the second.

rng = np.random.default_rng(0)
pairs = rng.laplace(size=(1 << 16, 2)) @ np.array([[1.0, 0.6], [0.0, 0.8]])
W = pairs.reshape(1, -1).astype(np.float32)  # one row: the grid has one scale

methods = {
    "a grid for each weight": fq.Scalar(3, group=None),
    "64 codewords": fq.VectorQuantization(dim=2, codewords=64),
    "8 codewords + 8 codewords": fq.VectorQuantization(dim=2, codewords=8, stages=2),
}
found = {title: fq.decompose(W, method=method) for title, method in methods.items()}
for title, F in found.items():
    print(f"{title}: {F.bits_per_weight:.3f} bits per weight, relative error {F.relative_error:.3f}")

# %%
# The picture
# -----------
# Grey are the weights, coloured the points that are stored for them. The grid has points where there are no weights,
# and cuts off the tails. k-means puts its points where the weights are. In the third panel a point is the sum of two
# codewords: fewer of them to search and to store, but the points are copies of one pattern, and the error is larger.

figure, panels = plt.subplots(1, 3, figsize=(10, 3.9), sharex=True, sharey=True, layout="constrained")
for axes, (title, F) in zip(panels, found.items(), strict=True):
    stored = np.unique(F.to_dense().reshape(-1, 2), axis=0)
    axes.plot(*pairs[:6000].T, ",", color="0.6")
    axes.plot(*stored.T, "o", color="#0072B2" if "grid" in title else "#D55E00", markersize=4)
    axes.set_title(f"{title}\nrelative error {F.relative_error:.3f}", loc="left", fontsize=10)
    axes.set(xlim=(-6, 6), ylim=(-6, 6), aspect="equal", xlabel="weight 2i")
    axes.spines[["top", "right"]].set_visible(False)
panels[0].set_ylabel("weight 2i + 1")
plt.show()

# %%
# More dimensions, and the trellis
# --------------------------------
# At equal bits the error falls with the dimension of the vectors, while codebooks grow. The entropy-coded trellis gets
# further than these: its codewords are as long as the array, and none of them is stored.

contestants = {
    "grid": fq.Scalar(3, group=None),
    "1 weight, 8 levels": fq.VectorQuantization(dim=1, codewords=8),
    "2 weights, 64 codewords": fq.VectorQuantization(dim=2, codewords=64),
    "3 weights, 512 codewords": fq.VectorQuantization(dim=3, codewords=512),
    "trellis": fq.Trellis(3.0, model="static"),
}
results = [fq.decompose(W, method=method) for method in contestants.values()]
figure, axes = plt.subplots(figsize=(8, 3), layout="constrained")
y = np.arange(len(results))[::-1]
colours = ["#0072B2", *["#D55E00"] * 3, "#009E73"]
axes.barh(y, [F.relative_error for F in results], 0.6, color=colours)
for place, F in zip(y, results, strict=True):
    text = f" {F.relative_error:.3f} at {F.bits_per_weight:.2f} bits"
    axes.text(F.relative_error, place, text, va="center", fontsize=8, color="0.3")
axes.set_yticks(y, list(contestants))
axes.set_xlabel("relative error")
axes.spines[["top", "right"]].set_visible(False)
axes.margins(x=0.2)
plt.show()
