"""The section `data`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from ddp.config.checks import LARGEST, require


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The training and test data."""

    name: Literal["digits", "mnist", "fashion_mnist", "cifar10", "synthetic", "polynomial"] = "digits"
    """digits: embedded 8x8; mnist, fashion_mnist: IDX files; cifar10: its binary files; synthetic: generated images;
    polynomial: generated."""
    root: str = ""
    """Directory of the data set's files; empty: search the usual places."""
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
        require(1 <= self.samples <= LARGEST, "data.samples", self.samples, f"use 1 to {LARGEST}")
        require(2 <= self.classes <= LARGEST, "data.classes", self.classes, f"use 2 to {LARGEST}")
        fix = f"every size must be 1 to {LARGEST}"
        require(all(1 <= size <= LARGEST for size in self.shape), "data.shape", list(self.shape), fix)
        fix = "give at least one coefficient, all finite"
        usable = len(self.coefficients) >= 1 and all(map(math.isfinite, self.coefficients))
        require(usable, "data.coefficients", list(self.coefficients), fix)
        require(0 <= self.noise < math.inf, "data.noise", self.noise, "use a finite number, 0 or more")
