"""The label's pull: what each rule makes of the label's column, sample by sample.

Per unit of top.diff, the label's column of bottom.diff is ``w w_y + x x``, with the coefficients
of `caffe_margin.maths.gradient`. With unit vectors w_y and x/|x| at an angle theta, all that can be
said of it depends on theta, |x|, m and lambda alone. L-Softmax's is the same but in units of |w_y|:
its pull is |w_y| times that at a length of |x| / |w_y| (and the 1e-9 that is added to |w_y|).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from caffe_margin.maths.arrays import FloatArray
from caffe_margin.maths.gradient import DETACHED, EXACT, PAPER, GradientRule, label_coefficients


@dataclass(frozen=True)
class Pull:
    """The label's pull under one rule; each of the shape of theta.

    Attributes:
        along_w: its coefficient on the unit vector of w_y.
        along_x: its coefficient on x/|x|. The two are not at right angles.
        length: its length.
    """

    along_w: FloatArray
    along_x: FloatArray
    length: FloatArray


@dataclass(frozen=True)
class Pulls:
    """The named rules' pulls on the same samples.

    Attributes:
        theta: angle between each sample and its own class, in radians.
        x_norm: length of each sample, in units of |w_y|.
        paper: the pull under the authors' rule.
        exact: the pull under the exact rule.
        detached: the pull under the detached rule.
        angle: angle between the paper's and the exact one, in radians.
        coeff_norm: what the authors divide both coefficients by.
    """

    theta: FloatArray
    x_norm: FloatArray
    paper: Pull
    exact: Pull
    detached: Pull
    angle: FloatArray
    coeff_norm: FloatArray


def pulls(theta: FloatArray, x_norm: FloatArray, m: int, lambda_: float) -> Pulls:
    """Return the rules' pulls at angles and lengths of one shape, in float64."""
    theta, x_norm = np.asarray(theta, np.float64), np.asarray(x_norm, np.float64)
    paper, exact, detached = (
        _pull(theta, x_norm, m, lambda_, rule) for rule in (PAPER, EXACT, DETACHED)
    )
    cos_theta, sin_theta = np.cos(theta), np.sin(theta)
    inner = (
        paper.along_w * exact.along_w
        + paper.along_x * exact.along_x
        + (paper.along_w * exact.along_x + paper.along_x * exact.along_w) * cos_theta
    )
    # Both lie in the plane of x and w_y, so the sine comes from a determinant; an arccos of the
    # cosine would lose small angles to rounding.
    outer = (paper.along_w * exact.along_x - paper.along_x * exact.along_w) * sin_theta
    return Pulls(
        theta=theta,
        x_norm=x_norm,
        paper=paper,
        exact=exact,
        detached=detached,
        angle=np.arctan2(np.abs(outer), inner),
        coeff_norm=coeff_norm(theta, x_norm, m),
    )


def coeff_norm(theta: FloatArray, x_norm: FloatArray, m: int) -> FloatArray:
    """Return sqrt(coeff_w^2 + coeff_x^2), what the authors divide both by; 1 where m is 1.

    theta and x_norm are broadcast.
    """
    cos_theta, x_norm = np.broadcast_arrays(np.cos(theta), x_norm)
    c = label_coefficients(cos_theta, x_norm, m, np.float64(0), EXACT)
    return np.hypot(c.w, c.x)


def _pull(
    theta: FloatArray, x_norm: FloatArray, m: int, lambda_: float, rule: GradientRule
) -> Pull:
    c = label_coefficients(np.cos(theta), x_norm, m, np.float64(lambda_), rule)
    along_w, along_x = c.w, c.x * x_norm
    radial, tangential = along_x + along_w * np.cos(theta), along_w * np.sin(theta)
    return Pull(along_w=along_w, along_x=along_x, length=np.hypot(radial, tangential))
