"""``transform_param``: crop, mirror, mean and scale of an image."""

from __future__ import annotations

import os
from functools import cached_property

import numpy as np

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.files.binaryproto import read_binaryproto


class Transformer:
    """(pixel - mean) * scale of a crop of an image, mirrored or not.

        >>> import numpy as np
        >>> transform = Transformer(pb.TransformationParameter(scale=0.5, crop_size=2))
        >>> out = np.empty((1, 2, 2), np.float32)
        >>> transform(np.arange(16, dtype=np.uint8).reshape(1, 4, 4), out)
        >>> out
        array([[[2.5, 3. ],
                [4.5, 5. ]]], dtype=float32)

    Images are (channels, height, width) here, bytes or floats, in any strides.

    Source: DataTransformer.

    Args:
        param: the message.
        train: whether the net is Caffe's TRAIN, where crops are taken at random; ``mirror``
            mirrors half of the images in TEST too.
        root: the folder in which ``mean_file`` is looked for.

    Attributes:
        draws: how many random numbers an image takes.

    Raises:
        ValueError: the message asks for what excludes each other.
    """

    def __init__(
        self, param: pb.TransformationParameter, train: bool = False, root: str = ""
    ) -> None:
        if param.HasField("mean_file") and param.mean_value:
            raise ValueError("transform_param: mean_file and mean_value exclude each other")
        if param.force_color and param.force_gray:
            raise ValueError("transform_param: force_color and force_gray exclude each other")
        self.param = param
        self.crop = param.crop_size
        self.scale = np.float32(param.scale)
        self.random_crop = train and self.crop > 0
        self.draws = int(param.mirror) + 2 * self.random_crop
        self._root = root

    @cached_property
    def mean(self) -> np.ndarray | None:
        """What is subtracted: ``mean_file``'s image, (channels, 1, 1) values, or nothing.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it holds no image.
        """
        if not self.param.HasField("mean_file"):
            values = np.array(self.param.mean_value, np.float32)
            return values[:, None, None] if len(values) else None
        path = os.path.join(self._root, self.param.mean_file)
        mean = read_binaryproto(path)
        if mean.ndim != 4 or len(mean) != 1:
            raise ValueError(
                f"{path}: the mean has the shape {mean.shape}; it must be (1, channels, height, "
                "width)"
            )
        return mean[0].astype(np.float32)

    def shape(self, image: np.ndarray) -> tuple[int, ...]:
        """Return the shape an image will have: (channels, height, width).

        Source: DataTransformer::InferBlobShape.

        Raises:
            ValueError: ``crop_size`` is larger than the image.
        """
        if min(image.shape[1:]) < self.crop:
            raise ValueError(
                f"crop_size {self.crop} is larger than the image of "
                f"{image.shape[1]} x {image.shape[2]}"
            )
        size = (self.crop, self.crop) if self.crop else image.shape[1:]
        return image.shape[0], *size

    def __call__(self, image: np.ndarray, out: np.ndarray, draws: np.ndarray | None = None) -> None:
        """Transform an image.

        Args:
            image: (channels, height, width).
            out: (channels, height, width) float32, the place in a batch that takes it.
            draws: `draws` random numbers.

        Raises:
            ValueError: the image's shape is not the batch's, or not the mean's.
        """
        if self.shape(image) != out.shape:
            cure = "crop_size, or new_height and new_width, make sizes alike"
            if len(image) != len(out):
                cure = "force_color or force_gray makes encoded images alike"
            raise ValueError(
                f"the image is {_size(self.shape(image))}, but the first of its batch "
                f"{_size(out.shape)}; {cure}, and batch_size: 1 takes all"
            )
        numbers = [] if draws is None else draws.tolist()
        mirror = self.param.mirror and numbers.pop(0) % 2
        height, width = out.shape[1:]
        row, column = (image.shape[1] - height) // 2, (image.shape[2] - width) // 2
        if self.random_crop:
            row = numbers[0] % (image.shape[1] - height + 1)
            column = numbers[1] % (image.shape[2] - width + 1)
        window = np.s_[:, row : row + height, column : column + width]
        target = out[..., ::-1] if mirror else out
        np.copyto(target, image[window])
        mean = self._mean_for(image)
        if mean is not None:
            np.subtract(target, mean[window] if mean.shape == image.shape else mean, out=target)
        if self.scale != 1:
            np.multiply(out, self.scale, out=out)

    def _mean_for(self, image: np.ndarray) -> np.ndarray | None:
        """Return the mean of an image; it has the size of the image before the crop."""
        mean = self.mean
        if mean is None:
            return None
        if self.param.mean_value and len(mean) not in (1, len(image)):
            raise ValueError(
                f"{len(mean)} mean_value for an image of {len(image)} channels; it takes one "
                f"value, or one a channel"
            )
        if self.param.HasField("mean_file") and mean.shape != image.shape:
            raise ValueError(
                f"the mean of {self.param.mean_file} is {_size(mean.shape)}, but the image "
                f"{_size(image.shape)} before the crop; the mean must have the image's size"
            )
        return mean


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
