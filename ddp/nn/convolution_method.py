"""Which method computes a convolution: a cost model of the layer's shape, and of nothing else.

The number of ranks, threads or samples of a rank must not enter, nor the processor: else they would decide how
results are rounded. The unit is a multiply-add of one vector register; the constants were fitted to the times of
the layers of mnist_cnn and vgg (docs/performance.md).
"""

from __future__ import annotations

METHODS = ("auto", "direct", "winograd")

LANES = 16  # of an AVX-512 register
BATCH = 32  # samples that share the work on the weights
PANELS = 100  # pixels: what it costs to copy the weights into panels and to add their gradients to the sums
STREAM = 40  # multiply-adds: what it costs to pass over a vector of outputs, several times in the weight gradient
TRANSFORM = 16  # multiply-adds: what it costs to transform one element of a patch, and to fetch it
WEIGHTS = 40  # patches: what it costs to transform the weights and their gradients


def _vectors(channels: int) -> int:
    return -(-channels // LANES)


def direct_cost(image: tuple[int, int], channels: tuple[int, int]) -> int:
    """The mean cost of a pass of the direct method over `BATCH` samples.

    Args:
        image: OH, OW, height and width of the output image, in pixels.
        channels: IC, OC.
    """
    pixels = BATCH * image[0] * image[1]
    return ((pixels + PANELS) * 9 * channels[0] + STREAM * pixels) * _vectors(channels[1])


def winograd_cost(m: int, image: tuple[int, int], channels: tuple[int, int]) -> int:
    """The mean cost of a pass of F(m x m, 3x3) over `BATCH` samples; arguments otherwise as `direct_cost`."""
    patches = BATCH * -(-image[0] // m) * -(-image[1] // m)
    products = (patches + WEIGHTS) * channels[0] * _vectors(channels[1])
    transforms = TRANSFORM * patches * (_vectors(channels[0]) + _vectors(channels[1]))
    return (m + 2) ** 2 * (products + transforms)


def choose_patch(method: str, kernel_size: int, image: tuple[int, int], channels: tuple[int, int]) -> int:
    """The m of the F(m x m, 3x3) that computes a layer, or 0 for the direct method.

    Args:
        method: one of `METHODS`; `winograd` with 3x3 kernels only.
        kernel_size: height and width of the kernel; all but 3 are direct.
        image: OH, OW, height and width of the output image, in pixels.
        channels: IC, OC.
    """
    if method == "direct" or kernel_size != 3:
        return 0
    cost, m = min((winograd_cost(m, image, channels), m) for m in (2, 4))
    return m if method == "winograd" or cost < direct_cost(image, channels) else 0
