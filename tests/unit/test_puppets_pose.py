"""Skeleton pictures and simulated pose errors."""

import dataclasses

import numpy as np
import pytest

from scail2.errors import InputError
from scail2.puppets import (
    FULL,
    JOINT_NAMES,
    NANO,
    DistortedMotion,
    Performance,
    PoseError,
    corrupt_joints,
    render,
    render_pose,
    sample_character,
    sample_motion,
    sample_placements,
    sample_scene,
)
from scail2.puppets.pose import BONES, HEAD
from scail2.puppets.pose_error import MILD, STRONG

BODY_PIXELS = 100.0


def performance(index=0, error=None):
    motion = sample_motion("test", index, NANO)
    return Performance(
        character=sample_character("test", index, NANO),
        motion=motion if error is None else DistortedMotion(motion, error, seed=index),
        placement=sample_placements("test", index, NANO)[0],
    )


def clip_of(index=0, error=None, frames=9):
    return render([performance(index, error)], sample_scene("test", index, NANO), frames=frames, height=128, width=128)


def corrupted(clip, error, seed=1):
    return corrupt_joints(clip.joints, error, seed, fps=16.0, body_pixels=BODY_PIXELS)


def column(name):
    return JOINT_NAMES.index(name)


def test_skeletons_show_head_and_sides_in_their_colours():
    clip = clip_of()
    picture = render_pose(clip.joints, height=128, width=128)
    assert picture.shape == clip.frames.shape
    for frame in range(0, 9, 4):
        x, y = np.floor(clip.joints[0, frame, column("head")]).astype(int)
        assert tuple(picture[frame, y, x]) == HEAD
        shown = {tuple(color) for color in picture[frame].reshape(-1, 3).tolist()}
        assert {color for _, _, color in BONES} <= shown
    assert (picture[clip.parts == 0] == 0).mean() > 0.98


def test_missing_joints_are_not_drawn():
    joints = clip_of().joints
    forearm = next(color for start, _, color in BONES if start == "elbow_left")
    whole = render_pose(joints, height=128, width=128)
    joints[:, :, column("wrist_left")] = np.nan
    cut = render_pose(joints, height=128, width=128)
    assert (whole == forearm).all(axis=-1).any()
    assert not (cut == forearm).all(axis=-1).any()
    hidden = render_pose(joints, height=128, width=128, visible=np.zeros(joints.shape[:3], bool))
    assert not hidden.any()


def test_any_character_and_several_can_be_shown_as_skeletons():
    animal = sample_character("test", 0, dataclasses.replace(FULL, kinds=("animal",)))
    places = sample_placements("test", 0, FULL, count=2)
    cast = [dataclasses.replace(performance(index), placement=places[index]) for index in range(2)]
    cast[1] = dataclasses.replace(cast[1], character=animal)
    clip = render(cast, sample_scene("test", 0, FULL), frames=2, height=64, width=96)
    both = render_pose(clip.joints, height=64, width=96)
    one = render_pose(clip.joints[:1], height=64, width=96)
    assert (both > 0).sum() > 1.3 * (one > 0).sum()


def test_wrong_shapes_are_refused():
    with pytest.raises(InputError, match="expected \\(S, T, 51, 2\\)"):
        render_pose(np.zeros((1, 2, 17, 2)), height=32, width=32)
    with pytest.raises(InputError, match="visibility has the shape"):
        render_pose(np.zeros((1, 2, 51, 2)), height=32, width=32, visible=np.ones((1, 3, 51), bool))


def test_no_error_changes_nothing():
    clip = clip_of()
    np.testing.assert_allclose(corrupted(clip, PoseError()), clip.joints, atol=1e-4)
    np.testing.assert_array_equal(clip_of(error=PoseError()).frames, clip.frames)


def test_errors_repeat_with_their_seed():
    clip = clip_of()
    np.testing.assert_array_equal(corrupted(clip, STRONG, 5), corrupted(clip, STRONG, 5))
    assert not np.array_equal(corrupted(clip, STRONG, 5), corrupted(clip, STRONG, 6), equal_nan=True)


def test_noise_grows_toward_the_hands_and_has_the_stated_size():
    clip = clip_of(frames=17)
    error = PoseError(joint_noise=0.04)
    sizes = {"chest": [], "shoulder": [], "elbow": [], "wrist": [], "palm": []}
    for seed in range(40):
        offset = corrupted(clip, error, seed)[0] - clip.joints[0]
        for name, values in sizes.items():
            joint = column(name if name == "chest" else f"{name}_left")
            values.append(offset[:, joint].std())
    means = [np.sqrt(np.mean(np.square(values))) for values in sizes.values()]
    assert means == sorted(means)
    assert 0.5 * 0.04 * BODY_PIXELS < means[-1] < 1.1 * 0.04 * BODY_PIXELS
    assert means[-1] > 3 * means[0]


def test_fingers_are_lost_whole_and_others_stay():
    clip = clip_of()
    lost = np.isnan(corrupted(clip, PoseError(missing_fingers=0.5), seed=3)[0]).any(axis=-1)
    assert 0 < lost[0].sum() < 30
    assert lost[0].sum() % 3 == 0
    assert (lost == lost[0]).all()
    assert not lost[:, : column("thumb_knuckle_left")].any()
    assert np.isnan(corrupted(clip, PoseError(missing_fingers=1.0))[0, 0]).any(axis=-1).sum() == 30


def test_limbs_swap_for_their_share_of_the_time():
    clip = clip_of(frames=17)
    swapped = corrupted(clip, PoseError(swapped_limbs=1.0))
    np.testing.assert_allclose(swapped[0, :, column("wrist_left")], clip.joints[0, :, column("wrist_right")], atol=1e-4)
    long = np.repeat(clip.joints[:, :1], 1600, axis=1)
    changed = np.abs(corrupted(clip_like(clip, long), PoseError(swapped_limbs=0.25)) - long)[0, :, column("knee_left")]
    assert 0.15 < (changed.max(axis=-1) > 0.5).mean() < 0.35


def clip_like(clip, joints):
    return dataclasses.replace(clip, joints=joints)


def test_lag_shows_the_past():
    clip = clip_of()
    late = corrupted(clip, PoseError(lag=2 / 16))
    np.testing.assert_allclose(late[0, 2:], clip.joints[0, :-2], atol=1e-3)
    np.testing.assert_allclose(late[0, 0], clip.joints[0, 0], atol=1e-3)
    lagging = clip_of(error=PoseError(lag=2 / 16))
    np.testing.assert_allclose(lagging.joints[0, 2:], clip.joints[0, :-2], atol=1e-3)


def test_a_driven_generator_shows_the_bias_most_at_the_hands_and_more_when_stronger():
    gaps = {}
    for name, error in (("mild", MILD), ("strong", STRONG)):
        offsets = [np.abs(clip_of(index, error).joints - clip_of(index).joints)[0] for index in range(6)]
        gaps[name] = {
            joint: np.mean([offset[:, column(joint)] for offset in offsets])
            for joint in ("head", "elbow_left", "palm_left")
        }
    for gap in gaps.values():
        assert gap["head"] < gap["palm_left"]
        assert gap["elbow_left"] < gap["palm_left"]
    assert gaps["strong"]["palm_left"] > 2 * gaps["mild"]["palm_left"]


def test_strengths_scale():
    half = STRONG.scaled(0.5)
    assert half.joint_noise == 0.5 * STRONG.joint_noise
    assert half.lag == 0.5 * STRONG.lag
    assert STRONG.scaled(100.0).missing_fingers == 1.0
    assert STRONG.scaled(0.0).scaled(3.0) == dataclasses.replace(PoseError())
