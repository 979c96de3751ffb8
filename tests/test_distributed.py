"""A Dask cluster: the same bytes as one process, also when a worker is killed midway."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from factorq.artifact import Writer
from factorq.checkpoint import compress
from factorq.errors import ArgumentError, ArtifactError

pytestmark = pytest.mark.slow
COUNT = 24


def write(path: Path, broken: bool = False) -> Path:
    rng = np.random.default_rng(0)
    with Writer(path) as writer:
        for k in range(COUNT):
            W = rng.standard_normal((256, 256)).astype(np.float32)
            W[0, 0] = np.nan if broken and k == COUNT // 2 else 0.0
            writer.add(f"layer.{k}.weight", W)
            writer.add(f"layer.{k}.bias", rng.standard_normal(256))
        writer.commit(None)
    return path


@pytest.fixture
def cluster() -> Iterator[Any]:
    distributed = pytest.importorskip("dask.distributed", reason="dask[distributed] is not installed")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, host="127.0.0.1"
    ) as cluster:
        yield cluster


# The cluster is another project's: what it warns about while it loses a worker is not ours to judge.
@pytest.mark.filterwarnings("default")
def test_a_worker_killed_midway_changes_nothing(cluster: Any, tmp_path: Path) -> None:
    source = write(tmp_path / "in.safetensors")
    options: dict[str, Any] = {"method": "svd(rank=24, bits=4)", "rng": 3}
    compress(source, tmp_path / "one.safetensors", **options)
    killed: list[int] = []

    def kill(row: Any, done: int, total: int) -> None:
        if done >= 5 and not killed:
            killed.append(next(iter(worker.pid for worker in cluster.workers.values())))
            os.kill(killed[0], signal.SIGTERM if sys.platform == "win32" else signal.SIGKILL)

    report = compress(
        source, tmp_path / "two.safetensors", scheduler=cluster.scheduler_address, callback=kill, **options
    )
    assert killed
    assert len(report.rows) == 2 * COUNT
    assert (tmp_path / "one.safetensors").read_bytes() == (tmp_path / "two.safetensors").read_bytes()


@pytest.mark.filterwarnings("default")
def test_an_error_on_a_worker_is_the_same_error_here(cluster: Any, tmp_path: Path) -> None:
    source = write(tmp_path / "in.safetensors", broken=True)
    with pytest.raises(ArtifactError, match=f"tensor 'layer.{COUNT // 2}.weight': found 1 non-finite"):
        compress(source, tmp_path / "out.safetensors", bits=4, scheduler=cluster.scheduler_address)
    assert not (tmp_path / "out.safetensors").exists()


def test_an_address_without_a_cluster_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("dask.distributed", reason="dask[distributed] is not installed")
    source = write(tmp_path / "in.safetensors")
    with pytest.raises(ArgumentError, match="scheduler: found"):
        compress(source, tmp_path / "out.safetensors", bits=4, scheduler="nonsense://nowhere")
    assert [path.name for path in tmp_path.iterdir()] == ["in.safetensors"]


def test_without_dask_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("dask", "dask.distributed", "distributed"):
        monkeypatch.setitem(sys.modules, name, None)
    source = write(tmp_path / "in.safetensors")
    with pytest.raises(ArgumentError, match=r"pip install 'factorq\[distributed\]'"):
        compress(source, tmp_path / "out.safetensors", bits=4, scheduler="tcp://127.0.0.1:1")
