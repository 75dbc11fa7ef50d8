"""A patch autoencoder for small models: an orthonormal linear transform, and a U-Net that refines what it decodes.

It has the interface and the strides of ``AutoencoderKLWan`` (4×8×8, first frame alone), costs next to nothing to encode,
and its latents are known before any training: a principal-component basis of pixel patches.
"""

import contextlib
from collections.abc import Sequence

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput, DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils.accelerate_utils import apply_forward_hook

from scail2.devices import has_native_bf16
from scail2.models.pixel_refiner import PixelRefiner

# Frames that are refined at once: memory does not grow with the length of a segment.
_REFINED_AT_ONCE = 8


class AutoencoderPatchTransform(ModelMixin, ConfigMixin):
    """Encodes 8×8 pixels × 4 frames (the first frame alone) into ``z_dim`` channels by an orthonormal linear transform.

    The basis is separable: principal components of 8×8 RGB patches times the 4-point DCT over time. Channels that are
    constant over the four frames come first and mean the same in the first, single frame, whose gain is 2 so that a
    still picture has equal latents everywhere; the other channels carry motion in the video and finer spatial components in
    the first frame. Decoding is the transpose, and, where ``refiner_widths`` are given, a `PixelRefiner` that corrects each
    decoded frame from itself and its neighbours (a clip's first and last frame stand in for the missing ones).

    Args:
        z_dim: latent channels.
        num_static_channels: how many of them are constant over a group's four frames.
        refiner_widths: channels of the refiner's levels; empty leaves the plain linear decoder.
        refiner_blocks: residual blocks of each of its levels.
        latents_mean: per-channel mean of the latents, ``z_dim`` numbers.
        latents_std: per-channel scale of the latents, ``z_dim`` numbers (one value for all keeps the spectrum's shape).
    """

    @register_to_config
    def __init__(
        self,
        z_dim: int = 64,
        num_static_channels: int = 40,
        refiner_widths: Sequence[int] = (),
        refiner_blocks: Sequence[int] = (),
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
        self.refiner = PixelRefiner(refiner_widths, refiner_blocks) if refiner_widths else None

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
        sample = self.decode_frames(z, range(1 + self.config.scale_factor_temporal * (z.shape[2] - 1)))
        return DecoderOutput(sample=sample) if return_dict else (sample,)

    @apply_forward_hook
    def decode_frames(self, z: torch.Tensor, frames: range) -> torch.Tensor:
        """Only ``frames`` of what :meth:`decode` gives, at their share of its cost: ``(B, 3, len(frames), 8h, 8w)``."""
        sample = self.decode_linear(z)
        if self.refiner is None:
            return sample[:, :, frames.start : frames.stop]
        starts = frames[::_REFINED_AT_ONCE]
        spans = [range(start, min(start + _REFINED_AT_ONCE, frames.stop)) for start in starts]
        return torch.cat([self.refine(sample, span) for span in spans], dim=2).clamp(-1, 1)

    def decode_linear(self, z: torch.Tensor, first_alone: bool = True) -> torch.Tensor:
        """What :meth:`decode` makes of latents before it refines; ``first_alone=False`` where they begin in mid-clip.

        Returns:
            Pixels ``(B, 3, 1+4k, 8h, 8w)``, or ``(B, 3, 4k, 8h, 8w)``, clamped to [-1, 1].
        """
        size, group = self.config.scale_factor_spatial, self.config.scale_factor_temporal
        tokens = z.permute(0, 2, 3, 4, 1)
        frames = []
        if first_alone:
            frames.append(_unpatchify(tokens[:, :1] @ self.image_basis / group**0.5, 1, size))
            tokens = tokens[:, 1:]
        frames.append(_unpatchify(tokens @ self.video_basis, group, size))
        return torch.cat(frames, dim=2).clamp(-1, 1)

    def refine(self, sample: torch.Tensor, frames: range) -> torch.Tensor:
        """The refined ``frames`` of a decoded clip ``(B, 3, T, H, W)``: ``(B, 3, len(frames), H, W)``, not clamped.

        In bfloat16 on processors that multiply it natively; the result has the clip's dtype.
        """
        if self.refiner is None:
            return sample[:, :, frames.start : frames.stop]
        reach = self.refiner.neighbours
        shown = torch.arange(frames.start - reach, frames.stop + reach).clamp(0, sample.shape[2] - 1)
        windows = sample[:, :, shown.to(sample.device)].unfold(2, 2 * reach + 1, 1)  # (B, 3, n, H, W, window)
        windows = windows.permute(0, 2, 5, 1, 3, 4).flatten(2, 3).flatten(0, 1)
        fast = sample.dtype == torch.float32 and has_native_bf16(sample.device)
        with torch.autocast(sample.device.type, dtype=torch.bfloat16) if fast else contextlib.nullcontext():
            correction = self.refiner(windows)
        correction = correction.to(sample.dtype).unflatten(0, (len(sample), len(frames))).transpose(1, 2)
        return sample[:, :, frames.start : frames.stop] + correction

    def forward(self, x: torch.Tensor) -> DecoderOutput:
        """Reconstruction of pixels ``(B, 3, T, H, W)``."""
        return self.decode(self.encode(x).latent_dist.mode())


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
