"""What is asked of the tensors.

Shapes and dtypes, always. Values, where that makes nobody wait: of plain tensors on a CPU, outside
torch.compile and torch.export. Elsewhere a label outside [0, N) is an error of the device's own, as
in `torch.nn.functional.cross_entropy`, and a row without a direction gives NaN.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


class NoDirectionError(ValueError):
    """A row is zero, or not finite: what a net that diverges comes to."""


def describe(tensor: Tensor) -> str:
    """Return a tensor's shape and dtype in words."""
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"


def check_tensors(**values: object) -> None:
    """Raise ValueError that names what is no tensor."""
    for name, value in values.items():
        if not isinstance(value, Tensor):
            cure = "; torch.from_numpy makes one of it" if hasattr(value, "__array__") else ""
            raise ValueError(f"{name} must be a tensor, not {type(value).__name__}{cure}")


def check_dtype(dtype: object) -> None:
    """Raise ValueError unless parameters can have the dtype; None is PyTorch's default."""
    if dtype is None or (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        return
    raise ValueError(f"dtype must be one of PyTorch's floats, such as torch.float64, not {dtype!r}")


def check_shapes(x: Tensor, label: Tensor, weight: Tensor) -> None:
    """Check shapes and dtypes; x and weight as they go into the product, after any autocast.

    Raises:
        ValueError: x is not (M, K), weight not (N, K), or they are not of one floating-point dtype;
            label is not (M,), or neither integers nor floats.
    """
    if (
        x.ndim != 2
        or weight.ndim != 2
        or x.shape[1] != weight.shape[1]
        or x.dtype != weight.dtype
        or not x.is_floating_point()
    ):
        raise ValueError(
            f"x is {describe(x)} and weight {describe(weight)}; they must be (M, K) and (N, K) of "
            f"one floating-point dtype"
        )
    if label.shape != x.shape[:1] or label.dtype == torch.bool or label.is_complex():
        raise ValueError(
            f"x is {tuple(x.shape)}, but label is {describe(label)}; it must be "
            f"({x.shape[0]},), integers or floats"
        )


def values_are_free(tensor: Tensor) -> bool:
    """Return whether a value can be looked at without waiting for a device, or for a compiler."""
    plain = type(tensor) in (Tensor, torch.nn.Parameter) and tensor.device.type == "cpu"
    return plain and not torch.compiler.is_compiling()


def check_label(label: Tensor, num_classes: int) -> None:
    """Raise ValueError that names the first row whose label is NaN or outside [0, N)."""
    good = (label >= 0) & (label < num_classes)
    if not good.all():
        row = int(good.int().argmin())
        raise ValueError(
            f"row {row} of label is {label[row].item()}; labels must lie in [0, {num_classes})"
        )


def check_rows(norm: Tensor, what: str, first: int = 0) -> None:
    """Raise NoDirectionError that names the first row without one, by the rows' lengths.

    The square of a length must be a normal number, or the length cannot be had from it. ``first``
    is the number of the first row.
    """
    good = (norm >= math.sqrt(torch.finfo(norm.dtype).tiny)) & (norm < math.inf)
    if not good.all():
        row = int(good.int().argmin())
        if norm[row] < 1:
            reason = "is zero, or so short that its square is no normal number"
        else:
            reason = "has a value that is not finite, or a square that overflows"
        raise NoDirectionError(f"row {first + row} of {what} {reason}; it has no direction")


def check_lambda(lambda_: Tensor) -> None:
    """Raise ValueError unless lambda is finite and above -1."""
    if not (lambda_ > -1 and lambda_ < math.inf):
        raise ValueError(f"lambda_ is {lambda_.item():g}; it must be finite and above -1")


def check_device(device: str) -> None:
    """Raise ValueError where PyTorch has no such device here, or none that holds numbers."""
    try:
        if torch.device(device).type == "meta":
            raise ValueError("device 'meta' holds no numbers")
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # PyTorch's word for a device that is not
        raise ValueError(f"device {device!r}: {str(error).splitlines()[0]}") from None
