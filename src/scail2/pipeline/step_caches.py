"""Step caches of diffusers around this network: which settings are safe, and forgetting between segments.

diffusers' caches reuse a block's result from an earlier step. Several of them misbehave silently here (a stale residual
from the segment before, guidance switched off, nothing hooked at all); this module turns each such case into an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import FirstBlockCacheConfig, MagCacheConfig, PyramidAttentionBroadcastConfig
from diffusers.hooks import TaylorSeerCacheConfig

from scail2.errors import InputError
from scail2.request.speed import Magnitudes

# TaylorSeer matches names fully, and its defaults match no module of a Wan block.
TAYLORSEER_PATTERNS = (r"blocks\.\d+\.attn[12]",)
_TAYLORSEER_HOOK = "taylorseer_cache"


def taylorseer_config(**settings: Any) -> TaylorSeerCacheConfig:
    """``TaylorSeerCacheConfig`` that caches both attentions of every block; ``settings`` are its other fields."""
    return TaylorSeerCacheConfig(cache_identifiers=list(TAYLORSEER_PATTERNS), **settings)


@dataclass(kw_only=True)
class MagnitudeCacheConfig(MagCacheConfig):
    """``MagCacheConfig`` for any number of steps and any schedule: its ratios are those of ``magnitudes`` at a segment's steps.

    The last step is always computed: nothing after it mends a guess, which would cost six decibels with the embedded model.
    """

    magnitudes: Magnitudes

    def __post_init__(self) -> None:
        self.fit(self.magnitudes.timesteps)
        super().__post_init__()

    def fit(self, timesteps: Sequence[float]) -> None:
        """Takes on a schedule; the hooks, which hold this object, go by it from their next step on."""
        self.num_inference_steps = len(timesteps)
        self.mag_ratios = torch.tensor([*self.magnitudes.ratios(timesteps)[:-1], torch.inf])


def begin_segment(transformer: torch.nn.Module, timesteps: torch.Tensor) -> None:
    """Forget what step caches remember: a new segment starts from new noise, and an old residual would be wrong.

    Args:
        timesteps: of all the segment's steps, in 0..1000.

    Raises:
        InputError: a plain ``MagCacheConfig`` was made for another number of steps; it would start over in the middle.
    """
    if not transformer.is_cache_enabled:
        return
    transformer._reset_stateful_cache()
    config, steps = transformer._cache_config, len(timesteps)
    if isinstance(config, MagnitudeCacheConfig):
        config.fit(timesteps.tolist())
    elif isinstance(config, MagCacheConfig) and config.num_inference_steps != steps:
        raise InputError(
            f"MagCache was enabled for {config.num_inference_steps} steps, and this segment has {steps}: enable it with "
            f"num_inference_steps={steps}, or with scail2.pipeline.step_caches.MagnitudeCacheConfig, which fits any number."
        )


def check_caches(transformer: torch.nn.Module, *, guided: bool) -> None:
    """Refuse an enabled cache that would give wrong results without saying so.

    Args:
        guided: more than one forward pass is made per step.
    """
    config = transformer._cache_config
    if config is None:
        return
    if isinstance(config, PyramidAttentionBroadcastConfig) and guided:
        raise InputError(
            "Pyramid Attention Broadcast shares one state between the guided and the unguided pass, which would switch "
            "guidance off unnoticed: use guidance_scale=1.0 or another cache (FirstBlockCache, MagCache)."
        )
    if isinstance(config, FirstBlockCacheConfig) and _context_parallel(transformer) is not None:
        raise InputError(
            "First Block Cache decides by its own rank's tokens, so under context parallelism ranks may disagree and "
            "hang: use MagCache or TaylorSeer, which decide by the step."
        )
    if isinstance(config, TaylorSeerCacheConfig) and not _hooked(transformer, _TAYLORSEER_HOOK):
        raise InputError(
            "TaylorSeer is enabled but its patterns match no module of this network, so nothing is cached: "
            "enable it with scail2.pipeline.step_caches.taylorseer_config()."
        )


def check_token_split(transformer: torch.nn.Module, num_tokens: int) -> None:
    """Refuse a token count that context parallelism cannot split evenly, before any device waits for another."""
    config = _context_parallel(transformer)
    if config is None or config.ulysses_anything or config.ring_anything:
        return
    ways = config.ulysses_degree * config.ring_degree
    if num_tokens % ways:
        raise InputError(
            f"{num_tokens} tokens do not split over {ways} devices: choose another size, or ulysses_anything=True."
        )


def _context_parallel(transformer: torch.nn.Module) -> Any | None:
    return getattr(transformer._parallel_config, "context_parallel_config", None)


def _hooked(transformer: torch.nn.Module, hook: str) -> bool:
    registries = (getattr(module, "_diffusers_hook", None) for module in transformer.modules())
    return any(hook in registry.hooks for registry in registries if registry is not None)
