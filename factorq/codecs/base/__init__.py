"""The contract of codecs (:class:`Encoded`), and what those with groups, with a mask or around others share."""

from . import products
from .encoded import MAX_DIMS, Encoded, Packed, Points, Read, buffer, decode_config, is_count, widths
from .grouped import (
    Grouped,
    from_matrix,
    groups_shape,
    matrix_shape,
    normal_exponent,
    packed_rows,
    row_blocks,
    to_matrix,
    unpack_rows,
)
from .masked import Masked
from .shadow import Frozen, Ops, Projected, Shadow
from .wrapped import BUFFER_DTYPES, Wrapped, untouched

__all__ = [
    "BUFFER_DTYPES",
    "MAX_DIMS",
    "Encoded",
    "Frozen",
    "Grouped",
    "Masked",
    "Ops",
    "Packed",
    "Points",
    "Projected",
    "Read",
    "Shadow",
    "Wrapped",
    "buffer",
    "decode_config",
    "from_matrix",
    "groups_shape",
    "is_count",
    "matrix_shape",
    "normal_exponent",
    "packed_rows",
    "products",
    "row_blocks",
    "to_matrix",
    "unpack_rows",
    "untouched",
    "widths",
]
