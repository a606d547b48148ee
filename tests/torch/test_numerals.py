"""The small nets of models/ whose features can be looked at: that they learn the ten numerals."""

import shutil

import numpy as np
import pytest

import caffe_margin.torch as cmt
import make_glyphs
from helpers.places import MODELS

LN_10 = 2.3026


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("numerals")
    shutil.copytree(MODELS, folder / "models")
    arguments = ["--characters", "0123456789", "--images", "40"]
    make_glyphs.main([str(folder / "numerals"), *arguments])
    return folder


@pytest.mark.parametrize("features", [2, 3])
def test_the_net_learns_at_once(folder, monkeypatch, features):
    """Half of what there is to know within 80 iterations, as lambda falls and the loss hardens."""
    monkeypatch.chdir(folder)
    solver = cmt.Solver(f"models/numerals{features}d_solver.prototxt")
    losses = [done.loss for done in solver.run(80)]
    assert losses[0] == pytest.approx(LN_10, abs=0.5)
    assert np.mean(losses[-10:]) < LN_10 / 2
