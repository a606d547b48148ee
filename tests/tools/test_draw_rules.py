import numpy as np
import pytest

pytest.importorskip("matplotlib")
import draw_rules

from caffe_margin.report.rules_figure import COLUMNS
from caffe_margin.report.rules_figure import draw_rules as draw
from caffe_margin.study.published import HEADS, Parts


def test_writes_a_picture(tmp_path, monkeypatch, capsys):
    out = tmp_path / "rules.png"
    monkeypatch.setattr("sys.argv", ["draw_rules.py", "--out", str(out)])
    draw_rules.main()
    assert out.read_bytes().startswith(b"\x89PNG")
    assert capsys.readouterr().out == f"wrote {out}\n"


def test_a_row_a_head_and_every_part_where_its_column_says():
    theta = np.linspace(0.1, 3, 5)
    found = {
        head.name: {
            x_norm: Parts(*(theta + 10 * i + j + x_norm for j in range(4)))
            for x_norm in (10.0, 30.0)
        }
        for i, head in enumerate(HEADS)
    }
    figure = draw(theta, found, ["a note"])
    axes = np.reshape(figure.axes, (len(HEADS), len(COLUMNS)))
    for i, row in enumerate(axes):
        assert row[0].texts[0].get_text() == HEADS[i].name
        for j, ax in enumerate(row):
            for line, x_norm in zip(ax.lines, (10, 30), strict=False):
                np.testing.assert_array_equal(line.get_xdata(), np.degrees(theta))
                np.testing.assert_array_equal(line.get_ydata(), theta + 10 * i + j + x_norm)
    assert [ax.get_title(loc="left") or ax.get_title() for ax in axes[0]] == [
        title for _, title in COLUMNS
    ]
