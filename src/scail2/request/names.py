"""What a setting may be called: its field's name, its option's, and the name it had in earlier versions.

Requests, settings files and run directories written under an earlier name still load, and are identified as before.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from scail2.errors import InputError


@dataclass(frozen=True, slots=True)
class EarlierName:
    """A name that the setting ``field`` had before; ``negated`` where it said the opposite."""

    name: str
    field: str
    negated: bool = False

    def present(self, value: Any) -> Any:
        """The value under the present name; what is no yes or no stays, to be refused under that name."""
        return not value if self.negated and isinstance(value, bool) else value


EARLIER_NAMES = (
    EarlierName("steps", "num_inference_steps"),
    EarlierName("segment_frames", "segment_frame_length"),
    EarlierName("overlap", "prev_segment_conditioning_frames"),
    EarlierName("additional_masks", "additional_reference_masks"),
    EarlierName("keep_reference_background", "black_out_reference", negated=True),
    EarlierName("offload", "placement"),
)
# Options of earlier versions that the present ones have other names for, by field; the command line still takes them.
EARLIER_OPTIONS = {"placement": ("--offload",)}
_EARLIER = {each.name: each for each in EARLIER_NAMES}


def first_name(field: str) -> str:
    """The name a setting had first: hashes that identify a run's inputs are made with it, so that renaming keeps them."""
    return next((each.name for each in EARLIER_NAMES if each.field == field), field)


def present_name(name: str) -> str:
    """The field that a setting of this name is now."""
    return _EARLIER[name].field if name in _EARLIER else name


def under_present_names(values: Mapping[str, Any]) -> dict[str, Any]:
    """A table that an earlier version wrote, with the names and values of the present one."""
    return {
        present_name(name): _EARLIER[name].present(each) if name in _EARLIER else each for name, each in values.items()
    }


def by_field(request: type, settings: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Settings under their field's name, whether that, the option's name or an earlier one was used, with ``-`` or ``_``.

    Names that are none of these stay as they are.

    Raises:
        InputError: two of the names are of one setting.
    """
    options = {option.removeprefix("--"): each.name for each in fields(request) for option in _options(each)}
    named: dict[str, Any] = {}
    for given, value in settings.items():
        name = options.get(given.replace("_", "-"), given.replace("-", "_"))
        ((field, now),) = under_present_names({name: value}).items()
        if field in named:
            raise InputError(f"'{field}' is stated twice in {where}, the second time as '{given}'.")
        named[field] = now
    return named


def _options(field: Any) -> list[str]:
    """The options that set a field to what they are given; not one that switches it off."""
    return (field.metadata.get("option") or "").split("/")[:1]
