"""Runs a pipeline on held-out clips of the four tasks and measures what comes out, baselines beside it."""

import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from scail2.data.puppet_source import PuppetSource
from scail2.data.triplet_settings import triplet_settings
from scail2.evaluation.clips import EvaluationClip, EvaluationTask, evaluation_clips
from scail2.evaluation.measures import BASELINES, measure_clip
from scail2.evaluation.networks import GivenNetworks
from scail2.evaluation.report import EvaluationReport, TaskReport
from scail2.video import to_uint8

Array = np.ndarray


@dataclass(frozen=True, slots=True)
class Generated:
    """Output of one clip: uint8 `(T, H, W, 3)`, first frames of later segments, wall-clock seconds."""

    frames: Array
    seams: tuple[int, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class MeasuredClip:
    """What an observer of a running evaluation is shown (contact sheets are made of these)."""

    task: EvaluationTask
    clip: EvaluationClip
    generated: Generated
    measures: Mapping[str, float]


def generate(pipe: Any, clip: EvaluationClip, *, seed: int, **options: Any) -> Generated:
    """The pipeline's answer to a clip, noise from `seed`; `options` go to `SCAIL2Pipeline.stream`.

    A model with text is given the clip's caption (empty where the variant leaves captions out).
    """
    height, width = clip.truth.shape[1:3]
    started = time.perf_counter()
    frames: list[np.ndarray] = []
    seams = []
    with _positions_of(pipe.transformer, clip), _masks_as_they_are():
        for output in pipe.stream(
            clip.triplet.reference,
            clip.triplet.driving,
            clip.triplet.reference_mask,
            clip.triplet.driving_mask,
            mode=clip.mode,
            height=height,
            width=width,
            generator=torch.Generator().manual_seed(seed),
            prompt=None if pipe.transformer.config.text_dim is None else clip.triplet.caption,
            # An ablation's masks contradict the mode on purpose.
            allow_mask_mismatch=True,
            black_out_reference=clip.triplet.black_out_reference,
            **options,
        ):
            if frames:
                seams.append(sum(len(each) for each in frames))
            frames.append(to_uint8(output.frames))
    return Generated(np.concatenate(frames), tuple(seams), time.perf_counter() - started)


@contextlib.contextmanager
def _positions_of(transformer: torch.nn.Module, clip: EvaluationClip) -> Iterator[None]:
    """An ablation may ask for the other mode's positions; only the network's call differs, so only that is changed."""
    positions = clip.triplet.position_mode
    if positions is clip.mode:
        yield
        return
    hook = transformer.register_forward_pre_hook(
        lambda _module, args, kwargs: (args, kwargs | {"mode": positions}), with_kwargs=True
    )
    try:
        yield
    finally:
        hook.remove()


@contextlib.contextmanager
def _masks_as_they_are() -> Iterator[None]:
    """An ablation's masks contradict the mode on purpose: nobody need be told so for every clip."""
    logger = logging.getLogger("scail2.pipeline.call")

    def passes(record: logging.LogRecord) -> bool:
        return record.funcName != "_check_masks"

    logger.addFilter(passes)
    try:
        yield
    finally:
        logger.removeFilter(passes)


def evaluate_pipeline(
    pipe: Any,
    split: str = "test",
    clips: int = 16,
    *,
    salt: str = "",
    tasks: Iterable[EvaluationTask | str] = tuple(EvaluationTask),
    domain: str = "nano",
    frames: int = 17,
    size: tuple[int, int] = (128, 128),
    variant: str = "nano",
    seed: int = 0,
    networks: GivenNetworks | None = None,
    observe: Callable[[MeasuredClip], None] | None = None,
    **options: Any,
) -> EvaluationReport:
    """Evaluates a pipeline on puppets it has not seen.

    Args:
        pipe: a `SCAIL2Pipeline`; left in the mode and on the device it is.
        split: `test`, `validation`, `holdout` (or `train`, to see memorising); `salt` draws another disjoint world.
        clips: number of clips of each task.
        frames, size: length and (height, width) of the clips.
        variant: recipe name whose switches the inputs follow (`nano+no_slots`).
        seed: clip n's noise comes from seed + n.
        networks: LPIPS and FVD, where the user gives them.
        observe: called after every clip.
        options: passed to `SCAIL2Pipeline.stream` (`preset`, `num_inference_steps`, …).
    """
    height, width = size
    chosen = triplet_settings(variant)
    source = PuppetSource(
        domain=domain,
        split=split,
        salt=salt,
        frames=frames,
        height=height,
        width=width,
        with_poses=chosen.needs_poses,
    )
    reports = {}
    for task in map(EvaluationTask, tasks):
        reports[task.value] = _evaluate_task(
            pipe, evaluation_clips(task, source, clips, variant=chosen), task, seed, networks, observe, options
        )
    settings = {
        "split": split,
        "salt": salt,
        "clips": clips,
        "domain": domain,
        "frames": frames,
        "seed": seed,
        "variant": variant,
        **{name: value for name, value in options.items() if isinstance(value, str | int | float)},
    }
    return EvaluationReport(tasks=reports, settings=settings)


def _evaluate_task(
    pipe: Any,
    clips: Iterable[EvaluationClip],
    task: EvaluationTask,
    seed: int,
    networks: GivenNetworks | None,
    observe: Callable[[MeasuredClip], None] | None,
    options: Mapping[str, Any],
) -> TaskReport:
    outputs, seconds, features = [], [], []
    copies: dict[str, list[dict[str, float]]] = {name: [] for name in BASELINES}
    for number, clip in enumerate(clips):
        generated = generate(pipe, clip, seed=seed + number, **options)
        measures = measure_clip(generated.frames, clip, generated.seams)
        if networks is not None:
            measures |= networks.per_clip(generated.frames, clip.truth)
            features.append(networks.features(generated.frames, clip.truth))
        for name, copy in BASELINES.items():
            copied = measure_clip(copy(clip), clip)
            copies[name].append(copied | (networks.per_clip(copy(clip), clip.truth) if networks else {}))
        outputs.append(measures)
        seconds.append(generated.seconds)
        if observe is not None:
            observe(MeasuredClip(task, clip, generated, measures))
    height, width = clip.truth.shape[1:3]
    known = [each for each in features if each is not None]
    extra = networks.per_set(known) if networks is not None else {}
    return TaskReport(outputs=outputs, baselines=copies, seconds=seconds, height=height, width=width, extra=extra)
