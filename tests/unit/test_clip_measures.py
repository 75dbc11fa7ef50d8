"""Measures of whole clips by value, on subjects whose truth is known, and the verdicts of the calibrated limits."""

import dataclasses

import numpy as np
import pytest

from scail2.modes import AnimationMode
from scail2.synthesis import measures
from scail2.synthesis.checks import judged
from scail2.synthesis.limits import LIMITS, Limit
from scail2.synthesis.measures import MEANING, Measure, Measured, Subject, count_error, outline_error

ANIMATION, REPLACEMENT = AnimationMode.ANIMATION, AnimationMode.REPLACEMENT
FRAMES, SIDE = 13, 64


def figure(frame, *, arm=0, left=24, top=16):
    """A body with an arm that reaches to one side, bool (H, W), a little further right in every frame."""
    mask = np.zeros((SIDE, SIDE), bool)
    left += frame % 5
    mask[top : top + 32, left : left + 12] = True
    mask[top + 4 + arm : top + 9 + arm, left : left + 24] = True
    return mask


def subject(mode=REPLACEMENT, colour=(200, 40, 30), scene=(90, 120, 160), **changes):
    """A red figure that does what a grey one does, before a scene with stripes; all masks are true."""
    random = np.random.default_rng(0)
    masks = np.stack([figure(frame) for frame in range(FRAMES)])
    background = np.zeros((SIDE, SIDE, 3), np.uint8) + np.array(scene, np.uint8)
    background[::8] += 40
    driving = np.repeat(background[None], FRAMES, axis=0)
    frames, picture = driving.copy(), background.copy()
    driving[masks], frames[masks] = (110, 110, 110), colour
    shown = figure(2)
    picture[shown] = (200, 40, 30)
    noise = random.integers(-1, 2, frames.shape)
    made = {
        "mode": mode,
        "frames": (frames + noise).clip(0, 255).astype(np.uint8),
        "driving": driving,
        "picture": picture,
        "pictured": shown,
        "performer": masks,
        "others": np.zeros((0, *masks.shape), bool),
        "found": masks[None],
    }
    return Subject(**(made | changes))


def values(of, monkeypatch=None):
    return measures.measure(of).values


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    monkeypatch.setattr(measures, "installed", lambda: False)


def test_a_perfect_clip_measures_next_to_nothing():
    for mode in (ANIMATION, REPLACEMENT):
        found = values(subject(mode))
        assert found[Measure.COUNT] == found[Measure.FROZEN] == found[Measure.REPEATED] == found[Measure.OUTLINE] == 0
        assert found[Measure.IDENTITY] < 0.12
        assert found[Measure.CHANGE] < 0.15  # of a flat figure, only noise has structure
        assert found[Measure.FLICKER] < 0.5
        assert found[Measure.BACKGROUND if mode is ANIMATION else Measure.SCENE] < 1.0
        assert (Measure.SCENE in found) is (mode is REPLACEMENT)


def test_without_the_extra_the_joints_are_said_to_be_unmeasured():
    told = measures.measure(subject()).unmeasured
    assert told.keys() == {Measure.MOTION, Measure.HANDS, Measure.HAND_BLUR}
    assert "extra people" in told[Measure.MOTION]


# ---- who ------------------------------------------------------------------------------------------------------------


def test_counting_knows_strangers_losses_and_specks():
    whole = subject()
    stranger, speck = np.zeros_like(whole.found), np.zeros_like(whole.found)
    stranger[:, 3:6, 10:40, 2:12] = True
    speck[:, :, 2:6, 2:6] = True
    assert count_error(dataclasses.replace(whole, found=np.concatenate([whole.found, stranger]))) == pytest.approx(
        3 / FRAMES
    )
    assert count_error(dataclasses.replace(whole, found=np.concatenate([whole.found, speck]))) == 0
    lost = whole.found.copy()
    lost[:, 8:] = False
    assert count_error(dataclasses.replace(whole, found=lost)) == pytest.approx(5 / FRAMES)
    other = np.roll(whole.performer, 30, axis=2)[None]
    assert count_error(dataclasses.replace(whole, others=other)) == 1
    assert count_error(dataclasses.replace(whole, others=other, found=np.concatenate([other, whole.found]))) == 0


def test_nobody_at_all_is_told_and_not_measured():
    told = measures.measure(subject(found=np.zeros((0, FRAMES, SIDE, SIDE), bool)))
    assert told.values[Measure.COUNT] == 1
    assert told.unmeasured[Measure.IDENTITY] == "nobody was found in the clip"


def test_identity_and_its_change_see_another_shirt():
    whole = subject()
    blue = subject(colour=(30, 60, 220))
    assert values(blue)[Measure.IDENTITY] > 0.5
    assert values(blue)[Measure.CHANGE] < 0.15
    half = whole.frames.copy()
    half[FRAMES // 2 :] = blue.frames[FRAMES // 2 :]
    assert values(dataclasses.replace(whole, frames=half))[Measure.CHANGE] > 0.5


def test_of_several_it_is_the_one_in_the_performers_place():
    whole = subject()
    other = np.roll(whole.performer, 30, axis=2)
    both = dataclasses.replace(whole, found=np.stack([other, whole.performer]))
    np.testing.assert_array_equal(both.shown, whole.performer)


# ---- motion ---------------------------------------------------------------------------------------------------------


def test_outlines_forgive_place_size_and_body_and_see_another_motion():
    turns = np.sin(np.arange(FRAMES))
    arms = [round(9 + 9 * turn) for turn in turns]
    masks = np.stack([figure(0, arm=arm) for arm in arms])
    elsewhere = np.stack([figure(0, arm=arm, left=10, top=28) for arm in arms])
    stout = masks.copy()
    stout[:, 16:48, 18:36] = True
    against = np.stack([figure(0, arm=arm) for arm in arms[::-1]])
    assert outline_error(masks, masks) == pytest.approx(0, abs=1e-5)
    assert outline_error(elsewhere, masks) < 0.1
    assert outline_error(masks.repeat(2, axis=1).repeat(2, axis=2), masks) < 0.1
    assert outline_error(stout, masks) < 0.25
    assert outline_error(against, masks) > 0.8
    assert outline_error(np.repeat(masks[:1], FRAMES, axis=0), masks) == 1
    assert np.isnan(outline_error(masks, np.repeat(masks[:1], FRAMES, axis=0)))
    assert outline_error(np.zeros_like(masks), masks) == 1


def test_thin_arms_of_two_bodies_that_move_alike_need_not_cover_the_same_cells():
    def thin(slope):
        masks = np.zeros((FRAMES, SIDE, SIDE), bool)
        masks[:, 16:48, 24:36] = True
        for frame, turn in enumerate(np.sin(np.arange(FRAMES))):
            arm = 29 + round(9 * turn) + slope
            masks[frame, arm : arm + 2, 24:48] = True
        return masks

    assert not (thin(2) & thin(0))[:, :, 36:].any()
    assert outline_error(thin(2), thin(0)) < 0.35
    assert outline_error(thin(2)[::-1], thin(0)) > 0.95


# ---- the whole picture ----------------------------------------------------------------------------------------------


def test_light_that_is_taken_back_flickers():
    whole = subject()
    frames = whole.frames.astype(int)
    frames[6] += 12
    assert values(dataclasses.replace(whole, frames=frames.astype(np.uint8)))[Measure.FLICKER] == pytest.approx(
        12, abs=1
    )
    # A replacement may flicker as its scene does.
    driving = whole.driving.astype(int)
    driving[6] += 12
    both = dataclasses.replace(whole, frames=frames.astype(np.uint8), driving=driving.astype(np.uint8))
    assert values(both)[Measure.FLICKER] < 1


def test_frames_that_stand_still_while_the_driving_moves_are_counted():
    whole = subject()
    still = whole.frames.copy()
    still[4:10] = still[3]
    found = values(dataclasses.replace(whole, frames=still))
    assert found[Measure.FROZEN] == 6
    assert found[Measure.REPEATED] == pytest.approx(6 / (FRAMES - 1), abs=0.1)
    resting = dataclasses.replace(
        whole, frames=np.repeat(whole.frames[:1], FRAMES, axis=0), driving=np.repeat(whole.driving[:1], FRAMES, axis=0)
    )
    assert values(resting)[Measure.FROZEN] == 0
    twice = whole.frames.copy()
    twice[1::2] = twice[0:-1:2]
    assert values(dataclasses.replace(whole, frames=twice))[Measure.REPEATED] > 0.3


def test_a_scene_that_was_changed_is_told_in_grey_levels():
    whole = subject()
    brighter = whole.frames.astype(int)
    brighter[9:, ...] += np.where(whole.performer[9:, ..., None], 0, 20)
    assert values(dataclasses.replace(whole, frames=brighter.astype(np.uint8)))[Measure.SCENE] == pytest.approx(
        20, abs=1
    )


def test_an_animation_shows_the_scene_of_the_picture():
    right, leaked = subject(ANIMATION), subject(ANIMATION, scene=(220, 170, 60))
    assert values(right)[Measure.BACKGROUND] < 0.05
    wrong = dataclasses.replace(leaked, picture=right.picture)
    assert values(wrong)[Measure.BACKGROUND] > 0.4


def test_a_picture_in_which_nobody_is_known_measures_no_look():
    told = measures.measure(subject(ANIMATION, pictured=np.zeros((SIDE, SIDE), bool)))
    assert Measure.CHANGE in told.values
    assert "it is not known where in its picture" in told.unmeasured[Measure.IDENTITY]
    assert "it is not known where in its picture" in told.unmeasured[Measure.BACKGROUND]


# ---- verdicts -------------------------------------------------------------------------------------------------------


def test_a_value_beyond_its_limit_is_a_reason():
    limits = {Measure.FLICKER: Limit(value=2.0, auc=1, refused_good=0, found_bad=1)}
    good = judged(Measured(values={Measure.FLICKER: 2.0, Measure.COUNT: 1.0}), limits)
    assert good.passed
    bad = judged(Measured(values={Measure.FLICKER: 2.1}, unmeasured={Measure.HANDS: "no hands"}), limits)
    assert not bad.passed
    assert bad.reasons == ("the picture flickers by 2.1 grey levels",)
    assert bad.to_json()["unmeasured"] == {"hands": "no hands"}


def test_every_measure_has_a_meaning_and_those_that_tell_have_limits():
    assert set(MEANING) == set(Measure)
    assert {Measure.COUNT, Measure.IDENTITY, Measure.OUTLINE, Measure.FLICKER, Measure.FROZEN, Measure.SCENE} <= set(
        LIMITS
    )
    assert all(limit.auc >= 0.8 and limit.refused_good <= 0.1 for limit in LIMITS.values())
