"""A folder of output that appears whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

INDEX = "report.json"
"""The file that makes a folder ours: it lists, under ``files``, every file that may be replaced."""


@contextmanager
def replacing(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a new empty folder beside ``folder`` that takes its place if the block ends well.

    ``folder`` may be absent, empty, or a former output, which is then replaced: it has an `INDEX`
    and holds no file that is not listed there. If the block raises, nothing has changed. Folders
    above it are made.

    Raises:
        FileExistsError: ``folder`` is a file, or holds what is not ours.
        OSError: it cannot be written; names ``folder``.
    """
    target = Path(os.path.realpath(folder))
    _check(target, folder)
    made: list[Path] = []
    beside: Path | None = None
    try:
        for parent in [*target.parents][::-1]:
            if not parent.exists():
                parent.mkdir()
                made.append(parent)
        beside = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        new, old = beside / "new", beside / "old"
        new.mkdir()
        yield new
        if target.exists():
            _check(target, folder)
            target.rename(old)
            try:
                new.rename(target)
            except BaseException:
                old.rename(target)
                raise
        else:
            new.rename(target)
        made.clear()
    except OSError as error:
        reason = error.strerror or str(error)
        raise OSError(error.errno or errno.EIO, reason, os.fspath(folder)) from error
    finally:
        if beside is not None:
            shutil.rmtree(beside, ignore_errors=True)
        for parent in made[::-1]:
            parent.rmdir()


def _check(target: Path, name: str | os.PathLike[str]) -> None:
    if not target.exists():
        return
    if not target.is_dir():
        raise FileExistsError(errno.EEXIST, "is a file; a report needs a folder", os.fspath(name))
    found = {entry.name for entry in target.iterdir()}
    if not found:
        return
    try:
        ours = set(json.loads((target / INDEX).read_text("utf-8"))["files"])
    except (OSError, ValueError, KeyError, TypeError):
        ours = set()
    if strangers := sorted(found - ours):
        raise FileExistsError(
            errno.EEXIST,
            f"holds {strangers[0]!r}, which is no former report's; name a new or empty folder",
            os.fspath(name),
        )
