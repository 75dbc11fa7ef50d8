"""Encoders that are loaded when something is to be encoded, used, and freed: see `scail2.pipeline.visiting.EncoderSource`.

Text and image encoder are never in memory together, nor beside the transformer of a run, which comes after them.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from scail2.checkpoints.loading_bars import no_loading_bars
from scail2.checkpoints.model_folder import check_pipeline
from scail2.errors import InputError
from scail2.loading.component_files import ComponentFiles, find_components
from scail2.loading.components import folder_dtypes, load_component


@dataclass(frozen=True, slots=True)
class StoredEncoders:
    """The encoders of a model on this disk.

    Args:
        path: a pipeline folder, a transformer file, or a folder of public files.
        torch_dtype: their type; None keeps what is stored.
        device: where they work.
        streamed: their layers visit the device in turn, for devices that cannot hold a whole encoder.
    """

    path: Path
    torch_dtype: torch.dtype | None
    device: torch.device
    streamed: bool = False

    @contextmanager
    def text(self) -> Iterator[tuple[Any, Any]]:
        """Tokenizer and text encoder; two None where the files hold none."""
        found = self._load("tokenizer", "text_encoder")
        try:
            yield found.get("tokenizer"), found.get("text_encoder")
        finally:
            self._free(found)

    @contextmanager
    def image(self) -> Iterator[tuple[Any, Any]]:
        """Image encoder and its processor; None where the files hold none."""
        found = self._load("image_encoder", "image_processor")
        try:
            yield found.get("image_encoder"), found.get("image_processor")
        finally:
            self._free(found)

    def _load(self, *names: str) -> dict[str, Any]:
        found = _from_folder if (self.path / "model_index.json").is_file() else _from_files
        with no_loading_bars():
            components = found(self.path, names, self.torch_dtype, self.device)
        for component in components.values():
            if isinstance(component, nn.Module):
                self._place(component.eval())
        return components

    def _place(self, encoder: nn.Module) -> None:
        if not self.streamed:
            encoder.to(self.device)
            return
        from diffusers.hooks import apply_group_offloading

        apply_group_offloading(
            encoder,
            onload_device=self.device,
            offload_device=torch.device("cpu"),
            offload_type="leaf_level",
            use_stream=self.device.type == "cuda",
            low_cpu_mem_usage=True,
        )

    def _free(self, components: dict[str, Any]) -> None:
        components.clear()
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def _from_folder(
    folder: Path, names: tuple[str, ...], dtype: torch.dtype | None, device: torch.device
) -> dict[str, Any]:
    from scail2.pipeline import SCAIL2Pipeline

    classes = check_pipeline(folder)
    wanted = [name for name in names if classes.get(name, (None, None))[1] is not None]
    if absent := [name for name in wanted if not (folder / name).is_dir()]:
        raise InputError(
            f"{folder} has no {absent[0]} any more, and this prompt or picture is not among those that were encoded before: "
            "put it back."
        )
    if not wanted:
        return {}
    others = {name: None for name in classes if name not in wanted}
    pipe = SCAIL2Pipeline.from_pretrained(folder, dtype=folder_dtypes(folder, wanted, dtype, device), **others)
    return {name: getattr(pipe, name) for name in wanted}


def _from_files(path: Path, names: tuple[str, ...], dtype: torch.dtype | None, device: torch.device) -> dict[str, Any]:
    files: ComponentFiles = find_components(path)
    return {name: load_component(name, files, dtype) for name in names if name != "image_processor"}
