"""The Python in docs/video.md and docs/long-video.md runs as printed."""

import re

import numpy as np
import pytest
from film_samples import add_sound, numbered_frame, write_film
from PIL import Image

from scail2.drift import measure as drift
from scail2.video import VideoReader


@pytest.fixture
def user_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    add_sound(write_film(tmp_path / "silent.mp4", 40, fps=20), tmp_path / "driving.mp4", seconds=2)
    Image.fromarray(numbered_frame(9)).save(tmp_path / "reference.png")
    report = drift.DriftReport()
    frames = np.stack([numbered_frame(i) for i in range(6)])
    report.add(drift.measure_segment(frames, reference=None))
    (tmp_path / "RUN").mkdir()
    report.save(tmp_path / "RUN" / "drift.json")
    return tmp_path


@pytest.mark.parametrize("page", ["video.md", "long-video.md"])
def test_snippets(user_folder, pytestconfig, page, capsys):
    text = (pytestconfig.rootpath / "docs" / page).read_text()
    snippets = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    assert snippets
    for snippet in snippets:
        exec(compile(snippet, page, "exec"), {})
    if page == "video.md":
        assert "32 16 h264" in capsys.readouterr().out
        copy = VideoReader(user_folder / "copy.mp4")
        assert (len(copy), copy.height, copy.has_audio) == (32, 128, True)
