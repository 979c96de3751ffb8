"""The front door: keywords -> method -> factorization, and why this method."""

from __future__ import annotations

import math
from dataclasses import MISSING, replace
from typing import Any

import numpy as np

from ..arrays import FLOATS, Array, Home, check_weight, dtype_name, generator, is_array
from ..constraints import check_bits, check_sparsity
from ..errors import refuse, refuse_type
from ..factorization import Factorization
from ..methods import CP, SVD, Method, QuantizedSparse, Scalar, SparsePCA, Trellis
from ..methods.base import Weight, check_store, check_takes, run
from ..methods.base.checks import check_rank
from ..named import find, known, settings
from ..solvers.loop import Callback
from .plan import Plan
from .size import at_size, placed

__all__ = ["Plan", "decompose", "explain"]

Bits = float | tuple[int, ...] | None
_EXAMPLES = "decompose(W, bits=4), decompose(W, rank=64, bits=4) or decompose(W, rank=64, bits=4, sparsity=0.5)"


def decompose(
    W: Array,
    rank: int | None = None,
    bits: Bits = None,
    sparsity: float | None = None,
    *,
    method: Method | str | None = None,
    bits_per_weight: float | None = None,
    gram: Array | None = None,
    store: str | None = None,
    rng: np.random.Generator | int | None = None,
    callback: Callback | None = None,
) -> Factorization:
    """``W ~ F``: an array as small, quantized, sparse factors.

    Parameters
    ----------
    W : array, ndim >= 2, float16, bfloat16, float32 or float64, finite
        The weights, of any array library; never changed.
    rank : int, optional
        Inner dimension of the factors, at least 1.
    bits : float, int or tuple of int, optional
        Alone, the stored bits per weight, any number from 0.3 to 16. With a rank or a sparsity, or for another method
        than the trellis, bits per stored value, 1 to 16, or one number per factor; None keeps W's precision.
    sparsity : float, optional
        Share of zeros in the sparse factor, 0 <= sparsity < 1.
    method : Method or str, optional
        The method, or its id; by default the arguments choose it (see :func:`explain`).
    bits_per_weight : float, optional
        Target for the stored size: the settings that were not given are searched to land within 2 % under it; of a
        method object, its rank and sparsity are. Not together with ``bits``.
    gram : array (n, n), optional
        Second moment of the layer's inputs, n = prod(shape[1:]); the error is then ``trace((W-F) gram (W-F)^T)``.
    store : "packed", "entropy" or "xor", optional
        How codes are written, without changing what they stand for: side by side; entropy-coded wherever that takes
        fewer bytes; or, of kept weights under a mask, as the stream of an XOR network (:mod:`factorq.codecs.xor`),
        which takes some tenths of a percent more and is decoded at a fixed rate. Side by side by default, except for
        the integers and masks of :class:`factorq.QuantizedSparse`.
    rng : Generator or int, optional
        Randomness of the solvers; None means seed 0, so that equal calls give equal bytes.
    callback : callable, optional
        Called with a progress of ``step``, ``steps`` and ``objective`` by iterative methods.

    Returns
    -------
    Factorization
        The stored factors, their size and their error.

    Raises
    ------
    ArgumentError, ArgumentTypeError
        If an argument is outside what it allows; both name the argument, what was found and what to do.

    Examples
    --------
    >>> import numpy as np, factorq as fq
    >>> W = np.random.default_rng(0).standard_normal((64, 256)).astype("float32")
    >>> F = fq.decompose(W, bits=4)
    >>> round(F.bits_per_weight, 2), round(F.relative_error, 3)
    (4.0, 0.067)
    >>> np.allclose(F @ np.ones(256, "float32"), F.to_dense() @ np.ones(256, "float32"), atol=1e-4)
    True
    """
    plan = _plan(W, rank, bits, sparsity, method, bits_per_weight, store)
    options: dict[str, Any] = {"gram": gram, "store": store, "callback": callback}
    if bits_per_weight is None:
        return run(plan.method, W, rng=rng, **options)
    return at_size(plan, W, float(bits_per_weight), generator(rng), options)


def explain(
    W: Array,
    rank: int | None = None,
    bits: Bits = None,
    sparsity: float | None = None,
    *,
    method: Method | str | None = None,
    bits_per_weight: float | None = None,
    gram: Array | None = None,
    store: str | None = None,
    rng: np.random.Generator | int | None = None,
    callback: Callback | None = None,
) -> Plan:
    """What :func:`decompose` would do with these arguments, and why; at most a few sweeps are tried.

    Parameters
    ----------
    W : array, or tuple of int
        The weights, or only their shape (float32 is then assumed).
    rank, bits, sparsity, method, bits_per_weight
        As for :func:`decompose`.
    gram, store, rng, callback
        Taken so that a call of :func:`decompose` can be asked as it is; a gram may decide how an array is folded.

    Returns
    -------
    Plan
        The method, the reason and the predicted size.

    Raises
    ------
    ArgumentError, ArgumentTypeError
        As :func:`decompose` does.

    Examples
    --------
    >>> import factorq as fq
    >>> print(fq.explain((64, 256), bits=4).method)
    Trellis(bits=4)
    """
    plan = _plan(W, rank, bits, sparsity, method, bits_per_weight, store)
    check_takes(plan.method, gram)
    if isinstance(W, tuple):
        outlook = plan.method.outlook(plan.shape, plan.dtype)
        return replace(plan, reason=f"{plan.reason}; {outlook}") if outlook else plan
    weight = Weight.of(W)
    host = weight.host.astype(weight.compute, copy=False)
    if bits_per_weight is not None or gram is not None:
        draft, why = placed(
            plan, weight, math.inf if bits_per_weight is None else float(bits_per_weight), gram is not None
        )
        if why or draft != (plan.draft or plan.method):
            sized = draft if bits_per_weight is None else _first(draft, plan, float(bits_per_weight))
            reasons = (plan.reason, sized.remarks(host, plan.dtype), why)
            return replace(plan, method=sized, reason="; ".join(filter(None, reasons)))
    remark = plan.method.remarks(host, plan.dtype)
    return replace(plan, reason=f"{plan.reason}; {remark}") if remark else plan


def _first(draft: Method, plan: Plan, bits_per_weight: float) -> Method:
    """The first version that is tried for a size."""
    return next(iter(draft.resized(plan.shape, plan.dtype, bits_per_weight, plan.free)), draft)


def _plan(
    W: Array,
    rank: int | None,
    bits: Bits,
    sparsity: float | None,
    method: Method | str | None,
    bits_per_weight: float | None,
    store: str | None,
) -> Plan:
    shape, dtype = _shape_of(W)
    keywords: dict[str, Any] = {"rank": rank, "bits": bits, "sparsity": sparsity}
    given = {name: value for name, value in keywords.items() if value is not None}
    free = frozenset(keywords) - frozenset(given)
    _check_keywords(given, method)
    _check_target(bits_per_weight, given)
    check_store(store)
    if isinstance(method, Method):
        if given:
            remedy = f"set them on the method, for example {type(method).__name__}(...)"
            raise refuse(
                "method", found=f"an object together with {', '.join(given)}", allowed="one or the other", remedy=remedy
            )
        chosen, reason = method, "the given method"
        free = frozenset({"rank", "sparsity"})
    elif method is not None:
        chosen, reason = _by_id(method, given, bits_per_weight is not None), f"the method with id {method!r}"
        free |= {"codes"} if store != "packed" else set()
    else:
        chosen, reason = _by_keywords(shape, given, bits_per_weight is not None)
    chosen.check(shape)
    if store == "entropy":
        reason += ", its codes entropy-coded where that takes fewer bytes"
    if store == "xor":
        reason += ", the codes under masks XOR-coded"
    if bits_per_weight is not None:
        full = 8 * FLOATS[dtype].itemsize
        if bits_per_weight >= full:
            remedy = "keep the array as it is"
            raise refuse("bits_per_weight", found=bits_per_weight, allowed=f"below W's own {full}", remedy=remedy)
        reason += f", aimed at {bits_per_weight:g} stored bits per weight (the first of the candidates that are solved)"
        sized = next(iter(chosen.resized(shape, dtype, float(bits_per_weight), free)), chosen)
        return Plan(sized, reason, shape, dtype, chosen, free, store)
    return Plan(chosen, reason, shape, dtype, store=store)


def _by_keywords(shape: tuple[int, ...], given: dict[str, Any], sized: bool) -> tuple[Method, str]:
    """The table of the front door: which keywords were given decides."""
    matrix = len(shape) == 2
    match tuple(given):
        case ("rank",) | ("rank", "bits") if matrix:
            return SVD(**given), "rank of a matrix: the SVD is the best approximation of its rank"
        case ("rank",) | ("rank", "bits"):
            return CP(**given), "rank of a tensor: a sum of outer products, one factor for each mode"
        case ("rank", "sparsity") if matrix and not sized:
            return SparsePCA(**given), "rank and sparsity of a matrix: dense scores times sparse components"
        case ("rank", "sparsity"):
            return QuantizedSparse(
                bits=None, **given
            ), "rank and sparsity of a tensor, or with a size: a sparse factor of the folded array"
        case ("rank", "bits", "sparsity"):
            return QuantizedSparse(**given), "rank, bits and sparsity: a dense codebook times a sparse latent matrix"
        case ("bits",):
            return Trellis(**given), "bits alone: the least error for the stored bits, entropy coded"
        case ("bits", "sparsity"):
            return Scalar(**given), "bits and sparsity: a mask and a grid for the kept weights"
        case ("sparsity",):
            return Scalar(**given), "sparsity alone: the largest weights in their own precision"
        case () if sized:
            return Trellis(**Trellis.drafts), "a size alone: the least error for the stored bits, entropy coded"
        case _:
            raise refuse_type("decompose", found="an array and nothing to do", allowed="a call such as " + _EXAMPLES)


def _by_id(method: object, given: dict[str, Any], sized: bool) -> Method:
    """The method with an id, its settings from the keywords; those that a size decides may be left out."""
    if not isinstance(method, str):
        allowed = f"a Method or one of {', '.join(known('methods'))}"
        raise refuse_type("method", found=type(method).__name__, allowed=allowed)
    cls: Any = find("methods", method)
    values = {**(cls.drafts if sized else {}), **given}
    fields = {field.name: field.default for field in settings(cls)}
    unknown = [name for name in values if name not in fields]
    missing = [name for name, default in fields.items() if default is MISSING and name not in values]
    if unknown or missing:
        found = f"{' and '.join(unknown)}, which it does not have" if unknown else f"no {' and '.join(missing)}"
        allowed = f"settings among {', '.join(fields)}"
        raise refuse_type(f"method {method!r}", found=found, allowed=allowed)
    built: Method = cls(**values)
    return built


def _shape_of(W: Array) -> tuple[tuple[int, ...], str]:
    if isinstance(W, tuple) and len(W) >= 2 and all(isinstance(n, int) and n > 0 for n in W):
        return W, "float32"
    if not is_array(W) or dtype_name(W) not in FLOATS or len(W.shape) < 2 or 0 in W.shape:
        check_weight(W)
    return tuple(int(n) for n in W.shape), Home.of(W).dtype


def _check_keywords(given: dict[str, Any], method: object) -> None:
    if "rank" in given:
        check_rank(given["rank"])
    if "bits" in given and isinstance(given["bits"], tuple):
        for bits in given["bits"]:  # how many there may be is the method's affair
            check_bits(bits)
        if "rank" not in given:
            raise refuse("bits", found=given["bits"], allowed="one integer from 1 to 16 where there is one factor")
    elif "bits" in given and (len(given) > 1 or method not in (None, Trellis.id)):
        check_bits(given["bits"])
    if "sparsity" in given:
        check_sparsity(given["sparsity"])


def _check_target(target: object, given: dict[str, Any]) -> None:
    if target is None:
        return
    if isinstance(target, bool) or not isinstance(target, int | float | np.floating | np.integer):
        raise refuse_type("bits_per_weight", found=repr(target), allowed="a number above 0")
    if not 0 < target < math.inf:
        raise refuse("bits_per_weight", found=target, allowed="a number above 0")
    if "bits" in given:
        raise refuse(
            "bits_per_weight", found="it together with bits", allowed="one of the two", remedy="leave bits out"
        )
