"""What pycaffe is to a Python layer: its surface and its strictness, and nothing of Caffe.

After BVLC/caffe: python/caffe/_caffe.cpp (Blob, BlobVec, Layer), src/caffe/blob.cpp (Reshape),
include/caffe/layers/python_layer.hpp and include/caffe/layer.hpp (`PythonLayer`).
"""

import math

import numpy as np

TRAIN, TEST = 0, 1


class Blob:
    """Float32 memory, which is replaced where a shape needs more of it, and never shrinks."""

    def __init__(self, *shape):
        self._data = self._diff = np.empty(0, np.float32)
        self.reshape(*shape)

    def reshape(self, *shape):
        for dim in shape:
            if type(dim) is not int:  # boost converts no numpy integer
                raise TypeError(f"no converter to a C++ int from {type(dim).__name__}")
        self._shape = shape
        if self.count > len(self._data):
            for memory in (self._data, self._diff):
                memory.fill(np.nan)  # whoever kept a view reads what was freed
            self._data = np.zeros(self.count, np.float32)
            self._diff = np.zeros(self.count, np.float32)

    @property
    def shape(self):
        return list(self._shape)

    @property
    def count(self):
        return math.prod(self._shape)

    @property
    def data(self):
        return self._data[: self.count].reshape(self._shape)

    @property
    def diff(self):
        return self._diff[: self.count].reshape(self._shape)


class RawBlobVec:
    """A sequence, but no list."""

    def __init__(self, blobs=()):
        self._blobs = [*blobs]

    def __len__(self):
        return len(self._blobs)

    def __getitem__(self, index):
        return self._blobs[index]


class BlobVec(RawBlobVec):
    def add_blob(self, *shape):
        self._blobs.append(Blob(*shape))


class Layer:
    """The base class; the wrapper of ``blobs`` is another one at each access."""

    def __init__(self, layer_param):
        self._vector = BlobVec(layer_param)

    @property
    def blobs(self):
        wrapper = BlobVec()
        wrapper._blobs = self._vector._blobs
        return wrapper

    @property
    def type(self):
        return "Python"


class PythonLayer:
    """The C++ side: makes the layer, and calls it as a Net does."""

    def __init__(self, layer_class, param_str, bottom, tops=2, phase=TRAIN, blobs=()):
        self.bottom = RawBlobVec(Blob(*shape) for shape in bottom)
        self.top = RawBlobVec(Blob() for _ in range(tops))
        self.layer = layer_class(blobs)
        self.layer.param_str = param_str
        self.layer.phase = phase
        assert self.layer.setup(self.bottom, self.top) is None
        self.layer.reshape(self.bottom, self.top)

    @property
    def weight(self):
        return self.layer.blobs[0]

    def forward(self, *arrays):
        """Fill the bottoms, reshaping them as a data layer does, and run."""
        for blob, array in zip(self.bottom, arrays, strict=False):
            blob.reshape(*array.shape)
            blob.data[...] = array
        self.layer.reshape(self.bottom, self.top)
        self.layer.forward(self.bottom, self.top)
        return self.top[0].data

    def backward(self, top_diff=None, propagate_down=(True, False)):
        if top_diff is not None:
            self.top[0].diff[...] = top_diff
        self.layer.backward(self.top, [*propagate_down], self.bottom)
        return self.bottom[0].diff
