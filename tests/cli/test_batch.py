"""The batch a command runs on: its shape, and the memory it takes before anything is drawn."""

import json
import tracemalloc

import numpy as np
import pytest

from caffe_margin import cli
from caffe_margin.cli import batch, main
from caffe_margin.files.npz import read_arrays
from caffe_margin.nets import fillers
from caffe_margin.study.compare import compare
from caffe_margin.study.study import study
from helpers.places import DATA, MODELS

MODEL = str(MODELS / "sphereface_model.prototxt")
NET = """
    layer {{ name: "data" type: "Input" top: "fc5" top: "label"
            input_param {{ shape {{ dim: 6 dim: {K} }} shape {{ dim: 6 }} }} }}
    layer {{ name: "fc6" type: "MarginInnerProduct" bottom: "fc5" bottom: "label" top: "fc6"
            margin_inner_product_param {{ num_output: {N} type: QUADRUPLE base: 5 lambda_min: 5
                                         weight_filler {{ type: "xavier" }} }} }}
"""


@pytest.fixture
def net(tmp_path):
    def write(N, K):
        path = tmp_path / "net.prototxt"
        path.write_text(NET.format(N=N, K=K))
        return str(path)

    return write


@pytest.fixture
def nothing_is_drawn(monkeypatch):
    def draw(*_, **__):
        raise AssertionError("something was drawn")

    monkeypatch.setattr(fillers, "fill", draw)


@pytest.mark.parametrize("command", [["compare"], ["record", "--out", "x.npz"]])
@pytest.mark.usefixtures("nothing_is_drawn")
def test_more_than_the_machine_has_is_refused(command, net, capsys):
    assert main([*command, MODEL, "--batch", "1000000000"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "M = 1000000000, N = 10572, K = 512 in float32 takes some " in err
    assert err.endswith("are free: give a smaller --batch\n")
    assert err.count("\n") == 1
    assert main([*command, net(2_000_000_000, 512)]) == 2
    assert capsys.readouterr().err.endswith("no --batch is small enough\n")


@pytest.mark.usefixtures("nothing_is_drawn")
def test_what_is_free_decides(net, monkeypatch, capsys):
    needed = batch.bytes_of(50, 70, 20, itemsize=8, report=False)
    monkeypatch.setattr(batch, "free_memory", lambda: needed - 1)
    command = ["compare", net(70, 20), "--batch", "50", "--dtype", "float64"]
    assert main(command) == 2
    assert "a smaller --batch" in capsys.readouterr().err
    for free in (needed, None):
        monkeypatch.setattr(batch, "free_memory", lambda free=free: free)
        with pytest.raises(AssertionError, match="something was drawn"):
            main(command)


def test_given_features_count_as_they_are(net, monkeypatch, tmp_path, capsys):
    rng = np.random.default_rng(0)
    arrays = {"x": rng.normal(size=(9, 4)), "label": np.arange(9) % 3}
    np.savez(tmp_path / "features.npz", **arrays)
    command = ["compare", net(1000, 4), "--features", str(tmp_path / "features.npz")]
    # six samples of three classes, as the labels have, and not the net's thousand
    needed = batch.bytes_of(6, 3, 4, itemsize=8, report=False)
    monkeypatch.setattr(batch, "free_memory", lambda: needed)
    assert main(command) == 2
    assert "M = 9, N = 3, K = 4 in float64" in capsys.readouterr().err
    assert main([*command, "--batch", "6", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["M"] == 6


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("report", [False, True])
@pytest.mark.parametrize("shape", [(500, 900, 5), (4000, 8, 120), (8, 4000, 120)])
def test_the_estimate_is_what_is_taken(net, shape, report, dtype):
    """By numpy's own report of what it allocates."""
    M, N, K = shape
    command = ["compare", net(N, K), "--batch", str(M), "--dtype", dtype]
    options = cli._parser().parse_args(command)
    read = batch.read_layer(options)
    compare(batch.read_batch(options, *read)[0])  # what is imported and compiled does not count
    tracemalloc.start()
    try:
        drawn, _ = batch.read_batch(options, *read)
        comparison = compare(drawn)
        if report:
            study(comparison, drawn)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    estimate = batch.bytes_of(M, N, K, np.dtype(dtype).itemsize, report)
    assert 0.8 < estimate / peak < 1.25


def test_free_memory_is_a_number_of_bytes():
    free = batch.free_memory()
    assert free is None or 2**20 < free < 2**50


def margin_net(below):
    """A net of a head on ``below``, which says what fc5 is."""
    return f"""
        {below}
        layer {{ name: "fc6" type: "MarginInnerProduct" bottom: "fc5" bottom: "label" top: "fc6"
                margin_inner_product_param {{ num_output: 10 base: 5 lambda_min: 5
                                             weight_filler {{ type: "xavier" }} }} }}
    """


def shapes_of(capsys, tmp_path, command, path, *arguments):
    """M, N and K of what a command ran on."""
    out = ["--out", str(tmp_path / "out.npz")] if command == "record" else []
    status = main([command, str(path), *out, *arguments, "--json"])
    captured = capsys.readouterr()
    if status:
        return captured.err
    value = json.loads(captured.out)
    return value["M"], value["N"], value["K"]


BOTH = pytest.mark.parametrize("command", ["compare", "record"])


@BOTH
def test_k_comes_from_the_inner_product_below_whatever_lies_under_it(command, capsys, tmp_path):
    case = DATA / "cases" / "margin_unknown_below.prototxt"
    assert shapes_of(capsys, tmp_path, command, case) == (8, 10, 16)
    # of a layer that nobody knows
    path = tmp_path / "net.prototxt"
    path.write_text(case.read_text().replace("DepthwiseConvolution", "Enigma"))
    assert shapes_of(capsys, tmp_path, command, path, "--batch", "3") == (3, 10, 16)


@BOTH
def test_a_weight_of_zeros_is_not_drawn(command, capsys, tmp_path):
    """Caffe's default filler; no row of it has a direction."""
    path = str(DATA / "cases" / "margin_unknown_below.prototxt")
    out = ["--out", str(tmp_path / "out.npz")] if command == "record" else []
    assert main([command, path, *out]) == 0
    expected = "drawn by the filler 'xavier', seed 0, for the net's own fills with zeros\n"
    assert f"weight    {expected}" in capsys.readouterr().out
    if command == "record":
        weight = read_arrays(tmp_path / "out.npz")["blob0_data_before"]
        assert 0.1 < np.abs(weight).max() <= np.sqrt(3 / 16)  # uniform, by K


@BOTH
def test_shape(command, capsys, tmp_path):
    path = tmp_path / "net.prototxt"
    path.write_text(margin_net('layer { name: "d" type: "HDF5Data" top: "fc5" top: "label" }'))
    assert "give --shape" in shapes_of(capsys, tmp_path, command, path)
    shape = ["--shape", "fc5=7,3,2"]
    assert shapes_of(capsys, tmp_path, command, path, *shape) == (7, 10, 6)
    assert shapes_of(capsys, tmp_path, command, path, *shape, "--batch", "4") == (4, 10, 6)
    assert "fc4" in shapes_of(capsys, tmp_path, command, path, "--shape", "fc4=7,3")


DATA_LAYER = """
    layer {{ name: "{0}" type: "Input" top: "fc5" top: "label" include {{ {1} }}
            input_param {{ shape {{ dim: {2} dim: {3} }} shape {{ dim: {2} }} }} }}
"""


@BOTH
def test_stage_level_and_phase(command, capsys, tmp_path):
    path = tmp_path / "net.prototxt"
    path.write_text(
        margin_net(
            DATA_LAYER.format("a", 'stage: "small"', 3, 4)
            + DATA_LAYER.format("b", 'stage: "large" phase: TRAIN', 30, 40)
            + DATA_LAYER.format("c", "min_level: 2", 5, 6)
            + DATA_LAYER.format("d", 'stage: "large" phase: TEST', 7, 8)
        )
    )
    for arguments, expected in {
        ("--stage", "small"): (3, 10, 4),
        ("--stage", "large"): (30, 10, 40),
        ("--level", "2"): (5, 10, 6),
        ("--stage", "large", "--phase", "TEST"): (7, 10, 8),
    }.items():
        assert shapes_of(capsys, tmp_path, command, path, *arguments) == expected
    assert "give --shape" in shapes_of(capsys, tmp_path, command, path)
