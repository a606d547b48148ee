"""What Caffe's Backward gets wrong in place: named, and ours held to the closed form."""

import numpy as np
import pytest
import torch

import caffe_margin.torch as cmt
from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.files.npz import read_arrays
from caffe_margin.files.prototxt import parse_text
from caffe_margin.recordings.in_place import wrong_in_caffe
from caffe_margin.recordings.recording import Recording
from caffe_margin.recordings.torch_net import replay_through_torch
from helpers.places import DATA


def load(name):
    path = DATA / "layers" / f"{name}_float64.npz"
    return Recording(read_arrays(path)), path


# h = 1.5 x + 0.2, and then in place: the derivative by h.
DERIVATIVES = {
    "bnll_in_place": lambda h: 1 / (1 + np.exp(-h)),
    "power_cube_no_shift_in_place": lambda h: 3 * float(np.float32(-0.7)) ** 3 * h**2,
    "power_square_in_place": lambda h: 0.5 * h + float(np.float32(0.3)),
    # Power 1: diff_scale is written over the diff that it is then multiplied by.
    "power_scale_shift_in_place": lambda h: np.full_like(h, 0.5),
}


@pytest.mark.parametrize("name", DERIVATIVES)
def test_ours_is_the_closed_form(name):
    recording, path = load(name)
    wrong = ("blob/x/diff", "blob/h/diff")
    assert wrong_in_caffe(recording) == wrong
    checks = [check.blob for check in replay_through_torch(recording, path, None, None)]
    assert sorted(checks) == ["blob/h/data", "blob/x/data"]

    x, top_diff = recording.array("input/x", "f"), recording.array("top_diff/h", "f")
    net = cmt.Net(recording.net(), phase="TRAIN", dtype=torch.float64)
    before = net.param.layer[1].power_param
    blobs = net(keep="all", x=torch.from_numpy(x))
    blobs["h"].backward(torch.from_numpy(top_diff))
    h_diff = top_diff * DERIVATIVES[name](before.scale * x + before.shift)
    np.testing.assert_allclose(blobs["h"].grad, h_diff, rtol=1e-12)
    np.testing.assert_allclose(blobs["x"].grad, before.scale * h_diff, rtol=1e-12)
    assert abs(recording.array("blob/h/diff", "f") - h_diff).max() > 0.1


def test_what_stands_on_it():
    text = """
    force_backward: true
    layer { name: 'x' type: 'Input' top: 'x' input_param { shape { dim: [2, 3] } } }
    layer { name: 'below' type: 'Scale' bottom: 'x' top: 'a' }
    layer { name: 'bnll' type: 'BNLL' bottom: 'a' top: 'a' }
    layer { name: 'above' type: 'PReLU' bottom: 'a' top: 'a' }
    layer { name: 'beside' type: 'Bias' bottom: 'x' top: 'b' }
    layer { name: 'sum' type: 'Eltwise' bottom: 'a' bottom: 'b' top: 'y' }
    """
    net = cmt.Net(parse_text(text, pb.NetParameter()), phase="TRAIN", dtype=torch.float64)
    with torch.no_grad():
        blobs = net(keep="all", x=torch.ones(2, 3, dtype=torch.float64))
    arrays = {f"blob/{name}/diff": np.ones(tuple(blob.shape)) for name, blob in blobs.items()}
    arrays |= {f"param/{name}/0/diff": np.ones(3) for name in ("below", "above", "beside")}
    recording = Recording({"net": np.array(text), "phase": np.array("TRAIN"), **arrays})
    # x was split for its two readers: what `beside` sends down is right.
    expected = {"blob/x/diff", "blob/x_x_0_split_0/diff", "blob/a/diff", "param/below/0/diff"}
    assert set(wrong_in_caffe(recording)) == expected
    # Zero says that nobody asked for it.
    recording.arrays["blob/x/diff"][:] = 0
    assert set(wrong_in_caffe(recording)) == expected - {"blob/x/diff"}


@pytest.mark.parametrize(
    ("layer", "wrong"),
    [
        ("type: 'Clip' clip_param { min: 0 max: 1 }", True),
        ("type: 'ELU' elu_param { alpha: -1 }", True),
        ("type: 'ELU'", False),
        ("type: 'Log'", True),
        ("type: 'MVN'", True),
        ("type: 'MVN' mvn_param { normalize_variance: false }", False),
        ("type: 'Normalize' norm_param { }", True),
        ("type: 'Power' power_param { power: 0 }", False),
        ("type: 'Power' power_param { scale: 0 }", False),
        ("type: 'ReLU' relu_param { negative_slope: 0.1 }", False),
        ("type: 'ReLU' relu_param { negative_slope: -0.1 }", True),
        ("type: 'Exp'", False),
    ],
)
def test_which_layers(layer, wrong):
    data = "layer { name: 'x' type: 'Input' top: 'x' input_param { shape { dim: [2, 3] } } }"
    diff = {"phase": np.array("TRAIN"), "blob/x/diff": np.ones((2, 3))}
    for top in ("x", "y"):
        text = f"{data} layer {{ name: 'a' bottom: 'x' top: '{top}' {layer} }}"
        recording = Recording({"net": np.array(text), **diff})
        assert wrong_in_caffe(recording) == (("blob/x/diff",) if wrong and top == "x" else ())


def test_dropout_needs_its_mask():
    recording, path = load("dropout_train_mask")
    arrays = {key: array for key, array in recording.arrays.items() if key != "mask"}
    with pytest.raises(ValueError, match="1 Dropout in TRAIN, and the recording no mask"):
        list(replay_through_torch(Recording(arrays), path, None, None))
