"""Output taken apart by rank: the marks of each flavour, cut anywhere; what is shown, held back and kept."""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launch.flavours import MPICH, OPENMPI_4, OPENMPI_5, SRUN, Flavour
from launch.output import Block, Logs, Output, Rank, Screen, Splitter, first_block
from launch.supervise import Stream

# What each mpirun was seen to write for two ranks that print parts of lines by turns; `=` is mpirun's own line.
MIXED = {
    "MPICH": b"<rank 0>a\n<rank 1>b\n<rank 0>par<rank 1>\rx<rank 0>t\n<rank 0>\n= own\n<rank 1>last",
    "Open MPI 4": b"[1,0]<stdout>:a\n[1,1]<stdout>:b\n[1,0]<stdout>:par[1,1]<stdout>:\rx[1,0]<stdout>:t\n"
    b"[1,0]<stdout>:\n= own\n[1,1]<stdout>:last",
    "Open MPI 5": b"[1,0]<stdout>: a\n[1,1]<stdout>: b\n[1,0]<stdout>: part\n[1,0]<stdout>: \n= own\n"
    b"[1,1]<stdout>: \rx[1,1]<stdout>: last",
}
CONTENT: dict[Rank, bytes] = {0: b"a\npart\n\n", 1: b"b\n\rxlast", None: b"= own\n"}


def by_rank(flavour: Flavour, chunks: list[bytes]) -> dict[Rank, bytes]:
    splitter = Splitter(flavour.label_pattern, flavour.whole_lines)
    found: dict[Rank, bytes] = defaultdict(bytes)
    for chunk in [*chunks, b""]:
        for rank, piece in splitter.feed(chunk):
            found[rank] += piece
    return dict(found)


@pytest.mark.parametrize("flavour", [MPICH, OPENMPI_4, OPENMPI_5], ids=lambda flavour: flavour.name)
@given(cuts=st.lists(st.integers(0, 150), max_size=8))
def test_every_rank_gets_its_own_wherever_the_data_are_cut(flavour: Flavour, cuts: list[int]) -> None:
    data = MIXED[flavour.name]
    edges = [0, *sorted(cut for cut in cuts if 0 < cut < len(data)), len(data)]
    chunks = [data[i:j] for i, j in pairwise(edges) if i < j]
    assert by_rank(flavour, chunks) == CONTENT


def test_sruns_labels_are_padded_and_begin_a_line() -> None:
    assert by_rank(SRUN, [b" 0: a 1: b\n10: c\n", b" 0: d"]) == {0: b"a 1: b\nd", 10: b"c\n"}


def test_pieces_of_lines_come_at_once_where_the_flavour_gives_them() -> None:
    splitter = Splitter(MPICH.label_pattern, MPICH.whole_lines)
    assert splitter.feed(b"<rank 0>10 %") == [(0, b"10 %")]
    assert splitter.feed(b"\r20 %") == [(0, b"\r20 %")]
    assert splitter.feed(b"\n<ra") == [(0, b"\n")]
    assert splitter.feed(b"nk 1>x") == [(1, b"x")]


class Shown(Screen):
    """A screen that keeps what it would write."""

    def __init__(self) -> None:
        super().__init__()
        self.text: dict[Stream, bytes] = {"stdout": b"", "stderr": b""}

    def write(self, stream: Stream, data: bytes) -> None:
        super().write(stream, b"")
        self._mid_line[stream] = bool(data) and not data.endswith((b"\n", b"\r")) if data else self._mid_line[stream]
        self.text[stream] += data


def output(run: Path) -> tuple[Output, Shown]:
    screen = Shown()
    return Output(MPICH.label_pattern, MPICH.whole_lines, screen, Logs(run)), screen


def test_rank_0_is_shown_as_it_is_and_others_behind_their_number(tmp_path: Path) -> None:
    out, screen = output(tmp_path)
    out.feed("stdout", b"<rank 0>\x1b[2K10 %<rank 3>hel")
    assert screen.text["stdout"] == b"\x1b[2K10 %"
    out.feed("stdout", b"lo\n<rank 0>\r20 %\n")
    assert screen.text["stdout"] == b"\x1b[2K10 %\n[3] hello\n\r20 %\n"
    out.feed("stderr", b"<rank 1>warning: w\n<rank 0>warning: v\n")
    assert screen.text["stderr"] == b"[1] warning: w\nwarning: v\n"


def test_a_live_display_is_not_kept_for_ever(tmp_path: Path) -> None:
    out, screen = output(tmp_path)
    for step in range(1000):
        out.feed("stdout", b"<rank 0>\r\x1b[2K%d %%" % step)
        out.feed("stdout", b"<rank 1>\r%d" % step)
    assert screen.text["stdout"].count(b"\r") == 1000
    assert max(map(len, out._lines.values())) < 20
    out.feed("stdout", b"<rank 0> done\r\n")
    out.feed("stdout", b"")
    assert screen.text["stdout"].endswith(b"999 % done\r\n[1] \r999\n")
    out.logs.write()
    assert (tmp_path / "logs" / "rank-00000.log").read_bytes() == b"999 % done\n"


def test_the_last_line_needs_no_newline(tmp_path: Path) -> None:
    out, screen = output(tmp_path)
    out.feed("stdout", b"<rank 0>a<rank 1>b")
    out.feed("stdout", b"")
    assert screen.text["stdout"] == b"a\n[1] b\n"
    out.logs.write()
    assert (tmp_path / "logs" / "rank-00001.log").read_bytes() == b"b\n"


@pytest.mark.parametrize("rank", [0, 2])
def test_what_a_rank_says_from_its_error_on_is_held_back(rank: int, tmp_path: Path) -> None:
    out, screen = output(tmp_path)
    mark = f"<rank {rank}>".encode()
    for piece in (b"before\n", b"err", b"or: rank failed\n", b"Traceback (most recent call last):\n", b"  line\n"):
        out.feed("stderr", mark + piece)
    out.feed("stderr", b"")
    assert screen.text["stderr"].endswith(b"before\n")
    assert screen.text["stdout"] == b""
    assert out.blocks[rank].lines == ["error: rank failed", "Traceback (most recent call last):", "  line"]
    out.logs.write()
    assert b"error: rank failed\n" in (tmp_path / "logs" / f"rank-{rank:05d}.log").read_bytes()


def test_an_error_in_the_midst_of_a_line_or_on_stdout_is_none(tmp_path: Path) -> None:
    out, screen = output(tmp_path)
    out.feed("stderr", b"<rank 0>no error: here\n")
    out.feed("stdout", b"<rank 0>error: a word\n")
    assert out.blocks == {}
    assert screen.text == {"stdout": b"error: a word\n", "stderr": b"no error: here\n"}


def test_mpiruns_own_words_wait(tmp_path: Path) -> None:
    out, screen = output(tmp_path)
    heard: list[tuple[Rank, str]] = []
    out.on_words = lambda rank, line: heard.append((rank, line))
    out.feed("stderr", b"mpirun noticed something\n")
    out.show_own(older_than_s=60)
    assert screen.text["stderr"] == b""
    out.show_own()
    assert screen.text["stderr"] == b"mpirun noticed something\n"
    assert heard == [(None, "mpirun noticed something")]
    out.logs.write()
    assert (tmp_path / "logs" / "launcher.log").read_bytes() == b"mpirun noticed something\n"


def test_logs_wait_for_the_run_directory_and_are_appended_to(tmp_path: Path) -> None:
    run = tmp_path / "run"
    logs = Logs(run)
    logs.add(1, b"10 %\r20 %\r\x1b[2K30 %\n")
    logs.write()
    assert not run.exists()
    run.mkdir()
    logs.write()
    logs.add(1, b"more\n")
    logs.write()
    assert (run / "logs" / "rank-00001.log").read_bytes() == b"30 %\nmore\n"


def test_a_run_that_has_left_nothing_else_gets_a_directory_only_if_wanted(tmp_path: Path) -> None:
    logs = Logs(tmp_path / "run")
    logs.add(None, b"x\n")
    logs.write(make_directory=True)
    assert (tmp_path / "run" / "logs" / "launcher.log").read_bytes() == b"x\n"
    nothing = Logs(None)
    nothing.add(None, b"x\n")
    nothing.write(make_directory=True)


def test_a_thousand_ranks_need_no_thousand_descriptors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 100), hard))
    try:
        logs = Logs(tmp_path)
        for rank in range(1000):
            logs.add(rank, b"x\n")
        logs.write()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len(list((tmp_path / "logs").iterdir())) == 1000


def test_the_block_that_names_an_error_is_shown_before_a_bare_traceback() -> None:
    bare, error = Block(0, ["Traceback (most recent call last):"]), Block(1, ["error: x", "Traceback ..."])
    assert first_block([bare, error]) is error
    assert first_block([bare]) is bare
    assert first_block([]) is None


def test_what_the_library_says_of_the_abort_is_left_out() -> None:
    lines = ["error: rank 1 failed", "ValueError: x"]
    assert Block(1, [*lines, "Abort(4) on node 1 (rank 1 in comm 0): application called MPI_Abort"]).text == "\n".join(
        lines
    )
    assert Block(1, [*lines, "", "-" * 74, "MPI_ABORT was invoked on rank 1"]).text == "\n".join(lines)


def test_the_screen_writes_in_order(capfd: pytest.CaptureFixture[str]) -> None:
    screen = Screen()
    screen.write("stdout", b"a")
    screen.line("stdout", b"b\n")
    screen.line("stderr", b"e")
    screen.close()
    assert capfd.readouterr() == ("a\nb\n", "e\n")
