"""Caffe's weights in and out of nets: all or nothing, and what comes out reads back elsewhere."""

import warnings

import h5py
import numpy as np
import pytest
import torch
from google.protobuf import text_format

import caffe_margin.torch as cmt
from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.files.hdf5 import write_hdf5
from caffe_margin.files.weights import read_weights, write_weights

TEXT = """
name: "two"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 4 } } }
layer { name: "a" type: "InnerProduct" bottom: "data" top: "a"
        param { lr_mult: 1 } param { lr_mult: 0 }
        inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "relu" type: "ReLU" bottom: "a" top: "a" }
layer { name: "b" type: "InnerProduct" bottom: "a" top: "b"
        inner_product_param { num_output: 2 bias_term: false weight_filler { type: "xavier" } } }
"""
SHARED = """
layer { name: "data" type: "Input" top: "x" input_param { shape { dim: 2 dim: 4 } } }
layer { name: "a" type: "InnerProduct" bottom: "x" top: "a" param { name: "w" } param { name: "b" }
        inner_product_param { num_output: 4 weight_filler { type: "xavier" } } }
layer { name: "both" type: "InnerProduct" bottom: "a" top: "b"
        param { name: "w" } param { name: "b" }
        inner_product_param { num_output: 4 weight_filler { type: "xavier" } } }
layer { name: "one" type: "InnerProduct" bottom: "b" top: "c" param { name: "w" }
        inner_product_param { num_output: 4 weight_filler { type: "xavier" } } }
"""


def net(text=TEXT, **kwargs):
    return cmt.Net(text_format.Parse(text, pb.NetParameter()), seed=0, **kwargs)


def values(of):
    return {
        f"{name}/{i}": blob.detach().numpy().copy()
        for name, blobs in of.params.items()
        for i, blob in enumerate(blobs)
    }


def drawn(of, seed=1):
    """Other values for every blob."""
    rng = np.random.default_rng(seed)
    return {
        name: [rng.normal(size=tuple(blob.shape)).astype(np.float32) for blob in blobs]
        for name, blobs in of.params.items()
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["w.caffemodel", "w.caffemodel.h5"])
def test_round_trip(tmp_path, name, dtype):
    saved, loaded = net(dtype=dtype), cmt.Net(net().param, seed=9, dtype=dtype)
    assert any((values(saved)[key] != values(loaded)[key]).any() for key in values(saved))
    saved.save_weights(tmp_path / name)
    assert loaded.load_weights(tmp_path / name) == ((), ())
    for key, array in values(saved).items():
        np.testing.assert_array_equal(values(loaded)[key], array)
    x = torch.randn(2, 4, dtype=dtype)
    assert torch.equal(saved(data=x)["b"], loaded(data=x)["b"])


def test_a_caffemodel_as_protobuf_reads_it(tmp_path):
    of = net()
    of.save_weights(tmp_path / "w.caffemodel")
    file = pb.NetParameter.FromString((tmp_path / "w.caffemodel").read_bytes())
    assert file.name == "two"
    assert [(layer.name, layer.type) for layer in file.layer] == [
        *(("data", "Input"), ("a", "InnerProduct")),
        *(("relu", "ReLU"), ("b", "InnerProduct")),
    ]
    a = file.layer[1]
    assert [spec.lr_mult for spec in a.param] == [1, 0]
    assert a.inner_product_param.num_output == 3
    assert [list(blob.shape.dim) for blob in a.blobs] == [[3, 4], [3]]
    assert not a.blobs[0].HasField("num")
    assert list(a.blobs[0].data) == of.a.weight.detach().flatten().tolist()
    assert not a.blobs[0].double_data
    assert [list(blob.shape.dim) for blob in file.layer[3].blobs] == [[2, 3]]
    # What a saved net says is what it was made from.
    for layer in file.layer:
        del layer.blobs[:]
    assert file == of.param


def test_an_h5_as_h5py_reads_it(tmp_path):
    """Every layer has a group, and what is shared is with the first that has it."""
    of = net(SHARED)
    of.save_weights(tmp_path / "w.h5")
    with h5py.File(tmp_path / "w.h5") as file:
        groups = {name: sorted(group) for name, group in file["data"].items()}
        assert groups.pop("a") == ["0", "1"]
        assert groups.pop("both") == []
        assert groups.pop("one") == ["1"]
        assert groups.pop("data") == []
        assert all(not names and "split" in name for name, names in groups.items())
        np.testing.assert_array_equal(file["data/a/0"], of.a.weight.detach().numpy())
        assert file["data/a/0"].dtype == "<f4"
    other = cmt.Net(text_format.Parse(SHARED, pb.NetParameter()), seed=5)
    assert other.load_weights(tmp_path / "w.h5").unfilled == ()
    for key, array in values(of).items():
        np.testing.assert_array_equal(values(other)[key], array)


def test_a_caffemodel_has_shared_blobs_with_each(tmp_path):
    net(SHARED).save_weights(tmp_path / "w.caffemodel")
    weights = read_weights(tmp_path / "w.caffemodel")
    np.testing.assert_array_equal(weights["a"][0], weights["both"][0])
    np.testing.assert_array_equal(weights["a"][0], weights["one"][0])


def test_legacy_blobs(tmp_path):
    """Of four dimensions, ones in front, as files of 2014 have them."""
    of = net()
    file = pb.NetParameter()
    for name, shapes in (("a", [(1, 1, 3, 4), (1, 1, 1, 3)]), ("b", [(1, 1, 2, 3)])):
        layer = file.layer.add(name=name)
        for shape in shapes:
            blob = layer.blobs.add(num=shape[0], channels=shape[1])
            blob.height, blob.width = shape[2:]
            blob.data.extend(range(int(np.prod(shape))))
    (tmp_path / "w.caffemodel").write_bytes(file.SerializeToString())
    assert of.load_weights(tmp_path / "w.caffemodel") == ((), ())
    assert of.a.weight.tolist() == np.arange(12.0).reshape(3, 4).tolist()
    assert of.a.bias.tolist() == [0, 1, 2]
    assert of.b.weight.tolist() == np.arange(6.0).reshape(2, 3).tolist()


@pytest.mark.parametrize(
    ("shape", "fits"),
    [
        ((1, 1, 3, 4), True),
        ((1, 1, 4, 3), False),
        ((1, 3, 4, 1), False),
        ((3, 4, 1, 1), False),
        ((1, 3, 4), False),  # not of four dimensions
        ((4, 3), False),
        ((12,), False),
    ],
)
def test_shapes_that_fit(shape, fits):
    of, weights = net(), drawn(net())
    weights["a"][0] = weights["a"][0].reshape(shape)
    if fits:
        of.load_weights(weights)
        np.testing.assert_array_equal(of.a.weight.detach(), weights["a"][0].reshape(3, 4))
        return
    message = r"layer 'a', blob 0: \(.*\) in the weights and \(3, 4\) in the net; .* rename the"
    with pytest.raises(ValueError, match=message):
        of.load_weights(weights)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w["b"].append(w["a"][0]), "layer 'b' has 2 blobs in the weights and 1 in the"),
        (lambda w: w["a"].pop(), "layer 'a' has 1 blobs in the weights and 2 in the net"),
        (lambda w: w.update(b=[w["a"][0]]), r"layer 'b', blob 0: \(3, 4\) in the weights"),
    ],
)
@pytest.mark.parametrize("kind", [None, "w.h5", "w.caffemodel"])
def test_all_or_nothing(tmp_path, change, message, kind):
    of = net()
    before, weights = values(of), drawn(of)
    change(weights)
    if kind:
        write_weights(weights, tmp_path / kind)
    with pytest.raises(ValueError, match=message + ".*rename the layer"):
        of.load_weights(tmp_path / kind if kind else weights)
    assert all((values(of)[key] == array).all() for key, array in before.items())


def test_what_is_left_and_what_is_not_used(tmp_path):
    of, weights = net(), drawn(net())
    weights["c"] = weights.pop("b")
    assert of.load_weights(weights) == (("b",), ("c",))
    np.testing.assert_array_equal(of.a.weight.detach(), weights["a"][0])
    with pytest.warns(UserWarning, match="no weights for 'b': filled by their fillers"):
        net(weights=weights)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        net(weights=drawn(of))


def test_what_is_shared_is_filled_by_any_of_its_layers(tmp_path):
    of = net(SHARED)
    weights = drawn(of)
    path = tmp_path / "w.h5"
    write_hdf5({"a": {0: weights["a"][0], 1: weights["a"][1]}, "one": {1: weights["one"][1]}}, path)
    assert of.load_weights(path).unfilled == ()
    np.testing.assert_array_equal(of.both.weight.detach(), weights["a"][0])
    np.testing.assert_array_equal(of.one.bias.detach(), weights["one"][1])

    write_hdf5({"a": {0: weights["a"][0], 1: weights["a"][1]}}, path)
    assert of.load_weights(path).unfilled == ("one",)  # its bias

    write_hdf5({"one": {0: weights["a"][0]}}, path)
    with pytest.raises(ValueError, match="layer 'one' has 1 blobs in the weights and 2 in the net"):
        of.load_weights(path)


def test_several_files(tmp_path):
    """Later ones count, layer by layer, whichever format they have."""
    first, second = drawn(net(), 1), drawn(net(), 2)
    write_weights(first, tmp_path / "1.caffemodel")
    write_weights({"b": second["b"]}, tmp_path / "2.h5")
    of = net()
    assert of.load_weights([tmp_path / "1.caffemodel", tmp_path / "2.h5"]) == ((), ())
    np.testing.assert_array_equal(of.a.weight.detach(), first["a"][0])
    np.testing.assert_array_equal(of.b.weight.detach(), second["b"][0])
    of = net(weights=[tmp_path / "2.h5", tmp_path / "1.caffemodel"])
    np.testing.assert_array_equal(of.b.weight.detach(), first["b"][0])


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        net().load_weights(tmp_path / "w.h5")
    with pytest.raises(ValueError, match="a folder, not a file"):
        net().load_weights(tmp_path)


def test_weights_say_the_shapes_of_a_net_without_them(tmp_path):
    """ImageData says no sizes of its images; the first InnerProduct is as wide as its weights."""
    text = TEXT.replace(
        'type: "Input" top: "data" input_param { shape { dim: 2 dim: 4 } }',
        'type: "Data" top: "data" data_param { source: "x" batch_size: 2 }',
    )
    weights = drawn(net())
    write_weights(weights, tmp_path / "w.h5")
    of = net(text, weights=tmp_path / "w.h5")
    np.testing.assert_array_equal(of.params["a"][0].detach(), weights["a"][0])
