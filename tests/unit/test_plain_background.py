"""Characters before one flat colour, by value."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scail2.errors import InputError
from scail2.perception.segmenters.plain import PlainBackgroundSegmenter, flat_background
from scail2.request.masks import PointPrompt, Prompts
from scail2.video import ArrayFrames, VideoReader

MEDIA = Path(__file__).parents[1] / "media"


def figures(colour=(0, 177, 64), frames=6, noise=0):
    """Two figures of 6x20 pixels, one walking right, before a flat colour; and where they are."""
    clip = np.full((frames, 64, 96, 3), colour, np.uint8)
    truth = np.zeros((frames, 64, 96), np.uint8)
    for t in range(frames):
        for number, left in ((1, 10 + t), (2, 70)):
            clip[t, 30:50, left : left + 6] = (200, 30, 30) if number == 1 else (240, 240, 240)
            truth[t, 30:50, left : left + 6] = number
    if noise:
        shift = np.random.default_rng(0).integers(-noise, noise + 1, clip.shape)
        clip = np.clip(clip.astype(int) + shift, 0, 255).astype(np.uint8)
    return ArrayFrames(clip), truth


@given(colour=st.tuples(*[st.integers(0, 255)] * 3), noise=st.integers(0, 6))
@settings(max_examples=20, deadline=None)
def test_every_flat_colour_is_recognised_with_the_noise_of_coding(colour, noise):
    clip = ArrayFrames(figures(colour, noise=noise)[0].array)
    found = flat_background(clip)
    assert found is not None
    assert np.abs(found.astype(int) - np.array(colour)).max() <= 1 + noise


def test_labels_are_the_figures_pixel_by_pixel_and_keep_their_numbers():
    frames, truth = figures(noise=5)
    found = PlainBackgroundSegmenter(flat_background(frames)).segment(frames)
    np.testing.assert_array_equal(found.labels.labels(0, len(frames)), truth)
    assert [track.number for track in found.tracks] == [1, 2]
    assert found.origin == "plain background"


def test_a_skeleton_of_strokes_is_one_character_in_every_frame():
    frames = VideoReader(MEDIA / "leather_man_pose.mp4")
    colour = flat_background(frames)
    np.testing.assert_array_equal(colour, [0, 0, 0])
    found = PlainBackgroundSegmenter(colour).segment(frames)
    assert len(found.tracks) == 1
    assert found.tracks[0].present.all()
    drawn = frames.frames(0, 1)[0].max(axis=-1) > 60
    labelled = found.labels.labels(0, 1)[0] == 1
    assert labelled[drawn].mean() > 0.97
    assert not labelled[:, :60].any()


def test_footage_with_scenery_has_no_flat_background():
    assert flat_background(VideoReader(MEDIA / "dance_black.mp4")) is None
    gradient = np.linspace(0, 255, 96).astype(np.uint8)[None, None, :, None].repeat(64, axis=1).repeat(3, axis=3)
    assert flat_background(ArrayFrames(np.ascontiguousarray(gradient))) is None


def test_a_colour_that_changes_with_time_is_no_flat_background():
    clip = figures()[0].array.copy()
    clip[3:, :, :, 0] += 40
    assert flat_background(ArrayFrames(clip)) is None


def test_an_empty_clip_and_prompts_are_refused():
    empty = ArrayFrames(np.zeros((2, 32, 32, 3), np.uint8))
    with pytest.raises(InputError, match="nothing stands out"):
        PlainBackgroundSegmenter(np.zeros(3, np.uint8)).segment(empty)
    click = Prompts(points=(PointPrompt(frame=0, character=1, x=3, y=3),))
    with pytest.raises(InputError, match="by colour"):
        PlainBackgroundSegmenter(np.zeros(3, np.uint8)).segment(empty, click)
