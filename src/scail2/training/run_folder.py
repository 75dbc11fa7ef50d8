"""A training run's folder: whose it is, what it is continued with, and the transformer exported into it."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from scail2.devices import Precision
from scail2.errors import InputError
from scail2.files.documents import load_json
from scail2.files.ownership import Kind, check_folder, claimed_folder, is_document
from scail2.files.public.embedded import lora_place
from scail2.files.staging import Staging, atomic_file, set_aside, sweep
from scail2.files.storage import hash_file, refuse_special
from scail2.files.user_paths import split_lora
from scail2.loading.places import parse_lora
from scail2.request.paths import refuse_overwriting
from scail2.training.config import TrainConfig
from scail2.training.state import latest_state, state_step

CONFIG, CHANGES, CHECKPOINTS, SAMPLES = "config.json", "changes.jsonl", "checkpoints", "samples"
TRAINING = Kind(
    "training runs",
    f"{CONFIG} of scail2 train",
    lambda folder: is_document(folder / CONFIG, {"name", "model", "steps", "data", "optimizer", "seed"}),
)
# What may differ when a run goes on: how long and how it is watched. Everything else decides what is learnt.
_FREE = frozenset(
    {
        "steps", "checkpoint_every", "log_every", "keep_checkpoints", "sheets", "compile_blocks",
        "gradient_checkpointing", "selective_checkpointing",
    }
)  # fmt: skip
_SAMPLED_BLOCKS, _BLOCK = 16, 1 << 20
_EXPORT_MARK = ".scail2.json"


@contextmanager
def training_folder(path: str | Path, config: TrainConfig, start_from: Path | None = None) -> Iterator[Path]:
    """Holds the folder of a training run: new, empty, or one that was trained in before.

    Raises:
        InputError: it holds something else, an input lies in it or it in an input, or another process trains there.
    """
    given = [("model", config.model), ("training data", config.data.shards), ("sheet data", config.sheets.shards)]
    given += [("LoRA", str(parse_lora(each)[0])) for each in config.fused]
    refuse_overwriting([Path(path)], [(name, Path(each)) for name, each in given if each is not None])
    if start_from is not None:
        refuse_overwriting([Path(path)], [("run to start from", start_from)])
    check_folder(Path(path), TRAINING)
    with claimed_folder(path, TRAINING) as folder:
        for name in (CHECKPOINTS, SAMPLES, "tensorboard", "log.jsonl", CHANGES):
            if (folder / name).is_symlink():
                raise InputError(
                    f"{folder / name} is a link, which training does not follow: replace it by its target."
                )
        for part in (CHECKPOINTS, SAMPLES):
            sweep(folder / part)
        yield folder


def refuse_change(folder: Path, config: TrainConfig) -> None:
    """Raises `InputError` when a run that has checkpoints would go on with other settings, data or model than it had."""
    changed = _changes(folder, config)
    if changed:
        told = ", ".join(f"{name} ({_shown(old)}, now {_shown(new)})" for name, (old, new) in changed.items())
        raise InputError(
            f"{folder} was trained to step {_last_step(folder)} with another {told}: repeat the command it was begun with, "
            "choose another --output, or go on in the new way with --change."
        )


def save_config(folder: Path, config: TrainConfig, start_from: Path | None = None) -> None:
    """Writes what the run is made with; a change of a run that has checkpoints is added to `changes.jsonl`.

    ``start_from`` is the run that it begins with; one that goes on keeps what it began with.
    """
    changed = _changes(folder, config)
    if changed:
        line = {"step": _last_step(folder), "changed": changed}
        with (folder / CHANGES).open("a") as file:
            file.write(json.dumps(line) + "\n")
    described = _described(config) | {
        "start_from": _began_with(folder) if start_from is None else str(start_from.absolute())
    }
    with atomic_file(folder / CONFIG) as file:
        file.write((json.dumps(described, indent=2) + "\n").encode())


def _began_with(folder: Path) -> str | None:
    """The run that a run with checkpoints began with."""
    if latest_state(folder / CHECKPOINTS) is None or not (folder / CONFIG).is_file():
        return None
    given = load_json(folder / CONFIG, dict[str, Any]).get("start_from")
    return given if isinstance(given, str) else None


def _last_step(folder: Path) -> int:
    """The step that a run was trained to; 0 before its first checkpoint."""
    state = latest_state(folder / CHECKPOINTS)
    return 0 if state is None else state_step(state)


def _described(config: TrainConfig) -> dict[str, Any]:
    inputs: dict[str, Any] = {
        "model": _model_identity(Path(config.model)),
        "data": _data_identity(Path(config.data.shards)),
        "fused": [_lora_identity(*parse_lora(each)) for each in config.fused],
    }
    return dataclasses.asdict(config) | {"inputs": inputs}


# What earlier versions called a precision.
_EARLIER_PRECISIONS = {"fp32": Precision.FLOAT32, "bf16": Precision.BFLOAT16, "auto": None}
# Parts of a configuration that a run may do without; one of an earlier version that does not know them does.
_OPTIONAL = frozenset(each.name for each in dataclasses.fields(TrainConfig) if each.default is None)


def _changes(folder: Path, config: TrainConfig) -> dict[str, tuple[Any, Any]]:
    """Name → (then, now) of what decides the result and differs; nothing where nothing was trained yet."""
    if latest_state(folder / CHECKPOINTS) is None or not (folder / CONFIG).is_file():
        return {}
    before = load_json(folder / CONFIG, dict[str, Any])
    if before.get("precision") in list(_EARLIER_PRECISIONS):
        before["precision"] = _EARLIER_PRECISIONS[before["precision"]]
    now = json.loads(json.dumps(_described(config)))
    old = {name: None for name in _OPTIONAL if isinstance(now[name], dict)} | before
    changed = {name: each for name, each in _differences(old, now) if name.partition(".")[0] not in _FREE}
    identified = before.get("inputs") or {}
    for name, path in (("model", "model"), ("data", "data.shards"), ("fused", "fused")):
        then, later = _at(before, path), _at(now, path)
        same_place = then is not None and _whole_paths(then) == _whole_paths(later)
        if name in identified or same_place:  # content counts, wherever it lies
            changed.pop(path, None)
        if f"inputs.{name}" in changed:
            content = changed.pop(f"inputs.{name}")
            changed[name] = content if same_place or then is None else (then, later)
    return changed


def _differences(
    old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = ""
) -> Iterator[tuple[str, tuple[Any, Any]]]:
    """Name → (then, now) of all settings that both have; a part that only one has, as a whole."""
    for name, value in new.items():
        before = old.get(name)
        if isinstance(before, dict) and isinstance(value, dict):
            yield from _differences(before, value, f"{prefix}{name}.")
        elif name in old and before != value:
            yield prefix + name, (before, value)


def _at(values: Any, path: str) -> Any:
    """The setting of a dotted name; None where it is not there."""
    for name in path.split("."):
        values = values.get(name) if isinstance(values, dict) else None
    return values


def _whole_paths(given: str | list[str]) -> str | list[tuple[str, str | None]]:
    """A path, or those of LoRAs with their strengths, links followed."""
    if isinstance(given, str):
        return os.path.realpath(given)
    return [(os.path.realpath(lora_place(path)), strength) for path, strength in map(split_lora, given)]


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    text = json.dumps(value) if not isinstance(value, str) else value
    return text if len(text) <= 60 else f"{text[:57]}…"


def _lora_identity(file: Path, strength: float) -> str:
    """Digest of a LoRA's content, and how strongly it is taken."""
    return f"{hash_file(file)[:16]}:{strength:g}"


def _data_identity(folder: Path) -> str:
    """Digest of a cache: what it was made of, and the names and sizes of its shards."""
    digest = hashlib.sha256()
    description = folder / "cache.json"
    if description.is_file():
        digest.update(description.read_bytes())
    shards = sorted(folder.glob("*.tar")) if folder.is_dir() else [folder]
    for path in shards:
        digest.update(f"{path.name!r} {path.stat().st_size if path.exists() else None}\n".encode())
    return digest.hexdigest()[:16]


def _model_identity(folder: Path) -> str:
    """Digest of a transformer: its configuration, and sizes and samples of its weights (all of small files)."""
    digest = hashlib.sha256()
    place = folder / "transformer"
    for path in sorted([*place.glob("*.json"), *place.glob("*.safetensors")]):
        refuse_special(path)
        size = path.stat().st_size
        digest.update(f"{path.name!r} {size}\n".encode())
        with path.open("rb") as file:
            for number in range(_SAMPLED_BLOCKS):
                file.seek(max(0, size - _BLOCK) * number // (_SAMPLED_BLOCKS - 1))
                digest.update(file.read(_BLOCK))
                if size <= _BLOCK:
                    break
    return digest.hexdigest()[:16]


# ---- the exported transformer -------------------------------------------------------------------------------------


@contextmanager
def exported_folder(place: Path) -> Iterator[Path]:
    """Yields a folder to write an export into, which then takes its place.

    An export that is still as it was written is replaced; anything else that is there moves to `superseded/` beside it.
    """
    sweep(place.parent, place.name)
    with Staging(place) as staging:
        staging.place.mkdir()
        yield staging.place
        files = _hashes(staging.place)
        (staging.place / _EXPORT_MARK).write_text(json.dumps({"files": files}, indent=1) + "\n")
        written = _written(place)
        if written == files:
            return
        if written is not None:
            os.rename(place, staging.folder / "replaced")
        elif os.path.lexists(place):
            set_aside(place)
        staging.publish()


def _written(place: Path) -> dict[str, str] | None:
    """Names and hashes of an export that nobody has touched since; None for everything else."""
    if place.is_symlink() or not is_document(place / _EXPORT_MARK, {"files"}):
        return None
    recorded = load_json(place / _EXPORT_MARK, dict[str, Any])["files"]
    return recorded if _hashes(place) == recorded else None


def _hashes(folder: Path) -> dict[str, str]:
    hashes = {}
    for path in sorted(folder.rglob("*")):
        if path != folder / _EXPORT_MARK and not (path.is_dir() and not path.is_symlink()):
            with path.open("rb") as file:
                hashes[path.relative_to(folder).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return hashes
