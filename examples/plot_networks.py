"""
What trained networks lose
==========================

Relative squared error against stored bits per weight for trained networks, as the benchmark measured it. The line is
Shannon's: no code for independent Gaussian weights comes below it. Weights of real networks are neither independent nor
Gaussian, and a grid of few bits feels their long tails.
"""

import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

root = Path.cwd().parent if Path.cwd().name == "examples" else Path.cwd()  # the gallery runs in its own folder
rows = json.loads((root / "benchmarks" / "results" / "networks.json").read_text(encoding="utf-8"))["rows"]

# %%
# One colour per network; squares are the plain grids at 2, 3, 4 and 8 bits, dots all other settings.

figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
for k, network in enumerate(dict.fromkeys(row["network"] for row in rows)):
    plain = [row for row in rows if row["network"] == network and row["options"].startswith("`--bits")]
    other = [row for row in rows if row["network"] == network and not row["options"].startswith("`--bits")]
    for chosen, style in ((plain, "s-"), (other, "o")):
        x = [row["bits_per_weight"] for row in chosen]
        y = [row["relative_error"] ** 2 for row in chosen]
        axes.plot(x, y, style, color=f"C{k}", label=network if chosen is plain else None, markersize=4, linewidth=0.8)
bits = np.linspace(1.5, 9, 100)
axes.plot(bits, 4.0**-bits, "k--", label="Shannon, independent Gaussian")
axes.set(yscale="log", xlabel="stored bits per weight of the compressed tensors", ylabel="relative squared error")
axes.legend(fontsize="small")
plt.show()

# %%
# What the error does to the network depends on the network: the share of the original's score that is left. For losses
# in nats or bits, where less is better, it is the original's over the restored one's.

figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
scored = [row for row in rows if row.get("measure")]
for network in dict.fromkeys(row["network"] for row in scored):
    mine = sorted((row for row in scored if row["network"] == network), key=lambda row: row["relative_error"])
    kept = [
        row["before"] / row["after"] if " per " in row["measure"] else row["after"] / row["before"]
        for row in mine
    ]  # fmt: skip
    axes.plot([row["relative_error"] for row in mine], kept, "o-", label=network, markersize=4, linewidth=0.8)
axes.set(xscale="log", xlabel="relative error of the compressed tensors", ylabel="share of the score that is left")
axes.legend(fontsize="small")
plt.show()
