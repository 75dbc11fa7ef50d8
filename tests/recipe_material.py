"""What tests of the experiments in `recipes/` share: a toy model in the place of the embedded one, and the recipes' commands."""

import importlib.util
from pathlib import Path

from diffusers import FlowMatchEulerDiscreteScheduler
from tiny import bare_transformer
from typer.testing import CliRunner

from scail2.models.autoencoder import AutoencoderPatchTransform
from scail2.pipeline import SCAIL2Pipeline

RECIPES = Path(__file__).parents[1] / "recipes"


def toy_model(folder: Path) -> Path:
    """A pipeline folder for clips of 64x64, whose autoencoder only rearranges pixels."""
    transformer = bare_transformer(
        in_channels=68, out_channels=64, num_layers=3, rope_reference_height_shift=4, rope_driving_width_shift=4
    )
    SCAIL2Pipeline(
        transformer=transformer,
        vae=AutoencoderPatchTransform(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=4.0),
        default_preset="nano",
        segment_frame_length=9,
        native_height=64,
        native_width=64,
    ).save_pretrained(folder / "model")
    return folder / "model"


class Experiment:
    """A recipe of experiments in its own folder, verb by verb."""

    def __init__(self, name: str, folder: Path) -> None:
        spec = importlib.util.spec_from_file_location(name, RECIPES / f"{name}.py")
        self.module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self.module)
        self.folder = folder

    def run(self, verb: str, *options: object) -> None:
        """One step; it must succeed."""
        result = CliRunner().invoke(self.module.app, [verb, str(self.folder), *map(str, options)])
        assert result.exit_code == 0, result.output or result.exception

    def times(self) -> dict[Path, int]:
        """When weights, caches and measures were last written."""
        written = [
            *self.folder.rglob("*.safetensors"),
            *self.folder.rglob("*.tar"),
            *self.folder.glob("measures/*.json"),
        ]
        return {path: path.stat().st_mtime_ns for path in written}
