import numpy as np
import pytest
import torch

from caffe_margin.maths.annealing import Annealing, share_of_margin

AUTHORS = Annealing(base=1000, gamma=0.12, power=1, lambda_min=5)


def test_follows_the_closed_form():
    iteration = np.array([1, 2, 10, 1000, 10**6])
    got = AUTHORS.lambda_at(iteration, np.float64)
    # gamma is a float32 in Caffe's message, also where the layer computes in double
    gamma = 0.11999999731779099
    expected = [1000 / (1 + gamma * i) for i in (1, 2, 10, 1000)]
    np.testing.assert_allclose(got, [*expected, 5], rtol=1e-15)


def test_computes_in_its_dtype():
    got = AUTHORS.lambda_at([1, 2, 3])
    assert got.dtype == np.float32
    # recorded from Caffe, in float32
    np.testing.assert_array_equal(got, np.float32([892.8571, 806.4516, 735.2941]))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_one_count_gives_what_many_give(dtype):
    many = AUTHORS.lambda_at(np.arange(1, 2000), dtype)
    assert many.dtype == dtype
    for i in (1, 7, 1658, 1999):
        one = AUTHORS.lambda_at(i, dtype)
        assert (one.dtype, one) == (dtype, many[i - 1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tensors_are_taken_as_arrays_are(dtype):
    count = torch.arange(1, 3000, dtype=dtype)
    expected = AUTHORS.lambda_at(count.numpy(), count.numpy().dtype.type)
    np.testing.assert_allclose(AUTHORS(count).numpy(), expected, rtol=4 * torch.finfo(dtype).eps)
    compiled = torch.compile(AUTHORS.__call__, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(count), AUTHORS(count))


def test_nan_is_kept_as_std_max_keeps_it():
    never = Annealing(base=1, gamma=-1, power=0.5, lambda_min=5)  # a root of a negative number
    assert np.isnan(never.lambda_at(3))


def test_share_of_margin():
    assert share_of_margin(0.0) == 1
    assert share_of_margin(4.0) == 0.2
