"""SCAIL, the first, run as its authors' scripts: its own pose stage, then its model; animates one character."""

import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from scail2.files.storage import write_bytes
from scail2.modes import AnimationMode
from scail2.synthesis.generators.external import (
    Tool,
    check_clip,
    read_result,
    write_film,
    write_picture,
    write_settings,
)
from scail2.synthesis.generators.facts import SCAIL
from scail2.synthesis.generators.protocol import Array, Character, Clip, GeneratorFacts, Motion
from scail2.synthesis.performers import marked
from scail2.video import resize_cover

_SIZES, _LONGEST = ((512, 896), (896, 512)), 81
# What the authors' launcher sets for one GPU.
_ONE_PROCESS = (("WORLD_SIZE", "1"), ("RANK", "0"), ("LOCAL_RANK", "0"), ("LOCAL_WORLD_SIZE", "1"))


@dataclass(frozen=True, kw_only=True)
class Scail1Generator:
    """SCAIL-Preview.

    Attributes:
        tool: environment and code of the model.
        pose_tool: environment and code of the pose stage (the repository's `scail_pose`), which wants one of its own.
        align: fit the performer's skeleton to the character in space.
        model_config, sampling_config: files below the tool's folder.
    """

    tool: Tool
    pose_tool: Tool
    align: bool = True
    script: str = "sample_video.py"
    pose_script: str = "NLFPoseExtract/process_pose.py"
    model_config: str = "configs/video_model/Wan2.1-i2v-14Bsc-pose-xc-latent.yaml"
    sampling_config: str = "configs/sampling/wan_pose_14Bsc_xc_txt.yaml"

    @property
    def facts(self) -> GeneratorFacts:
        """What it is and can do."""
        return SCAIL

    def describe(self) -> dict[str, Any]:
        """Settings, the scripts' hashes, the versions in both environments."""
        settings = {name: each for name, each in asdict(self).items() if name not in ("tool", "pose_tool")}
        model = self.tool.versions(self.script, self.model_config, self.sampling_config)
        return {
            "generator": SCAIL.name,
            **settings,
            "model": model,
            "poses": self.pose_tool.versions(self.pose_script),
        }

    def generate(
        self, character: Character, motion: Motion, mode: AnimationMode, masks: Array | None, seed: int
    ) -> Clip:
        """See `Generator`. Masks are only counted: more than one performer is refused.

        Raises:
            GenerationError: one of the stages failed.
            InputError: as the facts say, or a tool is not where it should be.
        """
        given = motion.masks if masks is None else masks
        self.facts.check(mode, 1 if given is None else max(1, len(marked(given))))
        check_clip(motion, SCAIL.name, _SIZES, _LONGEST)
        self.pose_tool.check(self.pose_script)
        self.tool.check(self.script, self.model_config, self.sampling_config)
        with tempfile.TemporaryDirectory(prefix="scail2-scail-") as name:
            pair, results = Path(name) / "pair", Path(name) / "results"
            pair.mkdir()
            write_film(pair / "driving.mp4", motion.clip)
            write_picture(pair / "ref.png", resize_cover(character.image[None], *motion.clip.size)[0])
            self.pose_tool.run(self._pose_arguments(pair, motion.clip.size), "SCAIL's pose stage")
            settings = _written(Path(name), pair, results, character.caption)
            configs = [self.model_config, self.sampling_config, str(settings)]
            single = replace(self.tool, environment=(*_ONE_PROCESS, *self.tool.environment))
            single.run([self.script, "--base", *configs, "--seed", str(seed)], "SCAIL")
            return read_result(results / "pair" / "pair_output_000000.mp4", motion, "SCAIL")

    def _pose_arguments(self, pair: Path, size: tuple[int, int]) -> list[str]:
        align = ["--use_align"] if self.align else []
        # Two words, as a shell makes of the authors' own example.
        return [self.pose_script, "--subdir", str(pair), *align, "--resolution", f"[{size[0]},", f"{size[1]}]"]


def _written(folder: Path, pair: Path, results: Path, caption: str) -> Path:
    """Writes the list of what to sample, and settings that name it; the settings' path."""
    words = " ".join(caption.replace("@@", " ").split()) or "None"
    write_bytes(folder / "input.txt", f"{words}@@{pair}\n".encode())
    given = {"input_type": "txt", "input_file": str(folder / "input.txt"), "output_dir": str(results)}
    write_settings(folder / "settings.yaml", {"args": given})
    return folder / "settings.yaml"
