"""What the layers of the adapters add to the same contraction written by hand, in PyTorch and in JAX.

``python benchmarks/adapters.py [--json OUT] [--quick]``. Both sides multiply the same matrices: by hand with what
``F.to_conv()`` or ``F.to_dense()`` gives, in PyTorch as a module, in JAX as a function. ``inference`` is the forward of
a layer in evaluation mode without gradients, of JAX under ``jit``; ``training`` is the gradient of a sum of squares
with respect to factors, which are real there. What rounding costs stands in ``rounding`` rows: the same of quantized
weights, beside a layer of real ones. Process CPU seconds of one thread; ``ratio`` is ours over theirs, median of the
turns, with the quartiles.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import time
from collections.abc import Callable, Iterable
from statistics import quantiles
from typing import Any

import numpy as np
from common import table, write

Row = dict[str, Any]
COLUMNS = ("framework", "layer", "what", "ours_ms", "by_hand_ms", "ratio", "low", "high")
TURNS = 41


def compared(ours: Callable[[], Any], theirs: Callable[[], Any], turns: int) -> Row:
    """Both in turns: medians in milliseconds, and the ratio of the two calls of each turn."""
    for _ in range(3):
        ours(), theirs()
    seconds: list[tuple[float, float]] = []
    for turn in range(turns):
        pair = {}
        for name, call in (("a", ours), ("b", theirs)) if turn % 2 else (("b", theirs), ("a", ours)):
            start = time.process_time()
            call()
            pair[name] = time.process_time() - start
        seconds.append((pair["a"], pair["b"]))
    low, middle, high = quantiles([a / b for a, b in seconds], n=4)
    medians = [1e3 * float(np.median(side)) for side in zip(*seconds, strict=True)]
    return {"ours_ms": medians[0], "by_hand_ms": medians[1], "ratio": middle, "low": low, "high": high}


def cases() -> dict[str, tuple[Any, tuple[int, ...], dict[str, Any]]]:
    """By name: a factorization, the shape of its inputs, the settings of the layer."""
    import factorq as fq

    rng = np.random.default_rng(0)
    W = rng.standard_normal((1024, 1024)).astype(np.float32)
    K = rng.standard_normal((128, 128, 3, 3)).astype(np.float32)
    return {
        "linear 1024x1024, SVD of rank 128": (fq.decompose(W, method=fq.SVD(128)), (256, 1024), {}),
        "linear 1024x1024, 4-bit groups": (fq.decompose(W, method=fq.Scalar(4)), (256, 1024), {}),
        "linear 1024x1024, 256 codewords of 8": (
            fq.decompose(W, method=fq.VectorQuantization(8, 256, max_iter=3)), (256, 1024), {}
        ),
        "conv 128x128x3x3, SVD of rank 64": (fq.decompose(K, method=fq.SVD(64)), (4, 128, 28, 28), {"padding": 1}),
        "conv 128x128x3x3, CP of rank 64": (
            fq.decompose(K, method=fq.CP(64, max_iter=3)), (4, 128, 28, 28), {"padding": 1}
        ),
    }  # fmt: skip


def in_torch(turns: int) -> Iterable[Row]:
    import torch
    from torch.nn import functional

    from factorq.adapters.torch import to_module

    class ByHand(torch.nn.Module):  # type: ignore[misc]
        def __init__(self, parts: Any, bias: Any) -> None:
            super().__init__()
            self.parts, self.bias = parts, bias
            for k, conv in enumerate(parts):
                setattr(self, f"W{k}", torch.nn.Parameter(torch.from_numpy(np.array(conv.weight))))

        def forward(self, y: Any) -> Any:
            for k, conv in enumerate(self.parts):
                W, bias = getattr(self, f"W{k}"), self.bias if conv is self.parts[-1] else None
                settings = (conv.stride, conv.padding, conv.dilation, conv.groups)
                y = functional.conv2d(y, W, bias, *settings) if conv.kernel else functional.linear(y, W, bias)
            return y

    torch.set_num_threads(1)
    for name, (F, shape, settings) in cases().items():
        x = torch.from_numpy(np.random.default_rng(1).standard_normal(shape).astype(np.float32))
        linear = F.ndim == 2
        like = torch.nn.Linear(*F.shape[::-1]) if linear else torch.nn.Conv2d(F.shape[1], F.shape[0], 3, **settings)
        layer, parts = to_module(F, like), sequence(F, settings)
        hand = ByHand(parts, like.bias)

        def called(layer: Any, x: Any = x) -> Callable[[], Any]:
            return lambda: layer(x)

        def trained(layer: Any, x: Any = x) -> Callable[[], None]:
            def run() -> None:
                layer.zero_grad()
                layer(x).square().sum().backward()

            return run

        about = {"framework": "torch", "layer": name}
        np.testing.assert_allclose(layer(x).detach(), hand(x).detach(), rtol=2e-3, atol=2e-3)
        layer.eval()
        with torch.no_grad():
            yield {**about, "what": "inference", **compared(called(layer), called(hand), turns)}
        layer.train()
        what = "training" if "rank" in name else "rounding"
        yield {**about, "what": what, **compared(trained(layer), trained(hand), turns)}


def in_jax(turns: int) -> Iterable[Row]:
    import jax
    import jax.numpy as jnp

    from factorq.adapters import jax as fj

    for name, (F, shape, settings) in cases().items():
        x = jnp.asarray(np.random.default_rng(1).standard_normal(shape).astype(np.float32))
        params, parts = fj.from_factorization(F), sequence(F, settings)
        weights = [jnp.asarray(np.array(conv.weight)) for conv in parts]

        def by_hand(weights: Any, x: Any, parts: Any = parts) -> Any:
            y = x
            for W, conv in zip(weights, parts, strict=True):
                if conv.kernel:
                    y = jax.lax.conv_general_dilated(
                        y, W, conv.stride, [(p, p) for p in conv.padding], rhs_dilation=conv.dilation,
                        feature_group_count=conv.groups, dimension_numbers=("NCHW", "OIHW", "NCHW"),
                    )  # fmt: skip
                else:
                    y = y @ W.T
            return y

        def apply(params: Any, x: Any, settings: Any = settings) -> Any:
            return fj.apply(params, x, **settings)

        def called(function: Any, *arguments: Any) -> Callable[[], Any]:
            return lambda: jax.block_until_ready(function(*arguments))

        def slope(function: Any) -> Any:
            return jax.jit(jax.grad(lambda p, given: (function(p, given) ** 2).sum()))

        about = {"framework": "jax", "layer": name}
        fixed = fj.from_factorization(F, frozen=True)
        ours, theirs = jax.jit(apply), jax.jit(by_hand)
        np.testing.assert_allclose(ours(fixed, x), theirs(weights, x), rtol=2e-3, atol=2e-3)
        yield {**about, "what": "inference", **compared(called(ours, fixed, x), called(theirs, weights, x), turns)}
        what = "training" if "rank" in name else "rounding"
        yield {
            **about,
            "what": what,
            **compared(called(slope(apply), params, x), called(slope(by_hand), weights, x), turns),
        }


def sequence(F: Any, settings: dict[str, Any]) -> tuple[Any, ...]:
    """The layers that one would write by hand: those of ``to_conv``, or the one of the dense weight."""
    from factorq.factorization.layers import Conv

    try:
        return tuple(F.to_conv(**settings))
    except ValueError:
        return (Conv(F.to_dense()),)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", default=None, help="where to write the results")
    parser.add_argument("--quick", action="store_true", help="few turns, nothing written unless --json")
    options = parser.parse_args()
    turns = 3 if options.quick else TURNS
    rows: list[Row] = []
    for library, run in (("torch", in_torch), ("jax", in_jax)):
        if importlib.util.find_spec(library) is None:
            print(f"adapters: {library} is not installed; its rows are left out")
            continue
        rows += run(turns)
    table(rows, COLUMNS)
    if rows and (options.json or not options.quick):
        print(write("adapters", rows, options.json))


if __name__ == "__main__":
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")
    main()
