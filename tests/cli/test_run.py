"""caffe-margin run: what is written, and what is said of bad images."""

import json
import os
import subprocess
import sys

import cv2
import numpy as np
import pytest

from caffe_margin.cli import main
from caffe_margin.cli.memory import keep_memory
from caffe_margin.files.npz import read_arrays, write_arrays
from caffe_margin.files.weights import write_weights
from helpers.places import DATA

DEPLOY = """
layer { name: "in" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 4 dim: 6 } } }
layer { name: "fc1" type: "InnerProduct" bottom: "data" top: "fc1"
        inner_product_param { num_output: 5 } }
layer { name: "relu" type: "ReLU" bottom: "fc1" top: "relu" }
"""
TRAIN = """
layer { name: "d" type: "ImageData" top: "data" top: "label" include { phase: TRAIN }
        transform_param { mean_value: 10 scale: 0.5 mirror: true }
        image_data_param { source: "list" batch_size: 2 shuffle: true } }
layer { name: "fc1" type: "InnerProduct" bottom: "data" top: "fc1"
        inner_product_param { num_output: 5 } }
layer { name: "loss" type: "EuclideanLoss" bottom: "fc1" bottom: "label" }
"""
RNG = np.random.default_rng(0)
W, B = RNG.normal(size=(5, 72)).astype(np.float32), RNG.normal(size=5).astype(np.float32)
PIXELS = RNG.integers(0, 256, (7, 4, 6, 3), np.uint8)


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A net, its weights, and seven images in a folder; in the working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "deploy.prototxt").write_text(DEPLOY)
    (tmp_path / "train.prototxt").write_text(TRAIN)
    write_weights({"fc1": [W, B], "fc9": [B]}, "w.caffemodel")
    (tmp_path / "faces").mkdir()
    for i, pixels in enumerate(PIXELS):
        cv2.imwrite(f"faces/{i}.png", pixels)
    return tmp_path


NAMES = [f"faces/{i}.png" for i in range(7)]
NET = ["deploy.prototxt", "--weights", "w.caffemodel", "-o", "out.npz"]
FACES = ["--images", "faces"]


def fc1(pixels, mean=10.0, scale=0.5):
    """By numpy, in float64."""
    x = (pixels.transpose(0, 3, 1, 2).astype(np.float64) - mean) * scale
    return x.reshape(len(x), -1) @ W.astype(np.float64).T + B


def run(*arguments):
    status = main(["run", *arguments])
    return status, read_arrays("out.npz") if os.path.exists("out.npz") else {}


def test_images(files, capsys):
    status, out = run(*NET, *FACES, "--mean", "10", "--scale", "0.5", "--batch", "3")
    assert status == 0
    assert list(out) == ["relu", "images"]
    assert out["images"].tolist() == NAMES
    assert out["relu"].dtype == np.float32
    np.testing.assert_allclose(out["relu"], np.maximum(fc1(PIXELS), 0), rtol=1e-4, atol=1e-3)
    captured = capsys.readouterr()
    assert captured.out.splitlines() == [
        *("relu  7x5 float32", "images  7 <U11", "written   out.npz")
    ]
    assert captured.err == ""


def test_blobs_and_dtype(files):
    _, out = run(
        *NET, *FACES, "--mean", "10", "--scale", "0.5", "--dtype", "float64",
        *("--blob", "fc1", "--blob", "relu"),
    )  # fmt: skip
    assert list(out) == ["fc1", "relu", "images"]
    np.testing.assert_allclose(out["fc1"], fc1(PIXELS), rtol=1e-12, atol=1e-9)


def test_like(files):
    """What another net's data layer does, but for its mirror; options go before it."""
    blob = ["--blob", "fc1", "--dtype", "float64", "--like", "train.prototxt"]
    _, out = run(*NET, *FACES, *blob)
    np.testing.assert_allclose(out["fc1"], fc1(PIXELS), rtol=1e-12, atol=1e-9)
    _, out = run(*NET, *FACES, *blob, "--mean", "1,2,3")
    np.testing.assert_allclose(out["fc1"], fc1(PIXELS, [[[1]], [[2]], [[3]]]), atol=1e-9)


def test_the_net_that_was_trained(files):
    """Its own data layer says what to do, and its label and loss are not asked for."""
    arguments = ["train.prototxt", *NET[1:], *FACES, "--phase", "TRAIN", "--dtype", "float64"]
    _, out = run(*arguments, "--blob", "fc1")
    np.testing.assert_allclose(out["fc1"], fc1(PIXELS), rtol=1e-12, atol=1e-9)
    assert main(["run", *arguments]) == 2


def test_mirror_and_rgb(files):
    options = ["--like", "train.prototxt", "--blob", "fc1", "--dtype", "float64"]
    _, out = run(*NET, *FACES, *options, "--mirror")
    assert list(out) == ["fc1", "fc1_mirrored", "images"]
    np.testing.assert_allclose(out["fc1"], fc1(PIXELS), atol=1e-9)
    np.testing.assert_allclose(out["fc1_mirrored"], fc1(PIXELS[:, :, ::-1]), atol=1e-9)
    _, out = run(*NET, *FACES, *options, "--rgb")
    np.testing.assert_allclose(out["fc1"], fc1(PIXELS[..., ::-1]), atol=1e-9)


@pytest.mark.parametrize("as_json", [False, True])
def test_bad_images_are_named_and_the_rest_goes_on(files, capsys, as_json):
    (files / "faces/1.png").write_bytes(b"broken")
    cv2.imwrite("faces/3.png", np.zeros((8, 12, 3), np.uint8))
    (files / "list.txt").write_text("".join(f"faces/{i}.png {i}\n" for i in range(9)))
    arguments = [*NET, "--images", "list.txt", "--like", "train.prototxt", "--blob", "fc1"]
    status, out = run(*arguments, "--batch", "2", *["--json"] * as_json)
    assert status == 1
    good = [0, 2, 4, 5, 6]
    assert out["images"].tolist() == [NAMES[i] for i in good]
    np.testing.assert_allclose(out["fc1"], fc1(PIXELS[good]), rtol=1e-4, atol=1e-3)
    captured = capsys.readouterr()
    reasons = {
        "faces/1.png": "no image that OpenCV reads, or broken",
        "faces/3.png": "the image is 8 x 12, and the net's are 4 x 6; resize would bring it to "
        "that",
        "faces/7.png": "No such file or directory",
        "faces/8.png": "No such file or directory",
    }
    assert captured.err.splitlines() == [f"caffe-margin: {k}: {v}" for k, v in reasons.items()]
    if as_json:
        said = json.loads(captured.out)
        assert said["errors"] == [{"path": k, "error": v} for k, v in reasons.items()]
        assert said["arrays"] == {"fc1": [5, 5], "images": [5]}
        assert said["out"] == "out.npz"


def test_resize(files):
    large = np.repeat(np.repeat(PIXELS[:1], 2, axis=1), 2, axis=2)
    cv2.imwrite("large.png", large[0])
    _, out = run(
        *NET, "--images", "large.png", NAMES[0], "--resize", "--like", "train.prototxt",
        *("--blob", "fc1"),
    )  # fmt: skip
    assert out["images"].tolist() == ["large.png", NAMES[0]]
    np.testing.assert_array_equal(out["fc1"][0], out["fc1"][1])
    _, out = run(*NET, "--images", "large.png", "--size", "8x12", "--scale", "1")
    assert main(["run", *NET, "--images", "large.png", "--size", "8x12", "--scale", "1"]) == 2


def test_no_image_at_all(files, capsys):
    (files / "none.png").touch()
    status, out = run(*NET, "--images", "none.png", "--scale", "1")
    assert (status, out) == (1, {})
    assert "there is no image to run the net on; nothing is written" in capsys.readouterr().err


def test_the_authors_features(files, capsys):
    """From images to fc5 and its mirror image's, against the authors' Caffe in double."""
    folder = DATA / "extraction"
    recorded = read_arrays(folder / "extraction.npz")
    for i, image in enumerate(recorded["image"]):
        cv2.imwrite(f"{i}.png", image[..., ::-1])
    status, out = run(
        *(str(folder / "sphereface20_small.prototxt"), "-o", "out.npz", "--mirror"),
        *("--weights", str(folder / "sphereface20_small.caffemodel"), "--dtype", "float64"),
        *("--mean", "127.5", "--scale", "0.0078125", "--images"),
        *(f"{i}.png" for i in range(len(recorded["image"]))),
    )
    assert status == 0, capsys.readouterr().err
    for name in ("fc5", "fc5_mirrored"):
        largest = np.abs(recorded[f"{name}_float64"]).max()
        off = np.abs(out[name] - recorded[f"{name}_float64"]).max() / largest
        assert off < 1e-10
    feature = np.hstack([out["fc5"], out["fc5_mirrored"]])
    np.testing.assert_allclose(feature, recorded["feature"], rtol=0, atol=2e-6 * largest)


def test_inputs(files):
    x = np.random.default_rng(1).normal(size=(5, 3, 4, 6))
    write_arrays("x.npz", {"data": x, "other": np.zeros(3)})
    arguments = [*NET, "--inputs", "x.npz", "--blob", "fc1", "--dtype", "float64", "--batch", "2"]
    status, out = run(*arguments)
    assert (status, list(out)) == (0, ["fc1"])
    expected = x.reshape(5, -1) @ W.astype(np.float64).T + B
    np.testing.assert_allclose(out["fc1"], expected, rtol=1e-12)


REFUSED = {
    "no weights": (
        ["deploy.prototxt", "-o", "o.npz", *FACES, "--scale", "1"],
        "no weights for layer",
    ),
    "nothing said": ([*NET, *FACES], "nothing says what the images are to go through: give --like"),
    "no transform": ([*NET, *FACES, "--like", "deploy.prototxt"], "no data layer of it has a"),
    "no output": (
        ["train.prototxt", *NET[1:], *FACES, "--phase", "TRAIN"],
        "no top of the net is an output; name a blob",
    ),
    "two inputs": (
        ["train.prototxt", *NET[1:], *FACES, *("--phase=TRAIN", "--blob=fc1", "--blob=label")],
        "the net takes 'data' and 'label', and images are one input",
    ),
    "blob": ([*NET, *FACES, "--scale", "1", "--blob", "fc2"], "the net has no blob 'fc2'; did you"),
    "means": ([*NET, *FACES, "--mean", "1,2"], "2 means for images of 3 channels"),
    "mean file": ([*NET, *FACES, "--mean", "mean.binaryproto"], "No such file or directory"),
    "device": ([*NET, *FACES, "--scale", "1", "--device", "tpu"], "device 'tpu'"),
    "arrays": ([*NET, "--inputs", "w.npz"], "w.npz: it lacks data, which the net takes; it has x"),
    "weights": (
        ["deploy.prototxt", *FACES, "-o", "o.npz", "--scale", "1", "--weights", "deploy.prototxt"],
        "no layer has weights",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(files, case, capsys):
    arguments, message = REFUSED[case]
    write_arrays("w.npz", {"x": np.zeros(3)})
    assert main(["run", *arguments]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert len(captured.err.splitlines()) == 1
    assert not os.path.exists("out.npz")


@pytest.mark.parametrize(
    "arguments",
    [
        [*NET],
        [*NET, *FACES, "--inputs", "x.npz"],
        [*NET, *FACES, "--size", "112"],
        [*NET, *FACES, "--size", "0x3"],
        [*NET, *FACES, "--batch", "0"],
        [*NET, *FACES, "--scale", "1", "--mean", "nan"],
        [*NET, *FACES, "--scale", "1", "--mean", "1,2,-inf"],
        [*NET, *FACES, "--scale", "nan"],
        [*NET, *FACES, "--scale", "1e300"],
        [*NET, *FACES, "--scale", "1e-60"],
        [*NET, *FACES, "--scale", "1", "--mean", "1,2,-1e39"],
        ["deploy.prototxt", *FACES],
    ],
)
def test_usage(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["run", *arguments])
    assert caught.value.code == 2


@pytest.mark.parametrize(
    ("out", "source"),
    [
        ("w.caffemodel", FACES),
        ("deploy.prototxt", FACES),
        ("train.prototxt", [*FACES, "--like", "train.prototxt"]),
        ("faces/3.png", FACES),
        ("list.txt", ["--images", "list.txt", "--root", "faces"]),
        ("faces/3.png", ["--images", "list.txt", "--root", "faces"]),
        ("x.npz", ["--inputs", "x.npz"]),
    ],
)
def test_what_is_read_is_not_replaced(files, capsys, out, source):
    (files / "list.txt").write_text("3.png 0\n")
    write_arrays("x.npz", {"data": np.zeros((2, 3, 4, 6))})
    before = (files / out).read_bytes()
    assert main(["run", *NET[:3], "-o", f"./{out}", *source, "--scale", "1"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (f"caffe-margin: ./{out} would replace {out}, which is read: give another --out")
    assert (files / out).read_bytes() == before


def test_names_make_no_lines(files, capsys):
    name = "faces/\x1b[2J\n.png"
    (files / name).touch()
    assert run(*NET, *FACES, "--scale", "1")[0] == 1
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1
    assert err.strip().isprintable()


@pytest.mark.parametrize("module", ["torch", "cv2"])
def test_without(files, module):
    code = (
        f"import sys\nsys.modules[{module!r}] = None\n"
        "from caffe_margin.cli import main\nsys.exit(main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "run", *NET, *FACES, "--scale", "1"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.endswith("pip install 'caffe_margin[torch]'\n")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's")
def test_memory_is_kept():
    """What was freed is there again without a page being cleared."""
    code = """
import resource, sys
import numpy as np
from caffe_margin.cli.memory import keep_memory
if len(sys.argv) > 1: assert keep_memory()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10): np.ones(10_000_000, np.float32)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults())
"""
    kept, left = (
        int(
            subprocess.run(
                [sys.executable, "-c", code, *more], capture_output=True, check=True
            ).stdout
        )
        for more in (["keep"], [])
    )
    assert kept < left / 10
    assert keep_memory() in (True, False)


def test_an_image_that_is_listed_twice_has_two_rows(files):
    (files / "list.txt").write_text("faces/1.png 0\nfaces/1.png 0\nfaces/2.png 0\n")
    run = ["run", *NET, "--images", "list.txt", "--mean", "10", "--scale", "0.5", "--blob", "fc1"]
    assert main(run) == 0
    out = read_arrays("out.npz")
    assert out["images"].tolist() == ["faces/1.png", "faces/1.png", "faces/2.png"]
    np.testing.assert_allclose(out["fc1"], fc1(PIXELS[[1, 1, 2]]), rtol=0, atol=1e-3)


def test_arrays_of_whole_numbers_go_in_and_images_options_do_not(files, capsys):
    write_arrays("x.npz", {"data": PIXELS.transpose(0, 3, 1, 2).copy()})
    run = ["run", *NET, "--inputs", "x.npz", "--blob", "fc1"]
    assert main(run) == 0
    expected = fc1(PIXELS, 0, 1)
    np.testing.assert_allclose(read_arrays("out.npz")["fc1"], expected, rtol=1e-4, atol=1e-2)
    assert main([*run, "--mirror"]) == 2
    assert "--mirror is for --images; arrays go in as they are" in capsys.readouterr().err
