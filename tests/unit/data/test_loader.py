"""What a rank is given in each step, however many steps are gathered at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ddp.data import Augmentation, Loader, Sampler, Split
from ddp.data.pieces import Pieces

IMAGES = np.random.default_rng(1).integers(0, 256, (50, 2, 3, 4), dtype=np.uint8)
SPLIT = Split(IMAGES, np.arange(50), np.float32(0.5), np.float32(-1))
SAMPLER = Sampler(50, 8, 4, seed=3)  # an epoch of 7 steps, the last with 2 samples for 4 shards
LATER = range(20)


def given(loader: Loader, step: int) -> tuple[Any, bytes, bytes]:
    samples = loader.sampler.rank_batch(*divmod(step, 7), loader.rank, loader.world_size)
    inputs, targets = loader.load(step, samples)
    return samples, inputs.tobytes(), targets.tobytes()


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
@pytest.mark.parametrize("augmentation", [None, Augmentation(9, padding=1, flips=True)])
@pytest.mark.parametrize("steps_at_once", [1, 2, 3, 7])
def test_every_step_has_its_samples(
    steps_at_once: int, augmentation: Augmentation | None, world_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ddp.data.loader.MOST_STEPS", steps_at_once)
    buffer = SPLIT.make_buffer(8)
    for rank in range(world_size):
        loader = Loader(SPLIT, SAMPLER, rank, world_size, augmentation=augmentation)
        assert loader.steps_at_once == steps_at_once
        for step in [*LATER, 3, 3, 4, 19, 0]:  # in order, and as a run that goes on elsewhere
            samples, inputs, targets = given(loader, step)
            x, labels = SPLIT.gather(samples, buffer, augmentation, step // 7)
            assert (inputs, targets) == (x.tobytes(), labels.tobytes())


@pytest.mark.parametrize(
    ("shape", "accumulation", "expected"),
    [((1, 64, 64), 1, 4), ((1, 28, 28), 1, 7), ((1, 256, 256), 1, 1), ((1, 64, 64), 2, 1)],
)
def test_large_batches_are_gathered_one_by_one(shape: Any, accumulation: int, expected: int) -> None:
    """Up to 512 KiB at once; as float32, 8 images of 64 x 64 pixels are 128."""
    split = Split(np.zeros((50, *shape), np.uint8), np.arange(50), np.float32(1), np.float32(0))
    loader = Loader(split, SAMPLER, 0, 1, accumulation)
    assert loader.steps_at_once == expected
    assert len(loader.buffer.inputs) == expected * loader.capacity


def test_of_mapped_inputs_only_the_next_step_is_read_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr("ddp.data.read_ahead.ReadAhead.begin", lambda _, step: asked.append(step))
    split = Split(Pieces((IMAGES[:20], IMAGES[20:])), np.arange(50), np.float32(0.5), np.float32(-1))
    loader = Loader(split, SAMPLER, 1, 2)
    assert loader.steps_at_once == 1
    for step in range(3):
        assert given(loader, step)[1:] == given(Loader(SPLIT, SAMPLER, 1, 2), step)[1:]
    assert asked == [1, 2, 3]
