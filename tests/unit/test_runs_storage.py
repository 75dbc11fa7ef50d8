"""The parts of a run directory that must survive anything: atomic files, journal, lock, segments, ledger."""

import errno
import multiprocessing
import os
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from scail2.errors import InputError
from scail2.files.ownership import is_locked, locked
from scail2.files.storage import digest, hash_file, move_folder, plain_errors, read_json, write_bytes, write_json
from scail2.runs.journal import Journal
from scail2.runs.segment_record import SegmentRecord
from scail2.runs.segment_store import JoinedFrames, SegmentState, SegmentStore, hash_frames


@pytest.fixture
def apart(tmp_path, monkeypatch):
    """Two folders between which nothing can be renamed, as on two file systems, and a tree in the first."""
    here, there = tmp_path / "here", tmp_path / "there"
    (here / "000").mkdir(parents=True)
    (here / "000" / "frames.mkv").write_bytes(b"film")
    (here / "000" / "state").write_bytes(b"state")
    rename = os.rename

    def within_one(source, target):
        if (here in source.parents) != (here in target.parents):
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        rename(source, target)

    monkeypatch.setattr(os, "rename", within_one)
    return here / "000", there / "000-1"


def test_a_folder_moves_to_another_file_system_whole(apart):
    source, target = apart
    before = hash_file(source)
    move_folder(source, target)
    assert hash_file(target) == before
    assert not source.exists()
    assert os.listdir(target.parent) == [target.name]


def test_a_move_to_a_full_file_system_leaves_everything_where_it_was(apart, monkeypatch):
    source, target = apart

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    before = hash_file(source)
    monkeypatch.setattr("shutil.copy2", full)
    monkeypatch.setattr("shutil.copytree", full)
    with pytest.raises(OSError, match="No space"):
        move_folder(source, target)
    assert hash_file(source) == before
    assert os.listdir(target.parent) == []


def test_a_failed_write_leaves_the_old_content(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_json(path, {"a": 2})
    assert read_json(path, Any) == {"a": 1}
    assert os.listdir(tmp_path) == ["a.json"]


def test_damaged_and_missing_json_are_named(tmp_path):
    with pytest.raises(InputError, match=r"a.json: it is not there"), plain_errors("read", tmp_path):
        read_json(tmp_path / "a.json", Any)
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(InputError, match=r"a.json cannot be used"):
        read_json(tmp_path / "a.json", Any)


@pytest.mark.parametrize(
    ("number", "sentence"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EDQUOT, "the disk quota is used up"),
        (errno.EACCES, "permission denied"),
        (errno.EROFS, "the file system is read-only"),
        (errno.ENOTDIR, "a part of the path is a file"),
        (errno.EIO, "Input/output error"),
    ],
)
def test_the_system_s_refusals_become_one_sentence(tmp_path, number, sentence):
    with pytest.raises(InputError, match=sentence) as error, plain_errors("write to", tmp_path):
        raise OSError(number, os.strerror(number), str(tmp_path / "x"))
    assert str(tmp_path / "x") in str(error.value)


def test_hashes_depend_on_content_and_names_only(tmp_path):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        write_bytes(tmp_path / folder / "a", b"1")
    assert hash_file(tmp_path / "one") == hash_file(tmp_path / "two")
    write_bytes(tmp_path / "two" / "a", b"2")
    assert hash_file(tmp_path / "one") != hash_file(tmp_path / "two")
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})


def test_the_journal_survives_a_line_cut_short(tmp_path):
    seen = []
    journal = Journal(tmp_path / "journal.jsonl", seen.append)
    journal.emit("segment_started", segment=0)
    with open(journal.path, "a") as file:
        file.write('{"event": "segment_fin')
    journal.emit("step", step=1)
    journal.emit("segment_finished", segment=0)
    assert [entry["event"] for entry in journal.entries()] == ["segment_started", "segment_finished"]
    assert [event.name for event in seen] == ["segment_started", "step", "segment_finished"]
    assert seen[0].to_json()["segment"] == 0


def test_file_names_that_are_not_text_survive(tmp_path):
    name = os.fsdecode(b"h\xe9ro.png")
    write_json(tmp_path / "a.json", {"reference": name})
    assert read_json(tmp_path / "a.json", Any) == {"reference": name}
    journal = Journal(tmp_path / "journal.jsonl")
    journal.emit("run_started", output=name, prompt="one\u2028two")
    assert journal.entries()[0]["output"] == name
    assert journal.entries()[0]["prompt"] == "one\u2028two"


def _hold(folder, ready, release):
    with locked(folder):
        ready.set()
        release.wait()


def test_a_second_process_is_refused_and_a_killed_one_leaves_no_lock(tmp_path):
    context = multiprocessing.get_context("fork")
    ready, release = context.Event(), context.Event()
    holder = context.Process(target=_hold, args=(tmp_path, ready, release))
    holder.start()
    ready.wait()
    assert is_locked(tmp_path)
    with pytest.raises(InputError, match=f"in use by process {holder.pid}"), locked(tmp_path):
        raise AssertionError("the lock was given twice")
    holder.kill()
    holder.join()
    assert not is_locked(tmp_path)
    with locked(tmp_path):
        assert is_locked(tmp_path)


def _segment(index=0, length=3, value=1.0):
    frames = np.random.default_rng(index).integers(0, 255, (length, 8, 8, 3), dtype=np.uint8)
    state = SegmentState(
        history=torch.full((1, 3, 8, 8), value),
        generator_state=torch.arange(16, dtype=torch.uint8),
        next_generator_state=torch.arange(16, dtype=torch.uint8) + 1,
    )
    record = SegmentRecord(
        index=index,
        key="key",
        previous_state="previous",
        state=state.identity(),
        frames_sha256=hash_frames(frames),
        num_frames=length,
        timings={"total": 1.0},
    )
    return record, frames, state


def test_a_segment_is_stored_losslessly_and_an_older_version_is_kept(tmp_path):
    store = SegmentStore(tmp_path)
    record, frames, state = _segment()
    store.save(record, frames, state, Fraction(8))
    assert store.record(0) == record
    assert store.finished() == [0]
    loaded = store.state(0)
    assert torch.equal(loaded.history, state.history)
    assert loaded.identity() == state.identity()
    assert np.array_equal(store.frames(0).frames(0, 3), frames)
    other = _segment(value=0.5)
    store.save(other[0], other[1], other[2], Fraction(8))
    assert store.record(0).state != record.state
    assert [path.name for path in store.superseded.iterdir()] == ["000-1"]


def test_the_state_s_identity_depends_on_history_and_noise():
    _, _, state = _segment()
    changed = SegmentState(
        history=state.history.clone().index_put_((torch.tensor(0),) * 4, torch.tensor(1.0000001)),
        generator_state=state.generator_state,
        next_generator_state=state.next_generator_state,
    )
    assert changed.identity() != state.identity()
    other_noise = SegmentState(
        history=state.history, generator_state=state.generator_state, next_generator_state=state.generator_state
    )
    assert other_noise.identity() != state.identity()


def test_a_segment_that_cannot_be_written_leaves_nothing_and_keeps_the_old_one(tmp_path, monkeypatch):
    store = SegmentStore(tmp_path)
    record, frames, state = _segment()
    store.save(record, frames, state, Fraction(8))

    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(OSError, match="No space"):
        store.save(*_segment(value=0.5), Fraction(8))
    assert store.record(0) == record
    assert sorted(path.name for path in store.folder.iterdir()) == ["000"]


def test_a_full_disk_is_told_from_what_safetensors_quotes(tmp_path, monkeypatch):
    store = SegmentStore(tmp_path)

    def refuse(*arguments, **options):
        raise SafetensorError(refuse.told)

    monkeypatch.setattr("safetensors.torch.save_file", refuse)
    refuse.told = "Error while serializing: I/O error: No space left on device (os error 28)"
    with (
        pytest.raises(InputError, match="the disk is full; free some space and resume"),
        plain_errors("write", tmp_path),
    ):
        store.save(*_segment(), Fraction(8))
    refuse.told = "Error while serializing: something else"
    with pytest.raises(InputError, match=r"state.safetensors cannot be written: .*something else"):
        store.save(*_segment(), Fraction(8))
    assert list(store.folder.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"garbage" * 9, {"history": 1.0}, {"history": 0.5}])
def test_a_damaged_state_is_set_aside(tmp_path, content):
    store = SegmentStore(tmp_path)
    store.save(*_segment(), Fraction(8))
    path = store.path(0) / "state.safetensors"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:  # readable, but a tensor is missing, or one bit has flipped
        whole = load_file(path) if content["history"] == 0.5 else {}
        save_file(whole | {name: torch.full((1, 3, 8, 8), value) for name, value in content.items()}, path)
    with pytest.raises(
        InputError, match=r"Segment 0 has a damaged state.safetensors and was set aside \(.*000-1\); resume to redo it"
    ):
        store.state(0)
    assert store.finished() == []


def test_unreadable_frames_are_noticed_before_the_segment_counts(tmp_path):
    store = SegmentStore(tmp_path)
    record, frames, state = _segment()
    with pytest.raises(InputError, match="cannot be read back"):
        store.save(record, np.roll(frames, 1, axis=0), state, Fraction(8))
    assert store.record(0) is None


def test_joined_frames_read_across_segments(tmp_path):
    store = SegmentStore(tmp_path)
    parts = [_segment(index, length) for index, length in enumerate((3, 2, 4))]
    for part in parts:
        store.save(*part, Fraction(8))
    whole = np.concatenate([frames for _, frames, _ in parts])
    joined = JoinedFrames(store, [0, 1, 2])
    assert len(joined) == 9
    assert np.array_equal(joined.frames(2, 7), whole[2:7])
    assert np.array_equal(np.concatenate(list(joined.chunks(2))), whole)
