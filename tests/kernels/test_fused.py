import tracemalloc

import numpy as np
import pytest

from caffe_margin.kernels import fused
from caffe_margin.kernels.call import Call
from caffe_margin.kernels.fused import add_rows, blocks
from caffe_margin.kernels.row_passes import normalize, project
from caffe_margin.maths.gradient import ALL_RULES


@pytest.mark.parametrize("rule", ALL_RULES, ids=lambda rule: rule.name)
def test_no_scratch_of_the_outputs_size(rule):
    """Beyond inputs and outputs: less than 2 (M K + N K) elements, where M N is much larger."""
    M, N, K = 512, 20000, 128
    rng = np.random.default_rng(0)
    x = rng.normal(size=(M, K)).astype(np.float32)
    weight = rng.normal(size=(N, K)).astype(np.float32)
    label = rng.integers(N, size=M)
    lengths = [np.linalg.norm(rows, axis=1) for rows in (x, weight)]
    top, top_diff = np.empty((2, M, N), np.float32)
    top_diff[...] = 1
    bottom_diff, weight_diff = np.empty_like(x), np.zeros_like(weight)

    tracemalloc.start()
    saved = fused.forward(Call(4, rule, np.float32(5), x, label, weight, *lengths), top)
    fused.backward(saved, top_diff, weight_diff, bottom_diff)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2 * (x.nbytes + weight.nbytes) < top.nbytes


def test_blocks_cover_every_row_once():
    rows = np.concatenate([np.arange(10**5)[block] for block in blocks(10**5, 1000)])
    np.testing.assert_array_equal(rows, np.arange(10**5))
    assert len(list(blocks(3, 10**9))) == 3


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_project_is_the_derivative_of_the_normalisation(dtype):
    rng = np.random.default_rng(0)
    weight, gradient = rng.normal(size=(2, 4, 3))

    def objective(w):
        return (gradient * w / np.linalg.norm(w, axis=1, keepdims=True)).sum()

    expected = np.empty_like(weight)
    for index in np.ndindex(weight.shape):
        h = np.zeros_like(weight)
        h[index] = 1e-6
        expected[index] = (objective(weight + h) - objective(weight - h)) / 2e-6
    tolerance = {np.float32: 1e-5, np.float64: 1e-9}[dtype]
    gradient, weight = gradient.astype(dtype), weight.astype(dtype)
    norm, diff = np.linalg.norm(weight, axis=1), np.ones_like(weight)
    project(gradient, weight, norm, dtype(1), diff)
    np.testing.assert_allclose(diff - 1, expected, atol=tolerance)
    project(gradient, weight, norm, dtype(0), gradient)
    np.testing.assert_allclose(gradient, expected, atol=tolerance)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_normalize(dtype):
    weight = np.random.default_rng(0).normal(size=(4, 3)).astype(dtype)
    lengths, unit = np.linalg.norm(weight, axis=1), np.empty_like(weight)
    normalize(weight, lengths, unit)
    expected = weight / lengths[:, None]
    np.testing.assert_allclose(unit, expected, rtol=2 * np.finfo(dtype).eps)


def test_add_rows_adds_a_repeated_row_each_time():
    rng = np.random.default_rng(0)
    array, rows, values = (
        rng.normal(size=(5, 3)),
        rng.integers(5, size=40),
        rng.normal(size=(40, 3)),
    )
    expected = array + np.eye(5)[:, rows] @ values
    add_rows(array, rows, values)
    np.testing.assert_allclose(array, expected, rtol=1e-12)
