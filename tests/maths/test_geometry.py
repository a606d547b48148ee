import math

import numpy as np
import pytest

from caffe_margin.maths import geometry
from helpers.psi import psi


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


LENGTHS = [(1.0, 1.0), (1.0, 2.0), (2.0, 1.0), (1.0, 5.0), (30.0, 0.7), (1.0, 1.05)]


def by_argmax(m, theta_12, lengths, at):
    """1 or 2 where the largest logit under that label is the label's own, 0 where it is neither."""
    theta = np.stack([between(at, 0.0), between(at, theta_12)])
    plain = np.array(lengths)[:, None] * np.cos(theta)
    whose = np.zeros(len(at), int)
    for label in (0, 1):
        logits = plain.copy()
        logits[label] = lengths[label] * psi(theta[label], m)
        whose[logits.argmax(axis=0) == label] = label + 1
    return whose


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("degrees", [3, 20, 61, 90, 140, 180])
@pytest.mark.parametrize("m", [1, 2, 3, 4, 7])
def test_claims_of_weights_with_lengths_against_argmax(m, degrees, lengths):
    theta_12 = math.radians(degrees)
    found = geometry.two_claims(m, theta_12, lengths)
    at = (np.arange(3600) + 0.3) * (2 * np.pi / 3600)
    ends = np.array([end for of_class in found.sectors for s in of_class for end in s])
    if len(ends):
        at = at[between(at[:, None], ends).min(axis=1) > 1e-9]
    expected = by_argmax(m, theta_12, lengths, at)
    np.testing.assert_array_equal([found.claimant(a) for a in at.tolist()], expected)
    one, two = at[expected == 1], at[expected == 2]
    if len(one) and len(two):
        apart = between(one[:, None], two).min()
        assert found.between == pytest.approx(apart, abs=4 * np.pi / 3600)
    else:
        assert found.between is None


@pytest.mark.parametrize("m", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("seed", range(8))
def test_ends_of_sectors_in_closed_form(m, seed):
    rng = np.random.default_rng(seed)
    theta_12, (own, other) = rng.uniform(0.1, np.pi), rng.uniform(0.3, 3, 2)
    ends = np.ravel(geometry.sectors(m, theta_12, own, other))
    found = geometry.boundaries(m, theta_12, own, other)
    np.testing.assert_allclose(np.sort((ends + np.pi) % (2 * np.pi) - np.pi), found, atol=1e-9)


def test_without_a_margin_the_boundary_is_a_line():
    # |w_1| cos(phi) = |w_2| cos(theta_12 - phi), solved for tan(phi).
    theta_12, own, other = 1.3, 1.0, 2.5
    angle = math.atan2(own - other * math.cos(theta_12), other * math.sin(theta_12))
    ((begin, end),) = geometry.sectors(1, theta_12, own, other)
    assert (begin, end) == (pytest.approx(angle - math.pi), pytest.approx(angle))


@pytest.mark.parametrize("m", [2, 3, 4])
@pytest.mark.parametrize("theta_12", [0.4, 1.5, 2.9])
def test_equal_lengths_are_a_softmax(m, theta_12):
    ((begin, end),), _ = geometry.two_claims(m, theta_12, (3.0, 3.0)).sectors
    assert (-begin, end) == pytest.approx(geometry.claims(m, [0.0, theta_12]).reach[0], abs=1e-6)


def test_a_short_weight_near_a_long_one_does_not_claim_its_own_direction():
    # |w_1| < |w_2| cos(theta_12).
    found = geometry.two_claims(4, math.radians(20), (1.0, 2.0))
    assert found.claimant(0.0) != 1
    assert geometry.two_claims(4, math.radians(20), (1.0, 1.0)).claimant(0.0) == 1


def test_disagreements_are_where_argmax_disagrees():
    theta_12, m = math.radians(70), 3
    equal, longer = (geometry.two_claims(m, theta_12, lengths) for lengths in ((1, 1), (1, 2)))
    found = geometry.disagreements(equal, longer)
    at = (np.arange(36000) + 0.3) * (2 * np.pi / 36000)
    a, b = (by_argmax(m, theta_12, lengths, at) for lengths in ((1, 1), (1, 2)))
    total = sum(end - begin for begin, end, _, _ in found)
    assert total == pytest.approx((a != b).mean() * 2 * np.pi, abs=1e-3)
    for begin, end, first, second in found:
        within = (at - begin) % (2 * np.pi) < end - begin
        assert set(a[within]) == {first}
        assert set(b[within]) == {second}
    assert geometry.disagreements(equal, equal) == []


@pytest.mark.parametrize("lengths", [(0, 1), (1, -1), (math.nan, 1), (1, math.inf)])
def test_lengths_refused(lengths):
    with pytest.raises(ValueError, match="lengths must be positive"):
        geometry.two_claims(2, 1.0, lengths)
