r"""
What calibration data buys
==========================

A layer is judged by its outputs. If its inputs are correlated, errors of the weights can cancel each other in the
output, and a method that knows the second moment of the inputs, ``gram = X.T @ X / len(X)``, can make sure that they
do: it minimises :math:`\operatorname{tr}\,(W-F)\,\mathrm{gram}\,(W-F)^T`, the mean squared error of the output, and
not that of the weights.
"""

import matplotlib.pyplot as plt
import numpy as np

import factorq as fq

# %%
# A layer and its inputs
# ----------------------
# The inputs live mostly in 32 of 256 directions. Half of them calibrate; the other half judge.

rng = np.random.default_rng(0)
n, outputs = 256, 192
mixing = rng.standard_normal((32, n))
X = rng.standard_normal((4000, 32)) @ mixing + rng.standard_normal((4000, n))
X = X.astype(np.float32)
calibration, judged = X[:2000], X[2000:]
W = rng.standard_normal((outputs, n)).astype(np.float32)
gram = calibration.T @ calibration / len(calibration)


def output_error(F):
    """Relative error of the layer's output on inputs that the method has not seen."""
    wanted = judged @ W.T
    return np.linalg.norm(judged @ F.to_dense().T - wanted) / np.linalg.norm(wanted)


# %%
# With and without
# ----------------
# The same settings, the same size; ``gram`` only changes which errors are made. Quantization then goes column by
# column, and the columns that are still to come take up the error of the last one.

settings = {
    "trellis, 2 bits": {"bits": 2},
    "trellis, 3 bits": {"bits": 3},
    "grid, 3 bits": {"method": "scalar", "bits": 3},
    "50% pruned": {"sparsity": 0.5},
    "rank 24": {"rank": 24},
    "rank 24, 6 bits": {"rank": 24, "bits": 6},
}
without = [fq.decompose(W, **keywords) for keywords in settings.values()]
with_gram = [fq.decompose(W, gram=gram, **keywords) for keywords in settings.values()]
print(with_gram[0].status)

# %%
# The picture
# -----------
# Left, what the layer computes: the error of the output shrinks in every setting. Right, the price: the weights
# themselves are further off, and that is the point.

figure, panels = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained", sharey=True)
y = np.arange(len(settings))[::-1]
measured = {
    "relative error of the output": ([output_error(F) for F in without], [output_error(F) for F in with_gram]),
    "relative error of the weights": ([F.relative_error for F in without], [F.relative_error for F in with_gram]),
}
for axes, (title, (before, after)) in zip(panels, measured.items(), strict=True):
    axes.barh(y + 0.19, before, 0.36, color="#B8C4CE", label="without gram")
    axes.barh(y - 0.19, after, 0.36, color="#009E73", label="with gram")
    for place, value in [*zip(y + 0.19, before, strict=True), *zip(y - 0.19, after, strict=True)]:
        axes.text(value, place, f" {value:.3f}", va="center", fontsize=8, color="0.3")
    axes.set_title(title, loc="left", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.12)
panels[0].set_yticks(y, list(settings))
panels[0].legend(frameon=False, loc="upper right")
plt.show()
