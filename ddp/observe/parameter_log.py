"""What a run's parameters are after every step, as digests: what `python -m launch verify` compares.

One JSON object a line, `{"step": 3, "digests": {"1.weight": "9f86d081884c7d65", ...}}`: step 0 first, before training;
then each step, with its loss and the model's state; evaluations as lines of their own.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

DIGEST_BYTES = 8


class ParameterLog:
    """Writes the lines; without a file it does nothing."""

    def __init__(self, path: Path | None) -> None:
        """Open the log, overwriting what is there; None for no log.

        Raises:
            ValueError: if the file cannot be written.
        """
        try:
            self._file = None if path is None else open(path, "w", encoding="utf-8")
        except OSError as error:
            raise ValueError(f"{path}: cannot write the log of parameters ({error.strerror})") from None

    def write(self, step: int, values: Callable[[], Mapping[str, npt.ArrayLike]]) -> None:
        """Append a line.

        Args:
            step: steps done.
            values: gives arrays and numbers by name; called only if there is a log.
        """
        if self._file is not None:
            digests = {name: digest(value) for name, value in values().items()}
            self._file.write(json.dumps({"step": step, "digests": digests}) + "\n")
            self._file.flush()

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()


def digest(value: npt.ArrayLike) -> str:
    """Of the bytes of an array or number: BLAKE2b, in hexadecimal."""
    array: npt.NDArray[Any] = np.ascontiguousarray(value)
    return hashlib.blake2b(array.tobytes(), digest_size=DIGEST_BYTES).hexdigest()
