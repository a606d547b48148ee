"""Forward_cpu and Backward_cpu of LargeMarginInnerProductLayer, statement by statement.

Ported from wy1iu/LargeMargin_Softmax_Loss, src/caffe/layers/largemargin_inner_product_layer.cpp
(MIT, Weiyang Liu, Yandong Wen and others), in the manner of
`caffe_margin.kernels.margin_inner_product`, which has the blocks that the two files share.

The C++ adds 1e-9 to w_norm_ in every Backward, and w_norm_ keeps it until the next Forward. Here it
is added to a copy, so that two Backwards after one Forward compute the same. What Caffe lacks, the
rules other than the exact one, is the ``detached`` and ``normalized`` of `_coefficients`, and a
term that `backward_cpu` leaves out where a rule says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from caffe_margin.kernels.caffe_math import (
    caffe_add_scalar,
    caffe_cpu_axpby,
    caffe_cpu_gemm,
    caffe_cpu_sign,
    caffe_div,
    caffe_scal,
    caffe_set,
    compiled,
)
from caffe_margin.kernels.call import Call
from caffe_margin.kernels.margin_inner_product import optional_blobs, optional_variables, row_norms
from caffe_margin.maths.arrays import FloatArray


class PrivateBlobs(NamedTuple):
    """The C++ layer's private blobs, flat; one that the margin does not need is empty."""

    x_norm: FloatArray
    w_norm: FloatArray
    cos_theta: FloatArray
    cos_theta_quadratic: FloatArray
    cos_theta_cubic: FloatArray
    cos_theta_quartic: FloatArray
    sign_0: FloatArray
    sign_1: FloatArray
    sign_2: FloatArray
    sign_3: FloatArray
    sign_4: FloatArray

    @classmethod
    def reshape(cls, m: int, M_: int, N_: int, dtype: np.dtype[np.floating]) -> PrivateBlobs:
        """Port of the second half of ``Reshape``: the norms have M and N elements, others M N."""
        norms = {"x_norm": np.empty(M_, dtype), "w_norm": np.empty(N_, dtype)}
        return cls(**norms, **optional_blobs(m, M_ * N_, dtype))


def forward_cpu(m, lambda_, bottom_data, label, weight, top_data, private) -> None:
    """Port of ``Forward_cpu``, after lambda is known.

    Args:
        m: the margin, 1 to 4.
        lambda_: in the arrays' dtype.
        bottom_data: features, (M, K).
        label: (M,), truncated to int.
        weight: (N, K); left alone.
        top_data: written, (M, N).
        private: `PrivateBlobs` of M x N; written.

    All arrays are C-contiguous and of one dtype, float32 or float64; labels lie in [0, N).
    """
    (M_, _), N_ = bottom_data.shape, weight.shape[0]
    Dtype = bottom_data.dtype.type
    cos_theta = private.cos_theta

    # /* common variables */ x_norm_ = |x|, w_norm_ = |w|
    row_norms(bottom_data, private.x_norm)
    row_norms(weight, private.w_norm)
    # xw_norm_product_ = |x| |w| + 1e-9
    xw_norm_product = np.empty_like(cos_theta)
    caffe_cpu_gemm(
        1, private.x_norm[:, None], private.w_norm[None], 0, xw_norm_product.reshape(M_, N_)
    )
    # cos_theta = x'w / xw_norm_product_
    caffe_cpu_gemm(1, bottom_data, weight.T, 0, cos_theta.reshape(M_, N_))
    caffe_add_scalar(Dtype(0.000000001), xw_norm_product)
    caffe_div(cos_theta, xw_norm_product, cos_theta)
    # sign_0 = sign(cos_theta)
    caffe_cpu_sign(cos_theta, private.sign_0)
    optional_variables(m, private)

    # /* Forward */
    caffe_cpu_gemm(1, bottom_data, weight.T, 0, top_data)
    if m == 1:
        return
    _label_top_data(m, label, xw_norm_product, private, top_data)
    # + lambda * x'w
    caffe_cpu_gemm(lambda_, bottom_data, weight.T, 1, top_data)
    # * 1 / (1 + lambda)
    caffe_scal(Dtype(1) / (Dtype(1) + lambda_), top_data.reshape(-1))


@compiled()
def _label_top_data(m, label, xw_norm_product, p, top_data):
    """Write the label[i]_th output."""
    Dtype = top_data.dtype.type
    N_ = top_data.shape[1]
    for i in range(label.size):
        label_value = int(label[i])
        index = i * N_ + label_value
        if m == 2:
            # xw_norm_product * (2 * sign_0 * cos_theta_quadratic - 1)
            top_data[i, label_value] = xw_norm_product[index] * (
                Dtype(2) * p.sign_0[index] * p.cos_theta_quadratic[index] - Dtype(1)
            )
        elif m == 3:
            # xw_norm_product * (sign_1 * (4 * cos_theta_cubic - 3 * cos_theta) + sign_2)
            top_data[i, label_value] = xw_norm_product[index] * (
                p.sign_1[index]
                * (Dtype(4) * p.cos_theta_cubic[index] - Dtype(3) * p.cos_theta[index])
                + p.sign_2[index]
            )
        elif m == 4:
            # xw_norm_product * (sign_3 * (8 * cos_theta_quartic - 8 * cos_theta_quadratic + 1)
            #                    + sign_4)
            top_data[i, label_value] = xw_norm_product[index] * (
                p.sign_3[index]
                * (
                    Dtype(8) * p.cos_theta_quartic[index]
                    - Dtype(8) * p.cos_theta_quadratic[index]
                    + Dtype(1)
                )
                + p.sign_4[index]
            )


def backward_cpu(
    call: Call,
    private: PrivateBlobs,
    top_diff: FloatArray,
    weight_diff: FloatArray | None,
    bottom_diff: FloatArray | None,
) -> None:
    """Port of ``Backward_cpu``, with the rules that Caffe lacks beside the exact one.

    Args:
        call: the Forward.
        private: as Forward left it; left alone.
        top_diff: (M, N).
        weight_diff: added to, (N, K); None stands for a false ``param_propagate_down_[0]``.
        bottom_diff: set, (M, K); None stands for a false ``propagate_down[0]``.
    """
    m, lambda_, rule = call.m, call.lambda_, call.rule
    bottom_data, weight, label = call.x, call.weight, call.label
    Dtype = bottom_data.dtype.type

    # inv_w_norm_ = 1 / (w_norm_ + 1e-9), xw_norm_ratio_ = |x| inv_w_norm_
    w_norm, inv_w_norm = private.w_norm.copy(), np.empty_like(private.w_norm)
    caffe_add_scalar(Dtype(0.000000001), w_norm)
    caffe_set(Dtype(1), inv_w_norm)
    caffe_div(inv_w_norm, w_norm, inv_w_norm)
    xw_norm_ratio = np.empty_like(top_diff)
    caffe_cpu_gemm(1, private.x_norm[:, None], inv_w_norm[None], 0, xw_norm_ratio)

    coeff = np.empty((2, len(bottom_data)), bottom_data.dtype)

    # Gradient with respect to weight
    if weight_diff is not None and m == 1:
        caffe_cpu_gemm(1, top_diff.T, bottom_data, 1, weight_diff)
    elif weight_diff is not None:
        detached = rule.detached_in_weight
        normalized = rule.normalized_coefficients and not detached
        _coefficients(m, detached, normalized, label, xw_norm_ratio, private, *coeff)
        if rule.no_projection:
            coeff[1] = 0
        _weight_diff(
            label, lambda_, *coeff, xw_norm_ratio, bottom_data, weight, top_diff, weight_diff
        )
        # + lambda/(1 + lambda) * x
        caffe_cpu_gemm(lambda_ / (Dtype(1) + lambda_), top_diff.T, bottom_data, 1, weight_diff)

    # Gradient with respect to bottom data
    if bottom_diff is not None:
        caffe_set(Dtype(0), bottom_diff.reshape(-1))
        if m == 1:
            caffe_cpu_gemm(1, top_diff, weight, 0, bottom_diff)
            return
        detached, normalized = rule.detached_in_bottom, rule.normalized_coefficients
        _coefficients(m, detached, normalized, label, xw_norm_ratio, private, *coeff)
        _bottom_diff(
            label, lambda_, *coeff, xw_norm_ratio, bottom_data, weight, top_diff, bottom_diff
        )
        # + lambda/(1 + lambda) * w
        caffe_cpu_gemm(lambda_ / (Dtype(1) + lambda_), top_diff, weight, 1, bottom_diff)


@compiled()
def _coefficients(m, detached, normalized, label, xw_norm_ratio, p, turn, along):
    """Write what C++ finds in its loops: psi', and c psi' - psi, of each sample's own class."""
    Dtype = turn.dtype.type
    N_ = xw_norm_ratio.shape[1]
    for i in range(label.size):
        label_value = int(label[i])
        index = i * N_ + label_value
        if m == 2:
            # 4 * sign_0 * cos_theta
            turn[i] = Dtype(4) * p.sign_0[index] * p.cos_theta[index]
            # 2 * sign_0 * cos_theta_quadratic + 1
            along[i] = Dtype(2) * p.sign_0[index] * p.cos_theta_quadratic[index] + Dtype(1)
        elif m == 3:
            # sign_1 * (12 * cos_theta_quadratic - 3)
            turn[i] = p.sign_1[index] * (Dtype(12) * p.cos_theta_quadratic[index] - Dtype(3))
            # 8 * sign_1 * cos_theta_cubic - sign_2
            along[i] = Dtype(8) * p.sign_1[index] * p.cos_theta_cubic[index] - p.sign_2[index]
        else:
            # sign_3 * (32 * cos_theta_cubic - 16 * cos_theta)
            turn[i] = p.sign_3[index] * (
                Dtype(32) * p.cos_theta_cubic[index] - Dtype(16) * p.cos_theta[index]
            )
            # sign_3 * (24 * cos_theta_quartic - 8 * cos_theta_quadratic - 1) - sign_4
            along[i] = (
                p.sign_3[index]
                * (
                    Dtype(24) * p.cos_theta_quartic[index]
                    - Dtype(8) * p.cos_theta_quadratic[index]
                    - Dtype(1)
                )
                - p.sign_4[index]
            )
        if detached:
            # c psi' - psi with psi' = 1
            along[i] += (Dtype(1) - turn[i]) * p.cos_theta[index]
            turn[i] = Dtype(1)
        if normalized:
            coeff_x = along[i] / xw_norm_ratio[i, label_value]
            coeff_norm = np.sqrt(turn[i] * turn[i] + coeff_x * coeff_x)
            turn[i] /= coeff_norm
            along[i] /= coeff_norm


@compiled()
def _weight_diff(
    label, lambda_, turn, along, xw_norm_ratio, bottom_data, weight, top_diff, weight_diff
):
    one = bottom_data.dtype.type(1)
    for i in range(weight.shape[0]):
        for j in range(label.size):
            label_value = int(label[j])
            scale = one / (one + lambda_) * top_diff[j, i]
            if label_value != i:
                # 1 / (1 + lambda) * x
                caffe_cpu_axpby(scale, bottom_data[j], one, weight_diff[i])
            else:
                caffe_cpu_axpby(scale * turn[j], bottom_data[j], one, weight_diff[i])
                # -xw_norm_ratio * (c psi' - psi) * w
                caffe_cpu_axpby(
                    scale * -xw_norm_ratio[j, i] * along[j], weight[i], one, weight_diff[i]
                )


@compiled()
def _bottom_diff(
    label, lambda_, turn, along, xw_norm_ratio, bottom_data, weight, top_diff, bottom_diff
):
    one = bottom_data.dtype.type(1)
    for i in range(label.size):
        label_value = int(label[i])
        for j in range(weight.shape[0]):
            scale = one / (one + lambda_) * top_diff[i, j]
            if label_value != j:
                # 1 / (1 + lambda) * w
                caffe_cpu_axpby(scale, weight[j], one, bottom_diff[i])
            else:
                caffe_cpu_axpby(scale * turn[i], weight[j], one, bottom_diff[i])
                # 1 / -xw_norm_ratio * (c psi' - psi) * x
                caffe_cpu_axpby(
                    scale / -xw_norm_ratio[i, j] * along[i], bottom_data[i], one, bottom_diff[i]
                )


@dataclass(frozen=True)
class Saved:
    """What Backward needs of its Forward.

    Attributes:
        call: the Forward; its weight is read again, as in C++.
        private: the C++ layer's private blobs.
    """

    call: Call
    private: PrivateBlobs


def forward(call: Call, top: FloatArray) -> Saved:
    """Write the output by `forward_cpu`, as `caffe_margin.kernels.fused_large_margin.forward`."""
    private = PrivateBlobs.reshape(call.m, len(call.x), len(call.weight), call.x.dtype)
    forward_cpu(call.m, call.lambda_, call.x, call.label, call.weight, top, private)
    return Saved(call, private)


def backward(
    saved: Saved,
    top_diff: FloatArray,
    weight_diff: FloatArray | None,
    bottom_diff: FloatArray | None,
) -> None:
    """Add to ``weight_diff``, set ``bottom_diff`` by `backward_cpu`; None leaves either out."""
    backward_cpu(saved.call, saved.private, top_diff, weight_diff, bottom_diff)
