"""A run that is given another request: refused changes leave no trace, and what counts as finished follows the request."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from run_material import make_request, save_lora, save_model
from tiny import SIZE, bare_pipeline

from scail2.errors import InputError
from scail2.loading import placing
from scail2.request.placement import WeightStorage
from scail2.runs import RunDirectory, preparation
from scail2.runs.masking import RefusedPlanError
from scail2.runs.rehearsal import copy_prepared
from scail2.video import VideoReader, probe


@pytest.fixture(scope="module")
def pipe():
    return bare_pipeline(native_height=SIZE, native_width=SIZE)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, pipe) -> Path:
    folder = tmp_path_factory.mktemp("changed")
    RunDirectory.create(folder / "film.run", make_request(folder, frames=13)).execute(pipe)
    return folder


@pytest.fixture
def run(finished, tmp_path) -> RunDirectory:
    """A finished run of two segments, in a place of its own, its request about that place."""
    shutil.copytree(finished, tmp_path / "work")
    for name in ("request.json", "stages.json"):
        path = tmp_path / "work" / "film.run" / name
        values = json.loads(path.read_text().replace(str(finished), str(tmp_path / "work")))
        del values["seal"]
        path.write_text(json.dumps(values))
    return RunDirectory.open(tmp_path / "work" / "film.run")


def tree(folder: Path) -> dict[str, bytes | None]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
        if path.name != ".lock"
    }


def paint_over(path: Path) -> Path:
    """A driving mask without anybody, beside the given one."""
    from run_material import write_video

    frames = VideoReader(path).frames(0, 13)
    return write_video(path.with_name("nobody.mkv"), np.zeros_like(frames))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"height": 33}, "nearest that does"),
        ({"codec": "mpeg1"}, "codec must be one of"),
        ({"codec": "gif"}, "is written to .gif files"),
        ({"mode": "replacement"}, "background"),
        ({"driving_mask": "painted over"}, "the mask of the driving video shows no character"),
    ],
)
def test_a_refused_change_leaves_the_run_as_it_was(run, pipe, changes, sentence):
    if "driving_mask" in changes:
        changes = {"driving_mask": (paint_over(run.request.driving_mask[0]),)}
    before, film = tree(run.path), run.request.output.read_bytes()
    for act in ("execute", "plan"):
        with pytest.raises(InputError, match=sentence):
            getattr(RunDirectory.create(run.path, run.request.with_changes(**changes)), act)(pipe=pipe)
        assert tree(run.path) == before
    assert run.request.output.read_bytes() == film
    again = RunDirectory.open(run.path)
    assert (again.request, again.status().state) == (run.request, "finished")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"attention": "flash"}, "Attention flash needs an NVIDIA GPU"),
        ({"compile": True, "cache": "first-block"}, "--compile and --cache first-block exclude each other"),
        ({"compile": True, "placement": "block-offload"}, "--compile needs weights that stay"),
        ({"weights": "int8"}, "int8 weights need no_such_package: pip install"),
        ({"weights": "stored", "lora": ("adapter.safetensors",)}, "LoRAs are fused into whole numbers"),
    ],
)
def test_what_loading_would_refuse_leaves_the_run_as_it_was(tmp_path, monkeypatch, changes, sentence):
    monkeypatch.setitem(placing._QUANTISERS, WeightStorage.INT8, "no_such_package.quantization")
    request = make_request(tmp_path, frames=5, model=str(save_model(tmp_path / "model")), device="cpu")
    run = RunDirectory.create(tmp_path / "film.run", request)
    run.execute()
    if "lora" in changes:
        lora = save_lora(tmp_path / changes["lora"][0])
        changes = changes | {"lora": (str(lora),)}
    before = tree(run.path)
    for act in ("execute", "plan"):
        with pytest.raises(InputError, match=sentence):
            getattr(RunDirectory.create(run.path, request.with_changes(**changes)), act)()
        assert tree(run.path) == before
    again = RunDirectory.open(run.path).status()
    assert (again.state, again.finished) == ("finished", (0,))


def test_a_refused_rerendering_or_resumption_leaves_the_run_as_it_was(run, pipe):
    before = tree(run.path)
    for act in (
        lambda it: it.rerender(9, pipe=pipe),
        lambda it: it.rerender(0, seed=-1, pipe=pipe),
        lambda it: it.resume(pipe, moved={"lora": ("nowhere.safetensors",)}),
    ):
        with pytest.raises(InputError):
            act(RunDirectory.open(run.path))
        assert tree(run.path) == before
        assert "last attempt" not in dict(run.status().rows())


@pytest.mark.parametrize("act", ["execute", "plan"])
def test_a_first_run_that_is_refused_leaves_no_folder_that_was_not_there(tmp_path, monkeypatch, act):
    (tmp_path / "bad.safetensors").write_bytes(b"no weights")
    model = str(save_model(tmp_path / "model"))
    request = make_request(tmp_path, frames=5, model=model, device="cpu", lora=(str(tmp_path / "bad.safetensors"),))
    (tmp_path / "mine.run").mkdir()
    before = tree(tmp_path)
    for name in ("new.run", "mine.run"):
        with pytest.raises(InputError, match=r"bad\.safetensors"):
            getattr(RunDirectory.create(tmp_path / name, request), act)()
        assert tree(tmp_path) == before
    # Where a plan is refused once masks were made, they are there to be looked at and painted on.

    def refuse(plan):
        raise RefusedPlanError("The checks found an error.", plan)

    monkeypatch.setattr(preparation, "refuse_errors", refuse)
    with pytest.raises(InputError, match="found an error"):
        getattr(RunDirectory.create(tmp_path / "new.run", request.with_changes(lora=())), act)()
    assert (tmp_path / "new.run" / "masks" / "contact_sheet.png").exists()


def test_a_refused_redirection_leaves_the_run_as_it_was(run, pipe):
    before = tree(run.path)
    foreign = run.path.with_name("holiday.mkv")
    foreign.write_bytes(b"somebody's")
    with pytest.raises(InputError, match=r"holiday.mkv exists .*--overwrite"):
        run.resume(pipe, output=foreign)
    with pytest.raises(InputError, match=r"cannot write \.avi"):
        RunDirectory.open(run.path).resume(pipe, output=run.path.with_name("film.avi"))
    with pytest.raises(InputError, match=r"ffv1 is written to \.mkv files"):
        RunDirectory.open(run.path).resume(pipe, codec="ffv1")
    (run.path.with_name("file")).write_bytes(b"")
    with pytest.raises(InputError, match=r"exists|Not a directory|writing failed"):
        RunDirectory.open(run.path).resume(pipe, output=run.path.with_name("file") / "film.mp4")
    assert tree(run.path) == before
    assert foreign.read_bytes() == b"somebody's"
    run.resume(pipe, output=foreign, overwrite=True)
    assert probe(foreign).frames == 13


def test_a_film_goes_where_resume_says_and_comes_back(run, pipe):
    old = run.request.output
    kept = old.read_bytes()
    run.resume(pipe, output=run.path.with_name("film.gif"))
    assert (run.request.output.suffix, run.request.codec) == (".gif", None)
    assert probe(run.path.with_name("film.gif")).frames == 13
    assert old.read_bytes() == kept
    assert run.status().state == "finished"
    again = RunDirectory.open(run.path)
    again.resume(pipe, output=old)  # this run's own film: nothing to ask
    assert old.read_bytes() == kept
    again.resume(pipe, output=run.path.with_name("film.mkv"), codec="h264")
    assert probe(run.path.with_name("film.mkv")).codec == "h264"


def test_status_counts_what_the_request_asks_for_now(run, pipe, tmp_path):
    assert run.status().finished == (0, 1)
    planned = RunDirectory.create(run.path, run.request.with_changes(seed=9), renders=False)
    planned.plan(pipe=pipe)
    assert planned.status().finished == ()
    assert planned.status().state == "planned"
    back = RunDirectory.create(run.path, run.request, renders=False)
    back.plan(pipe=pipe)
    assert (back.status().finished, back.status().state) == ((0, 1), "finished")

    def stop(event):
        if event.name == "segment_finished":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        RunDirectory.create(run.path, run.request.with_changes(seed=9)).execute(pipe, events=stop)
    half = RunDirectory.open(run.path).status()
    assert (half.finished, half.state) == ((0,), "partial")
    assert dict(half.rows())["segments"] == "1 of 2 finished, missing 1"
    RunDirectory.open(run.path).resume(pipe)
    assert RunDirectory.open(run.path).status().finished == (0, 1)


def test_a_refusal_takes_nothing_from_whoever_worked_on_the_run_meanwhile(run, pipe):
    late = RunDirectory.create(run.path, run.request.with_changes(height=33))
    RunDirectory.create(run.path, run.request.with_changes(seed=8)).execute(pipe)
    before = tree(run.path)
    with pytest.raises(InputError, match="nearest that does"):
        late.execute(pipe)
    after = tree(run.path)
    assert RunDirectory.open(run.path).status().finished == (0, 1)
    assert after["stages.json"] == before["stages.json"]


def test_a_rehearsal_looks_at_the_masks_as_they_are_painted_now(run, pipe, tmp_path):
    place = tmp_path / "rehearsal"
    place.mkdir()
    copy_prepared(run.path, place)
    assert not (place / "segments").exists()
    skipped = []
    rehearsed = RunDirectory.create(place, run.request, renders=False)
    rehearsed.plan(pipe=pipe, events=lambda event: skipped.append(event.facts.get("stage")))
    assert "masks" in skipped  # what is there is what the run would use
    shutil.copyfile(paint_over(run.path / "masks" / "driving_mask.mkv"), run.path / "masks" / "driving_mask.mkv")
    before = tree(run.path)
    shutil.rmtree(place)
    place.mkdir()
    copy_prepared(run.path, place)
    for folder in (place, run.path):
        with pytest.raises(InputError, match="the mask of the driving video shows no character"):
            RunDirectory.create(folder, run.request, renders=False).plan(pipe=pipe)
    assert tree(run.path) == before


def test_a_segment_rendered_alone_keeps_its_successor_valid(run, pipe):
    run.rerender(0, seed=4, pipe=pipe)
    assert run.status().finished == (0, 1)
    RunDirectory.create(run.path, run.request, renders=False).plan(pipe=pipe)
    assert run.status().finished == (0, 1)
