"""Solvers over 2 and 3 gloo processes, against one process with the joint batch.

All processes are started once; what each of them does is in helpers/trainers.py.
"""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

import caffe_margin as cm
import caffe_margin.torch as cmt
from caffe_margin.files.solverstate import read_solverstate
from helpers import trainers
from helpers.places import ROOT

SIZES = list(trainers.RANKS)
CASES = list(trainers.CASES)
SHARED = [case for case in CASES if not case.startswith("plain")]
RTOL = 1e-10


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the processes leave what they found; all have ended."""
    folder = tmp_path_factory.mktemp("trainers")
    path = os.pathsep.join([str(ROOT / "tests"), str(ROOT)])
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "helpers.trainers", str(rank), str(folder)],
            env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(3)
    ]
    try:
        errors = [process.communicate(timeout=240)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0, 0], "\n".join(errors)
    return folder


def load(folder, name, size):
    return [torch.load(folder / f"{name}-{i}.pt", weights_only=False) for i in range(size)]


@pytest.fixture(scope="module")
def found(folder):
    return {size: load(folder, size, size) for size in SIZES}


@pytest.fixture(scope="module")
def alone(folder):
    """What one process with the joint batch comes to, by case."""
    runs = {}
    for case, (_, options) in trainers.CASES.items():
        param = trainers.solver_param(folder, trainers.JOINT, prefix=folder / "alone", **options)
        param.snapshot = 0
        runs[case] = trainers.trained(cmt.Solver(param, dtype=torch.float64))
    return runs


def assert_close(got, want):
    assert got.shape == want.shape
    assert got.dtype == want.dtype
    assert (got - want).abs().max() <= RTOL * want.abs().max()


def assert_same_run(parts, want, last=20):
    """Each process has the whole of all blobs, but of a shared head its rows."""
    for part in parts:
        assert part["loss"] == pytest.approx(want["loss"][-last:], rel=RTOL)
        assert part["images"] == want["images"][-last:]
        assert part["lambda"] == want["lambda"][-last:]
    for name, blob in want["params"].items():
        assert_close(whole([part["params"][name] for part in parts], blob), blob)
    for i, blob in enumerate(want["history"]):
        assert_close(whole([part["history"][i] for part in parts], blob), blob)


def whole(parts, like):
    if len(parts[0]) < len(like):
        return torch.cat(parts)
    for part in parts[1:]:
        assert torch.equal(part, parts[0])
    return parts[0]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("size", SIZES)
def test_a_run_is_that_of_one_process_with_the_joint_batch(found, alone, size, case):
    parts = [member["runs"][case] for member in found[size]]
    rows = [len(part["params"]["fc6/0"]) for part in parts]
    assert rows == ({2: [6, 5], 3: [4, 4, 3]}[size] if case in SHARED else [11] * size)
    assert_same_run(parts, alone[case])
    start, end = np.mean(alone[case]["loss"][:3]), np.mean(alone[case]["loss"][-3:])
    assert end < start  # it is training


@pytest.mark.parametrize("case", CASES)
def test_a_snapshot_of_two_goes_on_on_three(folder, alone, case):
    assert_same_run([part[case] for part in load(folder, "resumed", 3)], alone[case], last=10)


@pytest.mark.parametrize("case", CASES)
def test_a_snapshot_of_two_goes_on_on_one(folder, alone, case):
    _, options = trainers.CASES[case]
    param = trainers.solver_param(folder, trainers.JOINT, **options)
    param.snapshot = 0
    solver = cmt.Solver(param, dtype=torch.float64, seed=78)
    solver.restore(folder / f"{case}-2_iter_10.solverstate{'.h5' * (case == 'adam')}")
    assert_same_run([trainers.trained(solver, 10)], alone[case], last=10)


@pytest.mark.parametrize("case", SHARED)
@pytest.mark.parametrize("size", SIZES)
def test_the_last_snapshot_holds_what_the_processes_had(folder, found, size, case):
    ending = ".h5" * (case == "adam")
    parts = [member["runs"][case] for member in found[size]]
    weights = cm.read_weights(folder / f"{case}-{size}_iter_20.caffemodel{ending}")
    state = read_solverstate(folder / f"{case}-{size}_iter_20.solverstate{ending}")
    rows = torch.cat([part["params"]["fc6/0"] for part in parts])
    assert np.array_equal(weights["fc6"][0], rows.numpy())
    assert len(state.history) == len(parts[0]["history"])
    for i, blob in enumerate(state.history):
        blobs = [part["history"][i] for part in parts]
        mine = torch.cat(blobs) if len(blobs[0]) < len(blob) else blobs[0]
        assert np.array_equal(blob, mine.numpy())


@pytest.mark.parametrize("size", SIZES)
def test_nothing_as_large_as_the_weight_or_the_scores(found, size):
    N, K, M = trainers.BIG, 8, trainers.JOINT // size
    for member in found[size]:
        assert N * K // size <= member["sizes"] < min(N * K, M * N)


def test_what_is_wrong_on_one_is_raised_on_all(folder):
    first, *others = load(folder, "refused", 3)
    assert all(other == first for other in others)
    expected = {
        "missing": "process 2: layer 'data' (HDF5Data): there is no list ",
        "plain label": "process 2: layer 'fc6', with bottoms (4, 8), (4,): row ",
        "label": "layer 'fc6', with bottoms (4, 8), (4,): process 2: row ",
        "seed": "the processes must agree: process 0 has seed 0, iteration 0, ",
        "accuracy": "layer 'fc6' is shared among the processes, so its scores are on none, but "
        "layer 'accuracy' (Accuracy) reads them: ",
        "ignored": "layer 'fc6' is shared among the processes, but layer 'loss' above it has an "
        "ignore_label",
        "sum": "layer 'fc6' is shared among the processes, but layer 'loss' above it has "
        "normalization: NONE",
        "snapshot": "process 2: ",
    }
    assert first.pop("plain accuracy") is None
    for name, message in expected.items():
        assert first[name].startswith(f"AgreedError: {message}"), first[name]
    assert first.keys() == expected.keys()
    for name in ("plain label", "label"):
        assert first[name].endswith("of label is 11.0; labels must lie in [0, 11)")
