"""How long a command may wait for other ranks before it trains."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from ddp.config import CommConfig, Config, DataConfig
from ddp.session import Session

LIMIT_S = CommConfig.timeout_s


@pytest.mark.parametrize(
    ("download", "timeout_s", "limit_s"),
    [(False, 1.0, LIMIT_S), (False, 2 * LIMIT_S, 2 * LIMIT_S), (False, 0.0, 0), (True, 1.0, 0), (True, 0.0, 0)],
)
def test_what_one_rank_fetches_the_others_wait_for(
    download: bool, timeout_s: float, limit_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, "1")
    world: Any = SimpleNamespace(
        local_size=1, node_cores=lambda: 1, any_rank=lambda _: False, run_together=lambda action: action()
    )
    limits: list[float] = []
    signals: Any = SimpleNamespace(requested=None)
    session = Session(world, signals, SimpleNamespace(limit=limits.append), [], 0.0)  # type: ignore[arg-type]
    data = DataConfig(name="mnist", download=download)
    session.prepare(Config(data=data, comm=CommConfig(timeout_s=timeout_s)), threads=1)
    assert limits == [limit_s]
