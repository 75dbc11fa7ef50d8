"""Files of named tensors, read one tensor at a time: safetensors (single or sharded), PyTorch pickles, GGUF.

A reader knows every name, shape and type without touching the data, maps the data instead of loading it, and can drop
what it has mapped: converting a 30 GB file needs the result and one tensor, not the file and the result.
"""

import json
import math
import warnings
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from scail2.checkpoints.gguf_header import GgufTensor, read_gguf_header
from scail2.checkpoints.model_folder import shards_of, stored_shapes
from scail2.errors import InputError, short
from scail2.files.documents import Between, decode
from scail2.files.limits import MEMBERS
from scail2.files.staging import atomic_file

_SAFETENSORS_TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_SAFETENSORS_NAMES = {dtype: name for name, dtype in _SAFETENSORS_TYPES.items()}
# GGUF's plain numbers; everything else comes in blocks of bytes.
_GGUF_NUMBERS = {
    "F16": "float16", "F32": "float32", "F64": "float64", "I8": "int8", "I16": "int16", "I32": "int32", "I64": "int64",
}  # fmt: skip
_GGUF_TYPES = {"F32": torch.float32, "F16": torch.float16}
PICKLE_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt")
# State dictionaries are found under the first of these keys, on any level, or are the file's top level. Averaged weights go
# before those they are the average of.
_STATE_KEYS = (
    "ema", "ema_state_dict", "model_ema", "ema_model", "module", "state_dict", "model_state_dict", "model", "transformer",
)  # fmt: skip
_STATE_LEVELS = 4


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Shape and storage of one tensor; ``dtype`` is None for block formats that torch does not have (GGUF)."""

    shape: tuple[int, ...]
    dtype: torch.dtype | None
    format: str
    nbytes: int


@dataclass
class TensorFile(ABC):
    """Named tensors on disk. ``release`` unmaps what was read; tensors already handed out stay valid."""

    path: Path
    tensors: dict[str, TensorInfo] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)

    @abstractmethod
    def read(self, name: str) -> torch.Tensor:
        """One tensor; where the format allows, a copy-on-write view of the mapped file. GGUF: dequantised float32."""

    def read_rows(self, name: str, rows: slice) -> torch.Tensor:
        """Some rows (along the first axis) of one tensor; all of it for ``slice(None)``."""
        value = self.read(name)
        return value if rows == slice(None) else value[rows]

    def release(self) -> None:  # noqa: B027  (nothing to drop is a valid answer)
        """Forget open mappings, so that their pages no longer count as this process's memory."""


class SafetensorsFile(TensorFile):
    """One safetensors file, or all shards of an index (``*.safetensors.index.json``)."""

    def __init__(self, path: Path):
        super().__init__(path)
        self._shard_of: dict[str, Path] = {}
        self._open: dict[Path, Any] = {}
        for shard in self._shards():
            stored_shapes(shard)  # a header that is not plain names and shapes goes no further
            self._scan(shard)

    def _shards(self) -> list[Path]:
        return shards_of(self.path) if self.path.name.endswith(".index.json") else [self.path]

    def _scan(self, shard: Path) -> None:
        handle = self._handle(shard)
        self.metadata.update(handle.metadata() or {})
        for name in handle.keys():  # noqa: SIM118  (not a mapping)
            part = handle.get_slice(name)
            stored, shape = part.get_dtype(), tuple(part.get_shape())
            dtype = _SAFETENSORS_TYPES.get(stored)
            if name in self.tensors:
                raise InputError(f"{self.path}: tensor '{name}' is in more than one shard.")
            count = torch.Size(shape).numel()
            nbytes = count * dtype.itemsize if dtype else 0
            self.tensors[name] = TensorInfo(shape, dtype, stored, nbytes)
            self._shard_of[name] = shard
        self.release()

    def _handle(self, shard: Path) -> Any:
        if shard not in self._open:
            try:
                self._open[shard] = safe_open(shard, framework="pt")
            except (SafetensorError, OSError) as error:
                raise InputError(f"{shard} is not a readable safetensors file: {error}.") from error
        return self._open[shard]

    def read(self, name: str) -> torch.Tensor:
        try:
            return self._handle(self._shard_of[name]).get_tensor(name)
        except SafetensorError as error:
            raise InputError(f"{self._shard_of[name]}: tensor '{name}' cannot be read: {error}.") from error

    def release(self) -> None:
        self._open.clear()


class PickleFile(TensorFile):
    """A PyTorch pickle, loaded with ``weights_only=True`` and mapped; state under ``module`` or at the top."""

    def __init__(self, path: Path):
        super().__init__(path)
        self._state: Mapping[str, torch.Tensor] | None = None
        for name, value in self._loaded().items():
            _refuse_claims(path, name, value)
            count = value.numel() * value.element_size()
            self.tensors[name] = TensorInfo(tuple(value.shape), value.dtype, str(value.dtype)[6:], count)
        self.release()

    def _loaded(self) -> Mapping[str, torch.Tensor]:
        if self._state is None:
            self._state = _find_state(self.path, load_pickle(self.path))
        return self._state

    def read(self, name: str) -> torch.Tensor:
        return self._loaded()[name]

    def release(self) -> None:
        self._state = None


def load_pickle(path: Path) -> Any:
    """What a PyTorch pickle holds, tensors on the CPU: read as data only, nothing in it is run.

    Raises:
        InputError: it is damaged, needs code to be run, or its archive holds more than the file's bytes.
    """
    try:
        # Only the zip format of torch >= 1.6 can be mapped; older files are read whole.
        mapped = zipfile.is_zipfile(path)
        if mapped:
            _refuse_compressed(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch on the age of its own formats
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except InputError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"{path} cannot be read as tensors only; files that need to run code are refused: {reason}"
        ) from error


def _refuse_compressed(path: Path) -> None:
    """torch stores, it never compresses: an archive that is larger inside than outside is made to fill the memory."""
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    MEMBERS.check(len(members), str(path))
    if any(each.compress_type != zipfile.ZIP_STORED or each.file_size != each.compress_size for each in members):
        raise InputError(f"{path} is compressed, which PyTorch's own files never are; save it again with torch.save.")


def _refuse_claims(path: Path, name: str, value: torch.Tensor) -> None:
    """Refuses tensors whose elements are not all stored: a few bytes could stand for terabytes."""
    plain = value.layout is torch.strided and value.device.type == "cpu" and not value.is_quantized
    if not plain or value.numel() * value.element_size() > value.untyped_storage().nbytes():
        raise InputError(
            f"{path}: tensor {short(name)} of shape {tuple(value.shape)} is sparse, quantised, or larger than what is "
            "stored of it; save it as a plain tensor."
        )


def _find_state(path: Path, content: Any) -> Mapping[str, torch.Tensor]:
    for _ in range(_STATE_LEVELS):
        inner = [key for key in _STATE_KEYS if isinstance(content, Mapping) and isinstance(content.get(key), Mapping)]
        content = content[inner[0]] if inner else content
    if not isinstance(content, Mapping):
        raise InputError(f"{path} holds a {type(content).__name__}, not a dictionary of tensors.")
    state = {name: value for name, value in content.items() if isinstance(value, torch.Tensor)}
    if strange := [name for name in state if not isinstance(name, str)]:
        raise InputError(f"{path} holds a tensor under {short(strange[0])}, where names are text.")
    if not state:
        raise InputError(f"{path} holds no tensors at its top level or under {', '.join(_STATE_KEYS)}.")
    return state


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

    def _dequantised(self, name: str, rows: slice) -> torch.Tensor:
        stored = self._blocks[name]
        # Read, not mapped: the blocks are needed once, and a mapping would stay resident beside the result.
        start, stop, _ = rows.indices(stored.shape[0])
        row = math.prod(stored.shape[1:])
        offset = stored.offset + start * row * stored.dtype.itemsize
        blocks = np.fromfile(self.path, dtype=stored.dtype, count=(stop - start) * row, offset=offset)
        blocks = blocks.reshape(stop - start, *stored.shape[1:])
        if blocks.dtype in (np.float32, np.float16, np.float64):
            return torch.from_numpy(blocks)
        try:
            return torch.from_numpy(self._gguf.quants.dequantize(blocks, stored.type))
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
            self.tensors[key] = TensorInfo(tuple(value.shape), value.dtype, str(value.dtype)[6:], value.nbytes)

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
    header: dict[str, Any] = {"__metadata__": {"format": "pt", **(metadata or {})}}
    offset = 0
    for name, (shape, dtype) in plan.items():
        size = torch.Size(shape).numel() * dtype.itemsize
        entry = {"dtype": _SAFETENSORS_NAMES[dtype], "shape": list(shape), "data_offsets": [offset, offset + size]}
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
