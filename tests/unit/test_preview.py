"""A preview: whose masks, which size, which frames are on its sheet, and that the run beside it is not touched."""

import shutil

import numpy as np
import pytest
from PIL import Image
from run_material import make_request, save_model, write_video
from tiny import SIZE

from scail2.errors import InputError
from scail2.runs import RunDirectory
from scail2.runs.preview import render_preview, small_size
from scail2.video import VideoReader, resize_cover


def tree(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_preview_has_the_whole_clip_s_masks_and_leaves_the_run_alone(tmp_path):
    model = save_model(tmp_path / "model")
    request = make_request(tmp_path, model=str(model))
    before = set(tmp_path.iterdir())
    made = render_preview(tmp_path / "film.run", request)
    assert {path.name for path in set(tmp_path.iterdir()) - before} == {"film.preview"}
    assert not request.output.exists()
    assert (made.frames, made.size, made.segments) == (9, (SIZE, SIZE), 4)  # 19 frames in segments of 9
    whole = VideoReader(made.masks / "driving_mask.mkv")
    assert len(whole) == 19
    small = VideoReader(tmp_path / "film.preview" / "small.run" / "masks" / "driving_mask.mkv")
    np.testing.assert_array_equal(small.frames(0, 9), whole.frames(0, 9))
    assert made.seconds > 0
    # One segment of 9 frames, then three of 9 that add 4, 4 and 2: four times as much as the preview.
    assert made.counted
    assert made.whole_seconds == pytest.approx(4 * made.seconds, rel=0.1)
    assert "4 segments, will take about" in made.told()[1]

    run = RunDirectory.create(tmp_path / "film.run", request)
    run.execute()
    kept, film = tree(run.path), request.output.read_bytes()
    shutil.rmtree(tmp_path / "film.preview")  # now of a run that is there
    again = render_preview(run.path, request.with_changes(seed=3))
    assert (tree(run.path), request.output.read_bytes()) == (kept, film)
    sheet = np.asarray(Image.open(again.sheet))
    frames = VideoReader(again.film.parent / "small.run" / "segments" / "000" / "frames.mkv").frames(0, 9)
    # The second row's second tile is the first rendered frame, six times as large.
    tile = sheet[6 + 14 + 192 + 6 + 14 :][:192, 6 + 198 :][:, :192]
    np.testing.assert_array_equal(tile, frames[0].repeat(6, axis=0).repeat(6, axis=1))
    first = VideoReader(run.path / "segments" / "000" / "frames.mkv").frames(0, 1)
    assert np.abs(resize_cover(first[0], SIZE, SIZE).astype(int) - frames[0]).max() > 0  # another seed
    with pytest.raises(InputError, match="nearest that does"):
        render_preview(run.path, request.with_changes(height=33))
    assert tree(run.path) == kept


def painted(masks):
    """The driving masks of five frames."""
    return VideoReader(masks / "driving_mask.mkv").frames(0, 5)


def move_over(masks, pixels):
    """Paints everybody somewhere else, and returns the new masks."""
    moved = np.roll(painted(masks), pixels, axis=2)
    write_video(masks / "driving_mask.mkv", moved)
    return moved


def test_a_second_preview_takes_the_run_s_masks_as_they_are_painted_now(tmp_path):
    request = make_request(tmp_path, frames=5, model=str(save_model(tmp_path / "model")))
    run = RunDirectory.create(tmp_path / "film.run", request)
    run.plan()
    render_preview(run.path, request)
    wanted = move_over(run.path / "masks", 5)
    before = tree(run.path)
    made = render_preview(run.path, request)
    np.testing.assert_array_equal(painted(made.masks), wanted)
    assert tree(run.path) == before
    own = move_over(made.masks, 3)  # on the preview's own, to be given to the run with --masks
    np.testing.assert_array_equal(painted(render_preview(run.path, request).masks), own)
    wanted = move_over(run.path / "masks", 7)
    np.testing.assert_array_equal(painted(render_preview(run.path, request).masks), wanted)
    kept = [painted(each) for each in (made.masks.parent / "superseded").glob("masks-*")]
    assert any(np.array_equal(each, own) for each in kept)


def test_a_preview_is_half_as_large_in_the_model_s_steps_and_never_tiny():
    assert small_size((512, 896), (32, 32)) == (256, 448)
    assert small_size((480, 832), (32, 32)) == (256, 416)  # 240 is no multiple of 32
    assert small_size((128, 128), (16, 16)) == (128, 128)
    assert small_size((96, 160), (16, 16)) == (96, 160)
    assert small_size((704, 160), (16, 16)) == (560, 128)
