"""A patch autoencoder for small models: an orthonormal linear transform, and a convolutional decoder that refines it.

It has the interface and the strides of ``AutoencoderKLWan`` (4×8×8, first frame alone), costs next to nothing to encode,
and its latents are known before any training: a principal-component basis of pixel patches.
"""

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput, DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import nn


class AutoencoderPatchTransform(ModelMixin, ConfigMixin):
    """Encodes 8×8 pixels × 4 frames (the first frame alone) into ``z_dim`` channels by an orthonormal linear transform.

    The basis is separable: principal components of 8×8 RGB patches times the 4-point DCT over time. Channels that are
    constant over the four frames come first and mean the same in the first, single frame, whose gain is 2 so that a
    still picture has equal latents everywhere; the other channels carry motion in the video and finer spatial components in
    the first frame. Decoding is the transpose, plus ``decoder_blocks`` residual convolution blocks on the latent grid.

    Args:
        z_dim: latent channels.
        num_static_channels: how many of them are constant over a group's four frames.
        decoder_channels: width of the refining decoder.
        decoder_blocks: number of its residual blocks; 0 leaves the plain linear decoder.
        latents_mean: per-channel mean of the latents, ``z_dim`` numbers.
        latents_std: per-channel scale of the latents, ``z_dim`` numbers (one value for all keeps the spectrum's shape).
    """

    @register_to_config
    def __init__(
        self,
        z_dim: int = 64,
        num_static_channels: int = 40,
        decoder_channels: int = 256,
        decoder_blocks: int = 0,
        latents_mean: list[float] | None = None,
        latents_std: list[float] | None = None,
        scale_factor_temporal: int = 4,
        scale_factor_spatial: int = 8,
    ) -> None:
        super().__init__()
        if num_static_channels > z_dim or z_dim > 3 * scale_factor_spatial**2:
            raise ValueError(f"z_dim {z_dim} must be at least num_static_channels and at most 3·patch².")
        patch = 3 * scale_factor_spatial**2
        if latents_mean is None or latents_std is None:
            self.register_to_config(latents_mean=[0.0] * z_dim, latents_std=[1.0] * z_dim)
        self.register_buffer("image_basis", torch.eye(patch)[:z_dim].clone())
        self.register_buffer("video_basis", torch.zeros(z_dim, scale_factor_temporal * patch))
        self.set_basis(torch.eye(patch), _first_motion_components(z_dim - num_static_channels))
        self.refiner = _LatentRefiner(z_dim, decoder_channels, decoder_blocks, patch) if decoder_blocks else None

    @property
    def dtype(self) -> torch.dtype:
        return self.image_basis.dtype

    @staticmethod
    def temporal_basis(points: int) -> torch.Tensor:
        """Orthonormal DCT-II over the frames of a group, rows = frequencies, float64 ``(points, points)``."""
        n = torch.arange(points, dtype=torch.float64)
        basis = torch.cos(torch.pi / points * (n[None] + 0.5) * n[:, None]) * (2 / points) ** 0.5
        basis[0] /= 2**0.5
        return basis

    def set_basis(self, components: torch.Tensor, motion: list[tuple[int, int]]) -> None:
        """Installs a basis.

        Args:
            components: orthonormal rows, spatial components in falling order of variance, ``(>= z_dim, 3·patch²)``.
            motion: for each motion channel its (spatial component, temporal frequency 1…3).
        """
        static, frames = self.config.num_static_channels, self.config.scale_factor_temporal
        dct = self.temporal_basis(frames).to(components)
        rows = [torch.outer(dct[0], components[i]).flatten() for i in range(static)]
        rows += [torch.outer(dct[frequency], components[i]).flatten() for i, frequency in motion]
        self.video_basis.copy_(torch.stack(rows))
        self.image_basis.copy_(components[: self.config.z_dim])

    @apply_forward_hook
    def encode(self, x: torch.Tensor, return_dict: bool = True) -> AutoencoderKLOutput | tuple:
        """Pixels ``(B, 3, 1+4k, H, W)`` in [-1, 1] → latent distribution (a point) ``(B, z_dim, 1+k, H/8, W/8)``."""
        if (x.shape[2] - 1) % self.config.scale_factor_temporal:
            raise ValueError(f"The number of frames must be 4k + 1, got {x.shape[2]}.")
        gain = self.config.scale_factor_temporal**0.5
        first = _patchify(x[:, :, :1], 1, self.config.scale_factor_spatial) @ (gain * self.image_basis.T)
        rest = _patchify(x[:, :, 1:], self.config.scale_factor_temporal, self.config.scale_factor_spatial)
        z = torch.cat([first, rest @ self.video_basis.T], dim=1).permute(0, 4, 1, 2, 3)
        posterior = DiagonalGaussianDistribution(torch.cat([z, torch.full_like(z, -30.0)], dim=1), deterministic=True)
        return AutoencoderKLOutput(latent_dist=posterior) if return_dict else (posterior,)

    @apply_forward_hook
    def decode(self, z: torch.Tensor, return_dict: bool = True) -> DecoderOutput | tuple:
        """Latents ``(B, z_dim, 1+k, h, w)`` (not normalised) → pixels ``(B, 3, 1+4k, 8h, 8w)``, clamped to [-1, 1]."""
        gain = self.config.scale_factor_temporal**0.5
        tokens = z.permute(0, 2, 3, 4, 1)
        first, rest = tokens[:, :1] @ self.image_basis / gain, tokens[:, 1:] @ self.video_basis
        if self.refiner is not None:
            scale = torch.tensor(self.config.latents_std, device=z.device, dtype=z.dtype).view(1, -1, 1, 1, 1)
            extra = self.refiner(z / scale).permute(0, 2, 3, 4, 1)
            patch = self.image_basis.shape[1]
            first, rest = first + extra[:, :1, ..., :patch], rest + extra[:, 1:]
        size = self.config.scale_factor_spatial
        frames = [_unpatchify(first, 1, size), _unpatchify(rest, self.config.scale_factor_temporal, size)]
        sample = torch.cat(frames, dim=2).clamp(-1, 1)
        return DecoderOutput(sample=sample) if return_dict else (sample,)

    def forward(self, x: torch.Tensor) -> DecoderOutput:
        """Reconstruction of pixels ``(B, 3, T, H, W)``."""
        return self.decode(self.encode(x).latent_dist.mode())


class _LatentRefiner(nn.Module):
    """Residual 3×3 convolutions on the latent grid, each latent frame by itself; predicts a pixel-patch correction."""

    def __init__(self, z_dim: int, channels: int, blocks: int, patch: int) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(z_dim, channels, 3, padding=1)
        # The single first frame and the groups of four have latents of different meaning: each gets its own bias.
        self.frame_kind = nn.Parameter(torch.zeros(2, channels))
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.GroupNorm(8, channels),
                nn.Conv2d(channels, channels, 3, padding=1),
                nn.SiLU(),
                nn.Conv2d(channels, channels, 3, padding=1),
            )
            for _ in range(blocks)
        )
        self.conv_out = nn.Conv2d(channels, 4 * patch, 3, padding=1)
        nn.init.zeros_(self.conv_out.weight)
        nn.init.zeros_(self.conv_out.bias)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        batch, _, frames = z.shape[:3]
        kind = (torch.arange(frames, device=z.device) > 0).long().repeat(batch)
        hidden = self.conv_in(z.transpose(1, 2).flatten(0, 1)) + self.frame_kind[kind, :, None, None]
        for block in self.blocks:
            hidden = hidden + block(hidden)
        out = self.conv_out(F.silu(hidden))
        return out.unflatten(0, (batch, frames)).transpose(1, 2)


def _patchify(x: torch.Tensor, frames: int, size: int) -> torch.Tensor:
    """``(B, 3, k·frames, h·size, w·size)`` → ``(B, k, h, w, frames·3·size²)``."""
    x = x.unflatten(4, (-1, size)).unflatten(3, (-1, size)).unflatten(2, (-1, frames))
    return x.permute(0, 2, 4, 6, 3, 1, 5, 7).flatten(4)


def _unpatchify(x: torch.Tensor, frames: int, size: int) -> torch.Tensor:
    """The inverse of :func:`_patchify`."""
    x = x.unflatten(4, (frames, 3, size, size)).permute(0, 5, 1, 4, 2, 6, 3, 7)
    return x.flatten(6, 7).flatten(4, 5).flatten(2, 3)


def _first_motion_components(count: int) -> list[tuple[int, int]]:
    """A basis before fitting: temporal frequency 1 of the first components, then 2, then 3."""
    return [(i // 3, i % 3 + 1) for i in range(count)]
