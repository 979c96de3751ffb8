"""The product of a factorization with an array of any library: checks, the compute dtype, and back to where x lives."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..arrays import FLOATS, Array, Home, native, needs_gradient
from ..errors import ArtifactError, refuse, refuse_type

if TYPE_CHECKING:
    from .result import Factorization


def product(F: Factorization, x: Array, left: bool) -> Array:
    """``x @ F`` for ``left``, else ``F @ x``, as :meth:`factorq.Factorization.__matmul__` describes it."""
    vector = _check(F.shape, x, left)
    home, own = Home.of(x), F.home
    own.check_neighbour(home, "x")
    if home.dtype not in FLOATS:
        raise refuse_type("x", found=f"dtype {home.dtype}", allowed=", ".join(FLOATS))
    if needs_gradient(x):
        remedy = "use x.detach() or torch.no_grad(), or to_dense() where gradients are wanted"
        raise refuse("x", found="a tensor that requires gradients", allowed="one without", remedy=remedy)
    matrix = native(x).astype(np.float64 if "float64" in (home.dtype, own.dtype) else np.float32)
    if vector:
        matrix = matrix[None, :] if left else matrix[:, None]
    try:
        with own.active():
            found = F.placed.rmatmul(matrix) if left else F.placed.matmul(matrix)
    except MemoryError:
        raise ArtifactError(f"the product with an array of shape {F.shape}: more memory than there is") from None
    return own.place(found.reshape(-1) if vector else found, _wider(home.dtype, own.dtype))


def _check(shape: tuple[int, ...], x: Array, left: bool) -> bool:
    """Whether x is a vector, after a look at its shape."""
    if len(shape) != 2:
        remedy = "use to_dense() and contract the axes you mean"
        raise refuse("@", found=f"a factorization of shape {shape}", allowed="a matrix", remedy=remedy)
    inner = shape[0] if left else shape[1]
    if len(x.shape) not in (1, 2) or x.shape[-1 if left else 0] != inner:
        allowed = f"(b, {inner}) or ({inner},)" if left else f"({inner},) or ({inner}, b)"
        remedy = "reshape it to two axes first" if len(x.shape) > 2 else f"F has shape {shape}"
        raise refuse("x", found=f"shape {tuple(x.shape)}", allowed=allowed, remedy=remedy)
    return len(x.shape) == 1


def _wider(a: str, b: str) -> str:
    """The dtype of a product: the wider of the two; float32 for two different half precisions."""
    if a == b:
        return a
    wide = [d for d in ("float64", "float32") if d in (a, b)]
    return wide[0] if wide else "float32"
