import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from caffe_margin.kernels import caffe_math
from helpers.places import ROOT

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
    caffe_math.caffe_div(x, y, out)
    np.testing.assert_array_equal(out, x / y)
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


COMPUTE = """
import numpy as np
from caffe_margin.kernels.caffe_math import caffe_abs, caffe_cpu_dot
x = np.array([3.0, -4.0])
caffe_abs(x, y := np.empty(2))
assert list(y) == [3, 4] and caffe_cpu_dot(x, y) == -7
print(*(sum(f.stats.cache_hits.values()) for f in (caffe_abs, caffe_cpu_dot)))
"""


def compute(folder, before=""):
    """Compute in a process of its own; return how often each function came from the cache."""
    result = subprocess.run(
        [sys.executable, "-c", before + COMPUTE],
        capture_output=True,
        text=True,
        env=os.environ | {"NUMBA_CACHE_DIR": str(folder)},
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.split()


def truncate(path):
    path.write_bytes(path.read_bytes()[:-20])


def rot(path):
    data = path.read_bytes()
    path.write_bytes(data[:20] + bytes(255 - byte for byte in data[20:60]) + data[60:])


def a_folder(path):
    path.unlink()
    path.mkdir()


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    assert compute(folder) == ["0", "0"]
    return folder


@pytest.mark.parametrize(
    ("damage", "suffix"),
    [(truncate, "nbi"), (truncate, "nbc"), (rot, "nbi"), (rot, "nbc"), (a_folder, "nbi")],
)
def test_a_damaged_cache(damage, suffix, cache, tmp_path):
    shutil.copytree(cache, tmp_path, dirs_exist_ok=True)
    (path,) = tmp_path.rglob(f"*caffe_abs*.{suffix}")
    damage(path)
    assert compute(tmp_path) == ["0", "1"]
    if damage is not a_folder:  # what was damaged was written anew
        assert compute(tmp_path) == ["1", "1"]


def test_a_full_disk(tmp_path):
    full = """
import errno
from numba.core.caching import IndexDataCacheFile
def full(*_):
    raise OSError(errno.ENOSPC, "No space left on device")
IndexDataCacheFile._open_for_write = full
"""
    assert compute(tmp_path, full) == ["0", "0"]
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_without_numbas_compiler():
    """The same functions in plain Python, on a recording of Caffe."""
    code = """
from caffe_margin.cli import main
from caffe_margin.kernels import caffe_math
assert not hasattr(caffe_math.caffe_abs, "stats")
main(["verify", "--json", "tests/data/recordings/quadruple_float64_annealed.npz"])
"""
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=os.environ | {"NUMBA_DISABLE_JIT": "1"},
        cwd=ROOT,
    )
    assert result.stderr == ""
    (recording,) = json.loads(result.stdout)["recordings"]
    assert recording["ok"]
    assert {check["engine"] for check in recording["checks"]} == {"fused", "line_by_line"}
