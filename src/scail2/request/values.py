"""Values of settings: each reader takes a name and a value, and refuses in one sentence what cannot be meant."""

import math
import os
import re
from contextlib import suppress
from enum import StrEnum
from fractions import Fraction
from pathlib import Path
from typing import Any

from scail2.errors import InputError, short
from scail2.files.user_paths import expanded


def text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise InputError(f"{name} must be text, not {short(value)}.")
    return value


def path(name: str, value: Any) -> Path:
    if value is None:
        raise InputError(f"{name} is missing.")
    if not isinstance(value, str | os.PathLike) or not str(value) or "\0" in str(value):
        raise InputError(f"{name} must be a path, not {short(value)}.")
    return Path(os.path.abspath(expanded(value)))


def flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise InputError(f"{name} must be true or false, not {short(value)}.")
    return value


def optional(convert):
    return lambda name, value: None if value is None else convert(name, value)


def many(convert):
    def convert_all(name: str, value: Any) -> tuple:
        if isinstance(value, str | os.PathLike):
            value = (value,)
        if not isinstance(value, list | tuple):
            raise InputError(f"{name} must be a list, not {short(value)}.")
        return tuple(convert(name, each) for each in value)

    return convert_all


def choice(kind: type[StrEnum]):
    def convert(name: str, value: Any) -> StrEnum:
        if not isinstance(value, str) or value not in set(kind):
            raise InputError(f"{name} must be one of {', '.join(kind)}, not {short(value)}.")
        return kind(value)

    return convert


def whole(low: int, high: int, *, stride: int = 1, offset: int = 0):
    def convert(name: str, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise InputError(f"{name} must be a whole number from {low} to {high}, not {short(value)}.")
        if (value - offset) % stride:
            below = max(low, value - (value - offset) % stride)
            raise InputError(
                f"{name} must be of the form {stride}n+{offset}, not {value}; try {below} or {below + stride}."
            )
        return value

    return convert


def real(low: float, high: float, *, open_low: bool = False):
    def convert(name: str, value: Any) -> float:
        good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
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
