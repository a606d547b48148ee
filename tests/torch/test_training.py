"""What a loss says of a run."""

import math

import pytest

from caffe_margin.torch.training import PATIENCE_CLAMPED, PATIENCE_LN_N, LossWatch


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_not_finite(loss):
    assert "not finite" in LossWatch(10)(loss)


def test_at_ln_n_for_long():
    """Not before it has lasted, not where it falls, and not at another number."""
    watch = LossWatch(1500)
    said = [watch(7.3132 + 0.01 * (-1) ** i) for i in range(PATIENCE_LN_N)]
    assert not any(said[:-1])
    assert "ln N = 7.313" in said[-1]
    watch = LossWatch(1500)
    assert not any(watch(7.3132 - 5e-5 * i) for i in range(2 * PATIENCE_LN_N))
    assert not any(LossWatch(1500)(6.9) for _ in range(2 * PATIENCE_LN_N))


def test_at_the_clamp():
    watch = LossWatch(1500)
    said = [watch(87.3365) for _ in range(PATIENCE_CLAMPED)]
    assert not any(said[:-1])
    assert "87.3365" in said[-1]


def test_without_a_margin_there_is_no_ln_n():
    watch = LossWatch()
    assert not any(watch(0.001) for _ in range(2 * PATIENCE_LN_N))
