"""A net's blobs, batch by batch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.files.weights import take_blobs
from caffe_margin.nets import plugin_text
from caffe_margin.nets.select import filter_net, needed_for, unread_tops
from caffe_margin.torch.checks import check_device
from caffe_margin.torch.layers.table import FED
from caffe_margin.torch.net import Net
from caffe_margin.torch.weights import load_into, read_all

if TYPE_CHECKING:
    from caffe_margin.torch.weights import Weights


class Features:
    """Blobs of a net, of which only the layers that they come from are built.

        >>> import numpy as np
        >>> from caffe_margin.files.prototxt import read_net
        >>> Net("models/sphereface4_deploy.prototxt").save_weights("a.caffemodel")
        >>> net = read_net("models/sphereface4_model.prototxt")
        >>> features = Features(net, "a.caffemodel", ["fc5"])
        >>> features.inputs
        {'data': None}
        >>> features({"data": np.zeros((2, 3, 112, 96), np.float32)})["fc5"].shape
        (2, 512)

    Args:
        net: the message; left alone.
        weights: what `Net.load_weights` takes; None where the net holds them.
        blobs: their names; none for the net's outputs.
        phase, level, stages: which layers the net has.
        device: where it is run.
        dtype: in which it is run, ``"float32"`` or ``"float64"``.

    Attributes:
        inputs: for each top that has to be given the shape that the net says, None where it does
            not.

    Raises:
        OSError: the weights cannot be opened.
        ValueError: the net is none that Caffe would build, or has no such blob, or the weights do
            not fit, or leave a layer without.
    """

    def __init__(
        self,
        net: pb.NetParameter,
        weights: Weights | None = None,
        blobs: Iterable[str] = (),
        *,
        phase: str = "TEST",
        level: int = 0,
        stages: Iterable[str] = (),
        device: str = "cpu",
        dtype: str = "float32",
    ) -> None:
        check_device(device)
        net = filter_net(net, phase, level, stages)
        plugin_text.restore(net)
        self.blobs = tuple(dict.fromkeys(blobs)) or _outputs(net)
        if not self.blobs:
            raise ValueError("no top of the net is an output; name a blob")
        self._param, self._arrays = take_blobs(needed_for(net, self.blobs))
        if weights is not None:
            self._arrays |= read_all(weights)
        self._phase, self._device = phase, device
        self._dtype: torch.dtype = getattr(torch, dtype)
        self._net: Net | None = None
        read = {bottom for layer in self._param.layer for bottom in layer.bottom} | {*self.blobs}
        self.inputs: dict[str, tuple[int, ...] | None] = {}
        for layer in self._param.layer:
            shapes = layer.input_param.shape
            for i, top in enumerate(layer.top if layer.type in FED else ()):
                if top in read:
                    said = shapes[i if len(shapes) > 1 else 0].dim if shapes else None
                    self.inputs[top] = None if said is None else tuple(said)

    def __call__(self, inputs: Mapping[str, NDArray]) -> dict[str, NDArray]:
        """Return the blobs of a batch.

        Args:
            inputs: for each of `inputs` an array, a row a sample.

        Raises:
            ValueError: an input is missing, a layer refuses its bottoms, or a blob has no row a
                sample.
        """
        for name in self.inputs.keys() - inputs.keys():
            raise ValueError(f"input {name!r} is missing")
        if self._net is None:
            self._net = self._build({name: inputs[name].shape for name in self.inputs})
        tensors = {}
        for name in self.inputs:
            tensor = torch.from_numpy(np.ascontiguousarray(inputs[name]))
            tensors[name] = tensor.to(self._device, self._dtype)
        with torch.no_grad():
            blobs = self._net(keep=self.blobs, **tensors)
        rows = {len(tensor) for tensor in tensors.values()}
        for name in self.blobs:
            if not blobs[name].ndim or len(blobs[name]) not in rows:
                shape = tuple(blobs[name].shape)
                raise ValueError(f"blob {name!r} is {shape}, and has no row for each sample")
        return {name: blobs[name].cpu().numpy() for name in self.blobs}

    def _build(self, shapes: Mapping[str, tuple[int, ...]]) -> Net:
        """Make the net for the shapes of a first batch."""
        param = pb.NetParameter()
        param.CopyFrom(self._param)
        for layer in param.layer:
            if layer.type in FED:
                tops = [top for top in layer.top if top in shapes]
                shape = [pb.BlobShape(dim=shapes[top]) for top in tops]
                fed = pb.LayerParameter(name=layer.name, type="Input", top=tops)
                fed.input_param.shape.extend(shape)
                layer.CopyFrom(fed)
        net = Net(param, phase=self._phase, seed=0, device=self._device, dtype=self._dtype)
        unfilled, _ = load_into(net.params, self._arrays)
        if unfilled:
            some = ", ".join(map(repr, unfilled[:5])) + ", ..." * (len(unfilled) > 5)
            raise ValueError(f"there are no weights for layer {some}")
        return net


def _outputs(net: pb.NetParameter) -> tuple[str, ...]:
    """Return the tops that no layer reads, in the net's order."""
    unread = unread_tops((layer.bottom, layer.top) for layer in net.layer)
    return tuple(dict.fromkeys(top for layer in net.layer for top in layer.top if top in unread))


def batches(inputs: Mapping[str, NDArray], size: int) -> Iterator[dict[str, NDArray]]:
    """Yield the rows of arrays, ``size`` at a time.

    Raises:
        ValueError: the arrays have different numbers of rows, or none.
    """
    rows = {name: len(array) if array.ndim else 0 for name, array in inputs.items()}
    if len(set(rows.values())) != 1 or not all(rows.values()):
        said = ", ".join(f"{name!r} has {n}" for name, n in rows.items())
        raise ValueError(f"the inputs must have the same number of rows, 1 or more: {said or 0}")
    for start in range(0, next(iter(rows.values())), size):
        yield {name: array[start : start + size] for name, array in inputs.items()}
