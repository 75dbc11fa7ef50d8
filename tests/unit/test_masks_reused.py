"""Masks that are used again: at every size and fit they lie on who they were made of, and numbers stay who they were."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from scail2.errors import InputError
from scail2.files.storage import hash_file
from scail2.masks import BindingSlot, split_mask
from scail2.modes import AnimationMode
from scail2.perception.checks.preflight import PreflightReport
from scail2.perception.driving_video import DrivingVideo
from scail2.perception.make import fit_picture, read_picture
from scail2.perception.refitting import Fitted, places
from scail2.perception.segmenters.given import from_alpha
from scail2.perception.stage import StoredMasks, load_masks, make_masks
from scail2.perception.store import MaskStore
from scail2.request.masks import Fit, MaskRequest, Reframe
from scail2.video import VideoReader, VideoWriter, read_image, resize_cover, resize_letterbox

SIZE, FRAMES = (96, 192), 6
# Who is dressed in what, and where they stand: rows, then columns.
LEFT, RIGHT = (220, 40, 40), (40, 200, 60)
AT = {LEFT: (slice(30, 80), slice(16, 52)), RIGHT: (slice(24, 84), slice(128, 160))}
VIEW_AT = (slice(20, 90), slice(30, 60))


def scene(shift: int = 0) -> np.ndarray:
    picture = np.full((*SIZE, 3), 110, np.uint8)
    for colour, (rows, columns) in AT.items():
        picture[rows, columns.start + shift : columns.stop + shift] = colour
    return picture


def matte(colour: tuple[int, int, int], shift: int = 0) -> np.ndarray:
    return np.where((scene(shift) == colour).all(axis=-1), np.uint8(255), np.uint8(0))


@pytest.fixture
def files(tmp_path, monkeypatch) -> Path:
    """Two characters a side, and a square view of the left one; a matte each."""
    Image.fromarray(scene()).save(tmp_path / "reference.png")
    view = np.full((96, 96, 3), 110, np.uint8)
    view[VIEW_AT] = LEFT
    Image.fromarray(view).save(tmp_path / "view.png")
    painted = np.full((96, 96, 3), 255, np.uint8)
    painted[VIEW_AT] = BindingSlot.BLUE.rgb
    Image.fromarray(painted).save(tmp_path / "view_mask.png")
    for name, colour in (("left", LEFT), ("right", RIGHT)):
        Image.fromarray(matte(colour)).save(tmp_path / f"reference_{name}.png")
        with VideoWriter(tmp_path / f"driving_{name}.mkv", Fraction(16), SIZE, codec="ffv1") as writer:
            writer.write(np.stack([np.repeat(matte(colour, k)[..., None], 3, axis=-1) for k in range(FRAMES)]))
    with VideoWriter(tmp_path / "driving.mkv", Fraction(16), SIZE, codec="ffv1") as writer:
        writer.write(np.stack([scene(k) for k in range(FRAMES)]))
    monkeypatch.chdir(tmp_path)
    return tmp_path


MATTES = {
    "reference_mask": ("reference_left.png", "reference_right.png"),
    "driving_mask": ("driving_left.mkv", "driving_right.mkv"),
}


def made(name: str, **changes) -> PreflightReport:
    """Masks in the folder ``name``."""
    request = MaskRequest(**{"reference": "reference.png", "driving": "driving.mkv", **changes})
    sources = {"reference": hash_file(request.reference), "driving": hash_file(request.driving)}
    Path(name).mkdir()
    return make_masks(request, DrivingVideo.open(request), Path(name), sources=sources)


def reused(name: str, masks: str, **changes) -> PreflightReport:
    return made(name, masks=masks, **changes)


def agreement(picture: np.ndarray, mask: np.ndarray, colour: tuple[int, int, int], slot: BindingSlot) -> float:
    """Intersection over union of who wears a colour and what is painted in a slot."""
    there = np.abs(picture.astype(int) - colour).max(axis=-1) < 60
    painted = (mask == slot.rgb).all(axis=-1)
    return float((there & painted).sum() / (there | painted).sum())


def agreements(loaded: StoredMasks, size: tuple[int, int], fit: str) -> list[float]:
    frames = VideoReader("driving.mkv", size=size, fit=fit).frames(0, FRAMES)
    masks = loaded.driving_mask.frames(0, FRAMES)
    pairs = [(loaded.reference, loaded.reference_mask), *zip(frames, masks, strict=True)]
    return [
        agreement(*pair, LEFT, BindingSlot.BLUE) for pair in pairs if (pair[1] == BindingSlot.BLUE.rgb).all(-1).any()
    ]


@pytest.mark.parametrize(
    ("made_at", "used_at"),
    [
        ({}, {"height": 48, "width": 96}),
        ({"width": 96}, {"height": 96, "width": 192}),
        ({"height": 192}, {"height": 64, "width": 64, "fit": "letterbox"}),
        ({"height": 160, "width": 160, "fit": "letterbox"}, {"height": 96, "width": 192}),
        ({"height": 160, "width": 160, "fit": "letterbox"}, {"height": 120, "width": 200, "fit": "letterbox"}),
        ({"height": 160, "width": 128, "fit": "letterbox"}, {"height": 128, "width": 192}),
        ({"height": 96, "width": 144}, {"height": 80, "width": 80}),
    ],
)
def test_masks_lie_on_who_they_were_made_of_at_another_size_and_fit(files, made_at, used_at):
    made("first", **MATTES, **made_at)
    reused("second", "first", **used_at)
    loaded = load_masks(files / "second", AnimationMode.ANIMATION)
    size = (used_at["height"], used_at["width"])
    assert loaded.reference.shape[:2] == loaded.reference_mask.shape[:2] == size
    found = agreements(loaded, size, used_at.get("fit", "cover"))
    assert len(found) == FRAMES + 1 or made_at.get("width") == 144  # the crop leaves the left one out of some frames
    assert min(found) > 0.85
    store = MaskStore(files / "second")
    assert store.files["fit"] == used_at.get("fit", "cover")
    reused("third", "second", **used_at)  # masks of masks stay where they are
    again = load_masks(files / "third", AnimationMode.ANIMATION)
    assert np.array_equal(again.driving_mask.frames(0, FRAMES), loaded.driving_mask.frames(0, FRAMES))


@pytest.mark.parametrize("used_at", [{"height": 96, "width": 192}, {"height": 96, "width": 96, "fit": "letterbox"}])
def test_masks_of_a_part_are_refused_where_more_is_shown(files, used_at):
    made("first", **MATTES, height=96, width=96)
    with pytest.raises(InputError, match=r"made for the reference at 96x96 \(cover\), which cuts off what this run at"):
        reused("second", "first", **used_at)


def test_a_sliver_that_the_masks_do_not_show_is_told(files):
    made("first", **MATTES, height=96, width=184)
    codes = {each.code for each in reused("second", "first", height=96, width=192).findings}
    assert "masks_cropped" in codes
    assert min(agreements(load_masks(files / "second", AnimationMode.ANIMATION), SIZE, "cover")) > 0.95


def test_the_reference_comes_from_its_file_at_the_size_of_the_run(files):
    made("small", **MATTES, width=64)
    reused("large", "small", height=96, width=192)
    assert np.array_equal(read_image("large/reference.png"), read_image("reference.png"))


def test_a_cut_out_stands_on_the_background_of_the_run_s_mode(files):
    cut = np.dstack([scene(), np.maximum(matte(LEFT), matte(RIGHT))])
    Image.fromarray(cut).save("cut.png")
    driving = {"driving_mask": MATTES["driving_mask"]}
    made("first", reference="cut.png", **driving, mode="replacement", bind=("driving:1",))
    reused("second", "first", reference="cut.png")
    assert tuple(read_image("second/reference.png")[0, 0]) == (255, 255, 255)
    reused("third", "first", reference="cut.png", mode="replacement")
    assert tuple(read_image("third/reference.png")[0, 0]) == (0, 0, 0)


@pytest.mark.parametrize("used_at", [{"height": 64, "width": 64}, {"height": 64, "width": 64, "fit": "letterbox"}])
def test_masks_of_other_views_lie_on_their_pictures(files, used_at):
    view = {"additional_references": ("view.png",)}
    made("first", **MATTES, **view, additional_reference_masks=("view_mask.png",), height=96, width=96, fit="letterbox")
    reused("second", "first", **view, **used_at)
    loaded = load_masks(files / "second", AnimationMode.ANIMATION)
    assert (
        agreement(loaded.additional_references[0], loaded.additional_reference_masks[0], LEFT, BindingSlot.BLUE) > 0.9
    )
    Path("first/additional_mask_1 (copy).png").write_bytes(b"a painting program's")
    assert len(MaskStore(files / "first").additional_for(AnimationMode.ANIMATION)) == 1


def test_bars_of_another_view_s_mask_are_its_background(files):
    view = {"additional_references": ("view.png",)}
    made("first", **MATTES, **view, additional_reference_masks=("view_mask.png",), height=96, width=96, fit="letterbox")
    reused("second", "first", **view, height=64, width=128, fit="letterbox")
    mask = load_masks(files / "second", AnimationMode.ANIMATION).additional_reference_masks[0]
    assert (mask[:, :30] == 255).all()
    assert (mask[:, -30:] == 255).all()


def moved_by(folder: str) -> dict[BindingSlot, tuple[float, float]]:
    """Middles of what is painted in each colour: (driving, reference), first frame, in pixels."""
    loaded = load_masks(Path(folder), AnimationMode.ANIMATION)
    parts = [split_mask(mask) for mask in (loaded.driving_mask.frames(0, 1)[0], loaded.reference_mask)]
    shared = [slot for slot in BindingSlot if all(part[slot].any() for part in parts)]
    return {slot: tuple(float(np.nonzero(part[slot])[1].mean()) for part in parts) for slot in shared}


CROSSED = ("driving:2=reference:1", "driving:1=reference:2")


def test_numbers_are_those_of_the_contact_sheet_when_masks_are_used_again(files):
    made("first", **MATTES, bind=CROSSED)
    crossed = moved_by("first")
    assert sorted(crossed.values()) == [
        (pytest.approx(33.5), pytest.approx(143.5)),
        (pytest.approx(143.5), pytest.approx(33.5)),
    ]
    reused("same", "first")
    reused("said", "first", bind=CROSSED)
    assert sorted(moved_by("same").values()) == sorted(moved_by("said").values()) == sorted(crossed.values())
    reused("uncrossed", "first", bind=("driving:1=reference:1", "driving:2=reference:2"))
    assert sorted(moved_by("uncrossed").values()) == [(33.5, 33.5), (143.5, 143.5)]
    for name in ("first", "same", "said", "uncrossed"):
        boxes = {each["number"]: each["boxes"][0][0] for each in MaskStore(files / name).info["driving"]}
        assert boxes == {1: 16, 2: 128}, name


def test_a_selection_takes_the_pairs_as_they_were_painted(files):
    made("first", **MATTES, bind=CROSSED)
    reused("one", "first", bind=("driving:2",))
    assert list(moved_by("one").values()) == [(143.5, 33.5)]
    made("two", **MATTES, bind=("driving:2",))
    assert [each["number"] for each in MaskStore(files / "two").info["driving"]] == [1, 2]
    reused("again", "two", bind=("driving:2",))
    assert list(moved_by("again").values()) == list(moved_by("two").values())


def test_a_reframed_reference_stays_reframed(files):
    one = {"reference_mask": ("reference_left.png",), "driving_mask": ("driving_right.mkv",)}
    made("first", **one, reframe=Reframe.AUTO)
    reused("second", "first")
    assert np.array_equal(read_image("second/reference.png"), read_image("first/reference.png"))
    assert MaskStore(files / "second").files["reframe"] == "auto"
    codes = [each.code for each in reused("large", "second", height=144, width=288).findings if each.fix]
    assert "reframed" in codes
    (files / "second" / "reference.png").unlink()
    with pytest.raises(InputError, match="belong to a reframed picture, which is not there"):
        reused("third", "second")


def test_the_first_pictures_of_a_folder_are_of_the_same_driving_video(files):
    Path("frames").mkdir()
    for number in range(FRAMES):
        Image.fromarray(scene(number)).save(f"frames/{number}.png")
    made("first", **MATTES, driving="frames")
    codes = {each.code for each in reused("second", "first", driving="frames", frames=3).findings}
    assert "other_source" not in codes
    Image.fromarray(scene(9)).save("frames/0.png")
    codes = {each.code for each in reused("third", "first", driving="frames", frames=3).findings}
    assert "other_source" in codes


@pytest.mark.parametrize(
    ("given_masks", "useless"),
    [
        ({"masks": "m"}, {"points": ("0:1:5,5",)}),
        ({"masks": "m"}, {"reference_boxes": ("1:5,5,9,9",)}),
        ({"masks": "m"}, {"characters": 2}),
        ({"masks": "m"}, {"additional_references": ("view.png",), "additional_reference_masks": ("view_mask.png",)}),
        ({"driving_mask": ("d.mkv",)}, {"boxes": ("0:1:5,5,9,9",)}),
        ({"reference_mask": ("r.png",)}, {"reference_points": ("1:5,5",)}),
    ],
)
def test_what_given_masks_make_useless_is_refused(given_masks, useless):
    with pytest.raises(InputError, match=r"says who is where, so --.* has no use beside it"):
        MaskRequest(reference="reference.png", driving="driving.mkv", **given_masks, **useless)
    if "driving_mask" in given_masks:
        MaskRequest(reference="reference.png", driving="driving.mkv", **given_masks, reference_points=("1:5,5",))


def test_a_picture_that_is_nowhere_transparent_is_no_cut_out_in_bars(files):
    Image.fromarray(np.dstack([scene()[:, :96], np.full((96, 96), 250, np.uint8)])).save("veil.png")
    picture = read_picture(files / "veil.png", AnimationMode.ANIMATION)
    assert from_alpha(fit_picture(picture, SIZE, letterbox=True)) is None
    assert np.abs(picture[40, 20].astype(int) - np.rint(np.array(LEFT) * 250 / 255 + 5)).max() <= 1


def shown_of(source: tuple[int, int], size: tuple[int, int], fit: Fit) -> np.ndarray:
    """What is shown of a source whose pixels say where they are: int (2, H, W), −1 in bars; through pictures."""
    grid = np.stack([*np.meshgrid(np.arange(source[0]), np.arange(source[1]), indexing="ij"), np.ones(source)], axis=-1)
    resize = resize_letterbox if fit is Fit.LETTERBOX else resize_cover
    seen = resize(grid.astype(np.uint8), *size, interpolation="nearest")
    return np.where(seen[..., 2:] == 1, seen[..., :2].astype(int), -1)


SIZES = st.tuples(st.integers(40, 200), st.integers(40, 200))


@settings(max_examples=60, deadline=None)
@given(source=SIZES, made_at=SIZES, used_at=SIZES, made_fit=st.sampled_from(Fit), used_fit=st.sampled_from(Fit))
def test_every_pixel_takes_what_was_seen_at_its_place(source, made_at, used_at, made_fit, used_fit):
    before, now = (
        Fitted(source=source, size=size, fit=fit) for size, fit in ((made_at, made_fit), (used_at, used_fit))
    )
    try:
        found = places(before, now, "the picture")
    except InputError:
        assume(False)
    taken = found.pick(shown_of(source, made_at, made_fit)[None], -1)[0]
    wanted = shown_of(source, used_at, used_fit)
    assert ((taken < 0) == (wanted < 0)).mean() > 0.97  # a bar's edge may lie half a pixel off
    there = (taken >= 0).all(axis=-1) & (wanted >= 0).all(axis=-1)
    step = max(source[0] / made_at[0], source[1] / made_at[1], 1) + 1
    off = np.abs(taken - wanted)[there].max(axis=-1)
    inner = off <= step + 0.06 * max(source)  # only what continues an edge lies further off
    assert inner.all()
    assert np.median(off) <= step
