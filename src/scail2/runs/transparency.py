"""A finished film's transparency: the outline of its own characters, or that of the driving masks."""

import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from scail2.errors import InputError
from scail2.perception.matte import bound_characters, find_characters, soft_edge
from scail2.perception.segmenters.asked import segmenter_for
from scail2.perception.store import MaskStore
from scail2.request.animation import AlphaMask, AnimationRequest
from scail2.request.masks import Prompts
from scail2.runs.preparation import Prepared
from scail2.video import SizedFrames

Alpha = Callable[[int, int], np.ndarray]


def identity(request: AnimationRequest, masks: Path) -> list[Any] | None:
    """What the film's transparency depends on besides its frames; None where it has none."""
    if request.alpha is AlphaMask.OFF:
        return None
    asked = [str(request.sam3), list(request.text), request.accept_mask] if request.alpha is AlphaMask.OUTPUT else []
    return [str(request.alpha), request.alpha_erode, request.alpha_feather, MaskStore(masks).content_hash(), asked]


@contextmanager
def alpha_of(request: AnimationRequest, prepared: Prepared, film: SizedFrames) -> Iterator[Alpha]:
    """Gives the film's alpha, uint8 (T, H, W), of any frames [start, stop).

    Raises:
        InputError: the finished film's characters are to be found and cannot be.
    """
    moving = prepared.masks.driving_mask
    with tempfile.TemporaryDirectory(prefix="scail2-alpha-") as scratch:
        if request.alpha is AlphaMask.OUTPUT:
            text = request.prompts[0].text
            try:
                found = find_characters(film, moving, segmenter_for(request), Prompts(text=text), Path(scratch))
            except InputError as error:
                # What it advises is for a driving video.
                told = re.split(r"[:.] ", str(error).rstrip("."), maxsplit=1)[0].replace("the driving video", "it")
                raise InputError(
                    f"The characters of the finished film cannot be told from their surroundings: {told}. Everything "
                    "rendered is kept; give the command again with --alpha driving to take the driving masks' outlines."
                ) from error
            inside = found.inside
        else:

            def inside(start: int, stop: int) -> np.ndarray:
                return bound_characters(moving.frames(start, stop))

        yield lambda start, stop: soft_edge(
            inside(start, stop), erode=request.alpha_erode, feather=request.alpha_feather
        )
