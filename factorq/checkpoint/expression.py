"""Methods as text: ``svd(rank=16) + rotated(scalar(bits=3))``."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Any

from ..errors import refuse, refuse_type, within
from ..methods.base import Method, Stacked
from ..named import build, find, settings

_LIMIT = 1000  # characters: deep nesting would exhaust Python's parser
_EXAMPLE = "write it as 'svd(rank=16) + scalar(bits=3)'"


def parse(text: str) -> Method:
    """The method that ``id(setting=value, ...)`` stands for; several are stacked with ``+``.

    Parameters
    ----------
    text : str
        Values are numbers, None, tuples of them, words, with or without quotes, or methods; a single value without a
        name is the first setting. Nothing is executed.

    Raises
    ------
    ArgumentError, ArgumentTypeError
        If the text has another form, or an id or a setting is unknown.

    Examples
    --------
    >>> parse("svd(rank=16, bits=8) + scalar(bits=3, levels=lloyd)").methods[1].levels
    'lloyd'
    """
    if not isinstance(text, str):
        raise refuse_type("method", found=type(text).__name__, allowed="a string", remedy=_EXAMPLE)
    if len(text) > _LIMIT:
        raise refuse("method", found=f"{len(text)} characters", allowed=f"at most {_LIMIT}")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        raise refuse("method", found=repr(text), allowed="id(setting=value, ...)", remedy=_EXAMPLE) from None
    try:
        return _stack(tree, text)
    except RecursionError:
        raise refuse("method", found="methods nested too deep", allowed=_EXAMPLE) from None


def _stack(tree: ast.expr, text: str) -> Method:
    methods = tuple(_method(node, text) for node in _terms(tree))
    return methods[0] if len(methods) == 1 else Stacked(methods)


def _terms(node: ast.expr) -> Iterator[ast.expr]:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        yield from _terms(node.left)
        yield from _terms(node.right)
    else:
        yield node


def _method(node: ast.expr, text: str) -> Method:
    call = ast.Call(node, [], []) if isinstance(node, ast.Name) else node
    nested = isinstance(call, ast.Call) and len(call.args) == 1 and isinstance(call.args[0], ast.Call | ast.BinOp)
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or (call.args and not nested):
        raise refuse("method", found=repr(text), allowed="id(setting=value, ...)", remedy=_EXAMPLE)
    id = call.func.id
    known = [field.name for field in settings(find("methods", id))]
    items = [*(ast.keyword(known[0], node) for node in call.args if known), *call.keywords]
    given = {str(item.arg): _value(item, text) for item in items}
    if len(given) < len(items):
        raise refuse("method", found=repr(text), allowed="each setting once")
    for name in given:
        if name not in known:
            raise refuse(f"method {id!r}", found=f"the setting {name!r}", allowed=", ".join(known))
    with within(f"method {id!r}"):
        method = build("methods", {"id": id, **given})
    if not isinstance(method, Method):
        raise refuse("method", found=repr(id), allowed="the id of a method")
    return method


def _value(item: ast.keyword, text: str) -> Any:
    if all(isinstance(term, ast.Call) for term in _terms(item.value)):
        return _stack(item.value, text)
    if isinstance(item.value, ast.Name):
        return item.value.id
    try:
        return ast.literal_eval(item.value)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        found = f"{item.arg}={ast.unparse(item.value)}"
        raise refuse("method", found=found, allowed="a number, None, a tuple or a word as value") from None
