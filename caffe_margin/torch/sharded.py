"""MarginInnerProduct and the softmax loss above it, where no process holds all classes.

Each process has some rows of the weight and its own samples. With C_p the classes of process p,

    loss_i = log sum_p sum_(j in C_p) exp(top_ij - top_iy)

so the processes exchange, in Forward, all features and labels, each sample's top_iy, which the one
that has its class knows, and of each sample a maximum and a sum over the classes; in Backward, the
features' gradient, a sum over the processes as well. The classes of one are gone through in blocks,
as in `caffe_margin.torch.softmax_loss`, whose code this is.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from caffe_margin.maths.gradient import GradientRule
from caffe_margin.maths.softmax import LARGEST_LOSS
from caffe_margin.torch.checks import (
    check_label,
    check_lambda,
    check_rows,
    check_shapes,
    check_tensors,
)
from caffe_margin.torch.functional import autocast_dtype
from caffe_margin.torch.margin_layer import MarginLayer
from caffe_margin.torch.own_class import Margin, OwnClass, row_norms, working_dtype
from caffe_margin.torch.processes import Processes
from caffe_margin.torch.softmax_loss import Classes, loss_of


class ShardedMarginInnerProduct(MarginLayer):
    """`MarginInnerProduct` and its mean softmax loss, the classes shared among processes.

        >>> import torch
        >>> import torch.distributed as dist
        >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        >>> head = ShardedMarginInnerProduct(512, 10572, m=4, base=1000, gamma=0.12, lambda_min=5)
        >>> head
        ShardedMarginInnerProduct(512, 10572, m=4, base=1000, gamma=0.12, power=1, lambda_min=5, \
gradient='paper', rows=0:10572)
        >>> x, label = torch.randn(2, 512, requires_grad=True), torch.tensor([7, 10571])
        >>> loss = head(x, label)
        >>> loss.backward()
        >>> x.grad.shape, head.weight.grad.shape
        (torch.Size([2, 512]), torch.Size([10572, 512]))
        >>> dist.destroy_process_group()

    That is one process; under ``torchrun`` each of several has about N / W rows of the weight, and
    its own samples, as many as it likes. ``loss`` is the mean over the samples of all, the same on
    each, and ``loss.backward()`` leaves each the gradient of that mean with respect to its own
    samples and its own rows: the numbers of `caffe_margin.torch.functional.margin_softmax_loss`
    from one process with all samples. Every process calls Forward, and Backward if any does, and
    does the same with the loss. The gradient has no gradient of its own.

    **A body in DistributedDataParallel.** DDP divides the sum of the body's gradients by the number
    of processes W, as if each had a mean of its own; but the gradients here are parts of the
    gradient of one mean, to be added up. With ``ddp=True``, and nowhere else, the features'
    gradient is W times what is said above, and the body's comes out right, whatever the sizes of
    the batches. The head itself is not to be wrapped in DDP, which would have all have the same
    rows.

    ``iteration`` and the stored weight are as in `MarginInnerProduct`. Values are looked at on
    every device, for the processes wait for each other anyway: a label or a row that is out of
    place on one raises on all, and nothing has changed on any. Where a process ends for another
    reason, the others' next exchange raises RuntimeError at once over gloo, and over NCCL after the
    group's timeout, if ``torchrun`` has not ended them by then.

    Args:
        in_features: K, how many features a sample has.
        out_features: N, the number of classes of all processes together.
        m: as in `MarginInnerProduct`.
        base: as there.
        gamma: as there.
        power: as there.
        lambda_min: as there.
        iteration: as there.
        gradient: as there.
        group: the processes, all by default. They talk by its backend, gloo or NCCL.
        block: how many classes are scored at a time: two arrays of (all samples) x block exist at
            any time, and no larger one but of the size of the weight.
        ddp: whether the features come from a body in DDP.
        large: whether it is `LargeMarginInnerProduct`'s score, whose other defaults are others.
        device: of the parameters.
        dtype: of the parameters.

    Attributes:
        weight: this process's rows, (len(rows), in_features).
        rows: which of the N they are, a range.
        iteration: as in `MarginInnerProduct`; the same on all.
        m: the margin.
        annealing: the `Annealing`.
        gradient: the `GradientRule`.

    Raises:
        ValueError: as `MarginInnerProduct`; there are fewer classes than processes; block is not
            positive; or this process is not in the group.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        m: int = 4,
        base: float = 1000,
        gamma: float = 0.12,
        power: float = 1,
        lambda_min: float = 5,
        iteration: int = 0,
        gradient: str | GradientRule = "paper",
        group: dist.ProcessGroup | None = None,
        block: int = 8192,
        ddp: bool = False,
        large: bool = False,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        processes = Processes.of(group)
        if out_features < processes.size:
            raise ValueError(
                f"out_features is {out_features}; it must be at least the number of processes, "
                f"{processes.size}"
            )
        if operator.index(block) < 1:
            raise ValueError(f"block is {block}; it must be a positive number of classes")
        self._processes = processes  # the base draws this process's rows
        self.rows = processes.share(out_features)
        super().__init__(
            in_features,
            len(self.rows),
            m,
            base,
            gamma,
            power,
            lambda_min,
            iteration,
            gradient,
            device,
            dtype,
        )
        self.out_features = out_features
        self.block, self.ddp, self.large = block, ddp, large

    def reset_parameters(self) -> None:
        """Draw the weight as Caffe's xavier filler does, and set ``iteration`` to its start.

        Each process draws other rows, also where all have the same seed.
        """
        processes, generator = self._processes, None
        seeds = torch.randint(2**63 - 1, (processes.size,))
        if not self.weight.is_meta:
            generator = torch.Generator(self.weight.device)
            generator.manual_seed(int(seeds[processes.rank]))
        torch.nn.init.kaiming_uniform_(self.weight, nonlinearity="linear", generator=generator)
        self.iteration.fill_(self.annealing.iteration)

    def extra_repr(self) -> str:
        """Return the arguments, and which rows are here."""
        return f"{super().extra_repr()}, rows={self.rows.start}:{self.rows.stop}"

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        """Return the mean loss over the samples of all processes.

        Args:
            x: this process's features, (M, K); M may be another on each, and 0 on some.
            label: (M,), in [0, N); floats are truncated, as Caffe does.

        Raises:
            ValueError: as `caffe_margin.torch.functional.margin_softmax_loss`, on all processes,
                and naming the one; or the processes differ in what must be the same on all, such as
                ``iteration``.
            RuntimeError: another process is lost.
        """
        iteration = self.iteration + 1
        lambda_ = self._lambda_at(iteration)
        x, norm, counts = self._agreed(x, label, lambda_)
        margin = Margin(self.m, self.gradient, self.large)
        shard = Shard(self._processes, self.rows.start, counts, margin, self.block, self.ddp)
        loss = ShardedSoftmaxLoss.apply(x, label, self.weight, norm, lambda_, shard)
        if norm is not None and self.gradient.no_projection:
            # Unseen by autograd: the Backward of an earlier Forward finds the same unit rows.
            self.weight.data.div_(norm[:, None])
        self.iteration.copy_(iteration)
        return loss

    def gather_rows(self, tensor: Tensor | None = None) -> Iterator[Tensor]:
        """Yield all N rows in order, a block at a time, on the group's first process.

            for rows in head.gather_rows():
                dataset[at : at + len(rows)] = rows.cpu()
                at += len(rows)

        Every process runs the loop to its end; on the others it has no turns. The first never has
        more than a block of another's rows. What is yielded is not to be written to.

        Args:
            tensor: something else of this process that has a row for each of its classes, such as
                the optimizer's history; by default the weight.

        Raises:
            ValueError: tensor has another number of rows.
            RuntimeError: another process is lost.
        """
        own = (self.weight if tensor is None else tensor).detach()
        if len(own) != len(self.rows):
            raise ValueError(
                f"tensor is {tuple(own.shape)}; it must have {len(self.rows)} rows, as the weight"
            )
        processes = self._processes
        if processes.rank:
            for part in own.split(self.block):
                processes.send_first(part.contiguous())
            return
        yield from own.split(self.block)
        for rank in range(1, processes.size):
            theirs = len(processes.share(self.out_features, rank))
            for start in range(0, theirs, self.block):
                count = min(self.block, theirs - start)
                yield processes.receive(own.new_empty(count, *own.shape[1:]), rank)

    @torch.no_grad()
    def load_rows(self, array: Any, tensor: Tensor | None = None) -> None:
        """Copy this process's rows out of an array with all N, of which it reads no others.

            >>> import numpy as np
            >>> import torch.distributed as dist
            >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
            >>> head = ShardedMarginInnerProduct(2, 3)
            >>> head.load_rows(np.eye(3, 2))
            >>> head.weight.tolist()
            [[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]
            >>> dist.destroy_process_group()

        Args:
            array: (N, K), with a shape and slices: numpy's, memory-mapped or not, or h5py's.
            tensor: where to instead of the weight, as in `gather_rows`.

        Raises:
            ValueError: array is not (N, K), or (N, ...) of the tensor's.
        """
        own = self.weight if tensor is None else tensor
        shape = (self.out_features, *own.shape[1:])
        if tuple(array.shape) != shape:
            raise ValueError(f"the array is {tuple(array.shape)}; it must be {shape}")
        rows = np.require(array[self.rows.start : self.rows.stop], requirements=["C", "W"])
        own.copy_(torch.from_numpy(rows))

    def _agreed(
        self, x: Tensor, label: Tensor, lambda_: Tensor
    ) -> tuple[Tensor, Tensor | None, list[int]]:
        """Return what `_checked` does, and how many samples each process has.

        Raises:
            ValueError: what is wrong on any process.
        """
        norm, count, facts, problem = None, 0, "", None
        try:
            x, norm = self._checked(x, label, lambda_)
            count = len(x)
            facts = (
                f"{super().extra_repr()}, iteration={int(self.iteration)}, ddp={self.ddp}, "
                f"large={self.large}, features of {x.dtype}, "
                f"{'with' if x.requires_grad else 'without'} a gradient"
            )
        except Exception as error:  # whatever it is, the others wait to hear of it
            problem = error
        return x, norm, self._processes.agree(count, facts, problem, self.weight.device)

    def _checked(self, x: Tensor, label: Tensor, lambda_: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return x in the dtype of the product, and the lengths of the rows unless they stay.

        Raises:
            ValueError: as `forward`, of this process alone.
        """
        check_tensors(x=x, label=label)
        dtype = autocast_dtype(x)
        x = x if dtype is None else x.to(dtype)
        weight = self.weight.detach()
        if not x.device == label.device == weight.device:
            raise ValueError(
                f"x is on {x.device} and label on {label.device}; they must be on "
                f"{weight.device}, as the weight"
            )
        check_shapes(x, label, weight.to("meta", dtype))
        check_label(label, self.out_features)
        if self.m > 1:
            check_lambda(lambda_)
        check_rows(row_norms(x), "x")
        norm = row_norms(weight).to(working_dtype(x))
        check_rows(norm, "weight", self.rows.start)
        return x, None if self.large else norm


@dataclass(frozen=True)
class Shard:
    """What of a call is no tensor.

    Attributes:
        processes: who takes part.
        first: the class of this process's first row.
        counts: how many samples each process has.
        margin: the margin.
        block: how many classes are scored at a time.
        ddp: whether the features' gradient will be divided by the number of processes.
    """

    processes: Processes
    first: int
    counts: list[int]
    margin: Margin
    block: int
    ddp: bool


class ShardedSoftmaxLoss(torch.autograd.Function):
    """(x, label, weight, weight_norm, lambda_, shard) -> the mean loss over all samples.

    The tensors are this process's, and as `Scores` takes them.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        label: Tensor,
        weight: Tensor,
        weight_norm: Tensor | None,
        lambda_: Tensor,
        shard: Shard,
    ) -> Tensor:
        """Put the sums of all processes together."""
        processes = shard.processes
        x = processes.gather(x, shard.counts)
        label = processes.gather(label.long(), shard.counts) - shard.first
        here = _here(label, weight)
        own = OwnClass.of(x[here], label[here], weight, weight_norm, lambda_, shard.margin)
        score = own.x_norm.new_zeros(len(x)).index_copy_(0, here, own.score())
        processes.reduce(score, dist.ReduceOp.SUM)
        maximum, others = Classes(x, score, label, weight, weight_norm, shard.block).sums()
        highest = processes.reduce(maximum.clone(), dist.ReduceOp.MAX)
        others = processes.reduce(others * (maximum - highest).exp(), dist.ReduceOp.SUM)
        loss = loss_of(highest, others)

        if shard.margin.rule.no_projection:
            weight_norm = None  # by Backward the stored rows are of unit length
        ctx.shard = shard
        ctx.save_for_backward(x, label, weight, weight_norm, lambda_, score, loss)
        return loss.clamp(max=LARGEST_LOSS).mean()

    @staticmethod
    def backward(ctx: Any, diff: Tensor) -> tuple[Tensor | None, ...]:
        """Add the features' gradients of all processes up; the weight's is this one's alone."""
        if torch.is_grad_enabled():
            raise RuntimeError(
                "create_graph is True, but this gradient has no gradient; that of "
                "margin_softmax_loss, in one process, has"
            )
        x, label, weight, weight_norm, lambda_, score, loss = ctx.saved_tensors
        of_x, _, of_weight, *_ = ctx.needs_input_grad
        shard, here = ctx.shard, _here(label, weight)
        own = OwnClass.of(x[here], label[here], weight, weight_norm, lambda_, shard.margin)
        coefficients, diff = own.coefficients(), (diff / len(x)).expand(len(x), 1)
        label_diff = diff[here] * torch.expm1(-loss[here])[:, None]
        x_diff = label_x = None
        if of_x:
            of_label = coefficients.w[:, None] * own.w + coefficients.x[:, None] * own.x
            x_diff = score.new_zeros(x.shape).index_copy_(0, here, label_diff * of_label)
        if of_weight:
            of_label = coefficients.weight[:, None] * own.x
            if coefficients.weight_w is not None:
                of_label = of_label + coefficients.weight_w[:, None] * own.w
            label_x = score.new_zeros(x.shape).index_copy_(0, here, label_diff * of_label)
        classes = Classes(x, score, label, weight, weight_norm, shard.block)
        x_diff, weight_diff = classes.gradients(loss, diff, x_diff, label_x, projected=True)
        if x_diff is not None:
            x_diff = shard.processes.scatter(x_diff, shard.counts)
            if shard.ddp:
                x_diff = x_diff * shard.processes.size
            x_diff = x_diff.to(x.dtype)
        return x_diff, None, weight_diff, None, None, None


def _here(label: Tensor, weight: Tensor) -> Tensor:
    """Return which samples have a class among these rows, labels being counted from the first."""
    return ((label >= 0) & (label < len(weight))).nonzero()[:, 0]
