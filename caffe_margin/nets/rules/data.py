"""Layers with nothing below them."""

from __future__ import annotations

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.nets.rules.algebra import Blobs, Dim, Shape, check, per_top, show


def input_(layer: pb.LayerParameter, bottoms: list[Shape]) -> Blobs:
    """InputLayer::LayerSetUp."""
    shapes = [tuple(shape.dim) for shape in layer.input_param.shape]
    check(bool(shapes), "the file gives no shape")
    return per_top(layer, shapes, "shape"), []


def dummy_data(layer: pb.LayerParameter, bottoms: list[Shape]) -> Blobs:
    """DummyDataLayer::LayerSetUp."""
    param = layer.dummy_data_param
    old = {name: list(getattr(param, name)) for name in ("num", "channels", "height", "width")}
    if any(old.values()):
        check(not param.shape, "shape and num, channels, height, width exclude each other")
        dims = [per_top(layer, values, name) for name, values in old.items()]
        return list(zip(*dims, strict=True)), []
    return per_top(layer, [tuple(shape.dim) for shape in param.shape], "shape"), []


def parameter(layer: pb.LayerParameter, bottoms: list[Shape]) -> Blobs:
    """ParameterLayer::LayerSetUp."""
    shape = tuple(layer.parameter_param.shape.dim)
    return [shape], [shape]


def _images(batch: int, channels: Dim, height: Dim, width: Dim) -> Blobs:
    """Images and one label for each."""
    check(batch > 0, "batch_size must be positive")
    return [(batch, channels, height, width), (batch,)], []


def _crop_size(layer: pb.LayerParameter) -> Dim:
    return layer.transform_param.crop_size or None


def _transformed_channels(layer: pb.LayerParameter) -> Dim:
    """DataTransformer::Transform takes one mean_value, or one per channel."""
    means = len(layer.transform_param.mean_value)
    return means if means > 1 else None


def data(layer: pb.LayerParameter, bottoms: list[Shape]) -> Blobs:
    """DataLayer::DataLayerSetUp. The database knows what crop_size does not say."""
    crop = _crop_size(layer)
    return _images(layer.data_param.batch_size, _transformed_channels(layer), crop, crop)


def image_data(layer: pb.LayerParameter, bottoms: list[Shape]) -> Blobs:
    """ImageDataLayer::DataLayerSetUp. Images not resized and not cropped are as the files are."""
    param, crop = layer.image_data_param, _crop_size(layer)
    size = (param.new_height or None, param.new_width or None)
    check((size[0] is None) == (size[1] is None), "new_height and new_width go together")
    smallest = min(param.new_height, param.new_width) or None
    check(
        crop is None or smallest is None or crop <= smallest,
        f"crop_size {crop} is larger than the image of {show(size)}",
    )
    channels = 3 if param.is_color else 1
    return _images(param.batch_size, channels, crop or size[0], crop or size[1])


def memory_data(layer: pb.LayerParameter, bottoms: list[Shape]) -> Blobs:
    """MemoryDataLayer::DataLayerSetUp."""
    param = layer.memory_data_param
    image = (param.channels, param.height, param.width)
    check(min(image) > 0, "channels, height and width must be positive")
    return _images(param.batch_size, *image)


def window_data(layer: pb.LayerParameter, bottoms: list[Shape]) -> Blobs:
    """WindowDataLayer::DataLayerSetUp. The window file gives the channels."""
    crop = _crop_size(layer)
    check(crop is not None, "transform_param needs a crop_size")
    return _images(layer.window_data_param.batch_size, _transformed_channels(layer), crop, crop)


def hdf5_data(layer: pb.LayerParameter, bottoms: list[Shape]) -> Blobs:
    """HDF5DataLayer::LayerSetUp."""
    raise ValueError("the shapes are in the HDF5 files")
