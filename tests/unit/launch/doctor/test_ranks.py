"""What ranks printed, sorted; and whether they see each other."""

from __future__ import annotations

import json

from launch.doctor.capture import Captured
from launch.doctor.ranks import LIMIT_S, MARK, PROGRAM, check_world, read_diagnosis, unfinished


def lines(*said: dict[str, object]) -> str:
    return "".join(f"\n{MARK}{json.dumps(one)}\n" for one in said)


def test_the_mark_is_the_programs() -> None:
    assert f"{PROGRAM[2]}: " == MARK  # as ddp.comm.diagnose writes it; a test with real ranks proves it


def test_one_world() -> None:
    started = [{"stage": "started", "rank": rank, "host": "a"} for rank in (1, 0)]
    output = "hello\n" + lines(*started, {"stage": "world", "size": 2, "hosts": 1}) + f"{MARK}{{broken\n"
    diagnosis = read_diagnosis(Captured(0, output, ""))
    assert [one["rank"] for one in diagnosis.started] == [1, 0]
    finding = check_world(diagnosis, 2)
    assert (finding.state, finding.measured) == ("ok", "2 ranks in one world, on 1 host")


def test_every_process_a_world_of_its_own() -> None:
    mistake = "each is rank 0 of 1: use that library's own mpirun"
    diagnosis = read_diagnosis(Captured(2, lines(*[{"stage": "world", "size": 1, "error": mistake}] * 3), ""))
    finding = check_world(diagnosis, 3)
    assert finding.state == "error"
    assert finding.measured == "3 ranks started, but rank 0 sees a world of 1"
    assert finding.fix == mistake
    assert finding.details["worlds"] == [1, 1, 1]


def test_ranks_that_never_met() -> None:
    output = lines({"stage": "started", "rank": 0, "host": "a"}, {"stage": "started", "rank": 1, "host": "a"})
    finding = check_world(read_diagnosis(Captured(None, output, ""), "mpirun -n 3 x"), 3)
    assert finding.state == "error"
    assert f"no end within {LIMIT_S} s; processes that began: 2 on a" in finding.measured
    assert finding.fix == "see what it says: mpirun -n 3 x"


def test_an_mpirun_that_fails_at_once() -> None:
    finding = check_world(read_diagnosis(Captured(213, "", "no slots\n-----\n")), 3)
    assert "exit code 213, last words: no slots; processes that began: none" in finding.measured


def test_why_a_stage_is_missing() -> None:
    output = lines({"stage": "world", "size": 2, "hosts": 1}, {"stage": "ranks", "ranks": []})
    assert read_diagnosis(Captured(None, output, "")).reason("kernels").endswith("after ranks")
    assert "exit code 9: killed" in read_diagnosis(Captured(9, output, "killed\n")).reason("kernels")


def test_the_stage_in_which_the_job_failed_is_the_error() -> None:
    output = lines({"stage": "world", "size": 2, "hosts": 1}, {"stage": "ranks", "ranks": []})
    diagnosis = read_diagnosis(Captured(None, output, ""), "mpirun x")
    failed = unfinished("threading layer", diagnosis, "kernels")
    assert failed.state == "error"
    assert failed.fix == "see what it says: mpirun x"
    assert unfinished("network", diagnosis, "network").state == "warning"
