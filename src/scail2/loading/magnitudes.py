"""Where the `Magnitudes` of a model are kept: with a pipeline folder, or beside the installed models by the model's content.

::

    FOLDER/magnitudes.json    {"timesteps": [...], "log_norms": [...]}
    MODELS/magnitudes.json    {fingerprint: {"timesteps": [...], "log_norms": [...]}}
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from scail2.errors import InputError
from scail2.files.documents import load_json
from scail2.files.public.installed import model_folder
from scail2.files.staging import atomic_file
from scail2.loading.facts import stored_facts
from scail2.loading.places import model_place, parse_lora
from scail2.request.speed import Magnitudes

FILE = "magnitudes.json"


def find_magnitudes(
    model: str | Path | None, loras: Iterable[str | Path | tuple[str | Path, float]] = ()
) -> Magnitudes:
    """Of a model with LoRAs fused: what was measured of exactly these weights, else what the model's folder brings.

    Raises InputError where neither is there, with the command that measures.
    """
    path, fused = model_place(model), [parse_lora(each) for each in loras]
    if (known := _kept().get(_fingerprint(path, fused))) is not None:
        return known
    if (path / FILE).is_file():
        return load_json(path / FILE, Magnitudes)
    named = [word for file, strength in fused for word in ("--lora", f"{file}:{strength:g}")]
    command = shlex.join(["scail2", "calibrate", "--model", str(path), *named])
    raise InputError(
        f"--cache mag needs to know how much the blocks of {path.name} change at each noise level, which was not measured: "
        f"{command}"
    )


def keep_magnitudes(path: Path, loras: list[tuple[Path, float]], found: Magnitudes) -> Path:
    """Stores what was measured of a model beside the installed models, and returns the file."""
    every = _kept() | {_fingerprint(path, loras): found}
    file = model_folder() / FILE
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(file) as opened:
        opened.write(json.dumps({name: asdict(each) for name, each in every.items()}, indent=1).encode() + b"\n")
    return file


def _kept() -> dict[str, Magnitudes]:
    with suppress(InputError, OSError):
        return load_json(model_folder() / FILE, dict[str, Magnitudes])
    return {}


def _fingerprint(path: Path, loras: list[tuple[Path, float]]) -> str:
    return stored_facts(path, name=path.name, loras=loras).fingerprint
