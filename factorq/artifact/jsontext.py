"""JSON texts both ways: written in one way only, read strictly and within a budget of memory."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import Any

from ..errors import refuse, refuse_type
from .words import damaged, line

_DEPTH = 64  # levels of JSON nesting in a record


def canonical(obj: object) -> bytes:
    """The one JSON text of ``obj``: sorted keys, no spaces, ASCII, no NaN."""
    return json.dumps(obj, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def dump(argument: str, obj: object, indent: int | None = None) -> str:
    """``obj`` as canonical or indented JSON; an error names it ``argument``."""
    try:
        if indent is None:
            return canonical(obj).decode()
        return json.dumps(obj, sort_keys=True, allow_nan=False, indent=indent)
    except TypeError as error:
        raise refuse_type(argument, found=line(error), allowed="JSON values under string keys") from None
    except (ValueError, RecursionError) as error:
        raise refuse(argument, found=line(error), allowed="finite numbers, without cycles or deep nesting") from None


def afford(text: bytes, budget: int) -> int:
    """What is left of ``budget`` bytes after parsing ``text``, judged by an upper bound before anything is built."""
    # Worst bytes per token, measured with tracemalloc over hostile texts: see test_parse_cost_is_an_upper_bound.
    marks = 80 * text.count(b"[") + 96 * text.count(b"{") + 128 * text.count(b",") + 176 * text.count(b":")
    width = 4 if text.isascii() and b"\\u" not in text else 12  # a character may take 4 bytes, its escape 12
    left = budget - marks - width * len(text)
    if left < 0:
        raise damaged(f"parsing its header of {len(text)} bytes could take {budget - left} bytes of memory")
    return left


def parse(raw: bytes, what: str) -> dict[str, Any]:
    """The table in the JSON text ``raw``: no key twice, finite numbers within 64 bits, bounded nesting."""
    try:
        value = json.loads(
            raw.decode(), object_pairs_hook=_table, parse_constant=_number, parse_float=_number, parse_int=_number
        )
        if not isinstance(value, dict):
            raise ValueError(f"a table is needed, not a {type(value).__name__}")
        _check_depth(value)
    except (ValueError, RecursionError) as error:
        raise damaged(f"its {what} is not valid JSON ({line(error)})") from None
    return value


def _table(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a key stands twice in one table")
    return table


def _number(text: str) -> int | float:
    number = int(text) if text.lstrip("-").isdigit() else float(text)
    if not abs(number) < 2**64 and (isinstance(number, int) or not math.isfinite(number)):
        raise ValueError("a number is not finite or beyond 64 bits")
    return number


def _check_depth(value: object) -> None:
    level = [value]
    for _ in range(_DEPTH):
        level = [child for node in level for child in _children(node)]
        if not level:
            return
    raise ValueError(f"nested deeper than {_DEPTH} levels")


def _children(node: object) -> Iterable[object]:
    if isinstance(node, dict):
        return node.values()
    return node if isinstance(node, list) else ()
