"""Stated networks from a file: what is right is read, what is wrong is named in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from launch.errors import UsageError
from launch.scaling.networks import NETWORKS, Network, read_networks

GOOD = '[[network]]\nname = "mine"\ngbit_per_s = 25\nlatency_us = 3.5\n'


def test_a_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "networks.toml"
    path.write_text(GOOD + '[[network]]\nname = "b"\ngbit_per_s = 0.1\nlatency_us = 0\nranks_per_node = 4\n')
    assert read_networks(path) == (Network("mine", 25.0, 3.5), Network("b", 0.1, 0.0, 4))


def test_units() -> None:
    network = Network("1 Gbit/s", 1.0, 50.0)
    assert network.seconds_per_byte == pytest.approx(8e-9)  # 125 MB/s
    assert network.latency_s == pytest.approx(50e-6)
    assert [one.gbit_per_s for one in NETWORKS] == [1, 10, 100]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "write a table"),
        ("network = 3\n", "write a table"),
        ("network = [3]\n", "network 1: write"),
        ("network = []\n", "write a table"),
        ("x = \n", "no TOML"),
        ("[[net]]\n", "write a table"),
        (GOOD + "speed = 1\n", "unknown 'speed'"),
        (GOOD.replace('"mine"', "3"), "name = 3"),
        (GOOD.replace('"mine"', '" "'), "name = ' '"),
        (GOOD.replace("25", "0"), "gbit_per_s = 0; give a number above 0"),
        (GOOD.replace("25", "-1"), "gbit_per_s = -1"),
        (GOOD.replace("25", "nan"), "gbit_per_s = nan"),
        (GOOD.replace("25", "inf"), "gbit_per_s = inf"),
        (GOOD.replace("25", "true"), "gbit_per_s = True"),
        (GOOD.replace("25", '"fast"'), "gbit_per_s = 'fast'"),
        (GOOD.replace("gbit_per_s = 25\n", ""), "gbit_per_s = None"),
        (GOOD.replace("3.5", "-0.1"), "latency_us = -0.1; give a number, 0 or more"),
        (GOOD + "ranks_per_node = 0\n", "ranks_per_node = 0"),
        (GOOD + "ranks_per_node = 1.5\n", "ranks_per_node = 1.5"),
        (GOOD + GOOD, "'mine' is the name of two"),
        (GOOD.replace("mine", "10 Gbit/s"), "'10 Gbit/s' is the name of two"),
    ],
)
def test_mistakes_give_one_line(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "networks.toml"
    path.write_text(text)
    with pytest.raises(UsageError) as caught:
        read_networks(path)
    message = str(caught.value)
    assert words in message
    assert str(path) in message
    assert "\n" not in message


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        read_networks(tmp_path / "none.toml")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="no TOML"):
        read_networks(tmp_path / "bytes")
