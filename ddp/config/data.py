"""The section `data`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from ddp.config.checks import LARGEST, require

ARRAYS = ("npz", "npy")
PUBLISHED = ("mnist", "fashion_mnist", "cifar10", "cifar100")
LARGEST_ROTATION = 45
"""Degrees: a larger angle turns an image into another one."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The training and test data."""

    name: Literal[
        "digits", "mnist", "fashion_mnist", "cifar10", "cifar100", "npz", "npy", "synthetic", "polynomial"
    ] = "digits"
    """digits: embedded 8x8; mnist, fashion_mnist: IDX files; cifar10, cifar100: their binary files; npz: an archive of
    arrays; npy: a folder of arrays, mapped, so that they may be larger than memory; synthetic: generated images;
    polynomial: generated."""
    root: str = ""
    """Directory of the data set's files, or the archive of `npz`; empty: search the usual places."""
    download: bool = False
    """Fetch the files of mnist, fashion_mnist, cifar10, cifar100 where they are not found; needs ddp-sgd[download]."""
    crop_padding: int = 0
    """Random crop: the pixels, up to which a training image is moved in each direction; black comes in."""
    flip: bool = False
    """Mirror every second training image, drawn anew each epoch, left to right."""
    rotation: float = 0.0
    """Turn training images by a random angle of at most so many degrees, 0 to 45."""
    mean: tuple[float, ...] = ()
    """Of `npz` and `npy`: subtracted from the pixels (of bytes, from p / 255), one for all channels or one each;
    empty: 0.5 for bytes, 0 for float32."""
    std: tuple[float, ...] = ()
    """Of `npz` and `npy`: divides the pixels after that; empty: 0.5 for bytes, 1 for float32."""
    shape: tuple[int, int, int] = (1, 28, 28)
    """Channels, height and width of a `synthetic` image, in pixels."""
    samples: int = 1000
    """Training samples of `synthetic` and `polynomial`."""
    classes: int = 10
    """Classes of `synthetic`."""
    coefficients: tuple[float, ...] = (1.0, -2.0, 3.0)
    """Generating coefficients of `polynomial`, constant term first."""
    noise: float = 0.1
    """Standard deviation of the noise on the targets of `polynomial`."""

    def __post_init__(self) -> None:
        self._check_augmentation()
        require(1 <= self.samples <= LARGEST, "data.samples", self.samples, f"use 1 to {LARGEST}")
        require(2 <= self.classes <= LARGEST, "data.classes", self.classes, f"use 2 to {LARGEST}")
        fix = f"every size must be 1 to {LARGEST}"
        require(all(1 <= size <= LARGEST for size in self.shape), "data.shape", list(self.shape), fix)
        fix = "give at least one coefficient, all finite"
        usable = len(self.coefficients) >= 1 and all(map(math.isfinite, self.coefficients))
        require(usable, "data.coefficients", list(self.coefficients), fix)
        require(0 <= self.noise < math.inf, "data.noise", self.noise, "use a finite number, 0 or more")
        require(all(map(math.isfinite, self.mean)), "data.mean", list(self.mean), "use finite numbers")
        fix = "use finite numbers above 0"
        require(all(0 < std < math.inf for std in self.std), "data.std", list(self.std), fix)
        self._check_use()

    def _check_augmentation(self) -> None:
        fix = "use 0 or more pixels, fewer than an image has"
        require(0 <= self.crop_padding <= LARGEST, "data.crop_padding", self.crop_padding, fix)
        fix = f"use 0 to {LARGEST_ROTATION} degrees"
        require(0 <= self.rotation <= LARGEST_ROTATION, "data.rotation", self.rotation, fix)
        fix = "polynomial has no images; leave it out"
        has_images = self.name != "polynomial"
        require(has_images or not self.crop_padding, "data.crop_padding", self.crop_padding, fix)
        require(has_images or not self.flip, "data.flip", "true", fix)
        require(has_images or not self.rotation, "data.rotation", self.rotation, fix)

    def _check_use(self) -> None:
        """Refuse what the named data set would ignore."""
        fix = f"data.name = {self.name} cannot be fetched, {', '.join(PUBLISHED)} can; leave it out"
        require(not self.download or self.name in PUBLISHED, "data.download", "true", fix)
        fix = f"data.name = {self.name} is normalised otherwise, only {' and '.join(ARRAYS)} by this; leave it out"
        require(not self.mean or self.name in ARRAYS, "data.mean", list(self.mean), fix)
        require(not self.std or self.name in ARRAYS, "data.std", list(self.std), fix)
