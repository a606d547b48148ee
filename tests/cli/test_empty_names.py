"""What a shell makes of an unset variable is no file's name: refused before anything runs."""

import pytest

from caffe_margin.cli import main
from helpers.places import MODELS

NET = str(MODELS / "sphereface_model.prototxt")


@pytest.mark.parametrize(
    "arguments",
    [
        ["inspect", ""],
        ["compare", NET, "--weights", ""],
        ["compare", NET, "--features", ""],
        ["compare", NET, "--report", ""],
        ["record", NET, "-o", ""],
        ["schedule", NET, "--solver", ""],
        ["schedule", NET, "--solverstate", ""],
        ["schedule", NET, "--plot", ""],
        ["plugin", NET, "-o", ""],
        ["geometry", "--out", ""],
        ["verify", ""],
    ],
    ids=lambda arguments: f"{arguments[0]} {arguments[-2]}",
)
def test_refused(arguments, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    printed = capsys.readouterr()
    assert not printed.out
    assert "empty string" in printed.err
