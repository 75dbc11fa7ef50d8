"""Damaged files of every kind that the program reads, from valid ones: seeded, so that a number names an input for ever."""

import random
from collections.abc import Callable

# What JSON and TOML readers, and whoever multiplies what they read, stumble over.
WORDS = [b"null", b"-1", b"0", b"1e999", b"NaN", b"9" * 5000, b"2147483648", b"18446744073709551616", b"[]", b"{}", b"[[[[",
         b'""', b'"../../x"', b'"\\ud800"', b"true", b"0x" + b"f" * 500, b"1.5", b'"' + b"a" * 9000 + b'"']  # fmt: skip
_TOKEN = b"0123456789-truefalsn"


def flip(data: bytearray, draw: random.Random) -> None:
    """A few bits."""
    for _ in range(draw.randint(1, 8)):
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)


def overwrite(data: bytearray, draw: random.Random) -> None:
    """A run of bytes: random, zero or all ones."""
    start, length = draw.randrange(len(data)), draw.randint(1, 64)
    data[start : start + length] = draw.choice([draw.randbytes(length), bytes(length), b"\xff" * length])


def cut(data: bytearray, draw: random.Random) -> None:
    """The end is missing."""
    del data[draw.randrange(len(data)) :]


def splice(data: bytearray, draw: random.Random) -> None:
    """A part is somewhere else, or twice."""
    start = draw.randrange(len(data))
    part = data[start : start + draw.randint(1, 512)]
    place = draw.randrange(len(data))
    data[place:place] = part


def remove(data: bytearray, draw: random.Random) -> None:
    """A part is missing."""
    start = draw.randrange(len(data))
    del data[start : start + draw.randint(1, 256)]


def lengthen(data: bytearray, draw: random.Random) -> None:
    """A number of 4 or 8 bytes is enormous, in either byte order."""
    value, size = draw.choice([2**31 - 1, 2**32 - 1, 2**63 - 1, 2**24, 10**9]), draw.choice([4, 8])
    start = draw.randrange(len(data))
    data[start : start + size] = (value % 256**size).to_bytes(size, draw.choice(["little", "big"]))


def reword(data: bytearray, draw: random.Random) -> None:
    """A value of a text format is another one."""
    places = [index for index, byte in enumerate(data[:20_000]) if byte in _TOKEN]
    if not places:
        return flip(data, draw)
    start = stop = draw.choice(places)
    while stop < len(data) and data[stop] in b"0123456789.eE+-truefalsn":
        stop += 1
    data[start:stop] = draw.choice(WORDS)
    return None


BINARY: tuple[Callable, ...] = (flip, overwrite, cut, splice, remove, lengthen)
TEXT: tuple[Callable, ...] = (reword, reword, reword, flip, cut, splice, remove)


def mutated(valid: bytes, number: int, *, text: bool) -> bytes:
    """Input ``number`` made of a valid file: one to three changes."""
    draw, data = random.Random(number), bytearray(valid)
    for _ in range(draw.randint(1, 3)):
        if data:
            draw.choice(TEXT if text else BINARY)(data, draw)
    return bytes(data)
