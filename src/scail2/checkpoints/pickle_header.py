"""What a PyTorch file holds, read from its index alone: names, shapes, types and places of tensors, without torch.

The index is a pickle. Of what pickles can ask for, the handful of things that plain dictionaries of tensors are made of
is understood here and nothing is run; whatever else there is makes the answer None, and the file is torch's to judge.
"""

from __future__ import annotations

import errno
import io
import math
import pickle
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scail2.checkpoints.stored import ITEM_SIZES, Place
from scail2.files.limits import DOCUMENT_BYTES, MEMBERS

_STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "Float8_e4m3fnStorage": "float8_e4m3fn",
    "Float8_e5m2Storage": "float8_e5m2",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
}
_LOCAL_HEADER = 30


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor in a PyTorch file: every number of it is stored, one after the other, at ``place``."""

    shape: tuple[int, ...]
    place: Place


class _Unknown(Exception):  # noqa: N818  (an answer, not an error)
    """Something in the index that is not understood here."""


class _Table(dict[Any, Any]):
    """A dictionary that takes attributes, as the state dictionaries of modules have them."""


class _Index(pickle._Unpickler):
    """Reads an index in Python: the faster reader reserves memory for whatever place a pickle names."""

    def __init__(self, content: bytes, members: Mapping[str, Place], sizes: Mapping[str, int]):
        super().__init__(io.BytesIO(content))
        self._members, self._sizes = members, sizes

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return _Table
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return lambda tensor, *_: tensor
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        raise _Unknown

    def persistent_load(self, pid: Any) -> tuple[Place, int]:
        kind, number, key, _, _ = pid
        if kind != "storage" or number not in ITEM_SIZES:
            raise _Unknown
        return Place(self._members[key].path, self._members[key].offset, number), self._sizes[key]


def _rebuild(storage: tuple[Place, int], offset: int, shape: Any, strides: Any, *_: Any) -> StoredTensor:
    (place, stored), sizes, wanted = storage, tuple(shape), 1
    for size, stride in zip(reversed(sizes), reversed(tuple(strides)), strict=True):
        if size != 1 and stride != wanted:
            raise _Unknown
        wanted *= size
    if offset < 0 or min(sizes, default=0) < 0 or (offset + math.prod(sizes)) * ITEM_SIZES[place.number] > stored:
        raise _Unknown
    return StoredTensor(sizes, Place(place.path, place.offset + offset * ITEM_SIZES[place.number], place.number))


def read_pickle_header(path: Path) -> Any | None:
    """The content of a PyTorch file with a `StoredTensor` for each tensor; None where that cannot be said without torch."""
    try:
        with zipfile.ZipFile(path) as archive, path.open("rb") as file:
            infos = archive.infolist()
            MEMBERS.check(len(infos), str(path))
            index = next((each for each in infos if each.filename.endswith("/data.pkl")), None)
            if index is None or index.file_size > DOCUMENT_BYTES.value:
                return None
            root = index.filename.removesuffix("data.pkl")
            if f"{root}byteorder" in archive.namelist() and archive.read(f"{root}byteorder") != b"little":
                return None
            stored = [each for each in infos if each.filename.startswith(f"{root}data/")]
            if any(each.compress_type != zipfile.ZIP_STORED or each.file_size != each.compress_size for each in infos):
                return None
            members = {each.filename.removeprefix(f"{root}data/"): _place(path, file, each) for each in stored}
            sizes = {each.filename.removeprefix(f"{root}data/"): each.file_size for each in stored}
            content = archive.read(index)
        return _Index(content, members, sizes).load()
    except OSError as error:
        if error.errno != errno.EINVAL:  # that is a damaged archive's place before its own beginning
            raise
        return None
    except Exception:  # a damaged archive or pickle fails in many ways; torch says what is wrong with it
        return None


def _place(path: Path, file: io.BufferedReader, member: zipfile.ZipInfo) -> Place:
    """Where the bytes of an archive's member begin: behind its own header, whose length only that header tells."""
    file.seek(member.header_offset)
    name, extra = struct.unpack("<HH", file.read(_LOCAL_HEADER)[26:])
    return Place(path, member.header_offset + _LOCAL_HEADER + name + extra, "uint8")
