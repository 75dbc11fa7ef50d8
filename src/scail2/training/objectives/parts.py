"""Part supervision: hidden states in the middle of the network are asked which body parts their cells show.

A small network learns to transfer motion much sooner when the tokens of the three videos (reference, noisy, driving)
speak about the same thing. The renderer knows every pixel's body part; a linear head, used in training only, predicts the
share of each part in each latent cell from the hidden states after one of the first blocks (the idea of representation
alignment, arXiv:2410.06940, with exact labels in place of another network's features).
"""

import torch
import torch.nn.functional as F
from torch import nn


class PartAlignment(nn.Module):
    """A linear head over hidden states, one for all token kinds.

    Args:
        width: channels of the hidden states.
        channels: 4 · parts, the packed coverage channels of one latent cell.
        patch: (t, h, w) latent cells in a token.
    """

    def __init__(self, width: int, channels: int, patch: tuple[int, int, int]) -> None:
        super().__init__()
        self.patch = patch
        self.norm = nn.LayerNorm(width)
        self.proj = nn.Linear(width, channels * patch[0] * patch[1] * patch[2])
        nn.init.zeros_(self.proj.weight)
        nn.init.constant_(self.proj.bias, -4.0)  # nearly every part is absent from nearly every cell

    def forward(self, hidden: torch.Tensor, coverage: torch.Tensor) -> torch.Tensor:
        """Binary cross-entropy of predicted coverage.

        Args:
            hidden: ``(B, L, D)``.
            coverage: ``(B, L, channels · cells)`` in [0, 1], see :func:`coverage_tokens`.
        """
        logits = self.proj(self.norm(hidden.float()))
        return F.binary_cross_entropy_with_logits(logits, coverage.float())


def coverage_tokens(coverage: torch.Tensor, patch: tuple[int, int, int]) -> torch.Tensor:
    """``(B, C, T, H, W)`` → ``(B, L, C·cells)``, tokens in raster order (t, h, w)."""
    x = coverage.unflatten(4, (-1, patch[2])).unflatten(3, (-1, patch[1])).unflatten(2, (-1, patch[0]))
    return x.permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(4).flatten(1, 3)


class HiddenStateTap:
    """Keeps the output of one block of a transformer during a forward pass."""

    def __init__(self, block: nn.Module) -> None:
        self.value: torch.Tensor | None = None
        self._handle = block.register_forward_hook(self._keep)

    def _keep(self, _module: nn.Module, _inputs: tuple, output: torch.Tensor) -> None:
        self.value = output

    def take(self) -> torch.Tensor:
        """The captured ``(B, L, D)``; forgets it."""
        value, self.value = self.value, None
        if value is None:
            raise RuntimeError("no forward pass has run since the last take()")
        return value

    def remove(self) -> None:
        """Detaches from the block."""
        self._handle.remove()
