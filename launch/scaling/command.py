"""`python -m launch scale`: a scaling study from its arguments to its report; `scale report DIR`: the report anew."""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launch.discovery import Library, find_launcher
from launch.errors import UsageError
from launch.scaling.arguments import (
    add_parser,
    batches,
    check_options,
    check_trainer,
    command_line,
    default_ranks,
    placement,
    settings,
    target,
)
from launch.wording import count

if TYPE_CHECKING:
    from launch.scaling.child import Children
    from launch.scaling.records import Measurement
    from launch.scaling.session import Session
    from launch.scaling.study import Run, Study

__all__ = ["add_parser", "run"]

EXIT_FAILURE = 1
STUDIES = Path("studies")


def run(
    options: argparse.Namespace, program: Sequence[str], trainer: Sequence[str], library: Callable[[], Library]
) -> int:
    """Run the command; 0 if all points are measured and trained the same bits, else EXIT_FAILURE, or that of a signal.

    Raises:
        UsageError: for the user's mistakes, those in the trainer's arguments too.
        HostError: if a host does not answer.
    """
    del program  # `launch run` knows what each rank runs
    if options.what:
        with _told_in_one_line():
            return _run_action(options.what, trainer)
    begun: list[Session] = []
    with _told_in_one_line():
        return _run_study(options, trainer, library, begun)


@contextlib.contextmanager
def _told_in_one_line() -> Iterator[None]:
    """A disk that is full, or a file that may not be read or written, is no fault of the program.

    Raises:
        UsageError: instead of an OSError.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        where = error.filename or "the study's folder"
        raise UsageError(
            f"{where}: {error.strerror}; mend that (free the disk, give a folder that can be written to): what was"
            " measured is kept, and the same command goes on"
        ) from None


def _run_study(
    options: argparse.Namespace, trainer: Sequence[str], library: Callable[[], Library], begun: list[Session]
) -> int:
    """All that is not an action; `begun` gets the session once there is one."""
    from launch.scaling.child import Children, Interrupted

    try:
        with Children() as children:
            begun.append(_begin(options, trainer, library, children))
            return _carry_out(begun[0], options)
    except Interrupted as interruption:
        _say_how_to_go_on(begun)
        return interruption.code
    finally:
        for session in begun:
            os.close(session.lock)


def _run_action(action: Sequence[str], trainer: Sequence[str]) -> int:
    from launch.scaling import submit

    if trainer:
        raise UsageError(f"{trainer[0]} after a --: scale {action[0]} starts no trainer of its own, leave it out")
    if action[0] == "report" and len(action) == 2:
        return _report(Path(action[1]))
    if action[0] == "job" and len(action) == 3:  # what a batch job runs
        return submit.run_job(Path(action[1]), action[2])
    raise UsageError(f"scale {' '.join(action)}: not understood; give options alone, or `scale report DIR`")


def _begin(
    options: argparse.Namespace, trainer: Sequence[str], library: Callable[[], Library], children: Children
) -> Session:
    """Find out all that can be wrong before anything runs, and open the study's folder.

    Raises:
        UsageError: for all that is wrong.
        HostError: if a host does not answer.
    """
    from launch.scaling import submit
    from launch.scaling.runs import Runner
    from launch.scaling.session import Place, Session, find_place, open_folder
    from launch.scaling.study import Study
    from launch.scaling.topology import Machines

    check_trainer(trainer)
    check_options(options)
    networks = _checked_networks(options.networks)
    where = placement(options)
    if options.submit:  # here may be neither the hosts nor their MPI
        submit.check(options)
        place, ranks = Place((), Machines({})), options.ranks
    else:
        find_launcher(library(), options.mpi)
        place = find_place(where)
        ranks = options.ranks or default_ranks(place.available, place.cores, max(options.threads))
        place.plan(max(ranks), max(options.threads))
    config = Runner(Path(), children, () if options.submit else where).config(trainer)
    study = Study(
        settings(options, ranks, trainer),
        config,
        networks=networks,
        started_at=_now(),
        timeout_s=options.timeout or 0.0,
    )
    study.check()
    folder = Path(options.output) if options.output else STUDIES / _default_name(config)
    study = replace(study, command=shlex.join(command_line(study, folder, options)))
    if options.submit:
        study = study.with_steps(options.steps)
    study, lock = open_folder(folder, study)
    return Session(folder, study, place, Runner(folder, children, where, options.timeout), lock)


def _checked_networks(file: str | None) -> str:
    """The path of a file with networks, or nothing.

    Raises:
        UsageError: if it cannot be read, which would else be found out at the end of the study.
    """
    if file is None:
        return ""
    from launch.scaling.networks import read_networks

    path = Path(file).absolute()
    read_networks(path)
    return str(path)


def _carry_out(session: Session, options: argparse.Namespace) -> int:
    from launch.scaling import submit
    from launch.scaling.runs import RunFailed
    from launch.scaling.simulate import simulate_study

    if options.submit:
        return submit.submit(session, options)
    if options.mode == "accuracy":
        return _train_to_target(session, options)
    say(f"the study is in {session.folder}")
    try:
        session.trial()
    except RunFailed as failure:
        say(f"error: the first run, a trial, failed: {failure}; its last lines:\n{failure.tail}")
        return EXIT_FAILURE
    _make_all(session)
    simulate_study(session.folder, say)
    return close(session.folder, session.study, session.measurements)


def _make_all(session: Session) -> None:
    """All runs that are missing, and what the model of the communication needs besides."""
    from launch.scaling.extras import Extras
    from launch.scaling.progress import display
    from launch.scaling.session import in_short

    study = session.study
    todo = study.missing(session.measurements)
    extras = Extras(session)
    total = len(study.runs())
    say(in_short(study))
    if len(todo) < total:
        say(f"it goes on: {total - len(todo)} of {count(total, 'run')} are there")
    with display(total - len(todo), total + len(extras.traces) + len(extras.collectives)) as show:
        session.make_runs(todo, show, extras.number)
        extras.make(show)


def write_report(folder: Path) -> None:
    """Write the report of what is there, and say where it is."""
    from launch.scaling import report

    for path in report.write_report(folder):
        if path.suffix in (".html", ".md"):
            say(f"report: {path}")


def close(folder: Path, study: Study, measurements: Sequence[Measurement]) -> int:
    """Write the report, and show what came of the study; the exit code."""
    from launch.scaling import closing
    from launch.scaling.flags import same_bits

    missing = study.missing(measurements)
    if not measurements:
        say(f"error: nothing is measured in {folder}")
        return EXIT_FAILURE
    series = closing.show_table(study, measurements)
    for line in closing.words(study, series, measurements):
        say(line)
    write_report(folder)
    if missing:
        return _tell_missing(folder, study, missing)
    bits = same_bits(measurements)
    return 0 if bits is None or bits.same else EXIT_FAILURE


def _tell_missing(folder: Path, study: Study, missing: Sequence[Run]) -> int:
    from launch.scaling.submit import last_words

    names = ", ".join(run.name for run in missing[:4]) + (", ..." if len(missing) > 4 else "")
    say(f"error: {count(len(missing), 'run')} of {len(study.runs())} are missing: {names}")
    for run in missing:
        if words := last_words(folder, run):
            say(f"error: the job of {run.name} said last: {words.removeprefix('error: ')}")
            break
    return EXIT_FAILURE


def _report(folder: Path) -> int:
    from launch.scaling import submit
    from launch.scaling.records import read_measurements
    from launch.scaling.session import POINTS
    from launch.scaling.simulate import simulate_study
    from launch.scaling.study import ACCURACY, read_study

    study = read_study(folder)
    if study.settings.mode == ACCURACY:
        return _close_accuracy(folder, study)
    submit.collect(folder)
    simulate_study(folder, say)
    try:
        return close(folder, study, read_measurements(folder / POINTS))
    except ValueError as error:
        raise UsageError(str(error)) from None


def _train_to_target(session: Session, options: argparse.Namespace) -> int:
    from launch.scaling.accuracy import fitting, wanted_of
    from launch.scaling.accuracy_runs import Trainings, find_samples, run_accuracy
    from launch.scaling.progress import display
    from launch.scaling.runs import RunFailed

    study = session.study
    say(f"the study is in {session.folder}")
    wanted = wanted_of(study, target(options), batches(options, study))
    try:
        samples, data = find_samples(session, wanted)
    except RunFailed as failure:
        say(f"error: the first run, of one step, failed: {failure}; its last lines:\n{failure.tail}")
        return EXIT_FAILURE
    wanted = fitting(wanted, samples, data, bool(options.batches))
    done, total = Trainings(session, wanted).progress
    say(f"{study.title}: {wanted.words}; {count(total, 'training')}")
    if done:
        say(f"it goes on: {done} of {count(total, 'training')} are there")
    with display(done, total) as show:
        run_accuracy(session, wanted, samples, show)
    return _close_accuracy(session.folder, study)


def _close_accuracy(folder: Path, study: Study) -> int:
    from launch.scaling.accuracy_report import closing_lines
    from launch.scaling.accuracy_runs import what_is_missing

    for line in closing_lines(folder):
        say(line)
    write_report(folder)
    if missing := what_is_missing(folder, study):
        say(f"error: {missing}")
    return EXIT_FAILURE if missing else 0


def _say_how_to_go_on(begun: Sequence[Session]) -> None:
    if not begun:
        return
    session = begun[0]
    done, total = len(session.measurements), len(session.study.runs())
    kept = f"{done} of {count(total, 'run')} are measured and kept" if total else "what was trained is kept"
    say(f"interrupted: {kept}; to go on:\n  {session.study.command}")


def _default_name(config: Mapping[str, Any]) -> str:
    return f"{config['model']['name']}-{config['data']['name']}-{time.strftime('%Y%m%d-%H%M%S')}"


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def say(text: str) -> None:
    """A line of the command's own."""
    stream = sys.stderr if text.startswith(("error: ", "interrupted: ")) else sys.stdout
    stream.write(text + "\n")
    stream.flush()
