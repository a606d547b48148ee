"""The layers of `caffe_margin` on PyTorch.

    import caffe_margin.torch as cmt

    head = cmt.MarginInnerProduct(512, 10572, m=4, base=1000, gamma=0.12, lambda_min=5)
    scores = head(x, label)              # (M, K) features, M labels -> (M, N)

`functional` has the same as functions. This is the only part of `caffe_margin` that needs PyTorch:
``pip install 'caffe_margin[torch]'``.
"""

try:
    import torch as _torch  # noqa: F401
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise
    raise ModuleNotFoundError(
        "caffe_margin.torch needs PyTorch: pip install 'caffe_margin[torch]'", name="torch"
    ) from None

from caffe_margin.torch import functional, optim
from caffe_margin.torch.distributed_solver import DistributedSolver
from caffe_margin.torch.large_margin_inner_product import LargeMarginInnerProduct
from caffe_margin.torch.margin_inner_product import MarginInnerProduct
from caffe_margin.torch.net import Net
from caffe_margin.torch.sharded import ShardedMarginInnerProduct
from caffe_margin.torch.solver import Solver

__all__ = [
    "DistributedSolver",
    "LargeMarginInnerProduct",
    "MarginInnerProduct",
    "Net",
    "ShardedMarginInnerProduct",
    "Solver",
    "functional",
    "optim",
]


def __dir__() -> list[str]:
    """Show the API, and not the modules behind it."""
    return [*__all__, *(name for name in globals() if name.startswith("__"))]
