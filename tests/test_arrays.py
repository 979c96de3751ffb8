"""The door for arrays: whose they are, how they reach kernels, where results go back, what is copied and counted."""

from __future__ import annotations

import pickle
import sys
import threading
from collections.abc import Iterator
from typing import Any

import array_api_strict
import ml_dtypes
import numpy as np
import pytest
from cuda_host import DeviceArray, HostCupy

import factorq as fq
from factorq import arrays
from factorq.arrays import Home, Transfers, home, transfer
from factorq.kernels import bits, twin

torch = pytest.importorskip("torch", reason="torch is not installed")
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


@pytest.fixture
def cupy(monkeypatch: pytest.MonkeyPatch) -> Iterator[HostCupy]:
    """The stand-in; no kernel is launched here."""
    module = HostCupy()
    monkeypatch.setitem(sys.modules, "cupy", module)
    transfer._constant.cache_clear()
    yield module
    transfer._constant.cache_clear()


@pytest.fixture
def torch_on_gpu(cupy: HostCupy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors of the host play those of a GPU."""

    def ordinal(library: str, device: Any) -> int | None:
        return 0 if library == "torch" else device.id if library == "cupy" else None

    monkeypatch.setattr(transfer, "ordinal", ordinal)
    monkeypatch.setattr(home, "ordinal", ordinal)


def moved(before: Transfers) -> tuple[int, int]:
    found = arrays.transfers() - before
    return found.to_host, found.to_device


# --- whose -----------------------------------------------------------------------------------------------------------


def test_libraries_by_name(xp) -> None:
    x = xp.asarray(np.ones((2, 3), np.float32))
    assert arrays.library(x) == arrays.library(arrays.namespace(x)) == xp.name.split()[0]
    assert arrays.is_array(x)
    assert arrays.is_host(x) == xp.name.startswith("numpy")
    assert Home.of(x) == Home.of(xp.asarray(np.zeros(1, np.float32)))


def test_cupy_arrays_are_no_host_arrays(cupy: HostCupy) -> None:
    x = cupy.asarray(np.ones(3, np.float32))
    assert arrays.is_array(x)
    assert arrays.is_cupy(x)
    assert not arrays.is_host(x)
    assert arrays.namespace(x, x) is cupy
    assert arrays.library(x) == "cupy"
    with pytest.raises(TypeError, match="Implicit conversion"):
        np.asarray(x)


def test_mixed_libraries_are_named(cupy: HostCupy) -> None:
    host, device, strict = np.ones(3), cupy.asarray(np.ones(3)), array_api_strict.ones(3)
    for given, names in (
        ((host, device), "cupy and numpy"),
        ((strict, host), "array_api_strict and numpy"),
        ((torch.ones(3), host), "numpy and torch"),
        ((host, [1.0]), "list and numpy"),
    ):
        with pytest.raises(fq.ArgumentTypeError, match=f"^arrays: found {names}, allowed is arrays of one library"):
            arrays.namespace(*given)


def test_twins(cupy: HostCupy) -> None:
    host, device = np.ones(3), cupy.asarray(np.ones(3))
    assert twin("factorq.kernels.bits", host).__name__ == "factorq.kernels.bits.numba_twin"
    assert twin("factorq.kernels.bits", device, device).__name__ == "factorq.kernels.bits.cuda_twin"
    assert twin("factorq.kernels.feedback", device).__name__ == "factorq.kernels.feedback.reference"
    assert twin("factorq.kernels.bits", array_api_strict.ones(3)).__name__ == "factorq.kernels.bits.reference"
    with pytest.raises(fq.ArgumentTypeError, match=r"found cupy and numpy.* move them to one side first"):
        twin("factorq.kernels.bits", host, device)


# --- to the kernels and back -----------------------------------------------------------------------------------------


def test_arrays_of_the_host_are_views(xp) -> None:
    before = arrays.transfers()
    for dtype in xp.dtypes:
        x = xp.asarray(np.arange(6).reshape(2, 3).astype(arrays.FLOATS[dtype]))
        first, again = arrays.native(x), arrays.native(x)
        assert type(first) is np.ndarray
        assert first.dtype == arrays.FLOATS[dtype]
        assert np.shares_memory(first, again)
        np.testing.assert_array_equal(first.astype(float), np.arange(6).reshape(2, 3))
    assert moved(before) == (0, 0)


def test_results_go_home(xp) -> None:
    host = np.linspace(-1, 1, 6).reshape(2, 3)
    for dtype in xp.dtypes:
        x = xp.asarray(host.astype(arrays.FLOATS[dtype]))
        placed = Home.of(x).place(host)
        assert type(placed) is type(x)
        assert placed.dtype == x.dtype
        np.testing.assert_array_equal(xp.host(placed).astype(float), xp.host(x).astype(float))
        assert Home.of(placed) == Home.of(x) == pickle.loads(pickle.dumps(Home.of(x)))


def test_tensors_as_they_come() -> None:
    """Requiring gradients, strided, or in bfloat16."""
    x = torch.arange(12, dtype=torch.float32).reshape(3, 4).requires_grad_()
    np.testing.assert_array_equal(arrays.native(x), np.arange(12).reshape(3, 4))
    assert arrays.native(x.detach()[:, ::2].T).tolist() == [[0, 4, 8], [2, 6, 10]]
    half = x.detach().bfloat16().T
    assert arrays.native(half).dtype == BFLOAT16
    assert arrays.native(half).astype(float).tolist() == half.float().tolist()


def test_what_has_no_numbers() -> None:
    for x in (torch.ones(3, device="meta"), torch.eye(3).to_sparse(), np.ma.masked_array([1.0], [True])):
        with pytest.raises(fq.ArgumentTypeError, match=r"^array: found a .*allowed is"):
            arrays.native(x)


def test_a_library_without_the_dtype() -> None:
    with pytest.raises(fq.ArgumentTypeError, match=r"^dtype: found bfloat16 factors for array_api_strict"):
        Home.of(array_api_strict.ones(2)).with_dtype("bfloat16")
    jax = pytest.importorskip("jax.numpy", reason="jax is not installed")
    with pytest.raises(fq.ArgumentTypeError, match=r"^dtype: found float64 factors for jax.*jax_enable_x64"):
        Home.of(jax.ones(2)).with_dtype("float64")


# --- on a GPU --------------------------------------------------------------------------------------------------------


def test_ways_to_and_from_a_gpu_are_counted(cupy: HostCupy) -> None:
    before, x = arrays.transfers(), np.arange(6.0)
    there = arrays.beside(x, cupy.empty((1,), float))
    assert isinstance(there, DeviceArray)
    assert moved(before) == (0, 1)
    assert arrays.native(there) is there
    assert Home.of(there).place(there) is there
    assert moved(before) == (0, 1)
    np.testing.assert_array_equal(arrays.to_host(there), x)
    assert arrays.transfers() - before == Transfers(1, 1, x.nbytes, x.nbytes)


def test_all_threads_are_counted(cupy: HostCupy) -> None:
    before, x = arrays.transfers(), cupy.asarray(np.ones(2))
    threads = [threading.Thread(target=lambda: [arrays.to_host(x) for _ in range(200)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert moved(before) == (1600, 0)


def test_tables_are_copied_once(cupy: HostCupy) -> None:
    before, x = arrays.transfers(), cupy.asarray(np.ones(2))
    first, again, other = (arrays.constant(x, np.arange, n) for n in (5, 5, 6))
    assert first is again
    assert (first.get().size, other.get().size) == (5, 6)
    assert moved(before) == (0, 2)
    assert arrays.constant(np.ones(1), np.arange, 3).tolist() == [0, 1, 2]


def test_another_device(cupy: HostCupy) -> None:
    with cupy.cuda.Device(1):
        x = cupy.asarray(np.ones((2, 3), np.float32))
    there = Home.of(x)
    assert there.gpu == 1
    assert arrays.beside(np.ones(2), x).device.id == there.place(np.ones(2)).device.id == 1
    with arrays.on_device(x), there.active():
        assert cupy.zeros((1,)).device.id == 1
    again = pickle.loads(pickle.dumps(there))
    assert again == there
    with pytest.raises(fq.ArgumentError, match=r"^x: found an array on <CUDA Device 1>.*on <CUDA Device 0>.*F.like"):
        Home.of(cupy.zeros((1,), np.float32)).check_neighbour(there, "x")


@pytest.mark.usefixtures("torch_on_gpu")
def test_tensors_on_a_gpu_share_their_memory() -> None:
    x = torch.arange(6, dtype=torch.float32).reshape(2, 3)
    before, there = arrays.transfers(), arrays.native(x)
    assert isinstance(there, DeviceArray)
    assert there.data.ptr == x.data_ptr()
    back = Home.of(x).place(there)
    assert isinstance(back, torch.Tensor)
    assert back.data_ptr() == x.data_ptr()
    assert Home.of(x).place(there, "float64").dtype == torch.float64
    assert arrays.native(x.double().requires_grad_()).dtype == np.float64
    assert moved(before) == (0, 0)
    assert isinstance(Home.of(x).place(np.ones(3)), torch.Tensor)
    assert moved(before) == (0, 1)


@pytest.mark.usefixtures("torch_on_gpu")
def test_a_gpu_without_cupy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(fq.ArgumentError, match=r"^device: found cpu without CuPy.*pip install factorq\[cuda\]"):
        arrays.native(torch.ones(3))


def test_kernels_take_one_library(cupy: HostCupy) -> None:
    with pytest.raises(fq.ArgumentTypeError, match="codes: found list"):
        bits.pack([1, 2], 2)
    for bad in (np.array([np.nan, 1.0]), cupy.asarray(np.array([1.0, np.inf]))):
        with pytest.raises(fq.ArgumentError, match=r"^x: found 1 non-finite values"):
            arrays.check_finite(bad, "x")
