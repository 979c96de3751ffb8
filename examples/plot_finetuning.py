r"""
Accuracy before and after training what is stored
=================================================

Below two bits per weight a network loses accuracy by being compressed. Here is how much of it comes back: by batch
norms estimated anew, and by training the numbers behind the codes (:class:`factorq.Trainable`), for no byte more.
"""

import copy

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import factorq as fq
import factorq.adapters.torch as ft

# %%
# A network
# ---------
# Three convolutions with batch norms and a linear layer, on three quarters of scikit-learn's digits.

x, labels = map(torch.as_tensor, load_digits(return_X_y=True))
x = x.float().reshape(-1, 1, 8, 8) / 16
test = torch.arange(len(x)) % 4 == 0
x_test, labels_test, x, labels = x[test], labels[test], x[~test], labels[~test]


def block(inputs, outputs, stride):
    """A convolution with its norm."""
    conv = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())


def accuracy(net):
    """Share of the test images that are classified right, in percent."""
    with torch.no_grad():
        return 100 * float((net.eval()(x_test).argmax(-1) == labels_test).float().mean())


torch.manual_seed(0)
batches = DataLoader(TensorDataset(x, labels), batch_size=128, shuffle=True)
net = nn.Sequential(block(1, 24, 1), block(24, 48, 2), block(48, 48, 2), nn.Flatten(), nn.Linear(192, 10))
dense = ft.finetune(net, batches, steps=120, lr=3e-3)

# %%
# Three stages
# ------------
# The two large convolutions are stored by each method, the first and the last layer by four bits. Training is sixty
# steps of distillation, without labels. Bits are those of the two layers, with scales and codebooks.

MIDDLE = ("1.0.weight", "2.0.weight")


def stages(method):
    """Stored bits per weight, and the accuracy at each stage."""
    net = ft.compress(copy.deepcopy(dense), {"0.0": fq.Scalar(4), "4": fq.Scalar(4), "*": method})
    scores = [accuracy(net)]
    scores.append(accuracy(ft.reestimate_batch_norm(net, [x[:512]], dense)))
    scores.append(accuracy(ft.finetune(net, batches, steps=60, lr=5e-3, teacher=dense)))
    stored = ft.state_dict(net)
    size = sum(stored[name].size for name in MIDDLE)
    return 8 * sum(stored[name].nbytes for name in MIDDLE) / size, scores


methods = {
    "FleXOR": [fq.FleXOR(4, 16), fq.FleXOR(6, 16), fq.FleXOR(8, 16), fq.FleXOR(8, 10)],
    "scalar": [fq.Scalar(bits, group=None) for bits in (1, 2)],
    "codewords of 4 weights": [fq.VectorQuantization(dim=4, codewords=n) for n in (4, 16, 64)],
}
found = {name: [stages(method) for method in some] for name, some in methods.items()}

# %%
# What comes back
# ---------------

names = ("as it was solved", "batch norms estimated anew", "trained")
figure, panels = plt.subplots(1, 3, figsize=(10, 3.6), sharey=True, sharex=True, layout="constrained")
for k, (axes, what) in enumerate(zip(panels, names, strict=True)):
    for (name, points), colour, marker in zip(found.items(), ("#D55E00", "#0072B2", "#009E73"), "so^", strict=True):
        bits, scores = zip(*points, strict=True)
        axes.plot(bits, [s[k] for s in scores], color=colour, marker=marker, label=name, markersize=5, linewidth=1.2)
    axes.axhline(accuracy(dense), color="0.4", linestyle="--", linewidth=1, label="dense")
    axes.set_title(what, loc="left", fontsize=10)
    axes.set(xlabel="stored bits per weight")
    axes.spines[["top", "right"]].set_visible(False)
panels[0].set(ylabel="test images right, %")
panels[0].legend(frameon=False, fontsize=8, loc="lower right")
plt.show()

for name, points in found.items():
    for bits, scores in points:
        print(f"{name:24} {bits:5.2f} bits  " + "  ".join(f"{score:5.1f}" for score in scores))
