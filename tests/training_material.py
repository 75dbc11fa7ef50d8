"""A toy world to train in: an untrained model, a small cache of puppets, and a configuration over both."""

import dataclasses
from pathlib import Path

import torch
from safetensors.torch import load_file
from tiny import bare_transformer

from scail2.data.cache import CacheWork, write_cache
from scail2.data.preference_cache import PreferenceCacheWork
from scail2.data.preferences import PreferenceShards, Strictness
from scail2.data.puppet_preferences import PuppetPreferences
from scail2.data.puppet_source import PuppetSource
from scail2.data.synthesis import PreferenceWork, write_pairs
from scail2.data.triplet_settings import triplet_settings
from scail2.devices import Precision
from scail2.models.autoencoder import AutoencoderPatchTransform
from scail2.training.config import (
    DataConfig,
    LoRAConfig,
    LossConfig,
    MixtureKnot,
    OptimizerConfig,
    PreferenceConfig,
    TrainConfig,
)
from scail2.training.state import latest_state

CHANNELS = 8
GRID_SHIFTS = {"rope_reference_height_shift": 2, "rope_driving_width_shift": 2}
SHARES = (("animation_single", 0.5), ("replacement_single", 0.5))


def make_world(folder: Path) -> Path:
    """A folder with an untrained model in `model/` and a small cache in `latents/`."""
    AutoencoderPatchTransform(z_dim=CHANNELS, num_static_channels=6).save_pretrained(folder / "model" / "vae")
    transformer = bare_transformer(in_channels=CHANNELS + 4, out_channels=CHANNELS, **GRID_SHIFTS)
    transformer.save_pretrained(folder / "model" / "transformer")
    cache_samples(folder, folder / "latents", samples=12, samples_per_shard=4)
    return folder


def cache_samples(world: Path, folder: Path, *, recipe: str = "nano", **changes) -> None:
    """Caches puppets of both toy kinds into ``folder``; ``changes`` are fields of the job."""
    job = CacheWork(
        source=PuppetSource(frames=9, height=32, width=32),
        triplets=dataclasses.replace(triplet_settings(recipe), shares=dict(SHARES)),
        autoencoder=world / "model" / "vae",
        samples=4,
        driving_downsample=1,
    )
    write_cache(dataclasses.replace(job, **changes), folder)


def configuration(world: Path, **changes) -> TrainConfig:
    mixture = (
        MixtureKnot(samples=0, shares=(("self_driven", 1.0),)),
        MixtureKnot(samples=8, shares=(("self_driven", 0.2), *SHARES)),
    )
    base = TrainConfig(
        name="toy",
        model=str(world / "model"),
        steps=6,
        data=DataConfig(shards=str(world / "latents"), batch_size=2, window=2, mixture=mixture),
        loss=LossConfig(space="sample", character_weight=2.0, alignment_weight=0.1, alignment_block=0),
        optimizer=OptimizerConfig(learning_rate=1e-3, muon_learning_rate=0.02, clip_norm=1.0),
        ema_decay=0.9,
        precision=Precision.FLOAT32,
        log_every=1,
        checkpoint_every=2,
        accumulation=2,
    )
    return dataclasses.replace(base, **changes)


def cache_preferences(world: Path) -> None:
    """Six preference pairs of puppets, as `pairs/` and cached as `preferences/` in a world's folder."""
    source = PuppetPreferences(puppets=PuppetSource(frames=9, height=64, width=64))
    anything = Strictness(hands_seen=0, largest_error=1e9, least_contrast=0)
    write_pairs(PreferenceWork(source=source, pairs=6, limits=anything), world / "pairs")
    job = PreferenceCacheWork(
        pairs=PreferenceShards([world / "pairs"]),
        triplets=triplet_settings("nano"),
        autoencoder=world / "model" / "vae",
        samples=6,
        driving_downsample=1,
    )
    write_cache(job, world / "preferences")


def preferring(world: Path, **changes) -> TrainConfig:
    base = TrainConfig(
        name="toy_dpo",
        model=str(world / "model"),
        steps=4,
        data=DataConfig(
            shards=str(world / "preferences"), batch_size=2, history_probability=0.0, middle_history_probability=0.0
        ),
        loss=LossConfig(space="sample"),
        optimizer=OptimizerConfig(learning_rate=2e-3, clip_norm=1.0, weight_decay=0.0),
        lora=LoRAConfig(rank=4),
        preference=PreferenceConfig(),
        precision=Precision.FLOAT32,
        log_every=1,
        checkpoint_every=2,
    )
    return dataclasses.replace(base, **changes)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    state = latest_state(folder / "checkpoints")
    return {**load_file(state / "weights.safetensors"), **load_file(state / "average.safetensors")}
