"""Hosts on the command line and in files of every form."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from launch.errors import UsageError
from launch.hosts import Host, counted, hostfile_lines, is_local, parse_hosts, read_hostfile


def hostfile(folder: Path, text: str) -> Path:
    path = folder / "hosts"
    path.write_text(text)
    return path


def test_hosts_of_the_command_line() -> None:
    assert parse_hosts("h1:4,h2:4") == (Host("h1", 4), Host("h2", 4))
    assert parse_hosts("node-1.cluster,10.0.0.2:3") == (Host("node-1.cluster"), Host("10.0.0.2", 3))
    assert parse_hosts("[fe80::1]:2,fe80::2,[::3]") == (Host("fe80::1", 2), Host("fe80::2"), Host("::3"))


@pytest.mark.parametrize("text", ["node1:4,node2", "[fe80::1]:2,[::3]", "10.0.0.2:3"])
def test_a_host_is_written_as_it_is_read(text: str) -> None:
    assert ",".join(map(str, parse_hosts(text))) == text


@pytest.mark.parametrize(
    "text",
    [
        "node1 slots=4\nnode2 slots=2\n",
        "node1 slots=4 max_slots=8\nnode2 slots=2 max-slots=2",
        "node1:4\nnode2:2\n",
        "# a comment\n\n  node1:4  # another\n\t\nnode2:2",
        "node1\nnode1\nnode2\nnode1\nnode2\nnode1\n",
    ],
    ids=["Open MPI", "Open MPI with maxima", "MPICH", "comments", "PBS"],
)
def test_forms_of_hostfiles(text: str, tmp_path: Path) -> None:
    assert read_hostfile(hostfile(tmp_path, text)) == (Host("node1", 4), Host("node2", 2))


def test_hosts_without_slots_and_addresses(tmp_path: Path) -> None:
    text = "node1\nfe80::1 slots=2\n[fe80::2]:3\n::4\n10.1.2.3:5\n"
    expected = (Host("node1"), Host("fe80::1", 2), Host("fe80::2", 3), Host("::4"), Host("10.1.2.3", 5))
    assert read_hostfile(hostfile(tmp_path, text)) == expected


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("node2:0", "'0' slots"),
        ("node2 slots=0", "'0' slots"),
        ("node2 slots=-1", "'-1' slots"),
        ("node2 slots=two", "'two' slots"),
        ("node2:", "'' slots"),
        ("node2 slots=999999999", "'999999999' slots"),
        ("node1:2", "node1 is there already"),
        ("node1", "node1 is there already"),
        ("-oProxyCommand=x", "'-oProxyCommand=x'"),
        ("-h:2", "'-h'"),
        ("node2;reboot", "'node2;reboot'"),
        ("$(reboot):1", "'$(reboot)'"),
        ("`reboot`", "'`reboot`'"),
        ("node2|x", "'node2|x'"),
        ("root@node2", "'root@node2'"),
        ("node2 4", "'4' is not understood"),
        ("node2 slot=4", "'slot=4' is not understood"),
        ("node2:2 slots=4", "'slots=4' is not understood"),
        ("[fe80::g]:2", "'fe80::g' is not an IPv6 address"),
        ("1:2:3:4", "'1:2:3:4' is not"),
        ("kn\xf6ten", "'kn\xf6ten'"),
    ],
)
def test_a_wrong_line_is_quoted_with_its_number(line: str, named: str, tmp_path: Path) -> None:
    path = hostfile(tmp_path, f"node1 slots=4\n\n{line}\n")
    with pytest.raises(UsageError) as error:
        read_hostfile(path)
    assert f"{path}: line 3: {line!r}" in str(error.value)
    assert named in str(error.value)


@pytest.mark.parametrize(
    ("text", "named"), [("h1:2,h1:3", "part 2: 'h1:3'"), ("h1,h1", "h1 is there"), ("", "''"), ("h1,,h2", "part 2: ''")]
)
def test_a_wrong_list_of_hosts(text: str, named: str) -> None:
    with pytest.raises(UsageError, match=r"^-H") as error:
        parse_hosts(text)
    assert named in str(error.value)


def test_a_hostfile_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"gone: No such file"):
        read_hostfile(tmp_path / "gone")
    with pytest.raises(UsageError, match=r"Is a directory"):
        read_hostfile(tmp_path)
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match=r"not a text file"):
        read_hostfile(tmp_path / "binary")
    with pytest.raises(UsageError, match=r"names no host"):
        read_hostfile(hostfile(tmp_path, "# only this\n\n"))


def test_hosts_named_once_a_slot() -> None:
    assert counted(["b", "a", "b"], "PBS_NODEFILE") == (Host("b", 2), Host("a", 1))
    with pytest.raises(UsageError, match=r"PBS_NODEFILE: '-a'"):
        counted(["-a"], "PBS_NODEFILE")


def test_this_machine_needs_no_ssh() -> None:
    own = socket.gethostname()
    assert all(map(is_local, (Host("localhost"), Host("127.0.0.1"), Host("::1"), Host(own, 3))))
    assert not any(map(is_local, (Host("elsewhere"), Host("192.0.2.1"), Host("2001:db8::1"))))


@pytest.mark.parametrize("line", ["{host} slots={ranks}", "{host}:{ranks}"])
def test_a_written_hostfile_is_read_again(line: str, tmp_path: Path) -> None:
    text = hostfile_lines([(Host("a", 9), 2), (Host("b"), 1)], line)
    assert read_hostfile(hostfile(tmp_path, text)) == (Host("a", 2), Host("b", 1))


def test_a_line_for_each_rank() -> None:
    assert hostfile_lines([(Host("a", 9), 2), (Host("b"), 1)], "{host}", line_per_rank=True) == "a\na\nb\n"


def test_the_example_says_what_it_means() -> None:
    hosts = read_hostfile(Path(__file__).parents[3] / "hostfile.example")
    assert [(host.name, host.slots) for host in hosts] == [
        ("node01", 4),
        ("node02", 4),
        ("node03", 2),
        ("node04", None),
        ("10.0.0.5", 2),
        ("fe80::1:2:3", 2),
    ]
