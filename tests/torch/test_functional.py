import itertools
import math

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import caffe_margin as cm
from caffe_margin.maths.gradient import ALL_RULES, DETACHED, EXACT, PAPER
from caffe_margin.torch.functional import margin_inner_product, margin_softmax_loss
from helpers import heads

TOLERANCE = {torch.float64: 1e-13, torch.float32: 2e-6}


def make_batch(M=24, N=40, K=6, dtype=torch.float64, seed=0):
    """Features, labels and a weight of uneven lengths."""
    rng = np.random.default_rng(seed)
    x = torch.tensor(3 * rng.normal(size=(M, K)), dtype=dtype, requires_grad=True)
    weight = rng.normal(size=(N, K)) * rng.uniform(0.2, 5, size=(N, 1))
    weight = torch.tensor(weight, dtype=dtype, requires_grad=True)
    return x, torch.from_numpy(rng.integers(N, size=M)), weight


def across_every_kink(m, seed=0):
    """Samples at, just beside and between the kinks of psi_m about their own class."""
    _, _, weight = make_batch(N=3, K=3, seed=seed)
    kinks = np.arange(1, m) * np.pi / m
    middles = (np.arange(m) + 0.5) * np.pi / m
    theta = torch.tensor(np.concatenate([kinks, kinks + 1e-4, kinks - 1e-4, middles]))[:, None]
    label = torch.arange(len(theta)) % 3
    toward = torch.nn.functional.normalize(weight.detach()[label])
    across = torch.nn.functional.normalize(toward.roll(1, 1).cross(toward, dim=1))
    x = (theta.cos() * toward + theta.sin() * across) * torch.linspace(0.5, 3, len(theta))[:, None]
    return x.requires_grad_(), label, weight


def assert_same(got, expected, tolerance):
    assert got.dtype == expected.dtype
    assert got.shape == expected.shape
    assert (got - expected).abs().max() <= tolerance * expected.abs().max()


def scores_apart(x, label, weight, **options):
    """The loss by way of the scores."""
    return cross_entropy(margin_inner_product(x, label, weight, **options), label)


def loss_in_blocks(x, label, weight, **options):
    return margin_softmax_loss(x, label, weight, block=3, **options)


# The scores


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("m", [1, 2, 3, 4])
@pytest.mark.parametrize("rule", ALL_RULES, ids=lambda rule: rule.name)
def test_is_the_layer_line_by_line(rule, m, dtype):
    x, label, weight = make_batch(dtype=dtype)
    layer = cm.MarginInnerProduct(
        40, m=m, base=2, gamma=0, lambda_min=0, gradient=rule, engine="line_by_line"
    )
    layer.weight = weight.detach().numpy()
    top = torch.from_numpy(layer.forward(x.detach().numpy(), label.numpy()))
    diff = torch.randn(24, 40, dtype=dtype)
    x_diff = torch.from_numpy(layer.backward(diff.numpy()))

    scores = margin_inner_product(x, label, weight, m=m, lambda_=2.0, gradient=rule)
    scores.backward(diff)
    assert_same(scores, top, TOLERANCE[dtype])
    assert_same(x.grad, x_diff, TOLERANCE[dtype])
    assert_same(weight.grad, torch.from_numpy(layer.blobs[0].diff), TOLERANCE[dtype])


@pytest.mark.parametrize("m", [1, 2, 3, 4, 5, 7])
def test_scores_are_the_papers_definition(m):
    x, label, weight = make_batch()
    expected = heads.top(x.detach().numpy(), label.numpy(), weight.detach().numpy(), m, 1.5)
    scores = margin_inner_product(x, label, weight, m=m, lambda_=1.5)
    np.testing.assert_allclose(scores.detach(), expected, atol=1e-12)


@pytest.mark.parametrize("function", [margin_inner_product, loss_in_blocks])
@pytest.mark.parametrize("lambda_", [0.0, 5.0])
@pytest.mark.parametrize("m", [1, 2, 3, 4, 5])
def test_exact_rule_passes_the_gradient_check(m, lambda_, function):
    x, label, weight = across_every_kink(m)

    def of(x, weight):
        return function(x, label, weight, m=m, lambda_=lambda_, gradient="exact")

    assert gradcheck(of, (x, weight))


@pytest.mark.parametrize("function", [margin_inner_product, loss_in_blocks])
@pytest.mark.parametrize("rule", [PAPER, DETACHED], ids=lambda rule: rule.name)
def test_other_rules_fail_the_gradient_check(rule, function):
    x, label, weight = across_every_kink(4)

    def fails(lambda_, gradient, what):
        x_, weight_ = x.detach(), weight.detach()
        of = {
            "x": (lambda x: function(x, label, weight_, lambda_=lambda_, gradient=gradient), x),
            "weight": (
                lambda w: function(x_, label, w, lambda_=lambda_, gradient=gradient),
                weight,
            ),
        }[what]
        return not gradcheck(*of, raise_exception=False)

    for lambda_ in (0.0, 5.0):
        assert fails(lambda_, rule, "x")
        assert fails(lambda_, rule, "weight")
        assert not fails(lambda_, EXACT, "x")


@pytest.mark.parametrize("function", [margin_inner_product, loss_in_blocks])
def test_exact_gradient_has_a_gradient(function):
    x, label, weight = make_batch(M=4, N=5, K=3)

    def of(x, weight):
        return function(x, label, weight, m=4, lambda_=1.5, gradient="exact")

    assert gradgradcheck(of, (x, weight))


def test_two_forwards_before_their_backwards():
    first, second = make_batch(seed=1), make_batch(seed=2)
    weight = first[2]
    expected = []
    for x, label, _ in (first, second):
        scores_apart(x, label, weight).backward()
        expected.append((x.grad, weight.grad))
        x.grad = weight.grad = None
    losses = [scores_apart(x, label, weight) for x, label, _ in (first, second)]
    for loss, (x, *_), (x_grad, weight_grad) in zip(losses, (first, second), expected, strict=True):
        loss.backward()
        assert torch.equal(x.grad, x_grad)
        assert torch.equal(weight.grad, weight_grad)
        weight.grad = None


# The loss


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("block", [7, 40, 1000])
@pytest.mark.parametrize("m", [1, 4, 5])
@pytest.mark.parametrize("rule", ALL_RULES, ids=lambda rule: rule.name)
def test_loss_is_that_of_the_scores(rule, m, block, dtype):
    x, label, weight = make_batch(dtype=dtype)
    options = {"m": m, "lambda_": 2.0, "gradient": rule}
    expected = scores_apart(x, label, weight, **options)
    expected_grads = torch.autograd.grad(3 * expected, (x, weight))
    loss = margin_softmax_loss(x, label, weight, block=block, **options)
    assert_same(loss, expected, TOLERANCE[dtype])
    for got, of_scores in zip(
        torch.autograd.grad(3 * loss, (x, weight)), expected_grads, strict=True
    ):
        assert_same(got, of_scores, TOLERANCE[dtype])


@pytest.mark.parametrize("frozen", ["x", "weight"])
@pytest.mark.parametrize("function", [scores_apart, loss_in_blocks])
def test_one_gradient_alone(function, frozen):
    x, label, weight = make_batch()
    x_grad, weight_grad = torch.autograd.grad(function(x, label, weight), (x, weight))
    if frozen == "x":
        (got,) = torch.autograd.grad(function(x.detach(), label, weight), weight)
        assert torch.equal(got, weight_grad)
    else:
        (got,) = torch.autograd.grad(function(x, label, weight.detach()), x)
        assert torch.equal(got, x_grad)


def test_loss_of_a_sample_ends_at_87_3365_and_its_gradient_does_not():
    x = torch.tensor([[1000.0, 1.0]], requires_grad=True)
    weight, label = torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), torch.tensor([1])
    loss = margin_softmax_loss(x, label, weight, m=1)
    # -log(2^-126)
    np.testing.assert_allclose(loss.item(), 126 * math.log(2), rtol=1e-7)
    loss.backward()
    np.testing.assert_allclose(x.grad, [[2.0, 0.0]])


@pytest.mark.parametrize("block", [1, 3])
def test_a_sample_that_is_sure_keeps_its_loss_and_gradient(block):
    """In float32, near its own class, where log(sum) and the score agree to every place."""
    x, weight = torch.tensor([[16.0, 0.5, 0.25]], requires_grad=True), torch.eye(3)
    loss = margin_softmax_loss(x, torch.tensor([0]), weight, m=1, block=block)
    loss.backward()
    # log(1 + e^-15.5 + e^-15.75), and its slope
    others = math.exp(-15.5) + math.exp(-15.75)
    np.testing.assert_allclose(loss.item(), math.log1p(others), rtol=1e-5)
    np.testing.assert_allclose(x.grad[0, 0], -others / (1 + others), rtol=1e-5)


def test_plain_score_past_the_margin_does_not_overflow():
    x = torch.ones(1, 8)
    x[0, 0] = 4
    x *= 200 / x.norm()
    assert margin_softmax_loss(x, torch.tensor([0]), torch.eye(8)).isfinite()


def test_single_class():
    x, weight = torch.tensor([[1.0, 2.0]], requires_grad=True), torch.ones(1, 2, requires_grad=True)
    loss = margin_softmax_loss(x, torch.tensor([0]), weight)
    loss.backward()
    assert loss == 0
    assert not x.grad.any()
    assert not weight.grad.any()


class Largest(TorchDispatchMode):
    """Records the most elements that a tensor out of any operation has."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self.elements = max(self.elements, leaf.numel())
        return result


@pytest.mark.parametrize("rule", ALL_RULES, ids=lambda rule: rule.name)
def test_scores_never_exist(rule):
    M, N, K, block = 64, 1200, 8, 100
    x, label, weight = make_batch(M, N, K, torch.float32)
    with Largest() as largest:
        margin_softmax_loss(x, label, weight, gradient=rule, block=block).backward()
    assert largest.elements == N * K
    assert M * block < N * K < M * N
    with Largest() as largest:
        scores_apart(x, label, weight, gradient=rule).backward()
    assert largest.elements == M * N


# Where they run


@pytest.mark.parametrize("function", [scores_apart, loss_in_blocks])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_autocast(function, dtype):
    x, label, weight = make_batch(dtype=dtype)
    expected = function(x, label, weight, gradient="exact")
    grads = torch.autograd.grad(expected, (x, weight))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = margin_inner_product(x, label, weight, gradient="exact")
        loss = function(x, label, weight, gradient="exact")
    assert scores.dtype == (torch.bfloat16 if dtype == torch.float32 else dtype)
    assert loss.dtype == dtype
    assert loss != expected or dtype == torch.float64
    for got, full in zip(
        (loss, *torch.autograd.grad(loss, (x, weight))), (expected, *grads), strict=True
    ):
        # bfloat16 has 8 bits; psi_4 has a slope of up to 16.
        assert_same(got, full, 16 * 2**-8)


def test_autocast_keeps_the_lengths_in_float32():
    """x^2 = 3e38 is past float16, and a sum of 4096 ones past what bfloat16 counts to."""
    x = torch.full((1, 4096), 16.0)
    weight = torch.cat([x, -x])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = margin_inner_product(x, torch.tensor([0]), weight)
        loss = margin_softmax_loss(-x, torch.tensor([1]), weight)
    assert scores.tolist() == [[1024.0, -1024.0]]
    assert loss.dtype == torch.float32
    assert loss == 0


# PyTorch's own, when it compiles.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("function", [scores_apart, loss_in_blocks])
@pytest.mark.parametrize("rule", [PAPER, EXACT], ids=lambda rule: rule.name)
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compile(backend, rule, function):
    x, label, weight = make_batch(N=5)  # two blocks
    lambda_ = torch.tensor(2.0, dtype=torch.float64)

    def of(x, label, weight, lambda_):
        return function(x, label, weight, lambda_=lambda_, gradient=rule)

    torch._dynamo.reset()
    compiled = torch.compile(of, backend=backend, fullgraph=True)(x, label, weight, lambda_)
    plain = of(x, label, weight, lambda_)
    assert_same(compiled, plain, 1e-13)
    for got, expected in zip(
        torch.autograd.grad(compiled, (x, weight)),
        torch.autograd.grad(plain, (x, weight)),
        strict=True,
    ):
        assert_same(got, expected, 1e-13)


BATCHED = [dims for dims in itertools.product((0, None), repeat=4) if dims != (None,) * 4]


def _sum_of_scores(x, label, weight, **options):
    # Its cotangent knows of no batch.
    return margin_inner_product(x, label, weight, **options).sum()


@pytest.mark.parametrize("in_dims", BATCHED, ids=str)
@pytest.mark.parametrize("function", [_sum_of_scores, scores_apart, loss_in_blocks])
def test_func(function, in_dims):
    """Vmap over any of the arguments, alone and about and inside grad."""
    if function is scores_apart and in_dims[:3] == (None, None, None):
        pytest.skip("cross_entropy itself")
    batches = [make_batch(M=4, N=7, K=3, seed=seed) for seed in range(3)]
    stacked = [torch.stack(arg).detach() for arg in zip(*batches, strict=True)]
    stacked.append(torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64))
    args = [a if dim == 0 else a[0] for a, dim in zip(stacked, in_dims, strict=True)]
    singly = [
        [a if dim is None else a[i] for a, dim in zip(args, in_dims, strict=True)] for i in range(3)
    ]

    def of(x, label, weight, lambda_):
        return function(x, label, weight, lambda_=lambda_, gradient="exact")

    grad = torch.func.grad(of, argnums=(0, 2))
    each = [grad(*single) for single in singly]
    expected = torch.stack([of(*single) for single in singly])
    torch.testing.assert_close(torch.vmap(of, in_dims)(*args), expected)
    for k, got in enumerate(torch.vmap(grad, in_dims)(*args)):
        torch.testing.assert_close(got, torch.stack([grads[k] for grads in each]))
    about = torch.func.grad(lambda *args: torch.vmap(of, in_dims)(*args).sum(), argnums=(0, 2))
    for k, got in enumerate(about(*args)):
        grads = torch.stack([grads[k] for grads in each])
        torch.testing.assert_close(got, grads if in_dims[(0, 2)[k]] == 0 else grads.sum(0))


# The arguments


def test_labels_may_be_floats_and_lambda_a_tensor():
    x, label, weight = make_batch()
    expected = margin_inner_product(x, label, weight, lambda_=2)
    fractions = label + torch.linspace(0, 0.99, len(label))
    got = margin_inner_product(x, fractions, weight, lambda_=torch.tensor([2.0]))
    assert torch.equal(got, expected)
    assert margin_softmax_loss(x, fractions, weight) == margin_softmax_loss(x, label, weight)


def test_nothing_changes():
    x, label, weight = make_batch()
    before = [tensor.detach().clone() for tensor in (x, label, weight)]
    for rule in ALL_RULES:
        scores_apart(x, label, weight, gradient=rule).backward()
        loss_in_blocks(x, label, weight, gradient=rule).backward()
    assert all(map(torch.equal, (x, label, weight), before))


def spoilt(tensor, at, value):
    tensor = tensor.detach().clone()
    tensor[at] = value
    return tensor


BAD = {
    "label": (lambda x, y, w: (x, spoilt(y, 3, 40), w), r"row 3 of label is 40; .* \[0, 40\)"),
    "negative": (lambda x, y, w: (x, spoilt(y, 0, -1), w), r"row 0 of label is -1; "),
    "nan": (lambda x, y, w: (x, spoilt(y.double(), 5, math.nan), w), "row 5 of label is nan"),
    "labels": (lambda x, y, w: (x, y[:3], w), r"\(24, 6\).*\(3,\) int64.*\(24,\)"),
    "bool": (lambda x, y, w: (x, y > 3, w), "label is .* bool"),
    "K": (lambda x, y, w: (x[:, :5], y, w), r"\(24, 5\).*\(40, 6\)"),
    "dtype": (lambda x, y, w: (x.float(), y, w), "float32.*float64"),
    "integers": (lambda x, y, w: (x.long(), y, w.long()), "floating-point"),
    "array": (lambda x, y, w: (x, y, w.detach().numpy()), "weight must be a tensor, not ndarray"),
    "dimensions": (lambda x, y, w: (x[None], y, w), r"\(1, 24, 6\)"),
    "zero x": (lambda x, y, w: (spoilt(x, 2, 0), y, w), "row 2 of x is zero"),
    "short x": (lambda x, y, w: (spoilt(x, 2, 1e-170), y, w), "row 2 of x is .*so short"),
    "inf x": (lambda x, y, w: (spoilt(x, (2, 1), math.inf), y, w), "row 2 of x has a value"),
    "zero weight": (lambda x, y, w: (x, y, spoilt(w, 39, 0)), "row 39 of weight is zero"),
    "nan weight": (lambda x, y, w: (x, y, spoilt(w, 1, math.nan)), "row 1 of weight has a value"),
}


@pytest.mark.parametrize("function", [margin_inner_product, margin_softmax_loss])
@pytest.mark.parametrize("case", BAD)
def test_bad_input(case, function):
    spoil, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        function(*spoil(*make_batch()))


@pytest.mark.parametrize("function", [margin_inner_product, margin_softmax_loss])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"m": 2.5}, "m must be a whole number from 1 on"),
        ({"lambda_": -1}, "above -1"),
        ({"lambda_": math.nan}, "finite"),
        ({"gradient": "true"}, "'paper', 'exact', 'detached' or a"),
    ],
)
def test_bad_options(options, message, function):
    with pytest.raises(ValueError, match=message):
        function(*make_batch(), **options)


def test_bad_loss():
    with pytest.raises(ValueError, match="block is 0"):
        margin_softmax_loss(*make_batch(), block=0)
    with pytest.raises(ValueError, match="no samples"):
        margin_softmax_loss(*make_batch(M=0))
    assert margin_inner_product(*make_batch(M=0)).shape == (0, 40)
