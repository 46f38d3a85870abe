"""Draw how runs went, and what a network takes for something else.

    python -m ddp.plot runs/A runs/B                                # loss, accuracy, throughput: curves.png
    python -m ddp.plot runs/* --output curves.svg                   # or .png, .pdf
    python -m ddp.plot runs/A --misclassified mistakes.png          # and the surest mistakes on its test split

Needs matplotlib (the extra `plot`), one process and no MPI. A run may still go on. Only `--misclassified`
needs the data set.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ddp.comm import environment
from ddp.comm.failure import EXIT_USER_ERROR, print_error
from ddp.config import Config, ConfigError
from ddp.run_arguments import RunParser, check_output, read_config

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from ddp.data import Dataset
    from ddp.prediction import Mistake

KINDS = ("png", "svg", "pdf")
MOST_IMAGES = 40


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw what is asked for; the exit code."""
    if environment.launched_rank() > 0:  # all ranks would write the same files
        return 0
    environment.prepare()
    try:
        _run(sys.argv[1:] if arguments is None else arguments)
    except (ValueError, OSError) as error:
        print_error(str(error))
        return EXIT_USER_ERROR
    return 0


def _run(arguments: Sequence[str]) -> None:
    parser = RunParser("python -m ddp.plot", "Draw the curves of runs, and misclassified images.", several=True)
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="of the curves: .png, .svg or .pdf; curves.png if no file is named"
    )
    parser.add_argument("--misclassified", type=Path, metavar="FILE", help="gets the surest mistakes of one run")
    try:
        options = parser.parse_args(arguments)
    except SystemExit:
        return
    runs, output, mistakes = options.runs, options.output, options.misclassified
    if output is None and mistakes is None:
        output = Path("curves.png")
    for name, path in (("--output", output), ("--misclassified", mistakes)):
        if path is not None:
            _check_picture(name, path)
    if mistakes is not None and len(runs) > 1:
        raise ConfigError(f"--misclassified {mistakes}: of which run? give one of these {len(runs)} alone")
    from ddp.observe.figures import require_matplotlib

    require_matplotlib()
    configs = [read_config(run, options.root) for run in runs]
    if output is not None:
        _write(output, _curves(runs, configs, _kind(output)))
    if mistakes is not None:
        _write(mistakes, _misclassified(runs[0], configs[0], _kind(mistakes)))


def _kind(path: Path) -> str:
    return path.suffix.removeprefix(".").lower()


def _check_picture(name: str, path: Path) -> None:
    if _kind(path) not in KINDS:
        raise ConfigError(f"{name} {path}: a picture is .png, .svg or .pdf; name it so")
    check_output(path, name)


def _write(path: Path, content: bytes) -> None:
    from ddp.checkpoint import write_atomically

    write_atomically(path, content)
    sys.stdout.write(f"{path}\n")


def _curves(runs: Sequence[Path], configs: Sequence[Config], kind: str) -> bytes:
    from ddp.observe.figures import draw_curves
    from ddp.observe.history import read_history
    from ddp.run_directory import RunDirectory

    named = zip(runs, configs, names(runs), strict=True)
    histories = [read_history(RunDirectory(run).metrics, name, config.batch.size) for run, config, name in named]
    return draw_curves(histories, kind)


def names(runs: Sequence[Path]) -> list[str]:
    """What to call each run: its directory's name, or the whole path where two have the same."""
    last = [run.resolve().name for run in runs]
    return [name if last.count(name) == 1 else str(run) for name, run in zip(last, runs, strict=True)]


def _misclassified(path: Path, config: Config, kind: str) -> bytes:
    """The images that the network is surest about, and wrong."""
    import numpy as np

    from ddp.data import load_dataset
    from ddp.data.classes import class_names
    from ddp.kernels.jit import exclusive_cache
    from ddp.observe.figures import draw_images
    from ddp.prediction import Predictor, surest_mistakes
    from ddp.run_directory import RunDirectory
    from ddp.trained import find_parameters, load_trained, read_input_format

    run, dataset = RunDirectory(path), load_dataset(config.data, config.seed)
    if not dataset.num_classes:
        raise ConfigError(f"--misclassified: {path} has no classes, it is a regression; leave it out")
    form = read_input_format(run, config)
    dataset = form.fit(dataset, f"data.root = {config.data.root}")
    model = load_trained(run, find_parameters(run), config, form)
    predictor = Predictor(model, dataset.test, classes=True)
    with exclusive_cache():
        predictor.warm_up()
    probabilities = np.zeros((len(dataset.test), predictor.width), np.float32)
    predictor.predict(range(len(dataset.test)), probabilities)
    mistakes = surest_mistakes(probabilities, dataset.test.targets)
    if not mistakes:
        raise ConfigError(f"--misclassified: {path} makes no mistake on its test split; there is nothing to draw")
    shown, labels = mistakes[:MOST_IMAGES], class_names(dataset.name, dataset.num_classes)
    captions = [f"{labels[one.label]}, taken for\n{labels[one.taken_for]} ({one.probability:.0%})" for one in shown]
    title = f"{names([path])[0]}: {len(mistakes):,} of {len(dataset.test):,} misclassified"
    if len(shown) < len(mistakes):
        title += f", the {len(shown)} that it was surest about"
    return draw_images(_images(dataset, shown), captions, title, kind)


def _images(dataset: Dataset, mistakes: Sequence[Mistake]) -> npt.NDArray[np.float32]:
    """The samples before they are normalised, (N, C, H, W), from 0 for the least to 1 for the largest value."""
    import numpy as np

    split = dataset.test
    inputs, _ = split.gather(np.array([one.sample for one in mistakes], np.int64), split.make_buffer(len(mistakes)))
    raw: npt.NDArray[np.float32] = (inputs - split.shift) / split.scale
    raw -= raw.min()
    return raw / raw.max() if raw.max() > 0 else raw


if __name__ == "__main__":
    sys.exit(main())
