"""The command ``caffe-margin``: parses, calls, prints; a module a command.

Exits 0 on success, 1 when a check fails, 2 on bad usage or bad input. A command imports what it
needs when it runs, so that ``--help`` answers at once.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
import warnings
from collections.abc import Sequence
from importlib import metadata

from caffe_margin.cli import (
    compare,
    export,
    geometry,
    inspect,
    pairs,
    plugin,
    record,
    run,
    schedule,
    train,
    verify,
)
from caffe_margin.cli.common import complain, discard

COMMANDS = (compare, inspect, schedule, verify, record, run, train, export, pairs, plugin, geometry)

EXTRAS = {"torch", "cv2", "h5py", "lmdb"}
"""Modules whose absence is no bug: the message says what to install."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    # Python has None for a stream that was closed when it started.
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        # A name that the terminal's encoding lacks is no reason to lose the answer.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        options = _parser().parse_args(arguments)
        with warnings.catch_warnings():
            warnings.simplefilter("always", UserWarning)
            warnings.showwarning = _show_warning
            status: int = options.run(options)
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        # Whoever read our output has left.
        discard(sys.stdout)
        return 1
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        reason = error.strerror or str(error)
        complain(reason if error.filename is None else f"{error.filename!r}: {reason}")
    except (ValueError, MemoryError) as error:
        complain(str(error) or "out of memory")
    except ModuleNotFoundError as error:
        if error.name not in EXTRAS:
            raise
        complain(error)
    return 2


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    complain(f"warning: {message}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="caffe-margin",
        description="SphereFace's MarginInnerProduct layer, from its Caffe files.",
    )
    parser.add_argument("--version", action="version", version=metadata.version("caffe_margin"))
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add_to(commands)
    return parser
