"""The reader of protobuf text against Google's own reader and printer, and against literals."""

from __future__ import annotations

import contextlib
import math
import pickle
import struct
from typing import Any

import pytest
from google.protobuf import text_format as google
from google.protobuf.descriptor import FieldDescriptor as F
from hypothesis import example, given, settings
from hypothesis import strategies as st

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.files.text_format import (
    MAX_DEPTH,
    MAX_TEXT_BYTES,
    ParseError,
    Span,
    parse,
    unknown_fields,
)


def float32(value: float) -> float:
    return float(struct.unpack("<f", struct.pack("<f", value))[0])


SCALARS: dict[int, st.SearchStrategy[Any]] = {
    F.TYPE_FLOAT: st.floats(width=32, allow_nan=False),
    F.TYPE_DOUBLE: st.floats(allow_nan=False),
    F.TYPE_INT32: st.integers(-(2**31), 2**31 - 1),
    F.TYPE_INT64: st.integers(-(2**63), 2**63 - 1),
    F.TYPE_UINT32: st.integers(0, 2**32 - 1),
    F.TYPE_UINT64: st.integers(0, 2**64 - 1),
    F.TYPE_BOOL: st.booleans(),
    F.TYPE_STRING: st.text(max_size=12),
    F.TYPE_BYTES: st.binary(max_size=12),
}


@st.composite
def messages(draw: st.DrawFn, cls: Any, depth: int = 3) -> Any:
    """Any message of a class, through its descriptor."""
    message = cls()
    fields = [f for f in cls.DESCRIPTOR.fields if depth or f.message_type is None]
    chosen = draw(st.lists(st.sampled_from(fields), max_size=4)) if fields else []
    if cls is pb.ClipParameter:
        chosen = fields
    for field in chosen:
        if message.DESCRIPTOR.full_name != "caffe_margin.ClipParameter" and draw(st.booleans()):
            continue
        target = getattr(message, field.name)
        repeated = hasattr(target, "append")
        if field.message_type is not None:
            inner_class = getattr(pb, field.message_type.name)
            for _ in range(draw(st.integers(0, 2)) if repeated else 1):
                inner = draw(messages(inner_class, depth - 1))
                if repeated:
                    target.append(inner)
                else:
                    target.SetInParent()
                    target.CopyFrom(inner)
            continue
        if field.enum_type is not None:
            values: Any = st.sampled_from([v.number for v in field.enum_type.values])
        else:
            values = SCALARS[field.type]
        if repeated:
            target.extend(draw(st.lists(values, max_size=4)))
        else:
            setattr(message, field.name, draw(values))
    return message


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from([pb.NetParameter, pb.SolverParameter, pb.BlobProto, pb.Datum]).flatmap(
        messages
    ),
    st.fixed_dictionaries(
        {},
        optional={
            name: st.booleans()
            for name in (
                "as_utf8",
                "as_one_line",
                "use_short_repeated_primitives",
                "pointy_brackets",
                "use_index_order",
            )
        },
    ),
)
def test_reads_what_google_prints(message: Any, options: dict[str, bool]) -> None:
    text = google.MessageToString(message, **options)
    read = type(message)()
    assert parse(text, read, strict=True) == []
    assert read == message


ACCEPTED = [
    (pb.BlobShape, "dim: 1 dim: 2"),
    (pb.BlobShape, "dim: [1, 2]"),
    (pb.BlobShape, "dim: [] dim:[ 3 ]"),
    (pb.BlobShape, "dim: 0x1F, dim: 0X1f; dim: -0x10 dim: 0 dim: -0"),
    (pb.BlobShape, "dim: -9223372036854775808 dim: 9223372036854775807"),
    (pb.BlobShape, "dim\n:\n7"),
    (pb.BlobShape, ""),
    (pb.BlobShape, " \t\r\n# nothing but a comment"),
    (pb.NetParameter, 'layer { name: "a" } layer: { name: "b" } layer < name: "c" >'),
    (pb.NetParameter, 'layer: [ { name: "a" }, < name: "b" > ]'),
    (pb.NetParameter, "layer { } layer <>"),
    (pb.NetParameter, 'layer { name: "a", type: "b"; top: "c", }'),
    (pb.NetParameter, 'name: "#no comment" # comment "no string\'\nforce_backward: true'),
    (pb.NetParameter, 'name: "a"\r\nlayer {\r\n  top: "t" # c\r\n}\r\n'),
    (pb.NetParameter, """name: 'single "quoted"'"""),
    (pb.NetParameter, '''name: "a" 'b'\n  "c"'''),
    (pb.NetParameter, r'name: "\a\b\f\n\r\t\v\\\"\'\x41\101\x9"'),
    (pb.NetParameter, r'name: "\344\275\240\345\245\275"'),
    (pb.NetParameter, 'name: "你好"'),
    (pb.Datum, r'data: "\000\377\x80"'),
    (pb.FillerParameter, "value: 1 min: 1. max: .5 mean: 1e-3 std: 1.0f"),
    (pb.FillerParameter, "value: -1.5E+3 min: -inf max: inf mean: -0 std: 3f"),
    (pb.FillerParameter, "value: -Infinity max: INF"),
    (pb.FillerParameter, "variance_norm: AVERAGE"),
    (pb.FillerParameter, "variance_norm: 1"),
    (pb.Datum, "encoded: true"),
    (pb.Datum, "encoded: f"),
    (pb.Datum, "encoded: 1"),
    (pb.Datum, "encoded: True"),
    (pb.LayerParameter, "clip_param { min: 0 max: 1 } propagate_down: [true, false, 0]"),
]


@pytest.mark.parametrize(("cls", "text"), ACCEPTED)
def test_accepts_what_google_accepts(cls: Any, text: str) -> None:
    message = cls()
    parse(text, message, strict=True)
    assert message == google.Parse(text, cls())


def test_accepts_what_only_the_cpp_reader_does() -> None:
    # TextFormat::Parser::ConsumeUnsignedInteger reads a leading 0 as octal; Python's refuses.
    shape = pb.BlobShape()
    parse("dim: 010 dim: -017 dim: 00", shape)
    assert list(shape.dim) == [8, -15, 0]
    parse("dim: - 1 # minus one\ndim: -\n# between\n2", shape)
    assert list(shape.dim) == [-1, -2]
    datum = pb.Datum()
    parse("encoded: 0x1", datum)
    assert datum.encoded
    net = pb.NetParameter()
    parse('\ufeffname: "a"', net)
    assert net.name == "a"
    parse(r'name: "\u4f60\ud83d\ude00\U00000041"', net)
    assert net.name == "你\U0001f600A"


def test_floats_are_float32() -> None:
    filler = pb.FillerParameter()
    parse("value: 0.12 min: 1e40 mean: nan", filler)
    assert filler.value == float32(0.12) == 0.11999999731779099
    assert filler.min == math.inf
    assert math.isnan(filler.mean)


def test_replaces_the_old_content_and_keeps_it_on_an_error() -> None:
    net = pb.NetParameter(name="old", input=["x"])
    with pytest.raises(ParseError):
        parse('name: "new" input: 3', net)
    assert net == pb.NetParameter(name="old", input=["x"])
    parse('name: "new"', net)
    assert net == pb.NetParameter(name="new")


REFUSED = [
    # (message, text, line, column, part of what is said)
    (pb.NetParameter, 'name: "a"\nname: "b"', 2, 1, "given twice"),
    (pb.NetParameter, "state { }\nstate { }", 2, 1, "given twice"),
    (pb.NetParameter, 'name "a"', 1, 6, "expected ':' behind 'name'"),
    (pb.NetParameter, "name: a", 1, 7, 'write "a"'),
    (pb.NetParameter, 'name: "a', 1, 7, "does not end on its line"),
    (pb.NetParameter, 'name: "a\n"', 1, 7, "does not end on its line"),
    (pb.NetParameter, r'name: "\q"', 1, 7, "escape"),
    (pb.NetParameter, r'name: "\x"', 1, 7, "escape"),
    (pb.NetParameter, r'name: "\ud83d"', 1, 7, "names no character"),
    (pb.NetParameter, r'name: "\U00110000"', 1, 7, "names no character"),
    (pb.NetParameter, r'name: "\377"', 1, 7, "not UTF-8"),
    (pb.NetParameter, 'name: "\udcff"', 1, 7, "not UTF-8"),
    (pb.NetParameter, 'name: "\ud800"', 1, 7, "surrogate"),
    (pb.NetParameter, "layer {\n  top: 'x'\n", 3, 1, "'}'"),
    (pb.NetParameter, "layer { }\n}", 2, 1, "expected a field's name"),
    (pb.NetParameter, "layer { >", 1, 9, "'}'"),
    (pb.NetParameter, "layer: 3", 1, 8, "'{' to open 'layer'"),
    (pb.NetParameter, "layer: [ { } { } ]", 1, 14, "',' or ']'"),
    (pb.NetParameter, "layer: [ { }, ]", 1, 15, "'{'"),
    (pb.NetParameter, "state: [ { } ]", 1, 8, "'{' to open 'state'"),
    (pb.NetParameter, ";", 1, 1, "a field's name"),
    (pb.NetParameter, 'name: "a",, input: "b"', 1, 11, "a field's name"),
    (pb.NetParameter, "name = 3", 1, 6, "name: value"),
    (pb.NetParameter, "имя: 3", 1, 1, "ASCII"),
    (pb.NetParameter, "\x00", 1, 1, "unexpected character"),
    (pb.NetParameter, '"name": "a"', 1, 1, "a field's name"),
    (pb.BlobShape, "dim: 1,,", 1, 8, "a field's name"),
    (pb.BlobShape, "dim: [1 2]", 1, 9, "',' or ']'"),
    (pb.BlobShape, "dim: [1, 2,]", 1, 12, "an integer"),
    (pb.BlobShape, "dim: 1.5", 1, 6, "integer"),
    (pb.BlobShape, "dim: 1dim: 2", 1, 6, "integer"),
    (pb.BlobShape, "dim: 08", 1, 6, "octal"),
    (pb.BlobShape, "dim: 0x", 1, 6, "hexadecimal"),
    (pb.BlobShape, "dim: +1", 1, 6, "'+'"),
    (pb.BlobShape, "dim: 9223372036854775808", 1, 6, "out of range"),
    (pb.BlobShape, "dim: -9223372036854775809", 1, 6, "out of range"),
    (pb.BlobShape, "dim: " + "9" * 100_000, 1, 6, "out of range"),
    (pb.BlobShape, "dim:", 1, 5, "found the end of the text"),
    (pb.InnerProductParameter, "num_output: -1", 1, 13, "0 to 4294967295"),
    (pb.InnerProductParameter, "axis: 2147483648", 1, 7, "-2147483648 to 2147483647"),
    (pb.InnerProductParameter, "bias_term: 2", 1, 12, "true or false"),
    (pb.InnerProductParameter, "bias_term: yes", 1, 12, "true or false"),
    (pb.InnerProductParameter, 'bias_term: "true"', 1, 12, "true or false"),
    (pb.FillerParameter, "value: 1.2.3", 1, 8, "decimal number"),
    (pb.FillerParameter, "value: 010", 1, 8, "decimal number"),
    (pb.FillerParameter, "value: 1e", 1, 8, "decimal number"),
    (pb.FillerParameter, "value: one", 1, 8, "a number"),
    (pb.FillerParameter, 'value: "1"', 1, 8, "a number"),
    (pb.FillerParameter, "variance_norm: AVERAG", 1, 16, "did you mean 'AVERAGE'?"),
    (pb.FillerParameter, "variance_norm: average", 1, 16, "did you mean 'AVERAGE'?"),
    (pb.FillerParameter, "variance_norm: XYZ", 1, 16, "FAN_IN, FAN_OUT, AVERAGE"),
    (pb.FillerParameter, "variance_norm: 9", 1, 16, "FAN_IN, FAN_OUT, AVERAGE"),
    (pb.FillerParameter, 'variance_norm: "AVERAGE"', 1, 16, "without quotes"),
    (pb.LayerParameter, "\nclip_param { min: 0 }", 2, 12, "lacks 'max'"),
    (pb.ClipParameter, "min: 0 ", 1, 8, "the ClipParameter lacks 'max'"),
    (pb.LayerParameter, "clip_param { }", 1, 12, "'min' and 'max'"),
    (pb.LayerParameter, "type: CONVOLUTION", 1, 7, 'write "CONVOLUTION"'),
]


@pytest.mark.parametrize(("cls", "text", "line", "column", "said"), REFUSED)
def test_refuses_and_says_where(cls: Any, text: str, line: int, column: int, said: str) -> None:
    with pytest.raises(ParseError) as caught:
        parse(text, cls(), filename="net.prototxt")
    error = caught.value
    assert (error.filename, error.line, error.column) == ("net.prototxt", line, column)
    assert str(error).startswith(f"net.prototxt:{line}:{column}: ")
    assert said in str(error)
    assert len(str(error)) < 300
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


UNKNOWN_VALUES = [
    ": 1",
    ": -1.5e3",
    ": 0x1f",
    ": WORD",
    ": -inf",
    ": 'a' \"b\"",
    ": [1, 2, -3]",
    ": []",
    ": [ { a: 1 }, < b { } >, 3 ]",
    " { }",
    ": { a: 1, b: [1]; c { d: 'x' } e <> }",
    " < a { b: { c: [ { d: 1 } , { } ] } } >",
    " [ { a: 1 } ]",
    ": 1,",
    " { };",
]


@pytest.mark.parametrize("value", UNKNOWN_VALUES)
def test_skips_unknown_fields(value: str) -> None:
    text = f'layer {{ name: "a" novel{value} type: "T" }} novel{value} name: "n"'
    net = pb.NetParameter()
    notes = parse(text, net, filename="net.prototxt")
    assert net == pb.NetParameter(name="n", layer=[pb.LayerParameter(name="a", type="T")])
    assert notes == [
        "net.prototxt:1: skipped the field 'layer.novel' in layer 'a' (T), which the schema lacks",
        "net.prototxt:1: skipped the field 'novel', which the schema lacks",
    ]
    with pytest.raises(ParseError, match="'novel' is no field of LayerParameter"):
        parse(text, net, strict=True)


@pytest.mark.parametrize(
    "value",
    [
        "",
        " 1",
        ":",
        ": {",
        ": }",
        ": [1",
        ": [1,]",
        ": [1 2]",
        ": -word",
        ": 1.2.3",
        " { 3 }",
        ": { a }",
        " { a: 1 >",
        ": [ { ]",
        ": [ [ ] ",
        ": 'a",
    ],
)
def test_an_unknown_field_is_no_leave_to_write_nonsense(value: str) -> None:
    with pytest.raises(ParseError):
        parse(f"novel{value}", pb.NetParameter())


def test_notes_name_the_layer_and_count() -> None:
    layer = 'layer {{\n  inner_product_param {{ num_outputs: 3 }}\n  name: "{}" type: "{}"\n}}\n'
    text = layer.format("a", "IP") + layer.format("b", "IP") + layer.format("c", "Other")
    assert parse(text, pb.NetParameter(), filename="f") == [
        "f:2: skipped the field 'layer.inner_product_param.num_outputs' in layer 'a' (IP), which "
        "the schema lacks; 2 such fields, this is the first; did you mean 'num_output'?",
        "f:10: skipped the field 'layer.inner_product_param.num_outputs' in layer 'c' (Other), "
        "which the schema lacks; did you mean 'num_output'?",
    ]
    v1 = 'layers { novel: 1 name: "x" type: RELU }'
    assert "in layer 'x' (RELU)" in parse(v1, pb.NetParameter())[0]


def test_notes_are_bounded() -> None:
    text = "".join(f"novel_{i}: 1\n" for i in range(5000))
    notes = parse(text, pb.NetParameter())
    assert len(notes) == 51
    assert notes[-1] == "<text>: skipped 4950 more fields that the schema lacks"


def test_misplaced_fields_are_errors() -> None:
    with pytest.raises(ParseError, match=r"^<text>:1:1: 'base_lr' is a solver's$"):
        parse("base_lr: 1", pb.NetParameter(), misplaced={"base_lr": "is a solver's"})
    parse("layer { base_lr: 1 }", pb.NetParameter(), misplaced={"base_lr": "is a solver's"})


@pytest.mark.parametrize(("opening", "closing"), [("a {", "}"), ("a <", ">"), ("[", "]")])
def test_depth_is_limited(opening: str, closing: str) -> None:
    for start in ("b: ", "layer { b: "):
        end = "}" * start.count("{")
        deep = MAX_DEPTH - start.count("{")
        if opening != "[":
            start, deep = start + "{", deep - 1
            end = "}" + end
        parse(start + opening * deep + closing * deep + end, pb.NetParameter())
        for count in (deep + 1, 200_000):
            with pytest.raises(ParseError, match="nested more than 100 deep"):
                parse(start + opening * count + closing * count + end, pb.NetParameter())


def test_spans() -> None:
    first, second = 'layer {\n  name: "}"\n}', "layer: < >"
    name = "name: 'n' # }\n  'm'"
    text = f"\ufeff# {{\n{name}\n{first}, {second} novel {{ }} state {{ }} layer: [{{ }}, <>]"
    spans: list[Span] = []
    net = pb.NetParameter()
    parse(text, net, spans=spans)
    assert [(span.name, text[span.start : span.end]) for span in spans] == [
        ("name", name),
        ("layer", first),
        ("layer", second),
        ("state", "state { }"),
        ("layer", "{ }"),
        ("layer", "<>"),
    ]
    assert len(net.layer) == 4


WORDS = """layer { } < > [ ] : , ; - name type "a" 'b' " # 1 0x 1.5 -2 inf novel dim ü
convolution_param weight_filler value state phase TRAIN input_dim include { } : {"""
PIECES = st.sampled_from([*WORDS.split(), "\\", "\n", "\r", "\0", "\ufeff", "\ud800"])


@settings(max_examples=500, deadline=None)
@given(st.lists(PIECES, max_size=30).map(" ".join) | st.text(max_size=40))
@example("layer { layer { layer")
def test_any_text_reads_or_is_a_parse_error(text: str) -> None:
    with contextlib.suppress(ParseError):
        parse(text, pb.NetParameter())


def test_a_part_of_a_text() -> None:
    text = "junk }\n  num_output: 3\n  tipe: DOUBLE\n } junk"
    part, spans = slice(text.index("num"), text.rindex("}")), []
    param = pb.MarginInnerProductParameter()
    notes = parse(text, param, spans=spans, part=part)
    assert param == pb.MarginInnerProductParameter(num_output=3)
    assert [text[span.start : span.end] for span in spans] == ["num_output: 3"]
    assert notes[0].startswith("<text>:3: skipped the field 'tipe'")
    with pytest.raises(ParseError, match=r"^<text>:3:3: 'tipe' is no field"):
        parse(text, param, strict=True, part=part)
    with pytest.raises(ParseError, match=r"^<text>:3:9: expected .* found the end of the text"):
        parse(text, param, part=slice(part.start, text.index("DOUBLE")))


def test_unknown_fields_of_a_layers_parameters() -> None:
    net = pb.NetParameter()
    text = "novel: 1 layer { novel: 1 PARAM relu_param {} }"
    text = text.replace("PARAM", "pooling_param { ceil_mode: false novel { a: [1] } }")
    parse(text, net)
    assert unknown_fields(net.layer[0].pooling_param) == ["ceil_mode", "novel"]
    assert unknown_fields(net.layer[0].relu_param) == []
    # They are in no text that is written, and other readers of a binary pass them over.
    assert google.MessageToString(net) == google.MessageToString(
        google.Parse(text, pb.NetParameter(), allow_unknown_field=True)
    )
    long = pb.NetParameter()
    parse(f"layer {{ pooling_param {{ {'n' * 1000}: 1 }} }}", long)
    assert unknown_fields(long.layer[0].pooling_param) == ["n" * 80]


def test_unknown_fields_of_a_binary() -> None:
    tags = b"\x82\x7d", b"\x80\x7d"  # of field 2000: bytes, and a varint
    param = pb.PoolingParameter.FromString(
        b"\xc0\x3e\x07" + tags[0] + b"\x02\xff\n" + tags[1] + b"\x07"
    )
    assert unknown_fields(param) == ["1000", "\ufffd\n", "2000"]


# Values that an enum lacks


def test_a_forks_value_of_an_enum_is_skipped() -> None:
    text = (
        'layer { name: "a" type: "Convolution" convolution_param { engine: MKL2017 group: 2 } }\n'
        'layer { name: "b" type: "Pooling" pooling_param { pool: 7 kernel_size: 3 } }\n'
        'layer { name: "c" type: "Pooling" pooling_param { pool: 1 engine: CUDNN } }'
    )
    net = pb.NetParameter()
    assert parse(text, net, filename="f") == [
        "f:1: skipped the value MKL2017 of 'layer.convolution_param.engine' in layer 'a' "
        "(Convolution), which the schema lacks",
        "f:2: skipped the value 7 of 'layer.pooling_param.pool' in layer 'b' (Pooling), which "
        "the schema lacks",
    ]
    a, b, c = net.layer
    assert (a.convolution_param.HasField("engine"), a.convolution_param.group) == (False, 2)
    assert (b.pooling_param.HasField("pool"), b.pooling_param.kernel_size) == (False, 3)
    assert (c.pooling_param.pool, c.pooling_param.engine) == (1, 2)
    with pytest.raises(ParseError, match="'MKL2017'; it takes DEFAULT, CAFFE, CUDNN"):
        parse(text, net, strict=True)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("layer { pooling_param { pool: STOCHASTC } }", "did you mean 'STOCHASTIC'?"),
        ("layer { pooling_param { pool: ave } }", "did you mean 'AVE'?"),
        ('layer { pooling_param { pool: "AVE" } }', "without quotes"),
        ("layer { pooling_param { pool: -1 } }", "has no value -1"),
        ("layer { pooling_param { pool: } }", "for 'pool'"),
        ("layer { margin_inner_product_param { type: QUINTUPLE } }", "SINGLE, DOUBLE"),
        ("layer { margin_inner_product_param { gradient: 3 } }", "PAPER, EXACT, DETACHED"),
        ("layer { largemargin_inner_product_param { type: 4 } }", "SINGLE, DOUBLE"),
        ("layer { include { phase: VALIDATE } }", "TRAIN, TEST"),
        ("state { phase: VALIDATE }", "TRAIN, TEST"),
    ],
)
def test_values_that_are_errors_all_the_same(text: str, said: str) -> None:
    with pytest.raises(ParseError) as caught:
        parse(text, pb.NetParameter())
    assert said in str(caught.value)


def test_types_that_v1_lacks() -> None:
    names = ["RELU", "VIDEO_DATA", "PRELU", "CONVOLUTION3D", "ROI_POOLING", "POOLING"]
    types: dict[int, str] = {}
    notes = parse(
        " ".join(f"layers {{ type: {name} }}" for name in names), pb.NetParameter(), v1_types=types
    )
    assert types == {1: "VIDEO_DATA", 2: "PRELU", 3: "CONVOLUTION3D", 4: "ROI_POOLING"}
    assert len(notes) == 4
    assert "mean" not in "".join(notes)
    with pytest.raises(ParseError, match="mean 'CONVOLUTION'"):
        parse("layers { type: CONVOLUTON }", pb.NetParameter())


def test_a_parameter_that_lacks_something_says_so() -> None:
    net = pb.NetParameter()
    parse(
        "layer { pooling_param { ceil_mode: false } convolution_param { num_output: 1 } }"
        "layer { pooling_param { pool: L2 } novel: 1 }",
        net,
    )
    copy = pb.NetParameter()
    copy.CopyFrom(net)
    first, second = copy.layer
    assert unknown_fields(first.pooling_param)
    assert not unknown_fields(first.convolution_param)
    assert unknown_fields(second.pooling_param)
    assert not unknown_fields(second)
    assert google.MessageToString(second, as_one_line=True) == "pooling_param { }"


# Text that is no net


def test_text_without_a_known_field_is_refused() -> None:
    text = "# labels\nitem { name: 'a' }\nitem { name: 'b' }"
    with pytest.raises(ParseError, match=r"<text>:2:1: 'item' is no field of a net, nor is any"):
        parse(text, pb.NetParameter(), kind="a net")
    assert parse(text + "name: 'n'", pb.NetParameter(), kind="a net")
    assert parse("# nothing", pb.NetParameter(), kind="a net") == []


def test_long_text_is_refused() -> None:
    with pytest.raises(ParseError, match="16777217 characters; more than 16777216"):
        parse(" " * (MAX_TEXT_BYTES + 1), pb.NetParameter())


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (r'"a\"b"', 'a"b'),
        (r"'a\'b\\'", r"a'b" + "\\"),
        (r'"\\"' + " '\\n'", "\\\n"),
        ('"\\\\\\""', '\\"'),
    ],
)
def test_strings_with_escapes(text: str, value: str) -> None:
    net = pb.NetParameter()
    parse(f"name: {text} # c", net)
    assert net.name == value
    for bad in ('"a\\', '"a\\"', '"a\\\n"', "'a\\'"):
        with pytest.raises(ParseError, match="<text>:1:7: this string does not end on its line"):
            parse(f"name: {bad}", net)
