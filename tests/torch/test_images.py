"""From image files to blobs, held against what the authors' code made of the same images."""

import cv2
import numpy as np
import pytest

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.files.npz import read_arrays
from caffe_margin.files.prototxt import read_net
from caffe_margin.torch.images import Preprocessing, find_images, preprocessing_of
from helpers.places import DATA, MODELS

EXTRACTION = read_arrays(DATA / "extraction" / "extraction.npz")


@pytest.fixture
def faces(tmp_path):
    """The recorded images as files."""
    for i, image in enumerate(EXTRACTION["image"]):
        assert cv2.imwrite(str(tmp_path / f"{i}.png"), image[..., ::-1])
    return [str(tmp_path / f"{i}.png") for i in range(len(EXTRACTION["image"]))]


@pytest.fixture
def image(tmp_path):
    """A small image without symmetry, as a file and as (height, width, B G R)."""
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "a.png"), pixels)
    return str(tmp_path / "a.png"), pixels


def test_the_authors_images_to_the_bit(faces):
    how = Preprocessing(pb.TransformationParameter(mean_value=[127.5], scale=0.0078125), (112, 96))
    for path, data, mirrored in zip(
        faces, EXTRACTION["data"], EXTRACTION["data_mirrored"], strict=True
    ):
        got = how.read(path)
        assert got.dtype == np.float32
        np.testing.assert_array_equal(got, data)
        np.testing.assert_array_equal(got[..., ::-1], mirrored)


def test_what_the_authors_train_with_is_the_same(faces):
    how = preprocessing_of(read_net(MODELS / "sphereface_model.prototxt"))
    for path, data in zip(faces, EXTRACTION["data"], strict=True):
        np.testing.assert_array_equal(how.read(path), data)


def test_channels(image):
    path, pixels = image
    transform = pb.TransformationParameter(mean_value=[1, 2, 3], scale=2)
    bgr = (pixels.transpose(2, 0, 1).astype(np.float32) - np.float32([1, 2, 3])[:, None, None]) * 2
    np.testing.assert_array_equal(Preprocessing(transform).read(path), bgr)
    rgb = pixels[..., ::-1].transpose(2, 0, 1).astype(np.float32)
    rgb = (rgb - np.float32([1, 2, 3])[:, None, None]) * 2
    np.testing.assert_array_equal(Preprocessing(transform, rgb=True).read(path), rgb)
    grey = Preprocessing(pb.TransformationParameter(), is_color=False).read(path)
    assert grey.shape == (1, 6, 8)
    b, g, r = pixels.transpose(2, 0, 1).astype(int)
    np.testing.assert_array_equal(grey[0], (9797 * r + 19234 * g + 3737 * b) >> 15)  # libpng's


def test_crop_and_mean_file(image, tmp_path):
    path, pixels = image
    mean = np.random.default_rng(1).uniform(0, 255, (3, 6, 8)).astype(np.float32)
    blob = pb.BlobProto(num=1, channels=3, height=6, width=8, data=mean.ravel().tolist())
    (tmp_path / "mean.binaryproto").write_bytes(blob.SerializeToString())
    transform = pb.TransformationParameter(mean_file="mean.binaryproto", crop_size=4)
    got = Preprocessing(transform, root=str(tmp_path)).read(path)
    whole = pixels.transpose(2, 0, 1).astype(np.float32) - mean
    np.testing.assert_array_equal(got, whole[:, 1:5, 2:6])


def test_sizes(image):
    path, pixels = image
    none = pb.TransformationParameter()
    with pytest.raises(ValueError, match="the image is 6 x 8, and the net's are 3 x 4"):
        Preprocessing(none, (3, 4)).read(path)
    halved = Preprocessing(none, (3, 4), resize=True).read(path)  # the mean of 2 x 2
    sums = pixels.astype(int).reshape(3, 2, 4, 2, 3).sum(axis=(1, 3)).transpose(2, 0, 1)
    np.testing.assert_array_equal(halved, (sums + 2) >> 2)
    with pytest.raises(ValueError, match="to resize images a size is needed"):
        Preprocessing(none, resize=True)


def test_bad_images(tmp_path):
    how = Preprocessing(pb.TransformationParameter())
    (tmp_path / "a.png").write_bytes(b"no image")
    (tmp_path / "empty.png").touch()
    for name in ("a.png", "empty.png"):
        with pytest.raises(ValueError, match="no image that OpenCV reads"):
            how.read(str(tmp_path / name))
    with pytest.raises(FileNotFoundError):
        how.read(str(tmp_path / "b.png"))
    with pytest.raises(IsADirectoryError):
        how.read(str(tmp_path))


def test_what_nets_say(tmp_path):
    layer = pb.LayerParameter(name="d", type="ImageData", top=["data", "label"])
    net = pb.NetParameter(layer=[layer])
    assert preprocessing_of(net) == Preprocessing(pb.TransformationParameter())
    layer.image_data_param.new_height, layer.image_data_param.new_width = 5, 7
    layer.image_data_param.is_color = False
    layer.transform_param.mirror, layer.transform_param.crop_size = True, 4
    how = preprocessing_of(pb.NetParameter(layer=[layer]))
    assert (how.size, how.resize, how.is_color) == ((5, 7), True, False)
    assert how.transform == pb.TransformationParameter(crop_size=4)
    layer.include.add(phase=pb.TRAIN)
    assert preprocessing_of(pb.NetParameter(layer=[layer])) is None
    assert preprocessing_of(pb.NetParameter(layer=[layer]), "TRAIN") == how
    assert preprocessing_of(read_net(MODELS / "sphereface_deploy.prototxt")) is None


def test_where_images_are(tmp_path):
    for name in ("b/2.JPG", "b/1.png", "a.jpeg", ".hidden.png", ".git/x.png", "notes.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "list.txt").write_text("x/a 1.png 3\r\n\nb.png\nc d.png\ne.png -1\n")
    (tmp_path / "none.txt").touch()
    folder, listed = str(tmp_path), str(tmp_path / "list.txt")
    assert find_images([folder]) == [
        f"{folder}/{name}" for name in ("a.jpeg", "b/1.png", "b/2.JPG")
    ]
    assert find_images(["one.gif", listed], "root") == [
        *("one.gif", "root/x/a 1.png", "root/b.png", "root/c d.png", "root/e.png")
    ]
    (tmp_path / "empty").mkdir()
    for name in ("none.txt", "empty"):
        with pytest.raises(ValueError, match=f"{name}: it holds no images"):
            find_images([str(tmp_path / name)])
    with pytest.raises(FileNotFoundError):
        find_images([str(tmp_path / "missing.txt")])
