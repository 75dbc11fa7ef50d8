"""Preference pairs → cached latents: the triplet of the preferred video, and beside it the rejected one and the regions."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor, nn

from scail2 import conditions
from scail2.conditions import to_pixels
from scail2.data.cache import CacheSettings
from scail2.data.coverage import latent_coverage
from scail2.data.pairs import Clip, MotionPair
from scail2.data.preferences import PreferencePair, PreferenceShards
from scail2.data.shards import DamagedSample, ShardWriter
from scail2.data.triplet_encoding import encode_triplet, sample_record
from scail2.data.triplet_settings import TripletSettings
from scail2.data.triplets import TrainingTriplet, draw_triplet
from scail2.errors import InputError
from scail2.execution.tasks import Watch
from scail2.loading.components import load_autoencoder


@dataclass(frozen=True, kw_only=True)
class PreferenceCacheWork(CacheSettings):
    """Preference pairs as samples. Picklable.

    With more samples than pairs, each pair gives several, with slots and augmentation of their own.
    """

    pairs: PreferenceShards

    @property
    def sizes(self) -> list[int]:
        """Samples of each shard."""
        starts = range(0, self.samples, self.samples_per_shard)
        return [min(self.samples, start + self.samples_per_shard) - start for start in starts]

    def describe(self) -> dict[str, Any]:
        """See `described`."""
        return self.described(self.pairs.describe())

    def write_shard(self, writer: ShardWriter, number: int, watch: Watch) -> None:
        """Makes the samples of one shard."""
        vae = load_autoencoder(self.autoencoder)
        geometry = conditions.ConditionGeometry(driving_downsample=self.driving_downsample)
        first = number * self.samples_per_shard
        for index in range(first, first + self.sizes[number]):
            key = f"{index:07d}"
            left_out = watch.begin(key)
            try:
                if left_out is not None:
                    raise InputError(left_out)
                pair = self.pairs.pair(index)
                triplet = preference_triplet(pair, self.triplets, np.random.default_rng([self.seed, index]))
                tensors = encode_preference(vae, geometry, pair, triplet, self.pairs.regions)
                if self.embedder is not None:
                    tensors |= self.embedder(triplet)
                record = sample_record(triplet) | {"regions": list(self.pairs.regions)}
                writer.write(key, record, {"safetensors": save(tensors)})
            except (DamagedSample, InputError) as error:
                writer.skip(key, f"preference: {error}")
            watch.end(key)


def preference_triplet(
    pair: PreferencePair, settings: TripletSettings, generator: np.random.Generator
) -> TrainingTriplet:
    """The sample in which the preferred video is the target; slots, switches and augmentation as for any other."""
    if settings.needs_poses:
        raise InputError(
            f"Preference pairs have no pose renders, which the recipe {settings.name} wants as driving videos."
        )
    nowhere = np.zeros((len(pair.driving_tracks), *pair.preferred.shape[:3]), bool)
    clips = MotionPair(
        synthetic=Clip(frames=pair.driving, tracks=pair.driving_tracks),
        real=Clip(
            frames=pair.preferred,
            tracks=nowhere if pair.preferred_tracks is None else pair.preferred_tracks,
            still=pair.reference,
            caption=pair.caption,
        ),
        construction=pair.kind,
        meta=pair.meta,
    )
    own = dataclasses.replace(settings, reference_from_target=False, forward_share=0.0)
    return draw_triplet(clips, pair.kind, own, generator)


def encode_preference(
    vae: nn.Module,
    geometry: conditions.ConditionGeometry,
    pair: PreferencePair,
    triplet: TrainingTriplet,
    regions: tuple[str, ...],
) -> dict[str, Tensor]:
    """The tensors of `encode_triplet`, and `rejected`, a latent video like `target`, and `regions`, uint8 `(R, Tl, h, w)`.

    A latent cell is in a region when a box of either video touches it in any of its frames.
    """
    tensors = encode_triplet(vae, geometry, triplet)
    tensors["rejected"] = conditions.encode_video(vae, to_pixels(pair.rejected))[0].half().contiguous()
    touched = [latent_coverage(pair.region(name).astype(np.uint8), 1).max(axis=0) > 0 for name in regions]
    tensors["regions"] = torch.from_numpy(np.stack(touched).astype(np.uint8))
    return tensors
