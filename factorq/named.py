"""Objects that know their id and their configuration: id -> class, ``config()`` <-> ``from_config()``, entry points.

A class that derives from :class:`Named` and sets ``kind`` and ``id`` registers itself; its dataclass fields are its
configuration, so equality, repr, JSON and lookup come free. Packages outside factorq register with an entry point
in the group ``factorq.<kind>`` whose name is the id.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, ClassVar, Self

import numpy as np

from .errors import ArgumentError, FactorqError

_CLASSES: dict[tuple[str, str], type[Named]] = {}
_BUILT_IN = ("codecs", "constraints", "methods")


class Named:
    """Base of everything that a file or a command line refers to by id."""

    kind: ClassVar[str] = ""
    id: ClassVar[str] = ""

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        if "id" in cls.__dict__ and not inspect.isabstract(cls):
            _CLASSES[cls.kind, cls.id] = cls

    def config(self) -> dict[str, Any]:
        """The id and the fields as JSON values; arrays (fields marked as buffers) are not part of it."""
        fields = {f.name: to_json(getattr(self, f.name)) for f in settings(type(self))}
        return {"id": self.id, **fields}

    @classmethod
    def from_config(cls, config: Mapping[str, Any], **extra: Any) -> Self:
        """The object whose :meth:`config` is ``config``; ``extra`` gives the fields that a configuration leaves out."""
        known = {f.name: f for f in settings(cls)}
        unknown = sorted(set(config) - set(known) - {"id"})
        if unknown:
            raise ArgumentError(f"{cls.id}: unknown settings {', '.join(unknown)}; known are {', '.join(known)}")
        values = {name: from_json(cls.kind, value) for name, value in config.items() if name != "id"}
        try:
            return cls(**values, **extra)
        except FactorqError:
            raise
        except (TypeError, ValueError, OverflowError) as error:
            raise ArgumentError(f"{cls.id}: {error}") from None


def settle(named: Named) -> None:
    """Turn NumPy scalars among the settings of a frozen object into Python numbers, which JSON knows."""
    for field in settings(type(named)):
        value = getattr(named, field.name)
        plain = tuple(map(_plain, value)) if isinstance(value, tuple) else _plain(value)
        object.__setattr__(named, field.name, plain)


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def settings(cls: type[Any]) -> list[dataclasses.Field[Any]]:
    """The dataclass fields of ``cls`` that make up its configuration."""
    return [f for f in dataclasses.fields(cls) if f.init and not f.metadata.get("buffer")]


def to_json(value: Any) -> Any:
    """``value`` as JSON: tuples become lists, named objects their configuration."""
    if isinstance(value, Named):
        return value.config()
    if isinstance(value, tuple | list):
        return [to_json(v) for v in value]
    return value


def from_json(kind: str, value: Any) -> Any:
    """The inverse of :func:`to_json`, for a named object of ``kind``."""
    if isinstance(value, Mapping) and "id" in value:
        return build(kind, value)
    if isinstance(value, list):
        return tuple(from_json(kind, v) for v in value)
    return value


def known(kind: str) -> list[str]:
    """The ids of ``kind`` that can be had here, built in or from entry points, sorted."""
    _load_built_in(kind)
    return sorted({i for k, i in _CLASSES if k == kind} | {e.name for e in entry_points(group=f"factorq.{kind}")})


def find(kind: str, id: object) -> type[Named]:
    """The class of ``kind`` whose id is ``id``.

    Raises
    ------
    ArgumentError
        If there is none; the message names the nearest known ids.
    """
    _load_built_in(kind)
    if isinstance(id, str) and (kind, id) in _CLASSES:
        return _CLASSES[kind, id]
    for entry in entry_points(group=f"factorq.{kind}", name=str(id)):
        loaded: type[Named] = entry.load()
        return loaded
    ids = known(kind)
    near = difflib.get_close_matches(str(id), ids, n=3, cutoff=0.4)
    hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
    raise ArgumentError(f"{kind.removesuffix('s')}: found unknown id {id!r}, available are {', '.join(ids)}{hint}")


def build(kind: str, config: Mapping[str, Any], **extra: Any) -> Any:
    """The object of ``kind`` that ``config`` describes."""
    return find(kind, config.get("id")).from_config(config, **extra)


def _load_built_in(kind: str) -> None:
    if kind in _BUILT_IN:
        import_module(f"{__package__}.{kind}")
