"""SphereFace's MarginInnerProduct layer (A-Softmax), alive in Python.

    import caffe_margin as cm

    net = cm.read_net("sphereface_model.prototxt")
    layer = cm.MarginInnerProduct.from_net(net, "fc6", gradient="exact")
    top = layer.forward(x, label)        # (M, K) features, M labels -> (M, N)
    dx = layer.backward(top_diff)        # and adds to layer.blobs[0].diff

`LargeMarginInnerProduct`, L-Softmax, is its predecessor and has the same methods. The layers are
the work of Weiyang Liu, Yandong Wen and others (wy1iu/sphereface, wy1iu/LargeMargin_Softmax_Loss,
MIT).
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from caffe_margin.files.prototxt import (
        ParseError,
        read_net,
        read_solver,
        write_net,
    )
    from caffe_margin.files.weights import read_weights, write_weights
    from caffe_margin.layers.large_margin_inner_product import LargeMarginInnerProduct
    from caffe_margin.layers.margin_inner_product import MarginInnerProduct
    from caffe_margin.layers.margin_softmax_loss import MarginSoftmaxLoss, margin_softmax_loss
    from caffe_margin.layers.softmax_with_loss import SoftmaxWithLoss
    from caffe_margin.maths.gradient import DETACHED, EXACT, PAPER, GradientRule

__all__ = [
    "DETACHED",
    "EXACT",
    "PAPER",
    "GradientRule",
    "LargeMarginInnerProduct",
    "MarginInnerProduct",
    "MarginSoftmaxLoss",
    "ParseError",
    "SoftmaxWithLoss",
    "margin_softmax_loss",
    "read_net",
    "read_solver",
    "read_weights",
    "write_net",
    "write_weights",
]

_PLACES = (
    "maths.gradient",
    "files.prototxt",
    "files.weights",
    "layers.margin_inner_product",
    "layers.large_margin_inner_product",
    "layers.margin_softmax_loss",
    "layers.softmax_with_loss",
)


def __getattr__(name: str) -> Any:
    """Import a name when it is first asked for: the command can be stopped from its start."""
    if name in __all__:
        for place in _PLACES:
            found = vars(import_module(f"{__name__}.{place}"))
            if name in found:
                return globals().setdefault(name, found[name])
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """Show the API, and not the rooms behind it."""
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
