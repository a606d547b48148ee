"""torch.vmap over a Function whose outputs have a row for each sample."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def over_samples(
    function: type[torch.autograd.Function],
    info: Any,
    in_dims: tuple[int | None, ...],
    *args: Any,
) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    """Return what ``vmap`` of a Function is to return; its first two arguments are x and label.

    Samples do not know of each other, so a batch of batches is one long batch. Weights or lambdas
    that are batched are gone through one by one.
    """
    size = info.batch_size
    if all(dim is None for dim in in_dims[2:]):
        x, label = (
            arg.expand(size, *arg.shape) if dim is None else arg.movedim(dim, 0)
            for arg, dim in zip(args[:2], in_dims[:2], strict=True)
        )
        outputs = function.apply(x.flatten(0, 1), label.flatten(), *args[2:])
        outputs = tuple(output.unflatten(0, label.shape) for output in outputs)
    else:
        each = [
            function.apply(
                *(
                    arg if dim is None else arg.select(dim, i)
                    for arg, dim in zip(args, in_dims, strict=True)
                )
            )
            for i in range(size)
        ]
        outputs = tuple(torch.stack(output) for output in zip(*each, strict=True))
    return outputs, (0,) * len(outputs)
