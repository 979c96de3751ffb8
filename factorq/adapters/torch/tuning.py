"""What a compressed model learns from data: second moments, batch norms, biases, and the factors themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatchcase
from itertools import cycle, islice
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from ...calibration import ChannelMoments, SecondMoment
from ...errors import refuse
from .layers import KINDS, Layer

_ROWS = 1 << 15  # inputs of a layer that are added to its second moment at a time


def accumulate_gram(
    model: nn.Module, inputs: Iterable[Any], layers: str | Iterable[str] = "*"
) -> dict[str, NDArray[Any]]:
    """``mean of x x^T`` over the inputs x (n,) of each layer, n = prod(weight.shape[1:]): the ``gram`` of the methods.

    Parameters
    ----------
    model : Module
        Dense; run in evaluation mode, without gradients.
    inputs : iterable
        Batches: tensors, tuples that begin with one, or mappings of keyword arguments.
    layers : str or iterable of str
        Patterns of names of linear and convolutional layers. Of a convolution an input is a patch of one group.

    Returns
    -------
    dict
        float64 (n, n) by layer name, as :func:`compress` takes it.

    Raises
    ------
    ArgumentError
        If no layer fits, or there are no inputs.
    """
    patterns = [layers] if isinstance(layers, str) else list(layers)
    found = {
        name: layer
        for name, layer in model.named_modules()
        if isinstance(layer, KINDS)
        and not isinstance(layer, nn.Embedding)
        and any(fnmatchcase(name, p) for p in patterns)
    }
    if not found:
        raise refuse("layers", found=repr(layers), allowed="patterns of names of linear or convolutional layers")
    names = {layer: name for name, layer in found.items()}
    moments = {name: SecondMoment() for name in found}

    def gather(layer: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        for part in arguments[0].detach().split(max(1, _ROWS // max(arguments[0][:1].numel() // _width(layer), 1))):
            moments[names[layer]].update(_patches(layer, part))

    with _evaluating(model), _hooked(names, "forward_pre", gather):
        for batch in inputs:
            _run(model, batch)
    return {name: moment.gram for name, moment in moments.items()}


def reestimate_batch_norm(model: nn.Module, inputs: Iterable[Any]) -> nn.Module:
    """``model`` with the running statistics of its batch norms estimated anew, each with all earlier ones done.

    See :class:`factorq.ChannelMoments`. One large batch is best: of several, the first ones are seen by later layers
    while earlier ones are estimated from few.

    Parameters
    ----------
    model : Module
        Changed in place.
    inputs : iterable
        As for :func:`accumulate_gram`.

    Returns
    -------
    Module
        ``model``.
    """
    norms = {
        layer: ChannelMoments(axis=1)
        for layer in model.modules()
        if isinstance(layer, _BatchNorm) and layer.track_running_stats
    }

    def estimate(layer: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        moments = norms[layer]
        moments.update(arguments[0].detach().float())
        layer.running_mean.copy_(torch.from_numpy(moments.mean))
        layer.running_var.copy_(torch.from_numpy(moments.variance(ddof=1)))

    with _evaluating(model), _hooked(norms, "forward_pre", estimate):
        for batch in inputs:
            _run(model, batch)
    return model


def correct_bias(model: nn.Module, dense: nn.Module, inputs: Iterable[Any]) -> nn.Module:
    """``bias += mean(dense layer's output) - mean(layer's output)`` per channel, each with all earlier ones corrected.

    The empirical bias correction of Nagel et al. 2019 (arXiv 1906.04721, sec. 4.2). Only layers that have a bias: where
    a batch norm follows instead, :func:`reestimate_batch_norm` does the same.

    Parameters
    ----------
    model : Module
        Compressed; its biases are changed in place.
    dense : Module
        The model as it was, with layers of the same names.
    inputs : iterable
        As for :func:`accumulate_gram`; run through both models batch by batch.

    Returns
    -------
    Module
        ``model``.
    """
    originals = dict(dense.named_modules())
    pairs = {
        layer: originals[name]
        for name, layer in model.named_modules()
        if isinstance(layer, Layer) and layer.bias is not None and name in originals
    }
    wanted = {original: ChannelMoments(axis=-1) for original in pairs.values()}
    made = {layer: ChannelMoments(axis=-1) for layer in pairs}
    first = {layer: layer.bias.detach().clone() for layer in pairs}

    def note(layer: nn.Module, _: Any, y: Tensor) -> None:
        wanted[layer].update(_by_channel(layer, y))

    def correct(layer: Any, _: Any, y: Tensor) -> Tensor:
        raw = y - _along(layer, layer.bias - first[layer], y)
        made[layer].update(_by_channel(layer, raw))
        change = torch.from_numpy(wanted[pairs[layer]].mean - made[layer].mean).to(y)
        layer.bias.copy_(first[layer] + change)
        return raw + _along(layer, change, y)

    for batch in inputs:
        with _evaluating(dense), _hooked(wanted, "forward", note):
            _run(dense, batch)
        with _evaluating(model), _hooked(made, "forward", correct):
            _run(model, batch)
    return model


def finetune(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    steps: int,
    lr: float = 1e-3,
    loss: Callable[[Tensor, Tensor], Tensor] = functional.cross_entropy,
    teacher: nn.Module | None = None,
    temperature: float = 2.0,
    hard: float = 0.0,
    callback: Callable[[int, float], None] | None = None,
) -> nn.Module:
    """``model`` after some steps of Adam on all that requires gradients, at a learning rate that falls as a cosine.

    Parameters
    ----------
    model : Module
        Changed in place; in training mode meanwhile.
    batches : iterable
        Pairs (inputs, targets), gone through again and again; with a teacher, inputs alone will do.
    steps : int
        Number of updates.
    lr : float
        Learning rate at first.
    loss : callable
        Of outputs and targets.
    teacher : Module, optional
        The dense model: knowledge distillation (Hinton et al. 2015, arXiv 1503.02531), which adds ``T**2 KL(teacher ||
        model)`` of outputs over the temperature T.
    temperature : float
        T.
    hard : float
        Weight of ``loss`` beside a teacher.
    callback : callable, optional
        Told the step and its objective.

    Returns
    -------
    Module
        ``model``.

    Raises
    ------
    ArgumentError
        If ``steps`` or ``lr`` is not positive, nothing requires gradients, or there are no batches.
    """
    trained = [x for x in model.parameters() if x.requires_grad]
    for name, value in (("steps", steps), ("lr", lr)):
        if not value > 0:
            raise refuse(name, found=value, allowed="a number above 0")
    if not trained:
        raise refuse("model", found="no parameters that require gradients", allowed="one or more")
    optimizer = torch.optim.Adam(trained, lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    was = model.training
    model.train()
    step = -1
    for step, batch in enumerate(islice(_repeated(batches), steps)):
        outputs = _run(model, batch)
        objective = outputs.new_zeros(())
        if teacher is not None:
            with _evaluating(teacher), torch.no_grad():
                aims = functional.log_softmax(_run(teacher, batch) / temperature, -1)
            own = functional.log_softmax(outputs / temperature, -1).flatten(0, -2)
            objective = temperature**2 * functional.kl_div(
                own, aims.flatten(0, -2), reduction="batchmean", log_target=True
            )
        if teacher is None or hard:
            objective = objective + (1.0 if teacher is None else hard) * loss(outputs, batch[1])
        optimizer.zero_grad()
        objective.backward()
        optimizer.step()
        schedule.step()
        if callback is not None:
            callback(step, float(objective))
    model.train(was)
    if step < 0:
        raise refuse("batches", found="none", allowed="one or more")
    return model


def _repeated(batches: Iterable[Any]) -> Iterator[Any]:
    """The batches, and again, so that a loader can shuffle them; of an iterator, what was seen."""
    if iter(batches) is batches:
        yield from cycle(batches)
    empty = False
    while not empty:
        empty = True
        for batch in batches:
            empty = False
            yield batch


def _width(layer: Any) -> int:
    return int(layer.weight[0].numel())


def _patches(layer: Any, x: Tensor) -> Tensor:
    """The inputs (rows, n) that one row of the weight multiplies."""
    kernel = tuple(layer.weight.shape[2:])
    if not kernel:
        return x.reshape(-1, x.shape[-1])
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    x = functional.pad(x, layer._reversed_padding_repeated_twice, mode=mode)
    for axis, (k, stride, dilation) in enumerate(zip(kernel, layer.stride, layer.dilation, strict=True), 2):
        x = x.unfold(axis, dilation * (k - 1) + 1, stride)[..., ::dilation]
    n, c, *others = x.shape
    places, own = others[: len(kernel)], c // layer.groups
    x = x.reshape(n, layer.groups, own, *places, *kernel).movedim(2, 2 + len(kernel))
    return x.reshape(-1, own * layer.weight[0, 0].numel())


def _by_channel(layer: Any, y: Tensor) -> Tensor:
    """Outputs with channels last."""
    y = y.detach().float()
    return y.movedim(1, -1) if layer.weight.dim() > 2 else y.reshape(-1, y.shape[-1])


def _along(layer: Any, x: Tensor, y: Tensor) -> Tensor:
    """A number per channel beside outputs y."""
    return x.reshape(-1, *(1,) * (layer.weight.dim() - 2)) if layer.weight.dim() > 2 else x


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    modes = {layer: layer.training for layer in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for layer, mode in modes.items():
            layer.training = mode


@contextmanager
def _hooked(layers: Iterable[nn.Module], kind: str, hook: Callable[..., Any]) -> Iterator[None]:
    handles = [getattr(layer, f"register_{kind}_hook")(hook) for layer in layers]
    try:
        with torch.no_grad():
            yield
    finally:
        for handle in handles:
            handle.remove()


def _run(model: nn.Module, batch: Any) -> Tensor:
    """The outputs for a batch: a tensor, a pair of inputs and targets, or a mapping of keyword arguments."""
    outputs: Tensor
    outputs = (
        model(**batch) if isinstance(batch, Mapping) else model(batch[0] if isinstance(batch, tuple | list) else batch)
    )
    return outputs
