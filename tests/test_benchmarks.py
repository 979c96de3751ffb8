"""The rate-distortion benchmark counts every bit of its peers, and interpolates and refuses as it says."""

import math
import os
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from factorq.measure import squared_distance

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"
if not FOLDER.is_dir():
    pytest.skip("the benchmarks are not beside these tests", allow_module_level=True)
sys.path.insert(0, str(FOLDER))
try:
    import layers
    import peers
    import processes
    import quantized_sparse
    import rate_distortion as benchmark
finally:
    sys.path.remove(str(FOLDER))

CODERS = {coder.name: coder for coder in peers.peers()}
TENSORS = {
    "whole": np.random.default_rng(0).standard_normal((64, 128)).astype(np.float32),
    "ragged": np.random.default_rng(1).standard_normal((10, 3, 3, 3)).astype(np.float32),
}
SIZE = 8192 + 270
GROUPS = {64: 128 + 5, 128: 64 + 3}


@pytest.mark.parametrize(
    ("name", "bits", "beside"),
    [
        ("round to nearest, groups of 64", 3, GROUPS[64] * (16 + 3)),
        ("clipped grid, groups of 128", 3, GROUPS[128] * 16),
        ("HQQ, groups of 64", 3, GROUPS[64] * 32),
        ("NF4, groups of 64", 4, GROUPS[64] * 16),
        ("NF4, groups of 128", 4, GROUPS[128] * 16),
        ("k-means of scalars", 3, 2 * 8 * 16),
    ],
)
def test_a_peer_of_fixed_width_stores_its_codes_and_all_that_is_beside_them(name, bits, beside):
    stored = CODERS[name].encode(TENSORS, bits)
    assert stored.nbytes == (SIZE * bits + beside) / 8
    back = stored.decode()
    error = sum(squared_distance(W, back[key]) for key, W in TENSORS.items()) / SIZE
    assert {key: W.shape for key, W in back.items()} == {key: W.shape for key, W in TENSORS.items()}
    assert 4.0 ** (-8 * stored.nbytes / SIZE) < error < 0.06


@pytest.mark.parametrize("name", ["uniform step + constriction", "NNCodec, best mode"])
def test_an_entropy_coded_peer_comes_back_between_the_bound_and_the_grids(name):
    pytest.importorskip({"u": "constriction", "N": "nncodec"}[name[0]])
    W = {"W": np.random.default_rng(2).standard_normal((256, 256)).astype(np.float32)}
    row = benchmark.measured(W, CODERS[name], 0.5, 1)
    assert 0 < row["gap_bits"] < 0.27
    assert 2 < row["bits_per_weight"] < 3.5


def test_a_uniform_peer_of_a_nearly_constant_tensor():
    pytest.importorskip("constriction")
    W = np.zeros((4, 8), np.float32)
    W[1, 2] = 1
    nbytes, decode = peers.uniform(W, 1.0)
    assert nbytes < 24
    np.testing.assert_allclose(decode(), W, atol=1e-6)


@pytest.mark.parametrize("hints", [{}, {2: -1.0, 3: -1.8}])
def test_the_search_meets_a_size(hints):
    made = []

    def encode(tensors, relative):
        made.append(relative)
        return peers.Stored(128 * math.log2(2 / relative + 1), lambda: {"W": tensors["W"] * (1 + relative)})

    W = {"W": np.random.default_rng(3).standard_normal((32, 32)).astype(np.float32)}
    rows = dict(benchmark.searched(W, benchmark.Coder("x", encode, by_step=True), (2, 3), 1, hints))
    for aim, row in rows.items():
        assert abs(row["bits_per_weight"] - aim) <= benchmark.CLOSE
    assert len(made) <= 10


def test_bits_saved_at_equal_error():
    rows = [
        {"method": benchmark.REFERENCE, "bits_per_weight": 1.0, "gap_bits": 0.1, "relative_squared_error": 0.25},
        {"method": benchmark.REFERENCE, "bits_per_weight": 2.0, "gap_bits": 0.1, "relative_squared_error": 0.0625},
        {"method": "peer", "bits_per_weight": 2.5, "gap_bits": 1.0, "relative_squared_error": 0.125},
        {"method": "peer, finer", "bits_per_weight": 6.0, "gap_bits": 1.0, "relative_squared_error": 1e-3},
        {"method": "gone", "note": "absent"},
    ]
    found = benchmark.with_saved(rows)
    assert found[2]["saved_bits"] == pytest.approx(1.0)
    assert ["saved_bits" in row for row in found] == [False, False, True, False, False]


def test_a_result_under_the_bound_stops_the_benchmark():
    benchmark.check_bound([{"source": "vgg", "gap_bits": -0.7}, {"source": "gaussian", "gap_bits": 0.03}])
    with pytest.raises(SystemExit, match="Shannon"):
        benchmark.check_bound([{"source": "gaussian", "method": "x", "gap_bits": -0.01}])


def test_a_method_that_raises_leaves_its_reason():
    def encode(tensors, setting):
        raise ImportError("no such library")

    (row,) = benchmark.rows_of("gaussian", TENSORS, benchmark.Coder("x", encode, (2, 3)), (), 1)
    assert row["note"] == "absent: ImportError: no such library"


def test_the_first_of_our_methods_is_the_reference():
    W = {"W": np.random.default_rng(4).standard_normal((128, 128)).astype(np.float32)}
    first = benchmark.ours()[0]
    rows = list(benchmark.rows_of("gaussian", W, first, (2,), 1))
    assert first.name == benchmark.REFERENCE
    assert 0 < rows[0]["gap_bits"] < 0.2


@pytest.mark.parametrize("bits", [1.0, 700.0, 20_000.0])
def test_the_sparse_factors_of_palm_fill_their_share_of_the_bits(bits):
    most = quantized_sparse.nonzeros_for(1024, bits)
    assert quantized_sparse.real_bits(1024, most) <= bits or most == 0
    assert most == 1024 or quantized_sparse.real_bits(1024, most + 1) > bits
    assert quantized_sparse.real_bits(4, 2) == pytest.approx(16 + 32 + math.log2(6))


def test_a_factor_of_palm_is_measured_as_stored():
    x = np.array([[0.0, 1e6], [1e6 / 3, -5.0]])
    stored = quantized_sparse.half(x)
    assert np.count_nonzero(stored) == 3
    assert 0 < np.abs(stored - x).max() < 1e6 / 2**11


def test_the_settings_of_the_note_are_measured_as_stored():
    import factorq as fq

    method = fq.QuantizedSparse(8, bits=(4, 2), sparsity=0.5, max_iter=4)
    row = quantized_sparse.solved(partial(quantized_sparse.power_law, 16, 256), {"method": method}, 1)
    assert row["bits_per_weight"] <= 8 * method.nbytes((16, 256), "float32") / 4096
    assert row["relative_squared_error"] == row["relative_error"] ** 2
    assert 0 < row["before_mib"] <= row["peak_mib"]
    (_, ratio) = quantized_sparse.with_ratios([{"note": "absent"}, {"seconds": 3.0}], {"seconds": 2.0})
    assert ratio["time_ratio"] == 1.5


def test_a_row_without_a_measurement_says_why(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)  # for the new process
    assert processes.isolated(partial(int, "x"))["note"].startswith("absent: ValueError: invalid literal")
    assert "without an answer" in processes.isolated(partial(os._exit, 3))["note"]


@pytest.mark.parametrize("name", layers.METHODS)
def test_every_way_to_store_a_layer_keeps_its_size(name):
    W = np.random.default_rng(5).standard_normal((16, 16, 3, 3)).astype(np.float32)
    found = layers.METHODS[name](W, 3.0)
    assert 2.3 < found.bits_per_weight <= 3
    assert 4.0 ** (-found.bits_per_weight) < found.relative_error**2 < 0.5


def test_means_over_layers_are_compared_on_the_same_layers():
    def row(method, layer, error):
        head = {"network": "n", "layer": layer, "target": 1.0, "method": method}
        return head | {"bits_per_weight": 1.0, "relative_error": error, "seconds": 1.0}

    measured = [row(layers.OURS, "a", 0.2), row(layers.OURS, "b", 0.6), row("svd", "a", 0.3), {"note": "absent"}]
    ours, svd = layers.means(measured)
    assert (ours["method"], ours["relative_error"], ours["layers"]) == (layers.OURS, pytest.approx(0.4), 2)
    assert (svd["relative_error"], svd["ours"], svd["ours_lower"], svd["layers"]) == (0.3, 0.2, 1, 1)
