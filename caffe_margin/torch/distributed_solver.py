"""Caffe's solver over several processes: the body data-parallel, a large head shared.

Each process reads its own batches and runs the whole body, in DistributedDataParallel, which takes
the mean of the gradients, as Caffe's solvers on several GPUs do. What happens on one alone, reading
a batch for one, is agreed on before the processes wait for each other in the next exchange.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.files.load import StrPath
from caffe_margin.files.solverstate import SolverState
from caffe_margin.torch.distributed_net import DistributedNet, send_rows
from caffe_margin.torch.net import Net
from caffe_margin.torch.processes import AgreedError, LostError, Processes
from caffe_margin.torch.solver import Solver
from caffe_margin.torch.weights import Weights

SHARD_ABOVE = 64 << 20
"""Bytes of a head beyond which it is shared: 32,768 classes of 512 features in float32."""


_BACKENDS = re.compile("/gloo/|gloo::|NCCL")
"""What is in the messages of their errors, which have no type of their own everywhere."""


class DistributedSolver(Solver):
    """`Solver` over `torch.distributed`, every process doing the same.

        >>> import torch.distributed as dist
        >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        >>> x, label = torch.randn(2, 1, 32, 32), torch.tensor([3.0, 5.0])
        >>> solver = DistributedSolver(
        ...     "models/glyphs_solver.prototxt",
        ...     feed=lambda forwards: {"data": x, "label": label},
        ...     shapes={"data": x.shape, "label": label.shape},
        ...     shard_above=0,
        ... )
        >>> solver.step(1).iteration, list(solver.net.heads)
        (1, ['fc6'])
        >>> dist.destroy_process_group()

    The ``batch_size`` of the net is that of each process. Of the batches of a source, process r of
    W takes number r, r + W, r + 2W and so on: an iteration is that of one process with W times the
    ``batch_size``. The mean over the processes is what ``loss`` is, and the gradient of. A layer
    with a margin whose weight is larger than ``shard_above`` is shared, by
    `ShardedMarginInnerProduct`, and the SoftmaxWithLoss above it with it; a net of which another
    layer reads the scores is refused.

    BatchNorm's statistics are of a process's own batches, and the first's are saved; Dropout draws
    on each process for itself. A test net is run on every process by all of its batches.

    Snapshots are whole, as those of one process, and are restored on any number of them.

    Args:
        solver: as `Solver`.
        weights: as there; every process reads the file, of a shared layer its own rows alone.
        group: the processes; None for all.
        shard_above: bytes.
        **options: those of `Solver`, but for ``compiled``.

    Attributes:
        net: a `DistributedNet`.
        processes: the group.

    Raises:
        AgreedError: what `Solver` raises on one process, on all of them, a ValueError.
        LostError: another process does not answer, a RuntimeError.
    """

    net: DistributedNet

    def __init__(
        self,
        solver: StrPath | pb.SolverParameter,
        weights: Weights | None = None,
        *,
        group: dist.ProcessGroup | None = None,
        shard_above: int = SHARD_ABOVE,
        **options: Any,
    ) -> None:
        self.processes = Processes.of(group)
        self._shard_above = shard_above
        # What is drawn because no seed is given is the same on all.
        torch.manual_seed(self.processes.from_first(int(torch.randint(2**31, ()))))
        with self.processes.agreeing(self._facts):
            if options.get("compiled"):
                raise ValueError("a net over several processes is not compiled")
            super().__init__(solver, weights, **options)
        rank, size = self.processes.rank, self.processes.size
        self._drawing = (rank,) if rank else ()
        for source in self.net.sources.values():
            source.turn = (rank, size)
        self.optimizer.sum_shards = self._sum
        with self._losing():
            self._run_net = _in_ddp(self.net, group)

    def _make(self, net: pb.NetParameter, **options: Any) -> Net:
        state = net.state
        return DistributedNet(
            net,
            group=self.processes.group,
            shard_above=self._shard_above,
            phase=pb.Phase.Name(state.phase),
            level=state.level,
            **options,
        )

    def _facts(self) -> str:
        sums = [
            zlib.crc32(message.SerializeToString(deterministic=True))
            for message in (self.param, self.net.param)
        ]
        return (
            f"seed {self.seed}, iteration {self.iteration}, a solver of checksum {sums[0]:08x} and "
            f"a net of {sums[1]:08x}"
        )

    # An iteration.

    def _update(self) -> tuple[float, Mapping[str, Tensor]]:
        with self._losing():
            loss, outputs = super()._update()
        own = torch.tensor([loss, self._images], dtype=torch.float64, device=self.processes.device)
        loss, images = self._sum(own).tolist()
        self._images = int(images)
        return loss / self.processes.size, outputs

    def _inputs(self) -> Mapping[str, Tensor]:
        with self.processes.agreeing():
            return super()._inputs()

    def _objective(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Run the net, and agree on what a layer refuses; where a head is shared, it does that."""
        heads = self.net.heads.values()
        for head in heads:
            head.met = False
        problem = None
        try:
            loss, outputs = self._run_net(**inputs)
        except Exception as error:
            if any(head.met for head in heads):
                # The others heard of it in the head, or will when this process ends.
                raise _told(error) from error
            problem = error
        if problem or not heads:
            # By the backend, and so at the exchange, by which the others wait.
            device = next((head.weight.device for head in heads), self.processes.device)
            self.processes.agree(1, "", problem, device)
        return loss, outputs

    def _test_inputs(self, i: int) -> Mapping[str, Tensor]:
        with self.processes.agreeing():
            return super()._test_inputs(i)

    def _sum(self, number: Tensor) -> Tensor:
        return self.processes.reduce(number, dist.ReduceOp.SUM)

    @contextmanager
    def _losing(self) -> Iterator[None]:
        """Say what it means where the backend fails under DDP."""
        try:
            yield
        except LostError:
            raise
        except RuntimeError as error:
            if isinstance(error, dist.DistError) or _BACKENDS.search(str(error)):
                raise self.processes.lost(error) from error
            raise

    # Snapshots.

    def snapshot(self) -> str:
        """Write whole files, as `Solver.snapshot`: every process calls it, and the first writes.

        Raises:
            OSError: on the first alone, a file cannot be written.
            ValueError: a file of the format BINARYPROTO would take 2 GiB.
            LostError: another process does not answer.
        """
        path = super().snapshot()
        self.processes.total(0)  # now it is there for all
        return path

    def _write_state(self, state: SolverState, path: str) -> None:
        if self.processes.rank == 0:
            return super()._write_state(state, path)
        send_rows(state.history)

    def restore(self, path: StrPath, *, as_caffe: bool = False) -> SolverState:
        """Go on from a snapshot, of any number of processes, as `Solver.restore`.

        Where it fails on one, others may have restored it: make the solvers anew.

        Raises:
            AgreedError: what that raises on one process, on all of them.
        """
        with self.processes.agreeing(self._facts):
            return super().restore(path, as_caffe=as_caffe)


class _Objective(nn.Module):
    """From a net's inputs to its objective, with the parameters that DDP has in its charge."""

    def __init__(self, net: DistributedNet, params: Iterable[nn.Parameter]) -> None:
        super().__init__()
        self.params = nn.ParameterList(params)
        self._net = (net,)  # no submodule: the rest of it is none of DDP's business

    def forward(self, **inputs: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        (net,) = self._net
        outputs = net(**inputs)
        return net.loss(outputs), {name: top.detach() for name, top in outputs.items()}


def _in_ddp(net: DistributedNet, group: dist.ProcessGroup | None) -> nn.Module:
    """Return the objective, in DDP where there is something for it to do."""
    parts = {id(head.weight) for head in net.heads.values()}
    params = [p for p in net.parameters() if p.requires_grad and id(p) not in parts]
    objective = _Objective(net, params)
    if not params:
        return objective
    # The graph is the same each time, with the same parameters outside it.
    return DistributedDataParallel(objective, process_group=group, static_graph=True)


def _told(error: Exception) -> Exception:
    """Return the error that a head raises on all, from what the net made of it."""
    if isinstance(error.__cause__, LostError):
        return error.__cause__
    return AgreedError(str(error)) if isinstance(error.__cause__, AgreedError) else error
