"""A file of output that appears whole or not at all, and the hidden folder it grows up in."""

from __future__ import annotations

import errno
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from caffe_margin.files.regular import irregular

_SCRATCH = re.compile(r"\.caffe-margin-[0-9a-f]{32}")


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a path near ``path`` to write to, which takes its place if the block ends well.

    If the block raises, ``path`` is as it was and nothing is left beside it; what a killed run
    leaves there goes with the next file that is written. A file that is replaced hands on its
    permissions.

    Raises:
        OSError: ``path`` is a folder, a device or a pipe, is in no folder, or cannot be written;
            names ``path``.
    """
    target = Path(os.path.realpath(path))
    if target.exists() and (what := irregular(target)):
        # To replace /dev/null by a file would be the end of it.
        code = errno.EISDIR if target.is_dir() else errno.EINVAL
        raise OSError(code, f"is {what}, not a file", os.fspath(path))
    if not target.parent.is_dir():
        raise FileNotFoundError(
            errno.ENOENT, f"there is no folder {str(target.parent)!r}", os.fspath(path)
        )
    try:
        with scratch_folder(target.parent) as scratch:
            unfinished = scratch / target.name
            yield unfinished
            if target.exists():
                shutil.copymode(target, unfinished)
            os.replace(unfinished, target)
    except OSError as error:
        reason = error.strerror or str(error)
        raise type(error)(error.errno, reason, os.fspath(path)) from error


@contextmanager
def scratch_folder(parent: Path) -> Iterator[Path]:
    """Yield a new hidden folder in ``parent``, which is removed at the end.

    It is locked for as long as the run lives, by which `clear_scratch` knows those of killed runs.

    Raises:
        OSError: ``parent`` cannot be written.
    """
    clear_scratch(parent)
    folder = parent / f".caffe-margin-{uuid.uuid4().hex}"
    unlocked = folder.with_suffix(".new")
    unlocked.mkdir(mode=0o700)
    lock = _lock(unlocked)
    try:
        # Only now, when it is locked, does it have the name of one that may be cleared.
        unlocked.rename(folder)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Keep other processes that ask for it out of a folder, for as long as the block lasts.

    Raises:
        OSError: another has it; names it.
    """
    lock = _lock(folder)
    if lock is None and os.name == "posix":
        raise OSError(errno.EBUSY, "another process works in it", os.fspath(folder))
    try:
        yield
    finally:
        if lock is not None:
            os.close(lock)


def clear_scratch(parent: Path) -> None:
    """Remove the scratch folders that killed runs left in ``parent``, as far as that can be."""
    with suppress(OSError):
        for name in filter(_SCRATCH.fullmatch, os.listdir(parent)):
            if (lock := _lock(parent / name)) is not None:
                shutil.rmtree(parent / name, ignore_errors=True)
                os.close(lock)


def _lock(folder: Path) -> int | None:
    """Return a descriptor that holds the folder's lock, which ends with the process at the latest.

    Returns:
        None where another holds it, where it is no folder, and where the system has no such locks.
    """
    try:
        import fcntl

        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except (ImportError, OSError):
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor
