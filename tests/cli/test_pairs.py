"""caffe-margin pairs: the recorded protocols through a list and a file, and a net in one go."""

import json
import time

import cv2
import numpy as np
import pytest

import caffe_margin as cm
from caffe_margin.cli import main
from caffe_margin.files.npz import read_arrays, write_arrays
from helpers.places import DATA

PROTOCOLS = ["sphereface", "sphereface_pytorch", "insightface"]


@pytest.fixture(scope="module")
def lfw(tmp_path_factory):
    """A list of 6,000 pairs and the features of their images, of the recorded set."""
    folder = tmp_path_factory.mktemp("lfw")
    recorded = read_arrays(DATA / "pairs" / "lfw6000.npz")
    lines, images, rows, mirrored = ["10\t300"], [], [], []
    for i, same in enumerate(recorded["same"]):
        lines.append(f"P{i}\t1\t2" if same else f"P{i}\t1\tQ{i}\t1")
        images += [f"faces/P{i}/P{i}_0001.jpg", f"faces/P{i}/P{i}_0002.jpg"]
        if not same:
            images[-1] = f"faces/Q{i}/Q{i}_0001.jpg"
        rows += [recorded["left"][i], recorded["right"][i]]
        mirrored += [recorded["left_mirror"][i], recorded["right_mirror"][i]]
    (folder / "pairs.txt").write_text("\n".join(lines))
    arrays = {"fc5": np.array(rows), "fc5_mirrored": np.array(mirrored), "images": np.array(images)}
    write_arrays(folder / "f.npz", arrays)
    return folder, recorded


def run(folder, *arguments):
    return main(
        ["pairs", str(folder / "pairs.txt"), "--features", str(folder / "f.npz"), *arguments]
    )


def test_all_protocols(lfw, capsys):
    folder, recorded = lfw
    start = time.process_time()
    assert run(folder, "--protocol", "all", "--json") == 0
    assert time.process_time() - start < 5
    answer = json.loads(capsys.readouterr().out)
    assert (answer["pairs"], answer["same"], answer["mirrored"]) == (6000, 3000, True)
    assert [found["protocol"] for found in answer["protocols"]] == PROTOCOLS
    for found in answer["protocols"]:
        name = found["protocol"]
        assert found["accuracy"] == recorded[f"{name}/accuracy"].tolist()
        np.testing.assert_allclose(
            found["threshold"], recorded[f"{name}/threshold"], rtol=0, atol=1e-12
        )
        assert found["mean_accuracy"] == pytest.approx(
            float(recorded[f"{name}/mean_accuracy"]), abs=1e-15
        )
    for name, curve in (("sphereface", "sphereface_pooled"), ("insightface", "insightface")):
        found = answer["protocols"][PROTOCOLS.index(name)]
        assert found["auc"] == pytest.approx(float(recorded[f"roc_{curve}/auc"]), abs=1e-12)
        assert found["eer"] == pytest.approx(float(recorded[f"roc_{curve}/eer"]), abs=1e-12)
        for far, tar in found["tar_at_far"].items():
            assert tar == pytest.approx(float(recorded[f"roc_{curve}/tar_at_far_{far}"]), abs=1e-15)


def test_the_table_and_the_pictures(lfw, capsys, tmp_path):
    folder, recorded = lfw
    assert run(folder, "--protocol", "all", "--report", str(tmp_path / "r")) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "pairs     6000, 3000 of the same person; 12000 images"
    assert lines[1] == "features  fc5, 16 numbers an image, and of each mirrored"
    for name in PROTOCOLS:
        row = next(line.split() for line in lines if line.startswith(f"{name} "))
        assert row[1] == f"{100 * recorded[f'{name}/mean_accuracy']:.3f}"
    assert sorted(path.name for path in (tmp_path / "r").iterdir()) == [
        *("report.json", "roc.png", "scores.png")
    ]
    index = json.loads((tmp_path / "r" / "report.json").read_text())
    assert index["protocols"][0]["accuracy"] == recorded["sphereface/accuracy"].tolist()
    for name in ("roc.png", "scores.png"):
        picture = cv2.imread(str(tmp_path / "r" / name))
        assert picture.shape[1] == 1440
        assert picture.std() > 20
    # A second report takes the place of the first.
    assert run(folder, "--report", str(tmp_path / "r")) == 0


# In one go

NET = """
layer { name: "in" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 4 dim: 6 } } }
layer { name: "fc5" type: "InnerProduct" bottom: "data" top: "fc5"
        inner_product_param { num_output: 5 bias_term: false } }
"""
NET_OPTIONS = ["--net", "net.prototxt", "--weights", "w.caffemodel", "--root", "faces"]
SCALE = ["--mean", "127.5", "--scale", "0.0078125"]


@pytest.fixture
def faces(tmp_path, monkeypatch):
    """Three people, three images of each, forty pairs in four folds; in the working directory."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    (tmp_path / "net.prototxt").write_text(NET)
    weight = rng.standard_normal((5, 72)).astype(np.float32)
    cm.write_weights({"fc5": [weight]}, "w.caffemodel")
    pixels = {}
    for name in "ABC":
        (tmp_path / "faces" / name).mkdir(parents=True)
        face = rng.integers(0, 256, (4, 6, 3))
        for i in (1, 2, 3):
            noisy = np.clip(face + rng.integers(-60, 61, face.shape), 0, 255).astype(np.uint8)
            pixels[name, i] = noisy
            cv2.imwrite(f"faces/{name}/{name}_000{i}.jpg", noisy, [cv2.IMWRITE_JPEG_QUALITY, 100])
    lines = []
    for i in range(20):
        a, b = "ABC"[i % 3], "ABC"[(i + 1) % 3]
        lines += [f"{a}\t1\t{2 + i % 2}", f"{a}\t{1 + i % 3}\t{b}\t{1 + i % 2}"]
    (tmp_path / "pairs.txt").write_text("\n".join(lines))
    return tmp_path


def test_from_a_net_in_one_go(faces, capsys):
    """The same as by way of a file."""
    arguments = ["--protocol", "all", "--folds", "4", "--json"]
    assert main(["pairs", "pairs.txt", *NET_OPTIONS, *SCALE, "--mirror", *arguments]) == 0
    at_once = json.loads(capsys.readouterr().out)
    assert (at_once["images"], at_once["features"], at_once["mirrored"]) == (9, 5, True)
    files = ["run", "net.prototxt", "--weights", "w.caffemodel", "--images", "faces", *SCALE]
    assert main([*files, "--mirror", "-o", "f.npz"]) == 0
    capsys.readouterr()
    assert main(["pairs", "pairs.txt", "--features", "f.npz", *arguments]) == 0
    assert json.loads(capsys.readouterr().out) == at_once


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([*NET_OPTIONS, *SCALE], "there is one fold; a threshold is found on the others"),
        ([*NET_OPTIONS, *SCALE, "--protocol", "all"], "on the others: give --folds N, 2 or more"),
        ([*NET_OPTIONS, *SCALE, "--folds", "1"], "on the others: give --folds N, 2 or more"),
        ([*NET_OPTIONS, *SCALE, "--folds", "40"], "all 1 pairs of fold 1 are of the same person"),
        ([*NET_OPTIONS, *SCALE, "--folds", "41"], "41 folds of 40 pairs"),
        ([*NET_OPTIONS, *SCALE, "--blob", "fc9"], "the net has no blob 'fc9'"),
        ([*NET_OPTIONS], "give --like TRAIN.prototxt, or --mean and --scale"),
        (
            [*NET_OPTIONS[:-1], "elsewhere", *SCALE],
            "elsewhere/A/A_0001.jpg: No such file or directory; 8 more images of the list are bad",
        ),
        (["--features", "none.npz"], "'none.npz': No such file or directory"),
    ],
)
def test_mistakes(faces, capsys, arguments, message):
    assert main(["pairs", "pairs.txt", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert message in line


@pytest.mark.parametrize(
    "arguments",
    [
        ["--weights", "w.caffemodel"],
        ["--root", "faces"],
        ["--like", "net.prototxt"],
        SCALE[:2],
        SCALE[2:],
        ["--size", "4x6"],
        ["--resize"],
        ["--rgb"],
        ["--batch", "32"],
    ],
)
def test_what_is_for_a_net_is_refused_with_features(lfw, capsys, arguments):
    assert run(lfw[0], *arguments) == 2
    assert capsys.readouterr().err == (
        f"caffe-margin: {arguments[0]}: for --net; the features of --features are made\n"
    )


def test_mirror_with_features(lfw, capsys, tmp_path):
    """It asks for the mirrored images' features, and they are in the file or not."""
    assert run(lfw[0], "--mirror") == 0
    (tmp_path / "pairs.txt").write_bytes((lfw[0] / "pairs.txt").read_bytes())
    arrays = read_arrays(lfw[0] / "f.npz")
    del arrays["fc5_mirrored"]
    write_arrays(tmp_path / "f.npz", arrays)
    assert run(tmp_path) == 0
    capsys.readouterr()
    assert run(tmp_path, "--mirror") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "f.npz: no blob 'fc5_mirrored' for --mirror; `caffe-margin run --mirror` w" in line


def test_the_ending_of_an_image_does_not_matter(faces, capsys):
    arguments = ["pairs", "pairs.txt", *NET_OPTIONS, *SCALE, "--folds", "4", "--json"]
    assert main(arguments) == 0
    before = capsys.readouterr().out
    folder = faces / "faces" / "A"
    cv2.imwrite(str(folder / "A_0001.png"), cv2.imread(str(folder / "A_0001.jpg")))
    (folder / "A_0001.jpg").unlink()
    (folder / "A_0001.txt").write_text("no image")
    (folder / "A_0002.jpg").rename(folder / "A_0002.JPG")
    assert main(arguments) == 0
    assert capsys.readouterr().out == before
    (folder / "A_0001.bmp").write_bytes(b"")
    assert main(arguments) == 2
    assert "A_0001.jpg' of the list may be 'A_0001.bmp' or 'A_0001.png'" in capsys.readouterr().err


def test_an_image_that_is_missing_is_named(faces, capsys):
    (faces / "faces" / "B" / "B_0002.jpg").unlink()
    assert main(["pairs", "pairs.txt", *NET_OPTIONS, *SCALE, "--folds", "4"]) == 2
    assert capsys.readouterr().err == (
        "caffe-margin: faces/B/B_0002.jpg: No such file or directory\n"
    )
