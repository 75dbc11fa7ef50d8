"""What a folder of model files says about itself, checked before anything is built or read from it.

diffusers and transformers build whatever a configuration asks for and open whatever file an index names. So the
configuration is compared with the tensors that are really there, and indexes may name files of their own folder only.
"""

import inspect
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_type_hints

from scail2.checkpoints.downloads import HUB_PREFIX, local_path, refuse_absent
from scail2.checkpoints.stored import safetensors_header
from scail2.errors import InputError, short
from scail2.files.documents import Between, decode, load_json
from scail2.files.staging import atomic_file

# No width, length or count of any public network comes near; products of such numbers still fit 64 bits.
_LARGEST = 2**24
# Numbers of a configuration that are counts of repeated parts: each part has tensors of its own.
_COUNTS = re.compile(r"(^|_)(num_\w*(layers|blocks)|n_layers?|decoder_blocks|depth)$|(^|_)(layers|blocks)$")
# What diffusers and transformers keep in a configuration beside the arguments of the class.
_FOREIGN_KEYS = ("quantization_config",)
_OTHER_WEIGHTS = (".safetensors", ".gguf", ".bin", ".pt", ".pth", ".ckpt")
_SCHEDULE = "scheduler_config.json"
_COMPONENT = re.compile(r"[A-Za-z0-9_]{1,64}")


def read_config(folder: Path) -> dict[str, Any]:
    """``config.json`` of a folder as a table; empty where there is none."""
    path = folder / "config.json"
    return load_json(path, dict[str, Any]) if path.is_file() else {}


def arguments_of(kind: Callable[..., Any], words: Mapping[str, Any], where: str | Path) -> dict[str, Any]:
    """The entries of a configuration that are arguments of a class, each of the type its constructor states.

    Raises InputError for unknown entries, other types, and numbers that no network has.
    """
    hints = get_type_hints(kind.__init__)
    known = inspect.signature(kind.__init__).parameters
    arguments = {}
    for name, value in words.items():
        if name.startswith("_") or name in _FOREIGN_KEYS:
            continue
        if name not in known or name == "self":
            raise InputError(f"{where} cannot be used: '{name}' is no setting of {kind.__name__}.")
        arguments[name] = decode(value, hints.get(name, Any), where, name)
        for number in value if isinstance(value, list | tuple) else [value]:
            if isinstance(number, int) and not 0 <= number <= _LARGEST:
                raise InputError(f"{where} cannot be used: '{name}' is {number}; it must be from 0 to {_LARGEST}.")
    return arguments


def shards_of(index: Path) -> list[Path]:
    """The files an index of shards names, in order; all are regular files of the index's own folder.

    Raises:
        InputError: it is no index, a file is absent, or one lies elsewhere (``..``, an absolute path, a link that leads
            out of the folder; the Hub cache's own links are known).
    """
    content = load_json(index, dict[str, Any])
    weight_map = decode(content.get("weight_map"), dict[str, str], index, "weight_map")
    names = sorted(set(weight_map.values()))
    for name in names:
        if name in ("", ".", "..") or "/" in name or "\\" in name or "\0" in name or len(os.fsencode(name)) > 255:
            raise InputError(f"{index} names the shard {short(name)}, which is not a file beside it; it is not read.")
    if absent := [name for name in names if not (index.parent / name).is_file()]:
        raise InputError(f"{index} names shards that are not beside it: {', '.join(absent[:10])}.")
    for name in names:
        refuse_outside(index.parent / name, index.parent, f"{index} names the shard {short(name)}")
    return [index.parent / name for name in names]


def refuse_outside(path: Path, folder: Path, what: str) -> None:
    """Raises InputError where ``path``, links followed, is not inside ``folder`` (or the blobs of its Hub cache)."""
    place, home = path.resolve(), folder.resolve()
    snapshot = next((each for each in (home, *home.parents) if each.parent.name == "snapshots"), None)
    allowed = [home] if snapshot is None else [home, snapshot.parent.parent / "blobs"]
    if not any(place.is_relative_to(each) for each in allowed):
        raise InputError(f"{what}, a link that leads out of its folder (to {place}); put the file itself there.")


def check_component(folder: Path) -> None:
    """Compares a component's configuration with its tensors, and its index with its folder; needs no torch.

    Raises InputError for a configuration that is no table, that counts more parts than there are tensors, or whose
    index leads outside.
    """
    for index in sorted(folder.glob("*.index.json")):
        shards_of(index)
    config = read_config(folder)
    _refuse_statistics(config, folder / "config.json")
    shapes = shapes_in(folder)
    if shapes is not None:
        refuse_counts(config, len(shapes), folder / "config.json")
    elif "num_layers" in config and not any(each.suffix in _OTHER_WEIGHTS for each in folder.iterdir()):
        raise InputError(f"{folder} has a configuration but no weights beside it.")


def _refuse_statistics(config: Mapping[str, Any], where: Path) -> None:
    """Raises InputError where an autoencoder's mean or deviation is not of its latents' channels."""
    channels = config.get("z_dim")
    for name in ("latents_mean", "latents_std"):
        values = config.get(name)
        if isinstance(values, list) and isinstance(channels, int) and len(values) != channels:
            raise InputError(f"{where} gives {len(values)} numbers as '{name}' of latents with {channels} channels.")


def check_model(model: str | Path | None) -> None:
    """Looks at a model somebody named before anything heavy is imported: what cannot be right is refused at once.

    Raises InputError like `check_pipeline`, and where there is no such model.
    """
    if model is None or str(model).startswith(HUB_PREFIX):
        return
    refuse_absent(model)
    path = local_path(model)
    if not (path.is_file() or path.is_dir()):
        raise InputError(f"{path} is a pipe or device, not a file or folder.")
    if path.name.endswith(".index.json"):
        shards_of(path)
    elif path.suffix == ".safetensors":
        stored_shapes(path)
    elif (path / "model_index.json").is_file():
        check_pipeline(path)
    elif path.is_dir():
        for folder in (path, path / "transformer"):
            if folder.is_dir():
                check_component(folder)


def shapes_in(folder: Path) -> dict[str, tuple[int, ...]] | None:
    """Shapes of a folder's safetensors by name; None where it has none (tokenizers, schedulers, other formats)."""
    indices = sorted(folder.glob("*.safetensors.index.json"))
    files = [shard for index in indices for shard in shards_of(index)] or sorted(folder.glob("*.safetensors"))
    if not files:
        return None
    return {name: shape for file in files for name, shape in stored_shapes(file).items()}


def stored_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes in the header of a safetensors file, without torch.

    Raises InputError where the header is not what it must be: a table of names, each with type, shape and place.
    """
    return {name: entry.shape for name, entry in safetensors_header(path).entries.items()}


def refuse_counts(config: Mapping[str, Any], tensors: int, where: str | Path) -> None:
    """Raises InputError where a configuration, nested ones included, counts more layers than there are tensors."""
    waiting: list[tuple[str, Any]] = list(config.items())
    while waiting:
        name, value = waiting.pop()
        if isinstance(value, Mapping):
            waiting += value.items()
        elif isinstance(value, list):
            waiting += [(name, each) for each in value]
        elif isinstance(value, int) and _COUNTS.search(name) and value > tensors:
            raise InputError(f"{where} asks for {value} '{name}', but its weights have only {tensors} tensors.")


def check_pipeline(folder: Path) -> dict[str, tuple[str | None, str | None]]:
    """Checks ``model_index.json`` and every component it names; returns component -> (library, class).

    Raises InputError where a file is damaged, a name leads outside, or a configuration does not fit its weights.
    """
    path = folder / "model_index.json"
    components = {}
    content = load_json(path, dict[str, Any])
    decode(content, _Native, path, unknown=True)
    for name, entry in content.items():
        if name.startswith("_") or not isinstance(entry, list):
            continue
        if not _COMPONENT.fullmatch(name):
            raise InputError(f"{path} names the component {short(name)}, which no folder of a pipeline is called.")
        components[name] = decode(entry, tuple[str | None, str | None], path, name)
        if (folder / name / _SCHEDULE).is_file():
            load_json(folder / name / _SCHEDULE, _Schedule, unknown=True)
        if (folder / name).is_dir():
            check_component(folder / name)
    return components


_Count = Annotated[int, Between(1, 1_000_000)]
_Shift = Annotated[float, Between(-1000, 1000)]


@dataclass(frozen=True, slots=True)
class _Native:
    """What ``model_index.json`` says about the size a checkpoint was trained around."""

    native_height: Annotated[int, Between(8, 8192)] = 512
    native_width: Annotated[int, Between(8, 8192)] = 896


@dataclass(frozen=True, slots=True)
class _Schedule:
    """The numbers of a scheduler's configuration that its arithmetic is built from."""

    num_train_timesteps: _Count = 1000
    shift: Annotated[float, Between(1e-6, 1000)] | None = None
    shift_terminal: Annotated[float, Between(0, 0.999)] | None = None
    base_shift: _Shift | None = None
    max_shift: _Shift | None = None
    base_image_seq_len: _Count | None = None
    max_image_seq_len: _Count | None = None
    flow_shift: Annotated[float, Between(1e-6, 1000)] | None = None
    solver_order: Annotated[int, Between(1, 8)] | None = None


def forget_origin(folder: Path) -> None:
    """Takes out of a saved model's configurations where it was loaded from: who uploads it would disclose the path."""
    for path in (*folder.glob("*.json"), *folder.glob("*/*.json")):
        if path.name not in ("config.json", "model_index.json"):
            continue
        content = load_json(path, dict[str, Any])
        if content.pop("_name_or_path", None) is not None:
            with atomic_file(path) as file:
                file.write((json.dumps(content, indent=2, sort_keys=True) + "\n").encode())


@contextmanager
def loading(path: str | Path) -> Iterator[None]:
    """Turns whatever diffusers or transformers say about somebody's files into one `InputError` that names them.

    Both raise a dozen kinds of errors for files they cannot use, `TypeError` and `KeyError` among them.
    """
    try:
        yield
    except (InputError, OSError, MemoryError) as error:
        # diffusers reports absent and damaged files as an OSError without a number; real ones keep theirs.
        if isinstance(error, OSError) and error.errno is None:
            raise InputError(f"{path} cannot be loaded: {_first_line(error)}") from error
        raise
    except Exception as error:
        raise InputError(f"{path} cannot be loaded: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{lines[0] if lines else type(error).__name__}"[:400].rstrip(".") + "."
