"""The door for arrays: which library owns them, how they reach the host, where results go back; and randomness.

The only file of the package that names array libraries. Everything above it works on plain array code.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any

import array_api_compat as compat
import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from .errors import refuse, refuse_type

Array = Any
"""An array of any array-API namespace; NumPy arrays are spelled ``NDArray`` where only they are meant."""

FLOATS: dict[str, np.dtype[Any]] = {
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float32": np.dtype(np.float32),
    "float64": np.dtype(np.float64),
}
"""The real floating dtypes that factorq takes and gives back, by name."""


MAX_AXES = 32


def is_array(x: object) -> bool:
    """Whether ``x`` belongs to a library that array-api-compat knows."""
    return bool(compat.is_array_api_obj(x))


def namespace(*arrays: Array) -> ModuleType:
    """The array-API namespace that all ``arrays`` share.

    Raises
    ------
    ArgumentTypeError
        If an argument is no array, or if they belong to different libraries.
    """
    try:
        return compat.array_namespace(*arrays)
    except TypeError:
        kinds = ", ".join(sorted({f"{type(a).__module__.split('.')[0]}.{type(a).__name__}" for a in arrays}))
        raise refuse_type("arrays", found=kinds, allowed="arrays of one library", remedy="convert them first") from None


def is_host(x: Array) -> bool:
    """Whether ``x`` is a NumPy array, which Numba kernels read directly."""
    return bool(compat.is_numpy_array(x))


def dtype_name(x: Array) -> str:
    """The dtype of ``x`` as a bare name: ``"float32"``, ``"bfloat16"``, whatever the library calls it."""
    return str(x.dtype).rpartition(".")[2]


def to_host(x: Array) -> NDArray[Any]:
    """``x`` as a NumPy array of the same shape and dtype; a view where the library shares host memory."""
    if isinstance(x, np.ma.MaskedArray):
        raise refuse_type("array", found="a masked array", allowed="plain numbers", remedy="use filled(0) first")
    if is_host(x):
        return np.asarray(x)
    try:
        return _copied(x)
    except (TypeError, RuntimeError, ValueError, BufferError) as error:  # sparse, meta or traced: no numbers to read
        kind = f"{type(x).__module__}.{type(x).__name__}"
        found = f"a {kind} that cannot be read ({str(error).strip().splitlines()[0][:80]})"
        raise refuse_type(
            "array", found=found, allowed="a dense array with values", remedy="convert it first"
        ) from None


def _copied(x: Array) -> NDArray[Any]:
    if compat.is_torch_array(x):
        x = x.detach().cpu()
        if dtype_name(x) == "bfloat16":  # torch refuses bfloat16 -> NumPy; its bits are the same
            return np.asarray(x.view(namespace(x).int16)).view(ml_dtypes.bfloat16)
        return np.asarray(x)
    if compat.is_cupy_array(x):
        return np.asarray(x.get())
    if compat.is_jax_array(x):
        return np.asarray(x)
    return np.asarray(np.from_dlpack(x))


@dataclass(frozen=True)
class Home:
    """Where an array lives, so that results can go back there: its namespace, device and dtype name."""

    xp: ModuleType
    device: Any
    dtype: str

    def __reduce__(self) -> tuple[Any, ...]:
        return _home, (self.xp.__name__, self.device, self.dtype)  # a module pickles by its name only

    @classmethod
    def of(cls, x: Array) -> Home:
        return cls(namespace(x), compat.device(x), dtype_name(x))

    def check_neighbour(self, other: Home, name: str) -> None:
        """Raise unless arrays of ``other`` are of the same library and on the same device."""
        if other.xp is not self.xp:
            kinds = " and ".join(home.xp.__name__.rpartition(".")[2] for home in (self, other))
            raise refuse_type("arrays", found=kinds, allowed="arrays of one library", remedy="convert them first")
        if other.device != self.device:
            found, remedy = f"an array on {other.device}", f"move it to {self.device}, where the factors are"
            raise refuse(name, found=found, allowed=f"one on {self.device}", remedy=remedy)

    def place(self, x: NDArray[Any], dtype: str | None = None) -> Array:
        """The host array ``x`` in this home, as ``dtype`` (the home's own if None)."""
        name = dtype or self.dtype
        host = np.ascontiguousarray(x, dtype=FLOATS.get(name, x.dtype))
        if self.xp is compat.array_namespace(_NUMPY):
            return host
        if name == "bfloat16" and "torch" in self.xp.__name__:
            return self.xp.asarray(host.view(np.int16), device=self.device).view(self.xp.bfloat16)
        return self.xp.asarray(host, device=self.device)


def _home(xp: str, device: Any, dtype: str) -> Home:
    return Home(import_module(xp), device, dtype)


_NUMPY = np.empty(0)
HOST = Home(compat.array_namespace(_NUMPY), "cpu", "float32")
"""The home of arrays that were read from a file."""


def check_weight(W: Array, name: str = "W") -> NDArray[Any]:
    """``W`` on the host, after the checks that every method relies on.

    Raises
    ------
    ArgumentTypeError
        If ``W`` is no array or its dtype is not a real floating one.
    ArgumentError
        If ``W`` has fewer than two dimensions, is empty, or holds a NaN or an infinity.
    """
    if not is_array(W):
        raise refuse_type(name, found=type(W).__name__, allowed="an array", remedy="wrap it with numpy.asarray")
    if dtype_name(W) not in FLOATS:
        remedy = "cast it first, for example W.astype('float32')"
        raise refuse_type(name, found=f"dtype {dtype_name(W)}", allowed=", ".join(FLOATS), remedy=remedy)
    if len(W.shape) > MAX_AXES:
        raise refuse(name, found=f"{len(W.shape)} axes", allowed=f"2 to {MAX_AXES}", remedy="reshape it first")
    if len(W.shape) < 2:
        remedy = "keep vectors as they are: they are too small to pay for factors"
        raise refuse(name, found=f"shape {tuple(W.shape)}", allowed="an array with 2 or more dimensions", remedy=remedy)
    if 0 in W.shape:
        raise refuse(name, found=f"shape {tuple(W.shape)}", allowed="an array with at least one element")
    host = to_host(W)
    check_finite(host, name)
    return host


def check_finite(x: NDArray[Any], name: str) -> None:
    """Raise :class:`ArgumentError` naming the first NaN or infinity of ``x``, if there is one."""
    if np.isfinite(x.max()) and np.isfinite(x.min()):  # two vector passes: NaN and infinities survive max and min
        return
    bad = ~np.isfinite(x)
    where = tuple(int(i) for i in np.argwhere(bad)[0])
    found = f"{int(bad.sum())} non-finite values, the first at index {where}"
    raise refuse(
        name, found=found, allowed="finite numbers", remedy="replace them first, for example with numpy.nan_to_num"
    )


def generator(rng: np.random.Generator | np.random.SeedSequence | int | None) -> np.random.Generator:
    """A NumPy generator from ``rng`` as in SPEC 7; ``None`` means seed 0, so that equal calls give equal bytes."""
    if isinstance(rng, bool) or not isinstance(
        rng, np.random.Generator | np.random.SeedSequence | int | np.integer | None
    ):
        raise refuse_type("rng", found=type(rng).__name__, allowed="None, an integer seed or a numpy.random.Generator")
    try:
        return np.random.default_rng(0 if rng is None else rng)
    except ValueError:
        raise refuse("rng", found=repr(rng), allowed="a seed of at least 0, or a numpy.random.Generator") from None
