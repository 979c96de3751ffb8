"""Layers of a factorization against the dense layer, by PyTorch and by NumPy; operations counted by hand; TensorLy."""

from __future__ import annotations

import itertools
import sys
from dataclasses import replace
from types import ModuleType

import ml_dtypes
import numpy as np
import pytest

import factorq as fq
from factorq.arrays import HOST, Home
from factorq.codecs import Dense
from factorq.constraints import Clustered, Quantized, Sparse
from factorq.factorization.layers import Conv
from factorq.forms import CP, Chain, Fold, Folded, Form, Leaf, Sum, Tucker

RNG = np.random.default_rng(11)
R = 3


def leaf(*shape: int) -> Leaf:
    return Leaf(Dense.encode(RNG.standard_normal(shape)))


def made(form: Form, dtype: str = "float64") -> fq.Factorization:
    return fq.Factorization(form, Home(HOST.xp, HOST.device, dtype), {"id": "elsewhere"}, 0.0)


def cp(*factors: tuple[int, ...]) -> fq.Factorization:
    """CP with random weights and factors of these shapes, the rank apart."""
    return made(CP(leaf(1, R), tuple(leaf(*shape, R) for shape in factors)))


def chain(shape: tuple[int, ...], transposed: bool = False) -> fq.Factorization:
    fold = Fold.transposed(shape) if transposed else Fold.matrix(shape)
    m, n = fold.matrix_shape
    return made(Folded(Chain(leaf(m, R), leaf(R, n)), fold))


@pytest.fixture
def torch() -> ModuleType:
    return pytest.importorskip("torch", reason="torch is not installed")


def run(torch: ModuleType, convs: tuple[Conv, ...], x: object) -> object:
    for conv in convs:
        apply = getattr(torch.nn.functional, f"conv{conv.weight.ndim - 2}d")
        weight = torch.asarray(conv.weight)
        x = apply(x, weight, None, conv.stride, conv.padding, conv.dilation, conv.groups)
    return x


def check_layers(torch: ModuleType, F: fq.Factorization, **settings: object) -> tuple[Conv, ...]:
    """The sequence does what the layer with weight ``F.to_dense()`` does."""
    W, groups = F.to_dense(), int(settings.get("groups", 1))
    x = torch.asarray(RNG.standard_normal((2, W.shape[1] * groups, *(9, 14, 8)[: W.ndim - 2])))
    apply = getattr(torch.nn.functional, f"conv{W.ndim - 2}d")
    convs = F.to_conv(**settings)
    got, want = run(torch, convs, x), apply(x, torch.asarray(W), **settings)
    assert got.shape == want.shape
    np.testing.assert_allclose(got.numpy(), want.numpy(), rtol=1e-10, atol=1e-10)
    size = tuple(x.shape[2:])
    for conv in convs:
        size = conv.output_size(size)
    assert size == tuple(want.shape[2:])
    return convs


SETTINGS = [
    dict(zip(("stride", "padding", "dilation"), values, strict=True))
    for values in itertools.product((1, 2, (3, 1)), (0, (1, 2), "valid"), (1, (1, 2)))
]
SETTINGS += [{"padding": "same"}, {"padding": "same", "dilation": (2, 1)}, {"stride": 2, "padding": 4, "dilation": 3}]


@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (1, 7), (2, 4)], ids=str)
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("kind", ["cp", "chain"])
def test_settings(torch: ModuleType, kind: str, groups: int, kernel: tuple[int, int]) -> None:
    F = cp((8,), (5,), kernel) if kind == "cp" else chain((8, 5, *kernel))
    for settings in SETTINGS:
        if settings.get("padding") == "same" and kernel == (2, 4):
            continue  # PyTorch warns of a copy
        convs = check_layers(torch, F, **settings, groups=groups)
        g = groups * R
        if kind == "chain":
            assert [c.weight.shape for c in convs] == [(g, 5, *kernel), (8, R, 1, 1)]
        elif kernel == (1, 1):
            assert [c.weight.shape for c in convs] == [(g, 5, 1, 1), (8, R, 1, 1)]
        else:
            assert [c.weight.shape for c in convs] == [(g, 5, 1, 1), (g, 1, *kernel), (8, R, 1, 1)]
            assert [c.groups for c in convs] == [groups, g, groups]


@pytest.mark.parametrize(
    "F", [cp((8,), (5,), (3, 4)), cp((8,), (5,), (1, 1)), chain((8, 5, 3, 4))], ids=["3", "2", "chain"]
)
@pytest.mark.parametrize("padding", ["same", "valid", (2, 1)])
def test_jax(F: fq.Factorization, padding: str | tuple[int, int]) -> None:
    """JAX's convolutions, where "same" goes with strides too and kernels may be even."""
    lax = pytest.importorskip("jax.lax", reason="jax is not installed")

    def apply(conv: Conv, x: np.ndarray) -> np.ndarray:
        pads = "SAME" if conv.padding == "same" else [(p, p) for p in conv.padding]
        weight = conv.weight.astype(np.float32)
        return lax.conv_general_dilated(
            x, weight, conv.stride, pads, rhs_dilation=conv.dilation, feature_group_count=conv.groups
        )

    want = x = RNG.standard_normal((2, 10, 9, 14)).astype(np.float32)
    settings = {"stride": (2, 3), "padding": padding, "dilation": (2, 1), "groups": 2}
    convs = F.to_conv(**settings)
    size = x.shape[2:]
    for conv in convs:
        x, size = apply(conv, x), conv.output_size(size)
    want = apply(replace(convs[-2], weight=F.to_dense(), groups=2), want)
    assert x.shape == want.shape == (2, 8, *size)
    np.testing.assert_allclose(x, want, rtol=1e-4, atol=1e-4)


READINGS: dict[str, tuple[tuple[int, ...], ...]] = {
    "usual": ((6,), (4,), (3, 3)),
    "each kernel axis": ((6,), (4,), (3,), (5,)),
    "one input": ((6,), (1, 3, 3)),
    "one input, apart": ((6,), (1,), (3, 2)),
    "one output": ((1, 4), (3, 3)),
    "one output, apart": ((1,), (4,), (3,), (3,)),
    "one position": ((6,), (4, 1, 1)),
    "one position, apart": ((6,), (4,), (1, 1)),
    "outputs and no more": ((6, 1), (1, 1)),
    "inputs and no more": ((1,), (4, 1), (1,)),
    "a row": ((6,), (4, 1), (5,)),
    "a column": ((6,), (4,), (5,), (1,)),
    "a line": ((6,), (4,), (3,)),
    "a line of one output": ((1, 4), (5,)),
    "a box": ((6,), (4,), (2, 3, 2)),
    "a box by axes": ((6,), (4,), (2, 3), (2,)),
    "a box of one height": ((6,), (4, 1), (3, 2)),
}


@pytest.mark.parametrize("factors", READINGS.values(), ids=list(READINGS))
def test_readings(torch: ModuleType, factors: tuple[tuple[int, ...], ...]) -> None:
    F = cp(*factors)
    convs = check_layers(torch, F)
    check_layers(torch, F, stride=2, padding=2, dilation=2)
    positions = int(np.prod(F.shape[2:]))
    assert len(convs) == (3 if positions > 1 else 2)
    assert all(isinstance(c.weight, np.ndarray) and c.weight.flags.c_contiguous for c in convs)
    if F.shape[0] > 1:
        check_layers(torch, F, groups=F.shape[0], padding=1)


@pytest.mark.parametrize("shape", [(6, 4, 5), (6, 1, 3, 3), (1, 4, 3, 3), (6, 4, 2, 3, 2)], ids=str)
@pytest.mark.parametrize("transposed", [False, True])
def test_products(torch: ModuleType, shape: tuple[int, ...], transposed: bool) -> None:
    F = chain(shape, transposed)
    check_layers(torch, F)
    check_layers(torch, F, stride=2, padding=1, dilation=2, groups=shape[0])


@pytest.mark.parametrize(
    "method",
    [
        fq.SVD(3), fq.SVD(3, bits=4), fq.SVD(3, bits=4, codes="trellis"),
        fq.QuantizedSparse(4, bits=4, sparsity=0.5, fold="rows"),
        fq.QuantizedSparse(4, bits=4, sparsity=0.5, fold="columns"),
    ],
    ids=repr,
)  # fmt: skip
def test_methods(torch: ModuleType, method: fq.Method, tmp_path) -> None:
    F = fq.decompose(RNG.standard_normal((8, 4, 3, 3)), method=method)
    convs = check_layers(torch, F, stride=2, padding=1, groups=2)
    fq.save(tmp_path / "w.safetensors", {"w": F})
    again = fq.load(tmp_path / "w.safetensors")["w"].to_conv(stride=2, padding=1, groups=2)
    assert all(np.array_equal(a.weight, b.weight) for a, b in zip(convs, again, strict=True))
    W = RNG.standard_normal((8, 20))
    check_matrix(fq.decompose(W, method=method))


def check_matrix(F: fq.Factorization) -> None:
    B, A = F.to_conv()
    r = len(B.weight)
    assert (A.weight.shape, B.weight.shape) == ((F.shape[0], r), (r, F.shape[1]))
    assert (A.stride, A.padding, A.dilation, A.groups) == ((), (), (), 1)
    x = RNG.standard_normal(F.shape[1])
    np.testing.assert_allclose(A.weight @ (B.weight @ x), F @ x, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    "form",
    [
        Chain(leaf(5, R), leaf(R, 7)),
        CP(leaf(1, R), (leaf(5, R), leaf(7, R))),
        Folded(Chain(leaf(7, R), leaf(R, 5)), Fold.transposed((5, 7))),
        Folded(CP(leaf(1, R), (leaf(7, R), leaf(5, R))), Fold.transposed((5, 7))),
        Folded(Chain(leaf(5, R), leaf(R, 7)), Fold.matrix((5, 7))),
        Chain(Chain(leaf(5, 2), leaf(2, R)), leaf(R, 7)),
        CP(leaf(1, R), (leaf(5, R), leaf(1, R))),
    ],
    ids=str,
)
def test_matrices(form: Form) -> None:
    F = made(form)
    check_matrix(F)
    assert [repr(c) for c in F.to_conv()] == [f"Conv(3x{F.shape[1]}, linear)", "Conv(5x3, linear)"]
    for empty in ({"stride": (), "padding": [], "dilation": ()}, {"stride": 1, "groups": 1}):
        F.to_conv(**empty)


def test_homes(xp, same_library) -> None:
    """Layers are arrays of W's library and dtype."""
    for dtype in xp.dtypes:
        W = xp.asarray(RNG.standard_normal((6, 4, 3, 3)).astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype))
        for conv in fq.decompose(W, method=fq.SVD(2)).to_conv():
            assert same_library(conv.weight, W)
            assert conv.weight.dtype == W.dtype
            assert conv.weight.shape in ((2, 4, 3, 3), (6, 2, 1, 1))


def test_integer_factors_in_half_precision() -> None:
    """Weights of 1e-9 beside integers of 7 bits neither vanish nor overflow in float16."""
    codes = [RNG.integers(-127, 128, shape).astype(np.float32) for shape in ((6, R), (4, R), (3, 3, R))]
    w = RNG.uniform(1, 2, (1, R)).astype(np.float32) * 2e-8
    form = CP(Leaf(Dense.encode(w)), tuple(Leaf(Dense.encode(z)) for z in codes))
    want = form.dense()
    B, C, A = (conv.weight.astype(np.float64) for conv in made(form, "float16").to_conv())
    assert all(np.abs(x).max() <= 1 for x in (A, B, C))
    got = np.einsum("or,ri,rp->oip", A[:, :, 0, 0], B[:, :, 0, 0], C.reshape(R, 9)).reshape(want.shape)
    assert np.linalg.norm(got - want) < 1e-3 * np.linalg.norm(want)
    B, C, A = (conv.weight for conv in made(form, "float32").to_conv())  # as they are where the range allows it
    assert np.array_equal(A[:, :, 0, 0], codes[0])
    assert np.array_equal(B[:, :, 0, 0], codes[1].T)


@pytest.mark.parametrize(
    ("F", "message"),
    [
        (
            made(leaf(4, 3, 2, 2)),
            r"to_conv: found an array without factors of shape \(4, 3, 2, 2\), allowed is CP, or a",
        ),
        (made(leaf(4, 3)), 'decompose with method="cp" or "svd", or use the array to_dense'),
        (made(Sum((leaf(4, 3), leaf(4, 3)))), r"to_conv: found Sum\(4x3, 4x3\) of shape \(4, 3\)"),
        (made(Tucker(leaf(2, 2, 2), (leaf(3, 2), leaf(4, 2), leaf(5, 2)))), "to_conv: found Tucker"),
        (made(Folded(Chain(leaf(9, R), leaf(R, 12)), Fold.positions((4, 3, 3, 3)))), r"to_conv: found Folded\(Chain"),
        (made(Folded(leaf(4, 6), Fold.matrix((4, 3, 2)))), "to_conv: found Folded"),
        (cp((4, 3), (3, 3)), r"to_conv: factor0: found \(4, 3, 3\) over outputs and inputs, allowed is factors over"),
        (cp((4,), (3, 3), (3,)), r"to_conv: factor1: found \(3, 3, 3\) over inputs and kernel positions"),
        (cp((4, 1, 3), (3,)), "to_conv: factor0: found .* over outputs and kernel positions"),
    ],
)
def test_forms_that_are_no_layers(F: fq.Factorization, message: str) -> None:
    with pytest.raises(fq.ArgumentError, match=message):
        F.to_conv()
    with pytest.raises(fq.ArgumentError, match=message):
        F.operations((8,) * (F.ndim - 2))


CONV, MATRIX = cp((6,), (4,), (3, 3)), made(Chain(leaf(5, R), leaf(R, 7)))


@pytest.mark.parametrize(
    ("F", "settings", "message"),
    [
        (CONV, {"stride": 0}, "stride: found 0, allowed is an integer of at least 1"),
        (CONV, {"stride": (1, 2, 3)}, "stride: found 3 integers, allowed is an integer or 2, one per spatial axis"),
        (CONV, {"stride": 1.0}, "stride: found float, allowed is an integer or 2 integers"),
        (CONV, {"stride": (1, 2.0)}, r"stride: found 2\.0, allowed is integers"),
        (CONV, {"stride": True}, "stride: found True"),
        (CONV, {"padding": -1}, "padding: found -1, allowed is an integer of at least 0"),
        (CONV, {"padding": "reflect"}, 'padding: found \'reflect\', allowed is integers, "same" or "valid"'),
        (CONV, {"dilation": (0, 1)}, "dilation: found 0"),
        (CONV, {"groups": 4}, "groups: found 4, allowed is a divisor of the 6 outputs"),
        (CONV, {"groups": 0}, "groups: found 0"),
        (CONV, {"groups": (2,)}, "groups: found .* allowed is integers"),
        (MATRIX, {"stride": 2}, "stride: found 2, allowed is 1, since a matrix has no spatial axes"),
        (MATRIX, {"padding": 1}, "padding: found 1, allowed is 0"),
        (MATRIX, {"padding": "same"}, "padding: found 'same', allowed is 0"),
        (MATRIX, {"dilation": (1,)}, r"dilation: found 1 integers, allowed is \(\), since"),
        (MATRIX, {"groups": 5}, "groups: found 5, allowed is 1, since a matrix has no groups"),
    ],
)
def test_settings_that_do_not_fit(F: fq.Factorization, settings: dict[str, object], message: str) -> None:
    with pytest.raises(fq.FactorqError, match=message):
        F.to_conv(**settings)  # type: ignore[arg-type]
    with pytest.raises(fq.FactorqError, match=message):
        F.operations((8,) * (F.ndim - 2), **settings)  # type: ignore[arg-type]


# --- operations ---------------------------------------------------------------------------------------------------


def coded(bits: int, *shape: int) -> Leaf:
    return Leaf(Quantized(bits, group=None).encode(RNG.standard_normal(shape).astype(np.float32)))


def test_operations_of_a_convolution() -> None:
    weights = Leaf(Dense.encode(np.ones((1, 2), np.float32)))
    F = made(CP(weights, (coded(4, 6, 2), coded(3, 4, 2), coded(8, 3, 3, 2))), "float32")
    ops = F.operations((9, 8), stride=2, padding=1, activation_bits=8)  # out 5 x 4
    assert ops.macs_before == 6 * 4 * 9 * 20
    assert ops.macs_after == 2 * 4 * 72 + 2 * 9 * 20 + 6 * 2 * 20
    assert ops.bops_before == ops.macs_before * 32 * 32
    assert ops.bops_after == 8 * (3 * 2 * 4 * 72 + 8 * 2 * 9 * 20 + 4 * 6 * 2 * 20)
    assert (ops.parameters_before, ops.parameters_after) == (216, 2 + 12 + 8 + 18)
    assert ops.bytes == F.nbytes
    shown = str(ops).splitlines()
    assert shown[1].split() == ["MACs", "4,320", "1,176", "27.22%"]
    assert shown[-1] == f"stored in {F.nbytes} bytes"
    assert F.operations(9, stride=2, padding=1) == F.operations((9, 9), (2, 2), (1, 1))


def test_operations_with_groups() -> None:
    """The components of every group are computed: g times the first and the second layer."""
    F = made(CP(leaf(1, 2), (leaf(6, 2), leaf(4, 2), leaf(3, 3, 2))))
    ops = F.operations(8, padding="same", groups=2, activation_bits=16)
    assert ops.macs_before == 6 * 4 * 9 * 64
    assert ops.macs_after == (2 * 2 * 4 + 2 * 2 * 9 + 6 * 2) * 64
    assert ops.bops_before == ops.macs_before * 64 * 32
    assert ops.bops_after == ops.macs_after * 64 * 16
    assert ops.parameters_after == 2 + 12 + 8 + 18


@pytest.mark.parametrize(
    ("settings", "out"),
    [
        ({}, 8), ({"padding": "valid"}, 8), ({"padding": 1}, 10), ({"stride": 3}, 3), ({"dilation": 4}, 2),
        ({"padding": "same"}, 10), ({"padding": "same", "stride": 3}, 4), ({"stride": 4, "padding": 2}, 3),
    ],
)  # fmt: skip
def test_output_sizes(settings: dict[str, object], out: int) -> None:
    assert chain((6, 4, 3)).operations(10, **settings).macs_before == 6 * 4 * 3 * out  # type: ignore[arg-type]


def test_operations_of_a_matrix() -> None:
    ops = made(Chain(coded(4, 10, 2), coded(2, 2, 7)), "float32").operations(activation_bits=8)
    assert (ops.macs_before, ops.macs_after) == (70, 34)
    assert (ops.bops_before, ops.bops_after) == (70 * 1024, 8 * (4 * 20 + 2 * 14))


@pytest.mark.parametrize(
    ("A", "bits"),
    [
        (coded(5, 10, 2), 5),
        (coded(1, 10, 2), 1),
        (Leaf(Clustered(3, group=None).encode(RNG.standard_normal((10, 2)).astype(np.float32))), 3),
        (Leaf((Sparse(0.5) & Quantized(6)).encode(RNG.standard_normal((10, 2)).astype(np.float32))), 6),
        (Leaf(Dense.encode(RNG.standard_normal((10, 2)), "bfloat16")), 16),
        (Leaf(Dense.encode(RNG.standard_normal((10, 2)))), 64),
        (Chain(coded(4, 10, 3), coded(4, 3, 2)), 32),  # products of codes are numbers of W's dtype
    ],
    ids=str,
)
def test_bits_of_a_factor(A: Form, bits: int) -> None:
    ops = made(Chain(A, coded(8, 2, 7)), "float32").operations(activation_bits=1)
    assert ops.bops_after == bits * 20 + 8 * 14


def test_bits_of_a_transposed_product() -> None:
    F = made(Folded(Chain(coded(4, 7, 2), coded(8, 2, 10)), Fold.transposed((10, 7))), "float32")
    assert F.operations(activation_bits=1).bops_after == 4 * 14 + 8 * 20


def test_bits_of_stores_and_of_kernels_by_axes() -> None:
    W = RNG.standard_normal((64, 32)).astype(np.float32)
    plain = fq.decompose(W, rank=16, bits=4).operations()
    assert fq.decompose(W, rank=16, bits=4, store="entropy").operations().bops_after == plain.bops_after
    assert fq.decompose(W, method=fq.SVD(16, 4, codes="trellis")).operations().bops_after == plain.macs_after * 1024
    by_axes = CP(leaf(1, 2), (coded(4, 6, 2), coded(4, 4, 2), coded(3, 3, 2), coded(5, 3, 2)))
    ops = made(by_axes, "float32").operations(1, padding=1, activation_bits=1)
    assert ops.bops_after == 4 * 8 + (3 + 5) * 18 + 4 * 12


@pytest.mark.parametrize(
    ("F", "arguments", "message"),
    [
        (CONV, {}, "size: found 0 integers, allowed is an integer or 2, one per spatial axis"),
        (CONV, {"size": (4, 0)}, "size: found 0, allowed is an integer of at least 1"),
        (CONV, {"size": (4, 2)}, r"size: found \(4, 2\), \(4, 2\) with the padding, allowed is at least \(3, 3\)"),
        (CONV, {"size": 4, "dilation": 2}, r"allowed is at least \(5, 5\)"),
        (CONV, {"size": 4, "activation_bits": 0}, "activation_bits: found 0"),
        (CONV, {"size": 4, "activation_bits": 7.5}, r"activation_bits: found 7\.5, allowed is integers"),
        (MATRIX, {"size": 4}, "size: found 4, allowed is 1, since a matrix has no spatial axes"),
    ],
)
def test_operations_refused(F: fq.Factorization, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(fq.FactorqError, match=message):
        F.operations(**arguments)  # type: ignore[arg-type]


# --- TensorLy -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize(
    "form",
    [
        CP(leaf(1, R), (leaf(6, R), leaf(4, R), leaf(3, R), leaf(3, R))),
        CP(leaf(1, R), (leaf(6, R), leaf(4, R), leaf(3, 3, R))),
        CP(leaf(1, R), (leaf(6, R), leaf(4, R))),
        Chain(leaf(6, R), leaf(R, 4)),
        Folded(Chain(leaf(4, R), leaf(R, 6)), Fold.transposed((6, 4))),
    ],
    ids=str,
)
def test_tensorly(form: Form, dtype: str) -> None:
    tensorly = pytest.importorskip("tensorly", reason="tensorly is not installed")
    F = made(form, dtype)
    tensor = F.to_tensorly()
    modes = [int(np.prod(f.shape[:-1])) for f in form.factors] if isinstance(form, CP) else list(form.shape)
    assert isinstance(tensor, tensorly.cp_tensor.CPTensor)
    assert (tensor.shape, tensor.rank) == (tuple(modes), R)
    assert [f.shape for f in tensor.factors] == [(n, R) for n in modes]
    assert all(x.dtype == dtype for x in (tensor.weights, *tensor.factors))
    dense = tensorly.cp_to_tensor(tensor)
    np.testing.assert_allclose(
        dense,
        F.form.dense().reshape(modes),
        rtol=1e-12,
        atol={"float16": 0.1, "float32": 1e-5, "float64": 1e-12}[dtype],
    )


def test_no_cp_tensor() -> None:
    pytest.importorskip("tensorly", reason="tensorly is not installed")
    for form in (leaf(4, 3), chain((4, 3, 2)).form, Tucker(leaf(2, 2, 2), (leaf(3, 2), leaf(4, 2), leaf(5, 2)))):
        with pytest.raises(fq.ArgumentError, match=r"to_tensorly: found .* allowed is CP, or a product A B of"):
            made(form).to_tensorly()


def test_without_tensorly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorly.cp_tensor", None)
    with pytest.raises(fq.ArgumentError, match=r"to_tensorly: found no TensorLy, .* pip install tensorly"):
        MATRIX.to_tensorly()
