"""``caffe-margin inspect``: a net's layers, blob shapes and parameters."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING

from caffe_margin.cli.common import (
    PATH_MAX,
    Commands,
    add_command,
    add_json,
    add_net,
    add_shapes,
    add_state,
    print_json,
    read_state,
    show_path,
)
from caffe_margin.files.visible import visible

if TYPE_CHECKING:
    from caffe_margin.nets.shapes import Shape


_MAX_HINTS = 4


def add_to(commands: Commands[argparse.ArgumentParser]) -> None:
    """Add the command."""
    command = add_command(
        commands,
        "inspect",
        run,
        summary="list a net's layers, blob shapes and parameters",
        description=(
            "List a net's layers, the shape of each top, and how many parameters each layer has.\n"
            "A dimension that only the run knows, such as the size of images in a list, is a ?."
        ),
        example="caffe-margin inspect models/sphereface_model.prototxt --shape data=256,3,112,96",
    )
    add_net(command)
    add_json(command)
    add_state(command)
    add_shapes(command)


def run(options: argparse.Namespace) -> int:
    """Print the listing."""
    from caffe_margin.cli import tables
    from caffe_margin.nets import shapes

    net = read_state(options)
    layers = shapes.infer_shapes(net, dict(options.shape))
    total = shapes.count_params(layers)
    if options.json:
        print_json(
            {
                "name": net.name,
                "phase": options.phase,
                "level": options.level,
                "stages": options.stage,
                "layers": [
                    {
                        "name": layer.name,
                        "type": layer.type,
                        "bottoms": layer.bottoms,
                        "tops": layer.tops,
                        "params": layer.params,
                        "param_count": layer.param_count,
                        "problem": layer.problem,
                    }
                    for layer in layers
                ],
                "param_count": total,
            }
        )
        return 0
    tables.console().print(tables.inspect_table(layers))
    name = visible(net.name) if net.name else show_path(options.net)
    print(
        f"\n{name}: {len(layers)} layers in {options.phase}, {tables.show_count(total)} parameters"
    )
    if unknown := shapes.unknown_inputs(net, layers):
        print(visible(_hint(unknown), PATH_MAX))
    return 0


def _hint(unknown: Mapping[str, Shape | None]) -> str:
    """Say which shapes may be given, with letters for what is to be put in."""
    names, flags = [], []
    for name, shape in list(unknown.items())[:_MAX_HINTS]:
        letters = "NCHW" if shape and len(shape) == 4 else "D" * len(shape or ())
        dims = [letters[i] if dim is None else str(dim) for i, dim in enumerate(shape or ())]
        names.append(repr(name))
        flags.append("--shape " + shlex.quote(f"{name}={','.join(dims) or 'D,D,...'}"))
    more = f" ({len(unknown) - _MAX_HINTS} more)" if len(unknown) > _MAX_HINTS else ""
    return f"give the shape of {', '.join(names)}{more} by {' '.join(flags)}"
