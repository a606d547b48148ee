"""Ports of the functions in Caffe's util/math_functions that the layer calls.

Names, argument order and meaning are Caffe's; a C++ ``pointer + offset`` of length n becomes a
1-D slice, so the leading ``n`` is dropped. Arrays are float32 or float64, never mixed.

Ported from BVLC/caffe, src/caffe/util/math_functions.cpp (BSD-2-Clause).
"""

from __future__ import annotations

from contextlib import suppress

import numpy as np
from numba import njit
from numba.core.caching import FunctionCache

# Sums may be reordered, as BLAS reorders them; NaN and infinity keep their meaning.
FASTMATH = {"reassoc", "contract"}


class _Cache(FunctionCache):
    """Numba's cache of a function; a full disk or a damaged file costs time there, not the call."""

    def load_overload(self, sig, target_context):
        """Return the compiled function, or None where there is none or none that can be read."""
        try:
            return super().load_overload(sig, target_context)
        except Exception:  # a damaged pickle raises whatever its bytes happen to say
            with suppress(OSError):
                self.flush()
            return None

    def save_overload(self, sig, data):
        """Save the compiled function, where it can be."""
        with suppress(Exception):
            super().save_overload(sig, data)


def compiled(**options):
    """Return ``numba.njit`` with its result cached, or uncached where no folder can be written."""

    def decorate(function):
        dispatcher = njit(**options)(function)
        if dispatcher is not function:  # NUMBA_DISABLE_JIT gives the function back
            with suppress(RuntimeError):
                dispatcher._cache = _Cache(function)
        return dispatcher

    return decorate


@compiled(fastmath=FASTMATH)
def caffe_cpu_dot(x, y):
    """Return x . y."""
    total = x.dtype.type(0)
    for i in range(x.size):
        total += x[i] * y[i]
    return total


@compiled()
def caffe_scal(alpha, x):
    """Scale in place: x = alpha x."""
    for i in range(x.size):
        x[i] *= alpha


@compiled(fastmath=FASTMATH)
def caffe_cpu_axpby(alpha, x, beta, y):
    """Add in place: y = alpha x + beta y."""
    for i in range(x.size):
        y[i] = alpha * x[i] + beta * y[i]


@compiled()
def caffe_cpu_sign(x, y):
    """Write sign(x), with sign(0) = 0, to y."""
    for i in range(x.size):
        y[i] = int(x[i] > 0) - int(x[i] < 0)


@compiled()
def caffe_abs(x, y):
    """Write |x| to y."""
    for i in range(x.size):
        y[i] = abs(x[i])


@compiled()
def caffe_powx(a, b, y):
    """Write a to the power b to y."""
    for i in range(a.size):
        y[i] = a[i] ** b


@compiled()
def caffe_add_scalar(alpha, y):
    """Add alpha to y in place."""
    for i in range(y.size):
        y[i] += alpha


@compiled()
def caffe_add(a, b, y):
    """Write a + b to y."""
    for i in range(a.size):
        y[i] = a[i] + b[i]


@compiled()
def caffe_mul(a, b, y):
    """Write a b, elementwise, to y."""
    for i in range(a.size):
        y[i] = a[i] * b[i]


@compiled()
def caffe_div(a, b, y):
    """Write a / b, elementwise, to y."""
    for i in range(a.size):
        y[i] = a[i] / b[i]


@compiled()
def caffe_copy(x, y):
    """Copy x to y."""
    y[:] = x


@compiled()
def caffe_set(alpha, y):
    """Fill y with alpha."""
    y[:] = alpha


def caffe_cpu_gemm(alpha, a, b, beta, c):
    """Write C = alpha A B + beta C over 2-D arrays, by the BLAS that numpy brings.

    Transposition is in the strides: pass ``a.T`` where Caffe passes CblasTrans.
    """
    if beta == 0:
        # BLAS does not read C then: what was in it, NaN too, is gone.
        np.matmul(a, b, out=c)
        if alpha != 1:
            c *= alpha
        return
    if beta != 1:
        c *= beta
    product = np.matmul(a, b)
    if alpha != 1:
        product *= alpha
    c += product
