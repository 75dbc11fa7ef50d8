"""Micro-batches of cached latents for the trainer."""

import dataclasses
import logging
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property, lru_cache
from pathlib import Path

import torch
from safetensors.torch import load_file

from scail2.data.cache import EMPTY_PROMPT
from scail2.data.dataset import BucketLoader, BucketSampler, LatentDataset
from scail2.data.samples import LatentBatch, LatentSample, collate
from scail2.data.triplet_settings import SampleKind
from scail2.errors import InputError
from scail2.training.batches import TrainingBatch, cut_window, mixture_at, step_generator
from scail2.training.config import DataConfig, MixtureKnot

logger = logging.getLogger(__name__)

# What a step's random draws are for; part of every seed.
_SAMPLE_DRAWS = 1


class LatentBatches:
    """``batches(micro_step)``: draws, reads, cuts and stacks samples; reads the micro-batch that follows in the background.

    A "self_driven" share is served by samples that were cached as such, or, where there are none, by single-character animation
    samples driven by their own target.

    Args:
        stride: from one micro-batch that is asked for to the next: other processes train on those between.
    """

    def __init__(self, dataset: LatentDataset, config: DataConfig, seed: int, *, stride: int = 1) -> None:
        self.dataset = dataset
        self.stride = stride
        self.config = dataclasses.replace(config, mixture=_without_absent_kinds(config.mixture, dataset))
        self.seed = seed
        self._samples_before = 0
        self._reader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches")
        self._ahead: dict[int, Future[TrainingBatch]] = {}
        self._loader = lru_cache(maxsize=2)(self._make_loader)

    def __call__(self, micro_step: int) -> TrainingBatch:
        future = self._ahead.pop(micro_step, None)
        batch = future.result() if future is not None else self.read(micro_step)
        following = micro_step + self.stride
        self._ahead = {following: self._reader.submit(self.read, following)}
        return batch

    def resume_at(self, micro_step: int, samples: int) -> None:
        """Says that ``samples`` samples had been seen before ``micro_step``: the mixture follows samples, not steps."""
        self._samples_before = samples - micro_step * self.config.batch_size
        self._ahead.clear()

    @cached_property
    def _first(self) -> LatentBatch:
        """The first batch, read once to learn what the samples carry."""
        return self.read(0).latents

    @property
    def part_channels(self) -> int:
        """Channels of the samples' part coverage, 0 when they carry none."""
        parts = self._first.parts_target
        return 0 if parts is None else parts.shape[1]

    @property
    def empty_prompt(self) -> torch.Tensor | None:
        """The embedding that stands for a dropped caption, where samples carry prompts and captions are dropped."""
        if self.config.caption_dropout == 0 or self._first.prompt_embeds is None:
            return None
        path = Path(self.config.shards) / EMPTY_PROMPT
        if not path.exists():
            raise InputError(
                f"{path} is missing: captions cannot be dropped without the empty prompt's embedding; "
                "run scail2 cache again with --resume to write it, or train with caption_dropout=0."
            )
        return load_file(path)["prompt_embeds"]

    def tell_of_empty_captions(self) -> None:
        """Warns where prompts are trained on and some are empty: the model learns that they do not matter."""
        empty = self.dataset.empty_captions
        if empty and self._first.prompt_embeds is not None:
            logger.warning(
                "%d of %d samples have an empty caption: the model learns from them to do without its prompt",
                empty,
                len(self.dataset),
            )

    def read(self, micro_step: int) -> TrainingBatch:
        """The micro-batch of a step: a pure function of the step, the seed and the shards."""
        generator = step_generator(self.seed, micro_step, _SAMPLE_DRAWS)
        shares = mixture_at(self._samples_before + micro_step * self.config.batch_size, self.config.mixture)
        # Samples of single videos drive themselves already.
        kept = SampleKind.SELF_DRIVEN in self.dataset.kinds
        self_share = 0.0 if kept else shares.pop(SampleKind.SELF_DRIVEN, 0.0)
        single = shares.get(SampleKind.ANIMATION_SINGLE, 0.0)
        if self_share:
            shares[SampleKind.ANIMATION_SINGLE] = single + self_share
        samples = self._loader(tuple(shares.items())).samples(micro_step)
        odds = torch.rand(len(samples), generator=generator)
        drive_themselves = odds * (self_share + single) < self_share
        chosen = [_driven(s, own) for s, own in zip(samples, drive_themselves.tolist(), strict=True)]
        frames = chosen[0].target.shape[1]
        whole = bool(torch.rand((), generator=generator) < self.config.whole_share)
        window = frames if whole or self.config.window is None else min(self.config.window, frames)
        start = int(torch.randint(frames - window + 1, (1,), generator=generator))
        visits = torch.rand(len(chosen), generator=generator).tolist()
        seen = [s.augmented() if odds < s.augmented_share else s for s, odds in zip(chosen, visits, strict=True)]
        return cut_window(collate(seen), start, window)

    def _make_loader(self, shares: tuple[tuple[str, float], ...]) -> BucketLoader:
        sampler = BucketSampler(self.dataset, self.config.batch_size, seed=self.seed, shares=dict(shares))
        return BucketLoader(self.dataset, sampler)


def _without_absent_kinds(mixture: tuple[MixtureKnot, ...], dataset: LatentDataset) -> tuple[MixtureKnot, ...]:
    """The mixture over the kinds that were cached (an ablation may leave some out), with a warning that names the others."""
    cached = set(dataset.kinds) | ({SampleKind.SELF_DRIVEN} if SampleKind.ANIMATION_SINGLE in dataset.kinds else set())
    used = {kind for knot in mixture for kind, share in knot.shares if share > 0}
    for kind in sorted(set(dataset.kinds) - {SampleKind(each) for each in used} if used else ()):
        logger.warning(
            "the recipe has no share of %s: %d cached samples are not trained on", kind.value, dataset.kinds[kind]
        )
    absent = sorted({kind for knot in mixture for kind, share in knot.shares if share > 0 and kind not in cached})
    if not absent:
        return mixture
    kept = tuple(
        dataclasses.replace(knot, shares=tuple((k, share) for k, share in knot.shares if k in cached))
        for knot in mixture
    )
    if any(sum(share for _, share in knot.shares) <= 0 for knot in kept):
        held = ", ".join(sorted(dataset.kinds))
        raise InputError(
            f"The recipe trains on {', '.join(absent)}, but the cache holds only {held}; cache those kinds."
        )
    logger.warning("the cache has no %s: training goes on without", ", ".join(absent))
    return kept


def _driven(sample: LatentSample, by_itself: bool) -> LatentSample:
    return sample.self_driven() if by_itself and sample.kind is SampleKind.ANIMATION_SINGLE else sample
