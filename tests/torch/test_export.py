"""An exported net needs PyTorch alone."""

import subprocess
import sys

import pytest
import torch

import caffe_margin.torch as cmt
from helpers.places import MODELS

ELSEWHERE = """
import sys
sys.modules["caffe_margin"] = None  # not to be had
import torch
x, expected = torch.load(sys.argv[2])
(found,) = torch.export.load(sys.argv[1]).module()(data=x).values()
torch.testing.assert_close(found, expected, rtol=0, atol=0)
"""


# So PyTorch says of a weight with the channels last, and saves it well.
@pytest.mark.filterwarnings("ignore:No complete tensor found in the group")
def test_a_net_to_deploy_loads_without_this_package(tmp_path):
    net = cmt.Net(MODELS / "glyphs_deploy.prototxt", seed=0)
    x = torch.randn(2, 1, 32, 32)
    with torch.no_grad():
        expected = net(data=x)["fc5"]
        program = torch.export.export(net, (), {"data": x})
    torch.export.save(program, tmp_path / "net.pt2")
    torch.save((x, expected), tmp_path / "io.pt")
    command = [sys.executable, "-c", ELSEWHERE, tmp_path / "net.pt2", tmp_path / "io.pt"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
