"""The generated schema: against proto/, against the facts of Caffe's, and beside pycaffe's own."""

from __future__ import annotations

import csv
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator

import pytest
from google.protobuf import descriptor_pb2

import compile_proto
from caffe_margin import caffe_margin_pb2 as pb
from helpers.places import DATA

FACTS = DATA / "schema"

# What this library adds to Caffe's schema, and all that it adds.
OUR_FIELD = {
    "message": "MarginInnerProductParameter",
    "number": "100",
    "label": "optional",
    "type": "MarginInnerProductParameter.Gradient",
    "name": "gradient",
    "default": "PAPER",
    "option": "",
}
OUR_FIELDS = [
    OUR_FIELD,
    OUR_FIELD | {"message": "LargeMarginInnerProductParameter", "default": "EXACT"},
    *(
        {
            "message": message,
            "number": number,
            "label": label,
            "type": type_,
            "name": name,
            "default": "",
            "option": "",
        }
        for message, number, label, type_, name in [
            ("SolverState", "100", "repeated", "LayerIteration", "layer_iteration"),
            ("SolverState", "101", "optional", "int64", "seed"),
            ("LayerIteration", "1", "optional", "string", "layer"),
            ("LayerIteration", "2", "optional", "int64", "iteration"),
        ]
    ),
]
# Of forks: SSD's caffe.proto has the first as 202, which is L-Softmax's.
NO_DEFAULT = {"default": "", "option": ""}
FORKS_FIELDS = [
    {
        "message": "LayerParameter",
        "number": "202",
        "label": "optional",
        "type": "PermuteParameter",
        "name": "permute_param",
        **NO_DEFAULT,
    },
    {
        "message": "PermuteParameter",
        "number": "1",
        "label": "repeated",
        "type": "uint32",
        "name": "order",
        **NO_DEFAULT,
    },
]
OUR_VALUES = [
    {"enum": "MarginInnerProductParameter.Gradient", "name": name, "number": str(number)}
    for number, name in enumerate(["PAPER", "EXACT", "DETACHED"])
]
# What forks' caffe.proto have: L-Softmax's BN, SSD's Normalize.
NORMALIZATION_FIELDS = [
    {
        "message": message,
        "number": number,
        "label": "optional",
        "type": type_,
        "name": name,
        "default": default,
        "option": "",
    }
    for message, number, type_, name, default in [
        ("LayerParameter", "201", "BNParameter", "bn_param", ""),
        ("LayerParameter", "206", "NormalizeParameter", "norm_param", ""),
        ("BNParameter", "1", "FillerParameter", "slope_filler", ""),
        ("BNParameter", "2", "FillerParameter", "bias_filler", ""),
        ("BNParameter", "3", "float", "momentum", "0.9"),
        ("BNParameter", "4", "float", "eps", "1e-5"),
        ("BNParameter", "5", "bool", "frozen", "false"),
        ("BNParameter", "6", "BNParameter.Engine", "engine", "DEFAULT"),
        ("NormalizeParameter", "1", "bool", "across_spatial", "true"),
        ("NormalizeParameter", "2", "FillerParameter", "scale_filler", ""),
        ("NormalizeParameter", "3", "bool", "channel_shared", "true"),
        ("NormalizeParameter", "4", "float", "eps", "1e-10"),
    ]
]
NORMALIZATION_VALUES = [
    {"enum": "BNParameter.Engine", "name": name, "number": str(number)}
    for number, name in enumerate(["DEFAULT", "CAFFE", "CUDNN"])
]
# And what has another number: BVLC's and the SphereFace authors' collide.
OUR_NUMBERS = {
    ("LayerParameter", "swish_param"): "1147",
    ("LayerParameter", "permute_param"): "1202",
}

FieldProto = descriptor_pb2.FieldDescriptorProto


def facts(name: str) -> list[dict[str, str]]:
    with (FACTS / name).open(newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def schema() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto()
    pb.DESCRIPTOR.CopyToProto(file)
    return file


def messages(
    nested: list[descriptor_pb2.DescriptorProto], prefix: str = ""
) -> Iterator[tuple[str, descriptor_pb2.DescriptorProto]]:
    for message in nested:
        yield prefix + message.name, message
        yield from messages(list(message.nested_type), f"{prefix}{message.name}.")


def row(message: str, field: descriptor_pb2.FieldDescriptorProto) -> dict[str, str]:
    type_name = field.type_name.removeprefix(".caffe_margin.")
    return {
        "message": message,
        "number": str(field.number),
        "label": FieldProto.Label.Name(field.label).removeprefix("LABEL_").lower(),
        "type": type_name or FieldProto.Type.Name(field.type).removeprefix("TYPE_").lower(),
        "name": field.name,
        "default": field.default_value,
        "option": "packed" if field.options.packed else "",
    }


def comparable(row: dict[str, str]) -> tuple[str, ...]:
    """Return a field's facts with its default in one spelling: 1e-09 is 1e-9."""
    if row["type"] == "float" and row["default"]:
        row = row | {"default": struct.pack("<f", float(row["default"])).hex()}
    return tuple(row[column] for column in OUR_FIELD)


def test_generated_files_are_current() -> None:
    pytest.importorskip("grpc_tools", reason="protoc is in the dev extra")
    for path, text in compile_proto.compile_proto().items():
        assert path.read_text() == text, f"{path.name} is stale: run python tools/compile_proto.py"


def test_fields_are_those_of_caffe_its_forks_and_two_of_ours() -> None:
    ours = [
        comparable(row(name, field))
        for name, message in messages(list(schema().message_type))
        for field in message.field
    ]
    caffes = [
        comparable(fact | {"number": OUR_NUMBERS.get((fact["message"], fact["name"]), number)})
        for fact in [*facts("fields.tsv"), *OUR_FIELDS, *NORMALIZATION_FIELDS, *FORKS_FIELDS]
        for number in [fact["number"]]
    ]
    assert len(caffes) > 400
    assert Counter(ours) == Counter(caffes)


def test_enums_are_those_of_caffe_its_forks_and_one_of_ours() -> None:
    file = schema()
    enums = [(enum.name, enum) for enum in file.enum_type]
    for name, message in messages(list(file.message_type)):
        enums += [(f"{name}.{enum.name}", enum) for enum in message.enum_type]
    ours = [(name, value.name, str(value.number)) for name, enum in enums for value in enum.value]
    caffes = [
        tuple(fact.values()) for fact in [*facts("enums.tsv"), *OUR_VALUES, *NORMALIZATION_VALUES]
    ]
    assert len(caffes) > 100
    assert Counter(ours) == Counter(caffes)


def test_schema_is_proto2() -> None:
    # proto2 spells its own name as nothing.
    assert schema().syntax in ("", "proto2")
    assert not pb.BlobProto().HasField("num")
    assert pb.BlobProto(num=0).HasField("num")


CAFFE = """
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.internal import builder

file = descriptor_pb2.FileDescriptorProto(name="caffe.proto", package="caffe", syntax="proto2")
message = file.message_type.add(name="BlobProto")
message.field.add(
    name="num", number=1, label="LABEL_OPTIONAL", type="TYPE_INT32", default_value="0"
)
caffe = {}
descriptor = descriptor_pool.Default().AddSerializedFile(file.SerializeToString())
builder.BuildMessageAndEnumDescriptors(descriptor, caffe)
builder.BuildTopDescriptorsAndMessages(descriptor, "caffe_pb2", caffe)
"""

OURS = """
from caffe_margin import caffe_margin_pb2 as pb
"""

BOTH = """
assert pb.BlobProto.DESCRIPTOR.full_name == "caffe_margin.BlobProto"
assert caffe["BlobProto"].DESCRIPTOR.full_name == "caffe.BlobProto"
wire = pb.BlobProto(num=7).SerializeToString()
assert caffe["BlobProto"].FromString(wire).num == 7
"""


@pytest.mark.parametrize("program", [CAFFE + OURS, OURS + CAFFE], ids=["caffe first", "ours first"])
def test_loads_beside_pycaffes_schema(program: str) -> None:
    result = subprocess.run(
        [sys.executable, "-c", program + BOTH], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
