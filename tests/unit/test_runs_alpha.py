"""Runs whose film has transparency: the alpha plane by value, read back by Pillow and FFmpeg, and what is refused first."""

import os
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from run_material import make_material, make_request
from tiny import SIZE, bare_pipeline

from scail2.errors import InputError
from scail2.perception.tracks import TrackRecorder
from scail2.request.animation import AnimationRequest
from scail2.runs import RunDirectory
from scail2.video import VideoReader

FRAMES = 13


@pytest.fixture(scope="module")
def pipe():
    return bare_pipeline(native_height=SIZE, native_width=SIZE)


@pytest.fixture(scope="module", params=["animation", "replacement"])
def run(tmp_path_factory, pipe, request) -> RunDirectory:
    """A rendered run without transparency; its film is written again for every form."""
    folder = tmp_path_factory.mktemp(request.param)
    material = make_material(folder, frames=FRAMES, mode=request.param)
    made = RunDirectory.create(folder / "film.run", AnimationRequest(**material))
    made.execute(pipe)
    return made


def written(run: RunDirectory, pipe, name: str, **changes) -> Path:
    """The run's film in another form; nothing may be rendered for it."""
    output = run.path.with_name(name)
    again = RunDirectory.create(run.path, run.request.with_changes(output=output, **changes))

    def refuse(event):
        assert event.name not in ("segment_started", "step")

    return again.execute(pipe, events=refuse)


def pillow_rgba(path: Path) -> np.ndarray:
    if path.is_dir():
        return np.stack([np.asarray(Image.open(path / name)) for name in sorted(os.listdir(path))])
    with Image.open(path) as film:
        frames = []
        for index in range(film.n_frames):
            film.seek(index)
            frames.append(np.asarray(film.convert("RGBA")))
    return np.stack(frames)


def ffmpeg_rgba(path: Path) -> np.ndarray:
    """With libvpx's own decoder where FFmpeg's drops the alpha plane."""
    with av.open(str(path)) as film:
        stream = film.streams.video[0]
        decoder = av.CodecContext.create("libvpx-vp9", "r") if path.suffix == ".webm" else stream.codec_context
        frames = [frame for packet in film.demux(stream) for frame in decoder.decode(packet if packet.size else None)]
    return np.stack([frame.to_ndarray(format="rgba") for frame in frames])


def characters(mask: np.ndarray) -> np.ndarray:
    """Where a palette mask is neither black nor white."""
    return (mask != mask[..., :1]).any(axis=-1)


def distances(inside: np.ndarray) -> np.ndarray:
    """Pixels from the outline, more inside and less outside, the slow way."""
    y, x = np.mgrid[: inside.shape[0], : inside.shape[1]]
    every = np.stack([y, x], -1).reshape(-1, 1, 2)
    out, into = (np.sqrt(((every - np.argwhere(each)[None]) ** 2).sum(-1)).min(1) for each in (~inside, inside))
    return np.where(inside, out.reshape(inside.shape) - 0.5, 0.5 - into.reshape(inside.shape))


@pytest.mark.parametrize(
    ("name", "tolerance"),
    [("film.mov", 2), ("film.webm", 12), ("frames", 0), ("film.mkv", 0), ("film.webp", 0), ("film.gif", 0)],
)
def test_the_alpha_plane_follows_the_driving_masks(run, pipe, name, tolerance):
    path = written(run, pipe, name, alpha="driving", alpha_erode=1, alpha_feather=2)
    rgba = (ffmpeg_rgba if path.suffix in (".mov", ".webm", ".mkv") else pillow_rgba)(path)
    film = VideoReader(run.request.driving_mask[0]).frames(0, FRAMES)
    inside = characters(film)
    assert rgba.shape == (FRAMES, SIZE, SIZE, 4)
    assert inside.any()
    depth = np.stack([distances(each) for each in inside])
    wanted = 255 * np.clip((depth - 1) / 2 + 0.5, 0, 1)
    if name == "film.gif":
        wanted = np.where(np.rint(wanted) < 128, 0, 255)
    assert np.abs(rgba[..., 3] - wanted).mean() <= max(1.0, tolerance / 4)
    assert (rgba[..., 3][depth <= -2] <= tolerance).all()
    assert (rgba[..., 3][depth >= 4] >= 255 - tolerance).all()
    edge = rgba[..., 3][(depth > 0) & (depth < 1)]
    assert abs(edge.mean() - wanted[(depth > 0) & (depth < 1)].mean()) <= 2 + tolerance
    colours = np.concatenate(
        [VideoReader(run.path / "segments" / f"{i:03d}" / "frames.mkv").frames(0, 4) for i in (1, 0)]
    )
    if name in ("frames", "film.mkv"):  # straight alpha: the picture itself is as it was rendered
        np.testing.assert_array_equal(rgba[9:13, ..., :3], colours[:4])


class _Finder:
    """Finds the film's brighter half as the first and nobody else; notes what it was shown."""

    name = "told"

    def __init__(self, labels: np.ndarray):
        self.labels, self.shown = labels, 0

    def segment(self, frames, prompts=None, *, directory=None, progress=None):
        self.shown = len(frames)
        recorder = TrackRecorder(directory, height=self.labels.shape[1], width=self.labels.shape[2])
        recorder.add(self.labels)
        return recorder.finish("told")


def test_the_outline_of_the_finished_character_is_taken(run, pipe, monkeypatch):
    mask = VideoReader(run.request.driving_mask[0]).frames(0, FRAMES)
    driving = characters(mask)
    wider = np.zeros_like(driving)
    for shift in (-2, -1, 0, 1, 2):
        wider |= np.roll(driving, shift, axis=2)
    finder = _Finder(wider.astype(np.uint8))
    monkeypatch.setattr("scail2.runs.transparency.segmenter_for", lambda request: finder)
    path = written(run, pipe, "own", alpha="output", alpha_erode=0, alpha_feather=0)
    assert finder.shown == FRAMES
    np.testing.assert_array_equal(pillow_rgba(path)[..., 3], np.where(wider, 255, 0))


def test_a_film_whose_character_is_not_found_keeps_what_was_rendered(run, pipe):
    segments = {path: path.read_bytes() for path in (run.path / "segments").rglob("*") if path.is_file()}
    with pytest.raises(
        InputError,
        match=r"finished film cannot be told from .*: .*(no person was found|found no character) in it\. "
        r"Everything rendered is kept.*--alpha driving",
    ):
        written(run, pipe, "nobody", alpha="output")
    assert {path: path.read_bytes() for path in segments} == segments
    assert not run.path.with_name("nobody").exists()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"output": "film.mp4"}, r"\.mp4 files keep no transparency; name the output \.mov .*\.webm .*folder"),
        ({"output": "film.mkv", "codec": "h264"}, r"h264 cannot store transparency"),
        ({"output": "film.avi"}, r"cannot write \.avi"),
        ({"output": "film.webm", "codec": "prores4444"}, r"prores4444 is written to \.mov files"),
    ],
)
def test_forms_without_transparency_are_refused_before_anything(tmp_path, changes, sentence):
    changes = changes | {"output": tmp_path / changes["output"], "alpha": "driving"}
    with pytest.raises(InputError, match=sentence):
        RunDirectory.create(tmp_path / "film.run", make_request(tmp_path / "in", frames=5, **changes))
    assert os.listdir(tmp_path) == ["in"]
