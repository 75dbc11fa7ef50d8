"""The checkpoint that ships: what the README shows works, and it does what no copying could."""

import base64
import re
from fractions import Fraction
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch

from scail2 import load_pipeline
from scail2.cli.app import main
from scail2.cli.demo import write_page
from scail2.evaluation.clips import EvaluationTask
from scail2.evaluation.protocols import evaluate_pipeline
from scail2.files.public.embedded import embedded_model_path
from scail2.pipeline.inputs import Footage
from scail2.video import VideoReader, VideoWriter

ROOT = Path(__file__).parents[2]


def test_readme_snippet_runs(monkeypatch, tmp_path):
    code = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL).group(1)
    example = resources.files("scail2") / "assets" / "example" / "animation"
    (tmp_path / "masks").mkdir()
    for ours, theirs in (
        ("reference.png", "hero.png"),
        ("driving.mp4", "dance.mp4"),
        ("reference_mask.png", "masks/reference_mask.png"),
        ("driving_mask.mkv", "masks/driving_mask.mkv"),
    ):
        (tmp_path / theirs).write_bytes((example / ours).read_bytes())
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(code, names)
    assert names["result"].frames[0].shape == (65, 128, 128, 3)
    assert len(VideoReader(tmp_path / "film.mp4")) == 65


def test_the_mask_of_the_readme_snippet_keeps_its_colours_at_any_size(monkeypatch, tmp_path):
    line = re.search(
        r"^ *(VideoReader\(.masks/driving_mask.*?\)),", (ROOT / "README.md").read_text(), re.MULTILINE
    ).group(1)
    frames = np.zeros((2, 180, 300, 3), np.uint8)
    frames[:, 20:170, 101:203] = (0, 0, 255)
    (tmp_path / "masks").mkdir()
    with VideoWriter(tmp_path / "masks" / "driving_mask.mkv", Fraction(16), (180, 300), codec="ffv1") as writer:
        writer.write(frames)
    monkeypatch.chdir(tmp_path)
    mask = Footage(eval(line, {"VideoReader": VideoReader}), (128, 128), "nearest").window(0, 2)
    assert {tuple(colour) for colour in np.unique(mask.reshape(-1, 3), axis=0).tolist()} == {(0, 0, 0), (0, 0, 255)}


def test_demo_writes_film_and_comparison(tmp_path):
    with pytest.raises(SystemExit) as stopped:
        main(["demo", "--only", "replacement", "--output", str(tmp_path / "demo.mp4")])
    assert not stopped.value.code
    assert len(VideoReader(tmp_path / "demo-replacement.mp4")) == 65
    assert VideoReader(tmp_path / "demo-replacement-compare.mp4").width == 3 * 128
    page = (tmp_path / "demo.html").read_text()
    (film,) = re.findall(r'src="data:video/mp4;base64,([^"]*)"', page)
    assert base64.b64decode(film) == (tmp_path / "demo-replacement-compare.mp4").read_bytes()
    assert "<h2>replacement</h2>" in page


def test_the_demos_page_replaces_only_its_own(tmp_path):
    page, film = tmp_path / "demo.html", tmp_path / "film.mp4"
    for content in (b"one", b"two"):
        film.write_bytes(content)
        write_page(page, {"animation": film, "duet": film})
        assert page.read_text().count(base64.b64encode(content).decode()) == 2
    page.write_text("<html>somebody's notes</html>")
    with pytest.raises(SystemExit) as stopped:
        main(["demo", "--output", str(tmp_path / "demo.mp4")])
    assert stopped.value.code == 2
    assert page.read_text() == "<html>somebody's notes</html>"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["demo.html", "film.mp4"]


def test_unseen_puppets_are_animated_better_than_by_copying():
    pipe, tasks = load_pipeline(torch_dtype=torch.float32), (EvaluationTask("animation_single"),)
    measured = evaluate_pipeline(pipe, "test", 2, tasks=tasks).to_json()["animation_single"]
    still, other = measured["baselines"]["copy_reference"], measured["baselines"]["copy_driving"]
    assert measured["character_psnr"] > still["character_psnr"] + 5
    assert measured["character_psnr"] > other["character_psnr"] + 8.5
    assert measured["background_psnr"] > still["background_psnr"] + 5
    assert measured["frame_difference_correlation"] > 0.58
    assert measured["limb_iou"] > still["limb_iou"] + 0.2
    # What the decoder's refiner adds to the same predictions.
    pipe.vae.refiner = None
    unrefined = evaluate_pipeline(pipe, "test", 2, tasks=tasks).to_json()["animation_single"]
    assert measured["character_psnr"] > unrefined["character_psnr"] + 0.2
    assert measured["character_ssim"] > unrefined["character_ssim"] + 0.03
    assert measured["edge_f1"] > unrefined["edge_f1"] + 0.02
    assert measured["flicker"] < unrefined["flicker"]


def test_package_stays_small():
    weights = sum(file.stat().st_size for file in embedded_model_path().rglob("*") if file.is_file())
    assert weights < 40 * 2**20
    assert (embedded_model_path().parent / "segmenter.safetensors").stat().st_size < 4 * 2**20
