"""The network of the demonstration: how it is trained, and how well it reads digits with given weights."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

_DAMPING = 0.01  # share of the mean square input added to the gram: calibration images are few and pixels are often 0


@dataclass(frozen=True)
class Network:
    """Fully connected layers with ReLU between them, and the images to calibrate and to judge them on.

    Attributes
    ----------
    tensors : dict of array
        ``fc1.weight`` (outputs, inputs), ``fc1.bias`` and so on.
    inputs, test_inputs : array (images, 64)
        Pixels between 0 and 1.
    test_labels : array (images,)
        Digits.
    """

    tensors: Mapping[str, Floats]
    inputs: Floats
    test_inputs: Floats
    test_labels: NDArray[Any]

    @property
    def weights(self) -> tuple[str, ...]:
        """The names of the weight matrices, in the order of the layers."""
        return tuple(name for name in self.tensors if name.endswith("weight"))

    def activations(self, tensors: Mapping[str, Floats], x: Floats) -> Iterator[Floats]:
        """The input of each layer, and at last the network's output."""
        for name in self.weights:
            yield x
            x = x @ tensors[name].T + tensors[name.replace("weight", "bias")]
            x = x if name == self.weights[-1] else x.clip(0)
        yield x

    def accuracy(self, tensors: Mapping[str, Floats]) -> float:
        """Share of the test images that the network with ``tensors`` classifies right."""
        *_, output = self.activations(tensors, self.test_inputs)
        return float((output.argmax(axis=1) == self.test_labels).mean())

    def grams(self) -> dict[str, Floats]:
        """The damped second moment (n, n) of each layer's inputs over the training images."""
        grams = {}
        for name, x in zip(self.weights, self.activations(self.tensors, self.inputs), strict=False):
            gram = x.T @ x / len(x)
            grams[name] = gram + np.float32(_DAMPING) * gram.trace() / len(gram) * np.eye(len(gram), dtype=np.float32)
        return grams

    @property
    def widths(self) -> str:
        """Inputs and outputs of the layers: ``64-256-128-10``."""
        shapes = [self.tensors[name].shape for name in self.weights]
        return "-".join(map(str, [shapes[0][1], *(shape[0] for shape in shapes)]))


def train(hidden: tuple[int, ...], epochs: int) -> Network:
    """A network with ``hidden`` layers on three fifths of scikit-learn's 1797 digits (8 by 8 pixels); seeded."""
    from sklearn.datasets import load_digits
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.model_selection import train_test_split
    from sklearn.neural_network import MLPClassifier
    from threadpoolctl import threadpool_limits

    x, y = load_digits(return_X_y=True)
    x = (x / 16).astype(np.float32)
    inputs, test_inputs, labels, test_labels = train_test_split(x, y, test_size=0.4, random_state=0, stratify=y)
    classifier = MLPClassifier(hidden, alpha=0.01, max_iter=epochs, tol=0, n_iter_no_change=epochs, random_state=0)
    # One thread: the sums keep one order, and BLAS threads fight over small products (0.4 s; two busy cores: 12 s).
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore", ConvergenceWarning)  # a fixed number of epochs is what was asked for
        classifier.fit(inputs, labels)
    tensors = {}
    for i, (weight, bias) in enumerate(zip(classifier.coefs_, classifier.intercepts_, strict=True), 1):
        tensors[f"fc{i}.weight"] = np.ascontiguousarray(weight.T, np.float32)
        tensors[f"fc{i}.bias"] = np.ascontiguousarray(bias, np.float32)
    return Network(tensors, inputs, test_inputs, test_labels)
