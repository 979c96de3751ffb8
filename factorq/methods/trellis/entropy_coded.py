"""The entropy-coded trellis at a number of bytes: transform, search for the step, error feedback."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...codecs import Path, Rotation
from ...codecs.path import grid, rounded, strips
from ...codecs.path.search import first_rates, squared_steps
from ...constraints.coded import SAMPLE, Search
from ...forms import Fold, Folded, Form, Leaf
from ...kernels.trellis import machine
from ...measure import gram_error
from ...solvers.feedback import Metric, in_turn
from ...solvers.karhunen_loeve import Transform
from ...solvers.step import meet
from ...solvers.trellis_feedback import Descent


class Coder(Search):
    """A search that also looks at what an array can be before its path: transformed, or fed its errors back."""

    def transformed(self, W: NDArray[Any], transform: Transform) -> tuple[Form, Path]:
        """The form of W after a transform, and the path in it."""
        bases = [
            Rotation.from_codes(stage.codes, stage.order, stage.bits, stage.leading, str(W.dtype))
            for stage in transform.bases
            if stage.codes is not None
        ]
        left = replace(self, budget=self.budget - sum(basis.nbytes for basis in bases))
        path = left.path(transform.apply(W).reshape(transform.layout))
        return (transform.form(path, bases) if transform.stages else Leaf(path.reshaped(W.shape))), path

    def fed_back(self, W: NDArray[Any], metric: Metric) -> tuple[Form, Path]:
        """The form of W, read as (m, n), with the path down its columns, each taking up the errors of those before."""
        shape, W = W.shape, W.reshape(W.shape[0], -1)
        plain = self.path(np.ascontiguousarray(W.T)[None])

        def encode(step: float) -> Path:
            return self._descended(W, metric, rounded(step), plain)

        if self.step is not None:
            path = encode(self.step)
        else:
            path = meet(encode, W.size, self.budget, plain.step, plain.step / 64, close=0.003)
        return Folded(Leaf(path), Fold.transposed(shape)), path

    def _descended(self, W: NDArray[Any], metric: Metric, step: float, plain: Path) -> Path:
        layout = (1, W.shape[1], W.shape[0])
        cells = grid(layout, plain.model)
        tops = frozenset(rows.start for rows, _ in cells)
        parts = [columns for rows, columns in cells if rows.start == 0]
        core = (W.T / step).astype(np.float32)[None]
        rates = first_rates(core, np.zeros(core.shape, np.uint8), self.states)
        descent = Descent(
            step, squared_steps(rates, self.states), metric.U.diagonal(), machine(self.states), tops, parts
        )
        in_turn(W, metric, descent)
        return Path.of_integers(descent.k, step=step, states=self.states, model=plain.model, dtype=str(W.dtype))


def lesser(forms: list[Form], W: NDArray[Any], gram: NDArray[Any]) -> int:
    """Which of the forms has the least error in the metric of the Gram matrix."""
    matrix = W.reshape(W.shape[0], -1)
    return int(np.argmin([gram_error(matrix, form.dense().reshape(matrix.shape), gram) for form in forms]))


def sampled_size(coder: Coder, W: NDArray[Any], transform: Transform) -> float:
    """Bytes that W will take at the coder's step: exact up to 524,288 weights, beyond by a sample of half as many."""
    planes = transform.apply(W).reshape(transform.layout)
    sample = strips(planes, SAMPLE)
    share = sample.size / planes.size
    size: float = transform.cost + coder.encode(sample, coder.step or 1.0).nbytes / share
    return size
