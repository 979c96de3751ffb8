"""Arrays of a CuPy on the host: NumPy arrays in a wrapper that is as strict as CuPy's and counts what is moved.

Nothing converts one to a NumPy array but ``get``, nothing takes NumPy arrays beside one: what CuPy refuses is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np

METHODS = frozenset(
    """all any argmax argmin argpartition argsort astype clip copy cumprod cumsum diagonal dot fill flatten max mean min
    nonzero partition prod ptp put ravel repeat reshape round searchsorted sort squeeze std sum swapaxes take trace
    transpose var view""".split()  # noqa: SIM905
)
PLAIN = frozenset({"dtype", "flags", "itemsize", "nbytes", "ndim", "shape", "size", "strides"})
ARRAYS = frozenset({"T", "mT", "real", "imag"})
NO_FUNCTIONS = frozenset(
    """asmatrix block bmat errstate frompyfunc geomspace insert matvec memmap nditer spacing unstack vecdot
    vecmat""".split()  # noqa: SIM905
)
"""What NumPy 2.4 has and CuPy 14.2 has not."""


@dataclass
class Traffic:
    """Arrays that were copied to the host and to a device, numbers that were read one by one; of all devices."""

    gets: int = 0
    sets: int = 0
    numbers: int = 0
    current: int = 0

    def clear(self) -> None:
        self.gets = self.sets = self.numbers = 0


TRAFFIC = Traffic()


class Device:
    """A device by number; within ``with device`` new arrays are there."""

    def __init__(self, id: int | None = None) -> None:
        self.id = TRAFFIC.current if id is None else id
        self._before: list[int] = []

    def __enter__(self) -> Device:
        self._before.append(TRAFFIC.current)
        TRAFFIC.current = self.id
        return self

    def __exit__(self, *_: object) -> None:
        TRAFFIC.current = self._before.pop()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Device) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:
        return f"<CUDA Device {self.id}>"


class DeviceArray:
    """``cupy.ndarray`` for tests."""

    __slots__ = ("_host", "_id")
    __array_priority__ = 100
    allocate: ClassVar[Callable[[tuple[int, ...], Any], np.ndarray]] = staticmethod(np.empty)

    def __init__(self, host: Any, id: int | None = None) -> None:
        self._host = np.asarray(host)
        self._id = TRAFFIC.current if id is None else id

    @property
    def device(self) -> Device:
        return Device(self._id)

    @property
    def data(self) -> SimpleNamespace:
        return SimpleNamespace(ptr=self._host.ctypes.data, device=self.device)

    def get(self, **_: Any) -> np.ndarray:
        TRAFFIC.gets += 1
        return self._host.copy()

    def item(self) -> Any:
        TRAFFIC.numbers += 1
        return self._host.item()

    def tolist(self) -> Any:
        return self.get().tolist()

    def __getattr__(self, name: str) -> Any:
        if name in PLAIN:
            return getattr(self._host, name)
        if name in ARRAYS:
            return wrapped(getattr(self._host, name), self._id)
        if name in METHODS:
            call = _delegate(getattr(self._host, name), self._id)
            return lambda *given, **options: self._same(call(*given, **options))
        raise AttributeError(f"cupy.ndarray has no {name}")

    def _same(self, x: Any) -> Any:
        """This array itself where nothing was to be done."""
        return self if isinstance(x, DeviceArray) and x._host is self._host else x

    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()`.")

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *given: Any, **options: Any) -> Any:
        if ufunc.__name__ in NO_FUNCTIONS:
            return NotImplemented
        out = options.pop("out", None)
        function = ufunc if method == "__call__" else getattr(ufunc, method)
        return _delegate(function, self._id)(*given, **options, **({} if out is None else {"out": out[0]}))

    def __array_function__(self, function: Any, types: Any, given: Any, options: Any) -> Any:
        if function.__name__ in NO_FUNCTIONS:
            return NotImplemented
        return _delegate(function, self._id)(*given, **options)

    def __dlpack__(self, **options: Any) -> Any:
        return self._host.__dlpack__()

    def __dlpack_device__(self) -> Any:
        return self._host.__dlpack_device__()

    def __getitem__(self, key: Any) -> DeviceArray:
        return wrapped(self._host[unwrapped(key)], self._id)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._host[unwrapped(key)] = unwrapped(value)

    def __len__(self) -> int:
        return len(self._host)

    def __iter__(self) -> Iterator[DeviceArray]:
        return (self[i] for i in range(len(self)))

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __bool__(self) -> bool:
        return bool(self.item())

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"DeviceArray({self._host!r}, {self.device!r})"


def _operator(name: str) -> Callable[..., Any]:
    def method(self: DeviceArray, *others: Any) -> Any:
        if any(isinstance(x, np.ndarray) for x in others):
            raise TypeError(f"Unsupported type {np.ndarray} for {name}")
        if not all(isinstance(x, DeviceArray | int | float | complex | np.generic) for x in others):
            return NotImplemented
        result = getattr(self._host, name)(*map(unwrapped, others))
        return self if result is self._host else wrapped(result, self._id)

    method.__name__ = name
    return method


for _name in [
    "add",
    "sub",
    "mul",
    "matmul",
    "truediv",
    "floordiv",
    "mod",
    "pow",
    "and",
    "or",
    "xor",
    "lshift",
    "rshift",
]:  # with their reflected and in-place forms
    for _form in (f"__{_name}__", f"__r{_name}__", f"__i{_name}__"):
        setattr(DeviceArray, _form, _operator(_form))
for _name in ["lt", "le", "eq", "ne", "gt", "ge", "neg", "pos", "abs", "invert", "divmod"]:
    setattr(DeviceArray, f"__{_name}__", _operator(f"__{_name}__"))


def unwrapped(x: Any) -> Any:
    """The host's array in ``x``, or in what it contains; NumPy arrays are refused."""
    if isinstance(x, DeviceArray):
        return x._host
    if isinstance(x, np.ndarray):
        raise TypeError(f"Unsupported type {type(x)}")
    if isinstance(x, tuple | list):
        return type(x)(map(unwrapped, x))
    return {key: unwrapped(value) for key, value in x.items()} if isinstance(x, dict) else x


def wrapped(x: Any, id: int | None = None) -> Any:
    """Arrays in ``x`` as a device's; reductions are arrays without axes there, not numbers."""
    if isinstance(x, np.ndarray | np.generic):
        return DeviceArray(x, id)
    if isinstance(x, tuple):
        parts = [wrapped(part, id) for part in x]
        return type(x)(*parts) if hasattr(x, "_fields") else tuple(parts)
    return [wrapped(part, id) for part in x] if isinstance(x, list) else x


def _delegate(function: Callable[..., Any], id: int | None) -> Callable[..., Any]:
    def call(*given: Any, **options: Any) -> Any:
        result = wrapped(function(*unwrapped(given), **unwrapped(options)), id)
        out = options.get("out")
        return out if isinstance(out, DeviceArray) else result

    return call


def asarray(x: Any, dtype: Any = None, order: Any = None, *, copy: bool | None = None, blocking: bool = False) -> Any:
    """``cupy.asarray``: what is not there yet is copied."""
    if isinstance(x, DeviceArray):
        return x if dtype in (None, x.dtype) and not copy else x.astype(dtype or x.dtype)
    host = np.asarray(x, dtype=dtype)
    TRAFFIC.sets += 1
    there = DeviceArray.allocate(host.shape, host.dtype)
    there[...] = host
    return DeviceArray(there)


def function(name: str, module: Any = np) -> Any:
    """The function, or dtype or constant, that CuPy has under this name."""
    found = getattr(module, name)
    if name in NO_FUNCTIONS:
        raise AttributeError(f"module 'cupy' has no attribute {name!r}")
    plain = isinstance(found, type) or not callable(found) or name in ("result_type", "finfo", "iinfo", "isdtype")
    if name == "result_type":
        return lambda *given: np.result_type(*(x.dtype if isinstance(x, DeviceArray) else x for x in given))
    return found if plain else _delegate(found, None)
