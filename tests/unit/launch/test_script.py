"""`python -m launch script`: the text of batch scripts, and what bash makes of them, with a launcher of the test."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from launch import cli
from launch.batch import SCHEDULERS, Request, batch_script
from launch.script import MARGIN_S, seconds

NAMES = ("slurm", "pbs", "lsf")
RESOURCES = "--nodes 2 --ranks-per-node 4 --threads 8 --time 01:30:00"
REQUEST = Request(
    nodes=2,
    ranks_per_node=4,
    threads=8,
    time_s=5400,
    signal_s=60,
    launcher=("launch", "run"),
    folder="/work",
    environment={},
)
# A launcher that tells its arguments and signals, and ends with CODE; at once, or when a signal has come.
LAUNCHER = """
import json, os, signal, sys, time
def note(**event):
    with open(os.environ["EVENTS"], "a") as file:
        file.write(json.dumps(event) + "\\n")
if os.environ["HEEDS"] == "yes":
    for number in (signal.SIGUSR1, signal.SIGTERM):
        signal.signal(number, lambda number, frame: (note(signal=signal.Signals(number).name), sys.exit(75)))
note(arguments=sys.argv[1:], folder=os.getcwd(), path=os.environ["PATH"])
if os.environ["CODE"]:
    sys.exit(int(os.environ["CODE"]))
time.sleep(60)
"""
COMMAND = """#!/bin/sh
printf '{"command": "%s", "arguments": "%s"}\\n' "${0##*/}" "$*" >> "$EVENTS"
"""


class Batch:
    """Runs a script as a batch system does."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.events_file = folder, folder / "events"
        (folder / "launcher.py").write_text(LAUNCHER)
        for name in ("scontrol", "qsub"):
            (folder / name).write_text(COMMAND)
            (folder / name).chmod(0o755)
        self.launcher = (sys.executable, str(folder / "launcher.py"))
        self.request = replace(REQUEST, launcher=self.launcher, folder=str(folder))
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, name: str, code: str = "", heeds: str = "yes", **variables: str) -> None:
        path = self.folder / "job"
        path.write_text(batch_script(SCHEDULERS[name], self.request))
        own = {"EVENTS": str(self.events_file), "CODE": code, "HEEDS": heeds, "SLURM_JOB_ID": "17", **variables}
        environment = {**os.environ, "PATH": f"{self.folder}:{os.environ['PATH']}", **own}
        self.process = subprocess.Popen(["bash", str(path)], env=environment, start_new_session=True)

    def events(self, key: str) -> list[dict[str, object]]:
        lines = self.events_file.read_text().splitlines() if self.events_file.exists() else []
        return [event for event in map(json.loads, lines) if key in event]

    def wait_for(self, key: str) -> None:
        while not self.events(key):
            assert self.process is not None
            assert self.process.poll() is None
            time.sleep(0.02)

    def send(self, number: signal.Signals) -> None:
        """To the script alone."""
        assert self.process is not None
        self.process.send_signal(number)

    def code(self) -> int:
        assert self.process is not None
        return self.process.wait(timeout=60)


@pytest.fixture
def batch(tmp_path: Path) -> Iterator[Batch]:
    batch = Batch(tmp_path)
    yield batch
    if batch.process is not None:
        if batch.process.poll() is None:
            os.killpg(batch.process.pid, signal.SIGKILL)
        batch.process.wait()


def printed(line: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert cli.main(["script", *shlex.split(line)]) == 0
    return capsys.readouterr().out


def directives(text: str) -> list[str]:
    prefixes = tuple(scheduler.prefix for scheduler in SCHEDULERS.values())
    return [line.partition(" ")[2] for line in text.splitlines() if line.startswith(prefixes)]


def test_slurm_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(f"slurm {RESOURCES} --partition long --account a1 --memory 64g --email a@b.c", capsys)
    assert directives(text) == [
        "--job-name=ddp",
        "--nodes=2",
        "--ntasks-per-node=4",
        "--cpus-per-task=8",
        "--time=01:30:00",
        "--signal=B:USR1@60",
        "--requeue",
        "--open-mode=append",
        "--partition=long",
        "--account=a1",
        "--mem=64G",
        "--mail-user=a@b.c",
        "--mail-type=END,FAIL",
    ]


def test_pbs_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(f"pbs {RESOURCES} --queue long --account a1 --memory 64G --job-name j", capsys)
    assert directives(text) == [
        "-N j",
        "-S /bin/bash",
        "-l select=2:ncpus=32:mpiprocs=4:ompthreads=8:mem=64gb",
        "-l place=scatter",
        "-l walltime=01:30:00",
        "-r y",
        "-j oe",
        "-q long",
        "-A a1",
    ]


def test_lsf_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(f"lsf {RESOURCES} --queue long --memory 64G --directive=-x '--directive=-sp 7'", capsys)
    assert directives(text) == [
        "-J ddp",
        "-n 8",
        '-R "span[ptile=4] affinity[core(8)] rusage[mem=64GB]"',
        "-W 1:30",
        "-wa USR1 -wt 2",
        '-Q "75"',
        "-r",
        "-o ddp.%J.log",
        "-q long",
        "-x",
        "-sp 7",
    ]


@pytest.mark.parametrize("name", NAMES)
def test_the_script_runs_the_launcher_by_this_python(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(f"{name} {RESOURCES} --mpi openmpi --max-restarts 2 -- --output.name mine --train.epochs 3", capsys)
    launcher = f"{sys.executable} -m launch run -n 8 --threads 8 --mpi openmpi --max-restarts 2"
    assert f"{launcher} -- --output.name mine --train.epochs 3 --resume auto &\n" in text
    assert f"export PATH={Path(sys.executable).parent}:" in text
    assert f"cd {Path.cwd()} || exit\n" in text
    assert subprocess.run(["bash", "-n"], input=text, text=True, check=False).returncode == 0


def test_a_run_without_a_name_gets_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert "-- --output.name mlp-digits-2" in printed(f"slurm {RESOURCES}", capsys)
    assert printed(f"slurm {RESOURCES} -- --resume auto", capsys).count("--resume auto") == 1


def test_the_signal_leaves_time_for_the_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "config.toml"
    config.write_text("[checkpoint]\ngrace_s = 240.5\n")
    signal_s = 241 + MARGIN_S
    assert f"--signal=B:USR1@{signal_s}" in directives(printed(f"slurm {RESOURCES} -- --config {config}", capsys))
    assert "-wa USR1 -wt 6" in directives(printed(f"lsf {RESOURCES} -- --config {config}", capsys))
    text = printed(f"pbs {RESOURCES} -- --config {config}", capsys)
    assert f" --signal=USR1 $(({5400 - signal_s} - SECONDS)) " in text


@pytest.mark.parametrize(
    ("text", "expected"), [("00:00:01", 1), ("01:02:03", 3723), ("2-03:00:00", 183600), ("100:00:00", 360000)]
)
def test_times(text: str, expected: int) -> None:
    assert seconds(text) == expected


def test_long_times(capsys: pytest.CaptureFixture[str]) -> None:
    resources = RESOURCES.replace("01:30:00", "2-03:00:30")
    assert "--time=2-03:00:30" in directives(printed(f"slurm {resources}", capsys))
    assert "-l walltime=51:00:30" in directives(printed(f"pbs {resources}", capsys))
    assert "-W 51:01" in directives(printed(f"lsf {resources}", capsys))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("--time 90", "'90'"),
        ("--time 01:60:00", "'01:60:00'"),
        ("--time 00:00:00", "'00:00:00'"),
        ("--time 00:02:59", "179 s"),
        ("--time ''", "''"),
        ("--nodes 0", "'0'"),
        ("--nodes ²", "'²'"),
        ("--ranks-per-node -1", "'-1'"),
        ("--threads 1.5", "'1.5'"),
        ("--job-name 'a\n#SBATCH --uid=0'", "uid"),
        ("--job-name -x", "--job-name"),
        ("--job-name ''", "''"),
        ("--queue 'a b'", "'a b'"),
        ("--account '$(id)'", "'$(id)'"),
        ("--memory 16", "'16'"),
        ("--memory 0G", "'0G'"),
        ("--email 'a@b;c'", "'a@b;c'"),
        ("--module 'x && y'", "'x && y'"),
        ("--directive 'exclusive'", "'exclusive'"),
        ("'--directive=--x\nrm -rf /'", "rm"),
        ("--mpi lam", "'lam'"),
        ("--max-restarts x", "'x'"),
        ("-- --threads 4", "--threads"),
        ("-- --config nowhere.toml", "nowhere.toml"),
        ("-- --resume runs/a/checkpoints/step-00000005.safetensors", "step-00000005"),
    ],
)
@pytest.mark.parametrize("name", NAMES)
def test_mistakes_are_told_in_one_line(name: str, change: str, named: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["script", name, *RESOURCES.split(), *shlex.split(change)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert named in err


@pytest.mark.parametrize("missing", ["--nodes", "--ranks-per-node", "--threads", "--time"])
def test_what_must_be_given(missing: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = RESOURCES.split()
    at = words.index(missing)
    assert cli.main(["script", "slurm", *words[:at], *words[at + 2 :]]) == 2
    assert missing in capsys.readouterr().err


def test_bash_changes_no_argument(batch: Batch) -> None:
    arguments = ["--model.hidden", "[64,64]", "a b", "it's", '"$HOME" `id` $(id)', "x;y&z|w", "*", "", "two\nlines"]
    folder = batch.folder / 'it\'s $HOME; a "place"'
    folder.mkdir()
    variables = {"PATH": "/opt/an environment/bin", "ODD": "it's $HOME"}
    batch.request = replace(
        batch.request, launcher=(*batch.launcher, *arguments), folder=str(folder), environment=variables
    )
    batch.start("slurm", code="0")
    assert batch.code() == 0
    (event,) = batch.events("folder")
    assert (event["arguments"], event["folder"]) == (arguments, str(folder))
    assert str(event["path"]).startswith("/opt/an environment/bin:")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("code", ["0", "2", "4", "130"])
def test_the_exit_code_is_that_of_the_job(batch: Batch, name: str, code: str) -> None:
    batch.start(name, code)
    assert batch.code() == int(code)
    assert batch.events("command") == []


def requeued(batch: Batch, name: str) -> bool:
    commands = [(event["command"], event["arguments"]) for event in batch.events("command")]
    expected = {"slurm": [("scontrol", "requeue 17")], "pbs": [("qsub", str(batch.folder / "job"))], "lsf": []}
    assert commands in ([], expected[name])
    return name == "lsf" or commands != []


@pytest.mark.parametrize("name", NAMES)
def test_out_of_time_the_job_queues_again(batch: Batch, name: str) -> None:
    batch.start(name)
    batch.wait_for("folder")
    batch.send(signal.SIGUSR1)
    assert batch.code() == 75
    assert batch.events("signal") == [{"signal": "SIGUSR1"}]
    assert requeued(batch, name)


@pytest.mark.parametrize("name", NAMES)
def test_a_signal_that_the_launcher_is_not_ready_for_loses_nothing(batch: Batch, name: str) -> None:
    batch.start(name, heeds="no")
    batch.wait_for("folder")
    batch.send(signal.SIGUSR1)
    assert batch.code() == 75
    assert requeued(batch, name)


@pytest.mark.parametrize(("name", "code"), [("slurm", 75), ("pbs", 75), ("lsf", 143)])
def test_a_cancelled_job_does_not_come_back(batch: Batch, name: str, code: int) -> None:
    batch.start(name)
    batch.wait_for("folder")
    batch.send(signal.SIGTERM)
    assert batch.code() == code
    assert batch.events("signal") == [{"signal": "SIGTERM"}]
    assert batch.events("command") == []


def test_after_a_signal_while_modules_load_the_launcher_is_not_started(batch: Batch) -> None:
    batch.request = replace(batch.request, modules=("openmpi/5.0",))
    module = '() { printf \'{"module": "%s"}\\n\' "$*" >> "$EVENTS"; sleep 1; }'
    batch.start("slurm", **{"BASH_FUNC_module%%": module})
    batch.wait_for("module")
    batch.send(signal.SIGUSR1)
    assert batch.code() == 75
    assert batch.events("module") == [{"module": "load openmpi/5.0"}]
    assert batch.events("folder") == []
    assert requeued(batch, "slurm")


def test_a_module_that_does_not_load_ends_the_job(batch: Batch) -> None:
    batch.request = replace(batch.request, modules=("none",))
    batch.start("slurm", **{"BASH_FUNC_module%%": "() { return 3; }"})
    assert batch.code() == 3
    assert batch.events("folder") == []


def test_pbs_has_a_timer_of_its_own(batch: Batch) -> None:
    batch.request = replace(batch.request, time_s=62, signal_s=60)
    batch.start("pbs")
    assert batch.code() == 75
    assert batch.events("signal") == [{"signal": "SIGUSR1"}]
    assert requeued(batch, "pbs")


def test_a_job_that_cannot_queue_again_says_so(batch: Batch, capfd: pytest.CaptureFixture[str]) -> None:
    (batch.folder / "scontrol").write_text("#!/bin/sh\nexit 1\n")
    batch.start("slurm", code="75")
    assert batch.code() == 75
    assert capfd.readouterr().err.startswith("error: cannot queue the job again")
