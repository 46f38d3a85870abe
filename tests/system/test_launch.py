"""Real ranks under the mpirun of this Python's MPI library, with tiny programs in place of the trainer."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.processes import running, wait_for

TIMEOUT_S = 60
ROOT = Path(__file__).parents[2]

LAUNCHER = """
import json, sys
from launch.cli import main
sys.exit(main(json.loads(sys.argv[1]), program=json.loads(sys.argv[2])))
"""

# Only rank 0 reads: MPICH leaves the standard input of the others open, and they would wait for ever.
REPORT = """
import json, os, sys
from mpi4py import MPI
seen = {
    "rank": MPI.COMM_WORLD.rank,
    "size": MPI.COMM_WORLD.size,
    "arguments": sys.argv[1:],
    "input": "" if MPI.COMM_WORLD.rank else sys.stdin.read(),
    "environment": dict(os.environ),
    "cores": len(os.sched_getaffinity(0)),
}
for one in MPI.COMM_WORLD.gather(seen) or []:
    print(json.dumps(one), flush=True)
"""

EXIT = """
import sys
from mpi4py import MPI
sys.exit(int(sys.argv[1]))
"""

# Ranks write their process id to the folder of the first argument: the test sees whether they are gone.
WAIT = """
import os, pathlib, signal, sys, time
if "stubborn" in sys.argv:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
else:
    signal.signal(signal.SIGUSR1, lambda *_: os._exit(3))
from mpi4py import MPI
MPI.COMM_WORLD.Barrier()
folder = pathlib.Path(sys.argv[1])
(folder / f"{os.getpid()}.tmp").touch()
(folder / f"{os.getpid()}.tmp").rename(folder / f"{os.getpid()}.pid")
time.sleep(300)
"""

# A rank with a heartbeat, that does what the second argument says when a file of that name and its rank appears.
BEATING = """
import json, os, pathlib, socket, sys, threading, time, signal
rank = int(os.environ.get("PMI_RANK") or os.environ["OMPI_COMM_WORLD_RANK"])
address, port, silence_s = os.environ["DDP_HEARTBEAT"].split()
said = {"job": os.environ["DDP_JOB"], "rank": rank, "host": os.uname().nodename, "pid": os.getpid(), "step": 17}
said.update({"doing": "sum of gradients", "sequence": 4, "bytes": 8, "for_s": 0.2, "leaving": False})

def beat():
    mouth = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    while True:
        mouth.sendto(json.dumps(said).encode(), (address, int(port)))
        time.sleep(0.5)

threading.Thread(target=beat, daemon=True).start()
from mpi4py import MPI
time.sleep(1)  # heard
MPI.COMM_WORLD.Barrier()
print("ready", flush=True)
folder, action = pathlib.Path(sys.argv[1]), sys.argv[2]
(folder / f"{os.getpid()}.pid").touch()
signal.signal(signal.SIGUSR1, lambda *_: os._exit(75))
if rank == 1 and action in ("KILL", "STOP"):
    os.kill(os.getpid(), signal.Signals["SIG" + action])
if rank == 1 and action == "raise":
    sys.stderr.write(f"error: rank 1 on {os.uname().nodename} failed at step 17:\\nTraceback ...\\nValueError: x\\n")
    time.sleep(0.3)  # until mpirun has passed it on
    MPI.COMM_WORLD.Abort(4)
time.sleep(300)
"""

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts `python -m launch` with another program for the ranks."""
    started: list[subprocess.Popen[str]] = []

    def _start(program: str, *arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", LAUNCHER, json.dumps(arguments)]
        process = subprocess.Popen(
            [*command, json.dumps([sys.executable, "-c", program])],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield _start
    for process in started:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)  # twice: at once, and with all ranks
            process.send_signal(signal.SIGTERM)
        process.communicate(timeout=TIMEOUT_S)


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=TIMEOUT_S)
    return process.returncode, out, err


def pids_of(folder: Path) -> list[int]:
    return [int(path.stem) for path in folder.glob("*.pid")]


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_all_ranks_start_with_the_same_surroundings(ranks: int, start: Start) -> None:
    arguments = ("--threads", "1", "--env", "X=a b;c,d", "--", "--seed", "[1, 2]")
    code, out, err = finish(start(REPORT, "run", "-n", str(ranks), *arguments))
    assert code == 0, err
    seen = [json.loads(line) for line in out.splitlines()]
    assert [one["rank"] for one in seen] == list(range(ranks))
    for one in seen:
        assert one["size"] == ranks
        assert one["arguments"][:5] == ["--seed", "[1, 2]", "--threads", "1", "--output.name"]
        assert one["input"] == ""
        assert one["cores"] == len(os.sched_getaffinity(0))
        assert one["environment"]["X"] == "a b;c,d"
        assert one["environment"]["NUMBA_NUM_THREADS"] == "1"
        assert one["environment"]["OPENBLAS_NUM_THREADS"] == "1"
        crowded = ranks > len(os.sched_getaffinity(0))
        assert ("OMP_WAIT_POLICY" in one["environment"]) == (crowded or "OMP_WAIT_POLICY" in os.environ)


def test_bound_ranks_have_a_core_each(start: Start) -> None:
    code, out, err = finish(start(REPORT, "run", "-n", "1", "--threads", "1", "--bind", "core"))
    assert code == 0, err
    cores = json.loads(out)["cores"]
    # One physical core may be several hardware threads.
    assert cores == 1 or cores < len(os.sched_getaffinity(0))


@pytest.mark.parametrize("code", [0, 2, 3, 75])
def test_the_exit_code_is_passed_on(code: int, start: Start) -> None:
    assert finish(start(EXIT, "run", "-n", "2", "--threads", "1", "--", str(code)))[0] == code


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_ends_all_ranks(number: int, code: int, start: Start, tmp_path: Path) -> None:
    process = start(WAIT, "run", "-n", "2", "--threads", "1", "--", str(tmp_path))
    assert wait_for(lambda: len(pids_of(tmp_path)) == 2)
    process.send_signal(number)
    assert finish(process)[0] == code
    assert wait_for(lambda: not any(map(running, pids_of(tmp_path))))


def test_ranks_that_ignore_the_signal_are_killed(start: Start, tmp_path: Path) -> None:
    arguments = ("--threads", "1", "--", str(tmp_path), "stubborn", "--checkpoint.grace_s", "0.5")
    process = start(WAIT, "run", "-n", "2", *arguments)
    assert wait_for(lambda: len(pids_of(tmp_path)) == 2)
    process.send_signal(signal.SIGTERM)
    assert finish(process)[0] == 143
    assert wait_for(lambda: not any(map(running, pids_of(tmp_path))))


def test_sigusr1_reaches_the_ranks_and_their_exit_code_comes_back(start: Start, tmp_path: Path) -> None:
    process = start(WAIT, "run", "-n", "2", "--threads", "1", "--", str(tmp_path))
    assert wait_for(lambda: len(pids_of(tmp_path)) == 2)
    process.send_signal(signal.SIGUSR1)
    assert finish(process)[0] == 3
    assert wait_for(lambda: not any(map(running, pids_of(tmp_path))))


def test_no_rank_outlives_a_killed_mpirun(start: Start, tmp_path: Path) -> None:
    process = start(WAIT, "run", "-n", "2", "--threads", "1", "--", str(tmp_path), "stubborn")
    assert wait_for(lambda: len(pids_of(tmp_path)) == 2)
    (mpirun,) = map(int, Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split())
    os.kill(mpirun, signal.SIGKILL)
    code, _, err = finish(process)
    assert code == 4
    assert "error: mpirun was killed by SIGKILL" in err.splitlines()[-1]
    assert wait_for(lambda: not any(map(running, pids_of(tmp_path))))


def test_the_dry_runs_command_can_be_pasted(start: Start) -> None:
    arguments = ("run", "-n", "2", "--threads", "1", "--env", "X=it's", "--dry-run", "--", "--seed", "$0")
    code, out, err = finish(start(REPORT, *arguments))
    assert code == 0, err
    assert out.startswith("2 ranks x 1 thread on ")
    line = out.split("\n", 2)[2]  # behind the plan
    # `timeout` ends mpirun as well, where subprocess's own time-out would end the shell only.
    limited = ["timeout", "-k", "5", str(TIMEOUT_S), "sh", "-c", line]
    done = subprocess.run(limited, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True)
    seen = [json.loads(text) for text in done.stdout.splitlines()]
    assert len(seen) == 2
    for one in seen:
        assert one["size"] == 2
        assert one["arguments"] == ["--seed", "$0", "--threads", "1"]
        assert one["environment"]["X"] == "it's"


def test_the_configuration_of_a_run_repeats_it(tmp_path: Path) -> None:
    """The name that the launcher chose is not in it, since a run that repeats another needs a directory of its own."""
    launch = [sys.executable, "-m", "launch", "run", "-n", "2", "--threads", "1", "--", "--output.dir", str(tmp_path)]
    settings = ["--train.steps", "2", "--seed", "7"]
    digests = []
    for _ in range(2):
        done = subprocess.run([*launch, *settings], cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_S)
        assert done.returncode == 0, done.stderr
        run = max(tmp_path.glob("mlp-digits-*"))
        digests.append(json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["parameters_sha256"])
        settings = ["--config", str(run / "config.toml")]
        time.sleep(1.1)  # the name ends with the second
    assert len(list(tmp_path.glob("mlp-digits-*"))) == 2
    assert digests[0] == digests[1]


def test_a_reader_that_goes_away_is_no_failure() -> None:
    sizes = ["--nodes", "1", "--ranks-per-node", "1", "--threads", "1", "--time", "01:00:00"]
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "launch", "script", "slurm", *sizes],
        cwd=ROOT,
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        timeout=TIMEOUT_S,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, "")


def test_python_m_launch_from_the_command_line() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "launch", "run", "-n", "0"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


RUN = ("run", "-n", "2", "--threads", "1", "--heartbeat-timeout", "3")


def logs(folder: Path, name: str = "run") -> dict[str, str]:
    return {path.name: path.read_text() for path in (folder / "runs" / name / "logs").glob("*.log")}


def test_output_is_shown_by_rank_and_kept_by_rank(start: Start, tmp_path: Path) -> None:
    (tmp_path / "runs" / "run").mkdir(parents=True)
    program = "import sys; from mpi4py import MPI; r = MPI.COMM_WORLD.rank; MPI.COMM_WORLD.Barrier()\n"
    program += "sys.stdout.write(f'out {r}\\n'); sys.stderr.write(f'warning: {r}\\n')"
    code, out, err = finish(start(program, *RUN, "--", "--output.name", "run"))
    assert code == 0
    assert sorted(out.splitlines()) == ["[1] out 1", "out 0"]
    assert {"[1] warning: 1", "warning: 0"} <= set(err.splitlines())
    kept = logs(tmp_path)
    assert sorted(kept["rank-00000.log"].splitlines()) == ["out 0", "warning: 0"]
    assert sorted(kept["rank-00001.log"].splitlines()) == ["out 1", "warning: 1"]
    assert "-n 2" in kept["launcher.log"].splitlines()[0]


def test_the_failing_rank_is_shown_once_and_last(start: Start, tmp_path: Path) -> None:
    code, _, err = finish(start(BEATING, *RUN, "--", str(tmp_path), "raise", "--output.name", "run"))
    assert code == 4
    host = os.uname().nodename
    assert err.splitlines()[-3:] == [f"error: rank 1 on {host} failed at step 17:", "Traceback ...", "ValueError: x"]
    assert err.count("ValueError") == 1
    assert "ValueError: x" in logs(tmp_path)["rank-00001.log"]
    assert wait_for(lambda: not any(map(running, pids_of(tmp_path))))


def test_a_killed_rank_is_named(start: Start, tmp_path: Path) -> None:
    code, _, err = finish(start(BEATING, *RUN, "--", str(tmp_path), "KILL", "--output.name", "run"))
    assert code == 4
    assert err.splitlines()[-1].startswith(f"error: rank 1 on {os.uname().nodename} was killed")
    assert "at step 17" in err.splitlines()[-1]
    assert wait_for(lambda: not any(map(running, pids_of(tmp_path))))


def test_a_rank_that_falls_silent_ends_the_job(start: Start, tmp_path: Path) -> None:
    """Stopped, it would be waited for by mpirun and the others for ever."""
    code, _, err = finish(start(BEATING, *RUN, "--", str(tmp_path), "STOP", "--output.name", "run"))
    assert code == 4
    expected = (
        f"error: no heartbeat from rank 1 on {os.uname().nodename} for 3 s (last at step 17, in 'sum of gradients')"
    )
    assert err.splitlines()[-1] == expected
    assert wait_for(lambda: not any(map(running, pids_of(tmp_path))))


def test_when_the_time_is_over_the_job_ends_with_a_checkpoint(start: Start, tmp_path: Path) -> None:
    process = start(BEATING, *RUN, "--timeout", "4", "--", str(tmp_path), "wait", "--output.name", "run")
    code, _, err = finish(process)
    assert code == 75
    assert err.splitlines()[-1] == "ended after --timeout 4 s: a checkpoint was saved"


def test_a_refused_start_leaves_no_directory(start: Start, tmp_path: Path) -> None:
    program = "import sys; from mpi4py import MPI\nif not MPI.COMM_WORLD.rank: sys.stderr.write('error: x is y\\n')\n"
    program += "MPI.COMM_WORLD.Barrier(); sys.exit(2)"
    code, out, err = finish(start(program, *RUN, "--", "--output.name", "run"))
    assert (code, out) == (2, "")
    assert err.splitlines()[-1] == "error: x is y"
    assert err.count("error: ") == 1
    assert not (tmp_path / "runs").exists()
