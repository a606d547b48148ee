"""What `loss_param` says, which several losses read alike."""

from __future__ import annotations

from caffe_margin import caffe_margin_pb2 as pb


def normalization_name(param: pb.LossParameter, default: str = "VALID") -> str:
    """Return FULL, VALID, BATCH_SIZE or NONE, from ``normalization`` or the older ``normalize``.

    Source: SoftmaxWithLossLayer::LayerSetUp.

    Args:
        param: the message.
        default: what the layer takes where the message says nothing.
    """
    if param.HasField("normalization"):
        return pb.LossParameter.NormalizationMode.Name(param.normalization)
    if param.HasField("normalize"):
        return "VALID" if param.normalize else "BATCH_SIZE"
    return default


def ignored_label(param: pb.LossParameter | pb.AccuracyParameter) -> int | None:
    """Return the label whose samples do not count; None where there is none."""
    return param.ignore_label if param.HasField("ignore_label") else None
