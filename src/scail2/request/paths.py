"""Where the files of a request lie, and which of them would destroy each other."""

import os
from collections.abc import Iterable
from pathlib import Path

from scail2.errors import InputError
from scail2.files.public.embedded import lora_place
from scail2.files.public.installed import installed_model
from scail2.files.user_paths import check_strength, expanded, split_lora

# Never a folder: one that was given for them is refused for that reason.
_PICTURES = ("reference", "additional_references")


def is_same(one: Path, other: Path) -> bool:
    """Whether two paths lead to one file or folder, by whatever links and spellings."""
    if os.path.realpath(one) == os.path.realpath(other):
        return True
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False


def lies_inside(path: Path, folder: Path) -> bool:
    """Whether ``path`` is ``folder`` or something in it, links followed."""
    place = Path(os.path.realpath(path))
    return any(is_same(each, folder) for each in (place, *place.parents))


def absolute_lora(text: str, folder: Path | None = None) -> str:
    """``PATH`` or ``PATH:STRENGTH`` with an absolute path, relative ones counted from ``folder`` (the working folder).

    The name of an adapter of the embedded model stands for its file; others that are no paths (``hub:…``) stay as they are.
    """
    if text.startswith("hub:"):
        return text
    folder = Path.cwd() if folder is None else folder
    path, strength = split_lora(text, folder)
    if strength is not None:
        check_strength(float(strength), path)
    absolute = os.path.abspath(lora_place(path, folder))
    return absolute if strength is None else f"{absolute}:{strength}"


def absolute_model(name: str) -> str:
    """The absolute path of a model on this disk: a path, or a short name of an installed one. Other names stay."""
    path = expanded(name)
    found = path if path.exists() else installed_model(name)
    return name if found is None else os.path.abspath(found)


def model_paths(model: str | None, loras: Iterable[str]) -> list[Path]:
    """Where the model and the LoRAs of a request lie, of those that are files or folders here."""
    named = [model] if model else []
    named += [split_lora(each)[0] for each in loras]
    return [Path(each) for each in named if Path(each).exists()]


def absolute_if_found(text: str, folder: Path | None = None) -> str:
    """A folder's or file's absolute path, relative ones counted from ``folder`` (the working folder); other names as they are."""
    place = (Path.cwd() if folder is None else folder) / expanded(text)
    return os.path.abspath(place) if place.exists() else text


def refuse_overwriting(outputs: Iterable[Path], inputs: Iterable[tuple[str, Path]]) -> None:
    """Raises `InputError` when writing an output would replace an input, or change a folder that is one.

    Args:
        outputs: what will be written.
        inputs: (name, path) of everything that is read.
    """
    inputs = list(inputs)
    for output in outputs:
        for name, path in inputs:
            if is_same(output, path):
                raise InputError(f"The output {output} is also the {name} file and would overwrite it.")
            if name not in _PICTURES and lies_inside(output, path):
                raise InputError(f"The output {output} lies inside the {name} folder {path}; write it elsewhere.")
            if lies_inside(path, output):
                raise InputError(f"The {name} file {path} lies inside the output {output}; write it elsewhere.")
