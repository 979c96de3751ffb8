"""The JAX adapter: what is applied, trained and exported there is what the core stores."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_trainable import METHODS

import factorq as fq
from factorq.errors import ArgumentError, ArgumentTypeError

jax = pytest.importorskip("jax", reason="jax is not installed")
import jax.numpy as jnp  # noqa: E402

from factorq.adapters import jax as fj  # noqa: E402

RNG = np.random.default_rng(0)
W = np.random.default_rng(0).standard_normal((24, 48)).astype(np.float32)
X = np.random.default_rng(1).standard_normal((5, 48)).astype(np.float32)
CONV_METHODS = {
    "cp": fq.CP(4),
    "svd": fq.SVD(3),
    "grid": fq.Scalar(4, group=9),
    "quantized sparse": fq.QuantizedSparse(4, bits=3, sparsity=0.5),
    "vectors": fq.VectorQuantization(dim=3, codewords=8),
    "stacked": fq.SVD(2) + fq.Scalar(2, group=9),
}
SETTINGS: list[dict[str, Any]] = [
    {},
    {"stride": 2, "padding": 1},
    {"stride": (2, 1), "padding": (1, 2), "dilation": (1, 2), "groups": 2},
    {"padding": "same", "groups": 4},
]


@pytest.fixture(scope="module", autouse=True)
def quick_compilation() -> Iterator[None]:
    """Half of the time here went into optimizing programs that run once."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(params=METHODS, scope="module")
def F(request: pytest.FixtureRequest) -> fq.Factorization:  # noqa: N802
    return made(request.param)


def made(method: str) -> fq.Factorization:
    return fq.decompose(W, method=METHODS[method])


def moved(params: Any, share: float = 0.3) -> Any:
    """``params`` away from where they were made, so that entries are rounded and clipped."""
    rng = np.random.default_rng(2)

    def change(path: Any, x: Any) -> Any:
        if "scales" in str(path[-1]):
            return np.asarray(x) * rng.uniform(0.8, 1.2, x.shape).astype(np.float32)
        noise = share * np.asarray(x).std() * rng.standard_normal(x.shape).astype(np.float32)
        return np.sort(x + noise) if "levels" in str(path[-1]) else x + noise

    return jax.tree_util.tree_map_with_path(change, params)


def same(F: fq.Factorization, G: fq.Factorization) -> bool:
    ours, theirs = F.buffers(), G.buffers()
    return list(ours) == list(theirs) and all(
        ours[k].dtype == theirs[k].dtype and np.array_equal(ours[k], theirs[k]) for k in ours
    )


def x64() -> Any:
    return jax.enable_x64(True) if hasattr(jax, "enable_x64") else jax.experimental.enable_x64()


# --- forward and gradients --------------------------------------------------------------------------------------------


def test_forward_and_gradients(F: fq.Factorization) -> None:
    params = fj.from_factorization(F)
    assert fj.to_factorization(params) is F

    @jax.jit
    def slopes(params: Any) -> Any:
        def loss(params: Any) -> Any:
            y = fj.apply(params, X, jnp.ones(24))
            return (y**2).sum(), y

        return jax.grad(loss, has_aux=True)(params)

    gradients, y = slopes(params)
    np.testing.assert_allclose(y, X @ F.to_dense().T + 1, rtol=1e-4, atol=1e-4)
    assert jax.tree.structure(gradients) == jax.tree.structure(params)
    away = moved(params)
    gradients, y = slopes(away)
    assert all(np.isfinite(g).all() and (np.asarray(g) != 0).any() for g in jax.tree.leaves(gradients))
    close = np.isclose(y, X @ fj.to_factorization(away).to_dense().T + 1, rtol=1e-3, atol=1e-3)
    assert close.mean() > 0.9, close.mean()  # an entry in the middle of two levels may go either way


@pytest.mark.parametrize("method", ["grid", "svd, 4 bits", "trellis", "rotated"])
def test_vmap_and_eager(method: str) -> None:
    params = fj.from_factorization(made(method))

    def slope(params: Any, x: Any) -> Any:
        return jax.grad(lambda p: (fj.apply(p, x) ** 2).sum())(params)

    each, total = jax.jit(lambda p, x: (jax.vmap(slope, in_axes=(None, 0))(p, x), slope(p, x)))(params, X)
    for name, g in total.parameters.items():
        np.testing.assert_allclose(each.parameters[name].sum(axis=0), g, rtol=1e-3, atol=1e-3)
    stack = jax.tree.map(lambda x: np.stack([x, 2 * x]), params)  # several layers at once
    ys = jax.jit(jax.vmap(fj.apply, in_axes=(0, None)))(stack, X)
    np.testing.assert_allclose(ys[0], fj.apply(params, X), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", CONV_METHODS)
def test_convolutions(method: str) -> None:
    F = fq.decompose(RNG.standard_normal((8, 6, 3, 3)).astype(np.float32), method=CONV_METHODS[method])
    params, bias = fj.from_factorization(F), RNG.standard_normal(8).astype(np.float32)
    for settings in SETTINGS:
        x = RNG.standard_normal((2, 6 * settings.get("groups", 1), 9, 11)).astype(np.float32)
        want = _conv(x, F.to_dense(), **settings) + bias[:, None, None]

        @jax.jit
        def ways(params: Any, x: Any, settings: dict[str, Any] = settings) -> Any:
            found = [fj.apply(params, x, bias, factored=factored, **settings) for factored in (None, True, False)]
            return *found, fj.apply(params, x[0], bias, **settings)

        *ys, first = ways(params, x)
        for y in ys:
            np.testing.assert_allclose(y, want, rtol=1e-4, atol=1e-4, err_msg=str(settings))
        np.testing.assert_allclose(first, want[0], rtol=1e-4, atol=1e-4)
    gradients = jax.jit(jax.grad(lambda p: (fj.apply(p, x, **settings) ** 2).sum()))(moved(params))
    assert all((np.asarray(g) != 0).any() for g in jax.tree.leaves(gradients))


@pytest.mark.parametrize("kernel", [(3,), (2, 3, 2)])
def test_lines_and_boxes(kernel: tuple[int, ...]) -> None:
    F = fq.decompose(RNG.standard_normal((4, 3, *kernel)).astype(np.float32), method=fq.SVD(2))
    x = RNG.standard_normal((2, 3, *(5 + k for k in kernel))).astype(np.float32)
    y = jax.jit(lambda p: fj.apply(p, x, stride=2, padding=1))(fj.from_factorization(F))
    np.testing.assert_allclose(y, _conv(x, F.to_dense(), stride=2, padding=1), rtol=1e-4, atol=1e-4)


def _conv(x: Any, weight: Any, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1) -> Any:
    axes = weight.ndim - 2
    stride, padding, dilation = ((v,) * axes if isinstance(v, int) else v for v in (stride, padding, dilation))
    pads = "SAME" if padding == "same" else [(p, p) for p in padding]
    return jax.lax.conv_general_dilated(
        x, weight, stride, pads, rhs_dilation=dilation, feature_group_count=groups, precision="highest"
    )


@pytest.mark.parametrize("method", ["grid", "svd", "cp", "stacked"])
def test_embed_and_tied_use(method: str) -> None:
    F = made(method)
    params, few, many = fj.from_factorization(F), jnp.array([[3, 0], [3, 23]]), jnp.arange(48) % 24
    for ids in (few, many):
        np.testing.assert_allclose(jax.jit(fj.embed)(params, ids), F.to_dense()[ids], rtol=1e-4, atol=1e-5)

    def loss(first: Any, last: Any) -> Any:  # the same weight at both ends, as in a language model
        return (fj.apply(last, fj.embed(first, few)) ** 2).sum()

    tied, apart = jax.jit(lambda p: (jax.grad(lambda p: loss(p, p))(p), jax.grad(loss, argnums=(0, 1))(p, p)))(params)
    for name, g in tied.parameters.items():
        np.testing.assert_allclose(g, apart[0].parameters[name] + apart[1].parameters[name], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("method", ["grid", "svd, 4 bits", "mask"])
def test_bfloat16(method: str) -> None:
    F = fq.decompose(W.astype(jnp.bfloat16), method=METHODS[method])
    params = fj.from_factorization(F)
    assert {x.dtype.name for x in jax.tree.leaves(params)} == {"float32"}
    ids = jnp.array([1])
    y, dense, rows = jax.jit(lambda p, x: (fj.apply(p, x, jnp.zeros(24)), fj.to_dense(p), fj.embed(p, ids)))(
        params, X.astype(jnp.bfloat16)
    )
    assert {y.dtype, dense.dtype, rows.dtype} == {jnp.dtype("bfloat16")}
    np.testing.assert_allclose(y.astype(np.float32), X @ F.to_dense().astype(np.float32).T, rtol=0.05, atol=0.3)
    np.testing.assert_allclose(dense.astype(np.float32), F.to_dense().astype(np.float32), rtol=0.01, atol=1e-3)


def test_frozen_has_nothing_to_train() -> None:
    F = made("svd, 4 bits")
    params = fj.from_factorization(F, frozen=True)
    assert jax.tree.leaves(params) == []
    np.testing.assert_allclose(jax.jit(fj.apply)(params, X), X @ F.to_dense().T, rtol=1e-4, atol=1e-4)
    assert fj.to_factorization(params) is F
    assert "frozen" in repr(params)


# --- known answers ----------------------------------------------------------------------------------------------------


def test_straight_through() -> None:
    value, gradient = jax.value_and_grad(lambda x: fj.through(jnp.round(x), x))(1.3)
    assert (value, gradient) == (1, 1)
    assert jax.grad(lambda v: fj.through(v, v * 0))(1.3) == 0
    assert (jax.jit(jax.vmap(jax.grad(lambda x: 3 * fj.through(jnp.sign(x), x))))(jnp.ones(4)) == 3).all()


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit, jax.vmap], ids=["eager", "jit", "vmap"])
def test_the_host_has_an_adjoint(wrap: Callable[[Any], Any]) -> None:
    x = jnp.arange(6.0).reshape(2, 3)

    def turned(y: Any) -> Any:
        return fj.OPS.host(lambda h: h[..., ::-1] * 2, y, lambda g: g[..., ::-1] * 2)

    weights = jnp.array([1.0, 2.0, 3.0])
    assert (wrap(turned)(x) == x[:, ::-1] * 2).all()
    assert (wrap(jax.grad(lambda y: (turned(y) * weights).sum()))(x) == weights[::-1] * 2).all()
    assert (wrap(jax.grad(lambda y: fj.OPS.host(np.sign, y).sum()))(x) == 0).all()


def test_gradient_of_the_values_and_of_the_scale() -> None:
    """Inside 1, on the last level 1, beyond it 0; the scale learns as LSQ says."""
    n, levels = 16, np.arange(-4.0, 4.0)
    F = fq.decompose(np.linspace(-4, 3, n, dtype=np.float32)[None], method=fq.Scalar(3, group=n))
    params = fj.from_factorization(F)
    scale = float(F.encoded["W"].scales[0, 0]) * 2.0 ** F.encoded["W"].exponent
    values = np.linspace(-6, 6, n, dtype=np.float32)[None] * scale
    values[0, 0], values[0, 1] = -4 * scale, 3 * scale
    params = jax.tree.map(lambda x: x, params)
    params.parameters["W.values"] = jnp.array(values)
    weights = RNG.standard_normal((1, n)).astype(np.float32)
    gradients = jax.jit(jax.grad(lambda p: (fj.to_dense(p) * weights).sum()))(params).parameters
    u = values / np.float32(scale)
    inside = (u >= -4) & (u <= 3)
    np.testing.assert_allclose(gradients["W.values"], weights * inside, rtol=1e-5)
    slope = np.where(inside, np.round(u) - u, np.clip(u, levels[0], levels[-1]))
    want = scale * (weights * slope).sum() / np.sqrt(n * 7 / 2)
    np.testing.assert_allclose(gradients["W.scales"], [[want]], rtol=1e-3, atol=1e-5)


# --- training and export ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["grid", "levels", "mask", "vectors", "svd, 4 bits", "trellis", "stacked"])
def test_training_lowers_the_loss_and_exports(method: str, tmp_path: Path) -> None:
    F, target = made(method), X @ W.T
    rate = 0.05 if method == "trellis" else 0.01
    tree = fj.from_factorization({"w": F, "bias": np.zeros(24, np.float32), "steps": np.arange(3)})
    kept = tree.pop("steps")

    def loss(tree: Any) -> Any:
        return ((fj.apply(tree["w"], X, tree["bias"]) - target) ** 2).mean()

    @jax.jit
    def step(tree: Any) -> Any:
        before, gradients = jax.value_and_grad(loss)(tree)
        return before, jax.tree.map(lambda x, g: x - rate * g / (abs(g).max() + 1e-9), tree, gradients)

    losses = []
    for _ in range(30):
        before, tree = step(tree)
        losses.append(float(before))
    assert min(losses) < 0.9 * losses[0], losses  # a trellis of two bits goes in large steps
    stored = fj.to_factorization(tree | {"steps": kept})
    G = stored["w"]
    assert G is not F
    assert "moved by" in G.status
    assert G.nbytes <= F.nbytes if method == "trellis" else G.nbytes == F.nbytes
    off = np.abs(np.asarray(jax.jit(fj.to_dense)(tree["w"])) - G.to_dense()) > 1e-4 * np.abs(G.to_dense()).max()
    assert off.mean() < 0.002, off.mean()
    fq.save(tmp_path / "w.safetensors", stored)
    loaded = fq.load(tmp_path / "w.safetensors")
    again = fj.to_factorization(fj.from_factorization(loaded))
    assert again["w"] is loaded["w"]
    assert same(loaded["w"], G)
    for name in ("bias", "steps"):
        np.testing.assert_array_equal(again[name], stored[name])
        assert again[name].dtype == stored[name].dtype
    fq.save(tmp_path / "again.safetensors", again)
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "w.safetensors").read_bytes()


def test_masks_may_be_selected_again() -> None:
    F = made("mask")
    params = fj.from_factorization(F, reselect=True)
    (name,) = params.parameters
    params = jax.tree.map(lambda x: jnp.array(np.random.default_rng(3).permutation(np.asarray(x))), params)
    G = fj.to_factorization(params)
    assert np.count_nonzero(G.to_dense()) <= F.encoded["W"].inner.size
    np.testing.assert_allclose(jax.jit(fj.to_dense)(params), G.to_dense(), rtol=1e-5, atol=1e-6)
    assert params.parameters[name].shape == F.shape


def test_training_may_start_from_the_array() -> None:
    tensors = {"w": made("grid"), "bias": np.zeros(24, np.float32)}
    tree = fj.from_factorization(tensors, start={"w": jnp.asarray(W), "bias": tensors["bias"]})
    first = np.asarray(tree["w"].parameters["W.values"])
    assert np.isclose(first, W, atol=1e-3).mean() > 0.9
    assert fj.to_factorization(tree)["w"] is tensors["w"]


def test_float64_needs_x64() -> None:
    F = fq.decompose(W.astype(np.float64), method=fq.SVD(3))
    with pytest.raises(ArgumentError, match=r"^F\['a'\]: A.values: found float64 numbers.*jax_enable_x64"):
        fj.from_factorization({"a": F})
    with pytest.raises(ArgumentError, match=r"float64.*jax_enable_x64"):
        fj.from_factorization({"b": np.zeros(3)})
    assert jax.tree.map(lambda x: x, F).to_dense().dtype == np.float64
    assert same(jax.jit(lambda G: G)(F), F)
    with x64():
        params = fj.from_factorization(F)
        assert fj.to_factorization(params) is F
        np.testing.assert_allclose(fj.to_dense(params), F.to_dense(), rtol=1e-12)
        assert fj.apply(params, X).dtype == jnp.float32


@pytest.mark.parametrize("method", ["grid", "levels", "mask", "vectors", "svd, 4 bits", "trellis", "cp", "flexor"])
def test_torch_trains_the_same(method: str) -> None:
    """The same numbers have the same gradients and are stored as the same bytes."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    from factorq.adapters.torch import to_module

    F = made(method)
    params, module = moved(fj.from_factorization(F)), to_module(F)
    numbers = {name.rpartition(".")[2].replace("__", "."): p for name, p in module.named_parameters()}
    assert set(params.parameters) == set(numbers)
    with torch.no_grad():
        for name, p in numbers.items():
            p.copy_(torch.tensor(np.asarray(params.parameters[name])))
    (module(torch.tensor(X)) ** 2).sum().backward()
    gradients = jax.jit(jax.grad(lambda p: (fj.apply(p, X) ** 2).sum()))(params).parameters
    for name, p in numbers.items():
        theirs = p.grad.numpy()
        off = np.abs(gradients[name] - theirs) > 1e-3 * np.abs(theirs).max()
        assert off.mean() < 0.05, (name, off.mean())
    assert same(fj.to_factorization(params), module.factors.factorization())


# --- a factorization as a pytree --------------------------------------------------------------------------------------


def test_factorizations_are_pytrees(F: fq.Factorization) -> None:
    leaves, tree = jax.tree.flatten(F)
    assert all(x.dtype == np.uint8 for x in leaves)
    assert sum(x.size for x in leaves) == F.nbytes
    assert hash(tree) == hash(jax.tree.structure(F))
    for G in (jax.tree.map(lambda x: x, F), jax.device_put({"f": F})["f"], jax.jit(lambda F: F)(F)):
        assert same(F, G)
        assert repr(G) == repr(F)
        np.testing.assert_array_equal(G.to_dense(), F.to_dense())


def test_compiled_functions_take_factorizations() -> None:
    F = made("grid")
    traces = []

    @jax.jit
    def apply(F: Any, x: Any) -> Any:
        traces.append(F)
        return fj.apply(F, x)

    np.testing.assert_allclose(apply(F, X), X @ F.to_dense().T, rtol=1e-4, atol=1e-4)
    other = jax.tree.map(lambda x: x.copy(), F)
    other.encoded["W"].codes[...] = np.roll(F.encoded["W"].codes, 3)
    np.testing.assert_allclose(apply(other, X), X @ other.to_dense().T, rtol=1e-4, atol=1e-4)
    assert len(traces) == 1
    assert not np.array_equal(other.to_dense(), F.to_dense())
    np.testing.assert_allclose(jax.jit(fj.embed)(F, jnp.array([2])), F.to_dense()[[2]], rtol=1e-6)
    slopes = jax.grad(lambda x: fj.apply(F, x).sum())(X)
    np.testing.assert_allclose(slopes[0], F.to_dense().sum(axis=0), rtol=1e-4, atol=1e-4)
    with pytest.raises(ArgumentTypeError, match="pure_callback"):
        jax.jit(lambda F: F.to_dense())(F)


def test_anything_may_stand_for_the_leaves() -> None:
    F = made("trellis")
    assert jax.tree.leaves(jax.tree.map(lambda x: None, F)) == []
    zeros = jax.tree.map(np.zeros_like, F)
    assert zeros.shape == F.shape
    assert not any(x.any() for x in jax.tree.leaves(zeros))
    assert jax.tree.structure(zeros) == jax.tree.structure(F)
    assert jax.eval_shape(fj.to_dense, F).shape == F.shape
    assert same(jax.tree.map(lambda a, b: b, zeros, F), F)


# --- at the door ------------------------------------------------------------------------------------------------------


def test_refusals() -> None:
    params = fj.from_factorization(made("svd"))
    with pytest.raises(ArgumentError, match=r"^x: found an array of shape \(5, 47\), allowed is \(.., 48\)"):
        fj.apply(params, X[:, 1:])
    with pytest.raises(ArgumentTypeError, match=r"^x: found an array of int32, allowed is a floating one"):
        fj.apply(params, jnp.arange(48))
    with pytest.raises(ArgumentError, match=r"^stride"):
        fj.apply(params, X, stride=2)
    with pytest.raises(ArgumentTypeError, match=r"^params: found ArrayImpl"):
        fj.apply(jnp.ones((24, 48)), X)
    with pytest.raises(ArgumentTypeError, match=r"^params: found str"):
        fj.to_factorization({"w": "w"})
    with pytest.raises(ArgumentTypeError, match="found str, allowed is a Factorization"):
        fj.from_factorization({"w": "w"})
    with pytest.raises(ArgumentError, match="not finite"):
        fj.to_factorization(jax.tree.map(lambda x: x * np.nan, params))
    conv = fj.from_factorization(fq.decompose(RNG.standard_normal((4, 3, 2, 2)).astype(np.float32), rank=2))
    with pytest.raises(ArgumentError, match=r"allowed is \(.., 3, size, size\) for a weight \(4, 3, 2, 2\)"):
        fj.apply(conv, np.ones((3, 5), np.float32))
    with pytest.raises(ArgumentError, match="allowed is a matrix"):
        fj.embed(conv, jnp.array([0]))


def test_without_jax_there_is_a_hint() -> None:
    code = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "jax":
            raise ImportError(name)

sys.meta_path.insert(0, Blocker())
import factorq
try:
    import factorq.adapters.jax
except ImportError as error:
    assert "pip install 'factorq[jax]'" in str(error), error
else:
    raise AssertionError("imported")
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=60)
