"""A file's bytes, and whether they are text: its content says so, not its name."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from caffe_margin.files.binary import FIRST_BYTES, MAX_BINARY_BYTES
from caffe_margin.files.regular import check_regular
from caffe_margin.files.text_format import MAX_TEXT_BYTES

StrPath = str | os.PathLike[str]

HEAD_BYTES = 4096
CONTROLS = bytes(set(range(32)) - set(b"\t\n\v\f\r")) + b"\x7f"
_SIGNATURES = (
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"\x89HDF", "an HDF5 file, which holds weights and no net"),
    (b"PK\x03\x04", "a zip archive (.npz and PyTorch files are zip archives)"),
    (b"\x1f\x8b", "a gzip archive; unpack it first"),
    (b"BZh", "a bzip2 archive; unpack it first"),
    (b"\xfd7zXZ", "an xz archive; unpack it first"),
    (b"7z\xbc\xaf", "a 7z archive; unpack it first"),
    (b"\x93NUMPY", "a numpy array (.npy)"),
    (b"\x7fELF", "a program or library (ELF)"),
    (b"%PDF", "a PDF document"),
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself; run git lfs pull"),
    (b"<!DOCTYPE", "a web page, not the file itself; download the raw file"),
    (b"<!doctype", "a web page, not the file itself; download the raw file"),
    (b"<html", "a web page, not the file itself; download the raw file"),
)


def load(path: StrPath) -> tuple[bytes, bool]:
    """Return a file's bytes and whether they are text; refuse before reading what is neither."""
    check_regular(path)
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        head = file.read(HEAD_BYTES)
        text = is_text(path, head)
        limit = MAX_TEXT_BYTES if text else MAX_BINARY_BYTES
        if size > limit:
            kind = "text" if text else "binary file"
            raise ValueError(
                f"{path}: a {kind} of {size} bytes; a net of more than {limit} is not read"
            )
        return head + file.read(limit - len(head)), text


def is_text(path: StrPath, head: bytes) -> bool:
    """Return whether a file is text, by its first `HEAD_BYTES`; refuse what is no net's."""
    if not head:
        raise ValueError(f"{path}: the file is empty")
    for signature, what in _SIGNATURES:
        if head.startswith(signature):
            raise ValueError(f"{path}: neither a prototxt nor a caffemodel but {what}")
    few, many = sorted((head[::2].count(0), head[1::2].count(0)))
    if head[:2] in (b"\xff\xfe", b"\xfe\xff") or (many > 0.4 * len(head) and not few):
        raise ValueError(f"{path}: the text is UTF-16; save it as UTF-8")
    controls = len(head) - len(head.translate(None, CONTROLS))
    if not controls:
        return True
    if head[0] in FIRST_BYTES:
        return False
    if controls < 0.02 * len(head) and head.isascii():
        return True  # a stray control character; the parser's error says where
    raise ValueError(
        f"{path}: neither a prototxt nor a caffemodel; it starts with {head[:8].hex(' ')}"
    )


def decode(data: bytes) -> str:
    """Return a text that may have comments in any encoding.

    The parser refuses a string that is not UTF-8.
    """
    return data.decode("utf-8", "surrogateescape")


@contextlib.contextmanager
def naming(what: object) -> Iterator[None]:
    """Put what is being read before the message of a ValueError."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from None
