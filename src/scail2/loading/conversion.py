"""Whole pipelines from public files into a diffusers folder, weights streamed, nothing visible until it is complete."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from scail2.checkpoints.downloads import local_path
from scail2.checkpoints.encoders import load_image_encoder, load_text_encoder, load_vae
from scail2.checkpoints.model_folder import check_pipeline, forget_origin
from scail2.checkpoints.tensor_files import open_tensor_file
from scail2.checkpoints.transformer_config import diffusers_folder
from scail2.checkpoints.transformer_files import convert_transformer, open_transformer, refuse_name
from scail2.errors import InputError
from scail2.files.ownership import new_file, new_folder
from scail2.loading.component_files import COMPANIONS, ComponentFiles, FileKind, find_components, kind_of
from scail2.loading.components import load_component
from scail2.loading.magnitudes import FILE as MAGNITUDES
from scail2.loading.places import parse_lora
from scail2.models.transformer import SCAIL2Transformer3DModel
from scail2.request.paths import refuse_overwriting

TARGETS = ("diffusers", "official", "comfy")


def convert(
    source: str | Path,
    out: str | Path,
    *,
    to: str = "diffusers",
    torch_dtype: torch.dtype | None = None,
    config: Mapping[str, Any] | None = None,
    pipeline: bool = False,
    components: Mapping[str, str | Path | None] | None = None,
    loras: Iterable[str | Path] = (),
) -> list[str]:
    """Converts a public file, or a folder of public files, into another layout.

    Args:
        source: a transformer, VAE, umT5 or CLIP file; a diffusers folder; a folder of public files, or one on the Hub
            (``hub:owner/name``).
        out: the folder (``to="diffusers"``) or ``.safetensors`` file to make; nothing is ever replaced, a folder may be
            empty.
        to: ``"diffusers"``, ``"official"`` or ``"comfy"``; the latter two write the transformer in published names.
        torch_dtype: type of the weights; None keeps what is stored (bfloat16 for 8-bit and GGUF files).
        config: the transformer's configuration in published words, where the file does not show it.
        pipeline: make a whole pipeline from a transformer file and the files found near it, or from a pipeline folder.
            A folder of public files is always taken as a pipeline. Other layouts than diffusers' have no pipelines.
        components: files that are not to be searched for: ``vae``, ``text_encoder``, ``tokenizer``, ``image_encoder``.
        loras: files, each as a path or ``"PATH:STRENGTH"``, that become part of the transformer's weights.

    Returns:
        One line for each component written.
    """
    source, out, components = local_path(source), Path(out), dict(components or {})
    if to not in TARGETS:
        raise InputError(f"Cannot convert to '{to}': choose one of {', '.join(TARGETS)}.")
    named = ["--pipeline"] * pipeline + [f"--{name.replace('_', '-')}" for name, path in components.items() if path]
    if to != "diffusers" and named:
        raise InputError(f"--to {to} writes the transformer alone: leave {', '.join(named)} out.")
    loose = source.is_dir() and diffusers_folder(source) is None
    fused = [parse_lora(lora) for lora in loras]
    _keep_apart(out, source, {**components, **{f"LoRA {number + 1}": lora for number, (lora, _) in enumerate(fused)}})
    changes: dict[str, Any] = {"config": config, "torch_dtype": torch_dtype, "loras": fused}
    if to != "diffusers":
        refuse_name(out)
        path = find_components(source).transformer if loose else source
        with new_file(out) as file:
            dialect = convert_transformer(SCAIL2Transformer3DModel, path, file, to=to, **changes)
        return [f"transformer ({dialect}) -> {out}"]
    whole = pipeline and (source / "model_index.json").is_file()
    if whole and len(named) > 1:
        raise InputError(f"{source} is a whole pipeline already: leave {', '.join(named[1:])} out.")
    with new_folder(out) as folder:
        if whole:
            return _convert_pipeline_folder(source, folder, changes)
        if named or loose:
            return _convert_pipeline(find_components(source, **components), folder, changes)
        return [_convert_one(source, folder, changes)]


def _keep_apart(out: Path, source: Path, components: Mapping[str, str | Path | None]) -> None:
    """Refuses an output that is one of the inputs, in one of them, or around one."""
    given = [("source", source), *components.items()]
    refuse_overwriting([out], [(name, local_path(path)) for name, path in given if path is not None])


def _convert_one(source: Path, folder: Path, changes: Mapping[str, Any]) -> str:
    kind = FileKind.TRANSFORMER if diffusers_folder(source) else kind_of(open_tensor_file(source))
    if kind is FileKind.TRANSFORMER:
        dialect = convert_transformer(SCAIL2Transformer3DModel, source, folder, to="diffusers", **changes)
        return f"transformer ({dialect})"
    loaders = {
        FileKind.VAE: load_vae,
        FileKind.TEXT_ENCODER: load_text_encoder,
        FileKind.IMAGE_ENCODER: load_image_encoder,
    }
    if kind not in loaders:
        raise InputError(f"{source} is {_described(kind)}: there is no diffusers folder to make of it.")
    if changes["loras"]:
        raise InputError(f"{source} is {kind.value}: LoRAs become part of a transformer's weights.")
    torch_dtype = changes["torch_dtype"]
    arguments = (source,) if kind is FileKind.VAE and torch_dtype is None else (source, torch_dtype)
    loaders[kind](*arguments).save_pretrained(folder)
    forget_origin(folder)
    return kind.value


def _described(kind: FileKind) -> str:
    return "a LoRA (fuse it with --lora, or load it as it is)" if kind is FileKind.LORA else "no file that SCAIL-2 uses"


def _convert_pipeline_folder(source: Path, folder: Path, changes: Mapping[str, Any]) -> list[str]:
    """A pipeline folder whose transformer is changed; encoders in the type asked for, other components as they are."""
    lines: list[str] = []
    encoders = {"text_encoder": load_text_encoder, "image_encoder": load_image_encoder}
    for name in check_pipeline(source):
        if name == "transformer" or not (source / name).is_dir():
            continue
        if name in encoders and changes["torch_dtype"] is not None:
            encoders[name](source / name, changes["torch_dtype"]).save_pretrained(folder / name)
            forget_origin(folder / name)
        else:
            shutil.copytree(source / name, folder / name)
        lines.append(f"{name} from {source / name}")
    # What steps differ by is known of these weights only.
    for name in ("model_index.json", *([MAGNITUDES] if not changes["loras"] else [])):
        if (source / name).is_file():
            shutil.copy(source / name, folder)
    dialect = convert_transformer(SCAIL2Transformer3DModel, source, folder / "transformer", to="diffusers", **changes)
    return [*lines, f"transformer from {source / 'transformer'} ({dialect})"]


def _convert_pipeline(files: ComponentFiles, folder: Path, changes: Mapping[str, Any]) -> list[str]:
    from scail2.pipeline import SCAIL2Pipeline

    # The transformer last: a missing VAE or tokenizer is found before the long part.
    lines: list[str] = []
    parts: dict[str, Any] = {}
    for name in COMPANIONS:
        part = load_component(name, files, changes["torch_dtype"])
        if part is None:
            lines.append(f"no {name}: the pipeline will need precomputed embeddings")
            continue
        part.save_pretrained(folder / name)
        forget_origin(folder / name)
        # The index only names classes: weights are let go before the next component is read.
        parts[name] = part.to("meta") if isinstance(part, torch.nn.Module) else part
        lines.append(name + (f" from {path}" if (path := getattr(files, name, None)) else ""))
    target = folder / "transformer"
    dialect = convert_transformer(SCAIL2Transformer3DModel, files.transformer, target, to="diffusers", **changes)
    lines.append(f"transformer from {files.transformer} ({dialect})")
    _, transformer = open_transformer(SCAIL2Transformer3DModel, target)
    SCAIL2Pipeline(transformer=transformer, **parts).save_config(folder)
    return lines
