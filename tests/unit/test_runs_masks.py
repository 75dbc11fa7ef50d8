"""What a run makes of masks: who is seen briefly, and masks that were painted on since they were made."""

import numpy as np
import pytest
import torch
from PIL import Image
from run_material import make_material, write_video
from tiny import SIZE, bare_pipeline

from scail2.errors import InputError
from scail2.masks import BindingSlot
from scail2.request.animation import AnimationRequest
from scail2.runs import RunDirectory
from scail2.video import VideoReader, probe, read_image


@pytest.fixture(scope="module")
def pipe():
    torch.manual_seed(0)
    return bare_pipeline(native_height=SIZE, native_width=SIZE)


def frames_of(path):
    reader = VideoReader(path)
    return reader.frames(0, len(reader))


def test_a_character_seen_briefly_is_rendered(tmp_path, pipe, monkeypatch):
    material = make_material(tmp_path, frames=13, characters=2)
    mask = frames_of(tmp_path / "driving_mask.mkv")
    red = (mask == BindingSlot.RED.rgb).all(axis=-1)
    red[2:4] = False
    mask[red] = 0
    write_video(tmp_path / "driving_mask.mkv", mask)
    monkeypatch.setattr("scail2.pipeline.inputs._JUDGED_FRAMES", 3)
    run = RunDirectory.create(tmp_path / "film.run", AnimationRequest(**material))
    run.execute(pipe)
    assert probe(run.request.output).frames == 13


def test_an_additional_reference_on_black_is_rendered_in_animation(tmp_path, pipe):
    material = make_material(tmp_path, frames=9, characters=2)
    view = tmp_path / "view_mask.png"
    view.write_bytes(material["reference_mask"][0].read_bytes())
    repaint(view, (255, 255, 255), (0, 0, 0))
    views = {"additional_references": (material["reference"],), "additional_reference_masks": (view,)}
    run = RunDirectory.create(tmp_path / "film.run", AnimationRequest(**material | views))
    run.execute(pipe)
    assert np.array_equal(read_image(run.path / "masks" / "additional_mask_1.png"), read_image(view))


def repaint(path, old, new):
    mask = frames_of(path) if path.suffix == ".mkv" else np.asarray(Image.open(path)).copy()
    mask[(mask == old).all(axis=-1)] = new
    write_video(path, mask) if path.suffix == ".mkv" else Image.fromarray(mask).save(path)


@pytest.mark.parametrize(
    ("name", "old", "new", "sentence"),
    [
        ("driving_mask.mkv", (0, 0, 0), (255, 255, 255), "the driving mask has a white background but animation mode"),
        ("reference_mask.png", (255, 255, 255), (0, 0, 0), "the reference mask has a black background"),
        (
            "driving_mask.mkv",
            (255, 0, 0),
            (0, 255, 0),
            "the driving mask shows green, which the reference mask does not",
        ),
        (
            "additional_mask_1.png",
            (255, 0, 0),
            (0, 255, 0),
            "additional reference 1 shows green, in which nobody is bound",
        ),
    ],
)
def test_painting_that_contradicts_mode_or_binding_is_refused(tmp_path, pipe, name, old, new, sentence):
    material = make_material(tmp_path, frames=9, characters=2)
    views = {
        "additional_references": (material["reference"],),
        "additional_reference_masks": material["reference_mask"],
    }
    run = RunDirectory.create(tmp_path / "film.run", AnimationRequest(**material | views))
    run.plan(pipe=pipe)
    repaint(run.path / "masks" / name, old, new)
    with pytest.raises(InputError, match=sentence):
        run.execute(pipe)
    repaint(run.path / "masks" / name, new, old)
    run.plan(pipe=pipe)
