"""What is evaluated: clips of puppets that no training has seen, with everything that can be known about them."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from scail2.data.puppet_source import PuppetSource
from scail2.data.triplet_settings import SampleKind, TripletSettings, triplet_settings
from scail2.data.triplets import TrainingTriplet, draw_triplet
from scail2.modes import AnimationMode

Array = np.ndarray


class EvaluationTask(StrEnum):
    """The four things the system does; names in tables and JSON."""

    ANIMATION_SINGLE = "animation_single"
    REPLACEMENT_SINGLE = "replacement_single"
    ANIMATION_MULTI = "animation_multi"
    REPLACEMENT_MULTI = "replacement_multi"

    @property
    def kind(self) -> SampleKind:
        """The samples' kind."""
        return SampleKind(self.value)


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationClip:
    """One test: the inputs as a triplet, the truth, and the scene without characters."""

    name: str
    triplet: TrainingTriplet
    plate: Array  # uint8 (T, H, W, 3), the target's scene without characters
    tracks: Array  # bool (S, T, H, W), the target's characters

    @property
    def mode(self) -> AnimationMode:
        """The mode to generate in."""
        return self.triplet.mode

    @property
    def truth(self) -> Array:
        """uint8 (T, H, W, 3)."""
        return self.triplet.target

    @property
    def reference_region(self) -> Array:
        """bool (H, W): the characters in the reference picture."""
        on = self.triplet.reference_mask > 225
        return np.asarray(on.any(axis=-1) & ~on.all(axis=-1))


def _as_tested(variant: TripletSettings) -> TripletSettings:
    """Keeps a recipe's switches, drops the chances it takes in training; forward driving is a switch when it is certain."""
    return dataclasses.replace(
        variant,
        reference_from_target=False,
        augment_driving=0.0,
        pose_scale=0.0,
        forward_share=float(variant.forward_share == 1.0),
    )


def evaluation_clips(
    task: EvaluationTask | str, source: PuppetSource, count: int, *, variant: TripletSettings | None = None
) -> Iterator[EvaluationClip]:
    """Clips 0 … `count` − 1 of a task; clip n is the same whatever `count` is.

    The reference shows the target's characters in an unrelated pose (in replacement in another scene), the driving video
    other characters; nothing is augmented, whatever the variant does in training.

    Args:
        source: split, salt, domain, size and length.
        variant: a recipe whose switches (ablations) the inputs should follow.
    """
    kind = EvaluationTask(task).kind
    chosen = _as_tested(variant or triplet_settings("nano"))
    for number in range(count):
        generator = np.random.default_rng([list(EvaluationTask).index(EvaluationTask(task)), number])
        pair = source.pair(kind, number, generator)
        triplet = draw_triplet(pair, kind, chosen, generator)
        plate = source.plate(kind, number, pair.meta["start"], of_synthetic=bool(triplet.meta["forward"]))
        target = pair.synthetic if triplet.meta["forward"] else pair.real
        yield EvaluationClip(name=f"{kind.value}-{number:03d}", triplet=triplet, plate=plate, tracks=target.tracks)
