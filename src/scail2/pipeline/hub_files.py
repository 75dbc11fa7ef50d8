"""Folders and files that were named by a path or by a repository on the Hub."""

import re
from pathlib import Path
from typing import Any

from scail2.errors import InputError

_REPOSITORY = re.compile(r"\w[\w.-]*/\w[\w.-]*")
_HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "token", "revision")


def repository_folder(source: str | Path, kwargs: dict[str, Any]) -> Path:
    """A folder as it is, or a whole repository, downloaded first; takes the Hub's options out of ``kwargs``."""
    if Path(source).is_dir():
        if not (Path(source) / "model_index.json").is_file():
            raise InputError(f"{source} holds no saved pipeline: there is no model_index.json in it.")
        return Path(source)
    if Path(source).exists() or not _REPOSITORY.fullmatch(str(source)):
        raise InputError(
            f"There is no folder {source}: name one with a saved pipeline, or a repository on the Hub (owner/name)."
        )
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(str(source), **_taken(kwargs, _HUB_OPTIONS)))


def lora_file(source: str | Path, kwargs: dict[str, Any]) -> Path:
    """The LoRA file meant by a path or a Hub name; takes the options it uses out of ``kwargs``."""
    weight_name = kwargs.pop("weight_name", None)
    options = _taken(kwargs, (*_HUB_OPTIONS, "subfolder"))
    path = Path(source)
    if path.is_file():
        return path
    if weight_name is None:
        raise InputError(
            f"there is no LoRA file {source}: for a folder or a Hub repository, name the file (weight_name)."
        )
    if path.is_dir():
        return path / (options.get("subfolder") or "") / weight_name
    from huggingface_hub import hf_hub_download

    return Path(hf_hub_download(str(source), weight_name, **options))


def _taken(kwargs: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: kwargs.pop(name) for name in names if name in kwargs}
