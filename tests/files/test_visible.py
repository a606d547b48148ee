import os
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from caffe_margin.files.visible import LIMIT, visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("fc6", "fc6"),
        ("", ""),
        ("conv 1/größe 人脸 😀", "conv 1/größe 人脸 😀"),
        ("fc6\nok  layer.npz", r"fc6\nok  layer.npz"),
        ("a\r\t\0b", r"a\r\t\x00b"),
        ("\x1b[31mred\x9b0m\x7f", r"\x1b[31mred\x9b0m\x7f"),
        ("abc\u202edcb\u2066", r"abc\u202edcb\u2066"),
        ("zero\u200bwidth\ufeff", r"zero\u200bwidth\ufeff"),
        ("line\u2028paragraph\u2029next\x85", r"line\u2028paragraph\u2029next\x85"),
        (os.fsdecode(b"caf\xe9.prototxt"), r"caf\udce9.prototxt"),
        ("\U000e0041", r"\U000e0041"),
        (r"C:\nets", r"C:\nets"),
    ],
)
def test_shown(text, shown):
    assert visible(text) == shown


@given(st.text(st.characters(), max_size=40), st.integers(3, 60))
def test_it_prints_on_one_line_and_is_short(text, limit):
    shown = visible(text, limit)
    assert len(shown) <= limit
    assert len(shown.splitlines()) <= 1
    assert not {unicodedata.category(c) for c in shown} & {"Cc", "Cf", "Cs", "Zl", "Zp"}
    shown.encode("utf-8")


@given(st.text(st.characters(), max_size=40), st.integers(3, 60))
def test_nothing_is_cut_without_need(text, limit):
    whole = visible(text, 10 * len(text) + 3)
    shown = visible(text, limit)
    if len(whole) <= limit:
        assert shown == whole
    else:
        # An escape has at most ten characters, and goes as one.
        assert limit - 10 < len(shown) + 1
        assert shown.endswith("...")
        assert whole.startswith(shown[:-3])


@pytest.mark.parametrize("length", [LIMIT - 1, LIMIT, LIMIT + 1, 10**8])
def test_a_long_name(length):
    expected = "a" * length if length <= LIMIT else "a" * (LIMIT - 3) + "..."
    assert visible("a" * length) == expected


def test_no_escape_is_cut_in_two():
    assert visible("abc\u202edef", 12) == r"abc\u202edef"
    assert visible("abc\u202edefg", 11) == "abc..."
    assert visible("abc\u202edefg", 12) == r"abc\u202e..."
