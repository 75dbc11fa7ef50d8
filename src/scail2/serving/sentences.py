"""What a run says, in a client's words: options of the command line are settings here, and paths are uploads."""

import re
from collections.abc import Mapping
from dataclasses import fields
from functools import lru_cache
from pathlib import Path
from typing import Any

from scail2.request.animation import AnimationRequest
from scail2.request.values import option_of

_UPLOAD = re.compile(r"(?:\.service/uploads/)?\b([0-9a-f]{64})\.\w+")
_BOTH_NAMES = re.compile(r"('\w+') \(--[\w-]+\)")
_OPTION = re.compile(r"--([a-z][\w-]*)")


def for_clients(told: str, root: Path, settings: Mapping[str, Any] | None = None) -> str:
    """The same sentence without what is nobody's business or nobody's language.

    Args:
        root: the service's folder.
        settings: of the run that speaks; an upload is called what it is there.
    """
    told = told.replace(f"{root}/", "").replace(str(root), "the service's folder")
    names = _names_of_uploads(settings or {})
    told = _UPLOAD.sub(lambda found: names.get(found[1], "the upload"), told)
    # Whole commands, which stand between backticks, are for who runs the service.
    parts = told.split("`")
    parts[::2] = [_OPTION.sub(_setting, _BOTH_NAMES.sub(r"\1", part)) for part in parts[::2]]
    return "`".join(parts)


def _names_of_uploads(settings: Mapping[str, Any]) -> dict[str, str]:
    listed = ((name, value if isinstance(value, list) else [value]) for name, value in settings.items())
    return {each: f"'{name}'" for name, values in listed for each in values if isinstance(each, str)}


def _setting(found: re.Match[str]) -> str:
    name = _settings().get(found[1])
    return found[0] if name is None else f"'{name}'"


@lru_cache(maxsize=1)
def _settings() -> dict[str, str]:
    """Option, without its dashes -> setting; that of a flag also behind ``no-``."""
    named = {option_of(AnimationRequest, each.name).removeprefix("--"): each.name for each in fields(AnimationRequest)}
    return named | {f"no-{option}": name for option, name in named.items()}
