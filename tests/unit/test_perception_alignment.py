"""Which mask frame belongs to which frame of the clip: constant and variable rates, stored pictures and held frames."""

from fractions import Fraction

import av
import numpy as np
import pytest
from film_samples import write_film
from PIL import Image

from scail2.errors import InputError
from scail2.masks import BindingSlot
from scail2.modes import AnimationMode
from scail2.perception.driving_video import DrivingVideo
from scail2.perception.make import find_masks
from scail2.perception.segmenters.given import GivenMasks, PictureFrames
from scail2.pipeline.inputs import driving_mask_footage
from scail2.request.masks import MaskRequest
from scail2.segments import SegmentPlan
from scail2.video import FirstFrames, VideoReader, VideoWriter

SIZE, COUNT = (48, 64), 30
CLOCK = Fraction(1, 30)
# Ten slow pictures, then twenty quick ones: 30 pictures in 50 thirtieths, so that the mean rate gives 30 frames as well.
UNEVEN = [*range(0, 30, 3), *range(30, 50)]


def mask_frames(count: int = COUNT) -> np.ndarray:
    """Palette frames: in frame k the character begins in column k."""
    frames = np.zeros((count, *SIZE, 3), np.uint8)
    for index in range(count):
        frames[index, 10:40, index : index + 4] = BindingSlot.BLUE.rgb
    return frames


def write_mask(path, frames: np.ndarray, fps=Fraction(18)):
    with VideoWriter(path, Fraction(fps), SIZE, codec="png" if path.suffix == "" else "ffv1") as writer:
        writer.write(frames)
    return path


def write_uneven_mask(path, frames: np.ndarray, times: list[int]):
    with av.open(str(path), "w") as film:
        stream = film.add_stream("ffv1", rate=30)
        stream.height, stream.width, stream.pix_fmt = *SIZE, "bgr0"
        stream.codec_context.time_base = CLOCK
        for rgb, time in zip(frames, times, strict=True):
            frame = av.VideoFrame.from_ndarray(rgb, format="rgb24").reformat(format="bgr0")
            frame.pts, frame.time_base = time, CLOCK
            film.mux(stream.encode(frame))
        film.mux(stream.encode())
    return path


def columns(mask, clip, **options) -> list[int]:
    """Where the character begins in each frame of the clip."""
    found = GivenMasks([mask], **options).segment(clip)
    (track,) = [track for track in found.tracks if track.first_frame >= 0]
    return [int(box[0]) for box in track.boxes]


@pytest.fixture(scope="module")
def uneven(tmp_path_factory):
    path = tmp_path_factory.mktemp("films") / "uneven.mkv"
    return write_film(path, COUNT, times=UNEVEN, time_base=CLOCK, fps=30)


@pytest.fixture(scope="module")
def even(tmp_path_factory):
    return write_film(tmp_path_factory.mktemp("films") / "even.mkv", COUNT, fps=18)


@pytest.mark.parametrize("fps", [None, 16, 30, 60])
@pytest.mark.parametrize("name", ["m", "m.mkv"])
def test_one_mask_for_each_stored_picture_of_an_uneven_film(uneven, tmp_path, name, fps):
    clip = VideoReader(uneven, fps=fps)
    shown = clip.source_indices.tolist()
    assert (len(clip) == COUNT) == (fps is None)
    assert shown != list(range(len(clip)))
    assert columns(write_mask(tmp_path / name, mask_frames()), clip) == shown


def test_it_is_said_what_an_ambiguous_mask_was_taken_for(uneven, even, tmp_path):
    mask = write_mask(tmp_path / "m.mkv", mask_frames())
    (warning,) = GivenMasks([mask]).segment(VideoReader(uneven)).warnings
    assert "uneven.mkv has a variable frame rate: the 30 frames of the mask m.mkv" in warning
    grey = write_mask(tmp_path / "grey.mkv", np.repeat(mask_frames().max(axis=-1, keepdims=True), 3, axis=-1))
    assert GivenMasks([grey]).segment(VideoReader(uneven)).warnings == (warning.replace("m.mkv", "grey.mkv"),)
    assert not GivenMasks([mask]).segment(VideoReader(uneven, fps=16)).warnings
    assert not GivenMasks([mask]).segment(VideoReader(even)).warnings


@pytest.mark.parametrize("fps", [None, 9, 16, 36])
def test_one_mask_for_each_picture_of_an_even_film(even, tmp_path, fps):
    clip = VideoReader(even, fps=fps)
    assert columns(write_mask(tmp_path / "m", mask_frames()), clip) == [
        int(k * 18 / clip.fps) for k in range(len(clip))
    ]


def test_one_mask_for_each_frame_of_the_resampled_clip(uneven, tmp_path):
    clip = VideoReader(uneven, fps=16)
    assert len(clip) == 27
    assert columns(write_mask(tmp_path / "m.mkv", mask_frames(27), 16), clip) == list(range(27))


@pytest.mark.parametrize("fps", [None, 16, 30])
def test_an_uneven_mask_follows_its_uneven_film(uneven, tmp_path, fps):
    mask = write_uneven_mask(tmp_path / "m.mkv", mask_frames(), UNEVEN)
    assert VideoReader(mask).source_info.variable_rate
    clip = VideoReader(uneven, fps=fps)
    assert columns(mask, clip) == clip.source_indices.tolist()


def test_an_uneven_mask_shows_its_last_picture_to_the_end_of_the_film(tmp_path):
    """How long the last picture is on show is stored by some forms and not by others: the mask may end before."""
    times = [0, 90, 160, 300, 330, 400, 520, 560, 700]
    frames = mask_frames(len(times))
    mask = write_uneven_mask(tmp_path / "m.mkv", frames, times)
    film = write_film(tmp_path / "film.mkv", len(times) + 1, times=[*times, times[-1] + 220], time_base=CLOCK, fps=30)
    clip = VideoReader(film)
    assert VideoReader(mask, fps=clip.fps).source_indices[-1] < len(times) - 1
    shown = [min(index, len(times) - 1) for index in clip.source_indices.tolist()]
    assert shown.count(len(times) - 1) > 1
    assert columns(mask, clip) == shown


def test_gaps_in_a_folder_of_masks_are_told(even, tmp_path):
    folder = write_mask(tmp_path / "m", mask_frames())
    for path in sorted(folder.iterdir(), reverse=True)[:10]:
        number = int(path.stem.rpartition("_")[2])
        path.rename(path.with_name(f"frame_{number + 1:06d}.png"))
    (warning,) = GivenMasks([folder]).segment(VideoReader(even)).warnings
    assert "1 number is missing among its pictures" in warning


@pytest.mark.parametrize("fps", [None, 9, 36])
def test_an_uneven_mask_follows_an_even_film_by_time(even, tmp_path, fps):
    # As if the film had been brought to a constant rate after the mask was made: both last 50 thirtieths of a second.
    mask = write_uneven_mask(tmp_path / "m.mkv", mask_frames(), UNEVEN)
    clip = VideoReader(even, fps=fps)
    ticks = [k * 30 / clip.fps for k in range(len(clip))]
    assert columns(mask, clip) == [max(i for i, t in enumerate(UNEVEN) if t <= tick) for tick in ticks]


def test_an_uneven_mask_of_another_number_of_pictures(uneven, tmp_path):
    times = [time for time in UNEVEN if time not in (6, 9, 33, 34, 45)]
    mask = write_uneven_mask(tmp_path / "m.mkv", mask_frames(25), times)
    clip = VideoReader(uneven, fps=30)
    assert columns(mask, clip) == [max(i for i, t in enumerate(times) if t <= k) for k in range(50)]


def test_an_uneven_mask_of_another_duration_is_refused(uneven, tmp_path):
    mask = write_uneven_mask(tmp_path / "m.mkv", mask_frames(), [2 * time for time in UNEVEN])
    for fps in (None, 16):
        with pytest.raises(InputError, match=r"m\.mkv lasts 3\.\d+ s but the clip 1\.6\d s"):
            GivenMasks([mask]).segment(VideoReader(uneven, fps=fps))


def test_the_first_frames_of_a_film_keep_their_masks(uneven, tmp_path):
    stored = write_mask(tmp_path / "stored", mask_frames())
    timed = write_uneven_mask(tmp_path / "timed.mkv", mask_frames(), UNEVEN)
    clip = VideoReader(uneven, fps=60)
    # As many frames as stored pictures: still no reason to take one for one.
    cut = FirstFrames(clip, COUNT)
    for mask in (stored, timed):
        assert columns(mask, cut, fps=clip.fps) == clip.source_indices[:COUNT].tolist()


@pytest.mark.parametrize("fps", [None, 16])
def test_the_mask_of_a_masks_folder_belongs_to_times(uneven, tmp_path, fps):
    # `scail2 masks` writes one frame for each frame of the held film: 30 of them here too.
    (tmp_path / "tracks.json").write_text('{"fps": "18", "frames": 30}')
    clip = VideoReader(uneven, fps=fps)
    expected = [int(k * 18 / clip.fps) for k in range(len(clip))]
    assert columns(write_mask(tmp_path / "driving_mask.mkv", mask_frames()), clip) == expected
    assert columns(write_mask(tmp_path / "driving_mask", mask_frames()), clip) == expected


def test_a_single_mask_for_a_picture(tmp_path):
    picture = np.zeros((*SIZE, 3), np.uint8)
    Image.fromarray(mask_frames(1)[0]).save(tmp_path / "m.png")
    assert columns(tmp_path / "m.png", PictureFrames(picture)) == [0]


def test_the_mask_stage_passes_the_rate_on(uneven, tmp_path):
    mask = write_uneven_mask(tmp_path / "m.mkv", mask_frames(), UNEVEN)
    reference = np.full((*SIZE, 3), 255, np.uint8)
    reference[10:40, 20:40] = BindingSlot.BLUE.rgb
    Image.fromarray(reference).save(tmp_path / "reference_mask.png")
    clip = VideoReader(uneven, fps=60)
    Image.fromarray(np.zeros((*SIZE, 3), np.uint8)).save(tmp_path / "reference.png")
    request = MaskRequest(
        reference=tmp_path / "reference.png",
        driving=uneven,
        reference_mask=(tmp_path / "reference_mask.png",),
        driving_mask=(mask,),
    )
    frames = FirstFrames(clip, COUNT)
    driving = DrivingVideo(frames=frames, fps=clip.fps, source_fps=None, segments=SegmentPlan.of(COUNT))
    made = find_masks(request, driving, tmp_path / "store", sources={})
    (track,) = [each for each in made.masks.driving.tracks if each.first_frame >= 0]
    assert [int(box[0]) for box in track.boxes] == clip.source_indices[:COUNT].tolist()


ASPECT = Fraction(118, 81)  # 64 stored columns are 93.2 square ones: FFmpeg makes 93 of them, others 94


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    def widen(stream):
        stream.sample_aspect_ratio = stream.codec_context.sample_aspect_ratio = ASPECT

    return write_film(tmp_path_factory.mktemp("films") / "wide.mp4", 8, prepare=widen)


@pytest.mark.parametrize("width", [64, 93, 94])
@pytest.mark.parametrize("size", [None, (96, 186), (24, 42)])
def test_masks_of_a_film_whose_pixels_are_not_square(wide, tmp_path, width, size):
    """Stored size, shown size, or shown size as another program rounds it: the character is where the film shows it."""
    frames = mask_frames(8)
    stored = np.minimum((np.arange(width) + 0.5) * 64 / width, 63).astype(int)
    with VideoWriter(tmp_path / "mask.mkv", 16, (48, width), codec="ffv1") as writer:
        writer.write(frames[:, :, stored])
    with VideoReader(wide, size=size) as clip:
        found = GivenMasks([tmp_path / "mask.mkv"], original=(48, 93)).segment(clip)
        (track,) = [track for track in found.tracks if track.first_frame >= 0]
        scale = clip.height / 48
        cut = (93 * scale - clip.width) / 2
        for index, box in enumerate(track.boxes):
            left, right = (k * 93 / 64 * scale - cut for k in (index, index + 4))
            if left > 2:
                assert abs(box[0] - left) <= 1.5 * scale
                assert abs(box[2] - right) <= 1.5 * scale
            assert abs(box[1] - 10 * scale) <= 1


def test_a_mask_of_no_size_of_the_film_is_refused(wide, tmp_path):
    with VideoWriter(tmp_path / "mask.mkv", 16, (48, 80), codec="ffv1") as writer:
        writer.write(np.zeros((8, 48, 80, 3), np.uint8))
    with pytest.raises(InputError, match="80x48 pixels but the picture it masks is 64x48 or 93x48"):
        GivenMasks([tmp_path / "mask.mkv"], original=(48, 93)).segment(VideoReader(wide))


def test_the_python_door_takes_masks_in_stored_pixels(wide, tmp_path):
    stored = mask_frames(8)
    shown = stored[:, :, ((np.arange(93) + 0.5) * 64 / 93).astype(int)]
    film = VideoReader(wide)
    windows = [
        driving_mask_footage(frames, (48, 93), 8, AnimationMode.ANIMATION, film).window(0, 8)
        for frames in (stored, shown)
    ]
    np.testing.assert_array_equal(windows[0], windows[1])
    np.testing.assert_array_equal(windows[1], shown)
