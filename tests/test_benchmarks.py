"""The rate-distortion benchmark counts every bit of its peers, and interpolates and refuses as it says."""

import json
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
    import accuracy
    import accuracy_methods
    import layers
    import networks
    import peers
    import processes
    import quantized_sparse
    import rate_distortion as benchmark
    import xor
    import xor_data
    import xor_efficiency
    import xor_formats
    import xor_masks
    import xor_speed
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


def sparse_layer(bits=4, shape=(64, 3, 5, 5), sparsity=0.9):
    W = np.random.default_rng(6).standard_normal(shape).astype(np.float32)
    return xor_data.Layer.of(W, xor_data.pruned([W], sparsity, "layer")[0], bits)


@pytest.mark.parametrize("name", xor_formats.FORMATS)
@pytest.mark.parametrize("sparsity", [0.5, 0.95, 0.9999])
def test_every_sparse_format_gives_the_layer_back_above_its_floor(name, sparsity):
    pytest.importorskip({"c": "constriction", "z": "zstandard"}.get(name[0], "numpy"))
    layer = sparse_layer(1, sparsity=sparsity)
    stored = xor_formats.FORMATS[name](layer)
    np.testing.assert_array_equal(stored.decode(), layer.weights)
    assert np.count_nonzero(layer.weights) == layer.count == int(np.count_nonzero(layer.mask))
    floor = xor_data.floors([layer])["value_floor"] * layer.size / 8
    assert floor + xor_data.SCALE * (layer.count > 0) <= stored.nbytes


def test_the_sizes_of_indices_are_those_of_their_definition():
    mask = np.zeros((2, 40), np.bool_)
    mask[0, [3, 39]] = mask[1, 0] = True
    W = np.where(mask, np.float32(2), np.float32(0))
    layer = xor_data.Layer.of(W, mask, 1)
    rows, relative, best = 4 * 3, 3 + 2, 3 + math.ceil((36 - 1) / 7)
    assert xor_formats.compressed_rows(layer, 16).nbytes == rows + 2 * 3 + 1 + 2
    assert xor_formats.relative(layer, 4).nbytes == math.ceil(4 * relative / 8) + math.ceil(2 * relative / 8) + 2
    assert xor_formats.relative_best(layer).nbytes <= math.ceil(3 * best / 8) + 1 + 2 + 1


def test_one_threshold_for_a_network_prunes_the_layers_of_small_weights():
    rng = np.random.default_rng(7)
    layers = [scale * rng.standard_normal((64, 64)).astype(np.float32) for scale in (1, 10)]
    small, large = xor_data.pruned(layers, 0.75, "network")
    assert (int(small.sum()) + int(large.sum()), small.sum() < 100) == (2048, True)
    assert [int(mask.sum()) for mask in xor_data.pruned(layers, 0.75, "layer")] == [1024, 1024]


def test_patches_are_counted_by_slice_and_the_default_slices_are_known():
    import factorq as fq

    n_out, size = 30, xor_efficiency.whole_tiles(40_000, 30)
    counts = xor_efficiency.per_slice(np.array([0, 1, 512, 3 * 512 + 1, 512 * n_out]), size, n_out)
    assert (counts.size, counts[:2].tolist(), counts[512]) == (size // n_out, [2, 2], 1)
    values, care = xor_data.fair(40_000, 0.9, 0)
    usual = xor_efficiency.usual_outputs(20, 1 - float(care.mean()))
    coded = [fq.xor.encode(values, care, bits=1, code=code) for code in (fq.xor.Slices(20), fq.xor.Slices(20, usual))]
    assert coded[0].to_bytes() == coded[1].to_bytes()


def test_the_expected_efficiency_of_slices():
    import factorq as fq

    assert xor_efficiency.expected_efficiency(8, 80, 0.1) is None  # all inputs are tried
    dependent = 2.0**-13 + (1 - 2.0**-13) * 2.0**-12 + 2.0**-26  # of two equations with 13 unknowns
    assert xor_efficiency.expected_efficiency(13, 2, 1.0) == pytest.approx(100 * (1 - dependent / 4), abs=1e-9)
    trial = xor_efficiency.Trial("x", fq.xor.Slices(16, 60), xor_efficiency.whole_tiles(300_000, 60), {})
    row = xor_efficiency.coded(trial, 0.75, 0)
    assert row["efficiency"] == pytest.approx(row["expected_efficiency"], abs=0.2)
    assert row["total"] < row["published_blocks"] < row["published"]


def test_efficiency_and_totals_follow_from_each_other():
    import factorq as fq

    trial = xor_efficiency.Trial("x", fq.xor.Banded(32, 0.0, False), 50_000, {}, 0.2)
    row = xor_efficiency.coded(trial, 0.8, 1)
    kept = xor_data.fair(50_000, 0.8, 1)[1].sum()
    assert row["efficiency"] == pytest.approx(100 * (1 - row["patches"] / kept))
    assert row["reduction"] == pytest.approx(80 - 1000 * row["patches"] / 50_000)
    assert row["total"] > 1
    runs = [{"total": 1.0, "patches": 4}, {"total": 3.0, "patches": 5}, {"total": 1.5, "patches": 9}]
    assert xor_data.middle(runs, ["total"]) == {"total": 1.5, "patches": 5, "total_low": 1.0, "total_high": 3.0}


@pytest.mark.parametrize("name", xor_masks.CODES)
def test_every_mask_code_of_the_benchmark_is_lossless(name):
    mask = sparse_layer().mask
    nbytes, decode = xor_masks.CODES[name](mask)
    np.testing.assert_array_equal(decode(), mask.reshape(-1))
    assert nbytes >= {"bitmap": mask.size / 8}.get(name, 0.9 * xor_data.mask_entropy([mask]) / 8)


def test_kernel_calls_are_those_of_the_whole():
    import factorq as fq
    from factorq.kernels import slices

    values, care = xor_data.fair(4000, 0.8, 2)
    seen = []
    found = fq.xor.encode(values, care, bits=1, code=fq.xor.Slices(20))
    kernel = xor_speed.kernel_calls(slices, "outputs", lambda: seen.append(found.decode()))
    np.testing.assert_array_equal(seen[0][care], values[care])
    assert (xor_speed.kernel_of(fq.xor.Slices(8)), kernel()) == (slices, None)


def test_the_inputs_of_a_reduced_system_are_its_pivots():
    reduced = np.array([[1, 0, 1, 1], [0, 1, 1, 0], [0, 0, 0, 1]], np.uint8)  # the last one does not hold
    assert xor_speed.solution(reduced, 3).tolist() == [1, 0, 0]


def test_the_low_rank_index_of_alexnet():
    assert [xor_masks.low_rank(shape) for shape in xor_masks.FC.values()] == [(48, (512, 512))] * 2


def test_a_quick_run_writes_what_it_measured(tmp_path, monkeypatch):
    for module in ("constriction", "zstandard"):
        pytest.importorskip(module)
    target = tmp_path / "out.json"
    arguments = ["--quick", "--only", "formats", "masks", "--data", str(tmp_path), "--json", str(target)]
    monkeypatch.setattr(sys, "argv", ["xor.py", *arguments])
    xor.main()
    (row, _) = json.loads((tmp_path / "out_formats.json").read_text())["rows"]
    assert row["joint_floor"] <= row["packed, smallest mask"] < 1.02 * row["joint_floor"]
    (row,) = json.loads((tmp_path / "out_masks.json").read_text())["rows"]
    assert row["entropy"] < row["smallest"] <= row["gaps"] < row["bitmap"] == 1


def test_a_peer_of_a_size_is_the_best_grid_that_takes_little_more():
    for bits in (1.0, 2.0, 3.0):
        stored = accuracy_methods.nearest_grid(accuracy_methods.clipped_grid, 16)(TENSORS, bits)
        assert 0.85 * bits < 8 * stored.nbytes / SIZE <= accuracy_methods.LEEWAY * bits
    with pytest.raises(SystemExit, match="no grid"):
        accuracy_methods.nearest_grid(accuracy_methods.bracket, 32)(TENSORS, 9.0)


def test_bits_for_each_layer_keep_their_total():
    network = networks.Checkpoint(Path("none"), TENSORS)
    asked = []

    def method(network, bits):
        asked.append(bits)
        return accuracy_methods.Found({}, sum(1.01 * bits[k] * W.size / 8 for k, W in TENSORS.items()), 0.0)

    found = accuracy_methods.within(method, network, {"whole": 2.0, "ragged": 0.1}, 2.0)
    assert 8 * found.nbytes <= 2 * SIZE
    assert asked[0] == {"whole": 2.0, "ragged": accuracy_methods.LEAST}


def test_rows_that_are_measured_again_take_the_place_of_earlier_ones(tmp_path):
    def row(network, stage, target, **about):
        return {"network": network, "stage": stage, "target": target, **about}

    rows = [row("a", "weights", 2.0), row("a", "fine-tuned", 2.0), row("a", "weights", 3.0), row("b", "weights", 2.0)]
    rows.append(row("a", "weights", 0.8, aimed_ratio=29.0))
    target = tmp_path / "accuracy.json"
    target.write_text(json.dumps({"rows": rows}))
    assert accuracy.earlier(target, ["a"], ["weights"], [2.0]) == rows[1:4]
    assert accuracy.earlier(tmp_path / "none.json", ["a"], ["weights"], [2.0]) == []


def test_scores_in_short_are_those_at_two_bits_with_batch_norms_estimated_anew_where_there_are_any():
    def row(network, method, stage, score, target=2.0):
        return {
            "network": network,
            "measure": "m",
            "dense": 9.0,
            "method": method,
            "stage": stage,
            "score": score,
            "target": target,
        }

    rows = [
        row("resnet20_cifar10", "HQQ", "weights", 1.0),
        row("resnet20_cifar10", "HQQ", "batch norm", 2.0),
        row("resnet20_cifar10", "HQQ", "batch norm", 3.0, 4.0),
        row("resnet20_cifar10", "Trellis, one step", "calibrated, batch norm", 4.0),
        row("g2p_gru", "HQQ", "weights", 5.0),
        row("g2p_gru", "Trellis, one step", "calibrated", 6.0),
        row("g2p_gru", "Trellis, allotted by gradients", "calibrated", 7.0),
    ]
    head = {"measure": "m", "dense": 9.0}
    assert accuracy.scores_of(rows) == [
        {"network": "resnet20_cifar10", **head, "HQQ": 2.0, "with inputs": 4.0},
        {"network": "g2p_gru", **head, "HQQ": 5.0, "with inputs": 7.0},
    ]


def test_a_quick_run_scores_a_network_at_every_stage(tmp_path, monkeypatch):
    pytest.importorskip("torch")
    data = FOLDER.parents[1] / "shared" / "data"
    if not (data / "lenet300_mnist.safetensors").exists():
        pytest.skip("the networks are not here")
    target = tmp_path / "accuracy.json"
    monkeypatch.setattr(sys, "argv", ["accuracy.py", "--quick", "--data", str(data), "--json", str(target)])
    accuracy.main()
    rows = json.loads(target.read_text())["rows"]
    assert [row["stage"] for row in rows] == ["weights", "weights", "calibrated", "fine-tuned"]
    dense = sum(8 * n for n in (784 * 300, 300 * 100, 100 * 10)) / 2 + 4 * 410
    for row in rows:
        assert 1.9 < row["bits_per_weight"] < accuracy_methods.LEEWAY * 2
        assert row["dense_bytes"] == dense
        assert row["ratio"] == pytest.approx(dense / row["stored_bytes"], rel=1e-3)
        assert row["score"] > row["dense"] - 2
