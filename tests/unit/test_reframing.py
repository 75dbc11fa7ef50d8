"""Reframing from the whole picture: in every pair of aspects the figure's head and feet stay inside and its share is the
driving one's; and whose crop it was that cut somebody off."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from scail2.masks import BINDING_SLOTS, paint_mask
from scail2.perception.checks.framing import cropped_sides
from scail2.perception.checks.reframing import REFRAME_LIMIT, find_window, reframe
from scail2.perception.driving_video import DrivingVideo
from scail2.perception.make import find_masks
from scail2.perception.stage import make_masks
from scail2.request.masks import MaskRequest
from scail2.segments import SegmentPlan
from scail2.video import VideoReader, VideoWriter

GROUND, HEAD, BODY, FEET = (90, 120, 90), (220, 40, 40), (200, 200, 200), (40, 40, 220)
ASPECTS = {"square": 1.0, "9:16": 9 / 16, "16:9": 16 / 9, "4:3": 4 / 3, "21:9": 21 / 9}


def size_of(aspect: float, area: int) -> tuple[int, int]:
    height = round((area / aspect) ** 0.5 / 4) * 4
    return height, round(height * aspect / 4) * 4


def draw(size: tuple[int, int], share: float, *, x: float = 0.5, feet: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """A figure of that share of the height: picture uint8 (H, W, 3) and mask bool (H, W)."""
    height, width = size
    tall = round(share * height)
    bottom = min(height, max(tall, round(feet * height)))
    top, half = bottom - tall, max(2, round(0.11 * tall))
    middle = int(np.clip(round(x * width), half, width - half))
    picture = np.full((height, width, 3), GROUND, np.uint8)
    mask = np.zeros(size, bool)
    mask[top:bottom, middle - half : middle + half] = True
    picture[mask] = BODY
    edge = max(2, tall // 8)
    picture[top : top + edge][mask[top : top + edge]] = HEAD
    picture[bottom - edge : bottom][mask[bottom - edge : bottom]] = FEET
    return picture, mask


def rows_of(picture: np.ndarray, colour: tuple[int, int, int]) -> int:
    """How many rows show a colour."""
    return int((np.abs(picture.astype(int) - colour).max(axis=-1) < 60).any(axis=1).sum())


def box_of(mask: np.ndarray) -> np.ndarray:
    ys, xs = np.nonzero(mask)
    return np.array([[xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]], float)


@given(
    aspect=st.floats(0.4, 2.6),
    target=st.floats(0.4, 2.6),
    share=st.floats(0.3, 0.97),
    wanted=st.floats(0.3, 0.95),
    x=st.floats(0.1, 0.9),
    feet=st.floats(0.6, 1.0),
)
@example(
    aspect=0.4375, target=2.0, share=0.9375, wanted=0.5, x=0.25, feet=1.0
)  # a pixel from the edge that is continued
@settings(max_examples=150, deadline=None)
def test_the_window_shows_the_whole_figure_at_the_wanted_share(aspect, target, share, wanted, x, feet):
    picture, mask = draw(size_of(aspect, 14_000), share, x=x, feet=feet)
    size = size_of(target, 9_000)
    box = box_of(mask)
    window = find_window(box, [wanted], picture.shape[:2], size)
    assert window.width / window.height == pytest.approx(size[1] / size[0])
    limited = not 1 / REFRAME_LIMIT <= (box[0, 3] - box[0, 1]) / wanted / picture.shape[0] <= REFRAME_LIMIT
    assert window.limited == limited
    x0, y0, x1, y1 = box[0]
    assert window.top <= y0 + 1e-6
    assert window.top + window.height >= y1 - 1e-6
    if x1 - x0 <= window.width:
        assert window.left <= x0 + 1e-6
        assert window.left + window.width >= x1 - 1e-6
    if window.height <= picture.shape[0]:  # nothing is continued that need not be
        assert window.top >= -1e-6
        assert window.top + window.height <= picture.shape[0] + 1e-6
    done = reframe(picture, mask.astype(np.uint8), window, size)
    assert done.picture.shape == (*size, 3)
    tall = np.flatnonzero(done.labels.any(axis=1))
    if not limited:
        assert (tall[-1] - tall[0] + 1) / size[0] == pytest.approx(wanted, abs=1.6 / size[0])
    bright = np.abs(done.picture.astype(int) - GROUND).max(axis=-1) > 50
    # An enlarged figure's outline is soft: at three times its size a tenth of so small a picture.
    assert (bright == (done.labels > 0)).mean() > 0.9


def write_driving(folder: Path, size: tuple[int, int], share: float) -> tuple[Path, Path]:
    picture, mask = draw(size, share)
    palette = paint_mask(mask[None, None], BINDING_SLOTS[:1], "black")
    for name, frames in (("driving.mkv", picture[None]), ("driving_mask.mkv", palette)):
        with VideoWriter(folder / name, 16, size, codec="ffv1") as writer:
            writer.write(np.repeat(frames, 5, axis=0))
    return folder / "driving.mkv", folder / "driving_mask.mkv"


def request_for(folder: Path, reference: tuple[np.ndarray, np.ndarray], driving: tuple[Path, Path], **changes):
    Image.fromarray(reference[0]).save(folder / "reference.png")
    palette = paint_mask(reference[1][None], BINDING_SLOTS[:1], "white")
    Image.fromarray(palette).save(folder / "reference_mask.png")
    named = {
        "reference": folder / "reference.png",
        "driving": driving[0],
        "reference_mask": (folder / "reference_mask.png",),
        "driving_mask": (driving[1],),
    }
    return MaskRequest(**named | changes)


def opened(driving: Path, **options) -> DrivingVideo:
    frames = VideoReader(driving, **options)
    return DrivingVideo(frames=frames, fps=Fraction(16), source_fps=None, segments=SegmentPlan.of(5))


@pytest.mark.parametrize("target", ASPECTS)
@pytest.mark.parametrize("shares", [(0.9, 0.6), (0.45, 0.8)])
def test_both_shares_agree_in_every_aspect(tmp_path, target, shares):
    size = size_of(ASPECTS[target], 9_000)
    driving = write_driving(tmp_path, size, shares[1])
    for aspect, fit in [*((each, "cover") for each in ASPECTS), ("square", "letterbox")]:
        whole = draw(size_of(ASPECTS[aspect], 20_000), shares[0], x=0.4, feet=0.97)
        request = request_for(tmp_path, whole, driving, reframe="auto", fit=fit)
        done = find_masks(request, opened(driving[0]), tmp_path / f"{aspect}-{fit}", sources={})
        (pair,) = done.framing.pairs
        assert pair.reference_share == pytest.approx(pair.driving_share, abs=1.6 / size[0])
        assert pair.reference_cut == ()
        tall = pair.driving_share * size[0]
        for colour in (HEAD, FEET):  # an eighth of the figure each, neither cut
            assert rows_of(done.reference, colour) == pytest.approx(tall / 8, abs=3)
        assert done.reference.shape == (*size, 3)
        note = done.findings[0]
        assert (note.code, str(note.severity)) == ("reframed", "info")


def test_a_head_that_the_crop_would_have_cut_is_there(tmp_path):
    """A square picture for a wide film: covering it leaves the middle 43 %, without head and feet."""
    size = size_of(21 / 9, 9_000)
    driving = write_driving(tmp_path, size, 0.8)
    whole = draw((120, 120), 0.9)
    plain = find_masks(request_for(tmp_path, whole, driving), opened(driving[0]), tmp_path / "plain", sources={})
    assert rows_of(plain.reference, HEAD) == rows_of(plain.reference, FEET) == 0
    request = request_for(tmp_path, whole, driving, reframe="auto")
    done = find_masks(request, opened(driving[0]), tmp_path / "whole", sources={})
    assert rows_of(done.reference, HEAD) > 3
    assert rows_of(done.reference, FEET) > 3


def test_a_size_beyond_the_limit_is_said(tmp_path):
    size = size_of(1, 9_000)
    driving = write_driving(tmp_path, size, 0.9)
    request = request_for(tmp_path, draw((240, 240), 0.25), driving, reframe="auto")
    done = find_masks(request, opened(driving[0]), tmp_path / "store", sources={})
    assert done.framing.pairs[0].reference_share == pytest.approx(0.25 * REFRAME_LIMIT, abs=0.02)
    assert "2.5 times at most" in done.findings[0].message


def test_characters_too_wide_for_the_film_are_said(tmp_path):
    size = size_of(9 / 16, 9_000)
    driving = write_driving(tmp_path, size, 0.9)
    picture, mask = draw((160, 160), 0.9)
    mask[60:70, 10:150] = True  # arms spread
    done = find_masks(
        request_for(tmp_path, (picture, mask), driving, reframe="auto"), opened(driving[0]), tmp_path / "s", sources={}
    )
    assert done.findings[0].severity == "warning"
    assert "wider than the film, which cuts them off at the sides" in done.findings[0].message


# ---- whose crop it was ----------------------------------------------------------------------------------------------


def found(tmp_path, request, **options) -> dict[str, tuple[str, str]]:
    folder = tmp_path / "inspected"
    folder.mkdir()
    report = make_masks(request, opened(request.driving, **options), folder, sources={})
    return {each.code: (each.message, each.fix) for each in report.findings}


def test_our_crop_is_blamed_for_what_it_cuts_off_the_reference(tmp_path):
    size = size_of(21 / 9, 9_000)
    driving = write_driving(tmp_path, size, 0.8)
    told, way = found(tmp_path, request_for(tmp_path, draw((120, 120), 0.9), driving))["cropped"]
    assert told.startswith(
        f"the crop to {size[1]}x{size[0]} cuts reference character 1 off at the top and bottom; the picture"
    )
    assert "--reframe auto" in way
    assert "--fit letterbox" in way


def test_who_is_cut_off_in_the_picture_itself_is_not_blamed_on_the_crop(tmp_path):
    size = size_of(1, 9_000)
    driving = write_driving(tmp_path, size, 0.8)
    picture, mask = draw((120, 120), 1.0, feet=1.0)
    said = found(tmp_path, request_for(tmp_path, (picture, mask), driving))
    assert "cropped" not in said
    assert said["cut_off"][0].startswith("reference character 1 is cut off at the top and bottom")


def test_letterboxes_and_reframing_crop_nobody(tmp_path):
    size = size_of(21 / 9, 9_000)
    driving = write_driving(tmp_path, size, 0.8)
    for number, changes in enumerate(({"fit": "letterbox"}, {"reframe": "auto"})):
        place = tmp_path / str(number)
        place.mkdir()
        assert "cropped" not in found(place, request_for(place, draw((120, 120), 0.9), driving, **changes))


def test_our_crop_is_blamed_for_what_it_cuts_off_the_video(tmp_path):
    driving = write_driving(tmp_path, (120, 120), 0.9)
    wide = size_of(21 / 9, 9_000)
    request = request_for(tmp_path, draw(wide, 0.8), driving, height=wide[0], width=wide[1])
    told, way = found(tmp_path, request, size=wide)["cropped"]
    assert (
        told
        == f"the crop to {wide[1]}x{wide[0]} cuts driving character 1 off at the top and bottom; the video itself shows more"
    )
    assert "--fit letterbox" in way


def test_a_crop_counts_from_a_hundredth_of_a_side():
    assert cropped_sides((480, 832), (480, 832)) == frozenset()
    assert cropped_sides((1080, 1920), (512, 896)) == {"left", "right"}  # 30 pixels of 1920
    assert cropped_sides((1000, 1000), (1000, 1007)) == frozenset()
    assert cropped_sides((1000, 1000), (1000, 1200)) == {"top", "bottom"}
