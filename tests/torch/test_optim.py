"""The six optimizers against the update rules of Caffe's C++, written down again in numpy."""

import numpy as np
import pytest
import torch

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.torch import optim

LR, MOMENTUM, DELTA, DECAY, LR_MULT, DECAY_MULT = 0.07, 0.9, 1e-4, 0.02, 2.0, 0.5
STEPS = 5


class Rules:
    """ComputeUpdateValue of each solver for one blob: returns what is subtracted."""

    def __init__(self):
        self.h, self.h2, self.t = 0.0, 0.0, 0

    def sgd(self, g, lr):
        self.h = MOMENTUM * self.h + lr * g
        return self.h

    def nesterov(self, g, lr):
        old = self.h
        self.h = MOMENTUM * self.h + lr * g
        return (1 + MOMENTUM) * self.h - MOMENTUM * old

    def adagrad(self, g, lr):
        self.h = self.h + g**2
        return lr * g / (np.sqrt(self.h) + DELTA)

    def rmsprop(self, g, lr):
        self.h = 0.8 * self.h + (1 - 0.8) * g**2
        return lr * g / (np.sqrt(self.h) + DELTA)

    def adadelta(self, g, lr):
        self.h = MOMENTUM * self.h + (1 - MOMENTUM) * g**2
        update = g * np.sqrt((self.h2 + DELTA) / (self.h + DELTA))
        self.h2 = MOMENTUM * self.h2 + (1 - MOMENTUM) * update**2
        return lr * update

    def adam(self, g, lr):
        self.t += 1
        self.h = MOMENTUM * self.h + (1 - MOMENTUM) * g
        self.h2 = 0.95 * self.h2 + (1 - 0.95) * g**2
        correction = np.sqrt(1 - 0.95**self.t) / (1 - MOMENTUM**self.t)
        return lr * correction * self.h / (np.sqrt(self.h2) + DELTA)


OPTIMIZERS = {
    "sgd": (optim.SGD, {"momentum": MOMENTUM}),
    "nesterov": (optim.Nesterov, {"momentum": MOMENTUM}),
    "adagrad": (optim.AdaGrad, {"delta": DELTA}),
    "rmsprop": (optim.RMSProp, {"rms_decay": 0.8, "delta": DELTA}),
    "adadelta": (optim.AdaDelta, {"momentum": MOMENTUM, "delta": DELTA}),
    "adam": (optim.Adam, {"momentum": MOMENTUM, "momentum2": 0.95, "delta": DELTA}),
}


def draws():
    rng = np.random.default_rng(0)
    weights = [rng.standard_normal(shape) for shape in ((4, 3), (5,))]
    grads = [[rng.standard_normal(w.shape) for w in weights] for _ in range(STEPS)]
    return weights, grads


@pytest.mark.parametrize("regularization", ["L1", "L2"])
@pytest.mark.parametrize(("clip", "iter_size"), [(-1, 1), (0.5, 1), (0.5, 3)])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_update_rules(name, clip, iter_size, regularization):
    """Clip the sum over iter_size, divide, decay, update; the second blob has multipliers."""
    weights, grads = draws()
    params = [torch.nn.Parameter(torch.tensor(w)) for w in weights]
    kind, options = OPTIMIZERS[name]
    optimizer = kind(
        [{"params": params[:1]},
         {"params": params[1:], "lr_mult": LR_MULT, "decay_mult": DECAY_MULT}],
        lr=LR, weight_decay=DECAY, regularization_type=regularization, clip_gradients=clip,
        iter_size=iter_size, **options,
    )  # fmt: skip
    rules = [Rules(), Rules()]
    for step in grads:
        optimizer.zero_grad()
        for param, grad in zip(params, step, strict=True):
            param.grad = torch.tensor(grad)
        optimizer.step()
        length = np.sqrt(sum((g**2).sum() for g in step))
        scale = (clip / length if 0 <= clip < length else 1) / iter_size
        for i, grad in enumerate(step):
            decay = DECAY * (DECAY_MULT if i else 1)
            kind_of_decay = np.sign(weights[i]) if regularization == "L1" else weights[i]
            g = scale * grad + decay * kind_of_decay
            update = getattr(rules[i], name)(g, LR * (LR_MULT if i else 1))
            weights[i] = weights[i] - update
    for param, weight in zip(params, weights, strict=True):
        np.testing.assert_allclose(param.detach().numpy(), weight, rtol=1e-13, atol=1e-13)


def test_with_a_fixed_rate_sgd_is_pytorchs():
    """Caffe's h is rate * buf; they part where the rate changes."""
    weights, grads = draws()
    ours, theirs = ([torch.nn.Parameter(torch.tensor(w)) for w in weights] for _ in range(2))
    optimizers = [
        optim.SGD(ours, lr=LR, momentum=MOMENTUM, weight_decay=DECAY),
        torch.optim.SGD(theirs, lr=LR, momentum=MOMENTUM, weight_decay=DECAY),
    ]

    def step(grad):
        for params, optimizer in zip((ours, theirs), optimizers, strict=True):
            for param, g in zip(params, grad, strict=True):
                param.grad = torch.tensor(g)
            optimizer.step()

    for grad in grads:
        step(grad)
    for mine, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine.detach(), other.detach(), rtol=1e-13, atol=1e-14)
    for optimizer in optimizers:
        optimizer.param_groups[0]["lr"] /= 10
    step(grads[0])
    assert not torch.allclose(ours[0], theirs[0], rtol=1e-3)


def test_adagrad_and_rmsprop_are_pytorchs():
    """PyTorch has eps at the same place in these two, under another name of decay."""
    weights, grads = draws()
    for name, other in (
        ("adagrad", lambda p: torch.optim.Adagrad(p, lr=LR, eps=DELTA)),
        ("rmsprop", lambda p: torch.optim.RMSprop(p, lr=LR, alpha=0.8, eps=DELTA)),
    ):
        ours, theirs = ([torch.nn.Parameter(torch.tensor(w)) for w in weights] for _ in range(2))
        kind, options = OPTIMIZERS[name]
        optimizers = kind(ours, lr=LR, **options), other(theirs)
        for grad in grads:
            for params, optimizer in zip((ours, theirs), optimizers, strict=True):
                for param, g in zip(params, grad, strict=True):
                    param.grad = torch.tensor(g)
                optimizer.step()
        for mine, their in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(mine.detach(), their.detach(), rtol=1e-12, atol=1e-14)


def test_a_parameter_without_a_gradient_goes_on():
    """Caffe's diff is zero there: momentum moves it, and its weight decays."""
    param = torch.nn.Parameter(torch.ones(1, dtype=torch.float64))
    optimizer = optim.SGD([param], lr=1, momentum=0.5)
    param.grad = torch.full((1,), 0.25, dtype=torch.float64)
    optimizer.step()
    optimizer.zero_grad()
    optimizer.step()
    assert param.item() == 1 - 0.25 - 0.125


def test_a_state_dict_goes_on():
    weights, grads = draws()
    runs = []
    for stop in (STEPS, 2):
        params = [torch.nn.Parameter(torch.tensor(w)) for w in weights]
        optimizer = optim.Adam(params, lr=LR)
        for i, step in enumerate(grads):
            if i == stop:
                state = optimizer.state_dict()
                optimizer = optim.Adam(params, lr=LR)
                optimizer.load_state_dict(state)
            for param, grad in zip(params, step, strict=True):
                param.grad = torch.tensor(grad)
            optimizer.step()
        runs.append(params)
    assert all(map(torch.equal, *runs))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"regularization_type": "L3"}, "'L3' is not known"), ({"iter_size": 0}, "must be positive")],
)
def test_what_is_no_optimizer(options, message):
    with pytest.raises(ValueError, match=message):
        optim.SGD([torch.zeros(1)], lr=1, **options)


def test_of_solver_takes_the_solvers_own_fields():
    param = pb.SolverParameter(
        type="Adam", base_lr=0.5, lr_policy="fixed", momentum=0.25, momentum2=0.75, delta=0.125,
        weight_decay=2, regularization_type="L1", clip_gradients=4, iter_size=3,
    )  # fmt: skip
    optimizer = optim.of_solver(param, [torch.zeros(1)])
    (group,) = optimizer.param_groups
    assert type(optimizer) is optim.Adam
    assert (optimizer.clip_gradients, optimizer.iter_size) == (4, 3)
    told = {"lr": 0.5, "momentum": 0.25, "momentum2": 0.75, "delta": 0.125, "weight_decay": 2}
    assert {name: group[name] for name in told} == told
    assert group["regularization_type"] == "L1"
