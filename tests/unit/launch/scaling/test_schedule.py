"""When buckets are ready, and what is left exposed of them: by hand."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from ddp import nn
from ddp.checkpoint import save_model
from ddp.comm.reports import ShardReports
from launch.scaling.collectives import layer_bytes, num_statistics, report_size, tensor_bytes
from launch.scaling.schedule import Bucket, BucketSchedule, at_the_end, load, read_trace, save

# Layers 0, 2 and 10 of 40, 800 and 80 bytes; backward from 1000 to 2000 us.
TENSORS = {"0.bias": 8, "0.weight": 32, "10.weight": 80, "2.running_mean": 24, "2.weight": 800}
READY = {10: 1100, 2: 1500, 0: 1950}


def run(folder: Path, shift: float = 0.0) -> Path:
    header: dict[str, Any] = {"__metadata__": {}}
    end = 0
    for name, size in TENSORS.items():
        header[name] = {"dtype": "F32", "shape": [size // 4], "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(end))
    events = [{"name": "process_name", "ph": "M", "pid": 0, "tid": 0, "ts": 0, "args": {}}]
    for step in range(1, 6):
        start = 10_000 * step + shift
        events.append(event("backward", start + 1000, 1000, step))
        for layer, ready in READY.items():
            events.append(event(f"{layer} Linear backward_weight", start + ready - 50, 50, step))
            events.append(event(f"{layer} Linear backward_input", start + ready, 20, step))
    (folder / "trace-rank00000.json").write_text(json.dumps({"traceEvents": events, "otherData": {"ranks": []}}))
    return folder


def event(name: str, start: float, duration: float, step: int) -> dict[str, Any]:
    return {"name": name, "ph": "X", "pid": 0, "tid": 1, "ts": start, "dur": duration, "args": {"step": step}}


def test_tensors_come_in_the_order_of_the_flat_buffer(tmp_path: Path) -> None:
    assert tensor_bytes(run(tmp_path)) == [32, 8, 800, 80]
    assert layer_bytes(tmp_path) == {0: 40, 2: 800, 10: 80}


def test_what_the_shards_report(tmp_path: Path) -> None:
    """As much as the trainer has room for: batch normalisation has a mean and a variance of each feature, and more."""
    model = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))
    save_model(tmp_path / "model.safetensors", model.state_dict())
    assert num_statistics(tmp_path) == model.num_statistics > 0
    tensors = len(tensor_bytes(tmp_path))
    reports = ShardReports(16, tensors, model.num_statistics)
    assert report_size(16, tensors, num_statistics(tmp_path)) == reports.integers.nbytes


def test_tensors_are_known_when_the_model_is_gone(tmp_path: Path) -> None:
    known = tensor_bytes(run(tmp_path))
    (tmp_path / "model.safetensors").unlink()
    assert tensor_bytes(tmp_path) == known
    assert layer_bytes(tmp_path) == {0: 40, 2: 800, 10: 80}
    assert read_trace(tmp_path, [920]).buckets[0].ready == pytest.approx(0.95)


def test_a_bucket_is_ready_with_the_first_layer_in_it(tmp_path: Path) -> None:
    """Bytes 840 to 920 are layer 10's, 40 to 840 layer 2's."""
    schedule = read_trace(run(tmp_path), [60, 120, 700, 40])
    assert schedule.backward_s == pytest.approx(1e-3)
    assert [bucket.ready for bucket in schedule.buckets] == pytest.approx([0.1, 0.5, 0.5, 0.95])
    assert [bucket.num_bytes for bucket in schedule.buckets] == [60, 120, 700, 40]


def test_with_accumulation_gradients_are_whole_in_the_last_of_several_backward_passes(tmp_path: Path) -> None:
    """Three passes of 1 ms, each with the layers' own: readiness is a part of all three, of the forward passes none."""
    run(tmp_path)
    path = tmp_path / "trace-rank00000.json"
    whole = json.loads(path.read_text())
    once = [each for each in whole["traceEvents"] if each["ph"] == "X"]
    again = [{**each, "ts": each["ts"] + later} for later in (0, 2500, 5000) for each in once]
    path.write_text(json.dumps({**whole, "traceEvents": again}))
    schedule = read_trace(tmp_path, [60, 120, 700, 40])
    assert schedule.backward_s == pytest.approx(3e-3)
    expected = [2.1 / 3, 2.5 / 3, 2.5 / 3, 2.95 / 3]
    assert [bucket.ready for bucket in schedule.buckets] == pytest.approx(expected)


def test_it_is_kept_as_it_was(tmp_path: Path) -> None:
    schedule = read_trace(run(tmp_path), [920])
    save(schedule, tmp_path / "schedule.json")
    assert load(tmp_path / "schedule.json") == schedule


@pytest.mark.parametrize(
    "text",
    ["", "[]", '{"backward_s": "x", "buckets": []}', '{"backward_s": 1}', '{"backward_s": 1, "buckets": [{"x": 1}]}'],
)
def test_something_else_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "schedule.json").write_text(text)
    with pytest.raises(ValueError, match="no schedule of buckets"):
        load(tmp_path / "schedule.json")


def test_a_directory_without_a_fitting_trace_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no trace of a run"):
        read_trace(tmp_path, [920])
    with pytest.raises(ValueError, match="buckets of 900"):
        read_trace(run(tmp_path), [900])
    (tmp_path / "trace-rank00000.json").write_text('{"traceEvents": []}')
    with pytest.raises(ValueError, match="no step"):
        read_trace(tmp_path, [920])


SCHEDULE = BucketSchedule(10.0, (Bucket(1, 0.2), Bucket(1, 0.2), Bucket(1, 0.9)))


def test_what_is_hidden_behind_the_backward_pass() -> None:
    """Ready at 2, 2 and 9 s; of 1 s and 2 s: 2 to 5, to 8, 9 to 12."""
    assert SCHEDULE.exposed(10.0, [1, 1, 1], [2, 2, 2]) == pytest.approx(2.0)
    assert SCHEDULE.exposed(10.0, [0, 0, 0], [0.1, 0.1, 1.0]) == 0.0
    # Of 4 s: 2 to 6, to 10, and the last one, which has waited, to 14.
    assert SCHEDULE.exposed(10.0, [1, 1, 1], [3, 3, 3]) == pytest.approx(4.0)


def test_a_longer_backward_pass_hides_more() -> None:
    exposed = [SCHEDULE.exposed(backward, [1, 1, 1], [3, 3, 3]) for backward in (0.0, 1.0, 5.0, 10.0, 40.0)]
    assert exposed == sorted(exposed, reverse=True)
    assert exposed[0] == pytest.approx(12.0)  # nothing hides anything
    assert exposed[-1] == pytest.approx(0.0)  # the last one is ready 4 s before the end


def test_what_is_ready_at_the_end_is_exposed() -> None:
    assert at_the_end([1, 1], 10.0).exposed(10.0, [1, 1], [2, 2]) == pytest.approx(6.0)


def test_sums_that_are_on_their_way_at_once() -> None:
    """Ready at 2, 2 and 9 s; of 3 s alone, 2 s of them on the link: 2 to 5, 2 to 6, 9 to 12."""
    assert SCHEDULE.overlapped(10.0, [3, 3, 3], [2, 2, 2]) == pytest.approx(2.0)
    # The link is busy from 2 to 6, 10 and 14; or the second one takes 15 s, whatever the link does.
    assert SCHEDULE.overlapped(10.0, [5, 5, 5], [4, 4, 4]) == pytest.approx(4.0)
    assert SCHEDULE.overlapped(10.0, [5, 15, 5], [2, 2, 2]) == pytest.approx(7.0)
    # All ready at once, and what comes behind: 1 s of latency once, and all bytes.
    assert at_the_end([1, 1], 10.0).overlapped(10.0, [3, 3], [2, 2]) == pytest.approx(4.0)
    assert at_the_end([1, 1], 10.0).and_then(1).overlapped(10.0, [3, 3, 9], [2, 2, 1]) == pytest.approx(9.0)


def test_overlap_is_never_worse_than_one_after_the_other() -> None:
    for backward in (0.0, 3.0, 10.0):
        one_by_one = SCHEDULE.exposed(backward, [1, 1, 1], [3, 3, 3])
        assert SCHEDULE.overlapped(backward, [4, 4, 4], [3, 3, 3]) <= one_by_one
