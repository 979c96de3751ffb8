"""FleXOR: signs from an XOR network that are trained as they are stored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_trainable import OPS

import factorq as fq
from factorq.codecs import Mask, Xor
from factorq.codecs.base.shadow import Rewrapped
from factorq.codecs.xor.coded import Coded
from factorq.codecs.xor.shadow import CODES, Plane, Products, basis, suitable
from factorq.errors import ArgumentError, ArgumentTypeError
from factorq.kernels import slices

SHAPES = ((1, 1), (1, 9), (9, 1), (5, 7), (64, 176), (4, 3, 3, 3))


def weights(shape: tuple[int, ...], dtype: str = "float32", seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def behind(F: fq.Factorization) -> Products:
    (factor,) = F.encoded.values()
    shadow = factor.shadow()
    assert isinstance(shadow, Products)
    return shadow


def value_of(shadow: Products, parameters: dict[str, Any]) -> Any:
    return shadow.value(OPS, parameters, shadow.constants())


# Networks ------------------------------------------------------------------------------------------------------------


@given(st.integers(1, 12), st.integers(0, 30), st.integers(0, 2**64 - 1))
@settings(max_examples=60, deadline=None)
def test_a_basis_is_the_same_network(n_in: int, more: int, seed: int) -> None:
    n_out = n_in + more
    M, found = Plane(1, n_in, n_out, seed).matrix().astype(int), basis(n_in, n_out, seed)
    words = np.array([[(k >> q) & 1 for k in range(1 << n_in)] for q in range(n_in)])
    distinct = np.unique(M @ words % 2, axis=1).shape[1]
    if found is None:
        assert distinct < 1 << n_in
        return
    assert distinct == 1 << n_in
    taps, back = found.taps.astype(int), found.back.astype(int)
    np.testing.assert_array_equal(M @ back % 2, taps)
    np.testing.assert_array_equal(taps[found.free], np.eye(n_in))
    assert found.products.size == more
    assert (found.products >= 1).all()


def test_the_matrix_is_that_of_the_slices() -> None:
    size, n_in, n_out, seed = 1000, 9, 15, 5
    plane = Plane(size, n_in, n_out, seed)
    inputs = np.random.default_rng(0).integers(0, 2, (n_in, plane.slices), dtype=np.uint8)
    outputs = (plane.matrix() @ inputs % 2).reshape(-1)[plane.place()]
    data = Coded(plane.stream(inputs), np.ones(size, bool))
    assert data.patches.size == 0
    assert data.efficiency == 1
    assert data.nbytes == plane.nbytes
    np.testing.assert_array_equal(data.decode(), 1 - outputs)  # complemented: bit 1 is a negative sign
    kernel = data._read.layout.outputs(data._read.streams, 0, size)[0]
    np.testing.assert_array_equal(np.unpackbits(kernel[0], count=size, bitorder="little"), outputs)


@pytest.mark.parametrize("size", [1, 7, 8 * 5, 512 * 8 - 1, 512 * 8, 512 * 8 + 1, 3 * 512 * 8 + 77])
def test_streams_give_their_inputs_back(size: int) -> None:
    plane = Plane(size, 5, 8, 21)
    inputs = np.random.default_rng(1).integers(0, 2, (5, plane.slices), dtype=np.uint8)
    stream = plane.stream(inputs)
    assert stream.nbytes == plane.nbytes
    read = Plane.read(stream)
    assert read is not None
    assert read[0] == plane
    np.testing.assert_array_equal(read[1], inputs)
    place = plane.place()
    assert np.unique(place).size == size
    assert place.max() < 8 * plane.slices
    # what solving finds for these outputs has the same outputs, too: nothing is left to patch
    wanted = (plane.matrix() @ inputs % 2).reshape(-1)[place]
    solved = slices.solve(np.ones(size, bool), wanted.astype(np.uint64), 1, 5, 8, 21)
    bits = np.unpackbits(slices.outputs(solved, size, 5, 8, 21)[0], count=size, bitorder="little")
    np.testing.assert_array_equal(bits, wanted)


def test_other_streams_are_no_planes() -> None:
    care, values = np.ones(64, bool), np.arange(64, dtype=np.uint8) % 2
    for code in (fq.xor.Slices(5, 8), fq.xor.Banded()):
        assert Plane.read(fq.xor.encode(values, care, bits=1, code=code).data) is None


@pytest.mark.parametrize(("n_in", "n_out", "most"), [(4, 5, 3), (8, 10, 3), (6, 10, 3), (9, 15, 4), (12, 20, 4)])
def test_products_have_three_factors(n_in: int, n_out: int, most: int) -> None:
    found = basis(n_in, n_out, suitable(n_in, n_out))
    assert found is not None
    assert 3 <= found.products.min() <= found.products.max() <= most


# The method ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("planes", [1, 2])
def test_what_is_stored(shape: tuple[int, ...], planes: int) -> None:
    W, method = weights(shape), fq.FleXOR(5, 8, planes=planes)
    F = fq.decompose(W, method=method)
    size, levels = W.size, 0.0
    for factor in F.encoded.values():
        assert isinstance(factor, Xor)
        whole = factor.restored()
        assert isinstance(whole, Mask)
        assert whole.mask().all()
        assert whole.positions.nbytes == 0
        stream = slices.stream_size(size, 5, 8)
        assert factor.parts["inner.scales"].nbytes == 2 * shape[0]
        assert stream + 16 <= factor.parts[CODES].nbytes <= stream + 32
        assert Coded(factor.parts[CODES], np.ones(shape, bool)).patches.size == 0
        levels = levels + np.abs(factor.decode().reshape(shape[0], -1))
    assert F.nbytes == method.nbytes(shape, "float32")
    assert np.ptp(levels, axis=1).max() == 0.0  # a scale per row
    assert F.relative_error <= 1


def test_a_start_is_the_best_input_of_every_slice() -> None:
    W = np.sign(weights((1, 77)))  # of equal magnitudes: the scale changes nothing
    F = fq.decompose(W, method=fq.FleXOR(4, 7, seed=3))
    plane = Plane(77, 4, 7, 3)
    outputs = np.zeros((7, plane.slices))
    outputs.reshape(-1)[plane.place()] = W.reshape(-1)
    words = np.array([[(k >> q) & 1 for k in range(16)] for q in range(4)])
    signs = 1 - 2 * (plane.matrix() @ words % 2)
    agreement = (signs.T @ outputs).max(axis=0).sum() / 77
    np.testing.assert_allclose(F.relative_error**2, 1 - agreement**2, rtol=1e-3)


def test_full_rate_is_the_sign() -> None:
    W = weights((8, 72))
    F = fq.decompose(W, method=fq.FleXOR(6, 6))
    want = np.sign(W) * np.abs(W).mean(axis=1, keepdims=True)
    np.testing.assert_allclose(F.to_dense(), want, rtol=1e-3)


def test_more_bits_less_error_and_planes_add_up() -> None:
    W = weights((32, 288))
    errors = [fq.decompose(W, method=fq.FleXOR(*s)).relative_error for s in ((8, 16), (8, 10), (8, 16, 2), (8, 10, 2))]
    assert errors == sorted(errors, reverse=True)


@pytest.mark.parametrize("target", [0.35, 0.61, 0.84, 0.96, 1.48, 1.92])
def test_a_size_is_met(target: float) -> None:
    F = fq.decompose(weights((64, 576)), method="flexor", bits_per_weight=target)
    assert 0.98 * target <= F.bits_per_weight <= target
    assert isinstance(F.method, fq.FleXOR)


@pytest.mark.parametrize(
    ("error", "settings", "match"),
    [
        (ArgumentError, {"n_in": 13}, "n_in"),
        (ArgumentError, {"n_in": 8, "n_out": 7}, "n_out"),
        (ArgumentError, {"n_out": 65}, "n_out"),
        (ArgumentTypeError, {"planes": 1.0}, "planes"),
        (ArgumentError, {"planes": 0}, "planes"),
        (ArgumentError, {"seed": -1}, "seed"),
        (ArgumentError, {"n_in": 3, "n_out": 3, "seed": 0}, "^seed: .*all 3 inputs.*leave it out"),
        (ArgumentError, {"max_iter": 0}, "max_iter"),
    ],
)
def test_bad_settings(error: type[Exception], settings: dict[str, Any], match: str) -> None:
    with pytest.raises(error, match=match):
        fq.FleXOR(**settings)


# Training ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("sizes", [(1, 1), (1, 3), (5, 8), (8, 10)], ids=str)
def test_what_is_trained_is_what_is_stored(shape: tuple[int, ...], dtype: str, sizes: tuple[int, int]) -> None:
    F = fq.decompose(weights(shape, dtype), method=fq.FleXOR(*sizes))
    shadow, rng = behind(F), np.random.default_rng(2)
    first = shadow.parameters()
    assert {x.dtype.name for x in first.values()} == {dtype}
    np.testing.assert_array_equal(value_of(shadow, first), F.to_dense())
    assert fq.Trainable(F).factorization({f"W.{k}": x for k, x in first.items()}) is F
    np.testing.assert_array_equal(shadow.stored(first).buffers()[CODES], F.encoded["W"].buffers()[CODES])
    moved = {
        "signs": rng.standard_normal(first["signs"].shape).astype(dtype),
        "scales": rng.uniform(-2, 2, first["scales"].shape).astype(dtype),
    }
    G = fq.Trainable(F).factorization({f"W.{k}": x for k, x in moved.items()})
    np.testing.assert_array_equal(G.to_dense(), value_of(shadow, moved))
    assert G.nbytes == F.nbytes
    assert Coded(G.encoded["W"].buffers()[CODES], np.ones(shape, bool)).patches.size == 0
    again = behind(G)
    value = again.parameters()
    np.testing.assert_array_equal(value_of(again, value), G.to_dense())
    np.testing.assert_array_equal(value["signs"] < 0, moved["signs"] < 0)


def test_planes_are_trained_side_by_side_and_saved(tmp_path: Path) -> None:
    F = fq.decompose(weights((4, 6, 3, 3)), method=fq.FleXOR(6, 8, planes=2))
    trained = fq.Trainable(F)
    rng = np.random.default_rng(3)
    moved = {k: rng.standard_normal(x.shape).astype(x.dtype) for k, x in trained.parameters().items()}
    assert sum(k.endswith("signs") for k in moved) == 2
    G = trained.factorization(moved)
    np.testing.assert_array_equal(trained.form(OPS, moved, trained.constants()).dense(), G.to_dense())
    fq.save(tmp_path / "w.safetensors", {"w": G})
    H = fq.load(tmp_path / "w.safetensors")["w"]
    assert isinstance(H, fq.Factorization)
    np.testing.assert_array_equal(H.to_dense(), G.to_dense())
    assert (H.nbytes, H.method) == (F.nbytes, F.method)
    again = fq.Trainable(H)
    np.testing.assert_array_equal(again.form(OPS, again.parameters(), again.constants()).dense(), G.to_dense())


def test_a_zero_is_positive_on_both_sides() -> None:
    F = fq.decompose(weights((3, 40)), method=fq.FleXOR(5, 8))
    shadow = behind(F)
    moved = {k: x * (k == "scales") for k, x in shadow.parameters().items()}
    moved["signs"][::2] *= -1  # negative zeros
    np.testing.assert_array_equal(value_of(shadow, moved), shadow.stored(moved).decode())
    assert (value_of(shadow, moved) > 0).all()


def test_other_xor_codecs_keep_their_shadow() -> None:
    F = fq.decompose(weights((64, 288)), method=fq.Scalar(1, group=None, sparsity=0.5), store="xor")
    (factor,) = F.encoded.values()
    assert isinstance(factor, Xor)
    assert isinstance(factor.shadow(), Rewrapped)


# Gradients, by PyTorch -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def torch() -> Any:
    return pytest.importorskip("torch", reason="needs PyTorch: pip install 'factorq[torch]'")


def module_of(F: fq.Factorization) -> Any:
    from factorq.adapters.torch import to_module

    return to_module(F)


def test_the_gradient_of_a_product(torch: Any) -> None:
    """Of each sign: S (1 - tanh(S x)^2) times the other signs; checked against the definition, entry by entry."""
    W, rng = weights((3, 24), "float64"), np.random.default_rng(4)
    F = fq.decompose(W, method=fq.FleXOR(5, 8))
    plane, layer = F.method.plane(W.shape), module_of(F)
    found = basis(plane.n_in, plane.n_out, plane.seed)
    numbers = {name.rpartition("__")[2]: x for name, x in layer.named_parameters()}
    x, g = 0.1 * rng.standard_normal(numbers["signs"].shape), rng.standard_normal(W.shape)
    with torch.no_grad():
        numbers["signs"].copy_(torch.tensor(x))
    value = layer.weight
    (value * torch.tensor(g)).sum().backward()
    signs, slope = np.where(x < 0, -1.0, 1.0), 10 * (1 - np.tanh(10 * x) ** 2)
    scales = np.abs(F.to_dense()).max(axis=1)  # none is negative here
    want = np.zeros_like(x)
    for p, at in enumerate(plane.place()):
        i, s = divmod(int(at), plane.slices)
        taps = np.flatnonzero(found.taps[i])
        for j in taps:
            others = np.prod([signs[k, s] for k in taps if k != j])
            want[j, s] += g.flat[p] * scales[p // 24] * others * slope[j, s]
    np.testing.assert_allclose(numbers["signs"].grad.numpy(), want, rtol=1e-9, atol=1e-12)
    want = (g * value.detach().numpy()).sum(axis=1) * np.sqrt(2 / 24)
    np.testing.assert_allclose(numbers["scales"].grad.numpy(), want, rtol=1e-9)


@pytest.mark.parametrize("method", [fq.FleXOR(8, 10), fq.FleXOR(6, 10), fq.FleXOR(6, 10, planes=2)], ids=repr)
def test_a_layer_learns(torch: Any, method: fq.FleXOR) -> None:
    """A linear layer on correlated inputs: its outputs come nearer than those of the signs of W, in fewer bits."""
    rng, W = np.random.default_rng(6), weights((16, 80), seed=7)
    x = torch.tensor((rng.standard_normal((512, 12)) @ rng.standard_normal((12, 80))).astype(np.float32))
    want = x @ torch.tensor(W).T

    def loss_of(dense: Any) -> Any:
        return ((x @ dense.T - want) ** 2).mean() / (want**2).mean()

    F = fq.decompose(W, method=method)
    layer = module_of(F)
    optimizer = torch.optim.Adam(layer.parameters(), lr=3e-3)
    for _ in range(300):
        loss = loss_of(layer.weight)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    G = layer.factors.factorization()
    np.testing.assert_array_equal(G.to_dense(), layer.weight.detach().numpy())
    assert G.nbytes == F.nbytes
    before, after = (float(loss_of(torch.tensor(np.asarray(factors.to_dense())))) for factors in (F, G))
    signs = float(loss_of(torch.tensor(np.sign(W) * np.abs(W).mean(axis=1, keepdims=True))))
    assert after < 0.5 * before, (before, after)
    assert after < signs, (after, signs)
