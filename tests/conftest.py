"""What all tests share: the array libraries (``xp``), hypothesis profiles."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import array_api_compat
import numpy as np
import pytest
from hypothesis import HealthCheck, settings

# Numba compiles on first use, so examples have no deadline; FACTORQ_HYPOTHESIS=explore searches anew on each run.
_common: dict[str, Any] = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow], "database": None}
settings.register_profile("repeat", derandomize=True, **_common)
settings.register_profile("explore", derandomize=False, max_examples=1000, print_blob=True, **_common)
settings.load_profile(os.environ.get("FACTORQ_HYPOTHESIS", "repeat"))


@dataclass(frozen=True)
class Library:
    """One array library: how a NumPy array enters it, and the dtypes it has."""

    name: str
    module: ModuleType
    asarray: Callable[[np.ndarray], Any]
    dtypes: tuple[str, ...] = ("float32",)

    def host(self, x: Any) -> np.ndarray:
        """The NumPy array of the same bits, by the library's own way out."""
        if self.name.startswith("torch") and x.dtype == self.module.bfloat16:
            x = x.float()
        return np.asarray(x.get() if self.name == "cupy" else x)


def _read_only(x: np.ndarray) -> np.ndarray:
    x = x.copy()
    x.setflags(write=False)
    return x


def _numpy() -> Library:
    return Library("numpy", np, np.array, ("float16", "bfloat16", "float32", "float64"))


def _numpy_read_only() -> Library:
    return Library("numpy read-only", np, _read_only, ("float16", "bfloat16", "float32", "float64"))


def _strict() -> Library:
    module = pytest.importorskip("array_api_strict", reason="array-api-strict is not installed")
    return Library("array_api_strict", module, module.asarray, ("float32", "float64"))


def _torch() -> Library:
    module = pytest.importorskip("torch", reason="torch is not installed")

    def asarray(x: np.ndarray) -> Any:
        if x.dtype.name == "bfloat16":
            return module.asarray(x.astype(np.float32)).bfloat16()
        return module.asarray(np.array(x))

    return Library("torch", module, asarray, ("float16", "bfloat16", "float32", "float64"))


def _jax() -> Library:
    module = pytest.importorskip("jax.numpy", reason="jax is not installed")
    return Library("jax", module, module.asarray, ("float16", "bfloat16", "float32"))


def _cupy() -> Library:
    module = pytest.importorskip("cupy", reason="cupy is not installed")
    if not module.cuda.is_available():
        pytest.skip("no CUDA device")
    return Library("cupy", module, module.asarray, ("float16", "float32", "float64"))


_LIBRARIES = {
    "numpy": _numpy,
    "numpy-read-only": _numpy_read_only,
    "array-api-strict": _strict,
    "torch-cpu": _torch,
    "jax-cpu": _jax,
    "cupy": _cupy,
}


@pytest.fixture(params=_LIBRARIES)
def xp(request: pytest.FixtureRequest) -> Library:
    """Every array library that is installed here, one after the other."""
    return _LIBRARIES[request.param]()


@pytest.fixture
def same_library() -> Callable[[Any, Any], bool]:
    """Whether two arrays have one namespace and one device."""

    def same(a: Any, b: Any) -> bool:
        namespaces = array_api_compat.array_namespace(a) is array_api_compat.array_namespace(b)
        return namespaces and array_api_compat.device(a) == array_api_compat.device(b)

    return same
