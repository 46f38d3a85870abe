"""The cost model chooses what was measured to be fastest, and depends on the shape alone."""

from __future__ import annotations

import pytest

from ddp.nn.convolution_method import choose_patch, direct_cost, winograd_cost

# Output image, channels, and the m that the measured times of docs/performance.md speak for; 0 is direct.
LAYERS = {
    "mnist_cnn 1->32": ((26, 26), (1, 32), 0),
    "mnist_cnn 32->64": ((24, 24), (32, 64), 4),
    "vgg 3->64": ((32, 32), (3, 64), 4),
    "vgg 64->64": ((32, 32), (64, 64), 4),
    "vgg 64->128": ((16, 16), (64, 128), 4),
    "vgg 256->512, 4x4": ((4, 4), (256, 512), 4),
    "vgg 512->512, 4x4": ((4, 4), (512, 512), 4),
    "vgg 512->512, 2x2": ((2, 2), (512, 512), 2),
    "one pixel": ((1, 1), (64, 64), 0),
    "one channel": ((100, 100), (1, 1), 0),
}


@pytest.mark.parametrize("name", LAYERS)
def test_auto_takes_the_fastest(name: str) -> None:
    image, channels, m = LAYERS[name]
    assert choose_patch("auto", 3, image, channels) == m


@pytest.mark.parametrize("name", LAYERS)
def test_methods_can_be_forced(name: str) -> None:
    image, channels, _ = LAYERS[name]
    assert choose_patch("direct", 3, image, channels) == 0
    assert choose_patch("winograd", 3, image, channels) in (2, 4)


@pytest.mark.parametrize("kernel_size", [1, 2, 4, 5, 7])
def test_other_kernels_are_direct(kernel_size: int) -> None:
    assert choose_patch("auto", kernel_size, (32, 32), (64, 64)) == 0


def test_costs_count_multiply_adds_of_vectors() -> None:
    # 32 samples of 4 * 14 pixels, 100 more for the weights; 9 taps of 5 input channels, 40 more for a pixel's
    # outputs; 2 vectors of them.
    assert direct_cost((4, 14), (5, 17)) == ((32 * 4 * 14 + 100) * 9 * 5 + 40 * 32 * 4 * 14) * 2
    # 36 points; 32 * 1 * 4 patches, 40 more for the weights; 16 for each of 1 + 2 vectors of a patch's points.
    assert winograd_cost(4, (4, 14), (5, 17)) == 36 * ((128 + 40) * 5 * 2 + 16 * 128 * 3)
