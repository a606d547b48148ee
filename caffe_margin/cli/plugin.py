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
            "Turn the MarginInnerProduct and LargeMarginInnerProduct layers of a net into Python\n"
            "layers, which a Caffe built with WITH_PYTHON_LAYER=1 runs without the authors' C++.\n"
            "Nothing else in the text changes, and weights fit both nets. The Python of that\n"
            "Caffe must find caffe_margin and caffe's own python folder: PYTHONPATH=… caffe train\n"
            "--solver=…"
        ),
        example=(
            "caffe-margin plugin sphereface_model.prototxt -o plugin.prototxt\n"
            "  caffe-margin plugin --reverse plugin.prototxt -o sphereface_model.prototxt"
        ),
    )
    add_net(command, "a .prototxt")
    command.add_argument(
        "-o",
        "--out",
        "--output",
        metavar="FILE",
        type=file_name,
        help="write the net here (default: standard output)",
    )
    command.add_argument(
        "--reverse", action="store_true", help="turn the Python layers back into the C++ layers"
    )


def run(options: argparse.Namespace) -> int:
    """Write the net."""
    from caffe_margin.files import prototxt
    from caffe_margin.nets import plugin_text
    from caffe_margin.nets.margin import FIELDS, margin_param

    net = read_net_as_written(options)
    if any(layer.blobs for layer in net.layer):
        raise ValueError(
            f"{options.net} holds weights, which fit both nets as they are: give the .prototxt"
        )
    text = prototxt.read_text(options.net)
    change = plugin_text.from_python if options.reverse else plugin_text.to_python
    new = change(text, filename=options.net)
    if options.out:
        prototxt.write_text(new.text, options.out)
    else:
        sys.stdout.flush()
        sys.stdout.buffer.write(new.text.encode("utf-8", "surrogateescape"))
    margins = []
    if options.reverse:
        plugin_text.restore(net, filename=options.net)
        margins = [layer for layer in net.layer if layer.type in FIELDS]
    types = {layer.name: layer.type for layer in margins}
    for name in new.layers:
        now = types.get(name, "Python")
        complain(f"layer {name!r} is a {now} layer now")
    if options.reverse:
        for layer in margins:
            if margin_param(layer).HasField("gradient"):
                warnings.warn(
                    f"layer {layer.name!r}: the C++ knows no `gradient`; take that line out for it",
                    stacklevel=1,
                )
    return 0
