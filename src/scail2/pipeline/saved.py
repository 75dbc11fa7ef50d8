"""How a pipeline is saved and comes back: any folder or repository, checked before diffusers builds anything from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from diffusers import DiffusionPipeline

from scail2.checkpoints.model_folder import forget_origin, loading

# Imports our classes too: diffusers resolves out-of-tree components only in modules that are imported already.
from scail2.models.component_folders import check_classes
from scail2.pipeline.hub_files import repository_folder


class SavedPipeline(DiffusionPipeline):
    """A pipeline of diffusers whose classes live outside of it."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **kwargs: Any) -> Self:
        """Load a saved pipeline from a local folder, or from the Hub by first downloading the whole repository.

        diffusers refuses to download pipelines whose classes live outside of it; a folder that is already there it
        loads like any other.
        """
        folder = repository_folder(pretrained_model_name_or_path, kwargs)
        check_classes(folder)
        with loading(folder):
            return super().from_pretrained(str(folder), **kwargs)

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> None:
        """As every pipeline's, without the paths the components were loaded from."""
        super().save_pretrained(save_directory, **kwargs)
        forget_origin(Path(save_directory))
