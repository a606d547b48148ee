"""The losses of one blob against another, held to Caffe's loops."""

import numpy as np
import pytest
import torch

from helpers.one_layer import one_layer, run


@pytest.mark.parametrize("shape", [(3, 4), (3, 2, 2), (3, 4, 1, 1)])
def test_euclidean_takes_another_shape_of_the_same_count(shape):
    rng = np.random.default_rng(0)
    x, target = rng.standard_normal((3, 4)), rng.standard_normal(shape)
    (loss,), (diff, target_diff) = run('type: "EuclideanLoss"', x, target, top_diff=2)
    difference = x - target.reshape(3, 4)
    assert loss == pytest.approx((difference**2).sum() / 6, rel=1e-14)
    np.testing.assert_allclose(diff, 2 * difference / 3, rtol=1e-14)
    np.testing.assert_allclose(target_diff.reshape(3, 4), -2 * difference / 3, rtol=1e-14)


def test_euclidean_of_one_value_each():
    (loss,), _ = run('type: "EuclideanLoss"', [[1.0], [2.0]], [4.0, 6.0])
    assert loss == (9 + 16) / 4


def sigmoid_loops(x, target, ignored, normalization):
    loss, diff, valid = 0.0, np.zeros(x.size), 0
    for i, (value, t) in enumerate(zip(x.flat, target.flat, strict=True)):
        if int(t) == ignored:
            continue
        over = value >= 0
        loss -= value * (t - over) - np.log(1 + np.exp(value - 2 * value * over))
        diff[i] = 1 / (1 + np.exp(-value)) - t
        valid += 1
    wanted = {"FULL": x.size, "VALID": valid, "BATCH_SIZE": len(x), "NONE": 1}
    by = max(1, wanted[normalization])
    return loss / by, diff.reshape(x.shape) / by


@pytest.mark.parametrize(
    ("says", "normalization"),
    [
        ("", "BATCH_SIZE"),
        ("normalize: true", "VALID"),
        ("normalize: false", "BATCH_SIZE"),
        ("normalize: true normalization: NONE", "NONE"),
        ("normalization: FULL", "FULL"),
        ("normalization: VALID", "VALID"),
    ],
)
@pytest.mark.parametrize("ignored", [None, 0, 1, -1])
def test_sigmoid_cross_entropy_is_the_loops(ignored, says, normalization):
    rng = np.random.default_rng(1)
    x = 3 * rng.standard_normal((4, 3, 2))
    x[0, 0] = 0
    # Neither in the shape of x nor all 0 or 1: those below 1 are cast to 0.
    target = rng.choice([0, 0.3, 0.9, 1, -1.0] if ignored == -1 else [0, 0.3, 1], (4, 6))
    ignore = "" if ignored is None else f"ignore_label: {ignored}"
    (loss,), (diff, target_diff) = run(
        f'type: "SigmoidCrossEntropyLoss" loss_param {{ {ignore} {says} }}',
        x,
        target,
        built_for=[(2, 3, 2), (2, 6)],
    )
    expected = sigmoid_loops(x, target, ignored, normalization)
    assert loss == pytest.approx(expected[0], rel=1e-13)
    np.testing.assert_allclose(diff, expected[1], rtol=1e-12, atol=1e-16)
    assert not target_diff.any()


def test_sigmoid_cross_entropy_of_nothing_is_0():
    text = 'type: "SigmoidCrossEntropyLoss" loss_param { ignore_label: 1 normalization: VALID }'
    (loss,), (diff, _) = run(text, np.ones((2, 3)), np.ones((2, 3)))
    assert loss == 0
    assert not diff.any()


# ContrastiveLoss.


def contrastive_loops(a, b, similar, margin, legacy, top_diff):
    num = len(a)
    loss, diff = 0.0, np.zeros_like(a)
    for i in range(num):
        d = a[i] - b[i]
        square = d @ d
        if int(similar[i]):
            loss += square
            diff[i] = top_diff / num * d
            continue
        if legacy:
            loss += max(margin - square, 0)
            distance, beta = margin - square, -top_diff / num
        else:
            loss += max(margin - np.sqrt(square), 0) ** 2
            distance = margin - np.sqrt(square)
            beta = -top_diff / num * distance / (np.sqrt(square) + 1e-4)
        diff[i] = beta * d if distance > 0 else 0
    return loss / num / 2, diff


@pytest.mark.parametrize("legacy", [False, True])
def test_contrastive_is_the_loops(legacy):
    rng = np.random.default_rng(2)
    a, b = rng.standard_normal((2, 8, 3))
    b[0] = a[0]  # as near as can be, and not similar
    b[1] = a[1] + 1e-4
    b[2] = a[2] + [2, 0, 0]  # at the margin
    similar = np.array([0, 0, 0, 1, 0.9, 2, -1, 0])
    text = (
        'type: "ContrastiveLoss" '
        f"contrastive_loss_param {{ margin: 2 legacy_version: {str(legacy).lower()} }}"
    )
    (loss,), (first, second, third) = run(
        text, a[..., None, None], b[..., None, None], similar, top_diff=0.3
    )
    expected, diff = contrastive_loops(a, b, similar, 2, legacy, 0.3)
    assert loss == pytest.approx(expected, rel=1e-14)
    np.testing.assert_allclose(first[..., 0, 0], diff, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(second, -first, rtol=0, atol=0)
    assert not third.any()


# PyTorch's own, when it compiles.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_contrastive_compiles_whole():
    layer = one_layer('type: "ContrastiveLoss"', (2, 3), (2, 3), (2,)).layer
    a, b = (torch.rand(4, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    similar = torch.tensor([0.0, 1, 0, 1])
    plain = layer(a, b, similar)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)(a, b, similar)
    assert compiled == plain
    for grads in zip(*(torch.autograd.grad(top, (a, b)) for top in (plain, compiled)), strict=True):
        torch.testing.assert_close(*grads, rtol=1e-14, atol=0)
