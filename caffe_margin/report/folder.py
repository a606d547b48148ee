"""The folder of a report, replaced only once its successor is complete."""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from caffe_margin.files.atomic import clear_scratch, scratch_folder
from caffe_margin.files.regular import irregular

PROGRAM = "caffe-margin"

INDEX = "report.json"
"""The file that makes a folder ours.

It says so under ``made_by``, which begins with `PROGRAM`, and lists, under ``files``, every file
that may be replaced. Both are among its first bytes.
"""

HEAD_BYTES = 2**20
"""So much of an index is read: whatever lies in the folder, that takes no time."""

_MADE_BY = re.compile(rf'"made_by"\s*:\s*"{PROGRAM} ')
_FILES = re.compile(r'"files"\s*:\s*(\[[^][{}]*\])')


@contextmanager
def staging_folder(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a new empty folder whose files become those of ``folder`` if the block ends well.

    ``folder`` may be absent, empty, or a former report: it has an `INDEX` of ours and holds no
    file that is not listed there. It is made where it is absent, with those above it. If the block
    raises, nothing has changed.

    The new files are built in a hidden folder inside it, so a folder that exists stays the same
    folder, be it a mount point or somebody's working directory.

    Raises:
        FileExistsError: ``folder`` is a file, or holds what is not ours.
        OSError: it cannot be written; names ``folder``.
    """
    check_folder(folder)
    target = Path(os.path.realpath(folder))
    made = [path for path in (target, *target.parents) if not path.exists()]
    try:
        target.mkdir(parents=True, exist_ok=True)
        with scratch_folder(target) as staged:
            yield staged
            _publish(staged, target, _former_files(target, besides=staged.name))
        made.clear()
    except OSError as error:
        raise _naming(folder, error) from error
    finally:
        for path in made:
            with suppress(OSError):
                path.rmdir()


def check_folder(folder: str | os.PathLike[str]) -> None:
    """Raise what `staging_folder` would where a folder holds what is not ours, or is a file."""
    target = Path(os.path.realpath(folder))
    try:
        clear_scratch(target)
        _former_files(target)
    except OSError as error:
        raise _naming(folder, error) from error


def _naming(folder: str | os.PathLike[str], error: OSError) -> OSError:
    """Return an error with the folder's name in it."""
    reason = error.strerror or str(error)
    return OSError(error.errno or errno.EIO, reason, os.fspath(folder))


def _publish(staged: Path, target: Path, former: set[str]) -> None:
    """Move the staged files into place one by one, and remove the former ones they leave over.

    Wherever that is stopped, the index lists all that is there, and so the next report replaces it.
    """
    names = {path.name for path in staged.iterdir()} - {INDEX}
    former = former - {INDEX}
    claim = {"made_by": f"{PROGRAM} (unfinished)", "files": sorted({INDEX} | names | former)}
    unfinished = staged / "unfinished"
    unfinished.write_text(json.dumps(claim), "utf-8")
    os.replace(unfinished, target / INDEX)
    for name in sorted(names):
        os.replace(staged / name, target / name)
    for name in sorted(former - names):
        os.remove(target / name)
    os.replace(staged / INDEX, target / INDEX)


def _former_files(target: Path, besides: str = "") -> set[str]:
    """Return the names of the files in it; raise FileExistsError unless all are ours."""
    if not target.exists():
        return set()
    if not target.is_dir():
        raise FileExistsError(
            errno.EEXIST, f"is {irregular(target) or 'a file'}; a report needs a folder"
        )
    found = {entry.name for entry in target.iterdir()} - {besides}
    folders = {name for name in found if (target / name).is_dir()}
    if strangers := sorted(found - _listed(target / INDEX) | folders):
        why = f"holds {strangers[0]!r}, which is no former report's"
        if INDEX in strangers:  # Without the index all the others are strangers too.
            why += f", or {INDEX} cannot be read as its list of files"
        raise FileExistsError(errno.EEXIST, f"{why}; name a new or empty folder")
    return found


def _listed(index: Path) -> set[str]:
    """Return the files that an index of ours lists; none where it is no such index."""
    try:
        if not index.is_file():  # To open a pipe would be to wait for its writer.
            return set()
        with index.open("rb") as file:
            head = file.read(HEAD_BYTES).decode("utf-8", "replace")
        files = _FILES.search(head)
        return set(json.loads(files[1])) if files and _MADE_BY.search(head) else set()
    except (OSError, ValueError):
        return set()
