"""A stored size as the target: candidates of a method, the best of those that fit."""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np

from ..arrays import Array
from ..errors import ArgumentError, refuse
from ..factorization import Factorization
from ..methods import Method
from ..methods.base import Stacked, Weight, check_takes, run, weighed
from ..methods.base.checks import check_gram
from .plan import Plan

Options = dict[str, Any]

_WINDOW = 0.98  # a target size is met between this share of it and all of it
_NEAR = 0.85  # share of the target that a cheap run of a candidate should store to stay in the race
_CODED = (1.04, 1.08, 1.12)  # packed sizes, in targets, that entropy coding may bring under the target
_SPARSE = (1.06, 1.12, 1.2, 1.3, 1.45)  # the same where a given sparsity may leave masks of few nonzeros
_FINALISTS = 2  # candidates that are solved in full
_CORRECTIONS = 4  # times that a size which depends on the values is aimed at again
_UNWEIGHTED = "solved without the gram, with which nothing better was found"


def at_size(plan: Plan, W: Array, target: float, rng: np.random.Generator, options: Options) -> Factorization:
    """The solution of least error among those that store within 2 % under ``target`` bits per weight.

    A gram may ask for a fold that costs more than the gram gains: solutions without it are compared under it as well.
    """
    weight, gram = Weight.of(W), options["gram"]
    if gram is None:
        return _chosen(_solved(plan, placed(plan, weight, target, False), weight, target, rng, options), plan, target)
    check_takes(plan.draft or plan.method, gram)
    moment = check_gram(gram, math.prod(plan.shape[1:]))
    with_gram, without = (placed(plan, weight, target, given) for given in (True, False))
    found: list[Factorization] = []
    refusal: ArgumentError | None = None
    try:
        found += _solved(plan, with_gram, weight, target, rng, options)
    except ArgumentError as error:
        if with_gram[0] == without[0] or error.message.startswith("gram"):  # no gram for what was asked
            raise
        refusal = error
    if with_gram[0] != without[0]:
        try:
            plain = _solved(plan, without, weight, target, rng, options | {"gram": None, "callback": None})
        except ArgumentError as error:
            if not found:
                raise (refusal or error) from None
            plain = []
        found += [replace(weighed(F, weight, moment), status=f"{F.status}; {_UNWEIGHTED}") for F in plain]
    return _chosen(found, plan, target)


def _solved(
    plan: Plan, placing: tuple[Method, str], weight: Weight, target: float, rng: np.random.Generator, options: Options
) -> list[Factorization]:
    """Solutions near ``target`` by the most promising versions of a method, which cheap runs of all of them find."""
    draft, why = placing

    def solved(method: Method) -> Factorization:
        F = run(method, weight, rng=deepcopy(rng), **options)
        return replace(F, status=f"{F.status}; {why}") if why else F

    sized = list(draft.resized(plan.shape, plan.dtype, target, plan.free))
    entropy = "entropy" in {options["store"] or m.store for m in (sized or [draft])}
    more = _CODED if "sparsity" in plan.free else _SPARSE
    aims = more if entropy and not (sized and all(m.fills for m in sized)) else ()
    sized += [m for aim in aims for m in draft.resized(plan.shape, plan.dtype, aim * target, plan.free)]
    candidates = list(dict.fromkeys(sized))
    others: list[Method] = []
    if len(candidates) > _FINALISTS:
        quick = options | {"callback": None}
        tried = [(run(m.cheaper(), weight, rng=deepcopy(rng), **quick), m) for m in candidates]
        most = target if aims else math.inf  # what coding does not bring under the target is out
        near = [(F, m) for F, m in tried if _NEAR * target <= F.bits_per_weight <= most] or tried
        if "sparsity" not in plan.free:  # nothing can be corrected: those that meet the size come first
            near = [(F, m) for F, m in near if _WINDOW * target <= F.bits_per_weight <= target] or near
        candidates = [m for _, m in sorted(near, key=lambda pair: _loss(pair[0]))[:_FINALISTS]]
        smaller = [(F, m) for F, m in tried if F.bits_per_weight < target and m not in candidates]
        others = [m for _, m in sorted(smaller, key=lambda pair: -pair[0].bits_per_weight)[:_FINALISTS]]
    found = [F for method in candidates for F in _corrected(method, plan, target, solved)]
    if not any(F.bits_per_weight <= target for F in found):  # solved in full they take a little more than before
        found += [solved(method) for method in others]
    return found


def _chosen(found: list[Factorization], plan: Plan, target: float) -> Factorization:
    """The best of those that meet ``target``, or else the largest one under it."""
    under = [F for F in found if F.bits_per_weight <= target]
    inside = [F for F in under if F.bits_per_weight >= _WINDOW * target]
    if inside:
        return min(inside, key=_loss)
    if not under:
        least = min((F.bits_per_weight for F in found), default=None)
        asked = f"{target:g} for a {'x'.join(map(str, plan.shape))} array by {plan.method.id}"
        allowed = "a size that its settings can reach" + (f", from {least:.4g} bits per weight" if least else "")
        raise refuse("bits_per_weight", found=asked, allowed=allowed)
    best = max(under, key=lambda F: F.bits_per_weight)
    note = f"the nearest size under {target:g} that {plan.method.id} can store here is {best.bits_per_weight:.4g}"
    return replace(best, status=f"{best.status}; {note}")


def placed(plan: Plan, W: Array | Weight, target: float, gram: bool) -> tuple[Method, str]:
    """The method whose versions are tried, with what W itself decides, and why."""
    weight, method = Weight.of(W), plan.draft or plan.method
    if type(method).placed is Method.placed:  # W is not looked at: it may stay on a GPU
        return method, ""
    return method.placed(weight.host.astype(weight.compute, copy=False), target, plan.free, gram)


def _corrected(
    method: Method, plan: Plan, target: float, solved: Callable[[Method], Factorization]
) -> list[Factorization]:
    """Solutions at ``target``, aimed at again where the stored size depends on the values and missed."""
    found: list[Factorization] = []
    aim = target
    for _ in range(_CORRECTIONS):
        F = solved(method)
        found.append(F)
        exact = F.nbytes == method.nbytes(plan.shape, plan.dtype) and F.bits_per_weight <= target
        if exact or _WINDOW * target <= F.bits_per_weight <= target or not F.nbytes:
            break
        aim *= 0.99 * target / F.bits_per_weight
        again = [m for m in method.resized(plan.shape, plan.dtype, aim, plan.free) if _alike(m, method)]
        if not again:
            break
        method = again[0]
    return found


def _alike(a: Method, b: Method) -> bool:
    """Whether two versions of a method differ only in what may be tuned again, or in the bits that their codes fill."""
    if isinstance(a, Stacked) and isinstance(b, Stacked):
        return a.methods[:-1] == b.methods[:-1] and _alike(a.methods[-1], b.methods[-1])
    free = dict.fromkeys(a.retuned | b.retuned | ({"bits"} if a.fills and b.fills else set()), 0)
    return {**a.config(), **free} == {**b.config(), **free}


def _loss(F: Factorization) -> float:
    return F.relative_error if F.gram_error is None else F.gram_error
