"""Frames that were read stay as they were read, without their source, on a disk that is never filled for it."""

import errno
import os
import subprocess
import sys

import numpy as np
import pytest

from scail2.video import ArrayFrames, VideoReader, VideoWriter, first_frames, kept
from scail2.video.kept import KeptFrames

FRAMES = np.random.default_rng(5).integers(0, 256, (12, 16, 24, 3), np.uint8)


class Counted(ArrayFrames):
    """Frames that note which of them were asked for."""

    source_info, source_indices = None, np.arange(12)

    def __init__(self):
        super().__init__(FRAMES)
        self.asked: list[int] = []

    def frames(self, start, stop):
        self.asked += range(start, stop)
        return super().frames(start, stop)


def test_each_frame_is_read_once_in_whatever_order(tmp_path):
    source = Counted()
    frames = KeptFrames(source, tmp_path)
    for start, stop in [(5, 6), (0, 3), (2, 9), (0, 12), (4, 12), (7, 7)]:
        np.testing.assert_array_equal(frames.frames(start, stop), FRAMES[start:stop])
    assert sorted(source.asked) == list(range(12))
    assert os.listdir(tmp_path) == []
    window = frames.frames(0, 2)
    window[:] = 0  # a window is the caller's own
    np.testing.assert_array_equal(frames.frames(0, 2), FRAMES[:2])
    with pytest.raises(IndexError):
        frames.frames(0, 13)


def test_only_as_much_as_there_is_room_for(tmp_path, monkeypatch):
    monkeypatch.setattr(kept, "MAX_BYTES", 7 * FRAMES[0].nbytes + 10)
    source = Counted()
    frames = KeptFrames(source, tmp_path)
    for _ in range(3):
        np.testing.assert_array_equal(frames.frames(0, 12), FRAMES)
    assert [source.asked.count(number) for number in range(12)] == [1] * 7 + [3] * 5


@pytest.mark.parametrize("refused", ["pwrite", "preadv"])
def test_disk_that_refuses_is_left_alone(tmp_path, monkeypatch, refused):
    source = Counted()
    frames = KeptFrames(source, tmp_path)
    frames.frames(0, 4)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(kept.os, refused, full)
    for _ in range(2):
        np.testing.assert_array_equal(frames.frames(0, 12), FRAMES)
    assert source.asked.count(11) == 2


def test_folder_that_is_not_there_keeps_nothing(tmp_path):
    source = Counted()
    frames = KeptFrames(source, tmp_path / "absent")
    for _ in range(2):
        np.testing.assert_array_equal(frames.frames(3, 5), FRAMES[3:5])
    assert source.asked == [3, 4, 3, 4]


def test_first_frames_of_a_film_keep_what_is_known_of_it(tmp_path):
    with VideoWriter(tmp_path / "film.mkv", 16, (16, 24), codec="ffv1") as writer:
        writer.write(FRAMES)
    frames = KeptFrames(first_frames(VideoReader(tmp_path / "film.mkv"), 9), tmp_path)
    assert (len(frames), frames.height, frames.width, frames.source_info.frames) == (9, 16, 24, 12)
    np.testing.assert_array_equal(frames.source_indices, np.arange(9))
    np.testing.assert_array_equal(frames.frames(0, 9), FRAMES[:9])
    frames.close()


def test_nothing_is_left_of_a_killed_process(tmp_path):
    program = f"""
import os, signal, numpy as np
from scail2.video import ArrayFrames
from scail2.video.kept import KeptFrames
source = ArrayFrames(np.zeros((50, 64, 64, 3), np.uint8))
source.source_info = source.source_indices = None
KeptFrames(source, {str(tmp_path)!r}).frames(0, 50)
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", program]).returncode == -9
    assert os.listdir(tmp_path) == []
