"""The section `model`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ddp.config.checks import LARGEST, require


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The network."""

    name: Literal["polynomial", "mlp", "mnist_cnn", "vgg"] = "mlp"
    """polynomial: linear regression; mlp: softmax(W2 ReLU(W1 ReLU(W0 x))); mnist_cnn: 2 convolutions, 2 linear; vgg:
    8 or 13 convolutions with batch normalisation."""
    degree: int = 2
    """Degree of `polynomial`."""
    hidden: tuple[int, ...] = (512, 512)
    """Widths of the hidden layers of `mlp`, in units."""
    bias: bool = False
    """Whether the layers of `mlp` add a bias; the slides' do not."""
    dropout: bool = True
    """Whether `mnist_cnn` (ratios 0.25 and 0.5) and `vgg` of depth 16 (0.3, 0.4 and 0.5) drop out activations."""
    depth: int = 11
    """Depth of `vgg`: 11 (8 convolutions, 1 linear layer) or 16 (13 convolutions, 2 linear layers)."""
    convolution: Literal["auto", "direct", "winograd"] = "auto"
    """How 3x3 convolutions are computed; auto: by the fewer operations, layer by layer (docs/performance.md)."""

    def __post_init__(self) -> None:
        require(0 <= self.degree <= 1000, "model.degree", self.degree, "use 0 to 1000")
        require(self.depth in (11, 16), "model.depth", self.depth, "use 11 or 16")
        fix = f"every width must be 1 to {LARGEST}"
        require(all(1 <= width <= LARGEST for width in self.hidden), "model.hidden", list(self.hidden), fix)
