"""The measurements of the scaling study between real ranks: what is measured, and that it is what it is called."""

from __future__ import annotations

import json
import signal
import time

import numpy as np
import pytest

from ddp.comm.collectives import MARK, Course, Task, main, measure, take_turns, turn
from ddp.comm.world import World

pytestmark = pytest.mark.mpi

TASK = Task(tensors=[40_000, 400, 200_000, 40], repeats=3, seconds=0.001, limit_s=30.0)


def test_every_rank_learns_the_same_times(world: World) -> None:
    facts = measure(world, TASK)
    samples = {(each["what"], each["bytes"]): each["seconds"] for each in facts["samples"]}
    assert world.comm.allgather(samples) == [samples] * world.size
    assert all(len(seconds) == TASK.repeats and min(seconds) > 0 for seconds in samples.values())
    assert {("flat", 240_440), ("bucketed", 240_440), ("allreduce", 1 << 24), ("barrier", 0)} <= set(samples)
    assert (("node_shared", 240_440) in samples) == (world.size > world.num_nodes)
    assert facts["ranks"] == world.size
    assert sum(facts["buckets"]) == sum(facts["tensors"]) == 240_440
    if world.is_root:
        assert len(facts["links"]) == (world.size > 1)


def test_rungs_sum_what_they_are_said_to_sum(world: World) -> None:
    course = Course(world, TASK)
    course.compile()
    for name, rung in course.rungs.items():
        rung.model.gradient_sums.fill(world.rank + 1)
        world.comm.Barrier()
        rung.sum_and_publish()
        addends = rung.reducer.addends
        own = addends.rows[addends.own]
        mine = own[addends.start : addends.start + rung.reducer.part.size]
        assert (mine == world.size * (world.size + 1) // 2).all(), name
        world.comm.Barrier()
    course.close()


def test_sums_and_messages_have_the_bytes_that_they_are_said_to_have(world: World) -> None:
    course = Course(world, TASK)
    actions = course.actions()
    course.sums.fill(1)
    actions["allreduce", 4096]()
    assert (course.sums[:1024] == world.size).all()
    assert (course.sums[1024:] == 1).all()
    actions["iallreduce", 4096]()
    assert (course.sums[:1024] == world.size**2).all()
    assert (course.sums[1024:] == 1).all()
    course.sums.fill(world.rank)
    actions["message", 1024]()
    assert (course.spare[:256] == (world.rank - 1) % world.size).all()
    assert (course.spare[256:] == 0).all()
    course.close()


def test_what_takes_too_long_is_left_out(world: World) -> None:
    names = [("short", 0), ("long", 0), ("flat", 0)]
    actions = {key: (lambda: None) if key[0] == "short" else (lambda: time.sleep(0.1)) for key in names}
    assert set(take_turns(world, actions, Task(tensors=[4], limit_s=1.0))) == {("short", 0), ("flat", 0)}


def test_rounds_end_when_there_is_no_time(world: World) -> None:
    """Of ranks that know the same times, all end after the same round."""
    actions = {("sleep", 0): lambda: time.sleep(0.01)}
    seconds = take_turns(world, actions, Task(tensors=[4], repeats=1000, seconds=0.1, limit_s=1.0))
    assert 3 <= len(seconds["sleep", 0]) < 30


def test_the_slowest_rank_counts(world: World) -> None:
    last = world.size - 1
    assert turn(world, lambda: time.sleep(0.05 if world.rank == last else 0), 1) >= 0.05


def test_the_program_tells_one_line(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    task = {"tensors": [4096], "repeats": 3, "seconds": 0.0, "limit_s": 5.0, "alarm_s": 50}
    main([json.dumps(task)])
    signal.alarm(0)
    said = [line for line in capsys.readouterr().out.splitlines() if line]
    assert len(said) == world.is_root
    for line in said:
        assert line.startswith(MARK)
        assert np.isfinite(json.loads(line.removeprefix(MARK))["samples"][0]["seconds"]).all()
