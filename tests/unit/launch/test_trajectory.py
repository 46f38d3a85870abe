"""What two logs of digests are compared to: the first step and tensor that differ."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from launch.trajectory import Difference, Moment, Trajectory, read_trajectory


def trajectory(*moments: dict[str, str]) -> Trajectory:
    return Trajectory(tuple(Moment(step, digests) for step, digests in enumerate(moments)))


SAME = [{"a": "0", "b": "0"}, {"a": "1", "b": "1", "loss": "x"}, {"a": "2", "b": "2", "loss": "y"}]


def test_the_same_run_has_no_difference() -> None:
    one, other = trajectory(*SAME), trajectory(*[dict(moment) for moment in SAME])
    assert one.difference(other) is None
    assert one.digest == other.digest
    assert one.steps == 2


@pytest.mark.parametrize("step", [0, 1, 2])
@pytest.mark.parametrize("name", ["a", "b"])
def test_the_first_step_and_tensor_are_named(step: int, name: str) -> None:
    changed = [dict(moment) for moment in SAME]
    for later in range(step, 3):
        changed[later][name] += "!"
    one, other = trajectory(*SAME), trajectory(*changed)
    assert one.difference(other) == other.difference(one) == Difference(step, (name,))
    assert one.digest != other.digest


def test_of_several_tensors_the_first_is_told() -> None:
    changed = [SAME[0], {"a": "1", "b": "!", "loss": "!"}, SAME[2]]
    found = trajectory(*SAME).difference(trajectory(*changed))
    assert found == Difference(1, ("b", "loss"))
    assert str(found) == "step 1: b and 1 more"
    assert str(Difference(7, ("b",))) == "step 7: b"


def test_a_tensor_that_only_one_has_is_a_difference() -> None:
    more = [*SAME[:2], SAME[2] | {"c": "0"}]
    for one, other in ((SAME, more), (more, SAME)):
        assert trajectory(*one).difference(trajectory(*other)) == Difference(2, ("c",))


def test_a_run_that_ends_early_differs() -> None:
    for one, other in ((SAME, SAME[:2]), (SAME[:2], SAME)):
        found = trajectory(*one).difference(trajectory(*other))
        assert found == Difference(1, ())
        assert str(found) == "step 1: one of the two ends there"


def test_reading(tmp_path: Path) -> None:
    path = tmp_path / "log"
    assert read_trajectory(path) is None
    path.write_text("")
    assert read_trajectory(path) is None
    lines = [json.dumps({"step": step, "digests": digests}) for step, digests in enumerate(SAME)]
    path.write_text(lines[0] + "\n")
    assert read_trajectory(path) is None  # before the first step
    path.write_text("\n".join(lines) + "\n")
    assert read_trajectory(path) == trajectory(*SAME)
    path.write_text("\n".join(lines) + '\n{"step": 3, "dig')  # cut off, as of a rank that was killed
    assert read_trajectory(path) == trajectory(*SAME)
