"""Forward_cpu and Backward_cpu of MarginInnerProductLayer, statement by statement.

Ported from wy1iu/sphereface, tools/caffe-sphereface/src/caffe/layers/
margin_inner_product_layer.cpp (MIT, Weiyang Liu and Yandong Wen). Variables keep their C++ names
and, as in C++, a blob's data is one flat array: element (i, j) of an M x N blob is ``i * N_ + j``.
Matrix products go to BLAS through numpy; every other loop is compiled by numba. C++ switches on
the margin type; here ``m`` is the margin itself: SINGLE, DOUBLE, TRIPLE, QUADRUPLE are 1, 2, 3, 4.

What Caffe lacks, the rules other than the authors', is `_add_weight_gradient` and the ``detached``
of `_coefficients`, which `backward_cpu` reaches only where a rule asks for them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from caffe_margin.kernels.caffe_math import (
    caffe_abs,
    caffe_add,
    caffe_add_scalar,
    caffe_copy,
    caffe_cpu_axpby,
    caffe_cpu_dot,
    caffe_cpu_gemm,
    caffe_cpu_sign,
    caffe_mul,
    caffe_powx,
    caffe_scal,
    caffe_set,
    compiled,
)
from caffe_margin.kernels.call import Call
from caffe_margin.maths.arrays import FloatArray


class PrivateBlobs(NamedTuple):
    """The C++ layer's private blobs, flat; one that the margin does not need is empty."""

    x_norm: FloatArray
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
        """Port of the second half of ``Reshape``: x_norm has M elements, the others M N."""
        blobs = {"x_norm": np.empty(M_, dtype)} | optional_blobs(m, M_ * N_, dtype)
        return cls(**blobs)


def optional_blobs(m: int, count: int, dtype: np.dtype[np.floating]) -> dict[str, FloatArray]:
    """Return the blobs of cos_theta, its powers and signs by name; empty where m needs none."""
    needed = {
        "cos_theta": True,
        "cos_theta_quadratic": m >= 2,
        "cos_theta_cubic": m >= 3,
        "cos_theta_quartic": m == 4,
        "sign_0": True,
        "sign_1": m == 3,
        "sign_2": m == 3,
        "sign_3": m == 4,
        "sign_4": m == 4,
    }
    return {name: np.empty(count if is_needed else 0, dtype) for name, is_needed in needed.items()}


def forward_cpu(m, lambda_, bottom_data, label, weight, top_data, private) -> None:
    """Port of ``Forward_cpu``, after lambda is known.

    Args:
        m: the margin, 1 to 4.
        lambda_: in the arrays' dtype.
        bottom_data: features, (M, K).
        label: (M,), truncated to int.
        weight: (N, K); its rows are normalised in place.
        top_data: written, (M, N).
        private: `PrivateBlobs` of M x N; written.

    All arrays are C-contiguous and of one dtype, float32 or float64; labels lie in [0, N).
    """
    (M_, _), N_ = bottom_data.shape, weight.shape[0]
    Dtype = bottom_data.dtype.type
    cos_theta = private.cos_theta

    # /* normalize weight */
    _normalize_weight(weight)

    # /* common variables */ x_norm_ = |x|
    row_norms(bottom_data, private.x_norm)
    # cos_theta = x'w/|x|
    caffe_cpu_gemm(1, bottom_data, weight.T, 0, cos_theta.reshape(M_, N_))
    _divide_rows(private.x_norm, cos_theta.reshape(M_, N_))
    # sign_0 = sign(cos_theta)
    caffe_cpu_sign(cos_theta, private.sign_0)

    # /* optional variables */
    optional_variables(m, private)

    # /* Forward */
    caffe_cpu_gemm(1, bottom_data, weight.T, 0, top_data)
    if m == 1:
        return
    _label_top_data(m, label, private, top_data)
    # + lambda * x'w
    caffe_cpu_gemm(lambda_, bottom_data, weight.T, 1, top_data)
    # * 1 / (1 + lambda)
    caffe_scal(Dtype(1) / (Dtype(1) + lambda_), top_data.reshape(-1))


def optional_variables(m, private) -> None:
    """Write the powers of cos_theta and the signs that the margin needs; L-Softmax's are these."""
    Dtype = private.cos_theta.dtype.type
    cos_theta = private.cos_theta
    sign_0, sign_1, sign_2 = private.sign_0, private.sign_1, private.sign_2
    sign_3, sign_4 = private.sign_3, private.sign_4
    if m == 2:
        # cos_theta_quadratic
        caffe_powx(cos_theta, Dtype(2), private.cos_theta_quadratic)
    elif m == 3:
        # cos_theta_quadratic && cos_theta_cubic
        caffe_powx(cos_theta, Dtype(2), private.cos_theta_quadratic)
        caffe_powx(cos_theta, Dtype(3), private.cos_theta_cubic)
        # sign_1 = sign(abs(cos_theta) - 0.5)
        caffe_abs(cos_theta, sign_1)
        caffe_add_scalar(-Dtype(0.5), sign_1)
        caffe_cpu_sign(sign_1, sign_1)
        # sign_2 = sign_0 * (1 + sign_1) - 2
        caffe_copy(sign_1, sign_2)
        caffe_add_scalar(Dtype(1), sign_2)
        caffe_mul(sign_0, sign_2, sign_2)
        caffe_add_scalar(-Dtype(2), sign_2)
    elif m == 4:
        # cos_theta_quadratic && cos_theta_cubic && cos_theta_quartic
        caffe_powx(cos_theta, Dtype(2), private.cos_theta_quadratic)
        caffe_powx(cos_theta, Dtype(3), private.cos_theta_cubic)
        caffe_powx(cos_theta, Dtype(4), private.cos_theta_quartic)
        # sign_3 = sign_0 * sign(2 * cos_theta_quadratic_ - 1)
        caffe_copy(private.cos_theta_quadratic, sign_3)
        caffe_scal(Dtype(2), sign_3)
        caffe_add_scalar(Dtype(-1), sign_3)
        caffe_cpu_sign(sign_3, sign_3)
        caffe_mul(sign_0, sign_3, sign_3)
        # sign_4 = 2 * sign_0 + sign_3 - 3
        caffe_copy(sign_0, sign_4)
        caffe_scal(Dtype(2), sign_4)
        caffe_add(sign_4, sign_3, sign_4)
        caffe_add_scalar(-Dtype(3), sign_4)


@compiled()
def _normalize_weight(norm_weight):
    one = norm_weight.dtype.type(1)
    for i in range(norm_weight.shape[0]):
        temp_norm = caffe_cpu_dot(norm_weight[i], norm_weight[i])
        temp_norm = one / np.sqrt(temp_norm)
        caffe_scal(temp_norm, norm_weight[i])


@compiled()
def row_norms(rows, norms):
    """Write the length of each row."""
    for i in range(rows.shape[0]):
        norms[i] = np.sqrt(caffe_cpu_dot(rows[i], rows[i]))


@compiled()
def _divide_rows(x_norm_data, cos_theta_data):
    one = x_norm_data.dtype.type(1)
    for i in range(x_norm_data.size):
        caffe_scal(one / x_norm_data[i], cos_theta_data[i])


@compiled()
def _label_top_data(m, label, p, top_data):
    """Write the label[i]_th output."""
    Dtype = top_data.dtype.type
    N_ = top_data.shape[1]
    for i in range(label.size):
        label_value = int(label[i])
        index = i * N_ + label_value
        if m == 2:
            # |x| * (2 * sign_0 * cos_theta_quadratic - 1)
            top_data[i, label_value] = p.x_norm[i] * (
                Dtype(2) * p.sign_0[index] * p.cos_theta_quadratic[index] - Dtype(1)
            )
        elif m == 3:
            # |x| * (sign_1 * (4 * cos_theta_cubic - 3 * cos_theta) + sign_2)
            top_data[i, label_value] = p.x_norm[i] * (
                p.sign_1[index]
                * (Dtype(4) * p.cos_theta_cubic[index] - Dtype(3) * p.cos_theta[index])
                + p.sign_2[index]
            )
        elif m == 4:
            # |x| * (sign_3 * (8 * cos_theta_quartic - 8 * cos_theta_quadratic + 1) + sign_4)
            top_data[i, label_value] = p.x_norm[i] * (
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
    weight: FloatArray,
    private: PrivateBlobs,
    top_diff: FloatArray,
    weight_diff: FloatArray | None,
    bottom_diff: FloatArray | None,
) -> None:
    """Port of ``Backward_cpu``, with the rules that Caffe lacks beside the authors'.

    Args:
        call: the Forward.
        weight: normalised, (N, K), as Forward left it.
        private: as Forward left it.
        top_diff: (M, N).
        weight_diff: added to, (N, K); None stands for a false ``param_propagate_down_[0]``.
        bottom_diff: set, (M, K); None stands for a false ``propagate_down[0]``.
    """
    m, lambda_, rule = call.m, call.lambda_, call.rule
    bottom_data, label = call.x, call.label
    Dtype = bottom_data.dtype.type
    normalized = rule.normalized_coefficients
    coeff_w, coeff_x = np.ones_like(private.x_norm), np.zeros_like(private.x_norm)
    if m != 1:
        _coefficients(m, False, normalized, label, len(weight), private, coeff_w, coeff_x)

    # Gradient with respect to weight
    if weight_diff is not None:
        if rule.detached_in_weight and rule.no_projection:
            caffe_cpu_gemm(1, top_diff.T, bottom_data, 1, weight_diff)
        else:
            _add_weight_gradient(call, coeff_w, weight, top_diff, weight_diff)

    # Gradient with respect to bottom data
    if bottom_diff is not None:
        caffe_set(Dtype(0), bottom_diff.reshape(-1))
        if m == 1:
            caffe_cpu_gemm(1, top_diff, weight, 0, bottom_diff)
            return
        if rule.detached_in_bottom:
            _coefficients(m, True, normalized, label, len(weight), private, coeff_w, coeff_x)
        _bottom_diff(label, lambda_, coeff_w, coeff_x, bottom_data, weight, top_diff, bottom_diff)
        # + lambda/(1 + lambda) * w
        caffe_cpu_gemm(lambda_ / (Dtype(1) + lambda_), top_diff, weight, 1, bottom_diff)


@compiled()
def _coefficients(m, detached, normalized, label, N_, p, coeff_w_data, coeff_x_data):
    """Write coeff_w and coeff_x of each sample's own class, which C++ finds in the loop over j."""
    Dtype = coeff_w_data.dtype.type
    for i in range(label.size):
        index = i * N_ + int(label[i])
        if m == 2:
            # 4 * sign_0 * cos_theta * w
            coeff_w = Dtype(4) * p.sign_0[index] * p.cos_theta[index]
            # 1 / (-|x|) * (2 * sign_0 * cos_theta_quadratic + 1) * x
            coeff_x = (Dtype(1) / -p.x_norm[i]) * (
                Dtype(2) * p.sign_0[index] * p.cos_theta_quadratic[index] + Dtype(1)
            )
        elif m == 3:
            # sign_1 * (12 * cos_theta_quadratic - 3) * w
            coeff_w = p.sign_1[index] * (Dtype(12) * p.cos_theta_quadratic[index] - Dtype(3))
            # 1 / (-|x|) * (8 * sign_1 * cos_theta_cubic - sign_2) * x
            coeff_x = (Dtype(1) / -p.x_norm[i]) * (
                Dtype(8) * p.sign_1[index] * p.cos_theta_cubic[index] - p.sign_2[index]
            )
        else:
            # sign_3 * (32 * cos_theta_cubic - 16 * cos_theta) * w
            coeff_w = p.sign_3[index] * (
                Dtype(32) * p.cos_theta_cubic[index] - Dtype(16) * p.cos_theta[index]
            )
            # 1 / (-|x|) * (sign_3 * (24 * cos_theta_quartic - 8 * cos_theta_quadratic - 1)
            #               - sign_4) * x
            coeff_x = (Dtype(1) / -p.x_norm[i]) * (
                p.sign_3[index]
                * (
                    Dtype(24) * p.cos_theta_quartic[index]
                    - Dtype(8) * p.cos_theta_quadratic[index]
                    - Dtype(1)
                )
                - p.sign_4[index]
            )
        if detached:
            # coeff_x is (psi - cos psi')/|x| in all of the above; with psi' = 1, (psi - cos)/|x|
            coeff_x += (coeff_w - Dtype(1)) * p.cos_theta[index] / p.x_norm[i]
            coeff_w = Dtype(1)
        if normalized:
            coeff_norm = np.sqrt(coeff_w * coeff_w + coeff_x * coeff_x)
            coeff_w = coeff_w / coeff_norm
            coeff_x = coeff_x / coeff_norm
        coeff_w_data[i] = coeff_w
        coeff_x_data[i] = coeff_x


@compiled()
def _bottom_diff(label, lambda_, coeff_w, coeff_x, bottom_data, weight, top_diff, bottom_diff):
    one = bottom_data.dtype.type(1)
    for i in range(label.size):
        label_value = int(label[i])
        for j in range(weight.shape[0]):
            if label_value != j:
                # 1 / (1 + lambda) * w
                caffe_cpu_axpby(
                    one / (one + lambda_) * top_diff[i, j], weight[j], one, bottom_diff[i]
                )
            else:
                caffe_cpu_axpby(
                    one / (one + lambda_) * top_diff[i, j] * coeff_w[i],
                    weight[j],
                    one,
                    bottom_diff[i],
                )
                caffe_cpu_axpby(
                    one / (one + lambda_) * top_diff[i, j] * coeff_x[i],
                    bottom_data[i],
                    one,
                    bottom_diff[i],
                )


def _add_weight_gradient(
    call: Call,
    coeff_w: FloatArray,
    weight: FloatArray,
    top_diff: FloatArray,
    weight_diff: FloatArray,
) -> None:
    """Add the weight's gradient under a rule that Caffe lacks.

    G_j = sum_i g_ij c_ij x_i with c_iy = (coeff_w + lambda) / (1 + lambda) where the rule has the
    margin, and 1 elsewhere; then W.diff_j += G_j, or (G_j - (w_j . G_j) w_j) / |w_j| where the
    rule has the projection, with w_j of unit length.
    """
    g = top_diff
    if not call.rule.detached_in_weight:
        # At m = 1 the caller's coeff_w is 1, and so is the factor.
        g = top_diff.copy()
        factor = (coeff_w + call.lambda_) / (1 + call.lambda_)
        g[np.arange(call.label.size), call.label] *= factor
    gradient = np.matmul(g.T, call.x)
    if not call.rule.no_projection:
        gradient -= np.einsum("jk,jk->j", weight, gradient)[:, None] * weight
        gradient /= call.weight_norm[:, None]
    weight_diff += gradient


@dataclass(frozen=True)
class Saved:
    """What Backward needs of its Forward.

    Attributes:
        call: the Forward.
        unit: the weight as Forward normalised it, (N, K).
        private: the C++ layer's private blobs.
    """

    call: Call
    unit: FloatArray
    private: PrivateBlobs


def forward(call: Call, top: FloatArray) -> Saved:
    """Write the output by `forward_cpu`, as `caffe_margin.kernels.fused.forward`."""
    # The port normalises in place; what the caller stores changes last, and only as the rule says.
    unit = call.weight.copy()
    private = PrivateBlobs.reshape(call.m, len(call.x), len(unit), call.x.dtype)
    forward_cpu(call.m, call.lambda_, call.x, call.label, unit, top, private)
    if call.rule.no_projection:
        call.weight[...] = unit
        unit = call.weight
    return Saved(call, unit, private)


def backward(
    saved: Saved,
    top_diff: FloatArray,
    weight_diff: FloatArray | None,
    bottom_diff: FloatArray | None,
) -> None:
    """Add to ``weight_diff``, set ``bottom_diff`` by `backward_cpu`; None leaves either out."""
    backward_cpu(saved.call, saved.unit, saved.private, top_diff, weight_diff, bottom_diff)
