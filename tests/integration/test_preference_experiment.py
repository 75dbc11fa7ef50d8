"""The experiment of `recipes/preferences.py` at toy size: it goes through, tells numbers, and does nothing twice."""

import importlib.util
import json
from pathlib import Path

import pytest
from diffusers import FlowMatchEulerDiscreteScheduler
from tiny import bare_transformer
from typer.testing import CliRunner

from scail2.models.autoencoder import AutoencoderPatchTransform
from scail2.pipeline import SCAIL2Pipeline

RECIPE = Path(__file__).parents[2] / "recipes" / "preferences.py"


@pytest.fixture
def toy_model(tmp_path):
    transformer = bare_transformer(
        in_channels=68, out_channels=64, num_layers=1, rope_reference_height_shift=4, rope_driving_width_shift=4
    )
    SCAIL2Pipeline(
        transformer=transformer,
        vae=AutoencoderPatchTransform(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=4.0),
        default_preset="nano",
        segment_frame_length=9,
        native_height=64,
        native_width=64,
    ).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_the_experiment_goes_through_and_does_nothing_twice(toy_model, tmp_path):
    spec = importlib.util.spec_from_file_location("preference_experiment", RECIPE)
    experiment = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(experiment)
    folder = tmp_path / "hands"

    def run(verb: str, *options: object) -> None:
        result = CliRunner().invoke(experiment.app, [verb, str(folder), *map(str, options)])
        assert result.exit_code == 0, result.output or result.exception

    size = ("--model", toy_model, "--size", 64, "--frames", 5)
    steps = {
        "data": (*size, "--pairs", 4, "--workers", 1),
        "train": ("--model", toy_model, "--seeds", 1, "--steps", 1, "--batch-size", 2, "--arm", "sft", "--arm", "dpo"),
        "measure": (*size, "--clips", 2),
        "table": (),
    }
    for verb, options in steps.items():
        run(verb, *options)
    rows = json.loads((folder / "table.json").read_text())
    assert [(row["arm"], row["against"]) for row in rows] == [("sft", "start"), ("dpo", "start"), ("dpo", "sft")]
    differences = {(row["arm"], row["against"]): row["hand_psnr"]["mean"] for row in rows}
    assert differences["sft", "start"] != 0  # a step changes something
    assert differences["dpo", "sft"] == pytest.approx(differences["dpo", "start"] - differences["sft", "start"])
    done = {path: path.stat().st_mtime_ns for path in folder.rglob("*.safetensors")}
    done |= {path: path.stat().st_mtime_ns for path in folder.glob("measures/*.json")}
    assert len(done) > 4
    for verb in ("data", "train", "measure"):
        run(verb, *steps[verb])
    assert done == {path: path.stat().st_mtime_ns for path in done}
