"""The published heads' pulls against autograd of forwards that are written anew.

Each forward is the label's score alone, over x and the weight as the head stores it, with
``detach()`` where the head detaches.
"""

import math

import numpy as np
import pytest
import torch

from caffe_margin.study.published import HEADS, SCALE, parts

THETA = np.radians([0.5, 7, 30, 44, 46, 61, 89, 91, 119, 121, 136, 149, 152, 170, 179.5])


def vectors(theta, x_norm, K=5):
    """Return x and w_y at these angles, in random directions, |w_y| = 1; a
    row a pair.
    """
    rng = np.random.default_rng(0)
    w, across = np.linalg.qr(rng.normal(size=(len(theta), K, 2)))[0].transpose(2, 0, 1)
    x = x_norm * (np.cos(theta)[:, None] * w + np.sin(theta)[:, None] * across)
    return [torch.tensor(a, requires_grad=True) for a in (x, w)]


def psi(angle, m):
    k = torch.floor(m * angle.detach() / math.pi)
    return (-1) ** k * torch.cos(m * angle) - 2 * k


def angle(x, w):
    return torch.arccos((x * w).sum(1) / x.norm(dim=1) / w.norm(dim=1))


def detach(margin, cosine):
    """What stands in a forward that adds a detached difference to the cosine."""
    return cosine + (margin - cosine).detach()


def a_softmax_paper(x, w, lambda_):
    # The coefficients of x and w_y, by autograd of |x| psi(w.x / |x|), and normalised.
    plain = (x * w).sum(1).detach().requires_grad_()
    length = x.norm(dim=1).detach().requires_grad_()
    score = length * psi(torch.arccos(plain / length), 4)
    coeff_w, coeff_x = torch.autograd.grad(score.sum(), (plain, length))
    coeff_x = coeff_x / length.detach()
    norm = (coeff_w**2 + coeff_x**2).sqrt()
    # To x alone: the weight's gradient is that of the plain inner product.
    moved = coeff_w / norm * (x * w.detach()).sum(1) + coeff_x / norm * (x * x).sum(1) / 2
    inner = lambda_ * (x * w.detach()).sum(1)
    return (moved + inner) / (1 + lambda_) + (x.detach() * w).sum(1)


def l_softmax(x, w, lambda_):
    # f = slope w.x - s |w| |x|, its two coefficients constant to first order; the C++ adds 1e-9
    # to the stored length of w.
    cosine = torch.cos(angle(x, w)).detach().requires_grad_()
    margin = psi(torch.arccos(cosine), 4)
    (slope,) = torch.autograd.grad(margin.sum(), cosine)
    rest = (cosine * slope - margin).detach()
    length, fixed = x.norm(dim=1), w.detach().norm(dim=1) + 1e-9
    of_x = rest * fixed * length
    of_w = rest * length.detach() * (w * w).sum(1) / 2 / fixed
    return ((slope + lambda_) * (x * w).sum(1) - of_x - of_w) / (1 + lambda_)


def exact(x, w, lambda_):
    theta = angle(x, w)
    return x.norm(dim=1) * (torch.cos(theta) + (psi(theta, 4) - torch.cos(theta)) / (1 + lambda_))


def normalized_detached(margin, project):
    def score(x, w, lambda_):
        cosine = (x / x.norm(dim=1, keepdim=True) * (w / w.norm(dim=1, keepdim=True))).sum(1)
        if not project:
            # Normalised in place, outside autograd.
            cosine = (x / x.norm(dim=1, keepdim=True) * w).sum(1)
        return SCALE * detach(margin(torch.arccos(cosine.clamp(-1, 1))), cosine)

    return score


def kept_detached(margin):
    def score(x, w, lambda_):
        length = x.norm(dim=1)
        cosine = (x * w).sum(1) / length
        return length * detach(margin(torch.arccos(cosine)), cosine)

    return score


def arcface(x, w, lambda_):
    cosine = torch.cos(angle(x, w))
    sine = (1 - cosine**2).sqrt()
    added = cosine * math.cos(0.5) - sine * math.sin(0.5)
    beyond = cosine - 0.5 * math.sin(math.pi - 0.5)
    return SCALE * torch.where(cosine > math.cos(math.pi - 0.5), added, beyond)


def facex_zoo_arcface(x, w, lambda_):
    cosine = torch.cos(angle(x, w))
    added = cosine * math.cos(0.5) - (1 - cosine**2).sqrt() * math.sin(0.5)
    return SCALE * torch.where(cosine > math.cos(math.pi - 0.5), added, cosine)


FORWARDS = [
    ("A-Softmax, the authors' C++", a_softmax_paper),
    ("L-Softmax, the authors' C++", l_softmax),
    ("clcarwin, pytorch-metric-learning", exact),
    *(
        ("opensphere SphereFace, SphereFace-R H (v0, v1, v2)", normalized_detached(margin, False))
        for margin in (
            lambda theta: psi(theta, 1.7),
            lambda theta: torch.cos((1.5 * theta).clamp(1e-5, 3.14159)),
            lambda theta: torch.cos(theta),
        )
    ),
    (
        "opensphere SphereFace-R S, v1",
        kept_detached(lambda theta: torch.cos((1.5 * theta).clamp(max=math.pi))),
    ),
    ("opensphere SphereFace-R S, v2", kept_detached(torch.cos)),
    ("insightface ArcFace", normalized_detached(lambda theta: torch.cos(theta + 0.5), True)),
    ("TFace, FaceX-Zoo ArcFace", arcface),
    ("TFace, FaceX-Zoo ArcFace", facex_zoo_arcface),
]


def test_every_head_has_a_forward():
    assert {name for name, _ in FORWARDS} == {head.name for head in HEADS}


@pytest.mark.parametrize("lambda_", [0.0, 5.0])
@pytest.mark.parametrize("x_norm", [1.0, 10.0, 30.0])
@pytest.mark.parametrize(("name", "forward"), FORWARDS)
def test_pull_against_autograd(name, forward, x_norm, lambda_):
    (head,) = (head for head in HEADS if head.name == name)
    x, w = vectors(THETA, x_norm)
    dx, dw = (
        gradient.numpy() for gradient in torch.autograd.grad(forward(x, w, lambda_).sum(), (x, w))
    )
    x, w = x.detach().numpy() / x_norm, w.detach().numpy()
    cos, sin = np.cos(THETA)[:, None], np.sin(THETA)[:, None]
    length = SCALE if head.normalizes_features else x_norm
    found = parts(head, THETA, x_norm, lambda_)
    for part, gradient, own, other in (
        ("x", dx, x, w),
        ("w", dw / length, w, x),
    ):
        toward = (other - cos * own) / sin
        tangential, radial = (gradient * toward).sum(1), (gradient * own).sum(1)
        # Nothing lies outside the plane of x and w_y.
        np.testing.assert_allclose(
            gradient, tangential[:, None] * toward + radial[:, None] * own, atol=1e-9
        )
        np.testing.assert_allclose(
            getattr(found, f"tangential_{part}"), tangential, rtol=1e-9, atol=1e-9
        )
        np.testing.assert_allclose(getattr(found, f"radial_{part}"), radial, rtol=1e-9, atol=1e-9)
