"""Values as JSON has them."""

import json
import math

import numpy as np

from caffe_margin.files.plain_json import plain


def test_plain():
    value = {
        "array": np.array([[1.0, np.nan], [np.inf, -0.5]], np.float32),
        "numbers": (np.float64("-inf"), np.int64(3), math.nan, True, None, "nan"),
        "deep": [{"x": (math.inf,)}],
    }
    assert json.loads(json.dumps(plain(value), allow_nan=False)) == {
        "array": [[1, None], [None, -0.5]],
        "numbers": [None, 3, None, True, None, "nan"],
        "deep": [{"x": [None]}],
    }
