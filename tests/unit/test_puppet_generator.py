"""The puppet renderer as a generator: who performs what where, and by how much an estimator's error moves them."""

import dataclasses

import numpy as np
import pytest

pytest.importorskip("skia")

from scail2.errors import InputError
from scail2.masks import BindingSlot, split_mask
from scail2.modes import AnimationMode
from scail2.perception.segmenters.people.joints import LEFT_SHOULDER, LEFT_WRIST, RIGHT_SHOULDER, motion_error
from scail2.synthesis.generators.puppet_world import PuppetCharacter, PuppetTake, people_joints, take_replaced
from scail2.synthesis.generators.puppets import PuppetEstimator, PuppetGenerator

ANIMATION, REPLACEMENT = AnimationMode.ANIMATION, AnimationMode.REPLACEMENT
SIZE = {"height": 96, "width": 96}
TAKE = PuppetTake(index=3, start=1.5)


def motion(**changes):
    return dataclasses.replace(TAKE, **changes).motion(frames=9, **SIZE)


def character(index=5):
    return PuppetCharacter(index=index).picture(**SIZE)


def colours_inside(frames, masks):
    return {tuple(int(channel) >> 4 for channel in each) for each in frames[masks]}


def test_a_source_is_text_that_draws_the_same_again():
    who = PuppetCharacter(index=5, domain="full", split="test", salt='a"b')
    assert PuppetCharacter.parse(str(who)) == who
    take = PuppetTake(index=7, characters=2, start=0.25, replaced=((1, str(who)),))
    take = dataclasses.replace(take, domain="full", split="test")
    seen = PuppetEstimator(error="strong").estimate(take.motion(frames=5, **SIZE), 11)
    again = PuppetTake.parse(seen.source)
    assert again.replaced == take.replaced
    assert [(each.error, each.seed) for each in again.estimates] == [("strong", 11)]
    assert np.array_equal(again.shot(seen.clip).joints, PuppetTake.parse(seen.source).shot(seen.clip).joints)
    with pytest.raises(InputError, match=r"'hero\.png' names no drawn character"):
        PuppetCharacter.parse("hero.png")
    with pytest.raises(InputError, match="characters"):
        PuppetTake.parse('puppet:take:{"index":1,"characters":9}')


def test_an_animation_has_the_motion_of_the_clip_and_the_scene_of_the_picture():
    driving, hero = motion(), character()
    shot = PuppetGenerator().shot(hero, driving, ANIMATION, None, 0)
    assert shot.frames.shape == driving.clip.frames.shape
    assert np.median(motion_error(people_joints(shot), driving.joints)) < 0.12  # bodies differ, the motion does not
    # The picture's own scenery is behind the character wherever neither stands before it.
    bare = (np.array(hero.mask).sum(axis=-1) == 0) & ~shot.masks.any(axis=(0, 1))
    difference = np.abs(shot.frames.astype(int) - hero.image)[:, bare]
    assert bare.mean() > 0.4
    assert (difference > 2).mean() < 0.05  # soft outlines reach beyond the masks
    assert (np.abs(shot.frames.astype(int) - driving.clip.frames)[:, bare] > 2).mean() > 0.3


def test_a_replacement_keeps_the_scene_and_everybody_else():
    driving = motion(characters=2)
    left = np.where(split_mask(driving.masks)[BindingSlot.BLUE][..., None], driving.masks, np.uint8(0))
    shot = PuppetGenerator().shot(character(), driving, REPLACEMENT, left, 0)
    truth = TAKE.shot(driving.clip, dataclasses.replace(TAKE, characters=2).cast())
    untouched = ~(truth.masks[0] | shot.masks[0])
    changed = (shot.frames != driving.clip.frames).any(axis=-1)
    assert changed[untouched].mean() < 0.03  # soft outlines reach beyond the masks
    assert changed[~untouched].mean() > 0.5
    assert not changed[truth.masks[1] & shot.masks[1] & (truth.parts == shot.parts)].mean() > 0.03
    assert len(colours_inside(shot.frames, shot.masks[0]) - colours_inside(driving.clip.frames, truth.masks[0])) >= 2


def test_several_are_replaced_one_after_the_other():
    driving, generator = motion(characters=2), PuppetGenerator()
    with pytest.raises(InputError, match="at most 1 at once, not 2 characters: replace them one after the other"):
        generator.generate(character(), driving, REPLACEMENT, None, 0)
    for place, slot in enumerate((BindingSlot.BLUE, BindingSlot.RED)):
        who = character(20 + place)
        chosen = np.where(split_mask(driving.masks)[slot][..., None], driving.masks, np.uint8(0))
        clip = generator.generate(who, driving, REPLACEMENT, chosen, place)
        driving = take_replaced(driving, place, who, clip)
    cast = PuppetTake.parse(driving.source).cast()
    assert [each.character for each in cast] == [PuppetCharacter(index=20 + place).puppet for place in (0, 1)]
    assert np.array_equal(PuppetTake.parse(driving.source).shot(driving.clip).frames, driving.clip.frames)


def test_masks_of_nobody_are_refused():
    driving = motion(characters=2)
    with pytest.raises(InputError, match="show nothing, and none of its performers"):
        PuppetGenerator().generate(character(), driving, REPLACEMENT, np.zeros_like(driving.masks), 0)


@pytest.mark.parametrize("error", ["mild", "strong"])
def test_the_pose_error_is_the_estimators_and_seeded(error):
    driving, hero = motion(), character()
    exact = people_joints(PuppetGenerator().shot(hero, driving, ANIMATION, None, 1))
    shots = [PuppetGenerator(error=error).shot(hero, driving, ANIMATION, None, seed) for seed in (1, 1, 2)]
    assert np.array_equal(shots[0].frames, shots[1].frames)
    assert not np.array_equal(shots[0].frames, shots[2].frames)
    moved = np.median(motion_error(people_joints(shots[0]), exact))
    assert {"mild": 0.002, "strong": 0.02}[error] < moved < {"mild": 0.02, "strong": 0.2}[error]


def test_an_estimators_error_is_repeated_and_adds_up():
    driving, hero = motion(), character()
    exact = people_joints(PuppetGenerator().shot(hero, driving, ANIMATION, None, 0))
    once = PuppetEstimator(error="strong").estimate(driving, 4)
    twice = PuppetEstimator(error="strong").estimate(once, 5)
    errors = [
        float(np.mean(motion_error(people_joints(PuppetGenerator().shot(hero, each, ANIMATION, None, 0)), exact)))
        for each in (driving, once, twice)
    ]
    assert errors[0] == 0
    assert 0.02 < errors[1] < errors[2]
    assert float(np.mean(motion_error(once.joints, driving.joints))) > 0.02


def test_joints_of_puppets_have_peoples_sides():
    """Somebody who faces the viewer has the left shoulder on the right of the picture, and a hand below it at rest."""
    facing = next(
        each
        for each in (PuppetTake(index=index).motion(frames=1, **SIZE) for index in range(20))
        if each.joints.places[0, 0, LEFT_SHOULDER, 0] - each.joints.places[0, 0, RIGHT_SHOULDER, 0] > 12
    )
    mask = split_mask(facing.masks)[BindingSlot.BLUE][0]
    x, y = facing.joints.places[0, 0, LEFT_WRIST].round().astype(int)
    assert mask[max(0, y - 2) : y + 3, max(0, x - 2) : x + 3].any()
    box = facing.joints.face_boxes()[0, 0]
    head = facing.joints.places[0, 0, 0]
    assert box[0] < head[0] < box[2]
    assert box[1] < head[1] < box[3]
    assert box[3] - box[1] < 40
