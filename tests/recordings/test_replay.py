"""Recordings: each is replayed, and what is wrong with one is named."""

import re
import shutil
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from google.protobuf import text_format
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.files.npz import write_arrays
from caffe_margin.files.text_format import UnknownFieldWarning
from caffe_margin.files.weights import write_weights
from caffe_margin.kernels import fused, row_passes
from caffe_margin.layers.margin_layer import ENGINES
from caffe_margin.maths.gradient import ALL_RULES, EXACT, PAPER
from caffe_margin.nets import plugin_text
from caffe_margin.recordings import replay
from caffe_margin.recordings.check import compare_blob
from caffe_margin.recordings.record import LayerRun, record
from caffe_margin.recordings.replay import verify
from helpers.places import DATA, ROOT
from helpers.recorded import FOLDER, LARGE_MARGIN, load, recordings

NET = FOLDER.parent / "caffe_net.npz"
EXACT_RULE = FOLDER.parent / "exact_quadruple_float64.npz"
LAYER = FOLDER / "triple_float64_annealed.npz"
LARGE_MARGIN_LAYER = LARGE_MARGIN / "triple_float64_annealed.npz"
LOSS = FOLDER / "softmax_loss_default.npz"
SGD = FOLDER / "head_sgd_quadruple.npz"


@pytest.fixture
def write(tmp_path):
    def write(arrays):
        path = tmp_path / "recording.npz"
        write_arrays(path, arrays)
        return path

    return write


def changed(path, **arrays):
    """A recording with keys replaced, or left out where they are None."""
    everything = load(path) | arrays
    return {key: array for key, array in everything.items() if array is not None}


def one_by_one(path):
    """Replay a net's heads and losses, each by itself."""
    return verify(path, engines=ENGINES)


# What Caffe recorded passes


def assert_all_is_replayed(path, verification):
    recording = load(path)
    inputs = {"layer", "forwards", "propagate_down", "param_propagate_down", "source"}
    inputs |= {"bottom0_data", "bottom1_data", "blob0_data_before", "blob0_diff_before"}
    inputs |= {"top0_diff", "net", "solver", "fc5", "label", "weight_before"}
    inputs |= {"weight_after_iterations", "weight_after", "format_version"}
    weights = {f"weight_after {i}" for i in recording.get("weight_after_iterations", ())}
    blobs = {check.blob for check in verification.checks}
    assert blobs == recording.keys() - inputs | weights


@pytest.mark.parametrize("path", recordings("*.npz"))
def test_recording(path):
    verification = verify(path)
    assert verification.ok
    assert "caffe-sphereface" in verification.source
    engines = {check.engine for check in verification.checks}
    assert engines == ({""} if "softmax" in path.name else {"fused", "line_by_line"})
    assert_all_is_replayed(path, verification)


@pytest.mark.parametrize("path", recordings("*.npz", LARGE_MARGIN))
def test_recording_of_large_margin(path):
    verification = verify(path)
    assert verification.ok
    assert "LargeMargin" in verification.source
    assert verification.kind == ("head_sgd" if "sgd" in path.name else "layer")
    assert {check.engine for check in verification.checks} == {"fused", "line_by_line"}
    assert_all_is_replayed(path, verification)


def test_kinds():
    kinds = {path: verify(path).kind for path in (LAYER, LOSS, SGD, NET)}
    assert list(kinds.values()) == ["layer", "softmax_loss", "head_sgd", "net"]


def test_net():
    """A convolutional net in pycaffe, by tools/dump_caffe.py."""
    verification = one_by_one(NET)
    assert verification.ok
    assert {check.blob for check in verification.checks} == {
        "fc6/top0_data",
        "fc6/top1_data",
        "fc6/blob0_data",
        "fc6/blob0_diff",
        "fc6/bottom0_diff",
        "softmax_loss/top0_data",
        "softmax_loss/bottom0_diff",
    }


@pytest.mark.parametrize(
    ("text", "lost"),
    [
        # fc5 is read twice, so its diff is not fc6's alone
        ('layer { name: "s" type: "Silence" bottom: "fc5" }', {"fc6/bottom0_diff"}),
        # the top is overwritten, and with it what the loss read
        (
            'layer { name: "d" type: "Dropout" bottom: "fc6" top: "fc6" }',
            {f"fc6/{blob}" for blob in ("top0_data", "top1_data", "blob0_data", "blob0_diff")}
            | {"fc6/bottom0_diff", "softmax_loss/bottom0_diff"},
        ),
    ],
)
def test_net_with_shared_blobs(write, text, lost):
    whole = {check.blob for check in one_by_one(NET).checks}
    net = np.array(f"{load(NET)['net']}\n{text}")
    verification = one_by_one(write(changed(NET, net=net)))
    assert whole - {check.blob for check in verification.checks} == lost
    assert verification.ok


def test_net_with_the_plugin(write):
    """The same net, its layer a Python layer of ours."""
    whole = one_by_one(NET)
    net = plugin_text.to_python(str(load(NET)["net"])).text
    assert 'type: "Python"' in net
    verification = one_by_one(write(changed(NET, net=np.array(net))))
    assert verification.checks == whole.checks
    assert verification.not_replayed == ("Input", "Convolution", "PReLU", "InnerProduct")


def test_net_with_a_shared_weight(write):
    """Two heads alike on one weight; each of its diffs is then the sum of both."""
    arrays = load(NET)
    (layer,) = (line for line in str(arrays["net"]).splitlines() if '"fc6" type' in line)
    shared = layer.replace("margin_inner", 'param { name: "w" } margin_inner', 1)
    second = shared.replace('name: "fc6"', 'name: "fc7"').replace('"lambda"', '"lambda2"')
    second = second.replace('top: "fc6"', 'top: "fc7"')
    arrays["net"] = np.array(str(arrays["net"]).replace(layer, f"{shared}\n{second}"))
    arrays["param/fc6/0/diff"] *= 2
    for key in list(arrays):
        copied = key.replace("/fc6/", "/fc7/").replace("/lambda/", "/lambda2/")
        arrays[copied] = arrays[key]
    verification = one_by_one(write(arrays))
    assert verification.ok
    assert {check.blob for check in verification.checks} == {
        *("fc6/top0_data", "fc6/top1_data", "fc7/top0_data", "fc7/top1_data"),
        *("softmax_loss/top0_data", "softmax_loss/bottom0_diff"),
    }


def test_net_with_a_loss_without_a_top(write):
    """Caffe adds one to each, and pycaffe calls them all (automatic)."""
    whole = one_by_one(NET)
    arrays = load(NET)
    arrays["net"] = np.array(str(arrays["net"]).replace('top: "softmax_loss"', ""))
    without = {key: arrays[key] for key in arrays if not key.startswith("blob/softmax_loss/")}
    loss = {"blob/(automatic)/data": arrays["blob/softmax_loss/data"]}
    assert one_by_one(write(without | loss)).checks == whole.checks

    another = f'{arrays["net"]} layer {{ type: "EuclideanLoss" bottom: "a" bottom: "b" }}'
    for some in (without, without | loss | {"net": np.array(another)}):
        verification = one_by_one(write(some))
        assert {check.blob.split("/")[0] for check in verification.checks} == {"fc6"}
        assert "SoftmaxWithLoss" in verification.not_replayed


def test_net_with_a_weight_on_the_probabilities(write):
    """Caffe's loss does not know what that asks of it."""
    net = str(load(NET)["net"]).replace('"SoftmaxWithLoss"', '"SoftmaxWithLoss" loss_weight: 1', 1)
    assert (
        one_by_one(write(changed(NET, net=np.array(net)))).not_replayed
        == one_by_one(NET).not_replayed
    )
    net = net.replace("loss_weight: 1", "loss_weight: 1 loss_weight: 1")
    verification = one_by_one(write(changed(NET, net=np.array(net))))
    assert verification.not_replayed == (*one_by_one(NET).not_replayed, "SoftmaxWithLoss")


# Engines

WHOLE = DATA / "layers" / "innerproduct_float64.npz"
"""A net without a layer that is replayed by itself."""


def test_engine(write):
    for engine in ENGINES:
        assert {check.engine for check in verify(LAYER, engines=[engine]).checks} == {engine}
    both = [check for engine in ENGINES for check in verify(LAYER, engines=[engine]).checks]
    assert both == list(verify(LAYER).checks)
    with pytest.raises(ValueError, match="no engine 'caffe'; they are fused, line_by_line, torch"):
        verify(LAYER, engines=["caffe"])


@pytest.mark.parametrize("path", [LAYER, LOSS, SGD], ids=["layer", "loss", "sgd"])
def test_an_engine_that_a_recording_has_not(path):
    with pytest.raises(ValueError, match="torch cannot replay this recording; fused and line_by"):
        verify(path, engines=["torch"])


def test_whole_net():
    verification = verify(WHOLE)
    assert verification.ok
    assert {check.engine for check in verification.checks} == {"torch"}
    results = {key for key in load(WHOLE) if key.endswith(("/data", "/diff"))}
    assert {check.blob for check in verification.checks} == results
    assert verification == verify(WHOLE, engines=["torch"])
    with pytest.raises(ValueError, match="fused and line_by_line cannot replay any layer of this"):
        one_by_one(WHOLE)


def test_every_recorded_blob_of_a_net_is_compared(write):
    arrays = load(WHOLE)
    for key in [key for key in arrays if key.endswith(("/data", "/diff"))]:
        if key == "blob/x/data":  # what was put there
            continue
        wrong = arrays | {key: arrays[key] + 1}
        verification = verify(write(wrong))
        assert [check.blob for check in verification.checks if not check.ok] == [key]


def test_a_net_whose_types_torch_lacks(write):
    """What is asked for by name is refused, and else its heads are replayed."""
    net = np.array(str(load(NET)["net"]).replace('"PReLU"', '"QReLU"'))
    path = write(changed(NET, net=net))
    assert verify(path).checks == one_by_one(NET).checks
    assert "QReLU" in verify(path).not_replayed
    with pytest.raises(ValueError, match=r"lacks a layer type: .* of type 'QReLU'"):
        verify(path, engines=["torch"])


def test_what_was_drawn_and_not_recorded(write):
    dropout = 'layer { name: "d" type: "Dropout" bottom: "fc5" top: "d" }'
    path = write(changed(NET, net=np.array(f"{load(NET)['net']}\n{dropout}")))
    assert {check.engine for check in verify(path).checks} == {*ENGINES, ""}


def test_without_torch():
    """Heads are replayed, and what needs PyTorch says so."""
    code = f"""
import sys
sys.modules["torch"] = None
from caffe_margin.recordings.replay import verify
print(len(verify({str(NET)!r}).checks))
for path, engines in (({str(WHOLE)!r}, None), ({str(NET)!r}, ["torch"])):
    try:
        verify(path, engines=engines)
    except ValueError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    count, *errors = done.stdout.splitlines()
    assert int(count) == len(one_by_one(NET).checks)
    reason = "to replay the whole net, caffe_margin.torch needs PyTorch: pip install "
    assert errors == [f"{path}: {reason}'caffe_margin[torch]'" for path in (WHOLE, NET)]


def test_what_is_wrong_in_caffe():
    """It is named where the whole net is replayed, and is no check then."""
    path = DATA / "layers" / "bnll_in_place_float64.npz"
    verification = verify(path)
    assert verification.ok
    assert verification.wrong_in_caffe
    assert not {check.blob for check in verification.checks} & {*verification.wrong_in_caffe}
    assert verify(WHOLE).wrong_in_caffe == one_by_one(NET).wrong_in_caffe == ()


def test_weights_that_a_recording_does_not_hold(write, tmp_path):
    arrays = load(WHOLE)
    before = [arrays[f"param/layer/{i}/data_before"] for i in range(2)]
    bare = {key: array for key, array in arrays.items() if not key.startswith("param/")}
    path = write(bare)
    with pytest.raises(ValueError, match="holds no parameters; give the weights they are in"):
        verify(path)
    write_weights({"layer": before}, tmp_path / "a.caffemodel")
    assert verify(path, weights=tmp_path / "a.caffemodel").ok
    write_weights({"layer": [before[0], before[1] + 1]}, tmp_path / "b.caffemodel")
    assert not verify(path, weights=tmp_path / "b.caffemodel").ok
    assert verify(WHOLE, weights=tmp_path / "b.caffemodel").ok  # it has its own
    write_weights({"other": before}, tmp_path / "c.caffemodel")
    with pytest.raises(ValueError, match="no weights for 'layer'"):
        verify(path, weights=tmp_path / "c.caffemodel")


def test_a_net_that_asks_for_memory(write):
    net = str(load(WHOLE)["net"])
    large = re.sub("num_output: [0-9]+", "num_output: 50000000", net)
    assert large != net
    with pytest.raises(ValueError, match=r"its blobs take \d+ bytes; up to"):
        verify(write(changed(WHOLE, net=np.array(large))))


def test_forwards_of_a_net(write):
    """Lambda moves on with each, and the recording holds the last."""
    arrays = load(NET)
    net = text_format.Parse(str(arrays["net"]), pb.NetParameter())
    (margin,) = (layer for layer in net.layer if layer.type == "MarginInnerProduct")
    margin.margin_inner_product_param.iteration -= 2
    arrays["net"] = np.array(text_format.MessageToString(net))
    assert not one_by_one(write(arrays)).ok
    assert one_by_one(write(arrays | {"forwards": np.array(3)})).ok
    with pytest.raises(ValueError, match="forwards is 0"):
        one_by_one(write(arrays | {"forwards": np.array(0)}))


def test_a_net_without_backward(write):
    arrays = {key: array for key, array in load(NET).items() if not key.endswith("/diff")}
    verification = one_by_one(write(arrays | {"backward": np.array(False)}))
    assert verification.ok
    assert {check.blob for check in verification.checks} == {
        *("fc6/top0_data", "fc6/top1_data", "fc6/blob0_data", "softmax_loss/top0_data")
    }


# What is off is named


@pytest.mark.parametrize("path", [LAYER, LOSS, SGD], ids=["layer", "loss", "sgd"])
def test_every_recorded_blob_is_compared(write, path):
    outputs = {
        LAYER: ["top0_data", "top1_data", "blob0_data", "blob0_diff", "bottom0_diff"],
        LOSS: ["top0_data", "bottom0_diff"],
        SGD: ["loss", "lambda_", "weight_after"],
    }[path]
    outputs += [key for key in load(path) if key.startswith("internal_")]
    for key in outputs:
        array = load(path)[key]
        index = tuple(size - 1 for size in array.shape)
        largest = np.abs(array).max()
        array[index] += largest / 8
        verification = verify(write(changed(path, **{key: array})))
        assert not verification.ok
        worst = verification.worst
        assert {check.blob for check in verification.checks if not check.ok} == {worst.blob}
        assert worst.blob.startswith(key)
        assert worst.index == index[-len(worst.index) :] if worst.index else index == ()
        np.testing.assert_allclose(worst.absolute, largest / 8, rtol=1e-3)
        np.testing.assert_allclose(worst.recorded, array[index])


def test_measures():
    check = compare_blob("a", "", np.array([[1.0, -3.5]]), np.array([[1.0, -4.0]]), None)
    assert (check.index, check.computed, check.recorded) == ((0, 1), -3.5, -4)
    assert (check.absolute, check.relative, check.ulps) == (0.5, 0.125, 0.5 * 2**50)
    ones = np.ones((2, 2), np.float32)
    check = compare_blob("a", "", ones * (1 + 2**-23), ones, None)
    assert (check.ulps, check.ok) == (1, True)
    zeros = np.zeros(3)
    assert compare_blob("a", "", zeros, zeros, None).ok
    assert not compare_blob("a", "", zeros + 1e-300, zeros, None).ok
    assert compare_blob("a", "", zeros[:0], zeros[:0], None).ok


def test_not_finite(write):
    recorded = load(LAYER)["top0_data"]
    recorded[3, 4] = np.nan
    worst = verify(write(changed(LAYER, top0_data=recorded))).worst
    assert (worst.blob, worst.index, worst.ok) == ("top0_data", (3, 4), False)
    # an infinity in the recording is no scale for the others
    recorded[3, 4] = np.inf
    assert verify(write(changed(LAYER, top0_data=recorded))).worst.relative == np.inf


def test_one_sign_in_a_kernel(monkeypatch):
    def flipped(*arguments):
        coefficients = original(*arguments)
        return type(coefficients)(coefficients.w, -coefficients.x, coefficients.weight)

    original = fused.label_coefficients
    monkeypatch.setattr(fused, "label_coefficients", flipped)
    for path in (LAYER, NET):
        wrong = [check for check in verify(path).checks if not check.ok]
        assert [check.blob.split("/")[-1] for check in wrong] == ["bottom0_diff"]
        assert {check.engine for check in wrong} == {"fused"}


def test_replay_that_diverges_is_a_difference(write, monkeypatch):
    """A weight that SGD blows up is not the recording's fault."""
    solver = str(load(SGD)["solver"]).replace("base_lr: 0.1", "base_lr: 1e38")
    verification = verify(write(changed(SGD, solver=np.array(solver))))
    assert not verification.ok
    assert verification.worst.relative == np.inf


def test_rtol():
    verification = verify(LAYER, rtol=1e-20)
    assert not verification.ok
    assert {check.rtol for check in verification.checks} == {1e-20}
    assert {check.rtol for check in verify(LAYER).checks} == {1e-12}
    assert {check.rtol for check in verify(LOSS).checks} == {2e-6}


# Signs that rounding decides


def thresholds(m, dtype, order):
    """A recording whose cosines lie where psi's pieces meet, but for rounding; summed in an order.

    What differs from order to order is what differs from BLAS to BLAS.
    """
    rng = np.random.default_rng(m)
    K, N = 384, 6
    weight, across = np.linalg.qr(rng.normal(size=(K, 2 * N)))[0].T.reshape(2, N, K)
    angles = np.radians([90, 60, 120, 45, 135, 30])
    x = np.concatenate([np.cos(a) * weight + np.sin(a) * across for a in angles])
    x *= rng.uniform(1, 40, size=(len(x), 1))
    label = np.tile(np.arange(N), len(angles))
    recording = load(LAYER)
    (layer_param,) = text_format.Parse(str(recording["layer"]), pb.NetParameter()).layer
    layer_param.margin_inner_product_param.num_output = N
    layer_param.margin_inner_product_param.type = m - 1
    top_diff, weight_diff = rng.normal(size=(len(x), N)), np.zeros((N, K))
    permuted = [a[:, order(K)].astype(dtype) for a in (x, weight, weight_diff)]
    inputs = (layer_param, permuted[0], label, permuted[1], top_diff.astype(dtype), permuted[2])
    arrays = record(*inputs)
    arrays |= LayerRun(
        layer_param, PAPER, permuted[0], label, permuted[1], permuted[2], inputs[4]
    ).run("line_by_line")
    back = np.argsort(order(K))
    for key in ("bottom0_data", "bottom0_diff", "blob0_data_before", "blob0_diff_before"):
        arrays[key] = arrays[key][:, back]
    for key in ("blob0_data", "blob0_diff"):
        arrays[key] = arrays[key][:, back]
    return {key: array for key, array in arrays.items() if array.size}


def reverse(K):
    return np.arange(K)[::-1]


@pytest.mark.parametrize("m", [1, 2, 3, 4])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_another_order_of_the_sums_is_as_right(write, m, dtype):
    ours, theirs = (thresholds(m, dtype, order) for order in (np.arange, reverse))
    signs = {key for key in ours if key.startswith("internal_sign_")}
    assert signs == {f"internal_sign_{i}" for i in ([0], [0], [0, 1, 2], [0, 3, 4])[m - 1]}
    assert any((ours[key] != theirs[key]).any() for key in signs)
    np.testing.assert_allclose(ours["top0_data"], theirs["top0_data"], rtol=1e-5, atol=1e-4)
    verification = verify(write(theirs))
    assert verification.ok
    assert {check.blob for check in verification.checks} >= signs


@pytest.mark.parametrize("m", [1, 2, 3, 4])
def test_signs_that_are_wrong(write, m):
    """Away from a threshold, or at one but at odds with one another."""
    arrays = thresholds(m, "float64", np.arange)
    signs = {key: array for key, array in arrays.items() if key.startswith("internal_sign_")}
    clear = 30 * 6  # of a sample at 30 degrees, its own class
    level = {1: 0, 2: 0, 3: 6 * 6, 4: 0}[m]  # of one at 90, or at 60 where sign_1 is asked for
    for key, sign in signs.items():
        for place in (clear, level) if m > 2 else (clear,):
            wrong = sign.copy()
            wrong[place] += 1 + (place == level)
            verification = verify(write(arrays | {key: wrong}))
            assert key in {check.blob for check in verification.checks if not check.ok}
    both = {key: sign.copy() for key, sign in signs.items()}
    if m == 4:  # sign_4 is 2 sign_0 + sign_3 - 3, and at 90 degrees sign_3 is -sign_0
        for sign_0 in (-1, 0, 1):
            for i, value in ((0, sign_0), (3, -sign_0), (4, sign_0 - 3)):
                both[f"internal_sign_{i}"][level] = value
            assert verify(write(arrays | both)).ok
    if m == 3:  # sign_2 is sign_0 (1 + sign_1) - 2
        for sign_1 in (-1, 0, 1):
            both["internal_sign_1"][level] = sign_1
            both["internal_sign_2"][level] = sign_1 - 1
            assert verify(write(arrays | both)).ok


# Rules


def our_recording(rule, path=LAYER):
    recording = load(path)
    (layer_param,) = text_format.Parse(str(recording["layer"]), pb.NetParameter()).layer
    return record(
        layer_param,
        *(recording[key] for key in ("bottom0_data", "bottom1_data", "blob0_data_before")),
        recording["top0_diff"],
        recording["blob0_diff_before"],
        gradient=rule,
        iteration=5,
    )


@pytest.mark.parametrize("rule", ALL_RULES, ids=lambda rule: rule.name)
def test_recorded_under_a_rule(write, rule):
    assert verify(write(our_recording(rule))).ok


@pytest.mark.parametrize("rule", ALL_RULES, ids=lambda rule: rule.name)
def test_large_margin_recorded_under_a_rule(write, rule):
    recording = our_recording(rule, LARGE_MARGIN_LAYER)
    assert verify(write(recording)).ok
    del recording["rule"]
    # No rule means what its C++ computes, whatever MarginInnerProduct's does.
    assert verify(write(recording)).ok == (rule == EXACT)


def test_rule_that_record_takes_by_itself():
    assert [str(our_recording(None, path)["rule"]) for path in (LAYER, LARGE_MARGIN_LAYER)] == [
        "paper",
        "exact",
    ]


def test_recording_of_the_exact_rule(monkeypatch):
    """Both engines, from a file; and the compiled pass that no recording of Caffe runs."""
    verification = verify(EXACT_RULE)
    assert verification.ok
    assert {check.engine for check in verification.checks} == {"fused", "line_by_line"}
    assert str(load(EXACT_RULE)["rule"]) == "exact"

    def flipped(gradient, *others):
        original(-gradient, *others)

    original = row_passes.add_projected
    monkeypatch.setattr(row_passes, "add_projected", flipped)
    wrong = [check for check in verify(EXACT_RULE).checks if not check.ok]
    assert [(check.blob, check.engine) for check in wrong] == [("blob0_diff", "fused")]


def test_without_the_key_the_rule_is_the_texts(write):
    arrays = load(EXACT_RULE)
    del arrays["rule"]
    assert not verify(write(arrays)).ok
    field = "margin_inner_product_param { gradient: EXACT"
    layer = str(arrays["layer"]).replace("margin_inner_product_param {", field)
    assert verify(write(arrays | {"layer": np.array(layer)})).ok


def test_another_rule_differs(write):
    recording = our_recording(EXACT)
    assert str(recording["rule"]) == "exact"
    wrong = verify(write(recording | {"rule": np.array("paper")}))
    assert {check.blob for check in wrong.checks if not check.ok} == {
        "blob0_data",
        "blob0_diff",
        "bottom0_diff",
    }
    # without the key it is Caffe's
    without = {key: array for key, array in recording.items() if key != "rule"}
    assert not verify(write(without)).ok


def test_our_recording_of_the_papers_rule_is_caffes():
    caffes, ours = load(LAYER), our_recording("paper")
    assert caffes.keys() - ours.keys() == {key for key in caffes if key.startswith("internal_")}
    for key in ("blob0_data", "blob0_diff"):
        np.testing.assert_allclose(ours[key], caffes[key], rtol=0, atol=1e-14)
    # (1 + 0.12 * 5)^-1 of 1000
    np.testing.assert_allclose(ours["top1_data"], 1000 / 1.6, rtol=1e-6)
    (layer_param,) = text_format.Parse(str(ours["layer"]), pb.NetParameter()).layer
    assert layer_param.margin_inner_product_param.iteration == 4


# What is no recording


def test_missing_keys(write):
    optional = {"source", "weight_after_iterations", "top1_data"}
    for path in (LAYER, LOSS, SGD):
        for key in load(path):
            if key in optional or key.startswith("internal_"):
                continue
            if (path, key) in [(LOSS, "bottom0_diff"), (SGD, "solver")]:
                continue
            with pytest.raises(ValueError, match=f"lacks {key}|no recording"):
                verify(write(changed(path, **{key: None})))
    with pytest.raises(ValueError, match="lacks phase"):
        verify(write(changed(SGD, solver=None)))
    with pytest.raises(ValueError, match="lacks blob/fc6/data"):
        one_by_one(write(changed(NET, **{"blob/fc6/data": None})))


def test_wrong_shapes_and_dtypes(write):
    for path in (LAYER, LOSS, SGD):
        for key, array in load(path).items():
            if key == "source" or array.dtype.kind == "U":
                wrong = [np.zeros(3), np.array(["a", "b"])]
            else:
                wrong = [np.array("text"), array.astype(complex)]
                # labels may be numbers of any kind, private blobs are flat
                if array.dtype.kind == "f" and key not in ("label", "bottom1_data"):
                    wrong.append(array.astype(np.float16))
                if key != "bottom1_data" and not key.startswith("internal"):
                    wrong.append(array[None, None])
            for value in wrong:
                with pytest.raises(ValueError, match=rf"recording\.npz.* ({key}|'{key}'|bottom)"):
                    verify(write(changed(path, **{key: value})))


OTHERS = {
    "future": (LAYER, {"format_version": np.array(2)}, "of format version 2; .* up to version 1"),
    "past": (LAYER, {"format_version": np.array(0)}, "format_version is 0"),
    "no version": (LAYER, {"format_version": np.array("1")}, "format_version is .* must be"),
    "no forwards": (LAYER, {"forwards": np.array(0)}, r"forwards is 0; .* \[1, 10000\]"),
    "forever": (LAYER, {"forwards": np.array(10**12)}, "forwards is 1000000000000"),
    "two layers": (LAYER, {"layer": np.array("layer {} layer {}")}, "holds 2 layers"),
    "other layer": (LAYER, {"layer": np.array('layer { type: "ReLU" }')}, "type 'ReLU'"),
    "no prototxt": (LAYER, {"layer": np.array("layer { name: ")}, "layer:1"),
    "rule": (LAYER, {"rule": np.array("true")}, "'paper', 'exact', 'detached' or a"),
    "switches": (LAYER, {"rule": np.array([True])}, r"rule is \(1,\) bool"),
    "label": (LAYER, {"bottom1_data": np.full(24, 99.0)}, "row 0 .* label 99"),
    "zero weight": (LAYER, {"blob0_data_before": np.zeros((10, 16))}, "row 0 of the weight"),
    "float32 within": (LAYER, {"top0_data": np.zeros((24, 10), "f4")}, "recording is float64"),
    "iteration": (SGD, {"weight_after_iterations": np.array([1, 2, 3, 41])}, r"in \[1, 40\]"),
    "twice": (SGD, {"weight_after_iterations": np.array([1, 9, 9, 40])}, "is there twice"),
    "int": (LAYER, {"blob0_diff_before": np.zeros((10, 16), int)}, r"must be \(10, 16\) float$"),
    "policy": (SGD, {"solver": np.array('lr_policy: "plateau"')}, "lr_policy 'plateau'"),
    "solver": (SGD, {"solver": np.array('type: "Adam" lr_policy: "fixed"')}, "'Adam'"),
    "iter_size": (SGD, {"solver": np.array('lr_policy: "fixed" iter_size: 2')}, "iter_size is 2"),
    "phase": (NET, {"phase": np.array("PREDICT")}, "phase 'PREDICT'"),
    "foreign net": (NET, {"net": np.array('name: "empty"')}, "and the net none"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_refused(write, case):
    original, arrays, message = OTHERS[case]
    path = write(changed(original, **arrays))
    with pytest.raises(ValueError, match=message) as caught:
        verify(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("path", [LAYER, LOSS, SGD, NET], ids=["layer", "loss", "sgd", "net"])
def test_too_many_logits(path, monkeypatch):
    monkeypatch.setattr(replay, "MAX_LOGITS", 100)
    with pytest.raises(ValueError, match=r"logits, .* bytes; up to 100 are replayed"):
        verify(path)


def test_small_files_that_ask_for_large_tops(write):
    """Of 4000 samples and classes, 64 MB an array; and of 20,000, which are not in the file."""

    def peak(arrays, message):
        path = write(arrays)
        tracemalloc.start()
        with pytest.raises(ValueError, match=message):
            verify(path)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    def layer(N):
        return str(load(LAYER)["layer"]).replace("num_output: 10", f"num_output: {N}")

    one, label = np.ones((4000, 1)), np.zeros(4000)
    weights = {"blob0_data_before": one, "blob0_diff_before": one}
    bottoms = {"bottom0_data": one, "bottom1_data": label, "layer": np.array(layer(4000))}
    message = r"top0_diff is .* must be \(4000, 4000\)"
    assert peak(changed(LAYER, **weights, **bottoms), message) < 10e6

    one, label = np.ones((20_000, 1), np.float32), np.zeros((1, 20_000))
    net = np.array(str(load(SGD)["net"]).replace("num_output: 10", "num_output: 20000"))
    assert "20000" in str(net)
    large = changed(SGD, fc5=one[None], label=label, weight_before=one, net=net)
    assert peak(large, "take 1600000000 bytes") < 10e6


def test_warnings_name_the_file(write):
    layer = str(load(LAYER)["layer"]).replace("name:", "colour: 3 name:", 1)
    path = write(changed(LAYER, layer=np.array(layer)))
    with pytest.warns(UnknownFieldWarning, match=rf"^{path}: layer:\d+: .*colour"):
        assert verify(path).ok


def test_foreign_files(tmp_path, write):
    with pytest.raises(ValueError, match=r"no recording, .* it holds label, x"):
        verify(write({"x": np.zeros((2, 2)), "label": np.zeros(2)}))
    with pytest.raises(ValueError, match="no recording"):
        verify(write({}))
    np.savez(tmp_path / "objects.npz", layer=np.array([None]))
    with pytest.raises(ValueError, match="only booleans"):
        verify(tmp_path / "objects.npz")
    with pytest.raises(FileNotFoundError):
        verify(tmp_path / "nothing.npz")


# Any recording, changed in any way

SOURCES = {path: load(path) for path in (LAYER, LOSS, NET)}


@st.composite
def mutated(draw):
    """A recording with some arrays dropped, swapped, cut, retyped or filled with odd values."""
    arrays = dict(SOURCES[draw(st.sampled_from(sorted(SOURCES)))])
    for _ in range(draw(st.integers(1, 3))):
        key = draw(st.sampled_from(sorted(arrays)))
        array = arrays[key].copy()
        kind = draw(st.sampled_from(["drop", "swap", "cut", "retype", "fill", "text"]))
        if kind == "drop":
            del arrays[key]
            if not arrays:
                return arrays
        elif kind == "swap":
            arrays[key] = arrays[draw(st.sampled_from(sorted(arrays)))]
        elif kind == "cut" and array.ndim:
            arrays[key] = array[draw(st.integers(0, len(array))) :]
        elif kind == "retype" and array.dtype.kind != "U":
            dtype = draw(st.sampled_from(["?", "i1", "u8", "f2", "f4", "f8", ">f8", "U3"]))
            with np.errstate(all="ignore"):
                arrays[key] = array.astype(dtype)
        elif kind == "fill" and array.dtype.kind in "if":
            value = draw(st.sampled_from([0, -1, 1e-300, 1e300, np.nan, np.inf, 2**62]))
            if array.dtype.kind == "f" or np.isfinite(value):
                with np.errstate(all="ignore"):
                    array.reshape(-1)[: draw(st.integers(1, 9))] = np.array(value).astype(
                        array.dtype
                    )
            arrays[key] = array
        elif kind == "text" and array.dtype.kind == "U":
            text = str(array)
            at = draw(st.integers(0, len(text)))
            new = draw(st.sampled_from(["{", "}", ":", "-", "9" * 9, '"', "\0", "axis: 7 ", "é"]))
            arrays[key] = np.array(text[:at] + new + text[at + draw(st.integers(0, 9)) :])
    return arrays


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(arrays=mutated())
@pytest.mark.filterwarnings("ignore::caffe_margin.files.text_format.UnknownFieldWarning")
def test_mutated_recordings_are_verified_or_refused(write, arrays):
    path = write(arrays)
    try:
        verification = verify(path)
    except ValueError as error:
        message = str(error)
    else:
        message = verification.worst.blob
    assert message


# The page that describes all this


def test_the_test_of_a_port_in_the_docs(tmp_path, monkeypatch):
    """The snippet passes for a port written from the papers, by angles, and fails for a bad one."""
    page = ROOT / "docs" / "recordings.md"
    _, snippet = page.read_text().split("```python\n", 1)
    snippet, _ = snippet.split("```", 1)
    write_arrays(tmp_path / "fc6.npz", our_recording("exact"))
    (tmp_path / "my_port.py").write_text(PORT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    exec(snippet, {})
    shutil.copy(LAYER, tmp_path / "fc6.npz")  # Caffe's gradient is not the exact one
    with pytest.raises(AssertionError, match="bottom0_diff is off by"):
        exec(snippet, {})


PORT = """
import numpy as np

def unit(rows):
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / length, length

def forward(x, label, weight, lambda_, m=3):
    global saved
    rows = np.arange(len(x))
    (u, r), (v, w_norm) = unit(x), unit(weight)
    cos = u @ v.T
    theta = np.arccos(cos[rows, label])
    k = np.floor(m * theta / np.pi)
    psi = (-1) ** k * np.cos(m * theta) - 2 * k
    slope = -m * (-1) ** k * np.sin(m * theta)
    value, by_theta = cos.copy(), -np.sin(np.arccos(cos))
    value[rows, label] = (psi + lambda_ * np.cos(theta)) / (1 + lambda_)
    by_theta[rows, label] = (slope - lambda_ * np.sin(theta)) / (1 + lambda_)
    saved = u, r, v, w_norm, cos, value, by_theta
    return r * value

def backward(top_diff):
    u, r, v, w_norm, cos, value, by_theta = saved
    # d theta / d u is -(v - cos u) / sin, and the same for v
    along = -top_diff * by_theta / np.sqrt(1 - cos**2)
    dx = (top_diff * value).sum(1)[:, None] * u
    dx += along @ v - (along * cos).sum(1)[:, None] * u
    dw = (r * along).T @ u - (r * along * cos).sum(0)[:, None] * v
    return dx, dw / w_norm
"""
