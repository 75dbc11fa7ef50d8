"""Motion pairs → training triplets: who drives, who is the target, which reference, which masks.

Reverse driving: the synthetic clip ỹ drives and the real clip y is the target, so a generator's artefacts are only ever
an input. Masks come from references and driving videos, never from the target; the target's character region is kept
for loss weights and measurements only.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from scail2.data.augment import LARGEST_SCALE, crop_and_stretch, scale_about_feet, scale_limbs
from scail2.data.pairs import Array, Clip, MotionPair, Still, frames_of_all
from scail2.data.triplet_settings import SampleKind, TripletSettings
from scail2.errors import InputError
from scail2.masks import BINDING_SLOTS, BindingSlot, SlotName, paint_mask
from scail2.modes import MODE_TRAITS, AnimationMode


@dataclass(frozen=True, kw_only=True, slots=True)
class DrivingVideo:
    """A driving video with its mask, as in `TrainingTriplet`."""

    frames: Array
    mask: Array
    parts: Array | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingTriplet:
    """Reference, driving video and target of one sample, in pixels. T frames, `(H, W)` pixels."""

    kind: SampleKind
    mode: AnimationMode
    position_mode: AnimationMode  # whose positions the network is given; differs from `mode` only in an ablation
    reference: Array  # uint8 (H, W, 3)
    reference_mask: Array  # uint8 (H, W, 3) palette
    driving: Array  # uint8 (T, H, W, 3)
    driving_mask: Array  # uint8 (T, H, W, 3) palette
    target: Array  # uint8 (T, H, W, 3)
    region: Array  # bool (T, H, W): bound characters in the target; never an input
    slots: tuple[SlotName, ...]  # binding slot of each character
    target_parts: Array | None = None  # uint8 (T, H, W)
    driving_parts: Array | None = None
    reference_parts: Array | None = None  # uint8 (H, W)
    hand_boxes: Array | None = None  # of the target, float (S, T, 2, 4)
    excluded: Array | None = None  # bool (T, H, W): target pixels the loss must not see
    augmented: DrivingVideo | None = None  # what drives instead at some visits in training
    augmented_share: float = 0.0  # of the visits
    caption: str = ""
    black_out_reference: bool = True  # in replacement; differs only in an ablation
    meta: Mapping[str, Any] = field(default_factory=dict)


def draw_triplet(
    pair: MotionPair,
    kind: SampleKind,
    settings: TripletSettings,
    generator: np.random.Generator,
    *,
    swapped: bool = False,
) -> TrainingTriplet:
    """Makes one sample of a pair.

    Args:
        pair: its construction must have the kind's scene and number of characters (self-driven and pose kinds take
            any animation pair).
        kind: what to make of it.
        settings: probabilities and switches.
        generator: the only source of randomness.
        swapped: exchanges the clips' roles (for sources that render both exactly); of a pair that is not reversible it gives
            another sample of the one direction.

    Raises:
        InputError: the pair lacks what the kind needs (pose renders, a frame in which every character is seen).
    """
    # Driven by its own pose, a generator's clip would be a target whose artefacts nothing in the input explains.
    forward = bool(generator.random() < settings.forward_share) and kind not in _OWN_MOTION and pair.reversible
    swapped = swapped and pair.reversible
    target, other = (pair.synthetic, pair.real) if forward != swapped else (pair.real, pair.synthetic)
    mode = kind.mode
    slots = _draw_slots(len(target.tracks), settings, generator)
    still = _choose_reference(target, settings, generator)
    source = target if kind in _OWN_MOTION else other
    driving = _driving(source, kind, settings)
    share, augmented = _augmented(source, driving, kind, settings, generator)
    traits = MODE_TRAITS[mode]
    reference_background = traits.reference_background if settings.environment_switch else "black"
    driving_background = traits.driving_background if settings.environment_switch else "black"
    return TrainingTriplet(
        kind=kind,
        mode=mode,
        position_mode=mode if settings.mode_specific_positions else AnimationMode.ANIMATION,
        reference=still.frame,
        reference_mask=paint_mask(still.tracks[:, None], slots, reference_background)[0],
        driving=driving.frames,
        driving_mask=paint_mask(driving.tracks, slots, driving_background),
        augmented=None
        if augmented is None
        else DrivingVideo(
            frames=augmented.frames,
            mask=paint_mask(augmented.tracks, slots, driving_background),
            parts=augmented.parts,
        ),
        augmented_share=share,
        target=target.frames,
        region=target.region,
        slots=tuple(slot.colour for slot in slots),
        target_parts=target.parts,
        driving_parts=driving.parts,
        reference_parts=still.parts,
        hand_boxes=target.hand_boxes,
        excluded=target.excluded,
        caption=target.caption if settings.caption else "",
        black_out_reference=settings.black_out_reference,
        meta={**pair.meta, "forward": forward, "swapped": swapped},
    )


# Kinds that are driven by the target's own motion: itself, or its pose render.
_OWN_MOTION = (SampleKind.SELF_DRIVEN, SampleKind.POSE_SINGLE, SampleKind.POSE_MULTI)


def _draw_slots(count: int, settings: TripletSettings, generator: np.random.Generator) -> list[BindingSlot]:
    available = list(BINDING_SLOTS)
    if count > len(available):
        raise InputError(f"a sample binds at most {len(available)} characters, not {count}")
    if not settings.binding_slots:
        return [available[0]] * count
    if count == 1:
        return [available[int(generator.integers(len(available)))]]
    # Several characters get the slots that would be handed out, in random order: position must not tell who is who.
    return [available[i] for i in generator.permutation(count)]


def _choose_reference(target: Clip, settings: TripletSettings, generator: np.random.Generator) -> Still:
    if target.still is not None and not settings.reference_from_target:
        return target.still
    usable = frames_of_all(target.tracks)
    if not len(usable):
        raise InputError("no frame of the target shows every character: the pair cannot give a reference")
    index = int(usable[generator.integers(len(usable))])
    parts = None if target.parts is None else target.parts[index]
    return Still(frame=target.frames[index], tracks=target.tracks[:, index], parts=parts)


@dataclass(frozen=True, slots=True)
class _Driving:
    frames: Array
    tracks: Array
    parts: Array | None


def _driving(clip: Clip, kind: SampleKind, settings: TripletSettings) -> _Driving:
    if kind.is_pose or settings.needs_poses:
        return _pose_driving(clip, kind.mode)
    return _Driving(clip.frames, clip.tracks, clip.parts)


def _augmented(
    clip: Clip, driving: _Driving, kind: SampleKind, settings: TripletSettings, generator: np.random.Generator
) -> tuple[float, _Driving | None]:
    """The share of visits with an augmented driving video, and that video; none in replacement, whose scene is the output's."""
    if kind.mode is AnimationMode.REPLACEMENT:
        return 0.0, None
    # One draw, whatever becomes of it: samples that are not augmented do not depend on how others are.
    own = np.random.default_rng(int(generator.random() * 2**53))
    as_pose = kind.is_pose or settings.needs_poses
    share = settings.pose_scale if as_pose else settings.augment_driving
    if not share:
        return 0.0, None
    if not as_pose:
        return share, _Driving(*crop_and_stretch(driving.frames, driving.tracks, driving.parts, own))
    if clip.pose_joints is not None:
        return share, _Driving(*scale_limbs(clip.pose_joints, driving.frames.shape[1:3], own), None)
    # Without joints a picture of a skeleton can only be scaled as a whole.
    factors = np.exp(own.uniform(-LARGEST_SCALE, LARGEST_SCALE, size=2))
    return share, _Driving(*scale_about_feet(driving.frames, driving.tracks, factors), None)


def _pose_driving(clip: Clip, mode: AnimationMode) -> _Driving:
    if clip.pose is None or clip.pose_tracks is None:
        raise InputError(
            "the pair has no pose renders: synthesise it with poses, or leave pose kinds out of the recipe"
        )
    if mode is AnimationMode.ANIMATION:
        return _Driving(clip.pose, clip.pose_tracks, None)
    # Replacement needs the scene: the character's pixels are blacked out and the pose is drawn over them. The mask stays
    # the character's, as it says which part of the scene is not to be kept.
    scene = np.where(clip.region[..., None], 0, clip.frames)
    frames = np.where(np.asarray(clip.pose_tracks.any(axis=0))[..., None], clip.pose, scene).astype(np.uint8)
    return _Driving(frames, clip.tracks, None)
