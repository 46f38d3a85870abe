"""TensorBoard's files hold what the event log holds: read here by the format's description alone."""

from __future__ import annotations

import json
import math
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ddp.observe.metrics import MetricsLog
from ddp.observe.tensorboard import TensorBoard


def fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Number and value of each field of a protocol buffer: integers, or bytes of a fixed or stated length."""
    place = 0

    def varint() -> int:
        nonlocal place
        value = shift = 0
        while True:
            byte = message[place]
            place += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while place < len(message):
        number, kind = divmod(varint(), 8)
        if kind == 0:
            yield number, varint()
            continue
        length = {1: 8, 2: None, 5: 4}[kind]
        length = varint() if length is None else length
        yield number, message[place : place + length]
        place += length


def events(folder: Path) -> list[dict[int, Any]]:
    """The fields of the events in all files: 2 is the step, 5 the summary, 7 a note on the session."""
    found = []
    for path in sorted(folder.glob("events.out.tfevents.*")):
        content, place = path.read_bytes(), 0
        while place < len(content):
            (length,) = struct.unpack_from("<Q", content, place)
            found.append(dict(fields(content[place + 12 : place + 12 + length])))  # after the length's checksum
            place += 12 + length + 4
    return found


def scalars(folder: Path) -> list[tuple[str, int, float]]:
    """Tag, step and value of every number."""
    found = []
    for event in events(folder):
        for _, value in fields(event.get(5, b"")):
            one: dict[int, Any] = dict(fields(value))  # type: ignore[arg-type]
            found.append((one[1].decode(), event.get(2, 0), struct.unpack("<f", one[2])[0]))
    return found


def test_numbers_of_steps_and_evaluations(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl", time.perf_counter(), TensorBoard(tmp_path, None))
    log.write("start", world_size=2)
    log.write("step", step=10, epoch=1, loss=0.5, lr=0.25, samples_per_s=1024.0, step_ms=2.0, slowest_rank=1)
    log.write("step", step=20, epoch=1, loss=math.nan, lr=0.125)
    log.write("eval", split="test", epoch=1, step=20, loss=0.75, accuracy=0.875, samples=359)
    log.close()
    assert scalars(tmp_path) == [
        ("train/loss", 10, 0.5),
        ("train/lr", 10, 0.25),
        ("speed/samples_per_s", 10, 1024.0),
        ("speed/step_ms", 10, 2.0),
        ("train/lr", 20, 0.125),
        ("test/loss", 20, 0.75),
        ("test/accuracy", 20, 0.875),
    ]
    logged = [json.loads(line)["event"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert logged == ["start", "step", "step", "eval"]


def test_a_run_that_goes_on_hides_what_it_replaces(tmp_path: Path) -> None:
    """By a note that a session starts (status 1) at the step that comes next."""
    TensorBoard(tmp_path, 20).close()
    assert [(event[2], dict(fields(event[7]))[1]) for event in events(tmp_path) if 7 in event] == [(21, 1)]


def test_on_a_full_disk_training_goes_on_without(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A limit of the size of files stands for the disk; another process has it, whose end is seen, too."""
    code = """
import resource, signal, sys, time
from pathlib import Path
from ddp.observe import tensorboard
tensorboard.FLUSH_S = 0
board = tensorboard.TensorBoard(Path(sys.argv[1]), None)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))
for step in range(100):
    board.write("step", {"step": step, "loss": 0.5})
board.close()
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, timeout=60)
    (warning,) = capfd.readouterr().err.splitlines()
    assert warning.startswith("warning: output.tensorboard: cannot write (")
    (path,) = tmp_path.iterdir()
    assert 0 < path.stat().st_size <= 500


def test_without_tensorboardx_the_fix_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ValueError, match=r"output.tensorboard = true: .*pip install 'ddp-sgd\[tensorboard\]'"):
        TensorBoard(tmp_path, None)
