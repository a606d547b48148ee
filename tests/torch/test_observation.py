"""What is seen of a Forward, against plain numpy in float64."""

import hashlib

import numpy as np
import pytest
import torch

import caffe_margin.torch as cmt
from caffe_margin.maths.gradient import GradientRule
from caffe_margin.torch.observation import Observer, observe
from helpers.points import make_net, write_all

M, N, K = 9, 8, 10


@pytest.fixture
def batch():
    rng = np.random.default_rng(3)
    return 3 * rng.standard_normal((M, 12)), rng.integers(N, size=M)


def net_of(layer="MarginInnerProduct", margin="QUADRUPLE"):
    shapes = {"data": (M, 12), "label": (M,)}
    return cmt.Net(
        make_net(K, layer, margin), phase="TRAIN", seed=0, shapes=shapes, dtype=torch.float64
    )


@pytest.mark.parametrize("gradient", ["paper", "exact"])
@pytest.mark.parametrize("margin", ["SINGLE", "QUADRUPLE"])
@pytest.mark.parametrize("layer", ["MarginInnerProduct", "LargeMarginInnerProduct"])
def test_is_what_numpy_sees(batch, layer, margin, gradient):
    data, label = batch
    net = net_of(layer, margin)
    observer = Observer(net)
    observer.head.gradient = GradientRule.of(gradient)
    weight = net.params["fc6"][0].detach().numpy().copy()
    x = data @ net.params["fc5"][0].detach().numpy().T + net.params["fc5"][1].detach().numpy()
    net(data=torch.tensor(data), label=torch.tensor(label))

    lengths = np.linalg.norm(weight, axis=1)
    x_norm = np.linalg.norm(x, axis=1)
    cos = x @ weight.T / lengths / x_norm[:, None]
    scores = x @ weight.T if layer.startswith("Large") else cos * x_norm[:, None]
    some = np.arange(M)
    others = cos.copy()
    others[some, label] = -2
    seen, _ = observer.take()
    assert seen.accuracy == np.mean(scores.argmax(axis=1) == label)
    assert seen.length == pytest.approx(x_norm.mean(), rel=1e-12)
    assert seen.own_angle == pytest.approx(np.arccos(cos[some, label]).mean(), rel=1e-12)
    assert seen.other_angle == pytest.approx(np.arccos(others.max(axis=1)).mean(), rel=1e-12)
    assert seen.clamped == 0


def test_counts_who_is_at_the_clamp():
    """The loss of the first is 100, of the second 80, of the third 88."""
    scores = torch.tensor([[0.0, 100.0], [0.0, 80.0], [0.0, 88.0]])
    label, x = torch.zeros(3, dtype=torch.int64), torch.ones(3, 2)
    assert observe(x, label, torch.eye(2), scores).clamped == pytest.approx(2 / 3)


def test_digests_what_is_fed_and_what_there_is(batch):
    data, label = batch
    net, again = net_of(), net_of()
    observer, other = Observer(net), Observer(again)
    assert observer.parameters_digest() == other.parameters_digest()
    net(data=torch.tensor(data), label=torch.tensor(label, dtype=torch.float64))
    expected = hashlib.sha256(data.tobytes() + label.astype(float).tobytes()).hexdigest()
    assert observer.take()[1] == expected
    with torch.no_grad():
        again.params["fc5"][1][0] += 1
    assert observer.parameters_digest() != other.parameters_digest()


def test_takes_the_mean_of_what_it_saw_since(batch):
    data, label = batch
    net = net_of()
    observer, lengths = Observer(net), []
    for scale in (1, 2, 3):
        fed = {"data": torch.tensor(scale * data), "label": torch.tensor(label)}
        x = net(keep=["fc5"], **fed)["fc5"].detach().numpy()
        lengths.append(np.linalg.norm(x, axis=1).mean())
        if scale == 1:
            assert observer.take()[0].length == pytest.approx(lengths[0])
    assert observer.take()[0].length == pytest.approx(np.mean(lengths[1:]))


def test_features_are_those_of_the_next_batches(tmp_path, monkeypatch):
    write_all(tmp_path)
    monkeypatch.chdir(tmp_path)
    net, other = (cmt.Net("net.prototxt", phase="TRAIN", seed=0) for _ in range(2))
    x, label = Observer(net).features(20)
    batches = [other.next_batches() for _ in range(2)]
    fc5 = [other(keep=["fc5"], **batch)["fc5"].detach().numpy() for batch in batches]
    np.testing.assert_array_equal(x, np.concatenate(fc5))
    np.testing.assert_array_equal(label, torch.cat([batch["label"] for batch in batches]))


def test_a_net_without_a_margin_is_refused():
    with pytest.raises(ValueError, match="no layer with a margin"):
        Observer(cmt.Net("models/sphereface4_deploy.prototxt"))
