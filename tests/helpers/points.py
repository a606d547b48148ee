"""A net that trains in moments: points round the means of some classes, as HDF5."""

import h5py
import numpy as np
from google.protobuf import text_format

from caffe_margin import caffe_margin_pb2 as pb

CLASSES = 8
NET = """
name: "points"
layer {{ name: "data" type: "HDF5Data" top: "data" top: "label"
  hdf5_data_param {{ source: "train.txt" batch_size: 16 shuffle: true }} }}
layer {{ name: "fc5" type: "InnerProduct" bottom: "data" top: "fc5"
  inner_product_param {{ num_output: {width} weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "fc6" type: "{layer}" bottom: "fc5" bottom: "label" top: "fc6" top: "l"
  {param} {{ num_output: 8 type: {type} weight_filler {{ type: "xavier" }}
    base: 100 gamma: 0.5 power: 1 lambda_min: 5 }} }}
layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "fc6" bottom: "label" top: "loss" }}
"""
SOLVER = """
net: "net.prototxt" base_lr: 0.05 lr_policy: "step" gamma: 0.5 stepsize: 8 momentum: 0.9
weight_decay: 0.0005 max_iter: 12 display: 4 snapshot: 5 snapshot_prefix: "s" random_seed: 5
"""


def net_text(width=10, layer="MarginInnerProduct", margin="QUADRUPLE"):
    """The net's prototxt."""
    large = layer == "LargeMarginInnerProduct"
    param = "largemargin_inner_product_param" if large else "margin_inner_product_param"
    return NET.format(width=width, layer=layer, param=param, type=margin)


def make_net(*args, **options):
    """The net's message."""
    return text_format.Parse(net_text(*args, **options), pb.NetParameter())


def write_points(path, classes, seed, spread=0.3):
    """Write ten points of 12 numbers for each class, in no order."""
    rng = np.random.default_rng(seed)
    label = np.repeat(np.arange(classes), 10)
    points = 2 * rng.standard_normal((classes, 12))[label]
    points += spread * rng.standard_normal(points.shape)
    order = rng.permutation(len(label))
    with h5py.File(path, "w") as file:
        file["data"] = points[order].astype("f4")
        file["label"] = label[order].astype("f4")


def write_all(folder, **options):
    """Write the net, its solver, its points and those of classes never seen."""
    write_points(folder / "a.h5", CLASSES, 0)
    write_points(folder / "unseen.h5", 6, 1, spread=2.0)
    (folder / "train.txt").write_text("a.h5\n")
    (folder / "net.prototxt").write_text(net_text(**options))
    (folder / "solver.prototxt").write_text(SOLVER)
