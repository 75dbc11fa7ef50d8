"""What is drawn and what is reported about it agree."""

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from scail2.errors import InputError
from scail2.puppets import (
    FULL,
    JOINT_NAMES,
    NANO,
    PART_NAMES,
    Camera,
    Performance,
    Placement,
    Swing,
    domain_named,
    render,
    render_still,
    sample_camera,
    sample_character,
    sample_motion,
    sample_placements,
    sample_scene,
)
from scail2.puppets.example import main as write_example
from scail2.puppets.example import make_example

DOCUMENT = Path(__file__).parents[2] / "docs" / "puppets.md"

GOLDEN = Path(__file__).parent / "puppets_nano.png"

GOLDEN_TOLERANCE = 2.0
"""Mean absolute difference of grey levels: another build of skia may place soft edges differently by a little."""


def cast(domain, index, count=1, split="test"):
    places = sample_placements(split, index, domain, count=count)
    return [
        Performance(
            character=sample_character(split, index * count + number, domain),
            motion=sample_motion(split, index * count + number, domain),
            placement=place,
        )
        for number, place in enumerate(places)
    ]


def of_kind(kind):
    return dataclasses.replace(FULL, kinds=(kind,))


def grown(mask):
    """The mask one pixel larger on all sides."""
    padded = np.pad(mask, [(0, 0)] * (mask.ndim - 2) + [(1, 1), (1, 1)])
    height, width = mask.shape[-2:]
    shifts = [padded[..., row : row + height, column : column + width] for row in range(3) for column in range(3)]
    return np.any(shifts, axis=0)


def nano_sheet():
    """Eight frames of four clips, one of them with two characters."""
    rows = []
    for index in range(4):
        clip = render(
            cast(NANO, index, 2 if index == 3 else 1),
            sample_scene("test", index, NANO),
            frames=2,
            height=128,
            width=128,
            fps=2,
        )
        rows.append(np.concatenate(list(clip.frames), axis=1))
    return np.concatenate([np.concatenate(rows[:2], axis=1), np.concatenate(rows[2:], axis=1)])


def test_nano_looks_as_it_did_when_the_embedded_network_learnt_it():
    """The embedded checkpoint knows this look; a change here is a change of its test set."""
    expected = np.asarray(Image.open(GOLDEN).convert("RGB")).astype(float)
    assert np.abs(nano_sheet() - expected).mean() < GOLDEN_TOLERANCE


@pytest.mark.parametrize("domain", [NANO, FULL], ids=lambda domain: domain.name)
def test_rendering_repeats_exactly(domain):
    for index in range(6):
        scene, camera = sample_scene("test", index, domain), sample_camera("test", index, domain)
        one, two = (
            render(cast(domain, index, 2), scene, frames=3, height=72, width=88, camera=camera) for _ in range(2)
        )
        for name in ("frames", "masks", "parts", "hand_boxes", "joints", "joint_visible"):
            np.testing.assert_array_equal(getattr(one, name), getattr(two, name))


@pytest.mark.parametrize("kind", ["person", "robot", "animal"])
def test_masks_are_the_pixels_that_are_drawn(kind):
    """Outside the mask nothing changes when the character is taken away; inside, the background never shows."""
    domain = of_kind(kind)
    for index in range(10):
        performances = cast(domain, index)
        clip, black, white = (
            render(
                performances,
                sample_scene("test", index, domain),
                frames=2,
                height=128,
                width=112,
                fps=1,
                background=color,
            )
            for color in ("scene", "black", "white")
        )
        empty = render([], sample_scene("test", index, domain), frames=2, height=128, width=112, fps=1)
        mask = clip.masks[0]
        assert mask.any()
        changed = (clip.frames != empty.frames).any(axis=-1) & ~grown(mask)
        # Tips thinner than a pixel have soft edges but no pixel of their own; so has what ends just outside the frame.
        assert changed[:, 1:-1, 1:-1].sum() <= 0.003 * mask.sum()
        through = np.abs(black.frames.astype(int) - white.frames).max(axis=-1)
        assert through[mask].max() < 250
        inside = ~grown(~mask)
        assert (through[inside] == 0).mean() > 0.97
        assert through[inside].mean() < 2.0
        np.testing.assert_array_equal(mask, clip.parts > 0)


def test_masks_of_several_characters_follow_who_hides_whom():
    scene = sample_scene("test", 0, NANO)
    for index in range(8):
        performances = cast(NANO, index, 3)
        together = render(performances, scene, frames=3, height=96, width=128, fps=2)
        assert (together.masks.sum(axis=0) <= 1).all()
        np.testing.assert_array_equal(together.masks.any(axis=0), together.parts > 0)
        nearest = min(range(3), key=lambda number: performances[number].placement.depth)
        for number in range(3):
            alone = render([performances[number]], scene, frames=3, height=96, width=128, fps=2)
            assert not (together.masks[number] & ~alone.masks[0]).any()
            if number == nearest:
                np.testing.assert_array_equal(together.masks[number], alone.masks[0])


def test_crossing_characters_occlude_each_other():
    front, back = cast(NANO, 0, 2)
    front = dataclasses.replace(front, placement=Placement(height=0.7, x=Swing(amplitude=0.3, frequency=0.5)))
    back = dataclasses.replace(back, placement=Placement(height=0.7, depth=0.2))
    clip = render([front, back], sample_scene("test", 0, NANO), frames=16, height=96, width=96, fps=8)
    alone = render([back], sample_scene("test", 0, NANO), frames=16, height=96, width=96, fps=8)
    hidden = (alone.masks[0] & ~clip.masks[1]).sum(axis=(1, 2)) / alone.masks[0].sum(axis=(1, 2))
    assert hidden.max() > 0.4
    assert hidden.min() < 0.2
    assert clip.joint_visible[0].sum() > clip.joint_visible[1].sum()


@pytest.mark.parametrize("kind", ["person", "robot", "animal"])
def test_hand_boxes_hold_all_hand_pixels_and_little_more(kind):
    domain = of_kind(kind)
    for index in range(15):
        clip = render(cast(domain, index), sample_scene("test", index, domain), frames=2, height=160, width=160, fps=1)
        for number, name in enumerate(("hand_left", "hand_right")):
            for frame in range(2):
                rows, columns = np.nonzero(clip.parts[frame] == 1 + PART_NAMES.index(name))
                left, top, right, bottom = clip.hand_boxes[0, frame, number]
                if not len(rows):
                    continue
                assert left <= columns.min()
                assert columns.max() + 1 <= right
                assert top <= rows.min()
                assert rows.max() + 1 <= bottom
                assert (right - left) * (bottom - top) < 0.06 * 160 * 160


def test_joints_lie_in_their_parts():
    """Where nothing else is in front, the middle of a bone is drawn as the part it belongs to."""
    hits, total = 0, 0
    for index in range(30):
        clip = render(cast(NANO, index), sample_scene("test", index, NANO), frames=1, height=128, width=128)
        for side in ("left", "right"):
            for start, end, part in (("elbow", "wrist", "forearm"), ("knee", "ankle", "shin")):
                ends = [clip.joints[0, 0, joint_index(f"{name}_{side}")] for name in (start, end)]
                column, row = np.floor(0.5 * (ends[0] + ends[1])).astype(int)
                hits += clip.parts[0, row, column] == 1 + PART_NAMES.index(f"{part}_{side}")
                total += 1
    assert hits > 0.85 * total


def joint_index(name):
    return JOINT_NAMES.index(name)


@given(
    height=st.integers(8, 96),
    width=st.integers(8, 96),
    frames=st.integers(1, 4),
    count=st.integers(1, 3),
    index=st.integers(0, 10**6),
)
@settings(max_examples=25, deadline=None)
def test_any_size_length_and_cast(height, width, frames, count, index):
    clip = render(
        cast(FULL, index, count),
        sample_scene("train", index, FULL),
        frames=frames,
        height=height,
        width=width,
        camera=sample_camera("train", index, FULL),
    )
    assert clip.frames.shape == (frames, height, width, 3)
    assert clip.frames.dtype == np.uint8
    assert clip.masks.shape == (count, frames, height, width)
    assert clip.masks.dtype == bool
    assert clip.parts.max() <= len(PART_NAMES)
    assert clip.joints.shape[:2] == clip.joint_visible.shape[:2] == (count, frames)
    assert np.isfinite(clip.joints).all()
    assert clip.hand_boxes.min() >= 0
    assert (clip.hand_boxes <= [width, height, width, height]).all()


def test_a_window_of_a_clip_is_the_clip_from_that_time():
    scene, performances = sample_scene("test", 1, FULL), cast(FULL, 1)
    camera = sample_camera("test", 1, FULL)
    whole = render(performances, scene, frames=6, height=64, width=64, fps=8, camera=camera)
    part = render(performances, scene, frames=2, height=64, width=64, fps=8, start=0.5, camera=camera)
    np.testing.assert_array_equal(whole.frames[4:], part.frames)
    still = render_still(performances, scene, height=64, width=64, time=0.5, camera=camera)
    np.testing.assert_array_equal(still.frames, part.frames[:1])


def test_nano_keeps_to_what_a_small_network_can_learn():
    for index in range(150):
        character = sample_character("train", index, NANO)
        place = sample_placements("train", index, NANO)[0]
        assert 128 * place.height * 0.95 * character.body.arm_width >= 7.99
        assert sample_camera("train", index, NANO) == Camera(seed=sample_camera("train", index, NANO).seed)
        assert character.kind == "person"
    tall = []
    for index in range(40):
        mask = render_still(
            cast(NANO, index, split="train"), sample_scene("train", 0, NANO), height=128, width=128
        ).masks
        rows = np.flatnonzero(mask[0, 0].any(axis=1))
        tall.append((rows[-1] - rows[0] + 1) / 128)
    assert 0.75 < np.median(tall) < 0.95


def test_full_is_varied():
    characters = [sample_character("train", index, FULL) for index in range(200)]
    assert {character.kind for character in characters} == {"person", "robot", "animal"}
    assert {character.age for character in characters} == {"child", "adult", "elder"}
    assert {character.extras.prop for character in characters} == {"none", *FULL.props}
    assert {character.face.hat for character in characters} == {"none", *FULL.hats}
    assert {character.extras.glasses for character in characters} == {"none", "round", "square", "shades"}
    assert {sample_motion("train", index, FULL).program for index in range(300)} == set(FULL.programs)
    assert {sample_scene("train", index, FULL).style for index in range(200)} == set(FULL.scenery)
    cameras = [sample_camera("train", index, FULL) for index in range(50)]
    for name in ("pan_x", "pan_y", "zoom", "orbit"):
        assert len({getattr(camera, name).amplitude for camera in cameras}) > 10


def test_an_orbiting_camera_turns_people_and_moves_the_scenery():
    scene, performances = sample_scene("test", 4, FULL), cast(FULL, 4)
    still = render(performances, scene, frames=1, height=64, width=64)
    turned = render(performances, scene, frames=1, height=64, width=64, camera=Camera(orbit=Swing(middle=0.5)))
    assert np.abs(still.joints - turned.joints).max() > 1.0
    busy = dataclasses.replace(
        scene, style="city", items=sample_scene("test", 0, dataclasses.replace(FULL, scenery=("city",))).items
    )
    plain, moved = (
        render([], busy, frames=1, height=64, width=64, camera=Camera(orbit=Swing(middle=angle)))
        for angle in (0.0, 0.3)
    )
    assert (plain.frames != moved.frames).any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"frames": 0}, "0 frames"),
        ({"height": 4}, "4x32 pixels is too small"),
        ({"fps": 0.0}, "frame rate of a puppet clip is 0.0"),
        ({"fps": float("nan")}, "frame rate of a puppet clip is nan"),
        ({"background": "blue"}, "Unknown background 'blue'"),
    ],
)
def test_impossible_clips_are_refused(change, message):
    arguments = {"frames": 1, "height": 32, "width": 32} | change
    with pytest.raises(InputError, match=message):
        render([], sample_scene("test", 0, NANO), **arguments)


def test_too_many_characters_are_refused():
    with pytest.raises(InputError, match="19 characters in one clip"):
        render(cast(NANO, 0) * 19, sample_scene("test", 0, NANO), frames=1, height=32, width=32)


def test_domains_by_name():
    assert domain_named("full") is FULL
    with pytest.raises(InputError, match="Unknown puppet domain 'huge'"):
        domain_named("huge")


def test_the_example_shows_one_motion_twice_and_is_written_whole(tmp_path):
    example = make_example(2, domain=NANO, frames=3, size=(64, 64))
    assert not np.array_equal(example.driving.frames, example.target.frames)
    assert np.abs(example.driving.joints - example.target.joints).max() < 0.15 * 64
    write_example([str(tmp_path / "example"), "--frames", "3", "--size", "64", "64", "--index", "2"])
    names = sorted(path.name for path in (tmp_path / "example").iterdir())
    expected = ["contact.png", "driving.npy", "driving_mask.npy", "reference.png", "reference_mask.png", "target.npy"]
    assert names == expected
    np.testing.assert_array_equal(np.load(tmp_path / "example" / "target.npy"), example.target.frames)
    mask = np.asarray(Image.open(tmp_path / "example" / "reference_mask.png"))
    assert {tuple(color) for color in mask.reshape(-1, 3).tolist()} == {(0, 0, 255), (255, 255, 255)}


def test_the_documented_snippets_run():
    names = {}
    for snippet in re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), flags=re.DOTALL):
        exec(snippet, names)
    assert names["target"].frames.shape == names["biased"].frames.shape == (17, 128, 128, 3)
    assert names["skeletons"].any()
