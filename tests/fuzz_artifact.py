"""A mutation fuzzer for artifact files: ``python tests/fuzz_artifact.py --count 100000 --seed 0 FILES...``.

Two families of mutants. *Damage* is what disks, networks and editors do: the loader must refuse it with
:class:`ArtifactError` or give what the sound file gave. *Forgery* rewrites the header or the record and makes every
checksum match again, so that it reaches the deeper checks: the loader must refuse it or give anything, but never crash.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import os
import random
import struct
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from factorq.artifact import Reader
from factorq.errors import ArtifactError

Json = Any
T = TypeVar("T")
Mutator = Callable[[bytes, random.Random], bytes]


class InertError(Exception):
    """The mutator found nothing to change in this file."""


# Files in parts ------------------------------------------------------------------------------------------------------


def split(original: bytes) -> tuple[dict[str, Json], bytes]:
    """The JSON header and the data of a sound file."""
    (length,) = struct.unpack("<Q", original[:8])
    return json.loads(original[8 : 8 + length]), original[8 + length :]


def join(header: str, data: bytes) -> bytes:
    """A file with the JSON text ``header``, padded so that data is aligned."""
    text = header.encode("utf-8", "surrogatepass")
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


def seal(record: dict[str, Json]) -> str:
    """The text of ``record`` with a checksum that matches."""
    record = {key: value for key, value in record.items() if key != "crc32"}
    text = json.dumps(record, sort_keys=True, separators=(",", ":"))
    return json.dumps({**record, "crc32": zlib.crc32(text.encode())}, sort_keys=True, separators=(",", ":"))


# JSON edits ----------------------------------------------------------------------------------------------------------


def nodes(value: Json) -> Iterator[tuple[Json, Any]]:
    """Every (container, key) pair below ``value``."""
    for key in list(value) if isinstance(value, dict) else range(len(value)):
        yield value, key
        if isinstance(value[key], dict | list):
            yield from nodes(value[key])


def odd_value(old: Json, rng: random.Random) -> Json:
    """A value that a parser may not expect in place of ``old``."""
    number = old if isinstance(old, int | float) and not isinstance(old, bool) else rng.randrange(100)
    near = [number + 1, number - 1, -number, number * 2, number / 2, 0, 1, 2, 8, 255]
    far = [2**31, 2**32, 2**63 - 1, 2**63, 2**64 - 1, 2**64, 10**30, -(2**63), 1e300, 0.5, float("nan"), float("inf")]
    kinds = [
        None,
        True,
        False,
        "",
        "x",
        "F32",
        "U8",
        "BF16",
        "a" * 300,
        "\ud800",
        "\0",
        [],
        {},
        [[]],
        {"": {}},
        [0],
        [2**62, 4],
    ]
    deep: Json = []
    for _ in range(rng.choice([10, 63, 120])):
        deep = [deep]
    return rng.choice(rng.choice([near, near, far, kinds, [deep]]))


def edit(value: Json, rng: random.Random, spare: frozenset[str] = frozenset()) -> None:
    """One change in place somewhere below ``value``, never to a key of ``spare`` itself."""
    choices = [(node, key) for node, key in nodes(value) if key not in spare]
    if not choices:
        raise InertError
    node, key = rng.choice(choices)
    action = rng.randrange(6)
    if action == 0:
        del node[key]
    elif action == 1 and isinstance(node, dict):
        node[f"{key}{rng.choice(['', ' ', 'x', '2'])}" if rng.random() < 0.5 else "extra"] = copy.deepcopy(node[key])
    elif action == 2 and isinstance(node, dict):
        node[f"{key}x"] = node.pop(key)
    elif action == 3:
        other, where = rng.choice(choices)
        node[key], other[where] = copy.deepcopy(other[where]), copy.deepcopy(node[key])
    elif action == 4 and isinstance(node, list):
        node.insert(key, rng.choice([0, 1, 2, 2**40]))
    else:
        node[key] = odd_value(node[key], rng)


def record_of(header: dict[str, Json]) -> dict[str, Json]:
    """The parsed factorq record of ``header``."""
    text = header.get("__metadata__", {}).get("factorq")
    if text is None:
        raise InertError
    return json.loads(text)


# Damage --------------------------------------------------------------------------------------------------------------


def place(data: bytes, rng: random.Random) -> int:
    """A position in ``data``; every other time in its header, which is the smaller and the more delicate part."""
    if rng.random() < 0.5 and len(data) > 8:
        return rng.randrange(min(len(data), 8 + struct.unpack("<Q", data[:8])[0]))
    return rng.randrange(len(data))


def flip_bits(data: bytes, rng: random.Random) -> bytes:
    out = bytearray(data)
    for _ in range(rng.choice([1, 1, 1, 2, 8])):
        out[place(data, rng)] ^= 1 << rng.randrange(8)
    return bytes(out)


def set_bytes(data: bytes, rng: random.Random) -> bytes:
    out = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 16])):
        out[place(data, rng)] = rng.choice(
            [0, 9, 10, 32, 34, 44, 48, 57, 91, 92, 123, 125, 127, 128, 255, rng.randrange(256)]
        )
    return bytes(out)


def truncate(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.choice([place(data, rng), len(data) - 1, rng.randrange(min(len(data), 40))])]


def extend(data: bytes, rng: random.Random) -> bytes:
    return data + rng.choice([b"\0", b" ", rng.randbytes(rng.randrange(1, 64)), data])


def splice(data: bytes, rng: random.Random) -> bytes:
    """Delete, repeat, zero or move a run of bytes."""
    start, length = place(data, rng), rng.choice([1, 2, 8, 64, 512])
    run, target = data[start : start + length], place(data, rng)
    return rng.choice(
        [
            data[:start] + data[start + length :],
            data[:start] + run + data[start:],
            data[:start] + bytes(len(run)) + data[start + len(run) :],
            data[:target] + run + data[target + len(run) :],
            data[:target] + run + data[target:],
        ]
    )


def header_length(data: bytes, rng: random.Random) -> bytes:
    (length,) = struct.unpack("<Q", data[:8])
    near = [length + rng.randrange(-16, 17), length ^ (1 << rng.randrange(64)), 0, 1, 2, 8, len(data), len(data) - 8]
    far = [10**8, 10**8 + 1, 2**31, 2**32, 2**63 - 1, 2**63, 2**64 - 1, 2**64 - 8]
    return struct.pack("<Q", rng.choice(near + far) % 2**64) + data[8:]


def header_text(data: bytes, rng: random.Random) -> bytes:
    """Change one character of the header's text, digits first, its length adjusted."""
    (length,) = struct.unpack("<Q", data[:8])
    text = data[8 : 8 + length].decode("latin-1")
    digits = [i for i, c in enumerate(text) if c.isdigit()]
    where = rng.choice(digits) if digits and rng.random() < 0.7 else rng.randrange(len(text))
    new = rng.choice(
        [str(rng.randrange(10)), "", "-", "00", "e9", "9" * 5000, '"', ",", "}", "[", "\\", "\\u0000", "NaN", "[" * 200]
    )
    text = text[:where] + new + text[where + 1 :]
    return join(text, data[8 + length :]) if text.isascii() else data[:8] + text.encode("latin-1") + data[8 + length :]


def header_json(data: bytes, rng: random.Random) -> bytes:
    """Edit a field of the header and keep the record, which then disagrees."""
    header, body = split(data)
    edit(header, rng, frozenset({"__metadata__", "factorq"}))
    return join(json.dumps(header), body)


def record_text(data: bytes, rng: random.Random) -> bytes:
    """Edit a field of the record and keep its checksum."""
    header, body = split(data)
    record = record_of(header)
    edit(record, rng)
    header["__metadata__"]["factorq"] = json.dumps(record)
    return join(json.dumps(header), body)


def twice(data: bytes, rng: random.Random) -> bytes:
    """A key of the header or the record that stands twice."""
    header, body = split(data)
    if rng.random() < 0.5:
        record = record_of(header)
        key = rng.choice(sorted(record))
        text = seal(record)
        header["__metadata__"]["factorq"] = (
            text[:-1] + f",{json.dumps(key)}:{json.dumps(odd_value(record[key], rng))}}}"
        )
        return join(json.dumps(header), body)
    key = rng.choice(sorted(header))
    return join(json.dumps(header)[:-1] + f",{json.dumps(key)}:{json.dumps(header[key])}}}", body)


# Forgery -------------------------------------------------------------------------------------------------------------


def forge_record(data: bytes, rng: random.Random) -> bytes:
    """Edit the record, then make its checksum match."""
    header, body = split(data)
    record = record_of(header)
    for _ in range(rng.choice([1, 1, 2])):
        edit(record, rng, frozenset({"format_version"}) if rng.random() < 0.9 else frozenset())
    header["__metadata__"]["factorq"] = seal(record)
    return join(json.dumps(header), body)


def forge_buffer(data: bytes, rng: random.Random) -> bytes:
    """Change the bytes of one tensor, then make its checksum and the record's match."""
    header, body = split(data)
    record = record_of(header)
    full = [name for name in record["buffers"] if (span := header[name]["data_offsets"])[1] > span[0]]
    if not full:
        raise InertError
    name = rng.choice(full)
    start, stop = header[name]["data_offsets"]
    out = bytearray(body)
    for _ in range(rng.choice([1, 4, 32])):
        out[rng.randrange(start, stop)] = rng.choice([0, 1, 127, 128, 255, rng.randrange(256)])
    record["buffers"][name]["crc32"] = zlib.crc32(out[start:stop])
    header["__metadata__"]["factorq"] = seal(record)
    return join(json.dumps(header), bytes(out))


def forge_tensors(data: bytes, rng: random.Random) -> bytes:
    """Give a tensor another size, dtype, shape or name, or drop it, consistently in header, data and record."""
    header, body = split(data)
    record = record_of(header)
    parts = {name: body[slice(*item["data_offsets"])] for name, item in header.items() if name != "__metadata__"}
    if not parts:
        raise InertError
    name = rng.choice(sorted(parts))
    item, action = header[name], rng.randrange(4)
    if action == 0:
        del header[name], parts[name]
    elif action == 1:
        header[name + "x"], parts[name + "x"] = header.pop(name), parts.pop(name)
    elif action == 2:
        length = rng.choice([0, 1, len(parts[name]) // 2, len(parts[name]) * 2 + 1])
        parts[name] = (parts[name] * 3)[:length].ljust(length, b"\0")
        item["dtype"], item["shape"] = "U8", rng.choice([[length], [1, length], [length, *[1] * 70], [length]])
    else:
        size = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "I8": 1, "F8_E4M3": 1, "BOOL": 1}
        item["dtype"] = rng.choice(sorted(size))
        item["shape"] = [len(parts[name]) // size[item["dtype"]]]
        parts[name] = parts[name][: item["shape"][0] * size[item["dtype"]]]
    ends = list(itertools.accumulate((len(part) for part in parts.values()), initial=0))
    for (start, stop), key in zip(itertools.pairwise(ends), parts, strict=True):
        header[key]["data_offsets"] = [start, stop]
    record["buffers"] = {
        key: {"dtype": header[key]["dtype"], "shape": header[key]["shape"], "crc32": zlib.crc32(part)}
        for key, part in parts.items()
    }
    header["__metadata__"]["factorq"] = seal(record)
    return join(json.dumps(header), b"".join(parts.values()))


def forge_header(data: bytes, rng: random.Random) -> bytes:
    """Edit the header anywhere, the record's key included: the file may become a plain one."""
    header, body = split(data)
    edit(header, rng)
    return join(json.dumps(header), body)


DAMAGE: tuple[Mutator, ...] = (
    flip_bits, set_bytes, truncate, extend, splice, header_length, header_text, header_json, record_text, twice,
)  # fmt: skip
FORGERY: tuple[Mutator, ...] = (forge_record, forge_record, forge_record, forge_buffer, forge_tensors, forge_header)


# The driver ----------------------------------------------------------------------------------------------------------


def fuzz(
    original: bytes,
    load: Callable[[Path], T],
    same: Callable[[T, T], bool],
    count: int,
    rng: random.Random,
) -> Counter[str]:
    """Outcomes of ``count`` mutants of the file ``original``: how many each mutator had refused, identical or accepted.

    Parameters
    ----------
    original : bytes
        A sound file; a plain safetensors file has no checksums, so it needs a lenient ``same``.
    load : callable
        Reads the file at a path completely; may raise only :class:`ArtifactError`.
    same : callable
        Whether two results of ``load`` are identical; called as ``same(result, sound)``.
    count : int
        The number of mutants, at least 1.
    rng : random.Random
        Equal states give equal mutants.

    Raises
    ------
    AssertionError
        If a mutant makes ``load`` raise anything else, or if damage is read as something else; it names the mutator
        and carries the mutant in its attribute ``mutant``.
    """
    outcomes: Counter[str] = Counter()
    memory = Path("/dev/shm")  # a RAM disk where there is one: mutants are written and read 10,000 times
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder:
        path = Path(folder) / "mutant.safetensors"
        path.write_bytes(original)
        sound = load(path)
        assert same(load(path), sound), "load(original) must be the same twice"
        while outcomes.total() < count:
            mutate = rng.choice(DAMAGE if rng.random() < 0.6 else FORGERY)
            try:
                mutant = mutate(original, rng)
            except InertError:
                outcomes[f"{mutate.__name__}: inert"] += 1
                continue
            path.write_bytes(mutant)
            outcome = _outcome(path, load, same, sound, mutate)
            if outcome.startswith("WRONG"):
                error = AssertionError(f"{mutate.__name__}, mutant {outcomes.total()}: {outcome}")
                error.mutant = mutant  # type: ignore[attr-defined]
                raise error
            outcomes[f"{mutate.__name__}: {outcome}"] += 1
    return outcomes


def _outcome(path: Path, load: Callable[[Path], T], same: Callable[[T, T], bool], sound: T, mutate: Mutator) -> str:
    try:
        result = load(path)
    except ArtifactError as error:
        return "refused" if "\n" not in str(error) else f"WRONG: a message of several lines, {error!r}"
    except Exception as error:  # every other one is what the fuzzer is looking for
        return f"WRONG: {type(error).__name__} instead of ArtifactError: {error}"
    if same(result, sound):
        return "identical"
    return "accepted" if mutate in FORGERY else "WRONG: damage was read as something else"


Content = tuple[dict[str, np.ndarray], Json]


def read_all(path: Path) -> Content:
    """All tensors of the file at ``path``, sub-byte ones as their bytes, and its record."""
    with Reader(path) as reader:
        subbyte = {name for name, entry in reader.entries.items() if entry.dtype.startswith(("F4", "F6"))}
        arrays = {name: reader.read_bytes(name) if name in subbyte else reader.read(name) for name in reader.entries}
        return arrays, reader.record


def same_content(a: Content, b: Content) -> bool:
    """Whether names, dtypes, shapes, bits and record agree; a plain file (no record) cannot tell, so there all pass."""
    arrays, others = a[0], b[0]
    if b[1] is None:
        return True
    return (
        json.dumps(a[1]) == json.dumps(b[1])
        and arrays.keys() == others.keys()
        and all(
            (x.dtype, x.shape, x.tobytes()) == (others[key].dtype, others[key].shape, others[key].tobytes())
            for key, x in arrays.items()
        )
    )


def main() -> None:
    """Fuzz each file named on the command line and print the outcomes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    for file in arguments.files:
        before = time.process_time()
        outcomes = fuzz(file.read_bytes(), read_all, same_content, arguments.count, random.Random(arguments.seed))
        print(f"{file}: {outcomes.total()} mutants, {time.process_time() - before:.1f} s CPU")
        for outcome, number in sorted(outcomes.items()):
            print(f"  {outcome:28} {number}")


if __name__ == "__main__":
    main()
