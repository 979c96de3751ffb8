"""How messages quote files: one line, short, printable, for a file may be hostile."""

from __future__ import annotations

from ..errors import ArtifactError


def damaged(what: str) -> ArtifactError:
    """The error for a file that cannot be what was written."""
    return ArtifactError(f"damaged or not a safetensors file: {what}; get a new copy of it")


def line(text: object) -> str:
    """``text`` on one line of at most 200 printable characters: messages may quote hostile files."""
    words = " ".join(str(text).split()) or type(text).__name__
    return "".join(c if c.isprintable() else "?" for c in words[:200])


def quote(value: object) -> str:
    """``repr(value)`` in at most 80 characters."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
