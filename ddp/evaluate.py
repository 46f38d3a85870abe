"""Evaluate a trained network on the test split of its data set.

    python -m ddp.evaluate runs/NAME
    mpirun -n 8 python -m ddp.evaluate runs/NAME --data.root /data/fashion      # the same figures, bit for bit
    python -m ddp.evaluate runs/NAME --output evaluation.json

Tells loss, accuracy, the accuracy of each class and the confusion matrix (of up to 1000 classes), from exact counts:
every sample once, on any number of ranks. Of a run that has not ended, its newest checkpoint is evaluated.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddp.comm.failure import Interrupted, leave
from ddp.run_arguments import RunArguments, RunParser, check_output, read_run_arguments
from ddp.session import Session, run_on_all_ranks

if TYPE_CHECKING:
    from ddp.data import Dataset
    from ddp.evaluation import Evaluation
    from ddp.nn import Sequential

MOST_COLUMNS = 20
"""Classes up to which the whole confusion matrix is shown; the JSON file has it up to MOST_CONFUSED."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Join the world, read the run, evaluate; the exit code of this rank."""
    return run_on_all_ranks(_run, arguments)


def _read_arguments(arguments: Sequence[str]) -> RunArguments | None:
    parser = RunParser(
        "python -m ddp.evaluate", "Evaluate a trained network on its test split, on any number of ranks."
    )
    parser.add_threads()
    parser.add_argument("--output", type=Path, metavar="FILE", help="gets the results as JSON")
    asked = read_run_arguments(parser, arguments)
    if asked is not None and asked.options.output is not None:
        check_output(asked.options.output)
    return asked


def _run(session: Session) -> int:
    world = session.world
    asked = world.run_on_root(lambda: _read_arguments(session.arguments))
    if asked is None:
        return 0
    session.prepare(asked.config, asked.threads)
    from ddp.data import load_dataset
    from ddp.run_directory import RunDirectory
    from ddp.trained import find_parameters, load_trained, read_input_format

    config, run = asked.config, RunDirectory(asked.path)
    form = world.run_on_root(lambda: read_input_format(run, config))
    found = world.run_together(lambda: load_dataset(config.data, config.seed, world.share_on_node))
    dataset = world.run_together(lambda: form.fit(found, f"data.root = {config.data.root}"))
    source = world.run_on_root(lambda: find_parameters(run))
    model = world.run_together(lambda: load_trained(run, source, config, form))
    session.check_agreement(model, {"data checksum": world.once_on_node(dataset.checksum)})
    evaluation = _evaluate(session, asked, model, dataset)
    record = to_record(evaluation, dataset, source)
    if world.is_root:
        sys.stdout.write("\n".join(lines(record)) + "\n")
    if asked.options.output is not None:
        world.run_on_root(lambda: _write(asked.options.output, record))
    return 0


def _evaluate(session: Session, asked: RunArguments, model: Sequential, dataset: Dataset) -> Evaluation:
    """Evaluate in as many rounds on all ranks, until a signal comes to one of them."""
    import numpy as np

    from ddp.comm.agreement import GO_ON, Agreement, StopAgreed
    from ddp.evaluation import Evaluator
    from ddp.evaluation_batch import batch_without_training
    from ddp.models import build_loss
    from ddp.partition import block_partition

    world, split, loss = session.world, dataset.test, build_loss(asked.config.model)
    largest_part = len(block_partition(len(split), world.size, 0))
    batch = world.run_on_root(lambda: batch_without_training(model, split.sample_shape, largest_part))

    def build() -> Evaluator:
        model.build(split.sample_shape, batch)
        loss.build(model.output_shape[0], batch)
        return Evaluator(world, split, batch, dataset.num_classes)

    evaluator = world.run_together(build)

    def warm_up() -> None:
        inputs, targets = split.gather(np.zeros(1, np.int64), evaluator.buffer)
        loss.forward(model.forward(inputs, training=False), targets)

    session.compile(warm_up)
    session.watchdog.limit(asked.config.comm.timeout_s)
    try:
        return evaluator.evaluate(model, loss, Agreement(world, True, lambda: session.signals.requested or GO_ON))
    except StopAgreed:
        raise Interrupted("interrupted by a signal before the end of the evaluation") from None


def to_record(evaluation: Evaluation, dataset: Dataset, source: Path) -> dict[str, Any]:
    """All results, for JSON; numbers that it lacks (NaN, infinity) are null."""
    from ddp.data.classes import class_names

    name, value = evaluation.quality
    figures = {"loss": evaluation.loss, name: value}
    record: dict[str, Any] = {"parameters": str(source), "data": dataset.name, "split": "test"}
    record |= {"samples": evaluation.samples}
    record |= {key: figure if math.isfinite(figure) else None for key, figure in figures.items()}
    if evaluation.class_samples:
        record["classes"] = class_names(dataset.name, dataset.num_classes)
        record["class_samples"], record["class_right"] = evaluation.class_samples, evaluation.class_right
        record["class_accuracy"] = evaluation.class_accuracy
    if evaluation.confusion:
        record["confusion"] = evaluation.confusion
    return record


def lines(record: dict[str, Any]) -> list[str]:
    """The results for a person."""
    figures = [f"loss {'not finite' if record['loss'] is None else format(record['loss'], '.4f')}"]
    if "accuracy" in record:
        figures.append(f"accuracy {record['accuracy']:.2%}")
    elif record["rmse"] is not None:
        figures.append(f"rmse {record['rmse']:.4f}")
    head = f"{record['parameters']} on the {record['samples']:,} test samples of {record['data']}"
    result = [f"{head}: {', '.join(figures)}"]
    if "classes" in record:
        result += ["", *_class_table(record)]
        if len(record["classes"]) <= MOST_COLUMNS:
            result += ["", *_confusion_table(record)]
    return result


def _labels(record: dict[str, Any]) -> list[str]:
    """Number and name of each class, or its number alone."""
    names = [
        str(number) if name == str(number) else f"{number} {name}" for number, name in enumerate(record["classes"])
    ]
    width = max(len("class"), *map(len, names))
    return [name.ljust(width) for name in names]


def _class_table(record: dict[str, Any]) -> list[str]:
    labels = _labels(record)
    rows = record.get("confusion", [()] * len(labels))
    mistakes = "  most often mistaken for" if "confusion" in record else ""
    table = [f"{'class'.ljust(len(labels[0]))}  {'samples':>8} {'right':>8} {'accuracy':>9}{mistakes}"]
    counts = zip(record["class_samples"], record["class_right"], record["class_accuracy"], strict=True)
    for label, (name, row, (samples, right, accuracy)) in enumerate(zip(labels, rows, counts, strict=True)):
        share = "" if accuracy is None else f"{accuracy:.2%}"
        others = [(count, -other) for other, count in enumerate(row) if other != label and count]
        most, other = max(others, default=(0, 0))
        mistaken = f"{labels[-other].strip()} ({most:,})" if most else ""
        table.append(f"{name}  {samples:8,} {right:8,} {share:>9}  {mistaken}".rstrip())
    return table


def _confusion_table(record: dict[str, Any]) -> list[str]:
    rows, labels = record["confusion"], _labels(record)
    width = 1 + max(len(str(count)) for row in rows for count in (*row, len(rows) - 1))
    head = "".join(f"{number:>{width}}" for number in range(len(rows)))
    table = [f"{'label'.ljust(len(labels[0]))}  {head}  <- taken for"]
    return table + [
        f"{name}  " + "".join(f"{count:>{width}}" for count in row) for name, row in zip(labels, rows, strict=True)
    ]


def _write(path: Path, record: dict[str, Any]) -> None:
    from ddp.checkpoint import write_atomically

    write_atomically(path, (json.dumps(record, allow_nan=False) + "\n").encode())


if __name__ == "__main__":
    leave(main())
