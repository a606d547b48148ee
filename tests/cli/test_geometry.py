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
    assert "argument --out: x.jpg does not end in .png" in capsys.readouterr().err
