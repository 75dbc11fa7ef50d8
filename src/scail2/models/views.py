"""A file of tensors under other names: what every loader here is made of.

A view says, for each name it offers, which stored tensor it comes from: all of it, or one of several projections that
were stored as one, times a scale if it is 8-bit. Comparing a view with a model and streaming it into one are the same
for transformers, autoencoders and encoders.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import torch

from ..errors import InputError
from .quantised import FP8, companions
from .tensor_files import GgufFile, TensorFile

# Mapped pages are dropped after this many bytes were copied out of them.
RELEASE_EVERY = 256 * 2**20
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

    def _shape(self, source: Source) -> tuple[int, ...]:
        stored = self.file.tensors[source.stored].shape
        if source.shape is not None and torch.Size(source.shape).numel() == torch.Size(stored).numel():
            return source.shape
        return (stored[0] // source.count, *stored[1:]) if source.count > 1 and stored else stored

    def __iter__(self) -> Iterator[str]:
        return iter(self.sources)

    @property
    def stored_dtype(self) -> torch.dtype | None:
        """Floating type of most of the weights; None if most are 8-bit or GGUF blocks."""
        return main_dtype(self.file)

    def dtype(self, name: str) -> torch.dtype:
        """Type in which ``read`` returns a tensor: the stored one, or float32 where it is dequantised."""
        stored = self.sources[name].stored
        dtype = self.file.tensors[stored].dtype
        return torch.float32 if dtype is None or dtype in FP8 or stored in self.scales else dtype

    def is_mapped(self, name: str) -> bool:
        """Whether ``read`` returns the mapped file's own memory rather than new memory."""
        stored = self.sources[name].stored
        dequantised = self.file.tensors[stored].dtype in (None, *FP8) or stored in self.scales
        return not dequantised and not isinstance(self.file, GgufFile)

    def read(self, name: str) -> torch.Tensor:
        """One tensor under its offered name and shape, dequantised to float32 if it has to be."""
        source = self.sources[name]
        value = self.file.read(source.stored)
        if scale_name := self.scales.get(source.stored):
            scale = self.file.read(scale_name).float().reshape(-1, *[1] * (value.ndim - 1))
            value = value.float() * scale
        elif value.dtype in FP8:
            value = value.float()
        if source.count > 1:
            value = value.chunk(source.count, dim=0)[source.index]
        return value.reshape(self.shapes[name])

    def release(self) -> None:
        """Unmap what was read so far."""
        self.file.release()


def plain_view(file: TensorFile) -> View:
    """A file under its own names, scales and markers of 8-bit files taken out."""
    scales, markers = companions(file)
    return View(file, {name: Source(name) for name in file.tensors if name not in markers}, [], scales)


def main_dtype(file: TensorFile) -> torch.dtype | None:
    """Floating type in which most bytes of a file are stored; None for 8-bit files and GGUF blocks."""
    sizes: dict[torch.dtype | None, int] = {}
    for info in file.tensors.values():
        dtype = None if isinstance(file, GgufFile) or info.dtype in FP8 else info.dtype
        sizes[dtype] = sizes.get(dtype, 0) + info.nbytes
    return max(sizes, key=sizes.get) if sizes else None


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
    tensor kept as a view would keep the whole file mapped), and the file is unmapped again and again on the way.
    """
    mapped = all(view.is_mapped(name) and view.dtype(name) == dtype for name, dtype in dtypes.items())
    copied = 0
    for name in view:
        if name not in dtypes:
            continue
        value = view.read(name)
        if mapped:
            yield name, value
            continue
        fresh = value.dtype == dtypes[name] and not view.is_mapped(name) and view.sources[name].count == 1
        value = value.contiguous() if fresh else value.to(dtypes[name], copy=True).contiguous()
        yield name, value
        copied += value.nbytes
        if copied > RELEASE_EVERY:
            view.release()
            copied = 0
    view.release()
