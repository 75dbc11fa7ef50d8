"""The scripts in `examples/` do what they say, with the bundled files and the embedded checkpoint."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from run_material import FPS, write_sounding_video, write_video

from scail2.video import VideoReader, VideoWriter, probe, read_image, resize_cover

EXAMPLES = Path(__file__).parents[2] / "examples"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def frames(film: Path, count: int) -> np.ndarray:
    reader = VideoReader(film)
    assert len(reader) == count
    return reader.frames(0, count).astype(float)


def still(path: Path) -> np.ndarray:
    return resize_cover(read_image(path), 128, 128).astype(float)


def difference(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one - other).mean())


@pytest.mark.parametrize(("name", "count"), [("animate", 17), ("own_masks", 17)])
def test_one_call_animates_the_pictured_characters(tmp_path, name, count):
    example = load(name)
    example.main(str(tmp_path / "film.mp4"))
    film = frames(tmp_path / "film.mp4", count)
    picture = still(example.EXAMPLE / "reference.png")
    driving = VideoReader(example.EXAMPLE / "driving.mp4", size=(128, 128)).frames(0, count).astype(float)
    # The scene is the picture's, not the driving video's, and something moves in it.
    assert difference(film[0], picture) < 0.5 * difference(film[0], driving[0])
    assert difference(film[0], film[-1]) > 1


def test_a_long_film_is_written_segment_by_segment_in_the_driving_scene(tmp_path):
    example = load("long_video")
    example.main(str(tmp_path / "film.mp4"), frames=20)
    film = frames(tmp_path / "film.mp4", 29)  # two segments of 17 that share 5
    picture = still(example.EXAMPLE / "reference.png")
    driving = VideoReader(example.EXAMPLE / "driving.mp4", size=(128, 128)).frames(0, 29).astype(float)
    assert difference(film, driving) < 0.5 * difference(film[0], picture)
    assert probe(tmp_path / "film.mp4").fps == probe(example.EXAMPLE / "driving.mp4").fps


def test_a_run_is_kept_and_one_segment_rendered_again(tmp_path):
    load("run_directory").main(str(tmp_path / "film.mp4"))
    assert len(VideoReader(tmp_path / "film.mp4")) == 29
    kept = sorted(path.name for path in (tmp_path / "film.run" / "superseded").iterdir())
    assert len(kept) == 1
    assert kept[0].startswith("001")


def test_the_readme_goes_from_masks_to_a_film(tmp_path, monkeypatch):
    """Its one block of Python, word by word, on the embedded checkpoint and six frames with sound."""
    example = load("animate").EXAMPLE
    (tmp_path / "masks").mkdir()
    clip, masks = (VideoReader(example / name).frames(0, 6) for name in ("driving.mp4", "driving_mask.mkv"))
    sound = write_sounding_video(tmp_path / "sound.mkv", clip)
    with VideoWriter(tmp_path / "dance.mp4", FPS, clip.shape[1:3], audio_from=sound) as writer:
        writer.write(clip)
    write_video(tmp_path / "masks" / "driving_mask.mkv", masks)
    for name, copy in (("reference.png", "hero.png"), ("reference_mask.png", "masks/reference_mask.png")):
        (tmp_path / copy).write_bytes((example / name).read_bytes())
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"```python\n(.*?)```", (EXAMPLES.parent / "README.md").read_text(), flags=re.DOTALL)
    exec(compile(block, "README.md", "exec"), {})
    film = frames(tmp_path / "film.mp4", 6)
    assert probe("film.mp4").has_audio
    assert difference(film[0], still(example / "reference.png")) < 0.5 * difference(film[0], clip[0].astype(float))


def test_the_page_lists_every_script():
    page = (EXAMPLES / "README.md").read_text()
    assert all(f"[`{path.name}`]({path.name})" in page for path in EXAMPLES.glob("*.py"))
