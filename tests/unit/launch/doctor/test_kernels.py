"""Threading layer, threads against cores, peak, from what ranks told."""

from __future__ import annotations

from typing import Any

from launch.doctor.capture import Captured
from launch.doctor.kernels import check_loaded_versions, check_peak, check_threading_layer, check_threads
from launch.doctor.ranks import Diagnosis


def diagnosis(*ranks: dict[str, Any]) -> Diagnosis:
    """Ranks 0, 1, ... that are as usual but for what is given."""
    usual = {"host": "a", "blas_threads": 1, "variables": {}, "cores": [0, 1]}
    kernels = {"threading_layer": "omp", "threads": 2, "pool": 2, "peak_gflops": 100.0, "loaded": {"numpy": "2.4"}}
    told = [{**usual, **kernels, **rank, "rank": number} for number, rank in enumerate(ranks)]
    return Diagnosis(Captured(0, "", ""), stages={"ranks": {"ranks": told}, "kernels": {"ranks": told}})


UNFINISHED = Diagnosis(Captured(None, "", ""))


def test_a_good_layer() -> None:
    (finding,) = check_threading_layer(diagnosis({}, {}))
    assert (finding.state, finding.measured) == ("ok", "omp: loads, and is thread-safe")


def test_a_layer_that_does_not_load() -> None:
    (finding,) = check_threading_layer(diagnosis({}, {"error": "ValueError: No threading layer", "host": "b"}))
    assert finding.state == "error"
    assert finding.measured == "kernels do not run on rank 1 on b: ValueError: No threading layer"


def test_an_unsafe_layer() -> None:
    (finding,) = check_threading_layer(diagnosis({}, {"threading_layer": "workqueue", "host": "b"}))
    assert finding.state == "warning"
    assert finding.measured.startswith("workqueue on b: ")


def test_different_layers() -> None:
    (finding,) = check_threading_layer(diagnosis({}, {"threading_layer": "tbb"}))
    assert (finding.state, finding.measured) == ("warning", "not the same everywhere: omp, tbb")


def test_without_kernels_nothing_is_ok() -> None:
    for check in (check_threading_layer, check_peak):
        assert [finding.state for finding in check(UNFINISHED)] == ["warning"]
    assert [finding.state for finding in check_threads(UNFINISHED, {})] == ["warning"]


def test_imported_versions() -> None:
    assert check_loaded_versions(diagnosis({}, {})) == []
    (finding,) = check_loaded_versions(diagnosis({}, {}, {"loaded": {"numpy": "1.26"}, "host": "b"}))
    assert finding.state == "error"
    assert finding.measured == "numpy: ranks have imported 1.26 on b, but 2.4 elsewhere"


def test_threads_fit() -> None:
    (finding,) = check_threads(diagnosis({}, {}), {"a": 4})
    assert finding.state == "ok"
    assert finding.measured == "2 ranks x 1 of BLAS x 2 of Numba and OpenMP on 4 cores of a"


def test_the_product_with_blas() -> None:
    (finding,) = check_threads(diagnosis({"blas_threads": 4}), {"a": 4})
    assert finding.state == "warning"
    assert finding.measured == "1 rank x 4 of BLAS x 2 of Numba and OpenMP on 4 cores of a"
    assert "OPENBLAS_NUM_THREADS=1" in finding.fix


def test_more_ranks_than_cores() -> None:
    (finding,) = check_threads(diagnosis({}, {"host": "b"}, {"host": "b"}), {"a": 2, "b": 2})
    assert finding.state == "warning"
    assert finding.measured.endswith("on 2 cores of b")
    assert "at most 2" in finding.fix
    assert "OMP_WAIT_POLICY=passive" in finding.fix


def test_peak() -> None:
    (finding,) = check_peak(diagnosis({}, {"peak_gflops": 60.0}, {"host": "b", "threads": 1}))
    assert (finding.state, finding.measured) == ("ok", "GFLOP/s a core: a 50, b 100")


def test_a_slow_host_of_two_and_of_three() -> None:
    slow = {"host": "b", "peak_gflops": 40.0}
    for others in ([{}], [{}, {"host": "c"}]):
        (finding,) = check_peak(diagnosis(*others, slow))
        assert finding.state == "warning"
        assert finding.measured.startswith("b (20) GFLOP/s a core")
