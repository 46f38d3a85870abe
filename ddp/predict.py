"""Predict with a trained network.

    python -m ddp.predict runs/NAME --input X.npy --output P.npy
    mpirun -n 8 python -m ddp.predict runs/NAME --input X.npy --output P.npy      # the same file, bit for bit

X.npy holds samples as the files of the run's data set do, such as pixels from 0 to 255 of type uint8: (N, C, H, W),
(N, H, W) for one channel, or (N, F) for features; they are normalised as in training. P.npy gets (N, classes) float32,
the probability of each class, or (N, 1) for regression. The data set itself is not needed.
"""

from __future__ import annotations

import hashlib
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddp.comm.failure import leave
from ddp.run_arguments import RunArguments, RunParser, check_output, read_run_arguments
from ddp.session import Session, run_on_all_ranks

if TYPE_CHECKING:
    import numpy.typing as npt

    from ddp.comm.world import World
    from ddp.data import Split


def main(arguments: Sequence[str] | None = None) -> int:
    """Join the world, read the run, predict; the exit code of this rank."""
    return run_on_all_ranks(_run, arguments)


def _read_arguments(arguments: Sequence[str]) -> RunArguments | None:
    parser = RunParser("python -m ddp.predict", "Predict with a trained network.")
    parser.add_threads()
    parser.add_argument("--input", type=Path, required=True, metavar="X.npy", help="the samples, as the data set's")
    parser.add_argument("--output", type=Path, required=True, metavar="P.npy", help="gets a row for each sample")
    asked = read_run_arguments(parser, arguments)
    if asked is not None:
        check_output(asked.options.output)
    return asked


def _run(session: Session) -> int:
    world = session.world
    asked = world.run_on_root(lambda: _read_arguments(session.arguments))
    if asked is None:
        return 0
    session.prepare(asked.config, asked.threads)
    import numpy as np

    from ddp.checkpoint import write_atomically
    from ddp.partition import block_partition
    from ddp.prediction import Predictor
    from ddp.run_directory import RunDirectory
    from ddp.trained import find_parameters, load_trained, read_input_format

    run, path = RunDirectory(asked.path), asked.options.output
    form = world.run_on_root(lambda: read_input_format(run, asked.config))
    source = world.run_on_root(lambda: find_parameters(run))
    model = world.run_together(lambda: load_trained(run, source, asked.config, form))
    split = world.run_together(lambda: form.split(read_array(asked.options.input), f"--input {asked.options.input}"))
    session.check_agreement(model, _facts(world, split))
    predictor = Predictor(model, split, form.num_classes > 0)
    session.compile(predictor.warm_up)
    # A row is zero but on the rank that computes it, so that bits added as integers are the row itself.
    predictions = np.zeros((len(split), predictor.width), np.float32)
    mine = block_partition(len(split), world.size, world.rank)
    session.signals.until_signal(lambda: predictor.predict(mine, predictions))
    session.stop_if_asked("before the end of the prediction")
    session.watchdog.limit(asked.config.comm.timeout_s)
    world.all_reduce(predictions.view(np.int32), "predictions")
    world.run_on_root(lambda: write_atomically(path, *npy_parts(predictions)))
    if world.is_root:
        sys.stdout.write(f"{len(split):,} samples by {source}: {path}, {predictions.shape} float32\n")
    return 0


def _facts(world: World, split: Split) -> dict[str, str]:
    """What all ranks must find in their input; its bytes are read for it only where nodes may have different files."""
    import numpy as np

    def digest() -> str:
        return hashlib.sha256(np.asarray(split.inputs).data).hexdigest()

    facts = {"shape of --input": str(split.inputs.shape)}
    return facts if world.num_nodes == 1 else {**facts, "checksum of --input": world.once_on_node(digest)}


def read_array(path: Path) -> npt.NDArray[Any]:
    """Map a .npy file, of which then only what is looked at is read.

    Raises:
        ValueError: if it cannot be read, or holds no single array, or objects.
    """
    import tokenize

    from numpy.lib import format as npy

    from ddp.data.arrays import one_line

    try:
        return npy.open_memmap(path, mode="r")
    except (OSError, ValueError, EOFError, tokenize.TokenError) as error:
        fix = "give an array written by numpy.save"
        raise ValueError(f"--input {path}: cannot be read ({one_line(error)}); {fix}") from None


def npy_parts(array: npt.NDArray[Any]) -> list[bytes | memoryview]:
    """The content of a .npy file: its header, then the array as it lies in memory."""
    from numpy.lib import format as npy

    header = io.BytesIO()
    npy.write_array_header_1_0(header, npy.header_data_from_array_1_0(array))
    return [header.getvalue(), array.reshape(-1).data]


if __name__ == "__main__":
    leave(main())
