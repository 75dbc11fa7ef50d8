"""Pixels and masks in, model inputs out: the only place where the transformer's inputs are made.

Inference, latent caching and tests all call :func:`build` (or its three parts, when one part is shared by many
segments), so what the network sees while it learns is what it sees when it is used.

Shape legend: ``B`` batch, ``C`` latent channels, ``T`` pixel frames (4k+1), ``Tl`` latent frames (1 + (T-1)/4),
``H, W`` pixels, ``h, w`` the latent grid, ``N`` additional references.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scail2.devices import execution_device, without_gradients
from scail2.errors import InputError
from scail2.masks import THRESHOLD, mask_latent
from scail2.modes import MODE_TRAITS, AnimationMode


@dataclass(frozen=True, kw_only=True, slots=True)
class ConditionGeometry:
    """What the transformer expects of its inputs' sizes.

    Attributes:
        driving_downsample: 2 where driving frames enter at half height and width (the published model), 1 at full size.
        patch_size: latent cells per token along time, height and width.
    """

    driving_downsample: int = 2
    patch_size: tuple[int, int, int] = (1, 2, 2)

    @classmethod
    def of(cls, transformer: Any) -> ConditionGeometry:
        """Read the geometry from a transformer or from its config (object or mapping)."""
        config = getattr(transformer, "config", transformer)
        get = config.get if hasattr(config, "get") else lambda name: getattr(config, name)
        return cls(driving_downsample=int(get("driving_downsample")), patch_size=tuple(get("patch_size")))

    def size_step(self, vae: nn.Module) -> tuple[int, int]:
        """Pixel height and width must be multiples of these two numbers (32 and 32 for the published model)."""
        scale = vae.config.scale_factor_spatial * self.driving_downsample
        return scale * self.patch_size[1], scale * self.patch_size[2]

    def check_size(self, vae: nn.Module, height: int, width: int) -> None:
        """Refuse a size that does not divide into whole driving tokens, naming the nearest sizes that do."""
        step_h, step_w = self.size_step(vae)
        if height > 0 and width > 0 and height % step_h == 0 and width % step_w == 0:
            return
        near_h, near_w = (max(step, round(size / step) * step) for size, step in ((height, step_h), (width, step_w)))
        raise InputError(
            f"size {height}x{width} (height x width) does not fit the model: height must be a multiple of {step_h} and "
            f"width of {step_w}; the nearest size is {near_h}x{near_w}."
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class ReferenceConditions:
    """Reference pictures as latents: the part of the inputs that all segments of a video share."""

    latents: Tensor  # (B, C, 1, h, w)
    masks: Tensor  # (B, 28, 1, h, w) in [0, 1]
    additional_reference_latents: Tensor | None = None  # (B, C, N, h, w)
    additional_reference_masks: Tensor | None = None  # (B, 28, N, h, w)


@dataclass(frozen=True, kw_only=True, slots=True)
class DrivingConditions:
    """One segment of the driving video as latents, on the driving grid (h/2 x w/2, or h x w at full size)."""

    latents: Tensor  # (B, C, Tl, hd, wd)
    masks: Tensor  # (B, 28, Tl, hd, wd) in [0, 1]


@dataclass(frozen=True, kw_only=True, slots=True)
class SegmentConditions:
    """Everything the transformer needs for one segment, beside the noisy latents and the timestep."""

    mode: AnimationMode
    reference_latents: Tensor  # (B, C, 1, h, w), normalised
    reference_masks: Tensor  # (B, 28, 1, h, w) in [0, 1]
    driving_latents: Tensor  # (B, C, Tl, hd, wd), normalised
    driving_masks: Tensor  # (B, 28, Tl, hd, wd) in [0, 1]
    additional_reference_latents: Tensor | None = None  # (B, C, N, h, w)
    additional_reference_masks: Tensor | None = None  # (B, 28, N, h, w)
    history_latents: Tensor | None = None  # (B, C, Th, h, w): clean latents of the last output frames
    prompt_embeds: Tensor | None = None  # (B, 512, text_dim)
    image_embeds: Tensor | None = None  # (B, 257, image_dim)

    @property
    def batch(self) -> int:
        return self.reference_latents.shape[0]

    @property
    def latent_shape(self) -> tuple[int, int, int, int, int]:
        """Shape (B, C, Tl, h, w) of the video latents these conditions belong to."""
        batch, channels, _, height, width = self.reference_latents.shape
        return batch, channels, self.driving_latents.shape[2], height, width

    def num_tokens(self, geometry: ConditionGeometry) -> int:
        """Length of the transformer's token sequence: references, video and driving."""
        _, patch_h, patch_w = geometry.patch_size
        extra = 0 if self.additional_reference_latents is None else self.additional_reference_latents.shape[2]
        _, _, frames, height, width = self.latent_shape
        driving = self.driving_latents.shape
        cells = (frames + 1 + extra) * height * width + driving[2] * driving[3] * driving[4]
        return cells // (patch_h * patch_w)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> SegmentConditions:
        """A copy with every tensor moved to ``device`` and cast to ``dtype`` (``None`` keeps either)."""
        moved = {
            f.name: value.to(device=device, dtype=dtype)
            for f in fields(self)
            if isinstance(value := getattr(self, f.name), Tensor)
        }
        return replace(self, **moved)

    def history_mask(self) -> Tensor | None:
        """(B, 1, Tl, h, w), one on the clean history frames, zero on frames to generate; ``None`` without history."""
        if self.history_latents is None:
            return None
        batch, _, frames, height, width = self.latent_shape
        mask = self.history_latents.new_zeros(batch, 1, frames, height, width)
        mask[:, :, : self.history_latents.shape[2]] = 1
        return mask

    def with_history(self, latents: Tensor) -> Tensor:
        """``latents`` (B, C, Tl, h, w) with its first frames replaced by the clean history, if there is any."""
        if self.history_latents is None:
            return latents
        history = self.history_latents.to(device=latents.device, dtype=latents.dtype)
        return torch.cat([history, latents[:, :, history.shape[2] :]], dim=2)

    def model_kwargs(self) -> dict[str, Any]:
        """Keyword arguments of ``SCAIL2Transformer3DModel.forward``, all but ``hidden_states`` and ``timestep``."""
        return {
            "mode": self.mode,
            "encoder_hidden_states": self.prompt_embeds,
            "encoder_hidden_states_image": self.image_embeds,
            "reference_latents": self.reference_latents,
            "reference_masks": self.reference_masks,
            "driving_latents": self.driving_latents,
            "driving_masks": self.driving_masks,
            "additional_reference_latents": self.additional_reference_latents,
            "additional_reference_masks": self.additional_reference_masks,
            "history_mask": self.history_mask(),
        }


def _latent_statistics(vae: nn.Module, like: Tensor) -> tuple[Tensor, Tensor]:
    """The autoencoder's per-channel mean and standard deviation, shaped (1, C, 1, 1, 1) in float32."""
    mean, std = (
        torch.tensor(values, dtype=torch.float32, device=like.device).view(1, vae.config.z_dim, 1, 1, 1)
        for values in (vae.config.latents_mean, vae.config.latents_std)
    )
    return mean, std


@without_gradients
def encode_video(vae: nn.Module, pixels: Tensor) -> Tensor:
    """Encode pixels (B, 3, T, H, W) in [-1, 1], T = 4k+1, into normalised float32 latents (B, C, Tl, h, w).

    The distribution's mode is taken, never a sample, so encoding is deterministic.
    """
    latents = vae.encode(pixels.to(device=execution_device(vae), dtype=vae.dtype)).latent_dist.mode().float()
    mean, std = _latent_statistics(vae, latents)
    return (latents - mean) / std


@without_gradients
def decode_latents(vae: nn.Module, latents: Tensor, frames: range | None = None) -> Tensor:
    """Decode normalised latents (B, C, Tl, h, w) into float32 pixels (B, 3, 4(Tl-1)+1, H, W), clamped to [-1, 1].

    ``frames`` asks for some of them, which an autoencoder with ``decode_frames`` decodes alone: (B, 3, len(frames), H, W).
    """
    latents = latents.to(device=execution_device(vae), dtype=torch.float32)
    mean, std = _latent_statistics(vae, latents)
    latents = (latents * std + mean).to(vae.dtype)
    if frames is not None and hasattr(vae, "decode_frames"):
        pixels = vae.decode_frames(latents, frames)
    else:
        pixels = vae.decode(latents).sample[:, :, slice(None) if frames is None else slice(frames.start, frames.stop)]
    return pixels.float().clamp(-1.0, 1.0)


def character_region(mask: Tensor) -> Tensor:
    """Where an RGB mask (..., 3) uint8 shows a character: bool (...), a slot colour, neither white nor black."""
    on = mask > THRESHOLD
    return on.any(dim=-1) & ~on.all(dim=-1)


def blackout(reference: Tensor, mask: Tensor) -> Tensor:
    """``reference`` (B, 3, H, W) in [-1, 1], black wherever ``mask`` (B, H, W, 3) marks nothing, that is, shows black.

    Characters stay, and so does what is marked white: a background that is to be seen.
    """
    marked = (mask > THRESHOLD).any(dim=-1).unsqueeze(1).to(reference.device)
    return torch.where(marked, reference, torch.full_like(reference, -1.0))


def seen_reference(
    reference: Tensor, mask: Tensor, *, mode: AnimationMode | str, black_out_reference: bool = True
) -> Tensor:
    """A reference picture as the model is to see it: in replacement mode black outside what its mask marks.

    In animation mode the reference's background is part of the result and always stays. Shapes as in `blackout`.
    """
    hides = black_out_reference and MODE_TRAITS[AnimationMode.parse(mode)].black_out_reference
    return blackout(reference, mask) if hides else reference


def _check_pair(what: str, pixels: Tensor, mask: Tensor) -> None:
    """Pixels (B, 3, [T,] H, W) float and mask (B, [T,] H, W, 3) uint8 must describe the same frames."""
    expected = (pixels.shape[0], *pixels.shape[2:], 3)
    if pixels.shape[1] != 3 or not pixels.is_floating_point():
        raise InputError(
            f"{what}: pixels must be floating point with 3 channels, not {pixels.dtype} {tuple(pixels.shape)}."
        )
    if mask.dtype != torch.uint8 or tuple(mask.shape) != expected:
        raise InputError(
            f"{what}: the mask must be uint8 RGB of shape {expected} to match the pixels, "
            f"not {mask.dtype} {tuple(mask.shape)}."
        )


def encode_references(
    vae: nn.Module,
    *,
    mode: AnimationMode | str,
    reference: Tensor,
    reference_mask: Tensor,
    additional_references: Tensor | None = None,
    additional_reference_masks: Tensor | None = None,
    black_out_reference: bool = True,
) -> ReferenceConditions:
    """Encode the primary and the additional reference pictures.

    Args:
        reference: (B, 3, H, W) float in [-1, 1]. ``reference_mask``: (B, H, W, 3) uint8 RGB in the palette.
        additional_references: (B, N, 3, H, W) float, each encoded as a picture of its own, with
            ``additional_reference_masks`` (B, N, H, W, 3) uint8; both or neither.
        black_out_reference: see `seen_reference`.

    Returns:
        Latents float32 and masks float32 on the latent grid.
    """
    _check_pair("reference", reference, reference_mask)

    def one(picture: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        seen = seen_reference(picture, mask, mode=mode, black_out_reference=black_out_reference)
        latents = encode_video(vae, seen.unsqueeze(2))
        return latents, mask_latent(mask.unsqueeze(1).to(latents.device), half_size=False)

    latents, masks = one(reference, reference_mask)
    if additional_references is None and additional_reference_masks is None:
        return ReferenceConditions(latents=latents, masks=masks)
    if additional_references is None or additional_reference_masks is None:
        raise InputError("additional references need one mask each: give both additional references and their masks.")
    if additional_references.shape[:2] != additional_reference_masks.shape[:2]:
        raise InputError(
            f"additional references and their masks differ in number: {tuple(additional_references.shape[:2])} "
            f"pictures (batch, count) but {tuple(additional_reference_masks.shape[:2])} masks."
        )
    extra = []
    for picture, mask in zip(additional_references.unbind(1), additional_reference_masks.unbind(1), strict=True):
        _check_pair("additional reference", picture, mask)
        extra.append(one(picture, mask))
    return ReferenceConditions(
        latents=latents,
        masks=masks,
        additional_reference_latents=torch.cat([pair[0] for pair in extra], dim=2),
        additional_reference_masks=torch.cat([pair[1] for pair in extra], dim=2),
    )


def halve(pixels: Tensor) -> Tensor:
    """Pixels (B, 3, T, H, W) at half height and width, frame by frame, bilinear (H and W even: a 2x2 mean)."""
    batch, _, frames, height, width = pixels.shape
    flat = pixels.transpose(1, 2).flatten(0, 1)
    small = F.interpolate(flat, size=(height // 2, width // 2), mode="bilinear", align_corners=False)
    return small.unflatten(0, (batch, frames)).transpose(1, 2)


def encode_driving(
    vae: nn.Module, geometry: ConditionGeometry, *, driving: Tensor, driving_mask: Tensor
) -> DrivingConditions:
    """Encode one segment of the driving video.

    Args:
        driving: (B, 3, T, H, W) float in [-1, 1], T = 4k+1; halved when ``geometry.driving_downsample`` is 2.
        driving_mask: (B, T, H, W, 3) uint8 RGB in the palette; halved the same way before its threshold.
    """
    _check_pair("driving video", driving, driving_mask)
    if geometry.driving_downsample not in (1, 2):
        raise InputError(f"driving_downsample must be 1 or 2, not {geometry.driving_downsample}.")
    frames, stride = driving.shape[2], vae.config.scale_factor_temporal
    if (frames - 1) % stride:
        raise InputError(f"a segment must have {stride}n+1 frames, not {frames}: pad it by repeating its last frame.")
    half = geometry.driving_downsample == 2
    latents = encode_video(vae, halve(driving) if half else driving)
    return DrivingConditions(latents=latents, masks=mask_latent(driving_mask.to(latents.device), half_size=half))


def assemble(
    *,
    mode: AnimationMode | str,
    reference: ReferenceConditions,
    driving: DrivingConditions,
    history_latents: Tensor | None = None,
    prompt_embeds: Tensor | None = None,
    image_embeds: Tensor | None = None,
) -> SegmentConditions:
    """Join separately encoded parts into one segment's conditions; batch sizes must agree."""
    if reference.latents.shape[0] != driving.latents.shape[0]:
        raise InputError(
            f"{reference.latents.shape[0]} references for {driving.latents.shape[0]} driving videos in one batch: "
            "give one reference per driving video."
        )
    return SegmentConditions(
        mode=AnimationMode.parse(mode),
        reference_latents=reference.latents,
        reference_masks=reference.masks,
        driving_latents=driving.latents,
        driving_masks=driving.masks,
        additional_reference_latents=reference.additional_reference_latents,
        additional_reference_masks=reference.additional_reference_masks,
        history_latents=history_latents,
        prompt_embeds=prompt_embeds,
        image_embeds=image_embeds,
    )


def build(
    vae: nn.Module,
    geometry: ConditionGeometry,
    *,
    mode: AnimationMode | str,
    reference: Tensor,
    reference_mask: Tensor,
    driving: Tensor,
    driving_mask: Tensor,
    additional_references: Tensor | None = None,
    additional_reference_masks: Tensor | None = None,
    history: Tensor | None = None,
    prompt_embeds: Tensor | None = None,
    image_embeds: Tensor | None = None,
    black_out_reference: bool = True,
) -> SegmentConditions:
    """Make all model inputs of one segment from pixels, masks and (optional) precomputed embeddings.

    Args:
        vae: an autoencoder of ``AutoencoderKLWan``'s interface.
        geometry: see :class:`ConditionGeometry`.
        reference, reference_mask, additional_references, additional_reference_masks, black_out_reference:
            see :func:`encode_references`.
        driving, driving_mask: see :func:`encode_driving`.
        history: (B, 3, 4k+1, H, W) float in [-1, 1], the last output frames of the segment before (5 in the published
            scheme, giving 2 latent frames), or ``None`` for a first segment.

    Raises:
        InputError: sizes that are no multiple of the model's step, wrong frame counts, mask and pixels that disagree.
    """
    geometry.check_size(vae, *driving.shape[-2:])
    if reference.shape[-2:] != driving.shape[-2:]:
        raise InputError(
            f"the reference is {tuple(reference.shape[-2:])} and the driving video {tuple(driving.shape[-2:])} "
            "(height, width): resize both to one size first."
        )
    return assemble(
        mode=mode,
        reference=encode_references(
            vae,
            mode=mode,
            reference=reference,
            reference_mask=reference_mask,
            additional_references=additional_references,
            additional_reference_masks=additional_reference_masks,
            black_out_reference=black_out_reference,
        ),
        driving=encode_driving(vae, geometry, driving=driving, driving_mask=driving_mask),
        history_latents=None if history is None else encode_video(vae, history),
        prompt_embeds=prompt_embeds,
        image_embeds=image_embeds,
    )


def to_pixels(frames: np.ndarray) -> Tensor:
    """uint8 `(T, H, W, 3)` → float `(1, 3, T, H, W)` in [-1, 1]."""
    return (
        torch.from_numpy(np.require(frames, requirements=["C", "W"]))
        .permute(3, 0, 1, 2)
        .float()
        .div_(127.5)
        .sub_(1.0)[None]
    )
