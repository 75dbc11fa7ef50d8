"""Splits and the named random draws everything in a puppet clip is made of."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from hashlib import blake2b
from typing import TypeVar

from scail2.errors import InputError

Option = TypeVar("Option")

SPLIT_BITS = 2


class Split(StrEnum):
    """Which part of the puppet world a character, motion, scene or camera belongs to."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"
    HOLDOUT = "holdout"

    @classmethod
    def parse(cls, value: "str | Split") -> "Split":
        """The split named `value`; raises InputError for any other word."""
        try:
            return cls(value)
        except ValueError:
            names = ", ".join(split.value for split in cls)
            raise InputError(f"Unknown split {value!r}: use one of {names}.") from None


SPLIT_CODES = {Split.TRAIN: 0, Split.VALIDATION: 1, Split.TEST: 2, Split.HOLDOUT: 3}


def seed_of(split: "str | Split", kind: str, index: int, domain: str, salt: str = "") -> int:
    """64-bit seed of item `index` of a `kind` ("character", "motion", ...) in a split.

    The two lowest bits are the split itself, so no seed (and nothing that carries its seed) is ever shared by two splits,
    whatever the index or the salt. The salt lets somebody hold back items that nobody else has drawn.
    Raises InputError for a negative index or an unknown split.
    """
    split = Split.parse(split)
    if index < 0:
        raise InputError(f"The index of a puppet {kind} is {index}: use 0 or more.")
    text = "\x1f".join((split.value, salt, kind, domain, str(int(index))))
    value = int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")
    return value >> SPLIT_BITS << SPLIT_BITS | SPLIT_CODES[split]


def split_of(seed: int) -> Split:
    """The split a seed made by `seed_of` belongs to."""
    return tuple(SPLIT_CODES)[seed & ((1 << SPLIT_BITS) - 1)]


@dataclass(frozen=True, slots=True)
class Draws:
    """Random numbers by name: each is a hash of (seed, name).

    No generator state, so adding an attribute never changes the others, and the numbers are the same on every machine
    and with every NumPy version.
    """

    seed: int
    scope: str = ""

    def child(self, scope: str) -> "Draws":
        """The same seed under a longer name."""
        return Draws(self.seed, f"{self.scope}{scope}/")

    def unit(self, name: str) -> float:
        """A number in [0, 1)."""
        key = self.seed.to_bytes(8, "big")
        digest = blake2b((self.scope + name).encode(), digest_size=8, key=key).digest()
        return (int.from_bytes(digest, "big") >> 11) * 2.0**-53

    def uniform(self, name: str, low: float, high: float) -> float:
        """A number in [low, high)."""
        return low + (high - low) * self.unit(name)

    def around(self, name: str, centre: float, spread: float) -> float:
        """`centre` times a factor in [1 - spread, 1 + spread)."""
        return centre * self.uniform(name, 1.0 - spread, 1.0 + spread)

    def phase(self, name: str) -> float:
        """An angle in [0, 2 pi)."""
        return self.uniform(name, 0.0, 2.0 * math.pi)

    def integer(self, name: str, low: int, high: int) -> int:
        """An integer in [low, high], both included."""
        return low + int(self.unit(name) * (high - low + 1))

    def chance(self, name: str, probability: float) -> bool:
        """True with the given probability."""
        return self.unit(name) < probability

    def choice(self, name: str, options: Sequence[Option]) -> Option:
        """One of the options, all equally likely."""
        return options[int(self.unit(name) * len(options))]
