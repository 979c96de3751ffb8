"""How a factorization shows itself, as text and as a table for notebooks."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from ..arrays import FLOATS
from . import placing

if TYPE_CHECKING:
    from .result import Factorization


def text(F: Factorization) -> str:
    """What F is, what it costs, its factors and how its solver ended, in lines."""
    dense = F.size * FLOATS[F.home.dtype].itemsize
    lines = [
        f"Factorization of a {_shape(F)} {F.home.dtype} array by {F.method}",
        f"  {F.bits_per_weight:.4g} bits per weight ({F.nbytes:,} bytes, "
        f"{dense / max(F.nbytes, 1):.3g} times smaller), relative error {F.relative_error:.4g}",
    ]
    if F.gram_error is not None:
        lines.append(f"  relative error in the gram metric {F.gram_error:.4g}")
    lines += [f"  {name} = {factor!r}" for name, factor in F.encoded.items()]
    if F.home.gpu is not None:
        on_host = placing.on_host(F.form)
        lines.append(f"  on {F.home.device}" + (f"; decoded on the host: {', '.join(on_host)}" if on_host else ""))
    return "\n".join([*lines, f"  status: {F.status}"])


def html(F: Factorization) -> str:
    """The same as a table."""
    cells = [
        ("method", f"{F.method}"),
        ("array", f"{_shape(F)} {F.home.dtype}"),
        ("bits per weight", f"{F.bits_per_weight:.4g}"),
        ("bytes", f"{F.nbytes:,}"),
        ("relative error", f"{F.relative_error:.4g}"),
        *((name, repr(factor)) for name, factor in F.encoded.items()),
        ("status", F.status),
    ]
    rows = "".join(f"<tr><th>{escape(k)}</th><td>{escape(v)}</td></tr>" for k, v in cells)
    return f"<table>{rows}</table>"


def _shape(F: Factorization) -> str:
    return "x".join(map(str, F.shape))
