"""Protobuf's text format, read as Caffe's C++ reads it.

The Python runtime has a reader too, but it says neither where an unknown field was nor how
it may be spelt, and a fork's field leaves it only the choice of refusing the file or of
skipping in silence. This one fills any proto2 message through its descriptor. It takes what
google::protobuf::TextFormat takes, without extensions, which Caffe has none of.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet

from caffe_margin.files.budget import Budget
from caffe_margin.files.names import near
from caffe_margin.files.wire import BYTES, varint

M = TypeVar("M", bound=Message)

MAX_TEXT_BYTES = 16 << 20
"""A longer text is refused; the longest public nets take less than 5 MB."""
MAX_DEPTH = 100
"""Messages nested deeper than this are refused; Caffe's own reach six."""

NEVER_PASSED_OVER = (
    "MarginInnerProductParameter",
    "LargeMarginInnerProductParameter",
    "NetStateRule",
)
"""An enum's value that these lack is an error: their default would be a wrong answer."""

_MAX_UNKNOWN = 1000  # distinct unknown fields told apart; the rest are only counted
MAX_NOTES = 50
"""Lines of text about what was passed over; the rest is only counted."""

_NAME, _NUMBER, _STRING, _MARK, _COMMENT, _BAD = range(1, 7)
_END = None
_SKIPPED_FIELD = 2000
"""The number under which a parameter keeps the names of its fields that were skipped."""
# A number's token is cut generously and judged afterwards, so that "3stride" is one wrong
# number and no cut needs backtracking. The last group takes what no other does, and the start of
# a string with escapes: as an expression these would keep a point to come back to for each.
_TOKEN = re.compile(
    r"""[ \t\n\r\v\f]*(?:
      ([A-Za-z_][A-Za-z0-9_]*)
    | (\.?[0-9][A-Za-z0-9_.]*(?:(?<=[eE])[+-][A-Za-z0-9_.]*)?)
    | ("[^"\\\n]*"|'[^'\\\n]*')
    | ([:{}<>\[\],;-])
    | (\#[^\n]*)
    | (.)
    | \Z)""",
    re.VERBOSE,
)
_STRING_STOPS = {'"': re.compile(r'["\\\n]'), "'": re.compile(r"['\\\n]")}
_DECIMAL = re.compile(r"0|[1-9][0-9]*")
_COUNT = re.compile(r"[1-9][0-9]{0,8}")
_OCTAL = re.compile(r"0[0-7]+")
_HEX = re.compile(r"0[xX][0-9a-fA-F]+")
_FLOAT = re.compile(r"(?!0[0-9])(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?[fF]?")
_ESCAPE = re.compile(
    rb"\\(?:([0-7]{1,3})|[xX]([0-9a-fA-F]{1,2})|U([0-9a-fA-F]{8})|u([0-9a-fA-F]{4}"
    rb"(?:\\u[0-9a-fA-F]{4})*)|(.))",
    re.DOTALL,
)
_LETTER_ESCAPES = dict(zip(b"abfnrtv\\?'\"", b"\a\b\f\n\r\t\v\\?'\"", strict=True))

_BOOLS = {"true": True, "True": True, "t": True, "false": False, "False": False, "f": False}
_CLOSERS = {"{": "}", "<": ">"}

_F = FieldDescriptor
_RANGES = {
    **dict.fromkeys((_F.TYPE_INT32, _F.TYPE_SINT32, _F.TYPE_SFIXED32), (-(2**31), 2**31 - 1)),
    **dict.fromkeys((_F.TYPE_INT64, _F.TYPE_SINT64, _F.TYPE_SFIXED64), (-(2**63), 2**63 - 1)),
    **dict.fromkeys((_F.TYPE_UINT32, _F.TYPE_FIXED32), (0, 2**32 - 1)),
    **dict.fromkeys((_F.TYPE_UINT64, _F.TYPE_FIXED64), (0, 2**64 - 1)),
}


class ParseError(ValueError):
    r"""A text that cannot be read, and where.

        >>> from caffe_margin import read_net
        >>> with open("net.prototxt", "w") as file:
        ...     _ = file.write("layer {\n  name: fc6\n}")
        >>> try:
        ...     read_net("net.prototxt")
        ... except ParseError as error:
        ...     print(error)
        net.prototxt:2:9: expected a string in quotes for 'name', found 'fc6'; write "fc6"

    Attributes:
        filename: the file's name as the caller gave it.
        line: the line, from 1.
        column: the character in the line, from 1.
    """

    def __init__(
        self, message: str, filename: str = "<text>", line: int = 1, column: int = 1
    ) -> None:
        super().__init__(message, filename, line, column)
        self.filename = filename
        self.line = line
        self.column = column

    def __str__(self) -> str:
        return f"{self.filename}:{self.line}:{self.column}: {self.args[0]}"


class UnknownFieldWarning(UserWarning):
    """A field was skipped: the schema, or its layer's type, has no place for it."""


@dataclass(frozen=True)
class Span:
    """Where an entry stands in its source: ``text[start:end]``."""

    name: str
    start: int
    end: int


def parse(
    text: str,
    message: M,
    *,
    filename: str = "<text>",
    strict: bool = False,
    misplaced: Mapping[str, str] | None = None,
    kind: str = "",
    spans: list[Span] | None = None,
    part: slice | None = None,
    v1_types: dict[int, str] | None = None,
) -> list[str]:
    """Fill a proto2 message from text, as google::protobuf::TextFormat::Parse does.

    What the message held before is replaced. On an error it keeps what it had.

    Args:
        text: the text; a byte order mark and Windows line ends are allowed.
        message: any proto2 message.
        filename: the name that errors give.
        strict: refuse fields, and a layer's values of enums, that the schema lacks, where they
            are else skipped. A value is an error all the same whose name is nearly one of the
            enum's, or that stands in one of `NEVER_PASSED_OVER`.
        misplaced: top-level field names of another kind of file, each with what to say
            about it; such a field is an error.
        kind: what the text is to be, such as "a net"; one without a known field at the top
            level is then refused.
        spans: filled with the place of every entry at the top level, in order. An entry
            starts at its field's name (a message in the list form, at its brace) and ends
            behind its value.
        part: read this part of the text alone, such as the inside of a message's braces;
            places stay those in the whole.
        v1_types: filled with the types of `layers` that were skipped, by the entry's place.

    Returns:
        A line of text for each field or value that was skipped, the same field in layers of the
        same type counted together. A parameter of a layer keeps the names of those it should
        have had as unknown fields: see `unknown_fields`.

    Raises:
        ParseError: the text is no message of this type.
    """
    if len(text) > MAX_TEXT_BYTES:
        raise ParseError(
            f"a text of {len(text)} characters; more than {MAX_TEXT_BYTES} are not read", filename
        )
    parser = _Parser(text, filename, strict, misplaced or {}, spans, part or slice(len(text)))
    fresh = type(message)()
    parser.advance()
    parser.fields(fresh, "", None)
    parser.check_required(fresh, f"the {message.DESCRIPTOR.name}", parser.limit)
    if kind and parser.unknown and not fresh.ListFields():
        parser.nothing_known(kind)
    message.CopyFrom(fresh)
    if v1_types is not None:
        v1_types.update(parser.v1_types)
    return parser.notes()


def unknown_fields(message: Message) -> list[str]:
    """Return the fields of a message that the schema lacks: a text's by name, others by number.

    Of a text they are known where the message stands in a layer. Messages inside are not looked at.
    """
    fields: Any = UnknownFieldSet(message)
    return [
        field.data[:80].decode("ascii", "replace")
        if field.field_number == _SKIPPED_FIELD and isinstance(field.data, bytes)
        else str(field.field_number)
        for field in fields
    ]


class _Field:
    """What the parser wants to know of a field, looked up once a message type."""

    def __init__(self, field: FieldDescriptor) -> None:
        self.name: str = field.name
        self.type: int = field.type
        self.repeated = has_label(field, "repeated")
        self.required = has_label(field, "required")
        self.message: Descriptor | None = field.message_type
        self.values: dict[str, int] = {}
        if field.enum_type is not None:
            self.values = {value.name: value.number for value in field.enum_type.values}
        self.numbers = frozenset(self.values.values())
        self.low, self.high = _RANGES.get(field.type, (-(2**31), 2**31 - 1))
        self.read = _READERS.get(field.type, _Parser.read_integer)


def has_label(field: Any, label: str) -> bool:
    """Say whether a field is "repeated" or "required"."""
    # protobuf 7 has lost `label`; protobuf 4 and 5 lack `is_repeated` and `is_required`.
    if hasattr(field, f"is_{label}"):
        return bool(getattr(field, f"is_{label}"))
    return bool(field.label == getattr(_F, f"LABEL_{label.upper()}"))


@functools.cache
def _fields(descriptor: Descriptor) -> dict[str, _Field]:
    return {field.name: _Field(field) for field in descriptor.fields}


@functools.cache
def _required(descriptor: Descriptor) -> tuple[str, ...]:
    return tuple(field.name for field in _fields(descriptor).values() if field.required)


def _near(name: str, names: Mapping[str, Any]) -> str:
    """Return '; did you mean ...?' where a name is near, else nothing."""
    meant = near(name, names, cutoff=0.7)
    return f"; did you mean {meant!r}?" if meant else ""


def _misspelt(name: str, names: Mapping[str, Any]) -> bool:
    """Say whether a name is nearly one of the names; CONVOLUTION3D is not CONVOLUTION misspelt."""
    meant = near(name, names, 0.9) or near(name.upper(), names, 0.9)
    return meant is not None and re.findall(r"\d", meant) == re.findall(r"\d", name)


def _short(token: str) -> str:
    return repr(token if len(token) <= 60 else token[:57] + "...")


@dataclass
class _Unknown:
    """A field the schema lacks: where it first stood, among which fields, in which layer."""

    name: str
    start: int
    table: Mapping[str, _Field]
    layer: Message | None
    count: int = 0


class _Parser:
    """One text's tokens, and the descent through them. `kind` and `token` are the next token."""

    def __init__(
        self,
        text: str,
        filename: str,
        strict: bool,
        misplaced: Mapping[str, str],
        spans: list[Span] | None,
        part: slice,
    ) -> None:
        start, self.limit, _ = part.indices(len(text))
        self.text = text
        self.filename = filename
        self.strict = strict
        self.misplaced = misplaced
        self.spans = spans
        self.v1_layers = 0
        self.v1_types: dict[int, str] = {}
        self.path: list[str] = []
        self.unknown: dict[tuple[str, str, int], _Unknown] = {}
        self.unlisted = 0
        self.budget = Budget(len(text))
        self.kind: int | None = _END
        self.token = ""
        self.start = start  # where the token starts
        self.stop = 1 if start == 0 and text.startswith("\ufeff") else start  # and ends
        self.end = 0  # where the token before this one ends

    # Tokens

    def advance(self) -> None:
        self.end = self.stop
        match = _TOKEN.match(self.text, self.stop, self.limit)
        while match and match.lastindex == _COMMENT:
            match = _TOKEN.match(self.text, match.end(), self.limit)
        assert match  # the last group takes what no other does
        kind = match.lastindex
        self.stop = match.end()
        self.start = match.start(kind) if kind else self.limit
        self.token = match[kind] if kind else ""
        if kind == _BAD:
            kind = self.string_with_escapes()
        self.kind = kind

    def string_with_escapes(self) -> int:
        """Go to the end of the string that starts here."""
        stops = _STRING_STOPS.get(self.token)
        at = self.stop
        while stops and (stop := stops.search(self.text, at, self.limit)) and stop[0] != "\n":
            at = stop.end()
            if stop[0] == self.token:
                self.stop, self.token = at, self.text[self.start : at]
                return _STRING
            if self.text.startswith("\n", at):
                break
            at += 1
        self.bad_character()

    def error(self, what: str, place: int | None = None) -> NoReturn:
        place = self.start if place is None else place
        before = self.text[:place].removeprefix("\ufeff")
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
        raise ParseError(what, self.filename, line, column)

    def expected(self, what: str) -> NoReturn:
        found = "the end of the text" if self.kind is _END else _short(self.token)
        self.error(f"expected {what}, found {found}")

    def bad_character(self) -> NoReturn:
        character = self.token
        if character in "\"'":
            self.error(f"this string does not end on its line; close it with {character}")
        if character in "()=/%$!?@&*+|~^`\\.":
            self.error(f"{character!r} has no meaning here; a field is written name: value")
        self.error(
            f"unexpected character {character!r}; outside strings and comments the text is ASCII"
        )

    def accept(self, mark: str) -> bool:
        if self.token == mark:
            self.advance()
            return True
        return False

    def separator(self) -> None:
        if self.token == "," or self.token == ";":
            self.advance()

    # Messages

    def fields(self, message: Message, closer: str, layer: Message | None) -> None:
        """Read fields up to `closer`, which is left as the next token."""
        table = _fields(message.DESCRIPTOR)
        while self.token != closer:  # the end's token is ""
            if self.kind != _NAME:
                self.expected(f"a field's name or {closer!r}" if closer else "a field's name")
            field = table.get(self.token)
            if field is None:
                self.unknown_field(message, layer)
                continue
            start = self.start
            if not field.repeated and message.HasField(field.name):
                self.error(f"{field.name!r} is given twice; it takes one value")
            self.advance()
            if field.message is None:
                self.scalars(message, field, layer)
                self.note_span(field, start)
            else:
                self.messages(message, field, layer, start)
            self.separator()

    def messages(self, message: Message, field: _Field, layer: Message | None, start: int) -> None:
        """Read what follows the name of a field that is a message: one, or a list of them."""
        self.accept(":")
        self.path.append(field.name)
        if not (field.repeated and self.accept("[")):
            self.entry(message, field, layer, start)
        elif not self.accept("]"):
            while True:
                self.entry(message, field, layer, self.start)
                if self.list_ends():
                    break
        self.path.pop()

    def note_span(self, field: _Field, start: int) -> None:
        if self.spans is not None and not self.path:
            self.spans.append(Span(field.name, start, self.end))

    def entry(self, message: Message, field: _Field, layer: Message | None, start: int) -> None:
        """Read one braced message into a field."""
        closer = _CLOSERS.get(self.token)
        if closer is None or self.kind != _MARK:
            self.expected(f"'{{' to open {field.name!r}, which is a message")
        if len(self.path) > MAX_DEPTH:
            self.error(f"messages are nested more than {MAX_DEPTH} deep")
        assert field.message
        if not self.budget.charge(field.message):
            self.error("more layers and parameters than a net of this size has; it is not read")
        opened = self.start
        self.advance()
        if field.repeated:
            inner = getattr(message, field.name).add()
        else:
            inner = getattr(message, field.name)
            inner.SetInParent()
        if field.name in ("layer", "layers"):
            layer = inner
            self.v1_layers += field.name == "layers"
        self.fields(inner, closer, layer)
        self.check_required(inner, repr(field.name), opened)
        self.advance()
        if self.spans is not None and len(self.path) == 1:
            self.spans.append(Span(field.name, start, self.end))

    def check_required(self, message: Message, what: str, place: int) -> None:
        missing = [name for name in _required(message.DESCRIPTOR) if not message.HasField(name)]
        if missing:
            names = " and ".join(repr(name) for name in missing)
            self.error(f"{what} lacks {names}, which it must have", place)

    def scalars(self, message: Message, field: _Field, layer: Message | None) -> None:
        if self.token != ":":
            self.expected(f"':' behind {field.name!r}")
        self.advance()
        if not (field.repeated and self.accept("[")):
            self.scalar(message, field, layer)
        elif not self.accept("]"):
            while True:
                self.scalar(message, field, layer)
                if self.list_ends():
                    break

    def scalar(self, message: Message, field: _Field, layer: Message | None) -> None:
        if (
            field.values
            and self.token not in field.values
            and self.passes_over_value(message, field, layer)
        ):
            return
        value = field.read(self, field)
        if field.repeated:
            getattr(message, field.name).append(value)
        else:
            setattr(message, field.name, value)

    def list_ends(self) -> bool:
        """Step over ',' and return False, or over ']' and return True."""
        if self.token not in (",", "]"):
            self.expected("',' or ']'")
        ends = self.token == "]"
        self.advance()
        return ends

    # Scalars

    def read_integer(self, field: _Field) -> int:
        place, negative = self.start, self.accept("-")
        token = self.token
        if self.kind != _NUMBER:
            self.expected(f"an integer for {field.name!r}")
        if _DECIMAL.fullmatch(token):
            base = 10
        elif _HEX.fullmatch(token):
            base = 16
        elif _OCTAL.fullmatch(token):
            base = 8
        else:
            self.error(
                f"{field.name!r} takes an integer in decimal, hexadecimal (0x) or octal "
                f"(leading 0), not {_short(token)}"
            )
        # Leading zeros are no reason to refuse, and a huge number none to compute it.
        digits = token[2 if base == 16 else 0 :].lstrip("0") or "0"
        value = int(digits, base) if len(digits) < 25 else 2**64
        if negative:
            value = -value
        if not field.low <= value <= field.high:
            sign = "-" if negative else ""
            self.error(
                f"{sign}{token[:60]} is out of range; {field.name!r} takes "
                f"{field.low} to {field.high}",
                place,
            )
        self.advance()
        return value

    def read_float(self, field: _Field) -> float:
        negative = self.accept("-")
        token = self.token
        if self.kind == _NUMBER and _FLOAT.fullmatch(token):
            value = float(token.rstrip("fF"))
        elif self.kind == _NAME and token.lower() in ("inf", "infinity", "nan"):
            value = float(token)
        elif self.kind == _NUMBER:
            self.error(f"{field.name!r} takes a decimal number such as 0.5, not {_short(token)}")
        else:
            self.expected(f"a number for {field.name!r}")
        self.advance()
        return -value if negative else value

    def read_bool(self, field: _Field) -> bool:
        value = _BOOLS.get(self.token)
        if self.kind == _NUMBER and re.fullmatch(r"(?:0[xX])?0*[01]", self.token):
            value = self.token.endswith("1")
        if value is None or self.kind == _STRING:
            self.expected(f"true or false for {field.name!r}")
        self.advance()
        return value

    def passes_over_value(self, message: Message, field: _Field, layer: Message | None) -> bool:
        """Say whether the value is one that the enum lacks and that is no error; step over it."""
        owner, token = message.DESCRIPTOR.name, self.token
        if self.strict or layer is None or owner in NEVER_PASSED_OVER:
            return False
        if self.kind == _NAME:
            if len(self.unknown) < _MAX_UNKNOWN and _misspelt(token, field.values):
                return False
        elif not _COUNT.fullmatch(token) or int(token) in field.numbers:
            return False
        self.note_skipped(field.name, self.start, message, layer, value=token)
        if owner == "V1LayerParameter" and field.name == "type":
            self.v1_types[self.v1_layers - 1] = token[:80]
        self.advance()
        return True

    def read_enum(self, field: _Field) -> int:
        if self.kind == _NUMBER or self.token == "-":
            place = self.start
            value = self.read_integer(field)
            if value not in field.numbers:
                self.error(
                    f"{field.name!r} has no value {value}; it takes {_choices(field)}", place
                )
            return value
        token = self.token
        if self.kind == _STRING:
            self.expected(f"one of {_choices(field)} for {field.name!r}, without quotes")
        if self.kind != _NAME:
            self.expected(f"one of {_choices(field)} for {field.name!r}")
        number = field.values.get(token)
        if number is None:
            meant = _near(token, field.values) or _near(token.upper(), field.values)
            self.error(
                f"{field.name!r} has no value {_short(token)}{meant or '; it takes '}"
                f"{'' if meant else _choices(field)}"
            )
        self.advance()
        return number

    def read_string(self, field: _Field) -> str:
        place = self.start
        try:
            return self.read_bytes(field).decode("utf-8")
        except UnicodeDecodeError:
            self.error(f"{field.name!r} is not UTF-8; save the file as UTF-8", place)

    def read_bytes(self, field: _Field) -> bytes:
        if self.kind != _STRING:
            quoted = f'; write "{self.token}"' if self.kind == _NAME else ""
            found = "the end of the text" if self.kind is _END else _short(self.token)
            self.error(f"expected a string in quotes for {field.name!r}, found {found}{quoted}")
        parts = []
        while self.kind == _STRING:
            try:
                part = self.token[1:-1].encode("utf-8", "surrogateescape")
            except UnicodeEncodeError:
                self.error(f"{field.name!r} holds half a surrogate pair, which UTF-8 cannot write")
            if b"\\" in part:
                part = _ESCAPE.sub(self.unescape, part)
            parts.append(part)
            self.advance()
        return b"".join(parts)

    def unescape(self, match: re.Match[bytes]) -> bytes:
        octal, hexadecimal, wide, units, letter = match.groups()
        if octal:
            return bytes([int(octal, 8) & 0xFF])
        if hexadecimal:
            return bytes([int(hexadecimal, 16)])
        try:
            if wide:
                return chr(int(wide, 16)).encode("utf-8")
            if units:
                return (
                    bytes.fromhex(units.replace(rb"\u", b"").decode()).decode("utf-16-be").encode()
                )
        except (ValueError, OverflowError):
            self.error(f"{match[0].decode()} names no character")
        if letter[0] not in _LETTER_ESCAPES:
            self.error(
                f"no escape starts with a backslash and {chr(letter[0])!r}; "
                r"write \\ for the backslash itself"
            )
        return bytes([_LETTER_ESCAPES[letter[0]]])

    # Fields the schema lacks

    def unknown_field(self, message: Message, layer: Message | None) -> None:
        name, start = self.token, self.start
        if not self.path and name in self.misplaced:
            self.error(f"{name!r} {self.misplaced[name]}")
        if self.strict:
            descriptor = message.DESCRIPTOR
            self.error(
                f"{_short(name)} is no field of {descriptor.name}{_near(name, _fields(descriptor))}"
            )
        self.advance()
        self.skip_value()
        self.note_skipped(name, start, message, layer)

    def note_skipped(
        self, name: str, start: int, message: Message, layer: Message | None, value: str = ""
    ) -> None:
        name = name[:80]
        if len(self.path) > 1:
            marker = varint(_SKIPPED_FIELD << 3 | BYTES) + varint(len(name)) + name.encode()
            message.MergeFromString(marker)
        key = (".".join([*self.path, name]), value[:80], id(layer))
        record = self.unknown.get(key)
        if record is None:
            if len(self.unknown) == _MAX_UNKNOWN:
                self.unlisted += 1
                return
            record = _Unknown(name, start, _fields(message.DESCRIPTOR), layer)
            self.unknown[key] = record
        record.count += 1

    def nothing_known(self, kind: str) -> NoReturn:
        first = min(self.unknown.values(), key=lambda record: record.start)
        self.error(
            f"{first.name!r} is no field of {kind}, nor is any other of this text", first.start
        )

    def skip_value(self) -> None:
        """Step over what follows a field's name; with a stack of its own, so of any depth."""
        open_: list[str] = []
        colon = self.accept(":")
        while True:
            # Before a value.
            if self.token in ("{", "<", "[") and len(open_) + len(self.path) >= MAX_DEPTH:
                self.error(f"messages are nested more than {MAX_DEPTH} deep")
            if self.kind == _MARK and self.token in _CLOSERS:
                open_.append(_CLOSERS[self.token])
                self.advance()
            elif self.token == "[":
                open_.append("]")
                self.advance()
                if self.token != "]":
                    colon = True
                    continue
            elif not colon:
                self.expected("':' or '{' behind a field's name")
            else:
                self.skip_scalar()
                self.skip_comma(open_)
            # Behind a value, or behind an opening brace or bracket.
            while open_ and self.token == open_[-1]:
                open_.pop()
                self.advance()
                self.skip_comma(open_)
            if not open_:
                self.separator()
                return
            if open_[-1] == "]":
                colon = True
            elif self.kind != _NAME:
                self.expected(f"a field's name or {open_[-1]!r}")
            else:
                self.advance()
                colon = self.accept(":")

    def skip_comma(self, open_: list[str]) -> None:
        """Step over what may stand between two values of a message or must, of a list."""
        if not open_:
            return
        if open_[-1] != "]":
            self.separator()
        elif self.token != "]":
            if self.token != ",":
                self.expected("',' or ']'")
            self.advance()
            if self.token == "]":
                self.expected("a value behind ','")

    def skip_scalar(self) -> None:
        if self.kind == _STRING:
            while self.kind == _STRING:
                self.advance()
            return
        negative = self.accept("-")
        if self.kind == _NUMBER:
            if not any(p.fullmatch(self.token) for p in (_FLOAT, _HEX, _OCTAL)):
                self.error(f"{_short(self.token)} is no number")
        elif self.kind != _NAME or (
            negative and self.token.lower() not in ("inf", "infinity", "nan")
        ):
            self.expected("a value")
        self.advance()

    def notes(self) -> list[str]:
        """Say what was skipped: one line a field and type of layer."""
        groups: dict[tuple[str, str, str], list[_Unknown]] = {}
        for (path, value, _), record in self.unknown.items():
            groups.setdefault((path, value, _text(record.layer, "type")), []).append(record)
        lines = []
        line, counted = 1, 0
        for (path, value, type_), records in list(groups.items())[:MAX_NOTES]:
            first, count = records[0], sum(record.count for record in records)
            line += self.text.count("\n", counted, first.start)
            counted = first.start
            name = _text(first.layer, "name")
            where = f" in layer {name!r}" if name else ""
            where += f" ({type_})" if type_ else ""
            more = f"; {count} such fields, this is the first" if count > 1 else ""
            what = f"the value {value} of {path!r}" if value else f"the field {path!r}"
            meant = "" if value else _near(first.name, first.table)
            lines.append(
                f"{self.filename}:{line}: skipped {what}{where}, "
                f"which the schema lacks{more}{meant}"
            )
        rest = self.unlisted + max(0, len(groups) - MAX_NOTES)
        if rest:
            lines.append(f"{self.filename}: skipped {rest} more fields that the schema lacks")
        return lines


def _text(layer: Any, name: str) -> str:
    """Return a layer's name or type, where it has one; V1's type by the enum's name."""
    if layer is None or not layer.HasField(name):
        return ""
    value = getattr(layer, name)
    if isinstance(value, int):
        return str(layer.DESCRIPTOR.fields_by_name[name].enum_type.values_by_number[value].name)
    return str(value)


def _choices(field: _Field) -> str:
    return ", ".join(field.values)


_READERS = {
    _F.TYPE_FLOAT: _Parser.read_float,
    _F.TYPE_DOUBLE: _Parser.read_float,
    _F.TYPE_BOOL: _Parser.read_bool,
    _F.TYPE_ENUM: _Parser.read_enum,
    _F.TYPE_STRING: _Parser.read_string,
    _F.TYPE_BYTES: _Parser.read_bytes,
}
