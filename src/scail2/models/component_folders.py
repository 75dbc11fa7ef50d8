"""Components of a pipeline from their folders, once the folder's own words are checked.

diffusers builds whatever a configuration asks for, so the arguments of our own classes are typed and compared with the
tensors first; `scail2.checkpoints.model_folder` does what can be done without torch.
"""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scail2.checkpoints.folder_loading import load_folder
from scail2.checkpoints.model_folder import (
    arguments_of,
    check_component,
    check_pipeline,
    read_config,
    shapes_in,
)
from scail2.errors import InputError
from scail2.models.autoencoder import AutoencoderPatchTransform
from scail2.models.transformer import SCAIL2Transformer3DModel

_OWN: dict[str, Any] = {each.__name__: each for each in (SCAIL2Transformer3DModel, AutoencoderPatchTransform)}


def load_component_folder(kind: Any, folder: str | Path, **options: Any) -> Any:
    """`load_folder` for a folder that may hold one of our own classes, whose arguments are checked too."""
    check_component(Path(folder))
    _check_class(Path(folder))
    return load_folder(kind, folder, **options)


def check_classes(folder: Path) -> None:
    """What `check_pipeline` leaves out because it needs torch: the arguments of our own classes."""
    for name in check_pipeline(folder):
        if (folder / name).is_dir():
            _check_class(folder / name)


def _check_class(folder: Path) -> None:
    """The arguments of our own classes; imports torch."""
    config, where = read_config(folder), folder / "config.json"
    kind = _OWN.get(config.get("_class_name", ""))
    if kind is not None:
        arguments = arguments_of(kind, config, where)
        if kind is AutoencoderPatchTransform:
            _check_patch_transform(arguments, shapes_in(folder), where)


def _check_patch_transform(arguments: Mapping[str, Any], shapes: Mapping[str, Any] | None, where: Path) -> None:
    """Bases decide how large the module is that would be made: they are compared first."""
    if shapes is None:
        return
    defaults = inspect.signature(AutoencoderPatchTransform.__init__).parameters
    size, frames, channels = (
        arguments.get(name, defaults[name].default)
        for name in ("scale_factor_spatial", "scale_factor_temporal", "z_dim")
    )
    wanted = {"image_basis": (channels, 3 * size**2), "video_basis": (channels, frames * 3 * size**2)}
    for name, shape in wanted.items():
        if shapes.get(name) != shape:
            found = "missing" if name not in shapes else f"of shape {shapes[name]}"
            raise InputError(f"{where} makes '{name}' a tensor of shape {shape}, but in its weights it is {found}.")
