"""A parameter that layers share in shapes of their own: share_mode PERMISSIVE."""

import copy

import h5py
import pytest
import torch

import caffe_margin.torch as cmt
from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin import read_weights
from caffe_margin.files.solverstate import read_solverstate
from helpers.small_nets import inputs, message, net

PERMISSIVE = (
    inputs(x=(2, 3, 2, 2), z=(2, 12))
    + """layer { name: "a" type: "Convolution" bottom: "x" top: "a"
      loss_weight: 1 param { name: "w" } convolution_param {
        num_output: 5 kernel_size: 2 bias_term: false weight_filler { type: "gaussian" } } }
    layer { name: "b" type: "InnerProduct" bottom: "z" top: "b" loss_weight: 1
      param { name: "w" share_mode: PERMISSIVE }
      inner_product_param { num_output: 5 bias_term: false } }"""
)


def test_one_parameter_in_two_shapes():
    """A convolution of a whole image is an inner product: (5, 3, 2, 2) weights are (5, 12)."""
    made = net(PERMISSIVE, dtype=torch.float64)
    x, weight = torch.randn(2, 3, 2, 2, dtype=torch.float64), made.a.weight
    assert [tuple(made.params[name][0].shape) for name in "ab"] == [(5, 3, 2, 2), (5, 12)]
    assert list(made.parameters()) == [weight]
    for one in (made, copy.deepcopy(made)):
        blobs = one(x=x, z=x.flatten(1))
        torch.testing.assert_close(blobs["a"].flatten(1), blobs["b"], rtol=1e-14, atol=1e-14)
        (blobs["a"].sum() + 2 * blobs["b"].sum()).backward()
        torch.testing.assert_close(one.a.weight.grad, 3 * x.sum(0).expand(5, -1, -1, -1))
    assert made.a.weight is weight


@pytest.mark.parametrize("ending", ["caffemodel", "h5"])
def test_each_layer_has_its_own_shape_in_a_file(tmp_path, ending):
    made, other = net(PERMISSIVE), net(PERMISSIVE, seed=1)
    made.save_weights(tmp_path / f"w.{ending}")
    assert other.load_weights(tmp_path / f"w.{ending}") == ((), ())
    assert torch.equal(other.a.weight, made.a.weight)
    assert torch.equal(other.params["b"][0], made.a.weight.flatten(1))
    if ending == "caffemodel":
        stored = pb.NetParameter.FromString((tmp_path / "w.caffemodel").read_bytes())
        shapes = [list(layer.blobs[0].shape.dim) for layer in stored.layer if layer.blobs]
        assert shapes == [[5, 3, 2, 2], [5, 12]]
    else:
        with h5py.File(tmp_path / "w.h5") as file:
            assert {name: list(group) for name, group in file["data"].items()} == {
                "x": [], "z": [], "a": ["0"], "b": []
            }  # fmt: skip


def test_a_solver_moves_what_is_shared_once():
    """By its rate times both gradients, in the training net and the test net."""
    x = torch.randn(2, 3, 2, 2)
    param = pb.SolverParameter(base_lr=0.5, lr_policy="fixed", test_iter=[1], test_interval=1)
    param.net_param.CopyFrom(message(PERMISSIVE))
    feed = {"x": x, "z": x.flatten(1)}
    solver = cmt.Solver(param, feed=lambda i: feed, test_feed=[lambda i: feed])
    before = solver.net.a.weight.detach().clone()
    solver.step()
    expected = before - 0.5 * 2 * x.sum(0)
    torch.testing.assert_close(solver.net.a.weight.detach(), expected)
    torch.testing.assert_close(solver.test_nets[0].params["b"][0].detach(), expected.flatten(1))
    assert len(solver._history()) == 1


def test_a_solver_of_such_a_net_goes_on_from_its_snapshot(tmp_path):
    """Both layers' blobs are in the weights' file, and one history in the state's."""
    param = pb.SolverParameter(
        net_param=message(PERMISSIVE),
        base_lr=0.1,
        lr_policy="fixed",
        momentum=0.9,
        max_iter=4,
        snapshot_prefix=str(tmp_path / "s"),
        random_seed=1,
    )
    x = torch.randn(2, 3, 2, 2)
    solver, other = (
        cmt.Solver(param, feed=lambda forwards: {"x": x, "z": x.flatten(1)}) for _ in range(2)
    )
    solver.step(2)
    state = solver.snapshot()
    weights = read_weights(f"{tmp_path}/s_iter_2.caffemodel")
    assert [blob.shape for (blob,) in weights.values()] == [(5, 3, 2, 2), (5, 12)]
    assert len(read_solverstate(state).history) == 1
    other.restore(state)
    solver.step(2)
    other.step(2)
    torch.testing.assert_close(other.net.a.weight, solver.net.a.weight, rtol=0, atol=0)


def test_a_solver_without_a_folder_for_its_snapshots_says_so(tmp_path):
    param = pb.SolverParameter(
        net_param=message(PERMISSIVE),
        base_lr=0.1,
        lr_policy="fixed",
        max_iter=4,
        snapshot_prefix=str(tmp_path / "gone" / "s"),
    )
    with pytest.raises(FileNotFoundError, match="no such folder, for snapshot_prefix"):
        cmt.Solver(param, feed=lambda forwards: {}).check_snapshot()
