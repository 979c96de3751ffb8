r"""
Equations in a queue
====================

In a pruned layer only the bits of kept weights matter. An XOR code finds a stream whose decoded bits are right at those
positions, and each of them is one linear equation for the bits of the stream. With :class:`factorq.codecs.xor.Banded`
an equation may use any of 128 bits from where its window begins. Those that have no bit of their own yet wait. What
happens in that queue decides how many bits the stream takes.
"""

import matplotlib.pyplot as plt
import numpy as np

import factorq as fq
from factorq.kernels import banded

# %%
# The queue
# ---------
# A tenth of all weights is kept, at random places. For each of them an equation joins the queue; as the windows move
# on, one leaves with every bit that is passed. At one rate without slack, the queue is a random walk between two walls.
# At the lower one stream bits pass unused, at the upper one equations are lost, and half of them need a patch. Windows
# that move at a rate of their own in each block keep the queue away from both.

rng = np.random.default_rng(1)
window, run, block = 128, 64, 32768
care = rng.random(1 << 20) < 0.1
counts = care.reshape(-1, run).sum(axis=1)
arrived = np.cumsum(counts)  # equations up to each run of 64 positions
position = run * np.arange(1, arrived.size + 1)


def queue(passed, first):
    """Equations that wait after each run, when so many bits of the stream have been passed."""
    waiting, length, before = [], first, np.zeros(2)
    for now in zip(arrived, passed, strict=True):
        came, went = np.subtract(now, before)
        length = min(max(length - went, 0) + came, window)
        waiting.append(length)
        before = np.array(now)
    return np.array(waiting)


steady = position * care.mean()
lead = 0.36 * window  # equations that the encoder likes to have waiting
moves, _, _ = banded.follow(counts, block // run, care.size // block, window, int(lead))
paced = np.interp(position, np.arange(moves.size + 1) * block, np.cumsum([0, *moves]))

# %%
# Three codes
# -----------
# Stored bits for each bit that matters, everything counted, over the bits of the stream that a decoded bit can depend
# on: the inputs of a slice, those of a step and of its registers, a window.

signs = rng.integers(0, 2, care.size, dtype=np.uint8)


def stored(code, part=slice(None)):
    coded = fq.xor.encode(signs[part], care[part], bits=1, code=code)
    assert np.array_equal(coded.decode()[care[part]], signs[part][care[part]])
    return 8 * coded.nbytes / care[part].sum() - 1


few = slice(0, 1 << 16)  # the Viterbi encoder of the sequential code is slow
curves = {
    "Slices": [(n, stored(fq.xor.Slices(n))) for n in (16, 32, 64, 128, 256)],
    "Sequential": [(8 * (k + 1), stored(fq.xor.Sequential(8, k), few)) for k in (0, 1)],
    "Banded, one rate": [(w, stored(fq.xor.Banded(w, paced=False))) for w in (16, 32, 64, 128)],
    "Banded, paced": [(w, stored(fq.xor.Banded(w))) for w in (16, 32, 64, 128)],
}
for name, points in curves.items():
    print(name, *(f"{n}: {100 * extra:.2f} %" for n, extra in points), sep="  ")

colours = ["#CC79A7", "#E69F00", "#0072B2", "#009E73"]
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.9), width_ratios=(3, 2), layout="constrained")
left.axhline(window, color="0.7", linewidth=1)
left.text(1.02, window + 3, "full: equations are lost", ha="right", color="0.4", fontsize=9)
left.plot(position / 1e6, queue(steady, 0), color=colours[2], linewidth=0.6, label="one rate")
left.plot(position / 1e6, queue(paced, lead), color=colours[3], linewidth=0.6, label="paced")
left.set(xlabel="position, millions", ylabel="equations that wait", ylim=(0, 142), xlim=(0, care.size / 1e6))
left.legend(frameon=False, loc="upper left", ncols=2)
for (name, points), colour in zip(curves.items(), colours, strict=True):
    right.plot(*zip(*points, strict=True), "o-", color=colour, markersize=4)
    right.annotate(name, points[-1], xytext=(6, 4), textcoords="offset points", color=colour, fontsize=9)
right.set(xscale="log", yscale="log", xlabel="bits that a decoded bit depends on", ylabel="stored bits over the floor")
right.set_xlim(7, 900)
right.set_xticks([8, 16, 32, 64, 128, 256], ["8", "16", "32", "64", "128", "256"])
right.set_yticks([0.003, 0.01, 0.03, 0.1, 0.3], ["0.3 %", "1 %", "3 %", "10 %", "30 %"])
right.minorticks_off()
for axes in (left, right):
    axes.spines[["top", "right"]].set_visible(False)
plt.show()
