import copy
import io
import itertools
import math
import pickle
import shutil

import numpy as np
import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn.functional import cross_entropy

import caffe_margin as cm
import caffe_margin.torch as cmt
from caffe_margin.maths.gradient import ALL_RULES, EXACT, PAPER
from helpers.recorded import load, recordings
from helpers.replayed_head import assert_head_replays

by_rule = pytest.mark.parametrize("rule", ALL_RULES, ids=lambda rule: rule.name)
by_two_rules = pytest.mark.parametrize("rule", [PAPER, EXACT], ids=lambda rule: rule.name)


def make_head(rule=PAPER, dtype=torch.float64, **options):
    torch.manual_seed(0)
    head = cmt.MarginInnerProduct(6, 10, gradient=rule, dtype=dtype, **options)
    with torch.no_grad():
        head.weight *= torch.rand(10, 1) * 5 + 0.1
    return head


def make_batch(M=8, dtype=torch.float64, seed=0):
    torch.manual_seed(seed)
    return torch.randn(M, 6, dtype=dtype, requires_grad=True), torch.randint(10, (M,))


@pytest.mark.parametrize("path", recordings("*_float[36]*.npz"))
def test_recording(path):
    assert_head_replays(cmt.MarginInnerProduct, load(path))


@pytest.mark.parametrize("m", [1, 4])
@by_rule
def test_is_the_layer_line_by_line(rule, m):
    head, (x, label) = make_head(rule, m=m), make_batch()
    layer = cm.MarginInnerProduct(10, m=m, gradient=rule, engine="line_by_line")
    layer.weight = head.weight.detach().numpy()
    for _ in range(2):  # the second on rows that the first has normalised
        top, x.grad = head(x, label), None
        expected = layer.forward(x.detach().numpy(), label.numpy())
        np.testing.assert_allclose(top.detach(), expected, atol=1e-13)
        np.testing.assert_allclose(head.weight.detach(), layer.weight, rtol=1e-13)
        top.backward(torch.ones_like(top))
        bottom_diff = layer.backward(np.ones_like(expected))
        np.testing.assert_allclose(x.grad, bottom_diff, atol=1e-13)
        np.testing.assert_allclose(head.weight.grad, layer.blobs[0].diff, atol=1e-13)
        assert head.lambda_.item() == pytest.approx(layer.lambda_, rel=1e-15)
    assert head.iteration == layer.iteration == 2


# State


def test_lambda_anneals_in_eval_too():
    head, batch = make_head().eval(), make_batch()
    seen = []
    for _ in range(3):
        with torch.no_grad():
            head(*batch)
        seen.append(head.lambda_.item())
    gamma = float(np.float32(0.12))
    np.testing.assert_allclose(seen, [1000 / (1 + gamma * i) for i in (1, 2, 3)], rtol=1e-15)


def test_a_resumed_state_goes_on():
    head, batch = make_head(iteration=100), make_batch()
    assert head.iteration == 100
    head(*batch)
    resumed = make_head()
    resumed.load_state_dict(head.state_dict())
    assert resumed.iteration == 101
    assert torch.equal(resumed(*batch), head(*batch))
    assert sorted(head.state_dict()) == ["iteration", "weight"]


@pytest.mark.parametrize("copied", ["deepcopy", "pickle", "save"])
@by_two_rules
def test_copies(rule, copied):
    head, batch = make_head(rule), make_batch()
    head(*batch)
    if copied == "save":
        torch.save(head, file := io.BytesIO())
        file.seek(0)
        other = torch.load(file, weights_only=False)
    else:
        other = copy.deepcopy(head) if copied == "deepcopy" else pickle.loads(pickle.dumps(head))
    assert torch.equal(other(*batch), head(*batch))
    assert other.iteration == head.iteration == 2
    assert other.gradient == rule
    assert repr(other) == repr(head)


@by_rule
def test_two_forwards_before_their_backwards(rule):
    """As in one after the other; the second normalises rows that the first has saved."""
    apart, together = make_head(rule), make_head(rule)
    batches, grads = [make_batch(seed=1), make_batch(seed=2)], []
    for x, label in batches:
        cross_entropy(apart(x, label), label).backward()
        grads.append(x.grad)
        x.grad = None
    losses = [cross_entropy(together(x, label), label) for x, label in batches]
    for loss, (x, _), grad in zip(losses, batches, grads, strict=True):
        loss.backward()
        torch.testing.assert_close(x.grad, grad, rtol=1e-14, atol=1e-15)
    torch.testing.assert_close(together.weight.grad, apart.weight.grad, rtol=1e-13, atol=1e-15)


def test_features_that_are_rows_of_the_weight():
    apart, shared = make_head(), make_head()
    label = torch.arange(4)
    x = apart.weight[:4].detach().clone()
    diff = torch.randn(4, 10, dtype=torch.float64)
    apart(x, label).backward(diff)
    shared(shared.weight[:4].detach(), label).backward(diff)
    assert torch.equal(shared.weight.grad, apart.weight.grad)


@pytest.mark.parametrize("rule", [PAPER, EXACT], ids=lambda rule: rule.name)
def test_a_forward_that_raises_changes_nothing(rule):
    head, (x, label) = make_head(rule), make_batch()
    before = copy.deepcopy(head.state_dict())
    for bad in (label + 10, label[:3], label.bool()):
        with pytest.raises(ValueError, match="label"):
            head(x, bad)
    with pytest.raises(ValueError, match="row 0 of x is zero"):
        head(0 * x, label)
    head.weight.data[3] = 0
    with pytest.raises(ValueError, match="row 3 of weight is zero"):
        head(x, label)
    head.weight.data[3] = before["weight"][3]
    assert all(torch.equal(head.state_dict()[name], before[name]) for name in before)


def test_reset_parameters_is_caffes_xavier():
    head = cmt.MarginInnerProduct(48, 5000, iteration=7)
    bound = math.sqrt(3 / 48)
    weight = head.weight.detach().clone()
    assert weight.abs().max() <= bound
    # The deviation of a uniform distribution on (-b, b) is b / sqrt(3).
    assert weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.01)
    assert abs(weight.mean()) < 5 * bound / math.sqrt(3 * weight.numel())
    head.iteration += 1
    head.reset_parameters()
    assert head.iteration == 7
    assert not torch.equal(head.weight, weight)


def test_meta_device_and_to_empty():
    head = cmt.MarginInnerProduct(6, 10, iteration=7, device="meta")
    assert head.weight.is_meta
    assert head.iteration.is_meta
    assert head(torch.ones(8, 6, device="meta"), torch.ones(8, device="meta")).shape == (8, 10)
    head = head.to_empty(device="cpu")
    head.reset_parameters()
    assert head.iteration == 7
    assert head(*make_batch(dtype=torch.float32)).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_dtypes(dtype):
    head, (x, label) = make_head(dtype=torch.float32).to(dtype), make_batch(dtype=torch.float32)
    top = head(x.to(dtype), label)
    assert top.dtype == dtype
    # Lambda is counted in float32 at least: bfloat16 has no 892.857.
    assert head.lambda_.item() == pytest.approx(1000 / 1.12, rel=1e-6)
    expected = make_head(dtype=torch.float32)(x, label)
    assert (top - expected).abs().max() <= 8 * torch.finfo(dtype).eps + 1e-5


@by_two_rules
def test_autocast(rule):
    head, (x, label) = make_head(rule, torch.float32), make_batch(dtype=torch.float32)
    full = make_head(rule, torch.float32)
    expected = full(x, label)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        top = head(x, label)
    assert top.dtype == torch.bfloat16
    assert torch.equal(head.weight, full.weight)
    top.sum().backward()
    assert head.weight.grad.dtype == torch.float32
    assert (top - expected).abs().max() <= 2**-7 * expected.abs().max()


def test_no_parameters_of_another_kind():
    with pytest.raises(ValueError, match="positive, not 0 and 10"):
        cmt.MarginInnerProduct(0, 10)
    with pytest.raises(ValueError, match="m must be a whole number"):
        cmt.MarginInnerProduct(6, 10, m=0)
    with pytest.raises(ValueError, match="gradient must be"):
        cmt.MarginInnerProduct(6, 10, gradient="exakt")


@pytest.mark.parametrize("kind", [cmt.MarginInnerProduct, cmt.LargeMarginInnerProduct])
def test_what_is_no_tensor_is_named(kind):
    head, x, label = kind(8, 10), torch.ones(2, 8), torch.tensor([1, 2])
    with pytest.raises(ValueError, match="x must be a tensor, not ndarray; torch"):
        head(x.numpy(), label)
    with pytest.raises(ValueError, match="label must be a tensor, not list"):
        head(x, [1, 2])
    assert head.iteration == 0
    for dtype in ("float64", torch.int64):
        with pytest.raises(ValueError, match="dtype must be one of PyTorch's floats"):
            kind(8, 10, dtype=dtype)


# torch.compile and torch.func


# PyTorch's own, when it compiles.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@by_two_rules
def test_a_hundred_steps_compile_once(rule):
    plain, compiled = make_head(rule), make_head(rule)
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("eager")
    step = torch.compile(compiled, backend=counter, fullgraph=True)
    for i in range(100):
        x, label = make_batch(seed=i)
        for head, forward in ((plain, plain), (compiled, step)):
            x.grad = head.weight.grad = None
            cross_entropy(forward(x, label), label).backward()
            with torch.no_grad():
                head.weight -= 0.1 * head.weight.grad
    assert counter.frame_count == 1
    assert compiled.iteration == 100
    assert compiled.lambda_ == plain.lambda_
    torch.testing.assert_close(compiled.weight, plain.weight, rtol=1e-12, atol=1e-12)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("backend", "rule"),
    [*itertools.product(["aot_eager"], [PAPER, EXACT]), ("inductor", PAPER)],
    ids=lambda value: getattr(value, "name", value),
)
def test_compile(backend, rule):
    if backend == "inductor" and shutil.which("g++") is None:
        pytest.skip("inductor takes a compiler")
    plain, compiled = make_head(rule), make_head(rule)
    torch._dynamo.reset()
    step = torch.compile(compiled, backend=backend, fullgraph=True)
    for i in range(3):
        x, label = make_batch(seed=i)
        grads = []
        for forward in (plain, step):
            x.grad = None
            cross_entropy(forward(x, label), label).backward()
            grads.append(x.grad)
        torch.testing.assert_close(*grads, rtol=1e-13, atol=1e-13)
    assert compiled.iteration == 3
    torch.testing.assert_close(compiled.weight, plain.weight, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(compiled.weight.grad, plain.weight.grad, rtol=1e-13, atol=1e-13)


@by_two_rules
def test_functional_call_under_grad(rule):
    head, (x, label) = make_head(rule), make_batch()
    state = [
        dict(copy.deepcopy(head).named_parameters()),
        dict(copy.deepcopy(head).named_buffers()),
    ]

    def loss(parameters, buffers):
        return cross_entropy(
            torch.func.functional_call(head, (parameters, buffers), (x, label)), label
        )

    grad = torch.func.grad(loss)(*state)
    assert head.iteration == 0
    assert state[1]["iteration"] == 1
    cross_entropy(head(x, label), label).backward()
    assert torch.equal(grad["weight"], head.weight.grad)
    assert torch.equal(state[0]["weight"], head.weight)


@by_two_rules
def test_heads_side_by_side_under_vmap(rule):
    heads, (x, label) = [make_head(rule, iteration=i) for i in (0, 50)], make_batch()
    stacked = torch.func.stack_module_state(heads)

    def of(parameters, buffers):
        return torch.func.functional_call(heads[0], (parameters, buffers), (x, label))

    tops = torch.vmap(of)(*stacked)
    for top, head in zip(tops, heads, strict=True):
        torch.testing.assert_close(top, head(x, label), rtol=1e-14, atol=1e-14)
    assert stacked[1]["iteration"].tolist() == [1, 51]
    torch.testing.assert_close(stacked[0]["weight"][1], heads[1].weight, rtol=0, atol=0)
