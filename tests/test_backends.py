"""Every method and codec in every library: the factors that NumPy gets, results at home, and nothing copied in silence.

Without a GPU, CuPy is the stand-in of ``cuda_host``: arrays that turn into NumPy arrays by no way but the counted ones.
"""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path as File
from typing import Any

import array_api_strict
import laws
import numpy as np
import pytest
from cases import CONSTRAINTS, METHODS, sample
from cuda_host import TRAFFIC, Device, DeviceArray, host_cupy, place, same

import factorq as fq
from factorq import arrays
from factorq.codecs import Dense, Path, Rotation
from factorq.codecs.base import Encoded
from factorq.codecs.entropy import Entropy, shrunk
from factorq.codecs.path import static
from factorq.codecs.xor.store import xored
from factorq.factorization import placing
from factorq.forms import CP, Chain, Fold, Folded, Leaf, Rotated, Sum, Tucker
from factorq.forms.mapped import mapped
from factorq.kernels import lloyd
from factorq.solvers.lloyd import kmeans
from factorq.solvers.svd import truncated_svd

RNG = np.random.default_rng(7)
SOLVED_THERE = ("scalar 4", "scalar 8", "scalar asymmetric", "svd", "vector quantization", "vector quantization ragged")
SOLVED_ON_HOST = (
    "scalar nf4", "scalar masked", "svd 4 bits", "svd + scalar", "cp 4 bits", "quantized-sparse", "sparse pca",
    "trellis 3", "trellis fixed rate, rotated", "boolean 1 bit", "rotated both + scalar",
)  # fmt: skip


@pytest.fixture(params=["host", "gpu"])
def cupy(request: pytest.FixtureRequest) -> Iterator[Any]:
    """The stand-in; the real one where there is a GPU."""
    arrays.transfer._constant.cache_clear()
    with place(request.param)() as module:
        yield module
    arrays.transfer._constant.cache_clear()


@pytest.fixture
def stand_in() -> Iterator[Any]:
    arrays.transfer._constant.cache_clear()
    with host_cupy() as module:
        yield module
    arrays.transfer._constant.cache_clear()


def during(act: Callable[[], Any]) -> tuple[Any, arrays.Transfers]:
    """What ``act`` gives, and what is copied meanwhile."""
    before = arrays.transfers()
    found = act()
    return found, arrays.transfers() - before


def close(found: Any, expected: np.ndarray, share: float = 1e-5) -> None:
    host = arrays.to_host(found).astype(np.float64)
    np.testing.assert_allclose(host, expected.astype(np.float64), rtol=0, atol=share * np.abs(expected).max())


def tall(shape: tuple[int, ...] = (48, 160), dtype: str = "float32") -> np.ndarray:
    """Large against what small problems copy."""
    return sample("gaussian", shape, dtype, 5)


# --- methods ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SOLVED_THERE)
def test_methods_that_leave_the_weights_on_the_gpu(cupy: Any, name: str) -> None:
    case, W = METHODS[name], tall()
    F = laws.decompose(case, W)
    D = cupy.asarray(W)
    G, moved = during(lambda: laws.decompose(case, D))
    assert moved.bytes_to_host < W.nbytes / 1.5  # stored factors, and small problems
    assert "solved on the host" not in G.status
    assert G.nbytes == F.nbytes
    assert G.relative_error == pytest.approx(F.relative_error, rel=1e-3)
    if name.startswith("scalar"):
        assert laws.stored(G) == laws.stored(F)
    check_use(cupy, F if laws.stored(G) == laws.stored(F) else as_host(G), G)


@pytest.mark.parametrize("name", SOLVED_ON_HOST)
def test_methods_that_copy_the_weights_once(cupy: Any, name: str) -> None:
    case, W = METHODS[name], tall((24, 40))
    F = laws.decompose(case, W)
    D = cupy.asarray(W)
    G, moved = during(lambda: laws.decompose(case, D))
    assert moved == arrays.Transfers(to_host=1, bytes_to_host=W.nbytes)
    assert G.status == f"{F.status}; solved on the host"
    assert laws.stored(G) == laws.stored(F)
    assert G.relative_error == F.relative_error
    check_use(cupy, F, G)


def as_host(G: fq.Factorization) -> fq.Factorization:
    return G.like(np.ones(1))


def check_use(cupy: Any, F: fq.Factorization, G: fq.Factorization) -> None:
    """G, on a GPU, is used as F on the host; once its buffers are there, nothing is copied."""
    dense, first = during(G.to_dense)
    assert isinstance(dense, cupy.ndarray)
    assert dense.dtype == G.dtype == F.dtype
    close(dense, F.to_dense())
    assert first.to_host == 0
    m, n = F.shape
    x, z = (sample("gaussian", shape, "float32", 6) for shape in ((n, 3), (3, m)))
    there = cupy.asarray(x), cupy.asarray(z), cupy.asarray(x[:, 0])
    every = placing.on_host(G.form)
    for act, expected in (
        (lambda: G @ there[0], F @ x),
        (lambda: there[1] @ G, z @ F),
        (lambda: G @ there[2], F @ x[:, 0]),
        (lambda: G.T @ there[1].T, F.T @ z.T),
        (G.to_dense, F.to_dense()),
    ):
        found, moved = during(act)
        assert isinstance(found, cupy.ndarray)
        assert found.dtype == np.float32
        close(found, expected, 3e-5)
        assert moved.to_host == 0
        assert (moved.to_device > 0) == bool(every)
    assert ("decoded on the host" in repr(G)) == bool(every)
    assert all(isinstance(factor, cupy.ndarray) for factor in G.factors)


def test_every_copy_is_counted(stand_in: Any) -> None:
    """The stand-in counts as well: there is no other way to the host."""
    for name in ("svd", "scalar 4", "vector quantization", "quantized-sparse", "trellis 3"):
        D = stand_in.asarray(tall())
        TRAFFIC.clear()
        F, moved = during(lambda case=METHODS[name], D=D: laws.decompose(case, D))
        assert (moved.to_host, moved.to_device) == (TRAFFIC.gets, TRAFFIC.sets)
        x = stand_in.asarray(np.ones(160, np.float32))
        TRAFFIC.clear()
        _, moved = during(lambda F=F, x=x: (F @ x, F.to_dense(), F.factors))
        assert (moved.to_host, moved.to_device) == (TRAFFIC.gets, TRAFFIC.sets)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("name", ["svd", "scalar 4", "vector quantization", "cp 4 bits"])
def test_dtypes_on_a_gpu(cupy: Any, name: str, dtype: str) -> None:
    case, W = METHODS[name], tall((24, 40), dtype)
    F, G = laws.decompose(case, W), laws.decompose(case, cupy.asarray(W))
    assert G.dtype == G.to_dense().dtype == W.dtype
    assert G.relative_error == pytest.approx(F.relative_error, rel=1e-3)
    for other in ("float16", "bfloat16", "float32", "float64"):
        x = sample("gaussian", (40, 2), other, 6)
        found, expected = G @ cupy.asarray(x), as_host(G) @ x
        assert found.dtype == expected.dtype
        close(found, expected, 1e-2 if found.dtype.itemsize == 2 else 3e-5)


def test_arrays_of_more_axes_on_a_gpu(cupy: Any) -> None:
    W = sample("gaussian", (12, 8, 3, 3), "float32", 5)
    for name in ("svd", "vector quantization", "scalar 4", "cp 4 bits", "quantized-sparse"):
        G = laws.decompose(METHODS[name], cupy.asarray(W))
        close(G.to_dense(), as_host(G).to_dense())
        if name in ("svd", "cp 4 bits"):
            for there, here in zip(G.to_conv(padding=1), as_host(G).to_conv(padding=1), strict=True):
                close(there.weight, here.weight)


def test_a_size_as_the_target_copies_the_weights_once(cupy: Any) -> None:
    W = tall()
    F = fq.decompose(W, method="sparse_pca", bits_per_weight=4)
    G, moved = during(lambda: fq.decompose(cupy.asarray(W), method="sparse_pca", bits_per_weight=4))
    assert moved == arrays.Transfers(to_host=1, bytes_to_host=W.nbytes)
    assert laws.stored(G) == laws.stored(F)


def test_grams_and_bad_weights_on_a_gpu(cupy: Any) -> None:
    W, gram = tall((12, 40)), np.cov(RNG.standard_normal((40, 100)))
    F, G = (fq.decompose(a(W), method=fq.SVD(3), gram=a(gram)) for a in (np.asarray, cupy.asarray))
    assert (G.gram_error, G.relative_error) == (F.gram_error, F.relative_error)
    W[3, 5] = np.inf
    for dtype in (np.float16, np.float32):
        with pytest.raises(fq.ArgumentError, match=r"^W: found 1 non-finite values, the first at index \(3, 5\)"):
            fq.decompose(cupy.asarray(W.astype(dtype)), bits=4)


# --- codecs ----------------------------------------------------------------------------------------------------------


def encodings() -> dict[str, Encoded]:
    x = sample("rows of many sizes", (12, 50), "float32", 3)
    found = {name: case.constraint.encode(x) for name, case in CONSTRAINTS.items()}
    found |= {f"{name}, float64": CONSTRAINTS[name].constraint.encode(x.astype(float)) for name in found}
    skewed = CONSTRAINTS["quantized 4"].constraint.encode(sample("heavy tails", (64, 64), "float32", 3))
    found["entropy-coded"] = shrunk(skewed)
    sparse = CONSTRAINTS["sparse & quantized 3"].constraint.encode(sample("gaussian", (64, 128), "float32", 3))
    found["xor-coded"] = xored(sparse)
    for name in ("vector quantization", "vector quantization ragged", "trellis fixed rate", "trellis 3"):
        found[name] = next(iter(laws.decompose(METHODS[name], tall((24, 300))).encoded.values()))
    found["path, mixing"] = Path.encode(x, step=0.3, states=8, model="mixing")
    found["path, static"] = Path.encode(x, step=0.3, states=8, model="static")
    found["rotation"] = Rotation.encode(np.linalg.qr(RNG.standard_normal((20, 20)))[0].astype(np.float32), 8, 7)
    return found


def test_codecs_decode_where_their_buffers_are(cupy: Any) -> None:
    """To the same bits."""
    decoded, all_kinds = set(), encodings()
    assert isinstance(all_kinds["entropy-coded"], Entropy)
    for name, encoded in all_kinds.items():
        if not encoded.on_gpu:
            assert isinstance(encoded, Path)
            assert encoded.model == "mixing"  # adaptive: symbol after symbol
            with pytest.raises(NotImplementedError):
                encoded.decode_on_gpu()
            continue
        there = encoded.placed(cupy.asarray)
        dense, moved = during(there.decode_on_gpu)
        assert isinstance(dense, cupy.ndarray)
        assert moved.to_host == 0
        assert moved.to_device <= 1, name  # a table of levels, of rotations or of states
        assert during(there.decode_on_gpu)[1] == arrays.Transfers()
        expected = encoded.decode()
        assert (dense.dtype, dense.shape) == (expected.dtype, expected.shape)
        np.testing.assert_array_equal(dense.get(), expected, err_msg=name)
        x = np.ones((encoded.matrix[1], 2), expected.dtype)
        close(there.matmul_on_gpu(cupy.asarray(x)), encoded.matmul(x), 1e-4)
        z = np.ones((2, encoded.matrix[0]), expected.dtype)
        close(there.rmatmul_on_gpu(cupy.asarray(z)), encoded.rmatmul(z), 1e-4)
        decoded.add(encoded.id)
    assert decoded >= {"grid", "codebook", "dense", "mask", "onehot", "vectors", "bitshift", "entropy", "xor"}
    assert decoded >= {"path", "rotation"}


PATHS = [
    ("one block", (12, 50), (1, 12, 50), 1 << 15, 0.3, 8),
    ("bands of rows", (23, 20), (1, 23, 20), 60, 0.3, 4),
    ("parts of rows", (3, 170), (1, 3, 170), 20, 0.3, 256),
    ("planes in bands", (3, 11, 7), (3, 11, 7), 50, 0.3, 1),
    ("planes in parts", (6, 5, 13), (6, 5, 13), 24, 0.3, 8),
    ("more planes than a block", (40, 6), (40, 2, 3), 16, 0.3, 8),
    ("outliers", (16, 20), (1, 16, 20), 100, 1e-9, 8),
    ("tiny steps", (16, 20), (1, 16, 20), 100, 2.0**-120, 8),
    ("a scalar", (), (1, 1, 1), 100, 0.3, 8),
]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("shape", "layout", "weights", "step", "states"), [p[1:] for p in PATHS], ids=[p[0] for p in PATHS]
)
def test_paths_are_decoded_where_their_words_are(
    cupy: Any,
    monkeypatch: pytest.MonkeyPatch,
    shape: tuple[int, ...],
    layout: tuple[int, int, int],
    weights: int,
    step: float,
    states: int,
    dtype: str,
) -> None:
    """Blocks of every extent, to the host's bits; streams are parsed when they are placed, and checked there."""
    monkeypatch.setattr(static, "WEIGHTS", weights)
    x = sample("heavy tails", (math.prod(shape), 1), dtype, 3).reshape(shape)
    x = x * np.asarray(step / 0.3 if step == 2.0**-120 else 1, dtype)
    path = Path.encode(x, step=step, states=states, layout=layout, model="static")
    assert (path.outliers is not None) == (step == 1e-9)
    put = arrays.Home.of(cupy.asarray(np.ones(1))).put
    there, moved = during(lambda: path.placed(put))
    assert (moved.to_host, moved.to_device) == (0, 10 if path.outliers is None else 12)
    dense, moved = during(there.decode_on_gpu)
    assert moved == arrays.Transfers()
    same(dense, path.decode())


def test_damaged_paths_are_found_when_they_are_placed(cupy: Any) -> None:
    path = Path.encode(tall((16, 20)), step=0.3, states=8, model="static")
    stream = path.stream.copy()
    stream[-5:] ^= 5
    damaged = path.altered(stream=stream)
    with pytest.raises(fq.ArtifactError, match="trellis: a damaged stream"):
        damaged.decode()
    with pytest.raises(fq.ArtifactError, match="trellis: a damaged stream"):
        damaged.placed(cupy.asarray)


def test_transform_coding_on_a_gpu(cupy: Any) -> None:
    """Bases and path are read once: from then on nothing is copied, nor is a basis given away that products read."""
    W = tall((32, 64))
    basis = Leaf(Rotation.encode(np.linalg.qr(RNG.standard_normal((32, 32)))[0].astype(np.float32)))
    form = Chain(basis, Leaf(Path.encode(W, step=0.3, states=8, model="static")))
    F = fq.Factorization(form, arrays.HOST, {"id": "elsewhere"}, 0.0)
    G = F.like(cupy.asarray(np.ones(1, np.float32)))
    assert placing.on_host(G.form) == []
    assert "decoded on the host" not in repr(G)
    check_use(cupy, F, G)
    there = basis.factor.placed(cupy.asarray)  # type: ignore[attr-defined]
    there.decode_on_gpu()[...] = 0
    same(there.decode_on_gpu(), basis.factor.decode())  # type: ignore[attr-defined]


def test_a_hostile_index_is_found_before_it_is_there(cupy: Any) -> None:
    encoded = next(iter(laws.decompose(METHODS["vector quantization ragged"], tall((24, 40))).encoded.values()))
    indices = encoded.index.indices.copy()
    indices[:] = 255
    object.__setattr__(encoded.index, "indices", indices)
    with pytest.raises(fq.ArtifactError, match="onehot: index 7 in rows of 7"):
        encoded.placed(cupy.asarray)


# --- solvers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(40, 30), (200, 500), (500, 200)], ids=str)
@pytest.mark.parametrize("tol", [None, 0.0, 1e-2])
def test_truncated_svd_is_array_code(cupy: Any, shape: tuple[int, int], tol: float | None) -> None:
    W = (RNG.standard_normal(shape) * 0.97 ** np.arange(shape[1])).astype(np.float32)
    expected = truncated_svd(W, 5, tol=tol, rng=np.random.default_rng(1))
    for x in (array_api_strict.asarray(W), cupy.asarray(W), cupy.asarray(W.T).T):
        found, moved = during(lambda x=x: truncated_svd(x, 5, tol=tol, rng=np.random.default_rng(1)))
        assert arrays.Home.of(found.U) == arrays.Home.of(found.Vt) == arrays.Home.of(x)
        assert moved.bytes_to_host < W.nbytes / 2
        assert found.steps == expected.steps
        assert found.residual == pytest.approx(expected.residual, rel=1e-3)
        close(found.s, expected.s, 1e-4)
        close((found.U * found.s) @ found.Vt, (expected.U * expected.s) @ expected.Vt, 2e-2)
    assert truncated_svd(cupy.asarray(0 * W), 2, rng=np.random.default_rng(1)).status == "exact: W is zero"


def test_exhausted_krylov_spaces_are_filled_up_on_a_gpu(cupy: Any) -> None:
    """Of a matrix of rank 3, the other directions are random ones."""
    W = (RNG.standard_normal((300, 3)) @ RNG.standard_normal((3, 900))).astype(np.float32)
    found = truncated_svd(cupy.asarray(W), 6, max_blocks=4, rng=np.random.default_rng(1))
    close((found.U * found.s) @ found.Vt, W, 1e-5)
    close(found.U.T @ found.U, np.eye(6), 1e-5)


@pytest.mark.parametrize("weighted", [False, True])
def test_kmeans_on_a_gpu(cupy: Any, weighted: bool) -> None:
    """More centroids than points of a kind: empty clusters are moved, too."""
    x = np.repeat(RNG.standard_normal((40, 3)), 30, axis=0).astype(np.float32)
    x += 0.01 * RNG.standard_normal(x.shape).astype(np.float32)
    weight = RNG.random(x.shape).astype(np.float32) if weighted else None
    expected = kmeans(x, 64, np.random.default_rng(1), weight=weight)
    there = None if weight is None else cupy.asarray(weight)
    found = kmeans(cupy.asarray(x), 64, np.random.default_rng(1), weight=there)
    assert isinstance(found.centroids, cupy.ndarray)
    assert found.inertia[-1] == pytest.approx(expected.inertia[-1], rel=0.02)
    energy = float((x.astype(float) ** 2).sum())
    lost = (x - found.centroids.get()[found.codes.get()]).astype(float) ** 2
    assert (lost * (1 if weight is None else weight)).sum() <= max(1.05 * found.inertia[-1], 1e-9 * energy)


def test_codebook_kernels_take_one_library(cupy: Any) -> None:
    y, table, bias = np.ones((4, 2), np.float32), np.ones((2, 3), np.float32), np.zeros(3, np.float32)
    assert lloyd.nearest(*map(cupy.asarray, (y, table, bias))).get().tolist() == [0, 0, 0, 0]
    with pytest.raises(fq.ArgumentTypeError, match="found cupy and numpy"):
        lloyd.nearest(cupy.asarray(y), table, bias)


# --- neighbours ------------------------------------------------------------------------------------------------------


def test_other_libraries_and_devices_are_refused(stand_in: Any) -> None:
    W = tall((6, 8))
    F, G = (fq.decompose(a(W), method=fq.SVD(2)) for a in (np.asarray, stand_in.asarray))
    x = np.ones(8, np.float32)
    for given, wrong, names in (
        (F, stand_in.asarray(x), "numpy and cupy"),
        (G, x, "cupy and numpy"),
        (F, array_api_strict.asarray(x), "numpy and array_api_strict"),
    ):
        with pytest.raises(fq.ArgumentTypeError, match=rf"^arrays: found {names}.*convert x, or use F.like\(x\)"):
            given @ wrong
        assert type(given.like(wrong) @ wrong) is type(wrong)
    with Device(1):
        far = stand_in.asarray(x)
    with pytest.raises(fq.ArgumentError, match=r"^x: found an array on <CUDA Device 1>.*move it there, or use F.like"):
        G @ far
    H = G.like(far)
    assert (H @ far).device == H.to_dense().device == Device(1)
    close(H @ far, F @ x)


def test_like(xp, same_library, tmp_path: File) -> None:
    """What was read from a file, for arrays of any library: at no cost, and without loss."""
    for dtype in xp.dtypes:
        W = tall((24, 40), dtype)
        fq.save(tmp_path / "w.safetensors", {"w": fq.decompose(W, bits=4, rank=3)})
        F = fq.load(tmp_path / "w.safetensors")["w"]
        x = xp.asarray(sample("gaussian", (40, 3), xp.dtypes[0], 6))
        G, moved = during(lambda F=F, x=x: F.like(x))
        assert moved == arrays.Transfers()
        assert G.buffers().keys() == F.buffers().keys()
        assert all(G.buffers()[name] is buffer for name, buffer in F.buffers().items())
        assert same_library(G.to_dense(), x)
        assert same_library(G @ x, x)
        assert G.to_dense().dtype == G.dtype == xp.asarray(W).dtype
        np.testing.assert_array_equal(xp.host(G.to_dense()).astype(float), F.to_dense().astype(float))
        assert G.like(x) is G
    with pytest.raises(fq.ArgumentTypeError, match=r"^x: found list, allowed is an array"):
        F.like([1.0])


def test_libraries_without_a_dtype() -> None:
    F = fq.decompose(tall((6, 8), "float16"), bits=4)
    with pytest.raises(fq.ArgumentTypeError, match=r"^dtype: found float16 factors for array_api_strict"):
        F.like(array_api_strict.ones(3))


def test_tensors_that_require_gradients() -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    W = torch.from_numpy(tall((6, 8)))
    F = fq.decompose(W.clone().requires_grad_(), bits=4)
    G = fq.decompose(torch.nn.Parameter(W.T.contiguous()).T, bits=4)
    assert laws.stored(F) == laws.stored(G) == laws.stored(fq.decompose(W, bits=4))
    x = torch.ones(8)
    assert not F.to_dense().requires_grad
    with pytest.raises(fq.ArgumentError, match=r"^x: found a tensor that requires gradients.*torch.no_grad"):
        F @ x.requires_grad_()
    with torch.no_grad():
        assert torch.equal(F @ x, F @ x.detach())


# --- what becomes of it ----------------------------------------------------------------------------------------------


def test_what_is_on_a_gpu_is_saved_and_copied_as_it_is_stored(cupy: Any, tmp_path: File) -> None:
    W = tall()
    F = fq.decompose(cupy.asarray(W), method=fq.VectorQuantization(4, 16))
    x = cupy.asarray(np.ones(160, np.float32))
    first = F @ x
    _, moved = during(lambda: fq.save(tmp_path / "w.safetensors", {"w": F, "b": x}))
    assert moved == arrays.Transfers(to_host=1, bytes_to_host=640)  # b alone: the factors are on the host as well
    read = fq.load(tmp_path / "w.safetensors")
    assert laws.stored(read["w"]) == laws.stored(F)
    np.testing.assert_array_equal(read["b"], x.get())
    again, moved = during(lambda: read["w"].like(x) @ x)
    assert (moved.to_host, moved.to_device) == (0, 2)
    np.testing.assert_array_equal(again.get(), first.get())
    for other in (pickle.loads(pickle.dumps(F)), copy.deepcopy(F)):
        assert "placed" not in vars(other)
        assert other.home == F.home
        np.testing.assert_array_equal((other @ x).get(), first.get())
    host, moved = during(lambda: np.asarray(F))
    assert moved == arrays.Transfers()
    close(F.to_dense(), host)


def test_stores_are_read_once(cupy: Any) -> None:
    """Streams are decoded on the host when the factors are placed, and never again."""
    W = sample("heavy tails", (64, 128), "float32", 3)
    for store, method in (("entropy", fq.Scalar(4)), ("xor", fq.Scalar(2, sparsity=0.8))):
        F = fq.decompose(W, method=method, store=store)
        G = fq.decompose(cupy.asarray(W), method=method, store=store)
        assert laws.stored(G) == laws.stored(F)
        assert placing.on_host(G.form) == []
        x = np.ones((128, 2), np.float32)
        there = cupy.asarray(x)
        close(G @ there, F @ x)
        assert during(lambda G=G, there=there: G @ there)[1] == arrays.Transfers()


def test_forms_on_a_gpu(cupy: Any) -> None:
    def leaf(*shape: int) -> Leaf:
        return Leaf(Dense.encode(RNG.standard_normal(shape).astype(np.float32)))

    there = cupy.asarray(np.ones(1, np.float32))
    for form in (
        Tucker(leaf(3, 4), (leaf(8, 3), leaf(12, 4))),
        CP(leaf(1, 5), (leaf(8, 5), leaf(12, 5))),
        Sum((Chain(leaf(8, 2), leaf(2, 12)), leaf(8, 12))),
        Rotated(Chain(leaf(8, 2), leaf(2, 12)), 3, 4),
        Folded(Chain(leaf(16, 2), leaf(2, 6)), Fold((8, 12), (8, 2, 6), (0, 1))),
        Folded(Chain(leaf(12, 2), leaf(2, 8)), Fold.transposed((8, 12))),
        Folded(leaf(24, 4), Fold((8, 12), (2, 4, 3, 4), (2, 0, 1))),
    ):
        F = fq.Factorization(form, arrays.HOST, {"id": "elsewhere"}, 0.0)
        G = F.like(there)
        close(G.to_dense(), F.to_dense())
        for columns in (0, 1, 5):
            x, z = (RNG.standard_normal(shape).astype(np.float32) for shape in ((12, columns), (columns, 8)))
            for found, expected in ((G @ cupy.asarray(x), F @ x), (cupy.asarray(z) @ G, z @ F)):
                assert tuple(found.shape) == expected.shape
                if columns:
                    close(found, expected)
        assert during(lambda G=G: G @ cupy.asarray(np.ones((12, 1), np.float32)))[1] == arrays.Transfers()


def test_a_form_is_placed_for_a_gpu_only() -> None:
    F = fq.decompose(tall((6, 8)), rank=2)
    assert placing.placed(F.form, F.home) is F.form
    assert mapped(F.form, lambda factor: factor) is not F.form
    assert not isinstance(F.to_dense(), DeviceArray)
