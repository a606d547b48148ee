"""What a misspelt name was meant to be."""

import pytest

from caffe_margin.files.names import near

FIELDS = [
    "param",
    "mvn_param",
    "parameter_param",
    "hinge_loss_param",
    "pooling_param",
    "num_output",
]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("num_outputs", "num_output"),
        ("poling_param", "pooling_param"),
        ("pooling_parm", "pooling_param"),
        ("bn_param", None),
        ("permute_param", None),
        ("inter_class_param", None),
        ("", None),
    ],
)
def test_near(name, meant):
    assert near(name, FIELDS, cutoff=0.7) == meant


def test_the_nearest_and_the_last_of_equals():
    assert near("fc7", ["fc8", "fc6"]) == near("fc7", ["fc6", "fc8"]) == "fc8"
    assert near("fc7", ["fc6", "fc77"]) == "fc77"
    assert near("VIDEO_DATA", ["WINDOW_DATA", "DATA"]) is None
    assert near("same", ["same"], cutoff=1) == "same"


def test_cost_is_bounded():
    assert near("a" * 81, ["a" * 80]) is None
    assert near("a" * 80, ["a" * 81, "a" * 80]) == "a" * 80
    asked = iter(range(10**9))
    assert near("abc", (f"x{i}" for i in asked)) is None
    assert next(asked) < 1000
