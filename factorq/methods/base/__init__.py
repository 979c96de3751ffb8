"""What a method is, what it is given, what it returns, and the one driver that runs it."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ...arrays import FLOATS, HOST, Array, Home, check_weight, generator, is_cupy, to_host
from ...codecs import Encoded
from ...codecs.entropy import shrunk
from ...codecs.xor.store import Xor, xored
from ...errors import ArgumentError, refuse, refuse_type
from ...factorization import Factorization
from ...factorization.placing import placed
from ...forms import Form, Sum
from ...forms.mapped import mapped
from ...kernels.threads import one_thread
from ...measure import gram_error, narrowed, relative_error
from ...named import Named, settings
from ...solvers.loop import Callback
from .checks import check_gram

STORES: dict[str, Callable[[Encoded], Encoded]] = {"packed": lambda encoded: encoded, "entropy": shrunk, "xor": xored}
"""By name, how a factor's codes are written, without loss."""


@dataclass(frozen=True, eq=False)
class Weight:
    """W as it was given and checked: in its own memory, and, once it is asked for, on the host."""

    home: Home
    native: Array

    @classmethod
    def of(cls, W: Array | Weight) -> Weight:
        """``W`` after the checks of :func:`factorq.arrays.check_weight`."""
        return W if isinstance(W, Weight) else cls(native=check_weight(W), home=Home.of(W))

    @cached_property
    def host(self) -> NDArray[Any]:
        """A NumPy array: of the same memory, or copied from a GPU once."""
        return to_host(self.native)

    @property
    def compute(self) -> str:
        """The dtype in which methods work on it."""
        return "float64" if self.home.dtype == "float64" else "float32"


@dataclass(frozen=True, eq=False)
class Problem:
    """What a method is given.

    Parameters
    ----------
    W : NDArray, any shape, float32 or float64
        The array on the host, or a CuPy array for methods that :meth:`Method.runs_on_gpu`; not to be changed.
    dtype : str
        The dtype in which unquantized factors are stored: that of the array the user gave.
    gram : NDArray (n, n) float64, or None
        Second moment of the layer's inputs, n = prod(shape[1:]).
    rng : Generator
        For this method alone.
    callback : callable, optional
        Told the progress of iterative solvers.
    """

    W: NDArray[Any]
    dtype: str
    gram: NDArray[Any] | None
    rng: np.random.Generator
    callback: Callback | None = None

    @property
    def matrix(self) -> NDArray[Any]:
        """W as (shape[0], the rest)."""
        return self.W.reshape(self.W.shape[0], -1)


@dataclass(frozen=True, eq=False)
class Solution:
    """What a method returns: stored factors in a form, how the solver ended, the objective after each step."""

    form: Form
    status: str
    history: tuple[float, ...] = ()


class Method(Named):
    """What to solve. Subclasses are frozen dataclasses; their fields are the settings.

    Methods stack with ``+``: the second works on what the stored first left over.
    """

    kind: ClassVar[str] = "methods"
    drafts: ClassVar[Mapping[str, Any]] = {}
    """Settings that a target size can decide, with what stands for them until then."""
    retuned: ClassVar[frozenset[str]] = frozenset({"sparsity"})
    """Settings that may change once more where the stored size depends on the values and missed a target."""
    takes_gram: ClassVar[bool] = True

    @abstractmethod
    def solve(self, problem: Problem) -> Solution:
        """Stored factors for ``problem.W``."""

    @abstractmethod
    def nbytes(self, shape: tuple[int, ...], dtype: str) -> int:
        """Bytes that the method stores for an array; an upper bound where that depends on the values."""

    def check(self, shape: tuple[int, ...]) -> None:
        """Raise :class:`ArgumentError` if the method does not fit an array of ``shape``."""

    def runs_on_gpu(self, gram: bool) -> bool:
        """Whether :meth:`solve` takes W as a CuPy array, with a gram or without; else it is copied to the host."""
        return False

    def resized(
        self, shape: tuple[int, ...], dtype: str, bits_per_weight: float, free: frozenset[str]
    ) -> Iterable[Method]:
        """Versions whose ``free`` settings (of rank, bits, sparsity) aim at a stored size, the most promising first."""
        return ()

    @property
    def store(self) -> str:
        """How codes are written where the caller does not say: "packed" or "entropy"."""
        return "packed"

    @property
    def fills(self) -> bool:
        """Whether its codes are entropy-coded as they are: a store takes nothing more off them."""
        return False

    def placed(self, W: NDArray[Any], bits_per_weight: float, free: frozenset[str], gram: bool) -> tuple[Method, str]:
        """The version to resize for the host array W, with what W itself decides (a fold), and why."""
        return self, ""

    def remarks(self, W: NDArray[Any], dtype: str) -> str:
        """What else the method would do with the host array W, for :func:`factorq.explain`; empty if nothing.

        ``dtype`` is that of the array the user gave.
        """
        return ""

    def outlook(self, shape: tuple[int, ...], dtype: str) -> str:
        """What there is to say of an array of ``shape`` without its values; empty if nothing."""
        return ""

    def cheaper(self) -> Method:
        """A version that takes less time and stores about the same: enough to compare settings."""
        return self

    def __call__(self, W: Array, **options: Any) -> Factorization:
        """``decompose(W, method=self, **options)``, but for a size: a method can stand where a function is wanted."""
        return run(self, W, **options)

    def __repr__(self) -> str:
        shown = [f for f in settings(type(self)) if getattr(self, f.name) != f.default]
        return f"{type(self).__name__}({', '.join(f'{f.name}={getattr(self, f.name)!r}' for f in shown)})"

    def __add__(self, other: Method) -> Stacked:
        if not isinstance(other, Method):
            return NotImplemented
        return Stacked((*_terms(self), *_terms(other)))


@dataclass(frozen=True, repr=False)
class Stacked(Method):
    """``a + b``: each method works on what the stored ones before it left over."""

    id: ClassVar[str] = "stacked"
    methods: tuple[Method, ...]

    def __post_init__(self) -> None:
        if len(self.methods) < 2 or not all(isinstance(m, Method) for m in self.methods):
            raise refuse("methods", found=f"{len(self.methods)} methods", allowed="two or more methods, joined with +")

    def check(self, shape: tuple[int, ...]) -> None:
        for method in self.methods:
            method.check(shape)

    def solve(self, problem: Problem) -> Solution:
        terms: list[Form] = []
        states: list[str] = []
        history: tuple[float, ...] = ()
        rest, error = problem.W, 1.0  # what is left, and its share of W
        for method, rng in zip(self.methods, problem.rng.spawn(len(self.methods)), strict=True):
            solution = method.solve(replace(problem, W=rest, rng=rng))
            if solution.form.shape != rest.shape:
                raise refuse(
                    "method", found=f"a form of shape {solution.form.shape} from {method.id}", allowed=f"{rest.shape}"
                )
            share = error  # so that the history is one of W's error
            with np.errstate(over="ignore", invalid="ignore"):
                rest = rest - solution.form.dense()
                error = relative_error(problem.W, problem.W - rest)
            if not (math.isfinite(error) and np.isfinite(rest).all()):
                raise _too_large(problem.W)
            terms.append(solution.form)
            states.append(f"{method.id}: {solution.status}")
            steps = tuple(share * part for part in solution.history)
            history += steps or (error,)
        return Solution(Sum(tuple(terms)), "; ".join(states), history)

    @property
    def fills(self) -> bool:
        return self.methods[-1].fills

    @property
    def store(self) -> str:
        return "entropy" if any(method.store == "entropy" for method in self.methods) else "packed"

    def nbytes(self, shape: tuple[int, ...], dtype: str) -> int:
        return sum(method.nbytes(shape, dtype) for method in self.methods)

    def resized(
        self, shape: tuple[int, ...], dtype: str, bits_per_weight: float, free: frozenset[str]
    ) -> Iterable[Method]:
        *first, last = self.methods  # what the first ones store stays; the last one gets the rest
        spent = 8 * sum(m.nbytes(shape, dtype) for m in first) / math.prod(shape)
        for method in last.resized(shape, dtype, bits_per_weight - spent, free):
            yield Stacked((*first, method))

    def __repr__(self) -> str:
        return " + ".join(map(repr, self.methods))


def run(
    method: Method,
    W: Array | Weight,
    *,
    gram: Array | None = None,
    store: str | None = None,
    rng: Any = None,
    callback: Callback | None = None,
) -> Factorization:
    """Check the input, solve, and measure what was stored. The one driver of all methods."""
    weight = Weight.of(W)
    check_store(store)
    if callback is not None and not callable(callback):
        raise refuse_type("callback", found=repr(callback), allowed="a function of one Progress")
    home, shape = weight.home, tuple(weight.native.shape)
    method.check(shape)
    check_takes(method, gram)
    moment = None if gram is None else check_gram(gram, math.prod(shape[1:]))
    given = weight.native if method.runs_on_gpu(gram is not None) else weight.host
    work = given.astype(weight.compute, copy=False)
    there = home if is_cupy(work) else HOST
    with there.active():
        solution = method.solve(Problem(work, home.dtype, moment, generator(rng), callback))
    if solution.form.shape != shape:
        found = f"a form of shape {solution.form.shape} from {method.id} for W of shape {shape}"
        raise refuse(
            "method", found=found, allowed="a form that stands for W", remedy="wrap it in factorq.forms.Folded"
        )
    measured = placed(solution.form, there)
    with there.active(), np.errstate(over="ignore", invalid="ignore"), one_thread():  # the error is part of the file
        dense = measured.dense()
        stored = narrowed(dense, FLOATS[home.dtype])
        error = relative_error(given, stored)
        finite = math.isfinite(error) and math.isfinite(dense.max()) and math.isfinite(dense.min())
    if not finite:
        raise _too_large(given)
    stored_form = mapped(solution.form, STORES[store or method.store])
    where = "; solved on the host" if home.gpu is not None and there is HOST else ""
    F = Factorization(
        form=stored_form,
        home=home,
        method_config=method.config(),
        relative_error=error,
        gram_error=None if moment is None else gram_error(given, to_host(stored), moment),
        status=f"{solution.status}{_coded(stored_form, store or method.store)}{where}",
        history=solution.history or (error,),
    )
    return F.remembering(measured) if there is home and (store or method.store) == "packed" else F


def weighed(F: Factorization, W: Weight, moment: NDArray[Any]) -> Factorization:
    """F, solved without a gram, with its error under one that :func:`check_gram` gave."""
    return replace(F, gram_error=gram_error(W.host.astype(W.compute, copy=False), to_host(F.to_dense()), moment))


def _too_large(W: NDArray[Any]) -> ArgumentError:
    found = f"values up to {float(np.abs(W).max()):.3g}, beyond which sums of factors overflow"
    return refuse("W", found=found, allowed=f"less of the range of {W.dtype}", remedy="scale it first")


def _coded(form: Form, store: str) -> str:
    """What became of the factors in a store that not all of them take."""
    if store != "xor":
        return ""
    leaves = form.leaves().values()
    coded = sum(isinstance(leaf.factor, Xor) for leaf in leaves)
    return f"; codes of {coded} of {len(leaves)} factors XOR-coded" if coded else "; no codes XOR-coded: none, or few"


def check_takes(method: Method, gram: object) -> None:
    """Raise if there is a gram that ``method`` has no use for."""
    if gram is None:
        return
    for term in _terms(method):
        if not term.takes_gram:
            remedy = "leave it out, or use svd, quantized_sparse, scalar or trellis"
            raise refuse("gram", found=f"one, with the method {term.id}", allowed="no gram there", remedy=remedy)


def check_store(store: str | None) -> None:
    """Raise unless ``store`` is a way to write codes that exists."""
    if store is not None and (not isinstance(store, str) or store not in STORES):
        remedy = "leave it out for packed codes"
        raise refuse("store", found=repr(store), allowed=", ".join(map(repr, STORES)), remedy=remedy)


def most_bytes(method: Method, shape: tuple[int, ...], dtype: str, store: str | None) -> int:
    """Bytes that the method stores for an array, an upper bound where that depends on the values."""
    nbytes = method.nbytes(shape, dtype)
    return Xor.bound(nbytes) if (store or method.store) == "xor" else nbytes


def _terms(method: Method) -> tuple[Method, ...]:
    return method.methods if isinstance(method, Stacked) else (method,)
