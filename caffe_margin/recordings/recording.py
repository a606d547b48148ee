"""Recordings of the layer: what some Caffe, or this layer, computed; written, replayed, compared.

A recording is an ``.npz`` file; nothing in it is pickled. `verify` replays it and holds every blob
against the recorded one. ``caffe-margin record`` writes one from our layer, ``tools/dump_caffe.py``
from anybody's Caffe. Every recording may hold

    format_version   () int    of this description; absent means 1. A higher one is refused
    source           () str    what recorded it
    rule             () str    "paper", "exact" or "detached", or (3,) bool: normalized
                               coefficients, margin in weight, projection; a fourth, margin in
                               bottom, may follow, absent being true. No rule means what the layer's
                               text says in its own ``gradient`` field; where it has none, what
                               the layer's C++ computes: PAPER for MarginInnerProduct, EXACT for
                               LargeMarginInnerProduct

and is of the first of these kinds whose keys it has. Where MarginInnerProduct is named, it may be a
LargeMarginInnerProduct as well. M is the batch, N the classes, K the features;
D is float32 or float64, the layer's Dtype, one for the whole file.

``layer``: MarginInnerProduct, Forward once or more on one input, then one Backward.

    layer                  () str         the layer as prototxt text, ``layer { ... }``
    forwards               () int         how many Forwards, 1 to `MAX_FORWARDS`
    propagate_down         (2,) bool      as Caffe's Net sets them
    param_propagate_down   (1,) bool
    bottom0_data           bottom, D      features
    bottom1_data           bottom         labels
    blob0_data_before      (N, K) D       the weight before the first Forward
    blob0_diff_before      (N, K) D       its diff, which Backward adds to
    top0_diff              top, D         what comes down from above
    top0_data              top, D         after the last Forward
    top1_data              (forwards,) D  lambda after each Forward; absent where the layer has
                                          one top
    blob0_data, blob0_diff (N, K) D       the weight and its diff afterwards
    bottom0_diff           bottom, D      absent where propagate_down[0] is false
    internal_NAME          D              optional: the C++ layer's private blob NAME_; held against
                                          the line-by-line engine, the only one that has them

``softmax_loss``: SoftmaxWithLoss, one Forward and one Backward from its ``loss_weight``.

    layer, bottom0_data, bottom1_data, bottom0_diff    as above
    top0_data                                          () D, the loss before ``loss_weight``

``head_sgd``: T iterations of Caffe's SGD on MarginInnerProduct below SoftmaxWithLoss.

    net, solver                        () str        prototxt text
    fc5, label                         (T, M, K) D, (T, M)   the batches
    weight_before                      (N, K) D
    loss, lambda_                      (T,) D        at each iteration
    weight_after_iterations            (n,) int      optional
    weight_after                       (n, N, K) D   the weight after that many iterations

``solver``: a solver's run on a whole net of T iterations, each of iter_size Forwards.

    net, solver                        () str        prototxt text; the files that the solver names
                                                     are not read
    input/NAME                         (T * iter_size, ...)   what was in a data layer's top, at
                                                     each Forward
    weights/0/LAYER/I                  D             each parameter at the start
    weights/N/LAYER/I                  D             optional: after N iterations
    loss or softmax_loss, lambda_      (T,) D        at the last Forward of each iteration; lambda_
                                                     is optional
    test_input/NAME                    ...           optional: what was in the TEST net's, at each
                                                     of its Forwards, or at all of them
    test/NAME                          D             blobs of the TEST net after the last iteration,
                                                     at each Forward, or at the last of them

``net``: a whole net, or a layer in a net of its own. Its MarginInnerProduct layers, those among
them that are Python layers of `caffe_margin.pycaffe`, and its SoftmaxWithLoss layers are replayed
one by one; all of it is, through PyTorch. D is the dtype of its blobs.

    net, phase                         () str        prototxt text; TRAIN or TEST
    forwards                           () int        optional: how many Forwards, on the same
                                                     input; 1 if absent
    backward                           () bool       optional: whether one Backward followed, true
                                                     if absent; where it did not, no diff is there
    input/NAME                         any number    optional: what was put into the top of a data
                                                     layer; blob/NAME/data where it is absent
    top_diff/NAME                      D             optional: what was put into the diff of an
                                                     output before Backward; a loss has its
                                                     loss_weight there
    mask                               top, bool     optional: what the one Dropout kept in TRAIN
    blob/NAME/data, blob/NAME/diff     D             each blob afterwards
    param/LAYER/I/data_before          D             each parameter before Forward; diffs are 0
    param/LAYER/I/data, .../diff       D             and afterwards
    loss_weight                        () str        not read: JSON, the blobs whose diff Caffe set

A recording may leave blobs out. One without any ``param/`` needs its weights beside it, or holds
how they are drawn, one after another, an entry a blob: ``offset + scale * randn(*shape)`` of
`numpy.random.RandomState`. It may hold parts and summaries of large blobs:

    recipe_seed                        () int
    recipe_layer                       (n,) str      in the order they are drawn
    recipe_shape                       (n,) str      "64,3,3,3"
    recipe_offset, recipe_scale        (n,) float
    blob_part/NAME/data                D             a blob's first channels
    norm/NAME                          (2,) float64  a blob's largest magnitude and length
    recipe, recipe_blob, recipe_sum, recipe_first4   not read: the same as code, and its check
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.files import prototxt
from caffe_margin.files.upgrade import upgrade_net
from caffe_margin.files.visible import visible
from caffe_margin.layers.checks import DTYPES, describe
from caffe_margin.maths.arrays import FloatArray
from caffe_margin.maths.gradient import NAMED_RULES, GradientRule
from caffe_margin.nets import plugin_text

FORMAT_VERSION = 1
MAX_FORWARDS = 10_000
MAX_TEXT = 4 << 20
"""Characters of prototxt text in a recording."""


class Recording:
    """The arrays of a recording; what is asked for is there and as it should be."""

    def __init__(self, arrays: Mapping[str, NDArray]) -> None:
        self.arrays = arrays

    def __contains__(self, key: str) -> bool:
        return key in self.arrays

    def check_format(self) -> None:
        """Raise ValueError where this is no recording, or one of a format that is not known."""
        if not {"layer", "net"} & self.arrays.keys():
            held = sorted(self.arrays)
            some = ", ".join(visible(key, 40) for key in held[:5]) + ", ..." * (len(held) > 5)
            raise ValueError(f"it is no recording, which holds layer or net; it holds {some or 0}")
        version = self.number("format_version") if "format_version" in self else 1
        if version > FORMAT_VERSION:
            raise ValueError(
                f"the recording is of format version {version}; this caffe_margin reads up to "
                f"version {FORMAT_VERSION}"
            )
        if version < 1:
            raise ValueError(f"format_version is {version}; the first is 1")

    def array(self, key: str, kinds: str, shape: tuple[int | None, ...] | None = None) -> NDArray:
        """Return an array of a dtype kind and of a shape, where None is any dimension."""
        if key not in self.arrays:
            raise ValueError(f"the recording lacks {key}")
        array = self.arrays[key]
        fits = shape is None or (
            array.ndim == len(shape)
            and all(want in (None, dim) for dim, want in zip(array.shape, shape, strict=True))
        )
        if array.dtype.kind not in kinds or not fits:
            what = {"b": "bool", "iu": "int", "U": "str", "f": "float"}.get(kinds, "float or int")
            wanted = "" if shape is None else f"{shape} ".replace("None", "any")
            raise ValueError(f"{key} is {describe(array)}; it must be {wanted}{what}")
        return array

    def floats(
        self,
        key: str,
        shape: tuple[int | None, ...] | None = None,
        dtype: np.dtype[Any] | None = None,
    ) -> FloatArray:
        """Return an array of the recording's dtype; None for the first, which says what that is."""
        array = self.array(key, "f", shape)
        if dtype is None and array.dtype not in DTYPES:
            raise ValueError(f"{key} is {describe(array)}; it must be float32 or float64")
        if dtype is not None and array.dtype != dtype:
            raise ValueError(f"{key} is {describe(array)}; the recording is {dtype}")
        return array

    def number(self, key: str) -> int:
        """Return a whole number."""
        return int(self.array(key, "iu", ()))

    def text(self, key: str) -> str:
        array = self.array(key, "U", ())
        if array.itemsize > 4 * MAX_TEXT:
            raise ValueError(f"{key} is longer than {MAX_TEXT} characters")
        return str(array)

    def net(self) -> pb.NetParameter:
        """Return what ``net`` or ``layer`` says, in the current form."""
        key = "layer" if "layer" in self else "net"
        net = prototxt.parse_text(self.text(key), pb.NetParameter(), filename=key)
        upgrade_net(net)
        plugin_text.restore(net)
        return net

    @property
    def forwards(self) -> int:
        """How many Forwards ran."""
        forwards = self.number("forwards") if "layer" in self or "forwards" in self else 1
        if not 1 <= forwards <= MAX_FORWARDS:
            raise ValueError(f"forwards is {forwards}; it must lie in [1, {MAX_FORWARDS}]")
        return forwards

    @property
    def backward(self) -> bool:
        """Whether a Backward ran; where the recording of a net does not say, it did."""
        return "backward" not in self or bool(self.array("backward", "b", ()))

    @property
    def source(self) -> str:
        return self.text("source") if "source" in self else ""

    @property
    def rule(self) -> GradientRule | None:
        """The rule; None where the recording does not say."""
        if "rule" not in self:
            return None
        if self.arrays["rule"].dtype.kind != "b":
            return GradientRule.of(self.text("rule"))
        switches = self.array("rule", "b")
        if switches.shape not in ((3,), (4,)):
            raise ValueError(f"rule is {describe(switches)}; it must be (3,) or (4,) bool")
        return rule_of(switches)


def rule_of(switches: NDArray) -> GradientRule:
    """Return the rule that a recording's three or four switches stand for."""
    normalized_coefficients, margin_in_weight, projection, *margin_in_bottom = switches.tolist()
    return GradientRule(
        normalized_coefficients=normalized_coefficients,
        detached_in_bottom=margin_in_bottom == [False],
        detached_in_weight=not margin_in_weight,
        no_projection=not projection,
    )


def as_recorded(rule: GradientRule) -> NDArray:
    """Return what a recording's ``rule`` holds for a rule: its name where it has one."""
    if rule.name in NAMED_RULES:
        return np.array(rule.name)
    switches = [rule.normalized_coefficients, not rule.detached_in_weight, not rule.no_projection]
    return np.array([*switches, False] if rule.detached_in_bottom else switches)
