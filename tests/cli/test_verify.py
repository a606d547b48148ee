"""caffe-margin verify: lines, exit statuses, JSON."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from google.protobuf import text_format

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.cli import main, tables
from caffe_margin.files.npz import write_arrays
from caffe_margin.files.weights import write_weights
from caffe_margin.recordings.check import Verification, compare_blob
from helpers.places import DATA, ROOT
from helpers.recorded import FOLDER, load

LAYER = FOLDER / "double_float64_thresholds.npz"


@pytest.fixture
def wrong(tmp_path):
    """A recording whose weight diff is off at (1, 2)."""
    recording = load(LAYER)
    recording["blob0_diff"][1, 2] += 1
    write_arrays(tmp_path / "wrong.npz", recording)
    return str(tmp_path / "wrong.npz")


@pytest.fixture
def damaged(tmp_path):
    path = tmp_path / "damaged.npz"
    path.write_bytes(LAYER.read_bytes()[:-100])
    return str(path)


def test_all_recordings(capsys):
    assert main(["verify", str(FOLDER)]) == 0
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert len(lines) == 1 + 42 + 2
    assert lines[0].split()[:2] == ["recording", "kind"]
    assert all(line.endswith(" ok") for line in lines[1:43])
    assert lines[43] == "42 replayed, 0 out of tolerance"
    assert lines[44].endswith(f"no .npz: {FOLDER / 'README.md'}")
    assert captured.err == ""  # a pipe gets no progress bar


def test_verbose(capsys):
    assert main(["verify", "-v", str(LAYER)]) == 0
    out = capsys.readouterr().out
    for blob in set(load(LAYER)) - {"layer", "source"}:
        assert (f"\n  {blob} " in out) == (
            blob.startswith(("internal", "top0_data", "top1", "bottom0_diff"))
            or blob in ("blob0_data", "blob0_diff")
        )
    assert out.count("line_by_line") == 5 + out.count("internal")


def test_layers_of_a_net_that_are_not_replayed(capsys):
    net = str(FOLDER.parent / "caffe_net.npz")
    line = f"{net}: not replayed: 1 Input, 1 Convolution, 1 PReLU, 1 InnerProduct"
    alone = ["--engine", "fused", net]
    assert main(["verify", "-v", *alone]) == 0
    assert line in capsys.readouterr().out.splitlines()
    assert main(["verify", *alone]) == 0
    assert "not replayed" not in capsys.readouterr().out
    assert main(["verify", "--json", *alone]) == 0
    (recording,) = json.loads(capsys.readouterr().out)["recordings"]
    assert recording["not_replayed"] == ["Input", "Convolution", "PReLU", "InnerProduct"]


WHOLE = DATA / "layers" / "innerproduct_float64.npz"


def test_engines(capsys):
    assert main(["verify", "--engine", "line_by_line", "--json", str(LAYER), str(WHOLE)]) == 2
    captured = capsys.readouterr()
    (recording,) = json.loads(captured.out)["recordings"]
    assert {check["engine"] for check in recording["checks"]} == {"line_by_line"}
    assert captured.err == (
        f"caffe-margin: {WHOLE}: line_by_line cannot replay any layer of this net; torch can\n"
    )
    assert main(["verify", "--engine", "torch", "--engine", "fused", str(LAYER), str(WHOLE)]) == 0
    assert "2 replayed, 0 out of tolerance" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["verify", "--engine", "caffe", str(LAYER)])


def test_weights(tmp_path, capsys):
    arrays = load(WHOLE)
    weights = [arrays[f"param/layer/{i}/data_before"] for i in range(2)]
    write_weights({"layer": weights}, tmp_path / "a.caffemodel")
    bare = {key: array for key, array in arrays.items() if not key.startswith("param/")}
    write_arrays(tmp_path / "bare.npz", bare)
    path, model = str(tmp_path / "bare.npz"), str(tmp_path / "a.caffemodel")
    assert main(["verify", "--weights", model, path]) == 0
    assert main(["verify", path]) == 2
    assert "the recording holds no parameters" in capsys.readouterr().err
    missing = str(tmp_path / "b.caffemodel")
    assert main(["verify", "--weights", missing, path]) == 2
    assert capsys.readouterr().err == f"caffe-margin: {missing!r}: No such file or directory\n"


def test_what_is_wrong_in_caffe(capsys):
    check = compare_blob("blob/x/diff", "torch", np.ones(1), np.ones(1), None)
    wrong = Verification("net", "", (check,), wrong_in_caffe=("blob/a\n/diff", "param/l/0/diff"))
    lines = list(
        tables.verify_lines({"a.npz": wrong, "b.npz": replace(wrong, wrong_in_caffe=())}, True)
    )
    assert lines[-2:] == [
        "a.npz: wrong in Caffe, and not held against it: blob/a\\n/diff, param/l/0/diff",
        "2 replayed, 0 out of tolerance; 1 with diffs that are wrong in Caffe (-v names them)",
    ]
    lines = list(tables.verify_lines({"a.npz": wrong}, False))
    assert not any("not held" in line for line in lines)
    assert lines[-1].endswith("1 with diffs that are wrong in Caffe (-v names them)")


def test_without_torch(tmp_path):
    code = (
        "import sys\nsys.modules['torch'] = None\n"
        "from caffe_margin.cli import main\nsys.exit(main(['verify', *sys.argv[1:]]))"
    )
    net = FOLDER.parent / "caffe_net.npz"
    done = subprocess.run(
        [sys.executable, "-c", code, net, WHOLE], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stdout.splitlines()[-2:] == [
        "1 replayed, 0 out of tolerance",
        "whole nets are replayed with PyTorch: pip install 'caffe_margin[torch]'",
    ]
    assert done.stderr.endswith("needs PyTorch: pip install 'caffe_margin[torch]'\n")


def test_out_of_tolerance(wrong, capsys):
    assert main(["verify", str(LAYER), wrong]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].endswith(" ok")
    assert lines[2].endswith(" DIFFERS")
    assert lines[3].startswith(f"{wrong}: blob0_diff (fused) differs at (1, 2): ")
    recorded = load(wrong)["blob0_diff"][1, 2]
    assert f", recorded {recorded:.17g}; off by" in lines[3]
    assert lines[4] == "2 replayed, 1 out of tolerance"


def test_rtol(wrong, capsys):
    assert main(["verify", "--rtol", "2", wrong]) == 0
    assert main(["verify", "--rtol", "1e-30", str(FOLDER / "double_float32_wide.npz")]) == 1
    for bad in ("0", "-1", "nan", "inf", "much"):
        with pytest.raises(SystemExit):
            main(["verify", "--rtol", bad, wrong])
        assert f"{bad!r} is not a positive number" in capsys.readouterr().err


def test_unreadable_files_do_not_stop_the_others(damaged, wrong, tmp_path, capsys):
    missing = str(tmp_path / "missing.npz")
    assert main(["verify", damaged, missing, str(LAYER), wrong]) == 2
    captured = capsys.readouterr()
    assert "2 replayed, 1 out of tolerance" in captured.out
    first, second = captured.err.splitlines()
    assert first.startswith(f"caffe-margin: {damaged} is no .npz file, or is damaged: ")
    assert second == f"caffe-margin: {missing}: No such file or directory"


def test_folders(tmp_path, capsys):
    deep = tmp_path / "a" / "b"
    deep.mkdir(parents=True)
    (tmp_path / ".hidden").mkdir()
    for folder in (deep, tmp_path / ".hidden"):
        shutil.copy(LAYER, folder / "one.npz")
    for name in ("1.txt", "2.txt", "3.txt", "4.txt", ".5.txt"):
        (tmp_path / "a" / name).touch()
    assert main(["verify", str(tmp_path), str(deep / "one.npz")]) == 0
    out = capsys.readouterr().out
    assert "1 replayed" in out
    assert "skipped 4 of the folders' files" in out
    assert out.endswith("3.txt, ...\n")

    (tmp_path / "empty").mkdir()
    assert main(["verify", str(tmp_path / "empty"), str(LAYER)]) == 2
    captured = capsys.readouterr()
    assert "1 replayed" in captured.out
    assert (
        captured.err
        == f"caffe-margin: {tmp_path / 'empty'}: the folder holds no recording (.npz)\n"
    )


def test_json(wrong, damaged, capsys):
    assert main(["verify", "--json", str(LAYER), wrong, damaged]) == 2
    value = json.loads(capsys.readouterr().out)
    assert value["ok"] is False
    assert [recording["ok"] for recording in value["recordings"]] == [True, False]
    assert [error["path"] for error in value["errors"]] == [damaged]
    first = value["recordings"][0]
    assert (first["path"], first["kind"]) == (str(LAYER), "layer")
    assert first["source"] == str(load(LAYER)["source"])
    (worst,) = (
        check
        for check in value["recordings"][1]["checks"]
        if not check["ok"] and check["engine"] == "fused"
    )
    assert (worst["blob"], worst["index"], worst["dtype"]) == ("blob0_diff", [1, 2], "float64")
    np.testing.assert_allclose(worst["absolute"], 1)
    assert worst["rtol"] == 1e-12


def test_json_without_infinities(tmp_path, capsys):
    recording = load(LAYER)
    recording["blob0_diff"][0, 0] = np.nan
    write_arrays(tmp_path / "nan.npz", recording)
    assert main(["verify", "--json", str(tmp_path / "nan.npz")]) == 1
    value = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert None in [check["relative"] for check in value["recordings"][0]["checks"]]


def test_a_sign_flipped_in_the_compiled_kernel(tmp_path):
    """In a copy of the package, 1 / -|x| before coeff_x becomes 1 / |x|."""
    package = ROOT / "caffe_margin"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(package, tmp_path / "caffe_margin", ignore=ignored)
    kernel = tmp_path / "caffe_margin" / "kernels" / "margin_inner_product.py"
    text, sign = kernel.read_text(), "coeff_x = (Dtype(1) / -p.x_norm[i])"
    assert sign in text
    kernel.write_text(text.replace(sign, sign.replace("-", ""), 1))
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "caffe_margin",
            "verify",
            str(FOLDER / "double_float64_lambda0.npz"),
        ],
        cwd=tmp_path,
        env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert ": bottom0_diff (line_by_line) differs at (" in done.stdout


# What a stranger's file has to say

HOSTILE = "A\nfake.npz  layer  top0_data  ok\x1b[2J\u202e"


def test_names_make_no_lines(tmp_path, capsys):
    arrays = load(FOLDER.parent / "caffe_net.npz")
    net = text_format.Parse(str(arrays["net"]), pb.NetParameter())
    (prelu,) = (layer for layer in net.layer if layer.type == "PReLU")
    (margin,) = (layer for layer in net.layer if layer.name == "fc6")
    prelu.type, margin.name = HOSTILE, HOSTILE + "x" * 10_000
    arrays["net"] = np.array(text_format.MessageToString(net))
    for part in ("data_before", "data", "diff"):
        arrays[f"param/{margin.name}/0/{part}"] = arrays.pop(f"param/fc6/0/{part}")
    path = tmp_path / f"{HOSTILE}.npz"
    write_arrays(path, arrays)
    alone = ["--engine", "fused", "--engine", "line_by_line"]
    assert main(["verify", "-v", *alone, str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + 1 + (2 * 5 + 2) + 1 + 1  # head, file, blobs, not replayed, count
    assert "".join(lines).isprintable()
    assert max(map(len, lines)) < 500
    shown = HOSTILE.encode("unicode_escape").decode()
    assert lines[1].startswith(f"{tmp_path}/{shown}.npz ")
    assert lines[2].startswith(f"  {shown}xxx")
    assert f"1 {shown}, " in lines[-2]

    arrays["blob/fc6/data"][0, 0] += 1
    write_arrays(path, arrays)
    assert main(["verify", *alone, str(path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + 1 + 1 + 1
    assert "".join(lines).isprintable()
    assert main(["verify", "--json", str(path)]) == 1
    (recording,) = json.loads(capsys.readouterr().out)["recordings"]
    assert recording["path"] == str(path)  # a program gets the names as they are
    assert HOSTILE in recording["not_replayed"]
    assert f"{margin.name}/top0_data" in {check["blob"] for check in recording["checks"]}


def test_messages_are_lines(tmp_path, capsys):
    """What is skipped, warned of and refused."""
    folder = tmp_path / "\x1b[31m"
    folder.mkdir()
    (folder / f"{HOSTILE}.txt").touch()
    layer = 'layer { name: "a" type: "B\\nc\\033[2J" colour: 1 }'
    write_arrays(folder / "a.npz", {"layer": np.array(layer)})
    write_arrays(folder / "b.npz", {HOSTILE: np.zeros(3), "x" * 10_000: np.zeros(3)})
    write_arrays(folder / "c.npz", {"layer": np.array('layer { type: "\\033[2J" }')})
    assert main(["verify", str(folder)]) == 2
    captured = capsys.readouterr()
    assert len(captured.out.splitlines()) == 2
    assert len(captured.err.splitlines()) == 3
    assert (captured.out + captured.err).replace("\n", "").isprintable()
    assert max(map(len, captured.err.splitlines())) < 500
