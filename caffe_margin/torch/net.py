"""A whole net of Caffe's as an `nn.Module`."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.files.hdf5 import BlobsByPlace
from caffe_margin.files.load import StrPath, naming
from caffe_margin.files.names import near
from caffe_margin.files.prototxt import read_net
from caffe_margin.files.rows import Share, Shares, Stored
from caffe_margin.files.weights import take_blobs
from caffe_margin.nets import plugin_text
from caffe_margin.nets.select import filter_net, unread_tops
from caffe_margin.nets.shapes import DATA_TYPES, LayerShapes, unknown_inputs
from caffe_margin.nets.splits import AUTOMATIC, insert_splits
from caffe_margin.torch.checks import check_dtype
from caffe_margin.torch.data.sources import make_sources
from caffe_margin.torch.layers.layer import Layer
from caffe_margin.torch.layers.table import FED, LOSS_TYPES, make_layer, refuse_unknown
from caffe_margin.torch.sharing import share_params
from caffe_margin.torch.weights import (
    Loaded,
    Weights,
    as_array,
    infer_with_blobs,
    load_into,
    read_all,
    save_from,
)


@dataclass(frozen=True)
class Step:
    """One layer's turn in a Forward.

    Attributes:
        module: the layer's name among the net's modules; empty where it has to be fed.
        name: the layer's, for messages.
        bottoms, tops: names of blobs.
        propagate_down: for each bottom what the file says; None where it says nothing.
        last: the blobs that nobody reads afterwards.
    """

    module: str
    name: str
    bottoms: tuple[str, ...]
    tops: tuple[str, ...]
    propagate_down: tuple[bool | None, ...]
    last: tuple[str, ...] = ()


class Net(nn.Module):
    """A net of Caffe's, with Caffe's own numbers.

        >>> import torch
        >>> net = Net("models/sphereface4_deploy.prototxt")
        >>> net(data=torch.randn(2, 3, 112, 96))["fc5"].shape
        torch.Size([2, 512])
        >>> net.params["fc5"][0] is net.fc5.weight
        True

    It is made as Caffe makes it: old formats are upgraded, the layers that a phase, a level and
    stages keep are kept, blobs that several layers read are split, parameters of one name are
    shared, and filled by their fillers, or taken from ``weights``. Caffe's parameters with
    ``lr_mult: 0`` need no gradient, unless the net says ``force_backward``; those that no solver
    changes, such as BatchNorm's statistics, are buffers.

    A layer is a submodule under its own name, so that a ``state_dict`` has ``LAYER.weight``,
    ``LAYER.bias`` and so on. A dot in a name becomes ``_``, and a name that a module has
    already, such as ``type``, gets a ``_`` at its end.

    Whether layers behave as in Caffe's TRAIN or TEST is ``training``, set by ``phase`` and then
    by ``train()`` and ``eval()``; which layers there are stays as it was.

    A net whose data layers name what they read feeds itself: `forward` takes their next batches
    where their tops are not given. Nothing is opened before it is needed.

    Where the file leaves open what the parameters' shapes depend on, as the size of the images in
    an ImageData layer, the shapes come from ``shapes``, from ``weights``, from the first image if
    it can be read, or else from the first batch: until then the net has no parameters, and says so
    when asked for them.

    Args:
        net: a file, text or binary, or a message; left alone.
        weights: what `load_weights` takes.
        phase: ``"TRAIN"`` or ``"TEST"``.
        level: what ``min_level`` and ``max_level`` of a layer are held against.
        stages: what ``stage`` and ``not_stage`` are held against.
        shapes: of the tops of data layers, by name, instead of the file's.
        seed: of the fillers, and, as Caffe's ``random_seed``, of what the data layers draw; None
            takes it from `torch`'s generator.
        device: of the parameters.
        dtype: of the parameters; float32 by default.

    Attributes:
        params: for each layer that has any Caffe's ``blobs``, in Caffe's order.
        loss_weights: for each top that is part of the objective its weight.
        sources: what the data layers read, by the layers' names; ``iteration`` of each is the
            batch that comes next.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the net is none that Caffe would build, or has a layer of a type that is not
            in the table, or the weights do not fit.
    """

    _like: Tensor

    def __init__(
        self,
        net: StrPath | pb.NetParameter,
        weights: Weights | None = None,
        *,
        phase: str = "TEST",
        level: int = 0,
        stages: Iterable[str] = (),
        shapes: Mapping[str, Sequence[int]] | None = None,
        seed: int | None = None,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        check_dtype(dtype)
        param = net if isinstance(net, pb.NetParameter) else read_net(net)
        param = filter_net(param, phase, level, stages)
        plugin_text.restore(param)
        refuse_unknown(param)
        self.param, arrays = take_blobs(insert_splits(param))
        if weights is not None:
            arrays |= read_all(weights)
        self.loss_weights: dict[str, float] = {}
        self._forced = self.param.force_backward
        data = [layer for layer in self.param.layer if layer.type in DATA_TYPES]
        self._inputs = [top for layer in data for top in layer.top]
        self._fed = {top: layer.name for layer in data if layer.type in FED for top in layer.top}
        self._steps: list[Step] = []
        self._outputs: tuple[str, ...] = ()
        self._seed = int(torch.randint(2**31, ())) if seed is None else seed
        self._pending: BlobsByPlace | None = arrays
        self.train(phase == "TRAIN")
        self.sources = make_sources(self.param, self.training, self._seed)
        layers = infer_with_blobs(self.param, shapes, arrays)
        if _waits(self.param, layers) and (known := self._source_shapes(layers)):
            layers = infer_with_blobs(self.param, {**known, **(shapes or {})}, arrays)
        if _waits(self.param, layers):
            # It follows double() and half() until there are parameters that do.
            self.register_buffer(
                "_like", torch.empty(0, device=device, dtype=dtype), persistent=False
            )
        else:
            self._build(layers, device, dtype)

    # Making it.

    def _build(self, layers: Sequence[LayerShapes], device: Any, dtype: torch.dtype | None) -> None:
        """Make the layers, fill them, and load what weights there are, or change nothing."""
        if problems := [(layer, layer.problem) for layer in layers if layer.problem]:
            layer, problem = problems[0]
            raise ValueError(f"layer {layer.name!r}: {problem}")
        made = self._make_layers(layers)
        modules = [module and module.to(device=device, dtype=dtype) for module in made]
        rng = np.random.default_rng(self._seed)
        for param, module in zip(self.param.layer, modules, strict=True):
            if module is not None:
                with naming(f"layer {param.name!r}"):
                    module.fill(rng)
                _put_channels_last(module)
        share_params(self.param, modules)
        arrays = self._pending or {}
        if arrays and (unfilled := load_into(_blobs(self.param, modules), arrays).unfilled):
            warnings.warn(
                f"no weights for {', '.join(map(repr, unfilled))}: filled by their fillers",
                stacklevel=4,
            )
        taken = set(dir(self))
        steps = []
        for param, module in zip(self.param.layer, modules, strict=True):
            name = ""
            if module is not None:
                name = _module_name(param.name, taken)
                taken.add(name)
                self._modules[name] = module.train(self.training)
            steps.append(self._step(name, param))
        self._steps, self._outputs = _with_ends(steps), _outputs(steps, self.loss_weights)
        self._pending = None

    def _make_layers(self, layers: Sequence[LayerShapes]) -> list[Layer | None]:
        """Return the layers' modules, for what is known of their shapes."""
        return [make_layer(*pair) for pair in zip(self.param.layer, layers, strict=True)]

    def _step(self, module: str, param: pb.LayerParameter) -> Step:
        """Return a layer's turn, and note what its tops weigh in the objective."""
        tops = list(param.top)
        weights = list(param.loss_weight)
        if param.type in LOSS_TYPES:
            weights = weights or [1.0]
            if not tops:
                free = f"{AUTOMATIC}{param.name}" if AUTOMATIC in self.loss_weights else AUTOMATIC
                tops = [free]
        self.loss_weights.update(
            (top, weight) for top, weight in zip(tops, weights, strict=False) if weight
        )
        propagate: list[bool | None] = list(param.propagate_down) or [None] * len(param.bottom)
        return Step(module, param.name, tuple(param.bottom), tuple(tops), tuple(propagate))

    def _layer(self, step: Step) -> Layer:
        return cast("Layer", self._modules[step.module])

    def reseed(self, seed: int) -> None:
        """Have the data layers draw from another seed."""
        self._seed = seed
        for name, other in make_sources(self.param, self.training, seed).items():
            self.sources[name].close()
            self.sources[name].seeds = other.seeds

    @property
    def layers(self) -> dict[str, Layer]:
        """The layers that have a module, by Caffe's names."""
        return {step.name: self._layer(step) for step in self._steps if step.module}

    @property
    def params(self) -> dict[str, list[Tensor]]:
        """For each layer that has any, Caffe's blobs, in Caffe's order."""
        self._check_built()
        return _blobs(
            self.param, [self._layer(step) if step.module else None for step in self._steps]
        )

    def named_parameters(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, nn.Parameter]]:
        """As every module's.

        Raises:
            ValueError: the shapes are not known yet.
        """
        self._check_built()
        return super().named_parameters(*args, **kwargs)

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """As every module's.

        Raises:
            ValueError: the shapes are not known yet.
        """
        self._check_built()
        return super().state_dict(*args, **kwargs)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """As every module's.

        Raises:
            ValueError: the shapes are not known yet.
        """
        self._check_built()
        return super().load_state_dict(*args, **kwargs)

    @property
    def inputs(self) -> list[str]:
        """The tops of data layers, which `forward` takes; those of DummyData it makes itself."""
        return list(self._inputs)

    def _check_built(self) -> None:
        if self._pending is not None:
            raise ValueError(
                "the net's parameters are known with its first batch; give shapes= for "
                f"{' and '.join(map(repr, self.inputs))} to have them now"
            )

    # Running it.

    def forward(self, *, keep: Collection[str] | str = (), **inputs: Tensor) -> dict[str, Tensor]:
        """Run the net.

            >>> import torch
            >>> net = Net("models/sphereface4_deploy.prototxt")
            >>> blobs = net(data=torch.randn(1, 3, 112, 96), keep="all")
            >>> blobs["fc5"].sum().backward()
            >>> blobs["conv2_1"].grad.shape
            torch.Size([1, 128, 28, 24])

        Args:
            keep: names of blobs to return beside the outputs, or ``"all"``. Each has its ``grad``
                after Backward, where it needs one. A blob that layers work on in place is what
                the last of them left; its ``grad``, as Caffe's ``diff``, is what the first one
                sends down.
            **inputs: tensors for the tops of data layers, by name. A layer of ``sources`` of which
                none is given takes its next batch.

        Returns:
            The outputs by name: the tops that no layer reads, and those with a loss weight.

        Raises:
            FileNotFoundError: what a data layer reads is not there.
            ValueError: an input is missing, or is nobody's top, or a layer refuses its bottoms, or
                an image cannot be read.
        """
        if not isinstance(keep, Collection):
            raise ValueError(f"keep must be blobs' names, or 'all', not {type(keep).__name__}")
        batches = self._next_batches(inputs)
        self._check_inputs({**inputs, **batches})
        if self._pending is not None:
            self._build_for({**inputs, **batches})
        inputs |= self._like_params(batches)
        blobs = {name: _asked(blob) if self._forced else blob for name, blob in inputs.items()}
        wanted = self._wanted(keep)
        first: dict[str, Tensor] = {}
        for step in self._steps:
            if not step.bottoms and blobs.keys() >= set(step.tops):
                continue
            tops = self._run(step, self._bottoms(step, blobs))
            for name in step.last:
                if name not in wanted:
                    del blobs[name]
            for name, top in zip(step.tops, tops, strict=False):
                if not step.bottoms:
                    top = blobs.get(name, _asked(top) if self._forced else top)
                elif name in wanted and name in blobs:
                    first.setdefault(name, blobs[name])
                blobs[name] = top
                if name in wanted and top.requires_grad and keep:
                    top.retain_grad()
        for name, bottom in first.items() if keep else ():
            if bottom.requires_grad:
                bottom.register_hook(partial(setattr, blobs[name], "grad"))
        return {name: blobs[name] for name in blobs if name in wanted}

    def _bottoms(self, step: Step, blobs: dict[str, Tensor]) -> list[Tensor]:
        """Return a layer's bottoms, with the gradients that are wanted of it.

        Where ``propagate_down`` is false nothing goes further down, but the layer's tops have
        their gradients. Source: Net::Init, where ``force_backward`` overrules it.
        """
        layer = self._layer(step)
        bottoms = []
        for i, (name, down) in enumerate(zip(step.bottoms, step.propagate_down, strict=True)):
            if down or i in layer.unasked:
                blobs[name] = _asked(blobs[name])
            bottom = blobs[name]
            if down is False and not self._forced:
                cut = bottom.detach()
                bottom = _asked(cut) if bottom.requires_grad else cut
            bottoms.append(bottom)
        return bottoms

    def _run(self, step: Step, bottoms: list[Tensor]) -> Sequence[Tensor]:
        try:
            layer = self._layer(step)
            tops = (
                functional_call(layer, layer.viewed(), tuple(bottoms))
                if layer.views
                else layer(*bottoms)
            )
        except (ValueError, RuntimeError, IndexError) as error:
            shapes = ", ".join(str(tuple(bottom.shape)) for bottom in bottoms)
            cure = self._other_dtype(step, bottoms)
            raise ValueError(
                f"layer {step.name!r}, with bottoms {shapes}: {error}{cure}"
            ) from error
        return (tops,) if isinstance(tops, Tensor) else tops

    def _other_dtype(self, step: Step, bottoms: Sequence[Tensor]) -> str:
        """Return what to do where a layer's first bottom is not in the precision of its weight."""
        blob = next(self._layer(step).parameters(), None)
        if blob is None or not bottoms or bottoms[0].dtype == blob.dtype:
            return ""
        mine, theirs = (
            str(dtype).removeprefix("torch.") for dtype in (blob.dtype, bottoms[0].dtype)
        )
        return f"; the net is {mine}, and its bottom {theirs}: convert either by .to(torch.{mine})"

    def loss(self, blobs: Mapping[str, Tensor]) -> Tensor:
        """Return the objective: the sum of what `forward` returned, weighted by ``loss_weight``.

        Source: Layer::SetLossWeights.

        Raises:
            ValueError: no top of the net has a loss weight.
        """
        if not isinstance(blobs, Mapping):
            raise ValueError(f"give what the net returned, not {type(blobs).__name__}")
        if not self.loss_weights:
            raise ValueError("the net has no loss")
        terms = [blobs[name].sum() * weight for name, weight in self.loss_weights.items()]
        return torch.stack(terms).sum()

    def _wanted(self, keep: Collection[str] | str) -> Collection[str]:
        everything = [top for step in self._steps for top in step.tops]
        if keep == "all":
            return set(everything)
        names = [keep] if isinstance(keep, str) else list(keep)
        for name in names:
            if name not in everything:
                raise ValueError(f"the net has no blob {name!r}{_meant(name, everything)}")
        return {*self._outputs, *names}

    def _check_inputs(self, inputs: Mapping[str, Tensor]) -> None:
        """Check that every input is a data layer's top, and no input is missing."""
        for name, blob in inputs.items():
            if name not in self._inputs:
                raise ValueError(
                    f"input {name!r} is no data layer's top; they are "
                    f"{', '.join(map(repr, self._inputs)) or 'none'}"
                )
            if not isinstance(blob, Tensor):
                raise ValueError(f"input {name!r} must be a tensor, not {type(blob).__name__}")
        for name, maker in self._fed.items():
            if name not in inputs:
                raise ValueError(f"input {name!r}, the top of {maker!r}, is missing")

    def next_batches(self) -> dict[str, Tensor]:
        """Return the tops of the next batch of every data layer that has a source."""
        return self._like_params(self._next_batches({}))

    def _next_batches(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tops of the next batch of each data layer of which no top is given."""
        if not inputs.keys() <= set(self.inputs):
            return {}  # they will be refused
        unfed = [source for source in self.sources.values() if not inputs.keys() & set(source.tops)]
        batches = [source.peek() for source in unfed]
        for source in unfed:  # only now, that all have been read
            source.iteration += 1
        return {top: blob for batch in batches for top, blob in batch.items()}

    def _like_params(self, batches: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return batches as the parameters are; a label in half precision were another class."""
        like = next(self.parameters(), None)
        if like is None:
            return dict(batches)
        firsts = {source.tops[0] for source in self.sources.values()}
        wide = torch.promote_types(like.dtype, torch.float32)
        return {
            top: blob.to(like.device, like.dtype if top in firsts else wide)
            for top, blob in batches.items()
        }

    def _source_shapes(self, layers: Sequence[LayerShapes]) -> dict[str, tuple[int, ...]]:
        """Return unknown shapes of data layers' tops, of those whose sources can be read."""
        unknown = unknown_inputs(self.param, layers).keys()
        shapes: dict[str, tuple[int, ...]] = {}
        for source in self.sources.values():
            if unknown & set(source.tops):
                # Whoever feeds the net himself needs no source; whoever does not is told later.
                with contextlib.suppress(OSError, ValueError, ImportError):
                    shapes |= source.shapes()
        return shapes

    def _build_for(self, inputs: Mapping[str, Tensor]) -> None:
        """Build with the shapes of a first batch."""
        shapes = {name: tuple(blob.shape) for name, blob in inputs.items()}
        device = self._like.device
        if device.type == "cpu" and inputs:
            device = next(iter(inputs.values())).device
        layers = infer_with_blobs(self.param, shapes, self._pending or {})
        # Parameters made in inference mode could not be trained afterwards.
        with torch.inference_mode(False):
            self._build(layers, device, self._like.dtype)
        del self._like

    # Weights.

    def load_weights(self, weights: Weights) -> Loaded:
        """Take the blobs of the layers that have the same name, all or none of them.

            >>> net = Net("models/sphereface4_deploy.prototxt")
            >>> net.save_weights("a.caffemodel")
            >>> Net("models/sphereface4_deploy.prototxt").load_weights("a.caffemodel")
            Loaded(unfilled=(), unused=())

        A blob of four dimensions from an old file fits where the ones in front are more than the
        net's. Source: Net::CopyTrainedLayersFrom.

        Args:
            weights: a file, ``.caffemodel`` or ``.h5``, or several, of which later ones count, or
                blobs by layer.

        Returns:
            Names of the layers that were left as they are, and of those in the file that the net
            does not have.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is no file of weights, or a layer's blobs have other shapes.
        """
        self._check_built()
        return load_into(self.params, read_all(weights, self.shares))

    def save_weights(self, path: StrPath) -> None:
        """Write all blobs to a file that Caffe reads, whole or not at all.

        Args:
            path: the file, in HDF5 where its name ends in ``.h5``, and else a ``.caffemodel``.

        Raises:
            ValueError: there are no blobs, or they take 2 GiB in a ``.caffemodel``.
            OSError: the file cannot be written.
        """
        save_from(self.params, self.param, path, self.stored)

    @property
    def shares(self) -> Shares:
        """Of which layers this process has some rows of the first blob alone: of none."""
        return {}

    def share(self, blob: Tensor) -> Share | None:
        """Return which part of a blob this process has; None for all of it."""
        shares = self.shares.items()
        return next((share for name, share in shares if self.params[name][0] is blob), None)

    def stored(self, blob: Tensor, like: Tensor | None = None) -> Stored:
        """Return a blob as files hold it.

        Args:
            blob: one of the net's, or something that has as many rows, such as a history.
            like: the blob that it is then as.
        """
        return as_array(blob)


def _put_channels_last(module: Layer) -> None:
    """Store images' weights with the channels last: convolutions, which follow, are faster so."""
    for blob in module.parameters():
        if blob.dim() == 4:
            blob.data = blob.data.contiguous(memory_format=torch.channels_last)


def _waits(param: pb.NetParameter, layers: Sequence[LayerShapes]) -> bool:
    """Whether shapes of parameters depend on those of the first batch."""
    unknown = any(
        layer.problem or None in dims for layer in layers for dims in layer.params or [()]
    )
    return unknown and bool(unknown_inputs(param, layers))


def _module_name(name: str, taken: Collection[str]) -> str:
    """Return a layer's name as a module may be called."""
    name = name.replace(".", "_") or "_"
    while name in taken:
        name += "_"
    return name


def _blobs(net: pb.NetParameter, modules: Sequence[Layer | None]) -> dict[str, list[Tensor]]:
    """Return Caffe's blobs by layer; of layers of one name, the first that has any."""
    blobs: dict[str, list[Tensor]] = {}
    for param, module in zip(net.layer, modules, strict=True):
        if module is not None and module.fillers:
            blobs.setdefault(param.name, module.blobs)
    return blobs


def _with_ends(steps: Sequence[Step]) -> list[Step]:
    """Return the steps with what each is the last to read."""
    read: set[str] = set()
    ended = []
    for step in reversed(steps):
        # A top of the same name is read by those above; it takes the bottom's place.
        last = {name for name in step.bottoms if name not in read} - set(step.tops)
        read |= set(step.bottoms)
        ended.append(replace(step, last=tuple(last)))
    return ended[::-1]


def _outputs(steps: Sequence[Step], loss_weights: Collection[str]) -> tuple[str, ...]:
    """Return the tops that no layer reads, and those with a loss weight, in the net's order."""
    unread = unread_tops((step.bottoms, step.tops) for step in steps)
    tops = dict.fromkeys(top for step in steps for top in step.tops)
    return tuple(name for name in tops if name in unread or name in loss_weights)


def _asked(blob: Tensor) -> Tensor:
    """Return a blob whose gradient is asked for, with nothing below it.

    A compiled net has none for the asking: there it is the caller's input that requires it.
    """
    idle = not torch.is_grad_enabled() or torch.compiler.is_compiling()
    if idle or blob.requires_grad or not blob.is_floating_point():
        return blob
    return blob.detach().requires_grad_()


def _meant(name: str, names: Iterable[str]) -> str:
    other = near(name, names)
    return f"; did you mean {other!r}?" if other else ""
