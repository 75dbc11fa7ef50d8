"""Clips drawn while a network trains: every one is seen once, so that nothing can be learnt by heart.

A batch is a pure function of its number: training goes on after an interruption where it stopped, and several processes
draw different clips by counting apart.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from scail2.conditions import ConditionGeometry, SegmentConditions, build, encode_video, to_pixels
from scail2.data.sources import PairSource
from scail2.data.triplet_settings import SampleKind, TripletSettings, triplet_settings
from scail2.data.triplets import TrainingTriplet, draw_triplet
from scail2.models.autoencoder import AutoencoderPatchTransform
from scail2.puppets import PART_NAMES

# Two characters are harder than one and need their share.
_SHARES = {
    SampleKind.ANIMATION_SINGLE: 0.45,
    SampleKind.REPLACEMENT_SINGLE: 0.20,
    SampleKind.ANIMATION_MULTI: 0.18,
    SampleKind.REPLACEMENT_MULTI: 0.17,
}

_DETAILS = [number for number, name in enumerate(PART_NAMES, start=1) if name.startswith(("head", "hand"))]


@dataclass(frozen=True, kw_only=True, slots=True)
class FreshClipConfig:
    """What is drawn.

    Attributes:
        pairs: pairs of a batch, all of one kind; each gives two clips, either side the target.
        shares: relative frequency of the kinds.
        whole_share: share of batches with whole clips, which also may have history; the others are windows.
        window: latent frames of a window, at their true positions.
        history_share: share of whole clips whose first latent frames are clean.
        history_frames: how many of them.
        first_index: pairs are counted from here.
        others_share: share of batches from the other sources.
    """

    pairs: int = 1
    shares: Mapping[SampleKind, float] = field(default_factory=lambda: dict(_SHARES))
    whole_share: float = 0.25
    window: int = 2
    history_share: float = 0.4
    history_frames: int = 2
    first_index: int = 20_000_000
    others_share: float = 0.0

    def __post_init__(self) -> None:
        if self.pairs < 1 or self.window < 1 or self.history_frames < 1:
            raise ValueError("pairs, window and history_frames are at least 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class ClipBatch:
    """Clips of one kind: the network's inputs, and the truth as latents and as pixels."""

    conditions: SegmentConditions  # without history
    frame_offset: int  # latent frame of the clip at which it begins
    history_frames: int  # latent frames that are given clean
    latents: Tensor  # float32 (B, C, Tl, h, w), normalised
    pixels: Tensor  # float32 (B, 3, T, H, W) in [-1, 1]; T = 4·Tl − 3, or 4·Tl in mid-clip
    region: Tensor  # bool (B, T, H, W), where characters are
    details: Tensor  # bool (B, T, H, W), where heads and hands are

    @property
    def starts_clip(self) -> bool:
        """Whether the first latent frame is a clip's single first frame."""
        return self.frame_offset == 0


class FreshClips:
    """``clips(number)``: draws the pairs of a batch and makes everything of them that a network is given.

    Args:
        source: draws pairs of its split.
        vae: encodes them.
        geometry: of the transformer they are for.
        others: draw pairs of who is rarer.
    """

    def __init__(
        self,
        source: PairSource,
        vae: AutoencoderPatchTransform,
        geometry: ConditionGeometry,
        config: FreshClipConfig,
        triplets: TripletSettings | None = None,
        others: Sequence[PairSource] = (),
    ) -> None:
        self.others = tuple(others)
        self.source, self.vae, self.geometry, self.config = source, vae, geometry, config
        self._triplets = dataclasses.replace(triplets or triplet_settings("nano"), shares=config.shares)

    def __call__(self, number: int) -> ClipBatch:
        config = self.config
        generator = np.random.default_rng([config.first_index, number])
        source = self.source
        # Where nobody asks for others nothing is drawn: batches stay what their numbers always gave.
        if config.others_share and generator.random() < config.others_share:
            source = self.others[generator.integers(len(self.others))]
        kind = self._triplets.draw_kind(generator)
        triplets = []
        for index in range(number * config.pairs, (number + 1) * config.pairs):
            pair = source.pair(kind, config.first_index + index, generator)
            triplets += [draw_triplet(pair, kind, self._triplets, generator, swapped=side) for side in (False, True)]
        latents = torch.cat([encode_video(self.vae, to_pixels(triplet.target)) for triplet in triplets])
        frames, whole = latents.shape[2], bool(generator.random() < config.whole_share)
        window = frames if whole else min(config.window, frames)
        start = int(generator.integers(frames - window + 1))
        remembers = whole and generator.random() < config.history_share and frames > config.history_frames
        return ClipBatch(
            conditions=_cut(self._conditions(triplets), start, start + window),
            frame_offset=start,
            history_frames=config.history_frames if remembers else 0,
            latents=latents[:, :, start : start + window],
            pixels=torch.cat([to_pixels(triplet.target) for triplet in triplets])[:, :, _frames(start, window)],
            region=torch.stack([torch.from_numpy(triplet.region) for triplet in triplets])[:, _frames(start, window)],
            details=torch.stack([_details(triplet) for triplet in triplets])[:, _frames(start, window)],
        )

    def _conditions(self, triplets: list[TrainingTriplet]) -> SegmentConditions:
        return build(
            self.vae,
            self.geometry,
            mode=triplets[0].mode,
            reference=torch.cat([to_pixels(triplet.reference[None])[:, :, 0] for triplet in triplets]),
            reference_mask=torch.stack([torch.from_numpy(triplet.reference_mask) for triplet in triplets]),
            driving=torch.cat([to_pixels(triplet.driving) for triplet in triplets]),
            driving_mask=torch.stack([torch.from_numpy(triplet.driving_mask) for triplet in triplets]),
        )


def _details(triplet: TrainingTriplet) -> Tensor:
    """Heads and hands, bool ``(T, H, W)``; nothing where the source has no part maps."""
    if triplet.target_parts is None:
        return torch.zeros(triplet.region.shape, dtype=torch.bool)
    return torch.from_numpy(np.isin(triplet.target_parts, _DETAILS))


def _frames(start: int, window: int) -> slice:
    """The pixel frames of ``window`` latent frames from latent frame ``start``: 1 of the first, 4 of every other."""
    return slice(max(0, 4 * start - 3), 4 * (start + window) - 3)


def _cut(conditions: SegmentConditions, start: int, stop: int) -> SegmentConditions:
    """The conditions of the latent frames ``start`` … ``stop`` − 1."""
    return dataclasses.replace(
        conditions,
        driving_latents=conditions.driving_latents[:, :, start:stop],
        driving_masks=conditions.driving_masks[:, :, start:stop],
    )
