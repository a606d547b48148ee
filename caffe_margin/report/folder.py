"""A folder of output that is replaced only once its successor is complete."""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROGRAM = "caffe-margin"

INDEX = "report.json"
"""The file that makes a folder ours.

It says so under ``made_by``, which begins with `PROGRAM`, and lists, under ``files``, every file
that may be replaced.
"""


@contextmanager
def replacing(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a new empty folder whose files become those of ``folder`` if the block ends well.

    ``folder`` may be absent, empty, or a former output: it has an `INDEX` of ours and holds no
    file that is not listed there. Folders above it are made. If the block raises, nothing has
    changed.

    A folder that exists stays the same folder, be it a mount point or somebody's working directory:
    the new files are built in a hidden folder inside it and renamed into place one by one, `INDEX`
    last, and then those of the former output that have no successor go. Should a rename fail half
    way, files of both are there, under the former `INDEX`.

    Raises:
        FileExistsError: ``folder`` is a file, or holds what is not ours.
        OSError: it cannot be written; names ``folder``.
    """
    target = Path(os.path.realpath(folder))
    _check(target, folder)
    made: list[Path] = []
    hidden: Path | None = None
    try:
        for parent in [*target.parents][::-1]:
            if not parent.exists():
                parent.mkdir()
                made.append(parent)
        is_there = target.exists()
        hidden = Path(
            tempfile.mkdtemp(prefix=f".{target.name}.", dir=target if is_there else target.parent)
        )
        new = hidden / "new"
        new.mkdir()
        yield new
        if is_there:
            former = _check(target, folder, besides=hidden.name)
            names = {path.name for path in new.iterdir()}
            for name in sorted(names, key=lambda name: (name == INDEX, name)):
                os.replace(new / name, target / name)
            for name in former - names:
                (target / name).unlink()
        else:
            new.rename(target)
        made.clear()
    except OSError as error:
        reason = error.strerror or str(error)
        raise OSError(error.errno or errno.EIO, reason, os.fspath(folder)) from error
    finally:
        if hidden is not None:
            shutil.rmtree(hidden, ignore_errors=True)
        for parent in made[::-1]:
            parent.rmdir()


def _check(target: Path, name: str | os.PathLike[str], besides: str = "") -> set[str]:
    """Return the names of the files in it; raise FileExistsError unless all are ours."""
    if not target.exists():
        return set()
    if not target.is_dir():
        raise FileExistsError(errno.EEXIST, "is a file; a report needs a folder", os.fspath(name))
    found = {entry.name for entry in target.iterdir()} - {besides}
    try:
        index = json.loads((target / INDEX).read_text("utf-8"))
        ours = set(index["files"]) if index["made_by"].startswith(f"{PROGRAM} ") else set()
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        ours = set()
    folders = {entry for entry in found if (target / entry).is_dir()}
    if strangers := sorted(found - ours | folders):
        raise FileExistsError(
            errno.EEXIST,
            f"holds {strangers[0]!r}, which is no former report's; name a new or empty folder",
            os.fspath(name),
        )
    return found
