"""A file of tensors under other names: what every loader here is made of.

A view says, for each name it offers, which stored tensor it comes from: all of it, or one of several projections that
were stored as one, times a scale if it is 8-bit. Comparing a view with a model and streaming it into one are the same
for transformers, autoencoders and encoders.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from scail2.checkpoints.quantised import companions
from scail2.checkpoints.stored import EIGHT_BIT, FP8, TensorFile
from scail2.checkpoints.tensor_files import GgufFile
from scail2.errors import InputError

if TYPE_CHECKING:
    import torch

# Elements copied at a time, and between two unmappings: 64 MiB of float32.
PIECE = 2**24
_LISTED = 40  # names of one kind shown in an error


@dataclass(frozen=True, slots=True)
class Source:
    """Part ``index`` of ``count`` equal parts of a stored tensor along its first axis, in shape ``shape`` if given."""

    stored: str
    index: int = 0
    count: int = 1
    shape: tuple[int, ...] | None = None


@dataclass
class View:
    """Tensors of ``file`` under the names in ``sources``.

    Attributes:
        file: the file.
        sources: offered name -> where it comes from.
        unexpected: stored names that nobody asked for; a strict comparison reports them.
    """

    file: TensorFile
    sources: dict[str, Source]
    unexpected: list[str]
    scales: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.shapes = {name: self._shape(source) for name, source in self.sources.items()}
        self._copied = 0

    def _shape(self, source: Source) -> tuple[int, ...]:
        stored = self.file.tensors[source.stored].shape
        if source.shape is not None and math.prod(source.shape) == math.prod(stored):
            return source.shape
        return (stored[0] // source.count, *stored[1:]) if source.count > 1 and stored else stored

    def __iter__(self) -> Iterator[str]:
        return iter(self.sources)

    @property
    def stored_dtype(self) -> torch.dtype | None:
        """Floating type of most of the weights; None if most are 8-bit or GGUF blocks. Imports torch."""
        import torch

        number = main_number(self.file)
        return None if number is None else getattr(torch, number)

    def dtype(self, name: str) -> torch.dtype:
        """Type in which ``read`` returns a tensor: the stored one, or float32 where it is dequantised."""
        import torch

        stored = self.sources[name].stored
        return torch.float32 if self._is_dequantised(stored) else self.file.tensors[stored].dtype

    def is_mapped(self, name: str) -> bool:
        """Whether ``read`` returns the mapped file's own memory rather than new memory."""
        return not self._is_dequantised(self.sources[name].stored) and not isinstance(self.file, GgufFile)

    def _is_dequantised(self, stored: str) -> bool:
        return self.file.tensors[stored].number in (None, *FP8) or stored in self.scales

    def read(self, name: str) -> torch.Tensor:
        """One tensor under its offered name and shape, dequantised to float32 if it has to be."""
        return self._read_rows(name, slice(None)).reshape(self.shapes[name])

    def load(self, name: str, dtype: torch.dtype) -> torch.Tensor:
        """One tensor in new memory and in ``dtype``, copied piece by piece: a piece is all it needs beside the result.

        What the file has mapped is dropped again and again on the way, so that it does not pile up.
        """
        import torch

        shape = self.shapes[name]
        whole = not shape or self.sources[name].shape is not None
        rows = 1 if whole else max(1, PIECE // max(1, math.prod(shape[1:])))
        result = torch.empty(shape, dtype=dtype)
        for start in range(0, 1 if whole else shape[0], rows):
            if whole:
                result.copy_(self.read(name))
            else:
                result[start : start + rows] = self._read_rows(name, slice(start, min(start + rows, shape[0])))
            self._copied += rows * math.prod(shape[1:])
            if self._copied > PIECE:
                self.release()
        return result

    def _read_rows(self, name: str, rows: slice) -> torch.Tensor:
        source = self.sources[name]
        if source.count > 1:
            offset = source.index * self.shapes[name][0]
            start = offset + (rows.start or 0)
            rows = slice(start, offset + (self.shapes[name][0] if rows.stop is None else rows.stop))
        value = self.file.read_rows(source.stored, rows)
        if scale_name := self.scales.get(source.stored):
            scale = self.file.read(scale_name).float().reshape(-1, *[1] * (value.ndim - 1))
            return value.float() * (scale[rows] if len(scale) > 1 else scale)
        return value.float() if self.file.tensors[source.stored].number in FP8 else value

    def numbers(self, name: str, start: int, count: int) -> np.ndarray:
        """``count`` numbers of a tensor, flattened, from number ``start`` on: float32, dequantised. Needs no torch."""
        source = self.sources[name]
        first = start + source.index * math.prod(self.shapes[name])
        values = self.file.numbers(source.stored, first, count)
        if scale_name := self.scales.get(source.stored):
            scale = self.file.numbers(scale_name, 0, self.file.tensors[scale_name].count)
            row = math.prod(self.file.tensors[source.stored].shape[1:])
            values = values * (scale[(first + np.arange(count)) // row] if len(scale) > 1 else scale)
        return values

    def release(self) -> None:
        """Unmap what was read so far."""
        self._copied = 0
        self.file.release()


def plain_view(file: TensorFile) -> View:
    """A file under its own names, scales and markers of 8-bit files taken out."""
    scales, markers = companions(file)
    return View(file, {name: Source(name) for name in file.tensors if name not in markers}, [], scales)


def main_number(file: TensorFile) -> str | None:
    """Floating type, by torch's name, in which most bytes of a file are stored; None for 8-bit files and GGUF blocks."""
    sizes: dict[str | None, int] = {}
    for info in file.tensors.values():
        number = None if isinstance(file, GgufFile) or info.number in EIGHT_BIT else info.number
        if number is not None and not info.is_floating:
            continue  # position indices, a packed tokenizer
        sizes[number] = sizes.get(number, 0) + info.nbytes
    return max(sizes, key=lambda number: sizes[number]) if sizes else None


def compare(view: View, wanted: Mapping[str, tuple[int, ...]], what: str) -> None:
    """Compares names and shapes with the wanted ones; raises InputError listing every difference."""
    missing = [name for name in wanted if name not in view.shapes]
    unexpected = [*view.unexpected, *(name for name in view.shapes if name not in wanted)]
    misshapen = [
        f"{name} {view.shapes[name]} instead of {wanted[name]}"
        for name in wanted
        if name in view.shapes and view.shapes[name] != wanted[name]
    ]
    kinds = {"missing": missing, "unexpected": unexpected, "misshapen": misshapen}
    if found := [f"{len(listed)} {kind}: {_listing(listed)}" for kind, listed in kinds.items() if listed]:
        raise InputError(f"{view.file.path} does not fit {what}; {'; '.join(found)}.")


def _listing(listed: list[str]) -> str:
    rest = f" and {len(listed) - _LISTED} more" if len(listed) > _LISTED else ""
    return ", ".join(listed[:_LISTED]) + rest


def stream(view: View, dtypes: Mapping[str, torch.dtype]) -> Iterable[tuple[str, torch.Tensor]]:
    """All tensors named in ``dtypes``, in those types, in the file's order: each is read once and on its own.

    If nothing has to be cast, the tensors are copy-on-write views of the mapped file. Otherwise all are new memory (one
    tensor kept as a view would keep the whole file mapped); see `View.load`.
    """
    mapped = all(view.is_mapped(name) and view.dtype(name) == dtype for name, dtype in dtypes.items())
    for name in view:
        if name in dtypes:
            yield name, view.read(name) if mapped else view.load(name, dtypes[name])
    view.release()
