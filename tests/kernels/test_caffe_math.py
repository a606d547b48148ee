import numpy as np
import pytest

from caffe_margin.kernels import caffe_math

DTYPES = [np.float32, np.float64]


@pytest.fixture(params=DTYPES)
def vectors(request):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 1000)).astype(request.param)
    x[::7] = 0
    return x, y


def test_elementwise_functions(vectors):
    x, y = vectors
    out = np.empty_like(x)
    for function, expected in [
        (caffe_math.caffe_cpu_sign, np.sign(x)),
        (caffe_math.caffe_abs, np.abs(x)),
        (caffe_math.caffe_copy, x),
    ]:
        function(x, out)
        np.testing.assert_array_equal(out, expected)
    caffe_math.caffe_add(x, y, out)
    np.testing.assert_array_equal(out, x + y)
    caffe_math.caffe_mul(x, y, out)
    np.testing.assert_array_equal(out, x * y)
    for power in (2, 3, 4):
        caffe_math.caffe_powx(x, x.dtype.type(power), out)
        np.testing.assert_allclose(out, x**power, rtol=4 * np.finfo(x.dtype).eps)


def test_in_place_functions(vectors):
    x, y = vectors
    two = x.dtype.type(2)
    for function, arguments, expected in [
        (caffe_math.caffe_scal, (two,), x * two),
        (caffe_math.caffe_add_scalar, (two,), x + two),
        (caffe_math.caffe_set, (two,), np.full_like(x, 2)),
    ]:
        out = x.copy()
        function(*arguments, out)
        np.testing.assert_array_equal(out, expected)
    out = y.copy()
    caffe_math.caffe_cpu_axpby(two, x, -two, out)
    np.testing.assert_allclose(out, 2 * (x - y), rtol=1e-5, atol=1e-6)


def test_dot(vectors):
    x, y = vectors
    got = caffe_math.caffe_cpu_dot(x, y)
    exact = np.dot(x.astype(np.longdouble), y.astype(np.longdouble))
    assert abs(got - exact) < 100 * np.finfo(x.dtype).eps * np.abs(x * y).sum()
    assert caffe_math.caffe_cpu_dot(x[:0], y[:0]) == 0


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_non_finite_values_survive(value):
    x = np.array([1.0, value, 2.0])
    assert not np.isfinite(caffe_math.caffe_cpu_dot(x, x))


@pytest.mark.parametrize(("alpha", "beta"), [(1, 0), (1, 1), (2.5, 0), (2.5, 1), (0.5, -2)])
def test_gemm(alpha, beta):
    rng = np.random.default_rng(1)
    a, b, c = rng.normal(size=(3, 4)), rng.normal(size=(5, 4)), rng.normal(size=(3, 5))
    expected = alpha * np.einsum("ik,jk->ij", a, b) + beta * c
    caffe_math.caffe_cpu_gemm(alpha, a, b.T, beta, c)
    np.testing.assert_allclose(c, expected, rtol=1e-13)


def test_gemm_ignores_what_was_in_c_where_beta_is_zero():
    c = np.full((2, 2), np.nan)
    caffe_math.caffe_cpu_gemm(3, np.eye(2), np.eye(2), 0, c)
    np.testing.assert_array_equal(c, 3 * np.eye(2))
