"""Nets that hold every type of layer that a net to deploy may hold."""

from __future__ import annotations

WEIGHTS = "weight_filler { type: 'gaussian' std: 0.3 } bias_filler { type: 'gaussian' }"


def layer(type_: str, param: str = "", bottoms: str = "x", tops: int = 1, name: str = "") -> str:
    """Return a layer whose tops are called after it."""
    name = name or type_.lower()
    names = [f"bottom: '{bottom}' " for bottom in bottoms.split()]
    names += [f"top: '{name}{i or ''}' " for i in range(tops)]
    return f"layer {{ name: '{name}' type: '{type_}' {''.join(names)}{param} }}\n"


ANY_BATCH = "".join(
    [
        "layer { name: 'in' type: 'Input' top: 'x' ",
        "input_param { shape { dim: 1 dim: 4 dim: 8 dim: 8 } } }\n",
        layer(
            "Convolution",
            f"convolution_param {{ num_output: 6 kernel_size: 3 group: 2 stride: 2 {WEIGHTS} }}",
        ),
        layer(
            "DepthwiseConvolution",
            f"convolution_param {{ num_output: 4 kernel_size: 3 {WEIGHTS} }}",
        ),
        layer(
            "ConvolutionDepthwise",
            f"convolution_param {{ num_output: 4 kernel_size: 3 {WEIGHTS} }}",
        ),
        layer(
            "Deconvolution",
            f"convolution_param {{ num_output: 3 kernel_size: 3 stride: 2 {WEIGHTS} }}",
        ),
        layer("Im2col", "convolution_param { kernel_size: 3 dilation: 2 }"),
        layer("Pooling", "pooling_param { kernel_size: 3 stride: 2 }"),
        layer("Pooling", "pooling_param { pool: AVE kernel_size: 3 stride: 2 pad: 1 }", name="ave"),
        layer("SPP", "spp_param { pyramid_height: 3 }"),
        layer("LRN", "lrn_param { local_size: 3 }"),
        layer("LRN", "lrn_param { local_size: 3 norm_region: WITHIN_CHANNEL }", name="within"),
        layer("Crop", "crop_param { axis: 2 offset: 1 }", "x pooling"),
        layer("InnerProduct", f"inner_product_param {{ num_output: 5 {WEIGHTS} }}"),
        layer("ArgMax", "argmax_param { axis: 1 }", "innerproduct"),
        layer("Embed", f"embed_param {{ input_dim: 5 num_output: 3 {WEIGHTS} }}", "argmax"),
        layer("AbsVal"),
        layer("BNLL"),
        layer("Clip", "clip_param { min: -0.5 max: 1 }"),
        layer("Dropout"),
        layer("ELU"),
        layer("Exp", "exp_param { base: 2 }"),
        layer("Log", "", "exp"),
        layer("Power", "power_param { power: 2 scale: 0.5 shift: 1 }"),
        layer("PReLU"),
        layer("ReLU", "relu_param { negative_slope: 0.1 }"),
        layer("Sigmoid"),
        layer("Swish"),
        layer("TanH"),
        layer("Threshold", "threshold_param { threshold: 0.2 }"),
        layer("BatchNorm"),
        layer("BN"),
        layer("Scale", "scale_param { bias_term: true filler { type: 'gaussian' } }"),
        layer("Bias", "bias_param { filler { type: 'gaussian' } }"),
        layer("MVN"),
        layer("Normalize", "norm_param { scale_filler { type: 'constant' value: 2 } }"),
        layer("Softmax"),
        layer("Eltwise", "eltwise_param { operation: MAX }", "x absval"),
        layer("Concat", "", "x elu"),
        layer("Slice", tops=2),
        layer("Split", tops=2),
        layer("Tile", "tile_param { tiles: 2 }"),
        layer("Flatten"),
        layer("Reshape", "reshape_param { shape { dim: 0 dim: -1 dim: 16 } }"),
        layer("Permute", "permute_param { order: 0 order: 2 order: 3 order: 1 }"),
        layer("Reduction", "reduction_param { operation: SUMSQ axis: 1 }"),
        layer("Parameter", "parameter_param { shape { dim: 2 dim: 3 } }", ""),
    ]
)
"""Of the types that take any number of samples."""

ONE_BATCH = "".join(
    [
        "layer { name: 'in' type: 'Input' top: 'x' top: 'noise' ",
        "input_param { shape { dim: 3 dim: 3 dim: 4 } shape { dim: 3 dim: 3 } } }\n",
        layer("Threshold", "", "noise", name="cont"),
        layer("LSTM", f"recurrent_param {{ num_output: 4 {WEIGHTS} }}", "x cont"),
        layer("RNN", f"recurrent_param {{ num_output: 4 {WEIGHTS} }}", "x cont"),
        layer("ArgMax", "argmax_param { axis: 1 }", "noise"),
        layer("Reshape", "reshape_param { shape { dim: -1 } }", "argmax", name="index"),
        layer("BatchReindex", "", "x index"),
        layer("Reduction", "reduction_param { operation: MEAN }"),
    ]
)
"""Of the others, whose first dimension is no number of samples, or is gone."""

NOT_AT_INFERENCE = {
    # They end a net that is deployed, and go.
    *("Accuracy", "Silence", "HDF5Output", "MarginInnerProduct", "LargeMarginInnerProduct"),
    # They become an Input.
    "DummyData",
    # ONNX has no word for it.
    "Filter",
    # A part of LSTM.
    "LSTMUnit",
}
"""The types that are in neither, the losses aside."""
