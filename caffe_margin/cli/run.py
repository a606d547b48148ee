"""``caffe-margin run``: a net's blobs for images, or for arrays."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from caffe_margin.cli.common import (
    Commands,
    add_command,
    add_json,
    add_net,
    add_state,
    add_weights,
    complain,
    file_name,
    mean,
    number,
    positive,
    print_json,
    progress,
    read_net_as_written,
    refuse_to_replace,
    show_path,
)
from caffe_margin.files.visible import visible

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from caffe_margin import caffe_margin_pb2 as pb
    from caffe_margin.torch.features import Features
    from caffe_margin.torch.images import Preprocessing

BATCH = 32
MIRRORED = "_mirrored"


def add_to(commands: Commands[argparse.ArgumentParser]) -> None:
    """Add the command."""
    command = add_command(
        commands,
        "run",
        run,
        summary="run a net on images, and write its blobs",
        description=(
            "Run a net with its weights on images or arrays, by PyTorch, and write blobs to an\n"
            ".npz: each under its name, a row a sample, and under images the files' names.\n"
            "Only the layers that the blobs come from are run.\n\n"
            "Images are decoded as Caffe decodes them, B G R, and then go through what the\n"
            "transform_param of a data layer says, the net's own or that of the net at --like,\n"
            "but for mirror; or else through --mean, --scale and the others. SphereFace's are\n"
            "--mean 127.5 --scale 0.0078125, which is (x - 127.5) / 128, at 112 x 96.\n\n"
            "Exits 1 where an image is missing, broken or of another size than the net's; it is\n"
            "named, and the others are run all the same."
        ),
        example=(
            "caffe-margin run models/sphereface_deploy.prototxt --weights W.caffemodel \\\n"
            "    --images faces/ --mean 127.5 --scale 0.0078125 --blob fc5 --out fc5.npz"
        ),
    )
    add_net(command)
    add_weights(command)
    source = command.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--images",
        metavar="PATH",
        nargs="+",
        type=file_name,
        help="image files, folders of them, or lists (.txt) with a name a line",
    )
    source.add_argument(
        "--inputs",
        metavar="FILE.npz",
        type=file_name,
        help="arrays for the net's inputs, by name, a row a sample",
    )
    command.add_argument(
        "-o", "--out", metavar="FILE.npz", required=True, type=file_name, help="the file to write"
    )
    command.add_argument(
        "--blob",
        dest="blobs",
        metavar="NAME",
        action="append",
        default=[],
        help="a blob to write; may be given again (default: the net's outputs)",
    )
    add_preprocessing(command)
    add_state(command, phase="TEST")
    command.add_argument(
        "--batch",
        metavar="N",
        type=positive,
        default=BATCH,
        help=f"samples that are run at once (default: {BATCH})",
    )
    command.add_argument("--device", default="cpu", help="PyTorch's device (default: cpu)")
    command.add_argument(
        "--dtype", choices=["float32", "float64"], default="float32", help="(default: float32)"
    )
    add_json(command)


def add_preprocessing(command: argparse.ArgumentParser) -> None:
    """Add what happens to images on their way into a net."""
    images = command.add_argument_group("images")
    images.add_argument(
        "--like",
        metavar="TRAIN.prototxt",
        type=file_name,
        help="do with the images what this net's data layer does",
    )
    images.add_argument(
        "--mean",
        metavar="M|M,M,M|FILE",
        type=mean,
        help="subtract a number, one a channel, or a mean .binaryproto",
    )
    images.add_argument("--scale", metavar="S", type=number, help="then multiply by this")
    images.add_argument(
        "--size",
        metavar="HxW",
        type=_size,
        help="the images' height and width before any crop (default: the net's)",
    )
    images.add_argument(
        "--resize", action="store_true", help="bring images of other sizes to it, as Caffe does"
    )
    images.add_argument("--rgb", action="store_true", help="channels are R, G, B")
    images.add_argument(
        "--mirror",
        action="store_true",
        help=f"run each image mirrored too; these blobs are called NAME{MIRRORED}",
    )
    images.add_argument(
        "--root", metavar="FOLDER", type=file_name, help="where a list's names begin"
    )


def _size(text: str) -> tuple[int, int]:
    height, x, width = text.lower().partition("x")
    if not (x and height.isdecimal() and width.isdecimal() and int(height) and int(width)):
        raise argparse.ArgumentTypeError(f"{text!r} is not like 112x96, height and width")
    return int(height), int(width)


def run(options: argparse.Namespace) -> int:
    """Write the file, and say what is in it."""
    from caffe_margin.cli.memory import keep_memory
    from caffe_margin.files.npz import write_arrays
    from caffe_margin.torch.features import Features

    refuse_to_replace(_files(options), options.out)
    keep_memory()
    features = Features(
        read_net_as_written(options),
        options.weights,
        options.blobs,
        phase=options.phase,
        level=options.level,
        stages=options.stage,
        device=options.device,
        dtype=options.dtype,
    )
    errors: dict[str, str] = {}
    if options.inputs:
        arrays = _run_inputs(options, features)
    else:
        arrays = run_images(options, features, errors)
    for path, reason in errors.items():
        complain(f"{path}: {reason}")
    if arrays:
        write_arrays(options.out, arrays)
    if options.json:
        shapes = {name: list(array.shape) for name, array in arrays.items()}
        bad = [{"path": path, "error": reason} for path, reason in errors.items()]
        print_json({"out": options.out if arrays else None, "arrays": shapes, "errors": bad})
    elif arrays:
        for name, array in arrays.items():
            print(f"{visible(name)}  {'x'.join(map(str, array.shape))} {array.dtype}")
        print(f"written   {show_path(options.out)}")
    sys.stdout.flush()
    if not arrays:
        complain("there is no image to run the net on; nothing is written")
    return 1 if errors else 0


def _files(options: argparse.Namespace) -> Iterator[str | None]:
    """Yield the files that are read, the images among them."""
    yield from (options.net, options.weights, options.inputs, options.like, options.mean)
    if options.images and os.path.exists(options.out):
        from caffe_margin.torch.images import find_images

        yield from options.images
        yield from find_images(options.images, options.root or "")


def _run_inputs(options: argparse.Namespace, features: Features) -> dict[str, NDArray]:
    """Return the blobs for the arrays of a file."""
    for name in ("like", "mean", "scale", "size", "resize", "rgb", "mirror", "root"):
        if getattr(options, name):
            raise ValueError(f"--{name} is for --images; arrays go in as they are")
    import numpy as np

    from caffe_margin.files.npz import read_arrays
    from caffe_margin.torch.features import batches

    given = read_arrays(options.inputs)
    if missing := features.inputs.keys() - given.keys():
        raise ValueError(
            f"{options.inputs}: it lacks {', '.join(sorted(missing))}, which the net takes; it has "
            f"{', '.join(map(visible, given)) or 'nothing'}"
        )
    inputs = {name: given[name] for name in features.inputs}
    with progress("batches", options.json) as track:
        found = [features(batch) for batch in track(list(batches(inputs, options.batch)))]
    return {name: np.concatenate([blobs[name] for blobs in found]) for name in features.blobs}


def run_images(
    options: argparse.Namespace, features: Features, errors: dict[str, str]
) -> dict[str, NDArray]:
    """Return the blobs for images, and their names; note what is wrong with the others."""
    import numpy as np

    from caffe_margin.torch.images import find_images

    if len(features.inputs) != 1:
        raise ValueError(
            f"the net takes {' and '.join(map(repr, features.inputs)) or 'nothing'}, and images "
            "are one input; give --inputs, or as --blob what needs no more"
        )
    (name,) = features.inputs
    how = _preprocessing(options, features.inputs[name])
    paths = find_images(options.images, options.root or "")
    chunks = [paths[i : i + options.batch] for i in range(0, len(paths), options.batch)]
    names: list[str] = []
    found: dict[str, list[NDArray]] = {}
    shape = None
    with progress("images", options.json) as track:
        for chunk in track(chunks):
            images = list(_read(chunk, how, shape, errors))
            if not images:
                continue
            names += [path for path, _ in images]
            data = np.stack([image for _, image in images])
            shape = data.shape[1:]
            runs = {"": data} | ({MIRRORED: data[..., ::-1]} if options.mirror else {})
            for ending, batch in runs.items():
                for blob, array in features({name: batch}).items():
                    found.setdefault(f"{blob}{ending}", []).append(array)
    if not names:
        return {}
    return {blob: np.concatenate(arrays) for blob, arrays in found.items()} | {
        "images": np.array(names)
    }


def _read(
    paths: Sequence[str],
    how: Preprocessing,
    shape: tuple[int, ...] | None,
    errors: dict[str, str],
) -> Iterator[tuple[str, NDArray]]:
    """Yield names and images; all have one shape, the first one's where none is given."""
    for path in paths:
        try:
            image = how.read(path)
            shape = shape or image.shape
            if image.shape != shape:
                raise ValueError(f"the image is {_by(image.shape)}, and the first {_by(shape)}")
        except (OSError, ValueError) as error:
            errors[path] = getattr(error, "strerror", None) or str(error)
            continue
        yield path, image


def _preprocessing(options: argparse.Namespace, shape: tuple[int, ...] | None) -> Preprocessing:
    """Return what the options, --like and the net say of the images."""
    from caffe_margin import caffe_margin_pb2 as pb
    from caffe_margin.files.prototxt import read_net
    from caffe_margin.torch.images import Preprocessing, preprocessing_of

    source = options.like or options.net
    net = read_net(source)
    how = preprocessing_of(net) or preprocessing_of(net, "TRAIN")
    if how is None:
        if options.like:
            raise ValueError(f"{options.like}: no data layer of it has a transform_param")
        if options.mean is None and options.scale is None:
            raise ValueError(
                "nothing says what the images are to go through: give --like TRAIN.prototxt, or "
                "--mean and --scale (--scale 1 for bytes as they are)"
            )
        is_color = shape is None or len(shape) != 4 or shape[1] != 1
        how = Preprocessing(pb.TransformationParameter(), is_color=is_color)
    _set_mean_and_scale(how.transform, options)
    size, channels = options.size or how.size, 3 if how.is_color else 1
    if shape is not None and len(shape) == 4:
        if shape[1] != channels:
            raise ValueError(f"the net takes {shape[1]} channels, and the images have {channels}")
        if not size and not how.transform.crop_size:
            size = shape[2:]
    if len(how.transform.mean_value) not in (0, 1, channels):
        raise ValueError(
            f"{len(how.transform.mean_value)} means for images of {channels} channels; it takes "
            "one, or one a channel"
        )
    how = replace(how, size=size, resize=options.resize or how.resize, rgb=options.rgb)
    how.transformer.mean  # noqa: B018  (read now, so that no image is blamed for its file)
    return how


def _set_mean_and_scale(transform: pb.TransformationParameter, options: argparse.Namespace) -> None:
    """Put --mean and --scale in the place of what a file says."""
    if options.scale is not None:
        transform.scale = options.scale
    if options.mean is None:
        return
    transform.ClearField("mean_value")
    transform.ClearField("mean_file")
    try:
        transform.mean_value.extend(float(part) for part in options.mean.split(","))
    except ValueError:
        transform.mean_file = options.mean


def _by(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))
