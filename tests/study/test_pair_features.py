"""From a list and a file to both sides of each pair."""

import numpy as np
import pytest

from caffe_margin.files.pairs_list import ListedPair
from caffe_margin.study.pair_features import pair_features

PAIRS = [
    ListedPair("A/A_0001.jpg", "A/A_0002.jpg", True, 1),
    ListedPair("A/A_0002.jpg", "B/B_0001.jpg", False, 1),
]
IMAGES = np.array(["x/y/B/B_0001.png", "x/y/A/A_0002.png", "z/z.png", "x/y/A/A_0001.png"])
FC5 = np.array([[1.0, 2], [3, 4], [0, 0], [5, 6]])
FILE = {"images": IMAGES, "fc5": FC5}


def test_images_are_found_by_folder_and_name():
    found = pair_features(PAIRS, FILE)
    assert found.left.tolist() == [[5, 6], [3, 4]]
    assert found.right.tolist() == [[3, 4], [1, 2]]
    assert found.same.tolist() == [True, False]
    assert (found.blob, found.images, found.left_mirror) == ("fc5", 3, None)


def test_blobs_of_more_dimensions_are_rows():
    arrays = {"images": IMAGES, "conv": np.arange(24.0).reshape(4, 3, 2, 1), "fc5": FC5}
    assert pair_features(PAIRS, arrays, "conv").left[0].tolist() == [18, 19, 20, 21, 22, 23]


@pytest.mark.parametrize("key", ["fc5", "fc5_mirrored"])
def test_mirrored_images_of_a_file_of_their_own(key):
    """In an order of its own."""
    found = pair_features(PAIRS, FILE, mirrored={"images": IMAGES[::-1], key: -FC5[::-1]})
    assert found.left_mirror.tolist() == [[-5, -6], [-3, -4]]
    assert found.right_mirror.tolist() == [[-3, -4], [-1, -2]]


def test_mirrored_images_in_the_file():
    found = pair_features(PAIRS, {**FILE, "fc5_mirrored": 2 * FC5})
    assert found.right_mirror.tolist() == [[6, 8], [2, 4]]


def zero(row, value=0.0):
    features = FC5.copy()
    features[row] = value
    return features


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"images": IMAGES[[0, 1, 2, 2]]}, "image 'A/A_0001.jpg' of the list has no feature"),
        (
            {"images": np.array(["A/A_0001.jpg", "a/A/A_0002.x", "B/B_0001", "A/A_0001.png"])},
            "image 'A/A_0001.jpg' of the list may be 'A/A_0001.jpg' or 'A/A_0001.png'",
        ),
        ({"fc5": zero(1)}, "the feature of image 'x/y/A/A_0002.png' is zero"),
        ({"fc5": zero([0, 3])}, "the feature of image 'x/y/B/B_0001.png' is zero; so are 1 more"),
        ({"fc5": zero(3, np.nan)}, "the feature of image 'x/y/A/A_0001.png' is not finite"),
        ({"fc5_mirrored": zero(0)}, "of image 'x/y/B/B_0001.png' mirrored is zero"),
        ({"fc5_mirrored": FC5[:, :1]}, "features of 2 numbers, and of 1 mirrored"),
        ({"fc5": FC5[:3]}, r"'fc5' is \(3, 2\) float64; for 4 images"),
        ({"fc5": IMAGES}, "as many rows of numbers"),
        ({"fc6": FC5}, "the features are one blob, and there are 'fc5', 'fc6': name it"),
    ],
)
def test_what_cannot_be_paired(change, match):
    with pytest.raises(ValueError, match=match):
        pair_features(PAIRS, FILE | change)


@pytest.mark.parametrize(
    ("arrays", "blob", "match"),
    [
        ({"fc5": FC5}, None, "no names of images under 'images'"),
        (FILE, "fc6", "there is no blob 'fc6'; there are 'images', 'fc5'"),
    ],
)
def test_a_file_that_lacks_something(arrays, blob, match):
    with pytest.raises(ValueError, match=match):
        pair_features(PAIRS, arrays, blob)
