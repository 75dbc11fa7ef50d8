"""How much one input may ask for: stated here once, raised by an environment variable of the same name.

The limits are far above what honest files need. They exist because a few kilobytes can ask for terabytes: a picture's
header, a tar's list of members, a nested document.
"""

import os
from dataclasses import dataclass

from scail2.errors import InputError


@dataclass(frozen=True, slots=True)
class Limit:
    """A ceiling with its name, unit and the environment variable that raises it."""

    variable: str
    default: int
    unit: str

    @property
    def value(self) -> int:
        """The ceiling in force; `InputError` when the environment variable is no positive whole number."""
        text = os.environ.get(self.variable, "").strip()
        if not text:
            return self.default
        # Over twenty digits would be no limit that a machine could meet.
        if not (text.isascii() and text.isdigit() and len(text) <= 20 and int(text) > 0):
            raise InputError(f"The environment variable {self.variable} must be a positive whole number.")
        return int(text)

    def check(self, amount: int, what: str) -> None:
        """Raises `InputError` when ``what`` (a file and what of it is counted) holds more than allowed."""
        if amount > self.value:
            shown = f"{amount:,}" if amount < 10**30 else "more than 10^30"
            raise InputError(
                f"{what}: {shown} {self.unit} are more than the {self.value:,} allowed; if it is meant, set "
                f"{self.variable} to a higher number."
            )


# 67 million pixels a picture are allowed anyway; these are all pictures of one animation or stored clip together.
PIXELS = Limit("SCAIL2_MAX_PIXELS", 4_000_000_000, "pixels")
MEMBERS = Limit("SCAIL2_MAX_MEMBERS", 50_000, "members")
DOCUMENT_BYTES = Limit("SCAIL2_MAX_DOCUMENT_BYTES", 32 * 2**20, "bytes")
