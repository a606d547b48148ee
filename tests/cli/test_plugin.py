import numpy as np
import pytest

from caffe_margin import read_net, write_weights
from caffe_margin.cli import main
from helpers.places import MODELS

MODEL = MODELS / "sphereface_model.prototxt"


def test_there_and_back(tmp_path, capfd):
    plugin, back = tmp_path / "plugin.prototxt", tmp_path / "back.prototxt"
    assert main(["plugin", str(MODEL), "-o", str(plugin)]) == 0
    assert capfd.readouterr() == ("", "caffe-margin: layer 'fc6' is a Python layer now\n")
    assert [x.type for x in read_net(plugin).layer].count("Python") == 1
    assert main(["plugin", "--reverse", str(plugin), "-o", str(back)]) == 0
    assert capfd.readouterr() == (
        "",
        "caffe-margin: layer 'fc6' is a MarginInnerProduct layer now\n",
    )
    assert back.read_bytes() == MODEL.read_bytes()


def test_standard_output_and_bytes_that_are_no_utf8(tmp_path, capfdbinary):
    model, plugin = tmp_path / "model.prototxt", tmp_path / "plugin.prototxt"
    model.write_bytes(b"# \xb2\xe3\r\n" + MODEL.read_bytes().replace(b"\n", b"\r\n"))
    assert main(["plugin", str(model)]) == 0
    text = capfdbinary.readouterr().out
    assert text.startswith(b"# \xb2\xe3\r\n")
    plugin.write_bytes(text)
    assert main(["plugin", "--reverse", str(plugin)]) == 0
    assert capfdbinary.readouterr().out == model.read_bytes()


@pytest.mark.parametrize("option", ["-o", "--out", "--output"])
def test_names_of_the_output(option, tmp_path, capfd):
    assert main(["plugin", str(MODEL), option, str(tmp_path / "plugin.prototxt")]) == 0
    written = (tmp_path / "plugin.prototxt").read_text()
    assert not capfd.readouterr().out
    assert main(["plugin", str(MODEL)]) == 0
    assert capfd.readouterr().out == written


def test_in_place(tmp_path):
    path = tmp_path / "net.prototxt"
    path.write_bytes(MODEL.read_bytes())
    assert main(["plugin", str(path), "-o", str(path)]) == 0
    assert main(["plugin", "--reverse", str(path), "-o", str(path)]) == 0
    assert path.read_bytes() == MODEL.read_bytes()


def test_gradient_is_no_field_of_caffes(tmp_path, capsys):
    path = tmp_path / "net.prototxt"
    text = MODEL.read_text().replace("iteration: 0", "iteration: 0 gradient: EXACT")
    path.write_text(text)
    assert main(["plugin", str(path), "-o", str(path)]) == 0
    assert "warning" not in capsys.readouterr().err
    assert main(["plugin", "--reverse", str(path), "-o", str(path)]) == 0
    assert "warning: layer 'fc6': the C++ knows no `gradient`" in capsys.readouterr().err
    assert path.read_text() == text


def test_large_margin(tmp_path, capfd):
    text = MODEL.read_text().replace('"MarginInner', '"LargeMarginInner')
    text = text.replace("margin_inner_product_param", "largemargin_inner_product_param")
    text = text.replace("iteration: 0", "iteration: 0 gradient: DETACHED")
    path = tmp_path / "net.prototxt"
    path.write_text(text)
    assert main(["plugin", str(path), "-o", str(path)]) == 0
    assert 'layer: "LargeMarginInnerProductLayer"' in path.read_text()
    capfd.readouterr()
    assert main(["plugin", "--reverse", str(path), "-o", str(path)]) == 0
    err = capfd.readouterr().err
    assert "layer 'fc6' is a LargeMarginInnerProduct layer now" in err
    assert "warning: layer 'fc6': the C++ knows no `gradient`" in err
    assert path.read_text() == text


@pytest.mark.parametrize("reverse", [[], ["--reverse"]])
def test_weights_are_left_alone(tmp_path, capsys, reverse):
    path = tmp_path / "net.caffemodel"
    write_weights({"fc6": [np.ones((3, 2), np.float32)]}, path)
    assert main(["plugin", str(path), *reverse]) == 2
    assert "holds weights, which fit both nets as they are" in capsys.readouterr().err


def test_bad_input_writes_nothing(tmp_path, capsys):
    output = tmp_path / "plugin.prototxt"
    path = tmp_path / "net.prototxt"
    for text, message in [
        ('layer { name: "a" type: "InnerProduct" }', ": the net has no layer of type 'MarginInner"),
        (
            '\nlayer { type: "MarginInnerProduct" }',
            ":2: layer '' has no margin_inner_product_param",
        ),
        ('layers { name: "a" type: RELU }', ": the net is of the old form (`layers`)"),
        ("net: 'n'", " is a solver; give its net, n, in its place"),
    ]:
        path.write_text(text)
        assert main(["plugin", str(path), "-o", str(output)]) == 2
        assert f"{path}{message}" in capsys.readouterr().err
        assert not output.exists()


def test_names_are_shown_harmless(tmp_path, capsys):
    path = tmp_path / "net.prototxt"
    path.write_text(MODEL.read_text().replace('name: "fc6"', r'name: "a\nb\033[2J"'))
    assert main(["plugin", str(path), "-o", str(path)]) == 0
    expected = "caffe-margin: layer 'a\\nb\\x1b[2J' is a Python layer now\n"
    assert capsys.readouterr().err == expected


def test_help_asks_for_no_caffemodel(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["plugin", "--help"])
    assert "caffemodel" not in capsys.readouterr().out
