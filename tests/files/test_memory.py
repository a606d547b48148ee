"""What a hostile file costs: a few tens of bytes of memory for each of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from caffe_margin.files.wire import varint

pytest.importorskip("resource", reason="asks the system for the peak")

SIZE = 1_500_000
MOST = 60
"""Bytes a byte. What was not bounded took from 100 to 425."""

READ = """
import resource, sys, warnings
from caffe_margin.files.prototxt import read_net
warnings.simplefilter("ignore")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    print(len(read_net(sys.argv[1]).layer), "layers")
except ValueError as error:
    print(error)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def entry(number: int, value: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(value)) + value


NAMED = entry(100, entry(1, b"\x01"))  # a byte that is no text's
HOSTILE = {
    "list of layers": (b"layer:[" + b"{}," * (SIZE // 3) + b"{}]", "more layers"),
    "layers": (b"layer{}" * (SIZE // 7), "more layers"),
    "V1 layers": (b"layers{}" * (SIZE // 8), "more layers"),
    "params": (b"layer{param:[" + b"{}," * (SIZE // 3) + b"{}]}", "1 layers"),
    "unended escapes": (b'name:"' + rb"\n" * (SIZE // 2), "does not end on its line"),
    "escapes": (b'name:"' + rb"\n" * (SIZE // 2) + b'"', "0 layers"),
    "strings": (b"name:" + b"''" * (SIZE // 2), "0 layers"),
    "tops": (b"layer{top:[" + b"''," * (SIZE // 3) + b"'']}", "1 layers"),
    "binary layers": (NAMED + entry(100, b"") * (SIZE // 3), "more layers"),
    "binary V1 layers": (NAMED + entry(2, b"\x30\x01") * (SIZE // 4), "more layers"),
    "binary params": (
        NAMED + entry(100, entry(1, b"a") + entry(6, b"\x1d\0\0\0\0") * (SIZE // 7)),
        "2 layers",
    ),
    "binary unknown": (NAMED + entry(100, entry(1000, b"") * (SIZE // 3)), "2 layers"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_memory_is_linear_in_the_file(tmp_path: Path, case: str) -> None:
    content, said = HOSTILE[case]
    path = tmp_path / "net"
    path.write_bytes(content)
    program = [sys.executable, "-c", READ, str(path)]
    output = subprocess.run(program, capture_output=True, text=True, check=True).stdout
    *words, peak = output.splitlines()
    assert said in words[0]
    assert int(peak) * 1024 < MOST * len(content)


def test_what_people_write_is_read(tmp_path: Path) -> None:
    """The shortest layers that do something, more of them than any net has."""
    text = b"".join(b'layer{name:"%d"type:"ReLU"bottom:"a"top:"a"}\n' % i for i in range(30_000))
    path = tmp_path / "net"
    for content in (text, text.replace(b"layer", b"layers").replace(b'"ReLU"', b":RELU ")):
        path.write_bytes(content.replace(b"type::", b"type:"))
        program = [sys.executable, "-c", READ, str(path)]
        output = subprocess.run(program, capture_output=True, text=True, check=True).stdout
        assert output.startswith("30000 layers")


READ_RECORDING = """
import resource, sys
from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.files.npz import read_arrays
from caffe_margin.files.prototxt import parse_text
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    parse_text(str(read_arrays(sys.argv[1])["net"]), pb.NetParameter())
except ValueError as error:
    print(error)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_a_small_npz_that_unpacks_to_a_long_text(tmp_path: Path) -> None:
    text = "layer:[" + "{}," * 1_300_000 + "{}]"
    path = tmp_path / "net.npz"
    np.savez_compressed(path, net=np.array(text))
    assert path.stat().st_size < 50_000
    program = [sys.executable, "-c", READ_RECORDING, str(path)]
    output = subprocess.run(program, capture_output=True, text=True, check=True).stdout
    *words, peak = output.splitlines()
    assert "more layers" in words[0]
    assert int(peak) * 1024 < MOST * len(text)
