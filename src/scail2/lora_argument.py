"""How a LoRA and its strength are written in one word: ``PATH`` or ``PATH:STRENGTH``."""

from pathlib import Path

from scail2.user_paths import expanded


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
