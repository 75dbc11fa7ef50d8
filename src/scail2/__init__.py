"""scail2: end-to-end character animation with SCAIL-2."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the same names for type checkers and editors, which do not look into the table below
    from scail2.errors import InputError as InputError
    from scail2.loading.by_name import load_pipeline as load_pipeline
    from scail2.loading.components import load_transformer as load_transformer
    from scail2.masks import BindingSlot as BindingSlot
    from scail2.models.transformer import SCAIL2Transformer3DModel as SCAIL2Transformer3DModel
    from scail2.modes import AnimationMode as AnimationMode
    from scail2.pipeline import SCAIL2Pipeline as SCAIL2Pipeline
    from scail2.request.animation import AnimationRequest as AnimationRequest
    from scail2.request.presets import SamplingPreset as SamplingPreset
    from scail2.runs import RunDirectory as RunDirectory
    from scail2.segments import SegmentPlan as SegmentPlan
    from scail2.serving.client import Client as Client
    from scail2.video import VideoReader as VideoReader
    from scail2.video import VideoWriter as VideoWriter
    from scail2.video import read_image as read_image

__version__ = "0.1.0"

# Public name -> module that defines it. Imported on first use, so that `import scail2` and `scail2 --help` stay fast.
_EXPORTS = {
    "AnimationMode": "scail2.modes",
    "AnimationRequest": "scail2.request.animation",
    "BindingSlot": "scail2.masks",
    "Client": "scail2.serving.client",
    "InputError": "scail2.errors",
    "RunDirectory": "scail2.runs",
    "SCAIL2Pipeline": "scail2.pipeline",
    "SCAIL2Transformer3DModel": "scail2.models.transformer",
    "SamplingPreset": "scail2.request.presets",
    "SegmentPlan": "scail2.segments",
    "VideoReader": "scail2.video",
    "VideoWriter": "scail2.video",
    "load_pipeline": "scail2.loading.by_name",
    "load_transformer": "scail2.loading.components",
    "read_image": "scail2.video",
}

__all__ = [*sorted(_EXPORTS), "__version__"]


if not TYPE_CHECKING:  # for whoever sees this function, every name exists

    def __getattr__(name: str) -> Any:
        if name in _EXPORTS:
            return getattr(import_module(_EXPORTS[name]), name)
        raise AttributeError(f"module 'scail2' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
