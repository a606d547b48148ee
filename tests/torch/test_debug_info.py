"""Caffe's lines of debug_info, against a net that is worked out by hand."""

import numpy as np
import torch
from google.protobuf import text_format

import caffe_margin.torch as cmt
from caffe_margin import caffe_margin_pb2 as pb

NET = """
layer { name: "in" type: "Input" top: "x" input_param { shape { dim: [2, 2] } } }
layer { name: "want" type: "Input" top: "y" input_param { shape { dim: [2, 1] } } }
layer { name: "fc" type: "InnerProduct" bottom: "x" top: "fc" param { name: "w" }
  inner_product_param { num_output: 1 } }
layer { name: "relu" type: "ReLU" bottom: "fc" top: "fc" }
layer { name: "loss" type: "EuclideanLoss" bottom: "fc" bottom: "y" top: "loss" }
"""
SOLVER = """
base_lr: 0.5 lr_policy: "fixed" max_iter: 4 display: 2
"""
X = torch.tensor([[1.0, -2.0], [3.0, 4.0]])
Y = torch.tensor([[0.0], [1.0]])
# x w + b is 2.75 and -2.25, which ReLU cuts; the loss is (2.75^2 + 1^2) / 4, its diff 2.75 / 2 and
# -1 / 2, of which the first alone goes on down, and meets x = (1, -2).
FORWARD = """
    [Forward] Layer in, top blob x data: 2.5
    [Forward] Layer want, top blob y data: 0.5
    [Forward] Layer fc, top blob fc data: 2.5
    [Forward] Layer fc, param blob w data: 0.75
    [Forward] Layer fc, param blob 1 data: 0.25
    [Forward] Layer relu, top blob fc data: 1.375
    [Forward] Layer loss, top blob loss data: 2.14062
"""
BACKWARD = """
    [Backward] Layer loss, bottom blob fc diff: 0.9375
    [Backward] Layer relu, bottom blob fc diff: 0.6875
    [Backward] Layer fc, param blob 0 diff: 2.0625
    [Backward] Layer fc, param blob 1 diff: 1.375
    [Backward] All net params (data, diff): L1 norm = (1.75, 5.5); L2 norm = (1.14564, 3.36805)
"""


def solver(more="", debug_info=True):
    param = text_format.Parse(SOLVER + more, pb.SolverParameter())
    param.debug_info = debug_info
    text_format.Parse(NET, param.net_param)
    feed = {"x": X, "y": Y}
    made = cmt.Solver(param, feed=lambda i: feed, test_feed=[lambda i: feed])
    made.net.load_weights({"fc": [np.array([[0.5, -1.0]]), np.array([0.25])]})
    made.write = (lines := []).append
    return made, lines


def lines_of(text):
    return text.strip("\n").split("\n")


def test_every_line():
    made, lines = solver()
    made.step()
    assert lines == lines_of(FORWARD) + lines_of(BACKWARD)
    made.step()
    assert len(lines) == 12  # the second iteration is not displayed
    made.step()
    assert len(lines) == 24


def test_diffs_add_up_over_iter_size():
    made, lines = solver("iter_size: 2")
    made.step()
    twice = BACKWARD.replace("0 diff: 2.0625", "0 diff: 4.125").replace("1.375\n", "2.75\n")
    twice = twice.replace("5.5)", "11)").replace("3.36805", "6.7361")
    assert lines[12:] == lines_of(FORWARD) + lines_of(twice)


def test_a_test_net_has_lines_of_forward_alone():
    made, lines = solver("test_iter: 1 test_interval: 1")
    made.test()
    assert lines == lines_of(FORWARD)


def test_a_solver_that_does_not_ask_says_nothing():
    made, lines = solver("test_iter: 1 test_interval: 1", debug_info=False)
    made.step()
    assert not lines
