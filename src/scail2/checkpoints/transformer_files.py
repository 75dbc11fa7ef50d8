"""Reading and writing the SCAIL-2 transformer's files: every public dialect in, published and diffusers layouts out.

The network's class is handed in by whoever loads: nothing here imports the network.

Loading is strict and streams. The model is built without memory, each tensor is read, dequantised and cast on its own,
and what the file had mapped is dropped along the way, so the peak is the weights themselves plus one tensor.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch

from scail2.checkpoints import official_names as names
from scail2.checkpoints.dialects import Dialect, TransformerView, view_transformer
from scail2.checkpoints.downloads import local_path
from scail2.checkpoints.lora import fusing
from scail2.checkpoints.lora_files import LoraSource
from scail2.checkpoints.model_folder import arguments_of, loading, read_config, refuse_counts
from scail2.checkpoints.tensor_files import open_tensor_file, write_safetensors
from scail2.checkpoints.transformer_config import CONFIG_KEY, diffusers_folder, resolve_config
from scail2.checkpoints.views import compare, stream
from scail2.errors import InputError
from scail2.files.staging import atomic_file

Transformer = TypeVar("Transformer", bound=torch.nn.Module)


def read_transformer(
    cls: type[Transformer],
    path: str | Path,
    config: Mapping[str, Any] | None = None,
    torch_dtype: torch.dtype | None = None,
) -> Transformer:
    """Loads a SCAIL-2 transformer from any public file.

    Args:
        cls: the network's class, made from the configuration's keyword arguments.
        path: official safetensors (one file, an index, or a folder with one of them), the training branch's ``.pt``,
            ComfyUI bf16 or fp8-scaled safetensors, GGUF, a diffusers folder, or ``hub:owner/name`` with one of them.
        config: configuration in published words (``dim``, ``ffn_dim``, ``num_heads``, ...). What is not given comes
            from the file's header, a ``config.json`` beside it, and the shapes of the tensors, in this order.
        torch_dtype: type of the weights; None keeps the file's (bfloat16 for 8-bit and GGUF files). Under float16 and
            bfloat16 the modules in ``_keep_in_fp32_modules`` stay float32.

    Returns:
        The model in evaluation mode on the CPU. Where nothing had to be cast, its parameters are copy-on-write views
        of the mapped file.

    Raises:
        InputError: the file is no SCAIL-2 transformer, names are missing or unexpected or shapes differ (all listed),
            the number of heads is unknown, or the file is quantised in a way that is not read here.
    """
    view, model = open_transformer(cls, path, config)
    dtypes = plan_dtypes(model, torch_dtype or view.stored_dtype or torch.bfloat16)
    official = {names.to_official_name(name): dtype for name, dtype in dtypes.items()}
    state = {names.to_diffusers_name(name): value for name, value in stream(view, official)}
    model.load_state_dict(state, strict=True, assign=True)
    return model.eval()


def open_transformer(
    cls: type[Transformer], path: str | Path, config: Mapping[str, Any] | None = None
) -> tuple[TransformerView, Transformer]:
    """A transformer file and its model without memory (on the meta device), names and shapes already compared."""
    path = local_path(path)
    folder = diffusers_folder(path)
    view = view_transformer(open_tensor_file(folder or path))
    if folder is not None and config is not None:
        raise InputError(f"{folder} has its own configuration: give no config with a diffusers folder.")
    model = build_without_memory(cls, view, read_config(folder) if folder else resolve_config(view, config))
    wanted = {names.to_official_name(name): tuple(value.shape) for name, value in model.state_dict().items()}
    compare(view, wanted, "a SCAIL-2 transformer of its configuration")
    return view, model


def refuse_name(out: Path) -> None:
    """Raises InputError for an output of another name than a checkpoint in one file has."""
    if out.suffix != ".safetensors":
        raise InputError(f"{out}: official and ComfyUI checkpoints are one .safetensors file: name it so.")


def unrounded_weights(path: Path, dtype: torch.dtype) -> Callable[[str], torch.Tensor | None]:
    """For `apply_loras`: the weights of a file or diffusers folder as stored, where loading them in ``dtype`` rounded them."""
    if dtype.itemsize >= torch.float32.itemsize:
        return lambda name: None
    view = view_transformer(open_tensor_file(path))

    def unrounded(name: str) -> torch.Tensor | None:
        stored = names.to_official_name(name)
        return view.read(stored) if stored in view.sources and view.dtype(stored) != dtype else None

    return unrounded


def build_without_memory(cls: type[Transformer], view: TransformerView, words: Mapping[str, Any]) -> Transformer:
    """The model of a configuration on the meta device; InputError where it cannot be that of the file's tensors."""
    arguments = arguments_of(cls, words, f"the configuration of {view.file.path}")
    refuse_counts(arguments, len(view.shapes), f"The configuration of {view.file.path}")
    with torch.device("meta"), loading(view.file.path):
        return cls(**arguments)


def plan_dtypes(model: torch.nn.Module, dtype: torch.dtype) -> dict[str, torch.dtype]:
    """Our parameter name -> type: ``dtype``, and float32 in ``_keep_in_fp32_modules`` under half precision."""
    islands = set(getattr(model, "_keep_in_fp32_modules", None) or ()) if dtype.itemsize < 4 else set()
    return {name: torch.float32 if islands & set(name.split(".")) else dtype for name in model.state_dict()}


# ---- saving -------------------------------------------------------------------------------------------------------


def save_official(transformer: torch.nn.Module, path: str | Path, torch_dtype: torch.dtype | None = None) -> None:
    """Saves a transformer as one safetensors file in published names, for ComfyUI and the published code.

    Args:
        transformer: any SCAIL-2 transformer; LoRAs fused into it are saved with it, peft adapters must be fused first.
        path: the file; it appears when complete. The configuration in published words is put in its header.
        torch_dtype: type of every floating tensor; None keeps each as it is.
    """
    state = transformer.state_dict()
    if adapters := [name for name in state if ".lora_" in name or ".base_layer." in name]:
        raise InputError(
            f"The transformer has unfused adapters ({adapters[0]}): call fuse_lora() and unload_lora_weights() first."
        )
    official = {names.to_official_name(name): value for name, value in state.items()}
    plan = {name: (tuple(value.shape), torch_dtype or value.dtype) for name, value in official.items()}
    words = names.config_to_official(transformer.config)
    write_safetensors(Path(path), plan, lambda name, _: official[name], {CONFIG_KEY: json.dumps(words)})


def convert_transformer(
    cls: type[torch.nn.Module],
    source: str | Path,
    out: str | Path,
    *,
    to: str,
    config: Mapping[str, Any] | None = None,
    torch_dtype: torch.dtype | None = None,
    loras: Sequence[tuple[LoraSource, float]] = (),
) -> Dialect:
    """Converts a transformer file into another layout, tensor by tensor, without ever holding the model.

    Args:
        cls: the network's class, for names, shapes and types; its weights are never made.
        source: anything ``read_transformer`` reads.
        out: a folder for ``to="diffusers"``, a ``.safetensors`` file for ``"official"`` and ``"comfy"``.
        to: ``"diffusers"``, ``"official"`` (published names, a ``config.json`` is not needed: it is in the header) or
            ``"comfy"`` (the same names; bfloat16 unless ``torch_dtype`` says otherwise, float32 islands included).
        config: as in ``read_transformer``.
        torch_dtype: as in ``read_transformer``.
        loras: files with their strengths, whose additions become part of the weights.

    Returns:
        The dialect of the source.
    """
    out = Path(out)
    view, model = open_transformer(cls, source, config)
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    load = fusing(view.load, loras, shapes) if loras else view.load
    if to == "comfy":
        dtypes = dict.fromkeys(model.state_dict(), torch_dtype or torch.bfloat16)
    else:
        dtypes = plan_dtypes(model, torch_dtype or view.stored_dtype or torch.bfloat16)
    if to == "diffusers":
        plan = {name: (view.shapes[names.to_official_name(name)], dtype) for name, dtype in dtypes.items()}
        write_diffusers_folder(model, out, plan, lambda name, dtype: load(names.to_official_name(name), dtype))
    elif to in ("official", "comfy"):
        refuse_name(out)
        types = {names.to_official_name(name): dtype for name, dtype in dtypes.items()}
        plan = {name: (view.shapes[name], types[name]) for name in view if name in types}
        write_safetensors(out, plan, load, {CONFIG_KEY: json.dumps(names.config_to_official(model.config))})
    else:
        raise InputError(f"Cannot convert to '{to}': choose diffusers, official or comfy.")
    return view.dialect


def write_diffusers_folder(
    model: torch.nn.Module,
    out: Path,
    plan: Mapping[str, tuple[tuple[int, ...], torch.dtype]],
    read: Callable[[str, torch.dtype], torch.Tensor],
) -> None:
    """Writes what ``model.save_pretrained(out)`` would, streaming the weights; the configuration comes last."""
    write_safetensors(out / "diffusion_pytorch_model.safetensors", plan, read)
    with atomic_file(out / "config.json") as file:
        file.write(model.to_json_string().encode())
