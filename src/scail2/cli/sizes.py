"""Sizes as people type them."""

from scail2.errors import InputError


def parse_size(text: str) -> tuple[int, int]:
    """`"128"` → (128, 128), `"96x160"` → height 96, width 160.

    Raises:
        InputError: anything else.
    """
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.strip().isdigit() and int(part) > 0 for part in parts):
        raise InputError(f"--size is one number or HEIGHTxWIDTH in pixels, not {text!r}")
    return int(parts[0]), int(parts[-1])
