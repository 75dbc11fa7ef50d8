"""Wan-Animate and Wan-Animate-2 through diffusers: tiny random components of the real classes, loaded as the real ones are."""

import dataclasses

import numpy as np
import pytest

pytest.importorskip("skia")
pytest.importorskip("cv2")

import torch
from generator_material import FACE_SIDE, puppet_material, saved_wan_animate_2, tiny_wan_animate

from scail2.errors import InputError
from scail2.masks import BindingSlot, split_mask
from scail2.modes import AnimationMode
from scail2.perception.segmenters.people.joints import LEFT_WRIST, NOSE
from scail2.synthesis import performers
from scail2.synthesis.generators.diffusers_models import even_segments
from scail2.synthesis.generators.driving_films import face_film, holes, pose_film
from scail2.synthesis.generators.protocol import Clip
from scail2.synthesis.generators.wan_animate import WanAnimateGenerator
from scail2.synthesis.generators.wan_animate_2 import WanAnimate2Generator

ANIMATION, REPLACEMENT = AnimationMode.ANIMATION, AnimationMode.REPLACEMENT


class Recorded:
    """A pipeline that remembers what it was called with and gave."""

    def __init__(self, pipeline):
        self.pipeline, self.options, self.result = pipeline, {}, None

    def __getattr__(self, name):
        return getattr(self.pipeline, name)

    def __call__(self, **options):
        self.options, self.result = options, self.pipeline(**options)
        return self.result


def recording(generator):
    generator.__dict__["pipeline"] = Recorded(generator.pipeline)
    return generator, generator.pipeline


@pytest.fixture(scope="module")
def wan_animate(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wan_animate")
    tiny_wan_animate().save_pretrained(folder)
    return WanAnimateGenerator(folder, dtype="float32", num_inference_steps=2)


@pytest.fixture(scope="module")
def wan_animate_2(tmp_path_factory):
    folder = saved_wan_animate_2(tmp_path_factory.mktemp("wan_animate_2"))
    return WanAnimate2Generator(folder, dtype="float32", num_inference_steps=1, compiled=False)


def pixels(film):
    return np.stack([np.asarray(picture) for picture in film])


# ---- Wan-Animate ----------------------------------------------------------------------------------------------------


def test_wan_animate_is_driven_by_skeleton_and_face(wan_animate):
    generator, called = recording(dataclasses.replace(wan_animate))
    character, motion = puppet_material()
    clip = generator.generate(character, motion, ANIMATION, None, 1)
    assert clip.frames.shape == motion.clip.frames.shape
    assert clip.fps == motion.clip.fps
    options = called.options
    assert options["mode"] == "animate"
    assert options["segment_frame_length"] == 5
    assert "mask_video" not in options
    drawn = pixels(options["pose_video"]).any(axis=-1)
    body = split_mask(motion.masks)[BindingSlot.BLUE]
    assert (drawn & body).sum() > 0.8 * drawn.sum()
    assert np.array_equal(pixels(options["pose_video"]), pose_film(motion.joints, (64, 64)))
    assert np.array_equal(np.asarray(options["image"]), character.image)
    assert pixels(options["face_video"]).shape == (5, FACE_SIDE, FACE_SIDE, 3)


def test_wan_animate_keeps_the_scene_around_a_hole(wan_animate):
    generator, called = recording(dataclasses.replace(wan_animate))
    character, motion = puppet_material(characters=2)
    both = split_mask(motion.masks)
    first = np.where(both[BindingSlot.BLUE][..., None], motion.masks, np.uint8(0))
    generator.generate(character, motion, REPLACEMENT, first, 1)
    assert called.options["mode"] == "replace"
    hole = pixels(called.options["mask_video"])
    assert set(np.unique(hole)) == {0, 255}
    hole = hole[..., 0] > 0
    background = pixels(called.options["background_video"])
    assert np.array_equal(background[~hole], motion.clip.frames[~hole])
    assert not background[hole].any()
    assert hole[both[BindingSlot.BLUE]].all()
    assert hole[both[BindingSlot.RED]].mean() < 0.3
    drawn = pixels(called.options["pose_video"]).any(axis=-1)
    assert (drawn & both[BindingSlot.BLUE]).sum() > (drawn & both[BindingSlot.RED]).sum()


def test_wan_animate_depends_on_the_seed_alone(wan_animate):
    character, motion = puppet_material()
    clips = [wan_animate.generate(character, motion, ANIMATION, None, seed).frames for seed in (1, 1, 2)]
    assert np.array_equal(clips[0], clips[1])
    assert not np.array_equal(clips[0], clips[2])


def test_wan_animate_refuses_two_performers_at_once_and_odd_sizes(wan_animate):
    character, motion = puppet_material(characters=2)
    with pytest.raises(InputError, match="at most 1 at once, not 2 characters"):
        wan_animate.generate(character, motion, REPLACEMENT, None, 1)
    odd = dataclasses.replace(motion, clip=Clip(frames=motion.clip.frames[:, :56], fps=16.0), masks=None)
    with pytest.raises(
        InputError, match="is 64x56: wan-animate makes clips whose sides are multiples of 16, for example 64x48"
    ):
        wan_animate.generate(character, odd, ANIMATION, None, 1)
    _, short = puppet_material(frames=3)
    with pytest.raises(InputError, match="has 3 frames: wan-animate makes at least 5"):
        wan_animate.generate(character, short, ANIMATION, None, 1)


def test_without_joints_the_extra_is_named(wan_animate, monkeypatch):
    monkeypatch.setattr(performers, "installed", lambda: False)
    character, motion = puppet_material()
    with pytest.raises(InputError, match="comes without joints, and finding them needs the extra `people`"):
        wan_animate.generate(character, dataclasses.replace(motion, joints=None), ANIMATION, None, 1)


def test_a_model_that_is_none_is_named(tmp_path):
    with pytest.raises(InputError, match=r"is no pipeline in diffusers' format: it holds no model_index\.json"):
        WanAnimateGenerator(tmp_path).pipeline  # noqa: B018
    with pytest.raises(InputError, match="There is no model"):
        WanAnimateGenerator(tmp_path / "absent").describe()


def test_it_is_described_by_its_files_and_settings(wan_animate, tmp_path):
    told = wan_animate.describe()
    assert told["generator"] == "wan-animate"
    assert told["num_inference_steps"] == 2
    assert told == dataclasses.replace(wan_animate).describe()
    (tmp_path / "model_index.json").write_text("{}")
    assert dataclasses.replace(wan_animate, model=tmp_path).describe()["files"] != told["files"]


def test_segments_are_of_one_length_and_need_no_padding_to_speak_of():
    lengths = {frames: even_segments(frames, 77) for frames in (5, 6, 77, 78, 81, 153, 200)}
    assert lengths == {5: 5, 6: 9, 77: 77, 78: 41, 81: 41, 153: 77, 200: 69}


# ---- what drives it -------------------------------------------------------------------------------------------------


def test_a_face_is_cut_out_square_and_held_where_it_is_not_seen():
    _, motion = puppet_material(side=96)
    marked = motion.clip.frames.copy()
    x, y = motion.joints.places[0, 0, NOSE].round().astype(int)
    marked[0, y - 1 : y + 2, x - 1 : x + 2] = (0, 255, 0)
    film = face_film(marked, motion.joints, 32)
    rows, columns = np.nonzero((film[0] == (0, 255, 0)).all(axis=-1))
    assert abs(rows.mean() - 15.5) < 3
    assert abs(columns.mean() - 15.5) < 3
    hidden = motion.joints.visibility.copy()
    hidden[:, 2:] = 0
    held = face_film(np.repeat(marked[:1], 5, axis=0), dataclasses.replace(motion.joints, visibility=hidden), 32)
    assert np.array_equal(held[1], held[4])
    unseen = dataclasses.replace(motion.joints, visibility=np.zeros_like(hidden))
    assert not face_film(marked, unseen, 32).any()


def test_a_face_beyond_the_picture_is_black_there():
    _, motion = puppet_material(side=96)
    places = motion.joints.places.copy()
    places[..., 0] -= places[0, 0, NOSE, 0]
    film = face_film(np.full_like(motion.clip.frames, 200), dataclasses.replace(motion.joints, places=places), 32)
    assert not film[0, :, :12].any()
    assert (film[0, :, 20:] > 150).all()


def test_a_skeleton_follows_the_wrist():
    _, motion = puppet_material(side=96)
    film = pose_film(motion.joints, (96, 96))
    x, y = motion.joints.places[0, 2, LEFT_WRIST].round().astype(int)
    assert film[2, max(0, y - 2) : y + 3, max(0, x - 2) : x + 3].any()


def test_a_hole_is_a_box_that_spares_the_neighbour():
    performer, other = np.zeros((1, 64, 64), bool), np.zeros((1, 64, 64), bool)
    performer[0, 20:40, 20:22] = performer[0, 38:40, 20:40] = True
    other[0, 10:30, 30:50] = True
    hole = holes(performer, other)
    assert hole[0, 19:41, 19:29].all()
    assert not hole[0, 22:29, 31:50].any()
    assert not hole[0, :19].any()
    assert holes(performer)[0, 19:41, 19:41].all()


# ---- Wan-Animate-2 --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("distilled", [False, True])
def test_wan_animate_2_is_driven_by_the_clip_itself(wan_animate_2, distilled):
    generator, called = recording(dataclasses.replace(wan_animate_2, distilled=distilled))
    character, motion = puppet_material()
    wide = dataclasses.replace(motion, clip=Clip(frames=motion.clip.frames[:, :48], fps=16.0), masks=None, joints=None)
    with torch.compiler.set_stance("force_eager"):
        clip = generator.generate(character, wide, ANIMATION, None, 1)
    assert clip.frames.shape == (5, 48, 64, 3)
    assert np.array_equal(pixels(called.options["driving_video"]), wide.clip.frames)
    assert called.result[0].shape == (5, 48, 64, 3)  # the model's own size: nothing was cut or scaled
    guided = called.pipeline.guider.config.guidance_scale
    assert guided == (1.0 if distilled else 3.0)
    assert generator.facts.name.endswith("distilled") is distilled


def test_wan_animate_2_animates_one_performer_only(wan_animate_2):
    character, motion = puppet_material(characters=2)
    with pytest.raises(InputError, match="wan-animate-2 makes animation, not replacement"):
        wan_animate_2.generate(character, motion, REPLACEMENT, None, 1)
    with pytest.raises(InputError, match="at most 1 at once, not 2 characters"):
        wan_animate_2.generate(character, motion, ANIMATION, None, 1)
