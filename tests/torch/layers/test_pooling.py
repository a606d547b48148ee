import numpy as np
import pytest
import torch

from helpers import caffe_pool
from helpers.layer_net import layer_net, run

GEOMETRIES = [
    # (height, width), kernel, stride, pad
    ((6, 7), (3, 3), (2, 2), (0, 0)),
    ((6, 7), (2, 2), (2, 2), (1, 1)),
    ((7, 5), (3, 2), (1, 2), (1, 0)),
    ((7, 6), (3, 3), (1, 1), (2, 2)),  # more than PyTorch takes
    ((5, 9), (4, 3), (3, 2), (0, 2)),
    ((8, 9), (5, 5), (5, 5), (4, 4)),
    ((8, 9), (2, 2), (3, 3), (0, 0)),  # a column of windows just outside
    ((5, 5), (1, 1), (3, 3), (0, 0)),  # and some further out, in both directions
    ((9, 5), (1, 2), (4, 5), (0, 1)),  # clipped beside padding
    ((4, 4), (2, 2), (5, 5), (1, 1)),
    ((2, 3), (4, 4), (3, 2), (0, 0)),  # a kernel beyond the image
    ((1, 1), (1, 1), (1, 1), (0, 0)),
]


def net_of(method, sides, kernel, stride, pad, floor=False, **options):
    fields = f"pool: {method}" + " round_mode: FLOOR" * floor
    for name, (h, w) in [("kernel", kernel), ("stride", stride), ("pad", pad)]:
        fields += f" {name}_h: {h} {name}_w: {w}"
    return layer_net(f"type: 'Pooling' pooling_param {{ {fields} }}", (1, 1, *sides), **options)


def draw(sides, ties=False, dtype=np.float64):
    rng = np.random.default_rng(3)
    shape = (2, 3, *sides)
    return (rng.integers(-3, 3, shape) if ties else rng.normal(size=shape) - 1).astype(dtype)


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
@pytest.mark.parametrize("floor", [False, True], ids=["ceil", "floor"])
@pytest.mark.parametrize("ties", [False, True], ids=["", "ties"])
@pytest.mark.parametrize("channels_last", [False, True], ids=["", "channels_last"])
def test_max_is_the_loop(geometry, floor, ties, channels_last):
    bottom = draw(geometry[0], ties)
    try:
        net = net_of("MAX", *geometry, floor, tops=2)
    except ValueError:
        assert floor
        assert min(caffe_pool.sides(bottom.shape, *geometry[1:], floor)) < 1
        return
    x = torch.from_numpy(bottom)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    (top, mask), (bottom_diff,), (top_diff, _) = run(net, x)
    expected = caffe_pool.pool("MAX", bottom, top_diff, *geometry[1:], floor)
    for got, wanted in zip((top, mask, bottom_diff), expected, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-13)
    (alone,), (diff,), _ = run(net_of("MAX", *geometry, floor), x)
    np.testing.assert_array_equal(alone, top)
    np.testing.assert_array_equal(diff, bottom_diff)


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
@pytest.mark.parametrize("floor", [False, True], ids=["ceil", "floor"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_average_is_the_loop(geometry, floor, dtype):
    bottom = draw(geometry[0], dtype=dtype)
    try:
        net = net_of("AVE", *geometry, floor)
    except ValueError:
        assert floor
        assert min(caffe_pool.sides(bottom.shape, *geometry[1:], floor)) < 1
        return
    (top,), (bottom_diff,), (top_diff,) = run(net, bottom)
    assert top.dtype == dtype
    wanted, _, diff = caffe_pool.pool("AVE", bottom.astype(float), top_diff, *geometry[1:], floor)
    rtol = 1e-12 if dtype == np.float64 else 1e-5
    np.testing.assert_allclose(top, wanted, rtol=rtol, atol=rtol)
    np.testing.assert_allclose(bottom_diff, diff, rtol=rtol, atol=rtol)


def test_windows_wholly_outside():
    net = net_of("MAX", (8, 9), (2, 2), (3, 3), (0, 0), tops=2)
    top, mask = net(x0=torch.zeros(1, 1, 8, 9, dtype=torch.float64)).values()
    assert top[0, 0, :, 3].tolist() == [-3.4028234663852886e38] * 3
    assert mask[0, 0, :, 3].tolist() == [-1] * 3
    net = net_of("AVE", (8, 9), (2, 2), (3, 3), (0, 0))
    top = net(x0=torch.zeros(1, 1, 8, 9, dtype=torch.float64))["y0"]
    assert top[0, 0, :, 3].isnan().all()
    assert (top[0, 0, :, :3] == 0).all()


@pytest.mark.parametrize("method", ["MAX", "AVE", "STOCHASTIC"])
def test_global_is_over_whatever_comes(method):
    net = layer_net(
        f"type: 'Pooling' pooling_param {{ pool: {method} global_pooling: true }}", (2, 3, 4, 5)
    )
    bottom = np.abs(np.random.default_rng(3).normal(size=(4, 3, 7, 2)))
    (top,), (bottom_diff,), (top_diff,) = run(net, bottom)
    assert top.shape == (4, 3, 1, 1)
    flat = bottom.reshape(4, 3, -1)
    if method == "STOCHASTIC":
        assert np.allclose(top[..., 0, 0], (flat**2).sum(-1) / flat.sum(-1), rtol=1e-13)
        return
    _, _, diff = caffe_pool.pool(method, bottom, top_diff, (7, 2), (1, 1), (0, 0))
    assert np.allclose(top[..., 0, 0], flat.max(-1) if method == "MAX" else flat.mean(-1))
    np.testing.assert_allclose(bottom_diff, diff, rtol=1e-13)


def test_global_max_of_equals_is_the_first():
    net = layer_net("type: 'Pooling' pooling_param { global_pooling: true }", (1, 1, 2, 3), tops=2)
    bottom = [[[[1.0, 5, 5], [5, 0, 1]]]]
    (top, mask), (bottom_diff,), (top_diff, _) = run(net, torch.tensor(bottom).double())
    assert (top.item(), mask.item()) == (5, 1)
    assert bottom_diff.ravel().tolist() == [0, top_diff.item(), 0, 0, 0, 0]


# STOCHASTIC


def stochastic(**options):
    fields = "pool: STOCHASTIC kernel_size: 2 stride: 2"
    return layer_net(f"type: 'Pooling' pooling_param {{ {fields} }}", (1, 1, 4, 4), **options)


def test_stochastic_in_test_weighs_each_by_itself():
    bottom = np.abs(np.random.default_rng(3).normal(size=(2, 3, 3, 5)))
    bottom[0, 0, :2, :2] = 0
    top = stochastic()(x0=torch.from_numpy(bottom))["y0"].detach().numpy()
    assert top.shape == (2, 3, 2, 3)
    for n, c, h, w in np.ndindex(top.shape):
        window = bottom[n, c, 2 * h : 2 * h + 2, 2 * w : 2 * w + 2]
        expected = (window**2).sum() / window.sum() if window.any() else 0
        assert top[n, c, h, w] == pytest.approx(expected, rel=1e-13)


def test_stochastic_in_test_has_a_gradient_where_all_are_zero():
    _, (diff,), _ = run(stochastic(), np.zeros((1, 1, 4, 4)))
    assert np.isfinite(diff).all()


def test_stochastic_in_training_draws_in_proportion():
    torch.manual_seed(0)
    window = torch.tensor([[1.0, 0], [3, 4]], dtype=torch.float64)
    x = window.tile(100, 100)[None, None].requires_grad_()
    top = stochastic(phase="TRAIN")(x0=x)["y0"]
    assert top.shape == (1, 1, 100, 100)
    # Three standard deviations of a share of 10 000 draws are 0.015.
    for value, share in [(1, 1 / 8), (0, 0), (3, 3 / 8), (4, 4 / 8)]:
        assert abs((top == value).double().mean().item() - share) <= 0.015 * (share > 0)
    top.sum().backward()
    assert x.grad.sum() == top.numel()
    torch.testing.assert_close(
        (x.grad * x)[0, 0].unfold(0, 2, 2).unfold(1, 2, 2).sum((-1, -2)), top[0, 0]
    )


def test_stochastic_in_training_takes_the_first_of_zeros():
    (top,), (diff,), (top_diff,) = run(stochastic(phase="TRAIN"), np.zeros((1, 1, 3, 3)))
    assert not top.any()
    assert np.array_equal(diff[0, 0, ::2, ::2], top_diff[0, 0])
    assert np.count_nonzero(diff) == 4


def test_stochastic_over_windows_outside_is_zero():
    fields = "pool: STOCHASTIC kernel_size: 1 stride: 3"
    for phase in ("TRAIN", "TEST"):
        net = layer_net(f"type: 'Pooling' pooling_param {{ {fields} }}", (1, 1, 5, 5), phase=phase)
        top = net(x0=torch.ones(1, 1, 5, 5, dtype=torch.float64))["y0"]
        assert top[0, 0].tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 0]]


# The rest


@pytest.mark.parametrize(
    ("fields", "tops", "message"),
    [
        ("pool: AVE kernel_size: 2", 2, "only max pooling has a second top"),
        ("pool: STOCHASTIC kernel_size: 2 pad: 1", 1, "stochastic pooling takes no pad"),
        ("kernel_size: 2 pad: 2", 1, "must be smaller than the kernel"),
        ("kernel_size: 2 stride: 0", 1, "must be positive"),
        ("stride: 2", 1, "must be positive"),
        ("kernel_h: 2", 1, "give kernel_size, or kernel_h and kernel_w"),
        ("kernel_size: 2 pad: 1 pad_h: 1 pad_w: 1", 1, "give pad, or pad_h and pad_w"),
        ("global_pooling: true kernel_size: 2", 1, "exclude each other"),
        ("global_pooling: true stride: 2", 1, "takes neither pad nor stride"),
        ("kernel_size: 9 round_mode: FLOOR", 1, "finds no place"),
    ],
)
def test_refused(fields, tops, message):
    with pytest.raises(ValueError, match=message):
        layer_net(f"type: 'Pooling' pooling_param {{ {fields} }}", (1, 1, 4, 5), tops=tops)


def test_an_image_without_a_batch_is_refused():
    net = net_of("MAX", (6, 7), (3, 3), (2, 2), (0, 0))
    with pytest.raises(ValueError, match="must have 4 axes"):
        net(x0=torch.zeros(3, 6, 7, dtype=torch.float64))


@pytest.mark.parametrize("geometry", [GEOMETRIES[0], GEOMETRIES[3], GEOMETRIES[6]], ids=str)
@pytest.mark.parametrize("method", ["MAX", "AVE", "STOCHASTIC"])
def test_exports_with_a_free_batch(method, geometry):
    if method == "STOCHASTIC" and any(geometry[3]):
        return
    net = net_of(method, *geometry)
    dims = {0: torch.export.Dim("batch"), 1: torch.export.Dim("channels")}
    x = torch.from_numpy(draw(geometry[0]))
    program = torch.export.export(net.layer.eval(), (x,), dynamic_shapes=(dims,))
    more = torch.cat([x, x + 1, x - 1])[:, :2].abs()
    torch.testing.assert_close(program.module()(more), net(x0=more)["y0"], equal_nan=True)
