"""`launch scale --submit slurm|pbs`: every run of a study is a batch job, and `scale report DIR` collects them.

A job for each run, submitted in the order of the study, so that all points meet the same drift of the machine. Each
writes into a folder of its own: jobs that run at once must not write to one file.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launch import script
from launch.batch import SCHEDULERS, Request, clock, plain_script
from launch.errors import UsageError
from launch.scaling.records import append, read_lines
from launch.wording import count

if TYPE_CHECKING:
    from launch.scaling.session import Session
    from launch.scaling.study import Run, Study

JOBS = "jobs"
"""The folder, and by it the file, of a study's jobs."""
POINTS, COLLECTIVES = "points.jsonl", "collectives.jsonl"
SUBMIT = {"slurm": ("sbatch", "--parsable"), "pbs": ("qsub",)}
ASK = {"slurm": ("squeue", "--noheader", "--jobs"), "pbs": ("qstat",)}
"""What tells whether a job is still queued or running."""
SIGNAL_S, LEAST_TIME_S = 30, 120
TIMEOUT_S = 60.0
NO_LIMIT_S = 30 * 86400.0
EXIT_FAILED = 1


def check(options: argparse.Namespace) -> None:
    """Refuse what cannot be submitted.

    Raises:
        UsageError: if there is no such batch system here, or too little time for a run.
    """
    program = SUBMIT[options.submit][0]
    if shutil.which(program) is None:
        raise UsageError(f"--submit {options.submit}: no {program} on PATH; run this where jobs are submitted")
    if options.time < LEAST_TIME_S:
        raise UsageError(
            f"--time {clock(options.time)} leaves too little for a run; give {clock(LEAST_TIME_S)} or more"
        )


def submit(session: Session, options: argparse.Namespace) -> int:
    """Submit a job for each run that is missing and not on its way; the exit code is 0.

    Raises:
        UsageError: if the batch system refuses a job.
    """
    folder, study = session.folder.absolute(), session.study
    collect(folder)
    jobs = read_jobs(folder)
    known = {line["run"] for line in read_lines(folder / POINTS)}
    costs = {_ranks_key(line) for line in read_lines(folder / COLLECTIVES)}
    todo = [run for run in study.runs() if run.name not in known or _lacks_collectives(study, run, costs)]
    submitted = waiting = 0
    for run in todo:
        if run.name in jobs and is_on_its_way(options.submit, jobs[run.name]):
            waiting += 1
            continue
        jobs[run.name] = _submit(folder, study, run, options)
        _write_jobs(folder, options.submit, jobs)
        submitted += 1
    done = len(study.runs()) - len(todo)
    _say(f"{count(submitted, 'job')} submitted, {waiting} on their way, {count(done, 'run')} measured, in {folder}")
    _say(f"when they are done: python -m launch scale report {folder}")
    return 0


def job_request(folder: Path, study: Study, run: Run, options: argparse.Namespace) -> Request:
    """What the job of a run needs."""
    per_node = min(run.point.ranks, options.ranks_per_node)
    return Request(
        nodes=run.point.ranks // per_node,
        ranks_per_node=per_node,
        threads=run.point.threads,
        time_s=options.time,
        signal_s=SIGNAL_S,
        launcher=(sys.executable, "-m", "launch", "scale", "job", str(folder), run.name),
        folder=str(Path.cwd()),
        environment=script.job_environment(),
        job_name="ddp-scale",
        **script.batch_values(options),
    )


def _submit(folder: Path, study: Study, run: Run, options: argparse.Namespace) -> str:
    """Queue a job; its number."""
    place = folder / JOBS / run.name
    place.mkdir(parents=True, exist_ok=True)
    path = place / "job.sh"
    path.write_text(plain_script(SCHEDULERS[options.submit], job_request(folder, study, run, options)))
    log = str(place / "job.log")
    command = [*SUBMIT[options.submit], *(("-o", log) if options.submit == "pbs" else (f"--output={log}",)), str(path)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UsageError(f"{command[0]} does not take the job of {run.name} ({error}): {path}") from None
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}").splitlines()[-1]
        raise UsageError(f"{command[0]} refuses the job of {run.name}: {said}; change what it is asked for, see {path}")
    return done.stdout.strip().splitlines()[-1].partition(";")[0]


def is_on_its_way(scheduler: str, job: str) -> bool:
    """Whether a job is still queued or running."""
    try:
        done = subprocess.run(
            [*ASK[scheduler], job],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return True  # as far as is known: two jobs of one run would write to the same folder
    except OSError:
        return False
    return done.returncode == 0 and bool(done.stdout.strip())


def read_jobs(folder: Path) -> dict[str, str]:
    """The jobs that were submitted last, by run; none if there were none."""
    path = folder / f"{JOBS}.json"
    if not path.exists():
        return {}
    try:
        return {str(name): str(job) for name, job in json.loads(path.read_text(encoding="utf-8"))["jobs"].items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{path} cannot be read ({error}): remove it, and submit again") from None


def _write_jobs(folder: Path, scheduler: str, jobs: dict[str, str]) -> None:
    new = folder / f".{JOBS}.json"
    new.write_text(json.dumps({"scheduler": scheduler, "jobs": jobs}, indent=1) + "\n", encoding="utf-8")
    os.replace(new, folder / f"{JOBS}.json")


def collect(folder: Path) -> int:
    """Take over what jobs have measured, each run and each number of ranks once; how many runs were new.

    Raises:
        UsageError: if what a job has written cannot be read.
    """
    new = 0
    for name, key in ((POINTS, _run_key), (COLLECTIVES, _ranks_key)):
        try:
            known = {key(line) for line in read_lines(folder / name)}
            lines = []
            for path in sorted((folder / JOBS).glob(f"*/{name}")):
                for line in read_lines(path):
                    if key(line) not in known:
                        known.add(key(line))
                        lines.append(json.dumps(line, separators=(",", ":")) + "\n")
        except (KeyError, TypeError, ValueError) as error:
            raise UsageError(f"{folder}: what a job has measured cannot be read: {error}") from None
        if lines:
            append(folder / name, lines)
        new += len(lines) if name == POINTS else 0
    return new


def _run_key(line: dict[str, Any]) -> tuple[Any, ...]:
    return line["run"], line["repeat"]


def _ranks_key(line: dict[str, Any]) -> tuple[Any, ...]:
    return line["ranks"], line["threads"]


def last_words(folder: Path, run: Run) -> str:
    """What the job of a run said last; empty if there is none, or it has not begun."""
    try:
        lines = (folder / JOBS / run.name / "job.log").read_text(errors="replace").split("\n")
    except OSError:
        return ""
    errors = [line for line in lines if line.startswith("error: ")]
    said = errors or [line for line in lines if line.strip()]
    return said[-1].strip() if said else ""


def run_job(folder: Path, name: str) -> int:
    """What a batch job does: its run, and in the first round what the model of the communication needs.

    Raises:
        UsageError: if there is no such study or run.
    """
    from launch.scaling.child import Children, Interrupted
    from launch.scaling.extras import measure_collectives
    from launch.scaling.runs import RunFailed, Runner
    from launch.scaling.session import Session, find_place
    from launch.scaling.study import read_study

    study = read_study(folder)
    run = next((run for run in study.runs() if run.name == name), None)
    if run is None:
        raise UsageError(f"{folder} has no run {name}; its runs are those of `study.json`")
    point, own = run.point, folder / JOBS / name
    own.mkdir(parents=True, exist_ok=True)
    try:
        with Children() as children:
            placement = study.settings.placement
            limit_s = study.timeout_s or NO_LIMIT_S  # the batch system has one
            session = Session(folder, study, find_place(placement), Runner(folder, children, placement, limit_s))
            measured = session.measure(run, own / POINTS)
            _say(f"{name}: {measured.step_ms:.4g} ms a step")
            if run.repeat == 0 and point == _first_point(study, point.ranks, point.threads):
                if point.ranks == study.baseline_ranks:
                    session.runner.trace(study, point.threads)
                if point.ranks > 1 and (problem := measure_collectives(session, point.ranks, point.threads, own)):
                    _say(f"warning: {problem}")
    except RunFailed as failure:
        sys.stderr.write(f"error: {name} failed: {failure}; its last lines:\n{failure.tail}\n")
        return EXIT_FAILED
    except Interrupted as interruption:
        return interruption.code
    return 0


def _lacks_collectives(study: Study, run: Run, known: Collection[tuple[Any, ...]]) -> bool:
    """Whether a run's job should have measured the collectives, too, and has not."""
    ranks, threads = run.point.ranks, run.point.threads
    is_first = run.repeat == 0 and run.point == _first_point(study, ranks, threads)
    return is_first and ranks > 1 and (ranks, threads) not in known


def _first_point(study: Study, ranks: int, threads: int) -> Any:
    """Of those with so many ranks and threads: what does not depend on the batch is measured there."""
    return min(point for point in study.points() if (point.ranks, point.threads) == (ranks, threads))


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
