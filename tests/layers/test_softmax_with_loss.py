import numpy as np
import pytest
from google.protobuf import text_format

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.layers.layer import Blob
from caffe_margin.layers.softmax_with_loss import SoftmaxWithLoss
from caffe_margin.maths.softmax import FLT_MIN
from helpers.recorded import assert_blob, layer_param, load, recordings


def make_layer(text=""):
    return SoftmaxWithLoss.from_param(
        text_format.Parse(f'name: "loss" type: "SoftmaxWithLoss" {text}', pb.LayerParameter())
    )


@pytest.fixture(params=[np.float32, np.float64])
def batch(request):
    rng = np.random.default_rng(0)
    return rng.normal(size=(8, 5)).astype(request.param), rng.integers(5, size=8)


@pytest.mark.parametrize("path", recordings("softmax_loss_*.npz"))
def test_recording(path):
    recording = load(path)
    layer = SoftmaxWithLoss.from_param(layer_param(recording))
    loss = layer.forward(recording["bottom0_data"], recording["bottom1_data"])
    assert_blob(loss, recording["top0_data"], "top0_data")
    assert_blob(layer.backward(), recording["bottom0_diff"], "bottom0_diff")


def test_worked_example():
    """A published example: the scores 1, 2, 3, thrice, with class 2 as the label."""
    scores = np.array([[1.0, 2.0, 3.0]] * 3, np.float32)
    layer = make_layer("loss_param { normalization: NONE }")
    loss = layer.forward(scores, [2, 2, 2])
    expected = np.array([[0.09003057, 0.24472848, 0.66524094]] * 3)
    np.testing.assert_allclose(layer.prob, expected, rtol=2e-7)
    np.testing.assert_allclose(loss, 1.2228179, rtol=1e-7)


def test_gradient_is_the_difference_quotient():
    rng = np.random.default_rng(1)
    scores, label = rng.normal(size=(3, 4, 2)), rng.integers(4, size=(3, 2))
    label[1, 1] = 3
    layer = make_layer("loss_param { ignore_label: 3 }")
    layer.forward(scores, label)
    gradient = layer.backward()
    for index in np.ndindex(scores.shape):
        h = np.zeros_like(scores)
        h[index] = 1e-6
        slope = (layer.forward(scores + h, label) - layer.forward(scores - h, label)) / 2e-6
        np.testing.assert_allclose(gradient[index], slope, atol=1e-9)


@pytest.mark.parametrize(
    ("text", "normalizer"),
    [
        ("", 6),
        ("normalization: VALID", 6),
        ("normalization: FULL", 8),
        ("normalization: BATCH_SIZE", 8),
        ("normalization: NONE", 1),
        ("normalize: true", 6),
        ("normalize: false", 8),
        ("normalize: false normalization: VALID", 6),
    ],
)
def test_normalization(batch, text, normalizer):
    scores, label = batch
    label[:2], label[2:] = 4, label[2:] % 4
    layer = make_layer(f"loss_param {{ ignore_label: 4 {text} }}")
    s = scores[2:].astype(np.longdouble)
    losses = np.log(np.exp(s).sum(1)) - s[np.arange(6), label[2:]]
    tolerance = 4 * np.finfo(scores.dtype).eps
    np.testing.assert_allclose(
        layer.forward(scores, label), float(losses.sum() / normalizer), rtol=tolerance
    )
    prob = np.exp(s) / np.exp(s).sum(1, keepdims=True)
    gradient = layer.backward()
    np.testing.assert_array_equal(gradient[:2], 0)
    np.testing.assert_allclose(
        gradient[2:],
        ((prob - np.eye(5)[label[2:]]) / normalizer).astype(scores.dtype),
        atol=tolerance,
    )


def test_normalization_runs_over_positions():
    rng = np.random.default_rng(0)
    scores, label = rng.normal(size=(2, 3, 4, 5)), rng.integers(3, size=(2, 4, 5))
    by_mode = {
        mode: make_layer(f"loss_param {{ normalization: {mode} }}").forward(scores, label)
        for mode in ("FULL", "VALID", "BATCH_SIZE", "NONE")
    }
    total = by_mode["NONE"]
    np.testing.assert_allclose(
        [by_mode["FULL"], by_mode["VALID"], by_mode["BATCH_SIZE"]],
        [total / 40, total / 40, total / 2],
    )


def test_all_labels_ignored_gives_zero_not_nan(batch):
    scores, _ = batch
    layer = make_layer("loss_param { ignore_label: 255 }")
    assert layer.forward(scores, np.full(8, 255.0)) == 0
    np.testing.assert_array_equal(layer.backward(), 0)


def test_loss_of_a_sample_ends_at_87_3365(batch):
    scores, _ = batch
    layer = make_layer("loss_param { normalization: NONE }")
    one = np.zeros((1, 2), scores.dtype)
    one[0, 1] = 1000
    np.testing.assert_allclose(layer.forward(one, [0]), 87.3365, rtol=1e-6)
    np.testing.assert_allclose(FLT_MIN, 2.0**-126)


def test_loss_weight_scales_the_gradient_not_the_loss(batch):
    plain, weighted = make_layer(), make_layer("loss_weight: 2.5")
    assert plain.forward(*batch) == weighted.forward(*batch)
    np.testing.assert_allclose(weighted.backward(), 2.5 * plain.backward(), rtol=1e-6)


def test_loss_weight_of_zero(batch):
    layer = make_layer("loss_weight: 0")
    layer.forward(*batch)
    np.testing.assert_array_equal(layer.backward(), 0)
    np.testing.assert_array_equal(layer.backward(2.0), 2 * plain_gradient(*batch))


def plain_gradient(scores, label):
    layer = make_layer()
    layer.forward(scores, label)
    return layer.backward()


def test_scores_of_four_axes_in_any_memory_order():
    rng = np.random.default_rng(0)
    scores, label = rng.normal(size=(3, 4, 2, 2)), rng.integers(4, size=(3, 2, 2))
    got = plain_gradient(np.asfortranarray(scores), label)
    assert got.any()
    np.testing.assert_array_equal(got, plain_gradient(scores, label))


def test_loss_of_nothing_to_lose_has_no_sign():
    loss = make_layer().forward(np.zeros((2, 1)), [0, 0])
    assert loss == 0
    assert not np.signbit(loss)


def test_axis_and_second_top(batch):
    scores, label = batch
    layer = make_layer('top: "loss" top: "prob" softmax_param { axis: -2 }')
    transposed = np.ascontiguousarray(scores.T)
    np.testing.assert_allclose(
        layer.forward(transposed, label), make_layer().forward(scores, label), rtol=1e-6
    )
    loss, prob = Blob(np.empty((), scores.dtype)), Blob(np.empty(0, scores.dtype))
    layer.reshape([Blob(transposed), Blob(label)], [loss, prob])
    layer.forward_cpu([Blob(transposed), Blob(label)], [loss, prob])
    np.testing.assert_array_equal(prob.data, layer.prob)
    np.testing.assert_allclose(prob.data.sum(axis=0), 1, rtol=1e-6)


def test_large_scores_do_not_overflow(batch):
    scores, label = batch
    layer = make_layer()
    assert np.isfinite(layer.forward(scores + 1e4, label))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda s, y: (s, y[:5]), r"\(8, 5\), 8 predictions of 5 classes.*\(5,\)"),
        (lambda s, y: (s, y + 5), r"row 0 .* must lie in \[0, 5\)"),
        (lambda s, y: (s, np.full(8, np.nan)), "row 0 .* label nan"),
        (lambda s, y: (s.astype(np.float16), y), "float16"),
    ],
)
def test_bad_input(batch, spoil, message):
    layer = make_layer()
    layer.forward(*batch)
    before = layer.backward()
    with pytest.raises(ValueError, match=message):
        layer.forward(*spoil(*batch))
    np.testing.assert_array_equal(layer.backward(), before)


def test_backward_before_forward():
    with pytest.raises(RuntimeError, match="needs a forward"):
        make_layer().backward()
