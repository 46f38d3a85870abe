"""The trace's format, its limit, and the command that joins those of all ranks."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ddp.observe.trace import Trace, main, merge, to_json, trace_name


def events(contents: dict[str, Any]) -> list[dict[str, Any]]:
    return [event for event in contents["traceEvents"] if event["ph"] == "X"]


def names(contents: dict[str, Any], kind: str) -> dict[tuple[int, int], str]:
    found = [event for event in contents["traceEvents"] if event["ph"] == "M" and event["name"] == kind]
    return {(event["pid"], event["tid"]): event["args"]["name"] for event in found}


def write(run: Path, rank: int, *times: float) -> None:
    trace = Trace(rank, f"node{rank}", SimpleNamespace(step=1))
    for start in times:
        trace.add("data", start, start + 0.5)
    (run / trace_name(rank)).write_text(to_json(trace.contents(lambda own: own, 0.0)))


def test_events_are_in_microseconds_on_the_common_clock_with_step_and_arguments() -> None:
    place = SimpleNamespace(step=7)
    trace = Trace(3, "node1", place)
    record = trace.recorder("0 Linear forward", "layers")
    trace.add("forward", 10.0, 10.5)
    record(10.125, 10.25, "input", "output")
    place.step = 8
    trace.add("sum of gradients", 11.0, 11.25, "communication", bytes=64)
    trace.add("bucket 1", 11.0, 12.0, "bucket 1", bucket=1, bytes=32)
    contents = json.loads(to_json(trace.contents(lambda own: own - 10, 2e-6)))
    assert names(contents, "process_name") == {(3, 0): "rank 3 on node1"}
    tracks = names(contents, "thread_name")
    assert list(tracks.values()) == ["main", "layers", "communication", "bucket 1"]
    found = [(e["name"], tracks[e["pid"], e["tid"]], e["ts"], e["dur"], e["args"]) for e in events(contents)]
    assert found == [
        ("forward", "main", 0, 500_000, {"step": 7}),
        ("0 Linear forward", "layers", 125_000, 125_000, {"step": 7}),
        ("bucket 1", "bucket 1", 1_000_000, 1_000_000, {"step": 8, "bucket": 1, "bytes": 32}),
        ("sum of gradients", "communication", 1_000_000, 250_000, {"step": 8, "bytes": 64}),
    ]
    (note,) = contents["otherData"]["ranks"]
    assert note == {"rank": 3, "host": "node1", "clock_error_us": pytest.approx(2), "events": 4, "dropped_events": 0}


def test_a_full_trace_takes_no_more_and_says_so() -> None:
    trace = Trace(0, "here", SimpleNamespace(step=1), limit=3)
    record = trace.recorder("pass", "layers")
    for number in range(4):
        record(2.0 * number, 2.0 * number + 1)
        trace.add("data", 2.0 * number + 1, 2.0 * number + 2)
    contents = trace.contents(lambda own: own, 0.0)
    assert [event["ts"] for event in events(contents)] == [0, 1e6, 2e6]
    (note,) = contents["otherData"]["ranks"]
    assert (note["events"], note["dropped_events"]) == (3, 5)


def test_what_encloses_others_comes_before_them() -> None:
    trace = Trace(0, "here", SimpleNamespace(step=1))
    trace.add("inner", 1.0, 2.0)  # as it is when the inner one ends first
    trace.add("outer", 1.0, 3.0)
    assert [event["name"] for event in events(trace.contents(lambda own: own, 0.0))] == ["outer", "inner"]


def test_merge_joins_all_ranks_by_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, 0, 1.0, 4.0)
    write(tmp_path, 1, 0.0, 2.0, 3.0)
    assert main(["merge", str(tmp_path)]) == 0
    joined = json.loads((tmp_path / "trace.json").read_text())
    assert [(event["pid"], event["ts"]) for event in events(joined)] == [(1, 0), (0, 1e6), (1, 2e6), (1, 3e6), (0, 4e6)]
    assert list(names(joined, "process_name").values()) == ["rank 0 on node0", "rank 1 on node1"]
    assert [note["rank"] for note in joined["otherData"]["ranks"]] == [0, 1]
    assert capsys.readouterr().out == f"{tmp_path / 'trace.json'}: 5 events of 2 ranks\n"
    # What was joined is no rank's trace, and is not joined again.
    assert main(["merge", str(tmp_path), "-o", str(tmp_path / "again.json")]) == 0
    assert json.loads((tmp_path / "again.json").read_text()) == joined


NO_TRACES = [
    b"no JSON",
    b"\xff\xfe\x00",
    b"[]",
    b"{}",
    b'{"traceEvents": 3, "otherData": {"ranks": []}}',
    b'{"traceEvents": [{"ph": "X", "ts": "now", "dur": 1}], "otherData": {"ranks": []}}',
    b'{"traceEvents": [{"name": "x"}], "otherData": {"ranks": []}}',
    b'{"traceEvents": [], "otherData": {}}',
    b'{"traceEvents": [], "otherData": {"ranks": 2}}',
    b"[" * 100_000,
]


@pytest.mark.parametrize("content", NO_TRACES, ids=range(len(NO_TRACES)))
def test_a_file_that_is_no_trace(content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, 0, 1.0)
    path = tmp_path / trace_name(1)
    path.write_bytes(content)
    assert main(["merge", str(tmp_path)]) == 2
    said = capsys.readouterr()
    assert said.err == f"error: {path}: not a rank's trace; delete it, or trace the run again\n"
    assert said.out == ""
    assert not (tmp_path / "trace.json").exists()


def test_mistakes_give_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    write(tmp_path, 0, 1.0)
    for arguments, message in [
        (["merge", str(tmp_path / "gone")], f"{tmp_path / 'gone'}: no such directory; give the directory of a run"),
        (["merge", str(empty)], f"{empty}: no trace-rank00000.json there; trace a run with --output.trace true"),
        (["merge", str(tmp_path), "-o", str(empty)], f"{empty}: cannot be written (Is a directory); choose another"),
        (["merge"], "the following arguments are required: RUN_DIR; --help tells more"),
        (["split", str(tmp_path)], "argument command: invalid choice: 'split'"),
        (["merge", str(tmp_path), "--sorted"], "unrecognized arguments: --sorted; --help tells more"),
        ([], "the following arguments are required: command; --help tells more"),
    ]:
        assert main(arguments) == 2
        said = capsys.readouterr()
        assert said.err.startswith(f"error: {message}")
        assert said.err.count("\n") == 1
        assert said.out == ""


def test_ten_thousand_ranks_stay_in_order(tmp_path: Path) -> None:
    for rank in (9_999, 10_000, 2):
        write(tmp_path, rank, 1.0)
    assert [note["rank"] for note in merge(tmp_path)["otherData"]["ranks"]] == [2, 9_999, 10_000]


def test_needs_neither_mpi_nor_numba() -> None:
    heavy = "{'mpi4py', 'numba', 'numpy'} & sys.modules.keys()"
    code = f"import sys, ddp.observe.trace; sys.exit(str({heavy}) if {heavy} else 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
