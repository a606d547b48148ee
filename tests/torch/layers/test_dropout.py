"""What follows from the mask, and how many the mask keeps."""

import numpy as np
import pytest
import torch

from helpers.layer_net import layer_net, run

LAYER = "type: 'Dropout' dropout_param { dropout_ratio: 0.25 }"


def test_keeps_as_many_as_it_should():
    torch.manual_seed(0)
    net = layer_net(LAYER, (1, 4), phase="TRAIN")
    x = np.arange(1, 40001.0).reshape(100, 400)
    (y,), (x_diff,), (y_diff,) = run(net, x)
    kept = y != 0
    np.testing.assert_allclose(y, x * kept / 0.75, rtol=1e-15)
    np.testing.assert_allclose(x_diff, y_diff * kept / 0.75, rtol=1e-15)
    # Five standard deviations of a binomial.
    assert abs(kept.mean() - 0.75) < 5 * (0.75 * 0.25 / x.size) ** 0.5
    assert ((run(net, x)[0][0] != 0) != kept).any()


def test_does_nothing_outside_of_training():
    net = layer_net(LAYER, (1, 4), phase="TEST")
    x = np.ones((3, 4))
    (y,), (x_diff,), (y_diff,) = run(net, x)
    assert (y == x).all()
    assert (x_diff == y_diff).all()
    assert (run(net.train(), np.ones((30, 40)))[0][0] == 0).any()


def test_takes_a_mask_that_is_handed_in():
    net = layer_net(LAYER, (1, 4), phase="TRAIN")
    net.layer.draw = lambda bottom: torch.tensor([1, 0, 0, 1.0], dtype=bottom.dtype)
    assert net(x0=torch.full((2, 4), 3.0))["y0"].tolist() == [[4, 0, 0, 4]] * 2


@pytest.mark.parametrize("ratio", [1, -0.5])
def test_refuses(ratio):
    with pytest.raises(ValueError, match=r"layer 'layer' .*dropout_ratio must be in \[0, 1\)"):
        layer_net(f"type: 'Dropout' dropout_param {{ dropout_ratio: {ratio} }}", (1, 4))
