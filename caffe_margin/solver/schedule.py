"""Lambda over a run of training: where it stops falling, and where a resumed run stands."""

from __future__ import annotations

import bisect
import math
import os
import stat
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import ArrayLike, NDArray

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.files import prototxt
from caffe_margin.maths import angular


class Step(NamedTuple):
    """One Forward of a run.

    Attributes:
        iteration: the layer's count of Forwards.
        lambda_: lambda there.
        share: how much of the margin is in force, 1 / (1 + lambda): the label's column of the
            output is ``(psi_m + lambda cos(theta)) / (1 + lambda)``.
        note: why this Forward is of interest.
    """

    iteration: int
    lambda_: float
    share: float
    note: str


def steps(
    param: pb.MarginInnerProductParameter, last: int, notes: Mapping[int, str] | None = None
) -> list[Step]:
    """Return the Forwards of a run that are worth a look, in order.

    These are the first, the powers of ten, the one where lambda reaches lambda_min, and the last.

    Args:
        param: the layer's parameters; its first Forward is ``iteration`` + 1.
        last: the last Forward.
        notes: more of them, and what to say of each.

    Raises:
        ValueError: lambda is not finite or not above -1 somewhere, which the layer refuses.
    """
    first = param.iteration + 1
    said: dict[int, list[str]] = {first: ["first"]}
    said |= {10**power: [] for power in range(len(str(last))) if 10**power > first}
    for iteration, note in {**(notes or {}), last: "last"}.items():
        said.setdefault(iteration, []).append(note)
    reached = iteration_of_lambda_min(param)
    if reached is not None:
        said.setdefault(reached, []).insert(0, "lambda_min reached")
    within = sorted(iteration for iteration in said if first <= iteration <= last)
    return [
        Step(iteration, value, share_of_margin(value), ", ".join(said[iteration]))
        for iteration, value in zip(within, lambdas(param, within).tolist(), strict=True)
    ]


def lambdas(param: pb.MarginInnerProductParameter, iterations: ArrayLike) -> NDArray[np.float32]:
    """Return lambda of each Forward, in float32, in which Caffe trains."""
    p = param
    return angular.annealed_lambda(iterations, p.base, p.gamma, p.power, p.lambda_min)


def curve(
    param: pb.MarginInnerProductParameter, last: int
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Return Forwards evenly spread over the logarithm of a run, and lambda at each, to draw."""
    first = max(param.iteration + 1, 1)
    iterations = np.unique(np.rint(np.geomspace(first, max(last, first + 1), 2000)))
    return iterations, lambdas(param, iterations).astype(np.float64)


def share_of_margin(lambda_: float) -> float:
    """Return 1 / (1 + lambda).

    Raises:
        ValueError: lambda is not finite or not above -1.
    """
    if not -1 < lambda_ < math.inf:
        raise ValueError(f"lambda is {lambda_:g}; it must be finite and above -1")
    return 1 / (1 + lambda_)


def iteration_of_lambda_min(param: pb.MarginInnerProductParameter) -> int | None:
    """Return the first Forward at which lambda is lambda_min, or None where it never gets there."""
    if param.base > param.lambda_min and (param.gamma <= 0 or param.power <= 0):
        return None
    forwards = range(param.iteration + 1, 2**31)  # the C++ counts in an int
    # In float32 lambda gets there sooner than on paper, by thousands where the curve is flat.
    index = bisect.bisect_left(
        forwards, True, key=lambda i: lambdas(param, [i])[0] <= np.float32(param.lambda_min)
    )
    return forwards[index] if index < len(forwards) else None


def read_solverstate(path: str | os.PathLike[str]) -> int:
    """Return the iteration that a ``.solverstate`` was saved at: how often weights were updated.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is HDF5, cut short, too large, or no solver state.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise ValueError(f"{path}: a folder, device or pipe, not a file")
    with open(path, "rb") as file:
        data = file.read(prototxt.MAX_BINARY_BYTES + 1)
    if data.startswith(b"\x89HDF"):
        raise ValueError(
            f"{path}: an HDF5 file, which is not read here. Its iteration is the number in its "
            f"name, and what `h5dump -d iter` prints"
        )
    state = pb.SolverState()
    try:
        state.ParseFromString(data)
    except (DecodeError, ValueError):
        raise ValueError(
            f"{path}: no solver state; it is cut short, damaged or of another kind"
        ) from None
    if not state.HasField("iter"):
        raise ValueError(f"{path}: no solver state: it holds no iteration")
    if state.iter < 0:
        raise ValueError(f"{path}: no solver state: its iteration is {state.iter}")
    return state.iter
