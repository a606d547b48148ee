"""The softmax loss above a layer with a margin, where the two are computed as one."""

from __future__ import annotations

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.nets.loss import ignored_label, normalization_name


def loss_above(net: pb.NetParameter, head: pb.LayerParameter) -> pb.LayerParameter:
    """Return the SoftmaxWithLoss that alone reads a layer's scores, and takes their plain mean.

    Args:
        net: the net, of one phase, with its splits.
        head: one of its layers.

    Raises:
        ValueError: another layer reads the scores, which do not exist where the two are one; or
            the loss is not the mean over all samples of one label each.
    """
    origin: dict[str, str] = {}
    readers = []
    for layer in net.layer:
        if layer.type == "Split":
            origin.update((top, origin.get(layer.bottom[0], layer.bottom[0])) for top in layer.top)
        elif head.top[0] in (origin.get(bottom, bottom) for bottom in layer.bottom):
            readers.append(layer)
    where = f"layer {head.name!r} is shared among the processes"
    for reader in readers:
        if reader.type != "SoftmaxWithLoss":
            raise ValueError(
                f"{where}, so its scores are on none, but layer {reader.name!r} ({reader.type}) "
                "reads them: leave that out, or have each process hold the layer whole"
            )
    if len(readers) != 1:
        raise ValueError(f"{where}: it must have one SoftmaxWithLoss above it, not {len(readers)}")
    (loss,) = readers
    label, other = (origin.get(layer.bottom[1], layer.bottom[1]) for layer in (head, loss))
    for is_so, what in (
        (label != other, f"the label {other!r}, where {head.name!r} has {label!r}"),
        (len(loss.top) > 1, "a second top, the probabilities"),
        (ignored_label(loss.loss_param) is not None, "an ignore_label"),
        (normalization_name(loss.loss_param) == "NONE", "normalization: NONE"),
        (loss.softmax_param.axis not in (1, -1), f"axis: {loss.softmax_param.axis}"),
    ):
        if is_so:
            raise ValueError(
                f"{where}, but layer {loss.name!r} above it has {what}, which the loss of a shared "
                "layer has not"
            )
    return loss
