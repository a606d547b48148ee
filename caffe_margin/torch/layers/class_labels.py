"""Labels that are classes: one for each position of the scores outside the axis of the classes."""

from __future__ import annotations

import torch
from torch import Tensor

from caffe_margin.torch.checks import check_label, values_are_free


def class_scores(bottom: Tensor, axis: int) -> Tensor:
    """Return the scores of each position in the order of the labels, (positions, classes)."""
    scores = bottom.movedim(axis, -1)
    return scores.reshape(-1, scores.shape[-1])


def class_labels(
    label: Tensor, num_classes: int, ignored: int | None = None
) -> tuple[Tensor, Tensor]:
    """Return each label's class, and whether it counts; the class is 0 where it does not.

    Args:
        label: of whatever shape; floats are truncated, as Caffe does.
        num_classes: N.
        ignored: the label that does not count.

    Raises:
        ValueError: a label that counts is NaN or outside [0, N), where
            `caffe_margin.torch.checks` looks at values.
    """
    label = label.detach().flatten()
    counts = torch.ones_like(label, dtype=torch.bool)
    if ignored is not None:
        # The cast comes first: with an ignored -1, a label of -1.5 is ignored too.
        counts = label.long() != ignored
        label = label.where(counts, 0)
    if values_are_free(label):
        check_label(label, num_classes)
    return label.long(), counts
