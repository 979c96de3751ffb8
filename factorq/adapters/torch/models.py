"""Models whose layers are factorizations, and the tensors that stand in a file for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ...arrays import FLOATS, Home, dtype_name, to_host
from ...errors import refuse, refuse_type, within
from ...factorization import Factorization
from .layers import Factors, Layer, replaceable, to_module

Solve = Callable[..., Factorization] | Factorization | None


def compress(
    model: nn.Module,
    solve: Solve | Mapping[str, Solve],
    *,
    grams: Mapping[str, NDArray[Any]] | None = None,
    factored: bool | None = None,
    reselect: bool = False,
    frozen: bool = False,
) -> nn.Module:
    """``model``, its linear, embedding and convolutional layers replaced in place by what ``solve`` makes of them.

    Parameters
    ----------
    model : Module
    solve : callable, or mapping from str to callable
        ``solve(weight)`` gives a Factorization: a method such as ``fq.SVD(8)``, ``partial(fq.decompose, bits=2)``, or a
        Factorization itself. Of a mapping from patterns of layer names (``"layer1.*"``), the first that fits decides;
        layers without one, or with None, stay.
    grams : mapping from str to NDArray, optional
        Second moments of inputs by layer name, as :func:`accumulate_gram` gives them, passed on as ``gram=`` unless the
        method has no use for one; of tied weights their mean.
    factored, reselect, frozen
        As for :func:`to_module`.

    Returns
    -------
    Module
        ``model``. Layers whose weights are one parameter share their factors: the first that a pattern fits decides for
        all of them. Subclasses of PyTorch's layers with a forward of their own stay.

    Raises
    ------
    ArgumentError
        If a pattern or a name in ``grams`` fits no layer, or the model itself is a layer: use :func:`to_module`. What
        ``solve`` raises names the layer; those before it are replaced by then.
    ArgumentTypeError
        If ``solve`` is none of the above.
    """
    rules = solve if isinstance(solve, Mapping) else {"*": solve}
    named = [(name, layer) for name, layer in _modules(model) if replaceable(layer) and name]
    names = [name for name, _ in named]
    if not names:
        raise refuse("model", found="no layers that can be replaced", allowed="linear, embedding or convolutional ones")
    for pattern, rule in rules.items():
        if not any(fnmatchcase(name, pattern) for name in names):
            remedy = "give names of layers, without .weight" if pattern.endswith("weight") else ""
            allowed = f"names of layers: {', '.join(names)}"
            raise refuse("solve", found=f"the pattern {pattern!r}", allowed=allowed, remedy=remedy)
        if not (rule is None or callable(rule) or isinstance(rule, Factorization)):
            allowed = "a method, a function of a weight, a Factorization or None, or a mapping from patterns to these"
            raise refuse_type("solve", found=repr(rule), allowed=allowed, remedy="partial(fq.decompose, bits=2)")
    for name in grams or ():
        if name not in names:
            raise refuse("grams", found=f"one of {name!r}", allowed=f"names of layers: {', '.join(names)}")
    done: set[str] = set()
    for name, layer in named:
        rule = next((rules[p] for p in rules if fnmatchcase(name, p)), None)
        if rule is None or name in done:
            continue
        weight = layer.weight
        tied = {other: x for other, x in named if x is layer or x.weight is weight}
        takes = getattr(rule, "takes_gram", True)  # a method that has no use for one goes without
        own = [grams[other] for other in tied if grams and takes and other in grams]
        made: dict[nn.Module, Layer] = {}
        with within(f"layer {name!r}"):
            F = (
                rule
                if isinstance(rule, Factorization)
                else rule(weight.detach(), **({"gram": sum(own) / len(own)} if own else {}))
            )
            factors = Factors(F, start=weight, reselect=reselect, frozen=frozen)
            for other in tied.values():
                made[other] = made.get(other) or to_module(factors, other, factored=factored)
        for other, x in tied.items():
            model.set_submodule(other, made[x])
        done |= tied.keys()
    return model


def state_dict(model: nn.Module) -> dict[str, Factorization | Tensor]:
    """The tensors of ``model`` under the names that they have in the dense one, factorizations among them.

    What :func:`factorq.save` takes, and :func:`from_state_dict` reads. Factors that layers share come once, under the
    first name.

    Parameters
    ----------
    model : Module

    Returns
    -------
    dict
    """
    layers = {name: layer for name, layer in _modules(model) if isinstance(layer, Layer)}
    inside = tuple(f"{name}.factors.".removeprefix(".") for name in layers)
    found: dict[str, Factorization | Tensor] = {
        key: x.detach() for key, x in model.state_dict().items() if not key.startswith(inside)
    }
    for factors in dict.fromkeys(layer.factors for layer in layers.values()):
        name = next(name for name, layer in layers.items() if layer.factors is factors)
        found[f"{name}.weight".removeprefix(".")] = factors.factorization()
    return found


def from_state_dict(
    model: nn.Module, tensors: Mapping[str, Any], *, factored: bool | None = None, frozen: bool = False
) -> nn.Module:
    """``model`` with ``tensors`` in it: layers are replaced in place where there is a factorization.

    Parameters
    ----------
    model : Module
        Dense, or compressed before.
    tensors : mapping from str to Factorization, Tensor or NDArray
        As :func:`factorq.load` gives them, under the names of the dense model; what layers share may come once.
    factored, frozen
        As for :func:`to_module`.

    Returns
    -------
    Module
        ``model``.

    Raises
    ------
    ArgumentError
        If names or shapes do not fit the model; it may have been changed in part.
    """
    named = dict(_modules(model))
    found = {name.rpartition(".")[0]: F for name, F in tensors.items() if isinstance(F, Factorization)}
    for name in found:
        if (
            not (replaceable(named.get(name)) or isinstance(named.get(name), Layer))
            or f"{name}.weight".removeprefix(".") not in tensors
        ):
            raise refuse("tensors", found=f"a factorization for {name!r}", allowed="weights of layers of the model")
    owner = {name: _numbers(layer) for name, layer in named.items() if replaceable(layer) or isinstance(layer, Layer)}
    replaced: dict[nn.Module, Layer] = {}
    for name, F in found.items():
        with within(f"layer {name!r}"):
            factors = Factors(F, frozen=frozen)
            for other, numbers in owner.items():  # all layers that are tied to it
                if numbers is owner[name] and named[other] not in replaced:
                    replaced[named[other]] = to_module(factors, named[other], factored=factored)
    for name, layer in named.items():
        if layer in replaced:
            model.set_submodule(name, replaced[layer])
    plain = {name: _tensor(x) for name, x in tensors.items() if not isinstance(x, Factorization)}
    missing, unknown = model.load_state_dict(plain, strict=False)
    done = tuple(f"{name}.factors." for name, layer in named.items() if layer in replaced)
    missing = [name.replace(".factors.origin", ".weight") for name in missing if not name.startswith(done)]
    missing.sort(key=lambda name: ".factors." in name)
    if missing or unknown:
        what = f"no {missing[0]}" if missing else f"{unknown[0]}, which the model does not have"
        raise refuse("tensors", found=what, allowed="all tensors of the model")
    return model


def _modules(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """All modules by name, those that have several under each."""
    yield from model.named_modules(remove_duplicate=False)


def _numbers(layer: Any) -> Any:
    """What tied layers have in common."""
    return layer.factors if isinstance(layer, Layer) else layer.weight


def _tensor(x: Any) -> Tensor:
    if isinstance(x, Tensor):
        return x
    if dtype_name(x) in FLOATS:
        return Home.of(torch.empty(0)).with_dtype(dtype_name(x)).place(to_host(x))
    return torch.as_tensor(np.array(x))
