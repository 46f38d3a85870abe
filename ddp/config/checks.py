"""What is wrong with a value, in one line; and the largest sizes that make sense."""

from __future__ import annotations

LARGEST = 10**9
"""Above every size that makes sense, below those that overflow before memory runs out."""


class ConfigError(ValueError):
    """A mistake in the command line or the configuration: one line with the value and the fix."""


def require(condition: bool, name: str, value: object, fix: str) -> None:
    """Refuse a value.

    Args:
        condition: what must hold.
        name: of the field, with its section.
        value: its value.
        fix: what to do about it.

    Raises:
        ConfigError: unless the condition holds.
    """
    if not condition:
        raise ConfigError(f"{name} = {value}: {fix}")
