"""PyTorch: layers and models whose weights are factorizations, as a user trains, saves and loads them."""

from __future__ import annotations

import copy
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_trainable import METHODS

import factorq as fq
from factorq.errors import ArgumentError, ArgumentTypeError

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install 'factorq[torch]'")
ft = pytest.importorskip("factorq.adapters.torch")

from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402


def weight(*shape: int, seed: int = 0) -> Any:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def close(a: Any, b: Any, tolerance: float = 1e-4) -> None:
    np.testing.assert_allclose(a.detach().float().numpy(), b.detach().float().numpy(), rtol=tolerance, atol=tolerance)


# --- layers ---------------------------------------------------------------------------------------------------------


@pytest.fixture(params=METHODS, scope="module", name="F")
def factorization(request: pytest.FixtureRequest) -> fq.Factorization:
    return fq.decompose(weight(24, 48), method=METHODS[request.param])


@pytest.mark.parametrize("factored", [None, True, False])
def test_a_linear_layer_is_that_of_the_dense_weight(F: fq.Factorization, factored: bool | None) -> None:
    like, x = nn.Linear(48, 24), weight(2, 3, 48, seed=1)
    layer = ft.to_module(F, like, factored=factored)
    want = functional.linear(x, F.to_dense(), like.bias)
    close(layer(x), want)
    with torch.no_grad():
        close(layer.eval()(x), want)
    close(layer.weight, F.to_dense())
    assert layer.factors.factorization() is F


def test_gradients_reach_every_parameter(F: fq.Factorization) -> None:
    layer = ft.to_module(F)
    layer(weight(5, 48, seed=1)).square().sum().backward()
    for name, x in layer.named_parameters():
        assert x.grad is not None, name
        assert x.grad.abs().sum() > 0, name
        assert torch.isfinite(x.grad).all(), name


def test_an_embedding_looks_up_rows(F: fq.Factorization) -> None:
    index = torch.tensor([[0, 3, 23], [3, 3, 1]])
    for factored in (None, True, False):
        layer = ft.to_module(F, nn.Embedding(24, 48, padding_idx=3), factored=factored)
        close(layer(index), F.to_dense()[index])


CONVS = {
    "plain": {},
    "stride and padding": {"stride": (2, 1), "padding": (1, 0)},
    "dilation": {"dilation": 2, "padding": 2},
    "groups": {"groups": 2},
    "same": {"padding": "same"},
    "reflected": {"padding": 1, "padding_mode": "reflect"},
    "circular": {"padding": 1, "padding_mode": "circular", "stride": 2},
}


@pytest.mark.parametrize("method", [fq.Scalar(4), fq.SVD(2), fq.CP(3), fq.SVD(2, bits=4) + fq.Scalar(2), fq.Trellis(2)])
@pytest.mark.parametrize("settings", CONVS.values(), ids=list(CONVS))
def test_a_convolution_keeps_its_settings(method: fq.Method, settings: dict[str, Any]) -> None:
    like = nn.Conv2d(8, 12, 3, **settings)
    F = fq.decompose(like.weight.detach(), method=method)
    x = weight(2, 8, 9, 10, seed=1)
    dense = copy.deepcopy(like)
    with torch.no_grad():
        dense.weight.copy_(F.to_dense())
    for factored in (None, True, False):
        close(ft.to_module(F, like, factored=factored)(x), dense(x))


@pytest.mark.parametrize("kind", [nn.Conv1d, nn.Conv3d])
def test_other_numbers_of_axes(kind: Any) -> None:
    like = kind(4, 6, 3, padding=1, stride=2)
    F = fq.decompose(like.weight.detach(), method=fq.CP(2))
    dense = copy.deepcopy(like)
    with torch.no_grad():
        dense.weight.copy_(F.to_dense())
    x = weight(2, 4, *(7,) * (like.weight.dim() - 2))
    close(ft.to_module(F, like, factored=True)(x), dense(x))
    assert len(ft.to_module(F, like, factored=True).factors.steps(ft.to_module(F, like)._layer, True, None)[0]) == 3


def test_halves() -> None:
    like = nn.Linear(48, 24).bfloat16()
    F = fq.decompose(like.weight.detach(), method=fq.SVD(4))
    assert F.home.dtype == "bfloat16"
    layer = ft.to_module(F, like)
    x = weight(3, 48).bfloat16()
    assert layer(x).dtype == torch.bfloat16
    close(layer(x), functional.linear(x, F.to_dense(), like.bias), 0.1)
    same = copy.deepcopy(layer).bfloat16().half()  # parameters stay as they are
    assert {p.dtype for p in same.factors.parameters()} == {torch.float32}
    assert same.factors.factorization().nbytes == F.nbytes
    with torch.autocast("cpu", torch.bfloat16):
        assert ft.to_module(F, nn.Linear(48, 24))(x.float()).dtype == torch.bfloat16


def test_weights_in_other_orders() -> None:
    W = weight(48, 24).T
    assert not W.is_contiguous()
    F = fq.decompose(W, bits=4, method="scalar")
    close(ft.to_module(F)(weight(2, 48)), weight(2, 48) @ F.to_dense().T)


@pytest.mark.parametrize("method", [fq.Scalar(3), fq.SVD(3, bits=4), fq.VectorQuantization(dim=4, codewords=8)])
def test_compiled(method: fq.Method) -> None:
    F = fq.decompose(weight(24, 48), method=method)
    layer, x = ft.to_module(F, nn.Linear(48, 24)), weight(3, 48)
    made = torch.compile(layer, backend="aot_eager", fullgraph=True)
    close(made(x), layer(x))
    made(x).sum().backward()
    assert all(p.grad is not None for p in layer.parameters())


def test_evaluation_sees_what_was_changed() -> None:
    layer = ft.to_module(fq.decompose(weight(24, 48), method=fq.Scalar(4))).eval()
    x = weight(3, 48)
    with torch.no_grad():
        first = layer(x)
        assert layer(x).equal(first)
        layer.factors.W__scales.mul_(1.5)
        assert not layer(x).equal(first)
        changed = layer(x)
        layer.load_state_dict(ft.to_module(layer.factors.behind.before).state_dict())
        assert layer(x).equal(first)
        assert not changed.equal(first)


# --- known answers --------------------------------------------------------------------------------------------------


def test_evaluation_sees_storage_that_was_exchanged_twice() -> None:
    layer, x = ft.to_module(fq.decompose(weight(24, 48), method=fq.SVD(4))).eval(), weight(3, 48, seed=1)
    parameter = next(layer.factors.parameters())
    with torch.no_grad():
        for _ in range(10):
            layer(x)
            for _ in range(2):  # memory that is given back is the first to be handed out again
                parameter.data = torch.randn_like(parameter)
            close(layer(x), x @ layer.weight.T)


class _Twice(nn.Module):  # type: ignore[misc]
    def forward(self, x: Any) -> Any:
        return 2 * x


def test_numbers_that_wrappers_keep_elsewhere() -> None:
    """As parametrizations, replicas and flattened parameters of distributed training do."""
    F, x = fq.decompose(weight(24, 48), method=fq.SVD(4)), weight(3, 48, seed=1)
    layer = ft.to_module(F)
    names = list(layer.factors._parameters)
    nn.utils.parametrize.register_parametrization(layer.factors, names[0], _Twice())
    layer(x).square().sum().backward()
    originals = [p for p in layer.factors.parameters()]
    assert len(originals) == len(names)
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in originals)
    layer.eval()
    with torch.no_grad():
        close(layer(x), 2 * x @ F.to_dense().T)
        layer.factors.parametrizations[names[0]].original.mul_(2)
        close(layer(x), 4 * x @ F.to_dense().T)


def test_many_sets_of_numbers_at_once() -> None:
    layer, x = ft.to_module(fq.decompose(weight(24, 48), method=fq.Scalar(4))).eval(), weight(3, 48, seed=1)
    stacked = {name: torch.stack([p, 0.5 * p]) for name, p in layer.named_parameters()}
    with torch.no_grad():
        found = torch.func.vmap(lambda p: torch.func.functional_call(layer, p, (x,)))(stacked)
        close(found[0], layer(x))
        assert not torch.allclose(found[1], found[0])


def test_tied_layers_share_what_is_kept() -> None:
    table = ft.to_module(fq.decompose(weight(24, 48), method=fq.Scalar(4)), nn.Embedding(24, 48)).eval()
    head = ft.to_module(table.factors, nn.Linear(48, 24)).eval()
    with torch.no_grad():
        table(torch.tensor([1])), head(weight(3, 48))
    assert len(table.factors._made) == 1


def test_gradients_of_rounding() -> None:
    """Inside the levels 1, beyond them 0; of a scale that of LSQ (arXiv 1902.08153, eq. 3)."""
    W = torch.tensor([[-3.0, -1.0, 1.0, 3.0]])
    F = fq.decompose(W, method=fq.Scalar(2, group=4))
    layer = ft.to_module(F)
    values, scales = layer.factors.W__values, layer.factors.W__scales
    with torch.no_grad():
        values.copy_(torch.tensor([[-9.0, -1.2, 0.4, 3.5]]))
    layer.weight.sum().backward()
    assert values.grad.tolist() == [[0.0, 1.0, 1.0, 0.0]]
    step = 2.0
    levels = np.array([-1.5, -0.5, 0.5, 1.5])
    slope = levels - np.array([-9.0, -1.2, 0.4, 3.5]) / step
    slope[[0, 3]] = levels[[0, 3]]
    want = step * slope.sum() / np.sqrt(4 * 3 / 2)
    assert float(scales.grad) == pytest.approx(want, rel=1e-3)


def test_codewords_gather_the_gradients_of_their_vectors() -> None:
    F = fq.decompose(weight(8, 8), method=fq.VectorQuantization(dim=4, codewords=4))
    layer = ft.to_module(F)
    layer.weight.sum().backward()
    index = F.encoded["W"].indices()
    counts = np.bincount(index, minlength=4)
    (book,) = layer.factors.parameters()
    np.testing.assert_allclose(book.grad.numpy(), np.repeat(counts[:, None], 4, axis=1))


# --- training -------------------------------------------------------------------------------------------------------


RATES = {  # learning rates, and the share of the error that is left
    "grid": (1e-3, 0.95), "mask": (1e-2, 0.9), "vectors": (1e-2, 0.995), "svd, 4 bits": (3e-2, 0.95),
    "quantized sparse": (1e-2, 0.99), "cp": (1e-2, 0.995), "trellis of fixed rate": (3e-4, 0.97),
}  # fmt: skip


@pytest.mark.parametrize("name", RATES)
def test_training_moves_what_is_stored_at_the_same_size(name: str) -> None:
    W, (rate, left) = weight(24, 48), RATES[name]
    F = fq.decompose(W, method=METHODS[name])
    like = nn.Linear(48, 24, bias=False)
    with torch.no_grad():
        like.weight.copy_(W)
    layer, steps = ft.to_module(F, like), 100
    rng = torch.Generator().manual_seed(0)
    # Inputs that are not white: there is something to gain.
    mixing = torch.linalg.qr(torch.randn(48, 48, generator=rng))[0] * torch.linspace(0.05, 2, 48)
    optimizer = torch.optim.Adam(layer.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        x = torch.randn(64, 48, generator=rng) @ mixing.T
        loss = (layer(x) - functional.linear(x, W)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    G = layer.factors.factorization()
    assert G.nbytes == F.nbytes
    errors = [float(((torch.as_tensor(H.to_dense()) - W) @ mixing).square().mean()) for H in (F, G)]
    assert errors[1] < left * errors[0]
    close(torch.as_tensor(G.to_dense()), layer.weight, 1e-3)


def test_paths_keep_their_size_in_training() -> None:
    """Each forward is of the size; beyond what dearer rates can do the step is wider, which the status tells."""
    W = weight(24, 48)
    F = fq.decompose(W, method=fq.Trellis(2))
    for factor, again in ((0.9, False), (1.05, False), (1.3, False), (8.0, True)):
        layer = ft.to_module(F)
        with torch.no_grad():
            (values,) = layer.factors.parameters()
            values.mul_(factor)
        G = layer.factors.factorization()
        assert G.nbytes <= F.nbytes
        assert ("to keep the size" in G.status) == again
        if not again:
            close(torch.as_tensor(G.to_dense()), layer.weight, 1e-3)


# --- models ---------------------------------------------------------------------------------------------------------


def network(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3, stride=2, bias=False),
        nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 9, 10),
    )  # fmt: skip


def images(count: int = 64, seed: int = 0) -> Any:
    return weight(count, 1, 8, 8, seed=seed)


def test_patterns_choose_layers() -> None:
    net = ft.compress(network(), {"0": None, "3": fq.CP(4), "*": partial(fq.decompose, bits=4)})
    kinds = {name: type(layer) for name, layer in net.named_children()}
    assert kinds["0"] is nn.Conv2d
    assert kinds["3"] is ft.Layer
    assert net[3].factors.behind.before.method.id == "cp"
    assert net[7].factors.behind.before.method.id == "trellis"
    assert "trellis" in repr(net)
    with pytest.raises(ArgumentError, match=r"the pattern 'fc\*', allowed is names of layers: 0, 3, 7"):
        ft.compress(network(), {"fc*": fq.SVD(2)})


def test_a_model_goes_to_a_file_and_back(tmp_path: Path) -> None:
    net = ft.compress(network(), fq.Scalar(4, group=16)).eval()
    state = ft.state_dict(net)
    assert set(state) == set(network().state_dict())
    fq.save(tmp_path / "net.safetensors", state)
    read = fq.load(tmp_path / "net.safetensors")
    for start in (network(1), ft.compress(network(1), fq.SVD(2))):
        again = ft.from_state_dict(start, read).eval()
        assert again(images()).equal(net(images()))
    plain = network(1)
    plain.load_state_dict({k: torch.as_tensor(np.asarray(v)).reshape(np.shape(v)) for k, v in read.items()})
    close(plain.eval()(images()), net(images()))
    with pytest.raises(ArgumentError, match=r"no 1\.weight"):
        ft.from_state_dict(network(), {k: v for k, v in read.items() if k != "1.weight"})
    with pytest.raises(ArgumentError, match="a factorization for 'nowhere'"):
        ft.from_state_dict(network(), {"nowhere.weight": read["0.weight"]})


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.Embedding(24, 48)
        self.out = nn.Linear(48, 24, bias=False)
        self.out.weight = self.rows.weight

    def forward(self, index: Any) -> Any:
        return self.out(self.rows(index)) + self.rows(index) @ self.rows.weight.T


def test_tied_weights_stay_tied(tmp_path: Path) -> None:
    net = ft.compress(Tied(), fq.Scalar(4))
    assert net.rows.factors is net.out.factors
    assert len(list(net.parameters())) == 2
    net(torch.arange(3)).sum().backward()
    with torch.no_grad():
        net.rows.factors.W__values.add_(0.1)
    fq.save(tmp_path / "tied.safetensors", ft.state_dict(net))
    again = ft.from_state_dict(Tied(), fq.load(tmp_path / "tied.safetensors"))
    assert again.rows.factors is again.out.factors
    assert again(torch.arange(3)).equal(net(torch.arange(3)))


def test_activation_aware_beats_weight_only() -> None:
    """A gram of the layer's own inputs gives a lower error of its output, at the same size."""
    net = network().eval().requires_grad_(False)
    blur = torch.ones(1, 1, 3, 3) / 9
    x = functional.conv2d(images(256), blur, padding=1)  # inputs that are not white
    grams = ft.accumulate_gram(net, x.split(100))
    assert {k: v.shape for k, v in grams.items()} == {"0": (9, 9), "3": (72, 72), "7": (144, 144)}
    inputs: dict[str, Any] = {}
    net[3].register_forward_pre_hook(lambda layer, given: inputs.update(x=given[0]))
    net(x).detach()
    W, given = net[3].weight.detach(), inputs["x"]
    want = functional.conv2d(given, W, stride=2)

    def off(F: fq.Factorization) -> float:
        return float((functional.conv2d(given, F.to_dense(), stride=2) - want).detach().square().mean())

    for method in (fq.Scalar(2, group=None), fq.SVD(4), fq.QuantizedSparse(6, bits=4, sparsity=0.5), fq.Trellis(2)):
        aware = fq.decompose(W, method=method, gram=grams["3"])
        assert off(aware) < 0.97 * off(fq.decompose(W, method=method)), method
    rows = functional.unfold(given, 3, stride=2).movedim(1, -1).reshape(-1, 72).double()
    np.testing.assert_allclose(grams["3"], rows.T @ rows / len(rows), rtol=1e-6)
    rules = {"0": fq.CP(2), "*": fq.Scalar(2, group=None)}  # the first of which takes none
    calibrated = ft.compress(copy.deepcopy(net), rules, grams=grams)
    assert calibrated[3].factors.behind.before.gram_error is not None


def test_grams_of_convolutions_with_settings() -> None:
    layer = nn.Conv2d(4, 6, 3, stride=2, padding=1, dilation=2, groups=2, padding_mode="reflect", bias=False)
    net, x = nn.Sequential(layer), weight(3, 4, 9, 9)
    gram = ft.accumulate_gram(net, [x])["0"]
    padded = functional.pad(x, (1, 1, 1, 1), mode="reflect")
    halves = [functional.unfold(part, 3, dilation=2, stride=2).movedim(1, -1).double() for part in padded.split(2, 1)]
    rows = torch.cat(halves).reshape(-1, 18)  # the patches of both groups
    np.testing.assert_allclose(gram, rows.T @ rows / len(rows), rtol=1e-6)
    one = nn.Sequential(nn.Conv2d(4, 6, 3, stride=2, padding=1, dilation=2, bias=False)).requires_grad_(False)
    gram = ft.accumulate_gram(one, [x])["0"]
    W = one[0].weight.detach().double().reshape(6, -1).numpy()
    y = one.double()(x.double()).detach()
    np.testing.assert_allclose(np.einsum("oi,ij,oj->o", W, gram, W), y.square().mean(dim=(0, 2, 3)), rtol=1e-6)


def test_batch_norms_are_estimated_in_turn() -> None:
    net = ft.compress(network(), fq.Scalar(2, group=16))
    ft.reestimate_batch_norm(net, [images(256)])
    seen: dict[str, Any] = {}
    for name in ("1", "4"):
        net[int(name)].register_forward_hook(lambda layer, x, y, name=name: seen.update({name: y.detach()}))
    net.eval()(images(256))
    for layer, y in ((net[1], seen["1"]), (net[4], seen["4"])):
        z = (y - layer.bias.detach()[:, None, None]) / layer.weight.detach()[:, None, None]
        assert float(z.mean(dim=(0, 2, 3)).abs().max()) < 1e-4
        assert float((z.var(dim=(0, 2, 3)) - 1).abs().max()) < 1e-2
    assert net.training is False


def test_batch_norms_take_over_what_changed() -> None:
    """Beside the dense model on the same inputs: an uncompressed copy keeps its own statistics."""
    dense = network()
    for k in (1, 4):
        dense[k].running_mean.normal_()
        dense[k].running_var.uniform_(0.5, 2)
    net = copy.deepcopy(dense)
    ft.reestimate_batch_norm(net, images(256).split(64), dense)
    for k in (1, 4):
        close(net[k].running_mean, dense[k].running_mean)
        close(net[k].running_var, dense[k].running_var)
    net = ft.compress(copy.deepcopy(dense), fq.Scalar(2))
    x = images(256)
    moved = [functional.conv2d(x, layer[0].weight, layer[0].bias, padding=1).detach() for layer in (dense, net)]
    variances = [y.var(dim=(0, 2, 3)) for y in moved]
    ft.reestimate_batch_norm(net, [x], dense)
    close(net[1].running_var, dense[1].running_var * variances[1] / variances[0], 1e-3)
    with torch.no_grad():  # a channel that was constant: its own variance
        dense[0].weight[0] = 0
    ft.reestimate_batch_norm(net, [x], dense)
    assert float(net[1].running_var[0]) == pytest.approx(float(variances[1][0]), rel=1e-3)


def test_biases_are_corrected() -> None:
    dense = network().eval()
    for batches in (1, 4):
        net = ft.compress(copy.deepcopy(dense), fq.Scalar(2, group=16))
        x = images(256) + 0.5
        before = (net(x) - dense(x)).detach().mean(dim=0)
        ft.correct_bias(net, dense, x.split(256 // batches))
        after = (net(x) - dense(x)).detach().mean(dim=0)
        assert float(after.abs().max()) < (1e-4 if batches == 1 else 0.2 * float(before.abs().max()))
    assert net[3].bias is None


def test_fine_tuning_and_distillation() -> None:
    x = images(256)
    dense = ft.reestimate_batch_norm(network(), [x]).eval()
    y = dense(x).argmax(-1)

    def agreement(net: Any) -> float:
        return float((net.eval()(x).argmax(-1) == y).float().mean())

    batches = list(zip(x.split(64), y.split(64), strict=True))
    told: list[Any] = []
    for options in ({"teacher": dense}, {}, {"teacher": dense, "hard": 0.5}):
        net = ft.compress(copy.deepcopy(dense), fq.Scalar(1, group=16))
        before = agreement(net)
        told.clear()
        state = {k: v.nbytes for k, v in ft.state_dict(net).items() if isinstance(v, fq.Factorization)}
        ft.finetune(net, batches, steps=40, lr=3e-3, callback=lambda *at: told.append(at), **options)
        assert agreement(net) > before + 0.05
        assert len(told) == 40
        assert {k: v.nbytes for k, v in ft.state_dict(net).items() if isinstance(v, fq.Factorization)} == state
    ft.finetune(net, x.split(64), steps=1, teacher=dense)  # inputs alone
    for wrong, found in (({"steps": 0}, "steps: found 0"), ({"steps": 1, "lr": -1}, "lr: found -1")):
        with pytest.raises(ArgumentError, match=found):
            ft.finetune(net, batches, **wrong)
    with pytest.raises(ArgumentError, match="batches: found none"):
        ft.finetune(net, [], steps=1)


def test_frozen_models_are_saved_whole() -> None:
    net = ft.compress(network(), fq.Scalar(4), frozen=True)
    assert set(ft.state_dict(net)) == set(network().state_dict())
    again = ft.from_state_dict(network(1), ft.state_dict(net), frozen=True)
    assert again.eval()(images()).equal(net.eval()(images()))


class Shared(nn.Module):
    """One module under two names, and one weight in two convolutions with settings of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(8, 8)
        self.b = self.a
        self.near = nn.Conv2d(2, 2, 3, padding=1, bias=False)
        self.far = nn.Conv2d(2, 2, 3, dilation=2, bias=False)
        self.far.weight = self.near.weight

    def forward(self, x: Any) -> Any:
        return self.far(self.near(self.b(self.a(x))))


def test_shared_modules_and_weights() -> None:
    dense, x = Shared(), weight(3, 2, 8, 8)
    net = ft.compress(copy.deepcopy(dense), fq.Scalar(4))
    assert net.a is net.b
    state = ft.state_dict(net)
    assert set(dense.state_dict()) - set(state) == {"b.weight", "far.weight"}  # what is shared comes once
    with torch.no_grad():
        dense.a.weight.copy_(state["a.weight"].to_dense())
        dense.near.weight.copy_(state["near.weight"].to_dense())
        close(net.eval()(x), dense(x))
        close(net(x), dense(x))
    again = ft.from_state_dict(Shared(), state)
    assert again.near.factors is again.far.factors
    close(again(x), dense(x))


def test_parametrized_layers_keep_their_own_weights() -> None:
    torch.manual_seed(0)
    norm = nn.utils.parametrizations.weight_norm
    net = nn.Sequential(*(norm(nn.Linear(6, 6)) for _ in range(4)))
    want = [layer.weight.detach() for layer in net]
    ft.compress(net, fq.Scalar(8))
    for layer, W in zip(net, want, strict=True):
        close(layer.weight, W, 0.05)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_halves_go_to_a_file_and_back(dtype: Any, tmp_path: Path) -> None:
    net = ft.compress(network().to(dtype), {"0": fq.CP(4), "*": fq.Scalar(4)})
    fq.save(tmp_path / "net.safetensors", ft.state_dict(net))
    again = ft.from_state_dict(network(1).to(dtype), fq.load(tmp_path / "net.safetensors"))
    assert {x.dtype for x in again.eval().state_dict().values() if x.is_floating_point()} == {dtype, torch.float32}
    assert again(images().to(dtype)).equal(net.eval()(images().to(dtype)))
    with pytest.raises(ArgumentError, match=r"no 7\.weight"):
        ft.from_state_dict(again, {k: v for k, v in fq.load(tmp_path / "net.safetensors").items() if k != "7.weight"})


@pytest.mark.parametrize("factored", [True, False])
def test_factors_beyond_the_range_of_float16(factored: bool) -> None:
    """Integers with weights of 1e-8: layers in turn are of about one size."""
    W = 1e-3 * weight(16, 8, 3, 3)
    like = nn.Conv2d(8, 16, 3, bias=False)
    F = fq.decompose(W, method=fq.CP(8, bits=6))
    x = weight(2, 8, 6, 6)
    want = functional.conv2d(x, F.to_dense())
    close(ft.to_module(F, like, factored=factored)(x.half()) / 1e-3, want / 1e-3, 0.05)


def test_rotations_in_half_precision() -> None:
    F = fq.decompose(weight(24, 48), method=fq.Rotated(fq.Scalar(4)))
    x = weight(3, 48)
    close(ft.to_module(F)(x.bfloat16()), x @ F.to_dense().T, 0.1)


def test_what_is_kept_serves_under_autograd_later() -> None:
    layer, x = ft.to_module(fq.decompose(weight(24, 48), method=fq.Scalar(4)), frozen=True).eval(), weight(3, 48)
    with torch.inference_mode():
        first = layer(x)
    x.requires_grad_(True)
    layer(x).sum().backward()
    assert x.grad is not None
    assert copy.deepcopy(layer)(x).detach().equal(first.clone())


def test_modes_are_left_as_they_were() -> None:
    net = ft.compress(network(), fq.Scalar(2)).train()
    net[1].eval()
    batches = [(images(), torch.zeros(64, dtype=torch.long))]
    ft.finetune(net, batches, steps=2)
    assert (net.training, net[1].training) == (True, False)
    with pytest.raises(ZeroDivisionError):
        ft.finetune(net, batches, steps=2, callback=lambda step, loss: 1 // 0)
    assert net[1].training is False
    with pytest.raises(ArgumentError, match="batches: found 1, allowed is 2"):
        ft.finetune(net, iter(batches), steps=2)
    with pytest.raises(ArgumentTypeError, match=r"steps: found 1\.5"):
        ft.finetune(net, batches, steps=1.5)


def test_teachers_are_compared_along_the_axis_of_classes() -> None:
    torch.manual_seed(0)
    dense = nn.Conv2d(3, 5, 1)
    net = nn.Sequential(dense)
    student = ft.compress(copy.deepcopy(net), fq.Scalar(1, group=None))
    told: list[float] = []
    x = weight(2, 3, 4, 4)
    p, q = ((y(x) / 2).log_softmax(1) for y in (net, student))
    want = 4 * float((p.exp() * (p - q)).sum(1).mean().detach())
    ft.finetune(student, [x], steps=1, teacher=net, axis=1, callback=lambda step, loss: told.append(loss))
    assert told == [pytest.approx(want, rel=1e-4)]


class Doubled(nn.Linear):
    def forward(self, x: Any) -> Any:
        return 2 * super().forward(x)


def test_layers_with_a_forward_of_their_own_stay() -> None:
    net = nn.Sequential(Doubled(8, 8), nn.Linear(8, 8))
    ft.compress(net, fq.Scalar(4))
    assert type(net[0]) is Doubled
    with pytest.raises(ArgumentTypeError, match="like: found Doubled"):
        ft.to_module(fq.decompose(weight(8, 8), method=fq.Scalar(4)), Doubled(8, 8))


def test_attention_can_be_cast_afterwards() -> None:
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    net = ft.compress(layer, fq.Scalar(4)).bfloat16().eval()
    with torch.no_grad():
        assert net(weight(2, 5, 16).bfloat16()).dtype == torch.bfloat16
    rows = ft.compress(nn.Sequential(nn.Embedding(9, 8), nn.Linear(8, 4)), {"0": fq.Scalar(4)}).bfloat16()
    assert rows(torch.tensor([1])).dtype == torch.bfloat16


@pytest.mark.parametrize("fused", [False, True])
def test_evaluation_between_steps(fused: bool) -> None:
    net, x = ft.compress(network(), fq.Scalar(3)).eval(), images()
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.1, fused=fused)
    with torch.no_grad():
        before = net(x)
    net(x).square().mean().backward()
    optimizer.step()
    with torch.no_grad():
        after = net(x)
    assert not after.equal(before)
    close(after, net(x))


def test_checkpoints_of_another_factorization_are_refused() -> None:
    method = fq.VectorQuantization(dim=4, codewords=8)
    net, other = (ft.compress(network(seed), {"7": method}) for seed in (0, 1))
    net.load_state_dict(net.state_dict())
    with pytest.raises(RuntimeError, match=r"7\.factors\.origin: numbers behind another factorization"):
        net.load_state_dict(other.state_dict())


def test_what_is_not_to_be_trained_is_not() -> None:
    net = network()
    net[3].weight.requires_grad_(False)
    ft.compress(net, fq.Scalar(4))
    assert not any(x.requires_grad for x in net[3].factors.parameters())
    assert all(x.requires_grad for x in net[7].factors.parameters())


def test_second_derivatives_of_rotations() -> None:
    layer = ft.to_module(fq.decompose(weight(8, 16), method=fq.Rotated(fq.Scalar(4))))
    values = layer.factors.W__values
    (first,) = torch.autograd.grad(layer(weight(3, 16)).pow(3).sum(), values, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), values)
    assert second.abs().sum() > 0


def test_tied_weights_are_compressed_together() -> None:
    net = ft.compress(Tied(), {"out": fq.Scalar(4)})
    assert net.rows.factors is net.out.factors


# --- errors ---------------------------------------------------------------------------------------------------------


def test_wrong_layers_are_refused() -> None:
    F = fq.decompose(weight(24, 48), method=fq.Scalar(4))
    for call, error, found in (
        (lambda: ft.to_module(F, nn.Linear(24, 48)), ArgumentError, r"F: found shape \(24, 48\)"),
        (lambda: ft.to_module(F, nn.ReLU()), ArgumentTypeError, "like: found ReLU"),
        (lambda: ft.to_module(F, nn.Embedding(24, 48, max_norm=1.0)), ArgumentError, "max_norm"),
        (lambda: ft.to_module(np.eye(3)), ArgumentTypeError, "F: found ndarray"),
        (lambda: ft.accumulate_gram(network(), [images()], "fc"), ArgumentError, "layers: found 'fc'"),
        (lambda: ft.accumulate_gram(network(), [], "3"), ArgumentError, "inputs: found none"),
        (lambda: ft.reestimate_batch_norm(network(), []), ArgumentError, "inputs: found none"),
        (
            lambda: ft.reestimate_batch_norm(network(), [images()], nn.Linear(2, 2)),
            ArgumentError,
            "dense: found no batch norm",
        ),
        (lambda: ft.compress(network(), fq.SVD(2), grams={"fc": 1}), ArgumentError, "grams: found one of 'fc'"),
        (lambda: ft.to_module(F)(torch.arange(48)), ArgumentTypeError, "x: found a tensor of torch.int64"),
        (lambda: ft.to_module(F, nn.Embedding(24, 48, sparse=True)), ArgumentError, "sparse"),
        (
            lambda: ft.finetune(ft.compress(network(), fq.Scalar(4)), [images()], steps=1),
            ArgumentTypeError,
            "batches: found inputs",
        ),
        (lambda: ft.compress(network(), 2), ArgumentTypeError, r"solve: found 2.*partial\(fq\.decompose"),
        (lambda: ft.compress(network(), {"0.weight": fq.SVD(1)}), ArgumentError, "without .weight"),
        (lambda: ft.compress(nn.Sequential(nn.ReLU()), fq.SVD(1)), ArgumentError, "model: found no layers"),
        (lambda: ft.reestimate_batch_norm(network(), images()), ArgumentTypeError, "inputs: found Tensor.*in a list"),
        (lambda: ft.compress(network(), fq.SVD(200)), ArgumentError, "layer '0': rank"),
    ):
        with pytest.raises(error, match=found):
            call()


def test_without_torch_there_is_a_hint() -> None:
    code = """
import sys
sys.modules["torch"] = None
try:
    import factorq.adapters.torch
except ImportError as error:
    assert "pip install 'factorq[torch]'" in str(error), error
else:
    raise SystemExit("imported")
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
