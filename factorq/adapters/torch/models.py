"""Models whose layers are factorizations, and the tensors that stand in a file for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ...errors import refuse, within
from ...factorization import Factorization
from .layers import KINDS, Factors, Layer, to_module

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
        Second moments of inputs by layer name, as :func:`accumulate_gram` gives them, passed on as ``gram=``.
    factored, reselect, frozen
        As for :func:`to_module`.

    Returns
    -------
    Module
        ``model``. Layers whose weights are one parameter share their factors.

    Raises
    ------
    ArgumentError
        If a pattern fits no layer, or the model itself is a layer: use :func:`to_module`.
    """
    rules = solve if isinstance(solve, Mapping) else {"*": solve}
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, KINDS) and name}
    for pattern in rules:
        if not any(fnmatchcase(name, pattern) for name in layers):
            raise refuse("solve", found=f"the pattern {pattern!r}", allowed=f"names of layers: {', '.join(layers)}")
    shared: dict[int, Factors] = {}
    for name, layer in layers.items():
        rule = next((rules[p] for p in rules if fnmatchcase(name, p)), None)
        if rule is None:
            continue
        key = id(layer.weight)
        if key not in shared:
            with within(f"layer {name!r}"):
                options = {"gram": grams[name]} if grams and name in grams else {}
                F = rule if isinstance(rule, Factorization) else rule(layer.weight.detach(), **options)
                shared[key] = Factors(F, start=layer.weight, reselect=reselect, frozen=frozen)
        model.set_submodule(name, to_module(shared[key], layer, factored=factored))
    return model


def state_dict(model: nn.Module) -> dict[str, Factorization | Tensor]:
    """The tensors of ``model`` under the names that they have in the dense one, factorizations among them.

    What :func:`factorq.save` takes, and :func:`from_state_dict` reads.

    Parameters
    ----------
    model : Module

    Returns
    -------
    dict
    """
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, Layer)}
    found: dict[str, Factorization | Tensor] = {}
    once: dict[int, Factorization] = {}
    for key, x in model.state_dict().items():
        owner = next((name for name in layers if key.startswith(f"{name}.factors." if name else "factors.")), None)
        if owner is None:
            found[key] = x.detach()
            continue
        factors = layers[owner].factors
        once[id(factors)] = once.get(id(factors)) or factors.factorization()
        found[f"{owner}.weight".removeprefix(".")] = once[id(factors)]
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
        As :func:`factorq.load` gives them, under the names of the dense model.
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
    found = {name.rpartition(".")[0]: F for name, F in tensors.items() if isinstance(F, Factorization)}
    shared: dict[int, Factors] = {}
    for name, F in found.items():
        layer = dict(model.named_modules()).get(name)
        if not isinstance(layer, (*KINDS, Layer)) or f"{name}.weight" not in tensors:
            raise refuse("tensors", found=f"a factorization for {name!r}", allowed="weights of layers of the model")
        key = id(layer.factors) if isinstance(layer, Layer) else id(layer.weight)
        shared[key] = shared.get(key) or Factors(F, frozen=frozen)
        with within(f"layer {name!r}"):
            model.set_submodule(name, to_module(shared[key], layer, factored=factored))
    plain = {name: torch.as_tensor(np.array(x)) for name, x in tensors.items() if not isinstance(x, Factorization)}
    missing, unknown = model.load_state_dict(plain, strict=False)
    missing = [name for name in missing if ".factors." not in name]
    if missing or unknown:
        what = f"no {missing[0]}" if missing else f"{unknown[0]}, which the model does not have"
        raise refuse("tensors", found=what, allowed="all tensors of the model")
    return model
