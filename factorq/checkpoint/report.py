"""What was done to each tensor of a checkpoint, and the sum of it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_SHOWN = (
    "rank", "bits", "sparsity", "codes", "group", "levels", "step", "states", "model", "dim", "codewords", "stages",
    "fixed_rate", "rotate", "fold",
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One tensor.

    Attributes
    ----------
    name, shape, dtype : str, tuple of int, str
        The tensor; the dtype as safetensors spells it.
    method : str
        What made the stored factors; empty if the tensor is stored as it is.
    note : str
        Why it is stored as it is.
    nbytes : int
        Stored bytes.
    relative_error : float or None
        ``||W - F|| / ||W||``; None if the tensor is stored as it is.
    norm : float or None
        ``||W||``, where it was measured.
    seconds : float or None
        Time that the tensor took.
    failure : str
        What a verification found wrong.
    config : mapping or None
        The whole configuration of the method.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    nbytes: int
    method: str = ""
    note: str = ""
    relative_error: float | None = None
    norm: float | None = None
    seconds: float | None = None
    failure: str = ""
    config: Mapping[str, Any] | None = None

    @property
    def size(self) -> int:
        """Number of weights."""
        return math.prod(self.shape)

    @property
    def bits_per_weight(self) -> float | None:
        """``8 * nbytes / size``; None for an empty tensor."""
        return 8 * self.nbytes / self.size if self.size else None

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values."""
        fields = dataclasses.asdict(self) | {"shape": list(self.shape), "bits_per_weight": self.bits_per_weight}
        fields["relative_error"] = _finite(self.relative_error)
        return {key: value for key, value in fields.items() if value not in (None, "")}


@dataclass(frozen=True)
class Report:
    """All tensors of a checkpoint, in its order.

    Attributes
    ----------
    path : Path
        The compressed file or index.
    file_nbytes, original_nbytes : int, int or None
        Bytes of the compressed files, headers included, and of the original ones, where they were looked at.
    seconds : float or None
        Time that all took.
    """

    path: Path
    rows: tuple[Row, ...]
    file_nbytes: int
    original_nbytes: int | None = None
    seconds: float | None = None

    @property
    def bits_per_weight(self) -> float | None:
        """Stored bits of all tensors over all weights."""
        size = sum(row.size for row in self.rows)
        return 8 * sum(row.nbytes for row in self.rows) / size if size else None

    @property
    def factored_bits_per_weight(self) -> float | None:
        """Stored bits of the factored tensors over their weights: what a target size is about."""
        factored = [row for row in self.rows if row.method]
        size = sum(row.size for row in factored)
        return 8 * sum(row.nbytes for row in factored) / size if size else None

    @property
    def relative_error(self) -> float | None:
        """``sqrt(sum ||W - F||^2 / sum ||W||^2)`` over the factored tensors, where their norms were measured."""
        known = [(row.relative_error, row.norm) for row in self.rows if row.relative_error is not None]
        pairs = [(error, norm) for error, norm in known if norm is not None]
        if not pairs or len(pairs) < len(known):
            return None
        whole = math.hypot(*(norm for _, norm in pairs))
        lost = math.hypot(*(error * norm for error, norm in pairs))
        return lost / whole if whole > 0 else 0.0

    @property
    def failures(self) -> tuple[Row, ...]:
        """The tensors in which a verification found something wrong."""
        return tuple(row for row in self.rows if row.failure)

    def to_json(self) -> dict[str, Any]:
        """The report as JSON values."""
        totals = {
            "path": str(self.path),
            "file_nbytes": self.file_nbytes,
            "original_nbytes": self.original_nbytes,
            "bits_per_weight": self.bits_per_weight,
            "factored_bits_per_weight": self.factored_bits_per_weight,
            "relative_error": _finite(self.relative_error),
            "seconds": self.seconds,
        }
        return {k: v for k, v in totals.items() if v is not None} | {"tensors": [row.to_json() for row in self.rows]}


def describe(config: Mapping[str, Any]) -> str:
    """A method's configuration in a few words, without the method's class (readers need no solvers)."""
    methods = config.get("methods")
    if isinstance(methods, list | tuple):
        return " + ".join(describe(method) for method in methods if isinstance(method, Mapping))
    if isinstance(inner := config.get("method"), Mapping):
        axes = ", axes=both" if config.get("axes") == "both" else ""
        return f"{config.get('id')}({describe(inner)}{axes})"
    shown = {name: config[name] for name in _SHOWN if not _usual(config.get(name))}
    return f"{config.get('id')}({', '.join(f'{name}={_plain(value)}' for name, value in shown.items())})"


def _usual(value: Any) -> bool:
    """Whether a setting goes without saying."""
    return value is None or value is False or value in ("auto", "grid")  # a sparsity of 0 is no False


def _plain(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"({', '.join(map(_plain, value))})"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _finite(value: float | None) -> float | str | None:
    return value if value is None or math.isfinite(value) else str(value)
