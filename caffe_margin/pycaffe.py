"""The layer inside somebody's pycaffe: a Python layer that needs no change to Caffe.

    python_param {
      module: "caffe_margin.pycaffe"
      layer: "MarginInnerProductLayer"
      param_str: 'num_output: 10572 type: QUADRUPLE weight_filler { type: "xavier" } '
                 'base: 1000 gamma: 0.12 lambda_min: 5 gradient: EXACT'
    }

Source: PythonLayer of BVLC/caffe, include/caffe/layers/python_layer.hpp.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec

import caffe
import numpy as np

from caffe_margin.layers.layer import BlobLike
from caffe_margin.layers.margin_layers import margin_layer
from caffe_margin.nets.plugin_text import parse_param_str


class MarginInnerProductLayer(caffe.Layer):
    """`MarginInnerProduct` on Caffe's own blobs.

    ``param_str`` is the text of the layer's parameters. Where it starts with a line
    ``# layer NAME``, errors give that name. The weight is drawn by a generator that is seeded from
    `numpy.random`, so ``numpy.random.seed`` repeats it; Caffe's own seed does not reach Python.

    Attributes:
        layer: the layer; ``net.layer_dict[NAME].layer.iteration`` is its count.
    """

    _class = "MarginInnerProductLayer"

    def setup(self, bottom: Sequence[BlobLike], top: Sequence[BlobLike]) -> None:
        """Read ``param_str`` and fill the weight, unless the layer's message brought one."""
        layer_param = parse_param_str(self.param_str, self._class)
        self._name = layer_param.name
        with self._naming():
            seed = np.random.randint(2**31)  # noqa: NPY002
            self.layer = margin_layer(layer_param, rng=seed)
            self.layer.check_counts(len(bottom), len(top))
            self.layer.dtype = bottom[0].data.dtype
            if self.layer.needs_numba() and find_spec("numba") is None:
                raise ValueError(
                    "gradient: EXACT needs numba, which is not installed: pip install numba"
                )
            self.layer.blobs = self.blobs
            self.layer.layer_setup(bottom, top)
            self._forward_on: object = None

    def reshape(self, bottom: Sequence[BlobLike], top: Sequence[BlobLike]) -> None:
        """Shape the tops; Caffe calls it before every Forward."""
        with self._naming():
            self.layer.reshape(bottom, top)

    def forward(self, bottom: Sequence[BlobLike], top: Sequence[BlobLike]) -> None:
        """Write the tops, and count: in TEST too, as the C++ does."""
        with self._naming():
            self.layer.check(bottom)
            self.layer.forward_cpu(bottom, top)
            self._forward_on = self._memory(bottom)

    def backward(
        self, top: Sequence[BlobLike], propagate_down: Sequence[bool], bottom: Sequence[BlobLike]
    ) -> None:
        """Set the features' diff where it is wanted, and add to the weight's."""
        with self._naming():
            # What Forward saw is Caffe's memory, which a reshape may have freed.
            if self._forward_on != self._memory(bottom):
                raise ValueError("backward needs a forward before it, on the same blobs")
            self.layer.backward_cpu(top, propagate_down, bottom)

    def _memory(self, bottom: Sequence[BlobLike]) -> object:
        """Return where the features and the weight are, and their shapes."""
        return [(array.ctypes.data, array.shape) for array in (bottom[0].data, self.blobs[0].data)]

    @contextmanager
    def _naming(self) -> Iterator[None]:
        """Put the layer's name into an exception that lacks it."""
        try:
            yield
        except Exception as error:
            if repr(self._name) in str(error):
                raise
            kind = ValueError if isinstance(error, ValueError) else RuntimeError
            what = "" if kind is ValueError else f"{type(error).__name__}: "
            raise kind(f"layer {self._name!r}: {what}{error}") from error


class LargeMarginInnerProductLayer(MarginInnerProductLayer):
    """`LargeMarginInnerProduct`, L-Softmax, on Caffe's own blobs."""

    _class = "LargeMarginInnerProductLayer"
