"""What has been learned, as the tables in the headers of configs/*.toml and in docs/recipes.md."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

from launch.scaling.tables import markdown_table

Result = dict[str, Any]

EXPECTED = "# Expected"
"""Begins the part of a header that is rendered; it ends with the header, the file's first comment."""
SHORT_SHA = 12
HEADINGS = ["recipe", "batch", "optimizer", "lr", "schedule", "epochs", "steps", "after 1 epoch", "best", "at the end"]


def quality(evaluation: dict[str, Any]) -> str:
    """What a run is judged by, for a person."""
    return f"{evaluation['accuracy']:.2%}" if "accuracy" in evaluation else f"{evaluation['rmse']:.5f}"


def header_lines(result: Result) -> list[str]:
    """The rendered part of a configuration's header: a line an evaluation, and what the figures depend on."""
    evaluations = result["evaluations"]
    name = "accuracy" if "accuracy" in evaluations[0] else "rmse"
    where = f" on {result['stand_in']}" if result.get("stand_in") else ""
    rows = [f"#   {each['epoch']:5}  {quality(each):>13}  {each['loss']:9.5f}" for each in evaluations]
    return [
        f"{EXPECTED}{where}, as measured by `python -m benchmarks.accuracy {result['config']}`:",
        "#",
        f"#   epoch  {f'test {name}':>13}  test loss",
        *rows,
        "#",
        "# The same, to the last bit, on any number of ranks and threads: the SHA-256 of the parameters begins with",
        f"# {result['parameters_sha256'][:SHORT_SHA]}. Measured {made_with(result)}; others round otherwise.",
    ]


def made_with(result: Result) -> str:
    """What the bits depend on, besides the configuration: the width of the sums, and who made the machine code."""
    found = result["made_with"]
    packages = ", ".join(f"{title} {found[name]}" for name, title in (("numba", "Numba"), ("numpy", "NumPy")))
    return f"with vectors of {found['lanes']} floats, {packages}"


def write_header(path: Path, result: Result) -> None:
    """Replace the rendered part of a configuration's header, or add it."""
    lines = path.read_text().splitlines()
    header = list(takewhile(lambda line: line.startswith("#"), lines))
    told = list(takewhile(lambda line: not line.startswith(EXPECTED), header))
    while told and told[-1] == "#":
        told.pop()
    path.write_text("\n".join([*told, *(["#"] if told else []), *header_lines(result), *lines[len(header) :]]) + "\n")


def recipes_table(results: Sequence[Result]) -> str:
    """A row for all runs that differ in nothing but their seed, and what they were made with."""
    groups: dict[str, list[Result]] = {}
    for result in results:
        settings = {name: value for name, value in result["settings"].items() if name != "seed"}
        groups.setdefault(json.dumps([settings, result.get("stand_in")]), []).append(result)
    rows = [_row(sorted(group, key=lambda each: each["settings"]["seed"])) for group in groups.values()]
    made = sorted({made_with(result) for result in results})
    cpus = sorted({result["made_with"]["cpu"] for result in results})
    note = f"Test accuracy, for polynomials rmse; where several seeds were tried, of all. Measured {', or '.join(made)}"
    return f"{markdown_table(HEADINGS, rows, left=[0, 2, 4])}\n\n{note}, on {', '.join(cpus)}."


def _row(group: Sequence[Result]) -> list[str]:
    first, settings = group[0], group[0]["settings"]
    optimizer, schedule = settings["optimizer"], settings["schedule"]
    warmup = schedule["warmup_epochs"]
    return [
        _name(first),
        str(settings["batch"]["size"]),
        _optimizer(optimizer),
        _rate(optimizer, schedule),
        schedule["name"] + (f", {warmup:g} of warm-up" if warmup else ""),
        str(settings["train"]["epochs"]),
        str(first["evaluations"][-1]["step"]),
        _over_seeds(quality(each["evaluations"][0]) if each["evaluations"][0]["epoch"] == 1 else "" for each in group),
        _over_seeds(quality(best(each["evaluations"])) for each in group),
        _over_seeds(quality(each["evaluations"][-1]) for each in group),
    ]


def best(evaluations: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The first that is judged best."""
    if "accuracy" in evaluations[0]:
        return max(evaluations, key=lambda each: float(each["accuracy"]))
    return min(evaluations, key=lambda each: float(each["rmse"]))


def _name(result: Result) -> str:
    path = Path(result["config"])
    words = [word for word in without_seed(result["arguments"]) if word]
    changed = f" `{shlex.join(words)}`" if words else ""
    return f"[{path.stem}](../{result['config']}){changed}"


def without_seed(arguments: Sequence[str]) -> list[str]:
    """Arguments of ddp.train but `--seed N`."""
    kept = list(arguments)
    while "--seed" in kept:
        position = kept.index("--seed")
        del kept[position : position + 2]
    return kept


def _optimizer(optimizer: dict[str, Any]) -> str:
    name = str(optimizer["name"])
    if name in ("sgd", "lars") and optimizer.get("momentum"):
        name += f", {'Nesterov ' if optimizer.get('nesterov') else ''}momentum {optimizer['momentum']:g}"
    decay = optimizer.get("weight_decay")
    return name + (f", weight decay {decay:g}" if decay else "")


def _rate(optimizer: dict[str, Any], schedule: dict[str, Any]) -> str:
    base = schedule.get("base_batch")
    return f"{optimizer['lr']:g}" + (f" for {base}, {schedule['batch_scaling']}" if base else "")


def _over_seeds(cells: Iterable[str]) -> str:
    """One value, or those of several seeds."""
    return ", ".join(cells)
