"""``caffe-margin plugin``: a net for a Caffe without the C++ layer, and back."""

from __future__ import annotations

import argparse
import sys
import warnings

from caffe_margin.cli.common import (
    Commands,
    add_command,
    add_net,
    complain,
    file_name,
    read_net_as_written,
)


def add_to(commands: Commands[argparse.ArgumentParser]) -> None:
    """Add the command."""
    command = add_command(
        commands,
        "plugin",
        run,
        summary="make a net run in a Caffe that lacks the layer",
        description=(
            "Turn the MarginInnerProduct layers of a net into Python layers, which a Caffe built\n"
            "with WITH_PYTHON_LAYER=1 runs without the authors' C++. Nothing else in the text\n"
            "changes, and weights fit both nets. The Python of that Caffe must find caffe_margin\n"
            "and caffe's own python folder: PYTHONPATH=… caffe train --solver=…"
        ),
        example=(
            "caffe-margin plugin sphereface_model.prototxt -o plugin.prototxt\n"
            "  caffe-margin plugin --reverse plugin.prototxt -o sphereface_model.prototxt"
        ),
    )
    add_net(command, "a .prototxt")
    command.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        type=file_name,
        help="write the net here (default: standard output)",
    )
    command.add_argument(
        "--reverse", action="store_true", help="turn the Python layers back into the C++ layer"
    )


def run(options: argparse.Namespace) -> int:
    """Write the net."""
    from caffe_margin.files import prototxt
    from caffe_margin.nets import plugin_text

    net = read_net_as_written(options)
    if any(layer.blobs for layer in net.layer):
        raise ValueError(
            f"{options.net} holds weights, which fit both nets as they are: give the .prototxt"
        )
    text = prototxt.read_text(options.net)
    change = plugin_text.from_python if options.reverse else plugin_text.to_python
    new = change(text, filename=options.net)
    if options.output:
        prototxt.write_text(new.text, options.output)
    else:
        sys.stdout.flush()
        sys.stdout.buffer.write(new.text.encode("utf-8", "surrogateescape"))
    to = "a MarginInnerProduct" if options.reverse else "a Python"
    for name in new.layers:
        complain(f"layer {name!r} is {to} layer now")
    if options.reverse:
        plugin_text.restore(net, filename=options.net)
        for layer in net.layer:
            if layer.margin_inner_product_param.HasField("gradient"):
                warnings.warn(
                    f"layer {layer.name!r}: the C++ knows no `gradient`; take that line out for it",
                    stacklevel=1,
                )
    return 0
