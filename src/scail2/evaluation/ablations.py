"""Measuring the arms of an ablation on the same held-out puppets, where the difference should show."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from scail2.data.ablations import Ablation, AblationPlan, Arm
from scail2.data.contact_sheet import SheetRow
from scail2.data.puppet_source import PuppetSource
from scail2.evaluation.clips import EvaluationClip, EvaluationTask, evaluation_clips
from scail2.evaluation.comparison import Interval, paired_interval
from scail2.evaluation.interference import identity_swaps, overlap_psnr, pull, wrong_share
from scail2.evaluation.limbs import limb_iou
from scail2.evaluation.measures import DETAILS, LIMB_PARTS, part_psnr
from scail2.evaluation.metrics import psnr
from scail2.evaluation.protocols import generate
from scail2.modes import AnimationMode

Array = np.ndarray

MEASURES: Mapping[str, str] = MappingProxyType(
    {
        "wrong_background": "share of background pixels nearer to the other mode's scene than to the right one",
        "mode_leakage": "pull of the background towards the other mode's scene: 0 right, 1 wrong",
        "identity_swaps": "share of characters drawn as the other one",
        "overlap_psnr": "PSNR where characters meet, dB",
        "hand_psnr": "PSNR of the hands, dB",
        "limb_iou": "overlap of limbs with the true ones",
        "character_psnr": "PSNR of the characters, dB",
        "background_psnr": "PSNR of the background, dB",
    }
)
"""What an arm is measured by, and what each is."""


@dataclass(frozen=True, slots=True)
class ArmClip:
    """One measured clip of one arm: its name and task, and the measures; nan where one does not apply."""

    name: str
    task: str
    measures: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class StoredClip:
    """`ArmClip` as it is kept in a file, null where a measure does not apply."""

    name: str
    task: str
    measures: dict[str, float | None]


def measure_arm(pipe: Any, plan: AblationPlan, arm: Arm, *, seed: int = 0) -> Iterator[ArmClip]:
    """Runs an arm's pipeline on the plan's held-out clips; clips and noise are the same for every arm."""
    source = plan.source(arm, split="test", tested=True)
    variant = plan.settings(arm.changes if arm.tested is None else arm.tested)
    for task in map(EvaluationTask, plan.tasks_of(arm)):
        for number, clip in enumerate(evaluation_clips(task, source, plan.world.clips, variant=variant)):
            output = generate(pipe, clip, seed=seed + number).frames
            yield ArmClip(clip.name, task.value, interference_measures(output, clip, source))


def shown_rows(pipe: Any, plan: AblationPlan, arm: Arm, tasks: Iterable[str], count: int) -> list[SheetRow]:
    """The first clips of each task as rows of a contact sheet; the same clips for every arm."""
    source = plan.source(arm, split="test", tested=True)
    variant = plan.settings(arm.changes if arm.tested is None else arm.tested)
    rows = []
    for task in map(EvaluationTask, tasks):
        for number, clip in enumerate(evaluation_clips(task, source, count, variant=variant)):
            output = generate(pipe, clip, seed=number).frames
            rows.append(SheetRow(clip.triplet.reference, clip.triplet.driving, output, clip.truth))
    return rows


def interference_measures(output: Array, clip: EvaluationClip, source: PuppetSource) -> dict[str, float]:
    """The measures of `MEASURES` for one clip of a source."""
    triplet, background = clip.triplet, ~clip.triplet.region
    parts = triplet.target_parts
    wrong = other_scene(clip, source)
    multi = len(clip.tracks) > 1
    exchanged = (
        source.exchanged(
            triplet.kind, triplet.meta["index"], triplet.meta["start"], of_synthetic=bool(triplet.meta["forward"])
        )
        if multi
        else clip.truth
    )
    return {
        "wrong_background": wrong_share(output, clip.truth, wrong, background),
        "mode_leakage": pull(output, clip.truth, wrong, background),
        "identity_swaps": identity_swaps(output, clip.truth, exchanged, clip.tracks),
        "overlap_psnr": overlap_psnr(output, clip.truth, clip.tracks) if multi else float("nan"),
        "hand_psnr": part_psnr(output, clip.truth, parts, DETAILS["hand"]),
        "limb_iou": float("nan") if parts is None else limb_iou(output, clip.truth, parts, clip.plate, LIMB_PARTS),
        "character_psnr": psnr(output, clip.truth, triplet.region),
        "background_psnr": psnr(output, clip.truth, background),
    }


def other_scene(clip: EvaluationClip, source: PuppetSource) -> Array:
    """What the background would be in the other mode: the driving video's scene for animation, the reference's for replacement.

    Both without their characters, uint8 `(T, H, W, 3)`.
    """
    kind, meta = clip.triplet.kind, clip.triplet.meta
    if clip.mode is AnimationMode.ANIMATION:
        return source.plate(kind, meta["index"], meta["start"], of_synthetic=not meta["forward"])
    return source.still_plate(kind, meta["index"], of_synthetic=bool(meta["forward"]))


@dataclass(frozen=True, kw_only=True, slots=True)
class AblationResult:
    """One row of the table: both arms' means and their difference, without minus as published."""

    ablation: Ablation
    published: float
    without: float
    difference: Interval
    clips: int
    seeds: int

    @property
    def verdict(self) -> str:
        """Whether the published sign came out, the opposite one, or neither."""
        if not self.difference.sign:
            return "undecided"
        return "reproduced" if self.difference.sign == self.ablation.sign else "opposite"


def compare(ablation: Ablation, published: list[list[ArmClip]], without: list[list[ArmClip]]) -> AblationResult:
    """A row from both arms' clips, one list for each training, in the order of the seeds.

    Clips in which the measure does not apply in any of the trainings are left out on both sides.

    Raises:
        InputError: fewer than two clips can be compared.
    """
    sides = [np.array([_values(ablation, clips) for clips in arm], float) for arm in (published, without)]
    known = np.isfinite(np.concatenate(sides)).all(axis=0)
    return AblationResult(
        ablation=ablation,
        published=float(sides[0][:, known].mean()) if known.any() else float("nan"),
        without=float(sides[1][:, known].mean()) if known.any() else float("nan"),
        difference=paired_interval(sides[1] - sides[0]),
        clips=int(known.sum()),
        seeds=len(published),
    )


def _values(ablation: Ablation, clips: list[ArmClip]) -> list[float]:
    """The measure of the ablation's tasks, in an order that every arm has."""
    chosen = sorted((clip for clip in clips if clip.task in ablation.tasks), key=lambda clip: clip.name)
    return [clip.measures[ablation.measure] for clip in chosen]
