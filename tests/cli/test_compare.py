import dataclasses
import json

import numpy as np
import pytest

import caffe_margin as cm
from caffe_margin.cli import main
from helpers.places import MODELS

MODEL = MODELS / "sphereface_model.prototxt"
NET = """
    layer { name: "data" type: "Input" top: "fc5" top: "label"
            input_param { shape { dim: 6 dim: 8 } shape { dim: 6 } } }
    layer { name: "fc6" type: "MarginInnerProduct" bottom: "fc5" bottom: "label" top: "fc6"
            margin_inner_product_param { num_output: 5 type: TRIPLE base: 100 gamma: 1
                                         lambda_min: 1 weight_filler { type: "xavier" } } }
"""


@pytest.fixture
def net(tmp_path):
    path = tmp_path / "net.prototxt"
    path.write_text(NET)
    return str(path)


def run_json(capsys, *arguments):
    assert main(["compare", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def features(tmp_path, **arrays):
    rng = np.random.default_rng(0)
    path = tmp_path / "features.npz"
    np.savez(path, **({"x": rng.normal(size=(7, 8)), "label": np.arange(7) % 5} | arrays))
    return str(path)


def test_the_real_net_at_real_size(capsys):
    assert main(["compare", str(MODEL)]) == 0
    captured = capsys.readouterr()
    assert "M = 256, N = 10572, K = 512, float32" in captured.out
    assert "lambda    5 at iteration 1659, where lambda reaches lambda_min" in captured.out
    assert "drawn, angles to the own class cover 0 to pi" in captured.out
    for rule in (
        "exact",
        "paper",
        "only normalized",
        "only detached in weight",
        "only no projection",
    ):
        assert rule in captured.out
    # a pipe gets no progress bar
    assert captured.err == ""


def test_large_margin(capsys, tmp_path):
    """The exact rule's gradients against the layer and the loss, run here."""
    text = NET.replace('"MarginInner', '"LargeMarginInner').replace(
        "margin_inner_product_param", "largemargin_inner_product_param"
    )
    path = tmp_path / "large.prototxt"
    path.write_text(text)
    rng = np.random.default_rng(0)
    x, label, weight = rng.normal(size=(7, 8)), np.arange(7) % 5, rng.normal(size=(5, 8))
    np.savez(tmp_path / "batch.npz", x=x, label=label, weight=weight)
    arguments = [str(path), "--features", str(tmp_path / "batch.npz"), "--iteration", "4"]
    value = run_json(capsys, *arguments)
    layer = cm.LargeMarginInnerProduct(5, m=3, base=20, gamma=0, power=1, lambda_min=0)
    layer.weight = weight
    loss_layer = cm.SoftmaxWithLoss()
    loss = loss_layer.forward(layer.forward(x, label), label)
    bottom_diff = layer.backward(loss_layer.backward())
    exact = value["rules"][0]
    assert (value["layer_type"], exact["name"]) == ("LargeMarginInnerProduct", "exact")
    assert value["loss"] == pytest.approx(loss)
    assert exact["bottom_diff"]["norm"] == pytest.approx(np.linalg.norm(bottom_diff))
    assert exact["weight_diff"]["norm"] == pytest.approx(np.linalg.norm(layer.blobs[0].diff))
    assert value["rules"][1]["weight_diff"]["difference"] > 0.01
    assert main(["compare", *arguments]) == 0
    assert "LargeMarginInnerProduct computes the exact rule" in capsys.readouterr().out


def test_defaults_come_from_the_net(net, capsys):
    value = run_json(capsys, net)
    assert (value["M"], value["N"], value["K"]) == (6, 5, 8)
    # 100 / (1 + t) reaches 1 at t = 99
    assert (value["iteration"], value["lambda"]) == (99, 1)
    assert value["dtype"] == "float32"


def test_options(net, capsys):
    value = run_json(
        capsys, net, "--batch", "9", "--iteration", "3", "--dtype", "float64", "--layer", "fc6"
    )
    assert (value["M"], value["iteration"], value["lambda"]) == (9, 3, 25)
    assert value["dtype"] == "float64"


def test_seed(net, capsys):
    first, again, other = (run_json(capsys, net, "--seed", seed) for seed in "112")
    assert first == again
    assert first["loss"] != other["loss"]


def test_features(net, capsys, tmp_path):
    weight = np.random.default_rng(1).normal(size=(5, 8))
    value = run_json(capsys, net, "--features", features(tmp_path, weight=weight))
    assert (value["M"], value["dtype"]) == (7, "float64")
    x, label = np.random.default_rng(0).normal(size=(7, 8)), np.arange(7) % 5
    unit = weight / np.linalg.norm(weight, axis=1, keepdims=True)
    theta = np.arccos((x * unit[label]).sum(1) / np.linalg.norm(x, axis=1))
    np.testing.assert_allclose(value["theta"], theta, rtol=1e-9)
    value = run_json(capsys, net, "--features", features(tmp_path), "--batch", "4")
    assert value["M"] == 4


def test_weights(net, capsys, tmp_path):
    weight = np.random.default_rng(1).normal(size=(5, 8)).astype(np.float32)
    path = tmp_path / "trained.caffemodel"
    cm.write_weights({"fc6": [weight]}, path)
    value = run_json(capsys, net, "--weights", str(path))
    given = run_json(capsys, net, "--features", features(tmp_path), "--weights", str(path))
    assert value["weight"] == given["weight"] == f"from {path}"
    x, label = np.random.default_rng(0).normal(size=(7, 8)), np.arange(7) % 5
    unit = weight / np.linalg.norm(weight, axis=1, keepdims=True)
    theta = np.arccos((x * unit[label]).sum(1) / np.linalg.norm(x, axis=1))
    np.testing.assert_allclose(given["theta"], theta, rtol=1e-5)


@pytest.mark.parametrize("axis", [2, -1])
def test_axis(axis, capsys, tmp_path):
    path = tmp_path / "net.prototxt"
    text = NET.replace("dim: 6 dim: 8", "dim: 3 dim: 2 dim: 8").replace(
        "dim: 6 }", "dim: 3 dim: 2 }"
    )
    path.write_text(text.replace("num_output: 5", f"num_output: 5 axis: {axis}"))
    value = run_json(capsys, str(path))
    assert (value["M"], value["K"]) == (6, 8)


def test_no_margin_layer(capsys):
    deploy = MODEL.with_name("sphereface_deploy.prototxt")
    assert main(["compare", str(deploy)]) == 2
    err = capsys.readouterr().err
    assert str(deploy) in err
    assert "MarginInnerProduct" in err


def test_layer_of_another_type_is_placed(net, capsys):
    assert main(["compare", net, "--layer", "data"]) == 2
    err = capsys.readouterr().err
    assert f"{net}:2:5: layer 'data' is of type 'Input', not 'MarginInnerProduct'" in err


def test_missing_layer_has_a_near_name(net, capsys):
    assert main(["compare", net, "--layer", "fc7"]) == 2
    assert f"{net}: the net has no layer 'fc7'; did you mean 'fc6'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("num_output: 5", "num_output: 0", "num_output must be positive"),
        ("num_output: 5", "num_output: 5 axis: 0", "bottom[1]"),
        ("base: 100", "base: nan", "lambda is nan"),
    ],
)
def test_bad_net(old, new, message, capsys, tmp_path):
    path = tmp_path / "net.prototxt"
    path.write_text(NET.replace(old, new))
    assert main(["compare", str(path)]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_rewritten_net(net, capsys, tmp_path):
    """The plugin's Python layer stands for the layer it replaced."""
    rewritten = str(tmp_path / "rewritten.prototxt")
    assert main(["plugin", net, "-o", rewritten]) == 0
    capsys.readouterr()
    assert run_json(capsys, rewritten) == run_json(capsys, net)
    assert main(["inspect", rewritten]) == 0
    assert "fc6 6x5" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"label": np.arange(7)}, "row 5 of bottom[1]"),
        ({"label": np.zeros(3)}, "(7, 8)"),
        ({"x": np.zeros((7, 8))}, "row 0 of bottom[0]"),
        ({"x": np.ones((7, 8), np.float16)}, "features.npz: x is (7, 8) float16"),
        ({"weight": np.ones((5, 8), int)}, "features.npz: weight is (5, 8) int64"),
        ({"label": np.array(3)}, "x is (7, 8) and label ()"),
        ({"x": np.ones((0, 8)), "label": np.ones(0)}, "M > 0"),
        ({"x": np.array([[None] * 8] * 7)}, "features.npz"),
        ({"weight": np.ones((4, 8))}, "is (4, 8); layer 'fc6' needs (5, 8)"),
    ],
)
def test_bad_features(arrays, message, net, capsys, tmp_path):
    assert main(["compare", net, "--features", features(tmp_path, **arrays)]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_features_without_labels(net, capsys, tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, x=np.ones((2, 8)), y=np.ones(2))
    assert main(["compare", net, "--features", str(path)]) == 2
    assert "holds x, y; it must hold x and label" in capsys.readouterr().err


@pytest.mark.parametrize("shape", [(5, 6), (5, 4, 3), (40,)])
def test_weights_of_another_shape(shape, net, capsys, tmp_path):
    path = tmp_path / "other.caffemodel"
    cm.write_weights({"fc6": [np.ones(shape, np.float32)]}, path)
    assert main(["compare", net, "--weights", str(path)]) == 2
    err = capsys.readouterr().err
    assert "other.caffemodel" in err
    assert f"is {shape}" in err


def test_weights_of_another_layer(net, capsys, tmp_path):
    path = tmp_path / "other.caffemodel"
    cm.write_weights({"fc7": [np.ones((5, 8), np.float32)]}, path)
    assert main(["compare", net, "--weights", str(path)]) == 2
    assert "no weight for layer 'fc6'; it has fc7" in capsys.readouterr().err


@pytest.mark.parametrize("train", [[], ["--train", "0"]], ids=["none", "0"])
def test_a_learning_rate_without_training(train, net, capsys, tmp_path):
    page = tmp_path / "page"
    assert main(["compare", net, "--report", str(page), "--lr", "3", *train]) == 2
    assert "--lr is of the training: give --train" in capsys.readouterr().err
    assert not page.exists()


def test_help_counts_the_departures(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["compare", "--help"])
    assert len(dataclasses.fields(cm.GradientRule)) == 4
    assert "the four departures alone" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    "option",
    [["--batch", "0"], ["--iteration", "-1"], ["--iteration", "9" * 401], ["--dtype", "float16"]],
)
def test_bad_option(option, net):
    with pytest.raises(SystemExit, match="2"):
        main(["compare", net, *option])
