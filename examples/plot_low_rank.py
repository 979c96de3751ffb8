r"""
Low rank, quantized, and what is left over
==========================================

When the singular values of a matrix fall fast, a few columns and rows say most of it. Their entries need not be
exact: with ``bits`` the factors are quantized, and each is solved again against the already quantized other one. And
where the spectrum has a long tail, a second method can take what the *stored* first one left over: methods stack with
``+``.
"""

import matplotlib.pyplot as plt
import numpy as np

import factorq as fq

# %%
# A matrix with a falling spectrum
# --------------------------------
# Random singular vectors, and singular values that fall as 1/k.

rng = np.random.default_rng(0)
m, n = 384, 512
left, _ = np.linalg.qr(rng.standard_normal((m, m)))
right, _ = np.linalg.qr(rng.standard_normal((n, m)))
values = 1.0 / np.arange(1, m + 1)
W = ((left * values) @ right.T).astype(np.float32)

# %%
# Three families
# --------------
# The factors in float32, the factors at 8 bits, and a rank of 16 at 8 bits with the rest on a grid; beside them the
# grid alone.

ranks = (2, 4, 8, 16, 32, 64)
families = {
    "SVD, float32 factors": [fq.SVD(rank) for rank in ranks],
    "SVD, 8-bit factors": [fq.SVD(rank, bits=8) for rank in ranks],
    "grid": [fq.Scalar(bits) for bits in (1, 2, 3, 4)],
    "SVD (rank 16, 8 bits) + grid": [fq.SVD(16, bits=8) + fq.Scalar(bits) for bits in (1, 2, 3, 4)],
}
points = {}
for family, members in families.items():
    results = [fq.decompose(W, method=method) for method in members]
    points[family] = np.array([(F.bits_per_weight, F.relative_error) for F in results]).T

# %%
# The result of a stack is one factorization like any other; it applies without being built.

F = fq.decompose(W, method=families["SVD (rank 16, 8 bits) + grid"][1])
x = rng.standard_normal(n).astype(np.float32)
print(F)
print("largest difference of F @ x:", np.abs(F @ x - F.to_dense() @ x).max())

# %%
# The picture
# -----------
# Quantized factors reach a given error with a fraction of the bits of float32 ones. A grid alone does not see the
# structure; after 16 directions have been taken out, it works on what is small.

styles = {
    "SVD, float32 factors": ("#E69F00", "v"),
    "SVD, 8-bit factors": ("#D55E00", "o"),
    "grid": ("#0072B2", "s"),
    "SVD (rank 16, 8 bits) + grid": ("#CC79A7", "D"),
}
figure, (spectrum, error) = plt.subplots(1, 2, figsize=(10, 4.4), layout="constrained", width_ratios=(2, 3))
spectrum.loglog(np.arange(1, m + 1), values, color="0.3")
spectrum.axvline(16, color="#CC79A7", linestyle="--")
spectrum.text(17, 0.5, "rank 16", color="#A34A7F")
spectrum.set(xlabel="k", ylabel="singular value k")
spectrum.set_title("The spectrum", loc="left")
for family, (bits, loss) in points.items():
    colour, marker = styles[family]
    error.plot(bits, loss, marker=marker, color=colour, label=family, markeredgecolor="white", markersize=8)
error.set_yscale("log")
ticks = (0.5, 0.2, 0.1, 0.05, 0.02)
error.set_yticks(ticks, map(str, ticks))
error.minorticks_off()
error.set(xlabel="stored bits per weight", ylabel="relative error", xlim=(0, 6))
error.set_title("Error against bits", loc="left")
error.legend(frameon=False)
for axes in (spectrum, error):
    axes.spines[["top", "right"]].set_visible(False)
plt.show()
