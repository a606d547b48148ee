"""Layers that multiply by a matrix of weights: inner products, embeddings, recurrent layers."""

from __future__ import annotations

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.nets.margin import margin_param
from caffe_margin.nets.rules.algebra import (
    Blobs,
    Shape,
    agree,
    alike,
    canonical_axis,
    check,
    count,
    differ,
    legacy,
    multiply,
    show,
)


def inner_product(layer: pb.LayerParameter, bottoms: list[Shape]) -> Blobs:
    """InnerProductLayer::LayerSetUp and Reshape."""
    param, bottom = layer.inner_product_param, bottoms[0]
    n, axis = param.num_output, canonical_axis(bottom, param.axis)
    check(n > 0, "num_output must be positive")
    k = count(bottom[axis:])
    weight = (k, n) if param.transpose else (n, k)
    return [(*bottom[:axis], n)], [weight, (n,)] if param.bias_term else [weight]


def margin_inner_product(layer: pb.LayerParameter, bottoms: list[Shape]) -> Blobs:
    """MarginInnerProductLayer::LayerSetUp and Reshape; its ancestor of L-Softmax does the same."""
    param, (bottom, label) = margin_param(layer), bottoms
    n, axis = param.num_output, canonical_axis(bottom, param.axis)
    check(n > 0, "num_output must be positive")
    m = count(bottom[:axis])
    fits = agree(legacy(bottom)[0], legacy(label)[0]) and agree(m, count(label))
    check(fits, differ(layer, bottoms, 1, "there must be one label for each row"))
    return [(*bottom[:axis], n), (1,)], [(n, count(bottom[axis:]))]


def embed(layer: pb.LayerParameter, bottoms: list[Shape]) -> Blobs:
    """EmbedLayer::LayerSetUp and Reshape."""
    param = layer.embed_param
    n, k = param.num_output, param.input_dim
    check(n > 0 and k > 0, "num_output and input_dim must be positive")
    return [(*bottoms[0], n)], [(k, n), (n,)] if param.bias_term else [(k, n)]


def recurrent(layer: pb.LayerParameter, bottoms: list[Shape]) -> Blobs:
    """RecurrentLayer::LayerSetUp and Reshape, RNNLayer:: and LSTMLayer::FillUnrolledNet."""
    lstm = layer.type == "LSTM"
    param, (x, cont) = layer.recurrent_param, bottoms[:2]
    n, states = param.num_output, (2 if lstm else 1) * param.expose_hidden
    static = len(bottoms) - 2 - states
    check(n > 0, "num_output must be positive")
    check(
        static in (0, 1) and len(layer.top) == 1 + states,
        f"{2 + states} or {3 + states} bottoms and {1 + states} tops are needed",
    )
    check(len(x) >= 3, f"the first bottom must be (T, N, ...), and is {show(x)}")
    check(alike(x[:2], cont), differ(layer, bottoms, 1, "they must be (T, N, ...) and (T, N)"))
    gates, hidden = 4 * n if lstm else n, (1, x[1], n)
    params: list[Shape] = [(gates, count(x[2:])), (gates,)]
    if static:
        fixed = bottoms[2]
        fits = len(fixed) >= 2 and agree(fixed[0], x[1])
        check(fits, differ(layer, bottoms, 2, "they must be (T, N, ...) and (N, ...)"))
        params.append((gates, count(fixed[1:])))
    params.append((gates, n))
    if not lstm:
        params += [(n, n), (n,)]
    for i, state in enumerate(bottoms[2 + static :], 2 + static):
        rule = f"a hidden state must be {show(hidden)}"
        check(alike(state, hidden), differ(layer, bottoms, i, rule))
    return [(*x[:2], n)] + [hidden] * states, params


def lstm_unit(layer: pb.LayerParameter, bottoms: list[Shape]) -> Blobs:
    """LSTMUnitLayer::Reshape."""
    cell, gates, cont = bottoms
    check(len(cell) == 3, f"the first bottom must be (1, N, H), and is {show(cell)}")
    _, n, h = cell
    fits = alike(cell, (1, n, h)) and alike(gates, (1, n, multiply(h, 4))) and alike(cont, (1, n))
    shapes = ", ".join(map(show, bottoms))
    check(fits, f"the bottoms must be (1, N, H), (1, N, 4H) and (1, N), and are {shapes}")
    return [cell, cell], []
