"""A file of output that appears whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a path beside ``path`` to write to, which takes its place if the block ends well.

    If the block raises, ``path`` is as it was and nothing is left beside it. A file that is
    replaced hands on its permissions.

    Raises:
        OSError: ``path`` is a folder, a device or a pipe, is in no folder, or cannot be written;
            names ``path``.
    """
    target = Path(os.path.realpath(path))
    if target.is_dir():
        raise IsADirectoryError(errno.EISDIR, "is a folder, not a file", os.fspath(path))
    if target.exists() and not target.is_file():
        # To replace /dev/null by a file would be the end of it.
        raise OSError(errno.EINVAL, "is a device or pipe, not a file", os.fspath(path))
    if not target.parent.is_dir():
        raise FileNotFoundError(
            errno.ENOENT, f"there is no folder {str(target.parent)!r}", os.fspath(path)
        )
    unfinished = target.with_name(f".{uuid.uuid4().hex}.tmp{target.suffix}")
    try:
        yield unfinished
        if target.exists():
            shutil.copymode(target, unfinished)
        os.replace(unfinished, target)
    except OSError as error:
        reason = error.strerror or str(error)
        raise type(error)(error.errno, reason, os.fspath(path)) from error
    finally:
        unfinished.unlink(missing_ok=True)
