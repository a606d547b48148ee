"""Runs of a whole net: against the solver itself, stopped and gone on with, and in processes."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import caffe_margin as cm
import caffe_margin.torch as cmt
from caffe_margin.files.atomic import held
from caffe_margin.files.prototxt import read_solver
from caffe_margin.maths.gradient import DETACHED, EXACT, PAPER
from caffe_margin.study.jobs import train_all
from caffe_margin.study.variants import variants
from caffe_margin.study.whole_net import (
    COLUMNS,
    Plan,
    Run,
    is_done,
    iterations_left,
    rehearse,
    train_run,
)
from helpers.places import ROOT
from helpers.points import write_all, write_points


@pytest.fixture
def plan(tmp_path, monkeypatch):
    write_all(tmp_path)
    monkeypatch.chdir(tmp_path)
    net, solver = cm.read_net("net.prototxt"), read_solver("solver.prototxt")
    return Plan(net, solver, "unseen.h5", tmp_path / "runs")


def runs_of(plan, rules=(PAPER, EXACT, DETACHED)):
    return [Run(variant, 5) for variant in variants(plan.net, rules)]


def logged(plan, run):
    lines = (plan.folder / run.name / "log.jsonl").read_text().splitlines()
    return [dict(zip(COLUMNS, json.loads(line), strict=True)) for line in lines]


def results(plan, run, name="features"):
    with np.load(plan.folder / run.name / f"{name}.npz") as arrays:
        return dict(arrays)


@pytest.mark.parametrize("gradient", ["paper", "exact", "detached"])
def test_is_what_the_solver_does_with_that_gradient(plan, gradient):
    """`Solver` reads the solver's own file here, and sets the rule in the net's message."""
    run = next(run for run in runs_of(plan) if run.variant.name == gradient)
    train_run(plan, run)
    alone = cmt.Solver("solver.prototxt", gradient=gradient)
    expected = list(alone.run())
    seen = logged(plan, run)
    assert [line["loss"] for line in seen] == [done.loss for done in expected]
    assert [line["lambda"] for line in seen] == [done.lambda_["fc6"] for done in expected]
    assert [line["rate"] for line in seen] == [done.rate for done in expected]
    last = cm.read_weights(plan.folder / run.name / "net_iter_12.caffemodel.h5")
    for name, blobs in alone.net.params.items():
        for blob, written in zip(blobs, last[name], strict=True):
            np.testing.assert_array_equal(blob.detach(), written)


def test_all_start_alike_and_are_fed_alike(plan):
    runs = runs_of(plan)
    for run in runs:
        train_run(plan, run)
    starts = {json.loads((plan.folder / r.name / "run.json").read_text())["start"] for r in runs}
    fed = {tuple(line["batch"] for line in logged(plan, run)) for run in runs}
    assert len(starts) == len(fed) == 1
    assert len({logged(plan, run)[-1]["loss"] for run in runs}) == 5
    other = replace(runs[0], seed=6)
    train_run(plan, other)
    assert logged(plan, other)[0]["batch"] != logged(plan, runs[0])[0]["batch"]


class Stopped(Exception):
    pass


@pytest.mark.parametrize("after", [1, 5, 7, 11, 12])
def test_stopped_and_gone_on_with_it_is_the_same(plan, tmp_path, after):
    write_all(tmp_path, width=2)
    plan = replace(plan, net=cm.read_net("net.prototxt"))
    run = runs_of(plan)[1]
    whole = replace(plan, folder=plan.folder / "whole")
    train_run(whole, run)
    count = 0

    def stop():
        nonlocal count
        count += 1
        if count == after:
            raise Stopped

    with pytest.raises(Stopped):
        train_run(plan, run, stop)
    assert not is_done(plan, run)
    # A snapshot comes after the fifth iteration, and after the tenth.
    left = 12 - after // 5 * 5
    assert iterations_left(plan, run) == left
    counted = []
    train_run(plan, run, lambda: counted.append(1))
    assert len(counted) == left
    assert iterations_left(plan, run) == 0
    assert logged(plan, run) == logged(whole, run)
    for name in ("features", "unseen"):
        found = results(whole, run, name)
        assert len(found) == 3
        for key, array in found.items():
            np.testing.assert_array_equal(results(plan, run, name)[key], array)


def test_stopped_when_all_was_trained_it_ends_the_same(plan, tmp_path):
    write_all(tmp_path, width=2)
    plan = replace(plan, net=cm.read_net("net.prototxt"))
    run = runs_of(plan)[0]
    train_run(plan, run)
    expected = [results(plan, run, name) for name in ("features", "unseen")]
    for name in ("features", "unseen"):
        (plan.folder / run.name / f"{name}.npz").unlink()
    counted = []
    train_run(plan, run, lambda: counted.append(1))
    assert not counted
    for name, arrays in zip(("features", "unseen"), expected, strict=True):
        for key, array in arrays.items():
            np.testing.assert_array_equal(results(plan, run, name)[key], array)


def test_other_classes_never_seen_train_nothing_anew(plan, tmp_path):
    without = replace(plan, unseen=None)
    run = runs_of(plan)[0]
    train_run(without, run)
    assert is_done(without, run)
    assert not is_done(plan, run)
    counted = []
    train_run(plan, run, lambda: counted.append(1))
    assert is_done(plan, run)
    whole = replace(plan, folder=plan.folder / "whole")
    train_run(whole, run)
    np.testing.assert_array_equal(
        results(plan, run, "unseen")["x"], results(whole, run, "unseen")["x"]
    )
    write_points(tmp_path / "others.h5", 5, 2)
    others = replace(plan, unseen="others.h5")
    train_run(others, run, lambda: counted.append(1))
    assert not counted
    assert set(results(plan, run, "unseen")["label"]) == set(range(5))


def test_the_last_snapshot_stays(plan):
    run = runs_of(plan)[0]
    train_run(plan, run)
    assert {path.name for path in (plan.folder / run.name).glob("net_*")} == {
        "net_iter_12.caffemodel.h5",
        "net_iter_12.solverstate.h5",
    }
    plan.solver.ClearField("snapshot")
    assert run.solver(plan).snapshot == 1


def test_each_forward_of_an_iteration_counts(plan):
    """With an iter_size of 2 an iteration is fed what two are fed without."""
    run = runs_of(plan)[0]
    train_run(plan, run)
    fed = []
    alone = cmt.Solver("solver.prototxt")
    alone.net.register_forward_pre_hook(
        lambda _, args, kwargs: fed.append(
            kwargs["data"].numpy().tobytes() + kwargs["label"].numpy().tobytes()
        ),
        with_kwargs=True,
    )
    alone.step(4)
    assert logged(plan, run)[3]["batch"] == hashlib.sha256(fed[3]).hexdigest()
    twice = replace(plan, folder=plan.folder / "twice")
    twice.solver.iter_size = 2
    train_run(twice, run)
    assert logged(twice, run)[1]["batch"] == hashlib.sha256(fed[2] + fed[3]).hexdigest()


def test_a_line_that_was_half_written_is_done_again(plan):
    run = runs_of(plan)[0]
    train_run(plan, run)
    expected = logged(plan, run)
    log = plan.folder / run.name / "log.jsonl"
    log.write_text(log.read_text()[:-30])
    (log.parent / "features.npz").unlink()
    # The snapshot of the twelfth iteration is beyond what the log has whole.
    train_run(plan, run)
    assert logged(plan, run) == expected


def test_a_rate_is_a_factor(plan):
    run = replace(runs_of(plan)[0], rate=0.5)
    train_run(plan, run)
    assert run.name == "paper-seed5-rate0.5"
    rates = [line["rate"] for line in logged(plan, run)]
    assert rates == pytest.approx([0.025] * 8 + [0.0125] * 4)


def test_what_diverges_is_done(plan):
    run = replace(runs_of(plan)[4], rate=1e9)
    train_run(plan, run)
    assert is_done(plan, run)
    assert len(logged(plan, run)) < 12
    assert results(plan, run) == {}
    assert set(results(plan, run, "unseen")) == {"source"}


def test_another_net_in_its_place_is_refused(plan):
    run = runs_of(plan)[0]
    train_run(plan, run)
    changed = replace(plan, net=cm.read_net("net.prototxt"))
    changed.net.layer[1].inner_product_param.num_output = 9
    with pytest.raises(ValueError, match="has a run of another net, solver, gradient or device"):
        train_run(changed, run)
    with pytest.raises(ValueError, match="has a run of another net, solver, gradient or device"):
        is_done(replace(plan, device="cpu:0"), run)
    assert is_done(plan, run)


def test_features_of_two_dimensions_are_kept(plan, tmp_path):
    write_all(tmp_path, width=2)
    flat = replace(plan, net=cm.read_net("net.prototxt"))
    run = runs_of(flat)[3]
    train_run(flat, run)
    found = results(flat, run)
    assert found["x"].shape == (4000, 2)
    assert found["weight"].shape == (8, 2)
    assert set(found["label"]) == set(range(8))


def nothing():
    """What the processes are prepared by."""


def test_in_processes_of_their_own_it_is_the_same(plan):
    runs = runs_of(plan)[:3]
    here = replace(plan, folder=plan.folder / "here")
    seen = []
    train_all(plan, runs, 2, nothing, seen.append)
    assert seen[-1] == 36
    for run in runs:
        train_run(here, run)
        assert logged(plan, run) == logged(here, run)


def test_what_is_wrong_in_a_process_is_said(plan):
    Path("train.txt").write_text("gone.h5\n")
    with pytest.raises(ValueError, match=r"paper-seed5: .*gone\.h5"):
        train_all(plan, runs_of(plan), 1, nothing, lambda done: None)


def test_a_rehearsal_leaves_nothing_behind(plan):
    run = runs_of(plan)[0]
    assert 0 < rehearse(plan, run) < 10
    assert not plan.folder.exists()
    assert not list(Path().glob("s_iter*"))
    with pytest.raises(FileNotFoundError, match=r"gone\.h5"):
        rehearse(replace(plan, unseen="gone.h5"), run)
    assert rehearse(plan, replace(run, rate=1e30)) > 0
    plan.solver.max_iter = 1
    assert rehearse(plan, run) > 0


SCRIPT = """
import sys
from pathlib import Path
import caffe_margin as cm
from caffe_margin.files.atomic import held
from caffe_margin.files.prototxt import read_solver
from caffe_margin.study.variants import variants
from caffe_margin.study.whole_net import Plan, Run, train_run

solver = read_solver("solver.prototxt")
solver.max_iter = 400
plan = Plan(cm.read_net("net.prototxt"), solver, "unseen.h5", Path("runs"))
train_run(plan, Run(variants(plan.net)[0], 5))
"""


def test_killed_it_goes_on(plan, tmp_path):
    plan.solver.max_iter = 400
    run = runs_of(plan)[0]
    log = plan.folder / run.name / "log.jsonl"
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT], env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    until = time.monotonic() + 60
    while not (log.exists() and log.read_text().count("\n") > 40):
        assert process.poll() is None
        assert time.monotonic() < until
    process.send_signal(signal.SIGKILL)
    process.wait()
    train_run(plan, run)
    whole = replace(plan, folder=plan.folder / "whole")
    train_run(whole, run)
    assert logged(plan, run) == logged(whole, run)


def test_one_process_trains_a_run(plan):
    run = runs_of(plan)[0]
    folder = plan.folder / run.name
    folder.mkdir(parents=True)
    with held(folder), pytest.raises(OSError, match="another process works in it"):
        train_run(plan, run)
    train_run(plan, run)
    assert is_done(plan, run)


PARENT = SCRIPT.replace(
    "train_run(plan, Run(variants(plan.net)[0], 5))",
    """
def nothing():
    pass

if __name__ == "__main__":
    from caffe_margin.study.jobs import train_all

    solver.max_iter = 100000
    train_all(plan, [Run(variants(plan.net)[0], 5)], 1, nothing, lambda done: None)
""",
)


def test_who_is_killed_takes_the_processes_along(plan, tmp_path):
    (tmp_path / "parent.py").write_text(PARENT)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "parent.py"], env=environment)
    log = tmp_path / "runs" / "paper-seed5" / "log.jsonl"
    until = time.monotonic() + 60
    while not (log.exists() and log.stat().st_size):
        assert process.poll() is None
        assert time.monotonic() < until
    process.kill()
    process.wait()
    while True:
        try:
            with held(log.parent):
                break
        except OSError:
            assert time.monotonic() < until
