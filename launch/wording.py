"""Numbers and names in messages."""

from __future__ import annotations

from collections.abc import Iterable


def count(n: int, noun: str) -> str:
    """A number of things: `1 rank`, `2 ranks`."""
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def plural(noun: str, numbers: Iterable[int]) -> str:
    """Things by their numbers: `rank 3`, `ranks 2, 3`."""
    given = sorted(numbers)
    return f"{noun}{'' if len(given) == 1 else 's'} {', '.join(map(str, given))}"


def capitalised(text: str) -> str:
    """A text as the beginning of a sentence: its other letters stay as they are, unlike those of `str.capitalize`.

    >>> capitalised("all runs of MPICH")
    'All runs of MPICH'
    """
    return text[:1].upper() + text[1:]
