"""A component from its folder, once what the folder holds was compared with what the component needs.

diffusers and transformers warn of a tensor that is not there, and go on with random numbers in its place.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import reduce
from pathlib import Path
from typing import Any

from scail2.checkpoints.model_folder import check_component, loading, read_config, shapes_in, shards_of
from scail2.checkpoints.pickle_files import PickleFile
from scail2.errors import InputError

_LISTED = 3  # names of one kind shown in an error


def load_folder(kind: Any, folder: str | Path, **options: Any) -> Any:
    """``kind.from_pretrained(folder, ...)`` for a folder that was checked first.

    Raises:
        InputError: it does not load, or its tensors are not the component's (see `check_loaded`).
    """
    check_component(Path(folder))
    with loading(folder):
        component = kind.from_pretrained(folder, **options)
    check_loaded(component, Path(folder))
    return component


def check_components(pipeline: Any, folder: Path, but: Collection[str] = ()) -> None:
    """`check_loaded` for each component of a pipeline that comes from a folder of its name, ``but`` those given by hand."""
    for name, component in pipeline.components.items():
        if name not in but and (folder / name).is_dir():
            check_loaded(component, folder / name)


def check_loaded(component: Any, folder: Path) -> None:
    """Compares the tensors of a loaded component, by name and shape, with those of the folder it comes from.

    Of tensors that are one under several names (umT5's embedding) one is enough. A folder may hold other networks beside
    the component's, such as CLIP's text tower or umT5's decoder. Quantised components, and folders without safetensors or
    PyTorch files, are left to the library that loaded them.

    Raises:
        InputError: a tensor is missing, of another shape, or would belong to a component of another configuration.
    """
    if not hasattr(component, "state_dict") or not hasattr(component, "named_buffers"):
        return  # tokenizers and schedulers have no tensors
    quantised = "quantization_config" in read_config(folder) or getattr(component, "hf_quantizer", None) is not None
    if quantised or (stored := _stored_shapes(folder)) is None:
        return
    bare = _bare_names(component)
    shapes = {bare(name): shape for name, shape in stored.items()}
    held = {bare(name): value for name, value in component.state_dict(keep_vars=True).items()}
    there = {id(value) for name, value in held.items() if name in shapes}
    known = held.keys() | {bare(name) for name, _ in component.named_buffers()}
    problems = {
        "missing": [name for name, value in held.items() if id(value) not in there],
        "that do not belong to it": _foreign(shapes.keys() - known, held, component),
        "of another shape": [
            f"{name} {shapes[name]} instead of {tuple(value.shape)}"
            for name, value in held.items()
            if name in shapes and shapes[name] != tuple(value.shape)
        ],
    }
    if told := [f"{len(names)} {what}: {_listing(names)}" for what, names in problems.items() if names]:
        raise InputError(
            f"The tensors in {folder} do not fit its configuration: {'; '.join(told)}; it is incomplete or another model's: "
            "download or convert it again."
        )


def _bare_names(component: Any) -> Callable[[str], str]:
    """A function that takes off what versions of transformers put before the names of one network, or leave out."""
    towers = (
        ("vision_model",) if "vision_model" in getattr(getattr(component, "config", None), "model_type", "") else ()
    )
    prefixes = [f"{each}." for each in (getattr(component, "base_model_prefix", ""), *towers) if each]
    return lambda name: reduce(str.removeprefix, prefixes, name)


def _foreign(names: Iterable[str], held: Mapping[str, Any], component: Any) -> list[str]:
    """Names that nothing takes, but those the class ignores; for classes of transformers only inside of its own parts.

    Files of transformers hold other networks beside.
    """
    ignored = getattr(component, "_keys_to_ignore_on_load_unexpected", None) or ()
    left = [name for name in names if not any(re.search(pattern, name) for pattern in ignored)]
    if not hasattr(component, "base_model_prefix"):
        return left
    parts = {name.partition(".")[0] for name in held}
    return [name for name in left if name.partition(".")[0] in parts]


def _listing(names: list[str]) -> str:
    return f"{', '.join(sorted(names)[:_LISTED])}{' …' if len(names) > _LISTED else ''}"


def _stored_shapes(folder: Path) -> dict[str, tuple[int, ...]] | None:
    """Shapes by name of a folder's safetensors or, where there are none, PyTorch files; None for other formats."""
    if (shapes := shapes_in(folder)) is not None:
        return shapes
    indices = sorted(folder.glob("*pytorch_model*.bin.index.json"))
    files = [shard for index in indices for shard in shards_of(index)] or sorted(folder.glob("*pytorch_model*.bin"))
    if not files:
        return None
    return {name: info.shape for file in files for name, info in PickleFile(file).tensors.items()}
