import json
import math

import pytest

from caffe_margin.cli import main


def test_table_and_bounds(capsys):
    assert main(["geometry", "--m", "2", "4"]) == 0
    out = capsys.readouterr().out
    rows = {
        line.split()[0]: line.split()[1:]
        for line in out.splitlines()
        if line.startswith(("2 ", "4 "))
    }
    # 90/(m + 1), 90/(m - 1), their sum, and what they leave of 90.
    assert rows["2"] == ["30.000", "90.000", "120.000", "30.000", "no"]
    assert rows["4"] == ["18.000", "30.000", "48.000", "54.000", "yes"]
    assert out.count("3.732050808") == 2
    assert out.count("3.000000000") == 2


def test_json(capsys):
    assert main(["geometry", "--m", "3", "--angle", "60", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    (claim,) = found["claims"]
    assert claim["inner_boundary"] == pytest.approx(math.radians(15))
    assert claim["outer_boundary"] == pytest.approx(math.radians(30))
    assert claim["margin"] == pytest.approx(math.radians(30))
    for row in found["m_min_of_two"]:
        assert row["searched"] == pytest.approx(row["formula"], rel=1e-9)
    assert {row["classes"] for row in found["m_min_of_more"]} == set(range(3, 9))


def test_picture(tmp_path, capsys):
    image = pytest.importorskip("matplotlib.image")
    path = tmp_path / "geometry.png"
    assert main(["geometry", "--out", str(path)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(path)
    assert image.imread(path).shape[1] == 1440
    assert [p.name for p in tmp_path.iterdir()] == ["geometry.png"]


def test_lengths_in_the_table(capsys):
    assert main(["geometry", "--m", "1", "4", "--lengths", "1", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    start = lines.index("L-Softmax, |w1| = 1 and |w2| = 2; from w1 toward w2")
    row = next(line.split() for line in lines[start:] if line.startswith("1 "))
    # Plain scores: w1 reaches atan((1 - 2 cos 90)/(2 sin 90)) toward w2, a half circle in all.
    end = math.degrees(math.atan(0.5))
    assert row[2:5] == ["-135.000", "to", "45.000"]
    assert row[6:9] == [f"{end - 180:.3f}", "to", f"{end:.3f}"]
    # What lies between the two lines, on both sides.
    assert float(row[-1]) == pytest.approx(2 * (45 - end), abs=1e-3)
    assert "|x| cancels" in lines[-1]


def test_lengths_in_json(capsys):
    arguments = ["geometry", "--m", "3", "4", "--angle", "20", "--lengths", "1", "4", "--json"]
    assert main(arguments) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["lengths"] == [1, 4]
    three, four = found["claims_of_lengths"]
    ((begin, end),) = three["l_softmax"][0]
    # In closed form they are from -pi to pi, and so is this sector.
    assert three["l_softmax_formula_of_first"] == pytest.approx([begin, end])
    assert four["l_softmax"][0] == four["l_softmax_formula_of_first"] == []
    assert four["l_softmax_margin"] is None
    assert four["a_softmax_margin"] == pytest.approx(math.radians(12))
    (lost,) = (d for d in four["disagreements"] if d["a_softmax"] == 1 and d["l_softmax"] == 0)
    assert lost["from"] % (2 * math.pi) == pytest.approx(2 * math.pi - math.radians(20 / 3))


def test_picture_of_lengths(tmp_path, capsys):
    image = pytest.importorskip("matplotlib.image")
    path = tmp_path / "geometry.png"
    assert main(["geometry", "--angle", "20", "--lengths", "1", "4", "--out", str(path)]) == 0
    assert "nothing" in capsys.readouterr().out
    plain = tmp_path / "plain.png"
    assert main(["geometry", "--angle", "20", "--out", str(plain)]) == 0
    # A row of circles more.
    assert image.imread(path).shape[0] > image.imread(plain).shape[0]


@pytest.mark.parametrize("lengths", [["0", "1"], ["1", "inf"], ["1"], ["x", "1"]])
def test_lengths_refused(lengths):
    with pytest.raises(SystemExit, match="2"):
        main(["geometry", "--lengths", *lengths])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--m", "1", "2", "3", "4", "5", "--out", "x.png"], "room for four m"),
        (["--m", "65"], "at most 64"),
        (["--out", "no/such/folder/x.png"], "there is no folder"),
    ],
)
def test_refused(arguments, message, capsys):
    if "--out" in arguments:
        pytest.importorskip("matplotlib")
    assert main(["geometry", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("angle", ["0", "181", "nan", "x"])
def test_angles_refused(angle):
    with pytest.raises(SystemExit):
        main(["geometry", "--angle", angle])


def test_the_picture_is_a_png(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["geometry", "--out", "x.jpg"])
    assert "argument -o/--out: x.jpg does not end in .png" in capsys.readouterr().err
