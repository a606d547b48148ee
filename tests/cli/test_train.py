"""caffe-margin train: what it says, writes, and leaves when it is stopped or killed."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from types import ModuleType

import h5py
import numpy as np
import pytest

from caffe_margin.cli import main

NET = """
layer {{ name: "data" type: "HDF5Data" top: "data" top: "label"
  hdf5_data_param {{ source: "train.txt" batch_size: 16 shuffle: true }} }}
layer {{ name: "fc5" type: "InnerProduct" bottom: "data" top: "fc5"
  inner_product_param {{ num_output: {width} weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "drop" type: "Dropout" bottom: "fc5" top: "fc5"
  dropout_param {{ dropout_ratio: 0.1 }} }}
layer {{ name: "fc6" type: "MarginInnerProduct" bottom: "fc5" bottom: "label" top: "fc6" top: "l"
  margin_inner_product_param {{ num_output: 8 type: QUADRUPLE weight_filler {{ type: "xavier" }}
    base: 100 gamma: 0.5 lambda_min: 5 }} }}
layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "fc6" bottom: "label" top: "loss" }}
"""
SOLVER = """
net: "net.prototxt" base_lr: 0.05 lr_policy: "fixed" momentum: 0.9 weight_decay: 0.0005
max_iter: 12 display: 4 snapshot: 3 snapshot_prefix: "s" random_seed: 5
"""


def write_set(path, classes, seed):
    """Points round the classes' own means."""
    rng = np.random.default_rng(seed)
    label = np.repeat(np.arange(classes), 10)
    means = 2 * rng.standard_normal((classes, 12))
    order = rng.permutation(len(label))
    with h5py.File(path, "w") as file:
        file["data"] = (means[label] + 0.3 * rng.standard_normal((len(label), 12)))[order].astype(
            "f4"
        )
        file["label"] = label[order].astype(np.float32)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    write_set(tmp_path / "a.h5", 8, 0)
    write_set(tmp_path / "unseen.h5", 6, 1)
    (tmp_path / "train.txt").write_text("a.h5\n")
    (tmp_path / "net.prototxt").write_text(NET.format(width=10))
    (tmp_path / "solver.prototxt").write_text(SOLVER)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def logged(path="log.jsonl"):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def test_a_run(folder, capsys):
    arguments = ["--log", "log.jsonl", "--plot", "run.png", "--verify", "unseen.h5"]
    assert main(["train", "solver.prototxt", *arguments, "--verify-every", "5"]) == 0
    out = capsys.readouterr().out
    assert "iteration 4: loss" in out
    assert re.search(r"measured: [\d.]+ GiB, \S+ s an iteration of 16 images; to iteration 12", out)
    found = re.findall(r"iteration (\d+): verification: EER ([\d.]+)%", out)
    assert [int(at) for at, _ in found] == [5, 10, 12]
    # 6 classes of 10 points: all pairs are taken.
    assert "(270 pairs of one class, 1500 of two)" in out
    assert float(found[-1][1]) < 10
    entries = logged()
    steps = [entry for entry in entries if "loss" in entry]
    assert [entry["iteration"] for entry in steps] == list(range(1, 13))
    # The layer's own formula, at its first Forward and at its last.
    assert [steps[i]["lambda"]["fc6"] for i in (0, -1)] == pytest.approx([100 / 1.5, 100 / 7])
    assert len(entries) == 15
    assert Path("run.png").read_bytes().startswith(b"\x89PNG")
    assert {path.name for path in folder.glob("s_iter_*")} == {
        f"s_iter_{i}.{kind}" for i in (3, 6, 9, 12) for kind in ("caffemodel", "solverstate")
    }


def test_stopped_and_gone_on_with_it_is_the_same(folder, capsys):
    assert main(["train", "solver.prototxt", "--log", "whole.jsonl"]) == 0
    weights = Path("s_iter_12.caffemodel").read_bytes()
    capsys.readouterr()
    assert main(["train", "solver.prototxt", "--log", "log.jsonl", "--iterations", "4"]) == 0
    again = re.search(r"to go on: caffe-margin (.*)", capsys.readouterr().out)[1]
    assert again == "train solver.prototxt --snapshot s_iter_4.solverstate --log log.jsonl"
    with open("log.jsonl", "a") as file:
        file.write('{"iteration": 5, "loss": 0}\n{"iter')  # as a killed run leaves it
    assert main(again.split()) == 0
    assert "layer 'fc6' goes on at 4" in capsys.readouterr().out
    assert Path("s_iter_12.caffemodel").read_bytes() == weights
    losses = [[e["loss"] for e in logged(name)] for name in ("whole.jsonl", "log.jsonl")]
    assert losses[0] == losses[1]


def test_as_caffe_starts_over(folder, capsys):
    main(["train", "solver.prototxt", "--iterations", "3"])
    arguments = ["--snapshot", "s_iter_3.solverstate", "--as-caffe", "--log", "log.jsonl"]
    assert main(["train", "solver.prototxt", *arguments, "--iterations", "1"]) == 0
    assert "layer 'fc6' starts over at 0" in capsys.readouterr().out
    assert logged()[-1]["lambda"]["fc6"] == pytest.approx(100 / 1.5)


def test_the_rule_is_in_the_snapshot(folder):
    from caffe_margin.files.prototxt import read_net

    for rule in ("exact", "detached"):
        main(["train", "solver.prototxt", "--gradient", rule, "--iterations", "2"])
        (head,) = (x for x in read_net("s_iter_2.caffemodel").layer if x.name == "fc6")
        assert head.margin_inner_product_param.gradient == {"exact": 1, "detached": 2}[rule]


def test_tensorboard(folder, monkeypatch):
    """What the log has, under TensorBoard's names; a stand-in for its writer notes the calls."""
    written, closed = {}, []

    class SummaryWriter:
        def __init__(self, log_dir):
            assert log_dir == "events"

        def add_scalar(self, tag, value, step):
            written.setdefault(tag, {})[step] = value

        def close(self):
            closed.append(True)

    module = ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = SummaryWriter
    monkeypatch.setitem(sys.modules, module.__name__, module)
    arguments = ["--log", "log.jsonl", "--tensorboard", "events", "--verify", "unseen.h5"]
    assert main(["train", "solver.prototxt", *arguments]) == 0
    assert closed == [True]
    steps = [entry for entry in logged() if "loss" in entry]
    expected = {
        name: {entry["iteration"]: entry[name] for entry in steps}
        for name in ("loss", "smoothed_loss", "rate")
    }
    # The layer's own formula.
    lambda_ = {i: pytest.approx(max(5, 100 / (1 + 0.5 * i))) for i in range(1, 13)}
    last = logged()[-1]["verification"]
    verified = {f"verification/{name}": {12: last[name]} for name in ("eer", "auc")}
    assert written == {**expected, "lambda/fc6": lambda_, **verified}


def test_tensorboard_is_not_installed(folder, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    assert main(["train", "solver.prototxt", "--tensorboard", "events"]) == 2
    err = capsys.readouterr().err
    assert "pip install tensorboard" in err
    assert err.count("\n") == 1


# PyTorch's own, when it compiles.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiled_it_loses_as_much(folder, monkeypatch):
    """As one graph, once; without C++ for it, and without Dropout, whose draws are others then."""
    import torch
    from torch._dynamo.utils import counters

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    torch._dynamo.reset()
    counters.clear()
    net = re.sub('layer { name: "drop".*\n.*\n', "", NET.format(width=10))
    (folder / "net.prototxt").write_text(net)
    for name, flags in (("plain", []), ("compiled", ["--compile"])):
        arguments = ["--iterations", "3", "--log", f"{name}.jsonl", *flags]
        assert main(["train", "solver.prototxt", *arguments]) == 0
        assert counters["stats"]["unique_graphs"] == len(flags)
    losses = [[e["loss"] for e in logged(f"{name}.jsonl")] for name in ("plain", "compiled")]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert len(set(losses[0])) == 3


def test_a_loss_that_is_not_finite_stops(folder, capsys):
    (folder / "solver.prototxt").write_text(SOLVER.replace("base_lr: 0.05", "base_lr: 1e20"))
    with np.errstate(all="ignore"):
        status = main(["train", "solver.prototxt"])
    err = capsys.readouterr().err
    assert status == 1
    assert re.search("iteration [234]: .*not finite.*the rate is too high", err)
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--as-caffe"], "a --snapshot, which is not given"),
        (["--verify-every", "3"], "needs --verify"),
        (["--snapshot", "none.solverstate"], "none.solverstate"),
        (["--device", "nowhere"], "device 'nowhere'"),
        (["--verify", "none.h5"], "none.h5"),
        (["--weights", "none.caffemodel"], "none.caffemodel"),
    ],
)
def test_what_a_user_gets_wrong(folder, capsys, arguments, message):
    assert main(["train", "solver.prototxt", *arguments]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_a_missing_source_is_said_before_anything_runs(folder, capsys):
    (folder / "train.txt").unlink()
    assert main(["train", "solver.prototxt"]) == 2
    assert "layer 'data' (HDF5Data): there is no list 'train.txt'" in capsys.readouterr().err


# Killed.

DIES = """
import os, signal, sys
from caffe_margin.cli import main
replace, left = os.replace, [int(sys.argv[1])]
def dying(*names):
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    replace(*names)
os.replace = dying
main(["train", "solver.prototxt"])
"""


def last_snapshot(folder):
    states = folder.glob("s_iter_*.solverstate")
    return max(states, key=lambda path: int(path.stem.rpartition("_")[2]), default=None)


def go_on(folder):
    """Go on from what a killed run left; return the weights at the end."""
    last = last_snapshot(folder)
    arguments = ["--snapshot", str(last)] if last else []
    assert main(["train", "solver.prototxt", *arguments]) == 0
    return (folder / "s_iter_12.caffemodel").read_bytes()


@pytest.mark.parametrize("at", [3, 4])
def test_killed_in_the_middle_of_a_snapshot(folder, at):
    """Of iteration 6: before its weights are there, and with the weights but without the state."""
    whole = go_on(folder)
    for path in folder.glob("s_iter_*"):
        path.unlink()
    run = subprocess.run([sys.executable, "-c", DIES, str(at)], capture_output=True)
    assert run.returncode == -signal.SIGKILL
    assert last_snapshot(folder).name == "s_iter_3.solverstate"
    assert (folder / "s_iter_6.caffemodel").exists() == (at == 4)
    assert go_on(folder) == whole
    assert not list(folder.glob(".caffe-margin-*"))


KILLS = int(os.environ.get("KILLS", 2))


def test_killed_at_random(folder):
    """With a snapshot an iteration, most of the time goes into them."""
    (folder / "net.prototxt").write_text(NET.format(width=20000))
    text = SOLVER.replace("snapshot: 3", "snapshot: 1")
    (folder / "solver.prototxt").write_text(text)
    whole = go_on(folder)
    rng = random.Random(0)
    for _ in range(KILLS):
        for path in folder.glob("s_iter_*"):
            path.unlink()
        command = [sys.executable, "-m", "caffe_margin", "train", "solver.prototxt"]
        run = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        while run.poll() is None and not (folder / "s_iter_1.caffemodel").exists():
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.5))
        run.kill()
        run.wait()
        assert go_on(folder) == whole


def test_sigterm_finishes_the_iteration(folder):
    text = SOLVER.replace("max_iter: 12", "max_iter: 1000000").replace("snapshot: 3", "")
    (folder / "solver.prototxt").write_text(text)
    command = [sys.executable, "-m", "caffe_margin", "train", "solver.prototxt", "--log", "l.jsonl"]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    while run.poll() is None and not (Path("l.jsonl").exists() and logged("l.jsonl")):
        time.sleep(0.05)
    run.terminate()
    out, _ = run.communicate(timeout=60)
    at = int(re.search(r"stopped after iteration (\d+)", out)[1])
    assert run.returncode == 128 + signal.SIGTERM
    assert logged("l.jsonl")[-1]["iteration"] == at
    assert Path(f"s_iter_{at}.solverstate").exists()
