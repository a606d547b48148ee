import math

import numpy as np
import pytest
import torch

from helpers import caffe_pool
from helpers.layer_net import layer_net, run


def levels_of(height, width, bottom):
    """SPPLayer::GetPoolingParam for each level."""
    for level in range(height):
        bins = 2**level
        kernel = [math.ceil(side / bins) for side in bottom.shape[2:]]
        over = [k * bins - side for k, side in zip(kernel, bottom.shape[2:], strict=True)]
        yield kernel, kernel, [(o + 1) // 2 for o in over]


def spp(fields, shape, **options):
    return layer_net(f"type: 'SPP' spp_param {{ {fields} }}", shape, **options)


@pytest.mark.parametrize("sides", [(9, 10), (8, 8), (13, 7), (9, 17)])
@pytest.mark.parametrize("method", ["MAX", "AVE"])
def test_is_pooling_level_by_level(method, sides):
    # Made for another size than it gets.
    net = spp(f"pyramid_height: 3 pool: {method}", (1, 3, 8, 12))
    bottom = np.random.default_rng(3).normal(size=(2, 3, *sides))
    (top,), (bottom_diff,), (top_diff,) = run(net, bottom)
    tops, diff, start = [], 0, 0
    for level in levels_of(3, sides, bottom):
        shape = (2, 3, *caffe_pool.sides(bottom.shape, *level))
        count = math.prod(shape[1:])
        dy = top_diff[:, start : start + count].reshape(shape)
        part, _, dx = caffe_pool.pool(method, bottom, dy, *level)
        tops.append(part.reshape(2, -1))
        diff, start = diff + dx, start + count
    np.testing.assert_allclose(top, np.concatenate(tops, 1), rtol=1e-12)
    np.testing.assert_allclose(bottom_diff, diff, rtol=1e-12, atol=1e-13)


def test_one_level_stays_a_map():
    x = torch.randn(2, 3, 5, 6, dtype=torch.float64)
    top = spp("pyramid_height: 1 pool: AVE", (2, 3, 5, 6))(x0=x)["y0"]
    torch.testing.assert_close(top, x.mean((2, 3), keepdim=True))


def test_stochastic_where_nothing_is_padded():
    bottom = np.abs(np.random.default_rng(3).normal(size=(2, 3, 4, 4)))
    fields = "pyramid_height: 2 pool: STOCHASTIC"
    top = spp(fields, (2, 3, 4, 4))(x0=torch.from_numpy(bottom))["y0"].detach().numpy()
    whole = (bottom**2).sum((2, 3)) / bottom.sum((2, 3))
    np.testing.assert_allclose(top[:, :3], whole, rtol=1e-13)
    with pytest.raises(ValueError, match="stochastic pooling takes no pad"):
        spp(fields, (2, 3, 5, 5))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ("pyramid_height: 0", "pyramid_height must be positive"),
        ("pyramid_height: 4", "must be smaller than the kernel"),
    ],
)
def test_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        spp(fields, (2, 3, 4, 4))


def test_an_image_too_small_for_the_pyramid_is_refused():
    net = spp("pyramid_height: 3", (2, 3, 8, 8))
    with pytest.raises(ValueError, match="must be smaller than the kernel"):
        net(x0=torch.zeros(2, 3, 3, 8, dtype=torch.float64))
