"""What a run of training needs from PyTorch, and what its loss says of it."""

from __future__ import annotations

import math
import resource
import sys
from collections import deque
from typing import Any

import torch

from caffe_margin.maths.softmax import LARGEST_LOSS

PATIENCE_LN_N = 1500
"""Iterations at ln N that are no beginning any more: a margin that is phased in takes hundreds."""
PATIENCE_CLAMPED = 100
NEAR = 0.02
"""How near to ln N, over all of these iterations, is at it."""


class LossWatch:
    """Says what a loss means that no training comes back from.

        >>> watch = LossWatch(classes=1500)
        >>> watch(7.3)
        ''
        >>> watch(float("nan"))[:22]
        'the loss is not finite'

    Args:
        classes: N of the layer with the margin; 0 where there is none.
    """

    def __init__(self, classes: int = 0) -> None:
        self.chance = math.log(classes) if classes > 1 else math.nan
        self._recent: deque[float] = deque(maxlen=PATIENCE_LN_N)

    def __call__(self, loss: float) -> str:
        """Return what is wrong and what to try; "" where nothing is."""
        self._recent.append(loss)
        if not math.isfinite(loss):
            return (
                "the loss is not finite: the rate is too high, or an image or a weight holds no "
                "number. Try a tenth of base_lr, or clip_gradients"
            )
        last = list(self._recent)[-PATIENCE_CLAMPED:]
        if len(last) == PATIENCE_CLAMPED and min(last) > LARGEST_LOSS - 1e-3:
            return (
                f"the loss has stood at {LARGEST_LOSS:.4f} for {PATIENCE_CLAMPED} iterations: "
                "every probability is below the smallest float, for the features have grown too "
                "long. Try a tenth of base_lr, and images scaled to about -1 to 1"
            )
        full = len(self._recent) == PATIENCE_LN_N
        if full and max(abs(value - self.chance) for value in self._recent) < NEAR:
            return (
                f"the loss has stood at ln N = {self.chance:.3f} for {PATIENCE_LN_N} iterations: "
                "all classes are equally likely, for the features have shrunk to nothing. Lambda "
                "fell before the net had learned; try a third of gamma, or a larger lambda_min, "
                "or start from weights trained as SINGLE"
            )
        return ""


def memory_taken() -> dict[str, int]:
    """Return the most bytes that this process has had, by where."""
    unit = 1 if sys.platform == "darwin" else 1024
    taken = {"": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        taken[" on the device"] = torch.cuda.max_memory_allocated()
    return taken


def tensorboard(folder: str) -> Any:
    """Return TensorBoard's writer.

    Raises:
        ValueError: TensorBoard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ValueError(
            "--tensorboard needs TensorBoard, which is not installed: pip install tensorboard"
        ) from None
    return SummaryWriter(folder)


def use_threads(count: int) -> None:
    """Have this process's operators on a CPU run on so many threads."""
    torch.set_num_threads(count)
