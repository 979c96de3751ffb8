"""The result: stored factors that stand for an array, what they cost, and their record for a file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import measure
from ..arrays import FLOATS, NUMPY, Array, Home, is_array
from ..codecs.base import Encoded
from ..errors import FactorqError, affordable, refuse, refuse_type
from ..forms import Form, transposed
from ..named import build
from . import display, interchange, layers, placing, records
from .applying import product
from .layers import Conv, Operations, Padding, Sizes


@dataclass(frozen=True)
class Unknown:
    """The method of a file that was made by a method which is not installed here: its id and configuration."""

    id: str
    settings: Mapping[str, Any]

    def config(self) -> dict[str, Any]:
        """The configuration as the file has it."""
        return dict(self.settings)


@dataclass(frozen=True, eq=False, repr=False)
class Factorization:
    """Stored factors whose contraction stands for an array W.

    Made by :func:`factorq.decompose` and :func:`factorq.load`; immutable.

    Attributes
    ----------
    form : Form
        How the factors contract.
    relative_error : float
        ``||W - F|| / ||W||`` (Frobenius), of what is stored, in W's dtype.
    gram_error : float or None
        ``sqrt(trace(D gram D^T) / trace(W gram W^T))``, D = W - F, if a gram was given.
    status : str
        How the solver ended, as advice to a person.
    history : tuple of float
        The objective (relative error) after each step of the solver.
    """

    form: Form
    home: Home
    method_config: Mapping[str, Any]
    relative_error: float
    gram_error: float | None = None
    status: str = ""
    history: tuple[float, ...] = field(default=())

    # --- what it stands for -------------------------------------------------------------------------------------

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of W."""
        return self.form.shape

    @property
    def ndim(self) -> int:
        """Number of dimensions of W."""
        return len(self.shape)

    @property
    def T(self) -> Factorization:  # noqa: N802
        """The same factors for the transpose of a matrix W: ``F.T @ x`` is ``(x.T @ F).T``.

        Raises
        ------
        ArgumentError
            If W is no matrix.
        """
        if self.ndim != 2:
            found = f"a factorization of shape {self.shape}"
            raise refuse("T", found=found, allowed="a matrix", remedy="use to_dense() and transpose the axes you mean")
        turned = replace(self, form=transposed(self.form), gram_error=None)
        return turned.remembering(transposed(self.placed)) if "placed" in vars(self) else turned

    @property
    def size(self) -> int:
        """Number of weights of W."""
        return math.prod(self.shape)

    @property
    def dtype(self) -> Any:
        """Dtype of W, as its library spells it."""
        plain = self.home.xp is NUMPY or self.home.library == "cupy"
        return FLOATS[self.home.dtype] if plain else getattr(self.home.xp, self.home.dtype)

    @property
    def method(self) -> Any:
        """The method object that made it, or :class:`Unknown` if that is not installed here."""
        try:
            return build("methods", self.method_config)
        except (FactorqError, ImportError):
            return Unknown(str(self.method_config.get("id")), self.method_config)

    # --- what it costs ------------------------------------------------------------------------------------------

    @property
    def encoded(self) -> dict[str, Encoded]:
        """The stored factors by name."""
        return {name: leaf.factor for name, leaf in self.form.leaves().items()}  # type: ignore[misc]

    @property
    def nbytes(self) -> int:
        """Stored bytes: codes, scales, codebooks, masks and padding of all factors."""
        return sum(factor.nbytes for factor in self.encoded.values())

    @property
    def bits_per_weight(self) -> float:
        """``8 * nbytes / W.size``."""
        return measure.bits_per_weight(self.nbytes, self.size)

    # --- what it does -------------------------------------------------------------------------------------------

    @property
    def factors(self) -> tuple[Array, ...]:
        """The decoded factors in order of contraction, in W's namespace and device; in float16 powers of 2 may move."""
        with affordable(f"the factors of an array of shape {self.shape}"):
            leaves = [placing.placed(leaf, self.home) for leaf in self.form.leaves().values()]
            return tuple(map(self.home.place, layers.decoded(self.form, leaves, FLOATS[self.home.dtype])))

    def to_dense(self) -> Array:
        """The array that the factors contract to: W's shape, dtype, namespace and device.

        Raises
        ------
        ArtifactError
            If it does not fit in memory, as what a file claims may not.
        """
        needed = self.size * FLOATS[self.home.dtype].itemsize
        claimed = affordable(f"an array of shape {self.shape}, {needed:,} bytes")
        with claimed, self.home.active(), np.errstate(over="ignore", invalid="ignore"):  # a file may invent its numbers
            return self.home.place(measure.narrowed(self.placed.dense(), FLOATS[self.home.dtype]))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        if copy is False:
            raise refuse("copy", found=False, allowed="None or True, since the array is made on demand")
        return np.asarray(replace(self, home=Home(NUMPY, "cpu", self.home.dtype)).to_dense(), dtype=dtype)

    def like(self, x: Array) -> Factorization:
        """The same factors with results in the library and on the device of ``x``; W's dtype stays.

        What a file holds gives NumPy arrays; so ``F.like(x) @ x`` serves a tensor or an array on a GPU. Nothing is
        decoded or rounded; on a GPU the stored buffers are copied there once, when they are first used.

        Parameters
        ----------
        x : array
            Of any library; its shape and dtype do not matter.

        Returns
        -------
        Factorization

        Raises
        ------
        ArgumentTypeError
            If ``x`` is no array, or its library has no arrays of W's dtype.

        Examples
        --------
        >>> import array_api_strict as xp, factorq as fq
        >>> F = fq.decompose(np.eye(4, dtype=np.float32), bits=4)
        >>> F.like(xp.asarray([1.0])).to_dense().device
        array_api_strict.Device('CPU_DEVICE')
        """
        if not is_array(x):
            raise refuse_type("x", found=type(x).__name__, allowed="an array")
        Home.of(x).check_values("x")
        home = Home.of(x).with_dtype(self.home.dtype)
        return self if home == self.home else replace(self, home=home)

    __array_priority__ = 1000.0
    __array_ufunc__ = None  # so that `ndarray @ F` asks __rmatmul__

    def __matmul__(self, x: Array) -> Array:
        """``F @ x``: (m, n) times (n,) or (n, b), from what is stored; W is not built.

        Parameters
        ----------
        x : array, (n,) or (n, b)
            float16, bfloat16, float32 or float64, of W's library and on its device, in any memory order; b may be 0.

        Returns
        -------
        array, (m,) or (m, b)
            Of the wider dtype of x and W, float32 for two different halves; computed in float32, or in float64 if
            either has it, with the factors as they are stored: ``to_dense()`` also rounds to W's dtype.

        Raises
        ------
        ArgumentTypeError, ArgumentError
            If x is not as above, or records gradients.
        """
        return product(self, x, left=False) if is_array(x) else NotImplemented

    def __rmatmul__(self, x: Array) -> Array:
        """``x @ F``: (m,) or (b, m) times (m, n); all else as for ``F @ x``."""
        return product(self, x, left=True) if is_array(x) else NotImplemented

    # --- where it is --------------------------------------------------------------------------------------------

    @cached_property
    def placed(self) -> Form:
        """The form with its buffers on the GPU of W, from the first use on; elsewhere the form itself."""
        return placing.placed(self.form, self.home)

    def remembering(self, placed: Form) -> Factorization:
        """The same object, which need not copy to a GPU what ``placed`` has there."""
        vars(self)["placed"] = placed
        return self

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "placed"}

    # --- what it becomes ----------------------------------------------------------------------------------------

    def to_conv(
        self, stride: Sizes = 1, padding: Padding = 0, dilation: Sizes = 1, groups: int = 1
    ) -> tuple[Conv, ...]:
        """``conv_W(x) = conv_A(conv_C(conv_B(x)))``: layers that do in turn what the one with weight W does.

        With W (O, I / g, kernel..) as PyTorch has it, rank r and g groups:

        - CP, factors A (O, r), B (I / g, r), C (kernel.., r), weights w: a 1x1 convolution (g r, I / g, 1, ..) with B;
          a depthwise one (g r, 1, kernel..) of g r groups with w * C, which takes stride, padding and dilation; a 1x1
          one (O, r, 1, ..) with A. First and last have g groups. A kernel of one position needs no second layer: the
          first takes its settings, the last its weights.
        - A product A B of W read as (O, the rest), as SVD gives: a convolution (g r, I / g, kernel..) with B and all
          settings, and a 1x1 one (O, r, 1, ..) with A. A matrix: two linear maps, (r, n) with B and (m, r) with A.

        A CP factor may cover several kernel axes, or axes of length 1 beside others. A bias belongs to the last layer.
        Padding is with zeros: for other modes pad x first.

        Parameters
        ----------
        stride, padding, dilation : int or sequence of int
            Settings of the layer that W belongs to, in all or in each of its spatial axes. Padding may also be "valid",
            which is 0, or "same": as many zeros as keep the size at stride 1 (PyTorch takes it at no other).
        groups : int
            Groups of that layer, a divisor of O.

        Returns
        -------
        tuple of Conv
            Two or three, first to last, each with ``weight`` (W's namespace, dtype and device), ``stride``,
            ``padding``, ``dilation`` and ``groups``.

        Raises
        ------
        ArgumentError
            If the factors do not contract as above, or a setting does not fit W's shape.

        Examples
        --------
        >>> import factorq as fq
        >>> W = np.random.default_rng(0).standard_normal((16, 8, 3, 3))
        >>> for conv in fq.decompose(W, method=fq.SVD(4)).to_conv(stride=2, padding=1):
        ...     print(conv)
        Conv(4x8x3x3, stride=(2, 2), padding=(1, 1), dilation=(1, 1), groups=1)
        Conv(16x4x1x1, stride=(1, 1), padding=(0, 0), dilation=(1, 1), groups=1)
        """
        layer = layers.source(self.shape, stride, padding, dilation, groups)
        return layers.convolutions(self.form, self.home, layer)

    def operations(
        self,
        size: Sizes = (),
        stride: Sizes = 1,
        padding: Padding = 0,
        dilation: Sizes = 1,
        groups: int = 1,
        activation_bits: int = 32,
    ) -> Operations:
        """``bops = macs * weight bits * activation bits``, before, with W, and after, with the layers of ``to_conv``.

        As Cherniuk et al. 2023 (arXiv 2308.04595) count them. Before, a weight has the bits of W's dtype and an
        activation 32: of a float32 W the share that is left is theirs, of ``macs * 32 * 32``. After, a weight has the
        bits of its factor's codes (scales apart), or of the dtype in which that is stored; factors that multiply to one
        kernel add their bits. Zeros of sparse factors count.

        Parameters
        ----------
        size : int or sequence of int
            Spatial size of the layer's input; () for a matrix, which is counted for one vector.
        stride, padding, dilation, groups
            As for :meth:`to_conv`.
        activation_bits : int
            Bits of the inputs of each layer afterwards.

        Returns
        -------
        Operations
            macs, bops and parameters (stored numbers), each ``_before`` and ``_after``; bytes. Prints as a table.

        Raises
        ------
        ArgumentError
            As :meth:`to_conv`, or if the kernel is larger than the padded input.

        Examples
        --------
        >>> import factorq as fq
        >>> W = np.random.default_rng(0).standard_normal((64, 32)).astype(np.float32)
        >>> print(fq.decompose(W, rank=8, bits=4).operations(activation_bits=8))
                       before      after
        MACs            2,048        768    37.50%
        BOPs        2,097,152     24,576     1.17%
        parameters      2,048        768    37.50%
        stored in 416 bytes
        """
        layer = layers.source(self.shape, stride, padding, dilation, groups)
        return layers.operations(self.form, self.home, layer, size, activation_bits)

    def to_tensorly(self) -> Any:
        """``W = sum_r weights[r] * factor_1[:, r] x factor_2[:, r] x ...`` as TensorLy's ``CPTensor``.

        A product A B of a matrix has weights 1 and the factors A and B^T. A factor over several axes of W becomes one
        of (product of their lengths, r): ``tensorly.cp_to_tensor`` then gives W with these axes as one, in C order.

        Returns
        -------
        tensorly.cp_tensor.CPTensor
            Weights (r,) and factors (n_k, r) in W's namespace, dtype and device.

        Raises
        ------
        ArgumentError
            If the factors contract in another way, or TensorLy is not installed.
        """
        return interchange.cp_tensor(self.form, self.home)

    # --- how it shows itself ------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        return display.text(self)

    def _repr_html_(self) -> str:
        return display.html(self)

    # --- how it is stored ---------------------------------------------------------------------------------------

    def record(self) -> dict[str, Any]:
        """All but the buffers, as JSON."""
        return records.written(self)

    def buffers(self) -> dict[str, NDArray[Any]]:
        """The stored arrays, each as ``<factor>.<buffer>``."""
        named = self.encoded.items()
        return {f"{role}.{name}": array for role, factor in named for name, array in factor.buffers().items()}

    @classmethod
    def from_record(cls, record: Mapping[str, Any], buffers: Mapping[str, NDArray[Any]]) -> Factorization:
        """The inverse of :meth:`record` and :meth:`buffers`.

        Raises
        ------
        ArtifactError
            If they do not fit together.
        """
        return cls(**records.fields(record, buffers))
