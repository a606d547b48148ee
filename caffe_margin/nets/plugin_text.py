"""The layers with a margin made into Python layers, for a Caffe without the C++, and back.

The text of a net is edited in place: what is neither the layer's ``type`` nor its parameters stays
as it is, comments and blanks with it. Each line of ``margin_inner_product_param``, or of
``largemargin_inner_product_param``, becomes one of ``param_str``'s strings, which can be edited by
hand. Their first is a comment with the layer's name: Caffe does not tell a Python layer what it is
called.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable
from typing import NamedTuple

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.files import prototxt, text_format
from caffe_margin.files.text_format import ParseError, Span
from caffe_margin.nets.margin import FIELDS, margin_param
from caffe_margin.nets.select import find_layer

MODULE = "caffe_margin.pycaffe"
TYPES = {f"{type}Layer": type for type in FIELDS}
"""The types of layer that the module's classes stand for."""

_OPENING = re.compile(r"(?:[\w:\s]|#[^\n]*\n)*[{<]")
_BLANKS = re.compile(r"\s*")
_NAME_COMMENT = re.compile(r"# layer (.+)\n")


class Rewritten(NamedTuple):
    """A net's new text, and the names of the layers that changed."""

    text: str
    layers: list[str]


def to_python(text: str, *, filename: str = "<text>") -> Rewritten:
    """Make the layers with a margin of a net into Python layers.

    Raises:
        ParseError: the text is no net, or the layer's parameters have a field that the schema
            lacks, which the plugin would refuse.
        ValueError: there is no such layer, it has no parameters, or the net is of the old form.
    """
    net, changed = _layers(text, filename, lambda layer: layer.type in FIELDS)
    if not changed:
        if names := [layer.name for layer in net.layer if is_plugin(layer)]:
            raise ValueError(f"{filename}: {', '.join(map(repr, names))} is a Python layer already")
        try:
            find_layer(net, type=FIELDS)  # says what there is instead
        except ValueError as error:
            raise ValueError(f"{filename}: {error}") from None
    edits = []
    for layer in changed:
        type = layer.message.type
        param = layer.entry(FIELDS[type])
        inside = _inside(text, param)
        parsed = margin_param(pb.LayerParameter(type=type))
        text_format.parse(text, parsed, filename=filename, strict=True, part=inside)
        comment = _name_comment(layer.message.name)
        lines = [comment] if comment else []
        lines += _lines(text[inside])
        python_param = [
            "python_param {",
            f'{layer.step}module: "{MODULE}"',
            f'{layer.step}layer: "{type}Layer"',
            f"{layer.step}param_str:",
            *(f"{2 * layer.step}{_quote(line)}" for line in lines),
            "}",
        ]
        edits.append((layer.entry("type"), 'type: "Python"'))
        edits.append((param, layer.indented(param, "\n".join(python_param))))
    return Rewritten(_apply(edits, text), [layer.message.name for layer in changed])


def from_python(text: str, *, filename: str = "<text>") -> Rewritten:
    """Make the plugin's Python layers of a net into layers with a margin again.

    Raises:
        ParseError: the text is no net, or a ``param_str`` not the parameters of one.
        ValueError: there is no such layer, or the net is of the old form.
    """
    _, changed = _layers(text, filename, is_plugin)
    if not changed:
        raise ValueError(f"{filename}: the net has no Python layer of the module {MODULE!r}")
    edits = []
    for layer in changed:
        entry, param_str = layer.entry("python_param"), layer.message.python_param.param_str
        try:
            _restored(layer.message)
        except ParseError as error:
            source = f"{layer.place(entry)}: {error.filename}"
            raise ParseError(error.args[0], source, error.line, error.column) from None
        body = param_str.removeprefix(_name_comment(layer.message.name))
        type = TYPES[layer.message.python_param.layer]
        param = f"{FIELDS[type]} {{ {body} }}"
        if "\n" in body or "#" in body:
            lines = textwrap.indent(body.rstrip("\n"), layer.step)
            param = f"{FIELDS[type]} {{\n{lines}\n}}"
        edits.append((layer.entry("type"), f'type: "{type}"'))
        edits.append((entry, layer.indented(entry, param)))
    return Rewritten(_apply(edits, text), [layer.message.name for layer in changed])


def restore(net: pb.NetParameter, *, filename: str = "<net>") -> None:
    """Make the plugin's Python layers of a message layers with a margin again, in place.

    Args:
        net: the message.
        filename: the name that errors give.

    Raises:
        ParseError: a ``param_str`` is not the parameters of one.
    """
    for layer in net.layer:
        if is_plugin(layer):
            layer.CopyFrom(_restored(layer, f"{filename}: "))


def is_plugin(layer: pb.LayerParameter) -> bool:
    """Say whether a layer is the plugin."""
    python = layer.python_param
    return layer.type == "Python" and python.module == MODULE and python.layer in TYPES


def parse_param_str(param_str: str, layer: str) -> pb.LayerParameter:
    """Return the layer that the plugin stands for.

    Args:
        param_str: its parameters; the layer's name, if the first line is a comment that has it.
        layer: the plugin's class, which is the name otherwise.

    Raises:
        ParseError: ``param_str`` is not the parameters of such a layer.
    """
    comment = _NAME_COMMENT.match(param_str)
    plugin = pb.LayerParameter(name=comment[1] if comment else layer)
    plugin.python_param.layer, plugin.python_param.param_str = layer, param_str
    return _restored(plugin)


def _restored(plugin: pb.LayerParameter, where: str = "") -> pb.LayerParameter:
    """Return the layer that a Python layer of the plugin stands for.

    Raises:
        ParseError: its ``param_str`` is not the parameters of such a layer.
    """
    layer = pb.LayerParameter()
    layer.CopyFrom(plugin)
    layer.ClearField("python_param")
    layer.type = TYPES[plugin.python_param.layer]
    param, text = margin_param(layer), plugin.python_param.param_str
    param.Clear()
    param.SetInParent()  # there may be nothing in the text
    prototxt.parse_text(
        text, param, filename=f"{where}param_str of layer {plugin.name!r}", strict=True
    )
    return layer


def _name_comment(name: str) -> str:
    """Return the line that tells the plugin a layer's name; none where no comment can hold it."""
    return f"# layer {name}\n" if name and name.isprintable() else ""


class _Layer:
    """A layer in its text: the message, and where its entries are."""

    def __init__(self, text: str, span: Span, line_start: int, filename: str) -> None:
        self.text, self.span, self.filename = text, span, filename
        self.line_start = line_start  # of the line where the layer starts
        self.message, self.spans = pb.LayerParameter(), list[Span]()
        text_format.parse(text, self.message, spans=self.spans, part=_inside(text, span))
        outer, inner = self.indent(span), self.indent(self.spans[0]) if self.spans else ""
        self.step = inner[len(outer) :] if inner.startswith(outer) and inner != outer else "  "

    def entry(self, name: str) -> Span:
        for span in self.spans:
            if span.name == name:
                return span
        what = f"layer {self.message.name!r} has no {name}"
        raise ValueError(f"{self.place(self.span)}: {what}")

    def place(self, span: Span) -> str:
        """Return an entry's file and line."""
        line = self.text.count("\n", 0, span.start) + 1
        return f"{self.filename}:{line}"

    def indent(self, span: Span) -> str:
        """Return the white space at the start of an entry's line."""
        newline = self.text.rfind("\n", self.span.start, span.start)
        start = self.line_start if newline < 0 else newline + 1
        blanks = _BLANKS.match(self.text, start, span.start)
        assert blanks
        return blanks[0]

    def indented(self, span: Span, new: str) -> str:
        """Return a text to put in an entry's place, all but its first line indented like it."""
        indent = self.indent(span)
        return textwrap.indent(new, indent)[len(indent) :]


def _layers(
    text: str, filename: str, wanted: Callable[[pb.LayerParameter], bool]
) -> tuple[pb.NetParameter, list[_Layer]]:
    """Return a net, and those of its layers that are wanted in their text."""
    net, spans = pb.NetParameter(), list[Span]()
    text_format.parse(text, net, filename=filename, spans=spans)
    if net.layers:
        raise ValueError(
            f"{filename}: the net is of the old form (`layers`), which has no MarginInnerProduct; "
            f"Caffe's upgrade_net_proto_text brings a net to the current form"
        )
    layers, line_start = [], 0
    spans = [span for span in spans if span.name == "layer"]
    for span, message in zip(spans, net.layer, strict=True):
        line_start = max(line_start, text.rfind("\n", line_start, span.start) + 1)
        if wanted(message):
            layers.append(_Layer(text, span, line_start, filename))
    return net, layers


def _inside(text: str, entry: Span) -> slice:
    """Return where the text between a message's braces is."""
    opening = _OPENING.match(text, entry.start)
    assert opening
    return slice(opening.end(), entry.end - 1)


def _lines(body: str) -> list[str]:
    """Return the lines between a message's braces without their common indent."""
    body = body.replace("\r\n", "\n")
    if "\n" not in body:
        return [body.strip()]
    body = textwrap.dedent(re.sub(r"^[ \t]*\n|[ \t]+\Z", "", body))
    return re.findall(r"[^\n]*\n|[^\n]+", body)


def _quote(line: str) -> str:
    # Comments may be in any encoding, but Caffe hands param_str to Python as UTF-8.
    line = line.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    for character, escaped in (("\\", r"\\"), ("'", r"\'"), ("\n", r"\n"), ("\t", r"\t")):
        line = line.replace(character, escaped)
    return f"'{line}'"


def _apply(edits: list[tuple[Span, str]], text: str) -> str:
    end_of_line = "\r\n" if "\r\n" in text else "\n"
    parts, end = [], 0
    for span, new in sorted(edits, key=lambda edit: edit[0].start):
        parts += [text[end : span.start], new.replace("\n", end_of_line)]
        end = span.end
    return "".join([*parts, text[end:]])
