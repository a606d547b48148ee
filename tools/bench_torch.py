"""Measure whole nets and heads on PyTorch against the same by hand.

    python tools/bench_torch.py                  # a few minutes
    python tools/bench_torch.py --nets --batch 8
    python tools/bench_torch.py --heads

Nets: a step of training of SphereFace-20, forward and backward, by `caffe_margin.torch.Net` and by
tools/sphereface_torch.py, which shares no code with it; from the same weights, so that they give
the same loss, which is checked. The second is measured as it is and with ``channels_last``, which
`Net` uses; and Caffe itself where pycaffe has the layer.

Heads: MarginInnerProduct forward and backward, M = 256, N = 10,572, K = 512, against torch's three
bare products, and against what else there is to hand: the formula under autograd and under
torch.compile, F.linear_cross_entropy, pytorch-metric-learning.

In each repetition each contestant runs once, in an order drawn anew. A time is the median; a ratio
is the median of the repetitions' ratios to the contestant marked 1.00. All share one process, its
threads, and an allocator that keeps what it has (the command line's), unless --allocator plain.
"""

from __future__ import annotations

import argparse
import random
import statistics
from collections.abc import Callable, Mapping
from time import perf_counter
from typing import TypeAlias, cast

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from sphereface_torch import SphereFace20

import caffe_margin.torch as cmt
from caffe_margin.maths.annealing import Annealing
from generated import ROOT

Step: TypeAlias = Callable[[], object]
CLASSES = 10572


def nets(batch: int) -> dict[str, Step]:
    """Return the contestants of a net: the first is what the others are measured by."""
    images = torch.rand(batch, 3, 112, 96) * 2 - 1
    label = torch.randint(CLASSES, (batch,))
    shapes = {"data": images.shape, "label": label.shape}
    net = cmt.Net(ROOT / "models" / "sphereface_model.prototxt", phase="TRAIN", shapes=shapes)
    cast("cmt.MarginInnerProduct", net.fc6).annealing = Annealing(5, 0, 1, 5, 0)
    plain, last = SphereFace20(), SphereFace20()
    for written in (plain, last):
        take_weights(written, net)
    last.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def ours() -> torch.Tensor:
        return net.loss(net(data=images, label=label))

    def by_hand() -> torch.Tensor:
        return plain(images, label)

    def by_hand_channels_last() -> torch.Tensor:
        return last(images.contiguous(memory_format=torch.channels_last), label)

    losses = [loss().item() for loss in (ours, by_hand, by_hand_channels_last)]
    if max(losses) - min(losses) > 1e-4 * max(losses):
        raise SystemExit(f"the contestants differ: their losses are {losses}")
    return {
        "by hand, channels_last": training(last, by_hand_channels_last),
        "by hand": training(plain, by_hand),
        "caffe_margin.torch.Net": training(net, ours),
    }


def take_weights(by_hand: SphereFace20, net: cmt.Net) -> None:
    """Give the net by hand the weights of the other, which has them in the same order."""
    blobs = [blob for layer in net.params.values() for blob in layer]
    with torch.no_grad():
        for mine, theirs in zip(by_hand_params(by_hand), blobs, strict=True):
            mine.copy_(theirs)


def by_hand_params(net: SphereFace20) -> list[torch.Tensor]:
    """Return the parameters in Caffe's order."""
    return [*net.trunk.parameters(), *net.fc5.parameters(), net.weight]


def training(net: torch.nn.Module, loss: Callable[[], torch.Tensor]) -> Step:
    """Return a step of training, without the update."""

    def step() -> None:
        net.zero_grad()
        loss().backward()

    return step


def heads() -> dict[str, Step]:
    """Return the contestants of a head."""
    x = torch.randn(256, 512, requires_grad=True)
    label = torch.randint(CLASSES, (256,))
    g = torch.randn(256, CLASSES) / CLASSES
    weight = torch.nn.Parameter(F.normalize(torch.randn(CLASSES, 512)))

    def bare() -> None:
        with torch.no_grad():
            x @ weight.T, g @ weight, g.T @ x

    contestants: dict[str, Step] = {"three bare products": bare}
    for gradient in ("paper", "exact", "detached"):
        head = cmt.MarginInnerProduct(512, CLASSES, gradient=gradient)

        def step(head: cmt.MarginInnerProduct = head) -> None:
            head.zero_grad()
            x.grad = None
            head(x, label).backward(g)

        contestants[f"caffe_margin, {gradient}"] = step

    def by_formula() -> None:
        weight.grad = x.grad = None
        formula(x, weight, label).backward(g)

    contestants["the formula, autograd"] = by_formula
    compiled = torch.compile(formula)

    def by_compiler() -> None:
        weight.grad = x.grad = None
        compiled(x, weight, label).backward(g)

    try:
        by_compiler()
        contestants["the formula, torch.compile"] = by_compiler
    except Exception as error:  # a machine without a C++ compiler
        print(f"torch.compile is not to be had here: {str(error).splitlines()[0]}")
    contestants |= losses(x, weight, label)
    return contestants


def losses(x: torch.Tensor, weight: torch.Tensor, label: torch.Tensor) -> dict[str, Step]:
    """Return heads that come with their loss; the first is ours."""
    ours = cmt.MarginInnerProduct(512, CLASSES, gradient="exact")

    def our_loss() -> None:
        ours.zero_grad()
        x.grad = None
        F.cross_entropy(ours(x, label), label).backward()

    def our_loss_in_blocks() -> None:
        weight.grad = x.grad = None
        cmt.functional.margin_softmax_loss(x, label, weight, gradient="exact").backward()

    found: dict[str, Step] = {
        "caffe_margin, exact, and cross_entropy": our_loss,
        "margin_softmax_loss, exact": our_loss_in_blocks,
    }
    if hasattr(F, "linear_cross_entropy"):

        def fused() -> None:
            weight.grad = x.grad = None
            F.linear_cross_entropy(x, weight, label).backward()

        found["F.linear_cross_entropy (no margin)"] = fused
    try:
        from pytorch_metric_learning.losses import SphereFaceLoss
    except ModuleNotFoundError:
        return found
    theirs = SphereFaceLoss(CLASSES, 512, margin=4, scale=1)

    def their_loss() -> None:
        theirs.zero_grad()
        x.grad = None
        theirs(x, label).backward()

    return found | {"pytorch-metric-learning, SphereFaceLoss": their_loss}


def formula(x: torch.Tensor, weight: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """A-Softmax with m = 4 and lambda = 5 as one types it, differentiated by autograd."""
    scores = F.linear(x, F.normalize(weight))
    length = x.norm(dim=1)
    own = scores.gather(1, label[:, None])[:, 0]
    cos = own / length
    sign3 = torch.sign(cos) * torch.sign(2 * cos**2 - 1)
    psi = sign3 * (8 * cos**4 - 8 * cos**2 + 1) + 2 * torch.sign(cos) + sign3 - 3
    return scores.scatter_add(1, label[:, None], ((length * psi - own) / 6)[:, None])


def measure(contestants: Mapping[str, Step], repetitions: int) -> dict[str, list[float]]:
    """Return the times of each contestant, a repetition each."""
    for step in contestants.values():
        step()
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(repetitions):
        for name in random.sample(list(contestants), len(contestants)):
            start = perf_counter()
            contestants[name]()
            times[name].append(perf_counter() - start)
    return times


def show(title: str, times: Mapping[str, list[float]]) -> None:
    """Print a table; ratios are to the first contestant."""
    table = Table("contestant", "ms", "ratio", title=title)
    base = next(iter(times.values()))
    for name, own in times.items():
        ratio = statistics.median(a / b for a, b in zip(own, base, strict=True))
        table.add_row(name, f"{1000 * statistics.median(own):.1f}", f"{ratio:.2f}")
    Console().print(table)


def main() -> None:
    """Read the command line, and measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nets", action="store_true", help="the nets only")
    parser.add_argument("--heads", action="store_true", help="the heads only")
    parser.add_argument("--batch", type=int, nargs="+", default=[8, 32], help="(default: 8 32)")
    parser.add_argument("--repetitions", type=int, default=10, help="(default: 10)")
    parser.add_argument("--threads", type=int, help="(default: torch's own)")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    threads = torch.get_num_threads()
    if not options.heads:
        for batch in options.batch:
            times = measure(nets(batch), options.repetitions)
            show(f"SphereFace-20, batch {batch}, {threads} threads", times)
    if not options.nets:
        times = measure(heads(), options.repetitions)
        show(f"a head, 256 x {CLASSES} x 512, {threads} threads", times)


if __name__ == "__main__":
    main()
