"""The published ablations: which two trainings are compared, where the difference should show, and at what scale.

An arm is one training. Arms that differ in one thing make an ablation; several ablations share an arm.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

from scail2.data.puppet_source import PuppetSource
from scail2.data.triplet_settings import SampleKind, TripletSettings, triplet_settings, with_ablations
from scail2.errors import InputError
from scail2.files.documents import Between, load_toml

SINGLE = ("animation_single", "replacement_single")
MULTI = ("animation_multi", "replacement_multi")


class Stage(StrEnum):
    """What an arm learns from: motion pairs, or preference pairs by one of three objectives."""

    PAIRS = "pairs"
    SFT = "sft"
    SFT_HANDS = "sft_hands"
    DPO = "dpo"


@dataclass(frozen=True, kw_only=True, slots=True)
class Arm:
    """One training.

    Attributes:
        name: of its folders.
        changes: names of `triplet_settings.ABLATIONS`, appended to the recipe `nano`.
        tested: the changes that its inputs have in the test, where these are others.
        generator_error, estimator_error: of the training pairs, as in `PuppetSource`; the estimator's also in the test.
        stage: arms of preference stages begin with the trained weights of ``follows``.
    """

    name: str
    changes: tuple[str, ...] = ()
    tested: tuple[str, ...] | None = None
    generator_error: str = "none"
    estimator_error: str = "none"
    stage: Stage = Stage.PAIRS
    follows: "Arm | None" = None

    @property
    def roots(self) -> "Arm":
        """The arm whose pairs it began with: itself, or what it follows."""
        return self if self.follows is None else self.follows


@dataclass(frozen=True, kw_only=True, slots=True)
class Ablation:
    """One comparison: the published way against a way without something.

    Attributes:
        published, without: the two arms.
        measure: where it should show: a name of `scail2.evaluation.ablations.MEASURES`.
        sign: of the measure's mean without minus as published, as published: 1 rises, −1 falls.
        claim: what was published, in words.
        tasks: the tests' kinds.
    """

    name: str
    published: Arm
    without: Arm
    measure: str
    sign: int
    claim: str
    tasks: tuple[str, ...]


# Replacement references keep their surroundings in every arm: cut out, they would say which scene is wanted by themselves.
_BASE = Arm(name="base", changes=("whole_reference",))
_ONE_ROPE = Arm(name="one_rope", changes=("whole_reference", "one_rope"))
_NO_SWITCH = Arm(name="no_switch", changes=("whole_reference", "no_environment_switch"))
_NO_SWITCH_ONE_ROPE = Arm(name="no_switch_one_rope", changes=("whole_reference", "one_rope", "no_environment_switch"))
_REVERSE = Arm(name="reverse", changes=("whole_reference", "reverse_driving"), generator_error="strong")


def _preference(stage: Stage) -> Arm:
    return Arm(name=stage.value, changes=_BASE.changes, stage=stage, follows=_BASE)


_ALL = (
    Ablation(
        name="environment_switch",
        published=_BASE,
        without=_NO_SWITCH,
        measure="wrong_background",
        sign=1,
        claim="without the environment switch the background is arbitrary",
        tasks=SINGLE,
    ),
    Ablation(
        name="environment_switch_one_rope",
        published=_ONE_ROPE,
        without=_NO_SWITCH_ONE_ROPE,
        measure="wrong_background",
        sign=1,
        claim="the same where positions do not tell the mode either",
        tasks=SINGLE,
    ),
    Ablation(
        name="mode_positions",
        published=_BASE,
        without=_ONE_ROPE,
        measure="mode_leakage",
        sign=1,
        claim="without mode-specific positions the modes disturb each other",
        tasks=SINGLE,
    ),
    Ablation(
        name="mode_positions_no_switch",
        published=_NO_SWITCH,
        without=_NO_SWITCH_ONE_ROPE,
        measure="mode_leakage",
        sign=1,
        claim="the same where the environment switch does not tell the mode either",
        tasks=SINGLE,
    ),
    Ablation(
        name="binding_slots",
        published=_BASE,
        without=Arm(name="no_slots", changes=("whole_reference", "no_slots")),
        measure="identity_swaps",
        sign=1,
        claim="without binding slots identities swap (appearance 4.13 → 3.90)",
        tasks=MULTI,
    ),
    Ablation(
        name="replacement_data",
        published=Arm(name="no_multi_animation", changes=("whole_reference", "no_multi_animation")),
        without=Arm(name="no_replacement", changes=("whole_reference", "no_multi_animation", "no_replacement_data")),
        measure="overlap_psnr",
        sign=-1,
        claim="without replacement data overlapping characters break",
        tasks=("animation_multi",),
    ),
    Ablation(
        name="end_to_end",
        published=_BASE,
        without=Arm(name="pose_driven", changes=("whole_reference", "pose_driving"), estimator_error="mild"),
        measure="limb_iou",
        sign=-1,
        claim="pose-driven of the same size follows the motion less well",
        tasks=(*SINGLE, *MULTI),
    ),
    Ablation(
        name="end_to_end_weak_estimator",
        published=_BASE,
        without=Arm(name="pose_driven_weak", changes=("whole_reference", "pose_driving"), estimator_error="strong"),
        measure="limb_iou",
        sign=-1,
        claim="the same with the poses of a weak estimator",
        tasks=(*SINGLE, *MULTI),
    ),
    Ablation(
        name="reverse_driving",
        published=_REVERSE,
        without=Arm(
            name="forward",
            changes=("whole_reference", "forward_driving"),
            tested=_REVERSE.changes,
            generator_error="strong",
        ),
        measure="hand_psnr",
        sign=-1,
        claim="a generator's clips as targets teach its artefacts",
        tasks=("animation_single",),
    ),
    Ablation(
        name="preferences",
        published=_preference(Stage.DPO),
        without=_preference(Stage.SFT_HANDS),
        measure="hand_psnr",
        sign=-1,
        claim="SFT with a hand-weighted loss helps less than Bias-Aware DPO",
        tasks=("animation_single",),
    ),
    Ablation(
        name="preferences_sft",
        published=_preference(Stage.DPO),
        without=_preference(Stage.SFT),
        measure="hand_psnr",
        sign=-1,
        claim="SFT on the preferred videos alone helps less than Bias-Aware DPO",
        tasks=("animation_single",),
    ),
)
ABLATION_CATALOGUE: Mapping[str, Ablation] = MappingProxyType({each.name: each for each in _ALL})


@dataclass(frozen=True, kw_only=True, slots=True)
class WorldPlan:
    """The puppets of an experiment: pixels of a side, frames, samples cached for each arm, clips of each task in the test."""

    size: Annotated[int, Between(16, 512)] = 64
    frames: Annotated[int, Between(5, 81)] = 9
    samples: Annotated[int, Between(2, 10**7)] = 4000
    clips: Annotated[int, Between(2, 10**4)] = 32
    basis_clips: Annotated[int, Between(4, 10**4)] = 200
    shares: dict[SampleKind, float] = dataclasses.field(
        default_factory=lambda: {
            SampleKind.ANIMATION_SINGLE: 0.3,
            SampleKind.REPLACEMENT_SINGLE: 0.3,
            SampleKind.ANIMATION_MULTI: 0.2,
            SampleKind.REPLACEMENT_MULTI: 0.2,
        }
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class NetworkPlan:
    """The network's size; at most five million parameters."""

    heads: Annotated[int, Between(1, 16)] = 4
    head_dim: Annotated[int, Between(12, 128)] = 48
    layers: Annotated[int, Between(1, 24)] = 5
    ffn_dim: Annotated[int, Between(8, 4096)] = 576
    patch: Annotated[int, Between(1, 2)] = 1
    channels: Annotated[int, Between(4, 192)] = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingPlan:
    """How long one part is trained; rates are the recipe's times ``rate``."""

    steps: Annotated[int, Between(1, 10**6)]
    batch_size: Annotated[int, Between(1, 1024)] = 16
    rate: Annotated[float, Between(1e-6, 100)] = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class PreferencePlan:
    """The second stage: preference pairs to draw, steps of each arm, pairs of a step, rank, times the recipe's rate."""

    pairs: Annotated[int, Between(1, 10**6)] = 400
    steps: Annotated[int, Between(1, 10**6)] = 150
    batch_size: Annotated[int, Between(1, 1024)] = 8
    rank: Annotated[int, Between(1, 256)] = 16
    rate: Annotated[float, Between(1e-6, 1000)] = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class AblationPlan:
    """A whole experiment: which ablations, how many trainings of each arm, and at what scale.

    Attributes:
        ablations: names of `ABLATION_CATALOGUE`; all of them by default.
        seeds: of the trainings, two at least; every arm of a seed sees its samples in the same order.
        pretraining: one short training on single characters, frames and poses alike, with which every arm begins.
    """

    ablations: tuple[str, ...] = tuple(ABLATION_CATALOGUE)
    seeds: Annotated[tuple[Annotated[int, Between(0, 2**31)], ...], Between(2, 100)] = (0, 1)
    world: WorldPlan = WorldPlan()
    network: NetworkPlan = NetworkPlan()
    pretraining: TrainingPlan = TrainingPlan(steps=1500)
    training: TrainingPlan = TrainingPlan(steps=500)
    preferences: PreferencePlan = PreferencePlan()

    def __post_init__(self) -> None:
        unknown = [name for name in self.ablations if name not in ABLATION_CATALOGUE]
        if unknown:
            raise InputError(f"There is no ablation {unknown[0]!r}: choose from {', '.join(ABLATION_CATALOGUE)}.")
        for name, values in (("ablations", self.ablations), ("seeds", self.seeds)):
            if len(set(values)) != len(values) or not values:
                raise InputError(f"A plan's {name} are at least one, each named once, not {list(values)}.")
        step = 8 * self.network.patch
        if self.world.frames % 4 != 1 or self.world.size % max(16, step):
            raise InputError(
                f"Clips of a plan have 4k+1 frames and sides that are multiples of 16, not {self.world.frames} frames of "
                f"{self.world.size} pixels."
            )

    @classmethod
    def load(cls, path: str | Path) -> "AblationPlan":
        """A plan from TOML; `InputError` names the file and what is wrong in it."""
        return load_toml(path, cls)

    def to_json(self) -> dict[str, Any]:
        """Everything that fixes the experiment's results, but the choice of ablations and seeds, which may grow."""
        record = dataclasses.asdict(self)
        return {name: value for name, value in record.items() if name not in ("ablations", "seeds")}

    @property
    def chosen(self) -> tuple[Ablation, ...]:
        """The ablations, in the catalogue's order."""
        return tuple(each for name, each in ABLATION_CATALOGUE.items() if name in self.ablations)

    @property
    def arms(self) -> tuple[Arm, ...]:
        """Every training's arm once, those that others follow before them."""
        named = [arm for each in self.chosen for arm in (each.published, each.without)]
        return tuple(dict.fromkeys([arm.roots for arm in named] + named))

    def tasks_of(self, arm: Arm) -> tuple[str, ...]:
        """The tasks that an arm is measured in; one that others follow is measured as what they began with."""
        named = [(each, (each.published, each.without)) for each in self.chosen]
        of = [task for each, arms in named if arm in (*arms, *(one.roots for one in arms)) for task in each.tasks]
        return tuple(dict.fromkeys(of))

    def settings(self, changes: tuple[str, ...]) -> TripletSettings:
        """How the plan's pairs become triplets, with the named departures."""
        base = dataclasses.replace(triplet_settings("nano"), shares=self.world.shares)
        changed = with_ablations(base, changes)
        return dataclasses.replace(changed, name="+".join(["nano", *changes]))

    def source(self, arm: Arm | None = None, *, split: str = "train", tested: bool = False) -> PuppetSource:
        """The puppets an arm is trained on, or tested on; without an arm those of the pre-training."""
        arm = Arm(name="pretraining", estimator_error="mild") if arm is None else arm
        return PuppetSource(
            split=split,
            frames=self.world.frames,
            height=self.world.size,
            width=self.world.size,
            with_poses=self.settings(arm.changes).needs_poses,
            generator_error="none" if tested else arm.generator_error,
            estimator_error=arm.estimator_error,
            shuffle_stills=True,
        )


def fingerprint(*facts: Any) -> str:
    """Hash of JSON-able facts, for names of folders and for finding out that something has changed."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:12]
