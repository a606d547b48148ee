import tracemalloc

import numpy as np
import pytest
from google.protobuf import text_format

import caffe_margin as cm
from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.kernels import fused
from caffe_margin.layers import margin_softmax_loss as loss_module
from caffe_margin.layers.margin_softmax_loss import margin_softmax_loss
from caffe_margin.maths.gradient import ALL_RULES, EXACT, PAPER

TYPES = ["SINGLE", "DOUBLE", "TRIPLE", "QUADRUPLE"]
TOLERANCE = {np.float64: 1e-13, np.float32: 2e-6}


def make_batch(M=24, N=40, K=6, dtype=np.float64, seed=0):
    rng = np.random.default_rng(seed)
    x = (3 * rng.normal(size=(M, K))).astype(dtype)
    weight = (rng.normal(size=(N, K)) * rng.uniform(0.2, 5, size=(N, 1))).astype(dtype)
    return x, weight, rng.integers(N, size=M)


def layers_apart(x, weight, label, m, lambda_, rule, loss_weight=1.0):
    """The same by MarginInnerProduct, line by line, and SoftmaxWithLoss."""
    layer_param = text_format.Parse(
        f"""name: "fc6" type: "MarginInnerProduct" margin_inner_product_param {{
              num_output: {len(weight)} type: {TYPES[m - 1]} base: {lambda_} lambda_min: {lambda_}
            }}""",
        pb.LayerParameter(),
    )
    layer = cm.MarginInnerProduct.from_param(layer_param, gradient=rule, engine="line_by_line")
    layer.weight = weight
    loss_layer = cm.SoftmaxWithLoss(loss_weight=loss_weight)
    loss = loss_layer.forward(layer.forward(x, label), label)
    bottom_diff = layer.backward(loss_layer.backward())
    return loss, bottom_diff, layer.blobs[0].diff, layer.weight


def assert_same(got, expected, tolerance):
    assert got.dtype == expected.dtype
    assert np.abs(got - expected).max() <= tolerance * np.abs(expected).max()


@pytest.fixture(params=["kept", "made twice", "some of each", "where the gradient will be"])
def blocks_of_few_classes(request, monkeypatch):
    """Blocks of a few classes, so that small arrays go through several, kept or not; and a K."""
    monkeypatch.setattr(fused, "BLOCK_BYTES", 7 * 24 * 8)
    kept = {"kept": 1 << 20, "some of each": 3 * 7 * 24 * 8}.get(request.param, 0)
    monkeypatch.setattr(loss_module, "KEPT_BYTES", kept)
    return 25 if request.param == "where the gradient will be" else 6


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("m", [1, 2, 3, 4])
@pytest.mark.parametrize("rule", ALL_RULES, ids=lambda rule: rule.name)
def test_is_the_layers_apart(rule, m, dtype, blocks_of_few_classes):
    x, weight, label = make_batch(K=blocks_of_few_classes, dtype=dtype)
    expected = layers_apart(x, weight, label, m, 2.0, rule, loss_weight=3)
    got = margin_softmax_loss(x, label, weight, m=m, lambda_=2.0, gradient=rule, loss_weight=3)
    for a, b in zip((*got, weight), expected, strict=True):
        assert_same(a, b, TOLERANCE[dtype])


@pytest.mark.parametrize("m", [1, 4, 5, 6, 7])
def test_exact_gradient_is_the_difference_quotient(m):
    x, weight, label = make_batch(M=5, N=4, K=3)
    got = margin_softmax_loss(x, label, weight, m=m, lambda_=1, gradient="exact")
    for array, gradient in ((x, got.bottom_diff), (weight, got.weight_diff)):
        for index in np.ndindex(array.shape):
            kept = array[index]
            losses = []
            for step in (1e-6, -1e-6):
                array[index] = kept + step
                losses.append(
                    margin_softmax_loss(x, label, weight, m=m, lambda_=1, gradient="exact").loss
                )
            array[index] = kept
            np.testing.assert_allclose(gradient[index], (losses[0] - losses[1]) / 2e-6, atol=1e-8)


def test_loss_of_a_sample_ends_at_87_3365():
    x = np.array([[1000.0, 1.0], [1.0, 2.0]])
    weight = np.array([[1.0, 0.0], [-1.0, 0.0]])
    loss = margin_softmax_loss(x[:1], [1], weight, m=1, gradient="exact").loss
    # -log(2^-126)
    np.testing.assert_allclose(loss, 126 * np.log(2), rtol=1e-15)


def test_a_sample_that_is_sure_keeps_its_loss_and_gradient():
    """In float32, near its own class, where log(sum) and the logit agree to every place."""
    weight = np.eye(3, dtype=np.float32)
    x = np.array([[16.0, 0.5, 0.25]], np.float32)
    got = margin_softmax_loss(x, [0], weight, m=1, gradient="exact")
    expected = margin_softmax_loss(
        x.astype(float), [0], weight.astype(float), m=1, gradient="exact"
    )
    assert expected.loss < 1e-6
    np.testing.assert_allclose(got.loss, expected.loss, rtol=1e-5)
    np.testing.assert_allclose(got.bottom_diff, expected.bottom_diff, rtol=1e-5)


def test_plain_logit_past_the_margin_does_not_overflow(monkeypatch):
    monkeypatch.setattr(loss_module, "KEPT_BYTES", 0)
    x = np.ones((1, 8), np.float32)
    x[0, 0] = 4
    x *= 200 / np.linalg.norm(x)
    got = margin_softmax_loss(x, [0], np.eye(8, dtype=np.float32))
    assert np.isfinite(got.loss)


def test_numpy_scalars_do_not_change_the_dtype():
    x, weight, label = make_batch(dtype=np.float32)
    got = margin_softmax_loss(x, label, weight, lambda_=np.float64(5), loss_weight=np.float64(2))
    assert {array.dtype for array in got} == {np.dtype(np.float32)}


def test_features_that_are_rows_of_the_weight():
    _, weight, label = make_batch(M=4)
    apart = margin_softmax_loss(weight[:4].copy(), label, weight.copy())
    for a, b in zip(margin_softmax_loss(weight[:4], label, weight), apart, strict=True):
        np.testing.assert_array_equal(a, b)


def test_single_class():
    x = np.array([[1.0, 2.0]])
    got = margin_softmax_loss(x, [0], np.ones((1, 2)))
    assert got.loss == 0
    np.testing.assert_array_equal(got.bottom_diff, 0)
    np.testing.assert_array_equal(got.weight_diff, 0)


def test_stored_weight():
    x, weight, label = make_batch()
    before = weight.copy()
    margin_softmax_loss(x, label, weight, gradient=EXACT)
    np.testing.assert_array_equal(weight, before)
    margin_softmax_loss(x, label, weight, gradient=PAPER)
    lengths = np.linalg.norm(before, axis=1, keepdims=True)
    np.testing.assert_allclose(weight, before / lengths, rtol=1e-15)


def test_logits_never_exist(monkeypatch):
    """Beyond the arrays it returns, memory stays at a few blocks however many classes there are."""
    monkeypatch.setattr(fused, "BLOCK_BYTES", 1 << 16)
    monkeypatch.setattr(loss_module, "KEPT_BYTES", 1 << 17)
    M, N, K = 64, 20000, 4
    logits = M * N * 4
    for gradient in ("paper", "exact"):
        x, weight, label = make_batch(M, N, K, np.float32)
        margin_softmax_loss(x, label, weight, gradient=gradient)  # numba is imported once
        tracemalloc.start()
        margin_softmax_loss(x, label, weight, gradient=gradient)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < weight.nbytes + logits // 4, gradient


SPOILT = {
    "label": (lambda x, w, y: (x, w, y + 40), r"row 0 of label .* \[0, 40\)"),
    "labels": (lambda x, w, y: (x, w, y[:3]), r"\(24, 6\).*\(3,\)"),
    "K": (lambda x, w, y: (x[:, :5], w, y), r"\(24, 5\).*\(40, 6\)"),
    "dtype": (lambda x, w, y: (x.astype(np.float32), w, y), "float32.*float64"),
    "float16": (lambda x, w, y: (x.astype(np.float16), w, y), "float16"),
    "no samples": (lambda x, w, y: (x[:0], w, y[:0]), "no samples"),
    "zero feature": (lambda x, w, y: (0 * x, w, y), "row 0 of x is zero"),
    "zero weight": (lambda x, w, y: (x, 0 * w, y), "row 0 of weight is zero"),
}


@pytest.mark.parametrize("case", SPOILT)
@pytest.mark.parametrize("gradient", ["paper", "exact"])
def test_bad_input_changes_nothing(case, gradient):
    spoil, message = SPOILT[case]
    x, weight, label = spoil(*make_batch())
    before = weight.copy()
    with pytest.raises(ValueError, match=message):
        margin_softmax_loss(x, label, weight, gradient=gradient)
    np.testing.assert_array_equal(weight, before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"m": 2.5}, "m must be a whole number from 1 on"),
        ({"lambda_": -1}, "above -1"),
        ({"lambda_": np.nan}, "finite"),
        ({"loss_weight": np.nan}, "loss_weight is nan"),
        ({"gradient": "true"}, "'paper', 'exact', 'detached' or a"),
    ],
)
def test_bad_options(options, message):
    x, weight, label = make_batch()
    before = weight.copy()
    with pytest.raises(ValueError, match=message):
        margin_softmax_loss(x, label, weight, **options)
    np.testing.assert_array_equal(weight, before)


def test_weight_must_be_an_array():
    x, weight, label = make_batch()
    with pytest.raises(ValueError, match="numpy array, not list"):
        margin_softmax_loss(x, label, weight.tolist())


def test_options_past_float32():
    x, weight, label = make_batch(dtype=np.float32)
    with pytest.raises(ValueError, match="lambda_ is inf"):
        margin_softmax_loss(x, label, weight, lambda_=1e39)
    with pytest.raises(ValueError, match="above -1"):
        margin_softmax_loss(x, label, weight, lambda_=-1 + 1e-9)


def test_read_only_weight():
    x, weight, label = make_batch()
    weight.flags.writeable = False
    margin_softmax_loss(x, label, weight, gradient="exact")
    with pytest.raises(ValueError, match="read-only"):
        margin_softmax_loss(x, label, weight)
