"""The log of digests: one line a step, another digest for another bit, nothing without a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ddp.observe.parameter_log import ParameterLog, digest


def test_a_line_for_each_step(tmp_path: Path) -> None:
    log = ParameterLog(tmp_path / "log")
    weights = np.arange(6, dtype=np.float32).reshape(2, 3)
    log.write(0, lambda: {"0.weight": weights})
    before = (tmp_path / "log").read_text()  # before it is closed
    weights[1, 2] = np.nextafter(weights[1, 2], np.float32(9))
    log.write(1, lambda: {"0.weight": weights, "training loss": 0.25})
    log.close()
    first, second = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert json.loads(before) == first
    assert (first["step"], second["step"]) == (0, 1)
    assert list(second["digests"]) == ["0.weight", "training loss"]
    assert first["digests"]["0.weight"] != second["digests"]["0.weight"]


@pytest.mark.parametrize("bit", [0, 22, 23, 31])
def test_every_bit_counts(bit: int) -> None:
    x = np.linspace(-1, 1, 1000, dtype=np.float32)
    y = x.copy()
    y.view(np.uint32)[777] ^= np.uint32(1 << bit)
    assert digest(x) == digest(x.copy())
    assert digest(x) != digest(y)


def test_numbers_of_any_kind_have_digests() -> None:
    values: list[Any] = [0.0, -0.0, 1.5, np.float64("nan"), np.float32(1.5), 3, np.zeros((), np.int64)]
    digests = [digest(value) for value in values]
    assert len(set(digests)) == len(values) - 1  # 0.0 and the integer zero have the same bits


def test_the_order_of_memory_is_that_of_the_elements() -> None:
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert digest(np.asfortranarray(x)) == digest(x)


def test_without_a_file_nothing_is_computed() -> None:
    def fail() -> dict[str, float]:
        raise AssertionError

    log = ParameterLog(None)
    log.write(3, fail)
    log.close()


def test_a_file_that_cannot_be_written_is_the_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no/log: cannot write the log of parameters \(No such file or directory\)"):
        ParameterLog(tmp_path / "no" / "log")
