"""What the commands share: argument types, JSON, the progress bar."""

from __future__ import annotations

import argparse
import json
import math
import os
import struct
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

from caffe_margin.files.visible import visible

if TYPE_CHECKING:
    from caffe_margin import caffe_margin_pb2 as pb

T = TypeVar("T")

Commands = argparse._SubParsersAction

PATH_MAX = 4096
"""Characters of a path at most, on Linux."""


def show_path(path: str) -> str:
    """Return a path in one line; whole, for as long as a system takes it for a path."""
    return visible(path, PATH_MAX)


def one_line(message: object) -> str:
    """Return a message in one line, cut where it is longer than a path and its reason."""
    return visible(" ".join(str(message).split()), 2 * PATH_MAX)


def complain(message: object) -> None:
    """Print a line to standard error; where nobody takes it, the exit status says it alone."""
    try:
        print(f"caffe-margin: {one_line(message)}", file=sys.stderr, flush=True)
    except OSError:
        discard(sys.stderr)


def discard(stream: TextIO) -> None:
    """Turn a stream that cannot be written to nowhere: Python would fail again as it exits."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


class Renamed(argparse.Action):
    """An option of old that says what it is called now, and is not in the help."""

    def __init__(self, option_strings: Sequence[str], dest: str, new: str) -> None:
        super().__init__(option_strings, dest, nargs="?", help=argparse.SUPPRESS)
        self.new = new

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        """Refuse it."""
        parser.error(f"{self.option_strings[0]} is {self.new} now")


def add_command(
    commands: Commands[argparse.ArgumentParser],
    name: str,
    run: Callable[[argparse.Namespace], int],
    *,
    summary: str,
    description: str,
    example: str,
) -> argparse.ArgumentParser:
    """Add a command whose ``run`` takes the parsed options and returns the exit status."""
    command = commands.add_parser(
        name,
        help=summary,
        description=description,
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(run=run)
    return command


def add_net(command: argparse.ArgumentParser, files: str = "a .prototxt, or a .caffemodel") -> None:
    """Add the arguments of a command that reads a net: NET and --strict."""
    command.add_argument("net", metavar="NET", type=file_name, help=files)
    command.add_argument("--strict", action="store_true", help="refuse fields the schema lacks")


def read_net(options: argparse.Namespace) -> pb.NetParameter:
    """Return the net at NET, the plugin's layers as what they stand for."""
    from caffe_margin.nets import plugin_text

    net = read_net_as_written(options)
    plugin_text.restore(net, filename=options.net)
    return net


def read_net_as_written(options: argparse.Namespace) -> pb.NetParameter:
    """Return the net at NET as it is."""
    from caffe_margin.files import prototxt

    try:
        return prototxt.read_net(options.net, strict=options.strict)
    except prototxt.ParseError:
        _refuse_solver(options.net)
        raise


def _refuse_solver(path: str) -> None:
    """Say where a solver goes that was given in a net's place."""
    from caffe_margin.files import prototxt

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", prototxt.UnknownFieldWarning)
            solver = prototxt.read_solver(path)
    except ValueError:
        return
    net = solver.net or solver.train_net or "NET.prototxt"
    raise ValueError(
        f"{path} is a solver; give its net, {net}, in its place, and the solver beside it to "
        f"schedule: caffe-margin schedule {net} --solver {path}"
    ) from None


def add_state(command: argparse.ArgumentParser, phase: str = "TRAIN") -> None:
    """Add the arguments that say which of a net's layers are built: --phase, --level, --stage."""
    command.add_argument(
        "--phase", choices=["TRAIN", "TEST"], default=phase, help=f"the phase (default: {phase})"
    )
    command.add_argument(
        "--level", type=int, default=0, help="the level that layers' rules ask for (default: 0)"
    )
    add_stage(command)


def add_stage(command: argparse.ArgumentParser) -> None:
    """Add --stage."""
    command.add_argument(
        "--stage",
        metavar="STAGE",
        action="append",
        default=[],
        help="a stage that layers' rules ask for; may be given again",
    )


def add_weights(command: argparse.ArgumentParser) -> None:
    """Add --weights."""
    command.add_argument(
        "--weights", metavar="FILE", type=file_name, help="a .caffemodel or .h5 with the parameters"
    )


def read_state(options: argparse.Namespace) -> pb.NetParameter:
    """Return the net at NET with the layers that Caffe builds in `add_state`'s state."""
    from caffe_margin.nets.select import filter_net

    return filter_net(read_net(options), options.phase, options.level, options.stage)


def add_shapes(command: argparse.ArgumentParser) -> None:
    """Add --shape."""
    command.add_argument(
        "--shape",
        metavar="BLOB=D,D,...",
        action="append",
        default=[],
        type=_shape,
        help="the shape of a top of a data layer, or of a layer whose shapes are not known here, "
        "such as Python; may be given again",
    )


def _shape(text: str) -> tuple[str, tuple[int | None, ...]]:
    name, equals, dims = text.partition("=")
    try:
        shape = tuple(None if dim.strip() == "?" else int(dim) for dim in dims.split(","))
    except ValueError:
        shape = ()
    if not (name and equals and shape):
        raise argparse.ArgumentTypeError(f"{text!r} is not like data=256,3,112,96")
    return name, shape


def add_json(command: argparse.ArgumentParser) -> None:
    """Add --json."""
    command.add_argument("--json", action="store_true", help="print JSON")


def positive(text: str) -> int:
    """Parse a whole number above 0."""
    if (value := not_negative(text)) == 0:
        raise argparse.ArgumentTypeError(f"{text} is not positive")
    return value


def not_negative(text: str) -> int:
    """Parse a whole number from 0 to what an int32 of the schema holds."""
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
    if not 0 <= value < 2**31:
        raise argparse.ArgumentTypeError(f"{text} is not within 0 to {2**31 - 1}")
    return value


def number(text: str) -> float:
    """Parse a finite number."""
    if not math.isfinite(value := _float(text)):
        raise argparse.ArgumentTypeError(f"{text} is not a finite number")
    return value


def _float(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
    return _single(value)


def _single(value: float) -> float:
    """Return a number that a float32, in which it will be used, makes neither infinite nor 0."""
    try:
        (single,) = struct.unpack("<f", struct.pack("<f", value))
    except OverflowError:
        single = 0.0
    if value and not single:
        raise argparse.ArgumentTypeError(
            f"{value:g} is beyond a float32, which holds magnitudes of 1.4e-45 to 3.4e38, and 0"
        )
    return value


def positive_number(text: str) -> float:
    """Parse a finite number above 0."""
    if not 0 < (value := _float(text)) < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


def file_name(text: str) -> str:
    """Take the name of a file or folder; what a shell makes of an unset variable is none."""
    if not text:
        raise argparse.ArgumentTypeError("an empty string is no name of a file")
    return text


def mean(text: str) -> str:
    """Take finite numbers, divided by commas, or the name of a file."""
    try:
        values = [float(part) for part in file_name(text).split(",")]
    except ValueError:
        return text
    if not all(map(math.isfinite, values)):
        raise argparse.ArgumentTypeError(f"{text} is not finite numbers")
    for value in values:
        _single(value)
    return text


def refuse_to_replace(inputs: Iterable[str | None], out: str) -> None:
    """Raise ValueError where the file to write is one of those that are read."""
    for path in filter(None, inputs):
        is_same = False
        with suppress(OSError, ValueError):  # one of them is not there, or no name of a file
            is_same = os.path.samefile(path, out)
        if is_same:
            raise ValueError(f"{out} would replace {path}, which is read: give another --out")


def png(text: str) -> str:
    """Take the name of a picture."""
    if not file_name(text).lower().endswith(".png"):
        raise argparse.ArgumentTypeError(f"{text} does not end in .png, which the picture is")
    return text


def print_json(value: Any) -> None:
    """Print a value as JSON; NaN and infinity, which JSON lacks, are errors."""
    json.dump(value, sys.stdout, indent=2, allow_nan=False)
    print()


@contextmanager
def progress(what: str, quiet: bool) -> Iterator[Callable[[Iterable[T]], Iterable[T]]]:
    """Yield a function that shows a bar while an iterable is gone through, on a terminal only."""
    from rich.console import Console
    from rich.progress import Progress

    err = Console(stderr=True)
    if quiet or not err.is_terminal:
        yield lambda items: items
        return
    with Progress(console=err, transient=True) as bar:
        yield lambda items: bar.track(tuple(items), description=what)
