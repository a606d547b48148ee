"""``caffe-margin inspect``: a net's layers, blob shapes and parameters."""

from __future__ import annotations

import argparse

from caffe_margin.cli.common import Commands, add_command, add_json, add_net, print_json, read_net


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
    command.add_argument(
        "--phase", choices=["TRAIN", "TEST"], default="TRAIN", help="the phase (default: TRAIN)"
    )
    command.add_argument(
        "--shape",
        metavar="BLOB=D,D,...",
        action="append",
        default=[],
        type=_shape,
        help="the shape of a data layer's top; may be given again",
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


def run(options: argparse.Namespace) -> int:
    """Print the listing."""
    from caffe_margin.cli import tables
    from caffe_margin.files import prototxt
    from caffe_margin.nets import shapes

    net = prototxt.filter_net(read_net(options), options.phase)
    layers = shapes.infer_shapes(net, dict(options.shape))
    total = shapes.count_params(layers)
    if options.json:
        print_json(
            {
                "name": net.name,
                "phase": options.phase,
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
    print(
        f"\n{net.name or options.net}: {len(layers)} layers in {options.phase}, "
        f"{tables.show_count(total)} parameters"
    )
    return 0
