"""The CUDA decoders of the XOR codes: equal to the reference on the host and on a GPU."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import CDLL
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cuda_host import HostCupy, build, kernels
from hypothesis import given, settings
from hypothesis import strategies as st

from factorq.kernels import banded, cuda_twin
from factorq.kernels.banded import cuda_twin as banded_cuda
from factorq.kernels.banded import reference as banded_reference
from factorq.kernels.sequential import cuda_twin as sequential_cuda
from factorq.kernels.sequential import reference as sequential_reference
from factorq.kernels.slices import cuda_twin as slices_cuda
from factorq.kernels.slices import reference as slices_reference
from factorq.kernels.slices import stream_size

FOLDER = Path(cuda_twin.__file__).parent
SOURCES = [FOLDER / name / f"{name}.cu" for name in ("banded", "sequential", "slices")]
SEEDS = st.integers(0, 2**64 - 1)
Library = dict[str, CDLL]


def forget() -> None:
    """No kernel or table is kept from one library to another."""
    for kept in (cuda_twin._kernel, banded_cuda._tables, slices_cuda._matrix, sequential_cuda._tables):
        kept.cache_clear()


@contextmanager
def on_host(library: Library) -> Iterator[HostCupy]:
    """The twins run on the host: their CuPy is the stand-in."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "cupy", HostCupy(library))
        forget()
        try:
            yield sys.modules["cupy"]
        finally:
            forget()


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    """From the name of a kernel to the library that has it, compiled by g++."""
    if sys.platform != "linux":
        pytest.skip("the shim for CUDA needs Linux")
    if not shutil.which("g++"):
        pytest.skip("g++ is not installed")
    folder = tmp_path_factory.mktemp("cuda")
    built = {source: build(source, folder) for source in SOURCES}
    return {name: built[source] for source in SOURCES for name in kernels(source)}


@pytest.fixture
def cupy() -> Any:
    module = pytest.importorskip("cupy", reason="cupy is not installed")
    if not module.cuda.is_available():
        pytest.skip("no CUDA device")
    return module


# --- networks and streams ---------------------------------------------------------------------------------------------


def noise(cupy: Any, planes: int, nbytes: int, seed: int, offset: int) -> tuple[np.ndarray, Any]:
    """Random streams, on the host and on the device; there within a larger array if ``offset`` > 0."""
    rng = np.random.default_rng(seed)
    host = rng.integers(0, 256, (planes, nbytes), dtype=np.uint8)
    room = rng.integers(0, 256, (planes, nbytes + 2 * offset), dtype=np.uint8)
    room[:, offset : offset + nbytes] = host
    return host, cupy.asarray(room)[:, offset : offset + nbytes]


def same(made: Any, expected: np.ndarray) -> None:
    assert made.dtype == np.uint8
    np.testing.assert_array_equal(made.get(), expected)


def check_banded(cupy: Any, window: int, power: int, advance: int, n: int, slots: int, planes: int, seed: int) -> None:
    network = banded.Network(window, 1 << power, advance, seed)
    rng = np.random.default_rng(seed)
    starts = rng.integers(0, slots + 1, -(-n // network.step))
    starts[rng.random(starts.size) < 0.2] = slots  # nothing but zeros there
    host, stream = noise(cupy, planes, -(-slots // 8), seed, seed % 3)
    expected = banded_reference.outputs(network, host, n, starts, slots)
    same(banded_cuda.outputs(network, stream, n, starts, slots), expected)
    same(banded_cuda.outputs(network, stream, n, cupy.asarray(starts), slots), expected)


def check_sequential(
    cupy: Any, n_in: int, n_out: int, registers: int, n: int, part: tuple[int, int], planes: int, seed: int
) -> None:
    steps = -(-n // n_out)
    first, stop = sorted((part[0] % (steps + 1), part[1] % (steps + 1)))
    host, stream = noise(cupy, planes, -(-steps * n_in // 8), seed, seed % 3)
    for a, b in ((0, steps), (first, stop)):
        expected = sequential_reference.outputs(host, n, n_in, n_out, registers, seed, a, b)
        same(sequential_cuda.outputs(stream, n, n_in, n_out, registers, seed, a, b), expected)


def check_slices(cupy: Any, n_in: int, n_out: int, n: int, part: tuple[int, int], planes: int, seed: int) -> None:
    tiles = -(-n // (512 * n_out))
    first, stop = sorted((part[0] % (tiles + 1), part[1] % (tiles + 1)))
    host, stream = noise(cupy, planes, stream_size(n, n_in, n_out), seed, seed % 3)
    for a, b in ((0, tiles), (first, stop)):
        expected = slices_reference.outputs(host, n, n_in, n_out, seed, a, b)
        same(slices_cuda.outputs(stream, n, n_in, n_out, seed, a, b), expected)


BANDED = st.tuples(
    st.integers(1, 128), st.integers(6, 10), st.integers(0, 128), st.integers(0, 5000), st.integers(0, 900),
    st.integers(1, 3), SEEDS,
)  # fmt: skip
SLICES = st.tuples(
    st.integers(1, 80), st.integers(1, 150), st.integers(0, 9000), st.tuples(st.integers(0, 99), st.integers(0, 99)),
    st.integers(1, 3), SEEDS,
)  # fmt: skip
SEQUENTIAL = st.tuples(
    st.integers(1, 8), st.one_of(st.integers(1, 130), st.integers(1, 1024)), st.integers(0, 2), st.integers(0, 5000),
    st.tuples(st.integers(0, 999), st.integers(0, 999)), st.integers(1, 3), SEEDS,
)  # fmt: skip
LARGE: dict[str, list[Any]] = {
    "banded": [
        (128, 8, 26, 80_000, 8_000, 2, 1),
        (128, 6, 128, 20_001, 5_000, 1, 2),
        (64, 7, 13, 40_000, 4_096, 1, 3),
        (1, 14, 0, 40_000, 1, 1, 4),
        (128, 12, 128, 20_000, 31, 1, 5),
    ],
    "slices": [
        (20, 180, 512 * 180 * 5 + 77, (1, 4), 1, 1),
        (512, 300, 512 * 300 + 1, (1, 2), 1, 2),
        (33, 129, 512 * 129 * 2, (0, 1), 2, 3),
        (8, 1, 512 * 9 + 500, (3, 10), 2, 4),
    ],
    "sequential": [
        (8, 80, 2, 150_000, (700, 1500), 2, 1),
        (8, 1024, 2, 40_000, (3, 30), 1, 2),
        (7, 1000, 2, 9_999, (1, 9), 1, 3),
        (3, 1, 2, 40_000, (65, 30_001), 1, 4),
    ],
}
"""Several blocks, tiles and passes, every width, tables of both kinds."""


# --- on the host ------------------------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(case=BANDED)
def test_banded_on_the_host(library: Library, case: Any) -> None:
    with on_host(library) as cupy:
        check_banded(cupy, *case)


@settings(max_examples=60)
@given(case=SLICES)
def test_slices_on_the_host(library: Library, case: Any) -> None:
    with on_host(library) as cupy:
        check_slices(cupy, *case)


@settings(max_examples=60)
@given(case=SEQUENTIAL)
def test_sequential_on_the_host(library: Library, case: Any) -> None:
    with on_host(library) as cupy:
        check_sequential(cupy, *case)


def test_many_shapes_reach_every_path(library: Library) -> None:
    """Cases that random small ones seldom are: several blocks and tiles, all widths, tables of both kinds."""
    with on_host(library) as cupy:
        for case in LARGE["banded"]:
            check_banded(cupy, *case)
        for case in LARGE["slices"]:
            check_slices(cupy, *case)
        for case in LARGE["sequential"]:
            check_sequential(cupy, *case)
        assert set(cupy.launches) == {name for source in SOURCES for name in kernels(source)}


def test_every_tail(library: Library) -> None:
    for n in range(135):
        with on_host(library) as cupy:
            check_banded(cupy, 60, 6, 6, n, 500, 2, n)
            check_slices(cupy, 5, 7, 512 * 7 * (n % 3) + n, (n, 1), 1, n)
            check_sequential(cupy, 3, 5, 2, n, (n, 2), 1, n)


def test_any_starts_are_safe(library: Library) -> None:
    """What lies outside the stream is read as what lies at its end."""
    network = banded.Network(70, 128, 40, 5)
    starts = np.array([0, 300, 301, -1, 1 << 40, -(1 << 63)])
    with on_host(library) as cupy:
        host, stream = noise(cupy, 2, 38, 1, 0)
        inside = np.where((starts >= 0) & (starts <= 300), starts, 300)
        expected = banded_reference.outputs(network, host, 768, inside, 300)
        same(banded_cuda.outputs(network, stream, 768, starts, 300), expected)


def test_bytes_that_are_no_neighbours(library: Library) -> None:
    """The kernels take rows of neighbours: others are copied first."""
    with on_host(library) as cupy:
        _, stream = noise(cupy, 2, stream_size(1000, 5, 7), 1, 0)
        apart = cupy.asarray(np.repeat(stream, 2, axis=1))[:, ::2]
        expected = slices_reference.outputs(stream.get(), 1000, 5, 7, 0, 0, 1)
        same(slices_cuda.outputs(apart, 1000, 5, 7, 0, 0, 1), expected)
        expected = sequential_reference.outputs(stream.get(), 1000, 5, 7, 2, 0, 0, 143)
        same(sequential_cuda.outputs(apart, 1000, 5, 7, 2, 0, 0, 143), expected)


# --- on a GPU ---------------------------------------------------------------------------------------------------------


def test_twins_on_a_gpu(cupy: Any) -> None:
    forget()
    for name, check in (("banded", check_banded), ("slices", check_slices), ("sequential", check_sequential)):
        for case in LARGE[name]:
            check(cupy, *case)
