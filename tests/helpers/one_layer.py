"""A net of one layer above its inputs, in double."""

import numpy as np
import torch
from google.protobuf import text_format

import caffe_margin.torch as cmt
from caffe_margin import caffe_margin_pb2 as pb


def one_layer(text, *shapes, phase="TRAIN"):
    """Return the net of the layer that a text describes; its bottoms are ``a``, ``b`` and ``c``."""
    net = pb.NetParameter(name="one", force_backward=True)
    for name, shape in zip("abc", shapes, strict=False):
        layer = net.layer.add(name=name, type="Input", top=[name])
        layer.input_param.shape.add().dim.extend(shape)
    layer = text_format.Parse(text, pb.LayerParameter())
    layer.name = "layer"
    layer.bottom.extend("abc"[: len(shapes)])
    if not layer.top:
        layer.top.append("top")
    net.layer.append(layer)
    return cmt.Net(net, phase=phase, dtype=torch.float64)


def run(text, *arrays, built_for=None, top_diff=1.0):
    """Return the tops and, after Backward from the first, the bottoms' diffs, as arrays.

    Args:
        text: the layer.
        arrays: the bottoms.
        built_for: the shapes that the net is made with, instead of theirs.
        top_diff: where Backward starts; None for Forward alone.
    """
    net = one_layer(text, *(built_for or map(np.shape, arrays)))
    bottoms = {
        name: torch.from_numpy(np.array(array, float)).requires_grad_()
        for name, array in zip("abc", arrays, strict=False)
    }
    blobs = net(keep="all", **bottoms)
    tops = [blobs[name] for name in net.param.layer[-1].top]
    if top_diff is not None:
        tops[0].backward(torch.as_tensor(top_diff, dtype=torch.float64))
    diffs = [
        np.zeros(x.shape) if x.grad is None else x.grad.numpy().copy() for x in bottoms.values()
    ]
    return [top.detach().numpy() for top in tops], diffs
