"""``caffe-margin verify``: replay recordings, and compare."""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from caffe_margin.cli.common import (
    Commands,
    add_command,
    add_json,
    complain,
    file_name,
    print_json,
    progress,
    show_path,
)

if TYPE_CHECKING:
    from caffe_margin.recordings.check import Verification


def add_to(commands: Commands[argparse.ArgumentParser]) -> None:
    """Add the command."""
    command = add_command(
        commands,
        "verify",
        run,
        summary="replay recordings of layers and nets, and compare",
        description=(
            "Replay each recording under every engine there is for it, and hold every blob\n"
            "against the recorded one. A line a recording shows the blob that is farthest off:\n"
            "its largest difference, the same over the blob's largest magnitude, and in units\n"
            "of that magnitude's last place. -v adds a line a blob.\n\n"
            "The engines fused and line_by_line replay the layers with a margin and softmax\n"
            "losses, also those of a whole net, each by itself. torch replays whole nets, every\n"
            "blob, diff and parameter of them; it needs PyTorch.\n\n"
            "Exits 1 where a blob is outside tolerance, 2 where a file is no sound recording;\n"
            "the other files are verified all the same."
        ),
        example="caffe-margin verify -v tests/data/recordings",
    )
    command.add_argument(
        "paths",
        metavar="PATH",
        nargs="+",
        type=file_name,
        help="a recording (.npz), or a folder of them",
    )
    command.add_argument(
        "--engine",
        dest="engines",
        action="append",
        choices=["fused", "line_by_line", "torch"],
        help="replay by this engine alone; may be given again",
    )
    command.add_argument(
        "--weights",
        metavar="FILE",
        type=file_name,
        help="take a net's parameters from here, a .caffemodel or .h5, where a recording does not "
        "hold them",
    )
    command.add_argument(
        "--rtol",
        metavar="R",
        type=_tolerance,
        help="tolerance, of a blob's largest magnitude (default: 1e-12 in float64, 2e-6 in "
        "float32; through torch 1e-10 in float64, and in float32 four times what Caffe's own "
        "float is off its double, where that recording lies beside it)",
    )
    command.add_argument(
        "-v",
        "--verbose",
        action="store_true",
        help="a line a blob, and which of a net's layers were not replayed",
    )
    add_json(command)


def _tolerance(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return value


def run(options: argparse.Namespace) -> int:
    """Print a line a recording."""
    from caffe_margin.cli import tables
    from caffe_margin.files.weights import read_blobs
    from caffe_margin.recordings.replay import verify

    if options.weights:
        read_blobs(options.weights)  # said once, and not for each recording, where they are none
    paths, skipped, errors = find_recordings(options.paths)
    verifications: dict[str, Verification] = {}
    with progress("recordings", options.json) as track:
        for path in track(paths):
            try:
                verifications[path] = verify(
                    path, options.rtol, engines=options.engines, weights=options.weights
                )
            except (OSError, ValueError, MemoryError) as error:
                errors[path] = _reason(path, error)

    ok = all(verification.ok for verification in verifications.values())
    if options.json:
        print_json(
            {
                "ok": ok and not errors,
                "recordings": [
                    _as_dict(path, verification) for path, verification in verifications.items()
                ],
                "errors": [{"path": path, "error": error} for path, error in errors.items()],
                "skipped": skipped,
            }
        )
    else:
        for line in tables.verify_lines(verifications, options.verbose):
            print(line)
        if _wants_torch(verifications.values()) and not options.engines:
            print("whole nets are replayed with PyTorch: pip install 'caffe_margin[torch]'")
        if skipped:
            names = ", ".join(map(show_path, skipped[:3])) + (", ..." if len(skipped) > 3 else "")
            print(f"skipped {len(skipped)} of the folders' files, which are no .npz: {names}")
    sys.stdout.flush()
    for reason in errors.values():
        complain(reason)
    return 2 if errors else 0 if ok else 1


def find_recordings(paths: Iterable[str]) -> tuple[list[str], list[str], dict[str, str]]:
    """Return the files to read, the folders' other files, and what is wrong with a path.

    A folder gives every .npz below it; names that start with a dot are passed over in silence.
    """
    found: dict[str, None] = {}
    skipped: list[str] = []
    errors: dict[str, str] = {}
    for path in paths:
        if not os.path.isdir(path):
            found[path] = None
            continue
        files: list[str] = []

        def unreadable(error: OSError) -> None:
            errors[str(error.filename)] = f"{error.filename}: {error.strerror}"

        for folder, folders, names in os.walk(path, onerror=unreadable):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            visible = sorted(name for name in names if not name.startswith("."))
            files += [os.path.join(folder, name) for name in visible]
        recordings = [file for file in files if file.endswith(".npz")]
        found.update(dict.fromkeys(recordings))
        skipped += [file for file in files if not file.endswith(".npz")]
        if not recordings and path not in errors:
            errors[path] = f"{path}: the folder holds no recording (.npz)"
    return list(found), skipped, errors


def _wants_torch(verifications: Iterable[Verification]) -> bool:
    """Whether layers of nets were not replayed, and PyTorch is not installed."""
    from importlib.util import find_spec

    some = any(verification.not_replayed for verification in verifications)
    return some and (sys.modules.get("torch", 0) is None or find_spec("torch") is None)


def _reason(path: str, error: Exception) -> str:
    if isinstance(error, OSError):
        return f"{path}: {error.strerror or error}"
    return str(error) or f"{path}: out of memory"


def _as_dict(path: str, verification: Verification) -> dict[str, Any]:
    from caffe_margin.files.plain_json import plain

    return {
        "path": path,
        "kind": verification.kind,
        "source": verification.source,
        "ok": verification.ok,
        "checks": [plain(asdict(check) | {"ok": check.ok}) for check in verification.checks],
        "not_replayed": list(verification.not_replayed),
        "wrong_in_caffe": list(verification.wrong_in_caffe),
    }
