"""Layers without tops."""

import pytest
import torch
from google.protobuf import text_format

import caffe_margin.torch as cmt
from caffe_margin import caffe_margin_pb2 as pb

INPUTS = """
layer { name: "a" type: "Input" top: "a" input_param { shape { dim: 2 dim: 3 } } }
layer { name: "b" type: "Input" top: "b" input_param { shape { dim: 2 } } }
"""


def make_net(text):
    return cmt.Net(text_format.Parse(INPUTS + text, pb.NetParameter()))


def test_silence_leaves_no_outputs():
    net = make_net('layer { name: "s" type: "Silence" bottom: "a" bottom: "b" }')
    assert net(a=torch.ones(5, 3), b=torch.ones(5)) == {}


def test_hdf5_output_says_that_it_writes_nothing():
    text = 'layer { name: "out" type: "HDF5Output" bottom: "a" bottom: "b" }'
    with pytest.warns(UserWarning, match=r"layer 'out' \(HDF5Output\) writes no file.*'a' and 'b'"):
        net = make_net(text)
    blobs = net(a=torch.ones(2, 3), b=torch.ones(2), keep=["a", "b"])
    assert blobs.keys() == {"a", "b"}
