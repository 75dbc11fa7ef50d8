"""Downloads from the Hub: only what is named with ``hub:`` in front, never by guess."""

from pathlib import Path

from scail2.errors import InputError
from scail2.files.user_paths import expanded

HUB_PREFIX = "hub:"


def local_path(name: str | Path) -> Path:
    """A path on this disk: ``hub:owner/name`` or ``hub:owner/name@revision`` is downloaded, anything else is a path."""
    if not str(name).startswith(HUB_PREFIX):
        return expanded(name)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    repository, _, revision = str(name).removeprefix(HUB_PREFIX).partition("@")
    try:
        return Path(snapshot_download(repository, revision=revision or None))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise InputError(f"{name} cannot be downloaded: {str(error).splitlines()[0]}") from error
