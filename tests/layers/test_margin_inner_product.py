import numpy as np
import pytest
from google.protobuf import text_format

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.layers.layer import Blob
from caffe_margin.layers.margin_inner_product import MarginInnerProduct
from caffe_margin.layers.margin_layer import ENGINES
from caffe_margin.maths.gradient import ALL_RULES, EXACT, PAPER
from helpers.margin import (
    angles_across_every_kink,
    check_rule,
    differences,
    make_batch,
    relative_error,
)
from helpers.recorded import assert_replays, layer_param, load, recordings

TYPES = ["SINGLE", "DOUBLE", "TRIPLE", "QUADRUPLE"]


def make_param(type_="QUADRUPLE", num_output=5, lambda_=None, tops=2):
    annealing = "" if lambda_ is None else f"base: {lambda_} lambda_min: {lambda_}"
    tops = "".join(f'top: "top{i}" ' for i in range(tops))
    text = f"""
        name: "fc6" type: "MarginInnerProduct" bottom: "fc5" bottom: "label" {tops}
        margin_inner_product_param {{
          num_output: {num_output} type: {type_} weight_filler {{ type: "xavier" }} {annealing}
        }}"""
    return text_format.Parse(text, pb.LayerParameter())


def make_layer(type_="QUADRUPLE", num_output=5, lambda_=None, **options):
    return MarginInnerProduct.from_param(make_param(type_, num_output, lambda_), **options)


@pytest.fixture(params=ENGINES)
def engine(request):
    return request.param


# Against the recordings


@pytest.mark.parametrize("path", recordings("*_float[36]*.npz"))
def test_recording(path, engine):
    recording = load(path)
    layer = MarginInnerProduct.from_param(layer_param(recording), engine=engine)
    assert_replays(layer, recording)


# The engines against each other, under every rule

AGREEMENT = {np.float64: 1e-13, np.float32: 2e-6}


@pytest.mark.parametrize("dtype", AGREEMENT)
@pytest.mark.parametrize("type_", TYPES)
@pytest.mark.parametrize("rule", ALL_RULES, ids=lambda rule: rule.name)
def test_engines_agree(rule, type_, dtype):
    x, label, weight, top_diff = make_batch(M=40, N=30, K=16, dtype=dtype)
    results = []
    for engine in ENGINES:
        layer = make_layer(type_, 30, lambda_=2, gradient=rule, engine=engine)
        layer.weight = weight
        top = layer.forward(x, label)
        bottom_diff = layer.backward(top_diff)
        results.append((top, bottom_diff, layer.blobs[0].diff, layer.weight))
    for fused, line_by_line in zip(*results, strict=True):
        assert np.abs(fused - line_by_line).max() <= AGREEMENT[dtype] * np.abs(line_by_line).max()


# The gradient check


@pytest.fixture(params=[0, 5, 1000])
def lambda_(request):
    return request.param


def check_gradient(type_, lambda_, engine, gradient):
    return relative_errors(
        TYPES.index(type_) + 1,
        lambda: make_layer(type_, 7, lambda_, gradient=gradient, engine=engine),
    )


def relative_errors(m, layer_of):
    x, label, weight, top_diff = angles_across_every_kink(m)

    layer = layer_of()
    layer.weight = weight
    layer.forward(x, label)
    bottom_diff = layer.backward(top_diff)
    expected_bottom, expected_weight = differences(layer_of, x, label, weight, top_diff)
    return (
        relative_error(bottom_diff, expected_bottom),
        relative_error(layer.blobs[0].diff, expected_weight),
    )


@pytest.mark.parametrize("type_", TYPES)
def test_exact_rule_passes_the_gradient_check(type_, lambda_, engine):
    bottom, weight = check_gradient(type_, lambda_, engine, "exact")
    assert bottom < 1e-6
    assert weight < 1e-6


@pytest.mark.parametrize("type_", TYPES)
def test_paper_rule_fails_the_gradient_check(type_, lambda_, engine):
    bottom, weight = check_gradient(type_, lambda_, engine, "paper")
    # The weight's gradient lacks the projection, whatever the margin.
    assert weight > 0.1
    if type_ == "SINGLE":
        assert bottom < 1e-6
    else:
        # The normalised coefficients matter less the more lambda outweighs the margin.
        assert bottom > {0: 0.1, 5: 0.01, 1000: 1e-4}[lambda_]


@pytest.mark.parametrize("m", [5, 6, 7])
def test_exact_rule_passes_the_gradient_check_past_caffes_margins(m, lambda_):
    annealing = {"base": lambda_, "gamma": 0, "lambda_min": 0}
    bottom, weight = relative_errors(
        m, lambda: MarginInnerProduct(7, m=m, gradient="exact", **annealing)
    )
    assert bottom < 1e-6
    assert weight < 1e-6


@pytest.mark.parametrize("m", [2, 3, 4, 5, 7])
@pytest.mark.parametrize("rule", ALL_RULES, ids=lambda rule: rule.name)
def test_a_rule_is_the_gradient_of_a_forward_with_the_detached_held(rule, m):
    layer = MarginInnerProduct(5, m=m, base=0.5, gamma=0, lambda_min=0, gradient=rule)
    check_rule(layer, lambda x, own: np.linalg.norm(x, axis=1))


# State


def test_lambda_anneals_and_iteration_counts_every_forward(engine):
    layer = MarginInnerProduct(5, m=4, base=1000, gamma=0.12, lambda_min=5, engine=engine)
    x, label, *_ = make_batch()
    assert layer.iteration == 0
    seen = []
    for _ in range(3):
        layer.forward(x, label)
        seen.append(float(layer.lambda_))
    assert layer.iteration == 3
    gamma = float(np.float32(0.12))
    np.testing.assert_allclose(seen, [1000 / (1 + gamma * t) for t in (1, 2, 3)], rtol=1e-15)


@pytest.mark.parametrize("rule", ALL_RULES, ids=lambda rule: rule.name)
def test_stored_weight(rule, engine):
    x, label, weight, _ = make_batch()
    layer = make_layer(gradient=rule, engine=engine)
    layer.weight = weight
    stored = layer.weight
    layer.forward(x, label)
    assert layer.weight is stored
    lengths = np.linalg.norm(weight, axis=1, keepdims=True)
    if rule.no_projection:
        np.testing.assert_allclose(stored, weight / lengths, rtol=1e-15)
    else:
        np.testing.assert_array_equal(stored, weight)


def test_backward_adds_to_the_weight_and_sets_the_bottom(engine):
    x, label, weight, top_diff = make_batch()
    for rule in (PAPER, EXACT):
        layer = make_layer(gradient=rule, engine=engine)
        layer.weight = weight
        layer.forward(x, label)
        first = layer.backward(top_diff)
        once = layer.blobs[0].diff.copy()
        second = layer.backward(top_diff)
        np.testing.assert_array_equal(first, second)
        np.testing.assert_allclose(layer.blobs[0].diff, 2 * once, rtol=1e-12)


def test_exact_backward_is_at_the_weight_that_forward_saw(engine):
    x, label, weight, top_diff = make_batch()
    layer, moved = (make_layer(gradient="exact", engine=engine) for _ in range(2))
    for each in (layer, moved):
        each.weight = weight
        each.forward(x, label)
    moved.weight = weight[::-1]
    np.testing.assert_array_equal(moved.backward(top_diff), layer.backward(top_diff))
    np.testing.assert_array_equal(moved.blobs[0].diff, layer.blobs[0].diff)


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


def test_lr_mult_of_zero_freezes_the_weight():
    layer_param = make_param()
    layer_param.param.add(lr_mult=0)
    assert MarginInnerProduct.from_param(layer_param).param_propagate_down == [False]
    layer_param.param[0].lr_mult = 0.5
    assert MarginInnerProduct.from_param(layer_param).param_propagate_down == [True]


def test_arguments_are_left_alone(engine):
    batch = make_batch()
    copies = [array.copy() for array in batch]
    x, label, weight, top_diff = batch
    layer = make_layer(gradient="exact", engine=engine)
    layer.weight = weight
    layer.forward(x, label)
    layer.backward(top_diff)
    for array, copy in zip(batch, copies, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_forward_returns_a_new_array(engine):
    x, label, *_ = make_batch()
    layer = make_layer(engine=engine)
    first = layer.forward(x, label)
    kept = first.copy()
    layer.forward(-x, label)
    np.testing.assert_array_equal(first, kept)


def test_batch_size_may_change(engine):
    x, label, weight, top_diff = make_batch()
    layer = make_layer(engine=engine)
    layer.weight = weight
    whole = layer.forward(x, label)
    np.testing.assert_allclose(layer.forward(x[:2], label[:2]), whole[:2], rtol=1e-12)
    assert layer.backward(top_diff[:2]).shape == (2, 4)


def test_labels_are_truncated(engine):
    x, label, weight, _ = make_batch()
    tops = []
    for labels in (label, label.astype(np.int32), label + 0.9, (label + 0.9).astype(np.float32)):
        layer = make_layer(engine=engine, lambda_=0)
        layer.weight = weight
        tops.append(layer.forward(x, labels))
    for top in tops[1:]:
        np.testing.assert_array_equal(top, tops[0])


def test_second_top_is_lambda(engine):
    x, label, weight, _ = make_batch()
    layer = make_layer(engine=engine, lambda_=3)
    layer.weight = weight
    bottom, top = [Blob(x), Blob(label)], [Blob(np.empty(0)), Blob(np.empty(0))]
    layer.check(bottom)
    layer.reshape(bottom, top)
    layer.forward_cpu(bottom, top)
    np.testing.assert_array_equal(top[1].data, [3.0])
    np.testing.assert_allclose(top[0].data, layer.forward(x, label), rtol=1e-13)


def test_non_contiguous_arrays(engine):
    x, label, weight, top_diff = make_batch()
    layer, strided = make_layer(engine=engine), make_layer(engine=engine)
    layer.weight, strided.weight = weight, np.asfortranarray(weight)
    expected = layer.forward(x, label), layer.backward(top_diff)
    wide = np.zeros((6, 8))
    wide[:, ::2] = x
    got = strided.forward(wide[:, ::2], label), strided.backward(np.asfortranarray(top_diff))
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (0, 3, 1, 2), (3, 2, 1, 0)])
def test_bottoms_of_four_axes_in_any_memory_order(order, engine):
    rng = np.random.default_rng(0)
    memory = rng.normal(size=(3, 3, 3, 3))
    x, label, top_diff = memory.transpose(order), np.arange(3), rng.normal(size=(3, 5))
    layer, expected = make_layer(engine=engine, rng=0), make_layer(engine=engine, rng=0)
    np.testing.assert_array_equal(
        layer.forward(x, label), expected.forward(np.ascontiguousarray(x).reshape(3, 27), label)
    )
    got = layer.backward(top_diff)
    assert got.any()
    np.testing.assert_array_equal(got, expected.backward(top_diff).reshape(3, 3, 3, 3))


def test_big_endian_arrays(engine):
    x, label, weight, top_diff = make_batch()
    layer, swapped = make_layer(engine=engine), make_layer(engine=engine)
    layer.weight, swapped.weight = weight, weight.astype(">f8")
    np.testing.assert_array_equal(
        swapped.forward(x.astype(">f8"), label.astype(">i8")), layer.forward(x, label)
    )
    np.testing.assert_array_equal(
        swapped.backward(top_diff.astype(">f8")), layer.backward(top_diff)
    )


# Set-up


def test_weight_is_filled_from_the_seed():
    x, label, *_ = make_batch()
    layers = [make_layer(rng=seed) for seed in (1, 1, 2)]
    for layer in layers:
        layer.forward(x, label)
    a, b, c = (layer.weight for layer in layers)
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, c)
    assert a.dtype == x.dtype


def test_weight_from_blobs_in_the_message():
    _, _, weight, _ = make_batch(dtype=np.float32)
    layer_param = make_param()
    layer_param.blobs.add(num=1, channels=1, height=5, width=4, data=weight.ravel().tolist())
    layer = MarginInnerProduct.from_param(layer_param)
    np.testing.assert_array_equal(layer.weight, weight)


def test_setting_the_weight_copies_and_keeps_the_diff():
    _, _, weight, _ = make_batch()
    layer = make_layer()
    layer.weight = weight
    layer.blobs[0].diff[...] = 3
    held = layer.weight
    layer.weight = 2 * weight
    weight[...] = 0
    assert layer.weight is held
    assert held.any()
    np.testing.assert_array_equal(layer.blobs[0].diff, 3)


def test_setting_a_weight_of_another_dtype():
    _, _, weight, _ = make_batch()
    layer = make_layer(dtype="float32")
    layer.weight = weight
    blob = layer.blobs[0]
    blob.diff[...] = 3
    layer.weight = 2 * weight
    assert layer.blobs[0] is blob
    np.testing.assert_array_equal(blob.diff, 3)
    # judged in the dtype that is kept
    with pytest.raises(ValueError, match="row 0 of the weight is so short"):
        layer.weight = np.full((5, 4), 1e-30)


def test_from_net_with_layers_that_share_a_name():
    net = text_format.Parse(
        """
        layer { type: "Input" top: "x" top: "y"
                input_param { shape { dim: 8 dim: 6 } shape { dim: 8 } } }
        layer { type: "MarginInnerProduct" bottom: "x" bottom: "y" top: "z"
                margin_inner_product_param { num_output: 7 weight_filler { type: "xavier" } } }
        """,
        pb.NetParameter(),
    )
    layer = MarginInnerProduct.from_net(net)
    assert (layer.num_output, layer.K) == (7, 6)


def test_weight_in_the_message_of_a_wrong_shape():
    for shape in ((20,), (2, 5, 4), (4, 5)):
        layer_param = make_param()
        layer_param.blobs.add(data=[1.0] * int(np.prod(shape))).shape.dim.extend(shape)
        with pytest.raises(ValueError, match=r"weight.*\(5, K\)|weight.*must be \(N, K\)"):
            MarginInnerProduct.from_param(layer_param)


def test_from_net_learns_K_from_the_layer_below():
    net = text_format.Parse(
        """
        layer { name: "data" type: "Input" top: "data" top: "label"
                input_param { shape { dim: 8 dim: 3 dim: 2 } shape { dim: 8 } } }
        layer { name: "fc5" type: "InnerProduct" bottom: "data" top: "fc5"
                inner_product_param { num_output: 12 } }
        layer { name: "fc6" type: "MarginInnerProduct" bottom: "fc5" bottom: "label" top: "fc6"
                margin_inner_product_param { num_output: 7 weight_filler { type: "xavier" }
                                             type: TRIPLE gradient: EXACT } }
        """,
        pb.NetParameter(),
    )
    layer = MarginInnerProduct.from_net(net, "fc6")
    assert (layer.num_output, layer.K) == (7, 12)
    assert layer.m == 3
    assert layer.gradient is EXACT
    assert MarginInnerProduct.from_net(net, gradient="paper").gradient is PAPER
    with pytest.raises(ValueError, match="InnerProduct"):
        MarginInnerProduct.from_net(net, "fc5")
    with pytest.raises(ValueError, match="fc6"):
        MarginInnerProduct.from_net(net, "fc7")


def test_explicit_dtype():
    x, label, weight, _ = make_batch()
    layer = make_layer(dtype=np.float32)
    layer.weight = weight
    assert layer.weight.dtype == np.float32
    assert layer.forward(x.astype(np.float32), label).dtype == np.float32
    with pytest.raises(ValueError, match=r"float64.*computes in float32"):
        layer.forward(x, label)


def test_bad_options():
    with pytest.raises(ValueError, match="'fused' or 'line_by_line'"):
        make_layer(engine="cuda")
    with pytest.raises(ValueError, match="'paper', 'exact', 'detached' or a"):
        make_layer(gradient="true")
    with pytest.raises(ValueError, match="float32 or float64"):
        make_layer(dtype=np.float16)
    with pytest.raises(ValueError, match="num_output must be positive"):
        make_layer(num_output=0)
    with pytest.raises(ValueError, match="'InnerProduct', not 'MarginInnerProduct'"):
        MarginInnerProduct.from_param(pb.LayerParameter(name="fc5", type="InnerProduct"))


# Bad input: a ValueError that names what is wrong, and nothing changed


def put(array, index, value):
    array = np.array(array, dtype=np.result_type(array, type(value)))
    array[index] = value
    return array


BAD_FORWARDS = {
    "label too large": (lambda x, label: (x, put(label, 2, 5)), r"row 2 of .* label 5; .*\[0, 5\)"),
    "label negative": (lambda x, label: (x, put(label, 0, -1)), r"row 0 .* label -1; "),
    "label NaN": (lambda x, label: (x, put(label, 3, np.nan)), r"row 3 .* label nan; "),
    "label infinite": (lambda x, label: (x, put(label, 3, np.inf)), r"row 3 .* label inf; "),
    "labels of objects": (lambda x, label: (x, label.astype(object)), "integers or floats"),
    "zero feature": (lambda x, label: (put(x, 4, 0.0), label), r"row 4 of bottom\[0\].* is zero"),
    "NaN feature": (lambda x, label: (put(x, (1, 2), np.nan), label), r"row 1 .* not finite"),
    "infinite feature": (lambda x, label: (put(x, (1, 2), np.inf), label), r"row 1 .* not finite"),
    "feature overflows": (lambda x, label: (put(x, 1, 1e200), label), r"row 1 .* overflows"),
    "feature underflows": (lambda x, label: (put(x, 1, 1e-200), label), r"row 1 .* so short"),
    "K changed": (lambda x, label: (x[:, :3], label), r"\(6, 3\).* K 3.*\(5, 4\)"),
    "fewer labels": (lambda x, label: (x, label[:4]), r"\(6, 4\).*\(4,\)"),
    "labels transposed": (lambda x, label: (x, label[None]), r"\(6, 4\).*\(1, 6\)"),
    "float16": (lambda x, label: (x.astype(np.float16), label), "float16; it must be float32 or"),
    "objects": (lambda x, label: (x.astype(object), label), "object; it must be float32 or"),
    "other dtype": (lambda x, label: (x.astype(np.float32), label), "float32, but .* float64"),
    "no axis": (lambda x, label: (x[:, 0].copy(), label), r"axis 1 is out of range .*\(6,\)"),
}


@pytest.mark.parametrize("case", BAD_FORWARDS)
@pytest.mark.parametrize("rule", [PAPER, EXACT], ids=["paper", "exact"])
def test_bad_forward_changes_nothing(case, rule, engine):
    spoil, message = BAD_FORWARDS[case]
    x, label, weight, top_diff = make_batch()
    layer = make_layer(gradient=rule, engine=engine)
    layer.weight = weight
    layer.forward(x, label)
    expected = layer.backward(top_diff)
    state = layer.iteration, layer.lambda_, layer.weight.copy(), layer.blobs[0].diff.copy()

    with pytest.raises(ValueError, match=message):
        layer.forward(*spoil(x, label))

    after = layer.iteration, layer.lambda_, layer.weight, layer.blobs[0].diff
    for before, now in zip(state, after, strict=True):
        np.testing.assert_array_equal(before, now)
    # and Backward still belongs to the forward before
    np.testing.assert_array_equal(layer.backward(top_diff), expected)


def test_bad_first_forward_sets_nothing_up(engine):
    x, label, *_ = make_batch()
    layer = make_layer(engine=engine)
    with pytest.raises(ValueError, match="row 0"):
        layer.forward(np.zeros_like(x), label)
    assert layer.iteration == 0
    assert not layer.blobs
    assert layer.forward(x[:, :3].copy(), label).shape == (6, 5)


def test_first_forward_that_fails_on_the_weight_leaves_none(engine):
    """Caffe's default filler is the constant 0."""
    x, label, weight, _ = make_batch()
    layer = MarginInnerProduct(5, weight_filler="constant", engine=engine)
    with pytest.raises(ValueError, match=r"row 0 of the weight.* is zero"):
        layer.forward(x[:, :2].copy(), label)
    assert not layer.blobs
    layer.weight = weight
    assert layer.forward(x, label).shape == (6, 5)


@pytest.mark.parametrize(
    ("value", "message"), [(0.0, "is zero"), (np.nan, "not finite"), (np.inf, "not finite")]
)
def test_bad_weight_row(value, message, engine):
    x, label, weight, _ = make_batch()
    layer = make_layer(engine=engine)
    layer.weight = weight
    with pytest.raises(ValueError, match=f"row 3 of the weight.* {message}"):
        layer.weight = put(weight, 3, value)
    np.testing.assert_array_equal(layer.weight, weight)

    layer.weight[3] = value
    spoilt = layer.weight.copy()
    with pytest.raises(ValueError, match=f"row 3 of the weight.* {message}"):
        layer.forward(x, label)
    np.testing.assert_array_equal(layer.weight, spoilt)
    assert layer.iteration == 0


@pytest.mark.parametrize("shape", [(5, 3), (4, 4), (5, 4, 1), (20,)])
def test_bad_weight_shape(shape):
    x, label, weight, _ = make_batch()
    layer = make_layer()
    layer.forward(x, label)
    before = layer.weight.copy()
    with pytest.raises(ValueError, match=rf"\({', '.join(map(str, shape))},?\).*\(5, 4\)"):
        layer.weight = np.ones(shape)
    with pytest.raises(ValueError, match="float16"):
        layer.weight = weight.astype(np.float16)
    np.testing.assert_array_equal(layer.weight, before)


def test_bad_top_diff(engine):
    x, label, _, top_diff = make_batch()
    layer = make_layer(engine=engine)
    with pytest.raises(RuntimeError, match="needs a forward"):
        layer.backward(top_diff)
    layer.forward(x, label)
    with pytest.raises(ValueError, match=r"\(6, 4\).*\(6, 5\)"):
        layer.backward(top_diff[:, :4])
    with pytest.raises(ValueError, match=r"float32.*float64"):
        layer.backward(top_diff.astype(np.float32))
    with pytest.raises(ValueError, match="is no loss"):
        layer.backward()
    np.testing.assert_array_equal(layer.blobs[0].diff, 0)


def test_unusable_schedule(engine):
    x, label, *_ = make_batch()
    layer = MarginInnerProduct(5, gamma=-2, power=0.5, engine=engine)
    with pytest.raises(ValueError, match="lambda is nan at iteration 1"):
        layer.forward(x, label)
    assert layer.iteration == 0


def test_weight_before_K_is_known():
    with pytest.raises(ValueError, match="has no weight yet: its first forward draws it"):
        _ = make_layer().weight
