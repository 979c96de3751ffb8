"""A size for a whole checkpoint: met in total, at one step for all tensors, with less error than equal shares."""

from __future__ import annotations

import math
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from factorq.artifact import Writer
from factorq.checkpoint import compress, verify
from factorq.checkpoint.allocation import common_step, corrected, sensitivities
from factorq.checkpoint.expression import parse
from factorq.checkpoint.pool import Recipe
from factorq.checkpoint.report import Report, Row, describe
from factorq.errors import ArgumentError, ArgumentTypeError
from factorq.factorization import load
from factorq.methods import Trellis

FAST = Trellis(step=1.0, transform=False, model="static")


def tensors() -> dict[str, np.ndarray]:
    """Tensors of scales that differ 30 times, of all floating dtypes."""
    rng = np.random.default_rng(0)
    return {
        "a.weight": rng.standard_normal((96, 80)).astype(np.float32),
        "a.bias": rng.standard_normal(80).astype(np.float32),
        "b.weight": (0.2 * rng.standard_normal((64, 128))).astype(ml_dtypes.bfloat16),
        "c.weight": (3 * rng.standard_normal((24, 16, 3, 3))).astype(np.float16),
        "d.weight": 0.1 * rng.standard_normal((64, 40)),
        "ids": np.arange(12).reshape(3, 4),
    }


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in.safetensors"
    with Writer(path) as writer:
        for name, array in tensors().items():
            writer.add(name, array)
        writer.commit(None, {})
    return path


def factored(report: Report) -> list[Row]:
    return [row for row in report.rows if row.method]


def bits(report: Report) -> float:
    """Stored bits per weight of what was factored."""
    return 8 * sum(row.nbytes for row in factored(report)) / sum(row.size for row in factored(report))


def lost(report: Report) -> float:
    """Squared error of all tensors together."""
    return sum((row.relative_error * row.norm) ** 2 for row in factored(report))


@pytest.mark.parametrize("target", [1.0, 2.5, 4.3])
def test_the_total_is_met_at_one_step(source: Path, tmp_path: Path, target: float) -> None:
    report = compress(source, tmp_path / "out.safetensors", bits_per_weight=target)
    rows = factored(report)
    assert {row.name for row in rows} == {name for name in tensors() if name.endswith("weight")}
    assert 0.99 * target <= bits(report) <= target
    assert len({row.config["step"] for row in rows}) == 1
    assert len({round(row.bits_per_weight, 2) for row in rows}) == len(rows)
    assert not verify(tmp_path / "out.safetensors", source).failures
    stored = load(tmp_path / "out.safetensors")
    for row in rows:
        assert stored[row.name].nbytes == row.nbytes


def test_one_step_loses_less_than_equal_shares(source: Path, tmp_path: Path) -> None:
    together = compress(source, tmp_path / "one.safetensors", bits_per_weight=2.5)
    apart = compress(source, tmp_path / "two.safetensors", bits=2.5)
    assert {row.config["bits"] for row in factored(apart)} == {2.5}
    assert bits(together) <= bits(apart) * 1.003
    assert lost(together) < 0.7 * lost(apart)


def test_errors_that_count_more_are_smaller(source: Path, tmp_path: Path) -> None:
    plain = compress(source, tmp_path / "one.safetensors", bits_per_weight=3.0)
    heavy = compress(source, tmp_path / "two.safetensors", bits_per_weight=3.0, sensitivity={"d.*": 64.0, "*": 1.0})
    before, after = ({row.name: row for row in factored(report)} for report in (plain, heavy))
    assert 0.99 * 3 <= bits(heavy) <= 3.0
    steps = {name: row.config["step"] for name, row in after.items()}
    assert steps["a.weight"] == steps["b.weight"] == steps["c.weight"] == pytest.approx(8 * steps["d.weight"])
    assert after["d.weight"].relative_error < 0.3 * before["d.weight"].relative_error
    assert lost(heavy) > lost(plain)


@pytest.mark.parametrize("options", [{"bits_per_weight": 2.0}, {"bits_per_weight": 2.0, "method": "trellis"}])
def test_the_same_bytes_for_every_number_of_jobs(source: Path, tmp_path: Path, options: dict) -> None:
    compress(source, tmp_path / "one.safetensors", **options)
    compress(source, tmp_path / "two.safetensors", **options, jobs=2)
    assert (tmp_path / "one.safetensors").read_bytes() == (tmp_path / "two.safetensors").read_bytes()


def test_a_step_of_the_users_is_taken_as_it_is(source: Path, tmp_path: Path) -> None:
    report = compress(source, tmp_path / "out.safetensors", method=Trellis(step=0.1))
    assert {row.config["step"] for row in factored(report)} == {0.1}


def test_excluded_tensors_do_not_count(source: Path, tmp_path: Path) -> None:
    report = compress(source, tmp_path / "out.safetensors", bits_per_weight=2.0, exclude=["a*"])
    assert 0.99 * 2 <= bits(report) <= 2.0
    assert "a.weight" not in {row.name for row in factored(report)}


def test_zeros_alone_and_zeros_among_others(tmp_path: Path) -> None:
    for k, content in enumerate(
        ({"z": np.zeros((40, 50))}, {"z": np.zeros((40, 50)), "w": np.ones((60, 50)) * np.arange(50)})
    ):
        path = tmp_path / f"{k}.safetensors"
        with Writer(path) as writer:
            for name, array in content.items():
                writer.add(name, array.astype(np.float32))
            writer.commit(None, {})
        report = compress(path, tmp_path / "out.safetensors", bits_per_weight=2.0)
        assert bits(report) <= 2.0
        assert not load(tmp_path / "out.safetensors")["z"].to_dense().any()
        assert not verify(tmp_path / "out.safetensors", path).failures


# The parts -----------------------------------------------------------------------------------------------------------


def test_the_first_pattern_that_matches_is_the_weight() -> None:
    names = ["a.weight", "a.bias", "b.weight"]
    assert sensitivities(None, names) == dict.fromkeys(names, 1.0)
    weights = sensitivities({"a.bias": 3, "a*": np.float32(2), "*": 0.5}, names)
    assert weights == {"a.weight": 2.0, "a.bias": 3.0, "b.weight": 0.5}


@pytest.mark.parametrize(
    ("weights", "error"),
    [
        ({"a": 0}, ArgumentError), ({"a": -1.0}, ArgumentError), ({"a": math.inf}, ArgumentError),
        ({"a": math.nan}, ArgumentError), ({"a": "1"}, ArgumentTypeError), ({"a": True}, ArgumentTypeError),
        ({"b*": 1.0}, ArgumentError),
    ],
)  # fmt: skip
def test_wrong_sensitivities_are_named(weights: dict, error: type) -> None:
    with pytest.raises(error, match=r"^sensitivity: found"):
        sensitivities(weights, ["a"])


def test_a_sensitivity_needs_a_total(source: Path, tmp_path: Path) -> None:
    for options in ({"bits": 4}, {"method": "scalar", "bits_per_weight": 4.5}, {"method": Trellis(step=0.1)}):
        with pytest.raises(ArgumentError, match=r"^sensitivity: "):
            compress(source, tmp_path / "out.safetensors", **options, sensitivity={"*": 2.0})
    with pytest.raises(ArgumentError, match=r"^sensitivity: .*'nothing'"):
        compress(source, tmp_path / "out.safetensors", bits_per_weight=3.0, sensitivity={"nothing": 2.0})
    assert not (tmp_path / "out.safetensors").exists()


def test_steps_go_with_the_root_of_the_weight() -> None:
    recipe = Recipe(method=FAST, sensitivity={"a": 4.0})
    assert recipe.for_tensor("a").method.step == 0.5
    assert recipe.for_tensor("b") is recipe
    assert recipe.at_step(3.0).method.step == 3.0
    assert Recipe(bits_per_weight=2.0).at_step(3.0).method == Trellis(step=3.0)


class Entry:
    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape


class Sized:
    def __init__(self, shape: tuple[int, ...]) -> None:
        self.entry = Entry(shape)


@pytest.mark.parametrize("target", [0.5, 2.0, 6.0])
def test_the_common_step_is_found_from_sizes_alone(target: float) -> None:
    """On Gaussian tensors of known scales: the bits of each fall by one for an octave of the step, to zero."""
    scales, size, asked = (0.1, 1.0, 7.0), 4000, []

    def drafts(recipe: Recipe) -> list[float]:
        if recipe.draft == "norm":
            return [s * math.sqrt(size) for s in scales]
        step = recipe.method.step
        asked.append(step)
        return [size / 8 * 0.5 * math.log2(1 + (2 * s / step) ** 2) for s in scales]

    found = common_step(Recipe(method=FAST), [Sized((40, 100))] * 3, target, drafts)
    total = 8 * sum(drafts(Recipe(method=found.method, draft="nbytes"))) / (3 * size)
    assert 0.996 * target <= total <= target
    assert len(asked) < 18


def test_tensors_of_zeros_need_no_step() -> None:
    assert common_step(Recipe(method=FAST), [Sized((4, 5))], 2.0, lambda recipe: [0.0]).method.step == 1.0


def row(name: str, nbytes: int, method: str = "trellis") -> Row:
    return Row(name, (100, 80), "F32", nbytes, method=method)


def test_a_missed_total_is_corrected() -> None:
    recipe = Recipe(method=FAST)
    assert corrected(recipe, [row("a", 2000), row("b", 2000)], 2.0) is recipe
    assert corrected(recipe, [row("a", 1995), row("b", 2000)], 2.0) is recipe
    larger = corrected(recipe, [row("a", 2100), row("b", 2000)], 2.0)
    smaller = corrected(recipe, [row("a", 1700), row("b", 2000)], 2.0)
    assert 1.0 < larger.method.step < 1.05
    assert 0.8 < smaller.method.step < 1.0
    assert corrected(recipe, [row("a", 1500), row("b", 2000)], 2.0) is recipe  # a jump that no step fills
    kept = [row("a", 2000), row("as it is", 32_000, method="")]
    assert corrected(recipe, kept, 2.0) is recipe
    assert corrected(recipe, kept[1:], 2.0) is recipe


@pytest.mark.parametrize(
    "text",
    [
        "trellis(bits=2, states=4096, fixed_rate=True, rotate=True)",
        "trellis(bits=2, states=8, model=static)",
        "rotated(scalar(bits=3, group=128, levels=lloyd), axes=both)",
        "svd(rank=4, bits=5.5, codes=trellis) + scalar(bits=3, group=128, sparsity=0)",
    ],
)
def test_a_table_names_the_settings_that_make_the_method(text: str) -> None:
    assert parse(describe(parse(text).config())) == parse(text)
