"""The table of the layers: type to module."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.files.names import near
from caffe_margin.nets.shapes import DATA_TYPES, LayerShapes
from caffe_margin.torch.layers import (
    arrangement,
    broadcast,
    class_losses,
    contrastive_loss,
    eltwise,
    losses,
    margin,
    neurons,
    products,
    ranking,
    recurrent,
    reduction,
    selection,
    sinks,
    sources,
)
from caffe_margin.torch.layers.batch_norm import BatchNorm
from caffe_margin.torch.layers.bn import BN
from caffe_margin.torch.layers.convolution import Convolution, Deconvolution
from caffe_margin.torch.layers.crop import Crop
from caffe_margin.torch.layers.dropout import Dropout
from caffe_margin.torch.layers.im2col import Im2col
from caffe_margin.torch.layers.layer import Layer
from caffe_margin.torch.layers.lrn import LRN
from caffe_margin.torch.layers.mvn import MVN
from caffe_margin.torch.layers.normalize import Normalize
from caffe_margin.torch.layers.pooling import Pooling
from caffe_margin.torch.layers.prelu import PReLU
from caffe_margin.torch.layers.softmax import Softmax
from caffe_margin.torch.layers.spp import SPP

Maker: TypeAlias = Callable[[pb.LayerParameter, LayerShapes], Layer]

FED = DATA_TYPES - {"DummyData"}
"""Types that have no module: their tops are handed to the net, or come from a source."""

LAYERS: dict[str, Maker] = {
    "Convolution": Convolution,
    "ConvolutionDepthwise": Convolution,
    "DepthwiseConvolution": Convolution,
    "Deconvolution": Deconvolution,
    "Im2col": Im2col,
    "Pooling": Pooling,
    "SPP": SPP,
    "LRN": LRN,
    "Crop": Crop,
    "InnerProduct": products.InnerProduct,
    "Embed": products.Embed,
    "MarginInnerProduct": margin.MarginInnerProduct,
    "LargeMarginInnerProduct": margin.LargeMarginInnerProduct,
    "AbsVal": neurons.AbsVal,
    "BNLL": neurons.BNLL,
    "Clip": neurons.Clip,
    "Dropout": Dropout,
    "ELU": neurons.ELU,
    "Exp": neurons.Exp,
    "Log": neurons.Log,
    "Power": neurons.Power,
    "PReLU": PReLU,
    "ReLU": neurons.ReLU,
    "Sigmoid": neurons.Sigmoid,
    "Swish": neurons.Swish,
    "TanH": neurons.TanH,
    "Threshold": neurons.Threshold,
    "BatchNorm": BatchNorm,
    "BN": BN,
    "Scale": broadcast.Scale,
    "Bias": broadcast.Bias,
    "MVN": MVN,
    "Normalize": Normalize,
    "Softmax": Softmax,
    "SoftmaxWithLoss": class_losses.SoftmaxWithLoss,
    "InfogainLoss": class_losses.InfogainLoss,
    "MultinomialLogisticLoss": class_losses.MultinomialLogisticLoss,
    "HingeLoss": class_losses.HingeLoss,
    "EuclideanLoss": losses.EuclideanLoss,
    "SigmoidCrossEntropyLoss": losses.SigmoidCrossEntropyLoss,
    "ContrastiveLoss": contrastive_loss.ContrastiveLoss,
    "Accuracy": ranking.Accuracy,
    "ArgMax": ranking.ArgMax,
    "RNN": recurrent.RNN,
    "LSTM": recurrent.LSTM,
    "LSTMUnit": recurrent.LSTMUnit,
    "Eltwise": eltwise.Eltwise,
    "Concat": arrangement.Concat,
    "Slice": arrangement.Slice,
    "Split": arrangement.Split,
    "Tile": arrangement.Tile,
    "Flatten": arrangement.Flatten,
    "Reshape": arrangement.Reshape,
    "Permute": arrangement.Permute,
    "Reduction": reduction.Reduction,
    "BatchReindex": selection.BatchReindex,
    "Filter": selection.Filter,
    "Parameter": sources.Parameter,
    "DummyData": sources.DummyData,
    "Silence": sinks.Silence,
    "HDF5Output": sinks.HDF5Output,
}
"""For each type the module, made from the layer's message and the shapes around it."""

LOSS_TYPES = frozenset(type for type in LAYERS if type.endswith("Loss"))
"""Caffe's LossLayers: their top has a loss weight of 1 where the file says nothing."""


def make_layer(layer: pb.LayerParameter, shapes: LayerShapes) -> Layer | None:
    """Return a layer's module; None where its tops are handed to the net.

    Raises:
        ValueError: the layer asks for what its type cannot do.
    """
    if layer.type in FED:
        return None
    try:
        return LAYERS[layer.type](layer, shapes)
    except ValueError as error:
        raise ValueError(f"layer {layer.name!r} ({layer.type}): {error}") from None


def refuse_unknown(net: pb.NetParameter) -> None:
    """Raise ValueError, naming every layer of a type that is not in the table."""
    types = {*LAYERS, *FED}
    missing = [layer for layer in net.layer if layer.type not in types]
    if not missing:
        return
    names = ", ".join(f"{layer.name!r} is of type {layer.type!r}" for layer in missing[:10])
    more = f" and {len(missing) - 10} more" if len(missing) > 10 else ""
    meant = near(missing[0].type, types)
    hint = f"did you mean {meant!r}?" if meant else f"it has {', '.join(sorted(types))}"
    raise ValueError(f"the PyTorch engine lacks a layer type: {names}{more}; {hint}")
