"""What tests of whole trainings share: a toy model in the place of the embedded one, and the commands of `recipes/`."""

import importlib.util
from pathlib import Path

from diffusers import FlowMatchEulerDiscreteScheduler
from tiny import bare_transformer
from typer.testing import CliRunner

from scail2.models.autoencoder import AutoencoderPatchTransform
from scail2.pipeline import SCAIL2Pipeline

RECIPES = Path(__file__).parents[1] / "recipes"


def toy_model(folder: Path, side: int = 64, **autoencoder: int) -> Path:
    """A pipeline folder of the embedded checkpoint's classes for clips of side x side; its autoencoder only rearranges pixels."""
    vae, shift = AutoencoderPatchTransform(**autoencoder), side // 16
    channels = vae.config.z_dim
    transformer = bare_transformer(
        in_channels=channels + 4,
        out_channels=channels,
        num_layers=3,
        rope_reference_height_shift=shift,
        rope_driving_width_shift=shift,
    )
    SCAIL2Pipeline(
        transformer=transformer,
        vae=vae,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=4.0),
        default_preset="nano",
        segment_frame_length=9,
        native_height=side,
        native_width=side,
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
