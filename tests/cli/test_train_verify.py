"""train --verify on images: features by hand from the weights of the snapshot, pairs one by one."""

import itertools
import json
from pathlib import Path

import cv2
import lmdb
import numpy as np
import pytest
from scipy.interpolate import interp1d
from scipy.optimize import brentq
from sklearn.metrics import roc_auc_score, roc_curve

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.cli import main

SOURCES = {
    "LMDB": 'type: "Data" data_param { source: "train" batch_size: 8 backend: LMDB }',
    "list": """type: "ImageData"
      image_data_param { source: "train.txt" batch_size: 8 shuffle: true }""",
}
NET = """
layer {{ name: "data" top: "data" top: "label" {source}
  transform_param {{ mean_value: 100 scale: 0.01 mirror: true }} }}
layer {{ name: "fc5" type: "InnerProduct" bottom: "data" top: "fc5"
  inner_product_param {{ num_output: 6 weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "fc6" type: "MarginInnerProduct" bottom: "fc5" bottom: "label" top: "fc6" top: "l"
  margin_inner_product_param {{ num_output: 4 type: TRIPLE weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "fc6" bottom: "label" top: "loss" }}
"""
SOLVER = """
net: "net.prototxt" base_lr: 0.01 lr_policy: "fixed" momentum: 0.9 max_iter: 3
snapshot_prefix: "s" random_seed: 5
"""


def images(classes, seed):
    """Pixels of images round the classes' own, (N, height, width, 3), and their labels."""
    rng = np.random.default_rng(seed)
    label = rng.permutation(np.repeat(np.arange(classes), 5))
    centres = rng.integers(60, 190, (classes, 4, 3, 3))
    return (centres[label] + rng.integers(-55, 55, (len(label), 4, 3, 3))).astype(np.uint8), label


def write_lmdb(path, pixels, label):
    with lmdb.open(str(path)) as env, env.begin(write=True) as transaction:
        for i, image in enumerate(pixels):
            data = image.transpose(2, 0, 1).tobytes()
            datum = pb.Datum(channels=3, height=4, width=3, data=data, label=label[i])
            transaction.put(b"%08d" % i, datum.SerializeToString())


def write_list(path, pixels, label):
    lines = []
    for i, image in enumerate(pixels):
        name = f"{path.stem}_{i}.png"
        cv2.imwrite(str(path.with_name(name)), image)
        lines.append(f"{name} {label[i]}\n")
    path.write_text("".join(lines))


def expected(pixels, label):
    """Equal error rate, area and true accepts of the features that the last snapshot gives."""
    net = pb.NetParameter.FromString(Path("s_iter_3.caffemodel").read_bytes())
    weight, bias = (
        np.array(x.data) for layer in net.layer if layer.name == "fc5" for x in layer.blobs
    )
    x = (pixels.transpose(0, 3, 1, 2).reshape(len(pixels), -1) - 100.0) * 0.01
    features = x @ weight.reshape(6, -1).T + bias
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    pairs = list(itertools.combinations(range(len(label)), 2))
    scores = [features[i] @ features[j] for i, j in pairs]
    same = [label[i] == label[j] for i, j in pairs]
    fpr, tpr, _ = roc_curve(same, scores, drop_intermediate=False)
    eer = brentq(lambda rate: 1 - rate - interp1d(fpr, tpr)(rate), 0, 1)
    tar = {far: max(tpr[fpr <= float(far)]) for far in ("0.01", "0.001")}
    return {"eer": eer, "auc": roc_auc_score(same, scores), "tar_at_far": tar}


@pytest.mark.parametrize(
    ("trained", "verified"), [("LMDB", "LMDB"), ("list", "list"), ("list", "LMDB")]
)
def test_images(tmp_path, monkeypatch, trained, verified):
    """30 images, of which the fourth batch of eight has but six; none is mirrored."""
    monkeypatch.chdir(tmp_path)
    write = {"LMDB": write_lmdb, "list": write_list}
    names = {"LMDB": "", "list": ".txt"}
    write[trained](Path(f"train{names[trained]}"), *images(4, 0))
    unseen = images(6, 1)
    write[verified](Path(f"unseen{names[verified]}"), *unseen)
    Path("net.prototxt").write_text(NET.format(source=SOURCES[trained]))
    Path("solver.prototxt").write_text(SOLVER)
    source = f"unseen{names[verified]}"
    assert main(["train", "solver.prototxt", "--log", "l.jsonl", "--verify", source]) == 0
    found = json.loads(Path("l.jsonl").read_text().splitlines()[-1])["verification"]
    wanted = expected(*unseen)
    assert 0.05 < wanted["eer"] < 0.5  # neither is told apart at once, nor not at all
    assert found.pop("tar_at_far") == pytest.approx(wanted.pop("tar_at_far"), rel=1e-12)
    assert found == pytest.approx(wanted, rel=1e-9)
