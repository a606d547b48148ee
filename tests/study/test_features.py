import sys

import numpy as np
import pytest

from caffe_margin.study.features import read_digits


def test_digits():
    datasets = pytest.importorskip("sklearn.datasets")
    found = read_digits()
    x, label = found["x"], found["label"]
    assert x.shape == (1797, 64)
    assert x.dtype == np.float32
    np.testing.assert_array_equal(label, datasets.load_digits().target)
    assert np.linalg.norm(x, axis=1).mean() == pytest.approx(15, rel=1e-5)
    np.testing.assert_allclose(x.mean(axis=0), 0, atol=1e-4)
    # Differences of images are what they were, but for one factor.
    pixels = datasets.load_digits().data
    ratio = np.linalg.norm(x[5] - x[9]) / np.linalg.norm(pixels[5] - pixels[9])
    again = np.linalg.norm(x[1] - x[1796]) / np.linalg.norm(pixels[1] - pixels[1796])
    assert ratio == pytest.approx(again, rel=1e-5)


def test_without_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ValueError, match=r"pip install 'caffe_margin\[report\]'"):
        read_digits()
