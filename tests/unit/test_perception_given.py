"""Masks that users bring: palettes, mattes, alpha; and what is refused."""

from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from scail2.errors import InputError
from scail2.masks import BindingSlot
from scail2.perception.segmenters.given import GivenMasks, PictureFrames, from_alpha, nearest_cover
from scail2.perception.segmenters.snapping import PaletteSnapper
from scail2.request.masks import PointPrompt, Prompts
from scail2.video import ArrayFrames, VideoReader, VideoWriter

BLUE, RED = BindingSlot.BLUE.rgb, BindingSlot.RED.rgb
SIZE = (48, 64)


def palette_frames(count: int = 3, background=(0, 0, 0)) -> np.ndarray:
    frames = np.full((count, *SIZE, 3), background, np.uint8)
    for index in range(count):
        frames[index, 10:40, 5 + index : 20 + index] = BLUE
        frames[index, 5:45, 40:55] = RED
    return frames


def write(path, frames: np.ndarray, codec: str = "ffv1"):
    with VideoWriter(path, Fraction(16), SIZE, codec=codec) as writer:
        writer.write(frames)
    return path


def plain_clip(count: int = 3) -> ArrayFrames:
    return ArrayFrames(np.full((count, *SIZE, 3), 90, np.uint8))


def test_palette_video_gives_slots_background_and_boxes(tmp_path):
    found = GivenMasks([write(tmp_path / "m.mkv", palette_frames())]).segment(plain_clip())
    seen = {track.slot: track for track in found.tracks if track.first_frame >= 0}
    assert set(seen) == {BindingSlot.BLUE, BindingSlot.RED}
    assert seen[BindingSlot.BLUE].boxes[2].tolist() == [7, 10, 22, 40]
    assert found.background == "black"
    assert not found.warnings


def test_lossy_video_is_snapped_and_the_pixels_counted(tmp_path):
    exact = GivenMasks([write(tmp_path / "m.mkv", palette_frames())]).segment(plain_clip())
    lossy = GivenMasks([write(tmp_path / "m.mp4", palette_frames(), "h264")]).segment(plain_clip())
    agree = exact.labels.labels(0, 3) == lossy.labels.labels(0, 3)
    assert agree.mean() > 0.97
    (warning,) = lossy.warnings
    assert "snapped" in warning
    assert f"of {3 * SIZE[0] * SIZE[1]} pixels" in warning


def test_folder_of_pngs_and_soft_edges(tmp_path):
    for index, frame in enumerate(palette_frames()):
        soft = frame.copy()
        soft[10:40, 4 + index] = (0, 0, 128)  # an antialiased brush between black and blue
        Image.fromarray(soft).save(tmp_path / f"{index:03d}.png")
    found = GivenMasks([tmp_path]).segment(plain_clip())
    assert "90 of" in found.warnings[0]


def test_unknown_colour_is_named_with_its_count(tmp_path):
    frames = palette_frames()
    frames[1, 20:30, 25:35] = (255, 128, 0)
    with pytest.raises(InputError, match=r"rgb\(255, 128, 0\).*on 100 pixels of frame 1"):
        GivenMasks([write(tmp_path / "m.mkv", frames)]).segment(plain_clip())


def test_a_dark_region_is_no_blend_of_what_is_around():
    frame = np.zeros((1, 20, 20, 3), np.uint8)
    frame[0, 5:10, 5:10] = (0, 0, 128)
    snapper = PaletteSnapper(lossy=False, where="the mask")
    snapper.learn(frame)
    with pytest.raises(InputError, match=r"rgb\(0, 0, 128\) and 0 more on 25 pixels of frame 7"):
        snapper.snap(frame, start=7)


@pytest.mark.parametrize("count", [2, 4])
def test_another_length_is_refused(tmp_path, count):
    path = write(tmp_path / "m.mkv", palette_frames(count))
    with pytest.raises(InputError, match=f"has {count} frames but the clip has 3"):
        GivenMasks([path]).segment(plain_clip())


def test_another_size_is_refused(tmp_path):
    path = write(tmp_path / "m.mkv", palette_frames())
    clip = ArrayFrames(np.zeros((3, 32, 32, 3), np.uint8))
    with pytest.raises(InputError, match="64x48 pixels but the picture it masks is 32x32"):
        GivenMasks([path]).segment(clip)


def test_mask_of_the_original_size_follows_resize_and_resampling(tmp_path):
    write(tmp_path / "film.mkv", np.zeros((8, *SIZE, 3), np.uint8))
    write(tmp_path / "m.mkv", palette_frames(8))
    clip = VideoReader(tmp_path / "film.mkv", fps=8, size=(24, 24))
    found = GivenMasks([tmp_path / "m.mkv"], original=SIZE).segment(clip)
    assert (len(found), found.height, found.width) == (4, 24, 24)
    blue = found.tracks[0]
    # 64 -> 48 columns are kept, then halved: a box from column 5 + 2 k is at (5 + 2 k - 8) / 2.
    assert blue.boxes[3].tolist() == [1, 5, 9, 20]


def test_one_matte_each_and_the_brighter_one_wins(tmp_path):
    left, right = np.zeros((2, 3, *SIZE, 3), np.uint8)
    left[:, 10:40, 5:30] = 255
    right[:, 10:40, 20:50] = 200
    write(tmp_path / "ann.mkv", left)
    write(tmp_path / "bob.mkv", right)
    found = GivenMasks([tmp_path / "ann.mkv", tmp_path / "bob.mkv"]).segment(plain_clip())
    assert [track.name for track in found.tracks] == ["ann", "bob"]
    assert found.tracks[0].boxes[0].tolist() == [5, 10, 30, 40]
    assert found.tracks[1].boxes[0].tolist() == [30, 10, 50, 40]


def test_one_matte_for_everybody_is_divided_on_request(tmp_path):
    matte = np.zeros((4, *SIZE, 3), np.uint8)
    for index in range(4):
        matte[index, 10:40, 5 + index : 20 + index] = 255
        matte[index, 5:45, 40 - index : 55 - index] = 255
    write(tmp_path / "all.mkv", matte)
    pictures = np.full((4, *SIZE, 3), 90, np.uint8)
    pictures[..., 32:, :] = (200, 20, 20)
    together = GivenMasks([tmp_path / "all.mkv"]).segment(ArrayFrames(pictures))
    assert len(together.tracks) == 1
    apart = GivenMasks([tmp_path / "all.mkv"]).segment(ArrayFrames(pictures), Prompts(characters=2))
    assert [int(track.areas[3]) for track in apart.tracks] == [40 * 15, 30 * 15]
    assert (apart.labels.labels(0, 4) > 0).sum() == (matte[..., 0] > 0).sum()


def test_colour_among_mattes_is_refused(tmp_path):
    write(tmp_path / "a.mkv", palette_frames())
    write(tmp_path / "b.mkv", palette_frames())
    with pytest.raises(InputError, match="not a grey or alpha matte"):
        GivenMasks([tmp_path / "a.mkv", tmp_path / "b.mkv"]).segment(plain_clip())


@pytest.mark.parametrize(("background", "codec"), [(0, "ffv1"), (255, "ffv1"), (0, "h264")])
def test_a_character_that_shows_only_for_a_while_is_found(tmp_path, background, codec):
    frames = np.full((60, *SIZE, 3), background, np.uint8)
    frames[22:38, 10:40, 20:40] = BLUE
    path = write(tmp_path / ("m.mkv" if codec == "ffv1" else "m.mp4"), frames, codec)
    found = GivenMasks([path]).segment(plain_clip(60))
    assert found.origin == "given palette"
    assert found.background == ("white" if background else "black")
    (seen,) = [track for track in found.tracks if track.first_frame >= 0]
    assert (seen.slot, seen.first_frame, seen.last_frame) == (BindingSlot.BLUE, 22, 37)


def test_a_very_small_character_is_not_a_white_matte(tmp_path):
    frames = np.full((3, 128, 160, 3), 255, np.uint8)
    frames[:, 60:64, 80:84] = RED
    with VideoWriter(tmp_path / "m.mkv", Fraction(16), (128, 160), codec="ffv1") as writer:
        writer.write(frames)
    clip = ArrayFrames(np.zeros_like(frames))
    (seen,) = [t for t in GivenMasks([tmp_path / "m.mkv"]).segment(clip).tracks if t.first_frame >= 0]
    assert (seen.slot, seen.areas.tolist()) == (BindingSlot.RED, [16] * 3)
    with pytest.raises(InputError, match="not a grey or alpha matte"):
        GivenMasks([tmp_path / "m.mkv", tmp_path / "m.mkv"]).segment(clip)


def test_stray_coloured_pixels_leave_a_grey_matte_one(tmp_path):
    frames = np.zeros((20, *SIZE, 3), np.uint8)
    frames[:, 10:40, 5:30] = 255
    frames[:, 0, 0] = BLUE
    frames[7, 47, 61:63] = (200, 180, 140)
    found = GivenMasks([write(tmp_path / "m.mkv", frames)]).segment(plain_clip(20))
    assert found.origin == "given matte"
    assert found.tracks[0].areas.tolist() == [30 * 25 + 2 * (k == 7) for k in range(20)]


def test_alpha_counts_in_frames_without_transparency(tmp_path):
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 255, (40, *SIZE, 4), dtype=np.uint8)
    frames[..., 3] = 255
    frames[20:24, 10:20, 5:25, 3] = 0
    for order in (frames, frames[::-1]):
        path = write(tmp_path / f"cut{order[20, 12, 12, 3]}.mkv", np.ascontiguousarray(order))
        found = GivenMasks([path]).segment(plain_clip(40))
        assert found.origin == "given matte"
        whole = SIZE[0] * SIZE[1]
        assert found.tracks[0].areas.tolist() == [whole - 200 * int(f[12, 12, 3] == 0) for f in order]


def test_alpha_of_a_picture():
    picture = np.full((*SIZE, 4), 255, np.uint8)
    assert from_alpha(picture) is None
    picture[..., 3] = 0
    with pytest.raises(InputError, match="wholly transparent"):
        from_alpha(picture)
    picture[10:20, 5:25, 3] = 255
    assert from_alpha(picture).tracks[0].boxes[0].tolist() == [5, 10, 25, 20]


def test_alpha_matte_picture_file(tmp_path):
    picture = np.zeros((*SIZE, 4), np.uint8)
    picture[10:20, 5:25] = (200, 100, 50, 255)
    Image.fromarray(picture).save(tmp_path / "cut.png")
    found = GivenMasks([tmp_path / "cut.png"]).segment(PictureFrames(np.zeros((*SIZE, 3), np.uint8)))
    assert found.tracks[0].boxes[0].tolist() == [5, 10, 25, 20]


@pytest.mark.parametrize(("name", "codec"), [("cut.mov", "prores4444"), ("cut", "png")])
def test_alpha_matte_videos_and_folders(tmp_path, name, codec):
    frames = np.zeros((3, *SIZE, 4), np.uint8)
    frames[:, 10:20, 5:25] = (200, 100, 50, 255)
    write(tmp_path / name, frames, codec)
    found = GivenMasks([tmp_path / name]).segment(plain_clip())
    assert found.origin == "given matte"
    assert found.tracks[0].boxes[2].tolist() == [5, 10, 25, 20]


@pytest.mark.parametrize(
    ("name", "codec"), [("m.mov", "prores4444"), ("m.webm", "vp9-alpha"), ("m.mkv", "ffv1"), ("m", "png")]
)
def test_palette_colours_on_transparency_are_characters_and_no_matte(tmp_path, name, codec):
    """As painting programs save a layer; what lies under it is no colour of anybody, and the background the mode's."""
    exact = GivenMasks([write(tmp_path / "exact.mkv", palette_frames(20))]).segment(plain_clip(20))
    alpha = np.where(palette_frames(20).any(axis=-1, keepdims=True), 255, 0).astype(np.uint8)
    frames = np.concatenate([np.where(alpha > 0, palette_frames(20), np.uint8(200)), alpha], axis=-1)
    frames[:2, ..., 3] = 0  # nobody is there yet
    found = GivenMasks([write(tmp_path / name, frames, codec)]).segment(plain_clip(20))
    assert (found.origin, found.background) == ("given palette", None)
    seen = {track.slot for track in found.tracks if track.first_frame >= 0}
    assert seen == {BindingSlot.BLUE, BindingSlot.RED}
    labels = found.labels.labels(0, 20)
    assert not labels[:2].any()
    assert (labels[2:] == exact.labels.labels(2, 20)).mean() > (0.97 if codec == "vp9-alpha" else 0.999)


def test_a_bright_cut_out_stays_one_character(tmp_path):
    """Red and blue of a costume, not quite pure; and a pure one with outlines."""
    frames = np.zeros((3, *SIZE, 4), np.uint8)
    frames[:, 10:40, 5:20], frames[:, 10:40, 20:35] = (225, 25, 30, 255), (25, 40, 230, 255)
    outlined = np.zeros((3, *SIZE, 4), np.uint8)
    outlined[:, 8:42, 3:37] = (0, 0, 0, 255)
    outlined[:, 10:40, 5:20], outlined[:, 10:40, 20:35] = (255, 0, 0, 255), (0, 0, 255, 255)
    for name, cut in (("bright", frames), ("outlined", outlined)):
        found = GivenMasks([write(tmp_path / f"{name}.mkv", cut)]).segment(plain_clip())
        assert (found.origin, len(found.tracks)) == ("given matte", 1)
        assert found.tracks[0].areas.tolist() == [int((cut[0, ..., 3] > 0).sum())] * 3


def test_a_matte_that_shows_nobody_has_an_empty_track(tmp_path):
    write(tmp_path / "m.mkv", np.zeros((3, *SIZE, 3), np.uint8))
    assert GivenMasks([tmp_path / "m.mkv"]).segment(plain_clip()).tracks[0].first_frame == -1


def test_a_picture_painted_all_over_is_one_character(tmp_path):
    Image.fromarray(np.full((*SIZE, 3), (255, 0, 255), np.uint8)).save(tmp_path / "p.png")
    found = GivenMasks([tmp_path / "p.png"]).segment(PictureFrames(np.zeros((*SIZE, 3), np.uint8)))
    (seen,) = [track for track in found.tracks if track.first_frame >= 0]
    assert seen.slot is BindingSlot.MAGENTA
    assert seen.areas[0] == SIZE[0] * SIZE[1]


def test_prompts_beside_files_are_refused(tmp_path):
    path = write(tmp_path / "m.mkv", palette_frames())
    with pytest.raises(InputError, match="no use"):
        GivenMasks([path]).segment(plain_clip(), Prompts(points=(PointPrompt(frame=0, character=1, x=1, y=1),)))


def test_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"nothing\.png does not exist"):
        GivenMasks([tmp_path / "nothing.png"]).segment(plain_clip())


def test_nearest_cover_keeps_labels_and_geometry():
    labels = np.zeros((1, 40, 80), np.uint8)
    labels[:, :, 40:] = 3
    covered = nearest_cover(labels, 20, 20)
    assert set(np.unique(covered)) == {0, 3}
    assert covered[0, 0].tolist() == [0] * 10 + [3] * 10
    boxed = nearest_cover(labels, 40, 40, letterbox=True)
    assert boxed[0, :10].max() == 0
    assert boxed[0, 20].tolist() == [0] * 20 + [3] * 20
