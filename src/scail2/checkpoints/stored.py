"""What a file says of a tensor, and its numbers read without torch: names, shapes and a few values of a 30 GB file in no time."""

from __future__ import annotations

import math
import os
import stat
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np

from scail2.errors import InputError, short
from scail2.files.documents import Between, decode, parse_json
from scail2.files.limits import DOCUMENT_BYTES, MEMBERS

if TYPE_CHECKING:
    import torch

# Names of torch's types by those of safetensors.
SAFETENSORS_TYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}
ITEM_SIZES = {
    **dict.fromkeys(("float64", "int64"), 8),
    **dict.fromkeys(("float32", "int32"), 4),
    **dict.fromkeys(("float16", "bfloat16", "int16"), 2),
    **dict.fromkeys(("float8_e4m3fn", "float8_e5m2", "int8", "uint8", "bool"), 1),
}
FP8 = ("float8_e4m3fn", "float8_e5m2")
EIGHT_BIT = (*FP8, "int8")


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Shape and storage of one tensor.

    Attributes:
        number: torch's name of the type, such as ``bfloat16``; None for block formats that torch does not have (GGUF).
        format: the file's name of it.
    """

    shape: tuple[int, ...]
    number: str | None
    format: str
    nbytes: int

    @property
    def dtype(self) -> torch.dtype | None:
        """The type itself; imports torch."""
        import torch

        return None if self.number is None else getattr(torch, self.number)

    @property
    def is_floating(self) -> bool:
        """Whether its numbers are floating point; blocks are not."""
        return self.number is not None and "float" in self.number

    @property
    def count(self) -> int:
        """How many numbers it has."""
        return math.prod(self.shape)


@dataclass
class TensorFile(ABC):
    """Named tensors on disk. ``release`` unmaps what was read; tensors already handed out stay valid.

    ``places`` says where a tensor's numbers lie, for those that lie there plainly.
    """

    path: Path
    tensors: dict[str, TensorInfo] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    places: dict[str, Place] = field(default_factory=dict)

    @abstractmethod
    def read(self, name: str) -> torch.Tensor:
        """One tensor; where the format allows, a copy-on-write view of the mapped file. GGUF: dequantised float32."""

    def read_rows(self, name: str, rows: slice) -> torch.Tensor:
        """Some rows (along the first axis) of one tensor; all of it for ``slice(None)``."""
        value = self.read(name)
        return value if rows == slice(None) else value[rows]

    def numbers(self, name: str, start: int, count: int) -> np.ndarray:
        """``count`` numbers of a tensor, flattened, from number ``start`` on: float32, without scales of 8-bit weights."""
        if name in self.places:
            return self.places[name].numbers(start, count)
        flat: np.ndarray = self.read(name).reshape(-1)[start : start + count].float().numpy()
        return flat

    def release(self) -> None:  # noqa: B027  (nothing to drop is a valid answer)
        """Forget open mappings, so that their pages no longer count as this process's memory."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor's numbers lie, one after the other in C order: a file, the first byte, torch's name of the type."""

    path: Path
    offset: int
    number: str

    def numbers(self, start: int, count: int) -> np.ndarray:
        """``count`` numbers from number ``start`` on as float32, exactly (float64 and large integers are rounded)."""
        size = ITEM_SIZES[self.number]
        with open(self.path, "rb", buffering=0) as file:
            content = os.pread(file.fileno(), count * size, self.offset + start * size)
        if len(content) != count * size:
            raise InputError(f"{self.path} is cut off: it ends before byte {self.offset + (start + count) * size}.")
        return as_float32(content, self.number)


def as_float32(content: bytes, number: str) -> np.ndarray:
    """Little-endian numbers of a type that torch has, as float32 (N,)."""
    if number == "bfloat16":
        return (np.frombuffer(content, "<u2").astype(np.uint32) << 16).view(np.float32)
    if number in FP8:
        return _FP8_VALUES[number][np.frombuffer(content, np.uint8)]
    plain = {"bool": "?"}.get(number, number)
    return np.frombuffer(content, np.dtype(plain).newbyteorder("<")).astype(np.float32)


def _fp8_values(exponent_bits: int, mantissa_bits: int, bias: int) -> np.ndarray:
    """The 256 values of a float8 format, by their byte (infinities and NaN as the format has them)."""
    codes = np.arange(256)
    sign = np.where(codes & 0x80, -1.0, 1.0)
    exponent = (codes >> mantissa_bits) & (2**exponent_bits - 1)
    mantissa = (codes & (2**mantissa_bits - 1)) / 2**mantissa_bits
    values = sign * np.where(exponent == 0, mantissa * 2.0 ** (1 - bias), (1 + mantissa) * 2.0 ** (exponent - bias))
    return values.astype(np.float32)


_FP8_VALUES = {"float8_e4m3fn": _fp8_values(4, 3, 7), "float8_e5m2": _fp8_values(5, 2, 15)}
_FP8_VALUES["float8_e4m3fn"][[0x7F, 0xFF]] = np.nan
_FP8_VALUES["float8_e5m2"][[0x7C, 0xFC]] = np.inf, -np.inf
_FP8_VALUES["float8_e5m2"][[0x7D, 0x7E, 0x7F, 0xFD, 0xFE, 0xFF]] = np.nan


# ---- safetensors --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SafetensorsEntry:
    """One tensor in the header of a safetensors file; ``data_offsets`` count from the end of the header."""

    shape: Annotated[tuple[Annotated[int, Between(0, 2**48)], ...], Between(0, 8)]
    dtype: str
    data_offsets: tuple[int, int] = (0, 0)


@dataclass(frozen=True, slots=True)
class SafetensorsHeader:
    """The header of a safetensors file: its tensors by name, its strings, and where the data begins and the file ends."""

    path: Path
    entries: Mapping[str, SafetensorsEntry]
    metadata: Mapping[str, str]
    data: int
    size: int

    def check_places(self) -> None:
        """Raises InputError where the tensors do not lie one after the other from the header to the end of the file."""
        place = 0
        for name, entry in sorted(self.entries.items(), key=lambda item: item[1].data_offsets):
            begin, end = entry.data_offsets
            size = ITEM_SIZES.get(SAFETENSORS_TYPES.get(entry.dtype, ""))
            if begin != place or end < begin or (size is not None and end - begin != size * math.prod(entry.shape)):
                raise InputError(
                    f"{self.path} is not a readable safetensors file: tensor {short(name)} is misplaced in it."
                )
            place = end
        if self.data + place != self.size:
            raise InputError(
                f"{self.path} is not a readable safetensors file: it has {self.size} bytes, and its header describes "
                f"{self.data + place}."
            )


def safetensors_header(path: Path) -> SafetensorsHeader:
    """Reads the header of a safetensors file.

    Raises InputError where it is not what it must be: a table of names, each with type, shape and place.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with open(descriptor, "rb") as file:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode):
            raise InputError(f"{path} is not a regular file.")
        length = int.from_bytes(file.read(8), "little")
        if length > facts.st_size - 8:
            raise InputError(f"{path} is not a readable safetensors file: it is cut short in its header.")
        DOCUMENT_BYTES.check(length, f"the header of {path}")
        header = parse_json(file.read(length).rstrip(b" \0"), dict[str, Any], f"the header of {path}")
    MEMBERS.check(len(header), f"the header of {path}")
    where = f"the header of {path}"
    entries = {
        name: decode(entry, SafetensorsEntry, where, name, unknown=True)
        for name, entry in header.items()
        if name != "__metadata__"
    }
    words = header.get("__metadata__") or {}
    return SafetensorsHeader(
        path, entries, decode(words, dict[str, str], where, "__metadata__"), 8 + length, facts.st_size
    )
