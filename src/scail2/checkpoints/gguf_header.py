"""The header of a GGUF file: names, shapes and places of its tensors, read within bounds.

The ``gguf`` package reads headers as if they were honest: one that claims 10^18 entries keeps it busy for ever. Here
nothing is read past the end of the file, and the time is bounded by the bytes of the header; the package is needed for
its block formats only.
"""

import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scail2.errors import InputError
from scail2.files.limits import DOCUMENT_BYTES, MEMBERS

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_STRING, _ARRAY = 8, 9
# Bytes of the plain types by their number: (u)int8, (u)int16, (u)int32, float32, bool, (u)int64, float64.
_PLAIN = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_MAX_DIMENSIONS, _MAX_LEVELS = 8, 8
_DEFAULT_ALIGNMENT = 32
# What is kept of an array: shapes are short, vocabularies are of no interest here.
_KEPT = 16


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """One tensor as the header states it: its dimensions outermost first, type number, and place after the header."""

    name: str
    shape: tuple[int, ...]
    type: int
    offset: int


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """Fields (text, numbers, short lists) and tensors of a file; ``data`` is where the tensors begin."""

    fields: dict[str, Any]
    tensors: list[GgufTensor] = field(default_factory=list)
    data: int = 0


def read_gguf_header(path: Path) -> GgufHeader:
    """Reads the header of a GGUF file.

    Raises:
        InputError: it is none, it is cut off, it names something twice, or it claims more than the file or the limits
            (`SCAIL2_MAX_MEMBERS` tensors and fields, `SCAIL2_MAX_DOCUMENT_BYTES`) hold.
    """
    with path.open("rb") as file:
        content = file.read(DOCUMENT_BYTES.value + 1)
    return _Header(path, content).read()


class _Header:
    """A cursor over the first bytes of a file."""

    def __init__(self, path: Path, content: bytes) -> None:
        self.path, self.content, self.place = path, content, 0

    def read(self) -> GgufHeader:
        if self.take(4) != _MAGIC:
            self.refuse("it does not begin with GGUF")
        version, tensors, count = self.numbers("IQQ")
        if version not in _VERSIONS:
            self.refuse(f"its version is {version}, and versions {_VERSIONS[0]} and {_VERSIONS[1]} are known")
        MEMBERS.check(tensors + count, f"the header of {self.path}")
        fields: dict[str, Any] = {}
        for _ in range(count):
            name = self.text()
            if name in fields:
                self.refuse(f"it states {name[:80]!r} twice")
            fields[name] = self.value(self.numbers("I")[0], 1)
        made = [self.tensor() for _ in range(tensors)]
        if len({each.name for each in made}) < len(made):
            self.refuse("two tensors have one name")
        alignment = fields.get("general.alignment", _DEFAULT_ALIGNMENT)
        if type(alignment) is not int or not 0 < alignment <= 2**20 or alignment & (alignment - 1):
            self.refuse("its alignment is no power of two")
        return GgufHeader(fields, made, self.place + -self.place % alignment)

    def tensor(self) -> GgufTensor:
        name, (dimensions,) = self.text(), self.numbers("I")
        if not 0 < dimensions <= _MAX_DIMENSIONS:
            self.refuse(f"a tensor of it has {dimensions} dimensions")
        shape = self.numbers(f"{dimensions}Q")
        kind, offset = self.numbers("IQ")
        # Dimensions are listed innermost first.
        return GgufTensor(name, shape[::-1], kind, offset)

    def value(self, kind: int, level: int) -> Any:
        if kind in _PLAIN:
            return self.numbers(_PLAIN[kind])[0]
        if kind == _STRING:
            return self.text()
        if kind != _ARRAY or level > _MAX_LEVELS:
            self.refuse("a field of it is of an unknown type")
        inner, count = self.numbers("IQ")
        if inner in _PLAIN:
            size = struct.calcsize(_PLAIN[inner])
            kept = self.numbers(f"{min(count, _KEPT)}{_PLAIN[inner]}")
            self.take(size * (count - len(kept)))
            return list(kept)
        # Each of the others takes eight bytes or more.
        self.within(8 * count)
        values: list[Any] = []
        for _ in range(count):
            each = self.value(inner, level + 1)
            if len(values) < _KEPT:
                values.append(each)
        return values

    def text(self) -> str:
        return self.take(self.numbers("Q")[0]).decode("utf-8", "replace")

    def numbers(self, layout: str) -> tuple[Any, ...]:
        return struct.unpack("<" + layout, self.take(struct.calcsize("<" + layout)))

    def take(self, length: int) -> bytes:
        self.within(length)
        start, self.place = self.place, self.place + length
        return self.content[start : self.place]

    def within(self, length: int) -> None:
        """Refuses what lies past the end of the file, or past what a header may hold."""
        if self.place + length > len(self.content):
            if len(self.content) > DOCUMENT_BYTES.value:
                DOCUMENT_BYTES.check(self.place + length, f"the header of {self.path}")
            self.refuse("it is cut off in its header, or claims more than it holds")

    def refuse(self, reason: str) -> Any:
        raise InputError(f"{self.path} is not a readable GGUF file: {reason}.")
