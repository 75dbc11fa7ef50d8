"""A small U-Net that redraws decoded frames: closes outlines, removes the grid of the tokens, sharpens faces.

It sees each frame between its neighbours and adds a correction. Every normalisation is over one pixel's channels, so
that no statistic of a whole frame shifts its colours, and a frame's correction depends on nothing but three frames.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

from scail2.models.direct_linear import may_overwrite


class PixelRefiner(nn.Module):
    """Residual correction of RGB frames.

    Args:
        widths: channels of each level, finest first; the finest has half the frames' resolution, each further one half
            the resolution of the one before.
        blocks: residual blocks of each level on the way down and again on the way up (the coarsest has them once).
        neighbours: frames seen on either side of the one that is corrected.
    """

    def __init__(self, widths: Sequence[int], blocks: Sequence[int], neighbours: int = 1) -> None:
        super().__init__()
        if len(widths) != len(blocks) or not widths:
            raise ValueError(f"{len(widths)} widths need as many numbers of blocks, not {len(blocks)}.")
        self.neighbours = neighbours
        self.enter = nn.Conv2d(12 * (2 * neighbours + 1), widths[0], 3, padding=1)
        levels = list(zip(widths, blocks, strict=True))
        self.down_blocks = nn.ModuleList(_blocks(*level) for level in levels)
        self.shrink = nn.ModuleList(_Shrink(4 * a, b, 1) for a, b in pairwise(widths))
        self.grow = nn.ModuleList(nn.Conv2d(b, 4 * a, 1) for a, b in pairwise(widths))
        self.up_blocks = nn.ModuleList(_blocks(*level) for level in levels[:-1])
        self.leave = nn.Conv2d(widths[0], 12, 3, padding=1)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    @property
    def stride(self) -> int:
        """Frame sides must be multiples of this."""
        return 2 ** len(self.down_blocks)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """Frames with their neighbours in order of time ``(N, (2·neighbours+1)·3, H, W)`` → corrections ``(N, 3, H, W)``."""
        hidden = self.enter(_unshuffled(frames))
        kept = []
        for blocks, shrink in zip(self.down_blocks, self.shrink, strict=False):
            hidden = blocks(hidden)
            kept.append(hidden)
            hidden = shrink(hidden)
        hidden = self.down_blocks[-1](hidden)
        for blocks, grow, finer in reversed(list(zip(self.up_blocks, self.grow, kept, strict=True))):
            grown = F.pixel_shuffle(grow(hidden), 2)
            hidden = blocks(grown.add_(finer) if may_overwrite() else finer + grown)
        return F.pixel_shuffle(self.leave(_silu(hidden)), 2)


class _Shrink(nn.Conv2d):
    """A 1x1 convolution of what ``pixel_unshuffle`` makes of its input, without making that: each pixel is read in its place."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(N, C, H, W)`` → ``(N, out_channels, H/2, W/2)``."""
        return F.conv2d(x, self.weight.view(self.out_channels, -1, 2, 2), self.bias, stride=2)


class _ResidualBlock(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        branch = self.second(_silu(self.first(_silu(x * _inverse_root_mean_square(x)))))
        return branch.add_(x) if may_overwrite() else x + branch


def _inverse_root_mean_square(x: torch.Tensor) -> torch.Tensor:
    """Of each pixel's channels, ``(N, 1, H, W)``; the norm's gain is left to the convolution that follows."""
    if may_overwrite():  # half-precision channels are added up in float32 without a float32 copy of them
        norm = torch.linalg.vector_norm(x, dim=1, keepdim=True, dtype=torch.float32)
        return norm.square_().div_(x.shape[1]).add_(1e-6).rsqrt_().to(x.dtype)
    return torch.rsqrt(x.float().square().mean(dim=1, keepdim=True) + 1e-6).to(x.dtype)


def _silu(fresh: torch.Tensor) -> torch.Tensor:
    """SiLU, in the place of its argument where nothing else needs that."""
    return F.silu(fresh, inplace=may_overwrite())


def _unshuffled(frames: torch.Tensor) -> torch.Tensor:
    """``pixel_unshuffle(frames, 2)``, ``(N, 4C, H/2, W/2)`` with the channels of a pixel beside each other in memory."""
    number, channels, height, width = frames.shape
    cells = frames.reshape(number, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return cells.reshape(number, height // 2, width // 2, 4 * channels).permute(0, 3, 1, 2)


def _blocks(channels: int, count: int) -> nn.Sequential:
    return nn.Sequential(*(_ResidualBlock(channels) for _ in range(count)))
