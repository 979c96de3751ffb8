"""Factorizations for other libraries: TensorLy's CP tensors."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np

from ..arrays import FLOATS, Home
from ..errors import affordable, refuse
from ..forms import CP, Form, Matrix
from ..measure import narrowed
from .layers import balanced, pair


def cp_tensor(form: Form, home: Home) -> Any:
    """``form`` as a ``tensorly.cp_tensor.CPTensor``: weights (r,) and factors (n_k, r) in ``home``.

    Raises
    ------
    ArgumentError
        If ``form`` is neither CP nor a product of two matrices, or TensorLy is not installed.
    """
    try:
        tensorly = import_module("tensorly.cp_tensor")
    except ImportError:
        raise refuse(
            "to_tensorly", found="no TensorLy", allowed="an installed package tensorly", remedy="pip install tensorly"
        ) from None
    dtype = FLOATS[home.dtype]
    with affordable(f"the factors of an array of shape {form.shape}"):
        weights, *factors = (home.place(narrowed(x, dtype)) for x in balanced(_arrays(form), dtype))
    return tensorly.CPTensor((weights, factors))


def _arrays(form: Form) -> list[Matrix]:
    """Weights (r,) and factors (n_k, r)."""
    if isinstance(form, CP):
        return [form.weights.dense().reshape(-1), *(f.dense().reshape(-1, form.rank) for f in form.factors)]
    if len(form.shape) == 2:
        (A, B), _ = pair(form, "to_tensorly")
        return [np.ones(A.shape[1], A.dtype), A, B.T]
    allowed = "CP, or a product A B of a matrix"
    remedy = 'decompose with method="cp", or use factors or to_dense()'
    raise refuse("to_tensorly", found=f"{form} of shape {form.shape}", allowed=allowed, remedy=remedy)
