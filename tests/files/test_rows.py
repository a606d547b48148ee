"""Blobs of which a process has some rows: in and out, against the same files written whole."""

import tracemalloc

import h5py
import numpy as np
import pytest
from google.protobuf import text_format

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.files.binary_rows import net_pieces, write_pieces
from caffe_margin.files.hdf5 import write_hdf5
from caffe_margin.files.rows import Rows, Share
from caffe_margin.files.solverstate import SolverState, read_solverstate, write_solverstate
from caffe_margin.files.weights import read_blobs, write_weights

NAMES = ["a.caffemodel", "a.caffemodel.h5"]
STATES = ["s.solverstate", "s.solverstate.h5"]
DTYPES = [np.float32, np.float64]


def by_blocks(array, size=3):
    blocks = (array[start : start + size] for start in range(0, len(array), size))
    return Rows(array.shape, array.dtype, blocks)


def arrays(dtype):
    rng = np.random.default_rng(0)
    return rng.normal(size=(10, 4)).astype(dtype), rng.normal(size=(3, 2, 2)).astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_net_in_pieces_is_protobufs_own(tmp_path, dtype):
    """To the byte, a margin's field under the number that it has in files included."""
    head, other = arrays(dtype)
    text = """
        name: "n" force_backward: true
        layer { name: "conv" type: "Convolution" include { phase: TRAIN } phase: TRAIN }
        layer { name: "swish" type: "Swish" swish_param { beta: 2 } loss_weight: 0 loss_weight: 1 }
        layer { name: "fc6" type: "MarginInnerProduct" bottom: "x" param { lr_mult: 2 }
          margin_inner_product_param { num_output: 10 gamma: 0.5 } }
    """
    net = text_format.Parse(text, pb.NetParameter())
    with open(tmp_path / "pieces", "wb") as file:
        write_pieces(file, net_pieces(net, [[other, other[0]], [], [by_blocks(head)]]))
    for layer, blobs in zip(net.layer, ([other, other[0]], [], [head]), strict=True):
        for blob in blobs:
            message = layer.blobs.add(shape=pb.BlobShape(dim=blob.shape))
            values = message.data if dtype == np.float32 else message.double_data
            values.extend(blob.ravel().tolist())
    whole = net.SerializeToString()
    swish, its_number = (pb.LayerParameter.DESCRIPTOR.fields_by_name["swish_param"].number, 147)
    tags = [bytes([n << 3 & 127 | 2 | 128, n >> 4]) for n in (swish, its_number)]
    assert whole.count(tags[0]) == 1
    assert (tmp_path / "pieces").read_bytes() == whole.replace(*tags)


@pytest.mark.parametrize("name", STATES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_state_by_blocks_is_that_of_arrays(tmp_path, name, dtype):
    head, other = arrays(dtype)
    counts = {"layer_iteration": {"fc6": 3}, "seed": 4}
    write_solverstate(SolverState(7, "a", 2, [other, head, other], **counts), tmp_path / "whole.h5")
    state = SolverState(7, "a", 2, [other, by_blocks(head), other], **counts)
    write_solverstate(state, tmp_path / name)
    if name.endswith(".h5"):
        with h5py.File(tmp_path / name) as file, h5py.File(tmp_path / "whole.h5") as whole:
            assert file["history/1"].dtype == whole["history/1"].dtype == dtype
    read = read_solverstate(tmp_path / name).history
    for got, blob in zip(read, (other, head, other), strict=True):
        assert got.dtype == dtype
        assert np.array_equal(got, blob)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_own_rows_of_weights(tmp_path, name, dtype):
    head, other = arrays(dtype)
    write_weights({"conv": [other, other[0]], "fc6": [head]}, tmp_path / name)
    for rows in (range(0, 5), range(5, 10), range(9, 10)):
        got = read_blobs(tmp_path / name, {"fc6": Share((10, 4), rows), "none": Share((1,), rows)})
        assert got["fc6"][0].dtype == dtype
        assert np.array_equal(got["fc6"][0], head[rows.start : rows.stop])
        assert np.array_equal(got["conv"][0], other)
        assert np.array_equal(got["conv"][1], other[0])


@pytest.mark.parametrize("name", STATES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_own_rows_of_a_history(tmp_path, name, dtype):
    head, other = arrays(dtype)
    write_solverstate(SolverState(7, "a", 2, [other, head, other, 2 * head]), tmp_path / name)
    share = Share((10, 4), range(3, 6))
    state = read_solverstate(tmp_path / name, {1: share, 3: share})
    assert state.iteration == 7
    for got, blob in zip(state.history, (other, head[3:6], other, 2 * head[3:6]), strict=True):
        assert np.array_equal(got, blob)


@pytest.mark.parametrize("name", NAMES)
def test_of_a_large_file_no_more_than_the_rows(tmp_path, name):
    head = np.random.default_rng(0).normal(size=(20000, 64)).astype(np.float32)
    write_weights({"conv": [head[:2]], "fc6": [head]}, tmp_path / name)
    share = Share(head.shape, range(10000, 11000))
    read_blobs(tmp_path / name, {"fc6": share})  # imports and caches
    tracemalloc.start()
    got = read_blobs(tmp_path / name, {"fc6": share})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert np.array_equal(got["fc6"][0], head[10000:11000])
    assert peak < 3 * got["fc6"][0].nbytes < head.nbytes / 4


def test_of_a_large_file_by_blocks_no_more_than_a_block(tmp_path):
    shape, block = (20000, 64), np.ones((1000, 64), np.float32)
    net = pb.NetParameter(layer=[pb.LayerParameter(name="fc6")])

    def rows():
        return Rows(shape, block.dtype, (block for _ in range(20)))

    tracemalloc.start()
    with open(tmp_path / "a.caffemodel", "wb") as file:
        write_pieces(file, net_pieces(net, [[rows()]]))
    write_hdf5({"fc6": {0: rows()}}, tmp_path / "a.h5")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * block.nbytes
    for name in ("a.caffemodel", "a.h5"):
        assert np.array_equal(read_blobs(tmp_path / name)["fc6"][0], np.ones(shape))


OLD = """
layers {{ name: "fc6" type: INNER_PRODUCT inner_product_param {{ num_output: 2 }}
  blobs {{ num: 1 channels: 1 height: 2 width: 3 {values} }} }}
"""


def test_files_of_old_are_read_whole_first(tmp_path):
    """V1 layers, and blobs of four dimensions; a text is read too."""
    values = " ".join(f"data: {i}" for i in range(6))
    net = text_format.Parse(OLD.format(values=values), pb.NetParameter())
    (tmp_path / "a.caffemodel").write_bytes(net.SerializeToString())
    (tmp_path / "a.prototxt").write_text(OLD.format(values=values))
    layer = pb.LayerParameter(name="fc6", type="InnerProduct", blobs=net.layers[0].blobs)
    new = pb.NetParameter(layer=[layer])
    (tmp_path / "b.caffemodel").write_bytes(new.SerializeToString())
    for name in ("a.caffemodel", "a.prototxt", "b.caffemodel"):
        got = read_blobs(tmp_path / name, {"fc6": Share((2, 3), range(1, 2))})
        assert got["fc6"][0].reshape(-1).tolist() == [3, 4, 5]


MISFIT = r": \(10, 4\) in the file and \(11, 4\) in the net"


@pytest.mark.parametrize("name", NAMES)
def test_weights_of_another_shape(tmp_path, name):
    write_weights({"fc6": [np.zeros((10, 4), np.float32)]}, tmp_path / name)
    with pytest.raises(ValueError, match=f"{name}: .*fc6.*{MISFIT}"):
        read_blobs(tmp_path / name, {"fc6": Share((11, 4), range(0, 5))})


@pytest.mark.parametrize("name", STATES)
def test_a_history_of_another_shape(tmp_path, name):
    write_solverstate(SolverState(7, "a", 2, [np.zeros((10, 4), np.float32)]), tmp_path / name)
    with pytest.raises(ValueError, match=f"{name}: .*history.*{MISFIT}"):
        read_solverstate(tmp_path / name, {0: Share((11, 4), range(0, 5))})


@pytest.mark.parametrize("cut", [1, 30, 100])
def test_what_is_cut_short(tmp_path, cut):
    head = np.zeros((10, 4), np.float32)
    share = Share((10, 4), range(0, 5))
    write_weights({"fc6": [head]}, tmp_path / "a.caffemodel")
    write_solverstate(SolverState(7, "a", 2, [head]), tmp_path / "s.solverstate")
    for name in ("a.caffemodel", "s.solverstate"):
        data = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(data[:-cut])
    with pytest.raises(ValueError, match="cut short"):
        read_blobs(tmp_path / "a.caffemodel", {"fc6": share})
    with pytest.raises(ValueError, match="cut short"):
        read_solverstate(tmp_path / "s.solverstate", {0: share})


def test_two_gib_are_refused_before_they_are_written(tmp_path):
    def blocks():
        raise AssertionError("asked for")
        yield

    net = pb.NetParameter(layer=[pb.LayerParameter(name="fc6")])
    rows = Rows((2**22, 128), np.dtype("f4"), blocks())
    with (
        open(tmp_path / "a", "wb") as file,
        pytest.raises(ValueError, match="a binary file holds less than 2 GiB"),
    ):
        write_pieces(file, net_pieces(net, [[rows]]))
    assert (tmp_path / "a").stat().st_size < 100
