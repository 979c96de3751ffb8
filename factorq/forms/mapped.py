"""The same tree over other leaves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

from .tree import Form, Leaf


def mapped(form: Form, change: Callable[[Any], Any]) -> Form:
    """The same tree of forms with ``change(factor)`` in place of the factor of every leaf."""
    return rebuilt(form, lambda part: Leaf(change(part.factor)) if isinstance(part, Leaf) else None)


def rebuilt(form: Form, change: Callable[[Form], Form | None]) -> Form:
    """The same tree with ``change(part)`` in place of every part for which that is not None, from the root down."""

    def changed(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(map(changed, value))
        return rebuilt(value, change) if isinstance(value, Form) else value

    new = change(form)
    if new is not None:
        return new
    parts: dict[str, Any] = {field.name: changed(getattr(form, field.name)) for field in fields(form)}  # type: ignore[arg-type]
    return replace(form, **parts)  # type: ignore[type-var]
