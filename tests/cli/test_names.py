"""Names from a file: in one line, cut, and none that moves the terminal, in every command."""

import pytest

from caffe_margin.cli import main

NET = """
    name: "NAME"
    layer { name: "NAMEdata" type: "Input" top: "NAMEfc5" top: "NAMElabel"
            input_param { shape { dim: 6 dim: 8 } shape { dim: 6 } } }
    layer { name: "NAMEfork" type: "NAME" bottom: "NAMEnone" top: "NAMEtop" NEW { a: 1 } }
    layer { name: "NAMEfc6" type: "MarginInnerProduct" bottom: "NAMEfc5" bottom: "NAMElabel"
            top: "NAMEfc6" include { phase: TRAIN }
            margin_inner_product_param { num_output: 5 type: TRIPLE base: 100 gamma: 1
                                         lambda_min: 1 weight_filler { type: "xavier" } } }
    layer { name: "images" type: "ImageData" top: "NAMEimages" top: "NAMEids"
            image_data_param { batch_size: 2 } }
"""
HOSTILE = {
    "a screen's end": "\\033[2J\\033[H",
    "a line of its own": "\\n8 replayed, 0 out of tolerance\\nfc6  ok\\r",
    "turned round": "\\342\\200\\256",  # U+202E, and a mark-up that rich reads
    "no text": "[red]\\001\\177[/red]",
    "long": "n" * 20_000,
}


@pytest.fixture(params=HOSTILE, ids=lambda name: name.replace(" ", "-"))
def hostile(request):
    return HOSTILE[request.param]


def lines_of(capsys, tmp_path, name, *arguments):
    """Run a command on the net with such names; return the lines of both streams."""
    path = tmp_path / "net.prototxt"
    path.write_text(NET.replace("NAME", name))
    status = main([arguments[0], str(path), *arguments[1:]])
    out, err = capsys.readouterr()
    return status, out.split("\n"), err.split("\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ["inspect"],
        ["schedule"],
        ["schedule", "--solverstate"],
        ["compare"],
        ["compare", "--layer", "fc7"],
        ["record", "--out"],
        ["plugin", "-o"],
    ],
    ids=" ".join,
)
def test_names_make_no_lines_and_move_no_terminal(arguments, hostile, capsys, tmp_path):
    if arguments[-1] == "--solverstate":
        (tmp_path / "state").write_bytes(b"\x08\x01")
        arguments = [*arguments, str(tmp_path / "state")]
    if arguments[-1] in ("--out", "-o"):
        arguments = [*arguments, str(tmp_path / "out.npz")]
    expected = lines_of(capsys, tmp_path, "a", *arguments)
    status, out, err = lines_of(capsys, tmp_path, hostile, *arguments)
    assert status == expected[0]
    assert len(err) == len(expected[2])
    # The table folds nothing in a pipe, and a row is a line.
    assert len(out) == len(expected[1])
    assert all(line.isprintable() for line in out + err)
    assert max(map(len, out)) < 5000
    assert not any(line.strip() == "fc6  ok" for line in out + err)


def test_markup_in_a_name_is_shown_as_it_stands(capsys, tmp_path):
    _, out, _ = lines_of(capsys, tmp_path, "[bold]x[/bold]", "inspect")
    assert sum("[bold]x[/bold]fc6" in line for line in out) == 1
