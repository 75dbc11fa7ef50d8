"""Which samples a step trains on: a pure function of (seed, step), so that resuming needs no sampler state.

How many processes share the work changes nothing of that: each takes its part of the same micro-batches.
"""

from dataclasses import dataclass, field, replace

import torch

from scail2.data.samples import LatentBatch
from scail2.training.config import MixtureKnot


@dataclass(frozen=True, slots=True)
class TrainingBatch:
    """Cached samples of one position mode, cut to the same window that starts at latent frame ``frame_offset``.

    ``rows`` are the samples that this process computes where several share the batch: draws and normalisers are those of the
    whole batch, and the parts' losses add up to its loss.
    """

    latents: LatentBatch
    frame_offset: int = 0
    rows: slice = field(default_factory=lambda: slice(None))

    def to(self, device: torch.device) -> "TrainingBatch":
        """The same batch on ``device``."""
        return replace(self, latents=self.latents.to(device))


# Everything of a batch that runs along the video; references are never cut.
_ALONG_TIME = (
    "target", "driving", "driving_mask", "character", "parts_target", "parts_driving", "excluded", "rejected", "regions",
)  # fmt: skip


def cut_window(latents: LatentBatch, start: int, length: int) -> TrainingBatch:
    """Keeps ``length`` latent frames from ``start``, at their true positions."""
    values = {name: getattr(latents, name) for name in _ALONG_TIME}
    cut = {name: value[:, :, start : start + length] for name, value in values.items() if value is not None}
    return TrainingBatch(replace(latents, **cut), start)


def step_generator(seed: int, step: int, purpose: int) -> torch.Generator:
    """A generator that depends on nothing but its arguments."""
    # splitmix-style mixing keeps neighbouring steps' streams unrelated
    value = (seed * 0x9E3779B97F4A7C15 + step * 0xBF58476D1CE4E5B9 + purpose * 0x94D049BB133111EB) & (2**63 - 1)
    value = ((value ^ (value >> 31)) * 0x94D049BB133111EB) & (2**63 - 1)
    return torch.Generator().manual_seed(value)


def mixture_at(samples: int, knots: tuple[MixtureKnot, ...]) -> dict[str, float]:
    """Shares of the kinds after ``samples`` samples, linear between knots and constant outside; they sum to 1.

    Without knots there are no shares: every cached sample counts alike.
    """
    if not knots:
        return {}
    before = max((k for k in knots if k.samples <= samples), key=lambda k: k.samples, default=knots[0])
    after = min((k for k in knots if k.samples > samples), key=lambda k: k.samples, default=before)
    span = after.samples - before.samples
    place = (samples - before.samples) / span if span > 0 else 0.0
    first, second = dict(before.shares), dict(after.shares)
    shares = {k: (1 - place) * first.get(k, 0.0) + place * second.get(k, 0.0) for k in sorted(first | second)}
    total = sum(shares.values())
    return {kind: share / total for kind, share in shares.items() if share > 0}
