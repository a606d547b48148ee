import json

import pytest

from caffe_margin.cli import main
from helpers.places import DATA, MODELS

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
    assert out.endswith("? parameters\ngive the shape of 'data' by --shape data=256,3,H,W\n")


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


@pytest.mark.parametrize(
    ("case", "lines"),
    [
        ("fc_below_data", ["give the shape of 'data' by --shape data=4,3,H,W"]),
        ("python_layer", ["give the shape of 'y' by --shape y=D,D,..."]),
        ("margin_unknown_below", ["fc6 8x10  lambda 1", "1,934 parameters"]),
        ("pool_round_mode", ["y 1x2x2x2"]),
        ("pool_ceil_mode", ["y ?", "no shape is certain with the field 'ceil_mode'"]),
        ("reshape_message", ["43320 elements into (1, 18, -1, 38)"]),
        (
            "misleading_suggestion",
            ["z 1x4x1x1", "w 1x1x1x4"],
        ),
    ],
)
def test_cases(case, lines, capsys):
    assert main(["inspect", str(DATA / "cases" / f"{case}.prototxt")]) == 0
    out, err = capsys.readouterr()
    for line in lines:
        assert line in out
    assert "did you mean" not in out
    assert ("warning" in err) == (case == "pool_ceil_mode")


def test_a_known_shape_is_not_asked_for(capsys):
    path = str(DATA / "cases" / "fc_below_data.prototxt")
    assert main(["inspect", path, "--shape", "data=4,3,2,2"]) == 0
    # 3 * 2 * 2 weights and a bias for each of 16 outputs
    assert capsys.readouterr().out.endswith(": 2 layers in TRAIN, 208 parameters\n")


def test_only_some_unknown_shapes_are_named(capsys, tmp_path):
    path = tmp_path / "net.prototxt"
    tops = " ".join(f'top: "t {i}"' for i in range(7))
    path.write_text(f'layer {{ name: "h" type: "HDF5Data" {tops} }}')
    assert main(["inspect", str(path)]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("give the shape of 't 0', 't 1', 't 2', 't 3' (3 more) by --shape 't 0=")


def test_weights_say_the_parameters(capsys):
    assert main(["inspect", str(DATA / "cases" / "weights_of_unknown_input.caffemodel")]) == 0
    out = capsys.readouterr().out
    assert "2 layers in TRAIN, 26 parameters\n" in out  # the file's blobs: 2 x 12 and 2


def test_stage(capsys):
    path = str(DATA / "cases" / "stage_net.prototxt")
    assert main(["inspect", path, "--stage", "deploy"]) == 0
    out = capsys.readouterr().out
    assert "x 1x3" in out
    assert "y 1x2" in out
    assert "2 layers in TRAIN, 8 parameters" in out
    assert main(["inspect", path, "--stage", "train", "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert value["stages"] == ["train"]
    assert value["layers"][0]["tops"] == {"x": [4, 3]}


def test_level(capsys, tmp_path):
    path = tmp_path / "net.prototxt"
    rule = "include { min_level: 2 }"
    path.write_text(
        f'layer {{ name: "deep" type: "Input" top: "a" {rule} input_param {{ shape {{}} }} }}'
    )
    for level, layers in (("1", 0), ("2", 1)):
        assert main(["inspect", str(path), "--level", level]) == 0
        assert f"{layers} layers in TRAIN" in capsys.readouterr().out


def test_solver_in_the_nets_place(capsys):
    path = str(DATA / "cases" / "solver_given_to_inspect.prototxt")
    assert main(["inspect", path]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "is a solver; give its net, n.prototxt" in line
    assert f"caffe-margin schedule n.prototxt --solver {path}" in line
    assert "read_solver" not in line


def test_labelmap(capsys):
    assert main(["inspect", str(DATA / "cases" / "labelmap.prototxt")]) == 2
    assert "'item' is no field of a net" in capsys.readouterr().err
