"""psi_m by its definition in theta: the paper's equation 7, which no code of the package uses."""

import numpy as np


def pieces(theta, m):
    """k, the number of the piece: theta lies in [k pi/m, (k+1) pi/m]."""
    return np.minimum(np.floor(m * theta / np.pi), m - 1)


def psi(theta, m):
    k = pieces(theta, m)
    return (-1) ** k * np.cos(m * theta) - 2 * k


def slope(theta, m):
    """D psi / d cos = (d psi / d theta) / (-sin theta), for theta strictly within (0, pi)."""
    return m * (-1) ** pieces(theta, m) * np.sin(m * theta) / np.sin(theta)
