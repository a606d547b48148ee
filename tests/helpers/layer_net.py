"""A net of one layer, and what went through it."""

from __future__ import annotations

import numpy as np
import torch

import caffe_margin.torch as cmt
from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.files.prototxt import parse_text


def layer_net(layer, *shapes, tops=1, **options):
    """Return a Net of one layer, written without bottoms and tops: x0, x1, ... and y0, y1, ...

    Its parameters are drawn, and in float64 unless told.
    """
    param = parse_text(f"layer {{ name: 'layer' {layer} }}", pb.NetParameter())
    param.force_backward = True
    inputs = []
    for i, shape in enumerate(shapes):
        data = pb.LayerParameter(name=f"x{i}", type="Input", top=[f"x{i}"])
        data.input_param.shape.add().dim.extend(shape)
        inputs.append(data)
    param.layer[0].bottom.extend(data.name for data in inputs)
    param.layer[0].top.extend(f"y{i}" for i in range(tops))
    layers = [*inputs, param.layer[0]]
    net = pb.NetParameter(force_backward=True, layer=layers)
    net = cmt.Net(net, **{"dtype": torch.float64, **options})
    rng = np.random.default_rng(0)
    with torch.no_grad():
        for blob in net.params.get("layer", []):
            blob.copy_(torch.from_numpy(rng.normal(size=tuple(blob.shape))))
    return net


def run(net, *bottoms):
    """Return the tops and the bottoms' gradients, from drawn gradients of the tops, and these."""
    xs = [torch.as_tensor(bottom).detach().requires_grad_() for bottom in bottoms]
    tops = list(net(**{f"x{i}": x for i, x in enumerate(xs)}).values())
    rng = np.random.default_rng(1)
    diffs = [torch.as_tensor(rng.normal(size=tuple(y.shape)), dtype=y.dtype) for y in tops]
    pairs = [(y, diff) for y, diff in zip(tops, diffs, strict=True) if y.requires_grad]
    torch.autograd.backward(*zip(*pairs, strict=True))
    return (
        [y.detach().numpy() for y in tops],
        [None if x.grad is None else x.grad.numpy() for x in xs],
        [diff.numpy() for diff in diffs],
    )
