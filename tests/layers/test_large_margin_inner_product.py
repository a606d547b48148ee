import numpy as np
import pytest
from google.protobuf import text_format

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.layers.large_margin_inner_product import LargeMarginInnerProduct
from caffe_margin.layers.layer import Blob
from caffe_margin.layers.margin_layer import ENGINES
from caffe_margin.maths.gradient import ALL_RULES, DETACHED, EXACT
from helpers.margin import (
    angles_across_every_kink,
    check_rule,
    differences,
    make_batch,
    relative_error,
)
from helpers.recorded import LARGE_MARGIN, assert_replays, layer_param, load, recordings

AGREEMENT = {np.float64: 1e-13, np.float32: 2e-6}


def make_layer(m=4, num_output=5, lambda_=2.0, **options):
    return LargeMarginInnerProduct(
        num_output, m=m, base=lambda_, gamma=0, power=1, lambda_min=0, **options
    )


@pytest.fixture(params=ENGINES)
def engine(request):
    return request.param


def message(param="num_output: 5 type: QUADRUPLE"):
    text = (
        f'name: "ip2" type: "LargeMarginInnerProduct" largemargin_inner_product_param {{ {param} }}'
    )
    return text_format.Parse(text, pb.LayerParameter())


# Against the recordings


@pytest.mark.parametrize("path", recordings("[!h]*.npz", LARGE_MARGIN))
def test_recording(path, engine):
    recording = load(path)
    layer = LargeMarginInnerProduct.from_param(layer_param(recording), engine=engine)
    assert layer.gradient is EXACT
    assert_replays(layer, recording)


# The engines against each other, under every rule


@pytest.mark.parametrize("dtype", AGREEMENT)
@pytest.mark.parametrize("m", [1, 2, 3, 4])
@pytest.mark.parametrize("rule", ALL_RULES, ids=lambda rule: rule.name)
def test_engines_agree(rule, m, dtype):
    x, label, weight, top_diff = make_batch(M=40, N=30, K=16, dtype=dtype)
    results = []
    for engine in ENGINES:
        layer = make_layer(m, 30, gradient=rule, engine=engine)
        layer.weight = weight
        top = layer.forward(x, label)
        bottom_diff = layer.backward(top_diff)
        results.append((top, bottom_diff, layer.blobs[0].diff))
    for fused, line_by_line in zip(*results, strict=True):
        assert np.abs(fused - line_by_line).max() <= AGREEMENT[dtype] * np.abs(line_by_line).max()


# The rules


@pytest.mark.parametrize("lambda_", [0.0, 5.0, 1000.0])
@pytest.mark.parametrize("m", [1, 2, 3, 4, 5, 6, 7])
def test_exact_rule_passes_the_gradient_check(m, lambda_, engine):
    """At every kink, with weights of length 1e-2 to 1e3."""
    if m > 4 and engine == "line_by_line":
        pytest.skip("the C++ has four margins")
    x, label, weight, top_diff = angles_across_every_kink(m)

    def layer_of():
        return make_layer(m, len(weight), lambda_, engine=engine)

    layer = layer_of()
    layer.weight = weight
    layer.forward(x, label)
    bottom_diff = layer.backward(top_diff)
    expected_bottom, expected_weight = differences(layer_of, x, label, weight, top_diff)
    assert relative_error(bottom_diff, expected_bottom) < 1e-6
    assert relative_error(layer.blobs[0].diff, expected_weight) < 1e-6


@pytest.mark.parametrize("m", [2, 3, 4, 5, 7])
@pytest.mark.parametrize("rule", ALL_RULES, ids=lambda rule: rule.name)
def test_a_rule_is_the_gradient_of_a_forward_with_the_detached_held(rule, m):
    def score_length(x, own):
        return np.linalg.norm(x, axis=1) * np.linalg.norm(own, axis=1)

    check_rule(make_layer(m, 5, 0.5, gradient=rule), score_length)


def test_defaults():
    layer = LargeMarginInnerProduct(5)
    assert layer.gradient is EXACT
    assert LargeMarginInnerProduct.from_param(message()).gradient is EXACT
    detached = message("num_output: 5 type: DOUBLE gradient: DETACHED")
    layer = LargeMarginInnerProduct.from_param(detached)
    assert (layer.gradient, layer.m) == (DETACHED, 2)
    assert LargeMarginInnerProduct.from_param(detached, gradient="exact").gradient is EXACT
    with pytest.raises(ValueError, match="'InnerProduct', not 'LargeMarginInnerProduct'"):
        LargeMarginInnerProduct.from_param(pb.LayerParameter(name="fc5", type="InnerProduct"))
    with pytest.raises(TypeError, match=r"call LargeMarginInnerProduct.from_param"):
        LargeMarginInnerProduct(message())
    with pytest.raises(ValueError, match="an m of 1 to 4, not 5"):
        LargeMarginInnerProduct(5, m=5, engine="line_by_line")


def test_from_net():
    net = text_format.Parse(
        """
        layer { name: "data" type: "Input" top: "data" top: "label"
                input_param { shape { dim: 8 dim: 3 dim: 2 } shape { dim: 8 } } }
        layer { name: "ip2" type: "LargeMarginInnerProduct" bottom: "data" bottom: "label"
                top: "ip2" include { phase: TRAIN }
                largemargin_inner_product_param { num_output: 7 weight_filler { type: "msra" }
                                                  type: TRIPLE base: 10 iteration: 3 } }
        """,
        pb.NetParameter(),
    )
    layer = LargeMarginInnerProduct.from_net(net, "ip2")
    assert (layer.num_output, layer.K, layer.m, layer.iteration) == (7, 6, 3, 3)
    x, label = np.ones((8, 3, 2), np.float32), np.zeros(8)
    assert layer.forward(x, label).shape == (8, 7)
    assert layer.weight.any()
    assert layer.lambda_ == 10


# State


@pytest.mark.parametrize("rule", ALL_RULES, ids=lambda rule: rule.name)
def test_forward_leaves_the_weight_alone(rule, engine):
    x, label, weight, top_diff = make_batch()
    layer = make_layer(gradient=rule, engine=engine)
    layer.weight = weight
    layer.forward(x, label)
    layer.backward(top_diff)
    np.testing.assert_array_equal(layer.weight, weight)


@pytest.mark.parametrize("dtype", AGREEMENT)
def test_two_backwards_after_one_forward_compute_the_same(dtype, engine):
    """With weights that 1e-9 is not nothing to: the C++ would add it again."""
    x, label, weight, top_diff = make_batch(dtype=dtype)
    layer = make_layer(engine=engine)
    layer.weight = (1e-8 * weight).astype(dtype)
    layer.forward(x, label)
    first = layer.backward(top_diff)
    once = layer.blobs[0].diff.copy()
    np.testing.assert_array_equal(layer.backward(top_diff), first)
    np.testing.assert_allclose(layer.blobs[0].diff, 2 * once, rtol=1e-5)


def test_single_ignores_lambda(engine):
    x, label, weight, top_diff = make_batch()
    layer = make_layer(1, lambda_=1000, engine=engine)
    layer.weight = weight
    np.testing.assert_allclose(layer.forward(x, label), x @ weight.T, rtol=1e-12)
    np.testing.assert_allclose(layer.backward(top_diff), top_diff @ weight, rtol=1e-12)
    np.testing.assert_allclose(layer.blobs[0].diff, top_diff.T @ x, rtol=1e-11, atol=1e-13)


def test_propagate_down(engine):
    x, label, weight, top_diff = make_batch()
    layer = make_layer(engine=engine)
    layer.weight = weight
    layer.param_propagate_down = [False]
    layer.forward(x, label)
    bottom = [Blob(x), Blob(label)]
    bottom[0].diff[...] = 7
    layer.backward_cpu([Blob(top_diff, top_diff)], [False, False], bottom)
    np.testing.assert_array_equal(bottom[0].diff, 7)
    np.testing.assert_array_equal(layer.blobs[0].diff, 0)


def test_bad_forward_changes_nothing(engine):
    x, label, weight, top_diff = make_batch()
    layer = make_layer(engine=engine)
    layer.weight = weight
    layer.forward(x, label)
    expected = layer.backward(top_diff)
    with pytest.raises(ValueError, match=r"row 1 of bottom\[0\].* is zero"):
        layer.forward(x * (np.arange(6) != 1)[:, None], label)
    layer.weight[2] = 0
    with pytest.raises(ValueError, match=r"row 2 of the weight.* is zero"):
        layer.forward(x, label)
    layer.weight[2] = weight[2]
    assert layer.iteration == 1
    np.testing.assert_array_equal(layer.backward(top_diff), expected)


def test_lambda_that_overflows_times_the_lengths(engine):
    x, label, weight, _ = make_batch(dtype=np.float32)
    layer = make_layer(lambda_=1e30, engine=engine)
    layer.weight = (1e4 * weight).astype(np.float32)
    with pytest.raises(ValueError, match=r"it overflows times the greatest \|w\| \|x\|"):
        layer.forward((1e4 * x).astype(np.float32), label)
