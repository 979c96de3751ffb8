"""The record of a factorization in a file: all but its buffers, as JSON, and back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from ..arrays import FLOATS, HOST
from ..codecs.base import decode_config
from ..errors import ArtifactError, FactorqError
from ..forms import from_skeleton

if TYPE_CHECKING:
    from .result import Factorization

_HISTORY = 1000  # objectives kept in a file


def written(F: Factorization) -> dict[str, Any]:
    """The record of F."""
    return {
        "method": dict(F.method_config),
        "form": F.form.skeleton(),
        "dtype": F.home.dtype,
        "shape": list(F.shape),
        "codecs": {name: factor.config() for name, factor in F.encoded.items()},
        "entries": list(F.buffers()),
        "relative_error": _finite(F.relative_error),
        "gram_error": _finite(F.gram_error),
        "status": F.status,
        "history": [_finite(v) for v in F.history[-_HISTORY:]],
    }


def fields(record: Mapping[str, Any], buffers: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    """The fields of the factorization that a record and its buffers describe.

    Raises
    ------
    ArtifactError
        If they do not fit together.
    """
    try:
        configs: Mapping[str, Any] = record["codecs"]
        # The longest role first: "A" must not take the buffers of "A.x".
        left, split = dict(buffers), {}
        for role in sorted(configs, key=len, reverse=True):
            start = f"{role}."
            split[role] = {name.removeprefix(start): left.pop(name) for name in list(left) if name.startswith(start)}
        if left:
            raise ArtifactError(f"buffers {', '.join(left)} belong to no factor")
        leaves = {role: decode_config(configs[role], split[role]) for role in configs}
        form = from_skeleton(record["form"], leaves)
        dtype, shape = record["dtype"], tuple(record["shape"])
        if dtype not in FLOATS or shape != form.shape or set(form.leaves()) != set(leaves):
            raise ArtifactError(f"shape {shape} or dtype {dtype!r} does not fit factors that contract to {form.shape}")
        return {
            "form": form,
            "home": replace(HOST, dtype=dtype),
            "method_config": dict(record["method"]),
            "relative_error": _number(record["relative_error"]),
            "gram_error": None if record["gram_error"] is None else _number(record["gram_error"]),
            "status": str(record["status"]),
            "history": tuple(_number(v) for v in record["history"]),
        }
    except ArtifactError:
        raise
    except (FactorqError, KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ArtifactError(f"malformed description ({type(error).__name__}: {error})") from None


def _finite(value: float | None) -> float | str | None:
    return value if value is None or math.isfinite(value) else str(value)


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ArtifactError(f"{value!r} is no number")
    return float(value)
