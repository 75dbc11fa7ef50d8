"""Files of named tensors, read one tensor at a time: safetensors (single or sharded), PyTorch pickles, GGUF.

A reader knows every name, shape and type without touching the data, maps the data instead of loading it, and can drop
what it has mapped: converting a 30 GB file needs the result and one tensor, not the file and the result. torch comes
in when a tensor is read; names, shapes and a few numbers of a file are had without it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np

from scail2.checkpoints.gguf_header import GgufTensor, read_gguf_header
from scail2.checkpoints.model_folder import shards_of
from scail2.checkpoints.pickle_files import PICKLE_SUFFIXES, PickleFile
from scail2.checkpoints.stored import SAFETENSORS_TYPES, Place, TensorFile, TensorInfo, safetensors_header
from scail2.errors import InputError, short
from scail2.files.documents import Between, decode
from scail2.files.staging import atomic_file

if TYPE_CHECKING:
    import torch

_SAFETENSORS_NAMES = {name: stored for stored, name in SAFETENSORS_TYPES.items()}
# GGUF's plain numbers; everything else comes in blocks of bytes.
_GGUF_NUMBERS = {
    "F16": "float16", "F32": "float32", "F64": "float64", "I8": "int8", "I16": "int16", "I32": "int32", "I64": "int64",
}  # fmt: skip
_GGUF_TYPES = {"F32": "float32", "F16": "float16"}


class SafetensorsFile(TensorFile):
    """One safetensors file, or all shards of an index (``*.safetensors.index.json``)."""

    def __init__(self, path: Path):
        super().__init__(path)
        self._shard_of: dict[str, Path] = {}
        self._open: dict[Path, Any] = {}
        for shard in shards_of(path) if path.name.endswith(".index.json") else [path]:
            self._scan(shard)

    def _scan(self, shard: Path) -> None:
        header = safetensors_header(shard)
        header.check_places()
        self.metadata.update(header.metadata)
        for name, entry in sorted(header.entries.items(), key=lambda item: item[1].data_offsets):
            if name in self.tensors:
                raise InputError(f"{self.path}: tensor '{name}' is in more than one shard.")
            number, (begin, end) = SAFETENSORS_TYPES.get(entry.dtype), entry.data_offsets
            self.tensors[name] = TensorInfo(entry.shape, number, entry.dtype, end - begin if number else 0)
            self._shard_of[name] = shard
            if number is not None:
                self.places[name] = Place(shard, header.data + begin, number)

    def _handle(self, shard: Path) -> Any:
        from safetensors import SafetensorError, safe_open

        if shard not in self._open:
            try:
                self._open[shard] = safe_open(shard, framework="pt")
            except (SafetensorError, OSError) as error:
                raise InputError(f"{shard} is not a readable safetensors file: {error}.") from error
        return self._open[shard]

    def read(self, name: str) -> torch.Tensor:
        from safetensors import SafetensorError

        try:
            return self._handle(self._shard_of[name]).get_tensor(name)
        except SafetensorError as error:
            raise InputError(f"{self._shard_of[name]}: tensor '{name}' cannot be read: {error}.") from error

    def release(self) -> None:
        self._open.clear()


@dataclass(frozen=True, slots=True)
class _Blocks:
    """Where GGUF keeps a tensor and in which blocks; ``shape`` counts bytes along the last axis if it is quantised."""

    offset: int
    type: Any
    dtype: Any
    shape: tuple[int, ...]


class GgufFile(TensorFile):
    """A GGUF file; every block type the ``gguf`` package can dequantise, one tensor at a time."""

    def __init__(self, path: Path):
        super().__init__(path)
        try:
            import gguf
        except ImportError as error:
            raise InputError("Reading GGUF needs the gguf package: pip install 'scail2[gguf]'.") from error
        self._gguf = gguf
        self._blocks: dict[str, _Blocks] = {}
        header, size = read_gguf_header(path), path.stat().st_size
        for tensor in header.tensors:
            stored, info = self._place(tensor, header.data)
            if stored.offset + info.nbytes > size:
                raise InputError(f"{path} is cut off: tensor {short(tensor.name)} ends behind its end.")
            # Converters that cannot store five dimensions note the true shape.
            noted = header.fields.get(f"comfy.gguf.orig_shape.{tensor.name}")
            if noted is not None:
                shape = decode(noted, tuple[Annotated[int, Between(0, 2**48)], ...], path, "comfy.gguf.orig_shape")
                if math.prod(shape) != math.prod(info.shape):
                    raise InputError(f"{path}: tensor {short(tensor.name)} is noted as {shape} but holds {info.shape}.")
                info = replace(info, shape=shape)
            self.tensors[tensor.name], self._blocks[tensor.name] = info, stored
        self.metadata["general.architecture"] = str(header.fields.get("general.architecture", ""))

    def _place(self, tensor: GgufTensor, data: int) -> tuple[_Blocks, TensorInfo]:
        try:
            kind = self._gguf.GGMLQuantizationType(tensor.type)
            block, nbytes = self._gguf.GGML_QUANT_SIZES[kind]
        except (ValueError, KeyError):
            raise InputError(
                f"{self.path}: tensor {short(tensor.name)} has block type {tensor.type}, which is unknown."
            ) from None
        rows, last = tensor.shape[:-1], tensor.shape[-1]
        if last % block:
            raise InputError(
                f"{self.path}: rows of tensor {short(tensor.name)} are {last} long, no multiple of {kind.name}'s blocks "
                f"({block})."
            )
        number = _GGUF_NUMBERS.get(kind.name)
        shape = (*rows, last if number else last // block * nbytes)
        info = TensorInfo(
            tensor.shape, _GGUF_TYPES.get(kind.name), kind.name, math.prod(rows) * (last // block) * nbytes
        )
        return _Blocks(data + tensor.offset, kind, np.dtype(number or "uint8"), shape), info

    def read(self, name: str) -> torch.Tensor:
        return self._dequantised(name, slice(None)).reshape(self.tensors[name].shape)

    def read_rows(self, name: str, rows: slice) -> torch.Tensor:
        shape = self.tensors[name].shape
        stored = self._blocks[name].shape
        if rows == slice(None) or stored[:1] != shape[:1] or len(stored) < 2:
            return super().read_rows(name, rows)
        return self._dequantised(name, rows).reshape(-1, *shape[1:])

    def block_type(self, name: str) -> Any:
        """The ``gguf`` package's name for a tensor's blocks."""
        return self._blocks[name].type

    def blocks(self, name: str) -> torch.Tensor:
        """A quantised tensor's blocks as they are: uint8 (rows, bytes of a row)."""
        import torch

        stored = self._blocks[name]
        count = math.prod(stored.shape)
        raw = np.fromfile(self.path, dtype=stored.dtype, count=count, offset=stored.offset)
        return torch.from_numpy(raw.reshape(stored.shape))

    def numbers(self, name: str, start: int, count: int) -> np.ndarray:
        """See `TensorFile.numbers`: whole rows are dequantised, of which a few are all that anybody asks for."""
        stored = self._blocks[name]
        rows = math.prod(stored.shape[:-1])
        flat = replace(stored, shape=(rows, stored.shape[-1]))
        # Rows are as they are stored; a noted shape may have others.
        row = max(1, self.tensors[name].count // max(1, rows))
        first, last = start // row, -(-(start + count) // row)
        found = self._values(name, flat, slice(first, last)).astype(np.float32).ravel()
        return found[start - first * row :][:count]

    def _dequantised(self, name: str, rows: slice) -> torch.Tensor:
        import torch

        return torch.from_numpy(self._values(name, self._blocks[name], rows))

    def _values(self, name: str, stored: _Blocks, rows: slice) -> np.ndarray:
        # Read, not mapped: the blocks are needed once, and a mapping would stay resident beside the result.
        start, stop, _ = rows.indices(stored.shape[0])
        row = math.prod(stored.shape[1:])
        offset = stored.offset + start * row * stored.dtype.itemsize
        blocks = np.fromfile(self.path, dtype=stored.dtype, count=(stop - start) * row, offset=offset)
        blocks = blocks.reshape(stop - start, *stored.shape[1:])
        if blocks.dtype in (np.float32, np.float16, np.float64):
            return blocks
        try:
            return self._gguf.quants.dequantize(blocks, stored.type)
        except NotImplementedError as error:
            raise InputError(
                f"{self.path}: tensor '{name}' has block type {stored.type.name}, which gguf cannot dequantise."
            ) from error


class StateDict(TensorFile):
    """Tensors that are in memory already, behind the same interface."""

    def __init__(self, state: Mapping[str, torch.Tensor], name: str = "state dictionary"):
        super().__init__(Path(name))
        self._state = state
        for key, value in state.items():
            self.tensors[key] = TensorInfo(tuple(value.shape), str(value.dtype)[6:], str(value.dtype)[6:], value.nbytes)

    def read(self, name: str) -> torch.Tensor:
        return self._state[name]


def open_tensor_file(path: str | Path) -> TensorFile:
    """Opens a weight file, an index of shards, or the one weight file (or index) of a folder.

    Raises:
        InputError: the path does not exist, is of an unknown kind, or a folder without exactly one set of weights.
    """
    path = Path(path)
    if path.is_dir():
        path = _weights_in(path)
    if not path.is_file():
        if path.exists():
            raise InputError(f"{path} is a pipe or device, not a file or folder.")
        raise InputError(f"There is no file or folder {path}.")
    if path.name.endswith((".safetensors", ".safetensors.index.json")):
        return SafetensorsFile(path)
    if path.suffix == ".gguf":
        return GgufFile(path)
    if path.suffix in PICKLE_SUFFIXES:
        return PickleFile(path)
    raise InputError(f"{path} is not a weight file: expected .safetensors, .gguf, or {', '.join(PICKLE_SUFFIXES)}.")


def _weights_in(folder: Path) -> Path:
    indices = sorted(folder.glob("*.safetensors.index.json"))
    candidates = indices or sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.gguf"))
    if len(candidates) != 1:
        found = ", ".join(path.name for path in candidates) or "none"
        raise InputError(f"{folder} should hold exactly one set of weights but has {found}: name the file itself.")
    return candidates[0]


# ---- writing ------------------------------------------------------------------------------------------------------


def write_safetensors(
    path: Path,
    plan: Mapping[str, tuple[tuple[int, ...], torch.dtype]],
    read: Callable[[str, torch.dtype], torch.Tensor],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes a safetensors file tensor by tensor: memory for one tensor, and nothing at ``path`` until it is complete.

    Args:
        path: the file to make; an existing file is replaced at the end.
        plan: name -> shape and dtype, in the order of the file.
        read: name and dtype -> tensor, cast here if it is of another type. A different shape raises RuntimeError.
        metadata: strings for the header.
    """
    import torch

    header: dict[str, Any] = {"__metadata__": {"format": "pt", **(metadata or {})}}
    offset = 0
    for name, (shape, dtype) in plan.items():
        size = math.prod(shape) * dtype.itemsize
        entry = {
            "dtype": _SAFETENSORS_NAMES[str(dtype)[6:]],
            "shape": list(shape),
            "data_offsets": [offset, offset + size],
        }
        header[name], offset = entry, offset + size
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    with atomic_file(path) as file:
        file.write(len(encoded).to_bytes(8, "little"))
        file.write(encoded)
        for name, (shape, dtype) in plan.items():
            tensor = read(name, dtype)
            if tuple(tensor.shape) != tuple(shape):
                raise RuntimeError(f"'{name}' was planned as {shape} but read as {tuple(tensor.shape)}")
            data = tensor.detach().to("cpu", dtype).contiguous()
            file.write(data.reshape(-1).view(torch.uint8).numpy())


def total_bytes(infos: Iterable[TensorInfo]) -> int:
    """Bytes of the tensors as stored."""
    return sum(info.nbytes for info in infos)
