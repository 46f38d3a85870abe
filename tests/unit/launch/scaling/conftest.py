"""Fixtures of several files here."""

from __future__ import annotations

import pytest

from launch.scaling import accuracy_runs
from tests.unit.launch.scaling.accuracy_trainings import EPOCHS, Trainer


@pytest.fixture
def trainer(monkeypatch: pytest.MonkeyPatch) -> Trainer:
    monkeypatch.setattr(accuracy_runs, "busy_cores", lambda: 0.0)
    return Trainer(EPOCHS)
