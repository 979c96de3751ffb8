"""The fixed-rate trellis: a bit-shift code without a stream to decode."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...codecs import BitShift
from ...forms import Fold, Folded, Form, Leaf
from ...measure import gram_error
from ...solvers.damping import explain_damping
from ...solvers.feedback import Metric, in_turn

_GROUP = 1024  # weights per float16 scale: resnet56 at 2 bits, rotated: gap .138 with 256, .098 with 1024, .123 per row
_SHORTEST = 64  # weights in a column: shorter circles lose more than feedback gains


def encode(W: NDArray[Any], bits: int, states: int, gram: NDArray[Any] | None) -> tuple[Form, str]:
    """W as one long row of circles; with a gram, circles down its columns with error feedback, if that is better.

    The text is empty, or says that feedback was.
    """
    plain = BitShift.encode(W, bits=bits, states=states, group=_GROUP)
    if gram is None or len(W) < _SHORTEST:
        return Leaf(plain), ""

    def coded(columns: NDArray[Any]) -> BitShift:
        return BitShift.encode(columns, bits=bits, states=states, group=_GROUP, axis=1)

    matrix, metric = W.reshape(len(W), -1), Metric.of(gram)
    met = in_turn(matrix, metric, lambda _, column: coded(column[None].astype(W.dtype)).decode()[0])
    fed = coded(np.ascontiguousarray(met.T, W.dtype))
    errors = [gram_error(matrix, x, gram) for x in (plain.decode().reshape(matrix.shape), fed.decode().T)]
    if errors[0] <= errors[1]:
        return Leaf(plain), ""
    how = f", down the columns with error feedback; {explain_damping(metric.damping)}"
    return Folded(Leaf(fed), Fold.transposed(W.shape)), how


def plain_nbytes(shape: tuple[int, int], bits: int, states: int) -> int:
    """Stored bytes of a matrix (m, n) without a gram."""
    return BitShift.predict(shape, bits, states, _GROUP)


def nbytes(shape: tuple[int, int], bits: int, states: int) -> int:
    """Stored bytes of a matrix (m, n), an upper bound: with feedback, each column has its own bytes and scales."""
    m, n = shape
    along = plain_nbytes(shape, bits, states)
    return max(along, BitShift.predict((n, m), bits, states, _GROUP, 1)) if m >= _SHORTEST else along
