"""Timestep, text and image conditions, with the parameter names of diffusers' Wan model.

Own code because diffusers' embedder casts the timestep embedding to the text dtype before its projection (about 0.3 %
relative error in bfloat16); the published network keeps the whole timestep path in float32, and so does this one.
"""

import torch
from diffusers.models.attention import FeedForward
from diffusers.models.embeddings import PixArtAlphaTextProjection, TimestepEmbedding
from diffusers.models.normalization import FP32LayerNorm
from torch import nn


def timestep_sinusoid(timestep: torch.Tensor, dim: int) -> torch.Tensor:
    """``concat(cos(t w), sin(t w))`` with ``w_j = 10000^(-j / (dim/2))``: timestep ``(B,)`` -> float32 ``(B, dim)``.

    Angles are formed in float64: at t near 1000 a float32 angle is off by up to 6e-5.
    """
    half = dim // 2
    device = torch.device("cpu") if timestep.device.type == "mps" else timestep.device  # Metal has no float64
    exponents = torch.arange(half, dtype=torch.float64, device=device) / half
    angles = timestep.to(device, torch.float64)[:, None] * torch.pow(10000.0, -exponents)
    return torch.cat([angles.cos(), angles.sin()], dim=-1).float().to(timestep.device)


def match_weight(x: torch.Tensor, module: nn.Module) -> torch.Tensor:
    """Cast to the module's weights where those are floating point.

    They are float32 in a model loaded by this package; a file loaded by other means may have them in bfloat16, and
    quantised weights (integers) cast for themselves.
    """
    dtype = next(module.parameters()).dtype
    return x.to(dtype) if dtype.is_floating_point and dtype.itemsize > 1 else x


class ImageProjection(nn.Module):
    """CLIP tokens ``(B, 257, image_dim)`` -> ``(B, 257, dim)``: LayerNorm, Linear, exact GELU, Linear, LayerNorm.

    Both LayerNorms use epsilon 1e-5, unlike the 1e-6 of the blocks.
    """

    def __init__(self, image_dim: int, dim: int):
        super().__init__()
        self.norm1 = FP32LayerNorm(image_dim, eps=1e-5)
        self.ff = FeedForward(image_dim, dim, mult=1, activation_fn="gelu")
        self.norm2 = FP32LayerNorm(dim, eps=1e-5)

    def forward(self, image_embeds: torch.Tensor) -> torch.Tensor:
        return self.norm2(self.ff(self.norm1(image_embeds)))


class SCAIL2ConditionEmbedder(nn.Module):
    """Timestep -> modulation vectors (float32); text and image embeddings -> context tokens."""

    def __init__(self, dim: int, freq_dim: int, text_dim: int | None, image_dim: int | None):
        super().__init__()
        self.freq_dim = freq_dim
        self.time_embedder = TimestepEmbedding(in_channels=freq_dim, time_embed_dim=dim)
        self.act_fn = nn.SiLU()
        self.time_proj = nn.Linear(dim, 6 * dim)
        self.text_embedder = None if text_dim is None else PixArtAlphaTextProjection(text_dim, dim, act_fn="gelu_tanh")
        self.image_embedder = None if image_dim is None else ImageProjection(image_dim, dim)

    def embed_time(self, timestep: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Timestep ``(B,)`` in 0..1000 -> ``temb (B, dim)`` and block modulation ``(B, 6, dim)``, both float32."""
        with torch.autocast(timestep.device.type, enabled=False):
            sinusoid = timestep_sinusoid(timestep, self.freq_dim)
            temb = self.time_embedder(match_weight(sinusoid, self.time_embedder)).float()
            modulation = self.time_proj(match_weight(self.act_fn(temb), self.time_proj)).float()
        return temb, modulation.unflatten(1, (6, -1))

    def embed_context(self, text: torch.Tensor | None, image: torch.Tensor | None) -> torch.Tensor | None:
        """Context tokens in the order cross-attention expects: image tokens, then text tokens; None without either."""
        parts = []
        if self.image_embedder is not None:
            parts.append(self.image_embedder(image))
        if self.text_embedder is not None:
            parts.append(self.text_embedder(text))
        return torch.cat([part.to(parts[-1].dtype) for part in parts], dim=1) if parts else None

    def forward(
        self, timestep: torch.Tensor, text: torch.Tensor | None, image: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        return *self.embed_time(timestep), self.embed_context(text, image)
