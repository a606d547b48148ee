"""Every command and every line of Python of docs/deploy.md runs, one after the other."""

import re
import shlex

import cv2
import numpy as np
import pytest

import caffe_margin as cm
from caffe_margin.cli import main
from caffe_margin.files.npz import read_arrays
from caffe_margin.recordings.recording import Recording
from helpers.places import DATA, MODELS, ROOT

PAGE = (ROOT / "docs" / "deploy.md").read_text()
COMMAND = re.compile(r"^    caffe-margin (.*)$", re.MULTILINE)
PYTHON = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PEOPLE, IMAGES = "ABCD", 3


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """What the page begins with, the net being one of few channels."""
    monkeypatch.chdir(tmp_path)
    small = DATA / "extraction" / "sphereface20_small"
    deploy = cm.read_net(small.with_suffix(".prototxt"))
    cm.write_net(deploy, "sphereface_deploy.prototxt")
    theirs = cm.read_net(MODELS / "sphereface_model.prototxt")
    train = type(theirs)(name=theirs.name)
    train.layer.append(theirs.layer[0])
    train.layer.extend(deploy.layer[1:])
    train.layer.extend(theirs.layer[-2:])
    train.layer[-2].margin_inner_product_param.num_output = 7
    cm.write_net(train, "sphereface_model.prototxt")
    rng = np.random.default_rng(0)
    weights = cm.read_weights(small.with_suffix(".caffemodel"))
    features = deploy.layer[-1].inner_product_param.num_output
    weights["fc6"] = [rng.standard_normal((7, features)).astype(np.float32)]
    cm.write_weights(weights, "sphereface_model.caffemodel")
    for name in PEOPLE:
        (tmp_path / "faces" / name).mkdir(parents=True)
        face = cv2.resize(rng.integers(0, 256, (7, 6, 3), np.uint8), (96, 112))
        for i in range(1, IMAGES + 1):
            noise = rng.integers(-40, 41, face.shape)
            noisy = np.clip(face + noise, 0, 255).astype(np.uint8)
            cv2.imwrite(f"faces/{name}/{name}_{i:04d}.jpg", noisy)
    lines = ["2\t300"]
    for i in range(600):
        a, b = PEOPLE[i % 4], PEOPLE[(i + 1 + i % 3) % 4]
        lines += [
            f"{a}\t{1 + i % 3}\t{1 + (i + 1) % 3}",
            f"{a}\t{1 + i % 3}\t{b}\t{1 + i // 3 % 3}",
        ]
    (tmp_path / "pairs.txt").write_text("\n".join(lines))
    return tmp_path


def test_the_page(folder, capsys):
    told = {}
    for command in COMMAND.findall(PAGE):
        arguments = shlex.split(command)
        assert main(arguments) == 0, command
        told[command] = capsys.readouterr().out
    assert len(told) == PAGE.count("caffe-margin ") - PAGE.count("`caffe-margin ")
    for name in (
        *("fc5.npz", "deploy.prototxt", "deploy.caffemodel", "classify.prototxt"),
        *("sphereface.onnx", "bytes.onnx", "accuracy/roc.png", "accuracy/scores.png"),
    ):
        assert (folder / name).exists()
    assert cm.read_net("deploy.prototxt") == cm.read_net("sphereface_deploy.prototxt")
    # By way of a file and in one go the accuracy is the same.
    rows = [
        next(line for line in told[command].splitlines() if line.startswith("sphereface "))
        for command in told
        if command.startswith("pairs")
    ]
    assert len(rows) == 2
    assert rows[0].split() == rows[1].split()
    assert float(rows[0].split()[1]) > 90

    names: dict = {}
    for block in PYTHON.findall(PAGE):
        exec(block, names)
    features = read_arrays("fc5.npz")
    (row,) = np.flatnonzero(features["images"] == "faces/A/A_0001.jpg")
    expected = features["fc5"][row : row + 1]
    for name in ("feature", "same", "of_bytes"):
        largest = np.abs(expected).max()
        assert np.abs(names[name] - expected).max() <= 1e-5 * largest, name


def glyphs():
    """The small net that this project trains, as it is drawn."""
    import caffe_margin.torch as cmt

    shape = (1, 1, 32, 32)
    net = cmt.Net(MODELS / "glyphs_model.prototxt", phase="TRAIN", shapes={"data": shape}, seed=0)
    net.save_weights("net.caffemodel")
    return MODELS / "glyphs_model.prototxt", "net.caffemodel", shape, "fc5"


def mtcnn():
    """A net that other people trained."""
    real = DATA / "real" / "mtcnn_det2.npz"
    cm.write_net(Recording(read_arrays(real)).net(), "mtcnn.prototxt")
    return "mtcnn.prototxt", real.with_suffix(".caffemodel"), (1, 3, 24, 24), "conv5-2"


@pytest.mark.filterwarnings("ignore::caffe_margin.files.text_format.UnknownFieldWarning")
@pytest.mark.parametrize("made", [glyphs, mtcnn], ids=["glyphs", "mtcnn"])
def test_the_pages_way_with_other_nets(made, tmp_path, monkeypatch):
    """To features, to the net alone, to ONNX; onnxruntime makes the same features of the images."""
    onnxruntime = pytest.importorskip("onnxruntime")
    monkeypatch.chdir(tmp_path)
    net, weights, shape, blob = made()
    (tmp_path / "images").mkdir()
    size = (*shape[2:], 3) if shape[1] == 3 else shape[2:]
    for i in range(3):
        pixels = np.random.default_rng(i).integers(0, 256, size, np.uint8)
        cv2.imwrite(f"images/{i}.png", pixels)
    of, dims = f"{net} --weights {weights}", ",".join(map(str, shape))
    for command in (
        f"export {of} --shape data={dims} -o deploy.prototxt",
        f"export {of} --shape data={dims} -o net.onnx",
        f"run deploy.prototxt --weights {weights} --images images --mean 127.5 "
        f"--scale 0.0078125 --blob {blob} --out f.npz",
        "run deploy.prototxt --weights deploy.caffemodel --images images --mean 127.5 "
        f"--scale 0.0078125 --blob {blob} --out again.npz",
    ):
        assert main(shlex.split(command)) == 0, command
    features = read_arrays("f.npz")[blob]
    np.testing.assert_array_equal(read_arrays("again.npz")[blob], features)
    flag = cv2.IMREAD_COLOR if shape[1] == 3 else cv2.IMREAD_GRAYSCALE
    images = [cv2.imread(f"images/{i}.png", flag).reshape(*shape[2:], shape[1]) for i in range(3)]
    x = (np.stack(images).transpose(0, 3, 1, 2).astype(np.float32) - 127.5) * np.float32(0.0078125)
    session = onnxruntime.InferenceSession("net.onnx")
    (found,) = session.run([blob], {"data": x})
    np.testing.assert_allclose(found, features, rtol=0, atol=1e-5 * np.abs(features).max())
