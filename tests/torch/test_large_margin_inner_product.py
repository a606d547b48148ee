import copy

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.nn.functional import cross_entropy

import caffe_margin as cm
import caffe_margin.torch as cmt
from caffe_margin.maths.gradient import ALL_RULES, EXACT, PAPER
from caffe_margin.torch.functional import large_margin_inner_product
from helpers.margin import angles_across_every_kink, make_batch
from helpers.recorded import LARGE_MARGIN, load, recordings
from helpers.replayed_head import assert_head_replays

TOLERANCE = {np.float64: 1e-13, np.float32: 2e-6}


def tensors(x, label, weight, *_):
    x, weight = torch.from_numpy(x), torch.from_numpy(weight)
    return x.requires_grad_(), torch.from_numpy(label), weight.requires_grad_()


@pytest.mark.parametrize("path", recordings("[!h]*.npz", LARGE_MARGIN))
def test_recording(path):
    assert_head_replays(cmt.LargeMarginInnerProduct, load(path))


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("m", [1, 2, 3, 4])
@pytest.mark.parametrize("rule", ALL_RULES, ids=lambda rule: rule.name)
def test_is_the_layer_line_by_line(rule, m, dtype):
    x, label, weight, top_diff = make_batch(M=40, N=30, K=16, dtype=dtype)
    options = {"m": m, "base": 2, "gamma": 0, "lambda_min": 0, "gradient": rule}
    layer = cm.LargeMarginInnerProduct(30, engine="line_by_line", **options)
    layer.weight = weight
    top = layer.forward(x, label)
    expected = top, layer.backward(top_diff), layer.blobs[0].diff

    x, label, weight = tensors(x, label, weight.copy())
    head = cmt.LargeMarginInnerProduct(16, 30, dtype=weight.dtype, **options)
    head.load_state_dict({"weight": weight, "iteration": torch.tensor(0)})
    top = head(x, label)
    top.backward(torch.from_numpy(top_diff))
    assert torch.equal(head.weight, weight)
    for got, array in zip((top.detach(), x.grad, head.weight.grad), expected, strict=True):
        assert np.abs(got.numpy() - array).max() <= TOLERANCE[dtype] * np.abs(array).max()


@pytest.mark.parametrize("lambda_", [0.0, 5.0])
@pytest.mark.parametrize("m", [1, 2, 4, 5])
def test_exact_rule_passes_the_gradient_check(m, lambda_):
    x, label, weight, _ = angles_across_every_kink(m)
    # The weight's rows within one length of each other, or a difference sees the longest alone.
    weight /= np.linalg.norm(weight, axis=1, keepdims=True) ** 0.9
    x, label, weight = tensors(x / 10, label, weight)

    def of(x, weight, rule=EXACT):
        return large_margin_inner_product(x, label, weight, m=m, lambda_=lambda_, gradient=rule)

    assert gradcheck(of, (x, weight))
    if m > 1:
        fails = [
            gradcheck(lambda x: of(x, weight.detach(), PAPER), x, raise_exception=False),
            gradcheck(lambda w: of(x.detach(), w, PAPER), weight, raise_exception=False),
        ]
        assert fails == [False, False]


def test_exact_gradient_has_a_gradient():
    x, label, weight = tensors(*make_batch())
    assert gradgradcheck(lambda x, w: large_margin_inner_product(x, label, w), (x, weight))


def test_defaults():
    head = cmt.LargeMarginInnerProduct(4, 5)
    assert head.gradient == EXACT
    assert repr(head) == (
        "LargeMarginInnerProduct(4, 5, m=4, base=1000, gamma=2.5e-05, power=35, lambda_min=0, "
        "gradient='exact')"
    )


@pytest.mark.parametrize("in_dims", [(0, 0, None), (None, None, 0), (0, None, 0)])
def test_func(in_dims):
    batches = [tensors(*make_batch(seed=seed)) for seed in range(3)]
    args = [
        torch.stack(arg).detach() if dim == 0 else arg[0].detach()
        for arg, dim in zip(zip(*batches, strict=True), in_dims, strict=True)
    ]

    def of(x, label, weight):
        return large_margin_inner_product(x, label, weight).sum()

    grad = torch.func.grad(of, argnums=(0, 2))
    each = [
        grad(*(a if dim is None else a[i] for a, dim in zip(args, in_dims, strict=True)))
        for i in range(3)
    ]
    for got, grads in zip(torch.vmap(grad, in_dims)(*args), zip(*each, strict=True), strict=True):
        torch.testing.assert_close(got, torch.stack(grads))


# PyTorch's own, when it compiles.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compile():
    x, label, _ = tensors(*make_batch())
    plain = cmt.LargeMarginInnerProduct(4, 5, dtype=torch.float64)
    compiled = copy.deepcopy(plain)
    torch._dynamo.reset()
    step = torch.compile(compiled, backend="aot_eager", fullgraph=True)
    for forward in (plain, step):
        cross_entropy(forward(x, label), label).backward()
    torch.testing.assert_close(compiled.weight.grad, plain.weight.grad, rtol=1e-13, atol=1e-13)
    assert compiled.iteration == 1


def test_bad_input():
    x, label, weight = tensors(*make_batch())
    with pytest.raises(ValueError, match="row 2 of weight is zero"):
        large_margin_inner_product(x, label, weight * (torch.arange(5) != 2)[:, None])
    with pytest.raises(ValueError, match=r"labels must lie in \[0, 5\)"):
        large_margin_inner_product(x, label + 5, weight)
