"""A run whose files were moved: which these are, and going on with them at their new places."""

import os

import pytest
import torch
from run_material import make_request
from tiny import SIZE, bare_pipeline

from scail2.cli.app import main
from scail2.errors import InputError
from scail2.request.animation import AnimationRequest
from scail2.runs import RunDirectory
from scail2.runs.segment_store import SegmentStore


@pytest.fixture(scope="module")
def pipe():
    torch.manual_seed(0)
    return bare_pipeline(native_height=SIZE, native_width=SIZE)


class StopError(Exception):
    pass


def stop_after_first(event):
    if event.name == "segment_finished":
        raise StopError


def begun(folder, pipe) -> RunDirectory:
    run = RunDirectory.create(folder / "film.run", make_request(folder, frames=19))
    with pytest.raises(StopError):
        run.execute(pipe, events=stop_after_first)
    assert SegmentStore(run.path).finished() == [0]
    return run


def moved_to(folder, *names):
    folder.mkdir()
    return {name: folder / path.name for name, path in names if os.rename(path, folder / path.name) is None}


def test_what_moved_is_named_and_taken_from_its_new_place(tmp_path, pipe):
    run = begun(tmp_path, pipe)
    request = run.request
    (mask,) = request.driving_mask
    new = moved_to(
        tmp_path / "elsewhere", ("reference", request.reference), ("driving", request.driving), ("driving_mask", mask)
    )
    with pytest.raises(InputError) as told:
        RunDirectory.open(run.path).resume(pipe)
    for part in (
        f"--reference {request.reference}", f"--driving {request.driving}", f"--driving-mask {mask}",
        f"scail2 resume {run.path} --reference NEW --driving NEW --driving-mask NEW",
    ):  # fmt: skip
        assert part in str(told.value)
    with pytest.raises(InputError, match="--driving NEW --driving-mask NEW"):
        RunDirectory.open(run.path).resume(pipe, moved={"reference": new["reference"]})
    assert RunDirectory.open(run.path).request == request  # nothing of a refused attempt stays
    again = RunDirectory.open(run.path)
    events = []
    output = again.resume(pipe, moved=new, events=events.append)
    assert output.exists()
    rendered = [each.facts["segment"] for each in events if each.name == "segment_finished"]
    assert 0 not in rendered
    assert RunDirectory.open(run.path).request.driving == new["driving"]


def test_another_file_is_not_taken_for_the_moved_one(tmp_path, pipe):
    run = begun(tmp_path, pipe)
    new = moved_to(tmp_path / "elsewhere", ("driving", run.request.driving))
    content = new["driving"].read_bytes()
    new["driving"].write_bytes(content + b"x")
    with pytest.raises(InputError, match="given as driving is not the one this run began with"):
        RunDirectory.open(run.path).resume(pipe, moved=new)
    for moved, sentence in (
        ({"output": tmp_path / "x.mp4"}, "'output' is no file of a run"),
        ({"masks": tmp_path}, "begun without --masks"),
        ({"audio": run.request.driving}, "begun without --audio; give its own command again to change that"),
    ):
        with pytest.raises(InputError, match=sentence):
            RunDirectory.open(run.path).resume(pipe, moved=moved)


def test_the_command_line_names_the_command(tmp_path, pipe, capsys):
    run = begun(tmp_path, pipe)
    moved_to(tmp_path / "elsewhere", ("driving", run.request.driving))
    with pytest.raises(SystemExit) as exit_:
        main(["resume", str(run.path)])
    assert exit_.value.code == 2
    assert f"scail2 resume {run.path} --driving NEW" in capsys.readouterr().err.replace("\n", "")
    with pytest.raises(SystemExit) as exit_:
        main(["resume", str(run.path), "--driving", str(tmp_path / "elsewhere" / "nothing.mkv")])
    assert exit_.value.code == 2
    assert isinstance(RunDirectory.open(run.path).request, AnimationRequest)


def executed(run, pipe):
    events = []
    run.execute(pipe, events=lambda event: events.append((event.name, event.facts.get("stage"))))
    return events


def test_a_run_that_moved_with_its_film_knows_it_and_no_copy_of_it(tmp_path, pipe):
    (tmp_path / "before").mkdir()
    first = RunDirectory.create(tmp_path / "before" / "film.run", make_request(tmp_path / "before", frames=9))
    first.execute(pipe)
    film = first.request.output.read_bytes()
    (tmp_path / "before").rename(tmp_path / "after")
    request = make_request(tmp_path / "after", frames=9)
    assert request.output.read_bytes() == film
    run = RunDirectory.create(tmp_path / "after" / "film.run", request)
    names = executed(run, pipe)
    assert ("stage_skipped", "output") in names
    assert ("segment_started", None) not in names
    assert run.status().state == "finished"
    # A kept copy is somebody's, though its content is the run's.
    copy = request.output.with_name(f"kept{request.output.suffix}")
    copy.write_bytes(film)
    with pytest.raises(InputError, match="exists and is not the film that this run wrote there"):
        RunDirectory.create(run.path, request.with_changes(output=copy))
    RunDirectory.create(run.path, request.with_changes(seed=5)).execute(pipe)
    changed = request.output.read_bytes()
    assert changed != film == copy.read_bytes()
    # The same places through a link.
    (tmp_path / "link").symlink_to(tmp_path / "after")
    linked = request.with_changes(seed=5, output=tmp_path / "link" / request.output.name)
    through = RunDirectory.create(tmp_path / "link" / "film.run", linked)
    assert ("stage_skipped", "output") in executed(through, pipe)
    request.output.write_bytes(changed + b"another's now")
    with pytest.raises(InputError, match="exists and is not the film that this run wrote there"):
        RunDirectory.create(through.path, linked)
