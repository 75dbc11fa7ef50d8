"""PyTorch's own files as files of named tensors: read as data only, whatever they ask for."""

from __future__ import annotations

import math
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scail2.checkpoints.pickle_header import StoredTensor, read_pickle_header
from scail2.checkpoints.stored import ITEM_SIZES, TensorFile, TensorInfo
from scail2.errors import InputError, short
from scail2.files.limits import MEMBERS

if TYPE_CHECKING:
    import torch

PICKLE_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt")
# State dictionaries are found under the first of these keys, on any level, or are the file's top level. Averaged weights go
# before those they are the average of.
_STATE_KEYS = (
    "ema", "ema_state_dict", "model_ema", "ema_model", "module", "state_dict", "model_state_dict", "model", "transformer",
)  # fmt: skip
_STATE_LEVELS = 4


class PickleFile(TensorFile):
    """A PyTorch pickle, loaded with ``weights_only=True`` and mapped; state under ``module`` or at the top."""

    def __init__(self, path: Path):
        super().__init__(path)
        self._state: Mapping[str, torch.Tensor] | None = None
        header = read_pickle_header(path)
        if header is not None:
            for name, stored in _find_state(path, header, StoredTensor).items():
                size = math.prod(stored.shape) * ITEM_SIZES[stored.place.number]
                self.tensors[name] = TensorInfo(stored.shape, stored.place.number, stored.place.number, size)
                self.places[name] = stored.place
            return
        for name, value in self._loaded().items():
            _refuse_claims(path, name, value)
            number = str(value.dtype)[6:]
            self.tensors[name] = TensorInfo(tuple(value.shape), number, number, value.numel() * value.element_size())
        self.release()

    def _loaded(self) -> Mapping[str, torch.Tensor]:
        if self._state is None:
            import torch

            self._state = _find_state(self.path, load_pickle(self.path), torch.Tensor)
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
    import torch

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
        if isinstance(error, pickle.UnpicklingError):  # torch's own words advise to run what is in it
            raise InputError(
                f"{path} holds more than tensors: files that need to run code are refused; get it as safetensors."
            ) from error
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path} is damaged or cut off, or no file of PyTorch's ({reason}): get it again.") from error


def _refuse_compressed(path: Path) -> None:
    """torch stores, it never compresses: an archive that is larger inside than outside is made to fill the memory."""
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    MEMBERS.check(len(members), str(path))
    if any(each.compress_type != zipfile.ZIP_STORED or each.file_size != each.compress_size for each in members):
        raise InputError(f"{path} is compressed, which PyTorch's own files never are; save it again with torch.save.")


def _refuse_claims(path: Path, name: str, value: torch.Tensor) -> None:
    """Refuses tensors whose elements are not all stored: a few bytes could stand for terabytes."""
    import torch

    plain = value.layout is torch.strided and value.device.type == "cpu" and not value.is_quantized
    if not plain or value.numel() * value.element_size() > value.untyped_storage().nbytes():
        raise InputError(
            f"{path}: tensor {short(name)} of shape {tuple(value.shape)} is sparse, quantised, or larger than what is "
            "stored of it; save it as a plain tensor."
        )


def _find_state(path: Path, content: Any, kind: type[Any]) -> dict[str, Any]:
    """The tensors (of ``kind``) by name, from wherever in the file the state dictionary is."""
    for _ in range(_STATE_LEVELS):
        inner = [key for key in _STATE_KEYS if isinstance(content, Mapping) and isinstance(content.get(key), Mapping)]
        content = content[inner[0]] if inner else content
    if not isinstance(content, Mapping):
        raise InputError(f"{path} holds a {type(content).__name__}, not a dictionary of tensors.")
    state = {name: value for name, value in content.items() if isinstance(value, kind)}
    if strange := [name for name in state if not isinstance(name, str)]:
        raise InputError(f"{path} holds a tensor under {short(strange[0])}, where names are text.")
    if not state:
        raise InputError(f"{path} holds no tensors at its top level or under {', '.join(_STATE_KEYS)}.")
    return state
