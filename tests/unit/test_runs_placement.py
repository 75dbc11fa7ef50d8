"""Placements in runs: the same film however the model lies in memory, and encoders that are there only while they encode."""

import gc
import json
import shutil
import weakref

import numpy as np
import pytest
import torch
from run_material import make_request
from tiny import SIZE, footage, patch_vae, tiny_pipeline

from scail2 import load_pipeline
from scail2.errors import InputError
from scail2.loading import by_name
from scail2.loading.encoders_in_turn import StoredEncoders
from scail2.request.placement import Placement, PlacementKind
from scail2.runs import RunDirectory
from scail2.runs.segment_store import SegmentStore
from scail2.video import VideoReader

ENCODERS = ("text_encoder", "tokenizer", "image_encoder")


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A model of all real classes as a folder."""
    folder = tmp_path_factory.mktemp("stored") / "model"
    tiny_pipeline(vae=patch_vae(), native_height=SIZE, native_width=SIZE).save_pretrained(folder)
    return folder


@pytest.fixture
def model(stored, tmp_path):
    return shutil.copytree(stored, tmp_path / "model")


def text_request(folder, model, **changes):
    settings = {
        "prompt": "a puppet dances",
        "guidance_scale": 3.0,
        "device": "cpu",
        "frames": 13,
        "num_inference_steps": 1,
    }
    return make_request(folder, model=str(model), **settings | changes)


def contents(run):
    store = SegmentStore(run.path)
    return {index: (store.record(index).frames_sha256, store.state(index).identity()) for index in store.finished()}


def test_every_placement_makes_the_same_film(tmp_path, model):
    found = {}
    for kind in set(PlacementKind) - {PlacementKind.ENCODERS_FIRST}:  # which is what auto comes to on a CPU
        request = text_request(tmp_path, model, placement=kind, frames=5, output=tmp_path / f"{kind}.mkv")
        run = RunDirectory.create(tmp_path / f"{kind}.run", request)
        run.execute()
        found[kind] = (contents(run), VideoReader(request.output).frames(0, 5).tobytes())
    assert len(set(map(str, found.values()))) == 1
    # Nor does it matter whether a run encodes or the pipeline does.
    pipe = load_pipeline(model)
    masks = tmp_path / "auto.run" / "masks"
    output = next(
        pipe.stream(
            picture(masks / "reference.png"),
            VideoReader(tmp_path / "driving.mkv").frames(0, 5),
            picture(masks / "reference_mask.png"),
            VideoReader(masks / "driving_mask.mkv").frames(0, 5),
            mode="animation",
            prompt="a puppet dances",
            guidance_scale=3.0,
            num_inference_steps=1,
            generator=torch.Generator().manual_seed(0),
        )
    )
    state = SegmentStore(tmp_path / "auto.run").state(0)
    assert torch.equal(state.history, output.history)


def picture(path):
    from scail2 import read_image

    return read_image(path)


def test_a_run_goes_on_when_the_encoders_files_are_gone(tmp_path, model):
    request = text_request(tmp_path, model)
    whole = RunDirectory.create(tmp_path / "whole.run", request.with_changes(output=tmp_path / "whole.mp4"))
    whole.execute()

    def stop(event):
        if event.name == "segment_finished":
            raise KeyboardInterrupt

    run = RunDirectory.create(tmp_path / "film.run", request)
    with pytest.raises(KeyboardInterrupt):
        run.execute(events=stop)
    for name in ENCODERS:
        shutil.rmtree(model / name)
    run.resume()
    assert contents(run) == contents(whole)
    run.rerender(1, seed=5, cascade=True)
    assert contents(run)[0] == contents(whole)[0]
    assert contents(run)[1] != contents(whole)[1]
    again = RunDirectory.open(run.path)
    with pytest.raises(InputError, match=r"has no tokenizer any more, and this prompt or picture is not among those"):
        RunDirectory.create(again.path, request.with_changes(prompt="the rain")).execute()


def test_what_is_kept_is_used_only_for_the_same_prompt_picture_and_model(tmp_path, model, monkeypatch):
    loaded = []
    load = StoredEncoders._load

    def noted(self, *names):
        loaded.append(names[0])
        return load(self, *names)

    monkeypatch.setattr(StoredEncoders, "_load", noted)
    request = text_request(tmp_path, model, frames=5)
    run = RunDirectory.create(tmp_path / "film.run", request)
    run.execute()
    assert loaded == ["tokenizer", "image_encoder"]
    RunDirectory.create(run.path, request.with_changes(seed=3)).execute()
    assert loaded == ["tokenizer", "image_encoder"]
    RunDirectory.create(run.path, request.with_changes(prompt="rain")).execute()
    assert len(loaded) == 4
    kept = run.path / "embeddings.safetensors"
    kept.write_bytes(kept.read_bytes()[:-1] + b"x")
    RunDirectory.create(run.path, request.with_changes(prompt="rain", seed=4)).execute()
    assert len(loaded) == 6
    assert json.loads((run.path / "stages.json").read_text())["embeddings"]["sha256"]


def test_encoders_are_freed_before_the_transformer_comes(tmp_path, model, monkeypatch):
    encoders, order = [], []
    place = StoredEncoders._place

    def noted(self, encoder):
        gc.collect()
        assert not [each for each in encoders if each() is not None]
        encoders.append(weakref.ref(encoder))
        order.append(type(encoder).__name__)
        place(self, encoder)

    def loaded(*args, **kwargs):
        gc.collect()
        assert not [each for each in encoders if each() is not None]
        order.append("transformer")
        return original(*args, **kwargs)

    original = by_name._load
    monkeypatch.setattr(StoredEncoders, "_place", noted)
    monkeypatch.setattr(by_name, "_load", loaded)
    RunDirectory.create(tmp_path / "film.run", text_request(tmp_path, model, frames=5)).execute()
    assert order == ["UMT5EncoderModel", "CLIPVisionModel", "transformer"]


def test_a_pipeline_calls_its_encoders_when_it_needs_them(model):
    def frames(pipe, **options):
        settings = {"mode": "animation", "num_inference_steps": 1, "guidance_scale": 2.0} | options
        generator = torch.Generator().manual_seed(0)
        return pipe(**footage(5), **settings, generator=generator, output_type="pt").frames

    expected = frames(load_pipeline(model), prompt="a puppet")
    for kind in ("encoders-first", Placement(kind=PlacementKind.BLOCK_OFFLOAD)):
        pipe = load_pipeline(model, device="cpu", placement=kind)
        assert pipe.text_encoder is None
        assert pipe.image_encoder is None
        assert torch.equal(frames(pipe, prompt="a puppet"), expected)
    bare = load_pipeline(model, encoders=False)
    with pytest.raises(InputError, match="this pipeline has no text encoder: give prompt_embeds"):
        frames(bare, prompt="a puppet")
    with pytest.raises(InputError, match="no placement called 'disk': choose one of auto, resident"):
        load_pipeline(model, placement="disk")


def test_the_same_seed_and_numbers_in_other_storage_are_another_film(tmp_path, model):
    films = []
    for weights in ("fp8", None):
        request = text_request(tmp_path, model, frames=5, weights=weights, output=tmp_path / f"{weights}.mkv")
        run = RunDirectory.create(tmp_path / "film.run", request)
        run.execute()
        films.append(VideoReader(request.output).frames(0, 5))
    assert not np.array_equal(films[0], films[1])
