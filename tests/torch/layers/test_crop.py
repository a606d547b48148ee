import numpy as np
import pytest
import torch

from helpers.layer_net import layer_net, run

WHOLE = (2, 3, 6, 7)


def crop(fields, like, shape=WHOLE):
    return layer_net(f"type: 'Crop' crop_param {{ {fields} }}", shape, like)


@pytest.mark.parametrize(
    ("fields", "like", "part"),
    [
        ("", (9, 9, 4, 5), np.s_[:, :, :4, :5]),
        ("offset: [1, 2]", (2, 3, 4, 5), np.s_[:, :, 1:5, 2:7]),
        ("axis: 1 offset: [1, 0, 2]", (2, 2, 6, 1), np.s_[:, 1:, :, 2:3]),
        ("axis: -1 offset: 3", (1, 1, 1, 4), np.s_[..., 3:]),
        ("axis: 0", (1, 1, 1, 1), np.s_[:1, :1, :1, :1]),
        ("axis: 2", (9, 9, 6, 7), np.s_[:]),
        ("axis: 1 offset: 0", (1, 2, 3, 4, 5), np.s_[:, :2, :3, :4]),
    ],
)
def test_is_a_slice(fields, like, part):
    x = np.random.default_rng(3).normal(size=WHOLE)
    (top,), (bottom_diff, like_diff), (top_diff,) = run(crop(fields, like), x, np.ones(like))
    assert np.array_equal(top, x[part])
    expected = np.zeros(WHOLE)
    expected[part] = top_diff
    assert np.array_equal(bottom_diff, expected)
    assert like_diff is None


def test_follows_the_size_that_comes():
    x = torch.randn(1, 3, 9, 9, dtype=torch.float64)
    top = crop("offset: 1", (2, 3, 4, 5))(x0=x, x1=torch.zeros(1, 1, 8, 2))["y0"]
    assert torch.equal(top, x[:, :, 1:9, 1:3])


def test_what_is_not_there_is_refused():
    net = crop("offset: 1", (2, 3, 4, 5))
    with pytest.raises(ValueError, match="layer 'layer'"):
        net(x0=torch.zeros(2, 3, 6, 7), x1=torch.zeros(2, 3, 6, 5))
    for fields, like, message in [
        ("offset: 3", (2, 3, 4, 5), "4 from 3 on are to be cropped out of 6"),
        ("offset: [1, 1, 1]", (2, 3, 4, 5), "must be given once or 2 times"),
        ("axis: 4", (2, 3, 4, 5), "axis 4 is out of range"),
    ]:
        with pytest.raises(ValueError, match=message):
            crop(fields, like)
