"""From a model's name to a path: a path, a short name of `scail2 models`, or ``hub:owner/name``, which downloads."""

import re
from pathlib import Path

from scail2.errors import InputError
from scail2.files.public.installed import installed_model
from scail2.files.user_paths import expanded

HUB_PREFIX = "hub:"


def local_path(name: str | Path) -> Path:
    """A path on this disk: ``hub:owner/name`` or ``hub:owner/name@revision`` is downloaded, a short name of an installed
    model is looked up where nothing of that name exists, anything else is a path (whether or not something is there).
    """
    if not str(name).startswith(HUB_PREFIX):
        path = expanded(name)
        return path if path.exists() else installed_model(str(name)) or path
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    repository, _, revision = str(name).removeprefix(HUB_PREFIX).partition("@")
    try:
        return Path(snapshot_download(repository, revision=revision or None))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise InputError(f"{name} cannot be downloaded: {str(error).splitlines()[0]}") from error


def refuse_absent(name: str | Path) -> None:
    """Raises `InputError` where a name is none to download, and nothing on this disk."""
    if str(name).startswith(HUB_PREFIX) or local_path(name).exists():
        return
    could_be_one = re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", str(name))
    hint = f"; to download it from the Hub, write {HUB_PREFIX}{name}" if could_be_one else ""
    raise InputError(f"There is no model {name}{hint}.")
