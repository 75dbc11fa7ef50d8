"""Trains the decoder's refiner on what the transformer generates, alone or together with the transformer.

A one-step prediction is a mean of what could be: blurred, and with the grid of its tokens on it. The refiner learns to
draw the picture behind it, so it is trained on predictions for clips that neither network has seen. True latents stay in
the mix, because the history between segments is decoded and encoded again. In the joint phase gradients go on through
the decoder into the transformer, which learns to leave what the refiner can use.
"""

import dataclasses
import logging
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from scail2.conditions import encode_video
from scail2.errors import InputError
from scail2.models.autoencoder import AutoencoderPatchTransform
from scail2.models.timesteps import NUM_TRAIN_TIMESTEPS
from scail2.training.batches import step_generator
from scail2.training.config import OptimizerConfig
from scail2.training.ema import WeightAverage
from scail2.training.nano.critic import PatchCritic, critic_terms
from scail2.training.nano.fresh_clips import ClipBatch, FreshClips
from scail2.training.nano.kept import read_kept
from scail2.training.objectives.pictures import PictureLoss
from scail2.training.optimizers import OptimizerSet, learning_rate_factor
from scail2.training.parallel import ParallelContext
from scail2.training.records import TrainingRecord
from scail2.training.skipped import SkippedSteps
from scail2.training.state import Counts, latest_state, load_state, prune_states, save_state

logger = logging.getLogger(__name__)

_REFINER_DRAWS = 7
# Of a joint step: with fewer, orthogonalising the transformer's update is a quarter of the work.
_CLIPS_A_STEP = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class RefinerConfig:
    """One run.

    Attributes:
        joint: the transformer is trained, too.
        frames: consecutive frames of each clip that are refined and compared.
        true_share: share of steps on true latents (never in a joint run).
        own_history_share: of the clips with history, those whose history is the networks' own output (joint run only).
        anchor: weight of the squared error of what comes out unrefined (joint run only); latents and the linear decoder's
            pixels are an orthonormal transform of each other, so it is the latents' loss, weighted by pixel.
        adversarial: weight of what a critic thinks of the refined characters, 0 for none.
        accumulation: micro-batches that make a step.
    """

    steps: int
    joint: bool = False
    frames: int = 6
    true_share: float = 0.1
    own_history_share: float = 0.5
    anchor: float = 0.3
    adversarial: float = 0.0
    accumulation: int = 1
    loss: PictureLoss = field(default_factory=PictureLoss)
    optimizer: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(
            learning_rate=1e-3,
            muon_learning_rate=0.012,
            betas=(0.9, 0.99),
            weight_decay=0.0,
            clip_norm=0.3,
            warmup=20,
            decay="linear",
            decay_from=0.5,
            final_fraction=0.02,
        )
    )
    ema_decay: float = 0.998
    seed: int = 0
    log_every: int = 20
    checkpoint_every: int = 50


def with_refiner(linear: AutoencoderPatchTransform, widths: tuple[int, ...], blocks: tuple[int, ...]):
    """The same basis and statistics with a fresh refiner, which at first changes nothing."""
    config = {k: v for k, v in linear.config.items() if not k.startswith("_")}
    vae = AutoencoderPatchTransform(**{**config, "refiner_widths": widths, "refiner_blocks": blocks})
    vae.load_state_dict(linear.state_dict(), strict=False)
    return vae


def joint_refiner(steps: int, *, clips: int) -> RefinerConfig:
    """Refiner and transformer together, from a trained refiner: lower rates that fall all along, steps of 16 clips.

    Four frames of a clip say nearly what six do, and refining them is a third of the work, not half.

    ``clips`` of them are the micro-batches of all processes together.
    """
    optimizer = OptimizerConfig(
        learning_rate=6e-4,
        muon_learning_rate=0.01,
        betas=(0.9, 0.99),
        weight_decay=0.0,
        clip_norm=0.3,
        warmup=20,
        decay="linear",
        final_fraction=0.02,
    )
    return RefinerConfig(
        steps=steps,
        joint=True,
        frames=4,
        accumulation=max(1, _CLIPS_A_STEP // clips),
        optimizer=optimizer,
        ema_decay=0.99,
        checkpoint_every=20,
    )


def load_networks(run: Path, vae: AutoencoderPatchTransform, transformer: nn.Module) -> None:
    """Copies the averaged weights of a run into the networks; what it did not train stays.

    Args:
        run: a run's folder, whose newest checkpoint is taken, or a file of `write_kept`.
        vae: its refiner is filled; for such a file it must be what the run began with.
        transformer: the same.

    Raises:
        InputError: the run has no checkpoint, or the file does not fit.
    """
    average = read_kept(run, named_networks(vae, transformer)) if run.is_file() else averaged_weights(run)
    for name, network in (("refiner", vae.refiner), ("transformer", transformer)):
        trained = {key.removeprefix(f"{name}."): v for key, v in average.items() if key.startswith(f"{name}.")}
        if trained and network is None:
            raise InputError(f"{run} trained a {name}, which this autoencoder does not have.")
        if network is not None and trained:
            network.load_state_dict(trained)


def averaged_weights(run: Path) -> dict[str, Tensor]:
    """What a run's newest checkpoint trained, averaged, named as in `named_networks`.

    Raises:
        InputError: the run has no checkpoint.
    """
    checkpoint = latest_state(run / "checkpoints")
    if checkpoint is None:
        raise InputError(f"{run} holds no checkpoint; train it first.")
    return load_file(checkpoint / "average.safetensors")


def named_networks(vae: AutoencoderPatchTransform, transformer: nn.Module) -> dict[str, Tensor]:
    """Everything that a run may train, named ``refiner.…`` and ``transformer.…``."""
    networks = {"refiner": vae.refiner, "transformer": transformer}
    return {
        f"{name}.{key}": v for name, net in networks.items() if net is not None for key, v in net.state_dict().items()
    }


class RefinerTraining:
    """Steps, checkpoints and the average of the weights.

    Args:
        vae: with a refiner; trained in place.
        transformer: trained in place in a joint run, else only asked.
        clips: micro-batches by number; each process takes its own numbers.
    """

    def __init__(
        self,
        vae: AutoencoderPatchTransform,
        transformer: nn.Module,
        clips: FreshClips,
        config: RefinerConfig,
        directory: Path,
        context: ParallelContext,
    ) -> None:
        self.config, self.clips, self.directory, self.context = config, clips, directory, context
        self.vae, self.transformer = context.wrap(vae), context.wrap(transformer)
        self.transformer.requires_grad_(config.joint)
        self.transformer.train(config.joint)
        networks = {"refiner": self.vae.refiner}
        if config.joint:
            networks["transformer"] = self.transformer
        if config.adversarial:
            torch.manual_seed(config.seed)
            networks["critic"] = context.wrap(PatchCritic())
        self.model = nn.ModuleDict(networks)
        alike = {"processes": context.world_size, "rank": context.rank}
        self.optimizers = OptimizerSet(self.model.named_parameters(), config.optimizer, **alike)
        self.average = WeightAverage(self.model, config.ema_decay)
        self.skipped = SkippedSteps()
        shape = (1, -1, 1, 1, 1)
        statistics = (vae.config.latents_mean, vae.config.latents_std)
        self._mean, self._std = (torch.tensor(v, device=context.device).view(shape) for v in statistics)

    def run(self) -> int:
        """Trains until ``config.steps`` steps are done, going on from the newest checkpoint; returns the clips seen."""
        checkpoints = self.directory / "checkpoints"
        first, samples = 0, 0
        if (latest := latest_state(checkpoints)) is not None:
            counts = load_state(latest, self.model, self.optimizers, self.average)
            first, samples = counts.step, counts.samples
            logger.info("going on after step %d", first)
        record = TrainingRecord(self.directory, from_step=first) if self.context.rank == 0 else None
        started, recent = time.monotonic(), []
        for step in range(first, self.config.steps):
            numbers, count = self.step(step)
            samples += count * self.context.world_size
            recent.append(numbers)
            if record is None:
                continue
            if (step + 1) % self.config.log_every == 0:
                means = {name: sum(n[name] for n in recent) / len(recent) for name in recent[0]}
                seconds = time.monotonic() - started
                record.write(step + 1, samples=samples, seconds=seconds, **means)
                shown = ", ".join(f"{name} {value:.4f}" for name, value in means.items())
                logger.info("step %d, %d clips, %.0f s: %s", step + 1, samples, seconds, shown)
                recent.clear()
            if (step + 1) % self.config.checkpoint_every == 0 or step + 1 == self.config.steps:
                counts = Counts(step=step + 1, samples=samples, skipped=self.skipped.total)
                save_state(checkpoints, counts, self.model, self.optimizers, self.average)
                prune_states(checkpoints, keep=2)
        return samples

    def step(self, step: int) -> tuple[dict[str, float], int]:
        """One update; returns the loss's terms and the number of clips of this process."""
        config, context = self.config, self.context
        totals: dict[str, float] = {}
        count = 0
        for part in range(config.accumulation):
            micro_step = (step * config.accumulation + part) * context.world_size + context.rank
            batch = self.clips(micro_step)
            loss, terms = self.loss(batch, step_generator(config.seed, micro_step, _REFINER_DRAWS))
            (loss / config.accumulation).backward()
            count += len(batch.latents)
            for name, value in terms.items():
                totals[name] = totals.get(name, 0.0) + float(value) / config.accumulation
        context.average_gradients(self.optimizers.parameters)
        norm = self.optimizers.step(learning_rate_factor(step, config.steps, config.optimizer))
        self.skipped.skips(step + 1, norm, totals)
        self.average.update(self.model)
        return totals, count

    def loss(self, batch: ClipBatch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of one micro-batch on frames chosen by ``generator``, and its terms for the log."""
        config = self.config
        latents = self._latents(batch, generator)
        linear = self.vae.decode_linear(latents * self._std + self._mean, first_alone=batch.starts_clip)
        length = min(config.frames, linear.shape[2])
        start = int(torch.randint(linear.shape[2] - length + 1, (), generator=generator))
        chosen = range(start, start + length)
        truth, region, details = (v.to(self.context.device) for v in (batch.pixels, batch.region, batch.details))
        weight = config.loss.weight(region, details)
        refined = self.vae.refine(linear, chosen)
        aim, where = truth[:, :, start : start + length], region[:, start : start + length]
        total, terms = config.loss(refined, aim, weight[:, :, start : start + length])
        if config.adversarial:
            shown = linear[:, :, start : start + length]
            wish, judgement = critic_terms(self.model["critic"], refined, aim, shown, where)
            total = total + config.adversarial * wish + judgement
            terms |= {"wish": wish.detach(), "judgement": judgement.detach()}
        if config.joint:
            unrefined = (weight * (linear - truth).square()).mean()
            total = total + config.anchor * unrefined
            terms["unrefined"] = unrefined.detach()
        return total, terms

    def _latents(self, batch: ClipBatch, generator: torch.Generator) -> Tensor:
        """What is decoded, normalised ``(B, C, Tl, h, w)``: the transformer's prediction, in some steps the truth."""
        config = self.config
        draws = torch.rand(2, generator=generator).tolist()
        noise = torch.randn(batch.latents.shape, generator=generator)
        history = batch.latents[:, :, : batch.history_frames] if batch.history_frames else None
        if not config.joint and draws[0] < config.true_share:
            return batch.latents.to(self.context.device)
        if history is not None and config.joint and draws[1] < config.own_history_share:
            with torch.no_grad():
                own = self.vae.decode(self._predict(batch, noise, None) * self._std + self._mean).sample
                history = encode_video(self.vae, own[:, :, : 4 * batch.history_frames - 3])
        with torch.set_grad_enabled(config.joint):
            return self._predict(batch, noise, history)

    def _predict(self, batch: ClipBatch, noise: Tensor, history: Tensor | None) -> Tensor:
        """One step from pure noise."""
        conditions = dataclasses.replace(batch.conditions, history_latents=history).to(self.context.device)
        noisy = conditions.with_history(noise.to(self.context.device))
        with self.context.autocast(None):
            velocity = self.transformer(
                noisy,
                torch.full((len(noisy),), float(NUM_TRAIN_TIMESTEPS), device=noisy.device),
                **conditions.model_kwargs(),
                frame_offset=batch.frame_offset,
            ).sample
        return conditions.with_history(noisy - velocity.float())
