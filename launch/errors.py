"""What the launcher raises: a mistake that its user can mend, or a host that fails."""

from __future__ import annotations


class UsageError(ValueError):
    """The user's mistake: one line that names the offending value and the fix; the launcher exits with 2."""


class HostError(RuntimeError):
    """A host that does not answer: one line that names it; the launcher exits with 4."""
