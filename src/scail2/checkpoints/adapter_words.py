"""What peft and diffusers note about a whole adapter, as far as it changes what is added."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scail2.checkpoints.stored import TensorFile
from scail2.errors import InputError, short
from scail2.files.documents import decode, load_json, parse_json

_ADAPTER_METADATA = "lora_adapter_metadata"  # where diffusers notes rank and alpha
_PLAIN_PATTERN = re.compile(r"\^?(\w|\.|\\\.)+\$?")


@dataclass(frozen=True, slots=True)
class AdapterWords:
    """Scales of an adapter, and whether it is more than an addition."""

    lora_alpha: float | None = None
    alpha_pattern: dict[str, float] | None = None
    use_rslora: bool | None = False
    use_dora: bool | None = False


def own_alpha(patterns: Mapping[str, float], default: float, module: str) -> float:
    """A module's alpha in peft: a pattern over module names overrules the adapter's own.

    InputError for patterns that are more than names (with ``^``, ``$`` and escaped dots): others can take for ever.
    """
    for pattern, alpha in patterns.items():
        if not _PLAIN_PATTERN.fullmatch(pattern):
            raise InputError(f"The LoRA's alpha pattern {short(pattern)} is no module's name; it is not tried.")
        if re.fullmatch(rf"(.*\.)?({pattern})", module):
            return alpha
    return default


def words_beside(path: Path) -> Path | None:
    """The file that peft writes beside an adapter's own; None where there is none."""
    beside = path.parent / "adapter_config.json"
    return beside if path.stem == "adapter_model" and beside.is_file() else None


def read_adapter_words(file: TensorFile) -> AdapterWords:
    """What is noted about the whole adapter: in diffusers' header, or in the file that peft writes beside its own."""
    if _ADAPTER_METADATA in file.metadata:
        where = f"the adapter metadata of {file.path}"
        words = parse_json(file.metadata[_ADAPTER_METADATA], dict[str, Any], where)
    elif (beside := words_beside(file.path)) is not None:
        where = str(beside)
        words = load_json(beside, dict[str, Any])
    else:
        return AdapterWords()
    words = {key.removeprefix("transformer."): value for key, value in words.items()}
    return decode(words, AdapterWords, where, unknown=True)
