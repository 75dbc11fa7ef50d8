"""A run in hostile or careless hands: links, foreign files, unreadable disks, two runs that write one film."""

import errno
import json
import os
import shutil
import tempfile
from pathlib import Path

import pytest
import torch
from run_material import make_request
from tiny import SIZE, bare_pipeline

from scail2.errors import InputError
from scail2.files import storage as run_storage
from scail2.runs import RunDirectory
from scail2.runs.segment_store import SegmentStore


@pytest.fixture(scope="module")
def pipe():
    torch.manual_seed(0)
    return bare_pipeline(native_height=SIZE, native_width=SIZE)


@pytest.fixture(scope="module")
def kept(pipe):
    """A finished run of two segments with its inputs and its film, to be copied back before every test."""
    # Not below pytest's own folder, which every session that starts closes to other users.
    with tempfile.TemporaryDirectory(prefix="scail2-safety-") as folder:
        os.chmod(folder, 0o755)
        work = Path(folder) / "work"
        run = RunDirectory.create(work / "film.run", make_request(work, frames=13))
        run.execute(pipe)
        shutil.copytree(work, work.with_name("pristine"))
        yield work


@pytest.fixture
def run(kept):
    shutil.rmtree(kept)
    shutil.copytree(kept.with_name("pristine"), kept)
    return RunDirectory.open(kept / "film.run")


@pytest.fixture
def outside(tmp_path):
    """Somebody else's file and folder."""
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.txt").write_bytes(b"ten years of work")
    return tmp_path / "precious"


def untouched(outside):
    return os.listdir(outside) == ["thesis.txt"] and (outside / "thesis.txt").read_bytes() == b"ten years of work"


FILES = [
    *(f"{name}.json" for name in ("request", "inputs", "stages", "plan", "model", "drift")),
    *("drift.png", "journal.jsonl", ".lock"),
    *("segments/000/frames.mkv", "segments/000/state.safetensors", "segments/000/segment.json"),
    *("segments/001/metrics.json", "masks/driving_mask.mkv", "masks/tracks.json", "masks/preflight.json"),
    *("masks/reference.png", "masks/reference_mask.png", "masks/contact_sheet.png"),
]
FOLDERS = ["segments", "segments/000", "masks", "superseded", "masks/driving_mask"]
VERBS = {
    "resume": lambda run, pipe: RunDirectory.open(run).resume(pipe),
    "rerender": lambda run, pipe: RunDirectory.open(run).rerender(0, pipe=pipe),
    "status": lambda run, pipe: RunDirectory.open(run).status(),
}


def put_aside(path):
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@pytest.mark.parametrize("name", [*FILES, *FOLDERS])
def test_links_in_a_run_are_refused_and_nothing_behind_them_is_touched(run, pipe, outside, name):
    target = outside if name in FOLDERS else outside / "thesis.txt"
    put_aside(run.path / name)
    (run.path / name).symlink_to(target)
    film = run.request.output.read_bytes()
    for verb in VERBS.values():
        with pytest.raises(InputError, match=r"a link.*nothing in a run is\s+followed: remove it"):
            verb(run.path, pipe)
        assert untouched(outside)
    with pytest.raises(InputError, match=r"a link.*followed: remove it"):
        RunDirectory.create(run.path, run.request)
    assert untouched(outside)
    assert run.request.output.read_bytes() == film


@pytest.mark.parametrize(
    "name", ["request.json", ".lock", "journal.jsonl", "masks/tracks.json", "segments/001/frames.mkv"]
)
def test_pipes_are_refused_at_once(run, pipe, name):
    put_aside(run.path / name)
    os.mkfifo(run.path / name)
    for verb in VERBS.values():
        with pytest.raises(InputError, match=r"no plain file|a pipe"):
            verb(run.path, pipe)


def test_temporaries_planted_in_advance_are_not_written_through(run, pipe, outside):
    for name in ("request.json", "inputs.json", "stages.json", "plan.json", "drift.json"):
        (run.path / f".{name}.partial").symlink_to(outside / "thesis.txt")
    (run.path / ".drift.json.part").symlink_to(outside / "thesis.txt")
    (run.path / ".masks.partial").symlink_to(outside)
    with pytest.raises(InputError, match="a link"):
        run.resume(pipe)
    assert untouched(outside)
    for planted in run.path.glob(".*.part*"):
        planted.unlink()
    (run.path / ".inputs.json.partial").write_text("left by a killed process")
    run.resume(pipe)
    assert list(run.path.glob(".*.part*")) == []


def test_a_file_with_another_name_is_not_written_in_place(run, pipe, outside):
    before = (run.path / "journal.jsonl").read_bytes()
    os.link(run.path / "journal.jsonl", outside / "backup.jsonl")
    run.resume(pipe)
    assert (outside / "backup.jsonl").read_bytes() == before
    after = (run.path / "journal.jsonl").read_bytes()
    assert after.startswith(before)
    assert len(after) > len(before)
    put_aside(run.path / ".lock")
    os.link(outside / "thesis.txt", run.path / ".lock")
    with pytest.raises(InputError, match=r"\.lock has another name elsewhere, which would be written to: remove it"):
        run.resume(pipe)
    assert (outside / "thesis.txt").read_bytes() == b"ten years of work"


def test_clean_deletes_known_names_only_and_counts_what_it_frees(run, outside):
    store = SegmentStore(run.path)
    place = store.supersede(1)
    os.link(place / "frames.mkv", outside / "kept.mkv")
    (place / "state.safetensors").unlink()
    (place / "state.safetensors").symlink_to(outside / "thesis.txt")
    (place / "my notes.txt").write_text("mine")
    (run.path / ".notes.partial").write_text("mine")
    (run.path / "superseded" / "old").symlink_to(outside)
    freed = sum((place / name).stat().st_size for name in ("segment.json", "metrics.json"))
    assert run.clean() == freed
    assert sorted(path.name for path in place.iterdir()) == ["my notes.txt", "state.safetensors"]
    assert (run.path / ".notes.partial").read_text() == "mine"
    assert (outside / "thesis.txt").read_bytes() == b"ten years of work"
    shutil.rmtree(run.path / "superseded")
    (run.path / "superseded").symlink_to(outside)
    assert run.clean() == 0
    assert (outside / "thesis.txt").exists()


def test_clean_everything_leaves_what_the_run_did_not_make(run, outside):
    (run.path / "notes.txt").write_text("mine")
    (run.path / "masks" / "sketch.xcf").write_text("mine")
    shutil.rmtree(run.path / "segments" / "001")
    (run.path / "segments" / "001").symlink_to(outside)
    run.clean(everything=True)
    left = sorted(str(path.relative_to(run.path)) for path in run.path.rglob("*"))
    assert left == ["masks", "masks/sketch.xcf", "notes.txt", "segments", "segments/001"]
    assert (outside / "thesis.txt").exists()
    assert run.request.output.exists()


def test_clean_protects_model_lora_and_masks_that_lie_in_the_run(run, pipe):
    model, lora = (
        run.path / "superseded" / "000-7",
        run.path / "segments" / ".000.01234567.partial" / "style.safetensors",
    )
    for folder in (model, lora.parent):
        folder.mkdir(parents=True)
    (model / "state.safetensors").write_bytes(b"weights")
    lora.write_bytes(b"weights")
    inside = RunDirectory(run.path, run.request.with_changes(model=str(model), lora=(f"{lora}:0.5",)))
    assert inside.clean() == 0
    assert (model / "state.safetensors").exists()
    assert lora.exists()
    for request in (inside.request.with_changes(lora=()), inside.request.with_changes(model=None)):
        with pytest.raises(InputError, match=r"lies inside .* and would be deleted with it; move it elsewhere first"):
            RunDirectory(run.path, request).clean(everything=True)


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("masks", "masks"),
        ("reference", "masks/reference.png"),
        ("driving", "segments/000/frames.mkv"),
        ("driving_mask", "masks/driving_mask.mkv"),
    ],
)
def test_an_input_may_not_be_the_run_s_own_file(run, name, path):
    changes = {"masks": {"reference_mask": (), "driving_mask": ()}}.get(name, {})
    value = (run.path / path,) if name == "driving_mask" else run.path / path
    with pytest.raises(
        InputError, match="one of the run directory's own files, which the run replaces; copy it elsewhere"
    ):
        RunDirectory.create(run.path, run.request.with_changes(**changes, **{name: value}))


# ---- whose film ------------------------------------------------------------------------------------------------------


def test_two_runs_of_one_film_know_whose_it_is(run, pipe):
    assert run.status().state == "finished"
    film = run.request.output.read_bytes()
    with pytest.raises(
        InputError, match=r"film.mp4 exists and is not the film .*--overwrite .*or choose another --output"
    ):
        RunDirectory.create(run.path.with_name("other.run"), run.request.with_changes(seed=5))
    assert not run.path.with_name("other.run").exists()
    assert run.request.output.read_bytes() == film
    other = RunDirectory.create(run.path.with_name("other.run"), run.request.with_changes(seed=5), overwrite=True)
    other.execute(pipe)
    film = run.request.output.read_bytes()
    assert other.status().state == "finished"
    assert run.status().state == "overwritten"
    assert any("is not the one this run wrote" in value for _, value in run.status().rows())
    for again in (lambda: run.resume(pipe), lambda: run.rerender(0, pipe=pipe)):
        with pytest.raises(
            InputError, match=r"film.mp4 is not the film that this run wrote there .*resume with --overwrite"
        ):
            again()
    assert run.request.output.read_bytes() == film
    with pytest.raises(InputError, match="add --overwrite"):
        RunDirectory.create(run.path, run.request)
    RunDirectory.create(run.path, run.request, overwrite=True).execute(pipe)  # asked for
    assert (run.status().state, other.status().state) == ("finished", "overwritten")


def test_a_foreign_request_does_not_overwrite_its_output(run, pipe, outside):
    values = json.loads((run.path / "request.json").read_text()) | {"output": str(outside / "thesis.mp4")}
    (run.path / "request.json").write_text(json.dumps(values))
    (outside / "thesis.mp4").write_bytes(b"a film of somebody's")
    with pytest.raises(InputError, match=r"changed or damaged since scail2 wrote it.*give its command again"):
        RunDirectory.open(run.path)
    del values["seal"]
    (run.path / "request.json").write_text(json.dumps(values))
    with pytest.raises(InputError, match=r"thesis.mp4 is not the film that this run wrote there"):
        RunDirectory.open(run.path).resume(pipe)
    assert (outside / "thesis.mp4").read_bytes() == b"a film of somebody's"


def test_what_stood_there_when_the_run_was_asked_is_replaced_and_nothing_later(run, pipe):
    film = run.request.output.read_bytes()
    run.request.output.write_bytes(b"an older film")
    asked = RunDirectory.create(run.path.with_name("asked.run"), run.request, overwrite=True)
    asked.resume(pipe)
    assert run.request.output.read_bytes() == film
    planned = RunDirectory.create(run.path.with_name("planned.run"), run.request, renders=False)
    run.request.output.write_bytes(b"somebody's film")
    with pytest.raises(InputError, match="is not the film that this run wrote there"):
        planned.resume(pipe)

    def swap(event):
        if event.name == "output_progress":
            run.request.output.write_bytes(b"written while it rendered")

    late = RunDirectory.create(run.path.with_name("late.run"), run.request, overwrite=True)
    with pytest.raises(InputError, match="is not the film that this run wrote there"):
        late.execute(pipe, events=swap)
    assert run.request.output.read_bytes() == b"written while it rendered"
    assert late.status().finished == (0, 1)


def test_a_film_that_was_named_before_it_could_be_noted_is_the_run_s_own(run, pipe, monkeypatch):
    """The instant between the rename and the note in stages.json."""
    film = run.request.output.read_bytes()
    fresh = RunDirectory.create(run.path.with_name("fresh.run"), run.request, overwrite=True)
    run.request.output.unlink()

    def stop(event):
        if event.name == "stage_finished" and event.facts["stage"] == "output":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fresh.execute(pipe, events=stop)
    stages = json.loads((fresh.path / "stages.json").read_text())
    del stages["output"], stages["seal"]
    (fresh.path / "stages.json").write_text(json.dumps(stages))
    fresh.resume(pipe)
    assert run.request.output.read_bytes() == film


# ---- unreadable is not damaged ----------------------------------------------------------------------------------------


def snapshot(folder):
    """Every file but the journal, with its content."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in ("journal.jsonl", ".lock"))
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def as_nobody(work):
    """Calls ``work`` without root's rights to every file; returns what it raised, as text."""
    os.seteuid(65534)
    try:
        work()
    except InputError as error:
        return f"refused: {error}"
    finally:
        os.seteuid(0)
    return "nothing raised"


@pytest.fixture
def of_nobody(run):
    """The run as another user's, who may do everything with it."""
    if os.geteuid() != 0:
        pytest.skip("needs root to become another user")
    for path in [run.path.parent, *run.path.parent.rglob("*")]:
        os.chown(path, 65534, 65534)
    return run


@pytest.mark.parametrize(
    "name",
    [
        "segments/000/state.safetensors",
        "segments/001/frames.mkv",
        "segments/001/segment.json",
        "segments/001",
        "segments",
        "masks/driving_mask.mkv",
        "masks/tracks.json",
        "masks",
        "stages.json",
        "model.json",
        "inputs.json",
        "request.json",
        "",
    ],
)
def test_what_may_not_be_read_is_neither_damaged_nor_missing(of_nobody, pipe, name):
    run = of_nobody
    if "state" in name:  # what the next segment is continued from
        shutil.rmtree(run.path / "segments" / "001")
    before = snapshot(run.path)
    run.request.output.unlink()  # so that the segments' frames are needed
    path = run.path / name
    mode = path.stat().st_mode
    path.chmod(0)
    try:
        told = as_nobody(lambda: RunDirectory.open(run.path).resume(pipe))
    finally:
        path.chmod(mode)
    assert told.startswith("refused: "), told
    assert "ermission" in told, told
    assert "damaged" not in told
    assert snapshot(run.path) == before
    assert not run.request.output.exists()
    assert as_nobody(lambda: RunDirectory.open(run.path).resume(pipe)) == "nothing raised"
    assert snapshot(run.path).keys() >= before.keys()
    assert not (run.path / "superseded").exists()


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ENOENT, errno.ETIMEDOUT])
@pytest.mark.parametrize(
    "name",
    ["segment.json", "state.safetensors", "metrics.json", "stages.json", "model.json", "inputs.json", "journal.jsonl"],
)
def test_a_disk_that_does_not_answer_sets_nothing_aside(run, pipe, monkeypatch, name, number):
    before = snapshot(run.path)
    shutil.rmtree(run.path / "segments" / "001")
    without = snapshot(run.path)
    plain = run_storage.os.open

    def failing(path, flags, *arguments, **options):
        if Path(os.fsdecode(path)).name == name and not flags & os.O_CREAT:
            raise OSError(number, os.strerror(number), str(path))
        return plain(path, flags, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", failing)
        if name == "journal.jsonl":
            with pytest.raises(InputError):
                run.status()
        else:
            with pytest.raises(InputError, match=f"Cannot .*{name}"):
                run.resume(pipe)
    assert snapshot(run.path) == without
    run.resume(pipe)
    assert set(snapshot(run.path)) == set(before)
    assert not (run.path / "superseded").exists()


def test_frames_that_fail_to_decode_once_are_kept(run, pipe, monkeypatch):
    run.request.output.unlink()
    before = snapshot(run.path / "segments")

    def hiccup(self, start, stop):
        raise InputError(f"{self.path} cannot be decoded: Input/output error.")

    with monkeypatch.context() as patch:
        patch.setattr("scail2.video.VideoReader.frames", hiccup)
        with pytest.raises(InputError):
            run.resume(pipe)
    assert snapshot(run.path / "segments") == before
    run.resume(pipe)
    assert not (run.path / "superseded").exists()


# ---- runs of earlier versions ------------------------------------------------------------------------------------------


def as_written_before(run):
    """Brings a run into the layout without seals, without notes of takes and with the old names of temporaries."""
    for path in run.rglob("*.json"):
        values = json.loads(path.read_text())
        for name in ("seal", "file_sha256", "picture"):
            values.pop(name, None)
        if path.name == "stages.json":
            values = {name: values[name] for name in ("masks", "output")}
            del values["masks"]["derived"]
        path.write_text(json.dumps(values))
    (run / ".inputs.json.partial").write_text("{")
    (run / "segments" / ".001.partial").mkdir()
    (run / "segments" / ".001.partial" / "frames.mkv").write_bytes(b"cut short")


def test_a_run_of_an_earlier_version_resumes(run, pipe):
    film = run.request.output.read_bytes()
    as_written_before(run.path)
    events = []
    assert RunDirectory.open(run.path).status().state == "finished"
    RunDirectory.open(run.path).resume(pipe, events=events.append)
    assert [event.name for event in events if event.name == "segment_finished"] == []
    assert list(run.path.rglob(".*.partial")) == []
    as_written_before(run.path)
    shutil.rmtree(run.path / "segments" / "001")
    run.request.output.unlink()
    RunDirectory.open(run.path).resume(pipe)
    RunDirectory.open(run.path).rerender(0, pipe=pipe)
    assert run.request.output.read_bytes() == film


def test_a_seed_of_its_own_survives_the_loss_of_its_record(run, pipe):
    run.rerender(0, seed=8, cascade=True, pipe=pipe)
    film = run.request.output.read_bytes()
    run.clean()
    (run.path / "segments" / "000" / "segment.json").write_bytes(b"")
    with pytest.raises(InputError, match=r"damaged segment\.json and was set aside"):
        run.resume(pipe)
    run.resume(pipe)
    assert run.request.output.read_bytes() == film
    assert SegmentStore(run.path).record(0).seed == 8


@pytest.mark.parametrize("name", ["reference.png", "tracks.json"])
def test_what_the_mask_stage_made_is_not_exchanged_in_silence(run, pipe, name):
    path = run.path / "masks" / name
    if name == "tracks.json":
        path.write_text(json.dumps(json.loads(path.read_text()) | {"mode": "replacement"}))
    else:
        shutil.copyfile(run.path / "masks" / "contact_sheet.png", path)
    film = run.request.output.read_bytes()
    with pytest.raises(
        InputError, match=rf"masks/{name} is not what this run made.*or delete .*masks to have everything"
    ):
        run.resume(pipe)
    shutil.rmtree(run.path / "masks")
    run.resume(pipe)
    assert run.request.output.read_bytes() == film


def test_a_run_is_cleaned_by_a_name_that_leads_through_itself(run):
    RunDirectory.open(run.path / "segments" / "..").clean(everything=True)
    assert not run.path.exists()


def test_a_run_that_is_refused_before_it_begins_leaves_no_folder(tmp_path):
    request = make_request(tmp_path, frames=5)
    os.mkfifo(tmp_path / "film.mp4")
    before = snapshot_names(tmp_path)
    with pytest.raises(InputError, match="no plain file"):
        RunDirectory.create(tmp_path / "new.run", request)
    assert snapshot_names(tmp_path) == before
    (tmp_path / "mine.run").mkdir()
    with pytest.raises(InputError, match="no plain file"):
        RunDirectory.create(tmp_path / "mine.run", request)
    assert (tmp_path / "mine.run").is_dir()


def snapshot_names(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))
