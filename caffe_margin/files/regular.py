"""Whether a path is a file with an end, before it is opened."""

from __future__ import annotations

import os
import stat


def irregular(path: str | os.PathLike[str]) -> str | None:
    """Return what is at a path, "a folder" or "a device or pipe", or None for a regular file.

    Opening a pipe waits for whoever writes to it, and a device may never end.

    Raises:
        OSError: there is nothing at the path, or it cannot be looked at.
    """
    mode = os.stat(path).st_mode
    if stat.S_ISREG(mode):
        return None
    return "a folder" if stat.S_ISDIR(mode) else "a device or pipe"


def check_regular(path: str | os.PathLike[str]) -> None:
    """Raise ValueError unless a regular file is at a path.

    Raises:
        OSError: there is nothing at the path, or it cannot be looked at.
    """
    if what := irregular(path):
        raise ValueError(f"{path}: {what}, not a file")
