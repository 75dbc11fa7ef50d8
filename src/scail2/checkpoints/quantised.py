"""8-bit weights with scales, as ComfyUI writes them: which companions belong to which weight, and what is refused.

A weight's scale is a tensor of its own (`.scale_weight`, or `.weight_scale` in newer files), one number or one per row;
`scaled_fp8` (once per file) or `.comfy_quant` (per layer, JSON as bytes) mark the format.
"""

from typing import Any

from scail2.checkpoints.stored import EIGHT_BIT, TensorFile, TensorInfo
from scail2.checkpoints.tensor_files import GgufFile
from scail2.errors import InputError, short
from scail2.files.documents import decode, parse_json

# Companions of an 8-bit weight. Input scales matter only to kernels that also quantise activations.
_SCALE_LEAVES = ("scale_weight", "weight_scale")
_INPUT_SCALE_LEAVES = ("scale_input", "input_scale")
_MARKER_LEAF = "comfy_quant"
_FILE_MARKER = "scaled_fp8"
_MARKER_BYTES = 1 << 16
_READABLE_MARKERS = ("float8_e4m3fn", "float8_e5m2", "int8_tensorwise", "int8_rowwise")
# Words of a marker that say nothing about the values of the weights.
_HARMLESS_WORDS = {"format", "full_precision_matrix_mult"}


def companions(file: TensorFile) -> tuple[dict[str, str], set[str]]:
    """Scales by the weight they belong to, and all names that are no weights themselves.

    Raises:
        InputError: some weight is quantised in a way that cannot be undone exactly here (mxfp8, nvfp4, blocks).
    """
    scales: dict[str, str] = {}
    markers: set[str] = set()
    for name in file.tensors:
        module, _, leaf = name.rpartition(".")
        if leaf in _SCALE_LEAVES:
            scales[f"{module}.weight"] = name
            markers.add(name)
        elif leaf in _INPUT_SCALE_LEAVES or leaf == _FILE_MARKER:
            markers.add(name)
        elif leaf == _MARKER_LEAF:
            _check_marker(file, name)
            markers.add(name)
    for name, info in file.tensors.items():
        if name not in markers:
            _check_stored(file, name, info, scales)
    return scales, markers


def _check_marker(file: TensorFile, name: str) -> None:
    if file.tensors[name].nbytes > _MARKER_BYTES:
        raise InputError(f"{file.path}: the quantisation marker '{name}' is of {file.tensors[name].nbytes} bytes.")
    where = f"the quantisation marker '{name}' of {file.path}"
    content = file.numbers(name, 0, file.tensors[name].count)
    marker = parse_json(content.astype("uint8").tobytes(), dict[str, Any], where)
    kind = decode(marker.get("format"), str, where, "format")
    if kind not in _READABLE_MARKERS:
        raise _unsupported(file, name, kind)
    if kind.startswith("int8") and (more := sorted(marker.keys() - _HARMLESS_WORDS)):
        raise _unsupported(file, name, f"{kind} with {', '.join(map(short, more))}")


def _check_stored(file: TensorFile, name: str, info: TensorInfo, scales: dict[str, str]) -> None:
    if isinstance(file, GgufFile) or not name.endswith("weight"):
        return
    scale = scales.get(name)
    if not (info.is_floating or (info.number == "int8" and scale is not None)):
        raise _unsupported(file, name, info.format)
    if info.number not in EIGHT_BIT:
        if scale is not None and file.tensors[scale].shape not in ((), (1,)):
            raise _unsupported(file, name, f"{info.format} with a scale of shape {file.tensors[scale].shape}")
        return
    if scale is None:
        if any(stored.rpartition(".")[2] == _FILE_MARKER for stored in file.tensors):
            raise InputError(f"{file.path}: the 8-bit weight '{name}' has no scale beside it.")
        return
    stored = file.tensors[scale]
    rows = info.shape[0]
    if not stored.is_floating or stored.shape not in ((), (1,), (rows,), (rows, 1)):
        raise _unsupported(file, name, f"block-scaled (mxfp8-like) {info.format}, scale {stored.format} {stored.shape}")


def _unsupported(file: TensorFile, name: str, kind: str) -> InputError:
    return InputError(
        f"{file.path}: '{name}' is stored as {kind}; of ComfyUI's quantised files fp8 and int8 with one scale per tensor or row "
        "are read (not mxfp8, nvfp4, blocks or rotated weights): take the bf16, fp8-scaled or GGUF file of the same model."
    )
