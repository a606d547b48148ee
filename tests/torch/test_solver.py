"""Solvers against Caffe's runs and snapshots, and against themselves where Caffe has no word."""

import os
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from google.protobuf import text_format

import caffe_margin.torch as cmt
from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.files.solverstate import read_solverstate
from caffe_margin.recordings.replay import verify
from helpers.places import DATA
from helpers.recorded import load, recordings

SOLVERS = DATA / "solvers"
RTOL = 1e-10
PARAMS = ["conv1/0", "conv1/1", "relu1/0", "fc5/0", "fc5/1", "fc6/0"]


@pytest.mark.parametrize("path", recordings("*.npz", SOLVERS))
def test_every_run_replays(path):
    """Weights within 1e-10 of the largest, losses absolutely; the test net's outputs too."""
    verification = verify(path)
    assert verification.kind == "solver"
    assert verification.ok, verification.worst
    recorded = load(path)
    kinds = ("weights/0", "input", "update", "test_input", "restored", "weights_after", "forward")
    results = {k for k in recorded if k.startswith(("weights/", "test/", "loss", "softmax_loss"))}
    results |= {"lambda_"} & recorded.keys()
    assert {check.blob for check in verification.checks} == {
        key for key in results if not key.startswith(kinds)
    }
    for check in verification.checks:
        assert check.rtol == RTOL, check.blob


def solver_of(recorded, net="net", **options):
    """Return the solver of a recording, its text put together by the test itself."""
    param = text_format.Parse(str(recorded["solver"]), pb.SolverParameter())
    param.ClearField("net")
    text_format.Parse(str(recorded[net]), param.net_param)
    data, label = (torch.from_numpy(recorded[f"input/{name}"]) for name in ("data", "label"))
    solver = cmt.Solver(
        param,
        feed=lambda i: {"data": data[i].double(), "label": label[i].double()},
        seed=1,
        dtype=torch.float64,
        **options,
    )
    weights = {}
    for name in PARAMS:
        layer = weights.setdefault(name.partition("/")[0], [])
        layer.append(recorded[f"weights/0/{name}"])
    solver.net.load_weights(weights)
    return solver


def close(got, want, scale=0.0):
    return np.abs(got - want).max() <= RTOL * max(np.abs(want).max(), scale)


def params_of(solver):
    blobs = {}
    for name in PARAMS:
        layer, _, i = name.partition("/")
        blobs[name] = solver.net.params[layer][int(i)].detach().numpy()
    return blobs


def assert_run(solver, recorded, prefix):
    """Run the last thirty iterations, and hold them against a recorded run."""
    runs = list(solver.run(30))
    assert close(np.array([run.loss for run in runs]), recorded[f"{prefix}loss"][-30:], 1.0)
    lambdas = np.array([run.lambda_["fc6"] for run in runs])
    assert close(lambdas, recorded[f"{prefix}lambda_"][-30:])
    for name, blob in params_of(solver).items():
        assert close(blob, recorded[f"{prefix}weights/60/{name}"]), name


SNAPSHOTS = {
    "snapshot_sgd_multistep_float64": "",
    "snapshot_sgd_multistep_hdf5_float64": ".h5",
}


@pytest.mark.parametrize(("run", "ending"), SNAPSHOTS.items(), ids=["binary", "hdf5"])
class TestSnapshotsOfCaffe:
    """Recorded: 60 iterations, a snapshot after 30, and what Caffe did from there."""

    def test_the_run_goes_on_as_if_it_had_not_stopped(self, run, ending):
        """The count of the layer is worked out from the solver's: 500 + 30."""
        recorded = load(SOLVERS / f"{run}.npz")
        solver = solver_of(recorded)
        state = solver.restore(SOLVERS / f"{run}_iter_30.solverstate{ending}")
        assert (solver.iteration, state.current_step, state.seed) == (30, 2, None)
        assert_run(solver, recorded, "")

    def test_as_caffe_the_layer_starts_over(self, run, ending):
        recorded = load(SOLVERS / f"{run}.npz")
        data = {k: np.roll(a, -30, 0) for k, a in recorded.items() if k.startswith("input/")}
        solver = solver_of(recorded | data)
        solver.restore(SOLVERS / f"{run}_iter_30.solverstate{ending}", as_caffe=True)
        assert_run(solver, recorded, "restored/")

    def test_as_caffe_with_the_iteration_in_the_net(self, run, ending):
        """What Caffe's users had to do; it is the uninterrupted run again."""
        recorded = load(SOLVERS / f"{run}.npz")
        data = {k: np.roll(a, -30, 0) for k, a in recorded.items() if k.startswith("input/")}
        solver = solver_of(recorded | data, "net_iteration530")
        solver.restore(SOLVERS / f"{run}_iter_30.solverstate{ending}", as_caffe=True)
        assert_run(solver, recorded, "restored_iteration530/")

    def test_written_again_it_is_the_same_field_by_field(self, run, ending, tmp_path, monkeypatch):
        theirs = SOLVERS / f"{run}_iter_30.solverstate{ending}"
        monkeypatch.chdir(tmp_path)
        solver = solver_of(load(SOLVERS / f"{run}.npz"))
        solver.param.snapshot_prefix = run
        solver.restore(theirs)
        ours = solver.snapshot()
        assert ours == theirs.name
        FIELDS[ending](ours, theirs)
        weights = str(theirs).replace("solverstate", "caffemodel")
        FIELDS[ending](ours.replace("solverstate", "caffemodel"), weights)

    def test_ours_after_thirty_iterations_is_theirs(self, run, ending, tmp_path):
        recorded = load(SOLVERS / f"{run}.npz")
        solver = solver_of(recorded)
        solver.param.snapshot_prefix = str(tmp_path / "s")
        solver.param.snapshot = 30
        assert solver.step(30).snapshot == f"{tmp_path}/s_iter_30.solverstate{ending}"
        theirs = read_solverstate(SOLVERS / f"{run}_iter_30.solverstate{ending}")
        ours = read_solverstate(tmp_path / f"s_iter_30.solverstate{ending}")
        assert (ours.iteration, ours.current_step) == (theirs.iteration, theirs.current_step)
        assert (ours.layer_iteration, ours.seed) == ({"fc6": 530}, 1)
        for mine, blob in zip(ours.history, theirs.history, strict=True):
            assert close(mine, blob)
        for name, blob in params_of(solver).items():
            assert close(blob, recorded[f"weights/30/{name}"]), name


def same_binary(ours, theirs):
    kind = pb.SolverState if str(theirs).endswith("solverstate") else pb.NetParameter
    mine, other = (kind.FromString(Path(path).read_bytes()) for path in (ours, theirs))
    if kind is pb.NetParameter:
        # Caffe's copy of the net has its phase and its defaults; what counts is its blobs.
        mine, other = (
            [(x.name, x.type, list(x.bottom), list(x.top), list(x.blobs)) for x in net.layer]
            for net in (mine, other)
        )
    else:
        mine.ClearField("layer_iteration")
        mine.ClearField("seed")
    assert mine == other


def same_hdf5(ours, theirs):
    def contents(path):
        found = {}
        with h5py.File(path) as file:
            file.visititems(
                lambda name, item: found.update(
                    {name: (item.shape, item.dtype, item[()].tobytes(), item.id.get_type())}
                    if isinstance(item, h5py.Dataset)
                    else {name: "group"}
                )
            )
        return found

    mine, other = contents(ours), contents(theirs)
    assert mine.keys() == other.keys()
    for name in other:
        assert mine[name] == other[name], name


FIELDS = {"": same_binary, ".h5": same_hdf5}


@pytest.mark.parametrize("ending", ["", "_iter_size2"])
def test_every_forward_of_a_run_with_tests(ending):
    """In order: phase, lambda, loss, accuracy; a TEST net has its own count of Forwards."""
    recorded = load(SOLVERS / f"solver_test_interval{ending}_float64.npz")
    test = {
        name: torch.from_numpy(recorded[f"test_input/{name}"]).double()
        for name in ("data", "label")
    }
    solver = solver_of(recorded, test_feed=[lambda i: test])
    log = []

    def note(phase, net):
        def hook(module, args, tops):
            layer = net.layers["fc6"]
            accuracy = float(tops.get("accuracy", 0.0))
            counts = int(layer.iteration), float(layer.lambda_), float(tops["loss"].detach())
            log.append((phase, *counts, accuracy))

        net.register_forward_hook(hook)

    note("train", solver.net)
    note("test", solver.test_nets[0])
    solver.step(20)
    norms = [solver.net.params["fc6"][0].detach().norm(dim=1).numpy()]
    solver.finish()
    norms += [solver.net.params["fc6"][0].detach().norm(dim=1).numpy()]

    phases, counter, lambdas, losses, accuracies = map(np.array, zip(*log, strict=True))
    assert phases.tolist() == recorded["forward_phase"].tolist()
    assert counter.tolist() == recorded["forward_counter"].tolist()
    assert close(lambdas, recorded["forward_lambda"])
    assert close(losses, recorded["forward_loss"], 1.0)
    np.testing.assert_allclose(accuracies, recorded["forward_accuracy"], rtol=1e-6)  # of floats
    assert close(norms[0], recorded["fc6_norms_before_last_test"])
    assert close(norms[1], recorded["fc6_norms_after_last_test"])
    for name, blob in params_of(solver).items():
        assert close(blob, recorded[f"weights_after_last_test/{name}"]), name


# Runs of our own: what Caffe's snapshots leave out.

NET = """
layer { name: "data" type: "HDF5Data" top: "data" top: "label" include { phase: TRAIN }
  hdf5_data_param { source: "train.txt" batch_size: 4 shuffle: true } }
layer { name: "data" type: "HDF5Data" top: "data" top: "label" include { phase: TEST }
  hdf5_data_param { source: "train.txt" batch_size: 3 } }
layer { name: "drop" type: "Dropout" bottom: "data" top: "drop" }
layer { name: "fc5" type: "InnerProduct" bottom: "drop" top: "fc5"
  inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }
layer { name: "fc6" type: "MarginInnerProduct" bottom: "fc5" bottom: "label" top: "fc6" top: "l"
  margin_inner_product_param { num_output: 6 type: QUADRUPLE weight_filler { type: "xavier" }
    base: 100 gamma: 0.5 lambda_min: 1 iteration: 7 } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "fc6" bottom: "label" top: "loss" }
"""
SOLVER = """
net: "net.prototxt" base_lr: 0.1 lr_policy: "step" stepsize: 5 gamma: 0.5 momentum: 0.9
weight_decay: 0.01 max_iter: 14 snapshot_prefix: "s" iter_size: 2 test_iter: 2 test_interval: 3
average_loss: 3
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["data"] = rng.standard_normal((10, 8)).astype(np.float32)
        file["label"] = rng.integers(0, 6, 10).astype(np.float32)
    (tmp_path / "train.txt").write_text("a.h5\n")
    (tmp_path / "net.prototxt").write_text(NET)
    (tmp_path / "solver.prototxt").write_text(SOLVER)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def state_of(solver):
    return {
        **{name: blob.clone() for name, blob in solver.net.state_dict().items()},
        **{f"h{i}": blob.clone() for i, blob in enumerate(solver._history())},
        "test count": solver.test_nets[0].layers["fc6"].iteration.clone(),
    }


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


@pytest.mark.parametrize("at", [1, 6, 13])
@pytest.mark.parametrize("kind", ["SGD", "Adam", "AdaDelta"])
def test_a_restored_run_is_the_same_to_the_bit(folder, at, kind):
    """Weights, momenta, lambda, the data's order, Dropout, and the tests' own counts."""
    (folder / "solver.prototxt").write_text(f'{SOLVER} type: "{kind}"')
    whole = cmt.Solver("solver.prototxt", seed=3)
    losses = [run.loss for run in whole.run(14)]
    first = cmt.Solver("solver.prototxt", seed=3)
    first.step(at)
    second = cmt.Solver("solver.prototxt", seed=99)
    second.restore(first.snapshot())
    assert second.seed == 3
    assert [run.loss for run in second.run(14 - at)] == losses[at:]
    assert_same(state_of(whole), state_of(second))


def test_a_seed_says_all_and_another_says_else(folder):
    runs = {}
    for seed in (3, 3, 4):
        solver = cmt.Solver("solver.prototxt", seed=seed)
        torch.manual_seed(len(runs))
        losses = tuple(run.loss for run in solver.run(4))
        runs.setdefault(seed, set()).add(losses)
    assert len(runs[3]) == 1
    assert runs[3] != runs[4]


def test_caffes_state_alone_says_where_the_layer_stands(folder):
    """What Caffe writes has no count: iteration 7, and two Forwards an iteration since."""
    solver = cmt.Solver("solver.prototxt", seed=3)
    solver.step(5)
    path = solver.snapshot()
    state = pb.SolverState.FromString(Path(path).read_bytes())
    assert [(x.layer, x.iteration) for x in state.layer_iteration] == [("fc6", 17)]
    state.ClearField("layer_iteration")
    Path(path).write_bytes(state.SerializeToString())
    for as_caffe, count in ((False, 17), (True, 7)):
        other = cmt.Solver("solver.prototxt", seed=3)
        other.restore(path, as_caffe=as_caffe)
        assert int(other.net.layers["fc6"].iteration) == count


def test_a_snapshot_may_move(folder, tmp_path):
    """The weights are looked for beside the state where they are not where it says."""
    solver = cmt.Solver("solver.prototxt", seed=3)
    solver.step(1)
    path = solver.snapshot()
    (tmp_path / "moved").mkdir()
    for name in (path, path.replace("solverstate", "caffemodel")):
        shutil.move(name, tmp_path / "moved" / name)
    other = cmt.Solver("solver.prototxt", seed=4)
    other.restore(tmp_path / "moved" / path)
    assert_same(state_of(solver), state_of(other))


def test_what_does_not_fit_changes_nothing(folder):
    solver = cmt.Solver("solver.prototxt", seed=3)
    solver.step(1)
    path = solver.snapshot()
    (folder / "net.prototxt").write_text(NET.replace("num_output: 5", "num_output: 4"))
    other = cmt.Solver("solver.prototxt", seed=4)
    before = state_of(other)
    with pytest.raises(ValueError, match=r"the history is 3 blobs, \(5, 8\), .* this solver's"):
        other.restore(path)
    os.remove(path.replace("solverstate", "caffemodel"))
    with pytest.raises(FileNotFoundError):
        solver.restore(path)
    assert_same(before, state_of(other))
    assert (other.iteration, other.seed) == (0, 4)


def test_weights_come_in_caffes_order(folder):
    """Those of the solver's ``weights`` first, then those that are handed in."""
    net = cmt.Net("net.prototxt", phase="TRAIN", shapes={"data": (4, 8), "label": (4,)})
    for name, value in (("a", 1.0), ("b", 2.0)):
        with torch.no_grad():
            net.fc5.weight.fill_(value)
        net.save_weights(f"{name}.caffemodel")
    (folder / "solver.prototxt").write_text(f'{SOLVER} weights: "a.caffemodel"')
    assert float(cmt.Solver("solver.prototxt").net.fc5.weight.detach()[0, 0]) == 1
    solver = cmt.Solver("solver.prototxt", "b.caffemodel")
    assert float(solver.net.fc5.weight.detach()[0, 0]) == 2


def test_layers_of_a_test_net_take_weights_too(folder):
    """A test net's own layers: the solver's ``weights``, then those that are handed in."""
    own = """layer { name: "own" type: "InnerProduct" bottom: "fc5" top: "own"
      include { phase: TEST } inner_product_param { num_output: 2 bias_term: false } }"""
    (folder / "net.prototxt").write_text(NET + own)
    options = {"shapes": {"data": (3, 8), "label": (3,)}}
    net = cmt.Net("net.prototxt", **options)
    for name, value in (("a", 1.0), ("b", 2.0)):
        with torch.no_grad():
            net.own.weight.fill_(value)
            net.fc5.weight.fill_(value)
        net.save_weights(f"{name}.caffemodel")
    (folder / "solver.prototxt").write_text(f'{SOLVER} weights: "a.caffemodel"')
    for weights, value in ((None, 1.0), ("b.caffemodel", 2.0)):
        solver = cmt.Solver("solver.prototxt", weights)
        (test,) = solver.test_nets
        assert test.own.weight.eq(value).all()
        assert test.fc5.weight is solver.net.fc5.weight


def test_a_test_net_of_unknown_shapes_shares_nothing_in_silence(folder):
    (folder / "net.prototxt").write_text(
        NET.replace(
            """HDF5Data" top: "data" top: "label" include { phase: TEST }
  hdf5_data_param { source: "train.txt" batch_size: 3 }""",
            """ImageData" top: "data" top: "label" include { phase: TEST }
  image_data_param { source: "none.txt" batch_size: 3 }""",
        )
    )
    feed = {"data": torch.ones(3, 8), "label": torch.zeros(3)}
    with pytest.raises(ValueError, match="give shapes= for 'data' and 'label'"):
        cmt.Solver("solver.prototxt", test_feed=[lambda i: feed])


def test_display_smooths_as_caffe_does(folder):
    runs = list(cmt.Solver("solver.prototxt", seed=3).run(6))
    losses = [run.loss for run in runs]
    means = [np.mean(losses[max(0, i - 2) : i + 1]) for i in range(6)]
    np.testing.assert_allclose([run.smoothed_loss for run in runs], means, rtol=1e-12)
    rates = [run.rate for run in runs]
    np.testing.assert_allclose(rates, [0.1] * 5 + [0.05], rtol=1e-7)
    assert [bool(run.tests) for run in runs] == [True, False, False, True, False, False]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("average_loss: 0", "average_loss is 0"),
        ("snapshot: 5", "no snapshot_prefix"),
        ('type: "LBFGS"', "type 'LBFGS' is not known"),
        ('lr_policy: "cosine"', "lr_policy 'cosine' is not known"),
    ],
)
def test_what_caffe_would_not_run(folder, text, message):
    plain = SOLVER.replace('snapshot_prefix: "s"', "")
    for field in ("average_loss: 3", 'lr_policy: "step"'):
        if field.partition(":")[0] in text:
            plain = plain.replace(field, "")
    (folder / "solver.prototxt").write_text(f"{plain} {text}")
    with pytest.raises(ValueError, match=message):
        cmt.Solver("solver.prototxt")


def test_the_test_is_a_test():
    """Broken on purpose, a run does not replay."""
    recorded = load(SOLVERS / "solver_sgd_fixed_float64.npz")
    solver = solver_of(recorded)
    solver.optimizer.param_groups[0]["momentum"] *= 1 + 1e-9
    losses = np.array([run.loss for run in solver.run(60)])
    assert not close(losses, recorded["loss"], 1.0)


@pytest.mark.parametrize(("slots", "what"), [(1, "weights"), (2, "history")])
def test_snapshots_of_two_gib_are_refused_before_a_run(tmp_path, monkeypatch, slots, what):
    """By the size that the larger file turns out to have."""
    solver = solver_of(load(SOLVERS / "snapshot_sgd_multistep_float64.npz"))
    solver.optimizer.slots = slots
    solver.param.snapshot_prefix = str(tmp_path / "s")
    solver.snapshot()
    size = max(path.stat().st_size for path in tmp_path.iterdir())
    monkeypatch.setattr("caffe_margin.torch.solver.MAX_BINARY_BYTES", size + 2000)
    solver.check_snapshot()
    monkeypatch.setattr("caffe_margin.torch.solver.MAX_BINARY_BYTES", size - 1)
    with pytest.raises(ValueError, match=f"the {what} would take .*snapshot_format: HDF5"):
        solver.check_snapshot()
    solver.param.snapshot_format = pb.SolverParameter.HDF5
    solver.check_snapshot()
