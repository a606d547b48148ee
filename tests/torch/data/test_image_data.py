"""Lists of images, and images that cannot be read."""

import ctypes
import sys

import cv2
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.torch.data.image_data import ImageData, atoi, read_list
from caffe_margin.torch.data.rng import Seeds


def image_data(root, batch_size=2, **param):
    layer = pb.LayerParameter(name="data", type="ImageData", top=["data", "label"])
    layer.image_data_param.MergeFrom(
        pb.ImageDataParameter(source="list.txt", batch_size=batch_size, **param)
    )
    return ImageData(layer, Seeds(shuffle=1), root=str(root))


@pytest.fixture
def images(tmp_path):
    """Six images of one colour each, the third broken."""
    for i in range(6):
        cv2.imwrite(str(tmp_path / f"{i}.png"), np.full((4, 3, 3), 10 * i, np.uint8))
    (tmp_path / "2.png").write_bytes(b"no image")
    (tmp_path / "list.txt").write_text("".join(f"{i}.png {i}\n" for i in range(6)))
    return tmp_path


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have other longs")
@given(st.binary(max_size=30))
@example(b"99999999999999999999")
@example(b"-99999999999999999999")
@example(b"\v\f +12 3")
@example(b"+-3")
@example(b"-2147483649")
def test_atoi_is_cs(text):
    assert atoi(text) == ctypes.CDLL(None).atoi(text)


def test_names_that_are_no_utf8(images):
    name = b"\xff\xe9.png"
    (images / "0.png").rename(images / name.decode("utf-8", "surrogateescape"))
    (images / "list.txt").write_bytes(name + b" 7\n")
    assert read_list(name + b" 7\n") == [("\udcff\udce9.png", 7)]
    batch = next(image_data(images, 1))
    assert batch["data"].eq(0).all()
    assert batch["label"].item() == 7


def test_broken_images_are_named_in_their_batch(images):
    source = image_data(images)
    assert next(source)["label"].tolist() == [0, 1]
    for _ in range(2):
        with pytest.raises(ValueError, match=r"list\.txt, line 3: .*2\.png is no image"):
            next(source)
        assert source.iteration == 1


@pytest.mark.parametrize("missing", [False, True])
def test_skip_broken_takes_the_next(images, missing):
    if missing:
        (images / "2.png").unlink()
    source = image_data(images)
    source.skip_broken = True
    labels = [next(source)["label"].tolist() for _ in range(4)]
    assert labels == [[0, 1], [3, 3], [4, 5], [0, 1]]
    assert len(source.broken) == 1
    assert "line 3" in source.broken.pop()


def test_skip_broken_where_none_is_whole(images):
    for i in range(6):
        (images / f"{i}.png").write_bytes(b"")
    source = image_data(images)
    source.skip_broken = True
    with pytest.raises(ValueError, match="nor can any other image be read"):
        next(source)


def test_every_round_has_every_image(images):
    cv2.imwrite(str(images / "2.png"), np.full((4, 3, 3), 20, np.uint8))
    source = image_data(images, 6, shuffle=True)
    rounds = [next(source) for _ in range(3)]
    assert all(sorted(batch["label"].tolist()) == [0, 1, 2, 3, 4, 5] for batch in rounds)
    assert len({tuple(batch["label"].tolist()) for batch in rounds}) == 3
    for batch in rounds:
        assert (batch["data"] == 10 * batch["label"][:, None, None, None]).all()
