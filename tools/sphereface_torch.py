"""SphereFace-20 in plain PyTorch, as one would write it by hand: what a net is measured against.

It shares no code with `caffe_margin`, and gives the same loss and the same gradients.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

UNITS, CHANNELS = (1, 2, 4, 1), (64, 128, 256, 512)


class Unit(nn.Module):
    """Two convolutions and a shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.PReLU(channels),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.PReLU(channels),
        )
        for name, parameter in self.body.named_parameters():
            if name.endswith("bias"):  # Caffe's has lr_mult: 0 here
                parameter.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum."""
        return x + self.body(x)


class SphereFace20(nn.Module):
    """The authors' net, and their loss with m = 4."""

    def __init__(self, classes: int = 10572, lambda_: float = 5.0) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 3
        for units, channels in zip(UNITS, CHANNELS, strict=True):
            layers += [nn.Conv2d(before, channels, 3, stride=2, padding=1), nn.PReLU(channels)]
            layers += [Unit(channels) for _ in range(units)]
            before = channels
        self.trunk = nn.Sequential(*layers)
        self.fc5 = nn.Linear(512 * 7 * 6, 512)
        self.weight = nn.Parameter(torch.empty(classes, 512))
        self.lambda_ = lambda_

    def forward(self, images: Tensor, label: Tensor) -> Tensor:
        """Return the loss."""
        x = self.fc5(self.trunk(images).flatten(1))
        with torch.no_grad():
            self.weight.copy_(F.normalize(self.weight))
        scores = F.linear(x, self.weight)
        return F.cross_entropy(self.with_margin(x, scores, label), label)

    def with_margin(self, x: Tensor, scores: Tensor, label: Tensor) -> Tensor:
        """Put psi into the label's column; x gets the paper's gradient, the weight a plain one."""
        with torch.no_grad():
            w, length = self.weight[label], x.norm(dim=1)
            cos = (x * w).sum(1) / length
            sign = torch.sign(cos)
            sign3 = sign * torch.sign(2 * cos**2 - 1)
            sign4 = 2 * sign + sign3 - 3
            psi = sign3 * (8 * cos**4 - 8 * cos**2 + 1) + sign4
            along_w = sign3 * (32 * cos**3 - 16 * cos)
            along_x = -(sign3 * (24 * cos**4 - 8 * cos**2 - 1) - sign4) / length
            both = torch.hypot(along_w, along_x)
            towards = (along_w / both)[:, None] * w + (along_x / both)[:, None] * x
            value = length * (psi - cos)
        # The value of the margin, with a gradient that is not its own.
        moved = (x * (towards - w)).sum(1)
        change = (moved - moved.detach() + value) / (1 + self.lambda_)
        return scores.scatter_add(1, label[:, None], change[:, None])
