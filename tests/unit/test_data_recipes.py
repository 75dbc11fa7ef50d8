"""Every recipe switch changes what it says, and nothing else."""

import dataclasses
import pickle
from collections import Counter

import numpy as np
import pytest

from scail2.data.pairs import Clip, MotionPair, Still
from scail2.data.triplet_settings import (
    ABLATIONS,
    PUBLISHED_SHARES,
    TRIPLET_SETTINGS,
    DrivingInput,
    SampleKind,
    TripletSettings,
    triplet_settings,
)
from scail2.data.triplets import draw_triplet
from scail2.errors import InputError
from scail2.masks import check_polarity, split_mask
from scail2.modes import AnimationMode

T, H, W = 5, 32, 32
PLAIN = dataclasses.replace(TRIPLET_SETTINGS["nano"], reference_from_target=False)


def clip(tone: int, characters: int = 1, still: bool = True) -> Clip:
    tracks = np.zeros((characters, T, H, W), bool)
    for number in range(characters):
        for t in range(T):
            tracks[number, t, 8:28, 2 + 14 * number + t : 10 + 14 * number + t] = True
    frames = np.full((T, H, W, 3), tone, np.uint8)
    frames[tracks.any(axis=0)] = tone + 40
    pose_tracks = tracks & (np.arange(W) % 3 == 0)
    pose = np.zeros_like(frames)
    pose[pose_tracks.any(axis=0)] = (255, 200, tone)
    picture = Still(frame=np.full((H, W, 3), tone + 5, np.uint8), tracks=tracks[:, 0])
    return Clip(
        frames=frames,
        tracks=tracks,
        parts=tracks.any(axis=0).astype(np.uint8),
        pose=pose,
        pose_tracks=pose_tracks,
        still=picture if still else None,
        caption=f"tone {tone}",
    )


def pair(kind: SampleKind, still: bool = True) -> MotionPair:
    count = 2 if kind.is_multi else 1
    return MotionPair(synthetic=clip(20, count, still), real=clip(120, count, still), construction=kind.construction)


def draw(kind: SampleKind, chosen: TripletSettings = PLAIN, seed: int = 0, swapped: bool = False):
    return draw_triplet(pair(kind), kind, chosen, np.random.default_rng(seed), swapped=swapped)


@pytest.mark.parametrize("kind", list(SampleKind))
def test_reverse_driving_and_masks_that_fit_the_mode(kind):
    triplet = draw(kind)
    own_motion = kind.is_pose or kind is SampleKind.SELF_DRIVEN
    assert triplet.target[0, 0, 0, 0] == 120  # y, the real clip
    assert triplet.reference[0, 0, 0] == 125
    if not own_motion:
        assert triplet.driving[0, 0, 0, 0] == 20  # ỹ, the synthetic clip
    assert check_polarity(triplet.reference_mask, triplet.driving_mask, kind.mode) == []
    assert len(triplet.slots) == (2 if kind.is_multi else 1)
    assert triplet.position_mode is kind.mode


def test_masks_never_come_from_the_target():
    """Changing the target's tracks changes the loss region and no input."""
    original = pair(SampleKind.ANIMATION_SINGLE)
    moved = dataclasses.replace(original.real, tracks=np.roll(original.real.tracks, 5, axis=-1))
    altered = dataclasses.replace(original, real=moved)
    one, other = (
        draw_triplet(p, SampleKind.ANIMATION_SINGLE, PLAIN, np.random.default_rng(3)) for p in (original, altered)
    )
    np.testing.assert_array_equal(one.driving_mask, other.driving_mask)
    np.testing.assert_array_equal(one.reference_mask, other.reference_mask)
    assert (one.region != other.region).any()


def test_five_percent_run_forward():
    forward = [
        draw(SampleKind.ANIMATION_SINGLE, dataclasses.replace(PLAIN, forward_share=0.05), seed).meta["forward"]
        for seed in range(400)
    ]
    assert 8 <= sum(forward) <= 34  # 20 ± 3.3 standard deviations


@pytest.mark.parametrize("kind", [SampleKind.POSE_SINGLE, SampleKind.POSE_MULTI])
def test_pose_samples_never_run_forward(kind):
    always = dataclasses.replace(PLAIN, forward_share=1.0)
    assert draw(SampleKind.ANIMATION_SINGLE, always).target[0, 0, 0, 0] == 20
    triplet = draw(kind, always)
    assert not triplet.meta["forward"]
    assert triplet.target[0, 0, 0, 0] == 120


def test_augmenting_changes_no_other_draw():
    """The stream of draws is the same with and without, so that caches and evaluations stay what they were."""
    states = []
    for chosen in (PLAIN, dataclasses.replace(PLAIN, augment_driving=0.5, pose_scale=0.5)):
        generator = np.random.default_rng(5)
        for kind in (SampleKind.ANIMATION_SINGLE, SampleKind.POSE_SINGLE, SampleKind.REPLACEMENT_SINGLE):
            draw_triplet(pair(kind), kind, chosen, generator)
        states.append(generator.random())
    assert states[0] == states[1]


def test_swapped_exchanges_the_clips():
    triplet = draw(SampleKind.ANIMATION_SINGLE, swapped=True)
    assert (triplet.target[0, 0, 0, 0], triplet.driving[0, 0, 0, 0]) == (20, 120)


def test_single_characters_get_random_slots_and_several_get_distinct_ones_in_random_order():
    singles = Counter(draw(SampleKind.ANIMATION_SINGLE, seed=s).slots[0] for s in range(60))
    assert set(singles) == {"blue", "red", "green", "magenta", "cyan", "yellow"}
    multis = {draw(SampleKind.REPLACEMENT_MULTI, seed=s).slots for s in range(20)}
    assert multis == {("blue", "red"), ("red", "blue")}


def test_the_reference_is_a_frame_of_the_target_or_the_still():
    from_target = dataclasses.replace(PLAIN, reference_from_target=True)
    assert draw(SampleKind.ANIMATION_SINGLE, from_target).reference[0, 0, 0] == 120
    hidden = pair(SampleKind.ANIMATION_SINGLE, still=False)
    hidden = dataclasses.replace(hidden, real=dataclasses.replace(hidden.real, tracks=np.zeros((1, T, H, W), bool)))
    with pytest.raises(InputError, match="no frame of the target"):
        draw_triplet(hidden, SampleKind.ANIMATION_SINGLE, PLAIN, np.random.default_rng(0))


def test_augmentation_goes_beside_animation_driving_only_and_keeps_mask_and_picture_together():
    often = dataclasses.replace(PLAIN, augment_driving=0.56)
    plain, cropped = (draw(SampleKind.ANIMATION_SINGLE, r, seed=1) for r in (PLAIN, often))
    for name in ("driving", "driving_mask", "target", "reference"):
        np.testing.assert_array_equal(getattr(plain, name), getattr(cropped, name))
    assert (plain.augmented, plain.augmented_share) == (None, 0.0)
    assert cropped.augmented_share == 0.56
    frames = cropped.augmented.frames[..., 0]
    assert (frames != cropped.driving[..., 0]).any()
    character = np.any(list(split_mask(cropped.augmented.mask).values()), axis=0)
    assert (frames > 40)[character].mean() > 0.9  # 60 inside, 20 outside
    assert (frames > 40)[~character].mean() < 0.1
    assert draw(SampleKind.REPLACEMENT_SINGLE, often, seed=1).augmented is None


def test_pose_kinds_are_driven_by_the_targets_pose():
    triplet = draw(SampleKind.POSE_SINGLE)
    np.testing.assert_array_equal(triplet.driving, pair(SampleKind.POSE_SINGLE).real.pose)
    scaled = draw(SampleKind.POSE_SINGLE, dataclasses.replace(PLAIN, augment_driving=1.0, pose_scale=0.75))
    np.testing.assert_array_equal(scaled.driving, triplet.driving)
    assert scaled.augmented_share == 0.75
    assert (scaled.augmented.frames != triplet.driving).any()  # and not cropped: see test_augmentation
    bare = dataclasses.replace(pair(SampleKind.POSE_SINGLE).real, pose=None)
    without = MotionPair(synthetic=bare, real=bare, construction=SampleKind.ANIMATION_SINGLE)
    with pytest.raises(InputError, match="no pose renders"):
        draw_triplet(without, SampleKind.POSE_SINGLE, PLAIN, np.random.default_rng(0))


def test_published_shares():
    assert sum(PUBLISHED_SHARES.values()) == pytest.approx(1)
    drawn = Counter(triplet_settings("paper").draw_kind(np.random.default_rng([7, n])) for n in range(2000))
    assert drawn[SampleKind.ANIMATION_SINGLE] / 2000 == pytest.approx(0.60, abs=0.04)
    replaced = drawn[SampleKind.REPLACEMENT_SINGLE] + drawn[SampleKind.REPLACEMENT_MULTI]
    assert replaced / 2000 == pytest.approx(0.20, abs=0.03)
    assert SampleKind.ANIMATION_MULTI not in drawn


class TestAblations:
    def test_pose_driving(self):
        changed = triplet_settings("nano+pose_driving")
        assert changed.driving is DrivingInput.POSE
        synthetic = pair(SampleKind.ANIMATION_SINGLE).synthetic
        np.testing.assert_array_equal(draw(SampleKind.ANIMATION_SINGLE, changed).driving, synthetic.pose)
        replaced = draw(SampleKind.REPLACEMENT_SINGLE, changed)
        region = synthetic.region
        np.testing.assert_array_equal(replaced.driving[~region], synthetic.frames[~region])  # the scene stays
        assert (replaced.driving[region] != synthetic.frames[region]).any(axis=-1).all()  # the character goes

    def test_no_environment_switch(self):
        for kind in (SampleKind.ANIMATION_SINGLE, SampleKind.REPLACEMENT_SINGLE):
            usual, changed = (draw(kind, triplet_settings(name)) for name in ("nano", "nano+no_environment_switch"))
            white = [
                any((m == 255).all(axis=-1).any() for m in (t.reference_mask, t.driving_mask)) for t in (usual, changed)
            ]
            assert white == [True, False]
            np.testing.assert_array_equal(usual.driving, changed.driving)

    def test_no_slots(self):
        changed = draw(SampleKind.ANIMATION_MULTI, triplet_settings("nano+no_slots"))
        assert len(set(changed.slots)) == 1
        assert sum(where.any() for where in split_mask(changed.driving_mask).values()) == 1

    def test_one_rope(self):
        changed = draw(SampleKind.REPLACEMENT_SINGLE, triplet_settings("nano+one_rope"))
        assert (changed.mode, changed.position_mode) == (AnimationMode.REPLACEMENT, AnimationMode.ANIMATION)

    def test_no_replacement_data(self):
        kinds = triplet_settings("paper+no_replacement_data").shares
        assert kinds
        assert not any(kind.mode is AnimationMode.REPLACEMENT for kind in kinds)

    def test_forward_driving(self):
        triplet = draw(SampleKind.ANIMATION_SINGLE, triplet_settings("nano+forward_driving"))
        assert (triplet.target[0, 0, 0, 0], triplet.driving[0, 0, 0, 0]) == (20, 120)
        assert triplet_settings("nano+forward_driving").samples_per_pair == 1

    def test_each_has_its_own_fingerprint(self):
        prints = {triplet_settings(f"nano+{name}").fingerprint for name in ABLATIONS} | {
            triplet_settings("nano").fingerprint
        }
        assert len(prints) == len(ABLATIONS) + 1


def test_recipes_survive_json_and_pickle_and_refuse_nonsense():
    chosen = triplet_settings("paper+no_slots+one_rope")
    assert TripletSettings.from_json(chosen.to_json()) == chosen
    assert pickle.loads(pickle.dumps(chosen)) == chosen
    for name in ("papr", "nano+nothing"):
        with pytest.raises(InputError, match="choose"):
            triplet_settings(name)
    with pytest.raises(InputError, match="probability"):
        TripletSettings(name="x", forward_share=1.5)
    with pytest.raises(InputError, match="shares"):
        TripletSettings(name="x", shares={SampleKind.POSE_SINGLE: 0.0})
