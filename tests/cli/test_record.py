"""caffe-margin record: what it writes, verify passes; and what it reads."""

import json

import numpy as np
import pytest
from google.protobuf import text_format

import caffe_margin as cm
from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.cli import main
from caffe_margin.files.npz import read_arrays
from caffe_margin.recordings.replay import verify

NET = """
    layer { name: "data" type: "Input" top: "fc5" top: "label"
            input_param { shape { dim: 6 dim: 8 } shape { dim: 6 } } }
    layer { name: "fc6" type: "MarginInnerProduct" bottom: "fc5" bottom: "label" top: "fc6"
            include { phase: TRAIN } param { lr_mult: 0 }
            margin_inner_product_param { num_output: 5 type: TRIPLE base: 100 gamma: 1
                                         lambda_min: 1 weight_filler { type: "xavier" }
                                         gradient: EXACT } }
"""


@pytest.fixture
def net(tmp_path):
    path = tmp_path / "net.prototxt"
    path.write_text(NET)
    return str(path)


@pytest.fixture
def out(tmp_path):
    return tmp_path / "fc6.npz"


@pytest.mark.parametrize("rule", ["paper", "exact"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_verify_passes(net, out, rule, dtype, capsys):
    assert main(["record", net, "--gradient", rule, "--dtype", dtype, "--out", str(out)]) == 0
    assert f"written   {out}" in capsys.readouterr().out
    recording = read_arrays(out)
    assert str(recording["rule"]) == rule
    assert int(recording["format_version"]) == 1
    assert str(recording["source"]).startswith("caffe_margin 0.")
    assert recording["bottom0_data"].shape == (6, 8)
    assert recording["top0_data"].dtype == dtype
    assert recording["blob0_diff_before"].any()
    verification = verify(out)
    assert verification.ok
    assert {check.dtype for check in verification.checks} == {dtype}


@pytest.mark.parametrize("options", [[], ["--gradient", "detached"]])
def test_large_margin(tmp_path, out, options, capsys):
    text = NET.replace('"MarginInner', '"LargeMarginInner').replace(
        "margin_inner_product_param", "largemargin_inner_product_param"
    )
    path = tmp_path / "large.prototxt"
    path.write_text(text)
    assert main(["record", str(path), *options, "--out", str(out)]) == 0
    rule = "detached" if options else "exact"
    assert f"gradient  {rule}" in capsys.readouterr().out
    recording = read_arrays(out)
    assert str(recording["rule"]) == rule
    assert "gradient" not in str(recording["layer"])
    np.testing.assert_array_equal(recording["blob0_data"], recording["blob0_data_before"])
    assert verify(out).ok


def test_the_layer_is_one_that_caffe_can_read(net, out):
    main(["record", net, "--layer", "fc6", "--iteration", "9", "--out", str(out)])
    recording = read_arrays(out)
    (layer,) = text_format.Parse(str(recording["layer"]), pb.NetParameter()).layer
    assert "gradient" not in str(recording["layer"])
    assert not layer.include
    assert list(layer.top) == ["fc6", "lambda"]
    # the ninth Forward, for Caffe counts before it computes: 100 / (1 + 9)
    assert layer.margin_inner_product_param.iteration == 8
    np.testing.assert_allclose(recording["top1_data"], [10], rtol=1e-6)


def test_given_inputs(net, out, tmp_path):
    rng = np.random.default_rng(1)
    x, weight = rng.normal(size=(4, 3)), rng.normal(size=(5, 3))
    np.savez(tmp_path / "features.npz", x=x, label=[4, 0, 1, 1], weight=weight)
    features = ["--features", str(tmp_path / "features.npz")]
    assert main(["record", net, *features, "--out", str(out)]) == 0
    recording = read_arrays(out)
    np.testing.assert_array_equal(recording["bottom0_data"], x)
    np.testing.assert_array_equal(recording["bottom1_data"], [4, 0, 1, 1])
    np.testing.assert_array_equal(recording["blob0_data_before"], weight)
    assert verify(out).ok

    cm.write_weights({"fc6": [2 * weight]}, tmp_path / "a.caffemodel")
    weights = ["--weights", str(tmp_path / "a.caffemodel")]
    assert main(["record", net, *features, *weights, "--out", str(out)]) == 0
    np.testing.assert_allclose(read_arrays(out)["blob0_data_before"], 2 * weight, rtol=1e-6)


def test_the_seed_decides(net, tmp_path):
    recordings = []
    for name, seed in [("a", "0"), ("b", "0"), ("c", "1")]:
        path = tmp_path / f"{name}.npz"
        main(["record", net, "--seed", seed, "--batch", "3", "--out", str(path)])
        recordings.append(read_arrays(path))
    a, b, c = recordings
    assert len(a["bottom0_data"]) == 3
    for key in ("bottom0_data", "top0_diff", "blob0_diff", "bottom0_diff"):
        np.testing.assert_array_equal(a[key], b[key])
        assert not np.array_equal(a[key], c[key])


def test_json(net, out, capsys):
    assert main(["record", net, "--json", "--out", str(out)]) == 0
    value = json.loads(capsys.readouterr().out)
    assert (value["M"], value["N"], value["K"], value["gradient"]) == (6, 5, 8, "paper")
    assert value["path"] == str(out)


def test_names_make_no_lines(net, out, tmp_path, capsys):
    other = tmp_path / "other\x1b[2J"
    other.write_text(NET.replace('"fc6" type', '"f\\nc\\033[2J" type', 1))
    assert main(["record", str(other), "--out", f"{tmp_path}/a\nb.npz"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(r"layer     f\nc\x1b[2J: M = 6, N = 5, K = 8, float32")
    assert lines[-1] == rf"written   {tmp_path}/a\nb.npz"
    assert len(lines) == 6


def test_mistakes_leave_no_file(net, out, tmp_path, capsys):
    np.savez(tmp_path / "bad.npz", x=np.zeros((2, 8)), label=np.zeros(2))
    for arguments, message in [
        (["--features", str(tmp_path / "bad.npz")], "row 0 of bottom[0]"),
        (["--layer", "fc7"], "fc7"),
    ]:
        assert main(["record", net, *arguments, "--out", str(out)]) == 2
        assert message in capsys.readouterr().err
    assert main(["record", net, "--out", str(tmp_path / "no" / "fc6.npz")]) == 2
    assert "there is no folder" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.npz", "net.prototxt"]
    with pytest.raises(SystemExit):
        main(["record", net])
    capsys.readouterr()


def test_the_option_of_old_says_what_it_is_called_now(net, out, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["record", net, "--rule", "exact", "--out", str(out)])
    assert "--rule is --gradient now" in capsys.readouterr().err
    assert not out.exists()
