"""PoolingLayer's Forward and Backward as Caffe writes them, a window at a time."""

import math

import numpy as np

LOWEST = -float(np.finfo(np.float32).max)


def sides(shape, kernel, stride, pad, floor=False):
    """Reshape: the height and the width of the top."""
    tops = []
    for side, k, s, p in zip(shape[2:], kernel, stride, pad, strict=True):
        rounded = math.floor if floor else math.ceil
        top = rounded((side + 2 * p - k) / s) + 1
        if any(pad) and (top - 1) * s >= side + p:
            top -= 1
        tops.append(top)
    return tops


def pool(method, bottom, top_diff, kernel, stride, pad, floor=False):
    """Return top, mask (of MAX), and the bottom's gradient from the top's (None for none)."""
    height, width = bottom.shape[2:]
    shape = (*bottom.shape[:2], *sides(bottom.shape, kernel, stride, pad, floor))
    top, mask = np.zeros(shape), np.full(shape, -1)
    bottom_diff = np.zeros(bottom.shape)
    for n, c, ph, pw in np.ndindex(shape):
        hstart, wstart = ph * stride[0] - pad[0], pw * stride[1] - pad[1]
        hend = min(hstart + kernel[0], height + pad[0])
        wend = min(wstart + kernel[1], width + pad[1])
        size = (hend - hstart) * (wend - wstart)
        hstart, wstart = max(hstart, 0), max(wstart, 0)
        hend, wend = min(hend, height), min(wend, width)
        places = [(h, w) for h in range(hstart, hend) for w in range(wstart, wend)]
        dy = 0 if top_diff is None else top_diff[n, c, ph, pw]
        if method == "MAX":
            best, at = LOWEST, None
            for place in places:
                if bottom[(n, c, *place)] > best:
                    best, at = bottom[(n, c, *place)], place
            top[n, c, ph, pw] = best
            if at:
                mask[n, c, ph, pw] = at[0] * width + at[1]
                bottom_diff[(n, c, *at)] += dy
        else:
            total = sum(bottom[(n, c, *place)] for place in places)
            top[n, c, ph, pw] = total / size if size else math.nan
            for place in places:
                bottom_diff[(n, c, *place)] += dy / size
    return top, mask, bottom_diff
