"""A net's blobs, batch by batch, of the layers that they come from."""

import numpy as np
import pytest
from google.protobuf import text_format

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.files.blobs import array_to_blob
from caffe_margin.files.weights import write_weights
from caffe_margin.torch.features import Features, batches

TEXT = """
layer { name: "data" type: "ImageData" top: "data" top: "label" image_data_param { source: "x" } }
layer { name: "fc1" type: "InnerProduct" bottom: "data" top: "fc1"
        inner_product_param { num_output: 3 } }
layer { name: "relu" type: "ReLU" bottom: "fc1" top: "fc1" }
layer { name: "fc2" type: "InnerProduct" bottom: "fc1" top: "fc2"
        inner_product_param { num_output: 2 bias_term: false } }
layer { name: "loss" type: "EuclideanLoss" bottom: "fc2" bottom: "label" top: "loss" }
layer { name: "odd" type: "NoSuchType" bottom: "fc2" top: "odd" }
"""
NET = text_format.Parse(TEXT, pb.NetParameter())
RNG = np.random.default_rng(0)
WEIGHTS = {
    "fc1": [RNG.normal(size=(3, 24)).astype(np.float32), RNG.normal(size=3).astype(np.float32)],
    "fc2": [RNG.normal(size=(2, 3)).astype(np.float32)],
}
X = RNG.normal(size=(5, 2, 3, 4)).astype(np.float32)


def expected(x):
    W, b = (blob.astype(np.float64) for blob in WEIGHTS["fc1"])
    fc1 = np.maximum(x.reshape(len(x), -1) @ W.T + b, 0)
    return {"fc1": fc1, "fc2": fc1 @ WEIGHTS["fc2"][0].astype(np.float64).T}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_blobs(dtype):
    """Neither the label is asked for, nor the layer of a type that is not known."""
    features = Features(NET, WEIGHTS, ["fc2", "fc1", "fc2"], dtype=dtype)
    assert features.inputs == {"data": None}
    for x in (X, X[:2]):
        got = features({"data": x, "label": None})
        assert list(got) == ["fc2", "fc1"]
        for name, blob in got.items():
            assert blob.dtype == dtype
            rtol = 1e-5 if dtype == "float32" else 1e-12
            np.testing.assert_allclose(blob, expected(x)[name], rtol=rtol, atol=rtol)


def test_the_outputs(tmp_path):
    part = pb.NetParameter(layer=NET.layer[:4])
    write_weights(WEIGHTS, tmp_path / "w.h5")
    features = Features(part, tmp_path / "w.h5")
    assert (features.blobs, features.inputs) == (("label", "fc2"), {"data": None, "label": None})
    label = np.arange(5)
    got = features({"data": X, "label": label})
    np.testing.assert_array_equal(got["label"], label)
    np.testing.assert_allclose(got["fc2"], expected(X)["fc2"], rtol=1e-5)


def test_weights_in_the_net():
    net = pb.NetParameter()
    net.CopyFrom(NET)
    for layer in net.layer:
        layer.blobs.extend(map(array_to_blob, WEIGHTS.get(layer.name, ())))
    got = Features(net, blobs=["fc1"])({"data": X})
    np.testing.assert_allclose(got["fc1"], expected(X)["fc1"], rtol=1e-5, atol=1e-6)


def test_what_the_net_says_of_its_inputs():
    layer = pb.LayerParameter(type="Input", name="i", top=["a", "b"])
    layer.input_param.shape.add(dim=[1, 2])
    net = pb.NetParameter(layer=[layer])
    assert Features(net).inputs == {"a": (1, 2), "b": (1, 2)}


def test_refused():
    with pytest.raises(ValueError, match="the net has no blob 'fc3'; did you mean 'fc2'"):
        Features(NET, WEIGHTS, ["fc3"])
    with pytest.raises(ValueError, match="no weights for layer 'fc2'"):
        Features(NET, {"fc1": WEIGHTS["fc1"]}, ["fc2"])({"data": X})
    with pytest.raises(ValueError, match="input 'data' is missing"):
        Features(NET, WEIGHTS, ["fc2"])({"label": X})
    with pytest.raises(ValueError, match=r"blob 'loss' is \(\), and has no row for each sample"):
        Features(NET, WEIGHTS, ["loss"])({"data": X, "label": np.zeros((5, 2), np.float32)})
    with pytest.raises(ValueError, match="lacks a layer type: 'odd'"):
        Features(NET, WEIGHTS, ["odd"])({"data": X})
    with pytest.raises(ValueError, match=r"layer 'fc1', blob 0: \(3, 24\) in the weights and"):
        Features(NET, WEIGHTS, ["fc2"])({"data": X[:, :1]})
    with pytest.raises(ValueError, match="device 'tpu'"):
        Features(NET, WEIGHTS, ["fc2"], device="tpu")


def test_batches():
    a, b = np.arange(7), np.arange(14).reshape(7, 2)
    found = list(batches({"a": a, "b": b}, 3))
    assert [len(batch["a"]) for batch in found] == [3, 3, 1]
    np.testing.assert_array_equal(np.concatenate([batch["b"] for batch in found]), b)
    for wrong in ({"a": a, "b": b[1:]}, {"a": a[:0]}, {"a": np.array(3)}, {}):
        with pytest.raises(ValueError, match="the same number of rows"):
            list(batches(wrong, 3))
