"""The tensors and the peers of the CP benchmark are what its tables say."""

import sys
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"
if not FOLDER.is_dir():
    pytest.skip("the benchmarks are not beside these tests", allow_module_level=True)
sys.path.insert(0, str(FOLDER))
try:
    import cp
    import cp_cost
    import cp_peers
finally:
    sys.path.remove(str(FOLDER))

SHAPE = (7, 6, 5)


def drawn(rank, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((n, rank)) for n in SHAPE]


def test_the_error_is_that_of_the_sum_of_outer_products():
    w, factors = np.array([2.0, -1.0, 0.5]), drawn(3)
    P = np.einsum("r,ir,jr,kr->ijk", w, *factors)
    X = P + drawn(1, 1)[0].reshape(-1, 1, 1)
    np.testing.assert_allclose(cp_peers.outer(w, factors), P, rtol=1e-12, atol=1e-12)
    expected = np.linalg.norm(X - P) / np.linalg.norm(X)
    assert cp_peers.relative_error(X, w, factors) == pytest.approx(expected)
    units = cp_peers.normalized(w, factors)
    assert cp_peers.relative_error(X, *units) == pytest.approx(expected)
    np.testing.assert_allclose([np.linalg.norm(F, axis=0) for F in units[1]], 1.0)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_rounded_factors_have_so_many_levels_and_the_search_never_loses(bits):
    F = drawn(40)[0]
    largest, searched = (cp_peers.rounded(F, bits, search) for search in (False, True))
    step = 2.0 * np.abs(F).max() / (2.0**bits - 1.0)
    assert len(np.unique(np.rint(largest / step))) <= 2**bits
    np.testing.assert_allclose(np.rint(largest / step) * step, largest)
    assert np.sum((F - searched) ** 2) <= 1.01 * np.sum((F - largest) ** 2)
    assert not cp_peers.rounded(np.zeros((3, 2)), bits, True).any()


def test_planted_tensors_have_their_noise_and_integers_are_integers():
    X = cp_peers.planted((12, 10, 9), 8)
    assert X.dtype == np.float32
    assert np.linalg.norm(X) == pytest.approx(1.005, abs=0.01)
    W = cp_peers.integers((12, 10, 9), 40)
    assert np.linalg.matrix_rank(W.reshape(12, -1)) == 12
    np.testing.assert_array_equal(W, np.rint(W))


def test_a_convolution_at_a_reduction_of_two_has_the_rank_of_the_method():
    import factorq as fq

    for channels in (32, 64, 128, 256):
        case = cp.conv("x:y", channels)
        assert case.rank == fq.CP(reduction=2.0).terms(case.shape)


def test_sweeps_cancel_what_is_spent_beside_them(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(cp_cost.time, "process_time", lambda: clock[0])

    def call(count):
        clock[0] += 10.0 + 0.5 * count
        return count

    assert cp_cost.per_sweep({"a": call}, (2, 7), 3) == {"a": (0.5, 0.5, 0.5)}


def test_ratios_are_over_the_published_method_at_the_same_bits():
    head = {"source": "s", "shape": "1x2x3", "rank": 4}
    rows = [
        head | {"method": cp.OURS, "bits": 4, "relative_error": 0.3, "seconds": 1.0},
        head | {"method": cp.OURS, "bits": 2, "relative_error": 0.6, "seconds": 1.0},
        head | {"method": cp.PUBLISHED, "bits": 4, "relative_error": 0.4, "seconds": 50.0},
        head | {"method": "x", "bits": 4, "note": "absent"},
    ]
    found = {(row["method"], row["bits"]): row for row in cp.in_order(rows)}
    assert list(found) == [(cp.OURS, 4), (cp.PUBLISHED, 4), ("x", 4), (cp.OURS, 2)]
    assert (found[cp.OURS, 4]["error_ratio"], found[cp.OURS, 4]["time_ratio"]) == (0.75, 0.02)
    assert all("error_ratio" not in found[key] for key in (("x", 4), (cp.OURS, 2)))


def test_a_run_of_some_parts_and_tensors_leaves_the_other_rows():
    cases = [case for case in cp.CASES if case.source == "random"]
    row = cases[0].head | {"method": cp.OURS, "bits": 4}
    assert cp.redone(row, cases, ["quantized"])
    assert not cp.redone(row | {"method": cp.PUBLISHED}, cases, ["quantized"])
    assert not cp.redone(row | {"source": "planted"}, cases, ["quantized"])
