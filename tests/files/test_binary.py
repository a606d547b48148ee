"""Binary nets: what the schema lacks, and numbers that mean other things in other forks."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.message import DecodeError, Message
from google.protobuf.unknown_fields import UnknownFieldSet
from hypothesis import given, settings
from hypothesis import strategies as st

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.files import binary
from caffe_margin.files.binary import _Survey
from caffe_margin.files.prototxt import UnknownFieldWarning, read_net, write_net
from caffe_margin.files.text_format import unknown_fields
from caffe_margin.files.weights import read_weights
from caffe_margin.files.wire import fields, renumbered, varint
from caffe_margin.nets.select import filter_net
from helpers.places import DATA


def entry(number: int, value: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(value)) + value


def layer(type_: str, *parts: bytes) -> bytes:
    named = entry(1, b"a") + entry(2, type_.encode())
    return entry(100, named + b"".join(parts))


def read_and_write(tmp_path: Path, content: bytes) -> tuple[pb.LayerParameter, bytes]:
    """Return the only layer of a net, and the net as it is written again."""
    path, again = tmp_path / "net.caffemodel", tmp_path / "again.caffemodel"
    path.write_bytes(content)
    net = read_net(path)
    write_net(filter_net(net), tmp_path / "text.prototxt")
    assert str(read_net(tmp_path / "text.prototxt").layer[0]) == str(net.layer[0])
    write_net(net, again)
    (only,) = filter_net(net).layer
    return only, again.read_bytes()


# The parameter of 147 in caffe-face, CenterLossParameter { num_output: 7 }; of 148 in SphereFace+,
# InterClassParameter { num_output: 10572 type: AMONG }, which is no ClipParameter; of 149 there,
# NormalizeParameter { }; of 202 in SSD, PermuteParameter { order: [0, 2, 3, 1] }, of which no
# other type has one; of 201 there, MultiBoxLossParameter { num_classes: 21 }.
FOREIGN = [
    ("CenterLoss", 147, b"\x08\x07"),
    ("InterClass", 148, b"\x08\xcc\x52\x10\x01"),
    ("Normalize", 149, b""),
    ("PriorBox", 202, b"\x08\x00\x08\x02\x08\x03\x08\x01"),
    ("Swish", 148, b"\x08\x01"),
    ("Clip", 147, b"\x08\x01"),
    ("MarginInnerProduct", 202, b"\x08\x01"),
    ("MultiBoxLoss", 201, b"\x18\x15"),
    ("", 147, b"\x08\x01"),
    ("PriorBox", 202, b"no message"),
]


@pytest.mark.parametrize(("type_", "number", "value"), FOREIGN)
def test_what_belongs_to_a_fork_is_kept_and_named(
    tmp_path: Path, type_: str, number: int, value: bytes
) -> None:
    content = layer(type_, entry(number, value))
    said = f"net.caffemodel: passed over field {number} of LayerParameter.* in layer 'a'"
    with pytest.warns(UnknownFieldWarning, match=said):
        read, again = read_and_write(tmp_path, content)
    assert [field.name for field, _ in read.ListFields()] == ["name", "type"]
    assert again == content
    with pytest.raises(ValueError, match=f"unknown field {number} of LayerParameter"):
        read_net(tmp_path / "net.caffemodel", strict=True)


@pytest.mark.parametrize(
    ("type_", "number", "value", "name", "expected"),
    [
        ("Swish", 147, b"\x0d\0\0\0\x40", "swish_param", pb.SwishParameter(beta=2)),
        (
            "MarginInnerProduct",
            147,
            b"\x08\x07\x10\x03",
            "margin_inner_product_param",
            pb.MarginInnerProductParameter(num_output=7, type="QUADRUPLE"),
        ),
        (
            "Clip",
            148,
            b"\x0d\0\0\0\x40\x15\0\0\0\x41",
            "clip_param",
            pb.ClipParameter(min=2, max=8),
        ),
        ("BN", 201, b"\x28\x01", "bn_param", pb.BNParameter(frozen=True)),
        ("Normalize", 206, b"\x18\0", "norm_param", pb.NormalizeParameter(channel_shared=False)),
        (
            "LargeMarginInnerProduct",
            202,
            b"\x08\x07\x10\x03",
            "largemargin_inner_product_param",
            pb.LargeMarginInnerProductParameter(num_output=7, type="QUADRUPLE"),
        ),
        (
            "Permute",
            202,
            b"\x08\x00\x08\x02\x08\x03\x08\x01",
            "permute_param",
            pb.PermuteParameter(order=[0, 2, 3, 1]),
        ),
    ],
)
def test_the_layers_type_says_whose_a_number_is(
    tmp_path: Path, type_: str, number: int, value: bytes, name: str, expected: object
) -> None:
    content = layer(type_, entry(number, value))
    read, again = read_and_write(tmp_path, content)  # warnings are errors
    assert read.HasField(name)
    assert getattr(read, name) == expected
    assert again == content


def test_both_meanings_in_one_file(tmp_path: Path) -> None:
    path = tmp_path / "net.caffemodel"
    path.write_bytes(
        layer("Swish", entry(147, b"\x0d\0\0\0\x40"))
        + layer("MarginInnerProduct", entry(147, b"\x08\x07"))
        + layer("Swish")
    )
    first, second, third = read_net(path).layer
    assert first.swish_param.beta == 2
    assert second.margin_inner_product_param.num_output == 7
    assert not third.HasField("swish_param")


def test_a_tag_longer_than_need() -> None:
    # No Caffe writes it, but the format allows it: 147 << 3 | 2 in three bytes.
    data = b"\x9a\x89\x00" + b"\x01a" + entry(148, b"b")
    first, second = fields(data, 0, len(data))
    assert (first.number, second.number) == (147, 148)
    moved = list(fields(renumbered(data, [(first, 1647), (second, 16)]), 0, len(data)))
    assert [field.number for field in moved] == [1647, 16]
    assert moved[0][2:] == first[2:]


def test_ssd(tmp_path: Path) -> None:
    path = DATA / "cases" / "ssd_permute.caffemodel"
    net = read_net(path)  # warnings are errors
    assert not net.layer[1].HasField("largemargin_inner_product_param")
    assert list(net.layer[1].permute_param.order) == [0, 2, 3, 1]
    write_net(net, tmp_path / "again.caffemodel")
    assert (tmp_path / "again.caffemodel").read_bytes() == path.read_bytes()


def test_swish_in_text_is_swish_in_binary(tmp_path: Path) -> None:
    net = pb.NetParameter()
    net.layer.add(name="a", type="Swish").swish_param.beta = 2
    write_net(net, tmp_path / "net.caffemodel")
    assert (tmp_path / "net.caffemodel").read_bytes() == layer(
        "Swish", entry(147, b"\x0d\0\0\0\x40")
    )
    assert read_net(tmp_path / "net.caffemodel") == net


# Values that an enum lacks


def test_a_forks_value_of_an_enum(tmp_path: Path) -> None:
    # LossParameter.normalization is field 3 of loss_param, 101; PRE_FIXED may be 4 somewhere.
    content = layer("SoftmaxWithLoss", entry(101, b"\x18\x04"))
    said = "passed over value 4 of LossParameter.normalization in layer 'a'"
    with pytest.warns(UnknownFieldWarning, match=said):
        read, again = read_and_write(tmp_path, content)
    assert not read.loss_param.HasField("normalization")
    assert unknown_fields(read.loss_param)
    assert again == content
    with pytest.raises(ValueError, match="unknown value 4"):
        read_net(tmp_path / "net.caffemodel", strict=True)


def test_a_value_that_decides_is_not_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "net.caffemodel"
    path.write_bytes(layer("MarginInnerProduct", entry(147, b"\x08\x07\x10\x04")))
    with pytest.raises(ValueError, match=r"net\.caffemodel: layer 'a': 'type' has no value 4"):
        read_net(path)
    path.write_bytes(layer("ReLU", entry(8, b"\x08\x05")))
    with pytest.raises(ValueError, match="layer 'a': 'phase' has no value 5"):
        read_net(path)


def test_a_type_that_v1_lacks_keeps_its_number(tmp_path: Path) -> None:
    path = tmp_path / "net.caffemodel"
    v1 = entry(2, entry(4, b"r") + b"\x28\x12") + entry(2, entry(4, b"v") + b"\x28\x29")
    path.write_bytes(v1)
    with pytest.warns(UnknownFieldWarning, match="value 41 of V1LayerParameter.type in layer 'v'"):
        net = read_net(path)
    assert [(layer.name, layer.type) for layer in net.layer] == [("r", "ReLU"), ("v", "41")]


def test_notes_of_a_binary_are_bounded(tmp_path: Path) -> None:
    path = tmp_path / "net.caffemodel"
    path.write_bytes(layer("T", *(entry(number, b"") for number in range(3000, 8000))))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        read_net(path)
    assert len(caught) == 51
    assert "4950 more fields" in str(caught[-1].message)


def test_fields_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "net.caffemodel"
    path.write_bytes(layer("T", entry(4, b"b") * 7))
    monkeypatch.setattr(binary, "MAX_FIELDS", 10)  # the layer, name, type and seven tops
    assert len(read_net(path).layer[0].top) == 7
    monkeypatch.setattr(binary, "MAX_FIELDS", 9)
    with pytest.raises(ValueError, match="a net of more than 9 fields is not read"):
        read_net(path)


def test_floats_that_are_not_packed(tmp_path: Path) -> None:
    floats = b"".join(b"\x2d" + bytes([0, 0, 0, exponent]) for exponent in (0x40, 0x41, 0xC0))
    path = tmp_path / "net.caffemodel"
    path.write_bytes(layer("InnerProduct", entry(7, floats + entry(7, b"\x0a\x01\x03"))))
    assert read_weights(path)["a"][0].tolist() == [2, 8, -2]
    path.write_bytes(layer("InnerProduct", entry(7, floats[:-1])))
    with pytest.raises(ValueError, match="cut short"):
        read_net(path)


def unknown_in(message: Message) -> set[tuple[str, int]]:
    """Return what protobuf itself did not know: owner and number."""
    unknown: Any = UnknownFieldSet(message)
    found = {(message.DESCRIPTOR.name, field.field_number) for field in unknown}
    for field, value in message.ListFields():
        if field.message_type is not None:
            for inner in [value] if isinstance(value, Message) else value:
                found |= unknown_in(inner)
    return found


WHOLE = layer(
    "Pooling",
    entry(4, b"top"),
    entry(6, b"\x1d\0\0\0\x40"),
    entry(7, b"\x2d\0\0\0\x40" + entry(7, b"\x0a\x01\x01") + b"\x08\x02"),
    entry(121, b"\x08\x01\x10\x03\x58\x02"),
    entry(149, b"\x08\x01"),
)


@settings(max_examples=500, deadline=None)
@given(data=st.data())
def test_the_survey_sees_what_protobuf_does(data: st.DataObject) -> None:
    content = bytearray(WHOLE * 2)
    for _ in range(data.draw(st.integers(0, 3))):
        at = data.draw(st.integers(0, len(content)))
        content[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2))
    net, survey = pb.NetParameter(), _Survey("net", bytes(content))
    try:
        survey.look()
    except (DecodeError, ValueError):
        return  # protobuf takes some of it: text that is not UTF-8, groups
    if not survey.renumbered:
        try:
            net.ParseFromString(bytes(content))
        except DecodeError:
            return  # it looks inside of packed numbers too
        numbers = {
            (owner, getattr(pb, owner).DESCRIPTOR.fields_by_name[name].number if name else number)
            for what in survey.lacking
            for number, owner, name in [split(what)]
        }
        assert numbers == unknown_in(net)


def split(what: str) -> tuple[int, str, str]:
    """Return number, owner and field of 'field 9 of Owner' and 'value 9 of Owner.field'."""
    _, number, _, owner = what.split(" ", 3)
    owner, _, name = owner.partition(".")
    return int(number), owner, name
