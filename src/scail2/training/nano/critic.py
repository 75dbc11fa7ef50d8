"""A critic that tells drawn frames from refined ones, patch by patch: what it learns to see, the refiner learns to draw."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_POWER_ITERATIONS = 4


class PatchCritic(nn.Module):
    """Scores patches of frames beside the unrefined frames they were made from; higher looks drawn.

    Every layer's weight is divided by its largest singular value, so that scores change slowly with pixels.
    """

    def __init__(self, widths: tuple[int, ...] = (32, 64, 96)) -> None:
        super().__init__()
        channels = (4 * 6, *widths)
        self.layers = nn.ModuleList(
            nn.Conv2d(a, b, 3 if level == 0 else 4, stride=1 if level == 0 else 2, padding=1)
            for level, (a, b) in enumerate(pairwise(channels))
        )
        self.score = nn.Conv2d(widths[-1], 1, 3, padding=1)

    def forward(self, frames: Tensor, unrefined: Tensor) -> Tensor:
        """Clips ``(B, 3, T, H, W)`` → scores ``(B, T, h, w)``, one for each patch of 8×8 pixels with three levels."""
        batch = len(frames)
        hidden = torch.cat([frames, unrefined], dim=1).transpose(1, 2).flatten(0, 1)
        hidden = F.pixel_unshuffle(hidden, 2)
        for layer in self.layers:
            hidden = F.leaky_relu(_bounded(layer, hidden), 0.2)
        return _bounded(self.score, hidden).unflatten(0, (batch, -1))[:, :, 0]


def _bounded(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """A convolution with its weight divided by its largest singular value."""
    matrix = layer.weight.flatten(1)
    with torch.no_grad():
        right = matrix[0]
        for _ in range(_POWER_ITERATIONS):
            left = F.normalize(matrix @ right, dim=0)
            right = F.normalize(matrix.T @ left, dim=0)
    largest = left @ matrix @ right
    return F.conv2d(x, layer.weight / largest, layer.bias, layer.stride, layer.padding)


def critic_terms(
    critic: PatchCritic, refined: Tensor, truth: Tensor, unrefined: Tensor, region: Tensor
) -> tuple[Tensor, Tensor]:
    """Hinge losses: the refiner's (through ``refined``, the critic held) and the critic's (``refined`` held).

    Patches count by their share of characters in ``region``, bool ``(B, T, H, W)``.
    """
    unrefined = unrefined.detach()
    critic.requires_grad_(False)
    wish = -critic(refined, unrefined)
    critic.requires_grad_(True)
    drawn, made = critic(truth, unrefined), critic(refined.detach(), unrefined)
    weight = F.adaptive_avg_pool2d(region.float(), drawn.shape[-2:])
    weight = weight / weight.sum().clamp(min=1)
    judgement = F.relu(1 - drawn) + F.relu(1 + made)
    return (weight * wish).sum(), (weight * judgement).sum()
