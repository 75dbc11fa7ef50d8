"""Blurred masks: which pixels are which character after H.264, JPEG, halved colour planes and enlarging; what stays as it is."""

import io
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from scail2.errors import InputError
from scail2.masks import BindingSlot
from scail2.perception.segmenters import snapping
from scail2.perception.segmenters.given import GivenMasks
from scail2.perception.segmenters.snapping import PALETTE_NAMES, PaletteSnapper, nearest
from scail2.perception.store import PaletteFrames
from scail2.video import ArrayFrames, VideoReader

MASKS = Path(__file__).parents[1] / "media" / "masks"
BLACK, WHITE = (0, 0, 0), (255, 255, 255)
COLOURS = {slot.name.lower(): slot.rgb for slot in BindingSlot}


def figures(height: int, width: int, *colours: str, background=BLACK, frames: int = 4, arm: int = 2) -> np.ndarray:
    """A head, a body and outstretched arms ``arm`` pixels thick for each colour, moving right: uint8 (T, H, W, 3)."""
    clip = np.full((frames, height, width, 3), background, np.uint8)
    for index, (frame, number) in enumerate(np.ndindex(frames, len(colours))):
        del index
        x, size = round(width * (number + 0.5 + 0.02 * frame) / len(colours)), height // 2
        ys, xs = np.mgrid[:height, :width]
        head = (ys - height // 4) ** 2 + (xs - x) ** 2 <= (size / 7) ** 2
        body = (abs(xs - x) <= size // 8) & (ys >= height // 4) & (ys < height // 4 + size)
        arms = (abs(xs - x) <= size // 3) & (ys >= height // 2) & (ys < height // 2 + arm)
        clip[frame, head | body | arms] = COLOURS[colours[number]]
    return clip


def coded(path: Path, clip: np.ndarray, codec: str, **options: str) -> np.ndarray:
    """The frames after a codec that stores colour at half the size."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=16, options=options)
        stream.height, stream.width, stream.pix_fmt = *clip.shape[1:3], "yuv420p"
        for picture in clip:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(stream.encode())
    with VideoReader(path) as reader:
        return reader.frames(0, len(reader))


def jpeg(clip: np.ndarray) -> np.ndarray:
    pictures = []
    for picture in clip:
        Image.fromarray(picture).save(file := io.BytesIO(), "JPEG", quality=75)
        pictures.append(np.asarray(Image.open(file)))
    return np.stack(pictures)


def enlarged(clip: np.ndarray, factor: int) -> np.ndarray:
    size = clip.shape[2] * factor, clip.shape[1] * factor
    return np.stack([np.asarray(Image.fromarray(each).resize(size, Image.Resampling.BILINEAR)) for each in clip])


def snap(clip: np.ndarray, *, lossy: bool) -> np.ndarray:
    snapper = PaletteSnapper(lossy=lossy, where="the mask")
    snapper.learn(clip)
    return snapper.snap(clip)


def names(rows: np.ndarray) -> set[str]:
    return {PALETTE_NAMES[row] for row in np.unique(rows)}


def rows_of(clip: np.ndarray) -> np.ndarray:
    rows, distance = nearest(clip)
    assert not distance.any()
    return rows


@pytest.mark.parametrize("background", [BLACK, WHITE])
@pytest.mark.parametrize("colours", [("green",), ("yellow",), ("blue", "red"), ("cyan", "magenta", "yellow")])
@pytest.mark.parametrize(("height", "width"), [(64, 48), (256, 256)])
def test_blurred_edges_make_no_characters(tmp_path, height, width, colours, background):
    clip = figures(height, width, *colours, background=background, frames=2, arm=4)
    truth = rows_of(clip)
    edges = np.mean(np.diff(truth, axis=2) != 0) + np.mean(np.diff(truth, axis=1) != 0)
    for blurred, lossy in (
        (coded(tmp_path / "a.mp4", clip, "libx264", crf="20"), True),
        (coded(tmp_path / "b.mp4", clip, "libx264", crf="28"), True),
        (coded(tmp_path / "c.mkv", clip, "ffv1"), False),
        (jpeg(clip), True),
    ):
        found = snap(blurred, lossy=lossy)
        assert names(found) == names(truth)
        # Wrong pixels are a fraction of those that lie on an edge.
        assert np.mean(found != truth) < 0.25 * edges


@pytest.mark.parametrize("factor", [2, 4, 8, 13])
def test_bilinear_enlargement_of_any_factor_is_taken(factor):
    small = figures(32, 48, "blue", "red", background=WHITE, frames=2, arm=3)
    small[:, 18:26, 10:38] = COLOURS["magenta"]  # touches both
    found = snap(enlarged(small, factor), lossy=False)
    truth = rows_of(small).repeat(factor, axis=1).repeat(factor, axis=2)
    assert names(found) == {"white", "blue", "red", "magenta"}
    # Corners are rounded, nothing else.
    assert np.mean(found != truth) < 0.02


def test_ghosts_of_a_colour_that_another_character_has_do_not_join_it(tmp_path):
    clip = figures(128, 256, "magenta", "cyan", background=WHITE, arm=3)
    blurred = coded(tmp_path / "m.mp4", clip, "libx264", crf="28")
    cyan = PALETTE_NAMES.index("cyan")
    truth = rows_of(clip) == cyan
    blurred[0, 40:60, 54:56] = (120, 200, 255)  # between white and magenta, but nearest to the colour of the other one
    assert (nearest(blurred)[0][0, 40:60, 54:56] == cyan).all()
    found = snap(blurred, lossy=True) == cyan
    assert not found[:, :, :100].any()
    assert (found & truth).sum() > 0.97 * truth.sum()


@pytest.mark.parametrize("arm", [1, 2])
def test_thin_limbs_of_exact_masks_stay_to_the_last_pixel(arm):
    clip = figures(48, 64, "blue", "red", arm=arm)
    clip[:, 40, 3] = COLOURS["yellow"]  # a character of one pixel
    for lossy in (False, True):  # a lossless WebP or H.264 is exact, too
        assert np.array_equal(snap(clip, lossy=lossy), rows_of(clip))


def test_thin_limbs_stay_exact_where_only_something_else_was_painted_softly():
    clip = figures(48, 64, "blue", arm=1)
    truth = rows_of(clip)
    clip[1, 44:46, 50:60] = (0, 0, 100)  # a soft stroke at the bottom
    found = snap(clip, lossy=False)
    assert np.array_equal(found, np.where((clip == (0, 0, 100)).all(axis=-1), 0, truth))


@pytest.mark.parametrize("arm", [2, 3])
def test_thin_limbs_survive_h264(tmp_path, arm):
    clip = figures(240, 320, "blue", "red", background=WHITE, arm=arm)
    found = snap(coded(tmp_path / "m.mp4", clip, "libx264", crf="20"), lossy=True)
    truth = rows_of(clip)
    limbs = np.zeros(truth.shape, bool)
    limbs[:, 120 : 120 + arm] = True
    limbs &= truth >= 2
    body = np.zeros(truth.shape, bool)
    body[:, 60:115] = truth[:, 60:115] >= 2
    arms_alone = limbs & ~body.any(axis=1, keepdims=True)
    assert arms_alone.sum() > 200
    assert (found[arms_alone] == truth[arms_alone]).mean() > 0.95


def test_a_colour_counts_in_the_whole_clip_if_it_is_solid_in_some_frame():
    """A character first seen as two soft pixels, far from everybody, and near only later."""
    clip = np.zeros((20, 48, 64, 3), np.uint8)
    clip[:, 10:30, 5:20] = COLOURS["blue"]
    clip[:, 10:30, 4] = (0, 0, 120)
    clip[0, 20, 50:52] = (200, 30, 30)
    clip[19, 20:30, 45:55] = COLOURS["red"]
    snapper = PaletteSnapper(lossy=True, where="the mask")
    for start in (0, 10):
        snapper.learn(clip[start : start + 10])
    found = snapper.snap(clip[:10])
    assert np.argwhere(found[0] == PALETTE_NAMES.index("red")).tolist() == [[20, 50], [20, 51]]
    assert not (found[1:] == PALETTE_NAMES.index("red")).any()
    # Without the frame in which it is solid, the same two pixels are dirt.
    alone = PaletteSnapper(lossy=True, where="the mask")
    alone.learn(clip[:10])
    assert names(alone.snap(clip[:10])) == {"black", "blue"}
    assert "Thin lines of red were taken for blurred edges" in alone.warnings("m.mp4")[0]


def test_pixels_are_counted_in_the_warning():
    clip = figures(48, 64, "blue", arm=3)
    clip[:, 10, 10] = (255, 255, 0)  # exact, but alone in a file with soft edges
    clip[:, 11, 10:13] = (0, 0, 100)
    snapper = PaletteSnapper(lossy=False, where="the mask")
    snapper.learn(clip)
    snapper.snap(clip)
    (sentence,) = snapper.warnings("m.png")
    assert sentence.startswith(f"16 of {4 * 48 * 64} pixels")
    assert "yellow" in sentence


def test_pictures_are_no_masks():
    rng = np.random.default_rng(0)
    smooth = Image.fromarray(rng.integers(0, 256, (8, 10, 3), np.uint8)).resize((160, 120), Image.Resampling.BICUBIC)
    noisy = np.clip(np.asarray(smooth).astype(int) + rng.integers(-4, 5, (120, 160, 3)), 0, 255).astype(np.uint8)
    for lossy in (False, True):
        with pytest.raises(InputError, match="outside the mask palette"):
            snap(noisy[None], lossy=lossy)


def test_frames_painted_softly_in_a_store_are_snapped_by_the_whole_clip():
    clip = figures(48, 64, "blue", frames=40)
    clip[3, 5, 5:9] = (130, 140, 0)  # an olive line; yellow is nobody's colour
    frames = PaletteFrames(ArrayFrames(clip), "the store", ("black", "white"))
    assert {tuple(each) for each in frames.frames(0, 10).reshape(-1, 3)} == {WHITE, COLOURS["blue"]}


# ---- files --------------------------------------------------------------------------------------------------------


def plain_clip() -> ArrayFrames:
    return ArrayFrames(np.full((17, 128, 128, 3), 90, np.uint8))


@pytest.mark.parametrize(
    ("name", "dissolved"),
    [
        ("mask_anim.png", None),
        ("mask_anim.webp", None),
        ("mask_ffv1_yuv420.mkv", ""),
        ("mask_h264_crf19.mp4", "Thin lines of white, cyan were taken"),
    ],
)
def test_every_kind_of_file_shows_the_same_character_in_the_same_pixels(name, dissolved):
    truth = GivenMasks([MASKS / "mask17.mkv"]).segment(plain_clip())
    found = GivenMasks([MASKS / name]).segment(plain_clip())
    assert len(found) == 17
    assert np.array_equal(found.labels.labels(0, 17), truth.labels.labels(0, 17))
    assert {track.slot for track in found.tracks if track.present.any()} == {BindingSlot.GREEN}
    assert [np.array_equal(a.boxes, b.boxes, equal_nan=True) for a, b in zip(found.tracks, truth.tracks, strict=True)]
    if dissolved is None:
        assert not found.warnings
    else:
        assert "pixels" in found.warnings[0]
        assert dissolved in found.warnings[0]


@pytest.mark.parametrize("suffix", [".gif", ".png", ".webp"])
def test_animated_masks_and_their_stills(tmp_path, suffix):
    clip = figures(48, 64, "blue", "red")
    clip[2] = clip[1]  # which animations store once, on show for twice as long
    pictures = [Image.fromarray(each) for each in clip]
    path = tmp_path / f"mask{suffix}"
    options = {"lossless": True} if suffix == ".webp" else {}
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=62, **options)
    found = GivenMasks([path]).segment(ArrayFrames(np.zeros_like(clip)))
    assert np.array_equal(found.labels.labels(0, 4), np.maximum(rows_of(clip), 1) - 1)
    pictures[0].save(still := tmp_path / f"still{suffix}", **options)
    found = GivenMasks([still]).segment(ArrayFrames(np.zeros_like(clip[:1])))
    assert np.array_equal(found.labels.labels(0, 1), np.maximum(rows_of(clip[:1]), 1) - 1)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ((0, 1), "holds only the values 0 and 1, which are both black: write it with 0 and 255"),
        ((0, 1, 2), "holds only the values 0 to 2.*numbers of characters.*1 blue, 2 red"),
        ((0, 100), "is nowhere brighter than 100 of 255"),
    ],
)
def test_masks_of_other_values_are_named_as_that(tmp_path, values, sentence):
    for index in range(3):
        matte = np.zeros((48, 64), np.uint8)
        for number, value in enumerate(values):
            matte[10:30, 10 * number : 10 * number + 10] = value
        Image.fromarray(matte).save(tmp_path / f"{index:03d}.png")
    with pytest.raises(InputError, match=sentence):
        GivenMasks([tmp_path]).segment(ArrayFrames(np.zeros((3, 48, 64, 3), np.uint8)))


def test_masks_of_sixteen_bits_that_hold_numbers_are_named_as_that(tmp_path):
    """Scaled to 8 bits, 1 and 255 of 65535 would be black, and a run without a character would begin."""
    for peak, sentence in ((1, "only the values 0 and 1"), (255, "of 16 bits counts to 65535: save it in 8")):
        matte = np.zeros((48, 64), np.uint16)
        matte[10:30, 10:30] = peak
        Image.fromarray(matte).save(path := tmp_path / f"{peak}.png")
        with pytest.raises(InputError, match=sentence):
            GivenMasks([path]).segment(ArrayFrames(np.zeros((1, 48, 64, 3), np.uint8)))
    matte[10:30, 10:30] = 65535
    Image.fromarray(matte).save(path)
    found = GivenMasks([path]).segment(ArrayFrames(np.zeros((1, 48, 64, 3), np.uint8)))
    assert np.array_equal(found.labels.labels(0, 1)[0], (matte > 0).astype(np.uint8))


def grown_by_sorting(known: np.ndarray, rows: np.ndarray, waiting: np.ndarray, width: int) -> np.ndarray:
    """What `_grow` makes of ``known``, pixel by pixel: a place is reached from a known one of its row two steps away."""
    steps = [y * width + x for y in range(-2, 3) for x in range(-2, 3) if y or x]
    known, open_ = known.copy(), set(waiting.tolist())
    while found := sorted(at for at in open_ if any(known[at + step] == rows[at] for step in steps)):
        known[found] = rows[found]
        open_ -= set(found)
    return known


@pytest.mark.parametrize("seed", range(6))
def test_limbs_are_followed_without_sorting_as_with_it(seed):
    rng = np.random.default_rng(seed)
    height, width, margin, nobody = 20, 24, 4, len(snapping.PALETTE)
    rows = np.zeros((height, width), np.uint8)
    rows[margin:-margin, margin:-margin] = rng.integers(2, 2 + 1 + seed % 3, (height - 2 * margin, width - 2 * margin))
    known = np.full((height, width), nobody, np.uint8)
    places = np.flatnonzero(rows)
    sure = rng.choice(places, 3, replace=False)
    known.ravel()[sure] = rows.ravel()[sure]
    waiting = np.setdiff1d(rng.permutation(places)[: len(places) * 2 // 3], sure)
    expected = grown_by_sorting(known.ravel(), rows.ravel(), waiting, width)
    found = known.ravel().copy()
    snapping._grow(found, rows.ravel(), waiting, width)
    np.testing.assert_array_equal(found, expected)
    assert (found != known.ravel()).any()
