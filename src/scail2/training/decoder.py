"""Trains the patch autoencoder's refining decoder, also on latents that the transformer generates.

A transformer's one-step prediction is a little blurred and shows the grid of its tokens; a decoder that has seen such
latents beside the true picture removes part of both. True latents stay in the mix, so that encoding and decoding a clip
(the history between segments) gets better, too.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from scail2.conditions import ConditionGeometry, build, encode_video
from scail2.data.cache import to_pixels
from scail2.data.triplets import TrainingTriplet
from scail2.models.autoencoder import AutoencoderPatchTransform
from scail2.training.parallel import ParallelContext

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class DecoderSample:
    """A clip with its true and its generated latents, both normalised."""

    pixels: torch.Tensor  # uint8 (3, T, H, W)
    region: torch.Tensor  # bool (T, H, W), where characters are
    true: torch.Tensor  # float16 (C, Tl, h, w)
    generated: torch.Tensor  # float16 (C, Tl, h, w)


@dataclass(frozen=True, kw_only=True, slots=True)
class DecoderTraining:
    """How long and on what the decoder is trained; ``crop`` pixels, ``frames`` 4k+1, ``generated_share`` of the crops."""

    minutes: float = 15.0
    learning_rate: float = 1e-3
    batch_size: int = 8
    crop: int = 64
    frames: int = 9
    generated_share: float = 0.7
    character_weight: float = 3.0
    seed: int = 0


@torch.no_grad()
def decoder_sample(
    vae: AutoencoderPatchTransform, transformer: nn.Module, triplet: TrainingTriplet, generator: torch.Generator
) -> DecoderSample:
    """What the transformer makes of a triplet in one step from pure noise, beside the truth."""
    conditions = build(
        vae,
        ConditionGeometry.of(transformer),
        mode=triplet.mode,
        reference=to_pixels(triplet.reference[None])[:, :, 0],
        reference_mask=torch.from_numpy(triplet.reference_mask)[None],
        driving=to_pixels(triplet.driving),
        driving_mask=torch.from_numpy(triplet.driving_mask)[None],
    )
    noise = torch.randn(conditions.latent_shape, generator=generator)
    velocity = transformer(noise, torch.full((1,), 1000.0), **conditions.model_kwargs()).sample
    return DecoderSample(
        pixels=torch.from_numpy(triplet.target).permute(3, 0, 1, 2).contiguous(),
        region=torch.from_numpy(triplet.region),
        true=encode_video(vae, to_pixels(triplet.target))[0].half(),
        generated=(noise - velocity)[0].half(),
    )


def with_refiner(linear: AutoencoderPatchTransform, channels: int, blocks: int) -> AutoencoderPatchTransform:
    """The same basis and statistics with a fresh refining decoder, which at first changes nothing."""
    config = {k: v for k, v in linear.config.items() if not k.startswith("_")}
    vae = AutoencoderPatchTransform(**{**config, "decoder_channels": channels, "decoder_blocks": blocks})
    vae.load_state_dict(linear.state_dict(), strict=False)
    return vae


def train_decoder(
    vae: AutoencoderPatchTransform, pool: Sequence[DecoderSample], config: DecoderTraining, context: ParallelContext
) -> int:
    """Trains ``vae.refiner`` in place on random crops of ``pool``; returns the number of steps taken."""
    shape = (1, -1, 1, 1, 1)
    mean, std = (torch.tensor(v).view(shape) for v in (vae.config.latents_mean, vae.config.latents_std))
    generator = torch.Generator().manual_seed(config.seed)
    parameters = list(vae.refiner.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=config.learning_rate, betas=(0.9, 0.99), weight_decay=0.0)
    started, step = time.monotonic(), 0
    while (progress := (time.monotonic() - started) / (60 * config.minutes)) < 1:
        factor = min(1.0, 2.0 * (1 - progress) + 0.02) * min(1.0, (step + 1) / 50)
        optimizer.param_groups[0]["lr"] = config.learning_rate * factor
        pixels, weight, latents = random_crops(pool, config, vae.config.scale_factor_spatial, generator)
        with context.autocast("auto"):
            decoded = vae.decode(latents * std + mean).sample
        loss = refiner_loss(decoded.float(), pixels, weight)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step += 1
        if step % 100 == 0:
            logger.info("decoder step %d, %.0f %% of the time, loss %.5f", step, 100 * progress, loss.item())
    return step


def random_crops(
    pool: Sequence[DecoderSample], config: DecoderTraining, stride: int, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Pixels ``(B, 3, T, s, s)`` in [-1, 1], weights ``(B, 1, T, s, s)`` and latents ``(B, C, Tl, s/8, s/8)``.

    Cut on the grid of the latents; always from a clip's beginning in time, because its first frame is coded alone.
    """
    pixels, weights, latents = [], [], []
    cells = config.crop // stride
    for index in torch.randint(len(pool), (config.batch_size,), generator=generator).tolist():
        sample = pool[index]
        height, width = sample.true.shape[-2:]
        top = int(torch.randint(height - cells + 1, (), generator=generator))
        left = int(torch.randint(width - cells + 1, (), generator=generator))
        rows, columns = slice(top * stride, (top + cells) * stride), slice(left * stride, (left + cells) * stride)
        pixels.append(sample.pixels[:, : config.frames, rows, columns].float() / 127.5 - 1)
        weights.append(1 + config.character_weight * sample.region[None, : config.frames, rows, columns].float())
        chosen = torch.rand((), generator=generator) < config.generated_share
        source = sample.generated if chosen else sample.true
        latent_frames = 1 + (config.frames - 1) // 4
        latents.append(source[:, :latent_frames, top : top + cells, left : left + cells].float())
    return torch.stack(pixels), torch.stack(weights), torch.stack(latents)


def refiner_loss(decoded: torch.Tensor, truth: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Squared and a little absolute error of pixels, plus the absolute error of image gradients.

    Args:
        decoded, truth: ``(B, 3, T, H, W)`` in [-1, 1].
        weight: ``(B, 1, T, H, W)``, larger on characters.
    """
    difference = decoded - truth
    pixel = (weight * (difference.square() + 0.05 * difference.abs())).mean()
    edges = sum((weight.narrow(d, 1, weight.shape[d] - 1) * difference.diff(dim=d).abs()).mean() for d in (3, 4))
    return pixel + 0.05 * edges
