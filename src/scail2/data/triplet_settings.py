"""What a training set is made of: the kinds of samples, their shares, and the named departures from them (ablations)."""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any

import numpy as np

from scail2.errors import InputError
from scail2.modes import AnimationMode


class SampleKind(StrEnum):
    """How a triplet was constructed; the mode it trains follows from it (`mode`)."""

    ANIMATION_SINGLE = "animation_single"
    ANIMATION_MULTI = "animation_multi"
    REPLACEMENT_SINGLE = "replacement_single"
    REPLACEMENT_MULTI = "replacement_multi"
    POSE_SINGLE = "pose_single"
    POSE_MULTI = "pose_multi"
    SELF_DRIVEN = "self_driven"

    @property
    def mode(self) -> AnimationMode:
        """The mode the sample trains: replacement kinds replacement, everything else animation."""
        return AnimationMode.REPLACEMENT if self.value.startswith("replacement") else AnimationMode.ANIMATION

    @property
    def construction(self) -> "SampleKind":
        """How the pair that it is made of was constructed: single or multi, animation or replacement."""
        if self.value.startswith("replacement"):
            return self
        return SampleKind.ANIMATION_MULTI if self.is_multi else SampleKind.ANIMATION_SINGLE

    @property
    def is_multi(self) -> bool:
        """Whether two or more characters are bound."""
        return self.value.endswith("_multi")

    @property
    def is_pose(self) -> bool:
        """Whether the driving video is a pose render by construction."""
        return self.value.startswith("pose")


class DrivingInput(StrEnum):
    """What goes in as the driving video."""

    FRAMES = "frames"
    POSE = "pose"


def _frozen(shares: Mapping[SampleKind, float]) -> Mapping[SampleKind, float]:
    return MappingProxyType({SampleKind(kind): float(share) for kind, share in shares.items()})


# Method description, data table: 60 % single animation, 20 % replacement (9,249 single : 4,385 multi pairs), 20 % pose.
# Multi-character animation is never synthesised. The split of the pose share is not published: three to one here.
PUBLISHED_SHARES = _frozen(
    {
        SampleKind.ANIMATION_SINGLE: 0.60,
        SampleKind.REPLACEMENT_SINGLE: 0.20 * 9249 / (9249 + 4385),
        SampleKind.REPLACEMENT_MULTI: 0.20 * 4385 / (9249 + 4385),
        SampleKind.POSE_SINGLE: 0.15,
        SampleKind.POSE_MULTI: 0.05,
    }
)


@dataclass(frozen=True, kw_only=True)
class TripletSettings:
    """How pairs become triplets. Defaults are the published construction.

    Attributes:
        name: Shown in reports and stored with the cache.
        shares: Relative frequency of each kind; normalised when drawn from.
        forward_share: Fraction of pairs whose *synthetic* clip is the target instead of the driving video; samples driven by
            their target's own motion (pose renders) are never among them.
        both_directions: The source renders both clips exactly, so each pair gives two samples, either clip the target.
        driving: `pose` replaces every driving video by pose renders (in replacement over the scene with the
            character's pixels blacked out).
        environment_switch: False paints every mask background black, so masks no longer say whose scene is wanted.
        binding_slots: False paints all characters in one colour, so masks no longer say who is who.
        mode_specific_positions: False trains both modes with animation's positions (one RoPE).
        black_out_reference: False leaves a replacement sample's reference its surroundings, as published code does with a picture
            that nobody has cut out: then masks and positions alone say which scene is wanted.
        reference_from_target: True takes the reference from the target clip, False the pair's own still (unrelated
            pose) where it has one.
        augment_driving: Probability, at each visit in training, of a cropped and stretched driving video (animation mode).
        pose_scale: The same where it is a pose render: of a skeleton scaled limb by limb. Poses are never cropped.
        caption: Whether captions are carried along.
    """

    name: str
    shares: Mapping[SampleKind, float] = field(default_factory=lambda: PUBLISHED_SHARES)
    forward_share: float = 0.05
    both_directions: bool = False
    driving: DrivingInput = DrivingInput.FRAMES
    environment_switch: bool = True
    binding_slots: bool = True
    mode_specific_positions: bool = True
    black_out_reference: bool = True
    reference_from_target: bool = True
    augment_driving: float = 0.56
    pose_scale: float = 0.75
    caption: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "shares", _frozen(self.shares))
        if not self.shares or min(self.shares.values()) < 0 or sum(self.shares.values()) <= 0:
            raise InputError(f"recipe {self.name!r}: shares must be non-negative and at least one positive")
        for name in ("forward_share", "augment_driving", "pose_scale"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise InputError(f"recipe {self.name!r}: {name} is a probability in [0, 1], not {getattr(self, name)}")

    @property
    def samples_per_pair(self) -> int:
        """2 when either clip may be the target, else 1."""
        return 2 if self.both_directions else 1

    @property
    def needs_poses(self) -> bool:
        """Whether samples of every kind need pose renders (pose kinds always bring theirs)."""
        return self.driving is DrivingInput.POSE

    def draw_kind(self, generator: np.random.Generator) -> SampleKind:
        """One kind with probability proportional to its share."""
        kinds = list(self.shares)
        weights = np.array([self.shares[kind] for kind in kinds])
        return kinds[int(generator.choice(len(kinds), p=weights / weights.sum()))]

    def to_json(self) -> dict[str, Any]:
        """Plain dictionary; `from_json` inverts it."""
        record = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        record["shares"] = {kind.value: share for kind, share in self.shares.items()}
        record["driving"] = self.driving.value
        if self.black_out_reference:  # caches of earlier versions know no other
            del record["black_out_reference"]
        return record

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> "TripletSettings":
        """Inverse of `to_json`."""
        return cls(**{**record, "driving": DrivingInput(record["driving"])})

    def __reduce__(self) -> tuple[Any, ...]:
        return TripletSettings.from_json, (self.to_json(),)  # a mapping proxy does not pickle

    @property
    def fingerprint(self) -> str:
        """Hash of everything that changes samples; caches refuse to mix fingerprints."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()[:16]


def _without_replacement(settings: TripletSettings) -> TripletSettings:
    kept = {kind: share for kind, share in settings.shares.items() if kind.mode is not AnimationMode.REPLACEMENT}
    return dataclasses.replace(settings, shares=kept)


def _without_multi_animation(settings: TripletSettings) -> TripletSettings:
    kept: dict[SampleKind, float] = dict(settings.shares)
    kept.pop(SampleKind.ANIMATION_MULTI, None)
    return dataclasses.replace(settings, shares=kept)


# Each ablation changes one thing of a recipe; the tests hold each to it.
ABLATIONS: Mapping[str, Any] = MappingProxyType(
    {
        "pose_driving": lambda settings: dataclasses.replace(settings, driving=DrivingInput.POSE),
        "no_environment_switch": lambda settings: dataclasses.replace(settings, environment_switch=False),
        "no_slots": lambda settings: dataclasses.replace(settings, binding_slots=False),
        "one_rope": lambda settings: dataclasses.replace(settings, mode_specific_positions=False),
        "no_replacement_data": _without_replacement,
        "no_multi_animation": _without_multi_animation,
        "whole_reference": lambda settings: dataclasses.replace(settings, black_out_reference=False),
        "reverse_driving": lambda settings: dataclasses.replace(settings, forward_share=0.0, both_directions=False),
        "forward_driving": lambda settings: dataclasses.replace(settings, forward_share=1.0, both_directions=False),
    }
)

TRIPLET_SETTINGS: Mapping[str, TripletSettings] = MappingProxyType(
    {
        "paper": TripletSettings(name="paper"),
        # For the small checkpoint: exact clips both ways, unrelated reference poses, no augmentation yet. It has no text
        # encoder, and with two cores it cannot rely on multi-character animation emerging from replacement data alone.
        "nano": TripletSettings(
            name="nano",
            shares={
                SampleKind.ANIMATION_SINGLE: 0.55,
                SampleKind.REPLACEMENT_SINGLE: 0.25,
                SampleKind.ANIMATION_MULTI: 0.10,
                SampleKind.REPLACEMENT_MULTI: 0.10,
            },
            both_directions=True,
            forward_share=0.0,
            reference_from_target=False,
            augment_driving=0.0,
            pose_scale=0.0,
            caption=False,
        ),
    }
)


def triplet_settings(name: str) -> TripletSettings:
    """A recipe by name, with ablations appended by plus signs: `nano`, `paper+no_slots`, `nano+one_rope+no_slots`.

    Raises:
        InputError: an unknown recipe or ablation name.
    """
    base, *changes = name.split("+")
    if base not in TRIPLET_SETTINGS:
        raise InputError(f"unknown recipe {base!r}: choose one of {', '.join(TRIPLET_SETTINGS)}")
    return dataclasses.replace(with_ablations(TRIPLET_SETTINGS[base], changes), name=name)


def with_ablations(settings: TripletSettings, names: Iterable[str]) -> TripletSettings:
    """The same with the named departures, one after the other; `InputError` for a name that is none."""
    for name in names:
        if name not in ABLATIONS:
            raise InputError(f"unknown ablation {name!r}: choose from {', '.join(ABLATIONS)}")
        settings = ABLATIONS[name](settings)
    return settings
