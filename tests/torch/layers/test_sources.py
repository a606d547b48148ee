"""Parameter and DummyData: what they give, and when anew."""

import copy

import pytest
import torch

from helpers.small_nets import layer, net

DUMMY = (
    "layer { name: 'data' type: 'DummyData' top: 'a' top: 'b' dummy_data_param {"
    " shape { dim: 3 dim: 2 } data_filler { type: 'constant' value: 1.5 }"
    " data_filler { type: 'uniform' min: 2 max: 3 } } }"
)


def test_a_parameter_starts_at_zero_and_learns():
    made = net(
        "layer { name: 'p' type: 'Parameter' top: 'w' parameter_param { shape { dim: 2 } } }"
    )
    assert made.inputs == []
    blobs = made(keep="all")
    assert blobs["w"].tolist() == [0, 0]
    (blobs["w"] * torch.tensor([2.0, 3.0])).sum().backward()
    assert made.p.weight.grad.tolist() == blobs["w"].grad.tolist() == [2, 3]


def test_constants_stay_and_random_numbers_change():
    made = net(DUMMY)
    first, second = made(), made()
    assert first["a"].eq(1.5).all()
    assert first["a"] is second["a"]
    assert first["b"].ge(2).all()
    assert first["b"].lt(3).all()
    assert not torch.equal(first["b"], second["b"])
    assert made.params == {}
    assert not made.state_dict()


def test_the_seed_gives_the_numbers():
    first = net(DUMMY)
    second = net(DUMMY)
    assert torch.equal(first()["b"], second()["b"])
    assert torch.equal(copy.deepcopy(first)()["b"], first()["b"])
    assert not torch.equal(net(DUMMY, seed=1)()["b"], net(DUMMY)()["b"])


def test_given_tops_win():
    made = net(DUMMY)
    given = made(b=torch.zeros(4))
    assert given["b"].shape == (4,)
    assert given["a"].eq(1.5).all()


def test_dtype_and_force_backward():
    text = DUMMY + (
        "force_backward: true layer { name: 'sum' type: 'Eltwise' bottom: 'a' bottom: 'b' top: 'y'"
        " eltwise_param { operation: PROD } }"
    )
    blobs = net(text, dtype=torch.float64)(keep="all")
    assert blobs["b"].dtype == torch.float64
    blobs["y"].sum().backward()
    assert torch.equal(blobs["a"].grad, blobs["b"])


@pytest.mark.parametrize(
    ("param", "expected"),
    [
        ("num: 2 channels: 3 height: 1 width: 1", [(2, 3, 1, 1)] * 2),
        ("num: 2 num: 4 channels: 3 height: 1 width: 5 width: 6", [(2, 3, 1, 5), (4, 3, 1, 6)]),
        ("shape { dim: 2 } shape { }", [(2,), ()]),
    ],
)
def test_shapes(param, expected):
    tops = layer("DummyData", f"dummy_data_param {{ {param} }}", tops=2)()
    assert [tuple(top.shape) for top in tops] == expected
    assert all(top.eq(0).all() for top in tops)


def test_what_caffe_refuses():
    with pytest.raises(ValueError, match="given once or 3 times, not 2 times"):
        layer("DummyData", "dummy_data_param { shape {} data_filler {} data_filler {} }", tops=3)
    with pytest.raises(ValueError, match="unknown filler type 'gausian'"):
        layer("DummyData", "dummy_data_param { shape {} data_filler { type: 'gausian' } }")
    with pytest.raises(ValueError, match="layer 'data': the gaussian filler needs a finite std"):
        net(DUMMY.replace("type: 'uniform'", "type: 'gaussian' std: 0"))
