"""Splits: the cases of Caffe's own test_split_layer.cpp, and the names in its recordings."""

from __future__ import annotations

import pytest

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.files.npz import read_arrays
from caffe_margin.nets.select import filter_net
from caffe_margin.nets.splits import insert_splits
from caffe_margin.recordings.recording import Recording
from helpers.places import DATA


def net(*lines: str) -> pb.NetParameter:
    """Return a net of lines like ``relu: fc -> fc * 2.5``, the loss weights behind the star."""
    message = pb.NetParameter(name="net")
    for line in lines:
        name, _, wiring = line.partition(":")
        blobs, _, weights = wiring.partition("*")
        bottoms, _, tops = blobs.partition("->")
        message.layer.add(
            name=name,
            type="Split" if name.endswith("split") else "T",
            bottom=bottoms.split(),
            top=tops.split(),
            loss_weight=map(float, weights.split()),
        )
    return message


# SplitLayerInsertionTest
CASES = {
    "NoInsertion": (["data: -> data label", "ip: data -> ip", "loss: ip label ->"], None),
    "NoInsertionWithInPlace": (
        ["data: -> data label", "ip: data -> ip", "relu: ip -> ip", "loss: ip label ->"],
        None,
    ),
    "LossInsertion": (
        ["data: -> data", "ip1: data -> ip1 * 2.5", "ip2: data -> ip2", "loss: ip1 ip2 ->"],
        [
            "data: -> data",
            "data_data_0_split: data -> data_data_0_split_0 data_data_0_split_1",
            "ip1: data_data_0_split_0 -> ip1",
            "ip1_ip1_0_split: ip1 -> ip1_ip1_0_split_0 ip1_ip1_0_split_1 * 2.5 0",
            "ip2: data_data_0_split_1 -> ip2",
            "loss: ip1_ip1_0_split_1 ip2 ->",
        ],
    ),
    "Insertion": (
        [
            "data: -> data label",
            "ip1: data -> ip1",
            "ip2: data -> ip2",
            "ip3: data -> ip3",
            "loss1: ip1 ip2 ->",
            "loss2: ip2 ip3 ->",
        ],
        [
            "data: -> data label",
            "data_data_0_split: data -> data_data_0_split_0 data_data_0_split_1"
            " data_data_0_split_2",
            "ip1: data_data_0_split_0 -> ip1",
            "ip2: data_data_0_split_1 -> ip2",
            "ip2_ip2_0_split: ip2 -> ip2_ip2_0_split_0 ip2_ip2_0_split_1",
            "ip3: data_data_0_split_2 -> ip3",
            "loss1: ip1 ip2_ip2_0_split_0 ->",
            "loss2: ip2_ip2_0_split_1 ip3 ->",
        ],
    ),
    "InsertionTwoTop": (
        [
            "data: -> data label",
            "ip1: data -> ip1",
            "ip2: label -> ip2",
            "ip3: data -> ip3",
            "ip4: label -> ip4",
        ],
        [
            "data: -> data label",
            "data_data_0_split: data -> data_data_0_split_0 data_data_0_split_1",
            "label_data_1_split: label -> label_data_1_split_0 label_data_1_split_1",
            "ip1: data_data_0_split_0 -> ip1",
            "ip2: label_data_1_split_0 -> ip2",
            "ip3: data_data_0_split_1 -> ip3",
            "ip4: label_data_1_split_1 -> ip4",
        ],
    ),
    "WithInPlace": (
        [
            "data: -> data label",
            "ip1: data -> ip1",
            "relu1: ip1 -> ip1",
            "ip2: ip1 -> ip2",
            "loss1: ip1 label ->",
            "loss2: ip2 data ->",
        ],
        [
            "data: -> data label",
            "data_data_0_split: data -> data_data_0_split_0 data_data_0_split_1",
            "ip1: data_data_0_split_0 -> ip1",
            "relu1: ip1 -> ip1",
            "ip1_relu1_0_split: ip1 -> ip1_relu1_0_split_0 ip1_relu1_0_split_1",
            "ip2: ip1_relu1_0_split_0 -> ip2",
            "loss1: ip1_relu1_0_split_1 label ->",
            "loss2: ip2 data_data_0_split_1 ->",
        ],
    ),
}


@pytest.mark.parametrize(("before", "after"), CASES.values(), ids=CASES)
def test_caffes_own_cases(before: list[str], after: list[str] | None) -> None:
    message = net(*before)
    assert insert_splits(message) == net(*(after or before))
    assert message == net(*before)
    assert insert_splits(net(*(after or before))) == net(*(after or before))


def test_a_layer_that_reads_a_blob_twice() -> None:
    split = insert_splits(net("a: -> a", "y: a a -> y"))
    assert list(split.layer[-1].bottom) == ["a_a_0_split_0", "a_a_0_split_1"]


def test_a_weight_of_zero_reads_nothing() -> None:
    lines = ["a: -> a", "b: a -> b * 0", "c: b -> c"]
    assert insert_splits(net(*lines)) == net(*lines)


def test_all_of_a_layers_weights_go_where_one_top_is_split() -> None:
    split = insert_splits(net("a: -> a b * 2 3", "c: a -> c"))
    assert list(split.layer[0].loss_weight) == []
    assert list(split.layer[1].loss_weight) == [2, 0]


def test_a_bottom_of_nobody() -> None:
    with pytest.raises(ValueError, match="layer 'b': bottom 'x' is nobody's top"):
        insert_splits(net("a: -> a", "b: x -> b"))


RECORDINGS = sorted(
    path
    for folder in ("layers", "nets", "real")
    for path in (DATA / folder).glob("*.npz")
    if path.name != "outputs_float64.npz"
)


# What a field says that only a fork has is of no matter here.
@pytest.mark.filterwarnings("ignore::caffe_margin.files.text_format.UnknownFieldWarning")
@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.stem)
def test_the_blobs_that_caffe_recorded(path) -> None:
    recording = Recording(read_arrays(path))
    message = filter_net(recording.net(), recording.text("phase"))
    tops = {top for layer in insert_splits(message).layer for top in layer.top}
    recorded = {
        key.removeprefix("blob/").rpartition("/")[0]
        for key in recording.arrays
        if key.startswith("blob/")
    }
    assert recorded <= {*tops, "(automatic)"}
    # Of large nets a part of the blobs, and of some none that a Split makes.
    if "recipe_seed" not in recording and path.parent.name != "real":
        assert tops <= recorded
