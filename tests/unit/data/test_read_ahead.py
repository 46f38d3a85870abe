"""What a rank has read ahead: its own samples of the step, and none where data are in memory."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ddp.data.pieces import Pieces, map_piece
from ddp.data.read_ahead import ReadAhead
from ddp.data.sampler import Sampler

SIZE = 6


@pytest.fixture
def inputs(tmp_path: Path) -> Pieces:
    """Seven and five samples of six bytes, behind eight others."""
    files = []
    for name, samples in (("a", 7), ("b", 5)):
        (tmp_path / name).write_bytes(bytes(8 + samples * SIZE))
        files.append((tmp_path / name, 8))
    arrays = [map_piece(path, 8, np.dtype(np.uint8), (n, 1, 2, 3)) for (path, _), n in zip(files, (7, 5), strict=True)]
    return Pieces(tuple(arrays), tuple(files))


def wait(ahead: ReadAhead) -> None:
    """Until the system has been asked for what the last call was about."""
    if ahead._reading:
        ahead._reading.result(60)


def test_all_ranks_together_ask_for_the_step(inputs: Pieces, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    second = inputs.files[1][0].stat().st_ino
    monkeypatch.setattr("os.posix_fadvise", lambda file, *what: asked.append((os.fstat(file).st_ino, *what)))
    sampler = Sampler(12, 8, 4, seed=5)
    for step in range(4):  # two epochs of 8 and 4 samples
        asked.clear()
        for rank in range(3):
            ahead = ReadAhead(inputs, sampler, rank, 3)
            ahead.begin(step)
            wait(ahead)
        found = [(offset - 8) // SIZE + 7 * (file == second) for file, offset, size, _ in asked if size == SIZE]
        assert sorted(found) == sorted(sampler.global_batch(*divmod(step, 2)))


def test_a_disk_that_cannot_follow_is_not_waited_for(inputs: Pieces, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, go_on = [], threading.Event()

    def read(_: Pieces, samples: Any) -> None:
        calls.append(samples)
        go_on.wait(60)

    monkeypatch.setattr(Pieces, "read_ahead", read)
    ahead = ReadAhead(inputs, Sampler(12, 4, 4, seed=5), 0, 1)
    for step in range(3):
        ahead.begin(step)  # would wait for ever otherwise
    go_on.set()
    wait(ahead)
    assert len(calls) == 1
    ahead.begin(2)
    wait(ahead)
    assert len(calls) == 2


def test_data_in_memory_start_no_thread() -> None:
    before = threading.active_count()
    ahead = ReadAhead(np.zeros((12, 1, 2, 3), np.uint8), Sampler(12, 4, 4, seed=5), 0, 1)
    ahead.begin(0)
    wait(ahead)
    assert threading.active_count() == before


def test_a_file_that_is_gone_does_not_end_the_run(inputs: Pieces) -> None:
    ahead = ReadAhead(inputs, Sampler(12, 4, 4, seed=5), 0, 1)
    for path, _ in inputs.files:
        path.unlink()
    ahead.begin(0)
    with pytest.raises(FileNotFoundError):
        wait(ahead)
    ahead.begin(1)
