"""Settings and their values: a reader takes a setting's name as messages tell it, and refuses what cannot be meant."""

import math
import os
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import field, fields
from enum import StrEnum
from fractions import Fraction
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from scail2.errors import InputError, short
from scail2.files.user_paths import expanded

Convert = Callable[[str, Any], Any]

# Panels of `--help`, in order.
INPUTS, SAMPLING, SEGMENTS, MASKS, OUTPUT = "Inputs", "Sampling", "Length and segments", "Masks", "Output"
PANELS = (INPUTS, SAMPLING, OUTPUT, SEGMENTS, MASKS)


def setting(default: Any, panel: str, help: str, *, metavar: str | None = None, option: str | None = None) -> Any:
    """A dataclass field whose metadata the command line turns into an option.

    ``option`` is its name where it is not the field's; of a flag, with the one that switches it off after a ``/``.
    """
    return field(default=default, metadata={"panel": panel, "help": help, "metavar": metavar, "option": option})


def text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise InputError(f"{name} must be text, not {short(value)}.")
    return value


def path(name: str, value: Any) -> Path:
    if value is None:
        raise InputError(f"{name} is missing.")
    if not isinstance(value, str | os.PathLike) or not str(value) or "\0" in str(value):
        raise InputError(f"{name} must be a path, not {short(value)}.")
    return Path(os.path.abspath(expanded(Path(value))))


def flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise InputError(f"{name} must be true or false, not {short(value)}.")
    return value


def optional(convert: Convert) -> Convert:
    return lambda name, value: None if value is None else convert(name, value)


def many(convert: Convert) -> Convert:
    def convert_each(name: str, value: Any) -> tuple[Any, ...]:
        if isinstance(value, str | os.PathLike):
            value = (value,)
        if not isinstance(value, list | tuple):
            raise InputError(f"{name} must be a list, not {short(value)}.")
        return tuple(convert(name, each) for each in value)

    return convert_each


def choice(kind: type[StrEnum]) -> Convert:
    def convert(name: str, value: Any) -> StrEnum:
        if not isinstance(value, str) or value not in set(kind):
            raise InputError(f"{name} must be one of {', '.join(kind)}, not {short(value)}.")
        return kind(value)

    return convert


def whole(low: int, high: int, *, stride: int = 1, offset: int = 0) -> Convert:
    def convert(name: str, value: Any) -> int:
        number = int(value) if isinstance(value, Integral) and not isinstance(value, bool) else None  # NumPy's, too
        if number is None or not low <= number <= high:
            raise InputError(f"{name} must be a whole number from {low} to {high}, not {short(value)}.")
        if (number - offset) % stride:
            below = max(low, number - (number - offset) % stride)
            raise InputError(
                f"{name} must be of the form {stride}n+{offset}, not {number}; try {below} or {below + stride}."
            )
        return number

    return convert


# Of every noise generator: what torch takes and JSON keeps.
seed = whole(0, 2**63 - 1)


def real(low: float, high: float, *, open_low: bool = False) -> Convert:
    def convert(name: str, value: Any) -> float:
        good = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
        if not good or not low <= value <= high or (open_low and value == low):
            bounds = f"above {low:g} and at most {high:g}" if open_low else f"from {low:g} to {high:g}"
            raise InputError(f"{name} must be a number {bounds}, not {short(value)}.")
        return float(value)

    return convert


def rate(name: str, value: Any) -> str | float:
    """A rate as a number, or as the text of a fraction that no number is: ``30000/1001``."""
    text = value.replace(" ", "") if isinstance(value, str) else ""
    with suppress(ValueError, ZeroDivisionError):
        value = float(Fraction(text)) if re.fullmatch(r"[\d./]{1,20}", text) else value
    rate = real(0, 1000, open_low=True)(name, value)
    return text if "/" in text else rate


def option_of(request: type, name: str) -> str:
    """The command line's option for a setting of a request."""
    stated = next((each.metadata.get("option") for each in fields(request) if each.name == name), None)
    return (stated or "--" + name.replace("_", "-")).split("/")[0]


def label(request: type, name: str) -> str:
    """What a setting is called in messages: its field and its option."""
    return f"'{name}' ({option_of(request, name)})"


def convert_all(request: Any, converters: Mapping[str, Convert]) -> None:
    """Replaces the fields of a frozen request by what their converters make of them."""
    for name, convert in converters.items():
        object.__setattr__(request, name, convert(label(type(request), name), getattr(request, name)))
