import json
import math

import numpy as np
import pytest
from google.protobuf import text_format

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.nets.margin import margin_param
from caffe_margin.study.compare import RULES, Difference, compare
from caffe_margin.study.features import draw_features
from caffe_margin.study.head import Batch
from helpers import heads
from helpers.heads import BOTH
from helpers.psi import psi, slope

N, K, LAMBDA = 12, 8, 5.0


@pytest.fixture(scope="module")
def layer_param():
    return text_format.Parse(
        f"""name: "fc6" type: "MarginInnerProduct"
            param {{ lr_mult: 0 }}
            margin_inner_product_param {{
              num_output: {N} type: QUADRUPLE base: 1000 gamma: 0.12 lambda_min: {LAMBDA} }}""",
        pb.LayerParameter(),
    )


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(N, K)) * rng.uniform(0.5, 2, size=(N, 1))
    x, label = draw_features(weight, 64, rng)
    return x, label, weight


@pytest.fixture(scope="module")
def comparison(layer_param, batch):
    return compare(Batch(layer_param, 5000, *batch))


def angles(x, label, weight):
    own = weight[label]
    cos = (x * own).sum(1) / np.linalg.norm(x, axis=1) / np.linalg.norm(own, axis=1)
    return np.arccos(cos)


def independent_gradients(x, label, weight):
    """Loss, and both rules' gradients, with k and psi from the angles; after the paper."""
    rows = np.arange(len(x))
    w = weight / np.linalg.norm(weight, axis=1, keepdims=True)
    length = np.linalg.norm(x, axis=1)
    theta = angles(x, label, weight)
    top = x @ w.T
    top[rows, label] = length * (psi(theta, 4) + LAMBDA * np.cos(theta)) / (1 + LAMBDA)
    log_prob = top - np.log(np.exp(top).sum(1, keepdims=True))
    loss = -log_prob[rows, label].mean()
    g = (np.exp(log_prob) - np.eye(N)[label]) / len(x)

    coeff_w = slope(theta, 4)
    coeff_x = (psi(theta, 4) - np.cos(theta) * coeff_w) / length
    coeff_norm = np.sqrt(coeff_w**2 + coeff_x**2)
    own = g[rows, label][:, None]

    def bottom_diff(cw, cx):
        others = g @ w - own * w[label]
        pull = ((cw + LAMBDA)[:, None] * w[label] + cx[:, None] * x) / (1 + LAMBDA)
        return others + own * pull

    paper = bottom_diff(coeff_w / coeff_norm, coeff_x / coeff_norm), g.T @ x
    scaled = g.copy()
    scaled[rows, label] *= (coeff_w + LAMBDA) / (1 + LAMBDA)
    G = scaled.T @ x
    G -= (G * w).sum(1, keepdims=True) * w
    exact = bottom_diff(coeff_w, coeff_x), G / np.linalg.norm(weight, axis=1, keepdims=True)
    return loss, paper, exact


def test_against_an_independent_computation(comparison, batch):
    loss, paper, exact = independent_gradients(*batch)
    assert comparison.lambda_ == LAMBDA
    np.testing.assert_allclose(comparison.loss, loss, rtol=1e-12)
    np.testing.assert_allclose(comparison.theta, angles(*batch), rtol=1e-9)
    by_name = {measure.rule.name: measure for measure in comparison.measures}
    for gradients, name in ((exact, "exact"), (paper, "paper")):
        for blob, gradient, reference in zip(
            ("bottom_diff", "weight_diff"), gradients, exact, strict=True
        ):
            got = getattr(by_name[name], blob)
            norm, reference_norm = np.linalg.norm(gradient), np.linalg.norm(reference)
            cosine = (gradient * reference).sum() / norm / reference_norm
            difference = np.linalg.norm(gradient - reference) / reference_norm
            np.testing.assert_allclose(got.norm, norm, rtol=1e-9)
            np.testing.assert_allclose(got.ratio, norm / reference_norm, rtol=1e-9)
            np.testing.assert_allclose(got.cosine, cosine, rtol=1e-9)
            np.testing.assert_allclose(got.difference, difference, rtol=1e-9, atol=1e-12)


@BOTH
def test_flattened_is_where_every_rule_starts(large):
    x, label, weight = heads.batch(large=True)
    param = heads.layer_param(3, large=large)
    margin_param(param).axis = 2
    given = Batch(param, 1, x.astype(np.float32)[None], label[None], weight.astype(np.float32))
    flat = given.flattened()
    assert (flat.x.shape, flat.label.shape, flat.weight.dtype) == (x.shape, label.shape, np.float64)
    lengths = np.linalg.norm(flat.weight, axis=1)
    np.testing.assert_allclose(lengths, np.linalg.norm(weight, axis=1) if large else 1, rtol=1e-6)
    assert (margin_param(flat.layer_param).axis, margin_param(param).axis) == (1, 2)


def test_each_departure_touches_what_it_should(comparison):
    by_departure = {
        measure.rule.name: measure
        for measure in comparison.measures
        if len(measure.rule.departures) == 1
    }
    assert len(by_departure) == 4
    for name, measure in by_departure.items():
        reaches_bottom = name in ("normalized coefficients", "detached in bottom")
        assert (measure.bottom_diff.difference > 1e-3) == reaches_bottom
        assert (measure.weight_diff.difference > 1e-3) == (name != "detached in bottom")


def test_json_has_everything(comparison):
    value = json.loads(json.dumps(comparison.as_dict(), allow_nan=False))
    assert (value["M"], value["N"], value["K"], value["m"]) == (64, N, K, 4)
    assert (value["layer_type"], value["lambda"]) == ("MarginInnerProduct", LAMBDA)
    assert [rule["name"] for rule in value["rules"]] == [rule.name for rule in RULES]
    assert len(value["theta"]) == 64


def test_difference_of_known_vectors():
    difference = Difference.between(np.array([[3.0, 4.0]]), np.array([[0.0, 2.0]]))
    assert difference == Difference(5.0, 2.5, 0.8, math.sqrt(9 + 4) / 2)
    zero = Difference.between(np.zeros(2), np.ones(2))
    assert zero.norm == 0
    assert math.isnan(zero.cosine)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_drawn_features_cover_the_angles(dtype):
    rng = np.random.default_rng(1)
    weight = rng.normal(size=(5, 3)).astype(dtype)
    x, label = draw_features(weight, 200, rng)
    assert x.dtype == dtype
    assert set(label) == set(range(5))
    theta = np.sort(angles(x.astype(float), label, weight.astype(float)))
    # one sample in each of 200 equal parts of [0, pi]
    parts = np.arange(200) * np.pi / 200
    assert np.all(theta > parts - 1e-3)
    assert np.all(theta < parts + np.pi / 200 + 1e-3)
    lengths = np.linalg.norm(x, axis=1)
    assert lengths.min() > 4.99
    assert lengths.max() < 30.01


def test_no_angle_in_one_dimension():
    with pytest.raises(ValueError, match="at least 2 features"):
        draw_features(np.ones((3, 1)), 4, np.random.default_rng(0))
