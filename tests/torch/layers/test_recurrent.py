"""Recurrent layers, against loops over time and streams as the C++ has them."""

import numpy as np
import pytest
import torch

from caffe_margin.torch.layers.recurrent import lstm_unit
from helpers.small_nets import inputs, layer, net

T, N, D, H = 4, 3, 2, 2
FILLERS = (
    "weight_filler { type: 'uniform' min: -1 max: 1 } bias_filler { type: 'uniform' max: 0.5 }"
)


def make(type_, static=False, exposed=False):
    states = {"RNN": 1, "LSTM": 2}[type_] if exposed else 0
    shapes = [(T, N, D), (T, N), *[(N, 3)] * static, *[(1, N, H)] * states]
    param = f"recurrent_param {{ num_output: {H} expose_hidden: {str(exposed).lower()} {FILLERS} }}"
    module = layer(type_, param, *shapes, tops=1 + states).double()
    module.fill(np.random.default_rng(0))
    return module


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def by_loop(module, x, cont, static=None, states=None):
    """RNNLayer:: and LSTMLayer::FillUnrolledNet, a stream and a timestep at a time."""
    blobs = [blob.detach().numpy() for blob in module.blobs]
    w_x, b, *rest = blobs
    w_static = rest.pop(0) if static is not None else None
    streams = x.shape[1]
    lstm = len(blobs) < 5
    h, c = states if states is not None else (np.zeros((streams, H)), np.zeros((streams, H)))
    h, c = h.copy(), c.copy()
    top = np.zeros((len(x), streams, H))
    for t in range(len(x)):
        for n in range(streams):
            gates = w_x @ x[t, n].ravel() + b
            if w_static is not None:
                gates = gates + w_static @ static[n].ravel()
            gates = gates + rest[0] @ (cont[t, n] * h[n])
            if lstm:
                i, f, o = (sigmoid(gates[k * H : (k + 1) * H]) for k in range(3))
                c[n] = cont[t, n] * f * c[n] + i * np.tanh(gates[3 * H :])
                h[n] = o * np.tanh(c[n])
                top[t, n] = h[n]
            else:
                h[n] = np.tanh(gates)
                top[t, n] = np.tanh(rest[1] @ h[n] + rest[2])
    return top, (h, c)


def draw(seed=0, steps=T, streams=N, features=(D,)):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((steps, streams, *features))
    cont = rng.integers(0, 2, (steps, streams)).astype(float)
    return x, cont, rng.standard_normal((streams, 3))


@pytest.mark.parametrize("type_", ["RNN", "LSTM"])
@pytest.mark.parametrize("with_static", [False, True])
def test_another_number_of_streams_and_steps(type_, with_static):
    module = make(type_, with_static)
    x, cont, static = draw(steps=6, streams=5)
    bottoms = [torch.from_numpy(a) for a in (x, cont, *[static] * with_static)]
    top, _ = by_loop(module, x, cont, static if with_static else None)
    np.testing.assert_allclose(module(*bottoms).detach(), top, rtol=1e-12)


@pytest.mark.parametrize("type_", ["RNN", "LSTM"])
def test_the_state_goes_on(type_):
    module = make(type_)
    states = None
    for seed, streams in [(0, 3), (1, 3), (2, 2)]:
        x, cont, _ = draw(seed, streams=streams)
        cont[0] = 1
        if states is not None:
            states = tuple(state[:streams] for state in states)
        top, states = by_loop(module, x, cont, states=states)
        computed = module(torch.from_numpy(x), torch.from_numpy(cont))
        np.testing.assert_allclose(computed.detach(), top, rtol=1e-12)
    # New streams have no state to go on from.
    x, cont, _ = draw(3, streams=4)
    top, _ = by_loop(module, x, cont)
    computed = module(torch.from_numpy(x), torch.from_numpy(cont))
    np.testing.assert_allclose(computed.detach(), top, rtol=1e-12)
    assert set(module.state_dict()) == set(module.names())


@pytest.mark.parametrize("type_", ["RNN", "LSTM"])
def test_exposed_states_pass_no_gradient(type_):
    module = make(type_, exposed=True)
    x, cont, _ = draw()
    count = len(module.states)
    given = [torch.randn(1, N, H, dtype=torch.float64, requires_grad=True) for _ in range(count)]
    arrays = [state.detach().numpy()[0] for state in given] * 2
    top, *ends = module(torch.from_numpy(x), torch.from_numpy(cont), *given)
    expected, states = by_loop(module, x, cont, states=tuple(arrays[:2]))
    np.testing.assert_allclose(top.detach(), expected, rtol=1e-12)
    for end, state in zip(ends, states, strict=False):
        np.testing.assert_allclose(end[0], state, rtol=1e-12)
        assert not end.requires_grad
    top.sum().backward()
    assert [state.grad for state in given] == [None] * count


@pytest.mark.parametrize("type_", ["RNN", "LSTM"])
def test_gradients(type_):
    module = make(type_, static=True)
    x, cont, static = (torch.from_numpy(a) for a in draw())
    cont[0] = 0  # or the state of the last Forward would come in

    def run(x, static):
        return module(x, cont, static)

    assert torch.autograd.gradcheck(run, (x.requires_grad_(), static.requires_grad_()))
    top_diff = torch.randn(T, N, H, dtype=torch.float64)
    for blob in module.blobs:
        (diff,) = torch.autograd.grad(run(x, static), blob, top_diff)
        at = tuple(int(i) for i in np.unravel_index(int(diff.abs().argmax()), diff.shape))
        step, sums = 1e-6, []
        for sign in (1, -1):
            with torch.no_grad():
                blob[at] += sign * step
                sums.append(float((run(x, static) * top_diff).sum()))
                blob[at] -= sign * step
        assert float(diff[at]) == pytest.approx((sums[0] - sums[1]) / (2 * step), rel=1e-6)


def unit_by_loop(cell, gates, cont, cell_diff, hidden_diff):
    """LSTMUnitLayer::Backward_cpu, of one stream."""
    i, f, o = (sigmoid(gates[k * H : (k + 1) * H]) for k in range(3))
    f = cont * f
    g = np.tanh(gates[3 * H :])
    tanh_c = np.tanh(f * cell + i * g)
    term = cell_diff + hidden_diff * o * (1 - tanh_c**2)
    parts = [
        term * g * i * (1 - i),
        term * cell * f * (1 - f),
        hidden_diff * tanh_c * o * (1 - o),
        term * i * (1 - g**2),
    ]
    return term * f, np.concatenate(parts)


def test_unit_with_a_fractional_cont():
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(shape) for shape in [(1, N, H), (1, N, 4 * H), (1, N, H)]]
    cell, gates, hidden_diff = (torch.from_numpy(a) for a in arrays)
    cont = torch.tensor([[0, 1, 0.5]], dtype=torch.float64, requires_grad=True)
    cell_diff = torch.ones_like(hidden_diff)
    module = layer("LSTMUnit", "", (1, N, H), (1, N, 4 * H), (1, N), tops=2)
    tops = module(cell.requires_grad_(), gates.requires_grad_(), cont)
    torch.autograd.backward(tops, [cell_diff, hidden_diff])
    assert cont.grad is None
    for n in range(N):
        expected = unit_by_loop(
            arrays[0][0, n], arrays[1][0, n], float(cont.detach()[0, n]), 1, arrays[2][0, n]
        )
        np.testing.assert_allclose(cell.grad[0, n], expected[0], rtol=1e-13)
        np.testing.assert_allclose(gates.grad[0, n], expected[1], rtol=1e-13)


def test_unit_is_its_gradient_where_cont_is_0_or_1():
    gates, cell = torch.randn(1, 2, 4 * H).double(), torch.randn(1, 2, H).double()
    cont = torch.tensor([[0.0, 1.0]]).double()
    bottoms = (cell.requires_grad_(), gates.requires_grad_(), cont)
    assert torch.autograd.gradcheck(lstm_unit, bottoms)
    assert torch.autograd.gradgradcheck(lstm_unit, bottoms)


def test_data_and_static_input_have_diffs_unasked():
    shapes = inputs(x=(T, N, D), cont=(T, N), s=(N, 3))
    text = shapes + (
        "layer { name: 'l' type: 'LSTM' bottom: 'x' bottom: 'cont' bottom: 's' top: 'y'"
        f" recurrent_param {{ num_output: {H} {FILLERS} }} }}"
    )
    x, cont, s = (torch.from_numpy(a).float() for a in draw())
    blobs = net(text)(x=x, cont=cont, s=s, keep="all")
    blobs["y"].sum().backward()
    assert blobs["x"].grad.any()
    assert blobs["s"].grad.any()
    assert blobs["cont"].grad is None


# PyTorch's own, when it compiles.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("type_", ["RNN", "LSTM"])
def test_compiles_with_its_state(type_):
    plain, compiled = make(type_), make(type_)
    x, cont, _ = (torch.from_numpy(a) for a in draw())
    cont[0] = 1
    run = torch.compile(compiled, fullgraph=True, backend="aot_eager")
    for _ in range(3):
        torch.testing.assert_close(run(x, cont), plain(x, cont))
    run(x, cont).sum().backward()
    plain(x, cont).sum().backward()
    for blob, other in zip(compiled.blobs, plain.blobs, strict=True):
        torch.testing.assert_close(blob.grad, other.grad)


@pytest.mark.parametrize("type_", ["RNN", "LSTM"])
@pytest.mark.parametrize("exposed", [False, True])
def test_exports(type_, exposed):
    plain, module = make(type_, exposed=exposed), make(type_, exposed=exposed)
    x, cont, _ = (torch.from_numpy(a) for a in draw())
    cont[0] = 1
    states = [torch.randn(1, N, H).double() for _ in module.states] * exposed
    program = torch.export.export(module, (x, cont, *states)).module()
    for _ in range(3):
        torch.testing.assert_close(program(x, cont, *states), plain(x, cont, *states))


def test_bottoms_that_disagree():
    module = make("RNN")
    with pytest.raises(ValueError, match=r"\(T, N, ...\) and \(T, N\)"):
        module(torch.zeros(T, N, D), torch.zeros(T, N + 1))
