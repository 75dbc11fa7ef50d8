"""The trainings of an ablation experiment: one start, one cache for each arm's data, one run for each arm and seed.

Every part is made once and goes on where it was interrupted. Nothing is measured here.
"""

import dataclasses
import json
import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from scail2.checkpoints.lora import apply_loras
from scail2.checkpoints.stored import safetensors_header
from scail2.conditions import to_pixels
from scail2.data.ablations import AblationPlan, Arm, Stage, TrainingPlan, fingerprint
from scail2.data.cache import CacheWork, write_cache
from scail2.data.preference_cache import PreferenceCacheWork
from scail2.data.preferences import PreferenceShards
from scail2.data.puppet_preferences import PuppetPreferences
from scail2.data.synthesis import PreferenceWork, write_pairs
from scail2.data.triplet_settings import SampleKind
from scail2.errors import InputError
from scail2.execution.crew import Crew
from scail2.files.documents import load_json, parse_json, read_document
from scail2.files.ownership import Kind, is_document, new_folder
from scail2.files.staging import atomic_file
from scail2.loading.components import load_autoencoder
from scail2.models.autoencoder import AutoencoderPatchTransform
from scail2.models.component_folders import load_component_folder
from scail2.models.transformer import SCAIL2Transformer3DModel
from scail2.pipeline import SCAIL2Pipeline
from scail2.request.presets import preset
from scail2.training.config import LoRAConfig, MixtureKnot, TrainConfig
from scail2.training.nano.autoencoder import fit_basis
from scail2.training.nano.initial import untrained
from scail2.training.recipes import nano, nano_continue, nano_dpo
from scail2.training.session import train_to_end

logger = logging.getLogger(__name__)

MOST_PARAMETERS = 5_000_000
PLAN, RUNS = "plan.json", "runs"
EXPERIMENTS = Kind(
    "ablation experiments",
    f"{PLAN} of scail2 ablate",
    lambda folder: is_document(folder / PLAN, {"world", "network", "pretraining", "training", "preferences"}),
)
# The autoencoder's clips come from numbers that no cache reaches.
_BASIS_CLIPS = 10_000_000
# Shares of the pre-training, which teaches neither modes nor binding, and frames and poses alike.
_PRETRAINING = {SampleKind.ANIMATION_SINGLE: 0.6, SampleKind.POSE_SINGLE: 0.4}
_SELF_DRIVEN_UNTIL, _PAIRS_ONLY_FROM = 0.15, 0.5
# What a hand-weighted supervised loss would be by hand; at its first step DPO weighs hands by λ · β / 4 = 12.5.
_HAND_WEIGHT = 5.0


@dataclass(frozen=True, slots=True)
class Experiment:
    """A plan and the folder it is worked off in, which the caller holds."""

    plan: AblationPlan
    folder: Path

    @property
    def start(self) -> Path:
        """The untrained network and its autoencoder."""
        return self.folder / "initial"

    @property
    def autoencoder(self) -> Path:
        """Every arm's autoencoder."""
        return self.start / "vae"

    def latents(self, arm: Arm | None) -> Path:
        """Cached samples of an arm's data; arms with the same data share them. None: the pre-training's."""
        if arm is None:
            return self.folder / "latents" / "pretraining"
        if arm.stage is not Stage.PAIRS:
            return self.folder / "latents" / "preferences"
        facts = (arm.changes, arm.generator_error, arm.estimator_error)
        return self.folder / "latents" / f"{arm.name}-{fingerprint(*facts)[:6]}"

    def run(self, arm: Arm | None, seed: int) -> Path:
        """The folder of one training; None: the pre-training, of which there is one."""
        return self.folder / RUNS / ("pretraining" if arm is None else f"{arm.name}-{seed}")

    def measures(self, arm: Arm, seed: int) -> Path:
        """Where an arm's measured clips are kept."""
        return self.folder / "measures" / f"{arm.name}-{seed}.json"

    def claim(self) -> None:
        """Writes the plan into the folder, or checks that the one there is the same in all that decides results.

        Raises:
            InputError: the folder was begun with another plan.
        """
        path = self.folder / PLAN
        now = json.loads(json.dumps(self.plan.to_json()))
        if path.exists():
            before = load_json(path, dict[str, Any])
            changed = [name for name in now if before.get(name) != now[name]]
            if changed:
                raise InputError(
                    f"{self.folder} was begun with another {', '.join(changed)}: take back the change of the plan, or choose "
                    "another --out."
                )
            return
        with atomic_file(path) as file:
            file.write((json.dumps(now, indent=1) + "\n").encode())

    def parameters(self) -> int:
        """Of the network."""
        header = safetensors_header(self.start / "transformer" / "diffusion_pytorch_model.safetensors")
        return sum(math.prod(entry.shape) for entry in header.entries.values())

    def core_hours(self) -> float:
        """Hours that the trainings' logged steps took, each by one process on one core (the pre-training on all)."""
        runs = sorted((self.folder / RUNS).glob("*/log.jsonl"))
        return sum(_logged_seconds(path) for path in runs) / 3600

    # ---- the start --------------------------------------------------------------------------------------------------

    def make_start(self) -> None:
        """Fits the autoencoder to the plan's puppets and writes it with an untrained network, unless they are there.

        Raises:
            InputError: the network has more than five million parameters.
        """
        if self.start.is_dir():
            return
        world, network = self.plan.world, self.plan.network
        clips = (
            to_pixels(self.plan.source().pair(SampleKind.ANIMATION_SINGLE, _BASIS_CLIPS + n, _generator(n)).real.frames)
            for n in range(world.basis_clips)
        )
        static = max(1, round(0.7 * network.channels))
        vae = fit_basis(AutoencoderPatchTransform(z_dim=network.channels, num_static_channels=static), clips)
        grid = world.size // (vae.config.scale_factor_spatial * network.patch)
        transformer = untrained(
            num_attention_heads=network.heads,
            attention_head_dim=network.head_dim,
            ffn_dim=network.ffn_dim,
            num_layers=network.layers,
            in_channels=network.channels + 4,
            out_channels=network.channels,
            patch_size=(1, network.patch, network.patch),
            rope_reference_height_shift=grid,
            rope_driving_width_shift=grid,
        )
        if (count := transformer.num_parameters()) > MOST_PARAMETERS:
            raise InputError(
                f"The plan's network has {count:,} parameters; ablations are compared at {MOST_PARAMETERS:,} at most: make "
                "heads, head_dim, layers or ffn_dim smaller."
            )
        with new_folder(self.start) as made:
            vae.save_pretrained(made / "vae")
            transformer.save_pretrained(made / "transformer")

    # ---- data -------------------------------------------------------------------------------------------------------

    def cache(self, arm: Arm | None, *, workers: int | Crew = 1) -> None:
        """Draws and caches an arm's samples, as far as they are missing; None: those of the pre-training."""
        settings = self.plan.settings(() if arm is None else arm.changes)
        if arm is not None and arm.stage is not Stage.PAIRS:
            self._cache_preferences(workers=workers)
            return
        if arm is None:
            settings = dataclasses.replace(settings, shares=_PRETRAINING)
        work = CacheWork(
            source=self.plan.source(arm),
            triplets=settings,
            autoencoder=self.autoencoder,
            samples=self.plan.world.samples,
            driving_downsample=1,
        )
        write_cache(work, self.latents(arm), workers=workers, resume=True)

    def _cache_preferences(self, *, workers: int | Crew) -> None:
        world = dataclasses.replace(self.plan.source(), estimator_error="none")
        pairs = PreferenceWork(source=PuppetPreferences(puppets=world, still=True), pairs=self.plan.preferences.pairs)
        drawn = self.folder / "preference_pairs"
        write_pairs(pairs, drawn, workers=workers, resume=True)
        stored = PreferenceShards([drawn])
        work = PreferenceCacheWork(
            pairs=stored,
            triplets=self.plan.settings(()),
            autoencoder=self.autoencoder,
            samples=len(stored),
            driving_downsample=1,
        )
        write_cache(work, self.folder / "latents" / "preferences", workers=workers, resume=True)

    # ---- training ---------------------------------------------------------------------------------------------------

    def config(self, arm: Arm | None, seed: int) -> TrainConfig:
        """The configuration of one training; None: of the pre-training."""
        if arm is None:
            return self._pretraining()
        if arm.stage is not Stage.PAIRS:
            return self._second_stage(arm, seed)
        shares = tuple((kind.value, share) for kind, share in self.plan.settings(arm.changes).shares.items())
        config = nano_continue()
        return self._fitted(
            dataclasses.replace(config, name=arm.name, seed=seed, model=str(self.run(None, 0))),
            self.plan.training,
            shards=str(self.latents(arm)),
            mixture=(MixtureKnot(samples=0, shares=shares),),
        )

    def _pretraining(self) -> TrainConfig:
        pairs = tuple((kind.value, share) for kind, share in _PRETRAINING.items())
        seen = self.plan.pretraining.steps * self.plan.pretraining.batch_size
        alone = round(_SELF_DRIVEN_UNTIL * seen)
        mixture = (
            MixtureKnot(samples=0, shares=(("self_driven", 1.0),)),
            MixtureKnot(samples=alone, shares=(("self_driven", 1.0),)),
            MixtureKnot(samples=alone + 1, shares=(("self_driven", 0.9), *((k, 0.1 * v) for k, v in pairs))),
            MixtureKnot(samples=max(alone + 2, round(_PAIRS_ONLY_FROM * seen)), shares=pairs),
        )
        start = nano()
        config = dataclasses.replace(
            start,
            name="pretraining",
            model=str(self.start),
            timesteps=nano_continue().timesteps,
            # The arms' rates begin near where this one ends.
            optimizer=dataclasses.replace(start.optimizer, decay="linear", decay_from=0.6, final_fraction=0.5),
        )
        return self._fitted(config, self.plan.pretraining, shards=str(self.latents(None)), mixture=mixture)

    def _second_stage(self, arm: Arm, seed: int) -> TrainConfig:
        plan, config = self.plan.preferences, nano_dpo()
        regions = (("hands", _HAND_WEIGHT),) if arm.stage is Stage.SFT_HANDS else ()
        config = dataclasses.replace(
            config,
            name=arm.name,
            seed=seed,
            model=str(self.run(arm.roots, seed)),
            lora=LoRAConfig(rank=plan.rank),
            preference=config.preference if arm.stage is Stage.DPO else None,
            loss=dataclasses.replace(config.loss, regions=regions),
        )
        scale = TrainingPlan(steps=plan.steps, batch_size=plan.batch_size, rate=plan.rate)
        return self._fitted(config, scale, shards=str(self.latents(arm)))

    def _fitted(self, config: TrainConfig, scale: TrainingPlan, **data: object) -> TrainConfig:
        """A recipe's configuration at the plan's scale."""
        optimizer = dataclasses.replace(
            config.optimizer,
            learning_rate=scale.rate * config.optimizer.learning_rate,
            muon_learning_rate=scale.rate * config.optimizer.muon_learning_rate,
            warmup=min(30, scale.steps // 10),
        )
        changed = {
            "batch_size": scale.batch_size,
            "history_probability": 0.0,
            "middle_history_probability": 0.0,
            "window": 2,
            **data,
        }
        return dataclasses.replace(
            config,
            steps=scale.steps,
            data=dataclasses.replace(config.data, **changed),  # type: ignore[arg-type]
            loss=dataclasses.replace(config.loss, alignment_block=min(2, self.plan.network.layers - 1)),
            optimizer=optimizer,
            ema_decay=0.0 if config.lora else 0.99,
            compile_blocks=False,
            checkpoint_every=max(1, min(50, scale.steps // 4)),
            keep_checkpoints=1,
            log_every=10,
        )

    def train(self, arm: Arm | None, seed: int = 0) -> None:
        """Trains to the end and exports, unless that is done; None: the pre-training.

        Raises:
            KeyboardInterrupt: somebody stopped it; the run has a checkpoint.
        """
        train_to_end(self.config(arm, seed), self.run(arm, seed), device="cpu")

    def pipeline(self, arm: Arm, seed: int) -> SCAIL2Pipeline:
        """A trained arm, ready to animate."""
        base, world = self.run(arm.roots, seed), self.plan.world
        transformer = load_component_folder(
            SCAIL2Transformer3DModel, base / "transformer", torch_dtype=torch.float32
        ).eval()
        if arm.follows is not None:
            apply_loras(transformer, [(self.run(arm, seed) / "adapter" / f"{arm.name}.safetensors", 1.0)])
        pipe = SCAIL2Pipeline(
            transformer=transformer,
            vae=load_autoencoder(self.autoencoder),
            scheduler=FlowMatchEulerDiscreteScheduler(shift=preset("nano").shift),
            default_preset="nano",
            segment_frame_length=max(9, world.frames),  # longer than a segment's history
            native_height=world.size,
            native_width=world.size,
        )
        pipe.set_progress_bar_config(disable=True)
        return pipe


def _logged_seconds(path: Path) -> float:
    """Time of the steps of a training's log: between two lines the samples at the later one's rate."""
    seconds, seen = 0.0, 0.0
    for line in read_document(path).decode().splitlines():
        numbers = parse_json(line, dict[str, float], path, nonfinite=True)
        seconds += (numbers["samples"] - seen) / numbers["samples_per_second"]
        seen = numbers["samples"]
    return seconds


def _generator(number: int) -> np.random.Generator:
    return np.random.default_rng([number, _BASIS_CLIPS])
