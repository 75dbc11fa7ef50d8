"""A run directory over a tiny random pipeline: what is kept, what is made again, and that both agree bit for bit."""

import json
import os

import numpy as np
import pytest
import torch
from run_material import make_material, make_request, write_video
from tiny import SIZE, bare_pipeline

from scail2.errors import InputError
from scail2.files.staging import Staging
from scail2.modes import AnimationMode
from scail2.request.animation import AnimationRequest
from scail2.runs import RunDirectory
from scail2.runs.segment_store import SegmentStore
from scail2.video import VideoReader, probe, to_uint8


@pytest.fixture(scope="module")
def pipe():
    torch.manual_seed(0)
    return bare_pipeline(native_height=SIZE, native_width=SIZE)


def execute(run, pipe, **options):
    """Executes and returns the names of the events with their segment, steps left out."""
    events = []
    run.execute(pipe, events=events.append, **options)
    return named(events)


def named(events):
    return [(each.name, each.facts.get("segment", each.facts.get("stage"))) for each in events if each.name != "step"]


def rendered(events):
    return [segment for name, segment in events if name == "segment_finished"]


def contents(run):
    """Everything of a run that must not depend on how it came about: frames, float history, generator states."""
    store = SegmentStore(run.path)
    return {index: (store.record(index).frames_sha256, store.state(index).identity()) for index in store.finished()}


def frames_of(path):
    reader = VideoReader(path)
    return reader.frames(0, len(reader))


def test_a_run_is_the_pipeline_s_own_output(tmp_path, pipe):
    request = make_request(tmp_path, seed=3)
    run = RunDirectory.create(tmp_path / "film.run", request)
    execute(run, pipe)
    masks = tmp_path / "film.run" / "masks"
    outputs = pipe.stream(
        frames_of_picture(tmp_path / "reference.png"),
        frames_of(tmp_path / "driving.mkv"),
        frames_of_picture(masks / "reference_mask.png"),
        frames_of(masks / "driving_mask.mkv"),
        mode="animation",
        num_inference_steps=2,
        generator=torch.Generator().manual_seed(3),
    )
    store = SegmentStore(run.path)
    for output in outputs:
        assert np.array_equal(frames_of(store.path(output.index) / "frames.mkv"), to_uint8(output.frames))
        assert torch.equal(store.state(output.index).history, output.history)
    assert probe(request.output).frames == 19
    assert run.status().state == "finished"
    assert run.status().finished == (0, 1, 2, 3)


def frames_of_picture(path):
    from scail2.video import read_image

    return read_image(path)


def test_what_is_unchanged_is_skipped_and_what_depends_on_a_change_is_not(tmp_path, pipe):
    request = make_request(tmp_path)
    run = RunDirectory.create(tmp_path / "film.run", request)
    assert rendered(execute(run, pipe)) == [0, 1, 2, 3]
    before = contents(run)
    again = execute(run, pipe)
    assert rendered(again) == []
    assert ("stage_skipped", "masks") in again
    assert ("stage_skipped", "output") in again

    quieter = RunDirectory.create(run.path, request.with_changes(output=tmp_path / "film.mkv"))
    events = execute(quieter, pipe)
    assert rendered(events) == []
    assert np.array_equal(frames_of(tmp_path / "film.mkv"), frames_of_run(run))

    other = RunDirectory.create(run.path, request.with_changes(seed=1))
    events = execute(other, pipe)
    assert rendered(events) == [0, 1, 2, 3]
    assert ("stage_skipped", "masks") in events
    assert len(list((run.path / "superseded").iterdir())) == 4
    assert {index: frames for index, (frames, _) in contents(run).items()} != {
        index: frames for index, (frames, _) in before.items()
    }

    back = RunDirectory.create(run.path, request)
    execute(back, pipe)
    assert contents(back) == before


def frames_of_run(run):
    store = SegmentStore(run.path)
    return np.concatenate([frames_of(store.path(index) / "frames.mkv") for index in store.finished()])


def test_a_longer_video_keeps_what_it_shares(tmp_path, pipe):
    request = make_request(tmp_path)
    run = RunDirectory.create(tmp_path / "film.run", request.with_changes(frames=13))
    assert rendered(execute(run, pipe)) == [0, 1]
    longer = RunDirectory.create(run.path, request.with_changes(frames=17))
    assert rendered(execute(longer, pipe)) == [2]
    shorter = RunDirectory.create(run.path, request.with_changes(frames=9))
    assert rendered(execute(shorter, pipe)) == []
    assert contents(shorter).keys() == {0}
    assert probe(request.output).frames == 9


def test_repainting_a_mask_renders_from_the_first_segment_that_saw_it(tmp_path, pipe):
    request = make_request(tmp_path)
    run = RunDirectory.create(tmp_path / "film.run", request)
    execute(run, pipe)
    path = run.path / "masks" / "driving_mask.mkv"
    mask = frames_of(path)
    mask[14:, 20:22, 20:22] = mask[14, mask[14].any(axis=-1)][0]
    write_video(path, mask)
    assert rendered(execute(run, pipe)) == [2, 3]


def test_rerender_with_the_stored_noise_repeats_the_segment(tmp_path, pipe):
    run = RunDirectory.create(tmp_path / "film.run", make_request(tmp_path))
    run.execute(pipe)
    before, film = contents(run), run.request.output.read_bytes()
    for cascade in (False, True):
        events = []
        run.rerender(2, cascade=cascade, pipe=pipe, events=events.append)
        assert rendered(named(events)) == [2]
        assert contents(run) == before
    assert run.request.output.read_bytes() == film


def test_rerender_alone_replaces_one_segment_and_cascade_the_later_ones(tmp_path, pipe):
    run = RunDirectory.create(tmp_path / "film.run", make_request(tmp_path))
    run.execute(pipe)
    before = contents(run)
    run.rerender(1, seed=9, pipe=pipe)
    alone = contents(run)
    assert [index for index in before if before[index] != alone[index]] == [1]
    assert rendered(execute(run, pipe)) == [], "a segment that was re-rendered alone is left alone"
    assert np.array_equal(frames_of_run(run)[:9], frames_of(SegmentStore(run.path).path(0) / "frames.mkv"))

    run.rerender(1, seed=9, cascade=True, pipe=pipe)
    cascaded = contents(run)
    assert cascaded[1] == alone[1]
    assert [index for index in before if before[index] != cascaded[index]] == [1, 2, 3]
    whole = RunDirectory.create(tmp_path / "other.run", run.request.with_changes(output=tmp_path / "o.mp4"))
    whole.execute(pipe)
    whole.rerender(1, seed=9, cascade=True, pipe=pipe)
    assert contents(whole) == cascaded


def test_a_segment_keeps_the_seed_it_was_given(tmp_path, pipe):
    run = RunDirectory.create(tmp_path / "film.run", make_request(tmp_path))
    run.execute(pipe)
    before = contents(run)
    run.rerender(2, seed=7, pipe=pipe)
    chosen = contents(run)
    assert chosen[2] != before[2]
    run.rerender(2, pipe=pipe)
    assert contents(run) == chosen, "the stored noise is the chosen one"

    wrong = frames_of(SegmentStore(run.path).path(2) / "frames.mkv") ^ 1
    write_video(SegmentStore(run.path).path(2) / "frames.mkv", wrong)
    run.request.output.unlink()
    with pytest.raises(InputError, match="was set aside"):
        run.resume(pipe)
    run.resume(pipe)
    assert contents(run) == chosen, "a damaged take is redone as it was, and nothing else"

    run.rerender(2, cascade=True, pipe=pipe)
    cascaded = contents(run)
    assert [index for index in chosen if chosen[index] != cascaded[index]] == [3]
    run.rerender(1, seed=5, cascade=True, pipe=pipe)
    store = SegmentStore(run.path)
    assert [store.record(index).seed for index in range(4)] == [None, 5, 7, None]
    execute(RunDirectory.create(run.path, run.request.with_changes(seed=1)), pipe)
    assert [store.record(index).seed for index in range(4)] == [None] * 4


def test_rerender_refuses_what_is_not_rendered(tmp_path, pipe):
    run = RunDirectory.create(tmp_path / "film.run", make_request(tmp_path))
    with pytest.raises(InputError, match=r"Segment 0 of .* is not rendered; finished are none yet"):
        run.rerender(0, pipe=pipe)
    run.execute(pipe)
    with pytest.raises(InputError, match=r"Segment 4 of .* is not rendered; finished are 0 to 3"):
        run.rerender(4, pipe=pipe)
    with pytest.raises(InputError, match="--seed must be a whole number from 0 to 9223372036854775807, not -7"):
        run.rerender(1, seed=-7, pipe=pipe)


@pytest.mark.parametrize("mode", list(AnimationMode))
def test_two_characters_equal_segments_sound_and_comparison(tmp_path, pipe, mode):
    material = make_material(tmp_path, frames=21, characters=2, mode=mode, sound=True)
    request = AnimationRequest(**material, equal_segments=True, prev_segment_conditioning_frames=1, compare=True)
    run = RunDirectory.create(tmp_path / "film.run", request)
    run.execute(pipe)
    info = probe(request.output)
    assert (info.frames, info.has_audio, info.height, info.width) == (21, True, SIZE, SIZE)
    compared = probe(request.compare_output)
    assert (compared.frames, compared.has_audio, compared.width) == (21, True, 3 * SIZE)
    plan = json.loads((run.path / "plan.json").read_text())
    assert plan["preflight"]["facts"]["driving_characters"] == 2
    assert len({each["padded_frames"] for each in plan["segments"]}) == 1


def test_the_output_can_be_a_folder_of_pictures(tmp_path, pipe):
    request = make_request(tmp_path, frames=9, output=tmp_path / "pictures", compare=True)
    run = RunDirectory.create(tmp_path / "film.run", request)
    run.execute(pipe)
    assert np.array_equal(frames_of(request.output), frames_of_run(run))
    assert frames_of(tmp_path / "pictures-compare").shape == (9, SIZE, 3 * SIZE, 3)
    assert ("stage_skipped", "compare") in execute(run, pipe)


def test_resume_refuses_another_model(tmp_path, pipe):
    run = RunDirectory.create(tmp_path / "film.run", make_request(tmp_path, frames=9))
    run.execute(pipe)
    other = bare_pipeline(native_height=SIZE, native_width=SIZE)
    with torch.no_grad():
        other.transformer.proj_out.bias[0] += 1e-3
    with pytest.raises(InputError, match="has changed since this run began; put the old one back"):
        run.resume(other)
    assert rendered(execute(run, other)) == [0]


def test_masks_of_another_run_are_reused(tmp_path, pipe):
    first = RunDirectory.create(tmp_path / "first.run", make_request(tmp_path))
    first.execute(pipe)
    plain = first.request.with_changes(
        reference_mask=(), driving_mask=(), masks=first.path / "masks", output=tmp_path / "second.mp4"
    )
    second = RunDirectory.create(tmp_path / "second.run", plain)
    second.execute(pipe)
    assert contents(second) == contents(first)
    larger = RunDirectory.create(tmp_path / "third.run", plain.with_changes(height=48, width=48), renders=False)
    assert larger.plan(pipe=pipe).masks.driving_mask.frames(0, 1).shape == (1, 48, 48, 3)
    shorter = RunDirectory.create(tmp_path / "fourth.run", plain.with_changes(frames=9), renders=False).plan(pipe=pipe)
    whole = frames_of(first.path / "masks" / "driving_mask.mkv")
    np.testing.assert_array_equal(shorter.masks.driving_mask.frames(0, 9), whole[:9])
    assert len(shorter.masks.driving_mask) == 9


def test_masks_of_too_few_frames_or_of_another_rate_are_refused(tmp_path, pipe):
    first = RunDirectory.create(tmp_path / "first.run", make_request(tmp_path).with_changes(frames=9))
    first.execute(pipe)
    plain = first.request.with_changes(reference_mask=(), driving_mask=(), masks=first.path / "masks", frames=None)
    with pytest.raises(
        InputError, match="have 9 frames at 8 a second, but this run uses 19 of the driving video at 8;"
    ):
        RunDirectory.create(tmp_path / "second.run", plain, renders=False).plan(pipe=pipe)
    with pytest.raises(InputError, match="have 9 frames at 8 a second, but this run uses 5 of the driving video at 4;"):
        RunDirectory.create(tmp_path / "third.run", plain.with_changes(frames=5, fps=4), renders=False).plan(pipe=pipe)


def test_resume_refuses_changed_files_and_lost_ones(tmp_path, pipe):
    run = RunDirectory.create(tmp_path / "film.run", make_request(tmp_path))
    run.execute(pipe)
    driving = frames_of(tmp_path / "driving.mkv")
    driving[0] ^= 1
    write_video(tmp_path / "driving.mkv", driving)
    with pytest.raises(InputError, match="given as driving has changed since this run began"):
        run.resume(pipe)
    (tmp_path / "reference.png").unlink()
    with pytest.raises(InputError, match=r"not where they were when it began: --reference .*reference.png"):
        run.resume(pipe)
    assert run.status().failure is None


def test_a_failure_keeps_what_was_rendered(tmp_path, pipe):
    run = RunDirectory.create(tmp_path / "film.run", make_request(tmp_path))

    def stop(event):
        if event.name == "step" and event.facts["segment"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.execute(pipe, events=stop)
    status = run.status()
    assert (status.state, status.finished, status.failure, status.running) == ("partial", (0, 1), "interrupted", False)
    whole = RunDirectory.create(tmp_path / "whole.run", run.request.with_changes(output=tmp_path / "whole.mp4"))
    whole.execute(pipe)
    events = []
    run.resume(pipe, events=events.append)
    assert rendered(named(events)) == [2, 3]
    assert contents(run) == contents(whole)
    assert run.request.output.read_bytes() == whole.request.output.read_bytes()


def test_a_stopped_pipeline_ends_the_run_without_an_endless_loop(tmp_path, pipe):
    run = RunDirectory.create(tmp_path / "film.run", make_request(tmp_path))

    def stop(event):
        if event.name == "step" and event.facts["segment"] == 1:
            pipe.interrupt = True

    with pytest.raises(RuntimeError, match="segment 1 was interrupted"):
        run.execute(pipe, events=stop)
    assert run.status().finished == (0,)


def test_a_damaged_or_missing_segment_is_rendered_again(tmp_path, pipe):
    run = RunDirectory.create(tmp_path / "film.run", make_request(tmp_path))
    run.execute(pipe)
    before = contents(run)
    (run.path / "segments" / "001" / "state.safetensors").unlink()
    assert rendered(execute(run, pipe)) == [1]
    assert contents(run) == before


def test_damaged_frames_are_noticed_set_aside_and_redone(tmp_path, pipe):
    run = RunDirectory.create(tmp_path / "film.run", make_request(tmp_path))
    run.execute(pipe)
    before, film = contents(run), run.request.output.read_bytes()
    path = run.path / "segments" / "001" / "frames.mkv"
    wrong = frames_of(path)
    wrong[0, 0, 0] ^= 1
    write_video(path, wrong)
    run.request.output.unlink()
    with pytest.raises(InputError, match=r"Segment 1 has a damaged frames.mkv and was set aside \(.*001-1\)"):
        run.resume(pipe)
    assert not run.request.output.exists()
    run.resume(pipe)
    assert contents(run) == before
    assert run.request.output.read_bytes() == film


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"index": 1}'])
def test_a_damaged_record_is_set_aside_and_its_segment_redone(tmp_path, pipe, content):
    run = RunDirectory.create(tmp_path / "film.run", make_request(tmp_path))
    run.execute(pipe)
    before = contents(run)
    (run.path / "segments" / "001" / "segment.json").write_bytes(content)
    with pytest.raises(InputError, match=r"Segment 1 has a damaged segment.json and was set aside \(.*001-1\)"):
        run.resume(pipe)
    assert 1 not in run.status().finished
    run.resume(pipe)
    assert contents(run) == before


@pytest.mark.parametrize("moment", ["rerender_started", "segment_started", "segment_saving", "segment_finished"])
def test_an_interrupted_rerender_is_finished_by_resume(tmp_path, pipe, moment):
    run = RunDirectory.create(tmp_path / "film.run", make_request(tmp_path, frames=17))
    run.execute(pipe)
    before = contents(run)

    def stop(event):
        if event.name == moment:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.rerender(1, seed=9, pipe=pipe, events=stop)
    if moment == "segment_saving":
        # The instant between moving the old version away and the new one in.
        SegmentStore(run.path).supersede(1)
    run.resume(pipe)
    after = contents(run)
    changed = [index for index in before if before[index] != after[index]]
    assert changed == ([] if moment == "rerender_started" else [1])


def test_clean_gives_back_what_was_replaced_and_nothing_else(tmp_path, pipe):
    run = RunDirectory.create(tmp_path / "film.run", make_request(tmp_path))
    run.execute(pipe)
    run.rerender(1, seed=5, pipe=pipe)
    (run.path / "segments" / ".002.partial").mkdir()
    before = contents(run)
    assert run.status().superseded_bytes > 0
    assert run.clean() > 0
    assert contents(run) == before
    assert not (run.path / "superseded").exists()
    assert not (run.path / "segments" / ".002.partial").exists()
    run.clean(everything=True)
    assert not run.path.exists()
    assert run.request.output.exists()


def test_neither_output_nor_inputs_are_deleted_with_the_run(tmp_path):
    request = make_request(tmp_path / "in")
    work = tmp_path / "work"
    (tmp_path / "link").symlink_to(work)
    for output in (work / "film.mp4", tmp_path / "link" / "film.mp4"):
        with pytest.raises(InputError, match="would lie inside the run directory"):
            RunDirectory.create(work, request.with_changes(output=output))
    with pytest.raises(InputError, match=r"run directory .* would lie inside the output"):
        RunDirectory.create(tmp_path / "frames" / "run", request.with_changes(output=tmp_path / "frames"))
    run = RunDirectory.create(work, request)
    (work / "hero.png").write_bytes(request.reference.read_bytes())
    run = RunDirectory.create(work, request.with_changes(reference=work / "hero.png"))
    with pytest.raises(InputError, match=r"hero.png lies inside .*work and would be deleted with it"):
        run.clean(everything=True)
    assert (work / "hero.png").exists()
    run.clean()
    (work / "hero.png").unlink()
    run.clean(everything=True)
    assert not work.exists()


def test_a_run_begins_again_where_its_request_could_not_be_written(tmp_path, monkeypatch):
    request = make_request(tmp_path / "in")
    with monkeypatch.context() as patch:
        patch.setattr("scail2.runs.directory.write_sealed", lambda path, value: path.open("w").write(value))
        with pytest.raises(TypeError):
            RunDirectory.create(tmp_path / "film.run", request)
    (tmp_path / "film.run" / "request.json").rename(tmp_path / "film.run" / ".request.json.0123abcd.partial")
    assert RunDirectory.create(tmp_path / "film.run", request).status().state == "new"


def test_an_output_with_brackets_clears_only_its_own_leftovers(tmp_path, pipe):
    output = tmp_path / os.fsdecode(b"film[1]\xe9.mp4")
    run = RunDirectory.create(tmp_path / "film.run", make_request(tmp_path, frames=9, output=output))
    # A process that was killed leaves its folder, whose lock it no longer holds.
    own, other = Staging(output), Staging(tmp_path / f"film1{output.stem[7:]}.mp4")
    for each in (own, other):
        each.place.touch()
        os.close(each._mark)
    own, other = own.folder, other.folder
    mine = tmp_path / f".{output.name}.0123456789abcdef.partial"
    mine.mkdir()
    (mine / "mine.txt").touch()
    run.execute(pipe)
    assert probe(RunDirectory.open(run.path).request.output).frames == 9
    assert (own.exists(), other.exists(), (mine / "mine.txt").exists()) == (False, True, True)


def test_folders_that_are_not_runs_are_refused(tmp_path):
    request = make_request(tmp_path / "in")
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter.txt").touch()
    with pytest.raises(InputError, match="exists and is not a run directory"):
        RunDirectory.create(tmp_path / "home", request)
    with pytest.raises(InputError, match=r"is not a run directory: it has no request.json"):
        RunDirectory.open(tmp_path / "home")
    with pytest.raises(InputError, match="a part of the path is a file"):
        RunDirectory.create(tmp_path / "in" / "reference.png" / "run", request)
    with pytest.raises(InputError, match=r"cannot be made: .* takes no files"):
        RunDirectory.create("/proc/run", request)
