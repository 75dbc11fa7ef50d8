"""The training loop: one for every objective."""

import logging
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import nn

from scail2.devices import without_gradients
from scail2.errors import InputError
from scail2.training.batches import TrainingBatch, step_generator
from scail2.training.config import TrainConfig
from scail2.training.ema import WeightAverage
from scail2.training.objectives.supervised import Loss, Objective
from scail2.training.optimizers import OptimizerSet, learning_rate_factor
from scail2.training.parallel import ParallelContext
from scail2.training.records import TrainingRecord
from scail2.training.run_folder import save_config
from scail2.training.skipped import SkippedSteps
from scail2.training.state import Counts, latest_state, load_state, state_step

logger = logging.getLogger(__name__)

Sheets = Callable[[nn.Module, torch.device], np.ndarray]

# What a step's random draws are for; part of every seed.
_LOSS_DRAWS = 2


class Batches(Protocol):
    """Micro-batches as a pure function of their number and of what :meth:`resume_at` said."""

    def __call__(self, micro_step: int) -> TrainingBatch:
        """The micro-batch of a step."""

    def resume_at(self, micro_step: int, samples: int) -> None:
        """Told that training goes on at ``micro_step`` with ``samples`` samples seen."""


class Trainer:
    """Trains an objective's transformer until ``config.steps``, resuming from the newest checkpoint of its folder.

    Args:
        config: the run.
        objective: owns the loss; its transformer and auxiliary heads are optimised together.
        transformer: the network being trained (its trainable parameters may be adapters only).
        batches: where micro-batches come from.
        directory: checkpoints, log and samples go here.
        sheets: called as ``sheets(transformer, device)`` every ``config.sheets.every`` steps, with averaged weights;
            its picture, uint8 ``(H, W, 3)``, goes to ``samples/`` and to TensorBoard.
    """

    def __init__(
        self,
        config: TrainConfig,
        objective: Objective,
        transformer: nn.Module,
        batches: Batches,
        directory: Path,
        *,
        context: ParallelContext | None = None,
        sheets: Sheets | None = None,
    ) -> None:
        self.config = config
        self.objective = objective
        self.transformer = transformer
        self.batches = batches
        self.directory = directory
        self.context = context or ParallelContext.detect()
        self.share = self.context.share(config.accumulation, config.data.batch_size)
        self.sheets = sheets
        self.trained = nn.ModuleDict({"transformer": transformer, "auxiliary": objective.auxiliary})
        self.context.place(transformer, objective.auxiliary, config.precision)
        self.optimizers = OptimizerSet(self.trained.named_parameters(), config.optimizer)
        self.average = WeightAverage(transformer, config.ema_decay) if config.ema_decay else None
        self.step = 0
        self.samples = 0
        self.skipped = SkippedSteps(config.most_skipped)
        self._asked_to_stop = self._stop = False
        self._started_from: Path | None = None

    def run(self) -> Path:
        """Trains; returns the last checkpoint. SIGTERM and SIGINT end the run after the step, with a checkpoint."""
        self.directory.mkdir(parents=True, exist_ok=True)
        self._resume()
        record = None
        if self.context.speaks:
            save_config(self.directory, self.config, self._started_from)
            record = TrainingRecord(self.directory, from_step=self.step)
        previous = {s: signal.signal(s, self._request_stop) for s in (signal.SIGTERM, signal.SIGINT)}
        try:
            for numbers in self._steps():
                if record is not None and (self.step % self.config.log_every == 0 or self.step == self.config.steps):
                    record.write(self.step, **numbers)
                    logger.info("%s", " ".join([f"step {self.step}", *(f"{k} {v:.4g}" for k, v in numbers.items())]))
                if self.step % self.config.checkpoint_every == 0:
                    self.save()
                if self.sheets is not None and self.step % self.config.sheets.every == 0:
                    picture = self._sheet(self.sheets)
                    if record is not None:
                        record.picture(self.step, picture)
        finally:
            if record is not None:
                record.close()
            for number, handler in previous.items():
                signal.signal(number, handler)
        self.context.settle()
        newest = latest_state(self.directory / "checkpoints")
        if newest is None or state_step(newest) != self.step:
            newest = self.save()
            self.context.settle()
        return newest

    def save(self) -> Path:
        """Writes a checkpoint and drops old ones."""
        counts = Counts(step=self.step, samples=self.samples, skipped=self.skipped.total)
        place = self.directory / "checkpoints"
        return self.context.save(self.config, place, counts, self.trained, self.optimizers, self.average)

    def start_from(self, checkpoint: Path) -> None:
        """Takes weights, averages and optimiser state of another run; counts steps from 0 and goes on counting samples."""
        self.samples = load_state(checkpoint, self.trained, self.optimizers, self.average).samples
        self.batches.resume_at(0, self.samples)
        self._started_from = checkpoint

    def _resume(self) -> None:
        state = latest_state(self.directory / "checkpoints")
        if state is not None:
            counts = load_state(state, self.trained, self.optimizers, self.average)
            self.step, self.samples = counts.step, counts.samples
            self.skipped = SkippedSteps(self.config.most_skipped, counts.skipped)
            self.batches.resume_at(self.step * self.config.accumulation, self.samples)
            logger.info("resuming at step %d", self.step)

    def _steps(self) -> Iterator[dict[str, float]]:
        """Performs optimiser steps; yields the numbers of each after it."""
        self.transformer.train()
        while self.step < self.config.steps and not self._stop:
            started = time.perf_counter()
            terms, seen = self._gradients()
            factor = learning_rate_factor(self.step, self.config.steps, self.config.optimizer)
            norm = self.optimizers.step(factor)
            self.step += 1
            self.samples += seen
            if not self.skipped.skips(self.step, norm, terms):
                if self.average is not None:
                    self.average.update(self.transformer)
                self._heed(terms)
            seconds = time.perf_counter() - started
            yield {
                **terms,
                "gradient_norm": norm,
                "learning_rate_factor": factor,
                "skipped": self.skipped.total,
                "samples": self.samples,
                "samples_per_second": seen / seconds,
            }

    def _gradients(self) -> tuple[dict[str, float], int]:
        """Accumulates the gradients of one step; returns mean loss terms and the number of samples."""
        sums: dict[str, torch.Tensor] = {}
        seen, share, first = 0, self.share, self.step * self.config.accumulation
        for micro_step in range(first + share.first, first + self.config.accumulation, share.stride):
            batch = replace(self.batches(micro_step).to(self.context.device), rows=share.rows)
            generator = step_generator(self.config.seed, micro_step, _LOSS_DRAWS)
            losses = self.objective.losses(batch, generator)
            while (found := self._next(losses)) is not None:
                loss, terms = found
                self.context.backward(loss / self.config.accumulation)
                for name, value in terms.items():
                    sums[name] = sums.get(name, 0) + value / self.config.accumulation
            seen += len(batch.latents.keys) * share.stride
        terms, self._stop = self.context.agree(sums, self._asked_to_stop)
        return terms, seen

    def _next(self, losses: Iterator[Loss]) -> Loss | None:
        """The forward pass in the run's precision; the backward pass is the caller's, outside of it."""
        with self.context.autocast(self.config.precision):
            return next(losses, None)

    def _heed(self, terms: dict[str, float]) -> None:
        """Ends the run where the objective says that it does more harm than good."""
        concern = self.objective.concern(terms)
        if concern is not None:
            raise InputError(f"Training stopped at step {self.step}: {concern}")

    @without_gradients
    def _sheet(self, sheets: Sheets) -> np.ndarray:
        """A contact sheet by the averaged weights; puts the trained ones back."""
        kept = {n: p.detach().clone() for n, p in self.transformer.named_parameters() if p.requires_grad}
        if self.average is not None:
            self.average.copy_to(self.transformer)
        self.transformer.eval()
        try:
            return sheets(self.transformer, self.context.device)
        finally:
            parameters = dict(self.transformer.named_parameters())
            for name, value in kept.items():
                parameters[name].copy_(value)
            self.transformer.train()

    def _request_stop(self, *_: object) -> None:
        self._asked_to_stop = True
