"""Measure what a net's length costs where the net is read, not run: time per layer, for two nets.

    python tools/bench_nets.py

One net has 1,000 layers and one 8,000. What takes time in proportion to the net has the same time
per layer in both, a ratio of 1; what compares each layer with all others has a ratio of 8.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from time import perf_counter

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.files.prototxt import parse_text
from caffe_margin.nets.plugin_text import from_python, to_python
from caffe_margin.nets.shapes import infer_shapes

LENGTHS = (1000, 8000)
REPETITIONS = 3


def chain(length: int, *, wired: bool = True) -> pb.NetParameter:
    """A net of ReLU layers, each on the one before it, or all on blobs that nobody makes."""
    net = pb.NetParameter()
    net.layer.add(name="in", type="Input", top=["b0"]).input_param.shape.add(dim=[1, 1])
    for i in range(length):
        bottom = f"b{i}" if wired else f"missing{i}"
        net.layer.add(name=f"r{i}", type="ReLU", bottom=[bottom], top=[f"b{i + 1}"])
    return net


def margins(length: int) -> str:
    """The text of a net of margin layers."""
    layer = """layer {
  name: "fc%d"
  type: "MarginInnerProduct"
  bottom: "x" bottom: "label" top: "fc%d"
  margin_inner_product_param { num_output: 10 }
}
"""
    return "".join(layer % (i, i) for i in range(length))


def contestants(length: int) -> dict[str, Callable[[], object]]:
    """What is measured, on nets of a length that stand already."""
    long, astray, text = chain(length), chain(length, wired=False), margins(length)
    python = to_python(text).text
    return {
        "parse_text": lambda: parse_text(text, pb.NetParameter()),
        "infer_shapes": lambda: infer_shapes(long),
        "infer_shapes, no bottom found": lambda: infer_shapes(astray),
        "to_python": lambda: to_python(text),
        "from_python": lambda: from_python(python),
    }


def seconds(call: Callable[[], object]) -> float:
    """The shortest time of a few calls."""
    times = []
    for _ in range(REPETITIONS):
        start = perf_counter()
        call()
        times.append(perf_counter() - start)
    return min(times)


def main(lengths: Sequence[int] = LENGTHS) -> int:
    """Print a line for each contestant."""
    short, long = map(contestants, lengths)
    print(f"{'microseconds a layer':31}" + "".join(f"{n:>8,}" for n in lengths) + "   ratio")
    for name, call in short.items():
        each = [1e6 * seconds(c) / n for c, n in zip((call, long[name]), lengths, strict=True)]
        print(f"{name:31}" + "".join(f"{time:8.1f}" for time in each) + f"{each[1] / each[0]:8.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
