"""caffe-margin train over processes: what is printed, and how a run ends that does not end well."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

import caffe_margin as cm
from caffe_margin.cli import main
from caffe_margin.files.solverstate import read_solverstate
from helpers.places import ROOT

NET = """
layer {{ name: "data" type: "HDF5Data" top: "data" top: "label"
  hdf5_data_param {{ source: "train.txt" batch_size: {batch} shuffle: true }} }}
layer {{ name: "fc5" type: "InnerProduct" bottom: "data" top: "fc5"
  inner_product_param {{ num_output: 10 weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "fc6" type: "MarginInnerProduct" bottom: "fc5" bottom: "label" top: "fc6"
  margin_inner_product_param {{ num_output: 8 type: QUADRUPLE weight_filler {{ type: "xavier" }}
    base: 100 gamma: 0.5 lambda_min: 5 }} }}
layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "fc6" bottom: "label" top: "loss" }}
"""
SOLVER = """
net: "net{batch}.prototxt" base_lr: 0.05 lr_policy: "fixed" momentum: 0.9 weight_decay: 0.0005
max_iter: {last} display: 5 snapshot: 10 snapshot_prefix: "s" random_seed: 5
"""
ENDLESS = 10**6


@pytest.fixture
def folder(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    label = np.repeat(np.arange(8), 10)
    data = 2 * rng.standard_normal((8, 12))[label] + 0.3 * rng.standard_normal((80, 12))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["data"], file["label"] = data.astype(np.float32), label.astype(np.float32)
    (tmp_path / "train.txt").write_text(f"{tmp_path}/a.h5\n")
    for batch in (4, 6, 12):
        (tmp_path / f"net{batch}.prototxt").write_text(NET.format(batch=batch))
        (tmp_path / f"solver{batch}.prototxt").write_text(SOLVER.format(batch=batch, last=20))
    (tmp_path / "endless.prototxt").write_text(SOLVER.format(batch=6, last=ENDLESS))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def environment():
    return os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def started(count, *arguments, folders=None):
    """Start as many processes as torchrun would."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    told = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(count)}
    return [
        subprocess.Popen(
            [sys.executable, "-m", "caffe_margin", "train", *arguments],
            env=environment() | told | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            cwd=folders[rank] if folders else None,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]


def ended(runs):
    """Return the status, and what was printed, of each."""
    try:
        printed = [run.communicate(timeout=240) for run in runs]
    finally:
        for run in runs:
            run.kill()
            run.wait()
    return [(run.returncode, *texts) for run, texts in zip(runs, printed, strict=True)]


def logged(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def wait_for(path, runs):
    while not Path(path).exists() and all(run.poll() is None for run in runs):
        time.sleep(0.02)


def losses(path):
    return [entry["loss"] for entry in logged(path) if "loss" in entry]


def test_a_run_by_torchrun_and_on(folder):
    """Two processes to iteration 20; from 10 on three; and one with the joint batch."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    arguments = ["train", "solver6.prototxt", "--shard-above", "0", "--log-file", "two.jsonl"]
    arguments += ["--verify", "a.h5", "--verify-every", "10"]
    done = subprocess.run(
        [*torchrun, "--nproc-per-node", "2", "-m", "caffe_margin", *arguments],
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    out = done.stdout
    assert out.startswith("2 processes; layer 'fc6' shared, 4 of 8 rows on the first\n")
    assert re.findall(r"^iteration (\d+): loss", out, re.MULTILINE) == ["5", "10", "15", "20"]
    assert re.search("s an iteration of 12 images; to iteration 20", out)
    assert re.findall(r"^iteration (\d+): verification", out, re.MULTILINE) == ["10", "20"]

    first = cm.read_weights("s_iter_10.caffemodel")
    again = ["solver4.prototxt", "--snapshot", "s_iter_10.solverstate", "--log", "three.jsonl"]
    runs = ended(started(3, *again, "--shard-above", "0"))
    assert [(status, err) for status, _, err in runs] == [(0, "")] * 3
    assert "iteration 10; layer 'fc6' goes on at 10" in runs[0][1]
    assert [out for _, out, _ in runs[1:]] == ["", ""]
    three = cm.read_weights("s_iter_20.caffemodel")

    assert main(["train", "solver12.prototxt", "--log", "one.jsonl"]) == 0
    assert losses("two.jsonl") == pytest.approx(losses("one.jsonl"), rel=1e-5)
    assert losses("three.jsonl") == pytest.approx(losses("one.jsonl")[10:], rel=1e-5)
    for iteration, weights in ((10, first), (20, three)):
        for name, blobs in cm.read_weights(f"s_iter_{iteration}.caffemodel").items():
            for blob, other in zip(blobs, weights[name], strict=True):
                assert np.abs(blob - other).max() <= 1e-5 * np.abs(blob).max()


@pytest.mark.parametrize(("killed", "share"), [(0, "64M"), (1, "0")])
def test_where_one_is_killed_the_other_ends(folder, killed, share):
    runs = started(2, "endless.prototxt", "--shard-above", share)
    wait_for("s_iter_10.solverstate", runs)
    runs[killed].kill()
    (_, (status, _, err)) = sorted(ended(runs), key=lambda run: run[0])
    assert status == 1
    rank = 1 - killed
    assert re.fullmatch(f"caffe-margin: process {rank} of 2 has lost another, .*\n", err)
    assert "go on from the last snapshot" in err
    states = sorted(folder.glob("s_iter_*.solverstate"))
    for path in states:
        weights = read_solverstate(path).learned_net
        assert cm.read_weights(weights)["fc6"][0].shape == (8, 10)


def test_what_is_wrong_on_one_ends_all(folder, tmp_path_factory):
    """Its source is not there, and one line is printed of it."""
    other = tmp_path_factory.mktemp("other")
    for path in folder.glob("*.prototxt"):
        (other / path.name).write_text(path.read_text())
    runs = ended(started(2, "solver6.prototxt", folders=[folder, other]))
    assert [status for status, _, _ in runs] == [2, 2]
    message = "process 1: layer 'data' (HDF5Data): there is no list 'train.txt'"
    assert [err for _, _, err in runs] == [f"caffe-margin: {message}\n", ""]


def test_what_is_wrong_on_all_is_said_once(folder):
    runs = ended(started(2, "solver6.prototxt", "--device", "cuda:1"))
    assert [status for status, _, _ in runs] == [2, 2]
    assert runs[0][2].startswith("caffe-margin: device cuda:1 is one GPU")
    assert [err.count("\n") for _, _, err in runs] == [1, 0]


def test_sigterm_finishes_the_iteration_on_all(folder):
    """Of which one alone has heard."""
    runs = started(2, "endless.prototxt", "--shard-above", "0", "--log", "l.jsonl")
    wait_for("s_iter_10.solverstate", runs)
    runs[1].terminate()
    (first, second) = ended(runs)
    assert [first[0], second[0]] == [128 + signal.SIGTERM] * 2
    at = logged("l.jsonl")[-1]["iteration"]
    assert first[1].splitlines()[-1] == (
        f"stopped after iteration {at}; to go on: torchrun --nproc-per-node 2 -m caffe_margin "
        f"train endless.prototxt --snapshot s_iter_{at}.solverstate --shard-above 0 "
        "--log-file l.jsonl"
    )
    assert Path(f"s_iter_{at}.solverstate").exists()


def test_shares_are_for_several(folder, capsys):
    assert main(["train", "solver6.prototxt", "--shard-above", "1k"]) == 2
    assert "torchrun --nproc-per-node N -m caffe_margin train" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["train", "solver6.prototxt", "--shard-above", "much"])
    assert "'much' is not like 0, 65536 or 512M" in capsys.readouterr().err
