"""The head over 2, 3 and 4 gloo processes, against the head of one.

All processes are started once; what each of them does is in helpers/shards.py.
"""

import os
import subprocess
import sys

import pytest
import torch
from torch.nn.functional import cross_entropy

import caffe_margin.torch as cmt
from caffe_margin.maths.gradient import ALL_RULES
from caffe_margin.maths.softmax import LARGEST_LOSS
from caffe_margin.torch.functional import large_margin_inner_product, margin_softmax_loss
from caffe_margin.torch.own_class import row_norms
from helpers import shards
from helpers.places import ROOT

TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-6}
SIZES = list(shards.RANKS)
CASES = [
    pytest.param(dtype, rule, *rest, id="-".join(map(str, (dtype, rule.name, *rest))))
    for dtype, rule, *rest in shards.CASES
]
DOUBLE_CASES = [case for case in CASES if case.values[0] == torch.float64]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the processes leave what they found; all have ended."""
    folder = tmp_path_factory.mktemp("shards")
    path = os.pathsep.join([str(ROOT / "tests"), str(ROOT)])
    command = [sys.executable, "-W", "error", "-m", "helpers.shards"]
    processes = [
        subprocess.Popen(
            [*command, str(rank), str(folder)],
            env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(4)
    ]
    try:
        errors = [process.communicate(timeout=240)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    codes = [process.returncode for process in processes]
    assert codes == [0, -9, 0, 0], "\n".join(errors)
    return folder


@pytest.fixture(scope="module")
def found(folder):
    """What each member of each group found."""
    return {
        size: [torch.load(folder / f"{size}-{i}.pt", weights_only=False) for i in range(size)]
        for size in SIZES
    }


def assert_same(got, expected, tolerance):
    assert got.dtype == expected.dtype
    assert got.shape == expected.shape
    assert (got - expected).abs().max() <= tolerance * expected.abs().max()


def unsharded(dtype, rule, m, large, scale):
    """The loss, the gradients and the stored weight of one process with all samples."""
    x, label, weight = shards.make_batch(dtype, scale)
    x.requires_grad_()
    weight.requires_grad_()
    options = {"m": m, "lambda_": shards.LAMBDA, "gradient": rule}
    if large:
        scores = large_margin_inner_product(x, label, weight, **options)
        losses = cross_entropy(scores, label, reduction="none")
        losses.mean().backward()
        loss = losses.clamp(max=LARGEST_LOSS).mean()
    else:
        loss = margin_softmax_loss(x, label, weight, **options)
        loss.backward()
    stored = weight.detach()
    if rule.no_projection and not large:
        stored = stored / row_norms(stored)[:, None]
    return loss.detach(), x.grad, weight.grad, stored


@pytest.mark.parametrize(("dtype", "rule", "m", "large", "scale"), CASES)
@pytest.mark.parametrize("size", SIZES)
def test_is_the_unsharded_head(found, size, dtype, rule, m, large, scale):
    loss, x_diff, weight_diff, stored = unsharded(dtype, rule, m, large, scale)
    parts = [member["cases"][dtype, rule, m, large, scale] for member in found[size]]
    tolerance = TOLERANCE[dtype]
    for part in parts:
        assert part["loss"] == parts[0]["loss"]  # to the last bit
        assert_same(part["loss"], loss, tolerance)
        assert part["iteration"] == (2 if "again" in part else 1)
    assert_same(torch.cat([part["x"] for part in parts]), x_diff, tolerance)
    assert_same(torch.cat([part["weight"] for part in parts]), weight_diff, tolerance)
    assert_same(torch.cat([part["stored"] for part in parts]), stored, tolerance)


@pytest.mark.parametrize(("dtype", "rule", "m", "large", "scale"), DOUBLE_CASES)
@pytest.mark.parametrize("size", SIZES)
def test_a_second_forward_before_the_backward(found, size, dtype, rule, m, large, scale):
    """It finds the rows at unit length where the rule stores them so: all is as it was."""
    loss, x_diff, weight_diff, _ = unsharded(dtype, rule, m, large, scale)
    losses, x_diffs, weight_diffs = zip(
        *(member["cases"][dtype, rule, m, large, scale]["again"] for member in found[size]),
        strict=True,
    )
    assert_same(losses[0], loss, 1e-12)
    assert_same(torch.cat(x_diffs), x_diff, 1e-12)
    assert_same(torch.cat(weight_diffs), weight_diff, 1e-12)


def test_the_cases_reach_the_clamp_and_every_rule():
    loss, x_diff, *_ = unsharded(torch.float64, ALL_RULES[0], 4, False, 100.0)
    x, label, weight = shards.make_batch(torch.float64, 100.0)
    scores = cmt.functional.margin_inner_product(
        x, label, weight, lambda_=shards.LAMBDA, gradient="exact"
    )
    assert loss < cross_entropy(scores, label) - 1
    assert x_diff.abs().max() > 1e-3
    for dtype in TOLERANCE:
        assert {case[1] for case in shards.CASES if case[0] == dtype} == set(ALL_RULES)
    assert all(shards.N % size for size in SIZES)


@pytest.mark.parametrize("size", SIZES)
def test_autocast(found, size):
    x, label, weight = shards.make_batch(torch.float32)
    x.requires_grad_()
    weight.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        loss = margin_softmax_loss(x, label, weight, lambda_=shards.LAMBDA)
    loss.backward()
    parts = [member["autocast"] for member in found[size]]
    assert_same(parts[0]["loss"], loss.detach(), 0.02)
    assert_same(torch.cat([part["x"] for part in parts]), x.grad, 0.02)
    assert_same(torch.cat([part["weight"] for part in parts]), weight.grad, 0.02)


@pytest.mark.parametrize("size", SIZES)
def test_what_is_wrong_on_one_raises_on_all(found, size):
    last = size - 1
    first_of_last = found[size][last]["rows"]["rows"].start
    row = 2 if size != 4 else 1
    expected = {
        "label": f"process {last}: row 1 of label is 41; labels must lie in [0, 41)",
        "nan": f"process 0: row {row} of x has a value that is not finite, or a square that "
        "overflows; it has no direction",
        "shape": "process 0: x is",
        "no tensor": "process 0: ",
        "grad": "the processes must agree: process 0 has 6, 41, m=4",
        "row": f"process {last}: row {first_of_last + 2} of weight is zero, or so short that its "
        "square is no normal number; it has no direction",
        "iteration": "the processes must agree: process 0 has 6, 41, m=4",
        "empty": "there are no samples on any process; the mean over none is none",
    }
    for name, start in expected.items():
        messages = [member["bad input"][name][0] for member in found[size]]
        assert len(set(messages)) == 1, name
        assert messages[0].startswith(start), name
        assert "\n" not in messages[0]
        assert all(member["bad input"][name][1] for member in found[size]), name
    assert [member["bad input"]["goes on"] for member in found[size]] == [0] * size
    told = found[size][0]["bad input"]
    assert f"without a gradient, and process {last} 6, 41" in told["grad"][0]
    assert "iteration=1," in told["iteration"][0]
    assert "iteration=7," in told["iteration"][0]


@pytest.mark.parametrize("size", SIZES)
def test_a_body_in_ddp_trains_as_in_one_process(found, size):
    x, label, weight = shards.make_batch()
    body = shards.make_body()
    head = cmt.MarginInnerProduct(
        shards.K, shards.N, base=shards.LAMBDA, gamma=0, lambda_min=0, dtype=torch.float64
    )
    with torch.no_grad():
        head.weight.copy_(weight)
    optimizer = torch.optim.SGD([*body.parameters(), *head.parameters()], lr=0.05)
    for step in range(3):
        optimizer.zero_grad()
        loss = cross_entropy(head(body(x), label), label)
        loss.backward()
        optimizer.step()
        for member in found[size]:
            assert member["ddp"]["losses"][step] == pytest.approx(loss.item(), rel=1e-12)
    for member in found[size]:
        for got, expected in zip(member["ddp"]["body"], body.parameters(), strict=True):
            assert_same(got, expected, 1e-12)
    rows = torch.cat([member["ddp"]["weight"] for member in found[size]])
    assert_same(rows, head.weight, 1e-12)


@pytest.mark.parametrize("size", SIZES)
def test_nothing_larger_than_a_share_of_the_weight(found, size):
    M, N, K, block = shards.BIG.values()
    for member in found[size]:
        sizes = member["sizes"]
        share = sizes["share"]
        assert max(M * block, M * K) < share < min(N * K, M * (share // K))
        assert sizes["exact"] == sizes["paper"] == share
        assert sizes["gather_rows"] <= share
    assert sum(member["sizes"]["share"] for member in found[size]) == N * K


@pytest.mark.parametrize("size", SIZES)
def test_rows_out_and_in(found, size):
    weight = shards.make_batch()[2]
    first, *others = (member["rows"] for member in found[size])
    assert torch.equal(torch.cat(first["gathered"]), weight)
    assert max(map(len, first["gathered"])) == shards.BLOCK
    assert not any(other["gathered"] or other["history"] for other in others)
    ranks = [float(rank) for rank in range(size)]
    assert torch.cat(first["history"]).unique_consecutive().tolist() == ranks
    stop = 0
    for member in (first, *others):
        rows = member["rows"]
        assert rows.start == stop
        stop = rows.stop
        assert member["asked"] == [slice(rows.start, rows.stop)]
        assert torch.equal(member["loaded"], weight[rows.start : rows.stop])
    assert stop == shards.N
    assert {len(member["rows"]) for member in (first, *others)} <= {
        shards.N // size,
        shards.N // size + 1,
    }


@pytest.mark.parametrize("size", SIZES)
def test_each_draws_its_own_rows_from_one_seed(found, size):
    rows = torch.cat([member["drawn"] for member in found[size]])
    assert len(rows.unique()) > 0.99 * rows.numel()
    limit = (3 / shards.K) ** 0.5
    assert 0.95 * limit < rows.abs().max() <= limit


def test_where_one_dies_the_others_end(folder):
    for rank in (0, 2, 3):
        died = torch.load(folder / f"died-{rank}.pt")
        start = f"process {rank} of 4 has lost another, which may have ended: "
        assert died["message"].startswith(start)
        assert len(died["message"]) > len(start)
        assert died["seconds"] < 10


def test_who_may_have_rows(folder):
    assert (folder / "outside").read_text() == (
        "this process is not in the group; it can have no rows there"
    )
    assert (folder / "few").read_text() == (
        "out_features is 3; it must be at least the number of processes, 4"
    )


class TestAlone:
    """One process is enough to see these."""

    @pytest.fixture(autouse=True)
    def one_process(self):
        store = torch.distributed.HashStore()
        torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
        yield
        torch.distributed.destroy_process_group()

    def test_arguments(self):
        with pytest.raises(ValueError, match="block is 0; it must be a positive number of classes"):
            cmt.ShardedMarginInnerProduct(3, 4, block=0)
        with pytest.raises(ValueError, match="out_features is 0; it must be at least"):
            cmt.ShardedMarginInnerProduct(3, 0)
        with pytest.raises(ValueError, match="must be positive, not 0 and 4"):
            cmt.ShardedMarginInnerProduct(0, 4)

    def test_rows_of_another_shape(self):
        head = cmt.ShardedMarginInnerProduct(3, 4)
        with pytest.raises(ValueError, match=r"the array is \(4, 2\); it must be \(4, 3\)"):
            head.load_rows(torch.ones(4, 2).numpy())
        with pytest.raises(ValueError, match=r"tensor is \(3, 3\); it must have 4 rows"):
            list(head.gather_rows(torch.ones(3, 3)))

    def test_another_device(self):
        head = cmt.ShardedMarginInnerProduct(3, 4)
        with pytest.raises(ValueError, match="x is on cpu and label on meta; they must be on cpu"):
            head(torch.ones(2, 3), torch.ones(2, device="meta"))

    def test_from_hdf5(self, tmp_path):
        h5py = pytest.importorskip("h5py")
        head = cmt.ShardedMarginInnerProduct(3, 4)
        with h5py.File(tmp_path / "rows.h5", "w") as file:
            file["0"] = torch.arange(12.0, dtype=torch.float64).reshape(4, 3)
            head.load_rows(file["0"])
        assert head.weight.flatten().tolist() == list(range(12))

    def test_features_that_are_rows_of_the_weight(self):
        head = cmt.ShardedMarginInnerProduct(3, 4, dtype=torch.float64)
        other = cmt.ShardedMarginInnerProduct(3, 4, dtype=torch.float64)
        other.load_state_dict(head.state_dict())
        x, label = head.weight.detach()[:2], torch.tensor([1, 3])
        apart = x.clone().requires_grad_()
        (loss, expected) = head(x.requires_grad_(), label), other(apart, label)
        loss.backward()
        expected.backward()
        assert loss == expected
        assert torch.equal(x.grad, apart.grad)

    def test_a_gradient_is_had_once(self):
        head = cmt.ShardedMarginInnerProduct(3, 4)
        x = torch.randn(2, 3, requires_grad=True)
        loss = head(x, torch.tensor([0, 1]))
        with pytest.raises(RuntimeError, match="this gradient has no gradient"):
            torch.autograd.grad(loss, x, create_graph=True)

    def test_a_state_goes_on(self):
        head = cmt.ShardedMarginInnerProduct(3, 4, iteration=5)
        head(torch.randn(2, 3), torch.tensor([0.9, 3.2]))
        assert head.iteration == 6
        assert head.lambda_ == head.annealing(torch.tensor(6.0))
        assert {key: tuple(value.shape) for key, value in head.state_dict().items()} == {
            "weight": (4, 3),
            "iteration": (),
        }
