"""MoCha, run as its authors' script in an environment of its own: replaces one character, told by a mask of the first frame."""

import csv
import io
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scail2.errors import InputError
from scail2.files.storage import write_bytes
from scail2.modes import AnimationMode
from scail2.synthesis.generators.driving_films import face_close_up
from scail2.synthesis.generators.external import Tool, check_clip, read_result, write_film, write_picture
from scail2.synthesis.generators.facts import MOCHA
from scail2.synthesis.generators.protocol import Array, Character, Clip, GeneratorFacts, Motion
from scail2.synthesis.performers import performers, pictured

_SIZE, _LONGEST, _FACE_SIDE = (480, 832), 81, 512
_COLUMNS = ("source_video", "source_mask", "reference_1", "reference_2")


@dataclass(frozen=True, kw_only=True)
class MochaGenerator:
    """MoCha's `inference_mocha.py`, in which the paths of the Wan2.1 weights have been filled in.

    Attributes:
        tool: environment and code; the code pins an old transformers, so the environment is its own.
        checkpoint: MoCha's weights, a path from the tool's folder or an absolute one.
        script: the script in the tool's folder.
        guidance_scale: as the script's `--cfg_scale`.
    """

    tool: Tool
    checkpoint: str = "checkpoints/step18500.ckpt"
    script: str = "inference_mocha.py"
    guidance_scale: float = 5.0

    @property
    def facts(self) -> GeneratorFacts:
        """What it is and can do."""
        return MOCHA

    def describe(self) -> dict[str, Any]:
        """Settings, the script's hash, the versions in the tool's environment."""
        settings = {name: each for name, each in asdict(self).items() if name != "tool"}
        return {"generator": MOCHA.name} | settings | self.tool.versions(self.script)

    def generate(
        self, character: Character, motion: Motion, mode: AnimationMode, masks: Array | None, seed: int
    ) -> Clip:
        """See `Generator`; the seed is not used, for the script has its own.

        Raises:
            GenerationError: the script failed.
            InputError: as the facts say, or the tool is not where it should be.
        """
        regions = performers(motion, masks)
        self.facts.check(mode, len(regions))
        check_clip(motion, MOCHA.name, [_SIZE], _LONGEST)
        (region,) = regions.values()
        if not region[0].any():
            raise InputError(
                f"{motion.name}: whoever is to be replaced is not in the first frame, and that is all MoCha is told."
            )
        self.tool.check(self.script)
        with tempfile.TemporaryDirectory(prefix="scail2-mocha-") as name:
            folder = Path(name)
            table = _written(folder, character, motion, region[0])
            arguments = [self.script, "--data_path", str(table), "--ckpt_path", self.checkpoint]
            arguments += ["--output_dir", str(folder / "results"), "--cfg_scale", str(self.guidance_scale)]
            self.tool.run(arguments, "MoCha")
            return read_result(folder / "results" / "source_replaced.mp4", motion, "MoCha")


def _written(folder: Path, character: Character, motion: Motion, region: Array) -> Path:
    """Writes what the script reads; the table that names it. References stand on white, as its page asks."""
    write_film(folder / "source.mp4", motion.clip)
    write_picture(folder / "mask.png", np.repeat(region[..., None], 3, axis=-1).astype(np.uint8) * 255)
    shown = np.any(list(pictured(character).values()), axis=0)
    write_picture(folder / "reference_1.png", np.where(shown[..., None], character.image, np.uint8(255)))
    face = face_close_up(character.image, _FACE_SIDE)
    if face is not None:
        write_picture(folder / "reference_2.png", face)
    names = ("source.mp4", "mask.png", "reference_1.png", "reference_2.png")
    row = [str(folder / each) if (folder / each).exists() else "None" for each in names]
    table = io.StringIO()
    csv.writer(table).writerows([_COLUMNS, row])
    write_bytes(folder / "data.csv", table.getvalue().encode())
    return folder / "data.csv"
