"""Caffe's solver: a net trained as its prototxt says, with snapshots that Caffe reads."""

from __future__ import annotations

import errno
import math
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.files.binary import MAX_BINARY_BYTES
from caffe_margin.files.load import StrPath
from caffe_margin.files.prototxt import read_solver
from caffe_margin.files.rows import Share, Stored
from caffe_margin.files.solverstate import SolverState, read_solverstate, write_solverstate
from caffe_margin.nets.margin import set_gradient
from caffe_margin.solver.learning_rate import multistep_drops
from caffe_margin.solver.nets import net_to_train, nets_to_test
from caffe_margin.torch import optim
from caffe_margin.torch.debug_info import DebugInfo, Write
from caffe_margin.torch.layers.layer import owner_of
from caffe_margin.torch.learnable import learnable_params
from caffe_margin.torch.margin_layer import MarginLayer
from caffe_margin.torch.net import Net
from caffe_margin.torch.sharing import share_layers
from caffe_margin.torch.weights import Weights

Feed: TypeAlias = Callable[[int], Mapping[str, Tensor]]
"""From how many Forwards came before to what goes into the net's data layers."""


@dataclass(frozen=True)
class Iteration:
    """What came of one iteration.

    Attributes:
        iteration: how often the weights have been updated, this time included.
        loss: the objective, the mean over ``iter_size``.
        smoothed_loss: the mean over the last ``average_loss`` iterations.
        rate: the learning rate.
        lambda_: of each layer with a margin at the last Forward, by name.
        images: how many went in, at all Forwards: rows of the first top of a data layer.
        outputs: the net's outputs at the last Forward.
        tests: what `Solver.test` gave for each test net, where it was time for it; it came first.
        snapshot: the ``.solverstate`` that was written, where it was time for it; it came last.
    """

    iteration: int
    loss: float
    smoothed_loss: float
    rate: float
    lambda_: Mapping[str, float]
    images: int
    outputs: Mapping[str, Tensor] = field(repr=False)
    tests: Sequence[Mapping[str, np.ndarray]] = ()
    snapshot: str = ""


class Solver:
    """A solver of Caffe's.

        >>> import torch
        >>> x, label = torch.randn(2, 1, 32, 32), torch.tensor([3.0, 5.0])
        >>> solver = Solver(
        ...     "models/glyphs_solver.prototxt",
        ...     feed=lambda forwards: {"data": x, "label": label},
        ...     shapes={"data": x.shape, "label": label.shape},
        ... )
        >>> solver.step(1).iteration
        1

    What is drawn in an iteration, by Dropout and the like, is a function of the seed and the
    iteration: PyTorch's generator is set at the start of each.

    Args:
        solver: a file or a message.
        weights: what `Net.load_weights` takes; they come after those of the solver's ``weights``.
            Layers that only a test net has take theirs too.
        feed: what goes into the net's data layers; None where these have sources.
        test_feed: the same for each test net.
        shapes: of the tops of data layers, where the files leave them open.
        seed: of the fillers and of what is drawn; None for the solver's ``random_seed``, or, where
            that is not set, for `torch`'s generator.
        device: of the nets.
        dtype: of the nets; float32 by default.
        gradient: the rule of the layers with a margin, ``"paper"``, ``"exact"`` or
            ``"detached"``; None for what the net says.
        compiled: whether the net that is trained goes through `torch.compile`.

    Attributes:
        param: the solver's message.
        net: the net that is trained.
        test_nets: those it is tested by; they share its blobs and count their own Forwards.
        optimizer: one of `caffe_margin.torch.optim`.
        iteration: how often the weights have been updated.
        seed: see there.
        write: takes the lines of the solver's ``debug_info``: those of every ``display``-th
            iteration, and of every test. It is `print`.

    Raises:
        FileNotFoundError: a file is not there.
        ValueError: the solver is none that Caffe would run.
    """

    def __init__(
        self,
        solver: StrPath | pb.SolverParameter,
        weights: Weights | None = None,
        *,
        feed: Feed | None = None,
        test_feed: Sequence[Feed | None] = (),
        shapes: Mapping[str, Sequence[int]] | None = None,
        seed: int | None = None,
        device: Any = None,
        dtype: torch.dtype | None = None,
        gradient: str | None = None,
        compiled: bool = False,
    ) -> None:
        folder: StrPath = "."
        if isinstance(solver, pb.SolverParameter):
            self.param = solver
        else:
            self.param, folder = read_solver(solver), Path(solver).parent
        _check(self.param)
        if seed is None:
            drawn = self.param.random_seed < 0
            seed = int(torch.randint(2**31, ())) if drawn else self.param.random_seed
        self.seed = seed
        options = {"shapes": shapes, "seed": seed, "device": device, "dtype": dtype}
        net_param = net_to_train(self.param, folder)
        if gradient is not None:
            set_gradient(net_param, gradient)
        self.net = self._make(net_param, **options)
        if feed is None:
            for source in self.net.sources.values():
                source.open()  # what is wrong with it is said now
        self.test_nets = [self._make(net, **options) for net in nets_to_test(self.param, folder)]
        for net in self.test_nets:
            share_layers(net, self.net)
        self._load([name.strip() for names in self.param.weights for name in names.split(",")])
        if weights is not None:
            self._load(weights)

        self.iteration = 0
        self.write: Write = print
        self._drawing: tuple[int, ...] = ()
        # What is compiled does not stop at a layer.
        compiled = compiled and not self.param.debug_info
        self._run_net = torch.compile(self.net) if compiled else self.net
        self._feed = feed
        self._test_feed = [*test_feed, *[None] * (len(self.test_nets) - len(test_feed))]
        self._forwards = self._images = 0
        self._test_forwards = [0] * len(self.test_nets)
        self._losses: deque[float] = deque(maxlen=self.param.average_loss)
        self._margins = _margins(self.net)
        self._learnable = learnable_params(self.net.param, self.net.params)
        groups: dict[tuple[float, float, bool], list[Tensor]] = {}
        for blob, lr_mult, decay_mult in self._learnable:
            is_part = self.net.share(blob) is not None
            groups.setdefault((lr_mult, decay_mult, is_part), []).append(blob)
        self.optimizer = optim.of_solver(
            self.param,
            [
                {"params": blobs, "lr_mult": mults[0], "decay_mult": mults[1], "sharded": mults[2]}
                for mults, blobs in groups.items()
            ],
        )
        self._policy = optim.LRPolicy(self.optimizer, self.param)

    def _load(self, weights: Weights) -> None:
        """Load weights into all nets. Source: LoadNetWeights."""
        for net in (self.net, *self.test_nets):
            net.load_weights(weights)

    def _make(self, net: pb.NetParameter, **options: Any) -> Net:
        state = net.state
        return Net(net, phase=pb.Phase.Name(state.phase), level=state.level, **options)

    # Training.

    def run(self, iterations: int | None = None) -> Iterator[Iteration]:
        """Train, and yield what came of each iteration. Source: Solver::Step.

        Args:
            iterations: how many; to ``max_iter`` if None.
        """
        stop = self.param.max_iter if iterations is None else self.iteration + iterations
        self._losses.clear()
        while self.iteration < stop:
            p, tests = self.param, []
            is_first = self.iteration == 0 and not p.test_initialization
            if p.test_interval and self.iteration % p.test_interval == 0 and not is_first:
                tests = [self.test(i) for i in range(len(self.test_nets))]
            rate = self._policy.get_last_lr()[0]
            loss, outputs = self._update()
            self._losses.append(loss)
            due = p.snapshot and self.iteration % p.snapshot == 0
            yield Iteration(
                self.iteration,
                loss,
                sum(self._losses) / len(self._losses),
                float(rate),
                {name: float(layer.lambda_) for name, layer in self._margins.items()},
                self._images,
                outputs,
                tests,
                self.snapshot() if due else "",
            )

    def step(self, iterations: int = 1) -> Iteration:
        """Train for some iterations, and return what came of the last."""
        return deque(self.run(iterations), maxlen=1).pop()

    def solve(self) -> list[Mapping[str, np.ndarray]]:
        """Train to ``max_iter``, and finish; return the last tests. Source: Solver::Solve."""
        deque(self.run(), maxlen=0)
        return self.finish()

    def finish(self) -> list[Mapping[str, np.ndarray]]:
        """Do what Caffe does at the end of a run: a snapshot, one more Forward, the tests."""
        p = self.param
        if p.snapshot_after_train and (not p.snapshot or self.iteration % p.snapshot):
            self.snapshot()
        if p.display and self.iteration % p.display == 0:
            with torch.no_grad():
                self._forward()
        if p.test_interval and self.iteration % p.test_interval == 0:
            return [self.test(i) for i in range(len(self.test_nets))]
        return []

    def _update(self) -> tuple[float, Mapping[str, Tensor]]:
        """Take one iteration: Forwards, Backwards, and the update."""
        p = self.param
        torch.manual_seed(_mix(self.seed, self.iteration, *self._drawing))
        self.optimizer.zero_grad()
        outputs: Mapping[str, Tensor] = {}
        total, self._images = 0.0, 0
        told = p.debug_info and p.display and self.iteration % p.display == 0
        for _ in range(p.iter_size):
            with DebugInfo(self.net, self.write) if told else nullcontext() as info:
                loss, outputs = self._forward()
                loss.backward()
                if info:
                    info.backward()
            total += float(loss.detach())
        self.optimizer.step()
        self._policy.step()
        self.iteration += 1
        return total / p.iter_size, outputs

    def _forward(self) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Return the objective, and what the net returned."""
        inputs = self._inputs()
        loss, outputs = self._objective(inputs)
        self._forwards += 1
        self._images += next((len(top) for top in inputs.values() if top.dim()), 0)
        return loss, outputs

    def _inputs(self) -> Mapping[str, Tensor]:
        return self.net.next_batches() if self._feed is None else self._feed(self._forwards)

    def _objective(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Mapping[str, Tensor]]:
        outputs: dict[str, Tensor] = self._run_net(**inputs)
        return self.net.loss(outputs), outputs

    def test(self, i: int = 0) -> dict[str, np.ndarray]:
        """Return the mean of a test net's outputs over its ``test_iter``. Source: Solver::Test.

        Its layers with a margin normalise the rows of the weights that both nets have, as Caffe's
        do; what else there is of the training net stays as it was.
        """
        sums: dict[str, np.ndarray] = {}
        for outputs in self.test_runs(i):
            for name, top in outputs.items():
                sums[name] = sums.get(name, 0) + top.cpu().numpy()
        return {name: total / self.param.test_iter[i] for name, total in sums.items()}

    def test_runs(self, i: int = 0, keep: Collection[str] = ()) -> Iterator[dict[str, Tensor]]:
        """Yield a test net's outputs, and the blobs of ``keep``, at each of its ``test_iter``."""
        net = self.test_nets[i]
        for _ in range(self.param.test_iter[i]):
            inputs = self._test_inputs(i)
            told = DebugInfo(net, self.write) if self.param.debug_info else nullcontext()
            with torch.no_grad(), told:
                outputs = net(keep=keep, **inputs)
            self._test_forwards[i] += 1
            yield outputs

    def _test_inputs(self, i: int) -> Mapping[str, Tensor]:
        feed = self._test_feed[i]
        return self.test_nets[i].next_batches() if feed is None else feed(self._test_forwards[i])

    # Snapshots.

    def snapshot(self) -> str:
        """Write the weights, then the state that names them; return the state's file.

        Names and contents are Caffe's. Source: Solver::Snapshot.

        Raises:
            OSError: a file cannot be written.
            ValueError: a file of the format BINARYPROTO would take 2 GiB.
        """
        self.check_snapshot()
        ending = ".h5" * self._is_hdf5
        stem = f"{self.param.snapshot_prefix}_iter_{self.iteration}"
        weights, path = f"{stem}.caffemodel{ending}", f"{stem}.solverstate{ending}"
        self.net.save_weights(weights)
        state = SolverState(
            iteration=self.iteration,
            learned_net=weights,
            current_step=_current_step(self.param, self.iteration),
            history=self._stored_history(),
            layer_iteration=self.layer_iterations,
            seed=self.seed,
        )
        self._write_state(state, path)
        return path

    @property
    def _is_hdf5(self) -> bool:
        return self.param.snapshot_format == pb.SolverParameter.HDF5

    def _write_state(self, state: SolverState, path: str) -> None:
        write_solverstate(state, path)

    def check_snapshot(self) -> None:
        """Say before a run that its snapshots cannot be written.

        Raises:
            FileNotFoundError: there is no folder for them.
            ValueError: a file of the format BINARYPROTO would take 2 GiB.
        """
        folder = Path(self.param.snapshot_prefix).parent
        if not folder.is_dir():
            raise FileNotFoundError(
                errno.ENOENT, "there is no such folder, for snapshot_prefix", str(folder)
            )
        if self._is_hdf5:
            return
        sizes = {id(blob): self._file_size(blob) for blob, *_ in self._learnable}
        blobs = (blob for blobs in self.net.params.values() for blob in blobs)
        weights = sum(sizes[id(owner_of(blob))] for blob in blobs)
        files = {
            "the weights": weights + self.net.param.ByteSize(),
            "the history": sum(sizes.values()) * self.optimizer.slots + 1000,
        }
        for what, size in files.items():
            if size > MAX_BINARY_BYTES:
                raise ValueError(
                    f"{what} would take {size:,} bytes in a snapshot, and a file of the format "
                    "BINARYPROTO holds less than 2 GiB: say snapshot_format: HDF5 in the solver"
                )

    def _file_size(self, blob: Tensor) -> int:
        """Return how many bytes a blob takes in a binary file, with its shape."""
        share = self.net.share(blob)
        shape = tuple(blob.shape) if share is None else share.shape
        return math.prod(shape) * max(4, blob.itemsize) + 64

    def restore(self, path: StrPath, *, as_caffe: bool = False) -> SolverState:
        """Go on from a snapshot, Caffe's or ours; nothing changes where it does not fit.

        Caffe's says nothing of how far the layers with a margin had counted: they start over at
        their ``iteration``. Here they go on: from what our snapshot says, or else from their
        ``iteration`` and ``iter_size`` a solver's iteration. So does the data.

        Source: Solver::Restore.

        Args:
            path: the ``.solverstate``. The weights' file is looked for beside it where it is not
                found as the state names it.
            as_caffe: start layers and data over, as Caffe does.

        Raises:
            FileNotFoundError: a file is not there.
            ValueError: it is no solver state, or not this solver's.
        """
        state = read_solverstate(path, self._history_shares())
        history = self._history()
        shapes = [tuple(blob.shape) for blob in history]
        stored = [blob.shape for blob in state.history]
        if stored != shapes:
            raise ValueError(
                f"{path}: the history is {_shapes(stored)}, and this solver's {_shapes(shapes)}"
            )
        if state.learned_net:
            beside = Path(path).parent / Path(state.learned_net).name
            exists = Path(state.learned_net).exists()
            self.net.load_weights(state.learned_net if exists else beside)
        with torch.no_grad():
            for blob, array in zip(history, state.history, strict=True):
                blob.copy_(torch.from_numpy(array))
        self.iteration = state.iteration
        for group in self.optimizer.param_groups:
            group["iteration"] = state.iteration
        self._policy = optim.LRPolicy(self.optimizer, self.param, state.iteration - 1)
        self._count(state, as_caffe)
        return state

    def _count(self, state: SolverState, as_caffe: bool) -> None:
        """Set the counts of Forwards, which say where lambda and the data stand."""
        if state.seed is not None and state.seed != self.seed and not as_caffe:
            self.seed = state.seed
            for net in (self.net, *self.test_nets):
                net.reseed(self.seed)
        before = 0 if as_caffe else state.iteration
        self._forwards = before * self.param.iter_size
        for name, layer in self._margins.items():
            start = layer.annealing.iteration + self._forwards
            known = {} if as_caffe else state.layer_iteration
            layer.iteration.fill_(known.get(name, start))
        if interval := self.param.test_interval:
            tests = -(-before // interval) - (before > 0 and not self.param.test_initialization)
            self._test_forwards = [tests * count for count in self.param.test_iter]
        nets = [(self.net, self._forwards), *zip(self.test_nets, self._test_forwards, strict=True)]
        for net, forwards in nets:
            for source in net.sources.values():
                source.iteration = forwards
        for net, forwards in nets[1:]:
            for layer in _margins(net).values():
                layer.iteration.fill_(layer.annealing.iteration + forwards)

    @property
    def layer_iterations(self) -> dict[str, int]:
        """How far each layer with a margin has counted, by name."""
        return {name: int(layer.iteration) for name, layer in self._margins.items()}

    @property
    def classes(self) -> int:
        """N of the first layer with a margin; 0 where there is none."""
        return next((layer.out_features for layer in self._margins.values()), 0)

    def _history(self) -> list[Tensor]:
        return self.optimizer.history(self._blobs)

    @property
    def _blobs(self) -> list[Tensor]:
        return [blob for blob, *_ in self._learnable]

    def _stored_history(self) -> list[Stored]:
        pairs = zip(self._history(), cycle(self._blobs), strict=False)
        return [self.net.stored(blob, like) for blob, like in pairs]

    def _history_shares(self) -> dict[int, Share]:
        """Return of which blobs of the history, by place, this process has some rows alone."""
        blobs = self._blobs * self.optimizer.slots
        shares = [self.net.share(blob) for blob in blobs]
        return {i: share for i, share in enumerate(shares) if share is not None}


def _check(param: pb.SolverParameter) -> None:
    if param.average_loss < 1:
        raise ValueError(f"average_loss is {param.average_loss}; it must be positive")
    if param.snapshot and not param.HasField("snapshot_prefix"):
        raise ValueError("the solver has a snapshot interval, and no snapshot_prefix")


def _margins(net: Net) -> dict[str, MarginLayer]:
    return {name: layer for name, layer in net.layers.items() if isinstance(layer, MarginLayer)}


def _current_step(param: pb.SolverParameter, iteration: int) -> int:
    """Return how many steps the rate has taken. Source: SGDSolver::GetLearningRate."""
    last = max(iteration - 1, 0)
    if param.lr_policy == "step":
        return last // param.stepsize
    if param.lr_policy == "multistep":
        return sum(drop <= last for drop in multistep_drops(param.stepvalue))
    return 0


def _mix(*numbers: int) -> int:
    """Return a seed for an iteration."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])


def _shapes(shapes: Sequence[tuple[int, ...]]) -> str:
    some = ", ".join(map(str, shapes[:4]))
    return f"{len(shapes)} blobs, {some}{', ...' * (len(shapes) > 4)}"
