"""Reading ahead and saving beside: the same bits, nothing lost, and errors told where and when they belong."""

import threading
from contextlib import suppress

import pytest
import torch
from run_material import make_request
from tiny import SIZE, bare_pipeline, footage, tiny_vae

from scail2.drift.measure import DriftLimitExceeded
from scail2.errors import InputError
from scail2.pipeline import driving
from scail2.pipeline.beside import Beside
from scail2.runs import RunDirectory
from scail2.runs.segment_store import SegmentStore
from scail2.video.source import ArrayFrames


@pytest.fixture
def pipe():
    torch.manual_seed(0)
    return bare_pipeline(native_height=SIZE, native_width=SIZE)


class WatchedFrames(ArrayFrames):
    """Remembers in which thread each window was read; frames from ``broken`` on cannot be."""

    def __init__(self, array, broken=10**6):
        super().__init__(array)
        self.reads, self.broken = [], broken

    def frames(self, start, stop):
        if stop - start > 1:
            self.reads.append((start, threading.current_thread() is threading.main_thread()))
        if stop > self.broken:
            raise InputError("the film is torn")
        return super().frames(start, stop)


def stream(pipe, *, broken=10**6, **options):
    made = footage(19)
    film = WatchedFrames(made.pop("driving_video"), broken)
    generator = torch.Generator().manual_seed(4)
    outputs = pipe.stream(
        driving_video=film, **made, mode="animation", num_inference_steps=2, generator=generator, **options
    )
    return film, outputs


@pytest.mark.parametrize("autoencoder", ["small", "Wan"])
def test_segments_got_ready_ahead_are_the_same_bits(pipe, monkeypatch, autoencoder):
    if autoencoder == "Wan":
        pipe.register_modules(vae=tiny_vae())
    encoded = []
    encode = pipe.encode_driving
    pipe.encode_driving = lambda *args: (
        encoded.append(threading.current_thread() is threading.main_thread()) or encode(*args)
    )
    outputs = []
    for cores in (1, 64):
        monkeypatch.setattr(driving, "cores", lambda cores=cores: cores)
        film, segments = stream(pipe)
        outputs.append(list(segments))
        starts = [each.segment.start for each in outputs[-1]]
        assert film.reads == [(start, start == 0) for start in starts]
    assert encoded == [True] * 4 + [True] + [False] * 3
    for one, other in zip(*outputs, strict=True):
        assert torch.equal(one.frames, other.frames)
        assert torch.equal(one.history, other.history)


def test_nothing_is_encoded_beside_a_hook_or_under_autocast(monkeypatch):
    monkeypatch.setattr(driving, "cores", lambda: 64)
    vae = tiny_vae()
    assert driving.encodes_beside(vae)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not driving.encodes_beside(vae)
    vae.decoder.conv_in._hf_hook = object()
    assert not driving.encodes_beside(vae)


def test_a_film_that_tears_later_costs_no_finished_segment(pipe):
    film, outputs = stream(pipe, broken=12)
    assert [next(outputs).index, film.reads[-1][0]] == [0, 4]
    with pytest.raises(InputError, match="the film is torn"):
        next(outputs)

    def stop(*_):
        raise KeyboardInterrupt

    film, outputs = stream(pipe, broken=12, callback_on_step_end=stop)
    with pytest.raises(KeyboardInterrupt):
        next(outputs)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("driving")]


def test_one_piece_of_work_at_a_time_and_its_error_where_it_was_ordered():
    gate, done = threading.Event(), []

    def fail():
        gate.wait()
        raise ValueError("in the other thread")

    def interrupt():
        with Beside("test") as beside:
            beside.do(fail)
            raise KeyboardInterrupt

    with Beside("test") as beside:
        beside.do(lambda: done.append("first"))
        beside.do(fail)
        assert done == ["first"]
        beside.check()
        gate.set()
        with pytest.raises(ValueError, match="in the other thread"):
            beside.wait()
    with pytest.raises(ValueError, match="in the other thread") as failed:
        interrupt()
    assert isinstance(failed.value.__context__, KeyboardInterrupt)
    with Beside("test") as beside:
        beside.do(lambda: done.append("waited for"))
    assert done == ["first", "waited for"]


@pytest.fixture
def slow_disk(monkeypatch):
    """Saving goes on only while the next segment is being denoised, or when nothing else is left to do."""
    gate = threading.Event()
    save = SegmentStore.save

    def held(self, record, *others):
        assert threading.current_thread() is not threading.main_thread()
        assert gate.wait(60)
        gate.clear()
        save(self, record, *others)

    monkeypatch.setattr(SegmentStore, "save", held)
    return gate


def test_a_segment_is_saved_beside_the_next_one_and_the_run_is_the_same(tmp_path, pipe, slow_disk, monkeypatch):
    order = []

    def watch(event):
        order.append((event.name, event.facts.get("segment")))
        if event.name == "step" and event.facts["step"] == 2 and event.facts["segment"] in (1, 2, 3):
            slow_disk.set()
        if order[-1] == ("segment_saving", 3):
            slow_disk.set()

    request = make_request(tmp_path, seed=5)
    beside = RunDirectory.create(tmp_path / "beside.run", request)
    beside.execute(pipe, events=watch)
    names = [each for each in order if each[0] in ("segment_started", "segment_finished")]
    assert names.index(("segment_started", 1)) < names.index(("segment_finished", 0))
    assert [segment for name, segment in names if name == "segment_finished"] == [0, 1, 2, 3]

    monkeypatch.undo()
    alone = RunDirectory.create(tmp_path / "alone.run", request.with_changes(output=tmp_path / "alone.mp4"))
    for _ in range(4):  # one segment a time: nothing is saved beside anything
        with suppress(KeyboardInterrupt):
            alone.resume(pipe, events=stop_after_one())
    alone.resume(pipe)
    assert contents(alone) == contents(beside)
    assert alone.request.output.read_bytes() == request.output.read_bytes()


def stop_after_one():
    """A listener that interrupts a run when its first segment is finished."""

    def watch(event):
        if event.name == "segment_finished":
            raise KeyboardInterrupt

    return watch


def contents(run):
    store = SegmentStore(run.path)
    return {index: (store.record(index).frames_sha256, store.state(index).identity()) for index in store.finished()}


def test_ctrl_c_waits_for_what_is_being_saved(tmp_path, pipe, slow_disk):
    def stop(event):
        if event.name == "step" and event.facts["segment"] == 1:
            slow_disk.set()
            raise KeyboardInterrupt

    run = RunDirectory.create(tmp_path / "film.run", make_request(tmp_path))
    with pytest.raises(KeyboardInterrupt):
        run.execute(pipe, events=stop)
    assert (run.status().finished, run.status().failure) == ((0,), "interrupted")


def test_a_disk_that_refuses_ends_the_run_at_the_next_step(tmp_path, pipe, monkeypatch):
    refused, steps = threading.Event(), []

    def save(*_):
        refused.set()
        raise OSError(28, "No space left on device", str(tmp_path / "film.run"))

    def watch(event):
        if event.name == "step":
            steps.append((event.facts["segment"], event.facts["step"]))
            if event.facts["segment"] == 1:
                assert refused.wait(60)

    monkeypatch.setattr(SegmentStore, "save", save)
    run = RunDirectory.create(tmp_path / "film.run", make_request(tmp_path, num_inference_steps=50))
    with pytest.raises(InputError, match="the disk is full"):
        run.execute(pipe, events=watch)
    assert steps[49] == (0, 50)
    assert len(steps) < 55
    assert run.status().finished == ()


def test_too_much_drift_ends_the_run_while_the_next_segment_is_denoised(tmp_path, pipe):
    run = RunDirectory.create(tmp_path / "film.run", make_request(tmp_path, drift_limit=1e-6, frames=13))
    with pytest.raises(DriftLimitExceeded):
        run.execute(pipe)
    assert run.status().finished in ((0, 1), (0, 1, 2))


@pytest.mark.parametrize("correction", ["reinhard-first", "reinhard-previous"])
def test_corrected_segments_do_not_depend_on_when_the_one_before_was_saved(tmp_path, pipe, correction):
    request = make_request(tmp_path, drift_correction=correction, frames=13)
    whole = RunDirectory.create(tmp_path / "whole.run", request)
    whole.execute(pipe)
    parts = RunDirectory.create(tmp_path / "parts.run", request.with_changes(output=tmp_path / "parts.mp4"))
    for _ in range(3):
        with suppress(KeyboardInterrupt):
            parts.resume(pipe, events=stop_after_one())
    assert contents(parts) == contents(whole)
    assert len(contents(whole)) > 1
