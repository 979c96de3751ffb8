"""The data of ``accuracy.py``: scores, inputs to calibrate with, second moments and gradients, batches to train on."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from cp_networks import NETWORKS as IMAGES
from cp_networks import cropped
from networks import NETWORKS, Checkpoint, Row, State, scorer
from numpy.typing import NDArray

Arrays = Mapping[str, NDArray[Any]]
HELD = {  # no other data than what scores: how much of it is scored, the rest is to calibrate and to train with
    "stories260K": ("evaluate_stories", 60),
    "charlstm_bronte": ("evaluate_charlstm", 80_000),
    "g2p_gru": ("evaluate_g2p", 2_000),
}
TURNED = {"charlstm_bronte": ("cell_0_kernel", "cell_1_kernel", "softmax_w")}  # (inputs, outputs)
WINDOW = 256  # characters or tokens
INPUTS = {"lenet300_mnist": 10_000, "lenet5_mnist": 4_000}  # to calibrate with: more than a layer has inputs
MOST_INPUTS = 512  # of residual networks, where each is many patches; half of them for second moments
GRADIENT_BATCH, GRADIENT_BATCHES = 32, 32


@dataclass(frozen=True)
class Training:
    """Passes over the training data, inputs in a batch, learning rates up to one bit per weight and above."""

    passes: int
    batch: int
    coarse: float
    fine: float


TUNED = {
    "resnet20_cifar10": Training(2, 128, 2e-3, 1e-3),
    "resnet20_cifar10jpeg": Training(2, 50, 5e-4, 5e-4),
    "lenet5_mnist": Training(2, 128, 1e-3, 1e-3),
    "lenet300_mnist": Training(2, 128, 1e-3, 1e-3),
    "stories260K": Training(16, 8, 1e-3, 1e-3),
    "charlstm_bronte": Training(4, 8, 1e-2, 1e-2),
}


@dataclass
class Data:
    """What is known of a network beside its tensors."""

    network: Checkpoint
    models: ModuleType
    folder: Path
    seed: int = 0

    @property
    def name(self) -> str:
        return self.network.path.stem

    @property
    def turned(self) -> tuple[str, ...]:
        """Matrices whose rows are inputs: they are factorised transposed."""
        return TURNED.get(self.name, ())

    @cached_property
    def score(self) -> Callable[[Arrays], Row]:
        """The scores of restored tensors and of the dense ones."""
        if self.name not in HELD:
            return scorer(self.name, self.network.tensors, self.models)
        evaluate, limit = HELD[self.name]

        def scored(tensors: Arrays) -> float:
            found = getattr(self.models, evaluate)(as_state(tensors), limit=limit)
            return float(found[0] if isinstance(found, tuple) else found)

        dense = scored(self.network.tensors)
        return lambda restored: {"measure": NETWORKS[self.name][0], "before": dense, "after": scored(restored)}

    @cached_property
    def dense(self) -> Any:
        """The network as a module; None where there is none."""
        state = as_state(self.network.tensors)
        if "cifar10" in self.name:
            return self.models.resnet_from_state(state)
        build = {"lenet5_mnist": "lenet_from_state", "lenet300_mnist": "lenet_from_state",
                 "stories260K": "llama_from_state", "charlstm_bronte": "CharLSTM"}.get(self.name)  # fmt: skip
        return None if build is None else getattr(self.models, build)(state).eval()

    @cached_property
    def examples(self) -> tuple[Any, Any]:
        """Inputs and targets of training: uint8 images, or int64 windows of text."""
        if "cifar10" in self.name or "mnist" in self.name:
            names = (IMAGES[self.name][0], "x", "y") if "cifar10" in self.name else ("mnist.npz", "train_x", "train_y")
            with np.load(self.folder / names[0]) as archive:
                return archive[names[1]], archive[names[2]].astype(np.int64)
        limit = HELD[self.name][1]
        if self.name == "stories260K":
            tokens = json.loads((self.folder / "tinystories_sample.json").read_text(encoding="utf-8"))["tokens"]
            ids = np.array([token for story in tokens[limit:] for token in story])
        else:
            with np.load(self.folder / "charlstm_bronte_text.npz") as archive:
                ids = archive["ids"].astype(np.int64)[limit:]
        count = (len(ids) - 1) // WINDOW
        return ids[: count * WINDOW].reshape(count, WINDOW), ids[1 : count * WINDOW + 1].reshape(count, WINDOW)

    def given(self, x: NDArray[Any]) -> Any:
        """Examples as the network takes them."""
        import torch

        if "cifar10" in self.name:
            return self.models.cifar_normalise(x)
        return self.models.mnist_normalise(x) if "mnist" in self.name else torch.from_numpy(x)

    @cached_property
    def inputs(self) -> list[Any]:
        """One batch of inputs to calibrate with."""
        x = self.examples[0][: INPUTS.get(self.name, MOST_INPUTS)]
        if "cifar10" in self.name and IMAGES[self.name][1]:
            x = cropped(x, np.random.default_rng(self.seed))
        return [self.given(np.ascontiguousarray(x))]

    @property
    def batches_per_pass(self) -> int:
        return len(self.examples[1]) // TUNED[self.name].batch

    def batches(self) -> Iterator[tuple[Any, Any]]:
        """Batches of training, without end: the same ones in each call."""
        import torch

        rng, (x, y) = np.random.default_rng(self.seed), self.examples
        batch = TUNED[self.name].batch
        while True:
            order = rng.permutation(len(x))
            seen = cropped(x, rng) if "cifar10" in self.name and IMAGES[self.name][1] else x
            for start in range(0, len(x) - batch + 1, batch):
                picked = order[start : start + batch]
                yield self.given(np.ascontiguousarray(seen[picked])), torch.from_numpy(y[picked])

    @cached_property
    def grams(self) -> dict[str, NDArray[Any]]:
        """Second moments of the inputs by the name of the matrix."""
        if self.name in ("charlstm_bronte", "g2p_gru"):
            return self._watched()
        from factorq.adapters.torch import accumulate_gram

        x = self.inputs[0][: MOST_INPUTS // 2] if "cifar10" in self.name else self.inputs[0]
        return {f"{name}.weight": gram for name, gram in accumulate_gram(self.dense, x.split(500)).items()}

    def _watched(self) -> dict[str, NDArray[Any]]:
        """The same of networks whose products are no layers."""
        import torch

        state = as_state(self.network.tensors)
        with Watched(state) as seen, torch.no_grad():
            if self.name == "g2p_gru":
                limit = HELD[self.name][1]
                lines = (self.folder / "g2p_cmudict_words.tsv").read_text(encoding="ascii").splitlines()[limit:]
                self.models.g2p_predict(state, [line.split("\t")[0] for line in lines])
            else:
                seen.follow(self.dense.named_parameters())
                self.dense(self.inputs[0])
        return {name: gram for name, gram in seen.grams().items() if len(gram) == self._inputs_of(name)}

    def _inputs_of(self, name: str) -> int:
        return int(self.network.tensors[name].shape[0 if name in self.turned else -1])

    @cached_property
    def sensitivity(self) -> dict[str, float]:
        """Mean squared gradient of each matrix's weights, of labels drawn by the network itself; {} without module.

        The expected loss from errors e is then about half the sum of ``gradient**2 * e**2``.
        """
        import torch

        if self.dense is None:
            return {}
        network, generator = self.dense, torch.Generator().manual_seed(self.seed)
        parameters = dict(network.named_parameters())
        was = {name: x.requires_grad for name, x in parameters.items()}
        total = dict.fromkeys(self.network.matrices, 0.0)
        for x in parameters.values():
            x.requires_grad_(True)
        for part in self.inputs[0].split(GRADIENT_BATCH if self.inputs[0].dim() > 2 else 4)[:GRADIENT_BATCHES]:
            logits = network(part).flatten(0, -2)
            drawn = torch.multinomial(logits.detach().softmax(-1), 1, generator=generator)[:, 0]
            network.zero_grad()
            torch.nn.functional.cross_entropy(logits, drawn, reduction="sum").backward()
            for name in total:
                total[name] += float(parameters[name].grad.square().mean())
        for name, x in parameters.items():
            x.grad = None
            x.requires_grad_(was[name])
        least = 1e-4 * max(total.values())
        return {name: max(x, least) / max(total.values()) for name, x in total.items()}


def as_state(tensors: Arrays) -> State:
    import torch

    return {name: torch.from_numpy(np.array(x)) for name, x in tensors.items()}


class Watched:
    """The inputs of products with known matrices, or parts of their rows, while a network runs."""

    def __init__(self, tensors: Mapping[str, Any]) -> None:
        import torch

        watched = self

        class Mode(torch.overrides.TorchFunctionMode):
            def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
                made = func(*args, **(kwargs or {}))
                if getattr(func, "__name__", "") in ("matmul", "__matmul__"):
                    watched.note(args[0], args[1])
                return made

        self._mode = Mode()
        self._names: dict[int, str] = {}
        self._seen: dict[str, dict[int, list[Any]]] = {}
        self.follow(tensors.items())

    def follow(self, tensors: Iterable[tuple[str, Any]]) -> None:
        """Products with these too; ``tensors`` have to stay alive."""
        self._names |= {x.untyped_storage().data_ptr(): name for name, x in tensors}

    def note(self, x: Any, matrix: Any) -> None:
        name = self._names.get(matrix.untyped_storage().data_ptr())
        if name is not None:
            self._seen.setdefault(name, {}).setdefault(matrix.storage_offset(), []).append(x.detach())

    def grams(self) -> dict[str, NDArray[Any]]:
        """The second moment of all inputs of a matrix, those of parts of its rows side by side."""
        import torch

        import factorq as fq

        found = {}
        for name, parts in self._seen.items():
            columns = []
            for _, seen in sorted(parts.items()):
                x = seen[0] if seen[0].dim() > 2 else torch.stack(seen, seen[0].dim() - 1)
                columns.append(x.reshape(-1, x.shape[-1]))
            moment = fq.SecondMoment()
            moment.update(torch.cat(columns, 1))
            found[name] = moment.gram
        return found

    def __enter__(self) -> Watched:
        self._mode.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._mode.__exit__(*error)
