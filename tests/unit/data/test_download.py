"""Fetching data sets, from a server on this machine: all of a file or nothing, by one rank of a node."""

from __future__ import annotations

import dataclasses
import functools
import gzip
import hashlib
import http.server
import logging
import os
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ddp.config import DataConfig
from ddp.data import DataError, cifar, load_dataset, mnist
from ddp.data.download import Remote, fetch, fetch_archive
from ddp.data.idx import encode_idx
from ddp.data.pieces import Array

pooch = pytest.importorskip("pooch")
FORM = cifar.FORMATS["cifar10"]


class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.server.asked.append(self.path)  # type: ignore[attr-defined]
        super().do_GET()


class Published:
    """A folder, the address that it is served under, and what was asked for."""

    def __init__(self, folder: Path, address: str, asked: list[str]) -> None:
        self.folder, self.address, self.asked = folder, address, asked

    def remote(self, name: str) -> Remote:
        return Remote(name, (self.address,), hashlib.sha256((self.folder / name).read_bytes()).hexdigest())


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Published]:
    folder = tmp_path / "published"
    folder.mkdir()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
    server.asked = []  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    pooch.get_logger().setLevel(logging.WARNING)
    yield Published(folder, f"http://127.0.0.1:{server.server_port}/", server.asked)  # type: ignore[attr-defined]
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def digits(published: Published, monkeypatch: pytest.MonkeyPatch) -> Published:
    """Serves an MNIST of 5 and 3 images of 2 x 2 pixels."""

    for name, (prefix, samples) in zip(
        mnist.FILES, [("train", 5), ("train", 5), ("t10k", 3), ("t10k", 3)], strict=True
    ):
        assert name.startswith(prefix)
        array = np.full((samples, 2, 2) if "images" in name else samples, 7, np.uint8)
        (published.folder / f"{name}.gz").write_bytes(gzip.compress(encode_idx(array)))
    use_source(published, monkeypatch, *(published.remote(f"{name}.gz") for name in mnist.FILES))
    return published


def use_source(published: Published, monkeypatch: pytest.MonkeyPatch, *remotes: Remote) -> None:
    source = dataclasses.replace(mnist.SOURCES["mnist"], remotes=remotes)
    monkeypatch.setitem(mnist.SOURCES, "mnist", source)


@pytest.fixture
def images(published: Published, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Published:
    """Serves a CIFAR-10 of one image a file."""
    made = tmp_path / "made" / FORM.unpacked
    made.mkdir(parents=True)
    for number, name in enumerate((*FORM.train, *FORM.test)):
        (made / name).write_bytes(bytes([number]) + bytes(FORM.record - 1))
    with tarfile.open(published.folder / FORM.archive.name, "w:gz") as archive:
        archive.add(made, FORM.unpacked)
    form = dataclasses.replace(FORM, archive=published.remote(FORM.archive.name))
    monkeypatch.setitem(cifar.FORMATS, "cifar10", form)
    return published


def load(name: str, root: Path | str = "", **fields: Any) -> Any:
    return load_dataset(DataConfig(name=name, root=str(root), download=True), 0, **fields)  # type: ignore[arg-type]


def message(name: str, root: Path | str = "") -> str:
    with pytest.raises(DataError) as caught:
        load(name, root)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("root", ["", "elsewhere/data"])
def test_files_that_are_missing_are_fetched_once(root: str, digits: Published, tmp_path: Path) -> None:
    assert load("mnist", root).train.inputs.shape == (5, 1, 2, 2)
    assert sorted(digits.asked) == sorted(f"/{name}.gz" for name in mnist.FILES)
    folder = tmp_path / (root or "home/.cache/ddp/mnist")
    assert {path.name for path in folder.iterdir()} == {f"{name}.gz" for name in mnist.FILES}
    assert len(load("mnist", root).test) == 3
    assert len(digits.asked) == 4
    (folder / f"{mnist.FILES[3]}.gz").unlink()
    assert len(load("mnist", root).test) == 3
    assert digits.asked[4:] == [f"/{mnist.FILES[3]}.gz"]


def test_an_archive_is_unpacked_and_removed(images: Published, tmp_path: Path) -> None:
    np.testing.assert_array_equal(load("cifar10").train.targets, np.arange(5))
    folder = tmp_path / "home/.cache/ddp/cifar10"
    assert [path.name for path in folder.iterdir()] == [FORM.unpacked]
    assert load("cifar10").test.targets == [5]
    assert images.asked == [f"/{FORM.archive.name}"]


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_another_content_is_refused_and_leaves_nothing(
    name: str, digits: Published, images: Published, tmp_path: Path
) -> None:
    for path in digits.folder.iterdir():
        path.write_bytes(path.read_bytes()[:-1])
    text = message(name, tmp_path / "data")
    assert f"data.download = true: cannot fetch {digits.address}" in text
    assert "does not match the known hash" in text
    assert list((tmp_path / "data").iterdir()) == []


def test_the_next_mirror_is_tried(digits: Published, monkeypatch: pytest.MonkeyPatch) -> None:
    remotes = [
        dataclasses.replace(digits.remote(f"{name}.gz"), mirrors=(f"{digits.address}gone/", digits.address))
        for name in mnist.FILES
    ]
    use_source(digits, monkeypatch, *remotes)
    assert len(load("mnist").train) == 5
    assert digits.asked[0].startswith("/gone/")


def test_without_a_network_the_fix_is_told(published: Published, monkeypatch: pytest.MonkeyPatch) -> None:
    nobody = "http://127.0.0.1:1/"
    use_source(published, monkeypatch, *(Remote(f"{name}.gz", (nobody,), "0" * 64) for name in mnist.FILES))
    text = message("mnist")
    assert text.startswith(f"data.download = true: cannot fetch {nobody}{mnist.FILES[0]}.gz (no connection); without a")
    assert text.endswith("fetch it on another machine and name its folder with --data.root")


def test_without_pooch_the_extra_is_named(digits: Published, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pooch", None)
    assert message("mnist") == "data.download = true: needs pooch; install ddp-sgd[download]"


def test_a_folder_that_cannot_be_made(digits: Published, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert f"{tmp_path}/file/data: cannot be made (Not a directory)" in message("mnist", tmp_path / "file" / "data")


def test_what_killed_runs_have_left_is_removed_and_what_comes_just_now_is_not(
    digits: Published, tmp_path: Path
) -> None:
    folder = tmp_path / "data"
    for name, age_s in ("old", 3600), ("new", 5):
        part = folder / f".fetching-{name}" / "part"
        part.parent.mkdir(parents=True)
        part.write_text("")
        for path in part, part.parent:
            os.utime(path, (time.time() - age_s,) * 2)
    os.utime(part.parent, (time.time() - 3600,) * 2)  # made long ago, still written to
    load("mnist", folder)
    assert [path.name for path in folder.glob(".*")] == [".fetching-new"]


def test_of_an_archive_only_the_files_of_its_folder_are_written(images: Published, tmp_path: Path) -> None:
    """As on Python 3.11.3 and before, where tarfile has no filters."""
    path = images.folder / FORM.archive.name
    with tarfile.open(path) as archive:
        content = [(member, archive.extractfile(member)) for member in archive]
        other = tmp_path / "rewritten"
        with tarfile.open(other, "w:gz") as rewritten:
            for name in "../outside", f"{FORM.unpacked}/../outside", f"{FORM.unpacked}/below/file", "beside":
                rewritten.addfile(tarfile.TarInfo(name))
            link = tarfile.TarInfo(f"{FORM.unpacked}/link")
            link.type, link.linkname = tarfile.SYMTYPE, "/etc"
            rewritten.addfile(link)
            for member, file in content:
                rewritten.addfile(member, file)
    other.replace(path)
    folder = tmp_path / "data"
    folder.mkdir()
    fetch_archive(images.remote(path.name), folder, FORM.unpacked)
    assert {str(each.relative_to(folder)) for each in folder.rglob("*")} == {
        FORM.unpacked, *(f"{FORM.unpacked}/{name}" for name in (*FORM.train, *FORM.test))
    }  # fmt: skip
    assert not (tmp_path / "outside").exists()


def test_python_without_filters_unpacks(images: Published, monkeypatch: pytest.MonkeyPatch) -> None:
    def extractall(*_: object, **__: object) -> None:
        raise TypeError("extractall() got an unexpected keyword argument 'filter'")

    monkeypatch.setattr("tarfile.TarFile.extractall", extractall)
    assert len(load("cifar10").train) == 5


def test_others_may_read_what_is_unpacked(images: Published, tmp_path: Path) -> None:
    before = os.umask(0o022)
    load("cifar10", tmp_path / "data")
    os.umask(before)
    assert (tmp_path / "data" / FORM.unpacked).stat().st_mode & 0o777 == 0o755


def test_a_folder_that_lacks_a_file_is_named(images: Published, tmp_path: Path) -> None:
    load("cifar10", tmp_path / "data")
    folder = tmp_path / "data" / FORM.unpacked
    (folder / FORM.test[0]).unlink()
    assert message("cifar10", tmp_path / "data").startswith(f"{folder}: lacks files of the data set; remove it")
    assert len(images.asked) == 1
    for path in folder.iterdir():
        path.rename(tmp_path / "data" / path.name)
    folder.rmdir()
    assert len(load("cifar10", tmp_path / "data").test) == 1
    assert len(images.asked) == 2


def test_an_archive_without_the_files_is_told(published: Published, monkeypatch: pytest.MonkeyPatch) -> None:
    with tarfile.open(published.folder / FORM.archive.name, "w:gz") as archive:
        archive.addfile(tarfile.TarInfo(f"{FORM.unpacked}/{FORM.train[0]}"))
    form = dataclasses.replace(FORM, archive=published.remote(FORM.archive.name))
    monkeypatch.setitem(cifar.FORMATS, "cifar10", form)
    assert "data: has not all files of cifar10 after fetching" in message("cifar10", "data")


def test_an_archive_that_is_none_is_told_and_removed(published: Published, monkeypatch: pytest.MonkeyPatch) -> None:
    (published.folder / FORM.archive.name).write_bytes(gzip.compress(bytes(range(200)) * 30)[:-9])
    form = dataclasses.replace(FORM, archive=published.remote(FORM.archive.name))
    monkeypatch.setitem(cifar.FORMATS, "cifar10", form)
    assert "cannot be unpacked" in message("cifar10", "data")
    assert list(Path("data").iterdir()) == []


@pytest.mark.parametrize("is_gone", [True, False])
def test_another_node_may_be_faster(is_gone: bool, images: Published, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has put the folder in place, and may have removed the archive, when this one begins to unpack."""

    def lose(remote: Remote, folder: Path) -> Path:
        fetch(remote, folder)
        monkeypatch.setattr("ddp.data.download.fetch", fetch)
        fetch_archive(remote, folder, FORM.unpacked)
        return folder / remote.name if is_gone else fetch(remote, folder)

    monkeypatch.setattr("ddp.data.download.fetch", lose)
    assert len(load("cifar10", "data").train) == 5
    assert [path.name for path in Path("data").iterdir()] == [FORM.unpacked]


def test_the_other_ranks_of_a_node_only_hear_of_it(images: Published) -> None:
    """Their `share` gives them what the first rank's calls have returned, without calling anything."""
    arrays: list[Array] = []

    def first(make: Callable[[], Array]) -> Array:
        arrays.append(make())
        return arrays[-1]

    load("cifar10", share=first)
    told = iter(arrays)
    assert len(load("cifar10", share=lambda _: next(told)).train) == 5
    assert next(told, None) is None
    assert len(images.asked) == 1


def test_nothing_is_fetched_unless_it_is_asked_for(digits: Published) -> None:
    with pytest.raises(DataError, match=r"--data\.download true"):
        load_dataset(DataConfig(name="mnist"), 0)
    assert digits.asked == []


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_every_published_file_has_an_address_and_a_checksum(name: str) -> None:
    remotes = [*mnist.SOURCES[name].remotes, *(form.archive for form in cifar.FORMATS.values())]
    assert len({remote.sha256 for remote in remotes}) == len(remotes) == 6
    for remote in remotes:
        assert len(bytes.fromhex(remote.sha256)) == 32
        assert all(mirror.startswith("http") and mirror.endswith("/") for mirror in remote.mirrors)
