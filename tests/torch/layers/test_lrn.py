import numpy as np
import pytest
import torch

from helpers.layer_net import layer_net, run


def lrn(fields, shape, **options):
    return layer_net(f"type: 'LRN' lrn_param {{ {fields} }}", shape, **options)


@pytest.mark.parametrize(("size", "k"), [(1, 1), (3, 2), (5, 0.5), (11, 1)])
def test_across_channels_is_the_loop(size, k):
    net = lrn(f"local_size: {size} alpha: 0.75 beta: 0.5 k: {k}", (1, 7, 2, 3))
    x = np.random.default_rng(3).normal(size=(2, 7, 4, 3))
    (top,), (bottom_diff,), (dy,) = run(net, x)
    scale = np.full(x.shape, float(k))
    half = size // 2
    for c in range(7):
        for near in range(max(c - half, 0), min(c + half + 1, 7)):
            scale[:, c] += 0.75 / size * x[:, near] ** 2
    np.testing.assert_allclose(top, x * scale**-0.5, rtol=1e-12)
    # LRNLayer::CrossChannelBackward_cpu
    ratio = dy * top / scale
    diff = dy * scale**-0.5
    for c in range(7):
        for near in range(max(c - half, 0), min(c + half + 1, 7)):
            diff[:, c] -= 2 * 0.75 * 0.5 / size * x[:, c] * ratio[:, near]
    np.testing.assert_allclose(bottom_diff, diff, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("size", [1, 3, 7])
@pytest.mark.parametrize("channels_last", [False, True])
def test_within_a_channel_is_the_loop(size, channels_last):
    net = lrn(
        f"local_size: {size} alpha: 0.75 beta: 2 k: 9 norm_region: WITHIN_CHANNEL", (1, 2, 4, 4)
    )
    x = np.random.default_rng(3).normal(size=(2, 3, 5, 4))
    given = torch.from_numpy(x)
    if channels_last:
        given = given.contiguous(memory_format=torch.channels_last)
    (top,), _, _ = run(net, given)
    half = size // 2
    for n, c, h, w in np.ndindex(x.shape):
        rows, columns = slice(max(h - half, 0), h + half + 1), slice(max(w - half, 0), w + half + 1)
        mean = (x[n, c, rows, columns] ** 2).sum() / size**2
        assert top[n, c, h, w] == pytest.approx(x[n, c, h, w] / (1 + 0.75 * mean) ** 2, rel=1e-12)


@pytest.mark.parametrize("size", [0, 4])
def test_an_even_size_is_refused(size):
    with pytest.raises(ValueError, match="local_size must be odd"):
        lrn(f"local_size: {size}", (2, 3, 4, 4))


@pytest.mark.parametrize("region", ["ACROSS_CHANNELS", "WITHIN_CHANNEL"])
def test_exports_with_a_free_batch(region):
    net = lrn(f"local_size: 3 norm_region: {region}", (2, 3, 4, 5))
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    dims = {0: torch.export.Dim("batch"), 2: torch.export.Dim("height")}
    program = torch.export.export(net.layer, (x,), dynamic_shapes=(dims,))
    more = torch.randn(5, 3, 7, 5, dtype=torch.float64)
    torch.testing.assert_close(program.module()(more), net(x0=more)["y0"])
