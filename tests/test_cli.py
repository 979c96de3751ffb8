"""The command line: what it prints, its exit status, and one line for everything that goes wrong."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from factorq.artifact import Writer
from factorq.cli import main
from factorq.factorization import load

LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
from factorq.cli import main
main()
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write("in.safetensors", np.random.default_rng(0).standard_normal((64, 128)).astype(np.float32))
    return tmp_path


def write(name: str, W: np.ndarray) -> None:
    with Writer(name) as writer:
        writer.add("fc.weight", W)
        writer.add("fc.bias", np.zeros(64, np.float32))
        writer.commit(None)


def call(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments, prog_name="factorq")


def compress(*arguments: str) -> Result:
    return call("compress", "in.safetensors", "-o", "out.safetensors", *arguments)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def failed(result: Result, status: int, text: str) -> None:
    assert result.exit_code == status, result.output
    assert result.stderr.startswith("factorq: error: ")
    assert result.stderr.count("\n") == 1
    assert text in result.stderr


def test_there_and_back(folder: Path) -> None:
    result = compress("--bits", "4")
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    lines = result.stdout.splitlines()
    assert lines[0].startswith("1/2 fc.weight 64x128 trellis(bits=4")
    assert lines[1] == "2/2 fc.bias 64 as it is: 1-D, 32.000 bits"
    assert lines[2].startswith("out.safetensors: 1 of 2 tensors factored, 33,")
    shown = call("info", "out.safetensors")
    assert shown.exit_code == 0
    assert shown.stdout.splitlines()[0].startswith("1/2 fc.weight 64x128 trellis(bits=4")
    checked = call("verify", "out.safetensors", "--against", "in.safetensors")
    assert checked.exit_code == 0, checked.output
    assert call("decompress", "out.safetensors", "-o", "plain.safetensors").exit_code == 0
    restored = load("plain.safetensors")
    assert list(restored) == ["fc.weight", "fc.bias"]
    assert np.array_equal(restored["fc.weight"], load("out.safetensors")["fc.weight"].to_dense())
    assert files(folder) == ["in.safetensors", "out.safetensors", "plain.safetensors"]


def test_json_is_all_there_is_on_standard_output(folder: Path) -> None:
    report = json.loads(compress("--bits", "4", "--json").stdout)
    assert [tensor["name"] for tensor in report["tensors"]] == ["fc.weight", "fc.bias"]
    assert report["file_nbytes"] == Path("out.safetensors").stat().st_size
    for arguments in (
        ["info", "out.safetensors"],
        ["verify", "out.safetensors", "--against", "in.safetensors"],
        ["decompress", "out.safetensors", "-o", "plain.safetensors"],
    ):
        again = json.loads(call(*arguments, "--json").stdout)
        assert again["tensors"][0]["relative_error"] == pytest.approx(report["tensors"][0]["relative_error"])


def test_a_failed_check_has_status_1(folder: Path) -> None:
    compress("--bits", "4")
    arguments = ["verify", "out.safetensors", "--against", "in.safetensors", "--max-error", "0.01"]
    failed(call(*arguments), 1, "tensor 'fc.weight': error 0.0")
    result = call(*arguments, "--json")
    assert result.exit_code == 1
    assert "above 0.01" in json.loads(result.stdout)["tensors"][0]["failure"]
    damaged = bytearray(Path("out.safetensors").read_bytes())
    damaged[-1] ^= 1
    Path("out.safetensors").write_bytes(damaged)
    failed(call(*arguments), 1, "does not match its checksum")


def test_options_reach_the_method(folder: Path) -> None:
    compress("--method", "svd(rank=4) + scalar(bits=3)", "--json")
    config = load("out.safetensors")["fc.weight"].method.config()
    assert [(part["id"], part["bits"]) for part in config["methods"]] == [("svd", None), ("scalar", 3)]
    compress("--rank", "8", "--bits", "4,6")
    assert load("out.safetensors")["fc.weight"].method.bits == (4, 6)
    compress("--method", "scalar", "--bits", "4", "--group", "32")
    assert load("out.safetensors")["fc.weight"].bits_per_weight == 4.5
    report = json.loads(compress("--bits-per-weight", "3.2", "--json").stdout)
    assert 3.1 < report["tensors"][0]["bits_per_weight"] <= 3.2


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "say how to compress"),
        (["--bits", "0"], "bits: found 0"),
        (["--bits", "17"], "bits: found 17"),
        (["--method", "scalar", "--bits", "2.5"], "found 2.5"),
        (["--rank", "0"], "rank: found 0"),
        (["--rank", "-3"], "rank: found -3"),
        (["--rank", "65"], "rank: found 65"),
        (["--bits", "4", "--sparsity", "1.0"], "sparsity: found 1"),
        (["--bits", "4", "--sparsity", "-0.1"], "sparsity: found -0.1"),
        (["--method", "scalr", "--bits", "4"], "did you mean 'scalar'"),
        (["--method", "svd(rank=4"], "method: found 'svd(rank=4'"),
        (["--method", "svd(rank=4)", "--bits", "3"], "method: found an object together with bits"),
        (["--bits", "4", "--jobs", "0"], "jobs: found 0"),
        (["--bits", "4", "--seed", "-1"], "--seed"),
        (["--bits", "4", "--exclude", "*"], "no tensor to factor"),
        (["--bits", "4", "--no-such-option"], "No such option"),
        (["--bits-per-weight", "0"], "bits_per_weight: found 0"),
    ],
)
def test_wrong_usage_has_status_2_and_changes_nothing(folder: Path, arguments: list[str], text: str) -> None:
    Path("out.safetensors").write_bytes(b"old")
    failed(compress(*arguments), 2, text)
    assert Path("out.safetensors").read_bytes() == b"old"
    assert files(folder) == ["in.safetensors", "out.safetensors"]


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "too few for a safetensors file"),
        (b"{}", "not a safetensors file"),
        (pickle.dumps({"a": 1}), "pickle"),
        (b"PK\x03\x04" + bytes(100), "zip archive"),
        (None, "truncated"),
    ],
)
def test_an_input_that_is_no_checkpoint_has_status_1(folder: Path, content: bytes | None, text: str) -> None:
    Path("bad").write_bytes(Path("in.safetensors").read_bytes()[:-9] if content is None else content)
    Path("out.safetensors").write_bytes(b"old")
    calls = (
        ["compress", "bad", "-o", "out.safetensors", "--bits", "4"],
        ["info", "bad"],
        ["decompress", "bad", "-o", "out.safetensors"],
        ["verify", "bad", "--against", "in.safetensors"],
    )
    for arguments in calls:
        result = call(*arguments)
        failed(result, 1, "bad: ")
        assert text in result.stderr or content is None
    assert Path("out.safetensors").read_bytes() == b"old"
    assert files(folder) == ["bad", "in.safetensors", "out.safetensors"]


def test_missing_files_and_wrong_outputs_have_status_2(folder: Path) -> None:
    failed(call("compress", "nothing", "-o", "out.safetensors", "--bits", "4"), 2, "no such file")
    failed(call("info", "nothing"), 2, "no such file")
    failed(call("compress", "in.safetensors", "-o", "no/out.safetensors", "--bits", "4"), 2, "does not exist")
    failed(call("compress", "in.safetensors", "-o", "in.safetensors", "--bits", "4"), 2, "is the input")
    failed(call("compress", "in.safetensors", "-o", ".", "--bits", "4"), 1, "directory")
    failed(call("compress", "in.safetensors", "--bits", "4"), 2, "Missing option")
    failed(call("explode"), 2, "No such command")
    assert files(folder) == ["in.safetensors"]


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="needs a user whom permissions bind")
def test_a_folder_that_is_not_writable_has_status_2(folder: Path) -> None:
    (folder / "locked").mkdir(mode=0o500)
    failed(call("compress", "in.safetensors", "-o", "locked/out", "--bits", "4"), 2, "not writable")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_not_finite_have_status_1_and_a_name(folder: Path, value: float) -> None:
    W = np.zeros((64, 128), np.float32)
    W[2, 3] = value
    write("in.safetensors", W)
    failed(compress("--bits", "4"), 1, "tensor 'fc.weight': found 1 non-finite values, the first at index (2, 3)")
    assert files(folder) == ["in.safetensors"]


def test_a_full_disk_has_status_1_and_leaves_the_old_file(folder: Path) -> None:
    pytest.importorskip("resource", reason="file size limits are POSIX")
    Path("out.safetensors").write_bytes(b"old")
    command = [sys.executable, "-c", LIMITED, "compress", "in.safetensors", "-o", "out.safetensors", "--bits", "8"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1, result.stderr
    assert result.stderr.startswith("factorq: error: out.safetensors: file too large")
    assert result.stderr.count("\n") == 1
    assert Path("out.safetensors").read_bytes() == b"old"
    assert files(folder) == ["in.safetensors", "out.safetensors"]


@pytest.mark.skipif(os.name != "posix", reason="sends a POSIX signal to a process group")
@pytest.mark.parametrize("jobs", ["1", "2"])
def test_an_interrupt_has_status_130_and_leaves_nothing(folder: Path, jobs: str) -> None:
    W = np.random.default_rng(0).standard_normal((64, 128)).astype(np.float32)
    with Writer("in.safetensors") as writer:
        for k in range(5000):
            writer.add(f"{k}.weight", W)
        writer.commit(None)
    # Shells start background jobs with the signal ignored, which a child inherits.
    program = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from factorq.cli import main; main()"
    )
    command = [sys.executable, "-c", program, "compress", "in.safetensors", "-o", "out.safetensors",
               "--method", "svd(rank=32, bits=3)", "--jobs", jobs]  # fmt: skip
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    process.stdout.readline()  # the first tensor is done
    time.sleep(0.2)
    os.killpg(process.pid, signal.SIGINT)
    stderr = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert stderr.strip() == "factorq: interrupted"
    assert files(folder) == ["in.safetensors"]


def test_a_pool_that_is_not_needed_says_nothing(folder: Path) -> None:
    program = "from factorq.cli import main; main()"
    command = [sys.executable, "-c", program, "compress", "in.safetensors", "-o", "out", "--bits", "17", "--jobs", "2"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == "factorq: error: bits: found 17, allowed is a number of stored bits per weight, 0.3 to 16\n"


def test_info_loads_neither_numba_nor_scipy(folder: Path) -> None:
    compress("--bits", "4")
    program = (
        "import sys\nfrom factorq.cli import main\n"
        "try:\n    main(['info', 'out.safetensors'])\nexcept SystemExit as stop:\n    assert stop.code == 0\n"
        "assert not {'numba', 'scipy', 'joblib', 'torch', 'rich'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)


def test_help_and_version(folder: Path) -> None:
    assert call("--version").stdout.startswith("factorq 0.")
    for command in ("compress", "info", "verify", "decompress", "demo"):
        result = call(command, "--help")
        assert result.exit_code == 0
        assert f"factorq {command}" in result.stdout
