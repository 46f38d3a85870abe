"""What communication costs at each number of ranks: runs `ddp.comm.collectives`, and keeps what it tells.

`collectives.jsonl` has a line for each number of ranks and threads.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import struct
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from launch.discovery import find_launcher, query_library
from launch.doctor.capture import capture
from launch.doctor.network import slow_links as slow_among
from launch.environment import parse_assignment
from launch.errors import UsageError
from launch.job import Request, build_job, find_available, requested_hosts
from launch.scaling.records import append, read_lines

FILE = "collectives.jsonl"
PROGRAM = (sys.executable, "-m", "ddp.comm.collectives")
MARK = "ddp.comm.collectives: "
LIMIT_S = 60.0
"""For the measurements of one number of ranks, about."""
START_S = 120
"""What starting and compiling may take besides, the first time on a slow host."""
SLOW = 1.3
"""How many times less bandwidth than the others a link must have to be named: with half of it in one direction, a
message there and back takes 1.5 times as long."""
TENSORS = "tensors.json"
"""Name and bytes of each parameter tensor, in a run directory."""
NO_PARAMETERS = ("running_mean", "running_var", "num_batches_tracked")


class MeasurementError(RuntimeError):
    """The job that measures failed: one line with its last words."""


@dataclass(frozen=True)
class Sample:
    """One action, again and again."""

    what: str
    """message, addition, barrier, allreduce, iallreduce, or a rung with nothing to compute: flat, bucketed, ..."""
    num_bytes: int
    seconds: tuple[float, ...]
    """Of the slowest rank, by round."""

    @property
    def median(self) -> float:
        """Seconds."""
        return median(self.seconds)


@dataclass(frozen=True)
class Collectives:
    """What was measured at one number of ranks."""

    ranks: int
    nodes: int
    threads: int
    hosts: tuple[str, ...]
    """By rank."""
    mpi_library: str
    """Such as `MPICH 5.0.2`."""
    piece_bytes: int
    """`flat` and `naive` sum longer buffers piece by piece."""
    report_bytes: int
    """Summed before the gradient."""
    tensors: tuple[int, ...]
    """Bytes of each."""
    buckets: tuple[int, ...]
    """Bytes of each, in the order in which they are sent."""
    links: tuple[Mapping[str, Any], ...]
    """Of each pair of hosts: `hosts`, `ranks`, `latency_s`, `bytes_per_s`."""
    samples: tuple[Sample, ...]

    @property
    def ranks_per_node(self) -> int:
        """On the fullest node."""
        return -(-self.ranks // self.nodes)

    @property
    def num_bytes(self) -> int:
        """Of the gradient."""
        return sum(self.tensors)

    def sample(self, what: str, num_bytes: int | None = None) -> Sample | None:
        """What was measured of an action, at a size if there are several."""
        found = (one for one in self.samples if one.what == what and num_bytes in (None, one.num_bytes))
        return next(found, None)


def measure(
    ranks: int,
    threads: int,
    placement: Sequence[str],
    tensors: Sequence[int],
    folder: Path,
    *,
    bucket_mb: float = 1.0,
    report_bytes: int = 256,
    repeats: int = 7,
    limit_s: float = LIMIT_S,
) -> None:
    """Measure at a number of ranks, and append a line to `folder`/collectives.jsonl; nothing if it is there already.

    One rank communicates with nobody: nothing is measured of it.

    Args:
        ranks: how many.
        threads: of each.
        placement: options of `launch run` that say where: -H, --hostfile, --mpi, --bind, --env.
        tensors: bytes of each parameter tensor, see `tensor_bytes`.
        folder: the study's.
        bucket_mb: as `comm.bucket_mb`.
        report_bytes: of what is summed before the gradient.
        repeats: rounds.
        limit_s: for all of it, about.

    Raises:
        MeasurementError: if the job fails or hangs.
        UsageError, HostError: as `launch run` does.
    """
    path = folder / FILE
    wanted = {"ranks": ranks, "threads": threads, "tensors": list(tensors)}
    if ranks < 2 or any(wanted.items() <= line.items() for line in read_lines(path)):
        return
    task = {
        "tensors": list(tensors),
        "bucket_mb": bucket_mb,
        "report_bytes": report_bytes,
        "repeats": repeats,
        "limit_s": limit_s,
        "alarm_s": int(2 * limit_s + START_S),
    }
    started_at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    command, found = _run(_request(ranks, threads, placement), placement, task)
    line = {"started_at": started_at, "threads": threads, **found, "command": command}
    append(path, [json.dumps(line, separators=(",", ":")) + "\n"])


def _run(request: Request, placement: Sequence[str], task: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Run the job; the command for a shell, and what it told."""
    launcher = find_launcher(query_library(), _options(placement).mpi)
    with tempfile.TemporaryDirectory(prefix="ddp-scale-") as folder:
        hostfile = Path(folder) / "hosts"
        job = build_job(request, launcher, [*PROGRAM, json.dumps(task)], find_available(request), hostfile)
        if job.hostfile is not None:
            job.hostfile.write_text(job.hostfile_text, encoding="utf-8")
        captured = capture(job.command, {**os.environ, **job.environment}, task["alarm_s"])
    for text in captured.output.splitlines():
        if MARK in text and captured.code == 0:
            return job.shell(), json.loads(text.partition(MARK)[2])
    how = "did not end in time" if captured.code is None else f"failed with exit code {captured.code}"
    raise MeasurementError(f"the collectives of {request.ranks} ranks {how}: {captured.last_words}")


def _request(ranks: int, threads: int, placement: Sequence[str]) -> Request:
    options = _options(placement)
    hosts, is_allocated = requested_hosts(options.hosts, options.hostfile, os.environ)
    variables = dict(map(parse_assignment, options.env))
    return Request(ranks, threads, options.bind, tuple(hosts), is_allocated, variables)


def _options(placement: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(allow_abbrev=False, exit_on_error=False, add_help=False)
    parser.add_argument("-H", dest="hosts")
    parser.add_argument("--hostfile")
    parser.add_argument("--mpi", default="auto")
    parser.add_argument("--bind", default="auto")
    parser.add_argument("--env", action="append", default=[])
    options, unknown = parser.parse_known_args(placement)
    if unknown:
        raise UsageError(f"{unknown[0]}: says nothing of where ranks run; give -H, --hostfile, --mpi, --bind, --env")
    return options


def tensor_bytes(run: Path) -> list[int]:
    """Bytes of each parameter tensor of a finished run, in the order of the flat buffer.

    They are kept in the run's TENSORS, so that they are known when its model.safetensors is deleted.

    Raises:
        OSError, ValueError: if there is no model.safetensors, or it is something else.
    """
    tensors = _tensors(run)
    (run / TENSORS).write_text(json.dumps(tensors) + "\n", encoding="utf-8")
    return [size for _, size in tensors]


def num_statistics(run: Path) -> int:
    """Numbers of batch normalisation that each logical shard of a finished run reports, by its model.safetensors.

    Raises:
        OSError, ValueError: if that is not there, or something else.
    """
    statistics = [one["shape"] for name, one in _header(run).items() if name.endswith(NO_PARAMETERS)]
    return sum(map(math.prod, statistics))


def report_size(shards: int, tensors: int, statistics: int) -> int:
    """Bytes that all logical shards report in a step: see `ddp.comm.reports`."""
    return 4 * shards * (4 + tensors + statistics)


def layer_bytes(run: Path) -> dict[int, int]:
    """The same of each layer that has parameters, by its number."""
    layers: dict[int, int] = {}
    for name, size in _tensors(run):
        layer = int(name.partition(".")[0])
        layers[layer] = layers.get(layer, 0) + size
    return layers


def _tensors(run: Path) -> list[tuple[str, int]]:
    if (run / TENSORS).exists():
        return [(str(name), int(size)) for name, size in json.loads((run / TENSORS).read_text(encoding="utf-8"))]
    header = _header(run)
    names = [name for name in header if name != "__metadata__" and not name.endswith(NO_PARAMETERS)]
    # The file has them by name; the flat buffer layer by layer, weights first.
    places = [(name, header[name]["data_offsets"]) for name in sorted(names, key=_place)]
    return [(name, end - start) for name, (start, end) in places]


def _header(run: Path) -> dict[str, Any]:
    with (run / "model.safetensors").open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header: dict[str, Any] = json.loads(file.read(length))
    return header


def _place(tensor: str) -> tuple[int, bool, str]:
    layer, _, name = tensor.partition(".")
    return int(layer), name != "weight", name


def read_collectives(folder: Path) -> list[Collectives]:
    """What a study has measured so far, by ranks and threads.

    Raises:
        UsageError: if a line cannot be read, naming it.
    """
    path = folder / FILE
    found: dict[tuple[int, int], Collectives] = {}
    try:
        lines = read_lines(path)
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is no text ({error.reason}): delete it") from None
    except ValueError as error:
        raise UsageError(str(error)) from None
    for number, line in enumerate(lines, 1):
        try:
            one = _collectives(line)
        except (KeyError, TypeError, ValueError) as error:
            raise UsageError(f"{path}, line {number} is no measurement ({error}): remove that line") from None
        found[one.ranks, one.threads] = one
    return [found[key] for key in sorted(found)]


def _collectives(line: Mapping[str, Any]) -> Collectives:
    samples = tuple(Sample(one["what"], one["bytes"], tuple(map(float, one["seconds"]))) for one in line["samples"])
    values: dict[str, Any] = {name: line[name] for name in ("ranks", "nodes", "threads", "mpi_library")}
    values |= {name: line[name] for name in ("piece_bytes", "report_bytes")}
    values |= {name: tuple(line[name]) for name in ("hosts", "tensors", "buckets", "links")}
    return Collectives(samples=samples, **values)


def slow_links(collectives: Sequence[Collectives]) -> list[str]:
    """Hosts or pairs of hosts whose network is slow, in words, by the measurement that has most of them."""
    links = max((one.links for one in collectives), key=len, default=())
    return slow_among(links, SLOW)
