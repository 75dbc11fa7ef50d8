"""Our own model as a generator: the masks it is called with, both modes, and what the embedded checkpoint makes of a puppet."""

import dataclasses

import numpy as np
import pytest

pytest.importorskip("skia")

from scail2.errors import InputError
from scail2.masks import BindingSlot, split_mask
from scail2.modes import AnimationMode
from scail2.perception.segmenters.people.skeleton import SkeletonStyle
from scail2.synthesis.generators.own_model import OwnModelGenerator
from scail2.synthesis.generators.puppet_world import PuppetCharacter, PuppetTake
from scail2.synthesis.generators.puppets import PuppetGenerator
from scail2.synthesis.performers import person

ANIMATION, REPLACEMENT = AnimationMode.ANIMATION, AnimationMode.REPLACEMENT
SIZE = {"height": 128, "width": 128}
TAKE = PuppetTake(index=4, split="test")
BLUE, RED = (np.array(slot.rgb) for slot in (BindingSlot.BLUE, BindingSlot.RED))


@pytest.fixture(scope="module")
def generator():
    return OwnModelGenerator(num_inference_steps=2)


@pytest.fixture
def hero():
    return PuppetCharacter(index=6, split="test").picture(**SIZE)


def given_to(generator):
    """What the pipeline is called with, instead of running it."""
    seen = {}

    class Recorded:
        transformer = generator.pipeline.transformer

        def stream(self, *media, **options):
            seen.update(media=media, options=options)
            yield from generator.pipeline.stream(*media, **options)

    recording = dataclasses.replace(generator)
    recording.__dict__["pipeline"] = Recorded()
    return recording, seen


def test_the_embedded_checkpoint_animates_and_replaces(generator, hero):
    """The character of the picture moves, before the scene that the mode asks for: far nearer to the truth than to the clip."""
    motion = TAKE.motion(frames=5, **SIZE)
    for mode in (ANIMATION, REPLACEMENT):
        clip = generator.generate(hero, motion, mode, None, 3)
        truth = PuppetGenerator().shot(hero, motion, mode, None, 0)
        error, lazy = (np.abs(truth.frames.astype(int) - each) for each in (clip.frames, motion.clip.frames))
        assert clip.frames.shape == motion.clip.frames.shape
        assert clip.fps == motion.clip.fps
        assert error[truth.masks[0]].mean() < 0.5 * lazy[truth.masks[0]].mean()
        assert error[~truth.masks[0]].mean() < 12


def test_one_of_two_is_replaced_and_bound_by_one_colour(generator, hero):
    motion = dataclasses.replace(TAKE, characters=2).motion(frames=5, **SIZE)
    second = np.where(split_mask(motion.masks)[BindingSlot.RED][..., None], motion.masks, np.uint8(0))
    recording, seen = given_to(generator)
    recording.generate(hero, motion, REPLACEMENT, second, 0)
    _, _, reference_mask, driving_mask = seen["media"]
    assert {tuple(c) for c in reference_mask.reshape(-1, 3)} == {(0, 0, 0), (0, 0, 255)}
    assert {tuple(c) for c in driving_mask.reshape(-1, 3)} == {(255, 255, 255), (0, 0, 255)}
    assert np.array_equal((driving_mask == BLUE).all(axis=-1), (motion.masks == RED).all(axis=-1))


def test_several_performers_for_one_character_are_refused(generator, hero):
    motion = dataclasses.replace(TAKE, characters=2).motion(frames=5, **SIZE)
    with pytest.raises(InputError, match=r"shows blue, .* blue, red: each performer needs a character of its colour"):
        generator.generate(hero, motion, REPLACEMENT, None, 0)


def test_masks_that_are_missing_are_found(generator, hero):
    motion = TAKE.motion(frames=5, **SIZE)
    recording, seen = given_to(generator)
    recording.generate(
        dataclasses.replace(hero, mask=None), dataclasses.replace(motion, masks=None), ANIMATION, None, 0
    )
    for mask, true in zip(seen["media"][2:], (hero.mask, motion.masks), strict=True):
        found, there = ((each == BLUE).all(axis=-1) for each in (mask, true))
        assert (found & there).sum() / (found | there).sum() > 0.8


def test_skeletons_drive_it_by_the_joints_of_whoever_is_meant(generator, hero):
    motion = dataclasses.replace(TAKE, characters=2).motion(frames=5, **SIZE)
    second = np.where(split_mask(motion.masks)[BindingSlot.RED][..., None], motion.masks, np.uint8(0))
    assert np.array_equal(person(motion.joints, second.any(axis=-1)).places, motion.joints.places[1:])
    recording, seen = given_to(dataclasses.replace(generator, skeletons=SkeletonStyle.PUPPETS))
    recording.generate(hero, motion, ANIMATION, second, 0)
    film, mask = seen["media"][1], seen["media"][3]
    assert np.array_equal(film.any(axis=-1), (mask == BLUE).all(axis=-1))
    drawn, body = film.any(axis=-1), second.any(axis=-1)
    assert (drawn & body).sum() > 0.7 * drawn.sum()
    with pytest.raises(InputError, match="Skeletons show no scene"):
        recording.generate(hero, motion, REPLACEMENT, second, 0)


def test_it_is_described_by_the_content_of_its_weights(generator):
    told = generator.describe()
    assert told["generator"] == "own"
    assert told["fingerprint"].startswith("files-")
    assert told["num_inference_steps"] == 2
    assert told == dataclasses.replace(generator).describe()
