"""The losses against classes, held to Caffe's loops."""

import re

import numpy as np
import pytest
import torch

from caffe_margin.files.blobs import array_to_blob
from helpers.one_layer import one_layer, run

FLT_MIN = 1.1754943508222875e-38


def softmax(x):
    e = np.exp(x - x.max(0))
    return e / e.sum(0)


def positions(x, label, axis):
    """Yield (index of x, label) of each position, as the C++ counts them."""
    axis %= x.ndim
    shape = x.shape[:axis] + x.shape[axis + 1 :]
    for i, at in enumerate(np.ndindex(*shape)):
        yield (*at[:axis], slice(None), *at[axis:]), int(label.flat[i])


def divisor(normalization, x, axis, valid):
    axis %= x.ndim
    outer, inner = int(np.prod(x.shape[:axis])), int(np.prod(x.shape[axis + 1 :]))
    wanted = {"FULL": outer * inner, "VALID": valid, "BATCH_SIZE": outer, "NONE": 1}
    return max(1, wanted[normalization])


def looped(x, label, axis, ignored, normalization, of_position):
    """Return loss and diff; ``of_position`` has those of one position."""
    loss, diff, valid = 0.0, np.zeros_like(x), 0
    for at, y in positions(x, label, axis):
        if y == ignored:
            continue
        valid += 1
        value, diff[at] = of_position(x[at], y)
        loss += value
    by = divisor(normalization, x, axis, valid)
    return loss / by, diff / by


def softmax_of_position(x, y):
    p = softmax(x)
    return -np.log(max(p[y], FLT_MIN)), p - np.eye(len(x))[y]


def labels_like(x, axis, rng, ignored=None):
    shape = list(x.shape)
    classes = shape.pop(axis)
    label = rng.integers(classes, size=shape).astype(float)
    if ignored is not None:
        label[rng.random(shape) < 0.4] = ignored
    return label


@pytest.mark.parametrize("normalization", ["FULL", "VALID", "BATCH_SIZE", "NONE"])
@pytest.mark.parametrize("ignored", [None, -1, 2, 255])
@pytest.mark.parametrize("axis", [0, 1, 2, -1, -3])
def test_softmax_is_the_loops(axis, ignored, normalization):
    rng = np.random.default_rng(axis % 4)
    x = 3 * rng.standard_normal((4, 4, 6))  # the labels' first dimension is 4 on any axis
    label = labels_like(x, axis, rng, ignored)
    ignore = "" if ignored is None else f"ignore_label: {ignored}"
    (loss,), (diff, label_diff) = run(
        f'type: "SoftmaxWithLoss" softmax_param {{ axis: {axis} }} '
        f"loss_param {{ {ignore} normalization: {normalization} }}",
        x,
        label,
        top_diff=0.7,
    )
    expected = looped(x, label, axis, ignored, normalization, softmax_of_position)
    assert loss == pytest.approx(expected[0], rel=1e-13)
    np.testing.assert_allclose(diff, 0.7 * expected[1], rtol=1e-12, atol=1e-15)
    assert loss.shape == ()
    assert not label_diff.any()


def test_another_batch_and_size_than_it_was_made_for():
    rng = np.random.default_rng(1)
    x = rng.standard_normal((3, 4, 2, 5))
    label = labels_like(x, 1, rng)
    text = 'type: "SoftmaxWithLoss" loss_param { normalization: BATCH_SIZE }'
    (loss,), (diff, _) = run(text, x, label, built_for=[(7, 4, 1, 1), (7, 1, 1)])
    expected = looped(x, label, 1, None, "BATCH_SIZE", softmax_of_position)
    assert loss == pytest.approx(expected[0], rel=1e-13)
    np.testing.assert_allclose(diff, expected[1], rtol=1e-12, atol=1e-15)


def test_channels_last_is_no_other_order():
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    label = torch.arange(40.0).reshape(2, 1, 4, 5) % 3
    net = one_layer('type: "SoftmaxWithLoss"', x.shape, label.shape)
    expected = net(a=x, b=label)["top"]
    assert net(a=x.contiguous(memory_format=torch.channels_last), b=label)["top"] == expected


@pytest.mark.parametrize(
    ("says", "normalization"),
    [
        ("", "VALID"),
        ("normalize: false", "BATCH_SIZE"),
        ("normalize: true", "VALID"),
        ("normalize: false normalization: FULL", "FULL"),
    ],
)
def test_which_normalization(says, normalization):
    rng = np.random.default_rng(2)
    x = rng.standard_normal((3, 4, 2))
    label = np.array([[0.0, 9], [9, 3], [1, 2]])
    (loss,), _ = run(f'type: "SoftmaxWithLoss" loss_param {{ ignore_label: 9 {says} }}', x, label)
    expected = looped(x, label, 1, 9, normalization, softmax_of_position)
    assert loss == pytest.approx(expected[0], rel=1e-13)


def test_a_second_top_is_the_softmax_and_has_no_backward():
    x = np.random.default_rng(3).standard_normal((2, 3, 4))
    (_, prob), _ = run(
        'type: "SoftmaxWithLoss" top: "loss" top: "prob" loss_weight: 1 loss_weight: 0',
        x,
        np.zeros((2, 4)),
    )
    np.testing.assert_allclose(prob, np.stack([softmax(row) for row in x]), rtol=1e-13)


@pytest.mark.parametrize("low", [-1000.0, -np.inf])
def test_the_clamp_is_in_the_value_alone(low):
    (loss,), (diff, _) = run('type: "SoftmaxWithLoss"', [[0.0, low]], [1.0])
    assert loss == pytest.approx(-np.log(FLT_MIN), rel=1e-15)
    assert diff.tolist() == [[1.0, -1.0]]


def test_labels_are_truncated_before_they_are_ignored():
    x = np.random.default_rng(4).standard_normal((3, 4))
    text = 'type: "SoftmaxWithLoss" loss_param { ignore_label: -1 }'
    (loss,), _ = run(text, x, [-1.5, 2.9, 0])
    expected, _ = looped(x, np.array([-1, 2, 0]), 1, -1, "VALID", softmax_of_position)
    assert loss == pytest.approx(expected, rel=1e-13)


LOSSES = ["SoftmaxWithLoss", "HingeLoss", "MultinomialLogisticLoss"]


@pytest.mark.parametrize("bad", [4, -1, np.nan, np.inf])
@pytest.mark.parametrize("type_", LOSSES)
def test_a_label_that_is_no_class_is_named(type_, bad):
    said = re.escape(f"row 1 of label is {float(bad)}; labels must lie in [0, 4)")
    with pytest.raises(ValueError, match=f"layer 'layer'.*{said}"):
        run(f'type: "{type_}"', np.ones((3, 4)), [3, bad, 0])


# PyTorch's own, when it compiles.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("type_", LOSSES)
def test_compiles_whole(type_):
    x = torch.rand(5, 4, dtype=torch.float64, requires_grad=True)
    label = torch.tensor([0.0, 1, 3, 2, 1])
    layer = one_layer(f'type: "{type_}" loss_param {{ ignore_label: 1 }}', (2, 4), (2,)).layer
    plain = layer(x, label)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)(x, label)
    assert compiled == plain
    assert torch.equal(*(torch.autograd.grad(loss, x)[0] for loss in (compiled, plain)))


# InfogainLoss.


def infogain_of_position(matrix):
    def of_position(x, y):
        p = softmax(x)
        loss = -(matrix[y] * np.log(np.maximum(p, 1e-20))).sum()
        return loss, p * matrix[y].sum() - matrix[y]

    return of_position


@pytest.fixture
def matrix():
    return np.random.default_rng(5).standard_normal((4, 4))


@pytest.fixture
def source(matrix, tmp_path):
    path = tmp_path / "infogain.binaryproto"
    path.write_bytes(array_to_blob(matrix[None, None]).SerializeToString())
    return path


@pytest.mark.parametrize("says", ["", "ignore_label: 1 normalization: FULL", "ignore_label: 3"])
@pytest.mark.parametrize("axis", [1, -1])
@pytest.mark.parametrize("from_file", [False, True])
def test_infogain_is_the_loops(from_file, axis, says, matrix, source):
    rng = np.random.default_rng(6)
    x = rng.standard_normal((5, 4, 3) if axis == 1 else (5, 3, 4))
    x[0] *= 100  # probabilities below 1e-20
    label = labels_like(x, axis, rng)
    param = f"infogain_loss_param {{ axis: {axis} "
    param += f"source: '{source}' }}" if from_file else "}"
    (loss,), diffs = run(
        f'type: "InfogainLoss" {param} loss_param {{ {says} }}',
        x,
        label,
        *([] if from_file else [matrix]),
    )
    ignored = int(says.split()[1]) if says else None
    normalization = "FULL" if "FULL" in says else "VALID"
    expected = looped(x, label, axis, ignored, normalization, infogain_of_position(matrix))
    assert loss == pytest.approx(expected[0], rel=1e-12)
    np.testing.assert_allclose(diffs[0], expected[1], rtol=1e-11, atol=1e-14)
    assert not any(diff.any() for diff in diffs[1:])


def test_a_matrix_is_no_blob_of_the_layer(source):
    net = one_layer(
        f"type: 'InfogainLoss' infogain_loss_param {{ source: '{source}' }}", (2, 4), (2,)
    )
    assert not net.params
    assert not net.state_dict()
    assert net.float().layer.matrix.dtype == torch.float32


def test_what_infogain_refuses(source):
    def made(says, classes=4):
        return one_layer(f"type: 'InfogainLoss' {says}", (2, classes), (2,))

    with pytest.raises(ValueError, match=r"layer 'layer'.*normalize is not for this type"):
        made(f"infogain_loss_param {{ source: '{source}' }} loss_param {{ normalize: true }}")
    with pytest.raises(ValueError, match=r"is \(1, 1, 4, 4\), and there are 5 classes"):
        made(f"infogain_loss_param {{ source: '{source}' }}", classes=5)
    with pytest.raises(FileNotFoundError, match="no_such"):
        made("infogain_loss_param { source: '/no_such/file' }")
    with pytest.raises(ValueError, match="neither source nor bottom"):
        made("")


# MultinomialLogisticLoss and HingeLoss.


def test_multinomial_is_the_loops():
    rng = np.random.default_rng(7)
    prob = rng.random((4, 3, 1, 2))
    label = np.array([0.0, 5, 2, 3])
    prob.reshape(4, 6)[1, 5] = 1e-30
    prob.reshape(4, 6)[2, 2] = 0
    (loss,), (diff, _) = run('type: "MultinomialLogisticLoss"', prob, label[:, None], top_diff=3)
    expected, expected_diff = 0.0, np.zeros((4, 6))
    for i, y in enumerate(label.astype(int)):
        p = max(prob.reshape(4, 6)[i, y], 1e-20)
        expected -= np.log(p) / 4
        expected_diff[i, y] = -3 / 4 / p
    assert loss == pytest.approx(expected, rel=1e-14)
    np.testing.assert_allclose(diff.reshape(4, 6), expected_diff, rtol=1e-14)


@pytest.mark.parametrize("norm", ["L1", "L2"])
def test_hinge_is_the_loops(norm):
    x = 2 * np.random.default_rng(8).standard_normal((4, 3, 2))
    x[0, 0, 0], x[1, 2, 1] = 1, -1  # where the slack is 0
    label = np.array([0.0, 3, 5, 1])
    text = f'type: "HingeLoss" hinge_loss_param {{ norm: {norm} }}'
    (loss,), (diff, _) = run(text, x, label, top_diff=0.5)
    slack = x.reshape(4, 6).copy()
    rows = np.arange(4), label.astype(int)
    slack[rows] *= -1
    slack = np.maximum(0, 1 + slack)
    expected = slack.copy()
    expected[rows] *= -1
    if norm == "L1":
        assert loss == pytest.approx(slack.sum() / 4, rel=1e-14)
        expected = np.sign(expected) * 0.5 / 4
    else:
        assert loss == pytest.approx((slack**2).sum() / 4, rel=1e-14)
        expected *= 0.5 * 2 / 4
    np.testing.assert_allclose(diff.reshape(4, 6), expected, rtol=1e-14, atol=0)
