"""Checkpoints: what passes through, what is factored, shards, atomicity, and the same bytes whatever runs them."""

from __future__ import annotations

import json
import math
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file

from factorq.artifact import Reader, Writer
from factorq.checkpoint import compress, decompress, info, parse, verify
from factorq.checkpoint import shards as shards_room
from factorq.decompose import decompose
from factorq.errors import ArgumentError, ArgumentTypeError, ArtifactError, FileAccessError
from factorq.factorization import load
from factorq.methods import SVD, Scalar

REAL = Path(__file__).resolve().parents[2] / "shared" / "data" / "resnet20_cifar10.safetensors"


def tensors() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "embed.weight": rng.standard_normal((96, 64)).astype(np.float32),
        "step": np.array(7, np.int64),
        "layer.0.weight": rng.standard_normal((64, 128)).astype(np.float32),
        "layer.0.bias": rng.standard_normal(64).astype(np.float32),
        "conv.weight": rng.standard_normal((32, 16, 3, 3)).astype(np.float16),
        "half.weight": rng.standard_normal((48, 64)).astype(ml_dtypes.bfloat16),
        "double.weight": rng.standard_normal((32, 40)),
        "empty": np.empty((0, 4), np.float32),
        "codes": rng.integers(0, 255, (16, 16), dtype=np.uint8),
    }


def write(path: Path, content: dict[str, np.ndarray], raw: bool = False) -> Path:
    with Writer(path) as writer:
        for name, array in content.items():
            writer.add(name, array)
        if raw:
            writer.add_raw("packed4", "F4", (4, 6), bytes(range(12)))
        writer.commit(None, {"format": "pt"})
    return path


def sharded(folder: Path) -> Path:
    folder.mkdir()
    content = list(tensors().items())
    owners: dict[str, str] = {}
    for k, part in enumerate((content[:4], content[4:])):
        name = f"model-0000{k + 1}-of-00002.safetensors"
        write(folder / name, dict(part))
        owners |= dict.fromkeys(dict(part), name)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1, "note": "kept"}, "weight_map": owners}))
    return index


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write(tmp_path / "in.safetensors", tensors())


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_floats_of_two_axes_are_factored_and_the_rest_passes_bit_for_bit(tmp_path: Path) -> None:
    source = write(tmp_path / "in.safetensors", tensors(), raw=True)
    report = compress(source, tmp_path / "out.safetensors", bits=4, exclude=["embed*"])
    notes = {row.name: row.note for row in report.rows}
    assert [row.name for row in report.rows] == [*tensors(), "packed4"]
    assert notes["embed.weight"] == "excluded by 'embed*'"
    assert notes["step"] == "dtype I64"
    assert notes["layer.0.bias"] == "1-D"
    assert notes["empty"] == "empty"
    assert {row.name for row in report.rows if row.method} == {
        "layer.0.weight", "conv.weight", "half.weight", "double.weight"
    }  # fmt: skip
    with Reader(source) as before, Reader(tmp_path / "out.safetensors") as after:
        assert after.metadata == before.metadata
        for row in report.rows:
            if not row.method:
                assert after.entries[row.name].dtype == before.entries[row.name].dtype
                assert np.array_equal(after.read_bytes(row.name), before.read_bytes(row.name))


def test_sizes_and_errors_are_those_of_the_front_door(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.safetensors"
    report = compress(source, target, bits=4)
    stored = load(target)
    for row in (row for row in report.rows if row.method):
        W = tensors()[row.name]
        F = decompose(W, bits=4)
        assert row.nbytes == F.nbytes
        assert row.relative_error == F.relative_error
        assert same_bits(stored[row.name].to_dense(), F.to_dense())
        assert math.isclose(row.norm, float(np.linalg.norm(W.astype(np.float64))), rel_tol=1e-9)
    assert report.file_nbytes == target.stat().st_size
    assert report.original_nbytes == source.stat().st_size
    assert report.bits_per_weight == pytest.approx(
        8 * sum(row.nbytes for row in report.rows) / sum(row.size for row in report.rows)
    )
    lost = sum((row.relative_error * row.norm) ** 2 for row in report.rows if row.method)
    whole = sum(row.norm**2 for row in report.rows if row.method)
    assert report.relative_error == pytest.approx(math.sqrt(lost / whole))
    assert {row.name: row.nbytes for row in info(target).rows} == {row.name: row.nbytes for row in report.rows}


def test_decompress_gives_names_order_shapes_dtypes_and_metadata_back(source: Path, tmp_path: Path) -> None:
    compress(source, tmp_path / "out.safetensors", bits=8)
    decompress(tmp_path / "out.safetensors", tmp_path / "plain.safetensors")
    stored = load(tmp_path / "out.safetensors")
    with Reader(source) as before, Reader(tmp_path / "plain.safetensors") as after:
        assert after.record is None
        assert after.metadata == before.metadata
        assert list(after.entries) == list(before.entries)
        for name, entry in before.entries.items():
            assert (entry.dtype, entry.shape) == (after.entries[name].dtype, after.entries[name].shape)
            if name in stored and not isinstance(stored[name], np.ndarray):
                assert same_bits(after.read(name), stored[name].to_dense())


@pytest.mark.parametrize(
    "options",
    [{"rank": 8, "bits": 4, "method": "svd"}, {"bits": 3, "sparsity": 0.5}, {"method": "svd(rank=4)+scalar(bits=3)"}],
)
def test_the_same_bytes_for_every_number_of_jobs(source: Path, tmp_path: Path, options: dict) -> None:
    compress(source, tmp_path / "one.safetensors", **options, rng=5)
    compress(source, tmp_path / "two.safetensors", **options, rng=5, jobs=2)
    assert (tmp_path / "one.safetensors").read_bytes() == (tmp_path / "two.safetensors").read_bytes()


def test_each_tensor_has_its_own_generator_from_seed_and_name(tmp_path: Path) -> None:
    W = np.random.default_rng(1).standard_normal((300, 300)).astype(np.float32)
    write(tmp_path / "a.safetensors", {"x": W, "y": W})
    write(tmp_path / "b.safetensors", {"y": W})
    method = SVD(rank=20)

    def made(name: str, seed: int) -> dict:
        compress(tmp_path / name, tmp_path / "out.safetensors", method=method, rng=seed)
        return load(tmp_path / "out.safetensors")

    both, alone, other = made("a.safetensors", 0), made("b.safetensors", 0), made("b.safetensors", 1)
    assert same_bits(both["y"].factors[0], alone["y"].factors[0])
    assert not same_bits(both["x"].factors[0], both["y"].factors[0])
    assert not same_bits(other["y"].factors[0], alone["y"].factors[0])


def test_verify_measures_again_and_finds_what_is_wrong(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.safetensors"
    report = compress(source, target, bits=4)
    checked = verify(target, source)
    assert not checked.failures
    assert checked.relative_error == pytest.approx(report.relative_error)
    assert {row.name for row in verify(target, source, max_error=0.05).failures} == {
        row.name for row in report.rows if row.method
    }
    changed = tensors()
    changed["layer.0.weight"] = changed["layer.0.weight"] * np.float32(1.01)
    changed["layer.0.bias"] = changed["layer.0.bias"] + 1
    changed["conv.weight"] = changed["conv.weight"].astype(np.float32)
    changed["embed.weight"] = changed["embed.weight"].reshape(64, 96)
    del changed["double.weight"]
    changed["new"] = np.zeros(3)
    failures = {row.name: row.failure for row in verify(target, write(tmp_path / "b.safetensors", changed)).failures}
    assert set(failures) == {"layer.0.weight", "layer.0.bias", "conv.weight", "embed.weight", "double.weight", "new"}
    assert "recorded error" in failures["layer.0.weight"]
    assert "differ" in failures["layer.0.bias"]
    assert failures["conv.weight"] == "the original is 32x16x3x3 F32"
    assert failures["double.weight"] == "missing in the original"
    assert failures["new"] == "missing in the compressed checkpoint"


def test_shards_keep_their_layout(tmp_path: Path) -> None:
    index = sharded(tmp_path / "in")
    report = compress(index, tmp_path / "out", bits=4)
    assert files(tmp_path / "out") == files(tmp_path / "in")
    written = json.loads((tmp_path / "out" / index.name).read_text())
    sizes = 0
    for name in sorted(set(written["weight_map"].values())):
        with Reader(tmp_path / "out" / name) as reader:
            assert {entry for entry, owner in written["weight_map"].items() if owner == name} == set(reader.entries)
            sizes += reader.nbytes
    assert written["metadata"] == {"total_size": sizes, "note": "kept"}
    assert report.file_nbytes == sum(path.stat().st_size for path in (tmp_path / "out").iterdir())
    assert not verify(tmp_path / "out", index).failures
    assert len(info(tmp_path / "out").rows) == len(tensors())
    decompress(tmp_path / "out" / index.name, tmp_path / "plain")
    restored = json.loads((tmp_path / "plain" / index.name).read_text())
    assert restored["weight_map"] == json.loads(index.read_text())["weight_map"]
    for name in files(tmp_path / "in")[:2]:
        before, after = load_file(tmp_path / "in" / name), load_file(tmp_path / "plain" / name)
        assert {k: (v.dtype, v.shape) for k, v in before.items()} == {k: (v.dtype, v.shape) for k, v in after.items()}


def test_shards_go_into_one_file_where_one_is_named(tmp_path: Path) -> None:
    index = sharded(tmp_path / "in")
    compress(index.parent, tmp_path / "one.safetensors", bits=4)
    assert not verify(tmp_path / "one.safetensors", index).failures


def test_shards_appear_all_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = sharded(tmp_path / "in")
    compress(index, tmp_path / "out", bits=8)
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}

    def full(path: object, content: object) -> None:
        raise FileAccessError("disk full")

    monkeypatch.setattr(shards_room, "write_json_atomically", full)
    for target in ("out", "fresh"):
        with pytest.raises(FileAccessError):
            compress(index, tmp_path / target, bits=2)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    assert not (tmp_path / "fresh").exists()


def test_a_failure_midway_leaves_the_old_output(tmp_path: Path) -> None:
    good, bad = tensors(), tensors()
    bad["double.weight"][3, 4] = np.nan
    write(tmp_path / "good.safetensors", good)
    write(tmp_path / "bad.safetensors", bad)
    compress(tmp_path / "good.safetensors", tmp_path / "out.safetensors", bits=4)
    before, names = (tmp_path / "out.safetensors").read_bytes(), files(tmp_path)
    for jobs in (1, 2):
        with pytest.raises(ArtifactError, match=r"tensor 'double.weight': found 1 non-finite values.*\(3, 4\)"):
            compress(tmp_path / "bad.safetensors", tmp_path / "out.safetensors", bits=4, jobs=jobs)
    assert (tmp_path / "out.safetensors").read_bytes() == before
    assert files(tmp_path) == names


def test_an_interrupt_leaves_nothing(source: Path, tmp_path: Path) -> None:
    def stop(row: object, done: int, total: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    for jobs in (1, 2):
        with pytest.raises(KeyboardInterrupt):
            compress(source, tmp_path / "out.safetensors", bits=4, jobs=jobs, callback=stop)
    assert files(tmp_path) == ["in.safetensors"]


def test_what_the_method_does_not_fit_passes_with_the_reason(source: Path, tmp_path: Path) -> None:
    report = compress(source, tmp_path / "out.safetensors", method="svd", rank=40, bits=4)
    notes = {row.name: row.note for row in report.rows}
    assert notes["conv.weight"].startswith("rank: found 40")
    assert [row.name for row in report.rows if row.method] == ["embed.weight", "layer.0.weight", "half.weight"]
    with pytest.raises(ArgumentError, match="no tensor to factor"):
        compress(source, tmp_path / "none.safetensors", method="svd", rank=65)
    with pytest.raises(ArgumentError, match="no tensor to factor"):
        compress(source, tmp_path / "none.safetensors", bits=4, exclude=["*"])
    assert not (tmp_path / "none.safetensors").exists()


def test_factors_that_would_be_larger_are_not_stored(source: Path, tmp_path: Path) -> None:
    report = compress(source, tmp_path / "out.safetensors", method=SVD(rank=32))
    larger = {row.name for row in report.rows if row.note.startswith("its factors would take")}
    assert larger == {"conv.weight", "half.weight", "double.weight"} - {row.name for row in report.rows if row.method}
    assert "double.weight" in larger
    assert not verify(tmp_path / "out.safetensors", source).failures


def test_a_group_size_reaches_the_method(source: Path, tmp_path: Path) -> None:
    report = compress(source, tmp_path / "out.safetensors", bits=4, group=32)
    assert {row.config["group"] for row in report.rows if row.method} == {32}
    with pytest.raises(ArgumentError, match="group"):
        compress(source, tmp_path / "out.safetensors", bits_per_weight=4.5, group=32, method="scalar")


def test_a_target_size_holds_for_each_tensor(source: Path, tmp_path: Path) -> None:
    report = compress(source, tmp_path / "out.safetensors", method="scalar", bits_per_weight=4.5)
    assert all(0 < row.bits_per_weight <= 4.5 for row in report.rows if row.method)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({}, ArgumentTypeError),
        ({"bits": 0}, ArgumentError),
        ({"bits": 17}, ArgumentError),
        ({"bits": 2.5, "method": "scalar"}, ArgumentTypeError),
        ({"rank": 0}, ArgumentError),
        ({"rank": -1}, ArgumentError),
        ({"bits": 4, "sparsity": 1.0}, ArgumentError),
        ({"bits": 4, "sparsity": -0.1}, ArgumentError),
        ({"method": "svdd"}, ArgumentError),
        ({"bits": 4, "jobs": 0}, ArgumentError),
        ({"bits": 4, "jobs": 1.5}, ArgumentTypeError),
        ({"bits": 4, "exclude": "embed*"}, ArgumentTypeError),
        ({"bits": 4, "rng": "seed"}, ArgumentTypeError),
        ({"bits": 4, "group": 0}, ArgumentError),
        ({"bits": 4, "method": Scalar(4)}, ArgumentError),
    ],
)
def test_arguments_are_refused_before_the_work(source: Path, tmp_path: Path, options: dict, error: type) -> None:
    with pytest.raises((ArgumentError, ArgumentTypeError)) as caught:
        compress(source, tmp_path / "out.safetensors", **options)
    assert isinstance(caught.value, error | ArgumentError)
    assert "\n" not in str(caught.value)
    assert files(tmp_path) == ["in.safetensors"]


def test_files_are_refused(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    with pytest.raises(ArgumentError, match="is the input"):
        compress(source, source, bits=4)
    with pytest.raises(FileAccessError, match="directory"):
        compress(source, tmp_path, bits=4)
    with pytest.raises(FileAccessError, match="no such file"):
        compress(tmp_path / "nothing", out, bits=4)
    compress(source, out, bits=4)
    with pytest.raises(ArgumentError, match="decompress it first"):
        compress(out, tmp_path / "twice", bits=4)
    with pytest.raises(ArtifactError, match="nothing to decompress"):
        decompress(source, tmp_path / "plain")
    with pytest.raises(ArgumentError, match="plain checkpoint"):
        verify(out, out)
    with pytest.raises(ArgumentError, match="max_error"):
        verify(out, source, max_error=-1)
    assert files(tmp_path) == ["in.safetensors", "out.safetensors"]


@pytest.mark.parametrize(
    "content",
    ["[]", "{", '{"weight_map": {}}', '{"weight_map": {"a": "../x"}}', '{"weight_map": {"a": 1}}', "[" * 100_000],
)
def test_a_damaged_index_is_refused(tmp_path: Path, content: str) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(content)
    with pytest.raises(ArtifactError, match=index.name):
        info(index)


def test_an_index_that_disagrees_with_its_shards_is_refused(tmp_path: Path) -> None:
    index = sharded(tmp_path / "in")
    content = json.loads(index.read_text())
    content["weight_map"]["ghost"] = next(iter(content["weight_map"].values()))
    index.write_text(json.dumps(content))
    with pytest.raises(ArtifactError, match="'ghost'"):
        info(index)


def test_a_method_is_parsed_from_text() -> None:
    assert parse("svd(rank=16, bits=(8, 4)) + scalar(bits=3, levels='lloyd')") == SVD(16, bits=(8, 4)) + Scalar(
        3, levels="lloyd"
    )
    assert parse(" scalar(bits=3, levels=lloyd, group=None) ") == Scalar(3, levels="lloyd", group=None)


@pytest.mark.parametrize(
    "text",
    [
        "", "svd", "svd(16)", "svd(rank=16", "svd(rank=2**9)", "svd(rank=len('x'))", "svd(rnk=1)", "x.svd(rank=1)",
        "svd(rank=1) * scalar(bits=2)", "svd(rank=0)", "svd(**{'rank': 1})", "nothing(rank=1)", "(" * 900, "a" * 2000,
        "__import__('os')", "svd(rank=True)", "scalar(bits=2.5)", "svd(rank=1, rank=2)",
    ],
)  # fmt: skip
def test_a_method_that_is_not_one_is_refused(text: str) -> None:
    with pytest.raises((ArgumentError, ArgumentTypeError)) as caught:
        parse(text)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(not REAL.exists(), reason="the shared data are not beside this checkout")
def test_a_real_checkpoint_goes_there_and_back(tmp_path: Path) -> None:
    report = compress(REAL, tmp_path / "out.safetensors", bits=4)
    assert report.bits_per_weight < 4.5
    assert report.relative_error < 0.11
    assert not verify(tmp_path / "out.safetensors", REAL).failures
    decompress(tmp_path / "out.safetensors", tmp_path / "plain.safetensors")
    assert list(load_file(tmp_path / "plain.safetensors")) == list(load_file(REAL))
