"""How a pipeline is saved and comes back: any folder or repository, checked before diffusers builds anything from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from diffusers import DiffusionPipeline

from scail2.checkpoints.folder_loading import check_components
from scail2.checkpoints.model_folder import forget_origin, loading
from scail2.errors import InputError

# Imports our classes too: diffusers resolves out-of-tree components only in modules that are imported already.
from scail2.models.component_folders import check_classes
from scail2.models.transformer import SCAIL2Transformer3DModel
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
            pipe = super().from_pretrained(str(folder), **kwargs)
        check_components(pipe, folder, but=kwargs)
        return pipe

    @classmethod
    def from_pipe(cls, pipeline: DiffusionPipeline, **kwargs: Any) -> Self:
        """Another pipeline over the same components, as in diffusers.

        Raises:
            InputError: that one has no SCAIL-2 transformer.
        """
        transformer = kwargs.get("transformer", pipeline.components.get("transformer"))
        if not isinstance(transformer, SCAIL2Transformer3DModel):
            raise InputError(f"{type(pipeline).__name__} has no SCAIL-2 transformer: give one with transformer=.")
        # diffusers hands over only models whose class is the only one that an argument may have.
        models = {name: part for name, part in pipeline.components.items() if name in ("transformer", "vae")}
        return super().from_pipe(pipeline, **(models | kwargs))

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> None:
        """As every pipeline's, without the paths the components were loaded from.

        Raises:
            InputError: what is saved could not be loaded again: the transformer carries adapters, or the encoders are
                not in the pipeline but read when they are needed.
        """
        if layers := [name for name, _ in self.transformer.named_parameters() if ".base_layer." in name]:
            raise InputError(
                f"The transformer has unfused adapters ({layers[0]}): call fuse_lora() and unload_lora_weights() first, or only "
                "the latter, to save it without them."
            )
        if getattr(self, "encoder_source", None) is not None:
            raise InputError(
                "This pipeline reads its encoders when they are needed and would be saved without them: load it with "
                "placement='resident', or copy the folder it came from."
            )
        super().save_pretrained(save_directory, **kwargs)
        forget_origin(Path(save_directory))
