"""The recordings of Caffe, held against the layers of `caffe_margin.torch`."""

import torch

from caffe_margin.maths.annealing import Annealing
from caffe_margin.nets.margin import margin_param
from helpers.recorded import assert_blob, layer_param


def assert_head_replays(layer_class, recording):
    """Run a layer as it was recorded, under its default rule, and hold every blob against it."""
    param = margin_param(layer_param(recording))
    x, label, weight = (
        torch.from_numpy(recording[name])
        for name in ("bottom0_data", "bottom1_data", "blob0_data_before")
    )
    N, K = weight.shape
    head = layer_class(K, N, m=param.type + 1, **vars(Annealing.of(param)), dtype=weight.dtype)
    head.load_state_dict({"weight": weight, "iteration": head.iteration})
    head.weight.requires_grad_(bool(recording["param_propagate_down"][0]))
    head.weight.grad = torch.from_numpy(recording["blob0_diff_before"])
    x.requires_grad_(bool(recording["propagate_down"][0]))

    lambdas = []
    for _ in range(int(recording["forwards"])):
        top = head(x.reshape(-1, K), label.flatten()).reshape(recording["top0_data"].shape)
        lambdas.append(head.lambda_)
    if top.requires_grad:
        top.backward(torch.from_numpy(recording["top0_diff"]))

    assert_blob(top.detach().numpy(), recording["top0_data"], "top0_data")
    assert_blob(torch.stack(lambdas).numpy(), recording["top1_data"], "top1_data")
    assert_blob(head.weight.detach().numpy(), recording["blob0_data"], "blob0_data")
    assert_blob(head.weight.grad.numpy(), recording["blob0_diff"], "blob0_diff")
    if x.requires_grad:
        assert_blob(x.grad.numpy(), recording["bottom0_diff"], "bottom0_diff")
