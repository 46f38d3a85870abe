"""What the command line takes for numbers: each turns a text into one, or says what is wrong with it."""

from __future__ import annotations

import argparse
import math

LEAST_SILENCE_S = 3.0
"""Below this a busy machine would be taken for a dead one: ranks beat once a second."""


def positive(text: str) -> int:
    """A whole number of at least 1.

    Raises:
        argparse.ArgumentTypeError: if `text` is anything else.
    """
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def not_negative(text: str) -> int:
    """A whole number of at least 0.

    Raises:
        argparse.ArgumentTypeError: if `text` is anything else.
    """
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 0")
    return int(text)


def seconds(text: str) -> float:
    """A finite number above 0.

    Raises:
        argparse.ArgumentTypeError: if `text` is anything else.
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return value


def silence(text: str) -> float:
    """Seconds without a heartbeat: 0, or at least LEAST_SILENCE_S.

    Raises:
        argparse.ArgumentTypeError: if `text` is anything else.
    """
    value = 0.0 if text == "0" else seconds(text)
    if 0 < value < LEAST_SILENCE_S:
        raise argparse.ArgumentTypeError(f"{text!r}: give at least {LEAST_SILENCE_S:g} seconds, or 0 for never")
    return value
