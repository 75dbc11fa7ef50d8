"""Paths as people write them: ``~`` is their home folder."""

from pathlib import Path

from scail2.errors import InputError


def expanded(path: str | Path) -> Path:
    """The path with a leading ``~`` or ``~name`` replaced; `InputError` where there is no such home folder."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise InputError(
            f"{path}: '~' stands for a home folder, but none is known here; write the whole path."
        ) from error


# Published strengths lie between -2 and 2, sliders reach ten or so; far above, weights overflow.
LARGEST_STRENGTH = 1000.0


def check_strength(strength: float, name: object) -> float:
    """The strength; `InputError` where it is not a number from -1000 to 1000. ``name`` says whose it is."""
    if not abs(strength) <= LARGEST_STRENGTH:
        raise InputError(
            f"The strength of LoRA {name} is {strength:g}; it must be a number from -{LARGEST_STRENGTH:g} to "
            f"{LARGEST_STRENGTH:g}."
        )
    return strength


def split_lora(text: str, folder: Path = Path()) -> tuple[str, str | None]:
    """Path and strength, a number as it was written (None if not given); relative paths count from ``folder``.

    A file whose whole name is ``text`` wins, and what follows the last colon is a strength only if it is a number.
    """
    path, _, strength = text.rpartition(":")
    if path and not (folder / expanded(text)).exists():
        try:
            float(strength)
        except ValueError:
            return text, None
        return path, strength
    return text, None
