"""What a compressed model learns from data: second moments, batch norms, biases, and the factors themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatchcase
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from ...calibration import ChannelMoments, SecondMoment
from ...errors import refuse, refuse_type, within
from .layers import KINDS, Layer, shape_of

_CONSTANT = 1e-6  # a channel whose variance is a smaller part of what it has become
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
    moments = {name: SecondMoment() for name in found}

    def gather(name: str, x: Tensor) -> None:
        layer, flat = found[name], x.detach()
        if layer.weight.dim() == 2:
            moments[name].update(flat)
            return
        for part in flat.split(max(1, _ROWS // max(flat[:1].numel() // flat.shape[1], 1))):
            moments[name].update(_patches(layer, part))

    with _mode(model, False), _hooked(found, "forward_pre", gather):
        for batch in _some(inputs):
            _run(model, batch)
    grams = {}
    for name, moment in moments.items():
        with within(f"layer {name!r}"):
            grams[name] = moment.gram
    return grams


def reestimate_batch_norm(model: nn.Module, inputs: Iterable[Any], dense: nn.Module | None = None) -> nn.Module:
    """``model`` with the running statistics of its batch norms estimated anew, each with all earlier ones done.

    See :class:`factorq.ChannelMoments`. One large batch is best: of several, the first ones are seen by later layers
    while earlier ones are estimated from few.

    Some thousand inputs tell the moments of all training inputs to a few percent, which alone can cost half a point of
    accuracy. With ``dense``, which was trained on all of them, they tell how the layers changed it: mean plus ``mean of
    model - mean of dense``, variance times ``variance of model / variance of dense``, both on the same inputs.

    Parameters
    ----------
    model : Module
        Changed in place.
    inputs : iterable
        As for :func:`accumulate_gram`; run through both models batch by batch.
    dense : Module, optional
        The model before it was compressed, with layers of the same names.

    Returns
    -------
    Module
        ``model``.

    Raises
    ------
    ArgumentError
        If there are no inputs, or no batch norm of ``dense`` has a name of one of the model.
    """
    norms, wanted = _batch_norms(model), {} if dense is None else _batch_norms(dense)
    seen = {name: ChannelMoments(axis=1) for name in norms}
    before = {name: ChannelMoments(axis=1) for name in wanted}

    def note(name: str, x: Tensor) -> None:
        before[name].update(x.detach())

    def estimate(name: str, x: Tensor) -> None:
        seen[name].update(x.detach())
        mean, variance = seen[name].mean, seen[name].variance(ddof=1)
        if name in before:
            of_all, of_these = wanted[name], before[name]
            mean = mean + of_all.running_mean.double().cpu().numpy() - of_these.mean
            first = of_these.variance(ddof=1)
            known = first > _CONSTANT * variance  # of a channel that was constant the ratio says nothing
            changed = variance / np.where(known, first, 1) * of_all.running_var.double().cpu().numpy()
            variance = np.where(known, changed, variance)
        norms[name].running_mean.copy_(torch.from_numpy(mean))
        norms[name].running_var.copy_(torch.from_numpy(variance))

    if norms and dense is not None and not norms.keys() & wanted.keys():
        raise refuse("dense", found="no batch norm of a name that the model has", allowed="the model as it was")
    for batch in _some(inputs):
        if dense is not None:
            with _mode(dense, False), _hooked(wanted, "forward_pre", note):
                _run(dense, batch)
        with _mode(model, False), _hooked(norms, "forward_pre", estimate):
            _run(model, batch)
    return model


def correct_bias(model: nn.Module, dense: nn.Module, inputs: Iterable[Any]) -> nn.Module:
    """``bias += mean(dense layer's output) - mean(layer's output)`` per channel, each with all earlier ones corrected.

    The empirical bias correction of Nagel et al. 2019 (arXiv 1906.04721, sec. 4.2). Only layers that have a bias: where
    a batch norm follows instead, :func:`reestimate_batch_norm` does the same. One large batch is best, as there.

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

    Raises
    ------
    ArgumentError
        If there are no inputs.
    """
    originals = dict(dense.named_modules())
    layers = {
        name: layer
        for name, layer in model.named_modules()
        if isinstance(layer, Layer) and layer.bias is not None and name in originals
    }
    axes = {name: 1 if len(shape_of(layer)) > 2 else -1 for name, layer in layers.items()}
    wanted, made = ({name: ChannelMoments(axis) for name, axis in axes.items()} for _ in range(2))
    first = {name: layer.bias.detach().clone() for name, layer in layers.items()}

    def note(name: str, _: Any, y: Tensor) -> None:
        wanted[name].update(y.detach())

    def correct(name: str, _: Any, y: Tensor) -> Tensor:
        layer = layers[name]
        raw = y - _along(layer, layer.bias - first[name])
        made[name].update(raw.detach())
        change = torch.from_numpy(wanted[name].mean - made[name].mean).to(y)
        layer.bias.copy_(first[name] + change)
        return raw + _along(layer, change)

    for batch in _some(inputs):
        with _mode(dense, False), _hooked({name: originals[name] for name in layers}, "forward", note):
            _run(dense, batch)
        with _mode(model, False), _hooked(layers, "forward", correct):
            _run(model, batch)
    return model


def finetune(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    steps: int,
    lr: float = 1e-3,
    loss: Callable[[Tensor, Any], Tensor] = functional.cross_entropy,
    teacher: nn.Module | None = None,
    temperature: float = 2.0,
    axis: int = -1,
    hard: float = 0.0,
    callback: Callable[[int, float], None] | None = None,
) -> nn.Module:
    """``model`` after some steps of Adam on all that requires gradients, at a learning rate that falls as a cosine.

    Batch norms follow the batches meanwhile: of a short training with small ones, :func:`reestimate_batch_norm` tells
    their statistics better, afterwards.

    Parameters
    ----------
    model : Module
        Changed in place; in training mode meanwhile.
    batches : iterable
        Pairs (inputs, targets), gone through again and again; with a teacher, inputs alone will do. Of an iterator,
        such as a generator without end, each batch is taken once.
    steps : int
        Number of updates.
    lr : float
        Learning rate at first: about how far Adam moves a number in a step. What is rounded has a way to go to its next
        level: at 1 bit per weight a hundredth of the weights' root mean square is a good start, at more bits less.
    loss : callable
        Of outputs and targets; where a batch is a mapping, of outputs and the batch.
    teacher : Module, optional
        The dense model: knowledge distillation (Hinton et al. 2015, arXiv 1503.02531), ``T**2 KL(teacher || model)`` of
        their outputs over the temperature T, in place of the loss.
    temperature : float
        T.
    axis : int
        The axis of the classes in the outputs, which the teacher is compared along.
    hard : float
        Weight of the loss beside a teacher.
    callback : callable, optional
        Told the number of steps so far and the objective.

    Returns
    -------
    Module
        ``model``.

    Raises
    ------
    ArgumentError
        If ``steps``, ``lr`` or ``temperature`` is not positive, nothing requires gradients, or batches run out.
    ArgumentTypeError
        If ``steps`` is no integer, ``batches`` are none, or one has no targets to compare with.
    """
    trained = [x for x in model.parameters() if x.requires_grad]
    if isinstance(steps, bool) or not isinstance(steps, int):
        raise refuse_type("steps", found=repr(steps), allowed="an integer above 0")
    for name, value in (("steps", steps), ("lr", lr), ("temperature", temperature)):
        if not value > 0:
            raise refuse(name, found=value, allowed="a number above 0")
    _check_batches("batches", batches)
    if not trained:
        raise refuse("model", found="no parameters that require gradients", allowed="one or more")
    optimizer = torch.optim.Adam(trained, lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    step = 0
    with _mode(model, True), torch.enable_grad():
        for step, batch in enumerate(islice(_repeated(batches), steps), 1):
            outputs = _run(model, batch)
            objective = outputs.new_zeros(())
            if teacher is not None:
                with _mode(teacher, False), torch.no_grad():
                    aims = functional.log_softmax(_run(teacher, batch) / temperature, axis)
                own = functional.log_softmax(outputs / temperature, axis)
                divergence = functional.kl_div(own, aims, reduction="none", log_target=True).sum(axis).mean()
                objective = temperature**2 * divergence
            if teacher is None or hard:
                if isinstance(batch, Tensor):
                    allowed = "pairs (inputs, targets), or a teacher"
                    raise refuse_type("batches", found="inputs without targets", allowed=allowed)
                targets = batch if isinstance(batch, Mapping) else batch[1]
                objective = objective + (1.0 if teacher is None else hard) * loss(outputs, targets)
            optimizer.zero_grad()
            objective.backward()
            optimizer.step()
            schedule.step()
            if callback is not None:
                callback(step, float(objective.detach()))
    if step < steps:
        raise refuse("batches", found=f"{step or 'none'}", allowed=f"{steps}, or a list or a loader of some")
    return model


def _repeated(batches: Iterable[Any]) -> Iterator[Any]:
    """The batches, and again, so that a loader can shuffle them; an iterator once."""
    more = True
    while more:
        more = False
        for batch in batches:
            more = not isinstance(batches, Iterator)
            yield batch


def _check_batches(name: str, batches: Any) -> None:
    if isinstance(batches, Tensor) or not isinstance(batches, Iterable):
        found, remedy = type(batches).__name__, "put it in a list: it is one batch"
        raise refuse_type(name, found=found, allowed="batches, such as a list or a loader", remedy=remedy)


def _some(inputs: Iterable[Any]) -> Iterator[Any]:
    """The inputs, of which there has to be one."""
    batch = None
    _check_batches("inputs", inputs)
    for batch in inputs:
        yield batch
    if batch is None:
        raise refuse("inputs", found="none", allowed="one batch or more")


def _batch_norms(model: nn.Module) -> dict[str, Any]:
    return {
        name: layer
        for name, layer in model.named_modules()
        if isinstance(layer, _BatchNorm) and layer.track_running_stats
    }


def _patches(layer: Any, x: Tensor) -> Tensor:
    """The inputs (rows, n) that one row of the weight multiplies."""
    kernel = tuple(layer.weight.shape[2:])
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    x = functional.pad(x, layer._reversed_padding_repeated_twice, mode=mode)
    for axis, (k, stride, dilation) in enumerate(zip(kernel, layer.stride, layer.dilation, strict=True), 2):
        x = x.unfold(axis, dilation * (k - 1) + 1, stride)[..., ::dilation]
    n, c, *others = x.shape
    places, own = others[: len(kernel)], c // layer.groups
    x = x.reshape(n, layer.groups, own, *places, *kernel).movedim(2, 2 + len(kernel))
    return x.reshape(-1, own * layer.weight[0, 0].numel())


def _along(layer: Any, x: Tensor) -> Tensor:
    """A number per channel, to be added to outputs."""
    return x.reshape(-1, *(1,) * (len(shape_of(layer)) - 2))


@contextmanager
def _mode(model: nn.Module, training: bool) -> Iterator[None]:
    modes = {layer: layer.training for layer in model.modules()}
    model.train(training)
    try:
        yield
    finally:
        model.train(training)  # layers forget what they kept
        for layer, mode in modes.items():
            layer.training = mode


@contextmanager
def _hooked(layers: Mapping[str, Any], kind: str, hook: Callable[..., Any]) -> Iterator[None]:
    """While it lasts, each layer calls ``hook(name, inputs)``, or ``hook(name, inputs, outputs)`` after its forward."""

    def called(name: str) -> Callable[..., Any]:
        return lambda _, inputs, *outputs: hook(name, inputs[0], *outputs)

    handles = [getattr(layer, f"register_{kind}_hook")(called(name)) for name, layer in layers.items()]
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
