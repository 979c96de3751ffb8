"""Errors that say what was asked, what was found and what to do.

Every error of factorq is a :class:`FactorqError` and also a ``ValueError`` or a ``TypeError``, so that callers may
catch either family. An outer layer adds the name of what it was working on with :func:`within`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class FactorqError(Exception):
    """Base of all errors of factorq; the message is one line and ends in a remedy where there is one."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    def __str__(self) -> str:
        return self.message


class ArgumentError(FactorqError, ValueError):
    """A value is outside what an argument allows."""


class ArgumentTypeError(FactorqError, TypeError):
    """A value has a type that an argument does not take."""


class ArtifactError(FactorqError, ValueError):
    """A file is not a readable factorq or safetensors file: truncated, corrupted, hostile or of an unknown version."""


class FileAccessError(ArtifactError, OSError):
    """A file cannot be opened, read or written: missing, a directory, not permitted, disk full."""


def refuse(argument: str, *, found: object, allowed: str, remedy: str = "") -> ArgumentError:
    """An :class:`ArgumentError` in the house's words: ``rank: found 0, allowed is an integer of at least 1``."""
    return ArgumentError(_sentence(argument, found, allowed, remedy))


def refuse_type(argument: str, *, found: object, allowed: str, remedy: str = "") -> ArgumentTypeError:
    """The same as :func:`refuse` for a value of the wrong type."""
    return ArgumentTypeError(_sentence(argument, found, allowed, remedy))


def _sentence(argument: str, found: object, allowed: str, remedy: str) -> str:
    text = f"{argument}: found {found}, allowed is {allowed}"
    return f"{text}; {remedy}" if remedy else text


@contextmanager
def within(what: str) -> Iterator[None]:
    """Prefix the message of any factorq error that passes through with ``what`` (a tensor's name, a file, a stage)."""
    try:
        yield
    except FactorqError as error:
        error.message = f"{what}: {error.message}"
        error.args = (error.message,)
        raise


@contextmanager
def affordable(what: str) -> Iterator[None]:
    """Turn want of memory for ``what``, which a file may claim, into an :class:`ArtifactError`."""
    try:
        yield
    except MemoryError:
        raise ArtifactError(f"{what}: more memory than there is") from None
