"""The small model that ships inside the package, and the adapters that come with it."""

import re
from pathlib import Path

from scail2.errors import InputError
from scail2.files.user_paths import expanded

CAN = (
    "animate one or two drawn puppets with thick limbs, slow motion, a still camera; stand them in for others",
    "128x128 pixels, 16 frames a second, any length",
    "run on a CPU, without any download",
    "draw hands closer with --lora nano-dpo, at a little of the background",
)
CANNOT = (
    "photographs, people, animals, faces and fingers: that takes the 14B",
    "prompts: it has no text encoder",
)


def embedded_model_path() -> Path:
    """Its folder."""
    return Path(__file__).parents[2] / "assets" / "nano"


def lora_place(name: str | Path, folder: Path = Path()) -> Path:
    """The file of a LoRA: a path, counted from ``folder``, or where nothing is there an adapter of the embedded model.

    The path where there is neither.
    """
    place = folder / expanded(name)
    return place if place.exists() else embedded_lora(str(name)) or place


def refuse_missing_lora(path: Path) -> None:
    """Raises `InputError` where there is no such file."""
    if path.exists():
        return
    told = f"There is no LoRA file {path}."
    if ":" in path.name:
        told += " A strength behind its last colon would be a number."
    if not path.suffix:
        shipped = sorted(each.stem for each in (embedded_model_path() / "loras").glob("*.safetensors"))
        told += f" With the embedded model comes {', '.join(shipped)}."
    raise InputError(told)


def embedded_lora(name: str) -> Path | None:
    """The file of an adapter of the embedded model by its name, such as ``nano-dpo``; None where there is none of that name."""
    path = embedded_model_path() / "loras" / f"{name}.safetensors"
    return path if re.fullmatch(r"[a-z0-9-]+", name) and path.is_file() else None
