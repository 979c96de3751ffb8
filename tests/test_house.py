"""The house: floors, the three walls, frozen names, light imports, documented doors, small files."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import factorq as fq

PACKAGE = Path(fq.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

FLOORS = {
    "": 8, "cli": 8, "demo": 8, "__main__": 9,
    "checkpoint": 7, "decompose": 7,
    "methods": 6, "adapters": 6,
    "constraints": 5, "factorization": 5,
    "solvers": 4, "codecs": 4,
    "forms": 3, "measure": 3, "artifact": 3, "kernels": 3, "calibration": 3,
    "named": 2, "arrays": 2,
    "errors": 1,
}  # fmt: skip
NEIGHBOURS = {("checkpoint", "decompose"), ("cli", "demo"), ("forms", "kernels")}  # of one floor
READERS = {"artifact", "factorization", "codecs", "kernels", "adapters"}
WRITERS = {"solvers", "constraints", "methods", "decompose", "checkpoint"}
SHARED = {"codecs": {"base"}, "methods": {"base"}, "solvers": {"loop", "damping"}}
HEAVY = ("numba", "cupy", "torch", "jax", "scipy.optimize", "matplotlib")


def parts(file: Path) -> tuple[str, ...]:
    """The module of ``file`` as names below the package; a package's ``__init__`` is the package."""
    names = file.relative_to(PACKAGE).with_suffix("").parts
    return names[:-1] if names[-1] == "__init__" else names


@cache
def imports(file: Path) -> list[str]:
    """Full names of all modules that ``file`` imports anywhere, but for type checkers alone."""
    found: list[str] = []
    package = ("factorq", *parts(file))
    if file.name != "__init__.py":
        package = package[:-1]
    todo: list[ast.AST] = [ast.parse(file.read_text())]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            todo += node.orelse
            continue
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*base, *(node.module or "").split("."))).strip(".")
            found += [_module(module, alias.name) for alias in node.names]
        todo += ast.iter_child_nodes(node)
    return found


def _module(module: str, name: str) -> str:
    """``module.name`` where that is a module of this package, else ``module``."""
    path = PACKAGE.parent.joinpath(*module.split("."), name)
    inside = module.startswith("factorq") and (path.with_suffix(".py").exists() or path.is_dir())
    return f"{module}.{name}" if inside else module


def rooms(file: Path) -> list[tuple[str, ...]]:
    """What ``file`` imports of the package, as names below it."""
    names = (tuple(name.split(".")) for name in imports(file))
    return [name[1:] for name in names if name[0] == "factorq"]


def room(names: tuple[str, ...]) -> str:
    return names[0] if names else ""


each_file = pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(PACKAGE)))


@each_file
def test_every_room_has_a_floor(file: Path) -> None:
    assert room(parts(file)) in FLOORS


@each_file
def test_imports_come_from_lower_floors(file: Path) -> None:
    own = room(parts(file))
    used = {room(r) for r in rooms(file)} - {own} - {b for a, b in NEIGHBOURS if a == own}
    above = {r for r in used if FLOORS[r] >= FLOORS[own]}
    assert not above, f"{own} (floor {FLOORS[own]}) imports {sorted(above)}"


@each_file
def test_readers_need_no_solvers(file: Path) -> None:
    if room(parts(file)) in READERS:
        assert not {room(r) for r in rooms(file)} & WRITERS


def test_reading_a_file_loads_no_solver(tmp_path: Path) -> None:
    """The same wall at run time, dynamic imports included."""
    import numpy as np

    W = np.random.default_rng(0).standard_normal((8, 12))
    fq.save(tmp_path / "w.safetensors", {"w": fq.decompose(W, rank=2, bits=4, sparsity=0.5), "v": W})
    code = f"""
import sys, factorq
F = factorq.load({str(tmp_path / "w.safetensors")!r})["w"]
F.to_dense(), F @ F.to_dense()[0], F.nbytes
rooms = {{m.split(".")[1] for m in sys.modules if m.startswith("factorq.")}}
assert not rooms & {WRITERS!r}, rooms
assert repr(F) and F.method.id == "quantized_sparse"
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=120)


@each_file
def test_library_names_stay_in_their_rooms(file: Path) -> None:
    own, used = parts(file), {name.split(".")[0] for name in imports(file)}
    if own[:1] != ("arrays",) and "cuda_twin" not in own:
        assert "cupy" not in used
    if "numba_twin" not in own:
        assert not used & {"numba", "llvmlite"}
    for library in ("torch", "jax"):
        if own[:2] != ("adapters", library):
            assert library not in used


@each_file
def test_equals_do_not_import_each_other(file: Path) -> None:
    own = parts(file)
    if len(own) < 2 or own[0] not in SHARED:
        return
    others = {r[1] for r in rooms(file) if len(r) > 1 and r[0] == own[0] and r[1] != own[1]}
    assert others <= SHARED[own[0]]


@each_file
def test_files_are_small(file: Path) -> None:
    assert len(file.read_text().splitlines()) <= 400


def test_import_rules_can_fail() -> None:
    """The reader of imports sees relative, nested and lazy imports."""
    assert ("codecs", "base") in rooms(PACKAGE / "factorization" / "result.py")
    assert ("measure",) in rooms(PACKAGE / "factorization" / "result.py")
    assert any(r[:2] == ("solvers", "loop") for r in rooms(PACKAGE / "methods" / "svd" / "__init__.py"))
    assert "numba" in imports(PACKAGE / "kernels" / "bits" / "numba_twin.py")
    assert rooms(PACKAGE / "__init__.py") == []


def test_public_names_are_frozen() -> None:
    """Names may be added here, never removed."""
    promised = {
        "CP", "ArgumentError", "ArgumentTypeError", "ArtifactError", "BooleanPruning", "ChannelMoments", "FactorqError",
        "Factorization", "FileAccessError", "FleXOR", "Method", "Plan", "Progress", "QuantizedSparse", "Rotated", "SVD",
        "Scalar", "SecondMoment", "SparsePCA", "Trainable",
        "Trellis", "VectorQuantization", "__version__", "decompose", "explain", "load", "save", "xor",
    }  # fmt: skip
    assert set(fq.__all__) == promised
    assert dir(fq) == sorted(fq.__all__)
    assert all(hasattr(fq, name) for name in fq.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        fq.nonsense  # noqa: B018


@pytest.mark.parametrize("first", ["factorq.explain", "import factorq.decompose", "from factorq.decompose import Plan"])
def test_the_function_wins_over_its_room(first: str) -> None:
    code = f"import factorq; {first}; assert factorq.decompose.__name__ == 'decompose' and callable(factorq.decompose)"
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=60)


def test_import_is_light() -> None:
    code = f"""
import sys, factorq
assert not [m for m in {HEAVY!r} if m in sys.modules], sorted(sys.modules)
factorq.decompose, factorq.load, factorq.Scalar
assert not [m for m in {HEAVY!r} if m in sys.modules], sorted(sys.modules)
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=60)


def public() -> list[tuple[str, object]]:
    found = [(name, getattr(fq, name)) for name in fq.__all__ if not name.startswith("_") and name != "xor"]
    return found + [(f"xor.{name}", getattr(fq.xor, name)) for name in fq.xor.__all__]


@pytest.mark.parametrize(("name", "thing"), public(), ids=[name for name, _ in public()])
def test_doors_are_documented(name: str, thing: object) -> None:
    doc = inspect.getdoc(thing) or ""
    assert doc.splitlines()[0].rstrip(".").strip(), name
    if isinstance(thing, type):
        if not issubclass(thing, Exception):
            own = [
                m for m, f in vars(thing).items() if not m.startswith("_") and (callable(f) or isinstance(f, property))
            ]
            assert not [m for m in own if not inspect.getdoc(getattr(thing, m))], name
        if issubclass(thing, fq.Method) and thing is not fq.Method:
            _describes(doc, "Parameters", [f for f in inspect.signature(thing).parameters])
            assert "Examples\n--------" in doc
        return
    _describes(doc, "Parameters", list(inspect.signature(thing).parameters))
    assert "Raises\n------" in doc
    if inspect.signature(thing).return_annotation not in ("None", None):
        assert "Returns\n-------" in doc


def _describes(doc: str, section: str, names: list[str]) -> None:
    start = doc.index(f"{section}\n{'-' * len(section)}\n")
    heads = [line.split(" : ")[0] for line in doc[start:].splitlines()[2:] if line and not line.startswith(" ")]
    told = {name.strip() for head in heads for name in head.split(",")}
    assert not [n for n in names if n not in told and n not in ("ignored", "kwargs")]


@each_file
def test_modules_say_what_they_are(file: Path) -> None:
    """One docstring per module with code."""
    tree = ast.parse(file.read_text())
    assert not tree.body or ast.get_docstring(tree)
