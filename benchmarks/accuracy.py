"""What the configurations learn: each is trained, and the test accuracy of each epoch goes into its header.

    python -m benchmarks.accuracy                                # all of configs/
    python -m benchmarks.accuracy configs/mlp.toml               # one
    python -m benchmarks.accuracy configs/mlp.toml -- --seed 1   # a variation: only for docs/recipes.md
    python -m benchmarks.accuracy configs/mlp.toml --check       # again: exit code 1 unless every bit is the same

Results are kept in benchmarks/results/accuracy.json; `--render` writes headers and docs/recipes.md from it. Since sums
over ranks are exact, a result is exact too, whatever the number of ranks: `--check --ranks 1` must find the same. It
depends on the vector unit and on the packages that compile and draw, which are kept with it.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from subprocess import CalledProcessError
from typing import Any

from benchmarks.accuracy_tables import Result, recipes_table, write_header
from benchmarks.cifar10_stand_in import TITLE, write_stand_in
from benchmarks.report import add_report_options, save_results, write_between_markers
from benchmarks.training import Training
from ddp.kernels.vector import UNIT

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "configs"
SECTIONS = ("seed", "model", "data", "batch", "loss", "optimizer", "schedule", "train")
"""What decides the bits of a run, besides what it was made with."""
WHENCE = ("root", "download")
"""Fields of the section `data` that say only where it comes from."""
MADE_WITH = ("python", "numpy", "numba", "llvmlite")
MEASURED = ("epoch", "step", "loss", "accuracy", "rmse")
"""Fields of an `eval` record."""


def name_of(path: Path) -> str:
    """A configuration's name in the results: its path from the root of the project, if it is in it."""
    path = path.resolve()
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def train(config: Path, arguments: Sequence[str], ranks: int) -> Result:
    """Train to the end, and tell what was learned, with what decides it.

    Args:
        config: its file.
        arguments: further ones of ddp.train.
        ranks: that share the work.

    Raises:
        CalledProcessError: if the run fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        root = stand_in_root(config, arguments, Path(folder))
        training = Training(ranks, 0, ["--config", str(config), *arguments, *root], Path(folder))
        run = training.finish()
        return ({"stand_in": TITLE} if root else {}) | {
            "config": name_of(config),
            "arguments": list(arguments),
            "settings": settings(tomllib.loads((training.path / "config.toml").read_text())),
            "evaluations": [{key: each[key] for key in MEASURED if key in each} for each in run.evaluations],
            "parameters_sha256": run.end["parameters_sha256"],
            "made_with": made_with(run.start),
        }


def stand_in_root(config: Path, arguments: Sequence[str], folder: Path) -> list[str]:
    """The argument that names the stand-in, which is then in `folder`; none where none is needed.

    Raises:
        DataError: if what it is made of is not found.
    """
    if not needs_stand_in(config, arguments):
        return []
    write_stand_in(folder / "data")
    return ["--data.root", str(folder / "data")]


def needs_stand_in(config: Path, arguments: Sequence[str]) -> bool:
    """Whether a run is on CIFAR-10, and nothing says where that is: results are of what every machine can make."""
    data = tomllib.loads(config.read_text()).get("data", {})
    names_root = any(each.partition("=")[0] == "--data.root" for each in arguments)
    return data.get("name") == "cifar10" and not data.get("root") and not names_root


def settings(config: dict[str, Any]) -> dict[str, Any]:
    """The part of a configuration that decides the result."""
    kept = {section: config[section] for section in SECTIONS}
    return kept | {"data": {name: value for name, value in config["data"].items() if name not in WHENCE}}


def made_with(start: dict[str, Any]) -> dict[str, Any]:
    """What else decides it, and the processor's name."""
    return {name: start["versions"][name] for name in MADE_WITH} | {"lanes": UNIT.lanes, "cpu": start["cpu"]}


def is_same_run(one: Result, other: Result) -> bool:
    """Whether two results are of the same configuration and arguments."""
    return bool(one["config"] == other["config"] and one["arguments"] == other["arguments"])


def merge(results: Sequence[Result], new: Result) -> list[Result]:
    """The results with a new one in the place of the old one, sorted by name."""
    kept = [each for each in results if not is_same_run(each, new)]
    return sorted([*kept, new], key=lambda each: (each["config"], each["arguments"]))


def differences(expected: Result, found: Result) -> list[str]:
    """Where two results of the same configuration differ, a line each; none if they are the same to the last bit."""
    pairs = zip_longest(expected["evaluations"], found["evaluations"])
    lines = [f"was {before}, is {after}" for before, after in pairs if before != after]
    name = "parameters_sha256"
    return lines if expected[name] == found[name] else [*lines, f"{name} was {expected[name]}, is {found[name]}"]


def reasons(expected: Result, found: Result) -> list[str]:
    """What may be why two results differ, a line each: other settings, or made with something else."""
    lines = []
    for name in ("settings", "made_with"):
        before, after = expected[name], found[name]
        changed = sorted(key for key in before.keys() | after.keys() if before.get(key) != after.get(key))
        lines += [f"{key} was {before.get(key)}, is {after.get(key)}" for key in changed]
    return lines


def check(results: Sequence[Result], found: Result) -> bool:
    """Say whether a result is the expected one to the last bit."""
    name = " ".join([found["config"], *found["arguments"]])
    for expected in results:
        if is_same_run(expected, found):
            lines = differences(expected, found)
            for line in [*lines, *reasons(expected, found)] if lines else ["the same to the last bit"]:
                print(f"{name}: {line}")
            return not lines
    print(f"{name}: nothing is expected of it; measure it without --check")
    return False


def load(path: Path) -> list[Result]:
    """The results so far."""
    results: list[Result] = json.loads(path.read_text()) if path.exists() else []
    return results


def parse(given: Sequence[str]) -> argparse.Namespace:
    """The command line: what stands behind `--` are arguments of ddp.train."""
    own = list(given[: given.index("--")]) if "--" in given else list(given)
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="%(prog)s [options] [CONFIG ...] [-- arguments of ddp.train]",
    )
    parser.add_argument("configs", nargs="*", type=Path, metavar="CONFIG", help="default: all of configs/")
    parser.add_argument("--ranks", type=int, default=2, help="of a run (default: %(default)s)")
    parser.add_argument("--check", action="store_true", help="keep nothing, exit with 1 if a result differs")
    parser.add_argument("--variations", action="store_true", help="those that were measured, too")
    add_report_options(parser, "accuracy")
    options = parser.parse_args(own)
    options.configs = options.configs or sorted(CONFIGS.glob("*.toml"))
    options.arguments = list(given[len(own) + 1 :])
    return options


def runs(options: argparse.Namespace, results: Sequence[Result]) -> Iterator[tuple[Path, list[str]]]:
    """The configurations and arguments to train."""
    for config in options.configs:
        yield config, options.arguments
        if options.variations:
            recorded = [each["arguments"] for each in results if each["config"] == name_of(config)]
            yield from ((config, arguments) for arguments in recorded if arguments != options.arguments)


def measure(options: argparse.Namespace) -> bool:
    """Train all, keeping each result as soon as it is there; whether all were as expected, if that is asked."""
    is_as_expected = True
    for config, arguments in list(runs(options, load(options.results))):
        print(" ".join([name_of(config), *arguments]), file=sys.stderr)
        result = train(config, arguments, options.ranks)
        results = load(options.results)  # again: another command may have measured meanwhile
        if options.check:
            is_as_expected &= check(results, result)
        else:
            save_results(options.results, merge(results, result))
    return is_as_expected


def write(options: argparse.Namespace) -> None:
    """Render the headers of the configurations, and the table."""
    results = load(options.results)
    for config in options.configs:
        for result in results:
            if result["config"] == name_of(config) and not result["arguments"]:
                write_header(config, result)
    table = recipes_table(results)
    print(table)
    if options.write:
        write_between_markers(options.write, "benchmarks.accuracy", table)


def main(given: Sequence[str] | None = None) -> int:
    """Measure and render, or compare."""
    options = parse(sys.argv[1:] if given is None else given)
    try:
        for config in options.configs:
            tomllib.loads(config.read_text())
        is_as_expected = options.render or measure(options)
        if not options.check:
            write(options)
    except (OSError, ValueError, CalledProcessError) as mistake:
        print(f"error: {mistake}", file=sys.stderr)
        return 2
    return 0 if is_as_expected else 1


if __name__ == "__main__":
    sys.exit(main())
