"""For each layer type of Caffe: how many bottoms and tops it takes, and the rule of its shapes.

A rule takes a LayerParameter and the shapes of the bottoms and returns (tops, params). It raises
ValueError where Caffe's LayerSetUp or Reshape would abort. The rules are in `rules/`, by family;
`LAYER_TYPES` is the table.
"""

from __future__ import annotations

from typing import NamedTuple

from caffe_margin.nets.rules import arrangement, data, elementwise, losses, products, windows
from caffe_margin.nets.rules.algebra import Rule


class LayerType(NamedTuple):
    """A rule, and how many bottoms and tops the layer takes, from and to.

    `param` is the message of parameters in which every field may matter to the shapes: where it
    has one that the schema lacks, the rule does not know them.
    """

    rule: Rule
    bottoms: tuple[int, int] = (1, 1)
    tops: tuple[int, int] = (1, 1)
    param: str = ""


_MANY = 2**31 - 1

LAYER_TYPES: dict[str, LayerType] = {
    "Input": LayerType(data.input_, (0, 0), (1, _MANY)),
    "DummyData": LayerType(data.dummy_data, (0, 0), (1, _MANY)),
    "Data": LayerType(data.data, (0, 0), (1, 2)),
    "ImageData": LayerType(data.image_data, (0, 0), (2, 2)),
    "HDF5Data": LayerType(data.hdf5_data, (0, 0), (1, _MANY)),
    "MemoryData": LayerType(data.memory_data, (0, 0), (2, 2)),
    "WindowData": LayerType(data.window_data, (0, 0), (2, 2)),
    "Parameter": LayerType(data.parameter, (0, 0)),
    "Convolution": LayerType(
        windows.convolution, (1, _MANY), (1, _MANY), param="convolution_param"
    ),
    # Of forks: a convolution whose groups are the channels, with parameters of Convolution's.
    "DepthwiseConvolution": LayerType(
        windows.convolution, (1, _MANY), (1, _MANY), param="convolution_param"
    ),
    "ConvolutionDepthwise": LayerType(windows.convolution, param="convolution_param"),
    "Deconvolution": LayerType(
        windows.convolution, (1, _MANY), (1, _MANY), param="convolution_param"
    ),
    "Im2col": LayerType(windows.im2col, param="convolution_param"),
    "Pooling": LayerType(windows.pooling, tops=(1, 2), param="pooling_param"),
    "SPP": LayerType(windows.spp, param="spp_param"),
    "InnerProduct": LayerType(products.inner_product),
    "MarginInnerProduct": LayerType(products.margin_inner_product, (2, 2), (1, 2)),
    "LargeMarginInnerProduct": LayerType(products.margin_inner_product, (2, 2), (1, 2)),
    "Embed": LayerType(products.embed),
    "AbsVal": LayerType(elementwise.absval),
    "BNLL": LayerType(elementwise.neuron),
    "Clip": LayerType(elementwise.neuron),
    "Dropout": LayerType(elementwise.neuron),
    "ELU": LayerType(elementwise.neuron),
    "Exp": LayerType(elementwise.neuron),
    "Log": LayerType(elementwise.neuron),
    "Power": LayerType(elementwise.neuron),
    "ReLU": LayerType(elementwise.neuron),
    "Sigmoid": LayerType(elementwise.neuron),
    "Swish": LayerType(elementwise.neuron),
    "TanH": LayerType(elementwise.neuron),
    "Threshold": LayerType(elementwise.neuron),
    "PReLU": LayerType(elementwise.prelu),
    "BatchNorm": LayerType(elementwise.batch_norm),
    # Of forks: L-Softmax's, and SSD's.
    "BN": LayerType(elementwise.bn, param="bn_param"),
    "Normalize": LayerType(elementwise.normalize, param="norm_param"),
    "LRN": LayerType(elementwise.lrn),
    "MVN": LayerType(elementwise.mvn),
    "Softmax": LayerType(elementwise.softmax),
    "Scale": LayerType(elementwise.scale, (1, 2)),
    "Bias": LayerType(elementwise.bias, (1, 2)),
    "Eltwise": LayerType(arrangement.eltwise, (2, _MANY)),
    "Concat": LayerType(arrangement.concat, (1, _MANY), param="concat_param"),
    "Slice": LayerType(arrangement.slice_, tops=(1, _MANY), param="slice_param"),
    "Split": LayerType(arrangement.split, tops=(1, _MANY)),
    "Tile": LayerType(arrangement.tile, param="tile_param"),
    "Crop": LayerType(arrangement.crop, (2, 2), param="crop_param"),
    "BatchReindex": LayerType(arrangement.batch_reindex, (2, 2)),
    "Filter": LayerType(arrangement.filter_, (2, _MANY), (1, _MANY)),
    "Flatten": LayerType(arrangement.flatten, param="flatten_param"),
    "Reshape": LayerType(arrangement.reshape, param="reshape_param"),
    # Of SSD.
    "Permute": LayerType(arrangement.permute, param="permute_param"),
    "Reduction": LayerType(arrangement.reduction, param="reduction_param"),
    "ArgMax": LayerType(arrangement.argmax, param="argmax_param"),
    "Accuracy": LayerType(losses.accuracy, (2, 2), (1, 2)),
    # A loss without a top gets one of its own (Layer::AutoTopBlobs).
    "SoftmaxWithLoss": LayerType(losses.softmax_loss, (2, 2), (0, 2)),
    "InfogainLoss": LayerType(losses.infogain_loss, (2, 3), (0, 2)),
    "EuclideanLoss": LayerType(losses.equal_counts_loss, (2, 2), (0, 1)),
    "SigmoidCrossEntropyLoss": LayerType(losses.equal_counts_loss, (2, 2), (0, 1)),
    "HingeLoss": LayerType(losses.loss, (2, 2), (0, 1)),
    "MultinomialLogisticLoss": LayerType(losses.multinomial_loss, (2, 2), (0, 1)),
    "ContrastiveLoss": LayerType(losses.contrastive_loss, (3, 3), (0, 1)),
    "Silence": LayerType(losses.sink, (1, _MANY), (0, 0)),
    "HDF5Output": LayerType(losses.sink, (2, 2), (0, 0)),
    "RNN": LayerType(products.recurrent, (2, 4), (1, 2)),
    "LSTM": LayerType(products.recurrent, (2, 5), (1, 3)),
    "LSTMUnit": LayerType(products.lstm_unit, (3, 3), (2, 2)),
}


def check_counts(type: str, bottoms: int, tops: int) -> None:
    """Raise ValueError unless a layer of a type may have so many bottoms and tops.

    Source: Layer::CheckBlobCounts.
    """
    layer_type = LAYER_TYPES[type]
    for what, number, (least, most) in (
        ("bottoms", bottoms, layer_type.bottoms),
        ("tops", tops, layer_type.tops),
    ):
        if not least <= number <= most:
            wanted = f"at least {least}" if number < least else f"at most {most}"
            wanted = str(least) if least == most else wanted
            raise ValueError(f"the number of {what} must be {wanted}, and is {number}")
