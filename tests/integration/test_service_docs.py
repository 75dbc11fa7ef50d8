"""The commands of docs/serving.md, run as they are against a real service of the embedded model."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from service_material import ThreadWorker, served

from scail2.serving.settings import ServiceSettings
from scail2.video import VideoReader

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "src" / "scail2" / "assets" / "example" / "animation"


def blocks() -> dict[str, str]:
    """Code blocks that are marked to be run, by their mark."""
    text = (ROOT / "docs" / "serving.md").read_text()
    return dict(re.findall(r"<!-- run: (\w+) -->\n```\w+\n(.*?)```", text, re.DOTALL))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("docs")
    for name in ("reference.png", "driving.mp4"):
        shutil.copy(EXAMPLE / name, folder)
    with served(ServiceSettings(runs=folder / "runs"), ThreadWorker) as http:
        yield folder, str(http.base_url).rstrip("/")


def run(command, place, text):
    folder, address = place
    text = text.replace("http://127.0.0.1:8420", address)
    done = subprocess.run([*command, text], cwd=folder, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done.stdout


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_curl_commands_make_two_films(place):
    folder, told = run(["bash", "-euo", "pipefail", "-c"], place, blocks()["curl"])
    assert "finished" in told
    first, again = (VideoReader(folder / name).frames(0, 17) for name in ("film.mp4", "again.mp4"))
    assert first.shape == again.shape == (17, 128, 128, 3)
    assert (first != again).any()


def test_the_python_lines_tell_the_segment_and_download(place):
    folder, told = run([sys.executable, "-c"], place, blocks()["python"])
    assert told.splitlines() == ["segment 0"]
    assert len(VideoReader(folder / "film.mp4")) == 17
