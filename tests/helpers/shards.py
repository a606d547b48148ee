"""What each of the processes of tests/torch/test_sharded.py does.

    python -m helpers.shards RANK FOLDER

Four processes; the groups of two and three are among them, and of those no number in the group is
everywhere that in the world. Each leaves what it found in FOLDER, and the last thing that happens
is that process 1 dies.
"""

import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import caffe_margin.torch as cmt
from caffe_margin.maths.gradient import ALL_RULES, EXACT, PAPER

RANKS = {2: [1, 3], 3: [0, 2, 3], 4: [0, 1, 2, 3]}
COUNTS = {2: [7, 4], 3: [3, 0, 8], 4: [2, 5, 0, 4]}
M, N, K = 11, 41, 6
LAMBDA = 2.0
_PLAIN = [
    *((rule, 4, False, 1.0) for rule in ALL_RULES),
    *((rule, m, False, 1.0) for rule in (EXACT, PAPER) for m in (1, 2, 3)),
    *((rule, 4, False, 100.0) for rule in (EXACT, PAPER)),
]
CASES = [
    *((dtype, *case) for dtype in (torch.float64, torch.float32) for case in _PLAIN),
    *((torch.float64, rule, 4, True, 1.0) for rule in ALL_RULES),
]
"""Dtype, rule, margin, whether L-Softmax's, and what the features are multiplied by."""
BLOCK = 3
BIG = {"M": 64, "N": 997, "K": 16, "block": 50}


def make_batch(dtype=torch.float64, scale=1.0, M=M, N=N, K=K):
    """Features, labels and a weight of uneven lengths."""
    rng = np.random.default_rng(0)
    x = torch.tensor(3 * scale * rng.normal(size=(M, K)), dtype=dtype)
    weight = rng.normal(size=(N, K)) * rng.uniform(0.2, 5, size=(N, 1))
    label = torch.from_numpy(rng.permutation(N)[:M])
    return x, label, torch.tensor(weight, dtype=dtype)


def make_body():
    torch.manual_seed(0)
    layers = torch.nn.Linear(K, 8), torch.nn.PReLU(), torch.nn.Linear(8, K)
    return torch.nn.Sequential(*layers).double()


def make_head(group, dtype=torch.float64, weight=None, **options):
    N, K = weight.shape
    options = {"base": LAMBDA, "gamma": 0, "lambda_min": 0, "block": BLOCK} | options
    head = cmt.ShardedMarginInnerProduct(K, N, group=group, dtype=dtype, **options)
    head.load_rows(weight.numpy())
    return head


class Member:
    """A process in a group, with its part of the batch."""

    def __init__(self, size, group):
        self.size, self.group, self.rank = size, group, dist.get_rank(group)
        self.last = self.rank == size - 1

    def mine(self, tensor, counts=None):
        return tensor.split(counts or COUNTS[self.size])[self.rank].clone()

    def cases(self):
        return {case: self.case(*case) for case in CASES}

    def case(self, dtype, rule, m, large, scale):
        """In float64 two Forwards before the Backward of the first."""
        x, label, weight = make_batch(dtype, scale)
        x, label = self.mine(x).requires_grad_(), self.mine(label)
        head = make_head(self.group, dtype, weight, m=m, gradient=rule, large=large)
        loss = head(x, label)
        again = head(x, label) if dtype == torch.float64 else None
        loss.backward()
        found = {
            "loss": loss.detach(),
            "x": x.grad,
            "weight": head.weight.grad,
            "stored": head.weight.detach(),
            "iteration": int(head.iteration),
        }
        if again is not None:
            x.grad = head.weight.grad = None
            again.backward()
            found["again"] = again.detach(), x.grad, head.weight.grad
        return found

    def bad_input(self):
        """What is said, and whether the state is as it was, and whether it goes on then."""
        x, label, weight = make_batch()
        x, label = self.mine(x), self.mine(label)
        head = make_head(self.group, weight=weight)
        good = head(x, label)
        label_outside, x_nan = label.clone(), x.clone()
        if self.last:
            label_outside[1] = N
        if self.rank == 0:
            x_nan[2 if self.size != 4 else 1, 3] = np.nan

        def zero_row():
            if self.last:
                head.weight.data[2] = 0

        def other_iteration():
            if self.last:
                head.iteration.fill_(7)

        calls = {
            "label": (x, label_outside),
            "nan": (x_nan, label),
            "shape": (x[:, 1:] if self.rank == 0 else x, label),
            "no tensor": (None if self.rank == 0 else x, label),
            "grad": (x.clone().requires_grad_(self.last), label),
            "row": (x, label, zero_row),
            "iteration": (x, label, other_iteration),
            "empty": (x[:0], label[:0]),
        }
        found = {}
        for name, (features, labels, *change) in calls.items():
            kept = {key: value.clone() for key, value in head.state_dict().items()}
            for act in change:
                act()
            before = {key: value.clone() for key, value in head.state_dict().items()}
            try:
                head(features, labels)
                message = None
            except ValueError as error:
                message = str(error)
            after = head.state_dict()
            same = all(torch.equal(before[key], after[key]) for key in before)
            head.load_state_dict(kept)
            found[name] = message, same
        return found | {"goes on": (head(x, label) - good).item()}

    def in_ddp(self):
        """Three steps of a body in DDP."""
        x, label, weight = make_batch()
        x, label = self.mine(x), self.mine(label)
        body = DistributedDataParallel(make_body(), process_group=self.group)
        head = make_head(self.group, weight=weight, ddp=True)
        losses = []
        for _ in range(3):
            body.zero_grad()
            head.zero_grad()
            loss = head(body(x), label)
            loss.backward()
            with torch.no_grad():
                for parameter in (*body.parameters(), *head.parameters()):
                    parameter -= 0.05 * parameter.grad
            losses.append(loss.item())
        return {
            "losses": losses,
            "body": [p.detach() for p in body.parameters()],
            "weight": head.weight.detach(),
        }

    def sizes(self):
        """The numbers of elements of all that is made."""
        sizes = []

        class Recorder(TorchDispatchMode):
            def __torch_dispatch__(self, func, types, args=(), kwargs=None):
                out = func(*args, **(kwargs or {}))
                sizes.extend(t.numel() for t in tree_leaves(out) if isinstance(t, torch.Tensor))
                return out

        shape = {key: BIG[key] for key in "MNK"}
        x, label, weight = make_batch(**shape)
        counts = [len(part) for part in x.tensor_split(self.size)]
        x, label = self.mine(x, counts).requires_grad_(), self.mine(label, counts)
        found = {}
        for rule in ("exact", "paper"):
            head = make_head(self.group, weight=weight, gradient=rule, block=BIG["block"])
            sizes.clear()
            with Recorder():
                head(x, label).backward()
            found[rule] = max(sizes)
        sizes.clear()
        with Recorder():
            for _ in head.gather_rows():
                pass
        return found | {"gather_rows": max(sizes), "share": len(head.rows) * BIG["K"]}

    def rows(self, folder):
        """The rows to a file and back, and who reads what."""
        weight = make_batch()[2]
        head = make_head(self.group, weight=weight)
        history = torch.full((len(head.rows),), float(self.rank))
        found = {
            "rows": head.rows,
            "gathered": [rows.clone() for rows in head.gather_rows()],
            "history": [rows.clone() for rows in head.gather_rows(history)],
        }
        path = folder / "rows.npy"
        if not self.rank:
            np.save(path, torch.cat(found["gathered"]).numpy())
        dist.barrier(self.group)
        asked = []

        class Array:
            shape = weight.shape

            def __getitem__(self, where):
                asked.append(where)
                return np.load(path, mmap_mode="r")[where]

        loaded = make_head(self.group, weight=torch.ones(N, K))
        loaded.load_rows(Array())
        dist.barrier(self.group)
        return found | {"asked": asked, "loaded": loaded.weight.detach()}

    def drawn(self):
        torch.manual_seed(3)
        head = cmt.ShardedMarginInnerProduct(K, N, group=self.group)
        return head.weight.detach()

    def autocast(self):
        x, label, weight = make_batch(torch.float32)
        x, label = self.mine(x).requires_grad_(), self.mine(label)
        head = make_head(self.group, torch.float32, weight)
        with torch.autocast("cpu", torch.bfloat16):
            loss = head(x, label)
        loss.backward()
        return {"loss": loss.detach(), "x": x.grad, "weight": head.weight.grad}


def die_together(rank):
    """Process 1 dies in the third step; return what the others hear, and after how long."""
    x, label, weight = make_batch()
    member = Member(4, dist.group.WORLD)
    x, label = member.mine(x).requires_grad_(), member.mine(label)
    head = make_head(None, weight=weight)
    for _ in range(2):
        head(x, label).backward()
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    start = time.monotonic()
    try:
        for _ in range(1000):
            head(x, label).backward()
    except RuntimeError as error:
        return {"message": str(error), "seconds": time.monotonic() - start}
    return {"message": None}


def main(rank, folder):
    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / "store"), 4)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=4)
    groups = {size: dist.new_group(ranks) for size, ranks in RANKS.items()}
    for size, ranks in RANKS.items():
        if rank not in ranks:
            continue
        member = Member(size, groups[size])
        found = {
            "cases": member.cases(),
            "bad input": member.bad_input(),
            "ddp": member.in_ddp(),
            "sizes": member.sizes(),
            "rows": member.rows(folder),
            "drawn": member.drawn(),
            "autocast": member.autocast(),
        }
        torch.save(found, folder / f"{size}-{member.rank}.pt")
    if rank == 0:
        try:
            cmt.ShardedMarginInnerProduct(K, N, group=groups[2])
        except ValueError as error:
            (folder / "outside").write_text(str(error))
        try:
            cmt.ShardedMarginInnerProduct(K, 3)
        except ValueError as error:
            (folder / "few").write_text(str(error))
    dist.barrier()
    torch.save(die_together(rank), folder / f"died-{rank}.pt")


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
    os._exit(0)  # on Python's own way out gloo's threads end it in an abort now and then
