"""The mask store, label maps on disk, following instances, and what checks find in masks."""

import dataclasses
import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scail2.errors import InputError
from scail2.masks import BindingSlot
from scail2.modes import MODE_TRAITS, AnimationMode
from scail2.perception.binding import bind
from scail2.perception.bound_masks import BoundMasks
from scail2.perception.checks import validate
from scail2.perception.segmenters.following import Follower, components
from scail2.perception.store import MaskStore, paint
from scail2.perception.tracks import StoredLabels, TrackedMasks, TrackRecorder, relabel

HEIGHT, WIDTH, FRAMES = 48, 80, 40


def two_walkers(frames: int = FRAMES) -> np.ndarray:
    """Label maps of two characters, the first walking right."""
    labels = np.zeros((frames, HEIGHT, WIDTH), np.uint8)
    for index in range(frames):
        labels[index, 8:40, 4 + index // 4 : 16 + index // 4] = 1
        labels[index, 6:44, 50:66] = 2
    return labels


def tracked(labels: np.ndarray, directory=None, **named) -> TrackedMasks:
    recorder = TrackRecorder(directory, height=labels.shape[1], width=labels.shape[2])
    for start in range(0, len(labels), 7):
        recorder.add(labels[start : start + 7])
    return recorder.finish("test", **named)


SOURCES = {"reference": "aa", "driving": "bb"}


def bound(labels: np.ndarray | None = None, mode: AnimationMode = AnimationMode.ANIMATION, **named) -> BoundMasks:
    labels = two_walkers() if labels is None else labels
    reference, driving = tracked(labels[:1]), tracked(labels)
    return BoundMasks(mode=mode, reference=reference, driving=driving, binding=bind(reference, driving), **named)


def write(directory: Path, sources: dict[str, str] = SOURCES) -> MaskStore:
    return MaskStore.write(directory, bound(), fps=Fraction(16), sources=sources)


@pytest.fixture
def store(tmp_path) -> MaskStore:
    return write(tmp_path / "masks")


# ---- label maps -----------------------------------------------------------------------------------------------------


def test_stored_labels_read_back_in_any_window(tmp_path):
    labels = two_walkers(75)
    found = tracked(labels, tmp_path)
    assert isinstance(found.labels, StoredLabels)
    for start, stop in ((0, 75), (30, 35), (31, 33), (64, 75), (74, 75), (5, 5)):
        assert np.array_equal(found.labels.labels(start, stop), labels[start:stop])
    assert found.masks(3, 5).shape == (2, 2, HEIGHT, WIDTH)


def test_tracks_measure_boxes_spans_and_late_arrivals():
    labels = two_walkers(20)
    labels[:9][labels[:9] == 2] = 0
    labels[12:14][labels[12:14] == 2] = 0
    late = tracked(labels).tracks[1]
    assert (late.first_frame, late.last_frame) == (9, 19)
    assert late.spans() == [(9, 12), (14, 20)]
    assert late.boxes[9].tolist() == [50, 6, 66, 44]
    assert np.isnan(late.boxes[0]).all()
    assert late.confidence[9] == 1
    assert np.isnan(late.confidence[0])


def test_relabel_keeps_only_the_named_characters():
    found = relabel(tracked(two_walkers(5)), [2])
    assert len(found.tracks) == 1
    assert found.tracks[0].boxes[0].tolist() == [50, 6, 66, 44]
    assert set(np.unique(found.labels.labels(0, 5))) == {0, 1}
    with pytest.raises(InputError, match="no character 3"):
        relabel(found, [3])


# ---- the store ------------------------------------------------------------------------------------------------------


def test_store_is_lossless_and_polarised_by_mode(store):
    labels = two_walkers()
    slots = {1: BindingSlot.BLUE, 2: BindingSlot.RED}
    assert np.array_equal(store.driving.frames(0, FRAMES), paint(labels, slots, "black"))
    assert np.array_equal(store.reference, paint(labels[:1], slots, "white")[0])
    other = store.driving_for(AnimationMode.REPLACEMENT).frames(10, 20)
    assert np.array_equal(other, paint(labels[10:20], slots, "white"))
    assert store.reference_for(AnimationMode.REPLACEMENT)[0, 0].tolist() == [0, 0, 0]


def test_track_file_says_who_is_who(store):
    info = json.loads((store.directory / "tracks.json").read_text())
    assert [track["slot"] for track in info["driving"]] == ["blue", "red"]
    assert info["driving"][0]["boxes"][4] == [5, 8, 17, 40]
    assert info["binding"]["pairs"][0] == {"driving": 1, "reference": 1, "slot": "blue"}
    assert (info["frames"], info["fps"], info["sources"]) == (FRAMES, "16", {"reference": "aa", "driving": "bb"})
    assert store.binding == bound().binding
    assert write(store.directory, {"reference": "aa", "driving": "cc"}).source_hash != store.source_hash


def test_frozen_masks_are_neither_overwritten_nor_changed_unnoticed(store):
    store.freeze()
    with pytest.raises(InputError, match="frozen"):
        write(store.directory)
    MaskStore(store.directory).verify()
    picture = store.reference
    picture[0, 0] = BindingSlot.GREEN.rgb
    Image.fromarray(picture).save(store.directory / "reference_mask.png")
    with pytest.raises(InputError, match="changed after they were frozen"):
        MaskStore(store.directory).verify()
    store.unfreeze()
    write(store.directory)


def test_edited_frames_win_and_pack_again(store):
    before = store.content_hash()
    folder = store.unpack()
    frame = np.asarray(Image.open(folder / "000003.png")).copy()
    frame[20:30, 70:78] = BindingSlot.GREEN.rgb
    frame[20:30, 69] = (0, 130, 0)  # a soft brush
    Image.fromarray(frame).save(folder / "000003.png")
    edited = MaskStore(store.directory)
    shown = edited.driving.frames(3, 4)[0]
    assert shown[25, 75].tolist() == [0, 255, 0]
    assert shown[25, 69].tolist() == [0, 255, 0]
    assert edited.content_hash() != before
    _, driving = edited.measure()
    assert {track.slot for track in driving.tracks if track.first_frame >= 0} >= {BindingSlot.GREEN}
    edited.pack()
    assert not folder.exists()
    assert np.array_equal(MaskStore(store.directory).driving.frames(3, 4)[0], shown)


def test_a_frame_erased_in_the_other_background_is_taken_for_what_is_meant(store):
    before = store.driving.frames(3, 4)
    folder = store.unpack()
    erased = before[0].copy()
    erased[(erased == 0).all(axis=-1)] = 255
    Image.fromarray(erased).save(folder / "000003.png")
    edited = MaskStore(store.directory)
    assert np.array_equal(edited.driving.frames(3, 4), before)
    assert np.array_equal(edited.driving_for(AnimationMode.REPLACEMENT).frames(3, 4)[0], erased)
    _, driving = edited.measure()
    assert "a white background in frames 3 and a black one elsewhere: black is meant." in driving.warnings[0]
    edited.pack()
    assert np.array_equal(MaskStore(store.directory).driving.frames(3, 4), before)
    with pytest.raises(InputError, match="there is nothing to pack"):
        MaskStore(store.directory).pack()


def test_a_reference_mask_of_another_size_is_refused_not_cropped(store):
    path = store.directory / "reference_mask.png"
    Image.open(path).rotate(90, expand=True).save(path)
    for look in (lambda: store.reference, store.measure, store.freeze):
        with pytest.raises(InputError, match=f"is {HEIGHT}x{WIDTH}, but was made as {WIDTH}x{HEIGHT}"):
            look()
    path.unlink()
    with pytest.raises(InputError, match="holds no reference_mask"):
        store.freeze()
    assert not MaskStore(store.directory).frozen


@pytest.mark.parametrize("name", ["additional_backgrounds", "warnings", "reference_height"])
def test_every_damaged_word_of_the_track_file_is_named(store, name):
    path = store.directory / "tracks.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: {"not": "this"}}))
    with pytest.raises(InputError, match=f"tracks.json cannot be used: '{name}'"):
        MaskStore(store.directory)


def test_edits_that_change_number_or_palette_are_refused(store):
    folder = store.unpack()
    Image.fromarray(np.full((HEIGHT, WIDTH, 3), (255, 128, 0), np.uint8)).save(folder / "000000.png")
    with pytest.raises(InputError, match=r"rgb\(255, 128, 0\)"):
        MaskStore(store.directory).driving.frames(0, 1)
    (folder / "000000.png").unlink()
    with pytest.raises(InputError, match="keep their number and size"):
        _ = MaskStore(store.directory).driving


def test_folders_that_are_no_store_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"no tracks\.json"):
        MaskStore(tmp_path)
    (tmp_path / "tracks.json").write_text("{")
    with pytest.raises(InputError, match="is not JSON"):
        MaskStore(tmp_path)
    (tmp_path / "tracks.json").write_text('{"version": 99}')
    with pytest.raises(InputError, match="version 1"):
        MaskStore(tmp_path)


# ---- following ------------------------------------------------------------------------------------------------------


def flooded(mask: np.ndarray) -> np.ndarray:
    """Regions of 8 neighbours found pixel by pixel, numbered in the order of their last pixels."""
    numbers, left = np.zeros(mask.shape, int), {tuple(place) for place in np.argwhere(mask).tolist()}
    for place in sorted(left, reverse=True):
        waiting, number = [place] if place in left else [], numbers.max() + 1
        while waiting:
            y, x = waiting.pop()
            if (y, x) in left:
                left.remove((y, x))
                numbers[y, x] = number
                waiting += [(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    return numbers


@pytest.mark.parametrize("share", [0.0, 0.2, 0.4, 0.6, 1.0])
def test_regions_are_those_that_a_flood_fills_from_the_largest(share):
    random = np.random.default_rng(3)
    for height, width in ((1, 9), (9, 1), (12, 17), (24, 24)):
        mask = random.random((height, width)) < share
        found, expected = components(mask), flooded(mask)
        pairs = set(zip(found[mask].tolist(), expected[mask].tolist(), strict=True))
        assert len(pairs) == found.max() == expected.max()  # one number of the one for each of the other
        assert not found[~mask].any()
        sizes = np.bincount(found.ravel())[1:]
        assert (np.diff(sizes) <= 0).all()
        large = components(mask, smallest=4)
        assert np.array_equal(large, np.where(found <= (sizes >= 4).sum(), found, 0))


def test_components_count_regions_from_the_largest():
    mask = np.zeros((12, 12), bool)
    mask[1:3, 1:3] = mask[5:11, 5:11] = True
    mask[3, 3] = True  # touches the first one at a corner
    found = components(mask)
    assert found[8, 8] == 1
    assert found[1, 1] == found[3, 3] == 2
    assert components(mask, smallest=6).max() == 1


def follow(frames: list[np.ndarray], *, limit: int | None = None) -> list[np.ndarray]:
    """Follows instances whose pixels carry their own colour: instance k of a frame is drawn with value 10 k."""
    follower = Follower(limit)
    shades = [np.repeat((frame * 60)[..., None], 3, axis=2) for frame in frames]
    renumbered = [np.where(frame > 0, 5 - frame, 0).astype(np.int32) for frame in frames]
    return [follower.follow(rgb, instances) for rgb, instances in zip(shades, renumbered, strict=True)]


def test_followed_numbers_stay_with_their_person():
    labels = follow(list(two_walkers(20)))
    assert all(np.array_equal(frame > 0, two_walkers(20)[i] > 0) for i, frame in enumerate(labels))
    left, right = labels[0][20, 8], labels[0][20, 58]
    assert left != right
    assert all(frame[20, 13] == left and frame[20, 58] == right for frame in labels)


def test_who_comes_back_keeps_the_number():
    frames = list(two_walkers(30))
    for frame in frames[5:20]:
        frame[frame == 2] = 0
    for frame in frames[20:]:
        frame[frame == 2] = 0
        frame[6:44, 28:40] = 2  # back at another place
    labels = follow(frames)
    assert labels[25][20, 33] == labels[0][20, 58]


def test_touching_characters_are_divided():
    frames = list(two_walkers(12))
    merged = (frames[8] > 0).astype(np.uint8)
    merged[20:24, 4:66] = 1
    frames[8] = merged
    labels = follow(frames)
    assert labels[8][10, 10] == labels[7][10, 10]
    assert labels[8][10, 58] == labels[7][10, 58]
    assert labels[9][10, 58] == labels[7][10, 58]


def test_a_broken_off_piece_stays_with_its_character():
    frames = list(two_walkers(6))
    frames[4][34:40, 4:17] = np.where(frames[4][34:40, 4:17] == 1, 3, 0)
    labels = follow(frames)
    assert labels[4][37, 8] == labels[4][20, 8]


def test_no_more_characters_than_expected():
    frames = list(two_walkers(6))
    frames[3][2:5, 70:78] = 4
    assert max(int(frame.max()) for frame in follow(frames, limit=2)) == 2
    assert max(int(frame.max()) for frame in follow(frames)) == 3


# ---- checks ---------------------------------------------------------------------------------------------------------


def codes(labels: np.ndarray, reference: np.ndarray | None = None, **named) -> set[str]:
    shown, moved = tracked(labels[:1] if reference is None else reference), tracked(labels)
    masks = BoundMasks(
        mode=AnimationMode.ANIMATION, reference=shown, driving=moved, binding=bind(shown, moved), **named
    )
    return {each.code for each in validate.check_masks(masks)} - {"binding"}


def test_good_masks_give_no_findings():
    assert codes(two_walkers()) == set()


def test_swapped_colours_are_found():
    labels = two_walkers()
    labels[20:] = np.array([0, 2, 1], np.uint8)[labels[20:]]
    shown = tracked(two_walkers())
    assert not validate.check_swaps(shown)
    (finding,) = validate.check_swaps(tracked(labels))
    assert finding.code == "colour_flicker"
    assert finding.severity == "error"
    assert finding.frames == ((20, 21),)


def test_holes_entries_and_exits_are_told_apart():
    labels = two_walkers()
    labels[10:12][labels[10:12] == 1] = 0
    labels[:6][labels[:6] == 2] = 0
    found = {each.code: each for each in validate.check_presence(tracked(labels))}
    assert found["missing_frames"].frames == ((10, 12),)
    assert "enters at frame 6" in found["enters_or_leaves"].message


def test_polarity_is_compared_with_the_mode():
    for mode in AnimationMode:
        traits = MODE_TRAITS[mode]
        right = (traits.reference_background, traits.driving_background)
        assert not validate.check_polarity(mode, *right)
        assert len(validate.check_polarity(mode, *reversed(right))) == 2
    (one,) = validate.check_polarity(AnimationMode.ANIMATION, "white", "white")
    assert "driving mask has a white background" in one.message


def test_counts_order_overlap_and_crossing():
    only_one = np.where(two_walkers(1) == 1, 1, 0).astype(np.uint8)
    assert "subject_count" in codes(two_walkers(), only_one)
    crossing = np.zeros((20, HEIGHT, WIDTH), np.uint8)
    for index in range(20):
        crossing[index, 8:40, 2 * index : 2 * index + 12] = 1
        crossing[index, 8:40, 40 - 2 * index : 52 - 2 * index] = 2
    assert {"overlap", "crossing"} <= codes(crossing)
    slots = [BindingSlot.BLUE, BindingSlot.RED]
    shown = tracked(two_walkers(1)[:, :, ::-1].copy(), slots=slots)
    moved = tracked(two_walkers(5), slots=slots)
    assert [each.code for each in validate.check_order(shown, moved, bind(shown, moved))] == ["order"]


def test_a_warning_about_masks_that_were_found_does_not_ask_for_other_files():
    for origin, fix in (("given palette", "give lossless masks"), ("people", "look at these frames in the preview")):
        masks = bound()
        driving = dataclasses.replace(masks.driving, origin=origin, warnings=("something is uncertain",))
        (told,) = [
            each
            for each in validate.check_masks(dataclasses.replace(masks, driving=driving))
            if each.code == "mask_source"
        ]
        assert told.message == "something is uncertain"
        assert told.fix.startswith(fix)
