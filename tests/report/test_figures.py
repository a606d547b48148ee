import os

import numpy as np
import pytest

from caffe_margin.cli import main

pytest.importorskip("matplotlib")
from caffe_margin.report import figures
from caffe_margin.solver.schedule import Curve

NET = """
    layer { name: "fc6" type: "MarginInnerProduct" bottom: "x" bottom: "label" top: "fc"
            margin_inner_product_param { num_output: 4 type: QUADRUPLE base: 50 gamma: 0.5 power: 1
                                         lambda_min: 2 weight_filler { type: "xavier" } } }
"""


@pytest.mark.parametrize(
    ("net", "layer", "title"),
    [
        ("a", "b", "a: b"),
        (os.fsdecode(b"caf\xe9"), "fc\n6\x1b[2J", r"caf\udce9: fc\n6\x1b[2J"),
        ("$x$", "\u202ecf", r"$x$: \u202ecf"),
        (10**6 * "a", 10**6 * "b", f"{37 * 'a'}...: {27 * 'b'}..."),
    ],
    ids=["plain", "control", "mathematics", "long"],
)
def test_names_in_a_title(tmp_path, net, layer, title):
    curve = Curve(np.arange(1, 9), np.linspace(50, 2, 8))
    figure = figures.annealing_of_run(curve, 8, net, layer)
    above, below = figure.axes
    lines = above.get_title(loc="left").splitlines()
    assert lines == [title, "lambda_min, 2, from iteration 8 on (dashed)"]
    figures.save(figure, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    # The title ends within the picture.
    box = above.get_tightbbox()
    assert box.x1 <= figure.bbox.x1
    np.testing.assert_allclose(below.lines[-1].get_ydata(), 100 / (1 + np.linspace(50, 2, 8)))


@pytest.mark.skipif(os.name != "posix", reason="paths are text here")
def test_a_path_that_is_no_text(tmp_path, capsys):
    net = os.fsencode(tmp_path) + b"/caf\xe9.prototxt"
    with open(net, "w") as file:
        file.write(NET)
    out = tmp_path / "annealing.png"
    assert main(["schedule", os.fsdecode(net), "--plot", str(out)]) == 0
    assert out.read_bytes().startswith(b"\x89PNG")
    report = tmp_path / "report"
    features = tmp_path / "batch.npz"
    np.savez(features, x=np.eye(4, 6), label=np.arange(4), weight=np.eye(4, 6)[::-1] + 0.1)
    arguments = ["compare", os.fsdecode(net), "--features", str(features)]
    assert main([*arguments, "--report", str(report)]) == 0
    assert r"caf\udce9.prototxt</td>" in (report / "index.html").read_text("utf-8")
