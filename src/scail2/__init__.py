"""scail2: end-to-end character animation with SCAIL-2."""

from importlib import import_module

__version__ = "0.1.0"

# Public name -> module that defines it. Imported on first use, so that `import scail2` and `scail2 --help` stay fast.
_EXPORTS = {
    "AnimationMode": "scail2.modes",
    "BindingSlot": "scail2.masks",
    "InputError": "scail2.errors",
    "SCAIL2Pipeline": "scail2.pipeline",
    "SCAIL2Transformer3DModel": "scail2.models.transformer",
    "SamplingPreset": "scail2.presets",
    "SegmentPlan": "scail2.segments",
    "VideoReader": "scail2.video",
    "VideoWriter": "scail2.video",
    "load_pipeline": "scail2.models.hub",
    "load_transformer": "scail2.models.checkpoints",
    "AnimationRequest": "scail2.request",
    "RunDirectory": "scail2.runs",
}

__all__ = [*sorted(_EXPORTS), "__version__"]


def __getattr__(name: str):
    if name in _EXPORTS:
        return getattr(import_module(_EXPORTS[name]), name)
    raise AttributeError(f"module 'scail2' has no attribute {name!r}")


def __dir__():
    return __all__
