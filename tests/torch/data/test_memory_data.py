"""Arrays of the caller's."""

import numpy as np
import pytest

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.torch.data.memory_data import MemoryData


def memory_data():
    layer = pb.LayerParameter(name="data", type="MemoryData", top=["data", "label"])
    layer.memory_data_param.MergeFrom(
        pb.MemoryDataParameter(batch_size=2, channels=1, height=2, width=3)
    )
    return MemoryData(layer)


def test_hands_on_the_callers_memory():
    source = memory_data()
    data, label = np.zeros((4, 1, 2, 3), np.float32), np.arange(4, dtype=np.float32)
    source.set_input_arrays(data, label)
    next(source)
    data[2:] = 7
    batch = next(source)
    assert batch["data"].eq(7).all()
    assert batch["label"].tolist() == [[[[2]]], [[[3]]]]
    data[:2] = 5
    assert next(source)["data"].eq(5).all()
    source.set_input_arrays(data[2:], label[2:])
    assert next(source)["label"].flatten().tolist() == [2, 3]


@pytest.mark.parametrize(
    ("data", "label", "message"),
    [
        (np.zeros((4, 1, 2, 2), np.float32), np.zeros(4, np.float32), r"must be \(N, 1, 2, 3\)"),
        (np.zeros((4, 1, 2, 3), np.float32), np.zeros(3, np.float32), r"must be \(4,\)"),
        (np.zeros((4, 1, 2, 3)), np.zeros(4, np.float32), "data must be float32"),
        (np.zeros((4, 1, 2, 3), np.float32), np.zeros(8, np.float32)[::2], "label must be float32"),
        (np.zeros((3, 1, 2, 3), np.float32), np.zeros(3, np.float32), "no multiple of batch_size"),
        (np.zeros((0, 1, 2, 3), np.float32), np.zeros(0, np.float32), "no multiple of batch_size"),
    ],
)
def test_refuses(data, label, message):
    source = memory_data()
    with pytest.raises(ValueError, match=message):
        source.set_input_arrays(data, label)
    with pytest.raises(ValueError, match="MemoryData has no arrays"):
        next(source)
