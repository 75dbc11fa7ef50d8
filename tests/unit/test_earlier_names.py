"""Requests and runs of earlier versions, under the names that settings had then.

`tests/media/earlier_run` is a run of `/tmp/films` that was stopped in its second of three segments, as the version before
the renaming left it: every earlier name is in it.
"""

import json
import shutil
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from run_material import make_request
from tiny import SIZE, bare_pipeline

from scail2.errors import InputError
from scail2.models.transformer import NUM_TRAIN_TIMESTEPS
from scail2.pipeline.options import StreamOptions
from scail2.request.animation import MOST_STEPS, PIPELINE_OPTIONS, AnimationRequest
from scail2.request.names import EARLIER_NAMES
from scail2.runs import RunDirectory
from scail2.runs.model import read_facts
from scail2.runs.sealed import read_sealed, write_sealed

EARLIER = Path(__file__).parents[1] / "media" / "earlier_run"
PRESENT = {
    "num_inference_steps": 3,
    "segment_frame_length": 9,
    "prev_segment_conditioning_frames": 1,
    "black_out_reference": False,
}


def drawn_pipeline():
    """A tiny pipeline whose weights are a formula, the same on every machine: the earlier run was rendered with it."""
    pipe = bare_pipeline(native_height=SIZE, native_width=SIZE)
    with torch.no_grad():
        for module in (pipe.transformer, pipe.vae):
            for tensor in module.state_dict().values():
                if tensor.is_floating_point():
                    numbers = torch.arange(tensor.numel()) * 37 + tensor.numel()
                    tensor.copy_((numbers % 101 - 50).to(tensor.dtype).div(256).reshape(tensor.shape))
    return pipe


@pytest.fixture
def films(tmp_path):
    """The earlier run's folder, its files where this test has them."""
    shutil.copytree(EARLIER, tmp_path / "films")
    path = tmp_path / "films" / "film.run" / "request.json"
    told = path.read_text(encoding="utf-8").replace("/tmp/films", str(tmp_path / "films"))
    values = json.loads(told)
    del values["seal"]
    write_sealed(path, values)
    return tmp_path / "films"


def test_the_earlier_run_has_every_earlier_name():
    written = json.loads((EARLIER / "film.run" / "request.json").read_text(encoding="utf-8"))
    assert {each.name for each in EARLIER_NAMES} <= written.keys()
    assert not {each.field for each in EARLIER_NAMES} & written.keys()


def test_an_earlier_request_means_what_it_meant(films):
    run = RunDirectory.open(films / "film.run")
    assert {name: getattr(run.request, name) for name in PRESENT} == PRESENT
    assert run.request.additional_reference_masks == (films / "reference_mask.png",)
    assert AnimationRequest.from_json(run.request.to_json()) == run.request


def test_an_earlier_run_goes_on_with_what_it_had(films):
    run, events = RunDirectory.open(films / "film.run"), []
    kept = {
        path.relative_to(run.path): path.read_bytes()
        for folder in ("masks", "segments/000")
        for path in (run.path / folder).iterdir()
        if path.name != "metrics.json"  # later versions measure more
    }
    facts, noted = read_facts(run.path), read_sealed(run.path / "stages.json", dict)
    run.resume(drawn_pipeline(), events=events.append)
    told = {
        name: [event.facts["segment"] for event in events if event.name == f"segment_{name}"]
        for name in ("skipped", "started", "finished")
    }
    assert told == {"skipped": [0], "started": [1, 2], "finished": [1, 2]}
    assert "stage_skipped" in [event.name for event in events]
    assert kept == {path: (run.path / path).read_bytes() for path in kept}
    assert read_sealed(run.path / "stages.json", dict)["masks"] == noted["masks"]
    assert read_facts(run.path) == facts
    again = RunDirectory.create(films / "again.run", run.request.with_changes(output=films / "again.mkv"))
    again.execute(drawn_pipeline())
    for index in range(3):
        one, other = ((each / "segments" / f"00{index}" / "segment.json") for each in (run.path, again.path))
        assert json.loads(one.read_text())["key"] == json.loads(other.read_text())["key"]


def test_facts_of_a_model_are_read_under_their_earlier_names():
    facts = read_facts(EARLIER / "film.run")
    assert (facts.segment_frame_length, facts.prev_segment_conditioning_frames, facts.native_size) == (9, 5, (32, 32))


def test_a_settings_file_may_use_options_earlier_names_and_fields(tmp_path):
    file = tmp_path / "run.toml"
    rest = 'reference = "a.png"\ndriving = "b.mp4"\noutput = "c.mp4"\n'
    for names in (
        "steps = 3\nsegment_frames = 9\noverlap = 1\nkeep_reference_background = true",
        "steps = 3\nsegment-frames = 9\noverlap = 1\nkeep-reference-background = true",
        "num_inference_steps = 3\nsegment-frame-length = 9\nprev_segment_conditioning_frames = 1\nblack-out-reference = false",
    ):
        file.write_text(rest + names)
        request = AnimationRequest.from_toml(file)
        assert {name: getattr(request, name) for name in PRESENT} == PRESENT
    file.write_text(rest + "keep-reference-background = 1")
    with pytest.raises(
        InputError, match=r"'black_out_reference' \(--black-out-reference\) must be true or false, not 1"
    ):
        AnimationRequest.from_toml(file)
    for twice in (
        "steps = 3\nnum_inference_steps = 3",
        "black_out_reference = true\nkeep-reference-background = false",
    ):
        file.write_text(rest + twice)
        with pytest.raises(InputError, match="is stated twice in"):
            AnimationRequest.from_toml(file)


def test_a_request_hands_the_pipeline_its_own_words(tmp_path):
    request = make_request(tmp_path, frames=9, seed=3, black_out_reference=False)
    pipeline = {each.name for each in fields(StreamOptions)}
    files = {"additional_references", "additional_reference_masks"}
    assert set(PIPELINE_OPTIONS) == (pipeline & {each.name for each in fields(AnimationRequest)}) - files
    assert MOST_STEPS == NUM_TRAIN_TIMESTEPS
    options = StreamOptions(**request.pipeline_options())
    assert (options.mode, options.num_inference_steps, options.black_out_reference) == ("animation", 2, False)
