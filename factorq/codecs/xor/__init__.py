"""XOR-gate coding of sparse quantized bit-planes: a fixed-rate stream that an XOR network decodes in parallel.

Where a mask says which weights are kept, the bits of the others do not matter, and a linear code over GF(2) finds an
input whose output is right wherever it matters: about one stored bit per bit that matters. ``fq.xor.encode`` does so
for any array; ``decompose(..., store="xor")`` for the codes under a mask.

Beside the packed bits of the kept weights, which take exactly one bit each, XOR coding saves nothing. What it buys is
that the network's output neither waits for the mask nor counts it: addresses are known, the rate is fixed, gates
suffice. Patches, the few bits that the network gets wrong, are placed by their rank under the mask.
"""

from .coded import Coded, encode
from .codes import Banded, Code, Sequential, Slices

__all__ = ["Banded", "Code", "Coded", "Sequential", "Slices", "encode"]
