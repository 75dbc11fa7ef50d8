"""Training of the embedded segmentation network, from rendered puppets alone.

::

    python -m scail2.training.segmenter.train train --folder runs/segmenter     # resumes where it stopped
    python -m scail2.training.segmenter.train export --folder runs/segmenter --assets src/scail2/assets
    python -m scail2.training.segmenter.train evaluate --clips 40 --media FOLDER-OF-OTHER-VIDEOS

Every batch is a function of its step number, so an interrupted training continues as if it had not been interrupted (up to
the optimiser's arithmetic, which is saved). What is to be learnt: foreground, body centres, and whether a picture belongs to
the puppet world at all, against textured, shuffled and noisy pictures that do not (`scail2.training.segmenter.data`).
"""

import argparse
import json
import logging
import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from scail2.devices import cpu_has_native_bf16
from scail2.files.staging import atomic_file
from scail2.perception.segmenters.embedded import EmbeddedSegmenter
from scail2.perception.segmenters.network import Familiarity, NetworkConfig, SegmentationNetwork, save_network
from scail2.puppets import FULL, NANO, Split
from scail2.training.segmenter.data import CLIP_FRAMES, Batch, sample_batch
from scail2.training.skipped import SkippedSteps

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class SegmenterSettings:
    """Settings of a training.

    Attributes:
        steps: optimiser steps, each on ``clips * 4`` pictures.
        learning_rate: its peak; 5 % of the steps warm up, then cosine to a hundredth.
        averaging: decay of the running mean of the weights, which is what is exported.
        centre_weight, familiarity_weight: of the losses beside the foreground's.
        mixed_precision: bfloat16 autocast where the processor multiplies it natively, 2.5 times as fast there.
    """

    steps: int = 4000
    clips: int = 4
    learning_rate: float = 3e-3
    weight_decay: float = 1e-4
    averaging: float = 0.995
    centre_weight: float = 2.0
    familiarity_weight: float = 0.2
    mixed_precision: bool = True
    seed: int = 0


def loss_of(network: SegmentationNetwork, batch: Batch, settings: SegmenterSettings) -> tuple[Tensor, dict[str, float]]:
    """Loss of a batch, and its parts for the log.

    Foreground: cross-entropy plus Dice, over the pictures whose truth is known. Centres: L1 inside characters.
    """
    with torch.autocast("cpu", torch.bfloat16, enabled=settings.mixed_precision and cpu_has_native_bf16()):
        out = network(batch.pictures)
    known = batch.known[:, None, None]
    logits, truth = out.foreground.float(), batch.foreground
    pixels = known.expand_as(truth)
    entropy = (
        F.binary_cross_entropy_with_logits(logits, truth, reduction="none") * pixels
    ).sum() / pixels.sum().clamp_min(1)
    probability = logits.sigmoid() * pixels
    overlap = 2 * (probability * truth).sum(dim=(1, 2)) + 1
    dice = 1 - overlap / (probability.sum(dim=(1, 2)) + (truth * pixels).sum(dim=(1, 2)) + 1)
    inside = (truth * pixels)[:, None]
    centre = ((out.centre.float() - batch.centre).abs() * inside).sum() / inside.sum().clamp_min(1)
    familiarity = F.binary_cross_entropy_with_logits(out.familiarity.float(), batch.familiar)
    loss = entropy + dice.mean() + settings.centre_weight * centre + settings.familiarity_weight * familiarity
    parts = {"entropy": entropy, "dice": dice.mean(), "centre": centre, "familiarity": familiarity}
    return loss, {name: float(value.detach()) for name, value in parts.items()}


class SegmenterTraining:
    """One training in a folder: ``checkpoint.pt`` is replaced as it goes; opening the folder again continues."""

    def __init__(self, folder: Path, settings: SegmenterSettings, config: NetworkConfig | None = None):
        self.folder, self.settings = Path(folder), settings
        self.folder.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(settings.seed)
        self.network = SegmentationNetwork(config).to(memory_format=torch.channels_last)
        self.average = SegmentationNetwork(self.network.config)
        self.average.load_state_dict(self.network.state_dict())
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        self.step = 0
        self.skipped = SkippedSteps()
        self.seconds = 0.0
        if self.checkpoint.exists():
            self._resume()

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint.pt"

    def _resume(self) -> None:
        stored = torch.load(self.checkpoint, weights_only=True)
        self.network.load_state_dict(stored["network"])
        self.average.load_state_dict(stored["average"])
        self.optimizer.load_state_dict(stored["optimizer"])
        self.step, self.seconds = stored["step"], stored["seconds"]

    def save(self) -> None:
        """Writes the checkpoint beside the old one, then renames."""
        state = {
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
        }
        with atomic_file(self.checkpoint) as file:
            torch.save(state, file)

    def learning_rate(self, step: int) -> float:
        """Warm-up, then cosine."""
        settings = self.settings
        warm = max(1, settings.steps // 20)
        if step < warm:
            return settings.learning_rate * (step + 1) / warm
        share = min(1.0, (step - warm) / max(1, settings.steps - warm))
        return settings.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * share)))

    def run(self, *, stop: int | None = None, save_every: int = 100) -> None:
        """Trains up to step `stop` (all by default), saving as it goes."""
        stop = min(self.settings.steps, stop or self.settings.steps)
        started = time.monotonic() - self.seconds
        while self.step < stop:
            parts = self._one_step()
            self.seconds = time.monotonic() - started
            if self.step % 50 == 0 or self.step == stop:
                told = " ".join(f"{name} {value:.3f}" for name, value in parts.items())
                logger.info("step %d of %d, %.0f s: %s", self.step, self.settings.steps, self.seconds, told)
            if self.step % save_every == 0 or self.step == stop:
                self.save()

    def _one_step(self) -> dict[str, float]:
        settings = self.settings
        batch = sample_batch(Split.TRAIN, self.step, clips=settings.clips, size=self.network.config.short_side)
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate(self.step)
        self.network.train()
        loss, parts = loss_of(self.network, batch, settings)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.step += 1
        if self.skipped.skips(self.step, float(norm), parts):
            return parts
        self.optimizer.step()
        # The mean starts short, so that early weights are forgotten.
        decay = min(settings.averaging, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for kept, new in zip(self.average.state_dict().values(), self.network.state_dict().values(), strict=True):
                if kept.is_floating_point():
                    kept.lerp_(new, 1 - decay)
        return parts

    @torch.inference_mode()
    def fit_familiarity(self, *, batches: int = 60) -> Familiarity:
        """Fits the learnt world's Gaussian on training pictures and sets its limit on validation pictures."""
        return Familiarity.fit(self._signatures(Split.TRAIN, batches), self._signatures(Split.VALIDATION, batches // 2))

    def _signatures(self, split: Split, batches: int) -> Tensor:
        """Signatures (N, F) of familiar pictures."""
        self.average.eval()
        rows = []
        for index in range(batches):
            # Indices far from those of training: the same world, other pictures.
            batch = sample_batch(
                split, 10_000_000 + index, clips=self.settings.clips, size=self.average.config.short_side
            )
            rows.append(self.average(batch.pictures).signature[batch.familiar > 0.5])
        return torch.cat(rows)

    def export(self, assets: Path) -> Path:
        """Writes ``segmenter.safetensors`` (averaged weights, half precision) with how it was trained in its header."""
        facts = {
            "steps": self.step,
            "pictures": self.step * self.settings.clips * CLIP_FRAMES,
            "seconds": round(self.seconds),
            "seed": self.settings.seed,
        }
        # Half precision first: the Gaussian has to describe the network that is shipped.
        with torch.no_grad():
            for tensor in self.average.state_dict().values():
                if tensor.is_floating_point():
                    tensor.copy_(tensor.half().float())
        assets.mkdir(parents=True, exist_ok=True)
        return save_network(assets, self.average, self.fit_familiarity(), facts)


def main(arguments: list[str] | None = None) -> None:
    """Entry point of ``python -m scail2.training.segmenter.train``."""
    parser = argparse.ArgumentParser(
        prog="python -m scail2.training.segmenter.train", description="Train the mask network."
    )
    parser.add_argument("verb", choices=["train", "export", "evaluate"])
    parser.add_argument("--folder", type=Path, help="checkpoints; an existing one is continued")
    parser.add_argument("--steps", type=int, default=SegmenterSettings().steps)
    parser.add_argument("--assets", type=Path, default=Path("src/scail2/assets"), help="where export writes")
    parser.add_argument("--clips", type=int, default=40, help="evaluate: clips per domain and number of characters")
    parser.add_argument("--media", type=Path, help="evaluate: a folder of videos without puppets")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(options.threads)
    if options.verb == "evaluate":
        from scail2.training.segmenter.evaluation import evaluate

        scores = evaluate(EmbeddedSegmenter.load(), (NANO, FULL), clips=options.clips, media=options.media)
        logger.info("%s", json.dumps(scores, indent=1))
        return
    if options.folder is None:
        parser.error("--folder is needed to train or export")
    training = SegmenterTraining(options.folder, SegmenterSettings(steps=options.steps))
    if options.verb == "train":
        training.run()
    else:
        logger.info("wrote %s", training.export(options.assets))


if __name__ == "__main__":
    main()
