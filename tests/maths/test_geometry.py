import math

import numpy as np
import pytest

from caffe_margin.maths import geometry


def psi(theta, m):
    k = np.floor(m * theta / np.pi)
    return (-1) ** k * np.cos(m * theta) - 2 * k


def between(a, b):
    return np.abs((a - b + np.pi) % (2 * np.pi) - np.pi)


def sampled(m, centres, points=2400):
    """Classify points of the circle by psi_m(theta_i) > cos(theta_j); return width and margin."""
    # Half a step off, so that no point lies on a boundary.
    at = (np.arange(points) + 0.5) * (2 * np.pi / points)
    theta = np.stack([between(at, c) for c in centres])
    owned = []
    for i in range(len(centres)):
        others = np.cos(np.delete(theta, i, axis=0))
        owned.append(at[(psi(theta[i], m) > others).all(axis=0)])
    within = max(between(own[:, None], own[None]).max() for own in owned)
    apart = min(between(a[:, None], b[None]).min() for i, a in enumerate(owned) for b in owned[:i])
    return within, apart


@pytest.mark.parametrize("m", [1, 2, 3, 4])
@pytest.mark.parametrize("degrees", [20, 90, 140, 180])
def test_claims_of_two_against_points_of_the_circle(m, degrees):
    centres = [0.0, math.radians(degrees)]
    found = geometry.claims(m, centres)
    within, apart = sampled(m, centres)
    assert found.within == pytest.approx(within, abs=4 * np.pi / 2400)
    assert found.between == pytest.approx(apart, abs=4 * np.pi / 2400)


@pytest.mark.parametrize("m", [2, 3, 4])
@pytest.mark.parametrize("classes", [3, 5, 8])
def test_claims_of_more_against_points_of_the_circle(m, classes):
    centres = geometry.evenly(classes)
    found = geometry.claims(m, centres)
    within, apart = sampled(m, centres)
    assert found.within == pytest.approx(within, abs=4 * np.pi / 2400)
    assert found.between == pytest.approx(apart, abs=4 * np.pi / 2400)


def test_boundaries_of_two_as_the_proof_has_them():
    # Toward the other theta/(m + 1); away from it theta/(m - 1), or (2 pi - theta)/(m + 1).
    near = geometry.claims(4, [0.0, 1.0])
    assert near.reach == (pytest.approx((1 / 3, 1 / 5)), pytest.approx((1 / 5, 1 / 3)))
    far = geometry.claims(2, [0.0, 3.0])
    assert far.reach[0] == pytest.approx(((2 * math.pi - 3) / 3, 1.0))


def test_without_a_margin_the_classes_meet():
    found = geometry.claims(1, [0.0, 2.0])
    assert found.between == pytest.approx(0, abs=1e-12)
    assert found.within == pytest.approx(math.pi)
    assert not found.is_enough


@pytest.mark.parametrize("theta", [0.1, 1.0, 2.0, 2.29])
def test_m_min_of_two_is_2_plus_root_3(theta):
    # The root of (m - 1)^2 = 2 m, that is m^2 - 4 m + 1 = 0.
    assert geometry.m_min([0.0, theta]) == pytest.approx(max(np.roots([1, -4, 1])), rel=1e-9)
    assert geometry.m_min_of_two(theta) == pytest.approx(max(np.roots([1, -4, 1])))


@pytest.mark.parametrize(("theta", "least"), [(2.5, 1 + 2 * math.pi / 2.5), (math.pi, 3.0)])
def test_m_min_of_two_far_apart_is_less(theta, least):
    assert geometry.m_min([0.0, theta]) == pytest.approx(least, rel=1e-9)
    assert geometry.m_min_of_two(theta) == pytest.approx(least)


@pytest.mark.parametrize("classes", [3, 4, 7, 20])
def test_m_min_of_more_is_3(classes):
    assert geometry.m_min(geometry.evenly(classes)) == pytest.approx(3, rel=1e-9)


def test_whole_m_on_either_side_of_the_bounds():
    assert [geometry.claims(m, [0.0, 1.5]).is_enough for m in (3, 4)] == [False, True]
    five = geometry.evenly(5)
    assert [geometry.claims(m, five).is_enough for m in (2, 3)] == [False, True]


@pytest.mark.parametrize(
    ("m", "centres", "message"),
    [(0.5, [0, 1], "m must be 1 or more"), (2, [0], "two or more"), (2, [1, 1], "rising")],
)
def test_refused(m, centres, message):
    with pytest.raises(ValueError, match=message):
        geometry.claims(m, centres)
