"""What a layer keeps when a call fails, is interrupted, or is handed its own memory."""

import numpy as np
import pytest

import caffe_margin as cm
from caffe_margin.kernels import caffe_math, fused, margin_inner_product
from caffe_margin.layers.margin_layer import ENGINES

RULES = ["paper", "exact", "detached"]


def make(gradient, engine="fused", dtype=np.float64, seed=0):
    """A layer of 6 classes that has seen one Forward, with its batch and another."""
    rng = np.random.default_rng(seed)
    layer = cm.MarginInnerProduct(6, gradient=gradient, engine=engine)
    layer.weight = (rng.normal(size=(6, 4)) * rng.uniform(0.2, 5, size=(6, 1))).astype(dtype)
    batches = [(rng.normal(size=(5, 4)).astype(dtype), rng.integers(6, size=5)) for _ in range(2)]
    layer.forward(*batches[0])
    layer.weight = 3 * layer.weight  # so that a rule that normalises has something to do
    return layer, batches


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("gradient", RULES)
@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_an_interrupted_forward_has_not_happened(gradient, engine, error, monkeypatch):
    layer, (_, second) = make(gradient, engine)
    before = layer.weight.copy(), layer.iteration, layer.lambda_
    layer.blobs[0].diff[...] = 7

    def interrupt(*_, **__):
        raise error

    where = {
        # the last that each does before what is stored changes
        "fused": (fused, "label_coefficients"),
        "line_by_line": (margin_inner_product, "_label_top_data"),
    }[engine]
    with monkeypatch.context() as patch:
        patch.setattr(*where, interrupt)
        with pytest.raises(error):
            layer.forward(*second)
    np.testing.assert_array_equal(layer.weight, before[0])
    assert (layer.iteration, layer.lambda_) == before[1:]
    np.testing.assert_array_equal(layer.blobs[0].diff, 7)
    # What Backward needs of the former Forward may be overwritten: it says so, and guesses nothing.
    with pytest.raises(RuntimeError, match="needs a forward"):
        layer.backward(np.ones((5, 6)))

    layer.blobs[0].diff[...] = 0
    unbroken, _ = make(gradient, engine)
    np.testing.assert_array_equal(layer.forward(*second), unbroken.forward(*second))
    top_diff = np.random.default_rng(1).normal(size=(5, 6))
    np.testing.assert_array_equal(layer.backward(top_diff), unbroken.backward(top_diff))
    np.testing.assert_array_equal(layer.blobs[0].diff, unbroken.blobs[0].diff)


@pytest.mark.parametrize("gradient", RULES)
def test_a_first_forward_that_is_interrupted_leaves_no_weight(gradient, monkeypatch):
    layer = cm.MarginInnerProduct(6, gradient=gradient)
    monkeypatch.setattr(fused, "label_score", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        layer.forward(np.ones((2, 4)), [0, 1])
    assert not layer.blobs
    assert layer.iteration == 0


@pytest.mark.parametrize("gradient", RULES)
def test_an_interrupted_loss_has_not_happened(gradient, monkeypatch):
    rng = np.random.default_rng(0)
    x, weight = rng.normal(size=(5, 4)), 3 * rng.normal(size=(6, 4))
    before = weight.copy()
    loss_module = "caffe_margin.layers.margin_softmax_loss._second_pass"
    monkeypatch.setattr(loss_module, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        cm.margin_softmax_loss(x, [0, 1, 2, 3, 4], weight, gradient=gradient)
    np.testing.assert_array_equal(weight, before)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("gradient", RULES)
def test_features_that_are_rows_of_the_layers_own_weight(gradient, engine):
    layer, _ = make(gradient, engine)
    apart, _ = make(gradient, engine)
    label, top_diff = np.array([3, 1, 0]), np.random.default_rng(1).normal(size=(3, 6))
    tops = [layer.forward(layer.weight[:3], label), apart.forward(apart.weight[:3].copy(), label)]
    np.testing.assert_array_equal(*tops)
    diffs = [layer.backward(top_diff), apart.backward(top_diff)]
    np.testing.assert_allclose(*diffs, rtol=1e-14)
    np.testing.assert_array_equal(layer.blobs[0].diff, apart.blobs[0].diff)


def test_a_masked_array_is_refused_and_left_alone():
    weight = np.ma.masked_less(np.random.default_rng(0).normal(size=(6, 4)), 0)
    before = weight.copy()
    layer = cm.MarginInnerProduct(6)
    with pytest.raises(ValueError, match="a masked array"):
        layer.weight = weight
    with pytest.raises(ValueError, match="a masked array"):
        layer.forward(weight, np.zeros(6))
    with pytest.raises(ValueError, match="not MaskedArray"):
        cm.margin_softmax_loss(np.ones((1, 4)), [0], weight)
    np.testing.assert_array_equal(weight.data, before.data)
    assert not layer.blobs


# Numbers at the ends of the range


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_row_whose_square_is_no_normal_number(dtype, engine):
    tiny = np.sqrt(np.finfo(dtype).tiny)
    layer, ((x, label), _) = make("paper", engine, dtype)
    before = layer.iteration
    x[2] = tiny * dtype(0.49)  # four of them: the square is below the least normal number
    with pytest.raises(ValueError, match=r"row 2 of bottom\[0\].*is no normal number"):
        layer.forward(x, label)
    assert layer.iteration == before
    with pytest.raises(ValueError, match="row 2 of x"):
        cm.margin_softmax_loss(x, label, layer.weight)
    with pytest.raises(ValueError, match="row 2 of the weight"):
        layer.weight = np.concatenate([x, x[:1]])


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("gradient", RULES)
def test_the_shortest_rows_that_are_taken_keep_their_angles(gradient, engine):
    """Against float64, where they are nothing special."""
    rng = np.random.default_rng(0)
    x, weight = rng.normal(size=(5, 4)), rng.normal(size=(6, 4))
    x /= np.linalg.norm(x, axis=1, keepdims=True) / 2e-19
    weight /= np.linalg.norm(weight, axis=1, keepdims=True) / 2e-19
    label, tops = [0, 1, 2, 3, 5], []
    for dtype in (np.float32, np.float64):
        layer = cm.MarginInnerProduct(6, gradient=gradient, engine=engine)
        layer.weight = weight.astype(dtype)
        tops.append(layer.forward(x.astype(dtype), label))
    assert np.abs(tops[0] - tops[1]).max() <= 2e-6 * np.abs(tops[1]).max()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("lambda_", [1e38, 3e38])
def test_a_lambda_that_overflows_the_score(lambda_, engine):
    layer = cm.MarginInnerProduct(6, base=lambda_, gamma=0, lambda_min=0, engine=engine)
    x = np.full((2, 4), 5, np.float32)
    with pytest.raises(ValueError, match=r"lambda is .* at iteration 1 .*overflows"):
        layer.forward(x, [0, 1])
    assert layer.iteration == 0
    with pytest.raises(ValueError, match="overflows"):
        cm.margin_softmax_loss(x, [0, 1], np.ones((2, 4), np.float32), lambda_=lambda_)


def test_signs_without_compilation():
    """NUMBA_DISABLE_JIT runs the same Python, where a bool takes no minus."""
    x = np.array([-2.0, 0.0, 3.0, np.nan])
    y = np.empty_like(x)
    caffe_math.caffe_cpu_sign.py_func(x, y)
    np.testing.assert_array_equal(y, [-1, 0, 1, 0])
