"""
What trained networks lose
==========================

Relative squared error against stored bits per weight for trained networks, as the benchmark measured it. The line is
Shannon's: no code for independent Gaussian weights comes below it. Weights of real networks are neither independent nor
Gaussian: an entropy coder uses it, and a grid of few bits feels their long tails.
"""

import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

root = Path.cwd().parent if Path.cwd().name == "examples" else Path.cwd()  # the gallery runs in its own folder
rows = json.loads((root / "benchmarks" / "results" / "networks.json").read_text(encoding="utf-8"))["rows"]
networks = list(dict.fromkeys(row["network"] for row in rows))
styles = {
    "factorq": ("#009E73", "o"),
    "factorq, equal relative steps": ("#56B4E9", "^"),
    "factorq scalar": ("#0072B2", "s"),
    "round to nearest, groups of 64": ("#E69F00", "v"),
    "HQQ, groups of 64": ("#D55E00", "D"),
    "NF4, groups of 64": ("#CC79A7", "P"),
}


def panels(measured):
    """One panel for each network, one line for each method: ``measured`` of its rows over stored bits."""
    across = min(4, len(networks))
    down = -(-len(networks) // across)
    figure, grid = plt.subplots(
        down, across, figsize=(max(2.7 * across, 7), 2.5 * down + 0.7), sharex=True, squeeze=False, layout="constrained"
    )
    for axes in grid.flat[len(networks) :]:
        axes.set_visible(False)
    for axes, network in zip(grid.flat, networks, strict=False):
        for method, (colour, marker) in styles.items():
            mine = [row for row in rows if (row["network"], row["method"]) == (network, method)]
            points = np.array(sorted((row["bits_per_weight"], measured(row)) for row in mine)).reshape(-1, 2)
            axes.plot(*points.T, marker=marker, color=colour, label=method, markersize=4, linewidth=1)
        axes.set_title(network, fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in grid.flat[len(networks) - across : len(networks)]:  # the lowest of each column
        axes.set_xlabel("stored bits per weight", fontsize=9)
        axes.tick_params(labelbottom=True)
    labels = grid.flat[0].get_legend_handles_labels()
    figure.legend(*labels, loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    return figure, grid.flat[: len(networks)]


# %%
# ``factorq`` is one step for all tensors of the network, met by a total; with equal relative steps each tensor has its
# own, in proportion to the size of its weights. All tensors of two or more axes are quantized.

figure, drawn = panels(lambda row: row["relative_error"] ** 2)
bits = np.linspace(1.9, 4.6)
for axes in drawn:
    axes.plot(bits, 4.0**-bits, "k--", linewidth=0.8)
    axes.set_yscale("log")
figure.supylabel("relative squared error", fontsize=9)
plt.show()

# %%
# What the error does to the network depends on the network: the share of the original's score that is left. For losses
# in nats or bits, where less is better, it is the original's over the restored one's.


def kept(row):
    """The share of the original's score."""
    return row["before"] / row["after"] if " per " in row["measure"] else row["after"] / row["before"]


figure, drawn = panels(kept)
for axes in drawn:
    axes.axhline(1, color="0.4", linestyle="--", linewidth=0.8)
    axes.set_ylim(0, 1.05)
figure.supylabel("share of the score that is left", fontsize=9)
plt.show()
