"""Every value of a blob gets a name of its own."""

import pytest

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.files.prototxt import parse_text
from caffe_margin.nets.in_place import name_apart

NET = """
layer { name: "in" type: "Input" top: "data" input_param { shape { dim: 1 dim: 2 } } }
layer { name: "scale" type: "Power" bottom: "data" top: "data" }
layer { name: "fc" type: "InnerProduct" bottom: "data" top: "x" }
layer { name: "first" type: "InnerProduct" bottom: "x" top: "first" }
layer { name: "relu" type: "ReLU" bottom: "x" top: "x" }
layer { name: "drop" type: "Dropout" bottom: "x" top: "x" }
layer { name: "last" type: "InnerProduct" bottom: "x" top: "x@fc_" }
"""


def test_the_last_value_has_the_blob_s_name():
    net = parse_text(NET, pb.NetParameter())
    before = net.SerializeToString(deterministic=True)
    apart = name_apart(net)
    assert [(list(layer.bottom), list(layer.top)) for layer in apart.layer] == [
        ([], ["data"]),
        (["data"], ["data@scale"]),
        (["data@scale"], ["x@fc"]),
        (["x@fc"], ["first"]),
        (["x@fc"], ["x@relu"]),
        (["x@relu"], ["x"]),
        (["x"], ["x@fc_"]),
    ]
    assert net.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("taken", ["x@fc", "x@relu"])
def test_a_name_that_is_taken(taken):
    apart = name_apart(parse_text(NET.replace("x@fc_", taken), pb.NetParameter()))
    tops = [top for layer in apart.layer for top in layer.top]
    assert len(set(tops)) == len(tops)
    assert tops[-1] == taken
