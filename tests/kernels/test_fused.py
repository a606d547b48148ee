import sys
import tracemalloc

import numpy as np
import pytest

from caffe_margin import kernels
from caffe_margin.kernels import fused
from caffe_margin.kernels.call import Call
from caffe_margin.kernels.fused import add_rows, blocks, row_squares, scale_rows
from caffe_margin.kernels.row_passes import add_projected, project, unit_rows
from caffe_margin.maths.gradient import ALL_RULES


@pytest.mark.parametrize("rule", ALL_RULES, ids=lambda rule: rule.name)
def test_no_scratch_of_the_outputs_size(rule):
    """Beyond inputs and outputs: less than M K + N K elements, where M N is much larger."""
    M, N, K = 512, 20000, 128
    rng = np.random.default_rng(0)
    x = rng.normal(size=(M, K)).astype(np.float32)
    weight = rng.normal(size=(N, K)).astype(np.float32)
    label = rng.integers(N, size=M)
    lengths = [np.linalg.norm(rows, axis=1) for rows in (x, weight)]
    unit = None if rule.no_projection else weight / lengths[1][:, None]
    top, top_diff = np.empty((2, M, N), np.float32)
    top_diff[...] = 1
    bottom_diff, weight_diff = np.empty_like(x), np.zeros_like(weight)
    call = Call(4, rule, np.float32(5), x, label, weight, *lengths, unit)

    for _ in range(2):  # what is compiled in the first does not count
        tracemalloc.start()
        saved = fused.forward(call, top)
        fused.backward(saved, top_diff, weight_diff, bottom_diff)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < x.nbytes + weight.nbytes < top.nbytes


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
    norm = np.linalg.norm(weight, axis=1)
    unit, diff, rows = weight / norm[:, None], np.ones_like(weight), np.array([3, 0, 3])
    add_projected(gradient[rows], rows, unit, norm, diff)
    np.testing.assert_allclose(diff, 1 + [[1], [0], [0], [2]] * expected, atol=tolerance)
    project(gradient, weight, norm)
    np.testing.assert_allclose(gradient, expected, atol=tolerance)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_project_at_the_ends_of_the_range(dtype):
    """Rows whose squares are hardly normal numbers, or hardly finite."""
    least, greatest = np.sqrt(np.finfo(dtype).tiny), np.sqrt(np.finfo(dtype).max)
    rng = np.random.default_rng(0)
    unit, gradient = rng.normal(size=(2, 2, 3))
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    norm = np.array([1.1 * least, 0.9 * greatest])
    expected = gradient - (gradient * unit).sum(axis=1, keepdims=True) * unit
    gradient, weight = gradient.astype(dtype), (unit * norm[:, None]).astype(dtype)
    project(gradient, weight, norm.astype(dtype))
    np.testing.assert_allclose(gradient * norm[:, None], expected, atol=8 * np.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_unit_rows(dtype):
    weight = np.random.default_rng(0).normal(size=(4, 3)).astype(dtype)
    weight[2] = 0
    unit, squares = np.empty_like(weight), np.empty(4, dtype)
    unit_rows(weight, unit, squares)
    np.testing.assert_allclose(squares, np.linalg.norm(weight, axis=1) ** 2, rtol=1e-6)
    rows = [0, 1, 3]
    expected = weight[rows] / np.linalg.norm(weight[rows], axis=1, keepdims=True)
    np.testing.assert_allclose(unit[rows], expected, rtol=2 * np.finfo(dtype).eps)
    assert np.isnan(unit[2]).all()


@pytest.mark.parametrize("passes", ["compiled", "small", "strided", "no numba"])
def test_squares_and_scaled_rows(passes, monkeypatch):
    rng = np.random.default_rng(0)
    rows, factors = rng.normal(size=(4, 3)).astype(np.float32), np.float32([1, 2, 0.1, 3])
    squares, scaled = np.linalg.norm(rows, axis=1) ** 2, np.diag(factors) @ rows
    monkeypatch.setattr(fused, "COMPILED_SIZE", 100 if passes == "small" else 0)
    if passes == "strided":
        rows = np.asfortranarray(rows)
    if passes == "no numba":
        monkeypatch.delattr(kernels, "row_passes")
        monkeypatch.setitem(sys.modules, "caffe_margin.kernels.row_passes", None)
    elif passes != "compiled":
        monkeypatch.setattr(fused, "row_passes", None)  # it is not called
    np.testing.assert_allclose(row_squares(rows), squares, rtol=1e-6)
    scale_rows(rows, factors)
    np.testing.assert_array_equal(rows, scaled)


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
