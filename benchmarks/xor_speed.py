"""How fast the XOR codes and what they stand beside are, for ``xor.py``: one thread, process CPU time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any
from unittest import mock

import numpy as np
from common import measure
from numpy.typing import NDArray
from processes import attempted
from xor_data import Row, fair, rates
from xor_efficiency import usual_outputs

ENCODE_COLUMNS = (
    *("code", "sparsity", "planes", "weights", "encode_mw_s", "encode_mw_s_low", "encode_mw_s_high", "solve_mw_s"),
    *("solve_mw_s_low", "solve_mw_s_high", "note"),
)
DECODE_COLUMNS = (
    *("code", "sparsity", "weights", "outputs_gbit_s", "outputs_gbit_s_low", "outputs_gbit_s_high", "of_copy"),
    *("of_new_copy", "copy_gbit_s", "new_copy_gbit_s", "decode_mw_s", "decode_mw_s_low", "decode_mw_s_high"),
)
SLICES = 64  # that are solved by galois
Call = Callable[[], object]


def codes(sparsity: float) -> dict[str, Any]:
    """What is timed at a sparsity."""
    import factorq as fq

    named = {"Slices(20, 180)": fq.xor.Slices(20, 180)} if sparsity == 0.9 else {}
    return {
        "Banded(128), paced": fq.xor.Banded(128),
        "Banded(128), one rate": fq.xor.Banded(128, paced=False),
        "Banded(64), paced": fq.xor.Banded(64),
        "Banded(64), one rate": fq.xor.Banded(64, paced=False),
        **named,
        **{f"Slices({n_in})": fq.xor.Slices(n_in) for n_in in (8, 20, 56, 64, 256)},
        **{f"Sequential(8, {registers})": fq.xor.Sequential(8, registers) for registers in (1, 2)},
    }


def kernel_of(code: Any) -> ModuleType:
    import factorq as fq
    from factorq.kernels import banded, sequential, slices

    kinds: dict[type, ModuleType] = {fq.xor.Slices: slices, fq.xor.Sequential: sequential, fq.xor.Banded: banded}
    return kinds[type(code)]


def kernel_calls(kernel: ModuleType, name: str, call: Call) -> Call:
    """What ``call`` has a kernel do, without all that is around it."""
    plain = getattr(kernel, name)
    with mock.patch.object(kernel, name, wraps=plain) as spy:
        call()
    made = spy.call_args_list

    def replay() -> None:
        for arguments in made:
            plain(*arguments.args, **arguments.kwargs)

    return replay


# --- encoding -------------------------------------------------------------------------------------------------------


def encode_rows(size: int, repeats: int) -> Iterator[Row]:
    """The whole of ``encode`` and the solver alone; the packed baseline; galois on the same slices."""
    import factorq as fq

    for sparsity in (0.9, 0.7):
        for name, code in codes(sparsity).items():
            shorter = code.registers * 3 if isinstance(code, fq.xor.Sequential) else 0
            for planes in (1, 4) if name in ("Banded(128), paced", "Slices(20, 180)") else (1,):
                weights = max(size >> shorter, 1 << 12)
                row = encoding(code, sparsity, planes, weights, min(repeats, 3) if shorter else repeats)
                yield {"code": name, "sparsity": sparsity, "planes": planes, "weights": weights} | row
        yield {"code": "packed", "sparsity": sparsity, "planes": 1, "weights": size} | extraction(
            sparsity, size, repeats
        )
        print(f"encoding at {sparsity}: done", flush=True)
    if repeats == 1:
        return  # galois compiles for ten seconds
    sample = SLICES * 180
    found = attempted(lambda: galois_slices(20, 180, 0.9))
    yield {"code": "galois, slices of 180 from 20", "sparsity": 0.9, "planes": 1, "weights": sample} | found


def encoding(code: Any, sparsity: float, planes: int, size: int, repeats: int) -> Row:
    import factorq as fq

    bit, care = fair(size, sparsity, 0)
    values = bit if planes == 1 else np.random.default_rng(1).integers(0, 1 << planes, size, np.uint8)

    def whole() -> object:
        return fq.xor.encode(values, care, bits=planes, code=code)

    found = measure({"encode": whole, "solve": kernel_calls(kernel_of(code), "solve", whole)}, repeats)
    return rates("encode_mw_s", size, found["encode"]) | rates("solve_mw_s", size, found["solve"])


def extraction(sparsity: float, size: int, repeats: int) -> Row:
    """The bits that matter, side by side."""
    from factorq.kernels import deposit

    bits, care = (np.packbits(x, bitorder="little") for x in fair(size, sparsity, 0))
    found = measure({"extract": lambda: deposit.extract(bits, care, size)}, repeats)
    return rates("solve_mw_s", size, found["extract"])


def galois_slices(n_in: int, n_out: int, sparsity: float) -> Row:
    """Each slice by a reduction of its system over GF(2), the right side beside it, as a user of galois would."""
    import galois

    field = galois.GF(2)
    rng = np.random.default_rng(0)
    network = rng.integers(0, 2, (n_out, n_in), np.uint8)
    values, care = fair(SLICES * n_out, sparsity, 0)
    systems = []
    for bits, keep in zip(values.reshape(-1, n_out), care.reshape(-1, n_out), strict=True):
        systems.append(field(np.column_stack([network[keep], bits[keep]])))

    def solve() -> list[NDArray[np.uint8]]:
        return [solution(np.asarray(system.row_reduce(ncols=n_in)), n_in) for system in systems]

    for x, bits, keep in zip(solve(), values.reshape(-1, n_out), care.reshape(-1, n_out), strict=True):
        wrong = int(np.count_nonzero((network[keep] @ x % 2) != bits[keep]))
        if wrong > max(np.count_nonzero(keep) - n_in // 2, 0):
            raise SystemExit("xor: galois: a wrong solution, nothing to time")
    found = measure({"solve": solve}, 3)
    return rates("solve_mw_s", values.size, found["solve"])


def solution(reduced: NDArray[np.uint8], n_in: int) -> NDArray[np.uint8]:
    """The inputs that a reduced system gives: its pivots; the others are 0."""
    x = np.zeros(n_in, np.uint8)
    for row in reduced[reduced[:, :n_in].any(axis=1)]:
        x[np.argmax(row[:n_in])] = row[n_in]
    return x


# --- decoding -------------------------------------------------------------------------------------------------------


def decode_rows(sizes: tuple[int, ...], repeats: int) -> Iterator[Row]:
    """The network alone, beside a copy of its output, and the whole of ``decode``."""
    for sparsity in (0.9, 0.7):
        for size in sizes:
            often = min(max(repeats, 1) * max(sizes) // size, 64)  # so that the clock can tell
            for name, code in codes(sparsity).items():
                row = decoding(code, sparsity, size, often, repeats)
                yield {"code": name, "sparsity": sparsity, "weights": size} | row
            yield {"code": "packed", "sparsity": sparsity, "weights": size} | deposition(sparsity, size, often, repeats)
        print(f"decoding at {sparsity}: done", flush=True)


def decoding(code: Any, sparsity: float, size: int, often: int, repeats: int) -> Row:
    import factorq as fq

    if isinstance(code, fq.xor.Sequential):
        return beside_copy(random_outputs(code, size, 1 - sparsity), size, often, repeats)
    values, care = fair(size, sparsity, 0)
    whole = fq.xor.encode(values, care, bits=1, code=code).decode
    row = beside_copy(kernel_calls(kernel_of(code), "outputs", whole), size, often, repeats)
    return row | rates("decode_mw_s", size, measure({"decode": whole}, repeats)["decode"])


def large_rows(size: int, repeats: int) -> Iterator[Row]:
    """The networks alone, on so many weights that neither the output nor its copy fits into a cache."""
    from factorq.kernels import deposit

    sparsity = 0.9
    for name, code in codes(sparsity).items():
        if "paced" not in name:  # the network is that at one rate
            call = random_outputs(code, size, 1 - sparsity)
            yield {"code": name, "sparsity": sparsity, "weights": size} | beside_copy(call, size, 1, repeats)
    care = np.packbits(np.random.default_rng(0).random(1 << 20) >= sparsity, bitorder="little")
    care = np.tile(care, -(-size >> 20))[: size // 8]
    packed = random_bytes(-(-int(np.bitwise_count(care).sum()) // 8))
    row = beside_copy(lambda: deposit.deposit(packed, care, size), size, 1, repeats)
    yield {"code": "packed", "sparsity": sparsity, "weights": size} | row


def random_outputs(code: Any, size: int, density: float) -> Call:
    """The outputs of a random stream: all are decoded alike, and to find the right one can take hours."""
    import factorq as fq
    from factorq.kernels import banded, sequential, slices

    if isinstance(code, fq.xor.Banded):
        step = 256 if 256 * density <= 128 else 128  # as Banded chooses it
        network = banded.Network(code.window, step, round(step * density), 0)
        starts = np.arange(-(-size // step)) * network.advance
        slots = int(starts[-1]) + network.advance + code.window
        bits = random_bytes(-(-slots // 8))[None]
        return lambda: banded.outputs(network, bits, size, starts, slots)
    if isinstance(code, fq.xor.Slices):
        n_out = code.n_out or usual_outputs(code.n_in, 1 - density)
        inputs = random_bytes(slices.stream_size(size, code.n_in, n_out))[None]
        return lambda: slices.outputs(inputs, size, code.n_in, n_out, 0)
    n_out = int(code.n_in / density + 1e-9)
    stream = random_bytes(sequential.stream_size(size, code.n_in, n_out))[None]
    return lambda: sequential.outputs(stream, size, code.n_in, n_out, code.registers, 0)


def random_bytes(count: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, count, np.uint8)


def deposition(sparsity: float, size: int, often: int, repeats: int) -> Row:
    """Packed bits to where they belong; zeros elsewhere."""
    from factorq.kernels import deposit

    bits, care = (np.packbits(x, bitorder="little") for x in fair(size, sparsity, 0))
    packed = deposit.extract(bits, care, size)
    return beside_copy(lambda: deposit.deposit(packed, care, size), size, often, repeats)


def beside_copy(outputs: Call, size: int, often: int, repeats: int) -> Row:
    """Gigabits of output per second, and of copies of as many: to memory at hand, and to new memory like the output."""
    source, target = apart(size // 8)
    calls = {"copy": lambda: np.copyto(target, source), "new_copy": source.copy, "outputs": outputs}
    taken = measure({name: many(call, often) for name, call in calls.items()}, repeats)
    row = rates("outputs_gbit_s", size * often, taken["outputs"], 1e9)
    for name in ("copy", "new_copy"):
        row[f"of_{name}"] = taken[name].median / max(taken["outputs"].median, 1e-9)
        row[f"{name}_gbit_s"] = size * often / 1e9 / max(taken[name].median, 1e-9)
    return row


def apart(nbytes: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Two arrays half a page apart, of random bytes and of zeros.

    Where both begin at the same place of a page, as large ones by themselves do, some processors copy ten times slower.
    """
    page = 1 << 12
    room = np.zeros(2 * nbytes + 4 * page, np.uint8)
    first = -room.ctypes.data % page
    second = first + -(-nbytes // page) * page + page // 2
    room[first : first + nbytes] = random_bytes(nbytes)
    return room[first : first + nbytes], room[second : second + nbytes]


def many(call: Call, often: int) -> Call:
    def all_of_them() -> None:
        for _ in range(often):
            call()

    return all_of_them
