import json

import pytest

from caffe_margin.cli import main
from helpers.places import MODELS

MODEL = MODELS / "sphereface_model.prototxt"


def test_listing(capsys):
    assert main(["inspect", str(MODEL), "--shape", "data=256,3,112,96"]) == 0
    out = capsys.readouterr().out
    assert "conv4_3" in out
    assert "256x512x7x6" in out
    assert "5,412,864" in out
    # counted by Caffe itself
    assert out.endswith("SpherefaceNet-20: 52 layers in TRAIN, 28,083,520 parameters\n")


def test_unknown_size_of_images(capsys):
    assert main(["inspect", str(MODEL)]) == 0
    out = capsys.readouterr().out
    assert "data 256x3x?x?" in out
    assert out.endswith("? parameters\n")


def test_json(capsys):
    assert main(["inspect", str(MODEL), "--json", "--shape", "data=256,3,112,96"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert value["param_count"] == 28083520
    (fc6,) = (layer for layer in value["layers"] if layer["name"] == "fc6")
    assert fc6["tops"] == {"fc6": [256, 10572], "lambda": [1]}
    assert fc6["params"] == [[10572, 512]]


def test_problem_is_shown_and_the_rest_goes_on(capsys, tmp_path):
    path = tmp_path / "net.prototxt"
    path.write_text(
        """
        layer { name: "data" type: "Input" top: "a" input_param { shape { dim: 2 dim: 3 } } }
        layer { name: "odd[1]" type: "Mystery" bottom: "a" top: "b" }
        layer { name: "ip" type: "InnerProduct" bottom: "a" top: "c"
                inner_product_param { num_output: 4 } }
        """
    )
    assert main(["inspect", str(path)]) == 0
    out = capsys.readouterr().out
    assert "odd[1]" in out
    assert "Mystery" in out
    assert "c 2x4" in out


def test_phase(capsys, tmp_path):
    path = tmp_path / "net.prototxt"
    path.write_text(
        """
        layer { name: "train" type: "Input" top: "a" include { phase: TRAIN } }
        layer { name: "test" type: "Input" top: "a" include { phase: TEST } }
        """
    )
    main(["inspect", str(path), "--phase", "TEST"])
    out = capsys.readouterr().out
    assert "test" in out
    assert "train" not in out


@pytest.mark.parametrize("shape", ["data", "data=", "=1,2", "data=1,x"])
def test_bad_shape(shape, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["inspect", str(MODEL), "--shape", shape])
    assert "is not like data=256,3,112,96" in capsys.readouterr().err


def test_shape_of_an_unknown_blob(capsys):
    assert main(["inspect", str(MODEL), "--shape", "date=1,3,112,96"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "date" in err
    assert "data" in err
