"""The state machines of the trellis: which integers a state allows, and where each leads.

Reproduction points are ``k * step``. They fall into the subsets D_d of the k with ``k mod 4 = d``. A state allows the
even integers (D0 and D2) or the odd ones (D1 and D3), so that an index inside the union costs one bit less than on the
full grid, while paths that part keep the distance of the coarse subsets.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from ...errors import refuse

STATES = (1, 4, 8, 16, 32, 64, 128, 256)
# Parity polynomials (h0, h1) of the rate-1/2 codes of largest free distance (Ungerboeck 1982, table I).
_POLYNOMIALS = {
    4: (0o5, 0o2), 8: (0o13, 0o4), 16: (0o23, 0o4), 32: (0o45, 0o10), 64: (0o103, 0o24), 128: (0o235, 0o126),
    256: (0o515, 0o362),
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Machine:
    """A trellis of S states; S = 1 stands for no trellis at all, where any integer may follow any other.

    Parameters
    ----------
    parity : NDArray, (S,) uint8
        ``k mod 2`` of the integers that a state allows; with one state, nothing.
    successor : NDArray, (S, 2) uint8
        The state after k, by ``(k >> 1) & 1``.
    predecessor : NDArray, (S, 2) int64
        The two states before a state.
    subset : NDArray, (S, 2) int64
        ``k mod 4`` on the branches from them.
    """

    parity: NDArray[np.uint8]
    successor: NDArray[np.uint8]
    predecessor: NDArray[np.int64]
    subset: NDArray[np.int64]

    @property
    def states(self) -> int:
        """S."""
        return len(self.parity)


@cache
def machine(states: int) -> Machine:
    """The state machine of a systematic feedback encoder with ``states`` states.

    With the registers w_1 .. w_v the state is ``sum(w_i 2**(i-1))``, the parity is ``z0 = w_1``, and the free bit
    ``z1 = (k >> 1) & 1`` moves it to ``w_i' = w_(i+1) + h0_i z0 + h1_i z1 (mod 2)`` (Ungerboeck 1982).

    Examples
    --------
    >>> machine(4).parity, machine(4).successor.tolist()
    (array([0, 1, 0, 1], dtype=uint8), [[0, 1], [2, 3], [1, 0], [3, 2]])
    """
    if states not in STATES:
        raise refuse("states", found=repr(states), allowed=", ".join(map(str, STATES)))
    if states == 1:
        none = np.zeros((1, 2), np.int64)
        return Machine(np.zeros(1, np.uint8), none.astype(np.uint8), none, none)
    h0, h1 = _POLYNOMIALS[states]
    parity = (np.arange(states) & 1).astype(np.uint8)
    # h_i stands at bit i: shifted down by one, register w_i at bit i - 1.
    after = [[(s >> 1) ^ ((h0 >> 1) * (s & 1)) ^ ((h1 >> 1) * z1) for z1 in (0, 1)] for s in range(states)]
    successor = np.array(after, np.uint8)
    sources = [[(s, z1) for s in range(states) for z1 in (0, 1) if successor[s, z1] == t] for t in range(states)]
    predecessor = np.array([[s for s, _ in pair] for pair in sources])
    subset = np.array([[2 * z1 + int(parity[s]) for s, z1 in pair] for pair in sources])
    return Machine(parity, successor, predecessor, subset)
