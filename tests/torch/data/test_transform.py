"""The transformer, against the C++'s loop over pixels."""

import numpy as np
import pytest

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.files.blobs import array_to_blob
from caffe_margin.torch.data.transform import Transformer


def pixel_by_pixel(image, mean, scale, crop, mirror, row, column):
    """DataTransformer::Transform."""
    channels, height, width = image.shape
    height, width = (crop, crop) if crop else (height, width)
    out = np.empty((channels, height, width), np.float32)
    for c, h, w in np.ndindex(channels, height, width):
        value = np.float32(image[c, row + h, column + w])
        if mean is not None:
            value -= mean[c, row + h, column + w]
        out[c, h, width - 1 - w if mirror else w] = value * np.float32(scale)
    return out


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("crop", [0, 4, 5])
@pytest.mark.parametrize("mean", ["none", "file", "one", "three"])
def test_as_the_cpp(tmp_path, dtype, train, crop, mean):
    rng = np.random.default_rng(crop)
    image = rng.integers(0, 256, (7, 5, 3)).astype(dtype).transpose(2, 0, 1)
    param = pb.TransformationParameter(scale=0.017, crop_size=crop, mirror=True)
    subtracted = None
    if mean == "file":
        subtracted = rng.normal(100, 9, (3, 7, 5)).astype(np.float32)
        path = tmp_path / "mean.binaryproto"
        path.write_bytes(array_to_blob(subtracted[None]).SerializeToString())
        param.mean_file = str(path)
    elif mean != "none":
        param.mean_value.extend([104.5] if mean == "one" else [104, 116.7, 122.68])
        values = np.array(param.mean_value, np.float32)[:, None, None]
        subtracted = np.broadcast_to(values, (3, 7, 5))
    transform = Transformer(param, train)
    assert transform.draws == (3 if train and crop else 1)
    for draws in rng.integers(0, 2**32, (6, transform.draws), np.uint64):
        row, column = ((7 - crop) // 2, (5 - crop) // 2) if crop else (0, 0)
        if train and crop:
            row, column = int(draws[1]) % (8 - crop), int(draws[2]) % (6 - crop)
        out = np.empty(transform.shape(image), np.float32)
        transform(image, out, draws)
        expected = pixel_by_pixel(
            image, subtracted, param.scale, crop, int(draws[0]) % 2, row, column
        )
        assert np.array_equal(out, expected)


def test_mean_of_several_images_is_refused(tmp_path):
    path = tmp_path / "mean.binaryproto"
    path.write_bytes(array_to_blob(np.zeros((2, 1, 3, 3), np.float32)).SerializeToString())
    transform = Transformer(pb.TransformationParameter(mean_file="mean.binaryproto"), root=tmp_path)
    with pytest.raises(ValueError, match=r"\(2, 1, 3, 3\); it must be \(1, channels"):
        transform.mean  # noqa: B018
