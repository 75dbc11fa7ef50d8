"""The whole loop as a user types it, at toy size: synthesize → cache → train (a few steps) → assemble → evaluate."""

import json

import pytest
from recipe_material import toy_model

from scail2.cli.app import main
from scail2.models.transformer import SCAIL2Transformer3DModel
from scail2.pipeline import SCAIL2Pipeline

TASKS = ("animation_single", "replacement_single", "animation_multi", "replacement_multi")
FIGURES = ("character_psnr", "character_ssim", "background_psnr", "frame_difference_correlation", "limb_iou")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return toy_model(tmp_path_factory.mktemp("toy"))


def run(*arguments: object) -> None:
    """Runs the command in this process; any exit code but 0 fails the test."""
    with pytest.raises(SystemExit) as stopped:
        main([str(argument) for argument in arguments])
    assert not stopped.value.code, arguments


def test_synthesize_cache_train_evaluate(model, tmp_path):
    pairs, latents, trained, report = (tmp_path / name for name in ("pairs", "latents", "run", "report.json"))
    run("synthesize", "--recipe", "nano", "--pairs", 40, "--frames", 9, "--size", 64, "--no-poses",
        "--workers", 1, "--out", pairs)  # fmt: skip
    run("cache", "--source", pairs, "--recipe", "nano", "--samples", 64,
        "--autoencoder", model / "vae", "--workers", 1, "--out", latents)  # fmt: skip
    train = ("train", "nano_continue", "--data", latents, "--model", model, "--output", trained, "--no-compile")
    run(*train, "--steps", 2, "--batch-size", 2)
    run(*train, "--steps", 4, "--batch-size", 2, "--sheets", 2, "--sheet-data", latents)
    steps = [json.loads(line)["step"] for line in (trained / "log.jsonl").read_text().splitlines()]
    assert steps[-1] == 4
    assert [path.name for path in (trained / "samples").iterdir()] == ["step-0000004.png"]

    pipeline = SCAIL2Pipeline.from_pretrained(model)
    pipeline.transformer = SCAIL2Transformer3DModel.from_pretrained(trained / "transformer")
    pipeline.save_pretrained(tmp_path / "model")
    run("evaluate", tmp_path / "model", "--clips", 1, "--frames", 9, "--size", 64, "--steps", 1, "--json", report)
    measures = json.loads(report.read_text())
    for task in TASKS:
        for figures in (measures[task], *measures[task]["baselines"].values()):
            assert all(isinstance(figures[name], float) for name in FIGURES), task
        assert (measures[task]["width"], measures[task]["height"]) == (64, 64)
    baselines = measures["replacement_single"]["baselines"]
    # Outside the character the driving video is the truth, but for the dancer it shows there.
    assert baselines["copy_driving"]["background_psnr"] > baselines["copy_reference"]["background_psnr"] + 5
