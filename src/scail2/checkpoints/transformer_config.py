"""Where a transformer file says what network it is: in its folder, its header, a configuration beside it, or its shapes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scail2.checkpoints import official_names as names
from scail2.checkpoints.dialects import TransformerView
from scail2.checkpoints.model_folder import read_config
from scail2.errors import InputError
from scail2.files.documents import parse_json

CLASS_NAME = "SCAIL2Transformer3DModel"  # in the configuration of a diffusers folder
CONFIG_KEY = "scail2_config"  # safetensors header entry in the files we write: the configuration in published words


def diffusers_folder(path: Path) -> Path | None:
    """The folder with our transformer in diffusers layout, if ``path`` is it or is a pipeline that contains it."""
    for folder in (path, path / "transformer"):
        config = read_config(folder) if folder.is_dir() else {}
        if config.get("_class_name") == CLASS_NAME:
            return folder
    return None


def resolve_config(view: TransformerView, config: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Keyword arguments of the model class: what is given, else the file's header, ``config.json``, or shapes."""
    beside, header = _config_beside(view.file.path), _config_in_header(view)
    try:
        return names.resolve_config(view.shapes, beside, header, config or {})
    except InputError as error:
        raise InputError(f"{view.file.path}: {error}") from error


def _config_in_header(view: TransformerView) -> dict[str, Any]:
    where = f"the configuration in the header of {view.file.path}"
    return parse_json(view.file.metadata.get(CONFIG_KEY, "{}"), dict[str, Any], where)


def _config_beside(path: Path) -> dict[str, Any]:
    words = read_config(path.parent)
    return words if "dim" in words and "num_heads" in words else {}
