"""From pictures, videos and masks to a film: the pipeline's door; everything else lies in the modules beside it.

``SCAIL2Pipeline`` is imported when it is first asked for: presets and options are read without it.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scail2.pipeline.pipeline import SCAIL2Pipeline

__all__ = ["SCAIL2Pipeline"]


if not TYPE_CHECKING:  # for whoever sees this function, every name exists

    def __getattr__(name: str) -> Any:
        if name == "SCAIL2Pipeline":
            from scail2.pipeline.pipeline import SCAIL2Pipeline

            return SCAIL2Pipeline
        raise AttributeError(f"module 'scail2.pipeline' has no attribute {name!r}")
