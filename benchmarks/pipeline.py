"""What the data cost: gathering, decoding and augmenting, as a part of the step, for every file in configs/.

    python -m benchmarks.pipeline
    python -m benchmarks.pipeline configs/mlp.toml --ranks 1 -- --data.flip true --data.rotation 10

Whole runs of `python -m launch run`; a run's figure is the median of its `step` records but the first. CIFAR-10 is the
stand-in of `benchmarks.accuracy`, unless `--data.root` names it. Ends with exit code 1 if a config spends more than 2 %
of its steps on data, and with 2 if one cannot be measured.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from subprocess import CalledProcessError

from benchmarks.accuracy import stand_in_root
from benchmarks.training import Run, train

CONFIGS = Path(__file__).parents[1] / "configs"
LARGEST_SHARE = 0.02
RECORDS = 20
"""`step` records of a run."""


def arguments(config: Path, steps: int, more: Sequence[str]) -> list[str]:
    """Those of ddp.train: nothing but steps, as many records as tell a median."""
    only_steps = ["--train.evaluate_every", "0", "--checkpoint.every_epochs", "0", "--checkpoint.every_steps", "0"]
    length = [
        "--train.epochs",
        str(10**6),
        "--train.steps",
        str(steps),
        "--output.log_every",
        str(max(1, steps // RECORDS)),
    ]
    return ["--config", str(config), *length, *only_steps, *more]


def shares(run: Run) -> tuple[float, float, float]:
    """Milliseconds of a step, of which for data, and data's share: medians over the records but the first."""
    records = run.steps[1:] or run.steps
    each = [(record["step_ms"], record["data_ms"], record["data_ms"] / record["step_ms"]) for record in records]
    step, data, share = (statistics.median(column) for column in zip(*each, strict=True))
    return step, data, share


def line(name: str, step_ms: float, data_ms: float, share: float) -> str:
    """A row of the table."""
    verdict = "" if share <= LARGEST_SHARE else f"  above {LARGEST_SHARE:.0%}"
    return f"{name:24} {step_ms:10.3f} {1e3 * data_ms:10.1f} {share:8.2%}{verdict}"


def measure(config: Path, options: argparse.Namespace, more: Sequence[str], folder: Path) -> tuple[float, float, float]:
    """Train, on the stand-in where that is needed; see `shares`.

    Raises:
        OSError, ValueError: if there is no such file, or not what the stand-in is made of.
        CalledProcessError: if the run fails, which has told why.
    """
    root = stand_in_root(config, more, folder)
    return shares(train(options.ranks, 0, arguments(config, options.steps, [*more, *root]), folder))


def main(given: Sequence[str]) -> int:
    """Measure, and print a row for each config."""
    own, more = (given[: given.index("--")], given[given.index("--") + 1 :]) if "--" in given else (given, [])
    parser = argparse.ArgumentParser(description="What the data cost, as a part of the step.")
    parser.add_argument("configs", nargs="*", type=Path, default=sorted(CONFIGS.glob("*.toml")))
    parser.add_argument("--ranks", type=int, default=2, help="(default: %(default)s)")
    parser.add_argument("--steps", type=int, default=200, help="of each run (default: %(default)s)")
    options = parser.parse_args(own)
    if options.steps < 1:
        parser.error(f"--steps = {options.steps}: use 1 or more")
    print(f"{'config':24} {'step, ms':>10} {'data, us':>10} {'share':>8}")
    code = 0
    with tempfile.TemporaryDirectory() as folder:
        for config in options.configs:
            try:
                step_ms, data_ms, share = measure(config, options, more, Path(folder))
            except (OSError, ValueError, CalledProcessError) as mistake:
                if not isinstance(mistake, CalledProcessError):
                    print(f"error: {mistake}", file=sys.stderr)
                print(f"{config.stem:24} {'not measured':>21}", flush=True)
                code = 2
                continue
            print(line(config.stem, step_ms, data_ms, share), flush=True)
            code = max(code, int(share > LARGEST_SHARE))
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
