"""Framing, scene cuts, the mask stage as a whole, and the preflight report."""

import io
import json
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from scail2.errors import InputError
from scail2.masks import BindingSlot
from scail2.modes import AnimationMode
from scail2.perception.binding import bind
from scail2.perception.checks import framing, preflight
from scail2.perception.checks.cuts import scene_cuts
from scail2.perception.checks.preflight import PreflightReport
from scail2.perception.driving_video import DrivingVideo
from scail2.perception.make import MadeMasks, find_masks
from scail2.perception.tracks import TrackedMasks, TrackRecorder
from scail2.request.masks import MaskRequest
from scail2.segments import SegmentPlan
from scail2.video import ArrayFrames, VideoReader, VideoWriter

MEDIA = Path(__file__).parents[1] / "media"
SIZE = (64, 96)
BLUE, RED = BindingSlot.BLUE.rgb, BindingSlot.RED.rgb


def figure(*boxes: tuple[int, int, int, int], frames: int = 1, size: tuple[int, int] = SIZE) -> TrackedMasks:
    """Standing characters as boxes x0, y0, x1, y1."""
    labels = np.zeros((frames, *size), np.uint8)
    for number, (x0, y0, x1, y1) in enumerate(boxes, start=1):
        labels[:, y0:y1, x0:x1] = number
    recorder = TrackRecorder(None, height=size[0], width=size[1])
    recorder.add(labels)
    return recorder.finish("test")


def noise(frames: int, seed: int = 0) -> ArrayFrames:
    return ArrayFrames(np.random.default_rng(seed).integers(0, 255, (frames, *SIZE, 3), dtype=np.uint8))


# ---- framing --------------------------------------------------------------------------------------------------------


def test_predicted_scale_goes_through_the_two_published_points():
    assert framing.predicted_scale(0.34, 0.34) == pytest.approx(1.003)
    assert framing.predicted_scale(0.93, 0.34) == pytest.approx(1.71)
    assert framing.predicted_scale(0.2, 0.34) < 1


def test_shares_and_cut_off_bodies_are_compared():
    reference, driving = figure((30, 32, 50, 64)), figure((30, 10, 50, 58), frames=4)
    report = framing.check(reference, driving, bind(reference, driving))
    (pair,) = report.pairs
    assert (pair.reference_share, pair.driving_share) == (0.5, 0.75)
    assert pair.reference_cut == ("bottom",)
    assert report.reframe_scale == pytest.approx(1.5)
    assert {each.code for each in report.findings} == {"scale", "cut_off"}
    assert "0.81 times" in report.findings[0].message


def test_a_fitting_reference_gives_no_findings():
    same = figure((30, 10, 50, 58), frames=4)
    assert not framing.check(figure((40, 10, 60, 58)), same, bind(figure((40, 10, 60, 58)), same)).findings


def test_cut_sides_need_more_than_a_touch():
    mask = np.zeros(SIZE, bool)
    mask[10:, 20:60] = True
    assert framing.cut_sides(mask) == ("bottom",)
    mask[-1] = False
    mask[-1, 20:22] = True
    assert framing.cut_sides(mask) == ()


# ---- scene cuts -----------------------------------------------------------------------------------------------------


def test_real_motion_is_no_cut_and_a_real_cut_is_found():
    dance = VideoReader(MEDIA / "dance_black.mp4", size=(96, 96)).frames(0, 40)
    bones = VideoReader(MEDIA / "leather_man_pose.mp4", size=(96, 96)).frames(0, 40)
    assert scene_cuts(ArrayFrames(dance)) == []
    assert scene_cuts(ArrayFrames(bones)) == []
    assert scene_cuts(ArrayFrames(np.concatenate([dance[:33], bones[:9], dance[33:]]))) == [33, 42]
    assert scene_cuts(ArrayFrames(dance[:1])) == []


# ---- the mask stage -------------------------------------------------------------------------------------------------


def palette(background: tuple[int, int, int], top: int = 10) -> np.ndarray:
    mask = np.full((*SIZE, 3), background, np.uint8)
    mask[top:58, 20:40] = BLUE
    mask[top + 4 : 58, 60:80] = RED
    return mask


@pytest.fixture
def files(tmp_path):
    """A given palette pair for animation: reference on white, driving on black."""
    Image.fromarray(palette((255, 255, 255))).save(tmp_path / "reference.png")
    with VideoWriter(tmp_path / "driving.mkv", Fraction(16), SIZE, codec="ffv1") as writer:
        writer.write(np.repeat(palette((0, 0, 0))[None], 20, axis=0))
    return tmp_path


def save(picture: np.ndarray, path: Path) -> Path:
    Image.fromarray(picture).save(path)
    return path


def made(files: Path, name: str = "store", **changes) -> MadeMasks:
    """Masks of a reference of noise and a video of noise, from the given pair unless ``changes`` say otherwise."""
    named = {
        "reference": save(noise(1).array[0], files / "picture.png"),
        "driving": files / "film.mkv",
        "reference_mask": (files / "reference.png",),
        "driving_mask": (files / "driving.mkv",),
    }
    return find_masks(MaskRequest(**named | changes), video(), files / name, sources={})


def video(**changes) -> DrivingVideo:
    named = {"frames": noise(20), "fps": Fraction(16), "source_fps": None, "segments": SegmentPlan.of(20)}
    return DrivingVideo(**named | changes)


def test_given_masks_become_a_store(files):
    done = made(files)
    assert np.array_equal(done.store.reference, palette((255, 255, 255)))
    assert np.array_equal(done.store.driving.frames(19, 20)[0], palette((0, 0, 0)))
    assert np.array_equal(done.reference, noise(1).array[0])
    assert done.masks.backgrounds == ("white", "black")


def test_masks_of_the_other_mode_are_refused_or_repainted(files):
    with pytest.raises(InputError, match=r"white background but replacement mode needs black.*--fix-polarity"):
        made(files, mode="replacement")
    done = made(files, mode="replacement", fix_polarity=True)
    assert done.store.driving.frames(0, 1)[0, 0, 0].tolist() == [255, 255, 255]
    assert done.store.reference[0, 0].tolist() == [0, 0, 0]
    assert [each.code for each in done.findings] == ["polarity", "polarity"]


def test_alpha_stands_in_for_a_reference_mask(files):
    picture = np.dstack([noise(1).array[0], np.zeros(SIZE, np.uint8)])
    picture[10:58, 20:40, 3] = 255
    cut_out = save(picture, files / "cut_out.png")
    done = made(files, reference=cut_out, reference_mask=(), bind=("driving:2=reference:1",))
    assert done.reference.shape == (*SIZE, 3)
    assert done.masks.reference.origin == "alpha"
    assert (done.store.driving.frames(0, 1)[0] == BLUE).all(axis=-1).sum() == 44 * 20


def test_reframe_auto_brings_both_shares_together(files):
    Image.fromarray(palette((255, 255, 255), top=34)).save(files / "reference.png")
    plain = made(files, "a")
    assert plain.framing.pairs[0].reference_share == pytest.approx(0.375)
    done = made(files, "b", reframe="auto")
    assert done.framing.reframe_scale == pytest.approx(1, abs=0.06)
    assert done.framing.pairs[0].reference_share > 0.6
    assert not np.array_equal(done.reference, plain.reference)
    assert "resampled by" in done.findings[0].message


def test_additional_views_take_the_reference_colours(files):
    view = noise(1, seed=3).array[0]
    done = made(
        files,
        additional_references=(save(view, files / "view.png"),),
        additional_reference_masks=(files / "reference.png",),
    )
    (mask,) = done.store.additional_for(AnimationMode.ANIMATION)
    assert np.array_equal(mask, palette((255, 255, 255)))
    assert np.array_equal(done.additional_references[0], view)


@pytest.mark.parametrize("mode", list(AnimationMode))
@pytest.mark.parametrize("background", [(0, 0, 0), (255, 255, 255)])
def test_additional_views_keep_the_backgrounds_they_were_given_with(files, mode, background):
    """Views of a character on black, and a scene that is all white, in both modes and read for either."""
    masks = (save(palette(background), files / "a.png"), save(np.full((*SIZE, 3), 255, np.uint8), files / "b.png"))
    pictures = [noise(1, seed=seed).array[0] for seed in (3, 4)]
    views = tuple(save(picture, files / f"view{n}.png") for n, picture in enumerate(pictures))
    done = made(files, mode=mode, fix_polarity=True, additional_references=views, additional_reference_masks=masks)
    for asked in AnimationMode:
        view, scene = done.store.additional_for(asked)
        assert np.array_equal(view, palette(background))
        assert (scene == 255).all()
    assert np.array_equal(done.additional_references, pictures)


def test_the_mode_decides_the_background_of_an_additional_view_that_came_without(files):
    picture = np.dstack([noise(1).array[0], np.zeros(SIZE, np.uint8)])
    picture[10:58, 20:40, 3] = 255
    cut_out = save(picture, files / "cut_out.png")
    done = made(
        files,
        reference=cut_out,
        reference_mask=(),
        bind=("driving:2=reference:1",),
        additional_references=(cut_out,),
    )
    for mode, background in ((AnimationMode.ANIMATION, 255), (AnimationMode.REPLACEMENT, 0)):
        (mask,) = done.store.additional_for(mode)
        assert mask[0, 0].tolist() == [background] * 3
        assert (mask == BLUE).all(axis=-1).sum() == 48 * 20


# ---- the report -----------------------------------------------------------------------------------------------------


def inspected(files: Path, *, backgrounds=None, **changes) -> PreflightReport:
    done = made(files)
    masks = done.masks if backgrounds is None else replace(done.masks, backgrounds=backgrounds)
    driving = video(**{"segments": SegmentPlan.of(20, segment_frame_length=13), "size_step": (32, 32)} | changes)
    return preflight.inspect(masks, done.reference, driving)


def test_a_good_job_passes_and_states_its_facts(files):
    report = inspected(files)
    assert report.ok
    report.refuse_errors()
    assert report.facts["segments"] == 2
    assert report.facts["segment_frames"] == [13, 13]
    assert report.facts["padded_frames"] == 1
    assert report.facts["driving_characters"] == 2
    assert json.loads(json.dumps(report.to_json()))["ok"] is True


def test_the_report_is_a_readable_table(files):
    report = inspected(files, segments=SegmentPlan.of(20))
    console = Console(width=110, record=True, file=io.StringIO())
    console.print(report.table())
    text = console.export_text()
    assert "driving 1 → reference 1 (blue)" in text
    assert "96x64" in text


def test_size_length_rate_and_polarity_are_refused_or_warned(files):
    report = inspected(
        files,
        size_step=(48, 32),
        frames=noise(19),
        fps=Fraction(4),
        source_fps=Fraction(30),
        backgrounds=("black", "black"),
    )
    found = {(each.code, each.severity.value) for each in report.findings}
    assert {("size", "error"), ("length", "error"), ("polarity", "error"), ("frame_rate", "warning")} <= found
    assert not report.ok
    with pytest.raises(InputError, match=r"fit the model.* Also: .*; "):
        report.refuse_errors()


def test_scene_cuts_point_into_segments(files):
    still = np.full((20, *SIZE, 3), 40, np.uint8)
    still[11:] = 210
    report = inspected(files, frames=ArrayFrames(still))
    (cut,) = [each for each in report.findings if each.code == "scene_cut"]
    assert report.cuts == (11,)
    assert "frame 11 (1 of them inside a segment)" in cut.message


def test_contact_sheet_shows_masks_in_their_colours(files):
    done, report = made(files, "other"), inspected(files)
    sheet = preflight.contact_sheet(done.masks, done.reference, noise(20), report, files / "sheet.png", frames=3)
    assert np.array_equal(np.asarray(Image.open(files / "sheet.png")), sheet)
    assert (sheet == BLUE).all(axis=-1).sum() > 50
    assert (sheet == RED).all(axis=-1).sum() > 50
