"""The only ownership rule: which contiguous block of `n` items belongs to part `index` of `parts`."""

from __future__ import annotations


def block_partition(n: int, parts: int, index: int) -> range:
    """The `index`-th of `parts` contiguous blocks of `range(n)`, sizes differing by at most one.

    The first `n % parts` blocks are one longer. The blocks cover `range(n)` in order, without gap
    or overlap; blocks are empty where `parts > n`.

    >>> [len(block_partition(10, 4, i)) for i in range(4)]
    [3, 3, 2, 2]

    Raises:
        ValueError: if `n < 0`, `parts < 1`, or `index` is outside `range(parts)`.
    """
    if n < 0 or parts < 1 or not 0 <= index < parts:
        raise ValueError(f"block_partition needs n >= 0 and 0 <= index < parts, got {n=} {parts=} {index=}")
    size, longer = divmod(n, parts)
    start = index * size + min(index, longer)
    return range(start, start + size + (index < longer))
