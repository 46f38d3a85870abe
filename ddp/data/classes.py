"""What the classes of the known data sets are called."""

from __future__ import annotations

NAMES: dict[str, tuple[str, ...]] = {
    "fashion_mnist": (
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    ),
    "cifar10": ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
}
"""By `data.name`; sources: the README of Fashion-MNIST, batches.meta.txt of CIFAR-10."""


def class_names(data: str, num_classes: int) -> tuple[str, ...]:
    """A name for each class of a data set: its number where it has no other, or where they do not fit."""
    names = NAMES.get(data, ())
    return names if len(names) == num_classes else tuple(map(str, range(num_classes)))
