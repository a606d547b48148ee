"""From image files to what a net is given: decoded and transformed as Caffe does it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.maths.arrays import FloatArray
from caffe_margin.nets.select import filter_net
from caffe_margin.torch.data.decoding import read_image
from caffe_margin.torch.data.transform import Transformer

ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
"""Of the files that a folder is looked through for."""


@dataclass(frozen=True)
class Preprocessing:
    """What happens to an image on its way into a net.

        >>> from caffe_margin.files.prototxt import read_net
        >>> how = preprocessing_of(read_net("models/sphereface_model.prototxt"))
        >>> list(how.transform.mean_value), how.transform.scale, how.transform.mirror
        ([127.5, 127.5, 127.5], 0.0078125, False)

    Attributes:
        transform: mean, scale and crop, which is from the centre.
        size: height and width before the crop; None for any.
        resize: whether images of another size are brought to it, or refused.
        is_color: whether an image has three channels or one.
        rgb: whether these are R, G, B, and not Caffe's B, G, R.
        root: the folder in which a mean file is looked for.
    """

    transform: pb.TransformationParameter
    size: tuple[int, int] | None = None
    resize: bool = False
    is_color: bool = True
    rgb: bool = False
    root: str = ""

    def __post_init__(self) -> None:
        if self.resize and self.size is None:
            raise ValueError("to resize images a size is needed, which nothing says")

    @cached_property
    def transformer(self) -> Transformer:
        """What `transform` stands for."""
        return Transformer(self.transform, root=self.root)

    def read(self, path: str) -> FloatArray:
        """Return what a net is given of a file's image, (channels, height, width) float32.

        Source: ReadImageToCVMat, DataTransformer::Transform.

        Raises:
            OSError: the file cannot be opened.
            ValueError: it is no image that OpenCV reads, is broken, or of another size.
        """
        with open(path, "rb"):
            pass  # OpenCV does not say why it returns nothing
        image = read_image(path, self.is_color, self.size if self.resize else None)
        if image is None:
            raise ValueError("no image that OpenCV reads, or broken")
        height, width = image.shape[1:]
        if self.size is not None and (height, width) != self.size:
            raise ValueError(
                f"the image is {height} x {width}, and the net's are {self.size[0]} x "
                f"{self.size[1]}; resize would bring it to that"
            )
        if self.rgb:
            image = image[::-1]
        data = np.empty(self.transformer.shape(image), np.float32)
        self.transformer(image, data)
        return data


def preprocessing_of(
    net: pb.NetParameter, phase: str = "TEST", root: str = ""
) -> Preprocessing | None:
    """Return what a net's first layer of images in a phase does to them, but for ``mirror``.

    None where there is no such layer: an Input says nothing of what it is given.
    """
    for layer in filter_net(net, phase).layer:
        if layer.bottom or not (layer.HasField("transform_param") or layer.type == "ImageData"):
            continue
        transform = pb.TransformationParameter()
        transform.CopyFrom(layer.transform_param)
        transform.ClearField("mirror")  # at random, which features must not be
        is_color, size = not transform.force_gray, None
        if layer.type == "ImageData":
            param = layer.image_data_param
            is_color = param.is_color
            size = (param.new_height, param.new_width) if param.new_height else None
        return Preprocessing(transform, size, size is not None, is_color, root=root)
    return None


def find_images(names: Iterable[str], root: str = "") -> list[str]:
    """Return the image files that names stand for.

    A folder gives those below it, by name; a ``.txt`` those in its lines, which may have labels as
    Caffe's lists do; anything else is a file.

    Raises:
        OSError: a list or a folder cannot be read.
        ValueError: a list or a folder has no images.
    """
    found: list[str] = []
    for name in names:
        if os.path.isdir(name):
            images = _in_folder(name)
        elif name.endswith(".txt"):
            images = [os.path.join(root, image) for image in _in_list(name)]
        else:
            images = [name]
        if not images:
            raise ValueError(f"{name}: it holds no images")
        found += images
    return found


def _in_folder(folder: str) -> list[str]:
    def fail(error: OSError) -> None:
        raise error

    found = []
    for parent, folders, names in os.walk(folder, onerror=fail):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [
            os.path.join(parent, name)
            for name in sorted(names)
            if name.lower().endswith(ENDINGS) and not name.startswith(".")
        ]
    return found


def _in_list(path: str) -> list[str]:
    """Return the names in a list, a line each; a whole number behind the last blank is a label."""
    found = []
    with open(path, encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            name, _, label = line.rstrip("\r\n").rpartition(" ")
            is_label = name and label.removeprefix("-").isdecimal()
            image = name if is_label else line.rstrip("\r\n")
            if image.strip():
                found.append(image)
    return found
