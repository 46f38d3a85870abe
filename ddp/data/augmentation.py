"""What is done to training images so that no epoch shows the same ones."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ddp.config import DataConfig


@dataclass(frozen=True)
class Augmentation:
    """Random crop, mirror image and rotation, drawn for each sample of each epoch.

    Attributes:
        seed: the run's key.
        padding: pixels by which an image is moved at most, up, down, left or right; what comes in is black.
        flips: whether every second image is mirrored left to right.
        rotation: radians by which an image is turned at most, either way; 0 to pi / 4.
    """

    seed: int
    padding: int = 0
    flips: bool = False
    rotation: float = 0.0

    @staticmethod
    def of(config: DataConfig, seed: int) -> Augmentation | None:
        """What is configured; None if it is nothing, so that images are only copied and normalised."""
        if not (config.crop_padding or config.flip or config.rotation):
            return None
        return Augmentation(seed, config.crop_padding, config.flip, math.radians(config.rotation))
