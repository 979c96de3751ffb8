"""A factorization on a GPU: the buffers of its factors are copied there once, and codes are read where they are.

What can only be decoded on the host is decoded there whenever it is used, and what it gives is copied: this is counted
as every copy is (:func:`factorq.arrays.transfers`), and the factorization shows it. Streams of a store and masks are
read on the host once, and are packed codes and bitmaps from then on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ..arrays import Array, Home
from ..codecs.base import Encoded
from ..forms import Form, Leaf
from ..forms.mapped import rebuilt


def placed(form: Form, home: Home) -> Form:
    """The same tree for arrays of ``home``: if that is a GPU, with all that can be decoded there as CuPy arrays."""

    def there(part: Form) -> Form | None:
        if not isinstance(part, Leaf):
            return None
        factor = part.factor
        known = isinstance(factor, Encoded) and factor.on_gpu
        return OnGpu(factor.shape, factor.placed(home.put)) if known else OnHost(part, home)  # type: ignore[attr-defined]

    return form if home.gpu is None else rebuilt(form, there)


def on_host(form: Form) -> list[str]:
    """The codecs of the tree that decode on the host only."""
    factors = [leaf.factor for leaf in form.leaves().values()]
    return list(dict.fromkeys(f.id for f in factors if isinstance(f, Encoded) and not f.on_gpu))


@dataclass(frozen=True, eq=False)
class OnGpu(Form):
    """A stored array whose buffers are CuPy arrays: what :meth:`Encoded.placed` gives."""

    shape: tuple[int, ...]
    stored: Any
    tag: ClassVar[str] = "gpu"

    def parts(self) -> tuple[tuple[str, Form], ...]:
        return ()

    def dense(self) -> Array:
        return self.stored.decode_on_gpu()

    def matmul(self, x: Array) -> Array:
        return self.stored.matmul_on_gpu(x)

    def rmatmul(self, x: Array) -> Array:
        return self.stored.rmatmul_on_gpu(x)


@dataclass(frozen=True, eq=False)
class OnHost(Form):
    """A leaf that is decoded on the host, and copied to the GPU of ``home`` on every use."""

    source: Leaf
    home: Home
    tag: ClassVar[str] = "host"

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return self.source.shape

    def parts(self) -> tuple[tuple[str, Form], ...]:
        return ()

    def dense(self) -> Array:
        return self.home.put(self.source.dense())

    def matmul(self, x: Array) -> Array:
        return self.dense().reshape(self.shape[0], -1) @ x

    def rmatmul(self, x: Array) -> Array:
        return x @ self.dense().reshape(self.shape[0], -1)
