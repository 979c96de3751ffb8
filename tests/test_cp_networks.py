"""The benchmark of CP in networks estimates batch norm exactly, and gives plain grids the most bits that fit."""

import sys
from pathlib import Path

import numpy as np
import pytest

import factorq as fq

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"
if not FOLDER.is_dir():
    pytest.skip("the benchmarks are not beside these tests", allow_module_level=True)
sys.path.insert(0, str(FOLDER))
try:
    import cp_networks as benchmark
finally:
    sys.path.remove(str(FOLDER))


def test_each_batch_norm_gets_the_moments_that_the_earlier_ones_leave():
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    first, second = torch.nn.BatchNorm2d(4), torch.nn.BatchNorm2d(5)
    parts = [torch.nn.Conv2d(3, 4, 3), first, torch.nn.ReLU(), torch.nn.Conv2d(4, 5, 3), second]
    x = torch.randn(40, 3, 8, 8) * 3 + 1
    network = torch.nn.Sequential(*parts)
    benchmark.renew(network, x)
    with torch.no_grad():
        for layer in network:  # one after the other: all moments before are final
            if isinstance(layer, torch.nn.BatchNorm2d):
                torch.testing.assert_close(layer.running_mean, x.mean((0, 2, 3)), rtol=1e-5, atol=1e-5)
                torch.testing.assert_close(layer.running_var, x.var((0, 2, 3)), rtol=1e-5, atol=1e-5)
            x = layer(x)
    assert not any(layer._forward_pre_hooks for layer in network)


def test_a_crop_is_a_window_of_the_image_in_a_black_border():
    images = np.random.default_rng(0).integers(1, 256, (50, 32, 32, 3)).astype(np.uint8)
    crops = benchmark.cropped(images, np.random.default_rng(1))
    assert crops.shape == images.shape
    for image, crop in zip(images, crops, strict=True):
        framed = np.pad(image, ((4, 4), (4, 4), (0, 0)))
        windows = [framed[i : i + 32, j : j + 32] for i in range(9) for j in range(9)]
        assert any(np.array_equal(window[:, ::side], crop) for window in windows for side in (1, -1))
    black = (crops == 0).all(axis=(2, 3)).sum(axis=1)
    assert 0 < black.mean() < 4  # rows of the border


@pytest.mark.parametrize("shape", [(16, 16, 3, 3), (64, 32, 3, 3)])
@pytest.mark.parametrize("bits", [1.4, 2.06, 4.1, 5.4])
def test_a_plain_grid_has_the_most_bits_that_fit(shape, bits):
    most = int(bits * np.prod(shape) / 8)
    grid = benchmark.widest(shape, most)
    W = np.random.default_rng(0).standard_normal(shape, np.float32)
    assert fq.decompose(W, method=grid).nbytes <= most
    assert fq.Scalar(grid.bits + 1, group=None).nbytes(shape, "float32") > most


def test_peers_take_no_more_bytes_than_integers_and_rows_name_the_bits():
    W = np.random.default_rng(0).standard_normal((16, 16, 3, 3), np.float32)
    cells = list(benchmark.cells({"layer1": W}, (2.0,), (4,)))
    sizes = {cell.method: cell.found["layer1"].nbytes for cell in cells}
    assert list(sizes) == [
        "Scalar(4)",
        "CP real",
        "CP integers",
        *("CP rounded", "CP real, rounded"),
        "Trellis",
        "Scalar",
    ]
    assert max(sizes[name] for name in list(sizes)[3:]) == sizes["CP integers"]
    assert sizes["CP rounded"] == sizes["CP real, rounded"] == sizes["CP integers"]
    assert [cell.code_bits for cell in cells if cell.code_bits] == [4.0, 2.0]


def test_scores_stand_in_a_line_for_each_size():
    rows = [
        {"network": "n", "method": "dense", "top1_before": 91.0, "top1": 90.5},
        {"network": "n", "method": "CP real", "reduction": 2.0, "top1": 90.0},
        {"network": "n", "method": "CP integers", "reduction": 2.0, "bits": 4, "bits_per_weight": 2.1, "top1": 89.0},
        {"network": "n", "method": "Scalar", "reduction": 2.0, "bits": 4, "code_bits": 2.0, "top1": 75.0},
    ]
    (line,) = benchmark.scores(rows)
    assert line == {
        "network": "n", "reduction": 2.0, "bits": 4, "bits_per_weight": 2.1, "dense": 91.0, "CP real": 90.0,
        "CP integers": 89.0, "Scalar": "75 (2 bits)",
    }  # fmt: skip
