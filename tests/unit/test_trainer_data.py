"""The trainer on augmented images and on data in files: the same bits wherever and however they are computed."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from ddp.checkpoint import Checkpoint, check_same_run, find_checkpoints
from ddp.config import Config, ConfigError, DataConfig, to_dict
from ddp.kernels import jit
from tests.unit.runs import CNN, MLP, Make, OpenRun, bits, change
from tests.unit.test_trainer import is_kernel, kernel_modules

if TYPE_CHECKING:
    from ddp.trainer import Trainer

AUGMENTED = change(MLP, "data", crop_padding=2, flip=True, rotation=15.0)


def steps(trainer: Trainer, number: int) -> bytes:
    for _ in range(number):
        trainer.train_step()
    return bits(trainer)


def test_the_number_of_threads_changes_no_augmented_bit(make_trainer: Make) -> None:
    available = jit.get_num_threads()
    results = set()
    try:
        for threads in (1, 2, 3):
            jit.set_num_threads(threads)
            results.add(steps(make_trainer(AUGMENTED), 8))
    finally:
        jit.set_num_threads(available)
    assert len(results) == 1
    assert steps(make_trainer(MLP), 8) not in results


@pytest.mark.parametrize("number", [1, 4])
def test_micro_batches_change_no_augmented_image(number: int, make_trainer: Make) -> None:
    """What a sample looks like in an epoch, whichever micro-batch it is in."""
    trainer = make_trainer(change(AUGMENTED, "batch", accumulation=number))
    seen: dict[int, bytes] = {}
    gather = trainer.gradient.load

    def load(samples: Any) -> Any:
        inputs, targets = gather(samples)
        seen.update(zip(samples.tolist(), (image.tobytes() for image in inputs), strict=True))
        return inputs, targets

    trainer.gradient.load = load
    steps(trainer, trainer.steps_per_epoch)
    first = dict(seen)
    assert len(first) == 44
    split = trainer.dataset.train
    x, _ = split.gather(np.arange(44), split.make_buffer(44), trainer.loader.augmentation, epoch=0)
    assert [first[sample] for sample in range(44)] == [image.tobytes() for image in x]
    steps(trainer, trainer.steps_per_epoch)
    assert sum(first[sample] == seen[sample] for sample in first) < 5


def test_test_images_are_never_augmented(make_trainer: Make) -> None:
    assert make_trainer(AUGMENTED).evaluate() == make_trainer(MLP).evaluate()


@pytest.mark.parametrize("at", [4, 13])
def test_an_augmented_run_goes_on_with_the_same_bits(
    at: int, make_trainer: Make, open_run: OpenRun, tmp_path: Path
) -> None:
    straight, first = (make_trainer(config) for config in (AUGMENTED, change(AUGMENTED, "train", steps=at)))
    straight.train()
    run = open_run(first, tmp_path)
    first.train()
    first.checkpoint()
    first.recovery.finish()
    second = make_trainer(AUGMENTED)
    second.resume(find_checkpoints(run.checkpoints)[-1])
    assert second.step == at
    second.train()
    assert bits(second) == bits(straight)


def test_everything_is_compiled_when_the_first_augmented_step_begins(make_trainer: Make, tmp_path: Path) -> None:
    """Of pieces of files too: else every rank would compile, and write the cache at once."""
    save(tmp_path, 3, make_trainer(AUGMENTED).dataset)
    trainer = make_trainer(change(AUGMENTED, "data", name="npy", root=str(tmp_path)))
    trainer.warm_up()
    kernels = [kernel for module in kernel_modules() for kernel in vars(module).values() if is_kernel(kernel)]
    before = [len(kernel.signatures) for kernel in kernels]
    trainer.train_step()
    trainer.evaluate()
    assert [len(kernel.signatures) for kernel in kernels] == before


def save(folder: Path, pieces: int, dataset: Any) -> None:
    for name, split in (("train", dataset.train), ("test", dataset.test)):
        inputs, targets = (np.array_split(a, pieces) for a in (split.inputs, split.targets))
        for number in range(pieces):
            np.save(folder / f"{name}-inputs-{number}.npy", inputs[number])
            np.save(folder / f"{name}-targets-{number}.npy", targets[number])


@pytest.mark.parametrize("config", [AUGMENTED, CNN], ids=["augmented", "mnist_cnn"])
def test_data_in_files_train_the_same_bits_as_data_in_memory(
    config: Config, make_trainer: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = make_trainer(config)
    save(tmp_path, 3, memory.dataset)
    scale, shift = float(memory.dataset.train.scale), float(memory.dataset.train.shift)
    std = 1 / (255 * scale)
    data = dataclasses.replace(config.data, name="npy", root=str(tmp_path), mean=(-shift * std,), std=(std,))
    files = make_trainer(dataclasses.replace(config, data=data))
    found = files.dataset.train
    assert (np.unique(found.scale), np.unique(found.shift)) == (np.float32(scale), np.float32(shift))
    assert steps(files, 9) == steps(memory, 9)
    asked: list[int] = []
    monkeypatch.setattr("ddp.data.pieces.Pieces.read_ahead", lambda _, samples: asked.extend(samples.tolist()))
    assert files.evaluate() == memory.evaluate()
    assert asked == list(range(len(files.dataset.test)))


@pytest.mark.parametrize("field", ["crop_padding", "flip", "rotation"])
def test_only_images_are_augmented(field: str) -> None:
    with pytest.raises(ConfigError, match=rf"data\.{field} = .*: polynomial has no images; leave it out"):
        DataConfig(name="polynomial", **{field: True})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"crop_padding": -1}, r"data\.crop_padding = -1: use 0 or more pixels"),
        ({"rotation": 45.1}, r"data\.rotation = 45\.1: use 0 to 45 degrees"),
        ({"rotation": float("nan")}, r"data\.rotation = nan"),
        ({"std": (0.5, 0.0)}, r"data\.std = \[0\.5, 0\.0\]: use finite numbers above 0"),
        ({"mean": (float("inf"),)}, r"data\.mean = \[inf\]: use finite numbers"),
    ],
)
def test_values_that_make_no_sense(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DataConfig(**fields)


def test_a_checkpoint_from_before_a_field_was_made_is_of_the_same_run() -> None:
    run = change(MLP, "data", name="mnist")
    old = to_dict(run)
    del old["data"]["flip"], old["data"]["rotation"]
    checkpoint = Checkpoint(3, old, "sum", {}, {})
    check_same_run(checkpoint, run, "sum", Path("checkpoint"))
    check_same_run(checkpoint, change(run, "data", download=True), "sum", Path("checkpoint"))
    with pytest.raises(ValueError, match=r"data\.flip = True: .* was made with False"):
        check_same_run(checkpoint, change(run, "data", flip=True), "sum", Path("checkpoint"))
