"""From the names of a model and its LoRAs to the files and folders that they stand for."""

from __future__ import annotations

from pathlib import Path

from scail2.checkpoints.downloads import local_path, refuse_absent
from scail2.errors import InputError
from scail2.files.public.embedded import embedded_model_path, lora_place, refuse_missing_lora
from scail2.files.user_paths import check_strength, split_lora
from scail2.loading.component_files import ENCODERS, find_components


def parse_lora(lora: str | Path | tuple[str | Path, float]) -> tuple[Path, float]:
    """``PATH``, ``PATH:STRENGTH`` or (path, strength) -> path and strength (1 if not given); the file must exist.

    A name that is no path may be that of an adapter of the embedded model.
    """
    name, strength = lora if isinstance(lora, tuple) else split_lora(str(lora))
    path = lora_place(name)
    refuse_missing_lora(path)
    return path, 1.0 if strength is None else check_strength(float(strength), path)


def model_place(model: str | Path | None) -> Path:
    """The file or folder of a model: what `scail2.load_pipeline` takes. InputError where there is none."""
    if model is None:
        path = embedded_model_path()
        if not (path / "model_index.json").is_file():
            raise InputError("This installation has no embedded model: name a model folder or file.")
        return path
    refuse_absent(model)
    return local_path(model)


def transformer_place(model: Path) -> Path:
    """The file or folder of a model's transformer."""
    return model / "transformer" if (model / "model_index.json").is_file() else find_components(model).transformer


def encoder_places(model: Path) -> list[Path]:
    """Files and folders of a model that are needed only until prompt and reference are encoded, as far as they are there."""
    if (model / "model_index.json").is_file():
        return [model / name for name in ENCODERS if (model / name).exists()]
    files = find_components(model)
    return [place for place in (files.tokenizer, files.text_encoder, files.image_encoder) if place is not None]
