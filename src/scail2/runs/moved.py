"""Given files that are no longer where a run found them: which these are, and their new places."""

import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scail2.errors import InputError
from scail2.files.user_paths import split_lora
from scail2.request.animation import AnimationRequest
from scail2.request.values import option_of
from scail2.runs.preparation import changed_inputs

MOVABLE = (
    "reference", "driving", "additional_references", "additional_reference_masks", "masks", "reference_mask", "driving_mask",
    "audio", "model", "lora",
)  # fmt: skip


def refuse_missing(folder: Path, request: AnimationRequest) -> None:
    """Raises `InputError` naming every given file that is not there any more, and how to say where it is now."""
    missing = [(name, path) for name, path in [*request.input_files, *_model_files(request)] if not path.exists()]
    if not missing:
        return
    listed = ", ".join(f"{option_of(AnimationRequest, name)} {path}" for name, path in missing)
    options = " ".join(f"{option_of(AnimationRequest, name)} NEW" for name, _ in missing)
    raise InputError(
        f"Files of this run are not where they were when it began: {listed}. Say where they are now: "
        f"scail2 resume {shlex.quote(str(folder))} {options}"
    )


def _model_files(request: AnimationRequest) -> list[tuple[str, Path]]:
    """The model and the LoRAs that were files or folders when the run began: these are kept by their whole paths."""
    named = [("model", request.model)] if request.model else []
    named += [("lora", split_lora(each)[0]) for each in request.lora]
    return [(name, Path(path)) for name, path in named if os.path.isabs(path)]


def at_new_places(folder: Path, request: AnimationRequest, places: Mapping[str, Any]) -> AnimationRequest:
    """The run's request with files at other places; they must be the files that it began with.

    Args:
        places: fields of the request (`MOVABLE`) and their new paths; of a field of several files all in their order. A LoRA
            without a strength keeps its own. That model and LoRAs are the same is seen when they are loaded.

    Raises:
        InputError: a field is none of these, was not given before, or a file is missing or another one.
    """
    for name in places:
        if name not in MOVABLE:
            raise InputError(f"'{name}' is no file of a run; its files are {', '.join(MOVABLE)}.")
        if not (given := getattr(request, name)) or given is True:  # the driving video's own sound is no file given
            raise InputError(
                f"This run was begun without {option_of(AnimationRequest, name)}; give its own command again to change that."
            )
    if "lora" in places:
        places = {**places, "lora": _with_strengths(request.lora, places["lora"])}
    renewed = request.with_changes(**places)
    refuse_missing(folder, renewed)
    if changed := changed_inputs(folder, renewed):
        raise InputError(
            f"The file given as {changed[0]} is not the one this run began with: its content differs; find that one, or give "
            "the run's own command again to render what depends on it anew."
        )
    return renewed


def _with_strengths(before: Sequence[str], now: Sequence[str]) -> list[str]:
    """LoRAs at new places with the strengths that they had."""
    if len(now) != len(before):
        raise InputError(f"This run was begun with {len(before)} LoRAs, {len(now)} are named; name all in their order.")
    renewed = []
    for old, new in zip(before, now, strict=True):
        strength = split_lora(old)[1]
        path, given = split_lora(new)
        if given is not None and float(given) != float(strength or 1):
            raise InputError(
                f"LoRA {path} had the strength {strength or 1} in this run; give the run's own command again to change that."
            )
        renewed.append(path if strength is None else f"{path}:{strength}")
    return renewed
