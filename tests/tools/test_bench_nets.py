"""tools/bench_nets.py, on nets too short to time anything."""

import pytest

import bench_nets
from caffe_margin.files.prototxt import parse_text
from caffe_margin.nets.shapes import infer_shapes


def test_a_line_for_each_contestant(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench_nets.main((2, 3)) == 0
    title, *lines = capsys.readouterr().out.splitlines()
    assert title.split() == ["microseconds", "a", "layer", "2", "3", "ratio"]
    assert len(lines) == len(bench_nets.contestants(1))
    assert all(float(number) > 0 for line in lines for number in line.split()[-3:])


def test_the_nets() -> None:
    layers = infer_shapes(bench_nets.chain(5))
    assert [layer.problem for layer in layers] == [None] * 6
    problems = [layer.problem for layer in infer_shapes(bench_nets.chain(5, wired=False))]
    assert all("is nobody's top" in str(problem) for problem in problems[1:])
    net = parse_text(bench_nets.margins(4), bench_nets.pb.NetParameter())
    assert [layer.type for layer in net.layer] == ["MarginInnerProduct"] * 4
