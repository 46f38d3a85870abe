"""The one exception of the launcher: a mistake that its user can mend."""

from __future__ import annotations


class UsageError(ValueError):
    """The user's mistake: one line that names the offending value and the fix; the launcher exits with 2."""
