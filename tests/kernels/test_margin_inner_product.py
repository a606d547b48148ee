import os
import subprocess
import sys

RUN = """
import numpy as np
from caffe_margin.maths.gradient import PAPER
from caffe_margin.kernels import caffe_math, margin_inner_product
from caffe_margin.kernels.call import Call

rng = np.random.default_rng(0)
for m in (1, 2, 3, 4):
    for dtype in (np.float32, np.float64):
        x, weight = rng.normal(size=(3, 4)).astype(dtype), rng.normal(size=(5, 4)).astype(dtype)
        label, top = np.arange(3), np.empty((3, 5), dtype)
        call = Call(m, PAPER, dtype(5), x, label, weight, None, None)
        saved = margin_inner_product.forward(call, top)
        margin_inner_product.backward(saved, top, np.zeros_like(weight), np.zeros_like(x))
modules = (caffe_math, margin_inner_product)
functions = [f for m in modules for f in vars(m).values() if hasattr(f, "stats")]
print(len(functions), sum(sum(f.stats.cache_misses.values()) for f in functions))
"""


def run(code, **environment):
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | environment
    )
    assert result.returncode == 0, result.stderr
    return [int(word) for word in result.stdout.split()]


def test_second_run_compiles_nothing(tmp_path):
    functions, compiled = run(RUN, NUMBA_CACHE_DIR=str(tmp_path))
    assert functions > 10
    assert compiled > 10
    assert run(RUN, NUMBA_CACHE_DIR=str(tmp_path)) == [functions, 0]


def test_no_folder_to_cache_in():
    """As in a read-only install without a home: numba raises where it finds none."""
    nowhere = "from numba.core import caching; caching.CacheImpl._locator_classes = []\n"
    functions, _ = run(nowhere + RUN)
    assert functions > 10
