"""One point of a study: a run of the trainer, and what it has recorded, as a `Measurement`."""

from __future__ import annotations

import json
import shlex
import shutil
import statistics
import sys
import tempfile
import time
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from launch.errors import HostError, UsageError
from launch.outcome import EXIT_FAILURE
from launch.placement import Plan
from launch.scaling.child import Children, Interrupted
from launch.scaling.collectives import num_statistics, tensor_bytes
from launch.scaling.flags import flags_of_run, real_cores
from launch.scaling.records import PHASES, Measurement, Point
from launch.scaling.study import Run, Study
from launch.scaling.topology import Machines, busy_cores

RUNS = "runs"
"""The folder of a study's run directories."""
LAUNCH = (sys.executable, "-m", "launch")
TAIL_LINES = 12
LEAST_LIMIT_S = 600.0
LIMIT_FACTOR = 30
"""A run has this many times what is expected of it, or LEAST_LIMIT_S if that is more: then it counts as hung."""
TRACE_STEPS = 20
FIELDS = {phase: f"{phase}_ms" for phase in PHASES[:-1]} | {"comm": "comm_exposed_ms"}
"""Of a `step` record, by phase."""


class RunFailed(Exception):
    """A run that has not come to its end, with its last lines."""

    def __init__(self, what: str, tail: str) -> None:
        """Take both."""
        super().__init__(what)
        self.tail = tail


def run_arguments(study: Study, point: Point, steps: int, log_every: int) -> list[str]:
    """What the trainer gets at a point, after the user's own arguments: the later of two values wins."""
    return [
        *study.settings.trainer,
        *("--batch.size", str(point.batch), "--batch.shards", str(point.shards)),
        *("--train.steps", str(steps), "--train.epochs", "1000000", "--train.evaluate_every", "0"),
        *("--checkpoint.every_epochs", "0", "--checkpoint.every_steps", "0", "--output.log_every", str(log_every)),
    ]


@dataclass(frozen=True)
class Recorded:
    """A run directory's `metrics.jsonl`."""

    start: dict[str, Any]
    steps: tuple[dict[str, Any], ...]
    """The `step` records."""
    end: dict[str, Any]
    rung: str
    """What `comm.reducer = auto` chose; empty if there was nothing to choose."""
    chosen_at: int
    """The step at which it chose."""
    stragglers: tuple[str, ...]

    def counted(self, log_every: int) -> list[tuple[int, dict[str, Any]]]:
        """The records that are measurements, each with its number of steps.

        Not the first, which is the warm-up, nor those of the trials of reducers, nor a short last one. If that leaves
        none, all but the first.
        """
        ends = [0, *(record["step"] for record in self.steps)]
        rows = [(last - first, record) for first, last, record in zip(ends, ends[1:], self.steps, strict=False)][1:]
        after = [row for row in rows if row[1]["step"] - row[0] >= self.chosen_at - 1]
        return [row for row in after if 2 * row[0] >= log_every] or rows or [(ends[-1], *self.steps[:1])]


def read_run(folder: Path) -> Recorded:
    """What a run has recorded.

    Raises:
        ValueError: if it has not come to its end, or no step was logged.
    """
    path = folder / "metrics.jsonl"
    try:
        records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}") from None
    last = {record["event"]: record for record in records}
    steps = tuple(record for record in records if record["event"] == "step")
    if not steps or not {"start", "end"} <= last.keys():
        raise ValueError(f"{path}: the run has not come to its end")
    choice = last.get("reducer", {"rung": "", "step": 0})
    texts = tuple(record["text"] for record in records if record["event"] == "straggler")
    return Recorded(last["start"], steps, last["end"], choice["rung"], choice["step"], texts)


def phases(counted: Sequence[tuple[int, Mapping[str, Any]]], step_ms: float) -> tuple[dict[str, float], float]:
    """The phases of a step, which sum to it, and the share that no timer covered."""
    values: dict[str, list[float]] = {phase: [] for phase in PHASES}
    for _, record in counted:
        for phase, field in FIELDS.items():
            values[phase].append(max(0.0, record[field]))
        values["other"].append(max(0.0, record["step_ms"] - sum(values[phase][-1] for phase in FIELDS)))
    medians = {phase: statistics.median(times) for phase, times in values.items()}
    factor = step_ms / sum(medians.values())
    return {phase: median * factor for phase, median in medians.items()}, medians["other"] * factor / step_ms


def measurement(
    run: Run, recorded: Recorded, config: Mapping[str, Any], log_every: int, facts: Mapping[str, Any]
) -> Measurement:
    """What a run has measured.

    Args:
        run: the point and repeat.
        recorded: its own records.
        config: its resolved configuration.
        log_every: steps of a record.
        facts: what else is known, for the provenance: `command`, `machines`, `siblings`, `others_busy_cores`,
            `started_at` and `wall_s`.
    """
    counted = recorded.counted(log_every)
    times = tuple(float(record["step_ms"]) for _, record in counted)
    step_ms = statistics.median(times)
    by_phase, uncovered = phases(counted, step_ms)
    steps = sum(number for number, _ in counted)
    samples = sum(record["samples_per_s"] * record["step_ms"] / 1e3 * number for number, record in counted)
    slowest = [record["slowest_rank"] for _, record in counted]
    comm, start = config["comm"], recorded.start
    known = {key: value for key, value in start.items() if key not in ("event", "time_s")}
    rest = {key: value for key, value in facts.items() if key not in ("started_at", "wall_s")}
    end = {key: value for key, value in recorded.end.items() if key not in ("event", "time_s")}
    made = Measurement(
        point=run.point,
        repeat=run.repeat,
        run=run.name,
        started_at=facts["started_at"],
        wall_s=facts["wall_s"],
        steps=steps,
        records_ms=times,
        step_ms=step_ms,
        phases_ms=by_phase,
        uncovered=uncovered,
        samples_per_s=samples / steps / step_ms * 1e3,
        reducer=recorded.rung or ("flat" if comm["reducer"] == "auto" else comm["reducer"]),
        exact=bool(comm["exact"] and comm["compression"] == "none" and comm["sync_every"] == 1),
        parameters=start["parameters"],
        parameters_sha256=recorded.end["parameters_sha256"],
        slowest={str(rank): slowest.count(rank) / len(slowest) for rank in sorted(set(slowest))},
        hosts=tuple(start["hosts"]),
        cores=0,
        provenance={**known, **rest, "end": end, "stragglers": list(recorded.stragglers)},
    )
    made = replace(made, cores=real_cores(made))
    return replace(made, flags=tuple(flag.name for flag in flags_of_run(made)))


class Runner:
    """Makes runs, in `runs/` of a study's folder."""

    def __init__(
        self, folder: Path, children: Children, placement: Sequence[str], limit_s: float | None = None
    ) -> None:
        """Take where, what starts them, the options of `launch run`, and the time limit of each if there is one."""
        self.folder, self.children, self.placement, self.limit_s = folder / RUNS, children, placement, limit_s
        self.expected_s = 0.0
        """How long a run should take at the most."""

    def command(self, ranks: int, threads: int, arguments: Sequence[str]) -> list[str]:
        """The launcher's."""
        limit = self.limit_s or max(LEAST_LIMIT_S, LIMIT_FACTOR * self.expected_s)
        options = ["-n", str(ranks), "--threads", str(threads), "--timeout", f"{limit:.0f}", *self.placement]
        return [*LAUNCH, "run", *options, "--", *arguments]

    def config(self, trainer: Sequence[str]) -> dict[str, Any]:
        """The configuration that the trainer's arguments mean, as the trainer itself resolves it.

        Raises:
            UsageError: if it refuses them.
        """
        with tempfile.TemporaryDirectory(prefix="ddp-scale-") as folder:
            output, errors = Path(folder) / "out", Path(folder) / "err"
            code = self.children.run(self.command(1, 1, [*trainer, "--print-config"]), output, errors)
            text, said = (path.read_text(errors="replace") for path in (output, errors))
        _raise_for_mistakes(code, said)
        try:
            if code == 0:
                return tomllib.loads(text)
        except tomllib.TOMLDecodeError:
            pass
        sys.stderr.write(tail(text + said) + "\n")
        raise UsageError(f"the trainer shows no configuration but the lines above, with exit code {code}")

    def train(
        self, name: str, ranks: int, threads: int, arguments: Sequence[str], keeps_model: bool = False
    ) -> tuple[Recorded, dict[str, Any]]:
        """Run the trainer; what it recorded, and `facts` for `measurement`.

        Without `keeps_model` the trained model is removed: its digest is recorded.

        Raises:
            RunFailed: if it has not come to its end.
            UsageError: if the trainer, or its launcher, says that its user has made a mistake.
            HostError: if a host does not answer.
            Interrupted: after a signal.
        """
        directory = self.folder / name
        shutil.rmtree(directory, ignore_errors=True)  # of a run that was ended
        directory.mkdir(parents=True)
        where = ["--output.dir", str(self.folder), "--output.name", name]
        command = self.command(ranks, threads, [*arguments, *where])
        facts: dict[str, Any] = {"command": shlex.join(command), "others_busy_cores": round(busy_cores(), 3)}
        facts["started_at"] = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        began = time.monotonic()
        try:
            code = self.children.run(command, directory / "output.log")
        except Interrupted:
            shutil.rmtree(directory, ignore_errors=True)
            raise
        facts["wall_s"] = time.monotonic() - began
        text = (directory / "output.log").read_text(errors="replace")
        _raise_for_mistakes(code, text)
        if code != 0:
            raise RunFailed(f"exit code {code}", tail(text))
        try:
            recorded = read_run(directory)
        except ValueError as error:
            raise RunFailed(str(error), tail(text)) from None
        facts["tensor_bytes"], facts["statistics"] = tensor_bytes(directory), num_statistics(directory)
        if not keeps_model:
            (directory / "model.safetensors").unlink()
        shutil.rmtree(directory / "checkpoints", ignore_errors=True)
        return recorded, facts

    def measure(self, study: Study, run: Run, plan: Plan, machines: Machines) -> Measurement:
        """Make a run of a study; raises what `train` does."""
        point = run.point
        arguments = run_arguments(study, point, study.steps, study.log_every)
        recorded, facts = self.train(run.name, point.ranks, point.threads, arguments)
        facts |= {"plan": str(plan), "machines": machines.of_ranks(plan), "siblings": machines.siblings}
        return measurement(run, recorded, study.config, study.log_every, facts)

    def trace(self, study: Study, threads: int) -> Path:
        """Trace a run on one rank with the batch of one, as `schedule` reads it; its run directory.

        Buckets are sent as they are, in every step, whatever the study does: the trainer refuses anything else.
        Raises what `train` does.
        """
        point = Point(1, threads, study.batch, study.shards)
        arguments = run_arguments(study, point, TRACE_STEPS, max(1, TRACE_STEPS // 4))
        name = f"trace-threads-{threads}"
        traced = ["--output.trace", "true", "--comm.reducer", "bucketed"]
        traced += ["--comm.compression", "none", "--comm.sync_every", "1"]
        self.train(name, 1, threads, [*arguments, *traced], keeps_model=True)  # `schedule` reads its layers' sizes
        return self.folder / name


def _raise_for_mistakes(code: int, text: str) -> None:
    mistakes = [line.removeprefix("error: ") for line in text.splitlines() if line.startswith("error: ")]
    if code == 2:
        raise UsageError(mistakes[0] if mistakes else f"the trainer ended with exit code 2; {tail(text, 1).strip()}")
    if code == EXIT_FAILURE and mistakes and " does not answer" in mistakes[0]:
        raise HostError(mistakes[0])


def tail(text: str, lines: int = TAIL_LINES) -> str:
    """The last lines of an output, indented."""
    return "\n".join(f"    {line}" for line in text.rstrip().splitlines()[-lines:])
