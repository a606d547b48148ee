import numpy as np
import pytest
from google.protobuf import text_format

from caffe_margin import caffe_margin_pb2 as pb
from caffe_margin.maths.annealing import Annealing
from caffe_margin.solver.schedule import (
    curve,
    iteration_of_lambda_min,
    steps,
)

AUTHORS = "base: 1000 gamma: 0.12 power: 1 lambda_min: 5"


def annealing_of(text):
    return Annealing.of(text_format.Parse(text, pb.MarginInnerProductParameter()))


@pytest.mark.parametrize(
    ("text", "iteration"),
    [
        # 1000 / (1 + 0.12 t) <= 5 from t = 199 / 0.12 = 1658.3 on
        ("base: 1000 gamma: 0.12 lambda_min: 5", 1659),
        ("base: 1000 gamma: 0.12 lambda_min: 5 iteration: 5000", 5001),
        # (1 + t)^-2 <= 1/100 from t = 9 on
        ("base: 1 gamma: 1 power: 2 lambda_min: 0.01", 9),
        ("base: 5 lambda_min: 5", 1),
        ("base: 5 lambda_min: 7 iteration: 3", 4),
        ("base: 1000 gamma: 0.12", None),
        ("base: 1000 lambda_min: 5", None),
        ("base: 1000 gamma: 0.12 power: 0.001 lambda_min: 5", None),
    ],
)
def test_iteration_of_lambda_min(text, iteration):
    annealing = annealing_of(text)
    assert iteration_of_lambda_min(annealing) == iteration


@pytest.mark.parametrize("gamma", [0.12, 0.1, 1, 3, 0.003])
@pytest.mark.parametrize("power", [0.5, 1, 2])
@pytest.mark.parametrize("lambda_min", [5, 10, 0.5])
def test_iteration_of_lambda_min_is_the_first(gamma, power, lambda_min):
    annealing = annealing_of(f"base: 1000 gamma: {gamma} power: {power} lambda_min: {lambda_min}")
    reached = iteration_of_lambda_min(annealing)
    assert annealing.lambda_at(reached) == lambda_min
    assert reached == 1 or annealing.lambda_at(reached - 1) > lambda_min


def test_steps():
    found = steps(annealing_of(AUTHORS), 28000, {16001: "slower", 40000: "never"})
    assert [step.iteration for step in found] == [1, 10, 100, 1000, 1659, 10000, 16001, 28000]
    assert [step.note for step in found if step.note] == [
        "first",
        "lambda_min reached",
        "slower",
        "last",
    ]
    by_hand = [max(1000 / (1 + 0.12 * step.iteration), 5) for step in found]
    np.testing.assert_allclose([step.lambda_ for step in found], by_hand, rtol=1e-6)
    np.testing.assert_allclose([s.share for s in found], [1 / (1 + x) for x in by_hand], rtol=1e-6)


def test_steps_of_a_resumed_run():
    found = steps(annealing_of(f"{AUTHORS} iteration: 16000"), 16001)
    assert [(step.iteration, step.note) for step in found] == [
        (16001, "lambda_min reached, first, last")
    ]


@pytest.mark.parametrize("text", ["gamma: -1", "gamma: -2 power: 0.5", "base: -2 lambda_min: -1"])
def test_lambda_that_the_layer_refuses(text):
    with pytest.raises(ValueError, match=r"lambda is (inf|nan|-1); it must be finite and above -1"):
        steps(annealing_of(text), 10)


def test_curve_goes_from_the_first_to_the_last():
    found = curve(annealing_of(f"{AUTHORS} iteration: 100"), 28000, through=20000)
    assert (found.iteration[0], found.iteration[-1]) == (101, 28000)
    assert 20000 in found.iteration
    assert np.all(np.diff(found.iteration) > 0)
    by_hand = np.maximum(1000 / (1 + 0.12 * found.iteration), 5)
    np.testing.assert_allclose(found.lambda_, by_hand, rtol=1e-6)


def test_lambda_that_rises_from_lambda_min():
    """max(1 + 0.1 i, 5) is 5 up to i = 40."""
    assert iteration_of_lambda_min(annealing_of("gamma: 0.1 power: -1 lambda_min: 5")) == 1
