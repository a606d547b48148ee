"""What each of the processes of tests/torch/test_distributed_solver.py does.

    python -m helpers.trainers RANK FOLDER

Three processes; the last two of them are a group, and 12 samples an iteration are what one process
with the joint batch has. Each leaves what it found in FOLDER.
"""

import os
import sys
from pathlib import Path

import h5py
import numpy as np
import torch
import torch.distributed as dist
from google.protobuf import text_format
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import caffe_margin.torch as cmt
from caffe_margin import caffe_margin_pb2 as pb

RANKS = {2: [1, 2], 3: [0, 1, 2]}
JOINT = 12
BIG = 30000
WHOLE = 1 << 40

NET = """
layer {{ name: "data" type: "HDF5Data" top: "data" top: "label"
  hdf5_data_param {{ source: "{folder}/list.txt" batch_size: {batch} shuffle: true }} }}
layer {{ name: "fc4" type: "InnerProduct" bottom: "data" top: "fc4"
  param {{ lr_mult: 1 }} param {{ lr_mult: 0 }}
  inner_product_param {{ num_output: 9 weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "relu4" type: "PReLU" bottom: "fc4" top: "fc4" }}
layer {{ name: "fc5" type: "InnerProduct" bottom: "fc4" top: "fc5"
  inner_product_param {{ num_output: 8 weight_filler {{ type: "gaussian" std: 0.5 }} }} }}
layer {{ name: "aside" type: "InnerProduct" bottom: "fc5" top: "aside"
  inner_product_param {{ num_output: 2 weight_filler {{ type: "msra" }} }} }}
layer {{ name: "silence" type: "Silence" bottom: "aside" }}
layer {{ name: "fc6" type: "{type}" bottom: "fc5" bottom: "label" top: "fc6" top: "lambda"
  {message} {{ num_output: {classes} type: QUADRUPLE base: 20 gamma: 0.2 power: 1 lambda_min: 1
    gradient: {gradient} weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "fc6" bottom: "label" top: "loss"
  loss_weight: 0.7 {in_loss} }}
{more}
"""
SOLVER = """
base_lr: 0.05 lr_policy: "step" gamma: 0.5 stepsize: 8 momentum: 0.9 weight_decay: 0.001
max_iter: 20 snapshot: 10 snapshot_prefix: "{prefix}" random_seed: 5
"""


def solver_param(folder, batch, solver="", prefix="none", gradient="PAPER", **net):
    options = {"type": "MarginInnerProduct", "classes": 11, "in_loss": "", "more": ""} | net
    large = options["type"].startswith("Large")
    options["message"] = f"{'largemargin' if large else 'margin'}_inner_product_param"
    param = text_format.Parse(SOLVER.format(prefix=prefix), pb.SolverParameter())
    text_format.Merge(solver, param)
    text = NET.format(folder=folder, batch=batch, gradient=gradient, **options)
    text_format.Parse(text, param.net_param)
    return param


CASES = {
    "plain": (WHOLE, {}),
    "plain exact": (WHOLE, {"gradient": "EXACT", "solver": "iter_size: 2 clip_gradients: 0.5"}),
    "paper": (0, {}),
    "exact": (0, {"gradient": "EXACT", "solver": "iter_size: 2 clip_gradients: 0.5"}),
    "adam": (0, {"gradient": "DETACHED", "solver": 'type: "Adam" snapshot_format: HDF5'}),
    "large": (0, {"gradient": "EXACT", "type": "LargeMarginInnerProduct"}),
}
"""How large a head may be that is not shared, and what the solver and the net say."""


def write_data(folder):
    rng = np.random.default_rng(0)
    label = np.repeat(np.arange(11), 9)
    data = 2 * rng.standard_normal((11, 7))[label] + 0.3 * rng.standard_normal((99, 7))
    for name, classes in (("a.h5", label), ("wrong.h5", label + 1)):
        with h5py.File(folder / name, "w") as file:
            file["data"], file["label"] = data.astype(np.float32), classes.astype(np.float32)
    (folder / "list.txt").write_text(f"{folder}/a.h5\n")


def trained(solver, iterations=20):
    """The losses of a run, and what it leaves."""
    runs = list(solver.run(iterations))
    return {
        "loss": [run.loss for run in runs],
        "images": [run.images for run in runs],
        "params": {
            f"{name}/{i}": blob.detach().clone()
            for name, blobs in solver.net.params.items()
            for i, blob in enumerate(blobs)
        },
        "history": [blob.clone() for blob in solver._history()],
        "lambda": [run.lambda_["fc6"] for run in runs],
    }


def make(group, param, above, **options):
    options = {"dtype": torch.float64, "shard_above": above} | options
    return cmt.DistributedSolver(param, group=group, **options)


def runs(folder, size, group):
    found = {}
    for case, (above, options) in CASES.items():
        prefix = folder / f"{case}-{size}"
        param = solver_param(folder, JOINT // size, prefix=prefix, **options)
        found[case] = trained(make(group, param, above))
    return found


def resumed(folder, size, group):
    """On these from what two left."""
    found = {}
    for case, (above, options) in CASES.items():
        param = solver_param(folder, JOINT // size, prefix=folder / "unused", **options)
        param.snapshot = 0
        solver = make(group, param, above, seed=77)
        ending = ".h5" * (case == "adam")
        solver.restore(folder / f"{case}-2_iter_10.solverstate{ending}")
        found[case] = trained(solver, 10)
    return found


def sizes(folder, size, group):
    """The most elements of what is made, from the net to what a snapshot is restored into."""
    most = 0

    class Recorder(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal most
            out = func(*args, **(kwargs or {}))
            made = [t.numel() for t in tree_leaves(out) if isinstance(t, torch.Tensor)]
            most = max([most, *made])
            return out

    prefix = folder / f"big-{size}"
    param = solver_param(folder, JOINT // size, prefix=prefix, classes=BIG)
    with Recorder():
        solver = make(group, param, 0, dtype=torch.float32)
        solver.step(1)
        solver.restore(solver.snapshot())
        solver.step(1)
    return most


def message(act, kind=ValueError):
    """What a call is refused with."""
    try:
        act()
    except kind as error:
        return f"{type(error).__name__}: {error}"
    return None


def refused(folder, group):
    """What goes wrong on the group's last process alone, and on all."""
    last = dist.get_rank(group) == dist.get_world_size(group) - 1

    def solver(above, where=folder, seed=1, **options):
        param = solver_param(where, 4, **options)
        return make(group, param, above, seed=seed)

    def wrong_label(above):
        with_wrong = solver(above)
        if last:
            source = with_wrong.net.sources["data"]
            source.paths[:] = [str(folder / "wrong.h5")]
        with_wrong.step(20)

    accuracy = """layer { name: "accuracy" type: "Accuracy" bottom: "fc6" bottom: "label"
        top: "accuracy" }"""
    return {
        "missing": message(lambda: solver(0, folder / "nowhere" if last else folder)),
        "plain label": message(lambda: wrong_label(WHOLE)),
        "label": message(lambda: wrong_label(0)),
        "seed": message(lambda: solver(0, seed=int(last))),
        "accuracy": message(lambda: solver(0, more=accuracy)),
        "plain accuracy": message(lambda: solver(WHOLE, more=accuracy).step(1)),
        "ignored": message(lambda: solver(0, in_loss="loss_param { ignore_label: 3 }")),
        "sum": message(lambda: solver(0, in_loss="loss_param { normalization: NONE }")),
        "snapshot": message(
            lambda: solver(0).restore(folder / ("x" if last else "plain-2_iter_10.solverstate"))
        ),
    }


def main(rank, folder):
    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / "store"), 3)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=3)
    if rank == 0:
        write_data(folder)
    dist.barrier()
    groups = {size: dist.new_group(ranks) for size, ranks in RANKS.items()}
    for size, ranks in RANKS.items():
        if rank in ranks:
            group = groups[size]
            found = {"runs": runs(folder, size, group), "sizes": sizes(folder, size, group)}
            torch.save(found, folder / f"{size}-{dist.get_rank(group)}.pt")
        dist.barrier()
    torch.save(resumed(folder, 3, groups[3]), folder / f"resumed-{rank}.pt")
    torch.save(refused(folder, groups[3]), folder / f"refused-{rank}.pt")
    dist.barrier()


if __name__ == "__main__":
    os.chdir(sys.argv[2])
    main(int(sys.argv[1]), Path(sys.argv[2]))
    os._exit(0)  # on Python's own way out gloo's threads end it in an abort now and then
