"""Recurrent layers, unrolled over their timesteps as Caffe's are."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.nets.shapes import LayerShapes
from caffe_margin.torch.layers.layer import Layer


class LSTMUnit(Layer):
    """One timestep of an LSTM: the cell and what it puts out, from gates that are summed up."""

    def forward(self, cell: Tensor, gates: Tensor, cont: Tensor) -> tuple[Tensor, Tensor]:
        """Source: LSTMUnitLayer."""
        return lstm_unit(cell, gates, cont)


def lstm_unit(cell: Tensor, gates: Tensor, cont: Tensor) -> tuple[Tensor, Tensor]:
    """Return the next cell and hidden state.

    Args:
        cell: (1, N, H).
        gates: (1, N, 4H), in the order input, forget, output, input modulation.
        cont: (1, N), 0 where a sequence begins; it gets no gradient.
    """
    i, f, o, g = gates.chunk(4, dim=2)
    forget = _ForgetGate.apply(f, cont.detach()[..., None])
    cell = forget * cell + torch.sigmoid(i) * torch.tanh(g)
    return cell, torch.sigmoid(o) * torch.tanh(cell)


class _ForgetGate(torch.autograd.Function):
    """cont * sigmoid(x), f, with Caffe's gradient: f (1 - f).

    Autograd's is cont * sigmoid(x) * (1 - sigmoid(x)), which is the same where cont is 0 or 1.
    Source: LSTMUnitLayer::Backward_cpu.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, cont: Tensor) -> Tensor:
        return cont * torch.sigmoid(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Any) -> None:
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx: Any, diff: Tensor) -> tuple[Tensor, None]:
        (forget,) = ctx.saved_tensors
        return diff * forget * (1 - forget), None


class Recurrent(Layer):
    """Base of RNN and LSTM. Bottoms are (T, N, ...), (T, N) and, where there is one, (N, ...).

    The state after the last timestep is the next Forward's first, where ``expose_hidden`` does
    not hand it in and out as blobs; it begins with zeros, and is in no file of weights. No
    gradient goes through it in either case: Caffe cannot go back across batches.

    Attributes:
        states: the names of its states.
    """

    states: tuple[str, ...]

    def __init__(self, layer: pb.LayerParameter, shapes: LayerShapes) -> None:
        super().__init__(layer, shapes)
        param = layer.recurrent_param
        self.expose_hidden = param.expose_hidden
        exposed = len(self.states) if self.expose_hidden else 0
        self.static = len(layer.bottom) > 2 + exposed
        # RecurrentLayer::Backward_cpu goes back to them whatever propagate_down says.
        self.unasked = (0, 2) if self.static else (0,)
        self.num_output = param.num_output
        for name, shape in zip(self.names(), shapes.params, strict=True):
            # A matrix has two axes, a bias one.
            filler = param.weight_filler if len(shape) == 2 else param.bias_filler
            self.add_blob(name, shape, filler)
        if not self.expose_hidden:
            streams = (shapes.bottoms[layer.bottom[1]] or (0, 0))[1] or 0
            for name in self.states:
                state = torch.zeros(1, streams, param.num_output)
                self.register_buffer(name, state, persistent=False)

    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """Return the names of the blobs, in Caffe's order."""

    @abstractmethod
    def step(
        self, x: Tensor, cont: Tensor, states: tuple[Tensor, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return a timestep's output and states.

        Args:
            x: what comes from the bottoms, through their weights, (1, N, ...).
            cont: (1, N).
            states: each (1, N, num_output).
        """

    @abstractmethod
    def transform(self, x: Tensor, static: Tensor | None) -> Tensor:
        """Return the bottoms through their weights, all timesteps at once."""

    def forward(self, x: Tensor, cont: Tensor, *others: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Source: RecurrentLayer."""
        if cont.shape != x.shape[:2]:
            raise ValueError("the first two bottoms must be (T, N, ...) and (T, N)")
        cont = cont.detach()
        static = others[0].flatten(1) if self.static else None
        if self.expose_hidden:
            states = tuple(state.detach() for state in others[self.static :])
        else:
            states = tuple(self._kept(name, x.shape[1]) for name in self.states)
        transformed = self.transform(x.flatten(2), static)
        outputs = []
        for t in range(x.shape[0]):
            output, states = self.step(transformed[t : t + 1], cont[t : t + 1], states)
            outputs.append(output)
        top = torch.cat(outputs)
        ends = tuple(state.detach() for state in states)
        if self.expose_hidden:
            return top, *ends
        for name, end in zip(self.states, ends, strict=True):
            setattr(self, name, end)
        return top

    def _kept(self, name: str, streams: int) -> Tensor:
        """Return a state of the Forward before; of other streams than then, zeros.

        Fewer streams are the first ones, as in Caffe, whose blob keeps its memory.
        """
        state: Tensor = getattr(self, name)
        if state.shape[1] < streams:
            return state.new_zeros(1, streams, self.num_output)
        return state[:, :streams]


class RNN(Recurrent):
    """h_t = tanh(W_hh h_(t-1) + W_xh x_t + b_h), and tanh(W_ho h_t + b_o) of it."""

    states = ("h",)
    W_xh: Tensor
    b_h: Tensor
    W_xh_static: Tensor
    W_hh: Tensor
    W_ho: Tensor
    b_o: Tensor

    def names(self) -> tuple[str, ...]:
        """Source: RNNLayer::FillUnrolledNet."""
        static = ("W_xh_static",) if self.static else ()
        return ("W_xh", "b_h", *static, "W_hh", "W_ho", "b_o")

    def transform(self, x: Tensor, static: Tensor | None) -> Tensor:
        """W_xh x + b_h, and W_xh_static x_static."""
        x = F.linear(x, self.W_xh, self.b_h)
        return x if static is None else x + F.linear(static, self.W_xh_static)

    def step(
        self, x: Tensor, cont: Tensor, states: tuple[Tensor, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Source: RNNLayer::FillUnrolledNet."""
        (h,) = states
        h = torch.tanh(F.linear(cont[..., None] * h, self.W_hh) + x)
        return torch.tanh(F.linear(h, self.W_ho, self.b_o)), (h,)


class LSTM(Recurrent):
    """Long short-term memory, without peepholes."""

    states = ("h", "c")
    W_xc: Tensor
    b_c: Tensor
    W_xc_static: Tensor
    W_hc: Tensor

    def names(self) -> tuple[str, ...]:
        """Source: LSTMLayer::FillUnrolledNet."""
        static = ("W_xc_static",) if self.static else ()
        return ("W_xc", "b_c", *static, "W_hc")

    def transform(self, x: Tensor, static: Tensor | None) -> Tensor:
        """W_xc x + b_c, and W_xc_static x_static."""
        x = F.linear(x, self.W_xc, self.b_c)
        return x if static is None else x + F.linear(static, self.W_xc_static)

    def step(
        self, x: Tensor, cont: Tensor, states: tuple[Tensor, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Source: LSTMLayer::FillUnrolledNet."""
        h, c = states
        gates = F.linear(cont[..., None] * h, self.W_hc) + x
        c, h = lstm_unit(c, gates, cont)
        return h, (h, c)
