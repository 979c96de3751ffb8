"""
Accuracy at few bits
====================

What networks score at a stored size, as ``benchmarks/accuracy.py`` measured it: with weights alone, with the inputs of
their layers, and after a short training of what is stored. All tensors of two or more axes are stored, the first and
the last layer too.
"""

import json
from pathlib import Path

import matplotlib.pyplot as plt

root = Path.cwd().parent if Path.cwd().name == "examples" else Path.cwd()  # the gallery runs in its own folder
rows = json.loads((root / "benchmarks" / "results" / "accuracy.json").read_text(encoding="utf-8"))["rows"]
networks = list(dict.fromkeys(row["network"] for row in rows))
styles = {
    "Trellis, one step": ("#009E73", "o"),
    "QuantizedSparse": ("#000000", "^"),
    "VectorQuantization": ("#56B4E9", "X"),
    "Scalar": ("#0072B2", "s"),
    "round to nearest": ("#E69F00", "v"),
    "clipped grid": ("#999999", "<"),
    "HQQ": ("#D55E00", "D"),
    "uniform, one step, ideal entropy": ("#CC79A7", "P"),
}


def panels(lines):
    """One panel for each network: a line for each label, of the rows that its test takes."""
    across = min(4, len(networks))
    down = -(-len(networks) // across)
    figure, grid = plt.subplots(
        down, across, figsize=(max(2.7 * across, 7), 2.5 * down + 0.9), squeeze=False, layout="constrained"
    )
    labels = {}
    for axes in grid.flat[len(networks) :]:
        axes.set_visible(False)
    for axes, network in zip(grid.flat, networks, strict=False):
        mine = [row for row in rows if row["network"] == network]
        for label, (colour, marker, dashes, takes) in lines.items():
            points = sorted((row["bits_per_weight"], row["score"]) for row in mine if takes(row))
            if points:
                look = {"color": colour, "marker": marker, "linestyle": dashes, "markersize": 4, "linewidth": 1}
                (labels[label],) = axes.plot(*zip(*points, strict=True), label=label, **look)
        dense, less = mine[0]["dense"], " per " in mine[0]["measure"]
        axes.axhline(dense, color="0.4", linestyle="--", linewidth=0.8)
        # What is worse than that is no use, and would hide the rest.
        axes.set_ylim((0.95 * dense, 2.5 * dense) if less else (max(0.0, 0.5 * dense), 1.04 * dense))
        axes.set_title(network, fontsize=9)
        axes.set_ylabel(mine[0]["measure"], fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in grid.flat[len(networks) - across : len(networks)]:  # the lowest of each column
        axes.set_xlabel("stored bits per weight", fontsize=9)
    figure.legend(labels.values(), labels, loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    return figure


def at(method, *stages):
    """Whether a row is of the method and one of the stages."""
    return lambda row: row["method"] == method and row["stage"] in stages and "aimed_ratio" not in row


# %%
# Weights alone. The dashed line is the dense network; for losses in nats or bits less is better. The uniform quantizer
# is counted at its ideal entropy, less than any file of it takes.

panels({method: (colour, marker, "-", at(method, "weights")) for method, (colour, marker) in styles.items()})
plt.show()

# %%
# The same trellis with data: batch norms estimated anew where there are any, the second moments of the layers' inputs,
# bits allotted to layers by their gradients, and some passes of training on what is stored.

ours, allotted = "Trellis, one step", "Trellis, allotted by gradients"
panels({
    "weights": ("#009E73", "o", "-", at(ours, "weights")),
    "batch norm": ("#56B4E9", "s", "-", at(ours, "batch norm")),
    "calibrated": ("#E69F00", "v", ":", at(ours, "calibrated")),
    "calibrated, batch norm": ("#D55E00", "^", ":", at(ours, "calibrated, batch norm")),
    "calibrated, allotted": ("#CC79A7", "D", ":", at(allotted, "calibrated")),
    "calibrated, allotted, batch norm": ("#0072B2", "P", ":", at(allotted, "calibrated, batch norm")),
    "fine-tuned": ("#000000", "*", "--", at(ours, "fine-tuned")),
})  # fmt: skip
plt.show()
