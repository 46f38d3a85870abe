"""Data that one rank of a node fetches, and that all ranks read where they lie."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import http.server
import logging
import tarfile
import tempfile
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ddp.comm.world import World
from ddp.config import DataConfig
from ddp.data import DataError, cifar, load_dataset
from ddp.data.download import Remote

pytestmark = pytest.mark.mpi
NAME = "cifar-10-binary.tar.gz"


class Handler(http.server.SimpleHTTPRequestHandler):
    asked: list[str] = []  # noqa: RUF012

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.asked.append(self.path)
        super().do_GET()


def publish(folder: Path) -> str:
    """An archive of CIFAR-10 with one image a file; its checksum."""
    form, made = cifar.FORMATS["cifar10"], folder / "made"
    made.mkdir()
    for number, name in enumerate((*form.train, *form.test)):
        (made / name).write_bytes(bytes([number]) + bytes(form.record - 1))
    with tarfile.open(folder / NAME, "w:gz") as archive:
        archive.add(made, form.unpacked)
    return hashlib.sha256((folder / NAME).read_bytes()).hexdigest()


@pytest.mark.parametrize("is_right", [True, False])
def test_one_rank_fetches_and_all_read(is_right: bool, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    pooch = pytest.importorskip("pooch")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    pooch.get_logger().setLevel(logging.WARNING)
    folder = Path(world.run_on_root(lambda: tempfile.mkdtemp()))
    server, facts = None, ("", "")
    if world.is_root:
        Handler.asked.clear()
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        facts = (f"http://127.0.0.1:{server.server_port}/", publish(folder) if is_right else "0" * 64)
    address, digest = world.all_gather(facts, "address")[0]
    remote = Remote(NAME, (address,), digest)
    form = dataclasses.replace(cifar.FORMATS["cifar10"], archive=remote)
    monkeypatch.setitem(cifar.FORMATS, "cifar10", form)
    config = DataConfig(name="cifar10", root=str(folder / "data"), download=True)
    if is_right:
        dataset = load_dataset(config, 0, world.share_on_node)
        np.testing.assert_array_equal(dataset.train.targets, np.arange(5))
    else:
        with pytest.raises(DataError, match=r"cannot fetch http://127"):
            load_dataset(config, 0, world.share_on_node)
    world.meet("end of the server")
    if server is not None:
        server.shutdown()
        server.server_close()
        assert Handler.asked == [f"/{NAME}"]
