"""Flow matching, as pure functions: noise levels, noising and the weighted loss.

x_t = (1 − t)·x0 + t·noise and v = noise − x0; the network predicts v for ``timestep`` = 1000·t.
"""

import math

import torch

from scail2.training.config import LossConfig, TimestepConfig

# Tokens in a frame -> μ of the resolution-dependent shift (spec §6); linear between, extrapolated outside.
_MU_AT_TOKENS = ((256, 0.5), (4096, 1.15))


def shift_for_tokens(tokens_per_frame: int) -> float:
    """The factor e^μ, μ linear in the tokens of a frame: 0.5 at 256, 1.15 at 4096."""
    (low, mu_low), (high, mu_high) = _MU_AT_TOKENS
    return math.exp(mu_low + (mu_high - mu_low) * (tokens_per_frame - low) / (high - low))


def shift_timesteps(t: torch.Tensor, shift: float) -> torch.Tensor:
    """t' = s / (s + 1/t − 1), equal to s·t / (1 + (s − 1)·t), for t in (0, 1]."""
    return shift * t / (1 + (shift - 1) * t)


def sample_timesteps(
    count: int, config: TimestepConfig, tokens_per_frame: int, generator: torch.Generator
) -> torch.Tensor:
    """Draws noise levels.

    Returns:
        float32 ``(count,)`` in (0, 1], on the CPU.
    """
    normal = torch.randn(count, generator=generator) * config.std + config.mean
    shift = config.shift if config.shift is not None else shift_for_tokens(tokens_per_frame)
    t = shift_timesteps(torch.sigmoid(normal), shift)
    at_one = torch.rand(count, generator=generator) < config.pure_noise
    return torch.where(at_one, torch.ones_like(t), t)


def add_noise(sample: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """x_t for ``sample`` and ``noise`` ``(B, C, T, H, W)`` and ``t`` ``(B,)``."""
    t = t.view(-1, 1, 1, 1, 1)
    return (1 - t) * sample + t * noise


def flow_matching_loss(
    velocity: torch.Tensor,
    target: torch.Tensor,
    t: torch.Tensor,
    weight: torch.Tensor,
    config: LossConfig,
    rows: slice = slice(None),
) -> torch.Tensor:
    """The weighted mean squared error of a velocity.

    In "sample" space the error is that of x̂0 = x_t − t·v̂, i.e. t·(v̂ − v), divided by max(t, minimum_t); this holds
    whatever the network predicts, because its prediction is turned into a velocity first.

    Args:
        velocity, target: ``(B, C, T, H, W)``.
        t: ``(B,)`` in (0, 1].
        weight: ``(B, 1, T, H, W)``; 0 takes a cell out of the loss (history, masked regions).
        rows: the samples of the batch that ``velocity``, ``target`` and ``t`` are of; ``weight`` is all samples', and the result
            is their part of the batch's loss.

    Returns:
        A scalar: the mean of the samples' weighted sums over all their elements, or, with ``config.reduction`` "kept", the
        batch's weighted sum over the sum of its weights.
    """
    error = squared_error(velocity, target, t, config) * weight[rows]
    if config.reduction == "kept":
        return error.sum() / weight.sum().clamp(min=1e-6)
    return error.mean() * (len(error) / len(weight))


def squared_error(velocity: torch.Tensor, target: torch.Tensor, t: torch.Tensor, config: LossConfig) -> torch.Tensor:
    """What each latent cell is wrong by in ``config.space``: ``(B, 1, T, H, W)``, the mean of its channels."""
    error = (velocity.float() - target.float()).square().mean(dim=1, keepdim=True)
    if config.space == "sample":
        error = error * (t.square() / t.clamp(min=config.minimum_t)).view(-1, 1, 1, 1, 1)
    return error
