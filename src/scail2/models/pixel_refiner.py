"""A small U-Net that redraws decoded frames: closes outlines, removes the grid of the tokens, sharpens faces.

It sees each frame between its neighbours and adds a correction. Every normalisation is over one pixel's channels, so
that no statistic of a whole frame shifts its colours, and a frame's correction depends on nothing but three frames.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn


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
        self.shrink = nn.ModuleList(nn.Conv2d(4 * a, b, 1) for a, b in pairwise(widths))
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
        hidden = self.enter(F.pixel_unshuffle(frames, 2).contiguous(memory_format=torch.channels_last))
        kept = []
        for blocks, shrink in zip(self.down_blocks, self.shrink, strict=False):
            hidden = blocks(hidden)
            kept.append(hidden)
            hidden = shrink(F.pixel_unshuffle(hidden, 2))
        hidden = self.down_blocks[-1](hidden)
        for blocks, grow, finer in reversed(list(zip(self.up_blocks, self.grow, kept, strict=True))):
            hidden = blocks(finer + F.pixel_shuffle(grow(hidden), 2))
        return F.pixel_shuffle(self.leave(F.silu(hidden)), 2)


class _ResidualBlock(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # Root mean square of each pixel's channels; its gain is left to the convolution that follows.
        scale = torch.rsqrt(x.float().square().mean(dim=1, keepdim=True) + 1e-6).to(x.dtype)
        return x + self.second(F.silu(self.first(F.silu(x * scale))))


def _blocks(channels: int, count: int) -> nn.Sequential:
    return nn.Sequential(*(_ResidualBlock(channels) for _ in range(count)))
