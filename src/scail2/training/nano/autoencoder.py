"""Fits the patch autoencoder's basis by principal components."""

from collections.abc import Iterable

import torch

from scail2.devices import without_gradients
from scail2.models.autoencoder import AutoencoderPatchTransform


@without_gradients
def fit_basis(vae: AutoencoderPatchTransform, clips: Iterable[torch.Tensor]) -> AutoencoderPatchTransform:
    """Returns an autoencoder of the same size with the basis that keeps most variance, and its latent statistics set.

    Args:
        vae: gives the sizes (``z_dim``, strides).
        clips: pixels ``(1, 3, 1+4k, H, W)`` in [-1, 1]; a few hundred are plenty.
    """
    size, frames = vae.config.scale_factor_spatial, vae.config.scale_factor_temporal
    clips = list(clips)
    patches = torch.cat([_spatial_patches(clip[:, :, 1:], size, frames) for clip in clips])  # (N, frames, P)
    dct = AutoencoderPatchTransform.temporal_basis(frames).float()
    spectrum = torch.einsum("ft,ntp->nfp", dct, patches)
    static = spectrum[:, 0].double()
    _, vectors = torch.linalg.eigh(static.T @ static)
    components = vectors.flip(1).T.contiguous()
    power = (spectrum.double() @ components.T).square().mean(0)  # (frequency, component)
    ranked = power.flatten().argsort(descending=True)[: vae.config.z_dim].tolist()
    chosen = [divmod(i, power.shape[1]) for i in ranked]
    motion = [(component, frequency) for frequency, component in chosen if frequency > 0]
    fitted = AutoencoderPatchTransform(
        z_dim=vae.config.z_dim,
        num_static_channels=vae.config.z_dim - len(motion),
        scale_factor_temporal=frames,
        scale_factor_spatial=size,
    )
    fitted.set_basis(components.float(), motion)
    latents = torch.cat([fitted.encode(clip).latent_dist.mode().movedim(1, 0).flatten(1) for clip in clips], dim=1)
    mean = latents.mean(1)
    # One scale for all channels: whitening each would make the network spend itself on texture nobody sees.
    scale = (latents - mean[:, None]).std().item()
    fitted.register_to_config(latents_mean=mean.tolist(), latents_std=[scale] * vae.config.z_dim)
    return fitted


def reconstruction_psnr(vae: AutoencoderPatchTransform, clip: torch.Tensor) -> float:
    """Peak signal-to-noise ratio in dB of a clip ``(1, 3, T, H, W)`` in [-1, 1] through the autoencoder."""
    error = (vae(clip).sample - clip).square().mean()
    return float(10 * torch.log10(4 / error))


def _spatial_patches(x: torch.Tensor, size: int, frames: int) -> torch.Tensor:
    """``(1, 3, k·frames, H, W)`` → ``(N, frames, 3·size²)``."""
    x = x.unflatten(4, (-1, size)).unflatten(3, (-1, size)).unflatten(2, (-1, frames))
    return x.permute(0, 2, 4, 6, 3, 1, 5, 7).flatten(5).flatten(0, 3)
