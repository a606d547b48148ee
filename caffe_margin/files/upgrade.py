"""Old forms of Caffe's messages made into the current one, as upgrade_proto.cpp does.

Caffe has had three generations of layers: V0 (`layers { layer { type: "conv" ... } }`), V1
(`layers { type: CONVOLUTION ... }`) and the current `layer { type: "Convolution" ... }`.
Where the C++ logs an error and goes on, the functions here return a line of text; where it
aborts, they raise ValueError.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from caffe_margin import caffe_margin_pb2 as pb

# V0 layer type -> V1 layer type. UpgradeV0LayerType.
_V0_TYPES = {
    "accuracy": "ACCURACY",
    "bnll": "BNLL",
    "concat": "CONCAT",
    "conv": "CONVOLUTION",
    "data": "DATA",
    "dropout": "DROPOUT",
    "euclidean_loss": "EUCLIDEAN_LOSS",
    "flatten": "FLATTEN",
    "hdf5_data": "HDF5_DATA",
    "hdf5_output": "HDF5_OUTPUT",
    "im2col": "IM2COL",
    "images": "IMAGE_DATA",
    "infogain_loss": "INFOGAIN_LOSS",
    "innerproduct": "INNER_PRODUCT",
    "lrn": "LRN",
    "multinomial_logistic_loss": "MULTINOMIAL_LOGISTIC_LOSS",
    "pool": "POOLING",
    "relu": "RELU",
    "sigmoid": "SIGMOID",
    "softmax": "SOFTMAX",
    "softmax_loss": "SOFTMAX_LOSS",
    "split": "SPLIT",
    "tanh": "TANH",
    "window_data": "WINDOW_DATA",
}

# V0 field -> V0 layer type -> where it went. UpgradeV0LayerParameter.
_V0_FIELDS = {
    "num_output": {
        "conv": "convolution_param.num_output",
        "innerproduct": "inner_product_param.num_output",
    },
    "biasterm": {
        "conv": "convolution_param.bias_term",
        "innerproduct": "inner_product_param.bias_term",
    },
    "weight_filler": {
        "conv": "convolution_param.weight_filler",
        "innerproduct": "inner_product_param.weight_filler",
    },
    "bias_filler": {
        "conv": "convolution_param.bias_filler",
        "innerproduct": "inner_product_param.bias_filler",
    },
    "pad": {"conv": "convolution_param.pad", "pool": "pooling_param.pad"},
    "kernelsize": {"conv": "convolution_param.kernel_size", "pool": "pooling_param.kernel_size"},
    "group": {"conv": "convolution_param.group"},
    "stride": {"conv": "convolution_param.stride", "pool": "pooling_param.stride"},
    "pool": {"pool": "pooling_param.pool"},
    "dropout_ratio": {"dropout": "dropout_param.dropout_ratio"},
    "local_size": {"lrn": "lrn_param.local_size"},
    "alpha": {"lrn": "lrn_param.alpha"},
    "beta": {"lrn": "lrn_param.beta"},
    "k": {"lrn": "lrn_param.k"},
    "source": {
        "data": "data_param.source",
        "hdf5_data": "hdf5_data_param.source",
        "images": "image_data_param.source",
        "window_data": "window_data_param.source",
        "infogain_loss": "infogain_loss_param.source",
    },
    "batchsize": {
        "data": "data_param.batch_size",
        "hdf5_data": "hdf5_data_param.batch_size",
        "images": "image_data_param.batch_size",
        "window_data": "window_data_param.batch_size",
    },
    "rand_skip": {"data": "data_param.rand_skip", "images": "image_data_param.rand_skip"},
    "shuffle_images": {"images": "image_data_param.shuffle"},
    "new_height": {"images": "image_data_param.new_height"},
    "new_width": {"images": "image_data_param.new_width"},
    "concat_dim": {"concat": "concat_param.concat_dim"},
    "det_fg_threshold": {"window_data": "window_data_param.fg_threshold"},
    "det_bg_threshold": {"window_data": "window_data_param.bg_threshold"},
    "det_fg_fraction": {"window_data": "window_data_param.fg_fraction"},
    "det_context_pad": {"window_data": "window_data_param.context_pad"},
    "det_crop_mode": {"window_data": "window_data_param.crop_mode"},
    "hdf5_output_param": {"hdf5_output": "hdf5_output_param"},
}
_V0_TRANSFORM = {
    "scale": "scale",
    "meanfile": "mean_file",
    "cropsize": "crop_size",
    "mirror": "mirror",
}

# V1 layer type -> current type. UpgradeV1LayerType.
_V1_TYPES = {
    "NONE": "",
    "ABSVAL": "AbsVal",
    "ACCURACY": "Accuracy",
    "ARGMAX": "ArgMax",
    "BNLL": "BNLL",
    "CONCAT": "Concat",
    "CONTRASTIVE_LOSS": "ContrastiveLoss",
    "CONVOLUTION": "Convolution",
    "DECONVOLUTION": "Deconvolution",
    "DATA": "Data",
    "DROPOUT": "Dropout",
    "DUMMY_DATA": "DummyData",
    "EUCLIDEAN_LOSS": "EuclideanLoss",
    "ELTWISE": "Eltwise",
    "EXP": "Exp",
    "FLATTEN": "Flatten",
    "HDF5_DATA": "HDF5Data",
    "HDF5_OUTPUT": "HDF5Output",
    "HINGE_LOSS": "HingeLoss",
    "IM2COL": "Im2col",
    "IMAGE_DATA": "ImageData",
    "INFOGAIN_LOSS": "InfogainLoss",
    "INNER_PRODUCT": "InnerProduct",
    "LRN": "LRN",
    "MEMORY_DATA": "MemoryData",
    "MULTINOMIAL_LOGISTIC_LOSS": "MultinomialLogisticLoss",
    "MVN": "MVN",
    "POOLING": "Pooling",
    "POWER": "Power",
    "RELU": "ReLU",
    "SIGMOID": "Sigmoid",
    "SIGMOID_CROSS_ENTROPY_LOSS": "SigmoidCrossEntropyLoss",
    "SILENCE": "Silence",
    "SOFTMAX": "Softmax",
    "SOFTMAX_LOSS": "SoftmaxWithLoss",
    "SPLIT": "Split",
    "SLICE": "Slice",
    "TANH": "TanH",
    "WINDOW_DATA": "WindowData",
    "THRESHOLD": "Threshold",
}
# V1 fields whose meaning changed; every other field of V1LayerParameter has kept its name
# and type in LayerParameter.
_V1_CHANGED = {"layer", "type", "param", "blob_share_mode", "blobs_lr", "weight_decay"}

_SOLVER_TYPES = {
    "SGD": "SGD",
    "NESTEROV": "Nesterov",
    "ADAGRAD": "AdaGrad",
    "RMSPROP": "RMSProp",
    "ADADELTA": "AdaDelta",
    "ADAM": "Adam",
}


def upgrade_net(net: pb.NetParameter, v1_types: Mapping[int, str] | None = None) -> list[str]:
    """Bring a net to the current form, in place; a current net is left alone.

    Source: UpgradeNetAsNeeded.

    Args:
        net: the net.
        v1_types: the types that the enum of V1 lacks, of those entries of `layers` that have one,
            by their place; they are kept as they are.

    Returns:
        What could not be carried over, one line each; Caffe logs these and goes on.

    Raises:
        ValueError: the net mixes `layer` with `layers`, uses a layer type nobody knew, or
            declares its inputs inconsistently. The net is then unchanged.
    """
    if net.layers and net.layer:
        raise ValueError(
            "the net has both 'layer' and 'layers' entries; 'layers' is the old form: write "
            'each as layer { type: "Convolution" ... }, the type\'s name in quotes'
        )
    problems: list[str] = []
    if net.layers or net.input:
        new = pb.NetParameter()
        new.CopyFrom(net)
        if any(layer.HasField("layer") for layer in new.layers):
            new = _v0_net(new, problems)
        _data_transformation(new)
        for place, old in enumerate(new.layers):
            _v1_layer(old, new.layer.add(), problems)
            if v1_types and place in v1_types:
                new.layer[place].type = v1_types[place]
        new.ClearField("layers")
        _net_input(new)
        net.CopyFrom(new)
    _batch_norm(net)
    return problems


def upgrade_solver(solver: pb.SolverParameter) -> None:
    """Replace the old enum `solver_type` by the string `type`, in place.

    Source: UpgradeSolverType.

    Raises:
        ValueError: the solver has both.
    """
    if not solver.HasField("solver_type"):
        return
    if solver.HasField("type"):
        raise ValueError(
            "the solver has both 'solver_type' (the old enum) and 'type'; keep only 'type'"
        )
    solver.type = _SOLVER_TYPES[pb.SolverParameter.SolverType.Name(solver.solver_type)]
    solver.ClearField("solver_type")


def _v0_net(net: pb.NetParameter, problems: list[str]) -> pb.NetParameter:
    """Source: UpgradeV0Net. What it does not mention (state, debug_info) is dropped, as there."""
    new = pb.NetParameter()
    for layer in _without_padding_layers(net):
        _v0_layer(layer, new.layers.add(), problems)
    if net.HasField("name"):
        new.name = net.name
    new.input.extend(net.input)
    new.input_dim.extend(net.input_dim)
    if net.HasField("force_backward"):
        new.force_backward = net.force_backward
    return new


def _without_padding_layers(net: pb.NetParameter) -> Iterable[pb.V1LayerParameter]:
    """Fold each padding layer into the layer above it. Source: UpgradeV0PaddingLayers."""
    kept = []
    source: dict[str, pb.V1LayerParameter | None] = dict.fromkeys(net.input)
    for original in net.layers:
        type_ = original.layer.type
        layer = pb.V1LayerParameter()
        layer.CopyFrom(original)
        if type_ != "padding":
            kept.append(layer)
        for j, blob in enumerate(original.bottom):
            if blob not in source:
                raise ValueError(
                    f"layer {original.layer.name!r} has the bottom {blob!r}, "
                    "which no input or earlier layer makes"
                )
            below = source[blob]
            if below is None or below.layer.type != "padding":
                continue
            if type_ not in ("conv", "pool"):
                raise ValueError(
                    f"layer {original.layer.name!r} of type {type_!r} has a padding layer "
                    "below it; only 'conv' and 'pool' may"
                )
            if not len(original.bottom) == len(below.bottom) == len(below.top) == 1:
                raise ValueError(
                    f"the padding layer {below.layer.name!r} and the layer "
                    f"{original.layer.name!r} above it must have one bottom each, "
                    "and the padding layer one top"
                )
            layer.layer.pad = below.layer.pad
            layer.bottom[j] = below.bottom[0]
        for blob in original.top:
            source[blob] = original
    return kept


def _v0_layer(old: pb.V1LayerParameter, new: pb.V1LayerParameter, problems: list[str]) -> None:
    """Source: UpgradeV0LayerParameter."""
    new.bottom.extend(old.bottom)
    new.top.extend(old.top)
    if not old.HasField("layer"):
        return
    layer = old.layer
    if layer.HasField("name"):
        new.name = layer.name
    if layer.HasField("type"):
        if layer.type not in _V0_TYPES:
            raise ValueError(
                f"layer {layer.name!r} has the unknown type {layer.type!r}; the oldest form "
                f"knows {', '.join(_V0_TYPES)}"
            )
        new.type = getattr(pb.V1LayerParameter, _V0_TYPES[layer.type])
    new.blobs.extend(layer.blobs)
    new.blobs_lr.extend(layer.blobs_lr)
    new.weight_decay.extend(layer.weight_decay)
    for name, targets in _V0_FIELDS.items():
        if not layer.HasField(name):
            continue
        if layer.type not in targets:
            problems.append(
                f"layer {layer.name!r}: {name!r} has no meaning in a layer of type {layer.type!r}"
            )
            continue
        *parents, last = targets[layer.type].split(".")
        target = getattr(new, parents[0]) if parents else new
        value = getattr(layer, name)
        if hasattr(value, "CopyFrom"):
            getattr(target, last).CopyFrom(value)
        elif hasattr(getattr(target, last), "append"):  # pad, kernel_size, stride of conv
            getattr(target, last).append(value)
        else:
            setattr(target, last, value)
    for name, last in _V0_TRANSFORM.items():
        if layer.HasField(name):
            setattr(new.transform_param, last, getattr(layer, name))


def _data_transformation(net: pb.NetParameter) -> None:
    """Move scale, mean_file, crop_size, mirror to transform_param.

    Source: NetNeedsDataUpgrade, UpgradeNetDataTransformation.
    """
    names = ("scale", "mean_file", "crop_size", "mirror")
    params = {
        pb.V1LayerParameter.DATA: "data_param",
        pb.V1LayerParameter.IMAGE_DATA: "image_data_param",
        pb.V1LayerParameter.WINDOW_DATA: "window_data_param",
    }
    layers = [
        (layer, getattr(layer, params[layer.type])) for layer in net.layers if layer.type in params
    ]
    if not any(param.HasField(name) for _, param in layers for name in names):
        return
    for layer, param in layers:
        # Once one layer needs it, Caffe gives every data layer both messages, empty or not.
        param.SetInParent()
        layer.transform_param.SetInParent()
        for name in names:
            if param.HasField(name):
                setattr(layer.transform_param, name, getattr(param, name))
                param.ClearField(name)


def _v1_layer(old: pb.V1LayerParameter, new: pb.LayerParameter, problems: list[str]) -> None:
    """Source: UpgradeV1LayerParameter."""
    for field, value in old.ListFields():
        if field.name in _V1_CHANGED:
            continue
        if isinstance(value, str):
            setattr(new, field.name, value)
        else:
            getattr(new, field.name).MergeFrom(value)
            if not hasattr(value, "append"):  # a message, set though it may be empty
                getattr(new, field.name).SetInParent()
    if old.HasField("type"):
        new.type = _V1_TYPES[pb.V1LayerParameter.LayerType.Name(old.type)]
    count = max(len(old.param), len(old.blob_share_mode), len(old.blobs_lr), len(old.weight_decay))
    specs = [new.param.add() for _ in range(count)]
    for spec, name in zip(specs, old.param, strict=False):
        spec.name = name
    for spec, mode in zip(specs, old.blob_share_mode, strict=False):
        spec.share_mode = getattr(pb.ParamSpec, pb.V1LayerParameter.DimCheckMode.Name(mode))
    for spec, lr in zip(specs, old.blobs_lr, strict=False):
        spec.lr_mult = lr
    for spec, decay in zip(specs, old.weight_decay, strict=False):
        spec.decay_mult = decay
    if old.HasField("layer"):
        problems.append(f"layer {old.name!r}: a V0 'layer' in it is ignored")


def _net_input(net: pb.NetParameter) -> None:
    """Make `input` with `input_shape` or `input_dim` a first layer of type Input.

    A legacy .caffemodel has the names alone; they are dropped. Source: UpgradeNetInput.
    """
    if not net.input:
        return
    if net.input_shape or net.input_dim:
        count = len(net.input)
        if net.input_shape and len(net.input_shape) < count:
            raise ValueError(
                f"the net has {count} 'input' and {len(net.input_shape)} 'input_shape'; "
                "each input needs its shape"
            )
        if not net.input_shape and len(net.input_dim) < 4 * count:
            raise ValueError(
                f"the net has {count} 'input' and {len(net.input_dim)} 'input_dim'; each input "
                "needs four: num, channels, height, width"
            )
        layer = pb.LayerParameter(name="input", type="Input", top=net.input)
        layer.input_param.SetInParent()
        for i in range(count):
            shape = layer.input_param.shape.add()
            if net.input_shape:
                shape.CopyFrom(net.input_shape[i])
            else:
                shape.dim.extend(net.input_dim[4 * i : 4 * i + 4])
        layers = list(net.layer)
        net.ClearField("layer")
        net.layer.append(layer)
        net.layer.extend(layers)
    for name in ("input", "input_shape", "input_dim"):
        net.ClearField(name)


def _batch_norm(net: pb.NetParameter) -> None:
    """Freeze the three statistics blobs of old BatchNorm layers. Source: UpgradeNetBatchNorm."""
    for layer in net.layer:
        if layer.type == "BatchNorm" and len(layer.param) == 3:
            for spec in layer.param:
                spec.lr_mult = spec.decay_mult = 0.0
